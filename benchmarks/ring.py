"""The ring that tables judge models on, and the models of the KL table: processes and weightings, and how each is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from sdegen import losses, nets, weightings
from sdegen.laws import Units
from sdegen.models import EDMParametrization, VelocityParametrization
from sdegen.processes.times import TimeLaw
from sdegen.training.weightings import Weighting

RING = sdegen.data.gaussian_ring(modes=8, radius=4.0, std=0.5)
STEPS, QUICK_STEPS = 7000, 700  # training steps of a row
DETAIL = 0.25  # the density of the data varies on lengths of half a mode's std


class Warming(sdegen.ScalarSDE):
    """A process as a user writes it: by its drift and its noise alone."""

    def f(self, t: Tensor) -> Tensor:
        return -10 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t).sqrt()


@dataclass
class Entry:
    """What a row of the KL table is made by: a process, and how a model of it is trained."""

    sde: Callable[[], Any]
    weighting: Weighting
    parametrization: Any = field(default_factory=lambda: EDMParametrization(detail=DETAIL, delta=0.03))
    times: TimeLaw | None = None  # where the law of t is part of the objective
    source: float | None = None
    learned: bool = False
    antithetic: bool = False  # every datum noised with z and −z, half as many data a step
    centre: float = -0.3  # log(sigma / alpha) around which training times are drawn
    lr: float = 4e-3
    length: float = 1.0  # steps of the training over those of the other rows


PROCESSES: dict[str, Callable[[], Any]] = {
    "OU": sdegen.OU,
    "DDPM": sdegen.DDPM,
    "VP": sdegen.VP,
    "sub-VP": sdegen.SubVP,
    "VE": sdegen.VE,
    "EDM": sdegen.EDM,
    "Cosine": sdegen.Cosine,
    "Rectified": sdegen.Rectified,
    "CLD": sdegen.CLD,
    "two methods": Warming,
}

TRAINED: dict[str, Entry] = {
    "OU, uniform": Entry(sdegen.OU, weightings.UniformWeighting(), source=33.61),
    "OU, inverse variance": Entry(sdegen.OU, weightings.InverseVarianceWeighting(), source=32.24),
    # lambda = 1 dwells at small noise, where the gradient of single draws is all noise: pairs cancel it.
    "DDPM, uniform": Entry(
        sdegen.DDPM, weightings.UniformWeighting(), source=28.04, antithetic=True, centre=1.2, lr=3e-3, length=1.6
    ),
    "DDPM, inverse variance": Entry(sdegen.DDPM, weightings.InverseVarianceWeighting(), source=28.62),
    "VE, inverse variance": Entry(sdegen.VE, weightings.InverseVarianceWeighting()),
    "sub-VP, likelihood": Entry(sdegen.SubVP, weightings.LikelihoodWeighting()),
    "Cosine, SNR + 1, velocity": Entry(
        sdegen.Cosine, weightings.SNRWeighting(1.0), VelocityParametrization(delta=0.03)
    ),
    "Rectified, SNR + 1 (flow matching)": Entry(sdegen.Rectified, weightings.SNRWeighting(1.0)),
    "EDM, EDM weighting": Entry(sdegen.EDM, weightings.EDMWeighting(2.87), times=weightings.LogNormalTimes(-0.3, 1.6)),
    "VP, min-SNR": Entry(sdegen.VP, weightings.MinSNRWeighting(5.0)),
    "DDPM, learned variance": Entry(sdegen.DDPM, weightings.InverseVarianceWeighting(), learned=True),
    "two methods, likelihood": Entry(Warming, weightings.LikelihoodWeighting()),
}


def train(entry: Entry, steps: int, seed: int, device: str = "cpu") -> tuple[Any, sdegen.Run]:
    """Return a model of an entry after so many steps, and the record of its training."""
    torch.manual_seed(seed)
    model_class = sdegen.LearnedVariance if entry.learned else sdegen.Model
    net = nets.MLP(2, width=96, depth=3, out=4 if entry.learned else None)
    sde = entry.sde().in_units(Units())  # levels, lengths and weights above are in the ring's own units
    model = model_class(net, sde, entry.parametrization).to(device)
    # Noise levels far from the data's own lengths are easy: most draws go where they are not. The factor 1/density
    # keeps each row's own objective.
    times = entry.times or weightings.ImportanceTimes(partial(near_the_data, entry.weighting, entry.centre))
    denoising: Any = losses.Denoising(entry.weighting, times, antithetic=entry.antithetic)
    objective = losses.Hybrid(denoising) if entry.learned else denoising
    batch = 256 if entry.antithetic else 512  # a pair is two evaluations of the network
    return model, sdegen.fit(
        model,
        RING,
        steps=int(entry.length * steps),
        batch_size=batch,
        lr=entry.lr,
        loss=objective,
        seed=seed,
    )


def near_the_data(weighting: Weighting, centre: float, sde: Any, t: Tensor) -> Tensor:
    """Return a density of times: normal in ``log(sigma / alpha)`` around `centre`, times the row's own weight."""
    ends = torch.cat([t[:1] * 0 + sde.t_min, 0.5 * (t[1:] + t[:-1]), t[-1:] * 0 + sde.t_max])
    level = -0.5 * sde.snr(ends).log()
    slope = (level[1:] - level[:-1]) / (ends[1:] - ends[:-1])
    at = sde.marginal(t)
    # What the row's weighting is on the error of the velocity.
    weight = (weighting(sde, t) @ at.R.inv() @ at.B).matrix()[:, 0, 0]
    return slope * weight * (-0.5 * ((-0.5 * sde.snr(t).log() - centre) / 1.8).square()).exp()
