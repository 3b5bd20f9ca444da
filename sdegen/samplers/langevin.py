"""Langevin dynamics: at one time, annealed over decreasing noise levels, or as a corrector after another sampler's steps.

``x ← x + h (R Rᵀ score + ∇·(R Rᵀ)) + √(2h) R z`` with the root `R` of the noise at that time; ``x − h R eps + √(2h) R z`` if `R`
does not depend on the state. Steps are measured in the noise's own scale and direction, for each sample, never by a mean over the
batch. There is no Metropolis correction: the law is off by O(h).
"""

from __future__ import annotations

__all__ = ["AnnealedLangevin", "Langevin", "LangevinStep", "PredictorCorrector"]

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..answers import ask_score
from ..arguments import check_arguments
from ..laws.kernels import Transition
from ..laws.operators import Operator
from ..models.score import ScoreModel
from ..processes.base import SDE
from ..processes.grids import Grid, LogSNR
from ..processes.linear import is_linear
from ..processes.state_noise import GramDivergence
from .base import C, Noise, S, Sampler
from .step_noise import StepNoise


class LangevinStep(NamedTuple):
    """Coefficients of a Langevin step: the time of its target law, and a matrix root of the noise's covariance.

    On nonlinear processes, whose root may depend on the state, `R` is None, and the divergence of the covariance is there
    instead.
    """

    t: Tensor
    R: Operator | None
    divergence: GramDivergence | None = None


class Langevin(Sampler[LangevinStep, None]):
    """Unadjusted Langevin dynamics at one time (G. Parisi, *Correlation functions and computer simulations*, 1981).

    If the noise depends on the state, steps have the divergence term of M. Girolami and B. Calderhead, *Riemann manifold Langevin
    and Hamiltonian Monte Carlo methods*, 2011.

    Parameters
    ----------
    steps
        Number of Langevin steps.
    h
        Step size relative to the variance of the noise at `t`.
    t
        The time whose law is sampled; ``t_min`` by default.

    Raises
    ------
    ValueError
        If `h` is not positive.
    """

    @check_arguments
    def __init__(self, steps: int = 1000, h: float = 0.1, t: float | None = None) -> None:
        super().__init__(steps)
        if not h > 0:
            raise ValueError(f"h = {h}; give a positive step size.")
        self.h, self.t = h, t

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the time `t`, ``steps + 1`` times over."""
        t = sde.t_min if self.t is None else self.t
        return torch.full((self.steps + 1,), t, dtype=torch.float64)

    def plan(self, model: ScoreModel, times: Tensor) -> list[LangevinStep]:
        """Plan the matrix root of the noise at each of the times."""
        sde = model.sde
        if is_linear(sde):
            return [LangevinStep(s, sde.root(s)) for s in times[1:]]
        divergence = GramDivergence(f"{type(sde).__name__}.root", partial(_root_at, sde))
        return [LangevinStep(s, None, divergence) for s in times[1:]]

    def step(self, model: ScoreModel, x: Tensor, c: LangevinStep, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Take one Langevin step towards the law at ``c.t``."""
        R = self._root(model, x, c)
        drift = R(R.T(ask_score(model, x, c.t)))
        if c.divergence is not None:
            drift = c.divergence.add_to(drift, x, c.t)
        return x + self.h * drift + R(noise(x)) * math.sqrt(2 * self.h), None

    def step_noise(self, model: ScoreModel, x: Tensor, c: LangevinStep) -> StepNoise:
        """Return the law of ``√(2h) R z``."""
        return StepNoise(self._root(model, x, c) * math.sqrt(2 * self.h))

    @staticmethod
    def _root(model: ScoreModel, x: Tensor, c: LangevinStep) -> Operator:
        return _root_at(model.sde, x, c.t) if c.R is None else c.R


def _root_at(sde: SDE, x: Tensor, t: Tensor) -> Operator:
    """Return a root `R` of the covariance of the noise at states and times.

    In coordinates without bounds, where the noise grows without limit towards an end of the domain, it is ``R / √(1 + R Rᵀ)``.
    """
    R = sde.root(t, x)
    return R if sde.coordinates is None else Transition(R.one(), R).S


class AnnealedLangevin(Langevin):
    """Annealed Langevin dynamics: `repeats` Langevin steps at each of a sequence of decreasing noise levels.

    Y. Song and S. Ermon, *Generative modeling by estimating gradients of the data distribution*, 2019, arXiv:1907.05600.

    Parameters
    ----------
    steps
        Number of noise levels.
    h
        Step size relative to the variance of the noise at each level.
    repeats
        Langevin steps a level.
    grid
        The levels; equal steps in the log-SNR by default.

    Raises
    ------
    ValueError
        If `h` is not positive, or `repeats` below 1.
    """

    @check_arguments
    def __init__(self, steps: int = 50, h: float = 0.3, repeats: int = 10, grid: Grid | None = None) -> None:
        super().__init__(steps, h)
        if repeats < 1:
            raise ValueError(f"repeats = {repeats}; at least one step a level is needed.")
        self.repeats = repeats
        self.grid = LogSNR() if grid is None else grid

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the time of each noise level `repeats` times, after the first time, at which the state starts."""
        levels = self._grid(sde)(sde, self.steps)
        return torch.cat([levels[:1], levels.repeat_interleave(self.repeats)])


class PredictorCorrector(Sampler[tuple[C, LangevinStep], S]):
    """A predictor–corrector sampler: a predictor's step, then Langevin steps at its new time (Y. Song et al., 2021,
    arXiv:2011.13456).

    Parameters
    ----------
    predictor
        Any sampler; its steps and grid are used.
    corrector
        Langevin dynamics, whose ``steps`` follow every predictor step, with its ``h``; one step of ``h = 0.05`` by default.
    """

    @check_arguments
    def __init__(self, predictor: Sampler[C, S], corrector: Langevin | None = None) -> None:
        super().__init__(predictor.steps, predictor.grid)
        self.predictor = predictor
        self.corrector = Langevin(steps=1, h=0.05) if corrector is None else corrector

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the predictor's times."""
        return self.predictor.times(sde, denoise)

    def plan(self, model: ScoreModel, times: Tensor) -> list[tuple[C, LangevinStep]]:
        """Plan predictor and corrector, step by step."""
        return list(zip(self.predictor.plan(model, times), self.corrector.plan(model, times), strict=True))

    def step(
        self, model: ScoreModel, x: Tensor, c: tuple[C, LangevinStep], noise: Noise, state: S | None
    ) -> tuple[Tensor, S]:
        """Predict, then correct, each step begun inside the domain."""
        x, remembered = self.predictor.step(model, x, c[0], noise, state)
        for _ in range(self.corrector.steps):
            x, _ = self.corrector.step(model, model.sde.enter(x), c[1], noise, None)
        return x, remembered
