"""Convolutional encoders and decoders: images to vectors by strided convolutions, and vectors to images by transposed ones."""

from __future__ import annotations

__all__ = ["Down", "Up"]

from collections.abc import Sequence

from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count
from .mlp import flatten_states
from .spatial import channels_last, check_grid


class Down(OfTensors, nn.Module):
    """A convolutional encoder, from images ``(B, C, H, W)`` to vectors ``(B, outer)``: two 4x4 convolutions of stride two,
    then a linear layer.

    A. Radford, L. Metz, S. Chintala, *Unsupervised representation learning with deep convolutional generative adversarial
    networks*, 2015, arXiv:1511.06434.

    Parameters
    ----------
    shape
        The shape of an image, (C, H, W), with sides divisible by four.
    outer
        Length of the vectors.
    width
        Channels after the first convolution; twice as many after the second.
    batch_norm
        Whether the second layer is normalised over the batch. For a critic with a gradient penalty it must not be.
    """

    @check_arguments
    def __init__(self, shape: Sequence[int], outer: int, width: int = 64, batch_norm: bool = False) -> None:
        super().__init__()
        check_count("outer", outer), check_count("width", width)
        C, h, w = _quarter(shape)
        self.shape, self.outer, self.width, self.batch_norm = tuple(shape), outer, width, batch_norm
        self.layers = nn.Sequential(
            nn.Conv2d(C, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=not batch_norm),
            nn.BatchNorm2d(2 * width) if batch_norm else nn.Identity(),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * width * h * w, outer),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images to ``(B, outer)``."""
        check_grid(x, self.shape[0], 2)
        return self.layers(channels_last(x))


class Up(OfTensors, nn.Module):
    """A convolutional decoder, from vectors ``(B, inner)`` to images ``(B, C, H, W)``: a linear layer, then two 4x4
    transposed convolutions of stride two.

    It is the generator of A. Radford et al., 2015, arXiv:1511.06434, for small images.

    Parameters
    ----------
    inner
        Length of the vectors.
    shape
        The shape of an image, (C, H, W), with sides divisible by four.
    width
        Channels before the last convolution; twice as many before that.
    batch_norm
        Whether both hidden layers are normalised over the batch.
    bounded
        Whether a sigmoid brings the result into [0, 1].
    """

    @check_arguments
    def __init__(
        self, inner: int, shape: Sequence[int], width: int = 64, batch_norm: bool = False, bounded: bool = False
    ) -> None:
        super().__init__()
        check_count("inner", inner), check_count("width", width)
        C, h, w = _quarter(shape)
        self.inner, self.shape, self.width = inner, tuple(shape), width
        self.batch_norm, self.bounded = batch_norm, bounded
        self.layers = nn.Sequential(
            nn.Linear(inner, 2 * width * h * w, bias=not batch_norm),
            nn.Unflatten(1, (2 * width, h, w)),
            nn.BatchNorm2d(2 * width) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=not batch_norm),
            nn.BatchNorm2d(width) if batch_norm else nn.Identity(),
            nn.ReLU(),
            nn.ConvTranspose2d(width, C, 4, 2, 1),
            nn.Sigmoid() if bounded else nn.Identity(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map vectors to images ``(B, C, H, W)``."""
        return self.layers(flatten_states(z, self.inner))


def _quarter(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the channels, and a quarter of both sides."""
    if len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
        raise ValueError(f"shape = {tuple(shape)}; give (C, H, W) with sides divisible by four, or pad the images.")
    return shape[0], shape[1] // 4, shape[2] // 4
