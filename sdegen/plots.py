"""Pictures: densities, samples, trajectories, loss curves. Each draws on an axis, given or new, and returns it."""

from __future__ import annotations

__all__ = ["Album", "Record", "animation", "density", "drawn", "images", "losses", "scatter", "trajectories"]

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .data.pictures import written_whole
from .data.sheet import enlarged, sheet
from .likelihood import Density
from .metrics.estimate import Estimate
from .models import ScoreModel
from .samplers import sample
from .show import show_call

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, RED = "#1b2a41", "#d1495b"


def _axis(ax: Axes | None) -> Axes:
    import matplotlib.pyplot as plt  # loads on use

    return plt.subplots(figsize=(4, 4))[1] if ax is None else ax


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


def scatter(x: Tensor, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw points ``(N, 2)``.

    Parameters
    ----------
    x
        The points; of more dimensions the first two are drawn.
    ax, title
        The axis to draw on, and its title.
    """
    ax = _axis(ax)
    points = x.detach().cpu().numpy()
    ax.scatter(points[:, 0], points[:, 1], s=2, alpha=0.4, color=INK, linewidths=0)
    ax.set_aspect("equal")
    if title:
        ax.set_title(title, fontsize=9)
    return ax


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
    """
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
    """
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


def animation(
    path: Tensor,
    file: str | Path,
    *,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    frame: int = 50,
    hold: int = 1500,
    size: int = 320,
) -> None:
    """Write a path of many samples as an endlessly looping GIF.

    Parameters
    ----------
    path
        States one after the other, as `sample(..., return_path=True)` returns them: points ``(times, N, 2)``, or images
        ``(times, N, C, H, W)`` in [0, 1], of one channel or three.
    file
        The path of the GIF; its folders are made.
    titles
        One for every state, drawn above points.
    columns
        Images a row; about as many as rows by default.
    frame, hold
        Milliseconds that every state is shown, and the last.
    size
        Pixels that a side of the picture has at least (images), or has (points).

    Raises
    ------
    ValueError
        If `path` has another shape, something in it is not finite, or there are not as many titles as states.
    """
    from PIL import Image  # loads on use

    if path.ndim not in (3, 5) or len(path) == 0 or (path.ndim == 3 and path.shape[2] != 2):
        raise ValueError(
            f"path has shape {tuple(path.shape)}; expected points (times, N, 2) or images (times, N, C, H, W)."
        )
    if not path.isfinite().all():
        raise ValueError("path has states that are not finite; nothing was drawn.")
    if titles is not None and path.ndim == 5:
        raise ValueError("titles are drawn above points; images have none.")
    if titles is not None and len(titles) != len(path):
        raise ValueError(f"{len(titles)} titles for {len(path)} states; give one for each.")
    if path.ndim == 5:
        pixels = [enlarged(sheet(x, columns), size) for x in path]
    else:
        pixels = _clouds(path.detach().cpu().numpy(), titles, size)
    frames = [Image.fromarray(p).quantize(32, dither=Image.Dither.NONE) for p in pixels]
    milliseconds = [frame] * (len(frames) - 1) + [hold]
    whole = partial(
        frames[0].save, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, format="GIF"
    )
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    written_whole(file, whole)


def _clouds(path: Any, titles: Sequence[str] | None, size: int) -> list[Any]:
    """Draw pictures of points, one after the other, on the same axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # loads on use
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size / 100, size / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    edge = 1.05 * float(np.abs(path).max())
    ax = figure.subplots()
    dots = ax.scatter(path[0][:, 0], path[0][:, 1], s=2, alpha=0.4, color=INK, linewidths=0)
    ax.set(xlim=(-edge, edge), ylim=(-edge, edge), xticks=[], yticks=[], aspect="equal")
    drawn = []
    for i, points in enumerate(path):
        dots.set_offsets(points)
        if titles is not None:
            ax.set_title(titles[i], fontsize=9)
        canvas.draw()
        drawn.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    return drawn


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
        if every < 1:
            raise ValueError(f"every = {every}; give a number of steps, at least 1.")
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
