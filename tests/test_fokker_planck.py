"""The truth on a grid: against closed forms, against stationary laws, and against what training and the flow see."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import FokkerPlanck, GaussianMixture
from sdegen.laws.cells import Axis, Cells, _continue
from sdegen.models.gridded import check_mass, log_densities
from sdegen.processes.simulate import simulate

PAIR = GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[-1.0, 0.5], [0.8, 0.0]]), torch.tensor([[0.09, 0.2], [0.16, 0.3]])
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sde", [sdegen.OU(T=2.0), sdegen.VP(), sdegen.VE(0.3, 3.0)], ids=lambda s: type(s).__name__)
@pytest.mark.slow
def test_a_linear_process_has_its_closed_form_at_order_two(sde: sdegen.LinearSDE) -> None:
    law = sde.diffused(PAIR, 0.0) if sde.sigma(torch.tensor(0.0)) > 0 else PAIR
    exact = sdegen.Exact(sde, PAIR)
    worst = []
    for cells in (400, 800):
        truth = FokkerPlanck(sde, law, cells, cells)
        errors = []
        for t in (0.02, 0.3, 1.0):
            x = sde.diffused(PAIR, t * sde.T).sample(2000, seeded())
            errors.append((truth.score(x, t * sde.T) - exact.score(x, t * sde.T)).square().mean().sqrt())
            want = sde.diffused(PAIR, t * sde.T).log_prob(x)
            assert (truth.log_density(x, t * sde.T) - want).abs().mean() < 0.01 * (400 / cells) ** 2
        worst.append(max(errors).item())
    assert worst[1] < 0.01
    assert math.log2(worst[0] / worst[1]) > 1.7


def test_a_double_well_settles_on_its_stationary_law() -> None:
    sde = sdegen.DoubleWell(stiffness=2.0, g=1.2, T=10.0)
    truth = FokkerPlanck(sde, PAIR)
    prior = sde.prior(PAIR.moments())
    x = prior.sample(2000, seeded())
    # Two modes of two wells, unevenly filled: the last to go is the difference of their masses.
    assert (truth.log_density(x, 1.0) - prior.log_prob(x)).abs().mean() > 0.05
    assert (truth.log_density(x, 10.0) - prior.log_prob(x)).abs().max() < 2e-3
    assert (truth.score(x, 10.0) - prior.score(x)).abs().max() < 2e-3


@pytest.mark.slow
def test_its_density_is_that_of_simulated_paths() -> None:
    sde, t = sdegen.DoubleWell(), 0.4
    x = simulate(sde, PAIR.sample(40_000, seeded()), 0.0, t, steps=100, generator=seeded(1))
    truth = FokkerPlanck(sde, PAIR)
    # Stein's identities hold for the score of the law of the states, and for no other.
    score = truth.score(x, t)
    for value, want in ((score, 0.0), (score * x, -1.0), (score * x.pow(3), -3 * x.square())):
        gap = value - want
        assert (gap.mean(0).abs() < 5 * gap.std(0) / len(x) ** 0.5 + 0.005).all()
    volume = torch.cartesian_prod(*[torch.linspace(-4, 4, 200, dtype=torch.float64)] * 2)
    assert abs(truth.log_density(volume, t).exp().sum().item() * (8 / 199) ** 2 - 1) < 1e-6


def test_its_flow_brings_the_densities_of_the_data_back() -> None:
    truth = FokkerPlanck(sdegen.DoubleWell(T=3.0), PAIR)
    x = PAIR.sample(64, seeded())
    found = sdegen.log_prob(truth, x, prior=Late(truth), tolerance=1e-6)
    assert isinstance(found, Tensor)
    assert (found - PAIR.log_prob(x)).abs().max() < 5e-3


@pytest.mark.slow
def test_the_samplers_of_linear_processes_sample_a_nonlinear_one() -> None:
    sde = sdegen.DoubleWell(T=3.0)
    truth = FokkerPlanck(sde, PAIR)
    x, y = (PAIR.sample(2000, seeded(k)) for k in (5, 6))
    floor = sdegen.metrics.knn_kl(y, x)
    for sampler in (None, sdegen.samplers.Heun(30), sdegen.samplers.EulerMaruyama(150)):
        found = sdegen.metrics.knn_kl(sdegen.sample(truth, 2000, sampler=sampler, seed=0), x)
        assert abs(found.value - floor.value) < 4 * (found.stderr**2 + floor.stderr**2) ** 0.5
    early = sdegen.metrics.knn_kl(sdegen.sample(truth, 2000, sampler=sdegen.samplers.Heun(2), seed=0), x)
    assert early.value > floor.value + 0.2


class Bent(sdegen.SDE):
    """``x_t = asinh(sinh x_0 + w_t)``, whose noise depends on the state: its law is an integral over the data."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -0.5 * x.sinh() / x.cosh().pow(3)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return 1 / x.cosh()


