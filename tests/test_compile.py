"""A whole step compiles, network and all, into one graph for all steps of a run (docstring of `samplers.Sampler`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.laws.odes import TABLEAUS
from sdegen.samplers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    ExponentialSDE,
    Heun,
    Multistep,
    Normal,
    PointMass,
    ProbabilityFlow,
    ReverseDiffusion,
    Sampler,
    SecantSDE,
    Singlestep,
    transition_variance,
)

TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
pytestmark = pytest.mark.skipif(
    TORCH < (2, 11), reason="torch.compile before 2.11 does not follow a step's coefficients"
)

STEPS = 12  # more than the recompilations that torch allows
# The graphs of a run: one, and where a step remembers those before it one more for each that has fewer to remember.
DETERMINISTIC: dict[str, tuple[Callable[[], Sampler], int]] = {
    "DDIM": (lambda: DDIM(STEPS), 1),
    "Heun": (lambda: Heun(STEPS), 1),
    **{f"flow, {v}": (lambda v=v: ProbabilityFlow(STEPS, method=v), 1) for v in TABLEAUS},  # type: ignore[misc]
    **{f"Multistep {p}": (lambda p=p: Multistep(STEPS, order=p), p + 1) for p in (1, 2, 3, 4)},  # type: ignore[misc]
    "Multistep, point mass": (lambda: Multistep(STEPS, None, 2, PointMass()), 3),
    "Multistep, normal": (lambda: Multistep(STEPS, None, 3, Normal(), corrector=True), 4),
    **{f"Singlestep {p}": (lambda p=p: Singlestep(STEPS, order=p), 1) for p in (2, 3)},  # type: ignore[misc]
    "ExponentialSDE, eta 0": (lambda: ExponentialSDE(STEPS, eta=0.0), 3),
}
STOCHASTIC: dict[str, tuple[Callable[[], Sampler], int]] = {
    "DDIM, eta": (lambda: DDIM(STEPS, eta=0.5), 1),
    "Ancestral": (lambda: Ancestral(STEPS), 1),
    "Ancestral, large": (lambda: Ancestral(STEPS, variance=transition_variance), 1),
    "Euler–Maruyama": (lambda: EulerMaruyama(STEPS), 1),
    "ExponentialSDE": (lambda: ExponentialSDE(STEPS), 3),
    "SecantSDE": (lambda: SecantSDE(STEPS), 2),
    "ReverseDiffusion": (lambda: ReverseDiffusion(STEPS), 1),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No graphs of other tests."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


def network(sde: Any) -> sdegen.Model:
    """A small network in float32."""
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sde)
    model.moments = sdegen.data.gaussian_ring().moments()
    return model


def compiled(sampler: Sampler, backend: Any) -> Sampler:
    """As the docstring has it for samplers that draw no noise."""
    sampler.step = torch.compile(sampler.step, fullgraph=True, backend=backend)  # type: ignore[method-assign]
    return sampler


def compiled_but_noise(sampler: Sampler, backend: Any) -> Sampler:
    """As the docstring has it for samplers that draw noise."""
    step = sampler.step
    graph = torch.compile(
        lambda model, x, c, z, state: step(model, x, c, lambda _: z, state), fullgraph=True, backend=backend
    )
    sampler.step = lambda model, x, c, noise, state: graph(model, x, c, noise(x), state)  # type: ignore[method-assign]
    return sampler


def assert_same(model: sdegen.Model, sampler: Sampler, graphs: Sampler, **options: Any) -> None:
    eager, got = (sdegen.sample(model, 5, sampler=v, seed=0, progress=False, **options) for v in (sampler, graphs))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, eager, rtol=1e-5, atol=1e-5)


@pytest.mark.turns("Singlestep 2", "flow, heun3", "flow, heun2")
@pytest.mark.parametrize("case", DETERMINISTIC)
@pytest.mark.turns(
    "Multistep 2",
    "ExponentialSDE, eta 0",
    "Multistep 4",
    "Multistep, normal",
    "Multistep 3",
    "Multistep 1",
    "flow, rk4",
)
def test_a_step_is_one_graph(case: str) -> None:
    make, graphs = DETERMINISTIC[case]
    backend = Counting()
    assert_same(network(sdegen.VP()), make(), compiled(make(), backend))
    assert backend.graphs == graphs


@pytest.mark.turns("ExponentialSDE")
@pytest.mark.parametrize("case", STOCHASTIC)
def test_a_step_with_noise_from_outside_is_one_graph(case: str) -> None:
    make, graphs = STOCHASTIC[case]
    backend = Counting()
    assert_same(network(sdegen.VP()), make(), compiled_but_noise(make(), backend))
    assert backend.graphs == graphs


def test_noise_of_torch_may_be_in_the_graph() -> None:
    backend, model = Counting(), network(sdegen.VP())
    runs = []
    for sampler in (Ancestral(STEPS), compiled(Ancestral(STEPS), backend)):
        torch.manual_seed(3)
        runs.append(sdegen.sample(model, 5, sampler=sampler, seed=0, noise=lambda seed, first, times: torch.randn_like))
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-5, atol=1e-5)
    assert backend.graphs == 1


@pytest.mark.parametrize("sde", [sdegen.EDM(), sdegen.Cosine(), sdegen.Rectified()], ids=lambda v: type(v).__name__)
def test_graphs_are_no_matter_of_the_process(sde: Any) -> None:
    backend = Counting()
    assert_same(network(sde), DDIM(STEPS), compiled(DDIM(STEPS), backend))
    assert backend.graphs == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("make", [lambda: DDIM(STEPS), lambda: Multistep(STEPS, order=2)], ids=["DDIM", "Multistep"])
def test_a_compiled_kernel_gives_the_same_samples(make: Callable[[], Sampler]) -> None:
    assert_same(network(sdegen.VP()), make(), compiled(make(), "inductor"))
