"""The recipes of the source projects, as far as they have been trained: what their models make, beside images held back.

    python -m benchmarks.sources_table                                              # the rows that come with the repository
    python -m benchmarks.sources_table --own --only sprites                         # some hours of a core
    python -m benchmarks.sources_table --own --seconds 340 --device cuda --only "fashion_mnist, GAN"

Adam at 2e-4 in batches of 64 at a constant rate throughout. Autoencoder and adversarial models: 100 numbers in a latent, 80 % of
Fashion-MNIST, 100 epochs, the last weights. DDPM: 1,000 linear betas, the mean squared error of the noise, the class dropped one
time in ten, 500 epochs, averaged weights. *Epochs* of those *asked* say how far a training has come; ``--seconds`` ends one by
then, and the same command without it goes on. 2,000 samples, or as many as images are held back, by the feature network of the
data set. Of sprites samples of four seeds by one model.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

import sdegen
from benchmarks import command, families_pictures, fid_images, fid_recipes, fid_table, train_family, train_images
from benchmarks.devices import called
from benchmarks.families import SOURCE, SOURCE_EPOCHS
from benchmarks.families_images import Judge, bits
from benchmarks.families_pictures import slug
from benchmarks.files import locked
from benchmarks.followed import Lines, MeanLoss, draw_losses, files_of
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import PRESETS
from sdegen.data import Images

PRESET = PRESETS["source"]
FAMILIES = ("VAE", "GAN", "WGAN, clipped")
DDPMS = ("sprites", "mnist")
TITLES = {"digits": "Digits", "fashion_mnist": "Fashion-MNIST", "mnist": "MNIST", "sprites": "Sprites"}
SEEDS = {"sprites": 4}  # seeds of samples, where fewer images are held back than a row has samples
COLUMNS = {
    "FID": 2, "KID × 1000": 2, "precision": 3, "recall": 3, "accuracy": 3, "bits, at most": 3, "evaluations": 0, "steps": 0,
    "epochs": 1, "asked": 0, "train s": 0, "device": 0, "count": 0, "features": 0,
}  # fmt: skip


def ways(quick: bool) -> dict[str, fid_recipes.Recipe]:
    """Return how samples of a DDPM are drawn."""
    full, few = (20, 5) if quick else (1000, 50)
    return {
        f"DDPM, {full}": fid_recipes.Recipe(partial(fid_recipes.ddpm, steps=full)),
        f"DDPM-ES, {few}": fid_recipes.Recipe(partial(fid_recipes.ddpm_es, steps=few)),
        f"DDIM, {few}": fid_recipes.Recipe(partial(fid_recipes.ddim, steps=few)),
        f"DDIM, {few}, guided 1.5": fid_recipes.Recipe(
            partial(fid_recipes.ddim, steps=few), partial(fid_recipes.guided, scale=1.5)
        ),
    }


def steps_of(table: Table) -> int | None:
    """Return the steps of each training; None for those of the recipe."""
    return table.args.steps or (20 if table.quick else None)


def spent(run: sdegen.Run, images: int, epochs: float, device: str) -> Values:
    """Return how far a training has come, and on what."""
    return {
        "steps": [run.steps, None], "epochs": [run.steps * SOURCE["batch_size"] / images, None], "asked": [epochs, None],
        "train s": [run.seconds, None], "device": called(device),
    }  # fmt: skip


def stem_of(table: Table, name: str, seed: int = 0) -> Path:
    """Return folder and name of a training."""
    return table.out / "models" / f"{slug(name)}-{seed}"


def data_of(table: Table) -> str:
    """Return the images of the families."""
    return "digits" if table.quick else "fashion_mnist"


def of_family(judge: Judge, name: str, seed: int) -> Values:
    """Train an autoencoder or an adversarial model by the sources' recipe, and judge it."""
    table, row = judge.table, f"{judge.data}, {name}"
    stem = stem_of(table, row, seed)
    with locked(stem):
        model, family, run = train_family.train(
            name, judge.data, "source", SOURCE_EPOCHS, seed, stem, steps_of(table), table.args.seconds, table.device
        )
    publish(table, stem)
    x = judge.made(model, family, len(judge.real), torch.Generator().manual_seed(seed))
    families_pictures.picture(table, row, x[:100])
    return judge.cells(x) | bits(judge, model, seed) | spent(run, len(judge.split.train), SOURCE_EPOCHS, table.device)


