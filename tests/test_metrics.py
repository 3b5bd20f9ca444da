"""Metrics against closed forms, and their standard errors against the spread that they claim to measure."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor

import sdegen
from sdegen import guidance, measurements, metrics
from sdegen.laws.empirical import Empirical
from sdegen.laws.mixtures import GaussianMixture, Moments
from sdegen.metrics import (
    Estimate,
    classifier_test,
    kde_kl,
    kde_kl_once,
    kl,
    kl_from_log_ratio,
    knn_kl,
    mmd,
    prior_gap,
    sliced_wasserstein,
)
from sdegen.metrics import mmd as mmd_function
from sdegen.processes import CLD, OU, VE, VP, DoubleWell

SAMPLE_METRICS = [mmd, sliced_wasserstein, knn_kl, classifier_test]


def gaussian(mean: list[float], covariance: list[list[float]] | float) -> GaussianMixture:
    m, C = torch.tensor([mean]).double(), torch.tensor(covariance).double()
    return GaussianMixture(torch.ones(1), m, C.expand(1) if C.ndim == 0 else C[None])


def ring(std: float = 0.5) -> GaussianMixture:
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 4 * torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(torch.full((8,), 0.125), means, torch.full((8,), std**2))


def normals(seed: int, n: int, d: int, m: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randn(n, d, dtype=torch.float64, generator=generator)
    return draw(n), draw(n if m is None else m)


def over_seeds(estimate: Callable[[int], Estimate], seeds: int = 100) -> tuple[Estimate, float]:
    """Mean over seeds with its error, and the mean reported standard error over the spread it should equal."""
    values = torch.tensor([estimate(seed) for seed in range(seeds)], dtype=torch.float64)
    return Estimate.of(values[:, 0]), (values[:, 1].mean() / values[:, 0].std()).item()


def sigmas(estimate: Estimate, truth: float) -> float:
    return abs(estimate.value - truth) / estimate.stderr


# --- Estimate ---------------------------------------------------------------------------------------------------------


def test_estimate_of_values_is_their_mean_and_its_standard_error():
    values = np.random.default_rng(0).normal(size=50)
    estimate = Estimate.of(torch.from_numpy(values))
    assert estimate.value == pytest.approx(values.mean(), rel=1e-12)
    assert estimate.stderr == pytest.approx(scipy.stats.sem(values), rel=1e-12)
    with pytest.raises(ValueError, match="values has shape"):
        Estimate.of([1.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_estimate_may_be_of_a_list_of_tensors_as_of_losses(dtype: torch.dtype) -> None:
    losses = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (1.0, 2.0, 6.0)]
    assert Estimate.of(losses) == Estimate.of([1.0, 2.0, 6.0])


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.01234, 0.00042), "0.0123 ± 0.0004"),
        (Estimate(0.01234, 0.00096), "0.012 ± 0.001"),
        (Estimate(1234.5, 37.0), "1234 ± 37"),
        (Estimate(-2.5, 0.5), "-2.5 ± 0.5"),
        (Estimate(1.802e-8, 3.1e-10), "1.80e-08 ± 3e-10"),
        (Estimate(1.802e-5, 3.1e-7), "1.80e-05 ± 3e-07"),
        (Estimate(0.3, 0.0), "0.3 ± 0"),
        (Estimate(math.inf, math.nan), "inf ± nan"),
    ],
)
def test_estimates_print_to_the_digit_of_their_error(estimate, text):
    assert str(estimate) == f"{estimate}" == text


# --- KL from densities ------------------------------------------------------------------------------------------------

P = gaussian([0.3, -0.2], [[1.0, 0.3], [0.3, 0.5]])
Q = gaussian([0.2, -0.1], [[1.1, 0.25], [0.25, 0.6]])
FAR = gaussian(
    [0.0, 0.1], [[1.2, 0.1], [0.1, 0.7]]
)  # where the control variate is used for some halves, not for others


def gaussian_kl(p: GaussianMixture, q: GaussianMixture) -> float:
    """``½ [tr(C_q⁻¹ C_p) − d + log det C_q / det C_p + dᵀ C_q⁻¹ d]``, from SciPy and NumPy alone."""
    A, B = p.covariances[0].numpy(), q.covariances[0].numpy()
    gap = (p.means[0] - q.means[0]).numpy()
    ratio = np.linalg.solve(B, A)
    return 0.5 * (np.trace(ratio) - len(gap) - np.linalg.slogdet(ratio)[1] + gap @ np.linalg.solve(B, gap))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("q", [Q, FAR], ids=["near", "far"])
@pytest.mark.parametrize("control", [True, False])
def test_kl_between_gaussians_is_unbiased_and_knows_its_error(q, control):
    mean, ratio = over_seeds(lambda seed: kl(q, P, 2_000, control=control, seed=seed), seeds=200)
    assert sigmas(mean, gaussian_kl(P, q)) < 3.5
    assert 0.77 < ratio < 1.3


def test_control_variate_makes_the_error_a_fraction_of_the_divergence():
    near = gaussian([0.31, -0.2], [[1.0, 0.3], [0.3, 0.51]])
    truth = gaussian_kl(P, near)  # 1.5e-4 nats
    controlled, plain = (kl(near, P, 5_000, control=control, seed=0) for control in (True, False))
    assert sigmas(controlled, truth) < 4
    assert controlled.stderr < 0.1 * truth < truth < plain.stderr * 4


@pytest.mark.parametrize("variance", [3.0, 100.0])
def test_control_variate_is_not_used_where_the_draws_do_not_support_it(variance):
    """E_p[q/p] = 1 hangs on draws that never come: trusting it would lose up to a nat at a small standard error."""
    p, q = gaussian([0.0, 0.0], 1.0), gaussian([0.0, 0.0], variance)
    truth = math.log(variance) + 1 / variance - 1
    x = p.sample(5_000, torch.Generator().manual_seed(0))
    u = p.log_prob(x) - q.log_prob(x)
    trusting = Estimate.of(u + torch.expm1(-u))
    assert sigmas(kl(q, p, x=x), truth) < 4
    if variance == 100.0:
        assert sigmas(trusting, truth) > 20


def test_kl_counts_an_invented_mode():
    """q = 0.9 p + 0.1 elsewhere: the divergence is −log 0.9 exactly, and q/p never shows the missing tenth."""
    p = gaussian([0.0], 1.0)
    q = GaussianMixture(torch.tensor([0.9, 0.1]), torch.tensor([[0.0], [60.0]]), torch.ones(2))
    value, _ = kl(q, p, 1_000, seed=0)
    assert value == pytest.approx(-math.log(0.9), rel=1e-6)


def test_kl_is_infinite_where_q_vanishes():
    estimate = kl_from_log_ratio(torch.zeros(3), torch.tensor([0.0, -math.inf, 0.0]))
    assert estimate.value == math.inf
    assert math.isnan(estimate.stderr)


def test_kl_takes_a_seed_a_generator_or_samples():
    x = P.sample(500, torch.Generator().manual_seed(7))
    by_generator = kl(Q, P, 500, generator=torch.Generator().manual_seed(7))
    assert kl(Q, P, 500, seed=7) == by_generator == kl(Q, P, x=x)
    with pytest.raises(ValueError, match="both generator and seed = 7"):
        kl(Q, P, 500, generator=torch.Generator(), seed=7)


@pytest.mark.parametrize(
    ("log_p", "log_q", "sentence"),
    [
        ([0.0, math.nan], [0.0, 0.0], r"log_p is nan at 1 of 2 samples; the density of p"),
        ([0.0, 0.0], [math.nan, math.nan], r"log_q is nan at 2 of 2 samples; the density of q"),
        ([0.0, -math.inf], [0.0, 0.0], r"log_p is -inf"),
        ([0.0, 0.0], [0.0, math.inf], r"log_q is inf"),
        ([0.0, 0.0], [[0.0], [0.0]], r"log_p has shape \(2,\) and log_q \(2, 1\)"),
    ],
)
def test_kl_names_the_density_that_fails(log_p, log_q, sentence):
    with pytest.raises(ValueError, match=sentence):
        kl_from_log_ratio(torch.tensor(log_p), torch.tensor(log_q))


# --- KL at the prior --------------------------------------------------------------------------------------------------

PAIR = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [2.0]]), torch.tensor([0.2, 0.4]))


@pytest.mark.parametrize("T", [0.3, 1.0, 2.0])
def test_prior_gap_is_the_integral(T):
    sde = OU(T=T)
    law, prior = sde.diffused(PAIR, T), sde.prior(PAIR.moments())

    def integrand(x: float) -> float:
        at = torch.tensor([[x]], dtype=torch.float64)
        log_p = law.log_prob(at)
        return (log_p.exp() * (log_p - prior.log_prob(at))).item()

    truth, _ = scipy.integrate.quad(integrand, -12, 12, epsabs=1e-11, epsrel=1e-9, limit=200)
    gap = prior_gap(sde, PAIR)
    assert gap.stderr == 0
    assert gap.value == pytest.approx(truth, rel=2e-6, abs=1e-10)


class Declared(OU):
    """OU with its stationary law declared as the prior: its gap is not zero for Gaussian data."""

    def prior(self, moments: Moments) -> GaussianMixture:
        return gaussian([0.0] * moments.mean.numel(), 1.0)


def test_prior_gap_of_gaussian_data():
    data = gaussian([3.0, 0.0], [[2.0, 0.5], [0.5, 1.0]])
    assert prior_gap(OU(T=1.0), data).value == pytest.approx(0.0, abs=1e-14)
    sde = Declared(T=1.0)
    law = sde.diffused(data, 1.0)
    truth = gaussian_kl(law, gaussian([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]]))
    assert prior_gap(sde, data) == (pytest.approx(truth, rel=1e-12), 0.0)


def test_prior_gap_is_precise_when_it_is_tiny():
    """At leading order (1/48) Σ kappa_ijkl², the fourth cumulants; a ring of radius r has those of a circle.

    ``kappa_xxxx = −3 r⁴/8``, ``kappa_xxyy = −r⁴/8``, which noise leaves alone: the gap is ``512 alpha⁸ / variance⁴``.
    """
    for T, rel in ((3.0, 2e-3), (3.5, 3e-4)):
        variance = 1 + 7.25 * math.exp(-2 * T)
        assert prior_gap(OU(T=T), ring()).value == pytest.approx(512 * math.exp(-8 * T) / variance**4, rel=rel)


@pytest.mark.turns("CLD")
@pytest.mark.parametrize("sde", [VP(), VE(), CLD(beta=1.0)], ids=lambda sde: type(sde).__name__)
def test_prior_gap_by_quadrature_agrees_with_monte_carlo(sde):
    law = sde.diffused(ring(), sde.T)
    gap = prior_gap(sde, ring())
    assert gap.stderr == 0
    reference = kl(sde.prior(ring().moments()), law, 30_000, seed=0)
    assert abs(reference.value - gap.value) < 4 * reference.stderr + 1e-12


def test_prior_gap_beyond_quadrature_has_an_error():
    """Six independent copies of one coordinate: the gap is six times that of one."""
    corners = torch.cartesian_prod(*[PAIR.means[:, 0]] * 6)
    weights = torch.cartesian_prod(*[PAIR.weights] * 6).prod(1)
    variances = torch.cartesian_prod(*[PAIR.covariances] * 6)
    product = GaussianMixture(weights, corners, variances)
    gap = prior_gap(OU(T=1.0), product, n=4_000, seed=0)
    assert gap.stderr > 0
    assert sigmas(gap, 6 * prior_gap(OU(T=1.0), PAIR).value) < 4
    assert prior_gap(Declared(T=1.0), gaussian([1.0] * 5, 1.0), n=100).stderr > 0


@pytest.mark.parametrize("n", [500, 5_000])  # by quadrature, and beyond it
def test_prior_gap_of_data_is_that_of_their_law_up_to_sampling(n):
    points = Empirical(PAIR.sample(n, torch.Generator().manual_seed(0)))
    gap = prior_gap(OU(T=1.0), points, n=2_000, seed=0)
    assert (gap.stderr == 0) == (n == 500)
    assert gap.value == pytest.approx(prior_gap(OU(T=1.0), PAIR).value, rel=0.3)


def test_prior_gap_refuses_nonlinear_processes():
    with pytest.raises(TypeError, match=r"sde is a DoubleWell; give a linear SDE, .*simulate"):
        prior_gap(DoubleWell(), PAIR)


# --- KL from samples --------------------------------------------------------------------------------------------------


@pytest.mark.turns("1-0.0-5-*", "2-0.0-5*")
@pytest.mark.parametrize(
    ("d", "shift", "k", "n", "m"),
    [(1, 0.0, 5, 1_000, 1_000), (1, 0.0, 1, 2_000, 200), (2, 0.0, 5, 1_000, 1_000), (2, 0.2, 3, 1_000, 1_000)],
)
def test_knn_kl_between_shifted_gaussians(d, shift, k, n, m):
    def estimate(seed: int) -> Estimate:
        x, y = normals(seed, n, d, m)
        return knn_kl(y, x + shift, k)

    mean, ratio = over_seeds(estimate)
    assert abs(mean.value - d * shift**2 / 2) < 3.5 * mean.stderr + 0.004  # bias at n = 1,000
    assert 0.7 < ratio < 1.35


def test_knn_kl_is_the_double_loop():
    x, y = normals(0, 130, 2, m=150)
    truth, k = 0.0, 3
    for i in range(len(x)):
        rho = (x[i] - torch.cat([x[:i], x[i + 1 :]])).norm(dim=1).sort().values[k - 1]
        nu = (x[i] - y).norm(dim=1).sort().values[k - 1]
        truth += 2 / len(x) * math.log(nu / rho)
    assert knn_kl(y, x, k).value == pytest.approx(truth + math.log(len(y) / (len(x) - 1)), rel=1e-12)


def test_knn_kl_refuses_points_that_coincide():
    x, y = normals(0, 300, 2)
    with pytest.raises(ValueError, match="2 of the real points coincide with other real points"):
        knn_kl(y, torch.cat([x, x[:1]]))
    with pytest.raises(ValueError, match="300 of the real points coincide with generated points"):
        knn_kl(torch.cat([y, x]), x)
    with pytest.raises(ValueError, match="real has 60 points; this metric needs at least 120"):
        knn_kl(y, x[:60])


# --- the source table's measure ---------------------------------------------------------------------------------------


def test_kde_kl_is_the_double_loop():
    x = ring().sample(50, torch.Generator().manual_seed(0))
    p = ring().log_prob(x).exp()
    truth = 0.0
    for i in range(50):
        q = sum(math.exp(-(x[i] - x[j]).square().sum() / (2 * 0.1**2)) for j in range(50)) / (50 * 2 * math.pi * 0.1**2)
        truth += (q + 1e-10) * math.log((q + 1e-10) / (p[i] + 1e-10))
    assert kde_kl_once(x, ring()) == pytest.approx(truth, rel=1e-11)


def test_kde_kl_is_scipys_kernel_density():
    x = PAIR.sample(700, torch.Generator().manual_seed(0))
    values = x[:, 0].numpy()
    q = scipy.stats.gaussian_kde(values, bw_method=0.25 / values.std(ddof=1))(values) + 1e-10
    p = PAIR.log_prob(x).exp().numpy() + 1e-10
    assert kde_kl_once(x, PAIR, h=0.25) == pytest.approx((q * np.log(q / p)).sum(), rel=1e-10)


@pytest.mark.slow
def test_kde_kl_of_the_ring_is_the_sources_and_modes_too_wide_lower_it():
    """It ranks nothing: on common random numbers a sampler with 1 % too wide modes scores lower than the truth."""
    true, wide = (
        torch.tensor(
            [kde_kl_once(law.sample(5_000, torch.Generator().manual_seed(s)), ring()) for s in range(2)],
            dtype=torch.float64,
        )
        for law in (ring(), ring(0.5 * 1.01))
    )
    assert abs(true.mean() - 16.73) < 4 * 1.65 / math.sqrt(2)  # mean and standard deviation over 100 sets
    change = Estimate.of((wide - true) / 16.73)
    assert abs(change.value + 0.10) < 0.02  # 0.006 from set to set


def test_kde_kl_averages_independent_draws_of_an_object_or_a_callable():
    by_object = kde_kl(ring(), ring(), n=300, draws=4, seed=0)
    assert by_object == kde_kl(ring().sample, ring(), n=300, draws=4, seed=0)
    generator = torch.Generator().manual_seed(0)
    assert by_object == Estimate.of([kde_kl_once(ring().sample(300, generator), ring()) for _ in range(4)])
    with pytest.raises(ValueError, match="draws = 1"):
        kde_kl(ring(), ring(), n=300, draws=1)
    with pytest.raises(ValueError, match="h = 0"):
        kde_kl_once(torch.zeros(3, 2), ring(), h=0.0)


# --- MMD --------------------------------------------------------------------------------------------------------------


def gaussian_mmd(shift: float, scale: float, d: int, bandwidths: list[float]) -> float:
    """Squared MMD of ``N(shift 1, scale² I)`` and ``N(0, I)``: each expectation is a Gaussian integral."""

    def mean_kernel(variance: float, gap: float, b: float) -> float:
        return (1 + variance / b**2) ** (-d / 2) * math.exp(-d * gap**2 / (2 * (b**2 + variance)))

    return sum(
        mean_kernel(2 * scale**2, 0, b) + mean_kernel(2, 0, b) - 2 * mean_kernel(1 + scale**2, shift, b)
        for b in bandwidths
    )


@pytest.mark.turns("0.0-1.0*")
@pytest.mark.parametrize(
    ("shift", "scale", "m", "bandwidths", "right"),
    [
        (0.0, 1.0, 200, [1.0], (0.8, 1.35)),  # equal laws: second order, and conservative
        (0.3, 1.0, 200, [0.7, 1.5], (0.77, 1.3)),
        (0.0, 1.5, 350, [1.0], (0.77, 1.3)),
    ],
)
def test_mmd_between_gaussians_is_unbiased_and_knows_its_error(shift, scale, m, bandwidths, right):
    def estimate(seed: int) -> Estimate:
        x, y = normals(seed, m, 2, m=200)
        return mmd(shift + scale * x, y, bandwidths=bandwidths)

    mean, ratio = over_seeds(estimate, seeds=200)
    assert sigmas(mean, gaussian_mmd(shift, scale, 2, bandwidths)) < 3.5
    assert right[0] < ratio < right[1]


def test_mmd_is_the_double_loop_whatever_the_blocks(monkeypatch):
    x, y = normals(0, 40, 3, m=30)
    k = lambda a, b: (-torch.cdist(a, b).square() / (2 * 0.8**2)).exp()
    off_diagonal = lambda K: (K.sum() - K.trace()) / (len(K) * (len(K) - 1))
    truth = off_diagonal(k(x, x)) + off_diagonal(k(y, y)) - 2 * k(x, y).mean()
    whole = mmd(x, y, bandwidths=[0.8])
    assert whole.value == pytest.approx(truth.item(), rel=1e-10)
    monkeypatch.setitem(mmd_function.__globals__, "PAIRS", 100)
    assert mmd(x, y, bandwidths=[0.8]) == (pytest.approx(whole.value, rel=1e-10), pytest.approx(whole.stderr, rel=1e-8))


@pytest.mark.parametrize("seed", range(3))
def test_mmd_keeps_its_digits_where_points_are_far_from_the_centre(seed):
    generator, d = torch.Generator().manual_seed(seed), 1 + seed
    x, y = (torch.randn(n, d, dtype=torch.float64, generator=generator) for n in (30, 20))
    near = mmd(x, y + 2 * seed, bandwidths=[0.7, 2.0]).value
    both = torch.tensor([0.0, 1e9]).double()[:, None, None]  # two clusters, with as much of each law in either
    far = mmd((x + both).flatten(0, 1), (y + 2 * seed + both).flatten(0, 1), bandwidths=[0.7, 2.0]).value
    # Pairs of different clusters see nothing of each other; those of one are a quarter of all, or nearly so.
    within = [(v[:, None] - w).square().sum(2) for v, w in ((x, x), (y, y), (x, y + 2 * seed))]
    xx, yy, xy = (sum((-0.5 * v / b**2).exp() for b in (0.7, 2.0)).sum().item() for v in within)
    want = 2 * (xx - 60) / (60 * 59) + 2 * (yy - 40) / (40 * 39) - 4 * xy / (60 * 40)
    assert far == pytest.approx(want, abs=1e-5)
    assert near == pytest.approx((xx - 60) / (30 * 29) + (yy - 40) / (20 * 19) - 2 * xy / 600, abs=1e-10)


def test_mmd_error_is_the_jackknifes_less_its_second_order_part():
    x, y = normals(0, 40, 2, m=30)
    x = 0.7 * x + 0.4
    k = lambda a, b: (-torch.cdist(a, b).square() / 2).exp()

    def second_order(K: Tensor, own: bool) -> Tensor:
        off = ~torch.eye(len(K), dtype=torch.bool) if own else torch.ones_like(K, dtype=torch.bool)
        a, b = ((K * off).sum(dim) / off.sum(dim) for dim in (1, 0))
        centred = K - a[:, None] - b + K[off].mean()
        return centred[off].square().mean()

    without_x = torch.tensor([mmd(torch.cat([x[:i], x[i + 1 :]]), y, bandwidths=[1.0]).value for i in range(40)])
    without_y = torch.tensor([mmd(x, torch.cat([y[:i], y[i + 1 :]]), bandwidths=[1.0]).value for i in range(30)])
    jackknife = 39 * without_x.var(correction=0) + 29 * without_y.var(correction=0)
    degenerate = (
        second_order(k(x, x), True) * 2 / (40 * 39)
        + second_order(k(y, y), True) * 2 / (30 * 29)
        + second_order(k(x, y), False) * 4 / (40 * 30)
    )
    assert jackknife > 3 * degenerate
    assert mmd(x, y, bandwidths=[1.0]).stderr == pytest.approx((jackknife - degenerate).sqrt().item(), rel=1e-5)


def test_mmd_takes_its_bandwidths_from_the_median_distance_of_the_reference():
    x, y = normals(0, 200, 2)
    median = float(np.median(scipy.spatial.distance.pdist(y.numpy())))
    given = mmd(x + 1, y, bandwidths=[median / 2, median, 2 * median])
    assert mmd(x + 1, y).value == pytest.approx(given.value, rel=1e-3)
    with pytest.raises(ValueError, match="median distance"):
        mmd(x, torch.zeros(50, 2))
    with pytest.raises(ValueError, match=r"bandwidths = \(1.0, 0.0\)"):
        mmd(x, y, bandwidths=[1.0, 0.0])


# --- sliced Wasserstein -----------------------------------------------------------------------------------------------


def test_sliced_wasserstein_of_a_translation():
    """``W_2(thetaᵀx, thetaᵀ(x + v)) = |thetaᵀv|`` on the samples themselves: only the directions are random."""
    x, _ = normals(0, 500, 3)
    v = torch.tensor([1.0, 2.0, -2.0])
    assert sigmas(sliced_wasserstein(x + v, x, projections=2_000, seed=0), 3 / math.sqrt(3)) < 4


@pytest.mark.turns("3-*")
@pytest.mark.parametrize(("d", "shift", "scale"), [(1, 1.0, 1.0), (2, 0.0, 3.0), (3, 3.0, 2.0)])
def test_sliced_wasserstein_between_gaussians_knows_its_error(d, shift, scale):
    """Each slice: ``W_2² = (thetaᵀ shift)² + (scale − 1)²``; the mean of ``(thetaᵀ shift)²`` is ``|shift|² / d``."""

    def estimate(seed: int) -> Estimate:
        x, y = normals(seed, 1_000, d)
        return sliced_wasserstein(shift + scale * x, y, projections=32, seed=seed)

    mean, ratio = over_seeds(estimate)
    truth = math.sqrt(shift**2 + (scale - 1) ** 2)
    assert abs(mean.value - truth) < 3.5 * mean.stderr + 0.01  # the plug-in value is biased upwards by sampling
    assert 0.77 < ratio < 1.3


@pytest.mark.slow
def test_sliced_wasserstein_knows_its_error_for_skewed_laws():
    """Where a point's influence differs from direction to direction, and is not symmetric about the centre."""

    def estimate(seed: int) -> Estimate:
        x, y = (-torch.rand(2, 500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).log()) ** 1.5
        return sliced_wasserstein(x * torch.tensor([3.0, 1.0]), y, projections=64, seed=seed)

    _, ratio = over_seeds(estimate, seeds=200)
    assert 0.77 < ratio < 1.3


