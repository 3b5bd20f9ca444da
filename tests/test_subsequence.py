"""Subsequences of trained times: the costs are the divergences of the chain, and the best chain is the best there is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids
from sdegen.laws.kernels import posterior
from sdegen.processes.tables import cosine_betas, linear_betas
from sdegen.samplers import DDIM, Ancestral, sample
from sdegen.samplers.subsequence import (
    StepCosts,
    cheapest,
    optimal_subsequence,
    quadratic_subsequence,
    subsequence,
    trained_times,
    uniform_subsequence,
)
from sdegen.testing import affine_moments, gaussian_data

DATA = gaussian_data()
P = DATA.moments().covariance
EIGHT = sdegen.DDPM(linear_betas(8, 0.01, 0.6))


def textbook(betas: Tensor, i: int, j: int) -> Tensor:
    """``E KL`` of the step from step i to step j of a DDPM on `DATA`, from its betas alone."""
    bar = torch.cumprod(1 - betas, 0)
    bar_t, bar_s = bar[i - 1], bar[j - 1]
    beta = 1 - bar_t / bar_s  # of the longer step
    tilde = (1 - bar_s) / (1 - bar_t) * beta
    mean_of_x_0 = bar_s.sqrt() * beta / (1 - bar_t)
    left = P - bar_t * P @ torch.linalg.inv(bar_t * P + (1 - bar_t) * torch.eye(2, dtype=P.dtype)) @ P
    return 0.5 * mean_of_x_0**2 / tilde * left.trace()


def measured(sde: Any, times: Tensor) -> StepCosts:
    """Costs with the expectation of the exact model's error put in, not an estimate of it."""
    e = sde.embedding.matrix(1)[:, 0]
    left = []
    for t in times:
        at = sde.marginal(t)
        p, Sigma = at.Phi.matrix() @ e, at.covariance.matrix()
        gain = torch.linalg.inv(p @ torch.linalg.inv(Sigma) @ p * torch.eye(2, dtype=P.dtype) + torch.linalg.inv(P))
        left.append(gain.trace() * e[:, None] * e[None, :])
    return StepCosts(sde, times, torch.stack(left).expand(2, -1, -1, -1))


def test_costs_are_those_of_the_textbook_chain() -> None:
    matrix = measured(EIGHT, trained_times(EIGHT)).matrix()
    for i, j in itertools.product(range(1, 9), repeat=2):
        got = matrix[8 - i, 8 - j]
        if j < i:
            torch.testing.assert_close(got, textbook(EIGHT.betas, i, j), rtol=1e-9, atol=0)
        else:
            assert got == torch.inf


