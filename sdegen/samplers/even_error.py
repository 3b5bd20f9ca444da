"""The grid of the default: times between which every step has an equal part of the error that a profile predicts (`EvenError`).

A step of length `h` from the level ``l = log(sigma / alpha)`` has an error of about ``h^(p+1) e(l)``. Here `e` is how fast the
model's answer changes along the flow, beyond what the reference follows in closed form, times how much of a displacement is left
at the end. The total error of many steps is least if all steps have equal parts of it, ``h ∝ e^(−1/(p+1))``.
"""

from __future__ import annotations

__all__ = ["EvenError"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.profiles import Profile
from ..processes.base import SDE
from ..processes.grids import Grid
from ..processes.linear import as_linear

LEAST = 0.02  # of the density of steps at the densest level: no level has a smaller one


class EvenError(Grid):
    """A time grid on which every step has an equal part of the error that a `Profile` predicts.

    Times are even in ``W(l) = ∫ e(l)^power dl`` with ``l = log(sigma / alpha)``, ``phi = atan(sigma / alpha)`` and

        e(l) = changes exp(−∫ cos² phi (1 − widths) dl),

    with the inner integral from the data up to `l`: a displacement at `l` arrives at the data multiplied by this exponential.
    `clock` is `W` as a function of the angle: an integrator that interpolates in `W` takes equal steps.

    Parameters
    ----------
    profile
        The profile of a model, as `measure_profile` returns it.
    start, end
        As for every grid.
    power
        The power of the error: methods of order one want a half, those of order two a third; 0 makes steps even in `l`.

    Raises
    ------
    ValueError
        If the levels of the profile do not rise, or the power is not from 0 to 1.

    Examples
    --------
    >>> import torch, sdegen
    >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    >>> data = model.distribution.sample(16, torch.Generator().manual_seed(0))
    >>> grid = EvenError(sdegen.samplers.measure_profile(model, data))
    >>> times = grid(model.sde, 4)
    >>> times[0].item(), bool((times.diff() < 0).all()), round(times[-1].item() / model.sde.t_min, 6)
    (1.0, True, 1.0)
    """

    @check_arguments
    def __init__(
        self, profile: Profile, start: float | None = None, end: float | None = None, power: float = 0.4
    ) -> None:
        super().__init__(start, end)
        self.profile, self.power = profile, check_number("power", power, at_least=0.0, at_most=1.0)
        l, changes, widths = (v.double().cpu() for v in profile[:3])
        gaps = l.diff()
        if not (len(l) > 1 and (gaps > 0).all() and len(l) == len(changes) == len(widths)):
            raise ValueError(
                f"profile has {len(l)} levels, {len(changes)} changes and {len(widths)} widths; give as many of each, at levels "
                "that rise, such as measure_profile(model, data)."
            )
        kept = torch.cumulative_trapezoid((-2 * l).sigmoid() * (1 - widths), l)
        # relative to the largest by logarithms, which stay finite whatever a model says of levels it was never trained at
        log_error = changes.clamp_min(1e-300).log() - torch.cat([l.new_zeros(1), kept])
        density = ((log_error - log_error.max()).exp() * (changes > 0)) ** power + LEAST
        self._levels, self._density, self._gaps = l, density, gaps
        self._passed = torch.cat([l.new_zeros(1), torch.cumulative_trapezoid(density, l)])

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return the times at the fractions `u` of the way in `W` between the ends, clamped to the levels of the profile."""
        linear = as_linear(sde, "; the grid is even in log(sigma / alpha).")
        ends = linear.log_snr(torch.tensor([end, start], dtype=torch.float64)).detach()
        low, high = self._clock((-0.5 * ends).clamp(self._levels[0], self._levels[-1]))
        level = self._level(low + u * (high - low))
        return linear.time_of_log_snr((-2 * level).clamp(ends[1], ends[0]))

    def clock(self, phi: Tensor) -> Tensor:
        """Return `W` at angles ``atan(sigma / alpha)``, of any shape.

        Beyond the levels of the profile `W` goes on rising, but no further than by the density at the last level.
        """
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
