"""Log-densities by the probability flow against closed forms."""

from __future__ import annotations

import pytest
import torch

import sdegen
from sdegen import log_prob, metrics

RING = sdegen.data.gaussian_ring()


class Own(sdegen.ScalarSDE):
    """The README's process."""

    def f(self, t: torch.Tensor) -> torch.Tensor:
        return -10 * t

    def g(self, t: torch.Tensor) -> torch.Tensor:
        return (1 + 20 * t).sqrt()


SCALAR = [
    sdegen.VP(), sdegen.SubVP(), sdegen.VE(), sdegen.OU(), sdegen.EDM(), sdegen.Cosine(), sdegen.Rectified(), sdegen.DDPM(),
    Own(),
]  # fmt: skip
name = lambda sde: type(sde).__name__


def law_at(sde: sdegen.LinearSDE, t: float) -> sdegen.GaussianMixture:
    return sde.diffused(RING, t)


@pytest.mark.parametrize("sde", SCALAR, ids=name)
def test_exact_model_from_the_true_terminal_law_gives_the_closed_form(sde: sdegen.LinearSDE) -> None:
    x = RING.sample(60, torch.Generator().manual_seed(0))
    got = log_prob(sdegen.Exact(sde, RING), x, prior=law_at(sde, sde.T))
    assert (got - law_at(sde, 0.0).log_prob(x)).abs().max() < 1e-5


def test_critically_damped_langevin_joint_and_data_marginal() -> None:
    sde = sdegen.CLD()
    model = sdegen.Exact(sde, RING)
    x = RING.sample(6, torch.Generator().manual_seed(0))
    u, log_v = sde.complete(x, torch.randn(6, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    joint = log_prob(model, u, joint=True, prior=law_at(sde, sde.T))
    assert (joint - RING.log_prob(x) - log_v).abs().max() < 1e-5
    marginal = log_prob(model, x, draws=2, prior=law_at(sde, sde.T), generator=torch.Generator().manual_seed(2))
    assert (marginal - RING.log_prob(x)).abs().max() < 1e-5


@pytest.mark.parametrize("sde", [*SCALAR, sdegen.CLD()], ids=name)
def test_prior_gap_is_small_and_is_the_whole_difference(sde: sdegen.LinearSDE) -> None:
    gap = metrics.prior_gap(sde, RING)
    assert 0 <= gap.value < 1e-3


def test_with_a_prior_the_likelihood_is_off_by_its_gap() -> None:
    # T = 1 leaves a gap that shows: KL(data ‖ model) is then exactly KL(law at T ‖ prior). The matched Gaussian leaves
    # 0.02 nats of the 0.32 that a standard normal prior would.
    sde = sdegen.OU(T=1.0)
    model = sdegen.Exact(sde, RING)
    standard = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    law = law_at(sde, 1.0)
    x = RING.sample(3000, torch.Generator().manual_seed(0))
    gaps = {None: metrics.prior_gap(sde, RING).value, standard: metrics.kl(law, standard, n=200_000, seed=0).value}
    assert abs(gaps[standard] - 0.32) < 0.01 and abs(gaps[None] - 0.0208) < 0.001
    for prior, gap in gaps.items():
        u = RING.log_prob(x) - log_prob(model, x, prior=prior, tolerance=1e-5)
        assert abs(u.mean() - gap) < 4 * u.std() / len(u) ** 0.5


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM()], ids=name)
def test_hutchinson_is_unbiased_and_knows_its_error(sde: sdegen.LinearSDE) -> None:
    x = RING.sample(100, torch.Generator().manual_seed(0))
    model = sdegen.Exact(sde, RING)
    exact = log_prob(model, x, tolerance=1e-5)
    probes = torch.Generator().manual_seed(1)
    found = log_prob(
        model, x, divergence="hutchinson", probes=8, tolerance=1e-3, generator=probes, return_error=True
    )  # fmt: skip
    error = found.value - exact
    assert error.mean().abs() < 4 * error.std() / 100**0.5
    claimed = found.stderr.square().mean().sqrt()
    assert 0.7 < error.square().mean().sqrt() / claimed < 1.4  # the errors are of the size that is claimed
    assert log_prob(model, x[:2], divergence="hutchinson", tolerance=1e-3, return_error=True).stderr.isnan().all()


def test_density_of_a_nonlinear_process_at_rest() -> None:
    # DoubleWell started from its stationary law: the flow does not move, and the density is the stationary one.
    sde = sdegen.DoubleWell()

    class AtRest(sdegen.ScoreModel):
        moments = sdegen.Moments(torch.zeros(1), torch.eye(1))

        def __init__(self) -> None:
            self.sde = sde

        def score(self, x, t, **cond):
            return sde.prior(self.moments).score(x)

    x = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    law = sde.prior(AtRest.moments)
    torch.testing.assert_close(log_prob(AtRest(), x), law.log_prob(x), rtol=0, atol=1e-6)
    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    assert abs(torch.trapezoid(law.log_prob(grid).exp(), grid[:, 0]).item() - 1) < 1e-8


def test_a_trained_networks_density_integrates_to_one(device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=32, depth=1), sdegen.VP()).to(device, dtype)
    sdegen.fit(model, RING, steps=60, batch_size=128, seed=0)
    side = torch.linspace(-12, 12, 73, dtype=torch.float64)
    points = torch.cartesian_prod(side, side).to(device, dtype)
    values = torch.cat([log_prob(model, block, tolerance=1e-3) for block in points.split(2000)])
    mass = values.double().exp().sum() * (side[1] - side[0]) ** 2
    assert abs(mass.item() - 1) < 0.01
