"""Our steps and the peers': on the same noise, grid and network they agree to 1e-5 in float32.

The peers run in their own code, the schedulers of diffusers and the samplers of k-diffusion, and are skipped where they are
not installed. diffusers comes with the extra ``test``. k-diffusion asks for numpy below 2 on behalf of a package that its
samplers never touch, so no extra can hold it; the README's command of the tests installs it by itself:

    pip install -c constraints.txt --no-deps k-diffusion

What is compared is every state of a run, twice: ours on its own, and ours one step at a time from each state of the peer.
A difference is the largest of any number of any state, over the root mean square of the states at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import sdegen
from benchmarks.peers import k_diffusion as in_k_diffusion_package
from sdegen import grids, nets
from sdegen.models import NoiseParametrization
from sdegen.samplers import (
    DDIM,
    Ancestral,
    Churn,
    EulerMaruyama,
    ExponentialSDE,
    Heun,
    Multistep,
    PointMass,
    ProbabilityFlow,
    Sampler,
    Singlestep,
    Unbounded,
    log_ratio,
    transition_variance,
)

TOLERANCE = 1e-5
NOISE = NoiseParametrization(std=1.0)  # with it the network of a variance-preserving process sees the state as it is
RUNS = [("points", 10), ("points", 50), ("images", 10)]
# What numpy and torch have to say to the peers' code.
pytestmark = pytest.mark.filterwarnings("ignore:(__array_|.torch.jit.script.):DeprecationWarning")

Make = Callable[[int, grids.Given], Sampler]
Draw = Callable[[Tensor], Tensor]


class Convolutions(nn.Module):
    """The noise in images ``(B, 3, 8, 8)``."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embedding = nets.Sinusoidal()
        self.level = nn.Linear(self.embedding.dim, width)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        h = self.act(self.first(x) + self.level(self.embedding(level))[..., None, None])
        return x + self.last(self.act(self.second(h)))


class Case(NamedTuple):
    """A network that predicts noise, and noise to start from."""

    net: nn.Module
    z: Tensor


@cache
def case(kind: str, dtype: torch.dtype = torch.float32) -> Case:
    # Trained for a second, so that states keep the size of data: what a network gets wrong at the start is divided by
    # alpha(T) = 0.006.
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: nn.Module = nets.MLP(2, width=32, depth=2) if kind == "points" else Convolutions()
    if kind == "points":
        data = sdegen.data.gaussian_ring().sample(2000, generator).float()
    else:
        colour, grain = (torch.randn(500, 3, n, n, generator=generator) for n in (1, 8))
        data = 0.5 * colour + 0.2 * grain
    steps = {"points": 400, "images": 200}[kind]
    sdegen.fit(sdegen.Model(net, sdegen.DDPM(), NOISE), data, steps=steps, batch_size=64, seed=0, progress=False)
    return Case(net.eval().to(dtype), torch.randn(16, *data.shape[1:], generator=generator).to(dtype))


def level(ratio: Tensor, x: Tensor) -> Tensor:
    """What a network is told of the noise level ``sigma / alpha`` of states `x`, whatever the process; ``(1,)``."""
    phi = torch.atan(ratio.double())
    return (0.25 * ((phi.sin() + NOISE.delta) / (phi.cos() + NOISE.delta)).log()).to(x).reshape(1)


def draws() -> torch.Generator:
    """The noise of the steps: both sides draw from such a generator."""
    return torch.Generator().manual_seed(3)


def drawing() -> Draw:
    generator = draws()
    return lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype)


def run(given: Case, sde: sdegen.LinearSDE, sampler: Sampler, x_T: Tensor, final: str = "denoise") -> Tensor:
    """Our states, start and end included."""
    model, noise = sdegen.Model(given.net, sde, NOISE), drawing()
    return sdegen.sample(
        model, x_T=x_T, sampler=sampler, final=final, noise=lambda *_: noise, return_path=True, progress=False
    )


