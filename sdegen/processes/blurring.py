"""Blurring diffusion: heat that spreads over a signal, an image or a volume, and noise."""

from __future__ import annotations

__all__ = ["Blurring"]

import math

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.bases import CosineBasis
from .coordinates import CoordinateScheduleSDE
from .scalar import ScalarSDE
from .zoo import VP


class Blurring(CoordinateScheduleSDE):
    """Blurring diffusion: images ``(C, H, W)``, signals ``(C, L)`` or volumes ``(C, D, H, W)`` lose detail as heat spreads over
    them, while noise comes as in another process.

    In the cosine basis of an image, ``alpha_k(t) = a(t) d_k(t)`` and ``sigma(t) = s(t)``, with `a` and `s` the ``alpha`` and
    ``sigma`` of the process `noise`. ``d_k = (1 − least) exp(−½ λ_k b(t)²) + least`` for the frequency ``λ_k = π² (i² / H² + j² /
    W²)``, a Gaussian blur of the width ``b(t) = blur sin²(π t / (2 T))`` pixels. S. Rissanen, M. Heinonen, A. Solin, *Generative
    modelling with inverse heat dissipation*, 2022, arXiv:2206.13397; E. Hoogeboom and T. Salimans, *Blurring diffusion models*,
    2022, arXiv:2209.05557.

    Parameters
    ----------
    shape
        The shape of a datum, ``(C, *grid)``.
    blur
        The width of the blur at T, in pixels, 0 for none; an eighth of the longest side by default.
    noise
        The scalar process whose noise comes with the blur; `VP` by default.
    least
        The factor to which the blur brings the finest detail at most, however wide it is.

    Raises
    ------
    ValueError
        If `shape` has no grid, or a side of length 0, `blur` is negative, or `least` is not between 0 and 1.

    Examples
    --------
    >>> sde = Blurring((1, 8, 8))
    >>> detail = sde.alpha(torch.tensor(1.0, dtype=torch.float64))[0]
    >>> bool(detail[0, 0] > 100 * detail[7, 7])
    True
    """

    @check_arguments
    def __init__(
        self,
        shape: tuple[int, ...],
        blur: float | None = None,
        noise: ScalarSDE | None = None,
        least: float = 1e-3,
    ) -> None:
        if len(shape) < 2 or min(shape) < 1:
            raise ValueError(f"shape = {tuple(shape)}; give that of a datum, such as (C, H, W) of an image.")
        if blur is not None:
            check_number("blur", blur, at_least=0)
        if not 0 < least < 1:
            raise ValueError(f"least = {least}; what is left of detail lies between 0 and 1.")
        self.shape, self.blur, self.least = tuple(shape), blur, least
        self._widest = max(self.shape[1:]) / 8 if blur is None else blur
        self.noise = VP() if noise is None else noise
        self.T, self.sigma_0, self.basis = self.noise.T, self.noise.sigma_0, CosineBasis(len(shape) - 1)
        waves = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) / n for n in self.shape[1:]), indexing="ij")
        self._frequencies = (math.pi**2 * torch.stack(waves).square().sum(0)).expand(self.shape)

    def clock(self, t: Tensor) -> Tensor:
        """Return ``log snr`` of the process `noise`: most of an image lies in its coarse detail, which blurring leaves."""
        return self.noise.log_snr(t)

    def width(self, t: Tensor) -> Tensor:
        """Return the width of the blur, ``blur sin²(π t / (2 T))``."""
        return self._widest * (0.5 * math.pi / self.T * t).sin().square()

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``a(t) d_k(t)``."""
        t = self._over(t)
        kept = (-0.5 * self._frequencies * self.width(t).square()).exp()
        return self.noise.alpha(t) * ((1 - self.least) * kept + self.least)

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``s(t)``, the same for all frequencies."""
        return self.noise.sigma(self._over(t)).expand(*t.shape, *self.shape)

    def _over(self, t: Tensor) -> Tensor:
        """Return times with an axis more for each axis of a datum."""
        return t[(..., *[None] * len(self.shape))]
