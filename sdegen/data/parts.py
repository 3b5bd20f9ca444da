"""Rows of a batch: which values have one for each datum, and neighbouring parts of them."""

from __future__ import annotations

__all__ = ["change_rows", "has_rows", "part_of", "split"]

from collections.abc import Callable
from typing import Any

from torch import Tensor


def has_rows(value: Any, n: int) -> bool:
    """Tell whether a value is a tensor with a row for each of `n` data; any other is one for all of them."""
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == n


def change_rows(cond: dict[str, Any], n: int, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Return conditions in which those with a row for each of `n` data are changed, and the rest are as they were.

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


def split(n: int, parts: int) -> list[slice]:
    """Split `n` rows into neighbouring slices, as equal as can be.

    >>> split(5, 2)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return [part_of(n, parts, i) for i in range(parts)]


def part_of(n: int, parts: int, i: int) -> slice:
    """Return the `i`-th of the slices of `split`, without the others."""
    return slice(n * i // parts, n * (i + 1) // parts)
