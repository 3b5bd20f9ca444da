"""The speed table: time of sampling beyond the network's own, ours beside the peers', interleaved in one run.

    python -m benchmarks.speed --threads 1       # 7 minutes; pip install "sdegen[peers]" first, or the peers' rows stay empty
    python -m benchmarks.speed --threads 1 --quick

First a network that returns its input: what a step takes is the sampler's alone. Contestants take turns, a whole run each,
for many rounds; medians over rounds with their standard errors, and the ratio to a hand-written DDIM loop of the same
round. Ours pass through `Model`, which scales the network's input and output; the peers are given the network as the
prediction they ask for. Setting up a run (our `plan`, `set_timesteps` of diffusers) is timed apart, per step of the run.

Then a U-Net of two million parameters on images 1x28x28 in batches of 16: the time of a run, set-up included, over the time
spent inside the network in that run. The network's own speed varies from run to run by more than what is measured, so
it is timed by itself, from call to return.

Then the price of noise: a run's draws from a source made for it, beside as many of torch's own.

Last the Fréchet distance of two laws of 2,048 features.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import scipy.linalg
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

import sdegen
from benchmarks.peers import k_diffusion
from benchmarks.rows import Values, arguments, combine, row, write
from sdegen import samplers
from sdegen.metrics import frechet_distance
from sdegen.samplers import BrownianNoise, SampleNoise, Sampler

Run = Callable[[], Any]
Source = Callable[[Tensor], Tensor]
Contestant = Callable[[nn.Module, Tensor, int], Callable[[], Run]]  # network, states, steps -> set up -> run

NOISE_SHAPES = {
    "1x2": (1, 2),
    "64x2": (64, 2),
    "10000x2": (10000, 2),
    "16x1x28x28": (16, 1, 28, 28),
    "64x3x32x32": (64, 3, 32, 32),
}
SHAPES = {"1x2": (1, 2), "1x3x32x32": (1, 3, 32, 32), "64x3x32x32": (64, 3, 32, 32)}


class Echo(nn.Module):
    """A network that takes no time: it returns its input."""

    def forward(self, x: Tensor, *level: Any) -> Tensor:
        return x


# --- contestants -----------------------------------------------------------------------------------------------------


def by_hand(net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """DDIM as one writes it down: ``x = a x + b net(x)`` with two numbers a step."""

    def set_up() -> Run:
        phi = torch.linspace(1.5, 0.01, steps + 1, dtype=torch.float64)
        b = (phi[1:].sin() - phi[1:].cos() * phi[:-1].tan()).tolist()
        a = (phi[1:].cos() / phi[:-1].cos()).tolist()

        def run() -> Tensor:
            u = x
            for k in range(steps):
                u = a[k] * u + b[k] * net(u, k)
            return u

        return run

    return set_up


def ours(make: Callable[[int], Sampler], net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """A sampler of ours, its steps as `sdegen.sample` makes them."""
    model = standardised(net, x)
    sampler = make(steps)

    def set_up() -> Run:
        plan = sampler.plan(model, sampler.times(model.sde, False))

        def run() -> Tensor:
            u, state, noise = x, None, SampleNoise(0)
            for c in plan:
                u, state = sampler.step(model, u, c, noise, state)
            return u

        return run

    return set_up


def whole(net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """`sdegen.sample` with all its defaults: its plan, loop, checks and the last move to clean data are in the run."""
    model = standardised(net, x)
    return lambda: lambda: sdegen.sample(model, x_T=x, steps=steps, progress=False)


def standardised(net: nn.Module, x: Tensor) -> sdegen.Model:
    """The network as a model of independent coordinates of unit variance."""
    model = sdegen.Model(net, sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(x.shape[1:]), torch.ones(x.shape[1:]))
    return model


def in_diffusers(name: str, options: dict[str, Any], net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """A scheduler of diffusers, in the loop of its pipelines."""
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    scheduler = getattr(diffusers, name)(**options)

    def set_up() -> Run:
        scheduler.set_timesteps(steps)

        def run() -> Tensor:
            u = x
            for t in scheduler.timesteps:
                u = scheduler.step(net(scheduler.scale_model_input(u, t), t), t, u).prev_sample
            return u

        return run

    return set_up


def in_azula(name: str, net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """A sampler of azula."""
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Predicted(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.schedule = net, VPSchedule()

        def forward(self, x_t: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return DiracPosterior(self.net(x_t, t))

    denoiser = Predicted()

    def set_up() -> Run:
        sampler = getattr(sample, name)(denoiser, steps=steps, silent=True)
        return partial(sampler, x)

    return set_up


def in_k_diffusion(name: str, net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """A sampler of k-diffusion; its ancestral ones with plain draws instead of a Brownian tree."""
    k = k_diffusion("sampling")
    solve = getattr(k, f"sample_{name}")
    return lambda: partial(solve, net, x, k.get_sigmas_karras(steps, 0.01, 50.0), disable=True)


def in_torchdiffeq(net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Euler's method of torchdiffeq, the network as the right-hand side."""

    def slope(t: Tensor, y: Tensor) -> Tensor:
        return net(y, t)

    times, options = torch.tensor([0.0, 1.0]), {"step_size": 1 / steps}
    return lambda: lambda: odeint(slope, x, times, method="euler", options=options)


