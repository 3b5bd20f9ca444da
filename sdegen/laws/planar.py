"""Laws of points in the plane whose density is known up to a constant, by quadrature: `PlanarLaw`."""

from __future__ import annotations

__all__ = ["PlanarLaw"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..answers import ask_numbers
from ..arguments import check_arguments
from ..checks import check_count, check_number, check_tensor
from ..fixed import Fixed
from ..show import show_call
from .mixtures import Moments

OUTSIDE = 1e-6  # share of the mass in the outermost cells, beyond which a law is taken to reach out of its box
HIGHER = 1.05  # times its largest value at the points of a cell, that a density may have between them


class PlanarLaw(Fixed):
    """The law in the plane with a density known up to a constant, such as a product, a power or a tilt without closed form.

    The constant and the moments are sums over a grid of ``2 cells + 1`` points a side, the trapezoidal rule, whose error falls
    faster than any power of the distance of points where the density is smooth. Draws are exact: by rejection from the
    law that is uniform in each cell, as high as the density's largest value at nine points of it.

    Parameters
    ----------
    log_density
        The logarithm of the density of points ``(n, 2)`` up to a constant, ``(n,)``; −∞ where it is 0.
    low, high
        The ends of the box that holds the law, two numbers each.
    cells
        How many cells the box has along each side.

    Attributes
    ----------
    log_normaliser
        The logarithm of the integral of the density that was given.
    quadrature_error
        By how much `log_normaliser` changes with half of the points a side: far more than its error where the density is smooth.

    Raises
    ------
    ValueError
        If the density is NaN or +∞ somewhere, 0 everywhere, or not small at the sides of the box, or the ends of the box are not
        finite or not in order.
    TypeError
        If an end of the box is no number.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> hot = PlanarLaw(lambda x: 0.5 * ring.log_prob(x), (-9, -9), (9, 9))
    >>> [round(v, 3) for v in hot.moments().covariance.diagonal().tolist()]
    [8.535, 8.535]
    """

    event_shape = torch.Size([2])
    __repr__ = show_call

    @check_arguments
    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        low: Sequence[float],
        high: Sequence[float],
        cells: int = 150,
    ) -> None:
        self.log_density, self.cells = log_density, check_count("cells", cells, at_least=4)
        self.low, self.high = (
            tuple(check_number(name, v) for v in ends) for name, ends in (("low", low), ("high", high))
        )
        if len(self.low) != 2 or len(self.high) != 2 or not all(a < b for a, b in zip(self.low, self.high)):
            raise ValueError(f"low = {self.low}, high = {self.high}; give two numbers each, the lower ends first.")
        sides = [torch.linspace(a, b, 2 * cells + 1, dtype=torch.float64) for a, b in zip(self.low, self.high)]
        self._corner, self._size = (
            torch.tensor(self.low, dtype=torch.float64),
            torch.stack([v[2] - v[0] for v in sides]),
        )
        self._points = torch.cartesian_prod(*sides)
        values = self._values(self._points).reshape(2 * cells + 1, -1)
        if not (values > -torch.inf).any():
            raise ValueError("the density is 0 at all points of the box; give one that holds the law.")
        area = self._size.prod().log()
        self._log_mass = (values - values.logsumexp((0, 1))).flatten()
        self.log_normaliser = (values.logsumexp((0, 1)) + area).item() - math.log(4)
        self.quadrature_error = abs((values[::2, ::2].logsumexp((0, 1)) + area).item() - self.log_normaliser)
        nine = values.unfold(0, 3, 2).unfold(1, 3, 2).flatten(2)
        self._bounds = nine.amax(2).flatten() + math.log(HIGHER)
        self._check_sides(values)

    def _values(self, x: Tensor) -> Tensor:
        """Return the logarithm of the density as the user gives it, float64; refuse NaN and +∞."""
        found = ask_numbers("log_density", self.log_density, x).double()
        bad = found.isnan() | found.isposinf()
        if bad.any():
            raise ValueError(
                f"log_density is {found[bad][0].item()} at {x[bad][0].tolist()}; give a number, or -inf for 0."
            )
        return found.detach()

    def _check_sides(self, values: Tensor) -> None:
        """Refuse a box that the law reaches out of."""
        inner = values[2:-2, 2:-2].logsumexp((0, 1)) - values.logsumexp((0, 1))
        share = -torch.expm1(inner).item()
        if share > OUTSIDE:
            raise ValueError(f"{share:.2g} of the mass lies in the outermost cells; give a box that holds the law.")

    @check_arguments
    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(n,)``, −∞ outside of the box.

        Parameters
        ----------
        x
            Points, ``(n, 2)``.
        """
        check_tensor("x", x, shape=(None, 2))
        low, high = x.new_tensor(self.low), x.new_tensor(self.high)
        inside = ((x >= low) & (x <= high)).all(1)
        return torch.where(inside, self.log_density(x) - self.log_normaliser, -torch.inf)

    @check_arguments
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points, ``(n, 2)``, float64.

        Raises
        ------
        ValueError
            If the density is higher between the points of the grid than at them: give more cells.
        """
        shares, found = self._bounds.softmax(0).cumsum(0), torch.empty(0, 2, dtype=torch.float64)
        while len(found) < check_count("n", n):
            u = torch.rand(2 * n, 4, dtype=torch.float64, generator=generator)
            cell = torch.searchsorted(shares, u[:, 0] * shares[-1]).clamp_max(len(shares) - 1)
            index = torch.stack([cell // self.cells, cell % self.cells], 1)
            x = self._corner + (index + u[:, 1:3]) * self._size
            excess = self._values(x) - self._bounds[cell]
            if (excess > 0).any():
                raise ValueError(
                    f"the density between grid points is {excess.max().exp().item() * HIGHER:.3g} times that at them, near "
                    f"{x[excess.argmax()].tolist()}; give more than {self.cells} cells."
                )
            found = torch.cat([found, x[u[:, 3].log() < excess]])
        return found[:n]

    def moments(self) -> Moments:
        """Return the mean and covariance, by quadrature."""
        mass = self._log_mass.exp()
        mean = mass @ self._points
        apart = self._points - mean
        return Moments(mean, apart.T @ (mass[:, None] * apart))
