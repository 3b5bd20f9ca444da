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
from .entries import find_gaps, read_numbers, refuse_entries

LARGEST = 2**52  # whole number, with which float64 has a half besides
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

    def encode_with_volume(
        self, name: str, entries: np.ndarray, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the numbers of entries, and the logarithms of the volumes from which their noise was drawn, ``(N,)`` float64."""
        x = self.encode(name, entries, generator)
        return x, x.new_full((len(x),), self.log_volume)

    @abstractmethod
    def decode(self, x: Tensor) -> np.ndarray:
        """Return the entries of numbers ``(N, width)``, ``(N,)``."""


class NumberColumn(Column):
    """A column of numbers of either sign, as they are."""

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        return torch.from_numpy(read_numbers(name, entries))[:, None]

    def decode(self, x: Tensor) -> np.ndarray:
        entries: np.ndarray = x[:, 0].numpy().copy()
        return entries


class PositiveColumn(NumberColumn):
    """A column of positive numbers, of which a model learns the logarithm."""

    coordinates = Log()

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        x = super().encode(name, entries)
        refuse_entries(
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
        refuse_entries(
            name, entries, outside, f"between {self.low:g} and {self.high:g}, without these; widen the bounds"
        )
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
        If it is no whole number; when it decodes, if a number is beyond those that it encodes.
    """

    @check_arguments
    def __init__(self, at_least: int | None = 0) -> None:
        self.at_least = None if at_least is None else check_count("at_least", at_least, at_least=None)
        self.coordinates = None if at_least is None else SoftplusInverse()

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        x = torch.from_numpy(read_numbers(name, entries))
        least = -math.inf if self.at_least is None else self.at_least
        bound = "" if self.at_least is None else f" of at least {self.at_least}"
        above = x - (self.at_least or 0)
        wrong = (x != x.round()) | (x < least) | (torch.maximum(x.abs(), above.abs()) > LARGEST)
        refuse_entries(name, entries, wrong, f"a whole number{bound}, of at most 2**52")
        # Never 0, which would meet the bound, and below 1 after rounding too, which is a half where numbers are large.
        noise = torch.rand(len(x), dtype=torch.float64, generator=generator).clamp(1e-9, 1 - 1e-9)
        return torch.minimum(above + noise, torch.nextafter(above + 1, above))[:, None]

    def decode(self, x: Tensor) -> np.ndarray:
        if (x.abs() > 2 * LARGEST).any():
            raise ValueError(
                f"whole numbers reach {x.abs().max():.3g}, of at most 2**52; look at the model that x is sampled from."
            )
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
    TypeError
        If one cannot be a key of a dictionary, as a list cannot.
    ValueError
        If there are fewer than two, or one twice, or NaN.
    """

    @check_arguments
    def __init__(self, levels: Sequence[Any]) -> None:
        plain = (np.bool_, np.number, np.str_, np.bytes_)
        self.levels = tuple(level.item() if isinstance(level, plain) else level for level in levels)
        for level in self.levels:
            if not _is_hashable(level):
                raise TypeError(f"levels holds {level!r}; give words, numbers or truth values.")
        if len(self.levels) < 2 or len(set(self.levels)) < len(self.levels) or any(v != v for v in self.levels):
            raise ValueError(
                f"levels = {self.levels}; give two categories at least, each once. NaN is a gap: GappedColumn(...)."
            )
        one = len({type(level) for level in self.levels}) == 1 and isinstance(self.levels[0], (str, bool, int, float))
        self._entries = np.array(self.levels) if one else np.fromiter(self.levels, dtype=object, count=len(self.levels))
        self.width = len(self.levels) - 1
        self._corners = _simplex(len(self.levels))
        half = 0.5 * self.width
        self.log_volume = half * math.log(math.pi) - math.lgamma(half + 1) + self.width * math.log(REACH)

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        place = {level: i for i, level in enumerate(self.levels)}
        known = [place.get(entry, -1) if _is_hashable(entry) else -1 for entry in entries.tolist()]
        found = torch.tensor(known, dtype=torch.long)
        refuse_entries(name, entries, found < 0, f"one of the {len(self.levels)} categories of the column")
        z = torch.randn(len(found), self.width, dtype=torch.float64, generator=generator)
        radius = torch.rand(len(found), 1, dtype=torch.float64, generator=generator) ** (1 / self.width)
        return self._corners[found] + REACH * radius * z / z.norm(dim=1, keepdim=True)

    def decode(self, x: Tensor) -> np.ndarray:
        nearest = torch.cdist(x, self._corners).argmin(1)
        entries: np.ndarray = self._entries[nearest.numpy()]
        return entries


class GappedColumn(Column):
    """A column in which entries may be missing: NaN, None, or what pandas has for these.

    A number more says which are, and a model learns it with the rest; the gaps themselves are filled with numbers that are
    dropped on the way back, drawn from a Gaussian of the mean and the spread of the others in the column's coordinates, so that
    the density is known by which the probability of a gap is bounded.

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
        return self.encode_with_volume(name, entries, generator)[0]

    def encode_with_volume(
        self, name: str, entries: np.ndarray, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        gaps = find_gaps(entries)
        if gaps.all():
            raise ValueError(f"column {name!r} has no entry at all; leave it out, or give rows in which it has one.")
        known, volume = self.column.encode_with_volume(name, entries[~gaps], generator)
        flags, around_flags = self._there.encode_with_volume(name, ~gaps, generator)
        numbers, volumes, lost = (
            known.new_empty(len(gaps), known.shape[1]),
            known.new_empty(len(gaps)),
            torch.from_numpy(gaps),
        )
        numbers[~lost], volumes[~lost] = known, volume
        numbers[lost], volumes[lost] = _fill(known, int(gaps.sum()), self.column.coordinates, generator)
        return torch.cat([flags, numbers], 1), around_flags + volumes

    def decode(self, x: Tensor) -> np.ndarray:
        there, entries = self._there.decode(x[:, :1]), self.column.decode(x[:, 1:])
        entries = entries if entries.dtype.kind == "f" else entries.astype(object)
        entries[~there] = np.nan if entries.dtype.kind == "f" else None
        return entries


def _fill(
    known: Tensor, n: int, coordinates: Coordinates | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw `n` rows of numbers like those known, and return them with the logarithms of one over their density."""
    u = known if coordinates is None else coordinates(known)
    mean, std = u.mean(0), u.std(0, correction=0)
    std = std.where(std > 1e-9 * (1 + mean.abs()), 1.0)  # of equal numbers, which have no spread
    z = torch.randn(n, u.shape[1], dtype=torch.float64, generator=generator)
    drawn = mean + std * z
    volume = (0.5 * z.square() + std.log() + 0.5 * math.log(2 * math.pi)).sum(1)
    if coordinates is None:
        return drawn, volume
    x = coordinates.inverse(drawn)
    return x, volume - coordinates.log_det(x)


def _is_hashable(value: Any) -> bool:
    """Tell whether a value may be the key of a dictionary, its parts included."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _simplex(K: int) -> Tensor:
    """Return the corners of a regular simplex of side 2 around 0, ``(K, K − 1)``."""
    centred = torch.eye(K, dtype=torch.float64) - 1 / K
    Q, _ = torch.linalg.qr(centred[:, : K - 1])
    return math.sqrt(2) * centred @ Q
