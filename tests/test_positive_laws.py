"""Laws and processes of positive states, against scipy, high-precision arithmetic, and the equations that a transition obeys."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from refusals import Refusals, check_refusal
from scipy import special, stats
from torch import Tensor

from sdegen.laws.bessel import bessel_ratio, log_bessel
from sdegen.laws.chi_square import quantile_of_root
from sdegen.laws.kernels import Kernel
from sdegen.laws.mixtures import GaussianMixture, Moments
from sdegen.laws.operators import Scale
from sdegen.laws.positive import LogNormal, LogNormalMixture, NoncentralChiSquare, Repeated
from sdegen.processes.positive import CIR, GeometricBrownianMotion, SquaredBessel

Z = torch.tensor([-6.0, -4.0, -2.0, -0.5, 0.0, 0.7, 2.0, 4.0, 6.0], dtype=torch.float64)
DFS = [0.1, 0.5, 1.0, 2.0, 3.0, 10.0, 100.0, 250.0, 1000.0]
NONCENTRALITIES = [0.0, 1e-8, 1e-3, 1.0, 30.0, 299.0, 1e3, 1e5]
PROCESSES = [GeometricBrownianMotion(0.3, 0.7, T=4.0), CIR(1.3, 0.8, 0.9, T=3.0), SquaredBessel(3.3, T=4.0)]
every_process = pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def chi_square(df: float, nc: float, scale: float, rows: int = len(Z)) -> NoncentralChiSquare:
    return NoncentralChiSquare(df, torch.full((rows, 1), nc * scale, dtype=torch.float64), number(scale))


def log_normal(mean: float, std: float, rows: int = len(Z)) -> LogNormal:
    return LogNormal(Kernel(torch.full((rows, 1), mean, dtype=torch.float64), Scale(std)))


def normal_nodes(reach: float = 9.0, count: int = 241) -> tuple[Tensor, Tensor]:
    """Noise and weights of a sum for a mean over standard normal noise: the trapezoid rule, which converges geometrically."""
    z = torch.linspace(-reach, reach, count, dtype=torch.float64)
    weights = (-0.5 * z.square()).exp()
    return z[:, None], weights / weights.sum()


# --- Bessel functions


@pytest.mark.parametrize("order", [-0.999, -0.95, -0.5, 0.0, 0.3, 1.0, 7.5, 19.0, 49.0, 499.0])
def test_bessel_functions_have_all_digits(order: float) -> None:
    with mpmath.workdps(30):
        for z in (1e-8, 1e-3, 0.1, 1.0, 3.0, 10.0, 20.0, 50.0, 200.0):
            I = log_bessel(number(order), number(z))
            got = I.rest.item() + z + order * math.log(z / I.base.item())
            values = [mpmath.besseli(order + k, z, maxterms=10**6) for k in (0, 1)]
            assert abs(got - mpmath.log(values[0])) < 2e-14 * (1 + abs(order) * abs(math.log(z / I.base.item())) + z)
            assert bessel_ratio(number(order), number(z)).item() == pytest.approx(
                float(values[1] / values[0] / z), rel=1e-14
            )
        assert bessel_ratio(number(order), number(0.0)).item() == pytest.approx(0.5 / (order + 1), rel=1e-14)


@pytest.mark.parametrize("z", [1e3, 1e5, 1e9, 1e14])
def test_bessel_functions_of_large_arguments_follow_hankels_expansion(z: float) -> None:
    for order in (-0.5, 0.0, 2.3, 12.0):
        with mpmath.workdps(40):
            factor = mpmath.mpf(1)
            series = factor
            for k in range(1, 12):
                factor *= -(4 * mpmath.mpf(order) ** 2 - (2 * k - 1) ** 2) / (8 * k * mpmath.mpf(z))
                series += factor
            want = float(mpmath.log(series / mpmath.sqrt(2 * mpmath.pi * z)))  # of I e^-z
        for large in (False, True):
            I = log_bessel(number(order), number(z), large=large)
            got = I.rest.item() + order * math.log(z / I.base.item())
            assert got == pytest.approx(want, abs=1e-13)


# --- densities, scores and quantiles


@pytest.mark.parametrize("df", DFS)
def test_chi_square_densities_agree_with_scipy(df: float) -> None:
    compared = 0
    for nc in NONCENTRALITIES:
        for scale in (0.02, 1.7):
            law = chi_square(df, nc, scale)
            x = law.sample(Z[:, None])
            with np.errstate(all="ignore"):
                of = stats.ncx2(df, nc, scale=scale) if nc else stats.chi2(df, scale=scale)
                want = torch.from_numpy(of.logpdf(x[:, 0].numpy()))
            known = want.isfinite()  # scipy's Bessel functions underflow for large order and small argument
            compared += int(known.sum())
            torch.testing.assert_close(law.log_prob(x)[known], want[known], rtol=1e-10, atol=1e-10)
    assert compared > 0.6 * 2 * len(NONCENTRALITIES) * len(Z)


def log_density(x: Any, df: float, start: float, scale: float) -> Any:
    """The log-density of the scaled non-central chi-square law in the precision of mpmath, by its series."""
    y, nc, order = x / scale, mpmath.mpf(start) / scale, mpmath.mpf(df) / 2 - 1
    entire = mpmath.hyp0f1(order + 1, nc * y / 4, maxterms=10**6)
    return (
        mpmath.log(entire)
        - mpmath.loggamma(order + 1)
        + order * mpmath.log(y / 2)
        - (y + nc) / 2
        - mpmath.log(2 * scale)
    )


@pytest.mark.parametrize("df", [0.1, 1.0, 2.0, 3.7, 50.0, 1000.0])
def test_chi_square_log_densities_and_scores_have_all_digits(df: float) -> None:
    for nc in (0.0, 1e-8, 1e-3, 1.0, 30.0, 500.0):
        law = chi_square(df, nc, 0.25)
        x = law.sample(Z[:, None])
        values, scores = law.log_prob(x), law.score(x)
        for i in range(0, len(Z), 2):
            with mpmath.workdps(60):
                point = mpmath.mpf(x[i, 0].item())
                want = log_density(point, df, nc * 0.25, 0.25)
                near = [log_density(point * (1 + k * mpmath.mpf(10) ** -20), df, nc * 0.25, 0.25) for k in (-1, 1)]
                slope = (near[1] - near[0]) / (2 * point * mpmath.mpf(10) ** -20)
            assert values[i].item() == pytest.approx(float(want), rel=1e-10, abs=1e-10)
            size = abs(0.5 * df - 1) / x[i, 0].item() + 0.5 / 0.25  # of what the score is a difference of
            assert scores[i, 0].item() == pytest.approx(float(slope), rel=1e-10, abs=1e-13 * size)


def test_log_normal_densities_and_scores_agree_with_scipy() -> None:
    for mean, std in ((-3.0, 0.1), (0.0, 1.0), (2.0, 5.0)):
        law = log_normal(mean, std)
        x = law.sample(Z[:, None])
        of = stats.lognorm(std, scale=math.exp(mean))
        torch.testing.assert_close(
            law.log_prob(x), torch.from_numpy(of.logpdf(x[:, 0].numpy())), rtol=1e-10, atol=1e-12
        )
        slope = -(1 + (x.log() - mean) / std**2) / x
        torch.testing.assert_close(law.score(x), slope, rtol=1e-10, atol=0)
        torch.testing.assert_close(
            torch.from_numpy(of.cdf(x[:, 0].numpy())), torch.from_numpy(special.ndtr(Z.numpy())), rtol=1e-9, atol=0
        )


LAWS = [chi_square(0.5, 0.2, 0.3), chi_square(4.0, 3.0, 0.2), chi_square(3.0, 500.0, 1e-3), log_normal(0.4, 0.6)]


@pytest.mark.parametrize("law", LAWS, ids=["small df", "middle", "far", "log-normal"])
def test_log_densities_have_the_score_as_their_derivative_and_scores_have_derivatives(law: Any) -> None:
    x = law.sample(Z[:, None]).requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(slope, law.score(x), rtol=1e-8, atol=1e-10)
    (second,) = torch.autograd.grad(law.score(x).sum(), x)
    h = 1e-4 * x.detach()
    steps = [law.score(x.detach() + k * h) for k in (-2, -1, 1, 2)]
    differences = (steps[0] - 8 * steps[1] + 8 * steps[2] - steps[3]) / (12 * h)
    torch.testing.assert_close(second, differences, rtol=1e-6, atol=1e-6)
    along = torch.func.jvp(law.score, (x.detach(),), (torch.ones_like(x),))[1]
    torch.testing.assert_close(along, second, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("df", DFS)
def test_chi_square_draws_are_quantiles_in_both_tails(df: float) -> None:
    for nc in (*NONCENTRALITIES, 1e7):
        x = chi_square(df, nc, 0.5).sample(Z[:, None])[:, 0].numpy() / 0.5
        of = stats.ncx2(df, nc) if nc else stats.chi2(df)
        left = Z.numpy() < 0
        found = np.where(left, of.cdf(x), of.sf(x))
        # a tail's relative error is the quantile's times this
        sensitivity = (
            x
            * np.abs(np.exp(np.where(x > 0, chi_square(df, nc, 1.0).log_prob(torch.from_numpy(x)[:, None]), 0)))
            / found
        )
        assert (np.abs(found / special.ndtr(-Z.abs().numpy()) - 1) < 1e-12 * (1 + sensitivity)).all()
        assert (np.diff(x) > 0).all()


def test_chi_square_draws_increase_with_the_noise_on_both_sides_of_every_switch_of_method() -> None:
    z = torch.linspace(-4, 4, 801, dtype=torch.float64)[:, None]
    for df, nc in ((3.0, 296.9), (3.0, 297.1), (299.9, 0.0), (300.1, 0.0), (2.0, 1e14), (2.0, 1e30)):
        x = chi_square(df, nc, 1.0 / (df + nc), len(z)).sample(z)
        assert (x.diff(dim=0) >= 0).all() and x.isfinite().all()
    below, above = (chi_square(3.0, nc, 1.0, len(z)).sample(z) for nc in (297 - 1e-7, 297 + 1e-7))
    torch.testing.assert_close(below, above, rtol=3e-9, atol=0)


@pytest.mark.parametrize(
    ("law", "of"),
    [
        (log_normal(0.3, 0.8, 1), stats.lognorm(0.8, scale=math.exp(0.3))),
        (chi_square(0.7, 0.4, 0.5, 1), stats.ncx2(0.7, 0.4, scale=0.5)),
        (chi_square(5.0, 40.0, 0.1, 1), stats.ncx2(5.0, 40.0, scale=0.1)),
        (chi_square(5.0, 4000.0, 0.01, 1), stats.ncx2(5.0, 4000.0, scale=0.01)),
    ],
    ids=["log-normal", "small df", "middle", "far"],
)
def test_draws_have_the_law(law: Any, of: Any) -> None:
    law, generator = Repeated(law, (1,)), torch.Generator().manual_seed(0)
    p = [stats.kstest(law.sample(400, generator)[:, 0].numpy(), of.cdf).pvalue for _ in range(60)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_answers_have_the_dtype_of_the_states_and_positive_draws(dtype: torch.dtype) -> None:
    z = torch.tensor([[-6.0], [0.0], [3.0]], dtype=dtype)
    for law in (chi_square(0.05, 1e-9, 1e-3, 3), chi_square(2.5, 1e4, 1.0, 3), log_normal(0.0, 1.0, 3)):
        x = law.sample(z)
        assert x.dtype == law.score(x).dtype == dtype and (x > 0).all() and x.isfinite().all()
        assert law.log_prob(x).dtype == torch.promote_types(dtype, torch.float32) and law.log_prob(x).shape == (3,)
    start, one, y = (
        torch.tensor([[0.3], [1e4], [7.0]], dtype=dtype),
        torch.ones(()),
        torch.tensor([[0.4], [9990.0], [5.0]]),
    )
    of_states, of_numbers = (NoncentralChiSquare(2.5, v, one) for v in (start, start.double()))  # no digit more is lost
    assert torch.equal(of_states.log_prob(y.double()), of_numbers.log_prob(y.double()))
    assert torch.equal(of_states.score(y.double()), of_numbers.score(y.double()))


def test_draws_of_one_batch_near_zero_and_far_from_it_are_those_of_each_alone() -> None:
    df, a, z = (
        torch.tensor([[2.0], [0.5], [2.0]]).double(),
        torch.tensor([[1.0], [100.0], [1e4]]).double(),
        torch.ones(3, 1),
    )
    alone = torch.cat([quantile_of_root(*(v[i : i + 1] for v in (df, a, z.double()))) for i in range(3)])
    assert torch.equal(quantile_of_root(df, a, z.double()), alone)


def test_nothing_has_a_density_outside_of_the_domain() -> None:
    for law in (chi_square(2.0, 1.0, 1.0, 2), log_normal(0.0, 1.0, 2)):
        assert law.log_prob(torch.tensor([[-1.0], [0.0]])).isneginf().all()


# --- processes


@every_process
def test_transitions_compose(sde: Any) -> None:
    """Chapman and Kolmogorov: the law from 0 to t is the mean, over states at s, of that from s to t."""
    x_0 = torch.tensor([[0.05], [0.6], [3.0]], dtype=torch.float64)
    z, weights = normal_nodes(count=601)
    for s, t in ((0.3, 1.0), (1.0, 1.4), (0.01, 2.5)):
        for start in x_0:
            first = sde.kernel(start.expand(len(z), 1), 0.0, s).sample(z)
            later = sde.kernel(first, s, t)
            whole = sde.kernel(start[None], 0.0, t)
            for probe in whole.sample(torch.tensor([[-2.0], [0.0], [1.5]], dtype=torch.float64)):
                got = (later.log_prob(probe.expand(len(z), 1)) + weights.log()).logsumexp(0)
                torch.testing.assert_close(got, whole.log_prob(probe[None])[0], rtol=1e-8, atol=1e-8)


def closed_moments(sde: Any, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance after a time `h`, from the linear equations that they obey."""
    if isinstance(sde, GeometricBrownianMotion):
        mean = x * (sde.mu * h).exp()
        return mean, mean.square() * torch.expm1(sde.sigma**2 * h)
    if isinstance(sde, SquaredBessel):
        return x + sde.delta * h, 4 * x * h + 2 * sde.delta * h.square()
    kept = (-sde.kappa * h).exp()
    spread = sde.sigma**2 / sde.kappa * (1 - kept)
    return kept * x + sde.theta * (1 - kept), spread * (kept * x + 0.5 * sde.theta * (1 - kept))


