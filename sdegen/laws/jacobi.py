"""The transition law of the Jacobi diffusion on (0, 1): `JacobiLaw`.

The law is a series in Jacobi polynomials (`jacobi_series`). Where the series has lost its digits, far out in the tails of a law
of little noise, and below `LEAST_CLOCK`, a short-time formula (`jacobi_short`) stands in.
"""

from __future__ import annotations

__all__ = ["LEAST_CLOCK", "BetaLaw", "JacobiLaw"]

import math
from functools import cached_property

import torch
from torch import Tensor
from torch import distributions as D

from ..arguments import check_arguments
from ..precision import at_least_single
from ..show import show_call
from .draws import refuse_derivatives
from .jacobi_series import JacobiSeries, inside, terms_needed
from .jacobi_short import log_density_and_slope, quantile
from .kernels import check_noise
from .outside import TorchLaw
from .vectors import sum_rows

LEAST_CLOCK = 2e-4  # noise below which series are long, and the short-time formula is as exact
TABLE = 2**22  # numbers in a table of a series; states of more are taken in parts
AT_ONCE = 2**12  # quantiles inverted at once by the short-time formula, each of which takes a few hundred nodes


class JacobiLaw:
    """The law of the Jacobi diffusion ``dx = ½ [a (1 − x) − b x] dt + √(x (1 − x)) dw`` on (0, 1) a time `clock` after it was
    in a given state, each coordinate by itself.

    ``p(x) = π(x) Σ_n exp(−lambda_n clock) phi_n(x_s) phi_n(x)`` with the density `π` of Beta(a, b), the stationary law, the
    polynomials ``phi_n`` that are orthonormal under it, and ``lambda_n = ½ n (n − 1 + a + b)``; S. Karlin and H. Taylor, *A
    second course in stochastic processes*, 1981. The distribution function has the same series, integrated: ``F(x) = I_x(a,
    b) − x (1 − x) π(x) Σ_n exp(−lambda_n clock) phi_n(x_s) phi⁺_{n−1}(x) / √(2 lambda_n kappa)``, with ``phi⁺`` those of
    Beta(a + 1, b + 1) and ``kappa = a b / ((a + b) (a + b + 1))``.

    Within five standard deviations of the noise, log-densities are right to 1e-8 for parameters up to 6, and to 2e-4 for those
    up to 20; farther out the error is that of `jacobi_short`, which is of the order ``clock²``.

    Parameters
    ----------
    x_s
        The given states, in [0, 1], ``(B, *)``.
    a, b
        Parameters of the process, positive, float64, of shapes that broadcast over the states.
    clock
        The time since then, for a process of speed 1, float64, of as many axes as the states, broadcasting over them.
    """

    __repr__ = show_call

    def __init__(self, x_s: Tensor, a: Tensor, b: Tensor, clock: Tensor) -> None:
        self.x_s, self.a, self.b, self.clock = x_s, a, b, clock

    def sample(self, z: Tensor) -> Tensor:
        """Return the quantile of ``Phi(z)`` of each coordinate, for standard noise `z` of the shape of the states.

        Below `LEAST_CLOCK`, where the series would need too many terms, the quantile is that of `jacobi_short`; at a clock of 0
        it is the state itself.
        """
        refuse_derivatives(self, self.x_s, z)
        x = self._start.clone(memory_format=torch.contiguous_format)
        clock = self.clock.to(x).expand(x.shape)
        short = clock < LEAST_CLOCK
        with torch.no_grad():
            if not short.all():
                for part, series in self._parts:
                    x[part] = series.quantile(z[part].to(x))
            soon = short & (clock > 0)
            numbers = (z.to(x), self._start, *(v.to(x).expand(x.shape) for v in (self.a, self.b)), clock)
            x = torch.where(short, self._start, x)
            for some in soon.flatten().nonzero()[:, 0].split(AT_ONCE) if soon.any() else ():
                x.view(-1)[some] = quantile(*(v.flatten()[some] for v in numbers))
        return inside(x, z.dtype).to(z.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of `x` in nats, ``(B,)``, in float32 at least; −∞ outside of [0, 1].

        Raises
        ------
        ValueError
            If no time has passed.
        """
        value, _ = self._log_density_and_slope(x)
        value = torch.where((x < 0) | (x > 1), -torch.inf, value)
        return sum_rows(value).to(at_least_single(x.dtype))

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x)``, of the shape of `x`.

        Raises
        ------
        ValueError
            If no time has passed.
        """
        return self._log_density_and_slope(x)[1].to(x.dtype)

    def _log_density_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-density and derivative of each number, by the series where it is clear and by the short formula
        elsewhere.
        """
        check_noise(self.clock)
        x = inside(x)
        value, slope, clear = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)
        for part, series in self._parts:
            value[part], slope[part], clear[part] = series.log_density_and_slope(x[part])
        faint = ~clear | (self.clock < LEAST_CLOCK).to(x.device)
        if faint.any():
            numbers = (x.detach(), self._start, self.a.to(x), self.b.to(x), self.clock.to(x))
            short, rise = log_density_and_slope(*(v.expand(x.shape)[faint] for v in numbers))
            # The formula itself has no derivatives that torch could take.
            short = short + rise * (x - x.detach())[faint]
            value, slope = value.masked_scatter(faint, short), slope.masked_scatter(faint, rise)
        return value, slope

    @cached_property
    def _start(self) -> Tensor:
        """The given states in float64, those at an end moved just inside of the interval."""
        return inside(self.x_s)

    @cached_property
    def _parts(self) -> list[tuple[Tensor, JacobiSeries]]:
        """The rows in parts of similar clocks, whose series need about as many terms, each of a size that memory holds at
        once.
        """
        B, a, b = len(self.x_s), self.a.to(self._start), self.b.to(self._start)
        clock = self.clock.clamp_min(LEAST_CLOCK).expand(B, *self.clock.shape[1:])
        earliest = clock.reshape(B, -1).amin(1)
        kind = (earliest / LEAST_CLOCK).log().div(math.log(16)).floor()  # within one, terms differ by a factor of 4
        parts = []
        for k in kind.unique():
            same = (kind == k).nonzero()[:, 0]
            terms = terms_needed(a, b, LEAST_CLOCK * 16 ** k.item())
            for part in same.split(max(1, TABLE // (terms * self.x_s[0].numel()))):
                at = part.to(a.device)
                series = JacobiSeries(self._start[at], a, b, clock[part].to(a), terms)
                parts.append((at, series))
        return parts


class BetaLaw(TorchLaw):
    """The law of numbers in (0, 1) that are independent, each under a beta law: what a Jacobi diffusion settles on.

    Parameters
    ----------
    a, b
        Parameters, positive, float64, of the shape of a datum.
    """

    @check_arguments
    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        super().__init__(D.Beta(a, b))

    def score(self, x: Tensor) -> Tensor:
        """Return ``(a − 1) / x − (b − 1) / (1 − x)``, of the shape of `x`."""
        at = inside(x)
        return ((self.a.to(at) - 1) / at - (self.b.to(at) - 1) / (1 - at)).to(x.dtype)
