"""Toy laws with exact samples and normalised densities that are no mixtures of Gaussians, so that no diffused law of theirs is in
closed form: moons, rings, a checkerboard, a funnel and a banana. Double wells: `wells`.
"""

from __future__ import annotations

__all__ = ["Banana", "Checkerboard", "Funnel", "HALF_LOG_2PI", "Moons", "Rings", "Toy", "normal_draws", "uniform_draws"]

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number, check_tensor
from ..fixed import Fixed, kept_property
from ..laws.interpolation import gauss
from ..laws.mixtures import Moments
from ..show import show_call

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Toy(Fixed, ABC):
    """The base class of toy laws of vectors.

    Attributes
    ----------
    d
        The dimension of the vectors.
    """

    d: int = 2

    __repr__ = show_call

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one draw, ``(d,)``."""
        return torch.Size([self.d])

    @check_arguments
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points, ``(n, d)``, float64."""
        return self._draw(check_count("n", n), generator)

    @check_arguments
    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of points ``(B, d)`` in nats, ``(B,)``."""
        check_tensor("x", x, shape=(None, self.d))
        return self._log_density(x)

    @abstractmethod
    def moments(self) -> Moments:
        """Return the mean and covariance."""

    @abstractmethod
    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor: ...

    @abstractmethod
    def _log_density(self, x: Tensor) -> Tensor: ...


def normal_draws(n: int, d: int, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal numbers ``(n, d)``, float64."""
    return torch.randn(n, d, dtype=torch.float64, generator=generator)


def uniform_draws(n: int, d: int, generator: torch.Generator | None) -> Tensor:
    """Draw uniform numbers between 0 and 1, ``(n, d)``, float64."""
    return torch.rand(n, d, dtype=torch.float64, generator=generator)