@torch.no_grad()
def follow(
    given: Case,
    sde: sdegen.LinearSDE,
    sampler: Sampler,
    path: Sequence[Tensor],
    final: str = "denoise",
    first: int | None = None,
) -> list[Tensor]:
    """Where our step leads from each of a peer's states and its history; given `first`, from these alone, then on our own."""
    model, noise = sdegen.Model(given.net, sde, NOISE), drawing()
    times = sampler.times(sde, final == "denoise")
    states, state = [path[0]], None
    for k, c in enumerate(sampler.plan(model, times)):
        theirs = first is None or k <= first
        x, state = sampler.step(model, path[k] if theirs else states[k], c, noise, state)
        states.append(x)
    return [*states, model.denoise(path[-2], times[-1])] if final == "denoise" else states


def difference(ours: Sequence[Tensor] | Tensor, theirs: Sequence[Tensor] | Tensor) -> float:
    assert len(ours) == len(theirs) > 1
    pairs = list(zip(ours, theirs, strict=True))
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in pairs)
    return max(((a - b).abs().max() / b.square().mean().sqrt()).item() for a, b in pairs)


def check(given: Case, sde: sdegen.LinearSDE, sampler: Sampler, path: Sequence[Tensor], final: str = "denoise") -> None:
    assert path[0].dtype == torch.float32
    assert difference(run(given, sde, sampler, path[0], final), path) < TOLERANCE
    assert difference(follow(given, sde, sampler, path, final), path) < TOLERANCE


def two_steps(clock: Callable[[grids.Given], Callable[[Tensor], Tensor]]) -> Make:
    """DPM-Solver++(2M). Its first step is of order one on both sides, and so is the last, to zero noise."""
    return lambda n, g: Multistep(n, g, order=2, reference=PointMass(), clock=clock(g))


def midpoint(sde: sdegen.LinearSDE) -> Callable[[grids.Given], Callable[[Tensor], Tensor]]:
    """A clock that stands still at the middle of every step.

    Ours integrates the line through two evaluations in ``log(sigma / alpha)``. The midpoint rule, another method of order
    two, takes the line's value half-way for the whole of the step: that is the integral of a line on this clock.
    """

    def at(grid: grids.Given) -> Callable[[Tensor], Tensor]:
        stops = log_ratio(sde.flow(None).clock(grid.times))

        def clock(phi: Tensor) -> Tensor:
            value = log_ratio(phi)
            near = (value[..., None] - stops).abs().min(-1)
            i = (stops > value[..., None]).sum(-1).clamp(1, len(stops) - 1)
            return torch.where(near.values < 1e-12, stops[near.indices], 0.5 * (stops[i - 1] + stops[i]))

        return clock

    return at


class Pair(NamedTuple):
    """A scheduler of diffusers, and the sampler of ours that does the same mathematics."""

    scheduler: str
    options: dict[str, Any]
    sampler: Make
    eta: float | None = None
    ratio: bool = False  # it moves x / alpha, not x


