"""Networks trained elsewhere, wrapped as score models.

Such a network takes the state as it is, and has a time input of its own. The parametrisation `Foreign` says both, so that the
network becomes a `Model` like any other: every sampler, likelihood and wrapper takes it, and a step is still one multiplication
of its output.
"""

from __future__ import annotations

__all__ = [
    "Foreign",
    "FromNoise",
    "NetworkClock",
    "NoiseLevel",
    "ScaledTime",
    "StepIndex",
    "TwoTimes",
    "from_denoiser",
    "from_network",
]

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count, check_number
from ..conditions import Condition
from ..laws.marginals import Marginal
from ..laws.mixtures import Moments
from ..laws.operators import Operator
from ..laws.units import Units
from ..processes.linear import LinearSDE
from ..processes.scalar import as_scalar
from ..processes.zoo import EDM
from ..show import show_call
from ..signatures import check_call
from .network import Model
from .parametrizations import (
    Coefficients,
    DataParametrization,
    NoiseParametrization,
    Parametrization,
)


class NetworkClock(ABC):
    """The time input of a network that was trained elsewhere, as a function of the time `t`."""

    __repr__ = show_call

    @abstractmethod
    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """Return the number for the time `t`, ``()`` or ``(B,)``, float64."""


@check_arguments
@dataclass(frozen=True)
class StepIndex(NetworkClock):
    """The index of a training step as time input, ``t N − 1``: from 0 at ``t = 1 / N`` to ``N − 1`` at 1, with fractions
    in between.
    """

    N: int

    def __post_init__(self) -> None:
        check_count("N", self.N)

    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """Return ``t N − 1``, not below 0."""
        return (torch.as_tensor(t, dtype=torch.float64) / sde.T * self.N - 1).clamp_min(0.0)


@check_arguments
@dataclass(frozen=True)
class ScaledTime(NetworkClock):
    """A multiple of the time as time input, ``factor t``, such as 999 t in score_sde.

    Parameters
    ----------
    factor
        The network's number for ``t = 1``.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor, above=0)

    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """Return ``factor t``."""
        return self.factor * torch.as_tensor(t, dtype=torch.float64)


@check_arguments
@dataclass(frozen=True)
class FromNoise(NetworkClock):
    """The part of the way from noise to data as time input, ``factor (1 − t / T)``, such as 0 for noise and 1 for data in flow
    matching.

    Parameters
    ----------
    factor
        The network's number for data.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number("factor", self.factor, above=0)

    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """Return ``factor (1 − t / T)``."""
        return self.factor * (1 - torch.as_tensor(t, dtype=torch.float64) / sde.T)


class NoiseLevel(NetworkClock):
    """The noise level ``sigma / alpha`` as time input, as denoisers ``D(x, sigma)`` take it."""

    def __call__(self, sde: LinearSDE, t: Tensor | float) -> Tensor:
        """Return ``1 / √snr``."""
        return (-0.5 * sde.log_snr(t)).exp()


class Foreign(Parametrization):
    """The parametrisation of a network trained elsewhere: what the network predicts, which another parametrisation says, its time
    input, and the scale of its states.

    Parameters
    ----------
    asks
        What the network predicts: `NoiseParametrization`, `DataParametrization`, `VelocityParametrization`,
        `StraightParametrization` or `ScoreParametrization`.
    clock
        The time input of the network.
    clean
        Whether the network is given ``x / alpha``, clean data with noise of size ``sigma / alpha``, instead of the state `x`.
    """

    @check_arguments
    def __init__(self, asks: Parametrization, clock: NetworkClock, clean: bool = False) -> None:
        super().__init__(std=1.0)
        self.asks, self.clock, self.clean, self.most = asks, clock, clean, asks.most

    def target(self, at: Any) -> tuple[Operator, Operator]:
        """Return the coefficients of the wrapped parametrisation's target."""
        return self.asks.target(at)

    def regular(self, at: Any) -> tuple[Operator, Operator, Operator]:
        """Return the form of the wrapped parametrisation's target that is finite at both ends."""
        return self.asks.regular(at)

    def check(self, sde: LinearSDE) -> None:
        """Refuse, by a ValueError, processes that the wrapped parametrisation refuses, and processes without signal at T
        if inputs are ``x / alpha``.
        """
        self.asks.check(sde)
        if self.clean and not sde.has_signal:
            raise ValueError(
                f"{type(sde).__name__} has {sde.signal_at_T}, where x / alpha is infinite; take a process that keeps "
                "some signal, such as VP or EDM."
            )

    def coefficients(self, sde: LinearSDE, at: Marginal, std: float) -> Coefficients:
        """Return the coefficients of the wrapped parametrisation, with the network's own input scale and time input."""
        c = super().coefficients(sde, at, 1.0)
        return c._replace(c_in=at.Phi.inv() if self.clean else at.Phi.one())

    def level(self, sde: LinearSDE, at: Marginal) -> Tensor:
        """Return the network's own time input."""
        return torch.as_tensor(self.clock(sde, at.t), dtype=torch.float64)

    def c_noise(self, at: Marginal) -> Tensor:
        """Raise a TypeError: the network takes no noise level, but has a time input of its own."""
        raise TypeError(
            f"the network is told the time by {self.clock!r}, which has no derivative by the angle; train its map with "
            "training.Semigroup()."
        )


