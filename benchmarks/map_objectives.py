"""The objectives that `benchmarks.flow_map_table` compares: the library's, with and without their parts, and Eulerian ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

import sdegen
from sdegen import training
from sdegen.laws.draws import uniform_like
from sdegen.laws.marginals import Marginal
from sdegen.laws.operators import Scale
from sdegen.laws.products import plain_attention
from sdegen.models.score import ScoreModel
from sdegen.processes.linear import LinearSDE
from sdegen.samplers import FlowMap
from sdegen.samplers.directions import Scalar
from sdegen.samplers.moves import add_multiple, multiply
from sdegen.training.map_losses import Way
from sdegen.training.score_loss import ScoreLoss


class Eulerian(training.MapLoss):
    """The Eulerian loss: the end of a map stays where it is as its beginning moves along the flow, ``d/dt X_{t→s}(x_t) = 0``.

    Consistency models and MeanFlow ask for this (Y. Song et al., 2023, arXiv:2303.01469; Z. Geng et al., 2025,
    arXiv:2505.13447). For processes with ``alpha² + sigma² = 1``. With `held` the derivative is a target for the mean velocity,
    which stands in it with the factor −1 at ``s = t``, and has no gradient of its own.
    """

    def __init__(self, teacher: ScoreModel, held: bool = True, diagonal: float = 0.0, power: float = 0.0) -> None:
        super().__init__(teacher, diagonal=diagonal, power=power)
        self.held = held

    def misses(self, way: Way) -> Tensor:
        """Return the derivative of the end by the angle of the beginning."""
        model, pieces = way.model, way.model.pieces()
        assert isinstance(pieces, Scalar)
        start, end = (model.sde.angle_at(v.t) for v in (way.at, way.to))
        until = model.level(way.to.t)
        with torch.no_grad():
            velocity = pieces.enter(way.truth.velocity_at(way.x, way.at, **way.cond))

        def ends(u: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
            at = Marginal(Scale(phi.cos()), Scale(phi.sin()), way.at.t)
            v = pieces.enter(model.mean_velocity(pieces.leave(u, way.x), at, until, **way.cond))
            c = pieces.turn(pieces.angles(phi, way.at.t), pieces.angles(end, way.to.t))
            return add_multiple(multiply(c.carry, u, c.shift), c.weight, v), v

        with plain_attention():
            there = pieces.enter(way.x), start
            (_, mean), (slope, _) = torch.func.jvp(ends, there, (velocity, torch.ones_like(start)))[:2]
        return mean - (mean + slope).detach() if self.held else slope


class Moving(training.Lagrangian):
    """The Lagrangian loss whose right side, the velocity where a jump ends, has a gradient too."""

    def misses(self, way: Way) -> Tensor:
        """Return the derivative of the end by the angle, less the velocity there."""
        found, slope, pieces = self.ends(way)
        there = way.to.r(pieces.leave(found, way.x))
        return slope - pieces.enter(way.truth.velocity_at(there, way.to, **way.cond))


class Sigmoids(training.PairTimes):
    """Pairs of times whose shares of the angle are sigmoids of normal numbers, ``N(−0.4, 1)``, as MeanFlow draws them."""

    def draw(self, sde: LinearSDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw `n` pairs ``(t, s)``, the later time first."""
        u = uniform_like(torch.empty(2, n, dtype=torch.float64), generator)
        shares = torch.special.expit(torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12)) - 0.4).sort(0).values
        early, late = (sde.time_of_angle(v * sde.angle_at(sde.t_max)) for v in shares)
        return late, early


def of_pairs(teacher: ScoreModel, times: training.PairTimes) -> ScoreLoss:
    """Return the Lagrangian loss with a law of times."""
    return training.Lagrangian(teacher, times, diagonal=0.0)


OBJECTIVES: dict[str, Callable[[ScoreModel], ScoreLoss]] = {
    "Lagrangian": lambda v: training.Lagrangian(v, diagonal=0.0),
    "Eulerian": Eulerian,
    "Eulerian, logarithms": lambda v: Eulerian(v, power=1.0),
    "semigroup": lambda v: training.Semigroup(v, diagonal=0.0),
    "Eulerian, gradient of the whole": lambda v: Eulerian(v, held=False),
    "Lagrangian, gradient of the whole": lambda v: Moving(v, diagonal=0.0),
    "Lagrangian, distances": lambda v: training.Lagrangian(v, diagonal=0.0, power=0.5),
    "Lagrangian, logarithms": lambda v: training.Lagrangian(v, diagonal=0.0, power=1.0),
    "Lagrangian, no whole ways": lambda v: of_pairs(v, training.PairTimes(0.0)),
    "Lagrangian, more whole ways": lambda v: of_pairs(v, training.PairTimes(0.6)),
    "Lagrangian, sigmoid times": lambda v: of_pairs(v, Sigmoids()),
}


def steps_within(seconds: float, model: FlowMap, data: Any, loss: ScoreLoss, trial: int = 25) -> int:
    """Return how many steps of 256 data a core takes in so many seconds, by a few steps of a copy."""
    copied = deepcopy(model)
    fit_for(1, copied, data, loss, 0)  # so that what only a first step does is not timed
    began = time.process_time()
    fit_for(trial, copied, data, loss, 0)
    return max(1, int(seconds / (time.process_time() - began) * trial))


def fit_for(steps: int, model: FlowMap, data: Any, loss: ScoreLoss, seed: int) -> None:
    """Train a map for so many steps."""
    sdegen.fit(model, data, steps=steps, batch_size=256, lr=2e-3, seed=seed, loss=loss, progress=False, threads=1)
