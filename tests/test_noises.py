"""Noise of measurements, and maps that are not linear: against scipy, against limits, and against quadrature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

import sdegen
from sdegen import guidance, samplers
from sdegen.guidance import DPS, MomentMatching, PiGDM, annealed_smc, twisted_smc
from sdegen.guidance.measurements import (
    BernoulliNoise,
    GaussianNoise,
    LaplaceNoise,
    Linear,
    Mask,
    Measurement,
    NoiseLaw,
    Nonlinear,
    PoissonNoise,
    QuantisedNoise,
    StudentNoise,
)

Z = torch.linspace(0.2, 4.0, 12, dtype=torch.float64).reshape(4, 3)
levels = lambda y: 0.25 + 0.5 * ((y - 0.25) / 0.5).round()
NOISES: dict[str, tuple[NoiseLaw, Any, Any]] = {  # the law, scipy's, and what can be seen
    "gaussian": (GaussianNoise(0.7), lambda y, z: stats.norm.logpdf(y, z, 0.7), lambda y: y),
    "poisson": (PoissonNoise(), lambda y, z: stats.poisson.logpmf(y, z), lambda y: y.abs().round()),
    "laplace": (LaplaceNoise(0.7), lambda y, z: stats.laplace.logpdf(y, z, 0.7), lambda y: y),
    "student": (StudentNoise(1.5, 0.7), lambda y, z: stats.t.logpdf(y, 1.5, z, 0.7), lambda y: y),
    "bernoulli": (BernoulliNoise(), lambda y, z: stats.bernoulli.logpmf(y, 1 / (1 + (-z).exp())), lambda y: (y > 2.0).double()),
    "quantised": (
        QuantisedNoise(0.5, 0.7, 0.25),
        lambda y, z: torch.as_tensor(stats.norm.cdf((y + 0.25 - z) / 0.7) - stats.norm.cdf((y - 0.25 - z) / 0.7)).log(),
        levels,
    ),
}  # fmt: skip
by_noise = pytest.mark.parametrize("name", NOISES)


@by_noise
def test_log_probabilities_are_those_of_scipy(name: str) -> None:
    noise, truth, seen = NOISES[name]
    y = seen(Z + torch.randn(Z.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    expected = torch.as_tensor(truth(y, Z)).double().sum(1)
    torch.testing.assert_close(noise.log_prob(y, Z), expected, rtol=1e-9, atol=1e-9)
    found = noise.log_prob(y.float(), Z.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@by_noise
def test_slopes_of_draws_have_mean_zero_and_the_information_for_variance(name: str) -> None:
    """Bartlett's identities tie draws, log-likelihood and information together."""
    noise = NOISES[name][0]
    z = torch.tensor([0.3, 1.1, 2.9], dtype=torch.float64).expand(20_000, 3)
    y = noise.sample(z, torch.Generator().manual_seed(0))
    assert torch.equal(y, noise.sample(z, torch.Generator().manual_seed(0)))
    _, residual, std = noise.local_gaussian(y, z)
    slope, information = residual / std**2, torch.as_tensor(std).double() ** -2 * torch.ones_like(z)
    assert (slope.mean(0).abs() < 4 * slope.std(0) / 20_000**0.5).all()
    excess = slope.square() - information
    assert (excess.mean(0).abs() < 4 * excess.std(0) / 20_000**0.5 + 1e-12).all()


@by_noise
def test_the_local_gaussian_touches_the_likelihood(name: str) -> None:
    noise, _, seen = NOISES[name]
    y, z = seen(Z + 0.4), Z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(noise.log_prob(y, z).sum(), z)
    height, residual, std = noise.local_gaussian(y, Z)
    torch.testing.assert_close(residual / std**2, slope)
    if name != "gaussian":  # its constant is left out
        value = torch.as_tensor(height) - 0.5 * (residual / std).square().sum(1)
        torch.testing.assert_close(value, noise.log_prob(y, Z))


def test_far_from_what_was_seen_logarithms_and_slopes_keep_their_digits() -> None:
    y, z = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), 300.0, dtype=torch.float64)
    noise = QuantisedNoise(1.0, 1.0)
    far = 299.5  # to the end of the interval, whose other end adds nothing
    assert abs(noise.log_prob(y, z).item() - stats.norm.logsf(far)) < 1e-6
    _, residual, std = noise.local_gaussian(y, z)
    assert abs(residual.item() / -far - 1) < 1e-4 and abs(torch.as_tensor(std).item() - 1) < 1e-4
    _, residual, std = noise.local_gaussian(y, y)  # in the middle of its interval nothing is pulled
    assert residual.item() == 0
    for logit in (-1e3, 1e3):
        found = BernoulliNoise().local_gaussian(torch.ones(1, 1), torch.full((1, 1), logit))
        assert all(torch.as_tensor(v).isfinite().all() for v in found)


