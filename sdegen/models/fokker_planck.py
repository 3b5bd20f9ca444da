"""The numerically exact score of a nonlinear process, from its Fokker–Planck equation on a grid: `FokkerPlanck`.

The equation is solved for one coordinate, or for two together that move each other. The law at any time is then a mixture of
products of such densities, in any dimension.
"""

from __future__ import annotations

__all__ = ["FokkerPlanck", "GridLaw", "Part"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_arguments, check_law
from ..blocks import OfTensors
from ..conditions import NONE, Conditions
from ..fixed import Fixed
from ..laws.cells import Axis, Cells
from ..laws.chains import GridChain, added_noise
from ..laws.interpolation import lagrange
from ..laws.mixtures import Moments, moments_of
from ..laws.operators import rows
from ..laws.outside import as_law
from ..precision import at_least_single
from ..processes.base import SDE
from ..processes.dynamics import as_time
from ..processes.equation import Equation
from ..show import show_call
from .gridded import check_mass, correlated, in_units_of, log_densities, sides
from .named import read_named
from .score import ScoreModel

DRAWS = 65_536  # data of which moments are taken, if these have no closed form
SEEN = 8  # states at which coefficients are compared, to find which coordinates move which
# Cells and steps, by the number of coordinates on a grid: of rough runs, which find the ends of the grid, and of the solution.
ROUGH = {1: (200, 60), 2: (40, 40)}
USUAL = {1: (1000, 760), 2: (160, 190)}
FINER = 4.0  # times as many cells, at most, in a rough run on a grid that has grown
WIDE = 1 / 3  # of the noise of the process: the most that fluxes may add; scores are then off by a tenth
MOMENTS = 60  # times at which coefficients are compared
WIDENINGS = 40  # of the grid at most, each of an end by a quarter of the whole
BLOCKS = 19  # of equal steps: 16 even in the root of the time, the first of them cut into four


class Part(NamedTuple):
    """Some coordinates, their grid, and splines through the log-densities of each component at all times, ``(times, K, ...)``."""

    coordinates: list[int]
    cells: Cells
    splines: Tensor


class FokkerPlanck(OfTensors, Fixed, ScoreModel):
    """The score model of a nonlinear process, by its Fokker–Planck equation on a grid; at most two coordinates may move each
    other.

    ``∂p/∂t = −∇·(f p) + ½ Σ_ij ∂_i ∂_j ((G Gᵀ)_ij p)`` is solved for one coordinate, or for two that move each other, by finite
    volumes (`laws.chains`), which conserve mass and are of order two in space and in time. Rates between cells are positive. A
    density may be negative by a part of the error of a step; there it counts as very faint, and is not right. Between cells and
    times densities are interpolated by cubic splines. A coordinate that moves alone is solved for alone, in each component of a
    mixture by itself. The model keeps ``cells × steps`` numbers for each such coordinate of each component, and
    ``cells² × steps`` for two together.

    Parameters
    ----------
    sde
        Any SDE. Ends of its domain are walls that nothing passes, and a circle is closed. If a density is singular at an end,
        give the process as `processes.Transformed`, which has no ends.
    distribution
        The law of the data, in their own units, or of their coordinates if the process has coordinates: a mixture of Gaussians,
        or for one or two numbers any law with ``sample`` and ``log_prob``.
    cells, steps
        The number of cells for each coordinate, on a grid that is widened until it holds the law, and the number of steps in
        time, which are finer towards 0. By default 1000 and 760, or 160 and 190 if two coordinates move each other.

    Raises
    ------
    ValueError
        If more than two coordinates move each other, a cell has no noise, cells are too wide for the data or for a drift with so
        little noise, or the process diverges.

    Examples
    --------
    >>> import sdegen
    >>> pair = sdegen.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.04, 0.04]))
    >>> truth = FokkerPlanck(sdegen.OU(), pair)  # a process whose law is known
    >>> x, t = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], 0.5
    >>> (truth.score(x, t) - sdegen.Exact(sdegen.OU(), pair).score(x, t)).abs().max().item() < 1e-3
    True
    """

    settable = ("moments", "end")

    @check_arguments
    @torch.no_grad()
    def __init__(self, sde: SDE, distribution: Any, cells: int | None = None, steps: int | None = None) -> None:
        if (cells is not None and cells < 16) or (steps is not None and steps < 3):
            raise ValueError(f"cells = {cells}, steps = {steps}; give at least 16 and 3.")
        self.sde, self.distribution = sde, check_law("distribution", as_law(distribution), "sample", "log_prob")
        self.moments = _moments(sde, self.distribution)
        law = in_units_of(self.distribution, sde)
        some = law.sample(SEEN, torch.Generator().manual_seed(0)).double()
        self.event_shape, self._equation = some.shape[1:], Equation(sde, some)
        groups = self._equation.groups(correlated(law, some[0].numel()))
        self._check_few(max(groups, key=len))
        usual = USUAL[max(map(len, groups))]
        self.times = _times(sde.T, steps or usual[1])
        self.weights = torch.ones(1, dtype=torch.float64) if len(groups) == 1 else law.weights
        self.parts = [self._part(group, law, cells or usual[0]) for group in groups]

    @property
    def conditions(self) -> Conditions:
        """None: the truth of one law."""
        return NONE

    def _check_few(self, widest: list[int]) -> None:
        """Refuse more coordinates that move each other than a grid can have."""
        if len(widest) > 2:
            some = ", ".join(map(str, widest[:4])) + (", …" if len(widest) > 4 else "")
            raise ValueError(
                f"coordinates {some} of {type(self.sde).__name__} move each other, or depend on each other in the data, and a "
                "grid has two at most: simulate it."
            )

    def _part(self, group: list[int], law: Any, n: int) -> Part:
        """Return the log-densities of a group of coordinates, on a grid that is widened until it holds them.

        Raises
        ------
        ValueError
            If no grid holds them, or the cells are too wide.
        """
        first, axes = log_densities(law, group, self.event_shape), sides(self.sde, law, group)
        cells, (rough, few) = Cells(axes, n), ROUGH[len(group)]
        logs = first(cells.centres)
        rough = max(rough, int(n * self._check_width(cells, group, [(logs - logs.amax(0)).exp()]) ** 0.5))
        still, length = self._equation.is_still(_times(self.sde.T, min(MOMENTS, len(self.times)))), _longest(axes)
        for _ in range(WIDENINGS):
            wide = min(FINER, _longest(axes) / length)
            if not self._run(group, first, Cells(axes, int(rough * wide)), _times(self.sde.T, few), still, axes):
                continue
            cells = Cells(axes, n)
            check_mass(first(cells.centres), cells)
            later = self._run(group, first, cells, self.times, still, axes)
            if later:
                self._check_width(cells, group, later)
                logs = torch.cat([cells.fields(first(cells.centres)), cells.log_density(torch.cat(later, 1))])
                splines = cells.splines(logs)
                return Part(group, cells, splines.reshape(len(self.times), -1, *splines.shape[1:]))
        ends = ", ".join(f"{axis.low:.3g} and {axis.high:.3g}" for axis in axes)
        raise ValueError(
            f"the law of {type(self.sde).__name__} does not fit between {ends}; the process diverges: give a smaller T, or a "
            "drift that confines it."
        )

    def _check_width(self, cells: Cells, group: list[int], p: list[Tensor]) -> float:
        """Return the noise that the fluxes add, as a part of that of the process: the larger value of midway and the end.

        Parameters
        ----------
        cells, group
            A grid, and its coordinates.
        p
            Densities at all times but the first, or at a single time, by which the noise is weighted.

        Raises
        ------
        ValueError
            If the fluxes add more than `WIDE`, since cells are too wide.
        """
        added = 0.0
        for i in (len(self.times) // 2 - 1, len(self.times) - 2):
            field = self._equation.field(group, 0.5 * (self.times[i] + self.times[i + 1]))
            added = max(added, added_noise(cells, field, p[min(i, len(p) - 1)]))
        if added > WIDE:
            raise ValueError(
                f"{cells.n} cells a side are too wide for {type(self.sde).__name__}: where its noise is weak for its drift they "
                f"would add {added:.2g} times that noise; give cells = {math.ceil(cells.n * math.sqrt(2 * added / WIDE))} or so."
            )
        return added

    def _run(
        self,
        group: list[int],
        first: Callable[[Tensor], Tensor],
        cells: Cells,
        times: Tensor,
        still: bool,
        axes: list[Axis],
    ) -> list[Tensor]:
        """Return the densities at all times but the first, ``(cells, K)`` each.

        If a density reaches an end of the grid, that end is moved in `axes`, and the list is empty.
        """
        logs = first(cells.centres)
        p = (logs - logs.amax(0)).exp()
        p = p / (p.sum(0) * cells.volume)
        chain, found = GridChain(cells, lambda t: self._equation.field(group, t), still), []
        for t, h in zip(times[:-1], times.diff(), strict=True):
            p = chain.advance(p, t, h.item())
            reached = cells.reached(p)
            for i, end in reached:
                axes[i] = axes[i].wider(end)
            if reached:
                return []
            found.append(p)
        return found

    def _between(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the index of the first of four times around each of `t` ``(B,)``, and the factors of the cubic through the four,
        ``(4, B)``.
        """
        first = (torch.searchsorted(self.times, t) - 2).clamp(0, len(self.times) - 4)
        return first, lagrange(self.times[first[:, None] + torch.arange(4)], t)

    def _read(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return log-density ``(B,)`` and score of states."""
        t = as_time(t, self.sde.T)
        rows(t, x)  # refuses another number of times
        first, factors = self._between(t.expand(len(x)).contiguous())
        flat = x.to(self.times).reshape(len(x), -1)
        total = self.weights.log().expand(len(x), -1)
        slopes = []
        for part in self.parts:
            value, slope = part.cells.read_between(part.splines, first, factors, flat[:, part.coordinates])
            total = total + value
            slopes.append(slope)
        places = torch.tensor([i for part in self.parts for i in part.coordinates]).argsort()
        score = (total.softmax(1)[:, :, None] * torch.cat(slopes, 2)[:, :, places]).sum(1)
        return total.logsumexp(1).to(x.device, at_least_single(x.dtype)), score.reshape(x.shape).to(x)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``∇ log p_t(x)``, of the shape of `x`, at one time or one for each state."""
        read_named(self, cond, self.score)
        return self._read(x, t)[1]

    def log_density(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return ``log p_t(x)`` in nats, ``(B,)``, in float32 at least."""
        return self._read(x, t)[0]

    def draw(self, n: int, t: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` states at `t`, ``(n, *event_shape)``, float64, from densities that are linear between cells."""
        which = torch.multinomial(self.weights, n, True, generator=generator)
        flat = torch.empty(n, self._equation.states.shape[1], dtype=torch.float64)
        first, factors = self._between(as_time(t, self.sde.T).reshape(1))
        for part in self.parts:
            splines = torch.tensordot(factors[:, 0], part.splines[first.item() : first.item() + 4], 1)
            p = part.cells.read(splines, part.cells.centres)[0].exp()
            for k in which.unique().tolist():
                own = (which == k).nonzero()
                flat[own, part.coordinates] = part.cells.draw(p[:, k], len(own), generator)
        return flat.reshape(n, *self.event_shape)

    def law(self, t: Tensor | float) -> GridLaw:
        """Return the law of the states at `t`, with ``sample``, ``log_prob`` and ``score``; at T it can be the prior of a sampler
        or a likelihood.
        """
        return GridLaw(self, as_time(t, self.sde.T))


class GridLaw(OfTensors):
    """The law of the states at one time, by the solution on a grid.

    Parameters
    ----------
    truth
        The solution of the equation at all times.
    t
        The time of the law.
    """

    __repr__ = show_call

    def __init__(self, truth: FokkerPlanck, t: Tensor) -> None:
        self.truth, self.t = truth, t

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` states, ``(n, *event_shape)``, float64."""
        return self.truth.draw(n, self.t, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``."""
        return self.truth.log_density(x, self.t)

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p``, of the shape of `x`."""
        return self.truth.score(x, self.t)


def _times(T: float, steps: int) -> Tensor:
    """Return times that are finer towards 0, in `BLOCKS` of equal steps, each of which needs one factorisation."""
    edges = np.concatenate([[0.0], 0.25 ** np.arange(7, 4, -1), np.linspace(0, 1, BLOCKS - 2)[1:] ** 2])
    return T * torch.from_numpy(np.interp(np.linspace(0, BLOCKS, steps + 1), np.arange(BLOCKS + 1), edges))


def _longest(axes: list[Axis]) -> float:
    """Return the length of the longest side."""
    return max(axis.high - axis.low for axis in axes)


def _moments(sde: SDE, law: Any) -> Moments:
    """Return the moments of the data, or those of their coordinates if the process wants these (`measured_in`)."""
    phi = None if sde.coordinates is sde.measured_in else sde.coordinates
    if phi is None and hasattr(law, "moments"):
        known: Moments = law.moments()
        return known
    drawn = law.sample(DRAWS, torch.Generator().manual_seed(0))
    return moments_of(drawn if phi is None else phi.inverse(drawn))
