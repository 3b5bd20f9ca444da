"""Train one family on images, alone: an autoencoder, a flow or an adversarial model of the families table, and nothing else.

    python -m benchmarks.train_family VAE --data fashion_mnist --device cpu      # 4 to 12 minutes of one core
    python -m benchmarks.train_family GAN --preset source --epochs 100           # the recipe of the source projects
    python -m benchmarks.train_family VAE --data digits --steps 200              # seconds

Weights, a card that says which share of the recipe was spent, the losses, of adversarial models those of both players, and a
grid of samples go to ``results/train_family``. A run that was stopped goes on where it was; ``--seconds`` ends one by then.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import sdegen
from benchmarks import command
from benchmarks.cards import describe_training, write_card
from benchmarks.families import Family, images, trained
from benchmarks.families_images import add_epochs, add_preset, drawn, families_of, split_of
from benchmarks.families_pictures import slug
from benchmarks.fid_images import as_images
from benchmarks.followed import Lines, draw_losses, files_of, follow_losses
from benchmarks.train_images import SPLITS
from sdegen import plots
from sdegen.data import Dequantisation, Scaling


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command."""
    parser = command.make_parser("train_family", __doc__)
    parser.add_argument(
        "name", choices=list(images(True, 1)), metavar="FAMILY", help=f"one of {', '.join(images(True, 1))}"
    )
    command.add_data(parser, list(SPLITS), "fashion_mnist")
    add_preset(parser)
    add_epochs(parser)
    command.add_length(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and noise (default: 0)")
    command.add_place(parser)
    command.add_threads(parser)
    return parser.parse_args()


def picture(model: torch.nn.Module, run: sdegen.Run, family: Family, levels: int, path: Path) -> None:
    """Draw the loss, a hundred samples, and the losses of both players where there are two."""
    kind = Dequantisation if family.dequantised else Scaling
    x = as_images(drawn(model, family, 100, torch.Generator().manual_seed(0)), kind(0, 1, levels))
    players = files_of(path.with_suffix(""))[1]
    figure = Figure(figsize=(13 if players.exists() else 9, 4), layout="constrained")
    axes = figure.subplots(1, 3 if players.exists() else 2)
    plots.losses(run, ax=axes[0])
    plots.images(x, columns=10, ax=axes[1])
    if players.exists():
        draw_losses([players], axes[2])
    figure.savefig(path, dpi=100)


def train(
    name: str, data: str, preset: str, epochs: float, seed: int, stem: Path, steps: int | None = None,
    seconds: float | None = None, device: str = "cpu",
) -> tuple[Any, Family, sdegen.Run]:  # fmt: skip
    """Train a family, or go on with it, and return the model, how it is trained, and the record.

    Parameters
    ----------
    name, data, preset, epochs, seed, steps, seconds, device
        The options of the command.
    stem
        Folder and name of its checkpoints, weights and losses.
    """
    images = split_of(data, preset).train
    family = families_of(data, len(images), preset, epochs)[name]
    some = images[:256].scaled(0, 1).rows()
    followed = [*follow_losses(some, stem), Lines(stem.name, steps or family.fit["steps"])]
    stem.parent.mkdir(parents=True, exist_ok=True)
    model, run = trained(
        family, images, seed, steps, device, seconds=seconds, checkpoint=stem, every=500, callbacks=followed
    )  # fmt: skip
    sdegen.save(model, stem.with_suffix(".safetensors"))
    return model, family, run


def main() -> None:
    """Train it where its weights are not there yet, and say where they are."""
    args = parse_arguments()
    command.set_threads(args.threads)
    folder = args.out / "train_family" / f"{args.data}-{args.preset}"
    levels = split_of(args.data, args.preset).train.levels
    # A recipe of constant rate is one run, however far it goes; others end as they began to.
    stem = folder / f"{slug(args.name)}-{args.seed}{f'-{args.steps}' if args.steps and args.preset == 'own' else ''}"
    model, family, run = train(
        args.name, args.data, args.preset, args.epochs, args.seed, stem, args.steps, args.seconds, args.device
    )
    count = len(split_of(args.data, args.preset).train)
    card = describe_training(
        run, family.fit["steps"], args.device, family=args.name, data=f"{args.data}, {count:,} training images",
        preset=args.preset, seed=args.seed, epochs=round(run.steps * family.fit["batch_size"] / count, 2),
    )  # fmt: skip
    text = write_card(card, stem.with_suffix(".json"))
    picture(model, run, family, levels, stem.with_suffix(".png"))
    print(f"{text}\nwritten to {stem.with_suffix('.safetensors')} and {stem.with_suffix('.png')}")


if __name__ == "__main__":
    main()
