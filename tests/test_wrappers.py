"""What every wrapper shares with the model inside: moments, end, mode and learned variances, whenever they are set."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import guidance, samplers
from sdegen.guidance import free, measurements
from sdegen.models import Conditioned, LongSeries, ScoreModel, Trainable, Wrapper
from sdegen.models.modes import evaluating
from sdegen.models.transformed import TransformedModel
from sdegen.samplers.picard import GuessingModel

SEEN = measurements.Mask(torch.tensor([True, False]), std=0.1)
CLASSIFIER = guidance.ExactClassifier(sdegen.VP(), [sdegen.data.gaussian_ring()] * 2)

WRAPPERS: dict[type[Wrapper], Callable[[ScoreModel], Wrapper]] = {
    Conditioned: lambda m: Conditioned(m, shift=torch.ones(2)),
    guidance.Without: lambda m: guidance.Without(m, shift=torch.ones(2)),
    guidance.APG: lambda m: guidance.APG(m, 2.0),
    guidance.Autoguidance: lambda m: guidance.Autoguidance(m, m, 2.0),
    guidance.CFGPlusPlus: lambda m: guidance.CFGPlusPlus(m, 0.5, torch.tensor([1.0, 0.5])),
    guidance.CFGZeroStar: lambda m: guidance.CFGZeroStar(m, 2.0),
    guidance.ClassifierFree: lambda m: guidance.ClassifierFree(m, 2.0),
    guidance.ClassifierGuidance: lambda m: guidance.ClassifierGuidance(m, CLASSIFIER),
    guidance.Clipped: lambda m: guidance.Clipped(m, -1.0, 1.0),
    guidance.DPS: lambda m: guidance.DPS(m, SEEN),
    guidance.DynamicThreshold: lambda m: guidance.DynamicThreshold(m, -1.0, 1.0),
    guidance.EpsilonScaling: lambda m: guidance.EpsilonScaling(m, 1.01),
    guidance.KalmanUpdate: lambda m: guidance.KalmanUpdate(m, SEEN),
    guidance.MomentMatching: lambda m: guidance.MomentMatching(m, SEEN),
    guidance.PiGDM: lambda m: guidance.PiGDM(m, SEEN),
    guidance.Product: lambda m: guidance.Product([(m, 2.0), (m, -0.5)]),
    guidance.Replacement: lambda m: guidance.Replacement(m, SEEN),
    guidance.Rescaled: lambda m: guidance.Rescaled(guidance.ClassifierFree(m, 2.0)),
    guidance.RescaledGuidance: lambda m: guidance.RescaledGuidance(m, 2.0),
}
# Wrappers around several models, each made of two.
SEVERAL: dict[type[Wrapper], Callable[[ScoreModel, ScoreModel], Wrapper]] = {
    guidance.Autoguidance: lambda a, b: guidance.Autoguidance(a, b, 2.0),
    guidance.Mixed: lambda a, b: guidance.Mixed({a: 0.5, b: 0.5}),
    guidance.Product: lambda a, b: guidance.Product({a: 2.0, b: -1.0}),
    LongSeries: lambda a, b: LongSeries(a, b, 5),
}
MOMENTS = sdegen.Moments(torch.zeros(2), torch.eye(2))
each = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=[c.__name__ for c in WRAPPERS])


class Line(nn.Module):
    """A network that takes a shift, and gives twice the channels if asked to; it tells in which mode it was called."""

    def __init__(self, out: int = 2) -> None:
        super().__init__()
        self.line = nn.Linear(2, out)
        self.modes: list[bool] = []

    def forward(self, x: Tensor, level: Tensor, shift: Tensor | float = 0.0, **cond: Any) -> Tensor:
        self.modes.append(self.training)
        return self.line(x + shift)


def kinds(base: type) -> set[type]:
    """The concrete subclasses that the library offers."""
    found = {c for own in base.__subclasses__() for c in {own, *kinds(own)}}
    return {c for c in found if not inspect.isabstract(c) and c.__module__.startswith("sdegen.")}


def test_every_wrapper_is_held_to_these_laws() -> None:
    between = {guidance.Guided, free.Extrapolated, free.AgainstNull, free.AffineExtrapolation}  # bases of others
    between |= {TransformedModel}  # of another process than that inside: see test_coordinates
    between |= {LongSeries}  # of longer states than those inside: see test_long_series
    between |= {GuessingModel}  # made by a run alone, and asked by questions alone: see test_picard
    between |= {guidance.Mixed}  # whose moments follow from its members': see test_annealing
    assert kinds(Wrapper) - between == set(WRAPPERS)


@each
def test_moments_and_end_are_shared_whenever_they_are_set(wrap: Callable[[ScoreModel], Wrapper]) -> None:
    model = sdegen.Model(Line(), sdegen.VP())
    wrapper = wrap(model)
    twice = Conditioned(wrapper)
    assert wrapper.moments is None and wrapper.end is None
    model.moments, model.end = MOMENTS, 0.01
    assert wrapper.moments is twice.moments is MOMENTS and wrapper.end == twice.end == 0.01
    other = sdegen.Moments(torch.ones(2), torch.eye(2))
    twice.moments, twice.end = other, 0.02
    assert model.moments is wrapper.moments is other and model.end == wrapper.end == 0.02


@each
def test_a_wrapper_has_no_mode_of_its_own(wrap: Callable[[ScoreModel], Wrapper]) -> None:
    model = sdegen.Model(Line(), sdegen.VP())
    for wrapper in (wrap(model), Conditioned(wrap(model))):
        for mode in (True, False):
            model.train(mode)
            assert wrapper.training == mode
            with evaluating(wrapper):
                assert not model.net.training
            assert model.net.training == mode


def test_a_network_that_does_more_at_a_change_of_mode_is_told_of_it() -> None:
    class Told(Line):
        told: ClassVar[list[bool]] = []

        def train(self, mode: bool = True) -> Self:
            self.told.append(mode)
            return super().train(mode)

    model = sdegen.Model(Told(), sdegen.VP())
    with evaluating(model):
        assert Told.told == [False] and not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules()) and Told.told == [False, True]
    Told.told.clear()
    with evaluating(model.eval()):
        pass
    assert Told.told == [False]  # by the line above alone


@pytest.mark.parametrize("mode", [True, False])
def test_a_part_that_its_network_keeps_in_training_stays_so(mode: bool) -> None:
    """Such as dropout that draws in evaluation too."""

    class Kept(Line):
        def __init__(self) -> None:
            super().__init__()
            self.dropout, self.frozen = torch.nn.Dropout(0.5), torch.nn.Dropout(0.5)

        def train(self, mode: bool = True) -> Self:
            super().train(mode)
            self.dropout.train()
            return self

    model = sdegen.Model(Kept(), sdegen.VP()).train(mode)
    model.net.frozen.eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert model.net.dropout.training and not model.net.training and not model.net.frozen.training
    assert [module.training for module in model.modules()] == before


def test_a_wrapper_takes_the_states_that_what_is_inside_takes() -> None:
    exact = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())

    class Single(ScoreModel):
        """No module, and yet its states have a dtype."""

        sde, moments, like = exact.sde, exact.moments, torch.zeros(())  # type: ignore[assignment]

        def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
            assert x.dtype == torch.float32
            return exact.score(x, t)

    assert sdegen.sample(Conditioned(Single()), 3, steps=2, seed=0).dtype == torch.float32
    torch.manual_seed(0)
    classifier = guidance.NoisyClassifier(Line(8), sdegen.VP())
    guided = guidance.ClassifierGuidance(exact, classifier)
    assert sdegen.sample(guided, 3, steps=2, seed=0, label=1).dtype == torch.float32
    wrap = lambda model: Conditioned(guidance.ClassifierGuidance(model, classifier), label=1)
    assert sdegen.testing.check_wrapper(wrap, exact).passed


def test_samples_under_fixed_conditions_are_drawn_in_evaluation_mode() -> None:
    model = sdegen.Model(Line(), sdegen.VP()).train()
    model.moments = MOMENTS
    sdegen.sample(Conditioned(model, shift=torch.ones(2)), 3, steps=2, seed=0)
    assert not any(model.net.modes) and model.net.training


@each
def test_a_wrapper_is_not_trainable(wrap: Callable[[ScoreModel], Wrapper]) -> None:
    wrapper = wrap(sdegen.Model(Line(), sdegen.VP()))
    assert not isinstance(wrapper, Trainable)
    with pytest.raises(TypeError, match="has no loss"):
        sdegen.fit(wrapper, sdegen.data.gaussian_ring(), steps=1)


@each
def test_a_wrapper_has_learned_variances_where_the_model_inside_has(wrap: Callable[[ScoreModel], Wrapper]) -> None:
    assert wrap(sdegen.Model(Line(), sdegen.VP())).reversal is None
    model = sdegen.LearnedVariance(Line(4), sdegen.VP())
    reversal = wrap(model).reversal
    assert reversal is not None
    x, s, t = torch.randn(3, 2), torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    shift = {"shift": torch.ones(2)} if type(wrap(model)) in (Conditioned, guidance.Without) else {}
    want = model.reverse_log_variance(x, s, t, **shift)
    torch.testing.assert_close(reversal.reverse_log_variance(x, s, t), want)


@pytest.mark.parametrize("kind", [Conditioned, guidance.Autoguidance, guidance.Clipped, guidance.EpsilonScaling])
def test_a_reversed_step_has_the_mean_of_the_wrapper_and_the_variance_of_the_model_inside(kind: type[Wrapper]) -> None:
    model = sdegen.LearnedVariance(Line(4), sdegen.VP())
    wrapper, x, s, t = WRAPPERS[kind](model), torch.randn(3, 2), torch.tensor(0.3).double(), torch.tensor(0.4).double()
    reversal = wrapper.reversal
    assert reversal is not None
    found = reversal.reverse_estimate(x, s, t)
    for value, want in zip(found, (*wrapper.estimate(x, t), reversal.reverse_log_variance(x, s, t)), strict=True):
        torch.testing.assert_close(value, want)


def test_a_step_without_learned_variances_is_refused_before_it_is_made() -> None:
    wrapper = Conditioned(sdegen.Model(Line(), sdegen.VP()))
    with pytest.raises(TypeError, match="learned variance"):
        sdegen.sample(wrapper, x_T=torch.zeros(1, 2), sampler=samplers.Ancestral(2, variance=samplers.learned_variance))


class Asked(sdegen.Exact):
    """A model of data of some numbers that notes the conditions of a run it is asked about, and refuses if it is told to."""

    def __init__(self, d: int, refusing: bool = False) -> None:
        super().__init__(sdegen.VP(), sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, d), torch.ones(1)))
        self._refusing, self._asked = refusing, []  # type: ignore[var-annotated]

    conditions = sdegen.conditions.ANY  # type: ignore[assignment]

    def check_run(self, /, **cond: Any) -> None:
        self._asked.append(cond)
        if self._refusing:
            raise ValueError("nothing to do")


def test_every_wrapper_of_several_models_is_among_them() -> None:
    named = "ScoreModel", "Powers"

    def models_of(kind: type) -> int:
        hints = [str(p.annotation) for p in inspect.signature(kind).parameters.values()]
        return sum(2 * ("Powers" in hint) + ("ScoreModel" in hint) for hint in hints if any(n in hint for n in named))

    made = {kind for kind in kinds(Wrapper) if kind not in (GuessingModel, free.Extrapolated, free.AffineExtrapolation)}
    assert {kind for kind in made if models_of(kind) > 1} == set(SEVERAL)


@pytest.mark.parametrize("kind", SEVERAL, ids=lambda kind: kind.__name__)
def test_a_run_is_refused_by_any_model_inside(kind: type[Wrapper]) -> None:
    sizes = (3, 1) if kind is LongSeries else (2, 2)
    pair = [Asked(d) for d in sizes]
    wrapped = Conditioned(SEVERAL[kind](*pair), label=1)
    wrapped.check_run(shift=2.0)
    assert [model._asked for model in pair] == [[{"label": 1, "shift": 2.0}]] * 2
    for refusing in range(2):
        pair = [Asked(d, i == refusing) for i, d in enumerate(sizes)]
        with pytest.raises(ValueError, match="nothing to do"):
            sdegen.sample(SEVERAL[kind](*pair), 2, steps=2, seed=0)


@pytest.mark.parametrize("kind", SEVERAL, ids=lambda kind: kind.__name__)
def test_all_models_inside_are_asked_in_evaluation_mode(kind: type[Wrapper]) -> None:
    pair = [sdegen.Model(Line(), sdegen.VP()) for _ in range(2)]
    for model, d in zip(pair, (3, 1) if kind is LongSeries else (2, 2), strict=True):
        model.net.line = nn.Linear(d, d)
        model.moments = sdegen.Moments(torch.zeros(d), torch.eye(d))
    wrapped = None if kind is guidance.Mixed else SEVERAL[kind](*pair)  # whose members know their densities
    if wrapped is not None:
        sdegen.sample(wrapped, 2, steps=2, seed=0)
        assert all(model.net.modes and not any(model.net.modes) and model.training for model in pair)


LABELLED = {Conditioned: lambda m: Conditioned(m, label=1), guidance.Without: lambda m: guidance.Without(m, label=1)}


@pytest.mark.parametrize("kind", WRAPPERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("exact", [False, True], ids=["network", "exact"])
def test_a_wrapper_is_saved_whole_or_refused_with_what_to_save(kind: type, exact: bool, tmp_path: Path) -> None:
    model: Any = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    if not exact or kind in LABELLED:
        model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1, classes=3), sdegen.VP())
        model.moments = MOMENTS
    wrapped, path = LABELLED.get(kind, WRAPPERS[kind])(model), tmp_path / "model.safetensors"
    if kind in LABELLED:
        for place, whole in (("model", wrapped), ("model.model", guidance.Clipped(wrapped, -1.0, 1.0))):
            who = f"{place} is a {kind.__name__}, which takes arguments of any name or number"
            what = rf"save {place}\.model, the one inside, and make the {kind.__name__} again after loading\.$"
            with pytest.raises(TypeError, match=rf"^{who} \(\*\*cond.*\), and no file gives these back; {what}"):
                sdegen.save(whole, path)
        wrapped = wrapped.model
    sdegen.save(wrapped, path)
    again = sdegen.load(path)
    x, taken = torch.randn(3, 2), wrapped.conditions
    cond = {name: value for name, value in {"y": torch.tensor([0.5]), "label": 1}.items() if taken.takes(name)}
    assert torch.equal(wrapped.score(x, 0.5, **cond), again.score(x, 0.5, **cond))
