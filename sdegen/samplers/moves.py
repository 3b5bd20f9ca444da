"""The moves of exponential integrators, updates of a state by past evaluations of the model: their coefficients, and how these
are applied.

A coefficient is an operator, or one number for every direction. How they are found: `exponential`.
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
    """Coefficients of one model evaluation at a state: a question, of which `q` is the answer, or ``q = P answer + a x + b`` with
    the `affine` ``(P, a)``, maps or numbers for every direction, and the `constant` `b` of every direction.
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
        Their coefficients, without constants.
    scales
        What weights of `Moves` are multiplied by for each, maps with a row for each; None for 1.
    constants
        What the mean of the reference is multiplied by in the constant of each; None for a mean of 0.
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
        The times they go to, ``(N,)``.
    carry, share
        The maps of state and mean; None for a mean of 0.
    weights
        The maps of evaluations, newest first; 0 for those that an update goes without.
    corrections
        The weights of what corrections add to the states at `s`: of the evaluation there, and of these; empty where none are
        asked for.
    seen
        Which evaluations each update takes.
    """

    s: Tensor
    carry: A
    share: A | None
    weights: list[A]
    corrections: list[A]
    seen: Sequence[Sequence[int]]

    def rows(self, own: slice) -> Moves[A]:
        """Return some of the updates."""
        share = None if self.share is None else self.share[own]
        weights, corrections = ([W[own] for W in maps] for maps in (self.weights, self.corrections))
        return Moves(self.s[own], self.carry[own], share, weights, corrections, self.seen[own])

    def corrected(self) -> list[A]:
        """Return the weights of updates to corrected states, of the evaluation at `s` first."""
        newest, *added = self.corrections
        return [newest, *map(add, self.weights, added)]

    def multiplied(self, factors: Tensor, corrected: Tensor | None = None) -> Moves[A]:
        """Return the updates with their weights multiplied, each by a row of factors ``(N, evaluations)``, and those to corrected
        states by others.
        """
        weights = [W * f for W, f in zip(self.weights, factors.unbind(1), strict=False)]
        if corrected is None:
            return self._replace(weights=weights)
        newest, *whole = [W * f for W, f in zip(self.corrected(), corrected.unbind(1), strict=False)]
        return self._replace(weights=weights, corrections=[newest, *map(sub, whole, weights)])

    def of(self, evaluations: Evaluations[A], constants: bool = True) -> Moves[A]:
        """Return the updates from what nodes say: weights times scales, constants in the share of the mean or left to nodes."""
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
        """Split the updates, their maps by `split`, and return them."""
        each = zip(self.s.unbind(), shifts, self.seen, split(self.carry), *map(split, self.weights), strict=True)
        return [Move(s, carry, shift, own[: len(seen)]) for s, shift, seen, carry, *own in each]


class FreshNoise(NamedTuple):
    """Coefficients of the noise in a state after a step: that from before is carried along, ``e_s = carry e_t + root z``."""

    carry: Coefficient
    root: Coefficient


class Jump(NamedTuple):
    """Coefficients of updates each from a time and to a time of its own, with a row for each: ``y_s = carry y_t + shift + weight
    v``, with the velocity `v` that a model gives for the whole way.
    """

    carry: Coefficient
    shift: Tensor | None
    weight: Coefficient


class Asked(NamedTuple):
    """A request for the coefficients of an update from time `t` to `s`, from evaluations at `seen`, newest first; all are
    indices of times. Where it is `corrected`, so are those of what an evaluation at `s` adds.
    """

    t: int
    s: int
    seen: Sequence[int]
    corrected: bool = False


def multiply(c: Coefficient, x: Tensor, constant: Tensor | None = None) -> Tensor:
    """Apply a coefficient, an operator or one number for every direction, to `x`, and add a constant of every direction."""
    if not isinstance(c, Tensor):
        return c(x) if constant is None else c.beside(constant, x)
    return x * c.to(x) if constant is None else torch.addcmul(constant.to(x), c.to(x), x)


def add_multiple(y: Tensor, c: Coefficient, x: Tensor) -> Tensor:
    """Add ``c x`` to `y`, in the memory of `y`, for a coefficient as of `multiply`, and return the sum."""
    return add_product(y, c.to(x), x) if isinstance(c, Tensor) else c.onto(y, x)


def apply_move(move: Move, x: Tensor, history: Sequence[Tensor]) -> Tensor:
    """Apply an update to a state and its past evaluations, and return the new state."""
    carry, y = move.carry, multiply(move.carry, x, move.shift)
    # As its numbers are, so are those of the weights.
    at_hand = isinstance(carry, Tensor) and carry.dtype == y.dtype and carry.device == y.device
    for weight, q in zip(move.weights, history, strict=False):
        y = y.addcmul_(q, weight) if at_hand and isinstance(weight, Tensor) else add_multiple(y, weight, q)
    return y
