"""A diffusion transformer (DiT) on signals, images and volumes."""

from __future__ import annotations

__all__ = ["ConditionedLayer", "DiT"]

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count
from ..conditions import Condition
from .attention import SelfAttention
from .conditions import declare
from .embeddings import Sinusoidal
from .entries import zero
from .spatial import (
    Features,
    autocast,
    check_dims,
    check_grid,
    cut_to,
    from_tokens,
    join_patches,
    pad_to_multiple,
    sides_of,
    split_patches,
    to_tokens,
)


class ConditionedLayer(nn.Module):
    """A transformer layer with adaptive layer normalisation: the features `e` scale, shift and gate attention and
    feed-forward layer.

    Each of the two is ``h + gate(e) f((1 + scale(e)) norm(h) + shift(e))`` (adaLN-zero). The layer starts as the identity.
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


class DiT(OfTensors, nn.Module):
    """A diffusion transformer over the patches of a signal, an image or a volume, conditioned on noise level and label by
    adaptive layer normalisation.

    W. Peebles and S. Xie, *Scalable diffusion models with transformers*, 2022, arXiv:2212.09748. Positions are fixed sines
    and cosines along each dimension of the grid, so states may be of any size. Where patches do not tile a state, its last places
    are repeated, and the output is cut to size.

    Parameters
    ----------
    channels
        Channels of the states.
    patch
        Side of a patch, each of which is a token.
    width, depth, heads
        Features of a token (at least two for each dimension), layers, attention heads.
    classes
        Number of classes of the keyword condition ``label``, 0 for none: short for ``{"label": Label(classes, dropout=None)}``.
    out_channels
        Channels returned, `channels` by default; twice as many for learned variances.
    mixed
        Whether products are formed in bfloat16; weights and outputs keep their dtype.
    conditions
        What the network is conditioned on, by name (`conditions.Condition`), such as ``{"blurred": Fields(1)}``.
    dims
        Dimensions of the grid: 1 for signals, 2 for images, 3 for volumes.

    Raises
    ------
    ValueError
        If sizes are not positive, `width` is less than ``2 dims``, `heads` does not divide it, or `dims` is none of the three.

    Examples
    --------
    >>> net = DiT.small(channels=1, size=28, classes=10)
    >>> net(torch.randn(2, 1, 28, 28), torch.zeros(2), label=torch.tensor([3, -1])).shape
    torch.Size([2, 1, 28, 28])
    >>> DiT(3, patch=4, dims=1)(torch.randn(2, 3, 50), torch.zeros(2)).shape
    torch.Size([2, 3, 50])
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
        dims: int = 2,
    ) -> None:
        super().__init__()
        if out_channels is not None:
            check_count("out_channels", out_channels)
        if min(channels, patch, depth) < 1 or width < 2 * check_dims(dims) or classes < 0:
            raise ValueError(
                f"channels = {channels}, patch = {patch}, width = {width}, depth = {depth}, classes = {classes}: give "
                f"positive sizes, and a width of at least {2 * dims}."
            )
        self.channels, self.patch, self.width, self.depth, self.heads = channels, patch, width, depth, heads
        self.classes, self.out_channels, self.mixed = classes, out_channels, mixed
        self.conditions, self.dims = conditions, dims
        self.condition = Features(width, declare(conditions, classes), dims)
        self.first = nn.Linear((channels + self.condition.given.extra) * patch**dims, width)
        self.place = Sinusoidal(2 * (width // (2 * dims)), slowest=1e-2 * math.pi, fastest=math.pi / 2)
        self.layers = nn.ModuleList(ConditionedLayer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        out = channels if out_channels is None else out_channels
        self.last = nn.Linear(width, out * patch**dims)
        zero(self.modulate)
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
    ) -> DiT:
        """Build a network of about 1.9 million parameters for images of side `size`, or for states on a grid of sides `size`:
        ``(L,)``, ``(H, W)`` or ``(D, H, W)``. The side of patches is 4 or 2 if these tile the grid, four or more a side, else 1.
        """
        sides = sides_of(size)
        patch = next((p for p in (4, 2) if all(n % p == 0 and n >= 4 * p for n in sides)), 1)
        return cls(
            channels,
            patch,
            classes=classes,
            out_channels=out_channels,
            mixed=mixed,
            conditions=conditions,
            dims=len(sides),
        )

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
        e = e[:, None]
        with autocast(x, self.mixed):
            patches = split_patches(pad_to_multiple(seen, self.patch), self.patch)
            h = self.first(to_tokens(patches)) + self._positions(patches)
            for layer in self.layers:
                h = layer(h, e)
            shift, scale = self.modulate(e).chunk(2, -1)
            out = self.last(torch.addcmul(shift, self.norm(h), 1 + scale))
        return cut_to(x, join_patches(from_tokens(out.to(x.dtype), patches), self.patch))

    def _positions(self, patches: Tensor) -> Tensor:
        """Return the embedding of the positions of all patches ``(B, C, *grid)``, ``(tokens, width)``: an equal share of the
        features for each dimension of the grid, and 0 in those that are left over.
        """
        grid = patches.shape[2:]
        along = [self.place(torch.arange(n, device=patches.device)).to(patches.dtype) for n in grid]
        over = [f.reshape(*[1] * i, -1, *[1] * (self.dims - 1 - i), self.place.dim) for i, f in enumerate(along)]
        embedded = torch.cat(torch.broadcast_tensors(*over), -1).flatten(0, -2)
        return F.pad(embedded, (0, self.width - embedded.shape[1]))