class Moons(Toy):
    """Two half circles that reach into each other, blurred by Gaussian noise.

    ``x = (cos θ, sin θ)`` or ``(1 − cos θ, ½ − sin θ)`` plus ``std z``, equally likely, `θ` uniform on ``(0, π)``. The density
    is an integral over `θ`, to rounding by Gauss–Legendre quadrature.

    Parameters
    ----------
    std
        Standard deviation of the noise.

    Raises
    ------
    ValueError
        If `std` is below 0.01.
    """

    @check_arguments
    def __init__(self, std: float = 0.1) -> None:
        self.std = check_number("std", std, at_least=0.01)

    def _arcs(self, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points of both half circles at angles ``(n,)``, each ``(n, 2)``."""
        arc = torch.stack([angle.cos(), angle.sin()], -1)
        return arc, arc.new_tensor([1.0, 0.5]) - arc

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        u = uniform_draws(n, 2, generator)
        upper, lower = self._arcs(math.pi * u[:, 0])
        return torch.where(u[:, 1:] < 0.5, upper, lower) + self.std * normal_draws(n, 2, generator)

    def _log_density(self, x: Tensor) -> Tensor:
        z, w = gauss(max(48, math.ceil(10 / self.std)))
        centres = torch.cat(self._arcs(0.5 * math.pi * (z + 1))).to(x.device)
        # In float64 also for float32 points: the expanded square is a difference of large numbers.
        log_weights, y = (0.25 * w).log().repeat(2).to(x.device), x.double()
        squares = y.square().sum(1, keepdim=True) - 2 * y @ centres.T + centres.square().sum(1)
        log_density = (log_weights - squares / (2 * self.std**2)).logsumexp(1)
        return (log_density - 2 * (HALF_LOG_2PI + math.log(self.std))).to(x)

    def moments(self) -> Moments:
        """Return the mean and covariance, in closed form."""
        within = torch.tensor([0.5, 0.5 - 4 / math.pi**2], dtype=torch.float64)  # variances of one half circle
        gap = torch.tensor([0.5, 0.25 - 2 / math.pi], dtype=torch.float64)  # half the distance between their means
        covariance = (within + self.std**2).diag() + gap.outer(gap)
        return Moments(torch.tensor([0.5, 0.25], dtype=torch.float64), covariance)


class Checkerboard(Toy):
    """The uniform law on the black squares of a board in the plane, centred at 0.

    Parameters
    ----------
    side
        Number of squares along each side.
    size
        The side of a square.

    Raises
    ------
    ValueError
        If `side` is no whole number from 2, or `size` is not positive.
    """

    @check_arguments
    def __init__(self, side: int = 4, size: float = 1.0) -> None:
        self.side, self.size = check_count("side", side, at_least=2), check_number("size", size, above=0)

    @kept_property
    def _black(self) -> Tensor:
        """Column and row of each black square, ``(k, 2)``."""
        squares = torch.cartesian_prod(*[torch.arange(self.side)] * 2)
        return squares[squares.sum(1) % 2 == 0]

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        which = torch.randint(len(self._black), (n,), generator=generator)
        return (self._black[which] + uniform_draws(n, 2, generator) - 0.5 * self.side) * self.size

    def _log_density(self, x: Tensor) -> Tensor:
        place = (x / self.size + 0.5 * self.side).floor()
        inside = ((place >= 0) & (place < self.side)).all(1) & (place.sum(1) % 2 == 0)
        return torch.where(inside, x.new_tensor(-self.entropy()), x.new_tensor(-math.inf))

    def entropy(self) -> float:
        """Return the entropy in nats: the logarithm of the black area."""
        return math.log(len(self._black) * self.size**2)

    def moments(self) -> Moments:
        """Return the mean and covariance, in closed form."""
        centres = (self._black.double() + 0.5 - 0.5 * self.side) * self.size
        own = torch.eye(2, dtype=torch.float64) * self.size**2 / 12
        return Moments(centres.mean(0), centres.T.cov(correction=0) + own)


class Rings(Toy):
    """Rings around 0 in the plane, equally likely: directions are uniform, distances from 0 normal around a radius, cut off at 0.

    Parameters
    ----------
    radii
        The radius of each ring.
    std
        Standard deviation of the distance from 0, but for the cut.

    Raises
    ------
    ValueError
        If there are no radii, one is not positive, or `std` is not positive.
    """

    @check_arguments
    def __init__(self, radii: Sequence[float] = (1.0, 2.0, 3.0), std: float = 0.1) -> None:
        self.radii = tuple(check_number("radii", r, above=0) for r in radii)
        self.std = check_number("std", std, above=0)
        if not self.radii:
            raise ValueError("radii is empty; give the radius of one ring at least.")

    @property
    def _kept(self) -> tuple[Tensor, Tensor]:
        """Radii, and for each the mass of its normal law above 0, which the cut leaves."""
        radii = torch.tensor(self.radii, dtype=torch.float64)
        return radii, torch.special.ndtr(radii / self.std)

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        radii, kept = self._kept
        which = torch.randint(len(radii), (n,), generator=generator)
        # A draw of 0, of which `ndtri` is infinite, becomes half the least positive one.
        u = uniform_draws(n, 2, generator).clamp_min(2**-54)
        r = radii[which] - self.std * torch.special.ndtri(u[:, 0] * kept[which])
        angle = 2 * math.pi * u[:, 1]
        return r[:, None] * torch.stack([angle.cos(), angle.sin()], 1)

    def _log_density(self, x: Tensor) -> Tensor:
        radii, kept = (v.to(x) for v in self._kept)
        r = x.norm(dim=1)
        z = (r[:, None] - radii) / self.std
        log_f = (-0.5 * z.square() - kept.log()).logsumexp(1) - math.log(len(radii) * self.std) - HALF_LOG_2PI
        return log_f - (2 * math.pi * r).log()

    def moments(self) -> Moments:
        """Return the mean and covariance, in closed form."""
        radii, kept = self._kept
        edge = (-0.5 * (radii / self.std).square() - HALF_LOG_2PI).exp() / kept  # the density at the cut, times std
        square = radii.square() + self.std**2 + self.std * radii * edge
        return Moments(torch.zeros(2, dtype=torch.float64), 0.5 * square.mean() * torch.eye(2, dtype=torch.float64))


class Funnel(Toy):
    """A funnel: ``v ~ N(0, scale²)``, and given it ``d − 1`` independent numbers of ``N(0, exp(v))``.

    R. Neal, *Slice sampling*, 2003.

    Parameters
    ----------
    d
        The dimension of the vectors, whose first number is `v`.
    scale
        Standard deviation of `v`.

    Raises
    ------
    ValueError
        If `d` is no whole number from 2, or `scale` is not positive.
    """

    @check_arguments
    def __init__(self, d: int = 10, scale: float = 3.0) -> None:
        self.d, self.scale = check_count("d", d, at_least=2), check_number("scale", scale, above=0)

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        z = normal_draws(n, self.d, generator)
        v = self.scale * z[:, :1]
        return torch.cat([v, (0.5 * v).exp() * z[:, 1:]], 1)

    def _log_density(self, x: Tensor) -> Tensor:
        v, rest = x[:, 0], x[:, 1:]
        squares = (v / self.scale).square() + rest.square().sum(1) * (-v).exp()
        return -0.5 * (squares + (self.d - 1) * v) - math.log(self.scale) - self.d * HALF_LOG_2PI

    def entropy(self) -> float:
        """Return the entropy in nats."""
        return self.d * (HALF_LOG_2PI + 0.5) + math.log(self.scale)

    def moments(self) -> Moments:
        """Return the mean and covariance, in closed form."""
        variances = torch.full((self.d,), math.exp(0.5 * self.scale**2), dtype=torch.float64)
        variances[0] = self.scale**2
        return Moments(torch.zeros(self.d, dtype=torch.float64), variances.diag())


class Banana(Toy):
    """A Gaussian bent along a parabola: ``x_1 ~ N(0, scale²)``, ``x_2 ~ N(curvature (x_1² − scale²), 1)``.

    H. Haario, E. Saksman, J. Tamminen, *Adaptive proposal distribution for random walk Metropolis algorithm*, 1999.

    Parameters
    ----------
    scale
        Standard deviation of the first number.
    curvature
        How much the parabola bends; 0 for a Gaussian.

    Raises
    ------
    ValueError
        If `scale` is not positive.
    """

    @check_arguments
    def __init__(self, scale: float = 2.0, curvature: float = 0.5) -> None:
        self.scale, self.curvature = check_number("scale", scale, above=0), check_number("curvature", curvature)

    def _bend(self, x: Tensor) -> Tensor:
        return self.curvature * (x.square() - self.scale**2)

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        z = normal_draws(n, 2, generator)
        x = self.scale * z[:, 0]
        return torch.stack([x, z[:, 1] + self._bend(x)], 1)

    def _log_density(self, x: Tensor) -> Tensor:
        squares = (x[:, 0] / self.scale).square() + (x[:, 1] - self._bend(x[:, 0])).square()
        return -0.5 * squares - math.log(self.scale) - 2 * HALF_LOG_2PI

    def entropy(self) -> float:
        """Return the entropy in nats, that of the Gaussian before it is bent."""
        return 2 * HALF_LOG_2PI + 1 + math.log(self.scale)

    def moments(self) -> Moments:
        """Return the mean and covariance, in closed form."""
        variances = [self.scale**2, 1 + 2 * self.curvature**2 * self.scale**4]
        return Moments(torch.zeros(2, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64).diag())
