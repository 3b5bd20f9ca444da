"""Images as PNG files (`sheet` encodes them), and writing of any file whole or not at all."""

from __future__ import annotations

__all__ = ["save_pngs", "write_atomically"]

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..arguments import check_arguments
from .images import Images
from .scaling import Scaling
from .sheet import png


@check_arguments
def save_pngs(images: Tensor | Images, folder: str | Path, low: float = 0.0, high: float = 1.0) -> list[Path]:
    """Write images as PNG files ``0000.png``, ``0001.png``, …, each whole or not at all, and return their paths.

    Parameters
    ----------
    images
        Numbers from `low` to `high`, or bytes, ``(N, C, H, W)`` of one channel or three; or `Images`, whose levels are spread
        over 0 … 255.
    folder
        The folder of the files, which is made if there is none. Files of the same names are replaced.
    low, high
        The numbers that stand for black and white; numbers outside are refused. Of samples take ``x.clamp(low, high)``.

    Raises
    ------
    TypeError
        If `images` are neither numbers nor bytes.
    ValueError
        If `images` have another shape, are not finite or lie outside, or the folder is a file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in save_pngs(torch.rand(2, 3, 8, 8), folder)]
    ['0000.png', '0001.png']
    """
    x = _as_bytes(images, low, high)
    if x.ndim != 4 or len(x) == 0 or x.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {tuple(x.shape)}; expected (N, 1, H, W) or (N, 3, H, W).")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder = {folder} is a file; give a folder, which is made if there is none.")
    folder.mkdir(parents=True, exist_ok=True)
    digits = max(4, len(str(len(x) - 1)))
    paths = [folder / f"{i:0{digits}d}.png" for i in range(len(x))]
    for image, path in zip(x, paths):
        pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0).contiguous()
        write_atomically(path, partial(Path.write_bytes, data=png(pixels.numpy())))
    return paths


def _as_bytes(images: Tensor | Images, low: float, high: float) -> Tensor:
    """Return bytes 0 … 255 on the CPU."""
    if isinstance(images, Images):
        return (images.x.double() * (255 / (images.levels - 1))).round().to(torch.uint8).cpu()
    if images.dtype == torch.uint8:
        return images.cpu()
    if not images.is_floating_point():
        raise TypeError(f"images have dtype {images.dtype}; give numbers from low to high, or bytes, torch.uint8.")
    if images.numel() and not (images.min() >= low and images.max() <= high):  # NaN compares false
        raise ValueError(
            f"images have values from {images.min():.4g} to {images.max():.4g}, beyond [{low:g}, {high:g}]; say the range of "
            "the data, low= and high=, and clamp what a sampler overshoots."
        )
    return Scaling(low, high).inverse(images.detach().cpu(), clip=True)


def write_atomically(file: Path, save: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, and rename it once it is complete.

    Parameters
    ----------
    file
        The path of the file.
    save
        A function that writes the file to the path it is called with.
    """
    part = file.parent / f".{file.name}.part"
    save(part)
    part.replace(file)
