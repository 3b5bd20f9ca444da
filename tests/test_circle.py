"""Brownian motion on a circle: its law against theta functions, and against what makes it one."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from scipy import stats
from torch import Tensor

from sdegen.laws import circle
from sdegen.laws.circle import UniformAngles, WrappedGaussian, log_wrapped, slope_of_log_wrapped, wrap
from sdegen.laws.mixtures import Moments
from sdegen.processes.circle import CircularBrownianMotion
from sdegen.processes.dynamics import diffusion_at

d64 = torch.float64
TURN = 2 * math.pi
GRID = torch.arange(400, dtype=d64) * TURN / 400 - math.pi  # quadrature on it is exact for 400 harmonics
SPREADS = [1e-3, 0.05, 0.5, 1.0, 1.7, 1.74, 3.0, 6.0]  # of which the sum changes between the fifth and the sixth


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def by_theta_function(d: float, sigma: float) -> tuple[float, float]:
    """Log-density and slope of a centred wrapped Gaussian in 50 digits: ``theta_3(d/2, exp(−sigma²/2)) / 2π``, and of little
    noise the sum over windings.
    """
    with mpmath.workdps(50):
        x, s = mpmath.mpf(d), mpmath.mpf(sigma)
        if sigma < 1:
            terms = [(x + 2 * mpmath.pi * k, mpmath.npdf(x + 2 * mpmath.pi * k, 0, s)) for k in range(-8, 9)]
            p, slope = mpmath.fsum(v for _, v in terms), -mpmath.fsum(y * v for y, v in terms) / s**2
        else:
            q = mpmath.exp(-(s**2) / 2)
            p, slope = (mpmath.jtheta(3, x / 2, q, n) / (2 * mpmath.pi) / 2**n for n in (0, 1))
        return float(mpmath.log(p)), float(slope / p)


@pytest.mark.parametrize("sigma", SPREADS)
def test_the_law_is_a_theta_function(sigma: float) -> None:
    for d in (-math.pi, -3.1, -1.9, -0.3, 0.0, 1e-3, 2.5, 3.14):
        value, slope = by_theta_function(d, sigma)
        at, spread = torch.tensor([d], dtype=d64), torch.tensor(sigma, dtype=d64)
        assert abs(log_wrapped(at, spread).item() - value) < 2e-15 * (1 + abs(value))
        if d > -math.pi:  # opposite of the mean the slope changes its sign within the rounding of the angle
            assert abs(slope_of_log_wrapped(at, spread).item() - slope) < 2e-14 * (1 + abs(slope))


@pytest.mark.parametrize("windings", [2, 0])
def test_the_mass_is_one_and_a_single_winding_loses_some(windings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circle, "WINDINGS", windings)
    law = WrappedGaussian(torch.zeros(400, dtype=d64), torch.tensor(1.5, dtype=d64))
    mass = law.log_prob(GRID).exp().mean() * TURN
    assert (abs(mass - 1) < 1e-13) == (windings == 2)


@pytest.mark.parametrize("steps", [(0.1, 0.2), (0.4, 0.7), (0.5, 0.9)])
def test_two_steps_are_one(steps: tuple[float, float]) -> None:
    sde = CircularBrownianMotion()
    start = torch.tensor([0.3, -3.0, 3.1], dtype=d64)
    u, t = steps
    first = torch.stack([sde.kernel(start, 0.0, u).log_prob(v.expand(3)) for v in GRID])  # (grid, 3)
    for end in (-2.0, 0.5, 3.0):
        second = sde.kernel(GRID, u, t).log_prob(torch.full_like(GRID, end))
        both = (first + second[:, None]).exp().mean(0) * TURN
        whole = sde.kernel(start, 0.0, t).log_prob(torch.full_like(start, end)).exp()
        assert (both - whole).abs().max() < 1e-12


def test_harmonics_decay_as_those_of_the_heat_equation() -> None:
    sde, t = CircularBrownianMotion(power=0.75, T=2.0), torch.tensor([0.2, 0.7, 1.5], dtype=d64)
    for row, time in enumerate(t):
        law = sde.kernel(torch.full((400,), 0.4, dtype=d64), 0.0, time)
        p = law.log_prob(GRID).exp()
        for n in (1, 2):
            found = (p * torch.exp(1j * n * GRID)).mean() * TURN
            want = torch.exp(1j * n * torch.tensor(0.4, dtype=d64) - 0.5 * n**2 * sde.sigma(t[row]) ** 2)
            assert (found - want).abs() < 1e-12
    # The variance grows by g², and its drift is none.
    h = 1e-6
    growth = (sde.sigma(t + h) ** 2 - sde.sigma(t - h) ** 2) / (2 * h)
    assert torch.allclose(growth, diffusion_at(sde, torch.zeros(3, 1), t).matrix().flatten() ** 2, rtol=1e-8)
    assert not sde.drift(torch.randn(3, 2), t).any()


def test_a_short_step_spreads_by_the_noise() -> None:
    sde, t, h = CircularBrownianMotion(), 0.3, 1e-4
    x = torch.full((200_000,), 3.1, dtype=d64)  # over the seam
    moved = wrap(sde.kernel(x, t, t + h).sample(torch.randn(x.shape, dtype=d64, generator=g())) - x)
    want = diffusion_at(sde, x[:1, None], torch.tensor(t + h / 2, dtype=d64)).matrix().item() * math.sqrt(h)
    assert abs(moved.std() / want - 1) < 4 / math.sqrt(2 * len(x))
    assert abs(moved.mean()) < 4 * want / math.sqrt(len(x))


@pytest.mark.parametrize("sigma", [0.02, 1.0, 2.5, 7.0])
def test_samples_have_the_law(sigma: float) -> None:
    law = WrappedGaussian(torch.full((20_000,), 2.9, dtype=d64), torch.tensor(sigma, dtype=d64))
    x = law.sample(torch.randn(20_000, dtype=d64, generator=g()))
    k = TURN * torch.arange(-12, 13, dtype=d64)
    below = stats.norm.cdf((x[:, None] + k - 2.9) / sigma) - stats.norm.cdf((-math.pi + k - 2.9) / sigma)
    assert stats.kstest(below.sum(1), "uniform").pvalue > 1e-3


def test_the_last_law_is_uniform_and_the_first_is_not() -> None:
    sde = CircularBrownianMotion()
    x = GRID[:, None]
    gap = (sde.kernel(x.flip(0), 0.0, sde.T).log_prob(x) + math.log(TURN)).abs().max()
    assert 5e-9 < gap < 1.01e-8
    assert (sde.kernel(x.flip(0), 0.0, 0.5 * sde.T).log_prob(x) + math.log(TURN)).abs().max() > 0.05
    prior = sde.prior(Moments(torch.zeros(3, 2), torch.ones(6)))
    drawn = prior.sample(20_000, g())
    assert drawn.shape == (20_000, 3, 2) and sde.domain.check(drawn).all()
    assert stats.kstest(drawn.flatten().numpy() / TURN + 0.5, "uniform").pvalue > 1e-3
    assert torch.allclose(prior.log_prob(drawn), torch.tensor(-6 * math.log(TURN), dtype=d64))
    assert not prior.score(drawn).any()


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_torus_is_circles_row_by_row(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    sde, t = CircularBrownianMotion(), torch.tensor([0.1, 0.3, 0.5, 0.7, 1.0])
    x_0 = wrap(3 * torch.randn(shape, dtype=dtype, generator=g()))
    drawn = sde.perturb(x_0, t, generator=g(1))
    assert drawn.x.dtype == dtype and sde.domain.check(drawn.x).all()
    assert torch.equal(drawn.kernel.sample(drawn.z), drawn.x)
    value, score = drawn.kernel.log_prob(drawn.x), drawn.kernel.score(drawn.x)
    assert value.shape == (5,) and score.shape == shape and score.dtype == dtype
    for b in range(5):
        each = sde.kernel(x_0[b].reshape(-1), 0.0, t[b])
        x = drawn.x[b].reshape(-1)
        assert torch.allclose(each.log_prob(x).sum(), value[b], rtol=1e-5)
        assert torch.allclose(each.score(x), score[b].reshape(-1), rtol=1e-5)
    assert torch.allclose(drawn.kernel.log_prob(drawn.x + TURN), value, rtol=1e-3, atol=1e-3)


def test_the_score_is_the_derivative_of_the_log_density() -> None:
    law = CircularBrownianMotion().kernel(GRID[:50, None], 0.0, torch.linspace(0.05, 1, 50, dtype=d64))
    x = GRID[100:150, None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    assert torch.allclose(law.score(x.detach()), slope, rtol=1e-10, atol=1e-12)
    assert torch.allclose(law.score(x.detach() + 3 * TURN), slope, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_wrapping_ends_in_the_domain(dtype: torch.dtype) -> None:
    odd = math.pi * torch.arange(-199, 200, 2, dtype=d64)[:, None]  # where turns end, and what rounds to either side
    near = odd * (1 + torch.finfo(dtype).eps * torch.linspace(-3, 3, 61, dtype=d64))
    near = torch.cat([near.flatten(), torch.tensor([0.0, 1e-4])]).to(dtype)
    x = wrap(near)
    assert CircularBrownianMotion.domain.check(x).all()
    turns = (near.double() - x.double()) / TURN
    assert (turns - turns.round()).abs().max() < 200 * torch.finfo(dtype).eps
    inside = torch.linspace(-3.1, 3.1, 99).to(dtype)
    assert torch.equal(wrap(inside), inside)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_angles_that_are_rounded_to_an_end_are_data(dtype: torch.dtype) -> None:
    """The largest double below half a turn is more than half a turn as a single: both ends are one angle, noised alike."""
    ends = torch.tensor([[math.nextafter(math.pi, 0.0)], [-math.pi]], dtype=d64).to(dtype)
    sde, z = CircularBrownianMotion(), torch.ones(2, 1, dtype=dtype)
    x = sde.perturb(ends, 0.3, z=z).x
    assert sde.domain.check(x).all() and torch.allclose(x[0], x[1], atol=20 * torch.finfo(dtype).eps)


def test_reversed_by_its_score_the_process_brings_the_data_back() -> None:
    # Data under a mixture of two wrapped Gaussians, whose score at any noise is known; the step's own rule wraps it.
    sde, centres, spread = CircularBrownianMotion(), torch.tensor([2.9, -1.0], dtype=d64), 0.3

    def law(t: float) -> list[WrappedGaussian]:
        sigma = (sde.sigma(torch.tensor(t, dtype=d64)) ** 2 + spread**2).sqrt()
        return [WrappedGaussian(c.expand(len(x)), sigma) for c in centres]

    def score(x: Tensor, t: float) -> Tensor:
        weights = torch.stack([one.log_prob(x) for one in law(t)]).softmax(0)
        return sum((w * one.score(x) for w, one in zip(weights, law(t))), torch.zeros_like(x))

    n, x = 150, UniformAngles(()).sample(4000, g())
    times = torch.linspace(sde.T, 0, n + 1, dtype=d64)
    noise = g(1)
    for t, s in itertools.pairwise(times):
        h, gg = t - s, diffusion_at(sde, x[:1, None], 0.5 * (t + s)).matrix().item()
        x = sde.enter(
            x + gg**2 * h * score(x, t.item()) + gg * h.sqrt() * torch.randn(x.shape, dtype=d64, generator=noise)
        )
    k = TURN * torch.arange(-3, 4, dtype=d64)
    below = sum(
        stats.norm.cdf((x[:, None] + k - c) / spread) - stats.norm.cdf((-math.pi + k - c) / spread) for c in centres
    )
    assert stats.kstest(0.5 * below.sum(1), "uniform").statistic < 0.03


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: CircularBrownianMotion(T=0.0), "^T = 0.0; it must be positive"),
        (lambda: CircularBrownianMotion(sigma_max=-1.0), "^sigma_max = -1.0; it must be positive"),
        (lambda: CircularBrownianMotion(power=0.4), "^power = 0.4; it must be a number of at least 0.5"),
        (
            lambda: CircularBrownianMotion().perturb(torch.tensor([[3.2]]), 0.5),
            r"^x_0 has 1 values outside of the domain",
        ),
        (lambda: CircularBrownianMotion().perturb(torch.tensor([[math.nan]]), 0.5), r"^x_0 has 1 values outside.*nan"),
        (
            lambda: CircularBrownianMotion().kernel(torch.zeros(1), 0.5, 0.4),
            r"^s must not lie after t; got t - s down to -0.1",
        ),
        (
            lambda: CircularBrownianMotion().kernel(torch.zeros(1), 0.5, 0.5).score(torch.zeros(1)),
            r"asked for at a time without noise",
        ),
        (
            lambda: CircularBrownianMotion().kernel(torch.zeros(1), 0.5, 0.5).log_prob(torch.zeros(1)),
            r"asked for at a time without noise",
        ),
        (lambda: CircularBrownianMotion().kernel(torch.zeros(1), 0.5, 1.5), r"^t = 1.5 lies outside \[0, T\]"),
        (lambda: UniformAngles((2,)).log_prob(torch.zeros(4, 3)), r"^x has shape \(4, 3\); expected \(B, 2\)"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()
