"""Other people's networks as score models, and ours as theirs.

A network is foreign if it takes the state as it is and has a clock of its own. Both are said by a parametrisation, so that it
becomes a `Model` like any other: every sampler, likelihood and wrapper takes it, and steps stay one multiplication away from the
network. diffusers itself is needed by `to_diffusers` alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.files import optional
from ..laws.mixtures import Moments
from ..laws.operators import Operator
from ..processes.linear import LinearSDE, as_linear
from ..processes.zoo import DDPM, EDM, AngleTable
from .network import Model
from .parametrizations import (
    Coefficients,
    DataParametrization,
    NoiseParametrization,
    Parametrization,
    VelocityParametrization,
)
from .score import ScoreModel

PREDICTIONS: dict[str, Callable[[], Parametrization]] = {
    "epsilon": NoiseParametrization,
    "sample": DataParametrization,
    "v_prediction": VelocityParametrization,
}


class NetworkClock(ABC):
    """What a network is told of the time."""

    @abstractmethod
    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """The number for the time `t`, ``()`` or ``(B,)``, float64."""


@dataclass(frozen=True)
class StepIndex(NetworkClock):
    """The index of a trained step, ``t N − 1``: from 0 at ``t = 1 / N`` to ``N − 1`` at 1; fractions in between."""

    N: int

    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """``t N − 1``, not below 0."""
        return (torch.as_tensor(t, dtype=torch.float64) / sde.T * self.N - 1).clamp_min(0.0)


@dataclass(frozen=True)
class ScaledTime(NetworkClock):
    """The time, multiplied: ``factor t``, as 999 t in score_sde.

    Parameters
    ----------
    factor
        The number for ``t = 1``.
    """

    factor: float = 1.0

    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """``factor t``."""
        return self.factor * torch.as_tensor(t, dtype=torch.float64)


class NoiseLevel(NetworkClock):
    """The noise level ``sigma / alpha``, as denoisers ``D(x, sigma)`` take it."""

    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """``1 / √snr``."""
        return sde.snr(t).rsqrt()


class Foreign(Parametrization):
    """What another parametrisation asks, of a network with its own clock and input.

    Parameters
    ----------
    asks
        `NoiseParametrization`, `DataParametrization`, `VelocityParametrization` or
        `ScoreParametrization`.
    clock
        What the network is told of the time.
    clean
        Whether it is given ``x / alpha``, clean data with noise of size ``sigma / alpha``, and not the state `x` as it is.
    """

    def __init__(self, asks: Parametrization, clock: NetworkClock, clean: bool = False) -> None:
        super().__init__(std=1.0)
        self.asks, self.clock, self.clean = asks, clock, clean

    def target(self, at: Any) -> tuple[Operator, Operator]:
        """That of the other."""
        return self.asks.target(at)

    def check(self, sde: LinearSDE) -> None:
        """As the other; a ValueError where there is no signal, and so no ``x / alpha``."""
        self.asks.check(sde)
        if self.clean and sde.snr(sde.T) == 0:
            raise ValueError(
                f"{type(sde).__name__} has alpha(T) = 0, where x / alpha is infinite; take a process that keeps some signal, "
                "such as VP or EDM."
            )

    def coefficients(self, sde: LinearSDE, t: Tensor | float, std: float) -> Coefficients:
        """Those of the other, with the network's own input and clock."""
        at = sde.marginal(t)
        c = super().coefficients(sde, t, 1.0)
        return c._replace(c_in=at.Phi.inv() if self.clean else at.Phi.one(), c_noise=self.clock(sde, t))


