"""Flow maps from trajectories of a teacher: `trace` follows the teacher's flow once in many steps, and by the loss `Trajectories`
a map learns to jump between the states on the way.

No target depends on the map, so the map's errors cannot reinforce each other, and a step of training costs as much as a step with
the ordinary loss.
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
        The normalised states ``x / √(alpha² + sigma²)``, ``(N, K + 1, *)``.
    velocities
        The velocities at all of these states but the last, ``(N, K, *)``.
    angles
        The angles of the process, float64 ``(N, K + 1)``.
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

    The nodes are even in the angle, but for a shift of each trajectory's own by up to half the distance of two nodes. So all
    trajectories together meet all angles, except those that are nearer to an end than this. Steps between two nodes are of second
    order around a point mass.

    Parameters
    ----------
    model
        A score model of a scalar process.
    n
        The number of trajectories; some tens of thousands for a map, so that it does not learn them by heart.
    nodes
        The number of states that are kept of each trajectory, besides the first.
    between
        The number of evaluations from one node to the next.
    seed
        The seed of noise and shifts; a fresh one by default.
    batch
        The largest number of trajectories that go through the model at a time. But for rounding they depend neither on it nor on
        `n`.
    half
        Whether the network computes, and states are kept, in half precision.
    cond
        Conditions by name, with a row for each trajectory.

    Raises
    ------
    TypeError
        If the process is not scalar, or the model takes no condition of a given name.
    ValueError
        If a number is out of range, or a condition has not `n` rows or is not finite.

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
    """Yield the normalised states at given angles with their velocities; the last velocity has no meaning.

    Each step is of second order around a point mass, ``u' = cos(h) u + sin(h) v + ½ h²/h₋ Δv``. Here ``Δv`` is the change of the
    velocity, beyond the rotation, in the step before, of length ``h₋``.
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

    A share `still` of rows goes from a state to itself, with the difference of velocities as the error, so that the map stays a
    score model. With the probability `whole` a jump begins at the beginning of its trajectory, and else anywhere on it.
    Independently, with the same probability, it ends at the end of the trajectory, and else anywhere further on.

    With whole trajectories only it is the knowledge distillation of E. Luhman and T. Luhman, *Knowledge distillation in iterative
    generative models for improved sampling speed*, 2021, arXiv:2101.02388.

    It uses only the number of rows in a batch of the data of `fit`; but as in every training the moments of the data become those
    of the map, so give the data of the teacher. Conditions are those of the trajectories, which `fit` cannot drop by
    ``p_uncond``: give `trace` the nulls of conditions in some rows.

    Parameters
    ----------
    teacher
        The model whose flow was followed, of the same process as the map.
    paths
        The trajectories of the teacher, as `trace` returns them.
    whole, still
        The probabilities of an end, and of a way of no length.
    power
        The power, from 0 to 1, of their own size by which squared errors are divided, as for a `MapLoss`: 1/2 gives distances,
        which ask for one of two modes to which neighbours go, and not for a point between.

    Raises
    ------
    ValueError
        If `whole` or `still` is not a probability, or `power` is not in [0, 1]; at a call, if the map has another process or
        other conditions than the paths.
    TypeError
        At a call, if the model is not a `FlowMap`.

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
        """Draw `n` jumps, and return the indices of their trajectories, and of the states at which they begin and end."""
        N, K = self.paths.velocities.shape[:2]
        u = uniform_like(torch.empty(6, n, dtype=torch.float64), generator)
        first = torch.where(u[1] < self.whole, 0, (u[2] * K).long())
        last = torch.where(u[3] < self.whole, K, first + 1 + (u[4] * (K - first)).long())
        return (u[0] * N).long(), first, torch.where(u[5] < self.still, first, last)

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of as many jumps as there are data, ``(B,)``."""
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
