"""A diffusion model is a hierarchical VAE: the same bound, term by term, written with torch's own distributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import diffusion_hierarchy
from sdegen.baselines import Hierarchy, LatentLayer

LAW = sdegen.GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[-1.0, 0.3], [0.8, 0.0]]), torch.tensor([[0.1, 0.3], [0.2, 0.1]])
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(kind: type, sde: Any) -> Any:
    torch.manual_seed(0)
    net = sdegen.nets.MLP(2, width=16, depth=1, out=4 if kind is sdegen.LearnedVariance else None)
    nn.init.normal_(net.last.weight, std=0.3)
    model = kind(net, sde).double()
    # A prior of independent coordinates, as that of a layer is.
    moments = LAW.moments()
    model.moments = sdegen.Moments(moments.mean, moments.covariance.diagonal().diag())
    return model


@pytest.mark.parametrize(
    "sde", [sdegen.DDPM(), sdegen.VE(0.05, 20.0), sdegen.Rectified()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("kind", [sdegen.Model, sdegen.LearnedVariance])
def test_the_terms_of_the_chain_are_those_of_the_hierarchy(kind: type, sde: Any) -> None:
    model = network(kind, sde)
    times = torch.tensor([0.95, 0.7, 0.4, 0.2, 0.08, 0.03], dtype=torch.float64) * sde.T
    x = LAW.sample(4000, seeded(0))
    with torch.no_grad():
        ours = torch.stack([sdegen.discrete_elbo(model, x, times, generator=seeded(k)).terms for k in range(4)])
        theirs = torch.stack([diffusion_hierarchy(model, times).terms(x, seeded(9 + k)) for k in range(4)])
    assert theirs.shape == (4, 7, 4000)
    gap = (ours - theirs).mean(0)
    assert (gap.mean(1).abs() < 4.5 * gap.std(1) / 4000**0.5 + 1e-9).all()
    # Not only in sum: the terms are far apart from each other.
    means = theirs.mean((0, 2))
    assert (means[:, None] - means).abs().fill_diagonal_(1.0).min() > 1e-4


def test_a_hierarchy_of_one_latent_is_the_bound_of_a_linear_gaussian_model() -> None:
    # x = z + noise with everything Gaussian: with the true posterior the bound is the evidence.
    Normal = torch.distributions.Normal

    def posterior(x: Tensor) -> Any:
        return Normal(x / 1.25, torch.full_like(x, 0.2**0.5))

    model = Hierarchy(posterior, lambda z: Normal(0 * z, 1 + 0 * z), [], lambda z: Normal(z, 0.5 + 0 * z))
    x = torch.tensor([[0.3, -1.2], [2.0, 0.1]], dtype=torch.float64)
    evidence = Normal(0.0, 1.25**0.5).log_prob(x).sum(1)
    draws = torch.stack([-model.terms(x, seeded(k)).sum(0) for k in range(2000)])
    assert ((draws.mean(0) - evidence).abs() < 4 * draws.std(0) / 2000**0.5).all()


def test_latents_below_are_drawn_by_the_inference() -> None:
    Normal = torch.distributions.Normal
    wide = LatentLayer(lambda z, x: Normal(x + 2, 0.5 + 0 * z), lambda z: Normal(0 * z, 0.5 + 0 * z))
    x = torch.zeros(20_000, 1, dtype=torch.float64)
    model = Hierarchy(
        lambda x: Normal(x, 1 + 0 * x), lambda z: Normal(0 * z, 1 + 0 * z), [wide], lambda z: Normal(z, 1 + 0 * z)
    )
    top, middle, last = model.terms(x, seeded(0)).mean(1)
    assert top == 0 and middle == pytest.approx(0.5 * 4 / 0.25, rel=1e-9)
    assert last.item() == pytest.approx(0.5 * (4 + 0.25) + 0.5 * torch.log(torch.tensor(2 * torch.pi)).item(), abs=0.05)
