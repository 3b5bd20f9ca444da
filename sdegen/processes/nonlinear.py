"""Simulation of nonlinear processes: the Gaussian law of a short step, simulation to a time, and the choice of the step
length.

`SDE` builds its default kernels of these. Linear processes, whose laws are known at any distance, need none of them.
"""

from __future__ import annotations

__all__ = ["LocalLaw", "calibrate_lag", "local_law", "walk"]

from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.draws import noise_like
from ..laws.kernels import Kernel
from ..laws.operators import Matrix, Operator, Scale, rows
from .dynamics import Dynamics, diffusion_at, drift_at
from .quadrature import psd_cholesky, van_loan


class LocalLaw(NamedTuple):
    """The Gaussian law of a nonlinear process after a short step.

    Attributes
    ----------
    kernel
        The law itself.
    Phi, Sigma
        How it moves with the state that the step began from, and its covariance, float64 ``(B, d, d)``.
    """

    kernel: Kernel
    Phi: Tensor
    Sigma: Tensor


def local_law(sde: Dynamics, x: Tensor, s: Tensor, t: Tensor) -> LocalLaw:
    """Return the Gaussian law of the state at `t` given `x` at `s`, from the process linearised at `x` with coefficients
    at mid-time.

    Exact for linear drift and constant noise (T. Ozaki, *A bridge between nonlinear time series models and nonlinear stochastic
    dynamical systems*, 1992). States of more than 64 numbers, for which Jacobians are not affordable, get the kernel of
    Euler and Maruyama.

    Raises
    ------
    ValueError
        If `s` lies after `t`.
    """
    h, middle = (t - s).expand(len(x)), (0.5 * (s + t)).expand(len(x))
    if (h < 0).any():
        raise ValueError(f"s must not lie after t; got t - s down to {h.min().item():.6g}.")
    G, slope = diffusion_at(sde, x, middle), drift_at(sde, x, middle)
    if x.ndim > 2 or x[0].numel() > 64:
        eye = torch.ones(len(x), 1, 1, dtype=torch.float64)
        euler = G * h.sqrt()
        return LocalLaw(Kernel(x + slope * rows(h, x), euler), eye, (euler @ euler.T).matrix())
    flat = x.reshape(len(x), -1)
    d = flat.shape[1]

    def f(row: Tensor, time: Tensor) -> Tensor:
        return sde.drift(row.reshape(1, *x.shape[1:]), time).reshape(-1)

    J = torch.func.vmap(torch.func.jacrev(f))(flat, middle).detach().cpu().double()
    drift = slope.reshape(len(x), d, 1).cpu().double()
    M = G.matrix()
    Q = (M @ M.mT).expand(len(x), *M.shape[-2:])
    if len(Q[0]) == 1:
        Q = Q * torch.eye(d, dtype=torch.float64)
    Phi, Sigma = van_loan(J, Q, h)
    augmented = torch.cat([torch.cat([J, drift], -1), torch.zeros(len(x), 1, d + 1, dtype=torch.float64)], 1)
    moved = torch.linalg.matrix_exp(augmented * h[:, None, None])[:, :d, d]
    L = psd_cholesky(Sigma)
    root: Operator = Scale(L[:, 0, 0]) if x.ndim == 1 else Matrix(L)
    return LocalLaw(Kernel(x + moved.to(x).reshape(x.shape), root), Phi, Sigma)


def walk(sde: Dynamics, x: Tensor, t: Tensor, steps: int, generator: torch.Generator | None) -> Tensor:
    """Simulate a process from states at 0 to states at `t` by Heun's method, and return them: weak order two if the noise
    does not depend on the state.

    It runs in every step of training; `simulate` does the same for one path of many, at ten times the price of a step.
    """
    h = t / steps
    step = rows(h, x)
    for k in range(steps):
        now = k * h
        dw = (diffusion_at(sde, x, now + 0.5 * h) * h.sqrt())(noise_like(x, generator))
        slope = drift_at(sde, x, now)
        ahead = drift_at(sde, x + slope * step + dw, now + h)
        x = x + 0.5 * (slope + ahead) * step + dw
    return x


def calibrate_lag(sde: Dynamics, x_0: Tensor, tolerance: float) -> float:
    """Return a length of step short enough that the Gaussian law of one step agrees with that of two half steps.

    Parameters
    ----------
    sde
        Any process.
    x_0
        Data that it is tried on.
    tolerance
        Nats by which the two may differ, in the worst state and at the worst time.

    Raises
    ------
    ValueError
        If no length will do.
    """
    x, lag = x_0[:256], sde.T / 8
    while lag > 1e-6 * sde.T:
        start = torch.linspace(0.0, sde.T - lag, len(x), dtype=torch.float64)
        middle, end = start + lag / 2, start + lag
        whole, first = local_law(sde, x, start, end), local_law(sde, x, start, middle)
        second = local_law(sde, first.kernel.mean, middle, end)
        both = second.Phi @ first.Sigma @ second.Phi.mT + second.Sigma
        # KL of the finer kernel to the coarser one, worst over the batch.
        precision = torch.linalg.inv(whole.Sigma)
        gap = (second.kernel.mean - whole.kernel.mean).reshape(len(x), -1, 1).cpu().double()
        ratio = precision @ both
        trace = ratio.diagonal(dim1=-2, dim2=-1).sum(-1) - ratio.shape[-1]
        quadratic = (
            (gap.mT @ precision @ gap)[:, 0, 0]
            if len(precision[0]) == gap.shape[1]
            else (precision[:, 0, 0] * gap.square().sum((1, 2)))
        )
        kl = 0.5 * (trace - torch.linalg.slogdet(ratio).logabsdet + quadratic)
        if kl.max() <= tolerance:
            return lag
        lag /= 2
    raise ValueError(
        f"no lag down to {lag:.3g} makes the local kernel agree with two half-steps to {tolerance:g} nats; "
        "rescale the process or set sde.lag yourself."
    )
