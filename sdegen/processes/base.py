"""A forward SDE ``dx = f(x, t) dt + G(x, t) dw`` on ``t in [0, T]``, and its reversal in time.

Data at 0, noise at T, Itô; arguments are ``(x, t)`` with `x` of shape ``(B, *)`` and `t` of shape ``()`` or ``(B,)``.
Here is what is true of every SDE: time reversal, the probability flow, the short local kernel. Linear SDEs are in `linear`.
"""

from __future__ import annotations

__all__ = ["Flow", "HasVelocity", "Reverse", "SDE", "HasScore"]

import math
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import constraints

from ..answers import ask_score
from ..arguments import asked_as, check_arguments
from ..fixed import remembered
from ..laws.domains import check_domain
from ..laws.draws import check_noising, noise_like
from ..laws.kernels import StateLaw
from ..laws.marginals import Level, Marginal, Perturbed
from ..laws.mixtures import Moments
from ..laws.operators import Operator, Scale, rows
from ..laws.products import Field
from ..show import show_call
from .dynamics import Dynamics, as_ordered_times, as_time, diffusion_at, drift_at
from .lifting import Lifting
from .nonlinear import calibrate_lag, find_first_time, local_law, walk
from .state_noise import GramDivergence


class HasScore(Protocol):
    """What `Reverse` needs of a score model: the method ``score``."""

    def score(self, x: Tensor, t: Tensor | float, /) -> Tensor:
        """Return ``∇ log p_t(x)``, of the shape of `x`."""


class HasVelocity(HasScore, Protocol):
    """What `Flow` needs of a score model: its score, or its velocity at times known beforehand."""

    def velocity_at(self, x: Tensor, at: Marginal, /) -> Tensor:
        """Return the velocity (see `laws.kernels.Transition`) at the times of the marginal `at`, of the shape of `x`."""

    def ask(self, t: Tensor, *, velocity: Operator | None = None) -> list[Any]:
        """Prepare questions for an operator on the velocity, one for each of the times."""

    def answer(self, x: Tensor, question: Any, /) -> Tensor:
        """Return the answer to a question at the state `x`."""


