"""One body for every family: hypothesis draws the process, its parameters, times, shapes and dtypes."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen.models.exact import Exact


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


class Polynomial(sdegen.ScalarSDE):
    """Coefficients only: drift and noise are polynomials of time, with or without smoothed data."""

    def __init__(self, a: float, b: float, c: float, sigma_0: float) -> None:
        self.a, self.b, self.c, self.sigma_0 = a, b, c, sigma_0

    def f(self, t: Tensor) -> Tensor:
        return self.a - self.b * t

    def g(self, t: Tensor) -> Tensor:
        return (self.c + 3 * t * t).sqrt()


betas = st.lists(floats(1e-4, 0.3), min_size=3, max_size=30).map(lambda b: torch.tensor(b, dtype=torch.float64))
scalars = st.one_of(
    st.builds(sdegen.VP, floats(0.01, 1.0), floats(2.0, 30.0)),
    st.builds(sdegen.SubVP, floats(0.01, 1.0), floats(2.0, 30.0)),
    st.builds(sdegen.VE, floats(1e-3, 0.1), floats(5.0, 100.0)),
    st.builds(sdegen.EDM, floats(1e-3, 0.1), floats(5.0, 100.0)),
    st.builds(sdegen.OU, floats(0.2, 3.0), floats(0.5, 6.0)),
    st.builds(sdegen.DDPM, betas),
    st.builds(sdegen.Cosine),
    st.builds(sdegen.Rectified),
    st.builds(Polynomial, floats(-2.0, 1.0), floats(0.0, 10.0), floats(0.1, 2.0), st.sampled_from([0.0, 0.05])),
)
matrices = st.builds(sdegen.CLD, floats(2.0, 12.0), floats(0.01, 1.0), st.sampled_from([0.0, 0.05]))
processes = st.one_of(scalars, matrices)
shapes = st.sampled_from([(), (1,), (3,), (2, 4, 3)])
dtypes = st.sampled_from([torch.float32, torch.float64])
fractions = st.lists(floats(0.02, 0.98), min_size=3, max_size=3, unique=True).map(sorted)
seeds = st.integers(0, 2**20)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    scale = 1e-12 + b.abs().max().item()
    assert (a - b).abs().max().item() <= tolerance * scale


@given(processes, fractions)
def test_transitions_compose(sde: Any, u: list[float]) -> None:
    s, m, t = (sde.T * v for v in u)
    for first, then, both in (
        (sde.transition(s, m), sde.transition(m, t), sde.transition(s, t)),
        (sde.marginal(s), sde.transition(s, t), sde.marginal(t)),
    ):
        close((then.Phi @ first.Phi).matrix(), both.Phi.matrix(), 1e-8)
        composed = then.Phi @ first.covariance @ then.Phi.T + then.covariance
        close(composed.matrix(), both.covariance.matrix(), 1e-7)


@given(processes, floats(0.0, 1.0))
def test_data_and_noise_turn_into_state_and_velocity_and_back(sde: Any, u: float) -> None:
    at = sde.marginal(u * sde.T)
    if isinstance(sde, sdegen.MatrixSDE) and u < 1e-3:
        return  # the rotation's formula for matrices divides by C, and the root turns without limit near 0
    one = at.C.one().matrix()
    close((at.C @ at.C.T + at.S @ at.S.T).matrix(), one, 1e-8)
    close((at.A @ at.A.T + at.B @ at.B.T).matrix(), one, 1e-8)
    assert (at.C @ at.A.T + at.S @ at.B.T).matrix().abs().max() < 1e-8
    k = len(sde.Sigma_0)
    shape = (4, k, 2) if k > 1 else (4, 2)
    x_0, z = normal(1, *shape), normal(2, *shape)
    y, v = at.normalise(at.Phi(x_0) + at.R(z)), at.velocity(x_0, z)
    close(at.denoise(y, v), x_0, 1e-6)
    close(at.noise(y, v), z, 1e-6)


@given(processes, st.lists(floats(0.0, 1.0), min_size=2, max_size=8, unique=True))
def test_clock_and_snr_invert(sde: Any, u: list[float]) -> None:
    t = sde.T * torch.tensor(sorted(u), dtype=torch.float64)
    snr = sde.snr(t)
    assert (snr[1:] <= snr[:-1]).all()
    inner = t[(t > 1e-3 * sde.T) & (t < 0.999 * sde.T)]
    if len(inner) and sde.piece is None if isinstance(sde, sdegen.ScalarSDE) else len(inner):
        close(sde.time(sde.snr(inner)) / sde.T, inner / sde.T, 1e-7)


@given(processes, shapes, dtypes, seeds)
def test_perturbation_is_its_kernel_in_any_shape_and_dtype(
    sde: Any, shape: tuple[int, ...], dtype: torch.dtype, seed: int
) -> None:
    t = sde.T * torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).clamp_min(0.01)
    x_0 = normal(seed, 5, *shape).to(dtype)
    z = normal(seed + 1, *sde.lift(x_0).shape)
    drawn = sde.perturb(x_0, t, z=z.to(dtype))
    exact = sde.perturb(x_0.double(), t, z=z.to(dtype).double())
    assert drawn.x.dtype == dtype
    close(drawn.x.double(), exact.x, 1e-12 if dtype == torch.float64 else 1e-5)
    # Row by row, a batch is its rows.
    for i in range(5):
        alone = sde.perturb(x_0[i : i + 1], t[i], z=z[i : i + 1].to(dtype)).x
        close(alone.double(), drawn.x[i : i + 1].double(), 1e-12 if dtype == torch.float64 else 1e-5)
    close(exact.kernel.whiten(exact.x), exact.z, 1e-6)


@given(processes, shapes, floats(0.05, 0.95), seeds)
def test_observation_is_sufficient(sde: Any, shape: tuple[int, ...], u: float, seed: int) -> None:
    # y has the stated cosine and sine, and the rest of the state does not depend on the data.
    at = sde.marginal(u * sde.T)
    x_0, z = normal(seed, 4, *shape), normal(seed + 1, *sde.lift(normal(seed, 4, *shape)).shape)
    seen = at.observe(at(sde.lift(x_0)).sample(z))
    assert abs((seen.by.C.c**2 + seen.by.S.c**2).item() - 1) < 1e-9
    silent = at.observe(at.R(z)).y  # the same noise without data
    close(seen.y - silent, seen.by.C.c.item() * x_0, 1e-8)
    k = len(sde.Sigma_0)
    g = seen.by.W.T(torch.ones(1, 1, dtype=torch.float64)).reshape(k)  # how a score of y becomes one of the state
    p = (at.Phi.matrix() @ sde.embedding.matrix(1))[:, 0]
    rest = torch.zeros(1, 1, dtype=torch.float64) if seen.by.rest is None else seen.by.rest.matrix()
    assert (rest @ p).abs().max() < 1e-7 * (1 + rest.abs().max())
    assert abs((g @ at.covariance.matrix() @ g).item() - seen.by.S.c.item() ** 2) < 1e-9


@given(processes, floats(0.05, 0.95), seeds)
def test_exact_score_is_the_gradient_of_the_diffused_density(sde: Any, u: float, seed: int) -> None:
    law = sdegen.data.random_mixture(2, modes=3, seed=seed)
    diffused = sde.diffused(law, u * sde.T)
    x = diffused.sample(6, torch.Generator().manual_seed(seed)).requires_grad_()
    (slope,) = torch.autograd.grad(diffused.log_prob(x).sum(), x)
    close(Exact(sde, law).score(x.detach(), u * sde.T), slope, 1e-6)


@given(scalars, floats(0.1, 0.9))
def test_variance_of_a_transition_keeps_its_digits(sde: Any, u: float) -> None:
    # Over a short step the variance is g² h to first order: a difference of variances would be rounding.
    t = u * sde.T
    if sde.piece is not None:
        t = (math.floor(t / sde.piece) + 0.5) * sde.piece
    h = 1e-6 * sde.T * (1 if sde.piece is None else sde.piece)
    got = sde.transition(t, t + h).covariance.matrix().item() / h
    want = sde.g(torch.tensor(t + h / 2, dtype=torch.float64)).square().item() if callable(sde.g) else 0.0
    assert abs(got / want - 1) < 1e-4


def test_noise_enters_a_schedule_without_a_slope_at_zero_at_the_rate_of_its_limit():
    """``sigma² = 1 − alpha²`` grows like ``t``, so sigma has no slope at 0; the diffusion there is ``√(−2 f)`` all the same."""
    sde = sdegen.DDPM()
    t = torch.tensor([0.0, 0.3], dtype=torch.float64)
    torch.testing.assert_close(sde.g(t), (-2 * sde.f(t)).sqrt(), rtol=1e-6, atol=0)
    x = sdegen.simulate(sde, torch.ones(8, 1), 0.0, 1e-3, steps=4, generator=torch.Generator().manual_seed(0))
    assert x.isfinite().all()


def test_a_process_that_slows_towards_its_end_is_not_called_broken():
    """Near T its clock has less room than a stencil of fixed size."""

    class Breathing(sdegen.ScalarSDE):
        T = 2.0

        def f(self, t: Tensor) -> Tensor:
            return -1 - 4 * torch.sin(math.pi * t / 2).square()

        def g(self, t: Tensor) -> Tensor:
            return (-2 * self.f(t)).sqrt()

    class Humped(sdegen.ScalarSDE):
        def f(self, t: Tensor) -> Tensor:
            return -40 * t * (1 - t)

        def g(self, t: Tensor) -> Tensor:
            return (80 * t * (1 - t)).sqrt()

    for sde in (Breathing(), Humped()):
        report = sdegen.testing.check_sde(sde)
        assert report.passed, report
