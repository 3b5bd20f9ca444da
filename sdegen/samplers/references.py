"""Reference distributions of exponential integrators: Gaussian laws of the data whose probability flow is followed in
closed form.

An integrator follows the flow of its reference in closed form and interpolates only what the model says beyond it. The
reference is the whole difference between named families: a point mass gives data prediction (DPM-Solver++), a law
without bound noise prediction (DPM-Solver, DEIS), the standard normal the velocity, and the model's own moments the
default, for which a Gaussian of any covariance is no work at all.

In direction `i` the reference has signal variance ``c_i`` and noise variance `n`. With the angle ``phi`` of a scalar
process, ``u = x / r`` and ``P² = c cos² phi + n sin² phi``, its flow keeps ``(u − cos(phi) m) / P``, and the model's flow obeys

    d[(u − cos(phi) m) / P] / dphi = q / P²,    q = P (v − v_reference(u)),

where `v` is the model's velocity: the integrand is bounded at both ends wherever ``c`` and ``n`` are not zero there.

The reversed process at the noise level `eta`, ``dx = [f x − ½ (1 + eta²) g² score] dt + eta g dw``, differs in one factor. As
the reference gives ``y = x / alpha`` the variance ``S = (P / cos phi)²``, and ``d(tan² phi)`` is that of the noise, its own
score ``−n (y − m) / S`` makes ``(y − m) / S^{½ (1 + eta²)}`` a martingale, of variance ``S^{−eta²} / n``. So with
``k(phi) = S(s) / S(phi)``, between the angles of `t` and `s`,

    u_s − cos_s m = P_s / P_t k(t)^{½ eta²} (u_t − cos_t m) + (1 + eta²) P_s ∫ k^{½ eta²} q / P² dphi
                    + P_s √((1 − k(t)^{eta²}) / n) z

in law, if `q` is a function of time. Gaussian data have ``q = 0``: every step has their law. At ``eta = 1`` around a point
mass the step without its integral is the bridge of the forward process.

With noise, what is interpolated is ``q (P / sin phi)^a``: at ``eta = 1`` a martingale of the reversed process for ``a = 1``.
In between, at ``a = eta / (1 + eta)``, modes narrower than the data keep their width (docs/design.md).
"""

from __future__ import annotations

__all__ = ["Directions", "Matched", "MatchedConditional", "Normal", "PointMass", "Reference", "Unbounded"]

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.kernels import Transition, posterior
from ..laws.mixtures import Moments
from ..laws.operators import Operator
from ..models.score import ScoreModel
from ..show import show_call
from ..signatures import Overridable


class Directions(NamedTuple):
    """A Gaussian reference distribution in the eigenbasis of its covariance.

    Attributes
    ----------
    mean
        In those directions, one for all samples or ``(B, *)`` one for each; ``()`` for zero.
    signal, noise
        Variances: `signal` ``()``, or one for every direction; `noise` a number.
    Q
        Orthogonal, ``(d, d)``, from flattened data to directions; None where they are the coordinates.
    """

    mean: Tensor
    signal: Tensor
    noise: float
    Q: Tensor | None


class Reference(Overridable, ABC):
    """The base class of reference distributions: Gaussian laws of the data, or limits of them, whose flow is followed in
    closed form.
    """

    __repr__ = show_call

    @abstractmethod
    def directions(self, model: ScoreModel) -> Directions:
        """Return the reference distribution in the eigenbasis of its covariance, for a model of a scalar process."""

    def pieces(self, at: Transition, eta: float = 0.0) -> tuple[Operator, Operator]:
        """Return ``(Psi, M)``: on a matrix process ``d(Psi⁻¹ x) = d(Psi⁻¹ M) q`` and noise.

        Raises
        ------
        TypeError
            If the reference has no such form there.
        """
        raise TypeError(
            f"{type(self).__name__} is a reference for scalar processes; on a matrix process use PointMass or Unbounded."
        )

    def ask(self, model: ScoreModel, t: Tensor, at: Transition) -> list[Any]:
        """Return questions for the model's `q` at the times ``(N,)`` of a matrix process, whose marginals are `at`."""
        raise NotImplementedError

    def root(self, at_t: Transition, at_s: Transition, s_to_t: Transition, eta: float) -> Operator:
        """Return a root of the covariance of the noise that a step from `t` to `s` of a matrix process adds."""
        raise NotImplementedError


_ZERO, _ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


