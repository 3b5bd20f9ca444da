"""Does a mode become a category? Categorical VAEs on the ring of eight modes, by seed, temperature and recipe.

    python -m benchmarks.mode_categories           # four recipes of three seeds: two minutes of one core
    python -m benchmarks.mode_categories --quick

A row has the share of points whose category is that of most of their mode, how many such categories there are, and the exact KL.
The picture has the confusion matrix of each training: the share of each mode's points that go to each category.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.families_table import confusion, own_category
from benchmarks.ring import RING
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import baselines, metrics, nets

COLUMNS = {"own category": 3, "categories": 1, "KL": 4, "seeds": 0}
POINTS = 4000


@dataclass
class Recipe:
    """How a categorical VAE is built and trained."""

    encoder: Callable[[], nn.Module]
    lr: float
    temperature: float


def small() -> nn.Module:
    """Return an encoder of two layers."""
    return nets.Perceptron(2, 8, 32, 0)


def large() -> nn.Module:
    """Return an encoder of two residual blocks."""
    return nets.Perceptron(2, 8, 128, 2)


RECIPES = {
    "small encoder, rate 0.01, τ = 0.1": Recipe(small, 1e-2, 0.1),
    "small encoder, rate 0.01, τ = 0.5": Recipe(small, 1e-2, 0.5),
    "small encoder, rate 0.01, τ = 2": Recipe(small, 1e-2, 2.0),
    "large encoder, rate 0.001, τ = 0.5": Recipe(large, 1e-3, 0.5),
}


def trained(recipe: Recipe, table: Table, seed: int) -> Values:
    """Train a categorical VAE, and return which categories its modes have."""
    torch.manual_seed(seed)
    model = baselines.CategoricalVAE(recipe.encoder(), nets.Perceptron(8, 4, 64, 0), 8, temperature=recipe.temperature)
    steps = 50 if table.quick else 3000
    fit_on(table.device, model, RING, steps=steps, lr=recipe.lr, seed=seed, progress=False)
    x = RING.sample(POINTS, torch.Generator().manual_seed(1000 + seed))
    counts = confusion(model, x)
    shares = counts / counts.sum(1, keepdim=True)
    return own_category(counts) | {
        "KL": list(metrics.kl(model, RING, x=x)),
        "confusion": " ".join(f"{share:.3f}" for share in shares.flatten().tolist()),
    }


def read(cells: Values) -> Tensor:
    """Return the confusion matrix of a row, modes by categories, these in the order of the modes that have most of them."""
    shares = torch.tensor([float(share) for share in cells["confusion"].split()]).reshape(8, 8)
    return shares[:, shares.argmax(0).argsort(stable=True)]


def categories_block(table: Table) -> str:
    """Return the table of all recipes."""
    rows = {name: table.row("categories", name, partial(trained, recipe, table)) for name, recipe in RECIPES.items()}
    return table.write("categories", COLUMNS, rows)


def picture(table: Table) -> None:
    """Draw the confusion matrices, a line a recipe and a column a seed."""
    found = {name: table.each("categories", name, partial(trained, recipe, table)) for name, recipe in RECIPES.items()}
    columns = max(map(len, found.values()))
    if not columns:
        return
    figure = Figure(figsize=(2.2 * columns + 2.4, 2.2 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), columns, squeeze=False)
    for line, (name, seeds) in zip(axes, found.items()):
        line[0].set_ylabel(name.replace(", ", "\n"), fontsize=8)
        for ax, (seed, cells) in zip(line, seeds.items()):
            ax.imshow(read(cells), cmap="Blues", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"seed {seed}: {cells['own category'][0]:.3f}, {cells['categories'][0]:.0f}", fontsize=8)
    figure.savefig(table.out / "confusion.png", dpi=100)


def main() -> None:
    """Print the table, and draw the matrices."""
    command.run("mode_categories", __doc__, [categories_block], picture=picture, networks=True)


if __name__ == "__main__":
    main()
