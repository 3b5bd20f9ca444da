"""Scaling of bytes to floating-point numbers and back: explicit, exactly invertible, and never clipped unless asked."""

from __future__ import annotations

__all__ = ["Dequantisation", "Scaling"]

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..blocks import OfTensors

# Parts of a cell, at whose midpoints dequantisation noise is drawn. A uniform draw of full precision would now and then be
# rounded into the next cell; midpoints stay clear of its edges in float32.
_PARTS = 1024


@asked_as("a scaling, such as data.Scaling(-1, 1)")
@check_arguments
@dataclass(frozen=True)
class Scaling(OfTensors):
    """An affine map of bytes ``u`` in 0 … L − 1 to evenly spaced numbers from `low` to `high`: ``x = low + (high − low) u
    / (L − 1)``.

    Parameters
    ----------
    low, high
        The numbers that 0 and L − 1 become.
    levels
        L, the number of values a byte can take.

    Raises
    ------
    ValueError
        If the ends are not finite and in order, or `levels` is not in 2 … 256.

    Examples
    --------
    >>> u = torch.tensor([0, 51, 255], dtype=torch.uint8)
    >>> Scaling(0, 1)(u)
    tensor([0.0000, 0.2000, 1.0000])
    >>> Scaling(-1, 1).inverse(Scaling(-1, 1)(u))
    tensor([  0,  51, 255], dtype=torch.uint8)
    """

    low: float = -1.0
    high: float = 1.0
    levels: int = 256

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low = {self.low}, high = {self.high}: expected finite numbers, low < high.")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"levels = {self.levels}; a byte takes 2 to 256 values.")

    @property
    def steps(self) -> int:
        """The number of steps between `low` and `high`, ``L − 1``."""
        return self.levels - 1

    @property
    def step(self) -> float:
        """The distance between the numbers of neighbouring bytes."""
        return (self.high - self.low) / self.steps

    @property
    def noise(self) -> tuple[float, float]:
        """Mean and variance of the noise that is added to a byte, in units of bytes."""
        return 0.0, 0.0

    def __call__(
        self, u: Tensor, dtype: torch.dtype = torch.float32, generator: torch.Generator | None = None
    ) -> Tensor:
        """Map bytes to numbers, and return them.

        Parameters
        ----------
        u
            Bytes ``(*)``, uint8.
        dtype
            The dtype of the result.
        generator
            Randomness of the noise of a `Dequantisation`; a `Scaling` has none.

        Raises
        ------
        TypeError
            If `u` is not uint8.
        ValueError
            If `dtype` is too coarse to tell neighbouring bytes apart.
        """
        if u.dtype != torch.uint8:
            raise TypeError(f"u has dtype {u.dtype}; a scaling takes bytes, torch.uint8.")
        work = torch.promote_types(dtype, torch.float32)
        largest = max(abs(self.low), abs(self.high))
        rounding = torch.finfo(dtype).eps / 2 * largest + 3 * torch.finfo(work).eps * max(largest, self.high - self.low)
        if rounding >= self._clearance * self.step:
            raise ValueError(f"{dtype} cannot hold {self}: bytes would not be recovered; take a finer dtype.")
        y = self._with_noise(u.to(work), generator) / self.steps  # from 0 to 1: so both ends are hit exactly
        return (self.low + (self.high - self.low) * y).to(dtype)

    @check_arguments
    def inverse(self, x: Tensor, clip: bool = False) -> Tensor:
        """Return the bytes that were scaled to `x`, exactly; for other numbers, such as samples, the byte whose cell they lie in.

        Parameters
        ----------
        x
            Numbers ``(*)``, floating point.
        clip
            Whether numbers outside are moved to the nearest end, instead of being refused.

        Returns
        -------
        Tensor
            Bytes ``(*)``, uint8.

        Raises
        ------
        ValueError
            If numbers lie outside all cells and `clip` is not set, or are not finite.
        """
        if not x.isfinite().all():
            raise ValueError(
                f"{int((~x.isfinite()).sum())} of {x.numel()} values are NaN or infinite, which no byte stands for; "
                "remove them first."
            )
        u = self._to_levels((x.to(torch.promote_types(x.dtype, torch.float32)) - self.low) / self.step)
        outside = int(((u < 0) | (u > self.levels - 1)).sum())
        if outside and not clip:
            raise ValueError(
                f"{outside} of {x.numel()} values lie outside [{self.low:g}, {self.high:g}], the range of x being "
                f"[{x.min():.6g}, {x.max():.6g}]; pass clip=True to move them to its ends."
            )
        return u.clamp(0, self.levels - 1).to(torch.uint8)

    @check_arguments
    def middles(self, u: Tensor) -> Tensor:
        """Return the middles of the cells of bytes, float64 of the same shape.

        Parameters
        ----------
        u
            Bytes ``(*)``, uint8.
        """
        return self.low + self.step * (u.double() + self.noise[0])

    def log_volume(self, dim: int) -> float:
        """Return ``D log step``, the logarithm of the volume of a cell: added to a log-density it gives (a bound on) a
        log-probability, in nats.
        """
        return dim * math.log(self.step)

    @check_arguments
    def bits_per_dim(self, log_prob: Tensor, dim: int) -> Tensor:
        """Return ``−(log p(x) + D log step) / (D log 2)``: in the mean over the noise of a cell an upper bound on the bits per
        dimension of the bytes.

        Parameters
        ----------
        log_prob
            Log-densities ``(*)`` of dequantised data, in nats.
        dim
            D, the number of bytes a datum has.
        """
        return -(log_prob + self.log_volume(dim)) / (dim * math.log(2))

    # The distance in steps that every scaled number keeps from the numbers of another byte: rounding must stay below it.
    _clearance = 1 / 2

    def _with_noise(self, u: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return bytes, as floating-point numbers, with their noise: a `Scaling` has none."""
        return u

    def _to_levels(self, y: Tensor) -> Tensor:
        """Return the byte that each number stands for, in units of bytes."""
        return y.round()


@check_arguments
@dataclass(frozen=True)
class Dequantisation(Scaling):
    """A map of bytes with uniform noise to numbers that have a density: ``x = low + (high − low) (u + U) / L``, U uniform
    in [0, 1).

    The numbers have a density where bytes have probabilities, and one bounds the other. A cell has the volume
    ``v = ((high − low) / L)^D`` in D dimensions, so by Jensen's inequality

    ``log P(u) = log E_U[p(x) v] ≥ E_U[log p(x)] + D log((high − low) / L)``,

    with equality for a density that is constant on every cell. B. Uria, I. Murray, H. Larochelle, *RNADE*, 2013,
    arXiv:1306.0186; L. Theis et al., *A note on the evaluation of generative models*, 2015, arXiv:1511.01844.

    U is drawn at 1,024 midpoints, so that no rounding takes a number into the next cell.

    Parameters
    ----------
    low, high
        The lower end of the cell of 0 and the upper end of the cell of L − 1.
    levels
        L, the number of values a byte can take.

    Examples
    --------
    >>> u = torch.arange(256, dtype=torch.uint8)
    >>> x = Dequantisation(-1, 1)(u)
    >>> torch.equal(Dequantisation(-1, 1).inverse(x), u)
    True
    >>> Dequantisation(-1, 1).bits_per_dim(torch.tensor(-784 * math.log(2)), 784)  # uniform on [−1, 1]: eight bits
    tensor(8.)
    """

    @property
    def steps(self) -> int:
        """The number of cells between `low` and `high`, one for each of the L bytes."""
        return self.levels

    @property
    def noise(self) -> tuple[float, float]:
        """Mean and variance of the noise that is added to a byte, in units of bytes."""
        return 0.5, (1 - _PARTS**-2) / 12

    _clearance = 1 / (2 * _PARTS)

    def _with_noise(self, u: Tensor, generator: torch.Generator | None) -> Tensor:
        # Bytes on any device get the same noise.
        device = generator.device if generator is not None else torch.device("cpu")
        part = torch.randint(_PARTS, u.shape, dtype=torch.int16, generator=generator, device=device)
        return u + (part.to(u) + 0.5) / _PARTS

    def _to_levels(self, y: Tensor) -> Tensor:
        return y.floor()