# Clipping is no part of a solver. Noise prediction has no step to zero noise, its integrand grows without bound: such a run
# goes on at full order down to the first label.
UNCLIPPED: dict[str, Any] = {"clip_sample": False}
DIFFUSERS: dict[str, Pair] = {
    "DDPM, beta tilde": Pair("DDPM", UNCLIPPED | {"variance_type": "fixed_small"}, Ancestral),
    "DDPM, beta": Pair(
        "DDPM", UNCLIPPED | {"variance_type": "fixed_large"}, lambda n, g: Ancestral(n, g, variance=transition_variance)
    ),
    "DDIM": Pair("DDIM", UNCLIPPED, DDIM, eta=0.0),
    "DDIM, eta 0.5": Pair("DDIM", UNCLIPPED, lambda n, g: DDIM(n, g, eta=0.5), eta=0.5),
    "DDIM, eta 1": Pair("DDIM", UNCLIPPED, lambda n, g: DDIM(n, g, eta=1.0), eta=1.0),
    "DPM-Solver++ 1": Pair(
        "DPMSolverMultistep", {"solver_order": 1}, lambda n, g: Multistep(n, g, order=1, reference=PointMass())
    ),
    # What is called "heun" there is the integral of the line, our own weights.
    "DPM-Solver++ 2M, heun": Pair("DPMSolverMultistep", {"solver_type": "heun"}, two_steps(lambda g: log_ratio)),
    "DPM-Solver++ 2M, midpoint": Pair(
        "DPMSolverMultistep", {"solver_type": "midpoint"}, two_steps(midpoint(sdegen.DDPM()))
    ),
    "SDE-DPM-Solver++ 2M, heun": Pair(
        "DPMSolverMultistep",
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        lambda n, g: ExponentialSDE(n, g, order=2, clock=log_ratio),
    ),
    "DEIS 2": Pair(
        "DEISMultistep",
        {"solver_order": 2, "lower_order_final": False},
        lambda n, g: Multistep(n, g, order=2, reference=Unbounded(), clock=log_ratio),
    ),
    # Euler's step of x / alpha in sigma / alpha is DDIM's.
    "Euler": Pair("EulerDiscrete", {}, DDIM, ratio=True),
    "Euler, ancestral": Pair("EulerAncestralDiscrete", {}, Ancestral, ratio=True),
    # Our Heun moves on the angle; the one of EDM is Churn without churn.
    "Heun": Pair("HeunDiscrete", {}, lambda n, g: Churn(n, g, S_churn=0.0), ratio=True),
}
THIRD_ORDER: dict[str, Pair] = {
    "DEIS 3": Pair(
        "DEISMultistep",
        {"solver_order": 3, "lower_order_final": False},
        lambda n, g: Multistep(n, g, order=3, reference=Unbounded(), clock=log_ratio),
    ),
    **{
        f"UniPC 3, {kind}": Pair(
            "UniPCMultistep",
            {"solver_order": 3, "solver_type": kind, "final_sigmas_type": "sigma_min", "lower_order_final": False},
            lambda n, g: Multistep(n, g, order=3, reference=PointMass(), clock=log_ratio, corrector=True),
        )
        for kind in ("bh1", "bh2")
    },
}


class Theirs(NamedTuple):
    """A run of diffusers: its states as ours are scaled, our times, and how it ends."""

    path: list[Tensor]
    grid: grids.Given
    final: str


@pytest.fixture
def diffusers() -> ModuleType:
    return pytest.importorskip("diffusers")


