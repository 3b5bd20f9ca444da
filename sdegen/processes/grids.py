"""Time grids: the times ``t_N > ... > t_0`` at which a sampler evaluates, for any sampler.

``grid(sde, n)`` returns `n` decreasing float64 times from `start` (T by default) down to `end` (``t_min`` by default).
"""

from __future__ import annotations

__all__ = ["Angle", "Given", "Grid", "Karras", "LogSNR", "Quadratic", "Uniform", "check_falling", "show_ratio"]

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_number, check_tensor
from ..laws.marginals import LEAST_SIGNAL
from ..show import show_call
from ..signatures import Overridable
from ..transforms import check_constant
from .base import SDE

APART = 1e-14  # the least difference of two times of a grid, relative to the later one


@asked_as("a grid, such as grids.Angle()")
class Grid(Overridable, ABC):
    """The base class of time grids: decreasing times for the steps of a sampler.

    Parameters
    ----------
    start, end
        First and last time; the process's ``T`` and ``t_min`` by default. With ``end=0.0`` the grid goes to the data.

    Raises
    ------
    ValueError
        At a call, if no time is asked for, or not ``0 <= end < start <= T``.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, start: float | None = None, end: float | None = None) -> None:
        self.start, self.end = start, end

    def ends(self, sde: SDE) -> tuple[float, float]:
        """Return the last time and the first time of the grid on a process, in this order, checked.

        Raises
        ------
        ValueError
            If the times are out of order or out of ``[0, T]``.
        """
        start = float(sde.T if self.start is None else self.start)
        end = sde.t_min if self.end is None else self.end
        if not 0 <= end < start <= sde.T * (1 + 1e-12):
            raise ValueError(f"start = {start}, end = {end}: a grid needs 0 <= end < start <= T = {sde.T}.")
        return end, start

    @check_arguments
    def __call__(self, sde: SDE, n: int) -> Tensor:
        """Return the `n` times of the grid, from noise to data, float64."""
        if n < 1:
            raise ValueError(f"steps leaves {n} times; a grid needs at least one.")
        end, start = self.ends(sde)
        times = self.spread(sde, end, start, torch.linspace(1.0, 0.0, n, dtype=torch.float64) if n > 1 else _ONE)
        times[0] = start
        if n > 1:
            times[-1] = end
        return check_falling(times, f"{type(self).__name__} makes {n} times of {type(sde).__name__}")

    @abstractmethod
    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return times from `start` to `end` at the fractions `u`: 1 is `start` and 0 is `end`."""


_ONE = torch.ones(1, dtype=torch.float64)


def check_falling(times: Tensor, what: str) -> Tensor:
    """Check that times decrease by more than rounding, and return them.

    Parameters
    ----------
    times
        ``(n,)``, float64.
    what
        The beginning of the message, which says where the times are from.

    Raises
    ------
    ValueError
        If two times coincide, or are in another order, or a time is not finite.
    """
    step = times[:-1] - times[1:]
    bad = ~(step > APART * times[:-1].abs())
    if bad.any():
        k = int(bad.nonzero()[0])
        raise ValueError(
            f"{what}, of which numbers {k + 1} and {k + 2}, {times[k].item():.17g} and {times[k + 1].item():.17g}, do not "
            "decrease by more than rounding; take fewer steps, another grid, or times between which the process moves."
        )
    return times


class Uniform(Grid):
    """A time grid with equal steps in `t`.

    Parameters
    ----------
    start, end
        As for every `Grid`.
    """

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return ``end + u (start − end)``."""
        return end + u * (start - end)


class Quadratic(Grid):
    """A time grid with equal steps in ``√t``, finer towards the data (J. Song et al., 2020, arXiv:2010.02502).

    Parameters
    ----------
    start, end
        As for every `Grid`.
    """

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return ``(√end + u (√start − √end))²``."""
        return (math.sqrt(end) + u * (math.sqrt(start) - math.sqrt(end))) ** 2


