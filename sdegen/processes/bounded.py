"""Processes on a bounded domain whose laws are known: `BoundedSDE`.

Every coordinate of the data moves alone, by a clock that may run faster as noise grows. The law of a state given an earlier state
is exact, and no Gaussian; at the last time the data are forgotten to `FORGOTTEN`.
"""

from __future__ import annotations

__all__ = ["FORGOTTEN", "BoundedBrownianMotion", "BoundedSDE"]

from abc import abstractmethod

import torch
from torch import Tensor

from ..checks import check_number
from ..laws.kernels import StateLaw
from ..laws.operators import Operator, Scale
from .dynamics import as_time
from .known import KnownSDE

FORGOTTEN = 1e-8  # how far the law at T may depend on the data, relative to the law that the process settles on
LEAST_NOISE = 2e-4  # the noise at t_min as a part of that at T, in standard deviations


class BoundedSDE(KnownSDE):
    """The base class of processes that stay in a bounded domain and whose law is known by the share of noise that has come,
    `law_after`.

    The noise grows as a power of time: the share ``(t / T)^(2 power)`` of its variance has come by `t`, so that a standard
    deviation grows as ``t^power`` while it is small. Constant noise has the power ½. A greater power spends more of the times, of
    training and of a grid, on little noise, where the law of the data has its detail.

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
        """Return the share of the variance of all noise that has come by `t`: ``(t / T)^(2 power)``, float64, from 0 to 1."""
        return (t.double() / self.T) ** (2 * self.power)

    def pace(self, t: Tensor) -> Tensor:
        """Return the derivative of `elapsed` by the time."""
        return 2 * self.power / self.T * (t.double() / self.T) ** (2 * self.power - 1)

    @abstractmethod
    def law_after(self, x_s: Tensor, elapsed: Tensor) -> StateLaw:
        """Return the law of a state given `x_s`, after a share `elapsed` of all noise, float64, ``()`` or ``(B,)``."""

    def law(self, x_s: Tensor, s: Tensor, t: Tensor) -> StateLaw:
        """Return the law of ``x_t`` given `x_s`, by the share of noise that has come between the two times."""
        return self.law_after(x_s, self.elapsed(t) - self.elapsed(s))


class BoundedBrownianMotion(BoundedSDE):
    """The base class of Brownian motions in a bounded domain, ``dx = g(t) dw`` between two times at the boundary.

    Before the boundary is met the noise has the standard deviation ``sigma(t) = spread (t / T)^power``, and ``g² = d sigma² /
    dt``. Subclasses give `spread`, `law_after`, `prior` and `enter`.
    """

    @property
    @abstractmethod
    def spread(self) -> float:
        """The standard deviation at T, were there no boundary."""

    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation before the boundary is met, ``spread (t / T)^power``."""
        return self.spread * self.elapsed(t).sqrt()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return zeros of the shape of `x`; what the boundary does is `enter`."""
        return torch.zeros_like(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:
        """Return ``g(t)``, with ``g² = d sigma² / dt``."""
        return Scale(self.spread * self.pace(t).sqrt())

    def root(self, t: Tensor | float, x: Tensor | None = None) -> Operator:
        """Return ``sigma(t)``, whatever the state."""
        return Scale(self.sigma(as_time(t, self.T)))
