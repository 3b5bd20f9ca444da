"""Score models around other score models: `Wrapper`, which forwards all that it does not change, and `Conditioned`."""

from __future__ import annotations

__all__ = [
    "Conditioned",
    "ConditionedReversal",
    "WrappedReversal",
    "Wrapper",
    "bind_rows",
    "cut_rows",
    "has_conditions",
]

from copy import copy
from typing import Any, Self

from torch import Tensor, nn

from ..arguments import check_arguments
from ..conditions import Conditions
from ..laws.marginals import Marginal
from ..laws.mixtures import Moments
from ..laws.operators import Operator
from ..laws.profiles import Profile
from ..processes.base import SDE
from ..show import show_call
from .densities import ask_log_density
from .named import join_conditions, read_named
from .reversal import LearnedReversal, ReversedStep
from .score import ScoreModel


class Wrapper(nn.Module, ScoreModel):
    """The base class of score models that wrap another one of the same process, and change some of its predictions.

    A subclass overrides what it changes: `score`, on linear processes also `estimate`, and `passed_on` if the model inside is to
    have other conditions. The other readings, questions and their answers follow from these as for every `ScoreModel`. All else
    is read from the model inside at every use: the process, the data's `moments` and the `end` of sampling, which may be set on
    either side, before or after wrapping, and the learned variance of reversed steps, whose mean is the changed one.

    A wrapper is a module, so that the model inside moves and changes mode with it. Train the model, then wrap it.

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
    def conditioned(self) -> bool:  # type: ignore[override]
        """Whether the law of the samples is narrower than that of the data, as for the model inside."""
        return self.model.conditioned

    @property
    def like(self) -> Tensor | None:
        """A tensor of the dtype and device that states must have, of the model inside or else of the wrapper's other networks."""
        inside = self.model.like
        return super().like if inside is None else inside

    @property
    def training(self) -> bool:
        """Whether the network inside is in training mode; a wrapper has no mode of its own."""
        return isinstance(self.model, nn.Module) and self.model.training

    @training.setter
    def training(self, mode: bool) -> None:
        """Leave the mode to the network inside, which ``train`` and ``eval`` reach as a part of the wrapper."""

    @property
    def reversal(self) -> LearnedReversal | None:
        """The learned variance of the model inside, with the wrapper's mean; None if the model inside has learned none."""
        inside = self.model.reversal
        return None if inside is None else WrappedReversal(self, inside)

    @property
    def conditions(self) -> Conditions:
        """The conditions that the model inside takes."""
        return self.model.conditions

    def part(self, rows: slice | Tensor, x: Tensor, n: int) -> ScoreModel:
        """Return the wrapper for some of the `n` samples of a run, around the models inside for these samples."""
        inside = self._inside()
        cut = {name: model.part(rows, x, n) for name, model in inside.items()}
        return self if all(cut[name] is inside[name] for name in cut) else self._around(cut)

    def _inside(self) -> dict[str, ScoreModel]:
        """Return all score models that the wrapper holds, by attribute."""
        return {k: held for k, held in {**vars(self), **self._modules}.items() if isinstance(held, ScoreModel)}

    def _around(self, held: dict[str, Any]) -> Self:
        """Return a copy of the wrapper with the attributes `held`."""
        other = copy(self)
        other._modules = dict(self._modules)
        for name, value in held.items():
            setattr(other, name, value)
        return other

    def with_rows(self, cond: dict[str, Any], x: Tensor, n: int) -> list[str]:
        """Return the names of the conditions with a row for each of `n` samples; the model inside says which of its own have."""
        inside = {name: value for name, value in self.passed_on(**cond).items() if cond.get(name) is value}
        own = {name: value for name, value in cond.items() if name not in inside}
        return [*self.model.with_rows(inside, x, n), *super().with_rows(own, x, n)]

    def passed_on(self, /, **cond: Any) -> dict[str, Any]:
        """Return the conditions that the model inside is called with."""
        return cond

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments that the model inside knows, under the conditions that are passed on to it."""
        return self.model.conditional_moments(**self.passed_on(**cond))

    def check_run(self, /, **cond: Any) -> None:
        """Refuse a run that any model inside refuses, under the conditions that are passed on."""
        for model in self._inside().values():
            model.check_run(**self.passed_on(**cond))

    def examine(self, x: Tensor, /, **cond: Any) -> None:
        """Warn of samples of which the model inside warns, under the conditions that are passed on to it."""
        self.model.examine(x, **self.passed_on(**cond))


class WrappedReversal(LearnedReversal):
    """Reversed steps with a wrapper's mean and the variance that the model inside has learned.

    Parameters
    ----------
    wrapper
        The wrapper, which gives the mean.
    inside
        The learned reversal of the model inside, which gives the variance.
    """

    def __init__(self, wrapper: Wrapper, inside: LearnedReversal) -> None:
        self.wrapper, self.inside = wrapper, inside

    def reverse_log_variance(self, x: Tensor, s: Tensor, t: Tensor, /, **cond: Any) -> Tensor:
        """Return the log-variance of the model inside."""
        return self.inside.reverse_log_variance(x, s, t, **self.wrapper.passed_on(**cond))

    def reverse_estimate(self, x: Tensor, s: Tensor, t: Tensor, /, **cond: Any) -> ReversedStep:
        """Return the wrapper's clean state and noise, with the log-variance of the model inside."""
        return ReversedStep(*self.wrapper.estimate(x, t, **cond), self.reverse_log_variance(x, s, t, **cond))

    def reverse_step(self, x: Tensor, question: Any, s: Tensor, t: Tensor, z: Tensor, /, **cond: Any) -> Tensor:
        """Return the wrapper's mean, with noise of the learned variance."""
        return self.wrapper.answer(x, question, **cond) + self.reverse_noise(x, s, t, z, **cond)


