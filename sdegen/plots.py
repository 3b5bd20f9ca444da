"""Pictures: densities, samples, trajectories, loss curves. Each draws on an axis, given or new, and returns it."""

from __future__ import annotations

__all__ = ["Album", "Record", "animation", "density", "drawn", "images", "losses", "scatter", "trajectories"]

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .animation import INK, animation
from .arguments import check_arguments
from .checks import check_count, check_interval, check_kind, check_law, check_number, check_tensor, kind_of
from .data.pictures import written_whole
from .data.sheet import sheet
from .likelihood import Density
from .metrics.estimate import Estimate
from .models import ScoreModel
from .samplers import sample
from .show import show_call

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RED = "#d1495b"


def _axis(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt  # loads on use
    from matplotlib.axes import Axes

    return (
        plt.subplots(figsize=(4, 4))[1] if ax is None else check_kind("ax", ax, Axes, "an axis of matplotlib, or None")
    )


@check_arguments
def density(
    law: Any, *, ax: Axes | None = None, extent: float | None = None, points: int = 100, title: str | None = None
) -> Axes:
    """Draw the density of a law or a score model over two dimensions.

    Parameters
    ----------
    law
        A score model, or anything whose ``log_prob`` takes ``(B, 2)``.
    ax
        The axis to draw on.
    extent
        Half the side of the square shown around 0; 2.2 of the law's largest standard deviations, where it has moments, else 6.
    points
        Points a side.
    title
        Above the picture.
    """
    if not isinstance(law, ScoreModel):
        check_law("law", law, "log_prob")
    check_count("points", points, at_least=2)
    if extent is not None:
        check_number("extent", extent, above=0)
    ax = _axis(ax)
    if extent is None:
        moments = getattr(law, "moments", None)
        moments = moments() if callable(moments) else moments
        extent = 6.0 if moments is None else 2.2 * float(moments.covariance.max()) ** 0.5
    side = torch.linspace(-extent, extent, points, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    shown = Density(law) if isinstance(law, ScoreModel) else law
    values = torch.cat([shown.log_prob(block).detach().double().cpu() for block in grid.split(5000)]).exp()
    image = values.reshape(points, points).T.numpy()
    edge = extent * points / (points - 1)  # the outer pixels are centred on the outer points
    ax.imshow(image, origin="lower", extent=(-edge, edge, -edge, edge), cmap="magma")
    ax.set(xticks=[], yticks=[])
    if title:
        ax.set_title(title, fontsize=9)
    return ax


@check_arguments
def scatter(x: Tensor, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw points ``(N, 2)``.

    Parameters
    ----------
    x
        The points; of more dimensions the first two are drawn.
    ax, title
        The axis to draw on, and its title.

    Raises
    ------
    ValueError
        If `x` has another shape.
    """
    check_tensor("x", x)
    if x.ndim != 2 or x.shape[1] < 2 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; give points (N, 2), or of more coordinates.")
    ax = _axis(ax)
    points = x.detach().cpu().numpy()
    ax.scatter(points[:, 0], points[:, 1], s=2, alpha=0.4, color=INK, linewidths=0)
    ax.set_aspect("equal")
    if title:
        ax.set_title(title, fontsize=9)
    return ax


@check_arguments
def trajectories(
    path: Tensor, *, times: Tensor | None = None, ax: Axes | None = None, most: int = 100, title: str | None = None
) -> Axes:
    """Draw paths ``(times, N, d)``, as `sample(..., return_path=True)` returns them.

    Two dimensions are drawn in the plane, the ends marked; one dimension against time.

    Parameters
    ----------
    path
        The states, ``(times, N, d)``; of more than two dimensions the first two are drawn.
    times
        Times of the states of one dimension, ``(times,)``; their places in the path by default.
    ax, title
        The axis to draw on, and its title.
    most
        Paths that are drawn, the first of them.

    Raises
    ------
    ValueError
        If `path` has another shape.
    """
    check_tensor("path", path)
    if path.ndim < 2 or path.numel() == 0:
        raise ValueError(f"path has shape {tuple(path.shape)}; give states one after the other, (times, N, d).")
    check_count("most", most)
    ax = _axis(ax)
    lines = path.detach().cpu().numpy()[:, :most]
    lines = lines.reshape(len(lines), lines.shape[1], -1)
    if lines.shape[2] == 1:
        clock = np.arange(len(lines)) if times is None else times.cpu().numpy()
        ax.plot(clock, lines[:, :, 0], color=INK, alpha=0.3, linewidth=0.7)
        ax.set_xlabel("step" if times is None else "t")
    else:
        ax.plot(lines[:, :, 0], lines[:, :, 1], color=INK, alpha=0.25, linewidth=0.6)
        ax.scatter(lines[-1, :, 0], lines[-1, :, 1], s=6, color=RED, zorder=3, linewidths=0)
        ax.set_aspect("equal")
    if title:
        ax.set_title(title, fontsize=9)
    return ax


class Record(Protocol):
    """The losses of a training run that `losses` draws: of every step, and estimates on validation data, as a `Run` has them."""

    loss: list[float]
    validation: dict[int, Estimate]


@check_arguments
def losses(run: Record, *, ax: Axes | None = None, window: int = 100) -> Axes:
    """Draw the loss of a `Run`, its mean over a moving window, against the step; the validation loss with errors beside
    it.

    Parameters
    ----------
    run
        What `fit` returned.
    ax
        The axis to draw on.
    window
        Steps in a mean; none is drawn of a run that is not longer.

    Raises
    ------
    TypeError
        If `run` is no such record.
    """
    check_count("window", window)
    if isinstance(run, type) or not hasattr(run, "loss"):
        raise TypeError(f"run {kind_of(run)}; give the record of a training, as fit returns it.")
    ax = _axis(ax)
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
def images(
    x: Tensor, *, columns: int | None = None, gap: int = 0, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw images ``(N, C, H, W)`` in [0, 1] side by side; values outside are clipped.

    Parameters
    ----------
    x
        The images.
    columns
        How many a row; about as many as rows by default.
    gap
        White pixels between neighbours.
    ax, title
        The axis to draw on, and its title.

    Raises
    ------
    TypeError
        If they are bytes, which would all be white.
    ValueError
        If the shape is another, or the gap negative.
    """
    pixels = sheet(x, columns, gap)
    ax = _axis(ax)
    ax.imshow(pixels, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=9)
    return ax


@check_arguments
def drawn(draw: Callable[..., object], size: tuple[float, float]) -> bytes:
    """Return the picture that `draw`, a function of this module, makes on a new axis, as PNG bytes.

    Parameters
    ----------
    draw
        Called as ``draw(ax=...)``, ``partial(losses, run)`` say.
    size
        Width and height in units of 100 pixels.
    """
    from matplotlib.figure import Figure  # loads on use

    figure = Figure(figsize=size, layout="constrained")
    draw(ax=figure.subplots())
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, format="png")
    return picture.getvalue()


class Album:
    """A callback of `fit` that draws samples of the averaged model and the loss so far, every few steps.

    Writes ``samples-N.png`` and ``loss.png`` into a folder, each whole or not at all.

    Parameters
    ----------
    folder
        The folder of the pictures; it is made.
    every
        Steps between two pictures.
    n
        Samples a picture.
    low, high
        The numbers that stand for black and white.
    steps, seed
        Of the default sampler, and its seed, the same for every picture: what changes is the model.
    cond
        Conditions of the samples.

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
        **cond: Any,
    ) -> None:
        check_count("every", every), check_count("n", n), check_count("steps", steps)
        check_interval("low and high", (low, high))
        self.folder, self.every, self.n, self.low, self.high = Path(folder), every, n, low, high
        self.steps, self.seed, self.cond = steps, seed, cond

    def __call__(self, step: Any) -> None:
        """Draw where it is time."""
        if step.step % self.every:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with step.averaged() as model:
            x = sample(model, self.n, steps=self.steps, seed=self.seed, progress=False, **self.cond)
        self._write(f"samples-{step.step:08d}.png", partial(images, (x - self.low) / (self.high - self.low)))
        self._write("loss.png", partial(losses, step.run))

    def _write(self, name: str, draw: Callable[..., object]) -> None:
        written_whole(self.folder / name, partial(Path.write_bytes, data=drawn(draw, (5.0, 5.0))))
