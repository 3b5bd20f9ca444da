"""The method of conjugate gradients for symmetric positive linear maps, for every row of a batch."""

from __future__ import annotations

__all__ = ["Map", "conjugate_gradients", "dot"]

from collections.abc import Callable

import torch
from torch import Tensor

from ..laws.operators import rows

Map = Callable[[Tensor], Tensor]


def conjugate_gradients(product: Map, b: Tensor, iterations: int | None = None) -> Tensor:
    """Solve ``M u = b`` row by row, for a symmetric positive `M` given as ``product(u) = M u``.

    Parameters
    ----------
    product
        ``M u`` for ``(B, *)``.
    b
        ``(B, *)``.
    iterations
        As many as numbers in a row, at most 30, by default; rows that are solved stay.
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
        step = torch.where(active, size / curved, 0.0)
        u, r = u + rows(step, u) * p, r - rows(step, r) * Mp
        after = dot(r, r)
        p = r + rows(torch.where(active, after / size, 0.0), r) * p
        size = after
    return u


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the scalar product of each row of `a` with the same row of `b`, ``(B,)``."""
    return (a * b).reshape(len(a), -1).sum(1)
