"""The codec table: what images take in a file, beside the bound, the flow's estimate, and what other formats make of them.

    python -m benchmarks.codec_table --threads 1      # an hour and a half of one core, where models trained for bits have weights
    python -m benchmarks.codec_table --quick

A row is a model and its images.
Images are written by `sdegen.Codec`, read again, and compared bit for bit: a row exists only if they are the same. The bound
is that of the same images on the same chain, `sdegen.discrete_bits_per_dim`, with its error over draws. The estimate is that of
the flow with uniform dequantisation, `sdegen.bits_per_dim`, of the model that was trained for bits with noise of its own,
`sdegen.noised_bits_per_dim`: the bound, and what the two differ by on the first of the images.
Other formats get all images below each other: PNG and WebP by Pillow, on sheets no taller than WebP allows, zlib and
LZMA of the bytes. All are in bits per number. Needs ``sdegen[codec]``. Then what parts of a training for bits are worth
(`codec_recipe`).
"""

from __future__ import annotations

import io
import lzma
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.codec_recipe import recipe_block
from benchmarks.devices import fit_on
from benchmarks.files import made
from benchmarks.likelihood_bits import chain_times, scaling_of
from benchmarks.likelihood_training import better, load, split_of, train
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen.data import Images, Scaling
from sdegen.laws import Units
from sdegen.laws.derivatives import Hutchinson

TWICE = 100  # images whose bound is drawn twice
TALLEST = 16383  # pixels of a sheet in WebP
CHOICE = 81  # times on the grid that the times of a chain are chosen from
COLUMNS = {
    "images": 0, "bound": 4, "file": 4, "file / bound": 4, "estimate of the flow": 3, "PNG": 3, "WebP": 3, "zlib": 3, "LZMA": 3,
    "s an image, writing": 3, "s an image, reading": 3,
}  # fmt: skip


def of_digits(steps: int, path: Path, device: str) -> sdegen.ScoreModel:
    """Return a small model of the digits, trained by the likelihood's own weighting where the file is not there yet."""

    def train(path: Path) -> None:
        torch.manual_seed(0)
        images = SPLITS["digits"]().train
        model = sdegen.Model(sdegen.nets.UNet(1, (32, 32)), sdegen.VP().in_units(Units()))
        loss = sdegen.losses.Denoising(sdegen.weightings.LikelihoodWeighting(), sdegen.weightings.ImportanceTimes())
        data = Scaling(-1, 1, images.levels)(images.x)
        fit_on(device, model, data, steps=steps, batch_size=64, loss=loss, seed=0, progress=False)
        sdegen.save(model, path)

    found: sdegen.ScoreModel = sdegen.load(made(path, train))
    return found


def shipped(name: str) -> sdegen.ScoreModel:
    """Return a shipped model, told no class."""
    return sdegen.Conditioned(sdegen.pretrained(name), label=-1)


