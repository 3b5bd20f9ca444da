"""The change of variables in which noise that depends on the state is constant: `Lamperti`, and the process in it, `lamperti`."""

from __future__ import annotations

__all__ = ["Lamperti", "lamperti"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.coordinates import Coordinates, Log, LogOdds
from ..laws.monotone import Antiderivative
from ..laws.operators import Elementwise
from ..laws.vectors import sum_rows
from .base import SDE
from .dynamics import diffusion_at
from .transformed import Transformed

HALF_LINE = (-60.0, 60.0)  # logarithms of states, between which the noise is looked at
INTERVAL = (-20.0, 20.0)  # logits of states: closer to an end numbers have too few digits
STATES = 16  # at which it is tried whether the noise of a coordinate depends on others
TIMES = (0.13, 0.4, 0.77)  # of T, at which noise is compared with that at T
CLOSE = 1e-8
COUPLED = "no change of each coordinate by itself makes it constant: leave the process as it is."


class Lamperti(Coordinates):
    """The coordinates ``psi(x) = ∫ dx / g(x)`` in which noise ``g(x)``, of each number by itself, is 1 (J. Lamperti, *Semi-stable
    stochastic processes*, 1962).

    The integral and its inverse are found by quadrature, to rounding. The integral is 0 at the lower end of the domain if it is
    finite from there, or else where the domain's own coordinate without bounds is 0. Where noise depends on the time too,
    ``g(x, t) = a(x) b(t)``, the noise at `T` becomes 1.

    Parameters
    ----------
    sde
        A process in which the noise of each coordinate depends on this coordinate alone.
    shape
        The shape of a datum, where coordinates have different noise.
    reach
        For a domain without bounds, how far from 0 the noise is looked at; further out the map goes on as a straight line.

    Raises
    ------
    ValueError
        If noise couples coordinates, depends on state and time inseparably, or vanishes, jumps or is infinite inside the domain.

    Examples
    --------
    >>> import torch, sdegen
    >>> phi = Lamperti(sdegen.CIR(sigma=0.5))
    >>> round(phi(torch.tensor([[4.0]], dtype=torch.float64)).item(), 6)  # 2 √x / sigma
    8.0
    """

    elementwise = True

    @check_arguments
    def __init__(self, sde: SDE, shape: Sequence[int] = (1,), reach: float = 100.0) -> None:
        self.sde, self.shape, self.reach = sde, tuple(shape), check_number("reach", reach, above=0)
        self.domain, self._line = sde.domain, _line(sde)
        self._t = torch.tensor(sde.T, dtype=torch.float64)
        self._check_alone()
        self._check_separable()
        bounded = hasattr(sde.domain, "upper_bound")
        low, high = (-reach, reach) if self._line is None else INTERVAL if bounded else HALF_LINE
        try:
            self._psi = Antiderivative(self._density, low, high, self._line is not None)
        except ValueError as error:
            v = torch.tensor([[error.args[0]]], dtype=torch.float64)
            place = (v if self._line is None else self._line.inverse(v)).item()
            raise ValueError(
                f"the noise of {type(sde).__name__} vanishes, jumps or is infinite near {place:.6g}, inside the domain, where no "
                "change of variables makes it constant; give the domain that the process stays in, or leave the process as it is."
            ) from None
        self.image = _between(
            *(end[0].item() if (end == end[0]).all() else end for end in (self._psi.low, self._psi.high))
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``psi(x)``."""
        return self._apply(self._psi, self._to_line(x.double().cpu())).to(x)

    def inverse(self, u: Tensor) -> Tensor:
        """Return `x`; coordinates beyond an end of the image are reflected there first."""
        v = self._apply(self._psi.inverse, self.enter(u.double().cpu()))
        return (v if self._line is None else self._line.inverse(v)).to(u)

    def slope(self, x: Tensor) -> Tensor:
        """Return ``psi'(x) = 1 / g(x)``."""
        return self._slope(x.double().cpu()).to(x)

    def bend(self, x: Tensor) -> Tensor:
        """Return ``psi''(x) / psi'(x) = −g'(x) / g(x)``."""
        x_64 = x.double().cpu()
        bend = self._apply(self._psi.bend, self._to_line(x_64))
        return (bend if self._line is None else bend * self._line.slope(x_64) + self._line.bend(x_64)).to(x)

    def log_det(self, x: Tensor) -> Tensor:
        """Return ``−Σ log g(x)``, ``(B,)``."""
        return sum_rows(self._slope(x.double().cpu()).log()).to(x)

    def enter(self, u: Tensor) -> Tensor:
        """Reflect coordinates that a step has moved out of the image at its ends, and return all; infinite ones stay as they
        are.
        """
        numbers = torch.finfo(u.dtype)
        low, high = (
            end.expand(math.prod(self.shape)).reshape(self.shape) if len(end) > 1 else end[0]
            for end in (self._psi.low.to(u), self._psi.high.to(u))
        )
        low = torch.where(low.isinf(), low, low + (numbers.eps * low.abs()).clamp_min(numbers.tiny / numbers.eps))
        high = torch.where(high.isinf(), high, high - numbers.eps * high.abs())
        u = torch.where(u < low, 2 * low - u, u)
        u = torch.where(u > high, 2 * high - u, u)
        return torch.where(u.isinf(), u, u.clamp(low, high))

    def _slope(self, x: Tensor) -> Tensor:
        slope = self._apply(self._psi.slope, self._to_line(x))
        return slope if self._line is None else slope * self._line.slope(x)

    def _to_line(self, x: Tensor) -> Tensor:
        return x if self._line is None else self._line(x)

    def _apply(self, function: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        """Apply a function of the table, which takes columns, to numbers of any shape, and return its values; where coordinates
        differ in their noise the numbers must be data.
        """
        columns = self._psi.low.numel()
        if columns > 1 and v.shape[1:] != self.shape:
            raise ValueError(
                f"x has shape {tuple(v.shape)}; these coordinates are of data {self.shape}, each with noise of its own."
            )
        return function(v.reshape(-1, columns)).reshape(v.shape)

    def _noise(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise of every number at states ``(N, *shape)``, ``(N, d)``.

        Raises
        ------
        ValueError
            If the noise is a matrix.
        """
        G = diffusion_at(self.sde, x, t)
        if not isinstance(G, Elementwise):
            raise ValueError(f"the noise of {type(self.sde).__name__} is a matrix over coordinates; {COUPLED}")
        return G(torch.ones_like(x)).flatten(1)

    def _density(self, v: Tensor) -> Tensor:
        """Return the integrand ``dx/dv / g`` in the coordinate `v` of the line: ``(N, d)``, or ``(N, 1)`` if coordinates have the
        same noise.
        """
        x = (v if self._line is None else self._line.inverse(v)).reshape(-1, *[1] * len(self.shape))
        noise = self._noise(x.expand(-1, *self.shape).contiguous(), self._t).abs()
        if (noise == noise[:, :1]).all():
            noise = noise[:, :1]
        slope = 1.0 if self._line is None else self._line.slope(x).reshape(-1, 1)
        return 1 / (slope * noise)

    def _check_alone(self) -> None:
        """Refuse noise that depends on other coordinates."""
        x = _states(self._line, self.shape)
        joint = self._noise(x, self._t)
        for i, numbers in enumerate(x.flatten(1).T):
            alike = numbers.reshape(-1, *[1] * len(self.shape)).expand(x.shape).contiguous()
            if not torch.allclose(self._noise(alike, self._t)[:, i], joint[:, i], rtol=CLOSE, atol=0):
                raise ValueError(
                    f"the noise of {type(self.sde).__name__} at coordinate {i} depends on others; {COUPLED}"
                )

    def _check_separable(self) -> None:
        """Refuse noise that is no function of the state times one of the time."""
        x = _states(self._line, self.shape)
        last = self._noise(x, self._t)
        for share in TIMES:
            ratio = self._noise(x, share * self._t) / last
            if not torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=CLOSE, atol=0):
                raise ValueError(
                    f"the noise of {type(self.sde).__name__} is no function of the state times one of the time; no coordinates "
                    "that stay the same make it constant: leave the process as it is."
                )


@check_arguments
def lamperti(sde: SDE, shape: Sequence[int] = (1,), coordinates: Coordinates | None = None) -> Transformed:
    """Return a process in coordinates in which its noise is constant: 1, if the noise does not depend on the time.

    Parameters
    ----------
    sde
        A process in which the noise of each coordinate depends on this coordinate alone.
    shape
        The shape of a datum, where coordinates have different noise.
    coordinates
        The map in closed form, where it is known; by default it is found by quadrature (`Lamperti`).

    Raises
    ------
    ValueError
        If no change of variables makes the noise constant, or the given one does not.

    Examples
    --------
    >>> import torch, sdegen
    >>> sde = lamperti(sdegen.GeometricBrownianMotion(sigma=0.5))
    >>> u = sde.coordinates(torch.tensor([[2.0], [4.0]], dtype=torch.float64))  # log(x) / sigma
    >>> [[round(v, 4) for v in row.tolist()] for row in (u[:, 0], sde.noise_at(0.5, u).c[:, 0])]
    [[1.3863, 2.7726], [1.0, 1.0]]
    """
    if coordinates is None:
        return Transformed(sde, Lamperti(sde, shape))
    made, t = Transformed(sde, coordinates), torch.tensor(sde.T, dtype=torch.float64)
    u = coordinates(_states(_line(sde), shape))
    noise = diffusion_at(made, u, t)
    c = noise(torch.ones_like(u)) if isinstance(noise, Elementwise) else u
    if not torch.allclose(c, c[:1].expand_as(c), rtol=CLOSE, atol=0):
        raise ValueError(
            f"the noise of {type(sde).__name__} in {coordinates!r} still depends on the state; give ∫ dx / g(x), or none, for "
            "which it is found by quadrature."
        )
    return made


def _states(line: Coordinates | None, shape: Sequence[int]) -> Tensor:
    """Return states in a domain, ``(STATES, *shape)``."""
    v = torch.randn(STATES, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return v if line is None else line.inverse(v)


def _line(sde: SDE) -> Coordinates | None:
    """Return the map from the domain of a process to the line; None where the domain is the line.

    Raises
    ------
    ValueError
        If the domain is another than the line, the positive numbers or an interval.
    """
    low, high = (getattr(sde.domain, name, None) for name in ("lower_bound", "upper_bound"))
    if sde.free is not None and sde.free.elementwise:
        return sde.free
    if low is None and high is None:
        return None
    if low is not None and high is not None:
        return LogOdds(float(low), float(high))
    if high is None and low == 0:
        return Log()
    raise ValueError(
        f"the domain of {type(sde).__name__} is neither the line, nor the positive numbers, nor an interval; give a map "
        "from it to the line as the attribute free."
    )


def _between(low: Tensor | float, high: Tensor | float) -> constraints.Constraint:
    """Return the constraint that numbers lie between two ends, of which an infinite one is no bound."""
    no_low, no_high = (bool(torch.as_tensor(end).isinf().any()) for end in (low, high))
    if no_low and no_high:
        return constraints.real
    if no_high:
        return constraints.greater_than(low)
    return constraints.less_than(high) if no_low else constraints.interval(low, high)
