"""Rows of any shape as vectors (`as_vectors`), their sums (`sum_rows`) and scalar products (`dot`), and numbers that act row by
row (`over_rows`).
"""

from __future__ import annotations

__all__ = ["as_vectors", "dot", "over_rows", "sum_rows"]

from torch import Tensor


def as_vectors(x: Tensor, axes: int = 1) -> Tensor:
    """Return rows ``(B, *)`` as vectors ``(B, d)``, rows of a single number too.

    Parameters
    ----------
    x
        The rows.
    axes
        How many axes count rows: with 2 of them ``(m, B, *)`` becomes ``(m, B, d)``.

    Examples
    --------
    >>> import torch
    >>> as_vectors(torch.zeros(3)).shape, as_vectors(torch.zeros(3, 2, 2)).shape
    (torch.Size([3, 1]), torch.Size([3, 4]))
    """
    return x.flatten(axes) if x.ndim > axes else x[..., None]


def sum_rows(x: Tensor) -> Tensor:
    """Return the sum of the numbers of each row, ``(B,)``."""
    return as_vectors(x).sum(1)


def dot(a: Tensor, b: Tensor, axes: int = 1) -> Tensor:
    """Return the scalar product of each row of `a` with the same row of `b`, ``(B,)``.

    Parameters
    ----------
    a, b
        The rows, ``(B, *)``.
    axes
        As for `as_vectors`.
    """
    return as_vectors(a * b, axes).sum(-1)


def over_rows(values: Tensor, x: Tensor) -> Tensor:
    """Return one value for each row, ``(B,)``, as ``(B, 1, ...)``, which broadcasts over the rows ``(B, *)`` of `x`."""
    return values.reshape(-1, *[1] * (x.ndim - 1))
