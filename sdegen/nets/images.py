"""Parts that networks on images ``(B, C, H, W)`` share: padding, memory layout, features of noise level and conditions."""

from __future__ import annotations

__all__ = ["Features", "channels_last", "check_images", "pad_to_multiple", "places", "products", "tokens", "zero"]

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conditions import Condition
from .embeddings import Sinusoidal
from .entries import Conditioning


class Features(nn.Module):
    """The sum of an embedding of the noise level and those of the conditions; those on the grid become channels of the images.

    Parameters
    ----------
    features
        The number of features.
    kinds
        The conditions by name.
    """

    def __init__(self, features: int, kinds: Mapping[str, Condition]) -> None:
        super().__init__()
        self.embedding = Sinusoidal()
        self.level = nn.Sequential(nn.Linear(self.embedding.dim, features), nn.SiLU(), nn.Linear(features, features))
        self.given = Conditioning(kinds, features, sides=2)
        self.act = nn.SiLU()

    def forward(self, level: Tensor, x: Tensor, cond: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return features ``(n, features)`` of levels ``(n,)`` and conditions, in the dtype of the `n` images `x`, or ``(1,
        features)`` where all share both; and the images with the channels of conditions.
        """
        e, x = self.given(self.level(self.embedding(level).to(x.dtype)), x, cond)
        return self.act(e), x


def check_images(x: Tensor, channels: int) -> None:
    """Refuse anything but a batch of images with the given number of channels.

    Raises
    ------
    ValueError
        If `x` is not ``(B, channels, H, W)``.
    """
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"x has shape {tuple(x.shape)}; the network takes images (B, {channels}, H, W).")


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad images, by repeating their last rows and columns, until both sizes are multiples of a number."""
    bottom, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def channels_last(h: Tensor) -> Tensor:
    """Lay an image ``(B, C, H, W)`` out in the channels-last memory format, in which convolutions are fastest."""
    return h.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # `contiguous(memory_format=...)` is not for vmap


def tokens(h: Tensor) -> Tensor:
    """Return an image ``(B, C, H, W)`` as tokens ``(B, H W, C)``, without a copy in the channels-last layout."""
    return h.flatten(2).mT


def places(tokens: Tensor, like: Tensor) -> Tensor:
    """Return tokens as an image of the shape of `like`, ``(B, C, H, W)``; the inverse of `tokens`."""
    return tokens.mT.unflatten(2, like.shape[2:])


def products(x: Tensor, mixed: bool) -> AbstractContextManager:
    """Return a context in which matrix products run in bfloat16 if `mixed`, else in the inputs' own precision."""
    return torch.autocast(x.device.type, torch.bfloat16) if mixed else nullcontext()


def zero(layer: nn.Module) -> None:
    """Set weights and biases of a layer to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
