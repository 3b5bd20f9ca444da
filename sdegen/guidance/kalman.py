"""Posteriors by the best linear estimate of clean data, which takes no derivative of the model: `KalmanUpdate`."""

from __future__ import annotations

__all__ = ["KalmanUpdate"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..laws.mixtures import Moments
from ..models.score import ScoreModel
from .base import CleanState
from .conjugate_gradients import Map, conjugate_gradients
from .measured import GivenMeasurement
from .measuring import LinearMeasurement, check_measured

MOST = 1000  # iterations, by default


class KalmanUpdate(GivenMeasurement, CleanState):
    """A score model whose predicted clean data are corrected by a linear measurement as a Kalman filter corrects its prediction:
    ``x_0' = x_0 + V Aᵀ (std² + A V Aᵀ)⁻¹ (y − A x_0)``, with `V` the covariance of Gaussian data given the state.

    ``V = (C⁻¹ + snr_t)⁻¹`` for data of covariance `C`, which makes the correction exact for Gaussian data (R. Kalman, *A new
    approach to linear filtering and prediction problems*, 1960). `MomentMatching` takes `V` from the derivative of the model,
    which follows data of any law, but is no covariance along directions in which data hardly vary; of a smooth series measured
    precisely these are most. Here no derivative is taken: one evaluation of the model, whatever its errors, and a precise
    measurement is met. Of data that are not Gaussian `V` is too wide, and the result an approximation as `PiGDM` is.

    Parameters
    ----------
    model
        A score model of a linear process.
    measurement
        What was done to the data, a linear map.
    covariance
        `C` of the flattened data, ``(d, d)``, or their variances, ``(d,)``; that of the model's moments by default, of which
        data of more than 64 numbers have variances alone.
    iterations
        Of the conjugate gradients that solve with ``std² + A V Aᵀ`` in float64; twice as many as numbers measured, at most 1,000,
        by default.

    Raises
    ------
    TypeError
        If the process or the measurement is not linear, or the covariance is no tensor of floating point numbers.
    ValueError
        If the covariance has another shape or holds NaN or infinite values; at a call, if `y` is missing or has another shape,
        or no covariance is known.

    Examples
    --------
    >>> import torch, sdegen
    >>> from sdegen.guidance import measurements
    >>> law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([[[1.0, 0.9], [0.9, 1.0]]]))
    >>> first = measurements.Mask(torch.tensor([True, False]), std=0.01)
    >>> model = KalmanUpdate(sdegen.Exact(sdegen.VP(), law), first)
    >>> x = sdegen.sample(model, 4000, y=torch.tensor([1.0]), steps=10, seed=0)
    >>> abs(x.mean(0)[1].item() - 0.9) < 0.03 and abs(x.std(0)[1].item() - 0.436) < 0.03
    True
    """

    measurement: LinearMeasurement

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        measurement: LinearMeasurement,
        covariance: Tensor | None = None,
        iterations: int | None = None,
    ) -> None:
        super().__init__(model)
        self.measurement = measurement
        self.covariance = None if covariance is None else check_tensor("covariance", covariance)
        if covariance is not None and (covariance.ndim not in (1, 2) or len(set(covariance.shape)) != 1):
            raise ValueError(
                f"covariance has shape {tuple(covariance.shape)}; give that of d numbers, (d, d), or their variances, (d,)."
            )
        self.iterations = None if iterations is None else check_count("iterations", iterations)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the corrected clean state and its noise."""
        A = self.measurement
        x_0, eps = self.model.estimate(x, t, **self.passed_on(**cond))
        data = self.sde.project(x_0).double()
        seen = A.measure(data)
        residual = (check_measured(cond, seen) - seen) / A.std
        forth, transpose, covariance = A.product_at(data), A.transpose_at(data), self._covariance_at(data, t)
        iterations = min(2 * residual[0].numel(), MOST) if self.iterations is None else self.iterations
        u = conjugate_gradients(lambda u: u + forth(covariance(transpose(u))) / A.std**2, residual, iterations)
        moved = data + covariance(transpose(u)) / A.std
        return self._restated(t, x_0, eps, self.sde.standardise(moved).to(x_0))

    def _covariance_at(self, data: Tensor, t: Tensor | float) -> Map:
        """Return the product with the covariance of Gaussian data given the state at `t`.

        Raises
        ------
        ValueError
            If the covariance given is that of other data.
        """
        units, moments = self.sde.units, self.require_moments(", or give covariance=..., that of the data")
        if self.covariance is not None:
            moments = Moments(moments.mean, self.covariance.cpu())
        C = moments.covariance
        if len(C) != data[0].numel():
            raise ValueError(
                f"covariance has shape {tuple(C.shape)}, of data of {data[0].numel()} numbers; give theirs."
            )
        C = moments.in_units(units).covariance.to(data)
        snr = torch.as_tensor(self.sde.snr(t)).to(data).reshape(-1, 1)
        values, basis = torch.linalg.eigh(C) if C.ndim == 2 else (C, None)
        values = values.clamp_min(0) / (1 + snr * values.clamp_min(0))

        def product(v: Tensor) -> Tensor:
            u = units.stretch(v).flatten(1)
            u = values * u if basis is None else (values * (u @ basis)) @ basis.T
            return units.stretch(u.reshape(v.shape))

        return product
