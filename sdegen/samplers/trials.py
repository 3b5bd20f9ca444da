"""The default for the probability flow of a scalar process: made by the moments of the data (`make_by_moments`), by the profile
of their law (`make_by_profile`), or chosen among some solvers by trials on paths of the model itself (`try_solvers`).

Steps with equal parts of the error are best in the limit of many steps. If steps are few, each as long as the scale on which the
law changes or longer, the error is not its leading term. Then the best grid, order and reference depend on more of the law than
its profile tells, so solvers that differ in these are tried.
"""

from __future__ import annotations

__all__ = [
    "LawSummary",
    "choose_solver",
    "follow_flow",
    "level",
    "make_by_moments",
    "make_by_profile",
    "summarise_law",
    "trial_cost",
    "try_solvers",
    "untried",
]

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.mixtures import Moments
from ..laws.profiles import Profile
from ..laws.vectors import as_vectors
from ..models.modes import evaluating
from ..models.score import ScoreModel
from ..processes.grids import Angle
from .clocks import angle, log_ratio, share
from .even_error import EvenError
from .multistep import Multistep
from .references import Normal, PointMass, Reference
from .robust import typical_distances
from .steps import arrive
from .stops import moved

TURN = 0.4  # times the spread of the data: at about this level of noise samples decide what they become
WIDER = 1.5  # times the scale, under conditions
POINTS = 0.5  # of the posterior variance of smooth data: data with less are points at that noise level
LEAST = 1e-3  # the level for data that are one point
MOST = 12  # steps in trials on a network: in more, the leading term of the error says enough, given the network's own errors
LAST = 60  # steps in trials on a true score
SURE = 0.8  # of the guess's distances: a solver below it, in more steps than `MOST`, is nearer on other paths too
LONG = 40  # steps, from which on data that are points have the power of the error that high orders want
FINE = 12  # steps of the run that stands for the flow, besides three for each step that is tried


class LawSummary(NamedTuple):
    """All that the solvers of this module depend on of the law of the samples.

    Attributes
    ----------
    profile
        The profile of the law.
    level
        The noise level at which, judged by the moments, samples are decided.
    end
        The last time.
    around
        The reference for data that are not points; None for the Gaussian of the moments.
    """

    profile: Profile
    level: float
    end: float | None
    around: Reference | None


def summarise_law(model: ScoreModel, profile: Profile, end: float | None) -> LawSummary:
    """Return the summary of the law of a model's samples from which solvers are made.

    Under conditions the reference is the Gaussian of the variance under conditions, which the profile tells.

    Parameters
    ----------
    model
        A score model whose data's moments are known.
    profile
        The profile of its law.
    end
        The last time.
    """
    scale = level(model.state_moments())
    if not profile.given:
        return LawSummary(profile, scale, end, None)
    return LawSummary(profile, WIDER * scale, end, Normal(max(profile.variance(), LEAST**2)))


def level(moments: Moments) -> float:
    """Return the noise level ``0.4 √tr(Sigma) / D^(1/6)`` around which a grid that is guessed takes most steps."""
    covariance = moments.covariance.double()
    trace = covariance.trace() if covariance.ndim == 2 else covariance.sum()
    dimensions = trace.square() / covariance.square().sum().clamp_min(1e-300)
    found = float(TURN * trace.sqrt() / dimensions.clamp_min(1) ** (1 / 6))
    return found if found > 0 else LEAST


def make_by_moments(steps: int, end: float | None, scale: float | None, around: Reference | None = None) -> Multistep:
    """Return the default for a law of which no more than the moments are known: `Multistep` with an order by the number of steps.

    This is the guess that other solvers are compared with in trials.

    Parameters
    ----------
    steps, end
        The number of steps and the last time of the grid.
    scale
        The noise level around which the grid takes most steps; None for none.
    around
        The reference; the Gaussian of the moments by default.
    """
    # Chosen on exact scores of the ring and of mixtures in 8 and 64 dimensions: high orders extrapolate, and over a few long
    # steps that is worse than not to.
    order, corrector, clock, factor = (
        (2, False, share, 1.0) if steps < 6 else
        (1, True, angle, 1.0) if steps < 9 else
        (2, True, log_ratio, 0.85) if steps < 13 else  # the one place where this clock was better, in 64 dimensions
        (3, True, share, 1.0)
    )  # fmt: skip
    grid = Multistep.default_grid(end=end) if scale is None else Angle(end=end, scale=factor * scale, power=0.5)
    return Multistep(steps, grid, order, around, clock, corrector)


