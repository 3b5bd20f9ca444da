"""Matrices of three and more rows, neither symmetric nor square: in two dimensions one and its transpose are often the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen import metrics, samplers
from sdegen.laws.derivatives import ExactDivergence, Hutchinson, HutchPlusPlus
from sdegen.laws.diagonal import Diagonal
from sdegen.laws.kernels import Transition, posterior
from sdegen.laws.matrices import Matrix
from sdegen.laws.operators import Operator, Scale
from sdegen.processes.quadrature import van_loan
from sdegen.samplers import Matched, Multistep, Singlestep

seeds = st.integers(0, 10_000)
sizes = st.integers(3, 5)


def normal(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=normal(seed))


def covariance(seed: int, d: int) -> Tensor:
    A = matrix(seed, d, d)
    return A @ A.T / d + 0.2 * torch.eye(d, dtype=torch.float64)


def gaussian(seed: int, d: int) -> sdegen.GaussianMixture:
    return sdegen.GaussianMixture(torch.ones(1), matrix(seed + 1, 1, d), covariance(seed, d)[None])


def close(got: Tensor, want: Tensor, rtol: float = 1e-7) -> None:
    torch.testing.assert_close(got, want, rtol=rtol, atol=rtol * max(1.0, want.abs().max().item()))


class Three(sdegen.MatrixSDE):
    """Three channels that drive each other round, noise on two of them by a matrix that is no root of itself."""

    Sigma_0 = torch.diag(torch.tensor([0.04, 0.3, 0.5], dtype=torch.float64))

    def F(self, t: Tensor) -> Tensor:
        base = torch.tensor([[-0.5, 2.0, 0.3], [-1.0, -1.5, 0.8], [0.2, -0.7, -2.0]], dtype=torch.float64)
        return base * (1 + t)[..., None, None]

    def G(self, t: Tensor) -> Tensor:
        base = torch.tensor([[0.6, 0.0, 0.0], [0.9, 0.5, 0.0], [-0.4, 0.7, 1.1]], dtype=torch.float64)
        return base * (1 + 0.5 * t)[..., None, None]


class Steady(Three):
    """The same without a clock, in closed form."""

    def F(self, t: Tensor) -> Tensor:
        return super().F(torch.zeros_like(t))

    def G(self, t: Tensor) -> Tensor:
        return super().G(torch.zeros_like(t))

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros((), dtype=torch.float64)
        return van_loan(self.F(zero), self.G(zero) @ self.G(zero).T, t - s)


STEADY = Steady()  # one for all tests: its roots are a table


def moments_by_steps(sde: Three, s: float, t: float, n: int = 400) -> tuple[Tensor, Tensor]:
    """``Phi' = F Phi`` and ``Sigma' = F Sigma + Sigma Fᵀ + G Gᵀ`` from 1 and 0, by the classical Runge–Kutta method."""
    Phi, Sigma = torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    h = (t - s) / n

    def slope(u: float, P: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        F, G = (f(torch.tensor(u, dtype=torch.float64)) for f in (sde.F, sde.G))
        return F @ P, F @ S + S @ F.T + G @ G.T

    for k in range(n):
        u = s + k * h
        a = slope(u, Phi, Sigma)
        b = slope(u + h / 2, *(v + h / 2 * w for v, w in zip((Phi, Sigma), a)))
        c = slope(u + h / 2, *(v + h / 2 * w for v, w in zip((Phi, Sigma), b)))
        d = slope(u + h, *(v + h * w for v, w in zip((Phi, Sigma), c)))
        Phi, Sigma = (v + h / 6 * (p + 2 * q + 2 * r + o) for v, p, q, r, o in zip((Phi, Sigma), a, b, c, d))
    return Phi, Sigma


@pytest.mark.parametrize(("s", "t"), [(0.0, 0.3), (0.25, 0.9)])
def test_transitions_of_three_channels_are_their_moment_equations(s: float, t: float) -> None:
    sde = Three()
    Phi, Sigma = moments_by_steps(sde, s, t)
    step = sde.transition(s, t)
    close(step.Phi.matrix(), Phi, 1e-6)
    close(step.covariance.matrix(), Sigma, 1e-6)
    kernel = step(matrix(0, 5, 3, 2))
    close(kernel.mean, torch.einsum("ij,bjd->bid", Phi, matrix(0, 5, 3, 2)), 1e-6)


def test_the_law_of_three_channels_is_the_joint_normal() -> None:
    # The state of d numbers has the mean Phi e ⊗ m and the covariance Phi e eᵀ Phiᵀ ⊗ C + (Phi Sigma_0 Phiᵀ + Sigma) ⊗ 1.
    sde, d = STEADY, 4
    law, t = gaussian(3, d), 0.6
    Phi, Sigma = moments_by_steps(sde, 0.0, t)
    Q = Phi @ sde.Sigma_0 @ Phi.T + Sigma
    column = Phi[:, :1]
    m, C = law.means[0], law.covariances[0]
    joint = torch.kron(column @ column.T, C) + torch.kron(Q, torch.eye(d, dtype=torch.float64))
    mean = torch.kron(column[:, 0], m)
    x = matrix(5, 6, 3, d)
    off = x.flatten(1) - mean
    model = sdegen.Exact(sde, law)
    close(model.score(x, t).flatten(1), -torch.linalg.solve(joint, off.T).T, 1e-5)
    of_data = torch.kron(column.T, C)  # of data and state
    want = m + (of_data @ torch.linalg.solve(joint, off.T)).T
    close(sde.project(model.denoise(x, t)), want, 1e-5)
    root = sde.marginal(t).R.matrix()
    close(root @ root.T, Q, 1e-5)
    eps = -(root.T @ model.score(x, t).reshape(6, 3, d))
    close(model.noise(x, t), eps, 1e-5)


def test_the_posterior_of_a_step_is_that_of_the_joint_normal() -> None:
    sde, s, t = STEADY, 0.3, 0.7
    at_s, at_t, step = sde.marginal(s), sde.marginal(t), sde.transition(s, t)
    Q_s, T, S = at_s.covariance.matrix(), step.Phi.matrix(), step.covariance.matrix()
    gain = Q_s @ T.T @ torch.linalg.inv(T @ Q_s @ T.T + S)
    law = posterior(at_s, at_t, step)
    close(law.K.matrix(), gain, 1e-6)
    close(law.covariance.matrix(), Q_s - gain @ T @ Q_s, 1e-5)


@given(seeds, sizes)
def test_a_mixture_in_any_direction_is_its_density_and_its_draws(seed: int, d: int) -> None:
    law = sdegen.GaussianMixture(
        torch.tensor([0.3, 0.7]), matrix(seed, 2, d), torch.stack([covariance(seed + k, d) for k in range(2)])
    )
    x, sde, t = matrix(seed + 9, 5, d).requires_grad_(), sdegen.SubVP(), 0.35
    alpha, sigma = sde.alpha(torch.tensor(t).double()), sde.sigma(torch.tensor(t).double())

    def log_prob(x: Tensor, a: Any, s: Any) -> Tensor:
        parts = [
            torch.distributions.MultivariateNormal(a * m, a**2 * C + s**2 * torch.eye(d, dtype=torch.float64)).log_prob(
                x
            )
            for m, C in zip(law.means, law.covariances)
        ]
        return torch.logsumexp(torch.stack(parts) + torch.tensor([[0.3], [0.7]], dtype=torch.float64).log(), 0)

    close(law.log_prob(x), log_prob(x, 1.0, 0.0), 1e-6)
    want = torch.autograd.grad(log_prob(x, alpha, sigma).sum(), x)[0]
    close(sdegen.Exact(sde, law).score(x.detach(), t), want, 1e-6)
    mean = sum(w * m for w, m in zip((0.3, 0.7), law.means))
    C = sum(w * (C + torch.outer(m - mean, m - mean)) for w, m, C in zip((0.3, 0.7), law.means, law.covariances))
    close(law.moments().mean, mean, 1e-6)
    close(law.moments().covariance, C, 1e-6)


@pytest.mark.parametrize("d", [3, 5])
def test_draws_have_their_covariance_and_not_another_of_its_roots(d: int) -> None:
    for law in (gaussian(7, d), sdegen.OU(T=0.3).prior(gaussian(7, d).moments())):
        x = law.sample(60_000, normal(0))
        C = law.covariances[0]
        close(x.T.cov(), C.double(), 0.03)
        assert (torch.linalg.cholesky(C).T @ torch.linalg.cholesky(C) - C).abs().max() > 0.1  # the other one


@pytest.mark.thinned(3)
@pytest.mark.parametrize("d", [3, 4, 6])
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM(), sdegen.OU()], ids=lambda v: type(v).__name__)
def test_the_matched_reference_turns_into_the_axes_of_the_data(sde: Any, d: int) -> None:
    # The flow of Gaussian data stretches each axis of C by itself: √(lambda_s / lambda_t), lambda = alpha² c + sigma².
    law = gaussian(d, d)
    model, m = sdegen.Exact(sde, law), law.means[0]
    c, Q = torch.linalg.eigh(law.covariances[0])
    for sampler in (
        Multistep(3, order=1),
        Multistep(3, order=2, corrector=True),
        Singlestep(3, order=2),
        samplers.default(model, 9),
    ):
        times = sampler.times(sde, False)
        x_T = sde.sigma(times[0]) * matrix(1, 7, d)
        (a, s), (a_0, s_0) = ((sde.alpha(v), sde.sigma(v)) for v in (times[0], times[-1]))
        stretch = ((a_0**2 * c + s_0**2) / (a**2 * c + s**2)).sqrt()
        want = a_0 * m + ((x_T - a * m) @ Q * stretch) @ Q.T
        close(sdegen.sample(model, x_T=x_T, sampler=sampler, final="sample"), want, 1e-6)
    around = Matched().law(model)
    close(around.covariance, law.covariances[0])
    close(around.mean, m)


@given(seeds, sizes)
def test_divergences_are_traces_of_what_is_not_symmetric(seed: int, d: int) -> None:
    A, x = matrix(seed, d, d), matrix(seed + 1, 4, d)
    value, divergence = ExactDivergence()(lambda y: y @ A.T, x)
    close(value, x @ A.T)
    close(divergence, A.trace().expand(4))
    _, whole = HutchPlusPlus(3 * d)(lambda y: y @ A.T, x, generator=normal(0))
    close(whole, A.trace().expand(4), 1e-6)  # as many probes as span the space
    _, guess = Hutchinson(200)(lambda y: y @ A.T, x[:1], generator=normal(0))
    spread = math.sqrt(2 * ((A + A.T) / 2).square().sum().item() / 200)
    assert abs(guess.item() - A.trace().item()) < 6 * spread


@given(seeds)
def test_measurements_of_fewer_numbers_are_their_matrix(seed: int) -> None:
    A, x, y = matrix(seed, 2, 4), matrix(seed + 1, 5, 4), matrix(seed + 2, 5, 2)
    measurement = sdegen.measurements.Linear(A, 0.3)
    close(measurement(x), x @ A.T)
    close(measurement.transpose(y, torch.Size((4,))), y @ A)


@given(seeds, sizes)
def test_the_frechet_distance_of_laws_whose_axes_differ(seed: int, d: int) -> None:
    import scipy.linalg

    p, q = gaussian(seed, d).moments(), gaussian(seed + 100, d).moments()
    root = scipy.linalg.sqrtm((p.covariance @ q.covariance).numpy()).real
    want = (p.mean - q.mean).square().sum() + p.covariance.trace() + q.covariance.trace() - 2 * root.trace()
    assert metrics.frechet_distance(p, q) == pytest.approx(float(want), rel=1e-6, abs=1e-6)


def test_the_rotation_of_a_transition_is_orthogonal_in_three_channels() -> None:
    at: Transition = STEADY.marginal(0.4)
    C, S, A, B = (v.matrix() for v in (at.C, at.S, at.A, at.B))
    whole = torch.cat([torch.cat([C, S], 1), torch.cat([A, B], 1)])
    close(whole @ whole.T, torch.eye(6, dtype=torch.float64), 1e-6)
    close(at.r.matrix() @ at.r.matrix().T, at.Phi.matrix() @ at.Phi.matrix().T + at.R.matrix() @ at.R.matrix().T, 1e-6)
    x_0, z = matrix(0, 5, 3, 2), matrix(1, 5, 3, 2)
    y, v = at.C(x_0) + at.S(z), at.velocity(x_0, z)
    close(at.denoise(y, v), x_0, 1e-6)
    close(at.noise(y, v), z, 1e-6)


def test_one_matrix_of_a_batch_without_an_inverse_is_refused() -> None:
    M = torch.stack([torch.eye(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)])
    for matrices in (M, M.flip(0)):
        with pytest.raises(ValueError, match="has no inverse"):
            sdegen.Matrix(matrices).inv()
    close(sdegen.Matrix(M[:1] * 2).inv().matrix(), M[:1] / 2)


def test_the_truth_on_a_grid_knows_the_moments_of_its_data() -> None:
    law = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 1), 0.5), torch.full((1,), 0.04))
    model = sdegen.FokkerPlanck(sdegen.DoubleWell(T=0.5), law)
    assert model.moments is not None and model.moments.mean.item() == pytest.approx(0.5)
    assert model.moments.variance().item() == pytest.approx(0.04)


KINDS = [lambda c: Scale(c[:, 0]), Diagonal, lambda c: Matrix(c[:, :, None] * c[:, None])]


@pytest.mark.parametrize("n", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS, ids=["scale", "diagonal", "matrix"])
def test_maps_of_rows_split_into_the_map_of_each(kind: Callable[[Tensor], Operator], n: int) -> None:
    rows, x = kind(torch.arange(1.0, 1 + 2 * n).reshape(n, 2)), torch.ones(1, 2)
    each = rows.each(n)
    assert len(each) == n and all(torch.equal(A(x), rows[i](x)) for i, A in enumerate(each))


@pytest.mark.parametrize(
    "kind", [*KINDS[:2], lambda c: Matrix(c.diag_embed() + 0.1)], ids=["scale", "diagonal", "matrix"]
)
def test_the_volume_of_a_map_is_that_of_its_matrix_whatever_the_signs(kind: Callable[[Tensor], Operator]) -> None:
    A = kind(torch.tensor([[-0.5, 2.0], [-3.0, -0.7], [1.5, -4.0]], dtype=torch.float64))
    close(A.log_abs_det(), torch.linalg.slogdet(A.matrix()).logabsdet)


@pytest.mark.parametrize("kind", KINDS, ids=["scale", "diagonal", "matrix"])
def test_maps_of_blocks_of_rows_are_summed_with_weights(kind: Callable[[Tensor], Operator]) -> None:
    c, w = (torch.randn(6, 2, dtype=torch.float64, generator=normal(k)) for k in range(2))
    for rows in (kind(c), kind(c[:1])):  # one for all rows, too
        each = rows.matrix().expand(6, *rows.matrix().shape[1:]).unflatten(0, (3, 2))
        close(rows.mix(w[:3]).matrix(), torch.einsum("nm,nmij->nij", w[:3], each))


@pytest.mark.parametrize("kind", KINDS, ids=["scale", "diagonal", "matrix"])
def test_maps_put_together_in_blocks_are_each_for_its_own_rows(kind: Callable[[Tensor], Operator]) -> None:
    c, x = torch.tensor([[1.0, 2.0], [-3.0, 0.5]], dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    maps = [kind(c[:1]), kind(c[1:])]
    together = type(maps[0]).blocks(maps, 3)
    close(together(x), torch.cat([A(x[3 * i : 3 * i + 3]) for i, A in enumerate(maps)]))
    assert len(together.matrix()) == 6 and together.matrix().ndim == 3


@pytest.mark.parametrize("one", [Scale(2.0), Diagonal(torch.ones(1, 2)), Matrix(torch.eye(2))])
def test_one_map_for_all_rows_is_that_of_each(one: Operator) -> None:
    assert one.each(3) == [one] * 3


def test_the_bound_of_gaussian_data_is_their_density_at_every_draw() -> None:
    d = 2
    law = sdegen.GaussianMixture(torch.ones(1), matrix(1, 1, d), torch.rand(1, d, generator=normal(2)).double() + 0.3)
    x, sde = law.sample(5, normal(3)).double(), Three()
    found = sdegen.elbo(sdegen.Exact(sde, law), x, prior=sde.diffused(law, sde.T), draws=3, generator=normal(4))
    close(found.value, law.log_prob(x), 0.02)  # but for what is before t_min
    assert found.stderr.max() < 0.01


def test_the_posterior_of_one_datum_of_a_coupled_process_is_that_datum() -> None:
    class Coupled(sdegen.processes.CorrelatedSDE):
        def F(self, t: Tensor) -> Tensor:
            return -covariance(3, 3).expand(*t.shape, 3, 3)

        def G(self, t: Tensor) -> Tensor:
            return matrix(4, 3, 3).expand(*t.shape, 3, 3)

    x, y = matrix(1, 1, 3), matrix(2, 4, 3)
    close(sdegen.Exact(Coupled(), sdegen.Empirical(x)).denoise(y, 0.4), x.expand(4, 3), 1e-9)
