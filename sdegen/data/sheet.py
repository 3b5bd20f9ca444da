"""Many images side by side as one image, and its encoding as a PNG."""

from __future__ import annotations

__all__ = ["enlarge", "png", "sheet"]

import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..checks import check_count, check_tensor


def sheet(x: Tensor, columns: int | None = None, gap: int = 0) -> np.ndarray[Any, Any]:
    """Return images side by side as one, ``(rows H, columns W, 3)``; numbers outside of [0, 1] become the nearest end.

    Parameters
    ----------
    x
        The images, ``(N, 1, H, W)`` or ``(N, 3, H, W)``, from 0 to 1.
    columns
        Number of images in a row; by default about as many as there are rows.
    gap
        White pixels between neighbours.

    Raises
    ------
    TypeError
        If the images are bytes, which would all be white.
    ValueError
        If the images have another shape, or `gap` is negative.
    """
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; give numbers in [0, 1], of bytes x / 255.")
    check_tensor("x", x)
    if x.ndim != 4 or len(x) == 0 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected images (N, 1, H, W) or (N, 3, H, W); of volumes give slices, x[:, :, k]."
        )
    check_count("gap", gap, 0)
    if columns is not None:
        check_count("columns", columns)
    columns = math.ceil(math.sqrt(len(x))) if columns is None else columns
    rows = math.ceil(len(x) / columns)
    blank = x.new_ones(rows * columns - len(x), *x.shape[1:])
    tiles = torch.cat([x.detach(), blank]).cpu().float().clamp(0, 1)
    tiles = nn.functional.pad(tiles, (0, gap, 0, gap), value=1.0).unflatten(0, (rows, columns))
    one = tiles.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return one[: len(one) - gap, : one.shape[1] - gap].expand(-1, -1, 3).numpy()


def enlarge(pixels: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Return numbers in [0, 1] as bytes, every pixel repeated until the shorter side has `size` of them."""
    times = math.ceil(size / min(pixels.shape[:2]))
    return (255 * pixels).round().astype(np.uint8).repeat(times, 0).repeat(times, 1)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """Return bytes ``(H, W, 3)`` or ``(H, W)`` encoded as a PNG."""
    from PIL import Image  # loads on use

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
