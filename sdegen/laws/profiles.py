"""The profile of a law: at which noise levels its samples are decided, and how wide it still is there."""

from __future__ import annotations

__all__ = ["Profile", "unmoved"]

from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import asked_as
from ..show import show_call


@asked_as("a profile, such as samplers.measure_profile(model, data)")
class Profile(NamedTuple):
    """What is measured of a law at noise levels even in ``log(sigma / alpha)``; the default sampler lays its steps by it.

    Attributes
    ----------
    log_ratios
        The levels, rising, ``(K,)``.
    changes
        How fast the difference of a model's answer to that of the Gaussian of the data's moments changes along the probability
        flow: per unit of ``log(sigma / alpha)``, in units of a state ``x / √(alpha² + sigma²)``, ``(K,)``.
    widths
        Mean posterior variance of a number of the state over ``sigma² / (alpha² + sigma²)``: 1 where the law is smooth at this
        level, 0 where it is a point, ``(K,)``.
    given
        Whether all this is of the law under conditions, each datum under its own, ``()``.
    choices
        For each number of steps from 0 to 12, or to the most that were tried, which of the default's solvers was nearest to the
        flow, by its place among them; −1 where none was tried, ``(13,)`` or longer.
    stops
        For each number of steps from 0 to 12, where that solver stops instead of at its own times, as fractions of the way along
        its grid, rising from 0 to 1 and −1 beyond; −1 throughout where its own times are kept, ``(13, 13)``.
    """

    log_ratios: Tensor
    changes: Tensor
    widths: Tensor
    given: Tensor
    choices: Tensor
    stops: Tensor

    def variance(self) -> float:
        """Return the mean variance of a number of the state, under its condition where there is one, which is all left at the
        highest level.
        """
        return float(self.widths[-1] * (2 * self.log_ratios[-1]).sigmoid())

    def __repr__(self) -> str:
        return show_call(self)


def unmoved() -> Tensor:
    """Return the stops of a law of which none were moved: −1 throughout."""
    return torch.full((13, 13), -1.0, dtype=torch.float64)