def in_diffusers(diffusers: ModuleType, pair: Pair, given: Case, steps: int) -> Theirs:
    make = getattr(diffusers, f"{pair.scheduler}Scheduler")
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}  # two schedulers have others by default
    # Of the spacings only this one starts at pure noise. Its last step is the one to zero noise, our final="denoise".
    scheduler = make(timestep_spacing="trailing", **betas, **pair.options)
    # Its table is a product in float32: at small times 1 - alpha² is wrong by up to 2e-4 of itself, and the noise with it.
    table = (1 - sdegen.DDPM().betas).cumprod(0)
    scheduler.alphas_cumprod = table
    if pair.scheduler == "DDPM":
        # It adds noise to finished samples unless the last step is the one from the label 0.
        scheduler.set_timesteps(timesteps=[*range(999, 0, -1000 // steps), 0])
    else:
        scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):
        # They are rounded to float32, and a weight is a difference of integrals that are nearly equal: DEIS loses 2e-5.
        exact = torch.cat([(1 / table - 1).sqrt(), torch.zeros(1)])
        scheduler.sigmas = exact[(scheduler.sigmas[:, None] - exact).abs().argmin(1)]
    return walk(pair, given, scheduler)


@torch.no_grad()
def walk(pair: Pair, given: Case, scheduler: Any) -> Theirs:
    sde, sample = sdegen.DDPM(), not pair.options.get("lower_order_final", True)
    labels, heun = scheduler.timesteps, pair.scheduler == "HeunDiscrete"
    stops = torch.cat([labels[:1], labels[1::2]]) if heun else labels  # Heun's asks twice at every label but the first
    times = (torch.cat([stops, stops.new_zeros(1)] if sample else [stops]).double() + 1) / 1000  # label 0 is beta_1
    alphas = [sde.marginal(t).Phi for t in times]
    options: dict[str, Any] = {} if pair.eta is None else {"eta": pair.eta}
    if pair.scheduler in ("DDPM", "DDIM", "DPMSolverMultistep", "EulerAncestralDiscrete"):
        options["generator"] = draws()
    u = alphas[0].inv()(given.z) if pair.ratio else given.z
    path = [given.z]
    for k, label in enumerate(labels):
        told = level(sde.snr((label.double() + 1) / 1000).rsqrt(), u)
        u = scheduler.step(given.net(scheduler.scale_model_input(u, label), told), label, u, **options).prev_sample
        if not heun or k % 2 or k + 1 == len(labels):
            path.append(alphas[len(path)](u) if pair.ratio and len(path) < len(times) else u)
    return Theirs(path, grids.Given(times), "sample" if sample else "denoise")


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("kind", "steps"), RUNS)
@pytest.mark.parametrize("name", DIFFUSERS)
def test_steps_are_those_of_diffusers(diffusers: ModuleType, name: str, kind: str, steps: int) -> None:
    pair, given = DIFFUSERS[name], case(kind)
    path, grid, final = in_diffusers(diffusers, pair, given, steps)
    check(given, sdegen.DDPM(), pair.sampler(len(path) - 1, grid), path, final)


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("kind", "steps"), RUNS)
@pytest.mark.parametrize("name", THIRD_ORDER)
def test_third_order_steps_are_those_of_diffusers_from_the_same_history(
    diffusers: ModuleType, name: str, kind: str, steps: int
) -> None:
    # Ours starts true to its order: early steps go again from the first state. The peers start with lower orders, for which
    # UniPC has rules of its own. Behind three steps of the peer, both have the same polynomials. In float64, because
    # polynomials through clean data that was read off at alpha = 0.006 leave no more than 2e-5 of float32. UniPC corrects a
    # state where the next update begins, ours within this update.
    pair, given = THIRD_ORDER[name], case(kind, torch.float64)
    path, grid, final = in_diffusers(diffusers, pair, given, steps)
    sampler, sde = pair.sampler(len(path) - 1, grid), sdegen.DDPM()
    for first in (None, 3):
        states = follow(given, sde, sampler, path, final, first)
        assert difference(states[4:], path[4:]) < 1e-9


@cache
def k_diffusion() -> tuple[ModuleType, ModuleType]:
    """Its samplers, and its wrappers of other networks."""
    try:
        return in_k_diffusion_package("sampling"), in_k_diffusion_package("external")
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def sampling() -> ModuleType:
    return k_diffusion()[0]


class Levels(NamedTuple):
    """A process as k-diffusion sees it: ``x / alpha`` at noise levels ``sigma / alpha``, and the network as a denoiser."""

    sde: sdegen.LinearSDE
    grid: grids.Given
    sigmas: Tensor
    denoiser: Callable[..., Tensor]


