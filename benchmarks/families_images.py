"""The families table's images: how samples of each family are judged, the curves of training, and the pictures.

A row is a family (`benchmarks.families_table` says what the columns are); the floor is training images in place of samples.
"""

from __future__ import annotations

import json
import math
import time
from argparse import ArgumentParser
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.families import SOURCE_EPOCHS, SOURCE_SPLIT, Family, as_the_sources, images, trained
from benchmarks.families_pictures import curves, picture, side_by_side, slug
from benchmarks.fid_images import COUNT, NETWORKS, SCALING, as_images, equal_parts, quality
from benchmarks.followed import Points
from benchmarks.rows import Values
from benchmarks.tables import COMMITTED, Table
from benchmarks.train_images import SPLITS
from sdegen import baselines, metrics
from sdegen.data import Dequantisation, Images, Scaling, Split

DRAWS = 64  # draws of an importance bound
FLOW_STEPS = {"mnist": 10_000}  # steps of RealNVP; sets without published bits have fewer


def add_preset(parser: ArgumentParser) -> None:
    """Add the option of whose settings trainings on images have."""
    parser.add_argument(
        "--preset",
        choices=["own", "source"],
        default="own",
        help="settings of trainings on images: chosen here, or those of the source projects (default: own)",
    )


def add_epochs(parser: ArgumentParser) -> None:
    """Add the option of how long the source projects' settings train."""
    parser.add_argument(
        "--epochs",
        type=command.positive,
        default=SOURCE_EPOCHS,
        help=f"passes over the data with --preset source (default: {SOURCE_EPOCHS:g})",
    )


def split_of(data: str, preset: str) -> Split:
    """Return the images of a set for training, and those held back."""
    split = SPLITS[data]()
    return split.joined().split(SOURCE_SPLIT, seed=0) if preset == "source" else split


def families_of(data: str, count: int, preset: str, epochs: float, quick: bool = False) -> dict[str, Family]:
    """Return the families that are trained on `count` images of a set, in so many epochs of the sources' recipe."""
    epoch = math.ceil(count / 64)
    found = images(quick, epoch, FLOW_STEPS.get(data, 1500))
    if preset == "own":
        return found
    return {name: as_the_sources(family, round(epochs * epoch)) for name, family in found.items()}


class Judge:
    """What all rows of one set of images share.

    Parameters
    ----------
    table
        In the folder of the images.
    data, preset
        The name of the images, and whose settings the trainings have.
    """

    def __init__(self, table: Table, data: str, preset: str) -> None:
        self.table, self.data, self.preset = table, data, preset

    @cached_property
    def split(self) -> Split:
        """Images for training, and those held back."""
        return split_of(self.data, self.preset)

    @cached_property
    def parts(self) -> tuple[Images, Images]:
        """As many training images as images held back."""
        return equal_parts(self.split.train, self.split.test, COUNT)

    @cached_property
    def families(self) -> dict[str, Family]:
        """The rows that are trained."""
        args = self.table.args
        return families_of(self.data, len(self.split.train), self.preset, args.epochs, self.table.quick)

    @cached_property
    def net(self) -> metrics.FeatureNet:
        """The feature network."""
        return metrics.features(NETWORKS[self.data])

    @cached_property
    def real(self) -> Tensor:
        """Images held back, in [0, 1]."""
        return self.parts[1].scaled(0, 1).rows()

    def cells(self, x: Tensor) -> Values:
        """Return the columns of samples, which are images in [0, 1]."""
        return quality(x, self.real, self.net) | {"count": [len(x), None]}

    def made(self, model: Any, family: Family, n: int, generator: torch.Generator) -> Tensor:
        """Draw samples of a family as images in [0, 1]."""
        kind = Dequantisation if family.dequantised else Scaling
        return as_images(drawn(model, family, n, generator), kind(0, 1, self.split.train.levels))


@torch.no_grad()
def drawn(model: Any, family: Family, n: int, generator: torch.Generator) -> Tensor:
    """Draw samples of a family as it gives them: 250 at a time, but all at once of adversarial ones, which prepare every draw."""
    more = {"mean": True} if family.mean else {}
    size = n if isinstance(model, baselines.Adversarial) else 250
    return torch.cat([model.sample(min(size, n - i), generator, **more) for i in range(0, n, size)])


