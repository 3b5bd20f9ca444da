"""`animation`, a path of many samples as a moving picture; for pictures that stand still see `plots`."""

from __future__ import annotations

__all__ = ["INK", "animation"]

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .arguments import check_arguments
from .checks import check_count, check_tensor
from .data.pictures import write_atomically
from .data.sheet import enlarge, sheet
from .precision import as_array

INK = "#1b2a41"


@check_arguments
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
        A title for every state, drawn above points.
    columns
        Number of images in a row; by default about as many as there are rows.
    frame, hold
        Milliseconds that every state is shown, and that the last is shown.
    size
        The side of the picture in pixels; of images the least length of its shorter side.

    Raises
    ------
    TypeError
        If an argument is of another kind.
    ValueError
        If `path` has another shape or a number that is not finite, or there are not as many titles as states.
    """
    from PIL import Image  # loads on use

    for name, value in {"columns": columns, "frame": frame, "hold": hold, "size": size}.items():
        if value is not None:
            check_count(name, value)
    check_tensor("path", path)
    if path.ndim not in (3, 5) or len(path) == 0 or (path.ndim == 3 and path.shape[2] != 2):
        raise ValueError(
            f"path has shape {tuple(path.shape)}; expected points (times, N, 2) or images (times, N, C, H, W)."
        )
    if titles is not None and path.ndim == 5:
        raise ValueError("titles are drawn above points; images have none.")
    if titles is not None and len(titles) != len(path):
        raise ValueError(f"titles has {len(titles)} for {len(path)} states; give one for each.")
    clouds = path.ndim == 3
    pixels = _clouds(as_array(path), titles, size) if clouds else [enlarge(sheet(x, columns), size) for x in path]
    frames = [Image.fromarray(p).quantize(32, dither=Image.Dither.NONE) for p in pixels]
    milliseconds = [frame] * (len(frames) - 1) + [hold]
    whole = partial(
        frames[0].save, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, format="GIF"
    )
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, whole)


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
