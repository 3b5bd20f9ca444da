"""The exponential integrator of the reversed SDE.

Its steps draw from bridges of the forward process, which are exact: what it gets wrong is what it assumes of the model between
its evaluations.
"""

from __future__ import annotations

__all__ = [
    "ExponentialSDE",
    "ExponentialSDEStep",
    "Line",
    "bridge_root",
    "carry_deviation",
    "line_through",
    "signal_weights",
]

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.interpolation import lagrange, rule
from ..laws.kernels import posterior
from ..laws.operators import Operator
from ..laws.products import value_and_slope
from ..models.score import ScoreModel
from ..processes.grids import Grid
from ..processes.linear import LinearSDE
from ..processes.scalar import is_scalar
from .base import Noise, Sampler, require_linear
from .clocks import Clock, angle
from .exponential import check_distinct


class ExponentialSDEStep(NamedTuple):
    """Coefficients of a step ``x_s = C x_t + Σ_j W_j E[x_0 | x_j] + root z``, newest evaluation first, with the clean
    state as a question.
    """

    clean: Any
    C: Operator
    W: list[Operator]
    root: Operator


class ExponentialSDE(Sampler[ExponentialSDEStep, list[Tensor]]):
    """An exponential Adams method for the reversed SDE, of the family of SDE-DPM-Solver++: clean data are interpolated;
    one evaluation a step.

    With `E[x_0 | x]` a known function of time, ``dx = [F x − ½ (1 + eta²) G Gᵀ score] dt + eta G dw`` is linear and is solved
    in law, noise included; here it is the polynomial through the evaluations at hand, in a clock:

        x_s = C x_t + Σ_j W_j E[x_0 | x_j] + root z,    C = Psi_s Psi_t⁻¹,    W_j = ∫_t^s l_j d(Psi_s Psi_u⁻¹ Phi_u),

    where ``Psi' = (F + ½ (1 + eta²) G Gᵀ Sigma⁻¹) Psi``. At ``eta = 1``, ``Psi = Sigma Phi⁻ᵀ`` and `C`, `root` are those of
    the bridge ``q(x_s | x_t, x_0)``, so order 1 is `Ancestral`; at ``eta = 0``, ``Psi = R`` and this is `Multistep` with
    `PointMass`, order 1 `DDIM`. Order 2 with the clock `log_ratio` is SDE-DPM-Solver++(2M) with its integrals exact
    (C. Lu et al., *DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models*, 2022,
    arXiv:2211.01095); SA-Solver (S. Xue et al., 2023, arXiv:2309.05019) and SEEDS (M. Gonzalez et al., 2023,
    arXiv:2305.14267) are of the same family. The order is the weak one; the first step is of order 1.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        1 or 2.
    eta
        Noise level of the reversed SDE: 1 its own, 0 the probability flow; on matrix processes one of these two.
    clock
        The variable of the interpolating line: `angle`, `share`, `log_ratio`, or a function of the angle.

    Raises
    ------
    ValueError
        If `order` is not 1 or 2, or `eta` negative; in a run, if `eta` is not 0 or 1 on a matrix process, or the clock
        of a step of order 2 is infinite.
    TypeError
        In a run, if the process is not linear.
    """

    @check_arguments
    def __init__(
        self, steps: int = 20, grid: Grid | None = None, order: int = 2, eta: float = 1.0, clock: Clock = angle
    ) -> None:
        super().__init__(steps, grid)
        if order not in (1, 2):
            raise ValueError(f"order = {order}; ExponentialSDE has order 1 or 2, for more use Multistep without noise.")
        if not eta >= 0:
            raise ValueError(f"eta = {eta}; the noise level of a reversed process is at least 0.")
        self.order, self.eta, self.clock = order, eta, clock
        self.convergence_order = order

    def plan(self, model: ScoreModel, times: Tensor) -> list[ExponentialSDEStep]:
        """Plan the weights and roots of every step."""
        sde = require_linear(self, model.sde)
        if not is_scalar(sde) and self.eta not in (0, 1):
            raise ValueError(
                f"eta = {self.eta} on {type(sde).__name__}: between 0 and 1 its steps have no closed form; "
                "use eta = 0, eta = 1, or DDIM(eta)."
            )
        steps = []
        phi = sde.angle_at(times)
        check_distinct(torch.stack([phi[:-1], phi[1:]], 1))
        z, _ = rule()
        inner = phi[:-1, None] + (phi[1:] - phi[:-1])[:, None] * z
        clean = model.ask(times[:-1], denoise=sde.marginal(times[:-1]).Phi.one())
        inner_times = sde.time_of_angle(inner.reshape(-1)).reshape(inner.shape)  # all at once: it is a search
        for k, (t, s) in enumerate(pairwise(times)):
            seen = slice(max(0, k + 1 - self.order), k + 1)
            line = line_through(self.clock, phi[seen].flip(0), phi[k : k + 2])
            W = signal_weights(sde, t, s, inner_times[k], line, self.eta)
            C, root = carry_deviation(sde, s, t, self.eta), bridge_root(sde, s, t, self.eta)
            C, *W, root = (A.prepared(model.like) for A in (C, *W, root))
            steps.append(ExponentialSDEStep(clean[k], C, W, root))
        return steps

    def step(
        self, model: ScoreModel, x: Tensor, c: ExponentialSDEStep, noise: Noise, state: list[Tensor] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Evaluate the model once, apply the formula, and add noise where ``eta > 0``."""
        x_0 = [model.answer(x, c.clean), *([] if state is None else state)]
        x_s = c.C(x)
        for W, seen in zip(c.W, x_0, strict=False):
            x_s = W.onto(x_s, seen)
        return (c.root.onto(x_s, noise(x)) if self.eta else x_s), x_0[: self.order - 1]


def carry_deviation(sde: LinearSDE, s: Tensor, u: Tensor, eta: float) -> Operator:
    """Return ``Psi_s Psi_u⁻¹``, the factor by which a deviation from the path of one datum shrinks from time `u` to `s`."""
    at_s, at_u = sde.marginal(s), sde.marginal(u)
    if eta == 1:
        return at_s.covariance @ sde.transition(s, u).Phi.T @ at_u.covariance.inv()
    return at_s.R @ at_u.R.inv() * (0.5 * eta**2 * sde.fall(s, u)).exp()


def bridge_root(sde: LinearSDE, s: Tensor, t: Tensor, eta: float) -> Operator:
    """Return a matrix root of ``Sigma_s − C Sigma_t Cᵀ``, the covariance of the noise that a step from `t` to `s` adds."""
    at_s = sde.marginal(s)
    if eta == 1:
        return posterior(at_s, sde.marginal(t), sde.transition(s, t)).covariance.sqrt()
    return at_s.R * (-torch.expm1(eta**2 * sde.fall(s, t))).sqrt()


class Line(NamedTuple):
    """Values at both ends of a step, and slopes in between, of the Lagrange polynomials of past evaluations, newest first."""

    start: Tensor
    end: Tensor
    slope: Tensor


def line_through(clock: Clock, seen: Tensor, ends: Tensor) -> Line:
    """Return the Lagrange polynomials of the angles `seen` over the step between the angles `ends`, in a clock.

    Raises
    ------
    ValueError
        If the clock is infinite at one of them.
    """
    nodes, (first, last) = clock(seen), ends
    if len(seen) > 1 and not (nodes.isfinite().all() and clock(ends).isfinite().all()):
        raise ValueError(
            f"the clock is infinite at one of the angles {[round(v, 6) for v in [*seen.tolist(), last.item()]]}; use the "
            "clock angle, or a grid that stays off the ends of the process."
        )
    z, _ = rule()
    _, slope = value_and_slope(lambda z: lagrange(nodes, clock(first + z * (last - first))), z, torch.ones_like(z))
    return Line(lagrange(nodes, clock(first)), lagrange(nodes, clock(last)), slope)


def signal_weights(sde: LinearSDE, t: Tensor, s: Tensor, inner: Tensor, line: Line, eta: float) -> list[Operator]:
    """Return ``W_j = ∫_t^s l_j dM`` with ``M(u) = Psi_s Psi_u⁻¹ Phi_u``, by parts: `M` is bounded also where its slope is
    not.
    """
    start = carry_deviation(sde, s, t, eta) @ sde.marginal(t).Phi
    between = carry_deviation(sde, s, inner, eta) @ sde.marginal(inner).Phi
    end = sde.marginal(s).Phi
    _, w = rule()
    weights = end * line.end - start * line.start - between.mix(line.slope * w)
    return [weights[j] for j in range(len(line.end))]
