"""Score models given a measurement, by approximations of ``∇ log p(y | x_t)``, for samples of ``p(x_0 | y)`` (inverse problems).

The likelihood of a noised state is ``∫ p(y | x_0) p(x_0 | x_t) dx_0``. Each wrapper takes a Gaussian for the unknown second
factor: of no width (`DPS`), of the width that it has for Gaussian data (`PiGDM`), or of the model's own covariance
(`MomentMatching`). If the map is not linear, `A` is its derivative at the predicted datum; if the noise is not Gaussian, it is
replaced by `NoiseLaw.local_gaussian` there. All are wrong for mixtures; `benchmarks/posterior_table.py` shows by how much, and
`measurements.mixture_posterior` is exact.
"""

from __future__ import annotations

__all__ = ["CovarianceGuidance", "GivenMeasurement", "MeasurementGuidance", "MomentMatching", "PiGDM"]

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_count
from ..conditions import Conditions
from ..laws.mixtures import Moments
from ..laws.operators import rows
from ..laws.products import pull_back
from ..laws.vectors import dot
from ..models.score import ScoreModel
from .base import Guided, Tilted
from .conjugate_gradients import Map, conjugate_gradients, minimal_residuals
from .measurements import LinearMeasurement, Measurement, posterior_moments
from .measuring import as_measured, refuse_own_y, require_measured
from .misfit import warn_of_misfit

MANY = 256  # numbers of a datum, above which no covariance is formed


