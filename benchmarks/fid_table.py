"""The FID table: DDPM, efficient DDPM sampling, DDIM and the default sampler on one trained model, guided and unguided.

    python -m benchmarks.fid_table --quick                 # scikit-learn's digits: trains a model, minutes
    python -m benchmarks.fid_table --data fashion_mnist    # the shipped model on real data
    python -m benchmarks.fid_table --data mnist --count 10000 --only default
    python -m benchmarks.fid_table --data sprites --inception    # by the network of published distances, of images in colour

A row is a way of sampling: `count` samples with the labels of as many images that were held back, against those images. The
floor is real against real: as many training images. Unless `--count` says otherwise there are 2,000 samples, as many as a CPU
can draw in 1,000 steps.

FID, KID, precision and recall are of the features of the shipped network of the data set, which is a classifier too.
``accuracy`` is the share of samples that it reads as the class that was asked for, and ``worst class`` is by how many points
that is less than of real images, in the class where the loss is largest.

Rows of jumps are of the flow map that the shipped model was made into, without noise between jumps and with it, which takes the
state to the data and back; the default sampler has rows of as few evaluations beside them. *Fitted* is what
`samplers.fit_solver` makes of as few evaluations in five rounds, under classes as frequent as in the training images.

Rows of the models trained for bits are of `likelihood_recipe`, whose weights have to lie below the results that are written to.
Of the sprites two more models are trained, of VP and of blurring diffusion, alike but for the process.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.fid_images import COUNT, SCALING, Task, as_images, data_of
from benchmarks.fid_recipes import Recipe, recipes
from benchmarks.inception import ByInception
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen import metrics, plots

SEEDS = {"digits": 4, "sprites": 4}  # seeds of sets with fewer images held back than a row has samples
BATCH = 250  # samples that go through a network at a time on a CPU; an accelerator takes all, as calls are what it waits for


def drawn(task: Task, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor, float, float]:
    """Draw samples; return them as images in [0, 1], the labels asked for, seconds per 1,000, and evaluations of the network
    for each.
    """
    labels = task.parts[1].labels
    assert labels is not None
    model = recipe.model(task).to(task.table.device)
    sampler = recipe.sampler(model)
    net = next(part for part in model.modules() if hasattr(part, "mixed"))
    net.mixed, rows = True, []
    hook = net.register_forward_pre_hook(lambda net, inputs: rows.append(len(inputs[0])))
    began = time.perf_counter()
    cond: dict[str, Any] = {"label": labels.to(task.table.device)} if recipe.labelled else {}
    batch = BATCH if task.table.device == "cpu" else None
    x = sdegen.sample(model, len(labels), sampler=sampler, seed=seed, batch=batch, progress=None, **cond)
    seconds = (time.perf_counter() - began) / len(labels) * 1000
    hook.remove()
    return as_images(x, SCALING), labels, seconds, sum(rows) / len(labels)


def sampled(task: Task, name: str, recipe: Recipe, seed: int) -> Values:
    """Draw samples by a recipe, and judge them."""
    x, labels, seconds, evaluations = drawn(task, recipe, seed)
    if seed == 0:
        picture(task, name, x, labels)
    cells = task.judged(x, labels)
    if not recipe.labelled:
        del cells["accuracy"], cells["worst class"]
    return cells | {
        "evaluations": [evaluations, None],
        "s per 1,000": [seconds, None],
        "count": [len(x), None],
    }


def floor(task: Task, seed: int) -> Values:
    """Judge training images in place of samples."""
    images, held = task.parts
    assert images.labels is not None and held.labels is not None
    cells = task.judged(images.scaled(0, 1).rows(), images.labels)
    del cells["worst class"]
    # On images that the classifier has not seen either.
    right = metrics.accuracy(task.real, held.labels, task.net).overall
    return cells | {"count": [len(images), None], "accuracy": [right.value, right.stderr]}


def picture(task: Task, name: str, x: Tensor, labels: Tensor) -> None:
    """Draw ten samples of every class, one class a row."""
    rows = [x[labels == c][:10] for c in labels.unique().tolist()]
    whole = [r for r in rows if len(r) == 10]
    if not whole:
        return
    figure = Figure(figsize=(5, 0.5 * len(whole)), layout="constrained")
    plots.images(torch.cat(whole), columns=10, ax=figure.subplots())
    slug = "".join(c if c.isalnum() else "-" for c in name)
    task.table.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(task.table.out / f"{slug}.png", dpi=100)


COLUMNS = {
    "FID": 2, "KID × 1000": 2, "precision": 3, "recall": 3, "accuracy": 3, "worst class": 1, "evaluations": 0,
    "s per 1,000": 1, "count": 0, "features": 0,
}  # fmt: skip

IN_COLOUR = ("sprites",)


def fid_block(table: Table) -> str:
    """Return the floor and every way of sampling."""
    data, count, inception = data_of(table), table.args.count, table.args.inception is not None
    if inception and data not in IN_COLOUR:
        raise SystemExit(
            f"--inception judges images in colour, and those of {data} are grey; take --data {IN_COLOUR[0]}."
        )
    # Rows do not say of how many samples and by which network they are: the folder does.
    own = table.within(data + ("" if count == COUNT else f"-{count}") + ("-inception" if inception else ""))
    task = ByInception(own) if inception else Task(own)
    rows = {"training images (floor)": own.row("fid", "training images", partial(floor, task), once=True)}
    for name, recipe in recipes(table.quick, data).items():
        rows[name] = own.row("fid", name, partial(sampled, task, name, recipe), seeds=SEEDS.get(data))
    return own.write("fid", COLUMNS, rows)


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    command.add_data(parser, list(SPLITS), "digits", quick="the digits")
    command.add_count(parser, COUNT)
    parser.add_argument(
        "--inception",
        nargs="?",
        const="",
        metavar="WEIGHTS",
        help="judge images in colour by Inception v3, from a file of its weights, or from the one that torch-fidelity downloads",
    )


def main() -> None:
    """Print the table."""
    command.run("fid_table", __doc__, [fid_block], seeds=1, options=options, networks=True)


if __name__ == "__main__":
    main()
