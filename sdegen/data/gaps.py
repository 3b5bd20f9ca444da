"""Columns of a table in which entries may be missing: `GappedColumn`."""

from __future__ import annotations

__all__ = ["GappedColumn"]

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from ..arguments import check_arguments
from ..laws.columns import Columns
from ..laws.coordinates import Coordinates
from .columns import CategoryColumn, Column
from .entries import find_gaps


class GappedColumn(Column):
    """A column in which entries may be missing: NaN, None, or what pandas has for these.

    One more number tells which entries are missing, and a model learns it with the rest. Gaps are filled with numbers from a
    Gaussian of the mean and the spread of the other entries, in the column's coordinates, and decoding drops these numbers. The
    density of the Gaussian is known, so that the probability of a gap can be bounded.

    Parameters
    ----------
    column
        The kind of the entries that are there.

    Raises
    ------
    ValueError
        At encoding, if all entries are missing.
    """

    @check_arguments
    def __init__(self, column: Column) -> None:
        self.column = column
        self._there = CategoryColumn((False, True))
        self.width = 1 + column.width
        self.coordinates = column.coordinates and Columns([1, column.width], [None, column.coordinates])
        self.log_volume = self._there.log_volume + column.log_volume
        self.middle = torch.cat([torch.zeros(1), torch.ones(column.width) * column.middle]).double()

    def centre(self, name: str, entries: np.ndarray) -> Tensor:
        """Return, for each entry, the number that tells whether it is there, and its own numbers, NaN where it is missing."""
        there = ~find_gaps(entries)
        x = torch.full((len(entries), self.width), math.nan, dtype=torch.float64)
        x[:, :1] = self._there.centre(name, there)
        if there.any():
            x[there, 1:] = self.column.centre(name, entries[there])
        return x

    def spread(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.cat([self._there.spread(x[:, :1], generator), self.column.spread(x[:, 1:], generator)], 1)

    def ask(self, name: str, entries: np.ndarray) -> Tensor:
        """Return what a network is told of entries ``(N,)``: that all of them are there, and the numbers of those that are
        known.
        """
        asked = super().ask(name, entries)
        asked[:, :1] = self._there.centre(name, np.ones(len(entries), dtype=bool))
        return asked

    def log_volumes(self, entries: np.ndarray) -> Tensor:
        """Return the logarithm of the volume of each entry's noise: for a missing entry, of the noise in the number that tells
        so.
        """
        there = torch.from_numpy(~find_gaps(entries)).double()
        return self._there.log_volume + there * self.column.log_volume

    def encode(self, name: str, entries: np.ndarray, generator: torch.Generator | None = None) -> Tensor:
        return self.encode_with_volume(name, entries, generator)[0]

    def encode_with_volume(
        self, name: str, entries: np.ndarray, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        gaps = find_gaps(entries)
        if gaps.all():
            raise ValueError(f"column {name!r} has no entry at all; leave it out, or give rows in which it has one.")
        known, volume = self.column.encode_with_volume(name, entries[~gaps], generator)
        flags, flag_volume = self._there.encode_with_volume(name, ~gaps, generator)
        numbers, volumes = known.new_empty(len(gaps), known.shape[1]), known.new_empty(len(gaps))
        missing = torch.from_numpy(gaps)
        numbers[~missing], volumes[~missing] = known, volume
        numbers[missing], volumes[missing] = _fill(known, int(gaps.sum()), self.column.coordinates, generator)
        return torch.cat([flags, numbers], 1), flag_volume + volumes

    def decode(self, x: Tensor) -> np.ndarray:
        there = self._there.decode(x[:, :1])
        known = self.column.decode(x[there, 1:])
        entries = np.full(len(x), *((np.nan, known.dtype) if known.dtype.kind == "f" else (None, object)))
        entries[there] = known
        return entries


def _fill(
    known: Tensor, n: int, coordinates: Coordinates | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw `n` rows of numbers from a Gaussian fitted to the known ones; return them and minus their log-density, ``(n,)``."""
    u = known if coordinates is None else coordinates(known)
    mean, std = u.mean(0), u.std(0, correction=0)
    std = std.where(std > 1e-9 * (1 + mean.abs()), 1.0)  # equal numbers have no spread but rounding
    drawn = mean + std * torch.randn(n, u.shape[1], dtype=torch.float64, generator=generator)
    minus_log_prob = -Normal(mean, std).log_prob(drawn).sum(1)
    if coordinates is None:
        return drawn, minus_log_prob
    x = coordinates.inverse(drawn)
    return x, minus_log_prob - coordinates.log_det(x)
