"""The moves of exponential integrators: their coefficients, and how these are applied to states.

A coefficient is an operator, or one number for every direction. How they are found: `exponential`.
"""

from __future__ import annotations

__all__ = [
    "Asked",
    "Coefficient",
    "Jump",
    "Move",
    "Node",
    "Spread",
    "add_after",
    "add_multiple",
    "apply_move",
    "multiply",
]

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..laws.operators import Operator, add_product

Coefficient = Operator | Tensor  # a map of the state, or one number for every direction


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

    def with_constants(self, constants: Sequence[Tensor | None]) -> Move:
        """Return the update from evaluations that go without their constants, newest first."""
        shift = self.shift
        for W, constant in zip(self.weights, constants, strict=False):
            if constant is not None:
                shift = multiply(W, constant, shift)
        return self._replace(shift=shift)


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


def add_after(c: Any, a: Coefficient, b: Any) -> Any:
    """Return the coefficient that does what `c` does and, on top, what `b` and then `a` do; without `c` what these two do."""
    if isinstance(a, Tensor):
        return a * b if c is None else torch.addcmul(c, a, b)
    return a @ b if c is None else c + a @ b


def add_multiple(y: Tensor, c: Coefficient, x: Tensor) -> Tensor:
    """Add ``c x`` to `y`, in the memory of `y`, for a coefficient as of `multiply`, and return the sum."""
    return add_product(y, c.to(x), x) if isinstance(c, Tensor) else c.onto(y, x)


def apply_move(move: Move, x: Tensor, history: Sequence[Tensor]) -> Tensor:
    """Apply an update to a state and its past evaluations, and return the new state."""
    y = multiply(move.carry, x, move.shift)
    for weight, q in zip(move.weights, history, strict=False):
        y = add_multiple(y, weight, q)
    return y