def levels(process: str, given: Case, steps: int) -> Levels:
    sampling, external = k_diffusion()
    if process == "DDPM":
        ddpm = sdegen.DDPM()
        table = (1 - ddpm.betas).cumprod(0)

        def noise(x: Tensor, label: Tensor) -> Tensor:
            return given.net(x, level((1 / table - 1).sqrt()[label[0]], x))

        times = torch.arange(steps, 0, -1, dtype=torch.float64) / steps
        sde: sdegen.LinearSDE = ddpm
        denoiser = external.DiscreteEpsDDPMDenoiser(noise, table.float(), quantize=True)
    else:
        sde = {"EDM": sdegen.EDM, "VE": sdegen.VE}[process]()
        times = grids.Karras()(sde, steps)

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return x - sigma[0] * given.net(x / (1 + sigma[0] ** 2).sqrt(), level(sigma[0], x))

    return Levels(sde, grids.Given(times), sampling.append_zero(sde.snr(times).rsqrt().float()), denoiser)


def in_k_diffusion(name: str, at: Levels, given: Case, **options: Any) -> list[Tensor]:
    """The states of a run, as ours are scaled."""
    laws = [at.sde.marginal(t) for t in at.grid.times]
    states: list[Tensor] = []
    solve = getattr(k_diffusion()[0], f"sample_{name}")
    start = laws[0].Phi.inv()(laws[0].R(given.z))
    end = solve(at.denoiser, start, at.sigmas, callback=lambda seen: states.append(seen["x"]), disable=True, **options)
    states.append(end)
    return [laws[i].Phi(u) if i < len(laws) else u for i, u in enumerate(states)]


