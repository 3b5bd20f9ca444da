"""Split Gibbs, decoupled annealing and annealed particles, against laws that are known in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sdegen
from sdegen import guidance, metrics
from sdegen.guidance import annealed_smc, decoupled_annealing, split_gibbs, twisted_smc
from sdegen.guidance.coupling import AcceptedNoise, CoupledCopy
from sdegen.guidance.measurements import Linear, Mask, Nonlinear, PoissonNoise, mixture_posterior, random_projection
from sdegen.laws.conditioning import update_gaussians
from sdegen.laws.units import Units

RING = sdegen.data.gaussian_ring()
EXACT = sdegen.Exact(sdegen.VP(), RING)
ACROSS = Linear(
    torch.tensor([[0.6, 0.8]], dtype=torch.float64), 0.4
)  # of length one, so that copies add to its noise alike
Y = torch.tensor([2.5], dtype=torch.float64)


def coupled(model: Any = EXACT, A: Any = ACROSS, y: Any = Y, steps: int = 20, seed: int = 0) -> CoupledCopy:
    return CoupledCopy(model, A, y, torch.Generator().manual_seed(seed), steps, None, {})


def law_at(level: float) -> sdegen.GaussianMixture:
    """Return the law of the data where a copy of a noise level is measured, as a measurement with more noise gives it."""
    return mixture_posterior(RING, Linear(ACROSS.A, (ACROSS.std**2 + level**2) ** 0.5), Y)


def modes_off(x: torch.Tensor, truth: sdegen.GaussianMixture) -> float:
    return 0.5 * (truth.component_log_prob(x).softmax(1).mean(0) - truth.weights).abs().sum().item()


# --- the coupling -----------------------------------------------------------------------------------------------------


def test_a_copy_has_its_conditional_mean_and_covariance() -> None:
    """In units of another spread for each coordinate, measured by correlated directions."""
    std = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.ones(1))
    model = sdegen.Exact(sdegen.VP().in_units(Units(torch.zeros(3, dtype=torch.float64), std)), law)
    A, y, level, n = random_projection(2, 3, 0.3), torch.tensor([1.0, -2.0], dtype=torch.float64), 0.7, 40_000
    x = torch.tensor([[1.0, 0.5, -0.5]], dtype=torch.float64)
    mean, covariance, _, S = update_gaussians(x, (level * std).square().diag()[None], A.A, A.std, y)
    z = coupled(model, A, y).draw_copy(x.expand(n, 3), level)
    torch.testing.assert_close(z.mean(0), mean[0], rtol=0, atol=5 * (covariance[0].diagonal().max() / n).sqrt().item())
    torch.testing.assert_close(z.T.cov(), covariance[0], rtol=0, atol=0.03)
    # And the data alone have the likelihood of the wider noise.
    other = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    coupling = coupled(model, A, y)
    found = coupling.log_likelihood(coupling.statistic(other), level)
    expected = torch.distributions.MultivariateNormal(other @ A.A.T, S[0]).log_prob(y)
    torch.testing.assert_close(found - found[0], expected - expected[0])


def test_turns_leave_the_law_of_their_level_as_it_is() -> None:
    level, n = 0.8, 1500
    law, coupling = law_at(level), coupled()
    x, reference = (law.sample(n, torch.Generator().manual_seed(k)) for k in (0, 1))
    floor = metrics.sliced_wasserstein(x, reference, seed=0)
    with torch.no_grad():
        for _ in range(2):
            x = coupling.draw_data(coupling.draw_copy(x, level), level)
    found = metrics.sliced_wasserstein(x, reference, seed=0)
    assert found.value < floor.value + 4 * (found.stderr**2 + floor.stderr**2) ** 0.5
    assert modes_off(x, law) < 0.05 < 0.1 < modes_off(x, law_at(0.0))
    assert coupling.evaluations == 2 * 20


def test_levels_lie_between_the_noise_of_the_process_and_that_of_the_measurement() -> None:
    A = Linear(torch.tensor([[3.0, 0.0], [0.0, 0.5]], dtype=torch.float64), 0.6)
    found = coupled(A=A, y=torch.zeros(2).double())
    assert found.matching_level(torch.zeros(1, 2)) == pytest.approx(0.6 / 3)  # of the direction that is measured best
    spread = RING.moments().variance().sqrt().item()
    assert found.spread == pytest.approx(spread)
    small = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([1e-4]))
    of_small = coupled(sdegen.Exact(sdegen.VP(), small), A, torch.zeros(2).double())
    assert of_small.largest == pytest.approx(100 * 0.01)
    last = sdegen.VP().log_snr(sdegen.VP().T).div(-2).exp().item()
    assert found.largest == pytest.approx(min(last, 100 * spread))
    late = sdegen.EDM()
    first = late.log_snr(late.t_min).div(-2).exp().item()
    assert coupled(sdegen.Exact(late, RING), A, torch.zeros(2).double()).least == pytest.approx(2 * first)


@pytest.mark.parametrize("draw", [split_gibbs, decoupled_annealing])
def test_a_number_of_levels_is_even_in_the_logarithm(draw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(CoupledCopy, "draw_copy", lambda self, x, level: seen.append(level) or x)
    monkeypatch.setattr(CoupledCopy, "denoise", lambda self, z, level, sampler: z)
    with pytest.warns(UserWarning, match="fit y worse than noise does"):  # as nothing is drawn
        draw(EXACT, ACROSS, 3, y=Y, levels=6, seed=0)
    steps = torch.tensor(seen).log().diff()
    assert len(seen) == 6 and torch.allclose(steps, steps[:1])
    first = 3 * coupled().spread if draw is split_gibbs else coupled().largest
    assert seen[0] == pytest.approx(first) and seen[-1] == pytest.approx(0.1**0.5 * ACROSS.std)


def test_each_draw_has_randomness_of_its_own() -> None:
    coupling = coupled(steps=2)
    z = torch.zeros(4, 2, dtype=torch.float64)
    one, other = (coupling.draw_data(z, 1.0) for _ in range(2))
    assert (one - other).abs().min() > 1e-3


# --- split Gibbs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_many_turns_at_one_level_come_to_its_law() -> None:
    level, law = 1.5, law_at(1.5)
    x = split_gibbs(EXACT, ACROSS, 1000, y=Y, levels=[level] * 10, steps=10, seed=0)
    assert modes_off(x, law) < 0.07 < 0.3 < modes_off(RING.sample(1000, torch.Generator().manual_seed(0)), law)
    assert (x.mean(0) - law.moments().mean).norm() < 0.3  # the standard deviations are above 2


def test_images_keep_their_shape_and_have_the_moments_of_their_posterior() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(16, 16, dtype=torch.float64, generator=generator) / 4
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 4, 4), (half @ half.T + 0.1 * torch.eye(16))[None])
    A = Mask(torch.arange(16).reshape(1, 4, 4) % 3 == 0, 0.2)
    y = A.sample(law.sample(1, generator), generator)[0]
    truth = mixture_posterior(law, A, y).moments()
    model = sdegen.Exact(sdegen.VP(), law)
    assert split_gibbs(model, A, 3, y=y, levels=2, steps=2, seed=0).shape == (3, 1, 4, 4)
    x = annealed_smc(model, A, 1200, y=y, steps=10, seed=0).sample(600, torch.Generator().manual_seed(0))
    spread = truth.covariance.diagonal().sqrt()
    assert ((x.mean(0) - truth.mean).flatten() / spread).abs().max() < 0.25
    assert (x.flatten(1).std(0) / spread - 1).abs().max() < 0.2


def test_each_sample_has_its_own_measurement_where_each_is_given_one() -> None:
    A = Mask(torch.tensor([True, False]), 0.1)
    y = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    for draw in (split_gibbs, decoupled_annealing):
        assert (draw(EXACT, A, 7, y=y, levels=8, seed=0)[:, :1] - y).abs().max() < 0.5


def test_conditions_reach_the_model() -> None:
    modes = [sdegen.GaussianMixture(torch.ones(1), m[None], torch.full((1,), 0.25)) for m in RING.means]
    model = sdegen.ExactConditional(sdegen.VP(), modes, RING)
    A = Linear(ACROSS.A, 5.0)  # which tells next to nothing
    for label in (0, 3):
        x = split_gibbs(model, A, 60, y=Y, levels=6, steps=8, seed=0, label=label)
        assert (x.mean(0) - RING.means[label]).norm() < 0.3
    found = annealed_smc(model, A, 60, y=Y, steps=8, seed=0, label=3)
    assert (found.mean() - RING.means[3]).norm() < 0.3


# --- decoupled annealing ----------------------------------------------------------------------------------------------


def test_decoupled_annealing_has_the_moments_of_its_recursion() -> None:
    """On Gaussian data the flow is linear, and mean and variance of every turn are known; they are not the posterior's."""
    m, C, y, n, levels = 1.0, 2.0, 2.5, 20_000, [2.0, 0.9, 0.5]
    law = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 1), m), torch.full((1,), C))
    A = Linear(torch.ones(1, 1, dtype=torch.float64), 0.6)
    mean, variance = m, C
    for level in levels:
        shrink = (C / (C + level**2)) ** 0.5
        mean, variance = m + shrink * (mean - m), shrink**2 * (variance + level**2)
        gain = level**2 / (level**2 + A.std**2)
        mean, variance = mean + gain * (y - mean), (1 - gain) ** 2 * variance + (1 - gain) * level**2
    x = decoupled_annealing(sdegen.Exact(sdegen.VP(), law), A, n, y=[y], levels=levels, steps=12, seed=0)
    assert abs(x.mean().item() - mean) < 5 * (variance / n) ** 0.5
    assert abs(x.var().item() / variance - 1) < 5 * (2 / n) ** 0.5
    truth = mixture_posterior(law, A, torch.tensor([y])).moments()
    assert abs(mean - truth.mean.item()) > 20 * (variance / n) ** 0.5