def draws(make: Callable[[int], Source], net: nn.Module, x: Tensor, steps: int) -> Callable[[], Run]:
    """Noise alone, none of it kept."""

    def set_up() -> Run:
        noise = make(steps)

        def run() -> None:
            for _ in range(steps):
                noise(x)

        return run

    return set_up


NOISES: dict[str, Callable[[int], Source]] = {  # of a run with so many steps
    "torch.randn": lambda steps: lambda x: torch.randn(x.shape),
    "torch.randn_like": lambda steps: torch.randn_like,
    "SampleNoise": lambda steps: SampleNoise(0),
    "BrownianNoise": lambda steps: BrownianNoise(
        0, torch.linspace(1, 0, steps + 1, dtype=torch.float64), coarsest=steps // (steps & -steps)
    ),
}
HAND = "hand-written DDIM"
CONTESTANTS: dict[str, Contestant] = {
    HAND: by_hand,
    "sdegen DDIM": partial(ours, samplers.DDIM),
    "sdegen Euler in t": partial(ours, lambda n: samplers.EulerMaruyama(n, eta=0.0)),
    "sdegen Euler in the angle": partial(ours, lambda n: samplers.ProbabilityFlow(n, method="euler")),
    "sdegen Multistep 2, point mass": partial(ours, lambda n: samplers.Multistep(n, None, 2, samplers.PointMass())),
    "sdegen Multistep 3": partial(ours, lambda n: samplers.Multistep(n, None, 3, samplers.Normal())),
    "sdegen Multistep 3, corrected": partial(
        ours, lambda n: samplers.Multistep(n, None, 3, samplers.Normal(), corrector=True)
    ),
    "sdegen default, matched moments": partial(ours, lambda n: samplers.Multistep(n, None, 3, corrector=True)),
    "sdegen Heun, 2 evaluations": partial(ours, samplers.Heun),
    "sdegen.sample, default, all": whole,
    "torchdiffeq Euler": in_torchdiffeq,
    "azula DDIM": partial(in_azula, "DDIMSampler"),
    "azula Euler": partial(in_azula, "EulerSampler"),
    "k-diffusion Euler": partial(in_k_diffusion, "euler"),
    "k-diffusion DPM++ 2M": partial(in_k_diffusion, "dpmpp_2m"),
    "diffusers DDIM": partial(in_diffusers, "DDIMScheduler", {"clip_sample": False}),
    "diffusers Euler": partial(in_diffusers, "EulerDiscreteScheduler", {}),
    "diffusers DPM++ 2M": partial(in_diffusers, "DPMSolverMultistepScheduler", {}),
    "diffusers UniPC": partial(in_diffusers, "UniPCMultistepScheduler", {}),
    **{f"noise: {name}": partial(draws, make) for name, make in NOISES.items()},
    "sdegen Ancestral": partial(ours, samplers.Ancestral),
    "sdegen Euler–Maruyama": partial(ours, samplers.EulerMaruyama),
    "azula DDPM": partial(in_azula, "DDPMSampler"),
    "k-diffusion Euler ancestral": partial(in_k_diffusion, "euler_ancestral"),
    "diffusers DDPM": partial(in_diffusers, "DDPMScheduler", {"clip_sample": False}),
}


# --- timing ----------------------------------------------------------------------------------------------------------


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it returns; in one thread the time it has the processor, whoever else wants it."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    collecting = gc.isenabled()
    gc.disable()  # whose turn it is to clear away after the others is chance
    try:
        began = clock()
        result = call()
        return clock() - began, result
    finally:
        if collecting:
            gc.enable()


