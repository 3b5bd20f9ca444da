"""Time series: posteriors of stationary Gaussian processes against their closed form, and derivatives that are no covariance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import sdegen
from sdegen import measurements, samplers
from sdegen.guidance import KalmanUpdate, MomentMatching, minimal_residuals
from sdegen.guidance.kalman import _diagonal

F64 = torch.float64


def smooth(length: int, width: float, jitter: float) -> sdegen.GaussianMixture:
    """A stationary process with a squared-exponential covariance, nearly singular."""
    place = torch.arange(length, dtype=F64)
    C = (-0.5 * ((place[:, None] - place) / width).square()).exp() + jitter * torch.eye(length)
    return sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, length), C[None])


def rough(length: int, memory: float) -> sdegen.GaussianMixture:
    """The Ornstein–Uhlenbeck process at whole times."""
    place = torch.arange(length, dtype=F64)
    C = (-(place[:, None] - place).abs() / memory).exp()
    return sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, length), C[None])


def with_a_gap(length: int, every: int, std: float) -> measurements.Mask:
    seen = torch.zeros(length, dtype=torch.bool)
    seen[::every] = True
    seen[length // 4 : length // 2] = False
    return measurements.Mask(seen, std)


def seen_of(law: sdegen.GaussianMixture, A: measurements.Measurement) -> torch.Tensor:
    return A.sample(law.sample(1, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1))[0]


def kalman_smoother(F: np.ndarray, Q: np.ndarray, P: np.ndarray, y: np.ndarray, std: float) -> tuple[Any, Any]:
    """Means and variances of the first component of ``z_t = F z_(t-1) + N(0, Q)``, given noisy values of it, NaN where unseen.

    Filter and smoother of Kalman, and of Rauch, Tung and Striebel, written without a covariance of the whole series.
    """
    m, filtered, predicted = np.zeros(len(F)), [], []
    for t, value in enumerate(y):
        m, P = (F @ m, F @ P @ F.T + Q) if t else (m, P)
        predicted.append((m, P))
        if not np.isnan(value):
            gain = P[:, 0] / (P[0, 0] + std**2)
            m, P = m + gain * (value - m[0]), P - np.outer(gain, P[0])
        filtered.append((m, P))
    found = [filtered[-1]]
    for (m, P), (ahead, V) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):
        back = P @ F.T @ np.linalg.inv(V)
        found.append((m + back @ (found[-1][0] - ahead), P + back @ (found[-1][1] - V) @ back.T))
    return np.array([m[0] for m, _ in found[::-1]]), np.array([P[0, 0] for _, P in found[::-1]])


@pytest.mark.parametrize("std", [1e-3, 0.1, 1.0])
def test_posteriors_of_an_autoregression_are_those_of_the_kalman_smoother(std: float) -> None:
    F, Q = np.array([[1.6, -0.8], [1.0, 0.0]]), np.diag([1.0, 0.0])
    P = np.linalg.solve(np.eye(4) - np.kron(F, F), Q.flatten()).reshape(2, 2)
    C = np.array([[(np.linalg.matrix_power(F, abs(i - j)) @ P)[0, 0] for j in range(40)] for i in range(40)])
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 40), torch.from_numpy(C)[None])
    A = with_a_gap(40, 1, std)
    y = seen_of(law, A)
    whole = np.full(40, np.nan)
    whole[A.places.numpy()] = y.numpy()
    means, variances = kalman_smoother(F, Q, P, whole, std)
    found = measurements.mixture_posterior(law, A, y).moments()
    torch.testing.assert_close(found.mean, torch.from_numpy(means), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.covariance.diagonal(), torch.from_numpy(variances), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("sde", "length", "std"),
    [
        (sdegen.VP(), 16, 1e-3),
        (sdegen.EDM(), 64, 1.0),
        pytest.param(sdegen.VP(), 64, 1e-3, marks=pytest.mark.slow),
        pytest.param(sdegen.VP(), 128, 1.0, marks=pytest.mark.slow),
        pytest.param(sdegen.EDM(), 128, 1e-3, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_moment_matching_of_a_series_is_the_smoother(sde: sdegen.SDE, length: int, std: float) -> None:
    for law, every in ((smooth(length, 8.0, 1e-6), 5), (smooth(length, 20.0, 1e-8), 2), (rough(length, 10.0), 1)):
        A = with_a_gap(length, every, std)
        y = seen_of(law, A)
        posterior = measurements.mixture_posterior(law, A, y)
        wrapped, truth = MomentMatching(sdegen.Exact(sde, law), A), sdegen.Exact(sde, posterior)
        for ratio in (30.0, 1.0, 0.03):
            t = sde.time(torch.tensor(ratio**-2, dtype=F64))
            at, data = sde.marginal(t), posterior.sample(3, torch.Generator().manual_seed(2))
            x = at.Phi(data) + at.R(torch.randn(data.shape, dtype=F64, generator=torch.Generator().manual_seed(3)))
            torch.testing.assert_close(wrapped.denoise(x, t, y=y), truth.denoise(x, t), rtol=0, atol=5e-3)


class Flawed(sdegen.ScoreModel):
    """The truth of a law with an error of its velocity that is linear in the state and has no symmetry, as networks err."""

    def __init__(self, sde: Any, law: sdegen.GaussianMixture, error: float) -> None:
        self.sde, self.moments, self.inside = sde, law.moments(), sdegen.Exact(sde, law)
        d = law.event_shape[0]
        self.error = error * torch.randn(d, d, dtype=F64, generator=torch.Generator().manual_seed(5)) / d**0.5

    def estimate(self, x: torch.Tensor, t: Any, /, **cond: Any) -> tuple[torch.Tensor, torch.Tensor]:
        at = self.sde.marginal(t)
        y = at.normalise(x)
        v = at.velocity(*self.inside.estimate(x, t)) + y @ self.error
        return at.denoise(y, v), at.noise(y, v)

    def score(self, x: torch.Tensor, t: Any, /, **cond: Any) -> torch.Tensor:
        return self.sde.marginal(t).score_from_noise(self.estimate(x, t)[1])


@pytest.mark.parametrize(
    ("sde", "std"),
    [(sdegen.VP(), 1e-3), pytest.param(sdegen.EDM(), 1e-3, marks=pytest.mark.slow)],
    ids=str,
)
def test_a_derivative_that_is_no_covariance_leads_nowhere_else(sde: sdegen.SDE, std: float) -> None:
    """The error of the mean stays below the spread of the data, which conjugate gradients leave."""
    law = smooth(64, 8.0, 1e-6)
    A = with_a_gap(64, 5, std)
    y = seen_of(law, A)
    wrapped = MomentMatching(Flawed(sde, law, 0.02), A)
    x = sdegen.sample(wrapped, 20, sampler=samplers.ExponentialSDE(20), seed=0, y=y)
    assert (x.mean(0) - measurements.mixture_posterior(law, A, y).moments().mean).abs().max() < 1
    assert x.abs().max() < 6


@pytest.mark.parametrize(("sde", "std"), [(sdegen.VP(), 1e-3), (sdegen.EDM(), 1.0), (sdegen.CLD(), 0.1)], ids=str)
def test_kalman_updates_of_a_series_are_the_smoother(sde: sdegen.SDE, std: float) -> None:
    for law, every in ((smooth(16, 8.0, 1e-6), 5), (rough(16, 10.0), 1)):
        A = with_a_gap(16, every, std)
        y = seen_of(law, A)
        posterior = measurements.mixture_posterior(law, A, y)
        wrapped, truth = KalmanUpdate(sdegen.Exact(sde, law), A), sdegen.Exact(sde, posterior)
        for t in (0.9 * sde.T, 0.3 * sde.T, 0.02 * sde.T):
            at, data = sde.marginal(t), sde.lift(posterior.sample(3, torch.Generator().manual_seed(2)))
            x = at.Phi(data) + at.R(torch.randn(data.shape, dtype=F64, generator=torch.Generator().manual_seed(3)))
            torch.testing.assert_close(wrapped.denoise(x, t, y=y), truth.denoise(x, t), rtol=0, atol=1e-5)


def test_kalman_updates_meet_a_precise_measurement_whatever_the_derivative_of_the_model() -> None:
    """Mean and spread are the smoother's where moment matching leaves them."""
    law = smooth(64, 8.0, 1e-6)
    A = with_a_gap(64, 5, 1e-3)
    y = seen_of(law, A)
    wrapped = KalmanUpdate(Flawed(sdegen.VP(), law, 0.02), A)
    x = sdegen.sample(wrapped, 100, sampler=samplers.ExponentialSDE(12), seed=0, y=y)
    smoother = measurements.mixture_posterior(law, A, y).moments()
    gap = slice(18, 30)  # where the smoother is unsure
    std = smoother.covariance.diagonal().sqrt()[gap]
    assert ((x.mean(0) - smoother.mean)[gap] / std).abs().max() < 0.5
    assert ((x.std(0)[gap] / std).log()).abs().max() < 0.3


