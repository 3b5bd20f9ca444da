"""No two draws of one run share their randomness: every door that draws, every sampler, watched while it runs."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, guidance, inference, metrics, mixing, samplers
from sdegen.guidance import misfit, near
from sdegen.laws import products
from sdegen.samplers import (
    DDIM,
    AdaptiveSDE,
    Ancestral,
    AnnealedLangevin,
    BrownianNoise,
    Churn,
    EulerMaruyama,
    ExponentialSDE,
    Interval,
    Langevin,
    PredictorCorrector,
    Restart,
    ReverseDiffusion,
    SampleNoise,
    Sampler,
    SecantSDE,
)

RING = sdegen.data.gaussian_ring()
EXACT = sdegen.Exact(sdegen.VP(), RING)
LIFTED = sdegen.Exact(sdegen.CLD(sigma_0=0.1), RING)
WELL = sdegen.DoubleWell(T=1.0)

DRAWING: dict[str, Callable[[], Sampler]] = {
    "ancestral": lambda: Ancestral(4),
    "ddim": lambda: DDIM(4, eta=0.7),
    "churn": lambda: Churn(4, S_churn=2.0),
    "euler-maruyama": lambda: EulerMaruyama(4),
    "exponential": lambda: ExponentialSDE(4),
    "secant": lambda: SecantSDE(4),
    "reverse diffusion": lambda: ReverseDiffusion(4),
    "restart": lambda: Restart(DDIM(3, eta=1.0), [Interval(0.1, 1.0, 2, 2)]),
    "langevin": lambda: Langevin(4, t=0.3),
    "annealed langevin": lambda: AnnealedLangevin(2, repeats=2),
    "predictor-corrector": lambda: PredictorCorrector(EulerMaruyama(3), Langevin(2, h=0.05)),
    "adaptive": lambda: AdaptiveSDE(0.5, 0.5, grid=grids.Uniform(end=0.3)),
}
ON_MATRICES = ("ancestral", "euler-maruyama", "exponential", "langevin", "annealed langevin", "predictor-corrector")
NO_NOISE = {"Fitted", "Heun", "Multistep", "ProbabilityFlow", "Singlestep", "Sampler"}
OF_MAPS = {"Jumps"}  # see test_flow_maps.py


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Every seed that a generator is given, and how often."""
    found: Counter[int] = Counter()

    whole = torch.Generator

    class Kind(type(whole)):  # type: ignore[misc]
        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, whole)  # signatures that name the class may be read meanwhile

    class Watched(whole, metaclass=Kind):  # type: ignore[misc, valid-type]
        def manual_seed(self, seed: int) -> torch.Generator:
            found[seed] += 1
            return super().manual_seed(seed)

    monkeypatch.setattr(torch, "Generator", Watched)
    return found


def test_the_table_has_every_sampler_that_draws() -> None:
    classes = {name for name, v in vars(samplers).items() if inspect.isclass(v) and issubclass(v, Sampler)}
    assert {type(make()).__name__ for make in DRAWING.values()} == classes - NO_NOISE - OF_MAPS


def draws_of(model: sdegen.ScoreModel, sampler: Sampler, source: Any, n: int, seed: int) -> dict[str, Tensor]:
    """The start of a run and the noise of every step, as standard normal numbers ``(n, d)``."""
    heard: dict[str, Tensor] = {}

    def listening(seed: int, first: int, times: Tensor) -> Callable[[Tensor], Tensor]:
        noise = source(seed, first, times)

        def draw(like: Tensor) -> Tensor:
            z = noise(like)
            heard[f"noise {len(heard)}"] = z.flatten(1).clone()
            return z

        return draw

    x = sdegen.sample(model, n, sampler=sampler, seed=seed, noise=listening, return_path=True)
    assert heard
    return {"start": x[0].flatten(1)} | heard


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("name", DRAWING)
def test_draws_of_a_run_are_uncorrelated(name: str, seed: int) -> None:
    # The start, every noise, and their squares: of n samples a correlation has the standard error 1 / √n.
    n = 3000
    source = BrownianNoise if (name, seed) == ("euler-maruyama", 1) else SampleNoise
    models = [EXACT, LIFTED] if name in ON_MATRICES else [EXACT]
    for model in models:
        found = list(draws_of(model, DRAWING[name](), source, n, seed).items())[:12]
        for (first, a), (second, b) in combinations(found, 2):
            for x, y in ((a, b), (a.square() - 1, b.square() - 1)):
                x, y = x - x.mean(0), y - y.mean(0)
                r = (x.T @ y) / n / (x.std(0)[:, None] * y.std(0))
                assert r.abs().max() * n**0.5 < 5.5, (type(model.sde).__name__, first, second)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("seed", [0, 2**40])
