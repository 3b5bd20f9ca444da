"""Conversion between score models and the networks of the diffusers library, in both directions."""

from __future__ import annotations

__all__ = ["AsUNet", "Predicted", "UNetConfig", "UNetOf", "from_diffusers", "process_of", "to_diffusers"]

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count, check_kind, kind_of
from ..data.files import import_optional
from ..laws.mixtures import Moments
from ..laws.operators import rows
from ..processes.linear import LinearSDE, as_linear
from ..processes.scalar import is_scalar
from ..processes.tables import DDPM, AngleTable
from .foreign import StepIndex, from_network
from .network import Model
from .parametrizations import (
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

ELSEWHERE = ": diffusers' schedulers have no such process. Train on VP or DDPM, or sample here."


class UNetOf(nn.Module):
    """A network of diffusers, wrapped so that it is called as ``net(x, clock, label=None, **cond)``.

    Parameters
    ----------
    unet
        Called as ``unet(x, timestep, class_labels=..., return_dict=False, **cond)``; returns a tuple, the prediction first.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, clock: Tensor, /, label: Tensor | int | None = None, **cond: Any) -> Tensor:
        """Return what the network predicts, of the shape of `x`.

        Raises
        ------
        ValueError
            If a condition has neither one row for all states nor one for each, or no class is given to a network of classes.
        TypeError
            If the network does not return a tuple, as networks of diffusers do.
        """
        cond = {name: _as_rows(name, value, len(x)) for name, value in cond.items()}
        if label is not None:
            cond["class_labels"] = torch.as_tensor(label, device=x.device).expand(len(x))
        elif getattr(self.unet, "class_embedding", None) is not None and "class_labels" not in cond:
            raise ValueError(
                "the network of diffusers needs a class: pass label=...; to guide it along classes, name the one that its "
                'training took for none, ClassifierFree(model, scale, null={"label": 10}).'
            )
        answer = self.unet(x, clock.expand(len(x)), return_dict=False, **cond)
        if not isinstance(answer, (tuple, list)) or not answer:
            raise TypeError(
                f"{type(self.unet).__name__} returned a {type(answer).__name__}; with return_dict=False a network of diffusers "
                "returns a tuple, the prediction first. Another network goes in by sdegen.from_network(net, sde)."
            )
        predicted: Tensor = answer[0]
        return predicted


def _as_rows(name: str, value: Any, n: int) -> Any:
    """Return a tensor with a row for each of `n` states, as networks of diffusers take conditions; return all else as it is."""
    if not isinstance(value, Tensor) or not value.ndim or len(value) == n:
        return value
    if len(value) != 1:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; give one row for all states, (1, ...), or one for each of {n}."
        )
    return value.expand(n, *value.shape[1:])


@check_arguments
def from_diffusers(unet: Any, scheduler: Any, moments: Moments | None = None) -> Model:
    """Wrap a network of diffusers, with the noise schedule it was trained on, as a score model.

    Only what belongs to training is read from the scheduler: ``alphas_cumprod`` and the prediction type. Its way to sample is not
    used; sampling is left to the samplers here. A schedule whose last signal-to-noise ratio is 0 is taken as it is
    (`AngleTable`).

    Parameters
    ----------
    unet
        A `UNet2DModel` or anything that is called like one, in any precision; it gets steps in float32 at least. Classes are
        passed as `label`, other conditions by their own names.
    scheduler
        Any scheduler with ``alphas_cumprod`` and a prediction type ``epsilon``, ``sample`` or ``v_prediction``.
    moments
        Mean and covariance of the data. By default those of independent numbers of mean 0 and variance 1, in the shape that
        ``unet.config`` gives, so that runs start where those of diffusers do.

    Raises
    ------
    TypeError
        If `unet` is not a network, or `scheduler` is not one of diffusers.
    ValueError
        If the scheduler has no ``alphas_cumprod`` or another prediction type.
    """
    check_kind(
        "unet", unet, nn.Module, "a network of diffusers, such as UNet2DModel(...); a pipeline has one, pipe.unet"
    )
    if isinstance(scheduler, type) or not hasattr(scheduler, "config"):
        raise TypeError(
            f"scheduler {kind_of(scheduler)}; give a scheduler of diffusers, such as DDPMScheduler(), or of a configuration "
            "DDPMScheduler.from_config(config)."
        )
    kind = getattr(scheduler.config, "prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or kind not in PREDICTIONS:
        raise ValueError(
            f"{type(scheduler).__name__} predicts {kind} and has {'' if hasattr(scheduler, 'alphas_cumprod') else 'no '}"
            f"alphas_cumprod; expected a variance-preserving scheduler that predicts {', '.join(PREDICTIONS)}. "
            "Wrap others by from_network or from_denoiser."
        )
    sde = process_of(scheduler)
    config = getattr(unet, "config", None)
    size, channels = getattr(config, "sample_size", None), getattr(config, "in_channels", None)
    if moments is None and size and channels:
        height, width = (size, size) if isinstance(size, int) else size
        shape = (channels, height, width)
        moments = Moments(torch.zeros(shape).double(), torch.ones(math.prod(shape)).double())
    return from_network(UNetOf(unet), sde, PREDICTIONS[kind](), StepIndex(sde.N), moments, end=1 / sde.N)


def process_of(scheduler: Any) -> DDPM | AngleTable:
    """Return the forward process of a scheduler's noise schedule: `DDPM` if its drift is finite, else an `AngleTable`.

    Parameters
    ----------
    scheduler
        A scheduler of diffusers, with ``alphas_cumprod``.
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
    """The output of a network in the format of diffusers.

    Attributes
    ----------
    sample
        The predicted noise, of the shape of the state.
    """

    sample: Tensor


@dataclass(frozen=True)
class UNetConfig:
    """The part of a network's configuration that pipelines of diffusers read.

    Attributes
    ----------
    in_channels, out_channels
        Channels of an image.
    sample_size
        The side of an image, or its height and width.
    """

    in_channels: int
    out_channels: int
    sample_size: int | tuple[int, int]


class AsUNet(nn.Module):
    """A score model wrapped so that schedulers and pipelines of diffusers take it for a network that predicts the noise.

    The states of diffusers are ``x_t = a x_0 + √(1 − a²) z`` with the data as they are. Those of a process in units of mean `m`
    and spread `s` are ``u_t = alpha (x_0 − m) / s + sigma z``. If both have the same ratio of signal to noise,
    ``a² = alpha² / k²`` with ``k² = alpha² + s² sigma²``, they hold the same noise `z`, and the model is asked at
    ``u_t = (k x_t − alpha m) / s``.

    Parameters
    ----------
    model
        A score model of a scalar process, whose units have one spread for all numbers.
    N
        The number of steps; step `k` is the time ``(k + 1) T / N``.
    """

    def __init__(self, model: ScoreModel, N: int) -> None:
        super().__init__()
        self.model, self.N = model, N

    @property
    def config(self) -> UNetConfig:
        """The configuration that a pipeline reads to make its first noise, by the shape of the data.

        Raises
        ------
        ValueError
            If the data are not images, or their moments are not known.
        """
        shape = self.model.require_moments(", which tell a pipeline the size of images").mean.shape
        if len(shape) != 3:
            raise ValueError(
                f"the data have shape {tuple(shape)}; pipelines of diffusers draw images (C, H, W). Use the network and the "
                "scheduler in a loop of your own."
            )
        channels, height, width = shape
        return UNetConfig(channels, channels, height if height == width else (height, width))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of states."""
        return torch.get_default_dtype() if self.model.like is None else self.model.like.dtype

    @property
    def device(self) -> torch.device:
        """The device of states."""
        return torch.device("cpu") if self.model.like is None else self.model.like.device

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        **cond: Any,
    ) -> Predicted | tuple[Tensor]:
        """Return the predicted noise ``E[z | x_t]`` of the states `sample` at the step `timestep`, ``()`` or ``(B,)``."""
        if class_labels is not None:
            cond["label"] = class_labels
        t = (torch.as_tensor(timestep, dtype=torch.float64).cpu() + 1) * self.model.sde.T / self.N
        alpha, _, k = _signal_and_noise(as_linear(self.model.sde, ELSEWHERE), t.reshape(-1))
        units, s = self.model.sde.units, self.model.sde.units.scale
        u = rows(k / s, sample) * sample - rows(alpha / s, sample) * units.mean.to(sample)
        noise = self.model.noise(u, t, **cond)
        return Predicted(noise) if return_dict else (noise,)


def _signal_and_noise(sde: LinearSDE, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``alpha``, ``sigma`` and ``k = √(alpha² + s² sigma²)`` of a process that preserves variance at times ``(n,)``, each
    ``(n,)``; in the data's own units `k` is 1 exactly.
    """
    at = sde.marginal(t)
    alpha, sigma = (v.matrix()[:, 0, 0] for v in (at.Phi, at.R))
    return alpha, sigma, (1 + (sde.units.scale**2 - 1) * sigma.square()).sqrt()


@check_arguments
def to_diffusers(model: ScoreModel, steps: int = 1000) -> tuple[AsUNet, Any]:
    """Wrap a score model as a network and a scheduler of diffusers, to use the samplers there.

    In diffusers data are in their own units. So if `fit` has given the process the data's spread as unit, the scheduler gets the
    schedule with the same signal-to-noise ratio in the data's own units. Pipelines make pictures of data in [−1, 1]. The network
    is a wrapper, which diffusers cannot save: a network of its own that came in by `from_diffusers` is ``model.net.unet``, with
    what `fit` has trained.

    Parameters
    ----------
    model
        A score model of a process that preserves variance, ``alpha² + sigma² = 1``.
    steps
        The number of steps of the scheduler; for an exact copy of a `DDPM` in the data's own units, its number of steps.

    Returns
    -------
    tuple
        The network, which predicts the noise, and a ``DDPMScheduler`` with the betas that go with it; other schedulers are made
        by ``from_config(scheduler.config)``.

    Raises
    ------
    ImportError
        If diffusers is missing.
    TypeError
        If the process is not linear.
    ValueError
        If the process does not preserve variance, has no signal left at T, where the noise says nothing about the data, or has
        units that differ from number to number.
    """
    schedulers = import_optional("diffusers", "diffusers", "its schedulers")
    sde = as_linear(model.sde, ELSEWHERE)
    check_count("steps", steps)
    t = torch.arange(1, steps + 1, dtype=torch.float64) * sde.T / steps
    alpha, sigma, k = _signal_and_noise(sde, t)
    if (
        not is_scalar(sde)
        or not torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha), atol=1e-9)
        or alpha[-1] < 1e-3
    ):
        raise ValueError(
            f"{type(sde).__name__} is no process of diffusers' schedulers, which preserve variance and keep some signal: "
            "alpha² + sigma² = 1 and alpha(T) > 0. Train on VP or DDPM, or sample here."
        )
    if sde.units.std.amin() < sde.units.std.amax():
        raise ValueError(
            "the model has each number of its data in a unit of its own, and diffusers' schedulers have one schedule for all; "
            "train it in one unit: Model(net, sde.in_units(Units(mean, std))) with two numbers, or Units() for the data's own."
        )
    table = torch.cat([torch.ones(1, dtype=torch.float64), (alpha / k).square()])
    betas = (1 - table[1:] / table[:-1]).tolist()
    scheduler = schedulers.DDPMScheduler(num_train_timesteps=steps, trained_betas=betas, clip_sample=False)
    return AsUNet(model, steps), scheduler
