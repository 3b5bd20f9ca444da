"""The zoo of forward processes. Each is a few lines: the coefficients of the paper, and closed forms where they exist.

Times run from 0 (data) to ``T`` (noise). No class here knows about grids, samplers or networks.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .double_well import DoubleWell, Stationary
from .linear import LinearSDE
from .matrix import MatrixSDE
from .quadrature import van_loan
from .scalar import ScalarSDE, ScheduleSDE

__all__ = [
    "CLD", "DDPM", "EDM", "OU", "VE", "VP", "Cosine", "DoubleWell", "Rectified", "Stationary", "SubVP",
    "constant_betas", "cosine_betas", "linear_betas", "sigmoid_betas",
]  # fmt: skip


class VP(ScalarSDE):
    """Variance preserving: ``dx = −½ beta(t) x dt + √beta(t) dw``, ``beta`` linear from `beta_min` to `beta_max`.

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

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max:
            raise ValueError(f"beta_min = {beta_min}, beta_max = {beta_max}; expected 0 < beta_min <= beta_max.")
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t: Tensor) -> Tensor:
        """``beta_min + t (beta_max − beta_min)``."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        """``∫_0^t beta``."""
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def f(self, t: Tensor) -> Tensor:
        """``−½ beta``."""
        return -0.5 * self.beta(t)

    def g(self, t: Tensor) -> Tensor:
        """``√beta``."""
        return self.beta(t).sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        """``exp(−½ ∫ beta)``."""
        return (-0.5 * self.integral(t)).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """``√(1 − exp(−∫ beta))``."""
        return (-torch.expm1(-self.integral(t))).sqrt()

    def time(self, snr: Tensor | float) -> Tensor:
        """The root of a quadratic: ``∫ beta = log(1 + 1 / snr)``."""
        B = torch.log1p(1 / torch.as_tensor(snr, dtype=torch.float64).cpu())
        slope = self.beta_max - self.beta_min
        t = 2 * B / (self.beta_min + (self.beta_min**2 + 2 * slope * B).sqrt())
        return _within(self, t, snr)


class SubVP(VP):
    """Sub-VP: the drift of `VP` with ``g² = beta (1 − exp(−2 ∫ beta))``, so that ``sigma = 1 − alpha²``.

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
        """``√(beta (1 − exp(−2 ∫ beta)))``."""
        return (self.beta(t) * -torch.expm1(-2 * self.integral(t))).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """``1 − exp(−∫ beta)``."""
        return -torch.expm1(-self.integral(t))

    def time(self, snr: Tensor | float) -> Tensor:
        """``alpha / (1 − alpha²) = √snr`` solved for ``∫ beta = 2 asinh(1 / (2 √snr))``, then the quadratic of `VP`."""
        B = 2 * torch.asinh(0.5 * torch.as_tensor(snr, dtype=torch.float64).cpu().rsqrt())
        slope = self.beta_max - self.beta_min
        return _within(self, 2 * B / (self.beta_min + (self.beta_min**2 + 2 * slope * B).sqrt()), snr)