class LogSNR(Grid):
    """A time grid with equal steps in ``log(alpha / sigma)``; infinite ends are cut at a ratio of 1e±`digits`.

    This is the spacing of C. Lu et al., *DPM-Solver: a fast ODE solver for diffusion probabilistic model sampling in around 10
    steps*, 2022, arXiv:2206.00927.

    Parameters
    ----------
    start, end
        As for every `Grid`.
    digits
        Steps are equal within ratios of ``10^±digits``; an end of the grid that lies beyond takes the place of the outermost
        time.
    """

    @check_arguments
    def __init__(self, start: float | None = None, end: float | None = None, digits: float = 4.0) -> None:
        super().__init__(start, end)
        self.digits = check_number("digits", digits, above=0)

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return times at which the logarithm of the signal-to-noise ratio is evenly spread."""
        cut = self.digits * math.log(10)
        best, worst = sde.log_snr(torch.tensor([end, start], dtype=torch.float64))
        low, high = (0.5 * v.clamp(-2 * cut, 2 * cut) for v in (best, worst))
        return sde.time_of_log_snr((2 * (low + u * (high - low))).clamp(worst, best))


def show_ratio(log_ratio: Tensor) -> str:
    """Return a ratio ``sigma / alpha`` that is too large, as text for a message.

    Parameters
    ----------
    log_ratio
        The logarithm of the ratio, of shape ``()``.
    """
    ratio = log_ratio.exp().item()
    return "infinite" if math.isinf(ratio) else f"{ratio:.2g}"


class Karras(Grid):
    """A time grid with equal steps in ``(sigma / alpha)^(1 / rho)`` (T. Karras et al., 2022, arXiv:2206.00364); needs
    ``alpha(start) > 0``.

    Parameters
    ----------
    start, end
        As for every `Grid`.
    rho
        The larger, the finer towards the data; 7 is the paper's, 1 makes the steps equal in ``sigma / alpha``.

    Raises
    ------
    ValueError
        If `rho` is not positive; at a call, if ``alpha(start) = 0``.
    """

    @check_arguments
    def __init__(self, start: float | None = None, end: float | None = None, rho: float = 7.0) -> None:
        super().__init__(start, end)
        if not rho > 0:
            raise ValueError(f"rho = {rho}; it must be positive.")
        self.rho = rho

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return ``((sigma/alpha)_end^(1/rho) + u (…))^rho``."""
        best, worst = sde.log_snr(torch.tensor([end, start], dtype=torch.float64))
        low, high = (-0.5 / self.rho * best).exp(), (-0.5 / self.rho * worst).exp()
        if worst < 2 * math.log(LEAST_SIGNAL):
            raise ValueError(
                f"sigma / alpha is {show_ratio(-0.5 * worst)} at t = {start} of {type(sde).__name__}; give the Karras grid "
                "an earlier start, or use the Angle grid."
            )
        return sde.time_of_log_snr((-2 * self.rho * (low + u * (high - low)).log()).clamp(worst, best))


class Angle(Grid):
    """A time grid with equal steps in ``(sigma / (c alpha + sigma))^power + time t / T``, finite at both ends of every linear
    process.

    Parameters
    ----------
    start, end
        As for every `Grid`.
    scale
        `c`, the length in the data up to which steps are even in ``sigma^power``, and beyond which they grow: 1 by default.
    power
        The smaller, the finer towards the data; 1 by default.
    time
        The weight of the time itself; 0 by default. Where the noise grows from 0 like a high power of the time, as in matrix
        processes, steps that are even in the noise alone end with one that is long in time, on which high orders are lost: give
        the time some weight there.

    Raises
    ------
    ValueError
        If `scale` or `power` is not positive, or `time` is negative.
    """

    @check_arguments
    def __init__(
        self,
        start: float | None = None,
        end: float | None = None,
        scale: float = 1.0,
        power: float = 1.0,
        time: float = 0.0,
    ) -> None:
        super().__init__(start, end)
        if not (scale > 0 and power > 0 and time >= 0):
            raise ValueError(
                f"scale = {scale}, power = {power}, time = {time}; the first two must be positive, the last at least 0."
            )
        self.scale, self.power, self.time = scale, power, time

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return times at which ``(1 / (1 + c √snr))^power + time t / T`` is evenly spread."""
        ends = torch.tensor([end, start], dtype=torch.float64)
        best, worst = sde.log_snr(ends)
        if self.time:
            return self._bisect(sde, ends, u)
        shift = math.log(self.scale)
        low, high = ((-0.5 * v - shift).sigmoid() ** self.power for v in (best, worst))
        share = (low + u * (high - low)) ** (1 / self.power)
        return sde.time_of_log_snr((-2 * (share.logit() + shift)).clamp(worst, best))

    def _bisect(self, sde: SDE, ends: Tensor, u: Tensor) -> Tensor:
        """Return the times at which ``(…)^power + time t / T`` has gone the fractions `u` of its way between the two `ends`."""

        def way(t: Tensor) -> Tensor:
            share = (-0.5 * sde.log_snr(t) - math.log(self.scale)).sigmoid()
            return share**self.power + self.time * t / sde.T

        first, last = way(ends)
        wanted = first + u * (last - first)
        low, high = (torch.full_like(u, v.item()) for v in ends)
        for _ in range(60):
            middle = (low * high).sqrt() if ends[0] > 0 else 0.5 * (low + high)
            beyond = way(middle) > wanted
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        return high


class Given(Grid):
    """A time grid of times that the user gives, in decreasing order.

    Parameters
    ----------
    times
        Strictly decreasing, ``(n,)``; kept in float64.

    Raises
    ------
    ValueError
        If the times are not strictly decreasing; at a call, if a sampler asks for another number of times, or they leave
        ``[0, T]``.
    """

    @check_arguments
    def __init__(self, times: Tensor) -> None:
        times = check_constant("times", check_tensor("times", times, finite=False)).double()
        if times.ndim != 1 or len(times) < 1 or not (times[1:] < times[:-1]).all() or times.isnan().any():
            raise ValueError(f"times = {times.tolist()}; give strictly decreasing times, noise first.")
        super().__init__(times[0].item(), times[-1].item())
        self.times = times

    @check_arguments
    def __call__(self, sde: SDE, n: int) -> Tensor:
        """Return the times themselves; `n` must be their number."""
        check_falling(self.times, "Given has times")
        if n != len(self.times):
            raise ValueError(f"the sampler asks for {n} times, the grid has {len(self.times)}; set steps to match.")
        if not 0 <= self.times[-1] <= self.times[0] <= sde.T * (1 + 1e-12):
            raise ValueError(f"times run from {self.start} to {self.end}; the process has times from T = {sde.T} to 0.")
        return self.times

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return the times themselves."""
        return self.times
