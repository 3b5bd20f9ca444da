"""Normalizing flows: the base classes `Bijection` and `NormalizingFlow`, and elementwise maps that bring images of bytes
to real numbers.

A flow maps data to standard noise by a bijection, so its density is known: ``log p(x) = log N(z; 0, I) + log|det ∂z/∂x|``.
"""

from __future__ import annotations

__all__ = ["AffineMap", "Bijection", "Composition", "Logit", "Marginals", "NormalizingFlow", "Squeeze"]

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count, check_interval, check_tensor
from ..data import Images
from ..data.parts import in_parts
from ..laws.draws import noise_like
from ..laws.vectors import sum_rows
from .standardised import Standardised


class Bijection(OfTensors, nn.Module):
    """An invertible map with its log-determinant: ``forward(x)`` returns ``(z, log_det)``, with ``log_det`` of shape
    ``(B,)``, and ``inverse(z)`` returns `x`.

    Subclass it with both methods, and with a constructor if the map has parameters: the constructor of ``nn.Module``, in spite of
    its ``*args`` and ``**kwargs``, takes no arguments. A map that is defined on an interval of numbers alone sets ``interval =
    (low, high)``.
    """

    interval: tuple[float, float] | None = None

    def inverse(self, z: Tensor) -> Tensor:
        """Return the point that is mapped to `z`."""
        raise NotImplementedError(f"{type(self).__name__} has no inverse; write inverse(z).")


class Composition(Bijection):
    """The composition of bijections, applied one after another.

    Parameters
    ----------
    parts
        The bijections, the first to be applied first.
    """

    @check_arguments
    def __init__(self, parts: Sequence[Bijection]) -> None:
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)
        self.interval = next((part.interval for part in parts if part.interval is not None), None)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latents, and return them with the log-determinant: ``(z, log_det)``."""
        log_det = x.new_zeros(len(x))
        for part in self.parts:
            x, more = part(x)
            log_det = log_det + more
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Return the point that is mapped to `z`."""
        for part in reversed(self.parts):
            z = part.inverse(z)
        return z


class Squeeze(Bijection):
    """A reshape of images ``(B, C, H, W)`` in which each n×n square of pixels becomes channels, ``(B, C n², H / n, W / n)``.

    L. Dinh, J. Sohl-Dickstein, S. Bengio, *Density estimation using Real NVP*, 2016, arXiv:1605.08803.

    Parameters
    ----------
    n
        Side of a square.
    """

    @check_arguments
    def __init__(self, n: int = 2) -> None:
        super().__init__()
        self.n = check_count("n", n)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latents, and return them with the log-determinant: ``(z, log_det)``."""
        return F.pixel_unshuffle(x, self.n), x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        """Return the point that is mapped to `z`."""
        return F.pixel_shuffle(z, self.n)


class AffineMap(Bijection):
    """A learned scale and shift per channel, ``z = x exp(s) + t``, which starts as the identity."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        own = (shape[0], *[1] * (len(shape) - 1))
        self.s, self.t = nn.Parameter(torch.zeros(own)), nn.Parameter(torch.zeros(own))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latents, and return them with the log-determinant: ``(z, log_det)``."""
        return x * self.s.exp() + self.t, self.s.expand(x.shape[1:]).sum().expand(len(x))

    def inverse(self, z: Tensor) -> Tensor:
        """Return the point that is mapped to `z`."""
        return (z - self.t) * (-self.s).exp()


class Logit(Bijection):
    """The elementwise logit ``z = logit(alpha + (1 − 2 alpha) x)`` of numbers x in [0, 1].

    L. Dinh, J. Sohl-Dickstein, S. Bengio, *Density estimation using Real NVP*, 2016, arXiv:1605.08803, section 4.1. Outside of
    [0, 1], where there is no density, the result is NaN.

    Parameters
    ----------
    alpha
        How far the ends are kept from 0 and 1.

    Raises
    ------
    ValueError
        If `alpha` is not between 0 and 1/2.
    """

    @check_arguments
    def __init__(self, alpha: float = 1e-6) -> None:
        super().__init__()
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha = {alpha}; it must lie between 0 and 1/2.")
        self.alpha, self.interval = alpha, (0.0, 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latents, and return them with the log-determinant: ``(z, log_det)``."""
        below, above = (self.alpha + (1 - 2 * self.alpha) * part for part in (x, 1 - x))
        logs = below.log(), above.log()
        log_det = math.log(1 - 2 * self.alpha) - logs[0] - logs[1]
        return logs[0] - logs[1], sum_rows(log_det)

    def inverse(self, z: Tensor) -> Tensor:
        """Return the point that is mapped to `z`."""
        return (z.sigmoid() - self.alpha) / (1 - 2 * self.alpha)


