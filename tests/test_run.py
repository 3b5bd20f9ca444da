"""Runs in chunks and parts are the whole run; callbacks, bars and errors of a run."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from labelled import Labelled
from torch import Tensor, nn
from tqdm import tqdm

import sdegen
from sdegen import grids, progress, sample, samplers
from sdegen.samplers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
)

RING = sdegen.data.gaussian_ring()

SAMPLERS: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "ddim": lambda: DDIM(6),
    "ddim, eta 1": lambda: DDIM(6, eta=1.0),
    "ancestral": lambda: Ancestral(6),
    "heun": lambda: Heun(6),
    "euler-maruyama": lambda: EulerMaruyama(6),
    "predictor-corrector": lambda: PredictorCorrector(EulerMaruyama(4), Langevin(2, h=0.1)),
}


# --- chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("model", ["net", "exact"])
def test_samples_do_not_depend_on_the_batch(
    sampler: str, model: str, net: sdegen.Model, request: pytest.FixtureRequest, eps: float
) -> None:
    law: Any = net if model == "net" else sdegen.Exact(sdegen.EDM(), RING)
    make = SAMPLERS[sampler]
    whole = sample(law, 23, sampler=make(), seed=1)
    assert len(whole.unique(dim=0)) == 23
    tolerance = {"rtol": 10 * eps, "atol": 10 * eps}
    for batch in (1, 7, 22, 23, 100):
        torch.testing.assert_close(sample(law, 23, sampler=make(), seed=1, batch=batch), whole, **tolerance)
    torch.testing.assert_close(sample(law, 9, sampler=make(), seed=1), whole[:9], **tolerance)
    assert not torch.allclose(sample(law, 23, sampler=make(), seed=2), whole, atol=1e-2)


@pytest.mark.filterwarnings("ignore:a state reached")  # an untrained network carries them away
def test_chunks_of_a_lifted_and_of_a_nonlinear_process() -> None:
    model = sdegen.Exact(sdegen.CLD(), RING)
    whole = sample(model, 10, sampler=EulerMaruyama(8, grids.Uniform(end=0.05)), seed=0)
    cut = sample(model, 10, sampler=EulerMaruyama(8, grids.Uniform(end=0.05)), seed=0, batch=4)
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)
    torch.manual_seed(0)
    well = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), sdegen.DoubleWell(T=1.0)).double()
    well.moments = sdegen.Moments(torch.zeros(1), torch.eye(1))
    whole, cut = (sample(well, 10, steps=8, seed=0, batch=batch) for batch in (None, 3))
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)


def test_states_given_are_cut_and_keep_their_noise() -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    x_T = torch.randn(11, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole, cut = (sample(model, x_T=x_T, sampler=EulerMaruyama(9), seed=0, batch=batch) for batch in (None, 4))
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)


def test_the_path_is_cut_along_samples(net: sdegen.Model, eps: float) -> None:
    whole, cut = (sample(net, 7, sampler=DDIM(5, eta=1.0), seed=0, batch=b, return_path=True) for b in (None, 3))
    assert whole.shape == cut.shape == (6, 7, 2)
    torch.testing.assert_close(cut, whole, rtol=10 * eps, atol=10 * eps)


@pytest.mark.parametrize("sampler", [DDIM(3), EulerMaruyama(3), Heun(3)], ids=lambda s: type(s).__name__)
def test_conditions_with_rows_are_cut_along_and_others_are_not(sampler: samplers.Sampler) -> None:
    # Some plans hold the model, and with it the conditions: a plan made for one chunk would be wrong for the next.
    net = Labelled()
    model = sdegen.Model(net, sdegen.VP()).double()
    model.moments = RING.moments()
    cond = {"label": torch.linspace(-1, 1, 7, dtype=torch.float64), "scale": torch.ones(3), "name": "digits"}
    whole = sample(model, 7, sampler=sampler, seed=0, **cond)
    net.seen.clear()
    torch.testing.assert_close(sample(model, 7, sampler=sampler, seed=0, batch=3, **cond), whole, rtol=1e-9, atol=1e-9)
    rows = [len(c["label"]) for c in net.seen]
    # Chunks have two rows at most: of three, the three numbers that all share would pass for one each.
    assert set(rows) == {2, 1} and rows == sorted(rows, reverse=True)
    assert all(c["scale"] is cond["scale"] and c["name"] == "digits" for c in net.seen)


def test_a_plan_without_conditions_is_made_once() -> None:
    class Counting(DDIM):
        plans = 0

        def plan(self, model: Any, times: Tensor) -> Any:
            self.plans += 1
            return super().plan(model, times)

    sampler = Counting(4)
    sample(sdegen.Exact(sdegen.VP(), RING), 9, sampler=sampler, batch=2)
    assert sampler.plans == 1


@pytest.mark.parametrize("batch", [0, -3, 2.5, True])
def test_batch_is_refused(batch: Any) -> None:
    with pytest.raises(ValueError, match=rf"^batch = {batch}; it must be a whole number"):
        sample(sdegen.Exact(sdegen.VP(), RING), 4, batch=batch)


# --- parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_parts_of_a_run_are_the_whole_run(sampler: str, batch: int | None, eps: float) -> None:
    # The table of 4 has as many rows as a part: it is no part's own condition, for it has not as many as the run.
    net = Labelled()
    model = sdegen.Model(net, sdegen.VP()).double()
    model.moments = RING.moments()
    cond = {"label": torch.linspace(-1, 1, 11, dtype=torch.float64), "table": torch.ones(4), "name": "digits"}
    how = {"seed": 5, **cond}
    whole = sample(model, 11, sampler=SAMPLERS[sampler](), **how)
    net.seen.clear()
    parts = [sample(model, 11, sampler=SAMPLERS[sampler](), part=(k, 3), batch=batch, **how) for k in range(3)]
    assert [len(part) for part in parts] == [3, 4, 4]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=10 * eps, atol=10 * eps)
    assert all(c["table"] is cond["table"] and len(c["label"]) <= (batch or 4) for c in net.seen)
    assert (whole[1:] - whole[:-1]).abs().min() > 1e-4  # no row would do for another


def test_a_part_begins_where_its_states_do(eps: float) -> None:
    model = sdegen.Exact(sdegen.CLD(), RING)
    x_T = model.sde.prior(RING.moments()).sample(7, torch.Generator().manual_seed(0))
    seen: list[int] = []
    how: dict[str, Any] = {"x_T": x_T, "sampler": EulerMaruyama(5, grids.Uniform(end=0.05)), "return_path": True}
    whole = sample(model, **how, seed=0)
    parts = [
        sample(
            model,
            **how,
            generator=torch.Generator().manual_seed(0),
            part=(k, 2),
            callback=lambda i, t, x: seen.append(len(x)),
        )
        for k in range(2)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=10 * eps, atol=10 * eps)
    assert set(seen[: len(seen) // 2]) == {3} and set(seen[len(seen) // 2 :]) == {4}
    assert torch.equal(sample(model, **how, seed=0, part=(0, 1)), whole)


def test_a_part_of_a_run_that_is_too_large_for_memory() -> None:
    """What starts it is drawn for the part alone: all of it would be 16 GB."""
    model = sdegen.Exact(sdegen.VP(), RING)
    n, place = 10**9, 4 * 10**8
    x = sample(model, n, steps=3, seed=0, part=(place // 10, n // 10))
    run = sample(model, n, steps=3, seed=0, part=(place // 20, n // 20))
    assert len(x) == 10 and torch.allclose(run[:10], x)
    assert len(set(x[:, 0].tolist())) == 10 and not torch.allclose(x, sample(model, 10, steps=3, seed=0))


@pytest.mark.parametrize("part", [(2, 2), (-1, 2), (0, 0), (0.0, 2), (0, True), (0,), (0, 1, 2), 1, "01"], ids=str)
def test_parts_that_mean_nothing_are_refused(part: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^part.*whole number"):
        sample(sdegen.Exact(sdegen.VP(), RING), 4, seed=0, part=part)


def test_parts_need_rows_and_a_common_seed() -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    with pytest.raises(ValueError, match=r"^part = \(0, 5\): 4 samples are too few for 5 processes; launch at most 4"):
        sample(model, 4, seed=0, part=(0, 5))
    with pytest.raises(ValueError, match=r"^part = \(0, 2\) without a seed; give all processes the same seed"):
        sample(model, 4, part=(0, 2))


# --- callbacks, bar, errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("final", ["denoise", "sample"])
def test_callback_sees_the_path(final: str) -> None:
    model, seen = sdegen.Exact(sdegen.VP(), RING), []
    sampler = DDIM(6, eta=1.0)
    path = sample(
        model, 5, sampler=sampler, seed=0, final=final, return_path=True, callback=lambda *args: seen.append(args)
    )
    steps, times, states = zip(*seen, strict=True)
    assert steps == tuple(range(6))
    assert torch.equal(torch.stack(states), path[1:])
    wanted = sampler.times(model.sde, final == "denoise")[1:].tolist() + [0.0] * (final == "denoise")
    assert [t.item() for t in times] == wanted


def test_callback_is_called_for_every_chunk_and_may_end_the_run() -> None:
    seen = []
    model = sdegen.Exact(sdegen.CLD(), RING)
    sample(model, 5, sampler=DDIM(3), seed=0, batch=2, callback=lambda i, t, x: seen.append((i, tuple(x.shape))))
    assert seen == [(i, (n, 2, 2)) for n in (2, 2, 1) for i in range(3)]

    def stop(i: int, t: Tensor, x: Tensor) -> None:
        if i == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, 5, sampler=DDIM(3), callback=stop)


def test_one_bar_over_all_chunks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    totals = []

    class Watched(tqdm):  # type: ignore[type-arg]
        def close(self) -> None:
            if hasattr(self, "n"):
                totals.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(progress, "tqdm", Watched)
    sample(sdegen.Exact(sdegen.VP(), RING), 5, sampler=Heun(4), batch=2, final="sample", progress=True)
    assert (12, 12) in totals and len(set(totals)) == 1
    assert "Heun" in capsys.readouterr().err


def test_a_state_that_turns_non_finite_is_named_in_a_later_chunk() -> None:
    class Broken(sdegen.Exact):
        def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
            x_0, eps = super().estimate(x, t)
            return (x_0 * math.nan, eps) if len(x) == 1 and t < 0.5 else (x_0, eps)

    model = Broken(sdegen.VP(), RING)
    sampler = DDIM(10, grids.Uniform())
    sample(model, 4, sampler=sampler, batch=2)
    with pytest.raises(ValueError, match=r"^the state turned non-finite in step 6 of 10, from t = 0\.44"):
        sample(model, 5, sampler=sampler, batch=2)


# --- states of another size --------------------------------------------------------------------------------------------


class AnySize(nn.Module):
    """A network that takes states of any shape, as a convolution does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.weight * x


