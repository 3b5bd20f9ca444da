"""Samplers that put noise back: the exponential integrator of the reversed SDE, churn, restarts, reverse diffusion.

All of them draw from transitions and bridges of the forward process, which are exact: what they get wrong is what they
assume of the model between its evaluations. Not here: Euler–Maruyama (`euler`), ancestral sampling (`ddim`), correctors
(`langevin`) and steps chosen by their error (`adaptive`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..laws.derivatives import value_and_slope
from ..laws.interpolation import lagrange, rule
from ..laws.kernels import Transition, posterior
from ..laws.operators import Matrix, Operator, Scale
from ..models.score import ScoreModel
from ..processes.base import SDE
from ..processes.grids import Grid, Karras
from ..processes.linear import LinearSDE
from .base import Noise, Sampler, require_linear
from .exponential import Clock, angle
from .ode import Heun


class ExponentialSDE(Sampler):
    """Exponential Adams method for the reversed SDE with clean data interpolated; one evaluation a step.

    With `E[x_0 | x]` a known function of time, ``dx = [F x − ½ (1 + eta²) G Gᵀ score] dt + eta G dw`` is linear and is solved
    in law, noise included; here it is the polynomial through the evaluations at hand, in a clock:

        x_s = C x_t + Σ_j W_j E[x_0 | x_j] + root z,    C = Psi_s Psi_t⁻¹,    W_j = ∫_t^s l_j d(Psi_s Psi_u⁻¹ Phi_u),

    where ``Psi' = (F + ½ (1 + eta²) G Gᵀ Sigma⁻¹) Psi``. At ``eta = 1``, ``Psi = Sigma Phi⁻ᵀ`` and `C`, `root` are those of
    the bridge ``q(x_s | x_t, x_0)``, so order 1 is `Ancestral`; at ``eta = 0``, ``Psi = R`` and this is `Multistep` with
    `PointMass`, order 1 `DDIM`. Order 2 with the clock `log_ratio` is SDE-DPM-Solver++(2M) with its integrals exact
    (C. Lu et al., *DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models*, 2022,
    arXiv:2211.01095); SA-Solver (S. Xue et al., 2023, arXiv:2309.05019) and SEEDS (M. Gonzalez et al., 2023,
    arXiv:2305.14267) are of the same family. The order is the weak one; the first step is of order 1.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        1 or 2.
    eta
        Noise level of the reversed SDE: 1 its own, 0 the probability flow; on matrix processes one of these two.
    clock
        The variable of the interpolating line: `angle`, `share`, `log_ratio`, or a function of the angle.

    Raises
    ------
    ValueError
        If `order` is not 1 or 2, or `eta` negative; in a run, if `eta` is not 0 or 1 on a matrix process, or the clock
        of a step of order 2 is infinite.
    TypeError
        In a run, if the process is not linear.
    """

    class Coefficients(NamedTuple):
        """Of ``x_s = C x_t + Σ_j W_j E[x_0 | x_j] + root z``, newest evaluation first, the clean state as a question."""

        clean: Any
        C: Operator
        W: list[Operator]
        root: Operator

    def __init__(
        self, steps: int = 20, grid: Grid | None = None, order: int = 2, eta: float = 1.0, clock: Clock = angle
    ) -> None:
        super().__init__(steps, grid)
        if order not in (1, 2):
            raise ValueError(f"order = {order}; ExponentialSDE has order 1 or 2, for more use Multistep without noise.")
        if not eta >= 0:
            raise ValueError(f"eta = {eta}; the noise level of a reversed process is at least 0.")
        self.order, self.eta, self.clock = order, eta, clock

    def plan(self, model: ScoreModel, times: Tensor) -> list[Coefficients]:
        """Weights and roots of every step."""
        sde = require_linear(self, model.sde)
        if len(sde.e) > 1 and self.eta not in (0, 1):
            raise ValueError(
                f"eta = {self.eta} on {type(sde).__name__}: between 0 and 1 a matrix process has no closed form; "
                "use eta = 0, eta = 1, or DDIM(eta)."
            )
        steps = []
        phi = signal_angle(sde, times)
        z, _ = rule()
        inner = phi[:-1, None] + (phi[1:] - phi[:-1])[:, None] * z
        clean = model.ask(times[:-1], denoise=sde.marginal(times[:-1]).Phi.one())
        inner_times = sde.time(inner.reshape(-1).tan().pow(-2)).reshape(inner.shape)  # all at once: it is a search
        for k, (t, s) in enumerate(pairwise(times)):
            seen = slice(max(0, k + 1 - self.order), k + 1)
            line = line_through(self.clock, phi[seen].flip(0), phi[k : k + 2])
            W = signal_weights(sde, t, s, inner_times[k], line, self.eta)
            C = as_map(carried(sde, s, t, self.eta).matrix())
            root = as_map(bridge_root(sde, s, t, self.eta).matrix())
            C, *W, root = (A.prepared(model.like) for A in (C, *W, root))
            steps.append(self.Coefficients(clean[k], C, W, root))
        return steps

    def step(
        self, model: ScoreModel, x: Tensor, c: Coefficients, noise: Noise, state: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """One evaluation, the formula, and noise where ``eta > 0``."""
        x_0 = [model.answer(x, c.clean), *([] if state is None else state)]
        x_s = c.C(x)
        for W, seen in zip(c.W, x_0, strict=False):
            x_s = W.onto(x_s, seen)
        return (c.root.onto(x_s, noise(x)) if self.eta else x_s), x_0[: self.order - 1]


def carried(sde: LinearSDE, s: Tensor, u: Tensor, eta: float) -> Operator:
    """``Psi_s Psi_u⁻¹``: what is left at `s` of a deviation at `u` from the path of one datum."""
    at_s, at_u = sde.marginal(s), sde.marginal(u)
    if eta == 1:
        return at_s.covariance @ sde.transition(s, u).Phi.T @ at_u.covariance.inv()
    return at_s.R @ at_u.R.inv() * (sde.snr(u) / sde.snr(s)) ** (0.5 * eta**2)


def bridge_root(sde: LinearSDE, s: Tensor, t: Tensor, eta: float) -> Operator:
    """The root of ``Sigma_s − C Sigma_t Cᵀ``, the noise that keeps the law of a state of one datum."""
    at_s = sde.marginal(s)
    if eta == 1:
        return posterior(at_s, sde.marginal(t), sde.transition(s, t)).covariance.sqrt()
    return at_s.R * (-torch.expm1(eta**2 * (sde.snr(t).log() - sde.snr(s).log()))).sqrt()


class Line(NamedTuple):
    """Lagrange polynomials of the evaluations, newest first: at both ends of a step, and their slopes between."""

    start: Tensor
    end: Tensor
    slope: Tensor


def line_through(clock: Clock, seen: Tensor, ends: Tensor) -> Line:
    """The polynomials of the angles `seen` over the step between the angles `ends`, in a clock.

    Raises
    ------
    ValueError
        If the clock is infinite at one of them.
    """
    nodes, (first, last) = clock(seen), ends
    if len(seen) > 1 and not (nodes.isfinite().all() and clock(ends).isfinite().all()):
        raise ValueError(
            f"the clock is infinite at one of the angles {[round(v, 6) for v in [*seen.tolist(), last.item()]]}; use the "
            "clock angle, or a grid that stays off the ends of the process."
        )
    z, _ = rule()
    _, slope = value_and_slope(lambda z: lagrange(nodes, clock(first + z * (last - first))), z, torch.ones_like(z))
    return Line(lagrange(nodes, clock(first)), lagrange(nodes, clock(last)), slope)


def signal_weights(sde: LinearSDE, t: Tensor, s: Tensor, inner: Tensor, line: Line, eta: float) -> list[Operator]:
    """``W_j = ∫_t^s l_j dM`` with ``M(u) = Psi_s Psi_u⁻¹ Phi_u``, by parts: `M` is bounded also where its slope is not."""
    start = (carried(sde, s, t, eta) @ sde.marginal(t).Phi).matrix()
    between = (carried(sde, s, inner, eta) @ sde.marginal(inner).Phi).matrix()
    end = sde.marginal(s).Phi.matrix()
    _, w = rule()
    by_parts = torch.einsum("jz,z,zab->jab", line.slope, w, between)
    return [as_map(line.end[j] * end - line.start[j] * start - by_parts[j]) for j in range(len(line.end))]


def signal_angle(sde: LinearSDE, t: Tensor) -> Tensor:
    """``atan(1 / √snr)``: ``atan2(sigma, alpha)`` of what a state at `t` tells about its datum."""
    return torch.atan(sde.snr(t).rsqrt())


def as_map(M: Tensor) -> Operator:
    """A ``(k, k)`` matrix over the channels as an operator; a number where there is one channel."""
    return Scale(M[0, 0]) if len(M) == 1 else Matrix(M)


class ReverseDiffusion(Sampler):
    """``x_s = x_t − (Phi − 1) x_t + Q score(x_t) + √Q z``: the forward step ``x_t | x_s ~ N(Phi x_s, Q)`` turned round.

    The predictor of Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021,
    arXiv:2011.13456 (appendix E), with the forward process's own transition as its discretisation: no coefficient is
    evaluated at a time, so it needs none to be finite. Weak order 1; steps over which ``Phi`` is far from 1 are crude.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.

    Raises
    ------
    TypeError
        In a run, if the process is not linear.
    """

    class Coefficients(NamedTuple):
        """The mean as a question, and the root."""

        mean: Any
        root: Operator

    def __init__(self, steps: int = 500, grid: Grid | None = None) -> None:
        super().__init__(steps, grid)

    def plan(self, model: ScoreModel, times: Tensor) -> list[Coefficients]:
        """The mean and the root of every step."""
        sde = require_linear(self, model.sde)
        law = sde.transition(times[1:], times[:-1])
        means = model.ask(times[:-1], x=law.Phi.one() * 2.0 - law.Phi, score=law.covariance)
        root = law.R.prepared(model.like)
        return [self.Coefficients(mean, root[i]) for i, mean in enumerate(means)]

    def step(self, model: ScoreModel, x: Tensor, c: Coefficients, noise: Noise, state: Any) -> tuple[Tensor, None]:
        """One step."""
        return c.root.onto(model.answer(x, c.mean), noise(x)), None


class Churn(Sampler):
    """Heun's method with a little noise before every step: algorithm 2 of EDM on any scalar process.

    In ``rho = sigma / alpha`` and the chart ``x / alpha``, whose flow is ``d(x / alpha) / d rho = E[z | x]``: noise lifts
    ``rho`` to ``(1 + gamma) rho``, ``gamma = min(S_churn / steps, √2 − 1)`` within ``[S_min, S_max]`` and 0 elsewhere, never
    above the process's own largest; two evaluations carry it to the next level. T. Karras et al., *Elucidating the design
    space of diffusion-based generative models*, 2022, arXiv:2206.00364. Without churn: `Heun`, whose clock is the angle.
    Weak order 2 for a fixed `S_churn`, once ``steps > 2.5 S_churn``.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`; the grid is `Karras` by default.
    S_churn
        Noise added over the whole run.
    S_min, S_max
        The levels of ``sigma / alpha`` between which noise is added.
    S_noise
        Factor on the noise; values above 1 make up for detail that a network loses, and bias an exact model.

    Raises
    ------
    ValueError
        If `S_churn` or `S_noise` is negative, or not ``0 <= S_min <= S_max``; in a run, if ``alpha = 0`` at the start
        of a step.
    TypeError
        In a run, if the process is not a scalar one.
    """

    default_grid = Karras

    class Coefficients(NamedTuple):
        """The lift to ``t``, None without; scales and levels at both ends of Heun's step from there to ``s``."""

        up: Transition | None
        t: Tensor
        s: Tensor
        alpha_t: Tensor
        alpha_s: Tensor
        rho_t: Tensor
        rho_s: Tensor

    def __init__(
        self,
        steps: int = 32,
        grid: Grid | None = None,
        S_churn: float = 10.0,
        S_min: float = 0.0,
        S_max: float = math.inf,
        S_noise: float = 1.0,
    ) -> None:
        super().__init__(steps, grid)
        if not (S_churn >= 0 and S_noise >= 0):
            raise ValueError(f"S_churn = {S_churn}, S_noise = {S_noise}; neither may be negative.")
        if not 0 <= S_min <= S_max:
            raise ValueError(f"S_min = {S_min}, S_max = {S_max}; expected 0 <= S_min <= S_max.")
        self.S_churn, self.S_min, self.S_max, self.S_noise = S_churn, S_min, S_max, S_noise

    def plan(self, model: ScoreModel, times: Tensor) -> list[Coefficients]:
        """Levels, lifted levels, and the transitions between them."""
        sde = require_linear(self, model.sde)
        if len(sde.e) > 1:
            raise TypeError(
                f"Churn steps in sigma / alpha, which {type(sde).__name__} has not; use Restart or ExponentialSDE."
            )
        return [self._coefficients(sde, t, s) for t, s in pairwise(times)]

    def _coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> Coefficients:
        rho = sde.snr(t).rsqrt()
        if rho.isinf():
            raise ValueError(
                f"sigma / alpha is infinite at t = {t.item():.6g}; start the grid at t_max = {sde.t_max:.6g}, or use Heun."
            )
        gamma = min(self.S_churn / self.steps, math.sqrt(2) - 1) if self.S_min <= rho <= self.S_max else 0.0
        lifted = sde.time((rho * (1 + gamma)).pow(-2).maximum(sde.snr(sde.t_max)).minimum(sde.snr(t)))
        up = None
        if lifted > t:
            exact = sde.transition(t, lifted)
            up, t = Transition(exact.Phi, exact.R * self.S_noise), lifted
        scale_t, scale_s = (sde.marginal(v).Phi.matrix()[..., 0, 0] for v in (t, s))
        return self.Coefficients(up, t, s, scale_t, scale_s, sde.snr(t).rsqrt(), sde.snr(s).rsqrt())

    def step(self, model: ScoreModel, x: Tensor, c: Coefficients, noise: Noise, state: Any) -> tuple[Tensor, None]:
        """Lift, then Heun's step; Euler's to a level of zero."""
        if c.up is not None:
            x = c.up(x).sample(noise(x))
        u, h = x / c.alpha_t, c.rho_s - c.rho_t
        first = model.noise(x, c.t)
        x_s = c.alpha_s * (u + h * first)
        if c.rho_s > 0:
            second = model.noise(x_s, c.s)
            x_s = c.alpha_s * (u + h * 0.5 * (first + second))
        return x_s, None


class Interval(NamedTuple):
    """Up from the level `low` of ``sigma / alpha`` (``1 / √snr``) to `high`, and back in `steps`, `repeats` times.

    Y. Xu et al., *Restart sampling for improving generative processes*, 2023, arXiv:2306.14878.
    """

    low: float
    high: float
    repeats: int = 2
    steps: int = 4


class Restart(Sampler):
    """A deterministic sampler that goes back: at a low noise level it is noised up to a higher one and run down again.

    Every return contracts the errors gathered above, by fresh noise that the forward process adds exactly. Y. Xu et al.,
    *Restart sampling for improving generative processes*, 2023, arXiv:2306.14878. The order is the sampler's.

    Parameters
    ----------
    sampler
        Any sampler; its steps and grid make the run from T, to which the lower ends of the intervals are added.
    intervals
        `Interval`s, each gone through when the run reaches its lower end; levels of returns are those of `Karras`.

    Raises
    ------
    ValueError
        If an interval is not ``0 < low < high`` with at least one repeat and step; in a run, if a level lies outside
        those of the sampler's times.
    TypeError
        In a run, if the process is not linear.
    """

    class Coefficients(NamedTuple):
        """The sampler's own step, or the transition up."""

        up: Transition | None
        inner: Any

    def __init__(self, sampler: Sampler | None = None, intervals: Sequence[Interval] = (Interval(0.1, 1.0),)) -> None:
        sampler = Heun() if sampler is None else sampler
        super().__init__(sampler.steps, sampler.grid)
        for v in intervals:
            if not 0 < v.low < v.high or v.repeats < 1 or v.steps < 1:
                raise ValueError(
                    f"{v}; an interval needs 0 < low < high, levels of sigma / alpha, and at least one repeat and step."
                )
        self.sampler, self.intervals = sampler, tuple(sorted(intervals, reverse=True))

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """The sampler's times with every return between them: they decrease but where the process is noised again."""
        linear, rest = require_linear(self, sde), self.sampler.times(sde, denoise)
        span, parts = (rest[-1].item(), rest[0].item()), []
        for v in self.intervals:
            low, high = (self._time(linear, level, span) for level in (v.low, v.high))
            back = Karras(high, low)(sde, v.steps + 1)
            near = 1e-9 * sde.T
            parts += [rest[rest > low + near], back[-1:], *[back] * v.repeats]
            rest = rest[rest < low - near]
        return torch.cat([*parts, rest])

    def _time(self, sde: LinearSDE, level: float, span: tuple[float, float]) -> float:
        worst, best = (sde.snr(t).item() ** -0.5 if sde.snr(t) > 0 else math.inf for t in span[::-1])
        if not best <= level <= worst:
            raise ValueError(
                f"the level {level:g} of sigma / alpha lies outside the run, [{best:.4g}, {worst:.4g}] on "
                f"{type(sde).__name__}; choose an interval within, or a longer grid."
            )
        return sde.time(level**-2).item()

    def plan(self, model: ScoreModel, times: Tensor) -> list[Coefficients]:
        """The sampler's plan of every descent, and the transitions between."""
        sde = require_linear(self, model.sde)
        rises = [i + 1 for i in range(len(times) - 1) if times[i + 1] > times[i]]
        steps: list[Restart.Coefficients] = []
        for first, last in pairwise([0, *rises, len(times)]):
            if first:
                steps.append(self.Coefficients(sde.transition(times[first - 1], times[first]), None))
            steps += [self.Coefficients(None, c) for c in self.sampler.plan(model, times[first:last])]
        return steps

    def step(self, model: ScoreModel, x: Tensor, c: Coefficients, noise: Noise, state: Any) -> tuple[Tensor, Any]:
        """The sampler's step, or noise, after which it remembers nothing."""
        if c.up is not None:
            return c.up(x).sample(noise(x)), None
        return self.sampler.step(model, x, c.inner, noise, state)


__all__ = ["Churn", "ExponentialSDE", "Interval", "Restart", "ReverseDiffusion"]