def median(values: list[float]) -> list[float]:
    """The median, and its standard error from the interquartile range, as for a normal law."""
    v = torch.tensor(values, dtype=torch.float64)
    spread = (v.quantile(0.75) - v.quantile(0.25)).item() / 1.349
    return [v.median().item(), 1.2533 * spread / len(v) ** 0.5]


def contenders(net: nn.Module, x: Tensor, steps: int) -> dict[str, Callable[[], Run]]:
    """All that is installed."""
    found = {}
    for name, make in CONTESTANTS.items():
        try:
            found[name] = make(net, x, steps)
        except ImportError as missing:
            print(f"{name} is left out: {missing}", file=sys.stderr)
    return found


def in_turns(found: dict[str, Callable[[], Run]], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of every set-up and of every run, in each round."""
    setups: dict[str, list[float]] = {name: [] for name in found}
    runs: dict[str, list[float]] = {name: [] for name in found}
    with torch.no_grad():
        for turn in range(rounds + 1):
            for name, set_up in found.items():
                set_up()()  # the caches are full of the contestant before
                taken, run = seconds(set_up)
                ran, _ = seconds(run)
                if turn:  # the first round warms up
                    setups[name].append(taken)
                    runs[name].append(ran)
    return setups, runs


def each(values: list[float], steps: int) -> list[float]:
    """The median of runs in microseconds a step."""
    return median([1e6 * v / steps for v in values])


def ratio(values: list[float], others: list[float]) -> list[float]:
    """The median of ratios of the same round."""
    return median([v / other for v, other in zip(values, others, strict=True)])


def per_step(shape: tuple[int, ...], steps: int, rounds: int, seed: int) -> Values:
    """Microseconds a step and for its set-up, and ratios to the hand-written loop of the same round."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    setups, runs = in_turns(contenders(Echo(), x, steps), rounds)
    cells: Values = {}
    for name, values in runs.items():
        cells[f"{name}: µs"], cells[f"{name}: set-up"] = each(values, steps), each(setups[name], steps)
        cells[f"{name}: ratio"] = ratio(values, runs[HAND])
    return cells


def price_of_noise(shape: tuple[int, ...], calls: int, rounds: int, seed: int) -> Values:
    """Microseconds a call of a run of so many, its source's making shared out, and ratios to `torch.randn`."""
    x = torch.empty(shape)
    setups, runs = in_turns({name: draws(make, Echo(), x, calls) for name, make in NOISES.items()}, rounds)
    whole = {name: [a + b for a, b in zip(setups[name], runs[name], strict=True)] for name in NOISES}
    cells: Values = {f"{name}: µs": each(values, calls) for name, values in whole.items()}
    return cells | {f"{name}: ratio": ratio(values, whole["torch.randn"]) for name, values in whole.items()}


class Timed(nn.Module):
    """Our small U-Net, which adds up the time spent in it; noise levels of any kind are made its own within that time."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = sdegen.nets.UNet.small(channels=1, size=28).eval()
        self.inside, self.calls = 0.0, 0

    def forward(self, x: Tensor, level: Any) -> Tensor:
        taken, out = seconds(lambda: self.net(x, torch.as_tensor(level).to(x).reshape(-1)))
        self.inside, self.calls = self.inside + taken, self.calls + 1
        return out


def with_unet(steps: int, rounds: int, seed: int) -> Values:
    """The time of a run over the time inside the network, and the rest in milliseconds a step."""
    net = Timed(seed)
    x = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    found = {name: v for name, v in contenders(net, x, steps).items() if not name.startswith("noise")}
    ratios: dict[str, list[float]] = {name: [] for name in found}
    rests: dict[str, list[float]] = {name: [] for name in found}
    inside: list[float] = []
    with torch.no_grad():
        for turn in range(rounds + 1):
            for name, set_up in found.items():
                net.inside, net.calls = 0.0, 0
                total, _ = seconds(lambda set_up=set_up: set_up()())  # type: ignore[misc]
                if turn:
                    ratios[name].append(total / net.inside)
                    rests[name].append(1e3 * (total - net.inside) / steps)
                    inside.append(1e3 * net.inside / net.calls)
    cells: Values = {f"{name}: total / network": median(v) for name, v in ratios.items()}
    cells |= {f"{name}: ms": median(v) for name, v in rests.items()}
    return cells | {"parameters": float(sum(p.numel() for p in net.parameters())), "network": median(inside)}


# --- the Fréchet distance ----------------------------------------------------------------------------------------------


def torchmetrics(p: sdegen.Moments, q: sdegen.Moments) -> float:
    """Eigenvalues of the product of the covariances."""
    from torchmetrics.image.fid import _compute_fid

    return _compute_fid(*p, *q).item()


def torch_fidelity(p: sdegen.Moments, q: sdegen.Moments) -> float:
    """Its own root, in numpy."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    laws = ({"mu": law.mean.numpy(), "sigma": law.covariance.numpy()} for law in (p, q))
    return float(fid_statistics_to_metric(*laws, False)["frechet_inception_distance"])


def sqrtm(p: sdegen.Moments, q: sdegen.Moments) -> float:
    """The root of a matrix by scipy, as pytorch-fid forms it."""
    root = scipy.linalg.sqrtm((p.covariance @ q.covariance).numpy()).real.trace()
    gap = (p.mean - q.mean).square().sum()
    return float(gap + p.covariance.trace() + q.covariance.trace() - 2 * root)


DISTANCES: dict[str, Callable[[sdegen.Moments, sdegen.Moments], float]] = {
    "ours": frechet_distance,
    "torchmetrics": torchmetrics,
    "torch-fidelity": torch_fidelity,
    "scipy sqrtm": sqrtm,
}


def distances(d: int, rounds: int, seed: int) -> Values:
    """Seconds of the distance of two laws, ratios to ours of the same round, and how far values are apart."""
    generator = torch.Generator().manual_seed(seed)
    falls = torch.linspace(0, -5, d, dtype=torch.float64).exp()
    p, q = (
        sdegen.Moments(x.mean(0), x.mT.cov())
        for x in (torch.randn(2 * d, d, generator=generator, dtype=torch.float64) * falls for _ in range(2))
    )
    values: dict[str, float] = {}
    taken: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, distance in DISTANCES.items():
            try:
                spent, values[name] = seconds(partial(distance, p, q))
            except (ImportError, RuntimeError):  # RuntimeError: a torchvision of another build of torch
                continue
            if turn:
                taken.setdefault(name, []).append(spent)
    cells: Values = {}
    for name, each_time in taken.items():
        cells[f"{name}: s"], cells[f"{name}: ratio"] = median(each_time), ratio(each_time, taken["ours"])
        cells[f"{name}: apart"] = [abs(values[name] / values["ours"] - 1), None]
    return cells


def main() -> None:
    """Compute what is missing, and print the tables."""
    args = arguments(__doc__.splitlines()[0], "speed")
    steps, seed = 50, args.seeds[0]
    table: dict[str, Values] = {name: {} for name in CONTESTANTS}
    columns: dict[str, int] = {}
    for label, shape in SHAPES.items():
        rounds = (10 if args.quick else 30) if len(shape) > 2 and shape[0] > 1 else (20 if args.quick else 150)
        cells = combine([row(args, "step", label, seed, partial(per_step, shape, steps, rounds))])
        for kind, digits in (("µs", 1), ("ratio", 2), ("set-up", 1)):
            columns[f"{label}: {kind}"] = digits
            for name in CONTESTANTS:
                table[name][f"{label}: {kind}"] = cells.get(f"{name}: {kind}")
    print(write(args, "step", columns, table))
    cells = combine([row(args, "unet", "1x28x28", seed, partial(with_unet, 20, 2 if args.quick else 8))])
    table = {"the network alone": {"parameters": cells.get("parameters"), "ms": cells.get("network")}}
    for name in CONTESTANTS:
        if not name.startswith("noise"):
            table[name] = {kind: cells.get(f"{name}: {kind}") for kind in ("total / network", "ms")}
    print(write(args, "unet", {"total / network": 4, "ms": 3, "parameters": 0}, table))
    table = {}
    for label, shape in NOISE_SHAPES.items():
        for calls in (20, 200):
            numbers = calls * torch.Size(shape).numel()
            rounds = (10 if args.quick else 30) if numbers > 1e6 else (50 if args.quick else 200)
            name = f"{label}, {calls} calls"
            table[name] = combine([row(args, "noise", name, seed, partial(price_of_noise, shape, calls, rounds))])
    columns = {f"{name}: µs": 2 for name in NOISES} | {f"{name}: ratio": 2 for name in ("SampleNoise", "BrownianNoise")}
    print(write(args, "noise", columns, table))
    d = 512 if args.quick else 2048
    cells = combine([row(args, "distance", str(d), seed, partial(distances, d, 3))])
    table = {name: {kind: cells.get(f"{name}: {kind}") for kind in ("s", "ratio", "apart")} for name in DISTANCES}
    print(write(args, "distance", {"s": 2, "ratio": 2, "apart": 15}, table))


if __name__ == "__main__":
    main()
