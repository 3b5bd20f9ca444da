"""Processes on a half-line whose transitions are known: geometric Brownian motion, the square-root process of Cox,
Ingersoll and Ross, and the squared Bessel process.

Each coordinate moves independently, with noise that grows with the coordinate, so that states stay positive. Data are
taken as they are, in no units of their own, since subtracting a mean would not leave them positive.
"""

from __future__ import annotations

__all__ = ["CIR", "GeometricBrownianMotion", "SquaredBessel"]

from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributions import constraints

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.coordinates import Log
from ..laws.kernels import Kernel, StateLaw
from ..laws.mixtures import GaussianMixture, Moments
from ..laws.operators import Scale, rows
from ..laws.positive import LogNormal, LogNormalMixture, NoncentralChiSquare, Repeated
from ..laws.units import Units
from ..warning import warn_caller
from .base import SDE
from .known import KnownSDE

EARLY = 1e-5  # of T, where training times begin: noise is a small part of data about 1 there
FEWEST = 0.04  # degrees of freedom: with fewer, more than one state in a million is too near to 0 for float64
FARTHEST = 700.0  # the logarithm of a state, whose exponential is a number up to about 709


class _Positive(KnownSDE):
    """The base class of processes of positive coordinates: subclasses give `drift`, `diffusion`, `law_after` and `prior`."""

    domain, free = constraints.positive, Log()

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """The time at which the standard deviation of the noise is 1/300 of that at T."""
        return EARLY * self.T

    @abstractmethod
    def law_after(self, x: Tensor, h: Tensor) -> StateLaw:
        """Return the law of the state after times `h`, ``()`` or ``(B,)``, from `x`, float64."""

    def law(self, x_s: Tensor, s: Tensor, t: Tensor) -> StateLaw:
        """Return the law of ``x_t`` given `x_s`, which depends on ``t − s`` alone."""
        return self.law_after(x_s.double(), t - s)


class GeometricBrownianMotion(_Positive):
    """Geometric Brownian motion, ``dx = mu x dt + sigma x dw``: the logarithm is a Brownian motion with drift.

    ``log x_t ~ N(log x_s + (mu − ½ sigma²)(t − s), sigma² (t − s))``. Nothing is forgotten, but noise outgrows the spread of the
    data, as in `VE`. P. Samuelson, *Rational theory of warrant pricing*, 1965; F. Black and M. Scholes, *The pricing of options
    and corporate liabilities*, 1973.

    Parameters
    ----------
    mu
        Rate at which the mean grows.
    sigma
        Volatility.
    T
        The last time: ``sigma √T`` is the standard deviation of the noise in the logarithm.

    Raises
    ------
    ValueError
        If `sigma` or `T` is not positive, or states at T are too large or too small for float64.
    """

    @check_arguments
    def __init__(self, mu: float = 0.0, sigma: float = 1.0, T: float = 9.0) -> None:
        if not (sigma > 0 and T > 0):
            raise ValueError(f"sigma = {sigma}, T = {T}; both must be positive.")
        if (far := abs(mu - 0.5 * sigma**2) * T + 6 * sigma * T**0.5) > FARTHEST:
            raise ValueError(
                f"mu = {mu:g}, sigma = {sigma:g}, T = {T:g}: logarithms of states move by up to {far:.3g}, and exp({FARTHEST:g}) "
                "is the largest number that there is; give an earlier T."
            )
        self.mu, self.sigma, self.T = mu, sigma, T
        self.units = Units()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``mu x``."""
        return self.mu * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``sigma x``."""
        return self.sigma * x

    def law_after(self, x: Tensor, h: Tensor) -> LogNormal:
        """Return the log-normal law after times `h` from `x`."""
        mean = x.log() + (self.mu - 0.5 * self.sigma**2) * rows(h, x)
        return LogNormal(Kernel(mean, Scale(self.sigma * h.sqrt())))

    def prior(self, moments: Moments) -> LogNormalMixture:
        """Return the log-normal law with the mean and the covariance that states have at T; exact for log-normal data.

        The logarithms have the covariance ``log(1 + C_ij / m_i m_j) + sigma² T δ_ij``, for data of mean `m` and
        covariance `C`.

        Raises
        ------
        ValueError
            If a mean is not positive.
        """
        mean, noise = _check_mean(self, moments).flatten(), self.sigma**2 * self.T
        C = moments.covariance.double()
        if C.ndim == 2:
            values, vectors = torch.linalg.eigh((C / torch.outer(mean, mean)).log1p())
            C = (vectors * (values.clamp_min(0) + noise)) @ vectors.T  # a covariance has no negative eigenvalues
            variances = C.diagonal()
        else:
            variances = (C / mean.square()).log1p() + noise
            C = variances.reshape(moments.mean.shape)
        centre = (mean.log() + self.mu * self.T - 0.5 * variances).reshape(moments.mean.shape)
        return LogNormalMixture(GaussianMixture(torch.ones(1, dtype=torch.float64), centre[None], C[None]))


