"""Fingerprints of data, by which a run that goes on sees whether rows, conditions and order are those that it began with.

A fingerprint is a few sums over all rows, each row with a random weight of its own, so that other rows and another order show.
Data that differ by rounding alone, as if computed on another machine, have nearly the same fingerprint.
"""

from __future__ import annotations

__all__ = ["Fingerprint", "standardised", "tolerance"]

import math

import torch
from torch import Tensor

from ..laws.mixtures import Moments

SUMS = 4  # sums in a fingerprint: chance hides a change from one of them, hardly from all
CHUNK = 4096  # rows that are added at once


class Fingerprint:
    """Sums over rows, each with a random weight, that are added part by part."""

    def __init__(self) -> None:
        self.n, self.parts, self._sums = 0, 0, torch.zeros(SUMS, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add rows ``(n, *)`` of any dtype, on any device."""
        for chunk in x.detach().split(CHUNK):
            flat = chunk.reshape(len(chunk), -1).double()
            flat = torch.where(flat.isnan(), math.pi, flat)  # conditions have gaps: any number that data do not have
            # A number's weight is that of its row times that of its column; chunks differ in the seed of their rows.
            columns, rows = _weights(flat.shape[1], 0).to(flat), _weights(len(chunk), 1 + self.parts).to(flat)
            self._sums = self._sums.to(flat) + (flat @ columns * rows).sum(0) / math.sqrt(max(1, flat.shape[1]))
            self.n, self.parts = self.n + len(chunk), self.parts + 1

    def value(self) -> Tensor:
        """Return the fingerprint, ``(4,)``: about as large as one number of the data."""
        return self._sums.cpu() / math.sqrt(max(1, self.n))


def _weights(n: int, seed: int) -> Tensor:
    """Draw the weights of `n` rows or columns in each sum, ``(n, 4)``."""
    return torch.randn(n, SUMS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def standardised(x: Tensor, moments: Moments) -> Tensor:
    """Return rows of data in float64, each coordinate without its mean and divided by its standard deviation.

    Parameters
    ----------
    x
        Rows of data, ``(n, *)``.
    moments
        Mean and covariance of the data; coordinates that do not vary are not divided.
    """
    mean, std = _units(moments)
    return (x.double() - mean.to(x.device)) / std.to(x.device)


def tolerance(moments: Moments, dtype: torch.dtype) -> float:
    """Return how far the fingerprints of two data sets may lie apart that differ by rounding in their dtype alone.

    Parameters
    ----------
    moments
        Mean and covariance of the data.
    dtype
        The dtype that the data are kept in.
    """
    mean, std = _units(moments)
    return 1e-6 + 10 * torch.finfo(dtype).eps * (1 + (mean / std).abs().max().item())


def _units(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each coordinate, 1 where a coordinate does not vary."""
    std = moments.variances().clamp_min(0).sqrt().reshape(moments.mean.shape)
    return moments.mean.double(), torch.where(std > 0, std, 1.0)
