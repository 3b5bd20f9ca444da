"""Processes on a bounded domain whose laws are known: `BoundedSDE`.

Every coordinate of the data moves alone, by a clock that may run faster as noise grows. The law of a state given an earlier
one is exact and no Gaussian; at the last time the data are forgotten to `FORGOTTEN`.
"""

from __future__ import annotations

__all__ = ["FORGOTTEN", "BoundedSDE"]

from abc import abstractmethod

from torch import Tensor

from ..checks import check_number
from ..laws.kernels import StateLaw
from .known import KnownSDE

FORGOTTEN = 1e-8  # how far the law at T, relative to the last one, may depend on the data
LEAST_NOISE = 2e-4  # the standard deviation of noise at t_min, of that at T


class BoundedSDE(KnownSDE):
    """The base class of processes that stay in a bounded domain and whose law is known by the noise that has come, `law_after`.

    Their noise grows as a power of time: what a constant noise does in ``(t / T)^(2 power)`` of the whole time, they do by `t`,
    so that a standard deviation grows as ``t^power`` while it is small. A constant noise has the power ½; a greater one spends
    more of the times, of training and of a grid, on little noise, where the law of the data has its detail.

    Parameters
    ----------
    power
        The power of time, at least ½.
    T
        The last time.
    """

    def __init__(self, power: float, T: float) -> None:
        self.power, self.T = check_number("power", power, at_least=0.5), check_number("T", T, above=0)
        self.t_min = T * LEAST_NOISE ** (1 / power)

    def elapsed(self, t: Tensor) -> Tensor:
        """Return the share of all noise, as a variance, that has come by `t`: ``(t / T)^(2 power)``, float64, from 0 to 1."""
        return (t.double() / self.T) ** (2 * self.power)

    def pace(self, t: Tensor) -> Tensor:
        """Return the derivative of `elapsed` by the time."""
        return 2 * self.power / self.T * (t.double() / self.T) ** (2 * self.power - 1)

    @abstractmethod
    def law_after(self, x_s: Tensor, elapsed: Tensor) -> StateLaw:
        """Return the law of a state given `x_s`, after a share of all noise, float64, ``()`` or ``(B,)``."""

    def law(self, x_s: Tensor, s: Tensor, t: Tensor) -> StateLaw:
        """Return the law of ``x_t`` given `x_s`, by the noise that has come between."""
        return self.law_after(x_s, self.elapsed(t) - self.elapsed(s))
