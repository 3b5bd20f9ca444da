"""Reading of frames: columns of any library's frame as arrays of entries, which of them are missing, and which are numbers."""

from __future__ import annotations

__all__ = ["read_numbers", "find_gaps", "read_frame", "refuse_entries"]

from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..show import with_article

EXACT = 2**53  # beyond, there are whole numbers that are no float64
# By the kind of a dtype of NumPy, its name in an error.
REFUSED = {"m": "spans of time", "M": "times", "c": "complex numbers", "V": "records"}


def read_frame(frame: Any) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of a frame's columns, and its columns as arrays.

    Raises
    ------
    TypeError
        If `frame` has no named columns.
    ValueError
        If columns differ in length, there are no rows, or entries are times or complex numbers.
    """
    names: Sequence[Any] | None = list(frame) if isinstance(frame, Mapping) else getattr(frame, "columns", None)
    if names is None or isinstance(frame, type):
        raise TypeError(
            f"frame is {with_article(type(frame).__name__)}; give columns by their names: a dictionary of lists or arrays, or a "
            "frame of pandas or polars."
        )
    entries = {name: _as_entries(name, frame[name]) for name in names}
    lengths = {name: column.shape for name, column in entries.items()}
    if len(set(lengths.values())) != 1 or any(len(shape) != 1 or shape == (0,) for shape in lengths.values()):
        raise ValueError(f"the columns of the frame have shapes {lengths}; give as many entries in each, one at least.")
    return list(names), entries


def _as_entries(name: str, column: Any) -> np.ndarray:
    """Return the entries of a column as an array, in which words and numbers stay what they are, and masked entries are None.

    Raises
    ------
    ValueError
        If entries are times or complex numbers, which would lose a part as numbers, or are lists of their own.
    """
    if isinstance(column, Tensor):
        column = column.detach().cpu()
        column = column.double() if column.is_floating_point() else column
    try:
        entries = _unmask(column) if isinstance(column, np.ma.MaskedArray) else np.asarray(column)
        entries = np.array(column, dtype=object) if entries.dtype.kind in "US" and entries is not column else entries
    except ValueError:
        raise ValueError(
            f"column {name!r} has lists of different lengths for entries; give one entry for each row."
        ) from None
    if entries.dtype.kind in REFUSED:
        raise ValueError(
            f"column {name!r} holds {REFUSED[entries.dtype.kind]}; give numbers, of times such as days since the first one: "
            "(times - first) / numpy.timedelta64(1, 'D')."
        )
    if entries.dtype == object and entries.ndim == 1:
        plain = (entry.item() if isinstance(entry, (np.bool_, np.number)) else entry for entry in entries)
        entries = np.fromiter(plain, dtype=object, count=len(entries))
    return entries


def _unmask(column: np.ma.MaskedArray[Any, Any]) -> np.ndarray:
    """Return the entries of a masked array as objects, None where they are masked."""
    entries = column.data.astype(object)
    entries[np.ma.getmaskarray(column)] = None
    return entries


def find_gaps(entries: np.ndarray) -> np.ndarray:
    """Tell which entries of a column are missing, ``(N,)``: NaN, None, or what pandas has for these."""
    return np.array([_is_missing(entry) for entry in entries.tolist()], dtype=bool)


def _is_missing(entry: Any) -> bool:
    """Tell whether an entry is missing: it is None, does not equal itself, or cannot be compared."""
    if entry is None:
        return True
    try:
        return bool(entry != entry)
    except (TypeError, ArithmeticError):  # raised by pandas.NA, and by a signalling NaN of decimal
        return True
    except ValueError:  # an array, which is no entry, but is there
        return False


def read_numbers(name: str, entries: np.ndarray) -> np.ndarray:
    """Return entries as float64 numbers; refuse entries that are no numbers, numbers that float64 would round, and gaps.

    Raises
    ------
    ValueError
        If an entry is no finite number, or a whole number that float64 does not hold.
    """
    whole = entries.dtype.kind in "iu"
    for entry in () if entries.dtype.kind in "biuf" else entries.tolist():
        if not isinstance(entry, (Real, Decimal)):
            raise ValueError(
                f"column {name!r} has {entry!r} among its entries, which is no number; declare it as CategoryColumn(levels), or "
                "as GappedColumn(...) if it is missing."
            )
        whole = whole or isinstance(entry, int)
    try:
        numbers = np.array(entries, dtype=np.float64)  # a copy of its own
    except OverflowError:
        numbers = np.array([entry if abs(entry) < EXACT else np.inf for entry in entries.tolist()], dtype=np.float64)
    refuse_entries(
        name, entries, ~np.isfinite(numbers), "a finite number; declare a column with gaps as GappedColumn(...)"
    )
    if whole and (np.abs(numbers) >= EXACT).any():
        pairs = zip(entries.tolist(), numbers.tolist(), strict=True)
        rounded = np.array([isinstance(entry, int) and entry != number for entry, number in pairs])
        refuse_entries(name, entries, rounded, "a number that float64 holds; subtract a part that all have")
    return numbers


def refuse_entries(name: str, entries: np.ndarray, wrong: np.ndarray | Tensor, expected: str) -> None:
    """Refuse a column in which the mask `wrong` marks an entry; `expected` says what each entry must be.

    Raises
    ------
    ValueError
        If an entry is marked.
    """
    rows = torch.as_tensor(wrong).nonzero()
    if len(rows):
        row = int(rows[0, 0])
        first = entries[row : row + 1].tolist()[0]  # as Python shows it
        many = "an entry that does not fit," if len(rows) == 1 else f"{len(rows)} entries that do not fit, the first"
        raise ValueError(f"column {name!r} has {many} {first!r} in row {row}; each must be {expected}.")
