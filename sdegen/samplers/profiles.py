"""The default's measurement: at which noise levels a law is decided (`measure_profile`), and the grid and clock that follow
(`EvenError`).

A step of length `h` from the level ``l = log(sigma / alpha)`` misses about ``h^(p+1) e(l)``, where `e` is how fast the model's
answer changes along the flow, beyond what the reference follows in closed form, times how much of a displacement is left at
the end. The total error of given steps is least where all have equal parts of it, ``h ∝ e^(−1/(p+1))``.
"""

from __future__ import annotations

__all__ = ["EvenError", "known_profile", "measure_profile"]

from typing import Any

import torch
from torch import Tensor

from ..answers import check_reading
from ..arguments import check_arguments
from ..laws.mixtures import GaussianMixture
from ..laws.profiles import Profile
from ..models.named import read_conditions
from ..models.score import ScoreModel, evaluating
from ..models.wrapper import bind_rows
from ..processes.base import SDE
from ..processes.grids import Grid
from ..processes.linear import LinearSDE, as_linear, gaussian
from ..processes.scalar import as_scalar
from .start import check_states

LEVELS = 32
DRAWS, FEWEST = 16, 4  # data at each level
APART = 0.05  # of log(sigma / alpha), between the two evaluations of a derivative along the flow
FARTHEST = 9.0  # from the logarithm of the spread: beyond, a law is one Gaussian or one point
ROWS = 128  # states that are evaluated at a time
POWER = 0.4  # of the error: between a third and a half, what methods of order two and one want
TINY = 1e-30  # a variance that is none
NOISE_SEED = 5_070_141  # one that nobody takes, nor any other draw of the library
LEAST = 0.02  # of the steps at the densest level: so many there are at every level


