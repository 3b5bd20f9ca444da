"""Flow maps from trajectories of a teacher: `trace` follows its flow once in many steps, and by the loss `Trajectories` a map
learns to jump between the states on the way.

No target depends on the map, so that it cannot lead itself astray, and a step of training costs as much as one of the ordinary
loss.
"""

from __future__ import annotations

__all__ = ["Paths", "Trajectories", "trace"]

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..laws.draws import uniform_like
from ..laws.operators import rows
from ..laws.vectors import as_vectors
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..precision import widened
from ..processes.scalar import ScalarSDE, as_scalar
from ..samplers.flow_map import land
from ..samplers.noise import as_seed, draw
from ..samplers.priors import prior_of
from ..show import show_call
from .finite import finite
from .map_losses import SHORTEST, adaptively_weighted, as_map
from .score_loss import ScoreLoss


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

    def __repr__(self) -> str:
        return show_call(self)


@check_arguments
def trace(
    model: ScoreModel,
    n: int,
    *,
    nodes: int = 8,
    between: int = 4,
    seed: int | None = None,
    batch: int = 1000,
    half: bool = False,
    cond: dict[str, Tensor] | None = None,
) -> Paths:
    """Follow the probability flow of a model from noise to data `n` times, and return the states on the way.

    Angles of the nodes are even but for a shift of each trajectory's own, by up to half of what is between two. All trajectories
    together so meet all angles but those nearer than that to an end. Between two nodes are steps of second order around a point
    mass.

    Parameters
    ----------
    model
        A score model on a scalar process.
    n
        Trajectories; some tens of thousands for a map, so that it does not learn them by heart.
    nodes
        States kept of each, besides the first.
    between
        Evaluations from one to the next.
    seed
        Of noise and shifts; a fresh one by default.
    batch
        Most trajectories that go through the model at a time. They do not depend on it, nor on `n`, but for rounding.
    half
        Whether the network computes, and states are kept, in half precision.
    cond
        Conditions by name, with a row for each trajectory.

    Raises
    ------
    TypeError
        If the process is not scalar, or the model takes no condition of a name.
    ValueError
        If a number is none that can be, or a condition has not `n` rows or is not finite.

    Examples
    --------
    >>> import sdegen
    >>> paths = trace(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), 5, nodes=4, seed=0)
    >>> paths.states.shape, paths.velocities.shape, paths.angles.shape
    (torch.Size([5, 5, 2]), torch.Size([5, 4, 2]), torch.Size([5, 5]))
    """
    check_count("n", n), check_count("nodes", nodes), check_count("between", between), check_count("batch", batch)
    sde = as_scalar(model.sde, ", and its flow turns by no one angle; take Semigroup(teacher).")
    given = read_conditions(model, cond or {}, trace)
    for name, value in given.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != n:
            raise ValueError(f"{name} has not a row for each of {n} trajectories; give a tensor ({n}, ...).")
    seed = as_seed(seed, None)
    generator = torch.Generator().manual_seed(seed)
    share = (torch.arange(nodes + 1) + torch.rand(n, 1, dtype=torch.float64, generator=generator) - 0.5) / nodes
    share[:, 0], share[:, -1] = 0.0, 1.0
    angles = sde.angle_at(torch.tensor(sde.t_max, dtype=torch.float64)).detach() * (1 - share)
    moments, parts = model.state_moments(" for the prior to be matched to"), []
    prior = prior_of(sde, moments, "train longer")
    with torch.no_grad(), evaluating(model):
        for k in range(0, n, batch):
            x = model.cast_states(draw(prior, min(batch, n - k), seed, moments.mean.numel(), k))
            told = {name: value[k : k + batch].to(x.device) for name, value in given.items()}
            with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
                met = list(_follow(model, sde, x, angles[k : k + batch], between, told))
            parts.append([torch.stack([pair[i].half() if half else pair[i] for pair in met], 1) for i in (0, 1)])
    states, velocities = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    return Paths(states, velocities[:, :-1].contiguous(), angles, {k: v.to(states.device) for k, v in given.items()})


