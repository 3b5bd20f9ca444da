"""What is measured, and the exact posterior: against quadrature, importance sampling and matrices written down."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.guidance.measurements import (
    Blur,
    Downsample,
    Grey,
    Linear,
    Mask,
    Measurement,
    mixture_posterior,
    random_projection,
)

RING = sdegen.data.gaussian_ring()
IMAGES = (3, 8, 8)
CASES: dict[str, tuple[Measurement, tuple[int, ...]]] = {
    "matrix": (Linear(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)), 0.1), (5,)),
    "projection": (random_projection(2, 6, 0.3, seed=1), (6,)),
    "mask": (Mask(torch.rand(IMAGES, generator=torch.Generator().manual_seed(0)) < 0.4, 0.1), IMAGES),
    "down": (Downsample(2, 0.1), IMAGES),
    "blur": (Blur(1.2, 0.1), IMAGES),
    "grey": (Grey(0.1), IMAGES),
}


@pytest.mark.parametrize(("m", "d"), [(2000, 3), (40, 400)])
def test_projections_keep_the_size_of_a_number(m: int, d: int) -> None:
    """Of data of variance one each measured number has variance one: entries have the variance ``1 / d``."""
    A = random_projection(m, d, 0.1, seed=3).A
    assert abs(d * A.square().mean().item() - 1) < 5 * (2 / A.numel()) ** 0.5
    assert abs(A.mean().item()) < 5 * (d * A.numel()) ** -0.5


@pytest.mark.parametrize("name", CASES)
def test_transpose_and_matrix_are_those_of_the_map(name: str) -> None:
    A, shape = CASES[name]
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, *shape, dtype=torch.float64, generator=generator)
    y = A(x)
    matrix = A.matrix(torch.Size(shape))
    torch.testing.assert_close(y.flatten(1), x.flatten(1) @ matrix.T)
    u = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(A.transpose(u, torch.Size(shape)).flatten(1), u.flatten(1) @ matrix)
    torch.testing.assert_close(A(2 * x[:1] - x[1:2]), 2 * y[:1] - y[1:2])  # linear


def test_the_noise_is_that_of_the_density() -> None:
    A, x = CASES["down"][0], torch.zeros(500, *IMAGES, dtype=torch.float64)
    y = A.sample(x, torch.Generator().manual_seed(0))
    assert abs(y.std() / A.std - 1) < 0.03 and y.shape == (500, 3, 4, 4)
    expected = torch.distributions.Normal(A(x), A.std).log_prob(y).flatten(1).sum(1)
    torch.testing.assert_close(A.log_prob(y, x), expected)


def test_a_blur_spreads_a_point_by_its_width() -> None:
    x = torch.zeros(1, 1, 21, 21, dtype=torch.float64)
    x[0, 0, 10, 10] = 1.0
    seen = Blur(1.5, 0.1)(x)[0, 0]
    place = torch.arange(21, dtype=torch.float64) - 10
    assert abs(seen.sum() - 1) < 1e-9
    assert abs((seen.sum(0) * place.square()).sum().sqrt() / 1.5 - 1) < 0.02  # cut at three widths


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_means_and_blurs_are_those_of_torch_along_every_side(dims: int) -> None:
    x = torch.randn(2, 1, *(4, 6, 8)[:dims], dtype=torch.float64)
    functional = torch.nn.functional
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[dims - 1]
    torch.testing.assert_close(Downsample(2, 0.1)(x), pool(x, 2))
    blur = Blur(0.8, 0.1)
    cube = blur.bell
    for _ in range(dims - 1):
        cube = cube[..., None] * blur.bell
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
    torch.testing.assert_close(blur(x), convolve(x, cube[None, None], padding="same"))
    for measurement in (Downsample(2, 0.1), blur):
        with pytest.raises(ValueError, match=r"x has shape \(2, 4\); expected \(B, C, \*grid\)"):
            measurement(x.flatten(1)[:, :4])


# --- the posterior ----------------------------------------------------------------------------------------------------


def unnormalised(law: sdegen.GaussianMixture, A: Measurement, y: Tensor, x: Tensor) -> Tensor:
    return law.log_prob(x) + A.log_prob(y.expand(len(x), -1), x)


@pytest.mark.parametrize("std", [0.2, 1.0, 5.0])
@pytest.mark.slow
def test_the_posterior_in_the_plane_is_that_of_quadrature(std: float) -> None:
    A, y = Linear(torch.tensor([[1.0, 0.5]], dtype=torch.float64), std), torch.tensor([2.0], dtype=torch.float64)
    side = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    log_joint = unnormalised(RING, A, y, grid)
    evidence = log_joint.logsumexp(0) + 2 * (side[1] - side[0]).log()
    found = mixture_posterior(RING, A, y).log_prob(grid)
    seen = log_joint - evidence > -30
    assert (found - (log_joint - evidence))[seen].abs().max() < 1e-6


@pytest.mark.parametrize("dim", [8, 32])
def test_the_posterior_in_many_dimensions_is_that_of_importance_sampling(dim: int) -> None:
    law = sdegen.data.random_mixture(dim, modes=4)
    A = random_projection(2, dim, 2.0)
    truth = law.sample(1, torch.Generator().manual_seed(3))
    y = A.sample(truth, torch.Generator().manual_seed(4))[0]
    x = law.sample(200_000, torch.Generator().manual_seed(0))
    weights = A.log_prob(y.expand(len(x), -1), x).softmax(0)
    exact = mixture_posterior(law, A, y)
    mean = weights @ x
    error = (weights.square() @ (x - mean).square()).sqrt()
    assert ((mean - exact.moments().mean).abs() < 5 * error).all()
    second = weights @ (x - mean).square()
    spread = (weights.square() @ ((x - mean).square() - second).square()).sqrt()
    assert ((second - exact.moments().covariance.diagonal()).abs() < 5 * spread).all()


def test_a_measurement_that_says_nothing_leaves_the_law() -> None:
    A = Linear(torch.ones(1, 2, dtype=torch.float64), 1e6)
    x = RING.sample(50, torch.Generator().manual_seed(0))
    assert (mixture_posterior(RING, A, torch.tensor([3.0])).log_prob(x) - RING.log_prob(x)).abs().max() < 1e-6


def test_far_measurements_leave_the_modes_that_can_have_made_them() -> None:
    A = Linear(torch.eye(2, dtype=torch.float64), 0.01)
    left = mixture_posterior(RING, A, RING.means[3] + 0.05)
    assert abs(left.weights.max() - 1) < 1e-7
    torch.testing.assert_close(left.moments().mean, RING.means[3] + 0.05, atol=1e-3, rtol=0)


def test_images_have_posteriors_too() -> None:
    """Seen without noise to speak of, the seen pixels are known and the rest is not."""
    generator = torch.Generator().manual_seed(0)
    law = sdegen.GaussianMixture(
        torch.full((3,), 1 / 3), torch.randn(3, 1, 4, 4, generator=generator).double(), torch.full((3,), 0.1)
    )
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :2] = True
    y = law.sample(1, generator)[:, mask][0]
    left = mixture_posterior(law, Mask(mask, 1e-4), y)
    assert left.event_shape == (1, 4, 4)
    moments = left.moments()
    torch.testing.assert_close(moments.mean[mask], y, atol=1e-6, rtol=0)
    variance = moments.covariance.diagonal().reshape(1, 4, 4)
    assert variance[mask].max() < 1e-7 and variance[~mask].min() > 0.09


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: Mask(torch.ones(2), 0.1), TypeError, "mask has dtype"),
        (lambda: Mask(torch.zeros(2, dtype=torch.bool), 0.1), ValueError, "shows nothing"),
        (lambda: Linear(torch.ones(2), 0.1), ValueError, "finite matrix"),
        (lambda: Linear(torch.ones(1, 2), 0.0), ValueError, "std = 0.0; a measurement has some noise"),
        (lambda: Linear(torch.ones(1, 2), math.nan), ValueError, "std = nan"),
        (lambda: Linear(torch.ones(1, 2), 1.0)(torch.ones(3, 5)), ValueError, "5 coordinates, A takes 2"),
        (lambda: Downsample(1, 0.1), ValueError, "factor = 1"),
        (lambda: Downsample(3, 0.1)(torch.ones(1, 1, 8, 8)), ValueError, "divisible by 3"),
        (lambda: Blur(0.0, 0.1), ValueError, "width = 0"),
        (lambda: Grey(0.1)(torch.ones(2, 3)), ValueError, "expected images"),
        (lambda: mixture_posterior(RING, Linear(torch.ones(1, 2), 1.0), torch.ones(4)), ValueError, "y has 4 numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(make, error, says) -> None:
    with pytest.raises(error, match=says):
        make()