class _SquareRoot(_Positive):
    """The base class of processes that are a squared Bessel process in another clock and scale: after a time `h` the
    state is ``scale`` times a non-central chi-square number with `df` degrees of freedom and non-centrality ``kept x /
    scale``.
    """

    starts = constraints.nonnegative
    df: float

    @abstractmethod
    def clock(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is kept of a state after times `h`, and the scale of the noise."""

    def law_after(self, x: Tensor, h: Tensor) -> NoncentralChiSquare:
        """Return the scaled non-central chi-square law after times `h` from `x`."""
        kept, scale = self.clock(h)
        return NoncentralChiSquare(self.df, rows(kept, x) * x, rows(scale, x))

    def prior(self, moments: Moments) -> Repeated:
        """Return a law of independent coordinates with the means and variances that the state has at T.

        The law is scaled non-central chi-square with the degrees of freedom of the process, as if states came from one point,
        where there is such a law: if data of mean `m` and variance `v` have ``df v <= 2 m²``. Otherwise it is a gamma law.

        Raises
        ------
        ValueError
            If a mean is not positive.
        """
        m, C = _check_mean(self, moments), moments.covariance.double()
        v = (C.diagonal() if C.ndim == 2 else C).reshape(m.shape)
        kept, scale = self.clock(torch.as_tensor(self.T, dtype=torch.float64))
        mean = kept * m + self.df * scale
        variance = kept.square() * v + scale * (2 * self.df * scale + 4 * kept * m)
        start = (mean.square() - 0.5 * self.df * variance).clamp_min(0).sqrt()
        df = torch.where(start > 0, self.df, 2 * mean.square() / variance)
        return Repeated(NoncentralChiSquare(df, start[None], 0.5 * variance / (mean + start)), m.shape)

    def _check_zero(self, said: str) -> None:
        """Warn where paths reach 0, at which scores grow without bound and means of losses are infinite.

        Parameters
        ----------
        said
            The beginning of the message: which parameter is too small.

        Raises
        ------
        ValueError
            If many states are nearer to 0 than any number of float64.
        """
        if self.df < FEWEST:
            raise ValueError(
                f"{said} by far: with {self.df:.2g} degrees of freedom many states are nearer to 0 than any number; give at "
                f"least {FEWEST}."
            )
        if self.df < 2:
            warn_caller(
                f"{said}: paths reach 0, near which the score grows like 1 / x. The transitions are exact all the same, "
                "but the mean of a loss that is weighted by the noise is infinite."
            )


class CIR(_SquareRoot):
    """The square-root process of Cox, Ingersoll and Ross, ``dx = kappa (theta − x) dt + sigma √x dw``.

    Given `x_s` and ``h = t − s``, ``x_t / c`` is non-central chi-square with ``4 kappa theta / sigma²`` degrees of
    freedom and non-centrality ``exp(−kappa h) x_s / c``, where ``c = sigma² (1 − exp(−kappa h)) / 4 kappa``. The
    stationary law is gamma, of mean `theta` and variance ``theta sigma² / 2 kappa``; the prior has the moments of states at T,
    and for late `T` becomes the stationary law. Where ``2 kappa theta < sigma²`` (W. Feller, *Two singular diffusion problems*,
    1951) paths reach 0, and a warning says what does not hold there. J. Cox, J. Ingersoll, S. Ross, *A theory of the term
    structure of interest rates*, 1985.

    Parameters
    ----------
    kappa
        Rate of return to the mean.
    theta
        The mean of the stationary law.
    sigma
        Strength of the noise.
    T
        The last time; ``exp(−kappa T)`` of the data is left there.

    Raises
    ------
    ValueError
        If a parameter is not positive, or there are less than 0.04 degrees of freedom, so that many states are nearer to 0 than
        any number of float64.
    """

    @check_arguments
    def __init__(self, kappa: float = 1.0, theta: float = 1.0, sigma: float = 1.0, T: float = 5.0) -> None:
        if not (kappa > 0 and theta > 0 and sigma > 0 and T > 0):
            raise ValueError(f"kappa = {kappa}, theta = {theta}, sigma = {sigma}, T = {T}; all must be positive.")
        self.kappa, self.theta, self.sigma, self.T = kappa, theta, sigma, T
        self.df = 4 * kappa * theta / sigma**2
        self.units = Units()
        self._check_zero(f"2 kappa theta = {2 * kappa * theta:.6g} is below sigma² = {sigma**2:.6g}")

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``kappa (theta − x)``."""
        return self.kappa * (self.theta - x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``sigma √x``."""
        return self.sigma * x.sqrt()

    def clock(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``exp(−kappa h)`` and ``sigma² (1 − exp(−kappa h)) / 4 kappa``."""
        return (-self.kappa * h).exp(), -torch.expm1(-self.kappa * h) * self.sigma**2 / (4 * self.kappa)


class SquaredBessel(_SquareRoot):
    """The squared Bessel process of dimension `delta`, ``dx = delta dt + 2 √x dw``: for whole numbers, the square of
    the length of a Brownian motion in as many dimensions.

    Given `x_s` and ``h = t − s``, ``x_t / h`` is non-central chi-square with `delta` degrees of freedom and
    non-centrality ``x_s / h``. Nothing is forgotten, but noise outgrows the spread of the data, as in `VE`. Where ``delta < 2``
    paths reach 0, and a warning says what does not hold there. D. Revuz and M. Yor, *Continuous martingales and Brownian motion*,
    1999, chapter XI.

    Parameters
    ----------
    delta
        The dimension.
    T
        The last time; the state there has the mean ``x_0 + delta T``.

    Raises
    ------
    ValueError
        If `delta` or `T` is not positive, or `delta` is below 0.04, so that many states are nearer to 0 than any number of
        float64.
    """

    @check_arguments
    def __init__(self, delta: float = 4.0, T: float = 5.0) -> None:
        if not (delta > 0 and T > 0):
            raise ValueError(f"delta = {delta}, T = {T}; both must be positive.")
        self.delta, self.T = delta, T
        self.df = delta
        self.units = Units()
        self._check_zero(f"delta = {delta:.6g} is below 2")

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return `delta`."""
        return torch.full_like(x, self.delta)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``2 √x``."""
        return 2 * x.sqrt()

    def clock(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and `h`."""
        return torch.ones_like(h), h


def _check_mean(sde: SDE, moments: Moments) -> Tensor:
    """Return the mean of data, float64; refuse a mean that positive data cannot have.

    Raises
    ------
    ValueError
        If a coordinate of the mean is not positive and finite.
    """
    mean = moments.mean.double()
    for value in mean.flatten().tolist():
        check_number("the mean of the data", value, above=0, hint=f", since data of {type(sde).__name__} are positive")
    return mean
