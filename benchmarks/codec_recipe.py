"""Two blocks of the codec table, `benchmarks.codec_table`: parts of a training for bits, and how noisy its gradients are.

In the first a row is a way to train the same small network of the digits, and a column where the chain ends whose bound of the
test images is shown, in nats an image. In the second a row is a law of training times: the variance of a batch's gradient over
the square of its mean, at weights that all laws share.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import sdegen
from benchmarks.devices import fit_on
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import SPLITS
from sdegen import losses, nets, weightings
from sdegen.data import Scaling
from sdegen.laws import Units

BYTES = Scaling(-1, 1, 17)
BATCH = 64


class From(sdegen.VP):
    """VP whose training and grids end at a later time than usual, with more noise left."""

    def __init__(self, t_min: float, beta_max: float = 20.0) -> None:
        super().__init__(beta_max=beta_max)
        self.t_min = t_min


def plain() -> nn.Module:
    """Return an untrained small U-Net."""
    return nets.UNet(1, (32, 32))


def waved() -> nn.Module:
    """Return an untrained U-Net of the same size that also sees sines of the state, of two steps between bytes and of one."""
    return nets.FourierState(nets.UNet(5, (32, 32), out_channels=1), octaves=(3, 4))


def of_likelihood(times: weightings.TimeLaw, antithetic: bool = False) -> losses.Denoising:
    """Return the loss with the likelihood's weighting."""
    return losses.Denoising(weightings.LikelihoodWeighting(), times, antithetic=antithetic)


# A network, a loss, and the noise in steps between bytes below which there is no training.
RECIPES: dict[str, tuple[Callable[[], nn.Module], Callable[[], losses.Denoising], float]] = {
    "EDM's weighting and times": (
        plain,
        lambda: losses.Denoising(weightings.EDMWeighting(), weightings.LogNormalTimes(-1.0, 1.4)),
        0.0,
    ),
    "the likelihood's weighting, times by importance": (
        plain,
        lambda: of_likelihood(weightings.ImportanceTimes()),
        0.0,
    ),
    "and waves of the state": (waved, lambda: of_likelihood(weightings.ImportanceTimes()), 0.0),
    "without waves, at noise of a step and more": (plain, lambda: of_likelihood(weightings.ImportanceTimes()), 1.0),
}
LAWS: dict[str, losses.Denoising] = {
    "even in t": of_likelihood(weightings.UniformTimes()),
    "even in t, one in each interval": of_likelihood(weightings.StratifiedTimes()),
    "by importance, even in the log-SNR": of_likelihood(weightings.ImportanceTimes()),
    "by importance, even in the angle": of_likelihood(weightings.AngleTimes()),
    "by importance, even in the log-SNR, noise in opposite pairs": of_likelihood(
        weightings.ImportanceTimes(), antithetic=True
    ),
}
LEAST = list(LAWS)[-1]


def trained(
    net: nn.Module, loss: losses.Denoising, steps: int, seed: int, least: float = 0.0, device: str = "cpu"
) -> tuple[sdegen.Model, sdegen.Run]:
    """Train a network on the digits where noise is at least `least` steps between bytes, and return the model and the record."""
    sde = From(sdegen.VP().time((least * BYTES.step) ** -2).item()) if least else sdegen.VP()
    model = sdegen.Model(net, sde.in_units(Units()))
    x = BYTES(SPLITS["digits"]().train.x)
    return model, fit_on(device, model, x, steps=steps, batch_size=BATCH, loss=loss, seed=seed, progress=False)


def judged(name: str, steps: int, device: str, seed: int) -> Values:
    """Train by a recipe, and return bounds of test images in nats an image, by chains of 50 steps that end at noise of two
    steps between bytes, and of one.
    """
    torch.manual_seed(seed)
    net, loss, least = RECIPES[name]
    model, run = trained(net(), loss(), steps, seed, least, device)
    images, cells = SPLITS["digits"]().test.x, {}
    for label, noise in {"ends at two steps": 2.0, "ends at one": 1.0}.items():
        end = model.sde.time((noise * BYTES.step) ** -2).item()
        times = sdegen.grids.LogSNR(start=model.sde.t_max, end=end, digits=3)(model.sde, 50)
        seeded = torch.Generator().manual_seed(seed)
        nats = sdegen.discrete_bits_per_dim(model, images, BYTES, times, generator=seeded).value * 64 * math.log(2)
        cells[label] = [nats.mean().item(), nats.std().item() / len(nats) ** 0.5]
    return cells | {"train s": [run.seconds, None]}


def gradient_of(model: sdegen.Model, loss: losses.Denoising, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the gradient of a loss of one batch by all weights, as a vector."""
    rows = x[torch.randint(len(x), (BATCH,), generator=generator)]
    found = torch.autograd.grad(loss(model, rows, generator=generator).mean(), list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in found]).double()


def noise_of(name: str, steps: int, batches: int, device: str, seed: int) -> Values:
    """Return the variance of a batch's gradient over the square of its mean, at weights after a training that all laws share.

    The mean is the same for all, and is taken from the law with the least noise.
    """
    torch.manual_seed(seed)
    model = trained(plain(), of_likelihood(weightings.ImportanceTimes()), steps, seed, device=device)[0]
    x, generator = BYTES(SPLITS["digits"]().train.x), torch.Generator().manual_seed(seed)
    drawn, least = (
        torch.stack([gradient_of(model, loss, x, generator) for _ in range(batches)])
        for loss in (LAWS[name], LAWS[LEAST])
    )
    power = least.mean(0).square().sum() - least.var(0).sum() / batches
    return {"variance / mean²": [(drawn.var(0).sum() / power).item(), None]}


def recipe_block(table: Table) -> str:
    """Return the parts of the recipe, and the noise of its gradients."""
    steps, early, batches = (30, 10, 5) if table.quick else (600, 100, 50)
    parts = {name: table.row("recipe", name, partial(judged, name, steps, table.device), once=True) for name in RECIPES}
    first = table.write("recipe", {"ends at two steps": 1, "ends at one": 1, "train s": 0}, parts)
    laws = {
        name: table.row("gradient", name, partial(noise_of, name, early, batches, table.device), once=True)
        for name in LAWS
    }
    return first + "\n" + table.write("gradient", {"variance / mean²": 2}, laws)
