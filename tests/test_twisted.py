"""Particles on moment matching, whose width is another in every state: its determinant, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import sdegen
from sdegen.guidance import MomentMatching, twisted_smc
from sdegen.guidance.measurements import Linear, mixture_posterior
from sdegen.guidance.twisted import _checked
from sdegen.laws.units import Units

RING = sdegen.data.gaussian_ring()
A = Linear(torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=torch.float64), 0.5)
Y = torch.tensor([3.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_moment_matching_knows_the_density_of_what_was_measured(share: float) -> None:
    """The Gaussian of the moments that the data have given the state, which a mixture knows in closed form."""
    units = Units(torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([2.0, 0.5], dtype=torch.float64))
    for sde in (sdegen.VP(), sdegen.VE(), sdegen.VP().in_units(units)):
        t, draws = share * sde.T, torch.Generator().manual_seed(0)
        data, at = RING.sample(6, draws), sde.marginal(t)
        z = torch.randn(6, 2, dtype=torch.float64, generator=draws)
        x = at.Phi(sde.lift(data)) + at.R(z)
        level = (-0.5 * sde.log_snr(t)).exp().item()
        noised = sde.restore(at.Phi.inv()(x))  # the data, plus noise of the level in their units
        expected = []
        for row in noised:
            spread = torch.ones(2, dtype=torch.float64) if sde.units.plain else sde.units.std
            seen = mixture_posterior(RING, Linear((1 / spread).diag(), level), row / spread).moments()
            Q = A.std**2 * torch.eye(2) + A.A @ seen.covariance @ A.A.T
            expected.append(torch.distributions.MultivariateNormal(A.A @ seen.mean, Q).log_prob(Y))
        found = MomentMatching(sdegen.Exact(sde, RING), A).tilt_with_log_density(x, t, y=Y)[3]
        torch.testing.assert_close(found - found[0], torch.stack(expected) - expected[0], rtol=1e-6, atol=1e-6)


def test_particles_on_moment_matching_find_the_weights_of_modes() -> None:
    line = Linear(A.A[:1], 0.5)
    truth = mixture_posterior(RING, line, Y[:1])
    found = twisted_smc(MomentMatching(sdegen.Exact(sdegen.VP(), RING), line), 1500, steps=60, seed=0, y=Y[:1])
    shares = found.mean(truth.component_log_prob(found.x).softmax(1))
    assert 0.5 * (shares - truth.weights).abs().sum() < 0.06
    assert found.evaluations == 60


def test_a_determinant_of_very_many_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdegen.guidance.measured.MANY", 1)
    with pytest.raises(ValueError, match="2 numbers are measured, and their determinant takes as many derivatives"):
        twisted_smc(MomentMatching(sdegen.Exact(sdegen.VP(), RING), A), 10, y=Y)


def test_particles_without_a_push_go_where_they_would_go_unseen() -> None:
    line = Linear(A.A[:1], 0.5)
    found = {
        scale: [
            twisted_smc(
                sdegen.guidance.PiGDM(sdegen.Exact(sdegen.VP(), RING), line, scale),
                9,
                steps=5,
                threshold=0,
                seed=0,
                y=y,
            ).x
            for y in (torch.tensor([2.0]), torch.tensor([-1.0]))
        ]
        for scale in (0.0, 0.5, 1.0)
    }
    assert torch.equal(*found[0.0]) and not torch.equal(*found[0.5]) and not torch.equal(found[0.5][0], found[1.0][0])


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_particles_know_the_density_of_what_was_measured(scale: float) -> None:
    """With other steps too, whose weights say by how much they are other ones."""
    wide = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([2.0]))
    line = Linear(A.A[:1], 2.0)
    model = sdegen.guidance.PiGDM(sdegen.Exact(sdegen.VP(), wide), line, scale)
    found = twisted_smc(model, 400, steps=40, seed=0, y=Y[:1])
    spread = (2 * line.A @ line.A.T + 4).item() ** 0.5
    truth = torch.distributions.Normal(0.0, spread).log_prob(Y[:1]).item()
    assert found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - truth) < 4 * found.evidence_error + 0.02 < 0.5
    with pytest.raises(ValueError, match=r"the grid ends at t = 0\.1, where the noise has 24 % of the spread"):
        twisted_smc(model, 10, steps=4, grid=sdegen.grids.Angle(end=0.1), y=Y[:1])


def test_what_is_known_of_one_particle_alone_is_not_its_error() -> None:
    wide = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([2.0]))
    model = sdegen.guidance.PiGDM(sdegen.Exact(sdegen.VP(), wide), Linear(A.A[:1], 2.0))
    with pytest.raises(ValueError, match="particles = 1; it must be a whole number, at least 2"):
        twisted_smc(model, 1, steps=4, y=Y[:1])
    assert (twisted_smc(model, 2, steps=20, seed=0, y=Y[:1]).evidence_error or 0.0) > 0


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: sdegen.guidance.PiGDM(inner, Linear(A.A[:1], 1.0)),
        lambda inner: sdegen.guidance.ClassifierFree(inner, 2.0),
    ],
    ids=["a second measurement", "against a null"],
)
def test_a_wrapper_that_keeps_what_was_measured_is_named(around: Callable[[Any], Any]) -> None:
    wide = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([2.0]))
    inner = sdegen.guidance.PiGDM(sdegen.ExactConditional(sdegen.VP(), [wide, wide], wide), Linear(A.A[:1], 2.0))
    with pytest.raises(ValueError, match=r"keeps y for itself .*, and guidance against a null drops it unless drop="):
        sdegen.sample(around(inner), 4, steps=3, seed=0, y=Y[:1], label=0)


@pytest.mark.parametrize(
    ("weights", "right"),
    [
        ([0.0, -math.inf], True),
        ([0.0, math.nan], False),
        ([-math.inf, -math.inf], False),
        ([math.nan, math.nan], False),
    ],
)
def test_weights_are_numbers_of_which_one_at_least_is_not_zero(weights: list[float], right: bool) -> None:
    given, t = torch.tensor(weights), torch.tensor(0.5)
    with nullcontext() if right else pytest.raises(ValueError, match=r"non-finite at t = 0\.5"):
        assert _checked(given, t) is given
