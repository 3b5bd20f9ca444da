"""The U-Net of diffusion models, on images of any size."""

from __future__ import annotations

__all__ = ["UNet", "shortest"]

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..conditions import Condition
from .blocks import Block, Norm
from .conditions import declare
from .images import Features, channels_last, check_images, pad_to_multiple, products, zero


class UNet(nn.Module):
    """A U-Net: residual blocks from fine to coarse and back, with a skip connection from each block to its counterpart on
    the way back.

    O. Ronneberger, P. Fischer, T. Brox, *U-Net: convolutional networks for biomedical image segmentation*, 2015,
    arXiv:1505.04597; with noise level and attention as by J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic
    models*, 2020, arXiv:2006.11239. Level `i` works on images of ``1 / (patch 2^i)`` the size, halved by averages and doubled
    by repetition. Images of other sizes are continued by their last rows and columns, and what comes back is cut to size.

    Inside, images are laid out channels-last, in which convolutions are fastest.

    Parameters
    ----------
    channels
        Channels of the images.
    widths
        Channels inside, one number a level; multiples of 32 are fastest.
    blocks
        Residual blocks of a level on each path.
    attention
        Levels whose blocks attend; there is one such block between the paths in any case.
    heads
        Attention heads, a divisor of the widths of those levels.
    patch
        Side of the squares of pixels that become channels of one place at the start (space to depth): 2 saves three
        quarters of the work.
    classes
        Number of classes of the keyword condition ``label``, 0 for none: short for ``{"label": Label(classes, dropout=None)}``.
    out_channels
        Channels returned, `channels` by default; twice as many for learned variances.
    dropout
        Probability that a hidden unit of a residual block is dropped in training.
    mixed
        Form products in bfloat16, three times as fast on CPUs with AMX (see ``benchmarks/train_speed.py``) and much slower
        on those without AVX-512; weights, and what is returned, stay as they are.
    conditions
        What the network is conditioned on, by name (`conditions.Condition`), such as ``{"blurred": Fields(1)}``.

    Raises
    ------
    ValueError
        If sizes are not positive, levels of `attention` are not among those of `widths`, or `heads` does not divide.

    Examples
    --------
    >>> net = UNet.small(channels=1, size=28, classes=10)
    >>> net(torch.randn(2, 1, 28, 28), torch.zeros(2), label=torch.tensor([3, -1])).shape
    torch.Size([2, 1, 28, 28])
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
        self.dropout, self.mixed = dropout, mixed
        features = 2 * widths[0]
        self.conditions = conditions
        self.condition = Features(features, declare(conditions, classes))
        self.first = nn.Conv2d((channels + self.condition.given.extra) * patch**2, widths[0], 3, padding=1)

        def path(inner: int, skip: int, level: int) -> nn.ModuleList:
            """Build the blocks of one level; each but the first has its width as input, and all see `skip` channels more."""
            width, n = widths[level], heads if level in attention else 0
            return nn.ModuleList(
                Block((width if i else inner) + skip, width, features, dropout, n) for i in range(blocks)
            )

        levels = range(len(widths))
        self.down = nn.ModuleList(path(widths[max(i - 1, 0)], 0, i) for i in levels)
        self.middle = Block(widths[-1], widths[-1], features, dropout, heads)
        self.up = nn.ModuleList(path(widths[min(i + 1, levels[-1])], widths[i], i) for i in levels)
        self.norm, self.act = Norm(widths[0]), nn.SiLU()
        out = channels if out_channels is None else out_channels
        self.last = nn.Conv2d(widths[0], out * patch**2, 3, padding=1)
        zero(self.last)

    @classmethod
    def small(
        cls,
        channels: int,
        size: int | tuple[int, int],
        classes: int = 0,
        out_channels: int | None = None,
        mixed: bool = False,
        conditions: Mapping[str, Condition] | None = None,
    ) -> UNet:
        """Build a network of about 1.8 million parameters for images of side `size`, or height and width, such as digits; in
        patches of 2 from 16 on.
        """
        patch = 2 if shortest(size) >= 16 else 1
        return cls(
            channels,
            (96, 128),
            patch=patch,
            classes=classes,
            out_channels=out_channels,
            mixed=mixed,
            conditions=conditions,
        )

    @classmethod
    def large(
        cls,
        channels: int,
        size: int | tuple[int, int],
        classes: int = 0,
        out_channels: int | None = None,
        mixed: bool = False,
        conditions: Mapping[str, Condition] | None = None,
    ) -> UNet:
        """Build a network of about 35 million parameters for images of side `size`, or height and width; in patches of 2 from
        64 on.
        """
        patch = 2 if shortest(size) >= 64 else 1
        widths = (128, 256, 256, 384)
        return cls(channels, widths, 2, (1,), 4, patch, classes, out_channels, 0.1, mixed, conditions)

    @property
    def declared(self) -> dict[str, Condition]:
        """The conditions that the network takes."""
        return self.condition.given.kinds

    def forward(self, x: Tensor, level: Tensor, **cond: Any) -> Tensor:
        """Map images `x` and the noise level ``(B,)``, or ``(1,)`` where all share it, to images ``(B, out_channels, H,
        W)``.

        Raises
        ------
        ValueError
            If `x` is not ``(B, channels, H, W)``, or conditions do not fit.
        """
        check_images(x, self.channels)
        e, seen = self.condition(level, x, cond)
        whole = pad_to_multiple(seen, self.patch * 2 ** (len(self.widths) - 1))
        with products(x, self.mixed):
            out = self._paths(F.pixel_unshuffle(whole, self.patch), e).to(x.dtype)
        return F.pixel_shuffle(out, self.patch)[:, :, : x.shape[2], : x.shape[3]].contiguous()

    def _paths(self, h: Tensor, e: Tensor) -> Tensor:
        """Run the levels down and up again, at sizes that every level halves without rest."""
        h = channels_last(self.first(channels_last(h)))
        seen = []
        for i, path in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if i else h
            for block in path.children():
                h = block(h, e)
                seen.append(h)
        h = self.middle(h, e)
        for i, path in reversed(list(enumerate(self.up))):
            for block in path.children():
                h = block(torch.cat([h, seen.pop()], 1), e)
            h = F.interpolate(h, scale_factor=2) if i else h
        return self.last(self.act(self.norm(h)))


def shortest(size: int | tuple[int, int]) -> int:
    """Return the shortest side of images.

    Parameters
    ----------
    size
        Their side, or height and width.

    Raises
    ------
    ValueError
        If it is neither one positive whole number nor two.
    """
    if not isinstance(size, (tuple, list)):
        return check_count("size", size, hint=", or two: (height, width)")
    if len(size) != 2:
        raise ValueError(f"size = {tuple(size)}; give the side of images, or two: (height, width).")
    return min(check_count("size", side) for side in size)
