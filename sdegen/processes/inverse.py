"""The inverse of a signal-to-noise ratio that falls: a table for a guess, and Newton's step to the last digits."""

from __future__ import annotations

__all__ = ["FallTable"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

NODES = 1025  # a guess is then right to six to nine digits, of which a step of Newton's makes all
FIRST = 1e-10  # of T: earlier times are left to bisection
NEAR = 1e-6  # of a level: what Newton's step leaves is of its square
SURE = 1e-7  # a relative step so small leaves an error of its square


class FallTable:
    """The time at which ``log snr`` has a value, from a cubic Hermite table in ``log t`` and one or two steps of Newton's.

    Parameters
    ----------
    fall
        Of times ``(n,)``: ``log snr`` and its derivative, which is negative.
    T
        The last time.
    """

    def __init__(self, fall: Callable[[Tensor], tuple[Tensor, Tensor]], T: float) -> None:
        self.fall, self.T = fall, T
        t = torch.logspace(math.log10(FIRST * T), math.log10(T), NODES, dtype=torch.float64).clamp_max(T)
        level, slope = fall(t)
        self.level, self.log_t, self.slope = -level, t.log(), -1.0 / (t * slope)  # of log t in the level, which rises
        self.usable = bool(self.slope.isfinite().all())

    def guess(self, level: Tensor) -> Tensor | None:
        """Return the times of values of ``log snr`` ``(n,)`` as the table has them; None beyond it."""
        looked_up = self._look_up(level)
        return None if looked_up is None else looked_up[0]

    def _look_up(self, level: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return times, and the times of the table before and after them."""
        x = -level
        i = torch.searchsorted(self.level, x.contiguous())
        if not self.usable or not ((i > 0) & (i < NODES)).all():
            return None
        before, start, end = self.level[i - 1], self.log_t[i - 1], self.log_t[i]
        width = self.level[i] - before
        u = (x - before) / width
        rest = 1 - u
        bend = width * (rest * self.slope[i - 1] - u * self.slope[i]) + (end - start) * (u - rest)
        first, last = start.exp(), end.exp().clamp_max(self.T)
        t = (start + u * (end - start) + u * rest * bend).exp().clamp(first, last)
        if not t.isfinite().all():  # between a ratio and none, as in front of a T without signal
            return None
        return t, first, last

    def __call__(self, level: Tensor) -> Tensor | None:
        """Return the times of values of ``log snr`` ``(n,)``; None where table and steps do not settle them."""
        looked_up = self._look_up(level)
        if looked_up is None:
            return None
        t, first, last = looked_up
        for _ in range(3):
            found, slope = self.fall(t)
            step = (level - found) / slope
            t = (t + step).clamp(first, last)
            # Where the slope diverges, steps are short anywhere.
            near = (level - found).abs() <= NEAR * (1 + level.abs())
            if (near & (step.abs() <= SURE * t)).all():
                return t
        return None