def test_sliced_wasserstein_in_one_dimension_is_scipys():
    x, y = normals(0, 300, 1)
    truth = scipy.stats.wasserstein_distance(x[:, 0].numpy(), 0.5 * y[:, 0].numpy() + 1)
    assert sliced_wasserstein(x, 0.5 * y + 1, p=1, seed=0).value == pytest.approx(truth, rel=1e-12)


def test_sliced_wasserstein_refuses_unequal_counts():
    x, y = normals(0, 300, 2, m=200)
    with pytest.raises(
        ValueError, match="generated has 300 points and real 200; sorted samples are matched one to one"
    ):
        sliced_wasserstein(x, y)
    with pytest.raises(ValueError, match="projections = 1, p = 2"):
        sliced_wasserstein(x, x, projections=1)
    assert sliced_wasserstein(x, x, seed=0) == (0.0, 0.0)


# --- classifier -------------------------------------------------------------------------------------------------------


def test_classifier_p_values_are_uniform_for_equal_laws():
    p_values = np.array([classifier_test(*normals(seed, 400, 2), seed=seed).p_value for seed in range(200)])
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert scipy.stats.binomtest(int((p_values < 0.1).sum()), 200, 0.1).pvalue > 1e-3


def test_classifier_finds_a_shift_and_is_about_as_accurate_as_can_be():
    x, y = normals(0, 4_000, 2)
    accuracy, p_value = classifier_test(x + torch.tensor([1.0, 0.0]), y, seed=0)
    best = scipy.stats.norm.cdf(0.5)
    assert p_value < 1e-10
    assert best - 0.03 < accuracy.value < best + 4 * accuracy.stderr
    assert accuracy.stderr == pytest.approx(math.sqrt(best * (1 - best) / 4_000), rel=0.02)


