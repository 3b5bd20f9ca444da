"""Grids fall strictly between the exact ends they were asked for, and are equally spaced in the variable they name."""

from __future__ import annotations

import math

import pytest
import torch

import sdegen
from sdegen import CLD, DDPM, EDM, OU, VE, VP, Cosine, Rectified, SubVP, grids


class Unnamed(sdegen.ScalarSDE):
    """A process given by its coefficients alone: every closed form of the others is a quadrature here."""

    def f(self, t):
        return -10 * t

    def g(self, t):
        return (1 + 20 * t).sqrt()


ZOO = [VP(), SubVP(), VE(), OU(), DDPM(), Cosine(), EDM(), Rectified(), CLD(), Unnamed()]
GRIDS = [grids.Uniform, grids.Quadratic, grids.LogSNR, grids.Karras, grids.Angle]
NO_SIGNAL = (Cosine, Rectified)  # alpha(T) = 0
name = lambda value: getattr(value, "__name__", type(value).__name__)


def start_of(grid, sde):
    """T, or just before it where the Karras grid has no finite first level."""
    return 0.97 * sde.T if grid is grids.Karras and isinstance(sde, NO_SIGNAL) else None


@pytest.mark.thinned(2)
@pytest.mark.parametrize("end", [None, 0.0], ids=["t_min", "zero"])
@pytest.mark.parametrize("grid", GRIDS, ids=name)
@pytest.mark.parametrize("sde", ZOO, ids=name)
def test_times_fall_strictly_between_the_exact_ends(sde, grid, end):
    start = start_of(grid, sde)
    for n in (2, 3, 40):
        times = grid(start=start, end=end)(sde, n)
        assert times.dtype == torch.float64 and len(times) == n
        assert times[0].item() == (sde.T if start is None else start)
        assert times[-1].item() == (sde.t_min if end is None else end)
        assert (times[1:] < times[:-1]).all()


@pytest.mark.parametrize("grid", GRIDS, ids=name)
@pytest.mark.parametrize("sde", ZOO, ids=name)
def test_half_the_steps_are_every_second_time(sde, grid):
    asked = grid(start=start_of(grid, sde))
    torch.testing.assert_close(asked(sde, 17)[::2], asked(sde, 9), rtol=1e-7, atol=1e-12 * sde.T)


@pytest.mark.parametrize("grid", GRIDS, ids=name)
@pytest.mark.parametrize("sde", ZOO, ids=name)
def test_steps_are_equal_in_the_variable_that_the_grid_names(sde, grid):
    variable = {
        grids.Uniform: lambda t: t,
        grids.Quadratic: lambda t: t.sqrt(),
        grids.LogSNR: lambda t: 0.5 * sde.snr(t).log(),
        grids.Karras: lambda t: sde.snr(t).pow(-0.5 / 7),
        grids.Angle: lambda t: 1 / (1 + sde.snr(t).sqrt()),
    }[grid]
    # Inside the process, where every variable is finite at both ends.
    times = grid(start=0.97 * sde.T, end=0.02 * sde.T)(sde, 12)
    steps = variable(times).diff()
    torch.testing.assert_close(steps, steps.mean().expand(11), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(("scale", "power", "time"), [(2.0, 0.5, 0.0), (0.5, 0.7, 0.3), (1.0, 1.0, 2.0)])
@pytest.mark.parametrize("sde", [VP(), EDM(), CLD()], ids=name)
def test_angle_grid_is_even_in_the_share_of_the_noise_and_the_time(sde, scale, power, time):
    times = grids.Angle(0.97 * sde.T, 0.02 * sde.T, scale, power, time)(sde, 12)
    share = 1 / (1 + scale * sde.snr(times).sqrt())
    steps = (share**power + time * times / sde.T).diff()
    torch.testing.assert_close(steps, steps.mean().expand(11), rtol=1e-6, atol=0.0)


def test_karras_grid_is_the_formula_of_the_paper_in_the_noise_level():
    n, rho = 18, 7.0
    sigma_min, sigma_max = 0.002, 80.0
    i = torch.arange(n, dtype=torch.float64)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    expected = (high + i / (n - 1) * (low - high)) ** rho
    sde = EDM(sigma_min, sigma_max)
    torch.testing.assert_close(sde.sigma(grids.Karras(end=0.0)(sde, n)), expected, rtol=1e-9, atol=0.0)
    halved = grids.Karras(end=0.0, rho=1.0)(sde, n)  # rho = 1: equal steps in sigma, which is EDM's own clock
    torch.testing.assert_close(halved, grids.Uniform(end=0.0)(sde, n), rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("sde", [Cosine(), Rectified()], ids=name)
def test_log_snr_grid_cuts_infinite_ends_at_its_digits(sde):
    times = grids.LogSNR(end=0.0, digits=3.0)(sde, 11)
    levels = 0.5 * sde.snr(times[1:-1]).log() / math.log(10)
    torch.testing.assert_close(levels, torch.linspace(-3, 3, 11, dtype=torch.float64)[1:-1], rtol=0.0, atol=1e-8)


def test_angle_grid_is_uniform_in_time_where_time_is_the_angle():
    # tau = sigma / (alpha + sigma) is t itself for the straight path, so the two grids are one.
    ends = {"end": 0.0}
    torch.testing.assert_close(grids.Angle(**ends)(Rectified(), 23), grids.Uniform(**ends)(Rectified(), 23))


def test_one_time_is_the_start():
    for grid in GRIDS:
        assert grid(start=0.6)(VP(), 1).tolist() == [0.6]


def test_given_times_are_returned_untouched():
    times = torch.tensor([0.9, 0.3, 0.0], dtype=torch.float64)
    grid = grids.Given(times)
    assert torch.equal(grid(VP(), 3), times)
    with pytest.raises(ValueError, match=r"asks for 4 times, the grid has 3; set steps"):
        grid(VP(), 4)
    with pytest.raises(ValueError, match=r"times run from 0\.9 to 0\.0; the process has times from T = 0\.5"):
        grid(OU(T=0.5), 3)


@pytest.mark.parametrize("times", [[0.1, 0.2], [0.2, 0.2], [], [math.nan, 0.1], [[0.2, 0.1]]], ids=str)
def test_given_refuses_times_that_do_not_fall(times):
    with pytest.raises(ValueError, match=r"times = .*; give strictly decreasing times, noise first\."):
        grids.Given(torch.tensor(times))


def test_a_sampler_stops_where_its_grid_says():
    ring = sdegen.data.gaussian_ring()
    visited = []

    class Watched(sdegen.Exact):
        def estimate(self, x, t, **cond):
            visited.append(float(t))
            return super().estimate(x, t, **cond)

    times = torch.tensor([1.0, 0.7, 0.2, 0.05], dtype=torch.float64)
    sampler = sdegen.samplers.DDIM(4, grid=grids.Given(times))  # four moves: three between times, one to clean data
    sdegen.sample(Watched(VP(), ring), 3, sampler=sampler, seed=0)
    assert visited == times.tolist()


def test_one_given_time_is_a_grid_of_one():
    grid = grids.Given(torch.tensor([0.5]))
    assert grid(sdegen.VP(), 1).tolist() == [0.5]
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    x = torch.ones(3, 2, dtype=torch.float64)
    found = sdegen.sample(model, x_T=x, sampler=sdegen.samplers.DDIM(1, grid=grid))
    torch.testing.assert_close(found, model.denoise(x, 0.5))
    with pytest.raises(ValueError, match=r"times run from 1\.5 to 1\.5"):
        grids.Given(torch.tensor([1.5]))(sdegen.VP(), 1)
