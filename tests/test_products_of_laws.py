"""Products of powers of laws: mixtures in closed form, and score models of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import guidance, samplers
from sdegen.guidance import Product
from sdegen.guidance.measurements import Linear, mixture_posterior
from sdegen.laws import Units, multiply_laws
from sdegen.models import ScoreModel

RING = sdegen.data.gaussian_ring()
POINTS = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TILTED = torch.tensor([[[1.0, 0.6], [0.6, 0.8]], [[0.5, 0.0], [0.0, 2.0]]], dtype=torch.float64)
FULL = sdegen.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), TILTED)
WIDE = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.tensor([4.0]))


@pytest.mark.parametrize("factors", [[(FULL, 2.0), (RING, 1.0), (WIDE, -0.5)], [(RING, 3.0), (WIDE, 0.25)]])
def test_a_product_of_mixtures_has_the_density_and_the_normaliser_of_the_factors(
    factors: list[tuple[sdegen.GaussianMixture, float]],
) -> None:
    law, log_normaliser = multiply_laws(factors)
    expected = sum(power * p.log_prob(POINTS) for p, power in factors)
    torch.testing.assert_close(law.log_prob(POINTS) + log_normaliser, expected, rtol=1e-10, atol=1e-10)


def test_products_of_laws_that_are_no_mixture_are_refused() -> None:
    with pytest.raises(ValueError, match="Σ β_i C_i⁻¹, the precision of a component, is not positive definite"):
        multiply_laws([(WIDE, 1.0), (RING, 1.0), (WIDE, -40.0)])
    with pytest.raises(ValueError, match=r"of 8 components has the power 0\.5"):
        multiply_laws({RING: 0.5})
    with pytest.raises(ValueError, match="components; it may have"):
        multiply_laws({RING: 20})
    with pytest.raises(ValueError, match="shapes"):
        multiply_laws([(RING, 1.0), (sdegen.data.random_mixture(3), 1.0)])
    with pytest.raises(TypeError, match="as a dict or as pairs"):
        multiply_laws([RING])  # type: ignore[list-item]


def exact(law: sdegen.GaussianMixture, sde: sdegen.LinearSDE | None = None) -> sdegen.Exact:
    return sdegen.Exact(sdegen.VP() if sde is None else sde, law)


@pytest.mark.parametrize("powers", [(2.0, -1.0), (1.0, 2.0)])
def test_every_reading_is_of_the_product_of_the_noised_laws(powers: tuple[float, float]) -> None:
    one, other = (mixture_posterior(WIDE, Linear(torch.eye(2), std), POINTS[0]) for std in (0.5, 2.0))
    model = Product([(exact(one), powers[0]), (exact(other), powers[1])])
    at = model.sde.marginal(0.4)
    expected = multiply_laws([(model.sde.diffused(law, 0.4), b) for law, b in zip((one, other), powers)]).law.score(
        POINTS
    )
    torch.testing.assert_close(model.score(POINTS, 0.4), expected)
    x_0, eps = model.estimate(POINTS, 0.4)
    torch.testing.assert_close(at.score_from_noise(eps), expected)
    torch.testing.assert_close(at.Phi(x_0) + at.R(eps), POINTS)
    torch.testing.assert_close(model.velocity(POINTS, 0.4), at.velocity(x_0, eps))


def test_products_are_the_wrappers_that_have_names() -> None:
    modes = [sdegen.GaussianMixture(torch.ones(1), m[None], torch.tensor([0.25])) for m in RING.means]
    model = sdegen.ExactConditional(sdegen.VP(), modes, RING)
    product = Product([(model, 2.5), (guidance.Without(model), -1.5)])
    named = guidance.ClassifierFree(model, 2.5)
    torch.testing.assert_close(product.estimate(POINTS, 0.3, label=2), named.estimate(POINTS, 0.3, label=2))
    sampler = samplers.ExponentialSDE(5)
    torch.testing.assert_close(*(sdegen.sample(m, 3, sampler=sampler, seed=0, label=2) for m in (product, named)))
    product = Product([(exact(RING), 3.0), (exact(WIDE), -2.0)])
    torch.testing.assert_close(
        product.score(POINTS, 0.3), guidance.Autoguidance(exact(RING), exact(WIDE), 3.0).score(POINTS, 0.3)
    )


def test_a_run_gives_each_member_its_rows() -> None:
    modes = [sdegen.GaussianMixture(torch.ones(1), m[None], torch.tensor([0.25])) for m in RING.means]
    model = sdegen.ExactConditional(sdegen.VP(), modes, RING)
    product = Product([(guidance.Without(model), -1.0), (model, 2.0)])
    draw = {"sampler": samplers.ExponentialSDE(5), "seed": 0, "label": torch.arange(5)}
    torch.testing.assert_close(sdegen.sample(product, 5, batch=2, **draw), sdegen.sample(product, 5, **draw))


def test_moments_are_those_of_the_product_of_gaussians() -> None:
    model = Product([(exact(WIDE), 3.0)])
    moments = model.conditional_moments()
    assert moments is not None
    torch.testing.assert_close(moments.covariance, 4 / 3 * torch.eye(2, dtype=torch.float64))
    assert Product([(exact(WIDE), 1.5), (exact(FULL), -1.4)]).conditional_moments() is None


@pytest.mark.parametrize(
    ("models", "match"),
    [
        ({}, "models is empty"),
        ([(exact(RING), 1.0), (exact(RING), -1.0)], "the powers sum to 0"),
        ([(exact(RING), 1.0), (exact(RING, sdegen.VE()), 1.0)], "different process, VE and not this VP"),
        (
            [(exact(RING), 1.0), (exact(RING, sdegen.VP().in_units(Units(torch.zeros(2), 2 * torch.ones(2)))), 1.0)],
            "a member was made for data in units",
        ),
        ({exact(RING): math.nan}, "a power = nan"),
    ],
)
def test_products_that_state_no_law_are_refused(models: dict[ScoreModel, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Product(models)


def test_members_that_are_no_models_are_refused() -> None:
    wrong: list[tuple[Tensor, float]] = [(POINTS, 1.0)]
    with pytest.raises(TypeError, match="give a score model and its power each"):
        Product(wrong)  # type: ignore[arg-type]
