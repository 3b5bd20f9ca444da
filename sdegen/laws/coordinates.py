"""One-to-one maps from data on a half-line, an interval or a simplex to numbers without bounds, with their log-determinants.

Most are made of the transforms of ``torch.distributions``. `processes.Lifting.in_coordinates` makes a process act on the
coordinates: positive data then stay positive, in samples and in densities.
"""

from __future__ import annotations

__all__ = [
    "Coordinates",
    "InverseTransform",
    "Successive",
    "Log",
    "LogOdds",
    "SoftplusInverse",
    "StickBreaking",
    "Whitening",
]

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions import transforms as T

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..fixed import Fixed
from ..precision import apply_matrix
from ..show import show_call
from ..transforms import check_constant
from .domains import check_domain
from .products import value_and_slope
from .vectors import sum_rows


class Coordinates(OfTensors, Fixed, ABC):
    """A one-to-one map ``u = phi(x)`` from data to numbers, most often without bounds, row by row.

    Subclass it with `domain`, a call, `inverse` and `log_det`.

    Attributes
    ----------
    domain
        The constraint that data meet, of ``torch.distributions.constraints``.
    image
        The constraint that coordinates meet; most have no bounds.
    elementwise
        Whether each number of ``u`` is a function of one number of ``x``, in its place.
    offset
        How far from 0 data lie, in units of their spread, if the map tells; a dtype that is too coarse for it is made finer.
    """

    domain: constraints.Constraint = constraints.real
    image: constraints.Constraint = constraints.real
    elementwise: bool = False
    offset: float = 0.0

    __repr__ = show_call

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return the coordinates ``u = phi(x)`` of data ``(B, *)``."""

    @abstractmethod
    def inverse(self, u: Tensor) -> Tensor:
        """Return the data ``x`` of coordinates ``(B, *)``."""

    @abstractmethod
    def log_det(self, x: Tensor) -> Tensor:
        """Return ``log |∂u/∂x|``, ``(B,)``, by which the log-density of data is larger than that of their coordinates."""

    def slope(self, x: Tensor) -> Tensor:
        """Return ``phi'(x)`` of an elementwise map, of the shape of `x`."""
        return value_and_slope(self, x, torch.ones_like(x))[1]

    def bend(self, x: Tensor) -> Tensor:
        """Return ``phi''(x) / phi'(x)``, the derivative of ``log phi'``, of an elementwise map."""
        slope, second = value_and_slope(self.slope, x, torch.ones_like(x))
        return second / slope

    def seen(self, u: Tensor, noise: Tensor) -> Tensor:
        """Return coordinates as a network is shown them, given the standard deviation of their noise: an end of the domain that
        the noise reaches is not shown as far away. Here coordinates are shown as they are.
        """
        return u

    def enter(self, u: Tensor) -> Tensor:
        """Bring coordinates that a step has moved back into the image, and return them; here, without bounds, unchanged."""
        return u

    def check(self, x: Tensor, name: str = "x") -> Tensor:
        """Return data that lie in the domain; refuse others, calling them `name`.

        Raises
        ------
        ValueError
            If some data lie outside of the domain.
        """
        return check_domain(self.domain, x, name)


class _OfTorch(Coordinates):
    """A map whose inverse is a transform of ``torch.distributions``."""

    transform: T.Transform  # from coordinates to data

    def __call__(self, x: Tensor) -> Tensor:
        u: Tensor = self.transform.inv(x)
        return u

    def inverse(self, u: Tensor) -> Tensor:
        x: Tensor = self.transform(u)
        return x

    def log_det(self, x: Tensor) -> Tensor:
        return -sum_rows(self.transform.log_abs_det_jacobian(self(x), x))


