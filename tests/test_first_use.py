"""What an object keeps is the same wherever it is first asked for: in a transformation of functions, in inference mode, with
another default device."""

from __future__ import annotations

import copy
import random
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


class Held:
    """An object that nothing looks into."""

    def __init__(self, rate: Tensor) -> None:
        self.kept = [{"rate": rate}]


# Where a coefficient has its rate from, where the process itself shows none of it.
HIDDEN: dict[str, Callable[[Tensor], Callable[[], Tensor]]] = {
    "closure": lambda rate: lambda: rate,
    "function in a closure": lambda rate: (lambda inner: lambda: 1.0 * inner())(lambda: rate),
    "default": lambda rate: lambda given=rate: given,
    "object": lambda rate: (lambda held: lambda: held.kept[0]["rate"])(Held(rate)),
}
ALONG: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "grad": lambda f, rate: torch.func.grad(f)(rate),
    "vjp": lambda f, rate: torch.func.vjp(f, rate)[1](torch.ones_like(rate))[0],
    "jvp": lambda f, rate: torch.func.jvp(f, (rate,), (torch.ones_like(rate),))[1],
    "jacfwd": lambda f, rate: torch.func.jacfwd(f)(rate),
}
NOISE = torch.tensor([[1.0, 0.3], [0.0, 0.8]], dtype=torch.float64)


def of_rate(process: str, rate: Callable[[], Tensor]) -> sdegen.LinearSDE:
    """Make a process whose coefficients read a rate."""

    class Scalar(sdegen.ScalarSDE):
        def f(self, t: Tensor) -> Tensor:
            return -rate() * t

        def g(self, t: Tensor) -> Tensor:
            return (1 + rate() * t).sqrt()

    class Schedule(sdegen.ScheduleSDE):
        def alpha(self, t: Tensor) -> Tensor:
            return (-rate() * t).exp()

        def sigma(self, t: Tensor) -> Tensor:
            return (-torch.expm1(-2 * rate() * t)).sqrt()

    class ByRates(sdegen.CoordinateSDE):
        def f(self, t: Tensor) -> Tensor:
            return -t[..., None] * rate() * RATES

        def g(self, t: Tensor) -> Tensor:
            return (1 + t[..., None] * RATES).sqrt()

    class Correlated(sdegen.CorrelatedSDE):
        def F(self, t: Tensor) -> Tensor:
            return -rate() * torch.eye(2, dtype=torch.float64)

        def G(self, t: Tensor) -> Tensor:
            return NOISE

    return {"scalar": Scalar, "schedule": Schedule, "coordinates": ByRates, "correlated": Correlated}[process]()


ASKED: dict[str, Callable[[sdegen.LinearSDE], Tensor]] = {
    "score": lambda sde: sdegen.Exact(sde, WIDE).score(torch.ones(1, 2, dtype=torch.float64), 0.4).sum(),
    "signal": lambda sde: sde.marginal(torch.tensor([0.4]).double()).Phi(torch.ones(1, 2).double()).sum(),
    "time": lambda sde: sde.time(torch.tensor(0.7, dtype=torch.float64)),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("process", ["scalar", "schedule", "coordinates", "correlated"])
def test_derivatives_by_what_a_coefficient_hides_are_right_or_refused(process: str, asked: str) -> None:
    """What is kept is computed outside of a transformation, which takes hidden tensors of it for constants."""
    draw = random.Random(f"{process} {asked}")
    rate, step = torch.tensor(draw.uniform(0.8, 3.0), dtype=torch.float64), 1e-4
    place, along = HIDDEN[draw.choice([*HIDDEN])], ALONG[draw.choice([*ALONG])]

    def value(rate: Tensor) -> Tensor:
        return ASKED[asked](of_rate(process, place(rate)))

    want = (value(rate + step) - value(rate - step)) / (2 * step)
    try:
        found = along(value, rate)
    except RuntimeError as failure:
        found, refused = None, str(failure)
    if found is None:
        assert "a tensor that torch.func transforms" in refused
    else:
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.thinned(3)
@pytest.mark.parametrize("process", ["scalar", "schedule", "coordinates", "correlated"])
@pytest.mark.parametrize("along", ["grad", "jvp", "jacfwd"])
def test_constants_that_are_made_within_a_transformation_are_constants(along: str, process: str) -> None:
    """There they are wrapped like what is transformed."""
    draw = random.Random(f"{process} {along}")
    rate, place = torch.tensor(draw.uniform(0.4, 1.5), dtype=torch.float64), HIDDEN[draw.choice([*HIDDEN])]
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)

    def value(x: Tensor, rate: Tensor) -> Tensor:
        return sdegen.Exact(of_rate(process, place(rate)), WIDE).score(x, 0.4).square().sum()

    outside = 2.0 * rate
    want = ALONG[along](lambda x: value(x, outside), x)
    assert want.abs().min() > 0
    torch.testing.assert_close(ALONG[along](lambda x: value(x, 2.0 * rate), x), want)


@pytest.mark.parametrize("along", ["grad", "vjp", "jvp"])
def test_an_attribute_is_seen(along: str) -> None:
    """What a refusal proposes."""

    class Own(sdegen.ScalarSDE):
        def __init__(self, rate: Tensor) -> None:
            self.rate = rate

        def f(self, t: Tensor) -> Tensor:
            return -self.rate * torch.ones_like(t)

        def g(self, t: Tensor) -> Tensor:
            return torch.ones_like(t)

    rate, t = torch.tensor(1.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    found = ALONG[along](lambda rate: Own(rate).alpha(t), rate)
    torch.testing.assert_close(found, -t * (-rate * t).exp())