class GivenMeasurement(Guided):
    """A wrapper that takes a measurement as the condition `y`, and does not pass it on to the model inside.

    Parameters
    ----------
    model
        A score model.
    """

    measurement: Measurement
    conditioned = True
    exactly = False  # whether samples are to agree with `y` exactly, as if it had no noise

    @property
    def conditions(self) -> Conditions:
        """The conditions of the model inside, and `y`."""
        return refuse_own_y(self.model).plus("y")

    def with_rows(self, cond: dict[str, Any], x: Tensor, n: int) -> list[str]:
        """Return the names of the conditions with a row for each sample.

        `y` has rows if it has one axis more than a measurement of one datum, and `n` of them.
        """
        named = super().with_rows(self.passed_on(**cond), x, n)
        if "y" not in cond:
            return named
        y, one = as_measured(cond["y"]), self.measurement.measure(self.sde.project(torch.zeros_like(x[:1])))
        return [*named, "y"] if y.ndim == one.ndim and len(y) == n else named

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments given `y` of Gaussian data with the model's moments; None unless the measurement is linear and data
        have few numbers.
        """
        known, A = self.model.conditional_moments(**self.passed_on(**cond)), self.measurement
        if known is None or "y" not in cond or known.mean.numel() > MANY or not isinstance(A, LinearMeasurement):
            return None
        return posterior_moments(known, A, as_measured(cond["y"]))

    def examine(self, x: Tensor, /, **cond: Any) -> None:
        """Warn of samples that fit `y` worse or better than noise does, if the run is to sample the posterior (`is_whole`)."""
        if "y" in cond and self.is_whole():
            warn_of_misfit(self.measurement, as_measured(cond["y"]), x, self.exactly)
        super().examine(x, **cond)

    def is_whole(self) -> bool:
        """Tell whether the posterior itself is meant, and not a weaker or stronger tilt."""
        return True

    def check_run(self, /, **cond: Any) -> None:
        """Refuse a run that the model inside refuses, and a measurement that does not measure each datum alone."""
        self.measurement.refuse_mixing(self)
        super().check_run(**cond)

    def passed_on(self, /, **cond: Any) -> dict[str, Any]:
        """Return the conditions without `y`."""
        return {k: v for k, v in cond.items() if k != "y"}


@asked_as("a PiGDM, MomentMatching or DPS around a score model")
class MeasurementGuidance(GivenMeasurement, Tilted):
    """A score model conditioned on a measurement of its data, by ``p(y | x_t) ≈ N(y; A E[x_0 | x_t], Q_t)`` with `Q` taken
    as constant, for any measurement: the map is linearised, and the noise made Gaussian, at the predicted datum.

    ``∇ log p(y | x_t) ≈ (∂ A E[x_0 | x_t] / ∂x)ᵀ Q_t⁻¹ (y − A E[x_0 | x_t])``: one evaluation of the model and its derivative.
    The measured values are the condition `y` of a run, ``sample(wrapper, n, y=y)``, in the shape that the measurement returns:
    without a batch for all samples, or with a row for each. A run ends with a warning if most samples fit `y` worse than its
    noise allows, or better (`find_misfit`), as if steps are too long for the noise of a precise measurement. Where noise is small
    the guidance changes quickly, and a deterministic sampler carries errors of a network to the end: take a sampler with noise,
    such as ``ExponentialSDE(50)``.

    Parameters
    ----------
    model
        A score model of a linear process.
    measurement
        What was done to the data.
    scale, interval
        As for `Tilted`.

    Raises
    ------
    TypeError
        If the process is not linear, or `measurement` is not a measurement.
    ValueError
        If the scale is not finite, or the interval out of order; at a call, if `y` is missing, has another shape or is impossible
        under the noise, or the measurement of a predicted datum is not finite or has no derivative.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement,
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(model, scale, interval)
        self.measurement = measurement

    def is_whole(self) -> bool:
        """Tell whether the likelihood has the power 1 at all times."""
        return self.scale == 1 and self.interval is None

    def tilted(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the model's clean state and noise, and the approximate ``∇ log p(y | x_t)``."""
        return self.tilt_with_log_density(x, t, False, **cond)[:3]

    def tilt_with_log_density(
        self, x: Tensor, t: Tensor | float, weighed: bool = True, /, **cond: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return clean state, noise and gradient as `tilted` does, and ``log p(y | x_t)``, ``(B,)``, up to a constant.

        For Gaussian noise this is ``−½ residualᵀ Q⁻¹ residual − ½ log |Q|``, without the determinant unless `weighed`.
        """

        def look(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            x_0, eps = self.model.estimate(x, t, **self.passed_on(**cond))
            return self.measurement.measure(self.sde.project(x_0)), (x_0, eps)

        try:
            seen, (x_0, eps), back = pull_back(look, x)
            height, residual, std = self.measurement.local_gaussian(require_measured(cond, seen), seen)
            u = self.apply_precision(residual, std, back, self.sde.project(x_0), t)
            slope = self.limit(back(u), residual[0].numel(), t)
        except RuntimeError:
            self.measurement.explain_failure(self.sde.project(x))
            raise
        self.measurement.check_derivative(seen, u, slope)
        log_density = height - 0.5 * dot(residual, u)
        if weighed:
            log_density = log_density - self.log_width(residual, std, back, self.sde.project(x_0), t)
        return x_0, eps, slope, log_density

    @abstractmethod
    def apply_precision(
        self, residual: Tensor, std: Tensor | float, back: Map, data: Tensor, t: Tensor | float
    ) -> Tensor:
        """Return ``Q_t⁻¹ residual`` for noise of standard deviation `std`, near the predicted data; `back` multiplies by the
        transpose of ``∂ A E[x_0 | x_t] / ∂x``.
        """

    def log_width(
        self, residual: Tensor, std: Tensor | float, back: Map, data: Tensor, t: Tensor | float
    ) -> Tensor | float:
        """Return ``½ log |Q / std²|``, ``(B,)``, up to a constant of all states: 0 if `Q` is taken to be the same in all."""
        return 0.0

    def limit(self, slope: Tensor, m: int, t: Tensor | float) -> Tensor:
        """Return the slope, shortened to the largest length that `m` measured numbers can cause; by default as it is."""
        return slope


class CovarianceGuidance(MeasurementGuidance):
    """A measurement model with ``Q = std² + A V Aᵀ``, `V` the covariance of the data given the state; subclass it
    with `spread`, the products with ``A V Aᵀ`` by which ``Q⁻¹`` is found.

    Parameters
    ----------
    model, measurement, scale, interval
        As for `MeasurementGuidance`.
    iterations
        The number of iterations of the conjugate gradients; by default that of the measured numbers, at most 30.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement,
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
        iterations: int | None = None,
    ) -> None:
        super().__init__(model, measurement, scale, interval)
        self.iterations = None if iterations is None else check_count("iterations", iterations)

    def apply_precision(
        self, residual: Tensor, std: Tensor | float, back: Map, data: Tensor, t: Tensor | float
    ) -> Tensor:
        """Return ``Q⁻¹ residual``, solved in units of the noise, which may differ from number to number."""
        spread = self.spread(back, data, t)
        return self.solve(lambda u: u + spread(u / std) / std, residual / std) / std

    def solve(self, product: Map, b: Tensor) -> Tensor:
        """Return ``M⁻¹ b`` for ``M = Q / std²``, at least 1, which is given by products ``M u``; here by conjugate gradients."""
        return conjugate_gradients(product, b, self.iterations)

    @abstractmethod
    def spread(self, back: Map, data: Tensor, t: Tensor | float) -> Map:
        """Return the product ``u -> A V Aᵀ u``; arguments as for `apply_precision`."""


class PiGDM(CovarianceGuidance):
    """Pseudoinverse guidance (ΠGDM): a measurement model with ``Q = std² + r_t² A Aᵀ``, `r_t²` the posterior variance of
    Gaussian data, in their own units.

    ``r_t² = v / (1 + v snr)`` for data of variance `v` a coordinate, which is exact for ``N(0, v)``. J. Song, A. Vahdat, M.
    Mardani, J. Kautz, *Pseudoinverse-guided diffusion models for inverse problems*, 2023. The paper's data have ``v = 1``, and it
    also multiplies the guidance by ``r_t²``, which Bayes' rule does not.

    Parameters
    ----------
    model, measurement, scale, interval
        As for `MeasurementGuidance`.
    variance
        `v`; by default that of the model's moments.
    iterations
        The number of iterations of the conjugate gradients that solve with `Q`; by default that of the measured numbers, at most
        30.

    Raises
    ------
    ValueError
        If the variance is not positive; at a call, if it is neither given nor known to the model.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        measurement: Measurement,
        scale: float = 1.0,
        interval: tuple[float, float] | None = None,
        variance: float | None = None,
        iterations: int | None = None,
    ) -> None:
        super().__init__(model, measurement, scale, interval, iterations)
        if variance is not None and not variance > 0:
            raise ValueError(f"variance = {variance}; give the variance of the data, a positive number.")
        self.variance = variance

    def spread(self, back: Map, data: Tensor, t: Tensor | float) -> Map:
        """Return ``u -> r_t² A Aᵀ u``."""
        v, units = self.variance, self.sde.units
        forth, transpose = self.measurement.product_at(data), self.measurement.transpose_at(data)
        if v is None:
            v = float(self.require_moments(", or give variance=..., that of a coordinate of the data").variance())
        v = v / units.scale**2
        r_squared = v / (1 + v * self.sde.snr(t))
        return lambda u: rows(r_squared, u) * forth(units.stretch(units.stretch(transpose(u))))


class MomentMatching(CovarianceGuidance):
    """A measurement model with ``Q = std² + A Cov[x_0 | x_t] Aᵀ`` and the score model's own covariance: exact for Gaussian data.

    By Tweedie's formula ``Cov[x_0 | x_t] = (∂E[x_0 | x_t] / ∂x) R Rᵀ Phi⁻ᵀ``, of which only products with vectors are formed: one
    derivative of the model for each iteration. F. Rozet et al., *Learning diffusion priors from observations by
    expectation maximization*, 2024, arXiv:2405.13712; B. Boys et al., *Tweedie moment projected diffusions for inverse problems*,
    2023, arXiv:2310.06721. The derivative of a network is wrong along directions in which data hardly vary: if few places of a
    smooth series are measured precisely, samples may be too wide between these. `KalmanUpdate` takes no derivative.

    Parameters
    ----------
    model, measurement, scale, interval
        As for `MeasurementGuidance`.
    iterations
        The number of iterations of the minimal residuals that solve with `Q`; by default that of the measured numbers, at most
        30. The derivative of a network is a covariance only along some directions: it is used as far as it is symmetric and
        positive.
    """

    def solve(self, product: Map, b: Tensor) -> Tensor:
        """Return ``M⁻¹ b`` along directions in which `M` is at least 1, as it is where the derivative is a covariance."""
        return minimal_residuals(product, b, self.iterations, 1.0)

    def log_width(
        self, residual: Tensor, std: Tensor | float, back: Map, data: Tensor, t: Tensor | float
    ) -> Tensor | float:
        """Return ``½ log |1 + A Cov Aᵀ / std²|``, ``(B,)``, by one derivative for each measured number.

        Negative eigenvalues, which the derivative of a network may have, count as 0.

        Raises
        ------
        ValueError
            If more than 256 numbers are measured.
        """
        m, spread = residual[0].numel(), self.spread(back, data, t)
        if m > MANY:
            raise ValueError(
                f"{m} numbers are measured, and their determinant takes as many derivatives; give at most {MANY}, or use PiGDM."
            )
        basis = torch.eye(m, dtype=residual.dtype, device=residual.device).reshape(m, *residual.shape[1:])
        S = torch.stack([(spread(e.expand_as(residual) / std) / std).flatten(1) for e in basis], 2)
        return 0.5 * torch.linalg.eigvalsh(0.5 * (S + S.mT)).clamp_min(0).log1p().sum(1)

    def spread(self, back: Map, data: Tensor, t: Tensor | float) -> Map:
        """Return ``u -> A Cov Aᵀ u``."""
        to_clean, sde, forth = self.to_clean(t), self.sde, self.measurement.product_at(data)
        return lambda u: forth(sde.units.stretch(sde.extract(to_clean(back(u)))))
