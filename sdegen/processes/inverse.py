"""The inverse of a signal-to-noise ratio that falls: a table for a guess, and Newton's step to the last digits."""

from __future__ import annotations

__all__ = ["FallTable"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

NODES = 1025  # a guess is then right to some nine digits, of which a step of Newton's makes all
FIRST = 1e-10  # of T: earlier times are left to bisection
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
        self.fall = fall
        t = torch.logspace(math.log10(FIRST * T), math.log10(T), NODES, dtype=torch.float64).clamp_max(T)
        level, slope = fall(t)
        self.level, self.log_t, self.slope = -level, t.log(), -1.0 / (t * slope)  # of log t in the level, which rises

    def __call__(self, level: Tensor) -> Tensor | None:
        """Return the times of values of ``log snr`` ``(n,)``; None where table and steps do not settle them."""
        x = -level
        if not (self.slope.isfinite().all() and (x > self.level[0]).all() and (x < self.level[-1]).all()):
            return None
        i = torch.searchsorted(self.level, x).clamp(1, NODES - 1)
        width = self.level[i] - self.level[i - 1]
        u = (x - self.level[i - 1]) / width
        t = (
            (1 + 2 * u) * (1 - u) ** 2 * self.log_t[i - 1]
            + u**2 * (3 - 2 * u) * self.log_t[i]
            + width * u * (1 - u) * ((1 - u) * self.slope[i - 1] - u * self.slope[i])
        ).exp()
        for _ in range(3):
            found, slope = self.fall(t)
            step = (level - found) / slope
            t = t + step
            if (step.abs() <= SURE * t).all():
                return t
        return None