class Stratonovich(Bent):
    """The same without Itô's correction."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 0 * x


def law_of_bent(x: Tensor, t: float) -> Tensor:
    x_0 = torch.linspace(-4, 4, 8001, dtype=torch.float64)[:, None, None]
    z = (x_0[..., None] - PAIR.means.T) / PAIR.covariances.T.sqrt()
    first = (-0.5 * z.square()).exp() / (2 * math.pi * PAIR.covariances.T).sqrt()  # (x_0, 1, coordinate, component)
    kernel = (-(x.sinh() - x_0.sinh()).square() / (2 * t)).exp() / math.sqrt(2 * math.pi * t) * x.cosh()
    density = (first * kernel[..., None]).sum(0) * (8 / 8000)
    return (density.prod(1) @ PAIR.weights).log()


def test_noise_that_depends_on_the_state_has_its_closed_form_at_order_two() -> None:
    t, worst = 0.3, []
    w = math.sqrt(t) * torch.randn(200, 2, generator=seeded(1), dtype=torch.float64)
    x = (PAIR.sample(200, seeded()).sinh() + w).asinh().requires_grad_()
    (score,) = torch.autograd.grad(law_of_bent(x, t).sum(), x)
    x = x.detach()
    for cells in (300, 600):
        truth = FokkerPlanck(Bent(), PAIR, cells, 400)
        assert (truth.log_density(x, t) - law_of_bent(x, t)).abs().mean() < 0.02 * (300 / cells) ** 2
        worst.append((truth.score(x, t) - score).square().mean().sqrt().item())
    assert worst[1] < 0.02 and math.log2(worst[0] / worst[1]) > 1.7
    wrong = FokkerPlanck(Stratonovich(), PAIR, 300, 400)
    assert (wrong.score(x, t) - score).square().mean().sqrt() > 0.05


def test_a_process_on_the_half_line_goes_in_by_its_coordinates() -> None:
    class Geometric(sdegen.SDE):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return 0.2 * x

        def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
            return 0.7 * x

    sde = sdegen.processes.Transformed(Geometric(), sdegen.coordinates.Log())
    truth = FokkerPlanck(sde, PAIR)
    law = GaussianMixture(PAIR.weights, PAIR.means + 0.5 * (0.2 - 0.245), PAIR.covariances + 0.5 * 0.49)
    x = law.sample(500, seeded())
    assert (truth.log_density(x, 0.5) - law.log_prob(x)).abs().max() < 0.02
    assert truth.moments.mean.min() > 0  # of the data, not of their logarithms


class Late:
    """The law at T of a grid's truth."""

    def __init__(self, truth: FokkerPlanck) -> None:
        self.truth = truth

    def log_prob(self, x: Tensor) -> Tensor:
        return self.truth.log_density(x, self.truth.sde.T)


@pytest.mark.turns("0.2")
@pytest.mark.parametrize("t", [0.01, 0.2, 1.5])
@pytest.mark.turns("1.5")
def test_states_of_training_have_the_law_of_the_grid(t: float) -> None:
    sde = sdegen.DoubleWell()
    truth = FokkerPlanck(sde, PAIR)
    x = sde.perturb(PAIR.sample(40_000, seeded()), t, generator=seeded(1)).x
    score = truth.score(x, t)
    for value, want in ((score, 0.0), (score * x, -1.0), (score * x.pow(3), -3 * x.square())):
        gap = value - want
        assert (gap.mean(0).abs() < 5 * gap.std(0) / len(x) ** 0.5 + 0.01).all()


