"""Approximate posteriors by the best linear estimate of clean data, without derivatives of the model: `KalmanUpdate`."""

from __future__ import annotations

__all__ = ["KalmanUpdate"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..laws.mixtures import Moments
from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from ..warning import warn_caller
from .base import CleanState
from .conjugate_gradients import Map, conjugate_gradients
from .measured import GivenMeasurement
from .measuring import LinearMeasurement, require_measured

MOST = 1000  # iterations, by default
SIGNS = 8  # vectors of random signs, by which the diagonal of a map is estimated
SMALL = 1024  # numbers of a datum, up to which a matrix may be formed
MISSED = 0.1  # standard deviations of the noise, by which predicted data may miss the measured values


class KalmanUpdate(GivenMeasurement, CleanState):
    """A score model whose predicted clean data are corrected by a linear measurement as a Kalman filter corrects its prediction:
    ``x_0' = x_0 + V Aᵀ (std² + A V Aᵀ)⁻¹ (y − A x_0)``, with `V` the covariance of Gaussian data given the state.

    ``V = (C⁻¹ + snr_t)⁻¹`` for data of covariance `C`, which makes the correction exact for Gaussian data (R. Kalman, *A new
    approach to linear filtering and prediction problems*, 1960). `MomentMatching` takes `V` from the derivative of the model,
    which holds for data of any law, but for a network is no covariance along directions in which data hardly vary; in a smooth
    series that is measured precisely most directions are such. Here no derivative is taken: it costs one evaluation of the model,
    and samples agree with a precise measurement whatever the errors of the model. For data that are not Gaussian `V` is too wide,
    and the result is an approximation, like that of `PiGDM`.

    Parameters
    ----------
    model
        A score model of a linear process.
    measurement
        The measurement of the data, a linear map.
    covariance
        `C` of the flattened data, ``(d, d)``, or their variances, ``(d,)``. By default that of the model's moments, which for
        data of more than 64 numbers are only variances.
    iterations
        The number of iterations of the conjugate gradients that are used if only variances are known. They solve with
        ``std² + A V Aᵀ`` in float64, preconditioned by its diagonal; by default twice as many as measured numbers, at most 1,000.
        Their residual bounds the error of the result in units of the posterior. If it is more than a tenth, data of up to 1,024
        numbers are corrected by a matrix; for larger data, or if `iterations` was given, there is a warning.

    Raises
    ------
    TypeError
        If the process or the measurement is not linear, or the covariance is not a tensor of floating-point numbers.
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
        residual, C = (require_measured(cond, seen) - seen) / A.std, self._prior_covariance(data)
        snr = torch.as_tensor(self.sde.snr(t)).to(data).reshape(-1)
        moved = (self._solve if C.ndim == 2 else self._iterate)(residual, C, snr, data)
        return self._restated(t, x_0, eps, self.sde.standardise(data + moved).to(x_0))

    def _solve(self, residual: Tensor, C: Tensor, snr: Tensor, data: Tensor) -> Tensor:
        """Return the correction for a covariance matrix or variances `C`, with `residual` in units of the noise.

        It takes the singular values of ``A V^½ / std``, which are accurate however precise the measurement is.
        """
        values, basis = torch.linalg.eigh(C) if C.ndim == 2 else (C, torch.eye(len(C)).to(C))
        directions = self.sde.units.stretch(basis.T.reshape(-1, *data.shape[1:]))  # (d, *)
        seen, values = as_vectors(self.measurement.measure(directions)).T / self.measurement.std, values.clamp_min(0)

        def correct(level: Tensor, r: Tensor) -> Tensor:
            root = (1 / values + level).rsqrt()  # 0 for data that do not vary, also at a time without noise
            U, sizes, Wt = torch.linalg.svd(seen * root, full_matrices=False)
            return (r @ U * (sizes / (1 + sizes.square()))) @ Wt * root

        levels, which = snr.unique(return_inverse=True)
        which, r = which.expand(len(data)), as_vectors(residual)
        moved = torch.cat([correct(level, r[which == k]) for k, level in enumerate(levels)])
        back = which.argsort(stable=True).argsort()
        return (moved[back] @ as_vectors(directions)).reshape(data.shape)

    def _iterate(self, residual: Tensor, variances: Tensor, snr: Tensor, data: Tensor) -> Tensor:
        """Return the correction for variances, by conjugate gradients; warn if these do not converge."""
        A, units = self.measurement, self.sde.units
        root = (1 / variances + snr[:, None]).rsqrt().reshape(-1, *data.shape[1:])
        transpose = A.transpose_at(data)

        def forth(v: Tensor) -> Tensor:
            return A.measure(units.stretch(root * v)) / A.std

        def back(u: Tensor) -> Tensor:
            return root * units.stretch(transpose(u)) / A.std

        scale = (1 + _diagonal(forth, root)).rsqrt()
        iterations = min(2 * residual[0].numel(), MOST) if self.iterations is None else self.iterations
        u = conjugate_gradients(lambda u: scale * (scale * u + forth(back(scale * u))), scale * residual, iterations)
        v = back(scale * u)
        missed = as_vectors((residual - scale * u - forth(v)).square()).mean(1).amax().sqrt().item()
        if missed > MISSED and self.iterations is None and len(variances) <= SMALL:
            return self._solve(residual, variances, snr, data)
        if missed > MISSED:
            warn_caller(
                f"KalmanUpdate has not solved for what was measured in {iterations} iterations: predicted data miss y by "
                f"{missed:.2g} standard deviations of the noise; give more iterations, or the covariance as a matrix, which "
                "needs none."
            )
        return units.stretch(root * v)

    def _prior_covariance(self, data: Tensor) -> Tensor:
        """Return the covariance of the data, or their variances, in the units of the process.

        Raises
        ------
        ValueError
            If the given covariance is that of data of another size.
        """
        moments = self.require_moments(", or give covariance=..., that of the data")
        if self.covariance is not None:
            moments = Moments(moments.mean, self.covariance.cpu())
        C = moments.covariance
        if len(C) != data[0].numel():
            raise ValueError(
                f"covariance has shape {tuple(C.shape)}, of data of {data[0].numel()} numbers; give theirs."
            )
        return moments.in_units(self.sde.units).covariance.to(data)


def _diagonal(forth: Map, root: Tensor) -> Tensor:
    """Return an estimate of ``diag(H Hᵀ)`` of a map `H`: the mean square of ``H s`` over random signs `s`.

    It is exact if every measured number depends on one coordinate.

    Parameters
    ----------
    forth
        The product with `H`.
    root
        A tensor of the shape of the vectors that `H` takes, with a row for each.
    """
    draws = torch.Generator().manual_seed(0)
    signs = [torch.randint(0, 2, root.shape[1:], generator=draws).to(root) * 2 - 1 for _ in range(SIGNS)]
    return torch.stack([forth(s.expand(len(root), *s.shape)).square() for s in signs]).mean(0)
