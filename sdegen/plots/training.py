"""Pictures of a training run: its losses, and an album of samples that is written while it goes on."""

from __future__ import annotations

__all__ = ["Album", "Record", "losses", "players"]

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..animation import INK
from ..arguments import check_arguments
from ..baselines import Stability
from ..checks import check_count, check_interval, kind_of
from ..data.pictures import write_atomically
from ..metrics.estimate import Estimate
from ..samplers import sample
from ..show import show_call
from ..signatures import check_call
from .axes import RED, axis_for, drawn
from .states import images

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Record(Protocol):
    """The losses of a training run that `losses` draws: of every step, and estimates on validation data, as a `Run` has them."""

    loss: list[float]
    validation: dict[int, Estimate]


@check_arguments
def losses(run: Record, *, ax: Axes | None = None, window: int = 100) -> Axes:
    """Draw the loss of a `Run` and its mean over a moving window against the step, with the validation loss and its errors if
    there is one, and return the axis.

    Parameters
    ----------
    run
        The record that `fit` returned.
    ax
        The axis to draw on.
    window
        The number of steps in a mean; there is no mean of a run that is not longer.

    Raises
    ------
    TypeError
        If `run` is not such a record.
    """
    check_count("window", window)
    if isinstance(run, type) or not hasattr(run, "loss"):
        raise TypeError(f"run {kind_of(run)}; give the record of a training, as fit returns it.")
    ax = axis_for(ax)
    values = np.asarray(run.loss)
    ax.plot(values, color=INK, alpha=0.15, linewidth=0.6)
    if len(values) > window:
        means = np.convolve(values, np.full(window, 1 / window), mode="valid")
        ax.plot(np.arange(window - 1, len(values)), means, color=INK, linewidth=1.2)
    if run.validation:
        found, errors = zip(*run.validation.values())
        ax.errorbar(list(run.validation), found, errors, color=RED, marker=".", linewidth=1.2, label="validation")
        ax.legend(frameon=False)
    ax.set(xlabel="step", ylabel="loss")
    return ax


@check_arguments
def players(health: Stability, *, ax: Axes | None = None) -> Axes:
    """Draw the losses of both players of an adversarial model, critic and generator, against the step, and return the axis.

    Parameters
    ----------
    health
        The callback that recorded the training.
    ax
        The axis to draw on.

    Raises
    ------
    ValueError
        If nothing was recorded.
    """
    if not health.records:
        raise ValueError("health has no records; give it to fit as a callback, and train for `every` steps at least.")
    ax = axis_for(ax)
    steps = [record["step"] for record in health.records]
    for loss, name, color in (("L_D", "critic", INK), ("L_G", "generator", RED)):
        ax.plot(steps, [record[loss] for record in health.records], color=color, linewidth=1.2, label=name)
    ax.legend(frameon=False)
    ax.set(xlabel="step", ylabel="loss")
    return ax


class Album:
    """A callback of `fit` that draws samples of the averaged model and the loss so far, every few steps.

    It writes ``samples-N.png`` and ``loss.png`` into a folder, each whole or not at all.

    Parameters
    ----------
    folder
        The folder of the pictures; it is made if there is none.
    every
        Steps between two pictures.
    n
        The number of samples in a picture.
    low, high
        The numbers that stand for black and white.
    steps, seed
        The steps of the default sampler, and the seed of the samples; it is the same for every picture, so only the model
        changes.
    cond
        Conditions of the samples.
    draw
        A function that draws samples that are not images, called as ``draw(x, ax=...)`` with `low` scaled to 0 and `high` to 1;
        for volumes ``lambda x, ax: plots.images(x[:, :, 0], ax=ax)``.

    Raises
    ------
    ValueError
        If `every` is less than 1.

    Examples
    --------
    ``fit(model, images.scaled(-1, 1), callbacks=[Album("pictures", every=500, label=torch.arange(36) % 10)])``
    """

    __repr__ = show_call

    @check_arguments
    def __init__(
        self,
        folder: str | Path,
        every: int = 500,
        n: int = 36,
        low: float = -1.0,
        high: float = 1.0,
        steps: int = 10,
        seed: int = 0,
        draw: Callable[..., object] = images,
        **cond: Any,
    ) -> None:
        check_count("every", every), check_count("n", n), check_count("steps", steps)
        check_interval("low and high", (low, high)), check_call("draw", draw, ["x"], ["ax"])
        self.folder, self.every, self.n, self.low, self.high = Path(folder).absolute(), every, n, low, high
        self.steps, self.seed, self.draw, self.cond = steps, seed, draw, cond

    def __call__(self, step: Any) -> None:
        """Draw the pictures if they are due after this step."""
        if step.step % self.every:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with step.averaged() as model:
            x = sample(model, self.n, steps=self.steps, seed=self.seed, progress=False, **self.cond)
        self._write(f"samples-{step.step:08d}.png", partial(self.draw, (x - self.low) / (self.high - self.low)))
        self._write("loss.png", partial(losses, step.run))

    def _write(self, name: str, draw: Callable[..., object]) -> None:
        write_atomically(self.folder / name, partial(Path.write_bytes, data=drawn(draw, (5.0, 5.0))))
