"""Flow maps from trajectories of a teacher: its flow is followed once in many steps, and jumps between the states are learned.

No target depends on the map, which cannot lead itself astray, and a step of training costs what one of the ordinary loss costs.
With whole ways alone it is the knowledge distillation of E. Luhman and T. Luhman, *Knowledge distillation in iterative generative
models for improved sampling speed*, 2021, arXiv:2101.02388.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdegen.laws.operators import rows
from sdegen.models.modes import evaluating
from sdegen.models.score import ScoreModel
from sdegen.samplers import FlowMap
from sdegen.samplers.flow_map import land
from sdegen.training.map_losses import over_own_size
from sdegen.training.score_loss import ScoreLoss


class Paths(NamedTuple):
    """States of `N` trajectories of the probability flow at `K + 1` angles each, the largest first and 0 last.

    Attributes
    ----------
    states
        In units in which noise and data are turned into each other, ``x / √(alpha² + sigma²)``, ``(N, K + 1, *)``.
    velocities
        At all of them but the last, ``(N, K, *)``.
    angles
        Of the process, float64 ``(N, K + 1)``.
    cond
        The conditions of each trajectory.
    """

    states: Tensor
    velocities: Tensor
    angles: Tensor
    cond: dict[str, Tensor]


def trace(
    model: ScoreModel, n: int, nodes: int, between: int, seed: int, batch: int = 1000, half: bool = True, **cond: Tensor
) -> Paths:
    """Follow the flow of a model on a scalar process from noise to data `n` times, under conditions with a row for each.

    Angles of the `nodes` are even but for a shift of each trajectory's own, so that all angles are met, and there are `between`
    evaluations from one to the next. `half`: the network computes, and states are kept, in half precision.
    """
    generator = torch.Generator().manual_seed(seed)
    share = (torch.arange(nodes + 1) + torch.rand(n, 1, dtype=torch.float64, generator=generator) - 0.5) / nodes
    share[:, 0], share[:, -1] = 0.0, 1.0
    sde: Any = model.sde
    angles = sde.angle_at(sde.t_max) * (1 - share)
    parts = []
    with torch.no_grad(), evaluating(model):
        for k in range(0, n, batch):
            prior = sde.prior(model.state_moments())
            x = model.cast_states(prior.sample(len(angles[k : k + batch]), generator))
            given = {name: value[k : k + batch].to(x.device) for name, value in cond.items()}
            with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
                met = list(follow(model, x, angles[k : k + batch], between, given))
            parts.append([torch.stack([pair[i].half() if half else pair[i] for pair in met], 1) for i in (0, 1)])
    states, velocities = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return Paths(states, velocities[:, :-1].contiguous(), angles, {k: v.to(states.device) for k, v in cond.items()})


def follow(
    model: ScoreModel, x: Tensor, angles: Tensor, between: int, cond: dict[str, Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the normalised states at given angles with their velocities; the last one has none.

    Each step is of second order around a point mass, ``u' = cos(h) u + sin(h) v + ½ h²/h₋ Δv``, with ``Δv`` what the velocity
    changed by in the step before, of length ``h₋``, beyond the rotation.
    """
    sde: Any = model.sde
    u = sde.marginal(sde.time_of_angle(angles[:, 0])).normalise(x)
    v, expected, last = u, None, angles[:, 0]
    for start, end in pairwise(angles.unbind(1)):
        h = (end - start) / between
        cos, sin = rows(h.cos(), u), rows(h.sin(), u)
        for j in range(between):
            at = sde.marginal(sde.time_of_angle(start + j * h))
            v = model.velocity_at(at.r(u), at, **cond).float()
            if j == 0:
                yield u, v
            ahead = cos * u + sin * v
            if expected is not None:
                ahead = ahead + rows(0.5 * h.square() / last, u) * (v - expected)
            expected, last, u = cos * v - sin * u, h, ahead
    yield u, v


class Trajectories(ScoreLoss):
    """The loss of jumps between two states of one trajectory: the difference of ends, by the angle of the way.

    A share `still` of rows goes from a state to itself, by the difference of velocities: there the map stays a score model. With
    the probability `whole` each for itself, a jump begins where its trajectory does and ends where that ends, and else anywhere.
    The batch says how many rows are drawn, and nothing else. Squares are divided by a `power` of their size, as of a `MapLoss`.
    """

    def __init__(self, paths: Paths, whole: float = 0.25, still: float = 0.125, power: float = 0.0) -> None:
        self.paths, self.whole, self.still, self.power = paths, whole, still, power

    def pairs(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw `n` trajectories, and the numbers of the states in which jumps begin and end."""
        N, K = self.paths.velocities.shape[:2]
        u = torch.rand(6, n, dtype=torch.float64, generator=generator)
        first = torch.where(u[1] < self.whole, 0, (u[2] * K).long())
        last = torch.where(u[3] < self.whole, K, first + 1 + (u[4] * (K - first)).long())
        return (u[0] * N).long(), first, torch.where(u[5] < self.still, first, last)

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of as many rows as there are data, ``(B,)``."""
        assert isinstance(model, FlowMap)
        sde, paths = model.sde, self.paths
        which, first, last = self.pairs(len(x_0), generator)
        begin, end = (paths.angles[which, k] for k in (first, last))
        t, s = (sde.time_of_angle(phi) for phi in (begin, end))
        there = [v.to(paths.states.device) for v in (which, first, last)]
        u, goal = (paths.states[there[0], k].to(x_0) for k in there[1:])
        v = paths.velocities[there[0], there[1]].to(x_0)
        given = {name: value[there[0]].to(x_0.device) for name, value in paths.cond.items()}
        at, to, pieces = sde.marginal(t), sde.marginal(s), model.pieces()
        x = at.r(u)
        found = model.mean_velocity(x, at, model.level(s), **given)
        apart = to.normalise(land(pieces, pieces.jump(t, s), x, found)) - goal
        still = rows((begin == end).double(), u)
        angle = rows((begin - end).clamp_min(1e-3), u)
        missed = torch.where(still > 0, found - v, apart / angle).square().flatten(1).sum(1)
        return over_own_size(missed, self.power)
