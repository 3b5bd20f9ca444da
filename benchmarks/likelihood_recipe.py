"""Models that are trained for bits: MNIST, Fashion-MNIST and scikit-learn's digits, beside RealNVP, and what the parts are worth.

    python -m benchmarks.likelihood_recipe --threads 1                    # three hours of a core for each row of each seed
    python -m benchmarks.likelihood_recipe --device cuda                   # the same steps in minutes
    python -m benchmarks.likelihood_recipe --quick

A row is a set of images, in the first table, or in the others a change of the recipe or a short training that isolates a part
of it.
The network tells what byte it expects at each pixel (`nets.ByteMean`), and is trained by the likelihood's weighting, with times
even in the log-SNR, from noise of a sixth of a step between bytes on. Test images are judged by the probability flow, from bytes
with noise of that size, cut off at the edge of the cell (`noised_bits_per_dim`), with one probe; by a chain of `CHAIN` steps, the
last of which generates bytes (`discrete_bits_per_dim`); and by the bound in continuous time, for which the loss is drawn `DRAWS`
times for each. All three are bounds from above in the mean.
"""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import Any

import torch

import sdegen
from benchmarks import command
from benchmarks.files import made
from benchmarks.likelihood_bits import LOSS, both, chain_times, scaling_of
from benchmarks.likelihood_clip import clip_block
from benchmarks.likelihood_curves import draw
from benchmarks.likelihood_dequantised import dequantised_block
from benchmarks.likelihood_parts import parts_block, starts_block
from benchmarks.likelihood_schedule import schedule_block
from benchmarks.likelihood_training import RECIPES, Recipe, build, load, split_of, train
from benchmarks.rows import Key, Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen.metrics import Estimate

CHAIN = 400
KINDS = {"float32": None, "bfloat16": torch.bfloat16}  # numbers that steps are timed with


def judged(table: Table, name: str, seed: int) -> Values:
    """Train where there are no weights yet, and judge test images."""
    recipe, stem = RECIPES[name], f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    path = table.out / "models" / f"{stem}.safetensors"
    model = load(made(path, partial(train, table, name, seed, seconds=table.args.seconds)), table.device)
    _, _, test = split_of(recipe.data)
    n = 20 if table.quick else min(1000, len(test))
    test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:n]].without_labels()
    times, seeded = chain_times(model, 20 if table.quick else CHAIN), torch.Generator().manual_seed(seed)
    chain = sdegen.discrete_bits_per_dim(model, test.x, scaling_of(test), times, generator=seeded, batch=1000)
    steps, seconds, device = path.with_suffix(".csv").read_text().splitlines()[1].split(",")
    return both(model, test, seed) | {
        "chain": list(Estimate.of(chain.value.cpu())),
        "images": [n, None],
        "parameters": [sum(p.numel() for p in model.parameters()), None],
        "steps": [int(steps), None],
        "batch": [recipe.batch, None],
        "train s": [float(seconds), None],
        "device": device,  # the device of the training, wherever the model is judged
    }


def priced(recipe: Recipe) -> str:
    """Return what the cost of a step depends on."""
    side = SPLITS[recipe.data]().test.x.shape[-1]
    return f"{side} x {side}, widths {recipe.widths}"


def cost(name: str, repeats: int, seed: int) -> Values:
    """Return the seconds that a training step takes of one core, the least of several, in single precision and with bfloat16."""
    recipe, found = RECIPES[name], {}
    seen = split_of(recipe.data)[0].without_labels().scaled(-1, 1)
    for column, kind in KINDS.items():
        model = build(recipe, seen.images.levels)
        moments: list[float] = []

        def mark(step: Any, moments: list[float] = moments) -> None:
            moments.append(time.process_time())

        sdegen.fit(
            model, seen, steps=repeats, batch_size=recipe.batch, loss=LOSS, autocast=kind, threads=1, seed=0, callbacks=[mark],
            progress=False,
        )  # fmt: skip
        found[column] = [min(b - a for a, b in itertools.pairwise(moments[1:])), None]
    return found


def price_of(table: Table, name: str) -> Values:
    """Return the row of what a step costs."""
    counted = partial(cost, name, 4 if table.quick else 12)
    return table.row("cost", priced(RECIPES[name]), counted, once=True, device="cpu")


def least(price: Values) -> float:
    """Return the seconds that a step takes of one core."""
    seconds: float = min(price[kind][0] for kind in KINDS)
    return seconds


def picture(table: Table) -> None:
    """Draw bits against seconds of training, of the sets that have rows."""
    names = [name for name in RECIPES if table.rows.seeds("images", name)]
    prices = {name: least(price) for name in names if (price := price_of(table, name))}
    if names and not table.quick:
        draw(table, {name: RECIPES[name].data for name in names}, prices)


def flow_of(table: Table, data: str) -> Values:
    """Return the bits of RealNVP of its own test images, from the families table; empty where it has none."""
    line = table.beside("families_table").within(data).rows.lines.get(Key("images", "RealNVP", 0))
    return {} if not line else {"RealNVP": line["values"]["bits"], "RealNVP, train s": line["values"]["train s"]}


def images_block(table: Table) -> str:
    """Return bits of test images, and what training cost."""
    rows = {}
    for name in ["digits"] if table.quick else RECIPES:
        cells = table.row("images", name, partial(judged, table, name), seeds=2)
        price = price_of(table, name)
        if cells and price:
            cells = (
                cells
                | {f"s a step, {kind}": price[kind] for kind in KINDS}
                | {"h of a core": (cells["steps"][0] * least(price) / 3600, None)}
            )
        if cells and not table.quick:
            cells = cells | {"% of the steps": (100 * cells["steps"][0] / RECIPES[name].steps, None)}
        rows[name] = cells and cells | flow_of(table, RECIPES[name].data)
    columns = {
        "flow": 3, "chain": 3, "continuous": 3, "flow − continuous": 3, "RealNVP": 3, "images": 0, "evaluations": 0,
        "parameters": 0, "steps": 0, "% of the steps": 0, "batch": 0, "s a step, float32": 2, "s a step, bfloat16": 2,
        "h of a core": 2, "train s": 0, "device": 0, "seeds": 0,
    }  # fmt: skip
    return table.write("images", columns, rows)


def main() -> None:
    """Print the tables."""
    blocks = [images_block, parts_block, starts_block, clip_block, schedule_block, dequantised_block]
    command.run(
        "likelihood_recipe", __doc__, blocks, seeds=2, options=command.add_seconds, picture=picture, timed=True, networks=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
