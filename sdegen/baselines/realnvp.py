"""RealNVP: a normalizing flow of affine couplings, on vectors and, with checkerboard masks and several scales, on images."""

from __future__ import annotations

__all__ = ["Coupling", "RealNVP", "Scales", "partitions", "shapes_of"]

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count
from ..laws.vectors import sum_rows
from ..nets import Convolutional, Perceptron
from ..nets.entries import zero
from .flow import Bijection, Composition, NormalizingFlow

BOUND = 2.0  # largest absolute log-scale of a coupling


class Coupling(Bijection):
    """An affine coupling: from the unchanged channels a network computes the scale and shift of the others.

    ``z_b = x_b exp(s(x_a)) + t(x_a)``, ``z_a = x_a``; ``log|det| = Σ s``. The log-scale is kept within ±2 by a tanh.

    Parameters
    ----------
    changed
        A mask of the channels, along dimension 1, that are changed.
    net
        The network from the unchanged channels to ``(B, 2 m, *)`` for the m changed ones. Its answers start as zeros, so that the
        map is the identity.
    """

    a: Tensor  # places of the unchanged channels,
    b: Tensor  # of the changed ones,
    order: Tensor  # and of all channels where those of b stand behind those of a

    def __init__(self, changed: Tensor, net: nn.Module) -> None:
        super().__init__()
        self.register_buffer("b", changed.nonzero().flatten(), persistent=False)
        self.register_buffer("a", (~changed).nonzero().flatten(), persistent=False)
        self.register_buffer("order", torch.cat([self.a, self.b]).argsort(), persistent=False)
        self.net = net

    def _terms(self, x_a: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-scale and shift of the changed channels."""
        s, t = self.net(x_a).to(x_a).chunk(2, 1)
        return BOUND * torch.tanh(s / BOUND), t

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latents, and return them with the log-determinant: ``(z, log_det)``."""
        x_a, x_b = x[:, self.a], x[:, self.b]
        s, t = self._terms(x_a)
        return torch.cat([x_a, x_b * s.exp() + t], 1)[:, self.order], sum_rows(s)

    def inverse(self, z: Tensor) -> Tensor:
        """Return the point that is mapped to `z`."""
        z_a, z_b = z[:, self.a], z[:, self.b]
        s, t = self._terms(z_a)
        return torch.cat([z_a, (z_b - t) * (-s).exp()], 1)[:, self.order]


class Scales(Bijection):
    """A multi-scale flow on images: after every scale but the last, half of the channels go straight to the latent.

    At each scale, squares of 2x2 pixels first become channels, which halves both sides.

    Parameters
    ----------
    parts
        The bijection of each scale, ``(B, 4 C, H / 2, W / 2)`` to the same.
    shape
        The shape of a datum, (C, H, W).
    """

    def __init__(self, parts: Sequence[Bijection], shape: Sequence[int]) -> None:
        super().__init__()
        self.parts, self.shape = nn.ModuleList(parts), tuple(shape)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latents, and return them with the log-determinant: ``(z, log_det)``."""
        done, log_det = [], x.new_zeros(len(x))
        for i, part in enumerate(self.parts):
            x, more = part(F.pixel_unshuffle(x, 2))
            log_det = log_det + more
            if i < len(self.parts) - 1:
                z, x = x.chunk(2, 1)
                done.append(z.flatten(1))
        return torch.cat([*done, x.flatten(1)], 1), log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Return the point that is mapped to `z`."""
        shapes = shapes_of(self.shape, len(self.parts))
        sizes = [c * h * w for c, h, w in shapes]
        pieces = z.split([n // 2 for n in sizes[:-1]] + sizes[-1:], 1)
        x = pieces[-1].unflatten(1, shapes[-1])
        for i in reversed(range(len(self.parts))):
            if i < len(self.parts) - 1:
                c, h, w = shapes[i]
                x = torch.cat([pieces[i].unflatten(1, (c // 2, h, w)), x], 1)
            x = F.pixel_shuffle(self.parts[i].inverse(x), 2)  # type: ignore[operator]
        return x


def shapes_of(shape: Sequence[int], scales: int) -> list[tuple[int, int, int]]:
    """Return channels, height and width at each scale, after 2×2 squares of pixels have become channels."""
    c, h, w = shape
    shapes = []
    for _ in range(scales):
        c, h, w = 4 * c, h // 2, w // 2
        shapes.append((c, h, w))
        c = c // 2
    return shapes


def partitions(channels: int) -> list[Tensor]:
    """Return the masks of couplings on squeezed images, each followed by its complement.

    The diagonals of the squares are the checkerboard of the image. Then come rows and columns, and halves of the channels of the
    image, if there were several.
    """
    place = torch.arange(channels) % 4  # in the square: 0 1 / 2 3
    diagonal, row, column = (place == 0) | (place == 3), place < 2, place % 2 == 0
    masks = [diagonal, row, diagonal, column]
    if channels > 4:
        masks += [diagonal, torch.arange(channels) < channels // 2]
    return [half for mask in masks for half in (mask, ~mask)]


class RealNVP(NormalizingFlow):
    """A normalizing flow of affine couplings (RealNVP): each leaves half of a datum unchanged, and scales and shifts the
    other half by it.

    L. Dinh, J. Sohl-Dickstein, S. Bengio, *Density estimation using Real NVP*, 2016, arXiv:1605.08803. Inverse and
    determinant are exact and cheap. Vectors are halved by place; images by checkerboards, rows, columns and channels, at several
    scales. There is no batch normalisation: the density of a datum does not depend on others.

    Parameters
    ----------
    shape
        The shape of a datum: ``(D,)``, D >= 2, or ``(C, H, W)`` with sides that can be halved at every scale.
    couplings
        The number of couplings at each scale.
    width, depth
        Sizes of the couplings' networks, `nets.Perceptron` or `nets.Convolutional`.
    scales
        The number of scales, for images.
    first
        A bijection that is applied to the data before all couplings: a `Logit` or `Marginals` for dequantised bytes.

    Raises
    ------
    ValueError
        If `shape` cannot be halved, or there are fewer than two couplings.

    Examples
    --------
    >>> flow = RealNVP((2,), couplings=4, width=16)
    >>> x = torch.randn(3, 2)
    >>> z, log_det = flow.net(x)
    >>> torch.allclose(flow.net.inverse(z), x, atol=1e-5)
    True
    """

    @check_arguments
    def __init__(
        self,
        shape: Sequence[int],
        couplings: int = 12,
        width: int = 64,
        depth: int = 2,
        scales: int = 2,
        first: Bijection | None = None,
    ) -> None:
        shape = tuple(shape)
        if len(shape) not in (1, 3):
            raise ValueError(
                f"shape = {shape}; give (D,) for vectors, (C, H, W) for images, and flatten what is neither."
            )
        for name, value in {"width": width, "depth": depth, "scales": scales}.items():
            check_count(name, value)
        if couplings < 2:
            raise ValueError(f"couplings = {couplings}; give two at least, so that every coordinate is changed.")
        net = (
            _of_vectors(shape[0], couplings, width, depth)
            if len(shape) == 1
            else _of_images(shape, couplings, width, depth, scales)
        )
        super().__init__(Composition([first, net]) if first is not None else net, shape, (math.prod(shape),))
        self.couplings, self.width, self.depth, self.scales, self.first = couplings, width, depth, scales, first

    def asked(self) -> dict[str, Bijection | None]:
        """Return the bijection before the couplings."""
        return {"first": self.first}


def _of_vectors(dim: int, couplings: int, width: int, depth: int) -> Bijection:
    """Return couplings of vectors, which change the first and the second half, and even and odd places, in turn."""
    if dim < 2:
        raise ValueError(
            f"shape = ({dim},); give data of at least two coordinates: a coupling changes some and reads the others."
        )
    places = torch.arange(dim)
    masks = [half for mask in (places < dim // 2, places % 2 == 0) for half in (mask, ~mask)]
    parts = []
    for i in range(couplings):
        mask = masks[i % len(masks)] if dim > 2 else masks[i % 2]
        m = int(mask.sum())
        parts.append(Coupling(mask, _zero_last(Perceptron(dim - m, 2 * m, width, depth))))
    return Composition(parts)


def _of_images(shape: tuple[int, ...], couplings: int, width: int, depth: int, scales: int) -> Bijection:
    """Return couplings of images ``(C, H, W)`` at several scales, which change the `partitions` in turn."""
    if scales < 1 or any(side % 2**scales for side in shape[1:]):
        raise ValueError(
            f"shape = {shape} with scales = {scales}: both sides must be divisible by 2^scales; pad the images, or take fewer."
        )
    parts = []
    for channels, _, _ in shapes_of(shape, scales):
        masks = partitions(channels)
        half = channels // 2
        nets = [_zero_last(Convolutional(half, 2 * half, width, depth)) for _ in range(couplings)]
        parts.append(Composition([Coupling(masks[i % len(masks)], net) for i, net in enumerate(nets)]))
    return Scales(parts, shape)


def _zero_last(net: Perceptron | Convolutional) -> nn.Module:
    """Set a network's last layer to zero, so that it answers zeros, and return it."""
    zero(net.last)
    return net
