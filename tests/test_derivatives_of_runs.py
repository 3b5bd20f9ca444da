"""Derivatives through whole runs: of samples by their starts, of densities by data, of both by parameters and conditions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sdegen
from sdegen import grids, guidance, samplers
from sdegen.laws.derivatives import ExactDivergence, Hutchinson, HutchPlusPlus
from sdegen.laws.odes import TABLEAUS
from sdegen.samplers import decode, encode

RING = sdegen.data.gaussian_ring()
MEAN = torch.tensor([0.5, -1.0], dtype=torch.float64)
COVARIANCE = torch.tensor([[1.5, 0.6], [0.6, 0.7]], dtype=torch.float64)
GAUSSIAN = sdegen.GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE[None])
SAMPLERS: dict[str, Callable[[], samplers.Sampler]] = {
    "DDIM": lambda: samplers.DDIM(6),
    "DDIM, eta 1": lambda: samplers.DDIM(6, eta=1.0),
    "Ancestral": lambda: samplers.Ancestral(6),
    "EulerMaruyama": lambda: samplers.EulerMaruyama(6),
    "ReverseDiffusion": lambda: samplers.ReverseDiffusion(6),
    "Heun": lambda: samplers.Heun(4),
    "Churn": lambda: samplers.Churn(4),
    "Multistep": lambda: samplers.Multistep(6),
    "Multistep, corrected": lambda: samplers.Multistep(6, corrector=True),
    "Singlestep": lambda: samplers.Singlestep(3),
    "ExponentialSDE": lambda: samplers.ExponentialSDE(6),
    "SecantSDE": lambda: samplers.SecantSDE(6),
    "default": lambda: samplers.default(sdegen.Exact(sdegen.VP(), RING), 6),
    "PredictorCorrector": lambda: samplers.PredictorCorrector(samplers.ReverseDiffusion(4)),
    **{f"flow, {m}": lambda m=m: samplers.ProbabilityFlow(3, method=m) for m in TABLEAUS},  # type: ignore[misc]
    **{f"flow, {m}": lambda m=m: samplers.ProbabilityFlow(method=m) for m in ("dopri5", "bosh3")},  # type: ignore[misc]
}


def network(sde: sdegen.LinearSDE, **how: int) -> sdegen.Model:
    torch.manual_seed(0)
    net = sdegen.nets.MLP(2, 8, 1, **how)
    nn.init.normal_(net.last.weight, std=0.3)
    model = sdegen.Model(net, sde).double()
    model.moments = RING.moments()
    return model


def agrees_with_differences(run: Callable[[Tensor], Tensor], x: Tensor, tolerance: float = 1e-5) -> None:
    """The derivative of a weighted sum along a random direction is that of central differences."""
    draw = torch.Generator().manual_seed(9)
    x = x.detach().clone().requires_grad_()
    value = run(x)
    weights = torch.randn(value.shape, dtype=torch.float64, generator=draw)
    direction, h = torch.randn(x.shape, dtype=torch.float64, generator=draw), 1e-5
    (slope,) = torch.autograd.grad((weights * value).sum(), x)
    with torch.no_grad():
        up, down = ((weights * run(x + s * h * direction)).sum() for s in (1, -1))
    found, want = (slope * direction).sum(), (up - down) / (2 * h)
    assert abs(found - want) < tolerance * (1 + abs(want)), (found, want)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_have_the_derivatives_of_differences(name: str) -> None:
    x_T = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loose = (
        1e-2 if "dopri5" in name or "bosh3" in name or "Predictor" in name else 1e-5
    )  # their steps depend on the state
    for model in (network(sdegen.VP()), sdegen.Exact(sdegen.VP(), RING)):
        run = lambda x, m=model: sdegen.sample(m, x_T=x, sampler=SAMPLERS[name](), seed=0, grad=True, progress=False)
        agrees_with_differences(run, x_T, loose)


def test_nothing_is_recorded_unless_asked_for() -> None:
    model, x = network(sdegen.VP()), torch.randn(3, 2, dtype=torch.float64).requires_grad_()
    assert not sdegen.sample(model, x_T=x, seed=0).requires_grad
    assert not sdegen.log_prob(model, x, tolerance=1e-2).requires_grad
    assert not encode(model, x).requires_grad and not decode(model, x).requires_grad
    assert not sdegen.sample_with_log_prob(model, 2, tolerance=1e-2)[1].value.requires_grad


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM(), sdegen.Rectified()], ids=lambda s: type(s).__name__)
def test_the_jacobian_of_the_flow_of_a_gaussian_is_the_known_one(sde: sdegen.LinearSDE) -> None:
    alpha, sigma = (v.matrix()[0, 0] for v in (sde.marginal(sde.T).Phi, sde.marginal(sde.T).R))
    values, vectors = torch.linalg.eigh(COVARIANCE)
    want = (vectors * (values / (alpha**2 * values + sigma**2)).sqrt()) @ vectors.T
    model = sdegen.Exact(sde, GAUSSIAN)
    x_T = sde.diffused(GAUSSIAN, sde.T).sample(1, torch.Generator().manual_seed(0))
    flow = samplers.ProbabilityFlow(grid=grids.Angle(end=0.0), rtol=1e-8, atol=1e-8)
    found = torch.autograd.functional.jacobian(lambda x: decode(model, x[None], sampler=flow, grad=True)[0], x_T[0])
    assert (found - want).abs().max() < 1e-5 * want.abs().max()
    back = torch.autograd.functional.jacobian(lambda x: encode(model, x[None], sampler=flow, grad=True)[0], MEAN + 0.3)
    assert (back @ want - torch.eye(2)).abs().max() < 1e-4


@pytest.mark.turns("Rectified")
@pytest.mark.turns("OU")
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.OU(), sdegen.Rectified()], ids=lambda s: type(s).__name__)
def test_the_derivative_of_a_density_is_the_score(sde: sdegen.LinearSDE) -> None:
    x = RING.sample(3, torch.Generator().manual_seed(0)).requires_grad_()
    value = sdegen.log_prob(sdegen.Exact(sde, RING), x, grad=True, prior=sde.diffused(RING, sde.T), tolerance=1e-6)
    (found,) = torch.autograd.grad(value.sum(), x)
    assert (found - RING.score(x)).abs().max() < 1e-3


@pytest.mark.turns("HutchPlusPlus*", "Hutchinson*")
@pytest.mark.parametrize("divergence", [ExactDivergence(), Hutchinson(2), HutchPlusPlus(1)], ids=repr)
def test_densities_have_the_derivatives_of_differences(divergence: sdegen.derivatives.Divergence) -> None:
    model, x = network(sdegen.VP()), RING.sample(2, torch.Generator().manual_seed(0))
    how = {"method": "rk4", "steps": 6, "divergence": divergence, "grad": True}

    def density(x: Tensor) -> Tensor:
        return sdegen.log_prob(model, x, generator=torch.Generator().manual_seed(3), **how)

    agrees_with_differences(density, x)


@pytest.mark.parametrize("method", [None, "dopri5"])
@pytest.mark.slow
def test_adaptive_densities_have_the_derivatives_of_differences(method: str | None) -> None:
    model, x = network(sdegen.VP()), RING.sample(2, torch.Generator().manual_seed(0))
    agrees_with_differences(lambda x: sdegen.log_prob(model, x, method=method, tolerance=1e-6, grad=True), x, 1e-3)


def test_parameters_learn_through_samples_and_densities() -> None:
    model, x = network(sdegen.VP()), RING.sample(2, torch.Generator().manual_seed(0))
    weight = model.net.last.weight
    for run in (
        lambda: sdegen.sample(model, x_T=x, steps=6, seed=0, grad=True).square().sum(),
        lambda: sdegen.sample_with_log_prob(model, 2, method="rk4", steps=6, seed=0, grad=True)[1].value.sum(),
        lambda: sdegen.log_prob(model, x, method="rk4", steps=6, grad=True).sum(),
    ):
        direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        (slope,) = torch.autograd.grad(run(), weight)
        values = []
        for s in (1e-6, -1e-6):
            with torch.no_grad():
                weight += s * direction
            values.append(run().item())
            with torch.no_grad():
                weight -= s * direction
        want = (values[0] - values[1]) / 2e-6
        assert abs((slope * direction).sum() - want) < 1e-5 * (1 + abs(want))


def test_conditions_have_derivatives() -> None:
    seen = sdegen.measurements.Mask(torch.tensor([True, False]), std=0.5)
    model = guidance.PiGDM(sdegen.Exact(sdegen.VP(), RING), seen)
    x_T = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    agrees_with_differences(lambda y: sdegen.sample(model, x_T=x_T, sampler=samplers.DDIM(5), y=y, grad=True), y)


def test_a_network_that_checkpoints_itself_has_the_same_derivatives() -> None:
    class Frugal(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return checkpoint(self.net, x, level, use_reentrant=False)

    model = network(sdegen.VP())
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    slopes = []
    for net in (model.net, Frugal(model.net)):
        model.net = net
        slopes.append(torch.autograd.grad(sdegen.sample(model, x_T=x, steps=6, seed=0, grad=True).sum(), x)[0])
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)
