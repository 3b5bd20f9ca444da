"""Images per second of a training step, ours beside the peers' U-Nets and loops, interleaved, and the machine's own peak.

    python -m benchmarks.train_speed --threads 2       # pip install ".[peers]" first, or the peers' rows stay empty

A row is a network and its loop; the first is the machine's own matrix product.
One step of a DDPM on 64 images 1×28×28: noise, network, loss, backward, AdamW. Ours is `sdegen.fit` as users call it, averages
of the weights and all; the peers' is the loop of their examples around their own network, in float32 and in bfloat16 with
channels last. Contestants take turns, for several laps; medians of steps, and the standard error over laps. Operations are
counted by torch's own counter in a forward and a backward pass; the peak is that of square matrix products of 2,048.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import sdegen
from benchmarks import command
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen.metrics import Estimate

BATCH, SHAPE, STEPS, WARM = 64, (1, 28, 28), 6, 2
Lap = Callable[[], list[float]]  # returns the seconds of some steps


class Asked(nn.Module):
    """A peer's network, called as ours are: the state and a number for each row."""

    def __init__(self, net: nn.Module, call: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.call = net, call

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.call(self.net, x, level)


def diffusers_unet() -> nn.Module:
    """Return UNet2DModel of diffusers, of 1.8 million parameters."""
    import diffusers

    net = diffusers.UNet2DModel(
        sample_size=28, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_num_groups=16,
    )  # fmt: skip
    return Asked(net, lambda net, x, level: net(x, 1000 * level).sample)


def azula_unet(widths: tuple[int, ...] = (64, 96, 128)) -> nn.Module:
    """Return UNet of azula, of 1.7 million parameters."""
    from azula.nn.unet import UNet

    net = UNet(1, 1, hid_channels=widths, hid_blocks=(1, 1, 1), mod_features=64, norm="group")
    embed = sdegen.nets.Sinusoidal(64)
    return Asked(net, lambda net, x, level: net(x, embed(level)))


class ByHand:
    """The loop of the peers' examples: a random step, its noise, the mean squared error, AdamW.

    Parameters
    ----------
    net
        Called as ``net(x, level)``; with `half` its products are formed in bfloat16, channels last.
    """

    def __init__(self, net: nn.Module, half: bool) -> None:
        self.net, self.half = net, half
        if half:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(net.parameters(), 5e-4, fused=True)
        self.alpha_bar = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)

    def step(self, x_0: Tensor) -> None:
        """Take one step on a batch."""
        k, z = torch.randint(1000, (len(x_0),)), torch.randn_like(x_0)
        a = self.alpha_bar[k][:, None, None, None]
        x = a.sqrt() * x_0 + (1 - a).sqrt() * z
        if self.half:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            loss = F.mse_loss(self.net(x, k / 1000).float(), z)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()


def by_hand(net: nn.Module, half: bool) -> Lap:
    """Return a lap of steps of the peers' loop."""
    loop = ByHand(net, half)
    data = torch.randn(4096, *SHAPE)

    def lap() -> list[float]:
        seconds = []
        for _ in range(STEPS):
            began = time.perf_counter()
            loop.step(data[torch.randint(len(data), (BATCH,))])
            seconds.append(time.perf_counter() - began)
        return seconds[WARM:]

    return lap


def by_fit(net: nn.Module, half: bool) -> Lap:
    """Return a lap of steps of `sdegen.fit`."""
    model = sdegen.Model(net, sdegen.DDPM())
    data = torch.randn(4096, *SHAPE)

    def lap() -> list[float]:
        ends: list[float] = []
        sdegen.fit(
            model, data, steps=STEPS, batch_size=BATCH, seed=0, autocast=torch.bfloat16 if half else None,
            threads=torch.get_num_threads(), callbacks=[lambda step: ends.append(time.perf_counter())], progress=False,
        )  # fmt: skip
        return [b - a for a, b in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]

    return lap


