"""Simulation of nonlinear processes: the Gaussian law of a short step, simulation to a time, and the choice of the step length.

`SDE` builds its default kernels of these. Linear processes, whose laws are known over any stretch of time, need none of them.
"""

from __future__ import annotations

__all__ = ["LocalLaw", "calibrate_lag", "find_first_time", "local_law", "walk"]

from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.draws import noise_like
from ..laws.kernels import Kernel
from ..laws.matrices import Matrix
from ..laws.operators import Operator, Scale, rows
from ..laws.products import Products
from .dynamics import Dynamics, diffusion_at, drift_at
from .lifting import Lifting
from .quadrature import psd_cholesky, van_loan

SHARE = 0.1  # share that is counted of the divergence by the shape of a step's law, beside mean and covariance
FEW = 16  # numbers of a state up to which an average is taken over how noise changes within a step


class LocalLaw(NamedTuple):
    """The Gaussian law of a nonlinear process after a short step.

    Attributes
    ----------
    kernel
        The law of the state after the step, ``N(mean, R Rᵀ)``.
    Phi, Sigma
        The derivative of the mean by the state before the step, and the covariance, float64 ``(B, d, d)``.
    """

    kernel: Kernel
    Phi: Tensor
    Sigma: Tensor


def find_first_time(sde: Dynamics) -> float:
    """Return the first time that training draws: ``T / 1000``, or 1e-3 if that is earlier."""
    return min(1e-3, 1e-3 * sde.T)


def local_law(sde: Dynamics, x: Tensor, s: Tensor, t: Tensor) -> LocalLaw:
    """Return the Gaussian law of the state at `t` given `x` at `s`, from the process linearised at `x` with coefficients
    at mid-time.

    The law is exact for linear drift and constant noise (T. Ozaki, *A bridge between nonlinear time series models and nonlinear
    stochastic dynamical systems*, 1992). States of more than 64 numbers, for which Jacobians are not affordable, get the kernel
    of Euler and Maruyama.
    """
    h, middle = (t - s).expand(len(x)), (0.5 * (s + t)).expand(len(x))
    G, slope = diffusion_at(sde, x, middle), drift_at(sde, x, middle)
    if x.ndim > 2 or x[0].numel() > 64:
        eye = torch.ones(len(x), 1, 1, dtype=torch.float64)
        euler = G * h.sqrt()
        return LocalLaw(Kernel(x + slope * rows(h, x), euler), eye, (euler @ euler.T).matrix())
    flat = x.reshape(len(x), -1)
    d = flat.shape[1]

    products = Products()  # rows move alone, so that one direction serves all of them
    axes = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
    _, slopes = products(lambda y: drift_at(sde, y, middle), x, axes)
    J = slopes.reshape(d, len(x), d).permute((1, 2, 0) if products.forward else (1, 0, 2)).cpu().double()
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
    """Simulate a process from states at 0 to states at `t` by Heun's method, and return the latter; of weak order two if the
    noise does not depend on the state.

    It runs in every step of training, at a tenth of what a step of `simulate` costs, and keeps no path.
    """
    h = t / steps
    step = rows(h, x)
    for k in range(steps):
        now = k * h
        dw = (diffusion_at(sde, x, now + 0.5 * h) * h.sqrt())(noise_like(x, generator))
        slope = drift_at(sde, x, now)
        ahead = drift_at(sde, x + slope * step + dw, now + h)
        x = sde.enter(x + 0.5 * (slope + ahead) * step + dw)
    return x


