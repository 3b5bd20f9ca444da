"""Reference distributions of exponential integrators: Gaussian laws of the data whose probability flow is followed in
closed form.

An integrator follows the flow of its reference in closed form and interpolates only what the model says beyond it. The
reference is the whole difference between named families. A point mass gives data prediction (DPM-Solver++), a law of infinite
variance noise prediction (DPM-Solver, DEIS), and the standard normal the velocity. The Gaussian of the model's own moments is the
default; with it nothing is left to interpolate for Gaussian data of any covariance.

In direction `i` the reference has signal variance ``c_i`` and noise variance `n`. With the angle ``phi`` of a scalar
process, ``u = x / r`` and ``P² = c cos² phi + n sin² phi``, its flow keeps ``(u − cos(phi) m) / P``, and the model's flow obeys

    d[(u − cos(phi) m) / P] / dphi = q / P²,    q = P (v − v_reference(u)),

where `v` is the model's velocity: the integrand is bounded at both ends wherever ``c`` and ``n`` are not zero there.

The reversed process at the noise level `eta`, ``dx = [f x − ½ (1 + eta²) g² score] dt + eta g dw``, differs in one factor. Under
the reference ``y = x / alpha`` has the variance ``S = (P / cos phi)²``, and the noise has the variance ``d(tan² phi)``. So the
reference's score ``−n (y − m) / S`` makes ``(y − m) / S^{½ (1 + eta²)}`` a martingale, of variance ``S^{−eta²} / n``. Between the
angles of `t` and `s`, with ``k(phi) = S(s) / S(phi)``,

    u_s − cos_s m = P_s / P_t k(t)^{½ eta²} (u_t − cos_t m) + (1 + eta²) P_s ∫ k^{½ eta²} q / P² dphi
                    + P_s √((1 − k(t)^{eta²}) / n) z

in law, if `q` is a function of time. Gaussian data have ``q = 0``: every step has their law. At ``eta = 1`` around a point
mass the step without its integral is the bridge of the forward process.

With noise, ``q (P / sin phi)^a`` is interpolated. At ``eta = 1`` it is a martingale of the reversed process for ``a = 1``. At
``a = eta / (1 + eta)``, between this and 0, modes narrower than the data keep their width (docs/design.md).
"""

from __future__ import annotations

__all__ = ["Matched", "MatchedConditional", "Normal", "PointMass", "Reference", "ReferenceLaw", "Unbounded"]

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.mixtures import Moments
from ..models.score import ScoreModel
from ..show import show_call
from ..signatures import Overridable


class ReferenceLaw(NamedTuple):
    """The Gaussian law of a reference, or the limit of such laws.

    Attributes
    ----------
    mean
        The mean, of the shape of a datum, with a row for each sample if these have means of their own; ``()`` for zero.
    covariance
        ``(d, d)`` over the flattened datum, the variances of its coordinates ``(d,)``, or one variance for all ``()``.
    noise
        Variance of the process's noise in units of `covariance`: 1, or 0 in the limit of infinite variances.
    """

    mean: Tensor
    covariance: Tensor
    noise: float

    @property
    def event_shape(self) -> torch.Size:
        """The shape of a datum; ``()`` if all coordinates have one mean and variance."""
        return Moments(self.mean, self.covariance).event_shape if self.covariance.ndim else self.mean.shape

    def __repr__(self) -> str:
        return show_call(self)


class Reference(Overridable, ABC):
    """The base class of reference distributions: Gaussian laws of the data, or limits of such laws, whose flow is followed in
    closed form.
    """

    __repr__ = show_call

    @abstractmethod
    def law(self, model: ScoreModel) -> ReferenceLaw:
        """Return the law that is followed for a model, in the units of its process."""


_ZERO, _ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


class PointMass(Reference):
    """The reference with all data in one point: the integrator interpolates ``E[x_0 | x]`` (data prediction).

    C. Lu et al., *DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models*, 2022,
    arXiv:2211.01095.
    """

    def law(self, model: ScoreModel) -> ReferenceLaw:
        """Return a law without variance."""
        return ReferenceLaw(_ZERO, _ZERO, 1.0)


class Unbounded(Reference):
    """The reference with infinite variance: the integrator interpolates ``E[z | x]`` (noise prediction); needs ``alpha(T) > 0``.

    Q. Zhang, Y. Chen, *Fast sampling of diffusion models with exponential integrator* (DEIS), 2022, arXiv:2204.13902.
    """

    def law(self, model: ScoreModel) -> ReferenceLaw:
        """Return the limit of laws whose variance is infinite compared with that of the noise."""
        return ReferenceLaw(_ZERO, _ONE, 0.0)


class Normal(Reference):
    """The Gaussian reference ``N(0, variance I)``: with variance 1 the integrator interpolates the velocity.

    Parameters
    ----------
    variance
        Variance of every coordinate.

    Raises
    ------
    ValueError
        If `variance` is not positive.
    """

    @check_arguments
    def __init__(self, variance: float = 1.0) -> None:
        if not variance > 0:
            raise ValueError(f"variance = {variance}; it must be positive: PointMass is the limit 0.")
        self.variance = variance

    def law(self, model: ScoreModel) -> ReferenceLaw:
        """Return the law of one variance in all coordinates."""
        return ReferenceLaw(_ZERO, torch.tensor(self.variance, dtype=torch.float64), 1.0)


class Matched(Normal):
    """The Gaussian reference with the mean and covariance of the data, full or diagonal as the model has them.

    Gaussian data then cost one evaluation; on other data the high-noise half of the run, where every law looks Gaussian, takes
    few steps. B. Wang and J. Vastola, *The hidden linear structure in score-based models and its application*, 2023,
    arXiv:2311.10892, show that scores are close to those of the matched Gaussian at high noise.

    Raises
    ------
    ValueError
        In a run, if the model does not know its data's moments.
    """

    def __init__(self) -> None:
        super().__init__()

    def law(self, model: ScoreModel) -> ReferenceLaw:
        """Return the law of the data's moments."""
        return _gaussian(model.state_moments(", or choose the reference Normal()"))


class MatchedConditional(Normal):
    """The Gaussian reference with the mean and covariance of the law under the conditions of the run, if a model knows them
    (`ScoreModel.conditional_moments`), and otherwise a point mass.

    Under a linear measurement the moments follow from those of the data, as if the data were Gaussian; for Gaussian data a
    posterior then costs one evaluation. Each sample has the mean of its own conditions.
    """

    def __init__(self) -> None:
        super().__init__()

    def law(self, model: ScoreModel) -> ReferenceLaw:
        """Return the law of the moments under the conditions, or a point mass."""
        moments = model.conditional_moments()
        return PointMass().law(model) if moments is None else _gaussian(moments.in_units(model.sde.units))


def _gaussian(moments: Moments) -> ReferenceLaw:
    """Return a Gaussian of given moments."""
    mean, covariance = (v.detach().cpu().double() for v in moments)
    return ReferenceLaw(mean, covariance if len(covariance) > 1 else covariance.reshape(1), 1.0)
