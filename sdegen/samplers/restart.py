"""Restart sampling: a sampler that adds noise and repeats an interval of its steps."""

from __future__ import annotations

__all__ = ["Interval", "Restart", "RestartStep"]

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.kernels import Transition
from ..models.score import ScoreModel
from ..processes.base import SDE
from ..processes.grids import Karras
from ..processes.linear import LinearSDE
from .base import Noise, Sampler, require_linear
from .ode import Heun
from .step_noise import StepNoise


class Interval(NamedTuple):
    """An interval of restart sampling: noise is added from the level `low` of ``sigma / alpha`` to `high` and removed in
    `steps`, `repeats` times.

    Y. Xu et al., *Restart sampling for improving generative processes*, 2023, arXiv:2306.14878.
    """

    low: float
    high: float
    repeats: int = 2
    steps: int = 4


class RestartStep(NamedTuple):
    """Coefficients of one step of restart sampling: the inner sampler's own, or the transition that adds noise."""

    up: Transition | None
    inner: Any


class Restart(Sampler[RestartStep, Any]):
    """Restart sampling: a deterministic sampler that, at a low noise level, adds noise up to a higher one and runs down again.

    Every return contracts the errors gathered above, by fresh noise that the forward process adds exactly. Y. Xu et al.,
    *Restart sampling for improving generative processes*, 2023, arXiv:2306.14878. The order is the sampler's.

    Parameters
    ----------
    sampler
        Any sampler; its steps and grid make the run from T, to whose times the lower ends of the intervals are added.
    intervals
        The intervals, each of which is repeated when the run reaches its lower end; the times of a repeat are those of `Karras`.

    Raises
    ------
    ValueError
        If an interval is not ``0 < low < high`` with at least one repeat and step; in a run, if a level lies outside the levels
        of the sampler's times.
    TypeError
        In a run, if the process is not linear.
    """

    @check_arguments
    def __init__(self, sampler: Sampler | None = None, intervals: Sequence[Interval] = (Interval(0.1, 1.0),)) -> None:
        sampler = Heun() if sampler is None else sampler
        super().__init__(sampler.steps, sampler.grid)
        for v in intervals:
            if not 0 < v.low < v.high or v.repeats < 1 or v.steps < 1:
                raise ValueError(
                    f"{v}; an interval needs 0 < low < high, levels of sigma / alpha, and at least one repeat and step."
                )
        self.convergence_order = sampler.convergence_order
        self.sampler, self.intervals = sampler, tuple(sorted(intervals, reverse=True))

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the sampler's times with those of every restart between them; they increase only where noise is added."""
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
        worst, best = ((-0.5 * sde.log_snr(t)).exp().item() for t in span[::-1])
        if not best <= level <= worst:
            raise ValueError(
                f"the level {level:g} of sigma / alpha lies outside the run, [{best:.4g}, {worst:.4g}] on "
                f"{type(sde).__name__}; choose an interval within, or a longer grid."
            )
        return sde.time(level**-2).item()

    def plan(self, model: ScoreModel, times: Tensor) -> list[RestartStep]:
        """Plan every descent by the inner sampler, and the transitions that add noise."""
        sde = require_linear(self, model.sde)
        rises = [i + 1 for i in range(len(times) - 1) if times[i + 1] > times[i]]
        steps: list[RestartStep] = []
        for first, last in pairwise([0, *rises, len(times)]):
            if first:
                steps.append(RestartStep(sde.transition(times[first - 1], times[first]), None))
            steps += [RestartStep(None, c) for c in self.sampler.plan(model, times[first:last])]
        return steps

    def step(self, model: ScoreModel, x: Tensor, c: RestartStep, noise: Noise, state: Any) -> tuple[Tensor, Any]:
        """Take the inner sampler's step, or add noise, after which the sampler remembers nothing."""
        if c.up is not None:
            return c.up(x).sample(noise(x)), None
        return self.sampler.step(model, x, c.inner, noise, state)

    def step_noise(self, model: ScoreModel, x: Tensor, c: RestartStep) -> StepNoise:
        """Return the law of the noise that the step up or the inner sampler's step adds."""
        return self.sampler.step_noise(model, x, c.inner) if c.up is None else StepNoise(c.up.R)
