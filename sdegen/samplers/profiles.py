"""The measurement by which the default sampler is chosen (`measure_profile`): at which noise levels samples are decided, and
which solvers come nearest to the flow of a model.
"""

from __future__ import annotations

__all__ = ["affordable", "known_profile", "measure_profile", "profile_cost"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..answers import check_reading
from ..arguments import check_arguments
from ..checks import check_count
from ..fixed import bytes_of, weights_of
from ..laws.mixtures import GaussianMixture
from ..laws.profiles import Profile, unmoved
from ..laws.vectors import as_vectors
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..models.wrapper import bind_rows, has_conditions
from ..processes.linear import LinearSDE, gaussian
from ..processes.scalar import as_scalar
from .start import check_states
from .stops import move_cost, move_stops
from .trials import CONTESTANTS, LAST, MOST, follow_flow, summarise_law, trial_cost, try_solvers, untried

LEVELS = 32
DRAWS, FEWEST = 16, 4  # data at each level
FEW = 8  # data, from which on solvers are tried
NOISES = 4  # paths from each datum, in trials
APART = 0.05  # difference of log(sigma / alpha) between the two evaluations of a derivative along the flow
FARTHEST = 9.0  # distance of levels from the logarithm of the spread: beyond, a law is one Gaussian or one point
ROWS = 128  # states that are evaluated at a time
TINY = 1e-30  # the variance that data without spread count as
TRIED = (1, 2, 3, 4, 5, 6, 8, 10)  # steps; between these, the solver that was nearest in fewer is taken
NOISE_SEED = 5_070_141  # a seed that no user is likely to take, and no other draw of the library takes


@check_arguments
def measure_profile(
    model: ScoreModel,
    data: Tensor,
    *,
    end: float | None = None,
    steps: Sequence[int] = TRIED,
    stops: bool = True,
    **cond: Any,
) -> Profile:
    """Measure at which noise levels the samples of a model are decided, and which solvers are nearest to its flow in a few
    steps, and return the results as a `Profile`.

    Each datum is noised to 32 levels with one and the same noise, and the model is asked twice at each, there and a short way
    along its flow: 64 evaluations a datum. Four paths begin from each datum, noised to the first time. In each number of steps
    one to ten solvers follow them to the last time, and the solver whose ends come nearest to those of a run of many steps is
    remembered: about 370 evaluations a path. Then the stops of each of these solvers are moved so that both its endings, the
    sample and its posterior mean, come nearer on half of the paths. The moved stops are kept if the endings come nearer on the
    other half too: about 820 more evaluations a path. `fit` measures 16 of the data in this way, and keeps the result as
    ``model.profile``.

    Parameters
    ----------
    model
        A score model of a scalar process whose data's moments are known.
    data
        Data of the model's law, ``(M, *)``; a dozen are enough.
    end
        The last time of the measurement; the process's ``t_min`` by default.
    steps
        Numbers of steps in which solvers are tried, from 1 to 12; if empty, no solvers are tried.
    stops
        Whether the stops of these solvers are moved.
    cond
        Conditions, one value for all data or with a row for each.

    Raises
    ------
    TypeError
        If the process is not scalar, or data are not floating-point numbers.
    ValueError
        If the moments are not known, the model cannot take the data, it returns something that is not finite, or steps are not
        from 1 to 12.

    Examples
    --------
    >>> import torch, sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> model = sdegen.Exact(sdegen.VP(), ring)
    >>> profile = measure_profile(model, ring.sample(16, torch.Generator().manual_seed(0)))
    >>> where = profile.log_ratios[profile.changes.argmax()].exp()  # the noise at which one mode of eight is chosen
    >>> bool(1 < where < 4)
    True
    """
    cond = read_conditions(model, cond, measure_profile)
    for n in steps:
        if check_count("steps", n) > MOST:
            raise ValueError(
                f"steps = {n}; solvers are tried in 1 to {MOST} steps: with more they are chosen by the profile."
            )
    x_0 = model.sde.lift(check_states("data", data, model)).double()
    noise = _draw_noise(x_0)
    profile = _measure(model, x_0, noise, end, cond)
    if not steps:
        return profile
    choices, moves = profile.choices.clone(), profile.stops.clone()
    for n, (nearest, own) in zip(
        sorted(steps), _try(model, x_0, noise, profile, end, sorted(steps), stops, cond), strict=True
    ):
        choices[n:], moves[n, : len(own)] = nearest, own
    return profile._replace(choices=choices, stops=moves)


def profile_cost(steps: Sequence[int] = TRIED, stops: bool = True) -> int:
    """Return the number of evaluations of a model for each datum of a profile.

    Parameters
    ----------
    steps
        Numbers of steps in which solvers are tried.
    stops
        Whether their stops are moved.
    """
    return 2 * LEVELS + NOISES * trial_cost(steps) + stops * NOISES * sum(map(move_cost, steps))


def affordable(evaluations: int) -> tuple[int, Sequence[int], bool]:
    """Return what a profile can be measured on with so many evaluations: the number of data, 0 if the evaluations are too few;
    the numbers of steps in which solvers can be tried; and whether the stops of these can be moved.

    Parameters
    ----------
    evaluations
        The number of evaluations of the model, each at one state.
    """
    steps = TRIED if evaluations >= FEW * profile_cost(TRIED, stops=False) else ()
    stops = evaluations >= DRAWS * profile_cost()
    draws = min(DRAWS, evaluations // profile_cost(steps, stops))
    return draws if draws >= FEWEST else 0, steps, stops


def _try(
    model: ScoreModel,
    x_0: Tensor,
    noise: Tensor,
    profile: Profile,
    end: float | None,
    steps: Sequence[int],
    stops: bool,
    cond: dict[str, Any],
) -> list[tuple[int, Tensor]]:
    """Return for each number of steps the place of the solver that is nearest to the flow, and its moved stops.

    Paths begin at data noised to the first time. Stops are empty, ``(0,)``, if the solver keeps those of its grid.
    """
    sde, n = as_scalar(model.sde, "; solvers are tried on those."), len(x_0)
    rows = torch.arange(n, device=x_0.device).repeat(NOISES)
    x_T = model.cast_states(sde.marginal(sde.T)(x_0[rows]).sample(noise))
    bound, law = bind_rows(model, cond, rows, x_0[:1], n), summarise_law(model, profile, end)
    flow = follow_flow(bound, x_T, law, steps)
    own: list[Tensor] = [torch.empty(0)] * len(steps)
    nearest = try_solvers(bound, x_T, flow, law, steps)
    if stops:
        halves = [(bind_rows(model, cond, rows[k::2], x_0[:1], n), x_T[k::2], flow[k::2]) for k in (0, 1)]
        own = [
            move_stops(halves[0], halves[1], CONTESTANTS[i].make(law, m)) for i, m in zip(nearest, steps, strict=True)
        ]
    return list(zip(nearest, own, strict=True))


def _draw_noise(x_0: Tensor) -> Tensor:
    """Draw the noise of all paths of trials, always the same, and return it; the first row for each datum serves its profile."""
    shape, generator = (NOISES * len(x_0), *x_0.shape[1:]), torch.Generator().manual_seed(NOISE_SEED)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(x_0)


def _measure(model: ScoreModel, x_0: Tensor, noise: Tensor, end: float | None, cond: dict[str, Any]) -> Profile:
    """Return the profile of a model of a scalar process, measured at clean states."""
    sde, law = as_scalar(model.sde, "; profiles are measured on those."), gaussian(model.state_moments())
    levels = _levels(sde, end, law.moments().variance().clamp_min(TINY))
    low = float(levels[0])
    rows = torch.arange(LEVELS * len(x_0))
    found = []
    with torch.no_grad(), evaluating(model):
        for own in rows.split(ROWS):
            which, level = own % len(x_0), levels[own // len(x_0)]
            bound = bind_rows(model, cond, which.to(x_0.device), x_0[:1], len(x_0))
            found.append(_look(bound, sde, law, x_0[which], noise[which], level, low))
    changes, widths = torch.cat(found, 1).reshape(2, LEVELS, len(x_0)).mean(2).cpu()
    return Profile(levels, changes, widths, torch.tensor(has_conditions(cond)), untried(), unmoved())


def _levels(sde: LinearSDE, end: float | None, variance: Tensor) -> Tensor:
    """Return the levels of the measurement: those of the process that are near enough to the spread of the data."""
    ends = torch.tensor([sde.t_min if end is None else end, sde.T], dtype=torch.float64)
    low, high = (-0.5 * sde.log_snr(ends).detach()).tolist()
    middle = 0.5 * variance.log().item()
    if middle < low or middle > high:  # data that are nothing beside the noise, or never lost in it
        low, high = max(low, -FARTHEST), min(high, FARTHEST)
    else:
        low, high = max(low, middle - FARTHEST), min(high, middle + FARTHEST)
    return torch.linspace(low, high, LEVELS, dtype=torch.float64)


def _look(
    model: ScoreModel, sde: LinearSDE, law: GaussianMixture, x_0: Tensor, z: Tensor, level: Tensor, low: float
) -> Tensor:
    """Return the changes and widths of `Profile` at a level for every row, ``(2, B)``."""
    over = (..., *[None] * (x_0.ndim - 1))
    lowest = sde.log_snr(sde.T)

    def beyond(u: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return velocity and denoised state, and the difference of the velocity from that of the Gaussian."""
        phi, t = level.exp().atan().to(u), sde.time_of_log_snr((-2 * level).clamp_min(lowest))
        at = sde.marginal(t)
        x = model.cast_states(u * at.r.matrix()[..., 0, 0].to(u)[over])
        v = check_reading("velocity", model.velocity_at(x, at), t).to(u)
        cos, sin = phi.cos(), phi.sin()
        clean = cos[over] * u - sin[over] * v
        return v, clean, (law.observed(u, cos, sin)[0] - clean) / sin[over]

    phi = level.exp().atan().to(x_0)
    cos, sin, variance = phi.cos(), phi.sin(), law.moments().variance().to(x_0)
    u = cos[over] * x_0 + sin[over] * z
    v, clean, said = beyond(u, level)
    near = torch.where(level - APART < low, level + APART, level - APART)
    angle = near.exp().atan().to(u)
    later = beyond(u + (angle - phi)[over] * v, near)[2]
    # the integrand of an exponential integrator is the difference times the spread of its reference
    before, after = ((variance * a.cos().square() + a.sin().square()).sqrt() for a in (phi, angle))
    change = as_vectors((after / before)[over] * later - said).norm(dim=1) / APART * sin * cos
    width = as_vectors(clean - x_0).square().mean(1) / sin.square()
    return torch.stack([change, width])


def known_profile(model: ScoreModel, end: float | None, steps: int | None) -> Profile | None:
    """Return the profile that a model has been given, or that of a true score, measured at the first call; None if there is none.

    The profile of a true score is kept as long as the model stays the same; solvers are tried once in each number of steps.

    Parameters
    ----------
    model
        Any score model of a scalar process.
    end
        The last time of the measurement.
    steps
        The number of steps in which solvers of the flow are tried; None to try none.
    """
    about, profile = _about(model, end), model.profile
    of, measured = vars(model).get("_measured", (about, profile))
    if measured is profile and of != about:
        profile = None  # measured on this model before it was changed
    few = steps if steps is not None and steps <= LAST else None  # for more steps the profile says enough
    told = profile is not None and (few is None or _was_tried(profile, few))
    if told or model.moments is None or model.conditions.names:
        return profile
    data = model.draw_standardised(DRAWS)
    if data is None:
        return profile
    x_0 = model.sde.embed(data).double()
    noise = _draw_noise(x_0)
    if profile is None:
        profile = _measure(model, x_0, noise, end, {})
    if few is not None:
        choices, moves = torch.full((max(len(profile.choices), few + 1),), -1), profile.stops.clone()
        choices[: len(profile.choices)] = profile.choices
        ((choices[few], own),) = _try(model, x_0, noise, profile, end, [few], few <= MOST, {})
        if len(own):
            moves[few, : len(own)] = own
        profile = profile._replace(choices=choices, stops=moves)
    model.profile = profile
    vars(model)["_measured"] = about, profile
    return profile


def _was_tried(profile: Profile, steps: int) -> bool:
    """Tell whether solvers were tried in a number of steps."""
    return steps < len(profile.choices) and bool(profile.choices[steps] >= 0)


def _about(model: ScoreModel, end: float | None) -> Any:
    """Return what the profile of a true score depends on, as far as it may change."""
    moments = [] if model.moments is None else [bytes_of(v) for v in model.moments]
    return weights_of(model.sde), moments, end
