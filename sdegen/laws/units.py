"""The units of data: an affine change of coordinates by which data get mean 0 and standard deviation 1."""

from __future__ import annotations

__all__ = ["Units", "dtype_that_tells"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..dense import with_all_digits
from ..fixed import Fixed, isolated_for
from ..show import show_call
from ..transforms import check_constant

APART = 0.03  # largest distance of neighbouring numbers of a dtype at the mean, over the spread: rounding costs 1 % of the spread


def dtype_that_tells(dtype: torch.dtype, device: torch.device, offset: float) -> torch.dtype:
    """Return the coarsest dtype, from the given one on, in which rounding costs little of the spread of data.

    Parameters
    ----------
    dtype, device
        The dtype and device of the data.
    offset
        How far from 0 the data are, in units of their spread.
    """
    finer = [torch.promote_types(dtype, other) for other in (dtype, torch.float32)]
    told = (dtype for dtype in finer if torch.finfo(dtype).eps * offset <= APART)
    return next(told, finer[-1] if device.type == "mps" else torch.float64)  # mps has no float64


class Units(OfTensors, Fixed):
    """Units of measurement for data, ``u = (x − mean) / std``, for each coordinate or for all alike.

    The mean is subtracted in two parts: its value in the dtype of the data, and what this rounding has left. So nothing that the
    data hold is lost where the mean is a million times the spread.

    Parameters
    ----------
    mean, std
        Of the shape of a datum, or ``()``, one number for all coordinates; kept as float64 on the CPU.

    Raises
    ------
    ValueError
        If `mean` or `std` is not finite, `std` is not positive, or their shapes differ.

    Examples
    --------
    >>> metres = Units(mean=torch.tensor(1.0), std=torch.tensor(0.01))
    >>> metres.standardise(torch.tensor([1.02])).round().tolist()
    [2.0]
    >>> metres.restore(torch.tensor([2.0])).tolist() == torch.tensor([1.02]).tolist()
    True
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> None:
        for name, value in (("mean", mean), ("std", std)):
            check_constant(name, value)
        mean, std = (with_all_digits(v).cpu().to(torch.float64, copy=True) for v in (mean, std))
        if mean.shape != std.shape:
            raise ValueError(f"mean has shape {tuple(mean.shape)} and std {tuple(std.shape)}; give them of one shape.")
        if not mean.isfinite().all() or not ((std > 0) & std.isfinite()).all():
            raise ValueError(
                "units need finite means and positive standard deviations; give 1 for a coordinate that is constant."
            )
        self.mean, self.std = mean, std
        self.plain = bool((mean == 0).all() and (std == 1).all())
        self._offset = (mean.abs() / std).max().item() if mean.numel() else 0.0
        self._prepared: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def scale(self) -> float:
        """The root mean square of the standard deviations, where one length has to stand for all."""
        return self.std.square().mean().sqrt().item()

    def standardise(self, x: Tensor) -> Tensor:
        """Return data in these units, ``(x − mean) / std``, in the dtype of `x`.

        Raises
        ------
        ValueError
            If the data have another shape than those whose units these are.
        """
        if self.plain:
            return x
        if self.mean.ndim and x.ndim and x.shape[1:] != self.mean.shape and x.shape != self.mean.shape:
            raise ValueError(
                f"data have rows of shape {tuple(x.shape[1:])}, and the units, or the model, are of "
                f"{tuple(self.mean.shape)}; give rows of that shape, or make a new model for these data."
            )
        # The shape is checked above: a step of training looks up what was prepared, without another call.
        mean, rest, std = self._prepared.get((x.dtype, x.device)) or self._parts(x)
        return (x - mean - rest) / std

    def restore(self, u: Tensor) -> Tensor:
        """Return data in their own coordinates, ``mean + std u``; the inverse of `standardise`.

        The data are in the dtype of `u`, or in a finer one (`telling`).
        """
        if self.plain:
            return u
        u = u.to(self.telling(u.dtype, u.device))
        mean, rest, std = self._parts(u)
        return u * std + rest + mean

    def telling(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """Return the coarsest dtype, from the given one on, in which rounding data in their own coordinates costs little of their
        spread: float64 where the mean is some 250,000 times the standard deviation, for numbers of float32.
        """
        return dtype_that_tells(dtype, device, self._offset)

    def stretch(self, u: Tensor) -> Tensor:
        """Return ``std u``, the difference of data in their own coordinates that is `u` in these units."""
        return u if self.plain else u * self._parts(u)[2]

    def log_det(self, shape: torch.Size) -> float:
        """Return ``Σ log std`` over the coordinates of data of a shape, by which log-densities in their own coordinates are
        less.
        """
        return float(self.std.log().expand(shape).sum())

    def agree(self, other: Units) -> bool:
        """Tell whether states in these units are states in the others: means and spreads are the same to six digits."""
        if self.std.ndim and other.std.ndim and self.std.shape != other.std.shape:
            return False
        gap = (self.mean - other.mean).abs().maximum((self.std - other.std).abs())
        return bool((gap <= 1e-6 * self.std).all())

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean rounded to the dtype of `x`, what the rounding has left of it, and the standard deviation."""
        shape = self.std.shape
        if x.ndim >= len(shape) and x.shape[x.ndim - len(shape) :] != shape:
            raise ValueError(
                f"data have shape {tuple(x.shape)}, and their units are of data {tuple(shape)}; give rows like those."
            )
        key = x.dtype, x.device
        if key not in self._prepared:
            with isolated_for(self):  # what is kept may be differentiated through later
                mean = self.mean.to(x.dtype)
                rest = (self.mean - mean.double()).to(x.dtype)
                self._prepared[key] = mean.to(x.device), rest.to(x.device), self.std.to(x.device, x.dtype)
        return self._prepared[key]