class TwoTimes(OfTensors, nn.Module):
    """A network of two times trained elsewhere, as a flow map calls it, with the second time as the condition ``until``.

    Parameters
    ----------
    net
        Called as ``net(x, t, s, **cond)``.
    length
        Whether the network's second number is the length of the way, and not its end.

    Raises
    ------
    TypeError
        If the network takes a state and only one time.
    """

    @check_arguments
    def __init__(self, net: nn.Module, length: bool = False) -> None:
        super().__init__()
        try:
            check_call("net", net, ["x", "t", "s"], conditions=True)
        except TypeError:
            raise TypeError(
                f"{type(net).__name__} is called with a state and one time, and a flow map goes from one to another; give a "
                "network net(x, t, s), or wrap this one as a score model by models.from_network."
            ) from None
        self.net, self.length = net, length

    @property
    def declared(self) -> dict[str, Condition] | None:
        """The conditions that the network inside declares; None if it declares none."""
        found: dict[str, Condition] | None = getattr(self.net, "declared", None)
        return found

    def forward(self, x: Tensor, level: Tensor, /, until: Tensor, **cond: Any) -> Tensor:
        """Return the network's output, of the shape of `x`."""
        t, s = torch.broadcast_tensors(level, until.reshape(-1))
        out: Tensor = self.net(x, t, (s - t).abs() if self.length else s, **cond)
        return out


@check_arguments
def from_network(
    net: nn.Module,
    sde: LinearSDE,
    parametrization: Parametrization | None = None,
    clock: NetworkClock | None = None,
    moments: Moments | None = None,
    end: float | None = None,
) -> Model:
    """Wrap any callable ``net(x, clock, **cond)`` that was trained elsewhere as a score model.

    A network of score_sde on its VP process, which takes ``999 t`` and predicts the noise, is
    ``from_network(net, VP(), NoiseParametrization(), ScaledTime(999))``.

    Parameters
    ----------
    net
        Called as ``net(x, clock, **cond)`` with the state as it is, ``(B, *)``, and numbers ``(B,)`` or ``(1,)``.
    sde
        The process that the network was trained on.
    parametrization
        What the network predicts: `NoiseParametrization` (the default), `DataParametrization`, `VelocityParametrization`,
        `StraightParametrization` or `ScoreParametrization`.
    clock
        The time input of the network: ``StepIndex(1000)`` (the default), `ScaledTime`, `FromNoise` or `NoiseLevel`.
    moments
        Mean and covariance of the data, to which the prior and the default sampler are matched; without them runs need `x_T`.
    end
        The time below which the network was not trained: see `Model`.

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


@check_arguments
def from_denoiser(denoiser: nn.Module, moments: Moments | None = None, sde: LinearSDE | None = None) -> Model:
    """Wrap a denoiser ``D(x, sigma)`` of EDM, which returns ``E[x_0 | x_0 + sigma z = x]``, as a score model.

    Wrappers of k-diffusion are such denoisers. T. Karras et al., *Elucidating the design space of diffusion-based generative
    models*, 2022, arXiv:2206.00364. On a process with ``alpha < 1`` the denoiser is given ``x / alpha`` and ``sigma / alpha``, so
    that any scalar process will do.

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
        If the process is not scalar, so that there is no single level of noise.
    ValueError
        If the process has no signal at T.
    """
    if sde is not None:
        as_scalar(
            sde, ", and a denoiser D(x, sigma) has data of one level of noise; give a scalar process, such as EDM()."
        )
    return _model(
        denoiser, EDM() if sde is None else sde, Foreign(DataParametrization(), NoiseLevel(), clean=True), moments
    )


def _model(net: nn.Module, sde: LinearSDE, asks: Foreign, moments: Moments | None, end: float | None = None) -> Model:
    """Return a model with given moments, in the data's own units, in which the network was trained."""
    model = Model(net, sde.in_units(Units()), asks, end)
    model.moments = moments
    return model
