"""Weightings of the squared error at each time inside score-matching losses.

A *weighting* is the factor lambda on the squared score error, ``lambda ‖s − target‖²``. It is given as an operator `W`,
``‖W (s − target)‖²``, so that matrix processes can weight directions too. Laws of times are in `processes.times`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..laws.marginals import Level
from ..laws.operators import Operator
from ..processes.base import SDE
from ..processes.times import (
    AngleTimes,
    DiscreteTimes,
    ImportanceTimes,
    LogNormalTimes,
    SharedTimes,
    StratifiedTimes,
    TimeLaw,
    UniformTimes,
)
from ..show import show_call
from ..signatures import Overridable

__all__ = [
    "SNRWeighting", "EDMWeighting", "InverseVarianceWeighting", "LikelihoodWeighting", "MinSNRWeighting", "UniformWeighting",
    "Weighting", "weight_at",
    # laws of the time
    "AngleTimes", "DiscreteTimes", "ImportanceTimes", "LogNormalTimes", "SharedTimes", "StratifiedTimes", "TimeLaw",
    "UniformTimes",
]  # fmt: skip


@asked_as("a weighting, such as weightings.UniformWeighting()")
class Weighting(Overridable, ABC):
    """The base class of loss weightings lambda(t), given by an operator `W` with ``Wᵀ W = lambda``: the loss is ``‖W (s −
    target)‖²``.
    """

    __repr__ = show_call

    @abstractmethod
    def operator(self, sde: SDE, at: Level) -> Operator:
        """Return `W` at the times of `at`, a process's noise level: ``at.t``, ``at.R`` and, if it is linear, ``at.log_snr``."""

    def __call__(self, sde: SDE, t: Tensor) -> Operator:
        """Return `W` at times `t` ``(B,)``."""
        return self.operator(sde, sde.at(t))


def weight_at(weighting: Weighting, sde: SDE, at: Level) -> Operator:
    """Return the operator `W` of a weighting at a noise level, and refuse a weighting that returns anything else.

    Parameters
    ----------
    weighting
        Any weighting, such as one of the user's own.
    sde
        The process of the model.
    at
        The noise level of the states, as ``sde.at(t, x)`` gives it.

    Raises
    ------
    TypeError
        If the weighting's method `operator` does not return an operator.
    """
    W = weighting.operator(sde, at)
    if not isinstance(W, Operator):
        raise TypeError(
            f"{type(weighting).__name__}.operator returned a {type(W).__name__}; give an operator, such as at.R.T * 0.5."
        )
    return W


class UniformWeighting(Weighting):
    """The uniform weighting of the score error, ``lambda = 1``."""

    def operator(self, sde: SDE, at: Level) -> Operator:
        """Return the identity."""
        return at.R.one()


class InverseVarianceWeighting(Weighting):
    """The weighting ``lambda = sigma²`` of the score error, which gives the noise-prediction loss of DDPM.

    J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv:2006.11239.
    """

    def operator(self, sde: SDE, at: Level) -> Operator:
        """Return ``Rᵀ``."""
        return at.R.T


class LikelihoodWeighting(Weighting):
    """The likelihood weighting ``lambda = g²``: with uniform `t`, half the loss times T bounds the KL divergence of data
    and model.

    Y. Song, C. Durkan, I. Murray, S. Ermon, *Maximum likelihood training of score-based diffusion models*, 2021,
    arXiv:2101.09258.
    """

    def operator(self, sde: SDE, at: Level) -> Operator:
        """Return ``Gᵀ``."""
        return (sde.noise_at(at.t) if at.G is None else at.G).T


class SNRWeighting(Weighting):
    """The weighting ``snr + offset`` of the squared error of clean data: ``lambda = sigma² (1 + offset / snr)``.

    An offset of 0 is the noise loss, 1 the velocity loss (T. Salimans and J. Ho, *Progressive distillation for fast
    sampling of diffusion models*, 2022, arXiv:2202.00512).

    Parameters
    ----------
    offset
        The weight of an error of clean data where no signal is left; the larger, the more high noise counts.

    Raises
    ------
    ValueError
        If `offset` is negative.
    """

    @check_arguments
    def __init__(self, offset: float = 1.0) -> None:
        if not offset >= 0:
            raise ValueError(f"offset = {offset}; it must be at least 0.")
        self.offset = offset

    def operator(self, sde: SDE, at: Level) -> Operator:
        """Return ``Rᵀ √(1 + offset / snr)``."""
        return at.R.T * (1 + self.offset * (-at.weighable_log_snr).exp()).sqrt()


class EDMWeighting(SNRWeighting):
    """EDM's weighting ``(sigma² + std²) / (sigma std)²`` of the error of clean data: at first every noise level has the loss 1.

    T. Karras et al., 2022, arXiv:2206.00364. Equal to `SNRWeighting` with offset ``1 / std²``.

    Parameters
    ----------
    std
        Standard deviation of the data in the units of the process; 1 in the units that `fit` gives the process.

    Raises
    ------
    ValueError
        If `std` is not positive.
    """

    @check_arguments
    def __init__(self, std: float = 1.0) -> None:
        if not std > 0:
            raise ValueError(f"std = {std}; give the standard deviation of the data, a positive number.")
        super().__init__(1 / std**2)
        self.std = std


class MinSNRWeighting(Weighting):
    """The min-SNR weighting ``min(snr, gamma)`` of the squared error of clean data: ``lambda = sigma² min(1, gamma / snr)``.

    T. Hang et al., *Efficient diffusion training via min-SNR weighting strategy*, 2023, arXiv:2303.09556.

    Parameters
    ----------
    gamma
        The largest weight of an error of clean data; the paper takes 5.

    Raises
    ------
    ValueError
        If `gamma` is not positive.
    """

    @check_arguments
    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise ValueError(f"gamma = {gamma}; it must be positive.")
        self.gamma = gamma

    def operator(self, sde: SDE, at: Level) -> Operator:
        """Return ``Rᵀ √min(1, gamma / snr)``."""
        return at.R.T * (self.gamma * (-at.weighable_log_snr).exp()).clamp_max(1.0).sqrt()
