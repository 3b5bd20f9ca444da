"""Encoding and decoding: there and back along the probability flow, and between two data."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from labelled import Labelled
from scipy import stats
from torch import Tensor
from tqdm import tqdm

import sdegen
from sdegen import grids, samplers
from sdegen.samplers import (
    DDIM,
    Ancestral,
    Encoded,
    EulerMaruyama,
    Heun,
    Langevin,
    Multistep,
    PointMass,
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


PROCESSES = [sdegen.VP(), sdegen.EDM(), sdegen.Rectified(), sdegen.VE(), sdegen.CLD()]


@pytest.fixture(scope="module")
def ring() -> Tensor:
    return RING.sample(400, torch.Generator().manual_seed(0))


@pytest.mark.turns("EDM", "VE", "Rectified")
@pytest.mark.parametrize("sde", PROCESSES, ids=lambda s: type(s).__name__)
@pytest.mark.turns("CLD")
def test_encoding_inverts_and_gives_the_law_at_T(sde: sdegen.LinearSDE, ring: Tensor) -> None:
    model = sdegen.Exact(sde, RING)
    encoded = encode_with_error(model, ring, seed=0)
    assert isinstance(encoded, Encoded) and encoded.error.shape == (400,)
    assert encoded.error.max() < (1e-5 if sde.is_scalar else 1e-4)
    back = decode(model, encoded.z)
    torch.testing.assert_close(back, ring, rtol=0, atol=2e-5 if sde.is_scalar else 2e-4)
    torch.testing.assert_close((back - ring).square().mean(1).sqrt(), encoded.error, rtol=1e-9, atol=1e-12)
    mean, covariance = sde.prior(RING.moments()).moments()
    gap = encoded.z.reshape(400, -1) - mean.reshape(-1)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), gap.T, upper=False)
    for row in white:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(white.square().sum(0).numpy(), stats.chi2(len(white)).cdf).pvalue > 1e-3


@pytest.mark.turns("EDM", "VP", "VE")
@pytest.mark.parametrize("sde", PROCESSES, ids=lambda s: type(s).__name__)
@pytest.mark.turns("CLD")
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


@pytest.mark.thinned(2)
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


@pytest.mark.turns("adaptive")
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
        rows = [len(c["label"]) for c in net.seen]  # no chunk is as long as the scale that all share
        assert set(rows) == {2, 1} and rows == sorted(rows, reverse=True)
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

    monkeypatch.setattr(sys.modules["sdegen.progress"], "tqdm", Watched)
    encode_with_error(sdegen.Exact(sdegen.VP(), RING), ring[:5], steps=4, batch=2, progress=True)
    assert totals[0] == (12, 12) and set(totals) == {(12, 12)}
    assert "Heun" in capsys.readouterr().err
    encode(sdegen.Exact(sdegen.VP(), RING), ring[:5], steps=4, batch=2)
    assert not capsys.readouterr().err


@pytest.mark.slow
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


@pytest.mark.turns("OU")
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.OU(), sdegen.CLD()], ids=lambda s: type(s).__name__)
@pytest.mark.turns("CLD")
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
    "one opposite": (
        lambda: slerp(torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, -1.0]]), 0.5),
        ValueError,
        r"^rows 1 of x and y lie opposite",
    ),
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


def test_a_state_that_turns_non_finite_on_the_way_is_named_by_its_time() -> None:
    class Broken(sdegen.ScoreModel):
        sde, moments = sdegen.VP(), RING.moments()

        def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
            return torch.where(torch.as_tensor(t) > 0.45, math.nan, -1.0).to(x) * x

    there, back = r"non-finite in step 5 of 10, from t = 0\.4", r"non-finite in step 1 of 10, from t = 1;"
    for way, says in ((encode, there), (decode, back)):
        with pytest.raises(ValueError, match=says):
            way(Broken(), HERE, sampler=Heun(10, grids.Uniform(end=0.0)))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_encoded_is_refused(case: str) -> None:
    call, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        call()
