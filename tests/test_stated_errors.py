"""The errors that weighted runs state of a normaliser, on problems drawn at random: how often the truth is within one and two."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import sdegen
from sdegen.guidance import Particles, Product, anneal_density, corrected, tilted_smc
from sdegen.guidance.measurements import Linear, mixture_posterior
from sdegen.laws import GaussianMixture, multiply_laws, tilt_law

Run = Callable[[int], tuple[Particles, float]]


def drawn(dim: int, seed: int) -> GaussianMixture:
    """Draw a mixture of two to six modes."""
    return sdegen.data.random_mixture(dim, modes=2 + seed % 5, seed=seed)


def around(law: GaussianMixture, wider: float) -> GaussianMixture:
    """Return a Gaussian around the mean of a law, of so many times its variance."""
    moments = law.moments()
    return GaussianMixture(torch.ones(1), moments.mean[None], wider * moments.variance()[None])


def density(seed: int) -> tuple[Particles, float]:
    """A mixture from a Gaussian, by densities, through several resamplings."""
    law = drawn(6, seed)
    return anneal_density(law.log_prob, around(law, 1.5), 300, levels=60, seed=seed, progress=False), 0.0


def tilt(seed: int) -> tuple[Particles, float]:
    """A mixture tilted by a linear reward."""
    law = drawn(2, seed)
    slope = torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    slope = slope / (slope.norm() * law.moments().variance().sqrt())
    model = sdegen.Exact(sdegen.VP(), law)
    found = tilted_smc(model, lambda x: x.double() @ slope, 300, steps=60, seed=seed, progress=False)
    return found, tilt_law(law, slope).log_normaliser


def prior(seed: int) -> tuple[Particles, float]:
    """A mixture under another Gaussian prior, whose drift is fitted to the particles."""
    law = drawn(2, seed)
    factors = [(law, 1.0), (around(law, 0.7), 0.7), (around(law, 1.3), -0.7)]
    model = Product([(sdegen.Exact(sdegen.VP(), p), power) for p, power in factors])
    return corrected(model, 300, steps=60, seed=seed, progress=False), multiply_laws(factors).log_normaliser


def observed(seed: int) -> tuple[Particles, float]:
    """The posterior of a Gaussian datum given five observations, of which a fitted drift takes all but what its steps leave."""
    draws = torch.Generator().manual_seed(seed)
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[0.5, 2.0]]))
    A = Linear(torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64), 1.0)
    seen = A.sample(prior.sample(1, draws).expand(5, -1), draws)
    factors = [(prior, -4.0), *((mixture_posterior(prior, A, y), 1.0) for y in seen)]
    model = Product([(sdegen.Exact(sdegen.VP(), p), power) for p, power in factors])
    return corrected(model, 300, steps=60, seed=seed, progress=False), multiply_laws(factors).log_normaliser


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*particles end:UserWarning", "ignore:.*bear all of the weight:UserWarning")
@pytest.mark.parametrize("run", [density, tilt, prior, observed])
def test_stated_errors_cover_the_truth_at_their_nominal_rate(run: Run) -> None:
    """Of a hundred runs: within one error as of a normal law, or in somewhat more for skewed weights, and within two in no fewer
    than three binomial errors below 95.
    """
    off, stated = [], []
    for seed in range(600, 700):
        found, truth = run(seed)
        assert found.log_evidence is not None and found.evidence_error is not None
        off.append(abs(found.log_evidence - truth))
        stated.append(found.evidence_error)
    ratio = torch.tensor(off) / torch.tensor(stated)
    one, two = ((ratio < k).double().mean().item() for k in (1, 2))
    assert abs(one - 0.68) < 0.19 and two > 0.885, (one, two)