def measure_others(x: Tensor) -> dict[str, int]:
    """Return the bytes that other formats take for all images as one, below each other, or for as few sheets as WebP allows."""
    settings: dict[str, dict[str, Any]] = {
        "PNG": {"optimize": True},
        "WebP": {"lossless": True, "quality": 100, "method": 6},
    }
    sizes = dict.fromkeys(settings, 0)
    for part in x.split(TALLEST // x.shape[2]):
        sheet = part.permute(0, 2, 3, 1).reshape(-1, x.shape[3], x.shape[1]).squeeze(-1).numpy()
        for name, how in settings.items():
            file = io.BytesIO()
            Image.fromarray(sheet).save(file, name, **how)
            sizes[name] += len(file.getvalue())
    content = x.numpy().tobytes()
    return sizes | {"zlib": len(zlib.compress(content, 9)), "LZMA": len(lzma.compress(content, preset=9))}


Flow = Callable[..., sdegen.LogProb]


@dataclass(frozen=True)
class Case:
    """What a row is made by: the images that are written, and the model.

    Attributes
    ----------
    model, images
        Functions that return them.
    count, few
        How many images are written, and of how many the flow is asked.
    steps
        From a model to the steps of its chain, or their times.
    flow
        Bits by the flow.
    """

    model: Callable[[], sdegen.ScoreModel]
    images: Callable[[], Images]
    count: int
    few: int
    steps: Callable[[Any], int | Tensor]
    flow: Flow


def write_row(case: Case, device: str) -> Values:
    """Write the images of a row to a file and read them again, with the network on a device; return what they take there and
    elsewhere.
    """
    model: Any = case.model()
    model, images = model.to(device), case.images()[: case.count]
    x, scaling = images.x, Scaling(-1, 1, images.levels)
    codec = sdegen.Codec(model, scaling, case.steps(model))
    began = time.perf_counter()
    file = codec.encode(x)
    between = time.perf_counter()
    again = codec.decode(file)
    ended = time.perf_counter()
    if not torch.equal(again.cpu(), x):
        raise AssertionError("the images that were read are not those that were written")
    seeded = torch.Generator().manual_seed(0)
    there = x.to(device)
    bits, error = bounds(model, there, scaling, codec.times, seeded)
    bound, own = bits.mean().item(), 8 * len(file) / x.numel()
    flow = case.flow(model, there[: case.few], scaling, divergence=Hutchinson(), tolerance=1e-3, generator=seeded).value
    apart = flow - bits[: case.few]
    return {
        "images": [len(x), None],
        "bound": [bound, error],
        "file": [own, None],
        "file / bound": [own / bound, own * error / bound**2],
        "estimate of the flow": [bound + apart.mean().item(), apart.std().item() / case.few**0.5],
        "s an image, writing": [(between - began) / len(x), None],
        "s an image, reading": [(ended - between) / len(x), None],
    } | {name: [8 * size / x.numel(), None] for name, size in measure_others(x).items()}


def bounds(
    model: sdegen.ScoreModel, x: Tensor, scaling: Scaling, times: Tensor, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Return the bound of each image by one draw, of the first by two, and the error of the mean, which these tell."""
    parts = [part for part in (x[:TWICE], x[TWICE:]) if len(part)]
    first, *rest = [
        sdegen.discrete_bits_per_dim(model, part, scaling, times, draws=draws, generator=generator, batch=16)
        for part, draws in zip(parts, (2, 1))
    ]
    of_two = first.stderr.square().mean().item()  # the variance of the mean of two draws: half that of one
    variance = of_two * (len(parts[0]) + 2 * (len(x) - len(parts[0]))) / len(x) ** 2
    return torch.cat([first.value, *(found.value for found in rest)]), variance**0.5


def for_bits(table: Table) -> Any:
    """Return the model of the digits that was trained for bits, trained where the file is not there yet."""
    there = table.beside("likelihood_recipe_quick" if table.quick else "likelihood_recipe")
    path = there.out / "models" / "digits-0.safetensors"
    return load(made(path, partial(train, there, "digits", 0)), table.device)


def of_pixels(table: Table, name: str) -> Any:
    """Return the better model trained for bits on images of 28 x 28, with products in bfloat16 as in training: faster, at equal
    bits.
    """
    model = better(table.beside("likelihood_recipe"), name)
    model.net.net.mixed = True
    return model


def least_costly(name: str, model: Any) -> Tensor:
    """Return the times of the chain of 50 steps whose bound is least, on images that are neither trained on nor written."""
    images = split_of(name)[1]
    data = scaling_of(images)(images.x[:64])
    grid = sdegen.samplers.optimal_subsequence(model, data, 50, chain_times(model, CHOICE), len(data), 16, seed=0)
    return grid.times


def codec_block(table: Table) -> str:
    """Return the table."""
    path = table.out / "models" / f"digits-{100 if table.quick else 1500}.safetensors"
    digits = partial(of_digits, 100 if table.quick else 1500, path, table.device)
    few, many = (4, 20) if table.quick else (100, 1000)
    uniform: Callable[[Any], int] = lambda model: 10 if table.quick else 30  # noqa: E731
    to_the_end = partial(chain_times, steps=10 if table.quick else 50)
    cases = {
        "digits": Case(digits, sdegen.data.digits, many, few, uniform, sdegen.bits_per_dim),
        "digits, trained for bits": Case(
            partial(for_bits, table), sdegen.data.digits, many, few, to_the_end, sdegen.noised_bits_per_dim
        ),
    }
    for name in () if table.quick else ("mnist", "fashion_mnist"):
        model, times = partial(of_pixels, table, name), partial(least_costly, name)
        cases[f"{name}, trained for bits"] = Case(
            model, partial(held_back, name), many, 16, times, sdegen.noised_bits_per_dim
        )
    for name in ("sprites", "mnist", "fashion_mnist"):
        test = partial(held_back, name)
        cases[name] = Case(partial(shipped, name), test, min(many, 200), min(few, 20), uniform, sdegen.bits_per_dim)

    def compute(name: str, seed: int) -> Values:
        return write_row(cases[name], table.device)

    rows = {name: table.row("codec", name, partial(compute, name), once=True) for name in cases}
    return table.write("codec", COLUMNS, rows)


def held_back(name: str) -> Images:
    """Return the test images of a set."""
    return SPLITS[name]().test


def main() -> None:
    """Print the table."""
    command.run("codec_table", __doc__, [codec_block, recipe_block], seeds=1, timed=True, networks=True)


if __name__ == "__main__":
    main()