def test_limits_are_gaussian() -> None:
    y, gaussian = Z + 0.3, GaussianNoise(0.7)
    torch.testing.assert_close(StudentNoise(1e9, 0.7).log_prob(y, Z), gaussian.log_prob(y, Z), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(StudentNoise(1e9, 0.7).local_gaussian(y, Z)[1], y - Z, rtol=1e-6, atol=1e-6)
    rate, count = 1e8 + 1e4 * Z, (1e8 + 1e4 * Z + 5e3).round()
    exact = torch.distributions.Normal(rate, rate.sqrt()).log_prob(count).sum(1)
    torch.testing.assert_close(PoissonNoise().log_prob(count, rate), exact, rtol=0, atol=1e-3)
    _, residual, std = PoissonNoise().local_gaussian(count, rate)
    torch.testing.assert_close(residual, count - rate)
    torch.testing.assert_close(std, rate.sqrt())
    fine = QuantisedNoise(1e-3, 0.7)
    _, residual, std = fine.local_gaussian((y / 1e-3).round() * 1e-3, Z)
    torch.testing.assert_close(residual, y - Z, rtol=0, atol=2e-3)
    torch.testing.assert_close(std, torch.full_like(Z, 0.7), rtol=1e-4, atol=0)


class Uniformly(NoiseLaw):
    """A law of the user's, of one method: its information is asked of mean and variance."""

    def law(self, z: Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Gamma(4.0, 4.0 / z, validate_args=False)


def test_a_law_of_ones_own_has_one_method() -> None:
    noise = Uniformly()
    torch.testing.assert_close(noise.information(Z, Z), 4 / Z.square())  # all there is in a family of exponentials


# --- maps ---------------------------------------------------------------------------------------------------------------

MATRIX = torch.tensor([[1.0, -0.5, 0.2], [0.0, 1.0, 1.0]], dtype=torch.float64)


def law_of_three() -> sdegen.GaussianMixture:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    return sdegen.GaussianMixture(
        torch.tensor([0.4, 0.6]),
        torch.randn(2, 3, generator=generator).double(),
        half @ half.mT / 3 + 0.1 * torch.eye(3),
    )


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD(), sdegen.VE().in_units(law_of_three().moments().units())],
                         ids=["VP", "CLD", "VE in units"])  # fmt: skip