class OU(ScalarSDE):
    """Ornstein–Uhlenbeck: ``dx = −rate x dt + √(2 rate) dw``, ``alpha = exp(−rate t)``, ``sigma² = 1 − alpha²``.

    Parameters
    ----------
    rate
        Of the decay of the mean, per unit of time.
    T
        The last time, at which ``alpha = exp(−rate T)`` of the data is left; ``exp(−5)`` by default.

    Raises
    ------
    ValueError
        If `rate` or `T` is not positive.
    """

    def __init__(self, rate: float = 1.0, T: float = 5.0) -> None:
        if not (rate > 0 and T > 0):
            raise ValueError(f"rate = {rate}, T = {T}; both must be positive.")
        self.rate, self.T = rate, T

    def f(self, t: Tensor) -> Tensor:
        """``−rate``."""
        return -self.rate + 0 * t

    def g(self, t: Tensor) -> Tensor:
        """``√(2 rate)``."""
        return math.sqrt(2 * self.rate) + 0 * t

    def alpha(self, t: Tensor) -> Tensor:
        """``exp(−rate t)``."""
        return (-self.rate * t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """``√(1 − exp(−2 rate t))``."""
        return (-torch.expm1(-2 * self.rate * t)).sqrt()

    def time(self, snr: Tensor | float) -> Tensor:
        """``log(1 + 1 / snr) / (2 rate)``."""
        return _within(self, torch.log1p(1 / torch.as_tensor(snr, dtype=torch.float64).cpu()) / (2 * self.rate), snr)


class VE(ScalarSDE):
    """Variance exploding: ``alpha = 1``, ``sigma = sigma_min (sigma_max / sigma_min)^t``; no drift.

    ``sigma(0) = sigma_min``: the data of the process are the data smoothed by it. Y. Song and S. Ermon, 2019,
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

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min = {sigma_min}, sigma_max = {sigma_max}; expected 0 < sigma_min < sigma_max.")
        self.sigma_min, self.sigma_max, self.sigma_0 = sigma_min, sigma_max, sigma_min
        self.log_ratio = math.log(sigma_max / sigma_min)

    def f(self, t: Tensor) -> Tensor:
        """0."""
        return 0 * t

    def g(self, t: Tensor) -> Tensor:
        """``sigma √(2 log(sigma_max / sigma_min))``."""
        return self.sigma(t) * math.sqrt(2 * self.log_ratio)

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return 1 + 0 * t

    def sigma(self, t: Tensor) -> Tensor:
        """``sigma_min (sigma_max / sigma_min)^t``."""
        return self.sigma_min * (t * self.log_ratio).exp()

    def time(self, snr: Tensor | float) -> Tensor:
        """``log(sigma / sigma_min) / log(sigma_max / sigma_min)``."""
        sigma = torch.as_tensor(snr, dtype=torch.float64).cpu().rsqrt()
        return _within(self, (sigma / self.sigma_min).log() / self.log_ratio, snr)


class EDM(ScheduleSDE):
    """``alpha = 1`` and ``sigma = sigma_min + t``: noise itself is the clock, ``T = sigma_max − sigma_min``.

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

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"sigma_min = {sigma_min}, sigma_max = {sigma_max}; expected 0 < sigma_min < sigma_max.")
        self.sigma_min, self.sigma_max, self.sigma_0 = sigma_min, sigma_max, sigma_min
        self.T = sigma_max - sigma_min

    def alpha(self, t: Tensor) -> Tensor:
        """1."""
        return 1 + 0 * t

    def sigma(self, t: Tensor) -> Tensor:
        """``sigma_min + t``."""
        return self.sigma_min + t

    def time(self, snr: Tensor | float) -> Tensor:
        """``sigma − sigma_min``."""
        return _within(self, torch.as_tensor(snr, dtype=torch.float64).cpu().rsqrt() - self.sigma_min, snr)


