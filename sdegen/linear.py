"""Linear SDEs ``dx = F(t) x dt + G(t) dw``: processes whose laws are known from their coefficients alone.

`ScalarSDE` takes ``f, g``; `ScheduleSDE` takes ``alpha, sigma``; `MatrixSDE` takes ``(k, k)`` matrices. What is not given
is derived, in float64. ``sigma(0) > 0`` is allowed and means data smoothed by that much; ``alpha(T) = 0`` is allowed too.
Nothing here evaluates a coefficient where it is infinite.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .distributions import GaussianMixture, Moments
from .divergence import value_and_slope
from .kernels import Kernel, Observation, Perturbed, Transition, noise_like
from .moments import RootTable, matrix_moments, psd_cholesky, scalar_moments
from .operators import Matrix, Operator, Scale
from .sde import SDE, Flow, as_time


class _Memo:
    """The last few results of a function of one time tensor, by the tensor's identity.

    A training step asks for the law at one and the same `t` in its loss, its weighting and its parametrisation; a
    sampling step too. Results that carry gradients are not kept: their graphs are used once.
    """

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self.kept: list[tuple[Tensor, int, Any]] = []

    def __call__(self, t: Tensor, compute: Any) -> Any:
        for known, version, result in self.kept:
            if known is t and t._version == version:
                return result
        result, keep = compute(t)
        if keep:
            self.kept = [(t, t._version, result), *self.kept[: self.size - 1]]
        return result


def ordered(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The times of a transition, checked.

    Raises
    ------
    ValueError
        If they are of two lengths, or s lies after t.
    """
    if s.ndim and t.ndim and len(s) != len(t):
        raise ValueError(f"s has shape {tuple(s.shape)} and t {tuple(t.shape)}; give one time, or as many of each.")
    if not (s <= t).all():
        raise ValueError(
            f"s must not lie after t; got t - s down to {(t - s).min().item():.6g}: swap the arguments, transition(s, t)."
        )
    return s, t


def _carries_gradient(value: Tensor) -> bool:
    return value.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(value)


