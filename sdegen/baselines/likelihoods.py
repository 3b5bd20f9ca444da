"""Likelihoods ``p(x | z)`` of a decoder, with coordinates independent given the latent: Gaussian, Bernoulli, continuous
Bernoulli.
"""

from __future__ import annotations

__all__ = ["Bernoulli", "Continuous", "Gaussian", "PixelLaw"]

from abc import ABC, abstractmethod
from copy import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

from ..answers import check_answer
from ..arguments import check_arguments
from ..blocks import OfTensors
from ..laws.draws import noise_like, uniform_like
from ..laws.units import Units
from ..laws.vectors import sum_rows
from ..show import show_call


class PixelLaw(OfTensors, ABC):
    """A likelihood ``p(x | z)`` whose parameters are a decoder's output, with coordinates independent given `z`."""

    outputs = 1  # numbers of the decoder for a number of the data, along dimension 1
    interval: tuple[float, float] | None = None  # outside of which data have no density; None for all numbers

    __repr__ = show_call

    @abstractmethod
    def each(self, x: Tensor, out: Tensor) -> Tensor:
        """Return the log-likelihood of every coordinate, of the shape of `x`; NaN outside the support."""

    @abstractmethod
    def mean(self, out: Tensor) -> Tensor:
        """Return the mean of ``p(x | z)``, of the shape of the data."""

    @abstractmethod
    def draw(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a sample of the shape of data."""

    def in_units(self, units: Units) -> PixelLaw:
        """Return the likelihood of the same data in other units; here the same, if it has no parameter in units of the data."""
        return self

    def log_prob(self, x: Tensor, out: Any) -> Tensor:
        """Return ``log p(x | z)`` of data in nats, ``(B,)``, from a decoder's answer, which is checked.

        Raises
        ------
        TypeError, ValueError
            If the decoder's answer is no tensor, or does not have the shape that the data need.
        """
        expected = (len(x), self.outputs * x.shape[1], *x.shape[2:])
        must = f"{self.outputs} for every number, {expected}, as {type(self).__name__} needs"
        return sum_rows(self.each(x, check_answer("the decoder", out, expected, x, must)))


class Gaussian(PixelLaw):
    """The Gaussian likelihood ``N(x; out, std²)`` around a decoder's output.

    D. Kingma and M. Welling, 2013, arXiv:1312.6114, appendix C.

    Parameters
    ----------
    std
        Standard deviation of every number, in the data's own units. None: the decoder gives its logarithm, in as many channels
        more.

    Raises
    ------
    ValueError
        If `std` is not positive.
    """

    @check_arguments
    def __init__(self, std: float | None = None) -> None:
        if std is not None and not std > 0:
            raise ValueError(f"std = {std}; it must be positive, or None to be learned.")
        self.std, self._std = std, torch.tensor(1.0 if std is None else std, dtype=torch.float64)
        self.outputs = 2 if std is None else 1

    def in_units(self, units: Units) -> Gaussian:
        """Return the likelihood of the same data in other units, with the given standard deviation in these units."""
        if self.std is None or units.plain:
            return self
        other = copy(self)
        other._std = self._std / units.std
        return other

    def law(self, out: Tensor) -> Normal:
        """Return the normal law of the data given the decoder's output."""
        if self.std is not None:
            return Normal(out, self._std.to(out).expand_as(out), validate_args=False)
        mean, log_std = out.chunk(2, 1)
        return Normal(mean, log_std.exp(), validate_args=False)

    def each(self, x: Tensor, out: Tensor) -> Tensor:
        """Return ``log N(x; mean, std²)``."""
        return self.law(out).log_prob(x)

    def mean(self, out: Tensor) -> Tensor:
        """Return the mean."""
        return self.law(out).mean

    def draw(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a sample of the shape of data."""
        law = self.law(out)
        return law.mean + law.stddev * noise_like(law.mean, generator)


class Bernoulli(PixelLaw):
    """The Bernoulli likelihood of binary data, ``p^x (1 − p)^(1 − x)``, with ``logit p`` from the decoder.

    Grey values in between are commonly given to it, as a cross-entropy. That is no density of greys, and its bounds in nats
    cannot be compared with densities; `Continuous` is a density. D. Kingma and M. Welling, 2013, arXiv:1312.6114, appendix C.
    """

    interval = (0.0, 1.0)

    def each(self, x: Tensor, out: Tensor) -> Tensor:
        """Return ``x log p + (1 − x) log(1 − p)``, for x in [0, 1]."""
        return torch.where((x >= 0) & (x <= 1), x * out - F.softplus(out), torch.nan)

    def mean(self, out: Tensor) -> Tensor:
        """Return the probability p."""
        return out.sigmoid()

    def draw(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a sample of the shape of data."""
        return (uniform_like(out, generator) < out.sigmoid()).to(out)


class Continuous(PixelLaw):
    """The continuous Bernoulli likelihood of data in [0, 1], ``λ exp(λ x) / (exp(λ) − 1)``, with λ, the logit of p, from
    the decoder.

    G. Loaiza-Ganem and J. Cunningham, *The continuous Bernoulli: fixing a pervasive error in variational autoencoders*,
    2019, arXiv:1907.06845. Written in λ the formula holds for every λ, as pixels that are always black need; torch's own, in p,
    is cut off at |λ| = 16 in float32.
    """

    interval = (0.0, 1.0)

    def each(self, x: Tensor, out: Tensor) -> Tensor:
        """Return ``log p``: the distance from the end that the law leans to is exponential with rate ``|λ|``, cut off at one."""
        rate, near = out.abs(), out.abs() < 1e-2  # near 0 the formula cancels, and its series in λ stands in
        a = torch.where(near, 1.0, rate)
        distance = torch.where(out < 0, x, 1 - x)
        value = a.log() - (-torch.expm1(-a)).log() - a * distance
        value = torch.where(near, out * x - out / 2 - out.square() / 24, value)
        return torch.where((x >= 0) & (x <= 1), value, torch.nan)

    def mean(self, out: Tensor) -> Tensor:
        """Return the mean, at the distance ``1 / |λ| − 1 / (exp|λ| − 1)`` from the end that the law leans to."""
        rate, near = out.abs(), out.abs() < 0.1  # as in `each`
        a = torch.where(near, 1.0, rate)
        distance = torch.where(near, 0.5 - rate / 12 + rate**3 / 720, 1 / a + (-a).exp() / torch.expm1(-a))
        return torch.where(out < 0, distance, 1 - distance)

    def draw(self, out: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a sample by the inverse of the distribution function."""
        a = out.abs().clamp_min(1e-6)
        distance = -torch.log1p(uniform_like(out, generator) * torch.expm1(-a)) / a
        return torch.where(out < 0, distance, 1 - distance)
