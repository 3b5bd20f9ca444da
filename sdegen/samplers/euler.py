"""The Euler–Maruyama method on the reversed SDE, at any noise level `eta`."""

from __future__ import annotations

__all__ = ["EulerMaruyama", "EulerStep"]

from typing import Any, NamedTuple

from torch import Tensor

from ..arguments import check_arguments
from ..laws.operators import Operator
from ..models.score import ScoreModel
from ..processes.base import Reverse
from ..processes.grids import Grid, Uniform
from ..processes.linear import is_linear
from .base import Noise, Sampler, require_noise
from .step_noise import StepNoise


class EulerStep(NamedTuple):
    """Coefficients of an Euler–Maruyama step: the time, the length and the reversed SDE; on linear processes also the mean as a
    question, and the root of the noise.
    """

    t: Tensor
    h: Tensor
    reverse: Reverse
    mean: Any = None
    root: Operator | None = None


class EulerMaruyama(Sampler[EulerStep, None]):
    """The Euler–Maruyama method on the reversed SDE: ``x_s = x_t − (t − s) [f − ½ (1 + eta²) G Gᵀ score] + eta √(t − s) G
    z``, weak order 1.

    Works for every SDE whose coefficients are finite at the times of the grid. Y. Song et al., 2021, arXiv:2011.13456.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`; equal steps in `t` by default, and in ``√t`` on a nonlinear process.
    eta
        Noise level: 1 the reverse-time SDE, 0 Euler's method on the probability flow.

    Raises
    ------
    ValueError
        In a run, if `eta` is negative, or a coefficient of a linear process is infinite at the start of a step.
    """

    default_grid = Uniform
    convergence_order = 1

    @check_arguments
    def __init__(self, steps: int = 500, grid: Grid | None = None, eta: float = 1.0) -> None:
        super().__init__(steps, grid)
        self.eta = eta

    def plan(self, model: ScoreModel, times: Tensor) -> list[EulerStep]:
        """Plan times, step lengths, means and roots; refuse a linear process whose coefficients are infinite at one of the
        times.
        """
        sde, t, h = model.sde, times[:-1], times[:-1] - times[1:]
        reverse = sde.reverse(model, self.eta)
        if not len(t):
            return []
        if not is_linear(sde):  # its coefficients are functions of states whose shape is not known here
            return [EulerStep(t[i], h[i], reverse) for i in range(len(t))]
        F, G = sde.drift_operator(t), sde.diffusion_operator(t)
        infinite = ~(F.is_finite() & G.is_finite())
        if infinite.any():
            raise ValueError(
                f"a coefficient of {type(sde).__name__} is infinite at t = {t[infinite][0].item():.6g}; start the grid at "
                f"t_max = {sde.t_max:.6g}, or use DDIM(eta=1), which has no such limit."
            )
        means = model.ask(t, x=F.one() - F * h, score=G @ G.T * (0.5 * (1 + self.eta**2) * h))
        root = (G * (self.eta * h.sqrt())).prepared(model.like)
        return [EulerStep(t[i], h[i], reverse, mean, root[i]) for i, mean in enumerate(means)]

    def step(self, model: ScoreModel, x: Tensor, c: EulerStep, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Take one step of length h."""
        x_s = x - c.h * c.reverse.drift(x, c.t) if c.mean is None else model.answer(x, c.mean)
        return (self._root(x, c).onto(x_s, noise(x)) if self.eta else x_s), None

    def step_noise(self, model: ScoreModel, x: Tensor, c: EulerStep) -> StepNoise:
        """Return the law of ``eta √h G z``, where `G` may depend on the state."""
        return StepNoise(require_noise(self, self._root(x, c) if self.eta else None))

    @staticmethod
    def _root(x: Tensor, c: EulerStep) -> Operator:
        return c.reverse.diffusion(x, c.t) * c.h.sqrt() if c.root is None else c.root
