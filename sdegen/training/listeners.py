"""Callbacks of a training run: the base class `Listener`, and those that `fit` uses itself."""

from __future__ import annotations

__all__ = ["Bar", "Checkpoints", "Function", "KeepSnapshots", "Keeping", "Listener", "listening"]

from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from ..checks import check_count, check_function
from ..show import show_call
from ..signatures import Overridable, check_call
from .averages import Snapshots
from .checkpoints import Folder
from .run import Step
from .state import Training


class Listener(Overridable):
    """The base class of training callbacks: override any of four methods, each of which does nothing by default.

    A plain function of a `Step` does the same as a listener that overrides only ``__call__`` (`Function`). If several processes
    train, the user's callbacks are called only in the main process.

    Examples
    --------
    >>> import sdegen
    >>> class Largest(Listener):
    ...     def begin(self, training):
    ...         self.norm = 0.0
    ...     def __call__(self, step):
    ...         self.norm = max(self.norm, step.grad_norm)
    ...     def end(self, training):
    ...         print(self.norm == max(training.run.grad_norm))
    >>> model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP())
    >>> sdegen.fit(model, sdegen.data.gaussian_ring(), steps=5, batch_size=32, seed=0, callbacks=[Largest()]).steps
    True
    5
    """

    __repr__ = show_call

    def begin(self, training: Training) -> None:
        """Take notice that the training begins, or continues from a checkpoint."""

    def __call__(self, step: Step) -> None:
        """Take notice of a step that was taken."""

    def end(self, training: Training) -> None:
        """Take notice that the last step was taken; not called if the training fails."""

    def close(self) -> None:
        """Close what `begin` opened, however the training ended."""


class Function(Listener):
    """A callback that calls a function after every step.

    Parameters
    ----------
    function
        Called with the `Step`.
    """

    def __init__(self, function: Callable[[Step], Any]) -> None:
        self.function = function

    def __call__(self, step: Step) -> None:
        """Call the function."""
        self.function(step)


def listening(callback: Listener | Callable[[Step], Any]) -> Listener:
    """Return a callback as a `Listener`; a function becomes a `Function`.

    Raises
    ------
    TypeError
        If the callback cannot be called, or is a class of listeners instead of an object.
    """
    if isinstance(callback, Listener):
        return callback
    example = "functions of a Step, or listeners, each in a list: callbacks=[look]"
    if isinstance(callback, type):
        raise TypeError(f"callbacks has the class {callback.__name__}; give {example}.")
    return Function(check_call("callback", check_function("callbacks", callback, example), ["step"]))


class Bar(Listener):
    """A callback that shows a progress bar with the mean loss of the last 50 steps."""

    def begin(self, training: Training) -> None:
        """Show the bar, with the steps taken before an interruption."""
        self.bar = tqdm(total=training.settings.last, initial=training.run.steps, desc="fit", leave=False)

    def __call__(self, step: Step) -> None:
        """Advance the bar by one step."""
        self.bar.update()
        if step.step % 50 == 0:
            self.bar.set_postfix(loss=f"{sum(step.run.loss[-50:]) / 50:.4g}")

    def close(self) -> None:
        """Close the bar."""
        self.bar.close()


class Keeping(Listener):
    """The base class of callbacks that do something every few steps, and once more at the end.

    Parameters
    ----------
    every
        Steps between two occasions.
    """

    def __init__(self, every: int) -> None:
        self.every = check_count("every", every)

    def keep(self) -> None:
        """Keep what the subclass keeps; losses have been read from the accelerator before and are finite."""
        raise NotImplementedError

    def begin(self, training: Training) -> None:
        """Note the step at which the training begins."""
        self.training, self.first = training, training.run.steps

    def __call__(self, step: Step) -> None:
        """Keep if it is due after this step."""
        if step.step % self.every == 0:
            self.training.read()
            self.keep()

    def end(self, training: Training) -> None:
        """Keep after the last step, unless that was done."""
        if training.run.steps > self.first and training.run.steps % self.every:
            self.keep()


class KeepSnapshots(Keeping):
    """A callback that stores averages of weights every few steps, from which `Run.averaged` computes others.

    Parameters
    ----------
    snapshots
        The object that keeps them. Without a folder every process keeps its own.
    every
        Steps between two snapshots.
    """

    def __init__(self, snapshots: Snapshots, every: int) -> None:
        super().__init__(every)
        self.snapshots = snapshots

    def begin(self, training: Training) -> None:
        """Forget snapshots of later steps, left by an interrupted or another run."""
        super().begin(training)
        if training.workers.main:
            self.snapshots.forget_later()

    def keep(self) -> None:
        """Keep a snapshot of the averages now."""
        if self.snapshots.folder is None or self.training.workers.main:
            self.snapshots.keep()


class Checkpoints(Keeping):
    """A callback that writes a checkpoint every few steps, from which the same call of `fit` continues.

    Parameters
    ----------
    folder
        The folder of the checkpoints.
    every
        Steps between two checkpoints.
    """

    def __init__(self, folder: Folder, every: int) -> None:
        super().__init__(every)
        self.folder = folder

    def keep(self) -> None:
        """Write a checkpoint now: all processes give their part, and the main one writes."""
        training = self.training
        tensors = training.tensors()
        if training.workers.main:
            self.folder.write(training.run.steps, training.run.seconds, training.about, tensors)

    def end(self, training: Training) -> None:
        """Write the last checkpoint, with the last validation; it marks a run limited in seconds as finished."""
        if training.run.steps > self.first:
            self.keep()
