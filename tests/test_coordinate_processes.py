"""Linear processes by coordinate and with noise that is correlated across the data: one process written four ways, kernels held
against another implementation, and what is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from torch import Tensor

import sdegen
from sdegen import Diagonal, Matrix, Scale, coordinates, nets, samplers
from sdegen.laws import bases
from sdegen.laws.diagonal import mean_log_snr
from sdegen.laws.embedding import IntoChannels
from sdegen.laws.marginals import Marginal

RATE = 0.7
L = torch.tensor([[1.0, 0.0], [1.1, 0.6]], dtype=torch.float64)  # of the noise, per root of time
VARIANCES, Q = torch.linalg.eigh(L @ L.T)
T = 4.0
DATA = sdegen.GaussianMixture(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[1.0, -0.5], [-0.8, 0.6]]),
    torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.1, -0.05], [-0.05, 0.3]]]),
)


class Coloured(sdegen.CorrelatedSDE):
    """``dx = −a x dt + L dw``."""

    T = T

    def F(self, t: Tensor) -> Tensor:
        return -RATE * torch.eye(2, dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        return L


class Principal(sdegen.CoordinateSDE):
    """The same in the principal axes of ``L Lᵀ``."""

    T = T
    basis = bases.Axes(Q)

    def f(self, t: Tensor) -> Tensor:
        return -RATE * torch.ones(*t.shape, 2, dtype=torch.float64)

    def g(self, t: Tensor) -> Tensor:
        return VARIANCES.sqrt().expand(*t.shape, 2)


class White(sdegen.ScalarSDE):
    """The same for ``L⁻¹ x``."""

    T = T

    def f(self, t: Tensor) -> Tensor:
        return -RATE + 0 * t

    def g(self, t: Tensor) -> Tensor:
        return 1 + 0 * t


class Written(sdegen.SDE):
    """The same as drift and diffusion."""

    T = T

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -RATE * x

    def diffusion(self, x: Tensor, t: Tensor) -> Matrix:
        return Matrix(L)


class ScoreOf(sdegen.ScoreModel):
    """The score of another model, for another way to write its process."""

    def __init__(self, sde: sdegen.SDE, model: sdegen.ScoreModel) -> None:
        self.sde, self.model, self.moments = sde, model, model.moments

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        return self.model.score(x, t)


W = coordinates.Whitening(torch.zeros(2), torch.linalg.inv(L))
WHITE_DATA = sdegen.GaussianMixture(
    DATA.weights, W(DATA.means), torch.linalg.inv(L) @ DATA.covariances @ torch.linalg.inv(L).T
)
FULL = sdegen.Exact(Coloured(), DATA)
BY_AXES = sdegen.Exact(Principal(), DATA)
WHITENED = sdegen.Exact(White().in_coordinates(W), WHITE_DATA)
WRITTEN = ScoreOf(Written(), FULL)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


def covariance(A: Any) -> Tensor:
    return A.covariance.matrix().reshape(2, 2)


@pytest.mark.parametrize("t", [0.01, 0.8, T])
def test_one_process_written_four_ways_has_one_law(t: float) -> None:
    laws = [m.sde.marginal(t) for m in (FULL, BY_AXES)]
    known = (1 - math.exp(-2 * RATE * t)) / (2 * RATE) * L @ L.T
    for law in laws:
        close(covariance(law), known, 1e-10)
        close(law.Phi.matrix().reshape(2, 2), math.exp(-RATE * t) * torch.eye(2, dtype=torch.float64), 1e-10)
    close(L @ L.T * WHITENED.sde.marginal(t).covariance.matrix()[0, 0], known, 1e-10)
    x, s = normal(6, 2), 0.4 * t
    kernel = Written().kernel(x, s, t)
    for sde in (Coloured(), Principal()):
        same = sde.kernel(x, s, t)
        close(kernel.mean, same.mean, 1e-9)
        close(kernel.log_prob(x), same.log_prob(x), 1e-9)


@pytest.mark.parametrize("t", [0.01, 0.8, T])
def test_one_process_written_four_ways_has_one_score(t: float) -> None:
    x = normal(8, 2)
    score = FULL.score(x, t)
    close(BY_AXES.score(x, t), score, 1e-9)
    close(WHITENED.score(x @ torch.linalg.inv(L).T, t) @ torch.linalg.inv(L), score, 1e-9)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(FULL.sde.diffused(DATA, t).log_prob(leaf).sum(), leaf)
    close(score, slope, 1e-9)
    for reading in ("denoise", "velocity"):  # their roots differ: of the noise, only the score's part is one
        assert getattr(BY_AXES, reading)(x, t).isfinite().all()
    close(BY_AXES.denoise(x, t), FULL.denoise(x, t), 1e-8)


WAYS = {"full": FULL, "axes": BY_AXES, "white": WHITENED, "written": WRITTEN}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.turns("*")
def test_one_process_written_four_ways_has_one_likelihood(way: str) -> None:
    model, x = WAYS[way], DATA.sample(2, torch.Generator().manual_seed(1))
    at_T = (
        model.sde.diffused(WHITE_DATA if way == "white" else DATA, T)
        if way != "written"
        else FULL.sde.diffused(DATA, T)
    )
    assert (sdegen.log_prob(model, x, prior=at_T) - DATA.log_prob(x)).abs().max() < 1e-4


@pytest.mark.parametrize("way", ["axes", "white"])
@pytest.mark.turns("*")
def test_one_process_written_otherwise_flows_to_the_same_samples(way: str) -> None:
    end, flow = normal(4, 2), samplers.ProbabilityFlow(rtol=1e-6, atol=1e-6)
    start = end @ torch.linalg.inv(L).T if way == "white" else end
    close(sdegen.sample(WAYS[way], x_T=start, sampler=flow), sdegen.sample(FULL, x_T=end, sampler=flow), 1e-4)


def test_one_process_written_otherwise_draws_the_same_samples_on_the_same_noise() -> None:
    end, grid = normal(20, 2), sdegen.grids.Uniform(end=0.05)
    run: dict[str, Any] = {"sampler": samplers.EulerMaruyama(20, grid), "seed": 3, "final": "sample"}
    drawn = sdegen.sample(FULL, x_T=end, **run)
    close(sdegen.sample(WRITTEN, x_T=end, **run), drawn, 1e-8)
    close(sdegen.sample(WHITENED, x_T=end @ torch.linalg.inv(L).T, **run), drawn, 1e-8)
    turn = torch.linalg.solve(
        Q @ VARIANCES.sqrt().diag() @ Q.T, L
    )  # from one root of the noise's covariance to the other

    def source(seed: int, first: int, times: Tensor) -> Callable[[Tensor], Tensor]:
        inner = samplers.SampleNoise(seed, first, times)
        return lambda like: inner(like) @ turn.T

    close(sdegen.sample(BY_AXES, x_T=end, noise=source, **run), drawn, 1e-8)


class Uneven(sdegen.CoordinateSDE):
    """Rates that differ by coordinate and change with time."""

    def f(self, t: Tensor) -> Tensor:
        return torch.stack([-0.5 - t, -(2 + (7 * t).sin())], -1)

    def g(self, t: Tensor) -> Tensor:
        return torch.stack([1 + t.square(), 0.3 + t.exp()], -1)


class Spiral(sdegen.CorrelatedSDE):
    """A drift that turns, ever faster, and noise of changing colour."""

    def F(self, t: Tensor) -> Tensor:
        zero = torch.zeros_like(t)
        return torch.stack([torch.stack([zero - 1, 2 + 3 * t], -1), torch.stack([-3 * t - 1, zero - 0.5], -1)], -2)

    def G(self, t: Tensor) -> Tensor:
        zero = torch.zeros_like(t)
        return torch.stack([torch.stack([1 + t, zero], -1), torch.stack([t.sin() + 0.4, zero + 0.7], -1)], -2)


def test_kernels_by_coordinate_are_those_of_another_quadrature() -> None:
    s, t = 0.15, 0.9
    law = Uneven().transition(s, t)
    for i in range(2):

        def f(u: float, i: int = i) -> float:
            return float(Uneven().f(torch.tensor(u, dtype=torch.float64))[i])

        def noise(u: float, i: int = i) -> float:
            left = integrate.quad(f, u, t, epsabs=1e-13, epsrel=1e-13)[0]
            return float(Uneven().g(torch.tensor(u, dtype=torch.float64))[i]) ** 2 * math.exp(2 * left)

        alpha = math.exp(integrate.quad(f, s, t, epsabs=1e-13, epsrel=1e-13)[0])
        assert abs(law.Phi.c[0, i].item() / alpha - 1) < 1e-10
        variance = integrate.fixed_quad(np.vectorize(noise), s, t, n=24)[0]
        assert abs(law.R.c[0, i].item() ** 2 / variance - 1) < 1e-10


def test_kernels_of_correlated_noise_are_those_of_another_integrator() -> None:
    sde, s, t = Spiral(), 0.15, 0.9

    def slope(u: float, y: Any) -> Any:
        F, G = (c(torch.tensor(u, dtype=torch.float64)).numpy() for c in (sde.F, sde.G))
        Phi, Sigma = y[:4].reshape(2, 2), y[4:].reshape(2, 2)
        return np.concatenate([(F @ Phi).ravel(), (F @ Sigma + Sigma @ F.T + G @ G.T).ravel()])

    start = np.concatenate([np.eye(2).ravel(), np.zeros(4)])
    found = integrate.solve_ivp(slope, (s, t), start, method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    law = sde.transition(s, t)
    assert np.abs(law.Phi.M.numpy() - found[:4].reshape(2, 2)).max() < 1e-10
    assert np.abs(covariance(law).numpy() - found[4:].reshape(2, 2)).max() < 1e-10


def test_the_clock_is_what_a_state_tells_of_its_datum() -> None:
    t = torch.tensor([0.02, 0.5, 0.97], dtype=torch.float64)
    for sde in (Uneven(), Spiral()):
        law = sde.marginal(t)
        Phi, Sigma = law.Phi.matrix(), law.covariance.matrix()
        told = 0.5 * torch.linalg.slogdet(torch.eye(2).double() + Phi.mT @ torch.linalg.inv(Sigma) @ Phi).logabsdet
        close(0.5 * torch.log1p(sde.snr(t)), told / 2, 1e-10)
        close(sde.time(sde.snr(t)), t, 1e-8)
        close(law.snr, sde.snr(t), 1e-9)
    # Of numbers and of channels it is what it was: alpha² / sigma², and pᵀ Sigma⁻¹ p.
    close(sdegen.VP().marginal(t).snr, (sdegen.VP().alpha(t) / sdegen.VP().sigma(t)).square(), 1e-12)
    law = sdegen.CLD().marginal(t)
    p = law.Phi.matrix()[..., :1]
    close(law.snr, (p.mT @ torch.linalg.inv(law.covariance.matrix()) @ p)[..., 0, 0], 1e-6)


def test_the_clock_is_a_number_where_ratios_are_none() -> None:
    for level in (-2000.0, -40.0, -36.0, 0.3, 36.0, 900.0):
        found = mean_log_snr(torch.full((3, 4), level, dtype=torch.float64))
        close(found, torch.full((3,), level, dtype=torch.float64), 1e-12)
    assert mean_log_snr(torch.tensor([-torch.inf, -torch.inf])) == -torch.inf
    assert mean_log_snr(torch.tensor([torch.inf, 0.0])) == torch.inf


@pytest.mark.thinned(2)
@pytest.mark.parametrize("law", [DATA, sdegen.Empirical(DATA.sample(40)), sdegen.data.random_mixture(2, 3)], ids=str)
@pytest.mark.parametrize("t", [0.05, 0.9])
def test_posteriors_by_any_maps_agree(law: Any, t: float) -> None:
    x = normal(7, 2)
    for sde in (Uneven(), Principal(), Spiral()):
        at = sde.marginal(t)
        seen = at.observe(x)
        as_matrices = [Matrix(A.matrix().reshape(2, 2)) for A in (seen.by.C, seen.by.S)]
        for a, b in zip(law.observed(seen.y, seen.by.C, seen.by.S), law.observed(seen.y, *as_matrices), strict=True):
            close(a, b, 1e-8)
        close(seen.by.score(x, law.observed(seen.y, seen.by.C, seen.by.S)[1]), sde.diffused(law, t).score(x), 1e-7)
    numbers = law.observed(x, 0.8, 0.6)
    eye = torch.eye(2, dtype=torch.float64)
    for maps in ((Diagonal(0.8 * torch.ones(1, 2).double()), Diagonal(0.6 * torch.ones(1, 2).double())), (
        Matrix(0.8 * eye), Matrix(0.6 * eye)
    )):  # fmt: skip
        for a, b in zip(law.observed(x, *maps), numbers, strict=True):
            close(a, b, 1e-9)


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 5, 6)])
@pytest.mark.parametrize("basis", [bases.CosineBasis(2), bases.FourierBasis(2), bases.CosineBasis(1)], ids=repr)
def test_bases_are_orthonormal(basis: Any, shape: tuple[int, ...]) -> None:
    x = normal(4, *shape)
    close(basis(x).square().flatten(1).sum(1), x.square().flatten(1).sum(1), 1e-12)
    close(basis.inverse(basis(x)), x, 1e-12)
    d = x[0].numel()
    unit = torch.eye(d, dtype=torch.float64).reshape(d, *shape)
    v = normal(1, *shape).square()
    close(basis.variances(v).reshape(d), basis(unit).reshape(d, d).square().T @ v.reshape(d), 1e-12)
    A = Diagonal(normal(1, *shape).square(), basis)
    close(A(x).flatten(1), x.flatten(1) @ A.matrix()[0].T, 1e-12)
    close((A @ A.inv())(x), x, 1e-9)
    close((A @ Scale(2.0))(x), 2 * A(x), 1e-12)
    close((Scale(2.0) @ A)(x), 2 * A(x), 1e-12)


AXES = [bases.CosineBasis(2), bases.FourierBasis(2), bases.CosineBasis(1)]
TURNED = bases.Axes(
    torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
)


@pytest.mark.parametrize(
    ("basis", "shape"), [*((b, s) for b in AXES for s in ((3, 4, 4), (2, 5, 6))), (TURNED, (12,)), (TURNED, (3, 4))]
)
def test_variances_along_axes_are_those_of_independent_numbers(basis: Any, shape: tuple[int, ...]) -> None:
    d = math.prod(shape)
    Q = basis(torch.eye(d, dtype=torch.float64).reshape(d, *shape)).reshape(d, d)  # (i, j): of number i along axis j
    v = torch.rand(3, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(basis.variances(v.reshape(3, *shape)).reshape(3, d), v @ Q.square())


def test_cosines_are_heat_that_no_edge_lets_out() -> None:
    n = 6
    laplacian = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in (i - 1, i + 1):
            if 0 <= j < n:
                laplacian[i, i] += 1
                laplacian[i, j] -= 1
    M = bases.CosineBasis.waves(n)
    spread = M @ laplacian @ M.T
    close(spread, torch.diag(spread.diagonal()), 1e-12)
    assert (spread.diagonal().diff() > 0).all()


def test_blurring_without_blur_is_its_noise() -> None:
    sde, x = sdegen.Blurring((1, 4, 4), blur=0.0), normal(3, 1, 4, 4)
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    close(sde.snr(t), sdegen.VP().snr(t), 1e-10)
    close(sde.perturb(x, t, z=0.5 * x).x, sdegen.VP().perturb(x, t, z=0.5 * x).x, 1e-10)
    law = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 1, 4, 4), torch.tensor([0.5]))
    run: dict[str, Any] = {"x_T": x, "sampler": samplers.DDIM(8)}
    blurred, plain = (sdegen.sample(sdegen.Exact(s, law), **run) for s in (sde, sdegen.VP()))
    close(blurred, plain, 1e-8)


def test_the_clock_of_blurring_is_that_of_its_noise_and_changes_no_flow() -> None:
    class Told(sdegen.Blurring):
        """With the clock that its states tell."""

        def clock(self, t: Tensor) -> None:
            return None

    sde, told = (kind((1, 1, 3), blur=1.0) for kind in (sdegen.Blurring, Told))
    t = torch.tensor([0.01, 0.3, 0.9], dtype=torch.float64)
    close(sde.snr(t), sde.noise.snr(t), 1e-12)
    close(sde.time(sde.snr(t)), t, 1e-9)
    assert (told.snr(t) < sde.snr(t)).all()  # of detail the states tell less
    law, turned = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 1, 1, 3), torch.tensor([0.5])), []
    for process in (sde, told):  # by its own angle in the time, whatever the clock
        pace = (process.angle_at(t + 1e-6) - process.angle_at(t - 1e-6)) / 2e-6
        turned.append(process.flow(sdegen.Exact(process, law)).rates(t).c * pace[:, None, None, None])
    close(*turned, 1e-6)


def test_priors_of_images_match_the_variances_along_the_basis() -> None:
    sde = sdegen.Blurring((1, 9, 9), blur=1.0, noise=sdegen.OU(T=0.3))
    v = 0.5 + normal(1, 1, 9, 9, seed=3).square()
    prior = sde.prior(sdegen.Moments(torch.zeros(1, 9, 9), v.flatten()))
    full = sde.diffused(sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 9, 9), v), sde.T)
    M = sde.basis(torch.eye(81, dtype=torch.float64).reshape(81, 1, 9, 9)).reshape(81, 81)
    known = (M.T @ prior._full()[0] @ M).diagonal()
    close(known, (M.T @ full._full()[0] @ M).diagonal(), 1e-9)
    drawn = prior.sample(4000, torch.Generator().manual_seed(0))
    assert (sde.basis(drawn).var(0).flatten() / known - 1).abs().max() < 0.1  # 4.5 standard errors


@pytest.mark.parametrize("shape", [(1, 8, 16), (3, 16, 8), (2, 12)])
def test_detail_is_blurred_by_an_eighth_of_the_longest_side(shape: tuple[int, ...]) -> None:
    """A wave of `i` half turns over a side of `n` loses ``exp(−½ π² i² b² / n²)`` to a Gaussian of the width `b`."""
    sde, noise, longest = sdegen.Blurring(shape, least=1e-9), sdegen.VP(), max(shape[1:])
    kept = (sde.alpha(torch.tensor(1.0).double()) / noise.alpha(torch.tensor(1.0).double()))[0]
    for axis, n in enumerate(shape[1:]):
        wave = kept.movedim(axis, 0).reshape(n, -1)[:, 0]
        close(wave, (-0.5 * (torch.pi * torch.arange(n).double() / n * longest / 8).square()).exp(), 1e-8)


class Momenta(sdegen.MatrixSDE):
    """Channels of a user's own, which derive how data become states."""

    def __init__(self) -> None:
        self.Sigma_0 = torch.diag(torch.tensor([0.01, 0.04], dtype=torch.float64))

    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([[0.0, 2.0], [-2.0, -4.0]], dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        return torch.tensor([[0.0, 0.0], [0.0, 2.0]], dtype=torch.float64)


@pytest.mark.turns("Momenta")
@pytest.mark.parametrize("make", [Uneven, Spiral, Principal, Momenta])
def test_such_processes_are_trained_and_saved(make: Callable[[], sdegen.LinearSDE], tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(nets.MLP(4 if make is Momenta else 2, width=16, depth=1), make())
    run = sdegen.fit(model, DATA.sample(256).float(), steps=6, batch_size=64, seed=0, progress=False)
    assert all(math.isfinite(loss) for loss in run.loss)
    sdegen.save(model, tmp_path / "model.safetensors")
    again = sdegen.load(tmp_path / "model.safetensors", [make])
    draws = [sdegen.sample(m, 4, steps=4, seed=0) for m in (model, again)]
    assert torch.equal(*draws)


def test_a_marginal_is_of_the_data_where_nothing_else_is_said() -> None:
    law = Marginal(Scale(0.5), Scale(0.5), torch.tensor(0.3))
    assert law.snr == 1
    two = IntoChannels(torch.tensor([1.0, 0.0], dtype=torch.float64))
    lifted = Marginal(Matrix(0.5 * torch.eye(2)), Matrix(0.5 * torch.eye(2)), torch.tensor(0.3), two)
    close(lifted.snr, law.snr, 1e-12)


class OneNumber(sdegen.CoordinateSDE):
    def f(self, t: Tensor) -> Tensor:
        return -t

    def g(self, t: Tensor) -> Tensor:
        return 1 + t


class Rows(sdegen.SDE):
    """Noise with a number for each coordinate, in a shape that could be rows."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tensor([1.0, 2.0])


class Ragged(Uneven):
    def g(self, t: Tensor) -> Tensor:
        return torch.ones(*t.shape, 3, dtype=torch.float64)


class Flat(sdegen.CorrelatedSDE):
    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([-1.0, -1.0])

    def G(self, t: Tensor) -> Tensor:
        return torch.tensor([1.0, 1.0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: bases.Axes(torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "not orthonormal: QᵀQ differs .* torch.linalg.qr"),
        (lambda: bases.Axes(torch.ones(2, 3)), "square matrix"),
        (lambda: bases.principal_axes(torch.tensor([[1.0, 0.5], [0.0, 1.0]])), "not symmetric"),
        (lambda: bases.CosineBasis(2)(torch.ones(3, 4)), "2 sides or more"),
        (lambda: OneNumber().marginal(0.5), "a number for each of a datum, .* ScalarSDE"),
        (lambda: Ragged().marginal(0.5), r"shapes \[\(2,\), \(3,\)\]"),
        (lambda: Uneven().perturb(torch.ones(4, 3), 0.5), "has a coefficient of its own; give states of that shape"),
        (lambda: Flat().marginal(0.5), r"F returned shape \(2,\) .* a matrix \(d, d\)"),
        (lambda: Coloured().perturb(torch.ones(4, 3), 0.5), r"states of shape \(B, 2, \*\)"),
        (lambda: sdegen.simulate(Rows(), torch.ones(2, 2), 0.0, 1.0), "one for each number of the state"),
        (
            lambda: Diagonal(torch.ones(1, 2)) @ Diagonal(torch.ones(1, 2), bases.CosineBasis()),
            "write both in one basis",
        ),
        (lambda: sdegen.Blurring((1, 0, 8)), r"give that of a datum, such as \(C, H, W\)"),
        (lambda: sdegen.Blurring((1, 8, 8), least=0.0), "between 0 and 1"),
        (
            lambda: sdegen.GaussianMixture(
                torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], basis=bases.CosineBasis()
            ),
            "in no basis",
        ),
    ],
)  # fmt: skip
def test_what_is_no_such_process_is_refused_in_a_sentence(call: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        call()
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize("make", [Uneven, Spiral])
def test_what_is_written_in_numbers_asks_for_a_scalar_process(make: Callable[[], sdegen.LinearSDE]) -> None:
    model = sdegen.Exact(make(), DATA)
    for call in (
        lambda: sdegen.sample(model, 2, sampler=samplers.Churn(4)),
        lambda: sdegen.LearnedVariance(nets.MLP(2), make()),
        lambda: samplers.fit_solver(model, steps=4),
    ):
        with pytest.raises(TypeError, match="is not scalar, and"):
            call()


def test_the_operator_of_the_data_is_the_identity_in_float64() -> None:
    tenth = (sdegen.Blurring((1, 2, 2)).datum * 0.1).matrix().reshape(4, 4)
    torch.testing.assert_close(tenth, 0.1 * torch.eye(4, dtype=torch.float64), rtol=1e-14, atol=1e-15)
