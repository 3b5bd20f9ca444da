"""The truth on a grid of two coordinates that move each other, between walls and around a circle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

import sdegen
from sdegen import FokkerPlanck, GaussianMixture, Matrix, samplers
from sdegen.laws.cells import Axis, Cells
from sdegen.laws.chains import GridChain, rate_matrix
from sdegen.laws.coordinates import Coordinates, Log
from sdegen.processes import Transformed
from sdegen.processes.quadrature import van_loan

d64 = torch.float64
PAIR = GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[-0.8, 0.5], [0.6, -0.2]]), torch.tensor([[0.16, 0.25], [0.25, 0.2]])
)
F = torch.tensor([[-1.0, -2.0], [2.0, -1.5]], dtype=d64)
G = torch.tensor([[0.9, 0.0], [0.6, 0.7]], dtype=d64)


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Turning(sdegen.SDE):
    """``dx = F x dt + G dw``, which turns, with noise that is correlated."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x @ F.T

    def diffusion(self, x: Tensor, t: Tensor) -> Matrix:
        return Matrix(G)


def turned(law: GaussianMixture, t: float) -> GaussianMixture:
    """The law at `t`, by the matrix exponential of the process and its covariance (C. Van Loan)."""
    block = torch.zeros(4, 4, dtype=d64)
    block[:2, :2], block[:2, 2:], block[2:, 2:] = -F, G @ G.T, F.T
    both = torch.linalg.matrix_exp(block * t)
    Phi = both[2:, 2:].T
    C = Phi @ torch.diag_embed(law.covariances.double()) @ Phi.T + Phi @ both[:2, 2:]
    return GaussianMixture(law.weights, law.means.double() @ Phi.T, C)


