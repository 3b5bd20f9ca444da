"""Fingerprints of data, by which a run that goes on sees whether rows, conditions and order are those that it began with.

A fingerprint is a few sums over all rows, each with a random weight of its own, so that other rows and another order show.
Data that differ by rounding alone, as those computed on another machine, have nearly the same.
"""

from __future__ import annotations

__all__ = ["Fingerprint", "standardised", "tolerance"]

import math

import torch
from torch import Tensor

from ..laws.mixtures import Moments

SUMS = 4  # how many: chance hides a change from one of them, hardly from all
CHUNK = 4096  # rows that are added at once


class Fingerprint:
    """Sums over rows, each with a random weight, that are added part by part."""

    def __init__(self) -> None:
        self.n, self.parts, self._sums = 0, 0, torch.zeros(SUMS, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Add rows ``(n, *)`` of any dtype, on any device."""
        for chunk in x.detach().split(CHUNK):
            flat = chunk.reshape(len(chunk), -1).double()
            flat = torch.where(flat.isnan(), math.pi, flat)  # of conditions with gaps
            columns, rows = (
                _weights(n, seed).to(flat) for n, seed in ((flat.shape[1], 0), (len(chunk), 1 + self.parts))
            )
            self._sums = self._sums.to(flat) + (flat @ columns * rows).sum(0) / math.sqrt(max(1, flat.shape[1]))
            self.n, self.parts = self.n + len(chunk), self.parts + 1

    def value(self) -> Tensor:
        """Return the fingerprint, ``(4,)``: about as large as one number of the data."""
        return self._sums.cpu() / math.sqrt(max(1, self.n))


def _weights(n: int, seed: int) -> Tensor:
    return torch.randn(n, SUMS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def standardised(x: Tensor, moments: Moments) -> Tensor:
    """Return rows of data in float64, each coordinate without its mean and divided by its standard deviation.

    Parameters
    ----------
    x
        ``(n, *)``.
    moments
        Of the data; coordinates that do not vary are not divided.
    """
    mean, std = _units(moments)
    return (x.double() - mean.to(x.device)) / std.to(x.device)


def tolerance(moments: Moments, dtype: torch.dtype) -> float:
    """Return how far fingerprints of the same data may lie apart, by rounding in their dtype.

    Parameters
    ----------
    moments
        Of the data.
    dtype
        That the data are kept in.
    """
    mean, std = _units(moments)
    return 1e-6 + 10 * torch.finfo(dtype).eps * (1 + (mean / std).abs().max().item())


def _units(moments: Moments) -> tuple[Tensor, Tensor]:
    C = moments.covariance.double()
    std = (C.diagonal() if C.ndim == 2 else C).clamp_min(0).sqrt().reshape(moments.mean.shape)
    return moments.mean.double(), torch.where(std > 0, std, 1.0)
