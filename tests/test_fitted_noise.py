"""Solvers with noise, fitted to the law of a fine run on the same Brownian paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, metrics
from sdegen.samplers import DDIM, ExponentialSDE, Fitted, Matched, Restart, default, fit_solver
from sdegen.samplers.coarsened import CoarsenedNoise
from sdegen.samplers.law_search import LawSearch
from sdegen.testing import gaussian_data

RING = sdegen.data.gaussian_ring()
EXACT = sdegen.Exact(sdegen.VP(), RING)


def test_steps_of_a_path_are_the_sums_of_finer_ones_and_standard_normal() -> None:
    fine = torch.linspace(1, 0, 65, dtype=torch.float64)
    clock = lambda t: (1 - t).square()
    like = torch.empty(4000, 1, dtype=torch.float64)
    noise = CoarsenedNoise(fine, clock, like, torch.Generator().manual_seed(0))

    def steps(times: Tensor, first: int = 0) -> list[Tensor]:
        draw = noise(times, first)
        return [draw(like) for _ in range(len(times) - 1 - first)]

    each, whole = steps(fine), steps(fine[::16])
    lengths = clock(fine).diff()
    for k, z in enumerate(whole):
        own = slice(16 * k, 16 * k + 16)
        summed = sum(w.sqrt() * e for w, e in zip(lengths[own], each[own], strict=True))
        assert torch.allclose(z, summed / lengths[own].sum().sqrt())
    between = steps(torch.tensor([1.0, 0.7123, 0.3345, 0.1, 0.0], dtype=torch.float64))
    for z in (*whole, *between):
        assert abs(z.mean()) < 0.06 and abs(z.var() - 1) < 0.09  # four standard errors of 4,000
    assert (torch.cat(between, 1).T.corrcoef() - torch.eye(4)).abs().max() < 0.06
    assert torch.equal(steps(fine[::16], 2)[0], whole[2])
    noise = CoarsenedNoise(fine[::32], clock, like, torch.Generator().manual_seed(0))  # most of it is of the bridges
    for z in steps(torch.tensor([1.0, 0.7, 0.25, 0.0], dtype=torch.float64)):
        assert abs(z.var() - 1) < 0.09


def test_factors_of_one_are_the_sampler_without_them() -> None:
    times = grids.Angle()(EXACT.sde, 6)
    ones = Fitted(times, torch.ones(5, 3), 2, False, eta=0.7, noises=torch.ones(5))
    plain = ExponentialSDE(5, grids.Given(times), 2, 0.7, reference=Matched())
    a, b = (sdegen.sample(EXACT, 9, sampler=s, seed=0, final="sample") for s in (ones, plain))
    assert torch.equal(a, b)
    still = Fitted(times, torch.ones(5, 3), 2, False, eta=0.7, noises=torch.zeros(5))
    x, y = (sdegen.sample(EXACT, x_T=torch.ones(1, 2), sampler=still, seed=s, final="sample") for s in (0, 1))
    assert torch.equal(x, y)
    with pytest.raises(ValueError, match="noises has shape"):
        Fitted(times, torch.ones(5, 3), 2, False, eta=0.7, noises=torch.ones(4))
    with pytest.raises(
        ValueError, match="noises has factors on the noise of steps, and eta = 0 draws none; leave noises out"
    ):
        Fitted(times, torch.ones(9, 3), 2, False, noises=torch.ones(5))


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_factors_act_at_the_times_they_were_fitted_to_alone(eta: float) -> None:
    """Other times, as many or not, such as those of a sampler that has this one inside, would be given factors of others."""
    times = grids.Angle()(EXACT.sde, 6)
    rows, noises = (5, torch.ones(5)) if eta else (9, None)
    fitted = Fitted(times, torch.ones(rows, 3), 2, True, eta=eta, noises=noises)
    assert len(fitted.plan(EXACT, times)) == 5
    others = [times[:-1], times[1:], times.flip(0), 0.99 * times, torch.cat([times, times[-1:] / 2])]
    for other in others:
        with pytest.raises(ValueError, match=f"fitted to 6 times from 1 to .* is asked for {len(other)} from"):
            fitted.plan(EXACT, other)
    with pytest.raises(ValueError, match="give a sampler without fitted factors there"):
        sdegen.sample(EXACT, 4, sampler=Restart(fitted), seed=0)
    for n in (rows - 1, rows + 1):
        with pytest.raises(ValueError, match=f"factors has {n} rows for {rows} moves"):
            sdegen.sample(EXACT, 4, sampler=Fitted(times, torch.ones(n, 3), 2, True, eta=eta, noises=noises))


def test_gaussian_data_cost_no_distance() -> None:
    """The reference is their law: on the same paths every number of steps gives the same samples, here but for the clock of one
    variance for all directions."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.tensor([0.3]))
    search = LawSearch(sdegen.Exact(sdegen.VP(), law), 3, 64, 0, "denoise", None, {}, 1.0)
    with torch.no_grad():
        assert search.error(search.plain, search.held) < 2e-3
        assert search.error(search.first_solver(grids.Angle(), 2), search.held) < 2e-3


