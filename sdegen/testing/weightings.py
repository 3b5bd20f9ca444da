"""The laws of a weighting, which is an operator for every time, and of a law of training times, which has a factor that undoes
it.
"""

from __future__ import annotations

__all__ = [
    "Lambda",
    "TIME_LAWS",
    "Timed",
    "WEIGHTING_LAWS",
    "Weighted",
    "Weighting",
    "check_times",
    "check_weighting",
    "factor_undoes_the_law",
    "generator_decides_the_draw",
    "rows_do_not_mix",
    "square_is_lambda",
    "times_cases",
    "times_lie_inside",
    "weight_is_an_operator_for_every_row",
    "weighting_cases",
    "weights_are_finite_and_not_zero",
]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.operators import Operator
from ..processes.base import SDE
from ..processes.times import TimeLaw
from .laws.probes import SHAPES, states, times
from .report import EXACT, STATISTICAL, Law, Report, Violation, cases, check, close

Lambda = Callable[[Tensor], Tensor]
Weighting = Callable[[SDE, Tensor], Operator]  # `training.weightings.Weighting`, or a function


@dataclass(frozen=True)
class Weighted:
    """A weighting with the process on which its laws are checked, and its documented lambda."""

    weighting: Weighting
    sde: SDE
    weight: Lambda | None


def weight_is_an_operator_for_every_row(case: Weighted) -> None:
    """The weighting at times ``(B,)`` acts on states of any shape, and keeps shape and dtype."""
    t = times(case.sde, 5)
    W = case.weighting(case.sde, t)
    if not isinstance(W, Operator):
        raise Violation(f"weighting(sde, t) is a {type(W).__name__}, expected an operator such as Scale")
    for shape in SHAPES:
        for x in (states(case.sde, 5, *shape), states(case.sde, 5, *shape).float()):
            out = W(x)
            if out.shape != x.shape or out.dtype != x.dtype:
                raise Violation(f"the weight turns {x.dtype} {tuple(x.shape)} into {out.dtype} {tuple(out.shape)}")


def weights_are_finite_and_not_zero(case: Weighted) -> None:
    """Inside ``(t_min, T)`` weights are finite, and every time has some weight."""
    t = case.sde.t_min + (case.sde.T - case.sde.t_min) * torch.linspace(0.0, 0.99, 41, dtype=torch.float64)
    W = case.weighting(case.sde, t).matrix()
    W = W.expand(len(t), *W.shape[-2:])
    if not W.isfinite().all():
        raise Violation(f"the weight is not finite at t = {t[~W.isfinite().flatten(1).all(1)][0].item():.4g}")
    if not (W.flatten(1).abs().amax(1) > 0).all():
        raise Violation("the weight is zero at some time")


def square_is_lambda(case: Weighted) -> None:
    """``Wᵀ W`` is the documented weight of the squared score error, a number or a matrix across the channels."""
    if case.weight is None:
        return
    t = times(case.sde)
    W = case.weighting(case.sde, t).matrix()
    square, want = W.mT @ W, case.weight(t)
    want = want[:, None, None] * torch.eye(square.shape[-1]).double() if want.ndim == 1 else want
    close("WᵀW", square.expand(want.shape), want, 1e-8, want.abs().amax((1, 2), keepdim=True))


def rows_do_not_mix(case: Weighted) -> None:
    """The weight at a time does not depend on the other times of the batch."""
    t = times(case.sde, 5)
    x = states(case.sde, 5, 3)
    together = case.weighting(case.sde, t)(x)
    alone = torch.cat([case.weighting(case.sde, t[i : i + 1])(x[i : i + 1]) for i in range(5)])
    close("the weighted state in a batch", together, alone, EXACT, 1 + alone.abs())


WEIGHTING_LAWS: list[Law] = [
    weight_is_an_operator_for_every_row,
    weights_are_finite_and_not_zero,
    square_is_lambda,
    rows_do_not_mix,
]


@check_arguments
def check_weighting(
    weighting: Weighting, sde: SDE, weight: Lambda | None = None, expected: dict[str, str] | None = None
) -> Report:
    """Check a weighting, of the library or your own, against its laws on an SDE, and return a `Report`.

    Subclass `weightings.Weighting` with ``operator(sde, at)``, which returns the operator `W` of the loss
    ``‖W (s − target)‖²`` at the times of ``at = sde.at(t)``: a `Scale` of as many numbers, or a `Matrix` across the channels of a
    matrix process.

    Parameters
    ----------
    weighting
        The weighting, of the library or your own.
    sde
        Any SDE to which the weighting applies.
    weight
        The same weighting by another route: called with times ``(B,)``, it returns lambda, the weight of the squared score error,
        as numbers ``(B,)``, or as matrices ``(B, k, k)`` on a matrix process. None leaves that law out.
    expected
        Laws that are expected to fail, by name, each with its reason.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    ValueError
        If `expected` names a law that is not among them.

    Examples
    --------
    >>> import sdegen
    >>> sde = sdegen.VP()
    >>> check_weighting(sdegen.weightings.LikelihoodWeighting(), sde, lambda t: sde.g(t).square()).passed
    True
    """
    report = check(Weighted(weighting, sde, weight), WEIGHTING_LAWS, expected)
    report.subject = f"{type(weighting).__name__} on {type(sde).__name__}"
    return report