GIVEN: dict[str, tuple[str, Callable[[sdegen.Model, Tensor], Tensor]]] = {
    "sample": ("x_T", lambda model, x: sample(model, x_T=x, steps=3)),
    "encode": ("x", lambda model, x: samplers.encode(model, x, steps=3)),
    "decode": ("z", lambda model, x: samplers.decode(model, x, steps=3)),
    "edit": ("x", lambda model, x: sdegen.edit(model, x, 0.5, steps=3)),
    "interpolate": ("x", lambda model, x: samplers.interpolate(model, x, x, torch.ones(1).double(), steps=3)[0]),
}


SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("door", GIVEN)
@pytest.mark.parametrize("full", [True, False], ids=["full", "diagonal"])
@pytest.mark.filterwarnings("ignore:a state reached")
@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=SHAPES, other=SHAPES, lifted=st.booleans())
@example((2,), (3,), False)
@example((2,), (2, 2), False)
@example((4,), (2, 2), False)
@example((1, 4, 4), (1, 2, 2), False)
def test_rows_are_shaped_like_the_data(
    door: str, full: bool, data: tuple[int, ...], other: tuple[int, ...], lifted: bool
) -> None:
    name, call = GIVEN[door]
    sde = sdegen.CLD() if lifted else sdegen.VP()
    model, n = sdegen.Model(AnySize(), sde), math.prod(data)
    variances = torch.ones(n, dtype=torch.float64)
    model.moments = sdegen.Moments(torch.zeros(data, dtype=torch.float64), variances.diag() if full else variances)
    image = len(data) > 1 and not full and len(data) == len(other) and data[0] == other[0]  # of other sides
    like_states = lifted and other[:1] == (2,)  # what that is another shape of, the other tests say
    states = torch.ones(3, *other, dtype=torch.float64)
    if other != data and not image and not like_states:
        said = rf"^{name} has shape {re.escape(str(tuple(states.shape)))}; the data have shape {re.escape(str(data))}: give rows"
        with pytest.raises(ValueError, match=said):
            call(model, states)
    start = torch.ones(3, *data, dtype=torch.float64)
    start = start if name == "x" or not lifted else sde.lift(start)
    result = call(model, start)
    assert result.shape[1:] == (data if door != "encode" or not lifted else (2, *data))