def make_by_profile(law: LawSummary, steps: int) -> Multistep:
    """Return the default for a law whose profile is known and on which no solvers were tried: `Multistep` on equal parts of the
    error.

    Around the data's Gaussian the order is one up to two steps, two up to six, three up to twelve, and beyond three with a
    corrector, which makes it four. Data that are points where the run ends are followed around a point mass, whose flow arrives
    at points; from 40 steps on the power of the error is then a third in place of 0.4.

    Parameters
    ----------
    law
        The summary of the law.
    steps
        The number of steps.
    """
    profile = law.profile
    last = profile.log_ratios < profile.log_ratios[0] + 1  # less than e times the noise at the end
    if profile.widths[last].min() < POINTS:
        return _by_error(law, steps, 0.4 if steps < LONG else 1 / 3, 2 if steps < 13 else 3, True, PointMass())
    if steps < 13:
        return _by_error(law, steps, 0.4, 1 if steps < 3 else 2 if steps < 7 else 3)
    return Multistep(steps, EvenError(profile, end=law.end), 3, law.around, share, True)


def _by_error(
    law: LawSummary,
    steps: int,
    power: float,
    order: int,
    corrector: bool = False,
    around: Reference | None = None,
) -> Multistep:
    """Return a solver on equal parts of a power of the error."""
    grid = EvenError(law.profile, end=law.end, power=power)
    return Multistep(steps, grid, order, around or law.around, grid.clock, corrector)


def _by_level(
    law: LawSummary,
    steps: int,
    factor: float,
    order: int,
    corrector: bool = False,
    around: Reference | None = None,
    power: float = 1 / 2,
) -> Multistep:
    """Return a solver whose steps are densest around a multiple of the level of the law; a larger power has fewer steps at little
    noise.
    """
    grid = Angle(end=law.end, scale=factor * law.level, power=power)
    return Multistep(steps, grid, order, around or law.around, share, corrector)


def _by_moments(law: LawSummary, steps: int) -> Multistep:
    """Return the solver for a law of which only the moments are known."""
    return make_by_moments(steps, law.end, law.level, law.around)


class _Contestant(NamedTuple):
    """A solver that is tried in every number of steps from `fewest` to `most`."""

    fewest: int
    most: int
    make: Callable[[LawSummary, int], Multistep]


# Order three extrapolates too far in few steps, and order one wastes many. Models keep the places of solvers: add at the end.
CONTESTANTS = (  # the guess is the first of those that are tried at a number
    _Contestant(1, MOST, _by_moments),
    _Contestant(2, 3, partial(_by_error, power=1 / 2, order=1)),
    _Contestant(2, 6, partial(_by_error, power=1 / 3, order=2)),
    _Contestant(1, 5, partial(_by_level, factor=1.0, order=1)),
    _Contestant(1, 3, partial(_by_level, factor=2.0, order=1, corrector=True, around=PointMass())),
    _Contestant(4, 6, partial(_by_error, power=1 / 3, order=2, corrector=True)),
    _Contestant(4, 6, partial(_by_level, factor=0.5, order=2)),
    _Contestant(4, MOST, partial(_by_error, power=1 / 2, order=3)),
    _Contestant(4, MOST, partial(_by_error, power=1 / 2, order=2, corrector=True)),
    _Contestant(4, MOST, partial(_by_error, power=1 / 3, order=2, corrector=True, around=PointMass())),
    _Contestant(7, MOST, partial(_by_error, power=1 / 3, order=3)),
    _Contestant(7, MOST, partial(_by_level, factor=1.0, order=2, corrector=True, around=PointMass())),
    _Contestant(4, MOST, partial(_by_level, factor=2.5, order=2, corrector=True, around=PointMass())),
    _Contestant(4, 6, partial(_by_error, power=1 / 4, order=2, corrector=True, around=PointMass())),
    _Contestant(7, MOST, partial(_by_level, factor=1.0, power=3 / 4, order=2, corrector=True)),
    _Contestant(MOST + 1, LAST, make_by_profile),  # the guess for so many steps
    _Contestant(MOST + 1, LAST, partial(_by_error, power=0.4, order=3, corrector=True)),
    _Contestant(MOST + 1, LAST, partial(_by_error, power=1 / 2, order=3, corrector=True)),
    _Contestant(MOST + 1, LAST, partial(_by_error, power=1 / 3, order=3, corrector=True)),
    _Contestant(MOST + 1, LAST, partial(_by_error, power=1 / 4, order=3, corrector=True, around=PointMass())),
    _Contestant(MOST + 1, LAST, partial(_by_level, factor=1.0, order=3, corrector=True)),
    _Contestant(MOST + 1, LAST, partial(_by_level, factor=1.0, order=3, corrector=True, around=PointMass())),
    _Contestant(MOST + 1, LAST, partial(_by_level, factor=2.5, power=3 / 4, order=3, corrector=True)),
)