def test_classifier_split_is_reproducible():
    x, y = normals(0, 400, 2)
    assert classifier_test(x, y, seed=3) == classifier_test(x, y, generator=torch.Generator().manual_seed(3))
    assert classifier_test(x, y, seed=3) != classifier_test(x, y, seed=4)
    with pytest.raises(ValueError, match="k = 4; expected an odd number"):
        classifier_test(x, y, k=4)
    with pytest.raises(ValueError, match=r"400 points and real 300; chance is one half.*: pass the first 300 of both"):
        classifier_test(x, y[:300])


# --- what all of them share -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", SAMPLE_METRICS)
def test_metrics_flatten_what_they_are_given_and_compute_in_float64(metric):
    x, y = (v.float() for v in normals(0, 300, 4))
    flat, shaped = (
        metric(*(v.reshape(300, *shape).to(dtype) for v in (x, y)), **({} if metric in (mmd, knn_kl) else {"seed": 0}))
        for shape, dtype in (((4,), torch.float64), ((2, 1, 2), torch.float32))
    )
    assert flat == shaped


@pytest.mark.parametrize("metric", SAMPLE_METRICS)
def test_metrics_refuse_what_is_not_a_pair_of_finite_samples(metric):
    x, y = normals(0, 300, 4)
    with pytest.raises(TypeError, match=r"real has dtype torch.int64; convert it .*: real.double\(\)"):
        metric(x, y.long())
    broken = x.clone()
    broken[[3, 7], 1] = torch.tensor([math.nan, math.inf]).double()
    with pytest.raises(ValueError, match="generated holds NaN or infinite values in 2 of 300 rows"):
        metric(broken, y)
    with pytest.raises(
        ValueError, match=r"generated has shape \(300, 4\), 4 values per point, and real \(300, 3\), 3; pass"
    ):
        metric(x, y[:, :3])
    with pytest.raises(ValueError, match=r"real has 1 points; this metric needs at least"):
        metric(x, y[:1])
    with pytest.raises(ValueError, match=r"generated has shape \(0, 4\)"):
        metric(x[:0], y)


