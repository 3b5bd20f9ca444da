"""Processes that are right at the edge of the numbers raise no alarm of `check_sde`, and wrong ones beside them do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen.testing import check_sde


def power(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers whose logarithms are uniform."""
    return st.floats(math.log(low), math.log(high)).map(math.exp)


EXTREME = st.one_of(
    st.builds(sdegen.VP, power(1e-6, 1), power(10, 1e5)),
    st.builds(sdegen.SubVP, power(1e-6, 1), power(10, 1e5)),
    st.builds(sdegen.VE, power(1e-9, 0.1), power(50, 1e7)),
    st.builds(sdegen.EDM, power(1e-9, 0.1), power(50, 1e7)),
    st.builds(sdegen.OU, power(2, 1e5)),
)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(EXTREME)
@pytest.mark.filterwarnings("ignore")
def test_extreme_processes_hold_all_laws(sde: Any) -> None:
    report = check_sde(sde)
    assert report.passed, (sde, str(report))


class Stiff(sdegen.ScalarSDE):
    """The VP process of the given rate, in two methods."""

    def __init__(self, beta: float) -> None:
        self.beta = beta

    def f(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta * t

    def g(self, t: Tensor) -> Tensor:
        return (self.beta * t).sqrt()


class WrongAlpha(sdegen.VP):
    """Its signal falls a little more slowly than its drift says."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t) ** 0.999


class WrongSigma(sdegen.VP):
    """Its noise is a thousandth too much."""

    def sigma(self, t: Tensor) -> Tensor:
        return 1.001 * super().sigma(t)


class WrongDrift(sdegen.VP):
    """Its drift is a thousandth too strong."""

    def f(self, t: Tensor) -> Tensor:
        return 1.001 * super().f(t)


class WrongNoise(sdegen.VP):
    """Its diffusion is a thousandth too strong."""

    def g(self, t: Tensor) -> Tensor:
        return 1.001 * super().g(t)


class WrongClock(sdegen.VP):
    """Its inverse of the signal-to-noise ratio is off by a millionth of the process."""

    def time_of_log_snr(self, level: Tensor | float) -> Tensor:
        return super().time_of_log_snr(level) * (1 - 1e-6)


class NoSignal(sdegen.VP):
    """Its signal is gone at once, long before it is too small for a number."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.where(t > 0.01, 0.0, super().alpha(t))


class RestingSigma(sdegen.VE):
    """Its noise does not grow in the second half."""

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t.clamp_max(0.5))


@pytest.mark.parametrize("beta", [2.0, 300.0, 3e4])
def test_a_stiff_process_in_two_methods_holds_all_laws(beta: float) -> None:
    report = check_sde(Stiff(beta), {"prior_is_the_law_at_T": "a signal is left"} if beta < 10 else None)
    assert report.passed, str(report)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("beta", [20.0, 2e3, 2e5])
@pytest.mark.parametrize("kind", [WrongAlpha, WrongSigma, WrongDrift, WrongNoise, WrongClock, NoSignal])
def test_wrong_processes_at_the_edge_are_seen(kind: Any, beta: float) -> None:
    assert not check_sde(kind(0.1, beta)).passed


class Vanishing(sdegen.ScheduleSDE):
    """``alpha = (1 − t)^p``, or the like by a cosine, which rounding leaves above 0 at T; ``sigma = t^q``."""

    def __init__(self, p: float, q: float, cosine: bool, scale: float) -> None:
        self.p, self.q, self.cosine, self.scale = p, q, cosine, scale

    def alpha(self, t: Tensor) -> Tensor:
        return self.scale * ((0.5 * math.pi * t).cos() if self.cosine else 1 - t) ** self.p

    def sigma(self, t: Tensor) -> Tensor:
        return t**self.q


@settings(max_examples=40, deadline=None, derandomize=True)
@given(power(0.3, 4), power(0.4, 2), st.booleans(), power(0.1, 10), st.lists(power(1e-7, 0.5), min_size=1, max_size=5))
def test_times_are_found_by_a_signal_that_vanishes_at_the_end(
    p: float, q: float, cosine: bool, scale: float, left: list[float]
) -> None:
    sde = Vanishing(p, q, cosine, scale)
    t = 1 - torch.tensor(left, dtype=torch.float64)
    for some in (t, 1 - t):
        found = sde.time_of_log_snr(sde.log_snr(some))
        assert ((found - some).abs() <= 1e-9 * torch.minimum(some, 1 - some) + 1e-15).all(), (some, found)
    assert sde.time(1e-8).isfinite()


@pytest.mark.parametrize(("low", "high"), [(0.01, 50.0), (1e-8, 1e6)])
def test_noise_that_rests_is_seen_at_every_scale(low: float, high: float) -> None:
    assert "signal_to_noise_decreases" in check_sde(RestingSigma(low, high)).failures
