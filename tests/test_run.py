"""The loop of `sample`: chunks, callbacks and errors; and data encoded as noise and back."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

import sdegen
from sdegen import grids, sample, samplers
from sdegen.samplers import (
    DDIM,
    Ancestral,
    Encoded,
    EulerMaruyama,
    Heun,
    Langevin,
    Multistep,
    PointMass,
    PredictorCorrector,
    ProbabilityFlow,
    Singlestep,
    Unbounded,
    decode,
    encode,
    encode_with_error,
    interpolate,
    log_ratio,
    slerp,
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


@pytest.fixture
def net(device: torch.device, dtype: torch.dtype) -> sdegen.Model:
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).to(device, dtype)
    for p in model.parameters():  # a last layer that starts at zero would hide everything
        nn.init.normal_(p, std=0.3)
    model.moments = RING.moments()
    return model


class Labelled(nn.Module):
    """A net that answers with its conditions, of which it keeps a record."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Any) -> Tensor:
        self.seen.append(cond)
        label = cond["label"]
        return 0.1 * x + (label[:, None] if label.ndim else label)


# --- chunks ----------------------------------------------------------------------------------------------------------


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
    assert set(rows) == {3, 1} and rows == sorted(rows, reverse=True)
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
    with pytest.raises(ValueError, match=rf"^batch = {batch}; .* at least 1, or None"):
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
    with pytest.raises(ValueError, match=rf"^part = {re.escape(str(part))}; give \(rank, number\), whole numbers"):
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

    class Watched(samplers.run.tqdm):  # type: ignore[misc, name-defined]
        def close(self) -> None:
            if hasattr(self, "n"):
                totals.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(samplers.run, "tqdm", Watched)
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


# --- encoding ---------------------------------------------------------------------------------------------------------

PROCESSES = [sdegen.VP(), sdegen.EDM(), sdegen.Rectified(), sdegen.VE(), sdegen.CLD()]


@pytest.fixture(scope="module")
def ring() -> Tensor:
    return RING.sample(400, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda s: type(s).__name__)
def test_encoding_inverts_and_gives_the_law_at_T(sde: sdegen.LinearSDE, ring: Tensor) -> None:
    model = sdegen.Exact(sde, RING)
    encoded = encode_with_error(model, ring, seed=0)
    assert isinstance(encoded, Encoded) and encoded.error.shape == (400,)
    assert encoded.error.max() < (1e-5 if len(sde.e) == 1 else 1e-4)
    back = decode(model, encoded.z)
    torch.testing.assert_close(back, ring, rtol=0, atol=2e-5 if len(sde.e) == 1 else 2e-4)
    torch.testing.assert_close((back - ring).square().mean(1).sqrt(), encoded.error, rtol=1e-9, atol=1e-12)
    mean, covariance = sde.prior(RING.moments()).moments()
    gap = encoded.z.reshape(400, -1) - mean.reshape(-1)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), gap.T, upper=False)
    for row in white:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(white.square().sum(0).numpy(), stats.chi2(len(white)).cdf).pvalue > 1e-3


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda s: type(s).__name__)
def test_error_of_the_round_trip_falls_with_the_steps(sde: sdegen.LinearSDE, ring: Tensor) -> None:
    model = sdegen.Exact(sde, RING)
    errors = []
    for steps in (100, 200):
        found = encode_with_error(model, ring[:50], steps=steps, seed=0)
        assert isinstance(found, Encoded)
        errors.append(found.error.square().mean().sqrt().item())
    assert errors[1] < 0.3 * errors[0] < 0.3 * 0.5


