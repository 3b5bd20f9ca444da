"""Weightings are the lambda they document; time laws are laws of the time they document, without bias."""

from __future__ import annotations

import math

import pytest
import scipy.integrate
import scipy.stats
import torch

import sdegen
from sdegen import CLD, DDPM, EDM, OU, VE, VP, Cosine, Rectified, SubVP
from sdegen.processes.times import (
    AngleTimes,
    DiscreteTimes,
    ImportanceTimes,
    LogNormalTimes,
    SharedTimes,
    StratifiedTimes,
    UniformTimes,
)
from sdegen.training.losses import Denoising
from sdegen.training.weightings import (
    EDMWeighting,
    InverseVarianceWeighting,
    LikelihoodWeighting,
    MinSNRWeighting,
    SNRWeighting,
    UniformWeighting,
)

SCALAR = [VP(), SubVP(), VE(), OU(), DDPM(), Cosine(), EDM(), Rectified()]
LINEAR = [*SCALAR, CLD()]
name = lambda value: type(value).__name__


def inside(sde, n=7):
    """Times where every coefficient is finite."""
    return sde.T * torch.linspace(0.03, 0.95, n, dtype=torch.float64)


# --- weightings -----------------------------------------------------------------------------------------------------

LAMBDAS = [  # lambda on the squared score error, of alpha, sigma and g
    (UniformWeighting(), lambda a, s, g: 1 + 0 * s),
    (InverseVarianceWeighting(), lambda a, s, g: s**2),
    (LikelihoodWeighting(), lambda a, s, g: g**2),
    (SNRWeighting(1.0), lambda a, s, g: s**2 * (a**2 + s**2) / a**2),
    (SNRWeighting(0.3), lambda a, s, g: s**2 * (1 + 0.3 * (s / a) ** 2)),
    (EDMWeighting(0.5), lambda a, s, g: s**2 * (1 + 4 * (s / a) ** 2)),
    (MinSNRWeighting(5.0), lambda a, s, g: torch.minimum(s**2, 5 * s**4 / a**2)),
]


