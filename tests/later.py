"""Exact models of processes that are not linear: data that are two points after some noise of the process itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import sdegen
from sdegen.conditions import NONE, Conditions
from sdegen.models.score import ScoreModel
from sdegen.processes.dynamics import as_time

WEIGHTS = (0.4, 0.6)
CELLS = 20_000  # of the trapezoid rule


class Later(ScoreModel):
    """The exact model of data whose numbers are two points after some noise of the process itself: their law at `t` is that of a
    later time, ``Σ_k w_k law_after(point_k, elapsed(t) + noise)`` each.

    Parameters
    ----------
    sde
        A process with ``law_after(x, elapsed)``.
    points, noise
        The points, and how much noise has come to them.
    elapsed
        How much noise comes to a state by `t`; by default the time itself.
    d
        Numbers of a datum.
    folds
        Whether the domain has walls, beyond which the score is mirrored, as the flow is there.
    """

    def __init__(
        self,
        sde: Any,
        points: tuple[float, float],
        noise: float,
        elapsed: Callable[[Tensor], Tensor] = lambda t: t,
        d: int = 1,
        folds: bool = False,
    ) -> None:
        self._sde, self.points, self.noise, self.elapsed, self.d, self.folds = sde, points, noise, elapsed, d, folds
        drawn = self.draw(4000, 0.0, 9)
        self.moments = sdegen.Moments(drawn.mean(0), drawn.var(0))

    @property
    def sde(self) -> Any:
        return self._sde

    @property
    def conditions(self) -> Conditions:
        return NONE

    def laws(self, x: Tensor, t: Tensor | float) -> list[Any]:
        elapsed = self.elapsed(as_time(t, self.sde.T)) + self.noise
        return [self.sde.law_after(torch.full_like(x, point), elapsed) for point in self.points]

    def joint(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The log-density of one number and of where it comes from, ``(2, B)``."""
        return torch.stack([law.log_prob(x) + math.log(w) for law, w in zip(self.laws(x, t), WEIGHTS, strict=True)])

    def log_density(self, x: Tensor, t: Tensor | float) -> Tensor:
        return torch.stack([self.joint(number, t).logsumexp(0) for number in x.split(1, 1)]).sum(0)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        def slope(number: Tensor) -> Tensor:
            parts = zip(self.joint(number, t).softmax(0), self.laws(number, t), strict=True)
            return sum((p[:, None].to(x) * law.score(number) for p, law in parts), 0 * number)

        inside = self.sde.enter(x)
        sign = torch.where(inside == x, 1.0, -1.0) if self.folds else torch.ones_like(x)
        return sign * torch.cat([slope(number) for number in inside.split(1, 1)], 1)

    def draw(self, n: int, t: float, seed: int) -> Tensor:
        """Draws of the law at `t`, ``(n, d)``, float64."""
        numbers = torch.Generator().manual_seed(seed)
        z = torch.randn(n, self.d, dtype=torch.float64, generator=numbers)
        which = (torch.rand(n, self.d, dtype=torch.float64, generator=numbers) < WEIGHTS[1]).to(z)
        first, second = (law.sample(z) for law in self.laws(z, t))
        return torch.lerp(first, second, which)

    def cdf(self, x: Tensor, t: float) -> Tensor:
        """The distribution function of each number at `t`, by the trapezoid rule on its density."""
        low, high = self.draw(20_000, t, 8).aminmax()
        wide = 0.05 * (high - low)
        grid = torch.linspace((low - wide).item(), (high + wide).item(), CELLS + 1, dtype=torch.float64)
        inside = self.sde.domain.check(grid)
        density = torch.zeros_like(grid)
        density[inside] = self.joint(grid[inside, None], t).logsumexp(0).exp()
        below = torch.cat([density.new_zeros(1), torch.cumulative_trapezoid(density, grid)])
        place = (torch.searchsorted(grid, x.contiguous()) - 1).clamp(0, CELLS - 1)
        share = ((x - grid[place]) / (grid[1] - grid[0])).clamp(0, 1)
        return torch.lerp(below[place], below[place + 1], share)
