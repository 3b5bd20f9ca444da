"""The laws of a score model: its readings are one estimate, row by row, in the dtype it is asked in."""

from __future__ import annotations

__all__ = ["check_model", "model_cases", "readings_agree", "rows_do_not_mix", "score_has_the_shape_of_the_state"]

from typing import Any

import torch
from torch import Tensor

from ..models.score import ScoreModel
from ..processes.linear import is_linear
from .report import Law, Report, Violation, cases, check, close


def _asked(model: ScoreModel, n: int = 6) -> tuple[Tensor, Tensor, float]:
    """States and times to ask a model about, in its dtype, and the tolerance of that dtype."""
    generator = torch.Generator().manual_seed(3)
    mean = model.require_moments().mean
    shape = mean.shape
    x_0 = mean + torch.randn(n, *shape, dtype=torch.float64, generator=generator)
    t = model.sde.T * torch.linspace(0.05, 0.9, n, dtype=torch.float64)
    x = model.sde.perturb(x_0, t, generator=generator).x
    weight = model.like
    tolerance = 1e-8 if weight is None or weight.dtype == torch.float64 else 1e-3
    return (x if weight is None else x.to(weight)), t, tolerance


def score_has_the_shape_of_the_state(model: ScoreModel) -> None:
    """Shape, dtype and finiteness."""
    x, t, _ = _asked(model)
    with torch.no_grad():
        score = model.score(x, t)
    if score.shape != x.shape or score.dtype != x.dtype:
        raise Violation(f"score is {score.dtype} {tuple(score.shape)} for a state {x.dtype} {tuple(x.shape)}")
    if not score.isfinite().all():
        raise Violation("score is not finite")


def rows_do_not_mix(model: ScoreModel) -> None:
    """Each row's score depends on that row alone."""
    x, t, tolerance = _asked(model)
    with torch.no_grad():
        together = model.score(x, t)
        alone = torch.cat([model.score(x[i : i + 1], t[i]) for i in range(len(x))])
    close("score in a batch", together, alone, tolerance, 1 + alone.abs())


def readings_agree(model: ScoreModel) -> None:
    """``x = Phi x_0 + R eps``, ``score = −R⁻ᵀ eps`` and ``v = A x_0 + B eps``."""
    if not is_linear(model.sde):
        return
    x, t, tolerance = _asked(model)
    at = model.sde.marginal(t)
    with torch.no_grad():
        x_0, eps = model.estimate(x, t)
        close("Phi x_0 + R eps", at.Phi(x_0) + at.R(eps), x, tolerance, 1 + x.abs().amax())
        score = model.score(x, t)
        close("score", score, at.score_from_noise(eps), tolerance, 1 + score.abs())
        velocity = model.velocity(x, t)
        close("velocity", velocity, at.velocity(x_0, eps), tolerance, 1 + velocity.abs())


LAWS: list[Law] = [score_has_the_shape_of_the_state, rows_do_not_mix, readings_agree]


def check_model(model: ScoreModel, expected: dict[str, str] | None = None) -> Report:
    """Hold a score model against its laws; parameters as for `check_sde`.

    Parameters
    ----------
    model
        Any score model that knows its data's moments.
    expected
        As for `check_sde`.

    Returns
    -------
    Report
        As of `check_sde`.

    Raises
    ------
    ValueError
        If `expected` names a law that is not among them.
    """
    return check(model, LAWS, expected)


def model_cases(model: ScoreModel) -> list[Any]:
    """The laws of a model as pytest parameters.

    Parameters
    ----------
    model
        As for `check_model`.
    """
    return cases(model, LAWS)
