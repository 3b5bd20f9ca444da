"""The likelihood table's images: bits per dimension of the shipped models, and what tells foreign images by them."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.rows import Values, combine, row, write

DATA = {"mnist": sdegen.data.mnist, "fashion_mnist": sdegen.data.fashion_mnist}
FOREIGN = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}


def bits(model: Any, images: Tensor, seed: int) -> tuple[Tensor, int]:
    """Bits per dimension of images under the model without a class, 8 bits with uniform dequantisation; one probe each."""
    values, most = [], 0
    for k, part in enumerate(images.split(50)):
        found = sdegen.bits_per_dim(
            model, part, divergence="hutchinson", tolerance=1e-3, label=-1,
            generator=torch.Generator().manual_seed(1000 * seed + k),
        )  # fmt: skip
        values.append(found.value.double())
        most = max(most, found.evaluations)
    return torch.cat(values), most


def complexity(images: Tensor) -> Tensor:
    """Bits per dimension of each image as zlib packs it."""
    return torch.tensor(
        [8 * len(zlib.compress(i.numpy().tobytes(), 9)) / i.numel() for i in images], dtype=torch.float64
    )


class Background:
    """A Gaussian with the moments of the training images: what a likelihood owes to brightness and smoothness alone."""

    def __init__(self, images: Tensor) -> None:
        x = images.flatten(1).double()
        self.mean = x.mean(0)
        covariance = x.T.cov() + torch.eye(x.shape[1], dtype=torch.float64) / 12  # dequantised
        self.law = torch.distributions.MultivariateNormal(self.mean, covariance)

    def bits(self, images: Tensor) -> Tensor:
        """Bits per dimension of images."""
        return -self.law.log_prob(images.flatten(1).double()) / (images[0].numel() * torch.tensor(2.0).log())


def auroc(own: Tensor, foreign: Tensor) -> list[float]:
    """How often a foreign image has the larger score, and its standard error over both sets (E. DeLong et al., 1988)."""
    wins = (foreign[:, None] > own).double() + 0.5 * (foreign[:, None] == own).double()
    error = wins.mean(1).var() / len(foreign) + wins.mean(0).var() / len(own)
    return [wins.mean().item(), error.sqrt().item()]


def judged(name: str, n: int, seed: int) -> Values:
    """A shipped model on its own test images and on those of the other set."""
    model = sdegen.pretrained(name)
    split = DATA[name]()
    generator = torch.Generator().manual_seed(seed)
    own, seen, foreign = (
        images.x[torch.randperm(len(images), generator=generator)[:n]]
        for images in (split.test, split.train, DATA[FOREIGN[name]]().test)
    )
    (of_own, evaluations), (of_seen, _), (of_foreign, _) = (bits(model, x, seed) for x in (own, seen, foreign))
    background = Background(split.train.x)
    typical = of_seen.mean()
    scores = {
        "likelihood": (of_own, of_foreign),
        "input complexity": (of_own - complexity(own), of_foreign - complexity(foreign)),
        "likelihood ratio": (of_own - background.bits(own), of_foreign - background.bits(foreign)),
        "typicality": ((of_own - typical).abs(), (of_foreign - typical).abs()),
    }
    cells: Values = {
        column: [value.mean().item(), value.std().item() / n**0.5]
        for column, value in {"test": of_own, "training": of_seen, "foreign": of_foreign}.items()
    }
    return cells | {score: auroc(*pair) for score, pair in scores.items()} | {"evaluations": [evaluations, None]}


def images_block(args: Any) -> str:
    """Bits per dimension, and areas under the curve of four scores for foreign images."""
    n = 50 if args.quick else 250
    table = {name: combine([row(args, "images", name, 0, partial(judged, name, n))]) for name in DATA}
    columns = {
        "test": 3, "training": 3, "foreign": 3, "likelihood": 3, "input complexity": 3, "likelihood ratio": 3,
        "typicality": 3, "evaluations": 0,
    }  # fmt: skip
    return write(args, "images", columns, table)
