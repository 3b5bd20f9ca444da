"""The transition law of the Jacobi diffusion by its series in Jacobi polynomials: density, derivative and quantiles of numbers.

All is computed in float64, in tables with one row for each term.
"""

from __future__ import annotations

__all__ = ["JacobiSeries", "inside", "orthonormal_jacobi", "terms_needed"]

import math

import torch
from torch import Tensor

from .jacobi_short import angle_of

SMALL = 1e-9  # the relative rounding error up to which a sum is taken,
PER_SQUARE = 0.01  # or this times clock², of the order of the error of the short-time formula
FARTHEST = 6.0  # noise beyond, one draw of 10⁹, is drawn back: the mass there is too near to the rounding of the sums


def orthonormal_jacobi(a: Tensor, b: Tensor, number: int, x: Tensor) -> Tensor:
    """Return the first polynomials that are orthonormal under Beta(a, b), at points of [0, 1], ``(number, *x.shape)``.

    They are the Jacobi polynomials ``P_k^(b−1, a−1)(2 x − 1)``, normalised, by their three-term recurrence ``√B_{k+1} phi_{k+1} =
    (2 x − 1 − A_k) phi_k − √B_k phi_{k−1}``. *NIST digital library of mathematical functions*, §18.9.

    Parameters
    ----------
    a, b
        Parameters of the law, positive, float64, of shapes that broadcast over `x`.
    number
        How many polynomials, at least 3.
    x
        The points, float64.
    """
    k = torch.arange(number, dtype=x.dtype, device=x.device).reshape(-1, *[1] * x.ndim)
    c, difference = a + b - 2, a - b
    A = difference * c / ((2 * k + c) * (2 * k + c + 2))
    B = 4 * k * (k + a - 1) * (k + b - 1) * (k + c) / ((2 * k + c).square() * (2 * k + c + 1) * (2 * k + c - 1))
    A[:1] = difference / (c + 2)  # what the formulas tend to where they are 0 / 0
    B[:1], B[1:2] = 1.0, 4 * a * b / ((c + 2).square() * (c + 3))
    root = B.sqrt()
    # Rescaled by s_k, with s_{k+1} = −s_{k−1} √(B_k / B_{k+1}), the recurrence is a single product and sum.
    pairs = -root[1:-1] / root[2:]
    scale = torch.ones_like(root)
    scale[1] = 1 / root[1]
    scale[2::2], scale[3::2] = pairs[0::2].cumprod(0), scale[1] * pairs[1::2].cumprod(0)
    factors = (A[1:-1] - (2 * x - 1)) * (scale[1:-1] / (root[1:-1] * scale[:-2]))
    before, now = torch.ones_like(x), (2 * x - 1 - A[0]).expand(x.shape)
    found = [before, now]
    for factor in factors.unbind():
        before, now = now, torch.addcmul(before, factor, now)
        found.append(now)
    return torch.stack(found) * scale


def terms_needed(a: Tensor, b: Tensor, clock: float) -> int:
    """Return the number of terms after which the series at a time `clock` has converged to rounding.

    Parameters
    ----------
    a, b
        Parameters of the process.
    clock
        The time, of a process of speed 1.
    """
    # Polynomials grow as n^max(a, b) at the ends; the exponential of the last term is below that, times rounding.
    exponent = 40 + max(a.max().item(), b.max().item(), 1.0) * math.log(80 / clock + 1)
    half = 0.5 * (1 - (a + b).min().item())
    return max(4, 2 + math.ceil(half + math.sqrt(half**2 + 2 * exponent / clock)))


