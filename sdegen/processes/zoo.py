"""The zoo of scalar forward processes, with the coefficients of each paper and closed forms if they exist.

Times run from 0 (data) to ``T`` (noise). No class here knows about grids, samplers or networks. Processes given by a table of
steps are in `tables`.
"""

from __future__ import annotations

__all__ = ["Cosine", "EDM", "OU", "Rectified", "SubVP", "VE", "VP"]

import math

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from .scalar import ScalarSDE, ScheduleSDE


class VP(ScalarSDE):
    """The variance-preserving SDE (VP): ``dx = −½ beta(t) x dt + √beta(t) dw``, ``beta`` linear from `beta_min` to `beta_max`.

    ``alpha = exp(−½ ∫ beta)``, ``sigma² = 1 − alpha²``. J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic
    models*, 2020, arXiv:2006.11239; Y. Song et al., 2021, arXiv:2011.13456.

    Parameters
    ----------
    beta_min, beta_max
        ``beta`` at 0 and at ``T = 1``, per unit of time.

    Raises
    ------
    ValueError
        Unless ``0 < beta_min <= beta_max``.
    """

    @check_arguments
    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"beta_min = {beta_min}, beta_max = {beta_max}; expected 0 < beta_min <= beta_max.")
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t: Tensor) -> Tensor:
        """Return ``beta_min + t (beta_max − beta_min)``."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """Return ``∫_0^t beta``."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def f(self, t: Tensor) -> Tensor:
        """Return ``−½ beta``."""
        return -0.5 * self.beta(t)

    def g(self, t: Tensor) -> Tensor:
        """Return ``√beta``."""
        return self.beta(t).sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``exp(−½ ∫ beta)``."""
        return (-0.5 * self.integral(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``√(1 − exp(−∫ beta))``."""
        return (-torch.expm1(-self.integral(t))).sqrt()

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * self.integral(t)

    def _invert(self, level: Tensor) -> Tensor:
        """Return the root of the quadratic ``∫ beta = log(1 + 1 / snr)``."""
        return self._time_of_integral(nn.functional.softplus(-level, threshold=40))

    def _time_of_integral(self, B: Tensor) -> Tensor:
        """Return the time at which ``∫ beta`` is `B`."""
        slope = self.beta_max - self.beta_min
        t = 2 * B / (self.beta_min + (self.beta_min**2 + 2 * slope * B).sqrt())
        return torch.where(B.isposinf(), B, t)