@pytest.mark.parametrize("name", DRAWING)
def test_no_two_draws_of_a_run_begin_from_one_state(name: str, seed: int, seeds: Counter[int]) -> None:
    models = [EXACT, LIFTED] if name in ON_MATRICES else [EXACT]
    for model in models:
        seeds.clear()
        sdegen.sample(model, 40, sampler=DRAWING[name](), seed=seed)
        assert len(seeds) > 3 and max(seeds.values()) == 1, seeds


def network() -> sdegen.Model:
    return sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())


LINEAR = sdegen.measurements.Linear(torch.eye(2, dtype=torch.float64)[:1], 0.5)


def measured() -> sdegen.ScoreModel:
    return guidance.PiGDM(EXACT, LINEAR)


Y = torch.tensor([3.0], dtype=torch.float64)
X = RING.sample(40, torch.Generator().manual_seed(0))
WIDE = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), 9 * torch.ones(1))
PRODUCT = guidance.Product([(sdegen.Exact(sdegen.VP(), WIDE), 0.7), (EXACT, 0.3)])
DOORS: dict[str, Callable[[int], Any]] = {
    "sample": lambda seed: sdegen.sample(EXACT, 40, seed=seed),
    "sample in parts": lambda seed: sdegen.sample(EXACT, 9000, sampler=Ancestral(3), seed=seed),
    "sample from a generator": lambda seed: sdegen.sample(
        EXACT, 40, sampler=Ancestral(3), generator=torch.Generator().manual_seed(seed)
    ),
    "sample of a double well": lambda seed: sdegen.sample(
        sdegen.DirectModel(sdegen.nets.MLP(2, width=8, depth=1), WELL),
        x_T=X.float(),
        sampler=EulerMaruyama(3),
        seed=seed,
    ),
    "edit": lambda seed: sdegen.edit(EXACT, X, 0.5, sampler=Ancestral(3), seed=seed),
    "edit of a lifted state": lambda seed: sdegen.edit(LIFTED, X, 0.5, sampler=Ancestral(3), seed=seed),
    "encode a lifted state": lambda seed: samplers.encode(LIFTED, X, steps=3, seed=seed),
    "sample with density": lambda seed: sdegen.sample_with_log_prob(
        EXACT, 40, seed=seed, divergence=sdegen.derivatives.Hutchinson()
    ),
    "particles": lambda seed: guidance.twisted_smc(measured(), 32, steps=4, seed=seed, y=Y),
    "annealed particles": lambda seed: guidance.annealed_smc(EXACT, LINEAR, 32, steps=3, seed=seed, y=Y),
    "split Gibbs": lambda seed: guidance.split_gibbs(EXACT, LINEAR, 9, levels=2, steps=3, seed=seed, y=Y),
    "decoupled annealing": lambda seed: guidance.decoupled_annealing(
        EXACT, LINEAR, 9, levels=2, steps=3, seed=seed, y=Y
    ),
    "a corrected product": lambda seed: guidance.corrected(PRODUCT, 16, steps=4, threshold=1.0, seed=seed),
    "an annealed product": lambda seed: guidance.anneal_product(PRODUCT, 16, steps=3, threshold=1.0, seed=seed),
    "an annealed density": lambda seed: guidance.anneal_density(
        RING.log_prob, WIDE, 16, levels=3, threshold=1.0, seed=seed
    ),
    "tilted particles": lambda seed: guidance.tilted_smc(
        EXACT, lambda x: x.sum(1), 16, steps=4, threshold=1.0, seed=seed
    ),
    "weighted samples": lambda seed: guidance.importance_sample(EXACT, RING.log_prob, 16, steps=4, seed=seed),
    "fit": lambda seed: sdegen.fit(network(), RING, steps=3, batch_size=16, seed=seed, progress=False),
    "classifier test": lambda seed: metrics.classifier_test(X[:20], X[20:], seed=seed),
    "kl": lambda seed: metrics.kl(RING, RING, n=64, seed=seed),
    "coverage around points": lambda seed: metrics.find_tarp_coverage(Drawn(), X[:9], X[:9], 3, seed=seed),
    "local test": lambda seed: metrics.find_local_error(Drawn(), X, X, X[0], 9, shuffles=2, seed=seed),
}


class Drawn:
    """The law of the ring as a posterior, whatever the data."""

    def sample(self, n: int, x: Tensor) -> Tensor:
        return X[torch.arange(n) % len(X)]


