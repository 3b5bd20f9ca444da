"""Shares of modes, and the density that samples are given."""

from __future__ import annotations

import pytest
import torch

import sdegen
from sdegen.metrics import KernelDensity, kl, mode_shares

RING = sdegen.data.gaussian_ring()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_true_samples_have_shares_of_one() -> None:
    n = 40_000
    assert ((mode_shares(RING.sample(n, seeded(0)), RING) - 1).abs() < 4 / (n / 8) ** 0.5).all()


def test_the_distance_is_that_of_each_mode() -> None:
    covariances = torch.tensor([[[4.0, 1.9], [1.9, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    law = sdegen.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[0.0, 0.0], [9.0, 0.0]]), covariances)
    shares = mode_shares(law.sample(40_000, seeded(0)), law)
    assert ((shares - 1).abs() < 0.05).all()
    # Within three standard deviations along the long axis, and not across it.
    along, across = torch.tensor([[5.0, 2.4]]), torch.tensor([[-1.2, 2.4]])
    assert mode_shares(along, law)[0] > 3 and mode_shares(across, law).sum() == 0
    near, far = torch.tensor([[9.0, 2.9]]), torch.tensor([[9.0, 3.1]])
    assert mode_shares(near, law)[1] > 1 and mode_shares(far, law).sum() == 0 and mode_shares(far, law, 4.0)[1] > 1


def test_lost_mass_is_seen() -> None:
    x = RING.sample(20_000, seeded(0))
    gone = x[~((x - RING.means[3]).norm(dim=1) < 2)]
    shares = mode_shares(gone, RING)
    assert shares[3] == 0 and (shares.argmin() == 3) and shares.median() > 1
    with pytest.raises(ValueError, match="numbers a sample"):
        mode_shares(torch.zeros(3, 5), RING)
    with pytest.raises(ValueError, match="positive number"):
        mode_shares(x, RING, within=0.0)


def test_a_kernel_density_has_mass_one_and_the_law_that_is_smoothed() -> None:
    at = torch.linspace(-8, 8, 1601, dtype=torch.float64)[:, None]
    x = torch.randn(200, 1, generator=seeded(0), dtype=torch.float64)
    law = KernelDensity(x, 0.3)
    assert law.log_prob(at).exp().sum().item() * 0.01 == pytest.approx(1, abs=1e-6)
    mean = torch.stack([torch.distributions.Normal(m, 0.3).log_prob(at[:, 0]).exp() for m in x[:, 0]]).mean(0)
    assert torch.allclose(law.log_prob(at).exp(), mean, atol=1e-12)
    # Of many samples of a normal law it tends to the law smoothed: KL(N(0, 1) ‖ N(0, 1 + h²)).
    many = torch.randn(20_000, 1, generator=seeded(1), dtype=torch.float64)
    unit = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    value, stderr = kl(KernelDensity(many, 0.5), unit, 4000, seed=0, control=False)
    v = 1.25
    truth = 0.5 * (torch.tensor(v).log().item() + 1 / v - 1)
    assert abs(value - truth) < 4 * stderr + 2e-3
    with pytest.raises(ValueError, match="positive"):
        KernelDensity(x, 0.0)
    with pytest.raises(ValueError, match="same space"):
        law.log_prob(torch.zeros(2, 3))
