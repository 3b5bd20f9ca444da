"""The Jacobi diffusion: its law against polynomials in many digits, processes with a known law, and what makes it one."""

from __future__ import annotations

import math
import warnings

import mpmath
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor
from torch import distributions as D

from sdegen.laws.circle import log_wrapped, wrap
from sdegen.laws.jacobi import LEAST_CLOCK, JacobiLaw
from sdegen.laws.jacobi_series import JacobiSeries, orthonormal_jacobi, terms_needed
from sdegen.laws.jacobi_short import _mean_without_pole, _slope_without_pole, angle_of, log_density_and_slope
from sdegen.laws.mixtures import Moments
from sdegen.laws.reflected import ReflectedGaussian
from sdegen.laws.sticks import StickFractions
from sdegen.processes.dynamics import diffusion_at, drift_at
from sdegen.processes.jacobi import Jacobi

d64 = torch.float64
NODES, WEIGHTS = (torch.from_numpy(0.5 * v) for v in np.polynomial.legendre.leggauss(200))
NODES = NODES + 0.5
PAIRS = [(1.0, 1.0), (2.0, 3.0), (0.3, 0.8), (6.0, 1.5)]


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def real(value: float) -> Tensor:
    return torch.tensor(value, dtype=d64)


def law_of(x_s: Tensor, a: float, b: float, clock: float) -> JacobiLaw:
    return JacobiLaw(x_s, real(a), real(b), torch.full((1,) * x_s.ndim, clock, dtype=d64))


