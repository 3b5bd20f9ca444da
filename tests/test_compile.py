"""A whole step compiles, network and all, into one graph for all steps of a run (docstring of `samplers.Sampler`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import guidance, measurements
from sdegen.laws.derivatives import Hutchinson
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


def of_derivatives() -> dict[str, Callable[[sdegen.Model], Any]]:
    """Whatever takes derivatives of a network by its states, by name."""
    linear, square = (
        measurements.Linear(torch.eye(2)[:1], 0.5),
        measurements.Nonlinear(lambda x: x[:, :1].square(), 0.5),
    )
    x, y = torch.linspace(-2, 2, 12).double().reshape(6, 2), torch.tensor([0.5])

    def draws() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    def drawn(guide: Callable[[sdegen.Model], Any]) -> Callable[[sdegen.Model], Tensor]:
        return lambda model: sdegen.sample(guide(model), 3, sampler=Heun(3), seed=0, y=y)

    return {
        "density": lambda model: sdegen.log_prob(model, x),
        "estimated density": lambda model: sdegen.log_prob(model, x, divergence=Hutchinson(3), generator=draws()),
        "sampled density": lambda model: sdegen.sample_with_log_prob(model, 3, seed=0)[1].value,
        "PiGDM": drawn(lambda model: guidance.PiGDM(model, linear)),
        "DPS": drawn(lambda model: guidance.DPS(model, square)),
        "MomentMatching": drawn(lambda model: guidance.MomentMatching(model, linear)),
        "KalmanUpdate": drawn(lambda model: guidance.KalmanUpdate(model, linear)),
        "density of PiGDM": lambda model: sdegen.log_prob(guidance.PiGDM(model, linear), x, y=y, steps=2, method="rk4"),
        "Implicit": lambda model: sdegen.losses.Implicit()(model, x, generator=draws()).detach(),
    }


@pytest.mark.parametrize("name", of_derivatives())
@pytest.mark.parametrize("net", ["MLP", pytest.param("CoordinateTransformer", marks=pytest.mark.slow)])
def test_a_compiled_network_has_the_derivatives_that_it_had(name: str, net: str) -> None:
    """The compiler may take no tensors of derivatives of functions: then they are of a recorded graph."""
    torch.manual_seed(0)
    eager = (
        sdegen.nets.MLP(2, width=16, depth=1)
        if net == "MLP"
        else sdegen.nets.CoordinateTransformer(2, width=16, depth=1)
    )
    torch.nn.init.normal_(eager.double().last.weight, std=0.2)
    models = [sdegen.Model(part, sdegen.VP()) for part in (eager, torch.compile(eager, backend="eager"))]
    for model in models:
        model.moments = sdegen.Moments(torch.zeros(2), torch.ones(2))
    right, found = (of_derivatives()[name](model) for model in models)
    torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6)
