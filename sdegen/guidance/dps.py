"""Approximate posteriors by a likelihood that takes the predicted data for the true ones: `DPS`, and the law of its samples."""

from __future__ import annotations

__all__ = ["DPS"]

from torch import Tensor

from ..laws.operators import rows
from ..laws.vectors import dot
from .conjugate_gradients import Map
from .measured import MeasurementGuidance


class DPS(MeasurementGuidance):
    """Diffusion posterior sampling (DPS): a measurement model with ``Q = std²``, which ignores the uncertainty of the
    predicted data, and whose guidance is shortened where it is longer than true guidance can be.

    H. Chung et al., *Diffusion posterior sampling for general noisy inverse problems*, 2022, arXiv:2209.14687. At large noise the
    slope is too steep by orders of magnitude, so that any step is too long; the paper gives the guidance a fixed length for each
    step. Here the length has a bound. The mean square of the true change of the predicted noise,
    ``Rᵀ ∇ log p(y | x_t) = E[z | x_t] − E[z | x_t, y]``, is the variance that `y` takes from `z`. For Gaussian data this is at
    most the number of measured numbers, or of a datum's numbers if they are fewer. Guidance that is longer than twice the root of
    that number is shortened to this length. So a run cannot diverge: states are moved by multiples of the noise that is left.

    DPS is biased however many steps it takes; its paper bounds the error of the likelihood, and leaves the law of the samples
    open. For independent Gaussian numbers of variance `v`, each measured as `y` with noise of standard deviation `s`, this law is
    known: with ``r = v / s²``, and guidance that is not shortened,

        reversed process       N(y (1 − exp(−r)), s² (1 − exp(−2r)) / 2),
        flow                   N(y √(2r) F(√(r/2)), v exp(−r)),   F Dawson's function,
        posterior              N(y r / (1 + r), s² r / (1 + r)).

    So with noise the mean is too near to `y`, by up to 0.46 of the posterior's standard deviation for `y` of the expected size,
    and the standard deviation is down to 0.71 of the posterior's. Without noise precisely measured numbers hardly vary at all.
    `MomentMatching` is exact for such data.

    Parameters
    ----------
    model, measurement, scale, interval
        As for `MeasurementGuidance`.
    """

    def apply_precision(
        self, residual: Tensor, std: Tensor | float, back: Map, data: Tensor, t: Tensor | float
    ) -> Tensor:
        """Return ``residual / std²``: the slope of the log-likelihood."""
        return residual / std**2

    def limit(self, slope: Tensor, m: int, t: Tensor | float) -> Tensor:
        """Return the slope, shortened to ``|scale Rᵀ slope|² = 4 min(m, d)`` if it is longer; `d` is the number of a datum's
        numbers.
        """
        push = self.scale * self._marginal(t).R.T(slope)
        most = 4.0 * min(m, self.sde.project(slope)[0].numel())
        return slope * rows((most / dot(push, push).clamp_min(most)).sqrt(), slope)
