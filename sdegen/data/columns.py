"""Columns of a table, whose entries become a few numbers that a score model can learn, and these become entries again: numbers,
positive numbers, numbers of an interval, whole numbers and categories.

A whole number gets uniform noise, and the way back takes the floor; a category becomes a point near its corner of a regular
simplex, and the way back takes the nearest corner. Both are undone exactly. The noise has a volume, by which densities of numbers
bound probabilities of entries.
"""

from __future__ import annotations

__all__ = [
    "CategoryColumn",
    "Column",
    "CountColumn",
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
from ..blocks import OfTensors
from ..checks import check_count, check_interval
from ..fixed import Fixed
from ..laws.coordinates import Coordinates, Log, LogOdds, SoftplusInverse
from ..show import show_call
from .entries import read_numbers, refuse_entries

LARGEST = 2**52  # of a count: beyond, float64 has no numbers between two whole ones, where its noise could be
REACH = 0.9  # radius of a category's noise: half the side of the simplex is 1, so noise never comes nearer to another corner


@asked_as("a column, such as data.NumberColumn()")
class Column(OfTensors, Fixed, ABC):
    """A kind of column of a table: how its entries become numbers, and numbers entries."""

    __repr__ = show_call
    width = 1
    """How many numbers an entry becomes."""
    coordinates: Coordinates | None = None
    """The map from these numbers to numbers without bounds; None where the numbers themselves have no bounds."""
    log_volume = 0.0
    """The logarithm of the volume in which the noise of an entry is uniform; 0 without noise."""
    middle: float | Tensor = 0.0
    """The mean of the noise, a number or ``(width,)``."""

    @abstractmethod
    def centre(self, name: str, entries: np.ndarray) -> Tensor:
        """Return the numbers of entries ``(N,)`` of the column `name` without their noise, ``(N, width)`` float64.

        Raises
        ------
        ValueError
            If an entry is not of this kind.
        """

    def spread(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the numbers ``(N, width)`` of `centre` with noise added; a kind without noise returns them as they are."""
        return x

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        """Return the numbers of entries ``(N,)`` of the column `name`, ``(N, width)`` float64.

        Raises
        ------
        ValueError
            If an entry is not of this kind.
        """
        return self.spread(self.centre(name, entries), generator)

    def encode_with_volume(
        self, name: str, entries: np.ndarray, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the numbers of entries as `encode` does, and for each entry the logarithm of the volume that its noise is
        uniform in, or for a gap that is filled, of one over the density of the filling, ``(N,)`` float64.
        """
        x = self.encode(name, entries, generator)
        return x, x.new_full((len(x),), self.log_volume)

    def ask(self, name: str, entries: np.ndarray) -> Tensor:
        """Return what a network is told of known entries ``(N,)``: their numbers with the mean of the noise, ``(N, width)``. NaN
        stands for what the network is asked for; only a column with gaps has any.

        Raises
        ------
        ValueError
            If an entry is not of this kind.
        """
        return self.centre(name, entries) + self.middle

    def log_volumes(self, entries: np.ndarray) -> Tensor:
        """Return the logarithm of the volume of each entry's noise, ``(N,)``; nothing is drawn, and what would fill a gap is left
        out.
        """
        return torch.full((len(entries),), self.log_volume, dtype=torch.float64)

    @abstractmethod
    def decode(self, x: Tensor) -> np.ndarray:
        """Return the entries of numbers ``(N, width)``, ``(N,)``.

        Raises
        ------
        ValueError
            If a number is none that the column may have.
        """


class NumberColumn(Column):
    """A column of numbers of either sign, as they are."""

    def centre(self, name: str, entries: np.ndarray) -> Tensor:
        return torch.from_numpy(read_numbers(name, entries))[:, None]

    def decode(self, x: Tensor) -> np.ndarray:
        entries: np.ndarray = x[:, 0].numpy().copy()
        return entries


class PositiveColumn(NumberColumn):
    """A column of positive numbers, of which a model learns the logarithm."""

    coordinates = Log()

    def decode(self, x: Tensor) -> np.ndarray:
        return super().decode(_refuse_numbers(x, x[:, 0] < 0, "below 0"))

    def centre(self, name: str, entries: np.ndarray) -> Tensor:
        x = super().centre(name, entries)
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
        If the bounds are not in order.
    """

    @check_arguments
    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        self.low, self.high = check_interval("low and high", (low, high))
        self.coordinates = LogOdds(self.low, self.high)

    def decode(self, x: Tensor) -> np.ndarray:
        outside = (x[:, 0] < self.low) | (x[:, 0] > self.high)
        return super().decode(_refuse_numbers(x, outside, f"outside of {self.low:g} to {self.high:g}"))

    def centre(self, name: str, entries: np.ndarray) -> Tensor:
        x = super().centre(name, entries)
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
        The least number that may occur; None for no bound. With a bound a model learns the inverse softplus of what the noised
        number has above it.

    Raises
    ------
    ValueError
        If `at_least` is no whole number.
    """

    middle = 0.5

    @check_arguments
    def __init__(self, at_least: int | None = 0) -> None:
        self.at_least = None if at_least is None else check_count("at_least", at_least, at_least=None)
        self.coordinates = None if at_least is None else SoftplusInverse()

    def centre(self, name: str, entries: np.ndarray) -> Tensor:
        x = torch.from_numpy(read_numbers(name, entries))
        least = -math.inf if self.at_least is None else self.at_least
        bound = "" if self.at_least is None else f" of at least {self.at_least}"
        above = x - (self.at_least or 0)
        wrong = (x != x.round()) | (x < least) | (torch.maximum(x.abs(), above.abs()) > LARGEST)
        refuse_entries(name, entries, wrong, f"a whole number{bound}, of at most 2**52")
        return above[:, None]

    def spread(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        # Never 0, which would meet the bound, and below 1 after rounding too, which is a half where numbers are large.
        noise = torch.rand(len(x), 1, dtype=torch.float64, generator=generator).clamp(1e-9, 1 - 1e-9)
        return torch.minimum(x + noise, torch.nextafter(x + 1, x))

    def decode(self, x: Tensor) -> np.ndarray:
        if (x.abs() > 2 * LARGEST).any():
            raise ValueError(
                f"whole numbers reach {x.abs().max():.3g}, of at most 2**52; look at the model that x is sampled from."
            )
        if self.at_least is not None:
            _refuse_numbers(x + self.at_least, x[:, 0] < 0, f"below {self.at_least}")
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
        If a category cannot be a key of a dictionary, as a list cannot.
    ValueError
        If there are fewer than two categories, one occurs twice, or one is NaN.
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

    def centre(self, name: str, entries: np.ndarray) -> Tensor:
        place = {level: i for i, level in enumerate(self.levels)}
        known = [place.get(entry, -1) if _is_hashable(entry) else -1 for entry in entries.tolist()]
        found = torch.tensor(known, dtype=torch.long)
        refuse_entries(name, entries, found < 0, f"one of the {len(self.levels)} categories of the column")
        return self._corners[found]

    def spread(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        z = torch.randn(x.shape, dtype=torch.float64, generator=generator)
        radius = torch.rand(len(x), 1, dtype=torch.float64, generator=generator) ** (1 / self.width)
        return x + REACH * radius * z / z.norm(dim=1, keepdim=True)

    def decode(self, x: Tensor) -> np.ndarray:
        nearest = torch.cdist(x, self._corners).argmin(1)
        entries: np.ndarray = self._entries[nearest.numpy()]
        return entries


def _refuse_numbers(x: Tensor, wrong: Tensor, where: str) -> Tensor:
    """Return numbers ``(N, width)`` that a column may have; refuse others.

    Raises
    ------
    ValueError
        If some numbers are wrong.
    """
    rows = wrong.nonzero()[:, 0]
    if len(rows):
        raise ValueError(
            f"{len(rows)} of {len(x)} numbers are {where}, the first {x[rows[0], 0]:g} in row {int(rows[0])}; sample a model "
            "whose process is in the table's coordinates, sde.in_coordinates(table.coordinates), or leave these rows out."
        )
    return x


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
