"""Embeddings of a number, such as the noise level, as a vector of waves."""

from __future__ import annotations

__all__ = ["Fourier", "Frequencies", "Sinusoidal"]

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_number


class Frequencies(OfTensors, nn.Module):
    """The base class of embeddings by waves: their frequencies stay in float32 at least when the network is made coarser.

    In bfloat16 a phase of some ten radians would have an error of a twentieth. Features have the dtype of the frequencies; the
    network that takes the features casts them to its own.
    """

    frequencies: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype.itemsize <= 2:
            self.frequencies = exact.to(self.frequencies.device)
        return self

    def forward(self, u: Tensor) -> Tensor:
        """Return features ``(B, dim)`` of numbers ``(B,)``, in float32 at least."""
        phase = u[:, None] * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], 1)


class Sinusoidal(Frequencies):
    """The sinusoidal embedding of a number, ``(sin(w_i u), cos(w_i u))`` at frequencies `w` in geometric progression.

    A. Vaswani et al., *Attention is all you need*, 2017, arXiv:1706.03762. The default range resolves noise levels
    ``¼ log sigma`` between -2 and 2.

    Parameters
    ----------
    dim
        Number of features, even.
    slowest, fastest
        First and last frequency, in radians per unit of the input.

    Raises
    ------
    ValueError
        If `dim` is odd or less than 2.
    """

    @check_arguments
    def __init__(self, dim: int = 64, slowest: float = 1.0, fastest: float = 16.0) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"dim = {dim}; an embedding has an even number of features, at least 2.")
        check_number("slowest", slowest, above=0), check_number("fastest", fastest, above=0)
        self.dim, self.slowest, self.fastest = dim, slowest, fastest
        frequencies = torch.linspace(math.log(slowest), math.log(fastest), dim // 2, dtype=torch.float64).exp()
        self.register_buffer("frequencies", frequencies.float(), persistent=False)


class Fourier(Frequencies):
    """Random Fourier features of a number, ``(sin(2 pi w_i u), cos(2 pi w_i u))`` with fixed frequencies ``w ~ N(0, scale²)``.

    M. Tancik et al., *Fourier features let networks learn high frequency functions in low dimensional domains*, 2020,
    arXiv:2006.10739.

    Parameters
    ----------
    dim
        Number of features, even.
    scale
        Standard deviation of the frequencies.

    Raises
    ------
    ValueError
        If `dim` is odd or less than 2.
    """

    @check_arguments
    def __init__(self, dim: int = 64, scale: float = 1.0) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"dim = {dim}; an embedding has an even number of features, at least 2.")
        self.dim, self.scale = dim, check_number("scale", scale, above=0)
        self.register_buffer("frequencies", torch.randn(dim // 2) * scale * 2 * math.pi)
