"""A check of a user's functions before a run (`refuse_mixing`), on two data near the mean of a law (`data_near`)."""

from __future__ import annotations

__all__ = ["data_near", "refuse_mixing"]

from collections.abc import Callable

import torch
from torch import Tensor

from ..laws.mixtures import Moments
from ..mixing import check_unmixed
from ..models.score import ScoreModel

NEAR = 0.1  # standard deviations from the mean, where every function of data has values
SEED = 577_215_664_901


def data_near(moments: Moments) -> Tensor:
    """Return two data near the mean, ``(2, *)`` float64 on the CPU, always the same ones."""
    z = torch.randn(2, moments.mean.numel(), dtype=torch.float64, generator=torch.Generator().manual_seed(SEED))
    mean, std = moments.mean.detach().cpu().double(), moments.variances().detach().cpu().double().sqrt()
    return mean + NEAR * (std.flatten() * z).reshape(2, *mean.shape)


def refuse_mixing(who: str, function: Callable[[Tensor], Tensor], model: ScoreModel) -> None:
    """Raise a ValueError, as `check_unmixed` does, if a function's answer for one datum depends on the others in the batch.

    Nothing is checked if the moments of the model's data are not known.
    """
    if model.moments is not None:
        check_unmixed(who, function, model.cast_states(data_near(model.moments)))
