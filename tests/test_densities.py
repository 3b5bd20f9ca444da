"""Particles annealed to a law that is known up to a constant: the constant, the law, and what is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen.guidance import anneal_density
from sdegen.guidance.moves import first_step
from sdegen.laws import GaussianMixture

RING = sdegen.data.gaussian_ring()
START = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([9.0]))


def shifted(x: Tensor) -> Tensor:
    return RING.log_prob(x) + 2.5


@pytest.mark.turns("settings1", "settings2")
@pytest.mark.parametrize("settings", [{"threshold": 0.0}, {"threshold": 0.95}, {"spread": 0.0}, {"settle": 20}])
def test_the_constant_and_the_law_are_right(settings: dict[str, Any]) -> None:
    found = anneal_density(shifted, START, 2000, levels=100, seed=1, **settings)
    assert found.log_evidence is not None and found.evidence_error is not None
    assert abs(found.log_evidence - 2.5) < 4 * found.evidence_error < 0.2
    assert (found.resampled > 0) == (settings.get("threshold") == 0.95)
    shares = found.weights @ RING.component_log_prob(found.x).softmax(1)
    assert ((shares - RING.weights).abs() < 0.07).all()
    assert found.mean(found.x.square().sum(1)).item() == pytest.approx(
        RING.moments().covariance.trace().item(), rel=0.05
    )


def test_moves_leave_their_law() -> None:
    """A Gaussian annealed to itself: all weights are equal, and settling moves particles within it."""
    found = anneal_density(START.log_prob, START, 4000, levels=1, settle=30, seed=0)
    assert found.log_evidence == pytest.approx(0.0, abs=1e-12) and found.effective == pytest.approx(4000)
    assert not torch.equal(found.x, START.sample(4000, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found.x.T.cov(), 9 * torch.eye(2, dtype=torch.float64), rtol=0.1, atol=0.6)


def test_densities_of_zero_are_left_and_the_constant_counts_them() -> None:
    def half(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, START.log_prob(x), -torch.inf)

    found = anneal_density(half, START, 4000, levels=20, seed=0)
    assert found.log_evidence == pytest.approx(-0.693, abs=0.1) and (found.x[found.weights > 0][:, 0] > 0).all()


def test_slopes_that_are_nan_where_the_density_is_zero_are_no_slopes() -> None:
    """``x exp(−x² / 2)`` for positive `x`, written with a root that has no derivative elsewhere; its integral is 1."""

    def rising(x: Tensor) -> Tensor:
        given = 2 * x[:, 0].sqrt().log() - 0.5 * x[:, 0].square()
        beside = -0.5 * x[:, 1].square() - 0.5 * math.log(2 * math.pi)
        return torch.where(x[:, 0] > 0, given, -torch.inf) + beside

    found = anneal_density(rising, START, 4000, levels=40, seed=0)
    assert found.log_evidence == pytest.approx(0.0, abs=0.1)
    assert found.mean().tolist() == pytest.approx([(math.pi / 2) ** 0.5, 0.0], abs=0.06)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_slopes_are_taken_where_gradients_are_off(mode: Callable[[], Any]) -> None:
    want = anneal_density(shifted, START, 20, levels=5, seed=0)
    with mode():
        assert torch.equal(anneal_density(shifted, START, 20, levels=5, seed=0).x, want.x)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nan": (lambda x: x[:, 0] * torch.nan, "log_prob is nan at 10 of 10 points"),
    "nowhere": (lambda x: x[:, 0] * 0 - torch.inf, "-inf at all 10 particles"),
    "no slope": (lambda x: x[:, 0].detach(), "has no slope by x"),
    "a column": (lambda x: x[:, :1], "one number for each point"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_density_is_refused(what: str) -> None:
    log_prob, said = REFUSED[what]
    with pytest.raises(ValueError, match=said):
        anneal_density(log_prob, START, 10, levels=3, seed=0)


IMPROPER: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda x: 0 * x.sum(1),
    "rises along a line": lambda x: x[:, 0],
    "rises as a square": lambda x: 0.05 * x.square().sum(1),
    "rises along one axis": lambda x: 0.2 * x[:, 0].square() - x[:, 1].square(),
    "goes to one far away": lambda x: -1 / (1e-3 + x.square().sum(1)),
    "falls too slowly": lambda x: -(1 + x.square().sum(1)).log(),
}


@pytest.mark.turns("flat", "rises along a line")
@pytest.mark.parametrize("what", IMPROPER)
def test_a_density_without_an_integral_is_told(what: str) -> None:
    with pytest.warns(UserWarning, match="or has no finite integral|or the density has no finite integral"):
        anneal_density(IMPROPER[what], START, 300, levels=200, seed=0)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("shift", [0.0, 5.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_a_law_that_its_gaussian_covers_is_no_such_density(scale: float, shift: float) -> None:
    law = GaussianMixture(torch.ones(1), torch.full((1, 2), shift), torch.tensor([scale**2]))
    wide = GaussianMixture(torch.ones(1), torch.full((1, 2), shift), torch.tensor([9.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        anneal_density(law.log_prob, wide, 300, levels=100, seed=0)


@pytest.mark.parametrize("power", [2, 4, 40])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_particles_that_leave_for_infinity_are_no_fault_of_the_values(scale: float, power: int) -> None:
    start = GaussianMixture(torch.ones(1), torch.full((1, 2), scale), torch.tensor([scale**2]))
    with pytest.raises(
        ValueError, match="of 10 particles have left for infinity: the density rises there without bound"
    ):
        anneal_density(lambda x: 1e200 * (x / scale).norm(dim=1) ** power, start, 10, levels=50, seed=0)
    with pytest.raises(ValueError, match="log_prob is inf at 10 of 10 points"):  # but where they begin it is
        anneal_density(lambda x: x[:, 0] * 0 + torch.inf, start, 10, levels=50, seed=0)


@settings(max_examples=5, deadline=None)
@given(st.floats(4.0, 12.0), st.floats(0.05, 0.5))
def test_a_law_beside_the_gaussian_is_not_called_a_wide_one(away: float, std: float) -> None:
    beside = sdegen.GaussianMixture(torch.ones(1), torch.full((1, 2), away), torch.tensor([std**2]))
    narrow = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    with pytest.warns(UserWarning, match="deviations beside the centre of the Gaussian.*around the particles' mean"):
        found = anneal_density(beside.log_prob, narrow, 200, levels=60, seed=0)
    begun = sdegen.GaussianMixture(torch.ones(1), found.mean(found.x)[None].float(), torch.ones(1))
    anneal_density(beside.log_prob, begun, 200, levels=60, seed=0)  # as it says, and nothing is said any more


@pytest.mark.parametrize("d", [1, 8, 27])
def test_the_first_step_falls_with_the_cube_root_of_the_numbers(d: int) -> None:
    """As the best step of Langevin proposals does: G. O. Roberts and J. S. Rosenthal, 1998, doi:10.1111/1467-9868.00123."""
    assert first_step(9.0, torch.zeros(1, d)) == pytest.approx(9 / d ** (1 / 3))


def test_evaluations_are_the_calls_of_the_density() -> None:
    asked = []

    def counted(x: Tensor) -> Tensor:
        asked.append(len(x))
        return RING.log_prob(x)

    found = anneal_density(counted, START, 200, levels=5, settle=3, seed=0)
    assert found.evaluations == asked.count(200)
    assert asked[:4] == [2] * 4 and set(asked[4:]) == {200}  # whether it mixes rows is asked of two data, before
