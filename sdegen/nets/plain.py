"""Networks without a noise level, for the baselines: on vectors, and on images whose size they keep."""

from __future__ import annotations

__all__ = ["Convolutional", "Perceptron", "Residual"]

import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count
from .entries import zero
from .mlp import flatten_states
from .spatial import channels_last, check_grid


class Residual(nn.Module):
    """A residual block ``h + W_2 silu(W_1 silu(h))`` with layers `first` and `second`, which starts as the identity."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        zero(second)

    def forward(self, h: Tensor) -> Tensor:
        """Map `h` to the same shape."""
        return h + self.second(F.silu(self.first(F.silu(h))))


class Perceptron(OfTensors, nn.Module):
    """A residual perceptron, from states of `inner` coordinates to ``(B, outer)``.

    Its blocks have the activation first: K. He, X. Zhang, S. Ren, J. Sun, *Identity mappings in deep residual networks*,
    2016, arXiv:1603.05027.

    Parameters
    ----------
    inner, outer
        Coordinates of input and output.
    width, depth
        Hidden units, and number of two-layer blocks.

    Raises
    ------
    ValueError
        If a size is less than 1, or `depth` is negative.
    """

    @check_arguments
    def __init__(self, inner: int, outer: int, width: int = 64, depth: int = 1) -> None:
        super().__init__()
        _check_sizes(inner, outer, width, depth)
        self.inner, self.outer, self.width, self.depth = inner, outer, width, depth
        self.first = nn.Linear(inner, width)
        self.blocks = nn.Sequential(*(Residual(nn.Linear(width, width), nn.Linear(width, width)) for _ in range(depth)))
        self.last = nn.Linear(width, outer)

    def forward(self, x: Tensor) -> Tensor:
        """Map states to ``(B, outer)``."""
        return self.last(F.silu(self.blocks(self.first(flatten_states(x, self.inner)))))


class Convolutional(OfTensors, nn.Module):
    """A residual convolutional network on images, from ``(B, inner, H, W)`` to ``(B, outer, H, W)``.

    Its blocks have the activation first: K. He, X. Zhang, S. Ren, J. Sun, *Identity mappings in deep residual networks*,
    2016, arXiv:1603.05027.

    Parameters
    ----------
    inner, outer
        Channels of input and output.
    width, depth
        Hidden channels, and number of blocks of two 3x3 convolutions.

    Raises
    ------
    ValueError
        If a size is less than 1, or `depth` is negative.
    """

    @check_arguments
    def __init__(self, inner: int, outer: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        _check_sizes(inner, outer, width, depth)
        self.inner, self.outer, self.width, self.depth = inner, outer, width, depth
        self.first = nn.Conv2d(inner, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(
                Residual(nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1))
                for _ in range(depth)
            )
        )
        self.last = nn.Conv2d(width, outer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to ``(B, outer, H, W)``."""
        check_grid(x, self.inner, 2)
        return self.last(F.silu(self.blocks(self.first(channels_last(x)))))


def _check_sizes(inner: int, outer: int, width: int, depth: int) -> None:
    """Refuse a network without an input, an output or a hidden layer."""
    check_count("inner", inner), check_count("outer", outer), check_count("width", width)
    check_count("depth", depth, 0, ", the number of blocks")
