"""Data that are single numbers, ``(N,)``, are data like those of vectors of one number, ``(N, 1)``: samples, densities and bounds
are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import guidance, measurements, metrics, samplers
from sdegen.training import losses

MEANS, WIDTHS = torch.tensor([-1.0, 2.0], dtype=torch.float64), torch.tensor([0.3, 0.1], dtype=torch.float64)
WEIGHTS = torch.tensor([0.4, 0.6], dtype=torch.float64)
X = torch.linspace(-2, 3, 7, dtype=torch.float64)
LAWS = {
    shape: sdegen.GaussianMixture(WEIGHTS, MEANS.reshape(2, *shape), WIDTHS) for shape in ((), (1,))
}  # fmt: skip


def draws(n: int, shape: tuple[int, ...]) -> Tensor:
    return LAWS[shape].sample(n, torch.Generator().manual_seed(4))


def exact(sde: sdegen.LinearSDE) -> Callable[[tuple[int, ...]], sdegen.Exact]:
    return lambda shape: sdegen.Exact(sde, LAWS[shape])


class Twice(measurements.LinearMeasurement):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * x.reshape(len(x), 1)


def product(shape: tuple[int, ...]) -> guidance.Product:
    return guidance.Product([(VP(shape), 2.0), (VP(shape), -1.0)])


VP, CLD = exact(sdegen.VP()), exact(sdegen.CLD())
DOORS: dict[str, Callable[[tuple[int, ...]], Any]] = {
    "sample": lambda s: sdegen.sample(VP(s), 9, seed=0),
    "sample of few steps": lambda s: sdegen.sample(VP(s), 9, steps=4, seed=0),
    "sample, CLD": lambda s: sdegen.sample(CLD(s), 9, steps=9, seed=0),
    "sample, EDM": lambda s: sdegen.sample(exact(sdegen.EDM())(s), 9, sampler=samplers.Heun(9), seed=0),
    "sample with noise": lambda s: sdegen.sample(VP(s), 9, sampler=samplers.SecantSDE(9), seed=0),
    "sample, data": lambda s: sdegen.sample(sdegen.Exact(sdegen.VP(), sdegen.Empirical(draws(20, s))), 9, seed=0),
    "sample in parallel": lambda s: sdegen.sample(VP(s), 9, sampler=samplers.DDIM(5), parallel=3, seed=0),
    "sample, with density": lambda s: sdegen.sample_with_log_prob(VP(s), 5, seed=0)[1].value,
    "log_prob": lambda s: sdegen.log_prob(VP(s), X.reshape(7, *s)),
    "log_prob by probes": lambda s: sdegen.log_prob(
        VP(s), X.reshape(7, *s), divergence=sdegen.derivatives.Hutchinson(2), generator=torch.Generator().manual_seed(0)
    ),
    "log_prob, CLD": lambda s: sdegen.log_prob(
        CLD(s), X.reshape(7, *s), draws=2, generator=torch.Generator().manual_seed(0)
    ),
    "elbo": lambda s: sdegen.elbo(VP(s), X.reshape(7, *s), draws=2, generator=torch.Generator().manual_seed(0)).value,
    "discrete_elbo": lambda s: (
        sdegen.discrete_elbo(VP(s), X.reshape(7, *s), 5, generator=torch.Generator().manual_seed(0)).value
    ),
    "encode": lambda s: samplers.encode(VP(s), X.reshape(7, *s), steps=4),
    "implicit loss": lambda s: losses.Implicit()(VP(s), X.reshape(7, *s), generator=torch.Generator().manual_seed(0)),
    "denoising loss": lambda s: losses.Denoising()(VP(s), X.reshape(7, *s), generator=torch.Generator().manual_seed(0)),
    "measured": lambda s: sdegen.sample(
        guidance.PiGDM(VP(s), measurements.Nonlinear(lambda x: x, 0.5)), 9, y=torch.ones(s), steps=5, seed=0
    ),
    "tilted": lambda s: guidance.tilted_smc(VP(s), lambda x: x.reshape(len(x)), 9, steps=3, seed=0).x,
    "annealed": lambda s: guidance.anneal_density(LAWS[s].log_prob, LAWS[s], 9, levels=3, seed=0).x,
    "measured linearly": lambda s: sdegen.sample(guidance.KalmanUpdate(VP(s), Twice(0.5)), 9, y=[1.0], steps=5, seed=0),
    "split Gibbs": lambda s: guidance.split_gibbs(VP(s), Twice(0.5), 9, y=[1.0], levels=3, seed=0),
    "decoupled": lambda s: guidance.decoupled_annealing(
        VP(s), measurements.Nonlinear(torch.tanh, 0.5), 9, y=0.5 * torch.ones(s), levels=[3.0], steps=3, seed=0
    ),
    "twisted": lambda s: guidance.twisted_smc(guidance.PiGDM(VP(s), Twice(0.5)), 9, y=[1.0], steps=4, seed=0).x,
    "a product": lambda s: guidance.corrected(product(s), 9, steps=6, seed=0).x,
    "a product, annealed": lambda s: guidance.anneal_product(product(s), 9, steps=6, seed=0).x,
    "log_prob by more probes": lambda s: sdegen.log_prob(
        VP(s),
        X.reshape(7, *s),
        divergence=sdegen.derivatives.HutchPlusPlus(1),
        generator=torch.Generator().manual_seed(0),
    ),
    "kl": lambda s: torch.tensor(metrics.kl(LAWS[s], LAWS[s], 99, seed=0).value),
    "knn_kl": lambda s: torch.tensor(metrics.knn_kl(draws(150, s), draws(300, s)[150:]).value),
    "diagnose": lambda s: torch.tensor(
        [v.w2.value for v in sdegen.diagnose(VP(s), LAWS[s], samplers.DDIM(3), n=64, bins=2, seed=0).terms.values()]
    ),
}


@pytest.mark.turns("log_prob, CLD", "log_prob by more probes")
@pytest.mark.parametrize("door", DOORS)
def test_numbers_are_vectors_of_one_number(door: str) -> None:
    alone, vector = (DOORS[door](shape) for shape in LAWS)
    assert alone.ndim == vector.ndim - (vector.ndim > 1 and vector.shape[-1] == 1)
    torch.testing.assert_close(alone.flatten(), vector.flatten(), rtol=1e-9, atol=1e-12)
