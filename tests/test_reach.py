"""Runs whose states go where the process brings no data are told of, whatever carries them; wide data and far starts are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen import grids, guidance, sample, samplers
from sdegen.samplers import DDIM, EulerMaruyama, Heun, Langevin, Multistep, ProbabilityFlow

RING = sdegen.data.gaussian_ring()
TOLD = r"a state reached [\d.e+]+ at t = [\d.e-]+, where data and noise have a root mean square of"

SAMPLERS: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "ddim": lambda: DDIM(8),
    "ddim, eta 1": lambda: DDIM(8, eta=1.0),
    "ancestral": lambda: samplers.Ancestral(8),
    "heun": lambda: Heun(8),
    "euler-maruyama": lambda: EulerMaruyama(8),
    "predictor-corrector": lambda: samplers.PredictorCorrector(EulerMaruyama(8), Langevin(1, h=0.1)),
    "annealed langevin": lambda: samplers.AnnealedLangevin(8, repeats=2),
    "multistep": lambda: Multistep(8, order=3, corrector=True),
    "singlestep": lambda: samplers.Singlestep(6),
    "exponential": lambda: samplers.ExponentialSDE(8),
    "secant": lambda: samplers.SecantSDE(8),
    "reverse diffusion": lambda: samplers.ReverseDiffusion(8),
    "flow": lambda: ProbabilityFlow(8, method="rk4"),
    "churn": lambda: samplers.Churn(8),
    "restart": lambda: samplers.Restart(Heun(8), [samplers.Interval(0.3, 0.6, 2, 2)]),
}
PROCESSES = {"VP": sdegen.VP(), "VE": sdegen.VE(), "EDM": sdegen.EDM(), "CLD": sdegen.CLD()}


class Pushing(sdegen.ScoreModel):
    """The ring's score model, that sees data `push` times too far away."""

    def __init__(self, sde: Any, push: float) -> None:
        self.sde, self.inside, self.push = sde, sdegen.Exact(sde, RING), push
        self.moments = RING.moments()

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        _, eps = self.estimate(x, t)
        return self.sde.marginal(t).score_from_noise(eps)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        x_0, eps = self.inside.estimate(x, t)
        at = self.sde.marginal(t)
        far = self.push * x_0
        return far, at.normalise(x) * 0 + eps - at.R.inv()(at.Phi(far - x_0))


