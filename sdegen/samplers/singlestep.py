"""Exponential single-step (Runge–Kutta) methods for the probability flow."""

from __future__ import annotations

__all__ = ["Singlestep", "SinglestepStep"]

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..models.score import ScoreModel
from ..processes.grids import Grid
from .base import Noise, Sampler, require_linear
from .clocks import Clock, angle
from .exponential import Pieces, plan_pieces
from .moves import Asked, Move, Moves, Node, apply_move
from .references import Reference


class SinglestepStep(NamedTuple):
    """Coefficients of a step of a single-step method: the evaluation at each stage, and the updates to the later stages and the
    end.
    """

    pieces: Pieces
    nodes: list[Node]
    moves: list[Move]


class Singlestep(Sampler[SinglestepStep, None]):
    """Exponential Runge–Kutta methods of order 2 and 3, such as DPM-Solver: as many evaluations a step as the order.

    Stages are at one half, or at one and two thirds, of a step on the clock. With `Unbounded()` and the clock `log_ratio` order 3
    is DPM-Solver-3 (C. Lu et al., 2022, arXiv:2206.00927). DPM-Solver-2 has the midpoint rule instead of the exact integral here.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        2 or 3.
    reference, clock
        As for `Multistep`.

    Raises
    ------
    ValueError
        If `order` is not 2 or 3; in a run as for `Multistep`.
    TypeError
        As for `Multistep`.
    """

    @check_arguments
    def __init__(
        self,
        steps: int = 10,
        grid: Grid | None = None,
        order: int = 3,
        reference: Reference | None = None,
        clock: Clock = angle,
    ) -> None:
        super().__init__(steps, grid)
        if order not in (2, 3):
            raise ValueError(f"order = {order}; single-step methods here have order 2 or 3.")
        self.order, self.reference, self.clock = order, reference, clock
        self.convergence_order = order

    def plan(self, model: ScoreModel, times: Tensor) -> list[SinglestepStep]:
        """Plan the stages, their evaluations and moves."""
        pieces = plan_pieces(require_linear(self, model.sde), model, self.reference, self.clock)
        n, p = len(times) - 1, self.order
        if n == 0:  # of a run that only denoises
            return []
        up = bool(times[0] < times[-1])  # from data to noise, as `encode` goes
        ends = (times[1:], times[:-1]) if up else (times[:-1], times[1:])
        between = [_between(pieces, *ends, (p - j if up else j) / p) for j in range(1, p)]
        # Stage j of step k is at the place j n + k, and the end of the run, where no model is asked, behind them all.
        stops = torch.cat([times[:-1], *between, times[-1:]])
        evaluations = pieces.evaluations(model, stops[:-1])
        stages = [range(k, p * n, n) for k in range(n)]
        asked = []
        for stage, end in zip(stages, [*range(1, n), p * n], strict=True):
            k = stage[0]
            asked += [Asked(k, stage[j], stage[:j][::-1]) for j in range(1, p)]
            # The last stage and the first: with two thirds of the way the line through them is exact to order three.
            asked.append(Asked(k, end, [stage[-1], k]))
        planned: Moves[Any] = pieces.moves(stops, asked)
        moves = pieces.split_moves(planned.of(evaluations))
        return [
            SinglestepStep(pieces, [evaluations.nodes[i] for i in stage], moves[p * k : p * (k + 1)])
            for k, stage in enumerate(stages)
        ]

    def step(self, model: ScoreModel, x: Tensor, c: SinglestepStep, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Run all stages from one state."""
        pieces, nodes, moves = c
        y = pieces.enter(x)
        history = [pieces.evaluate(model, x, y, nodes[0])]
        for node, move in zip(nodes[1:], moves, strict=False):
            stage = apply_move(move, y, history)
            history = [pieces.evaluate(model, pieces.leave(stage, x), stage, node), *history]
        return pieces.leave(apply_move(moves[-1], y, [history[0], history[-1]]), x), None


def _between(pieces: Pieces, t: Tensor, s: Tensor, fraction: float) -> Tensor:
    """Return the time at a fraction of the way from `t` to `s` on the clock, by bisection on the angle."""
    low, high = pieces.phi(s), pieces.phi(t)
    first, last = pieces.clock(high), pieces.clock(low)
    target = first + fraction * (last - first)
    for _ in range(60):
        middle = 0.5 * (low + high)
        later = pieces.clock(middle) > target
        low, high = torch.where(later, low, middle), torch.where(later, middle, high)
    return pieces.time(0.5 * (low + high))
