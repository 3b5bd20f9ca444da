"""`Density`, a score model as a law with samples and log-densities."""

from __future__ import annotations

__all__ = ["Density"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..data.parts import check_batch
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..samplers.base import Sampler
from ..samplers.run import sample
from ..show import show_call
from .flow import log_prob


class Density:
    """A score model as a distribution with ``sample`` and ``log_prob`` by its probability flow, for metrics that compare
    densities.

    Parameters
    ----------
    model
        Any score model.
    sampler
        How to sample it; the default sampler otherwise.
    batch
        Most states that go through the model at a time; all by default.
    cond
        Conditions for the network, of samples and densities: one value for all, or tensors with a row for each.

    Raises
    ------
    TypeError
        If the model takes no condition of a given name.
    ValueError
        If `batch` is not a positive whole number.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(
        self, model: ScoreModel, sampler: Sampler | None = None, batch: int | None = None, **cond: Any
    ) -> None:
        check_batch(batch)
        self.model, self.sampler, self.batch = model, sampler, batch
        self.cond = read_conditions(model, cond, type(self))

    @check_arguments
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` samples of the data."""
        return sample(self.model, n, sampler=self.sampler, generator=generator, batch=self.batch, **self.cond)

    @check_arguments
    def log_prob(self, x: Tensor) -> Tensor:
        """Compute ``log p(x)`` in nats by the probability flow, and return it, ``(B,)``; `estimate_log_prob` also returns
        its standard error.
        """
        return log_prob(self.model, self.model.cast_states(x), batch=self.batch, **self.cond)