# --- annealed particles -----------------------------------------------------------------------------------------------


def test_annealed_particles_have_the_posterior() -> None:
    truth = mixture_posterior(RING, ACROSS, Y)
    found = annealed_smc(EXACT, ACROSS, 2000, y=Y, seed=0)
    assert abs(found.weights.sum() - 1) < 1e-9 and found.effective > 0.5 * 2000
    assert found.evaluations == 40 + 20 * found.resampled > 60
    x = found.sample(1000, torch.Generator().manual_seed(0))
    assert modes_off(x, truth) < 0.03 < 0.1 < modes_off(split_gibbs(EXACT, ACROSS, 1000, y=Y, levels=8, seed=0), truth)
    reference, other = (truth.sample(1000, torch.Generator().manual_seed(k)) for k in (1, 2))
    floor = metrics.sliced_wasserstein(other, reference, seed=0)
    assert metrics.sliced_wasserstein(x, reference, seed=0).value < floor.value + 6 * floor.stderr


@pytest.mark.slow
def test_the_error_of_annealed_particles_falls_like_the_root_of_their_number() -> None:
    truth = mixture_posterior(RING, ACROSS, Y)
    mean, error = truth.moments().mean, {}
    for n in (64, 1024):
        runs = [annealed_smc(EXACT, ACROSS, n, y=Y, seed=k) for k in range(12)]
        error[n] = torch.stack([run.mean() - mean for run in runs]).square().sum(1).mean().sqrt()
    assert 2.4 < error[64] / error[1024] < 6.6  # 4 expected
    bias = torch.stack([run.mean() - mean for run in runs]).mean(0)
    assert bias.norm() < 3 * error[1024] / 12**0.5


