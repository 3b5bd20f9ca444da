"""The transition density of the Jacobi diffusion after a short time, also where it is so faint that its series has no digit left.

In the angle ``theta = 2 arcsin √x`` the noise of the process is constant, and near either end of ``[0, π]`` it is a Bessel
process, whose density is known. What the two Bessel processes leave of the potential is smooth, and acts to first order in
time.
"""

from __future__ import annotations

__all__ = ["angle_of", "log_density_and_slope"]

import math

import numpy as np
import torch
from torch import Tensor

from .bessel import bessel_ratio, log_bessel

NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(6))


def angle_of(x: Tensor) -> Tensor:
    """Return the angle ``theta = 2 arcsin √x`` in ``[0, π]``, at which the noise of the process is constant."""
    return 2 * torch.atan2(x.sqrt(), (1 - x).sqrt())


def log_density_and_slope(x: Tensor, x_s: Tensor, a: Tensor, b: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-density in nats at `x` of the process of `JacobiLaw`, started in `x_s`, and its derivative by `x`.

    The generator in the angle, taken by the root of the stationary density, is ``½ ∂² − V`` with ``V(theta) = ½ [(a − ½) (a −
    3/2) / (4 sin²(½ theta)) + (b − ½) (b − 3/2) / (4 cos²(½ theta)) − ¼ (a + b − 1)²]``. Its kernel after a time `tau` is
    here ``N(theta − theta_s; tau) g_{a−1}(theta theta_s / tau) g_{b−1}((π − theta) (π − theta_s) / tau) exp(−tau U)``, where
    ``g_nu(z) = √(2 π z) exp(−z) I_nu(z)`` and `U` is the mean, from ``theta_s`` to ``theta``, of `V` without the poles ``∝
    theta⁻²`` and ``(π − theta)⁻²`` that the two factors account for. The error of the logarithm is of the order ``tau²``: for
    parameters up to 3 at most ``0.005 tau²`` nats in the middle, ``0.1 tau²`` near an end, and ``2 tau²`` where a path goes
    from one end to the other.

    Parameters
    ----------
    x, x_s
        States in (0, 1), float64, of one shape.
    a, b
        Parameters of the process, of that shape.
    clock
        The time `tau` of a process of speed 1, of that shape.
    """
    theta, start = angle_of(x), angle_of(x_s)
    gap = theta - start
    low, low_slope = _log_bessel(a - 1, theta * start / clock)
    high, high_slope = _log_bessel(b - 1, (math.pi - theta) * (math.pi - start) / clock)
    pole_a, pole_b = (0.5 * (v - 0.5) * (v - 1.5) for v in (a, b))
    u = (0.5 * (NODES + 1)).to(x).reshape(-1, *[1] * x.ndim)
    weights = (0.5 * WEIGHTS).to(x).reshape(u.shape)
    path = start + u * gap
    (q_a, dq_a), (q_b, dq_b) = _without_pole(path), _without_pole(math.pi - path)
    U = (weights * (pole_a * q_a + pole_b * q_b)).sum(0) - (a + b - 1).square() / 8
    U_slope = (weights * u * (pole_a * dq_a - pole_b * dq_b)).sum(0)
    value = -0.5 * (2 * math.pi * clock).log() - 0.5 * gap.square() / clock + low + high - clock * U
    slope = -gap / clock + (low_slope * start - high_slope * (math.pi - start)) / clock - clock * U_slope
    # From the symmetric kernel to the density, h = x^(a − ½) (1 − x)^(b − ½) being the stationary one in the angle.
    value = value + 0.5 * ((a - 1.5) * x.log() + (b - 1.5) * torch.log1p(-x))
    value = value - 0.5 * ((a - 0.5) * x_s.log() + (b - 0.5) * torch.log1p(-x_s))
    return value, slope / (x * (1 - x)).sqrt() + 0.5 * ((a - 1.5) / x - (b - 1.5) / (1 - x))


def _log_bessel(nu: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``log g_nu(z)``, with ``g_nu(z) = √(2 π z) exp(−z) I_nu(z)``, and its derivative by `z`."""
    found = log_bessel(nu, z)
    value = 0.5 * (2 * math.pi * z).log() + nu * (z / found.base).log() + found.rest
    return value, z * bessel_ratio(nu, z) + (nu + 0.5) / z - 1


def _without_pole(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``1 / (4 sin²(½ theta)) − theta⁻²`` and its derivative."""
    small = theta < 0.02
    safe = torch.where(small, 1.0, theta)
    sine = (0.5 * safe).sin()
    value = 0.25 / sine.square() - safe.pow(-2)
    slope = -0.25 * (0.5 * safe).cos() / sine.pow(3) + 2 * safe.pow(-3)
    return (
        torch.where(small, 1 / 12 + theta.square() / 240 + theta.pow(4) / 6048, value),
        torch.where(small, theta / 120 + theta.pow(3) / 1512, slope),
    )
