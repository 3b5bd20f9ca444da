"""Exponential integrators of reversed linear processes, at every noise level: the formula that their samplers share.

All of these integrators are one formula. Between two times the reversed process of a *reference* (`references`) is followed in
law, in closed form. What the model says beyond it, `q`, is replaced by the polynomial in a *clock* (`clocks`) through the
evaluations at hand:

    x_s = carry(x_t) + Σ_j W_j q_j + root z,    W_j = Psi_s ∫_t^s l_j(clock) dK,    root rootᵀ = Cov_s − carry Cov_t carryᵀ,

where `Cov` is the covariance of the reference's states. Without noise (``eta = 0``) there is no root, and what is followed is
the probability flow. The weights are integrals of Lagrange polynomials, by quadrature in float64, once per run. They are numbers
if process and reference move each direction by itself (`directions`), and matrices otherwise (`channels`). An object from either
module, the `Pieces` of a process and a reference, forms the coefficients, and changes between states and the coordinates in which
coefficients act. `multistep`, `exponential_sde` and `singlestep` choose what is interpolated.
"""

from __future__ import annotations

__all__ = ["Pieces", "follows_moments", "plan_pieces"]

from ..models.score import ScoreModel
from ..processes.coordinates import CoordinateSDE, is_by_coordinate
from ..processes.linear import LinearSDE, as_linear
from ..processes.scalar import is_scalar
from .channels import Channels, UnboundedChannels
from .clocks import Clock
from .directions import ByCoordinate, Scalar
from .references import Matched, PointMass, Reference, ReferenceLaw

Pieces = Scalar | Channels
MOST = 32  # numbers of a state, up to which matrices and a table of them take no longer than a run
ROUNDING = 1e-9  # of the largest variance: smaller covariances count as 0


def plan_pieces(
    sde: LinearSDE,
    model: ScoreModel,
    reference: Reference | None,
    clock: Clock,
    eta: float = 0.0,
    lean: float = 0.0,
) -> Pieces:
    """Return the object that forms the coefficients of exponential integrators on a process around a reference.

    Parameters
    ----------
    sde, model
        A linear process, and a score model of it.
    reference
        The reference; by default the Gaussian of the data's moments if `follows_moments` says so, and else a point mass.
    clock
        The variable of the interpolating polynomials.
    eta
        The noise level of the reversed process.
    lean
        The exponent `a` of what is interpolated, ``q (P / sin phi)^a`` (`references`); of no effect on `channels`.
    """
    if reference is None:
        reference = Matched() if is_scalar(sde) or follows_moments(model) else PointMass()
    law = reference.law(model)
    if is_scalar(sde):
        return Scalar(sde, model, law, clock, eta, lean)
    if is_by_coordinate(sde) and not (_mixes(sde, law) and _few(sde, model)):
        return ByCoordinate(sde, model, law, clock, eta, lean)
    return (Channels if law.noise else UnboundedChannels)(sde, model, law, clock, eta)


def follows_moments(model: ScoreModel) -> bool:
    """Tell whether the default reference is the Gaussian of a model's moments, and not a point mass.

    It is if the moments are known, and the Gaussian takes no matrices over more than 32 numbers.
    """
    sde = as_linear(model.sde, ", and has no reference law.")
    return model.moments is not None and (is_scalar(sde) or is_by_coordinate(sde) or _few(sde, model))


def _few(sde: LinearSDE, model: ScoreModel) -> bool:
    """Tell whether the states of a model's data are known to have few numbers."""
    return model.moments is not None and sde.embed(model.moments.mean[None]).numel() <= MOST


def _mixes(sde: CoordinateSDE, law: ReferenceLaw) -> bool:
    """Tell whether coordinates along the axes of a process depend on each other under a law."""
    if law.covariance.ndim < 2:
        return False
    C = sde.along(law.covariance)
    return bool((C - C.diagonal().diag()).abs().max() > ROUNDING * C.abs().max())