@every_process
def test_transitions_have_the_closed_means_and_variances(sde: Any) -> None:
    z, weights = normal_nodes(reach=12.0)
    for x in (0.05, 1.0, 20.0):
        for h in (1e-3, 0.2, 1.0, sde.T):
            draws = sde.kernel(torch.full_like(z, x), 0.0, h).sample(z)[:, 0]
            mean, variance = closed_moments(sde, number(x), number(h))
            found = weights @ draws
            torch.testing.assert_close(found, mean, rtol=1e-7, atol=0)
            torch.testing.assert_close(weights @ (draws - found).square(), variance, rtol=1e-6, atol=0)


@every_process
def test_short_transitions_are_generated_by_drift_and_diffusion(sde: Any) -> None:
    z, weights = normal_nodes()
    h = 1e-5
    for x in (0.2, 1.0, 5.0):
        start = torch.full_like(z, x)
        draws = sde.kernel(start, 1.0, 1.0 + h).sample(z)[:, 0]
        t = number(1.0)
        drift, noise = sde.drift(start, t)[0, 0], sde.diffusion(start, t)[0, 0]
        torch.testing.assert_close((weights @ draws - x) / h, drift, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(weights @ (draws - x).square() / h, noise.square(), rtol=1e-3, atol=0)


@every_process
def test_transitions_solve_the_forward_equation(sde: Any) -> None:
    """Fokker and Planck, for ``log p``: ``∂_t log p = −f' − f s + ½ (g²)'' + (g²)' s + ½ g² (s' + s²)``."""
    x = torch.linspace(0.2, 4.0, 12, dtype=torch.float64)[:, None].requires_grad_()
    start, t, h = torch.full_like(x, 0.9), 0.7, 1e-4

    def derivative(y: Tensor) -> Tensor:
        grad = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True)[0] if y.requires_grad else None
        return torch.zeros_like(x) if grad is None else grad

    score = sde.kernel(start, 0.0, t).score(x)
    f, square = sde.drift(x, number(t)), sde.diffusion(x, number(t)).square()
    slope = derivative(square)
    want = (
        -derivative(f)
        - f * score
        + 0.5 * derivative(slope)
        + slope * score
        + 0.5 * square * (derivative(score) + score.square())
    )
    values = [sde.kernel(start, 0.0, t + k * h).log_prob(x)[:, None] for k in (-2, -1, 1, 2)]
    got = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