class Curve:
    """A callback: FID of 1,000 samples after every epoch; of flows, bits of 1,000 images every 500 steps."""

    def __init__(self, judge: Judge, family: Family, name: str, seed: int) -> None:
        self.judge, self.family, self.seed = judge, family, seed
        self.points = Points(judge.table.out / f"curve-{slug(name)}-{seed}.csv")
        self.epoch = max(1, len(judge.split.train) // 64)

    def __call__(self, step: Any) -> None:
        """Measure where it is time."""
        flow = isinstance(step.model, baselines.RealNVP)
        if step.step % (500 if flow else self.epoch):
            return
        # Formed only where it is asked for: the buffers of averaged weights take some batches.
        with step.averaged() as model:
            if flow:
                what, cell = "bits", bits(self.judge, model, self.seed)["bits"]
            else:
                n = min(len(self.judge.real), 1000)
                x = self.judge.made(model, self.family, n, torch.Generator().manual_seed(1))
                what, cell = "FID", metrics.fid(x, self.judge.real, self.judge.net)[:2]
        self.points.add(step.step, {"seconds": step.seconds, what: cell[0], "s.e.": cell[1]})


def on_images(judge: Judge, name: str, seed: int) -> Values:
    """Train a family on images, and judge its samples."""
    table, family, n = judge.table, judge.families[name], len(judge.real)
    folder = table.out / "models" / f"{slug(name)}-{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    curve = Curve(judge, family, name, seed)
    data = judge.split.train
    model, run = trained(
        family, data, seed, None, table.device, checkpoint=folder, every=500, callbacks=[] if table.quick else [curve]
    )
    sdegen.save(model, folder.with_suffix(".safetensors"))
    generator = torch.Generator().manual_seed(seed)
    began = time.perf_counter()
    x = judge.made(model, family, n, generator)
    seconds = (time.perf_counter() - began) / n * 1000
    picture(table, name, x[:100])
    return judge.cells(x) | bits(judge, model, seed) | {
        "parameters": [sum(p.numel() for p in model.parameters()), None], "train s": [run.seconds, None],
        "epochs": [run.steps * 64 / len(data), None], "s per 1,000": [seconds, None],
    }  # fmt: skip


@torch.no_grad()
def bits(judge: Judge, model: Any, seed: int) -> Values:
    """Return bits per number of 1,000 images held back, or their bound; nothing of families that know neither."""
    how = Dequantisation(0, 1, judge.split.test.levels)
    generator = torch.Generator().manual_seed(seed)
    test = judge.parts[1][: 250 if judge.table.quick else 1000].without_labels()
    x = test.dequantised(0, 1).rows(generator=generator).to(next(model.parameters()).device)
    d = x[0].numel()
    if hasattr(model, "estimate"):
        log_prob = lambda part: model.estimate(part, 4, generator)[0]  # noqa: E731
    elif hasattr(model, "log_prob"):
        log_prob = model.log_prob
    elif hasattr(model, "importance_bound"):
        log_prob = lambda part: model.importance_bound(part, DRAWS, generator)  # noqa: E731
    else:
        return {}
    values = torch.cat([log_prob(part).cpu() for part in x.split(250)])
    found = metrics.Estimate.of(how.bits_per_dim(values, d))
    return {"bits, at most" if hasattr(model, "importance_bound") else "bits": list(found)}


def diffusion(judge: Judge, seed: int) -> Values:
    """Judge the shipped score model, told no class, by the default sampler in ten evaluations."""
    model, n = sdegen.pretrained(judge.data).to(judge.table.device), len(judge.real)
    began = time.perf_counter()
    x = sdegen.sample(model, n, steps=10, seed=seed, batch=250, progress=False)
    seconds = (time.perf_counter() - began) / n * 1000
    x = as_images(x, SCALING)
    picture(judge.table, "score model", x[:100])
    card = json.loads((COMMITTED / "train_images" / judge.data / "card.json").read_text())
    return judge.cells(x) | {
        "parameters": [sum(p.numel() for p in model.parameters()), None], "s per 1,000": [seconds, None],
        "train s": [card["seconds"], None], "epochs": [card["epochs"], None],
    }  # fmt: skip


FLOOR, SCORE = "training images", "score model"
IMAGE_COLUMNS = {
    "bits": 3, "bits, at most": 3, "FID": 2, "KID × 1000": 2, "precision": 3, "recall": 3, "parameters": 0, "epochs": 1,
    "train s": 0, "s per 1,000": 1, "count": 0, "features": 0,
}  # fmt: skip


def floor(judge: Judge, seed: int) -> Values:
    """Judge training images in place of samples."""
    x = judge.parts[0].scaled(0, 1).rows()
    picture(judge.table, FLOOR, x[:100])
    return judge.cells(x)


def judge_of(table: Table) -> Judge:
    """Return what the rows of the images that are asked for share."""
    data, preset = "digits" if table.quick else table.args.data, table.args.preset
    return Judge(table.within(data if preset == "own" else f"{data}-{preset}"), data, preset)


def names_of(judge: Judge) -> list[str]:
    """Return the names of all rows but the floor."""
    # The shipped score model has seen what the sources' split holds back.
    shipped = judge.data in ("mnist", "fashion_mnist") and judge.preset == "own"
    return ([SCORE] if shipped else []) + list(images(True, 1))


def image_block(table: Table) -> str:
    """Return all families on a set of images, and training images in place of samples."""
    judge = judge_of(table)
    own = judge.table
    rows = {f"{FLOOR} (floor)": own.row("images", FLOOR, partial(floor, judge), once=True)}
    for name in names_of(judge):
        compute = partial(diffusion, judge) if name == SCORE else partial(on_images, judge, name)
        rows[name] = own.row("images", name, compute, seeds=1, once=name == SCORE)
    return own.write("images", IMAGE_COLUMNS, rows)


def image_picture(table: Table) -> None:
    """Draw samples of all families side by side, and the curves of training."""
    judge = judge_of(table)
    names = [f"{FLOOR} (floor)", *names_of(judge)]
    side_by_side(judge.table, names, judge.table.out / "images.png", curves(judge.table, names))