class Cosine(ScheduleSDE):
    """``alpha = cos(½ pi t)``, ``sigma = sin(½ pi t)``: the angle is the clock, and ``alpha(1) = 0``.

    The continuous, unclipped form of A. Nichol and P. Dhariwal, *Improved denoising diffusion probabilistic models*, 2021,
    arXiv:2102.09672; the TrigFlow of C. Lu and Y. Song, 2024, arXiv:2410.11081.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """``cos(½ pi t)``, exactly 0 at 1."""
        return torch.sin(0.5 * math.pi * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        """``sin(½ pi t)``."""
        return torch.sin(0.5 * math.pi * t)

    def time(self, snr: Tensor | float) -> Tensor:
        """``(2 / pi) acot(√snr)``."""
        root = torch.as_tensor(snr, dtype=torch.float64).cpu().sqrt()
        return _within(self, torch.atan2(torch.ones_like(root), root) * 2 / math.pi, snr)


class Rectified(ScheduleSDE):
    """``alpha = 1 − t``, ``sigma = t``: straight interpolation between data and noise.

    X. Liu, C. Gong, Q. Liu, *Flow straight and fast*, 2022, arXiv:2209.03003; Y. Lipman et al., *Flow matching for
    generative modeling*, 2022, arXiv:2210.02747.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """``1 − t``."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """``t``."""
        return 1 * t

    def time(self, snr: Tensor | float) -> Tensor:
        """``1 / (1 + √snr)``."""
        return _within(self, 1 / (1 + torch.as_tensor(snr, dtype=torch.float64).cpu().sqrt()), snr)


class Cubic:
    """The monotone cubic through values at 0, 1, ..., N (F. Fritsch and R. Carlson, 1980), as a function of the place.

    Parameters
    ----------
    values
        ``(N + 1,)``, float64.
    """

    def __init__(self, values: Tensor) -> None:
        from scipy.interpolate import PchipInterpolator  # loads on use

        self.N = len(values) - 1
        cubic = PchipInterpolator(np.arange(self.N + 1), values.numpy())
        self.pieces = torch.from_numpy(cubic.c.copy())  # (4, N), highest power first

    def __call__(self, place: Tensor) -> Tensor:
        """The value at places from 0 to N."""
        # A place k that rounding put just below its knot belongs to the piece it ends; both give the same value.
        i = place.detach().floor().long().clamp(0, self.N - 1)
        u = place - i
        a, b, c, d = self.pieces[:, i]
        return ((a * u + b) * u + c) * u + d


class DDPM(ScheduleSDE):
    """Any discrete schedule of N betas as a process: exact at every step ``t = k / N``, smooth between.

    ``alpha(k / N)² = Π_{i<=k} (1 − beta_i)``; ``log alpha`` is interpolated by a monotone cubic (F. Fritsch and
    R. Carlson, 1980), ``sigma² = 1 − alpha²``. J. Ho, A. Jain, P. Abbeel, 2020, arXiv:2006.11239.

    Parameters
    ----------
    betas
        ``(N,)``, each in (0, 1); see `linear_betas`, `cosine_betas`, `sigmoid_betas`, `constant_betas`.

    Raises
    ------
    ValueError
        If a beta lies outside (0, 1). A beta of 1, zero terminal SNR, has no continuous process with finite drift.
    """

    def __init__(self, betas: Tensor | None = None) -> None:
        betas = linear_betas() if betas is None else torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
            worst = betas.reshape(-1)[(betas.reshape(-1) - 0.5).abs().argmax()].item() if betas.numel() else math.nan
            raise ValueError(
                f"betas of shape {tuple(betas.shape)} reach {worst:.6g}; expected at least two values strictly between "
                "0 and 1 (for a beta of 1, zero terminal SNR, use the Cosine or Rectified process)."
            )
        self.betas = betas
        self.N = len(betas)
        self.piece = 1 / self.N  # the cubic's second derivative jumps at every step
        knots = torch.cat([torch.zeros(1, dtype=torch.float64), 0.5 * torch.log1p(-betas).cumsum(0)])
        self.log_alpha = Cubic(knots)

    def _log_alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t * self.N)

    def alpha(self, t: Tensor) -> Tensor:
        """``exp`` of the interpolated ``log alpha``."""
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """``√(1 − alpha²)``."""
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()


class AngleTable(ScheduleSDE):
    """A discrete schedule with ``alpha(1) = 0``, zero terminal signal: exact at every step ``t = k / N``, smooth between.

    The angle ``atan2(sigma, alpha)`` is interpolated by a monotone cubic, which is finite where ``log alpha`` is not. S. Lin,
    B. Liu, J. Li, X. Yang, *Common diffusion noise schedules and sample steps are flawed*, 2023, arXiv:2305.08891.

    Parameters
    ----------
    alphas_cumprod
        ``alpha(k / N)²`` for k = 1..N, ``(N,)``, decreasing from below 1 to at least 0.

    Raises
    ------
    ValueError
        If they do not.
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
        if table.ndim != 1 or len(table) < 2 or not (table.diff() < 0).all() or not (table[-1] >= 0 and table[0] < 1):
            raise ValueError(
                f"alphas_cumprod of shape {tuple(table.shape)}; expected two or more numbers that fall, all from 0 to below 1."
            )
        self.alphas_cumprod, self.N = table, len(table)
        self.piece = 1 / self.N  # as of `DDPM`
        angles = torch.atan2((1 - table).sqrt(), table.sqrt())
        self.angle = Cubic(torch.cat([angles.new_zeros(1), angles]))

    def _angle(self, t: Tensor) -> Tensor:
        return self.angle(t * self.N)

    def alpha(self, t: Tensor) -> Tensor:
        """``cos`` of the angle, exactly 0 where the table is."""
        angle = self._angle(t)
        return torch.where(angle >= 0.5 * torch.pi, 0.0, torch.cos(angle))

    def sigma(self, t: Tensor) -> Tensor:
        """``sin`` of the angle."""
        return torch.sin(self._angle(t))


