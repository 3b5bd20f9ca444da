"""Sampling by flow maps: `Jumps`, of one evaluation each, with or without fresh noise between them."""

from __future__ import annotations

__all__ = ["JumpStep", "Jumps", "as_flow_map"]

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.operators import Operator
from ..models.score import ScoreModel
from ..models.wrapper import Conditioned
from ..processes.base import SDE
from ..processes.grids import Angle, Grid
from .base import Noise, Sampler, require_linear
from .exponential import Pieces
from .flow_map import FlowMap, land
from .moves import Jump


class JumpStep(NamedTuple):
    """Coefficients of a jump, its question to the model, and the map and root that add noise to its end; None without noise."""

    pieces: Pieces
    jump: Jump
    question: Any
    noised: tuple[Operator, Operator] | None


class Jumps(Sampler[JumpStep, None]):
    """The sampler of flow maps: a few jumps from noise to data, of one evaluation each.

    Without noise a run ends where the probability flow does, as far as the map is right; runs of more and fewer jumps differ only
    by the errors of the map. With `back`, every jump but the last goes further than the grid says, and the process itself takes
    the state back to the grid's time. Then the errors of the map are partly forgotten; if the map is right, the law of the states
    is the same. To the data and back (``back=1``) is the sampler of Y. Song, P. Dhariwal, M. Chen, I. Sutskever, *Consistency
    models*, 2023, arXiv:2303.01469; part of the way and back is that of D. Kim et al., *Consistency trajectory models*, 2023,
    arXiv:2310.02279.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`; by default even in the angle, down to 0.
    back
        The share of the remaining angle, from 0 to 1, by which a jump goes further. Runs to noise, such as `encode`, ignore it.

    Raises
    ------
    ValueError
        If `back` is not in [0, 1].
    TypeError
        In a run, if the model is not a flow map, or is one inside a wrapper that does more than fix conditions.
    """

    reaches_data = True

    @check_arguments
    def __init__(self, steps: int = 1, grid: Grid | None = None, back: float = 0.0) -> None:
        super().__init__(steps, Angle(end=0.0) if grid is None else grid)
        self.back = check_number("back", back, at_least=0, at_most=1)

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the times of a run, one more than its jumps, the last of which is to clean data."""
        return self._grid(sde)(sde, self.steps + 1)

    def plan(self, model: ScoreModel, times: Tensor) -> list[JumpStep]:
        """Plan the coefficients and questions of every jump."""
        sde, flow_map = require_linear(self, model.sde), as_flow_map(model)
        pieces = flow_map.pieces()
        starts, ends = times[:-1], times[1:]
        last = sde.angle_at(ends[-1])
        goals = ends if not self.back else sde.time_of_angle(torch.lerp(sde.angle_at(ends), last, self.back))
        goals = torch.cat([goals[:-1], ends[-1:]]).minimum(ends)
        steps = []
        for k, question in enumerate(flow_map.ask_ways(starts, goals)):
            noised = None
            if goals[k] < ends[k]:
                law = sde.transition(goals[k], ends[k])
                noised = law.Phi.prepared(model.like), law.R.prepared(model.like)
            steps.append(JumpStep(pieces, pieces.jump(starts[k : k + 1], goals[k : k + 1]), question, noised))
        return steps

    def step(self, model: ScoreModel, x: Tensor, c: JumpStep, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Take one jump, and add noise to its end."""
        x = land(c.pieces, c.jump, x, model.answer(x, c.question))
        if c.noised is None:
            return x, None
        Phi, R = c.noised
        return R.onto(Phi(x), noise(x)), None


def as_flow_map(model: ScoreModel) -> FlowMap:
    """Return the flow map that a model is, perhaps under fixed conditions.

    Raises
    ------
    TypeError
        If the model is not a flow map.
    """
    inside = model
    while type(inside) is Conditioned:
        inside = inside.model
    if not isinstance(inside, FlowMap):
        raise TypeError(
            f"{type(inside).__name__} is no flow map, whose network is told where a state goes; train a FlowMap, or take a "
            "sampler of many steps."
        )
    return inside
