"""Densities of noised states: the protocol of score models that know them, and `ask_log_density`, which asks a model for one."""

from __future__ import annotations

__all__ = ["KnowsDensity", "UnknownDensity", "ask_log_density"]

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..answers import check_answer
from .score import ScoreModel


@runtime_checkable
class KnowsDensity(Protocol):
    """A score model that knows the density of which it has the score: it has a method ``log_density(x, t, /, **cond)``."""

    def log_density(self, x: Tensor, t: float, /, **cond: Any) -> Tensor:
        """Return ``log p_t(x)`` of states at one time, in the units of the process, ``(B,)`` float64."""


class UnknownDensity(TypeError):
    """A score model does not know the density of which it has the score."""


def ask_log_density(model: ScoreModel, x: Tensor, t: float, /, **cond: Any) -> Tensor:
    """Return ``log p_t(x)`` of states at one time, as a score model knows it, ``(B,)`` float64.

    Parameters
    ----------
    model
        A score model that knows its density: `Exact`, `ExactConditional`, wrappers that fix their conditions, and mixtures.
    x, t
        States ``(B, *)``, and a time.
    cond
        Conditions of the model.

    Raises
    ------
    UnknownDensity
        If the model does not know the density, a `TypeError`.
    """
    if not isinstance(model, KnowsDensity):
        raise UnknownDensity(
            f"{type(model).__name__} knows a score and no density; give models with a method log_density, such as Exact."
        )
    found = model.log_density(x, t, **cond)
    return check_answer(f"{type(model).__name__}.log_density", found, x.shape[:1], found).double()
