"""What a step of sampling costs beyond the network, counted and not timed: calls in the library, and operations on tensors."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

import sdegen
from sdegen import laws, models, recall, sample, samplers
from sdegen.samplers import ExponentialSDE, Multistep, PointMass
from sdegen.samplers.moves import Move, add_multiple, apply_move, multiply
from sdegen.samplers.runner import MANY

ROOT = str(Path(sdegen.__file__).parent)


class Echo(nn.Module):
    """A network without an operation: it returns its input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return x


def model_of(*shape: int) -> sdegen.Model:
    model, d = sdegen.Model(Echo(), sdegen.VP()), torch.Size(shape).numel()
    model.moments = sdegen.Moments(torch.linspace(-1, 1, d).reshape(shape), torch.linspace(0.5, 1.5, d))
    return model


def cost(shape: tuple[int, ...], steps: int, eta: float | None) -> tuple[int, int]:
    """Calls and operations of a run like one before."""
    model, x_T, calls = model_of(*shape), torch.ones(2, *shape), 0
    sampler = samplers.default(model, steps, eta)

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(ROOT)

    def run() -> None:
        sample(model, x_T=x_T, sampler=sampler, seed=0, progress=False)

    run()
    with profile(use_kineto=False) as operations:
        run()
    before = sys.getprofile()
    try:
        sys.setprofile(count)
        run()
    finally:
        sys.setprofile(before)
    return calls, sum(event.cpu_parent is None for event in operations.function_events)


MOST = {  # calls and operations of a step, and of the rest of a run
    "vectors": ((5,), None, (20, 10), (205, 35)),
    "images": ((3, 32, 32), None, (38, 11), (195, 39)),
    "images, no noise": ((3, 32, 32), 0.0, (20, 10), (205, 35)),
}


@pytest.mark.parametrize("kind", MOST)
def test_a_run_makes_few_calls_and_operations(kind: str) -> None:
    shape, eta, of_step, of_rest = MOST[kind]
    few, more = cost(shape, 20, eta), cost(shape, 24, eta)
    step = [(b - a) / 4 for a, b in zip(few, more, strict=True)]
    rest = [a - 20 * s for a, s in zip(few, step, strict=True)]
    assert all(0 < s <= most for s, most in zip(step, of_step, strict=True)), step
    assert all(0 < r <= most for r, most in zip(rest, of_rest, strict=True)), rest


def corrected(sampler: Multistep, model: sdegen.Model, times: Tensor, x: Tensor, noise: Any) -> list[Tensor]:
    """The states of a predictor–corrector as it is written down, every correction made by itself."""
    first, history, e, base, found = x, [], None, x, [x]
    for k, c in enumerate(sampler.updates(model, times).steps()):
        y, history = x, [c.pieces.evaluate(model, x, x, c.node), *history]
        if c.correct is not None:
            y = apply_move(c.correct, base, history)
            y = y if e is None else y + e
        base = first if c.restart else y
        x = apply_move(c.move, base, history)
        if c.fresh is not None:
            fresh = multiply(c.fresh.root, noise[k])
            e = add_multiple(fresh, c.fresh.carry, e) if c.restart and e is not None else fresh
            x = x + e
        found.append(x)
    return found


@pytest.mark.parametrize(
    "reference", [PointMass(), samplers.Normal(0.5), samplers.Matched()], ids=lambda r: type(r).__name__
)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_corrections_and_constants_merged_into_the_updates_change_nothing(
    order: int, eta: float, reference: Any
) -> None:
    model = model_of(1, 2, 2).double()
    sampler = (
        ExponentialSDE(7, None, order, eta, reference=reference, corrector=True)
        if eta
        else Multistep(7, None, order, reference, corrector=True)
    )
    times = sampler.times(model.sde, False)
    x, noise = torch.randn(4, 1, 2, 2, dtype=torch.float64), torch.randn(7, 4, 1, 2, 2, dtype=torch.float64)
    want = corrected(sampler, model, times, x, noise)
    state, drawn = None, iter(noise)
    for c, (before, after) in zip(sampler.plan(model, times), pairwise(want), strict=True):
        assert c.correct is None
        found, state = sampler.step(model, before, c, lambda x: next(drawn), state)
        assert torch.allclose(found, after, rtol=1e-10, atol=1e-12)


