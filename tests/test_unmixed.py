"""Functions of data that a caller gives answer for each datum alone: what mixes the rows of a batch is refused before a run."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sdegen
from sdegen import guidance
from sdegen.guidance.measurements import Linear, LinearMeasurement, Nonlinear
from sdegen.guidance.near import data_near
from sdegen.inference import draw_pairs
from sdegen.mixing import check_unmixed
from sdegen.seeding import set_seeds, state_of_generators
from sdegen.training import LogVariance

RING = sdegen.data.gaussian_ring()
MODEL = sdegen.Exact(sdegen.VP(), RING)
WIDE = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([9.0]))
TOLD = "answers otherwise of a datum when another stands beside it in the batch"

# From data to data of the same shape, along an axis: of the batch they mix rows, along another they do not.
ALONG: dict[str, Callable[[Tensor, int], Tensor]] = {
    "mean": lambda x, axis: x - x.mean(axis, keepdim=True),
    "spread": lambda x, axis: x / (1 + x.square().mean(axis, keepdim=True)),
    "softmax": lambda x, axis: x.softmax(axis),
    "sum": lambda x, axis: x.cumsum(axis).flip(axis),
    "sort": lambda x, axis: x + x.sort(axis).values.flip(axis),
    "largest": lambda x, axis: x / x.abs().amax(axis, keepdim=True),
}
POINTS = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def small_model() -> sdegen.Model:
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())
    model.moments = WIDE.moments()
    return model


class Outside:
    """A law from outside, by a function of its points."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f = f

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return WIDE.sample(n, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        return WIDE.log_prob(self.f(x))


Door = Callable[[Callable[[Tensor], Tensor]], Any]
DOORS: dict[str, Door] = {
    "pigdm": lambda f: sdegen.sample(guidance.PiGDM(MODEL, Nonlinear(f, 0.5)), 4, y=[1.0, 0.0], steps=2, seed=0),
    "dps": lambda f: sdegen.sample(guidance.DPS(MODEL, Nonlinear(f, 0.5)), 4, y=[1.0, 0.0], steps=2, seed=0),
    "annealed_smc": lambda f: guidance.annealed_smc(MODEL, Nonlinear(f, 3.0), 8, y=[1.0, 0.0], steps=2, seed=0),
    "split_gibbs": lambda f: guidance.split_gibbs(
        MODEL, Nonlinear(f, 0.5), 4, y=[1.0, 0.0], levels=[3.0], steps=2, seed=0
    ),
    "decoupled": lambda f: guidance.decoupled_annealing(
        MODEL, Nonlinear(f, 0.5), 4, y=[1.0, 0.0], levels=[3.0], steps=2, seed=0
    ),
    "twisted_smc": lambda f: guidance.twisted_smc(
        guidance.DPS(MODEL, Nonlinear(f, 0.5)), 8, y=[1.0, 0.0], steps=3, seed=0
    ),
    "tilted_smc": lambda f: guidance.tilted_smc(MODEL, lambda x: f(x)[:, 0], 8, steps=3, seed=0),
    "anneal_density": lambda f: guidance.anneal_density(lambda x: WIDE.log_prob(f(x)), WIDE, 8, levels=2, seed=0),
    "importance_sample": lambda f: guidance.importance_sample(MODEL, lambda x: RING.log_prob(f(x)), 8, steps=3, seed=0),
    "predictive_check": lambda f: sdegen.metrics.predictive_check(
        torch.ones(2), torch.randn(9, 2, generator=torch.Generator().manual_seed(0)), lambda x: f(x)[:, 0]
    ),
    "kl": lambda f: sdegen.metrics.kl(Outside(f), WIDE, x=POINTS),
    "kl of the real law": lambda f: sdegen.metrics.kl(WIDE, Outside(f), x=POINTS),
    "kde_kl": lambda f: sdegen.metrics.kde_kl_once(POINTS, Outside(f)),
    "plots.density": lambda f: sdegen.plots.density(Outside(f), extent=3.0, points=6),
    "fid": lambda f: sdegen.metrics.fid(POINTS, POINTS + 0.1, f),
    "accuracy": lambda f: sdegen.metrics.accuracy(POINTS, torch.zeros(len(POINTS), dtype=torch.long), f),
    "log_variance": lambda f: sdegen.fit(
        small_model(), WIDE, loss=LogVariance(lambda x: WIDE.log_prob(f(x)), steps=3), steps=1, batch_size=4, seed=0
    ),
    "classifier": lambda f: sdegen.sample(
        guidance.ClassifierGuidance(MODEL, lambda x, t: f(x)), 4, label=1, steps=2, seed=0
    ),
}


def solved(x: Tensor) -> Tensor:
    """Return the end of the flow ``u' = -u`` from five times the points, by steps whose number is chosen for all together."""
    x = 5 * x
    number = 4 + int(x.abs().max().item())
    for _ in range(number):
        x = x * (1 - 1 / number + 0.5 / number**2)
    return x


@pytest.mark.parametrize("door", ["kl", "kl of the real law", "kde_kl", "plots.density"])
def test_a_density_by_an_adaptive_solver_errs_by_less_than_what_mixes_rows(door: str) -> None:
    rows = [solved(x) for x in POINTS[:2].split(1)]
    assert not torch.equal(solved(POINTS[:2]), torch.cat(rows))  # so that it does depend on the other row
    DOORS[door](solved)


@pytest.mark.thinned(3)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", ALONG)
def test_what_mixes_the_rows_of_a_batch_is_refused_and_what_mixes_numbers_of_a_row_is_not(kind: str, door: str) -> None:
    with pytest.raises(ValueError, match=TOLD):
        DOORS[door](lambda x: ALONG[kind](x, 0))
    DOORS[door](lambda x: 0.1 * x + ALONG[kind](x, 1))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(ALONG)),
    st.sampled_from([(), (1,), (3,), (2, 5), (1, 4, 4)]),
    st.sampled_from([torch.float32, torch.float64]),
    st.floats(-4, 4),
    st.floats(-3, 3),
    st.integers(0, 99),
)
def test_data_of_any_size_and_place_tell(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype, size: float, offset: float, seed: int
) -> None:
    draws = torch.Generator().manual_seed(seed)
    x = 10**size * (torch.randn(50, *shape, dtype=torch.float64, generator=draws) + offset)
    near = data_near(sdegen.moments_of(x)).to(dtype)
    size_of = 10**size
    with pytest.raises(ValueError, match=f"^it {TOLD}"):
        check_unmixed("it", lambda x: ALONG[kind](x / size_of, 0), near)
    weights = torch.randn(math.prod(shape), 7, dtype=torch.float64, generator=draws).to(dtype)
    check_unmixed("it", lambda x: (x.flatten(1) if x.ndim > 1 else x[:, None]) @ weights, near)
    check_unmixed("it", lambda x: x + torch.randn(x.shape), near)  # which no answer tells