class Coupled(sdegen.SDE):
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x - 0.5 * x.roll(1, 1)

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 1.0


class Growing(sdegen.SDE):
    T = 40.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 1.0 * x

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 1.0


class Multiplied(sdegen.SDE):
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return 1 + x[:, 0].square()


class Still(sdegen.SDE):
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return x.clamp_min(0)


def test_what_it_is_not_made_for_is_refused_in_a_sentence() -> None:
    three = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.ones(1))
    with pytest.raises(ValueError, match="coordinates 0, 1, 2 of Coupled move each other"):
        FokkerPlanck(Coupled(), three)
    with pytest.raises(ValueError, match="law of Growing does not fit"):
        FokkerPlanck(Growing(), PAIR, cells=64, steps=16)
    tilted = GaussianMixture(torch.ones(1), torch.zeros(1, 3), (torch.ones(3, 3) + torch.eye(3))[None])
    with pytest.raises(ValueError, match=r"coordinates 0, 1, 2 of DoubleWell.*depend on each other in the data"):
        FokkerPlanck(sdegen.DoubleWell(), tilted)
    with pytest.raises(ValueError, match="finer than a cell"):
        FokkerPlanck(
            sdegen.DoubleWell(T=0.1),
            GaussianMixture(torch.ones(2) / 2, torch.tensor([[-2.0], [2.0]]), torch.full((2,), 1e-6)),
        )
    with pytest.raises(ValueError, match="at least 16 and 3"):
        FokkerPlanck(sdegen.DoubleWell(), PAIR, cells=2)
    with pytest.raises(ValueError, match="coordinates 0, 1, 2 of Multiplied"):
        FokkerPlanck(Multiplied(), three)
    with pytest.raises(ValueError, match=r"there is no noise at -.*Transformed"):
        FokkerPlanck(Still(), PAIR)


def test_each_state_is_read_at_a_time_of_its_own() -> None:
    truth = FokkerPlanck(sdegen.DoubleWell(T=1.0), PAIR, 200, 76)
    x, t = PAIR.sample(6, seeded()), torch.tensor([0.0, 0.02, 0.3, 0.31, 0.8, 1.0], dtype=torch.float64)
    alone = torch.cat([truth.score(x[i : i + 1], t[i]) for i in range(6)])
    assert torch.allclose(truth.score(x, t), alone, rtol=1e-10, atol=1e-10)
    assert (truth.score(x, t) - truth.score(x, 0.3)).abs().max() > 0.1
    with pytest.raises(ValueError, match="one coefficient per row"):
        truth.score(x, t[:4])


@pytest.mark.parametrize("walls", [(False, False), (True, False)])
def test_densities_go_on_by_the_parabola_of_their_last_clear_cells(walls: tuple[bool, bool]) -> None:
    """That of a Gaussian is exact; one that would rise, or bend up, goes on level, or straight."""
    n = torch.arange(90, dtype=torch.float64)[:, None]
    gauss = 3 - torch.tensor([0.02, 0.005]) * (n - torch.tensor([37.0, 45.0])) ** 2
    clear = (n - 40).abs() < torch.tensor([25.0, 20.0])
    found, known = _continue(torch.where(clear, gauss, -999.0), clear, Axis(0.0, 1.0, walls))
    torch.testing.assert_close(found, gauss)
    assert known.all()
    rising, bent = 0.1 * n, 0.01 * (n - 100) ** 2
    for logs, want in ((rising, torch.full_like(n, 0.1 * 59)), (bent, bent[59] + (n - 59) * (bent[59] - bent[55]) / 4)):
        found, _ = _continue(logs, n < 60, Axis(0.0, 1.0, (True, False)))
        torch.testing.assert_close(found[60:], want[60:])
        assert torch.equal(found[:60], logs[:60])
    few = (n >= 40) & (n < 48)
    assert torch.equal(_continue(gauss, few, Axis(0.0, 1.0))[1], few)  # too few for a parabola