def test_paths_held_back_have_noise_that_nothing_has_seen() -> None:
    searches = [LawSearch(EXACT, 3, 64, seed, "denoise", None, {}, 1.0) for seed in (0, 1)]
    noises = [part.noise for search in searches for part in (search.train, search.choose, search.held)]
    drawn = torch.cat([v.flatten() for noise in noises if noise is not None for v in (noise.path[1:], noise.bridge)])
    assert len(noises) == 6 and len(drawn.unique()) == len(drawn)


@pytest.mark.parametrize("final", ["denoise", "sample"])
def test_paths_of_a_teacher_end_where_runs_do(final: str) -> None:
    search = LawSearch(EXACT, 3, 64, 0, final, None, {}, 1.0)
    ends: list[Tensor] = []

    class Asked(sdegen.Exact):
        def denoise(self, x: Any, t: Any, /, **cond: Any) -> Any:
            ends.append(x)
            return super().denoise(x, t, **cond)

    x_T, which = torch.randn(5, 2, dtype=torch.float64), torch.arange(5)
    model = Asked(sdegen.VP(), RING)
    found = search.draw(model, DDIM(20), x_T, which, {}).ends
    assert len(ends) == (final == "denoise")
    torch.testing.assert_close(found, EXACT.denoise(ends[0], search.fine[-1]) if ends else found)


def test_what_is_no_nearer_in_law_is_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(self: Any, fitted: Fitted, rounds: int, bar: Any) -> Fitted:
        return Fitted(fitted.stops, 3 * fitted.factors, fitted.order, fitted.denoise, None, 1.0, fitted.noises)

    monkeypatch.setattr(LawSearch, "refine", spoilt)
    with pytest.warns(UserWarning, match="fitting 3 steps did not help"):
        solver = fit_solver(EXACT, steps=3, eta=1.0, paths=64, rounds=0)
    assert repr(solver) == repr(default(EXACT, 3, eta=1.0))


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_fitted_solver_is_nearer_in_law_on_paths_held_back_and_on_new_ones(eta: float, tmp_path: Path) -> None:
    solver = fit_solver(EXACT, steps=4, eta=eta, paths=2048, rounds=4)
    assert isinstance(solver, Fitted) and solver.eta == eta
    assert solver.error is not None and solver.default_error is not None and solver.error < solver.default_error
    want = RING.sample(4000, torch.Generator().manual_seed(3))
    near, far = (
        metrics.sliced_wasserstein(sdegen.sample(EXACT, 4000, sampler=s, seed=5), want, seed=0).value
        for s in (solver, default(EXACT, 4, eta))
    )
    assert near < 0.8 * far
    sdegen.save(solver, tmp_path / "solver.safetensors")
    back = sdegen.load(tmp_path / "solver.safetensors")
    a, b = (sdegen.sample(EXACT, 7, sampler=s, seed=3) for s in (solver, back))
    assert torch.equal(a, b)


def test_laws_of_many_conditions_are_not_compared_as_one() -> None:
    model = sdegen.ExactConditional(sdegen.VP(), [RING, gaussian_data()], RING)
    with pytest.raises(
        ValueError, match=r"label has a row for each of 64 paths, and eta = 1\.0: samples with noise are"
    ):
        fit_solver(model, steps=3, eta=1.0, paths=64, label=torch.zeros(64, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"eta = -1\.0; at least 16, 2, 0 and 0 are needed"):
        fit_solver(EXACT, eta=-1.0)
