"""The laws of a score model: all readings follow from one estimate, row by row, in the dtype of the state, at every time."""

from __future__ import annotations

__all__ = [
    "LAWS",
    "Probe",
    "READINGS",
    "answers_are_sums_of_readings",
    "as_in_sampling",
    "check_model",
    "model_cases",
    "noised",
    "probe",
    "readings_agree",
    "readings_are_finite_at_both_ends",
    "readings_are_functions",
    "rows_do_not_mix",
    "score_has_the_shape_of_the_state",
]

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..models.modes import evaluating
from ..models.score import ScoreModel
from ..processes.linear import is_linear
from .report import Law, Report, Violation, cases, check, close

READINGS = ("velocity", "denoise", "noise")  # finite at every time of a linear process; the score is not


class Probe(NamedTuple):
    """The states and times at which a model's laws are checked, and the tolerance that fits the dtype of the states."""

    x: Tensor
    t: Tensor
    tolerance: float


def noised(model: ScoreModel, t: Tensor | float, n: int, seed: int) -> Tensor:
    """Return `n` states at `t`, noised from normal data of unit spread around the mean that the model knows."""
    generator = torch.Generator().manual_seed(seed)
    mean = model.state_moments().mean
    x_0 = model.sde.restore(mean.double() + torch.randn(n, *mean.shape, dtype=torch.float64, generator=generator))
    return model.cast_states(model.sde.perturb(x_0.double(), t, generator=generator).x)


def probe(model: ScoreModel, n: int = 6) -> Probe:
    """Return `n` noised states at as many times, at which a model is evaluated."""
    t = model.sde.T * torch.linspace(0.05, 0.9, n, dtype=torch.float64)
    x = noised(model, t, n, seed=3)
    return Probe(x, t, 1e-8 if x.dtype == torch.float64 else 1e-3)


@contextmanager
def as_in_sampling(model: ScoreModel) -> Iterator[None]:
    """Evaluate a model as samplers do: in evaluation mode, without gradients."""
    with torch.no_grad(), evaluating(model):
        yield


def score_has_the_shape_of_the_state(model: ScoreModel) -> None:
    """The score is finite, and has the shape and dtype of the state; also in float32, if the model has no dtype of its own."""
    x, t, _ = probe(model)
    for state in (x, x.float()) if model.like is None else (x,):
        with as_in_sampling(model):
            score = model.score(state, t)
        if score.shape != state.shape or score.dtype != state.dtype:
            raise Violation(
                f"score is {score.dtype} {tuple(score.shape)} for a state {state.dtype} {tuple(state.shape)}"
            )
        if not score.isfinite().all():
            raise Violation("score is not finite")


def readings_are_functions(model: ScoreModel) -> None:
    """A reading has the same value when it is asked for again, and leaves the state as it is."""
    x, t, _ = probe(model)
    kept = x.clone()
    for reading in ("score", *(READINGS if is_linear(model.sde) else ())):
        with as_in_sampling(model):
            first = getattr(model, reading)(x, t)
            if not torch.equal(x, kept):  # before the second call, which may undo the change
                raise Violation(f"{reading}(x, t) changes x in place")
            second = getattr(model, reading)(x, t)
        close(f"{reading}, asked twice,", first, second, 0.0)


def rows_do_not_mix(model: ScoreModel) -> None:
    """Each row's score depends on that row and its time alone; one time for all rows is that time for each."""
    x, t, tolerance = probe(model)
    with as_in_sampling(model):
        together = model.score(x, t)
        alone = torch.cat([model.score(x[i : i + 1], t[i]) for i in range(len(x))])
        close("score in a batch", together, alone, tolerance, 1 + alone.abs())
        one, each = model.score(x, t[2]), model.score(x, t[2].expand(len(x)))
    close("score at one time for all rows", one, each, tolerance, 1 + each.abs())


