"""Gauss–Legendre quadrature, Lagrange polynomials, and points between two on a great circle; float64."""

from __future__ import annotations

__all__ = ["gauss", "lagrange", "lagrange_slopes", "rule", "slerp"]

from functools import cache
from itertools import accumulate
from operator import mul

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_tensor
from ..transforms import isolated


@cache
@isolated()
def gauss(points: int) -> tuple[Tensor, Tensor]:
    """Return the Gauss–Legendre nodes and weights on ``[−1, 1]`` with the given number of points, exact up to degree ``2
    points − 1``.
    """
    z, w = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy(z), torch.from_numpy(w)


@cache
@isolated()
def rule(points: int = 40) -> tuple[Tensor, Tensor]:
    """Return quadrature nodes and weights on ``[0, 1]``: Gauss–Legendre, transformed to cluster at both ends, where
    integrands may be steep.
    """
    z, w = gauss(points)
    u = (z + 1) / 2
    return u**3 * (10 - 15 * u + 6 * u**2), 0.5 * w * 30 * u**2 * (1 - u) ** 2


def lagrange(nodes: Tensor, z: Tensor) -> Tensor:
    """Evaluate the Lagrange polynomials of the nodes ``(*batch, p)`` at the points `z` ``(*batch, *)``, and return their values,
    ``(p, *batch, *)``.
    """
    p, over = nodes.shape[-1], nodes.ndim - 1
    nodes = nodes.movedim(-1, 0).reshape(p, *nodes.shape[:-1], *[1] * (z.ndim - over))
    apart, one = list(z - nodes), torch.ones_like(z)
    before = accumulate(apart[:-1], mul, initial=one)  # of all nodes before each, one factor more every time
    behind = [*accumulate(apart[:0:-1], mul, initial=one)][::-1]
    own = torch.eye(p, dtype=torch.bool, device=z.device).reshape(p, p, *[1] * z.ndim)
    return torch.stack([*map(mul, before, behind)]) / (nodes[:, None] - nodes).masked_fill(own, 1.0).prod(1)


def lagrange_slopes(nodes: Tensor, z: Tensor) -> Tensor:
    """Evaluate the derivatives by `z` of the polynomials of `lagrange`, and return them, of the same shape: sums of products that
    leave out one factor.
    """
    p, over = nodes.shape[-1], nodes.ndim - 1
    one = torch.eye(p, dtype=torch.bool, device=z.device)
    nodes = nodes.movedim(-1, 0).reshape(p, *nodes.shape[:-1], *[1] * (z.ndim - over))
    left_out, own = ((one[:, None] | one).reshape(p, p, p, *[1] * z.ndim), one.reshape(p, p, *[1] * z.ndim))
    products = (z - nodes).masked_fill(left_out, 1.0).prod(2)  # of all factors but those of j and m
    return products.masked_fill(own, 0.0).sum(1) / (nodes[:, None] - nodes).masked_fill(own, 1.0).prod(1)


@check_arguments
def slerp(x: Tensor, y: Tensor, w: Tensor | float) -> Tensor:
    """Return the spherical interpolation of `x` and `y`, row by row: direction along the great circle, length linearly.

    ``[sin((1 − w) θ) x / |x| + sin(w θ) y / |y|] / sin θ`` with the angle `θ` between them, times ``(1 − w) |x| + w |y|``. K.
    Shoemake's formula (1985) on `x` and `y` themselves is the same where they are equally long, as in high dimension;
    in low dimension it throws points between nearly opposite ones far out.

    Parameters
    ----------
    x, y
        Points, ``(B, *)``.
    w
        How far from `x` to `y`: 0 is `x`, 1 is `y`.

    Raises
    ------
    ValueError
        If two rows lie opposite to each other, so that no arc between them is the shortest.
    """
    check_tensor("x", x, finite=False), check_tensor("y", y, shape=tuple(x.shape), finite=False)
    if x.ndim == 0 or x.numel() == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; give points (B, *), one row at least.")
    flat = [v.reshape(len(v), -1).double() for v in (x, y)]
    first, last = (v.norm(dim=1, keepdim=True) for v in flat)
    a, b = (v / r.where(r > 0, 1.0) for v, r in zip(flat, (first, last), strict=True))
    theta = 2 * torch.atan2((a - b).norm(dim=1, keepdim=True), (a + b).norm(dim=1, keepdim=True))  # acos is not stable
    opposite = torch.pi - theta < 1e-6
    if opposite.any():
        i = int(opposite.flatten().nonzero()[0])
        raise ValueError(f"rows {i} of x and y lie opposite to each other and have no shortest arc; move one a little.")
    near = theta < 1e-6  # the arc is the chord
    sin = theta.sin().where(~near, 1.0)
    c_a, c_b = ((v * theta).sin().where(~near, v) / sin for v in (1 - w, w))
    return (((1 - w) * first + w * last) * (c_a * a + c_b * b)).reshape(x.shape).to(x)
