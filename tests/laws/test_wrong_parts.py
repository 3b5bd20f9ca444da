"""Wrong models, wrappers, parametrisations, weightings and laws of times, one fault each, named by the law that finds it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import VP, guidance
from sdegen.laws.operators import Operator, Scale
from sdegen.models.parametrizations import (
    Coefficients,
    EDMParametrization,
    Parametrization,
    VelocityParametrization,
)
from sdegen.models.score import ScoreModel
from sdegen.models.wrapper import Conditioned, Wrapper
from sdegen.processes.times import ImportanceTimes, TimeLaw, UniformTimes
from sdegen.testing import (
    Report,
    check_model,
    check_parametrization,
    check_times,
    check_weighting,
    check_wrapper,
    model_cases,
    parametrization_cases,
    times_cases,
    weighting_cases,
    wrapper_cases,
)
from sdegen.training.weightings import UniformWeighting, Weighting

RING = sdegen.data.gaussian_ring()
Fault = tuple[Any, str, set[str]]  # what is wrong, the law that names it, and others that may break with it
names = lambda value: getattr(value, "__name__", "")


def named(report: Report, law: str, also: set[str]) -> None:
    assert set(report.failures) == {law, *also}, report


# --- models -----------------------------------------------------------------------------------------------------------


class CastsToFloat64(sdegen.Exact):
    """Whatever comes in, float64 goes out."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return super().score(x.double(), t)


class NotFinite(sdegen.Exact):
    """The score of one state of several is infinite."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        first = torch.zeros_like(x)
        first[0] = torch.inf
        return super().score(x, t) + first


class Random(sdegen.Exact):
    """Another score at each call."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return super().score(x, t) + 1e-12 * torch.randn_like(x)


class InPlace(sdegen.Exact):
    """The state that is given is overwritten."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        score = super().score(x, t)
        x += 1e-13
        return score


class Mixing(sdegen.Exact):
    """The mean of the batch has a say."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return super().score(x, t) + 1e-4 * x.mean()


class FirstTimeForAll(sdegen.Exact):
    """Every row is asked at the first one's time, in all readings."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return super().score(x, torch.as_tensor(t).reshape(-1)[0])


class OneTimeForAllIsAnother(sdegen.Exact):
    """One time for several rows is taken for a later one."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        t = torch.as_tensor(t)
        return super().score(x, 1.001 * t if t.ndim == 0 and len(x) > 1 else t)


class WrongSign(sdegen.Exact):
    """The noise has the wrong sign."""

    def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
        x_0, eps = super().estimate(x, t)
        return x_0, -eps


