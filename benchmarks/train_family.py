"""Train one family on images, alone: an autoencoder, a flow or an adversarial model of the families table, and nothing else.

    python -m benchmarks.train_family VAE --data fashion_mnist --device cpu      # 6 to 12 minutes of one core
    python -m benchmarks.train_family GAN --preset source --epochs 100           # the recipe of the source projects
    python -m benchmarks.train_family VAE --data digits --steps 200              # seconds

Weights, the loss and a grid of samples go to ``results/train_family``. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

import sdegen
from benchmarks import command
from benchmarks.families import SOURCE_EPOCHS, Family, images, trained
from benchmarks.families_images import drawn, families_of, split_of
from benchmarks.families_pictures import slug
from benchmarks.fid_table import as_images
from benchmarks.train_images import SPLITS
from sdegen import plots
from sdegen.data import Dequantisation, Scaling


def arguments() -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(description="Train one family on images.")
    parser.add_argument("name", choices=list(images(True, 1)))
    parser.add_argument("--data", choices=list(SPLITS), default="fashion_mnist", help="which images")
    parser.add_argument("--preset", choices=["own", "source"], default="own", help="settings of the training")
    parser.add_argument("--epochs", type=float, default=SOURCE_EPOCHS, help="of the source preset")
    parser.add_argument("--steps", type=int, default=None, help="steps of the run, instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and noise")
    parser.add_argument("--threads", type=int, default=None, help="threads of a CPU run (all cores)")
    command.add_device(parser)
    command.add_out(parser)
    return parser.parse_args()


def picture(model: torch.nn.Module, run: sdegen.Run, family: Family, levels: int, path: Path) -> None:
    """Draw the loss beside a hundred samples."""
    kind = Dequantisation if family.dequantised else Scaling
    x = as_images(drawn(model, family, 100, torch.Generator().manual_seed(0)), kind(0, 1, levels))
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plots.losses(run, ax=left)
    plots.images(x, columns=10, ax=right)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Train it where its weights are not there yet, and say where they are."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    train = split_of(args.data, args.preset).train
    family = families_of(args.data, len(train), args.preset, args.epochs)[args.name]
    folder = args.out / "train_family" / f"{args.data}-{args.preset}"
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{slug(args.name)}-{args.seed}-{args.steps or family.fit['steps']}"
    model, run = trained(family, train, args.seed, args.steps, args.device, checkpoint=state, every=250)
    sdegen.save(model, state.with_suffix(".safetensors"))
    picture(model, run, family, train.levels, state.with_suffix(".png"))
    last = run.loss[-100:]
    print(
        f"{args.name} of {len(train):,} images of {args.data}: {run.steps} steps, {run.steps * 64 / len(train):.2f} epochs"
    )
    print(f"{run.seconds:.0f} s on {args.device}; loss of the last {len(last)} steps {sum(last) / len(last):.3f}")
    print(f"written to {state.with_suffix('.safetensors')} and {state.with_suffix('.png')}")


if __name__ == "__main__":
    main()
