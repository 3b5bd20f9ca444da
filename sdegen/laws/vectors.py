"""Rows of any shape as vectors: `as_vectors`."""

from __future__ import annotations

__all__ = ["as_vectors"]

from torch import Tensor


def as_vectors(x: Tensor) -> Tensor:
    """Return rows ``(B, *)`` as vectors ``(B, d)``, rows of a single number too.

    Examples
    --------
    >>> import torch
    >>> as_vectors(torch.zeros(3)).shape, as_vectors(torch.zeros(3, 2, 2)).shape
    (torch.Size([3, 1]), torch.Size([3, 4]))
    """
    return x[..., None].flatten(1)
