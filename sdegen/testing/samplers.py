"""The laws of a sampler: the law of its samples, its order of convergence, and that samples do not depend on each other.

For samplers that claim an order the first two are computed without Monte Carlo on Gaussian data (`affine`). If a sampler claims
none, because its steps are chosen by a tolerance or its error does not vanish with the step, its samples are compared with the
truth, within standard errors.
"""

from __future__ import annotations

__all__ = [
    "Case",
    "FEW",
    "LAWS",
    "MOST",
    "NoiseByRow",
    "ROUNDING",
    "SHORTFALL",
    "check_sampler",
    "error_falls_at_the_order_claimed",
    "every_move_has_its_coefficients",
    "memory_is_handed_from_step_to_step",
    "observed_order",
    "order_between",
    "rows_do_not_mix",
    "sampler_cases",
    "samples_have_the_law_of_the_model",
    "seed_reproduces_the_run",
    "step_returns_a_state_like_the_one_given",
]

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_choice, check_number
from ..laws.mixtures import Moments
from ..models.exact import Exact
from ..processes.linear import LinearSDE
from ..samplers import SampleNoise, Sampler, sample
from .affine import affine_moments, gaussian_data, take_steps
from .report import STATISTICAL, Law, Report, Violation, cases, check

ROUNDING = 1e-9  # of the covariance: a smaller error counts as none, and shows no order
SHORTFALL = 0.15  # by how much the order observed between two step counts may fall short of the one claimed
FEW = 8  # steps of the runs on which no accuracy is measured
MOST = 6  # rows of the runs with `NoiseByRow`


@dataclass(frozen=True)
class Case:
    """A sampler with the process and the data on which its laws are checked; see `check_sampler`."""

    make: Callable[[int], Sampler]
    sde: LinearSDE
    order: float | None
    steps: tuple[int, int]
    largest: float
    denoise: bool

    @cached_property
    def model(self) -> Exact:
        """The exact model of Gaussian data, given other moments: a solver built around the true ones would make no error."""
        model = Exact(self.sde, gaussian_data())
        model.moments = Moments(torch.zeros(2, dtype=torch.float64), torch.tensor([0.5, 1.0]).double().diag())
        return model

    @cached_property
    def few(self) -> Sampler:
        """A sampler of few steps."""
        return self.make(FEW)

    @cached_property
    def plan(self) -> list[Any]:
        """The coefficients of the steps of `few`."""
        return self.few.plan(self.model, self.few.times(self.sde, self.denoise))

    def states(self, sampler: Sampler, n: int, seed: int = 1) -> Tensor:
        """`n` draws from the true law at the sampler's first time."""
        law = self.sde.diffused(self.model.distribution, sampler.times(self.sde, self.denoise)[0])
        return law.sample(n, torch.Generator().manual_seed(seed))

    def truth(self, sampler: Sampler) -> tuple[Tensor, Tensor]:
        """Mean ``(D,)`` and covariance of the true law at the sampler's last time."""
        law = self.sde.diffused(self.model.distribution, sampler.times(self.sde, self.denoise)[-1])
        mean, covariance = law.moments()
        return mean.flatten(), covariance

    def error(self, steps: int) -> float:
        """Distance of the exact mean and covariance of the samples from the true ones, relative to the covariance."""
        sampler = self.make(steps)
        found = affine_moments(sampler, self.model, self.denoise)
        want = self.truth(sampler)
        gap = torch.cat([(a - b).flatten() for a, b in zip(found, want, strict=True)])
        return (gap.norm() / want[1].norm()).item()

    @cached_property
    def errors(self) -> tuple[float, float]:
        """The errors at both step counts."""
        return self.error(self.steps[0]), self.error(self.steps[1])


class NoiseByRow:
    """A noise source that gives a row the same numbers in a batch of any size, up to `MOST` rows: they depend only on the seed,
    the number of calls before, and the row.
    """

    def __init__(self, seed: int) -> None:
        self.seed, self.calls = seed, 0

    def __call__(self, like: Tensor) -> Tensor:
        """Return the noise of this call."""
        self.calls += 1
        generator = torch.Generator().manual_seed(1000 * self.seed + self.calls)
        return torch.randn(MOST, *like.shape[1:], dtype=torch.float64, generator=generator)[: len(like)].to(like)


