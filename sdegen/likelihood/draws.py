"""Averages over several random draws for each datum, with their standard errors."""

from __future__ import annotations

__all__ = ["log_mean", "repeat_rows", "stderr_of_mean"]

import math
from typing import Any

import torch
from torch import Tensor

from ..data.parts import change_rows


def repeat_rows(cond: dict[str, Any], n: int, draws: int) -> dict[str, Any]:
    """Repeat the conditions of `n` rows once for each draw, rows in order; conditions shared by all rows stay as they are."""
    return change_rows(cond, n, lambda rows: rows.repeat_interleave(draws, 0))


def log_mean(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``log mean exp`` of each row of ``(B, draws)``, and its standard error by the delta method."""
    mean = values.logsumexp(1) - math.log(values.shape[1])
    return mean, stderr_of_mean((values - mean[:, None]).exp())


def stderr_of_mean(values: Tensor) -> Tensor:
    """Return the standard error of the mean of each row of ``(B, draws)``, ``(B,)``; NaN of a single draw."""
    draws = values.shape[1]
    return values.std(1) / draws**0.5 if draws > 1 else torch.full_like(values[:, 0], torch.nan)
