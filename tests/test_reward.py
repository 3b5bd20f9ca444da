"""Laws tilted by rewards: closed forms of mixtures, and weighted runs held to them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.guidance import tilted_smc
from sdegen.guidance.particles import chain_times
from sdegen.laws import GaussianMixture, tilt_law

LAW = GaussianMixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.tensor([[0.3, 0.6], [0.5, 0.2]])
)
LINEAR, QUADRATIC = torch.tensor([0.7, -0.4]), torch.tensor([[0.5, 0.2], [0.2, -0.3]])
MODEL = sdegen.Exact(sdegen.VP(), LAW)


def reward(x: Tensor) -> Tensor:
    x = x.double()
    return x @ LINEAR.double() - 0.5 * ((x @ QUADRATIC.double()) * x).sum(1)


def test_a_mixture_times_a_reward_is_the_mixture_that_is_stated() -> None:
    found = tilt_law(LAW, LINEAR, QUADRATIC)
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.law.log_prob(x), LAW.log_prob(x) + reward(x) - found.log_normaliser)
    assert tilt_law(LAW, torch.zeros(2)).log_normaliser == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_particles_have_the_tilted_law_and_its_normaliser(temperature: float) -> None:
    truth = tilt_law(LAW, LINEAR / temperature, QUADRATIC / temperature)
    found = tilted_smc(MODEL, reward, 2000, steps=60, temperature=temperature, seed=0)
    assert found.log_evidence == pytest.approx(truth.log_normaliser, abs=0.08)
    mean, C = truth.law.moments()
    assert ((found.mean() - mean).abs() < 5 * (C.diagonal() / 1000).sqrt()).all()


class Rated(torch.nn.Module):
    """A reward with a slope and a curvature, to be learned."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = torch.nn.Linear(2, 1).double()
        self.curvature = torch.nn.Bilinear(2, 2, 1, bias=False).double()

    def forward(self, x: Tensor) -> Tensor:
        return (self.slope(x.double()) - 0.5 * self.curvature(x.double(), x.double()))[:, 0]

    def fit(self, x: Tensor, ratings: Tensor) -> None:
        """Learn from ratings of data, by least squares."""
        optimiser = torch.optim.LBFGS(self.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = (self(x) - ratings).square().mean()
            loss.backward()
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]


def test_a_reward_that_was_learned_tilts_a_gaussian_as_its_closed_form_says() -> None:
    """The law is that of the network's own coefficients, and near the one of the reward that the ratings are of."""
    gaussian = GaussianMixture(torch.ones(1), torch.tensor([[0.5, -0.3]]), torch.tensor([[0.8, 1.2]]))
    draws = torch.Generator().manual_seed(0)
    x = gaussian.sample(2000, draws)
    torch.manual_seed(0)
    rated = Rated()
    rated.fit(x, reward(x) + 0.3 * torch.randn(2000, dtype=torch.float64, generator=draws))
    constant = rated.slope.bias.item()
    own = tilt_law(gaussian, rated.slope.weight.detach()[0], rated.curvature.weight.detach()[0])
    true = tilt_law(gaussian, LINEAR, QUADRATIC)
    found = tilted_smc(sdegen.Exact(sdegen.VP(), gaussian), rated, 2000, steps=60, seed=0, progress=False)
    assert abs((found.log_evidence or 0.0) - own.log_normaliser - constant) < 3 * (found.evidence_error or 0.0) < 0.15
    mean, C = own.law.moments()
    assert ((found.mean() - mean).abs() < 4 * (C.diagonal() / 1000).sqrt()).all()
    assert abs(own.log_normaliser + constant - true.log_normaliser) < 0.05
    assert (true.law.moments().mean - gaussian.means[0]).abs().max() > 0.4  # the tilt is no small one
    assert (mean - true.law.moments().mean).abs().max() < 0.1


def test_a_reward_may_forbid_data() -> None:
    """The normaliser is then the probability of what is allowed."""
    half = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    model = sdegen.Exact(sdegen.VP(), half)
    found = tilted_smc(model, lambda x: torch.where(x[:, 0] > 0, 0.0, -torch.inf), 1000, steps=40, seed=0)
    assert found.log_evidence == pytest.approx(math.log(0.5), abs=0.2)
    assert (found.x[found.weights > 0] > 0).all()