class OwnDenoiser(sdegen.Exact):
    """`denoise` is overridden and `estimate` is not."""

    def denoise(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return 0.9 * super().denoise(x, t)


class OwnNoise(sdegen.Exact):
    """`noise` is overridden and `estimate` is not."""

    def noise(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return 0.9 * super().noise(x, t)


class OwnVelocity(sdegen.Exact):
    """`velocity_at` is overridden and `estimate` is not."""

    def velocity_at(self, x: Tensor, at: Any, **cond: Any) -> Tensor:
        return 0.9 * super().velocity_at(x, at)


class DividesByAlpha(sdegen.Exact):
    """Clean data by division, without a value where there is no signal."""

    def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
        at = self.sde.marginal(t)
        eps = at.noise_from_score(self.score(x, t))
        return at.Phi.inv()(x - at.R(eps)), eps


class ForgetsTheScore(sdegen.Exact):
    """Questions lose the weight of the score."""

    def ask(self, t: Tensor, **weights: Any) -> list[Any]:
        return super().ask(t, **{name: W for name, W in weights.items() if name != "score"})


MODELS: list[Fault] = [
    (CastsToFloat64, "score_has_the_shape_of_the_state", set()),
    (NotFinite, "score_has_the_shape_of_the_state", {"readings_agree", "rows_do_not_mix"}),
    (Random, "readings_are_functions", set()),
    (InPlace, "readings_are_functions", {"answers_are_sums_of_readings"}),
    (Mixing, "rows_do_not_mix", {"readings_agree"}),
    (FirstTimeForAll, "rows_do_not_mix", {"readings_agree"}),
    (OneTimeForAllIsAnother, "rows_do_not_mix", set()),
    (WrongSign, "readings_agree", set()),
    (OwnDenoiser, "readings_agree", {"answers_are_sums_of_readings"}),
    (OwnNoise, "readings_agree", {"answers_are_sums_of_readings"}),
    (OwnVelocity, "readings_agree", set()),
    (ForgetsTheScore, "answers_are_sums_of_readings", set()),
]


@pytest.mark.parametrize(("kind", "law", "also"), MODELS, ids=names)
def test_a_wrong_model_is_named(kind: type[sdegen.Exact], law: str, also: set[str]) -> None:
    named(check_model(kind(VP(), RING)), law, also)


def test_a_model_without_a_value_at_an_end_is_named() -> None:
    named(check_model(DividesByAlpha(sdegen.Cosine(), RING)), "readings_are_finite_at_both_ends", set())


def test_what_is_no_model_is_refused() -> None:
    for thing, what in ((sdegen.Exact, "the class Exact"), (nn.Linear(1, 1), "a Linear"), (None, "None")):
        with pytest.raises(TypeError, match=f"model is {what}; give a score model"):
            check_model(thing)  # type: ignore[arg-type]


# --- wrappers ---------------------------------------------------------------------------------------------------------


class Outside(Wrapper):
    """Around a model, changing nothing: what the faults below derive from."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return self.model.score(x, t, **cond)

    def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
        return self.model.estimate(x, t, **cond)


class AnotherProcess(Outside):
    """Its process is a copy."""

    sde = VP()  # type: ignore[assignment]


class TakesAnyStates(Outside):
    """It does not say that the network inside has a dtype."""

    like = None


class EndsByItself(Outside):
    """Its end is its own."""

    end = None


class CopiesMoments(ScoreModel):
    """Moments and end are copied when it is made."""

    def __init__(self, model: ScoreModel) -> None:
        self.model, self.sde, self.moments, self.end = model, model.sde, model.moments, model.end

    @property
    def like(self) -> Tensor | None:
        return self.model.like

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return self.model.score(x, t, **cond)

    def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
        return self.model.estimate(x, t, **cond)


class LosesVariance(Outside):
    """What was learned of reversed steps is lost."""

    reversal = None


class KeepsItAwake(Outside):
    """The model inside is put into training mode when it is asked."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        assert isinstance(self.model, nn.Module)
        self.model.train()
        return super().score(x, t, **cond)


class Trains(sdegen.models.Trainable):
    """It is a model to be trained itself, though it shares all else."""

    moments, end = Wrapper.moments, Wrapper.end  # type: ignore[assignment]

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model, self.sde = model, model.sde

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return self.model.score(x, t, **cond)

    def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
        return self.model.estimate(x, t, **cond)


class ChangesTheModel(Outside):
    """Wrapping shrinks the weights of the model inside."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__(model)
        assert isinstance(model, sdegen.Model)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.99)


class ChangesOneReading(Outside):
    """The score is changed, and clean data are those of the model inside."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return 0.5 * super().score(x, t, **cond)


class MixesRows(Outside):
    """It follows the first row's noise in all."""

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return self.sde.marginal(t).score_from_noise(self.estimate(x, t)[1])  # type: ignore[attr-defined]

    def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
        at = self.sde.marginal(t)  # type: ignore[attr-defined]
        eps = super().estimate(x, t)[1]
        eps = eps + 0.1 * eps[:1]
        return at.Phi.inv()(x - at.R(eps)), eps


def network(variance: bool = False) -> sdegen.Model:
    torch.manual_seed(0)
    kind = sdegen.LearnedVariance if variance else sdegen.Model
    model = kind(sdegen.nets.MLP(2, width=16, depth=1, out=4 if variance else 2), VP()).double()
    nn.init.normal_(model.net.last.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    model.moments = RING.moments()
    return model


WRAPPERS: list[Fault] = [
    (AnotherProcess, "process_is_that_of_the_model_inside", set()),
    (TakesAnyStates, "process_is_that_of_the_model_inside", {"score_has_the_shape_of_the_state"}),
    (EndsByItself, "moments_and_end_are_shared", set()),
    (CopiesMoments, "moments_and_end_are_shared", set()),
    (KeepsItAwake, "mode_is_that_of_the_network_inside", set()),
    (Trains, "nothing_of_its_own_is_trained", set()),
    (ChangesTheModel, "model_inside_is_left_as_it_is", set()),
    (ChangesOneReading, "change_is_heard_in_every_reading", {"readings_agree"}),
    (MixesRows, "rows_do_not_mix", set()),
]


@pytest.mark.parametrize(("wrap", "law", "also"), WRAPPERS, ids=names)
def test_a_wrong_wrapper_is_named(wrap: Callable[[ScoreModel], ScoreModel], law: str, also: set[str]) -> None:
    named(check_wrapper(wrap, network()), law, also)


def test_a_wrapper_that_loses_a_learned_variance_is_named() -> None:
    named(check_wrapper(LosesVariance, network(variance=True)), "learned_variance_is_handed_on", set())


def test_a_neutral_value_that_changes_something_is_named() -> None:
    wrap = lambda model: guidance.EpsilonScaling(model, 1.05)
    named(check_wrapper(wrap, network(), neutral=wrap), "neutral_value_is_the_identity", set())


def test_a_function_that_makes_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"wrap\(model\) returned a ABCMeta"):
        check_wrapper(lambda model: type(model), network())  # type: ignore[arg-type, return-value]


# --- parametrisations -------------------------------------------------------------------------------------------------


class Inverts(VelocityParametrization):
    """A target whose coefficients are those of another: told apart by the truth alone."""

    asked = 0

    def target(self, at: Any) -> tuple[Operator, Operator]:
        self.asked += 1
        return at.A * (1.0 + 0.1 * (self.asked % 2)), at.B


class HalfTheRegression(EDMParametrization):
    """The Gaussian's own answer is halved."""

    def coefficients(self, sde: Any, t: Any, std: float) -> Coefficients:
        c = super().coefficients(sde, t, std)
        return c._replace(c_skip=c.c_skip * 0.5)


class Mute(EDMParametrization):
    """Whatever the network says is multiplied by nothing."""

    def coefficients(self, sde: Any, t: Any, std: float) -> Coefficients:
        c = super().coefficients(sde, t, std)
        return c._replace(c_out=c.c_out * 0.0)


class LoudInput(EDMParametrization):
    """The input is twice as large."""

    def coefficients(self, sde: Any, t: Any, std: float) -> Coefficients:
        c = super().coefficients(sde, t, std)
        return c._replace(c_in=c.c_in * 2.0)


class LogTime(VelocityParametrization):
    """The noise level is the logarithm of the time, infinite at 0."""

    def c_noise(self, at: Any) -> Tensor:
        return at.t.log()


class Backwards(VelocityParametrization):
    """The noise level falls."""

    def c_noise(self, at: Any) -> Tensor:
        return -super().c_noise(at)


class LevelInAColumn(VelocityParametrization):
    """The noise level has an axis too many."""

    def level(self, sde: Any, at: Any) -> Tensor:
        return super().level(sde, at).reshape(-1, 1)


class LevelOfTheBatch(VelocityParametrization):
    """The noise level is centred over the batch."""

    def c_noise(self, at: Any) -> Tensor:
        level = super().c_noise(at)
        return level - level.mean()


PARAMETRIZATIONS: list[Fault] = [
    (Inverts, "coefficients_invert_the_target", {"rows_do_not_mix"}),
    (HalfTheRegression, "silence_is_right_on_gaussian_data", set()),
    (Mute, "network_can_change_the_data", set()),
    (LoudInput, "input_has_unit_variance", set()),
    (LogTime, "coefficients_are_finite_at_both_ends", set()),
    (Backwards, "noise_level_rises_with_time", set()),
    (LevelInAColumn, "noise_level_rises_with_time", set()),
    (LevelOfTheBatch, "rows_do_not_mix", set()),
]


@pytest.mark.parametrize(("kind", "law", "also"), PARAMETRIZATIONS, ids=names)
def test_a_wrong_parametrization_is_named(kind: type[Parametrization], law: str, also: set[str]) -> None:
    named(check_parametrization(kind(), VP()), law, also)


def test_a_parametrization_on_a_nonlinear_process_is_refused() -> None:
    with pytest.raises(TypeError, match="sde is a DoubleWell; give a linear SDE"):
        check_parametrization(VelocityParametrization(), sdegen.DoubleWell())  # type: ignore[arg-type]


# --- weightings and laws of times -------------------------------------------------------------------------------------


class Number(UniformWeighting):
    """A tensor in place of an operator."""

    def __call__(self, sde: Any, t: Tensor) -> Any:
        return torch.ones_like(t)


class TooManyNumbers(UniformWeighting):
    """A number for every coordinate of three."""

    def __call__(self, sde: Any, t: Tensor) -> Any:
        return Scale(torch.ones(len(t), 3))


class WidensStates(UniformWeighting):
    """The weighted state is float64 whatever the state is."""

    def __call__(self, sde: Any, t: Tensor) -> Any:
        class Wide(Scale):
            def __call__(self, y: Tensor) -> Tensor:
                return super().__call__(y).double()

        return Wide(torch.ones_like(t))


class InfiniteEarly(UniformWeighting):
    """Infinite at the first time of training."""

    def __call__(self, sde: Any, t: Tensor) -> Any:
        return Scale((t - sde.t_min).rsqrt())


class NothingLate(UniformWeighting):
    """Late times have no weight."""

    def __call__(self, sde: Any, t: Tensor) -> Any:
        return Scale((t < 0.9).double())


class LambdaForItsRoot(UniformWeighting):
    """Lambda where its root should be."""

    def __call__(self, sde: Any, t: Tensor) -> Any:
        return Scale(sde.g(t).square())


class OfTheBatch(UniformWeighting):
    """Weights are normalised over the batch."""

    def __call__(self, sde: Any, t: Tensor) -> Any:
        return Scale(t / t.mean())


WEIGHTINGS: list[Fault] = [
    (Number, "weight_is_an_operator_for_every_row", {"weights_are_finite_and_not_zero", "rows_do_not_mix"}),
    (TooManyNumbers, "weight_is_an_operator_for_every_row", {"weights_are_finite_and_not_zero", "rows_do_not_mix"}),
    (WidensStates, "weight_is_an_operator_for_every_row", set()),
    (InfiniteEarly, "weights_are_finite_and_not_zero", set()),
    (NothingLate, "weights_are_finite_and_not_zero", set()),
    (OfTheBatch, "rows_do_not_mix", set()),
]


@pytest.mark.parametrize(("kind", "law", "also"), WEIGHTINGS, ids=names)
def test_a_wrong_weighting_is_named(kind: type[Weighting], law: str, also: set[str]) -> None:
    named(check_weighting(kind(), VP()), law, also)


def test_a_weighting_that_is_another_lambda_is_named() -> None:
    sde = VP()
    named(check_weighting(LambdaForItsRoot(), sde, lambda t: sde.g(t).square()), "square_is_lambda", set())


class BeyondTheEnd(UniformTimes):
    """Times go to a tenth beyond T."""

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        t, factor = super().sample(sde, n, generator)
        return t * 1.1, factor


class SingleTimes(UniformTimes):
    """Times are float32: near 0 their levels of noise are rough."""

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        t, factor = super().sample(sde, n, generator)
        return t.float(), factor


class NegativeFactor(UniformTimes):
    """Factors count against the loss."""

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        t, factor = super().sample(sde, n, generator)
        return t, -factor


class NoFactorForOne(UniformTimes):
    """A batch of one has a factor without an axis."""

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        t, factor = super().sample(sde, n, generator)
        return t, factor.squeeze()


class OwnRandomness(UniformTimes):
    """The generator is not used."""

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        return super().sample(sde, n)


class AlwaysTheSame(UniformTimes):
    """Every draw is one and the same."""

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        return super().sample(sde, n, torch.Generator().manual_seed(0))


class ForgetsTheFactor(ImportanceTimes):
    """Times by importance, and a factor of one."""

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        t, factor = super().sample(sde, n, generator)
        return t, torch.ones_like(factor)


class InverseFactor(ImportanceTimes):
    """The density in place of one over it."""

    def __init__(self) -> None:
        super().__init__(lambda sde, t: 1 + t / sde.T)

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        t, factor = super().sample(sde, n, generator)
        return t, 1 / factor


TIMES: list[Fault] = [
    (BeyondTheEnd, "times_lie_inside", {"factor_undoes_the_law"}),
    (NegativeFactor, "times_lie_inside", {"factor_undoes_the_law"}),
    (NoFactorForOne, "times_lie_inside", set()),
    (SingleTimes, "times_lie_inside", set()),
    (OwnRandomness, "generator_decides_the_draw", set()),
    (AlwaysTheSame, "generator_decides_the_draw", {"factor_undoes_the_law"}),
    (ForgetsTheFactor, "factor_undoes_the_law", set()),
    (InverseFactor, "factor_undoes_the_law", set()),
]


@pytest.mark.parametrize(("kind", "law", "also"), TIMES, ids=names)
def test_a_wrong_law_of_times_is_named(kind: Callable[[], TimeLaw], law: str, also: set[str]) -> None:
    named(check_times(kind(), VP()), law, also)


@pytest.mark.parametrize(
    "law",
    [
        *model_cases(sdegen.Exact(VP(), RING)),
        *wrapper_cases(lambda model: Conditioned(model), sdegen.Exact(VP(), RING)),
        *parametrization_cases(VelocityParametrization(), VP()),
        *weighting_cases(UniformWeighting(), VP(), torch.ones_like),
        *times_cases(UniformTimes(), VP()),
    ],
)
def test_laws_as_pytest_cases(law: Callable[[], None]) -> None:
    law()


def test_numbers_that_break_a_law_are_printed() -> None:
    text = str(check_times(ForgetsTheFactor(), VP()))
    assert text.startswith("ForgetsTheFactor on VP: 2 of 3 laws hold") and math.isfinite(len(text))
    assert "the mean of factor · h(t)" in text and "expected" in text
