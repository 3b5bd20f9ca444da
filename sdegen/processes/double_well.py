"""A nonlinear process, the double well, and its stationary law.

All that the library derives for the process comes from simulation and short local kernels (`nonlinear`), without closed forms.
"""

from __future__ import annotations

__all__ = ["DoubleWell", "Stationary"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_number
from ..fixed import Fixed
from ..laws.mixtures import Moments
from ..laws.operators import Scale
from ..laws.vectors import sum_rows
from ..show import show_call
from .base import SDE


class DoubleWell(SDE):
    """Overdamped Langevin dynamics in a double-well potential, each coordinate independently: ``dx = −stiffness x (x² − 1)
    dt + g dw``.

    Its stationary law ``∝ exp(−2 U / g²)``, ``U = ¼ stiffness (x² − 1)²``, is the declared prior. Models of it are trained
    through short local kernels, as the process is nonlinear.

    Parameters
    ----------
    stiffness
        Strength of the potential, whose wells are at −1 and 1.
    g
        Strength of the noise, the same at all states and times.
    T
        The last time.

    Raises
    ------
    ValueError
        If `stiffness`, `g` or `T` is not positive.
    """

    @check_arguments
    def __init__(self, stiffness: float = 1.0, g: float = 1.0, T: float = 8.0) -> None:
        if not (stiffness > 0 and g > 0 and T > 0):
            raise ValueError(f"stiffness = {stiffness}, g = {g}, T = {T}; all must be positive.")
        self.stiffness, self.g, self.T = stiffness, g, T

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``−stiffness x (x² − 1)``."""
        return -self.stiffness * x * (x.square() - 1)

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:
        """Return ``g``."""
        return Scale(self.g)

    def prior(self, moments: Moments) -> Stationary:
        """Return the stationary law, over the shape of the data."""
        return Stationary(self.stiffness, self.g, moments.mean.shape)


class Stationary(OfTensors, Fixed):
    """The stationary law of `DoubleWell`: independent coordinates with density ``∝ exp(−2 U / g²)``.

    Parameters
    ----------
    stiffness, g
        Strengths of the potential and of the noise.
    event_shape
        The shape of a datum.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, stiffness: float, g: float, event_shape: Sequence[int]) -> None:
        check_number("stiffness", stiffness, above=0), check_number("g", g, above=0)
        self.stiffness, self.g = stiffness, g
        self.kappa = 0.5 * stiffness / g**2
        self.event_shape = torch.Size(event_shape)
        edge = math.sqrt(1 + math.sqrt(45 / self.kappa))  # density below e-45 of its peak beyond
        self.x = torch.linspace(-edge, edge, 20001, dtype=torch.float64)
        density = self._log_weight(self.x).exp()
        mass = 0.5 * (density[1:] + density[:-1]) * (self.x[1] - self.x[0])
        self.log_norm = mass.sum().log().item()  # the trapezoid rule converges geometrically on a decaying density
        cdf = mass.cumsum(0)
        self.cdf = torch.cat([torch.zeros(1, dtype=torch.float64), cdf / cdf[-1]])  # ends at 1, which no u reaches

    def _log_weight(self, x: Tensor) -> Tensor:
        return -self.kappa * (x.square() - 1).square()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points by the inverse distribution function, float64."""
        u = torch.rand(n, *self.event_shape, dtype=torch.float64, generator=generator)
        i = torch.searchsorted(self.cdf, u).clamp(1, len(self.cdf) - 1)
        low, high = self.cdf[i - 1], self.cdf[i]
        return self.x[i - 1] + (u - low) / (high - low) * (self.x[i] - self.x[i - 1])

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``."""
        return sum_rows(self._log_weight(x) - self.log_norm)

    def score(self, x: Tensor) -> Tensor:
        """Return ``−2 U' / g²``."""
        return -4 * self.kappa * x * (x.square() - 1)
