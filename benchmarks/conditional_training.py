"""Train one network on images given what was measured of them: means of blocks, or the pixels that a random mask leaves.

    python -m benchmarks.conditional_training            # some 15 minutes of one core with AMX; goes on where it was stopped

The network is that of the shipped model of Fashion-MNIST with two conditions more, whose weights begin at 0
(`nets.add_conditions`): ``coarse``, the means of 4 × 4 pixels brought to the size of the image, and ``known``, the pixels that
are seen. Each image of a batch comes with one of them, which is dropped one time in ten.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import sdegen
from benchmarks import command
from benchmarks.cards import Card, describe_training, write_card
from benchmarks.devices import fit_on
from benchmarks.files import made
from benchmarks.train_images import PRESETS, SPLITS
from sdegen import nets

DATA = "fashion_mnist"
STEPS = 4000
BATCH, RATE, WARMUP = 64, 4e-4, 200
BLOCK = 4  # pixels a side of the block that one mean is taken of
STD = 0.05  # standard deviation of the measurement's noise, for data in [−1, 1]
LOST = 0.1
MISSING = float("nan")


def reduce(x: Tensor) -> Tensor:
    """Return the means of blocks of images, ``(n, C, H, W)``."""
    return F.avg_pool2d(x, BLOCK)


def enlarge(y: Tensor) -> Tensor:
    """Return means of blocks as images, each mean at every pixel of its block."""
    return F.interpolate(y, scale_factor=BLOCK)


def draw_masks(n: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw which pixels are seen, ``(n, 1, side, side)``: all but a box, half of the image, or random pixels; a third each."""

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (n, 1, 1), generator=generator, device=generator.device)

    along = torch.arange(side, device=generator.device)
    down, right = along[:, None], along
    tall, wide = integers(8, 21), integers(8, 21)
    top, left = (integers(0, side) % (side + 1 - size) for size in (tall, wide))
    boxes = ~((top <= down) & (down < top + tall) & (left <= right) & (right < left + wide))
    first = torch.where(integers(0, 2) == 0, down, right) < side // 2
    halves = first == (integers(0, 2) == 0)
    share = 0.1 + 0.5 * torch.rand(n, 1, 1, generator=generator, device=generator.device)
    pixels = torch.rand(n, side, side, generator=generator, device=generator.device) < share
    kind = integers(0, 3)
    return torch.where(kind == 0, boxes, torch.where(kind == 1, halves, pixels))[:, None]


class MeasuredImages:
    """Batches of images, each with what was measured of it, in an order that comes again; every pass has another.

    Parameters
    ----------
    images
        In [−1, 1], ``(N, 1, H, W)``, on the device that draws.
    size
        Images of a batch.
    """

    def __init__(self, images: Tensor, size: int = BATCH) -> None:
        self.images, self.size, self.passes = images, size, 0

    def __iter__(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        self.passes += 1
        device = self.images.device
        generator = torch.Generator(device).manual_seed(self.passes)
        for rows in torch.randperm(len(self.images), generator=generator, device=device).split(self.size):
            x = self.images[rows]
            n, noise = len(x), torch.randn(x.shape, generator=generator, device=device)
            coarse = enlarge(reduce(x) + STD * noise[..., ::BLOCK, ::BLOCK])
            known = torch.where(draw_masks(n, x.shape[-1], generator), x + STD * noise, MISSING)
            first = torch.rand(n, 1, 1, 1, generator=generator, device=device) < 0.5
            yield x, {"coarse": coarse.where(first, MISSING), "known": known.where(~first, MISSING)}


def build() -> sdegen.Model:
    """Return the shipped model with the two conditions, not trained on them yet."""
    model = sdegen.pretrained(DATA)
    field = nets.Fields(1, gaps=True, dropout=LOST)
    torch.manual_seed(0)
    model.net = nets.add_conditions(model.net, {"coarse": field, "known": field})
    return model


def train(folder: Path, steps: int = STEPS, device: str = "cpu", **more: Any) -> tuple[sdegen.Model, Card]:
    """Return the model that is trained on what is measured, and its card: read from a folder, or trained where they are not
    there yet.
    """
    path = folder / f"trained-{steps}.safetensors"

    def make(path: Path) -> None:
        model, images = build(), SPLITS[DATA]().train.scaled(-1, 1).rows().to(device)
        state = path.with_suffix("")
        state.mkdir(exist_ok=True)
        run = fit_on(
            device, model, MeasuredImages(images), steps=steps, lr=RATE, warmup=min(WARMUP, steps // 4), threads=1, seed=0,
            loss=PRESETS["shipped"].loss, autocast=torch.bfloat16, checkpoint=state, every=100, **more,
        )  # fmt: skip
        card = describe_training(
            run, STEPS, device, command=f"python -m benchmarks.conditional_training --steps {steps}",
            data=f"{DATA}, the training split", images_seen=run.steps * BATCH,
        )  # fmt: skip
        write_card(card, path.with_suffix(".json"))
        sdegen.save(model.half(), path)

    model = sdegen.load(made(path, make), dtype=torch.float32)
    return model, json.loads(path.with_suffix(".json").read_text())


def main() -> None:
    """Train the model where it is not there yet, and print its card."""
    parser = command.make_parser("conditional_training", __doc__)
    command.add_length(parser, f"{STEPS:,}")
    command.add_place(parser)
    args = parser.parse_args()
    _, spent = train(args.out / "conditional_images" / "models", args.steps or STEPS, args.device, seconds=args.seconds)
    print(json.dumps(spent, indent=1))


if __name__ == "__main__":
    main()
