"""Densities on a grid of equal cells in one dimension or two: `Axis`, `Cells`, their faint ends, and splines through their
logarithms.
"""

from __future__ import annotations

__all__ = ["FAINT", "Axis", "Cells"]

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FAINT = 1e-11  # of the peak: smaller densities are continued like a Gaussian's
LITTLE = 1e-8  # of the peak: the largest density that may come to an open end
LEAST = 1e-300  # a density whose logarithm is still taken
APART = 4  # cells between those that a parabola is laid through, so that rounding is not magnified
WIDER = 0.25  # of its length: by how much an axis grows at an end
PAD = 2  # cells that splines reach beyond an end


class Axis(NamedTuple):
    """One side of a grid.

    Attributes
    ----------
    low, high
        The ends of the side.
    walls
        Whether each end is an end of the domain, which nothing passes; other ends are chosen so far out that nothing comes there.
    closed
        Whether the ends are the same point, as of a circle.
    """

    low: float
    high: float
    walls: tuple[bool, bool] = (False, False)
    closed: bool = False

    def open(self, end: int) -> bool:
        """Tell whether an end, 0 for the lower one, may be moved."""
        return not (self.closed or self.walls[end])

    def wider(self, end: int) -> Axis:
        """Return the axis with an end moved out by a quarter of its length."""
        more = WIDER * (self.high - self.low)
        return self._replace(high=self.high + more) if end else self._replace(low=self.low - more)