@pytest.mark.parametrize("sde", [EIGHT, sdegen.Cosine(), sdegen.VE(), sdegen.CLD()], ids=lambda s: type(s).__name__)
def test_costs_are_divergences_between_the_kernels(sde: Any) -> None:
    # By hand: sampled errors through the posterior kernels of the library, whatever the process.
    model, times = sdegen.Exact(sde, DATA), grids.Uniform(end=0.1)(sde, 4)
    costs = StepCosts.estimate(model, DATA, times, n=500, batch_size=200, seed=3)
    x_0 = DATA.sample(200, torch.Generator().manual_seed(3))
    for (i, t), (j, s) in itertools.combinations(enumerate(times), 2):
        law = posterior(sde.marginal(s), sde.marginal(t), sde.transition(s, t))
        at_s, at_t = sde.marginal(s), sde.marginal(t)
        x_t = sde.perturb(x_0, t, generator=torch.Generator().manual_seed(0)).x
        means = []
        for clean in (sde.lift(x_0), model.denoise(x_t, t)):
            means.append(at_s.Phi(clean) + law.K(x_t - at_t.Phi(clean)))
        gap = (means[0] - means[1]).reshape(200, len(sde.Sigma_0), -1)
        want = 0.5 * torch.einsum("bax,ac,bcx->b", gap, torch.linalg.inv(law.covariance.matrix()), gap)
        got = costs.of(grids.Given(torch.stack([t, s])))
        error = (want.var() / 200 + got.stderr**2) ** 0.5
        assert abs(got.value - want.mean()) < 5 * error and error < 0.2 * got.value
        torch.testing.assert_close(costs.matrix()[i, j].item(), got.value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sde", [EIGHT, sdegen.VE(), sdegen.CLD(), sdegen.CLD(sigma_0=0.1)], ids=repr)
def test_costs_of_given_errors_are_their_divergences(sde: Any) -> None:
    # KL between two Gaussians of one covariance, their means apart by what an error of the datum moves the kernel's.
    k, times = len(sde.Sigma_0), grids.Uniform(end=0.1)(sde, 4)
    e = torch.randn(5, k, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    costs = StepCosts(sde, times, (e @ e.mT)[:, None].expand(5, 4, k, k)).matrix()
    error = e if k > 1 else e[:, 0]
    for (i, t), (j, s) in itertools.combinations(enumerate(times), 2):
        at_s, at_t = sde.marginal(s), sde.marginal(t)
        law = posterior(at_s, at_t, sde.transition(s, t))
        gap = (at_s.Phi(error) - law.K(at_t.Phi(error))).reshape(5, k)
        want = 0.5 * torch.einsum("ba,ac,bc->b", gap, torch.linalg.inv(law.covariance.matrix()), gap).mean()
        torch.testing.assert_close(costs[i, j], want, rtol=1e-8, atol=0)


@pytest.mark.parametrize("sde", [EIGHT, sdegen.VE(), sdegen.CLD()], ids=lambda s: type(s).__name__)
def test_measured_errors_are_the_posterior_variance(sde: Any) -> None:
    times = grids.Uniform(end=0.05)(sde, 5)
    estimate = StepCosts.estimate(sdegen.Exact(sde, DATA), DATA, times, n=4000, seed=1).errors
    want = measured(sde, times).errors[0]
    error = estimate.std(0) / 4000**0.5
    assert ((estimate.mean(0) - want).abs() <= 5 * error + 1e-9).all()
    assert error[:, 0, 0].max() < 0.05 * want[:, 0, 0].max()


@pytest.mark.parametrize("steps", range(2, 9))
def test_best_chain_is_the_best_of_all(steps: int) -> None:
    model = sdegen.Exact(EIGHT, DATA)
    costs = StepCosts.estimate(model, DATA, n=200, seed=0)
    chains = [(8, *middle, 1) for middle in itertools.combinations(range(7, 1, -1), steps - 2)]
    grid = [grids.Given(trained_times(EIGHT)[[8 - k for k in chain]]) for chain in chains]
    brute = min(grid, key=lambda g: costs.of(g).value)
    best = optimal_subsequence(model, DATA, steps, n=200, seed=0)
    torch.testing.assert_close(best.times, brute.times, rtol=0, atol=0)
    # Against the textbook's sums too, on exact expectations.
    sums = [sum(textbook(EIGHT.betas, i, j) for i, j in itertools.pairwise(chain)) for chain in chains]
    exact = measured(EIGHT, trained_times(EIGHT))
    torch.testing.assert_close(exact.of(exact.best(steps)).value, min(sums).item(), rtol=1e-9, atol=0)


def test_all_steps_cost_the_full_bound() -> None:
    sde = sdegen.DDPM(cosine_betas(200))
    costs = measured(sde, trained_times(sde))
    full = sum(textbook(sde.betas, k, k - 1) for k in range(200, 1, -1))
    best = costs.best(200)
    torch.testing.assert_close(best.times, trained_times(sde), rtol=0, atol=0)
    torch.testing.assert_close(costs.of(best).value, full.item(), rtol=1e-7, atol=0)
    found = StepCosts.estimate(sdegen.Exact(sde, DATA), DATA, n=2000, seed=5)
    estimate = found.of(best)
    assert abs(estimate.value - full) < 5 * estimate.stderr < 0.2 * full


@pytest.mark.parametrize(
    "sde",
    [sdegen.DDPM(linear_betas(100, 1e-3, 0.2)), sdegen.DDPM(cosine_betas(100)), sdegen.VP(), sdegen.VE()],
    ids=["linear", "cosine", "VP", "VE"],
)
def test_optimal_bound_is_no_worse_than_the_even_ones(sde: Any) -> None:
    ring = sdegen.data.gaussian_ring()
    times = grids.Uniform(end=0.01)(sde, 100)
    costs = StepCosts.estimate(sdegen.Exact(sde, ring), ring, times, n=400, seed=0)
    bounds = []
    for steps in (4, 10, 30, 100):
        best = costs.of(costs.best(steps)).value
        for spread in (uniform_subsequence, quadratic_subsequence):
            other = costs.of(spread(sde, steps, times)).value
            assert best <= other * (1 + 1e-12)
            assert steps > 10 or best < 0.95 * other  # few steps: well below
        bounds.append(best)
    assert bounds == sorted(bounds, reverse=True)


def divergence(sampler: Any, model: sdegen.Exact) -> float:
    """KL of the true law at the sampler's last time to the sampled one, both Gaussian."""
    mean, covariance = affine_moments(sampler, model)
    law = model.sde.diffused(model.distribution, sampler.grid.times[-1]).moments()
    p, q = (torch.distributions.MultivariateNormal(*m) for m in (law, (mean, 0.5 * (covariance + covariance.mT))))
    return torch.distributions.kl_divergence(p, q).item()


def information(sde: Any, t: Tensor) -> float:
    """``I(x_0; x_t)`` in nats."""
    return 0.5 * torch.logdet(torch.eye(2, dtype=P.dtype) + sde.snr(t) * P).item()


def test_costs_bound_the_divergence_of_the_samples() -> None:
    # KL of the marginal <= KL of the path = Σ L − I(x_0; x_last) + I(x_0; x_first): the chain rule, for every chain.
    model, costs = sdegen.Exact(EIGHT, DATA), measured(EIGHT, trained_times(EIGHT))
    fine = trained_times(EIGHT)
    least = information(EIGHT, fine[-1]) - information(EIGHT, fine[0])
    slack = []
    for steps in range(2, 9):
        for middle in itertools.combinations(range(1, 7), steps - 2):
            grid = grids.Given(fine[[0, *middle, 7]])
            slack.append(costs.of(grid).value - least - divergence(Ancestral(steps - 1, grid), model))
    assert min(slack) > 0


def test_the_best_bound_is_not_the_closest_law() -> None:
    # What the docstring warns of: the bound is on the whole path, and prices the small scales of its last moves.
    sde = sdegen.DDPM()
    model = sdegen.Exact(sde, DATA)
    best, even = optimal_subsequence(model, DATA, 10, n=200, seed=0), quadratic_subsequence(sde, 10)
    costs = measured(sde, trained_times(sde))
    assert costs.of(best).value < 0.4 * costs.of(even).value
    assert divergence(Ancestral(9, best), model) > divergence(Ancestral(9, even), model)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("spread", [grids.Uniform(), grids.Quadratic(), grids.Karras(), grids.LogSNR()])
@pytest.mark.parametrize("N", [2, 5, 37])
def test_stops_are_trained_times_each_used_once(spread: grids.Grid, N: int) -> None:
    sde = sdegen.DDPM(linear_betas(N, 1e-3, 0.3))
    fine = trained_times(sde)
    for steps in range(2, N + 1):
        times = subsequence(sde, steps, spread).times
        assert len(times) == steps and (times[1:] < times[:-1]).all() and torch.isin(times, fine).all()
        assert times[0] == 1.0 and times[-1] == 1 / N
    torch.testing.assert_close(times, fine, rtol=0, atol=0)
    assert spread.start is None and spread.end is None  # the caller's grid is left as it was


@pytest.mark.parametrize("kind", [grids.Uniform, grids.Quadratic, grids.Karras, grids.LogSNR])
@pytest.mark.parametrize(("start", "end"), [(0.7, None), (None, 0.2), (0.71, 0.19), (1.0, 0.03)])
def test_stops_keep_to_the_ends_that_a_grid_is_given(kind: Any, start: float | None, end: float | None) -> None:
    sde = sdegen.DDPM(linear_betas(37, 1e-3, 0.3))
    fine = trained_times(sde)
    nearest = lambda t: fine[(fine - t).abs().argmin()]
    for steps in (2, 3, 8):
        times = subsequence(sde, steps, kind(start, end)).times
        assert times[0] == (1.0 if start is None else nearest(start))
        assert times[-1] == (1 / 37 if end is None else nearest(end))


def test_even_and_quadratic_stops_are_where_they_are_expected() -> None:
    sde = sdegen.DDPM(linear_betas(101))
    assert (uniform_subsequence(sde, 5).times * 101).round().tolist() == [101, 76, 51, 26, 1]
    sde = sdegen.DDPM(linear_betas(100))
    assert (quadratic_subsequence(sde, 10).times * 100).round().tolist() == [k**2 for k in range(10, 0, -1)]


@pytest.mark.parametrize("make", [Ancestral, DDIM])
def test_samplers_take_the_stops(make: Any) -> None:
    sde = sdegen.DDPM(linear_betas(50, 1e-3, 0.3))
    labels = torch.arange(64) % 3
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=3), sde)
    model.moments = DATA.moments()
    data = (DATA.sample(64).float(), {"label": labels})
    grid = optimal_subsequence(model, data, 6, n=100, batch_size=40, seed=0)
    assert sample(model, 4, sampler=make(6, grid), label=labels[:4]).shape == (4, 2)
    seen = [StepCosts.estimate(model, data, n=100, batch_size=40, seed=0).errors for _ in range(2)]
    assert torch.equal(*seen) and seen[0].shape == (100, 50, 1, 1)


