"""What an object keeps is the same wherever it is first asked for: in a transformation of functions, in inference mode, with
another default device."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.laws import interpolation
from sdegen.processes.panels import panel_rule

WIDE = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([9.0]))
RATES = torch.tensor([5.0, 10.0], dtype=torch.float64)


class Plain(sdegen.ScalarSDE):
    def f(self, t: Tensor) -> Tensor:
        return -10 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t).sqrt()


class ByCoordinate(sdegen.CoordinateSDE):
    def f(self, t: Tensor) -> Tensor:
        return -t[..., None] * RATES

    def g(self, t: Tensor) -> Tensor:
        return (1 + t[..., None] * RATES).sqrt()


def within(context: Callable[[], Any]) -> Callable[[Callable[[Tensor], Tensor], Tensor], Any]:
    def call(f: Callable[[Tensor], Tensor], x: Tensor) -> Any:
        with context():
            return f(x)

    return call


FIRST: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "vjp": torch.func.vjp,
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "vmap": lambda f, x: torch.func.vmap(lambda row: f(row[None])[0])(x),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "inference": within(torch.inference_mode),
    "device": within(lambda: torch.device("meta")),
}
PROCESSES: dict[str, Callable[[], sdegen.LinearSDE]] = {
    "scalar": Plain,
    "coordinates": ByCoordinate,
    "schedule": sdegen.VP,
    "units": lambda: sdegen.VP().in_units(sdegen.Units(torch.zeros(2), torch.ones(2))),
}


def ask(sde: sdegen.LinearSDE, x: Tensor) -> Tensor:
    """Ask for most of what processes keep: tables, panels, roots, clocks."""
    clock = sde.t_min + sde.time(torch.tensor([1.0, 10.0], dtype=torch.float64)).sum()
    return sdegen.Exact(sde, WIDE).score(x, torch.tensor(0.3, dtype=torch.float64)) + clock


@pytest.mark.parametrize("first", FIRST)
@pytest.mark.parametrize("process", PROCESSES)
def test_processes_keep_no_trace_of_where_they_were_first_used(process: str, first: str) -> None:
    for kept in (interpolation.gauss, interpolation.rule):
        kept.cache_clear()
    sde, x = PROCESSES[process](), torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
    try:
        FIRST[first](lambda x: ask(sde, x), x)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):  # devices are mixed, and torch says so
        assert first == "device"
    copy.deepcopy(sde)
    slopes = []
    for own in (sde, PROCESSES[process]()):
        at = x.clone().requires_grad_()
        value = ask(own, at)
        value.square().sum().backward()
        slopes.append(torch.stack([value.detach(), at.grad]))
    assert torch.equal(*slopes)


@pytest.mark.parametrize("first", FIRST)
def test_nor_do_matrix_processes_and_rules_of_quadrature(first: str) -> None:
    rules = interpolation.gauss, interpolation.rule, panel_rule
    for rule in rules:
        rule.cache_clear()
    sde, t = sdegen.CLD(), torch.tensor([0.3, 0.4], dtype=torch.float64)

    def ask_all(t: Tensor) -> Tensor:
        return t * (sde.datum.matrix().sum() + sum(rule(7)[0].sum() for rule in rules))

    try:
        FIRST[first](ask_all, t)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        assert first == "device"
    copy.deepcopy([sde, *(rule(7) for rule in rules)])
    ask_all(t.requires_grad_()).sum().backward()
    assert torch.equal(t.grad, torch.full_like(t, ask_all(torch.ones_like(t))[0].item()))
