"""Gauss–Legendre quadrature and Lagrange polynomials, float64."""

from __future__ import annotations

__all__ = ["gauss", "lagrange", "rule"]

from functools import cache

import numpy as np
import torch
from torch import Tensor


@cache
def gauss(points: int) -> tuple[Tensor, Tensor]:
    """Return the Gauss–Legendre nodes and weights on ``[−1, 1]`` with the given number of points, exact up to degree ``2
    points − 1``.
    """
    z, w = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy(z), torch.from_numpy(w)


@cache
def rule(points: int = 40) -> tuple[Tensor, Tensor]:
    """Return quadrature nodes and weights on ``[0, 1]``: Gauss–Legendre, transformed to cluster at both ends, where
    integrands may be steep.
    """
    z, w = gauss(points)
    u = (z + 1) / 2
    return u**3 * (10 - 15 * u + 6 * u**2), 0.5 * w * 30 * u**2 * (1 - u) ** 2


def lagrange(nodes: Tensor, z: Tensor) -> Tensor:
    """Evaluate the Lagrange polynomials of the nodes ``(*batch, p)`` at the points `z` ``(*batch, *)``: ``(p, *batch,
    *)``.
    """
    over = nodes.ndim - 1
    nodes = nodes.movedim(-1, 0).reshape(nodes.shape[-1], *nodes.shape[:-1], *[1] * (z.ndim - over))
    factors = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        factors.append(((z - others) / (node - others)).prod(0) + torch.zeros_like(z))
    return torch.stack(factors)
