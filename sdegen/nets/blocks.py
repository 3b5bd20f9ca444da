"""Blocks of convolutional networks on signals, images and volumes ``(B, C, *grid)``, in any memory format."""

from __future__ import annotations

__all__ = ["AttentionBlock", "Block", "Norm", "ResBlock"]

from torch import Tensor, nn

from .attention import SelfAttention, is_differentiated
from .entries import zero
from .spatial import convolution, from_tokens, to_tokens

GROUP = 32  # channels normalised together: below 16, torch's channels-last kernels are up to 20 times slower


class Norm(nn.GroupNorm):
    """Group normalisation, in equal groups of at least 32 channels, or of all channels if there are fewer.

    Y. Wu and K. He, *Group normalization*, 2018, arXiv:1803.08494.

    Parameters
    ----------
    channels
        Channels of the states.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(next(n for n in range(max(channels // GROUP, 1), 0, -1) if channels % n == 0), channels)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(B, channels, *grid)`` to the same shape."""
        if not is_differentiated(h):
            return super().forward(h)
        # Torch's forward-mode rule takes no other layout, and no other dtype than that of the weights.
        return super().forward(h.contiguous().to(self.weight.dtype)).to(h.dtype)


class ResBlock(nn.Module):
    """A residual block modulated by features `e`: ``skip(h) + conv(silu(conv(norm(h)) + shift(e)))``.

    K. He et al., *Deep residual learning*, 2015, arXiv:1512.03385; modulated as by J. Ho, A. Jain, P. Abbeel, 2020,
    arXiv:2006.11239, with one normalisation and one nonlinearity, not two, for two convolutions. The block starts as its skip
    connection: the identity where the number of channels stays, a convolution place by place where it changes.

    Parameters
    ----------
    inner, outer
        Channels of input and output.
    features
        Number of features `e`.
    dropout
        Probability that a hidden unit is dropped in training.
    dims
        Dimensions of the grid.
    """

    def __init__(self, inner: int, outer: int, features: int, dropout: float = 0.0, dims: int = 2) -> None:
        super().__init__()
        self.norm = Norm(inner)
        self.conv_1 = convolution(dims, inner, outer, 3, bias=False)  # the shift has a bias
        self.shift = nn.Linear(features, outer)
        self.act, self.dropout = nn.SiLU(), nn.Dropout(dropout)
        self.conv_2 = convolution(dims, outer, outer, 3)
        self.skip = nn.Identity() if inner == outer else convolution(dims, inner, outer, 1)
        zero(self.conv_2)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Map ``(B, inner, *grid)`` and features ``(B, features)`` or ``(1, features)`` to ``(B, outer, *grid)``."""
        hidden = self.conv_1(self.norm(h)) + self.shift(e)[(..., *[None] * (h.ndim - 2))]
        return self.skip(h) + self.conv_2(self.dropout(self.act(hidden)))


class AttentionBlock(nn.Module):
    """Self-attention between all places of a grid, then a feed-forward layer at each, each with a residual connection.

    ``h + attention(norm(h))``, then ``h + feed(norm(h))``. The block starts as the identity.

    Parameters
    ----------
    channels
        Channels of input and output.
    heads
        Attention heads, a divisor of `channels`.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = Norm(channels), Norm(channels)
        self.attention = SelfAttention(channels, heads)
        self.feed = nn.Sequential(nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels))
        zero(self.attention.join)
        zero(self.feed[-1])

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(B, channels, *grid)`` to the same shape."""
        h = h + from_tokens(self.attention(to_tokens(self.norm_1(h))), h)
        return h + from_tokens(self.feed(to_tokens(self.norm_2(h))), h)


class Block(nn.Module):
    """A residual block, followed by an attention block if `heads` is given."""

    def __init__(self, inner: int, outer: int, features: int, dropout: float, heads: int, dims: int) -> None:
        super().__init__()
        self.residual = ResBlock(inner, outer, features, dropout, dims)
        self.attention = AttentionBlock(outer, heads) if heads else nn.Identity()

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Map ``(B, inner, *grid)`` and features to ``(B, outer, *grid)``."""
        return self.attention(self.residual(h, e))
