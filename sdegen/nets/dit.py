"""A diffusion transformer (DiT) on images."""

from __future__ import annotations

__all__ = ["ConditionedLayer", "DiT"]

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count
from ..conditions import Condition
from .attention import SelfAttention
from .conditions import declare
from .embeddings import Sinusoidal
from .images import Features, check_images, places, products, tokens, zero


class ConditionedLayer(nn.Module):
    """A transformer layer with adaptive layer normalisation: the features `e` scale, shift and gate attention and
    feed-forward layer.

    ``h + gate(e) f((1 + scale(e)) norm(h) + shift(e))`` for each of the two (adaLN-zero). Starts as the identity.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 6 * width)
        zero(self.modulate)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Map tokens ``(B, n, width)`` and features ``(B, 1, width)`` or ``(1, 1, width)`` to tokens of the same shape."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulate(e).chunk(6, -1)
        h = torch.addcmul(h, gate_1, self.attention(torch.addcmul(shift_1, self.norm(h), 1 + scale_1)))
        return torch.addcmul(h, gate_2, self.feed(torch.addcmul(shift_2, self.norm(h), 1 + scale_2)))


class DiT(nn.Module):
    """A diffusion transformer over the patches of an image, conditioned on noise level and label by adaptive layer normalisation.

    W. Peebles and S. Xie, *Scalable diffusion models with transformers*, 2022, arXiv:2212.09748. Positions are fixed sines
    and cosines of row and column, so images may be of any size that patches tile.

    Parameters
    ----------
    channels
        Channels of the images.
    patch
        Side of a patch, one token each.
    width, depth, heads
        Features of a token (a multiple of 4), layers, attention heads.
    classes
        Number of classes of the keyword condition ``label``, 0 for none: short for ``{"label": Label(classes, dropout=None)}``.
    out_channels
        Channels returned, `channels` by default; twice as many for learned variances.
    mixed
        Form products in bfloat16; weights, and what is returned, stay as they are.
    conditions
        What the network is conditioned on, by name (`conditions.Condition`), such as ``{"blurred": Fields(1)}``.

    Raises
    ------
    ValueError
        If sizes are not positive, `width` is no multiple of 4, or `heads` does not divide it.

    Examples
    --------
    >>> net = DiT.small(channels=1, size=28, classes=10)
    >>> net(torch.randn(2, 1, 28, 28), torch.zeros(2), label=torch.tensor([3, -1])).shape
    torch.Size([2, 1, 28, 28])
    """

    @check_arguments
    def __init__(
        self,
        channels: int,
        patch: int = 2,
        width: int = 128,
        depth: int = 6,
        heads: int = 2,
        classes: int = 0,
        out_channels: int | None = None,
        mixed: bool = False,
        conditions: Mapping[str, Condition] | None = None,
    ) -> None:
        super().__init__()
        if out_channels is not None:
            check_count("out_channels", out_channels)
        if min(channels, patch, width, depth) < 1 or width % 4 or classes < 0:
            raise ValueError(
                f"channels = {channels}, patch = {patch}, width = {width}, depth = {depth}, classes = {classes}: give "
                "positive sizes, and a width that 4 divides."
            )
        self.channels, self.patch, self.width, self.depth, self.heads = channels, patch, width, depth, heads
        self.classes, self.out_channels, self.mixed = classes, out_channels, mixed
        self.conditions = conditions
        self.condition = Features(width, declare(conditions, classes))
        self.first = nn.Linear((channels + self.condition.given.extra) * patch**2, width)
        self.place = Sinusoidal(width // 2, slowest=1e-2 * math.pi, fastest=math.pi / 2)
        self.layers = nn.ModuleList(ConditionedLayer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        out = channels if out_channels is None else out_channels
        self.last = nn.Linear(width, out * patch**2)
        zero(self.modulate)
        zero(self.last)

    @classmethod
    def small(
        cls,
        channels: int,
        size: int,
        classes: int = 0,
        out_channels: int | None = None,
        mixed: bool = False,
        conditions: Mapping[str, Condition] | None = None,
    ) -> DiT:
        """Build a network of about 1.9 million parameters for images of side `size`; at most 64 tokens where patches of 4
        tile them.
        """
        patch = next(p for p in (4, 2, 1) if size % p == 0 and size >= 4 * p)
        return cls(channels, patch, classes=classes, out_channels=out_channels, mixed=mixed, conditions=conditions)

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
            If `x` is not ``(B, channels, H, W)``, patches do not tile it, or conditions do not fit.
        """
        check_images(x, self.channels)
        if x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; patch = {self.patch} must divide height and width. Pad the images, or "
                "construct the network with another patch."
            )
        e, seen = self.condition(level, x, cond)
        e = e[:, None]
        with products(x, self.mixed):
            patches = F.pixel_unshuffle(seen, self.patch)
            h = self.first(tokens(patches)) + self._places(patches)
            for layer in self.layers:
                h = layer(h, e)
            shift, scale = self.modulate(e).chunk(2, -1)
            out = self.last(torch.addcmul(shift, self.norm(h), 1 + scale))
        return F.pixel_shuffle(places(out.to(x.dtype), patches), self.patch).contiguous()

    def _places(self, patches: Tensor) -> Tensor:
        """Return features ``(H W, width)`` of the places of an image ``(B, C, H, W)``."""
        rows, columns = (
            self.place(torch.arange(n, device=patches.device)).to(patches.dtype) for n in patches.shape[2:]
        )
        grid = torch.broadcast_tensors(rows[:, None], columns[None])
        return torch.cat(grid, 2).flatten(0, 1)
