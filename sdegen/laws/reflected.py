"""The Gaussian law folded into an interval by reflection at both ends, each coordinate by itself.

An interval is half of a circle of twice its length: reflecting at the ends is going round the circle and forgetting the side. So
the law on the interval is that of a point and its mirror image on the circle, exact at every noise.
"""

from __future__ import annotations

__all__ = ["ReflectedGaussian", "UniformBox", "fold_into"]

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch import distributions as D

from ..arguments import check_arguments
from ..precision import at_least_single, widened
from ..show import show_call
from .circle import log_wrapped, slope_of_log_wrapped, wrap
from .kernels import check_noise
from .mixtures import check_event
from .operators import rows
from .outside import TorchLaw
from .vectors import sum_rows


def fold_into(x: Tensor, low: float, high: float) -> Tensor:
    """Bring numbers to ``[low, high]`` by reflections at its ends, and return them; those that lie there stay as they are. An end
    may be infinite.

    >>> fold_into(torch.tensor([0.25, 1.25, -0.5, 2.125]), 0.0, 1.0).tolist()
    [0.25, 0.75, 0.5, 0.125]
    >>> fold_into(torch.tensor([0.25, -0.5]), 0.0, torch.inf).tolist()
    [0.25, 0.5]
    """
    if math.isinf(high):
        return x if math.isinf(low) else low + (x - low).abs()
    if math.isinf(low):
        return high - (high - x).abs()
    width = high - low
    folded = high - (torch.remainder(x - low, 2 * width) - width).abs()
    return torch.where((x >= low) & (x <= high), x, folded.clamp(low, high))  # rounding may pass either end


class ReflectedGaussian(NamedTuple):
    """The law of ``mean + sigma z`` folded into an interval, with `z` standard normal, each coordinate by itself.

    The density is a sum over images, ``p(x) = Σ_k N(x + 2 k w; mean, sigma²) + N(x + 2 k w; 2 low − mean, sigma²)`` with the
    width ``w = high − low``, or the same as a cosine series ``(1 + 2 Σ_n exp(−½ (π n sigma / w)²) cos(π n (x − low) / w)
    cos(π n (mean − low) / w)) / w``. A. Lou and S. Ermon, *Reflected diffusion models*, 2023, arXiv:2304.04740.

    Attributes
    ----------
    mean
        Points of the interval, ``(B, *)``.
    sigma
        The standard deviation before folding, float64, ``()`` or ``(B,)``.
    low, high
        The ends of the interval.
    """

    mean: Tensor
    sigma: Tensor
    low: float
    high: float

    def __repr__(self) -> str:
        return show_call(self)

    def sample(self, z: Tensor) -> Tensor:
        """Return ``mean + sigma z``, folded, for standard noise `z` of the shape of `mean`."""
        return fold_into(self.mean + rows(self.sigma, z) * z, self.low, self.high)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of points of the interval in nats, ``(B,)``, in float32 at least; −∞ outside of it.

        Raises
        ------
        ValueError
            If there is no noise.
        """
        here, image, sigma = self._angles(x)
        density = torch.logaddexp(log_wrapped(here, sigma), log_wrapped(image, sigma)) + math.log(self._turn)
        inside = (x >= self.low) & (x <= self.high)
        return sum_rows(torch.where(inside, density, -torch.inf))

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x)``, of the shape of `x`; zero at both ends.

        Raises
        ------
        ValueError
            If there is no noise.
        """
        here, image, sigma = self._angles(x)
        share = (log_wrapped(here, sigma) - log_wrapped(image, sigma)).sigmoid()
        slope = torch.lerp(slope_of_log_wrapped(image, sigma), slope_of_log_wrapped(here, sigma), share)
        return (slope * self._turn).to(x.dtype)

    @property
    def _turn(self) -> float:
        """The angle of a unit of length on the circle."""
        return math.pi / (self.high - self.low)

    def _angles(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the angles of `x` from the mean and from its mirror image on the circle, and the standard deviation there."""
        check_noise(self.sigma)
        x = widened(x)
        here, image = (x - self.mean) * self._turn, (x + self.mean - 2 * self.low) * self._turn
        return wrap(here), wrap(image), rows(self.sigma * self._turn, x)


class UniformBox(TorchLaw):
    """The uniform law on a box.

    Parameters
    ----------
    low, high
        The ends of the box, the same for every coordinate.
    event_shape
        The shape of a datum.
    """

    @check_arguments
    def __init__(self, low: float, high: float, event_shape: Sequence[int]) -> None:
        self.low, self.high = low, high
        ends = [torch.full(tuple(event_shape), end, dtype=torch.float64) for end in (low, high)]
        super().__init__(D.Uniform(ends[0], ends[1]))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, the same at all points of the box, its walls among them; −∞ outside."""
        check_event(x, self.event_shape)
        inside = ((x >= self.low) & (x <= self.high)).reshape(len(x), -1).all(1)
        value = -self.event_shape.numel() * math.log(self.high - self.low)
        return torch.where(inside, value, -torch.inf).to(x.device, at_least_single(x.dtype))

    def score(self, x: Tensor) -> Tensor:
        """Return zeros of the shape of `x`."""
        return torch.zeros_like(x)
