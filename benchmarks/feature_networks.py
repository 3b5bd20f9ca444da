"""Train the feature networks that are shipped in `sdegen/weights`, and say how accurate they are.

    python -m benchmarks.feature_networks                 # all of them, some minutes each on one core
    python -m benchmarks.feature_networks digits-cnn-v1
    python -m benchmarks.feature_networks --out sdegen/weights    # in place of those that are shipped

Each network is trained on the training split and judged once on the test split; nothing is selected on the latter.
It learns with batch normalisation, which is folded into the convolutions that are saved. The printed hash goes to
`sdegen/metrics/features.py`; a network trained again, or on another machine, gets other bits and needs another name.
"""

from __future__ import annotations

import hashlib
import math
import time
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import command
from sdegen.data import Images, digits, fashion_mnist, mnist, sprites, sprites_held_out
from sdegen.metrics.features import ARCHITECTURES, FeatureNet


class Part(NamedTuple):
    """A part: images in [0, 1], ``(N, C, H, W)``, and their labels."""

    images: Tensor
    labels: Tensor


class Recipe(NamedTuple):
    """How long a network is trained, and how its images are varied."""

    epochs: int
    turn: float  # at most so many degrees
    zoom: float  # at most this share of the size
    shift: float  # at most so many pixels
    flip: bool


RECIPES = {
    "digits-cnn-v1": Recipe(120, 10.0, 0.1, 0.7, False),
    "mnist-cnn-v1": Recipe(12, 12.0, 0.12, 2.0, False),
    "fashion-cnn-v1": Recipe(18, 0.0, 0.08, 1.5, True),
    "sprites-cnn-v1": Recipe(60, 0.0, 0.0, 1.5, True),
}


def read(name: str) -> tuple[Part, Part]:
    """Return the training and the test split of a network's data; of the sprites, the tiles that no fold holds are the test."""
    if name == "sprites-cnn-v1":
        training, test = sprites().joined(), sprites_held_out()
    else:
        load = {
            "digits-cnn-v1": lambda: digits().split(0.8, seed=0),
            "mnist-cnn-v1": mnist,
            "fashion-cnn-v1": fashion_mnist,
        }
        training, test = load[name]()
    return scale(training), scale(test)


def scale(images: Images) -> Part:
    """Return bytes as numbers in [0, 1], with their labels."""
    if images.labels is None:
        raise ValueError("these images have no labels to learn from.")
    return Part(images.scaled(0, 1).rows(), images.labels)


def vary(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return the images, each turned, zoomed, shifted and flipped at random; the border is continued."""
    uniform = 2 * torch.rand(4, len(x), generator=generator) - 1
    angle, zoom = uniform[0] * math.radians(recipe.turn), 1 + uniform[1] * recipe.zoom
    mirror = (
        torch.where(torch.rand(len(x), generator=generator) < 0.5, -1.0, 1.0) if recipe.flip else torch.ones(len(x))
    )
    shift = 2 * uniform[2:] * recipe.shift / x.shape[-1]
    if recipe.turn == recipe.zoom == 0:  # whole pixels: no blurring
        shift = (shift * x.shape[-1] / 2).round() * 2 / x.shape[-1]
    theta = torch.stack(
        [
            torch.stack([mirror * zoom * angle.cos(), -zoom * angle.sin(), shift[0]], 1),
            torch.stack([mirror * zoom * angle.sin(), zoom * angle.cos(), shift[1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


class Trained(nn.Module):
    """The network in training: each convolution followed by batch normalisation."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = FeatureNet(name, ARCHITECTURES[name])
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in ARCHITECTURES[name].widths)

    def pairs(self, net: FeatureNet) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Return the convolutions of a network with the normalisations after them."""
        return cast(list[tuple[nn.Conv2d, nn.BatchNorm2d]], list(zip(net.convolutions, self.norms, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        for convolution, norm in self.pairs(self.net):
            x = norm(convolution(x)).relu()
        return self.net.linear(x.mean((2, 3)))

    def fold(self) -> FeatureNet:
        """Return the network without normalisation: ``gain (w * x + b − mean) / sd + offset`` as one convolution."""
        net = FeatureNet(self.net.name, self.net.architecture)
        net.load_state_dict(self.net.state_dict())
        for convolution, norm in self.pairs(net):
            mean, variance = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
            scale = norm.weight / (variance + norm.eps).sqrt()
            convolution.weight.data *= scale[:, None, None, None]
            bias = cast(Tensor, convolution.bias)
            bias.data = (bias - mean) * scale + norm.bias
        return net.eval()


def train(name: str, data: Part, batch: int = 128, rate: float = 4e-3, seed: int = 0) -> FeatureNet:
    """Train a network by cross-entropy, with AdamW, a one-cycle rate and products in bfloat16, and return it without
    normalisation.
    """
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Trained(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02)
    steps = recipe.epochs * (len(data.images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.2)
    for epoch in range(recipe.epochs):
        began, losses = time.perf_counter(), []
        for rows in torch.randperm(len(data.images), generator=generator).split(batch):
            if len(rows) < batch:
                continue
            x = vary(data.images[rows], recipe, generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x), data.labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        if epoch % 10 == 0 or recipe.epochs < 30:
            print(
                f"{name}: epoch {epoch + 1}, loss {np.mean(losses):.4f}, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    return model.folded()


@torch.no_grad()
def classify_right(net: FeatureNet, data: Part) -> Tensor:
    """Tell which images the network classifies right."""
    return torch.cat([net.logits(x).argmax(1) for x in data.images.split(500)]) == data.labels


def main() -> None:
    """Train them, write their weights, and print their accuracies."""
    parser = command.make_parser("feature_networks", __doc__)
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=f"some of {', '.join(RECIPES)} (default: all)")
    command.add_threads(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/feature_networks"),
        help="folder that weights are written to (default: results/feature_networks)",
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(RECIPES):
        parser.error(f"there is no network {', '.join(sorted(unknown))}; take some of {', '.join(RECIPES)}.")
    command.set_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        training, test = read(name)
        net = train(name, training)
        path = args.out / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path, metadata={"network": name})
        hits = classify_right(net, test)
        per_class = [f"{hits[test.labels == c].float().mean():.3f}" for c in range(len(net.architecture.classes))]
        print(
            f"{name}: {int(hits.sum())} of {len(hits)} test images right ({hits.float().mean():.2%}; by class "
            f"{' '.join(per_class)}), {classify_right(net, training).float().mean():.2%} of the training images, "
            f"{sum(p.numel() for p in net.parameters()):,} parameters, sha256 "
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}",
            flush=True,
        )


if __name__ == "__main__":
    main()
