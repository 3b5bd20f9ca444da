"""Guidance without a classifier, the truth by label, and wrapped models in files."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from labelled import DATA, SDES, Two, states
from torch import Tensor, nn

import sdegen
from sdegen import guidance, measurements
from sdegen.guidance import (
    ClassifierFree,
    Clipped,
    DynamicThreshold,
    EpsilonScaling,
    LinearScale,
    RescaledGuidance,
)
from sdegen.guidance.base import indicate_interval
from sdegen.models import Conditioned
from sdegen.models.exact import Exact, ExactConditional
from sdegen.samplers import (
    DDIM,
    sample,
)
from sdegen.testing import check_model

name = lambda s: type(s).__name__


# --- guidance without a classifier --------------------------------------------------------------------------------


@pytest.mark.turns("*DDPM")
@pytest.mark.thinned(2)
@pytest.mark.parametrize("sde", SDES, ids=name)
@pytest.mark.parametrize("interval", [None, (0.2, 0.6)])
def test_guided_readings_extrapolate_and_agree(sde: Any, interval: Any) -> None:
    inner = Two(sde)
    model = ClassifierFree(inner, 3.0, interval=interval and tuple(sde.T * v for v in interval))
    assert check_model(Conditioned(model, label=0)).passed
    x, t = states(sde)
    inside = torch.ones_like(t, dtype=torch.bool) if interval is None else (t >= 0.2 * sde.T) & (t <= 0.6 * sde.T)
    assert inside.any() and (interval is None or not inside.all())
    weight = torch.where(inside, 3.0, 1.0).reshape(-1, *[1] * (x.ndim - 1))
    for reading in ("score", "velocity", "noise", "denoise"):
        given, null = getattr(inner, reading)(x, t, label=0), getattr(inner, reading)(x, t)
        got = getattr(model, reading)(x, t, label=0)
        torch.testing.assert_close(got, null + weight * (given - null), rtol=1e-9, atol=1e-9)


def test_scale_one_and_times_outside_ask_once() -> None:
    inner = Two(sdegen.VP())
    x, t = states(inner.sde)
    one, inside = ClassifierFree(inner, 1.0), ClassifierFree(inner, 3.0, interval=(0.0, 0.3))
    want = inner.estimate(x, 0.5, label=0)
    for model, count in ((one, 1), (inside, 1), (ClassifierFree(inner, 3.0), 2)):
        inner.asked = 0
        got = model.estimate(x, torch.tensor(0.5, dtype=torch.float64), label=0)
        assert inner.asked == count
        assert torch.allclose(got[0], want[0], rtol=1e-12, atol=1e-12) == (count == 1)
    torch.testing.assert_close(ClassifierFree(inner, 0.0).score(x, t, label=0), inner.score(x, t))


def test_the_null_condition_is_a_label_or_its_absence() -> None:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=3), sdegen.VP())
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    x, t = torch.randn(4, 2), torch.full((4,), 0.5, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 0])
    absent, minus = ClassifierFree(inner, 2.0), ClassifierFree(inner, 2.0, null={"label": torch.tensor(-1)})
    got = minus.velocity(x, t, label=label)
    assert torch.equal(got, absent.velocity(x, t, label=label))
    assert not torch.allclose(got, inner.velocity(x, t, label=label))


def test_guidance_pushes_samples_away_from_the_other_class() -> None:
    inner = Two(sdegen.VP())
    means = [
        sample(ClassifierFree(inner, scale), 400, sampler=DDIM(40), seed=0, label=0)[:, 0].mean()
        for scale in (1.0, 4.0)
    ]
    assert abs(means[0] - 1) < 0.1 and means[1] > means[0] + 0.02


def test_guidance_refuses_what_means_nothing() -> None:
    inner = Two(sdegen.VP())
    with pytest.raises(ValueError, match=r"scale = nan; it must be a (finite )?number"):
        ClassifierFree(inner, math.nan)
    with pytest.raises(ValueError, match=r"interval = \(0.5, 0.2\); give"):
        ClassifierFree(inner, 2.0, interval=(0.5, 0.2))


AGAINST_NULL: dict[str, Callable[[Any], Any]] = {
    "ClassifierFree": lambda m: ClassifierFree(m, 2.0),
    "scale 1": lambda m: ClassifierFree(m, 1.0),
    "RescaledGuidance": lambda m: sdegen.guidance.RescaledGuidance(m, 2.0),
    "APG": lambda m: sdegen.guidance.APG(m, 2.0),
    "CFGPlusPlus": lambda m: sdegen.guidance.CFGPlusPlus(m, 0.5, torch.linspace(1.0, 0.0, 6)),
    "CFGZeroStar": lambda m: sdegen.guidance.CFGZeroStar(m, 2.0),
    "rescaled": lambda m: sdegen.guidance.Rescaled(ClassifierFree(m, 2.0)),
    "clipped": lambda m: sdegen.guidance.Clipped(ClassifierFree(m, 2.0), -1.0, 1.0),
    "multiplied": lambda m: sdegen.guidance.Product([(m, 0.5), (ClassifierFree(m, 2.0), 0.5)]),
    "away from a weaker": lambda m: sdegen.guidance.Autoguidance(ClassifierFree(m, 2.0), m, 2.0),
}
RUNS: dict[str, Callable[..., Any]] = {
    "sample": lambda m, **cond: sample(m, 3, steps=2, seed=0, **cond),
    "sample_with_log_prob": lambda m, **cond: sdegen.sample_with_log_prob(m, 3, seed=0, **cond),
    "estimate_log_prob": lambda m, **cond: sdegen.estimate_log_prob(m, torch.zeros(3, 2), **cond),
    "encode": lambda m, **cond: sdegen.samplers.encode(m, torch.zeros(3, 2), steps=2, **cond),
}


def guidable(labels: bool) -> sdegen.Model:
    kinds = {"label": sdegen.nets.Label(3, dropout=0.1)} if labels else {}
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, conditions=kinds), sdegen.VP())
    model.moments = DATA.moments()
    return model


@pytest.mark.thinned(2)
@pytest.mark.parametrize("wrap", AGAINST_NULL)
@pytest.mark.parametrize("run", RUNS)
def test_a_run_of_guidance_with_nothing_to_guide_along_is_refused(wrap: str, run: str) -> None:
    """Both answers that it is between would be one, and the samples those of the model inside."""
    go = RUNS[run]
    with pytest.raises(ValueError, match="would do nothing, since Model takes no condition that could be left out"):
        go(AGAINST_NULL[wrap](guidable(False)))
    for given in ({}, {"label": None}, {"label": -1}, {"label": torch.tensor([-1, -1, -1])}):
        with pytest.raises(
            ValueError, match="was given nothing to guide along, and would do nothing: pass a condition"
        ):
            go(AGAINST_NULL[wrap](guidable(True)), **given)
    with pytest.raises(ValueError, match="would do nothing"):  # fixed inside, where it cannot be left out
        go(AGAINST_NULL[wrap](sdegen.Conditioned(guidable(True), label=1)))
    if run == "sample":
        for given in ({"label": 1}, {"label": torch.tensor([0, -1, 2])}):
            assert go(AGAINST_NULL[wrap](guidable(True)), **given).isfinite().all()
        assert go(sdegen.Conditioned(AGAINST_NULL[wrap](guidable(True)), label=1)).isfinite().all()


def test_guidance_along_one_of_two_conditions_asks_for_that_one() -> None:
    kinds = {"a": sdegen.nets.Label(3, dropout=0.1), "b": sdegen.nets.Label(3, dropout=0.1)}
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, conditions=kinds), sdegen.VP())
    model.moments = DATA.moments()
    each = ClassifierFree(ClassifierFree(model, 2.0, drop=["b"]), 3.0, drop=["a"])
    assert sample(each, 3, steps=2, seed=0, a=1, b=2).isfinite().all()
    for given, lacking in (({"a": 1}, "b"), ({"b": 1}, "a")):
        with pytest.raises(ValueError, match=f"would do nothing: pass {lacking}, or ask the"):
            sample(each, 3, steps=2, seed=0, **given)
    away = ClassifierFree(model, 2.0, null={"a": 2})  # from a condition, without one for the model
    assert sample(away, 3, steps=2, seed=0).isfinite().all()


NULLED: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "ClassifierFree": lambda m, null: ClassifierFree(m, 2.0, null),
    "RescaledGuidance": lambda m, null: sdegen.guidance.RescaledGuidance(m, 2.0, null=null),
    "APG": lambda m, null: sdegen.guidance.APG(m, 2.0, null),
    "CFGPlusPlus": lambda m, null: sdegen.guidance.CFGPlusPlus(m, 0.5, torch.linspace(1.0, 0.0, 6), null),
    "CFGZeroStar": lambda m, null: sdegen.guidance.CFGZeroStar(m, 2.0, null),
}
WRITTEN: list[Callable[[Tensor], Any]] = [  # one value, as users write it
    lambda v: v.clone(),
    lambda v: v.tolist(),
    lambda v: v.numpy().copy(),
    lambda v: v.expand(3, *v.shape),
    lambda v: v.repeat(3, *[1] * v.ndim).tolist(),
    lambda v: v.float() if v.is_floating_point() else v.to(torch.uint8),
]


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    st.sampled_from(sorted(NULLED)),
    st.booleans(),
    *[st.sampled_from(WRITTEN)] * 2,
    *[st.integers(0, 2)] * 2,
    st.booleans(),
)
def test_a_null_with_the_values_of_the_condition_is_refused_however_both_are_written(
    way: str, label: bool, write: Any, write_null: Any, value: int, other: int, alike: bool
) -> None:
    kind = sdegen.nets.Label(3, dropout=0.1) if label else sdegen.nets.Vector(2, dropout=0.1)
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, conditions={"c": kind}), sdegen.VP())
    model.moments = DATA.moments()
    other = value if alike else other
    given, null = (torch.tensor(v) if label else torch.tensor([0.1, v], dtype=torch.float64) for v in (value, other))
    guided = NULLED[way](model, {"c": write_null(null)})
    run = lambda: sample(guided, 3, steps=2, seed=0, c=write(given))
    if value != other:
        assert run().isfinite().all()
        return
    with pytest.raises(ValueError, match="was given c as the null has it, and would do nothing: pass another, or ask"):
        run()


def test_a_model_is_not_guided_away_from_itself() -> None:
    model = guidable(False)
    for interval in (None, (0.2, 0.5)):
        with pytest.raises(ValueError, match="Autoguidance would do nothing, since model and weak are one Model"):
            sample(sdegen.guidance.Autoguidance(model, model, 2.0, interval), 3, steps=2, seed=0)
    assert sample(sdegen.guidance.Autoguidance(model, guidable(False), 2.0), 3, steps=2, seed=0).isfinite().all()


# --- the truth by label -------------------------------------------------------------------------------------------


def by_label(sde: Any) -> ExactConditional:
    ring, one = sdegen.data.gaussian_ring(5), torch.ones(1)
    modes = [sdegen.GaussianMixture(one, m[None], v[None]) for m, v in zip(ring.means, ring.covariances, strict=True)]
    return ExactConditional(sde, modes, ring)


@pytest.mark.turns("DDPM")
@pytest.mark.parametrize("sde", SDES, ids=name)
def test_every_row_is_answered_by_the_law_of_its_label(sde: Any) -> None:
    model = by_label(sde)
    assert check_model(model).passed and check_model(Conditioned(model, label=3)).passed
    x, t = states(sde)
    label = torch.tensor([3, -1, 0, 3, 4, -1])
    laws = [*model.laws, model.null]
    for reading in ("score", "noise", "denoise", "velocity"):
        for times in (t, t[2], t[2].item()):
            got = getattr(model, reading)(x, times, label=label)
            for i, k in enumerate(label.tolist()):
                own = times[i] if torch.is_tensor(times) and times.ndim else times
                want = getattr(Exact(sde, laws[k]), reading)(x[i : i + 1], own)
                torch.testing.assert_close(got[i : i + 1], want, rtol=1e-9, atol=1e-9)
        for null in ({}, {"label": None}, {"label": -1}):
            whole = getattr(Exact(sde, model.null), reading)(x, t)
            torch.testing.assert_close(getattr(model, reading)(x, t, **null), whole, rtol=1e-9, atol=1e-9)


def test_the_truth_by_label_is_guided_like_a_network() -> None:
    model, label = by_label(sdegen.VP()), torch.arange(40) % 5
    x = sample(model, 40, seed=0, label=label, batch=7)
    assert torch.equal(torch.cdist(x, model.null.means).argmin(1), label)
    guided = ClassifierFree(model, 2.0)
    y, t = states(model.sde)
    want = 2 * model.score(y, t, label=1) - model.score(y, t)
    torch.testing.assert_close(guided.score(y, t, label=1), want, rtol=1e-9, atol=1e-9)
    assert sample(guided, 40, seed=0, label=label).norm(dim=1).mean() > x.norm(dim=1).mean() + 0.1


def test_labels_without_a_law_are_refused() -> None:
    model, x = by_label(sdegen.VP()), torch.zeros(3, 2)
    for label in (5, -2, torch.tensor([0, 1, 7])):
        with pytest.raises(ValueError, match=r"label reaches (5|-2|7); labels run from 0 to 4, and -1 means none"):
            model.score(x, 0.5, label=label)
    with pytest.raises(ValueError, match=r"label has shape \(2,\)"):
        model.score(x, 0.5, label=torch.zeros(2, dtype=torch.long))
    with pytest.raises(TypeError, match=r"label has dtype torch.float64; give whole numbers"):
        model.score(x, 0.5, label=1.0)
    with pytest.raises(TypeError, match=r"no argument 'labels', .* perhaps 'label' is meant\."):
        model.score(x, 0.5, labels=1)
    line = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    for laws in ([], [line]):
        with pytest.raises(ValueError, match=rf"^{len(laws)} laws with data of shapes .*; give at least one"):
            ExactConditional(sdegen.VP(), laws, model.null)
    with pytest.raises(TypeError, match="sde is a DoubleWell; give a linear SDE"):
        ExactConditional(sdegen.DoubleWell(), [line], line)


# --- saving -------------------------------------------------------------------------------------------------------

WRAPPERS: dict[str, Any] = {
    "noise divided": lambda m: EpsilonScaling(m, 1.05),
    "noise divided by a schedule": lambda m: EpsilonScaling(m, LinearScale(1.02, 0.3)),
    "guided": lambda m: ClassifierFree(m, 2.5),
    "guided in an interval from a label": lambda m: ClassifierFree(m, 2.5, {"label": torch.tensor(2)}, (0.2, 0.6)),
    "clipped": lambda m: Clipped(m, -0.05, 0.02),
    "thresholded": lambda m: DynamicThreshold(m, -0.05, 0.02, 0.5),
    "guided, then thresholded": lambda m: DynamicThreshold(ClassifierFree(m, 2.5), -0.05, 0.02),
    "rescaled": lambda m: RescaledGuidance(m, 2.5, 0.6, {"label": torch.tensor(2)}, (0.0, 1.0)),
    "both": lambda m: ClassifierFree(EpsilonScaling(m, 1.05), 2.5, interval=(0.2, 0.6)),
}


def labelled(dtype: torch.dtype) -> sdegen.Model:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=3), sdegen.VP()).to(dtype)
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    inner.moments = DATA.moments()
    return inner


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_comes_back_from_a_file(wrap: str, tmp_path: Any, dtype: torch.dtype) -> None:
    inner = labelled(dtype)
    model = WRAPPERS[wrap](inner).train()
    sdegen.save(model, tmp_path / "model")
    again = sdegen.load(tmp_path / "model")
    assert type(again) is type(model) and type(again.model) is type(model.model) and not again.training
    for mine, its in zip(again.moments, inner.moments or (), strict=True):
        assert torch.equal(mine, its)
    x, t = states(inner.sde)
    x, cond = x.to(dtype), {"label": torch.tensor([0, 1, 2, 0, 1, 2])}
    model.eval()
    for reading in ("score", "velocity", "noise", "denoise"):
        one, two = (getattr(m, reading)(x, t, **cond) for m in (model, again))
        assert torch.equal(one, two) and not torch.equal(one, getattr(inner, reading)(x, t, **cond))
    assert torch.equal(*(sample(m, 6, sampler=DDIM(4), seed=0, **cond) for m in (model, again)))


class Bump:
    """A schedule of the user's."""

    def __init__(self, height: float) -> None:
        self.height = height

    def __call__(self, t: Tensor) -> Tensor:
        return 1 + self.height * t * (1 - t)