@pytest.mark.parametrize(("weighting", "of"), LAMBDAS, ids=name)
@pytest.mark.parametrize("sde", SCALAR, ids=name)
def test_the_weighted_square_is_lambda_times_the_square(sde, weighting, of, generator):
    t = inside(sde)
    error = torch.randn(len(t), 3, dtype=torch.float64, generator=generator)
    expected = of(sde.alpha(t), sde.sigma(t), sde.g(t)) * error.square().sum(1)
    torch.testing.assert_close(weighting(sde, t)(error).square().sum(1), expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("sde", LINEAR, ids=name)
def test_snr_without_offset_is_the_inverse_variance(sde):
    t = inside(sde)
    W, V = SNRWeighting(0.0)(sde, t).matrix(), InverseVarianceWeighting()(sde, t).matrix()
    torch.testing.assert_close(W.mT @ W, V.mT @ V, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sde", LINEAR, ids=name)
def test_inverse_variance_makes_the_target_standard_noise(sde, generator):
    t = inside(sde)
    x_0 = torch.randn(len(t), 2, dtype=torch.float64, generator=generator)
    noised = sde.perturb(x_0, t, generator=generator)
    target = InverseVarianceWeighting()(sde, t)(noised.kernel.score(noised.x))
    torch.testing.assert_close(target, -noised.z, rtol=1e-8, atol=1e-8)


def test_likelihood_weights_the_noisy_direction_alone_on_a_matrix_process(generator):
    sde = CLD(beta=3.0)
    error = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator)
    weighted = LikelihoodWeighting()(sde, inside(sde, 4))(error).square().flatten(1).sum(1)
    torch.testing.assert_close(weighted, 12.0 * error[:, 1].square().sum(1))  # g² = 2 Gamma beta, on velocities


@pytest.mark.parametrize("sde", [VP(), EDM(), Cosine()], ids=name)
def test_edm_weighting_is_that_of_the_paper_on_the_error_of_clean_data(sde, generator):
    std, t = 0.7, inside(sde)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    error_of_data = torch.randn(len(t), 2, dtype=torch.float64, generator=generator)
    error_of_score = error_of_data * (alpha / sigma**2)[:, None]  # Tweedie: x_0 = (x + sigma² score) / alpha
    level = sigma / alpha
    expected = (level**2 + std**2) / (level * std) ** 2 * error_of_data.square().sum(1)
    torch.testing.assert_close(EDMWeighting(std)(sde, t)(error_of_score).square().sum(1), expected, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_edm_weighting_gives_every_level_the_same_least_loss_on_gaussian_data(level, generator):
    # The posterior variance of N(0, std²) is the inverse of the weight, so the best model loses 1 per coordinate.
    class At(UniformTimes):
        def sample(self, sde, n, generator=None):
            return torch.full((n,), level, dtype=torch.float64), torch.ones(n, dtype=torch.float64)

    std, n = 1.7, 20_000
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.full((1,), std**2))
    loss = Denoising(EDMWeighting(std), At(), pooled=False)
    values = loss(sdegen.Exact(VP(), law), law.sample(n, generator), generator=generator)
    assert abs(values.mean() - 3) < 4 * values.std() / math.sqrt(n)


# --- laws of t --------------------------------------------------------------------------------------------------------


class Tilted(ImportanceTimes):
    """Importance sampling by a density of the user's."""

    def __init__(self):
        super().__init__(density=lambda sde, t: 1 + 3 * t / sde.T)


UNBIASED = [UniformTimes, StratifiedTimes, ImportanceTimes, AngleTimes, Tilted]


@pytest.mark.parametrize("law", UNBIASED, ids=lambda law: law.__name__)
@pytest.mark.parametrize("sde", LINEAR, ids=name)
def test_weighted_means_are_those_of_uniform_times(sde, law, generator):
    times, n, repeats = law(), 64, 60
    functions = {
        "constant": lambda t: 1 + 0 * t,
        "early": lambda t: torch.exp(-8 * t / sde.T),
        "wave": lambda t: torch.cos(5 * t / sde.T) * t / sde.T,
    }
    drawn = [times.sample(sde, n, generator) for _ in range(repeats)]
    for label, function in functions.items():
        scalar = lambda t, function=function: function(torch.tensor(t, dtype=torch.float64)).item()
        truth = scipy.integrate.quad(scalar, sde.t_min, sde.T)[0] / (sde.T - sde.t_min)
        means = torch.stack([(factor * function(t)).mean() for t, factor in drawn])  # a batch is stratified: one draw
        stderr = means.std() / math.sqrt(repeats)
        assert abs(means.mean() - truth) < 4 * stderr + 1e-12, label


@pytest.mark.parametrize(
    "law",
    [*UNBIASED, lambda: LogNormalTimes(-0.5, 1.0), lambda: DiscreteTimes(50)],
    ids=[0, 1, 2, 3, 4, "normal", "steps"],
)
@pytest.mark.parametrize("sde", LINEAR, ids=name)
def test_times_lie_where_training_may_look_and_a_seed_repeats_them(sde, law):
    draw = lambda seed: law().sample(sde, 500, torch.Generator().manual_seed(seed))
    (t, factor), (again, _), (other, _) = draw(3), draw(3), draw(4)
    assert (t >= sde.t_min * (1 - 1e-9)).all() and (t <= sde.T).all() and (factor > 0).all()
    assert t.dtype == torch.float64 and torch.equal(t, again) and not torch.equal(t, other)


def test_stratified_times_put_one_in_each_interval(generator):
    sde = OU()
    t, _ = StratifiedTimes().sample(sde, 100, generator)
    place = (t - sde.t_min) / (sde.T - sde.t_min) * 100
    assert place.floor().sort().values.tolist() == list(range(100))
    assert not torch.equal(t, t.sort().values)  # in random order, or rows of the data would keep their level


@pytest.mark.parametrize("sde", LINEAR, ids=name)
def test_importance_times_see_every_noise_level_equally_often(sde, generator):
    t, _ = ImportanceTimes().sample(sde, 400, generator)
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
    low, high = -0.5 * sde.snr(ends).clamp_min(1e-10).log()
    place = (-0.5 * sde.snr(t).clamp_min(1e-10).log() - low) / (high - low)
    # Quantiles are linear in t within one of the 512 intervals of the table.
    error = (place.sort().values - (torch.arange(400) + 0.5) / 400).abs().max()
    assert error < 0.5 / 400 + 1 / 512


def test_a_density_equal_to_the_integrand_leaves_no_variance(generator):
    h = lambda sde, t: (2 * math.pi * t).sin() ** 2 + 0.2
    law, sde = ImportanceTimes(density=h, nodes=2048), VE()
    t, factor = law.sample(sde, 1000, generator)
    values = factor * h(sde, t)
    assert values.std() < 1e-2 * values.mean()
    plain = h(sde, UniformTimes().sample(sde, 1000, generator)[0])
    assert plain.std() > 0.3 * plain.mean()  # so there was variance to take out


def test_one_law_serves_several_processes(generator):
    law = ImportanceTimes()
    for sde in (VP(), OU(), VP(0.5, 5.0), OU()):
        t, factor = law.sample(sde, 200, generator)
        assert sde.t_min <= t.min() and 0.9 * sde.T < t.max() <= sde.T
        assert abs(factor.mean() - 1) < 0.05


@pytest.mark.parametrize("sde", [EDM(), VP(), Cosine(), Rectified()], ids=name)
def test_log_normal_levels_are_stratified_quantiles_of_the_truncated_normal(sde, generator):
    mean, std, n = -0.7, 1.3, 500
    t, factor = LogNormalTimes(mean, std).sample(sde, n, generator)
    normal = scipy.stats.norm(mean, std)
    level = lambda t: -0.5 * sde.snr(torch.as_tensor(t, dtype=torch.float64)).log().numpy()
    low, high = normal.cdf(level(sde.t_min)), normal.cdf(level(sde.T))
    quantile = torch.from_numpy((normal.cdf(level(t)) - low) / (high - low)).sort().values * n
    k = torch.arange(n)
    assert (quantile > k - 1e-5).all() and (quantile < k + 1 + 1e-5).all()
    assert (factor == 1).all()


def test_discrete_times_are_the_steps_of_a_chain_equally_often(generator):
    sde, N, n = OU(T=2.0), 20, 40_000
    t, factor = DiscreteTimes(N).sample(sde, n, generator)
    k = (t / sde.T * N).round()
    torch.testing.assert_close(t, k * sde.T / N, rtol=1e-15, atol=0.0)
    counts = torch.bincount(k.long(), minlength=N + 1)
    assert counts[0] == 0 and len(counts) == N + 1
    assert scipy.stats.chisquare(counts[1:].numpy()).pvalue > 1e-4
    assert (factor == 1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SNRWeighting(-0.1), r"offset = -0.1; it must be at least 0"),
        (lambda: MinSNRWeighting(0.0), r"gamma = 0.0; it must be positive"),
        (lambda: LogNormalTimes(std=-1.0), r"std = -1.0; it must be positive"),
        (lambda: DiscreteTimes(0), r"N = 0; give a whole number of steps, at least one"),
        (lambda: ImportanceTimes(nodes=1), r"nodes = 1; it must be a whole number, at least 2"),
    ],
    ids=["offset", "gamma", "std", "N", "nodes"],
)
def test_unusable_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_weighting_of_directions_is_refused_by_implicit_score_matching(generator):
    model = sdegen.Exact(CLD(), sdegen.data.gaussian_ring())
    with pytest.raises(
        ValueError, match=r"InverseVarianceWeighting weights directions .* UniformWeighting\(\) on a scalar process"
    ):
        sdegen.losses.Implicit()(model, torch.randn(3, 2, dtype=torch.float64, generator=generator))