def test_rewards_that_weigh_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="the reward is NaN or inf of 8 data predicted at t = "):
        tilted_smc(MODEL, lambda x: x[:, 0] * torch.nan, 8, steps=3)
    with pytest.raises(ValueError, match="the reward forbids all particles at the end"):
        tilted_smc(MODEL, lambda x: torch.full((len(x),), -torch.inf), 8, steps=3)
    with pytest.raises(ValueError, match=r"temperature = 0\.0; it must be positive"):
        tilted_smc(MODEL, reward, 8, temperature=0.0)
    with pytest.raises(ValueError, match="reward returned shape"):
        tilted_smc(MODEL, lambda x: x, 8, steps=3)
    with pytest.raises(ValueError, match="no finite integral"):
        tilt_law(LAW, LINEAR, -5 * torch.eye(2))
    with pytest.raises(ValueError, match="linear has shape"):
        tilt_law(LAW, torch.ones(3))


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM(), sdegen.OU()], ids=lambda sde: type(sde).__name__)
def test_a_grid_that_ends_early_is_exact_or_refused(sde: sdegen.LinearSDE, scale: float) -> None:
    """Of a Gaussian of variance P, what a model predicts at the last time has the variance ``P² / (P + ρ²)``, and with the reward
    ``x / sqrt P`` the constant is ``exp(½)``, not that of the narrower law."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([scale**2]))
    model = sdegen.Exact(sde, law)
    weighed = lambda end: tilted_smc(
        model, lambda x: x[:, 0] / scale, 2000, steps=30, grid=sdegen.grids.Angle(end=end), seed=0, progress=False
    )
    ends = {share: sde.time(1 / (share * scale**2)).item() for share in (9e-4, 1.1e-3, 0.1)}
    ends = {share: end for share, end in ends.items() if end > sde.t_min}
    assert len(ends) > 1
    for share, end in ends.items():
        if share > 1e-3:
            with pytest.raises(ValueError, match=r"the grid ends at t = .* % of the spread of the data"):
                weighed(end)
        else:
            found = weighed(end)
            assert abs((found.log_evidence or 0.0) - 0.5) < 4 * (found.evidence_error or 0.0) + 1e-3


def test_a_model_that_is_to_end_early_is_asked_to_its_own_end() -> None:
    model = sdegen.Exact(sdegen.VP(), LAW)
    model.end = 0.1
    tilted_smc(model, reward, 8, steps=3, seed=0)
    assert chain_times(model, sdegen.VP(), None, 3)[-1] == 0.1
    with pytest.raises(ValueError, match=r"end it nearer to t = 0\.1\."):
        tilted_smc(model, reward, 8, steps=3, grid=sdegen.grids.Angle(end=0.11), seed=0)


@pytest.mark.slow
def test_the_stated_error_is_nominal_after_resampling() -> None:
    ring = sdegen.data.gaussian_ring()
    truth, model = tilt_law(ring, torch.tensor([0.5, 0.0])).log_normaliser, sdegen.Exact(sdegen.VP(), ring)
    runs = [tilted_smc(model, lambda x: 0.5 * x[:, 0], 500, steps=60, seed=seed, progress=False) for seed in range(40)]
    ratio = torch.tensor([abs((run.log_evidence or 0.0) - truth) / (run.evidence_error or 0.0) for run in runs])
    assert all(run.resampled for run in runs)
    one, two = ((ratio < k).double().mean().item() for k in (1, 2))
    assert abs(one - 0.68) < 0.2 and two > 0.89, (one, two)


def test_of_a_quadratic_reward_the_symmetric_part_counts() -> None:
    skew = torch.tensor([[0.0, 2.0], [-2.0, 0.0]])
    assert tilt_law(LAW, LINEAR, QUADRATIC + skew).log_normaliser == pytest.approx(
        tilt_law(LAW, LINEAR, QUADRATIC).log_normaliser, abs=1e-6
    )
    with pytest.raises(ValueError, match="linear holds NaN or infinite"):
        tilt_law(LAW, LINEAR * math.nan)
