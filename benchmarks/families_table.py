"""The families table: score models, autoencoders, flows and adversarial models under the same metrics.

    python -m benchmarks.families_table --quick                 # the mixture and the digits, short trainings
    python -m benchmarks.families_table                         # the mixture, 3 seeds
    python -m benchmarks.families_table --data fashion_mnist    # images, against those held back

A row is a family, trained as `benchmarks.families` says; the first is true samples, or training images, the floor.
On the mixture: KL by exact densities where they exist, by 64-draw importance bounds where only these do (an upper bound of
the KL), and for all families the same estimates from samples. Of images: FID, KID, precision and recall of 2,000 samples
against as many images held back, and bits per number of 8-bit images under uniform dequantisation, a bound where it says so.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.families import MIXTURE, Family, trained
from benchmarks.families_images import DRAWS, add_epochs, add_preset, image_block, image_picture
from benchmarks.families_pictures import points, side_by_side
from benchmarks.ring import RING
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen import baselines, metrics

BANDWIDTH = 0.15
SEEDS = {  # fewer seeds for rows that take long, or that differ from their neighbours by far more than seeds do
    "continuous flow": 2, "GAN, saturating": 1, "f-GAN, KL": 1, "f-GAN, reverse KL": 1, "WGAN, clipped": 1,
}  # fmt: skip


def on_the_mixture(table: Table, name: str, family: Family, seed: int) -> Values:
    """Train a family on the mixture, and compare its densities and samples with the truth."""
    try:
        model, run = trained(family, RING, seed, 200 if table.quick else None, table.device)
    except sdegen.NonFiniteLoss as error:
        print(error)
        return {"diverged": [1, None]}
    law: Any = sdegen.Density(model) if isinstance(model, sdegen.ScoreModel) else model
    n = 500 if table.quick else 4000
    generator = torch.Generator().manual_seed(1000 + seed)
    x = RING.sample(n, generator)
    cells: Values = {}
    if hasattr(law, "log_prob"):
        cells["KL"] = list(metrics.kl(law, RING, x=x))
    elif hasattr(law, "importance_bound"):
        bound = law.importance_bound(x.float(), DRAWS, generator)
        cells["KL, at most"] = list(metrics.kl_from_log_ratio(RING.log_prob(x), bound.double(), control=False))
    if isinstance(model, baselines.CategoricalVAE):
        cells |= own_category(confusion(model, x))
    began = time.perf_counter()
    y = law.sample(10_000, generator).detach().double().cpu()
    seconds = (time.perf_counter() - began) / 10
    if seed == 0:
        points(table.within("mixture"), name, y)
    return cells | of_samples(y, generator) | {
        "diverged": [0, None], "parameters": [sum(p.numel() for p in model.parameters()), None],
        "train s": [run.seconds, None], "steps": [run.steps, None], "s per 1,000": [seconds, None],
    }  # fmt: skip


@torch.no_grad()
def confusion(model: baselines.CategoricalVAE, x: Tensor) -> Tensor:
    """Return how many points of each mode go to each category, ``(modes, categories)``."""
    mode = torch.cdist(x, RING.means).argmin(1)
    chosen = model.encode(x.float()).argmax(1)
    counts = torch.zeros(len(RING.means), model.categories)
    return counts.index_put((mode, chosen), torch.ones(len(x)), accumulate=True)


def own_category(counts: Tensor) -> Values:
    """Return the share of points that go where most of their mode goes, and how many such categories there are."""
    share, own = counts.max(1)
    return {"own category": [(share.sum() / counts.sum()).item(), None], "categories": [len(own.unique()), None]}


def of_samples(y: Tensor, generator: torch.Generator) -> Values:
    """Return the columns that are judged on samples alone, of all families alike."""
    x = RING.sample(len(y), generator)
    shares = metrics.mode_shares(y, RING)
    smoothed = metrics.KernelDensity(y, BANDWIDTH)
    return {
        "k-NN KL": list(metrics.knn_kl(y, x)),
        "KDE KL": list(metrics.kl(smoothed, RING, x=x[:4000], control=False)),
        "sliced W2": list(metrics.sliced_wasserstein(y, x, generator=generator)),
        "least mode": [shares.min().item(), None],
        "modes": [int((shares >= 0.5).sum()), None],
    }


TRUTH = "true samples"
MIXTURE_COLUMNS = {
    "KL": 4, "KL, at most": 4, "k-NN KL": 3, "KDE KL": 3, "sliced W2": 3, "least mode": 2, "modes": 1, "own category": 3,
    "categories": 1, "diverged": 2, "parameters": 0, "steps": 0, "train s": 0, "s per 1,000": 3, "seeds": 0,
}  # fmt: skip


def truth(table: Table, seed: int) -> Values:
    """Judge true samples."""
    generator = torch.Generator().manual_seed(1000 + seed)
    y = RING.sample(10_000, generator)
    if seed == 0:
        points(table.within("mixture"), TRUTH, y)
    return of_samples(y, generator)


def mixture_block(table: Table) -> str:
    """Return all families on the mixture, and true samples."""
    rows = {f"{TRUTH} (floor)": table.row("mixture", TRUTH, partial(truth, table))}
    for name, family in MIXTURE.items():
        compute = partial(on_the_mixture, table, name, family)
        rows[name] = table.row("mixture", name, compute, seeds=SEEDS.get(name))
    return table.write("mixture", MIXTURE_COLUMNS, rows)


def of_the_mixture(table: Table) -> bool:
    """Tell whether the mixture is asked for."""
    return table.quick or table.args.data == "mixture"


def of_images(table: Table) -> bool:
    """Tell whether images are asked for."""
    return table.quick or table.args.data != "mixture"


def families_block(table: Table) -> str:
    """Return what is asked for."""
    if not of_images(table) and table.args.preset != "own":
        raise SystemExit(f"--preset {table.args.preset} is of trainings on images: add --data, such as fashion_mnist.")
    found = [mixture_block(table)] if of_the_mixture(table) else []
    return "\n".join(found + ([image_block(table)] if of_images(table) else []))


def picture(table: Table) -> None:
    """Draw samples of all families side by side."""
    if of_the_mixture(table):
        side_by_side(table.within("mixture"), [f"{TRUTH} (floor)", *MIXTURE], table.out / "mixture.png")
    if of_images(table):
        image_picture(table)


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    what, both = "the data: the mixture of eight modes, or images", "the mixture and the digits"
    command.add_data(parser, ["mixture", *SPLITS], "mixture", what, quick=both)
    add_preset(parser)
    add_epochs(parser)


def main() -> None:
    """Print the tables."""
    command.run("families_table", __doc__, [families_block], options=options, picture=picture, networks=True)


if __name__ == "__main__":
    main()
