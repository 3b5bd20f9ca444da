"""Memory-mapped arrays of NumPy as training data, of which only those rows are read that are drawn: `ArrayRows`."""

from __future__ import annotations

__all__ = ["ArrayRows", "as_array_rows"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..show import show_call, with_article
from .rows import Rows, split_conditions


class ArrayRows(Rows):
    """The rows of a memory-mapped array, which may be larger than memory: a batch is a copy of the rows that it has.

    Parameters
    ----------
    x
        The data ``(N, *)``, floating point: ``numpy.load(path, mmap_mode="r")`` or a ``numpy.memmap``.
    cond
        Conditions by name, ``(N, ...)``: tensors, or arrays, mapped or not.

    Raises
    ------
    TypeError
        If the data are no floating-point numbers that torch has, or a condition is neither array nor tensor.
    ValueError
        If the map has no rows, or conditions do not match them in number.
    """

    __repr__ = show_call

    def __init__(self, x: np.ndarray, cond: Mapping[str, Any]) -> None:
        self.x, self.cond = x, cond
        if x.dtype.kind != "f" or x.dtype.itemsize > 8:
            raise TypeError(
                f"data is a memory map of {x.dtype}; give float16, float32 or float64, or a Dataset or a DataLoader that makes "
                "such of the rows that it reads."
            )
        if x.ndim == 0:
            raise ValueError(f"data is a memory map of shape {x.shape}; give one of shape (N, *).")
        for name, value in cond.items():
            if not isinstance(value, (Tensor, np.ndarray)):
                raise TypeError(
                    f"condition {name!r} is {with_article(type(value).__name__)}; give an array with one row per datum."
                )
            if value.ndim == 0 or len(value) != len(x):
                raise ValueError(
                    f"condition {name!r} has shape {tuple(value.shape)} for {len(x)} rows of data; give one each."
                )

    def __len__(self) -> int:
        return len(self.x)

    def read(self, which: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Read rows by their numbers ``(n,)``, and return the data ``(n, *)`` and their conditions; nothing is random."""
        return _copy(self.x, which), {name: _copy(value, which) for name, value in self.cond.items()}


def as_array_rows(data: Any) -> Any:
    """Return a memory-mapped array, alone or in a pair with conditions, as `ArrayRows`; any other data as they are.

    Parameters
    ----------
    data
        Anything that `Source` takes.
    """
    x, cond = split_conditions(data)
    return ArrayRows(x, cond) if isinstance(x, np.memmap) else data


def _copy(value: Tensor | np.ndarray, which: Tensor) -> Tensor:
    """Copy some rows to a tensor, in the byte order of this machine."""
    if isinstance(value, Tensor):
        return value[which]
    rows = np.asarray(value[which.numpy()])
    return torch.from_numpy(rows.astype(rows.dtype.newbyteorder("="), copy=False))
