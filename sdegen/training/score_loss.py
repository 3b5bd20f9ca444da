"""The interface of losses of a score model, `ScoreLoss`."""

from __future__ import annotations

__all__ = ["ScoreLoss"]

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from ..models.score import ScoreModel
from ..show import show_call


class ScoreLoss(ABC):
    """The base class of losses of a score model, each called as ``loss(model, x_0, generator=None, **cond)``.

    The model is asked under all conditions of the data, or under conditions of the same names that the loss makes, so that `fit`
    can refuse conditions that the model does not take.

    Attributes
    ----------
    of_data
        Whether the model learns the law of the data. If it learns another law, only the moments of the data are used.
    """

    of_data: bool = True

    __repr__ = show_call

    def conditions(self, cond: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the conditions under which the network is asked, given those of the data; by default the same."""
        return cond

    def begin(self) -> Self:
        """Return the loss that one training asks at all its steps: a copy with a memory of its own, if it keeps anything between
        steps; by default the loss itself.
        """
        return self

    def state(self) -> dict[str, Tensor]:
        """Return what is kept from step to step, as tensors by name, for checkpoints; by default nothing."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` returned.

        Raises
        ------
        ValueError
            If these are no tensors that `state` returns; by default, if there are any.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps nothing, and was given {', '.join(sorted(state))}")

    @abstractmethod
    def __call__(
        self, model: ScoreModel, x_0: Tensor, /, generator: torch.Generator | None = None, **cond: Any
    ) -> Tensor:
        """Return the loss of each datum, ``(B,)``."""