class SubVP(VP):
    """The sub-VP SDE: the drift of `VP` with ``g² = beta (1 − exp(−2 ∫ beta))``, so that ``sigma = 1 − alpha²``.

    Y. Song et al., 2021, arXiv:2011.13456.

    Parameters
    ----------
    beta_min, beta_max
        As for `VP`.

    Raises
    ------
    ValueError
        As for `VP`.
    """

    def g(self, t: Tensor) -> Tensor:
        """Return ``√(beta (1 − exp(−2 ∫ beta)))``."""
        return (self.beta(t) * -torch.expm1(-2 * self.integral(t))).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``1 − exp(−∫ beta)``."""
        return -torch.expm1(-self.integral(t))

    def _invert(self, level: Tensor) -> Tensor:
        """Solve ``alpha / (1 − alpha²) = √snr`` for ``∫ beta = 2 asinh(1 / (2 √snr))``, then the quadratic of `VP`."""
        half = -0.5 * level  # of the logarithm: where it is large, asinh(½ e^half) is half, to rounding
        return self._time_of_integral(2 * torch.where(half > 40, half, torch.asinh(0.5 * half.exp())))


class OU(ScalarSDE):
    """The Ornstein–Uhlenbeck process: ``dx = −rate x dt + √(2 rate) dw``, ``alpha = exp(−rate t)``, ``sigma² = 1 − alpha²``.

    Parameters
    ----------
    rate
        Rate at which the mean decays, per unit of time.
    T
        The last time, at which ``alpha = exp(−rate T)`` of the data is left; ``exp(−5)`` by default.

    Raises
    ------
    ValueError
        If `rate` or `T` is not positive.
    """

    @check_arguments
    def __init__(self, rate: float = 1.0, T: float = 5.0) -> None:
        if not (rate > 0 and T > 0):
            raise ValueError(f"rate = {rate}, T = {T}; both must be positive.")
        self.rate, self.T = rate, T

    def f(self, t: Tensor) -> Tensor:
        """Return ``−rate``."""
        return -self.rate + 0 * t

    def g(self, t: Tensor) -> Tensor:
        """Return ``√(2 rate)``."""
        return math.sqrt(2 * self.rate) + 0 * t

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``exp(−rate t)``."""
        return (-self.rate * t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``√(1 − exp(−2 rate t))``."""
        return (-torch.expm1(-2 * self.rate * t)).sqrt()

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -self.rate * t

    def _invert(self, level: Tensor) -> Tensor:
        """Return ``log(1 + 1 / snr) / (2 rate)``."""
        return nn.functional.softplus(-level, threshold=40) / (2 * self.rate)


class VE(ScalarSDE):
    """The variance-exploding SDE (VE): ``alpha = 1``, ``sigma = sigma_min (sigma_max / sigma_min)^t``, no drift.

    ``sigma(0) = sigma_min``: the process begins with data that are smoothed by as much. Y. Song and S. Ermon, 2019,
    arXiv:1907.05600; Y. Song et al., 2021, arXiv:2011.13456.

    Parameters
    ----------
    sigma_min, sigma_max
        ``sigma`` at 0 and at ``T = 1``, in the units of the data.

    Raises
    ------
    ValueError
        Unless ``0 < sigma_min < sigma_max``.
    """

    @check_arguments
    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min = {sigma_min}, sigma_max = {sigma_max}; expected 0 < sigma_min < sigma_max.")
        self.sigma_min, self.sigma_max, self.sigma_0 = sigma_min, sigma_max, sigma_min
        self.log_ratio = math.log(sigma_max / sigma_min)

    def f(self, t: Tensor) -> Tensor:
        """Return 0."""
        return 0 * t

    def g(self, t: Tensor) -> Tensor:
        """Return ``sigma √(2 log(sigma_max / sigma_min))``."""
        return self.sigma(t) * math.sqrt(2 * self.log_ratio)

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1."""
        return 1 + 0 * t

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``sigma_min (sigma_max / sigma_min)^t``."""
        return self.sigma_min * (t * self.log_ratio).exp()

    def _invert(self, level: Tensor) -> Tensor:
        """Return ``log(sigma / sigma_min) / log(sigma_max / sigma_min)``."""
        return (-0.5 * level - math.log(self.sigma_min)) / self.log_ratio


class EDM(ScheduleSDE):
    """The process of EDM: ``alpha = 1`` and ``sigma = sigma_min + t``, with ``T = sigma_max − sigma_min``, so that the noise
    level is the time, but for ``sigma_min``.

    ``sigma(0) = sigma_min``; the step from there to clean data is ``final="denoise"``. T. Karras et al., *Elucidating the
    design space of diffusion-based generative models*, 2022, arXiv:2206.00364.

    Parameters
    ----------
    sigma_min, sigma_max
        ``sigma`` at 0 and at T, in the units of the data.

    Raises
    ------
    ValueError
        Unless ``0 < sigma_min < sigma_max``.
    """

    @check_arguments
    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min = {sigma_min}, sigma_max = {sigma_max}; expected 0 < sigma_min < sigma_max.")
        self.sigma_min, self.sigma_max, self.sigma_0 = sigma_min, sigma_max, sigma_min
        self.T = sigma_max - sigma_min

    def alpha(self, t: Tensor) -> Tensor:
        """Return 1."""
        return 1 + 0 * t

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``sigma_min + t``."""
        return self.sigma_min + t

    def _invert(self, level: Tensor) -> Tensor:
        """Return ``sigma − sigma_min``."""
        return (-0.5 * level).exp() - self.sigma_min


class Cosine(ScheduleSDE):
    """The cosine schedule: ``alpha = cos(½ pi t)``, ``sigma = sin(½ pi t)``, so that ``alpha(1) = 0``.

    The continuous, unclipped form of A. Nichol and P. Dhariwal, *Improved denoising diffusion probabilistic models*, 2021,
    arXiv:2102.09672; the TrigFlow of C. Lu and Y. Song, 2024, arXiv:2410.11081.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``cos(½ pi t)``, exactly 0 at 1."""
        return torch.sin(0.5 * math.pi * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``sin(½ pi t)``."""
        return torch.sin(0.5 * math.pi * t)

    def _invert(self, level: Tensor) -> Tensor:
        """Return ``(2 / pi) acot(√snr)``."""
        return torch.atan((-0.5 * level).exp()) * 2 / math.pi


class Rectified(ScheduleSDE):
    """The straight interpolation of rectified flow: ``alpha = 1 − t``, ``sigma = t``.

    X. Liu, C. Gong, Q. Liu, *Flow straight and fast*, 2022, arXiv:2209.03003; Y. Lipman et al., *Flow matching for
    generative modeling*, 2022, arXiv:2210.02747.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``1 − t``."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``t``."""
        return 1 * t

    def _invert(self, level: Tensor) -> Tensor:
        """Return ``1 / (1 + √snr)``."""
        return (-0.5 * level).sigmoid()