def quadrature(a: float, b: float, n: int) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1), and weights of averages under Beta(a, b)."""
    y, w = special.roots_jacobi(n, b - 1, a - 1)
    return torch.from_numpy((y + 1) / 2), torch.from_numpy(w / w.sum())


def in_many_digits(a: float, b: float, clock: float, x_s: float, x: float) -> tuple[float, float]:
    """Log-density and score by the series, with as many digits as the terms cancel, polynomials by a recurrence of integers."""
    apart = 2 * abs(math.asin(math.sqrt(x_s)) - math.asin(math.sqrt(x)))
    digits = 40 + apart**2 / (4.6 * clock)
    with mpmath.workdps(int(digits)):
        A, B, t, y, z = (mpmath.mpf(v) for v in (a, b, clock, x_s, x))
        number = int(math.sqrt(2 * 2.4 * digits / clock)) + 10

        def polynomials(alpha: mpmath.mpf, beta: mpmath.mpf, at: mpmath.mpf) -> list[mpmath.mpf]:
            found, u = [mpmath.mpf(1), (alpha + 1) + (alpha + beta + 2) * (at - 1)], 2 * at - 1
            for n in range(2, number):
                c = 2 * n + alpha + beta
                ahead = (c - 1) * (c * (c - 2) * u + alpha**2 - beta**2) * found[-1]
                ahead -= 2 * (n + alpha - 1) * (n + beta - 1) * c * found[-2]
                found.append(ahead / (2 * n * (n + alpha + beta) * (c - 2)))
            return found

        norm = [mpmath.mpf(1)]  # of P_n under Beta(a, b), by the ratio of its gamma functions
        for n in range(1, number):
            if n == 1:
                norm.append(A * B / (A + B + 1))
            else:
                s = A + B - 2
                norm.append(norm[-1] * (n + B - 1) * (n + A - 1) * (2 * n + s - 1) / ((2 * n + s + 1) * (n + s) * n))
        decay = [mpmath.exp(-t * n * (n - 1 + A + B) / 2) for n in range(number)]
        start, here = polynomials(B - 1, A - 1, y), polynomials(B - 1, A - 1, z)
        above = polynomials(B, A, z)
        ratio = mpmath.fsum(decay[n] * start[n] * here[n] / norm[n] for n in range(number))
        slope = mpmath.fsum(decay[n] * start[n] * (n + A + B - 1) * above[n - 1] / norm[n] for n in range(1, number))
        value = (
            mpmath.log(ratio) + (A - 1) * mpmath.log(z) + (B - 1) * mpmath.log(1 - z) - mpmath.log(mpmath.beta(A, B))
        )
        return float(value), float(slope / ratio + (A - 1) / z - (B - 1) / (1 - z))


# --- polynomials --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [*PAIRS, (0.5, 0.5), (0.5, 1.5)])
def test_polynomials_are_those_of_jacobi_and_orthonormal(a: float, b: float) -> None:
    x, w = quadrature(a, b, 80)
    P = orthonormal_jacobi(real(a), real(b), 60, x)
    assert ((P * w) @ P.T - torch.eye(60, dtype=d64)).abs().max() < 1e-11
    n = np.arange(60)[:, None]
    theirs = torch.from_numpy(special.eval_jacobi(n, b - 1, a - 1, 2 * x.numpy()[None] - 1))
    theirs = theirs / theirs.square().mul(w).sum(1, keepdim=True).sqrt()
    assert (P - theirs).abs().max() < 1e-10 * P.abs().max()


@pytest.mark.parametrize("clock", [2e-4, 3e-3, 0.05, 0.8, 13.0, 200.0])
def test_the_terms_that_are_left_out_are_below_rounding(clock: float) -> None:
    x = torch.tensor([1e-300, 0.1, 0.6, 1 - 1e-16], dtype=d64)
    for a, b in ((0.05, 0.05), (0.5, 12.0), (1.0, 1.0), (20.0, 3.0), (20.0, 20.0)):
        n = terms_needed(real(a), real(b), clock)
        k = torch.arange(2 * n, dtype=d64)[:, None]
        P = orthonormal_jacobi(real(a), real(b), 2 * n, x)
        summands = torch.einsum("kx,ky->kxy", (-0.5 * k * (k - 1 + a + b) * clock).exp() * P, P).abs()
        assert (summands[n:].sum(0) <= 1e-16 * summands.sum(0)).all()


# --- the law ------------------------------------------------------------------------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("clock", [0.01, 0.1, 1.0])
def test_the_law_is_that_of_its_series_in_many_digits(a: float, b: float, clock: float) -> None:
    for x_s in (1e-4, 0.4, 0.99):
        law = law_of(torch.full((3,), x_s, dtype=d64), a, b, clock)
        x = law.sample(torch.tensor([-3.0, 0.2, 2.5], dtype=d64))
        value, score = law.log_prob(x), law.score(x)
        for k in range(3):
            want, slope = in_many_digits(a, b, clock, x_s, x[k].item())
            assert abs(value[k] - want) < 1e-10
            assert abs(score[k] - slope) < 1e-9 * (1 + abs(slope))


@pytest.mark.parametrize(
    ("a", "b", "bound"), [(2.0, 3.0, 1e-8), (6.0, 1.5, 1e-8), (20.0, 1.0, 2e-4), (12.0, 12.0, 2e-4)]
)
def test_far_from_the_mean_it_has_the_digits_that_are_promised(a: float, b: float, bound: float) -> None:
    for clock in (0.003, 0.03):
        law = law_of(torch.full((2,), 0.001, dtype=d64), a, b, clock)
        x = law.sample(torch.tensor([-5.0, 5.0], dtype=d64))
        for k in range(2):
            assert abs(law.log_prob(x)[k] - in_many_digits(a, b, clock, 0.001, x[k].item())[0]) < bound


@pytest.mark.parametrize("clock", [1e-7, 1e-5, 1e-3, 0.03, 0.5, 4.0])
def test_with_halves_it_is_a_reflected_brownian_motion_in_the_angle(clock: float) -> None:
    # a = b = 1/2: the angle has no drift, and its law is known at every time; far out the short-time formula is exact too.
    x_s = torch.tensor([1e-3, 0.2, 0.5, 0.999], dtype=d64)
    for z in (-5.0, -1.0, 0.1, 3.0, 9.0):
        theta = (angle_of(x_s) + math.sqrt(clock) * z).clamp(1e-3, math.pi - 1e-3)
        x = (0.5 * theta).sin().square()
        in_angle = ReflectedGaussian(angle_of(x_s), real(clock).sqrt(), 0.0, math.pi)
        law = law_of(x_s, 0.5, 0.5, clock)
        want = in_angle.log_prob(angle_of(x)) - 0.5 * (x * (1 - x)).log()
        assert (law.log_prob(x) - want).abs().max() < 2e-8
        slope = (in_angle.score(angle_of(x)) - 0.5 * (1 - 2 * x) / (x * (1 - x)).sqrt()) / (x * (1 - x)).sqrt()
        assert ((law.score(x) - slope).abs() / (slope.abs() + (clock * x * (1 - x)).rsqrt())).max() < 2e-8


@pytest.mark.parametrize("clock", [1e-6, 1e-3, 0.05, 0.5, 3.0])
def test_with_three_halves_it_is_a_brownian_motion_conditioned_to_stay(clock: float) -> None:
    # The angle has the drift cot: a Brownian motion kept from the walls, of the density e^(½ t) sin(y) / sin(y_0) times an image.
    x_s = torch.tensor([0.02, 0.2, 0.5, 0.97], dtype=d64)
    start = angle_of(x_s)
    for z in (-4.0, -1.0, 0.1, 3.0):
        theta = (start + math.sqrt(clock) * z).clamp(0.05, math.pi - 0.05)
        here, image = (log_wrapped(wrap(v), real(clock).sqrt()) for v in (theta - start, theta + start))
        want = 0.5 * clock + (theta.sin() / start.sin()).log() + here + torch.log(-torch.expm1(image - here))
        x = (0.5 * theta).sin().square()
        found = law_of(x_s, 1.5, 1.5, clock).log_prob(x) + 0.5 * (x * (1 - x)).log()
        assert (found - want).abs().max() < 2e-8


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (2.0, 3.0), (0.3, 0.8)])
@pytest.mark.parametrize("clock", [1e-4, 1e-3, 0.1])
@pytest.mark.turns("0.0001-0.3-0.8", "0.0001*")
def test_where_the_series_is_lost_the_short_formula_is_right_to_second_order(a: float, b: float, clock: float) -> None:
    x_s = torch.tensor([0.03, 0.1, 1e-6], dtype=d64)
    theta = (angle_of(x_s) + 8.5 * math.sqrt(clock)).clamp_max(3.1)
    x = (0.5 * theta).sin().square()
    law = law_of(x_s, a, b, clock)
    ((_, series),) = law._parts
    assert clock < LEAST_CLOCK or not series.log_density_and_slope(x)[2].all()  # so far out it has no digits
    value, score = law.log_prob(x), law.score(x)
    for k in range(3):
        want, slope = in_many_digits(a, b, clock, x_s[k].item(), x[k].item())
        assert abs(value[k] - want) < 0.3 * clock**2 + 1e-9
        assert abs(score[k] - slope) < (0.3 * clock**2 + 1e-8) * (1 + abs(slope)) / math.sqrt(clock)
    h = 1e-5 * x * (1 - x)
    at = [log_density_and_slope(y, x_s, *(real(v).expand(3) for v in (a, b, clock))) for y in (x - h, x, x + h)]
    assert torch.allclose(at[1][1], (at[2][0] - at[0][0]) / (2 * h), rtol=1e-6)


def test_the_potential_without_its_pole_has_its_digits_near_the_end() -> None:
    q = lambda y: 1 / (4 * mpmath.sin(y / 2) ** 2) - 1 / y**2
    integral = lambda y: 1 / y - mpmath.cot(y / 2) / 2
    for theta in (1e-9, 1e-3, 0.0199, 0.0201, 1.0, 3.1):
        for start in (theta, theta + 1e-7, 0.9 * theta, 0.0199, 0.5, 3.1):
            mean = _mean_without_pole(real(theta), real(start)).item()
            with mpmath.workdps(60):
                a, b = mpmath.mpf(theta), mpmath.mpf(start)
                want = q(a) if a == b else (integral(a) - integral(b)) / (a - b)
                assert abs(mean - float(want)) < 1e-9
        slope = _slope_without_pole(real(theta))
        with mpmath.workdps(60):
            assert abs(slope - float(mpmath.diff(q, mpmath.mpf(theta), h=mpmath.mpf(10) ** -20))) < 1e-9


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("clocks", [(0.01, 0.02), (0.1, 0.4)])
def test_two_steps_are_one(a: float, b: float, clocks: tuple[float, float]) -> None:
    x, w = quadrature(a, b, 160)
    stationary = D.Beta(real(a), real(b)).log_prob(x)
    start, end = torch.tensor([0.0, 0.3, 0.9], dtype=d64), torch.tensor([0.05, 0.35, 0.8], dtype=d64)
    for x_s, x_t in zip(start, end, strict=True):
        first = law_of(x_s.expand(160), a, b, clocks[0]).log_prob(x) - stationary
        second = law_of(x, a, b, clocks[1]).log_prob(x_t.expand(160))
        whole = law_of(x_s[None], a, b, sum(clocks)).log_prob(x_t[None])
        assert abs((w * (first + second).exp()).sum() - whole.exp()) < 1e-10 * (1 + whole.exp())


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_mass_mean_and_square_are_those_of_its_generator(a: float, b: float) -> None:
    x, w = quadrature(a, b, 200)
    stationary = D.Beta(real(a), real(b)).log_prob(x)
    s, m, r = a + b, a / (a + b), a * (a + 1) / ((a + b) * (a + b + 1))
    for clock in (0.01, 0.2, 1.5):
        for x_s in (0.0, 0.2, 0.7, 1.0):
            p = w * (law_of(real(x_s).expand(200), a, b, clock).log_prob(x) - stationary).exp()
            mean = m + (x_s - m) * math.exp(-0.5 * s * clock)
            # d E x² = [(a + 1) E x − (s + 1) E x²] dt
            along = (a + 1) * (x_s - m) / (0.5 * s + 1)
            square = r + along * math.exp(-0.5 * s * clock) + (x_s**2 - r - along) * math.exp(-(s + 1) * clock)
            for power, want in enumerate((1.0, mean, square)):
                assert abs((p * x**power).sum() - want) < 1e-9


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("clock", [3e-4, 0.02, 0.3, 6.0])
def test_a_sample_is_the_quantile_of_its_noise(a: float, b: float, clock: float) -> None:
    z = torch.tensor([-4.0, -1.5, 0.0, 0.7, 3.5], dtype=d64)
    for x_s in (0.0, 0.3, 0.98):
        law = law_of(real(x_s).expand(5), a, b, clock)
        x = law.sample(z)
        assert (x.diff() > 0).all()
        # The mass between two quantiles, in the logit, of which the density is smooth everywhere.
        edges = torch.cat([x.logit()[:1] - 32 / a, x.logit()])
        shares = torch.cat([torch.zeros(1, dtype=d64), torch.special.ndtr(z)]).diff()
        for k in range(5):
            u = edges[k] + (edges[k + 1] - edges[k]) * NODES
            at = u.sigmoid()
            density = (law_of(real(x_s).expand(200), a, b, clock).log_prob(at) + at.log() + (-u).sigmoid().log()).exp()
            assert abs((density @ WEIGHTS) * (edges[k + 1] - edges[k]) - shares[k]) < 1e-9


def test_after_a_long_time_quantiles_are_those_of_the_beta_law() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (3.0 * torch.rand(2, 300, dtype=d64, generator=generator) + math.log(0.02)).exp()
    z, start = (torch.randn(300, dtype=d64, generator=generator) for _ in range(2))
    x = JacobiSeries(start.sigmoid(), a, b, 80 / (a + b), 4).quantile(z)
    p = special.ndtr(z.numpy())
    want = torch.from_numpy(special.betaincinv(a.numpy(), b.numpy(), p))
    beyond = torch.from_numpy(special.betaincinv(b.numpy(), a.numpy(), special.ndtr(-z.numpy())))
    held = (want > 1e-290) & (beyond > 1e-10)  # where float64 has the logit to six digits
    assert held.double().mean() > 0.8
    torch.testing.assert_close(x[held].logit(), (want.log() - beyond.log())[held], rtol=0, atol=1e-4)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("clock", [1e-7, 1e-5, 1.9e-4])
def test_after_a_short_time_a_sample_is_the_quantile_of_its_noise_too(a: float, b: float, clock: float) -> None:
    z = torch.tensor([-4.0, -1.5, 0.0, 0.7, 3.5], dtype=d64)
    for x_s in (1e-3, 0.3, 0.98):
        x = law_of(real(x_s).expand(5), a, b, clock).sample(z)
        angles, shares = angle_of(x), torch.special.ndtr(z).diff()
        for k in range(4):
            theta = angles[k] + (angles[k + 1] - angles[k]) * NODES
            at = (0.5 * theta).sin().square()
            density = law_of(real(x_s).expand(200), a, b, clock).log_prob(at).exp() * 0.5 * theta.sin()
            assert abs((density @ WEIGHTS) * (angles[k + 1] - angles[k]) - shares[k]) < 1e-6
    far = torch.tensor([-11.0, -9.0, 9.0, 11.0], dtype=d64)
    out = (angle_of(law_of(real(0.3).expand(4), 1.5, 1.5, clock).sample(far)) - angle_of(real(0.3))) / clock**0.5
    torch.testing.assert_close(
        out, far, rtol=0, atol=0.05
    )  # constant noise in the angle, and a drift that is little so soon
    assert law_of(real(0.3).expand(2), a, b, clock).sample(
        torch.tensor([math.nan, 0.0], dtype=d64)
    ).isnan().tolist() == [True, False]
    still = law_of(real(0.3).expand(5), a, b, 0.0)
    assert torch.equal(still.sample(z), real(0.3).expand(5))


def test_samples_have_the_law_in_one_batch_of_many_times() -> None:
    sde = Jacobi(2.0, 1.5)
    t = torch.linspace(sde.t_min, 1, 4000, dtype=d64)
    x_0 = torch.rand(4000, dtype=d64, generator=g())
    drawn = sde.perturb(x_0, t, generator=g(1))
    # What is forgotten: eigenfunctions decay, x − mean by its rate.
    rate = 0.5 * 3.5 * sde.speed * sde.elapsed(t)
    left = (drawn.x - 2 / 3.5) - (x_0 - 2 / 3.5) * (-rate).exp()
    assert abs(left.mean()) < 4 * left.std() / 4000**0.5
    at = torch.full((4000,), 0.4, dtype=d64)
    x = sde.kernel(at, 0.0, 0.3).sample(drawn.z)
    edges = sde.kernel(at[:19], 0.0, 0.3).sample(torch.special.ndtri(torch.linspace(0.05, 0.95, 19, dtype=d64)))
    counts = torch.bincount(torch.searchsorted(edges, x), minlength=20)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_a_short_step_has_drift_and_noise_of_the_equation() -> None:
    sde, t, h = Jacobi(2.0, 3.0), torch.tensor(0.5, dtype=d64), 2e-4
    y = (torch.arange(4000, dtype=d64) + 0.5) * math.pi / 4000
    x, volume = (0.5 * y).sin().square(), 0.5 * y.sin() * math.pi / 4000
    for x_s in (0.1, 0.5, 0.85):
        at = torch.full((1, 1), x_s, dtype=d64)
        p = sde.kernel(at.expand(4000, 1), t - h / 2, t + h / 2).log_prob(x[:, None]).exp() * volume
        slope, noise = drift_at(sde, at, t).item(), diffusion_at(sde, at, t)(torch.ones_like(at)).item()
        assert abs(p.sum() - 1) < 1e-9
        assert abs((p * (x - x_s)).sum() / h - slope) < 0.01 * (1 + abs(slope))
        assert abs((p * (x - x_s).square()).sum() / h - noise**2) < 0.01 * (1 + noise**2)


def test_the_last_law_is_the_stationary_one() -> None:
    sde, x = Jacobi(2.0, 1.5, T=3.0), torch.linspace(0.01, 0.99, 30, dtype=d64)[:, None]
    prior = sde.prior(Moments(torch.zeros(1), torch.ones(1)))
    for x_s in (0.0, 0.5, 1.0):
        gap = sde.kernel(torch.full_like(x, x_s), 0.0, 3.0).log_prob(x) - prior.log_prob(x)
        assert gap.abs().max() < 2e-7  # 1e-8 times two polynomials
    assert (sde.kernel(torch.full_like(x, 0.1), 0.0, 1.0).log_prob(x) - prior.log_prob(x)).abs().max() > 0.05
    at = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(prior.log_prob(at).sum(), at)
    assert torch.allclose(prior.score(x), slope) and prior.score(torch.tensor([[0.0], [1.0]])).isfinite().all()
    drawn = prior.sample(5000, g())
    assert stats.kstest(drawn.flatten().numpy(), stats.beta(2.0, 1.5).cdf).pvalue > 1e-3


def test_its_noise_level_is_the_mean_variance_of_a_state() -> None:
    a, b = 2.0, 3.0
    sde = Jacobi(a, b)
    x, w = quadrature(a, b, 120)
    for t in (0.1, 0.4, 0.9):
        clock = sde.speed * sde.elapsed(torch.tensor(t)).item()
        variances = []
        for start in x[::8]:
            p = w * (law_of(start.expand(120), a, b, clock).log_prob(x) - D.Beta(real(a), real(b)).log_prob(x)).exp()
            variances.append((p * x.square()).sum() - (p * x).sum().square())
        mean = a / (a + b)
        # Linear in x² and x: fitted on these starts, averaged over all.
        fit = torch.linalg.lstsq(torch.stack([x[::8] ** k for k in range(3)], 1), torch.stack(variances)).solution
        want = sum(fit[k] * (w * x**k).sum() for k in range(3))
        level = sde.root(t, x[:, None])(torch.ones(120, 1, dtype=d64))[:, 0]
        assert abs((w * level.square()).sum() - want) < 1e-9, mean


# --- shapes, precision --------------------------------------------------------------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 3, 2)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_of_any_shape_are_numbers_row_by_row(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    sde, t = Jacobi(1.0, 2.0), torch.tensor([0.04, 0.1, 0.3, 0.5, 0.7, 1.0])
    x_0 = torch.rand(shape, dtype=dtype, generator=g())
    x_0[0], x_0[1] = 0.0, 1.0  # paths may start at either end
    drawn = sde.perturb(x_0, t, generator=g(1))
    assert drawn.x.dtype == dtype and ((drawn.x > 0) & (drawn.x < 1)).all()
    value, score = drawn.kernel.log_prob(drawn.x), drawn.kernel.score(drawn.x)
    assert value.shape == (6,) and score.shape == shape and score.dtype == dtype and score.isfinite().all()
    for b in range(6):
        each = sde.kernel(x_0[b].reshape(-1), 0.0, t[b])
        x = drawn.x[b].reshape(-1)
        assert torch.allclose(each.sample(drawn.z[b].reshape(-1)), x, rtol=1e-5, atol=0)
        assert torch.allclose(each.log_prob(x).sum(), value[b], rtol=1e-5)
        assert torch.allclose(each.score(x), score[b].reshape(-1), rtol=1e-5)
    order = torch.tensor([3, 1, 5, 0])
    again = sde.kernel(x_0[order], 0.0, t[order]).sample(drawn.z[order])
    assert torch.allclose(
        again, drawn.x[order], rtol=4 * torch.finfo(dtype).eps, atol=0
    )  # whatever the rest of the batch
    assert not torch.equal(drawn.mirrored().x, drawn.x)


@pytest.mark.turns("dtype1")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_draw_and_no_state_makes_a_number_that_is_none(dtype: torch.dtype) -> None:
    with warnings.catch_warnings(action="ignore"):
        processes = [Jacobi(0.2, 0.5), Jacobi(1.0, 1.0), Jacobi(20.0, 1.0)]
    z = torch.tensor([-12.0, -8.0, -6.0, 0.0, 5.0, 7.0, 30.0], dtype=dtype)
    for sde in processes:
        for t in (sde.t_min, 0.3, 1.0):
            for x_0 in (0.0, 1e-30, 0.5, 1.0):
                law = sde.kernel(torch.full((7,), x_0, dtype=dtype), 0.0, t)
                x = law.sample(z)
                assert ((x > 0) & (x < 1)).all() and (x.diff() >= 0).all()
                states = torch.tensor([0.0, 1e-30, 1e-6, 0.3, 0.9, 1 - 1e-7, 1.0], dtype=dtype)
                assert law.log_prob(states).isfinite().all() and law.score(states).isfinite().all()
                assert law.log_prob(states + 2).isneginf().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_beyond_an_end_is_reflected_and_none_ends_on_it(dtype: torch.dtype) -> None:
    sde = Jacobi(1.0, 2.0)
    x = sde.enter(torch.tensor([-0.1, 1.2, 0.4, 0.0, 1.0, -1e-40, 1 + 1e-7, 2.0], dtype=dtype))
    assert torch.allclose(x[:3], torch.tensor([0.1, 0.8, 0.4], dtype=dtype), rtol=1e-6) and x[2] == torch.tensor(
        0.4, dtype=dtype
    )
    assert ((x > 0) & (x < 1)).all()
    noise = diffusion_at(sde, x[:, None], torch.tensor(0.5, dtype=d64))(torch.ones_like(x[:, None]))
    assert (noise > 0).all()


def test_the_score_is_the_derivative_of_the_log_density() -> None:
    sde = Jacobi(2.0, 1.5)
    x = torch.linspace(0.01, 0.99, 60, dtype=d64)[:, None].requires_grad_()
    law = sde.kernel(torch.full((60, 1), 0.2, dtype=d64), 0.0, torch.linspace(0.05, 0.8, 60, dtype=d64).flip(0))
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    assert torch.allclose(law.score(x.detach()), slope, rtol=1e-7)


# --- the simplex --------------------------------------------------------------------------------------------------


def test_fractions_of_a_stick_have_their_inverse_and_determinant() -> None:
    phi = StickFractions()
    x = D.Dirichlet(torch.tensor([0.7, 2.0, 1.0, 3.0], dtype=d64)).sample((8,))
    v = phi(x)
    assert v.shape == (8, 3) and ((v > 0) & (v < 1)).all()
    assert (phi.inverse(v) - x).abs().max() < 1e-15
    for b in range(8):
        J = torch.func.jacrev(lambda u: phi.inverse(u[None])[0, :-1])(v[b])
        assert abs(phi.log_det(x)[b] + torch.linalg.slogdet(J).logabsdet) < 1e-12


def test_on_the_simplex_the_stationary_law_is_dirichlet() -> None:
    concentration = torch.tensor([1.0, 2.0, 1.5, 3.0], dtype=d64)
    sde, want = Jacobi.of_dirichlet(concentration), D.Dirichlet(concentration)
    x = want.sample((6,))
    v = sde.lift(x)
    prior = sde.prior(Moments(torch.zeros(3), torch.ones(3)))
    assert (prior.log_prob(v) - sde.log_volume(x) - want.log_prob(x)).abs().max() < 1e-12
    # Data that are noised to the end have it, and all coordinates forget at one pace.
    drawn = sde.perturb(torch.tensor([[0.97, 0.01, 0.01, 0.01]], dtype=d64).expand(4000, 4), sde.T, generator=g())
    parts = sde.project(drawn.x)
    assert (parts.sum(1) - 1).abs().max() < 1e-12
    alone = concentration.sum()
    for k in range(4):
        beta = stats.beta(concentration[k].item(), (alone - concentration[k]).item())
        assert stats.kstest(parts[:, k].numpy(), beta.cdf).pvalue > 1e-3
    assert torch.allclose(sde.speed * (sde.a + sde.b), (sde.speed * (sde.a + sde.b))[0])


# --- refusals -----------------------------------------------------------------------------------------------------


def test_it_warns_where_paths_come_to_an_end() -> None:
    with pytest.warns(UserWarning, match=r"^min\(a, b\) = 0.5 is below 1: paths come to that end"):
        Jacobi(0.5, 2.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Jacobi(a=0.0), "^a = 0.0; it must be a number above 0 and at most 20"),
        (lambda: Jacobi(b=-1.0), "^b = -1.0; it must be a number above 0"),
        (lambda: Jacobi(a=math.inf), "^a = inf; it must be a finite number"),
        (
            lambda: Jacobi(a=torch.tensor([1.0, -2.0])),
            "^a number of a = -2.0; it must be a number above 0 and at most 20",
        ),
        (lambda: Jacobi(b=21.0), "^b = 21.0; it must be a number above 0 and at most 20"),
        (lambda: Jacobi(a=torch.tensor([1.0, math.nan])), "^a holds NaN"),
        (lambda: Jacobi(T=0.0), "^T = 0.0; it must be positive"),
        (lambda: Jacobi(power=0.3), "^power = 0.3; it must be a number of at least 0.5"),
        (lambda: Jacobi(speed=1e-4), "^speed × T = 0.0001, which is too little noise"),
        (lambda: Jacobi(speed=0.0), "^speed = 0.0; it must be positive"),
        (
            lambda: Jacobi().perturb(torch.tensor([[0.2, 1.1]]), 0.5),
            r"^x_0 has 1 values outside of the domain \(0, 1\): 1.1",
        ),
        (lambda: Jacobi().perturb(torch.tensor([[math.nan]]), 0.5), r"^x_0 has 1 values outside.*nan"),
        (lambda: Jacobi().kernel(torch.full((1,), -0.1), 0.1, 0.5), r"^x_s has 1 values outside"),
        (lambda: Jacobi().kernel(torch.full((1,), 0.5), 0.5, 0.4), r"^s must not lie after t"),
        (
            lambda: Jacobi().kernel(torch.full((1,), 0.5), 0.5, 0.5).score(torch.full((1,), 0.5)),
            r"asked for at a time without noise",
        ),
        (
            lambda: Jacobi().kernel(torch.full((1,), 0.5), 0.5, 0.5).log_prob(torch.full((1,), 0.5)),
            r"asked for at a time without noise",
        ),
        (
            lambda: Jacobi(a=torch.ones(2)).perturb(torch.full((4, 3), 0.5), 0.5),
            r"^x has shape \(4, 3\) and a of the process \(2,\)",
        ),
        (lambda: Jacobi.of_dirichlet(torch.ones(1)), "^concentration has 1 number; a simplex"),
        (lambda: Jacobi.of_dirichlet(torch.ones(2, 2)), r"^concentration has shape \(2, 2\)"),
        (lambda: Jacobi.of_dirichlet(torch.tensor([1.0, 0.0])), r"^concentration holds 0; all"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()
