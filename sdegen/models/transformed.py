"""A score model in the coordinates of a `Transformed` process, in which no sampler leaves the domain of its data."""

from __future__ import annotations

__all__ = ["TransformedModel", "in_free_coordinates", "law_in", "states_in", "states_out"]

from typing import Any

from torch import Tensor

from ..arguments import check_arguments
from ..laws.coordinates import Coordinates
from ..processes.base import SDE
from ..processes.transformed import Transformed, TransformedLaw, score_in
from .score import ScoreModel
from .wrapper import Wrapper


class TransformedModel(Wrapper):
    """The score model of coordinates ``u = phi(x)``, given a score model of `x`: ``(∂x/∂u)ᵀ score(x) − ∇_u log |∂u/∂x|``.

    Parameters
    ----------
    model
        A score model of a process whose states are the data.
    coordinates
        The map ``phi``.
    """

    @check_arguments
    def __init__(self, model: ScoreModel, coordinates: Coordinates) -> None:
        super().__init__(model)
        self.coordinates = coordinates
        self._sde = Transformed(model.sde, coordinates)

    @property
    def sde(self) -> SDE:
        """The process of the coordinates."""
        return self._sde

    @sde.setter
    def sde(self, sde: SDE) -> None:
        """Refuse another process.

        Raises
        ------
        AttributeError
            Always.
        """
        raise AttributeError(
            "the process of a model in other coordinates follows from that of the model inside; set that one."
        )

    def score(self, u: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``∇_u log p_t(u)``."""
        return score_in(self.coordinates, u, lambda x: self.model.score(x, t, **cond))


def in_free_coordinates(model: ScoreModel) -> ScoreModel:
    """Return a model in coordinates in which its states have no bounds; the model itself if they have none."""
    free = model.sde.free
    return model if free is None or model.sde.coordinates is not None else TransformedModel(model, free)


def states_in(model: ScoreModel, x: Tensor, name: str = "x") -> Tensor:
    """Return states of the original process as states of a model that `in_free_coordinates` returned.

    Parameters
    ----------
    model
        A model that `in_free_coordinates` returned.
    x
        States ``(B, *)``.
    name
        The name of the states in an error.

    Raises
    ------
    ValueError
        If some lie outside of the domain.
    """
    return model.coordinates(model.coordinates.check(x, name)) if isinstance(model, TransformedModel) else x


def states_out(model: ScoreModel, u: Tensor) -> Tensor:
    """Return states of a model that `in_free_coordinates` returned as states of the original process; inverse of `states_in`."""
    return model.coordinates.inverse(u) if isinstance(model, TransformedModel) else u


def law_in(model: ScoreModel, law: Any) -> Any:
    """Return a law of states of the original process as one of states of a model that `in_free_coordinates` returned."""
    return TransformedLaw(law, model.coordinates) if isinstance(model, TransformedModel) else law