@every_process
def test_a_transition_of_no_length_or_nearly_none_stays_at_the_state(sde: Any) -> None:
    x = torch.tensor([[0.3, 2.0], [0.05, 700.0]], dtype=torch.float64).requires_grad_()
    z = torch.tensor([[1.0, -3.0], [2.0, 0.0]], dtype=torch.float64)
    start = x.detach()
    torch.testing.assert_close(sde.kernel(start, 1.0, 1.0).sample(z), start, rtol=1e-14, atol=0)
    f, g = sde.drift(x, number(0.0)), sde.diffusion(x, number(0.0))
    slope = torch.autograd.grad(g.sum(), x, retain_graph=True)[0]
    for h in (1e-6, 1e-9, 1e-12, 1e-18):  # against a step of Milstein's method
        moved = sde.kernel(start, 0.0, h).sample(z) - start
        want = math.sqrt(h) * g * z + (f + 0.5 * g * slope * (z.square() - 1)) * h
        assert ((moved - want).abs() < 50 * h**1.5 * (1 + x) + 1e-15 * x).all()


@every_process
def test_perturbing_is_reproducible_by_rows_and_mirrored(sde: Any) -> None:
    x_0 = torch.rand(6, 3) + 0.1
    t = torch.linspace(0.1, sde.T, 6, dtype=torch.float64)
    z = torch.randn(6, 3)
    law, whole = sde.kernel(x_0, 0.0, t), sde.kernel(x_0, 0.0, t).sample(z)
    alone = torch.cat([sde.kernel(x_0[i : i + 1], 0.0, t[i]).sample(z[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(whole, alone, rtol=1e-6, atol=0)
    assert whole.dtype == torch.float32
    perturbed = sde.perturb(x_0, t, z)
    assert torch.equal(perturbed.x, whole) and torch.equal(perturbed.mirrored().x, law.sample(-z))
    drawn = [sde.perturb(x_0, t, generator=torch.Generator().manual_seed(3)).x for _ in range(2)]
    assert torch.equal(*drawn)
    assert (perturbed.kernel.score(perturbed.x).isfinite()).all()


# --- priors


def law_at_the_end(sde: Any, data: Tensor) -> tuple[Tensor, Tensor]:
    """Means and covariances of the states at T of equally likely data, by conditioning on the datum."""
    means, variances = closed_moments(sde, data, number(sde.T))
    return means.mean(0), torch.cov(means.T, correction=0) + torch.diag(variances.mean(0))


def draws_of(mean: float, spread: float) -> Tensor:
    """Two correlated positive coordinates."""
    g = np.random.default_rng(0)
    z = g.standard_normal((2000, 2)) @ np.array([[1.0, 0.5], [0.0, 0.8]])
    return torch.from_numpy(mean * np.exp(spread * z))


def moments_of_rows(data: Tensor) -> Moments:
    return Moments(data.mean(0), torch.cov(data.T, correction=0))


@every_process
@pytest.mark.parametrize(("middle", "spread"), [(1.3, 0.3), (1.3, 1.2), (0.01, 0.3)])
def test_priors_have_the_means_and_variances_of_the_state_at_the_end(sde: Any, middle: float, spread: float) -> None:
    data = draws_of(middle, spread)
    prior = sde.prior(moments_of_rows(data))
    mean, covariance = law_at_the_end(sde, data)
    if isinstance(sde, GeometricBrownianMotion):  # by the known moments of a log-normal law, correlations included
        L, C = prior.log.means[0], prior.log.covariances[0]
        found = (L + 0.5 * C.diagonal()).exp()
        spreads = torch.outer(found, found) * torch.expm1(C)
        torch.testing.assert_close(spreads, covariance, rtol=1e-9, atol=0)
    else:  # by the trapezoid rule
        z, weights = normal_nodes(reach=12.0, count=1201)
        draws = prior.law.sample(z.expand(-1, 2))
        found = weights @ draws
        torch.testing.assert_close(weights @ (draws - found).square(), covariance.diagonal(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found, mean, rtol=1e-7, atol=0)


def test_the_prior_is_exact_for_log_normal_data_of_geometric_brownian_motion() -> None:
    sde = GeometricBrownianMotion(0.2, 0.5, T=2.0)
    mean, C = (
        torch.tensor([0.3, -0.2], dtype=torch.float64),
        torch.tensor([[0.3, -0.1], [-0.1, 0.2]], dtype=torch.float64),
    )
    m = (mean + 0.5 * C.diagonal()).exp()
    prior = sde.prior(Moments(m, torch.outer(m, m) * torch.expm1(C)))
    want = GaussianMixture(torch.ones(1), (mean + (0.2 - 0.125) * 2)[None], (C + 0.5 * torch.eye(2))[None])
    x = prior.sample(20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(prior.log_prob(x), LogNormalMixture(want).log_prob(x), rtol=1e-9, atol=1e-9)
    with_diagonal = sde.prior(Moments(m, torch.expm1(C.diagonal()) * m.square()))
    alone = torch.cat([stats_lognormal(x[:, i], mean[i] + 0.15, (C[i, i] + 0.5).sqrt())[None] for i in range(2)]).sum(0)
    torch.testing.assert_close(with_diagonal.log_prob(x), alone, rtol=1e-9, atol=1e-9)


def stats_lognormal(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.from_numpy(stats.lognorm(std.item(), scale=mean.exp().item()).logpdf(x.numpy()))


def test_the_prior_of_the_square_root_process_ends_in_the_stationary_gamma_law() -> None:
    sde = CIR(1.5, 0.8, 0.7, T=40.0)
    prior = sde.prior(moments_of_rows(draws_of(2.0, 0.4)))
    x = prior.sample(50, torch.Generator().manual_seed(0))
    of = stats.gamma(2 * 1.5 * 0.8 / 0.49, scale=0.49 / 3.0)
    want = torch.from_numpy(of.logpdf(x.numpy()).sum(1))
    torch.testing.assert_close(prior.log_prob(x), want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(prior.score(x), (2 * 1.5 * 0.8 / 0.49 - 1) / x - 3.0 / 0.49, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("sde", "most"), [(CIR(), 1e-8), (SquaredBessel(), 1e-7), (GeometricBrownianMotion(), 1e-3)])
def test_little_is_lost_by_starting_from_the_prior(sde: Any, most: float) -> None:
    """The divergence of the law at T to the prior, for data of two modes, by quadrature."""
    nodes, masses = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(15))
    data, masses = torch.cat([0.6 * (0.2 * nodes).exp(), 2.0 * (0.2 * nodes).exp()]), torch.cat([masses, masses])
    masses = masses / masses.sum()
    mean = (masses @ data)[None]
    prior = sde.prior(Moments(mean, (masses @ (data - mean).square())[None]))
    z, weights = normal_nodes(reach=7.0, count=141)
    x = (
        prior.law.sample(z)
        if isinstance(prior, Repeated)
        else (prior.log.means[0] + prior.log.covariances[0].sqrt() * z).exp()
    )
    every = sde.kernel(data.repeat(len(x))[:, None], 0.0, sde.T).log_prob(x.repeat_interleave(len(data), 0))
    log_ratio = (every.reshape(len(x), -1) + masses.log()).logsumexp(1) - prior.log_prob(x)
    assert weights @ log_ratio.exp() == pytest.approx(1.0, abs=1e-6)
    assert -1e-9 < weights @ (log_ratio.exp() * log_ratio) < most


# --- refusals


def test_paths_that_reach_zero_are_warned_of() -> None:
    for make, said in (
        (lambda: CIR(1.0, 0.4, 1.0), "2 kappa theta = 0.8 is below"),
        (lambda: SquaredBessel(1.5), "delta = 1.5 is below 2"),
    ):
        with pytest.warns(UserWarning, match=said):
            make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CIR(1.0, 0.5, 1.0), SquaredBessel(2.0)


bad = Refusals()
ONE, GOOD = torch.ones(2, 1), GeometricBrownianMotion()
for maker, names in (
    (GeometricBrownianMotion, ("sigma", "T")),
    (CIR, ("kappa", "theta", "sigma", "T")),
    (SquaredBessel, ("delta", "T")),
):
    for name in names:
        for value in (0.0, -1.0):
            bad(
                f"{maker.__name__}, {name} = {value}",
                ValueError,
                lambda w, m=maker, k={name: value}: m(**k),
                f"{name} = {value}",
                "positive",
            )
        bad(
            f"{maker.__name__}, {name} = nan",
            ValueError,
            lambda w, m=maker, k={name: math.nan}: m(**k),
            f"{name} = nan",
        )
        bad(f"{maker.__name__}, {name} = '1'", TypeError, lambda w, m=maker, k={name: "1"}: m(**k), f"{name} = '1'")
bad("states below numbers", ValueError, lambda w: CIR(1.0, 1e-3, 1.0), "0.004 degrees of freedom")
bad("a dimension of next to nothing", ValueError, lambda w: SquaredBessel(1e-3), "0.001 degrees of freedom")
bad("growth beyond numbers", ValueError, lambda w: GeometricBrownianMotion(100.0, 1.0), "give an earlier T")
bad("decay below numbers", ValueError, lambda w: GeometricBrownianMotion(-100.0, 1.0), "give an earlier T")
bad("noise beyond numbers", ValueError, lambda w: GeometricBrownianMotion(800.0, 40.0, T=9.0), "give an earlier T")
bad("a mean growth of NaN", ValueError, lambda w: GeometricBrownianMotion(mu=math.nan), "mu = nan")
for sde in PROCESSES:
    who = type(sde).__name__
    bad(
        f"{who}, negative data",
        ValueError,
        lambda w, s=sde: s.kernel(-ONE, 0.0, 1.0),
        "x_s has 2 values outside",
        "-1 is among them",
    )
    bad(
        f"{who}, data that are NaN",
        ValueError,
        lambda w, s=sde: s.kernel(math.nan * ONE, 0.0, 1.0),
        "x_s has 2 values outside",
    )
    bad(f"{who}, perturbed negative data", ValueError, lambda w, s=sde: s.perturb(-ONE, 1.0), "outside of the domain")
    bad(f"{who}, backwards", ValueError, lambda w, s=sde: s.kernel(ONE, 2.0, 1.0), "s must not lie after t", "-1")
    bad(f"{who}, past the end", ValueError, lambda w, s=sde: s.kernel(ONE, 0.0, 100.0), "outside")
    bad(
        f"{who}, more times than rows",
        ValueError,
        lambda w, s=sde: s.kernel(ONE, 0.0, torch.ones(3)),
        "one coefficient per row",
    )
    for name in ("score", "log_prob"):
        call = lambda w, s=sde, name=name: getattr(s.kernel(ONE, 1.0, 1.0), name)(ONE)
        bad(f"{who}, {name} without noise", ValueError, call, "without noise", "sde.t_min")
    for mean in (-0.5, 0.0, math.nan):
        bad(
            f"{who}, a prior for a mean of {mean}",
            ValueError,
            lambda w, s=sde, m=mean: s.prior(Moments(torch.tensor([1.0, m]), torch.ones(2))),
            f"mean of the data = {mean}",
            f"since data of {who} are positive",
        )
bad(
    "geometric Brownian motion from 0",
    ValueError,
    lambda w: GOOD.kernel(0 * ONE, 0.0, 1.0),
    "outside",
    "0 is among them",
)
bad("no draws", ValueError, lambda w: CIR().prior(Moments(torch.ones(1), torch.ones(1))).sample(0), "n = 0")


@pytest.mark.parametrize(("call", "error", "says"), bad.rows)
def test_bad_input_gets_a_sentence(
    call: Callable[[Any], object], error: type[Exception], says: tuple[str, ...]
) -> None:
    check_refusal(None, call, error, says)


def test_paths_of_the_square_root_processes_may_start_at_zero() -> None:
    """The law is then the gamma law."""
    for sde in PROCESSES[1:]:
        kernel = sde.kernel(torch.zeros(len(Z), 1, dtype=torch.float64), 0.0, 0.5)
        x = kernel.sample(Z[:, None])
        of = stats.gamma(0.5 * sde.df, scale=2 * kernel.scale.item())
        torch.testing.assert_close(
            kernel.log_prob(x), torch.from_numpy(of.logpdf(x[:, 0].numpy())), rtol=1e-10, atol=1e-10
        )
