"""What the blocks of `benchmarks.likelihood_recipe` share: the loss, and bits of images of bytes by the flow and by the bound.

Chains end, and flows begin, where training does: at noise of a sixth of a step between bytes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.rows import Values
from sdegen.data import Images, Scaling
from sdegen.laws.derivatives import Hutchinson
from sdegen.metrics import Estimate
from sdegen.models.modes import evaluating
from sdegen.training.losses import Denoising
from sdegen.training.weightings import ImportanceTimes, LikelihoodWeighting

NOISE = 1 / 6  # noise at which training begins, in steps between bytes
DRAWS = 8
LOSS = Denoising(LikelihoodWeighting(), ImportanceTimes(), pooled=False)


def scaling_of(images: Images) -> Scaling:
    """Return how bytes become numbers from −1 to 1."""
    return Scaling(-1, 1, images.levels)


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


def both(model: Any, images: Images, seed: int) -> Values:
    """Return bits by the flow and by the bound in continuous time, and what they differ by."""
    flow = sdegen.noised_bits_per_dim(
        model, images.x, scaling_of(images), noise=NOISE, divergence=Hutchinson(), tolerance=1e-3,
        generator=torch.Generator().manual_seed(seed), batch=1000,
    )  # fmt: skip
    of_flow, of_sde = flow.value.double().cpu(), continuous(model, images, DRAWS, seed)
    return {
        "flow": list(Estimate.of(of_flow)),
        "continuous": list(Estimate.of(of_sde)),
        "flow − continuous": list(Estimate.of(of_flow - of_sde)),
        "evaluations": [flow.evaluations, None],
    }


def chain_times(model: Any, steps: int) -> Tensor:
    """Return times of a chain that ends where training began."""
    grid = sdegen.grids.LogSNR(start=model.sde.t_max, end=model.sde.t_min, digits=3)
    return grid(model.sde, steps)
