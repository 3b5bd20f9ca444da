"""Exponential multistep methods for the probability flow, with and without a corrector: one evaluation a step."""

from __future__ import annotations

__all__ = ["Multistep", "MultistepMemory", "MultistepStep", "merge_updates"]

from itertools import zip_longest
from operator import sub
from typing import NamedTuple

from torch import Tensor

from ..arguments import check_arguments
from ..laws.diagonal import Diagonal
from ..models.score import ScoreModel
from ..processes.grids import Grid
from .base import Noise, Sampler, require_linear, require_noise
from .clocks import Clock, angle
from .exponential import Pieces, plan_pieces
from .moves import Asked, Move, Node, Spread, add_after, add_multiple, apply_move, multiply
from .references import Reference
from .step_noise import StepNoise


class MultistepStep(NamedTuple):
    """Coefficients of a multistep step: its evaluation, its update and noise, and the repair of an earlier evaluation.

    Attributes
    ----------
    restart, again
        Whether the update begins at the first state, and whether that of the next step does.
    correct
        The update that corrects the state with its own evaluation, until `merge_updates`.
    """

    pieces: Pieces
    node: Node
    move: Move
    restart: bool
    again: bool
    correct: Move | None
    repair: tuple[Move, Node] | None
    spread: Spread | None


class MultistepMemory(NamedTuple):
    """The memory of a multistep method: the first state, past evaluations, newest first, and while updates begin at that state,
    where the last of them went without noise. What the state has beyond it is the noise since the first.
    """

    first: Tensor
    history: list[Tensor]
    bare: Tensor | None


def merge_updates(steps: list[MultistepStep]) -> list[MultistepStep]:
    """Put the correction of every state, and the constants of evaluations, into the updates that follow, and return the new plan.

    A corrected state is never evaluated, it is only where the next update begins. It differs from the state by weights alone,
    ``Σ (W^c_j − W_j) q_j``, since carry, shift and noise are those of the update that led there; so it costs one weight more.
    """
    merged: list[MultistepStep] = []
    constants: list[Tensor | None] = []
    for k, c in enumerate(steps):
        constants = [c.node.constant, *constants]
        move, repair = c.move, c.repair
        if c.correct is not None and not c.restart:
            newest, *corrected = c.correct.weights
            apart = [newest, *map(sub, corrected, steps[k - 1].move.weights)]
            move = move._replace(weights=[add_after(W, move.carry, V) for W, V in zip_longest(move.weights, apart)])
        if repair is not None:
            repair = repair[0].with_constants(constants), repair[1]._replace(constant=None)
        node, move = c.node._replace(constant=None), move.with_constants(constants)
        merged.append(c._replace(node=node, move=move, correct=None, repair=repair))
    return merged


