"""Precision: every sampler, loss, likelihood and metric in float64, float32, bfloat16 and float16.

What a half-precision run is held to is the same run in float64, from the same start with the same noise.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import baselines, guidance, metrics, processes, samplers
from sdegen.guidance import measurements
from sdegen.laws.coordinates import Whitening
from sdegen.laws.empirical import pooled
from sdegen.laws.matrices import Matrix
from sdegen.laws.operators import Scale
from sdegen.models.wrapper import Conditioned
from sdegen.nets.plain import Perceptron
from sdegen.precision import at_least_single, is_finer, narrowed, widened
from sdegen.processes import times
from sdegen.processes.grids import Angle
from sdegen.samplers import Sampler
from sdegen.training.averages import PowerEMA
from sdegen.training.loop import train
from sdegen.training.losses import Denoising, Implicit, InputPerturbation, Variational
from sdegen.training.settings import Settings, constant_rate
from sdegen.training.state import Training

RING = sdegen.data.gaussian_ring()
HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float64, torch.float32, *HALF)


class TwoMethods(sdegen.ScalarSDE):
    """A process given by its two coefficients, as a user's own is."""

    def f(self, t: Tensor) -> Tensor:
        return -4 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 8 * t).sqrt()


class Pulled(sdegen.SDE):
    """A nonlinear process given by its two coefficients."""

    t_min = 0.01

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x.tanh()

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 1.0


class SameNoise:
    """The noise of float64, in whatever dtype it is asked for."""

    def __init__(self, seed: int, first: int, times: Tensor) -> None:
        self.noise = samplers.SampleNoise(seed, first)

    def __call__(self, like: Tensor) -> Tensor:
        return self.noise(like.double()).to(like.dtype)


def network(sde: Any, dtype: torch.dtype = torch.float64, channels: int = 1, net: nn.Module | None = None) -> Any:
    """A network off its start, of weights that every dtype here holds exactly."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = sdegen.nets.MLP(2 * channels, width=16, depth=1) if net is None else net
        for p in net.parameters():
            nn.init.normal_(p, std=0.15)
    net = net.to(torch.bfloat16).to(torch.float16).to(torch.float64)
    model = (sdegen.Model if sde.is_linear else sdegen.DirectModel)(net, sde).to(dtype)
    model.moments = RING.moments()
    return model


def coarse(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that every dtype here holds exactly, float64."""
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.bfloat16().half().double()


PROCESSES = {"scalar": sdegen.VP(), "matrix": sdegen.CLD(), "two methods": TwoMethods(), "nonlinear": Pulled()}
NAMED = {name: getattr(samplers, name) for name in samplers.__all__}
KINDS = {
    name: kind
    for name, kind in NAMED.items()
    if isinstance(kind, type) and issubclass(kind, Sampler) and kind not in (Sampler, samplers.Jumps)  # of maps alone
}
# Of few steps, and those that a sampler does not construct by itself. What is not named here is constructed as it is.
MADE: dict[str, Callable[[Any], Sampler]] = {
    "AdaptiveSDE": lambda sde: samplers.AdaptiveSDE(0.3, 0.2),
    "AnnealedLangevin": lambda sde: samplers.AnnealedLangevin(5, repeats=2),
    "Fitted": lambda sde: samplers.Fitted(Angle()(sde, 6), torch.ones(9, 3), 2, True),
    "Langevin": lambda sde: samplers.Langevin(8, t=0.1),
    "PredictorCorrector": lambda sde: samplers.PredictorCorrector(samplers.EulerMaruyama(8)),
    "ProbabilityFlow": lambda sde: samplers.ProbabilityFlow(rtol=1e-3, atol=1e-3),
    "Restart": lambda sde: samplers.Restart(samplers.Heun(6)),
}
# What a sampler means nothing for, it refuses in every dtype.
LINEAR_ONLY = (
    "Ancestral",
    "AnnealedLangevin",
    "Churn",
    "DDIM",
    "ExponentialSDE",
    "Fitted",
    "Multistep",
    "Restart",
    "ReverseDiffusion",
    "SecantSDE",
    "Singlestep",
)
REFUSED = {("matrix", "Churn"), ("matrix", "SecantSDE"), *(("nonlinear", name) for name in LINEAR_ONLY)}


def made(name: str, sde: Any) -> Sampler:
    if name in MADE:
        return MADE[name](sde)
    return KINDS[name](8)


def runs(make: Callable[[torch.dtype], Any], x_T: Tensor, sampler: Sampler, **cond: Any) -> dict[torch.dtype, Tensor]:
    """Sample in every dtype, from the same start with the same noise."""
    final = "denoise" if make(torch.float64).sde.is_linear else "sample"
    return {
        dtype: sdegen.sample(
            make(dtype), x_T=x_T.to(dtype), sampler=sampler, seed=0, noise=SameNoise, final=final, **cond
        )
        for dtype in DTYPES
    }


