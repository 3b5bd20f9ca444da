"""The transition density of the Jacobi diffusion after a short time, also where it is so faint that its series has no digit left.

In the angle ``theta = 2 arcsin √x`` the noise of the process is constant, and near either end of ``[0, π]`` it is a Bessel
process, whose density is known. What the two Bessel processes leave of the potential is smooth, and acts to first order in
time.
"""

from __future__ import annotations

__all__ = ["angle_of", "log_short_density", "log_density_and_slope", "quantile"]

import math

import numpy as np
import torch
from torch import Tensor

from .bessel import bessel_ratio, log_bessel
from .interpolation import gauss

NODES, WEIGHTS = gauss(6)  # of the mean along the way from one angle to another
LARGE = 90.0  # argument of a Bessel function from which on few terms are enough
SMALL = 0.02  # angle below which a difference from a pole is summed as a series, or it would cancel
REACH = 12.0  # standard deviations of the noise in the angle that are integrated on either side of the start
PANELS, OF_EACH = 36, 8  # panels within reach, each of two thirds of a standard deviation, and the nodes of one
CLUSTER = 4  # power of the clock on which an integral begins at an end of the interval, where densities are powers


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
    gap, u = theta - start, (0.5 * (NODES + 1)).to(x).reshape(-1, *[1] * x.ndim)
    path, weights = start + u * gap, (0.5 * WEIGHTS).to(x).reshape(u.shape)
    low_slope = _log_bessel_slope(a - 1, theta * start / clock)
    high_slope = _log_bessel_slope(b - 1, (math.pi - theta) * (math.pi - start) / clock)
    pole_a, pole_b = _poles(a, b)
    U_slope = (weights * u * (pole_a * _slope_without_pole(path) - pole_b * _slope_without_pole(math.pi - path))).sum(0)
    slope = -gap / clock + (low_slope * start - high_slope * (math.pi - start)) / clock - clock * U_slope
    slope = slope / (x * (1 - x)).sqrt() + 0.5 * ((a - 1.5) / x - (b - 1.5) / (1 - x))
    return log_short_density(x, x_s, a, b, clock), slope


def log_short_density(x: Tensor, x_s: Tensor, a: Tensor, b: Tensor, clock: Tensor) -> Tensor:
    """Return the log-density of `log_density_and_slope` alone, at less than half the cost."""
    theta, start = angle_of(x), angle_of(x_s)
    gap = theta - start
    low = _log_bessel(a - 1, theta * start / clock)
    high = _log_bessel(b - 1, (math.pi - theta) * (math.pi - start) / clock)
    pole_a, pole_b = _poles(a, b)
    U = pole_a * _mean_without_pole(theta, start) + pole_b * _mean_without_pole(math.pi - theta, math.pi - start)
    U = U - (a + b - 1).square() / 8
    value = -0.5 * (2 * math.pi * clock).log() - 0.5 * gap.square() / clock + low + high - clock * U
    # From the symmetric kernel to the density, h = x^(a − ½) (1 − x)^(b − ½) being the stationary one in the angle.
    value = value + 0.5 * ((a - 1.5) * x.log() + (b - 1.5) * torch.log1p(-x))
    return value - 0.5 * ((a - 0.5) * x_s.log() + (b - 0.5) * torch.log1p(-x_s))


