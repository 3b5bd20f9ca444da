"""Steps taken together are the steps taken in turn: the same samples, in fewer calls of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import guidance, samplers
from sdegen.models import ScoreModel
from sdegen.models.question import gather
from sdegen.processes import LinearSDE
from sdegen.samplers import Picard, Sampler
from sdegen.samplers.picard import Expected, Guess
from sdegen.samplers.start import start

RING = sdegen.data.gaussian_ring()
SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "DDIM": lambda: samplers.DDIM(16),
    "DDIM, noise": lambda: samplers.DDIM(16, eta=0.5),
    "Ancestral": lambda: samplers.Ancestral(16),
    "Multistep": lambda: samplers.Multistep(16),
    "Multistep, four": lambda: samplers.Multistep(16, order=4, corrector=True),
    "ExponentialSDE": lambda: samplers.ExponentialSDE(16, order=3),
    "SecantSDE": lambda: samplers.SecantSDE(16),
    "ExponentialSDE, corrector": lambda: samplers.ExponentialSDE(16, eta=0.5, corrector=True),
    "Heun": lambda: samplers.Heun(9),
    "RK4": lambda: samplers.ProbabilityFlow(6, method="rk4"),
    "Singlestep": lambda: samplers.Singlestep(6),
    "EulerMaruyama": lambda: samplers.EulerMaruyama(40),
    "ReverseDiffusion": lambda: samplers.ReverseDiffusion(40),
    "Restart": lambda: samplers.Restart(samplers.Heun(8)),
}
PROCESSES = [sdegen.VP(), sdegen.EDM(), sdegen.VE(), sdegen.Rectified(), sdegen.processes.SubVP(), sdegen.Cosine()]


class Wild(nn.Module):
    """A network that is nobody's score: it turns within a hundredth of its input. It counts its calls, and the states in them."""

    def __init__(self, size: float = 1.0) -> None:
        super().__init__()
        self.size, self.calls, self.states = size, 0, 0

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls, self.states = self.calls + 1, self.states + len(x)
        shift = 0.0 if label is None else label.to(x)[:, None]
        return self.size * (100 * x.flip(1) + 30 * level[:, None] + shift).sin()


def wild(size: float = 1.0) -> tuple[sdegen.Model, Wild]:
    net = Wild(size)
    model = sdegen.Model(net, sdegen.VP())
    model.moments = RING.moments()
    return model, net


def both(
    model: ScoreModel, sampler: Sampler, n: int = 6, seed: int = 0, window: int = 100, **more: Any
) -> tuple[Tensor, Tensor, Picard]:
    """A run in turn, one of the same seed that takes its steps together, and its iteration."""
    x, picard = start(model, n, seed).double(), Picard(window)
    runs = [
        sdegen.sample(model, x_T=x, sampler=sampler, seed=seed, progress=False, parallel=way, **more)
        for way in (None, picard)
    ]
    return runs[0], runs[1], picard


