"""What depends on values alone is computed once, and again when a value has changed; a second run plans nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import sample, samplers
from sdegen.recall import recall
from sdegen.samplers.exponential import Scalar


class Echo(nn.Module):
    """A network that answers with a part of its input."""

    def __init__(self, size: float = 0.5) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.tensor(size))

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        return self.size * x if label is None else -self.size * x


def model_of(*shape: int, size: float = 0.5, **options: Any) -> sdegen.Model:
    model = sdegen.Model(Echo(size), sdegen.VP(), **options)
    d = torch.Size(shape).numel()
    model.moments = sdegen.Moments(torch.linspace(-1, 1, d).reshape(shape), torch.linspace(0.5, 1.5, d))
    return model


class Counting:
    """Whatever is computed, and how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Tensor:
        self.times += 1
        return torch.ones(2)


VALUES: dict[str, tuple[Any, Any]] = {
    "number": (1.0, 2.0),
    "word": ("a", "b"),
    "tensor": (torch.ones(2), torch.zeros(2)),
    "shape": (torch.ones(2, 1), torch.ones(1, 2)),
    "dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
    "tuple": ((1, 2), (1, 3)),
    "grid": (sdegen.grids.Angle(scale=1.0), sdegen.grids.Angle(scale=2.0)),
    "class": (samplers.PointMass(), samplers.Unbounded()),
    "function": (samplers.share, samplers.angle),
    "process": (sdegen.VP(), sdegen.VP(beta_max=19)),
    "dictionary": ({"a": torch.ones(2)}, {"a": torch.zeros(2)}),
    "name in a dictionary": ({"a": 1.0}, {"b": 1.0}),
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_result_is_found_again_by_equal_values_and_no_others(kind: str) -> None:
    compute, (one, other) = Counting(), VALUES[kind]
    first = recall(compute, kind, one)
    assert recall(compute, kind, one) is first and compute.times == 1
    assert recall(compute, kind, other) is not first and compute.times == 2


def test_numbers_changed_in_place_are_seen() -> None:
    compute, numbers = Counting(), torch.ones(3)
    grid = sdegen.grids.Given(torch.tensor([1.0, 0.5, 0.1]))
    for change in (lambda: None, lambda: numbers.data.fill_(2.0), lambda: grid.times.mul_(0.5)):
        change()
        recall(compute, "in place", numbers, grid)
        recall(compute, "in place", numbers, grid)
    assert compute.times == 3


OPAQUE = {
    "network": Echo(),
    "what a user has written": Counting(),
    "function of a user": lambda phi: phi,
    "differentiated": torch.ones(2, requires_grad=True),
    "network in a dictionary": {"net": Echo()},
}


@pytest.mark.parametrize("kind", OPAQUE)
def test_of_what_cannot_be_looked_into_nothing_is_kept(kind: str) -> None:
    compute = Counting()
    for _ in range(2):
        recall(compute, kind, OPAQUE[kind])
    assert compute.times == 2


def test_a_result_that_holds_a_network_or_is_large_is_not_kept() -> None:
    for result in (Echo(), [samplers.Heun(2), Echo()], torch.empty(1).expand(2**22 + 1)):
        assert recall(lambda result=result: [result], "held") is not recall(lambda result=result: [result], "held")


RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "vectors": (partial(model_of, 2), {}),
    "few steps": (partial(model_of, 2), {"steps": 5}),
    "images": (partial(model_of, 1, 4, 4), {}),
    "labelled images": (partial(model_of, 1, 4, 4), {"label": torch.arange(3)}),
    "guided": (lambda: sdegen.guidance.ClassifierFree(model_of(2), 2.0), {"label": torch.arange(3)}),
    "DDIM": (partial(model_of, 2), {"sampler": samplers.DDIM(5)}),
    "to noise left in": (partial(model_of, 2), {"final": "sample"}),
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_second_run_computes_no_coefficient_and_draws_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, options = RUNS[kind]
    model = make()
    first = sample(model, 3, seed=0, **options)
    asked = []
    for place, name in ((sdegen.Model, "_coefficients"), (Scalar, "moves"), (sdegen.grids.Grid, "__call__")):
        method = getattr(place, name)
        spied = lambda *given, method=method, name=name, **more: (asked.append(name), method(*given, **more))[1]
        monkeypatch.setattr(place, name, spied)
    again = sample(model, 3, seed=0, **options)
    assert not asked and torch.equal(first, again)
    sample(model, 3, seed=0, **(options | ({"sampler": samplers.DDIM(6)} if kind == "DDIM" else {"steps": 7})))
    assert asked


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD()], ids=str)
def test_a_second_run_of_an_exact_model_plans_nothing(sde: sdegen.LinearSDE, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = sdegen.data.gaussian_ring()
    model = sdegen.Exact(sde, ring)
    sample(model, 3, steps=4, seed=0)  # measures what it remembers of the law
    first, planned = sample(model, 3, steps=4, seed=0), []
    plan = samplers.Multistep.updates
    monkeypatch.setattr(samplers.Multistep, "updates", lambda *given: (planned.append(given), plan(*given))[1])
    assert torch.equal(first, sample(model, 3, steps=4, seed=0)) and not planned
    sample(sdegen.Exact(sde, sdegen.data.gaussian_ring(radius=1.0)), 3, steps=4, seed=0)
    assert planned


def test_an_exact_model_follows_changes_of_its_law_and_moments() -> None:
    def run(model: sdegen.Exact) -> Tensor:
        return sample(model, 3, steps=4, seed=0)

    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    run(model)
    first = run(model)
    model.moments = sdegen.Moments(torch.zeros(2).double(), torch.eye(2).double())
    assert not torch.equal(first, run(model))
    other = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    other.moments = model.moments
    run(other)
    assert torch.equal(run(model), run(other))


def changed(model: sdegen.Model, what: str) -> sdegen.Model:
    """The same model after one change."""
    if what == "moments":
        model.moments = sdegen.Moments(model.moments.mean + 0.5, 2 * model.moments.covariance)
    elif what == "process":
        model.sde = sdegen.VP(beta_max=10)
    elif what == "parametrization":
        model.parametrization = sdegen.models.NoiseParametrization()
    elif what == "end":
        model.end = 0.1
    elif what == "dtype":
        model.double()
    elif what == "weights":
        model.net.size.data.fill_(0.25)
    return model


@pytest.mark.parametrize("what", ["moments", "process", "parametrization", "end", "dtype", "weights"])
def test_a_run_follows_every_change_of_the_model(what: str) -> None:
    model, x_T = model_of(2), torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    before = sample(model, x_T=x_T, steps=6, seed=0)
    x_T = x_T.double() if what == "dtype" else x_T
    after = sample(changed(model, what), x_T=x_T, steps=6, seed=0)
    fresh = sample(changed(model_of(2), what), x_T=x_T, steps=6, seed=0)
    assert torch.allclose(after, fresh, rtol=1e-6) and not torch.equal(before.to(after), after)


def test_models_of_one_kind_share_a_plan_and_not_their_weights() -> None:
    x_T = torch.ones(1, 2)
    one, other = (sample(model_of(2, size=size), x_T=x_T, steps=6) for size in (0.5, 0.25))
    assert not torch.allclose(one, other)


def test_derivatives_are_taken_through_a_plan_made_without_them() -> None:
    model, x_T = model_of(2), torch.ones(1, 2, requires_grad=True)
    with torch.inference_mode():
        sample(model, x_T=torch.ones(1, 2), steps=6)
    sample(model, x_T=x_T, steps=6, grad=True).sum().backward()
    assert x_T.grad is not None and x_T.grad.abs().min() > 0


def test_a_guided_run_follows_its_scale() -> None:
    model, x_T = model_of(2), torch.ones(1, 2)
    guided = sdegen.guidance.ClassifierFree(model, 2.0)
    one = sample(guided, x_T=x_T, steps=6, label=torch.zeros(1))
    guided.interval = (0.0, 0.5)
    weaker = sample(guided, x_T=x_T, steps=6, label=torch.zeros(1))
    fresh = sample(
        sdegen.guidance.ClassifierFree(model, 2.0, interval=(0.0, 0.5)), x_T=x_T, steps=6, label=torch.zeros(1)
    )
    assert torch.equal(weaker, fresh) and not torch.equal(one, weaker)


def test_a_function_that_holds_what_may_change_is_asked_again() -> None:
    held, compute = [1.0], Counting()
    written = lambda phi: phi * held[0]
    written.__module__ = "sdegen.made"  # as if by the library
    for value in (1.0, 2.0):
        held[0] = value
        recall(compute, "closure", written)
    assert compute.times == 2


class Anisotropic(sdegen.CoordinateSDE):
    def __init__(self) -> None:
        self.rates = torch.tensor([4.0, 8.0], dtype=torch.float64)

    def f(self, t: Tensor) -> Tensor:
        return -self.rates * torch.ones_like(t)[..., None]

    def g(self, t: Tensor) -> Tensor:
        return (2 * self.rates).sqrt() * torch.ones_like(t)[..., None]


@pytest.mark.parametrize("make", [pytest.param(sdegen.processes.LearnedSchedule, marks=pytest.mark.slow), Anisotropic])
def test_a_plan_follows_the_numbers_of_a_process(make: Any) -> None:
    """Of its weights, and of attributes that are changed in place."""

    def change(sde: Any) -> None:
        for v in sde.parameters() if isinstance(sde, nn.Module) else [sde.rates]:
            v.data.mul_(1.3)

    x_T, sampler, ring = torch.ones(2, 2, dtype=torch.float64), samplers.DDIM(3), sdegen.data.gaussian_ring()
    sde, fresh = make(), make()
    model = sdegen.Exact(sde, ring)
    before = sample(model, x_T=x_T, sampler=sampler)
    change(sde), change(fresh)
    after = sample(model, x_T=x_T, sampler=sampler)
    assert torch.allclose(after, sample(sdegen.Exact(fresh, ring), x_T=x_T, sampler=sampler), rtol=1e-9)
    assert not torch.allclose(before, after, rtol=1e-6)
    net = sdegen.Model(model_of(2).net, sde).double()
    net.moments = ring.moments()
    before = sample(net, x_T=x_T, sampler=sampler)  # whose plans are kept
    change(sde)
    after = sample(net, x_T=x_T, sampler=sampler)
    assert not torch.allclose(before, after, rtol=1e-6)
