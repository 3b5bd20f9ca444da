"""Columns of a table, each of which becomes a few numbers that a score model can learn, and comes back: numbers, positive
numbers, numbers of an interval, whole numbers, categories, and any of these with gaps.

A whole number becomes a number by uniform noise, of which the floor is taken on the way back; a category a point near its corner
of a regular simplex, of which the nearest corner is taken. Both are exactly undone, and the noise has a volume, by which
densities of numbers bound probabilities of entries.
"""

from __future__ import annotations

__all__ = [
    "CategoryColumn",
    "Column",
    "CountColumn",
    "GappedColumn",
    "IntervalColumn",
    "NumberColumn",
    "PositiveColumn",
    "find_gaps",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_count, check_interval
from ..laws.columns import Columns
from ..laws.coordinates import Coordinates, Log, LogOdds, SoftplusInverse
from ..show import show_call

REACH = 0.9  # of half the distance between two corners of a simplex: noise never reaches the other half


@asked_as("a column, such as data.NumberColumn()")
class Column(ABC):
    """A kind of column of a table: how its entries become numbers, and numbers entries."""

    __repr__ = show_call
    width = 1
    """How many numbers an entry becomes."""
    coordinates: Coordinates | None = None
    """The map that takes these numbers to numbers without bounds; None where they have none."""
    log_volume = 0.0
    """The logarithm of the volume that noise fills around an entry; 0 without noise."""

    @abstractmethod
    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """Return the numbers of entries ``(N,)`` of the column `name`, ``(N, width)`` float64.

        Raises
        ------
        ValueError
            If an entry is not of this kind.
        """

    @abstractmethod
    def decode(self, x: Tensor) -> np.ndarray:
        """Return the entries of numbers ``(N, width)``, ``(N,)``."""


class NumberColumn(Column):
    """A column of numbers of either sign, as they are."""

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        return torch.from_numpy(_as_numbers(name, entries))[:, None]

    def decode(self, x: Tensor) -> np.ndarray:
        entries: np.ndarray = x[:, 0].numpy()
        return entries


class PositiveColumn(NumberColumn):
    """A column of positive numbers, of which a model learns the logarithm."""

    coordinates = Log()

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        x = super().encode(name, entries)
        _refuse(
            name, entries, x[:, 0] <= 0, "positive; take NumberColumn(), or CountColumn() for whole numbers from 0 on"
        )
        return x


class IntervalColumn(NumberColumn):
    """A column of numbers between two bounds, of which a model learns the log-odds.

    Parameters
    ----------
    low, high
        The bounds, which no entry may meet.

    Raises
    ------
    ValueError
        If they are not in order.
    """

    @check_arguments
    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        self.low, self.high = check_interval("low and high", (low, high))
        self.coordinates = LogOdds(self.low, self.high)

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        x = super().encode(name, entries)
        outside = (x[:, 0] <= self.low) | (x[:, 0] >= self.high)
        _refuse(name, entries, outside, f"between {self.low:g} and {self.high:g}, without these; widen the bounds")
        return x


class CountColumn(Column):
    """A column of whole numbers, which become numbers by uniform noise on [0, 1).

    Parameters
    ----------
    at_least
        The least that may occur, above which a model learns the inverse of ``log(1 + exp u)``; None for no bound.

    Raises
    ------
    ValueError
        If it is no whole number.
    """

    @check_arguments
    def __init__(self, at_least: int | None = 0) -> None:
        self.at_least = None if at_least is None else check_count("at_least", at_least, at_least=None)
        self.coordinates = None if at_least is None else SoftplusInverse()

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        x = torch.from_numpy(_as_numbers(name, entries))
        least = -math.inf if self.at_least is None else self.at_least
        bound = "" if self.at_least is None else f" of at least {self.at_least}"
        _refuse(name, entries, (x != x.round()) | (x < least) | (x.abs() > 2**52), f"a whole number{bound}")
        # Never 0, which would meet the bound; of large numbers the noise keeps what digits there are.
        noise = torch.rand(len(x), dtype=torch.float64, generator=generator).clamp(1e-9, 1 - 1e-9)
        return (x - (self.at_least or 0) + noise)[:, None]

    def decode(self, x: Tensor) -> np.ndarray:
        found: np.ndarray = (x[:, 0].floor().long() + (self.at_least or 0)).numpy()
        return found


class CategoryColumn(Column):
    """A column of categories, each a corner of a regular simplex of side 2, with noise in a ball around it.

    Parameters
    ----------
    levels
        The categories, two at least: words, numbers or truth values.

    Raises
    ------
    ValueError
        If there are fewer than two, or one twice.
    """

    @check_arguments
    def __init__(self, levels: Sequence[Any]) -> None:
        self.levels = tuple(level.item() if isinstance(level, np.generic) else level for level in levels)
        if len(self.levels) < 2 or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"levels = {self.levels}; give two categories at least, each once.")
        self.width = len(self.levels) - 1
        self._corners = _simplex(len(self.levels))
        half = 0.5 * self.width
        self.log_volume = half * math.log(math.pi) - math.lgamma(half + 1) + self.width * math.log(REACH)

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        place = {level: i for i, level in enumerate(self.levels)}
        found = torch.tensor([place.get(entry, -1) for entry in entries.tolist()], dtype=torch.long)
        _refuse(name, entries, found < 0, f"one of the {len(self.levels)} categories of the column")
        z = torch.randn(len(found), self.width, dtype=torch.float64, generator=generator)
        radius = torch.rand(len(found), 1, dtype=torch.float64, generator=generator) ** (1 / self.width)
        return self._corners[found] + REACH * radius * z / z.norm(dim=1, keepdim=True)

    def decode(self, x: Tensor) -> np.ndarray:
        nearest = torch.cdist(x, self._corners).argmin(1)
        return np.array(self.levels)[nearest.numpy()]