def every_move_has_its_coefficients(case: Case) -> None:
    """Times lie in ``[0, T]``, and `plan` returns one entry for each move between them."""
    times = case.few.times(case.sde, case.denoise)
    if not ((times >= 0) & (times <= case.sde.T * (1 + 1e-12))).all():
        raise Violation(f"times run from {times.min():.4g} to {times.max():.4g}, outside [0, T] = [0, {case.sde.T:g}]")
    if len(case.plan) != len(times) - 1:
        raise Violation(f"plan has {len(case.plan)} entries for {len(times)} times, expected {len(times) - 1}")


def step_returns_a_state_like_the_one_given(case: Case) -> None:
    """A step keeps shape and dtype, in float32 too, and leaves the state that it is given as it is."""
    for dtype in (torch.float64, torch.float32):
        x, state = case.states(case.few, 4).to(dtype), None
        for c in case.plan:
            kept = x.clone()
            after, state = case.few.step(case.model, x, c, torch.zeros_like, state)
            if not torch.equal(x, kept):
                raise Violation("step writes into the state that it is given")
            if not after.isfinite().all():
                raise Violation("step returns a state that is not finite")
            if after.shape != x.shape or after.dtype != dtype:
                raise Violation(f"step turns {dtype} {tuple(x.shape)} into {after.dtype} {tuple(after.shape)}")
            x = after


def rows_do_not_mix(case: Case) -> None:
    """A sample does not depend on the others of its batch, in any step; if steps are adaptive, by no more than a tolerance."""
    x = case.states(case.few, MOST)
    together = take_steps(case.few, case.plan, case.model, x, NoiseByRow(2))
    alone = take_steps(case.few, case.plan, case.model, x[:1], NoiseByRow(2))
    tolerance = 1e-7 if case.order is not None else 1e-3  # adaptive steps are chosen for all rows together
    gap = ((together[:1] - alone).abs() / (1 + alone.abs())).max().item()
    if not gap <= tolerance:
        raise Violation(f"a sample moves by {gap:.2g} with the other rows of its batch")


def memory_is_handed_from_step_to_step(case: Case) -> None:
    """A step remembers only what it returns: two interleaved runs equal two separate runs."""
    starts, noises = [case.states(case.few, 3, seed) for seed in (1, 2)], [NoiseByRow(seed) for seed in (3, 4)]
    apart = [take_steps(case.few, case.plan, case.model, x, NoiseByRow(s)) for x, s in zip(starts, (3, 4), strict=True)]
    runs: list[tuple[Tensor, Any]] = [(x, None) for x in starts]
    for c in case.plan:
        runs = [case.few.step(case.model, x, c, z, state) for (x, state), z in zip(runs, noises, strict=True)]
    for (x, _), want in zip(runs, apart, strict=True):
        if not torch.allclose(x, want, rtol=1e-9, atol=1e-12):
            raise Violation("a run changes with another one between its steps: the sampler keeps something of its own")


def seed_reproduces_the_run(case: Case) -> None:
    """Two runs of `sample` with one seed are equal."""
    final = "denoise" if case.denoise else "sample"
    first, second = (sample(case.model, 16, sampler=case.make(FEW), seed=4, final=final) for _ in range(2))
    if not torch.equal(first, second):
        raise Violation("two runs with one seed differ")


def samples_have_the_law_of_the_model(case: Case) -> None:
    """Mean and covariance at the last time, computed exactly or of samples, are those of the noised data."""
    if case.order is not None:
        if not case.errors[1] <= case.largest:
            raise Violation(
                f"mean and covariance are off by {case.errors[1]:.2g} of the covariance at {case.steps[1]} steps, "
                f"{case.largest:g} allowed"
            )
        return
    n, sampler = 4000, case.make(case.steps[1])
    plan = sampler.plan(case.model, sampler.times(case.sde, case.denoise))
    x = take_steps(sampler, plan, case.model, case.states(sampler, n), SampleNoise(5)).flatten(1)
    mean, covariance = case.truth(sampler)
    size = covariance.norm()
    for name, gap, error in (
        ("mean", (x.mean(0) - mean).norm() / size.sqrt(), n**-0.5),
        ("covariance", (x.T.cov() - covariance).norm() / size, (2 / n) ** 0.5),
    ):
        if not gap <= case.largest + STATISTICAL * error:
            raise Violation(f"the {name} of {n} samples is off by {gap.item():.2g}, {case.largest:g} allowed")


