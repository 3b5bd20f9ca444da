"""What is known of the law under conditions, and the default around it: posteriors as wide as they are after few evaluations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, guidance, measurements, sample, samplers
from sdegen.guidance.measurements import posterior_moments
from sdegen.samplers import MatchedConditional, Multistep, PointMass, measure_profile

Problem = tuple[sdegen.GaussianMixture, measurements.Linear, Tensor, sdegen.GaussianMixture]
RING = sdegen.data.gaussian_ring()
SEEN = measurements.Mask(torch.tensor([True, False]), std=0.3)


def problem(seed: int, modes: int) -> Problem:
    """A law of Gaussian modes, a noisy linear measurement of some of its directions, what was seen, and the posterior."""
    rng = np.random.default_rng([seed, modes])
    d = int(rng.choice([2, 4, 8]))
    m = int(rng.integers(1, d // 2 + 1))
    A = torch.from_numpy(rng.uniform(0.15, 0.5) * rng.standard_normal((modes, d, d))) / d**0.5
    means = torch.from_numpy(rng.uniform(0.7, 2) * rng.standard_normal((modes, d)))
    law = sdegen.GaussianMixture(
        torch.from_numpy(rng.dirichlet(2 * np.ones(modes))), means, A @ A.mT + 0.02 * torch.eye(d)
    )
    H = torch.from_numpy(rng.standard_normal((m, d)))
    seen = measurements.Linear(H, std=float(np.exp(rng.uniform(np.log(0.03), np.log(0.7)))))
    g = torch.Generator().manual_seed(seed)
    y = seen.sample(law.sample(1, g), g)[0]
    return law, seen, y, measurements.mixture_posterior(law, seen, y)


FINE = Multistep(60, grids.Angle(power=0.5), 3, reference=PointMass(), clock=samplers.share, corrector=True)


def ends(model: sdegen.ScoreModel, sampler: Any, steps: int | None, n: int = 100, **cond: Any) -> Tensor:
    """Samples from always the same starts."""
    x_T = model.sde.prior(model.require_moments()).sample(n, torch.Generator().manual_seed(1))
    return sample(model, x_T=x_T, sampler=sampler, steps=steps, **cond)


@pytest.mark.turns("3", "4", "2")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.turns("1")
def test_gaussian_posteriors_are_exact_in_three_evaluations(seed: int) -> None:
    """Of matched moments, of a label, and of guidance that changes nothing: every path ends where the solution does."""
    law, seen, y, posterior = problem(1000 + seed, 1)
    labelled = sdegen.ExactConditional(sdegen.VP(), [posterior], law)
    for model, cond in (
        (guidance.MomentMatching(sdegen.Exact(sdegen.VP(), law), seen), {"y": y}),
        (labelled, {"label": 0}),
        (guidance.ClassifierFree(labelled, 1.0), {"label": 0}),
    ):
        now, known = ends(model, None, 3, **cond), ends(model, FINE, None, **cond)
        assert (now - known).norm(dim=1).max() < 2e-3 * known.var(0).sum().sqrt()


@pytest.mark.turns("3", "4", "1")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.turns("0")
def test_posteriors_of_mixtures_are_as_wide_as_they_are_at_ten_evaluations(seed: int) -> None:
    law, seen, y, posterior = problem(1000 + seed, 4)
    labelled = sdegen.ExactConditional(sdegen.VP(), [posterior], law)
    exact = sdegen.Exact(sdegen.VP(), law)
    models: list[tuple[sdegen.ScoreModel, dict[str, Any]]] = [
        (labelled, {"label": 0}),
        (guidance.MomentMatching(exact, seen), {"y": y}),
    ]
    for model, cond in models:
        now, known = ends(model, None, 10, **cond), ends(model, FINE, None, **cond)
        assert abs(now.var(0).sum() / known.var(0).sum() - 1) < 0.03


def test_each_sample_has_the_reference_of_its_own_measurement() -> None:
    law, seen, _, _ = problem(3, 1)
    model = guidance.MomentMatching(sdegen.Exact(sdegen.VP(), law), seen)
    y = seen.sample(law.sample(6, torch.Generator().manual_seed(0)))
    for eta in (0.0, 1.0):
        sampler = samplers.default(sdegen.Conditioned(model, y=y), 4, eta)
        together = sample(model, 6, sampler=sampler, seed=0, y=y)
        chunks = sample(model, 6, sampler=sampler, seed=0, y=y, batch=4)
        last = sample(model, 6, sampler=sampler, seed=0, y=y[5])[5]
        assert torch.allclose(together, chunks, atol=1e-9) and torch.allclose(together[5], last, atol=1e-9)
    x_T = torch.randn(6, *law.event_shape, dtype=torch.float64)
    few, many = (sample(model, x_T=x_T, steps=n, y=y) for n in (2, 30))
    assert torch.allclose(few, many, atol=2e-3)  # Gaussian data: exact in every step, whatever each one's mean


def test_the_best_linear_estimate_is_the_posterior_of_gaussian_data() -> None:
    law, seen, y, posterior = problem(5, 1)
    one, many = (posterior_moments(law.moments(), seen, v) for v in (y, torch.stack([y, 2 * y])))
    assert one is not None and many is not None
    assert torch.allclose(one.mean, posterior.means[0]) and torch.allclose(one.covariance, posterior.covariances[0])
    assert torch.equal(many.mean[0], one.mean) and many.event_shape == one.mean.shape
    diagonal = sdegen.Moments(torch.zeros(2, dtype=torch.float64), torch.tensor([2.0, 3.0], dtype=torch.float64))
    found = posterior_moments(diagonal, SEEN, torch.tensor([1.0]))
    assert found is not None
    assert torch.allclose(found.covariance, torch.diag(torch.tensor([2 * 0.09 / 2.09, 3.0], dtype=torch.float64)))
    two = measurements.Mask(torch.tensor([True, True]), std=0.3)
    assert posterior_moments(diagonal, two, torch.ones(3)) is None  # which no datum gives


def test_units_are_those_of_the_data() -> None:
    """The same problem in metres and in millimetres, by a process in units of the data."""
    law, seen, y, _ = problem(4, 3)
    large = sdegen.GaussianMixture(law.weights, 1000 * law.means, 1000**2 * law.covariances)
    found = []
    for data, what in ((law, seen), (large, measurements.Linear(seen.A / 1000, seen.std))):
        sde = sdegen.VP().in_units(data.moments().units())
        found.append(sample(guidance.MomentMatching(sdegen.Exact(sde, data), what), 20, steps=6, seed=0, y=y))
    assert torch.allclose(1000 * found[0], found[1], rtol=1e-6)


@pytest.mark.slow
def test_networks_know_the_variance_that_was_measured_under_conditions() -> None:
    pairs = zip(RING.means, RING.covariances, strict=True)
    modes = [sdegen.GaussianMixture(torch.ones(1), m[None], v[None]) for m, v in pairs]
    exact = sdegen.ExactConditional(sdegen.VP(), modes, RING)
    label = torch.arange(8).repeat_interleave(8)
    x = torch.cat([mode.sample(8, torch.Generator().manual_seed(k)) for k, mode in enumerate(modes)])
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, classes=8), sdegen.VP())
    model.moments = RING.moments()
    assert model.conditional_moments(label=1) is None and model.conditional_moments() is model.moments
    model.profile = measure_profile(exact, x, label=label)
    known = guidance.ClassifierFree(model, 2.0).conditional_moments(label=1)
    assert known is not None and torch.equal(known.mean, model.moments.mean)
    assert torch.allclose(known.variances(), RING.covariances[0].double().expand(2), rtol=0.4)


def test_a_label_has_the_moments_of_its_law_and_many_a_row_each() -> None:
    wide = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.tensor([[[2.0, 0.5], [0.5, 1.0]]]))
    point = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([0.5]))
    model = sdegen.ExactConditional(sdegen.VP(), [wide, point], RING)
    assert model.conditional_moments() is model.moments
    one = model.conditional_moments(label=0)
    assert one is not None and all(map(torch.equal, one, wide.moments()))
    both = model.conditional_moments(label=torch.tensor([1, 0]))
    assert both is not None and torch.equal(both.mean, torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=both.mean.dtype))
    assert torch.allclose(both.covariance, torch.tensor([[1.25, 0.25], [0.25, 0.75]], dtype=both.covariance.dtype))


def test_where_nothing_is_known_it_is_a_point_mass() -> None:
    exact = sdegen.Exact(sdegen.VP(), RING)
    classifier = guidance.ExactClassifier(sdegen.VP(), [RING, RING])
    guided = sdegen.Conditioned(guidance.ClassifierGuidance(exact, classifier), label=0)
    assert guided.conditional_moments() is None
    x = [sample(guided, 8, seed=0, sampler=Multistep(6, reference=v)) for v in (MatchedConditional(), PointMass())]
    assert torch.equal(*x)
    noisy: Any = samplers.default(guided, 10, eta=1)
    assert isinstance(noisy.reference, PointMass)
    unseen = guidance.PiGDM(exact, SEEN)
    assert unseen.conditional_moments() is None
    with pytest.raises(ValueError, match="what was measured is missing"):
        sample(unseen, 2, steps=4)


def two_widths() -> sdegen.ExactConditional:
    """Two labels of laws of different widths, and their mixture without a label."""
    means, covariances = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.stack([0.01 * torch.eye(2), torch.eye(2)])
    laws = [sdegen.GaussianMixture(torch.ones(1), means[i : i + 1], covariances[i : i + 1]) for i in range(2)]
    return sdegen.ExactConditional(sdegen.VP(), laws, sdegen.GaussianMixture(torch.full((2,), 0.5), means, covariances))


@pytest.mark.parametrize("door", [sample, samplers.encode, samplers.decode])
def test_samples_of_laws_of_different_widths_do_not_depend_on_the_batch(door: Any) -> None:
    model, label = two_widths(), torch.tensor([0, 0, 1, 1, -1])
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = {"x_T": x, "seed": 0} if door is sample else {}
    given = [model] if door is sample else [model, x]
    whole = door(*given, steps=4, label=label, **start)
    for batch in (1, 2, 4):
        assert torch.allclose(door(*given, steps=4, label=label, batch=batch, **start), whole, atol=1e-9)


@pytest.mark.parametrize("null", [-1, torch.full((3,), -1)])
def test_without_a_label_the_sampler_is_that_of_the_whole_law(null: Any) -> None:
    model = two_widths()
    assert torch.equal(sample(model, 3, steps=4, seed=0, label=null), sample(model, 3, steps=4, seed=0))
    assert not measure_profile(model, model.null.sample(8), steps=(), label=null).given


def test_a_label_for_each_has_the_mean_covariance_of_all() -> None:
    model, label = two_widths(), torch.tensor([0, 1, 1, -1])
    known = model.conditional_moments(label=label)
    each = [model.conditional_moments(label=k) for k in label]
    assert known is not None
    covariances = [m.covariance if m.covariance.ndim == 2 else m.covariance.diag() for m in each if m is not None]
    assert torch.allclose(known.covariance, torch.stack(covariances).mean(0))
    assert torch.equal(known.mean, torch.stack([m.mean for m in each if m is not None]))


def test_widths_of_a_profile_are_spreads_of_columns_in_the_units_of_each() -> None:
    std = torch.tensor([0.5, 4.0], dtype=torch.float64)
    sde = sdegen.VP().in_units(sdegen.laws.Units(torch.zeros(2), std))
    model = sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1, classes=2), sde)
    model.moments = sdegen.Moments(torch.tensor([1.0, 2.0]), std.square().diag())
    exact = sdegen.ExactConditional(
        sdegen.VP(), [sdegen.GaussianMixture(torch.ones(1), torch.full((1, 2), m), torch.tensor([0.25])) for m in (-1.0, 1.0)],
        sdegen.data.gaussian_ring(),
    )  # fmt: skip
    label = torch.arange(8) % 2
    data = torch.cat([exact.laws[k].sample(1, torch.Generator().manual_seed(i)) for i, k in enumerate(label.tolist())])
    model.profile = measure_profile(exact, data, steps=(), label=label)
    found = model.conditional_moments(label=label)
    assert found is not None and torch.allclose(found.covariance, model.profile.variance() * std.square())