PARAMETRIZATIONS = {
    "EDM": models.EDMParametrization(),
    "noise": models.NoiseParametrization(),
    "data": models.DataParametrization(),
    "matched": models.MatchedParametrization(),
}
SOLVERS = {
    "Multistep": lambda around: Multistep(6, None, 3, around, corrector=True),
    "Multistep 4": lambda around: Multistep(6, None, 4, around),
    "Singlestep": lambda around: samplers.Singlestep(3, None, 3, around),
    "ExponentialSDE": lambda around: ExponentialSDE(6, None, 2, 0.7, reference=around),
}


@pytest.mark.parametrize("around", [PointMass(), samplers.Normal(0.5), samplers.Matched()], ids=str)
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_weights_that_hold_the_gain_of_a_network_change_no_sample(
    solver: str, parametrization: str, around: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(3).double()
    model.net = sdegen.nets.MLP(3, width=16).double()
    model.parametrization = PARAMETRIZATIONS[parametrization]
    sampler, x_T = SOLVERS[solver](around), torch.randn(4, 3, dtype=torch.float64)
    found = sample(model, x_T=x_T, sampler=sampler, seed=0)
    monkeypatch.setattr(sdegen.Model, "gain", lambda self, at: None)
    recall._kept.clear()
    torch.testing.assert_close(found, sample(model, x_T=x_T, sampler=sampler, seed=0), rtol=1e-9, atol=1e-11)


class Writing(nn.Module):
    """A network that doubles its input in place, from some call on."""

    def __init__(self, begin: int) -> None:
        super().__init__()
        self.weight, self.begin, self.calls = nn.Parameter(torch.ones(1)), begin, 0

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        self.calls += 1
        return x.mul_(2.0).tanh() if self.calls > self.begin else (x * 2.0).tanh()


def test_a_network_that_writes_into_its_input_changes_no_state() -> None:
    """At unit variance the input of the network is the state itself."""
    x_T = torch.randn(4, 5)
    kept, found = x_T.clone(), []
    for begin in (0, 100):
        model = model_of(5)
        model.net = Writing(begin)
        (question,) = model.ask(torch.tensor([0.5], dtype=torch.float64), velocity=laws.Scale(1.0))
        assert question.same
        found.append(sample(model, x_T=x_T, sampler=Multistep(5), seed=0))
        assert torch.equal(x_T, kept)
    assert torch.equal(*found)


def test_a_network_that_begins_to_write_is_refused() -> None:
    model = model_of(5)
    model.net = Writing(3)
    with pytest.raises(ValueError, match="changed its input in place"):
        sample(model, x_T=torch.randn(4, 5), sampler=Multistep(5), seed=0)


@pytest.mark.parametrize("weights", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("states", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shift", [True, False])
def test_an_update_is_its_formula_whether_its_numbers_are_at_hand_or_not(
    shift: bool, states: torch.dtype, weights: torch.dtype
) -> None:
    carry, b, *w = torch.linspace(-1, 1, 20).to(weights).reshape(5, 4)
    x, *q = torch.linspace(2, -3, 48).to(states).reshape(4, 3, 4)
    kept = [v.clone() for v in (x, *q)]
    found = apply_move(Move(torch.tensor(0.5), carry, b if shift else None, w), x, q)
    want = carry.double() * x + b.double() * shift + sum(v.double() * y for v, y in zip(w, q, strict=True))
    assert found.dtype == states
    assert (found - want).abs().max() <= 12 * torch.finfo(states).eps
    assert all(map(torch.equal, kept, (x, *q)))


@pytest.mark.parametrize("size", [MANY, MANY + 1])
def test_large_states_are_looked_at_half_as_often(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr("sdegen.samplers.runner._shown", lambda x: seen.append(x) or x)
    sample(model_of(1), x_T=torch.zeros(size, 1), sampler=Multistep(40), seed=0, final="sample")
    assert len(seen) == (9 if size <= MANY else 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_of_many_that_is_not_finite_is_seen(value: float) -> None:
    class Breaking(Echo):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            out = x.clone()
            out[-1, -1] = value
            return out

    model = model_of(5)
    model.net = Breaking()
    with pytest.raises(ValueError, match="non-finite in step 1"):
        sample(model, x_T=torch.randn(MANY, 5), sampler=Multistep(3), seed=0)
