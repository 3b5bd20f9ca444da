"""A user's own images: `Images` from arrays, torch data sets and folders. Nothing is rescaled, resized or converted unasked."""

from __future__ import annotations

__all__ = ["from_arrays", "from_dataset", "from_folder"]

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import kind_of
from ..show import with_article
from ..warning import warn_caller
from .images import Images
from .scaling import Scaling


@check_arguments
def from_arrays(
    x: Any,
    labels: Any = None,
    *,
    label_names: Iterable[str] | None = None,
    group: Any = None,
    channels_last: bool = False,
    levels: int = 256,
) -> Images:
    """Make `Images` from numpy arrays, tensors, or paths of ``.npy`` files, which are read without pickle.

    Parameters
    ----------
    x
        ``(N, H, W)``, or ``(N, C, H, W)``; uint8. Its memory is shared where that is possible.
    labels
        ``(N,)`` integers from 0, or one-hot rows ``(N, K)``.
    label_names
        The names of the labels; by default the numbers themselves.
    group
        Integers ``(N,)``: images of one group stay together in a split.
    channels_last
        Whether a four-dimensional `x` is ``(N, H, W, C)``.
    levels
        Number of values that a byte can take.

    Raises
    ------
    TypeError, ValueError
        If the arrays are no images or labels: see `Images`.

    Examples
    --------
    >>> from_arrays(np.zeros((4, 16, 16, 3), np.uint8), np.eye(2)[[0, 1, 1, 0]], channels_last=True)
    Images(4 of 3×16×16, 2 classes)
    """
    images = _tensor(x)
    if images.ndim == 3:
        images = images[:, None]
    elif channels_last and images.ndim == 4:
        images = images.permute(0, 3, 1, 2)
    elif images.ndim == 4 and images.shape[1] == images.shape[2] > 4 and images.shape[3] in (1, 3, 4):
        C, H, W = images.shape[1:]
        warn_caller(
            f"these are images of {C} channels and {H}×{W} pixels; if the last axis is the channels, pass channels_last=True."
        )
    number = None if labels is None else _numbers(_tensor(labels))
    if label_names is None:
        label_names = [] if number is None else [str(k) for k in range(int(number.max()) + 1 if len(number) else 0)]
    return Images(
        images.contiguous(), number, tuple(label_names), None if group is None else _tensor(group).long(), levels
    )


@check_arguments
def from_dataset(dataset: Any, *, label_names: Iterable[str] | None = None, scaling: Scaling | None = None) -> Images:
    """Make `Images` from a map-style torch `Dataset`, which is read once, row by row.

    Parameters
    ----------
    dataset
        A data set of images or ``(image, label)`` pairs. An image is a tensor ``(H, W)`` or ``(C, H, W)``, or an array or PIL
        image ``(H, W)`` or ``(H, W, C)``; all have one shape.
    label_names
        The names of the labels; by default the numbers themselves.
    scaling
        The scaling that made rows of floating point, which is undone: ``Scaling(0, 1)`` for torchvision's `ToTensor`. None if
        rows are bytes.

    Raises
    ------
    TypeError, ValueError
        If the rows are no images of one shape.

    Examples
    --------
    >>> from torch.utils.data import TensorDataset
    >>> from_dataset(TensorDataset(torch.rand(5, 1, 4, 4), torch.arange(5)), scaling=Scaling(0, 1))
    Images(5 of 1×4×4, 5 classes)
    """
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise TypeError(
            f"{type(dataset).__name__} has no length or no rows to ask for; give a map-style dataset, or list(dataset)."
        )
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for i in range(len(dataset)):
        row = dataset[i]
        image, *label = row if isinstance(row, (tuple, list)) else (row,)
        if len(label) > 1:
            raise TypeError(f"row {i} has {1 + len(label)} values; expected an image, or an image and a label.")
        pixels = _pixels(image)
        if images and pixels.shape != images[0].shape:
            raise ValueError(
                f"row {i} has shape {tuple(pixels.shape)}, row 0 {tuple(images[0].shape)}; bring them to one size first."
            )
        if scaling is None and pixels.dtype != torch.uint8:
            raise TypeError(
                f"row {i} has dtype {pixels.dtype}; give bytes, or what they were scaled by: scaling=Scaling(0, 1)."
            )
        images.append(pixels if scaling is None else scaling.inverse(pixels))
        labels += [_tensor(value) for value in label]
    if not images:
        raise ValueError("the Dataset is empty; give at least one row.")
    return from_arrays(
        torch.stack(images),
        torch.stack(labels) if labels else None,
        label_names=label_names,
        levels=256 if scaling is None else scaling.levels,
    )