def test_an_end_is_moved_out_by_a_quarter_of_the_axis() -> None:
    axis = Axis(1.0, 3.0)
    assert (axis.wider(0).low, axis.wider(0).high) == (0.5, 3.0) and (axis.wider(1).low, axis.wider(1).high) == (
        1.0,
        3.5,
    )


@pytest.mark.parametrize("n", [5, 12])
def test_polynomials_of_degree_three_are_read_off_their_splines(n: int) -> None:
    """Up to both ends and a little beyond."""
    cells, a = Cells([Axis(-1.0, 2.0)], n), torch.randn(4, dtype=torch.float64)
    value = lambda x: a[0] + a[1] * x + a[2] * x**2 + a[3] * x**3
    slope = lambda x: a[1] + 2 * a[2] * x + 3 * a[3] * x**2
    x = torch.linspace(-1.0 - 0.4 * 3 / n, 2.0 + 0.4 * 3 / n, 30, dtype=torch.float64)[:, None]
    found, slopes = cells.read(cells.splines(value(cells.centres).T), x)
    torch.testing.assert_close(found, value(x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(slopes[..., 0], slope(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mass", [0.989, 0.992, 1.008, 1.011])
def test_data_whose_mass_on_the_grid_is_off_by_more_than_a_hundredth_are_refused(mass: float) -> None:
    cells = Cells([Axis(0.0, 2.0)], 50)
    one, other = (torch.full((50,), v / 2, dtype=torch.float64).log() for v in (1.0, mass))
    with nullcontext() if abs(mass - 1) < 0.01 else pytest.raises(ValueError, match=f"mass {mass:.4g} .* 50 cells"):
        check_mass(torch.stack([one, other], 1), cells)


def test_where_data_never_are_their_logarithm_is_finite_and_their_density_none() -> None:
    box = torch.distributions.Independent(
        torch.distributions.Uniform(-torch.ones(1), torch.ones(1), validate_args=False), 1
    )
    found = log_densities(box, [0], torch.Size([1]))(torch.tensor([[-3.0], [0.5], [2.0]], dtype=torch.float64))
    assert found.shape == (3, 1) and found.isfinite().all() and found.dtype == torch.float64
    torch.testing.assert_close(
        found.exp()[:, 0], torch.tensor([0.0, 0.5, 0.0], dtype=torch.float64), rtol=1e-6, atol=1e-280
    )


@pytest.mark.parametrize("walls", [(False, False), (True, False), (False, True)])
def test_what_continues_a_density_does_not_know_up_from_down(walls: tuple[bool, bool]) -> None:
    draws = torch.Generator().manual_seed(0)
    logs = -0.02 * (torch.arange(60) - 28.0)[:, None].square() + torch.rand(
        60, 40, dtype=torch.float64, generator=draws
    )
    # Of the first and the last cells some are clear, too.
    clear = torch.rand(60, 40, generator=draws) < 0.9
    one, known = _continue(logs, clear, Axis(0.0, 1.0, walls))
    other, also = _continue(logs.flip(0), clear.flip(0), Axis(0.0, 1.0, walls[::-1]))
    torch.testing.assert_close(other.flip(0), one, rtol=1e-12, atol=1e-12)
    assert torch.equal(also.flip(0), known) and not torch.equal(one, logs)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("end", [0, 1])
def test_an_end_is_reached_where_mass_is_at_it_and_it_may_be_moved(axis: int, end: int) -> None:
    for walls, closed, want in (
        ((False, False), False, [(axis, end)]),
        ((True, True), False, []),
        ((False, False), True, []),
    ):
        cells = Cells([Axis(-1.0, 1.0, walls, closed)] * 2, 8)
        mass = torch.zeros(8, 8, dtype=torch.float64)
        mass[4, 4] = 1.0
        assert cells.reached(mass.reshape(-1, 1)) == []
        mass.select(axis, -end)[4] = 0.5
        assert cells.reached(mass.reshape(-1, 1)) == want