def test_shared_times_are_a_few_of_the_law_each_for_as_many_rows(generator):
    t, factor = SharedTimes(ImportanceTimes(), 4).sample(VP(), 20, generator)
    values, counts = t.unique(return_counts=True)
    assert len(values) == 4 and (counts == 5).all()
    assert len(factor.unique()) == 4
    drawn = torch.stack(
        [t * f for t, f in (SharedTimes(ImportanceTimes(), 4).sample(VP(), 8, generator) for _ in range(800))]
    )
    mean = drawn.mean(1)
    assert abs(mean.mean() - 0.5 * (VP().t_min + 1)) < 5 * mean.std() / 800**0.5
    with pytest.raises(ValueError, match="at least one time"):
        SharedTimes(number=0)


def test_importance_times_of_a_nonlinear_process_change_no_mean(generator):
    sde = sdegen.DoubleWell(T=3.0)
    t, factor = ImportanceTimes(lambda sde, t: 1 / (t + 0.1)).sample(sde, 40_000, generator)
    span = sde.T - sde.t_min
    for power in (0, 1, 2):
        want = (sde.T ** (power + 1) - sde.t_min ** (power + 1)) / (power + 1) / span
        values = t**power * factor
        assert abs(values.mean() - want) < 5 * values.std() / 40_000**0.5
    early = (t < 0.3).double().mean().item()
    assert abs(early - math.log(0.4 / 0.101) / math.log(3.1 / 0.101)) < 0.01