@pytest.mark.parametrize(
    "sampler",
    [
        DDIM(400),
        Heun(100),
        ProbabilityFlow(100, method="rk4"),
        EulerMaruyama(800, grids.Quadratic(), eta=0.0),
        Multistep(60),
        Singlestep(30),
        Singlestep(40, order=2),
        Singlestep(40, reference=PointMass()),
        Singlestep(40, reference=Unbounded(), clock=log_ratio),
    ],
    ids=lambda s: type(s).__name__,
)
def test_any_deterministic_sampler_encodes_as_the_flow_does(sampler: samplers.Sampler, ring: Tensor) -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    first, second = (encode(model, ring[:50], sampler=s) for s in (ProbabilityFlow(), sampler))
    assert (first - second).norm(dim=1).median() < 0.02


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("sde", PROCESSES[:4], ids=lambda s: type(s).__name__)
def test_single_steps_go_there_and_back_at_their_order(sde: sdegen.LinearSDE, order: int, ring: Tensor) -> None:
    model = sdegen.Exact(sde, RING)
    errors = []
    for steps in (40, 80):
        found = encode_with_error(model, ring[:50], sampler=Singlestep(steps, order=order), seed=0)
        assert isinstance(found, Encoded)
        errors.append(found.error.square().mean().sqrt().item())
    rate = math.log2(errors[0] / errors[1])
    assert order - 0.4 < rate < order + 1.3, (rate, errors)


def batches(steps: int) -> dict[str, samplers.Sampler]:
    grid = grids.Angle(end=0.0)
    return {
        "heun": Heun(steps, grid),
        "ddim": DDIM(steps, grid),
        "multistep": Multistep(steps, grid),
        "single step": Singlestep(steps, grid),
        "adaptive": ProbabilityFlow(grid=grid, rtol=1e-6, atol=1e-6),
    }


@pytest.mark.parametrize("name", batches(1))
def test_encoding_and_decoding_do_not_depend_on_the_batch(name: str, ring: Tensor) -> None:
    model, sampler = sdegen.Exact(sdegen.VP(), RING), batches(8)[name]
    close = {"rtol": 1e-9, "atol": 1e-9} if name != "adaptive" else {"rtol": 1e-4, "atol": 1e-4}
    whole = encode_with_error(model, ring[:11], sampler=sampler)
    assert isinstance(whole, Encoded)
    back = decode(model, whole.z, sampler=sampler)
    for batch in (1, 4, 50) if name != "adaptive" else (4,):
        cut = encode_with_error(model, ring[:11], sampler=sampler, batch=batch)
        for a, b in zip(cut, whole, strict=True):
            torch.testing.assert_close(a, b, **close)
        torch.testing.assert_close(decode(model, whole.z, sampler=sampler, batch=batch), back, **close)


def test_batches_of_a_lifted_state_and_of_an_interpolation(ring: Tensor) -> None:
    model, sampler = sdegen.Exact(sdegen.CLD(), RING), ProbabilityFlow(20, grids.Uniform(end=0.0), method="rk4")
    whole, cut = (encode(model, ring[:7], sampler=sampler, seed=0, batch=batch) for batch in (None, 3))
    assert whole.shape == (7, 2, 2)  # type: ignore[union-attr]
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)
    model, x, y = sdegen.Exact(sdegen.VP(), RING), ring[:3], ring[3:6]
    whole, cut = (
        interpolate(model, x, y, torch.linspace(0, 1, 4), sampler=Heun(10), seed=0, batch=batch) for batch in (None, 5)
    )
    torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [Heun(3), DDIM(3)], ids=lambda s: type(s).__name__)
def test_conditions_of_encoded_data_are_cut_along(sampler: samplers.Sampler, ring: Tensor) -> None:
    # Heun's plan holds the model, and with it the conditions.
    net = Labelled()
    model = sdegen.Model(net, sdegen.VP()).double()
    cond = {"label": torch.linspace(-1, 1, 7, dtype=torch.float64), "scale": torch.ones(3), "name": "digits"}
    for way in (encode, decode):
        whole = way(model, ring[:7], sampler=sampler, **cond)
        net.seen.clear()
        cut = way(model, ring[:7], sampler=sampler, batch=3, **cond)
        torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-9)
        rows = [len(c["label"]) for c in net.seen]
        assert set(rows) == {3, 1} and rows == sorted(rows, reverse=True)
        assert all(c["scale"] is cond["scale"] and c["name"] == "digits" for c in net.seen)
    between = lambda batch: interpolate(
        model, ring[:3], ring[3:6], torch.linspace(0, 1, 4), sampler=sampler, batch=batch, label=cond["label"][:3]
    )
    whole = between(None)
    assert max(len(c["label"]) for c in net.seen) == 12
    net.seen.clear()
    torch.testing.assert_close(between(5), whole, rtol=1e-9, atol=1e-9)
    assert max(len(c["label"]) for c in net.seen) == 5


