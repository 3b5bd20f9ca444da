"""Reflected Brownian motion in a box: its law against images and cosines in many digits, and against what makes it one."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from sdegen.laws.mixtures import Moments
from sdegen.laws.reflected import ReflectedGaussian, fold_into
from sdegen.processes.dynamics import diffusion_at
from sdegen.processes.reflected import ReflectedBrownianMotion

d64 = torch.float64
LOW, HIGH = -0.5, 1.5
NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(400))
NODES = LOW + (NODES + 1) * (HIGH - LOW) / 2
WEIGHTS = WEIGHTS * (HIGH - LOW) / 2


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def box(**more: float) -> ReflectedBrownianMotion:
    return ReflectedBrownianMotion(LOW, HIGH, **more)


def by_images(x: float, mean: float, sigma: float) -> tuple[float, float]:
    """Log-density and slope in 60 digits, by the images of the start in both walls."""
    with mpmath.workdps(60):
        x, m, s, w = mpmath.mpf(x), mpmath.mpf(mean), mpmath.mpf(sigma), mpmath.mpf(HIGH - LOW)
        gaps = [x + 2 * k * w - c for k in range(-12, 13) for c in (m, 2 * mpmath.mpf(LOW) - m)]
        p = mpmath.fsum(mpmath.npdf(gap, 0, s) for gap in gaps)
        return float(mpmath.log(p)), float(-mpmath.fsum(gap * mpmath.npdf(gap, 0, s) for gap in gaps) / s**2 / p)


def by_cosines(x: float, mean: float, sigma: float) -> float:
    """Log-density in 60 digits, by the eigenfunctions of the Laplacian that have no slope at the walls."""
    with mpmath.workdps(60):
        w = mpmath.mpf(HIGH - LOW)
        terms = [
            2 * mpmath.exp(-((n * mpmath.pi * sigma / w) ** 2) / 2)
            * mpmath.cos(n * mpmath.pi * (x - LOW) / w) * mpmath.cos(n * mpmath.pi * (mean - LOW) / w)
            for n in range(1, 60)
        ]  # fmt: skip
        return float(mpmath.log((1 + mpmath.fsum(terms)) / w))


@pytest.mark.parametrize("sigma", [0.01, 0.2, 0.7, 1.1, 1.12, 2.0, 3.9])
def test_the_law_is_that_of_images_and_of_cosines(sigma: float) -> None:
    for mean in (LOW, -0.49, 0.3, 1.5):
        for x in (LOW, -0.2, 0.5, 1.499, HIGH):
            law = ReflectedGaussian(torch.tensor([mean], dtype=d64), torch.tensor(sigma, dtype=d64), LOW, HIGH)
            at = torch.tensor([x], dtype=d64)
            value, slope = by_images(x, mean, sigma)
            assert abs(law.log_prob(at).item() - value) < 4e-15 * (1 + abs(value))
            # Midway between two images the slope changes its sign within what a rounded position makes of it.
            rounding = 1e-14 * (1 + abs(slope)) + 4e-16 * ((HIGH - LOW) / sigma**2) ** 2
            assert abs(law.score(at).item() - slope) < rounding
            if sigma > 0.5:
                assert abs(law.log_prob(at).item() - by_cosines(x, mean, sigma)) < 1e-14


@pytest.mark.parametrize("t", [0.1, 0.4, 1.0])
def test_no_mass_leaks_and_no_slope_is_left_at_the_walls(t: float) -> None:
    sde = box()
    start = torch.tensor([LOW, -0.45, 0.4, 1.2], dtype=d64)
    p = torch.stack([sde.kernel(start, 0.0, t).log_prob(x.expand(4)) for x in NODES]).exp()
    assert (WEIGHTS @ p - 1).abs().max() < 1e-12
    walls = torch.tensor([[LOW], [HIGH]], dtype=d64)
    for m in start:
        assert sde.kernel(m.expand(2, 1), 0.0, t).score(walls).abs().max() < 1e-9
    # A Gaussian that is only cut off at the walls leaks.
    gaussian = stats.norm(start[1].item(), sde.sigma(torch.tensor(t)).item())
    assert gaussian.cdf(HIGH) - gaussian.cdf(LOW) < 0.8


@pytest.mark.parametrize("steps", [(0.2, 0.3), (0.3, 0.6), (0.5, 0.9)])
def test_two_steps_are_one(steps: tuple[float, float]) -> None:
    sde, (u, t) = box(), steps
    start = torch.tensor([LOW, 0.3, 1.4], dtype=d64)
    first = torch.stack([sde.kernel(start, 0.0, u).log_prob(v.expand(3)) for v in NODES])
    for end in (-0.4, 0.5, HIGH):
        second = sde.kernel(NODES, u, t).log_prob(torch.full_like(NODES, end))
        both = WEIGHTS @ (first + second[:, None]).exp()
        whole = sde.kernel(start, 0.0, t).log_prob(torch.full_like(start, end)).exp()
        assert (both - whole).abs().max() < 1e-12


@pytest.mark.parametrize("sigma", [0.05, 0.8, 2.5, 9.0])
def test_samples_have_the_law(sigma: float) -> None:
    law = ReflectedGaussian(torch.full((20_000,), 1.3, dtype=d64), torch.tensor(sigma, dtype=d64), LOW, HIGH)
    x = law.sample(torch.randn(20_000, dtype=d64, generator=g()))
    k = 2 * (HIGH - LOW) * torch.arange(-15, 16, dtype=d64)
    below = stats.norm.cdf((x[:, None] + k - 1.3) / sigma) - stats.norm.cdf((2 * LOW - x[:, None] + k - 1.3) / sigma)
    assert stats.kstest(below.sum(1), "uniform").pvalue > 1e-3


def test_a_short_step_has_the_noise_and_is_turned_at_a_wall() -> None:
    sde, t, h, n = box(), 0.3, 1e-4, 200_000
    want = diffusion_at(sde, torch.zeros(1, 1), torch.tensor(t + h / 2, dtype=d64)).matrix().item() * math.sqrt(h)
    z = torch.randn(n, dtype=d64, generator=g())
    moved = sde.kernel(torch.full((n,), 0.5, dtype=d64), t, t + h).sample(z) - 0.5
    assert abs(moved.std() / want - 1) < 4 / math.sqrt(2 * n) and abs(moved.mean()) < 4 * want / math.sqrt(n)
    moved = sde.kernel(torch.full((n,), HIGH, dtype=d64), t, t + h).sample(z) - HIGH
    assert (moved <= 0).all()
    assert abs(moved.square().mean().sqrt() / want - 1) < 4 / math.sqrt(2 * n)
    assert abs(moved.mean() / want + math.sqrt(2 / math.pi)) < 4 / math.sqrt(n)


def test_the_last_law_is_uniform_whatever_the_box() -> None:
    for sde in (box(), ReflectedBrownianMotion(10.0, 10.5, T=3.0)):
        x = torch.linspace(sde.low, sde.high, 41, dtype=d64)[:, None]
        width = math.log(sde.high - sde.low)
        gap = max((sde.kernel(m.expand(41, 1), 0.0, sde.T).log_prob(x) + width).abs().max().item() for m in x)
        assert 5e-9 < gap < 1.01e-8
        prior = sde.prior(Moments(torch.zeros(2, 3), torch.ones(6)))
        drawn = prior.sample(5000, g())
        assert drawn.shape == (5000, 2, 3) and sde.domain.check(drawn).all()
        assert stats.kstest((drawn.flatten().numpy() - sde.low) / (sde.high - sde.low), "uniform").pvalue > 1e-3
        walls = torch.tensor([sde.low, sde.high], dtype=d64)[:, None, None].expand(2, 2, 3)
        assert torch.allclose(prior.log_prob(torch.cat([drawn, walls])), torch.tensor(-6 * width, dtype=d64))
        assert prior.log_prob(drawn + 9).isneginf().all() and not prior.score(drawn).any()


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_box_is_intervals_row_by_row(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    sde, t = ReflectedBrownianMotion(0.1, 0.7), torch.tensor([0.1, 0.3, 0.5, 0.7, 1.0])
    x_0 = 0.1 + 0.6 * torch.rand(shape, dtype=dtype, generator=g())
    drawn = sde.perturb(x_0, t, generator=g(1))
    assert drawn.x.dtype == dtype and sde.domain.check(drawn.x).all()
    assert torch.equal(drawn.kernel.sample(drawn.z), drawn.x)
    value, score = drawn.kernel.log_prob(drawn.x), drawn.kernel.score(drawn.x)
    assert value.shape == (5,) and score.shape == shape and score.dtype == dtype
    for b in range(5):
        each = sde.kernel(x_0[b].reshape(-1), 0.0, t[b])
        x = drawn.x[b].reshape(-1)
        assert torch.allclose(each.log_prob(x).sum(), value[b], rtol=1e-4)
        assert torch.allclose(each.score(x), score[b].reshape(-1), rtol=1e-4, atol=1e-5)


def test_the_score_is_the_derivative_of_the_log_density() -> None:
    law = box().kernel(NODES[::8, None], 0.0, torch.linspace(0.1, 1, 50, dtype=d64))
    x = NODES[3::8, None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    assert torch.allclose(law.score(x.detach()), slope, rtol=1e-10, atol=1e-12)
    assert law.log_prob(x.detach() + 3).isneginf().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_folding_ends_in_the_box_and_is_a_reflection(dtype: torch.dtype) -> None:
    x = torch.linspace(-4, 4, 801).to(dtype)
    folded = fold_into(x, 0.1, 0.7)
    assert ReflectedBrownianMotion(0.1, 0.7).domain.check(folded).all()
    wave = [((v.double() - 0.1) * math.pi / 0.6).cos() for v in (x, folded)]  # what a reflection leaves as it is
    assert (wave[0] - wave[1]).abs().max() < 40 * torch.finfo(dtype).eps
    inside = torch.linspace(0.11, 0.69, 50).to(dtype)
    assert torch.equal(fold_into(inside, 0.1, 0.7), inside)


def test_steps_that_are_folded_have_the_law_in_the_limit() -> None:
    # Euler's steps with reflection, the process's own rule, from one point, against its exact kernel.
    sde, n, steps = box(power=0.5), 4000, 200
    x, noise = torch.full((n, 1), 1.4, dtype=d64), g(3)
    for t in torch.linspace(0, 0.2, steps + 1, dtype=d64)[:-1]:
        G = diffusion_at(sde, x, t) * math.sqrt(0.2 / steps)
        x = sde.enter(x + G(torch.randn(x.shape, dtype=d64, generator=noise)))
    exact = sde.kernel(torch.full((n, 1), 1.4, dtype=d64), 0.0, 0.2).sample(
        torch.randn(n, 1, dtype=d64, generator=g(4))
    )
    assert stats.ks_2samp(x[:, 0], exact[:, 0]).pvalue > 1e-3


def zero_law() -> ReflectedGaussian:
    return box().kernel(torch.zeros(1), 0.5, 0.5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ReflectedBrownianMotion(1.0, 1.0),
            "^low = 1, high = 1; a box has a width: give a low that is below high",
        ),
        (lambda: ReflectedBrownianMotion(1.0, 0.0), "^low = 1, high = 0; a box has a width"),
        (lambda: ReflectedBrownianMotion(0.0, math.inf), "^high = inf; it must be a finite number"),
        (lambda: box(T=-1.0), "^T = -1.0; it must be positive"),
        (lambda: box(sigma_max=0.0), "^sigma_max = 0.0; it must be positive"),
        (lambda: box(power=0.0), "^power = 0.0; it must be a number of at least 0.5"),
        (
            lambda: box().perturb(torch.tensor([[1.6, 0.0]]), 0.5),
            r"^x_0 has 1 values outside of the domain \(-0.5, 1.5\): 1.6",
        ),
        (lambda: box().perturb(torch.tensor([[math.nan]]), 0.5), r"^x_0 has 1 values outside.*nan"),
        (lambda: box().kernel(torch.zeros(1), 0.5, 0.4), r"^s must not lie after t; got t - s down to -0.1"),
        (lambda: zero_law().score(torch.zeros(1)), r"asked for at a time without noise"),
        (lambda: zero_law().log_prob(torch.zeros(1)), r"asked for at a time without noise"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()
