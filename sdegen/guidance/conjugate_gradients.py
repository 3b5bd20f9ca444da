"""Solvers of linear equations for every row of a batch, with maps given by their products: `conjugate_gradients` for maps that
are symmetric and positive, `minimal_residuals` for maps that ought to be, such as a covariance by the derivative of a network.
"""

from __future__ import annotations

__all__ = ["Map", "conjugate_gradients", "minimal_residuals"]

from collections.abc import Callable

import torch
from torch import Tensor

from ..laws.operators import rows
from ..laws.vectors import dot

Map = Callable[[Tensor], Tensor]

SLACK = 1e-3  # of the least eigenvalue, for rounding
SKEW = 0.3  # the largest difference of ``rᵀ M q`` and ``qᵀ M r``, in units of ``√(rᵀ M r · qᵀ M q)``


def conjugate_gradients(product: Map, b: Tensor, iterations: int | None = None) -> Tensor:
    """Solve ``M u = b`` row by row, for a symmetric positive `M` given as ``product(u) = M u``, and return `u`.

    Parameters
    ----------
    product
        Returns ``M u`` for `u` of shape ``(B, *)``.
    b
        The right-hand sides, ``(B, *)``.
    iterations
        The number of iterations; by default that of the numbers in a row, at most 30. Rows that are solved stay as they are.
    """
    m, eps = b[0].numel(), torch.finfo(b.dtype).eps
    u, r = torch.zeros_like(b), b
    p, size = r, dot(r, r)
    least = eps**2 * size
    for _ in range(min(m, 30) if iterations is None else iterations):
        Mp = product(p)
        curved = dot(p, Mp)
        # Rows that are solved stay, and so do those where M sees nothing of what is left (a direction measured twice).
        active = (size > least) & (curved > 10 * eps * dot(p, p))
        if not active.any():
            break
        # Quotients of rows that stay may be of zeros, and their derivatives would be NaN.
        step = torch.where(active, size, 0.0) / torch.where(active, curved, 1.0)
        u, r = u + rows(step, u) * p, r - rows(step, r) * Mp
        after = dot(r, r)
        p = r + rows(torch.where(active, after, 0.0) / torch.where(active, size, 1.0), r) * p
        size = after
    return u


def minimal_residuals(product: Map, b: Tensor, iterations: int | None = None, least: float = 0.0) -> Tensor:
    """Solve ``M u = b`` row by row, for a map that ought to be symmetric with no eigenvalue below `least`, and return `u`.

    Of all combinations of ``b, M b, M² b, ...`` it takes the one with the least ``‖b − M u‖``, which never grows, whatever the
    map. A row stays as it is as soon as the map is not of this kind along the residual `r`: if ``rᵀ M r < least rᵀ r``, or if
    ``rᵀ M q`` and ``qᵀ M r`` with an earlier residual `q` differ by more than 0.3 of ``√(rᵀ M r · qᵀ M q)``. There the map is
    dominated by its errors, and its inverse may be of any size. S. Eisenstat, H. Elman, M. Schultz, *Variational iterative
    methods for nonsymmetric systems of linear equations*, 1983 (generalised conjugate residuals).

    Parameters
    ----------
    product
        Returns ``M u`` for `u` of shape ``(B, *)``.
    b
        The right-hand sides, ``(B, *)``.
    iterations
        The number of iterations; by default that of the numbers in a row, at most 30. Rows that are solved stay as they are.
    least
        The smallest eigenvalue that the map ought to have.

    Examples
    --------
    >>> minimal_residuals(lambda u: u * torch.tensor([1.0, 4.0]), torch.tensor([[1.0, 1.0]]))
    tensor([[1.0000, 0.2500]])
    """
    m, eps = b[0].numel(), torch.finfo(b.dtype).eps
    u, r = torch.zeros_like(b), b
    solved, sound = eps**2 * dot(b, b), torch.ones(len(b), dtype=torch.bool, device=b.device)
    asked: list[tuple[Tensor, Tensor, Tensor]] = []  # residuals, their products, and how the map curves along them
    basis: list[tuple[Tensor, Tensor]] = []  # steps, whose products are orthonormal
    for _ in range(min(m, 30) if iterations is None else iterations):
        step, image = r, product(r)
        curved = dot(r, image)
        sound = sound & (curved >= (1 - SLACK) * least * dot(r, r)) & (curved > 10 * eps * dot(r, r))
        for q, Mq, bent in asked:
            sound = sound & ((dot(q, image) - dot(r, Mq)).abs() <= SKEW * (bent * curved).clamp_min(0).sqrt())
        asked.append((r, image, curved))
        size = dot(image, image)
        for _ in range(2):  # a second time, since rounding leaves something
            for p, Mp in basis:
                along = dot(Mp, image)
                step, image = step - rows(along, step) * p, image - rows(along, image) * Mp
        left = dot(image, image)
        active = sound & (dot(r, r) > solved) & (left > (10 * eps) ** 2 * size)
        if not active.any():
            break
        unit = torch.where(active, torch.where(active, left, 1.0).rsqrt(), 0.0)
        step, image = rows(unit, step) * step, rows(unit, image) * image
        basis.append((step, image))
        along = dot(image, r)
        u, r = u + rows(along, u) * step, r - rows(along, r) * image
    return u
