"""Exponential multistep methods for the probability flow, with and without a corrector: one evaluation a step."""

from __future__ import annotations

__all__ = ["Multistep", "MultistepMemory", "MultistepStep", "Updates"]

from collections.abc import Sequence
from operator import add
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.diagonal import Diagonal
from ..models.score import ScoreModel
from ..processes.grids import Grid
from .base import Noise, Sampler, require_linear, require_noise
from .clocks import Clock, angle
from .exponential import Pieces, plan_pieces
from .moves import Asked, Evaluations, FreshNoise, Move, Moves, Node, add_multiple, apply_move, multiply
from .references import Reference
from .step_noise import StepNoise


class MultistepStep(NamedTuple):
    """Coefficients of a step of a multistep method.

    Attributes
    ----------
    pieces
        The object that changes between states and the coordinates in which coefficients act.
    node, move
        The evaluation, and the update by it and earlier ones.
    restart, again
        Whether the update begins at the first state, and whether that of the next step does.
    correct
        The update that corrects the state with its own evaluation; None if there is none, or it is merged (`Updates.merged`).
    repair
        An update to the second state that takes later evaluations too, and the evaluation that is repeated there; None for none.
    fresh
        The noise that is added; None for none.
    """

    pieces: Pieces
    node: Node
    move: Move
    restart: bool
    again: bool
    correct: Move | None
    repair: tuple[Move, Node] | None
    fresh: FreshNoise | None


class MultistepMemory(NamedTuple):
    """The memory of a multistep method.

    Attributes
    ----------
    first
        The first state.
    history
        Past evaluations, newest first.
    bare
        While updates begin at the first state, where the last of them ended without noise: the present state differs from it by
        the noise since the first. None afterwards.
    """

    first: Tensor
    history: list[Tensor]
    bare: Tensor | None


class Updates(NamedTuple):
    """Coefficients of all steps of a multistep method at once, before they are split.

    Attributes
    ----------
    evaluations
        The model evaluation of every step.
    moves
        The update of every step, and until they are `merged` what corrections add to the states at the ends of the updates.
    repair
        The update to the state at which the second evaluation is repeated, in the third step; None for none.
    restarts
        Whether the update of a step begins at the first state.
    fresh
        The noise that every step adds; None for none.
    """

    pieces: Pieces
    evaluations: Evaluations[Any]
    moves: Moves[Any]
    repair: Moves[Any] | None
    restarts: list[bool]
    fresh: Sequence[FreshNoise | None]

    def merged(self) -> Updates:
        """Return updates into which the corrections of states, and the constants of evaluations, are merged.

        The model is never evaluated at a corrected state; the next update only begins there, and carries along what the
        correction adds. So a correction costs one weight more in that update.
        """
        moves = self._corrected() if self.moves.corrections else self.moves
        repair = None if self.repair is None else self.repair.of(self.evaluations)
        evaluations = self.evaluations._replace(scales=None, constants=None)
        return self._replace(evaluations=evaluations, moves=moves.of(self.evaluations), repair=repair)

    def _corrected(self) -> Moves[Any]:
        """Return the updates from corrected states; updates from the first state stay as they are."""
        moves, n = self.moves, len(self.restarts)
        last = torch.arange(-1, n - 1).clamp_min(0)
        after = moves.carry * torch.tensor([float(k > 0 and not restart) for k, restart in enumerate(self.restarts)])
        added = [after @ A[last] for A in moves.corrections]
        weights = [*map(add, moves.weights, added), *added[len(moves.weights) :]]
        seen = [range(k, max(k - len(weights), -1), -1) for k in range(n)]
        return moves._replace(weights=weights, corrections=[], seen=seen)

    def steps(self) -> list[MultistepStep]:
        """Split the coefficients, and return those of each step."""
        n, split, evaluations = len(self.restarts), self.pieces.split_moves, self.evaluations
        constants = self.pieces.shifts(evaluations.constants, n)
        nodes = [v._replace(constant=b) for v, b in zip(evaluations.nodes, constants, strict=True)]
        moves = self.moves.of(evaluations, constants=False)
        corrections: list[Move | None] = [None] * n
        if self.moves.corrections:
            corrections[1:] = split(self._to_corrected().of(evaluations, constants=False))
        repairs: list[tuple[Move, Node] | None] = [None] * n
        if self.repair is not None:
            repairs[2] = split(self.repair.of(evaluations, constants=False))[0], nodes[1]
        again = [*self.restarts[1:], False][:n]
        each = zip(nodes, split(moves), self.restarts, again, corrections, repairs, self.fresh, strict=True)
        return [MultistepStep(self.pieces, *c) for c in each]

    def _to_corrected(self) -> Moves[Any]:
        """Return the updates to corrected states, each from the state where the step before began."""
        moves = self.moves.rows(slice(len(self.restarts) - 1))
        seen = [(k + 1, *own) for k, own in enumerate(moves.seen)]
        return moves._replace(weights=moves.corrected(), corrections=[], seen=seen)


