"""Pictures: densities, samples, trajectories, loss curves. Each draws on an axis, given or new, and returns it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .samplers import sample

INK = "#1b2a41"


def _axis(ax: Axes | None) -> Axes:
    return plt.subplots(figsize=(4, 4))[1] if ax is None else ax


def density(
    law: Any, *, ax: Axes | None = None, extent: float | None = None, points: int = 100, title: str | None = None
) -> Axes:
    """The density of anything with ``log_prob`` over two dimensions.

    Parameters
    ----------
    law
        Its ``log_prob`` takes ``(B, 2)``.
    ax
        Where to draw.
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
    values = torch.cat([law.log_prob(block).double().cpu() for block in grid.split(5000)]).exp()
    image = values.reshape(points, points).T.numpy()
    edge = extent * points / (points - 1)  # the outer pixels are centred on the outer points
    ax.imshow(image, origin="lower", extent=(-edge, edge, -edge, edge), cmap="magma")
    ax.set(xticks=[], yticks=[])
    if title:
        ax.set_title(title, fontsize=9)
    return ax


def scatter(x: Tensor, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Points ``(N, 2)``."""
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
    """Paths ``(times, N, d)``, as `sample(..., return_path=True)` returns them.

    Two dimensions are drawn in the plane, the ends marked; one dimension against time.
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
        ax.scatter(lines[-1, :, 0], lines[-1, :, 1], s=6, color="#d1495b", zorder=3, linewidths=0)
        ax.set_aspect("equal")
    if title:
        ax.set_title(title, fontsize=9)
    return ax


def losses(run: Any, *, ax: Axes | None = None, window: int = 100) -> Axes:
    """The loss of a `Run`, its mean over a moving window, against the step."""
    ax = _axis(ax)
    values = np.asarray(run.loss)
    ax.plot(values, color=INK, alpha=0.15, linewidth=0.6)
    if len(values) > window:
        means = np.convolve(values, np.full(window, 1 / window), mode="valid")
        ax.plot(np.arange(window - 1, len(values)), means, color=INK, linewidth=1.2)
    ax.set(xlabel="step", ylabel="loss")
    return ax


def images(x: Tensor, *, columns: int | None = None, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Images ``(N, C, H, W)`` in [0, 1], of one channel or three, side by side; what lies outside is shown as the nearest end.

    Parameters
    ----------
    x
        The images.
    columns
        How many a row; about as many as rows by default.
    ax
        Where to draw.
    title
        Above the picture.

    Raises
    ------
    TypeError
        If they are bytes, which would all be white.
    ValueError
        If the shape is another.
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; give numbers in [0, 1], of bytes x / 255.")
    if x.ndim != 4 or len(x) == 0 or x.shape[1] not in (1, 3):
        raise ValueError(f"x has shape {tuple(x.shape)}; expected images (N, 1, H, W) or (N, 3, H, W).")
    columns = math.ceil(math.sqrt(len(x))) if columns is None else columns
    rows = math.ceil(len(x) / columns)
    blank = x.new_ones(rows * columns - len(x), *x.shape[1:])
    tiles = torch.cat([x.detach(), blank]).cpu().float().clamp(0, 1).unflatten(0, (rows, columns))
    sheet = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (rows H, columns W, C)
    ax = _axis(ax)
    ax.imshow(sheet.expand(-1, -1, 3).numpy(), interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title, fontsize=9)
    return ax


class Album:
    """A callback of `fit` that draws, now and then, samples of the averaged model and the loss so far.

    Writes ``samples-N.png`` and ``loss.png`` into a folder, each whole or not at all.

    Parameters
    ----------
    folder
        Where to; it is made.
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

    Examples
    --------
    ``fit(model, images.scaled(-1, 1), callbacks=[Album("pictures", every=500, label=torch.arange(36) % 10)])``
    """

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

    def _write(self, name: str, draw: Any) -> None:
        figure = Figure(figsize=(5, 5), layout="constrained")
        draw(ax=figure.subplots())
        part = self.folder / f".{name}.part"
        figure.savefig(part, dpi=100, format="png")
        part.replace(self.folder / name)
