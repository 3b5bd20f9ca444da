"""A block of the likelihood table, `benchmarks.likelihood_table`: bits of images, and foreign images told by them.

A row is a model of a set of images. Columns are its bits per dimension on test, training and foreign images, beside those of
flows, and the areas under the curve of five scores by which foreign images are told from its own: 0.5 is chance.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.files import made
from benchmarks.likelihood_bits import chain_times
from benchmarks.likelihood_training import better
from benchmarks.rows import Key, Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS, of_digits, train_on
from sdegen.data import Images
from sdegen.laws.derivatives import Hutchinson

DATA = {"mnist": sdegen.data.mnist, "fashion_mnist": sdegen.data.fashion_mnist}
FOREIGN = {"mnist": "fashion_mnist", "fashion_mnist": "mnist"}
STEPS = 25  # steps of a chain
DISTURBED = 0.2  # share of the pixels that are random in the training images of the background model


def bits(model: Any, images: Images, seed: int, **cond: Any) -> tuple[Tensor, int]:
    """Return bits per dimension of images under uniform dequantisation, with one probe each, and the most evaluations."""
    values, most = [], 0
    for k, part in enumerate(images.x.split(50)):
        found = sdegen.bits_per_dim(
            model, part, sdegen.data.Scaling(-1, 1, images.levels), divergence=Hutchinson(), tolerance=1e-3,
            generator=torch.Generator().manual_seed(1000 * seed + k), **cond,
        )  # fmt: skip
        values.append(found.value.double())
        most = max(most, found.evaluations)
    return torch.cat(values), most


def complexity(images: Images) -> Tensor:
    """Return the bits per dimension of each image as zlib packs it."""
    return torch.tensor(
        [8 * len(zlib.compress(i.numpy().tobytes(), 9)) / i.numel() for i in images.x], dtype=torch.float64
    )


def gaussian_bits(seen: Images, images: Images) -> Tensor:
    """Return bits per dimension under a Gaussian with the moments of `seen`: what brightness and smoothness alone tell."""
    x = seen.x.flatten(1).double()
    # 1/12 is the variance of uniform dequantisation.
    covariance = x.T.cov() + torch.eye(x.shape[1], dtype=torch.float64) / 12
    law = torch.distributions.MultivariateNormal(x.mean(0), covariance)
    return -law.log_prob(images.x.flatten(1).double()) / (x.shape[1] * torch.tensor(2.0).log())


def background(name: str, steps: int, folder: Path, device: str) -> Any:
    """Return a network like the shipped one, told no class, of training images in which a share of the pixels are random
    bytes.
    """

    def learn(path: Path) -> None:
        seen, generator = DATA[name]().train, torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, seen.x.shape, generator=generator, dtype=torch.uint8)
        hit = torch.rand(seen.x.shape, generator=generator) < DISTURBED
        sdegen.save(train_on(Images(torch.where(hit, noise, seen.x)), steps, device=device, progress=False)[0], path)

    return sdegen.load(made(folder / f"background-{name}-{steps}.safetensors", learn))


def auroc(own: Tensor, foreign: Tensor) -> list[float]:
    """Return how often a foreign image has the larger score, and its standard error over both sets (E. DeLong et al., 1988)."""
    wins = (foreign[:, None] > own).double() + 0.5 * (foreign[:, None] == own).double()
    error = wins.mean(1).var() / len(foreign) + wins.mean(0).var() / len(own)
    return [wins.mean().item(), error.sqrt().item()]


def drawn(images: Images, n: int, generator: torch.Generator) -> Images:
    """Draw `n` of the images."""
    return images[torch.randperm(len(images), generator=generator)[:n]]


def sets_of(name: str, n: int, seed: int) -> tuple[Images, Images, Images, Images]:
    """Return all training images of a set, and `n` of each: of its test images, of its training images, and of the other set's
    test images.
    """
    split, generator = DATA[name](), torch.Generator().manual_seed(seed)
    few = (drawn(images, n, generator) for images in (split.test, split.train, DATA[FOREIGN[name]]().test))
    own, seen, foreign = few
    return split.train, own, seen, foreign


def judged(name: str, n: int, steps: int, folder: Path, device: str, seed: int) -> Values:
    """Judge a shipped model, told no class, on its own test images and on those of the other set."""
    model, behind = sdegen.pretrained(name), background(name, steps, folder, device)
    train, own, seen, foreign = sets_of(name, n, seed)
    (of_own, evaluations), (of_seen, _), (of_foreign, _) = (
        bits(model, x, seed, label=-1) for x in (own, seen, foreign)
    )
    ratio = auroc(of_own - bits(behind, own, seed)[0], of_foreign - bits(behind, foreign, seed)[0])
    return (
        means({"test": of_own, "training": of_seen, "foreign": of_foreign})
        | told_apart(train, (own, of_own), (foreign, of_foreign), of_seen)
        | {"ratio to a background": ratio, "evaluations": [evaluations, None]}
    )


def told_apart(train: Images, own: tuple[Images, Tensor], foreign: tuple[Images, Tensor], of_seen: Tensor) -> Values:
    """Return areas under the curve of four scores, from images with their bits, and the bits of training images."""
    typical = of_seen.mean()
    scores: dict[str, Callable[[Images, Tensor], Tensor]] = {
        "likelihood": lambda images, found: found,
        "input complexity": lambda images, found: found - complexity(images),
        "ratio to a Gaussian": lambda images, found: found - gaussian_bits(train, images),
        "typicality": lambda images, found: (found - typical).abs(),
    }
    return {name: auroc(score(*own), score(*foreign)) for name, score in scores.items()}


def chain_bits(model: Any, images: Images, seed: int) -> Tensor:
    """Return bounds of images in bits per dimension by a chain of `STEPS` steps."""
    found = sdegen.discrete_bits_per_dim(
        model, images.x, sdegen.data.Scaling(-1, 1, images.levels), chain_times(model, STEPS),
        generator=torch.Generator().manual_seed(seed), batch=50,
    )  # fmt: skip
    return found.value.double().cpu()


def judged_by_chain(table: Table, name: str, n: int, seed: int) -> Values:
    """Judge a model that was trained for bits, by its bounds of its own test images and of those of the other set."""
    model = better(table.beside("likelihood_recipe"), name)
    train, own, seen, foreign = sets_of(name, n, seed)
    of_own, of_seen, of_foreign = (chain_bits(model, images, seed) for images in (own, seen, foreign))
    return (
        means({"test": of_own, "training": of_seen, "foreign": of_foreign})
        | told_apart(train, (own, of_own), (foreign, of_foreign), of_seen)
        | {"evaluations": [STEPS, None]}
    )


def judged_digits(steps: int, n: int, folder: Path, device: str, seed: int) -> Values:
    """Train a model of scikit-learn's digits, of 17 levels, and return its bits."""
    split, generator = SPLITS["digits"](), torch.Generator().manual_seed(seed)
    model = of_digits(steps, folder / f"digits-{steps}.safetensors", device)
    found = {
        column: bits(model, drawn(images, n, generator), seed, label=-1)
        for column, images in {"test": split.test, "training": split.train}.items()
    }
    evaluations = max(count for _, count in found.values())
    return means({column: values for column, (values, _) in found.items()}) | {"evaluations": [evaluations, None]}