class Log(_OfTorch):
    """The logarithm, ``u = log x``, for positive data.

    Examples
    --------
    >>> Log().inverse(torch.zeros(1, 2)).tolist()
    [[1.0, 1.0]]
    """

    domain, elementwise = constraints.positive, True
    transform = T.ExpTransform()

    def inverse(self, u: Tensor) -> Tensor:
        """Return ``e^u``; a number below the smallest normal number of its dtype is rounded up to that."""
        return super().inverse(u).clamp_min(torch.finfo(u.dtype).tiny)

    def slope(self, x: Tensor) -> Tensor:
        """Return ``phi' = 1 / x``."""
        return 1 / x

    def bend(self, x: Tensor) -> Tensor:
        """Return ``phi'' / phi' = −1 / x``."""
        return -1 / x

    def seen(self, u: Tensor, noise: Tensor) -> Tensor:
        """Return ``log(x + V / x)`` with the variance ``V = x² noise²`` of the noise in `x`."""
        return u + noise.square().log1p()


class SoftplusInverse(_OfTorch):
    """The inverse of the softplus function, ``u = log(e^x − 1)``, for positive data; where data are large `u` is almost `x`."""

    domain, elementwise = constraints.positive, True
    transform = T.SoftplusTransform()

    def inverse(self, u: Tensor) -> Tensor:
        """Return ``log(1 + e^u)``; a number below the smallest normal number of its dtype is rounded up to that."""
        return super().inverse(u).clamp_min(torch.finfo(u.dtype).tiny)

    def slope(self, x: Tensor) -> Tensor:
        """Return ``phi' = 1 / (1 − e^−x)``."""
        return -1 / torch.expm1(-x)

    def bend(self, x: Tensor) -> Tensor:
        """Return ``phi'' / phi' = −1 / (e^x − 1)``."""
        return -1 / torch.expm1(x)


class LogOdds(_OfTorch):
    """The logit, ``u = log((x − low) / (high − x))``, for data between two bounds.

    Parameters
    ----------
    low, high
        The bounds, the same for all coordinates.

    Raises
    ------
    ValueError
        If `low` is not below `high`.

    Examples
    --------
    >>> LogOdds(-1.0, 1.0)(torch.zeros(1, 2)).tolist()
    [[0.0, 0.0]]
    """

    elementwise = True

    @check_arguments
    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not low < high:
            raise ValueError(f"low = {low}, high = {high}; the lower bound comes first.")
        self.low, self.high, self.offset = low, high, max(abs(low), abs(high)) / (high - low)
        self.domain = constraints.interval(low, high)
        self.transform = T.ComposeTransform([T.SigmoidTransform(), T.AffineTransform(low, high - low)])

    def inverse(self, u: Tensor) -> Tensor:
        """Return ``low + (high − low) sigmoid(u)``; a number that rounding brings to an end is the one next to it."""
        low, high = torch.tensor([self.low, self.high], dtype=u.dtype)
        inside = torch.nextafter(low, high).item(), torch.nextafter(high, low).item()
        return super().inverse(u).clamp(*inside)

    def slope(self, x: Tensor) -> Tensor:
        """Return ``phi' = 1 / (x − low) + 1 / (high − x)``."""
        return 1 / (x - self.low) + 1 / (self.high - x)

    def bend(self, x: Tensor) -> Tensor:
        """Return ``phi'' / phi' = 1 / (high − x) − 1 / (x − low)``."""
        return 1 / (self.high - x) - 1 / (x - self.low)

    def seen(self, u: Tensor, noise: Tensor) -> Tensor:
        """Return ``log((p + q) / (1 − p + q))`` for the share `p` of the interval below and ``q = p (1 − p) noise²``."""
        variance = noise.square()
        return u + (variance * (-u).sigmoid()).log1p() - (variance * u.sigmoid()).log1p()


class StickBreaking(_OfTorch):
    """Log-odds of the parts that are broken off a stick in turn, ``(B, K − 1)``, for positive data ``(B, K)`` of sum one."""

    domain = constraints.simplex
    transform = T.StickBreakingTransform()


class InverseTransform(_OfTorch):
    """The inverse of a transform of ``torch.distributions``, which takes numbers without bounds to data.

    Parameters
    ----------
    transform
        From coordinates to data, such as ``biject_to(law.support)``.

    Examples
    --------
    >>> import torch
    >>> shares = InverseTransform(torch.distributions.biject_to(constraints.simplex))
    >>> shares.inverse(torch.zeros(1, 3)).sum().item()
    1.0
    """

    @check_arguments
    def __init__(self, transform: T.Transform) -> None:
        self.transform, self.domain = transform, transform.codomain


