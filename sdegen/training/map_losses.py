"""Losses of a flow map, each with one value per datum: `Lagrangian` and `Semigroup`.

A map is right if the end of a jump moves as the flow does, or if one jump ends where two do. Each loss asks for one of these, and
for the velocity of the data's flow in a map from a time to itself. All losses are in the units of the velocity, which a map
predicts.
"""

from __future__ import annotations

__all__ = ["Lagrangian", "MapLoss", "PairTimes", "Semigroup", "Way", "as_map", "adaptively_weighted"]

from abc import abstractmethod
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number
from ..guidance.base import check_same_process
from ..laws.draws import uniform_like
from ..laws.marginals import Marginal
from ..laws.operators import rows
from ..laws.products import plain_attention, value_and_slope
from ..laws.vectors import as_vectors
from ..models.modes import evaluating
from ..models.score import ScoreModel
from ..precision import widened
from ..processes.linear import LinearSDE
from ..processes.scalar import as_scalar
from ..samplers.directions import Scalar
from ..samplers.flow_map import FlowMap
from ..samplers.moves import add_multiple, multiply
from ..show import show_call
from .finite import finite
from .losses import Denoising
from .score_loss import ScoreLoss
from .weightings import SNRWeighting, weight_at


class PairTimes:
    """A law of pairs of times, between which a map is trained to go.

    Both times are even in the angle of the process, and the earlier time comes first with the probability `up`. With the
    probability `whole`, independently, the later time is the last of the process, and the earlier time 0: runs of few evaluations
    take such jumps.

    Parameters
    ----------
    whole
        The probability of an end, for each of the times.
    up
        The probability of a way from data to noise, as `encode` takes.

    Raises
    ------
    ValueError
        If `whole` or `up` is not a probability.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, whole: float = 0.25, up: float = 0.0) -> None:
        self.whole = check_number("whole", whole, at_least=0, at_most=1)
        self.up = check_number("up", up, at_least=0, at_most=1)

    def draw(self, sde: LinearSDE, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw `n` pairs ``(t, s)``, float64 ``(n,)`` each, and return them."""
        u = uniform_like(torch.empty(5, n, dtype=torch.float64), generator)
        last = sde.angle_at(sde.t_max)
        late, early = u[:2].amax(0), u[:2].amin(0)
        late = torch.where(u[2] < self.whole, 1.0, late)
        early = torch.where(u[3] < self.whole, 0.0, early)
        t, s = (sde.time_of_angle(v * last) for v in (late, early))
        turned = u[4] < self.up
        return torch.where(turned, s, t), torch.where(turned, t, s)


SHORTEST = 1e-3  # the smallest angle by which a difference of jumps is divided
SMALLEST = 1e-3  # added to a squared error by whose power it is divided


def adaptively_weighted(squares: Tensor, power: float) -> Tensor:
    """Return squared errors, each divided by a power of its own value, which counts as a constant for gradients.

    Parameters
    ----------
    squares
        Squared errors, ``(B,)``.
    power
        0 for the squares themselves; with 1/2 gradients are those of distances, and with 1 those of logarithms.
    """
    return squares / (squares.detach() + SMALLEST) ** power if power else squares


def as_map(model: ScoreModel, teacher: ScoreModel | None) -> FlowMap:
    """Return a flow map as it is; refuse any other model, and a map of another process than that of its teacher.

    Raises
    ------
    TypeError
        If the model is not a `FlowMap`.
    ValueError
        If the processes differ.
    """
    if not isinstance(model, FlowMap):
        raise TypeError(
            f"{type(model).__name__} is no FlowMap, whose network is told where a state goes; take Denoising()."
        )
    if teacher is not None:
        check_same_process(model, teacher, "the teacher")
    return model


class Way(NamedTuple):
    """What a loss of a map is computed from: a noised batch, and the times that its states go to.

    Attributes
    ----------
    model
        The flow map that is trained.
    truth
        The model whose flow the map is to follow: the map itself, or its teacher.
    x
        Noised states, ``(B, *)``, from which jumps start.
    at, to
        The marginals at the times of `x`, and at the times that jumps go to.
    cond
        The conditions of the batch.
    """

    model: FlowMap
    truth: ScoreModel
    x: Tensor
    at: Marginal
    to: Marginal
    cond: dict[str, Any]


