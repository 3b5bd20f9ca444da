"""Mixtures and finite data sets against independent routes: quadrature, autograd, brute force."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import Empirical, GaussianMixture, Scale
from sdegen.laws.kernels import Kernel

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [-1.5, 0.5]], dtype=torch.float64)
FULL = torch.tensor(
    [[[0.5, 0.2], [0.2, 0.3]], [[0.2, 0.0], [0.0, 0.9]], [[0.4, -0.1], [-0.1, 0.2]]], dtype=torch.float64
)
MIXTURES = {
    "isotropic": GaussianMixture(WEIGHTS, MEANS, torch.tensor([0.2, 0.5, 0.1], dtype=torch.float64)),
    "diagonal": GaussianMixture(WEIGHTS, MEANS, FULL.diagonal(dim1=1, dim2=2)),
    "full": GaussianMixture(WEIGHTS, MEANS, FULL),
}
each = pytest.mark.parametrize("law", MIXTURES.values(), ids=MIXTURES.keys())


def plane(extent: float = 9.0, points: int = 361) -> tuple[Tensor, float]:
    side = torch.linspace(-extent, extent, points, dtype=torch.float64)
    return torch.cartesian_prod(side, side), (side[1] - side[0]).item() ** 2


@each
def test_density_integrates_to_one_with_the_stated_moments(law: GaussianMixture) -> None:
    x, area = plane()
    p = law.log_prob(x).exp() * area
    mean, covariance = law.moments()
    assert abs(p.sum().item() - 1) < 1e-10
    torch.testing.assert_close(p @ x, mean, rtol=0, atol=1e-9)
    torch.testing.assert_close((x - mean).T @ ((x - mean) * p[:, None]), covariance, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 2), (1, 2, 3)])
@pytest.mark.parametrize("rows", [1, 4])
def test_kernels_have_the_density_of_independent_numbers(rows: int, shape: tuple[int, ...]) -> None:
    seed = torch.Generator().manual_seed(0)
    mean, x = torch.randn(2, rows, *shape, dtype=torch.float64, generator=seed)
    std = torch.rand(rows, dtype=torch.float64, generator=seed) + 0.1
    found = Kernel(mean, Scale(std)).log_prob(x)
    want = torch.distributions.Normal(mean, std.reshape(-1, *[1] * len(shape))).log_prob(x).reshape(rows, -1).sum(1)
    torch.testing.assert_close(found, want)


def test_draws_in_units_do_not_depend_on_the_form_of_the_covariances() -> None:
    diagonals, units = FULL.diagonal(dim1=1, dim2=2), sdegen.laws.Units(torch.zeros(2), torch.tensor([0.1, 5.0]))
    laws = [GaussianMixture(WEIGHTS, MEANS, c).in_units(units) for c in (diagonals, diagonals.diag_embed())]
    first, second = (law.sample(50, torch.Generator().manual_seed(0)) for law in laws)
    torch.testing.assert_close(first, second)


@each
def test_log_prob_equals_torch_distributions(
    law: GaussianMixture, device: torch.device, dtype: torch.dtype, eps: float
) -> None:
    components = torch.distributions.MultivariateNormal(law.means, law._full())
    want = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(law.weights), components)
    x = 3 * torch.randn(50, 2, dtype=torch.float64)
    got = law.log_prob(x.to(device, dtype)).cpu().double()
    torch.testing.assert_close(got, want.log_prob(x), rtol=eps, atol=10 * eps)


@each
def test_score_is_the_gradient(law: GaussianMixture, device: torch.device, dtype: torch.dtype, eps: float) -> None:
    x = torch.randn(20, 2, dtype=torch.float64).to(device, dtype).requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(law.score(x), slope, rtol=10 * eps, atol=10 * eps)


@each
def test_samples_have_the_moments(law: GaussianMixture, generator: torch.Generator) -> None:
    x = law.sample(40_000, generator)
    mean, covariance = law.moments()
    assert ((x.mean(0) - mean).abs() < 5 * covariance.diagonal().sqrt() / 200).all()
    centred = x - mean
    products = centred[:, :, None] * centred[:, None]
    assert ((products.mean(0) - covariance).abs() < 5 * products.std(0) / 200).all()


@pytest.mark.turns("0.05-isotropic")
@each
@pytest.mark.parametrize("angle", [0.05, 0.7, 1.5, math.pi / 2])
def test_observation_against_bayes_by_quadrature(law: GaussianMixture, angle: float) -> None:
    c, s = torch.tensor(math.cos(angle)).double(), torch.tensor(math.sin(angle)).double()
    y = torch.tensor([[0.3, -0.7], [1.2, 0.4]], dtype=torch.float64)
    x = (plane(points=1001) if angle < 0.1 else plane())[0]
    mean, score = law.observed(y, c, s)
    prior = law.log_prob(x)
    for i in range(2):
        joint = prior - 0.5 * ((y[i] - c * x) / s).square().sum(1)
        weights = joint.softmax(0)
        torch.testing.assert_close(mean[i], weights @ x, rtol=0, atol=1e-8)
        torch.testing.assert_close(score[i], -(y[i] - c * (weights @ x)) / s**2, rtol=0, atol=1e-8 / s.item() ** 2)


@each
@pytest.mark.parametrize(
    "sde", [sdegen.VP(), sdegen.EDM(), sdegen.CLD(), sdegen.Cosine()], ids=lambda s: type(s).__name__
)
def test_exact_model_is_the_score_of_the_diffused_law(law: GaussianMixture, sde: sdegen.LinearSDE) -> None:
    model = sdegen.Exact(sde, law)
    for t in (0.0, 1e-3, 0.3, 1.0):
        at = sde.marginal(t * sde.T)
        diffused = sde.diffused(law, t * sde.T)
        u = diffused.sample(30, torch.Generator().manual_seed(1))
        score = diffused.score(u)
        torch.testing.assert_close(
            model.score(u, t * sde.T), score, rtol=1e-7, atol=1e-7 * (1 + score.abs().max().item())
        )
        x_0, eps = model.estimate(u, t * sde.T)
        torch.testing.assert_close(at.Phi(x_0) + at.R(eps), u, rtol=0, atol=1e-8 * (1 + u.abs().max().item()))


def test_empirical_law_is_the_limit_of_narrow_modes() -> None:
    points = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    narrow = GaussianMixture(torch.full((40,), 1 / 40), points, torch.full((40,), 1e-12))
    empirical = Empirical(points, block=64)  # several blocks
    y = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for angle in (0.01, 0.5, 1.5, math.pi / 2):
        c, s = torch.tensor(math.cos(angle)).double(), torch.tensor(math.sin(angle)).double()
        for got, want in zip(empirical.observed(y, c, s), narrow.observed(y, c, s), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)
    wide = Empirical(points.repeat(1, 8))  # more than 16 dimensions: the matrix product's route
    many = GaussianMixture(torch.full((40,), 1 / 40), points.repeat(1, 8), torch.full((40,), 1e-12))
    c, s = torch.tensor(0.8).double(), torch.tensor(0.6).double()
    torch.testing.assert_close(
        wide.observed(y.repeat(1, 8), c, s)[0], many.observed(y.repeat(1, 8), c, s)[0], rtol=1e-7, atol=1e-7
    )


def test_events_of_any_shape_agree_with_flat_ones() -> None:
    means = torch.randn(2, 1, 2, 3, dtype=torch.float64)
    variances = torch.rand(2, 1, 2, 3, dtype=torch.float64) + 0.1
    weights = torch.tensor([0.4, 0.6])
    image, flat = (
        GaussianMixture(weights, means, variances),
        GaussianMixture(weights, means.reshape(2, 6), variances.reshape(2, 6)),
    )
    x = torch.randn(5, 1, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(image.log_prob(x), flat.log_prob(x.reshape(5, 6)))
    torch.testing.assert_close(image.score(x).reshape(5, 6), flat.score(x.reshape(5, 6)))
    scalar = GaussianMixture(weights, torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    assert scalar.sample(4).shape == (4,) and scalar.log_prob(torch.zeros(3)).shape == (3,)


@pytest.mark.slow
def test_the_score_that_has_learned_mnist_by_heart_needs_bounded_memory() -> None:
    """Of 60,000 points in 784 dimensions the distances to 3,000 states would take 720 MB, and as much for their weights."""
    script = """
