"""The moves of exponential integrators: their coefficients, and how these are applied to states.

A coefficient is an operator, or one number for every direction. How they are found: `exponential`.
"""

from __future__ import annotations

__all__ = [
    "Asked",
    "Coefficient",
    "Jump",
    "Move",
    "Moves",
    "Node",
    "Spread",
    "add_multiple",
    "apply_move",
    "multiply",
]

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..laws.operators import Operator, add_product

Coefficient = Operator | Tensor  # a map of the state, or one number for every direction
A = TypeVar("A", bound=Operator)


class Node(NamedTuple):
    """Coefficients of one model evaluation, which turns a state into `q`: a question, and where this is not the answer ``q = P
    answer + a x + b`` with ``(P, a)``, numbers for every direction or maps, and a constant `b` of every direction.
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
    constants
        What the mean is multiplied by in the constant of each of these evaluations; none for a mean of 0.
    counts
        How many evaluations each update takes.
    """

    s: Tensor
    carry: A
    share: A | None
    weights: list[A]
    constants: list[A]
    counts: list[int]

    def rows(self, own: slice) -> Moves[A]:
        """Return some of the updates."""
        share = None if self.share is None else self.share[own]
        weights, constants = ([W[own] for W in maps] for maps in (self.weights, self.constants))
        return Moves(self.s[own], self.carry[own], share, weights, constants, self.counts[own])

    def multiplied(self, factors: Tensor) -> Moves[A]:
        """Return the updates with their weights multiplied, each by a row of factors ``(N, evaluations)``."""
        return self._replace(weights=[W * f for W, f in zip(self.weights, factors.unbind(1), strict=False)])

    def with_constants(self) -> Moves[A]:
        """Return the updates from evaluations that go without their constants."""
        share = self.share
        for W, b in zip(self.weights, self.constants, strict=False):
            share = share + W @ b
        return self._replace(share=share, constants=[])

    def each(self, split: Callable[[A], list[Any]], shifts: Sequence[Tensor | None]) -> list[Move]:
        """Split the updates, their maps by `split`, and return them."""
        each = zip(self.s.unbind(), shifts, self.counts, split(self.carry), *map(split, self.weights), strict=True)
        return [Move(s, carry, shift, own[:count]) for s, shift, count, carry, *own in each]


class Spread(NamedTuple):
    """Coefficients of the noise between two times: what was put in before is carried along, ``e_s = carry e_t + root z``."""

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
    indices of times.
    """

    t: int
    s: int
    seen: Sequence[int]


def multiply(c: Coefficient, x: Tensor, constant: Tensor | None = None) -> Tensor:
    """Apply a coefficient, an operator or one number for every direction, to `x`, and add a constant of every direction."""
    if not isinstance(c, Tensor):
        return c(x) if constant is None else c(x) + constant
    return x * c.to(x) if constant is None else torch.addcmul(constant.to(x), c.to(x), x)


def add_multiple(y: Tensor, c: Coefficient, x: Tensor) -> Tensor:
    """Add ``c x`` to `y`, in the memory of `y`, for a coefficient as of `multiply`, and return the sum."""
    return add_product(y, c.to(x), x) if isinstance(c, Tensor) else c.onto(y, x)


def apply_move(move: Move, x: Tensor, history: Sequence[Tensor]) -> Tensor:
    """Apply an update to a state and its past evaluations, and return the new state."""
    y = multiply(move.carry, x, move.shift)
    for weight, q in zip(move.weights, history, strict=False):
        y = add_multiple(y, weight, q)
    return y
