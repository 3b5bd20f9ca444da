"""Weighted runs of products: the law and the normaliser that are stated, in closed form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import guidance, metrics, samplers
from sdegen.guidance import Particles, Product, corrected
from sdegen.guidance.feynman_kac import OWN
from sdegen.guidance.improper import refuse_improper
from sdegen.guidance.measurements import Linear, mixture_posterior
from sdegen.guidance.swarm import GIVEN, Swarm, regress, stages_of
from sdegen.laws import GaussianMixture, PlanarLaw, Units, multiply_laws
from sdegen.processes import CLD, LinearSDE
from sdegen.samplers.multistep import MultistepMemory

RING = sdegen.data.gaussian_ring()
EXACT = sdegen.Exact(sdegen.VP(), RING)
MODE = GaussianMixture(torch.ones(1), RING.means[:1], RING.covariances[:1])
UNITS = Units(torch.tensor([0.5, 0.0]), torch.tensor([2.0, 0.7]))


def gaussian(mean: float, variances: Sequence[float]) -> GaussianMixture:
    return GaussianMixture(torch.ones(1), torch.full((1, 2), mean), torch.tensor([variances]))


class Lost(sdegen.Exact):
    """A model that says nothing near the data."""

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        x_0, eps = super().estimate(x, t)
        return x_0, eps if t > 0.3 else eps * torch.nan


NARROW, WIDE = gaussian(1.0, (0.25, 0.5)), gaussian(0.0, (1.0, 1.5))


def product(sde: LinearSDE, factors: Sequence[tuple[GaussianMixture, float]]) -> Product:
    return Product([(sdegen.Exact(sde, law), power) for law, power in factors])


@pytest.mark.parametrize(
    ("sde", "powers", "eta"),
    [
        (sdegen.VP(), (3.0, -2.0), 1.0),
        (sdegen.VP().in_units(UNITS), (3.0, -2.0), 0.7),
        (sdegen.VP().in_units(UNITS), (0.5, 0.25), 1.0),
        (sdegen.VP(), (0.6, 0.2), 1.5),
    ],
)
def test_of_gaussians_the_normaliser_is_exact_and_all_weights_are_equal(
    sde: LinearSDE, powers: tuple[float, float], eta: float
) -> None:
    factors = list(zip((NARROW, WIDE), powers, strict=True))
    found, truth = corrected(product(sde, factors), 600, steps=40, eta=eta, seed=0), multiply_laws(factors)
    assert found.log_evidence == pytest.approx(truth.log_normaliser, abs=0.02)
    assert found.effective > 590 and found.resampled == 0
    mean, C = truth.law.moments()
    assert ((found.mean() - mean).abs() < 5 * (C.diagonal() / 600).sqrt()).all()
    spread = found.mean((found.x - found.mean()).square()) / C.diagonal()
    assert (spread.log().abs() < 0.3).all()


def test_of_gaussians_whose_axes_differ_and_under_conditions_all_weights_are_equal() -> None:
    """The drift is no symmetric map then; and each member has the moments that it has under its condition."""
    turned = GaussianMixture(torch.ones(1), torch.tensor([[1.0, -0.5]]), torch.tensor([[[0.5, 0.4], [0.4, 0.5]]]))
    wide = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[[2.0, 0.0], [0.0, 0.5]]]))
    either = GaussianMixture(
        torch.ones(2) / 2, torch.cat([turned.means, wide.means]), torch.cat([turned.covariances, wide.covariances])
    )
    labelled = sdegen.ExactConditional(sdegen.VE(sigma_max=2.0), [turned, wide], either)
    model = Product([(labelled, 1.5), (guidance.Without(labelled, label=1), -0.5)])
    found, truth = corrected(model, 300, steps=20, seed=0, label=0), multiply_laws([(turned, 1.5), (wide, -0.5)])
    assert found.effective > 297 and found.log_evidence == pytest.approx(truth.log_normaliser, abs=0.02)


def test_a_run_that_ends_early_has_the_same_normaliser() -> None:
    """What is left is the flow, whose volume counts as often as the powers are above one; of wide laws a step of it will do."""
    factors = [(gaussian(0.0, (4.0, 6.0)), 0.5), (gaussian(1.0, (5.0, 4.0)), 0.25)]
    found = corrected(product(sdegen.VP(), factors), 300, steps=20, grid=sdegen.grids.Angle(end=0.1), seed=0)
    assert found.log_evidence == pytest.approx(multiply_laws(factors).log_normaliser, abs=0.02)


def test_a_run_that_ends_early_is_taken_to_the_data_by_the_flow() -> None:
    found = corrected(product(sdegen.VP(), [(NARROW, 1.0)]), 2000, steps=10, grid=sdegen.grids.Angle(end=0.05), seed=0)
    spread = found.mean((found.x - found.mean()).square()).sqrt() / NARROW.moments().covariance.diagonal().sqrt()
    assert ((spread - 1).abs() < 0.08).all()


def test_particles_that_are_drawn_again_take_all_of_theirs_with_them() -> None:
    model, sde, draws = (
        product(sdegen.VP(), [(NARROW, 2.0), (WIDE, -1.0)]),
        sdegen.VP(),
        torch.Generator().manual_seed(0),
    )
    swarm = Swarm(model, torch.randn(200, 2, dtype=torch.float64, generator=draws), 1.0, None, {})
    swarm.evaluate(stages_of(model, sde, torch.tensor([0.6, 0.4], dtype=torch.float64), 2)[0])
    swarm.log_weights = 3 * torch.randn(200, dtype=torch.float64, generator=draws)
    swarm.optimisms = swarm.optimisms + swarm._rate
    swarm.memory = MultistepMemory(1 + swarm.x, [2 + swarm.x, 3 + swarm.x], 4 + swarm.x)

    def all_of_theirs() -> list[Tensor]:
        assert swarm.memory is not None and swarm.memory.bare is not None
        remembered = [swarm.memory.first, *swarm.memory.history, swarm.memory.bare]
        rates = [swarm._rate, swarm.optimisms, swarm._optimisms_rate]
        return [swarm.x, *swarm.noise, *swarm.clean, swarm.shift, *rates, *remembered]

    before, mean = all_of_theirs(), swarm.log_weights.exp().mean()
    swarm.resample(0.9, draws)
    assert swarm.resampled == 1 and swarm.ancestors.unique().numel() < 120
    for was, now in zip(before, all_of_theirs(), strict=True):
        torch.testing.assert_close(now, was[swarm.ancestors])
    swarm.memory = None
    torch.testing.assert_close(swarm.log_weights.exp(), mean.expand(200))
    swarm.resample(0.9, draws)
    assert swarm.resampled == 1  # as all weights are equal
    runs = [corrected(model, 40, steps=6, threshold=threshold, seed=0).resampled for threshold in (0.0, 1.0)]
    assert runs[0] == 0 < runs[1]


def test_particles_do_not_depend_on_the_batch() -> None:
    run = {"steps": 8, "seed": 3}
    model = product(sdegen.VP(), [(MODE, 2.0), (RING, -1.0)])
    whole, parts = corrected(model, 90, **run), corrected(model, 90, batch=16, **run)
    torch.testing.assert_close(whole.x, parts.x)
    assert whole.log_evidence == pytest.approx(parts.log_evidence)


@pytest.mark.slow
@pytest.mark.parametrize(("sde", "eta"), [(sdegen.VP(), 0.5), (sdegen.VP(), 2.0), (CLD(), 1.0)])
def test_weights_are_right_at_every_noise_level_without_a_drift(
    sde: LinearSDE, eta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdegen.guidance.swarm.EACH", 10**9)  # particles for a drift
    factors = [(NARROW, 2.0), (WIDE, -1.0)]
    truth = multiply_laws(factors)
    found = corrected(product(sde, factors), 1500, eta=eta, seed=0)
    assert found.effective < 1400 and found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - truth.log_normaliser) < 3 * found.evidence_error + 0.02 < 0.5
    assert ((found.mean() - truth.law.means[0]).abs() < 0.1).all()


@pytest.mark.slow
@pytest.mark.parametrize("w", [2.0, 3.0])
def test_guidance_samples_the_tilted_law_that_it_states(w: float) -> None:
    """The product is the mode, thinned by the probability of the class to the power ``w − 1``, which rejection samples."""
    draws = torch.Generator().manual_seed(1)
    drawn = MODE.sample(40_000, draws)
    share = RING.component_log_prob(drawn).softmax(1)[:, 0] ** (w - 1)
    truth = drawn[torch.rand(len(share), dtype=torch.float64, generator=draws) < share]
    log_normaliser = share.mean().log().item() - (w - 1) * math.log(1 / 8)
    model = product(sdegen.VP(), [(MODE, w), (RING, 1 - w)])
    found = corrected(model, 2000, seed=0)
    plain = sdegen.sample(model, 2000, sampler=samplers.ExponentialSDE(100), seed=0)

    def apart(x: Tensor) -> float:
        return metrics.sliced_wasserstein(x, truth[:2000], seed=0).value

    floor = apart(truth[2000:4000])
    x = found.sample(2000, torch.Generator().manual_seed(0))
    assert apart(x) < 2 * floor < 2 * apart(plain)
    assert found.log_evidence == pytest.approx(log_normaliser, abs=0.06)


@pytest.mark.slow
def test_independent_observations_leave_the_width_of_their_posterior() -> None:
    prior, A = gaussian(0.0, (1.0, 2.0)), Linear(torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64), 1.0)
    seen = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1
    truth, factors = prior, [(prior, -19.0)]
    for y in seen:
        truth = mixture_posterior(truth, A, y)
        factors.append((mixture_posterior(prior, A, y), 1.0))
    found = corrected(product(sdegen.VP(), factors), 2000, seed=0)
    C = truth.moments().covariance.diagonal()
    width = (found.mean((found.x - found.mean()).square()) / C).sqrt()
    assert ((width - 1).abs() < 0.05).all(), width
    assert ((found.mean() - truth.moments().mean).abs() < 4 * (C / 2000).sqrt()).all()
    assert found.log_evidence == pytest.approx(multiply_laws(factors).log_normaliser, abs=0.02)


def test_rows_without_weight_have_no_say_in_a_regression_nor_has_a_constant() -> None:
    draws = torch.Generator().manual_seed(0)
    features, values = torch.randn(2, 40, 3, dtype=torch.float64, generator=draws)
    weights = torch.rand(40, dtype=torch.float64, generator=draws)
    weights[30:] = 0
    weights /= weights.sum()
    found, own, _ = regress(features, values[:, 0], weights)
    some, own_of_some, _ = regress(features[:30], values[:30, 0], weights[:30])
    torch.testing.assert_close(some, found)
    torch.testing.assert_close(own_of_some, own[:30])
    assert not own[30:].any()
    units = torch.tensor([1.0, 1e3, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(regress(features * units, values[:, 0], weights)[0] * units, found)
    slope = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(
        regress(features, features @ slope + 7, weights)[0], slope, rtol=0, atol=0.1
    )  # but for the ridge


def test_what_a_row_adds_to_its_own_fit_is_the_difference_to_the_fit_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sdegen.guidance.swarm.RIDGE", 0.0)  # which is of all rows' size
    draws = torch.Generator().manual_seed(0)
    features, values = torch.randn(2, 40, 3, dtype=torch.float64, generator=draws)
    weights = 0.1 + torch.rand(40, dtype=torch.float64, generator=draws)
    found, own, _ = regress(features, values[:, 0], weights / weights.sum())
    for i in range(40):
        others = torch.arange(40) != i
        without, _, _ = regress(features[others], values[others, 0], weights[others] / weights[others].sum())
        torch.testing.assert_close(own[i], features[i] @ (found - without))


def test_a_value_that_is_far_from_a_fit_counts_as_one_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far it is beyond the limit changes nothing, and values within the limit count whole."""
    monkeypatch.setattr("sdegen.guidance.swarm.RIDGE", 0.0)
    monkeypatch.setattr("sdegen.guidance.swarm.ROUNDS", 500)
    draws = torch.Generator().manual_seed(0)
    features, noise = torch.randn(2, 60, 3, dtype=torch.float64, generator=draws)
    weights = 0.1 + torch.rand(60, dtype=torch.float64, generator=draws)
    weights, values = weights / weights.sum(), features.sum(1) + 0.1 * noise[:, 0]
    slopes, whole = [], []
    for far in (5.0, 50.0):
        values[7] = far + features[7].sum()
        slope, own, _ = regress(features, values, weights, 1.0)
        slopes.append(torch.cat([slope, own]))
        whole.append(regress(features, values, weights)[0])
    torch.testing.assert_close(slopes[0], slopes[1])
    assert (slopes[0][:3] - 1).abs().max() < 0.05 and (whole[1] - whole[0]).abs().max() > 0.2
    values[7] = 1.0 + features[7].sum()  # about as far from the fit as the limit, which other values stay within
    near = regress(features, values, weights, 1.1)[0]
    torch.testing.assert_close(near, regress(features, values, weights)[0])
    exact, *_ = regress(
        features, features.sum(1), weights, 1e-3
    )  # values that a fit reaches are cut at first, not in the end
    torch.testing.assert_close(exact, torch.ones(3, dtype=torch.float64))


