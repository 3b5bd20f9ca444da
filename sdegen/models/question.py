"""Questions to a score model, prepared before a run and answered in its steps."""

from __future__ import annotations

__all__ = ["Question"]

from typing import NamedTuple

from torch import Tensor

from ..laws.operators import Operator
from ..show import show_call


class Question(NamedTuple):
    """A linear combination of a state and a model's predictions at one time, ``X x + Σ W reading(x, t)``, which
    `ScoreModel.answer` evaluates.

    Attributes
    ----------
    t
        The time.
    x
        `X`, or None.
    readings
        The other operators by the names of the model's methods.
    """

    t: Tensor
    x: Operator | None
    readings: dict[str, Operator]

    def __repr__(self) -> str:
        return show_call(self)