class LinearSDE(SDE):
    """``dx = F(t) x dt + G(t) dw`` with state-independent coefficients.

    Two laws, which differ exactly when ``Sigma(0)`` is not zero: `marginal`, the state given clean data, and
    `transition`, one state given another.
    """

    is_linear = True

    @cached_property
    def _marginals(self) -> _Memo:
        return _Memo()

    def marginal(self, t: Tensor | float) -> Transition:
        """``x_t`` given clean data, smoothing at 0 included; its root is the one of deterministic samplers."""

        def compute(t: Tensor) -> tuple[Transition, bool]:
            law = self._marginal(t)
            return law, not (_carries_gradient(law.R.matrix()) or _carries_gradient(law.Phi.matrix()))

        return self._marginals(as_time(t, self.T), compute)

    @abstractmethod
    def _marginal(self, t: Tensor) -> Transition:
        """`marginal` at checked times."""

    @abstractmethod
    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        """``x_t`` given ``x_s``, ``s <= t``; any root of its covariance."""

    @abstractmethod
    def drift_operator(self, t: Tensor | float) -> Operator:
        """``F(t)``."""

    @abstractmethod
    def diffusion_operator(self, t: Tensor | float) -> Operator:
        """``G(t)``."""

    @cached_property
    def e(self) -> Tensor:
        """The lift of a unit datum, float64 ``(k,)``."""
        return torch.ones(1, dtype=torch.float64)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """``F(t) x``."""
        return self.drift_operator(t)(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Operator:
        """``G(t)``."""
        return self.diffusion_operator(t)

    def kernel(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Kernel:
        """The exact law of ``x_t`` given `x_s`."""
        return self.transition(s, t)(x_s)

    def perturb(
        self, x_0: Tensor, t: Tensor | float, z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Perturbed:
        """Noised states at `t`, with the kernel and the noise they were made with."""
        u_0 = self.lift(x_0)
        z = noise_like(u_0, generator) if z is None else z
        if z.shape != u_0.shape:
            raise ValueError(
                f"z has shape {tuple(z.shape)} for states of shape {tuple(u_0.shape)}; give noise for each."
            )
        kernel = self.marginal(t)(u_0)
        return Perturbed(kernel.sample(z), kernel, z)

    def observe(self, x: Tensor, t: Tensor | float) -> Observation:
        """What the state `x` at `t` tells about its datum: ``y = c x_0 + s zeta``."""
        return self.marginal(t).observe(x, self.e)

    def snr(self, t: Tensor | float) -> Tensor:
        """Signal-to-noise ratio ``c² / s²`` of the observation, decreasing; ``alpha² / sigma²`` for scalars."""
        t = as_time(t, self.T)
        observation = self.observe(torch.zeros(t.numel(), len(self.e)), t)
        return (observation.c / observation.s).square()

    def time(self, snr: Tensor | float) -> Tensor:
        """The time with signal-to-noise ratio `snr`; the inverse of `snr`, by bracketed bisection and Newton steps.

        Raises
        ------
        ValueError
            If the ratio is not reached within ``[0, T]``.
        """
        snr = torch.as_tensor(snr, dtype=torch.float64).cpu()
        target = snr.log()
        ends = torch.stack([self.snr(0.0), self.snr(self.T)])
        outside = (snr > ends[0] * (1 + 1e-9)) | (snr < ends[1] * (1 - 1e-9)) | snr.isnan()
        if outside.any():
            raise ValueError(
                f"snr = {snr[outside].reshape(-1)[0].item():.6g} is not reached: {type(self).__name__} runs from "
                f"{ends[0].item():.6g} at t = 0 down to {ends[1].item():.6g} at T."
            )
        low, high = torch.zeros_like(target), torch.full_like(target, self.T)
        f_low, f_high = ends[0].log() - target, ends[1].log() - target  # >= 0 and <= 0
        flat = target.reshape(-1)
        low, high, f_low, f_high = (v.expand(target.shape).reshape(-1) for v in (low, high, f_low, f_high))
        for i in range(80):
            # Regula falsi where both ends are finite, bisection otherwise and every third time.
            secant = low + (high - low) * f_low / (f_low - f_high)
            middle = 0.5 * (low + high)
            t = torch.where(secant.isfinite() & (i % 3 != 2), secant, middle)
            t = t.maximum(low + 1e-3 * (high - low)).minimum(high - 1e-3 * (high - low))
            f = self.snr(t).log() - flat
            left = f > 0
            low, f_low = torch.where(left, t, low), torch.where(left, f, f_low)
            high, f_high = torch.where(left, high, t), torch.where(left, f_high, f)
            if ((high - low) <= 1e-15 * self.T + 4e-16 * high).all():
                break
        t = torch.where(f_low.abs() < f_high.abs(), low, high)
        t = torch.where(flat >= ends[0].log(), 0.0, torch.where(flat <= ends[1].log(), self.T, t))
        return t.reshape(target.shape)

    @cached_property
    def t_max(self) -> float:
        """T, or where ``alpha(T) = 0`` the last time at which a trace of the data is left, ``snr = 1e-8``."""
        return self.T if self.snr(self.T) > 0 else self.time(1e-8).item()

    def prior(self, moments: Moments) -> Any:
        """The Gaussian at T matched to the data's moments. A subclass may declare another law here.

        Parameters
        ----------
        moments
            Mean and covariance of the data, as `fit` stores them in ``model.moments``.
        """
        at_T = self.marginal(self.T)
        data = gaussian(moments)
        return data.diffuse(at_T) if len(self.e) == 1 else data.diffuse(at_T, self.e)

    def root(self, t: Tensor | float) -> Operator:
        """The root of the marginal's covariance."""
        return self.marginal(t).R


def gaussian(moments: Moments) -> GaussianMixture:
    """The Gaussian with the given moments, as a mixture of one; zero variances are raised to 1e-12 of the largest."""
    C = moments.covariance
    floor = 1e-12 * max(C.abs().max().item(), 1e-12)  # constant coordinates, such as the border of images
    full = C.ndim == 2
    C = C + floor * torch.eye(len(C), dtype=C.dtype) if full else (C + floor).reshape(moments.mean.shape)
    if moments.mean.numel() == 1:
        C = C.reshape(moments.mean.shape)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), moments.mean[None], C[None])


class ScalarSDE(LinearSDE):
    """``dx = f(t) x dt + g(t) dw``: give `f` and `g`; ``alpha`` and ``sigma`` are derived by quadrature.

    Methods are elementwise torch functions of a float64 `t`. A subclass may also give ``alpha`` and ``sigma`` in closed
    form; `testing.check_sde` holds the two against each other.

    Attributes
    ----------
    sigma_0
        ``sigma(0)``, the smoothing of the data at ``t = 0``.
    piece
        Length of the pieces on which the coefficients are smooth, for a process whose derivatives jump; None otherwise.

    Examples
    --------
    >>> class Brownian(ScalarSDE):
    ...     def f(self, t): return 0 * t
    ...     def g(self, t): return 1 + 0 * t
    >>> round(Brownian().sigma(torch.tensor(0.25)).item(), 9)
    0.5
    """

    sigma_0: float = 0.0
    piece: float | None = None

    @abstractmethod
    def f(self, t: Tensor) -> Tensor:
        """Drift coefficient."""

    @abstractmethod
    def g(self, t: Tensor) -> Tensor:
        """Diffusion coefficient."""

    @cached_property
    def _quadratures(self) -> _Memo:
        return _Memo()

    def _quadrature(self, t: Tensor) -> tuple[Tensor, Tensor]:
        def compute(t: Tensor) -> tuple[tuple[Tensor, Tensor], bool]:
            pair = scalar_moments(self.f, self.g, torch.zeros_like(t), t)
            return pair, not (_carries_gradient(pair[0]) or _carries_gradient(pair[1]))

        return self._quadratures(t, compute)

    def alpha(self, t: Tensor) -> Tensor:
        """``alpha(t) = exp ∫_0^t f``."""
        return self._quadrature(t)[0].exp()

    def sigma(self, t: Tensor) -> Tensor:
        """``sigma(t)``, with ``sigma² = alpha² (sigma_0² + ∫_0^t g² / alpha²)``."""
        log_alpha, log_variance = self._quadrature(t)
        if not self.sigma_0:
            return (0.5 * log_variance).exp()
        return (2 * (log_alpha + math.log(self.sigma_0))).logaddexp(log_variance).mul(0.5).exp()

    @cached_property
    def t_min(self) -> float:  # type: ignore[override]
        """The smallest time with ``sigma / alpha >= 1e-3``: below it the data are known to a thousandth."""
        return self.time(1e6).item() if self.snr(0.0) > 1e6 else 0.0

    def drift_operator(self, t: Tensor | float) -> Scale:
        """``f(t)``."""
        return Scale(self.f(as_time(t, self.T)))

    def diffusion_operator(self, t: Tensor | float) -> Scale:
        """``g(t)``."""
        return Scale(self.g(as_time(t, self.T)))

    def _marginal(self, t: Tensor) -> Transition:
        """``x_t | x_0 ~ N(alpha x_0, sigma²)``."""
        alpha, sigma = (torch.as_tensor(c(t), dtype=torch.float64).expand(t.shape) for c in (self.alpha, self.sigma))
        return Transition(Scale(alpha), Scale(sigma))

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        """``x_t | x_s ~ N(alpha_t / alpha_s x_s, sigma_t² − (alpha_t / alpha_s)² sigma_s²)``.

        The variance is ``−sigma_t² expm1(lambda_t − lambda_s)`` with the log-SNR lambda, which keeps its digits when
        the times are close.
        """
        s, t = ordered(as_time(s, self.T, "s"), as_time(t, self.T))
        alpha_s, sigma_s = self._alpha_sigma(s)
        alpha_t, sigma_t = self._alpha_sigma(t)
        fall = 2 * ((alpha_t.log() - sigma_t.log()) - (alpha_s.log() - sigma_s.log()))
        fall = torch.where(fall.isnan(), 0.0, fall)  # inf − inf: both times are at an end of the process
        return Transition(Scale(alpha_t / alpha_s), Scale(sigma_t * (-torch.expm1(fall)).clamp_min(0).sqrt()))

    def _alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        law = self.marginal(t)
        return law.Phi.matrix()[..., 0, 0], law.R.matrix()[..., 0, 0]

    def snr(self, t: Tensor | float) -> Tensor:
        """``alpha² / sigma²``."""
        alpha, sigma = self._alpha_sigma(t)
        return (alpha / sigma).square()

    def flow(self, model: Any) -> AngleFlow:
        """The probability flow in the angle ``atan2(sigma, alpha)``."""
        return AngleFlow(self, model)


class AngleFlow(Flow):
    """The probability flow of a scalar process in the angle ``phi = atan2(sigma, alpha)`` and the chart ``y = x / r``.

    There ``dy/dphi = cos(phi) E[z | x] − sin(phi) E[x_0 | x]``, the velocity, finite at both ends for every schedule.
    """

    sde: ScalarSDE

    def __init__(self, sde: ScalarSDE, model: Any) -> None:
        self.sde, self.model = sde, model

    def clock(self, t: Tensor) -> Tensor:
        """``phi(t)``."""
        alpha, sigma = self.sde._alpha_sigma(t)
        return torch.atan2(sigma, alpha)

    def time(self, tau: Tensor) -> Tensor:
        """The time of an angle."""
        return self.sde.time(torch.tan(tau).pow(-2).where(tau < math.pi / 2, torch.zeros_like(tau)))

    def chart(self, x: Tensor, t: Tensor) -> Tensor:
        """``x / r``."""
        return self.sde.marginal(t).normalise(x)

    def unchart(self, y: Tensor, t: Tensor) -> Tensor:
        """``r y``."""
        return self.sde.marginal(t).r(y)

    def log_scale(self, t: Tensor) -> Tensor:
        """``log r``."""
        return self.sde.marginal(t).r.log_abs_det()

    def velocity(self, y: Tensor, tau: Tensor) -> Tensor:
        """``dy/dphi``."""
        t = self.time(tau)
        return self.model.velocity(self.unchart(y, t), t)


class ScheduleSDE(ScalarSDE):
    """``x_t = alpha(t) x_0 + sigma(t) z``: give `alpha` and `sigma`; ``f`` and ``g`` are their derivatives.

    ``f = d log alpha / dt`` and ``g² = d sigma² / dt − 2 f sigma²``, by forward-mode differentiation: the methods must be
    differentiable torch functions of `t`.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal coefficient."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise coefficient."""

    def f(self, t: Tensor) -> Tensor:
        """``alpha' / alpha``."""
        alpha, slope = _derivative(self.alpha, t)
        return slope / alpha

    def g(self, t: Tensor) -> Tensor:
        """``sqrt(2 sigma (sigma' − f sigma))``."""
        sigma, slope = _derivative(self.sigma, t)
        return (2 * sigma * (slope - self.f(t) * sigma)).sqrt()


def _derivative(schedule: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    def lifted(u: Tensor) -> Tensor:
        return torch.as_tensor(schedule(u), dtype=torch.float64).expand(u.shape)

    return value_and_slope(lifted, t, torch.ones_like(t))


class MatrixSDE(LinearSDE):
    """``du = F(t) u dt + G(t) dw`` with ``(k, k)`` matrices acting on the channels of a state ``(B, k, *)``.

    Give `F` and `G`; the moments follow from their ODEs and the root from its own (see `moments.RootTable`). By default
    the data are the first channel and the others start as given by `Sigma_0`.

    Attributes
    ----------
    Sigma_0
        Covariance of the state at ``t = 0`` given clean data, ``(k, k)``.
    """

    Sigma_0: Tensor

    @abstractmethod
    def F(self, t: Tensor) -> Tensor:
        """Drift matrix, ``(*t.shape, k, k)`` or ``(k, k)``, float64."""

    @abstractmethod
    def G(self, t: Tensor) -> Tensor:
        """Diffusion matrix, ``(*t.shape, k, k)`` or ``(k, k)``, float64."""

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """``Phi`` and covariance of ``u_t | u_s``, ``(*t.shape, k, k)``; override it where a closed form is known."""
        return matrix_moments(self.F, self.G, s, t)

    def lift(self, x: Tensor) -> Tensor:
        """Data as the mean of the state at 0: the first channel."""
        return torch.stack([x] + [torch.zeros_like(x)] * (len(self.Sigma_0) - 1), 1)

    def project(self, u: Tensor) -> Tensor:
        """The first channel."""
        return u[:, 0]

    def complete(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """States at 0 whose data part is `x`, the rest drawn with noise `z` ``(B, k, *)``, and the rest's log-density."""
        rest = Matrix(psd_cholesky(self.Sigma_0[1:, 1:]))
        law = Kernel(torch.zeros_like(z[:, 1:]), rest)
        v = law.sample(z[:, 1:])
        return torch.cat([x[:, None], v], 1), law.log_prob(v)

    @cached_property
    def e(self) -> Tensor:
        """The lift of a unit datum, ``(k,)``."""
        return self.lift(torch.ones(1, 1, dtype=torch.float64))[0, :, 0]

    def _covariance(self, t: Tensor) -> Tensor:
        Phi, Sigma = self.moments(torch.zeros_like(t), t)
        return Phi @ self.Sigma_0 @ Phi.mT + Sigma

    @cached_property
    def _root(self) -> RootTable:
        return RootTable(self.F, self.G, self._covariance, self.T)

    def drift_operator(self, t: Tensor | float) -> Matrix:
        """``F(t)``."""
        return Matrix(self.F(as_time(t, self.T)))

    def diffusion_operator(self, t: Tensor | float) -> Matrix:
        """``G(t)``."""
        return Matrix(self.G(as_time(t, self.T)))

    def _marginal(self, t: Tensor) -> Transition:
        """``u_t`` given clean data."""
        Phi, _ = self.moments(torch.zeros_like(t), t)
        return Transition(Matrix(Phi), Matrix(self._root(t)))

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        """``u_t`` given ``u_s``; the root is the Cholesky factor."""
        first, last = torch.broadcast_tensors(*ordered(as_time(s, self.T, "s"), as_time(t, self.T)))
        Phi, Sigma = self.moments(first, last)
        return Transition(Matrix(Phi), Matrix(psd_cholesky(Sigma)))
