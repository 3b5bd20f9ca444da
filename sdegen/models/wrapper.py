"""Score models around other score models: `Wrapper`, which forwards all that it does not change, and `Conditioned`."""

from __future__ import annotations

__all__ = ["Conditioned", "ConditionedReversal", "WrappedReversal", "Wrapper"]

from typing import Any

from torch import Tensor, nn

from ..arguments import check_arguments
from ..laws.marginals import Marginal
from ..laws.mixtures import Moments
from ..laws.operators import Operator
from ..processes.base import SDE
from ..show import show_call
from .reversal import LearnedReversal, ReversedStep
from .score import ScoreModel


class Wrapper(nn.Module, ScoreModel):
    """The base class of score models that wrap another one of the same process, and change some of its predictions.

    A subclass says what it changes: `score`, on linear processes also `estimate`, and `passed_on` where the model inside
    is to have other conditions. The other readings, questions and their answers follow from these as for every `ScoreModel`.
    All else is that of the model inside and read from there at every use, so that it may be set before or after and from either
    side: the process, the data's `moments`, the `end` of sampling, and what has been learned of reversed steps, whose mean is the
    changed one.

    It is a module, so that what is inside moves and switches with it, but nothing to train: train the model, then wrap it.

    Parameters
    ----------
    model
        Any score model.
    """

    model: ScoreModel

    __repr__ = show_call

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model = model

    @property
    def sde(self) -> SDE:
        """The process, as the model inside has it."""
        return self.model.sde

    @sde.setter
    def sde(self, sde: SDE) -> None:
        """Set the process of the model inside."""
        self.model.sde = sde

    @property
    def moments(self) -> Moments | None:
        """The moments of the data, as the model inside has them."""
        return self.model.moments

    @moments.setter
    def moments(self, moments: Moments | None) -> None:
        """Set the value of the model inside."""
        self.model.moments = moments

    @property
    def end(self) -> float | None:
        """The time at which the default sampler ends, as the model inside has it."""
        return self.model.end

    @end.setter
    def end(self, end: float | None) -> None:
        """Set the value of the model inside."""
        self.model.end = end

    @property
    def like(self) -> Tensor | None:
        """A tensor of the dtype and on the device that states must have: that of the model inside, or where any will do there,
        a weight of the wrapper's other networks.
        """
        inside = self.model.like
        return super().like if inside is None else inside

    @property
    def training(self) -> bool:
        """Whether the network inside is in training mode; a wrapper has no mode of its own."""
        return isinstance(self.model, nn.Module) and self.model.training

    @training.setter
    def training(self, mode: bool) -> None:
        """Return nothing: ``train`` and ``eval`` reach the network inside, which remembers the mode."""

    @property
    def reversal(self) -> LearnedReversal | None:
        """The learned variance of the model inside, with the wrapper's mean; None if the model inside has learned none."""
        inside = self.model.reversal
        return None if inside is None else WrappedReversal(self, inside)

    def passed_on(self, **cond: Any) -> dict[str, Any]:
        """Return the conditions that the model inside is called with."""
        return cond


class WrappedReversal(LearnedReversal):
    """Reversed steps with a wrapper's mean and the variance that the model inside has learned.

    Parameters
    ----------
    wrapper
        The changed model.
    inside
        What the model inside has learned.
    """

    def __init__(self, wrapper: Wrapper, inside: LearnedReversal) -> None:
        self.wrapper, self.inside = wrapper, inside

    def reverse_log_variance(self, x: Tensor, s: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Return the log-variance of the model inside."""
        return self.inside.reverse_log_variance(x, s, t, **self.wrapper.passed_on(**cond))

    def reverse_estimate(self, x: Tensor, s: Tensor, t: Tensor, **cond: Any) -> ReversedStep:
        """Return the wrapper's clean state and noise, with the log-variance of the model inside."""
        return ReversedStep(*self.wrapper.estimate(x, t, **cond), self.reverse_log_variance(x, s, t, **cond))

    def reverse_step(self, x: Tensor, question: Any, s: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        """Return the wrapper's mean, with noise of the learned variance."""
        return self.wrapper.answer(x, question, **cond) + self.reverse_noise(x, s, t, z, **cond)


class Conditioned(Wrapper):
    """A score model with fixed conditions: ``model(x, t, **cond)`` as a function of ``(x, t)`` alone.

    Parameters
    ----------
    model
        Any score model.
    cond
        The model's conditions, by keyword.
    """

    @check_arguments
    def __init__(self, model: ScoreModel, **cond: Any) -> None:
        super().__init__(model)
        self.cond = cond

    def passed_on(self, **cond: Any) -> dict[str, Any]:
        """Return the fixed conditions together with those of the call, which must have other names."""
        return dict(**self.cond, **cond)

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return the model's score under the conditions."""
        return self.model.score(x, t, **self.passed_on(**cond))

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the model's clean state and noise under the conditions."""
        return self.model.estimate(x, t, **self.passed_on(**cond))

    def denoise(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return the model's clean state under the conditions."""
        return self.model.denoise(x, t, **self.passed_on(**cond))

    def noise(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return the model's noise under the conditions."""
        return self.model.noise(x, t, **self.passed_on(**cond))

    def velocity_at(self, x: Tensor, at: Marginal, **cond: Any) -> Tensor:
        """Return the model's velocity under the conditions."""
        return self.model.velocity_at(x, at, **self.passed_on(**cond))

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Return the questions of the model inside; conditions are no part of a question."""
        return self.model.ask(t, **weights)

    def answer(self, x: Tensor, question: Any, **cond: Any) -> Tensor:
        """Return the model's answer under the conditions."""
        return self.model.answer(x, question, **self.passed_on(**cond))

    @property
    def reversal(self) -> LearnedReversal | None:
        """The learned variance of the model inside under the fixed conditions; None if it has learned none."""
        inside = self.model.reversal
        return None if inside is None else ConditionedReversal(self, inside)


class ConditionedReversal(WrappedReversal):
    """The reversed steps of a model with learned variance, under fixed conditions."""

    def reverse_estimate(self, x: Tensor, s: Tensor, t: Tensor, **cond: Any) -> ReversedStep:
        """Return clean state, noise and variance of the model inside."""
        return self.inside.reverse_estimate(x, s, t, **self.wrapper.passed_on(**cond))

    def reverse_step(self, x: Tensor, question: Any, s: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        """Take the reversed step of the model inside, under the fixed conditions."""
        return self.inside.reverse_step(x, question, s, t, z, **self.wrapper.passed_on(**cond))