def from_network(
    net: nn.Module,
    sde: LinearSDE,
    parametrization: Parametrization | None = None,
    clock: NetworkClock | None = None,
    moments: Moments | None = None,
    end: float | None = None,
) -> Model:
    """Any callable ``net(x, clock, **cond)`` that was trained elsewhere, as a score model.

    A network of score_sde on its VP process, told ``999 t`` and giving the noise, is
    ``from_network(net, VP(), NoiseParametrization(), ScaledTime(999))``.

    Parameters
    ----------
    net
        Called as ``net(x, clock, **cond)`` with the state as it is, ``(B, *)``, and numbers ``(B,)`` or ``(1,)``.
    sde
        The process that it was trained on.
    parametrization
        What it gives: `NoiseParametrization` (the default), `DataParametrization`, `VelocityParametrization` or
        `ScoreParametrization`.
    clock
        What it is told of the time: ``StepIndex(1000)`` (the default), `ScaledTime` or `NoiseLevel`.
    moments
        Mean and covariance of the data, which the prior and the default sampler are matched to; runs otherwise need `x_T`.
    end
        Time below which it was not trained: see `Model`.

    Raises
    ------
    ValueError
        If the parametrisation is singular on the process, or `end` is not a time of it.
    """
    asks = Foreign(
        NoiseParametrization() if parametrization is None else parametrization,
        StepIndex(1000) if clock is None else clock,
    )
    return _model(net, sde, asks, moments, end)


def from_denoiser(denoiser: nn.Module, moments: Moments | None = None, sde: LinearSDE | None = None) -> Model:
    """A denoiser ``D(x, sigma)`` in the sense of EDM, which gives ``E[x_0 | x_0 + sigma z = x]``, as a score model.

    Wrappers of k-diffusion are such denoisers. T. Karras et al., *Elucidating the design space of diffusion-based generative
    models*, 2022, arXiv:2206.00364. On a process with ``alpha < 1`` it is given ``x / alpha`` and ``sigma / alpha``: any scalar
    process will do.

    Parameters
    ----------
    denoiser
        Called as ``denoiser(x, sigma, **cond)`` with `sigma` ``(B,)`` or ``(1,)``.
    moments
        As for `from_network`.
    sde
        The process to sample on; `EDM` by default.

    Raises
    ------
    TypeError
        If the process moves matrices, whose data have no one level of noise.
    ValueError
        If the process has no signal at T.
    """
    if sde is not None and len(sde.e) > 1:
        raise TypeError(f"{type(sde).__name__} moves matrices; a denoiser D(x, sigma) needs a scalar process.")
    return _model(
        denoiser, EDM() if sde is None else sde, Foreign(DataParametrization(), NoiseLevel(), clean=True), moments
    )


def _model(net: nn.Module, sde: LinearSDE, asks: Foreign, moments: Moments | None, end: float | None = None) -> Model:
    """A model that knows the moments of its data beforehand."""
    model = Model(net, sde, asks, end)
    model.moments = moments
    return model