def test_one_bar_for_each_way_over_all_chunks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ring: Tensor
) -> None:
    totals = []

    class Watched(tqdm):  # type: ignore[type-arg]
        def close(self) -> None:
            if hasattr(self, "n"):
                totals.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(sys.modules["sdegen.samplers.encode"], "tqdm", Watched)
    encode_with_error(sdegen.Exact(sdegen.VP(), RING), ring[:5], steps=4, batch=2, progress=True)
    assert totals[0] == (12, 12) and set(totals) == {(12, 12)}
    assert "Heun" in capsys.readouterr().err
    encode(sdegen.Exact(sdegen.VP(), RING), ring[:5], steps=4, batch=2)
    assert not capsys.readouterr().err


def test_coordinates_of_the_data_come_back_from_a_lifted_state(ring: Tensor) -> None:
    model = sdegen.Exact(sdegen.CLD(), RING)
    first, second, other = (encode(model, ring[:5], seed=seed) for seed in (0, 0, 1))
    assert first.shape == (5, 2, 2) and torch.equal(first, second) and not torch.allclose(first, other, atol=0.1)
    torch.testing.assert_close(decode(model, other), ring[:5], rtol=0, atol=1e-4)


def test_encoding_a_network_with_conditions_in_its_dtype(device: torch.device, dtype: torch.dtype) -> None:
    model = sdegen.Model(Labelled(), sdegen.VP()).to(device, dtype)
    x = RING.sample(4, torch.Generator().manual_seed(0)).to(device, dtype)
    label = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=dtype, device=device)
    found = encode_with_error(model, x, label=label)
    assert isinstance(found, Encoded) and found.z.dtype == dtype and found.z.device.type == device.type
    assert found.error.max() < (1e-5 if dtype == torch.float64 else 1e-3)
    assert not torch.allclose(found.z, encode(model, x, label=label.flip(0)), atol=0.1)


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.OU(), sdegen.CLD()], ids=lambda s: type(s).__name__)
def test_interpolation_goes_from_x_to_y_through_the_data(sde: sdegen.LinearSDE, ring: Tensor) -> None:
    model = sdegen.Exact(sde, RING)
    x, y = ring[:10], ring[10:20]
    between = interpolate(model, x, y, torch.linspace(0, 1, 5), seed=0)
    assert between.shape == (5, 10, 2)
    torch.testing.assert_close(between[0], x, rtol=0, atol=1e-4)
    torch.testing.assert_close(between[4], y, rtol=0, atol=1e-4)
    turned = interpolate(model, y, x, torch.tensor([0.75]), seed=0)
    torch.testing.assert_close(turned[0], between[1], rtol=0, atol=1e-3)
    # Not the straight line: points on the way stay where the data are.
    line = 0.5 * (x + y)
    assert RING.log_prob(between[2]).mean() > RING.log_prob(line).mean() + 1


def test_arcs_keep_the_law_of_the_prior_about_its_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(300, 500, dtype=torch.float64, generator=generator) for _ in range(2))
    for w in (0.0, 0.25, 0.5, 1.0):
        z = slerp(x, y, w)
        assert abs(z.square().mean() - 1) < 0.02  # a straight line would have half of it in the middle
    assert torch.allclose(slerp(x, y, 0.0), x, rtol=1e-12) and torch.allclose(slerp(x, y, 1.0), y, rtol=1e-12)
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    torch.testing.assert_close(slerp(a, b, 1 / 3), torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]]))
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    assert slerp(a, torch.tensor([[-3.0, 0.01]]), 0.5).norm() == pytest.approx(2, rel=1e-3)  # no farther than the ends
    torch.testing.assert_close(slerp(a, a + 1e-9, 0.3), a, rtol=0, atol=1e-7)


def test_arc_is_about_the_mean_of_the_prior() -> None:
    # Far from 0 two points look alike: only about its mean does the middle of them have the law of the data.
    far = torch.tensor([[100.0, 0.0]], dtype=torch.float64)
    law = sdegen.GaussianMixture(torch.ones(1, dtype=torch.float64), far, torch.ones(1, dtype=torch.float64))
    model = sdegen.Exact(sdegen.OU(T=1.0), law)
    x, y = far + torch.tensor([[1.0, 0.0]]), far + torch.tensor([[0.0, 1.0]])
    middle = interpolate(model, x, y, torch.tensor([0.5]))[0] - far
    torch.testing.assert_close(middle, torch.full((1, 2), 0.5**0.5, dtype=torch.float64), rtol=0, atol=1e-4)


