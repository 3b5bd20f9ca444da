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
from sdegen import sample, samplers
from sdegen.samplers import ExponentialSDE, Multistep, PointMass
from sdegen.samplers.moves import add_multiple, apply_move, multiply

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
    "vectors": ((5,), None, (29, 20), (265, 25)),
    "images": ((3, 32, 32), None, (38, 16), (280, 40)),
    "images, no noise": ((3, 32, 32), 0.0, (29, 20), (265, 25)),
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
    for k, c in enumerate(sampler.updates(model, times)):
        y, history = x, [c.pieces.evaluate(model, x, x, c.node), *history]
        if c.correct is not None:
            y = apply_move(c.correct, base, history)
            y = y if e is None else y + e
        base = first if c.restart else y
        x = apply_move(c.move, base, history)
        if c.spread is not None:
            fresh = multiply(c.spread.root, noise[k])
            e = add_multiple(fresh, c.spread.carry, e) if c.restart and e is not None else fresh
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
