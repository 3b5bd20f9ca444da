"""Logarithms of modified Bessel functions of the first kind, ``I_order(z)``, for every order above −1 and every argument.

Debye's expansion for large orders serves all orders: those below twenty are raised by a whole number to twenty or more, and the
recurrence in the order leads back. Everything is computed by functions of torch, so that densities can be differentiated by order
and argument.
"""

from __future__ import annotations

__all__ = ["LogBessel", "bessel_ratio", "log_bessel"]

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

RAISED = 20.0  # the least order at which the expansion is taken
TERMS, FEW_TERMS = 12, 6  # of the expansion: what is left out is below 1e-15 from 20, and from 90


class LogBessel(NamedTuple):
    """The logarithm of a Bessel function, ``log I_order(z) = z + order log(z / base) + rest``, in parts that are of the size of
    the other terms of a density, so that no digits are lost where these are added.

    Attributes
    ----------
    base
        A number of the size of `z`, or of the order.
    rest
        The rest of the logarithm.
    """

    base: Tensor
    rest: Tensor


def log_bessel(order: Tensor, z: Tensor, *, large: bool = False) -> LogBessel:
    """Return the logarithm of the modified Bessel function of the first kind, ``log I_order(z)``, in parts.

    With ``s = √(mu² + z²)``, ``p = mu / s`` and polynomials `D_k`, ``log I_mu(z) = s + mu log(z / (mu + s)) − ½ log(2
    pi s) + Σ_k D_k(p) / mu^k`` (P. Debye, 1909; NIST Digital Library of Mathematical Functions, 10.41). Smaller orders
    follow from ``mu = order + n`` by ``I_{m − 1} = (2m / z) I_m + I_{m + 1}``.

    Parameters
    ----------
    order
        Orders above −1, float64, of a shape that broadcasts with `z`.
    z
        Arguments of at least 0, float64.
    large
        Whether of each order and its argument at least one is above 90: then no order is raised, and six terms are enough.
    """
    n, terms = (0, FEW_TERMS) if large else (_steps_to_raise(order), TERMS)
    mu = order + n
    s = _root_of_squares(mu, z)
    base, product = mu + s, torch.ones_like(s)
    # I_order / I_mu is a product of n ratios; each is divided by the base, so that none overflows.
    for inverse in _inverse_ratios(order, z, n):
        product = product * (inverse / base)
    expansion = _sum(COEFFICIENTS[:terms], (mu / s).square(), 1 / s)
    return LogBessel(base, mu.square() / (s + z) - 0.5 * (2 * math.pi * s).log() + expansion + product.log())


def bessel_ratio(order: Tensor, z: Tensor) -> Tensor:
    """Return ``I_{order + 1}(z) / (z I_order(z))``, which is finite at 0.

    Parameters
    ----------
    order, z
        As for `log_bessel`.
    """
    return 1 / list(_inverse_ratios(order, z, max(1, _steps_to_raise(order))))[-1]


def _steps_to_raise(order: Tensor) -> int:
    """Return by how much the orders are raised, so that the least of them is at least `RAISED`."""
    return max(0, math.ceil(RAISED - order.min().item()))


def _root_of_squares(mu: Tensor, z: Tensor) -> Tensor:
    """Return ``√(mu² + z²)``, which can be differentiated by both."""
    return (mu.square() + z.square()).sqrt()


def _inverse_ratios(order: Tensor, z: Tensor, n: int) -> Iterator[Tensor]:
    """Yield ``z I_m(z) / I_{m + 1}(z)`` for `m` from ``order + n − 1`` down to `order`; errors shrink as `m` falls."""
    mu, square = order + n, z.square()
    s = _root_of_squares(mu, z)
    ratio = 1 / (mu + s) - (0.5 + _sum(RATES, (mu / s).square(), 1 / s)) / s.square()  # the derivative of the expansion
    for m in range(n, 0, -1):
        inverse = 2 * (order + m) + square * ratio
        yield inverse
        ratio = 1 / inverse


def _sum(coefficients: list[list[float]], q: Tensor, h: Tensor) -> Tensor:
    """Return ``Σ_k h^k Σ_j c_kj q^j`` over rows ``k = 1, 2, ...``, by Horner's rule."""
    total = torch.zeros_like(q)
    for row in reversed(coefficients):
        inner = torch.full_like(q, row[-1])
        for c in reversed(row[:-1]):
            inner = inner * q + c
        total = (total + inner) * h
    return total


def _debye_coefficients(terms: int) -> list[list[float]]:
    """Return, for each ``k = 1, 2, ...``, the coefficients of ``p^k, p^{k + 2}, ...`` in the polynomial `D_k`.

    ``Σ_k D_k / mu^k`` is the logarithm of ``Σ_k U_k / mu^k``, with
    ``U_{k + 1} = ½ p² (1 − p²) U_k' + ⅛ ∫_0^p (1 − 5 u²) U_k du``.
    """
    U: list[dict[int, Fraction]] = [{0: Fraction(1)}]
    for _ in range(terms):
        following: dict[int, Fraction] = {}
        for e, c in U[-1].items():
            _add(following, e + 1, c * (Fraction(e, 2) + Fraction(1, 8 * (e + 1))))
            _add(following, e + 3, -c * (Fraction(e, 2) + Fraction(5, 8 * (e + 3))))
        U.append(following)
    D: list[dict[int, Fraction]] = [{}]
    for k in range(1, terms + 1):  # k U_k = Σ_j j D_j U_{k − j}
        total = {e: k * c for e, c in U[k].items()}
        for j in range(1, k):
            for e, c in D[j].items():
                for other, factor in U[k - j].items():
                    _add(total, e + other, -j * c * factor)
        D.append({e: c / k for e, c in total.items()})
    return [[float(D[k].get(k + 2 * j, 0)) for j in range(k + 1)] for k in range(1, terms + 1)]


def _add(polynomial: dict[int, Fraction], power: int, coefficient: Fraction) -> None:
    """Add a term to a polynomial, in place."""
    polynomial[power] = polynomial.get(power, Fraction(0)) + coefficient


COEFFICIENTS = _debye_coefficients(TERMS)
RATES = [[c * (k + 2 * j) for j, c in enumerate(row)] for k, row in enumerate(COEFFICIENTS, 1)]  # derivatives by log p