@check_arguments
def measure_profile(model: ScoreModel, data: Tensor, *, end: float | None = None, **cond: Any) -> Profile:
    """Measure at which noise levels the samples of a model are decided, and return that as a `Profile`.

    Each datum is noised to 32 levels with one and the same noise, and the model is asked twice, there and a short way along its
    flow: 64 evaluations a datum. `fit` does so with 16 of the data, and keeps the result as ``model.profile``.

    Parameters
    ----------
    model
        A score model of a scalar process whose data's moments are known.
    data
        Data of the model's law, ``(M, *)``; a dozen are enough.
    end
        The last time that is looked at; the process's ``t_min`` by default.
    cond
        Conditions, one value for all data or with a row for each.

    Raises
    ------
    TypeError
        If the process is not scalar, or data are no floating-point numbers.
    ValueError
        If the moments are not known, data are none that the model could take, or it says something that is not finite.

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
    return _measure(model, model.sde.lift(check_states("data", data, model)).double(), end, cond)


def _measure(model: ScoreModel, x_0: Tensor, end: float | None, cond: dict[str, Any]) -> Profile:
    """Return the profile of a model of a scalar process, measured at data that are states."""
    sde, law = as_scalar(model.sde, "; profiles are measured on those."), gaussian(model.state_moments())
    levels = _levels(sde, end, law.moments().variance().clamp_min(TINY))
    low = float(levels[0])
    noise = torch.randn(x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(NOISE_SEED)).to(x_0)
    rows = torch.arange(LEVELS * len(x_0))
    found = []
    with torch.no_grad(), evaluating(model):
        for own in rows.split(ROWS):
            which, level = own % len(x_0), levels[own // len(x_0)]
            bound = bind_rows(model, cond, which.to(x_0.device), x_0[:1], len(x_0))
            found.append(_look(bound, sde, law, x_0[which], noise[which], level, low))
    changes, widths = torch.cat(found, 1).reshape(2, LEVELS, len(x_0)).mean(2).cpu()
    return Profile(levels, changes, widths, torch.tensor(bool(cond)))


def _levels(sde: LinearSDE, end: float | None, variance: Tensor) -> Tensor:
    """Return the levels that are looked at: those of the process that are near enough to the spread of the data."""
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
        """Return velocity and denoised state, and by how much the velocity is another than that of the Gaussian."""
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
    change = ((after / before)[over] * later - said).flatten(1).norm(dim=1) / APART * sin * cos
    width = (clean - x_0).flatten(1).square().mean(1) / sin.square()
    return torch.stack([change, width])


def known_profile(model: ScoreModel, end: float | None) -> Profile | None:
    """Return the profile that a model has been given, or of a true score measure it once; None where there is none.

    Parameters
    ----------
    model
        Any score model of a scalar process.
    end
        The last time that is looked at.
    """
    if model.profile is None and model.moments is not None and not model.conditions.names:
        data = model.draw_standardised(DRAWS)
        if data is not None:
            model.profile = _measure(model, model.sde.embed(data).double(), end, {})
    return model.profile


class EvenError(Grid):
    """A time grid on which every step has an equal part of the error that a `Profile` tells of.

    Times are even in ``W(l) = ∫ e(l)^0.4 dl`` with ``l = log(sigma / alpha)``, ``phi = atan(sigma / alpha)`` and

        e(l) = changes exp(−∫ cos² phi (1 − widths) dl),

    the inner integral from the data up to `l`: a displacement at `l` arrives multiplied by that exponential. `clock` is `W` as a
    function of the angle: an integrator that interpolates in it takes equal steps.

    Parameters
    ----------
    profile
        As `measure_profile` finds it.
    start, end
        As for every grid.

    Raises
    ------
    ValueError
        If the profile is of levels that do not rise.

    Examples
    --------
    >>> import torch, sdegen
    >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    >>> grid = EvenError(measure_profile(model, model.distribution.sample(16, torch.Generator().manual_seed(0))))
    >>> times = grid(model.sde, 4)
    >>> times[0].item(), bool((times.diff() < 0).all()), round(times[-1].item() / model.sde.t_min, 6)
    (1.0, True, 1.0)
    """

    @check_arguments
    def __init__(self, profile: Profile, start: float | None = None, end: float | None = None) -> None:
        super().__init__(start, end)
        self.profile = profile
        l, changes, widths = (v.double().cpu() for v in profile[:3])
        gaps = l.diff()
        if not (len(l) > 1 and (gaps > 0).all() and len(l) == len(changes) == len(widths)):
            raise ValueError(
                f"profile has {len(l)} levels, {len(changes)} changes and {len(widths)} widths; give as many of each, at levels "
                "that rise, such as measure_profile(model, data)."
            )
        kept = torch.cumulative_trapezoid((-2 * l).sigmoid() * (1 - widths), l)
        error = changes * torch.cat([l.new_zeros(1), -kept]).exp()
        density = (error / error.max().clamp_min(1e-300)) ** POWER + LEAST
        self._levels, self._density, self._gaps = l, density, gaps
        self._passed = torch.cat([l.new_zeros(1), torch.cumulative_trapezoid(density, l)])

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return the times at the fractions `u` of the way in `W` between the ends, as far as the profile goes."""
        linear = as_linear(sde, "; the grid is even in log(sigma / alpha).")
        ends = linear.log_snr(torch.tensor([end, start], dtype=torch.float64)).detach()
        low, high = self._clock((-0.5 * ends).clamp(self._levels[0], self._levels[-1]))
        level = self._level(low + u * (high - low))
        return linear.time_of_log_snr((-2 * level).clamp(ends[1], ends[0]))

    def clock(self, phi: Tensor) -> Tensor:
        """Return `W` at angles ``atan(sigma / alpha)``, of any shape; beyond the profile it rises by no more than one."""
        return self._clock(phi.tan().log())

    def _clock(self, level: Tensor) -> Tensor:
        """Return `W` at levels."""
        l = self._levels.to(level)
        inside = level.clamp(l[0], l[-1])
        i = (torch.searchsorted(l, inside.contiguous()) - 1).clamp(0, len(l) - 2)
        density, gap = self._density.to(level), self._gaps.to(level)[i]
        part = (inside - l[i]) / gap
        passed = self._passed.to(level)[i] + gap * part * (density[i] + 0.5 * part * (density[i + 1] - density[i]))
        outside = level - inside
        return passed - density[torch.where(outside > 0, -1, 0)] * torch.expm1(-outside.abs()) * outside.sign()

    def _level(self, passed: Tensor) -> Tensor:
        """Return the levels at which `W` is `passed`, the inverse of `_clock` within the profile."""
        i = (torch.searchsorted(self._passed, passed.contiguous()) - 1).clamp(0, len(self._levels) - 2)
        first, slope, gap = self._density[i], self._density[i + 1] - self._density[i], self._gaps[i]
        rest = (passed - self._passed[i]) / gap
        return self._levels[i] + gap * 2 * rest / (first + (first.square() + 2 * slope * rest).clamp_min(0).sqrt())
