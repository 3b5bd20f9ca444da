"""The laws of a nonlinear SDE: what stands in for closed forms agrees with simulation, and derivatives reach the drift."""

from __future__ import annotations

__all__ = [
    "NONLINEAR",
    "SIMULATED",
    "derivatives_reach_the_drift",
    "perturb_follows_the_simulation",
    "reversal_pulls_along_the_score",
    "short_kernel_agrees_with_half_steps",
]

import torch
from torch import Tensor

from ...laws.operators import rows
from ...processes.base import SDE
from ...processes.dynamics import diffusion_at
from ...processes.nonlinear import calibrate_lag
from ...processes.simulate import simulate
from ..report import EXACT, QUADRATURE, Law, Violation, close, derivative, same_law
from .probes import SHAPES, data, euler_steps, generator, into_domain, shapes, states, times


def short_kernel_agrees_with_half_steps(sde: SDE) -> None:
    """The lag of denoising targets is short enough: a kernel equals two half-kernels within the declared tolerance."""
    x_0 = 0.5 * data(256, 2)
    if sde.lag is not None:
        found = calibrate_lag(sde, x_0, sde.lag_tolerance)
        if not sde.lag <= 2 * found:
            raise Violation(f"lag = {sde.lag:g}, but half-steps agree only from {found:.3g}")
    else:
        calibrate_lag(sde, x_0, sde.lag_tolerance)


def derivatives_reach_the_drift(sde: SDE) -> None:
    """Reverse-mode derivatives of the drift in `x` equal finite differences: no ``detach``, no NumPy."""
    t = times(sde, 5)
    x = states(sde, 5, 3).requires_grad_()
    with torch.enable_grad():
        out = sde.drift(x, t)
        slope = torch.zeros_like(x)  # of a drift that does not depend on the state
        if out.requires_grad:
            (slope,) = torch.autograd.grad(out.sum(), x, allow_unused=True, materialize_grads=True)
    x, d = x.detach(), x[0].numel()
    h = torch.full((5,), 1e-3, dtype=torch.float64)
    for i in range(min(d, 8)):
        unit = torch.eye(d, dtype=torch.float64)[i].reshape(x.shape[1:])

        def along(u: Tensor, unit: Tensor = unit) -> Tensor:
            return sde.drift(x + rows(u, x) * unit, t).reshape(5, -1).sum(1)

        want = derivative(along, torch.zeros_like(h), h)
        close("derivative of the drift", slope.reshape(5, -1)[:, i], want, QUADRATURE, 1 + want.abs())


def reversal_pulls_along_the_score(sde: SDE) -> None:
    """For any score the reversed drift is ``f − ½ (1 + eta²) (∇·(G Gᵀ) + G Gᵀ score)``, its noise ``eta G``."""

    class Known:
        def score(self, x: Tensor, t: Tensor | float) -> Tensor:
            return torch.sin(3 * x) - x

    x, t = states(sde, 5, 3), times(sde, 5)
    z = torch.randn(x.shape, dtype=torch.float64, generator=generator())
    G = diffusion_at(sde, x, t)
    pull = G(G.T(Known().score(x, t))) + _divergence_by_differences(sde, x, t)
    for eta in (0.0, 0.6, 1.0):
        reverse = sde.reverse(Known(), eta)
        want = sde.drift(x, t) - 0.5 * (1 + eta**2) * pull
        close(f"drift of the reversal, eta = {eta}", reverse.drift(x, t), want, QUADRATURE, 1 + want.abs())
        close(f"noise of the reversal, eta = {eta}", diffusion_at(reverse, x, t)(z), eta * G(z), EXACT, 1.0)


def _divergence_by_differences(sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """Return ``(∇·(G Gᵀ))_i = Σ_j ∂_j (G Gᵀ)_ij`` by differences, with ``G Gᵀ e_j`` for the columns."""
    total, h = torch.zeros_like(x), torch.full((len(x),), 1e-3, dtype=torch.float64)
    for axis in torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, *x.shape[1:]):
        axis = axis.expand(x.shape)

        def column(u: Tensor, axis: Tensor = axis) -> Tensor:
            G = diffusion_at(sde, x + rows(u, x) * axis, t)
            return G(G.T(axis))

        total = total + derivative(column, torch.zeros_like(h), h)
    return total


def perturb_follows_the_simulation(sde: SDE) -> None:
    """`perturb` has the law at `t` of paths from the datum, statistically."""
    n, t = 4000, 0.3 * sde.T
    one = into_domain(torch.tensor([[0.7, -0.4]], dtype=torch.float64)) if shapes() is SHAPES else data(1)
    x_0 = one.expand(n, *one.shape[1:]).contiguous()
    want = simulate(sde, sde.lift(x_0), 0.0, t, steps=euler_steps(sde, t, 200), generator=generator())
    same_law("perturb", sde.perturb(x_0, t, generator=torch.Generator().manual_seed(21)).x, want)


SIMULATED: list[Law] = [short_kernel_agrees_with_half_steps]
NONLINEAR: list[Law] = [
    derivatives_reach_the_drift,
    reversal_pulls_along_the_score,
    perturb_follows_the_simulation,
]