def test_values_far_off_do_not_throw_a_regression_that_many_others_tell() -> None:
    """Of 300 rows on a line of slopes a tenth three are thousands away, together: cut about the least squares, to which they pull
    the line, they would still be the nearest to it after ten rounds.
    """
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(300, 5, dtype=torch.float64, generator=draws)
    features[:3] += 4
    values = 0.1 * features.sum(1)
    values[:3] += 5000
    weights = torch.full((300,), 1 / 300, dtype=torch.float64)
    found = regress(features, values, weights, 1.0)[0]
    assert (found - 0.1).abs().max() < 0.1, found
    exact = regress(features, 40 * features.sum(1), weights, 1.0)[
        0
    ]  # no row is far from its fit, however far from the mean
    torch.testing.assert_close(exact, torch.full_like(exact, 40.0), rtol=0.03, atol=0)


def test_a_step_gives_no_weight_more_than_half_a_nat_above_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it withholds is counted, in nats of the normaliser, whose weights are even here."""
    model, n = product(sdegen.VP(), [(NARROW, 2.0), (WIDE, -1.0)]), 50  # too few for a drift
    first, *_ = stages_of(model, sdegen.VP(), torch.tensor([0.6, 0.5, 0.2], dtype=torch.float64), 2)
    rates = torch.linspace(-1, 1, n, dtype=torch.float64)
    rates[-1] = 1e3
    monkeypatch.setattr(Swarm, "_potential", lambda self, root: rates / first.dt_dphi)
    swarm = Swarm(model, torch.zeros(n, 2, dtype=torch.float64), 1.0, None, {})
    swarm.evaluate(first)
    most = rates.mean() + GIVEN / first.length
    torch.testing.assert_close(swarm._rate, rates.clamp_max(most))
    assert swarm.withheld == pytest.approx((first.length * (1e3 - most) / n).item())
    assert first.length * (swarm._rate - rates.mean()).max().item() == pytest.approx(0.5)


def test_the_rates_of_a_time_count_for_half_of_the_steps_beside_it() -> None:
    times = torch.tensor([0.9, 0.6, 0.5, 0.2], dtype=torch.float64)
    stages = stages_of(product(sdegen.VP(), [(NARROW, 2.0), (WIDE, -1.0)]), sdegen.VP(), times, 2)
    phi, rates = torch.tensor([stage.phi for stage in stages]), torch.tensor([3.0, -1.0, 2.0, 5.0])
    lengths = torch.tensor([stage.length for stage in stages])
    torch.testing.assert_close(lengths @ rates, -torch.trapezoid(rates, phi))


@pytest.mark.parametrize(("spread", "sure"), [(0.3, True), (1.0, False)])
def test_what_was_given_back_is_in_doubt_where_few_particles_have_most_of_a_fit(spread: float, sure: bool) -> None:
    """As of a state far out, of which a fit to the others says little."""
    model, draws = product(sdegen.VP(), [(NARROW, 3.0), (WIDE, -2.0)]), torch.Generator().manual_seed(0)
    stage = stages_of(model, sdegen.VP(), torch.tensor([0.6, 0.4], dtype=torch.float64), 2)[0]
    x = torch.randn(2000, 2, dtype=torch.float64, generator=draws)
    x = x * (spread * torch.randn(2000, 1, dtype=torch.float64, generator=draws)).exp()
    swarm = Swarm(model, x, 1.0, None, {})
    swarm.evaluate(stage)
    rate = torch.randn(2000, dtype=torch.float64, generator=draws) * x.norm(dim=1)
    drift = swarm._fit(stage, rate, torch.full((2000,), 1 / 2000, dtype=torch.float64))
    share = drift.doubts.sum() / drift.optimisms.sum()
    assert share < 0.1 if sure else share > 0.8


@pytest.mark.slow
def test_strong_guidance_in_eight_dimensions_keeps_its_particles_and_its_law() -> None:
    """By scores alone, at the scale 5 in a hundred steps: without limits on single weights one ancestor was left, tens of floors
    from the law. Modes hardly overlap, so that the law is the mode.
    """
    law = sdegen.data.random_mixture(8, modes=8, seed=121)
    mode = GaussianMixture(torch.ones(1), law.means[:1], law.covariances[:1])
    found = corrected(product(sdegen.VP(), [(mode, 5.0), (law, -4.0)]), 1000, seed=0)
    exact, again = (mode.sample(1000, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    apart = [
        metrics.sliced_wasserstein(x, exact, seed=0).value
        for x in (found.sample(1000, torch.Generator().manual_seed(0)), again)
    ]
    assert apart[0] < 2 * apart[1] and (found.ancestors or 0.0) > 100
    assert found.log_evidence == pytest.approx(-4 * law.weights[0].log().item(), abs=2 * (found.evidence_error or 0.0))
    assert (found.evidence_error or 0.0) < 1


def test_weights_half_way_between_a_fit_and_fits_without_each_row_vary_as_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of noise that features know nothing of: with a fifth of a fit from each row itself, a fit leaves 1 − 1 / 5 of the variance,
    leave-one-out fits 1 / (1 − 1 / 5), and half-way it is (1 − 1 / 10)² / (1 − 1 / 5).
    """
    monkeypatch.setattr("sdegen.guidance.swarm.RIDGE", 0.0)
    draws, n, p = torch.Generator().manual_seed(0), 400, 79
    even, found = torch.full((n,), 1 / n, dtype=torch.float64), []
    for _ in range(100):
        features = torch.randn(n, p, dtype=torch.float64, generator=draws)
        noise = torch.randn(n, dtype=torch.float64, generator=draws)
        slope, own, _ = regress(features, noise, even)
        left = noise - features @ slope
        found.append(torch.stack([(left + share * own).var() for share in (0.0, OWN, 1.0)]))
    torch.testing.assert_close(
        torch.stack(found).mean(0), torch.tensor([0.8, 0.9**2 / 0.8, 1.25], dtype=torch.float64), rtol=0.025, atol=0
    )


