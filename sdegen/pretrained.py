"""Image models that come with the library, ready to sample."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

import torch

from .checkpoints import load

NAMES = {"mnist": "mnist-unet-v1", "fashion_mnist": "fashion-mnist-unet-v1", "sprites": "sprites-unet-v1"}


def pretrained(name: str) -> Any:
    """A shipped model, in float32 and evaluation mode.

    A DDPM of 1,000 linear betas with a U-Net of 1.8 million parameters, conditional on ``label``, which may be left out; its
    samples are numbers in [−1, 1], bytes by ``sdegen.data.Scaling(-1, 1).inverse(x, clip=True)``. Weights are kept in half
    precision.

    | name | images | trained by `benchmarks.train_images` on |
    |---|---|---|
    | `mnist` | (1, 28, 28) | MNIST, 60,000 images |
    | `fashion_mnist` | (1, 28, 28) | Fashion-MNIST, 60,000 images |
    | `sprites` | (3, 16, 16) | DawnLike sprites, the training part of fold 0 |

    Their cards, with the command, its cost and their FIDs, are in ``sdegen/weights/README.md``.

    Parameters
    ----------
    name
        One of these.

    Raises
    ------
    ValueError
        If there is no such model.

    Examples
    --------
    >>> import sdegen
    >>> model = sdegen.pretrained("fashion_mnist")
    >>> sdegen.sample(model, 2, steps=5, seed=0, label=torch.tensor([3, 8])).shape
    torch.Size([2, 1, 28, 28])
    """
    if name not in NAMES:
        raise ValueError(f"there is no shipped model {name!r}; the library ships {', '.join(NAMES)}.")
    with as_file(files("sdegen") / "weights" / f"{NAMES[name]}.safetensors") as path:
        return load(path, dtype=torch.float32)
