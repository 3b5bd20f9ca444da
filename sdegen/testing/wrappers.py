"""The laws of a wrapper: a score model around another model, which changes its predictions and shares all else with it."""

from __future__ import annotations

__all__ = [
    "LAWS",
    "OWN",
    "Wrap",
    "Wrapping",
    "change_is_heard_in_every_reading",
    "check_wrapper",
    "learned_variance_is_handed_on",
    "mode_is_that_of_the_network_inside",
    "model_inside_is_left_as_it_is",
    "moments_and_end_are_shared",
    "neutral_value_is_the_identity",
    "nothing_of_its_own_is_trained",
    "process_is_that_of_the_model_inside",
    "restored",
    "wrapper_cases",
]

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

from torch import nn

from ..arguments import check_arguments
from ..laws.mixtures import Moments
from ..models.network import Trainable
from ..models.score import ScoreModel
from ..processes.linear import is_linear
from .models import LAWS as MODEL_LAWS
from .models import READINGS, as_in_sampling, probe
from .report import Law, Report, Violation, cases, check, close

Wrap = Callable[[ScoreModel], ScoreModel]


@dataclass(frozen=True)
class Wrapping:
    """A wrapper and a model on which its laws are checked; see `check_wrapper`."""

    wrap: Wrap
    model: ScoreModel
    neutral: Wrap | None

    @cached_property
    def wrapped(self) -> ScoreModel:
        """The wrapper around the model."""
        return self.wrap(self.model)


@contextmanager
def restored(model: ScoreModel) -> Iterator[None]:
    """Restore moments and end of a model after a ``with`` block."""
    moments, end = model.moments, model.end
    try:
        yield
    finally:
        model.moments, model.end = moments, end


def process_is_that_of_the_model_inside(case: Wrapping) -> None:
    """Wrapper and model have one process, and take states of one dtype on one device."""
    if case.wrapped.sde is not case.model.sde:
        raise Violation("sde is not that of the model inside")
    if case.model.like is not None and case.wrapped.like is not case.model.like:
        raise Violation("like, the tensor that tells dtype and device, is not that of the model inside")


def moments_and_end_are_shared(case: Wrapping) -> None:
    """Moments and end that are set on the model inside, even after it was wrapped, are the wrapper's too, and the other
    way round.
    """
    wrapped, model = case.wrapped, case.model
    known = model.require_moments()
    for giver, taker, way in ((model, wrapped, "set on the model inside"), (wrapped, model, "set on the wrapper")):
        with restored(model):
            giver.moments, giver.end = Moments(known.mean + 1, known.covariance), 0.125 * model.sde.T
            if taker.moments is not giver.moments:
                raise Violation(f"moments {way} later are not known to the other")
            if taker.end != giver.end:
                raise Violation(f"an end {way} later is not known to the other")


def learned_variance_is_handed_on(case: Wrapping) -> None:
    """A wrapper has a learned reversal if and only if the model inside has one."""
    if (case.wrapped.reversal is None) != (case.model.reversal is None):
        raise Violation("reversal, the learned variance, is lost or made up")


def mode_is_that_of_the_network_inside(case: Wrapping) -> None:
    """`train` and `eval` of the wrapper set the mode of the network inside, and evaluations in between do not change it."""
    if not isinstance(case.model, nn.Module) or not isinstance(case.wrapped, nn.Module):
        return
    kept = case.model.training
    try:
        for mode in (True, False):
            case.wrapped.train(mode)
            x, t, _ = probe(case.wrapped)
            with as_in_sampling(case.wrapped):
                case.wrapped.score(x, t)
            if case.model.training != mode or any(m.training != mode for m in case.model.modules()):
                raise Violation(f"train({mode}) does not reach the network inside, or is lost when it is asked")
    finally:
        case.model.train(kept)


def nothing_of_its_own_is_trained(case: Wrapping) -> None:
    """A wrapper is not a model that `fit` would train by the default objective."""
    if isinstance(case.wrapped, Trainable):
        raise Violation("the wrapper is trainable itself; train the model, then wrap it")


def model_inside_is_left_as_it_is(case: Wrapping) -> None:
    """Wrapping a model, and evaluating the wrapper, change no reading of the model inside."""
    x, t, _ = probe(case.wrapped)
    with as_in_sampling(case.model):
        before = case.model.score(x, t)
        case.wrap(case.model).score(x, t)
        close("score of the model inside", case.model.score(x, t), before, 0.0)


