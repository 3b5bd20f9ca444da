"""Priors cut down to where a posterior has its mass: a ball where it is Gaussian, and the prior's own law within."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as D

import sdegen
from sdegen.inference import AmortisedPosterior, Truncated

BOX = D.Uniform(-2 * torch.ones(2), 2 * torch.ones(2))
STD = 0.2


class Around(AmortisedPosterior):
    """The posterior of uniform parameters with normal noise, far from their bounds."""

    def __init__(self, std: float = STD) -> None:
        self.std, self.prior = std, BOX

    def sample(self, n: int, x: Tensor, **how: Any) -> Tensor:
        return x + self.std * torch.randn(n, 2)

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        return D.Normal(x, self.std).log_prob(y).sum(1)


def test_a_truncated_prior_is_the_prior_within_the_region() -> None:
    """In two dimensions a ball of radius `r` holds ``1 − exp(−r² / 2 std²)`` of a normal law, and half of its area is within
    ``r / √2``.
    """
    x = torch.tensor([0.5, -0.3])
    region = Truncated(Around(), x, cut=0.05)
    theta = region.sample(4000, torch.Generator().manual_seed(0))
    far = (theta - x).norm(dim=1)
    radius = STD * (-2 * torch.tensor(0.05).log()).sqrt()
    assert abs(far.max() / radius - 1) < 0.06
    assert abs((far < radius / 2**0.5).double().mean() - 0.5) < 0.05
    assert region.contains(theta).all() and not region.contains(x + 1.1 * radius * torch.eye(2)).any()


def test_the_region_ends_where_draws_of_the_posterior_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a density that is the same everywhere the bounding box of the draws is all that cuts."""
    monkeypatch.setattr(Around, "log_prob", lambda self, y, x: torch.zeros(len(y)))
    region = Truncated(Around(), torch.zeros(2))
    low, high = region.low, region.high
    corners = torch.stack([low, high, torch.stack([low[0], high[1]])])
    assert region.contains(corners).all()
    for axis in (0, 1):
        outside = corners.clone()
        outside[:, axis] *= 1.01
        assert not region.contains(outside).any()


def test_a_seed_gives_the_same_draws_and_a_region_without_any_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    region = Truncated(Around(), torch.zeros(2))
    first, second = (region.sample(5, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    monkeypatch.setattr(sdegen.inference.truncation, "TRIES", 1)
    with pytest.raises(ValueError, match=r"the region holds \d+ of \d+ draws of the prior, and 5 are wanted; take"):
        Truncated(Around(1e-4), torch.zeros(2)).sample(5)