@pytest.mark.thinned(3)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["exact", "network"])
@pytest.mark.turns(
    "exact-AnnealedLangevin-matrix",
    "exact-ExponentialSDE-matrix",
    "exact-Singlestep-matrix",
    "network-PredictorCorrector-matrix",
    "network-Restart-matrix",
    "network-AdaptiveSDE-two methods",
    "*-AdaptiveSDE-matrix",
    "*-ProbabilityFlow-matrix",
)
def test_every_sampler_in_every_dtype(name: str, process: str, kind: str) -> None:
    """A run is that of float64 but for float32's rounding, for that of what it returns and, of a network, of its own answers."""
    sde = PROCESSES[process]
    channels = 2 if process == "matrix" else 1
    if kind == "exact" and process == "nonlinear":
        pytest.skip("the score of a nonlinear process has no closed form")
    exact = sdegen.Exact(sde, RING) if kind == "exact" else None
    make = lambda dtype: network(sde, dtype, channels) if exact is None else exact
    x_T = coarse(48, *([2, 2] if channels == 2 else [2]))
    if (process, name) in REFUSED:
        with pytest.raises(TypeError, match=f"{type(sde).__name__}.*(; | use )"):
            runs(make, x_T, made(name, sde))
        return
    found = runs(make, x_T, made(name, sde))
    want = found.pop(torch.float64)
    size = want.std().item()
    for dtype, got in found.items():
        assert got.dtype == dtype and got.shape == want.shape and got.isfinite().all()
        error, eps = (got.double() - want).abs(), torch.finfo(dtype).eps
        if kind == "exact" or dtype == torch.float32:
            assert (error <= 0.51 * eps * want.abs() + 1e-3 * size).all()
            assert error.median() <= 0.51 * eps * want.abs().median() + 2e-5 * size
        elif name != "AdaptiveSDE":
            assert error.median() < 8 * eps * size
        else:  # which steps are kept changes with a rounding: of paths only the law is the same
            spread = size * (2 / len(want)) ** 0.5
            assert (got.double().mean(0) - want.mean(0)).abs().max() < 4 * spread
            assert 0.6 < got.double().std() / size < 1.6


def test_every_sampler_has_a_row() -> None:
    assert {"DDIM", "Heun", "Multistep", "EulerMaruyama", "ProbabilityFlow", "ExponentialSDE"} <= set(KINDS)
    assert set(MADE) <= set(KINDS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_model_samples_in_its_own_dtype(dtype: torch.dtype) -> None:
    model = network(sdegen.VP(), dtype)
    x = sdegen.sample(model, 300, seed=0, steps=10)
    want = sdegen.sample(network(sdegen.VP()), 300, seed=0, steps=10)
    assert x.dtype == dtype and (x.double() - want).abs().median() < 8 * torch.finfo(dtype).eps * want.std()
    path = sdegen.sample(model, 3, seed=0, steps=4, return_path=True)
    assert path.dtype == dtype and torch.equal(path[-1], sdegen.sample(model, 3, seed=0, steps=4))
    seen: list[torch.dtype] = []
    sdegen.sample(model, 3, seed=0, steps=4, callback=lambda i, t, x: seen.append(x.dtype))
    assert set(seen) == {at_least_single(dtype)}


class Large(sdegen.GaussianMixture):
    """One Gaussian of images, of numbers that fill half precision."""

    def __init__(self, mean: float, shape: tuple[int, ...]) -> None:
        super().__init__(torch.ones(1), torch.full((1, *shape), mean), torch.ones(1))

    def moments(self) -> sdegen.Moments:
        return sdegen.Moments(self.means[0], self.covariances.expand(self.means[0].numel()))


def test_finite_images_of_half_precision_are_not_refused_by_their_sum() -> None:
    """64 images of 12,288 numbers near 20 have a sum of 1.5e7, where float16 ends at 65,504."""
    model = sdegen.Exact(sdegen.VP(), Large(20.0, (3, 64, 64)))
    x_T = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0)).half()
    x = sdegen.sample(model, x_T=x_T, steps=5, seed=0)
    assert x.dtype == torch.float16 and abs(x.double().mean() - 20) < 0.2


def test_large_states_of_float32_are_not_refused_by_their_sum() -> None:
    class Constant(sdegen.Exact):
        def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
            return torch.full_like(x, 1e37), torch.zeros_like(x)

    x = sdegen.sample(Constant(sdegen.VP(), RING), x_T=torch.full((100, 2), 2e37), sampler=samplers.DDIM(4))
    assert x.isfinite().all() and not x.sum().isfinite()