def test_conditions_reach_the_model_row_by_row() -> None:
    class Told(sdegen.ScoreModel):
        """Knows the datum from its condition."""

        sde = EIGHT

        def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            raise AssertionError

        def denoise(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return cond["label"]

    x = DATA.sample(30)
    assert StepCosts.estimate(Told(), (x, x), n=50, batch_size=20, seed=0).errors.max() == 0


def test_cheapest_path_of_a_small_graph() -> None:
    inf = torch.inf
    cost = torch.tensor([[inf, 1.0, 5.0, 20.0], [inf, inf, 1.0, 10.0], [inf, inf, inf, 2.0], [inf] * 4])
    assert [cheapest(cost, k).tolist() for k in (2, 3, 4)] == [[0, 3], [0, 2, 3], [0, 1, 2, 3]]


def test_refusals() -> None:
    model = sdegen.Exact(EIGHT, DATA)
    with pytest.raises(TypeError, match=r"no trained steps of its own.*times="):
        uniform_subsequence(sdegen.VP(), 4)
    for steps in (1, 9):
        with pytest.raises(ValueError, match=r"steps = .*from 2, the two ends, to 8"):
            optimal_subsequence(model, DATA, steps)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"n = 1; it must be a whole number, at least 2"):
        StepCosts.estimate(model, DATA, n=1)
    for sde in (EIGHT, sdegen.CLD()):
        with pytest.raises(ValueError, match=r"times reach t = 0, .*end later"):
            StepCosts.estimate(sdegen.Exact(sde, DATA), DATA, torch.tensor([1.0, 0.5, 0.0]), n=4)
    ve = sdegen.Exact(sdegen.VE(), DATA)  # smoothed data: 0 is as good a stop as any
    assert StepCosts.estimate(ve, DATA, torch.tensor([1.0, 0.5, 0.0]), n=4).matrix()[0, 2].isfinite()
    with pytest.raises(ValueError, match=r"stops at t = 0.3, which is not among"):
        StepCosts.estimate(model, DATA, n=4).of(grids.Given(torch.tensor([1.0, 0.3])))
    with pytest.raises(TypeError, match=r"DoubleWell is not linear"):
        StepCosts.estimate(type("Any", (), {"sde": sdegen.DoubleWell()})(), DATA)
