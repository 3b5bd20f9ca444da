"""The speed table: time of sampling beyond the network's own, ours beside the peers', interleaved in one run.

    python -m benchmarks.speed --threads 1       # 7 minutes; pip install ".[peers]" first, or the peers' rows stay empty
    python -m benchmarks.speed --threads 1 --quick

A row is a sampler, ours or a peer's, or a source of noise; a column a shape of the states, or a measure.

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

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import sdegen
from benchmarks import command
from benchmarks.rows import Values
from benchmarks.speed_contestants import CONTESTANTS, HAND, NOISES, Run, draws
from benchmarks.speed_distance import distance_block
from benchmarks.speed_timing import each, in_turns, median, ratio, seconds
from benchmarks.tables import Table

STEPS = 50
NOISE_SHAPES = {
    "1x2": (1, 2),
    "64x2": (64, 2),
    "10000x2": (10000, 2),
    "16x1x28x28": (16, 1, 28, 28),
    "64x3x32x32": (64, 3, 32, 32),
}
SHAPES = {"1x2": (1, 2), "1x3x32x32": (1, 3, 32, 32), "64x3x32x32": (64, 3, 32, 32)}


class Echo(nn.Module):
    """A network that takes no time: it returns its input. It has a weight, as networks have."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, *level: Any) -> Tensor:
        return x


def set_up_all(net: nn.Module, x: Tensor, steps: int) -> dict[str, Callable[[], Run]]:
    """Return the contestants that are installed, set up for a network, and name the others."""
    found = {}
    for name, make in CONTESTANTS.items():
        try:
            found[name] = make(net, x, steps)
        except ImportError as missing:
            print(f"{name} is left out: {missing}", file=sys.stderr)
    return found


def time_steps(shape: tuple[int, ...], steps: int, rounds: int, seed: int) -> Values:
    """Return microseconds a step and for its set-up, and ratios to the hand-written loop of the same round."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    setups, runs = in_turns(set_up_all(Echo(), x, steps), rounds)
    cells: Values = {}
    for name, values in runs.items():
        cells[f"{name}: µs"], cells[f"{name}: set-up"] = each(values, steps), each(setups[name], steps)
        cells[f"{name}: ratio"] = ratio(values, runs[HAND])
    return cells


def time_noise(shape: tuple[int, ...], calls: int, rounds: int, seed: int) -> Values:
    """Return microseconds a draw in runs of so many, the making of the source shared out, and ratios to `torch.randn`."""
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


def time_unet(steps: int, rounds: int, seed: int) -> Values:
    """Return the time of a run over the time inside the network, and the rest in milliseconds a step."""
    net = Timed(seed)
    x = torch.randn(16, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    found = {name: v for name, v in set_up_all(net, x, steps).items() if not name.startswith("noise")}
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


def step_block(table: Table) -> str:
    """Return microseconds a step and for its set-up, at every shape."""
    rows: dict[str, Values] = {name: {} for name in CONTESTANTS}
    columns: dict[str, int] = {}
    for label, shape in SHAPES.items():
        large = len(shape) > 2 and shape[0] > 1
        rounds = (10 if table.quick else 30) if large else (20 if table.quick else 150)
        cells = table.row("step", label, partial(time_steps, shape, STEPS, rounds), once=True)
        for kind, digits in (("µs", 1), ("ratio", 2), ("set-up", 1)):
            columns[f"{label}: {kind}"] = digits
            for name in CONTESTANTS:
                rows[name][f"{label}: {kind}"] = cells.get(f"{name}: {kind}")
    return table.write("step", columns, rows)


def unet_block(table: Table) -> str:
    """Return the time of runs with a network over that inside the network."""
    cells = table.row("unet", "1x28x28", partial(time_unet, 20, 2 if table.quick else 8), once=True)
    rows = {"the network alone": {"parameters": cells.get("parameters"), "ms": cells.get("network")}}
    for name in CONTESTANTS:
        if not name.startswith("noise"):
            rows[name] = {kind: cells.get(f"{name}: {kind}") for kind in ("total / network", "ms")}
    return table.write("unet", {"total / network": 4, "ms": 3, "parameters": 0}, rows)


def noise_block(table: Table) -> str:
    """Return microseconds a draw from every source."""
    rows: dict[str, Values] = {}
    for label, shape in NOISE_SHAPES.items():
        for calls in (20, 200):
            numbers = calls * torch.Size(shape).numel()
            rounds = (10 if table.quick else 30) if numbers > 1e6 else (50 if table.quick else 200)
            name = f"{label}, {calls} calls"
            rows[name] = table.row("noise", name, partial(time_noise, shape, calls, rounds), once=True)
    columns = {f"{name}: µs": 2 for name in NOISES} | {f"{name}: ratio": 2 for name in ("SampleNoise", "BrownianNoise")}
    return table.write("noise", columns, rows)


def main() -> None:
    """Print the tables."""
    command.run("speed", __doc__, [step_block, unet_block, noise_block, distance_block], timed=True)


if __name__ == "__main__":
    main()