class JacobiSeries:
    """The law of `JacobiLaw` by its series, for every number of the states by itself.

    Parameters
    ----------
    start
        The given states, in (0, 1), float64, ``(B, *)``.
    a, b
        Parameters of the process, positive, float64, of shapes that broadcast over the states.
    clock
        The time since then, for a process of speed 1, of a shape that broadcasts over the states.
    terms
        How many terms are summed.
    """

    def __init__(self, start: Tensor, a: Tensor, b: Tensor, clock: Tensor, terms: int) -> None:
        self.start, self.a, self.b, self.clock, self.terms = start, a, b, clock, terms
        self.kappa = a * b / ((a + b) * (a + b + 1))  # the mean of x (1 − x)
        n = torch.arange(terms, dtype=start.dtype, device=start.device).reshape(-1, *[1] * start.ndim)
        self.twice = (n * (n - 1 + a + b))[1:]  # 2 lambda_n, from the first
        self.c = torch.exp(-0.5 * n * (n - 1 + a + b) * clock) * orthonormal_jacobi(a, b, terms, start)

    def log_density_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-density at `x`, its derivative, and whether the sums have kept their digits, each of the shape of
        `x`.
        """
        a, b = self.a, self.b
        polynomials, above = self._polynomials(x)
        summands = self.c * polynomials
        ratio, slope = summands.sum(0), torch.linalg.vecdot((self.twice / self.kappa).sqrt() * self.c[1:], above, dim=0)
        allowed = (PER_SQUARE * self.clock.square()).clamp(SMALL, 1e-3)
        clear = ratio * allowed > summands.abs().sum(0) * torch.finfo(x.dtype).eps
        safe = torch.where(clear, ratio, 1.0)
        return self._log_stationary(x, 1 - x) + safe.log(), (a - 1) / x - (b - 1) / (1 - x) + slope / safe, clear

    def quantile(self, z: Tensor) -> Tensor:
        """Return the quantiles of ``Phi(z)``, of the shape of `z`.

        They are found by Newton's method, kept in brackets, for ``Phi⁻¹(F)`` as a function of the logit of `x`, in which no
        digits are lost at either end.
        """
        z = z.clamp(-FARTHEST, FARTHEST)
        theta = (angle_of(self.start) + self.clock.sqrt().clamp_max(0.8) * z).clamp(0.02, math.pi - 0.02)
        u = 2 * (0.5 * theta).tan().log()
        low, high, sought = torch.full_like(z, -690.0), torch.full_like(z, 690.0), torch.ones_like(z, dtype=torch.bool)
        for _ in range(80):
            gap, slope = self._probit_and_slope(u, z)
            low, high = torch.where(gap < 0, u, low), torch.where(gap < 0, high, u)
            ahead = u - (gap / slope).clamp(-4, 4)
            ahead = torch.where((ahead >= low) & (ahead <= high), ahead, 0.5 * (low + high))
            # A number that was found stays as it is, so that it does not depend on the others.
            moved, u = (ahead - u).abs(), torch.where(sought, ahead, u)
            sought = sought & (moved > 1e-6)  # the next step, convergence being quadratic, would be about 1e-12
            if not sought.any():
                break
        return u.sigmoid()

    def _probit_and_slope(self, u: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``Phi⁻¹(F) − z`` at logits `u`, by the smaller of the two tails, and its derivative by the logit."""
        x, rest = u.sigmoid(), (-u).sigmoid()
        weight = x * rest * self._log_stationary(x, rest).exp()
        polynomials, above = self._polynomials(x)
        change = weight * torch.linalg.vecdot(self.c[1:] / (self.twice * self.kappa).sqrt(), above, dim=0)
        below, beyond = _incomplete_beta(self.a, self.b, x) - change, _incomplete_beta(self.b, self.a, rest) + change
        tail = torch.special.ndtri(torch.minimum(below, beyond).clamp(1e-300, 0.5))
        density = weight * torch.linalg.vecdot(self.c, polynomials, dim=0)
        slope = density * math.sqrt(2 * math.pi) * (0.5 * tail.square()).exp()
        return torch.where(below < beyond, tail, -tail) - z, slope

    def _polynomials(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the polynomials at `x`, and those under Beta(a + 1, b + 1), which are proportional to the derivatives of the
        former, from the second on.
        """
        a, b = (torch.stack([v, v + 1]).reshape(2, *[1] * (x.ndim - v.ndim), *v.shape) for v in (self.a, self.b))
        both = orthonormal_jacobi(a, b, self.terms, x.expand(2, *x.shape))
        return both[:, 0], both[:-1, 1]

    def _log_stationary(self, x: Tensor, rest: Tensor) -> Tensor:
        """Return the log-density of Beta(a, b) at `x`, with `rest` = 1 − x."""
        norm = torch.lgamma(self.a) + torch.lgamma(self.b) - torch.lgamma(self.a + self.b)
        return (self.a - 1) * x.log() + (self.b - 1) * rest.log() - norm


def _incomplete_beta(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Return the distribution function of Beta(a, b) at `x`."""
    from scipy.special import betainc  # loads on use

    return torch.from_numpy(betainc(a.cpu().numpy(), b.cpu().numpy(), x.cpu().numpy())).to(x)


def inside(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers of [0, 1] in float64; those that rounding has brought to an end are moved just inside, where scores are
    finite.

    Parameters
    ----------
    x
        Numbers.
    dtype
        The dtype whose rounding decides how far inside; that of `x` by default.
    """
    numbers = torch.finfo(dtype or x.dtype)
    return x.double().clamp(numbers.tiny / numbers.eps, 1 - 0.5 * numbers.eps)
