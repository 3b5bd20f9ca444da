"""Validation: the loss on data that are not used for training."""

from __future__ import annotations

__all__ = ["Validation"]

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments, check_law
from ..metrics.estimate import SPREAD, Estimate
from ..models.score import ScoreModel
from .dropping import check_taken
from .finite import NonFiniteLoss
from .listeners import Keeping
from .run import averaged
from .state import Training


class Validation(Keeping):
    """A callback that measures the loss of the averaged weights on validation data, every few steps and after the last.

    The random numbers are common: every measurement has the same data in the same batches, with the same times and noise,
    whatever the seed of the run. So the change from one to the next is far better known than each, whose standard error is that
    of a mean over independent data. The training does not notice: it goes on to the same weights.

    Parameters
    ----------
    data
        As for `fit`. Of a law 4,096 draws are taken; of an iterable of batches one pass, which should come in the same order each
        time.
    every
        Steps between two measurements.

    Raises
    ------
    NonFiniteLoss
        In a measurement, if the loss is not finite.
    TypeError, ValueError
        If the data are unusable or do not fit the model, or the loss is not one value per datum.
    """

    @check_arguments
    def __init__(self, data: Any, every: int) -> None:
        super().__init__(every)
        # Data are iterated or indexed; scaled images have `rows`, a table has `read`. All else is taken for a law.
        if not any(hasattr(data, name) for name in ("__iter__", "__getitem__", "rows", "read")):
            check_law("data", data)
        self.data = data

    def begin(self, training: Training) -> None:
        """Prepare the validation data, and check them."""
        super().begin(training)
        like = training.like
        with torch.random.fork_rng([like.device] if like.device.type == "cuda" else []):
            self.source = training.batches_of(self.data)
            if not hasattr(self.data, "sample"):  # a law has as many as are asked for
                _check_two(len(batch.x) for batch in self.source.once(2))
        check_taken(training.gradient.objective, training.model, self.source.cond)
        if isinstance(training.model, ScoreModel):
            _check_known(training.model, self.source.cond)

    def keep(self) -> None:
        """Measure now, and write the estimate into the record."""
        training = self.training
        device = training.workers.device
        size = max(1, training.settings.batch_size // training.settings.accumulate)
        generator = torch.Generator().manual_seed(0)
        found: list[Tensor] = []
        forked = torch.random.fork_rng([device] if device.type == "cuda" else [])
        with forked, averaged(training.model, training.average):
            for batch in self.source.once(size):
                try:
                    values = training.gradient.values(batch, generator, slice(0, len(batch.x)))
                except NonFiniteLoss as error:
                    raise NonFiniteLoss(f"in the validation after step {training.run.steps}, {error}") from None
                found.append(values.detach())
        _check_two(map(len, found))  # a loader may have fewer than at the beginning
        losses = torch.cat(found)
        bad = int((~losses.isfinite()).sum())  # on an accelerator, and in a loss of the user, nothing has looked before
        if bad:
            raise NonFiniteLoss(
                f"in the validation after step {training.run.steps}, the loss is not finite ({bad} of {len(losses)} rows)"
            )
        training.run.validation[training.run.steps] = Estimate.of(losses)


def _check_two(sizes: Iterable[int]) -> None:
    """Refuse batches that hold fewer than two rows, of which there is no standard error; of more only the first are read."""
    rows = 0
    for size in sizes:
        rows += size
        if rows >= 2:
            return
    raise ValueError(f"validation holds {rows} datum; give at least 2{SPREAD}.")


def _check_known(model: ScoreModel, cond: Collection[str]) -> None:
    """Refuse data without a condition that a training never is without, and with one that it never has."""
    known = model.conditions
    for name in sorted(known.undropped.difference(cond)):
        raise ValueError(
            f"the validation data have no condition {name!r}, and all rows that {type(model).__name__} learns from have it; give "
            f"it in (x, {{{name!r}: ...}})."
        )
    for name in sorted(known.untaught.intersection(cond)):
        raise ValueError(
            f"the validation data have the condition {name!r}, and those that {type(model).__name__} learns from have none; "
            "leave it out."
        )