OF_CALLBACKS = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
IN_PLACE: dict[str, Callable[[Any], Any]] = {
    "zeroed": lambda x: x.zero_(),
    "a row": lambda x: x[0].fill_(3.0),
    "clipped": lambda x: x.clamp_(-1, 1),
    "a view": lambda x: x.view(-1).mul_(2),
    "past the count": lambda x: x.data.zero_(),
    "its array": lambda x: x.detach().numpy().fill(2.0),
    "detached": lambda x: x.detach()[-1].neg_(),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("change", IN_PLACE)
@pytest.mark.parametrize("step", [0, 2, 4])
def test_a_callback_that_changes_the_states_in_place_is_refused(change: str, step: int) -> None:
    model = OF_CALLBACKS

    def callback(i: int, t: Any, x: Any) -> None:
        if i == step:
            IN_PLACE[change](x)

    for mode in (torch.no_grad, torch.inference_mode):
        with mode(), pytest.raises(ValueError, match="callback changed the states in place"):
            sdegen.sample(model, 3, steps=5, seed=0, callback=callback)
    want = sdegen.sample(model, 3, steps=5, seed=0)
    times = sdegen.sample(model, 3, steps=5, seed=0, callback=lambda i, t, x: t.data.fill_(0.5))  # of a copy
    assert torch.equal(times, want)


@pytest.mark.parametrize("stream", ["none", "closed"])
def test_a_program_without_a_console_runs(stream: str, monkeypatch: Any) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", None if stream == "none" else closed)
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    assert sdegen.sample(model, 3, steps=2, seed=0).shape == (3, 2)


@pytest.mark.parametrize("n", [10**14, 10**15, 2**60])
def test_more_samples_than_memory_holds_are_refused_at_once(n: int) -> None:
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    with pytest.raises(MemoryError, match=f"n = {n} samples of 2 numbers do not fit into memory"):
        sdegen.sample(model, n, steps=2, seed=0)


def test_a_start_of_unit_noise_where_noise_is_larger_is_warned_of() -> None:
    """Of few numbers, zeros, states as large as noise, and a run that stays at one time nothing is said."""
    model, z = sdegen.Exact(sdegen.EDM(), RING), torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).double()
    with pytest.warns(
        UserWarning, match=r"^x_T has a root mean square of .*, and at t = 80, .* multiply standard normal noise"
    ):
        x = sample(model, x_T=z, steps=3, seed=0)
    assert x.std() < 2 < RING.sample(100, torch.Generator().manual_seed(0)).std()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for start in (80 * z, z[:3], 0 * z):
            sample(model, x_T=start, steps=3, seed=0), sample(model, x_T=start, steps=1, seed=0)
        sample(model, x_T=z, sampler=DDIM(2, grid=grids.Given(torch.tensor([1.0, 0.1]))), seed=0)
        sample(sdegen.Exact(sdegen.VP(), RING), x_T=z, steps=3, seed=0)
        sample(model, x_T=z, sampler=Langevin(3, t=10.0), seed=0)
        found = [sample(model, x_T=x, sampler=samplers.AnnealedLangevin(10), seed=0) for x in (z, 80 * z)]
    torch.testing.assert_close(*found, rtol=0, atol=0.1)  # the first level has forgotten where they began