def of_flows(table: Table, name: str) -> Values:
    """Return the bits of the flows that the families table has trained, of its own test images; empty where it has not."""
    rows = table.beside("families_table").within(name).rows.lines
    found = {kind: rows.get(Key("images", kind, 0)) for kind in ("RealNVP", "residual flow")}
    return {kind: line["values"]["bits"] for kind, line in found.items() if line}


def means(columns: dict[str, Tensor]) -> Values:
    """Return means with their standard errors."""
    return {column: [value.mean().item(), value.std().item() / len(value) ** 0.5] for column, value in columns.items()}


def images_block(table: Table) -> str:
    """Return bits per dimension, and areas under the curve of five scores for foreign images."""
    n, steps, of_8x8 = (50, 150, 600) if table.quick else (250, 2000, 3000)
    folder = table.out / "models"
    rows = {
        name: table.row("images", name, partial(judged, name, n, steps, folder, table.device), once=True)
        for name in DATA
    }
    rows["digits"] = table.row("images", "digits", partial(judged_digits, of_8x8, n, folder, table.device), once=True)
    rows = {name: cells and cells | of_flows(table, name) for name, cells in rows.items()}
    for name in [] if table.quick else DATA:
        compute = partial(judged_by_chain, table, name, 50)
        rows[f"{name}, trained for bits"] = table.row("images", f"{name}, trained for bits", compute, once=True)
    columns = {
        "test": 3, "RealNVP": 3, "residual flow": 3, "training": 3, "foreign": 3, "likelihood": 3, "input complexity": 3,
        "ratio to a Gaussian": 3, "ratio to a background": 3, "typicality": 3, "evaluations": 0,
    }  # fmt: skip
    return table.write("images", columns, rows)