K_DIFFUSION: dict[str, tuple[str, dict[str, Any], Callable[[sdegen.LinearSDE], Make]]] = {
    "Euler": ("euler", {}, lambda sde: DDIM),
    "Heun": ("heun", {}, lambda sde: lambda n, g: Churn(n, g, S_churn=0.0)),
    "DPM-Solver++ 2M": ("dpmpp_2m", {}, lambda sde: two_steps(midpoint(sde))),
    "Euler, ancestral": ("euler_ancestral", {}, lambda sde: Ancestral),
    "Euler, ancestral, eta 0.5": ("euler_ancestral", {"eta": 0.5}, lambda sde: lambda n, g: DDIM(n, g, eta=0.5)),
    "DPM-Solver++ 2M SDE": (
        "dpmpp_2m_sde",
        {"solver_type": "heun"},
        lambda sde: lambda n, g: ExponentialSDE(n, g, order=2, clock=log_ratio),
    ),
    # Theirs is a factor on the variance that is put back, ours on the noise.
    "DPM-Solver++ 2M SDE, eta 0.5": (
        "dpmpp_2m_sde",
        {"solver_type": "heun", "eta": 0.25},
        lambda sde: lambda n, g: ExponentialSDE(n, g, order=2, eta=0.5, clock=log_ratio),
    ),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize(("kind", "steps"), RUNS)
@pytest.mark.parametrize("process", ["EDM", "VE", "DDPM"])
@pytest.mark.parametrize("name", K_DIFFUSION)
def test_steps_are_those_of_k_diffusion(sampling: ModuleType, name: str, process: str, kind: str, steps: int) -> None:
    sampler, options, make = K_DIFFUSION[name]
    given, noise = case(kind), drawing()
    at = levels(process, given, steps)
    if "ancestral" in sampler or "sde" in sampler:
        options = options | {"noise_sampler": lambda *_: noise(given.z)}
    check(given, at.sde, make(at.sde)(steps, at.grid), in_k_diffusion(sampler, at, given, **options))


@pytest.mark.parametrize(("kind", "steps"), RUNS)
def test_euler_steps_in_t_of_edm_are_those_of_k_diffusion(sampling: ModuleType, kind: str, steps: int) -> None:
    given = case(kind)  # the noise level is t, but for the smallest
    at = levels("EDM", given, steps)
    check(given, at.sde, EulerMaruyama(steps, at.grid, eta=0.0), in_k_diffusion("euler", at, given))


@pytest.mark.parametrize(("kind", "steps"), RUNS)
@pytest.mark.parametrize("name", ["euler", "heun"])
def test_steps_on_the_angle_are_those_of_k_diffusion(sampling: ModuleType, name: str, kind: str, steps: int) -> None:
    # k-diffusion's slope is (x - denoised) / sigma: told that the angle is sigma, and x - phi v the denoised state, it
    # integrates v on the angle, as our Heun and our fixed methods do.
    given, sde = case(kind), sdegen.DDPM()
    times = torch.linspace(1.0, 0.001, steps + 1, dtype=torch.float64)
    angles = sde.flow(None).clock(times)

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        phi = angles[(angles - sigma[0]).abs().argmin()]
        return x - phi * ((given.net(x, level(phi.tan(), x)) - phi.sin() * x) / phi.cos())

    path: list[Tensor] = []
    solve = getattr(sampling, f"sample_{name}")
    end = solve(denoised, given.z, angles.float(), callback=lambda seen: path.append(seen["x"]), disable=True)
    grid = grids.Given(times)
    sampler = Heun(steps, grid) if name == "heun" else ProbabilityFlow(steps, grid, method="euler")
    check(given, sde, sampler, [*path, end], final="sample")


@pytest.mark.parametrize(("kind", "steps"), RUNS)
def test_churn_is_that_of_k_diffusion(sampling: ModuleType, kind: str, steps: int) -> None:
    # With room to be lifted to above the first level, and none below S_min: theirs would lift the last state too, before
    # the move to zero noise.
    given, sde = case(kind), sdegen.EDM(sigma_max=200.0)
    at = levels("EDM", given, steps)
    x_T = at.sigmas[0] * given.z
    with torch.random.fork_rng():
        torch.manual_seed(draws().initial_seed())  # theirs draws from torch's own generator
        end = sampling.sample_heun(at.denoiser, x_T, at.sigmas, disable=True, s_churn=5.0, s_tmin=0.05, s_noise=1.003)
    ours = run(given, sde, Churn(steps, at.grid, S_churn=5.0, S_min=0.05, S_noise=1.003), x_T)
    assert difference([x_T, ours[-1]], [x_T, end]) < TOLERANCE  # what theirs shows between has been lifted already


@pytest.mark.parametrize(("kind", "steps"), RUNS)
def test_linear_multistep_is_that_of_k_diffusion(sampling: ModuleType, kind: str, steps: int) -> None:
    given = case(kind)
    at = levels("EDM", given, steps)
    at = at._replace(sigmas=at.sigmas[:-1])  # its step to zero noise is of order two, ours to clean data of order one
    path = in_k_diffusion("lms", at, given, order=2)
    sampler = Multistep(steps - 1, at.grid, order=2, reference=Unbounded(), clock=torch.tan)
    check(given, at.sde, sampler, path, final="sample")


@pytest.mark.parametrize(("kind", "steps"), RUNS)
def test_single_steps_of_third_order_are_those_of_k_diffusion(sampling: ModuleType, kind: str, steps: int) -> None:
    given = case(kind)
    at = levels("EDM", given, steps)
    solver = sampling.DPMSolver(at.denoiser)
    path, t = [at.sigmas[0] * given.z], -at.sigmas[:-1].log()
    with torch.no_grad():
        for k in range(steps - 1):
            path.append(solver.dpm_solver_3_step(path[-1], t[k], t[k + 1])[0])
    sampler = Singlestep(steps - 1, at.grid, order=3, reference=Unbounded(), clock=log_ratio)
    check(given, at.sde, sampler, path, final="sample")


@pytest.mark.parametrize("steps", [10, 50])
def test_karras_levels_are_those_of_k_diffusion(sampling: ModuleType, steps: int) -> None:
    sde = sdegen.EDM(sigma_min=0.01, sigma_max=50.0)
    theirs = sampling.get_sigmas_karras(steps, 0.01, 50.0)[:-1]
    torch.testing.assert_close(sde.sigma(grids.Karras()(sde, steps)).float(), theirs, rtol=TOLERANCE, atol=0.0)
