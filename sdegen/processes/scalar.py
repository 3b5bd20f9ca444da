"""Scalar linear SDEs: `ScalarSDE` from ``f, g``, `ScheduleSDE` from ``alpha, sigma``; each derives the other pair.

Their probability flow has a clock of its own, `AngleFlow`. Nothing here evaluates a coefficient where it is infinite.
"""

from __future__ import annotations

__all__ = ["AngleFlow", "ScalarSDE", "ScheduleSDE", "as_scalar", "is_scalar"]

from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..arguments import asked_as
from ..laws.operators import Operator, Scale
from ..laws.products import Field
from .base import SDE, HasVelocity
from .dynamics import at_times, coefficient
from .elementwise import ElementwiseFlow, ElementwiseSDE, Scheduled
from .linear import as_kind


@asked_as("a scalar SDE, such as VP()")
class ScalarSDE(ElementwiseSDE):
    """The base class of scalar linear SDEs given by drift and diffusion, ``dx = f(t) x dt + g(t) dw``; ``alpha`` and
    ``sigma`` follow by quadrature.

    Methods are elementwise torch functions of a float64 `t`. A subclass may also give ``alpha`` and ``sigma`` in closed
    form; `testing.check_sde` holds the two against each other.

    Examples
    --------
    >>> class Brownian(ScalarSDE):
    ...     def f(self, t): return 0 * t
    ...     def g(self, t): return 1 + 0 * t
    >>> round(Brownian().sigma(torch.tensor(0.25)).item(), 9)
    0.5
    """

    is_scalar = True

    def __init_subclass__(cls, **more: Any) -> None:
        """Drop inherited closed forms that belong to another schedule: ``log alpha`` where the class has its own ``alpha``, and
        the inverse of the ratio where the class has its own ``alpha``, ``sigma`` or ``time``.
        """
        super().__init_subclass__(**more)
        if "alpha" in vars(cls) and "_log_alpha" not in vars(cls):
            cls._log_alpha = ScalarSDE._log_alpha  # type: ignore[method-assign]
        if {"alpha", "sigma", "time"} & set(vars(cls)) and "_invert" not in vars(cls):
            cls._invert = ScalarSDE._invert  # type: ignore[method-assign]

    @property
    def Sigma_0(self) -> Tensor:  # type: ignore[override]
        """``sigma_0²``, ``(1, 1)``."""
        return torch.tensor([[self.sigma_0**2]], dtype=torch.float64)

    def _map(self, name: str, value: Any, t: Tensor) -> Scale:
        return Scale(coefficient(f"{type(self).__name__}.{name}", self._accept(name, value), t))

    def _marginal(self, t: Tensor) -> tuple[Operator, Operator]:
        """Return `alpha` and `sigma`."""
        try:
            alpha, sigma = self.alpha(t), self.sigma(t)
        except (TypeError, ValueError, RuntimeError):  # asked again, so that the one that fails says why
            alpha, sigma = at_times(self, "alpha", t), at_times(self, "sigma", t)
        if not isinstance(alpha, Tensor) or alpha.shape != t.shape or alpha.dtype != t.dtype:
            alpha = self._map("alpha", alpha, t).c
        if not isinstance(sigma, Tensor) or sigma.shape != t.shape or sigma.dtype != t.dtype:
            sigma = self._map("sigma", sigma, t).c
        return Scale(alpha.expand(t.shape)), Scale(sigma.expand(t.shape))

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return ``2 log(alpha / sigma)``; −inf where no signal is left, inf where there is no noise."""
        return self.levels(t)

    def _fall_of_each(self, s: Tensor, t: Tensor) -> Tensor:
        return self.fall(s, t)

    def angle_at(self, t: Tensor | float) -> Tensor:
        """Return the angle ``atan2(sigma, alpha)`` at `t`."""
        alpha, sigma = self._alpha_sigma(t)
        return torch.atan2(sigma, alpha)

    def _alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        law = self.marginal(t)
        return law.Phi.matrix()[..., 0, 0], law.R.matrix()[..., 0, 0]

    def time_near_log_snr(self, level: Tensor) -> Tensor:
        """Return times from a table alone, where the table has them."""
        t = None if type(self)._invert is not ScalarSDE._invert else self._inverse.guess(level)
        return super().time_near_log_snr(level) if t is None else t

    def _log_snr_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log snr`` and its derivative ``−g² / sigma²``."""
        return self.log_snr(t), -(self._values("g", t) / self._values("sigma", t)).square()

    def flow(self, model: HasVelocity) -> AngleFlow:
        """Return the probability flow with the angle ``atan2(sigma, alpha)`` as time."""
        return AngleFlow(self, model)


class AngleFlow(ElementwiseFlow):
    """The probability flow of a scalar process, with the angle ``phi = atan2(sigma, alpha)`` as time and the state
    rescaled to ``y = x / r``.

    There ``dy/dphi = cos(phi) E[z | x] − sin(phi) E[x_0 | x]``, the velocity, finite at both ends for every schedule.
    """

    sde: ScalarSDE

    def field(self, tau: Tensor) -> Field:
        """Return ``dy/dphi`` at one angle, as a function of the state."""
        at = self.sde.marginal(self.time(tau))
        r = at.r
        return lambda y: self.model.velocity_at(r(y), at)

    def ask(self, tau: Tensor) -> list[Any]:
        """Return questions for the model's velocity at each of the angles."""
        t = self.time(tau)
        return self.model.ask(t, velocity=self.sde.marginal(t).Phi.one())


class ScheduleSDE(Scheduled, ScalarSDE):
    """The base class of scalar linear SDEs given by a noise schedule, ``x_t = alpha(t) x_0 + sigma(t) z``; ``f`` and ``g``
    follow by differentiation.

    ``f = d log alpha / dt`` and ``g² = d sigma² / dt − 2 f sigma²``, by forward-mode differentiation: the methods must be
    differentiable torch functions of `t`.
    """


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
        What is missing if the process is not scalar, and what to do instead: it ends the sentence "... is not scalar".

    Raises
    ------
    TypeError
        If the process is not scalar.
    """
    return as_kind(sde, is_scalar, "scalar", why)