def error_falls_at_the_order_claimed(case: Case) -> None:
    """The error of mean and covariance falls at the claimed order, unless it is zero already or no order is claimed."""
    if case.order is None or case.errors[1] <= ROUNDING:
        return
    found = order_between(case.errors, case.steps)
    if not found >= case.order - SHORTFALL:
        raise Violation(
            f"observed order {found:.2f} with error {case.errors[1]:.2g} at {case.steps[1]} steps, claimed {case.order:g}"
        )


LAWS: list[Law] = [
    every_move_has_its_coefficients,
    step_returns_a_state_like_the_one_given,
    rows_do_not_mix,
    memory_is_handed_from_step_to_step,
    seed_reproduces_the_run,
    samples_have_the_law_of_the_model,
    error_falls_at_the_order_claimed,
]


def order_between(errors: tuple[float, float], steps: tuple[int, int]) -> float:
    """Return the order with which an error falls between two step counts."""
    return math.log(errors[0] / errors[1]) / math.log(steps[1] / steps[0])


@check_arguments
def observed_order(
    make: Callable[[int], Sampler], sde: LinearSDE, steps: tuple[int, int] = (64, 128)
) -> tuple[float, float]:
    """Compute the order with which the error falls between two step counts on Gaussian data, and return it with the last error.

    Parameters
    ----------
    make, sde, steps
        As for `check_sampler`.

    Raises
    ------
    ValueError
        If the sampler chooses its steps by the state.
    """
    case = Case(make, sde, None, steps, math.inf, False)
    return order_between(case.errors, steps), case.errors[1]


@check_arguments
def check_sampler(
    make: Callable[[int], Sampler],
    sde: LinearSDE,
    order: float | None = None,
    steps: tuple[int, int] = (64, 128),
    largest: float = 0.1,
    final: str = "sample",
    expected: dict[str, str] | None = None,
) -> Report:
    """Check a sampler, of the library or your own, against its laws on a linear SDE, and return a `Report`.

    Subclass `Sampler` with `plan`, which forms the coefficients of every step, and `step`. What a step has to remember for the
    next is the second value that it returns. Declare the order of convergence as `convergence_order`.

    Parameters
    ----------
    make
        Called with a number of steps; returns the sampler.
    sde
        A linear SDE.
    order
        The order that the sampler claims; by default that which the sampler of fewer steps declares. An observed order of 0.15
        less is allowed, and any order if the error is rounding. If no order is declared, samples are compared with the truth
        instead.
    steps
        Step counts between which the order is observed.
    largest
        The largest relative error of mean and covariance that is allowed at the larger step count.
    final
        ``"denoise"`` for a sampler whose last move is to the posterior mean, as in `sample`; the laws are about the state before.
    expected
        Laws that are expected to fail, by name, each with its reason.

    Returns
    -------
    Report
        Printable; ``.passed``, and ``.failures`` with the names of the broken laws.

    Raises
    ------
    TypeError
        If `make` does not return a sampler, or the process is not linear.
    ValueError
        If `expected` names a law that is not among them.

    Examples
    --------
    >>> import sdegen
    >>> check_sampler(sdegen.samplers.Heun, sdegen.VP()).passed
    True
    """
    case = _case(make, sde, order, steps, largest, final)
    report = check(case, LAWS, expected)
    report.subject = f"{type(case.few).__name__} on {type(sde).__name__}"
    return report


@check_arguments
def sampler_cases(make: Callable[[int], Sampler], sde: LinearSDE, **settings: Any) -> list[Any]:
    """Return the laws of a sampler as pytest parameters; see `report.cases`.

    Parameters
    ----------
    make, sde
        As for `check_sampler`.
    settings
        ``order``, ``steps``, ``largest`` and ``final``, as for `check_sampler`.
    """
    return cases(_case(make, sde, **settings), LAWS)


def _case(
    make: Callable[[int], Sampler],
    sde: LinearSDE,
    order: float | None = None,
    steps: tuple[int, int] = (64, 128),
    largest: float = 0.1,
    final: str = "sample",
) -> Case:
    """Check the arguments of `check_sampler`, and return the case on which the laws are checked."""
    check_number("largest", largest, above=0), check_choice("final", final, ("sample", "denoise"))
    if order is not None:
        check_number("order", order, above=0)
    made = make(steps[0])
    if not isinstance(made, Sampler):
        raise TypeError(
            f"make({steps[0]}) returned a {type(made).__name__}; give a function of the steps that makes a sampler."
        )
    return Case(make, sde, made.convergence_order if order is None else order, steps, largest, final == "denoise")
