"""The first fit of a solver: every update by itself, by least squares, on the states that the solver has reached so far."""

from __future__ import annotations

__all__ = ["Student", "robust_least_squares"]

from collections.abc import Sequence

import torch
from torch import Tensor

from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from ..processes.grids import Given
from .base import Noise
from .clocks import share
from .moves import Move, apply_move, multiply
from .multistep import Multistep, MultistepMemory, MultistepStep
from .references import Reference
from .robust import normal_equations

RIDGE = 1e-3  # of the features' own size: factors that the paths do not determine stay near 1


class Student(Multistep):
    """A multistep sampler that, at each update, fits the factors on its weights to a teacher's trajectory.

    Parameters
    ----------
    stops, order, reference
        As for `Fitted`.
    teacher
        The teacher's states, by their times, in the coordinates in which coefficients act.

    Attributes
    ----------
    found
        The factors of every update so far, ``(order + 1,)`` each.
    base
        The states from which the last update began; the correction of its end begins there too.
    """

    def __init__(self, stops: Tensor, order: int, reference: Reference, teacher: dict[float, Tensor]) -> None:
        super().__init__(max(1, len(stops) - 1), Given(stops), order, reference, share, corrector=True)
        self.teacher, self.base = teacher, torch.empty(0)
        self.found: list[Tensor] = []

    def step(
        self, model: ScoreModel, x: Tensor, c: MultistepStep, noise: Noise, state: MultistepMemory | None
    ) -> tuple[Tensor, MultistepMemory]:
        """Evaluate the model, correct the state, and go on from there."""
        y = c.pieces.enter(x)
        first, history, _ = (y, [], None) if state is None else state
        history = [c.pieces.evaluate(model, x, y, c.node), *history]
        y = y if c.correct is None else self.advance(c.correct, self.base, history)
        self.base = first if c.restart else y
        out = self.advance(c.move, self.base, history)
        return c.pieces.leave(out, x), MultistepMemory(first, history[: self.order], None)

    def advance(self, move: Move, y: Tensor, history: Sequence[Tensor]) -> Tensor:
        """Apply the update with the factors that bring it nearest to the teacher, and return the new state."""
        used = history[: len(move.weights)]
        features = torch.stack([as_vectors(multiply(w, q)) for w, q in zip(move.weights, used, strict=True)], -1)
        target = as_vectors(self.teacher[move.s.item()] - apply_move(move, y, used))
        factors = 1 + robust_least_squares(features, target)
        self.found.append(torch.nn.functional.pad(factors, (0, self.order + 1 - len(factors)), value=1.0))
        weights = [w * f for w, f in zip(move.weights, factors, strict=True)]
        return apply_move(move._replace(weights=weights), y, used)


def robust_least_squares(features: Tensor, target: Tensor) -> Tensor:
    """Return a small ``theta`` with ``features theta ≈ target``, by least squares in which rows with large errors weigh less."""
    features, target = features.double(), target.double()
    theta = features.new_zeros(features.shape[-1])
    for _ in range(4):
        size = (target - features @ theta).norm(dim=1)
        w = 1 / size.maximum(size.median()).clamp_min(1e-300)
        gram, right = normal_equations(w, features, target)
        theta = torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram), right)
    return theta.cpu()
