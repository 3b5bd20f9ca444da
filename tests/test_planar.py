"""Laws in the plane by quadrature, beside closed forms, and as the truth of products that have none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import guidance
from sdegen.laws import GaussianMixture, PlanarLaw, multiply_laws

RING = sdegen.data.gaussian_ring()
WIDE = GaussianMixture(torch.ones(1), torch.tensor([[1.0, -0.5]]), torch.tensor([[[4.0, 1.0], [1.0, 2.0]]]))


def test_a_product_in_closed_form_is_found_to_rounding() -> None:
    factors = [(RING, 2.0), (WIDE, 0.5)]
    truth = multiply_laws(factors)
    law = PlanarLaw(lambda x: 2 * RING.log_prob(x) + 0.5 * WIDE.log_prob(x), (-9, -9), (9, 9))
    assert law.log_normaliser == pytest.approx(truth.log_normaliser, abs=1e-7)
    assert law.quadrature_error < 1e-3
    for got, want in zip(law.moments(), truth.law.moments()):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    x = truth.law.sample(50, torch.Generator().manual_seed(0))
    torch.testing.assert_close(law.log_prob(x), truth.law.log_prob(x))
    assert law.log_prob(torch.tensor([[9.5, 0.0]])).isneginf().all()


def counts(x: Tensor) -> Tensor:
    """Return how many points lie in each of the cells of a coarse grid."""
    place = ((x + 5) / 0.5).floor().long().clamp(0, 19)
    return torch.bincount(place[:, 0] * 20 + place[:, 1], minlength=400).double()


@pytest.mark.parametrize("cells", [40, 150])
def test_draws_have_the_law(cells: int) -> None:
    law = PlanarLaw(lambda x: RING.log_prob(x) + 1.0, (-8, -8), (8, 8), cells)
    got, want = (
        counts(law.sample(40_000, torch.Generator().manual_seed(0))),
        counts(RING.sample(400_000, torch.Generator().manual_seed(1))),
    )
    often = want > 200
    expected = want[often] / 10
    statistic = ((got[often] - expected).square() / (1.1 * expected)).sum().item()
    assert abs(statistic - often.sum()) < 4 * (2 * often.sum()) ** 0.5


def test_laws_with_edges_are_drawn_inside_of_them() -> None:
    board = sdegen.data.Checkerboard()
    x = PlanarLaw(board.log_prob, (-5, -5), (5, 5), 100).sample(2000, torch.Generator().manual_seed(0))
    assert board.log_prob(x).isfinite().all()


@pytest.mark.slow
def test_it_is_the_truth_of_products_without_closed_form() -> None:
    """The ring to a power that is not whole, by exact weights; moons times rings, without any model."""
    product = guidance.Product([(sdegen.Exact(sdegen.VP(), RING), 0.6), (sdegen.Exact(sdegen.VP(), WIDE), 0.4)])
    truth = PlanarLaw(lambda x: 0.6 * RING.log_prob(x) + 0.4 * WIDE.log_prob(x), (-8, -8), (8, 8))
    found = guidance.anneal_product(product, 1000, steps=40, seed=0)
    assert found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - truth.log_normaliser) < 4 * found.evidence_error < 0.2
    error = (truth.moments().covariance.diagonal() / found.effective).sqrt()
    assert ((found.mean() - truth.moments().mean).abs() < 5 * error).all()

    def both(x: Tensor) -> Tensor:
        return sdegen.data.Moons().log_prob(x) + sdegen.data.Rings(std=0.3).log_prob(x)

    truth, start = (
        PlanarLaw(both, (-3, -3), (4, 4), 100),
        GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1)),
    )
    found = guidance.anneal_density(both, start, 1000, levels=150, spread=3.0, seed=0)
    assert found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - truth.log_normaliser) < 4 * found.evidence_error < 0.4


def test_what_is_no_law_of_the_box_is_refused() -> None:
    with pytest.raises(ValueError, match="of the mass lies in the outermost cells"):
        PlanarLaw(RING.log_prob, (-3, -3), (3, 3))
    with pytest.raises(ValueError, match="lower ends first"):
        PlanarLaw(RING.log_prob, (3, 3), (-3, -3))
    with pytest.raises(ValueError, match="log_density is nan"):
        PlanarLaw(lambda x: x[:, 0] * torch.nan, (-3, -3), (3, 3))
    with pytest.raises(ValueError, match="0 at all points"):
        PlanarLaw(lambda x: x[:, 0] * 0 - torch.inf, (-3, -3), (3, 3))
    spike = PlanarLaw(
        lambda x: torch.logaddexp(RING.log_prob(x), 9 - 3e4 * (x - x.new_tensor([4.03, 0.03])).square().sum(1)),
        (-8, -8),
        (8, 8),
        30,
    )
    with pytest.raises(ValueError, match="give more than 30 cells"):
        spike.sample(20_000, torch.Generator().manual_seed(0))


def test_a_density_whose_weights_can_learn_is_taken_as_it_is() -> None:
    w = torch.ones((), dtype=torch.float64, requires_grad=True)
    law = PlanarLaw(lambda x: -0.5 * w * x.square().sum(1), (-8, -8), (8, 8))
    assert not law._log_mass.requires_grad and not law.sample(3).requires_grad
    torch.testing.assert_close(law.moments().covariance, torch.eye(2, dtype=torch.float64), rtol=1e-6, atol=1e-6)
