"""Guidance rescale: guided models whose predicted clean data keep the standard deviation that they have without guidance."""

from __future__ import annotations

__all__ = ["Rescaled", "RescaledGuidance", "check_share", "contrast"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.operators import rows
from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from .base import CleanState, Guided
from .free import AgainstNull

ROUNDING = 8.0  # times the last digit of the largest number: data that differ by less are constant


class RescaledGuidance(CleanState, AgainstNull):
    """Classifier-free guidance with guidance rescale: clean data keep the standard deviation of the conditional prediction.

    ``x_0' = x_cfg (1 + rescale (std(x_cond) / std(x_cfg) − 1))``, with standard deviations over the numbers of each sample:
    guidance spreads these numbers, which over-exposes pictures. S. Lin, B. Liu, J. Li and X. Yang, *Common diffusion noise
    schedules and sample steps are flawed*, 2023, arXiv:2305.08891.

    The paper rescales the output of its network, a velocity. Here the clean data are rescaled, whatever the network's output: it
    is their contrast that should be kept, a velocity at small noise is nearly all noise, and samples then do not depend on how
    the network is parametrised. Where ``alpha = 0`` the velocity is minus the clean data, and the two agree. As in the paper the
    factor multiplies the mean of the sample too. It takes two evaluations of the network, and one outside the interval.

    Parameters
    ----------
    model, scale, null, interval, drop
        As for `ClassifierFree`, which this is for ``rescale = 0``.
    rescale
        The weight of the conditional model's standard deviation, in [0, 1]; the paper's choice is 0.7.

    Raises
    ------
    ValueError
        If the interval is out of order, the scale not finite or `rescale` not in [0, 1]; and for data of one number, which have
        no standard deviation.
    TypeError
        As for `ClassifierFree`.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        scale: float,
        rescale: float = 0.7,
        null: dict[str, Any] | None = None,
        interval: tuple[float, float] | None = None,
        drop: Sequence[str] | None = None,
    ) -> None:
        super().__init__(model, scale, null, interval, drop)
        self.rescale = check_share(rescale)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the rescaled clean state and its noise."""
        given, guided = self._estimates(x, t, cond)
        x_0, eps = guided.unbind(1)
        data = self.sde.extract(x_0)
        return self._restated(t, x_0, eps, data * contrast(self.sde.extract(given[:, 0]), data, self.rescale))


class Rescaled(CleanState):
    """Guidance rescale for any guidance: clean data keep the standard deviation predicted by the model inside.

    It is for guidance by a classifier, a measurement or a weaker model. It takes one more evaluation of the model inside, which
    `RescaledGuidance` does not need. S. Lin, B. Liu, J. Li, X. Yang, 2023, arXiv:2305.08891.

    Parameters
    ----------
    model
        A wrapper, such as ``ClassifierGuidance(model, classifier)``; its own model is the reference.
    rescale
        The weight of the reference's standard deviation, in [0, 1].

    Raises
    ------
    TypeError
        If the process is not linear, or there is no model inside.
    ValueError
        If `rescale` is not in [0, 1]; at a call, for data of one number.
    """

    model: Guided

    @check_arguments
    def __init__(self, model: ScoreModel, rescale: float = 0.7) -> None:
        if not isinstance(model, Guided):
            raise TypeError(
                f"{type(model).__name__} wraps no other model, whose contrast could be kept; give a guided one."
            )
        super().__init__(model)
        self.rescale = check_share(rescale)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the rescaled clean state and its noise."""
        x_0, eps = self.model.estimate(x, t, **cond)
        given, _ = self.model.model.estimate(x, t, **self.model.passed_on(**cond))
        data = self.sde.extract(x_0)
        return self._restated(t, x_0, eps, data * contrast(self.sde.extract(given), data, self.rescale))


def contrast(given: Tensor, data: Tensor, rescale: float) -> Tensor:
    """Return the factor ``1 + rescale (std(given) / std(data) − 1)`` for each sample; 1 if the data are constant, to rounding.

    Parameters
    ----------
    given, data
        Data with the wanted standard deviation, and data that are to get it, ``(B, *)`` each.
    rescale
        The weight of the wanted standard deviation.

    Raises
    ------
    ValueError
        For data of one number.
    """
    if data[:1].numel() < 2:
        raise ValueError(
            f"data of shape {tuple(data.shape)} have one number a sample, whose standard deviation is not defined; use "
            "ClassifierFree."
        )
    own, spread = as_vectors(given).std(1), as_vectors(data).std(1)
    rounding = ROUNDING * torch.finfo(data.dtype).eps * as_vectors(data).abs().amax(1)
    ratio = torch.where(spread > rounding, own / spread, 1.0)
    return rows(1 + rescale * (ratio - 1), data)


def check_share(rescale: float) -> float:
    """Return the weight of guidance rescale; raise a ValueError if it is not in [0, 1]."""
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale = {rescale}; give a weight in [0, 1], 0 for guidance as it is.")
    return rescale
