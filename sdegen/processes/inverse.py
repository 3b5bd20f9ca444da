"""The time at which a process has a given signal-to-noise ratio, where no closed form is known: `InverseTable`, a table of
guesses with Newton's steps to the last digits, and `Tabulated`, the linear processes that keep one.
"""

from __future__ import annotations

__all__ = ["InverseTable", "Tabulated"]

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..fixed import isolated_for, remembered
from .linear import LinearSDE
from .panels import Refined

P = TypeVar("P", bound=Refined[Any])

NODES = 1025  # so that a guess has six to nine digits, and one step of Newton's method all
FIRST = 1e-10  # of T: earlier times are left to bisection
# Newton's method converges quadratically: an error, or a relative step, of this size leaves one of its square.
NEAR = 1e-6  # of log snr
SURE = 1e-7  # of the time


class InverseTable:
    """The time at which ``log snr`` has a value, from a cubic Hermite table in ``log t`` and one or two steps of Newton's method.

    Parameters
    ----------
    log_snr_and_slope
        Maps times ``(n,)`` to ``log snr`` and its derivative by the time, which is negative.
    T
        The last time.
    """

    def __init__(self, log_snr_and_slope: Callable[[Tensor], tuple[Tensor, Tensor]], T: float) -> None:
        self.log_snr_and_slope, self.T = log_snr_and_slope, T
        t = torch.logspace(math.log10(FIRST * T), math.log10(T), NODES, dtype=torch.float64).clamp_max(T)
        level, slope = log_snr_and_slope(t)
        # The table is sorted by the negative level, which rises with the time; `slope` is of ``log t`` by it.
        self.level, self.log_t, self.slope = -level, t.log(), -1.0 / (t * slope)
        self.usable = bool(self.slope.isfinite().all())

    def guess(self, level: Tensor) -> Tensor | None:
        """Return the times of values of ``log snr`` ``(n,)`` to the precision of the table; None if one lies beyond the table."""
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
        if not t.isfinite().all():  # beside an infinite level, as at a T without signal
            return None
        return t, first, last

    def __call__(self, level: Tensor) -> Tensor | None:
        """Return the times of values of ``log snr`` ``(n,)``; None if table and Newton's steps do not find one of them."""
        looked_up = self._look_up(level)
        if looked_up is None:
            return None
        t, first, last = looked_up
        for _ in range(3):
            found, slope = self.log_snr_and_slope(t)
            step = (level - found) / slope
            t = (t + step).clamp(first, last)
            # Where the slope diverges, steps are short anywhere.
            near = (level - found).abs() <= NEAR * (1 + level.abs())
            if (near & (step.abs() <= SURE * t)).all():
                return t
        return None


class Tabulated(LinearSDE):
    """The base class of linear processes that find times by an `InverseTable`, and keep panels of their coefficients: subclasses
    give ``log snr`` with its derivative.
    """

    # The state of the coefficients, the last panels, and whether derivatives were recorded when these were made.
    _panels: tuple[Any, Any, bool] | None = None

    def _kept_panels(self, state: Any, make: Callable[[], P]) -> P:
        """Return panels of the coefficients, which are kept while the state of the coefficients stays the same.

        Panels that carry gradients are made at every call, since a backward pass uses up their graph. Whether they carry any is
        known once they are made where derivatives are recorded.
        """
        recorded = torch.is_grad_enabled()
        if self._panels is None or self._panels[0] != state or (recorded and not self._panels[2]):
            # Panels do not depend on the times that are asked about, which may be differentiated.
            with isolated_for(self):
                panels = make()
            if panels.learns:
                return panels
            self._panels = state, panels, recorded
        found: P = self._panels[1]
        return found

    @abstractmethod
    def _log_snr_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log snr`` and its derivative at times ``(n,)``."""

    @remembered
    def _inverse(self) -> InverseTable:
        with torch.no_grad():
            return InverseTable(self._log_snr_and_slope, self.T)

    def _invert(self, level: Tensor) -> Tensor:
        """Return the times at which ``log snr`` is `level`: by the table, or by bisection where the table does not find them."""
        t = self._inverse(level.reshape(-1))
        return super()._invert(level) if t is None else t.reshape(level.shape)
