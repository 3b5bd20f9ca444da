"""Averages over several random draws for each datum, with their standard errors."""

from __future__ import annotations

__all__ = ["log_density", "log_mean", "repeated", "stderr_of_mean"]

import math
from typing import Any

import torch
from torch import Tensor

from ..answers import ask_log_prob


def repeated(n: int, draws: int) -> slice | Tensor:
    """Return the indices of `n` rows, each repeated `draws` times; for a single draw the slice of all."""
    return torch.arange(n).repeat_interleave(draws) if draws > 1 else slice(0, n)


def log_density(prior: Any, x: Tensor) -> Tensor:
    """Return the log-density of a prior at states, ``(B,)``; refuse values that are NaN.

    Raises
    ------
    ValueError
        If a value is NaN, or the values have another shape.
    """
    values = ask_log_prob(prior, x)
    if (bad := values.isnan()).any():
        raise ValueError(
            f"{type(prior).__name__}.log_prob is NaN at {int(bad.sum())} of {len(x)} states; give another prior."
        )
    return values


def log_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the mean of ``exp(values)`` over each row of ``(B, draws)``, and its standard error by the delta
    method, each ``(B,)``.
    """
    mean = values.logsumexp(1) - math.log(values.shape[1])
    return mean, stderr_of_mean((values - mean[:, None]).exp())


def stderr_of_mean(values: Tensor) -> Tensor:
    """Return the standard error of the mean of each row of ``(B, draws)``, ``(B,)``; NaN of a single draw."""
    draws = values.shape[1]
    return values.std(1) / draws**0.5 if draws > 1 else torch.full_like(values[:, 0], torch.nan)
