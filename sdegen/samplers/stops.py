"""The times at which the default sampler stops: a grid with stops of its own (`Moved`), and the search for the stops that bring a
solver nearest to the flow of a model (`move_stops`).

A profile tells where steps should be short in the limit of many steps. If steps are few, the error of one can cancel that of
another. So the stops of the solver that was nearest are moved to where the errors at the end, on paths of the model itself, are
least.
"""

from __future__ import annotations

__all__ = ["Moved", "move_cost", "move_stops", "moved"]

from copy import copy

import torch
from torch import Tensor

from ..laws.vectors import as_vectors
from ..models.modes import evaluating
from ..models.score import ScoreModel
from ..processes.base import SDE
from ..processes.grids import Grid
from .multistep import Multistep
from .robust import cut_weights, normal_equations, typical_distances
from .steps import arrive

ROUNDS = 2
STEP = 1e-2  # of the room that a stop has, in finite differences
ROOM = 0.45  # of the shorter gap beside a stop: the most that it moves in a round, so that stops keep their order
DAMPINGS = (1e-3, 1e-1, 1.0)
FAR = 2.0  # median residuals: a larger residual of a path counts as one of this size


class Moved(Grid):
    """A time grid that stops at given fractions of the way of another grid, and between these evenly; both have the same ends.

    Parameters
    ----------
    grid
        The other grid.
    stops
        The fractions, rising from 0 at the end of the grid to 1 at its start, ``(n + 1,)``.
    """

    def __init__(self, grid: Grid, stops: Tensor) -> None:
        super().__init__(grid.start, grid.end)
        self.grid, self.stops = grid, stops

    def spread(self, sde: SDE, end: float, start: float, u: Tensor) -> Tensor:
        """Return the times of the other grid at the fractions that lie at `u`."""
        place = u * (len(self.stops) - 1)
        i = place.long().clamp(max=len(self.stops) - 2)
        return self.grid.spread(sde, end, start, torch.lerp(self.stops[i], self.stops[i + 1], place - i))


def moved(solver: Multistep, stops: Tensor) -> Multistep:
    """Return a copy of a solver with other stops, at fractions of the way of its own grid.

    Parameters
    ----------
    solver
        A solver that has a grid.
    stops
        As for `Moved`.
    """
    other = copy(solver)
    assert solver.grid is not None  # those that are tried have one
    other.grid = Moved(solver.grid, stops)
    return other


class _Paths:
    """Paths of a model, and the distances of a solver from both their endings: the state at the last time, and the posterior mean
    there.
    """

    def __init__(self, model: ScoreModel, x_T: Tensor, flow: Tensor, solver: Multistep) -> None:
        self.model, self.x_T, self.solver = model, x_T, solver
        self.ends = flow, model.denoise(flow, solver.times(model.sde, denoise=True)[-1])

    def miss(self, solver: Multistep) -> Tensor:
        """Return the differences of both endings from those of the flow, ``(2, B, d)``."""
        ends = [arrive(self.model, solver, self.x_T, denoise) for denoise in (False, True)]
        return torch.stack([as_vectors(x - end).double().cpu() for x, end in zip(ends, self.ends, strict=True)])

    def distances(self, solver: Multistep) -> Tensor:
        """Return the median and the root-mean-square distance of each ending, ``(2, 2)``."""
        return torch.stack([typical_distances(d) for d in self.miss(solver).norm(dim=2)])


def move_stops(
    fit: tuple[ScoreModel, Tensor, Tensor], held: tuple[ScoreModel, Tensor, Tensor], solver: Multistep
) -> Tensor:
    """Return the stops that bring both endings of a solver nearest to the flow, or none, ``(0,)``, if they do not help on paths
    held back.

    The search takes two rounds of Gauss–Newton with finite differences, on the state at the last time and on the posterior mean
    there, each in units of its own median error. The stops are returned if, on the paths held back, the median and the
    root-mean-square distance of both endings are all smaller than with the solver's own stops.

    Parameters
    ----------
    fit, held
        The paths that the stops are fitted to, and those that they are judged by: a model with its conditions bound, states at
        the first time, ``(B, *)``, and the states to which the flow takes them.
    solver
        The solver whose stops are moved.
    """
    none = torch.empty(0, dtype=torch.float64)
    if solver.steps < 2:
        return none
    with torch.no_grad(), evaluating(fit[0]), evaluating(held[0]):
        stops = _fit(_Paths(*fit, solver), solver)
        judged = _Paths(*held, solver)
        ratios = judged.distances(moved(solver, stops)) / judged.distances(solver)
    return stops if ratios.max() < 1 else none


def _fit(paths: _Paths, solver: Multistep) -> Tensor:
    """Return the stops that rounds of Gauss–Newton find, from those of the solver."""
    stops = torch.linspace(0, 1, solver.steps + 1, dtype=torch.float64)
    units = paths.miss(solver).norm(dim=2).median(1).values.clamp_min(1e-300)[:, None, None]

    def residuals(stops: Tensor) -> Tensor:
        """Return the differences at the ends of each path, both endings in their units, ``(B, 2 d)``."""
        return (paths.miss(moved(solver, stops)) / units).transpose(0, 1).flatten(1)

    r = residuals(stops)
    for _ in range(ROUNDS):
        gaps = stops.diff()
        room = torch.minimum(gaps[:-1], gaps[1:])
        nudged = stops + STEP * torch.nn.functional.pad(room.diag(), (1, 1))
        J = torch.stack([(residuals(other) - r) / STEP for other in nudged], -1)
        size = r.norm(dim=1)
        w = cut_weights(size, FAR)
        H, slope = normal_equations(w, J, r)
        if not (H.isfinite().all() and H.trace() > 0):
            break
        scale = (H.diagonal() + 1e-9 * H.trace()).diag()
        found = [(_loss(w, r), stops, r)]
        for damping in DAMPINGS:
            move = -torch.linalg.solve(H + damping * scale, slope)
            other = stops.clone()
            other[1:-1] += room * move * (ROOM / move.abs().max().clamp_min(1e-30)).clamp(max=1)
            there = residuals(other)
            found.append((_loss(w, there), other, there))
        _, stops, r = min(found, key=lambda one: one[0])
    return stops


def _loss(w: Tensor, r: Tensor) -> float:
    """Return the weighted sum of squares; infinity if it is NaN."""
    return (w * r.square().sum(1)).sum().nan_to_num(torch.inf).item()


def move_cost(steps: int) -> int:
    """Return the number of evaluations of a model on each path in `move_stops`, if half of the paths fit the stops and half judge
    them.

    Parameters
    ----------
    steps
        The number of steps of the solver.
    """
    if steps < 2:
        return 0
    runs = 2 + ROUNDS * (steps - 1 + len(DAMPINGS))  # the solver's own for the units, and from where the rounds begin
    # On half of the paths each: both endings of every run, and two runs to judge; one posterior mean of the flow besides.
    return steps * (runs + 2) + 1
