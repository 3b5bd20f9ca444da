"""The reverse-diffusion predictor of score_sde, a discretisation that mirrors the forward transition."""

from __future__ import annotations

__all__ = ["ReverseDiffusion", "ReverseDiffusionStep"]

from typing import Any, NamedTuple

from torch import Tensor

from ..arguments import check_arguments
from ..laws.operators import Operator
from ..models.score import ScoreModel
from ..processes.grids import Grid
from .base import Noise, Sampler, require_linear
from .step_noise import StepNoise


class ReverseDiffusionStep(NamedTuple):
    """Coefficients of a reverse-diffusion step: the mean as a question, and the matrix root of the noise."""

    mean: Any
    root: Operator


class ReverseDiffusion(Sampler[ReverseDiffusionStep, None]):
    """The reverse-diffusion predictor of score_sde: ``x_s = x_t − (Phi − 1) x_t + Q score(x_t) + √Q z`` for ``x_t | x_s ~
    N(Phi x_s, Q)``.

    The predictor of Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021,
    arXiv:2011.13456 (appendix E), with the forward process's own transition as its discretisation. No coefficient is evaluated at
    a single time, so none has to be finite. Weak order 1; steps over which ``Phi`` is far from 1 are crude.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.

    Raises
    ------
    TypeError
        In a run, if the process is not linear.
    """

    convergence_order = 1

    @check_arguments
    def __init__(self, steps: int = 500, grid: Grid | None = None) -> None:
        super().__init__(steps, grid)

    def plan(self, model: ScoreModel, times: Tensor) -> list[ReverseDiffusionStep]:
        """Plan the mean and the root of every step."""
        sde = require_linear(self, model.sde)
        law = sde.transition(times[1:], times[:-1])
        means = model.ask(times[:-1], x=law.Phi.one() * 2.0 - law.Phi, score=law.covariance)
        root = law.R.prepared(model.like)
        return [ReverseDiffusionStep(mean, root[i]) for i, mean in enumerate(means)]

    def step(
        self, model: ScoreModel, x: Tensor, c: ReverseDiffusionStep, noise: Noise, state: None
    ) -> tuple[Tensor, None]:
        """Take one step."""
        return c.root.onto(model.answer(x, c.mean), noise(x)), None

    def step_noise(self, model: ScoreModel, x: Tensor, c: ReverseDiffusionStep) -> StepNoise:
        """Return the law of ``√Q z``."""
        return StepNoise(c.root)