def test_a_schedule_of_the_user_s_is_asked_for(tmp_path: Any) -> None:
    sdegen.save(EpsilonScaling(labelled(torch.float64), Bump(0.4)), tmp_path / "model")
    with pytest.raises(ValueError, match=r"uses the class 'Bump'; pass it: load\(path, classes=\[Bump\]\)"):
        sdegen.load(tmp_path / "model")
    assert sdegen.load(tmp_path / "model", [Bump]).scale.height == 0.4


def test_a_schedule_without_a_class_is_not_saved(tmp_path: Any) -> None:
    model = EpsilonScaling(labelled(torch.float64), lambda t: 1 + 0.1 * t)
    with pytest.raises(TypeError, match=r"^model\.scale is a function, .*\.LinearScale, or save the model inside"):
        sdegen.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    sdegen.save(model.model, tmp_path / "model")


def test_moments_are_given_to_the_model_inside() -> None:
    inner = labelled(torch.float64)
    inner.moments = None
    ClassifierFree(EpsilonScaling(inner, 1.01), 2.0).moments = DATA.moments()
    assert inner.moments is not None and torch.equal(inner.moments.mean, DATA.moments().mean)


@pytest.mark.parametrize("interval", [(1.5, 2.0), (-0.5, 0.5), (0.2, 5.0), (0.5, 0.5), (0.2, math.nan)])
def test_intervals_that_no_time_of_the_process_is_in_are_refused(interval: tuple[float, float]) -> None:
    inner = Exact(sdegen.VP(), DATA)
    with pytest.raises(ValueError, match=r"^interval.*(two numbers from 0 to 1|must be a)"):
        sdegen.guidance.Autoguidance(inner, inner, 2.0, interval)
    assert sdegen.guidance.Autoguidance(inner, inner, 2.0, (0, 1)).interval == (0.0, 1.0)


