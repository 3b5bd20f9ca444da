"""The Gaussian noise that a step of a sampler adds to its mean, which is the density of the step (`StepNoise`)."""

from __future__ import annotations

__all__ = ["StepNoise"]

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.kernels import Kernel
from ..laws.operators import Operator
from ..show import show_call


class StepNoise(NamedTuple):
    """The law of what a step adds to its mean, given all states before: ``Q R z`` of a standard normal `z`.

    Attributes
    ----------
    R
        The map of the noise, in the coordinates of `enter`.
    enter
        ``Qᵀ``, which returns the orthonormal coordinates of states; None where they are the states' own.
    """

    R: Operator
    enter: Callable[[Tensor], Tensor] | None = None

    def __repr__(self) -> str:
        return show_call(self)

    def log_prob(self, e: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, of what has been added to the mean, ``(B, *)``."""
        return self._kernel(e).log_prob(self._entered(e))

    def log_prob_of(self, z: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, of what the noise `z`, ``(B, *)``, becomes."""
        return self._kernel(z).log_prob_of(self._entered(z))

    def _entered(self, e: Tensor) -> Tensor:
        return e if self.enter is None else self.enter(e)

    def _kernel(self, e: Tensor) -> Kernel:
        return Kernel(torch.zeros_like(self._entered(e)), self.R)
