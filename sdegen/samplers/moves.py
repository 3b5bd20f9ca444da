"""The moves of exponential integrators, which are updates of a state by past evaluations of the model: their coefficients, and
how these are applied.

A coefficient is an operator, or one number for every direction. `exponential` says how coefficients are found.
"""

from __future__ import annotations

__all__ = [
    "Asked",
    "Coefficient",
    "Evaluations",
    "Jump",
    "Move",
    "Moves",
    "Node",
    "FreshNoise",
    "add_multiple",
    "apply_move",
    "multiply",
]

from collections.abc import Callable, Sequence
from operator import add, sub
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..laws.operators import Operator, add_product

Coefficient = Operator | Tensor  # a map of the state, or one number for every direction
A = TypeVar("A", bound=Operator)


class Node(NamedTuple):
    """Coefficients of one model evaluation `q` at a state: a question to the model, and what makes `q` of its answer.

    Without further coefficients `q` is the answer; with them ``q = P answer + a x + b``, where `affine` is ``(P, a)``, maps or
    numbers for every direction, and `constant` is `b`.
    """

    question: Any
    affine: tuple[Any, Any] | None = None
    constant: Tensor | None = None


class Move(NamedTuple):
    """Coefficients of one update to the time `s`: ``x_s = carry x_t + shift + Σ_j weights[j] q_j``, newest evaluation first."""

    s: Tensor
    carry: Coefficient
    shift: Tensor | None
    weights: Sequence[Coefficient]


class Evaluations(NamedTuple, Generic[A]):
    """The model evaluations of a plan, one at each of `N` times.

    Attributes
    ----------
    nodes
        The coefficients of the evaluations, without constants.
    scales
        The factors on the weights of `Moves`, maps with a row for each evaluation; None for 1.
    constants
        The factors on the mean of the reference in the constants of evaluations, maps with a row for each; None for a mean of 0.
    """

    nodes: list[Node]
    scales: A | None
    constants: A | None


class Moves(NamedTuple, Generic[A]):
    """Coefficients of many updates, maps with a row for each: ``x_s = carry x_t + share m + Σ_j weights[j] q_j``, with the mean
    `m` of the reference.

    Attributes
    ----------
    s
        The times that the updates go to, ``(N,)``.
    carry, share
        The maps of state and mean; `share` is None for a mean of 0.
    weights
        The maps of evaluations, newest first; 0 for evaluations that an update does not take.
    corrections
        The weights of what corrections add to the states at `s`: first that of the evaluation there, then those of the earlier
        evaluations; empty if no corrections are asked for.
    seen
        The evaluations that each update takes.
    """

    s: Tensor
    carry: A
    share: A | None
    weights: list[A]
    corrections: list[A]
    seen: Sequence[Sequence[int]]

    def rows(self, own: slice) -> Moves[A]:
        """Return the updates in a slice."""
        share = None if self.share is None else self.share[own]
        weights, corrections = ([W[own] for W in maps] for maps in (self.weights, self.corrections))
        return Moves(self.s[own], self.carry[own], share, weights, corrections, self.seen[own])

    def corrected(self) -> list[A]:
        """Return the weights of updates that go to corrected states, first that of the evaluation at `s`."""
        newest, *added = self.corrections
        return [newest, *map(add, self.weights, added)]

    def multiplied(self, factors: Tensor, corrected: Tensor | None = None) -> Moves[A]:
        """Return the updates with their weights multiplied by `factors`, ``(N, evaluations)``, and the weights of updates to
        corrected states by the factors `corrected`.
        """
        weights = [W * f for W, f in zip(self.weights, factors.unbind(1), strict=False)]
        if corrected is None:
            return self._replace(weights=weights)
        newest, *whole = [W * f for W, f in zip(self.corrected(), corrected.unbind(1), strict=False)]
        return self._replace(weights=weights, corrections=[newest, *map(sub, whole, weights)])

    def of(self, evaluations: Evaluations[A], constants: bool = True) -> Moves[A]:
        """Return updates that take the values of nodes: weights include the scales of `evaluations`, and `share` their constants,
        unless these are left to the nodes.
        """
        share, weights = self.share, []
        for j, W in enumerate(self.weights):
            own = torch.tensor([seen[min(j, len(seen) - 1)] for seen in self.seen])
            if evaluations.scales is not None:
                W = W @ evaluations.scales[own]
            if constants and share is not None and evaluations.constants is not None:
                share = share + W @ evaluations.constants[own]
            weights.append(W)
        return self._replace(share=share, weights=weights)

    def each(self, split: Callable[[A], list[Any]], shifts: Sequence[Tensor | None]) -> list[Move]:
        """Split the updates into single ones, their maps by `split`, and return these."""
        each = zip(self.s.unbind(), shifts, self.seen, split(self.carry), *map(split, self.weights), strict=True)
        return [Move(s, carry, shift, own[: len(seen)]) for s, shift, seen, carry, *own in each]


class FreshNoise(NamedTuple):
    """Coefficients of the noise in a state after a step, ``e_s = carry e_t + root z``: earlier noise is carried along."""

    carry: Coefficient
    root: Coefficient


class Jump(NamedTuple):
    """Coefficients of updates ``y_s = carry y_t + shift + weight v``, with the velocity `v` that a model gives for the whole way.

    There is a row for each update, from a time to a time of its own.
    """

    carry: Coefficient
    shift: Tensor | None
    weight: Coefficient


class Asked(NamedTuple):
    """A request for the coefficients of an update from time `t` to `s` by the evaluations at `seen`, newest first; all three are
    indices of times. If it is `corrected`, the coefficients of what an evaluation at `s` adds are wanted too.
    """

    t: int
    s: int
    seen: Sequence[int]
    corrected: bool = False


def multiply(c: Coefficient, x: Tensor, constant: Tensor | None = None) -> Tensor:
    """Apply a coefficient to `x`, add a constant for every direction, and return the sum."""
    if not isinstance(c, Tensor):
        return c(x) if constant is None else c.beside(constant, x)
    return x * c.to(x) if constant is None else torch.addcmul(constant.to(x), c.to(x), x)


def add_multiple(y: Tensor, c: Coefficient, x: Tensor) -> Tensor:
    """Add ``c x``, for a coefficient `c`, to `y` in place, and return the sum."""
    return add_product(y, c.to(x), x) if isinstance(c, Tensor) else c.onto(y, x)


def apply_move(move: Move, x: Tensor, history: Sequence[Tensor]) -> Tensor:
    """Apply an update to a state and its past evaluations, and return the new state."""
    carry, y = move.carry, multiply(move.carry, x, move.shift)
    # The weights have the dtype and device of `carry`.
    at_hand = isinstance(carry, Tensor) and carry.dtype == y.dtype and carry.device == y.device
    for weight, q in zip(move.weights, history, strict=False):
        y = y.addcmul_(q, weight) if at_hand and isinstance(weight, Tensor) else add_multiple(y, weight, q)
    return y
