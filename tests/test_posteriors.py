"""Wrappers that know a class or a measurement, against the exact conditional laws."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.special import dawsn

import sdegen
from sdegen import grids, metrics, samplers
from sdegen.guidance import (
    DPS,
    Autoguidance,
    ClassifierFree,
    ClassifierGuidance,
    Clipped,
    ExactClassifier,
    MomentMatching,
    NoisyClassifier,
    PiGDM,
    Replacement,
    Rescaled,
    RescaledGuidance,
    conjugate_gradients,
    repaint,
    twisted_smc,
)
from sdegen.guidance.measurements import Downsample, Linear, Mask, mixture_posterior

RING = sdegen.data.gaussian_ring()
MODES = [sdegen.GaussianMixture(torch.ones(1), m[None], torch.full((1,), 0.25)) for m in RING.means]
PROCESSES = [sdegen.VP(), sdegen.VE(), sdegen.OU(), sdegen.Rectified(), sdegen.CLD()]
name = lambda value: type(value).__name__


def states(sde: Any, law: Any, t: float, n: int = 40) -> torch.Tensor:
    return sde.diffused(law, torch.tensor(t)).sample(n, torch.Generator().manual_seed(0))


# --- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES, ids=name)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_the_exact_classifier_makes_the_exact_conditional_score(sde: Any, share: float) -> None:
    t = share * sde.T
    x, label = states(sde, RING, t), torch.arange(40) % 8
    guided = ClassifierGuidance(sdegen.Exact(sde, RING), ExactClassifier(sde, MODES))
    truth = sdegen.ExactConditional(sde, MODES, RING)
    torch.testing.assert_close(guided.score(x, t, label=label), truth.score(x, t, label=label), rtol=1e-7, atol=1e-7)
    for found, expected in zip(guided.estimate(x, t, label=label), truth.estimate(x, t, label=label)):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_classifier_guidance_at_one_samples_the_conditional_law() -> None:
    sde, n = sdegen.VP(), 4000
    guided = ClassifierGuidance(sdegen.Exact(sde, RING), ExactClassifier(sde, MODES))
    x = sdegen.sample(guided, n, steps=20, seed=0, label=5)
    first, second = (MODES[5].sample(n, torch.Generator().manual_seed(k)) for k in (1, 2))
    floor = metrics.sliced_wasserstein(second, first, seed=0)
    found = metrics.sliced_wasserstein(x, first, seed=0)
    assert found.value < floor.value + 4 * (found.stderr**2 + floor.stderr**2) ** 0.5


def test_guidance_by_a_classifier_stops_outside_its_interval_and_drops_the_label() -> None:
    sde = sdegen.VP()
    exact = sdegen.Exact(sde, RING)
    guided = ClassifierGuidance(exact, ExactClassifier(sde, MODES), interval=(0.2, 0.5))
    x = states(sde, RING, 0.6)
    torch.testing.assert_close(guided.denoise(x, 0.6, label=3), exact.denoise(x, 0.6), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(guided.denoise(x, 0.4, label=3), exact.denoise(x, 0.4))


def test_the_label_reaches_the_model_only_where_it_is_wanted() -> None:
    sde, classifier = sdegen.VP(), ExactClassifier(sdegen.VP(), MODES)
    x = states(sde, RING, 0.4).float()
    torch.manual_seed(0)
    blind, knowing = (sdegen.Model(sdegen.nets.MLP(2, width=8, classes=k), sde) for k in (0, 8))
    for p in knowing.parameters():  # fresh networks give nothing: let the label show
        torch.nn.init.normal_(p, std=0.3)
    assert ClassifierGuidance(blind, classifier).score(x, 0.4, label=2).isfinite().all()
    told, kept = (ClassifierGuidance(knowing, classifier, conditional=c) for c in (True, False))
    push = told.score(x, 0.4, label=2) - knowing.score(x, 0.4, label=2)
    torch.testing.assert_close(kept.score(x, 0.4, label=2) - knowing.score(x, 0.4), push, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(told.score(x, 0.4, label=2), kept.score(x, 0.4, label=2))


@pytest.mark.slow
def test_a_noisy_classifier_learns_the_true_one() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(8, (20_000,), generator=generator)
    x = (RING.means[label] + 0.5 * torch.randn(20_000, 2, dtype=torch.float64, generator=generator)).float()
    sde = sdegen.VP()
    classifier = NoisyClassifier(sdegen.nets.MLP(2, width=64, depth=1, out=8), sde)
    sdegen.fit(classifier, (x, {"label": label}), steps=500, batch_size=256, seed=0, progress=False)
    assert abs(classifier.std - RING.moments().covariance.diagonal().mean().sqrt()) < 0.05
    truth = ExactClassifier(sde, MODES)
    for t in (0.05, 0.3, 0.6):
        at = states(sde, RING, t, 2000)
        p, q = truth(at, t).softmax(1), classifier(at.float(), t).double().log_softmax(1)
        assert (p * (p.clamp_min(1e-300).log() - q)).sum(1).mean() < 0.03  # nats
    with pytest.raises(ValueError, match="learns from labels"):
        sdegen.fit(classifier, x, steps=1, seed=0, progress=False)


# --- a weaker model ---------------------------------------------------------------------------------------------------


def test_autoguidance_is_the_extrapolation_of_every_reading() -> None:
    sde = sdegen.VP()
    wide = sdegen.GaussianMixture(RING.weights, RING.means, 4 * RING.covariances)
    strong, weak = sdegen.Exact(sde, RING), sdegen.Exact(sde, wide)
    guided, x = Autoguidance(strong, weak, 2.5), states(sde, RING, 0.3)
    for reading in ("score", "denoise", "noise", "velocity"):
        a, b = (getattr(m, reading)(x, 0.3) for m in (strong, weak))
        torch.testing.assert_close(getattr(guided, reading)(x, 0.3), b + 2.5 * (a - b))
    # And by the questions of a sampler, the same.
    by_questions = sdegen.sample(guided, 8, sampler=samplers.DDIM(6), seed=0)

    class ByReadings(sdegen.ScoreModel):
        sde, moments = strong.sde, strong.moments

        def score(self, x: Any, t: Any, **cond: Any) -> Any:
            return guided.score(x, t)

    torch.testing.assert_close(by_questions, sdegen.sample(ByReadings(), 8, sampler=samplers.DDIM(6), seed=0))


def test_autoguidance_narrows_a_model_that_errs_like_its_weaker_self() -> None:
    """Scores of laws too wide, one more than the other: the combination is nearer to the truth than either."""
    sde = sdegen.VP()
    strong, weak = (
        sdegen.Exact(sde, sdegen.GaussianMixture(RING.weights, RING.means, factor * RING.covariances))
        for factor in (1.2, 1.6)
    )
    truth = RING.sample(4000, torch.Generator().manual_seed(1))
    kl = {
        scale: metrics.knn_kl(sdegen.sample(Autoguidance(strong, weak, scale), 4000, steps=30, seed=0), truth).value
        for scale in (0.0, 1.0, 1.5)
    }
    assert kl[1.5] < kl[1.0] < kl[0.0]
    with pytest.raises(ValueError, match="the weaker model has a different process, OU and not this VP"):
        Autoguidance(strong, sdegen.Exact(sdegen.OU(), RING), 2.0)


def noisy(sde: sdegen.LinearSDE) -> NoisyClassifier:
    """A classifier that has learned nothing yet."""
    return NoisyClassifier(sdegen.nets.MLP(2, width=4), sde)


@pytest.mark.parametrize(
    "other", [sdegen.OU(), sdegen.VP(0.1, 10.0), sdegen.CLD(), sdegen.VP().in_units(sdegen.Units(1.0, 2.0))]
)
def test_a_classifier_of_another_process_is_refused_in_a_run(other: sdegen.LinearSDE) -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    for guided in (ClassifierGuidance(model, ExactClassifier(other, MODES)), ClassifierGuidance(model, noisy(other))):
        for run in (sdegen.sample, sdegen.sample_with_log_prob):
            with pytest.raises(
                ValueError, match=r"^the classifier (has a different process|was made for data in units)"
            ):
                run(guided, 3, label=1, **({"steps": 2} if run is sdegen.sample else {}))
    ours = ClassifierGuidance(model, ExactClassifier(sdegen.VP(), MODES))
    assert sdegen.sample(ours, 3, steps=2, label=1).isfinite().all()
    silent = ClassifierGuidance(model, lambda x, t: x)  # says nothing of a process
    assert sdegen.sample(silent, 3, steps=2, label=1).isfinite().all()


def test_a_negative_condition_pushes_away_from_it() -> None:
    truth = sdegen.ExactConditional(sdegen.VP(), MODES, RING)
    x = states(sdegen.VP(), RING, 0.3)
    guided = ClassifierFree(truth, 1.5, null={"label": 2})
    a, b = truth.score(x, 0.3, label=0), truth.score(x, 0.3, label=2)
    torch.testing.assert_close(guided.score(x, 0.3, label=0), b + 1.5 * (a - b))


def test_every_guidance_can_keep_the_contrast_of_its_model() -> None:
    sde = sdegen.VP()
    truth = sdegen.ExactConditional(sde, MODES, RING)
    x, label = states(sde, RING, 0.3), torch.arange(40) % 8
    free = ClassifierFree(truth, 3.0)
    for reading in ("denoise", "noise", "score"):
        found, expected = (
            getattr(m, reading)(x, 0.3, label=label) for m in (Rescaled(free), RescaledGuidance(truth, 3.0))
        )
        torch.testing.assert_close(found, expected)
    guided = ClassifierGuidance(sdegen.Exact(sde, RING), ExactClassifier(sde, MODES), 3.0)
    kept = Rescaled(guided, 1.0).denoise(x, 0.3, label=label).std(1)
    torch.testing.assert_close(kept, sdegen.Exact(sde, RING).denoise(x, 0.3).std(1))
    with pytest.raises(TypeError, match="Exact wraps no other model"):
        Rescaled(sdegen.Exact(sde, RING))
    with pytest.raises(ValueError, match="rescale = 2"):
        Rescaled(guided, 2.0)


# --- measurements -----------------------------------------------------------------------------------------------------


def correlated(dim: int = 3) -> sdegen.GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=generator))[0]
    C = (U * torch.linspace(0.3, 2.0, dim, dtype=torch.float64)) @ U.T
    return sdegen.GaussianMixture(torch.ones(1), torch.randn(1, dim, generator=generator).double(), C[None])


@pytest.mark.parametrize("sde", PROCESSES, ids=name)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_moment_matching_is_exact_on_gaussian_data(sde: Any, share: float) -> None:
    law, t = correlated(), share * sde.T
    A = Linear(torch.tensor([[1.0, -0.5, 0.2], [0.0, 1.0, 1.0]], dtype=torch.float64), 0.3)
    y = A.sample(law.sample(1, torch.Generator().manual_seed(1)), torch.Generator().manual_seed(2))[0]
    wrapped = MomentMatching(sdegen.Exact(sde, law), A)
    truth = sdegen.Exact(sde, mixture_posterior(law, A, y))
    x = states(sde, law, t)
    for found, expected in zip(wrapped.estimate(x, t, y=y), truth.estimate(x, t)):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sde", PROCESSES, ids=name)
def test_pseudoinverse_guidance_is_exact_on_white_data(sde: Any) -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[1.0, -2.0, 0.5]]), torch.full((1,), 1.7))
    A = Linear(torch.tensor([[1.0, -0.5, 0.2], [0.0, 1.0, 1.0]], dtype=torch.float64), 0.3)
    y = torch.tensor([0.7, -1.0], dtype=torch.float64)
    x = states(sde, law, 0.4 * sde.T)
    wrapped, truth = PiGDM(sdegen.Exact(sde, law), A), sdegen.Exact(sde, mixture_posterior(law, A, y))
    torch.testing.assert_close(wrapped.score(x, 0.4 * sde.T, y=y), truth.score(x, 0.4 * sde.T), rtol=1e-6, atol=1e-6)
    # Of data with another covariance it is not, and neither is DPS anywhere but near the data.
    other = correlated()
    x = states(sde, other, 0.4 * sde.T)
    truth = sdegen.Exact(sde, mixture_posterior(other, A, y))
    for wrong in (PiGDM(sdegen.Exact(sde, other), A), DPS(sdegen.Exact(sde, other), A)):
        assert (wrong.score(x, 0.4 * sde.T, y=y) - truth.score(x, 0.4 * sde.T)).abs().max() > 0.05


@pytest.mark.slow
def test_wrappers_go_into_each_other_and_into_likelihoods() -> None:
    """A measurement of a class: around the guided model as around the true conditional one, derivatives and all."""
    sde = sdegen.VP()
    guided = ClassifierGuidance(sdegen.Exact(sde, RING), ExactClassifier(sde, MODES))
    truth = sdegen.ExactConditional(sde, MODES, RING)
    A, y, x = Linear(torch.tensor([[1.0, 0.3]], dtype=torch.float64), 0.5), torch.tensor([3.0]), states(sde, RING, 0.3)
    for make in (DPS, PiGDM, MomentMatching):
        found, expected = (make(m, A).score(x, 0.3, y=y, label=torch.arange(40) % 8) for m in (guided, truth))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    data = MODES[2].sample(5, torch.Generator().manual_seed(0))
    exact = sdegen.log_prob(truth, data, label=torch.full((5,), 2))
    torch.testing.assert_close(sdegen.log_prob(guided, data, label=torch.full((5,), 2)), exact, rtol=1e-4, atol=1e-4)
    law = correlated()
    B, z = Linear(torch.tensor([[1.0, -0.5, 0.2]], dtype=torch.float64), 0.5), torch.tensor([1.0], dtype=torch.float64)
    left = mixture_posterior(law, B, z)
    some = left.sample(5, torch.Generator().manual_seed(0))
    wrapped = MomentMatching(sdegen.Exact(sde, law), B)
    torch.testing.assert_close(
        sdegen.log_prob(wrapped, some, y=z), left.log_prob(some), rtol=0, atol=0.02
    )  # the prior is the data's


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_is_added_where_nothing_is_known_and_scores_are_finite_without_noise(share: float) -> None:
    law = correlated()
    A, y = Linear(torch.tensor([[1.0, -0.5, 0.2]], dtype=torch.float64), 0.3), torch.tensor([2.0], dtype=torch.float64)
    x = law.sample(20, torch.Generator().manual_seed(0))
    for sde in (sdegen.VP(), sdegen.Cosine()):  # the second has no signal at T
        wrapped, truth = MomentMatching(sdegen.Exact(sde, law), A), sdegen.Exact(sde, mixture_posterior(law, A, y))
        torch.testing.assert_close(wrapped.score(x, share, y=y), truth.score(x, share), rtol=1e-5, atol=1e-5)


def test_images_are_restored_from_what_was_measured(dtype: torch.dtype) -> None:
    """Gaussian images whose covariance is known: moments match, in float32 too."""
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(16, 16, dtype=torch.float64, generator=generator) / 4
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 4, 4), (half @ half.T + 0.1 * torch.eye(16))[None])
    A = Downsample(2, 0.2)
    y = A.sample(law.sample(1, generator), generator)[0]
    x = law.sample(6, generator).to(dtype)
    wrapped, truth = (
        MomentMatching(sdegen.Exact(sdegen.VP(), law), A),
        sdegen.Exact(sdegen.VP(), mixture_posterior(law, A, y)),
    )
    found = wrapped.denoise(x, 0.3, y=y)
    assert found.dtype == dtype
    torch.testing.assert_close(found, truth.denoise(x, 0.3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [DPS, PiGDM, MomentMatching, Replacement], ids=lambda c: c.__name__)
def test_a_wrapped_model_is_saved_with_its_measurement(make: Any, tmp_path: Any) -> None:
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())
    model.moments = RING.moments()
    wrapped = make(model, Mask(torch.tensor([True, False]), 0.3))
    sdegen.save(wrapped, tmp_path / "m.safetensors")
    x = states(sdegen.VP(), RING, 0.3).float()
    again = sdegen.load(tmp_path / "m.safetensors")
    assert torch.equal(again.denoise(x, 0.3, y=[1.0]), wrapped.eval().denoise(x, 0.3, y=[1.0]))


def test_every_model_of_a_wrapper_is_in_evaluation_mode_while_it_samples() -> None:
    modes = []

    class Told(torch.nn.Module):
        def forward(self, x: torch.Tensor, level: torch.Tensor, **cond: Any) -> torch.Tensor:
            modes.append(self.training)
            return 0 * x

    strong, weak = (sdegen.Model(Told(), sdegen.VP()) for _ in range(2))
    strong.moments = weak.moments = RING.moments()
    strong.eval()
    sdegen.sample(Autoguidance(strong, weak, 2.0), 3, sampler=samplers.DDIM(2), seed=0)
    assert modes and not any(modes) and weak.training and not strong.training


def test_all_approximations_become_exact_as_the_noise_goes() -> None:
    sde = sdegen.VP()
    A, y = Linear(torch.tensor([[1.0, 0.3]], dtype=torch.float64), 0.5), torch.tensor([3.0], dtype=torch.float64)
    exact, truth = sdegen.Exact(sde, RING), sdegen.Exact(sde, mixture_posterior(RING, A, y))
    for make in (DPS, PiGDM, MomentMatching):
        errors = []
        for t in (0.02, 0.005):
            x = states(sde, mixture_posterior(RING, A, y), t, 200)
            push = truth.score(x, t) - exact.score(x, t)
            errors.append((make(exact, A).score(x, t, y=y) - truth.score(x, t)).norm() / push.norm())
        assert errors[1] < 0.5 * errors[0] < 0.5


def test_samples_know_what_was_measured_each_its_own() -> None:
    """One condition a sample, cut with the batch, and the law of the rest that of the exact posterior."""
    law = correlated(3)
    A = Linear(torch.tensor([[1.0, -0.5, 0.2]], dtype=torch.float64), 0.2)
    y = torch.tensor([[-1.0], [2.0]], dtype=torch.float64).repeat_interleave(3000, 0)
    wrapped = MomentMatching(sdegen.Exact(sdegen.VP(), law), A)
    x = sdegen.sample(wrapped, 6000, steps=20, seed=0, batch=2500, y=y)
    for value, part in zip((-1.0, 2.0), x.split(3000)):
        truth = mixture_posterior(law, A, torch.tensor([value])).moments()
        torch.testing.assert_close(part.mean(0), truth.mean, atol=0.1, rtol=0)
        torch.testing.assert_close(part.T.cov(), truth.covariance, atol=0.12, rtol=0)


def pushed(model: Any, wrapper: Any, x: torch.Tensor, t: float, y: torch.Tensor) -> torch.Tensor:
    """How far the noise is pushed, squared."""
    return (wrapper.noise(x, t, y=y) - model.noise(x, t)).square().sum(1)


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6])
def test_true_pushes_have_at_most_a_mean_square_of_the_measured_numbers(t: float) -> None:
    """Of Gaussian data: on this rests the longest push of DPS."""
    law, sde = correlated(), sdegen.VP()
    A = Linear(torch.tensor([[1.0, -0.5, 0.2], [0.3, 1.0, 0.0]], dtype=torch.float64), 0.01)
    model, data = sdegen.Exact(sde, law), law.sample(4000, torch.Generator().manual_seed(0))
    y, x = A.sample(data, torch.Generator().manual_seed(1)), sde.perturb(data, torch.full((4000,), t))[0]
    square = pushed(model, MomentMatching(model, A), x, t, y)
    assert 0.01 < square.mean() < 2 + 4 * square.std() / 4000**0.5


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_pushes_of_dps_are_the_slope_of_the_likelihood_up_to_twice_the_root_of_the_measured_numbers(
    scale: float,
) -> None:
    sde, t = sdegen.VP(), 0.5
    A = Linear(torch.tensor([[1.0, 0.3]], dtype=torch.float64), 1.0)
    model, x, y = sdegen.Exact(sde, RING), states(sde, RING, t, 200), torch.tensor([3.0], dtype=torch.float64)
    slope = torch.func.grad(lambda x: A.log_prob(y.expand(len(x), 1), model.denoise(x, t)).sum())(x)
    raw = (scale * sde.marginal(t).R.T(slope)).square().sum(1)
    found = pushed(model, DPS(model, A, scale=scale), x, t, y)
    assert 0.1 < (raw > 4).double().mean() < 0.9
    torch.testing.assert_close(found, raw.clamp_max(4.0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sampler", [samplers.Multistep(20), samplers.ExponentialSDE(20)], ids=name)
def test_dps_stays_with_the_data_however_few_the_steps_and_precise_the_measurement(sampler: Any) -> None:
    law = sdegen.data.random_mixture(8, modes=8)
    A = Linear(torch.eye(8, dtype=torch.float64)[:2], 0.03)
    y = A.sample(law.sample(1, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1))[0]
    x = sdegen.sample(DPS(sdegen.Exact(sdegen.VP(), law), A), 200, sampler=sampler, seed=0, y=y)
    away = (x - law.moments().mean).square().sum(1) / law.moments().covariance.trace()
    assert away.max() < 10


@pytest.mark.turns("0", "2")
@pytest.mark.parametrize("seed", range(4))
def test_dps_draws_from_the_law_that_it_states_for_gaussian_data(seed: int) -> None:
    draw, n = random.Random(seed), 4000
    sde, d = PROCESSES[draw.randrange(4)], draw.randint(1, 3)
    v = draw.uniform(0.6, 1.4)
    r = draw.uniform(0.3, 1.2) / d  # of which no guidance meets its bound
    s, y = (v / r) ** 0.5, torch.tensor([draw.uniform(-1.5, 1.5) * v**0.5 for _ in range(d)], dtype=torch.float64)
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, d + 1), torch.tensor([v]))
    model = DPS(sdegen.Exact(sde, law), Mask([True] * d + [False], s))
    square_root = (2 * r) ** 0.5
    stated = {
        samplers.ExponentialSDE(150): (1 - math.exp(-r), s * ((1 - math.exp(-2 * r)) / 2) ** 0.5),
        samplers.Multistep(60): (square_root * float(dawsn(square_root / 2)), v**0.5 * math.exp(-r / 2)),
    }
    for sampler, (share, std) in stated.items():
        x = sdegen.sample(model, n, sampler=sampler, seed=seed, y=y)[:, :d].double()
        assert ((x.mean(0) - share * y).abs() < 4 * std / n**0.5 + 0.01).all()
        assert ((x.std(0) / std - 1).abs() < 4 / (2 * n) ** 0.5 + 0.01).all()


@pytest.mark.parametrize("sampler", [samplers.DDIM(12), samplers.Ancestral(12), samplers.Multistep(12)], ids=name)
def test_replaced_coordinates_end_at_what_was_seen(sampler: samplers.Sampler) -> None:
    A, y = Mask(torch.tensor([True, False]), 0.01), torch.tensor([2.5], dtype=torch.float64)
    wrapped = Replacement(sdegen.Exact(sdegen.VP(), RING), A)
    x = sdegen.sample(wrapped, 500, sampler=sampler, seed=0, y=y)
    assert (x[:, 0] - 2.5).abs().max() < 1e-8 and x[:, 1].std() > 1


def test_repainting_brings_the_rest_nearer_to_what_was_seen() -> None:
    sde = sdegen.VP()
    A, y = Mask(torch.tensor([True, False]), 0.01), torch.tensor([3.8], dtype=torch.float64)
    wrapped = Replacement(sdegen.Exact(sde, RING), A)
    truth = mixture_posterior(RING, A, y).sample(2000, torch.Generator().manual_seed(3))
    plain = samplers.ExponentialSDE(16)
    distance = [
        metrics.sliced_wasserstein(sdegen.sample(wrapped, 2000, sampler=s, seed=0, y=y), truth, seed=0).value
        for s in (plain, repaint(wrapped, plain, jump=4, repeats=8))
    ]
    assert distance[1] < 0.85 * distance[0]


def test_repainting_goes_back_so_many_steps_so_often() -> None:
    wrapped = Replacement(sdegen.Exact(sdegen.VP(), RING), Mask(torch.tensor([True, False]), 0.01))
    times = repaint(wrapped, samplers.DDIM(9), jump=4, repeats=3).times(wrapped.sde, True)
    rises = (times.diff() > 0).nonzero()[:, 0]
    assert len(rises) == 2 * 3  # nine levels are two stretches of four steps
    assert rises.diff().tolist() == [
        5,
        5,
        9,
        5,
        5,
    ]  # four steps and the next rise; in between those of the next stretch


@pytest.mark.parametrize(("steps", "jump"), [(9, 4), (10, 4), (11, 4), (12, 5)])
def test_stretches_that_are_repainted_are_counted_from_the_data(steps: int, jump: int) -> None:
    wrapped, plain = (
        Replacement(sdegen.Exact(sdegen.VP(), RING), Mask(torch.tensor([True, False]), 0.01)),
        samplers.DDIM(steps),
    )
    levels = (-0.5 * wrapped.sde.log_snr(plain.times(wrapped.sde, True))).exp().flip(0)
    ends = levels[levels.isfinite()][::jump].tolist()  # least noise first
    found = sorted((v.low, v.high) for v in repaint(wrapped, plain, jump, 2).intervals)
    assert [*map(pytest.approx, pairwise(ends))] == found


def test_conjugate_gradients_solve_row_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(5, 6, 6, dtype=torch.float64, generator=generator)
    M, b = half @ half.mT + 0.1 * torch.eye(6), torch.randn(5, 6, dtype=torch.float64, generator=generator)
    b[2] = 0  # nothing to solve, nothing divided
    u = conjugate_gradients(lambda u: (M @ u[..., None])[..., 0], b, 12)
    torch.testing.assert_close(u, torch.linalg.solve(M, b), rtol=1e-6, atol=1e-8)
    # A direction measured twice, with contradicting values: the rest is solved, nothing grows without bound.
    twice = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    u = conjugate_gradients(lambda u: u @ (twice @ twice.T), torch.tensor([[1.0, 1.2]], dtype=torch.float64), 12)
    assert (u @ twice - torch.tensor([1.1, 0.0])).abs().max() < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_are_solved_before_others_leave_derivatives_finite(seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1, 4, 5, dtype=torch.float64)
    b = torch.randn(8, 5, dtype=torch.float64, generator=draws)
    b[1], b[4] = 0, torch.eye(5)[seed]  # nothing to solve, and solved by one product
    b.requires_grad_()
    (slope,) = torch.autograd.grad(conjugate_gradients(lambda u: scale * u, b).sum(), b)
    assert slope.isfinite().all()
    others = [0, 2, 3, 5, 6, 7]
    torch.testing.assert_close(slope[others], (1 / scale).expand(6, 5), rtol=1e-6, atol=1e-9)


def test_densities_under_guidance_are_those_of_each_row_alone() -> None:
    """Of standard normal data measured with unit noise all is Gaussian, and some rows are solved before others."""
    normal = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    model = sdegen.Conditioned(PiGDM(sdegen.Exact(sdegen.VP(), normal), Linear(torch.eye(2), 1.0)), y=torch.ones(2))
    x = 0.5 + normal.sample(40, torch.Generator().manual_seed(0))
    truth = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 2), 0.5), torch.full((1,), 0.5))
    torch.testing.assert_close(
        sdegen.log_prob(model, x), truth.log_prob(x), rtol=5e-3, atol=5e-3
    )  # but for the gap of the prior


@pytest.mark.parametrize("iterations", [0, 1, 2, 5, None])
def test_conjugate_gradients_are_the_best_of_the_krylov_space(iterations: int | None) -> None:
    # After k products the error is the least, in the norm of M, that the span of b, M b, ... M^(k - 1) b has.
    generator = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64, generator=generator)).Q
    M, b = (
        turn @ torch.linspace(1, 4, 7).double().diag() @ turn.T,
        torch.randn(3, 7, dtype=torch.float64, generator=generator),
    )
    asked: list[torch.Tensor] = []

    def product(u: torch.Tensor) -> torch.Tensor:
        asked.append(u)
        return u @ M

    u = conjugate_gradients(product, b, iterations)
    k = 7 if iterations is None else iterations  # as many as numbers in a row
    assert len(asked) == k
    powers = torch.stack([b @ torch.linalg.matrix_power(M, j) for j in range(k)], -1) if k else b.new_zeros(3, 7, 0)
    K = torch.linalg.qr(powers).Q
    want = K @ torch.linalg.solve(K.mT @ M @ K, K.mT @ b[..., None])
    torch.testing.assert_close(u, want[..., 0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("largest", "solved"), [(2.0, True), (1e6, False)])
def test_conjugate_gradients_go_on_to_rounding_or_thirty_products(largest: float, solved: bool) -> None:
    scale = torch.linspace(1, largest, 40, dtype=torch.float64)
    b = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    asked: list[torch.Tensor] = []

    def product(u: torch.Tensor) -> torch.Tensor:
        asked.append(u)
        return scale * u

    u = conjugate_gradients(product, b)
    assert len(asked) < 30 if solved else len(asked) == 30
    left = (scale * u - b).norm(dim=1) / b.norm(dim=1)
    assert (left < 1e-14).all() == solved


@pytest.mark.parametrize("power", [-120, -40, 40, 120])
def test_conjugate_gradients_are_linear_in_the_right_side(power: int) -> None:
    # When a row counts as solved is relative to its right side: powers of two change no digit.
    generator = torch.Generator().manual_seed(1)
    half = torch.randn(5, 6, 6, dtype=torch.float64, generator=generator)
    M, b = half @ half.mT + 0.1 * torch.eye(6), torch.randn(5, 6, dtype=torch.float64, generator=generator)
    product = lambda u: (M @ u[..., None])[..., 0]
    for iterations in (1, 3, 12, 30):
        u, scaled = (conjugate_gradients(product, c * b, iterations) for c in (1.0, 2.0**power))
        assert torch.equal(scaled, 2.0**power * u)


def test_a_network_is_wrapped_as_the_truth_is(device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).to(device, dtype)
    sdegen.fit(model, RING, steps=5, batch_size=64, seed=0, progress=False)
    A, y = Linear(torch.tensor([[1.0, 0.3]], dtype=torch.float64), 1.0), torch.tensor([3.0], device=device)
    for make in (DPS, PiGDM, MomentMatching, Replacement):
        x = sdegen.sample(make(model, A), 6, steps=8, seed=0, y=y)
        assert x.shape == (6, 2) and x.dtype == dtype and x.device.type == device.type


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda m, A: DPS(m, A).score(torch.ones(2, 2, dtype=torch.float64), 0.5),
            "what was measured is missing: pass y",
        ),
        (
            lambda m, A: DPS(m, A).score(torch.ones(2, 2, dtype=torch.float64), 0.5, y=torch.ones(3)),
            r"y has shape \(3,\)",
        ),
        (lambda m, A: PiGDM(m, A, variance=0.0), "variance = 0"),
        (lambda m, A: MomentMatching(m, A, scale=float("inf")), "scale = inf"),
        (lambda m, A: DPS(m, A, interval=(0.5, 0.1)), "increasing order"),
        (
            lambda m, A: ClassifierGuidance(m, ExactClassifier(m.sde, MODES)).score(torch.ones(2, 2).double(), 0.5),
            "pass label",
        ),
        (lambda m, A: repaint(m, samplers.DDIM(9), 4, 0), "at least one repeat"),
        (lambda m, A: repaint(m, samplers.DDIM(9), 0), "jump = 0"),
        (lambda m, A: repaint(m, samplers.DDIM(5), 9), "jump = 9 of 5"),
        (lambda m, A: ExactClassifier(m.sde, MODES, -torch.ones(8)), "positive numbers"),
    ],
)
def test_what_means_nothing_is_refused(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(sdegen.Exact(sdegen.VP(), RING), Linear(torch.ones(1, 2, dtype=torch.float64), 0.5))


def test_what_was_seen_may_be_a_number_or_a_list() -> None:
    exact, A = sdegen.Exact(sdegen.VP(), RING), Mask([True, False], 0.5)
    x = states(sdegen.VP(), RING, 0.3)
    scores = [PiGDM(exact, A).score(x, 0.3, y=y) for y in (3.0, [3.0], torch.tensor([3.0]), torch.full((40, 1), 3.0))]
    for score in scores[1:]:
        torch.testing.assert_close(score, scores[0], rtol=1e-12, atol=1e-12)
    with pytest.raises(TypeError, match=r"measurement is an Exact; give a measurement, such as measurements"):
        PiGDM(exact, exact)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: sdegen.Model(sdegen.nets.MLP(2), sdegen.VP), "sde is the class VP; give a linear SDE"),
        (lambda: sdegen.Model(sdegen.VP(), sdegen.nets.MLP(2)), "net is a VP; give a network"),
        (lambda: sdegen.testing.check_sde(sdegen.VP), r"sde is the class VP; give an SDE"),
        (lambda: metrics.kl(RING, torch.ones(5, 2)), "real is a Tensor; kl compares densities"),
        (
            lambda: sdegen.sample(sdegen.Exact(sdegen.VP(), RING), 3, sampler="heun"),
            "sampler is a str; give a sampler with its steps",
        ),
        (
            lambda: sdegen.sample(sdegen.Exact(sdegen.VP(), RING), 3, sampler=samplers.Heun),
            "sampler is the class Heun",
        ),
    ],
    ids=["class", "swapped", "checked class", "samples", "name of a sampler", "class of a sampler"],
)
def test_arguments_in_the_wrong_place_are_named(make: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        make()


def test_a_nonlinear_process_is_refused() -> None:
    sde = sdegen.DoubleWell()
    model = sdegen.DirectModel(sdegen.nets.MLP(2), sde)
    with pytest.raises(TypeError, match="DoubleWell is not linear"):
        DPS(model, Linear(torch.ones(1, 2), 0.5))


# --- up and down again ------------------------------------------------------------------------------------------------


@pytest.mark.turns("VE")
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VE(), sdegen.CLD()], ids=name)
@pytest.mark.turns("CLD")
def test_an_edit_keeps_the_law_and_what_the_noise_has_left(sde: Any) -> None:
    """Data of the law come back with the law, from any time; from early times nearly as they were."""
    exact, x = sdegen.Exact(sde, RING), RING.sample(3000, torch.Generator().manual_seed(0))
    other = RING.sample(3000, torch.Generator().manual_seed(1))
    floor = metrics.sliced_wasserstein(x, other, seed=0)
    kept = []
    for level in (0.1, 1.0, 20.0):
        t = sde.time(torch.tensor(level**-2.0)).item()
        back = sdegen.edit(exact, x, t, steps=30, seed=0)
        assert metrics.sliced_wasserstein(back, other, seed=0).value < floor.value + 5 * floor.stderr
        kept.append(torch.corrcoef(torch.stack([x[:, 0], back[:, 0]]))[0, 1])
    assert kept[0] > 0.99 > 0.98 > kept[1] > 0.8 > 0.2 > abs(kept[2])


def test_an_edit_begins_at_its_time_and_takes_conditions() -> None:
    sde = sdegen.VP()
    truth, times = sdegen.ExactConditional(sde, MODES, RING), []
    x = RING.means[0].expand(500, 2)
    sampler = samplers.DDIM(10)
    moved = sdegen.edit(
        truth, x, 0.9, sampler=sampler, label=4, seed=0, callback=lambda i, t, x: times.append(float(t))
    )
    assert (moved.mean(0) - RING.means[4]).norm() < 0.1 and max(times) < 0.9 and sampler.grid is None
    with pytest.raises(ValueError, match="a grid needs 0 <= end < start <= T"):
        sdegen.edit(truth, x, 1.5)
    for other in (
        samplers.PredictorCorrector(samplers.Ancestral(10)),
        samplers.DDIM(2, grids.Given(torch.tensor([0.9, 0.5]))),
    ):
        with pytest.raises(ValueError, match=r"begins at t = 1, not at the t = 0.2|a grid needs"):
            sdegen.edit(truth, x, 0.2, sampler=other, label=0)
    few, many = (sdegen.edit(truth, RING.means[0].expand(n, 2), 0.5, label=0, seed=3) for n in (5, 50))
    torch.testing.assert_close(many[:5], few)
    with pytest.raises(TypeError, match="DoubleWell is not linear"):
        sdegen.edit(sdegen.DirectModel(sdegen.nets.MLP(2), sdegen.DoubleWell()), x, 0.5)


def test_an_edit_chooses_its_default_as_a_run_under_the_same_conditions_does() -> None:
    truth, x = sdegen.ExactConditional(sdegen.VP(), MODES, RING), RING.means[0].expand(3, 2)
    chosen = samplers.default(sdegen.models.Conditioned(truth, label=2), 5)
    assert not torch.equal(chosen.times(truth.sde, True), samplers.default(truth, 5).times(truth.sde, True))
    own = sdegen.edit(truth, x, 0.8, steps=5, label=2, seed=0)
    assert torch.equal(own, sdegen.edit(truth, x, 0.8, sampler=chosen, label=2, seed=0))
    with pytest.raises(TypeError, match=r"edit has no argument 'lable'.*perhaps 'label' is meant"):
        sdegen.edit(truth, x, 0.8, lable=2)


# --- particles --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_error_of_particles_falls_like_the_root_of_their_number() -> None:
    """On Gaussian data that are not white, and half the push that is needed: the proposal is wrong, weights repair it."""
    law = correlated()
    A = Linear(torch.tensor([[1.0, -0.5, 0.2]], dtype=torch.float64), 0.3)
    y = torch.tensor([2.0], dtype=torch.float64)
    mean, covariance = mixture_posterior(law, A, y).moments()
    proposal = PiGDM(sdegen.Exact(sdegen.VP(), law), A, scale=0.5)
    error = {}
    for n in (64, 1024):
        runs = [twisted_smc(proposal, n, steps=120, seed=k, y=y) for k in range(12)]
        error[n] = torch.stack([run.mean() - mean for run in runs]).square().sum(1).mean().sqrt()
        assert all(abs(run.weights.sum() - 1) < 1e-9 and 1 <= run.effective <= n for run in runs)
    assert 2.4 < error[64] / error[1024] < 6.6  # 4 expected
    bias = torch.stack([run.mean() - mean for run in runs]).mean(0)
    assert bias.norm() < 0.03  # the standard deviations are up to 1.2
    second = torch.stack([run.mean((run.x - mean)[:, :, None] * (run.x - mean)[:, None]) for run in runs]).mean(0)
    direction = A.A[0]
    assert abs((direction @ second @ direction) / (direction @ covariance @ direction) - 1) < 0.05
    assert ((second - covariance).diagonal() / covariance.diagonal()).abs().max() < 0.15
    unweighted = sdegen.sample(proposal, 1024, sampler=samplers.ExponentialSDE(120), seed=0, y=y).mean(0) - mean
    assert error[1024] < 0.3 * unweighted.norm()


def test_particles_find_the_modes_that_the_proposal_gets_wrong() -> None:
    A, y = Linear(torch.tensor([[1.0, 0.3]], dtype=torch.float64), 0.5), torch.tensor([3.0], dtype=torch.float64)
    truth, proposal = mixture_posterior(RING, A, y), PiGDM(sdegen.Exact(sdegen.VP(), RING), A, scale=0.5)
    found = twisted_smc(proposal, 2000, steps=100, seed=0, y=y)
    plain = sdegen.sample(proposal, 2000, sampler=samplers.ExponentialSDE(100), seed=0, y=y)

    def off(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * (truth.component_log_prob(x).softmax(1).mean(0) - truth.weights).abs().sum()

    draws = found.sample(2000, torch.Generator().manual_seed(0))
    assert off(draws) < 0.1 < 0.2 < off(plain)


def test_particles_refuse_what_they_cannot_weigh() -> None:
    exact, A = sdegen.Exact(sdegen.VP(), RING), Linear(torch.ones(1, 2, dtype=torch.float64), 0.5)
    with pytest.raises(ValueError, match="what was measured is missing"):
        twisted_smc(PiGDM(exact, A), 10, seed=0)
    with pytest.raises(ValueError, match="y has a row for each particle"):
        twisted_smc(PiGDM(exact, A), 10, seed=0, y=torch.ones(10, 1))
    with pytest.raises(TypeError, match="model is a Clipped; give a PiGDM, MomentMatching or DPS"):
        twisted_smc(Clipped(PiGDM(exact, A), -1, 1), 10, seed=0, y=1.0)
    with pytest.raises(ValueError, match="no noise to weigh"):
        twisted_smc(PiGDM(exact, A), 10, seed=0, y=1.0, grid=grids.LogSNR(end=0.0))
