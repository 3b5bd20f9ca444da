"""The integral of a positive function and its inverse, by Chebyshev polynomials on panels: `Antiderivative`."""

from __future__ import annotations

__all__ = ["Antiderivative"]

from collections.abc import Callable

import numpy as np
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

DEGREE = 15  # of the polynomials
PRECISE = 1e-13  # of a panel's largest value: the last coefficients are cut down to it
STEEP = 4.0  # times that the function may grow over a panel, within which Newton's method finds the inverse
FINEST = 40  # halvings of a panel
SMOOTH = 1e-5  # of a panel's largest value: last coefficients that may be rounding of the function; a jump leaves more
STUCK = 0.7  # of themselves before a halving: coefficients that are still larger are such rounding
NEWTON = 7  # steps of Newton's method
FINITE = 0.01  # rate of decay beyond an end, below which it is taken as none and the integral there as infinite


class Antiderivative:
    """An integral ``F(v) = ∫ w dv`` of positive functions `w`, one for each of `m` columns, with derivatives, and its inverse.

    Beyond the interval `w` goes on as an exponential, or as a constant. ``F`` is 0 at −∞ where the integral from there is finite;
    else at the first edge of a panel from 0 on, which is 0 itself for an interval that is symmetric about 0.

    Parameters
    ----------
    w
        Returns the values of the functions, ``(N, m)``, at points ``(N,)``.
    low, high
        The interval.
    exponential
        Whether `w` goes on as an exponential beyond it.

    Raises
    ------
    ValueError
        If a function is infinite, not positive or not smooth somewhere; the error has the place as its argument.
    """

    def __init__(self, w: Callable[[Tensor], Tensor], low: float, high: float, exponential: bool) -> None:
        self.edges, first = _panels(w, low, high)  # (P + 1,), (P, m, degree + 1)
        half = 0.5 * self.edges.diff()[:, None, None]
        integral = torch.from_numpy(chebyshev.chebint(first.numpy(), axis=2, lbnd=-1)) * half
        slope = torch.from_numpy(chebyshev.chebder(first.numpy(), axis=2)) / half
        second = torch.from_numpy(chebyshev.chebder(slope.numpy(), axis=2)) / half
        self._ends = torch.tensor([low, high], dtype=torch.float64)
        at, z = torch.tensor([0, -1]), torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None]
        self._end_w, end_slope = (_sum(c[at], z) for c in (first, slope))  # (2, m)
        rate = end_slope / self._end_w * (z * exponential)  # outwards
        self._rate = torch.where(rate < -FINITE, rate, rate.clamp_min(0))
        reach = torch.where(self._rate < 0, -self._end_w / self._rate, torch.inf)
        self.starts = _starts(integral.sum(2), int((self.edges < 0).sum()), reach[0])  # at the edges, (P + 1, m)
        integral[..., 0] += self.starts[:-1]
        size = integral.shape[2]
        parts = [torch.nn.functional.pad(c, (0, size - c.shape[2])) for c in (integral, first, slope, second)]
        self._series = torch.stack(parts, 2)  # (P, m, 4, degree + 2)
        self.low, self.high = self.starts[0] - reach[0], self.starts[-1] + reach[1]  # of the image, (m,)

    def __call__(self, v: Tensor) -> Tensor:
        """Return ``F(v)``, of the shape of `v`, ``(..., m)``, with two derivatives by `v`."""
        F, w, slope, _ = self._jet(v)
        more = v - v.detach()  # zero, with the derivatives of v
        return F + more * (w + 0.5 * slope * more)

    def slope(self, v: Tensor) -> Tensor:
        """Return ``w(v)``, with two derivatives by `v`."""
        _, w, slope, second = self._jet(v)
        more = v - v.detach()
        return w + more * (slope + 0.5 * second * more)

    def bend(self, v: Tensor) -> Tensor:
        """Return ``w'(v) / w(v)``, with one derivative by `v`."""
        _, w, slope, second = self._jet(v)
        return slope / w + (v - v.detach()) * (second / w - (slope / w).square())

    def inverse(self, u: Tensor) -> Tensor:
        """Return `v` with ``F(v) = u``, by Newton's method within a panel; with two derivatives by `u`."""
        with torch.no_grad():
            given, columns = u.detach(), self._columns(u)
            panel = torch.stack(
                [
                    torch.searchsorted(s.contiguous(), g.contiguous())
                    for s, g in zip(self.starts.T, given.unbind(-1), strict=True)
                ],
                -1,
            )
            panel = (panel - 1).clamp(0, len(self.edges) - 2)
            low, high = self.edges[panel], self.edges[panel + 1]
            start, end = self.starts[panel, columns], self.starts[panel + 1, columns]
            v = low + ((given - start) / (end - start)).clamp(0, 1) * (high - low)
            for _ in range(NEWTON):
                F, w, _, _ = self._jet(v)
                v = (v - (F - given) / w).clamp(low, high)
            side = (given > self.starts[-1]).long()
            beyond = (
                torch.where(side == 1, given - self.starts[-1], self.starts[0] - given) / self._end_w[side, columns]
            )
            rate = self._rate[side, columns]
            further = torch.where(rate == 0, beyond, torch.log1p(rate * beyond) / torch.where(rate == 0, 1.0, rate))
            v = torch.where(beyond > 0, self._ends[side] + (2 * side - 1) * further, v)
            _, w, slope, _ = self._jet(v)
        more = u - given
        return v + more / w * (1 - 0.5 * slope / w.square() * more)

    def _columns(self, v: Tensor) -> Tensor:
        """Return the number of the function that each of the points ``(..., m)`` is meant for."""
        return torch.arange(self._series.shape[1]).expand(v.shape)

    @torch.no_grad()
    def _jet(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return ``F``, ``w``, ``w'`` and ``w''`` at points ``(..., m)``, without derivatives of their own."""
        v, columns = v.detach(), self._columns(v)
        panel = (torch.searchsorted(self.edges, v.contiguous(), right=True) - 1).clamp(0, len(self.edges) - 2)
        low, high = self.edges[panel], self.edges[panel + 1]
        z = ((2 * v - low - high) / (high - low)).clamp(-1, 1)
        F, w, slope, second = _sum(self._series[panel, columns], z[..., None]).unbind(-1)
        side = (v > self._ends.mean()).long()
        sign = 2 * side - 1
        beyond, rate = sign * (v - self._ends[side]), self._rate[side, columns]
        outside = beyond > 0
        grown = self._end_w[side, columns] * (rate * beyond).exp()
        start = torch.where(side == 1, self.starts[-1], self.starts[0])
        curve = torch.where(rate == 0, beyond, torch.expm1(rate * beyond) / torch.where(rate == 0, 1.0, rate))
        return (
            torch.where(outside, start + sign * self._end_w[side, columns] * curve, F),
            torch.where(outside, grown, w),
            torch.where(outside, sign * rate * grown, slope),
            torch.where(outside, rate.square() * grown, second),
        )


def _sum(coefficients: Tensor, z: Tensor) -> Tensor:
    """Return Chebyshev series with coefficients ``(..., k)`` at `z` ``(...)`` of ``[−1, 1]``: ``Σ c_k cos(k arccos z)``."""
    k = torch.arange(coefficients.shape[-1], dtype=torch.float64)
    return (coefficients * (k * z.acos()[..., None]).cos()).sum(-1)


def _starts(parts: Tensor, zero: int, reach: Tensor) -> Tensor:
    """Return the integral at all edges, given the integrals over the panels ``(P, m)``: counted from −∞ where the integral up to
    the first edge, `reach`, is finite, or else from the edge number `zero`, in sums of numbers of one sign.
    """
    none = torch.zeros(1, parts.shape[1], dtype=parts.dtype)
    up = torch.cat([none, parts.cumsum(0)]) + reach
    down = -parts[:zero].flip(0).cumsum(0).flip(0)
    return torch.where(reach.isfinite(), up, torch.cat([down, none, parts[zero:].cumsum(0)]))


def _panels(w: Callable[[Tensor], Tensor], low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return edges of panels on which functions are polynomials, and the polynomials' Chebyshev coefficients."""
    z = torch.from_numpy(chebyshev.chebpts1(DEGREE + 1))
    fit = torch.from_numpy(np.linalg.inv(chebyshev.chebvander(z.numpy(), DEGREE)))
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    todo = torch.linspace(low, high, 9, dtype=torch.float64)
    lows, highs, before = todo[:-1], todo[1:], torch.full((len(todo) - 1,), torch.inf, dtype=torch.float64)
    done: list[tuple[Tensor, Tensor]] = []
    for halving in range(FINEST + 1):
        points = 0.5 * (lows + highs)[:, None] + 0.5 * (highs - lows)[:, None] * torch.cat([z, ends])
        values = w(points.flatten()).reshape(*points.shape, -1)  # (panels, nodes, m)
        bad = ~((values > 0) & values.isfinite()).all(2)
        if bad.any():
            raise ValueError(points[bad][0].item())
        coefficients = torch.einsum("kn,pnm->pmk", fit, values[:, :-2])
        largest = coefficients.abs().amax(2)
        # The values at the edges themselves show what changes only there.
        apart = (_sum(coefficients[:, None], ends[:, None]) - values[:, -2:]).abs().amax(1)
        left = (coefficients[..., -2:].abs().amax(2) / largest).amax(1)
        steep = (values.amax(1) / values.amin(1)).amax(1)
        rounded = (left <= SMOOTH) & ((left > STUCK * before) | torch.tensor(halving == FINEST))
        good = ((left <= PRECISE) | rounded) & (steep <= STEEP) & (apart <= SMOOTH * largest).all(1)
        done += [(lows[good], coefficients[good])]
        if good.all():
            break
        if halving == FINEST:
            raise ValueError(points[~good][0, 0].item())
        middle = 0.5 * (lows + highs)[~good]
        lows, highs = torch.cat([lows[~good], middle]), torch.cat([middle, highs[~good]])
        before = left[~good].repeat(2)
    starts = torch.cat([part[0] for part in done])
    order = starts.argsort()
    return torch.cat([starts[order], todo[-1:]]), torch.cat([part[1] for part in done])[order]