@pytest.mark.parametrize("door", DOORS)
def test_no_door_draws_twice_from_one_state_nor_two_runs_from_the_same(door: str, seeds: Counter[int]) -> None:
    found = []
    for seed in (0, 7_000_000):
        seeds.clear()
        DOORS[door](seed)
        assert seeds, "nothing was drawn"
        assert max(seeds.values()) == 1, seeds
        found.append({*seeds})
    shared = (found[0] & found[1]) - {misfit.SEED, mixing.SEED, near.SEED, products.SEED}
    assert not shared, f"{shared} do not depend on the seed"


def test_a_budget_shares_its_directions_and_noise_but_draws_its_data_apart(seeds: Counter[int]) -> None:
    # Its terms are compared along common directions, its runs on common noise; neither may begin where the data do.
    found = []
    for _ in range(2):
        seeds.clear()
        budget = sdegen.diagnose(EXACT, RING, n=64, sampler=Ancestral(3), seed=7)
        assert seeds[7] == 1 < max(seeds.values())
        found.append((seeds.copy(), budget.terms))
        torch.rand(1)  # of which nothing depends
    assert found[0] == found[1]


def test_the_two_noises_of_an_edit_are_uncorrelated(monkeypatch: pytest.MonkeyPatch) -> None:
    # Noised up by one, brought back by the other: were they one, what is added would be taken away again.
    n, drawn = 6000, []
    call = SampleNoise.__call__

    def heard(self: SampleNoise, like: Tensor) -> Tensor:
        drawn.append(call(self, like))
        return drawn[-1]

    monkeypatch.setattr(SampleNoise, "__call__", heard)
    x = torch.zeros(n, 2, dtype=torch.float64)
    sdegen.edit(EXACT, x, 0.5, sampler=Ancestral(3), seed=0)
    assert len(drawn) == 3
    for a, b in combinations(drawn, 2):
        assert ((a.T @ b) / n).abs().max() * n**0.5 < 5


HALVES = torch.tensor([0.5], dtype=torch.float64)
HUTCHINSON = sdegen.derivatives.Hutchinson()
START = network()
PRIOR = torch.distributions.Normal(torch.zeros(2), torch.ones(2))


def fitted(**seed: int) -> Tensor:
    model = deepcopy(START)
    sdegen.fit(model, RING, steps=2, batch_size=16, progress=False, **seed)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


UNSEEDED: dict[str, Callable[..., Any]] = {
    "sample": lambda **seed: sdegen.sample(EXACT, 40, steps=3, **seed),
    "sample with noise": lambda **seed: sdegen.sample(EXACT, x_T=X, sampler=Ancestral(3), **seed),
    "sample with density": lambda **seed: sdegen.sample_with_log_prob(
        EXACT, 4, tolerance=0.1, divergence=HUTCHINSON, **seed
    )[0],
    "edit": lambda **seed: sdegen.edit(EXACT, X, 0.5, sampler=Ancestral(3), **seed),
    "encode": lambda **seed: samplers.encode(LIFTED, X, steps=3, **seed),
    "interpolate": lambda **seed: samplers.interpolate(LIFTED, X[:9], X[9:18], HALVES, steps=3, **seed),
    "particles": lambda **seed: guidance.twisted_smc(measured(), 32, steps=3, y=Y, **seed).x,
    "fit": fitted,
    "step costs": lambda **seed: (
        samplers.StepCosts.estimate(EXACT, RING, grids.Uniform(end=0.1)(EXACT.sde, 3), n=9, **seed).errors
    ),
    "kl": lambda **seed: metrics.kl(RING, sdegen.data.gaussian_ring(7), n=64, **seed).value,
    "kde": lambda **seed: (
        metrics.kde_kl(lambda n, generator: RING.sample(n, generator), RING, n=40, draws=2, **seed).value
    ),
    "sliced Wasserstein": lambda **seed: metrics.sliced_wasserstein(X[:20], X[20:], projections=8, **seed).value,
    "pairs": lambda **seed: inference.draw_pairs(PRIOR, lambda theta: theta + torch.randn_like(theta), 9, **seed).x,
    "annealed particles": lambda **seed: guidance.annealed_smc(EXACT, LINEAR, 32, steps=2, y=Y, **seed).x,
}


@pytest.mark.parametrize("door", UNSEEDED)
def test_without_a_seed_every_call_draws_anew_and_with_one_the_same(door: str) -> None:
    call = UNSEEDED[door]
    torch.manual_seed(3)
    one, other = (torch.as_tensor(call()) for _ in range(2))
    assert not torch.equal(one, other)
    torch.manual_seed(3)  # of which the numbers are
    assert torch.equal(torch.as_tensor(call()), one)
    one, other = (torch.as_tensor(call(seed=5)) for _ in range(2))
    assert torch.equal(one, other)
