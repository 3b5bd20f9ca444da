"""Images given what was measured of them: a network that was trained on that, beside guidance of one that was not.

    python -m benchmarks.conditional_images --threads 1    # Fashion-MNIST: the training, and ten minutes of one core
    python -m benchmarks.conditional_images --quick

What is measured are the 7 × 7 means of blocks, or what a mask leaves. A row is a method; the images themselves are the floor.
150 test images are measured with noise of 0.05 (data in [−1, 1]). ``PSNR`` is that of a sample in decibels, ``of the mean``
that of the mean of four of the same image, ``covers`` how often the true image lies between the least and the greatest of the
four, along random directions: 0.6 of the exact posterior. Four are drawn of 24 images. ``FID`` and ``KID`` are those of a sample
of each image against all other test images; with so few, FID is mostly bias, and compares with the row of the images alone.
``misfit`` is the root mean square of ``(y − A x) / std``, 1 for the truth. ``Gaussian`` is the posterior of a Gaussian of the
training images' mean and covariance. ``training`` says how much of the recipe of the network was spent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

import sdegen
from benchmarks import command
from benchmarks.conditional_training import BLOCK, DATA, MISSING, STD, STEPS, Card, enlarge, train
from benchmarks.fid_images import NETWORKS, equal_parts
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen import guidance, laws, measurements, metrics, plots, samplers
from sdegen.guidance.measurements import LinearMeasurement
from sdegen.metrics import Estimate

COLUMNS = {
    "PSNR": 2, "of the mean": 2, "covers": 3, "FID": 1, "KID × 1000": 1, "misfit": 2, "evaluations": 0,
    "derivatives": 0, "training": 0, "seeds": 0,
}  # fmt: skip
SHAPE = (1, 28, 28)
DRAWS = 4  # samples of one image
DIRECTIONS = 16
BATCH = 128
TASKS = ("reduced four times", "a square missing", "half missing", "a quarter of the pixels")


def tasks() -> dict[str, LinearMeasurement]:
    """Return what is measured of images."""
    square, half = torch.ones(2, *SHAPE, dtype=torch.bool)
    square[:, 7:21, 7:21] = False
    half[:, 14:] = False
    pixels = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) < 0.25
    masks = (measurements.Mask(mask, STD) for mask in (square, half, pixels))
    return dict(zip(TASKS, (measurements.Downsample(BLOCK, STD), *masks), strict=True))


def as_conditions(A: LinearMeasurement, y: Tensor) -> dict[str, Tensor]:
    """Return what was measured as conditions of the trained network."""
    if isinstance(A, measurements.Mask):
        known = torch.full((len(y), A.mask.numel()), MISSING)
        known[:, A.places] = y
        return {"known": known.reshape(-1, *SHAPE)}
    return {"coarse": enlarge(y.reshape(-1, 1, SHAPE[1] // BLOCK, SHAPE[2] // BLOCK))}


Draw = Callable[["Images", LinearMeasurement, Tensor, int], Tensor]


@dataclass
class Method:
    """A row: how images are drawn, and what each costs.

    Attributes
    ----------
    draw
        Called with the images, the measurement, a row of what was measured for each sample, and a seed.
    evaluations, derivatives
        Passes through the network, forwards and backwards, for each sample.
    trained
        Whether the network was trained for it.
    """

    draw: Draw
    evaluations: int = 0
    derivatives: int = 0
    trained: bool = False


def by_training(images: Images, A: LinearMeasurement, y: Tensor, seed: int) -> Tensor:
    """Draw from the network that was trained on what is measured."""
    given: dict[str, Any] = {name: value.to(images.table.device) for name, value in as_conditions(A, y).items()}
    return sdegen.sample(images.trained[0], len(y), steps=20, seed=seed, batch=BATCH, progress=False, **given)


def by_guidance(
    images: Images, A: LinearMeasurement, y: Tensor, seed: int, make: Callable[..., sdegen.models.ScoreModel]
) -> Tensor:
    """Draw from the unconditional network, guided by what was measured."""
    sampler, seen = samplers.ExponentialSDE(20, eta=0.8), y.to(images.table.device)
    model = make(images.unconditional, A)
    return sdegen.sample(model, len(y), sampler=sampler, seed=seed, y=seen, batch=BATCH, progress=False)


def by_turns(images: Images, A: LinearMeasurement, y: Tensor, seed: int, levels: int, steps: int) -> Tensor:
    """Draw by the split Gibbs sampler."""
    seen = y.to(images.table.device)
    return guidance.split_gibbs(
        images.unconditional, A, len(y), y=seen, levels=levels, steps=steps, seed=seed, batch=BATCH, progress=False
    )


def by_moments(images: Images, A: LinearMeasurement, y: Tensor, seed: int) -> Tensor:
    """Draw from the posterior of a Gaussian with the moments of the training images."""
    found = measurements.posterior_moments(images.moments, A, y)
    assert found is not None
    noise = torch.randn(
        len(y), len(found.covariance), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    values, vectors = torch.linalg.eigh(found.covariance)
    spread = (noise * values.clamp_min(0).sqrt()) @ vectors.T
    return (found.mean.reshape(len(y), *SHAPE) + spread.reshape(-1, *SHAPE)).float()


METHODS = {
    "trained on it, 20": Method(by_training, 20, trained=True),
    "moment matching, 20": Method(partial(by_guidance, make=partial(guidance.MomentMatching, iterations=3)), 20, 80),
    "ΠGDM, 20": Method(partial(by_guidance, make=guidance.PiGDM), 20, 20),
    "DPS, 20": Method(partial(by_guidance, make=partial(guidance.DPS, scale=0.3)), 20, 20),
    "split Gibbs, 20": Method(partial(by_turns, levels=8, steps=2), 20),
    "Gaussian": Method(by_moments),
}


def covers(drawn: Tensor, true: Tensor) -> Estimate:
    """Return how often a true image lies between the least and the greatest of ``(K, draws, *)`` along random directions."""
    along = measurements.random_projection(DIRECTIONS, true[0].numel(), 1.0)
    places, at = along(drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2]), along(true)
    return Estimate.of(((places.amin(1) < at) & (at < places.amax(1))).double().mean(1))


def decibels(x: Tensor, original: Tensor) -> Estimate:
    """Return the peak signal-to-noise ratio of images in [−1, 1], in decibels, its mean over them."""
    error = (x.clamp(-1, 1) - original).square().flatten(1).mean(1) / 4
    return Estimate.of(-10 * error.double().log10())


@dataclass
class Images:
    """Test images, the models of them, and what is judged."""

    table: Table

    @property
    def count(self) -> int:
        """The number of images that are measured."""
        return 16 if self.table.quick else 150

    @property
    def repeated(self) -> int:
        """The number of images of which several samples are drawn."""
        return 8 if self.table.quick else 24

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor]:
        """The images that are measured, and the other test images, both in [−1, 1]."""
        train, test = SPLITS[DATA]()
        whole = equal_parts(train, test, 1000 if self.table.quick else len(test))[1].scaled(-1, 1).rows()
        return whole[: self.count], whole[self.count :]

    @cached_property
    def net(self) -> metrics.FeatureNet:
        """The feature network, on the device."""
        return metrics.features(NETWORKS[DATA]).to(self.table.device)

    @cached_property
    def others(self) -> Tensor:
        """The features of the other test images."""
        return self.features(self.parts[1])

    def features(self, x: Tensor) -> Tensor:
        """Return the features of images in [−1, 1]."""
        with torch.no_grad():
            parts = ((part.clamp(-1, 1) + 1) / 2 for part in x.to(self.table.device).split(500))
            return torch.cat([self.net(part) for part in parts]).cpu()

    @cached_property
    def moments(self) -> laws.Moments:
        """Mean and covariance of the training images."""
        return laws.moments_of(SPLITS[DATA]().train.scaled(-1, 1).rows())

    @cached_property
    def unconditional(self) -> sdegen.Model:
        """The shipped model."""
        return self.ready(sdegen.pretrained(DATA))

    @cached_property
    def trained(self) -> tuple[sdegen.Model, Card]:
        """The model that was trained on what is measured, and its card."""
        model, card = train(self.table.out / "models", 20 if self.table.quick else STEPS, self.table.device)
        return self.ready(model), card

    def ready(self, model: sdegen.Model) -> sdegen.Model:
        """Return a model on the device, with products in bfloat16."""
        net: Any = model.net
        net.mixed = True
        return model.to(self.table.device)

    def judged(self, task: str, x: Tensor, y: Tensor, draws: Tensor | None) -> Values:
        """Return the columns of one sample of each image, and of several draws of the first images."""
        A, (original, _) = tasks()[task], self.parts
        features = self.features(x)
        fid, kid = metrics.fid(features, self.others), metrics.kid(features, self.others)
        single, misfit = decibels(x, original), ((y - A(x)) / STD).square().mean().sqrt().item()
        found: Values = {
            "PSNR": list(single), "misfit": [misfit, None], "FID": [fid.value, fid.stderr],
            "KID × 1000": [1000 * kid.value, 1000 * kid.stderr],
        }  # fmt: skip
        if draws is not None:
            true = original[: len(draws)]
            inside, mean = covers(draws, true), decibels(draws.mean(1), true)
            found |= {"of the mean": list(mean), "covers": list(inside)}
        return found

    def measured(self, task: str) -> Tensor:
        """Return what was measured of the images."""
        return tasks()[task].sample(self.parts[0], torch.Generator().manual_seed(0))

    def by_method(self, task: str, name: str, seed: int) -> Values:
        """Draw images by a method, one of each and more of the first, and judge them."""
        A, y, method = tasks()[task], self.measured(task), METHODS[name]
        asked = torch.cat([y, y[: self.repeated].repeat(DRAWS - 1, *[1] * (y.ndim - 1))])
        x = method.draw(self, A, asked, seed).cpu().float()
        first, again = x[: len(y)], x[len(y) :].reshape(DRAWS - 1, self.repeated, *SHAPE)
        self.keep(task, name, first)
        draws = torch.cat([first[None, : self.repeated], again]).transpose(0, 1)
        cost = {"evaluations": method.evaluations, "derivatives": method.derivatives}
        found = self.judged(task, first, y, draws) | {column: [value, None] for column, value in cost.items()}
        return found | ({"training": f"{self.trained[1]['steps']:,} of {STEPS:,} steps"} if method.trained else {})

    def as_they_are(self, task: str, seed: int) -> Values:
        """Judge the images themselves."""
        found = self.judged(task, self.parts[0], self.measured(task), None)
        del found["PSNR"]
        return found

    def enlarged(self, task: str, mode: str, seed: int) -> Values:
        """Judge the block means, brought to the size of images."""
        y = self.measured(task)
        found = F.interpolate(y.reshape(-1, 1, 7, 7), scale_factor=BLOCK, mode=mode)
        self.keep(task, mode, found)
        return self.judged(task, found, y, None)

    def sheet(self, task: str, name: str) -> Path:
        """Return the file of ten images."""
        return self.table.out / "sheets" / f"{task}, {name}.pt"

    def keep(self, task: str, name: str, x: Tensor) -> None:
        """Keep ten images for the picture."""
        path = self.sheet(task, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(x[:10].clone(), path)


def block(table: Table, task: str) -> str:
    """Return the table of a task."""
    images = Images(table)
    rows = {"the images": table.row(task, f"{task} images", partial(images.as_they_are, task), once=True)}
    for mode in ("nearest", "bicubic") if task == TASKS[0] else ():
        rows[mode] = table.row(task, f"{task} {mode}", partial(images.enlarged, task, mode), once=True)
    for name in METHODS:
        rows[name] = table.row(task, f"{task} {name}", partial(images.by_method, task, name))
    return f"\n{task}\n\n" + table.write(task.replace(" ", "-"), COLUMNS, rows)


def picture(table: Table) -> None:
    """Draw, of tasks whose samples are all in this folder, ten images and every method's sample of each."""
    images = Images(table)
    found = [task for task in TASKS if all(images.sheet(task, name).exists() for name in METHODS)]
    if not found:
        return
    figure = Figure(figsize=(5 * len(found), 4.2), layout="constrained")
    for ax, task in zip(figure.subplots(1, len(found), squeeze=False).flat, found, strict=True):
        drawn = [images.parts[0][:10], *(torch.load(images.sheet(task, name)) for name in METHODS)]
        plots.images((torch.cat(drawn).clamp(-1, 1) + 1) / 2, columns=10, ax=ax, title=task)
    figure.savefig(table.out / "images.png", dpi=100)


def main() -> None:
    """Print the tables."""
    command.run(
        "conditional_images",
        __doc__,
        [partial(block, task=task) for task in TASKS],
        seeds=1,
        picture=picture,
        networks=True,
    )


if __name__ == "__main__":
    main()