class Cells:
    """A grid of `n` equal cells along each of its axes, and densities on it, ``(cells, K)``, of `K` laws at once.

    Parameters
    ----------
    axes
        The axis of each dimension.
    n
        How many cells an axis has.
    """

    def __init__(self, axes: Sequence[Axis], n: int) -> None:
        self.axes, self.n, self.counts = tuple(axes), n, (n,) * len(axes)
        self.low = torch.tensor([axis.low for axis in axes], dtype=torch.float64)
        self.width = torch.tensor([(axis.high - axis.low) / n for axis in axes], dtype=torch.float64)
        self.volume = self.width.prod().item()
        self.index = torch.cartesian_prod(*[torch.arange(n)] * len(axes)).reshape(-1, len(axes))
        self.centres = self.low + (self.index + 0.5) * self.width  # (cells, d)

    def neighbours(self, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pairs of cells that lie at an `offset`, counted in cells, from each other: the numbers of the first cells,
        those of the second, and the points halfway between them, ``(pairs, d)``.
        """
        moved = self.index + offset
        for i, axis in enumerate(self.axes):
            if axis.closed:
                moved[:, i] %= self.n
        here = ((moved >= 0) & (moved < self.n)).all(1).nonzero()[:, 0]
        sizes = torch.tensor([self.n**k for k in reversed(range(len(self.axes)))])
        return here, moved[here] @ sizes, self.centres[here] + 0.5 * offset * self.width

    def fields(self, values: Tensor) -> Tensor:
        """Return values ``(cells, K)`` as ``(K, *counts)``."""
        return values.T.reshape(-1, *self.counts)

    def draw(self, p: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        """Draw `n` points ``(n, d)`` from the density that is `p` ``(cells,)`` at the centres and linear between them."""
        cdf = p.cumsum(0)
        u = torch.rand(n, dtype=torch.float64, generator=generator) * cdf[-1]
        at = torch.searchsorted(cdf, u).clamp_max(len(p) - 1)
        # Interpolating linearly is spreading the mass of each cell by a triangle, the law of a sum of two uniform numbers.
        tent = torch.rand(2, n, len(self.axes), dtype=torch.float64, generator=generator).sum(0) - 1
        x = self.centres[at] + tent * self.width
        for i, axis in enumerate(self.axes):
            if axis.closed:
                x[:, i] = axis.low + (x[:, i] - axis.low).remainder(axis.high - axis.low)
            for end, (low, high) in zip(
                (axis.low, axis.high), ((axis.low, torch.inf), (-torch.inf, axis.high)), strict=True
            ):
                outside = (x[:, i] < low) | (x[:, i] > high)
                x[:, i] = torch.where(outside, 2 * end - x[:, i], x[:, i])
        return x

    def reached(self, p: Tensor) -> list[tuple[int, int]]:
        """Return the open ends, pairs of an axis and 0 or 1, at which densities exceed `LITTLE` of their peak."""
        fields, peak = p.max(1).values.reshape(self.counts), LITTLE * p.max()
        ends = [(i, end) for i, axis in enumerate(self.axes) for end in (0, 1) if axis.open(end)]
        return [(i, end) for i, end in ends if not fields.select(i, -end).max() <= peak]

    def splines(self, logs: Tensor) -> Tensor:
        """Return the coefficients of cubic B-splines that approximate values ``(K, *counts)`` to order four, ``(K, n + 4, ...)``.

        ``c = f − δ² f / 6`` with second differences `δ²`: where the values are those of a cubic, so is the spline. Beyond an end
        the values are continued as by the cubic through the last four; a closed axis is continued by its other end.
        """
        for i, axis in enumerate(self.axes):
            f = logs.movedim(1 + i, 0)
            if axis.closed:
                f = torch.cat([f[-PAD - 1 :], f, f[: PAD + 1]])
            else:
                for _ in range(PAD + 1):
                    before, after = (
                        4 * a - 6 * b + 4 * c - d
                        for a, b, c, d in ((f[0], f[1], f[2], f[3]), (f[-1], f[-2], f[-3], f[-4]))
                    )
                    f = torch.cat([before[None], f, after[None]])
            logs = (f[1:-1] - f.diff(n=2, dim=0) / 6).movedim(0, 1 + i)
        return logs

    def read(self, splines: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the values of splines and their slopes at points `x` ``(B, d)``: ``(B, K)`` and ``(B, K, d)``."""
        flat, weights = self._weights(x)
        found = torch.einsum("kbn,bnm->bkm", splines.flatten(1)[:, flat], weights)
        return found[..., 0], found[..., 1:]

    def read_between(self, series: Tensor, first: Tensor, factors: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and slopes, as `read` does, of weighted sums of successive splines of a series, a sum for each point.

        Parameters
        ----------
        series
            Splines, ``(times, K, ...)``.
        first
            The number of the first spline of each sum, ``(B,)``.
        factors
            The weights of that spline and of the ``p − 1`` after it, ``(p, B)``.
        x
            Points ``(B, d)``.
        """
        flat, weights = self._weights(x)
        values = series.flatten(2)
        near = sum(f[:, None, None] * values[(first + j)[:, None], :, flat] for j, f in enumerate(factors))
        found = torch.einsum("bnk,bnm->bkm", near, weights)
        return found[..., 0], found[..., 1:]

    def _weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places of the coefficients that are not 0 at points, ``(B, 4^d)``, and their weights in value and slopes."""
        flat, values, slopes = torch.zeros(len(x), 1, dtype=torch.long), [], []
        for i, axis in enumerate(self.axes):
            place = (x[:, i] - axis.low) / self.width[i] - 0.5
            if axis.closed:
                place = place - self.n * ((place.detach() + 0.5) / self.n).floor()
            cell = place.detach().nan_to_num().floor().clamp(-1, self.n - 1)
            u = place - cell
            v = 1 - u
            # The pieces of the cubic B-splines that meet here.
            pieces = [v**3, 3 * u**3 - 6 * u**2 + 4, 3 * v**3 - 6 * v**2 + 4, u**3]
            values.append(torch.stack(pieces, 1) / 6)
            slopes.append(torch.stack([-(v**2), 3 * u**2 - 4 * u, 4 * v - 3 * v**2, u**2], 1) / (2 * self.width[i]))
            at = cell.long()[:, None] + torch.arange(1, 5)
            flat = (flat[:, :, None] * (self.n + 2 * PAD) + at[:, None, :]).flatten(1)
        parts = [values] + [
            [slopes[j] if j == i else values[j] for j in range(len(values))] for i in range(len(values))
        ]
        return flat, torch.stack([_outer(part) for part in parts], -1)

    def log_density(self, p: Tensor) -> Tensor:
        """Return logarithms of densities ``(cells, K)`` as ``(K, *counts)``, continued where they are too faint to be right."""
        p = self.fields(p)
        clear = p > FAINT * p.flatten(1).amax(1).reshape(-1, *[1] * len(self.axes))
        logs = p.clamp_min(LEAST).log()
        for i, axis in enumerate(self.axes):
            if not axis.closed:
                logs, clear = _continue(logs.movedim(1 + i, 0), clear.movedim(1 + i, 0), axis)
                logs, clear = logs.movedim(0, 1 + i), clear.movedim(0, 1 + i)
        return logs


def _outer(parts: list[Tensor]) -> Tensor:
    """Return the products of one weight of each axis ``(B, 4)``, in all combinations, ``(B, 4^d)``."""
    product = parts[0]
    for part in parts[1:]:
        product = (product[:, :, None] * part[:, None, :]).flatten(1)
    return product


def _continue(logs: Tensor, clear: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """Return logarithms along dimension 0, continued from the last clear cells by parabolas that fall and do not bend up, and
    which cells are clear then: all cells of a line with enough clear ones.
    """
    n = torch.arange(len(logs)).reshape(-1, *[1] * (logs.ndim - 1))
    inner = (n >= (PAD + 1) * axis.open(0)) & (n < len(logs) - (PAD + 1) * axis.open(1))
    seen = clear & inner
    first = torch.where(seen, n, len(logs)).amin(0)
    last = torch.where(seen, n, -1).amax(0)
    enough = last - first >= 2 * APART
    for end, side, beyond in ((first, 1, n < first), (last, -1, n > last)):
        a, b, c = (logs.gather(0, (end + side * k * APART).clamp(0, len(logs) - 1)[None])[0] for k in range(3))
        u = (n - end) * side / APART  # the parabola through three clear cells
        curve = a + u * (b - a).clamp_min(0) + 0.5 * u * (u - 1) * (c - 2 * b + a).clamp_max(0)
        logs = torch.where(beyond & enough, curve, logs)
    return logs, clear | enough