def linear_betas(N: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Return `N` betas spaced linearly from `first` to `last` (Ho et al., 2020, arXiv:2006.11239), float64 ``(N,)``."""
    return torch.linspace(first, last, N, dtype=torch.float64)


def cosine_betas(N: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """Return the `N` betas of a squared-cosine ``alpha²``, none above `largest`, float64 ``(N,)``.

    ``alpha²(t) ∝ cos²(½ pi (t + offset) / (1 + offset))`` (Nichol and Dhariwal, 2021, arXiv:2102.09672).
    """
    t = torch.arange(N + 1, dtype=torch.float64) / N
    squared = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    return (1 - squared[1:] / squared[:-1]).clamp_max(largest)  # the published schedule is clipped


def sigmoid_betas(N: int = 1000, first: float = 1e-4, last: float = 0.02, width: float = 6.0) -> Tensor:
    """Return `N` betas on a logistic curve from `first` to `last` over ``[−width, width]``, float64 ``(N,)``."""
    return first + (last - first) * torch.linspace(-width, width, N, dtype=torch.float64).sigmoid()


def constant_betas(N: int = 1000, beta: float = 0.01) -> Tensor:
    """Return `N` betas equal to `beta`, float64 ``(N,)``."""
    return torch.full((N,), beta, dtype=torch.float64)


class CLD(MatrixSDE):
    """Critically-damped Langevin diffusion on position and velocity, mass 1.

    ``dx = beta v dt``, ``dv = −beta (x + Gamma v) dt + √(2 Gamma beta) dw`` with ``Gamma = 2``, critical damping; velocities
    start as ``N(0, gamma)``. T. Dockhorn, A. Vahdat, K. Kreis, *Score-based generative modeling with critically-damped
    Langevin diffusion*, 2021, arXiv:2112.07068.

    Parameters
    ----------
    beta
        Rate of the motion, per unit of time; ``T = 1``.
    gamma
        Variance of the velocities at 0.
    sigma_0
        Standard deviation of the noise on positions at 0, the smoothing of the data; 0 for none.

    Raises
    ------
    ValueError
        If `beta` or `gamma` is not positive, or `sigma_0` is negative.
    """

    def __init__(self, beta: float = 8.0, gamma: float = 0.04, sigma_0: float = 0.0) -> None:
        if not (beta > 0 and gamma > 0 and sigma_0 >= 0):
            raise ValueError(
                f"beta = {beta}, gamma = {gamma}, sigma_0 = {sigma_0}; the first two must be positive, the last at least 0."
            )
        self.beta, self.gamma, self.sigma_0 = beta, gamma, sigma_0
        self._F = beta * torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
        self._G = torch.diag(torch.tensor([0.0, math.sqrt(4 * beta)], dtype=torch.float64))
        self.Sigma_0 = torch.diag(torch.tensor([sigma_0**2, gamma], dtype=torch.float64))

    def F(self, t: Tensor) -> Tensor:
        """``beta [[0, 1], [−1, −Gamma]]``."""
        return self._F

    def G(self, t: Tensor) -> Tensor:
        """``diag(0, √(2 Gamma beta))``."""
        return self._G

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Van Loan's matrix exponential over ``t − s``."""
        return van_loan(self._F, self._G @ self._G.T, t - s)


def _within(sde: LinearSDE, t: Tensor, snr: Tensor | float) -> Tensor:
    """`t`, checked to lie in ``[0, T]`` up to rounding."""
    slack = 1e-9 * sde.T
    outside = ~((t >= -slack) & (t <= sde.T + slack))
    if outside.any():
        bad = torch.as_tensor(snr, dtype=torch.float64).expand(t.shape)[outside].reshape(-1)[0].item()
        raise ValueError(
            f"snr = {bad:.6g} is not reached: {type(sde).__name__} runs from {sde.snr(0.0).item():.6g} at t = 0 down to "
            f"{sde.snr(sde.T).item():.6g} at T."
        )
    return t.clamp(0.0, sde.T)