class UNetOf(nn.Module):
    """A network of diffusers, called as ours are: ``net(x, clock, label=None, **cond)``.

    Parameters
    ----------
    unet
        Called as ``unet(x, timestep, class_labels=..., return_dict=False, **cond)``; returns a tuple, the prediction first.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, clock: Tensor, label: Tensor | int | None = None, **cond: Any) -> Tensor:
        """What it predicts, of the shape of `x`."""
        if label is not None:
            cond["class_labels"] = torch.as_tensor(label, device=x.device).expand(len(x))
        return self.unet(x, clock.expand(len(x)), return_dict=False, **cond)[0]


def from_diffusers(unet: Any, scheduler: Any, moments: Moments | None = None) -> Model:
    """A network of diffusers and the noise schedule it was trained with, as a score model.

    Of the scheduler only what belongs to training is read: ``alphas_cumprod`` and the prediction type. How it samples is left to
    the samplers here. A schedule with zero terminal signal-to-noise ratio is taken as it is (`AngleTable`).

    Parameters
    ----------
    unet
        A `UNet2DModel` or anything that is called like one. Classes go in as `label`; other conditions by their own names.
    scheduler
        Any scheduler with ``alphas_cumprod`` and a prediction type ``epsilon``, ``sample`` or ``v_prediction``.
    moments
        Mean and covariance of the data. By default those of white data of unit variance in the shape that ``unet.config`` knows,
        which starts runs where diffusers starts them.

    Raises
    ------
    ValueError
        If the scheduler has no ``alphas_cumprod`` or another prediction type, or the network is of half precision.
    """
    kind = getattr(scheduler.config, "prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or kind not in PREDICTIONS:
        raise ValueError(
            f"{type(scheduler).__name__} predicts {kind} and has {'' if hasattr(scheduler, 'alphas_cumprod') else 'no '}"
            f"alphas_cumprod; expected a variance-preserving scheduler that predicts {', '.join(PREDICTIONS)}. "
            "Wrap others by from_network or from_denoiser."
        )
    weight = next(unet.parameters())
    if weight.dtype.itemsize < 4:
        raise ValueError(
            f"the network is {weight.dtype}, in which steps above 256 cannot be told apart; give it in float32: unet.float()."
        )
    sde = process_of(scheduler)
    if moments is None and getattr(unet.config, "sample_size", None):
        size = unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (unet.config.in_channels, height, width)
        moments = Moments(torch.zeros(shape).double(), torch.ones(math.prod(shape)).double())
    return from_network(UNetOf(unet), sde, PREDICTIONS[kind](), StepIndex(sde.N), moments, end=1 / sde.N)


def process_of(scheduler: Any) -> DDPM | AngleTable:
    """The process of a scheduler's table: `DDPM` where it has a finite drift, else an `AngleTable`.

    Parameters
    ----------
    scheduler
        Of diffusers, with ``alphas_cumprod``.
    """
    table = scheduler.alphas_cumprod.double().cpu()
    rescaled = getattr(scheduler.config, "rescale_betas_zero_snr", False)
    if table[-1] > 0 and not rescaled:
        before = torch.cat([torch.ones(1, dtype=torch.float64), table[:-1]])
        return DDPM(1 - table / before)
    # diffusers writes 2^-24 for zero in some schedulers, so that nothing is divided by it.
    return AngleTable(torch.cat([table[:-1], torch.zeros(1, dtype=torch.float64)]))


@dataclass
class Predicted:
    """What a network of diffusers returns.

    Attributes
    ----------
    sample
        The predicted noise, of the shape of the state.
    """

    sample: Tensor


class AsUNet(nn.Module):
    """A score model of ours, called as the networks of diffusers are; it predicts the noise.

    Parameters
    ----------
    model
        A score model of a scalar process.
    N
        Number of steps: step `k` is the time ``(k + 1) T / N``.
    """

    def __init__(self, model: ScoreModel, N: int) -> None:
        super().__init__()
        self.model, self.N = model, N

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        **cond: Any,
    ) -> Predicted | tuple[Tensor]:
        """``E[z | x_t]`` of the states `sample` at the step `timestep`, ``()`` or ``(B,)``."""
        if class_labels is not None:
            cond["label"] = class_labels
        t = (torch.as_tensor(timestep, dtype=torch.float64).cpu() + 1) * self.model.sde.T / self.N
        noise = self.model.noise(sample, t, **cond)
        return Predicted(noise) if return_dict else (noise,)


def to_diffusers(model: ScoreModel, steps: int = 1000) -> tuple[AsUNet, Any]:
    """A score model as a network and a scheduler of diffusers, for its samplers.

    Parameters
    ----------
    model
        A score model of a process that preserves variance, ``alpha² + sigma² = 1``.
    steps
        The number of steps of the scheduler; that of a `DDPM` for an exact copy.

    Returns
    -------
    tuple
        The network, which predicts the noise, and a ``DDPMScheduler`` with the process's betas; others are made
        ``from_config(scheduler.config)``.

    Raises
    ------
    ImportError
        If diffusers is missing.
    TypeError
        If the process is not linear.
    ValueError
        If the process does not preserve variance, or has no signal left at T, where the noise says nothing of the data.
    """
    schedulers = optional("diffusers", "diffusers", "its schedulers")
    sde = as_linear(model.sde, ": diffusers' schedulers have no such process. Train on VP or DDPM, or sample here.")
    t = torch.arange(1, steps + 1, dtype=torch.float64) * sde.T / steps
    alpha, sigma = (v.matrix()[:, 0, 0] for v in (sde.marginal(t).Phi, sde.marginal(t).R))
    if len(sde.e) > 1 or not torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-9) or alpha[-1] < 1e-3:
        raise ValueError(
            f"{type(sde).__name__} is no process of diffusers' schedulers, which preserve variance and keep some signal: "
            "alpha² + sigma² = 1 and alpha(T) > 0. Train on VP or DDPM, or sample here."
        )
    table = torch.cat([torch.ones(1, dtype=torch.float64), alpha.square()])
    betas = (1 - table[1:] / table[:-1]).tolist()
    scheduler = schedulers.DDPMScheduler(num_train_timesteps=steps, trained_betas=betas, clip_sample=False)
    return AsUNet(model, steps), scheduler
