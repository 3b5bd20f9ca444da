"""Laws of the noise of measurements: the law of a measured number, given the number without noise.

A law has the log-likelihood of measured values, and draws them. Methods that need a Gaussian take the Gaussian that has the slope
of the log-likelihood at a point, and the Fisher information there as its curvature (`NoiseLaw.local_gaussian`). For Gaussian
noise this is the likelihood itself; for other noise it is an approximation, which is good if the prediction is precise.
"""

from __future__ import annotations

__all__ = [
    "BernoulliNoise", "GaussianNoise", "LaplaceNoise", "LocalGaussian", "NoiseLaw", "PoissonNoise", "QuantisedNoise",
    "StudentNoise",
]  # fmt: skip

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributions
from torch.distributions import constraints

from ..answers import check_answer
from ..arguments import asked_as, check_arguments
from ..blocks import OfTensors
from ..checks import check_number
from ..fixed import Fixed
from ..laws.draws import noise_like
from ..laws.products import pull_back
from ..laws.vectors import as_vectors, sum_rows
from ..seeding import seeded
from ..show import show_call


class LocalGaussian(NamedTuple):
    """A Gaussian in place of a likelihood near clean measurements `z`: ``log p(y | z + d) ≈ height − ½ Σ ((residual − d)/std)²``.

    Attributes
    ----------
    height
        The largest value, ``(B,)``; 0 if it is a constant of the noise.
    residual
        The distance of the Gaussian's mean from `z`, ``(B, *)``: ``y − z`` for Gaussian noise.
    std
        The standard deviation, a number or ``(B, *)``.
    """

    height: Tensor | float
    residual: Tensor
    std: Tensor | float


