"""Guided digits of trained networks by weighted runs, beside guidance without weights at as many evaluations.

    python -m benchmarks.weighted_digits --threads 1        # MNIST, the shipped model: with --own half an hour to an hour
    python -m benchmarks.weighted_digits --data digits      # scikit-learn's, with a model trained for it

A row is a scale of guidance, with weights or without; the first is as many training images, the floor.
A class is one run: as many particles as images of it, guided by ``p(x | c)^w p(x)^(1 − w)``, in reversed steps that end where the
model's default sampler does. `plain` images come of the same steps without weights, `weighted` ones are the particles of a run,
drawn by their weights. They are judged against images held back.

`ancestors` is the effective share of the first particles that have descendants, the mean over classes, and `fewest` that of the
class where it is least. The normaliser of guidance is ``P(c)^(1 − w)`` times the mean of ``P(c | x)^(w − 1)`` over the class, and
so no larger than ``P(c)^(1 − w)``: `log Z above` says by how much that of the run is, and so how far the two scores of the
network are from those of a law and of one of its classes.
"""

from __future__ import annotations

import warnings
from argparse import ArgumentParser
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.fid_images import COUNT, SCALING, Task, as_images, data_of
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from benchmarks.weighted_guidance import known
from sdegen import grids, guidance, samplers

COLUMNS = {
    "FID": 2, "precision": 3, "recall": 3, "accuracy": 3, "effective": 2, "ancestors": 2, "fewest": 2, "log Z above": 2,
    "seeds": 0,
}  # fmt: skip
JUDGED = ("FID", "precision", "recall", "accuracy")
EACH, STEPS, SCALES = 25, 25, (1.25, 1.5, 2.0)


def guided(model: Any, label: int, w: float) -> guidance.Product:
    """Return the product that guidance along a class states."""
    alone = guidance.Without(model, label=torch.tensor(label))
    return guidance.Product([(alone, w), (guidance.Without(model), 1 - w)])


def plain(model: Any, label: int, w: float, n: int, steps: int, seed: int) -> Tensor:
    """Draw images of a class by the steps of a weighted run, without weights."""
    sampler = samplers.ExponentialSDE(steps, grids.Angle(end=model.end))
    return sdegen.sample(guided(model, label, w), n, sampler=sampler, seed=seed, progress=False)


def weigh(model: Any, label: int, w: float, n: int, steps: int, seed: int) -> guidance.Particles:
    """Run weighted particles of a class."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the warnings say is in the row
        return guidance.corrected(guided(model, label, w), n, steps=steps, seed=seed, progress=False)


def size(table: Table) -> tuple[int, int]:
    """Return how many images a class has, and how many steps a run."""
    return (4, 5) if table.quick else (EACH, STEPS)


def judged(task: Task, x: Tensor, labels: Tensor) -> Values:
    """Return the columns of images in [0, 1]."""
    found = task.judged(x, labels)
    return {column: found[column] for column in JUDGED}


def unweighted(task: Task, w: float, seed: int) -> Values:
    """Judge images of all classes without weights."""
    (n, steps), classes, model = size(task.table), len(task.right), task.model.to(task.table.device)
    x = torch.cat([plain(model, c, w, n, steps, classes * seed + c) for c in range(classes)])
    return judged(task, as_images(x, SCALING), torch.arange(classes).repeat_interleave(n))


def weighted(task: Task, w: float, seed: int) -> Values:
    """Judge images of all classes by weighted runs, and return what these say of themselves too."""
    (n, steps), classes, model = size(task.table), len(task.right), task.model.to(task.table.device)
    runs = [weigh(model, c, w, n, steps, classes * seed + c) for c in range(classes)]
    draws = torch.Generator().manual_seed(seed)
    x = torch.cat([run.sample(n, draws) for run in runs])
    ancestors = [known(run.ancestors) / n for run in runs]
    labels = SPLITS[task.data]().train.labels
    assert labels is not None
    most = (1 - w) * (labels.bincount().double() / len(labels)).log()
    above = torch.tensor([known(run.log_evidence) for run in runs]) - most
    return judged(task, as_images(x, SCALING), torch.arange(classes).repeat_interleave(n)) | {
        "effective": [sum(run.effective for run in runs) / (n * classes), None],
        "ancestors": [sum(ancestors) / classes, None],
        "fewest": [min(ancestors), None],
        "log Z above": [above.mean().item(), None],
    }


def floor(task: Task, seed: int) -> Values:
    """Judge as many training images in place of samples."""
    images = SPLITS[task.data]().train
    some = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))]
    some = some[: size(task.table)[0] * len(task.right)]
    assert some.labels is not None
    return judged(task, some.scaled(0, 1).rows(), some.labels)


def digits_block(table: Table) -> str:
    """Return the table of guided digits."""
    task = Task(own := table.within(data_of(table)))
    rows = {"training images (floor)": own.row("digits", "training images", partial(floor, task))}
    for w in (1.0, *SCALES):
        ways = {"plain": unweighted, "weighted": weighted} if w > 1 else {"plain": unweighted}
        for way, compute in ways.items():
            name = f"w = {w:g}, {way}"
            rows[name] = own.row("digits", name, partial(compute, task, w))
    return "\nGuided digits\n\n" + own.write("digits", COLUMNS, rows)


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    command.add_data(parser, ["mnist", "digits"], "mnist", quick="the digits")
    parser.set_defaults(count=COUNT)


def main() -> None:
    """Print the table."""
    command.run("weighted_digits", __doc__, [digits_block], seeds=2, options=options, networks=True)


if __name__ == "__main__":
    main()
