"""Common parts of the networks on grids, signals ``(B, C, L)``, images ``(B, C, H, W)`` and volumes ``(B, C, D, H, W)``:
convolutions, patches, padding, memory layout, features of noise level and conditions.
"""

from __future__ import annotations

__all__ = [
    "Features",
    "VolumeConvolution",
    "channels_last",
    "check_dims",
    "check_grid",
    "convolution",
    "cut_to",
    "halve",
    "join_patches",
    "pad_to_multiple",
    "from_tokens",
    "autocast",
    "sides_of",
    "split_patches",
    "to_tokens",
]

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_count
from ..conditions import Condition
from .conditioning import Conditioning
from .embeddings import Sinusoidal


class VolumeConvolution(nn.Conv3d):
    """A convolution of volumes whose weights have the right gradient in bfloat16 too.

    On CPUs torch (2.13) computes the gradient for volumes of depth 2 from memory that it never wrote. Where such volumes are
    padded before the convolution, and not by it, they have depth 4 and the gradient is right.
    """

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(B, inner, D, H, W)`` to ``(B, outer, D, H, W)``."""
        depth, *others = (side // 2 for side in self.kernel_size)
        if h.shape[2] != 2 or not depth:
            return super().forward(h)
        return F.conv3d(F.pad(h, (0, 0, 0, 0, depth, depth)), self.weight, self.bias, padding=(0, *others))


# Entry ``dims - 1`` is that of a grid of `dims` dimensions.
GRIDS = ("signals (B, {}, L)", "images (B, {}, H, W)", "volumes (B, {}, D, H, W)")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, VolumeConvolution)
POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


class Features(nn.Module):
    """The features that modulate a network on a grid: the sum of an embedding of the noise level and embeddings of the
    conditions. Conditions on the grid itself become channels of the states instead.

    Parameters
    ----------
    features
        The number of features.
    kinds
        The conditions by name.
    dims
        Dimensions of the grid.
    """

    def __init__(self, features: int, kinds: Mapping[str, Condition], dims: int) -> None:
        super().__init__()
        self.embedding = Sinusoidal()
        self.level = nn.Sequential(nn.Linear(self.embedding.dim, features), nn.SiLU(), nn.Linear(features, features))
        self.given = Conditioning(kinds, features, dims)
        self.act = nn.SiLU()

    def forward(self, level: Tensor, x: Tensor, cond: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Return features ``(n, features)`` of levels ``(n,)`` and conditions, in the dtype of the `n` states `x`, or ``(1,
        features)`` where all share both; and the states with the channels of conditions.
        """
        e, x = self.given(self.level(self.embedding(level).to(x.dtype)), x, cond)
        return self.act(e), x


def check_dims(dims: int) -> int:
    """Return the number of dimensions of a grid: 1, 2 or 3.

    Raises
    ------
    ValueError
        If `dims` is another number.
    """
    if not 1 <= dims <= len(GRIDS):
        raise ValueError(f"dims = {dims}; give 1 for signals, 2 for images or 3 for volumes.")
    return dims


def sides_of(size: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the sides of a grid, as many as it has dimensions.

    Parameters
    ----------
    size
        The sides, or the side of square images.

    Raises
    ------
    ValueError
        If `size` is neither a positive whole number nor a tuple of one to three.
    """
    if not isinstance(size, (tuple, list)):
        return (check_count("size", size, hint=", or a tuple: (L,), (H, W) or (D, H, W)"),) * 2
    if not 1 <= len(size) <= len(GRIDS):
        raise ValueError(f"size = {tuple(size)}; give the side of images, or (L,), (H, W) or (D, H, W).")
    return tuple(check_count("size", side) for side in size)


def check_grid(x: Tensor, channels: int, dims: int) -> None:
    """Refuse anything but a batch of states with the given number of channels, on a grid of the given number of dimensions.

    Raises
    ------
    ValueError
        If `x` is not ``(B, channels, *grid)``.
    """
    if x.ndim != 2 + dims or x.shape[1] != channels:
        raise ValueError(f"x has shape {tuple(x.shape)}; the network takes {GRIDS[dims - 1].format(channels)}.")


def convolution(dims: int, inner: int, outer: int, side: int, bias: bool = True) -> nn.Module:
    """Return a convolution with a kernel of an odd `side`, from `inner` to `outer` channels, that keeps the size of a grid."""
    return CONVOLUTIONS[dims - 1](inner, outer, side, padding=side // 2, bias=bias)


def halve(h: Tensor) -> Tensor:
    """Return the means over cubes of side 2, ``(B, C, *grid)`` to ``(B, C, *grid / 2)``."""
    return POOLS[h.ndim - 3](h, 2)


def split_patches(x: Tensor, side: int) -> Tensor:
    """Return states with every patch as one place of more channels (space to depth), ``(B, C side^dims, *grid / side)``, laid out
    channels-last.

    Parameters
    ----------
    x
        States ``(B, C, *grid)`` of sides that `side` divides.
    side
        The side of a patch.
    """
    dims = x.ndim - 2
    cut = x.reshape(*x.shape[:2], *(n for size in x.shape[2:] for n in (size // side, side)))
    grid, inside = range(2, cut.ndim, 2), range(3, cut.ndim, 2)
    return cut.permute(0, *grid, 1, *inside).flatten(1 + dims).movedim(-1, 1)


def join_patches(h: Tensor, side: int) -> Tensor:
    """Return states whose places become patches again (depth to space), ``(B, C, *grid)``; the inverse of `split_patches`."""
    dims = h.ndim - 2
    cut = h.unflatten(1, (-1, *[side] * dims))  # (B, C, side, ..., side, *grid / side)
    order = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]
    return cut.permute(0, 1, *order).reshape(*cut.shape[:2], *(n * side for n in h.shape[2:]))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad states ``(B, C, *grid)``, by repeating their last places, until all sides are multiples of a number; return them."""
    more = [v for n in reversed(x.shape[2:]) for v in (0, -n % multiple)]
    return F.pad(x, more, mode="replicate") if any(more) else x


def cut_to(x: Tensor, padded: Tensor) -> Tensor:
    """Return padded states cut to the grid of `x`, in one piece of memory."""
    grid = [slice(n) for n in x.shape[2:]]
    return padded[:, :, *grid].contiguous()


def channels_last(h: Tensor) -> Tensor:
    """Lay images or volumes ``(B, C, *grid)`` out in the channels-last memory format, in which their convolutions are fastest,
    and return them; signals, whose convolutions are not, stay as they are.
    """
    return h if h.ndim < 4 else h.movedim(1, -1).contiguous().movedim(-1, 1)  # vmap knows no `memory_format=`


def to_tokens(h: Tensor) -> Tensor:
    """Return states ``(B, C, *grid)`` as tokens ``(B, places, C)``, without a copy in the channels-last layout."""
    return h.flatten(2).mT


def from_tokens(tokens: Tensor, like: Tensor) -> Tensor:
    """Return tokens as states on the grid of `like`, ``(B, C, *grid)``; the inverse of `to_tokens`."""
    return tokens.mT.unflatten(2, like.shape[2:])


def autocast(x: Tensor, mixed: bool) -> AbstractContextManager:
    """Return a context in which matrix products run in bfloat16 if `mixed`, else in the inputs' own precision."""
    return torch.autocast(x.device.type, torch.bfloat16) if mixed else nullcontext()
