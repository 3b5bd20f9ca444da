"""A small transformer over the coordinates of a state, one token each."""

from __future__ import annotations

__all__ = ["AttentionLayer", "CoordinateTransformer"]

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..conditions import Condition
from .attention import attend_by_formula
from .conditioning import Conditioning
from .conditions import declare
from .embeddings import Sinusoidal
from .entries import zero
from .mlp import flatten_states, reshape_output


class AttentionLayer(nn.Module):
    """A pre-norm transformer layer: self-attention and a feed-forward layer, each with a residual connection.

    Attention is always computed by its formula: with a token for each coordinate it is small, and fused kernels would save
    little.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, h: Tensor) -> Tensor:
        """Map tokens ``(B, tokens, width)`` to the same shape."""
        B, n, width = h.shape
        q, k, v = self.qkv(self.norm_1(h)).reshape(B, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attention = attend_by_formula(q, k, v)  # (B, heads, tokens, width / heads)
        h = h + self.join(attention.transpose(1, 2).reshape(B, n, width))
        return h + self.feed(self.norm_2(h))


class CoordinateTransformer(OfTensors, nn.Module):
    """A pre-norm transformer over the coordinates of a state, one token each, with the noise level as one more token.

    A. Vaswani et al., 2017, arXiv:1706.03762. Each coordinate also enters through sinusoidal features, by which a network tells
    close numbers apart.

    Parameters
    ----------
    dim
        Coordinates of a state.
    width, depth, heads
        Features of a token, layers, attention heads.
    conditions
        What the network is conditioned on, by name (`conditions.Condition`): it is added to the token of the noise level, or
        enters the tokens of the coordinates.

    Raises
    ------
    ValueError
        If a size is less than 1, `heads` does not divide `width`, or a condition has another grid or an impossible name.
    """

    @check_arguments
    def __init__(
        self,
        dim: int,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        conditions: Mapping[str, Condition] | None = None,
    ) -> None:
        super().__init__()
        if min(dim, width, depth, heads) < 1 or width % heads:
            raise ValueError(
                f"dim = {dim}, width = {width}, depth = {depth}, heads = {heads}: heads must divide width."
            )
        self.dim, self.width, self.depth, self.heads, self.conditions = dim, width, depth, heads, conditions
        self.embedding = Sinusoidal()
        self.coordinate = Sinusoidal(32, slowest=0.5, fastest=8.0)
        self.level = nn.Linear(self.embedding.dim, width)
        self.given = Conditioning(declare(conditions), width, dims=1)
        self.value = nn.Linear(self.coordinate.dim + 1 + self.given.extra, width)
        self.place = nn.Parameter(torch.randn(dim + 1, width) * 0.02)
        self.layers = nn.Sequential(*(AttentionLayer(width, heads) for _ in range(depth)))
        self.last = nn.Linear(width, 1)
        zero(self.last)

    @property
    def declared(self) -> dict[str, Condition]:
        """The conditions that the network takes."""
        return self.given.kinds

    def forward(self, x: Tensor, level: Tensor, **cond: Any) -> Tensor:
        """Map states `x` and the noise level ``(B,)`` or ``(1,)`` to the shape of `x`, ``(B, *)``."""
        states = flatten_states(x, self.dim)
        features = self.coordinate(states.reshape(-1)).to(x.dtype).reshape(len(x), self.dim, -1)
        e, states = self.given(self.level(self.embedding(level).to(x.dtype)), states[:, None], cond)
        tokens = self.value(torch.cat([features, states.mT], 2))
        tokens = torch.cat([tokens, e[:, None].expand(len(x), 1, -1)], 1) + self.place
        return reshape_output(self.last(self.layers(tokens)[:, : self.dim])[..., 0], x)
