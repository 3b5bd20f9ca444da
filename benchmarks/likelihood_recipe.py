"""Models that are trained for bits: MNIST, Fashion-MNIST and scikit-learn's digits, beside RealNVP, and what the parts are worth.

    python -m benchmarks.likelihood_recipe --threads 1                    # three hours of a core for each row of each seed
    python -m benchmarks.likelihood_recipe --device cuda                   # the same steps in minutes
    python -m benchmarks.likelihood_recipe --quick

The network tells what byte it expects at each pixel (`nets.ByteMean`), and is trained by the likelihood's weighting, with times
even in the log-SNR, from noise of a sixth of a step between bytes on. Test images are judged by the probability flow, from bytes
with noise of that size, cut off at the edge of the cell (`noised_bits_per_dim`), with one probe; by a chain of `CHAIN` steps, the
last of which generates bytes (`discrete_bits_per_dim`); and by the bound in continuous time, for which the loss is drawn `DRAWS`
times for each. All three are bounds from above in the mean.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sdegen
from benchmarks import command
from benchmarks.codec_recipe import From
from benchmarks.devices import called
from benchmarks.files import made
from benchmarks.followed import Points
from benchmarks.likelihood_curves import draw
from benchmarks.rows import Key, Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen import nets
from sdegen.data import Images, Scaling
from sdegen.laws import Units
from sdegen.laws.derivatives import Hutchinson
from sdegen.models import DataParametrization, EDMParametrization, Parametrization
from sdegen.models.score import evaluating
from sdegen.training.losses import Denoising
from sdegen.training.weightings import EDMWeighting, ImportanceTimes, LikelihoodWeighting, LogNormalTimes

NOISE = 1 / 6  # steps between bytes, where training begins
BETA = 12.0  # of VP at T: noise of twenty times the signal, beyond which nothing is left to learn
CHAIN = 400
DRAWS = 8
KINDS = {"float32": None, "bfloat16": torch.bfloat16}  # of numbers in which steps are timed
LOSS = Denoising(LikelihoodWeighting(), ImportanceTimes(), pooled=False)


@dataclass(frozen=True)
class Recipe:
    """How a model of a set of images is trained.

    Attributes
    ----------
    data
        The name of the images.
    widths, dropout
        Of the U-Net.
    std
        Of the scaled bytes, roughly.
    steps, batch, lr
        Of the training.
    """

    data: str
    widths: tuple[int, ...]
    std: float
    steps: int
    dropout: float = 0.0
    batch: int = 128
    lr: float = 2e-3


RECIPES = {
    "MNIST": Recipe("mnist", (32, 96, 128), 0.6, 9500, batch=256, lr=2.5e-3),
    "Fashion-MNIST": Recipe("fashion_mnist", (32, 96, 128), 0.7, 9500, batch=256, lr=2.5e-3),
    "digits": Recipe("digits", (32, 64), 0.75, 1500, dropout=0.1, batch=64),
}


def scaling_of(images: Images) -> Scaling:
    """Return how bytes become numbers from −1 to 1."""
    return Scaling(-1, 1, images.levels)


def process(levels: int) -> sdegen.LinearSDE:
    """Return VP, trained from noise of a part of a step on."""
    start = sdegen.VP(beta_max=BETA).time((NOISE * Scaling(-1, 1, levels).step) ** -2).item()
    return From(start, BETA).in_units(Units())


def build(recipe: Recipe, levels: int, channels: int = 1) -> sdegen.Model:
    """Return an untrained model of images of bytes."""
    inner = nets.UNet(
        nets.ByteMean.inputs * channels,
        recipe.widths,
        out_channels=6 * channels,
        dropout=recipe.dropout,
    )
    net = nets.ByteMean(inner, levels, recipe.std)
    return sdegen.Model(net, process(levels), DataParametrization(recipe.std, delta=1e-9))


def continuous(model: Any, images: Images, draws: int, seed: int = 0) -> Tensor:
    """Return the bound of images in continuous time, in bits per number: the integral of the loss, and what the ends add."""
    scaling, sde = scaling_of(images), model.sde
    x, generator = scaling(images.x).to(model.like.device), torch.Generator().manual_seed(seed)
    with torch.no_grad(), evaluating(model):
        losses = [LOSS(model, part, generator=generator) for _ in range(draws) for part in x.split(500)]
    nats = torch.cat(losses).double().cpu().reshape(draws, -1).mean(0) * 0.5 * (sde.T - sde.t_min)
    return nats / (x[0].numel() * math.log(2)) + ends(model, images, seed)


def ends(model: Any, images: Images, seed: int) -> Tensor:
    """Return what a chain of its two ends alone says of its first and last terms, in bits per number."""
    scaling, seeded = scaling_of(images), torch.Generator().manual_seed(seed)
    x = scaling.middles(images.x).to(model.like.device)
    times = torch.tensor([model.sde.T, model.sde.t_min], dtype=torch.float64)
    found = sdegen.discrete_elbo(model, x, times, cells=scaling, generator=seeded, batch=500)
    return (found.terms[0] + found.terms[-1]).double().cpu() / (x[0].numel() * math.log(2))


class Curve:
    """A callback: the bound of some images that are not trained on, with averaged weights, every so many steps."""

    def __init__(self, path: Path, images: Images, every: int) -> None:
        self.points, self.images, self.every, self.spent = Points(path), images, every, 0.0

    def __call__(self, step: Any) -> None:
        """Write a point where it is time; seconds are those of training alone."""
        if step.step % self.every:
            return
        began = time.perf_counter()
        with step.averaged() as model:
            bits = continuous(model, self.images, 2)
        value, error = mean(bits)
        self.points.add(step.step, {"seconds": step.seconds - self.spent, "bits": value, "s.e.": error})
        self.spent += time.perf_counter() - began


def split_of(data: str) -> tuple[Images, Images, Images]:
    """Return images for training, those of the curve, and those of the test."""
    split = SPLITS[data]()
    seen, curve = (
        split.train.split(0.9, seed=1) if data == "digits" else split.train.split(1 - 1000 / len(split.train), seed=1)
    )
    return seen, curve, split.test


def train(table: Table, name: str, seed: int, path: Path) -> None:
    """Train a model, and write its weights in half precision, and what was spent beside."""
    recipe, device = RECIPES[name], table.device
    seen, curve, _ = split_of(recipe.data)
    torch.manual_seed(seed)
    model = build(recipe, seen.levels).to(device)
    steps = 20 if table.quick else recipe.steps
    watch = Curve(table.out / f"curve-{path.stem}.csv", curve, max(steps // 12, 1))
    run = sdegen.fit(
        model, seen.without_labels().scaled(-1, 1), steps=steps, batch_size=recipe.batch,
        lr=recipe.lr, warmup=200, loss=LOSS, autocast=torch.bfloat16, seed=seed, checkpoint=path.with_suffix(""), every=500,
        seconds=table.args.seconds, callbacks=[watch], progress=False,
    )  # fmt: skip
    sdegen.save(model.half(), path)
    path.with_suffix(".csv").write_text(
        f"steps,seconds,device\n{run.steps},{run.seconds - watch.spent:.1f},{called(device)}\n"
    )


def load(path: Path, device: str) -> Any:
    """Return a model that `train` has written, in single precision."""
    return sdegen.load(path, classes=[From], dtype=torch.float32).to(device)


def better(table: Table, data: str) -> Any:
    """Return the one of two trainings on a set of images that has the lower bound of images held back from training.

    Parameters
    ----------
    table
        This one, for its weights and curves; without weights, the first is trained.
    data
        The name of the images.
    """
    name = next(name for name, recipe in RECIPES.items() if recipe.data == data)
    points = {seed: Points(table.file(f"curve-{name}-{seed}.csv")).read() for seed in (0, 1)}
    there = [seed for seed in points if (table.out / "models" / f"{name}-{seed}.safetensors").exists() and points[seed]]
    seed = min(there, key=lambda seed: points[seed][-1]["bits"], default=0)
    path = table.out / "models" / f"{name}-{seed}.safetensors"
    return load(made(path, partial(train, table, name, seed)), table.device)


def mean(bits: Tensor) -> list[float]:
    """Return a mean over images with its standard error."""
    bits = bits.double()
    return [bits.mean().item(), bits.std().item() / len(bits) ** 0.5]


def both(model: Any, images: Images, seed: int) -> Values:
    """Return bits by the flow and by the bound in continuous time, and what they differ by."""
    flow = sdegen.noised_bits_per_dim(
        model, images.x, scaling_of(images), noise=NOISE, divergence=Hutchinson(), tolerance=1e-3,
        generator=torch.Generator().manual_seed(seed), batch=1000,
    )  # fmt: skip
    of_flow, of_sde = flow.value.double().cpu(), continuous(model, images, DRAWS, seed)
    return {
        "flow": mean(of_flow),
        "continuous": mean(of_sde),
        "flow − continuous": mean(of_flow - of_sde),
        "evaluations": [flow.evaluations, None],
    }


def judged(table: Table, name: str, seed: int) -> Values:
    """Train where there are no weights yet, and judge test images."""
    recipe, stem = RECIPES[name], f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    path = table.out / "models" / f"{stem}.safetensors"
    model = load(made(path, partial(train, table, name, seed)), table.device)
    _, _, test = split_of(recipe.data)
    n = 20 if table.quick else min(1000, len(test))
    test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:n]].without_labels()
    times, seeded = chain_times(model, 20 if table.quick else CHAIN), torch.Generator().manual_seed(seed)
    chain = sdegen.discrete_bits_per_dim(model, test.x, scaling_of(test), times, generator=seeded, batch=1000)
    steps, seconds, device = path.with_suffix(".csv").read_text().splitlines()[1].split(",")
    return both(model, test, seed) | {
        "chain": mean(chain.value.cpu()),
        "images": [n, None],
        "parameters": [sum(p.numel() for p in model.parameters()), None],
        "steps": [int(steps), None],
        "batch": [recipe.batch, None],
        "train s": [float(seconds), None],
        "device": device,  # of the training, whatever it is judged on
    }


def chain_times(model: Any, steps: int) -> Tensor:
    """Return times of a chain that ends where training began."""
    grid = sdegen.grids.LogSNR(start=model.sde.t_max, end=model.sde.t_min, digits=3)
    return grid(model.sde, steps)


def priced(recipe: Recipe) -> str:
    """Return what the cost of a step depends on."""
    side = SPLITS[recipe.data]().test.x.shape[-1]
    return f"{side} x {side}, widths {recipe.widths}"


def cost(name: str, repeats: int, seed: int) -> Values:
    """Seconds that a step of training takes of one core, the least of several runs, in single precision and with bfloat16."""
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


Part = tuple[Callable[[], tuple[nn.Module, Parametrization]], Denoising]


def waves() -> tuple[nn.Module, Parametrization]:
    """A network that sees waves of the state, and predicts what is left of the velocity."""
    return nets.FourierState(nets.UNet(5, (32, 32), out_channels=1), octaves=(3, 4)), EDMParametrization(0.75)


def bytes_of(components: int) -> tuple[nn.Module, Parametrization]:
    """A network that tells what byte it expects."""
    inner = nets.UNet(nets.ByteMean.inputs, (32, 32), out_channels=3 * components)
    return nets.ByteMean(inner, 17, 0.75, components), DataParametrization(0.75, delta=1e-9)


PARTS: dict[str, Part] = {
    "waves of the state": (waves, LOSS),
    "the byte's mean, one Gaussian": (partial(bytes_of, 1), LOSS),
    "the byte's mean, two Gaussians": (partial(bytes_of, 2), LOSS),
    "two, noise in opposite pairs": (
        partial(bytes_of, 2),
        Denoising(LikelihoodWeighting(), ImportanceTimes(), pooled=False, antithetic=True),
    ),
    "two, EDM's weighting and times": (
        partial(bytes_of, 2),
        Denoising(EDMWeighting(), LogNormalTimes(-1.0, 1.4), pooled=False),
    ),
}


def part_of(name: str, steps: int, n: int, device: str, seed: int) -> Values:
    """Bits of test digits after a short training, by the flow and by the bound in continuous time."""
    torch.manual_seed(seed)
    make, loss = PARTS[name]
    net, parametrization = make()
    model = sdegen.Model(net, process(17), parametrization).to(device)
    seen, _, test = split_of("digits")
    run = sdegen.fit(
        model, seen.without_labels().scaled(-1, 1), steps=steps, batch_size=64, lr=2e-3, loss=loss, seed=seed,
        autocast=torch.bfloat16, progress=False,
    )  # fmt: skip
    test = test[:n].without_labels()
    cells = both(model, test, seed) | {"train s": [run.seconds, None]}
    return cells | {"flow, uniform noise": spread(model, test, seed)}


def spread(model: Any, images: Images, seed: int) -> list[float] | str:
    """Return bits by the flow from bytes with uniform noise, or that it could not be followed."""
    seeded, scaling = torch.Generator().manual_seed(seed), scaling_of(images)
    try:
        found = sdegen.bits_per_dim(model, images.x, scaling, divergence=Hutchinson(), tolerance=1e-3, generator=seeded)
        return mean(found.value.cpu())
    except ValueError as error:
        if "could not be followed" not in str(error):
            raise
        return "asks for endless steps"


def parts_block(table: Table) -> str:
    """Return what parts of the recipe are worth."""
    steps, n = (20, 20) if table.quick else (600, 100)
    rows = {name: table.row("parts", name, partial(part_of, name, steps, n, table.device), once=True) for name in PARTS}
    columns = {"flow": 3, "continuous": 3, "flow − continuous": 3, "flow, uniform noise": 3, "train s": 0}
    return table.write("parts", columns, rows)


def main() -> None:
    """Print the tables."""
    blocks = [images_block, parts_block]
    command.run(
        "likelihood_recipe", __doc__, blocks, seeds=2, options=command.add_seconds, picture=picture, timed=True, networks=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