class MapLoss(ScoreLoss):
    """The base class of losses of a `FlowMap`, of two parts: the error of the map between two times, and that of its velocity.

    The second part is denoising score matching of the velocity, at times even in the angle, so that a map that is trained on data
    alone follows a flow that it learns itself.

    Parameters
    ----------
    teacher
        A score model of the same process, whose flow the map follows; by default the map itself.
    times
        The law of the two times.
    diagonal
        Weight of the second part; 0 only with a teacher.
    power
        The power, from 0 to 1, of their own size by which squared errors of the first part are divided. Where neighbouring states
        go to different modes no network can follow: squares then ask for a point between the modes, and distances, ``power=0.5``,
        for one of them. The second part stays a square, since the mean of its noisy targets is wanted. Z. Geng et al., *Mean
        flows for one-step generative modeling*, 2025, arXiv:2505.13447.

    Raises
    ------
    ValueError
        If `diagonal` is negative, or 0 without a teacher, or `power` is not in [0, 1].
    TypeError
        At a call, if the model is not a `FlowMap`.
    """

    @check_arguments
    def __init__(
        self,
        teacher: ScoreModel | None = None,
        times: PairTimes | None = None,
        diagonal: float = 1.0,
        power: float = 0.0,
    ) -> None:
        check_number("diagonal", diagonal, at_least=0)
        self.power = check_number("power", power, at_least=0, at_most=1)
        if teacher is None and not diagonal:
            raise ValueError("diagonal = 0 without a teacher: nothing tells the map of the data; give one of them.")
        self.teacher, self.times, self.diagonal = teacher, PairTimes() if times is None else times, diagonal

    @abstractmethod
    def misses(self, way: Way) -> Tensor:
        """Return the errors of a map in the units of the velocity, with a row for each state."""

    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each datum, ``(B,)``."""
        model = as_map(model, self.teacher)
        sde, x_0 = model.sde, widened(x_0)
        t, s = self.times.draw(sde, len(x_0), generator)
        x, _, _, at, _ = sde.perturb(x_0, t, generator=generator)
        assert isinstance(at, Marginal)  # the process of a map is linear
        truth = model if self.teacher is None else self.teacher
        with nullcontext() if truth is model else evaluating(truth):
            squares = as_vectors(self.misses(Way(model, truth, x, at, sde.marginal(s), cond)).square()).sum(1)
        missed = adaptively_weighted(squares, self.power)
        if self.diagonal:
            missed = missed + self.diagonal * self._against_data(model, x_0, generator, cond)
        return finite(missed, t)

    def _against_data(
        self, model: FlowMap, x_0: Tensor, generator: torch.Generator | None, cond: dict[str, Any]
    ) -> Tensor:
        """Return the squared error of the velocity at times even in the angle, ``(B,)``."""
        u = uniform_like(torch.empty(len(x_0), dtype=torch.float64), generator)
        first, last = (model.sde.angle_at(v) for v in (model.sde.t_min, model.sde.t_max))
        perturbed = model.sde.perturb(x_0, model.sde.time_of_angle(torch.lerp(first, last, u)), generator=generator)
        W = weight_at(SNRWeighting(), model.sde, perturbed.at)
        return as_vectors(Denoising().error(model, perturbed, W, generator, **cond).square()).sum(1)


class Lagrangian(MapLoss):
    """The Lagrangian loss of a flow map: the end of a jump must move as the flow does, ``∂_s X_{t→s}(x) = v_s(X_{t→s}(x))``.

    The derivative by `s` is one forward-mode derivative of the network; the right side is held fixed. It is for scalar processes.
    N. Boffi, M. Albergo, E. Vanden-Eijnden, *Flow map matching*, 2024, arXiv:2406.07507, and *How to build a consistency model:
    learning flow maps via self-distillation*, 2025, arXiv:2505.18825.

    Parameters
    ----------
    teacher, times, diagonal, power
        As for every `MapLoss`.

    Raises
    ------
    ValueError, TypeError
        As for every `MapLoss`; a TypeError at a call also if the process is not scalar.
    """

    def misses(self, way: Way) -> Tensor:
        """Return the derivative of the end by the angle, less the velocity there."""
        found, slope, pieces = self.ends(way)
        with torch.no_grad():
            there = way.to.r(pieces.leave(found, way.x))
            wanted = way.truth.velocity_at(there, way.to, **way.cond)
        return slope - pieces.enter(wanted)

    def ends(self, way: Way) -> tuple[Tensor, Tensor, Scalar]:
        """Return the ends of jumps, their derivatives by the angle there, and the object in whose coordinates both are."""
        model, at = way.model, way.at
        sde = as_scalar(
            model.sde, ", and its map has no derivative by the time that it goes to here; take Semigroup()."
        )
        pieces = model.pieces()
        assert isinstance(pieces, Scalar)
        start, end = (sde.angle_at(v.t) for v in (at, way.to))
        u = pieces.enter(at.normalise(way.x))

        def land(phi: Tensor) -> Tensor:
            v = model.mean_velocity(way.x, at, model.level_at(phi), **way.cond)
            c = pieces.turn(pieces.angles(start, at.t), pieces.angles(phi, way.to.t))
            return add_multiple(multiply(c.carry, u, c.shift), c.weight, pieces.enter(v))

        with plain_attention():
            found, slope = value_and_slope(land, end, torch.ones_like(end))
        return found, slope, pieces


class Semigroup(MapLoss):
    """The semigroup loss of a flow map: one jump must end where two do, ``X_{t→s}(x) = X_{u→s}(X_{t→u}(x))`` with `u` half-way.

    The two jumps are held fixed, and the difference is divided by the angle of the way. Without a teacher it is a form of
    progressive distillation (T. Salimans and J. Ho, 2022, arXiv:2202.00512) and of shortcut models (K. Frans et al., *One step
    diffusion via shortcut models*, 2024, arXiv:2410.12557). It needs no derivative, and takes every linear process.

    Parameters
    ----------
    teacher, times, diagonal, power
        As for every `MapLoss`. The velocity of a teacher is a further target of the map from a time to itself, besides the data.

    Raises
    ------
    ValueError, TypeError
        As for every `MapLoss`.
    """

    def misses(self, way: Way) -> Tensor:
        """Return the difference of one jump and two, divided by the angle, and with a teacher also that of the velocities."""
        model, (t, s) = way.model, (way.at.t, way.to.t)
        start, end = (model.sde.angle_at(v) for v in (t, s))
        middle = model.sde.time_of_angle(0.5 * (start + end))
        with torch.no_grad():
            wanted = model.jump(model.jump(way.x, t, middle, **way.cond), middle, s, **way.cond)
            velocity = None if way.truth is model else way.truth.velocity_at(way.x, way.at, **way.cond)
        apart = way.to.normalise(model.jump(way.x, t, s, **way.cond) - wanted)
        apart = as_vectors(apart / rows((start - end).abs().clamp_min(SHORTEST), apart))
        if velocity is None:
            return apart
        return torch.cat([apart, as_vectors(model.velocity_at(way.x, way.at, **way.cond) - velocity)], 1)