def test_the_ends_of_an_interval_are_within_it_and_the_next_numbers_are_not() -> None:
    for t, inside in ((0.1, 1.0), (0.7, 1.0), (0.1 - 1e-15, 0.0), (0.7 + 1e-15, 0.0)):
        for given in (t, torch.tensor(t, dtype=torch.float64)):
            assert indicate_interval((0.1, 0.7), given) == inside and indicate_interval(None, given) == 1


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM(), sdegen.CLD()], ids=lambda s: type(s).__name__)
def test_the_exact_classifier_is_bayes_rule_with_the_weights_of_its_classes(sde: Any) -> None:
    weights, means, scales = (0.2, 1.3, 0.5), (-1.0, 0.5, 2.0), (0.4, 0.8, 0.3)
    one = torch.ones(1, dtype=torch.float64)
    laws = [
        sdegen.GaussianMixture(one, torch.tensor([[m]]).double(), torch.tensor([v**2]).double())
        for m, v in zip(means, scales)
    ]
    classifier = sdegen.guidance.ExactClassifier(sde, laws, torch.tensor(weights))
    t, datum = 0.3 * sde.T, torch.linspace(-2, 3, 5, dtype=torch.float64)[:, None]
    at = sde.marginal(t)
    x = at.Phi(sde.lift(datum)) + at.R(0.3 * torch.ones_like(sde.lift(datum)))
    column, Q = at.Phi.matrix() @ sde.embedding.matrix(1), at.covariance.matrix()
    logs = []
    for weight, m, v in zip(weights, means, scales):
        C = column @ column.T * v**2 + Q
        logs.append(
            torch.distributions.MultivariateNormal(column[:, 0] * m, C).log_prob(x.flatten(1)) + math.log(weight)
        )
    want = torch.stack(logs, 1).softmax(1)
    torch.testing.assert_close(classifier(x, t).softmax(1), want, rtol=1e-6, atol=1e-8)