def told(run: Callable[[], Any]) -> list[str]:
    """Make a run, and return the warnings of states out of reach; a run that is refused counts as told of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            run()
        except ValueError as refused:
            return [str(refused)]
    return [str(w.message) for w in said if "a state reached" in str(w.message)]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("process", ["VP", "EDM"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_tells_of_a_model_that_carries_states_away(sampler: str, process: str) -> None:
    sde, make = PROCESSES[process], SAMPLERS[sampler]
    for push in (1e5, 1e9):
        assert told(lambda push=push: sample(Pushing(sde, push), 4, sampler=make(), seed=0))
    assert not told(lambda: sample(Pushing(sde, 1.0), 4, sampler=make(), seed=0))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("sampler", [lambda: None, lambda: EulerMaruyama(20)], ids=["default", "euler-maruyama"])
def test_guidance_that_pulls_too_hard_is_told_of_with_the_time_and_what_to_do(process: str, sampler: Any) -> None:
    first = sdegen.measurements.Linear(torch.tensor([[1.0, 0.0]]), 0.1)
    y = torch.tensor([3.0])
    model = sdegen.Exact(PROCESSES[process], RING)
    scale = 1000.0 if process == "EDM" and sampler() else 100.0  # plain steps of EDM follow the pull at its noise alone
    with pytest.warns(
        UserWarning, match=TOLD + ".*take more steps or another sampler, or, of a guided model, a smaller"
    ):
        sample(guidance.PiGDM(model, first, scale=scale), 64, sampler=sampler(), seed=0, y=y)
    for wrapper in (guidance.PiGDM, guidance.DPS):
        assert not told(lambda wrapper=wrapper: sample(wrapper(model, first), 64, sampler=sampler(), seed=0, y=y))


def test_a_chunk_that_is_carried_away_is_told_of_once_for_the_run_and_the_path() -> None:
    for more in ({"batch": 2}, {"return_path": True}, {"final": "sample"}, {"part": (1, 2)}):
        assert told(lambda more=more: sample(Pushing(sdegen.VP(), 1e6), 5, steps=6, seed=0, **more))
    assert told(lambda: samplers.encode(Pushing(sdegen.VP(), 1e9), torch.ones(2, 2, dtype=torch.float64), steps=6))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    st.sampled_from(["VP", "VE", "EDM"]),
    st.sampled_from(["student", "lognormal", "spike", "offset", "constant"]),
    st.sampled_from(["default", "heun", "ancestral", "exponential"]),
    st.booleans(),
    st.integers(0, 99),
)
def test_wide_data_are_not_told_of(process: str, kind: str, sampler: str, units: bool, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    z = torch.randn(400, 2, dtype=torch.float64, generator=draws)
    chi = torch.randn(400, 2, 3, dtype=torch.float64, generator=draws).square().sum(-1)[:, :1]
    x = {
        "student": z / (chi / 3).pow(1.2),  # of an infinite variance
        "lognormal": (3 * z).exp(),
        "spike": torch.where(torch.arange(400)[:, None] == 0, 1e6, 1e-3 * z),
        "offset": 1e6 + z,
        "constant": torch.full_like(z, 2.0),
    }[kind]
    law, sde = sdegen.Empirical(x), PROCESSES[process]
    of_data = law.moments().units()
    std = of_data.std.max()  # one number for all: in units of its own, or scaled to be of about one
    law, sde = (law, sde.in_units(of_data)) if units or kind == "offset" else (sdegen.Empirical(x / std), sde)
    assert not told(lambda: sample(sdegen.Exact(sde, law), 600, sampler=SAMPLERS[sampler](), seed=seed))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("far", [1.0, 1e3, 1e6])
def test_far_starts_move_the_bound(process: str, far: float) -> None:
    model = sdegen.Exact(PROCESSES[process], RING)
    x = far * torch.tensor([[1.0, -2.0], [0.5, 0.1]], dtype=torch.float64)
    assert not told(lambda: samplers.encode(model, x, sampler=Heun(20, grids.Angle())))
    start = x[:, None].expand(2, 2, 2) if process == "CLD" else x
    assert not told(lambda: sample(model, x_T=start, sampler=Heun(20)))


class Sure(sdegen.ScoreModel):
    """The score model of one point, whatever its moments say."""

    def __init__(self, sde: Any, place: float) -> None:
        self.sde, self.moments, self.place = sde, RING.moments(), place

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        at = self.sde.marginal(t)
        return at.score_from_noise(at.R.inv()(x - at.Phi(torch.full_like(x, self.place))))


@pytest.mark.parametrize("process", ["VE", "EDM"])
@pytest.mark.parametrize(("place", "far"), [(30.0, False), (1e4, True)])
def test_a_start_in_much_noise_leaves_data_no_more_room(process: str, place: float, far: bool) -> None:
    model = Sure(PROCESSES[process], place)
    assert bool(told(lambda: sample(model, 3, sampler=DDIM(8), seed=0))) == far


def test_a_nonlinear_process_has_the_reach_of_its_data_and_start() -> None:
    class Away(sdegen.ScoreModel):
        """A score that carries states away."""

        def __init__(self, strength: float) -> None:
            self.sde, self.moments, self.strength = (
                sdegen.DoubleWell(),
                sdegen.Moments(torch.zeros(2), torch.ones(2)),
                strength,
            )

        def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
            return torch.full_like(x, self.strength)

    x_T = torch.ones(3, 2, dtype=torch.float64)
    sampler = EulerMaruyama(1, grids.Given(torch.tensor([1.0, 0.5])), eta=0.0)
    assert told(lambda: sample(Away(1e5), x_T=x_T, sampler=sampler, seed=0))
    assert not told(lambda: sample(Away(1.0), x_T=x_T, sampler=sampler, seed=0))
