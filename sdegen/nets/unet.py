"""The U-Net of diffusion models, on signals, images and volumes of any size."""

from __future__ import annotations

__all__ = ["UNet"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count, check_number
from ..conditions import Condition
from .blocks import Block, Norm
from .conditions import declare
from .entries import zero
from .spatial import (
    Features,
    autocast,
    channels_last,
    check_dims,
    check_grid,
    convolution,
    cut_to,
    halve,
    join_patches,
    pad_to_multiple,
    sides_of,
    split_patches,
)


class UNet(OfTensors, nn.Module):
    """A U-Net: residual blocks from fine to coarse and back, with a skip connection from each block to its counterpart on
    the way back.

    O. Ronneberger, P. Fischer, T. Brox, *U-Net: convolutional networks for biomedical image segmentation*, 2015,
    arXiv:1505.04597; with noise level and attention as by J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic
    models*, 2020, arXiv:2006.11239. States are signals ``(B, C, L)``, images ``(B, C, H, W)`` or volumes ``(B, C, D, H, W)``.
    Level `i` works on grids of ``1 / (patch 2^i)`` the size, halved by averages and doubled by repetition. Where a size cannot be
    halved as often, the last places of the states are repeated, and the output is cut to size.

    Inside, images and volumes are laid out channels-last, in which convolutions are fastest.

    Parameters
    ----------
    channels
        Channels of the states.
    widths
        Channels inside, one number a level; multiples of 32 are fastest.
    blocks
        Residual blocks of a level on each path.
    attention
        Levels whose blocks have attention; the block between the two paths has it in any case.
    heads
        Attention heads, a divisor of the widths of these levels and of the last.
    patch
        Side of the squares of pixels, or cubes of places, that become channels of one place at the start (space to depth): 2
        saves three quarters of the work on images.
    classes
        Number of classes of the keyword condition ``label``, 0 for none: short for ``{"label": Label(classes, dropout=None)}``.
    out_channels
        Channels returned, `channels` by default; twice as many for learned variances.
    dropout
        Probability that a hidden unit of a residual block is dropped in training.
    mixed
        Whether products are formed in bfloat16, three times as fast on CPUs with AMX (see ``benchmarks/train_speed.py``) and much
        slower on CPUs without AVX-512; weights and outputs keep their dtype.
    conditions
        What the network is conditioned on, by name (`conditions.Condition`), such as ``{"blurred": Fields(1)}``.
    dims
        Dimensions of the grid: 1 for signals, 2 for images, 3 for volumes.

    Raises
    ------
    ValueError
        If sizes are not positive, levels of `attention` are not among those of `widths`, `heads` does not divide, or `dims` is
        none of the three.

    Examples
    --------
    >>> net = UNet.small(channels=1, size=28, classes=10)
    >>> net(torch.randn(2, 1, 28, 28), torch.zeros(2), label=torch.tensor([3, -1])).shape
    torch.Size([2, 1, 28, 28])
    >>> UNet(3, (32, 64), dims=1)(torch.randn(2, 3, 50), torch.zeros(2)).shape
    torch.Size([2, 3, 50])
    """

    @check_arguments
    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (128, 128),
        blocks: int = 1,
        attention: Sequence[int] = (),
        heads: int = 2,
        patch: int = 1,
        classes: int = 0,
        out_channels: int | None = None,
        dropout: float = 0.0,
        mixed: bool = False,
        conditions: Mapping[str, Condition] | None = None,
        dims: int = 2,
    ) -> None:
        super().__init__()
        check_count("heads", heads), check_number("dropout", dropout, at_least=0, below=1)
        if out_channels is not None:
            check_count("out_channels", out_channels)
        if min(channels, blocks, patch, *widths) < 1 or classes < 0 or not widths:
            raise ValueError(
                f"channels = {channels}, widths = {tuple(widths)}, blocks = {blocks}, patch = {patch}, classes = {classes}: "
                "give positive sizes."
            )
        if not set(attention) <= set(range(len(widths))):
            raise ValueError(f"attention = {tuple(attention)}; the levels of widths run from 0 to {len(widths) - 1}.")
        self.channels, self.widths, self.blocks, self.attention = channels, tuple(widths), blocks, tuple(attention)
        self.heads, self.patch, self.classes, self.out_channels = heads, patch, classes, out_channels
        self.dropout, self.mixed, self.dims = dropout, mixed, check_dims(dims)
        features = 2 * widths[0]
        self.conditions = conditions
        self.condition = Features(features, declare(conditions, classes), dims)
        self.first = convolution(dims, (channels + self.condition.given.extra) * patch**dims, widths[0], 3)

        def path(inner: int, skip: int, level: int) -> nn.ModuleList:
            """Build the blocks of one level; each but the first has its width as input, and all see `skip` channels more."""
            width, n = widths[level], heads if level in attention else 0
            return nn.ModuleList(
                Block((width if i else inner) + skip, width, features, dropout, n, dims) for i in range(blocks)
            )

        levels = range(len(widths))
        self.down = nn.ModuleList(path(widths[max(i - 1, 0)], 0, i) for i in levels)
        self.middle = Block(widths[-1], widths[-1], features, dropout, heads, dims)
        self.up = nn.ModuleList(path(widths[min(i + 1, levels[-1])], widths[i], i) for i in levels)
        self.norm, self.act = Norm(widths[0]), nn.SiLU()
        out = channels if out_channels is None else out_channels
        self.last = convolution(dims, widths[0], out * patch**dims, 3)
        zero(self.last)

    @classmethod
    def small(
        cls,
        channels: int,
        size: int | tuple[int, ...],
        classes: int = 0,
        out_channels: int | None = None,
        mixed: bool = False,
        conditions: Mapping[str, Condition] | None = None,
    ) -> UNet:
        """Build a network of about 1.8 million parameters for images of side `size`, such as digits, or for states on a grid of
        sides `size`: ``(L,)``, ``(H, W)`` or ``(D, H, W)``. Patches have the side 2 if the shortest side is 16 or more.
        """
        sides = sides_of(size)
        patch = 2 if min(sides) >= 16 else 1
        return cls(
            channels,
            (96, 128),
            patch=patch,
            classes=classes,
            out_channels=out_channels,
            mixed=mixed,
            conditions=conditions,
            dims=len(sides),
        )

    @classmethod
    def large(
        cls,
        channels: int,
        size: int | tuple[int, ...],
        classes: int = 0,
        out_channels: int | None = None,
        mixed: bool = False,
        conditions: Mapping[str, Condition] | None = None,
    ) -> UNet:
        """Build a network of about 35 million parameters for images of side `size`, or for states on a grid of sides `size`:
        ``(L,)``, ``(H, W)`` or ``(D, H, W)``. Patches have the side 2 if the shortest side is 64 or more.
        """
        sides = sides_of(size)
        patch = 2 if min(sides) >= 64 else 1
        widths = (128, 256, 256, 384)
        return cls(channels, widths, 2, (1,), 4, patch, classes, out_channels, 0.1, mixed, conditions, len(sides))

    @property
    def declared(self) -> dict[str, Condition]:
        """The conditions that the network takes."""
        return self.condition.given.kinds

    def forward(self, x: Tensor, level: Tensor, **cond: Any) -> Tensor:
        """Map states `x` and the noise level ``(B,)``, or ``(1,)`` where all share it, to states ``(B, out_channels, *grid)``.

        Raises
        ------
        ValueError
            If `x` is not ``(B, channels, *grid)``, or conditions do not fit.
        """
        check_grid(x, self.channels, self.dims)
        e, seen = self.condition(level, x, cond)
        whole = pad_to_multiple(seen, self.patch * 2 ** (len(self.widths) - 1))
        with autocast(x, self.mixed):
            out = self._paths(split_patches(whole, self.patch), e).to(x.dtype)
        return cut_to(x, join_patches(out, self.patch))

    def _paths(self, h: Tensor, e: Tensor) -> Tensor:
        """Run the levels from fine to coarse and back, on a grid whose sides can be halved for every level but the first, and
        return the output on that grid.
        """
        h = channels_last(self.first(channels_last(h)))
        skips = []
        for i, path in enumerate(self.down):
            h = halve(h) if i else h
            for block in path.children():
                h = block(h, e)
                skips.append(h)
        h = self.middle(h, e)
        for i, path in reversed(list(enumerate(self.up))):
            for block in path.children():
                h = block(torch.cat([h, skips.pop()], 1), e)
            h = F.interpolate(h, scale_factor=2) if i else h
        return self.last(self.act(self.norm(h)))