def test_a_batch_normalisation_mixes_rows_until_it_is_put_to_eval_mode_and_networks_have_their_own_dtype() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))  # float32, the model float64
    for door in (DOORS["pigdm"], lambda f: guidance.tilted_smc(MODEL, nn.Sequential(net, First()), 8, steps=3, seed=0)):
        net.train()
        with pytest.raises(ValueError, match=TOLD + ".*eval mode"):
            door(net)
        net.eval()
        door(net)


class First(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def test_what_is_known_of_no_data_is_not_asked_and_linear_maps_of_users_are() -> None:
    class Centred(LinearMeasurement):
        def __call__(self, x: Tensor) -> Tensor:
            return (x - x.mean(0))[:, :1]

    with pytest.raises(ValueError, match=f"^Centred {TOLD}"):
        sdegen.sample(guidance.PiGDM(MODEL, Centred(0.1)), 4, y=[1.0], steps=2, seed=0)
    Linear(torch.eye(2), 0.1).refuse_mixing(MODEL)
    bare = sdegen.Model(sdegen.nets.MLP(2), sdegen.VP())
    Centred(0.1).refuse_mixing(bare)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(2, 6), st.floats(0.01, 3.0), st.integers(0, 99))
def test_a_classifier_that_returns_probabilities_is_refused(classes: int, sharp: float, seed: int) -> None:
    W = sharp * torch.randn(2, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def guided(answer: Callable[[Tensor], Tensor]) -> Tensor:
        model = guidance.ClassifierGuidance(MODEL, lambda x, t: answer(x @ W))
        return sdegen.sample(model, 3, label=classes - 1, steps=2, seed=0)

    with pytest.raises(ValueError, match=r"^classifier returned probabilities, rows of sum one"):
        guided(lambda logits: logits.softmax(1))
    torch.testing.assert_close(guided(lambda logits: logits.log_softmax(1)), guided(lambda logits: logits))


def test_networks_of_single_precision_are_no_mixture_of_rows_in_a_model_of_double() -> None:
    """Their first row is rounded otherwise than the second, far above the rounding of the data."""
    torch.manual_seed(0)
    for width in (16, 33, 64, 100, 257):
        net = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2))
        DOORS["pigdm"](net)
        guidance.tilted_smc(MODEL, nn.Sequential(net, First()), 8, steps=3, seed=0)


