"""Laws of positive states, coordinate by coordinate: log-normal, and scaled non-central chi-square with its central
case, the gamma law.

The laws of a state have one row for each state of a batch, and `sample(z)` returns the quantile at ``Phi(z)`` in each
coordinate, so that noise is reproducible and may be mirrored. They compute in float64 and answer in the dtype and on
the device of what they are asked about; log-densities are float32 at least. Log-densities and scores can be
differentiated by the state.
"""

from __future__ import annotations

__all__ = ["LogNormal", "LogNormalMixture", "NoncentralChiSquare", "Repeated"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..precision import widened
from ..show import show_call
from .bessel import bessel_ratio
from .chi_square import log_density_of_root, quantile_of_root
from .draws import check_draws, refuse_derivatives
from .kernels import Kernel, check_noise
from .mixtures import GaussianMixture
from .vectors import sum_rows

FARTHEST = 1e9  # spreads between a state and 0: beyond, the root of the state is normal


class _Exponential:
    """The law of ``x = e^u`` for a law of `u` that has log-density and score: ``log p(x) = log p_u(log x) − Σ log x``."""

    __repr__ = show_call

    log: Any

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, in float32 at least; minus infinity where a coordinate is not
        positive.
        """
        u = x.double().log()
        found = self.log.log_prob(u) - sum_rows(u)
        return _mask_outside(x, found)

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x) = (∇ log p_u(log x) − 1) / x``."""
        y = x.double()
        return ((self.log.score(y.log()) - 1) / y).to(x)


class LogNormal(_Exponential):
    """The law of a state ``x = e^u`` with ``u ~ N(mean, R Rᵀ)``, one for each row of a batch.

    Parameters
    ----------
    log
        The Gaussian law of the logarithm, float64.
    """

    def __init__(self, log: Kernel) -> None:
        self.log = log

    def sample(self, z: Tensor) -> Tensor:
        """Return ``exp(mean + R z)``, for standard normal noise `z` of the shape of the state."""
        return _cast_positive(self.log.sample(z.double()).exp(), z)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, in float32 at least; minus infinity where a coordinate is not
        positive.
        """
        check_noise(self.log.R.log_abs_det().exp())
        return super().log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x) = −(1 + R⁻ᵀ R⁻¹ (log x − mean)) / x``."""
        check_noise(self.log.R.log_abs_det().exp())
        return super().score(x)


class LogNormalMixture(_Exponential):
    """The law of data ``x = e^u``, where `u` is from a Gaussian mixture.

    Parameters
    ----------
    log
        The mixture that the logarithm is from.
    """

    def __init__(self, log: GaussianMixture) -> None:
        self.log = log

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points, ``(n, *event_shape)``, float64."""
        x: Tensor = self.log.sample(n, generator).exp()
        return x


class NoncentralChiSquare:
    """The law of ``scale`` times a non-central chi-square number with `df` degrees of freedom and non-centrality
    ``start / scale``, in each coordinate: of mean ``start + df scale`` and variance ``2 df scale² + 4 start scale``.

    ``p(x) = 1/(2c) (x / m)^(order / 2) exp(−(x + m) / 2c) I_order(√(m x) / c)`` for the start `m`, the scale `c` and
    ``order = ½ df − 1``. Where the start is 0 this is the gamma law of shape ``½ df`` and rate ``1 / 2c``.

    Parameters
    ----------
    df
        Degrees of freedom, above 0: a number, or one for each coordinate.
    start
        ``(B, *)``, at least 0: the state without noise.
    scale
        At least 0, of a shape that broadcasts with `start`. Where it is 0, the state is `start`.
    """

    __repr__ = show_call

    def __init__(self, df: Tensor | float, start: Tensor, scale: Tensor) -> None:
        self.start, self.scale = start.double(), scale.to(start.device, torch.float64)
        df = torch.as_tensor(df, dtype=torch.float64)
        self.df = df.to(start.device) if df.ndim else df.cpu()  # a number is read, for which an accelerator would wait

    def sample(self, z: Tensor) -> Tensor:
        """Return the quantile of each coordinate at ``Phi(z)``, for standard normal noise `z` of the shape of the
        state.

        A number below the smallest normal number of its dtype is rounded up to that.
        """
        refuse_derivatives(self, self.start, z)
        distance = (self.start / self.scale).sqrt().nan_to_num(0.0, posinf=math.inf)
        a = distance.clamp_max(FARTHEST)
        s = quantile_of_root(self.df.cpu(), a.cpu(), z.double().cpu()).to(a)
        x = torch.where(a > 1, self.start * (s / a).square(), self.scale * s.square())
        x = torch.where(distance > FARTHEST, self.start * (1 + (s - a) / distance).square(), x)
        return _cast_positive(x, z)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, in float32 at least; minus infinity where a coordinate is not
        positive.
        """
        check_noise(self.scale)
        y, root = x.double(), self.scale.sqrt()
        s, a = y.sqrt() / root, self.start.sqrt() / root
        w = (y.sqrt() - self.start.sqrt()) / root
        each = log_density_of_root(self.df, a, s, w) - 0.5 * (4 * self.scale * y).log()
        return _mask_outside(x, sum_rows(each))

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x) = order / x + (r √(m / x) − 1) / 2c`` with ``r = I_{order + 1} / I_order`` at ``√(m x) /
        c``.
        """
        check_noise(self.scale)
        y, order = x.double(), 0.5 * self.df - 1
        ratio = bessel_ratio(order, self.start.sqrt() * y.sqrt() / self.scale)
        return (order / y + (self.start / self.scale * ratio - 1) / (2 * self.scale)).to(x)


class Repeated:
    """The law of a state, the same for every draw, as a distribution.

    Parameters
    ----------
    law
        The law, with one row.
    event_shape
        The shape of a state.
    """

    __repr__ = show_call

    def __init__(self, law: LogNormal | NoncentralChiSquare, event_shape: Sequence[int]) -> None:
        self.law, self.event_shape = law, torch.Size(event_shape)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points, ``(n, *event_shape)``, float64."""
        n = check_draws(n, generator)
        return self.law.sample(torch.randn(n, *self.event_shape, dtype=torch.float64, generator=generator))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, in float32 at least."""
        return self.law.log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x)``, of the shape of `x`."""
        return self.law.score(x)


def _mask_outside(x: Tensor, log_density: Tensor) -> Tensor:
    """Return the log-density of positive rows as it is, and minus infinity of others, in float32 at least."""
    positive = (x > 0).reshape(len(x), -1).all(1)
    return torch.where(positive, log_density, -math.inf).to(widened(x))


def _cast_positive(x: Tensor, like: Tensor) -> Tensor:
    """Return positive numbers in the dtype of `like`, none of which becomes 0."""
    return x.clamp_min(torch.finfo(like.dtype).tiny).to(like)