NETS: dict[str, Callable[[], nn.Module]] = {
    "ours, UNet.small": lambda: sdegen.nets.UNet.small(1, 28),
    "ours, UNet without patches": lambda: sdegen.nets.UNet(1, (64, 96, 128)),
    "ours, DiT.small": lambda: sdegen.nets.DiT.small(1, 28),
    "diffusers UNet2DModel": diffusers_unet,
    "azula UNet": azula_unet,
    "ours, of as many operations": lambda: sdegen.nets.UNet(1, (192, 96), patch=2),
    "ours, wider": lambda: sdegen.nets.UNet(1, (192, 192), patch=2),
    "azula UNet, wider": partial(azula_unet, (112, 160, 224)),
}


def count_operations(net: nn.Module) -> float:
    """Count the operations of a forward and a backward pass over a batch."""
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(BATCH, *SHAPE), torch.rand(BATCH)).square().mean().backward()
    return float(counter.get_total_flops())


def measure_peak(dtype: torch.dtype, n: int = 2048) -> float:
    """Return the operations per second of a square matrix product, the median of ten."""
    a, b = (torch.randn(n, n).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 / median(seconds[2:])


def time_all(laps: int, seed: int) -> Values:
    """Time all contestants in turns, and return their cells by name and column."""
    torch.manual_seed(seed)
    nets: dict[str, nn.Module] = {}
    for name, make in NETS.items():
        try:
            nets[name] = make()
        except ImportError as missing:
            print(f"{name} is left out: {missing}", file=sys.stderr)
    cells: Values = {}
    contestants: dict[tuple[str, bool], Lap] = {}
    for name, net in nets.items():
        work = count_operations(net)
        cells |= {f"{name}|M parameters": [sum(p.numel() for p in net.parameters()) / 1e6, None]}
        cells |= {f"{name}|GFLOP a step": [work / 1e9, None]}
        start = by_fit if name.startswith("ours") else by_hand
        contestants |= {(name, half): start(NETS[name](), half) for half in (False, True)}
    rates: dict[tuple[str, bool], list[float]] = {key: [] for key in contestants}
    peaks: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(laps):
        for half in peaks:
            peaks[half].append(measure_peak(torch.bfloat16 if half else torch.float32))
        for key, lap in contestants.items():
            rates[key].append(BATCH / median(lap()))
    for (name, half), values in rates.items():
        label = "bfloat16" if half else "float32"
        work = cells[f"{name}|GFLOP a step"][0] / BATCH
        share = [100 * v * work * 1e9 / top for v, top in zip(values, peaks[half], strict=True)]
        cells[f"{name}|images/s, {label}"] = list(Estimate.of(values))
        cells[f"{name}|% of peak, {label}"] = list(Estimate.of(share))
        cells[f"{name}|GFLOP/s, {label}"] = list(Estimate.of([v * work for v in values]))
    for half, tops in peaks.items():
        cells[f"matrix product|GFLOP/s, {'bfloat16' if half else 'float32'}"] = list(
            Estimate.of([v / 1e9 for v in tops])
        )
    return cells


COLUMNS = {
    "M parameters": 2, "GFLOP a step": 1, "images/s, float32": 0, "images/s, bfloat16": 0, "GFLOP/s, float32": 0,
    "GFLOP/s, bfloat16": 0, "% of peak, float32": 0, "% of peak, bfloat16": 0,
}  # fmt: skip


def speed_block(table: Table) -> str:
    """Return all contestants."""
    cells = table.row("speed", "all", partial(time_all, 2 if table.quick else 4))
    rows: dict[str, Values] = {name: {} for name in ("matrix product", *NETS)}
    for key, cell in cells.items():
        name, _, column = key.partition("|")
        if name in rows:
            rows[name][column] = cell
    return table.write("train_speed", COLUMNS, rows)


def main() -> None:
    """Print the table."""
    command.run("train_speed", __doc__, [speed_block], seeds=1, timed=True)


if __name__ == "__main__":
    main()
