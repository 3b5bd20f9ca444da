"""Pictures of laws and states: densities, points, paths and images."""

from __future__ import annotations

__all__ = ["density", "images", "scatter", "trajectories"]

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..animation import INK
from ..answers import ask_log_prob
from ..arguments import check_arguments, check_law
from ..checks import check_count, check_number, check_tensor
from ..data.sheet import sheet
from ..laws.outside import as_law
from ..likelihood import Density
from ..mixing import check_density
from ..models import ScoreModel
from ..precision import as_array
from .axes import RED, axis_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@check_arguments
def density(
    law: Any, *, ax: Axes | None = None, extent: float | None = None, points: int = 100, title: str | None = None
) -> Axes:
    """Draw the density of a law or a score model over two dimensions, and return the axis.

    Parameters
    ----------
    law
        A score model, or anything whose ``log_prob`` takes ``(B, 2)``.
    ax, title
        The axis to draw on, and its title.
    extent
        Half the side of the square around 0 that is shown; by default 2.2 times the larger of the law's standard deviations, or 6
        if it has no moments.
    points
        Points on a side of the grid of values.
    """
    given, model = law, isinstance(law, ScoreModel)
    if not model:
        law = as_law(check_law("law", law, "log_prob"))
    check_count("points", points, at_least=2)
    if extent is not None:
        check_number("extent", extent, above=0)
    ax = axis_for(ax, title)
    if extent is None:
        moments = getattr(law, "moments", None)
        moments = moments() if callable(moments) else moments
        extent = 6.0 if moments is None else 2.2 * float(moments.covariance.max()) ** 0.5
    side = torch.linspace(-extent, extent, points, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    shown = Density(law) if model else law
    check_density(given, partial(ask_log_prob, shown), grid[len(grid) // 2 :])
    values = torch.cat([ask_log_prob(shown, block).detach().double().cpu() for block in grid.split(5000)]).exp()
    image = values.reshape(points, points).T.numpy()
    edge = extent * points / (points - 1)  # the outer pixels are centred on the outer points
    ax.imshow(image, origin="lower", extent=(-edge, edge, -edge, edge), cmap="magma")
    ax.set(xticks=[], yticks=[])
    return ax


@check_arguments
def scatter(x: Tensor, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw points ``(N, 2)``, and return the axis.

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
    ax = axis_for(ax, title)
    points = as_array(x)
    ax.scatter(points[:, 0], points[:, 1], s=2, alpha=0.4, color=INK, linewidths=0)
    ax.set_aspect("equal")
    return ax


@check_arguments
def trajectories(
    path: Tensor, *, times: Tensor | None = None, ax: Axes | None = None, most: int = 100, title: str | None = None
) -> Axes:
    """Draw paths ``(times, N, d)``, as `sample(..., return_path=True)` returns them, and return the axis.

    Two dimensions are drawn in the plane, with marks at the ends of paths, and one dimension against time.

    Parameters
    ----------
    path
        The states, ``(times, N, d)``; of more than two dimensions the first two are drawn.
    times
        Times of the states of one dimension, ``(times,)``; their places in the path by default.
    ax, title
        The axis to draw on, and its title.
    most
        The largest number of paths that are drawn; the first are taken.

    Raises
    ------
    ValueError
        If `path` or `times` has another shape.
    """
    check_tensor("path", path)
    if path.ndim < 2 or path.numel() == 0:
        raise ValueError(f"path has shape {tuple(path.shape)}; give states one after the other, (times, N, d).")
    if times is not None and times.shape != path.shape[:1]:
        raise ValueError(f"times has shape {tuple(times.shape)}; give one time for each of the {len(path)} states.")
    check_count("most", most)
    ax = axis_for(ax, title)
    lines = as_array(path)[:, :most]
    lines = lines.reshape(len(lines), lines.shape[1], -1)
    if lines.shape[2] == 1:
        clock = np.arange(len(lines)) if times is None else as_array(times)
        ax.plot(clock, lines[:, :, 0], color=INK, alpha=0.3, linewidth=0.7)
        ax.set_xlabel("step" if times is None else "t")
    else:
        ax.plot(lines[:, :, 0], lines[:, :, 1], color=INK, alpha=0.25, linewidth=0.6)
        ax.scatter(lines[-1, :, 0], lines[-1, :, 1], s=6, color=RED, zorder=3, linewidths=0)
        ax.set_aspect("equal")
    return ax


@check_arguments
def images(
    x: Tensor, *, columns: int | None = None, gap: int = 0, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw images ``(N, C, H, W)`` in [0, 1] side by side, values outside clipped, and return the axis.

    Parameters
    ----------
    x
        The images.
    columns
        The number of images in a row; by default about as many as there are rows.
    gap
        White pixels between neighbours.
    ax, title
        The axis to draw on, and its title.

    Raises
    ------
    TypeError
        If the images are bytes, which would all be white.
    ValueError
        If `x` has another shape, or `gap` is negative.
    """
    pixels = sheet(x, columns, gap)
    ax = axis_for(ax, title)
    ax.imshow(pixels, interpolation="nearest")
    ax.set_axis_off()
    return ax
