"""Squared distances between two sets of points, by one matrix product, with their digits kept where points are close."""

from __future__ import annotations

__all__ = ["squared_distances"]

import torch
from torch import Tensor

CLOSE = 2.0**-32  # of the squared lengths: a smaller squared distance would keep six digits at most as their difference
NUMBERS = 2**22  # numbers of close points that are held at once


def squared_distances(x: Tensor, y: Tensor, squares_x: Tensor, squares_y: Tensor) -> Tensor:
    """Return ``‖x_i − y_j‖²``, ``(b, n)``.

    They are ``‖x‖² + ‖y‖² − 2 xᵀ y``, by a matrix product. This loses its digits for points that are much nearer to each other
    than to 0, whose coordinates are subtracted from one another instead.

    Parameters
    ----------
    x, y
        Points ``(b, d)`` and ``(n, d)``, float64.
    squares_x, squares_y
        The squared lengths of `x` and of `y`, ``(b,)`` and ``(n,)``.
    """
    found = torch.addmm(squares_y, x, y.mT, alpha=-2).add_(squares_x[:, None])
    if found.min() > CLOSE * (squares_x.max() + squares_y.max()):
        return found
    close = found < torch.add(CLOSE * squares_y, squares_x[:, None], alpha=CLOSE)
    size = max(1, NUMBERS // max(1, x.shape[1]))
    for pairs in close.nonzero().split(size):
        i, j = pairs.unbind(1)
        found[i, j] = (x[i] - y[j]).square().sum(1)
    return found
