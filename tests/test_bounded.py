"""Processes on a bounded domain by their exact scores: samplers bring the data back and stay inside, and densities are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from later import Later
from scipy import stats
from torch import Tensor

import sdegen
from sdegen import samplers
from sdegen.conditions import NONE, Conditions
from sdegen.models.score import ScoreModel
from sdegen.processes.bounded import BoundedSDE
from sdegen.processes.circle import CircularBrownianMotion
from sdegen.processes.jacobi import Jacobi
from sdegen.processes.reflected import ReflectedBrownianMotion

d64 = torch.float64


def later(sde: BoundedSDE, points: tuple[float, float], noise: float) -> Later:
    return Later(sde, points, noise, sde.elapsed)


MODELS: dict[str, Callable[[], Later]] = {
    "circle": lambda: later(CircularBrownianMotion(), (3.0, -1.0), 0.003),
    "box": lambda: later(ReflectedBrownianMotion(), (0.02, 0.7), 0.002),
    "jacobi": lambda: later(Jacobi(1.5, 2.0), (0.02, 0.7), 0.003),
}


@pytest.mark.thinned(2)
@pytest.mark.turns("*eta=0.5*-jacobi", "Heun*-jacobi", "EulerMaruyama(steps=200*-jacobi")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "sampler", [samplers.EulerMaruyama(200), samplers.EulerMaruyama(150, eta=0.5), samplers.Heun(60)], ids=repr
)
def test_samplers_bring_the_data_back_and_stay_inside(name: str, sampler: samplers.Sampler) -> None:
    model = MODELS[name]()
    path = sdegen.sample(model, 2000, sampler=sampler, seed=0, return_path=True)
    assert model.sde.domain.check(path).all()
    assert stats.ks_2samp(path[-1, :, 0].double(), model.draw(20_000, 0.0, 1)[:, 0]).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_densities_by_the_flow_are_those_of_the_data(name: str) -> None:
    model = MODELS[name]()
    x = model.draw(24, 0.0, 2)
    assert (sdegen.log_prob(model, x, tolerance=1e-5) - model.log_density(x, 0.0)).abs().max() < 1e-4


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.turns("jacobi")
def test_what_denoising_learns_is_the_score_of_the_states(name: str) -> None:
    # The mean over the data of the kernel's score, given the state, is the score of the law at t: regressed on functions of it.
    model, t = MODELS[name](), 0.3
    drawn = model.sde.perturb(model.draw(40_000, 0.0, 3), t, generator=torch.Generator().manual_seed(4))
    gap = (drawn.kernel.score(drawn.x) - model.score(drawn.x, t)) * drawn.at.R(torch.ones_like(drawn.x))
    for function in (torch.ones_like, torch.sin, torch.cos, torch.square):
        value = (gap * function(drawn.x))[:, 0]
        assert value.mean().abs() < 4 * value.std() / len(value) ** 0.5


class Settled(ScoreModel):
    """The exact model of data that have the stationary law of the process, as their noised states do at all times."""

    def __init__(self, sde: Jacobi, parts: int) -> None:
        self._sde = sde
        self.moments = sdegen.Moments(torch.zeros(parts - 1, dtype=d64), torch.ones(parts - 1, dtype=d64))
        self.law = sde.prior(self.moments)

    @property
    def sde(self) -> Jacobi:
        return self._sde

    @property
    def conditions(self) -> Conditions:
        return NONE

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        return self.law.score(x)


def test_samples_on_a_simplex_stay_there_and_have_their_density() -> None:
    concentration = torch.tensor([1.5, 2.0, 3.0], dtype=d64)
    model, law = Settled(Jacobi.of_dirichlet(concentration), 3), torch.distributions.Dirichlet(concentration)
    x = sdegen.sample(model, 2000, sampler=samplers.EulerMaruyama(200), seed=0).double()
    assert x.shape == (2000, 3) and (x > 0).all() and (x.sum(1) - 1).abs().max() < 1e-6
    for k in range(3):
        alone = stats.beta(concentration[k].item(), (concentration.sum() - concentration[k]).item())
        assert stats.kstest(x[:, k].numpy(), alone.cdf).pvalue > 1e-3
    points = torch.tensor([[0.2, 0.5, 0.3], [0.01, 0.09, 0.9]], dtype=d64)
    assert (sdegen.log_prob(model, points, tolerance=1e-6) - law.log_prob(points)).abs().max() < 1e-5