@pytest.mark.turns(
    "DDIM", "Ancestral", "Multistep", "ExponentialSDE", "Heun", "RK4", "EulerMaruyama", "ReverseDiffusion"
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_of_steps_taken_together_is_the_run_in_turn(name: str) -> None:
    draw = torch.Generator().manual_seed(sum(map(ord, name)))
    for _ in range(2):
        which, window, seed = (int(torch.randint(high, (), generator=draw)) for high in (len(PROCESSES), 30, 1000))
        sde = sdegen.VP() if name == "EulerMaruyama" else PROCESSES[which]  # its coefficients are finite everywhere
        final = ("denoise", "sample")[seed % 2]
        one, two, picard = both(sdegen.Exact(sde, RING), SAMPLERS[name](), seed=seed, window=window + 2, final=final)
        assert (one - two).abs().max() < 1e-5
        assert picard.rounds > 0


@pytest.mark.parametrize("sde", [sdegen.CLD(), sdegen.processes.Blurring((1, 4, 4))])
def test_so_are_those_of_processes_with_maps_for_coefficients(sde: LinearSDE) -> None:
    shape = (2,) if isinstance(sde, sdegen.CLD) else (1, 4, 4)
    law = sdegen.laws.Empirical(torch.randn(5, *shape))
    one, two, picard = both(sdegen.Exact(sde, law), samplers.Multistep(12, reference=samplers.PointMass()), n=3)
    assert (one - two).abs().max() < 1e-5
    assert picard.rounds < 11


@pytest.mark.slow
def test_a_thousand_steps_take_a_dozen_rounds() -> None:
    one, two, picard = both(sdegen.Exact(sdegen.VP(), RING), samplers.DDIM(1000), n=8, window=1000)
    assert (one - two).abs().max() < 1e-5
    assert picard.rounds <= 9  # of a dozen without slopes


def test_states_of_single_precision_differ_by_what_rounding_makes_of_them() -> None:
    model, x = sdegen.Exact(sdegen.VP(), RING), torch.randn(50, 2)
    fine, coarse, together = (
        sdegen.sample(model, x_T=x.to(dtype), sampler=samplers.DDIM(100), parallel=parallel)
        for dtype, parallel in ((torch.float64, None), (torch.float32, None), (torch.float32, 100))
    )
    assert (together - fine).abs().mean() < 2 * (coarse - fine).abs().mean()


@pytest.mark.parametrize("after", [1, 25, 400])
def test_states_settle_at_six_roundings_times_the_root_of_the_steps(after: int) -> None:
    x = torch.ones(3, 2)
    guess = Guess(Expected(None, sdegen.Scale(torch.ones(1))))
    for size, settled in ((5.0, True), (7.0, False)):
        moved = x + size * after**0.5 * torch.finfo(x.dtype).eps
        guess.x, guess.seen = x, (moved, x)
        assert guess.holds(1e-12, after) is settled and guess.holds(1e-3, after)


@pytest.mark.filterwarnings("ignore:a state reached")
@pytest.mark.parametrize("sampler", [samplers.DDIM(15, eta=1.0), samplers.Heun(8)])
def test_no_model_takes_more_rounds_than_a_run_in_turn_has_calls(sampler: Sampler) -> None:
    model, net = wild()
    one, two, picard = both(model, sampler, window=15, final="sample")
    assert picard.rounds <= 15 + isinstance(sampler, samplers.Heun)
    assert net.calls == picard.rounds + 15 + isinstance(sampler, samplers.Heun)
    assert (one - two).abs().max() < 1e-5 * one.abs().max()


@pytest.mark.filterwarnings("ignore:a state reached")
@pytest.mark.parametrize("sampler", [samplers.DDIM(9, eta=1.0), samplers.Heun(5), samplers.Multistep(9)])
def test_a_window_of_one_is_the_run_in_turn_to_the_bit(sampler: Sampler) -> None:
    picard, model, x_T = Picard(1), sdegen.Model(sdegen.nets.MLP(2, width=40, depth=2), sdegen.VP()), torch.randn(6, 2)
    model.moments = RING.moments()
    for weight in model.net.parameters():
        nn.init.normal_(weight, std=0.1)
    one, two = (sdegen.sample(model, x_T=x_T, sampler=sampler, seed=0, parallel=way) for way in (None, picard))
    assert torch.equal(one, two)
    assert picard.rounds == 8 and picard.evaluations == 8 * 6


def test_rounds_and_evaluations_are_the_calls_of_the_network() -> None:
    model, net = wild(0.1)
    picard = Picard(7)
    for _ in range(2):  # counts begin anew
        net.calls = net.states = 0
        sdegen.sample(model, 10, sampler=samplers.DDIM(20), batch=4, seed=0, final="sample", parallel=picard)
        assert (picard.rounds, picard.evaluations) == (net.calls, net.states)
    assert picard.evaluations <= 7 * 4 * picard.rounds


def test_each_row_has_its_conditions() -> None:
    modes = [sdegen.GaussianMixture(torch.ones(1), m[None], v[None]) for m, v in zip(RING.means, RING.covariances)]
    model = sdegen.models.ExactConditional(sdegen.VP(), modes, RING)
    label = torch.arange(5)
    for guided in (guidance.ClassifierFree(model, 2.0, interval=(0.2, 0.6)), guidance.Clipped(model, -3, 3)):
        one, two, _ = both(guided, samplers.Multistep(8, order=2), n=5, label=label, batch=3)
        assert (one - two).abs().max() < 1e-5


def test_measurements_have_theirs() -> None:
    seen = guidance.measurements.Linear(torch.eye(2)[:1], 0.5)
    model = guidance.DPS(sdegen.Exact(sdegen.VP(), RING), seen)
    one, two, _ = both(model, samplers.DDIM(10), n=4, y=torch.randn(4, 1))
    assert (one - two).abs().max() < 1e-5


def test_paths_and_callbacks_are_those_of_the_run_in_turn() -> None:
    told: list[list[tuple[int, float]]] = []
    paths = []
    for parallel in (None, 4):
        told.append([])
        path = sdegen.sample(
            sdegen.Exact(sdegen.VP(), RING),
            3,
            sampler=samplers.ExponentialSDE(8),
            seed=1,
            return_path=True,
            noise=samplers.BrownianNoise,
            parallel=parallel,
            callback=lambda i, t, x: told[-1].append((i, float(t))),
        )
        paths.append(path)
    assert told[0] == told[1]
    assert (paths[0] - paths[1]).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:a state reached")
def test_a_state_that_is_not_finite_is_told_of_where_it_is() -> None:
    class Broken(Wild):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return torch.where(level[:, None] < 0, torch.nan, super().forward(x, level))

    model = sdegen.Model(Broken(), sdegen.VP())
    said = []
    for parallel in (None, 6):
        with pytest.raises(ValueError, match="non-finite in step") as error:
            sdegen.sample(model, x_T=torch.randn(3, 2), sampler=samplers.DDIM(12), parallel=parallel)
        said.append(str(error.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.Churn(4),
        samplers.AdaptiveSDE(),
        samplers.ProbabilityFlow(),
        samplers.PredictorCorrector(samplers.DDIM(4)),
        samplers.Langevin(4),
    ],
)
def test_samplers_that_ask_on_their_way_are_refused(sampler: Sampler) -> None:
    with pytest.raises(TypeError, match=r"asks the model more than its plan tells.* sample without parallel"):
        sdegen.sample(sdegen.Exact(sdegen.VP(), RING), 2, sampler=sampler, parallel=4)


def test_so_are_learned_variances_and_processes_that_are_not_linear() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return torch.cat([x, x], 1)

    two, sampler = (
        sdegen.LearnedVariance(Twice(), sdegen.VP()),
        samplers.Ancestral(4, variance=samplers.learned_variance),
    )
    with pytest.raises(TypeError, match="sample without parallel"):
        sdegen.sample(two, x_T=torch.randn(2, 1, 4, 4), sampler=sampler, parallel=4)
    bent = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), sdegen.processes.DoubleWell())
    with pytest.raises(TypeError, match="sample without parallel"):
        sdegen.sample(bent, x_T=torch.randn(2, 1), sampler=samplers.EulerMaruyama(4), parallel=4)


def test_derivatives_and_windows_of_nothing_are_refused() -> None:
    model = sdegen.Exact(sdegen.VP(), RING)
    with pytest.raises(ValueError, match="grad=True and parallel"):
        sdegen.sample(model, 2, steps=3, parallel=3, grad=True)
    with pytest.raises(ValueError, match="parallel = 0"):
        sdegen.sample(model, 2, steps=3, parallel=0)
    with pytest.raises(TypeError, match="questions hold"):
        gather([object(), object()], 2)