def calibrate_lag(sde: Lifting, x_0: Tensor, tolerance: float) -> float:
    """Return a length of step short enough that the Gaussian law of one step agrees with the law of two half steps.

    Where the noise depends on the state, the second half step is averaged over the states after the first. By how much the law of
    the two then differs from a Gaussian in shape counts by a tenth, since it is smoothed by the law of the states before the
    step.

    Parameters
    ----------
    sde
        Any process.
    x_0
        Data that the length is tried on.
    tolerance
        Nats by which the two laws may differ, in the worst state and at the worst time.

    Raises
    ------
    ValueError
        If no length is short enough, or a state has no noise in some direction.
    """
    x, lag = x_0[:256], sde.T / 8
    start = torch.linspace(0.0, sde.T - lag, len(x), dtype=torch.float64)
    if not (diffusion_at(sde, x, start).log_abs_det() > -torch.inf).all():
        units = "" if sde.units.plain else _units_of(sde)
        raise ValueError(
            f"{type(sde).__name__}.diffusion is zero at some of the data, or in some direction, where a kernel has no score; "
            f"keep the data inside of the domain, or take a process with noise everywhere{units}."
        )
    while lag > 1e-6 * sde.T:
        start = torch.linspace(0.0, sde.T - lag, len(x), dtype=torch.float64)
        middle, end = start + lag / 2, start + lag
        whole, first = local_law(sde, x, start, end), local_law(sde, x, start, middle)
        mean, both, shape = _second_half(sde, first, middle, end)
        # KL of the finer kernel to the coarser one, worst over the batch.
        precision = torch.linalg.inv(whole.Sigma)
        gap = (mean - whole.kernel.mean).reshape(len(x), -1, 1).cpu().double()
        ratio = precision @ both
        trace = ratio.diagonal(dim1=-2, dim2=-1).sum(-1) - ratio.shape[-1]
        quadratic = (
            (gap.mT @ precision @ gap)[:, 0, 0]
            if len(precision[0]) == gap.shape[1]
            else (precision[:, 0, 0] * gap.square().sum((1, 2)))
        )
        kl = 0.5 * (trace - torch.linalg.slogdet(ratio).logabsdet + quadratic) + SHARE * shape
        if kl.max() <= tolerance:
            return lag
        lag /= 2
    raise ValueError(
        f"no lag down to {lag:.3g} makes the local kernel agree with two half-steps to {tolerance:g} nats; "
        "rescale the process or set sde.lag yourself."
    )


def _units_of(sde: Lifting) -> str:
    """Return the end of a refusal where states are in units: the process may have been written for the data as they are."""
    return (
        f"; its states are the data in units of mean {sde.units.mean.mean():.3g} and scale {sde.units.scale:.3g}, and a process "
        "that is written for the data as they are has to say so, sde.in_units(Units())"
    )


def _second_half(sde: Dynamics, first: LocalLaw, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return the mean and covariance at `t` of states that have the law `first` at `s`, and the KL divergence of their law from a
    Gaussian, to second order in how much the noise changes over the states.
    """
    second = local_law(sde, first.kernel.mean, s, t)
    mean, spread = second.kernel.mean, second.Phi @ first.Sigma @ second.Phi.mT
    root, d = first.kernel.R, mean[0].numel()
    if isinstance(diffusion_at(sde, mean, s), Scale) or d > FEW:
        return mean, spread + second.Sigma, 0.0
    # Averages over a Gaussian of what is quadratic in the state are those over these 2 d points.
    axes = d**0.5 * torch.eye(d, dtype=mean.dtype, device=mean.device).reshape(d, 1, *mean.shape[1:])
    points = [first.kernel.mean + sign * root(axis.expand(mean.shape)) for axis in axes for sign in (1, -1)]
    laws = [local_law(sde, point, s, t) for point in points]
    means = torch.stack([law.kernel.mean for law in laws])
    mean = means.mean(0)
    apart = (means - mean).flatten(2).cpu().double()
    spread = torch.einsum("nbi,nbj->bij", apart, apart) / len(laws)
    covariances = torch.stack([law.Sigma for law in laws])
    Sigma = covariances.mean(0)
    change = torch.linalg.solve(Sigma, covariances - Sigma)
    # Two normal steps, the second with a variance of relative spread s that follows the first, have skewness 3 s / √8, and a law
    # of skewness γ is γ² / 12 nats from a Gaussian.
    shape = 9 / 8 / 12 * (change @ change).diagonal(dim1=-2, dim2=-1).sum(-1).mean(0)
    return mean, spread + Sigma, shape
