"""What a prior costs that is not the law at T: the bound is one, it is sharp, and what it may cost is said or refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdegen
from sdegen import metrics, processes
from sdegen.samplers.priors import check_start, cost

RING = sdegen.data.gaussian_ring()


def brief(spread: float) -> sdegen.LinearSDE:
    """A process that ends where data of spread one spread by so many times the noise."""
    return sdegen.OU(T=0.5 * math.log1p(1 / spread**2))  # snr = 1 / (exp 2T − 1)


def scaled(law: sdegen.GaussianMixture) -> sdegen.GaussianMixture:
    factor = law.moments().variance().rsqrt().item()
    return sdegen.GaussianMixture(law.weights, factor * law.means, factor**2 * law.covariances)


@settings(max_examples=25, deadline=None)
@given(spread=st.floats(0.05, 3.0), modes=st.integers(2, 5), seed=st.integers(0, 999), d=st.integers(1, 2))
def test_no_law_is_further_from_its_prior_than_the_bound(spread: float, modes: int, seed: int, d: int) -> None:
    law = scaled(sdegen.data.random_mixture(d, modes=modes, seed=seed))
    gap = metrics.prior_gap(brief(spread), law, seed=0)
    assert gap.value <= d * cost(spread) + 4 * gap.stderr


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_the_bound_is_attained_by_one_point_and_a_few_far_away(spread: float) -> None:
    p = 1e-3
    weights = torch.tensor([1 - p, p / 2, p / 2], dtype=torch.float64)
    means = torch.tensor([[0.0], [-(p**-0.5)], [p**-0.5]], dtype=torch.float64)
    law = sdegen.GaussianMixture(weights, means, torch.full((3,), 1e-8, dtype=torch.float64))
    # the mutual information of such data and their states is below their entropy, 0.0086 nats
    assert metrics.prior_gap(brief(spread), law, seed=0).value == pytest.approx(cost(spread), abs=0.012)


@settings(max_examples=8, deadline=None)
@given(spread=st.floats(0.1, 6.0))
@pytest.mark.parametrize("what", ["sample", "log_prob"])
def test_a_process_that_has_hardly_forgotten_the_data_says_so(what: str, spread: float) -> None:
    law = scaled(RING)
    model = sdegen.Exact(brief(spread), law)

    def ask() -> None:
        if what == "sample":
            sdegen.sample(model, 3, steps=2, seed=0)
        else:
            sdegen.log_prob(model, law.sample(2), method="rk4", steps=2)

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if spread > 3:
            with pytest.raises(ValueError, match="has not forgotten the data at T"):
                ask()
        else:
            ask()
    said = [str(w.message) for w in found if "hardly forgotten" in str(w.message)]
    assert len(said) == (1 < spread <= 3)
    assert all(f"may be off by {cost(spread):.2g} nats a coordinate" in text and "pass " in text for text in said)


class Told(sdegen.VP):
    """A process whose prior is a Gaussian of a size and a place of its own."""

    def __init__(self, width: float, off: float) -> None:
        super().__init__()
        self.width, self.off = width, off

    def prior(self, moments: sdegen.Moments) -> sdegen.GaussianMixture:
        one = torch.ones(1, dtype=torch.float64)
        return sdegen.GaussianMixture(one, torch.full_like(moments.mean, self.off)[None], self.width**2 * one)


@settings(max_examples=10, deadline=None)
@given(width=st.floats(0.1, 10), off=st.floats(-3, 3))
def test_a_prior_of_its_own_is_held_to_the_moments_at_T(width: float, off: float) -> None:
    nats = 0.5 * ((1 + off**2) / width**2 - 1 + math.log(width**2))  # of N(0, 1) from it, a coordinate
    if min(abs(nats / cost(spread) - 1) for spread in (1, 3)) < 0.1:
        return  # too near to an edge to tell by some thousand draws
    model = sdegen.Exact(Told(width, off), scaled(RING))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if nats > cost(3):
            with pytest.raises(
                ValueError, match=r"^the prior of Told is .* nats a coordinate from a Gaussian of the moments"
            ):
                sdegen.sample(model, 3, steps=2, seed=0)
        else:
            sdegen.sample(model, 3, steps=2, seed=0)
    assert any("the prior of Told" in str(w.message) for w in found) == (cost(1) < nats <= cost(3))


@pytest.mark.turns("LearnedSDE")
@pytest.mark.parametrize("make", [processes.LearnedSDE, processes.LearnedSchedule])
def test_learned_processes_start_from_their_law(make: Callable[[], sdegen.LinearSDE]) -> None:
    sde = make().in_units(RING.moments().units())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdegen.sample(sdegen.Exact(sde, RING), 3, steps=3, seed=0)


def test_a_learned_process_that_shrinks_its_noise_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"the prior of LearnedSDE is 1.5 nats a coordinate from .*train the process, or pass x_T"
    ):
        sdegen.sample(sdegen.Exact(processes.LearnedSDE(rate=5.0), RING), 3, steps=3, seed=0)


STARTS = {
    "VP": (sdegen.VP(), 0.97),
    "SubVP": (sdegen.SubVP(), 0.97),
    "EDM": (sdegen.EDM(), 0.8),
    "VE": (sdegen.VE(), 0.95),
    "Cosine": (sdegen.Cosine(), 0.98),
    "Rectified": (sdegen.Rectified(), 0.95),
    "OU": (sdegen.OU(), 0.9),
}


@settings(max_examples=4, deadline=None)
@given(early=st.floats(0.02, 0.1))
@pytest.mark.parametrize("name", STARTS)
def test_a_grid_that_begins_early_is_told_from_one_that_begins_late(name: str, early: float) -> None:
    """States of the prior are those at T: of an early start they are asked for, and late ones are as good as T."""
    sde, late = STARTS[name]
    model, grid = sdegen.Exact(sde, RING), processes.grids.Uniform
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdegen.sample(model, 3, sampler=sdegen.samplers.DDIM(2, grid(start=late * sde.T)), seed=0)
    sampler = sdegen.samplers.DDIM(2, grid(start=early * sde.T, end=0.01 * sde.T))
    with pytest.raises(
        ValueError, match=r"the grid begins at t = .* off by .* nats a coordinate; begin at T, or pass x_T"
    ):
        sdegen.sample(model, 3, sampler=sampler, seed=0)
    x_T = sde.diffused(RING, early * sde.T).sample(3)
    assert sdegen.sample(model, x_T=x_T, sampler=sampler, seed=0).isfinite().all()


@pytest.mark.parametrize("t", [0.6, 5.0, 40.0])
def test_the_cost_of_an_early_start_is_known_of_gaussian_data(t: float) -> None:
    sde, one = sdegen.EDM(), sdegen.Moments(torch.ones(2), torch.eye(2))
    v, V = (1 + sde.sigma(torch.tensor([t, sde.T]).double()) ** 2).tolist()
    nats = 0.5 * (v / V - 1 - math.log(v / V)) + cost((v - 1) ** -0.5)
    if nats > cost(3.0):
        with pytest.raises(ValueError, match=rf"off by {nats:.2g} nats"):
            check_start(sde, one, t)
    elif nats > cost(1.0):
        with pytest.warns(UserWarning, match=rf"off by {nats:.2g} nats"):
            check_start(sde, one, t)


def test_a_fitted_solver_is_refused_on_a_process_of_another_time() -> None:
    solver = sdegen.samplers.Fitted(torch.tensor([1.0, 0.5, 0.1]), torch.ones(5, 2), 1, denoise=True)
    with pytest.raises(ValueError, match="the grid begins at t = 1"):
        sdegen.sample(sdegen.Exact(sdegen.EDM(), RING), 3, sampler=solver, seed=0)


@pytest.mark.parametrize(
    "answer",
    ["normal", 1.0, None, torch.distributions.Normal, lambda n: torch.zeros(n, 2)],
    ids=["a word", "a number", "nothing", "a class", "a function"],
)
def test_a_prior_that_is_no_law_is_refused(answer: Any) -> None:
    class Mine(sdegen.VP):
        def prior(self, moments: Any) -> Any:
            return answer

    with pytest.raises(TypeError, match=r"the answer of Mine\.prior is .*; give a law, an object with sample"):
        sdegen.sample(sdegen.Exact(Mine(), sdegen.data.gaussian_ring()), 3, steps=2, seed=0)