@check_arguments
def from_folder(path: str | Path, *, mode: str = "RGB", transform: Callable[[Any], Any] | None = None) -> Images:
    """Read images from a folder, and return them: with one subfolder per class, in alphabetical order, or without subfolders and
    labels.

    Files that are no images by their name, and hidden files, are passed over; photographs are turned as their camera was held.

    Parameters
    ----------
    path
        The folder. Subfolders are searched to any depth; of an animation the first frame is taken.
    mode
        What images are converted to: ``"L"`` (grey), ``"RGB"`` or ``"RGBA"``.
    transform
        Called with each PIL image before that: to crop or resize, or to lay it on a background.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no image in it or in one of its subfolders.
    ValueError
        If an image cannot be read, differs in size from the first, or would lose transparency or bits in conversion.
    """
    from PIL import Image  # loads on use

    if mode not in ("L", "RGB", "RGBA"):
        raise ValueError(f'mode = {mode!r}; choose "L", "RGB" or "RGBA".')
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; give the path of a folder with images.")
    known = Image.registered_extensions()

    def inside(folder: Path, pattern: str) -> list[Path]:
        files = (f for f in folder.glob(pattern) if f.is_file() and not f.name.startswith("."))
        return sorted(f for f in files if f.suffix.lower() in known)

    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    loose = inside(root, "*")
    if classes and loose:
        raise ValueError(f"{root} holds both subfolders and images ({loose[0].name}); move the images into a class.")
    rows: list[np.ndarray] = []
    labels = []
    for label, folder in enumerate(classes or [root]):
        files = inside(folder, "**/*")
        if not files:
            raise FileNotFoundError(f"{folder} holds no images; put image files there, or give another folder.")
        for file in files:
            row = _read_image(file, mode, transform)
            if rows and row.shape != rows[0].shape:
                size, first = ("×".join(map(str, r.shape[1::-1])) for r in (row, rows[0]))
                raise ValueError(f"{file} is {size}, the first image {first}; bring them to one size by transform.")
            rows.append(row)
            labels.append(label)
    return from_arrays(
        np.stack(rows),
        labels if classes else None,
        label_names=[folder.name for folder in classes],
        channels_last=True,
    )


def _read_image(file: Path, mode: str, transform: Callable[[Any], Any] | None) -> np.ndarray:
    from PIL import Image, ImageOps  # loads on use

    try:
        with Image.open(file) as opened:
            image: Any = ImageOps.exif_transpose(opened)  # as its camera was held; reads it whole
    except (OSError, SyntaxError) as error:  # PIL raises both for broken files
        raise ValueError(f"{file} cannot be read: {error}; replace or remove the file.") from error
    if transform is not None:
        image = transform(image)
    if image.mode[0] in "IF":
        raise ValueError(f"{file} has more than eight bits a channel (mode {image.mode}); convert it by transform.")
    if mode != "RGBA" and image.has_transparency_data and image.convert("RGBA").getextrema()[3][0] < 255:
        raise ValueError(f'{file} is transparent in part; take mode="RGBA", or lay it on a background by transform.')
    return np.asarray(image.convert(mode))


def _pixels(image: Any) -> Tensor:
    """Return one image ``(C, H, W)`` from a tensor, an array or a PIL image."""
    if isinstance(image, Tensor):
        return image[None] if image.ndim == 2 else image
    if getattr(image, "mode", "L") not in ("L", "RGB", "RGBA"):
        raise TypeError(f'an image has mode {image.mode}; convert it to "L", "RGB" or "RGBA" first.')
    array = _numeric(image, "an image").copy()
    if array.ndim not in (2, 3):
        raise ValueError(f"an image has shape {array.shape}; give (H, W) or (H, W, C).")
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def _numeric(value: Any, what: str) -> np.ndarray:
    """Return an array of numbers; refuse ragged lists, pictures of several sizes, words and objects."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(
            f"{what} is {with_article(type(value).__name__)} of parts of several shapes; bring them to one first."
        ) from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} holds {array.dtype}, which are no numbers; give an array or a tensor of numbers.")
    return array


def _tensor(x: Any) -> Tensor:
    """Return an array as a tensor, without a copy where numpy allows writing."""
    if isinstance(x, Tensor):
        return x
    if x is None or isinstance(x, type) or type(x) is object:
        raise TypeError(f"x {kind_of(x)}; give an array, a tensor, or the path of one.")
    if isinstance(x, (str, Path)) and not Path(x).is_file():
        raise FileNotFoundError(f"{x} is no file; give an array, a tensor, or the path of a .npy file.")
    held = np.load(x, allow_pickle=False) if isinstance(x, (str, Path)) else x
    if isinstance(held, np.lib.npyio.NpzFile):
        raise TypeError(
            f"an .npz file holds the arrays {', '.join(held.files)}; give one of them, numpy.load(path)[name]."
        )
    array = _numeric(held, "an argument")
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def _numbers(labels: Tensor) -> Tensor:
    """Return integer labels from integers or one-hot rows."""
    if labels.ndim == 0:
        raise ValueError("labels has shape (); give one for each image.")
    if labels.ndim == 2:
        if not (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} are not one-hot; give rows with a single 1, or class numbers."
            )
        return labels.to(torch.uint8).argmax(1)
    return labels if labels.is_floating_point() or labels.dtype == torch.bool else labels.long()
