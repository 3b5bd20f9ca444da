"""The law of the Gaussian noise that a step of a sampler adds to its mean, from which the density of the step follows
(`StepNoise`).
"""

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
    """The law of the noise that a step adds to its mean, given all states before: that of ``Q R z`` with a standard normal `z`.

    Attributes
    ----------
    R
        The map of the noise, in the coordinates of `enter`.
    enter
        ``Qᵀ``, which returns the orthonormal coordinates of states; None if these are the numbers of the states.
    """

    R: Operator
    enter: Callable[[Tensor], Tensor] | None = None

    def __repr__(self) -> str:
        return show_call(self)

    def log_prob(self, e: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, of the noise `e` that has been added to the mean, ``(B, *)``."""
        return self._kernel(e).log_prob(self._entered(e))

    def log_prob_of(self, z: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, of the noise ``Q R z``, given `z`, ``(B, *)``."""
        return self._kernel(z).log_prob_of(self._entered(z))

    def _entered(self, e: Tensor) -> Tensor:
        return e if self.enter is None else self.enter(e)

    def _kernel(self, e: Tensor) -> Kernel:
        return Kernel(torch.zeros_like(self._entered(e)), self.R)