@check_arguments
def weighting_cases(weighting: Weighting, sde: SDE, weight: Lambda | None = None) -> list[Any]:
    """Return the laws of a weighting as pytest parameters; see `report.cases`.

    Parameters
    ----------
    weighting, sde, weight
        As for `check_weighting`.
    """
    return cases(Weighted(weighting, sde, weight), WEIGHTING_LAWS)


@dataclass(frozen=True)
class Timed:
    """A law of training times with the process on which it is checked."""

    law: TimeLaw
    sde: SDE

    def draw(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """`n` times and their factors."""
        return self.law.sample(self.sde, n, torch.Generator().manual_seed(seed))


def times_lie_inside(case: Timed) -> None:
    """As many times as asked for, float64, in ``[t_min, T]``, each with a factor that is finite and positive."""
    for n in (1, 7, 1000):
        t, factor = case.draw(n)
        if t.shape != (n,) or factor.shape != (n,) or t.dtype != torch.float64:
            raise Violation(f"sample(sde, {n}) gave {t.dtype} {tuple(t.shape)} times and {tuple(factor.shape)} factors")
        slack = 1e-12 * case.sde.T
        if not ((t >= case.sde.t_min - slack) & (t <= case.sde.T + slack)).all():
            raise Violation(
                f"times run from {t.min().item():.6g} to {t.max().item():.6g}, outside [{case.sde.t_min:g}, {case.sde.T:g}]"
            )
        if not (factor.isfinite() & (factor > 0)).all():
            raise Violation("a factor is not finite, or not positive")


def generator_decides_the_draw(case: Timed) -> None:
    """The same state of the generator gives the same draw, and another state another draw."""
    first, second, other = case.draw(16)[0], case.draw(16)[0], case.draw(16, seed=1)[0]
    if not torch.equal(first, second):
        raise Violation("two draws from one seed differ")
    if torch.equal(first, other):
        raise Violation("draws from two seeds are the same: the generator is not used")


def factor_undoes_the_law(case: Timed) -> None:
    """The mean of ``factor · h(t)`` is that of `h` over times uniform in ``[t_min, T]``, within five standard errors."""
    a, b = case.sde.t_min, case.sde.T
    runs = [case.draw(64, seed) for seed in range(400)]
    fine = a + (b - a) * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "1": torch.ones_like,
        "t": lambda t: t / b,
        "cos 7t": lambda t: (7 * t / b).cos(),
        "late times": lambda t: (t > 0.8 * b).double(),
    }
    for name, h in functions.items():
        means = torch.stack([(factor * h(t)).mean() for t, factor in runs])
        error = means.std() / len(means) ** 0.5
        gap = (means.mean() - h(fine).mean()).abs()
        if not gap <= STATISTICAL * error + 1e-3:
            raise Violation(
                f"the mean of factor · h(t), h = {name}, is {means.mean().item():.4g} ± {error.item():.1g}, "
                f"expected {h(fine).mean().item():.4g}"
            )


TIME_LAWS: list[Law] = [times_lie_inside, generator_decides_the_draw, factor_undoes_the_law]


@check_arguments
def check_times(law: TimeLaw, sde: SDE, expected: dict[str, str] | None = None) -> Report:
    """Check a law of training times, of the library or your own, against its laws on an SDE, and return a `Report`.

    Subclass `TimeLaw` with ``sample(sde, n, generator)``, which returns `n` times and the factor on the loss of each: one over
    the density relative to that of uniform times, so that the objective stays what it is.

    Parameters
    ----------
    law
        The law of times, of the library or your own.
    sde
        Any SDE to which the law of times applies.
    expected
        Laws that are expected to fail, by name, each with its reason; for a law of times that is part of the objective,
        ``{"factor_undoes_the_law": "..."}``.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    ValueError
        If `expected` names a law that is not among them.

    Examples
    --------
    >>> import sdegen
    >>> check_times(sdegen.weightings.AngleTimes(), sdegen.VP()).passed
    True
    """
    report = check(Timed(law, sde), TIME_LAWS, expected)
    report.subject = f"{type(law).__name__} on {type(sde).__name__}"
    return report


@check_arguments
def times_cases(law: TimeLaw, sde: SDE) -> list[Any]:
    """Return the laws of a law of times as pytest parameters; see `report.cases`.

    Parameters
    ----------
    law, sde
        As for `check_times`.
    """
    return cases(Timed(law, sde), TIME_LAWS)