class PointMass(Reference):
    """The reference with all data in one point: the integrator interpolates ``E[x_0 | x]`` (data prediction).

    C. Lu et al., *DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models*, 2022,
    arXiv:2211.01095.
    """

    def directions(self, model: ScoreModel) -> Directions:
        """Return directions without signal variance."""
        return Directions(_ZERO, _ZERO, 1.0, None)

    def pieces(self, at: Transition, eta: float = 0.0) -> tuple[Operator, Operator]:
        """Return ``R`` and ``Phi`` without noise, ``Sigma Phi⁻ᵀ`` and ``Phi`` at ``eta = 1``.

        Raises
        ------
        ValueError
            If `eta` is neither.
        """
        if eta not in (0, 1):
            raise ValueError(
                f"eta = {eta} on a process that is not scalar: between 0 and 1 there is no closed form around a point mass; use "
                "eta = 0, eta = 1, the reference Unbounded(), or DDIM(eta)."
            )
        return (at.covariance @ at.Phi.T.inv() if eta else at.R), at.Phi

    def root(self, at_t: Transition, at_s: Transition, s_to_t: Transition, eta: float) -> Operator:
        """Return a root of the covariance of ``q(x_s | x_t, x_0)``."""
        return posterior(at_s, at_t, s_to_t).covariance.sqrt()

    def ask(self, model: ScoreModel, t: Tensor, at: Transition) -> list[Any]:
        """Return questions for ``E[x_0 | x]``."""
        return model.ask(t, denoise=at.Phi.one())


class Unbounded(Reference):
    """The reference with infinite variance: the integrator interpolates ``E[z | x]`` (noise prediction); needs ``alpha(T) > 0``.

    Q. Zhang, Y. Chen, *Fast sampling of diffusion models with exponential integrator* (DEIS), 2022, arXiv:2204.13902.
    """

    def directions(self, model: ScoreModel) -> Directions:
        """Return directions without noise variance."""
        return Directions(_ZERO, _ONE, 0.0, None)

    def pieces(self, at: Transition, eta: float = 0.0) -> tuple[Operator, Operator]:
        """Return ``Phi`` and ``(1 + eta²) R``."""
        return at.Phi, at.R * (1 + eta**2)

    def root(self, at_t: Transition, at_s: Transition, s_to_t: Transition, eta: float) -> Operator:
        """Return `eta` times the root of the forward transition's covariance, taken back to `s`."""
        return s_to_t.Phi.inv() @ s_to_t.R * eta

    def ask(self, model: ScoreModel, t: Tensor, at: Transition) -> list[Any]:
        """Return questions for ``E[z | x]``."""
        return model.ask(t, noise=at.Phi.one())


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

    def directions(self, model: ScoreModel) -> Directions:
        """Return one direction that stands for all."""
        return Directions(_ZERO, torch.tensor(self.variance, dtype=torch.float64), 1.0, None)


class Matched(Normal):
    """The Gaussian reference with the mean and covariance of the data, full or diagonal as the model has them.

    Gaussian data then cost one evaluation; on others the high-noise half of the run, where every law looks Gaussian, is
    almost free. That scores are close to those of the matched Gaussian at high noise: B. Wang and J. Vastola, *The hidden
    linear structure in score-based models and its application*, 2023, arXiv:2311.10892.

    Raises
    ------
    ValueError
        In a run, if the model does not know its data's moments.
    TypeError
        In a run, if the process is a matrix process.
    """

    def __init__(self) -> None:
        super().__init__()

    def directions(self, model: ScoreModel) -> Directions:
        """Return the eigenvectors of the covariance as directions."""
        return _eigenbasis(model.state_moments(", or choose the reference Normal()"))


class MatchedConditional(Normal):
    """The Gaussian reference with the mean and covariance of the law under the conditions of the run, where a model knows them
    (`ScoreModel.conditional_moments`), and a point mass where it does not.

    Of a linear measurement they follow from the moments of the data, as if these were Gaussian; of such data a posterior then
    costs one evaluation. Each sample has the mean of its own conditions.

    Raises
    ------
    TypeError
        In a run, if the process is a matrix process.
    """

    def __init__(self) -> None:
        super().__init__()

    def directions(self, model: ScoreModel) -> Directions:
        """Return the eigenvectors of the covariance as directions, or those of a point mass."""
        moments = model.conditional_moments()
        return PointMass().directions(model) if moments is None else _eigenbasis(moments.in_units(model.sde.units))


def _eigenbasis(moments: Moments) -> Directions:
    """Return a Gaussian of given moments in the eigenbasis of its covariance."""
    mean, covariance = (v.detach().cpu().double() for v in moments)
    shape = moments.event_shape
    if covariance.ndim < 2 or len(covariance) == 1:
        return Directions(mean, covariance.reshape(shape), 1.0, None)
    values, Q = torch.linalg.eigh(covariance)
    flat = mean.reshape(*mean.shape[: mean.ndim - len(shape)], len(Q))
    return Directions(flat @ Q, values.clamp_min(0.0), 1.0, Q)