class Multistep(Sampler[MultistepStep, MultistepMemory]):
    """Exponential Adams (multistep) methods of order 1 to 4, such as DPM-Solver++ and UniPC: one evaluation a step.

    The reference `PointMass()` gives data prediction (DPM-Solver++: C. Lu et al., 2022, arXiv:2211.01095, with exact integrals of
    the polynomials, diffusers' solver type "heun"), and `Unbounded()` noise prediction (DEIS: Q. Zhang and Y. Chen, 2022,
    arXiv:2204.13902). With `corrector` it is a predictor–corrector (UniPC: W. Zhao et al., 2023, arXiv:2302.04867, the same from
    order 3 on; below it rounds the coefficients). Order 1 with either reference is DDIM.

    The start keeps the order: early steps go again from the first state with all evaluations made so far, so that the error of
    the first step, of order 1, is not carried on. Order 4 repeats its second evaluation, at the price of one more.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        Order of the method, 1 to 4.
    reference
        The law whose flow is exact; by default the Gaussian of the data's moments. On processes that are not scalar it is a point
        mass if these are not known, or would take matrices over more than 32 numbers.
    clock
        The variable of the interpolating polynomials: `angle`, `share`, `log_ratio`, or a function of the angle.
    corrector
        Whether to correct every state with the evaluation made there, for one order more with the same evaluations.

    Raises
    ------
    ValueError
        If `order` is not 1, 2, 3 or 4; in a run, if a step starts at ``alpha = 0`` with the reference `Unbounded`, or if with the
        reference `Matched` the moments of the data are not known or the matrices would be too large.
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
        """Return the object that forms the coefficients for a model."""
        return plan_pieces(require_linear(self, model.sde), model, self.reference, self.clock, self.eta)

    def plan(self, model: ScoreModel, times: Tensor) -> list[MultistepStep]:
        """Plan the weights of every step, corrections merged into them."""
        return self.updates(model, times).merged().steps()

    def updates(self, model: ScoreModel, times: Tensor) -> Updates:
        """Plan the weights of every update and every correction, each by itself."""
        pieces, p, n = self.pieces(model), self.order, len(times) - 1
        seen = [range(k, max(k - p, -1), -1) for k in range(n)]
        restarts = [0 < k < p - 1 for k in range(n)]
        starts = [0 if restart else k for k, restart in enumerate(restarts)]
        asked = [Asked(starts[k], k + 1, seen[k], self.corrector and k < n - 1) for k in range(n)]
        if repairs := p == 4 and n > 2:
            asked.append(Asked(0, 1, seen[2]))
        moves = pieces.moves(times, asked)
        return Updates(
            pieces,
            pieces.evaluations(model, times[:-1]),
            moves.rows(slice(n)),
            moves.rows(slice(n, None)) if repairs else None,
            restarts,
            pieces.fresh_noise(times) if self.eta else [None] * n,
        )

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
        if c.fresh is not None:
            if c.restart and bare is not None:
                out = out + multiply(c.fresh.carry, y - bare)
            out = add_multiple(out.clone() if c.again else out, c.fresh.root, c.pieces.enter(noise(x)))
        return c.pieces.leave(out, x), MultistepMemory(first, history[: self.order], here if c.again else None)

    def step_noise(self, model: ScoreModel, x: Tensor, c: MultistepStep) -> StepNoise:
        """Return the law of the noise of a step; earlier noise that is carried along is part of the mean."""
        root = require_noise(self, c.fresh).root
        return StepNoise(Diagonal(root[None]) if isinstance(root, Tensor) else root, c.pieces.enter)