def test_one_particle_and_a_measurement_that_tells_nothing_are_limits() -> None:
    assert annealed_smc(EXACT, ACROSS, 1, y=Y, steps=4, seed=0).weights.tolist() == [1.0]
    found = annealed_smc(EXACT, Linear(ACROSS.A, 1e4), 200, y=Y, steps=4, seed=0)
    assert found.resampled == 0 and found.evaluations == 8 and found.effective > 199.9


# --- any measurement --------------------------------------------------------------------------------------------------

ALIKE = Nonlinear(ACROSS, ACROSS.std)  # the same measurement, of which it is not known that it is linear


def test_accepted_moves_leave_a_power_of_the_likelihood_as_it_is() -> None:
    """At level 1 the power is a half: that of the same measurement with twice the variance of noise."""
    n = 1500
    law = mixture_posterior(RING, Linear(ACROSS.A, ACROSS.std * 2**0.5), Y)
    laws = AcceptedNoise(EXACT, ALIKE, Y, torch.Generator().manual_seed(0), 12, None, {})
    x, reference = (law.sample(n, torch.Generator().manual_seed(k)) for k in (0, 1))
    begin, floor = x, metrics.sliced_wasserstein(x, reference, seed=0)
    with torch.no_grad():
        for _ in range(3):
            x = laws.move(x, 1.0)
    found = metrics.sliced_wasserstein(x, reference, seed=0)
    assert found.value < floor.value + 4 * (found.stderr**2 + floor.stderr**2) ** 0.5
    assert modes_off(x, law) < 0.05
    assert 0.2 < (x != begin).all(1).double().mean() < 0.999
    refused = laws.draw_data(laws.add_noise(law.sample(n), 3.0), 3.0)  # all of them accepted
    assert modes_off(refused, law) > 0.1