@pytest.mark.parametrize("measure", [lambda x: kl(ring(), ring(), x=x), lambda x: kde_kl_once(x, ring())])
def test_density_metrics_refuse_broken_samples(measure):
    with pytest.raises(TypeError, match=r"x has dtype torch\.int64"):
        measure(torch.zeros(10, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="x holds NaN or infinite values in 10 of 10 rows"):
        measure(torch.full((10, 2), math.nan))


@pytest.mark.parametrize("n", [8, 11, 30])
def test_a_p_value_counts_the_accuracy_itself(n):
    # Apart, all of the held-out half are told right: one of C(2m, m) ways to deal the labels, so its own probability.
    # Exchanged before the other half is told apart, none is, and every accuracy is at least as high.
    x = 100.0 + torch.arange(n, dtype=torch.float64)[:, None] / n
    m = n - n // 2
    found = classifier_test(x, -x, k=1, seed=0)
    assert found.accuracy.value == 1 and found.p_value == pytest.approx(1 / math.comb(2 * m, m))
    x = torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    same = classifier_test(x, x, k=1, seed=0)
    right = round(same.accuracy.value * 2 * m)
    # Whatever the classifier calls, its p-value is that of a deal of m labels among 2 m by chance, at least this good.
    assert same.p_value >= 2.0 ** -(2 * m) and (same.p_value > 0.5 or right > m)


def test_p_values_of_few_points_are_the_share_of_deals_at_least_as_good(monkeypatch):
    # By enumeration: every deal of the labels to the held-out points, whatever the classifier calls them.
    from itertools import combinations

    import scipy.stats

    asked = []
    exact = scipy.stats.hypergeom.sf
    monkeypatch.setattr(scipy.stats.hypergeom, "sf", lambda *given: asked.append(given) or exact(*given))
    for seed in range(6):
        found = classifier_test(*normals(seed, 8, 2), seed=seed)
        n, calls = asked[-1][2], asked[-1][3]
        right = round((found.accuracy.value * 2 * n - n + calls) / 2)  # of those called y
        deals = [len(set(deal) & set(range(calls))) for deal in combinations(range(2 * n), n)]
        assert found.p_value == pytest.approx(sum(hit >= right for hit in deals) / len(deals))


@pytest.mark.parametrize("n", [0, -3])
@pytest.mark.parametrize("own", [True, False])
def test_a_number_of_draws_is_checked_before_any_law_is_asked(n, own):
    """Of a law of one's own too, which would say something else or nothing."""

    class Law:
        def sample(self, n, generator=None):
            raise AssertionError("asked for draws")

        def log_prob(self, x):
            return x.sum(1)

    law = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    with pytest.raises(ValueError, match=rf"^n = {n}; .*\.$"):
        kl(law, Law() if own else law, n=n)


@pytest.mark.parametrize(("metric", "least"), [(mmd, 3), (sliced_wasserstein, 2), (classifier_test, 4)])
def test_the_fewest_points_that_have_an_answer_are_taken_and_no_fewer(metric, least):
    x, y = normals(0, least, 2)
    metric(x, y)  # is not refused
    with pytest.raises(ValueError, match=f"generated has {least - 1} points; this metric needs at least {least}"):
        metric(x[1:], y[1:])


def test_what_the_prior_misses_does_not_depend_on_units() -> None:
    """A process in units on data of these units does to them what the process does to standardised data."""
    mean, std, sde = torch.tensor([3.0, -1.0]).double(), torch.tensor([5.0, 0.2]).double(), sdegen.OU(T=1.0)
    law = sdegen.GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.tensor([[1.0, -0.5], [-0.7, 0.4]]), torch.tensor([0.2, 0.4])
    )
    there = sdegen.GaussianMixture(law.weights, mean + std * law.means, law.covariances[:, None] * std.square())
    gap = prior_gap(sde.in_units(sdegen.laws.Units(mean, std)), there).value
    assert gap == pytest.approx(prior_gap(sde, law).value, rel=1e-6) and gap > 1e-5