@asked_as("an SDE, such as VP()")
class SDE(Lifting):
    """The base class of forward SDEs. Subclass it with ``drift`` and ``diffusion`` for a nonlinear process; for a linear process
    derive from `LinearSDE`.

    Attributes
    ----------
    T
        Last time.
    t_min
        Training draws times from ``[t_min, T]``, and grids end there by default: at ``T / 1000``, or at 1e-3 if that is earlier.
    is_known
        Whether the transition law is known, though the process is not linear (`known.KnownSDE`).
    N
        Number of steps of the table that the process is defined by; None where times are continuous.
    lag
        For nonlinear processes, the length of the short kernel that `perturb` ends with. It is halved until the kernel
        agrees with two of half its length to `lag_tolerance` nats.
    """

    t_min = remembered(find_first_time)
    N: int | None = None
    lag: float | None = None
    lag_tolerance: float = 1e-4
    is_linear, is_scalar, is_by_coordinate, is_known = False, False, False, False
    pool: int = 1
    direction: int = 1
    settable, also_saved = ("lag",), (*Lifting.also_saved, "lag")

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse a class that sets `is_linear`, which follows from the class that it derives from."""
        super().__init_subclass__(**more)
        if "is_linear" in vars(cls) and cls.__module__ != f"{__package__}.linear":
            raise TypeError(
                f"{cls.__name__} sets is_linear; derive a linear process from ScalarSDE, ScheduleSDE or MatrixSDE."
            )

    def kernel(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> StateLaw:
        """Return the law of ``x_t`` given `x_s`, here by local linearisation, which is exact for linear drift and constant noise.

        ``mean = x_s + ∫_0^h exp(J u) du f`` and ``covariance = ∫_0^h exp(J u) G Gᵀ exp(Jᵀ u) du`` with the Jacobian `J` of
        the drift at `x_s` and coefficients at mid-time (T. Ozaki, *A bridge between nonlinear time series models and
        nonlinear stochastic dynamical systems*, 1992). Shapes other than ``(B,)`` and ``(B, d)``, d <= 64, for which
        Jacobians are not affordable, get the Euler–Maruyama kernel.
        """
        return local_law(self, x_s, *as_ordered_times(s, t, self.T)).kernel

    def perturb(
        self, x_0: Tensor, t: Tensor | float, z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Perturbed:
        """Draw noised states at `t`, and return them with the kernel and the noise that they were drawn with.

        A nonlinear process is simulated from 0 to ``t − lag``; the kernel spans the rest, so that the state and the
        target of its score come from one and the same law.

        Raises
        ------
        ValueError
            If there is neither one time nor one for each row, data lie outside of the domain, or no short kernel is known.
        TypeError
            If states have bounds, which a Gaussian may leave.
        """
        t, data = as_time(t, self.T), self.standardise(x_0)
        x_0 = self.embed(data)
        check_domain(self.domain, x_0)
        check_noising(x_0, z, generator)
        if self.free is not None:
            raise TypeError(
                f"{type(self).__name__} has bounds, which the Gaussian of a short step may leave; train in coordinates without "
                f"bounds, DirectModel(net, Transformed(sde, {self.free!r})), or give the transition law (processes.KnownSDE)."
            )
        rows(t, x_0)  # refuses another number of times
        t = t.expand(len(x_0))
        if self.lag is None:
            self.lag = calibrate_lag(self, x_0, self.lag_tolerance)
        s = (t - self.lag).clamp_min(0.0)
        x_s = walk(self, x_0, s, max(8, math.ceil(s.max() / self.lag)), generator)
        kernel = self.kernel(x_s, s, t)
        z = noise_like(x_0, generator) if z is None else z
        x = kernel.sample(z)
        return Perturbed(x, kernel, z, self.at(t, x), data)

    def prior(self, moments: Moments) -> Any:
        """Return the distribution that samplers start from at T: an object with ``sample(n, generator)`` and ``log_prob(x)``.

        Parameters
        ----------
        moments
            Mean and covariance of the data in the units of the process (`ScoreModel.state_moments`).

        Raises
        ------
        NotImplementedError
            If the process is nonlinear and declares no prior.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no closed-form law at T; define prior(moments), with sample and log_prob, or pass x_T."
        )

    def at(self, t: Tensor | float, x: Tensor | None = None) -> Level:
        """Return the noise level of states at `t`; for linear processes the whole `Marginal`. For `x` see `noise_at`."""
        return Level(as_time(t, self.T), self.root(t, x), self.noise_at(t, x))

    def root(self, t: Tensor | float, x: Tensor | None = None) -> Operator:
        """Return a root of the covariance of the noise in states at `t`, here ``G √t``. For `x` see `noise_at`."""
        return self.noise_at(t, x) * as_time(t, self.T).sqrt()

    def noise_at(self, t: Tensor | float, x: Tensor | None = None) -> Operator:
        """Return the diffusion `G` at `t`.

        Parameters
        ----------
        t
            Times, ``()`` or ``(B,)``.
        x
            States ``(B, *)``; by default a single zero, for noise that depends on no state.
        """
        return diffusion_at(self, torch.zeros(1, 1) if x is None else x, as_time(t, self.T))

    def snr(self, t: Tensor | float) -> Tensor:
        """Return the signal-to-noise ratio at `t`; only linear processes have one."""
        return self.log_snr(t).exp()

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return the logarithm of the signal-to-noise ratio at `t`; only linear processes have one.

        Raises
        ------
        TypeError
            If the process is not linear.
        """
        raise TypeError(
            f"{type(self).__name__} is not linear and has no signal-to-noise ratio; use grids.Uniform() and "
            "weightings.UniformTimes(), which are written in t."
        )

    def time(self, snr: Tensor | float) -> Tensor:
        """Return the time at which the signal-to-noise ratio is `snr`; only linear processes have one."""
        return self.time_of_log_snr(torch.as_tensor(snr, dtype=torch.float64).cpu().log())

    def time_of_log_snr(self, level: Tensor | float) -> Tensor:
        """Return the time at which the logarithm of the signal-to-noise ratio is `level`; only linear processes have one.

        Raises
        ------
        TypeError
            If the process is not linear.
        """
        raise TypeError(
            f"{type(self).__name__} is not linear and has no signal-to-noise ratio to find a time by; give the time itself."
        )

    def time_near_log_snr(self, level: Tensor) -> Tensor:
        """Return the times of `time_of_log_snr`, to the six digits or so that random times need, at less expense."""
        return self.time_of_log_snr(level)

    @property
    def t_max(self) -> float:
        """The last time at which a sampler's grid may start; here T."""
        return self.T

    @property
    def rescalable(self) -> bool:
        """Whether data may be brought to units of their spread, as `fit` does by default: only where states have no bounds."""
        return self.domain is constraints.real

    def reverse(self, model: HasScore, eta: float = 1.0) -> Reverse:
        """Return the process from T to 0 with the same marginals, whatever its noise `eta`: 1 is the reverse-time SDE, 0 the
        probability flow.
        """
        return Reverse(self, model, eta)

    def flow(self, model: HasVelocity) -> Flow:
        """Return the probability flow, in a time change and rescaled coordinates in which it is regular."""
        return Flow(self, model)


