"""A block of `benchmarks.likelihood_recipe`: whether models trained for bits end lower where gradients are not clipped.

A row is a set of images, the digits or a small Fashion-MNIST, and one seed of it a pair of trainings from the same weights in
the same batches: bounds of both in bits per number, and the difference at the end and after the first steps, with errors over
images.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.likelihood_bits import DRAWS, LOSS, continuous
from benchmarks.likelihood_training import RECIPES, Recipe, build, split_of, third_pixel
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen.data import Images
from sdegen.metrics import Estimate

EARLY = 250  # steps after which the bound is taken for the first time
KINDS: dict[str, float | None] = {"clipped at 1": 1.0, "not clipped": None}


def digits() -> tuple[Recipe, Images, Images]:
    """Return the recipe of the digits, as it is, with images for training and of the test."""
    seen, _, test = split_of("digits")
    return RECIPES["digits"], seen.without_labels(), test.without_labels()


def small_fashion() -> tuple[Recipe, Images, Images]:
    """Return the recipe of Fashion-MNIST of a network as small as that of the digits, with images of 8 x 8."""
    seen, _, test = split_of("fashion_mnist")
    return Recipe("fashion_mnist", (32, 64), 0.7, 800, batch=64, lr=2.5e-3), third_pixel(seen), third_pixel(test)[:500]


SETS = {"digits, 8 x 8": digits, "Fashion-MNIST, 8 x 8": small_fashion}


def bounds_of(recipe: Recipe, seen: Images, test: Images, steps: int, clip: float | None, seed: int) -> list[Tensor]:
    """Return bounds of test images with averaged weights, after `EARLY` steps and at the end of the training."""
    torch.manual_seed(seed)
    model, early = build(recipe, seen.levels), []

    def look(step: Any) -> None:
        if step.step == EARLY:
            with step.averaged() as averaged:
                early.append(continuous(averaged, test, DRAWS, seed))

    sdegen.fit(
        model, seen.scaled(-1, 1), steps=steps, batch_size=recipe.batch, lr=recipe.lr, warmup=200, loss=LOSS, clip=clip,
        autocast=torch.bfloat16, seed=seed, callbacks=[look], progress=False,
    )  # fmt: skip
    return [*early, continuous(model, test, DRAWS, seed)]


def pair_of(name: str, steps: int | None, seed: int) -> Values:
    """Train twice from one start in the same batches, and return both bounds, by the same draws, and their difference."""
    recipe, seen, test = SETS[name]()
    done = recipe.steps if steps is None else steps
    with_, without = (bounds_of(recipe, seen, test, done, clip, seed) for clip in KINDS.values())
    cells: Values = {kind: list(Estimate.of(bounds[-1])) for kind, bounds in zip(KINDS, (with_, without))}
    looks = {"not clipped − clipped": -1} | ({f"after {EARLY} steps": 0} if len(with_) > 1 else {})
    return cells | {at: list(Estimate.of(without[k] - with_[k])) for at, k in looks.items()} | {"steps": [done, None]}


def clip_block(table: Table) -> str:
    """Return what is lost or gained at the end of a training by clipping gradients."""
    steps = 20 if table.quick else None
    rows = {name: table.row("clip", name, partial(pair_of, name, steps), seeds=2, device="cpu") for name in SETS}
    told = f"the same after {EARLY} steps"
    rows = {name: cells | {told: cells.get(f"after {EARLY} steps")} if cells else {} for name, cells in rows.items()}
    return table.write(
        "clip", {**dict.fromkeys((*KINDS, "not clipped − clipped", told), 3), "steps": 0, "seeds": 0}, rows
    )