import resource, torch, sdegen
generator = torch.Generator().manual_seed(0)
data = torch.rand(60_000, 784, generator=generator)
model = sdegen.Exact(sdegen.VP(), sdegen.Empirical(data))
near = data[:3000] + 0.01 * torch.randn(3000, 784, generator=generator)
t = model.sde.time(1e4)
model.denoise(near[:2], t)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
found = model.denoise(near / (1 + 1e-4) ** 0.5, t)
print((found - data[:3000]).abs().max().item())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1e-4


@pytest.mark.turns("<lambda>1")
@pytest.mark.parametrize("change", [lambda x: x.mul_(3.0), lambda x: x[0].fill_(9.0), lambda x: x.numpy().fill(0.0)])
def test_a_law_of_points_is_that_of_the_points_it_was_made_of(change: Any) -> None:
    x = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want, law = sdegen.Exact(sdegen.VP(), sdegen.Empirical(x.clone())), sdegen.Exact(sdegen.VP(), sdegen.Empirical(x))
    change(x)
    y = torch.ones(3, 2, dtype=torch.float64)
    assert torch.equal(law.score(y, 0.3), want.score(y, 0.3))
    assert torch.equal(sdegen.sample(law, 3, steps=4, seed=0), sdegen.sample(want, 3, steps=4, seed=0))
