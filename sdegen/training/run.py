"""The record of a training run: `Step`, what callbacks are told of one step, and `Run`, what `fit` returns.

Losses reach it through `PendingLosses`, so that no step waits for an accelerator.
"""

from __future__ import annotations

__all__ = ["PendingLosses", "Run", "Step", "averaged"]

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..metrics.estimate import Estimate
from ..plots import drawn, losses
from ..show import show_call, show_picture, show_value
from ..waiting import at_hand
from .averages import PowerEMA, Snapshots
from .finite import NonFiniteLoss
from .settings import Settings


@dataclass(frozen=True)
class Step:
    """One step of a training run, as callbacks get it: its loss, the model as it is now, and the record so far.

    Attributes
    ----------
    step, lr, seconds
        The number of steps taken, the learning rate of the last step, and the wall-clock time before it.
    model
        The model with its present weights, in training mode.
    run
        The record so far, with the steps before an interruption. Losses that are still on an accelerator are not in it.
    """

    step: int
    lr: float
    seconds: float
    model: nn.Module
    run: Run = field(repr=False)
    _loss: Tensor
    _grad_norm: Tensor
    _average: PowerEMA

    __repr__ = show_call

    @property
    def loss(self) -> float:
        """The mean loss of the batch. On an accelerator, reading it waits for the step."""
        return self._loss.item()

    @property
    def grad_norm(self) -> float:
        """The norm of the gradient before it was clipped. On an accelerator, reading it waits for the step."""
        return self._grad_norm.item()

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Lend the model with averaged weights, in evaluation mode, within a ``with`` block."""
        with averaged(self.model, self._average):
            yield self.model


@contextmanager
def averaged(model: nn.Module, average: PowerEMA) -> Iterator[None]:
    """Give a model its averaged weights, in evaluation mode, within a ``with`` block."""
    with average.in_model():
        model.eval()
        try:
            yield
        finally:
            model.train()


@check_arguments
@dataclass
class Run:
    """The record of a training run: losses, gradient norms and learning rates of all steps.

    Attributes
    ----------
    steps, seconds
        The number of steps taken, and the wall-clock time, including those before an interruption.
    loss, grad_norm, lr
        One value a step.
    validation
        The loss on other data, by the step after which it was measured, with its standard error (`validation.Validation`).
    threads
        The number of torch's threads that was fastest, or was given; None if too few steps were taken to tell.
    settings
        The settings of the run, with its seed.
    model, snapshots
        The trained model, and the snapshots that `averaged` needs, if they were kept.
    """

    steps: int = 0
    seconds: float = 0.0
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    validation: dict[int, Estimate] = field(default_factory=dict)
    threads: int | None = None
    settings: Settings = field(default_factory=Settings)
    model: nn.Module | None = field(default=None, repr=False)
    snapshots: Snapshots | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads > 1)}"
        lines = [f"Run: {self.steps:,} steps in {self.seconds:.1f} s{threads}"]
        lines += [] if self.model is None else [f"  model       {show_value(self.model)}"]
        lines += [f"  {name:11} {_span(getattr(self, name))}" for name in ("loss", "grad_norm", "lr") if self.loss]
        lines += [f"  validation  {value} after step {step:,}" for step, value in list(self.validation.items())[-1:]]
        return "\n".join([*lines, f"  settings    {show_value(self.settings)}"])

    def _repr_html_(self) -> str:
        return show_picture(repr(self), drawn(partial(losses, self), (5.0, 2.5)))

    def averaged(self, width: float) -> Any:
        """Return a copy of the model whose weights are an average of another relative width (`averages.Snapshots`).

        Parameters
        ----------
        width
            Standard deviation of the average's profile as a fraction of the run, as `Settings.ema` is.

        Raises
        ------
        ValueError
            If `fit` kept no snapshots, or they are too few for this width.
        """
        if self.snapshots is None or self.model is None:
            raise ValueError("no snapshot was kept; call fit with snapshots=, the number of steps between two of them.")
        average = self.snapshots.average(width)
        model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(average.get(name, p))
        if self.snapshots.buffers is not None:
            self.snapshots.buffers.fit(model)
        return model


def _span(values: list[float]) -> str:
    """Return the means over the first steps and over the last in words: a hundred each, or halves of a shorter run."""
    n = max(1, min(100, len(values) // 2))
    first, last = sum(values[:n]) / n, sum(values[-n:]) / n
    return f"{first:.4g}, then {last:.4g} (means of the first and the last {n:,} steps)"


class PendingLosses:
    """The losses and gradient norms of the last steps, which are still on an accelerator and not yet in the run's record.

    On a CPU they are read at every step. From an accelerator those of 50 steps are read together, since each reading waits for
    all of its queued work. A loss that is not finite ends the run, and the record ends at the step before; until the loss is
    read, the flag `bad` keeps the optimiser on the device from moving the weights.

    Parameters
    ----------
    run
        The record to which they are written.
    device
        The device of the model.

    Attributes
    ----------
    reason
        Why a loss is not finite, if more is known than its value; else None.
    bad
        1 on an accelerator once a loss or a norm was not finite, else 0; None on a CPU.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self.run = run
        self.waiting: list[Tensor] = []  # pairs of a loss and a norm
        self.reason: str | None = None
        self.patience = 1 if at_hand(device) else 50
        self.bad = None if self.patience == 1 else torch.zeros((), device=device)

    def add(self, loss: Tensor, norm: Tensor) -> None:
        """Add the loss and the gradient norm of one step to the buffer.

        Raises
        ------
        NonFiniteLoss
            If values were read and are not finite.
        """
        self.waiting.append(torch.stack([loss, norm]))
        if self.bad is not None:
            torch.maximum(self.bad, (~(loss + norm).isfinite()).float(), out=self.bad)
        if len(self.waiting) == self.patience:
            self.read()

    def read(self) -> None:
        """Write the buffered values to the run's record, up to the first that is NaN or infinite.

        Raises
        ------
        NonFiniteLoss
            If a value is NaN or infinite.
        """
        pairs = torch.stack(self.waiting).tolist() if self.waiting else []  # in one transfer
        self.waiting = []
        for loss, norm in pairs:
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise self.stopped(f"loss {loss:.3g}, gradient norm {norm:.3g}")
            self.run.loss.append(loss)
            self.run.grad_norm.append(norm)

    def stopped(self, why: str) -> NonFiniteLoss:
        """End the record with the last good step, and return the error to raise."""
        run, good = self.run, len(self.run.loss)
        run.steps, run.lr = good, run.lr[:good]
        return NonFiniteLoss(
            f"training stopped in step {good + 1}: {self.reason or why}. The model keeps the weights of step {good}; lower lr, "
            "check the data, or choose another weighting."
        )