@asked_as("a law of noise, such as measurements.PoissonNoise(), or the standard deviation of Gaussian noise")
class NoiseLaw(OfTensors, Fixed, ABC):
    """The base class of laws of noise: the law of each measured number, given the number without noise.

    Subclass it with `law`, and with `information` if the law has no mean or variance, or more information than these tell.

    Attributes
    ----------
    support
        The values that can be measured, a constraint of ``torch.distributions``.
    values
        These values, in the words of an error.
    """

    support: Any = constraints.real
    values: str = "finite numbers"

    __repr__ = show_call

    @abstractmethod
    def law(self, z: Tensor) -> distributions.Distribution:
        """Return the laws of the measured numbers, of ``torch.distributions``, one for each of the noiseless numbers `z`."""

    def information(self, y: Tensor, z: Tensor) -> Tensor:
        """Return the Fisher information about `z` in a measurement, of the shape of `z`, or another positive curvature of the
        negative log-likelihood of `y`.

        By default it is ``(∂m/∂z)² / v`` with mean `m` and variance `v` of the law: the Fisher information itself in families
        such as Poisson's, and a lower bound on it in others.
        """
        mean, _, back = pull_back(lambda z: (self.law(z).mean, ()), z)
        return back(torch.ones_like(mean)).square() / self.law(z).variance

    def log_prob(self, y: Tensor, z: Tensor) -> Tensor:
        """Return ``log p(y | z)`` in nats, summed over a row, ``(B,)``; raise a ValueError if `y` is impossible."""
        self.check_seen(y)
        return as_vectors(self._each(y, z)).sum(1)

    def sample(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw measured values, given those without noise `z`, and return them, of the same shape."""
        with seeded(generator):
            return self.law(z).sample().to(z.dtype)

    def local_gaussian(self, y: Tensor, z: Tensor) -> LocalGaussian:
        """Return the Gaussian that has the value and the slope of the log-likelihood at `z`, and its `information` as
        curvature.
        """
        self.check_seen(y)
        each, _, back = pull_back(lambda z: (self._each(y, z), ()), z)
        slope, information = back(torch.ones_like(each)), self.information(y, z)
        residual = slope / information
        height = sum_rows(each + 0.5 * slope * residual)
        return LocalGaussian(height, residual, information.rsqrt())

    def check_seen(self, y: Tensor) -> None:
        """Raise a ValueError for numbers that this noise cannot give."""
        bad = ~self.support.check(y) | ~y.isfinite()
        if bad.any():
            raise ValueError(
                f"y holds {y[bad][0].item():.6g}, which {type(self).__name__} never gives; it gives {self.values}: look at "
                "what was measured, or take another noise."
            )

    def _each(self, y: Tensor, z: Tensor) -> Tensor:
        """Return the log-likelihood of each number."""
        said = self.law(z).log_prob(y)
        return check_answer(f"{type(self).__name__}.law", said, z.shape, z, "a law of each number")


class GaussianNoise(NoiseLaw):
    """Normal noise of one standard deviation: ``y = z + std n``.

    Parameters
    ----------
    std
        Standard deviation, in units of the measurement; positive.

    Raises
    ------
    ValueError
        If `std` is not positive.
    """

    @check_arguments
    def __init__(self, std: float) -> None:
        if not (std > 0 and math.isfinite(std)):
            raise ValueError(
                f"std = {std}; a measurement has some noise: give its standard deviation, a positive number."
            )
        self.std = float(std)

    def law(self, z: Tensor) -> distributions.Distribution:
        """Return ``N(z, std²)``."""
        return distributions.Normal(z, self.std, validate_args=False)

    def sample(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return ``z + std n``."""
        return z + self.std * noise_like(z, generator)

    def local_gaussian(self, y: Tensor, z: Tensor) -> LocalGaussian:
        """Return the likelihood itself, up to a constant: residual ``y − z`` and `std`."""
        return LocalGaussian(0.0, y - z, self.std)


class PoissonNoise(NoiseLaw):
    """Counts of independent events, ``y ~ Poisson(z)``: the number without noise is the mean, a positive number.

    Its information is ``1 / z``, so that the local Gaussian is ``N(z, z)``, as for many counts.

    Raises
    ------
    ValueError
        At a call, if a rate is not positive, or measured values are not counts.
    """

    support, values = constraints.nonnegative_integer, "counts 0, 1, 2, …"

    def law(self, z: Tensor) -> distributions.Distribution:
        """Return the Poisson law of rate `z`."""
        if not (z > 0).all():
            raise ValueError(
                f"PoissonNoise has a rate of {z[~(z > 0)][0].item():.6g}; let what is measured end in a positive number, as by "
                "softplus or exp, or add a background."
            )
        return distributions.Poisson(z, validate_args=False)

    def information(self, y: Tensor, z: Tensor) -> Tensor:
        """Return ``1 / z``."""
        return 1 / z


class LaplaceNoise(NoiseLaw):
    """Noise with the density ``exp(−|y − z| / scale) / (2 scale)``; its information is ``1 / scale²`` everywhere.

    Parameters
    ----------
    scale
        Mean size of the noise; positive.

    Raises
    ------
    ValueError
        If `scale` is not positive.
    """

    @check_arguments
    def __init__(self, scale: float) -> None:
        self.scale = check_number("scale", scale, above=0)

    def law(self, z: Tensor) -> distributions.Distribution:
        """Return the Laplace law around `z`."""
        return distributions.Laplace(z, self.scale, validate_args=False)

    def information(self, y: Tensor, z: Tensor) -> Tensor:
        """Return ``1 / scale²``."""
        return torch.full_like(z, self.scale**-2)


class StudentNoise(NoiseLaw):
    """Student's noise, ``y = z + scale t`` with `t` of `df` degrees of freedom: far outliers happen, and pull little.

    Its information is ``(df + 1) / ((df + 3) scale²)`` everywhere.

    Parameters
    ----------
    df
        Degrees of freedom: 1 is Cauchy's law, many are the normal law.
    scale
        The factor on `t`; positive.

    Raises
    ------
    ValueError
        If `df` or `scale` is not positive.
    """

    @check_arguments
    def __init__(self, df: float, scale: float) -> None:
        self.df, self.scale = check_number("df", df, above=0), check_number("scale", scale, above=0)

    def law(self, z: Tensor) -> distributions.Distribution:
        """Return Student's law around `z`."""
        return distributions.StudentT(self.df, z, self.scale, validate_args=False)

    def information(self, y: Tensor, z: Tensor) -> Tensor:
        """Return ``(df + 1) / ((df + 3) scale²)``."""
        return torch.full_like(z, (self.df + 1) / ((self.df + 3) * self.scale**2))


class BernoulliNoise(NoiseLaw):
    """Yes or no: ``y = 1`` with probability ``1 / (1 + exp(−z))``, else 0; the numbers without noise are log-odds.

    Its information is ``p (1 − p)``, or the rounding of the dtype if that is larger.

    Raises
    ------
    ValueError
        At a call, if a measured value is neither 0 nor 1.
    """

    support, values = constraints.boolean, "0 or 1"

    def law(self, z: Tensor) -> distributions.Distribution:
        """Return the Bernoulli law of log-odds `z`."""
        return distributions.Bernoulli(logits=z, validate_args=False)

    def information(self, y: Tensor, z: Tensor) -> Tensor:
        """Return ``p (1 − p)``."""
        return (z.sigmoid() * (-z).sigmoid()).clamp_min(torch.finfo(z.dtype).eps)


class QuantisedNoise(NoiseLaw):
    """Normal noise, then rounding to levels ``offset + k step``: ``p(y | z)`` is the probability of the interval rounded to `y`.

    The curvature of its local Gaussian is the observed information, which is never negative: it is nearly 0 if `z` lies within a
    wide interval, ``1 / std²`` if `z` lies outside, and ``1 / (std² + step² / 12)`` if steps are short.

    Parameters
    ----------
    step
        Distance of the levels; positive.
    std
        Standard deviation of the noise before rounding; positive.
    offset
        One of the levels.

    Raises
    ------
    ValueError
        If `step` or `std` is not positive; at a call, if a measured value lies between the levels.
    """

    @check_arguments
    def __init__(self, step: float, std: float, offset: float = 0.0) -> None:
        self.step, self.std = check_number("step", step, above=0), check_number("std", std, above=0)
        self.offset = offset
        self.values = f"levels {offset:.6g} + {step:.6g} k, with whole numbers k"

    def law(self, z: Tensor) -> distributions.Distribution:
        """Return the law of rounded normal numbers around `z`."""
        return _Rounded(z, self)

    def information(self, y: Tensor, z: Tensor) -> Tensor:
        """Return ``−∂² log p(y | z) / ∂z²``, at least ``1 / std²`` times the rounding of the dtype."""

        def slope(z: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            each, _, back = pull_back(lambda z: (self._each(y.double(), z), ()), z)
            return back(torch.ones_like(each)), ()

        found, _, back = pull_back(slope, z.double())
        curvature = -back(torch.ones_like(found)) * self.std**2
        return curvature.clamp(torch.finfo(z.dtype).eps, 1.0).to(z.dtype) / self.std**2

    def check_seen(self, y: Tensor) -> None:
        """Raise a ValueError for numbers between the levels."""
        k = (y.double() - self.offset) / self.step
        rounding = torch.finfo(y.dtype).eps * (y.double().abs() + abs(self.offset)) / self.step
        between = ~((k - k.round()).abs() <= 1e-6 + 4 * rounding)
        if between.any():
            raise ValueError(
                f"y holds {y[between][0].item():.6g}, which {self!r} never gives; it gives {self.values}: look at what was "
                "measured, or give step and offset of its levels."
            )


class _Rounded(distributions.Distribution):
    """The law of normal numbers rounded to levels."""

    def __init__(self, z: Tensor, noise: QuantisedNoise) -> None:
        super().__init__(z.shape, validate_args=False)
        self.z, self.noise = z, noise

    def log_prob(self, y: Tensor) -> Tensor:
        """Return the logarithm of the probability of the interval that is rounded to `y`."""
        far, half, std = (y - self.z).double().abs(), self.noise.step / 2, self.noise.std
        # Both ends are on the side where the normal distribution function is small, and differences there are accurate.
        near, beyond = (torch.special.log_ndtr((end - far) / std) for end in (half, -half))
        return (near + (-torch.expm1(beyond - near)).log()).to(self.z.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw normal numbers, and round them."""
        noise = self.noise
        seen = self.z + noise.std * torch.randn((*sample_shape, *self.z.shape), dtype=self.z.dtype).to(self.z.device)
        return noise.offset + noise.step * ((seen - noise.offset) / noise.step).round()