class Whitening(Coordinates):
    """An affine map ``u = W (x − mean)`` of all numbers of a datum, such as to principal axes of unit variance.

    Parameters
    ----------
    mean
        Of the shape of a datum.
    W
        An invertible matrix ``(d, d)`` over the flattened datum.

    Raises
    ------
    ValueError
        If the shapes do not belong together, or the matrix has no inverse.
    """

    @check_arguments
    def __init__(self, mean: Tensor, W: Tensor) -> None:
        mean, W = (check_constant(n, v).detach().double().cpu().clone() for n, v in (("mean", mean), ("W", W)))
        if W.shape != (mean.numel(), mean.numel()):
            raise ValueError(f"mean has {mean.numel()} numbers and W shape {tuple(W.shape)}; give a matrix over all.")
        self.mean, self.W = mean, W
        self._inverse, singular = torch.linalg.inv_ex(W)
        self._log_det = torch.linalg.slogdet(W).logabsdet.item()
        if singular or not self._inverse.isfinite().all():
            raise ValueError("W has no inverse; give an invertible matrix.")
        self.offset = (mean.flatten().abs() / self._inverse.norm(dim=1)).max().item() if mean.numel() else 0.0

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor) -> Whitening:
        """Return the map to principal axes of unit variance, for data of a mean and a covariance ``(d, d)``."""
        values, vectors = torch.linalg.eigh(covariance.double())
        if not values[0] > 0:
            raise ValueError("the covariance is singular: some direction is constant; leave it out of the data.")
        return cls(mean, vectors.T / values.sqrt()[:, None])

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``W (x − mean)``."""
        mean = self.mean.to(x)  # and the rest that rounding leaves of it, as in `Units`; mps has no float64 to tell it
        rest = (self.mean.to(x.device) - mean.double()).to(x) if x.device.type != "mps" else 0.0
        return apply_matrix((x - mean - rest).flatten(1), self.W.T.to(x)).reshape(x.shape)

    def inverse(self, u: Tensor) -> Tensor:
        """Return ``mean + W⁻¹ u``."""
        return apply_matrix(u.flatten(1), self._inverse.T.to(u)).reshape(u.shape) + self.mean.to(u)

    def log_det(self, x: Tensor) -> Tensor:
        """Return ``log |det W|``, ``(B,)``."""
        return x.new_full((len(x),), self._log_det)


class Successive(Coordinates):
    """Several maps, one after the other: the first is applied to the data.

    Parameters
    ----------
    parts
        The maps, at least one.

    Raises
    ------
    ValueError
        If there are none.
    """

    @check_arguments
    def __init__(self, parts: Sequence[Coordinates]) -> None:
        if not parts:
            raise ValueError("no coordinates to go through one after the other; give one at least.")
        self.parts = tuple(parts)
        self.domain, self.elementwise = self.parts[0].domain, all(part.elementwise for part in self.parts)
        self.offset = max(part.offset for part in self.parts)

    def __call__(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x

    def inverse(self, u: Tensor) -> Tensor:
        for part in reversed(self.parts):
            u = part.inverse(u)
        return u

    def log_det(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for part in self.parts:
            total = total + part.log_det(x)
            x = part(x)
        return total

    def slope(self, x: Tensor) -> Tensor:
        """Return the product of the slopes of the parts, each where those before have brought it."""
        total = torch.ones_like(x)
        for part in self.parts:
            total, x = total * part.slope(x), part(x)
        return total

    def bend(self, x: Tensor) -> Tensor:
        """Return the sum of the bends of the parts, each times the slope of those before."""
        total, slope = torch.zeros_like(x), torch.ones_like(x)
        for part in self.parts:
            total = total + part.bend(x) * slope
            slope, x = slope * part.slope(x), part(x)
        return total
