"""The loop over the steps of a plan (`take_steps`), which runs, fits of solvers and rounds of guesses share; with it all states
of a run (`run_plan`), or its end (`arrive`).
"""

from __future__ import annotations

__all__ = ["arrive", "run_plan", "take_steps"]

from collections.abc import Callable, Iterator
from typing import Any

import torch
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
        The states to begin from, ``(B, *)``, and what the sampler remembers there.
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


def run_plan(
    sampler: Sampler, plan: list[Any], model: ScoreModel, x: Tensor, noise: Noise = torch.zeros_like, state: Any = None
) -> list[tuple[Tensor, Any]]:
    """Take all steps of a plan, and return the states before the first and after each, with what the sampler remembers there.

    Parameters
    ----------
    sampler, plan, model, x, noise, state
        As for `take_steps`; without noise by default.
    """
    return [(x, state), *take_steps(sampler, plan, model, x, noise, state)]


def arrive(
    model: ScoreModel, sampler: Sampler, x: Tensor, denoise: bool, noise: Callable[[Tensor], Noise] | None = None
) -> Tensor:
    """Return the states at the last of a sampler's times, or the posterior mean there, for states at the first.

    Parameters
    ----------
    model, sampler
        A score model and a sampler.
    x
        The states, ``(B, *)``.
    denoise
        Whether to take the posterior mean.
    noise
        Makes the noise of a run that stops at the given times; none by default.
    """
    times = sampler.times(model.sde, denoise)
    drawn = torch.zeros_like if noise is None else noise(times)
    for state, _ in take_steps(sampler, sampler.plan(model, times), model, x, drawn):
        x = state
    return model.denoise(x, times[-1]) if denoise else x
