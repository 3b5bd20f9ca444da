"""The non-central chi-square law: the log-density of its square root, and its quantiles.

With `df` degrees of freedom and ``a²`` for its non-centrality, the square root ``s = √y`` lies about ``√(df + a²)``
with a spread of at most one, however large these are. So it is the root that is integrated.
"""

from __future__ import annotations

__all__ = ["log_density_of_root", "quantile_of_root"]

import math

import numpy as np
import torch
from torch import Tensor

from .bessel import log_bessel
from .interpolation import gauss

LARGE = 300.0  # mean of y above which its root is far from 0, and scipy's series slower than a quadrature
# Nodes and weights of the quadrature over a tail, and over a step: errors are below 1e-14.
TAIL, SHORT = gauss(24), gauss(4)
STEPS = 3  # of Newton's method
CHUNK = 2**11  # numbers whose tails are integrated at once


def log_density_of_root(df: Tensor, a: Tensor, s: Tensor, w: Tensor, *, far: bool = False) -> Tensor:
    """Return the log-density of `s`, where ``s²`` is non-central chi-square, of the shape that the arguments broadcast to.

    ``p(s) = s (s / a)^order exp(−½ (s − a)²) I_order(a s) e^{−a s}`` with ``order = ½ df − 1``; at ``a = 0`` its limit,
    the chi law.

    Parameters
    ----------
    df, a
        Degrees of freedom, above 0, and the root of the non-centrality, at least 0; float64.
    s, w
        Positive numbers, and their difference ``w = s − a``, as the caller knows it without the rounding of a subtraction.
    far
        Whether the law is far from 0 (`LARGE`), where less has to be computed.
    """
    order = 0.5 * df - 1
    I = log_bessel(order, a * s, large=far)
    return -0.5 * w.square() + s.log() + order * (s * (s / I.base)).log() + I.rest


def quantile_of_root(df: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Return the root `s` of the quantile of the non-central chi-square law at ``Phi(z)``.

    The tail on the side of `z` is inverted, so that no digits are lost at either end. Where the law is far from 0 its
    tail is integrated, by Gauss and Legendre from a first guess, and the guess corrected; elsewhere scipy's series are
    inverted.

    Parameters
    ----------
    df, a
        Degrees of freedom, above 0, and the root of the non-centrality, at least 0; float64 on the CPU.
    z
        Standard normal numbers, float64.
    """
    df, a, z = torch.broadcast_tensors(df, a, z)
    far = df + a.square() > LARGE
    s = torch.empty(z.shape, dtype=z.dtype)
    for chosen, invert in ((~far, _by_series), (far, _by_quadrature)):
        if chosen.any():
            s[chosen] = invert(df[chosen], a[chosen], z[chosen])
    return s


def _by_series(df: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Return the quantiles by scipy's functions."""
    from scipy.special import ndtr  # loads on use
    from scipy.stats import ncx2

    k, nc, tail = df.numpy(), a.square().numpy(), ndtr(-z.abs().numpy())
    y = np.empty_like(tail)
    left = z.numpy() < 0
    y[left] = ncx2.ppf(tail[left], k[left], nc[left])
    y[~left] = ncx2.isf(tail[~left], k[~left], nc[~left])
    return torch.from_numpy(y).sqrt()


def _by_quadrature(df: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Return the quantiles by Newton's method in the normal scale, ``Phi⁻¹(F(s)) = z``, in which a law far from 0 is
    almost linear.
    """
    if len(z) > CHUNK:
        return torch.cat([_by_quadrature(*part) for part in zip(df.split(CHUNK), a.split(CHUNK), z.split(CHUNK))])
    side = torch.where(z < 0, -1.0, 1.0).double()
    w = _guess(df, a, z) - a
    end = w + side * ((z.square() + 74).sqrt() - z.abs())  # the spread is at most one: e^-37 of the tail lies beyond
    tail = side * _integral(df, a, w, end, TAIL)
    for _ in range(STEPS):
        found = -side * torch.special.ndtri(tail)
        normal = (-0.5 * found.square()).exp() / math.sqrt(2 * math.pi)
        step = (z - found) * normal / log_density_of_root(df, a, a + w, w, far=True).exp()
        tail = tail - side * _integral(df, a, w, w + step, SHORT)
        w = w + step
    return a + w


def _guess(df: Tensor, a: Tensor, z: Tensor) -> Tensor:
    """Return the quantiles approximately, by a power of ``y = s²`` that is almost normal. M. Sankaran, *Approximations to the
    non-central chi-square distribution*, 1963.
    """
    mean, wide = df + a.square(), df + 2 * a.square()
    h = 1 - 2 / 3 * mean * (wide + a.square()) / wide.square()
    p, m = wide / mean.square(), (h - 1) * (1 - 3 * h)
    centre = 1 + h * p * (h - 1 - 0.5 * (2 - h) * m * p)
    power = centre + z * h * (2 * p).sqrt() * (1 + 0.5 * m * p)
    return (mean * power ** (1 / h)).sqrt()


def _integral(df: Tensor, a: Tensor, low: Tensor, high: Tensor, rule: tuple[Tensor, Tensor]) -> Tensor:
    """Return the integral of the density of the root from ``a + low`` to ``a + high`` by the nodes and weights of a rule."""
    x, weights = rule
    half = 0.5 * (high - low)
    w = (low + half)[..., None] + half[..., None] * x
    df, a = df[..., None], a[..., None]
    density = log_density_of_root(df, a, a + w, w, far=True).exp()
    return half * (density @ weights)