def readings_agree(model: ScoreModel) -> None:
    """``x = Phi x_0 + R eps``, ``score = −R⁻ᵀ eps`` and ``v = A x_0 + B eps``, and each method returns its own reading."""
    if not is_linear(model.sde):
        return
    x, t, tolerance = probe(model)
    at = model.sde.marginal(t)
    with as_in_sampling(model):
        x_0, eps = model.estimate(x, t)
        close("Phi x_0 + R eps", at.Phi(x_0) + at.R(eps), x, tolerance, 1 + x.abs().amax())
        score = model.score(x, t)
        close("score", score, at.score_from_noise(eps), tolerance, 1 + score.abs())
        velocity = model.velocity(x, t)
        close("velocity", velocity, at.velocity(x_0, eps), tolerance, 1 + velocity.abs())
        close("denoise", model.denoise(x, t), x_0, tolerance, 1 + x_0.abs())
        close("noise", model.noise(x, t), eps, tolerance, 1 + eps.abs())


def readings_are_finite_at_both_ends(model: ScoreModel) -> None:
    """Velocity, clean data and noise are finite at 0 and at T, where a process may be without noise or without signal."""
    if not is_linear(model.sde):
        return
    for t in (0.0, model.sde.T):
        x = noised(model, t, 4, seed=4)
        with as_in_sampling(model):
            for name in READINGS:
                if not getattr(model, name)(x, t).isfinite().all():
                    raise Violation(f"{name} is not finite at t = {t:g}")


def answers_are_sums_of_readings(model: ScoreModel) -> None:
    """`answer` to a question of `ask` is the sum of state and readings with the question's weights, at each of its times."""
    if not is_linear(model.sde):
        return
    x, t, tolerance = probe(model)
    t = t[::2]
    one = model.sde.marginal(t).Phi.one()
    numbers = torch.linspace(0.5, 1.5, len(t), dtype=torch.float64)
    given: dict[str, float] = {"x": 0.7, "denoise": -0.4, "noise": 0.9, "score": 0.2, "velocity": -1.1}
    for names in (("velocity",), ("denoise", "noise"), tuple(given)):
        with as_in_sampling(model):
            questions = model.ask(t, **{name: one * (given[name] * numbers) for name in names})
            for i, question in enumerate(questions):
                known = {name: x if name == "x" else getattr(model, name)(x, t[i]) for name in names}
                want = sum(given[name] * numbers[i].item() * reading for name, reading in known.items())
                assert isinstance(want, Tensor)
                close(
                    f"the answer about {', '.join(names)}",
                    model.answer(x, question),
                    want,
                    10 * tolerance,
                    1 + want.abs(),
                )


LAWS: list[Law] = [
    score_has_the_shape_of_the_state,
    readings_are_functions,
    rows_do_not_mix,
    readings_agree,
    readings_are_finite_at_both_ends,
    answers_are_sums_of_readings,
]


@check_arguments
def check_model(model: ScoreModel, expected: dict[str, str] | None = None) -> Report:
    """Check a score model, of the library or your own, against its laws, and return a `Report`.

    Subclass `ScoreModel` with ``score(x, t, **cond)`` and set `sde` and `moments`; on a linear process the other readings and
    the answers to samplers' questions follow. A model that predicts the velocity instead, which alone is finite at every time,
    derives from `VelocityModel` with ``velocity_at(x, at, **cond)``. Whichever methods are overridden, the laws compare them with
    each other.

    Parameters
    ----------
    model
        Any score model that knows its data's moments; a conditional one as ``Conditioned(model, label=...)``, with one value for
        all rows.
    expected
        Laws that are expected to fail, by name, each with its reason.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    TypeError
        If `model` is not a score model.
    ValueError
        If `expected` names a law that is not among them.

    Examples
    --------
    >>> import sdegen
    >>> check_model(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())).passed
    True
    """
    return check(model, LAWS, expected)


@check_arguments
def model_cases(model: ScoreModel) -> list[Any]:
    """Return the laws of a model as pytest parameters; see `report.cases`.

    Parameters
    ----------
    model
        As for `check_model`.
    """
    return cases(model, LAWS)
