"""Times: taken within a process, clamped where rounding alone takes them beyond its ends, and refused beyond that."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sdegen
from sdegen.processes.dynamics import as_time
from sdegen.processes.times import LogTimes

ENDS = st.floats(1e-3, 1e3)


@given(T=ENDS, parts=st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_times_within_are_kept_to_the_digit(T: float, parts: list[float]) -> None:
    times = [min(T, T * u) for u in parts]
    for given_ in (times, np.array(times), torch.tensor(times, dtype=torch.float64), times[0]):
        found = as_time(given_, T)  # type: ignore[arg-type]
        assert found.dtype == torch.float64 and found.tolist() == (given_ if isinstance(given_, float) else times)


@given(T=ENDS, beyond=st.floats(-10, 10), inside=st.floats(0, 1), dtype=st.sampled_from([torch.float32, torch.float64]))
def test_times_beyond_the_ends_are_refused_but_for_rounding(
    T: float, beyond: float, inside: float, dtype: torch.dtype
) -> None:
    eps = max(1e-12, torch.finfo(dtype).eps)
    last = torch.tensor(T, dtype=dtype)
    T = last.item()
    near = torch.stack([-0.9 * eps * last, inside * last, last.nextafter(2 * last)])
    assert as_time(near, T).tolist() == near.double().clamp(0, T).tolist()
    if abs(beyond) < 10 * eps:
        return
    far = torch.stack([inside * last, (beyond if beyond < 0 else 1 + beyond) * last])
    with pytest.raises(
        ValueError, match=r"^t = \S+ lies outside \[0, T\] = \[0, \S+\]; pass times within the process\.$"
    ):
        as_time(far, T)


@pytest.mark.parametrize("t", [math.nan, math.inf, -math.inf, [0.5, math.nan], -1, 2])
def test_what_is_no_time_of_the_process_is_named(t: Any) -> None:
    bad = t[1] if isinstance(t, list) else t
    for ask in (as_time, lambda t, T: sdegen.VP().marginal(torch.tensor(t))):
        with pytest.raises(ValueError, match=rf"^t = {bad} lies outside \[0, T\] = \[0, 1\]"):
            ask(t, 1.0)


SDES = [sdegen.VP(), sdegen.SubVP(), sdegen.VE(), sdegen.OU(), sdegen.EDM(), sdegen.Rectified(), sdegen.Cosine()]


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_the_signal_at_the_last_time_is_said(sde: sdegen.ScalarSDE) -> None:
    alpha, sigma = (v(torch.tensor(sde.T, dtype=torch.float64)).item() for v in (sde.alpha, sde.sigma))
    assert sde.signal_at_T == (f"alpha(T) / sigma(T) = {alpha / sigma:.2g}" if alpha else "alpha(T) = 0")


@pytest.mark.parametrize(
    "sde",
    [sdegen.VP(), sdegen.DDPM(), sdegen.Cosine(), sdegen.Rectified(), sdegen.EDM(), sdegen.OU()],
    ids=lambda s: type(s).__name__,
)
def test_one_time_expanded_to_all_rows_is_that_time(sde: sdegen.LinearSDE) -> None:
    x, t = torch.ones(4, 2, dtype=torch.float64), torch.tensor(0.3 * sde.T, dtype=torch.float64)
    for method in (sde.drift, lambda x, t: sde.diffusion(x, t)(x), lambda x, t: sde.marginal(t)(x).mean):
        assert torch.equal(method(x, t.expand(4)), method(x, t.repeat(4)))


@pytest.mark.parametrize(("sde", "first"), [(sdegen.VP(), 1e-5), (sdegen.OU(), 5e-6), (sdegen.DoubleWell(), 1e-3)])
def test_log_times_are_one_in_each_of_equal_intervals_of_the_logarithm(sde: sdegen.SDE, first: float) -> None:
    """From `t_min` on, or from a millionth of T where that is later."""
    t, factor = LogTimes().sample(sde, 16, torch.Generator().manual_seed(0))
    place = 16 * (t / first).log() / math.log(sde.T / first)
    assert torch.equal((place + 1e-3).floor().sort().values, torch.arange(16.0).double()) and (factor == 1).all()


class Plain(sdegen.ScalarSDE):
    def f(self, t: torch.Tensor) -> torch.Tensor:
        return -1 - 10 * t

    def g(self, t: torch.Tensor) -> torch.Tensor:
        return (1 + 20 * t).sqrt()


@pytest.mark.parametrize(
    "sde",
    [
        sdegen.VP(),
        sdegen.VP(0.1, 2000),
        sdegen.DDPM(),
        sdegen.EDM(),
        sdegen.Cosine(),
        sdegen.Rectified(),
        sdegen.CLD(),
        Plain(),
    ],
    ids=repr,
)
def test_a_time_found_from_a_table_alone_is_near(sde: sdegen.LinearSDE) -> None:
    best, worst = sde.log_snr(torch.tensor([sde.t_min, sde.t_max], dtype=torch.float64)).clamp(-20, 20)
    levels = worst + (best - worst) * torch.rand(500, dtype=torch.float64).clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(sde.time_near_log_snr(levels), sde.time_of_log_snr(levels), rtol=3e-6, atol=3e-8 * sde.T)


CLOSED = [
    cls
    for cls in vars(sdegen.processes).values()
    if isinstance(cls, type) and cls.__module__ == "sdegen.processes.zoo" and "_invert" in vars(cls)
    if all(p.default is not p.empty for p in inspect.signature(cls).parameters.values())
]


@pytest.mark.parametrize("cls", CLOSED, ids=lambda cls: cls.__name__)
def test_a_closed_form_of_the_time_is_the_inverse_by_itself(cls: type) -> None:
    """Newton's steps that follow would mend any first guess."""
    sde = cls()
    t = sde.T * torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    torch.testing.assert_close(sde._invert(sde.log_snr(t)), t, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    "t",
    [True, np.True_, 0.5j, np.array([True, False]), np.array(0.5j), torch.tensor(True), torch.tensor([0.5 + 1j, 0.2])],
    ids=repr,
)
def test_times_are_real_numbers(t: Any) -> None:
    x = torch.zeros(2, 2, dtype=torch.float64)
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    for ask in (
        model.score,
        model.denoise,
        lambda x, t: sdegen.VP().marginal(t),
        lambda x, t: sdegen.CIR().noise_at(t),
    ):
        with pytest.raises(TypeError, match="times are real numbers"):
            ask(x, t)
