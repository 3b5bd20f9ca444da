"""Guidance without a classifier: one model with and without its condition."""

from __future__ import annotations

__all__ = [
    "AffineExtrapolation",
    "Autoguidance",
    "ClassifierFree",
    "Extrapolated",
    "Rescaled",
    "RescaledGuidance",
    "Without",
    "contrast",
]

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..laws.operators import Operator, Scale, rows
from ..models.score import ScoreModel
from ..models.wrapper import Conditioned
from ..processes.linear import as_linear
from .base import CleanState, Guided, checked, within


class Extrapolated(Guided):
    """A model pushed away from a weaker one: ``strong + (scale − 1) (strong − weak)``.

    A scale of 1 is the model, 0 the weaker one. Beyond 1 it is the score of no diffused law.

    Parameters
    ----------
    model, weak
        Score models of one process.
    scale
        A number.
    interval
        ``(first, last)``: times outside which the model is used alone, which costs one evaluation instead of two.
        T. Kynkäänniemi et al., *Applying guidance in a limited interval improves sample and distribution quality in diffusion
        models*, 2024, arXiv:2404.07724. Their levels ``sigma / alpha`` are times by ``sde.time(level**-2)``.

    Raises
    ------
    ValueError
        If the interval is out of order, or the scale not finite.
    """

    def __init__(
        self, model: ScoreModel, weak: ScoreModel, scale: float, interval: tuple[float, float] | None = None
    ) -> None:
        super().__init__(model)
        self.scale, self.interval = checked(scale, interval)
        self.weak = weak

    def _weight(self, t: Tensor | float) -> Tensor:
        """``scale − 1``, 0 outside the interval."""
        return within(self.interval, t) * (self.scale - 1)

    def _both(
        self,
        strong: Callable[..., Tensor],
        weak: Callable[..., Tensor],
        x: Tensor,
        t: Tensor | float,
        cond: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """The model's reading and the extrapolated one; the weaker model is asked only where it has a say."""
        weight, given = self._weight(t), strong(x, t, **cond)
        return given, given + Scale(weight)(given - weak(x, t, **cond)) if weight.any() else given

    def _estimates(self, x: Tensor, t: Tensor | float, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Clean state and noise of both, ``(B, 2, *)`` each."""
        return self._both(partial(_stacked, self.model), partial(_stacked, self.weak), x, t, cond)


def _stacked(model: ScoreModel, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
    return torch.stack(model.estimate(x, t, **cond), 1)


class Without(Conditioned):
    """A model with its conditions fixed, which passes over those that it is called with.

    Parameters
    ----------
    model
        A score model.
    cond
        The conditions it gets, by keyword; none for the model without condition.
    """

    def passed_on(self, **cond: Any) -> dict[str, Any]:
        """The conditions that are fixed."""
        return self.cond


class AffineExtrapolation(Extrapolated):
    """An extrapolation of every reading alike: they are affine in the velocity with the same state.

    Parameters
    ----------
    model, weak, scale, interval
        As for `Extrapolated`.
    """

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Both models' questions, and ``scale − 1`` at each of the times."""
        strong, weak, weight = self.model.ask(t, **weights), self.weak.ask(t, **weights), self._weight(t)
        scale = Scale(weight).prepared(self.like)
        return [(strong[i], weak[i], scale[i] if weight[i] else None) for i in range(len(t))]

    def answer(self, x: Tensor, question: Any, **cond: Any) -> Tensor:
        """The combined answer: what holds for readings holds for their sums with the same state."""
        strong, weak, weight = question
        given = self.model.answer(x, strong, **cond)
        return given if weight is None else given + weight(given - self.weak.answer(x, weak, **cond))

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The combined score."""
        return self._both(self.model.score, self.weak.score, x, t, cond)[1]

    def velocity(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The combined velocity."""
        return self._both(self.model.velocity, self.weak.velocity, x, t, cond)[1]

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The combined clean state and noise."""
        x_0, eps = self._estimates(x, t, cond)[1].unbind(1)
        return x_0, eps


class ClassifierFree(AffineExtrapolation):
    """Classifier-free guidance: ``v = v_null + scale (v_cond − v_null)``, and so for every other reading.

    J. Ho and T. Salimans, *Classifier-free diffusion guidance*, 2022, arXiv:2207.12598. A scale of 1 is the conditional
    model, 0 the unconditional one, more than 1 pushes away from it. With a *negative* condition for `null`, it pushes away
    from that: ``ClassifierFree(model, 2.0, null={"label": 3})``.

    Parameters
    ----------
    model
        A score model that was trained with and without its condition; the networks here know the null condition as
        the label −1, or as a condition left out.
    scale
        A number.
    null
        The null conditions, passed in place of those given; by default all are left out.
    interval
        As for `Extrapolated`.

    Raises
    ------
    ValueError
        If the interval is out of order, or the scale not finite.
    """

    def __init__(
        self,
        model: ScoreModel,
        scale: float,
        null: dict[str, Any] | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(model, Without(model, **(null or {})), scale, interval)
        self.null = null


class Autoguidance(AffineExtrapolation):
    """Away from a weaker model of the same data: ``strong + (scale − 1) (strong − weak)``.

    Where both err in the same direction, the weaker one more, the difference points to the data. No condition is needed, and
    variety is kept. T. Karras et al., *Guiding a diffusion model with a bad version of itself*, 2024, arXiv:2406.02507.

    Parameters
    ----------
    model, weak
        Score models of one process, such as the weights at the end of a training and early in it. Both get all conditions.
    scale, interval
        As for `Extrapolated`.

    Raises
    ------
    ValueError
        If the interval is out of order, the scale not finite, or the models have processes of different kinds.
    TypeError
        If a process is not linear.
    """

    def __init__(
        self, model: ScoreModel, weak: ScoreModel, scale: float, interval: tuple[float, float] | None = None
    ) -> None:
        super().__init__(model, weak, scale, interval)
        why = ": it cannot be told whether the models have one process."
        ours, theirs = (as_linear(m.sde, why).marginal(m.sde.T / 2) for m in (model, weak))
        if not torch.allclose(ours.r.matrix(), theirs.r.matrix()) or not torch.allclose(
            ours.Phi.matrix(), theirs.Phi.matrix()
        ):
            raise ValueError(
                f"the models have different processes, {type(model.sde).__name__} and {type(weak.sde).__name__}: "
                "their readings at one time are of different noise. Train the weaker one on the same."
            )


class RescaledGuidance(CleanState, Extrapolated):
    """Classifier-free guidance whose clean data keep the contrast of the conditional ones.

    ``x_0' = x_cfg (1 + rescale (std(x_cond) / std(x_cfg) − 1))``, with standard deviations over the numbers of each sample:
    guidance spreads them, which over-exposes pictures. S. Lin, B. Liu, J. Li and X. Yang, *Common diffusion noise schedules and
    sample steps are flawed*, 2023, arXiv:2305.08891.

    The paper rescales what its network returns, a velocity. Here it is the clean data, whatever the network returns: theirs is
    the contrast that is to be kept, a velocity at small noise is noise alone, and samples do not depend on how the network is
    parametrised. Where ``alpha = 0`` the velocity is minus the clean data, and the two agree. As in the paper the factor
    multiplies the mean of the sample too. Two evaluations of the network, one outside the interval.

    Parameters
    ----------
    model, scale, null, interval
        As for `ClassifierFree`, which this is for ``rescale = 0``.
    rescale
        In [0, 1]; 1 gives the conditional model's standard deviation, and the paper's choice is 0.7.

    Raises
    ------
    ValueError
        If the interval is out of order, the scale not finite or `rescale` not in [0, 1]; and for data of one number, which have
        no standard deviation.
    """

    def __init__(
        self,
        model: ScoreModel,
        scale: float,
        rescale: float = 0.7,
        null: dict[str, Any] | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(model, Without(model, **(null or {})), scale, interval)
        self.null = null
        self.rescale = _share(rescale)

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The rescaled clean state and its noise."""
        given, guided = self._estimates(x, t, cond)
        x_0, eps = guided.unbind(1)
        data = self.sde.project(x_0)
        return self._restated(t, x_0, eps, data * contrast(self.sde.project(given[:, 0]), data, self.rescale))


class Rescaled(CleanState):
    """Any guidance, its clean data rescaled to the contrast of those of the model inside it, as `RescaledGuidance` does.

    For guidance by a classifier, a measurement or a weaker model. The model inside is asked once more, where `RescaledGuidance`
    has its answer already. S. Lin, B. Liu, J. Li, X. Yang, 2023, arXiv:2305.08891.

    Parameters
    ----------
    model
        A wrapper, such as ``ClassifierGuidance(model, classifier)``; its own model is the reference.
    rescale
        In [0, 1]; 1 gives the reference's standard deviation.

    Raises
    ------
    TypeError
        If the process is not linear, or there is no model inside.
    ValueError
        If `rescale` is not in [0, 1]; at a call, for data of one number.
    """

    model: Guided

    def __init__(self, model: ScoreModel, rescale: float = 0.7) -> None:
        if not isinstance(model, Guided):
            raise TypeError(
                f"{type(model).__name__} wraps no other model, whose contrast could be kept; give a guided one."
            )
        super().__init__(model)
        self.rescale = _share(rescale)

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The rescaled clean state and its noise."""
        x_0, eps = self.model.estimate(x, t, **cond)
        given, _ = self.model.model.estimate(x, t, **self.model.passed_on(**cond))
        data = self.sde.project(x_0)
        return self._restated(t, x_0, eps, data * contrast(self.sde.project(given), data, self.rescale))


def contrast(given: Tensor, data: Tensor, rescale: float) -> Tensor:
    """``1 + rescale (std(given) / std(data) − 1)`` of each sample; 1 where the data have no spread to change.

    Parameters
    ----------
    given, data
        ``(B, *)`` with the wanted standard deviation, and what is to get it.
    rescale
        How much of it.

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
    own, spread = given.flatten(1).std(1), data.flatten(1).std(1)
    ratio = torch.where(spread > 0, own / spread, 1.0)
    return rows(1 + rescale * (ratio - 1), data)


def _share(rescale: float) -> float:
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale = {rescale}; give a weight in [0, 1], 0 for guidance as it is.")
    return rescale