@pytest.mark.parametrize(
    ("density", "says"),
    [
        (InverseVarianceWeighting(), "gave a Scale for t of shape"),
        (lambda sde, t: 1.0, "gave a float"),
        (lambda sde, t: t.mean(), r"gave a tensor of shape \(\)"),
        (lambda sde, t: t - t.max(), "smallest value -"),
        (lambda sde, t: t * torch.nan, "smallest value nan"),
    ],
    ids=["weighting", "number", "one", "negative", "nan"],
)
def test_a_density_of_times_that_is_none_is_refused(density, says):
    with pytest.raises(ValueError, match=says):
        ImportanceTimes(density).sample(VE(), 4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EDMWeighting(0.0), "std = 0"),
        (lambda: DiscreteTimes(2.5), "whole number"),
        (lambda: DiscreteTimes(0), "N = 0"),
    ],
    ids=["std", "fraction", "none"],
)
def test_a_number_that_makes_no_weighting_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("density", [None, lambda sde, t: 1 / (0.1 + t)])
@pytest.mark.parametrize("nodes", [3, 1000])
@pytest.mark.parametrize("sde", [VP(), sdegen.DoubleWell()], ids=lambda sde: type(sde).__name__)
def test_intervals_of_importance_times_have_probability_one_to_the_last_digit(sde, nodes, density) -> None:  # type: ignore[no-untyped-def]
    edges, mass = ImportanceTimes(density=density, nodes=nodes)._build(sde)
    assert len(edges) == nodes + 1 and mass.dtype == edges.dtype == torch.float64
    assert abs(mass.sum().item() - 1) < 1e-13 and (edges[1:] > edges[:-1]).all()
    assert edges[0] == sde.t_min and edges[-1] == sde.T


@pytest.mark.parametrize("N", [20, 500])
def test_steps_before_the_first_time_are_refused(N: int) -> None:
    """Training times are from `t_min` on."""
    sde = sdegen.processes.CircularBrownianMotion()
    most = int(sde.T / sde.t_min)
    assert 20 < most < 500
    if most > N:
        assert DiscreteTimes(N).sample(sde, 100)[0].min() >= sde.t_min
        assert DiscreteTimes(most).sample(sde, 100)[0].min() >= sde.t_min
    else:
        with pytest.raises(
            ValueError, match=rf"^N = {N}: the first step of .* before its t_min.* at most {most} steps\.$"
        ):
            DiscreteTimes(N).sample(sde, 100)
