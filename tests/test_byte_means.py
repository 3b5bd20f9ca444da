"""The mean of bytes given their noised values is that of Bayes' rule over the levels, and bits by the flow of noised bytes are
those of the mass of their cells.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import models, nets, noised_bits_per_dim
from sdegen.data import Scaling
from sdegen.laws import Units
from sdegen.nets.byte_mean import posterior_mean

LEVELS = 17


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, means and widths of two Gaussians, whose means are among the levels."""
    generator = seeded(1)
    logit = torch.randn(n, 2, 1, generator=generator, dtype=torch.float64)
    mean = 4 + 9 * torch.rand(n, 2, 1, generator=generator, dtype=torch.float64)
    return logit, mean, 0.25 + 0.7 * torch.rand(n, 2, 1, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rho", [1 / 6, 0.5, 1.0, 2.0, 30.0])
def test_the_mean_is_that_of_bayes_rule_over_the_levels(rho: float) -> None:
    logit, mean, spread = mixture(500)
    u = torch.arange(LEVELS, dtype=torch.float64)
    prior = torch.logsumexp(
        logit[..., None] - spread.log()[..., None] - 0.5 * ((u - mean[..., None]) / spread[..., None]).square(), 1
    )
    true = torch.distributions.Categorical(logits=prior[:, 0]).sample().double()[:, None, None]
    value = true + rho * torch.randn(500, 1, 1, generator=seeded(2), dtype=torch.float64)
    weights = torch.softmax(prior - 0.5 * ((u - value) / rho).square(), -1)
    found = posterior_mean(value, torch.full((1, 1, 1), rho, dtype=torch.float64), logit, mean, spread, LEVELS)
    assert (found - (weights * u).sum(-1)).abs().max() < 1e-4


@pytest.mark.parametrize("spread", [0.8, 1.3, 2.0, 6.0])
@pytest.mark.parametrize("rho", [0.9, 1.5, 4.0, 30.0])
def test_wide_mixtures_far_from_the_ends_have_the_mean_of_bayes_rule(spread: float, rho: float) -> None:
    u, value = torch.arange(256, dtype=torch.float64), torch.linspace(120, 140, 41, dtype=torch.float64)[:, None, None]
    mean, logit = torch.tensor([[[126.3], [133.8]]]).double(), torch.tensor([[[0.4], [-0.4]]]).double()
    prior = torch.logsumexp(logit - 0.5 * ((u - mean) / spread).square(), 1)
    weights = torch.softmax(prior - 0.5 * ((u - value) / rho).square(), -1)
    widths = torch.full_like(mean, spread)
    found = posterior_mean(value, torch.full((1, 1, 1), rho, dtype=torch.float64), logit, mean, widths, 256)
    assert (found - (weights * u).sum(-1)).abs().max() < 1e-3


@pytest.mark.parametrize("value", [124.0, 127.2, 131.0])
def test_a_narrow_component_and_a_wide_one_have_the_weights_of_bayes_rule(value: float) -> None:
    """The wide one is taken for one of all real numbers, the narrow one is summed over the levels."""
    u, rho = torch.arange(256, dtype=torch.float64), 5.0
    mean, logit, spread = (torch.tensor([[[a], [b]]]).double() for a, b in ((127.3, 121.0), (-0.7, 0.7), (0.3, 6.0)))
    prior = torch.logsumexp(logit - spread.log() - 0.5 * ((u - mean) / spread).square(), 1)
    want = (torch.softmax(prior - 0.5 * ((u - value) / rho).square(), -1) * u).sum()
    given = torch.full((1, 1, 1), value).double(), torch.full((1, 1, 1), rho).double()
    assert (posterior_mean(*given, logit, mean, spread, 256) - want).abs().max() < 1e-3


class Certain(nn.Module):
    """Says that all bytes are one level."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(float(level)))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        away = (self.level - 0.5 * (LEVELS - 1)) * Scaling(-1, 1, LEVELS).step / 0.5
        said = torch.stack([torch.zeros(()), away, torch.tensor(-12.0)]).reshape(1, 3, 1, 1)
        return said.expand(len(x), 3, *x.shape[2:])


@pytest.mark.turns("5")
@pytest.mark.parametrize("level", [0, 5, 16])
def test_a_byte_that_is_certain_costs_nothing(level: int) -> None:
    scaling, start = Scaling(-1, 1, LEVELS), sdegen.VP().time((Scaling(-1, 1, LEVELS).step / 6) ** -2).item()
    net = nets.ByteMean(Certain(level), LEVELS, 0.5, components=1)
    model = sdegen.Model(net, sdegen.VP().in_units(Units()), models.DataParametrization(0.5, delta=1e-9)).double()
    where = scaling.middles(torch.full((1, 4, 4), level, dtype=torch.uint8))
    model.moments = sdegen.Moments(where, torch.full((16,), 1e-12, dtype=torch.float64))
    images = torch.full((5, 1, 4, 4), level, dtype=torch.uint8)
    noised = model.sde.perturb(scaling(images, torch.float64), start, generator=seeded(0)).x
    found = model.denoise(noised, start)
    assert (found - scaling.middles(images)).abs().max() < 1e-3 * scaling.step
    bits = noised_bits_per_dim(model, images, scaling, generator=seeded(0))
    assert bits.value.abs().max() < 0.01


@pytest.mark.turns("0.4-units0")
@pytest.mark.turns("0.4-None", "0.2-units0")
@pytest.mark.parametrize("units", [Units(), None])
@pytest.mark.parametrize("noise", [0.2, 0.4])
def test_bits_of_noised_bytes_are_those_of_their_cells(units: Units | None, noise: float) -> None:
    weights, means, variances = torch.tensor([0.4, 0.6]), torch.tensor([[-0.5], [0.4]]), torch.tensor([0.02, 0.05])
    law, scaling = sdegen.GaussianMixture(weights, means, variances), Scaling(-1, 1, LEVELS)
    sde = sdegen.VP() if units is None else sdegen.VP().in_units(units)
    images = torch.arange(LEVELS, dtype=torch.uint8)[:, None]
    found = noised_bits_per_dim(sdegen.Exact(sde, law), images, scaling, noise=noise, draws=200, generator=seeded(0))
    middle, ratio = scaling.middles(images), noise * scaling.step
    mass = torch.zeros_like(middle)
    for w, m, v in zip(weights.double(), means.double(), variances.double(), strict=True):
        normal = torch.distributions.Normal(m, (v + ratio**2).sqrt())
        mass += w * (normal.cdf(middle + scaling.step / 2) - normal.cdf(middle - scaling.step / 2))
    apart = found.value + mass.log2()[:, 0]
    assert (apart.abs() < 5 * found.stderr + 1e-3).all()
    one = noised_bits_per_dim(sdegen.Exact(sde, law), images, scaling, noise=noise, generator=seeded(0))
    assert one.value.mean() > found.value.mean()  # by Jensen's inequality


@pytest.mark.slow
def test_noise_stays_in_the_cell_of_its_byte_in_units_of_each_coordinate() -> None:
    std, scaling, noise = torch.tensor([0.6, 1.0, 1.3], dtype=torch.float64), Scaling(-1, 1, LEVELS), 0.5
    units = Units(torch.tensor([0.1, 0.2, 0.3]), std)
    law = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[0.1, -0.3, 0.2]]), torch.tensor([[0.02, 0.05, 0.1]]))
    images = torch.tensor([[8, 5, 9], [9, 7, 12]], dtype=torch.uint8)
    model = sdegen.Exact(sdegen.VP().in_units(units), law)
    found = noised_bits_per_dim(model, images, scaling, noise=noise, draws=1000, generator=seeded(0))
    spread = (law.covariances[0] + (noise * scaling.step * std / units.scale).square()).sqrt()
    normal, middle = torch.distributions.Normal(law.means[0], spread), scaling.middles(images).double()
    mass = normal.cdf(middle + scaling.step / 2) - normal.cdf(middle - scaling.step / 2)
    assert ((found.value + mass.log2().mean(1)).abs() < 4 * found.stderr).all() and found.stderr.max() < 0.05


def test_every_image_has_its_own_label_in_all_of_its_draws() -> None:
    laws = [sdegen.GaussianMixture(torch.ones(1), torch.tensor([[m]]), torch.tensor([0.08])) for m in (-0.3, 0.3)]
    sde, scaling, images = sdegen.VP(), Scaling(-1, 1, LEVELS), torch.tensor([[4], [12], [5], [9]], dtype=torch.uint8)
    label = torch.tensor([0, 1, 1, 0])
    model = sdegen.ExactConditional(sde, laws, laws[0])
    found = noised_bits_per_dim(model, images, scaling, noise=0.4, draws=60, generator=seeded(0), label=label)
    for k, law in enumerate(laws):
        alone = noised_bits_per_dim(sdegen.Exact(sde, law), images, scaling, noise=0.4, draws=60, generator=seeded(0))
        torch.testing.assert_close(found.value[label == k], alone.value[label == k], rtol=0, atol=0.02)  # for the prior


def test_what_cannot_be_is_refused() -> None:
    exact = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    with pytest.raises(ValueError, match="noise"):
        noised_bits_per_dim(exact, torch.zeros(2, 2, dtype=torch.uint8), noise=0.0)
    with pytest.raises(ValueError, match="batch = 0"):
        noised_bits_per_dim(exact, torch.zeros(2, 2, dtype=torch.uint8), batch=0)
    with pytest.raises(ValueError, match="one row"):
        noised_bits_per_dim(exact, torch.zeros(0, 2, dtype=torch.uint8))
    with pytest.raises(TypeError, match="bits_per_dim"):
        noised_bits_per_dim(
            sdegen.Exact(sdegen.CLD(), sdegen.data.gaussian_ring()), torch.zeros(2, 2, dtype=torch.uint8)
        )
    with pytest.raises(ValueError, match="std"):
        nets.ByteMean(Certain(0), std=0.0)
    with pytest.raises(ValueError, match=r"net returned shape .*three numbers for each component and number"):
        nets.ByteMean(Certain(0), LEVELS, components=2)(torch.zeros(2, 1, 4, 4), torch.zeros(2))
    assert math.isfinite(noised_bits_per_dim(exact, torch.zeros(2, 2, dtype=torch.uint8)).value.sum())