def _poles(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of the poles of `V` at 0 and at π."""
    return 0.5 * (a - 0.5) * (a - 1.5), 0.5 * (b - 0.5) * (b - 1.5)


def quantile(z: Tensor, x_s: Tensor, a: Tensor, b: Tensor, clock: Tensor) -> Tensor:
    """Return the state below which the process started in `x_s` is with the probability ``Phi(z)``, by the density of
    `log_density_and_slope`, integrated on panels in the angle.

    Parameters
    ----------
    z
        Standard normal numbers, float64, ``(n,)``.
    x_s, a, b, clock
        As for `log_density_and_slope`, ``(n,)``.
    """
    above = z > 0  # seen from the other end, where little is integrated
    x_s, a, b = torch.where(above, 1 - x_s, x_s), torch.where(above, b, a), torch.where(above, a, b)
    nodes, weights = (v.to(x_s) for v in gauss(OF_EACH))
    s = ((torch.arange(PANELS).to(x_s)[:, None] + 0.5 * (nodes + 1)) / PANELS)[:, :, None]
    theta, rate = _angle_and_slope(s, angle_of(x_s), clock)
    x = (0.5 * theta).sin().square().clamp(torch.finfo(x_s.dtype).tiny, 1 - torch.finfo(x_s.dtype).eps / 2)
    log_q = log_short_density(x, *(v.expand(x.shape) for v in (x_s, a, b, clock))) + 0.5 * (x * (1 - x)).log()
    q = (log_q - log_q.amax((0, 1))).exp() * rate
    mass = torch.einsum("pgn,g->pn", q, weights)
    below = mass.cumsum(0)
    wanted = torch.special.log_ndtr(-z.abs()).exp() * below[-1]  # ndtr itself is 0 below −8.3
    panel = (below < wanted).sum(0).clamp_max(PANELS - 1)
    each = torch.arange(len(z), device=z.device)
    share = wanted - below[panel, each] + mass[panel, each]
    y = _invert(q[panel, :, each].T, share)
    theta, _ = _angle_and_slope((panel + 0.5 * (y + 1)) / PANELS, angle_of(x_s), clock)
    found = (0.5 * theta).sin().square()
    return torch.where(z.isnan(), z, torch.where(above, 1 - found, found))


def _angle_and_slope(s: Tensor, start: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angles within reach of a start at fractions `s` in [0, 1], which lie closer at an end of the interval, and their
    derivative by `s`.
    """
    low, high = (start - REACH * clock.sqrt()).clamp_min(0.0), (start + REACH * clock.sqrt()).clamp_max(math.pi)
    span, lower, upper = high - low, low == 0, high == math.pi
    from_low, from_high = low + span * s**CLUSTER, high - span * (1 - s) ** CLUSTER
    theta = torch.where(lower, from_low, torch.where(upper, from_high, low + span * s))
    steep = torch.where(lower, s, torch.where(upper, 1 - s, 1.0))
    return theta, span * torch.where(lower | upper, CLUSTER * steep ** (CLUSTER - 1), 1.0)


def _invert(values: Tensor, share: Tensor) -> Tensor:
    """Return where in [−1, 1] the integral of the polynomial with `values` ``(g, n)`` at Gauss's nodes reaches `share`."""
    nodes, _ = gauss(len(values))
    to_series = np.linalg.inv(np.polynomial.legendre.legvander(nodes.numpy(), len(values) - 1))
    integral = torch.from_numpy(np.polynomial.legendre.legint(to_series, lbnd=-1)).to(values) @ values
    low, high = -torch.ones_like(share), torch.ones_like(share)
    for _ in range(54):  # halvings, to the last digit
        y = 0.5 * (low + high)
        before, term, total = torch.ones_like(y), y, integral[0] + integral[1] * y
        for k in range(2, len(integral)):
            before, term = term, ((2 * k - 1) * y * term - (k - 1) * before) / k
            total = total + integral[k] * term
        short = total < share
        low, high = torch.where(short, y, low), torch.where(short, high, y)
    return 0.5 * (low + high)


def _log_bessel(nu: Tensor, z: Tensor) -> Tensor:
    """Return ``log g_nu(z)``, with ``g_nu(z) = √(2 π z) exp(−z) I_nu(z)``."""
    value, large = torch.empty_like(z), z > LARGE
    for some, is_large in ((large, True), (~large, False)):
        if some.any():
            found = log_bessel(nu[some], z[some], large=is_large)
            value[some] = nu[some] * (z[some] / found.base).log() + found.rest
    return 0.5 * (2 * math.pi * z).log() + value


def _log_bessel_slope(nu: Tensor, z: Tensor) -> Tensor:
    """Return the derivative of `_log_bessel` by `z`."""
    return z * bessel_ratio(nu, z) + (nu + 0.5) / z - 1


def _mean_without_pole(theta: Tensor, start: Tensor) -> Tensor:
    """Return the mean of ``1 / (4 sin²(½ theta)) − theta⁻²`` between two angles."""
    gap = theta - start
    near = gap.abs() < 1e-3
    mean = (_integral_without_pole(theta) - _integral_without_pole(start)) / torch.where(near, 1.0, gap)
    middle = 0.5 * (theta + start)
    small, square = middle < SMALL, middle.square()
    series = 1 / 12 + square * (1 / 240 + square / 6048)
    safe = torch.where(small, 1.0, middle)
    return torch.where(near, torch.where(small, series, 0.25 / (0.5 * safe).sin().square() - 1 / safe.square()), mean)


def _integral_without_pole(theta: Tensor) -> Tensor:
    """Return the integral of ``1 / (4 sin²(½ theta)) − theta⁻²`` from 0, ``1 / theta − ½ cot(½ theta)``."""
    small = theta < SMALL
    safe, square = torch.where(small, 1.0, theta), theta.square()
    series = theta * (1 / 12 + square * (1 / 720 + square / 30240))
    return torch.where(small, series, 1 / safe - 0.5 / (0.5 * safe).tan())


def _slope_without_pole(theta: Tensor) -> Tensor:
    """Return the derivative of ``1 / (4 sin²(½ theta)) − theta⁻²``."""
    small = theta < SMALL
    safe = torch.where(small, 1.0, theta)
    half = 0.5 * safe
    slope = -0.25 * half.cos() / half.sin().pow(3) + 2 / safe.pow(3)
    return torch.where(small, theta / 120 + theta.pow(3) / 1512, slope)
