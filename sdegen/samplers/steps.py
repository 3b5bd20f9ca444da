"""The steps of a plan in turn (`take_steps`): what a run, a fit of a solver and rounds of guesses have in common."""

from __future__ import annotations

__all__ = ["take_steps"]

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ..answers import check_answer, check_pair
from ..models.score import ScoreModel
from .base import Noise, Sampler


def take_steps(
    sampler: Sampler, plan: list[Any], model: ScoreModel, x: Tensor, noise: Noise, state: Any = None
) -> Iterator[tuple[Tensor, Any]]:
    """Take the steps of a plan, and yield after each the states and what the sampler remembers there.

    Parameters
    ----------
    sampler, plan
        A sampler, and its plan for the model.
    model
        A score model.
    x, state
        The states to begin from, ``(B, *)``, and what is remembered there.
    noise
        Gives the steps their noise.
    """
    shape, who, enter = x.shape, f"{type(sampler).__name__}.step", model.sde.enter

    def checked(like: Tensor) -> Tensor:
        return check_answer("noise", noise(like), like.shape, like)

    for c in plan:
        moved = sampler.step(model, x, c, checked, state)
        after, state = check_pair(who, moved, "the states and what is remembered")
        x = enter(check_answer(who, after, shape, x))
        yield x, state