@pytest.mark.parametrize("n", [0, -1, 2.5])
def test_points_of_a_kernel_estimate_are_counted_before_they_are_drawn(n: float) -> None:
    def draw(n: int, generator: torch.Generator) -> Tensor:
        raise AssertionError("drawn all the same")

    with pytest.raises(ValueError, match=rf"^n = {n}; it must be a whole number"):
        sdegen.metrics.kde_kl(draw, sdegen.data.gaussian_ring(), n=n)  # type: ignore[arg-type]


RING = sdegen.data.gaussian_ring()


def rows(n: int) -> torch.Tensor:
    return RING.sample(n, torch.Generator().manual_seed(0))


def images(n: int) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


EXACT, SUM = sdegen.Exact(sdegen.VP(), RING), measurements.Linear(torch.ones(1, 2, dtype=torch.float64), 0.5)
PRODUCT, FLAT = guidance.Product([(EXACT, 0.5), (EXACT, 0.5)]), torch.nn.Flatten().eval()
SEEN, CLOUD = torch.ones(1, dtype=torch.float64), gaussian([0.0, 0.0], 9.0)
# What a standard error, or a weight, is made of, by the largest number that is too small for it.
TOO_FEW: dict[str, tuple[int, Callable[[int], Any]]] = {
    "kl, n": (1, lambda n: kl(RING, RING, n)),
    "kl, x": (1, lambda n: kl(RING, RING, x=rows(n))),
    "kl, densities": (1, lambda n: metrics.kl_from_log_ratio(torch.zeros(n), torch.zeros(n))),
    "prior_gap": (1, lambda n: metrics.prior_gap(sdegen.VP(), RING, n=n)),
    "kde_kl": (1, lambda n: metrics.kde_kl(RING.sample, RING, n=20, draws=n)),
    "knn_kl": (119, lambda n: metrics.knn_kl(rows(n), rows(n))),
    "mmd": (2, lambda n: metrics.mmd(rows(n), rows(n))),
    "sliced": (1, lambda n: metrics.sliced_wasserstein(rows(n), rows(n))),
    "projections": (1, lambda n: metrics.sliced_wasserstein(rows(9), rows(9), projections=n)),
    "classifier": (3, lambda n: metrics.classifier_test(rows(n), rows(n))),
    "crps": (1, lambda n: metrics.crps(torch.randn(n, 5), torch.randn(5))),
    "shares": (1, lambda n: metrics.effective_share(torch.zeros(n))),
    "fid": (1, lambda n: metrics.fid(images(n), images(n), FLAT)),
    "fid_infinity": (3, lambda n: metrics.fid_infinity(images(n), images(n), FLAT)),
    "kid": (2, lambda n: metrics.kid(images(n), images(n), FLAT)),
    "precision": (7, lambda n: metrics.precision_recall(images(n), images(n), FLAT)),
    "coverage": (11, lambda n: metrics.density_coverage(images(n), images(n), FLAT)),
    "estimate": (1, lambda n: metrics.Estimate.of([1.0] * n)),
    "twisted": (1, lambda n: guidance.twisted_smc(guidance.PiGDM(EXACT, SUM), n, steps=3, y=SEEN)),
    "tilted": (1, lambda n: guidance.tilted_smc(EXACT, lambda x: x.sum(1), n, steps=3)),
    "corrected": (1, lambda n: guidance.corrected(PRODUCT, n, steps=3)),
    "product": (1, lambda n: guidance.anneal_product(PRODUCT, n, steps=3)),
    "density": (1, lambda n: guidance.anneal_density(RING.log_prob, CLOUD, n)),
    "importance": (1, lambda n: guidance.importance_sample(EXACT, RING.log_prob, n)),
    "robustness": (1, lambda n: sdegen.baselines.robustness(lambda x: x, rows(n), torch.zeros(n).long(), [0.1])),
    "diagnose": (63, lambda n: sdegen.diagnose(EXACT, RING, n=n)),
    "validation": (1, lambda n: sdegen.fit(
        sdegen.Model(sdegen.nets.MLP(2, width=8), sdegen.VP()), rows(9), steps=1, validation=rows(n), progress=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_FEW)
def test_too_few_numbers_for_an_error_are_named_with_how_many_would_do(name: str) -> None:
    largest, call = TOO_FEW[name]
    n = random.Random(name).randint(1, largest)
    with pytest.raises(ValueError, match=r"at least \d+") as refused:
        call(n)
    said = str(refused.value)
    enough = int(re.search(r"at least (\d+)", said)[1])
    assert n < enough == largest + 1
    assert "values has" not in said or name == "estimate"  # it names what the caller gave
