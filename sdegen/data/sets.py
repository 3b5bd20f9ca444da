"""Published sets of images: MNIST, Fashion-MNIST, sprites, and the digits that come with scikit-learn."""

from __future__ import annotations

__all__ = ["digits", "fashion_mnist", "mnist", "sprites", "sprites_held_out"]

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_arguments
from .files import File, import_optional
from .images import Images, Split
from .readers import from_arrays

# md5 of each file as published, and of its decompressed bytes
_MNIST = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}
_MNIST_MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
_FASHION = {
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
}
_FASHION_MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
_FASHION_NAMES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_SPRITES = File("sprites16/sprites16.npz", "9e2abc760e547ad5291ddde19fe2c7d8")
_FOLDS = 5  # random splits of the sprites


def mnist() -> Split:
    """Load MNIST, handwritten digits, 28×28 in one channel, with the official split of 60,000 for training and 10,000 for
    testing.

    It is read from ``$SDEGEN_DATA/mnist``, or else downloaded once (needs pooch). Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0.
    ``mnist().train.split(0.8, seed=0)`` splits the 60,000 anew, ``mnist().joined().split(0.8, seed=0)`` all of them.

    Returns
    -------
    Split
        `train` and `test`, labels 0 … 9.

    Raises
    ------
    FileNotFoundError, ImportError, ConnectionError, ValueError
        If a file is missing and cannot be downloaded, or is damaged: see `File.read`.
    """
    return _idx("mnist", _MNIST, _MNIST_MIRRORS, tuple("0123456789"))


def fashion_mnist() -> Split:
    """Load Fashion-MNIST, articles of clothing, 28×28 in one channel, with the official split of 60,000 for training and
    10,000 for testing.

    It is read from ``$SDEGEN_DATA/fashion_mnist``, or else downloaded once (needs pooch). H. Xiao, K. Rasul, R. Vollgraf, 2017,
    arXiv:1708.07747; Zalando SE, MIT licence. What is returned and raised is as for `mnist`.
    """
    return _idx("fashion_mnist", _FASHION, _FASHION_MIRRORS, _FASHION_NAMES)


@check_arguments
def sprites(fold: int = 0, *, images: Any = None, labels: Any = None) -> Split:
    """Load sprites of a video game, 16×16 in three channels on white, in one of five random 80/20 splits.

    The sprites come with the package; a copy in ``$SDEGEN_DATA/sprites16`` is read instead. 2,891 tiles in five classes of
    very different size. The frames of one sprite are a group, and whole groups are split. 309 tiles more are set apart:
    `sprites_held_out`. DawnLike 1.81 by DragonDePlatino, CC BY 4.0; credit DawnBringer for the palette.

    Parameters
    ----------
    fold
        0 … 4, the seed of the split. The test parts of two folds overlap: folds are repetitions, and no partition.
    images, labels
        A pair of your own instead, arrays or paths of ``.npy`` files: ``(N, 16, 16, 3)`` uint8 and integers ``(N,)`` or
        one-hot rows ``(N, K)``. Tiles that are equal byte by byte are then a group.

    Raises
    ------
    FileNotFoundError, ValueError
        If SDEGEN_DATA does not name a folder, or the file is damaged: see `File.read`; or `fold` is not one of these, or the pair
        is not of that form.
    TypeError
        If a pair has another dtype, or half of it is missing.
    """
    if fold not in range(_FOLDS):
        raise ValueError(f"fold = {fold}; choose one of 0 … {_FOLDS - 1}.")
    if (images is None) != (labels is None):
        raise TypeError("images and labels go together; give both, or neither.")
    if images is None:
        tiles, held_out = _sprites()
        return tiles[~held_out].split(0.8, seed=fold)
    tiles = from_arrays(images, labels, channels_last=True)
    if tiles.x.shape[1:] != (3, 16, 16):
        raise ValueError(f"images become {tiles!r}; expected sprites (N, 16, 16, 3).")
    seen: dict[bytes, int] = {}
    group = [seen.setdefault(tile.tobytes(), len(seen)) for tile in tiles.x.numpy()]
    return from_arrays(tiles.x, tiles.labels, group=group).split(0.8, seed=fold)


def sprites_held_out() -> Images:
    """Load the 309 sprites that belong to no fold: a final test set, to be used once.

    They share no group with the others. Choose settings, a time to stop and a model on the folds of `sprites`. Errors are those
    of `sprites`.
    """
    tiles, held_out = _sprites()
    return tiles[held_out]


def digits() -> Images:
    """Load the 1,797 digits that come with scikit-learn, 8×8 in one channel, with 17 levels, 0 … 16; nothing is
    downloaded.

    There is no official split: ``digits().split(0.8, seed=0)``. Part of *Optical recognition of handwritten digits*,
    E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998; CC BY 4.0.

    Raises
    ------
    ImportError
        If scikit-learn is missing.
    """
    found = import_optional("sklearn.datasets", "scikit-learn", "loading its digits").load_digits()
    return from_arrays(found.images.astype(np.uint8), found.target, levels=17)


def _idx(folder: str, sums: dict[str, tuple[str, str]], mirrors: tuple[str, ...], names: tuple[str, ...]) -> Split:
    """Load the official split of a set in the IDX files of MNIST, ``{folder}/{name}.gz``, by their checksums."""

    def array(name: str) -> np.ndarray:
        content = File(f"{folder}/{name}.gz", *sums[name], mirrors).read()
        # IDX: two zeros, the type (8: bytes), the number of dimensions; the length of each, big-endian; the bytes
        shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)

    def part(name: str) -> Images:
        return from_arrays(array(f"{name}-images-idx3-ubyte"), array(f"{name}-labels-idx1-ubyte"), label_names=names)

    return Split(part("train"), part("t10k"))


def _sprites() -> tuple[Images, Tensor]:
    """Load all sprites, and which of them are held out, ``(N,)``."""
    with np.load(io.BytesIO(_SPRITES.read()), allow_pickle=False) as file:
        tiles = from_arrays(
            file["images"],
            file["labels"],
            label_names=[str(name) for name in file["label_names"]],
            group=file["group"],
            channels_last=True,
        )
        return tiles, torch.from_numpy(file["is_test"])