def has_conditions(cond: dict[str, Any]) -> bool:
    """Tell whether any condition is given.

    Parameters
    ----------
    cond
        Conditions by name; None stands for a condition that is not given.
    """
    return any(value is not None for value in cond.values())


class Conditioned(Wrapper):
    """A score model with fixed conditions: ``model(x, t, **cond)`` as a function of ``(x, t)`` alone.

    A condition with a row for each sample of a run is cut where the samples are, as the conditions of the run itself are.

    Parameters
    ----------
    model
        Any score model.
    cond
        The model's conditions, by keyword, whatever their names.

    Raises
    ------
    TypeError
        If the model takes no such condition.
    """

    @check_arguments
    def __init__(self, model: ScoreModel, /, **cond: Any) -> None:
        super().__init__(model)
        self.cond = read_named(model, cond, type(self), complete=False)
        self._part_of: tuple[Conditioned, slice | Tensor, int] | None = None

    @property
    def conditions(self) -> Conditions:
        """The conditions that are not fixed."""
        return self.model.conditions.without(self.cond)

    @property
    def conditioned(self) -> bool:  # type: ignore[override]
        """Whether a condition is given, here or to the model inside."""
        return has_conditions(self.cond) or self.model.conditioned

    @property
    def profile(self) -> Profile | None:  # type: ignore[override]
        """The profile of the model inside, which may be that of the law under conditions."""
        return self.model.profile

    def planned_by(self) -> Any:
        """Return what plans of the model inside depend on, whether there are conditions, and the moments under these."""
        return type(self), self.model.planned_by(), self.conditioned, self.conditional_moments()

    def part(self, rows: slice | Tensor, x: Tensor, n: int) -> ScoreModel:
        """Return the model for some of the `n` samples of a run, and their rows of the conditions."""
        cut, inside = cut_rows(self.model, self.cond, rows, x, n), self.model.part(rows, x, n)
        if cut is self.cond and inside is self.model:
            return self
        return self._around({"model": inside, "cond": cut, "_part_of": (self, rows, n)})

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments that the model inside knows under all conditions.

        For a part of the samples of a run they are the means of these samples and the covariance of the whole run, so that
        samples do not depend on how the run is cut.
        """
        if self._part_of is None or cond:
            return super().conditional_moments(**cond)
        whole, rows, n = self._part_of
        known = whole.conditional_moments()
        each = known is not None and self.moments is not None and known.mean.ndim > self.moments.mean.ndim
        return known._replace(mean=known.mean[rows]) if known is not None and each and len(known.mean) == n else known

    def passed_on(self, /, **cond: Any) -> dict[str, Any]:
        """Return the fixed conditions together with those of the call, which must have other names."""
        return join_conditions(self.cond, cond)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the model's score under the conditions."""
        return self.model.score(x, t, **self.passed_on(**cond))

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the model's clean state and noise under the conditions."""
        return self.model.estimate(x, t, **self.passed_on(**cond))

    def denoise(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the model's clean state under the conditions."""
        return self.model.denoise(x, t, **self.passed_on(**cond))

    def noise(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the model's noise under the conditions."""
        return self.model.noise(x, t, **self.passed_on(**cond))

    def velocity_at(self, x: Tensor, at: Marginal, /, **cond: Any) -> Tensor:
        """Return the model's velocity under the conditions."""
        return self.model.velocity_at(x, at, **self.passed_on(**cond))

    def log_density(self, x: Tensor, t: float, /, **cond: Any) -> Tensor:
        """Return the log-density of the model inside under the conditions; raise an error if it knows no density."""
        return ask_log_density(self.model, x, t, **self.passed_on(**cond))

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Return the questions of the model inside; conditions are no part of a question."""
        return self.model.ask(t, **weights)

    def gain(self, at: Marginal) -> Operator | None:
        """Return the gain of the model inside; conditions are no part of it."""
        return self.model.gain(at)

    def answer(self, x: Tensor, question: Any, /, **cond: Any) -> Tensor:
        """Return the model's answer under the conditions."""
        return self.model.answer(x, question, **self.passed_on(**cond))

    @property
    def reversal(self) -> LearnedReversal | None:
        """The learned variance of the model inside under the fixed conditions; None if it has learned none."""
        inside = self.model.reversal
        return None if inside is None else ConditionedReversal(self, inside)


def cut_rows(model: ScoreModel, cond: dict[str, Any], rows: slice | Tensor, x: Tensor, n: int) -> dict[str, Any]:
    """Return the conditions for some of the `n` samples of a run; the same object if none has a row for each sample.

    Parameters
    ----------
    model
        The model under the conditions, which says what a row is (`ScoreModel.with_rows`).
    cond
        Conditions by name.
    rows, x, n
        As for `ScoreModel.part`.
    """
    named = model.with_rows(cond, x, n)
    return {name: value[rows] if name in named else value for name, value in cond.items()} if named else cond


def bind_rows(model: ScoreModel, cond: dict[str, Any], rows: slice | Tensor, x: Tensor, n: int) -> ScoreModel:
    """Return a model under conditions for some of the `n` samples of a run, with the rows of the conditions for these samples.

    Parameters
    ----------
    model
        Any score model.
    cond
        Conditions by name.
    rows, x, n
        As for `ScoreModel.part`.
    """
    return (Conditioned(model, **cond) if cond else model).part(rows, x, n)


class ConditionedReversal(WrappedReversal):
    """The reversed steps of a model with learned variance, under fixed conditions."""

    def reverse_estimate(self, x: Tensor, s: Tensor, t: Tensor, /, **cond: Any) -> ReversedStep:
        """Return clean state, noise and variance of the model inside."""
        return self.inside.reverse_estimate(x, s, t, **self.wrapper.passed_on(**cond))

    def reverse_step(self, x: Tensor, question: Any, s: Tensor, t: Tensor, z: Tensor, /, **cond: Any) -> Tensor:
        """Take the reversed step of the model inside, under the fixed conditions."""
        return self.inside.reverse_step(x, question, s, t, z, **self.wrapper.passed_on(**cond))