def test_samples_beyond_float16_are_refused_in_a_sentence() -> None:
    model = sdegen.Exact(sdegen.VP(), Large(70_000.0, (2,)))
    x_T = torch.zeros(3, 2)
    assert (sdegen.sample(model, x_T=x_T, steps=5) > 65_504).all()
    with pytest.raises(
        ValueError, match=r"^samples reach \d+, and torch.float16 ends at 65504; take a model, or x_T, of a"
    ):
        sdegen.sample(model, x_T=x_T.half(), steps=5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_state_that_is_not_finite_is_seen(dtype: torch.dtype, bad: float) -> None:
    class Broken(sdegen.Exact):
        def estimate(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor, Tensor]:
            x_0, eps = super().estimate(x, t)
            x_0[-1, 0] = bad
            return x_0, eps

    with pytest.raises(ValueError, match=r"^the state turned non-finite in step 1 of 4"):
        sdegen.sample(Broken(sdegen.VP(), RING), x_T=torch.zeros(3, 2, dtype=dtype), sampler=samplers.DDIM(4))


# --- states finer than a network --------------------------------------------------------------------------------------


class Recording(nn.Module):
    """Remembers what it was called with."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.told = net, []

    def forward(self, x: Tensor, level: Tensor, *more: Any, **cond: Any) -> Tensor:
        self.told.append((x.dtype, level.dtype, level))
        return self.net(x, level, *more, **cond)


def build(kind: str, dtype: torch.dtype) -> tuple[Any, Recording]:
    """A model of each kind around one network, in a dtype."""
    net = Recording(sdegen.nets.MLP(2, width=16, depth=1, out=4 if kind == "LearnedVariance" else None))
    if kind == "Model":
        model = network(sdegen.VP(), dtype, net=net)
    elif kind == "LearnedVariance":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for p in net.parameters():
                nn.init.normal_(p, std=0.15)
        model = sdegen.LearnedVariance(net, sdegen.VP()).to(torch.bfloat16).to(torch.float16).to(dtype)
        model.moments = RING.moments()
    elif kind == "DirectModel":
        model = network(Pulled(), dtype, net=net)
    else:
        inside = network(sdegen.VP(), dtype, net=net).net
        from_network = sdegen.from_network
        model = from_network(inside, sdegen.VP(), moments=RING.moments())
    return model, net


@pytest.mark.parametrize("kind", ["Model", "LearnedVariance", "DirectModel", "foreign"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("states", DTYPES, ids=str)
def test_states_are_at_least_as_fine_as_the_network(kind: str, dtype: torch.dtype, states: torch.dtype) -> None:
    """The network is called in its own dtype, and answers in that of the states; coarser states are refused."""
    model, net = build(kind, dtype)
    x = coarse(5, 2).to(states)
    if not is_finer(states, dtype):
        with pytest.raises(
            ValueError, match=f"^x is {states} .* the model {dtype} .* not coarser: move one to the other"
        ):
            model.score(x, 0.4)
        return
    score = model.score(x, 0.4)
    assert score.dtype == states
    assert net.told[-1][:2] == (dtype, at_least_single(dtype))
    whole, _ = build(kind, torch.float64)
    want = whole.score(x.double(), 0.4)
    eps = max(torch.finfo(states).eps, torch.finfo(dtype).eps)
    assert (score.double() - want).norm() <= 4 * eps * want.norm() + 1e-5 * (dtype != torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_foreign_network_is_told_its_step(dtype: torch.dtype) -> None:
    """999 is 1000 in bfloat16."""
    model, net = build("foreign", dtype)
    model.denoise(coarse(2, 2), torch.tensor([1.0, 0.258], dtype=torch.float64))
    assert net.told[-1][2].double().tolist() == pytest.approx([999.0, 257.0], abs=1e-4)


@pytest.mark.parametrize("make", [sdegen.nets.embeddings.Sinusoidal, sdegen.nets.embeddings.Fourier])
def test_an_embedding_of_a_coarser_network_stays_exact(make: Any) -> None:
    embedding = make(32)
    u = torch.linspace(-2, 2, 9)
    want = embedding(u)
    for dtype in HALF:
        half = deepcopy(embedding).to(dtype)
        assert torch.equal(half(u), want)
        assert torch.equal(half.float()(u), want)


def test_numbers_of_half_precision_are_widened_and_no_others() -> None:
    for dtype, wide in zip(DTYPES, (torch.float64, torch.float32, torch.float32, torch.float32), strict=True):
        x = torch.zeros(2, dtype=dtype)
        assert widened(x).dtype == wide and (widened(x) is x) == (dtype == wide)
    for no_numbers in (
        3.0,
        torch.arange(2),
        torch.zeros(2) == 0,
        torch.zeros(2).to_sparse(),
        torch.zeros(2).half().to_sparse(),
    ):
        with pytest.raises(TypeError, match=r"^x (is|has) .*give .*\."):
            widened(no_numbers)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^states reach 1e\+06, and torch.float16 ends at 65504"):
        narrowed("states", torch.tensor([1.0, -1e6]), torch.float16)


# --- laws and likelihoods ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 40])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_pooled_means_are_formed_in_float32(d: int, dtype: torch.dtype) -> None:
    """Distances to far data differ by less than half precision tells apart; so they do under an autocast."""
    data, y = (coarse(n, d, seed=n) + mean for n, mean in ((50, 8), (9, 6)))
    data, y = data.to(dtype), y.to(dtype)
    C, S = (Scale(torch.tensor(v, dtype=torch.float64)) for v in (0.8, 0.6))
    want = pooled(data.double(), y.double(), C, S)
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            got = pooled(data, y, C, S)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == dtype and (a.double() - b).norm() < (torch.finfo(dtype).eps + 1e-4) * b.norm()


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_an_exact_law_is_computed_in_float32(dtype: torch.dtype, full: bool) -> None:
    """Log-densities have more digits than the data; means and scores are right but for the last rounding."""
    C = torch.tensor([[1.0, 0.3], [0.3, 0.5]]).double() * 1e-2
    law = sdegen.GaussianMixture(RING.weights, RING.means, C.expand(8, 2, 2) if full else torch.full((8,), 1e-2))
    x = RING.sample(20, torch.Generator().manual_seed(0)).to(dtype)
    log_prob = law.log_prob(x)
    assert log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob.double(), law.log_prob(x.double()), rtol=1e-5, atol=1e-3)
    model = sdegen.Exact(sdegen.VP(), law)
    for t in (0.01, 0.5):
        for of in (model.score, model.denoise, model.noise):
            got, want = of(x, t), of(x.double(), t)
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), want, rtol=torch.finfo(dtype).eps, atol=1e-4 * want.abs().max())


PRIOR = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))


@pytest.mark.parametrize("process", ["two methods", "nonlinear"])
@pytest.mark.turns("two methods")
def test_log_densities_end_and_are_right(process: str) -> None:
    """The flow is followed in float32 at least, to what the network's own answers are exact to."""
    sde, x = PROCESSES[process], coarse(4, 2)
    want = sdegen.estimate_log_prob(network(sde), x, prior=PRIOR)
    for dtype in DTYPES[1:]:
        for states in {dtype, torch.float64} if dtype == torch.bfloat16 else {dtype}:
            found = sdegen.estimate_log_prob(network(sde, dtype), x.to(states), prior=PRIOR)
            assert found.value.dtype == found.stderr.dtype == at_least_single(states)
            assert found.evaluations <= want.evaluations
            assert (found.value - want.value).abs().max() < (1e-4 if dtype == torch.float32 else 1e-2)


def test_data_of_the_librarys_laws_have_densities_under_any_network() -> None:
    """Laws draw float64, which is finer than the network; densities of samples are those of the samples."""
    x = RING.sample(5, torch.Generator().manual_seed(0))
    value = sdegen.log_prob(network(sdegen.VP(), torch.float32), x)
    assert value.dtype == torch.float64
    drawn, found = sdegen.sample_with_log_prob(network(sdegen.VP(), torch.bfloat16), 5, seed=0)
    assert found.value.dtype == drawn.dtype == torch.float32
    assert (sdegen.log_prob(network(sdegen.VP(), torch.float32), drawn) - found.value).abs().max() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_bounds_are_right_in_every_dtype(dtype: torch.dtype) -> None:
    x, draws = coarse(3, 2), 64
    for bound in (sdegen.elbo, lambda *args, **how: sdegen.discrete_elbo(*args, 10, **how)):
        found, want = (
            bound(network(sdegen.VP(), v), x.to(v), draws=draws, generator=torch.Generator().manual_seed(0))
            for v in (dtype, torch.float64)
        )
        assert found.value.dtype == torch.float32 and found.value.isfinite().all()
        assert ((found.value - want.value).abs() < 5 * (found.stderr.hypot(want.stderr.float())) + 2e-2).all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_bytes_have_bits_under_a_network_of_half_precision(dtype: torch.dtype) -> None:
    images = torch.randint(0, 256, (3, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found, want = (
        sdegen.bits_per_dim(network(sdegen.VP(), v), images, generator=torch.Generator().manual_seed(0)).value
        for v in (dtype, torch.float32)
    )
    assert (found - want).abs().max() < 1e-2


@pytest.mark.thinned(2)
@pytest.mark.parametrize("process", ["scalar", "matrix"])
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.turns("*float16-False-matrix", "*float32-True-matrix")
def test_codes_edits_and_points_between(dtype: torch.dtype, exact: bool, process: str) -> None:
    """Latents, their decoding, interpolation and editing are those of float64 to what the dtype allows."""
    sde, x = PROCESSES[process], coarse(4, 2)
    make = lambda v: sdegen.Exact(sde, RING) if exact else network(sde, v, 2 if process == "matrix" else 1)
    eps = torch.finfo(dtype).eps
    z, want = (samplers.encode(make(v), x.to(v), steps=10, seed=0) for v in (dtype, torch.float64))
    assert (z.dtype == dtype and (z.double() - want).abs().max() < 20 * eps + 1e-4) or process == "matrix"
    back = samplers.decode(make(dtype), z, steps=10)
    assert back.dtype == dtype and back.isfinite().all()
    assert samplers.encode_with_error(make(dtype), x.to(dtype), steps=10, seed=0).error.isfinite().all()
    between = samplers.interpolate(
        make(dtype), x[:2].to(dtype), x[2:].to(dtype), torch.tensor([0.0, 0.5]), steps=10, seed=0
    )
    assert between.dtype == dtype and between.isfinite().all()
    edited = samplers.edit(make(dtype), x.to(dtype), 0.3, steps=5, seed=0)
    assert edited.dtype == dtype and edited.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_codes_of_the_default_solver_come_back(dtype: torch.dtype) -> None:
    x = coarse(4, 2).to(dtype)
    found = samplers.encode_with_error(network(sdegen.VP(), dtype), x)
    assert found.error.max() < {torch.float64: 1e-5, torch.float32: 1e-3}.get(dtype, 0.1)


# --- training ---------------------------------------------------------------------------------------------------------


def fitted(dtype: torch.dtype, data: Any = RING, **more: Any) -> tuple[Any, Any]:
    """A small model after a short run, and the run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = sdegen.nets.MLP(2, width=16, depth=1).to(torch.bfloat16).to(torch.float16)
    model = sdegen.Model(net, sdegen.VP()).to(dtype)
    how = {"steps": 60, "batch_size": 64, "lr": 5e-3, "warmup": 5, "seed": 0, "threads": 1, "progress": False} | more
    return model, sdegen.fit(model, data, **how)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.turns("torch.float16")
def test_networks_of_half_precision_learn_as_those_of_float32(dtype: torch.dtype) -> None:
    model, run = fitted(dtype, steps=200, lr=1e-2)
    whole, want = fitted(torch.float32, steps=200, lr=1e-2)
    first, last = (sum(part) / len(part) for part in (run.loss[:20], run.loss[-20:]))
    assert last < 0.8 * first and last == pytest.approx(sum(want.loss[-20:]) / 20, rel=0.02)
    assert next(model.parameters()).dtype == dtype
    norms = [torch.cat([p.double().flatten() for p in m.parameters()]).norm() for m in (model, whole)]
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=0.02)
    assert sdegen.sample(model, 10, seed=0, steps=5).dtype == dtype


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_averages_of_weights_are_kept_in_float32(dtype: torch.dtype) -> None:
    """Kept in bfloat16, an average stops to follow where a step moves it by less than its last digit."""
    weights = [nn.Parameter(torch.zeros(64, 64, dtype=dtype)) for _ in range(2)]
    copies = [nn.Parameter(torch.zeros(64, 64)) for _ in range(2)]
    averages = [PowerEMA(weights, 0.1), PowerEMA(copies, 0.1)]
    g = torch.Generator().manual_seed(0)
    for i in range(1500):
        for w, c in zip(weights, copies, strict=True):
            w.data.copy_(1 + i / 1000 + 0.1 * torch.randn(64, 64, generator=g))
            c.data.copy_(w.data)
        for average in averages:
            average.update()
    for a, b in zip(averages[0].average, averages[1].average, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 1e-6 * b.norm()
    with averages[0].in_model():
        assert weights[0].dtype == dtype and abs(weights[0].double().norm() / copies[0].norm() - 1) < 0.2
    averages[0].copy_to_model()
    assert abs(weights[0].double().norm() / averages[1].average[0].double().norm() - 1) < 1e-3


def test_small_steps_are_not_lost_on_half_precision() -> None:
    """A hundred steps of 2e-5 are half a step of bfloat16 at 1: rounded each, they would be none."""
    model, _ = fitted(torch.bfloat16, steps=1)
    before = [p.detach().clone() for p in model.parameters()]
    training = Training(model, RING, Settings(batch_size=16, seed=0, lr=2e-5, warmup=0, steps=100, weight_decay=0.0))
    started = [p.detach().clone() for p in training.parameters]
    for _ in train(training):
        pass
    moved = [(p - q).abs().mean() for p, q in zip(training.parameters, started, strict=True)]
    assert sum(2e-5 < m < 2e-3 for m in moved) > len(moved) / 2  # behind layers that are still zero nothing moves
    for p, copy in zip(model.parameters(), training.parameters, strict=True):
        assert copy.dtype == torch.float32 and torch.equal(p, copy.bfloat16()) and p.grad is None
    assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_run_of_half_precision_goes_on_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    once, _ = fitted(dtype, steps=6, schedule=constant_rate, warmup=0)
    fitted(dtype, steps=3, schedule=constant_rate, warmup=0, checkpoint=tmp_path)
    twice, run = fitted(dtype, steps=6, schedule=constant_rate, warmup=0, checkpoint=tmp_path)
    assert run.steps == 6 and all(torch.equal(p, q) for p, q in zip(once.parameters(), twice.parameters(), strict=True))


def test_gradients_of_parts_are_summed_in_float32() -> None:
    """Eight parts of a batch give the gradient of the whole to the rounding of one part."""
    found = {}
    for parts in (1, 8):
        model, _ = fitted(torch.bfloat16, steps=1)
        training = Training(model, RING, Settings(batch_size=64, seed=1, accumulate=parts, steps=1, clip=1e9))
        training.step(next(training.source.batches(64, torch.Generator().manual_seed(0))), 0.0)
        found[parts] = torch.cat([p.grad.flatten() for p in training.parameters if p.grad is not None])
    assert found[8].dtype == torch.float32
    assert (found[8] - found[1]).norm() < 0.01 * found[1].norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("given", DTYPES, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_data_are_at_least_as_fine_as_the_network(dtype: torch.dtype, given: torch.dtype, stream: bool) -> None:
    """They are trained on in float32 or finer; coarser ones are refused."""
    x, seen = coarse(32, 2).to(given), []

    def loss(model: Any, x: Tensor, **cond: Any) -> Tensor:
        seen.append(x.dtype)
        return Denoising()(model, x, **cond)

    data = torch.utils.data.DataLoader(x, batch_size=16) if stream else x
    if not is_finer(given, dtype):
        with pytest.raises(
            ValueError, match=f"is {given} on cpu, the model {dtype}; data are not coarser .* move one to the"
        ):
            fitted(dtype, data, steps=1, batch_size=16, loss=loss)
        return
    _, run = fitted(dtype, data, steps=2, batch_size=16, loss=loss)
    assert set(seen) == {at_least_single(given)} and run.steps == 2


@pytest.mark.parametrize(
    "loss", [Denoising(), Denoising(pooled=False, antithetic=True), Implicit(), InputPerturbation(), Variational(20)]
)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_every_loss_of_half_precision_is_formed_in_float32(loss: Any, dtype: torch.dtype) -> None:
    x = coarse(200, 2)
    found, want = (
        loss(network(sdegen.VP(), v), x.to(v), generator=torch.Generator().manual_seed(0))
        for v in (dtype, torch.float64)
    )
    assert found.dtype == torch.float32 and found.isfinite().all()
    low, high = torch.cat([found, want.float()]).quantile(torch.tensor([0.1, 0.9]))
    spread = (high - low).item()
    assert abs(found.median() - want.median()) < 0.3 * spread + 1e-3


def test_a_loss_under_an_autocast_has_targets_of_float32() -> None:
    """A loop of one's own may cast all of a loss: what is cast is the network's answer, not the distances of data."""
    model, x = network(sdegen.VP(), torch.float32, net=sdegen.nets.MLP(40, width=16, depth=1)), coarse(64, 40).float()
    values = []
    for cast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            values.append(Denoising()(model, x, generator=torch.Generator().manual_seed(0)))
    assert values[1].dtype == torch.float32
    assert (values[1].mean() / values[0].mean() - 1).abs() < 0.02


# --- wrappers and baselines -------------------------------------------------------------------------------------------

LABELLED = {"label": torch.tensor([0, 1, 2, 3])}
SEEN = {"y": torch.tensor([0.5], dtype=torch.float64)}


def labelled(dtype: torch.dtype) -> Any:
    return network(sdegen.VP(), dtype, net=sdegen.nets.MLP(2, width=16, depth=1, classes=4))


def classifier(dtype: torch.dtype) -> guidance.NoisyClassifier:
    """Of weights that every dtype here holds exactly."""
    net = network(sdegen.VP(), net=sdegen.nets.MLP(2, width=16, depth=1, out=4)).net
    return guidance.NoisyClassifier(net, sdegen.VP()).to(dtype)


def measured(kind: Any, dtype: torch.dtype) -> Any:
    return kind(network(sdegen.VP(), dtype), measurements.Mask(torch.tensor([True, False]), 0.3))


WRAPPED: dict[str, tuple[Callable[[torch.dtype], Any], dict[str, Any]]] = {
    "Conditioned": (lambda v: Conditioned(labelled(v), **LABELLED), {}),
    "ClassifierFree": (lambda v: guidance.ClassifierFree(labelled(v), 2.0), LABELLED),
    "APG": (lambda v: guidance.APG(labelled(v), 2.0), LABELLED),
    "CFGPlusPlus": (lambda v: guidance.CFGPlusPlus(labelled(v), 0.5, torch.tensor([0.9, 0.3])), LABELLED),
    "CFGZeroStar": (lambda v: guidance.CFGZeroStar(labelled(v), 2.0), LABELLED),
    "RescaledGuidance": (lambda v: guidance.RescaledGuidance(labelled(v), 2.0), LABELLED),
    "ClassifierGuidance": (lambda v: guidance.ClassifierGuidance(network(sdegen.VP(), v), classifier(v)), LABELLED),
    "Clipped": (lambda v: guidance.Clipped(network(sdegen.VP(), v), -1.0, 1.0), {}),
    "DynamicThreshold": (lambda v: guidance.DynamicThreshold(network(sdegen.VP(), v), -1.0, 1.0), {}),
    "EpsilonScaling": (lambda v: guidance.EpsilonScaling(network(sdegen.VP(), v), 1.01), {}),
    "DPS": (lambda v: measured(guidance.DPS, v), SEEN),
    "PiGDM": (lambda v: measured(guidance.PiGDM, v), SEEN),
    "MomentMatching": (lambda v: measured(guidance.MomentMatching, v), SEEN),
    "KalmanUpdate": (lambda v: measured(guidance.KalmanUpdate, v), SEEN),
    "Replacement": (
        lambda v: guidance.Replacement(network(sdegen.VP(), v), measurements.Mask(torch.tensor([True, False]), 0.3)), SEEN,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("states", [torch.float64, torch.float32])
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_wrappers_answer_in_the_dtype_of_the_states(name: str, states: torch.dtype, dtype: torch.dtype) -> None:
    make, cond = WRAPPED[name]
    x = coarse(4, 2).to(states)
    for got, want in zip(
        make(dtype).estimate(x, 0.5, **cond), make(torch.float64).estimate(x.double(), 0.5, **cond), strict=True
    ):
        assert got.dtype == states
        assert (got.double() - want).norm() < (8 * torch.finfo(dtype).eps + 1e-5) * want.norm()


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", ["ClassifierFree", "ClassifierGuidance", "DynamicThreshold", "PiGDM"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_guided_runs_return_the_dtype_of_the_model(name: str, dtype: torch.dtype) -> None:
    make, cond = WRAPPED[name]
    x = sdegen.sample(make(dtype), 4, steps=6, seed=0, **cond)
    want = sdegen.sample(make(torch.float64), 4, steps=6, seed=0, **cond)
    assert x.dtype == dtype and (x.double() - want).abs().max() < 40 * torch.finfo(dtype).eps + 1e-6


BASELINES: dict[str, Callable[[], nn.Module]] = {
    "Autoencoder": lambda: baselines.Autoencoder(Perceptron(2, 2, 8, 1), Perceptron(2, 2, 8, 1)),
    "VAE": lambda: baselines.VAE(Perceptron(2, 4, 8, 1), Perceptron(2, 4, 8, 1), 2),
    "CategoricalVAE": lambda: baselines.CategoricalVAE(Perceptron(2, 3, 8, 1), Perceptron(3, 4, 8, 1), 3),
    "HierarchicalVAE": lambda: baselines.HierarchicalVAE((2,), (2, 1), width=8),
    "RealNVP": lambda: baselines.RealNVP((2,), couplings=2, width=8, depth=1),
    "ResidualFlow": lambda: baselines.ResidualFlow((2,), blocks=2, width=8),
    "ContinuousFlow": lambda: baselines.ContinuousFlow(sdegen.nets.MLP(2, width=8, depth=1), (2,)),
    "GAN": lambda: baselines.GAN(Perceptron(2, 2, 8, 1), Perceptron(2, 1, 8, 1), 2),
    "WGAN": lambda: baselines.WGAN(Perceptron(2, 2, 8, 1), Perceptron(2, 1, 8, 1), 2),
    "WGANGP": lambda: baselines.WGANGP(Perceptron(2, 2, 8, 1), Perceptron(2, 1, 8, 1), 2),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.turns("torch.float16-ContinuousFlow")
def test_baselines_of_half_precision_have_the_losses_of_float32(name: str, dtype: torch.dtype) -> None:
    """What their networks answer is of half precision, and what is made of it of float32; so are their densities."""
    losses, x = [], coarse(3, 2)
    for v in (dtype, torch.float32):
        torch.manual_seed(0)
        model = BASELINES[name]().to(torch.bfloat16).to(torch.float16).to(v)
        run = sdegen.fit(model, RING, steps=3, batch_size=64, seed=0, threads=1, progress=False, lr=1e-4)
        losses.append(run.loss[0])
        if isinstance(model, baselines.NormalizingFlow):
            assert model.log_prob(x.to(v)).isfinite().all() and model.sample(3).dtype == v
    assert losses[0] == pytest.approx(losses[1], rel=0.02, abs=0.02)


class Whole(nn.Module):
    """A learner without a network of its own name."""

    moments = None

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        return self.layer(x)[:, 0].square()


def test_half_precision_without_a_network_to_ask_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"Whole has no network named net, which .* half precision ask apart .* keep it as"
    ):
        sdegen.fit(Whole().bfloat16(), RING, steps=1, progress=False)
    sdegen.fit(Whole(), RING.sample(32), steps=1, batch_size=8, progress=False)  # finer data become float32


class Tanh(measurements.Measurement):
    """A measurement that a user has written, of the coordinates turned."""

    def __call__(self, x: Tensor) -> Tensor:
        return (x @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=x.dtype)).tanh()


class Swirling(sdegen.SDE):
    """A nonlinear process that a user has written, with a matrix in its drift and one for its noise."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x.tanh() @ torch.tensor([[1.0, 0.7], [-0.7, 1.0]], dtype=x.dtype)

    def diffusion(self, x: Tensor, t: Tensor) -> Matrix:
        return Matrix(torch.tensor([[1.0, 0.3], [0.3, 0.7]]))


CORRELATED = sdegen.GaussianMixture(
    torch.full((2,), 0.5), torch.tensor([[1.0, 0.3], [-0.7, 0.1]]), torch.tensor([[[0.31, 0.11], [0.11, 0.27]]] * 2)
)
POINTS = CORRELATED.sample(24, torch.Generator().manual_seed(0)).float()
WHITENED = sdegen.VP().in_coordinates(Whitening.of(torch.tensor([0.3, 0.1]), torch.tensor([[0.5, 0.2], [0.2, 0.3]])))
SEEN_TWICE = torch.tensor([[0.3, -0.2]])


class Elementwise(nn.Module):
    """A network that multiplies no matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7]))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return (x * self.weight).sin() * x.flip(-1)


class Flat(sdegen.models.ScoreModel):
    """A score that is 0 everywhere."""

    def __init__(self, sde: Any) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Any) -> Tensor:
        return torch.zeros_like(x)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def exact(sde: Any) -> sdegen.Exact:
    return sdegen.Exact(sde, CORRELATED)


def log_prob(divergence: Any = None) -> Tensor:
    return sdegen.log_prob(
        network(sdegen.VP(), torch.float32, net=Elementwise()), POINTS[:3], divergence=divergence, tolerance=1e-2,
        generator=seeded(),
    )  # fmt: skip


# Of float32 throughout, with no network in it but such as multiply no matrices.
WITHOUT_A_NETWORK: dict[str, Callable[[], Tensor]] = {
    "sample": lambda: sdegen.sample(exact(sdegen.VP()), x_T=POINTS, steps=10, seed=0),
    "sample, momenta": lambda: sdegen.sample(
        exact(PROCESSES["matrix"]), x_T=POINTS.reshape(12, 2, 2), steps=10, seed=0
    ),
    "sample, whitened": lambda: sdegen.sample(exact(WHITENED), x_T=POINTS, steps=10, seed=0),
    "score": lambda: exact(sdegen.VP()).score(POINTS, 0.3),
    "encode": lambda: sdegen.samplers.encode(exact(sdegen.VP()), POINTS),
    "log_prob, law": lambda: CORRELATED.log_prob(POINTS),
    "log_prob, Hutch++": lambda: log_prob(sdegen.laws.derivatives.HutchPlusPlus(4)),
    "elbo": lambda: sdegen.elbo(exact(sdegen.VP()), POINTS[:3], draws=3, generator=seeded()).value,
    "simulate": lambda: sdegen.simulate(Swirling(), POINTS, 0.0, 0.5, steps=5, generator=seeded()),
    "drift reversed": lambda: Swirling().reverse(Flat(Swirling())).drift(POINTS, torch.tensor(0.3)),
    "DPS": lambda: guidance.DPS(exact(sdegen.VP()), Tanh(0.3)).score(POINTS, 0.3, y=SEEN_TWICE),
    "PiGDM": lambda: guidance.PiGDM(exact(sdegen.VP()), measurements.Linear(torch.ones(1, 2), 0.3)).score(
        POINTS, 0.3, y=torch.ones(1)
    ),
    "blur": lambda: measurements.Blur(1.3, 0.1)(POINTS.reshape(3, 1, 4, 4)),
    "product": lambda: guidance.Product({exact(sdegen.VP()): 1.0, exact(sdegen.VP()): 0.7}).score(POINTS, 0.3),
}


@pytest.mark.turns("sample, whitened")
@pytest.mark.parametrize("name", WITHOUT_A_NETWORK)
def test_an_autocast_reaches_networks_alone(name: str) -> None:
    """To the last bit: states that a process mixes or a solver turns, laws, measurements and derivatives are as without it."""
    want = WITHOUT_A_NETWORK[name]()
    with torch.autocast("cpu", torch.bfloat16):
        got = WITHOUT_A_NETWORK[name]()
    assert got.dtype == want.dtype == torch.float32 and torch.equal(got, want)


def test_an_autocast_reaches_networks() -> None:
    """Of a run they are cast as they would be by themselves, and the answer differs."""
    model, seen = network(sdegen.VP(), torch.float32), []
    model.net.register_forward_hook(lambda net, given, answer: seen.append(answer.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        sdegen.sample(model, 4, steps=3, seed=0)
    assert set(seen) == {torch.bfloat16}


def test_training_under_an_autocast_is_refused() -> None:
    """A setting says what is cast, and a record what was."""
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match=r"^training was called under torch\.autocast"),
    ):
        sdegen.fit(network(sdegen.VP(), torch.float32), RING, steps=1, batch_size=8, progress=False)


# --- metrics ----------------------------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mmd": lambda x, y: metrics.mmd(x, y),
    "kid": lambda x, y: metrics.kid(x, y),
    "frechet": lambda x, y: metrics.frechet_distance(sdegen.laws.moments_of(x), sdegen.laws.moments_of(y)),
    "knn_kl": lambda x, y: metrics.knn_kl(x, y),
    "sliced_wasserstein": lambda x, y: metrics.sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(0)),
    "kl": lambda x, y: metrics.kl(PRIOR, RING, x=x),
    "precision_recall": lambda x, y: metrics.precision_recall(x, y),
    "mode_shares": lambda x, y: metrics.mode_shares(x, RING),
}


def numbers(value: Any) -> Tensor:
    """All numbers of a measure, in a row."""
    if isinstance(value, Tensor):
        return value.double().flatten()
    if isinstance(value, (tuple, list)):
        return torch.cat([numbers(v) for v in value])
    return torch.tensor([float(value)], dtype=torch.float64)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_measures_of_half_precision_data_are_those_of_float64(name: str, dtype: torch.dtype) -> None:
    """To the last digit: data are the same numbers, and only what is made of them could differ."""
    x, y = (coarse(300, 2, seed=k) * (1 + k) for k in range(2))
    x, y = x.to(dtype), y.to(dtype)
    torch.manual_seed(0)
    got = numbers(MEASURES[name](x, y))
    torch.manual_seed(0)
    want = numbers(MEASURES[name](x.double(), y.double()))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)


# What is made of numbers of Python alone: a float64 result takes nothing from torch's default dtype.
LAW = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([0.7], dtype=torch.float64))
LEVELS = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.5], dtype=torch.float64))
TWO = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
Number = Callable[[], float]


def toys(u: Number) -> list[Any]:
    data = sdegen.data
    return [
        data.Moons(0.1 * u()),
        data.Banana(u(), u()),
        data.Funnel(3, u()),
        data.Rings((u(), 1 + u())),
        data.ManyWell(2),
    ]


def on(law: times.TimeLaw) -> Tensor:
    return torch.stack([*law.draw(sdegen.VP(), 50, torch.Generator().manual_seed(0))])


def clock(sde: sdegen.LinearSDE) -> Tensor:
    t = torch.tensor([0.1, 0.7], dtype=torch.float64) * sde.T
    return torch.cat(
        [sde.log_snr(t), sde.time_of_log_snr(sde.log_snr(t)), torch.tensor([sde.t_min, sde.T], dtype=torch.float64)]
    )


FROM_NUMBERS: dict[str, Callable[[Number], Any]] = {
    "clock of VP": lambda u: clock(sdegen.VP(u(), 20 * u())),
    "clock of VE": lambda u: clock(sdegen.VE(0.01 * u(), 30 * u())),
    "clock of CLD": lambda u: clock(sdegen.CLD(u(), u())),
    "clock of OU": lambda u: clock(sdegen.OU(T=3 * u())),
    "t_min of Jacobi": lambda u: processes.Jacobi(1 + u(), 1 + u(), speed=9 * u(), T=u()).t_min,
    "kernel of Jacobi": lambda u: processes.Jacobi(1 + u(), 1 + u(), speed=9 * u()).law_after(TWO / 9, TWO[0]).log_prob(TWO / 7),
    "t_min of CIR": lambda u: processes.CIR().t_min,
    "lift": lambda u: clock(Lifted([[1.0 + u()], [u()]])),
    "log-normal times": lambda u: on(times.LogNormalTimes(-u(), 1 + u())),
    "importance times": lambda u: on(times.ImportanceTimes()),
    "angle times": lambda u: on(times.AngleTimes()),
    "log times": lambda u: on(times.LogTimes()),
    "discrete times": lambda u: on(times.DiscreteTimes(30)),
    "Karras": lambda u: sdegen.grids.Karras(20 * u(), 0.01 * u(), rho=7 * u())(sdegen.EDM(), 9),
    "LogSNR": lambda u: sdegen.grids.LogSNR(end=1e-3 * u())(sdegen.VP(), 9),
    "Angle": lambda u: sdegen.grids.Angle(0.5 * u(), 1e-3 * u())(sdegen.VP(), 9),
    "Quadratic": lambda u: sdegen.grids.Quadratic(1e-3 * u())(sdegen.VP(), 9),
    "estimate": lambda u: metrics.Estimate.of([u(), u(), u()]),
    "units": lambda u: sdegen.Units(u(), u()).standardise(torch.tensor([0.3], dtype=torch.float64)),
    "plane": lambda u: sdegen.laws.PlanarLaw(lambda x: -x.square().sum(1), (-3 - u(), -4), (3 + u(), 4), 20).moments().covariance,
    "measurement": lambda u: seen(u()).score(torch.ones(1, 2, dtype=torch.float64), 0.3, y=[u(), u()]),
    "prior gap": lambda u: metrics.prior_gap(sdegen.OU(T=u()), LEVELS),
    "moments of toys": lambda u: [toy.moments().covariance.sum() for toy in toys(u)],
    "draws of toys": lambda u: [toy.sample(9, torch.Generator().manual_seed(0)).sum() for toy in toys(u)],
}  # fmt: skip


def seen(std: float) -> guidance.PiGDM:
    return guidance.PiGDM(sdegen.Exact(sdegen.VP(), LAW), measurements.Linear(torch.eye(2, dtype=torch.float64), std))


class Lifted(processes.LiftedSDE):
    """Two numbers of one, by a lift that is a list."""

    def __init__(self, E: list[list[float]]) -> None:
        self.E = E

    def F(self, t: Tensor) -> Tensor:
        return -torch.eye(2, dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        return torch.eye(2, dtype=torch.float64)


@pytest.mark.parametrize("name", FROM_NUMBERS)
def test_numbers_of_python_keep_their_digits_under_every_default_dtype(name: str) -> None:
    found = []
    for default in (torch.float64, torch.float32, torch.bfloat16):
        draw = random.Random(name)
        torch.set_default_dtype(default)
        try:
            found.append(FROM_NUMBERS[name](lambda draw=draw: draw.uniform(0.5, 1.5)))
        finally:
            torch.set_default_dtype(torch.float32)
    first, *others = [torch.as_tensor(v, dtype=torch.float64).flatten() for v in found]
    for other in others:
        assert torch.equal(other, first)
