"""What tests of wrong processes share: laws that break together, a row of their tables, and two faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

import sdegen
from sdegen import OU, Cosine
from sdegen.testing import check_sde


class TooShort(OU):
    """``T = 1``: the ring shows through the matched Gaussian."""

    def __init__(self) -> None:
        super().__init__(T=1.0)


class ShrunkData(Cosine):
    """``alpha(0) = 0.9``."""

    def alpha(self, t: Tensor) -> Tensor:
        return 0.9 * super().alpha(t)

    time = sdegen.LinearSDE.time


# Closed forms and coefficients say two things: every law that holds one against the other may break.
CONTRADICTION = {
    "closed_form_matches_coefficients",
    "kernel_is_generated_by_the_coefficients",
    "moments_follow_their_odes",
    "schedule_keeps_its_digits",
    "simulation_follows_the_kernel",
}
# A flow of wrong moments, and a root of a wrong covariance.
MATRIX_CONTRADICTION = CONTRADICTION | {"flow_carries_the_marginals", "root_solves_its_equation"}
# A square root of a negative number is NaN wherever it is looked at.
NOT_A_NUMBER = {
    "clock_inverts_the_snr",
    "closed_form_matches_coefficients",
    "coefficients_keep_their_digits",
    "kernel_is_generated_by_the_coefficients",
    "marginals_compose",
    "moments_follow_their_odes",
    "reversal_keeps_the_marginals",
    "rows_are_independent",
}
# What raises an exception for some states breaks every law that asks it about such states.
ASKS = {
    "coefficients_keep_their_digits",
    "derivatives_reach_the_drift",
    "kernel_is_generated_by_the_coefficients",
    "kernel_score_is_its_gradient",
    "methods_are_functions",
    "perturb_follows_the_simulation",
    "perturbation_is_its_kernel",
    "prior_is_the_law_at_T",
    "reversal_pulls_along_the_score",
    "rows_are_independent",
    "short_kernel_agrees_with_half_steps",
    "simulation_follows_the_kernel",
}


def wrong(make: Callable[[], sdegen.SDE], law: str, *also: str | set[str]) -> Any:
    """A fault, the law that must name it, and the others that may break with it."""
    allowed = {law}.union(*({a} if isinstance(a, str) else a for a in also))
    return pytest.param(make, law, allowed, id=make.__name__)


def check_fault(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    """Hold a wrong process against the laws: the one that names its fault breaks, and none beside those allowed."""
    report = check_sde(make())
    assert not report.passed
    assert law in report.failures, report
    assert set(report.failures) <= allowed, report