def publish(table: Table, stem: Path) -> None:
    """Put the losses of a training beside the table, where they are kept with it."""
    for file in files_of(stem):
        if file.exists():
            (table.out / file.name).write_text(file.read_text())


@dataclass
class Sampled(fid_images.Task):
    """What all rows of one DDPM share.

    Attributes
    ----------
    name
        The images.
    """

    name: str = "sprites"

    @property
    def data(self) -> str:
        """The name of the data set."""
        return self.name

    @cached_property
    def train(self) -> Images:
        """The images that are learned."""
        return train_images.SPLITS[self.name]().train

    @cached_property
    def trained(self) -> tuple[sdegen.Model, sdegen.Run]:
        """The model, and the record of its training."""
        table, stem = self.table, stem_of(self.table, self.name)
        asked = train_images.asked_of(self.name, PRESET, len(self.train))
        steps = steps_of(table) or asked
        followed = [MeanLoss(files_of(stem)[0]), Lines(stem.name, steps)]
        with locked(stem):
            model, run = train_images.train(
                self.name, steps, PRESET, stem, device=table.device, seconds=table.args.seconds, callbacks=followed
            )  # fmt: skip
        publish(table, stem)
        sdegen.save(model, stem.with_suffix(".safetensors"))
        return model, run

    @property
    def model(self) -> Any:
        """The model."""
        return self.trained[0]


def of_ddpm(task: Sampled, name: str, way: fid_recipes.Recipe, seed: int) -> Values:
    """Draw samples of a DDPM that is trained by the sources' recipe in one way, and judge them."""
    run = task.trained[1]
    assert PRESET.epochs is not None
    cells = fid_table.sampled(task, name, way, seed)
    return cells | spent(run, len(task.train), PRESET.epochs, task.table.device)


def family_rows(table: Table) -> dict[str, Values]:
    """Return the rows of autoencoder and adversarial models, and of training images in place of samples."""
    data = data_of(table)
    judge, title = Judge(table, data, "source"), TITLES[data]
    floor = table.row(
        "recipes", f"{data}, training images", lambda _: judge.cells(judge.parts[0].scaled(0, 1).rows()), once=True
    )
    rows = {f"{title}: training images (floor)": floor}
    for name in FAMILIES:
        compute = partial(of_family, judge, name)
        rows[f"{title}: {name}"] = table.row("recipes", f"{data}, {name}", compute, once=True)
    return rows


def ddpm_rows(table: Table, data: str) -> dict[str, Values]:
    """Return the rows of a DDPM, and of training images in place of samples."""
    task, title = Sampled(table, data), TITLES[data]
    floor = table.row("recipes", f"{data}, training images", partial(fid_table.floor, task), once=True)
    rows = {f"{title}: training images (floor)": floor}
    for way, recipe in ways(table.quick).items():
        name = f"{data}, {way}"
        compute: Callable[[int], Values] = partial(of_ddpm, task, name, recipe)
        rows[f"{title}: {way}"] = table.row("recipes", name, compute, seeds=SEEDS.get(data, 1))
    return rows


def recipes_block(table: Table) -> str:
    """Return all recipes."""
    rows = family_rows(table)
    for data in ("sprites",) if table.quick else DDPMS:
        rows |= ddpm_rows(table, data)
    return table.write("recipes", COLUMNS, rows)


def picture(table: Table) -> None:
    """Draw samples of every model above its losses."""
    families = [f"{data_of(table)}, {name}" for name in FAMILIES]
    grids = {name: f"{slug(name)}.png" for name in families} | {data: f"{data}--DDPM--1000.png" for data in DDPMS}
    found = {name: table.file(grid) for name, grid in grids.items() if table.file(grid).exists()}
    if not found:
        return
    figure = Figure(figsize=(3.2 * len(found), 6), layout="constrained")
    for i, (name, grid) in enumerate(found.items()):
        above, below = (figure.add_subplot(2, len(found), line * len(found) + i + 1) for line in (0, 1))
        above.imshow(imread(grid))
        above.set_axis_off()
        above.set_title(name, fontsize=10)
        draw_losses([table.file(file.name) for file in files_of(stem_of(table, name))], below)
    table.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(table.out / "recipes.png", dpi=100)


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    command.add_length(parser)
    command.add_count(parser, fid_images.COUNT, "a DDPM's row")


def main() -> None:
    """Print the table."""
    command.run(
        "sources_table", __doc__, [recipes_block], seeds=1, options=options, picture=picture, networks=True
    )  # fmt: skip


if __name__ == "__main__":
    main()