@pytest.mark.parametrize(
    "operator",
    [measurements.Mask(torch.arange(100).reshape(1, 100) % 3 > 0, 1e-4), measurements.Blur(1.5, 1e-4)],
    ids=str,
)
def test_kalman_updates_by_variances_are_those_by_their_matrix_however_precise(operator: Any) -> None:
    """Of variances that span five orders, where conjugate gradients without a preconditioner do not arrive."""
    draws = torch.Generator().manual_seed(0)
    V = (-12 * torch.rand(100, dtype=F64, generator=draws)).exp()
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 100), torch.ones(1))
    x, t = torch.randn(3, 1, 100, dtype=F64, generator=draws), torch.tensor([0.3, 0.5, 0.3])
    y = operator.sample(x[:1], draws)[0]
    by_variances, by_matrix = (KalmanUpdate(sdegen.Exact(sdegen.VP(), law), operator, C) for C in (V, V.diag()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = by_variances.denoise(x, t, y=y)
    torch.testing.assert_close(found, by_matrix.denoise(x, t, y=y), rtol=0, atol=1e-7)
    alone = torch.cat([by_matrix.denoise(x[i : i + 1], t[i], y=y) for i in range(3)])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "operator", [measurements.Blur(1.5, 0.1), measurements.Mask(torch.arange(20)[None] % 3 > 0, std=0.1)], ids=str
)
def test_conjugate_gradients_alone_arrive_at_a_kalman_update(operator: Any) -> None:
    """With a number of iterations given, no other way is taken where they do not."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 20), torch.ones(1))
    x, y = (torch.randn(n, 1, 20, dtype=F64, generator=torch.Generator().manual_seed(n)) for n in (3, 1))
    V, inside = torch.linspace(0.1, 1, 20, dtype=F64), sdegen.Exact(sdegen.VP(), law)
    y = operator.measure(y)[0]
    found = KalmanUpdate(inside, operator, V, iterations=40).denoise(x, 0.4, y=y)
    torch.testing.assert_close(found, KalmanUpdate(inside, operator, V.diag()).denoise(x, 0.4, y=y), rtol=0, atol=1e-6)


def test_kalman_updates_that_are_not_solved_warn_of_how_far_they_are_off() -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 100), torch.ones(1))
    wrapped = KalmanUpdate(sdegen.Exact(sdegen.VP(), law), measurements.Blur(1.5, 1e-4), torch.ones(100), iterations=3)
    with pytest.warns(
        UserWarning,
        match=r"not solved for what was measured in 3 iterations: predicted data miss y by [\d.e+]+ standard",
    ):
        wrapped.denoise(torch.zeros(2, 1, 100, dtype=F64), 0.5, y=(torch.arange(100) % 7).double()[None])


def test_kalman_updates_take_a_covariance_in_the_units_of_the_data() -> None:
    law, std = rough(8, 10.0), torch.linspace(1, 5, 8).double()
    C = std[:, None] * law.covariances[0] * std
    wide = sdegen.GaussianMixture(torch.ones(1), 3 * torch.ones(1, 8), C[None])
    sde = sdegen.VP().in_units(sdegen.Units(3 * torch.ones(8), std))
    A = with_a_gap(8, 1, 0.1)
    y = seen_of(wide, A)
    x, truth = sde.lift(wide.sample(3)), sdegen.Exact(sde, measurements.mixture_posterior(wide, A, y))
    inside = sdegen.Exact(sde, wide)
    for wrapped in (KalmanUpdate(inside, A), KalmanUpdate(inside, A, covariance=C)):
        torch.testing.assert_close(wrapped.denoise(x, 0.5, y=y), truth.denoise(x, 0.5))
    alone = KalmanUpdate(inside, A, covariance=std.square()).denoise(x, 0.5, y=y)  # as if places were independent
    torch.testing.assert_close(alone[:, ~A.mask], inside.denoise(x, 0.5)[:, ~A.mask])
    with pytest.raises(ValueError, match=r"covariance has shape \(3, 3\), of data of 8 numbers"):
        KalmanUpdate(inside, A, covariance=torch.eye(3)).denoise(x, 0.5, y=y)
    with pytest.raises(ValueError, match=r"covariance has shape \(2, 3\); give that of d numbers"):
        KalmanUpdate(inside, A, covariance=torch.ones(2, 3))


@pytest.mark.parametrize("iterations", [1, 2, 5, None])
def test_minimal_residuals_are_the_least_of_the_krylov_space(iterations: int | None) -> None:
    generator = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(7, 7, dtype=F64, generator=generator)).Q
    M, b = turn @ torch.linspace(1, 4, 7).double().diag() @ turn.T, torch.randn(3, 7, dtype=F64, generator=generator)
    u = minimal_residuals(lambda u: u @ M, b, iterations, least=1.0)
    k = 7 if iterations is None else iterations
    K = torch.stack([b @ torch.linalg.matrix_power(M, j) for j in range(k)], -1)
    want = K @ torch.linalg.lstsq(M @ K, b[..., None]).solution
    torch.testing.assert_close(u, want[..., 0], rtol=1e-7, atol=1e-9)


def test_minimal_residuals_grow_with_no_map_and_stop_where_it_is_none() -> None:
    generator = torch.Generator().manual_seed(0)
    b = torch.randn(40, 6, dtype=F64, generator=generator)
    b[3] = 0
    M = torch.randn(40, 6, 6, dtype=F64, generator=generator)
    times = lambda M: lambda u: (M @ u[..., None])[..., 0]
    left = b.norm(dim=1)
    for iterations in range(1, 7):
        u = minimal_residuals(times(M), b, iterations)
        after = (b - times(M)(u)).norm(dim=1)
        assert (after <= left * (1 + 1e-12)).all()
        left = after
    assert (minimal_residuals(times(-M @ M.mT), b) == 0).all()  # negative
    skew = torch.eye(6, dtype=F64) + 10 * (M - M.mT)
    u = minimal_residuals(times(skew), b)
    torch.testing.assert_close(u, minimal_residuals(times(skew), b, 1))  # the second product depends on the order
    sound = M @ M.mT + torch.eye(6)
    torch.testing.assert_close(minimal_residuals(times(sound), b, least=1.0), torch.linalg.solve(sound, b))
    assert (minimal_residuals(times(sound), b, least=1e4) == 0).all()


@pytest.mark.parametrize("power", [-120, 120])
def test_minimal_residuals_are_linear_in_the_right_side(power: int) -> None:
    generator = torch.Generator().manual_seed(1)
    half = torch.randn(6, 6, dtype=F64, generator=generator)
    M, b = half @ half.T + 0.1 * torch.eye(6), torch.randn(5, 6, dtype=F64, generator=generator)
    for iterations in (1, 3, None):
        u, scaled = (minimal_residuals(lambda u: u @ M, c * b, iterations, 0.1) for c in (1.0, 2.0**power))
        assert torch.equal(scaled, 2.0**power * u)


def test_rows_of_other_noise_are_corrected_each_by_its_own() -> None:
    law, A = smooth(16, 8.0, 1e-6), with_a_gap(16, 5, 0.1)
    inside, y = sdegen.Exact(sdegen.VP(), law), seen_of(law, A)
    t = torch.tensor([0.6, 0.2, 0.9, 0.2, 0.05, 0.6], dtype=F64)
    x = torch.randn(len(t), *law.event_shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    C = law.moments().covariance
    for wrapped in (KalmanUpdate(inside, A, covariance=C), KalmanUpdate(inside, A, covariance=C.diagonal())):
        alone = torch.cat([wrapped.denoise(x[i : i + 1], t[i], y=y) for i in range(len(t))])
        torch.testing.assert_close(wrapped.denoise(x, t, y=y), alone, rtol=0, atol=1e-8)


@pytest.mark.parametrize("C", [torch.tensor([1.0, 0.0, 2.0]), torch.diag(torch.tensor([1.0, 0.0, 2.0]))])
@pytest.mark.parametrize("t", [0.0, 0.5])
def test_data_that_do_not_vary_are_not_corrected(C: torch.Tensor, t: float) -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.ones(1, 3))
    inside, A = sdegen.Exact(sdegen.VP(), law), measurements.Mask([True, True, False], std=0.1)
    x, y = torch.ones(2, 3, dtype=F64), torch.tensor([0.3, 0.7], dtype=F64)
    moved = KalmanUpdate(inside, A, covariance=C).denoise(x, t, y=y) - inside.denoise(x, t)
    assert moved.isfinite().all() and (moved[:, 1:] == 0).all() and bool((moved[:, 0] == 0).all()) == (t == 0)


def test_the_diagonal_of_a_map_that_sees_single_coordinates_is_exact() -> None:
    a, place = torch.linspace(-2, 3, 7, dtype=F64), torch.tensor([3, 0, 0, 4, 1, 2, 3])
    forth = lambda v: a * v[..., place]  # some are seen twice, and some not at all
    root = torch.ones(2, 5, dtype=F64)
    torch.testing.assert_close(_diagonal(forth, root), a.square().expand(2, 7))
