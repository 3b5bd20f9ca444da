"""Rows of a batch: which conditions have one value for each datum, and how a batch is split into contiguous parts."""

from __future__ import annotations

__all__ = ["change_rows", "has_rows", "part_of"]

from collections.abc import Callable
from typing import Any

from torch import Tensor


def has_rows(value: Any, n: int) -> bool:
    """Tell whether a value is a tensor with one row for each of `n` data; any other value is shared by all of them."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == n


def change_rows(cond: dict[str, Any], n: int, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Apply `change` to the conditions that have a row for each of `n` data, and return all conditions; shared ones stay
    as they are.

    Parameters
    ----------
    cond
        By name.
    n
        The number of data.
    change
        From the rows to others, such as a part of them.

    Examples
    --------
    >>> import torch
    >>> change_rows({"label": torch.arange(4), "scale": 2.0}, 4, lambda rows: rows[:2])
    {'label': tensor([0, 1]), 'scale': 2.0}
    """
    return {name: change(value) if has_rows(value, n) else value for name, value in cond.items()}


def part_of(n: int, parts: int, i: int) -> slice:
    """Return the `i`-th of the `parts` contiguous slices, of nearly equal size, that `n` rows are split into.

    Parameters
    ----------
    n, parts
        The number of rows, and of slices.
    i
        Which slice, from 0.

    Examples
    --------
    >>> [part_of(5, 2, i) for i in range(2)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return slice(n * i // parts, n * (i + 1) // parts)
