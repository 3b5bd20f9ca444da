"""Wrong samplers, one fault each: `check_sampler` rejects every one by the law that names its fault."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.samplers import DDIM, Ancestral, Heun, Langevin, Multistep, Sampler
from sdegen.testing import check_sampler, gaussian_data, response, sampler_cases
from sdegen.testing.report import Violation
from sdegen.testing.samplers import Case


class LosesAMove(DDIM):
    """The last move has no coefficients."""

    def plan(self, model: Any, times: Tensor) -> Any:
        return super().plan(model, times)[:-1]


class LeavesTheProcess(DDIM):
    """The first time lies beyond T."""

    def times(self, sde: Any, denoise: bool) -> Tensor:
        return 1.1 * super().times(sde, denoise)

    def plan(self, model: Any, times: Tensor) -> Any:
        return super().plan(model, times / 1.1)


class WritesInPlace(DDIM):
    """The state that is given is overwritten."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        x_s, state = super().step(model, x, c, noise, state)
        return x.copy_(x_s), state


class ComputesInFloat64(DDIM):
    """Whatever comes in, float64 goes out."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        return super().step(model, x.double(), c, noise, state)


class Centred(DDIM):
    """The batch is centred a little in every step."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        return super().step(model, x - 1e-3 * x.mean(0), c, noise, state)


class MixedInMemory(Multistep):
    """The first step is right; what it remembers is a mean over the batch, which the next ones use."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        x_s, memory = super().step(model, x, c, noise, state)
        return x_s, memory._replace(history=[0.99 * q + 0.01 * q.mean(0) for q in memory.history])


class RemembersByItself(Multistep):
    """The memory is kept on the sampler and not handed on."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        x_s, self.memory = super().step(model, x, c, noise, getattr(self, "memory", None))
        return x_s, None


class OwnNoise(Ancestral):
    """Noise comes from torch's generator."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        return super().step(model, x, c, torch.randn_like, state)


class TooMuchNoise(Ancestral):
    """A fifth more noise than there is."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        return super().step(model, x, c, lambda like: 1.2 * noise(like), state)


class LangevinWithoutTwo(Langevin):
    """``√h`` for ``√(2 h)``: a sampler that claims no order, of the wrong law."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        return super().step(model, x, c, lambda like: noise(like) / math.sqrt(2), state)


class ForgetsItsHistory(Multistep):
    """Every step is a first step: order one."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        x_s, _ = super().step(model, x, c._replace(move=c.move._replace(weights=c.move.weights[:1])), noise, None)
        return x_s, None


class ClaimsTooMuch(Heun):
    """Heun's method, said to be of order three."""

    convergence_order = 3


class Clamps(DDIM):
    """The state is clamped: not affine, so that its law has no closed form."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        return super().step(model, x.clamp(-0.5, 0.5), c, noise, state)


class NotANumber(DDIM):
    """NaN everywhere."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        return x * math.nan, None


LAW, ORDER = "samples_have_the_law_of_the_model", "error_falls_at_the_order_claimed"
STEP = "step_returns_a_state_like_the_one_given"
HAVING_RUN = {"rows_do_not_mix", "memory_is_handed_from_step_to_step", "seed_reproduces_the_run", LAW, ORDER}
# The sampler, the law that names its fault, and the others that may break with it.
FAULTS: list[tuple[Callable[[int], Sampler], str, set[str]]] = [
    (LosesAMove, "every_move_has_its_coefficients", HAVING_RUN),
    (LeavesTheProcess, "every_move_has_its_coefficients", {*HAVING_RUN, STEP}),
    (WritesInPlace, STEP, HAVING_RUN),
    (ComputesInFloat64, STEP, set()),
    (Centred, "rows_do_not_mix", {LAW, ORDER}),
    (lambda n: MixedInMemory(n, order=2), "rows_do_not_mix", {LAW, ORDER}),
    (
        lambda n: RemembersByItself(n, order=2),
        "memory_is_handed_from_step_to_step",
        {*HAVING_RUN, STEP},
    ),
    (OwnNoise, "seed_reproduces_the_run", HAVING_RUN),
    (TooMuchNoise, LAW, {ORDER}),
    (lambda n: LangevinWithoutTwo(200, t=0.3), LAW, set()),
    (lambda n: ForgetsItsHistory(n, order=2), ORDER, {LAW}),
    (ClaimsTooMuch, ORDER, set()),
    (Clamps, LAW, {ORDER}),
    (NotANumber, STEP, HAVING_RUN),
]


@pytest.mark.parametrize(("make", "law", "also"), FAULTS, ids=lambda v: getattr(v, "__name__", ""))
def test_fault_is_named(make: Callable[[int], Sampler], law: str, also: set[str]) -> None:
    report = check_sampler(make, sdegen.VP(), steps=(16, 32))
    assert law in report.failures, report
    assert set(report.failures) <= {law, *also}, report


def test_numbers_of_a_broken_order_are_printed() -> None:
    report = check_sampler(ClaimsTooMuch, sdegen.VP(), steps=(16, 32))
    assert str(report).startswith("ClaimsTooMuch on VP: 6 of 7 laws hold")
    assert "observed order 1.98 with error" in str(report) and "claimed 3" in str(report)


def test_runs_begin_with_the_law_at_the_first_time_and_are_held_to_the_law_at_the_last() -> None:
    sde = sdegen.VE()
    case = Case(DDIM, sde, None, (2, 4), 0.1, False)
    x, (mean, covariance) = case.states(case.few, 4000).flatten(1), case.truth(case.few)
    of_data = gaussian_data().covariances[0]
    first, last = (of_data + sde.sigma(t).square() * torch.eye(2) for t in case.few.times(sde, False)[[0, -1]])
    torch.testing.assert_close(covariance, last)
    torch.testing.assert_close(mean, gaussian_data().means[0])
    assert (x.T.cov() - first).norm() < 5 * (2 / 4000) ** 0.5 * first.norm()


def test_a_run_that_is_not_affine_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Clamps is not affine in its start"):
        response(Clamps(4), sdegen.Exact(sdegen.VP(), gaussian_data()))


def test_what_is_no_sampler_and_no_linear_process_is_refused() -> None:
    with pytest.raises(TypeError, match=r"make.* returned a ABCMeta; give a function of the steps"):
        check_sampler(lambda n: DDIM, sdegen.VP())  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="sde is a DoubleWell; give a linear SDE"):
        check_sampler(DDIM, sdegen.DoubleWell())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no_such_law"):
        check_sampler(DDIM, sdegen.VP(), expected={"no_such_law": "misspelt"})


@pytest.mark.parametrize("law", sampler_cases(DDIM, sdegen.VP(), steps=(16, 32)))
def test_laws_as_pytest_cases(law: Callable[[], None]) -> None:
    law()


@pytest.mark.parametrize("settings", [{"order": 5.0}, {"largest": 1e-9}, {"final": "denoise", "largest": 1e-9}])
def test_cases_are_held_to_the_settings_that_they_are_given(settings: dict[str, Any]) -> None:
    broken = []
    for law in sampler_cases(DDIM, sdegen.VP(), steps=(16, 32), **settings):
        try:
            law.values[0]()
        except Violation:
            broken.append(law.id)
    assert broken == list(check_sampler(DDIM, sdegen.VP(), steps=(16, 32), **settings).failures) != []
