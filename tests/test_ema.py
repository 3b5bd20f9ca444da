"""Averages of weights: what each step counts, and how near the ones formed afterwards come to those kept directly."""

from __future__ import annotations

import math

import pytest
import torch

import sdegen
from sdegen import fit
from sdegen.training import constant_rate
from sdegen.training.averages import PowerEMA, Snapshots, combine, exponent

RING = sdegen.data.gaussian_ring()
weights = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


def small(device, dtype):
    torch.manual_seed(0)
    return sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP()).to(device, dtype)


def power_profile(n, gamma):
    """What the recursion gives to step m of n: ``m^(gamma+1) − (m−1)^(gamma+1)`` over ``n^(gamma+1)``.

    Step m enters with ``1 − (1 − 1/m)^(gamma+1)`` and is multiplied by ``(1 − 1/j)^(gamma+1)`` at every later j, a
    product that telescopes to ``(m/n)^(gamma+1)``: the integral of ``u^gamma`` over the m-th of n equal intervals.
    """
    m = torch.arange(n + 1, dtype=torch.float64)
    return ((m / n) ** (gamma + 1)).diff()


# --- one average, kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.02, 0.05, 0.15, 0.25])
def test_average_weighs_steps_by_a_power_of_their_number(width, generator):
    n = 40
    value = torch.zeros(3, dtype=torch.float64)
    average = PowerEMA([value], width)
    steps = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    for row in steps:
        value.copy_(row)
        average.update()
    profile = power_profile(n, average.gamma)
    torch.testing.assert_close(profile.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(average.average[0], profile @ steps, rtol=1e-10, atol=1e-12)
    average.copy_to_model()
    assert torch.equal(value, average.average[0])


@pytest.mark.parametrize("width", [0.02, 0.05, 0.15, 0.25])
def test_average_is_as_wide_as_asked_whatever_the_length(width):
    # The average of m and of m² are the moments of the profile.
    for n in (2000, 6000):
        value = torch.zeros(2, dtype=torch.float64)
        average = PowerEMA([value], width)
        for m in range(1, n + 1):
            value.copy_(torch.tensor([m / n, (m / n) ** 2], dtype=torch.float64))
            average.update()
        mean, square = average.average[0].tolist()
        assert math.sqrt(square - mean**2) == pytest.approx(width, rel=10 / n / width)


def test_average_of_no_width_is_the_last():
    value = torch.zeros(1)
    average = PowerEMA([value], 0.0)
    for m in (3.0, -1.0, 5.0):
        value.fill_(m)
        average.update()
    assert average.average[0].item() == 5.0


@pytest.mark.parametrize("width", [-0.01, 0.3, math.nan])
def test_impossible_widths_are_refused(width):
    with pytest.raises(ValueError, match=rf"ema = {width}; the relative width .* between 0 and 0\.28"):
        PowerEMA([torch.zeros(1)], width)


def test_the_average_stands_in_for_the_weights_and_goes_again(generator):
    value = torch.randn(5, generator=generator)
    average = PowerEMA([value], 0.1)
    average.update()
    value.add_(1.0)
    average.update()
    last = value.clone()
    with pytest.raises(RuntimeError, match="inside"), average.in_model():  # noqa: PT012
        assert torch.equal(value, average.average[0]) and not torch.equal(value, last)
        raise RuntimeError("inside")
    assert torch.equal(value, last)


def test_fit_leaves_the_average_of_every_step(device, dtype, eps):
    model, n, kept = small(device, dtype), 25, []
    look = [lambda s: kept.append(weights(s.model))]
    fit(model, RING, steps=n, batch_size=16, seed=0, ema=0.1, warmup=5, callbacks=look)
    expected = power_profile(n, exponent(0.1)) @ torch.stack(kept).double()
    torch.testing.assert_close(weights(model).double(), expected, rtol=100 * eps, atol=eps)
    assert not torch.equal(weights(model), kept[-1])
    plain = small(device, dtype)
    fit(plain, RING, steps=n, batch_size=16, seed=0, ema=0.0, warmup=5)
    assert torch.equal(weights(plain), kept[-1])


# --- any average, afterwards ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.03, 0.05, 0.08, 0.1, 0.15, 0.25])
def test_profiles_combine_to_the_one_that_is_asked_for(width):
    """Every profile on a fine grid: their combination is the nearest of sum one, and as far as is said."""
    steps, widths, n = [30, 60, 90, 110, 120], (0.05, 0.1), 60_000
    coefficients, error = combine(steps, widths, width)
    s = (torch.arange(n, dtype=torch.float64) + 0.5) / n * steps[-1]

    def profile(step, w):
        gamma = exponent(w)
        return torch.where(s < step, (gamma + 1) / step * (s / step) ** gamma, 0.0)

    given = torch.stack([profile(step, w) for step in steps for w in widths])
    asked, weight = profile(steps[-1], width), steps[-1] / n
    miss = coefficients.flatten() @ given - asked
    norm = lambda v: (v.square().sum() * weight).sqrt().item()
    assert coefficients.sum().item() == pytest.approx(1, abs=1e-9)
    assert error == pytest.approx(norm(miss) / norm(asked), abs=1e-4)
    # Stationary: no direction of sum zero gets nearer.
    inner = given @ miss * weight / norm(asked) ** 2
    assert (inner - inner.mean()).abs().max() < 1e-5
    if width in widths:
        assert error < 1e-9 and coefficients[-1, widths.index(width)].item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("power", [0, 1, 3])
def test_a_known_path_of_weights_is_averaged_exactly(power):
    """Weights that grow as ``s^power`` have the average ``(gamma + 1) / (gamma + power + 1)``."""
    n, value = 4000, torch.zeros(1, dtype=torch.float64)
    album = Snapshots({"w": value})
    for m in range(1, n + 1):
        value.fill_(((m - 0.5) / n) ** power)
        album.update()
        if m % 250 == 0:
            album.keep()
    for width in (0.05, 0.07, 0.1, 0.15):
        gamma = exponent(width)
        expected = (gamma + 1) / (gamma + power + 1)
        assert album.average(width)["w"].item() == pytest.approx(expected, abs=2e-3 if power else 1e-9)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_an_average_chosen_afterwards_is_the_one_kept_directly(device, dtype, place, tmp_path):
    """Errors in units of what averaging changes: the distance to the last weights, at a rate that leaves them restless."""
    model, last = small(device, dtype), []
    direct = {width: PowerEMA(model.parameters(), width) for width in (0.03, 0.05, 0.08, 0.1, 0.12, 0.2)}

    def keep(step):
        for average in direct.values():
            average.update()
        last[:] = [weights(step.model)]

    chosen = {} if place == "memory" else {"checkpoint": tmp_path / "run"}
    settings = {"steps": 128, "batch_size": 32, "warmup": 10, "lr": 1e-2, "schedule": constant_rate, "snapshots": 4}
    run = fit(model, RING, seed=0, callbacks=[keep], **settings, **chosen)
    for width, average in direct.items():
        kept = torch.cat([p.flatten() for p in average.average]).cpu()
        formed = run.averaged(width)
        error = (weights(formed) - kept).norm()
        assert error < (1e-5 if width in Snapshots.widths else 1e-2) * (kept - last[0]).norm(), width
        assert error < 1e-3 * kept.norm(), width
        assert not formed.training and formed.moments is not None


def test_forming_an_average_leaves_the_model_alone(device, dtype):
    model = small(device, dtype)
    run = fit(model, RING, steps=20, batch_size=8, seed=0, snapshots=2)
    before = weights(model)
    formed = run.averaged(0.2)
    assert torch.equal(weights(model), before) and not torch.equal(weights(formed), before)
    assert sdegen.sample(formed, 3, steps=2, seed=0).shape == (3, 2)


def test_the_last_step_is_always_kept(device, dtype):
    run = fit(small(device, dtype), RING, steps=11, batch_size=8, seed=0, snapshots=4)
    assert run.snapshots.steps == [4, 8, 11]


def test_widths_out_of_reach_are_refused(device, dtype):
    run = fit(small(device, dtype), RING, steps=8, batch_size=8, seed=0, snapshots=4)
    with pytest.raises(
        ValueError, match=r"width = 0\.01 is out of reach of the 2 snapshots .* by \d+ %; take snapshots"
    ):
        run.averaged(0.01)
    with pytest.raises(ValueError, match=r"^width = 0\.5; the relative width"):
        run.averaged(0.5)
    with pytest.raises(ValueError, match=r"^width = 0 is no average; the last weights"):
        run.averaged(0.0)
    run = fit(small(device, dtype), RING, steps=2, batch_size=8, seed=0)
    with pytest.raises(ValueError, match=r"no snapshot was kept; call fit with snapshots="):
        run.averaged(0.1)


@pytest.mark.parametrize("width", [0.005, 0.05, 0.15, 0.25, 0.28])
def test_the_exponent_has_the_width_that_is_asked_for(width):
    # Of the density (gamma + 1) t^gamma on [0, 1] the variance is the second moment less the square of the first.
    gamma = exponent(width)
    mean, second = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
    assert math.sqrt(second - mean**2) == pytest.approx(width, rel=1e-6)