@pytest.mark.slow
def test_the_stated_error_holds_the_bias_that_is_left() -> None:
    """Of few particles, whose fitted drift takes more from their weights than they may lose: .08 nats on the ring, of which half
    is given back. Without the other half in their error, too few runs are within two; with it no fewer than three binomial
    errors below 95.
    """
    drawn = MODE.sample(100_000, torch.Generator().manual_seed(1))
    share = RING.component_log_prob(drawn).softmax(1)[:, 0] ** 2
    truth, model = share.mean().log().item() + 2 * math.log(8), product(sdegen.VP(), [(MODE, 3.0), (RING, -2.0)])
    runs = [corrected(model, 500, seed=seed, progress=False) for seed in range(40)]
    ratio = torch.tensor([abs((run.log_evidence or 0.0) - truth) / (run.evidence_error or 0.0) for run in runs])
    one, two = ((ratio < k).double().mean().item() for k in (1, 2))
    assert one > 0.68 - 0.15 and two > 0.95 - 3 * (0.95 * 0.05 / len(runs)) ** 0.5, (one, two)


@pytest.mark.parametrize("gentle", [True, False])
def test_what_a_drift_takes_from_the_weights_is_its_divergence_and_its_work(
    gentle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any linear drift, whatever the weights vary with: ``excess = pull·w − tr(gram ∂w/∂y)``, `w` the drift in units of the
    noise, which the change of the noise is divided by ``−gain · dt_dphi``.
    """
    monkeypatch.setattr("sdegen.guidance.swarm.FITTED", math.inf)  # or no fit would ask for as much
    model, sde, draws = (
        product(sdegen.VP(), [(NARROW, 3.0), (WIDE, -2.0)]),
        sdegen.VP(),
        torch.Generator().manual_seed(0),
    )
    stage = stages_of(model, sde, torch.tensor([0.6, 0.4], dtype=torch.float64), 2)[0]
    swarm = Swarm(model, torch.randn(400, 2, dtype=torch.float64, generator=draws), 0.9, None, {})
    swarm.evaluate(stage)
    y = stage.at.R_inv(swarm.x)
    size = 1.0 if gentle else 1e4  # the drift is cut where it would be large
    rate = size * (y[:, 0] * y[:, 1] + torch.randn(400, dtype=torch.float64, generator=draws))
    excess, shift, *_ = swarm._fit(stage, rate, torch.full((400,), 1 / 400, dtype=torch.float64))
    if not gentle:
        assert shift.square().mean().sqrt().item() == pytest.approx(4)  # of noise whose numbers have size 1
    w = -0.9 * stage.dt_dphi * shift
    columns = torch.cat([torch.ones(400, 1), y], 1)
    slope = torch.linalg.lstsq(columns, w).solution
    torch.testing.assert_close(columns @ slope, w)  # linear in the state
    pull = stage.root.T(stage.root(model.combine(swarm.noise)))
    torch.testing.assert_close(excess, (pull * w).sum(1) - (stage.gram * slope[1:].T).sum())
    assert (slope[1, 1] - slope[2, 0]).abs() > 1e-3  # by no symmetric matrix


@pytest.mark.parametrize(("particles", "numbers"), [(79, 0), (80, 4), (119, 4), (120, 6)])
def test_a_drift_has_a_number_for_twenty_particles_at_most(particles: int, numbers: int) -> None:
    """In two dimensions six: a shift, and a matrix, of which four are a shift and the same for each axis."""
    model, draws = product(sdegen.VP(), [(NARROW, 3.0), (WIDE, -2.0)]), torch.Generator().manual_seed(0)
    stage = stages_of(model, sdegen.VP(), torch.tensor([0.6, 0.4], dtype=torch.float64), 2)[0]
    swarm = Swarm(model, torch.randn(particles, 2, dtype=torch.float64, generator=draws), 0.9, None, {})
    swarm.evaluate(stage)
    y = stage.at.R_inv(swarm.x)
    shift = swarm._fit(stage, y[:, 0] * y[:, 1], torch.full((particles,), 1 / particles, dtype=torch.float64)).shift
    slope = torch.linalg.lstsq(torch.cat([torch.ones(particles, 1), y], 1), shift).solution
    assert (slope.abs() > 1e-9).sum() == numbers


def test_the_error_of_independent_weights_is_that_of_their_mean() -> None:
    """And wider by their skewness, of which even weights, as many above the mean as below, have none."""
    draws = torch.Generator().manual_seed(0)
    even, skewed = (
        torch.rand(25, dtype=torch.float64, generator=draws),
        torch.randn(50, dtype=torch.float64, generator=draws),
    )
    for w in (torch.cat([2 - even, even]), skewed.exp()):
        found = Particles.of_families(torch.zeros(50, 1), w.log(), torch.arange(50), 0, 1, 0.0, "")
        off = (w - w.mean()) / w.sum()
        s = (w.std() / w.mean() / 50**0.5).item()
        skewness = off.pow(3).sum().item() / s**3
        assert found.evidence_error == pytest.approx(s * (1 + 1.5 * skewness))
        assert found.ancestors == pytest.approx(found.effective)
    assert skewness > 0.1
    with pytest.warns(UserWarning, match="about 1 of the first 50 particles, or their descendants, bear all"):
        of_one = Particles.of_families(torch.zeros(50, 1), w.log(), torch.zeros(50, dtype=torch.long), 9, 1, 0.0, "")
    assert of_one.evidence_error == pytest.approx(2.5, rel=0.05) and of_one.ancestors == pytest.approx(1.0)


def test_the_error_of_weights_that_were_fitted_is_that_of_weights_that_were_not() -> None:
    """A fit that takes all differences leaves weights that are even, and the error that they had."""
    log_weights = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, own, left = torch.zeros(50, 1), torch.arange(50), torch.zeros(50, dtype=torch.float64)
    bare, fitted, mended = (
        Particles.of_families(x, weights, own, 0, 1, 0.0, "", taken=taken)
        for weights, taken in ((log_weights, 0.0), (left, 0.0), (left, log_weights))
    )
    assert mended.evidence_error == pytest.approx(bare.evidence_error) and fitted.evidence_error == 0.0
    assert mended.ancestors == fitted.ancestors == pytest.approx(50) and torch.equal(mended.weights, fitted.weights)


def test_pooled_runs_are_those_of_one_with_all_particles() -> None:
    """Of independent weights: a run is cut into parts of different sizes, whose normalisers differ."""
    draws = torch.Generator().manual_seed(0)
    x, log_weights = torch.randn(70, 2, generator=draws), torch.randn(70, dtype=torch.float64, generator=draws)

    def run(part: slice) -> Particles:
        w = log_weights[part]
        evidence = (w.logsumexp(0) - math.log(len(w))).item()
        return Particles.of_families(x[part], w, torch.arange(len(w)), part.start or 0, 7, evidence, "")

    whole, found = (
        run(slice(0, 70)),
        Particles.pooled(run(part) for part in (slice(0, 20), slice(20, 30), slice(30, 70))),
    )
    torch.testing.assert_close(found.weights, whole.weights)
    assert torch.equal(found.x, x) and found.resampled == 30 and found.evaluations == 7
    assert found.log_evidence == pytest.approx(whole.log_evidence)
    assert found.ancestors == pytest.approx(whole.ancestors)
    assert found.evidence_error == pytest.approx(whole.evidence_error, rel=0.1)  # without the errors between parts
    one = Particles.pooled([whole])
    assert one.log_evidence == pytest.approx(whole.log_evidence)
    assert one.evidence_error == pytest.approx(whole.evidence_error)


def test_a_run_that_counts_for_nothing_adds_no_error_to_those_that_it_is_pooled_with() -> None:
    known = Particles.of_families(torch.zeros(30, 2), torch.randn(30), torch.arange(30), 0, 1, 0.0, "")
    lost = known._replace(log_evidence=-2000.0, evidence_error=math.inf)
    assert Particles.pooled([known, lost]).evidence_error == pytest.approx(known.evidence_error)
    assert Particles.pooled([known, lost._replace(log_evidence=0.0)]).evidence_error == math.inf


@pytest.mark.slow
def test_pooled_runs_of_guidance_are_nearer_to_the_normaliser_by_their_stated_error() -> None:
    law = PlanarLaw(lambda x: 3 * MODE.log_prob(x) - 2 * RING.log_prob(x), (-2, -6), (10, 6), 400)
    model = product(sdegen.VP(), [(MODE, 3.0), (RING, -2.0)])
    runs = [guidance.anneal_product(model, 200, steps=30, seed=seed, progress=False) for seed in range(8)]
    found = Particles.pooled(runs)
    assert (found.evidence_error or 0.0) < 0.5 * sum(run.evidence_error or 0.0 for run in runs) / 8
    assert abs((found.log_evidence or 0.0) - law.log_normaliser) < 4 * (found.evidence_error or 0.0)


def test_runs_that_cannot_be_pooled_are_refused() -> None:
    known = Particles.of_families(torch.zeros(3, 2), torch.zeros(3), torch.arange(3), 0, 1, 0.0, "")
    unknown, wide = known._replace(log_evidence=None), known._replace(x=torch.zeros(3, 5))
    unsure, lone = known._replace(evidence_error=None), known._replace(ancestors=None)
    for runs in ([], [known, unknown], [known, wide], [unsure], [known, lone]):
        with pytest.raises(ValueError, match="give one run or more of one law"):
            Particles.pooled(runs)
    with pytest.raises(ValueError, match=r"^two of the runs have the same particles, .* a seed of its own\.$"):
        Particles.pooled([known, known._replace(x=known.x + 1), known._replace(x=known.x.clone())])


def test_runs_that_cannot_be_weighted_are_refused() -> None:
    model = product(sdegen.VP(), [(NARROW, 1.0)])
    with pytest.raises(ValueError, match="it must be above 0"):
        corrected(model, 10, eta=0.0)
    with pytest.raises(ValueError, match="it must be above 3"):
        corrected(product(sdegen.VP(), [(NARROW, 0.1)]), 10)
    with pytest.raises(ValueError, match="CLD has more numbers than the data"):
        corrected(product(CLD(), [(NARROW, 2.0)]), 10)
    with pytest.raises(ValueError, match="improper at t = "):
        corrected(product(sdegen.VE(sigma_max=1.5), [(NARROW, -5.0), (WIDE, 5.6)]), 10)
    labelled = sdegen.ExactConditional(sdegen.VP(), [NARROW, WIDE], RING)
    with pytest.raises(ValueError, match="label has a row for each particle"):
        corrected(Product([(labelled, 2.0), (guidance.Without(labelled), -1.0)]), 4, label=torch.arange(4) % 2)
    with pytest.raises(ValueError, match="the noise has 56 % of the spread of the data"):
        corrected(model, 10, grid=sdegen.grids.Angle(end=0.1))
    with pytest.raises(ValueError, match="turned non-finite at t = "):
        corrected(Product([(Lost(sdegen.VP(), NARROW), 1.0)]), 20, steps=20, seed=0)


BLURRED = GaussianMixture(RING.weights, RING.means, RING.covariances * 4)
IMPROPER: dict[str, list[tuple[GaussianMixture, float]]] = {
    "Gaussians": [(gaussian(0.0, (0.25, 0.25)), -1.0), (gaussian(0.0, (9.0, 9.0)), 2.0)],
    "along one axis": [(gaussian(0.0, (0.25, 4.0)), -1.0), (gaussian(0.0, (0.6, 1.0)), 2.0)],
    "mixtures, whose moments do not tell": [(RING, -1.0), (BLURRED, 2.0)],
}


@pytest.mark.parametrize("run", [corrected, guidance.anneal_product])
@pytest.mark.parametrize("what", IMPROPER)
def test_products_that_are_improper_are_refused_where_densities_tell(what: str, run: Any) -> None:
    with pytest.raises(ValueError, match=r"improper at t = .* rises from .* raise the powers that are positive"):
        run(product(sdegen.VP(), IMPROPER[what]), 40, steps=5, seed=0)


@pytest.mark.parametrize("power", [1.9, 2.1])
def test_the_least_power_that_is_proper_is_told_from_a_smaller_one(power: float) -> None:
    """Of the precisions 4 and 2 the product has ``2 β + 4 (1 − β)``, which is positive below the power 2."""
    factors = [(gaussian(0.0, (0.5, 0.5)), power), (gaussian(1.0, (0.25, 0.25)), 1 - power)]
    model = product(sdegen.VP(), factors)
    if power < 2:
        refuse_improper(model, 1e-5, {})
        multiply_laws(factors)
    else:
        with pytest.raises(ValueError, match="improper at t = 1e-05"):
            refuse_improper(model, 1e-5, {})


class Weighted(sdegen.Exact):
    """A law with a weight, as of a network on some device, that notes what it is asked about."""

    like = torch.zeros((), dtype=torch.float32)

    def log_density(self, x: Tensor, t: float, /, **cond: Any) -> Tensor:
        self._asked = x
        return super().log_density(x, t)


def test_members_are_asked_for_densities_far_away_as_they_are_for_others() -> None:
    """On the device and in the dtype of their weights."""
    member = Weighted(sdegen.VP(), NARROW)
    refuse_improper(Product([(member, 1.0)]), 0.01, {})
    assert member._asked.dtype == torch.float32


def test_of_members_without_densities_nothing_is_known() -> None:
    network = sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1), sdegen.VP())
    network.moments = NARROW.moments()
    refuse_improper(Product([(guidance.Without(network), -1.0), (sdegen.Exact(sdegen.VP(), WIDE), 3.0)]), 0.01, {})


def test_no_matrix_is_inverted_for_members_without_densities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of states of many numbers that would take longer than the run."""
    network = sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1), sdegen.VP())
    network.moments = NARROW.moments()
    known, asked = sdegen.Exact(sdegen.VP(), WIDE), []
    monkeypatch.setattr(torch.linalg, "inv", lambda A, inv=torch.linalg.inv: asked.append(A) or inv(A))
    refuse_improper(Product([(network, -1.0), (known, 3.0)]), 0.01, {})
    assert not asked
    refuse_improper(Product([(known, 1.0)]), 0.01, {})
    assert len(asked) == 1


