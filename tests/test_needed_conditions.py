"""Networks that cannot do without their condition are never asked without it: in every loss, run, likelihood and wrapper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_wrappers import SEVERAL, WRAPPERS
from torch import Tensor, nn

import sdegen
from sdegen import guidance, samplers, training
from sdegen.guidance.measured import GivenMeasurement
from sdegen.models import Conditioned
from sdegen.samplers import FlowMap
from sdegen.training import Lagrangian, Semigroup, Trajectories, trace
from sdegen.training.losses import Denoising, Hybrid, Implicit, InputPerturbation, Variational

X = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SEEN = torch.zeros(1, dtype=torch.float64)


class Needy(nn.Module):
    """A network whose condition `shift` has no default."""

    def __init__(self, out: int = 2) -> None:
        super().__init__()
        self.lines = nn.Linear(2, out, dtype=torch.float64)
        self.asked = 0

    def forward(self, x: Tensor, level: Tensor, shift: Tensor) -> Tensor:
        self.asked += 1
        return self.lines(x + shift)


class NeedyOfTwo(Needy):
    """One that is told of two times."""

    def forward(self, x: Tensor, level: Tensor, until: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, level, shift)


def model(kind: Any = sdegen.Model, net: nn.Module | None = None) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = kind(Needy() if net is None else net, sdegen.VP())
    made.moments = sdegen.Moments(torch.zeros(2), torch.eye(2))
    return made


def a_map() -> FlowMap:
    return model(FlowMap, NeedyOfTwo())


def learned() -> Any:
    return model(sdegen.LearnedVariance, Needy(4))


LOSSES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "denoising": (Denoising, model),
    "apart": (lambda: Denoising(pooled=False, antithetic=True), model),
    "perturbed": (InputPerturbation, model),
    "implicit": (Implicit, model),
    "weighted": (lambda: Denoising(training.weightings.SNRWeighting()), model),
    "hybrid": (lambda: Hybrid(steps=8), learned),
    "variational": (lambda: Variational(8), model),
    "lagrangian": (Lagrangian, a_map),
    "lagrangian of a teacher": (lambda: Lagrangian(model()), a_map),
    "semigroup": (Semigroup, a_map),
    "semigroup of a teacher": (lambda: Semigroup(model()), a_map),
    "trajectories": (lambda: Trajectories(model(), trace(model(), 6, between=1, seed=0, cond={"shift": X})), a_map),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_give_a_network_all_that_it_needs(name: str) -> None:
    loss, made = (make() for make in LOSSES[name])
    values = loss(made, X, torch.Generator().manual_seed(1), shift=X)
    assert values.shape == (6,) and values.isfinite().all()


RUNS: dict[str, Callable[[Any], Tensor]] = {
    "sample": lambda m: sdegen.sample(m, 6, steps=3, seed=0, shift=X),
    "ancestral": lambda m: sdegen.sample(m, 6, sampler=samplers.Ancestral(3), seed=0, shift=X),
    "heun": lambda m: sdegen.sample(m, 6, sampler=samplers.Heun(3), seed=0, shift=X),
    "predictor-corrector": lambda m: sdegen.sample(
        m, 6, sampler=samplers.PredictorCorrector(samplers.EulerMaruyama(3)), seed=0, shift=X
    ),
    "adaptive": lambda m: sdegen.sample(m, 6, sampler=samplers.AdaptiveSDE(rtol=0.5, atol=0.5), seed=0, shift=X),
    "flow": lambda m: sdegen.sample(m, 6, sampler=samplers.ProbabilityFlow(), seed=0, shift=X),
    "parallel": lambda m: sdegen.sample(m, 6, steps=3, seed=0, parallel=2, shift=X),
    "encode": lambda m: samplers.encode(m, X, sampler=samplers.Heun(3), shift=X),
    "edit": lambda m: samplers.edit(m, X, 0.3, sampler=samplers.Heun(3), seed=0, shift=X),
    "interpolate": lambda m: samplers.interpolate(m, X, X + 1, torch.tensor([0.3]), sampler=samplers.Heun(3), shift=X),
    "log-density": lambda m: sdegen.log_prob(m, X, shift=X),
    "bound": lambda m: sdegen.elbo(m, X, draws=4, shift=X),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs_give_a_network_all_that_it_needs(name: str) -> None:
    made = model()
    RUNS[name](made)
    assert made.net.asked


# Those that fix the condition, or ask without one beside.
OTHERWISE = {Conditioned, guidance.Without, guidance.ClassifierFree, guidance.APG, guidance.CFGPlusPlus}
OTHERWISE |= {guidance.CFGZeroStar, guidance.Rescaled, guidance.RescaledGuidance}
ALIKE = [kind for kind in WRAPPERS if kind not in OTHERWISE]
GIVEN: dict[type, dict[str, Any]] = {guidance.ClassifierGuidance: {"label": 1}}
GIVEN |= {kind: {"y": SEEN} for kind in ALIKE if issubclass(kind, GivenMeasurement)}


@pytest.mark.parametrize("reading", ["score", "denoise", "noise", "velocity", "estimate", "sample"])
@pytest.mark.parametrize("kind", ALIKE, ids=lambda kind: kind.__name__)
def test_wrappers_give_a_network_all_that_it_needs(kind: type, reading: str) -> None:
    made = model()
    wrapped = SEVERAL[kind](made, model()) if kind in SEVERAL else WRAPPERS[kind](made)
    given = {"shift": X, **GIVEN.get(kind, {})}
    if reading == "sample":
        sdegen.sample(wrapped, 6, steps=2, seed=0, **given)
    else:
        getattr(wrapped, reading)(X, 0.5, **given)
    assert made.net.asked