def neutral_value_is_the_identity(case: Wrapping) -> None:
    """With a setting that changes nothing, every reading of the wrapper is that of the model inside."""
    if case.neutral is None:
        return
    idle, (x, t, tolerance) = case.neutral(case.model), probe(case.wrapped)
    with as_in_sampling(case.model):
        for name in ("score", *READINGS) if is_linear(case.model.sde) else ("score",):
            want = getattr(case.model, name)(x, t)
            close(f"{name} of the neutral wrapper", getattr(idle, name)(x, t), want, tolerance, 1 + want.abs())


def change_is_heard_in_every_reading(case: Wrapping) -> None:
    """A wrapper that changes one reading changes all four: none is forwarded unchanged from the model inside."""
    if not is_linear(case.model.sde):
        return
    x, t, tolerance = probe(case.wrapped)
    changed = {}
    with as_in_sampling(case.model):
        for name in ("score", *READINGS):
            gap = getattr(case.wrapped, name)(x, t) - getattr(case.model, name)(x, t)
            changed[name] = bool((gap.abs() > 100 * tolerance).any())
    if len(set(changed.values())) > 1:
        raise Violation(
            f"changed are {[k for k, v in changed.items() if v]}, not {[k for k, v in changed.items() if not v]}"
        )


# The laws of wrappers alone; a wrapper is also checked against the laws of every model.
OWN: list[Law] = [
    process_is_that_of_the_model_inside,
    moments_and_end_are_shared,
    learned_variance_is_handed_on,
    mode_is_that_of_the_network_inside,
    nothing_of_its_own_is_trained,
    model_inside_is_left_as_it_is,
    neutral_value_is_the_identity,
    change_is_heard_in_every_reading,
]


def _of_the_wrapper(law: Law) -> Law:
    """Return a law of models, as a law that checks the wrapper."""

    @wraps(law)
    def asked(case: Wrapping) -> None:
        law(case.wrapped)

    return asked


LAWS: list[Law] = [*OWN, *map(_of_the_wrapper, MODEL_LAWS)]


@check_arguments
def check_wrapper(
    wrap: Wrap, model: ScoreModel, neutral: Wrap | None = None, expected: dict[str, str] | None = None
) -> Report:
    """Check a wrapper, of the library or your own, against its laws and those of every score model, and return a `Report`.

    Subclass `Wrapper` with ``score`` and ``estimate`` (and ``velocity_at``, ``ask`` and ``answer`` if they can be cheaper than by
    default), `guidance.CleanState` with ``estimate`` if the clean data are changed, or `guidance.Tilted` with ``tilted`` if a
    gradient is added to the score. Process, moments, end and mode are those of the model inside.

    Parameters
    ----------
    wrap
        Called with a model; returns the wrapper around it, its conditions fixed, as in
        ``lambda model: Conditioned(ClassifierFree(model, 2.0), label=0)``.
    model
        A model to be wrapped, which knows its data's moments.
    neutral
        As `wrap`, with a setting that changes nothing, such as a scale of 1; None if there is no such setting.
    expected
        Laws that are expected to fail, by name, each with its reason.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    TypeError
        If `wrap` does not return a score model.
    ValueError
        If `expected` names a law that is not among them.

    Examples
    --------
    >>> import sdegen
    >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    >>> scaled = sdegen.guidance.EpsilonScaling
    >>> check_wrapper(lambda m: scaled(m, 1.05), model, neutral=lambda m: scaled(m, 1.0)).passed
    True
    """
    case = _case(wrap, model, neutral)
    report = check(case, LAWS, expected)
    report.subject = f"{type(case.wrapped).__name__} around {type(model).__name__} on {type(model.sde).__name__}"
    return report


@check_arguments
def wrapper_cases(wrap: Wrap, model: ScoreModel, neutral: Wrap | None = None) -> list[Any]:
    """Return the laws of a wrapper as pytest parameters; see `report.cases`.

    Parameters
    ----------
    wrap, model, neutral
        As for `check_wrapper`.
    """
    return cases(_case(wrap, model, neutral), LAWS)


def _case(wrap: Wrap, model: ScoreModel, neutral: Wrap | None) -> Wrapping:
    """Return the case on which the laws are checked; refuse a `wrap` that does not return a score model."""
    wrapped = wrap(model)
    if not isinstance(wrapped, ScoreModel):
        raise TypeError(
            f"wrap(model) returned a {type(wrapped).__name__}; give a function that makes a ScoreModel of one."
        )
    return Wrapping(wrap, model, neutral)