def test_a_run_of_too_few_steps_to_tell_its_error_says_so() -> None:
    model = product(sdegen.VP(), [(NARROW, 2.0), (WIDE, -1.0)])
    with pytest.raises(ValueError, match="steps = 1 leaves the first time alone"):
        corrected(model, 50, steps=1, seed=0)
    with pytest.warns(UserWarning, match="steps = 2 are too few to tell"):
        found = corrected(model, 50, steps=2, seed=0)
    assert found.evidence_error == math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corrected(product(sdegen.VP(), [(NARROW, 1.0)]), 50, steps=3, seed=0)


@pytest.mark.parametrize("powers", [(2.0, 0.0), (1.5, 0.75), (2.0, -1.0), (0.5, 0.25)], ids=str)
def test_a_run_warns_where_its_steps_are_too_long_for_its_weights(powers: tuple[float, float]) -> None:
    factors = [(law, power) for law, power in zip((NARROW, WIDE), powers, strict=True) if power]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = corrected(product(sdegen.VP(), factors), 200, steps=15, seed=0)
    off = abs(found.log_evidence - multiply_laws(factors).log_normaliser)
    assert (off > 0.3) == (sum(powers) > 1) == any("steps = 15 are too few" in str(w.message) for w in caught)


WEIGHED: dict[str, Callable[[float], Any]] = {
    "tilted_smc": lambda far: guidance.tilted_smc(EXACT, lambda x: far * x[:, 0], 200, steps=8, seed=0),
    "twisted_smc": lambda far: guidance.twisted_smc(
        guidance.PiGDM(EXACT, guidance.measurements.Linear(torch.eye(2), 1 / far)), 200, steps=40, seed=0,
        y=torch.full((2,), min(3.0, far))
    ),
    "anneal_density": lambda far: guidance.anneal_density(
        lambda x: -0.5 * (x - far).square().sum(1) * far, gaussian(0.0, (9.0, 9.0)), 200, levels=2, seed=0
    ),
    "importance_sample": lambda far: guidance.importance_sample(
        EXACT, lambda x: sdegen.data.gaussian_ring().log_prob(x) + far * x[:, 0], 200, steps=20, seed=0
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHED)
def test_weighted_particles_of_every_function_say_where_few_of_the_first_are_left(name: str) -> None:
    with pytest.warns(UserWarning, match=r"^about \d+ of the first 200 particles, .*; take "):
        found = WEIGHED[name](30.0)
    assert found.few and (found.ancestors or 0.0) < 20
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = WEIGHED[name](0.2)
    assert not found.few and (found.ancestors or 0.0) > 20


def test_runs_that_have_lost_their_particles_say_so() -> None:
    law = sdegen.data.random_mixture(8, modes=8, seed=0)
    mode = GaussianMixture(torch.ones(1), law.means[:1], law.covariances[:1])
    with (
        pytest.warns(UserWarning, match="^about [1-9] of the first 200 particles, .* take anneal_product"),
        pytest.warns(
            UserWarning, match="^steps = 30 are too few .* nats of the normaliser, which were withheld; take more"
        ),
    ):
        lost = corrected(product(sdegen.VP(), [(mode, 5.0), (law, -4.0)]), 200, steps=30, seed=0)
    assert lost.evidence_error == math.inf
    far = GaussianMixture(torch.ones(1), torch.full((1, 2), 30.0), torch.tensor([0.01]))
    with pytest.warns(UserWarning, match="^about 1 of the first 200 particles, .* take more particles"):
        lost = guidance.anneal_product(
            product(sdegen.VP(), [(far, 1.5), (NARROW, -0.5)]), 200, steps=5, moves=0, seed=0
        )
    assert lost.evidence_error == math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of Gaussians all weights are equal
        corrected(product(sdegen.VP(), [(NARROW, 3.0), (WIDE, -2.0)]), 200, steps=30, seed=0)
