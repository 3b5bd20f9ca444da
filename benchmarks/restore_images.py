"""Images restored from what was measured of them: masked, blurred, reduced. PSNR, and whether a classifier still agrees.

    python -m benchmarks.restore_images                       # Fashion-MNIST, the shipped model: minutes of one core
    python -m benchmarks.restore_images --data sprites

Each of 100 test images is measured with noise of 0.1 (data in [−1, 1]) and restored once; ``PSNR`` is that of the sample in
decibels, ``agrees`` the share whose class a classifier reads as it does of the original, ``misfit`` the root mean square of
``(y − A x) / std``, 1 for the truth. The model is not told the class. A sample of a posterior is no best guess: its mean squared
error is twice that of the posterior mean. ``least squares`` has a little ridge, the noise's variance.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.fid_images import NETWORKS, equal_parts
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen import guidance, measurements, metrics, plots, samplers
from sdegen.files import SHIPPED
from sdegen.guidance.measurements import LinearMeasurement

COLUMNS = {"PSNR": 2, "agrees": 3, "misfit": 2, "evaluations": 0, "s per 100": 1, "seeds": 0}
STD = 0.1


TASKS = ("a square missing", "a quarter of the pixels", "blurred", "reduced four times")
MEASURED = "measured"


def tasks(shape: tuple[int, ...]) -> dict[str, LinearMeasurement]:
    """Return what is done to images of this shape."""
    side = shape[1]
    hole = torch.ones(shape, dtype=torch.bool)
    hole[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = False
    half = torch.rand(shape[1:], generator=torch.Generator().manual_seed(0)).expand(shape) < 0.25
    found = (
        measurements.Mask(hole, STD),
        measurements.Mask(half, STD),
        measurements.Blur(side / 16, STD),
        measurements.Downsample(4, STD),
    )
    return dict(zip(TASKS, found, strict=True))


def methods() -> dict[str, tuple[Callable[..., Any], samplers.Sampler, int]]:
    """Return the wrapper, the sampler and the evaluations of a sample of each method, by name."""
    few, many = samplers.ExponentialSDE(20, eta=0.8), samplers.ExponentialSDE(100)
    return {
        "ΠGDM, 20": (guidance.PiGDM, few, 20),
        "moment matching, 20": (partial(guidance.MomentMatching, iterations=3), few, 20),
        "replacement, 20": (guidance.Replacement, few, 20),
        "DPS, 100": (partial(guidance.DPS, scale=0.3), many, 100),
    }


def judged(x: Tensor, original: Tensor, y: Tensor, A: LinearMeasurement, net: Any) -> Values:
    """Return the columns of restored images in [−1, 1]."""
    shown, truth = ((v + 1) / 2 for v in (x.clamp(-1, 1), original))
    psnr = -10 * (shown - truth).square().flatten(1).mean(1).log10()
    agrees = (net.logits(shown).argmax(1) == net.logits(truth).argmax(1)).double()
    misfit = ((y - A(x)) / A.std).square().mean().sqrt().item()
    n = math.sqrt(len(x))
    return {
        "PSNR": [psnr.mean().item(), psnr.std().item() / n],
        "agrees": [agrees.mean().item(), agrees.std().item() / n],
        "misfit": [misfit, None],
    }


@dataclass
class Images:
    """Test images, what was measured of them, and what restores them."""

    table: Table

    @property
    def data(self) -> str:
        """The name of the images."""
        return self.table.args.data

    @property
    def count(self) -> int:
        """The number of images."""
        return 10 if self.table.quick else 100

    @cached_property
    def original(self) -> Tensor:
        """The images as they are, in [−1, 1]."""
        train, test = SPLITS[self.data]()
        return equal_parts(train, test, self.count)[1].scaled(-1, 1).rows()

    @cached_property
    def net(self) -> metrics.FeatureNet:
        """The classifier."""
        return metrics.features(NETWORKS[self.data])

    @cached_property
    def model(self) -> Any:
        """The shipped model."""
        return sdegen.pretrained(self.data).to(self.table.device)

    @cached_property
    def tasks(self) -> dict[str, LinearMeasurement]:
        """The measurements, by name."""
        return tasks(tuple(self.original.shape[1:]))

    def measured(self, task: str) -> Tensor:
        """Return the measurements of a task."""
        return self.tasks[task].sample(self.original, torch.Generator().manual_seed(0))

    def by_method(self, task: str, name: str, seed: int) -> Values:
        """Restore the images by a method, and judge them."""
        make, sampler, evaluations = methods()[name]
        A, y = self.tasks[task], self.measured(task)
        model, seen = make(self.model, A), y.to(self.table.device)
        began = time.perf_counter()
        x = sdegen.sample(model, self.count, sampler=sampler, seed=seed, y=seen, progress=False).cpu()
        seconds = (time.perf_counter() - began) * 100 / self.count
        self.keep(task, name, x)
        found = judged(x, self.original, y, A, self.net)
        return found | {"evaluations": [evaluations, None], "s per 100": [seconds, None]}

    def by_least_squares(self, task: str, seed: int) -> Values:
        """Restore the images by the measurement alone, and judge them."""
        A, y, shape = self.tasks[task], self.measured(task), self.original.shape[1:]
        u = guidance.conjugate_gradients(lambda u: A(A.transpose(u, shape)) + A.std**2 * u, y)
        x = A.transpose(u, shape)
        self.keep(task, MEASURED, x)
        return judged(x, self.original, y, A, self.net)

    def sheet(self, task: str, name: str) -> Path:
        """Return the file of ten restored images."""
        return self.table.out / "sheets" / f"{self.data}, {task}, {name}.pt"

    def keep(self, task: str, name: str, x: Tensor) -> None:
        """Keep ten restored images for the picture."""
        path = self.sheet(task, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(x[:10].clone(), path)


def restored_block(table: Table) -> str:
    """Return a table for every task."""
    images, found = Images(table), []
    for task in TASKS:
        rows = {
            "least squares": table.row(
                images.data, f"{task} least squares", partial(images.by_least_squares, task), once=True
            )
        }
        for name in methods():
            rows[name] = table.row(images.data, f"{task} {name}", partial(images.by_method, task, name))
        title = f"\n{images.data}, {task}\n\n"
        found.append(title + table.write(f"{images.data}-{task.replace(' ', '-')}", COLUMNS, rows))
    return "\n".join(found)


def picture(table: Table) -> None:
    """Draw, if this folder has all of them, ten images, what least squares make of the measurement, and every method's sample."""
    images = Images(table)
    sheets = {task: [images.sheet(task, name) for name in (MEASURED, *methods())] for task in TASKS}
    if not all(path.exists() for paths in sheets.values() for path in paths):
        return
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    for ax, (task, paths) in zip(figure.subplots(2, 2).flat, sheets.items(), strict=True):
        rows = torch.cat([images.original[:10], *(torch.load(path) for path in paths)])
        plots.images((rows + 1) / 2, columns=10, ax=ax, title=task)
    figure.savefig(table.out / f"{images.data}.png", dpi=100)


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    command.add_data(parser, list(SHIPPED), "fashion_mnist")


def main() -> None:
    """Print the tables."""
    command.run("restore_images", __doc__, [restored_block], seeds=1, options=options, picture=picture, networks=True)


if __name__ == "__main__":
    main()