EXACT = sdegen.Exact(sdegen.VP(), RING)
HERE = torch.tensor([[4.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "noise": (
        lambda: encode(EXACT, HERE, sampler=Ancestral(3)),
        ValueError,
        r"^Ancestral does not run .* DDIM\(eta=0\)",
    ),
    "noise backwards": (
        lambda: encode(EXACT, HERE, sampler=Langevin(3)),
        ValueError,
        r"^Langevin draws noise.*DDIM\(eta=0\)",
    ),
    "infinite": (
        lambda: decode(sdegen.Exact(sdegen.Rectified(), RING), HERE, sampler=EulerMaruyama(3, eta=0.0)),
        ValueError,
        r"is infinite at t = 1; start the grid",
    ),
    "noise decoding": (
        lambda: decode(EXACT, HERE, sampler=EulerMaruyama(3)),
        ValueError,
        r"^EulerMaruyama draws noise",
    ),
    "both": (lambda: encode(EXACT, HERE, steps=3, sampler=Heun(3)), ValueError, r"^steps = 3 and a sampler"),
    "integers": (lambda: encode(EXACT, HERE.long()), TypeError, r"^x has dtype torch.int64"),
    "NaN": (lambda: decode(EXACT, HERE * math.nan), ValueError, r"^z holds NaN"),
    "shapes": (
        lambda: interpolate(EXACT, HERE, HERE[:1], torch.ones(1)),
        ValueError,
        r"^x has shape \(2, 2\) and y \(1, 2\)",
    ),
    "weights": (lambda: interpolate(EXACT, HERE, HERE, torch.ones(1, 1)), ValueError, r"^weights has shape \(1, 1\)"),
    "opposite": (lambda: slerp(HERE, -HERE, 0.5), ValueError, r"^rows 0 of x and y lie opposite"),
    "no density at 0": (
        lambda: encode(sdegen.Exact(sdegen.VP(), sdegen.Empirical(HERE)), HERE),
        ValueError,
        r"sigma = 0",
    ),
    "steps": (lambda: encode(EXACT, HERE, steps=0), ValueError, r"^steps = 0"),
    "batch": (lambda: encode(EXACT, HERE, batch=0), ValueError, r"^batch = 0; .* at least 1, or None"),
    "batch decoding": (lambda: decode(EXACT, HERE, batch=2.5), ValueError, r"^batch = 2.5"),  # type: ignore[arg-type]
    "a point mass at 0": (
        lambda: encode(EXACT, HERE, sampler=Singlestep(3, grids.Angle(end=0.0), reference=PointMass())),
        ValueError,
        r"^Singlestep does not run from data at t = 0 to noise; give .* end its grid at a later time",
    ),
    "a singular matrix at 0": (
        lambda: encode(sdegen.Exact(sdegen.CLD(), RING), HERE, sampler=Singlestep(3, grids.Angle(end=0.0))),
        ValueError,
        r"^Singlestep does not run from data at t = 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_encoded_is_refused(case: str) -> None:
    call, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        call()


# --- where the default sampler ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("known", [True, False])
def test_the_default_ends_where_the_model_says_with_the_posterior_mean(sde: Any, known: bool) -> None:
    """Of N(0, v) under VP: the variance of ``E[x_0 | x_end]`` is ``alpha² v² / (alpha² v + sigma²)``; with no end it is v."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.25))
    n, end = 4000, 0.3
    model = sdegen.Exact(sde, law)
    prior = sde.prior(model.moments)
    if not known:
        model.moments = None
    x_T = prior.sample(n, torch.Generator().manual_seed(0))
    at = sde.observe(torch.zeros(1, len(sde.e)), torch.tensor(end))
    c, s = at.c.square().item(), at.s.square().item()
    for stop, variance in ((None, 0.25), (end, c * 0.25**2 / (c * 0.25 + s))):
        model.end = stop
        x = sde.project(sample(model, x_T=x_T, steps=40))
        assert abs(x.var().item() / variance - 1) < 4 * (1 / n) ** 0.5 + 0.01


def test_what_is_around_a_model_ends_with_it(tmp_path: Any) -> None:
    net = sdegen.nets.UNet.small(1, 8, 3)
    model = sdegen.Model(net, sdegen.VP(), end=0.05)
    model.moments = sdegen.Moments(torch.zeros(1, 8, 8), torch.ones(64))
    for around in (model, sdegen.guidance.ClassifierFree(model, 2.0), sdegen.Conditioned(model, label=torch.tensor(1))):
        grid = samplers.default(around, 10).grid
        assert grid is not None and grid.end == 0.05
    sdegen.save(model, tmp_path / "model.safetensors")
    assert sdegen.load(tmp_path / "model.safetensors").end == 0.05
    with pytest.raises(ValueError, match=r"end = 1\.0; give a time from 0 to before T = 1"):
        sdegen.Model(net, sdegen.VP(), end=1.0)


# --- where it puts noise back ----------------------------------------------------------------------------------------


def test_noise_is_put_back_where_a_network_draws_images() -> None:
    model = sdegen.Model(sdegen.nets.UNet.small(1, 8, 3), sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(1, 8, 8), torch.ones(64))
    label = torch.tensor(1)
    for around in (model, sdegen.guidance.ClassifierFree(model, 2.0), sdegen.Conditioned(model, label=label)):
        noisy = samplers.default(around, 6)
        assert isinstance(noisy, samplers.ExponentialSDE) and noisy.eta == 0.8
        assert all(
            isinstance(samplers.default(around, n, eta), samplers.Multistep) for n, eta in ((5, None), (10, 0.0))
        )
    vectors = sdegen.Model(sdegen.nets.MLP(2), sdegen.VP())
    vectors.moments = RING.moments()
    known = sdegen.Exact(
        sdegen.VP(), sdegen.Empirical(torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    )
    for plain in (vectors, known):
        assert isinstance(samplers.default(plain, 10), samplers.Multistep)
        noisy = samplers.default(plain, 10, eta=0.5)
        assert isinstance(noisy, samplers.ExponentialSDE) and noisy.eta == 0.5
        assert noisy.grid.scale == samplers.default(plain, 20).grid.scale  # type: ignore[union-attr]


@pytest.mark.parametrize("sde", [sdegen.CLD(), sdegen.DoubleWell()])
def test_noise_is_refused_where_the_default_has_none(sde: Any) -> None:
    model = sdegen.Model(sdegen.nets.MLP(2 * len(sde.e)), sde) if sde.is_linear else _Nowhere(sde)
    assert samplers.default(model, 10, eta=0.0).steps == 10
    with pytest.raises(ValueError, match="adds no noise there"):
        samplers.default(model, 10, eta=0.5)


class _Nowhere(sdegen.ScoreModel):
    def __init__(self, sde: Any) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        return torch.zeros_like(x)


@pytest.mark.parametrize("eta", [0.0, 0.8, 1.0])
def test_noise_bounds_what_an_error_of_the_score_adds_up_to(eta: float) -> None:
    """With ``c`` times the score of a standard normal, ``V' = −beta (((1 + eta²) c − 1) V − eta²)`` on the way back.

    Without noise the variance at the end is ``exp(−(c − 1) B)``, the worse the longer the way, ``B = ∫ beta``; with noise it
    is near ``eta² / ((1 + eta²) c − 1)``, whatever the way.
    """
    c, n, sde = 1.1, 40_000, sdegen.VP()
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    model = sdegen.guidance.EpsilonScaling(sdegen.Exact(sde, law), 1 / c)
    sampler = samplers.ExponentialSDE(300, eta=eta)
    x = sample(model, n, sampler=sampler, final="sample", seed=0)
    last = sampler.times(sde, False)
    B = -2 * sde.transition(last[-1], last[0]).Phi.matrix().log().item()
    rate = (1 + eta**2) * c - 1
    V = eta**2 / rate + (1 - eta**2 / rate) * math.exp(-rate * B)
    assert x.var().item() == pytest.approx(V, rel=4 * (2 / n) ** 0.5 + 0.01)
