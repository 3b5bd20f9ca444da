"""A block of `benchmarks.likelihood_recipe`: what learned noise in the cells of bytes is worth, and what more draws are.

A row is a model, a flow or a score model, with uniform noise or with noise that was learned; a column the number of draws of
the bound, in bits per number of the test digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import sdegen
from benchmarks.likelihood_bits import LOSS
from benchmarks.likelihood_training import split_of
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import nets
from sdegen.baselines import Logit, RealNVP
from sdegen.data import Dequantisation, Images, Scaling
from sdegen.likelihood import Dequantiser
from sdegen.likelihood.draws import log_mean
from sdegen.metrics import Estimate

DRAWS = (1, 4, 16, 64)
CELLS = Dequantisation(0, 1, 17)  # cells of bytes for flows, whose first map is a logit
SPREAD = Dequantisation(-1, 1, 17)  # cells of bytes for score models
NOISES = {"uniform": "uniform noise", "learned": "learned noise"}


class Pair(nn.Module):
    """A flow and the noise of its data, which learn from bytes by one bound."""

    def __init__(self, flow: RealNVP, noise: Dequantiser) -> None:
        super().__init__()
        self.flow, self.noise, self.moments = flow, noise, None

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return the negative bound of one draw in nats per number, ``(B,)``."""
        return -self.noise.bound(x, self.flow.log_prob, generator=generator).value / x[0].numel()


def digits(part: int, scaling: Scaling, every: int = 1) -> Tensor:
    """Return the middles of the cells of digits, seen at every so many pixels: 0 for training, 2 of the test."""
    return scaling.middles(split_of("digits")[part].x[..., ::every, ::every]).float()


def new(seed: int) -> Pair:
    """Return an untrained flow, with noise that is uniform."""
    torch.manual_seed(seed)
    flow = RealNVP((1, 8, 8), couplings=4, width=32, depth=1, first=Logit(0.02))
    return Pair(flow, Dequantiser((1, 8, 8), CELLS))


def learn(pair: Pair, steps: int, seed: int, *, flow: bool, noise: bool) -> None:
    """Train a flow, its noise, or both."""
    pair.flow.requires_grad_(flow), pair.noise.requires_grad_(noise)
    sdegen.fit(pair, digits(0, CELLS), steps=steps, batch_size=128, lr=2e-3, seed=seed, progress=False)


def bits(
    noises: dict[str, Dequantiser], log_prob: Callable[[Tensor], Tensor], x: Tensor, draws: int, seed: int
) -> Values:
    """Return bits per number by 1, 4, 16 ... draws of each noise, with errors over images.

    There are `draws` of each image; a figure of fewer is the mean over all groups of so many.
    """
    unit = x[0].numel() * math.log(2)
    cells: Values = {}
    for name, noise in noises.items():
        seeded = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            singles = noise.bound(x.repeat_interleave(draws, 0), log_prob, generator=seeded).value
        of_draws = singles.reshape(-1, draws).double()
        of = {k: log_mean(of_draws.reshape(-1, k))[0].reshape(len(x), -1) for k in DRAWS if k <= draws}
        cells |= {f"{name}: {k}": list(Estimate.of(-value.mean(1) / unit)) for k, value in of.items()}
    return cells


def of_flow(steps: tuple[int, int, int], draws: int, seed: int) -> Values:
    """Train a flow alone under uniform noise, then both, then the noise alone, and return its bounds of test digits."""
    pair = new(seed)
    for n, flow, noise in zip(steps, (True, True, False), (False, True, True)):
        if n:
            learn(pair, n, seed, flow=flow, noise=noise)
    noises = {"uniform": Dequantiser((1, 8, 8), CELLS)} | ({"learned": pair.noise} if any(steps[1:]) else {})
    return bits(noises, partial(pair.flow.log_prob, batch=2000), digits(2, CELLS), draws, seed)


def of_scores(steps: int, draws: int, n: int, seed: int) -> Values:
    """Train a score model of digits of 4 x 4 and then its noise, by its bound; return bounds of `n` test digits by its flow."""
    torch.manual_seed(seed)
    model = sdegen.Model(nets.MLP(16, width=128, depth=2), sdegen.VP())
    seen = Images(split_of("digits")[0].x[..., ::2, ::2].contiguous(), levels=17)
    sdegen.fit(model, seen.dequantised(-1, 1), steps=steps, batch_size=256, loss=LOSS, seed=seed, progress=False)
    model.requires_grad_(False)
    noise, seeded = Dequantiser((1, 4, 4), SPREAD), torch.Generator().manual_seed(seed)

    def loss(q: Dequantiser, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        nats = 0.5 * (model.sde.T - model.sde.t_min)
        return -q.bound(x, lambda y: -nats * LOSS(model, y, generator=seeded), generator=generator).value

    sdegen.fit(
        noise, digits(0, SPREAD, 2), steps=steps // 2, batch_size=256, lr=2e-3, loss=loss, seed=seed, progress=False
    )
    noises = {"uniform": Dequantiser((1, 4, 4), SPREAD), "learned": noise}
    return bits(noises, partial(sdegen.log_prob, model, tolerance=1e-4), digits(2, SPREAD, 2)[:n], draws, seed)


def dequantised_block(table: Table) -> str:
    """Return bounds by draws of uniform and of learned noise."""
    done, looks = (12, 4) if table.quick else (600, 64)
    third = done // 3
    ways: dict[str, Callable[[int], Values]] = {
        "flow, uniform noise alone": partial(of_flow, (done, 0, 0), looks),
        "flow, noise learned after it": partial(of_flow, (2 * third, 0, third), looks),
        "flow, noise learned beside it": partial(of_flow, (0, done, 0), looks),
        "score model, noise learned after it": partial(of_scores, 3 * done, looks, 4 if table.quick else 24),
    }
    rows: dict[str, Values] = {}
    for name, way in ways.items():
        found = table.row("dequantised", name, way, seeds=2, device="cpu")
        for noise, label in NOISES.items():
            own = {key.removeprefix(f"{noise}: "): value for key, value in found.items() if key.startswith(noise)}
            if own:
                rows[f"{name}: {label}"] = own | {"seeds": found["seeds"]}
    columns = {"1": "1 draw, a bound", **{str(k): f"{k} draws, a bound" for k in DRAWS[1:]}, "seeds": "seeds"}
    named = {name: {columns[key]: value for key, value in cells.items()} for name, cells in rows.items()}
    return table.write("dequantised", {name: 0 if name == "seeds" else 3 for name in columns.values()}, named)
