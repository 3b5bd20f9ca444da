"""The recomputation of buffers that depend on the weights, for other weights such as averaged ones: `Buffers`.

Statistics of batch normalisation, and the vectors of the power iterations that estimate spectral norms, follow the weights from
step to step. Averaged weights were the weights of no step: with the buffers of the last step their network computes something
else, and a bound on its slope does not hold. Other buffers stay as they are.
"""

from __future__ import annotations

__all__ = ["Buffers"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

from ..data import Batch

ITERATIONS = 300  # of torch's power methods: many, since these do not report their error


class Buffers:
    """The recomputation of a model's buffers from its weights: of batch normalisation and of power iterations.

    Parameters
    ----------
    objective
        Called as ``objective(model, x, generator=, **cond)``; statistics are taken when it passes a batch through the model.
    batches
        Returns a few batches of the training data, the same at every call.
    """

    def __init__(self, objective: Callable[..., Tensor], batches: Callable[[], Iterator[Batch]]) -> None:
        self.objective, self.batches = objective, batches

    def fit(self, model: nn.Module) -> None:
        """Compute the buffers of a model again, for the weights that it has now.

        Parts that stay in evaluation mode when the model is put in training mode are not being trained, and keep their buffers.
        The modes of all parts are restored.
        """
        modes = {part: part.training for part in model.modules()}
        try:
            trained = [part for part in model.train().modules() if part.training]
            for part in trained:
                _iterate(part)
            normalised = [part for part in trained if isinstance(part, _BatchNorm) and part.track_running_stats]
            if normalised:
                self._observe(model.eval(), normalised)
        finally:
            for part, mode in modes.items():
                part.training = mode

    def _observe(self, model: nn.Module, normalised: list[_BatchNorm]) -> None:
        """Take the statistics of batch normalisations as means over a few batches."""
        momenta = [part.momentum for part in normalised]
        for part in normalised:
            part.reset_running_stats()
            part.momentum = None  # a plain mean
            part.train()
        generator = torch.Generator().manual_seed(0)
        try:
            for batch in self.batches():
                self.objective(model, batch.x, generator=generator, **batch.cond)
        finally:
            for part, momentum in zip(normalised, momenta, strict=True):
                part.momentum = momentum

    @contextmanager
    def lent(self, model: nn.Module) -> Iterator[None]:
        """Compute the buffers of a model again for a ``with`` block, and restore the old buffers afterwards."""
        before = [(value, value.detach().clone()) for value in model.buffers()]
        self.fit(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for value, kept in before:
                    value.copy_(kept)


@torch.no_grad()
def _iterate(part: nn.Module) -> None:
    """Let the power iterations of a part of a model converge, if it has some: the library's own, or either of torch's."""
    converge = getattr(part, "converge", None)
    if callable(converge):
        converge()
    if isinstance(part, ParametrizationList) and next(part.buffers(), None) is not None:
        part.train()
        for _ in range(ITERATIONS):
            part()
    for hook in part._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            for _ in range(ITERATIONS):
                hook.compute_weight(part, do_power_iteration=True)