def untried() -> Tensor:
    """Return the choices of a law on which no solvers were tried: −1 for each number of steps."""
    return torch.full((MOST + 1,), -1)


def follow_flow(model: ScoreModel, x_T: Tensor, law: LawSummary, steps: Sequence[int]) -> Tensor:
    """Return the ends of a run of many steps on paths of a model, which stand for the ends of its flow.

    Parameters
    ----------
    model, x_T, law, steps
        As for `try_solvers`.
    """
    with torch.no_grad(), evaluating(model):
        return arrive(model, make_by_profile(law, _fine(steps)), x_T, denoise=False)


def try_solvers(model: ScoreModel, x_T: Tensor, flow: Tensor, law: LawSummary, steps: Sequence[int]) -> list[int]:
    """Run solvers on paths of a model, and return for each number of steps the place in `CONTESTANTS` of the one that is nearest
    to the flow.

    For each solver the median and the root-mean-square distance from the ends of a run of many steps are divided by those of the
    guess (`robust.typical_distances`). The nearest solver is the one whose larger ratio is smallest. It is the guess itself if no
    other solver is better in both distances, or in more than twelve steps by a fifth in both.

    Parameters
    ----------
    model
        A score model of a scalar process, whose data's moments are known, with its conditions bound to it.
    x_T
        States at the first time, ``(B, *)``.
    flow
        The states to which the flow takes them (`follow_flow`).
    law
        The summary of the law, from which solvers are made.
    steps
        Numbers of steps.
    """
    nearest = []
    with torch.no_grad(), evaluating(model):
        for n in steps:
            tried = _tried(n)
            ends = (arrive(model, CONTESTANTS[i].make(law, n), x_T, denoise=False) for i in tried)
            missed = torch.stack([_miss(x, flow) for x in ends])
            ratios = (missed / missed[0]).amax(1).nan_to_num(torch.inf)
            ratios[0] = 1.0 if n <= MOST else SURE
            nearest.append(tried[int(ratios.argmin())])
    return nearest


def trial_cost(steps: Sequence[int]) -> int:
    """Return the number of evaluations of a model on each path of trials.

    Parameters
    ----------
    steps
        Numbers of steps.
    """
    return _fine(steps) + sum(n * len(_tried(n)) for n in steps) if steps else 0


def _fine(steps: Sequence[int]) -> int:
    """Return the number of steps of the run that stands for the flow."""
    return 3 * max(steps) + FINE


def _tried(steps: int) -> list[int]:
    """Return the places in `CONTESTANTS` of the solvers that are tried in a number of steps."""
    return [i for i, one in enumerate(CONTESTANTS) if one.fewest <= steps <= one.most]


def _miss(x: Tensor, flow: Tensor) -> Tensor:
    """Return the median and the root-mean-square distance of states from the ends of the flow."""
    return typical_distances(as_vectors(x - flow).double().norm(dim=1).cpu())


def choose_solver(law: LawSummary, steps: int) -> Multistep:
    """Return the default for a law whose profile is known.

    It is the solver that was nearest in this number of steps, with its stops moved if that helped, or the solver that the profile
    makes (`make_by_profile`) if none were tried.

    Parameters
    ----------
    law
        The summary of the law, whose profile has the choices and the stops.
    steps
        The number of steps.
    """
    profile = law.profile
    chosen = int(profile.choices[steps]) if steps < len(profile.choices) else -1
    if chosen < 0:
        return make_by_profile(law, steps)
    solver = CONTESTANTS[chosen].make(law, steps)
    if steps > MOST:
        return solver
    stops = profile.stops[steps, : steps + 1]
    return moved(solver, stops) if stops[0] >= 0 else solver
