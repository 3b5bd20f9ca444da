"""The base class of baselines, which learn the law of the data in units of their spread."""

from __future__ import annotations

__all__ = ["Standardised", "range_of"]

import torch
from torch import Tensor, nn

from ..blocks import OfTensors
from ..checks import check_tensor
from ..laws.calibrated import Calibrated
from ..laws.mixtures import Moments
from ..laws.units import Units
from ..precision import at_least_single, dtype_of, widened

RANGES = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0)}


def range_of(net: nn.Module) -> tuple[float, float] | None:
    """Return the interval that a network's last layer brings its answers into; None if it brings them into none."""
    last = [part for part in net.modules() if not [*part.children()]][-1]
    return RANGES.get(type(last))


class Standardised(OfTensors, Calibrated):
    """The base class of models of data in units of their spread, ``u = (x − mean) / std``, which the first training measures.

    Data are standardised on the way in, samples are restored on the way out, and log-densities are less by the logarithm of the
    volume, ``Σ log std``. So training on ``a x + b`` gives the same model as training on `x`. The networks know nothing of units.
    Models for numbers of an interval, such as images in [0, 1] with a Bernoulli likelihood, take the data as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moments = None

    @property
    def units(self) -> Units:
        """The units that data have in the model: their own, until `fit` sets others, or you do. With ``model.units = Units()``
        data stay as they are.
        """
        return Units() if self.given_units is None else self.given_units

    @units.setter
    def units(self, units: Units) -> None:
        self.given_units = units

    @property
    def interval(self) -> tuple[float, float] | None:
        """The interval of the numbers that the model is made for; None where it is made for all numbers."""
        return None

    def measure(self, moments: Moments) -> None:
        """Take the data in units of their spread, unless units were given, or the model is made for numbers of an interval.

        Parameters
        ----------
        moments
            Moments of the data, in their own units.

        Raises
        ------
        ValueError
            If the model is made for numbers of an interval, in which the data cannot all lie.
        """
        if self.interval is None:
            super().measure(moments)
        elif self.given_units is None:
            low, high = self.interval
            mean, variance = moments.mean.double().flatten(), moments.variances()
            # the mean square of the distance from the middle of an interval is at most that of its ends
            if ((mean - 0.5 * (low + high)).square() + variance > 1.001 * (0.5 * (high - low)) ** 2).any():
                raise ValueError(
                    f"{type(self).__name__} is made for numbers from {low:g} to {high:g}, and the data have means up to "
                    f"{mean.abs().max():.4g} and standard deviations up to {variance.max().sqrt():.4g}; bring them there, as "
                    f"images.scaled({low:g}, {high:g}) does, or take a network or likelihood without such ends."
                )

    def standardised(self, x: Tensor) -> Tensor:
        """Return data in the units of the model, in the dtype of its weights, float32 at least; data of half precision keep
        theirs.
        """
        check_tensor("x", x, finite=False)
        u = self.units.standardise(widened(x)) if not self.units.plain else x
        dtype = x.dtype if x.dtype.itemsize <= 2 else at_least_single(dtype_of(self, x))
        return u.to(dtype)

    def restored(self, u: Tensor) -> Tensor:
        """Return data in their own units; the inverse of `standardised`, in a dtype that tells them apart."""
        return self.units.restore(u)

    def log_volume(self, x: Tensor) -> float:
        """Return ``Σ log std`` over the coordinates of data `x`, by which their log-density is below that in the model's
        units.
        """
        return self.units.log_det(torch.Size(x.shape[1:]))
