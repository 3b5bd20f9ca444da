"""Fitted solvers: better on paths they were not fitted to, the default where they are not, and files that hold them."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, samplers
from sdegen.samplers import Fitted, Multistep, ProbabilityFlow, default, share
from sdegen.testing.samplers import gaussian_data

RING = sdegen.data.gaussian_ring(modes=8, radius=4.0, std=0.3)


@pytest.fixture(scope="module")
def fitted() -> samplers.Sampler:
    return samplers.fit(sdegen.Exact(sdegen.VP(), RING), steps=6, paths=256, seed=1, final="sample", sweeps=0)


def distance(sampler: samplers.Sampler, x_T: Tensor) -> Tensor:
    model = sdegen.Exact(sdegen.VP(), RING)
    times = sampler.times(model.sde, False)
    flow = ProbabilityFlow(1, grids.Given(times[[0, -1]]), rtol=1e-9, atol=1e-9)
    want = sdegen.sample(model, x_T=x_T, sampler=flow, final="sample")
    return (sdegen.sample(model, x_T=x_T, sampler=sampler, final="sample") - want).norm(dim=1)


def test_fitted_solver_beats_the_default_on_new_paths(fitted: samplers.Sampler) -> None:
    assert isinstance(fitted, Fitted) and fitted.steps == 6
    x_T = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    ours, plain = distance(fitted, x_T), distance(default(sdegen.Exact(sdegen.VP(), RING), 6), x_T)
    assert ours.median() < 0.4 * plain.median()
    assert ours.square().mean() < 0.8 * plain.square().mean()
    assert fitted.error < fitted.default_error  # type: ignore[attr-defined]


def test_factors_of_one_are_the_analytic_weights() -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    times = grids.Angle()(model.sde, 7)
    plain = Multistep(6, grids.Given(times), 2, clock=share, corrector=True)
    one = Fitted(times, torch.ones(11, 3), 2, False)
    x_T = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = (sdegen.sample(model, x_T=x_T, sampler=s, final="sample") for s in (plain, one))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_gaussian_data_leave_nothing_to_fit() -> None:
    # The default is exact there: whatever comes back is no worse, and where it is the default a warning says so.
    model = sdegen.Exact(sdegen.VP(), gaussian_data())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sampler = samplers.fit(model, steps=3, paths=32, sweeps=0, final="sample")
    told = any("did not help" in str(w.message) for w in caught)
    assert told != isinstance(sampler, Fitted)


def test_fits_for_the_denoising_end_too() -> None:
    model = sdegen.Exact(sdegen.EDM(), RING)
    sampler = samplers.fit(model, steps=4, paths=64, seed=0, sweeps=0)
    calls = 0

    class Counting(sdegen.Exact):
        def _observed(self, x: Tensor, at: object) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            return super()._observed(x, at)  # type: ignore[arg-type]

    sdegen.sample(Counting(sdegen.EDM(), RING), 8, sampler=sampler, seed=0)
    assert calls == 4
    if isinstance(sampler, Fitted):
        with pytest.raises(ValueError, match="fitted for final"):
            sdegen.sample(model, 8, sampler=sampler, final="sample")


def test_save_and_load(fitted: Fitted, tmp_path: Path) -> None:
    sdegen.save(fitted, tmp_path / "solver.safetensors")
    back = sdegen.load(tmp_path / "solver.safetensors")
    model = sdegen.Exact(sdegen.VP(), RING)
    a, b = (sdegen.sample(model, 7, sampler=s, seed=3, final="sample") for s in (fitted, back))
    assert torch.equal(a, b)


def test_refusals() -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    with pytest.raises(TypeError, match="CLD"):
        samplers.fit(sdegen.Exact(sdegen.CLD(), RING))
    with pytest.raises(ValueError, match="steps = 1"):
        samplers.fit(model, steps=1)
    with pytest.raises(ValueError, match="final = 'end'"):
        samplers.fit(model, final="end")