class Prices(sdegen.SDE):
    """Two prices, ``dx_i = x_i (m_i dt + Σ_j G_ij dw_j)``."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x * torch.tensor([0.3, -0.2], dtype=x.dtype)

    def diffusion(self, x: Tensor, t: Tensor) -> Matrix:
        return Matrix(x[:, :, None] * G)


class Shear(Coordinates):
    """``u = (x_1, x_2 + sin x_1)``, which makes constant noise a matrix for each state."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], x[:, 1] + x[:, 0].sin()], 1)

    def inverse(self, u: Tensor) -> Tensor:
        return torch.stack([u[:, 0], u[:, 1] - u[:, 0].sin()], 1)

    def log_det(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


class Seen:
    """A law in other coordinates, of which no more is known than draws and densities."""

    def __init__(self, law: Any, phi: Coordinates | None = None) -> None:
        self.law, self.phi = law, phi or sdegen.coordinates.Whitening(torch.zeros(2), torch.eye(2))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.phi(self.law.sample(n, generator))

    def log_prob(self, u: Tensor) -> Tensor:
        x = self.phi.inverse(u)
        return self.law.log_prob(x) - self.phi.log_det(x)


def priced(t: float) -> GaussianMixture:
    A = G @ G.T
    shift = t * (torch.tensor([0.3, -0.2], dtype=d64) - 0.5 * A.diagonal())
    return GaussianMixture(PAIR.weights, PAIR.means + shift, torch.diag_embed(PAIR.covariances.double()) + t * A)


# A process, the law of its data, and its law at a time.
KNOWN: dict[str, tuple[sdegen.SDE, Any, Callable[[float], Any]]] = {
    "turning, correlated": (Turning(), PAIR, lambda t: turned(PAIR, t)),
    "prices": (Transformed(Prices(), Log()), PAIR, priced),
    "noise by state": (Transformed(Turning(), Shear()), Seen(PAIR, Shear()), lambda t: Seen(turned(PAIR, t), Shear())),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.turns(*KNOWN)
def test_two_coordinates_have_their_closed_form_at_order_two(name: str) -> None:
    sde, data, law = KNOWN[name]
    errors, widths = [], []
    for n in (112, 160):
        truth = FokkerPlanck(sde, data, n, 152)
        total = 0.0
        for t in (0.1, 0.5, 1.0):
            u = law(t).sample(800, g()).requires_grad_()
            (want,) = torch.autograd.grad(law(t).log_prob(u).sum(), u)
            u = u.detach()
            total += (truth.score(u, t) - want).square().mean().item()
            assert (truth.log_density(u, t) - law(t).log_prob(u)).abs().mean() < 0.02
        errors.append((total / 3) ** 0.5)
        widths.append(truth.parts[0].cells.width.prod().sqrt().item())
    assert errors[1] < 0.04
    assert math.log(errors[0] / errors[1]) / math.log(widths[0] / widths[1]) > 1.85


def test_correlated_noise_and_a_turning_drift_have_their_gaussian_at_order_two() -> None:
    mean, C = torch.tensor([0.4, -0.3], dtype=d64), torch.tensor([[[0.5, -0.2], [-0.2, 0.4]]], dtype=d64)
    errors, T, free = [], 0.5, (False, False)
    for n in (48, 96):
        cells = Cells([Axis(-4.0, 4.0, free), Axis(-4.0, 4.0, free)], n)
        chain = GridChain(cells, lambda t: lambda x: ((0.5 * G @ G.T).expand(len(x), 2, 2), x @ F.T), True)
        p = GaussianMixture(torch.ones(1), mean[None], C).log_prob(cells.centres).exp()[:, None]
        for _ in range(n // 4):
            p = chain.advance(p, torch.zeros(()), T / (n // 4))
        Phi, noise = van_loan(F, G @ G.T, torch.tensor(T, dtype=d64))
        want = GaussianMixture(torch.ones(1), (Phi @ mean)[None], Phi @ C @ Phi.T + noise)
        errors.append((p[:, 0] - want.log_prob(cells.centres).exp()).abs().sum() * cells.volume)
    assert errors[1] < 0.015
    assert math.log2(errors[0] / errors[1]) > 1.8


def test_cells_that_are_too_wide_for_the_drift_are_refused() -> None:
    class Thin(Turning):
        """Noise that is a fifth as strong across as along."""

        def diffusion(self, x: Tensor, t: Tensor) -> Matrix:
            return Matrix(torch.tensor([[1.0, 0.0], [1.0, 0.2]], dtype=d64))

    law = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.3))
    with pytest.raises(
        ValueError, match=r"32 cells a side are too wide for Thin: .* add 4\.3 times .*; give cells = 163 or so"
    ):
        FokkerPlanck(Thin(), law, 32, 12)


def test_coordinates_that_move_alone_have_the_product_of_their_answers() -> None:
    sde = sdegen.DoubleWell(T=1.0)
    together, alone = FokkerPlanck(sde, Seen(PAIR), 96, 114), FokkerPlanck(sde, PAIR, 1000, 380)
    assert [len(part.coordinates) for part in together.parts] == [2]
    assert [part.coordinates for part in alone.parts] == [[0], [1]]
    x = alone.law(0.7).sample(500, g())
    assert (together.log_density(x, 0.7) - alone.log_density(x, 0.7)).abs().mean() < 0.01
    assert (together.score(x, 0.7) - alone.score(x, 0.7)).square().mean().sqrt() < 0.05


def test_groups_of_two_in_more_dimensions_are_solved_for_by_themselves() -> None:
    class Two(sdegen.SDE):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            turning = x[:, [0, 2]] @ F.T.to(x)
            return torch.stack([turning[:, 0], -x[:, 1], turning[:, 1]], 1)

        def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.ones_like(x)

    law = GaussianMixture(torch.ones(2) / 2, torch.tensor([[-1.0, 0.3, 0.0], [1.0, -0.3, 0.5]]), torch.full((2,), 0.3))
    truth = FokkerPlanck(Two(), law, 64, 76)
    assert [part.coordinates for part in truth.parts] == [[0, 2], [1]]
    x = truth.law(0.4).sample(20_000, g())
    score = truth.score(x, 0.4)
    stein = score[:, :, None] * x[:, None, :] + torch.eye(3)  # of mean zero for the score of the law of x
    assert (stein.mean(0).abs() < 5 * stein.std(0) / len(x) ** 0.5 + 0.02).all()


def test_a_matrix_is_taken_apart_into_positive_rates_that_sum_to_zero() -> None:
    cells = Cells([Axis(-1.0, 2.0, (True, True)), Axis(0.0, 1.0, (True, False))], 14)

    def field(x: Tensor) -> tuple[Tensor, Tensor]:
        M = torch.stack([1 + x[:, 0].square(), 0.8 * x[:, 0], x[:, 1].sin(), 0.4 + 0 * x[:, 0]], 1).reshape(-1, 2, 2)
        return 0.5 * M @ M.mT, torch.stack([5 * x[:, 1], -20 * x[:, 0]], 1)

    L = rate_matrix(cells, field).toarray()
    assert abs(L.sum(0)).max() < 1e-10 * abs(L).max()
    assert (L - L * torch.eye(len(L)).numpy() >= 0).all()
    chain = GridChain(cells, lambda t: field, True)
    p = (-20 * (cells.centres - 0.3).square().sum(1, keepdim=True)).exp()
    mass = p.sum()
    for _ in range(20):
        p = chain.advance(p, torch.zeros(()), 0.002)
        assert p.min() > -1e-4 * p.max()
    assert abs(p.sum() / mass - 1) < 1e-12


@pytest.mark.parametrize(
    "sde", [sdegen.ReflectedBrownianMotion(), sdegen.Jacobi(2.0, 2.0)], ids=lambda s: type(s).__name__
)
def test_ends_of_a_domain_are_walls(sde: Any) -> None:
    law = torch.distributions.Independent(torch.distributions.Beta(torch.tensor([3.0]).double(), 2.0), 1)
    truth = FokkerPlanck(sde, law, 400, 190)
    (part,) = truth.parts
    assert part.cells.axes[0].low == 0 and part.cells.axes[0].high == 1
    data = law.sample((40_000,))
    for t in (0.4, 0.7):
        x = torch.tensor([[0.03], [0.2], [0.5], [0.9], [0.97]], dtype=d64)
        kernel = sde.kernel(data, 0.0, t)
        want = [kernel.log_prob(v.expand(len(data), 1)).logsumexp(0) - math.log(len(data)) for v in x]
        assert (truth.log_density(x, t) - torch.stack(want)).abs().max() < 0.03
        assert abs(truth.log_density(part.cells.centres, t).exp().mean() - 1) < 1e-3
    drawn = truth.law(0.4).sample(2000, g())
    assert ((drawn > 0) & (drawn < 1)).all()


def test_a_circle_closes() -> None:
    sde = sdegen.CircularBrownianMotion()
    law = torch.distributions.Independent(torch.distributions.VonMises(torch.tensor([3.0]).double(), 4.0), 1)
    truth = FokkerPlanck(sde, Around(law), 200, 190)
    t, data = 0.3, Around(law).sample(40_000, g())
    x = torch.tensor([[-3.14159], [-3.0], [0.0], [2.0], [3.14159]], dtype=d64)
    kernel = sde.kernel(data, 0.0, t)
    want = [kernel.log_prob(v.expand(len(data), 1)).logsumexp(0) - math.log(len(data)) for v in x]
    assert (truth.log_density(x, t) - torch.stack(want)).abs().max() < 0.03
    assert abs(truth.score(x, t)[0] - truth.score(x, t)[-1]) < 1e-3
    assert sde.domain.check(truth.law(t).sample(500, g())).all()


class Around:
    """A law of angles in ``[−π, π)``."""

    def __init__(self, law: Any) -> None:
        self.law = law

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return (
            torch.remainder(sdegen.laws.outside.TorchLaw(self.law).sample(n, generator) + math.pi, 2 * math.pi)
            - math.pi
        )

    def log_prob(self, x: Tensor) -> Tensor:
        return self.law.log_prob(x)


class Wells(sdegen.SDE):
    """A double well in each of two coordinates that turn about each other, with noise that depends on both."""

    T = 2.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x - x.pow(3) + 1.5 * torch.stack([-x[:, 1], x[:, 0]], 1) / (1 + x.square().sum(1, keepdim=True))

    def diffusion(self, x: Tensor, t: Tensor) -> Matrix:
        a, b = x[:, 0], x[:, 1]
        M = torch.stack([0.9 + 0.2 * b.tanh(), 0.3 * a.cos(), 0 * a, 0.8 + 0.2 * a.sin()], 1)
        return Matrix(M.reshape(-1, 2, 2))


SAMPLERS: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "Heun": lambda: samplers.Heun(40),
    "ProbabilityFlow": lambda: samplers.ProbabilityFlow(),
    "EulerMaruyama": lambda: samplers.EulerMaruyama(300),
}


@pytest.fixture(scope="module")
def wells() -> FokkerPlanck:
    return FokkerPlanck(Wells(), PAIR, 128, 190)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.turns("default", "Heun", "ProbabilityFlow", "EulerMaruyama")
def test_samplers_bring_the_data_back_through_coupled_noise(wells: FokkerPlanck, name: str) -> None:
    prior = wells.law(2.0)
    x = sdegen.sample(wells, sampler=SAMPLERS[name](), x_T=prior.sample(2000, g(1)), seed=0)
    one, other = PAIR.sample(2000, g(5)), PAIR.sample(2000, g(6))
    floor, found = sdegen.metrics.knn_kl(one, other), sdegen.metrics.knn_kl(x.double(), other)
    assert abs(found.value - floor.value) < 4 * (found.stderr**2 + floor.stderr**2) ** 0.5
    for i in range(2):
        assert kstest(x[:, i].numpy(), PAIR.sample(100_000, g(7))[:, i].numpy()).pvalue > 1e-3


@pytest.mark.slow
def test_densities_of_its_flow_are_those_of_the_data(wells: FokkerPlanck) -> None:
    x = PAIR.sample(32, g())
    found = sdegen.log_prob(wells, x, prior=wells.law(2.0), tolerance=1e-6)
    assert (found - PAIR.log_prob(x)).abs().mean() < 0.01


@pytest.mark.slow
def test_states_of_simulation_have_the_law_of_the_grid() -> None:
    wells, t = FokkerPlanck(Wells(), PAIR, 80, 95), 0.5
    x = sdegen.processes.simulate(Wells(), PAIR.sample(4000, g()), 0.0, t, steps=50, generator=g(1))
    drawn = wells.law(t).sample(4000, g(2))
    floor, found = (
        sdegen.metrics.knn_kl(drawn, wells.law(t).sample(4000, g(3))),
        sdegen.metrics.knn_kl(drawn, x.double()),
    )
    assert abs(found.value - floor.value) < 4 * (found.stderr**2 + floor.stderr**2) ** 0.5
