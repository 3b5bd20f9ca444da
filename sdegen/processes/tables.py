"""Scalar processes from a discrete noise schedule, such as DDPM's, interpolated to continuous time."""

from __future__ import annotations

__all__ = ["AngleTable", "Cubic", "DDPM", "constant_betas", "cosine_betas", "linear_betas", "sigmoid_betas"]

import math

import numpy as np
import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number, check_tensor
from ..transforms import check_constant
from .scalar import ScheduleSDE


class Cubic:
    """The monotone cubic interpolant through values at 0, 1, ..., N (F. Fritsch and R. Carlson, 1980).

    Parameters
    ----------
    values
        ``(N + 1,)``, float64.
    """

    def __init__(self, values: Tensor) -> None:
        from scipy.interpolate import PchipInterpolator  # loads on use

        self.N = len(values) - 1
        cubic = PchipInterpolator(np.arange(self.N + 1), values.numpy())
        self.pieces = torch.from_numpy(cubic.c.copy())  # (4, N), highest power first

    def __call__(self, place: Tensor) -> Tensor:
        """Return the value at places from 0 to N."""
        # A place k that rounding put just below its knot belongs to the piece it ends; both give the same value.
        i = place.detach().floor().long().clamp(0, self.N - 1)
        u = place - i
        a, b, c, d = self.pieces[:, i]
        return ((a * u + b) * u + c) * u + d


class DDPM(ScheduleSDE):
    """A process from a discrete schedule of N betas: exact at every step ``t = k / N``, smooth in between.

    ``alpha(k / N)² = Π_{i<=k} (1 − beta_i)``; ``log alpha`` is interpolated by a monotone cubic (F. Fritsch and
    R. Carlson, 1980), ``sigma² = 1 − alpha²``. J. Ho, A. Jain, P. Abbeel, 2020, arXiv:2006.11239.

    Parameters
    ----------
    betas
        ``(N,)``, each in (0, 1); see `linear_betas`, `cosine_betas`, `sigmoid_betas`, `constant_betas`.

    Raises
    ------
    ValueError
        If a beta lies outside (0, 1). A beta of 1, zero terminal SNR, has no continuous process with finite drift.
    """

    N: int

    @check_arguments
    def __init__(self, betas: Tensor | None = None) -> None:
        betas = linear_betas() if betas is None else check_constant("betas", check_tensor("betas", betas)).double()
        if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
            worst = betas.reshape(-1)[(betas.reshape(-1) - 0.5).abs().argmax()].item() if betas.numel() else math.nan
            raise ValueError(
                f"betas of shape {tuple(betas.shape)} reach {worst:.6g}; expected at least two values strictly between "
                "0 and 1 (for a beta of 1, zero terminal SNR, use the Cosine or Rectified process)."
            )
        self._betas = betas.clone()
        self.N = len(betas)
        self.piece = 1 / self.N  # the cubic's second derivative jumps at every step
        knots = torch.cat([torch.zeros(1, dtype=torch.float64), 0.5 * torch.log1p(-betas).cumsum(0)])
        self.log_alpha = Cubic(knots)

    @property
    def betas(self) -> Tensor:
        """The betas, ``(N,)``: a copy, since the table made of them stays as it is."""
        return self._betas.clone()

    def _log_alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t * self.N)

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``exp`` of the interpolated ``log alpha``."""
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``√(1 − alpha²)``."""
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()


class AngleTable(ScheduleSDE):
    """A process from a discrete schedule with zero terminal SNR, ``alpha(1) = 0``: exact at every step ``t = k / N``,
    smooth in between.

    The angle ``atan2(sigma, alpha)`` is interpolated by a monotone cubic, which is finite where ``log alpha`` is not. S. Lin,
    B. Liu, J. Li, X. Yang, *Common diffusion noise schedules and sample steps are flawed*, 2023, arXiv:2305.08891.

    Parameters
    ----------
    alphas_cumprod
        ``alpha(k / N)²`` for k = 1..N, ``(N,)``, decreasing from below 1 to at least 0.

    Raises
    ------
    ValueError
        If the numbers do not decrease, or do not lie in that range.
    """

    N: int

    @check_arguments
    def __init__(self, alphas_cumprod: Tensor) -> None:
        table = check_constant("alphas_cumprod", check_tensor("alphas_cumprod", alphas_cumprod)).double().cpu()
        if table.ndim != 1 or len(table) < 2 or not (table.diff() < 0).all() or not (table[-1] >= 0 and table[0] < 1):
            raise ValueError(
                f"alphas_cumprod of shape {tuple(table.shape)}; expected two or more numbers that fall, all from 0 to below 1."
            )
        self._alphas_cumprod, self.N = table.clone(), len(table)
        self.piece = 1 / self.N  # as of `DDPM`
        angles = torch.atan2((1 - table).sqrt(), table.sqrt())
        self.angle = Cubic(torch.cat([angles.new_zeros(1), angles]))

    @property
    def alphas_cumprod(self) -> Tensor:
        """The squares of `alpha`, ``(N,)``: a copy, since the table made of them stays as it is."""
        return self._alphas_cumprod.clone()

    def _angle(self, t: Tensor) -> Tensor:
        return self.angle(t * self.N)

    def alpha(self, t: Tensor) -> Tensor:
        """Return ``cos`` of the angle, exactly 0 where the table is."""
        angle = self._angle(t)
        return torch.where(angle >= 0.5 * torch.pi, 0.0, torch.cos(angle))

    def sigma(self, t: Tensor) -> Tensor:
        """Return ``sin`` of the angle."""
        return torch.sin(self._angle(t))


@check_arguments
def linear_betas(N: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Return `N` betas spaced linearly from `first` to `last` (Ho et al., 2020, arXiv:2006.11239), float64 ``(N,)``."""
    check_count("N", N)
    check_number("first", first, above=0, below=1), check_number("last", last, above=0, below=1)
    return torch.linspace(first, last, N, dtype=torch.float64)


@check_arguments
def cosine_betas(N: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """Return the `N` betas of a squared-cosine ``alpha²``, none above `largest`, float64 ``(N,)``.

    ``alpha²(t) ∝ cos²(½ pi (t + offset) / (1 + offset))`` (Nichol and Dhariwal, 2021, arXiv:2102.09672).
    """
    check_count("N", N)
    check_number("offset", offset, at_least=0), check_number("largest", largest, above=0, below=1)
    t = torch.arange(N + 1, dtype=torch.float64) / N
    squared = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    return (1 - squared[1:] / squared[:-1]).clamp_max(largest)  # the published schedule is clipped


@check_arguments
def sigmoid_betas(N: int = 1000, first: float = 1e-4, last: float = 0.02, width: float = 6.0) -> Tensor:
    """Return `N` betas on a logistic curve from `first` to `last` over ``[−width, width]``, float64 ``(N,)``."""
    check_count("N", N), check_number("width", width, above=0)
    check_number("first", first, above=0, below=1), check_number("last", last, above=0, below=1)
    return first + (last - first) * torch.linspace(-width, width, N, dtype=torch.float64).sigmoid()


@check_arguments
def constant_betas(N: int = 1000, beta: float = 0.01) -> Tensor:
    """Return `N` betas equal to `beta`, float64 ``(N,)``."""
    check_count("N", N), check_number("beta", beta, above=0, below=1)
    return torch.full((N,), beta, dtype=torch.float64)
