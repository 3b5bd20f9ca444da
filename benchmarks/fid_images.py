"""What rows of Fréchet distances share: the images, the models, and the columns by which samples are judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.devices import fit_on
from benchmarks.files import made
from benchmarks.likelihood_training import better
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import P_UNCOND, PRESETS, SPLITS, build, of_digits, train_on
from sdegen import metrics
from sdegen.data import Images, Scaling

COUNT = 2000
SCALING = Scaling(-1, 1)
SHORT = 1500  # steps with batches of 64: a tenth of the images that the shipped models have seen
PROCESSES: dict[str, Callable[[], sdegen.LinearSDE]] = {
    "VP": sdegen.VP,
    "blurring, 2 pixels": lambda: sdegen.Blurring((3, 16, 16)),
}
NETWORKS = {
    "digits": "digits-cnn-v1",
    "mnist": "mnist-cnn-v1",
    "fashion_mnist": "fashion-cnn-v1",
    "sprites": "sprites-cnn-v1",
}


def data_of(table: Table) -> str:
    """Return the name of the data set."""
    return "digits" if table.quick else table.args.data


@dataclass
class Task:
    """What all rows of one data set share."""

    table: Table  # in the folder of the data set

    @property
    def data(self) -> str:
        """The name of the data set."""
        return data_of(self.table)

    @cached_property
    def net(self) -> metrics.FeatureNet:
        """The feature network and classifier."""
        return metrics.features(NETWORKS[self.data])

    @cached_property
    def held(self) -> Images:
        """All images held back."""
        return sdegen.data.sprites_held_out() if self.data == "sprites" else SPLITS[self.data]().test

    @cached_property
    def parts(self) -> tuple[Images, Images]:
        """As many training images as images held back, drawn at random."""
        return equal_parts(SPLITS[self.data]().train, self.held, self.table.args.count)

    @cached_property
    def real(self) -> Tensor:
        """The images held back, as the network takes them."""
        return self.parts[1].scaled(0, 1).rows()

    @cached_property
    def right(self) -> dict[int, metrics.Estimate]:
        """The share of images that the classifier gets right, by class: of all images held back, not only as many as samples."""
        assert self.held.labels is not None
        return metrics.accuracy(self.held.scaled(0, 1).rows(), self.held.labels, self.net).per_class

    @cached_property
    def model(self) -> Any:
        """The shipped model; of the digits, one trained now."""
        if self.data != "digits":
            return sdegen.pretrained(self.data)
        steps = 600 if self.table.quick else 3000
        return of_digits(steps, self.table.out / "models" / "digits.safetensors", self.table.device)

    @cached_property
    def jumping(self) -> Any:
        """The flow map that the shipped model was made into."""
        return sdegen.pretrained(self.data, jumps=True)

    @cached_property
    def of_bits(self) -> Any:
        """The model that was trained for bits, which knows no class."""
        return better(self.table.beside("likelihood_recipe"), self.data)

    @cached_property
    def learned(self) -> Any:
        """The same model with a second head, for the variances, trained by the hybrid loss."""
        steps = 150 if self.table.quick else 600
        path = self.table.out / "models" / "learned.safetensors"
        return sdegen.load(made(path, lambda path: sdegen.save(self._learn(steps), path)))

    def short(self, process: str) -> Any:
        """Return a model of a process after a short training, in which all but the process is alike."""
        path = self.table.out / "models" / f"{process.replace(' ', '-').replace(',', '')}-{SHORT}.safetensors"
        images = SPLITS[self.data]().train
        preset, sde = replace(PRESETS["shipped"], batch_size=64, warmup=100), PROCESSES[process]()

        def make(path: Path) -> None:
            sdegen.save(
                train_on(
                    images, SHORT, preset, path.with_suffix(""), sde=sde, device=self.table.device, progress=False
                )[0],
                path,
            )

        return sdegen.load(made(path, make))

    def _learn(self, steps: int) -> Any:
        images = SPLITS[self.data]().train
        model = build(images, learned=True)
        weights = self.model.net.state_dict()
        for name, value in model.net.state_dict().items():
            # What is new is the half of the last layer that gives the variances; it starts at zero.
            own = torch.zeros_like(value)
            own[tuple(slice(n) for n in weights[name].shape)] = weights[name]
            value.copy_(own)
        fit_on(
            self.table.device, model, images.scaled(-1, 1), steps=steps, batch_size=128, lr=3e-4, warmup=50, p_uncond=P_UNCOND,
            seed=0, loss=sdegen.losses.Hybrid(PRESETS["shipped"].loss), autocast=torch.bfloat16, progress=False,
        )  # fmt: skip
        return model

    def judged(self, x: Tensor, labels: Tensor) -> Values:
        """Return the columns of images in [0, 1] and of the classes that were asked for."""
        found = metrics.accuracy(x, labels, self.net)
        gaps = [
            (100 * (self.right[c].value - own.value), 100 * math.hypot(self.right[c].stderr, own.stderr))
            for c, own in found.per_class.items()
        ]
        own = {"accuracy": [found.overall.value, found.overall.stderr], "worst class": list(max(gaps))}
        return quality(x, self.real, self.net) | own


def equal_parts(train: Images, test: Images, count: int) -> tuple[Images, Images]:
    """Return as many images of each set, drawn at random: `count`, or all of the smaller set."""
    n = min(count, len(train), len(test))
    generator = torch.Generator().manual_seed(0)
    first, second = (part[torch.randperm(len(part), generator=generator)[:n]] for part in (train, test))
    return first, second


def quality(x: Tensor, real: Tensor, net: metrics.FeatureNet) -> Values:
    """Return the columns of samples against images held back, both in [0, 1]."""
    precision, recall = metrics.precision_recall(x, real, net)
    fid, kid = metrics.fid(x, real, net), metrics.kid(x, real, net)
    return {
        "FID": [fid.value, fid.stderr], "KID × 1000": [1000 * kid.value, 1000 * kid.stderr],
        "precision": [precision.value, precision.stderr], "recall": [recall.value, recall.stderr],
        "features": f"{net.name} {net.hash[:8]}",
    }  # fmt: skip


def as_images(x: Tensor, scaling: Scaling) -> Tensor:
    """Return samples as the bytes they stand for, in [0, 1]."""
    u = scaling.inverse(x.float().cpu(), clip=True)
    return Images(u, levels=scaling.levels).scaled(0, 1).rows()