def test_annealed_particles_take_any_measurement() -> None:
    truth = mixture_posterior(RING, ACROSS, Y)
    found = annealed_smc(EXACT, ALIKE, 1500, y=Y, steps=10, moves=2, seed=0)
    assert modes_off(found.sample(1000, torch.Generator().manual_seed(0)), truth) < 0.05
    assert found.evaluations == 20 + 20 * found.resampled > 20

    def rounded(x: torch.Tensor) -> torch.Tensor:  # without a derivative that tells anything
        return 1 + (x[:, :1] > 0).double()

    counted = annealed_smc(EXACT, Nonlinear(rounded, PoissonNoise()), 1000, y=[0.0], steps=8, seed=0)
    right = (RING.means[:, 0] > 1e-6).double().mean().item() + 0.5 * (
        RING.means[:, 0].abs() < 1e-6
    ).double().mean().item()
    expected = right * 0.1353353 / (right * 0.1353353 + (1 - right) * 0.3678794)  # exp(-2) and exp(-1)
    assert abs(counted.mean((counted.x[:, 0] > 0).double()).item() - expected) < 0.05


@pytest.mark.parametrize("y", [torch.tensor([2]), torch.tensor(2), [2], 2], ids=str)
def test_counts_may_be_given_as_whole_numbers(y: Any) -> None:
    counts = Nonlinear(lambda x: x[:, :1].exp(), PoissonNoise())
    few: dict[str, Any] = {"steps": 2, "seed": 0, "progress": False}
    assert torch.equal(
        annealed_smc(EXACT, counts, 8, y=y, **few).x, annealed_smc(EXACT, counts, 8, y=torch.tensor([2.0]), **few).x
    )
    first = Mask(torch.tensor([True, False]), 0.5)
    assert torch.equal(
        split_gibbs(EXACT, first, 4, y=y, levels=2, **few),
        split_gibbs(EXACT, first, 4, y=torch.tensor([2.0]), levels=2, **few),
    )


def test_noise_of_moves_grows_where_all_are_accepted_and_falls_where_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RING.sample(20, torch.Generator().manual_seed(0))
    for after, factor in ((0.0, 1.0), (-1e3, -1.0)):
        laws = AcceptedNoise(EXACT, ALIKE, Y, torch.Generator().manual_seed(0), 2, None, {})
        told = iter([torch.zeros(20).double(), torch.full((20,), after).double()])
        monkeypatch.setattr(laws, "log_likelihood", lambda misfit, level, told=told: next(told))
        laws.next_noise = 1.0
        moved = laws.move(x, 1.0)
        assert laws.next_noise == pytest.approx(torch.tensor(factor).exp().item())
        assert (moved != x).all() if after == 0 else torch.equal(moved, x)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_couplings_refuse_what_they_cannot_do(monkeypatch: Any) -> None:
    with pytest.raises(TypeError, match="CLD is not scalar"):
        split_gibbs(sdegen.Exact(sdegen.CLD(), RING), ACROSS, 3, y=Y)
    with pytest.raises(ValueError, match=r"y has shape \(2,\); expected what is measured of one datum, \(1,\)"):
        split_gibbs(EXACT, ACROSS, 3, y=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"levels has 1e-06; give noise levels sigma / alpha, of at least"):
        split_gibbs(EXACT, ACROSS, 3, y=Y, levels=[1.0, 1e-6])
    with pytest.raises(ValueError, match="levels is empty"):
        decoupled_annealing(EXACT, ACROSS, 3, y=Y, levels=[])
    with pytest.raises(ValueError, match="y has a row for each particle"):
        annealed_smc(EXACT, ACROSS, 3, y=torch.ones(3, 1))
    with pytest.raises(ValueError, match="y holds NaN"):
        split_gibbs(EXACT, ACROSS, 3, y=[float("nan")])
    with pytest.raises(TypeError, match="takes no condition of that name"):
        annealed_smc(EXACT, ACROSS, 3, y=Y, colour=1)
    with pytest.raises(ValueError, match="likelihood is NaN for some of the data"):
        annealed_smc(EXACT, Nonlinear(lambda x: x[:, :1].log(), 0.3), 20, y=[0.0], steps=2, seed=0)
    monkeypatch.setattr("sdegen.guidance.coupling.MOST", 0)
    with pytest.raises(ValueError, match="1 numbers are measured"):
        split_gibbs(EXACT, ACROSS, 3, y=Y)


@pytest.mark.parametrize("threshold", [-1e-3, 1.001])
@pytest.mark.parametrize("weighted", [annealed_smc, twisted_smc])
def test_a_threshold_is_a_share_of_the_particles(weighted: Any, threshold: float) -> None:
    model = guidance.PiGDM(EXACT, ACROSS) if weighted is twisted_smc else EXACT
    given = () if weighted is twisted_smc else (ACROSS,)
    with pytest.raises(ValueError, match=rf"^threshold = {threshold}"):
        weighted(model, *given, 4, y=Y, threshold=threshold)
    assert len(weighted(model, *given, 4, y=Y, steps=3, threshold=0.0, seed=0).weights) == 4