@pytest.mark.parametrize("make", [DPS, PiGDM, MomentMatching], ids=lambda c: c.__name__)
def test_a_linear_function_with_gaussian_noise_is_the_linear_measurement(make: Any, sde: Any) -> None:
    law, y = law_of_three(), torch.tensor([0.7, -1.0], dtype=torch.float64)
    linear, general = Linear(MATRIX, 0.3), Nonlinear(lambda x: x @ MATRIX.T, 0.3)
    t = 0.4 * sde.T
    x = sde.diffused(law, torch.tensor(t)).sample(20, torch.Generator().manual_seed(0))
    model = sdegen.Exact(sde, law)
    for found, expected in zip(
        *(make(model, A).tilt_with_log_density(x, t, y=y) for A in (general, linear)), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_products_are_those_of_the_derivative() -> None:
    A = Nonlinear(lambda x: torch.fft.fft(x).abs(), 0.1)  # by way of complex numbers
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    J = torch.stack([torch.func.jacrev(lambda v: A(v[None])[0])(row) for row in x])
    v, u = x.flip(0), x.sin()
    torch.testing.assert_close(A.product_at(x)(v), (J @ v[..., None])[..., 0])
    torch.testing.assert_close(A.transpose_at(x)(u), (J.mT @ u[..., None])[..., 0])


class Squared(Measurement):
    """A measurement of the user's, of one method."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.square()


ONE = sdegen.GaussianMixture(
    torch.tensor([0.6, 0.4]), torch.tensor([[-1.0], [1.2]], dtype=torch.float64), torch.tensor([0.3, 0.2])
)
LINE = torch.linspace(-5, 5, 1001, dtype=torch.float64)[:, None]
SEEN: dict[str, tuple[Measurement, float]] = {
    "square": (Squared(0.4), 1.3),
    "poisson": (Nonlinear(lambda x: 5 * x.exp(), PoissonNoise()), 12.0),
    "laplace": (Nonlinear(torch.tanh, LaplaceNoise(0.3)), 0.5),
    "student": (Nonlinear(lambda x: x, StudentNoise(2.0, 0.3)), 4.0),
    "bernoulli": (Nonlinear(lambda x: 3 * x, BernoulliNoise()), 1.0),
    "quantised": (Nonlinear(lambda x: x, QuantisedNoise(1.0, 0.1)), 1.0),
}


def posterior(A: Measurement, y: float) -> Tensor:
    """The weights of the line's points."""
    return (ONE.log_prob(LINE) + A.log_prob(torch.full_like(LINE, y), LINE)).softmax(0)


@pytest.mark.parametrize("make", [DPS, PiGDM, MomentMatching], ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", SEEN)
def test_near_the_data_the_pull_is_that_of_the_true_posterior(name: str, make: Any) -> None:
    (A, y), sde = SEEN[name], sdegen.VP()
    exact, errors = sdegen.Exact(sde, ONE), []
    for t in (0.01, 0.0025):
        at = sde.marginal(t)
        chosen = torch.multinomial(posterior(A, y), 100, replacement=True, generator=torch.Generator().manual_seed(1))
        noise = torch.randn(100, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        x = at.Phi(LINE[chosen]) + at.R(noise)
        alpha, sigma = at.Phi(torch.ones(1, 1).double()).item(), at.R(torch.ones(1, 1).double()).item()
        near = torch.distributions.Normal(alpha * LINE[:, 0], sigma).log_prob(x)  # states, data
        w = (near + posterior(A, y).log()).softmax(1)
        truth = (alpha * w @ LINE - x) / sigma**2
        push = truth - exact.score(x, t)
        errors.append(((make(exact, A).score(x, t, y=[y]) - truth).norm() / push.norm()).item())
    assert errors[1] < 0.7 * errors[0] and errors[1] < 0.25  # like the root of the noise, where there is a kink


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("make", [PiGDM, MomentMatching, DPS], ids=lambda c: c.__name__)
@pytest.mark.slow
def test_samples_are_finite_and_nearer_to_the_posterior_than_the_data_are(name: str, make: Any) -> None:
    A, y = SEEN[name]
    x = sdegen.sample(make(sdegen.Exact(sdegen.VP(), ONE), A), 400, sampler=samplers.ExponentialSDE(60), seed=0, y=[y])
    truth, prior = (posterior(A, y) @ LINE).item(), ONE.moments().mean.item()
    spread = (posterior(A, y) @ (LINE - truth).square()).sqrt().item()
    assert x.isfinite().all()
    if abs(truth - prior) > 0.5 * spread:
        assert abs(x.mean() - truth) < abs(prior - truth)


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.slow
def test_weights_of_particles_are_right_in_the_limit(name: str) -> None:
    A, y = SEEN[name]
    proposal = PiGDM(sdegen.Exact(sdegen.VP(), ONE), A)
    truth = posterior(A, y)
    mean = (truth @ LINE).item()
    variance = (truth @ (LINE - mean).square()).item()
    runs = [twisted_smc(proposal, 500, steps=60, seed=k, y=[y]) for k in range(4)]
    found = torch.stack([run.mean()[0] for run in runs])
    assert abs(found.mean() - mean) < 0.1 * variance**0.5
    spread = torch.stack([run.mean((run.x - mean).square())[0] for run in runs]).mean()
    assert abs(spread / variance - 1) < 0.2


def check_against_quadrature(name: str, particles: int, runs: int, within: float) -> None:
    A, y = SEEN[name]
    truth, model = posterior(A, y), sdegen.Exact(sdegen.VP(), ONE)
    mean = (truth @ LINE).item()
    spread = (truth @ (LINE - mean).square()).sqrt().item()
    found = [annealed_smc(model, A, particles, y=[y], moves=2, seed=k, progress=False) for k in range(runs)]
    x, weights = torch.cat([run.x for run in found]), torch.cat([run.weights for run in found]) / runs
    assert abs(weights @ x[:, 0] - mean) < within * spread
    assert abs((weights @ (x[:, 0] - mean).square()).sqrt() / spread - 1) < within
    shares = weights @ (x < LINE[::100, 0]).double()
    assert (shares - truth.cumsum(0)[::100]).abs().max() < within


def test_annealed_particles_are_those_of_quadrature() -> None:
    check_against_quadrature("square", 1000, 1, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEN)
def test_many_annealed_particles_are_nearer(name: str) -> None:
    check_against_quadrature(name, 4000, 3, 0.03)


# --- what means nothing -------------------------------------------------------------------------------------------------


def pulled(operator: Any, noise: Any, y: Any) -> Any:
    law = sdegen.data.gaussian_ring()
    x = law.sample(5, torch.Generator().manual_seed(0))
    return PiGDM(sdegen.Exact(sdegen.VP(), law), Nonlinear(operator, noise)).score(x, 0.3, y=y)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: PoissonNoise().log_prob(-torch.ones(1, 1), Z[:1, :1]), ValueError, "y holds -1, which PoissonNoise never"),
        (lambda: PoissonNoise().log_prob(torch.full((1, 1), 0.5), Z[:1, :1]), ValueError, "counts 0, 1, 2"),
        (lambda: PoissonNoise().log_prob(Z[:1, :1] * 0, -Z[:1, :1]), ValueError, "a rate of -0.2; let what is measured end"),
        (lambda: PoissonNoise().sample(torch.full((1, 1), math.nan)), ValueError, "a rate of nan"),
        (lambda: BernoulliNoise().log_prob(torch.full((1, 1), 0.5), Z[:1, :1]), ValueError, "it gives 0 or 1"),
        (lambda: QuantisedNoise(0.5, 0.1).log_prob(torch.full((1, 1), 0.3), Z[:1, :1]), ValueError, r"levels 0 \+ 0.5 k"),
        (lambda: LaplaceNoise(0.1).log_prob(torch.full((1, 1), math.inf), Z[:1, :1]), ValueError, "y holds inf"),
        (lambda: LaplaceNoise(0.0), ValueError, "scale = 0"),
        (lambda: StudentNoise(-1.0, 1.0), ValueError, "df = -1"),
        (lambda: QuantisedNoise(0.0, 1.0), ValueError, "step = 0"),
        (lambda: Nonlinear(torch.tanh, 0.0), ValueError, "std = 0.0; a measurement has some noise"),
        (lambda: Nonlinear(torch.tanh, "poisson"), TypeError, "noise is a str; give a law of noise"),
        (lambda: Nonlinear(3.0, 0.1), TypeError, "operator is a float; give a function"),
        (lambda: pulled(torch.log, 0.1, torch.ones(2)), ValueError, "Nonlinear returned NaN or infinite values"),
        (lambda: pulled(lambda x: x[:2], 0.1, torch.ones(2)), ValueError, "one measurement for each datum"),
        (lambda: pulled(torch.round, 0.1, torch.ones(2)), ValueError, "derivative of Nonlinear is zero at all data"),
        (lambda: pulled(lambda x: x.detach().sin(), 0.1, torch.ones(2)), ValueError, "detaches or leaves torch"),
        (lambda: pulled(lambda x: torch.tensor(x.numpy()), 0.1, torch.ones(2)), ValueError, "cannot be differentiated"),
        (lambda: pulled(lambda x: torch.tensor(x.detach().numpy()), 0.1, torch.ones(2)), ValueError, "cannot be differentiated"),
        (lambda: pulled(torch.tanh, 0.1, torch.ones(3)), ValueError, r"y has shape \(3,\)"),
        (lambda: pulled(lambda x: x, PoissonNoise(), torch.ones(2)), ValueError, "has a rate of"),
        (lambda: pulled(torch.exp, PoissonNoise(), torch.full((2,), -1.0)), ValueError, "y holds -1"),
        (
            lambda: guidance.Replacement(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), Nonlinear(torch.tanh, 0.1)),
            TypeError, "measurement is a Nonlinear; give a linear measurement",
        ),
        (
            lambda: sdegen.measurements.mixture_posterior(ONE, Squared(0.1), torch.ones(1)),
            TypeError, "measurement is a Squared; give a linear measurement",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_or_measured_is_refused(make: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        make()


def test_what_is_clipped_everywhere_pulls_nowhere() -> None:
    """Saturated data tell nothing more: that is no mistake."""
    law = sdegen.data.gaussian_ring()
    x = 100 + law.sample(5, torch.Generator().manual_seed(0))
    model = sdegen.Exact(sdegen.VP(), law)
    A = Nonlinear(lambda x: x.clamp(-1e-9, 1e-9) * 0 + 1, 0.1)
    torch.testing.assert_close(DPS(model, A).score(x, 0.3, y=torch.ones(2)), model.score(x, 0.3))


def test_a_mask_with_counts_takes_images(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.UNet(1, (8,)), sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(1, 4, 4), torch.ones(16))
    A = Nonlinear(lambda x: 20 * torch.nn.functional.softplus(Mask(torch.ones(1, 4, 4).bool(), 1.0)(x)), PoissonNoise())
    y = A.sample(torch.zeros(1, 1, 4, 4), torch.Generator().manual_seed(0))[0]
    for make in (DPS, PiGDM, MomentMatching):
        x = sdegen.sample(make(model.to(dtype), A), 3, steps=4, seed=0, y=y)
        assert x.shape == (3, 1, 4, 4) and x.dtype == dtype and x.isfinite().all()