def test_what_draws_from_few_values_passes_and_a_sorting_of_the_batch_does_not() -> None:
    x = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    for seed in range(100):
        torch.manual_seed(seed)
        check_unmixed("it", lambda x: nn.functional.dropout(x, 0.1), x)
    for rows in (x, x.flip(0)):
        with pytest.raises(ValueError, match=TOLD):
            check_unmixed("it", lambda x: x.sort(0).values, rows)


def test_functions_are_asked_as_a_run_asks_them() -> None:
    """Some differentiate what they are given, some take one datum at a time, and some rows have maps of their own."""

    def slope(x: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
        return found

    def alone(x: Tensor) -> Tensor:
        (one,) = x
        return torch.tanh(one)[None]

    guidance.anneal_density(lambda x: WIDE.log_prob(x) + 0 * slope(x)[:, 0], WIDE, 8, levels=2, seed=0)
    DOORS["classifier"](slope)
    sdegen.sample(guidance.DPS(MODEL, Nonlinear(alone, 0.5)), 2, y=[1.0, 0.0], steps=2, seed=0, batch=1)
    check_unmixed("it", lambda x: x * torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.1, 0.2], [0.3, 0.4]]))


OWN = np.random.default_rng(0)
# What simulators draw, each by generators that a seed of the run sets, but for the last.
DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch": lambda theta: theta + torch.randn_like(theta),
    "numpy": lambda theta: theta + torch.from_numpy(np.random.normal(size=theta.shape)),  # noqa: NPY002
    "counts": lambda theta: 1 + torch.poisson(theta.exp()),  # as many numbers as it takes
    "rejection": lambda theta: torch.stack([torch.randn(1 + int(3 * abs(row[0]))).sum() * row for row in theta]),
    "none": lambda theta: theta.tanh(),
    "own": lambda theta: theta + torch.from_numpy(OWN.normal(size=theta.shape)),
}


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("kind", ALONG)
def test_a_simulator_that_mixes_rows_is_warned_of_and_what_it_draws_is_left_as_it_was(kind: str, draws: str) -> None:
    def simulate(axis: int) -> sdegen.inference.Pairs:
        return draw_pairs(WIDE, lambda theta: ALONG[kind](DRAWS[draws](theta), axis), 20, seed=0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = simulate(1)
    if draws in ("torch", "numpy", "none"):
        with pytest.warns(UserWarning, match="simulator gives other data to a vector .* batched=False"):
            simulate(0)
        assert torch.equal(found.x, simulate(1).x)


@pytest.mark.parametrize("door", ["fid", "accuracy", "tilted_smc", "anneal_density", "importance_sample"])
def test_to_ask_whether_rows_are_mixed_draws_from_no_generator_of_the_caller(door: str) -> None:
    def noisy_where_asked(x: Tensor) -> Tensor:
        if len(x) == 2:
            x = x + 0.01 * torch.randn(x.shape) + random.random() * np.random.random()  # noqa: NPY002
        return x

    set_seeds(7)
    before = state_of_generators()
    DOORS[door](noisy_where_asked)
    assert state_of_generators() == before


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_a_network_that_normalises_by_the_batch_when_it_is_asked_is_refused(kind: type[nn.Module]) -> None:
    class Inside(nn.Module):
        def __init__(self, tracked: bool) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(2, 2), kind(2, track_running_stats=tracked))

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return self.inner[0](x)

    for tracked in (True, False):
        model = sdegen.Model(Inside(tracked), sdegen.VP())
        model.moments = WIDE.moments()
        doors: list[Callable[[], object]] = [
            lambda model=model: sdegen.sample(model, 3, steps=2, seed=0),
            lambda model=model: sdegen.log_prob(model, POINTS[:3], steps=2, method="rk4"),
        ]
        for door in doors:
            if tracked:
                door()
                continue
            with pytest.raises(
                ValueError, match=rf"{kind.__name__} without running statistics.*track_running_stats=True"
            ):
                door()