class Multistep(Sampler[MultistepStep, MultistepMemory]):
    """Exponential Adams (multistep) methods of order 1 to 4, such as DPM-Solver++ and UniPC: one evaluation a step.

    With `reference` `PointMass()` data-prediction multistep (DPM-Solver++: C. Lu et al., 2022, arXiv:2211.01095, with exact
    integrals of the polynomials, diffusers' solver type "heun"), with `Unbounded()` noise prediction (DEIS: Q. Zhang and
    Y. Chen, 2022, arXiv:2204.13902), with `corrector` a predictor–corrector (UniPC: W. Zhao et al., 2023,
    arXiv:2302.04867, the same from order 3 on; below it rounds the coefficients). Order 1 with either limit is DDIM.

    The start is true to the order: early steps go again from the first state with all evaluations made so far, so the
    error of the first, first-order step is not carried on. Order 4 repairs its second evaluation, at the price of one more.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        Order of the method, 1 to 4.
    reference
        The law whose flow is exact; by default the data's own moments. On processes that are not scalar it is a point mass where
        these are not known, or would take matrices over more than 32 numbers.
    clock
        The variable of the interpolating polynomials: `angle`, `share`, `log_ratio`, or a function of the angle.
    corrector
        Correct every state with the evaluation made there: one order more for the same evaluations.

    Raises
    ------
    ValueError
        If `order` is not 1, 2, 3 or 4; in a run, if a step starts at ``alpha = 0`` with the reference `Unbounded`, or
        the reference is `Matched` and the model does not know its data's moments, or it takes too large matrices.
    TypeError
        In a run, if the process is not linear.
    """

    eta: float = 0.0  # the noise level of the reversed process

    @check_arguments
    def __init__(
        self,
        steps: int = 20,
        grid: Grid | None = None,
        order: int = 3,
        reference: Reference | None = None,
        clock: Clock = angle,
        corrector: bool = False,
    ) -> None:
        super().__init__(steps, grid)
        if order not in (1, 2, 3, 4):
            raise ValueError(f"order = {order}; multistep methods have order 1, 2, 3 or 4.")
        self.order, self.reference, self.clock, self.corrector = order, reference, clock, corrector
        self.convergence_order = order + 1 if corrector else order

    def pieces(self, model: ScoreModel) -> Pieces:
        """Return the coefficients' formula for a model."""
        return plan_pieces(require_linear(self, model.sde), model, self.reference, self.clock, self.eta)

    def plan(self, model: ScoreModel, times: Tensor) -> list[MultistepStep]:
        """Plan the weights of every step, corrections merged into them."""
        return merge_updates(self.updates(model, times))

    def updates(self, model: ScoreModel, times: Tensor) -> list[MultistepStep]:
        """Plan the weights of every update and every correction, each by itself."""
        pieces, p, n = self.pieces(model), self.order, len(times) - 1
        nodes = pieces.nodes(model, times[:-1])
        seen = [range(k, max(k - p, -1), -1) for k in range(n)]
        restarts = [0 < k < p - 1 for k in range(n)]
        starts = [0 if restart else k for k, restart in enumerate(restarts)]
        asked = [Asked(starts[k], k + 1, seen[k]) for k in range(n)]
        if self.corrector:
            asked += [Asked(starts[k], k + 1, [k + 1, *seen[k]]) for k in range(n - 1)]
        if p == 4 and n > 2:
            asked.append(Asked(0, 1, seen[2]))
        moves = pieces.moves(model, times, asked)
        corrections = [None, *moves[n : 2 * n - 1]][:n] if self.corrector else [None] * n
        repairs = [(moves[-1], nodes[1]) if p == 4 and k == 2 else None for k in range(n)]
        spreads = pieces.spreads(times) if self.eta else [None] * n
        again = [*restarts[1:], False][:n]
        each = zip(nodes, moves[:n], restarts, again, corrections, repairs, spreads, strict=True)
        return [MultistepStep(pieces, *c) for c in each]

    def step(
        self, model: ScoreModel, x: Tensor, c: MultistepStep, noise: Noise, state: MultistepMemory | None
    ) -> tuple[Tensor, MultistepMemory]:
        """Evaluate the model once, apply the formula, and add noise where there is any."""
        y = c.pieces.enter(x)
        q = c.pieces.evaluate(model, x, y, c.node)
        first, history, bare = (y, [], None) if state is None else state
        history = [q, *history]
        if c.repair is not None:
            move, node = c.repair
            again = apply_move(move, first, history)
            history[1] = c.pieces.evaluate(model, c.pieces.leave(again, x), again, node)
        out = apply_move(c.move, first if c.restart else y, history)
        here = out
        if c.spread is not None:
            if c.restart and bare is not None:
                out = out + multiply(c.spread.carry, y - bare)
            out = add_multiple(out.clone() if c.again else out, c.spread.root, c.pieces.enter(noise(x)))
        return c.pieces.leave(out, x), MultistepMemory(first, history[: self.order], here if c.again else None)

    def step_noise(self, model: ScoreModel, x: Tensor, c: MultistepStep) -> StepNoise:
        """Return the law of the noise of a step; what is carried along of noise before is part of the mean."""
        root = require_noise(self, c.spread).root
        return StepNoise(Diagonal(root[None]) if isinstance(root, Tensor) else root, c.pieces.enter)