def test_a_classifier_loses_the_nats_of_its_own_label_whatever_the_class() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
            return logits.expand(len(x), 3)

    classifier = sdegen.guidance.NoisyClassifier(Fixed(), sdegen.VP())
    label = torch.tensor([0, 1, 2, 2, 0])
    loss = classifier.loss(
        torch.randn(5, 2, dtype=torch.float64), generator=torch.Generator().manual_seed(0), label=label
    )
    want = [-(v - math.log(sum(math.exp(w) for w in logits.tolist()))) for v in logits[label].tolist()]
    assert loss.tolist() == pytest.approx(want)


@pytest.mark.parametrize("needed", [False, True])
@pytest.mark.parametrize(
    "way", ["PiGDM", "DPS", "KalmanUpdate", "Replacement", "annealed_smc", "split_gibbs", "decoupled_annealing"]
)
def test_a_condition_y_of_the_model_is_not_taken_for_the_measurement(way: str, needed: bool) -> None:
    """Which the network would never be given: it would answer without, in silence."""

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, level: Tensor, y: Tensor | None = None) -> Tensor:
            return 0 * x if y is None else 0 * x + y[..., :1]

    class Needing(torch.nn.Module):
        def forward(self, x: Tensor, level: Tensor, y: Tensor) -> Tensor:
            return 0 * x + y[..., :1]

    def draw(model: sdegen.ScoreModel) -> Tensor:
        A, y = measurements.Mask([True, False], 0.5), torch.tensor([0.3])
        if way.islower():
            found = getattr(guidance, way)(model, A, 4, y=y, seed=0)
            return found if isinstance(found, Tensor) else found.x
        return sdegen.sample(getattr(guidance, way)(model, A), 4, sampler=sdegen.samplers.Heun(2), seed=0, y=y)

    model = sdegen.Model(Needing() if needed else Net(), sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match=r"Model has a condition 'y' of its own.*such as 'y_of'"):
        draw(model)
    if not needed:
        assert draw(guidance.Without(model, ["y"])).shape == (4, 2)


@pytest.mark.parametrize("wrap", [lambda m: guidance.Clipped(m, -1, 1), lambda m: guidance.EpsilonScaling(m, 1.1)])
def test_a_measurement_within_a_wrapper_is_no_condition_of_the_model_s_own(wrap: Any) -> None:
    """So what is said of it is what is true of two measurements, one within the other."""
    model = sdegen.Model(sdegen.nets.MLP(2, width=8), sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(2), torch.ones(2))
    A = measurements.Mask([True, False], 0.5)
    twice = guidance.DPS(wrap(guidance.DPS(model, A)), A)
    assert "y" in twice.conditions.names
    with pytest.raises(ValueError, match="another measurement keeps y for itself"):
        sdegen.sample(twice, 2, sampler=sdegen.samplers.Heun(2), seed=0, y=torch.tensor([0.3]))
