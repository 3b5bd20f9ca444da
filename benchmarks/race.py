"""Wall clock to quality: the FID of peers' U-Nets and loops after some minutes on Fashion-MNIST, and of ours after half of them.

    python -m benchmarks.race --threads 2                  # 75 minutes; pip install ".[peers]" first
    python -m benchmarks.race --threads 1 --minutes 60     # as many minutes of a core; contestants side by side by --only

A row is a contestant: how long it trained, how many images it saw, and the FID of its samples, one column a sampler. All learn
the images without their classes, by networks of 1.8 million parameters. Ours is the recipe of `benchmarks.train_images`; the
peers' is the loop of their examples (`benchmarks.train_speed.ByHand`) with warm-up, cosine decay and averaged weights, in the
precision that is faster for them. Then each draws 2,000 images three ways, which are compared with 2,000 held back. There is
one training of each, and errors are those of the distances alone; the floor, training images in place of samples, is in
`benchmarks.fid_table --data fashion_mnist`.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import sdegen
from benchmarks import command
from benchmarks.fid_images import COUNT, SCALING, as_images
from benchmarks.fid_recipes import ddim
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import PRESETS
from benchmarks.train_speed import ByHand, azula_unet, diffusers_unet
from sdegen import metrics, samplers, training
from sdegen.data import Images
from sdegen.laws import Units
from sdegen.laws.mixtures import moments_of
from sdegen.models.score import ScoreModel

BATCH = 64
WAYS: dict[str, Callable[[Any], samplers.Sampler]] = {
    "default, no noise, 10": partial(samplers.default, steps=10, eta=0.0),
    "default, no noise, 20": partial(samplers.default, steps=20, eta=0.0),
    "DDIM, 50": partial(ddim, steps=50),
}


class Peer(nn.Module, ScoreModel):
    """A peer's network, which gives the noise of step `k` from ``k / 1000``, as a score model of the DDPM process."""

    sde: sdegen.DDPM

    def __init__(self, net: nn.Module, mixed: bool) -> None:
        super().__init__()
        self.net, self.mixed, self.sde = net, mixed, sdegen.DDPM()

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the network's noise as a score; its steps count from 0, the process's from 1."""
        level = (torch.as_tensor(t) - 1 / self.sde.N).clamp_min(0).to(x).expand(len(x))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            noise = self.net(x, level)
        return self.sde.marginal(t).score_from_noise(noise.float())


def train_ours(images: Images, seconds: float) -> tuple[ScoreModel, int]:
    """Train our network for so many seconds, and return it with the number of images it has seen."""
    preset = PRESETS["shipped"]
    net = sdegen.nets.UNet.small(1, 28)
    model = sdegen.Model(net, sdegen.DDPM().in_units(Units()), preset.parametrization)
    run = sdegen.fit(
        model, images.scaled(-1, 1).rows(), seconds=seconds, batch_size=preset.batch_size, lr=preset.lr, warmup=preset.warmup,
        schedule=preset.schedule, loss=preset.loss, autocast=torch.bfloat16, seed=0,
        threads=torch.get_num_threads(), progress=False,
    )  # fmt: skip
    net.mixed = True
    return model, run.steps * preset.batch_size


def train_peer(make: Callable[[], nn.Module], half: bool, images: Images, seconds: float) -> tuple[ScoreModel, int]:
    """Train a peer's network for so many seconds, and return it with the number of images it has seen."""
    x = images.scaled(-1, 1).rows()
    loop = ByHand(make(), half)
    average = AveragedModel(loop.net, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    began, seen, lr = time.perf_counter(), 0, loop.optimiser.param_groups[0]["lr"]
    while (part := (time.perf_counter() - began) / seconds) < 1:
        for index in torch.randperm(len(x)).split(BATCH)[:100]:
            loop.optimiser.param_groups[0]["lr"] = lr * min(1.0, seen / (200 * BATCH)) * training.cosine_decay(part)
            loop.step(x[index])
            average.update_parameters(loop.net)
            seen += len(index)
    model = Peer(average.module.eval(), half)
    model.moments = moments_of(x)
    return model, seen


CONTESTANTS: dict[str, tuple[Callable[[Images, float], tuple[ScoreModel, int]], float]] = {
    "ours": (train_ours, 0.5),
    "azula UNet": (partial(train_peer, azula_unet, True), 1.0),
    "diffusers UNet2DModel": (partial(train_peer, diffusers_unet, False), 1.0),
}


def compete(name: str, minutes: float, seed: int) -> Values:
    """Train one, and judge what it draws."""
    torch.manual_seed(seed)
    learn, share = CONTESTANTS[name]
    split = sdegen.data.fashion_mnist()
    began = time.perf_counter()
    model, seen = learn(split.train, 60 * minutes * share)
    spent = (time.perf_counter() - began) / 60
    net = metrics.features("fashion-cnn-v1")
    held = split.test[torch.randperm(len(split.test), generator=torch.Generator().manual_seed(0))[:COUNT]]
    cells: Values = {
        "minutes": [spent, None],
        "million images": [seen / 1e6, None],
        "threads": [torch.get_num_threads(), None],
    }
    for way, make in WAYS.items():
        x = sdegen.sample(model, COUNT, sampler=make(model), seed=seed, batch=250, progress=False)
        found = metrics.fid(as_images(x, SCALING), held.scaled(0, 1).rows(), net)
        cells[f"FID, {way}"] = [found.value, found.stderr]
    return cells


COLUMNS = {"threads": 0, "minutes": 1, "million images": 2, **{f"FID, {way}": 2 for way in WAYS}}


def race_block(table: Table) -> str:
    """Return all contestants."""
    minutes = 1.0 if table.quick else table.args.minutes
    rows = {name: table.row("race", name, partial(compete, name, minutes)) for name in CONTESTANTS}
    return table.write("race", COLUMNS, rows)


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    parser.add_argument(
        "--minutes",
        type=command.positive,
        default=30.0,
        help="minutes that each peer trains; ours trains half of them (default: 30)",
    )


def main() -> None:
    """Print the table."""
    command.run("race", __doc__, [race_block], seeds=1, options=options, timed=True)


if __name__ == "__main__":
    main()
