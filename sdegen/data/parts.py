"""Parts of a batch: contiguous slices of its rows, its conditions cut to them, and a function computed part by part."""

from __future__ import annotations

__all__ = ["change_rows", "check_batch", "in_parts", "part_of"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count
from ..conditions import has_rows


def change_rows(cond: dict[str, Any], n: int, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Apply `change` to the conditions that have a row for each of `n` data, and return all conditions; shared ones stay
    as they are.

    Parameters
    ----------
    cond
        The conditions by name.
    n
        The number of data.
    change
        A map from the rows of a condition to others, such as a part of them.

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


def check_batch(batch: Any) -> None:
    """Refuse a `batch` that is no number of rows.

    Raises
    ------
    ValueError
        If it is neither a positive whole number nor None.
    """
    if batch is not None:
        check_count("batch", batch, hint=", or None for all at once")


def in_parts(read: Callable[..., Tensor], batch: int | None, *rows: Tensor) -> Tensor:
    """Return ``read(*rows)``, computed for at most `batch` rows at a time, so that memory does not grow with their number.

    Parameters
    ----------
    read
        Maps tensors of `B` rows to a tensor ``(B, *)``, row by row.
    batch
        Rows at a time; None for all at once.
    rows
        Tensors with the same number of rows.

    Raises
    ------
    ValueError
        If `batch` is no number of rows.

    Examples
    --------
    >>> in_parts(lambda x, y: x + y, 2, torch.arange(3), torch.arange(3))
    tensor([0, 2, 4])
    """
    check_batch(batch)
    if batch is None:
        return read(*rows)
    return torch.cat([read(*part) for part in zip(*(v.split(batch) for v in rows))])
