"""Questions to a score model, prepared before a run and answered in its steps."""

from __future__ import annotations

__all__ = ["Question", "gather"]

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..laws.operators import Operator
from ..show import show_call, show_value


class Question(NamedTuple):
    """A linear combination of a state and a model's predictions at one time, ``X x + Σ W reading(x, t)``, which
    `ScoreModel.answer` evaluates.

    Attributes
    ----------
    t
        The time, of shape ``()``.
    x
        `X`, the operator on the state; None for none.
    readings
        The operators `W` on the readings, by the names of the model's methods.
    """

    t: Tensor
    x: Operator | None
    readings: dict[str, Operator]

    def __repr__(self) -> str:
        return show_call(self)


def gather(questions: Sequence[Any], n: int) -> Any:
    """Join questions of different times, of `n` states each, to a single question for all these states, and return it.

    Each operator and number then has a row for each state; an operator that some of the questions lack is 0 for these.

    Parameters
    ----------
    questions
        Questions that `ScoreModel.ask` made: tuples and dicts of operators, times, and values that are the same in all.
    n
        The number of states of each question.

    Raises
    ------
    TypeError
        If the questions hold anything else.
    """
    first = next((part for part in questions if part is not None), None)
    if isinstance(first, Operator):
        return first.blocks([first * 0.0 if part is None else part for part in questions], n)
    if isinstance(first, Tensor) and first.numel() == 1:
        return torch.cat([part.reshape(1) for part in questions]).repeat_interleave(n)
    if isinstance(first, bool):  # true of all states only if it is of those of each question
        return all(questions)
    if isinstance(first, dict):
        return {name: gather([part[name] for part in questions], n) for name in first}
    if isinstance(first, tuple):
        parts = [gather(alike, n) for alike in zip(*questions, strict=True)]
        return first._make(parts) if hasattr(first, "_make") else tuple(parts)
    if any(part != first for part in questions):
        raise TypeError(
            f"questions hold {show_value(first)} and other such things, which have no rows; let ask put all that differs between "
            "times into operators and numbers."
        )
    return first
