"""`fit`, which trains a model, and `train`, its loop over steps.

`settings` has the options, `state` the whole state of a run between two steps, and `listeners` the callbacks.
"""

from __future__ import annotations

__all__ = ["fit", "train"]

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from ..arguments import check_arguments
from ..checks import check_count, check_kind
from ..failures import Explained
from ..progress import should_show
from .listeners import Bar, Checkpoints, KeepSnapshots, Listener, listening
from .run import Run, Step
from .settings import Settings
from .state import Training
from .validation import Validation

# Arguments of `fit` itself, beside its settings.
OWN = ("validation", "validate_every", "checkpoint", "every", "threads", "callbacks", "progress")


def fit(
    model: nn.Module,
    data: Any,
    settings: Settings | None = None,
    *,
    validation: Any = None,
    validate_every: int = 1000,
    checkpoint: str | Path | None = None,
    every: int = 1000,
    threads: int | None = None,
    callbacks: Iterable[Listener | Callable[[Step], Any]] = (),
    progress: bool | None = None,
    **changes: Any,
) -> Run:
    """Train a model in place by AdamW with linear warm-up, cosine decay to zero, clipping and averaged weights.

    Settings are keywords, ``fit(model, data, steps=500, lr=1e-3)``, or an object, ``fit(model, data, Settings(steps=500))``.

    Under ``accelerate launch --multi_gpu --num_processes 2`` the processes share every batch, with the result of a single
    process: call `fit` in each with the same model and data, on ``accelerate.PartialState().device``, or on CPUs on that of
    ``PartialState(cpu=True)``. Only the main process writes, calls back and shows a bar.

    Parameters
    ----------
    model
        An ``nn.Module`` whose ``loss(x, generator=, **cond)`` returns one value per datum (`learner.Learner`). Its ``moments``
        are set to those of the data before the first step; a score model without moments takes its data in units of their spread
        from then on (`Trainable.measure`).
    data
        A law, a tensor, ``(x, cond)``, a `Dataset`, a memory-mapped array, images (`data.Source`), or an iterable of batches such
        as a `DataLoader` (`data.Stream`). Conditions are passed to the network as keywords, a single tensor of conditions as
        ``label``. The network learns the law without a condition if training drops it: with the probability that `nets.Label` and
        the like declare for each, or all at once with ``p_uncond``.
    settings
        All options that the trained weights depend on; the default ones if none are given.
    validation, validate_every
        Other data, of any of these kinds, on which the loss of the averaged weights is measured, and the steps between two
        measurements; they are in ``run.validation`` (`validation.Validation`).
    checkpoint, every
        A folder, and the steps between two checkpoints there. The same call continues a run, however it ended, towards the same
        weights to the last bit if `steps` alone limit it; for a finished run it returns the result. A run of `constant_rate` goes
        on to a new limit. The states of torch's own generators are restored too.
    threads
        The number of torch's threads while a model trains on a CPU. By default the first steps are taken with one and with all
        threads by turns, and the rest with the number that was faster. The record and checkpoints keep the number.
    callbacks
        Functions that are called with a `Step` after every step, such as for a grid of samples now and then; or `Listener`s.
    progress
        Show a bar; by default where standard error is a terminal.
    changes
        Settings by name (`Settings`).

    Returns
    -------
    Run
        The record: losses, settings, and all else that was measured.

    Raises
    ------
    NonFiniteLoss
        If a loss or gradient is not finite. The model keeps the weights of the last good step.
    ValueError, TypeError
        If an argument or the data are unusable, or the checkpoint is of another run.
    OSError
        If a checkpoint cannot be written. The checkpoint before it stays whole.

    Examples
    --------
    >>> import sdegen
    >>> model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP())
    >>> def look(step):
    ...     if step.step % 4 == 0:
    ...         with step.averaged() as model:
    ...             print(step.step, sdegen.sample(model, 9, steps=3, seed=0).shape)
    >>> fit(model, sdegen.data.gaussian_ring(), steps=9, batch_size=32, seed=0, callbacks=[look]).steps
    4 torch.Size([9, 2])
    8 torch.Size([9, 2])
    9
    """
    every, validate_every = check_count("every", every), check_count("validate_every", validate_every)
    check_kind("callbacks", callbacks, Iterable, "a list of functions or listeners, as in callbacks=[look]")
    listening_to = [listening(callback) for callback in callbacks]
    settings = Settings.of(settings, changes, OWN)
    training = Training(model, data, settings, checkpoint, threads)
    listeners: list[Listener] = []
    if training.workers.main:
        listeners += [Bar()] if should_show(progress) else []
        listeners += [] if validation is None else [Validation(validation, validate_every)]
        listeners += listening_to
    if training.run.snapshots is not None and settings.snapshots is not None:
        listeners.append(KeepSnapshots(training.run.snapshots, settings.snapshots))
    if training.folder is not None:
        listeners.append(Checkpoints(training.folder, every))
    for _ in train(training, listeners):
        pass
    training.average.copy_to_model()
    if training.gradient.of_data:
        training.take_profile()
    return training.run


@check_arguments
def train(training: Training, listeners: Iterable[Listener] = ()) -> Iterator[Step]:
    """Take the steps of a training, and yield each as a `Step`, after the listeners have been called with it.

    After the last one, ``training.average.copy_to_model()`` leaves the averaged weights in the model.

    Parameters
    ----------
    training
        A run, new or continued from its checkpoint.
    listeners
        Callbacks, called in this order.

    Yields
    ------
    Step
        The step that was taken.

    Raises
    ------
    NonFiniteLoss
        If a loss or gradient is not finite. The model keeps the weights of the last good step.

    Examples
    --------
    >>> import sdegen
    >>> model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP())
    >>> training = Training(model, sdegen.data.gaussian_ring(), Settings(steps=6, batch_size=32, seed=0))
    >>> [step.step for step in train(training)]
    [1, 2, 3, 4, 5, 6]
    """
    settings, run, listeners = training.settings, training.run, list(listeners)
    for listener in listeners:
        check_kind("listeners", listener, Listener, "objects of the class Listener; `fit` makes one of a function")
    batches = training.source.batches(settings.batch_size, training.generator)
    training.model.train()
    began = time.perf_counter() - run.seconds

    def leave() -> None:
        training.model.eval()
        run.seconds = time.perf_counter() - began

    with Explained("fit"), ExitStack() as stack:
        stack.callback(leave)
        stack.enter_context(training.threads.held())
        for listener in listeners:
            listener.begin(training)
            stack.callback(listener.close)
        while True:
            run.seconds = time.perf_counter() - began
            elapsed = run.seconds if settings.seconds is None else training.workers.agree(run.seconds)
            done = settings.done(run.steps, elapsed)
            if done >= 1:
                break
            rate = settings.rate(run.steps, done)
            batch = next(batches)
            if training.drop.chances:
                batch = training.drop(batch, training.generator)
            # Once the number of threads is known, a step saves the call.
            with training.threads.timed() if training.threads.number is None else nullcontext():
                loss, norm = training.step(batch, rate)
            run.steps, run.threads = run.steps + 1, training.threads.number
            run.lr.append(rate)
            step = Step(run.steps, rate, elapsed, training.model, run, loss, norm, training.average)
            for listener in listeners:
                listener(step)
            yield step
        training.read()
        for listener in listeners:
            listener.end(training)