class Marginals(Bijection):
    """An elementwise map that makes every coordinate standard normal by its own distribution function `F`: ``z = Φ⁻¹(F(x))``.

    Dequantised bytes have a density that is constant on each of L cells. With masses ``m_0 ... m_{L−1}`` at a place,
    ``F`` is piecewise linear, and ``z = Φ⁻¹(F(x))`` is exactly standard normal at each place whose masses are right. A flow has
    then only to learn how places depend on each other. (S. Chen and R. Gopinath, *Gaussianization*, 2000.) Outside (low, high),
    where there is no density, the result is not finite: give numbers with noise.

    Parameters
    ----------
    masses
        Masses of the cells, ``(*shape, L)``, positive, summing to one at every place.
    low, high
        The lower end of the first cell and the upper end of the last.

    Raises
    ------
    ValueError
        If a mass is not positive, or the masses of a place do not sum to one.

    Examples
    --------
    >>> halves = Marginals(torch.tensor([[0.5, 0.5]]))
    >>> z, log_det = halves(torch.tensor([[0.25], [0.75]]))
    >>> z.squeeze(1)
    tensor([-0.6745,  0.6745])
    """

    @check_arguments
    def __init__(self, masses: Tensor, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        check_tensor("masses", masses), check_interval("low and high", (low, high))
        if masses.numel() == 0:
            raise ValueError(f"masses has shape {tuple(masses.shape)}; give those of one place at least.")
        total = masses.double().sum(-1)
        if not (masses > 0).all() or not torch.allclose(total, torch.ones_like(total), atol=1e-5):
            raise ValueError("masses must be positive and sum to one at every place; see Marginals.of.")
        self.masses, self.low, self.high, self.interval = masses, low, high, (low, high)
        m = masses.double().flatten(0, -2)
        self._masses = m / m.sum(1, keepdim=True)  # (D, L)
        zero = m.new_zeros(len(m), 1)
        # Both tails, so that neither is a difference of numbers near one.
        self._below = torch.cat([zero, self._masses.cumsum(1)[:, :-1]], 1)
        self._above = torch.cat([self._masses.flip(1).cumsum(1).flip(1)[:, 1:], zero], 1)

    @classmethod
    def of(cls, images: Images, smoothing: float = 100.0, low: float = 0.0, high: float = 1.0) -> Marginals:
        """Estimate the distribution function of every pixel from images, smoothed towards that of all pixels together, and return
        the map.
        """
        L, flat = images.levels, images.x.flatten(1).long()
        D = flat.shape[1]
        counts = torch.zeros(D, L, dtype=torch.float64)
        for rows in flat.split(4096):
            index = (rows + L * torch.arange(D)).flatten()
            counts += index.bincount(minlength=D * L).reshape(D, L)
        everywhere = counts.sum(0) + 1  # no level is impossible
        masses = counts + smoothing * everywhere / everywhere.sum()
        return cls((masses / masses.sum(1, keepdim=True)).reshape(*images.x.shape[1:], L), low, high)

    def _tables(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the masses of all cells, and those below and above each, on the device of `x`."""
        return self._masses.to(x.device), self._below.to(x.device), self._above.to(x.device)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data to latents, and return them with the log-determinant: ``(z, log_det)``."""
        masses, below, above = self._tables(x)
        L = masses.shape[1]
        u = (x.flatten(1).double() - self.low) * (L / (self.high - self.low))
        cell = u.floor().clamp(0, L - 1)
        inside = u - cell  # not within [0, 1) outside of all cells, where a tail then is negative, and has no quantile
        place, k = torch.arange(len(masses), device=x.device), cell.long()
        m = masses[place, k]
        lower, upper = below[place, k] + m * inside, above[place, k] + m * (1 - inside)
        z = torch.where(lower < 0.5, torch.special.ndtri(lower), -torch.special.ndtri(upper))
        log_det = (m * (L / (self.high - self.low))).log() + 0.5 * z.square() + 0.5 * math.log(2 * math.pi)
        return z.to(x).reshape(x.shape), log_det.sum(1).to(x)

    def inverse(self, z: Tensor) -> Tensor:
        """Return the point that is mapped to `z`."""
        masses, below, above = self._tables(z)
        L = masses.shape[1]
        flat = z.flatten(1).double()
        lower, upper = (torch.special.log_ndtr(v).exp() for v in (flat, -flat))  # ndtr itself is 0 below −8.3
        k = (torch.searchsorted(below, lower.T.contiguous(), right=True).T - 1).clamp(0, L - 1)
        place = torch.arange(len(masses), device=z.device)
        m = masses[place, k]
        # As in `forward`, from the nearer tail of the distribution function.
        inside = torch.where(flat < 0, (lower - below[place, k]) / m, 1 - (upper - above[place, k]) / m).clamp(0, 1)
        return (self.low + (self.high - self.low) / L * (k + inside)).to(z).reshape(z.shape)


class NormalizingFlow(Standardised):
    """A generative model made of a bijection from data to standard normal noise, with ``fit``, ``sample`` and ``log_prob``.

    L. Dinh, D. Krueger, Y. Bengio, *NICE: non-linear independent components estimation*, 2014, arXiv:1410.8516;
    D. Rezende and S. Mohamed, *Variational inference with normalizing flows*, 2015, arXiv:1505.05770. The bijection takes data in
    units of their spread, which `fit` measures, unless it is defined on an interval alone, as a `Logit` is.

    Parameters
    ----------
    net
        A `Bijection`.
    shape
        The shape of a datum.
    noise_shape
        The shape of the noise a datum is mapped to; the same by default.
    """

    @check_arguments
    def __init__(self, net: Bijection, shape: Sequence[int], noise_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.net, self.shape = net, tuple(shape)
        self.noise_shape = self.shape if noise_shape is None else tuple(noise_shape)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval that the bijection is defined on; None where it is defined on all numbers."""
        return self.net.interval

    @property
    def dim(self) -> int:
        """D, the number of coordinates of a datum."""
        return math.prod(self.shape)

    @check_arguments
    def log_prob(self, x: Tensor, batch: int | None = None) -> Tensor:
        """Return ``log p(x)`` in nats, ``(B,)``; with `batch`, computed for at most that many data at a time.

        Raises
        ------
        ValueError
            If data have another shape.
        """
        check_tensor("x", x)
        return self._log_prob(x, batch)

    def _log_prob(self, x: Tensor, batch: int | None = None) -> Tensor:
        """Return ``log p(x)`` of data that may hold NaN, as in a loss, where a check would wait for an accelerator."""
        if x.shape[1:] != torch.Size(self.shape) or len(x) == 0:
            raise ValueError(
                f"x has shape {tuple(x.shape)}; this flow takes data of shape (B, {', '.join(map(str, self.shape))})."
            )
        like = next(self.parameters())
        u = self.units.standardise(x).to(like)
        return in_parts(lambda part: self._log_density(*self.net(part)), batch, u) - self.log_volume(x)

    def _log_density(self, z: Tensor, log_det: Tensor) -> Tensor:
        """Return ``log N(z; 0, I) + log_det``, the log-density of data in the units of the model, ``(B,)``."""
        return log_det - 0.5 * (sum_rows(z.square()) + self.dim * math.log(2 * math.pi))

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return ``−log p(x) / D`` in nats per coordinate, ``(B,)``."""
        return -self._log_prob(x) / self.dim

    @torch.no_grad()
    @check_arguments
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` samples, ``(n, *shape)``."""
        like = next(self.parameters())
        u = self.net.inverse(noise_like(like.new_empty(check_count("n", n), *self.noise_shape), generator))
        return self.restored(u)