class GappedColumn(Column):
    """A column in which entries may be missing: NaN, or None.

    A number more says which are, and a model learns it with the rest; the gaps themselves are filled with other entries of the
    column, drawn at random, which are dropped on the way back.

    Parameters
    ----------
    column
        The kind of the entries that are there.

    Raises
    ------
    ValueError
        When it encodes, if no entry is there.
    """

    @check_arguments
    def __init__(self, column: Column) -> None:
        self.column = column
        self._there = CategoryColumn((False, True))
        self.width = 1 + column.width
        self.coordinates = column.coordinates and Columns([1, column.width], [None, column.coordinates])
        self.log_volume = self._there.log_volume + column.log_volume

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        there = ~find_gaps(entries)
        known = np.flatnonzero(there)
        if not len(known):
            raise ValueError(f"column {name!r} has no entry at all; leave it out.")
        other = torch.randint(len(known), (len(entries),), generator=generator).numpy()
        filled = np.where(there, np.arange(len(entries)), known[other])
        numbers = self.column.encode(name, entries[filled], generator)
        return torch.cat([self._there.encode(name, there, generator), numbers], 1)

    def decode(self, x: Tensor) -> np.ndarray:
        there, entries = self._there.decode(x[:, :1]), self.column.decode(x[:, 1:])
        entries = entries if entries.dtype.kind == "f" else entries.astype(object)
        entries[~there] = np.nan if entries.dtype.kind == "f" else None
        return entries


def find_gaps(entries: np.ndarray) -> np.ndarray:
    """Tell which entries of a column are missing, NaN or None, ``(N,)``."""
    return np.array([entry is None or entry != entry for entry in entries.tolist()], dtype=bool)


def _as_numbers(name: str, entries: np.ndarray) -> np.ndarray:
    """Return entries as float64 numbers; refuse what are none, and gaps.

    Raises
    ------
    ValueError
        If an entry is no finite number.
    """
    try:
        numbers = np.array(entries, dtype=np.float64)  # a copy of its own
    except (TypeError, ValueError):
        wrong = next(e for e in entries.tolist() if isinstance(e, str) or not isinstance(e, (int, float)))
        raise ValueError(
            f"column {name!r} has {wrong!r} among its entries, which is no number; declare it as CategoryColumn(levels), or as "
            "GappedColumn(...) if it is missing."
        ) from None
    gaps = torch.from_numpy(~np.isfinite(numbers))
    _refuse(name, entries, gaps, "a finite number; declare a column with gaps as GappedColumn(...)")
    return numbers


def _refuse(name: str, entries: np.ndarray, wrong: Tensor, expected: str) -> None:
    """Refuse a column with wrong entries.

    Raises
    ------
    ValueError
        If there are any.
    """
    if wrong.any():
        row = int(wrong.nonzero()[0, 0])
        raise ValueError(
            f"column {name!r} has {int(wrong.sum())} entries that do not fit, the first {entries[row]!r} in row {row}; each must "
            f"be {expected}."
        )


def _simplex(K: int) -> Tensor:
    """Return the corners of a regular simplex of side 2 around 0, ``(K, K − 1)``."""
    centred = torch.eye(K, dtype=torch.float64) - 1 / K
    Q, _ = torch.linalg.qr(centred[:, : K - 1])
    return math.sqrt(2) * centred @ Q
