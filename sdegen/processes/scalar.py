"""Scalar linear SDEs: `ScalarSDE` from ``f, g``, `ScheduleSDE` from ``alpha, sigma``; each derives the other pair.

Their probability flow has a clock of its own, `AngleFlow`. Nothing here evaluates a coefficient where it is infinite.
"""

from __future__ import annotations

__all__ = ["AngleFlow", "ScalarSDE", "ScheduleSDE", "as_scalar", "is_scalar"]

import math
from abc import abstractmethod
from functools import cached_property
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..arguments import asked_as
from ..fixed import remembered, weights_of
from ..laws.kernels import Transition
from ..laws.operators import Operator, Scale
from ..laws.products import Field, value_and_slope
from .base import SDE, Flow, Read
from .dynamics import as_time, coefficient
from .inverse import FallTable
from .linear import LinearSDE, check_order
from .panels import Panels


@asked_as("a scalar SDE, such as VP()")
class ScalarSDE(LinearSDE):
    """The base class of scalar linear SDEs given by drift and diffusion, ``dx = f(t) x dt + g(t) dw``; ``alpha`` and
    ``sigma`` follow by quadrature.

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

    is_scalar = True
    sigma_0: float = 0.0
    piece: float | None = None

    def __init_subclass__(cls, **more: Any) -> None:
        """Take from a class with a schedule or a clock of its own the closed forms that it inherits from those of another."""
        super().__init_subclass__(**more)
        if "alpha" in vars(cls) and "_log_alpha" not in vars(cls):
            cls._log_alpha = ScalarSDE._log_alpha  # type: ignore[method-assign]
        if {"alpha", "sigma", "time"} & set(vars(cls)) and "_invert" not in vars(cls):
            cls._invert = ScalarSDE._invert  # type: ignore[method-assign]

    @property
    def Sigma_0(self) -> Tensor:  # type: ignore[override]
        """``sigma_0²``, ``(1, 1)``."""
        return torch.tensor([[self.sigma_0**2]], dtype=torch.float64)

    @abstractmethod
    def f(self, t: Tensor) -> Tensor:
        """Return the drift coefficient ``f(t)``."""

    @abstractmethod
    def g(self, t: Tensor) -> Tensor:
        """Return the diffusion coefficient ``g(t)``."""

    @property
    def state(self) -> Any:
        """Whatever the coefficients depend on besides the time, to know when it has changed: of a module what its weights are,
        of another the tensors, arrays, lists and networks that it holds.
        """
        return weights_of(self)

    @cached_property
    def _quadratures(self) -> list[tuple[Tensor, Any, tuple[Tensor, Tensor]]]:
        return []

    def _quadrature(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log alpha`` and the logarithm of the variance that has come since 0.

        `alpha` and `sigma` ask for it one after the other with one tensor, and so do the marginals of a transition's two
        times: the last few pairs are kept, but for those that carry gradients, whose graphs are used once.
        """
        state = (t._version, self._quadrature_state)
        for known, then, pair in self._quadratures:
            if known is t and then == state:
                return pair
        pair = self._known_panels()(t)
        if not any(v.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(v) for v in pair):
            self._quadratures[:] = [(t, state, pair), *self._quadratures[:3]]
        return pair

    @property
    def _quadrature_state(self) -> tuple[Any, bool]:
        """What decides about the quadrature: the coefficients' state, and whether derivatives of a module's are asked for."""
        return self.state, isinstance(self, nn.Module) and torch.is_grad_enabled()

    def _known_panels(self) -> Panels:
        """Return the panels of the coefficients as they are; those that carry gradients, whose graphs are used once, are made
        anew.
        """
        state = self._quadrature_state
        if self._panels is None or self._panels[0] != state:
            number = 1024 if self.piece is None else max(1, min(round(self.T / self.piece), 4096))
            panels = Panels(self.f, self.g, 0.0, self.T, number, smooth=self.piece is not None)
            if panels.drift.requires_grad or panels.log_noise.requires_grad:
                return panels
            self._panels = (state, panels)
        return self._panels[1]

    _panels: tuple[Any, Panels] | None = None

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal coefficient ``alpha(t) = exp ∫_0^t f``."""
        return self._quadrature(t)[0].exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise coefficient ``sigma(t)``, with ``sigma² = alpha² (sigma_0² + ∫_0^t g² / alpha²)``."""
        log_alpha, log_variance = self._quadrature(t)
        if not self.sigma_0:
            return (0.5 * log_variance).exp()
        return (2 * (log_alpha + math.log(self.sigma_0))).logaddexp(log_variance).mul(0.5).exp()

    @remembered
    def t_min(self) -> float:
        """Return the smallest time with ``sigma / alpha >= 1e-3``: below it the data are known to a thousandth."""
        return self.time(1e6).item() if self.snr(0.0) > 1e6 else 0.0

    def drift_operator(self, t: Tensor | float) -> Scale:
        """Return ``f(t)``."""
        t = as_time(t, self.T)
        return Scale(coefficient(f"{type(self).__name__}.f", self.f(t), t))

    def diffusion_operator(self, t: Tensor | float) -> Scale:
        """Return ``g(t)``."""
        t = as_time(t, self.T)
        return Scale(coefficient(f"{type(self).__name__}.g", self.g(t), t))

    def _marginal(self, t: Tensor) -> tuple[Operator, Operator]:
        """Return `alpha` and `sigma`."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        if not isinstance(alpha, Tensor) or alpha.shape != t.shape or alpha.dtype != t.dtype:
            alpha = coefficient(f"{type(self).__name__}.alpha", alpha, t)
        if not isinstance(sigma, Tensor) or sigma.shape != t.shape or sigma.dtype != t.dtype:
            sigma = coefficient(f"{type(self).__name__}.sigma", sigma, t)
        return Scale(alpha.expand(t.shape)), Scale(sigma.expand(t.shape))

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        """Return the law ``x_t | x_s ~ N(alpha_t / alpha_s x_s, sigma_t² − (alpha_t / alpha_s)² sigma_s²)``.

        The variance is ``−sigma_t² expm1(lambda_t − lambda_s)`` with the log-SNR lambda, which keeps its digits when
        the times are close.
        """
        s, t = check_order(as_time(s, self.T, "s"), as_time(t, self.T))
        sigma_s, sigma_t = self._alpha_sigma(s)[1], self._alpha_sigma(t)[1]
        ratio = (self._log_alpha(t) - self._log_alpha(s)).exp()
        ratio = torch.where(ratio.isnan(), sigma_t / sigma_s, ratio)  # no signal at either: the noise is carried on
        return Transition(Scale(ratio), Scale(sigma_t * (-torch.expm1(self.fall(s, t))).clamp_min(0).sqrt()))

    def _log_alpha(self, t: Tensor) -> Tensor:
        """Return ``log alpha`` at checked times, also where `alpha` is too small for a number."""
        if type(self).alpha is ScalarSDE.alpha:
            return self._quadrature(t)[0]
        return torch.as_tensor(self.alpha(t), dtype=torch.float64).expand(t.shape).log()

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return ``2 log(alpha / sigma)``; −inf where no signal is left, inf where there is no noise."""
        t = as_time(t, self.T)
        return 2 * (self._log_alpha(t) - torch.as_tensor(self.sigma(t), dtype=torch.float64).log())

    def angle_at(self, t: Tensor | float) -> Tensor:
        """Return the angle ``atan2(sigma, alpha)`` at `t`."""
        alpha, sigma = self._alpha_sigma(t)
        return torch.atan2(sigma, alpha)

    def _alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        law = self.marginal(t)
        return law.Phi.matrix()[..., 0, 0], law.R.matrix()[..., 0, 0]

    def _invert(self, level: Tensor) -> Tensor:
        """Return the times at which ``log snr`` is `level`, from a table where it settles them."""
        if self._falls is None or self._falls[0] != self.state:
            with torch.no_grad():
                self._falls = (self.state, FallTable(self._fall, self.T))
        t = self._falls[1](level.reshape(-1))
        return super()._invert(level) if t is None else t.reshape(level.shape)

    _falls: tuple[Any, FallTable] | None = None

    def _fall(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log snr`` and its derivative ``−g² / sigma²``."""
        g, sigma = (torch.as_tensor(c, dtype=torch.float64) for c in (self.g(t), self.sigma(t)))
        return self.log_snr(t), -(g / sigma).square().expand(t.shape)

    def flow(self, model: Read) -> AngleFlow:
        """Return the probability flow with the angle ``atan2(sigma, alpha)`` as time."""
        return AngleFlow(self, model)


class AngleFlow(Flow):
    """The probability flow of a scalar process, with the angle ``phi = atan2(sigma, alpha)`` as time and the state
    rescaled to ``y = x / r``.

    There ``dy/dphi = cos(phi) E[z | x] − sin(phi) E[x_0 | x]``, the velocity, finite at both ends for every schedule.
    """

    sde: ScalarSDE

    def __init__(self, sde: ScalarSDE, model: Read) -> None:
        self.sde, self.model = sde, model

    def clock(self, t: Tensor) -> Tensor:
        """Return the angle ``phi(t)``."""
        return self.sde.angle_at(t)

    def time(self, tau: Tensor) -> Tensor:
        """Return the time of an angle."""
        return self.sde.time_of_angle(tau)

    def r(self, t: Tensor) -> Operator:
        """Return the scale ``r = √(alpha² + sigma²)``."""
        return self.sde.marginal(t).r

    def field(self, tau: Tensor) -> Field:
        """Return ``dy/dphi`` at one angle, a function of the state."""
        at = self.sde.marginal(self.time(tau))
        r = at.r
        return lambda y: self.model.velocity_at(r(y), at)

    def ask(self, tau: Tensor) -> list[Any]:
        """Return questions for the model's velocity at each of the angles."""
        t = self.time(tau)
        return self.model.ask(t, velocity=self.sde.marginal(t).Phi.one())

    def slope(self, x: Tensor, question: Any) -> Tensor:
        """Return ``dy/dphi``."""
        return self.model.answer(x, question)


class ScheduleSDE(ScalarSDE):
    """The base class of scalar linear SDEs given by a noise schedule, ``x_t = alpha(t) x_0 + sigma(t) z``; ``f`` and ``g``
    follow by differentiation.

    ``f = d log alpha / dt`` and ``g² = d sigma² / dt − 2 f sigma²``, by forward-mode differentiation: the methods must be
    differentiable torch functions of `t`.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal coefficient ``alpha(t)``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise coefficient ``sigma(t)``."""

    def f(self, t: Tensor) -> Tensor:
        """Return ``alpha' / alpha``."""
        alpha, slope = _derivative(self.alpha, t)
        return slope / alpha

    def g(self, t: Tensor) -> Tensor:
        """Return ``sqrt(2 sigma (sigma' − f sigma))``; its limit where sigma starts like ``√t`` and has no slope at 0."""
        g = self._g(t)
        lost = g.isnan()
        return torch.where(lost, self._g(t + 1e-12 * self.T), g) if lost.any() else g

    def _g(self, t: Tensor) -> Tensor:
        sigma, slope = _derivative(self.sigma, t)
        return (2 * sigma * (slope - self.f(t) * sigma)).sqrt()


def is_scalar(sde: SDE) -> TypeGuard[ScalarSDE]:
    """Tell whether a process is linear with numbers ``alpha(t)`` and ``sigma(t)``, the same for all coordinates."""
    return sde.is_scalar


def as_scalar(sde: SDE, why: str) -> ScalarSDE:
    """Return a scalar process as it is; refuse any other, for the reason `why`.

    Parameters
    ----------
    sde
        Any process.
    why
        What is missing without, and what to do instead: it ends the sentence "... is not scalar".

    Raises
    ------
    TypeError
        If the process is not scalar.
    """
    if not is_scalar(sde):
        raise TypeError(f"{type(sde).__name__} is not scalar{why}")
    return sde


def _derivative(schedule: Any, t: Tensor) -> tuple[Tensor, Tensor]:
    def lifted(u: Tensor) -> Tensor:
        return torch.as_tensor(schedule(u), dtype=torch.float64).expand(u.shape)

    t = t.contiguous()  # of times that were expanded to rows, a derivative is written in place
    return value_and_slope(lifted, t, torch.ones_like(t))
