"""Two blocks of `benchmarks.likelihood_recipe`: what parts of the recipe are worth on the digits, and how its training starts.

In the first a row is the recipe with one part changed, after a short training of a small network: bits per number of test
digits. In the second a row is a setting of the optimiser, after 250 steps on small MNIST.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import sdegen
from benchmarks.likelihood_bits import LOSS, both, continuous, scaling_of
from benchmarks.likelihood_training import Recipe, build, process, split_of, third_pixel
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import nets
from sdegen.data import Images
from sdegen.laws.derivatives import Hutchinson
from sdegen.metrics import Estimate
from sdegen.models import DataParametrization, EDMParametrization, Parametrization
from sdegen.training.losses import Denoising
from sdegen.training.weightings import EDMWeighting, ImportanceTimes, LikelihoodWeighting, LogNormalTimes

Part = tuple[Callable[[], tuple[nn.Module, Parametrization]], Denoising]


def waves() -> tuple[nn.Module, Parametrization]:
    """Return a network that sees sines of the state and predicts what is left of the velocity, and its parametrisation."""
    return nets.FourierState(nets.UNet(5, (32, 32), out_channels=1), octaves=(3, 4)), EDMParametrization(0.75)


def bytes_of(components: int) -> tuple[nn.Module, Parametrization]:
    """Return a network that tells what byte it expects, by a mixture of so many Gaussians, and its parametrisation."""
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
    """Train for a short time, and return bits of test digits by the flow and by the bound in continuous time."""
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
        return list(Estimate.of(found.value.cpu()))
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


# Settings of a short training that differ from the recipe's.
STARTS: dict[str, dict[str, Any]] = {
    "clipped at 1, as the recipe": {},
    "not clipped": {"clip": None},
    "warm-up of 100 steps in place of 20": {"warmup": 100},
}


def start_of(name: str, steps: int, n: int, device: str, seed: int) -> Values:
    """Train for a short time on MNIST seen at every third pixel, 8 x 8, and return bounds of test images with averaged
    weights.
    """
    seen, _, test = (third_pixel(part) for part in split_of("mnist"))
    recipe = Recipe("mnist", (32, 64), 0.6, steps)
    torch.manual_seed(seed)
    model = build(recipe, 256).to(device)
    settings = {"lr": 2.5e-3, "warmup": 20} | STARTS[name]
    run = sdegen.fit(
        model, seen.scaled(-1, 1), steps=steps, batch_size=64, loss=LOSS, autocast=torch.bfloat16, seed=seed, progress=False,
        **settings,
    )  # fmt: skip
    norms = torch.tensor(run.grad_norm)
    return {
        "continuous": list(Estimate.of(continuous(model, test[:n], 2, seed))),
        "norm of the gradient": [norms.median().item(), None],
        "its 9/10 quantile": [norms.quantile(0.9).item(), None],
    }


def starts_block(table: Table) -> str:
    """Return what settings of the optimiser are worth in a short training."""
    steps, n = (20, 20) if table.quick else (250, 500)
    rows = {
        name: table.row("starts", name, partial(start_of, name, steps, n, table.device), seeds=3) for name in STARTS
    }
    return table.write("starts", {"continuous": 3, "norm of the gradient": 0, "its 9/10 quantile": 0, "seeds": 0}, rows)