class Reverse(Dynamics):
    """The time reversal of a forward SDE (Anderson), run from T to 0: ``dx = [f − ½ (1 + eta²) (∇·(G Gᵀ) + G Gᵀ score)] dt +
    eta G dw``.

    Every `eta` has the marginals of the forward process: 1 is the reverse-time SDE, 0 the probability flow. The divergence
    ``(∇·(G Gᵀ))_i = Σ_j ∂_j (G Gᵀ)_ij`` is zero where the noise does not depend on the state. B. Anderson, *Reverse-time
    diffusion equation models*, 1982; U. Haussmann and E. Pardoux, *Time reversal of diffusions*, 1986; Y. Song et al.,
    *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.

    Parameters
    ----------
    sde
        The forward process.
    model
        A score model of it.
    eta
        How much noise, at least 0: 0 is none, 1 that of the forward process.

    Raises
    ------
    ValueError
        If `eta` is negative, or, at the first call, if `G` depends on the state and has no derivative by it.
    """

    @check_arguments
    def __init__(self, sde: SDE, model: HasScore, eta: float = 1.0) -> None:
        if not eta >= 0:
            raise ValueError(f"eta = {eta}; the noise level of a reversed process is at least 0.")
        self.sde, self.model, self.eta, self.T = sde, model, eta, sde.T
        self.domain, self.free, self.direction = sde.domain, sde.free, -1 if eta else 0
        self.divergence = GramDivergence.of(sde, sde.is_linear)

    def enter(self, x: Tensor) -> Tensor:
        """Return states brought back into the domain by the rule of the forward process."""
        return self.sde.enter(x)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``f − ½ (1 + eta²) (∇·(G Gᵀ) + G Gᵀ score)``."""
        G = diffusion_at(self.sde, x, t)
        pull = self.divergence.add_to(G(G.T(ask_score(self.model, x, t))), x, t)
        return drift_at(self.sde, x, t) - 0.5 * (1 + self.eta**2) * pull

    def diffusion(self, x: Tensor, t: Tensor) -> Operator:
        """Return ``eta G``."""
        return diffusion_at(self.sde, x, t) * self.eta


class Flow:
    """The probability flow ``dy/dtau``, in a clock `tau` and a chart `y` (rescaled states); here ``tau = t``, ``y = x``.

    Integrators (`Heun`, `ProbabilityFlow`, `log_prob`) know the flow only through this interface. So a process whose ``dx/dt`` is
    infinite at an end can give them a clock in which the derivative is finite.

    Parameters
    ----------
    sde
        The forward process.
    model
        A score model of it.
    """

    _reverse: Reverse | None = None  # a subclass with a `field` of its own makes none

    __repr__ = show_call

    @check_arguments
    def __init__(self, sde: SDE, model: HasVelocity) -> None:
        self.sde, self.model = sde, model
        self._reverse = sde.reverse(model, eta=0.0)

    def clock(self, t: Tensor) -> Tensor:
        """Return the clock ``tau(t)``, which increases with the time."""
        return t

    def time(self, tau: Tensor) -> Tensor:
        """Return the time at which the clock reads `tau`; the inverse of `clock`."""
        return tau

    def r(self, t: Tensor) -> Operator:
        """Return the operator `r` of the chart, ``x = r y``."""
        return Scale(torch.ones_like(t))

    def chart(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the chart coordinates ``y = r⁻¹ x`` of a state."""
        if self._reverse is not None:
            self._reverse.divergence.look_at(x, t)  # while it can: `field` may be called where nothing can look
        return self.r(t).inv()(x)

    def unchart(self, y: Tensor, t: Tensor) -> Tensor:
        """Return the state ``x = r y`` of chart coordinates."""
        return self.r(t)(y)

    def log_scale(self, t: Tensor) -> Tensor:
        """Return ``log |dx/dy|`` divided by the number of coordinates, which is ``log r`` where `r` is a number."""
        return (r := self.r(t)).log_abs_det() / r.size

    def field(self, tau: Tensor) -> Field:
        """Return ``dy/dtau`` at one time of the clock, as a function of the state.

        All that depends on the time alone is formed here, and not again for each derivative by the state.
        """
        reverse = self._reverse
        assert reverse is not None
        return lambda y: reverse.drift(y, tau)

    def velocity(self, y: Tensor, tau: Tensor) -> Tensor:
        """Return ``dy/dtau``."""
        return self.field(tau)(y)

    def ask(self, tau: Tensor) -> list[Any]:
        """Return the question that `slope` needs at each of the times ``(N,)`` of the clock, formed once; here the times."""
        return list(tau)

    def slope(self, x: Tensor, question: Any) -> Tensor:
        """Return ``dy/dtau`` at the state `x`, by one evaluation of the model, from what `ask` has prepared."""
        return self.velocity(self.chart(x, self.time(question)), question)