def _follow(
    model: ScoreModel, sde: ScalarSDE, x: Tensor, angles: Tensor, between: int, cond: dict[str, Any]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the normalised states at given angles with their velocities; the last one has none.

    Each step is of second order around a point mass, ``u' = cos(h) u + sin(h) v + ½ h²/h₋ Δv``, with ``Δv`` what the velocity
    changed by in the step before, of length ``h₋``, beyond the rotation.
    """
    u = sde.marginal(sde.time_of_angle(angles[:, 0])).normalise(x)
    v, expected, last = u, None, angles[:, 0]
    for start, end in pairwise(angles.unbind(1)):
        h = (end - start) / between
        cos, sin = rows(h.cos(), u), rows(h.sin(), u)
        for j in range(between):
            at = sde.marginal(sde.time_of_angle(start + j * h))
            v = model.velocity_at(at.r(u), at, **cond).to(u)
            if j == 0:
                yield u, v
            ahead = cos * u + sin * v
            if expected is not None:
                ahead = ahead + rows(0.5 * h.square() / last, u) * (v - expected)
            expected, last, u = cos * v - sin * u, h, ahead
    yield u, v


class Trajectories(ScoreLoss):
    """The loss of a flow map between two states of one trajectory of its teacher: the difference of ends over the angle between.

    A share `still` of rows goes from a state to itself, by the difference of velocities: there the map stays a score model. With
    the probability `whole` a jump begins where its trajectory begins, and else anywhere on it; independently, and with the same
    probability, it ends where that ends, and else anywhere further on.

    With whole ways alone it is the knowledge distillation of E. Luhman and T. Luhman, *Knowledge distillation in iterative
    generative models for improved sampling speed*, 2021, arXiv:2101.02388.

    Of the data of `fit` it takes the number of rows in a batch alone, but as in every training their moments become those of the
    map: give the data of the teacher. Conditions are those of the trajectories, which `fit` cannot drop by ``p_uncond``: give
    `trace` their nulls in some rows.

    Parameters
    ----------
    teacher
        The model whose flow was followed, on the process of the map.
    paths
        Its trajectories, of `trace`.
    whole, still
        The probabilities of an end, and of a way of no length.
    power
        Squared misses are divided by this power of their own size, from 0 to 1, as of a `MapLoss`: 1/2 for distances, which of
        two modes that neighbours go to ask for one, and not for what is between.

    Raises
    ------
    ValueError
        If one is no probability, or `power` is not in [0, 1]; at a call, if the map is of another process or under other
        conditions than the paths.
    TypeError
        At a call, if the model is no `FlowMap`.

    Examples
    --------
    >>> import sdegen
    >>> teacher = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP())
    >>> run = sdegen.fit(teacher, sdegen.data.gaussian_ring(), steps=5, batch_size=32, seed=0)
    >>> model = sdegen.samplers.FlowMap.of(teacher)
    >>> loss = Trajectories(teacher, trace(teacher, 100, seed=0))
    >>> sdegen.fit(model, sdegen.data.gaussian_ring(), steps=5, batch_size=32, seed=0, loss=loss).steps
    5
    """

    @check_arguments
    def __init__(
        self, teacher: ScoreModel, paths: Paths, whole: float = 0.4, still: float = 0.125, power: float = 0.5
    ) -> None:
        self.teacher, self.paths = teacher, paths
        self.whole = check_number("whole", whole, at_least=0, at_most=1)
        self.still = check_number("still", still, at_least=0, at_most=1)
        self.power = check_number("power", power, at_least=0, at_most=1)

    def conditions(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the conditions of the trajectories."""
        return self.paths.cond

    def pairs(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw `n` trajectories, and the numbers of the states in which jumps begin and end."""
        N, K = self.paths.velocities.shape[:2]
        u = uniform_like(torch.empty(6, n, dtype=torch.float64), generator)
        first = torch.where(u[1] < self.whole, 0, (u[2] * K).long())
        last = torch.where(u[3] < self.whole, K, first + 1 + (u[4] * (K - first)).long())
        return (u[0] * N).long(), first, torch.where(u[5] < self.still, first, last)

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of as many rows as there are data, ``(B,)``."""
        model = as_map(model, self.teacher)
        sde, paths, x_0 = model.sde, self.paths, widened(x_0)
        if set(cond) != set(paths.cond):
            raise ValueError(
                f"the data have the conditions {sorted(cond)}, and the trajectories {sorted(paths.cond)}; give trace the same by "
                "cond=...."
            )
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
        angle = rows((begin - end).clamp_min(SHORTEST), u)
        missed = as_vectors(torch.where(still > 0, found - v, apart / angle).square()).sum(1)
        return finite(adaptively_weighted(missed, self.power), t)
