"""Train the image models that are shipped in `sdegen/weights`.

    python -m benchmarks.train_images fashion_mnist      # about 45 minutes on one core with AMX; goes on where it was stopped
    python -m benchmarks.train_images digits --steps 500

A DDPM of 1,000 linear betas with a small U-Net, conditional on the class, which is dropped one time in ten; EDM's weighting
and preconditioning, bfloat16 where the network allows. Samples and the loss curve are drawn while it runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import sdegen
from sdegen.data import Images, Split

HERE = Path(__file__).parent
STEPS = {"digits": 3000, "mnist": 8000, "fashion_mnist": 10_000, "sprites": 6000}
SPLITS: dict[str, Callable[[], Split]] = {
    "digits": lambda: sdegen.data.digits().split(0.8, seed=0),
    "mnist": sdegen.data.mnist,
    "fashion_mnist": sdegen.data.fashion_mnist,
    "sprites": sdegen.data.sprites,
}
P_UNCOND = 0.1
LOSS = sdegen.losses.Denoising(sdegen.weightings.EDMWeighting(), sdegen.weightings.LogNormalTimes(-1.0, 1.4))


def build(images: Images, learned: bool = False) -> sdegen.Model:
    """An untrained model of a set of images."""
    channels, size = images.x.shape[1:3]
    net = sdegen.nets.UNet.small(channels, size, len(images.label_names), 2 * channels if learned else None)
    kind = sdegen.LearnedVariance if learned else sdegen.Model
    return kind(net, sdegen.DDPM())


def train(
    name: str, steps: int, batch_size: int, folder: Path | None, seed: int = 0, progress: bool | None = None
) -> tuple[sdegen.Model, sdegen.Run]:
    """A model of the training split, and the record of its training."""
    images = SPLITS[name]().train
    torch.manual_seed(seed)
    model = build(images)
    run = sdegen.fit(
        model, images.scaled(-1, 1), steps=steps, batch_size=batch_size, lr=1e-3, warmup=200, loss=LOSS, p_uncond=P_UNCOND,
        autocast=torch.bfloat16, seed=seed, checkpoint=folder, every=250, progress=progress,
    )  # fmt: skip
    return model, run


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the shipped image models.")
    parser.add_argument("name", choices=list(SPLITS))
    parser.add_argument("--steps", type=int, default=None, help="steps of the run, instead of the default")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=None, help="threads of a CPU run (all cores)")
    parser.add_argument("--out", type=Path, default=HERE.parent / "sdegen" / "weights", help="folder of the weights")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    steps = args.steps or STEPS[args.name]
    folder = HERE / "results" / "train_images" / "models" / f"{args.name}-{steps}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    began = time.strftime("%Y-%m-%d")
    model, run = train(args.name, steps, args.batch_size, folder)
    path = args.out / f"{args.name.replace('_', '-')}-unet-v1.safetensors"
    sdegen.save(model.half(), path)
    card: dict[str, Any] = {
        "data": f"{args.name}, training split", "command": f"python -m benchmarks.train_images {args.name} --steps {steps}",
        "steps": run.steps, "batch size": args.batch_size, "seconds": round(run.seconds), "threads": torch.get_num_threads(),
        "loss of the last 500 steps": sum(run.loss[-500:]) / len(run.loss[-500:]), "torch": torch.__version__, "date": began,
    }  # fmt: skip
    (HERE / "results" / "train_images" / f"{args.name}.json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
