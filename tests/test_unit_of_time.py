"""A process in another unit of time, with ``f' = c f(c t)``, ``g' = √c g(c t)`` and ``T' = T / c``, is the same process: times
scale, and samples, losses and densities are as they were.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, samplers
from sdegen.processes import times
from sdegen.processes.nonlinear import calibrate_lag

UNITS = [1e-8, 1e8]
LAW = sdegen.GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[-1.0], [1.5]]), torch.tensor([0.1, 0.3]))


class Rates(sdegen.ScalarSDE):
    def __init__(self, unit: float = 1.0) -> None:
        self.unit, self.T = unit, 1 / unit

    def f(self, t: Tensor) -> Tensor:
        return -3 * self.unit * (1 + self.unit * t)

    def g(self, t: Tensor) -> Tensor:
        return (self.unit * (1 + 5 * self.unit * t)).sqrt()


class Curves(sdegen.ScheduleSDE):
    """The noise begins like a root, whose slope at 0 is no number."""

    def __init__(self, unit: float = 1.0) -> None:
        self.unit, self.T = unit, 1 / unit

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - 0.9 * self.unit * t

    def sigma(self, t: Tensor) -> Tensor:
        return (self.unit * t).sqrt()


class Channels(sdegen.MatrixSDE):
    """Three channels that begin without noise."""

    Sigma_0 = torch.zeros(3, 3, dtype=torch.float64)

    def __init__(self, unit: float = 1.0) -> None:
        self.unit, self.T = unit, 1 / unit

    def F(self, t: Tensor) -> Tensor:
        base = torch.tensor([[-0.5, 2.0, 0.3], [-1.0, -1.5, 0.8], [0.2, -0.7, -2.0]], dtype=torch.float64)
        return base * (self.unit * (1 + self.unit * t))[..., None, None]

    def G(self, t: Tensor) -> Tensor:
        base = torch.tensor([[0.6, 0.0, 0.0], [0.9, 0.5, 0.0], [-0.4, 0.7, 1.1]], dtype=torch.float64)
        return base * (self.unit**0.5 * (1 + 0.5 * self.unit * t))[..., None, None]


class Pulled(sdegen.SDE):
    """Drift and noise alone, neither of them linear."""

    def __init__(self, unit: float = 1.0) -> None:
        self.unit, self.T = unit, 4 / unit

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unit * (x - x**3)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self.unit**0.5 * (1 + 0.1 * x.sin())


LINEAR: list[Callable[..., Any]] = [Rates, Curves, Channels]
each_linear = pytest.mark.parametrize("make", LINEAR, ids=lambda make: make.__name__)
each_unit = pytest.mark.parametrize("unit", UNITS)


@cache
def pair(make: Callable[..., Any], unit: float) -> tuple[sdegen.LinearSDE, sdegen.LinearSDE]:
    """The process in both units: its tables are made once."""
    return make(1.0) if unit == UNITS[0] else pair(make, UNITS[0])[0], make(unit)


def close(found: Any, want: Any) -> None:
    found, want = (torch.as_tensor(v, dtype=torch.float64) for v in (found, want))
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-8)


@pytest.mark.thinned(2)
@each_linear
@each_unit
def test_times_are_told_in_the_unit(make: Callable[..., Any], unit: float) -> None:
    sde, other = pair(make, unit)
    levels = torch.tensor([0.2, 1.0, 30.0], dtype=torch.float64)
    torch.testing.assert_close(other.time(levels) * unit, sde.time(levels), rtol=1e-10, atol=0)
    close(other.t_min * unit, sde.t_min)
    close(other.t_max * unit, sde.t_max)
    for grid in (grids.Uniform(), grids.Quadratic(), grids.LogSNR(), grids.Karras(), grids.Angle(time=0.3)):
        close(grid(other, 7) * unit, grid(sde, 7))
    for law in (
        times.UniformTimes(),
        times.StratifiedTimes(),
        times.LogTimes(),
        times.LogNormalTimes(-1.0, 1.0),
        times.AngleTimes(),
    ):
        (one, weight), (same, heavy) = (
            law.sample(process, 8, torch.Generator().manual_seed(0)) for process in (sde, other)
        )
        close(same * unit, one)
        close(heavy, weight)


@each_unit
def test_coefficients_are_rates_in_the_unit(unit: float) -> None:
    """Where the noise begins like a root, they are taken by their limit."""
    sde, t = Curves(unit), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    f = -0.9 / (1 - 0.9 * t)
    close(sde.f(t / unit) / unit, f)
    close(sde.g(t / unit) / unit**0.5, (1 - 2 * f * t).sqrt())


@each_unit
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_the_flow_of_channels_is_a_rate_in_the_unit(unit: float, t: float) -> None:
    """At 0, where there is no noise, it is taken by its limit, a part in 1e8 of the way from there."""
    y = torch.linspace(-1.0, 2.0, 4, dtype=torch.float64)[:, None]
    ways = []
    for sde in pair(Channels, unit):
        time = torch.tensor(t * sde.T, dtype=torch.float64)
        ways.append(sde.flow(sdegen.Exact(sde, LAW)).field(time)(sde.lift(y) + 0.1))
    close(ways[1] / unit, ways[0])


@pytest.mark.thinned(2)
@each_linear
@each_unit
@pytest.mark.parametrize(
    "sampler",
    [samplers.Multistep(3), samplers.EulerMaruyama(5), samplers.Heun(3)],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samples_are_the_same(make: Callable[..., Any], unit: float, sampler: samplers.Sampler) -> None:
    want, found = (sdegen.sample(sdegen.Exact(sde, LAW), 4, sampler=sampler, seed=1) for sde in pair(make, unit))
    close(found, want)


@each_unit
def test_the_step_of_a_nonlinear_process_is_told_in_the_unit(unit: float) -> None:
    x = torch.linspace(-1.0, 1.0, 16, dtype=torch.float64)[:, None]
    close(calibrate_lag(Pulled(unit), x, 1e-2) * unit, calibrate_lag(Pulled(), x, 1e-2))


@pytest.mark.parametrize("T", [1e-3, 0.7, 40.0])
def test_coupled_processes_begin_at_a_part_of_their_last_time(T: float) -> None:
    """Training times and grids, which begin there, are the same in every unit of time."""

    class Moved(sdegen.LiftedSDE):
        E, Sigma_0 = torch.tensor([[1.0], [0.0]], dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)

        def __init__(self, T: float) -> None:
            self.T = T

        def F(self, t: Tensor) -> Tensor:
            return torch.tensor([[0.0, 2.0], [-2.0, -4.0]], dtype=torch.float64) / self.T

        def G(self, t: Tensor) -> Tensor:
            return torch.eye(2, dtype=torch.float64) / self.T**0.5

    assert Moved(T).t_min == pytest.approx(1e-3 * T)
    assert Channels(1 / T).t_min == pytest.approx(1e-3 * T)

    class Given(Moved):
        t_min = 0.01

    assert Given(T).t_min == 0.01


@pytest.mark.parametrize("unit", [1e-7, 1e-3, 1.0, 1e4])
def test_times_are_found_to_as_many_digits_in_every_unit(unit: float) -> None:
    """By bracketing, which a process without an inverse of its own is left to."""
    sde = sdegen.OU(rate=1 / unit, T=5 * unit)
    t = unit * torch.tensor([0.01, 0.3, 1.0, 2.0, 3.0, 4.9], dtype=torch.float64)
    found = sdegen.LinearSDE._invert(sde, sde.log_snr(t))
    assert (found / t - 1).abs().max() < 1e-11
