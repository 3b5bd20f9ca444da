"""What `benchmarks.likelihood_recipe` trains for bits: the network, the process, and the training with its curve."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import sdegen
from benchmarks.codec_recipe import From
from benchmarks.devices import called
from benchmarks.files import made
from benchmarks.followed import Points
from benchmarks.likelihood_bits import LOSS, NOISE, continuous
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen import nets
from sdegen.data import Images, Scaling
from sdegen.laws import Units
from sdegen.metrics import Estimate
from sdegen.models import DataParametrization

BETA = 12.0  # VP's beta at T, where noise is twenty times the signal: beyond it nothing is left to learn


@dataclass(frozen=True)
class Recipe:
    """How a model of a set of images is trained.

    Attributes
    ----------
    data
        The name of the images.
    widths, dropout
        Channels of the U-Net at each level, and its dropout.
    std
        The standard deviation of the scaled bytes, roughly.
    steps, batch, lr
        Steps, batch size and learning rate of the training.
    """

    data: str
    widths: tuple[int, ...]
    std: float
    steps: int
    dropout: float = 0.0
    batch: int = 128
    lr: float = 2e-3


RECIPES = {
    "MNIST": Recipe("mnist", (32, 96, 128), 0.6, 9500, batch=256, lr=2.5e-3),
    "Fashion-MNIST": Recipe("fashion_mnist", (32, 96, 128), 0.7, 9500, batch=256, lr=2.5e-3),
    "digits": Recipe("digits", (32, 64), 0.75, 1500, dropout=0.1, batch=64),
}


def process(levels: int) -> sdegen.LinearSDE:
    """Return VP, trained from noise of a part of a step on."""
    start = sdegen.VP(beta_max=BETA).time((NOISE * Scaling(-1, 1, levels).step) ** -2).item()
    return From(start, BETA).in_units(Units())


def build(recipe: Recipe, levels: int, channels: int = 1) -> sdegen.Model:
    """Return an untrained model of images of bytes."""
    inner = nets.UNet(
        nets.ByteMean.inputs * channels,
        recipe.widths,
        out_channels=6 * channels,
        dropout=recipe.dropout,
    )
    net = nets.ByteMean(inner, levels, recipe.std)
    return sdegen.Model(net, process(levels), DataParametrization(recipe.std, delta=1e-9))


class Curve:
    """A callback: the bound of some images that are not trained on, with averaged weights, every so many steps."""

    def __init__(self, path: Path, images: Images, every: int) -> None:
        self.points, self.images, self.every, self.spent = Points(path), images, every, 0.0

    def __call__(self, step: Any) -> None:
        """Write a point where it is time; seconds are those of training alone."""
        if step.step % self.every:
            return
        began = time.perf_counter()
        with step.averaged() as model:
            bits = continuous(model, self.images, 2)
        value, error = Estimate.of(bits)
        self.points.add(step.step, {"seconds": step.seconds - self.spent, "bits": value, "s.e.": error})
        self.spent += time.perf_counter() - began


def split_of(data: str) -> tuple[Images, Images, Images]:
    """Return images for training, those of the curve, and those of the test."""
    split = SPLITS[data]()
    seen, curve = (
        split.train.split(0.9, seed=1) if data == "digits" else split.train.split(1 - 1000 / len(split.train), seed=1)
    )
    return seen, curve, split.test


def third_pixel(images: Images) -> Images:
    """Return images of 28 x 28 seen at every third pixel, 8 x 8."""
    return Images(images.x[..., 3:27:3, 3:27:3].contiguous())


def train(table: Table, name: str, seed: int, path: Path, seconds: float | None = None) -> None:
    """Train a model, for so many seconds at most, and write its weights in half precision, and what was spent beside."""
    recipe, device = RECIPES[name], table.device
    seen, curve, _ = split_of(recipe.data)
    torch.manual_seed(seed)
    model = build(recipe, seen.levels).to(device)
    steps = 20 if table.quick else recipe.steps
    watch = Curve(table.out / f"curve-{path.stem}.csv", curve, max(steps // 12, 1))
    run = sdegen.fit(
        model, seen.without_labels().scaled(-1, 1), steps=steps, batch_size=recipe.batch,
        lr=recipe.lr, warmup=200, loss=LOSS, autocast=torch.bfloat16, seed=seed, checkpoint=path.with_suffix(""), every=500,
        seconds=seconds, callbacks=[watch], progress=False,
    )  # fmt: skip
    sdegen.save(model.half(), path)
    path.with_suffix(".csv").write_text(
        f"steps,seconds,device\n{run.steps},{run.seconds - watch.spent:.1f},{called(device)}\n"
    )


def load(path: Path, device: str) -> Any:
    """Return a model that `train` has written, in single precision."""
    return sdegen.load(path, classes=[From], dtype=torch.float32).to(device)


def better(table: Table, data: str) -> Any:
    """Return the one of two trainings on a set of images that has the lower bound of images held back from training.

    Parameters
    ----------
    table
        This one, for its weights and curves; without weights, the first is trained.
    data
        The name of the images.
    """
    name = next(name for name, recipe in RECIPES.items() if recipe.data == data)
    points = {seed: Points(table.file(f"curve-{name}-{seed}.csv")).read() for seed in (0, 1)}
    there = [seed for seed in points if (table.out / "models" / f"{name}-{seed}.safetensors").exists() and points[seed]]
    seed = min(there, key=lambda seed: points[seed][-1]["bits"], default=0)
    path = table.out / "models" / f"{name}-{seed}.safetensors"
    return load(made(path, partial(train, table, name, seed)), table.device)
