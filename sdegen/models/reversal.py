"""The interface `LearnedReversal` of models that have learned not only the mean of reversed steps but also their variance.

`ScoreModel.reversal` returns it, so that samplers and bounds ask for learned variances without knowing which model has them.
"""

from __future__ import annotations

__all__ = ["LearnedReversal", "ReversedStep"]

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from ..signatures import Overridable


class ReversedStep(NamedTuple):
    """The prediction of a reversed step: posterior means of clean state and noise, and the logarithm of the step's variance."""

    x_0: Tensor
    eps: Tensor
    log_variance: Tensor


class LearnedReversal(Overridable, ABC):
    """The interface of models that have learned the variance of a reversed step from `t` to `s` (`LearnedVariance`)."""

    @abstractmethod
    def reverse_log_variance(self, x: Tensor, s: Tensor, t: Tensor, /, **cond: Any) -> Tensor:
        """Return the logarithm of the variance of each coordinate in the step from `t` to `s`, of the shape of `x`."""

    @abstractmethod
    def reverse_estimate(self, x: Tensor, s: Tensor, t: Tensor, /, **cond: Any) -> ReversedStep:
        """Return clean state, noise and log-variance of the step from `t` to `s`, with as few evaluations as possible."""

    @abstractmethod
    def reverse_step(self, x: Tensor, question: Any, s: Tensor, t: Tensor, z: Tensor, /, **cond: Any) -> Tensor:
        """Take the step from `t` to `s`, and return ``x_s``: the answer to the question, its mean, plus noise `z` of the learned
        variance.
        """

    def reverse_noise(self, x: Tensor, s: Tensor, t: Tensor, z: Tensor, /, **cond: Any) -> Tensor:
        """Scale standard noise `z` to the learned variance of the step from `t` to `s`, and return it."""
        return (0.5 * self.reverse_log_variance(x, s, t, **cond)).exp() * z
