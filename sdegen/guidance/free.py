"""Classifier-free guidance and autoguidance, away from a weaker model (`Extrapolated`), in all readings alike
(`AffineExtrapolation`), or away from the model itself without its conditions (`AgainstNull`)."""

from __future__ import annotations

__all__ = [
    "AffineExtrapolation",
    "AgainstNull",
    "Autoguidance",
    "ClassifierFree",
    "Extrapolated",
    "Without",
    "stack_estimate",
]

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..conditions import ANY, Conditions
from ..laws.marginals import Marginal
from ..laws.operators import Operator, Scale
from ..models.named import read_named
from ..models.score import ScoreModel
from ..models.wrapper import Conditioned
from .base import Guided, check_same_process, check_scale, check_units, indicate_interval


class Extrapolated(Guided):
    """The base class of guidance away from a weaker model: ``strong + (scale − 1) (strong − weak)``.

    A scale of 1 gives the model, 0 the weaker model. Beyond 1 the result is in general not the score of a noised law.

    Parameters
    ----------
    model, weak
        Score models of one process.
    scale
        A number.
    interval
        ``(first, last)``: times outside which the model is used alone, at the cost of one evaluation instead of two.
        T. Kynkäänniemi et al., *Applying guidance in a limited interval improves sample and distribution quality in diffusion
        models*, 2024, arXiv:2404.07724. ``sde.time(level**-2)`` is the time of one of their levels ``sigma / alpha``.

    Raises
    ------
    ValueError
        If the interval is out of order, or the scale not finite; at a call, if the models have the data in other units.
    """

    conditioned = True

    def __init__(
        self, model: ScoreModel, weak: ScoreModel, scale: float, interval: tuple[float, float] | None = None
    ) -> None:
        super().__init__(model)
        self.scale, self.interval = check_scale(scale, interval, model.sde.T)
        self.weak = weak

    def _weight(self, t: Tensor | float) -> Tensor:
        """Return ``scale − 1``, 0 outside the interval."""
        return indicate_interval(self.interval, t) * (self.scale - 1)

    def _both(
        self,
        strong: Callable[..., Tensor],
        weak: Callable[..., Tensor],
        x: Tensor,
        t: Tensor | float,
        cond: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Return the model's reading and the extrapolated one; the weaker model is asked only if its weight is not 0."""
        check_units(self.sde, self.weak.sde, "the weaker model")
        weight, given = self._weight(t), strong(x, t, **cond)
        return given, given + Scale(weight)(given - weak(x, t, **cond)) if weight.any() else given

    def _estimates(self, x: Tensor, t: Tensor | float, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return clean state and noise of both, ``(B, 2, *)`` each."""
        return self._both(partial(stack_estimate, self.model), partial(stack_estimate, self.weak), x, t, cond)


def stack_estimate(model: ScoreModel, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
    """Return the clean state and the noise that a model estimates, ``(B, 2, *)``."""
    return torch.stack(model.estimate(x, t, **cond), 1)


class Without(Conditioned):
    """A wrapper that does not pass on some or all conditions of a call to its model, and passes fixed ones instead.

    Parameters
    ----------
    model
        A score model.
    drop
        The names of the conditions that are not passed on; None for all.
    cond
        The conditions that the model gets instead, by keyword; none for the model without condition.

    Raises
    ------
    TypeError
        If the model takes no such condition, or cannot go without one.
    """

    @check_arguments
    def __init__(self, model: ScoreModel, drop: Sequence[str] | None = None, /, **cond: Any) -> None:
        super().__init__(model, **cond)
        self.drop = None if drop is None else tuple(drop)
        for name in drop or ():
            if not model.conditions.takes(name):
                raise TypeError(f"drop has {name!r}, and {type(model).__name__} takes no condition of that name.")
        for name in sorted(model.conditions.needed - cond.keys()):
            if drop is None or name in drop:
                raise TypeError(
                    f"{name} is dropped, and {type(model).__name__} needs it; train it without, as nets.Label(..., dropout=0.1) "
                    "does, or give another value by null."
                )
        if drop is None:
            read_named(model, cond, type(self))

    @property
    def conditions(self) -> Conditions:
        """Any condition, since dropped ones are ignored."""
        return ANY

    def check_run(self, /, **cond: Any) -> None:
        """Refuse nothing: here conditions are left out on purpose."""

    def passed_on(self, /, **cond: Any) -> dict[str, Any]:
        """Return the fixed conditions, and those of the call that are not dropped."""
        if self.drop is None:
            return self.cond
        return {name: value for name, value in cond.items() if name not in self.drop} | self.cond


class AgainstNull(Extrapolated):
    """The base class of guidance of a conditional model away from itself without its conditions, or under null ones.

    Parameters
    ----------
    model
        A score model that was trained with and without its condition.
    scale, interval
        As for `Extrapolated`.
    null, drop
        As for `ClassifierFree`.

    Raises
    ------
    ValueError
        If the interval is out of order, or the scale not finite; in a run, if nothing is given to guide along.
    TypeError
        If the model takes no condition of a name, or one that is left out is needed.
    """

    weak: Without

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        scale: float,
        null: dict[str, Any] | None = None,
        interval: tuple[float, float] | None = None,
        drop: Sequence[str] | None = None,
    ) -> None:
        super().__init__(model, Without(model, drop, **(null or {})), scale, interval)
        self.null, self.drop = null, drop

    def check_run(self, /, **cond: Any) -> None:
        """Refuse a run without a condition to guide along.

        Raises
        ------
        ValueError
            If the model would be asked twice under the same conditions.
        """
        given, null = (_those_given(passed) for passed in (cond, self.weak.passed_on(**cond)))
        if given.keys() == null.keys() and all(_are_equal(given[name], null[name]) for name in given):
            who, inside = type(self).__name__, type(self.model).__name__
            along = "a condition" if self.drop is None else " or ".join(self.drop)
            takes = self.model.conditions
            same = ", ".join(sorted(set(given) & set(self.weak.cond)))
            raise ValueError(
                f"{who} was given {same} as the null has it, and would do nothing: pass another, or ask the {inside} inside."
                if same
                else f"{who} was given nothing to guide along, and would do nothing: pass {along}, or ask the {inside} inside."
                if takes.names or takes.others
                else f"{who} would do nothing, since {inside} takes no condition that could be left out; guide a model that "
                "takes one, or give it one later: Conditioned(ClassifierFree(model, scale), label=3)."
            )
        super().check_run(**cond)


def _those_given(cond: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions whose value is not None."""
    return {name: value for name, value in cond.items() if value is not None}


def _are_equal(a: Any, b: Any) -> bool:
    """Tell whether two values of a condition are equal, in all rows, whatever their types, dtypes and devices."""
    if a is b:
        return True
    if not any(isinstance(value, Tensor) for value in (a, b)):
        return type(a) is type(b) and isinstance(a, (str, int, float)) and a == b
    if not all(isinstance(value, (Tensor, int, float)) for value in (a, b)):
        return False
    one, other = (torch.as_tensor(value).detach().cpu() for value in (a, b))
    if one.is_floating_point() and other.is_floating_point():  # compared in the coarser of both dtypes
        coarse = min(one.dtype, other.dtype, key=lambda dtype: torch.finfo(dtype).bits)
        one, other = one.to(coarse), other.to(coarse)
    try:
        one, other = torch.broadcast_tensors(one, other)
    except RuntimeError:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


class AffineExtrapolation(Extrapolated):
    """An extrapolation that acts on the score, the noise, the clean data and the velocity alike, ``strong + (scale − 1)
    (strong − weak)``.

    Parameters
    ----------
    model, weak, scale, interval
        As for `Extrapolated`.
    """

    def planned_by(self) -> Any:
        """Return what plans of both models depend on, and what their weights depend on."""
        models = self.model.planned_by(), self.weak.planned_by()
        return type(self), models, self.scale, self.interval, self.conditioned

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Prepare the questions of both models, and ``scale − 1`` at each of the times."""
        check_units(self.sde, self.weak.sde, "the weaker model")
        strong, weak, weight = self.model.ask(t, **weights), self.weak.ask(t, **weights), self._weight(t)
        scale = Scale(weight).prepared(self.like)
        return [(strong[i], weak[i], scale[i] if weight[i] else None) for i in range(len(t))]

    def answer(self, x: Tensor, question: Any, /, **cond: Any) -> Tensor:
        """Return the extrapolation of both models' answers."""
        strong, weak, weight = question
        given = self.model.answer(x, strong, **cond)
        return given if weight is None else given + weight(given - self.weak.answer(x, weak, **cond))

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the combined score."""
        return self._both(self.model.score, self.weak.score, x, t, cond)[1]

    def velocity_at(self, x: Tensor, at: Marginal, /, **cond: Any) -> Tensor:
        """Return the combined velocity."""

        def of(model: ScoreModel) -> Callable[..., Tensor]:
            return lambda x, t, /, **cond: model.velocity_at(x, at, **cond)

        return self._both(of(self.model), of(self.weak), x, at.t, cond)[1]

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the combined clean state and noise."""
        x_0, eps = self._estimates(x, t, cond)[1].unbind(1)
        return x_0, eps


class ClassifierFree(AgainstNull, AffineExtrapolation):
    """Classifier-free guidance: ``v_null + scale (v_cond − v_null)`` for the velocity, and likewise for score, noise and
    clean data.

    J. Ho and T. Salimans, *Classifier-free diffusion guidance*, 2022, arXiv:2207.12598. A scale of 1 gives the conditional model,
    0 the unconditional model, and more than 1 pushes away from the latter. With a *negative* condition for `null` it pushes away
    from that condition: ``ClassifierFree(model, 2.0, null={"label": 3})``.

    Each of several conditions can have a scale of its own,
    ``ClassifierFree(ClassifierFree(model, v, drop=["b"]), w, drop=["a"])``, by four evaluations of the network. If `a` and `b`
    are independent given the state, the score is ``s + w ∇ log p(a | x) + v ∇ log p(b | x)`` with the score `s` without both.

    Parameters
    ----------
    model
        A score model that was trained with and without its condition; for the networks of the library the null condition is the
        label −1, or a condition that is left out.
    scale
        A number.
    null
        The null conditions, passed in place of the given ones; by default all are left out.
    interval
        As for `Extrapolated`.
    drop
        The names of the conditions that guidance pushes along, such as ``["label"]``; all by default. Others go into both terms.

    Raises
    ------
    ValueError
        If the interval is out of order, or the scale not finite; in a run, if nothing is given to guide along.
    TypeError
        If the model takes no condition of a name, or one that is left out is needed.
    """


class Autoguidance(AffineExtrapolation):
    """Autoguidance: a score model guided away from a weaker model of the same data, ``strong + (scale − 1) (strong − weak)``.

    If both models err in the same direction, the weaker one more, their difference points to the data. No condition is needed,
    and variety is kept. T. Karras et al., *Guiding a diffusion model with a bad version of itself*, 2024, arXiv:2406.02507.

    Parameters
    ----------
    model, weak
        Score models of one process, such as the weights at the end of a training and early in it. Both get all conditions.
    scale, interval
        As for `Extrapolated`.

    Raises
    ------
    ValueError
        If the interval is out of order, the scale not finite, or the models have different processes, or the data in other units.
    TypeError
        If a process is not linear.
    """

    @check_arguments
    def __init__(
        self, model: ScoreModel, weak: ScoreModel, scale: float, interval: tuple[float, float] | None = None
    ) -> None:
        super().__init__(model, weak, scale, interval)
        check_same_process(model, weak, "the weaker model")

    def check_run(self, /, **cond: Any) -> None:
        """Refuse a run that either model refuses, and a model that is guided away from itself.

        Raises
        ------
        ValueError
            If both models are the same object.
        """
        if self.weak is self.model:
            raise ValueError(
                f"Autoguidance would do nothing, since model and weak are one {type(self.model).__name__}; give a weaker "
                "one, such as a copy of it made earlier in training."
            )
        super().check_run(**cond)

    @property
    def conditions(self) -> Conditions:
        """The conditions that both models take, since both get all."""
        return self.model.conditions.both(self.weak.conditions)
