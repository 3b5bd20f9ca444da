"""Integrals of scalar coefficients over panels that are cut until polynomials follow the coefficients on each:
``(f, g) -> (log alpha, log variance)``, with an estimate of their own error.

Jumps, kinks and spikes cost panels, not digits. What lies between two nodes, less than a ten-thousandth of the process apart, is
never seen, and so not resolved. All is float64 and differentiable.
"""

from __future__ import annotations

__all__ = ["OfTime", "PanelRule", "Panels", "Refined", "evaluate", "panel_rule"]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..answers import as_numbers
from ..checks import kind_of
from ..laws.interpolation import gauss
from ..transforms import isolated

OfTime = Callable[[Tensor], Tensor]
P = TypeVar("P", bound=tuple[Tensor, ...])

POINTS = 24  # Gauss-Legendre points a panel: exact for polynomials of degree 47
TAIL = 4  # number of the highest Legendre coefficients that tell whether a panel is resolved
RESOLVED = 1e-13  # error of one panel, of ``1 + ∫ |f|`` and of the variance at its end
ALLOWED = 1e-6  # relative error of alpha² and of the variance above which nothing is returned
MOST = 2**14  # panels at most
PARTS = 8  # into which a panel that is not resolved is cut: enough that what was seen in the whole is seen in a part
SHORTEST = 2.0**-60  # of the whole interval: the least length of a panel at its start
FINEST = 2.0**-42  # of its time: the least length of a panel elsewhere, whose nodes are still different numbers


class PanelRule(NamedTuple):
    """Nodes and weights on [0, 1], and matrices that map values at the nodes to properties of their interpolant: its integrals
    from 0 to each node, its highest Legendre coefficients, and its values at 0 and 1.
    """

    nodes: Tensor
    weights: Tensor
    integrals: Tensor
    tail: Tensor
    ends: Tensor


@cache
@isolated()
def panel_rule(points: int = POINTS) -> PanelRule:
    """Return the Gauss–Legendre rule of a panel."""
    nodes, weights = (v.numpy() for v in gauss(points))
    legendre = np.polynomial.legendre
    coefficients = np.linalg.inv(legendre.legvander(nodes, points - 1))
    antiderivatives = [legendre.legval(nodes, legendre.legint(unit, lbnd=-1)) for unit in np.eye(points)]
    integrals = np.stack(antiderivatives, 1) @ coefficients
    ends = np.stack([(-1.0) ** np.arange(points), np.ones(points)]) @ coefficients
    found = ((nodes + 1) / 2, weights / 2, integrals / 2, coefficients[-TAIL:], ends)
    return PanelRule(*map(torch.from_numpy, found))


class Refined(ABC, Generic[P]):
    """The base class of integrals over panels that are cut in parts until each is resolved: subclasses integrate over panels, and
    sum them.

    Attributes
    ----------
    edges
        The edges of the panels, ``(n + 1,)``.
    """

    edges: Tensor

    @property
    def learns(self) -> bool:
        """Whether derivatives by parameters of the coefficients go through the integrals."""
        return any(isinstance(value, Tensor) and value.requires_grad for value in vars(self).values())

    @abstractmethod
    def _integrate(self, a: Tensor, b: Tensor) -> P:
        """Integrate over panels from `a` to `b`, ``(n,)``."""

    @abstractmethod
    def _sum(self, panels: P) -> Tensor:
        """Sum the integrals of the panels, and return the error of each panel as a multiple of what is allowed."""

    def _refine(self, edges: Tensor) -> P:
        """Cut panels with the given edges until they are resolved, and return their integrals."""
        self.edges = edges
        whole = edges[-1] - edges[0]
        panels = self._integrate(edges[:-1], edges[1:])
        make: Any = type(panels)
        while True:
            excess = self._sum(panels)
            a, b = self.edges[:-1], self.edges[1:]
            divisible = (b - a > SHORTEST * whole) & (b - a > FINEST * b.abs())
            worst = excess.where(divisible, 0.0)
            split = worst > max(1.0, 1e-3 * worst.max().item())  # the worst first, as the number of panels is limited
            if not split.any() or len(a) + (PARTS - 1) * split.sum() > MOST:
                return panels
            ends = a[split, None] + (b - a)[split, None] * torch.linspace(0.0, 1.0, PARTS + 1, dtype=torch.float64)
            ends[:, -1] = b[split]
            first, last = ends[:, :-1].reshape(-1), ends[:, 1:].reshape(-1)
            parts = self._integrate(first, last)
            starts, order = torch.cat([a[~split], first]).sort()
            panels = make(*(torch.cat([v[~split], w])[order] for v, w in zip(panels, parts, strict=True)))
            self.edges = torch.cat([starts, self.edges[-1:]])

    def _beside(self, jump: Tensor, points: int) -> Tensor:
        """Return the error of each panel by jumps ``(n − 1, *)`` between neighbours, which may lie anywhere between its outermost
        node and its edge.
        """
        none = jump.new_zeros(1, *jump.shape[1:])
        hidden = torch.cat([none, jump]).maximum(torch.cat([jump, none]))
        return _over(self.edges.diff() * panel_rule(points).nodes[0], hidden) * hidden


class _Integrals(NamedTuple):
    """Integrals over panels ``(n,)``.

    Attributes
    ----------
    drift
        ``∫ f``.
    log_noise
        The logarithm of the variance that comes in the panel, as large as it is at the panel's end.
    size
        ``∫ |f|``.
    drift_error, log_noise_error
        The errors of the polynomials in the integrals of both; the second as a logarithm.
    drift_ends, noise_ends
        `f` and ``g²`` at both ends, ``(n, 2)``, as the polynomials say.
    """

    drift: Tensor
    log_noise: Tensor
    size: Tensor
    drift_error: Tensor
    log_noise_error: Tensor
    drift_ends: Tensor
    noise_ends: Tensor


class Panels(Refined[_Integrals]):
    """The moments of ``dx = f x dt + g dw`` from a time `start` on, by quadrature on panels up to the time `end`.

    ``log alpha = ∫ f`` and ``variance = ∫ g(u)² exp(2 ∫_u^t f) du``, the latter summed in the log domain so that neither a
    huge contraction nor a huge growth overflows. Each panel has 24 Gauss–Legendre points, and is cut in parts until the highest
    coefficients of its Legendre series vanish.

    Parameters
    ----------
    f, g
        Drift and diffusion coefficients, elementwise functions of time.
    start, end
        The times between which they are integrated.
    number
        Panels to begin with, all of one length.
    smooth
        Whether these panels are known to be pieces on which the coefficients are smooth, and between which they may jump.
    shape
        The shape of a coefficient at one time; all of its numbers are integrated on the same panels.

    Raises
    ------
    ValueError
        If a coefficient is not finite, or has another shape than its times; at a call, if quadrature does not reach six digits.
    """

    def __init__(
        self,
        f: OfTime,
        g: OfTime,
        start: float,
        end: float,
        number: int = 1024,
        smooth: bool = False,
        shape: tuple[int, ...] = (),
    ) -> None:
        self.f, self.g, self.shape = f, g, shape
        edges = torch.linspace(start, end, number + 1, dtype=torch.float64)
        self.expected = edges if smooth else None
        self._refine(edges)

    def _integrate(self, a: Tensor, b: Tensor) -> _Integrals:
        """Integrate over panels from `a` to `b`, ``(n,)``."""
        rule = panel_rule()
        h = (b - a)[:, None]
        u = a[:, None] + h * rule.nodes
        f, g2 = (evaluate(c, u, name, self.shape) for c, name in ((self.f, "f"), (self.g, "g")))
        g2 = g2.square()
        if self.shape:  # (n, *, points)
            f, g2, h = f.movedim(1, -1), g2.movedim(1, -1), h.reshape(-1, *[1] * len(self.shape), 1)
        drift = h[..., 0] * (f @ rule.weights)
        rest = drift[..., None] - h * (f @ rule.integrals.T)  # integral of f from u to the end
        log_noise = 2 * rest + _log(g2)  # of the variance that comes at u
        with torch.no_grad():
            largest = log_noise.amax(-1, keepdim=True).clamp_min(-1e300)  # no noise has no logarithm
            tails = [_tail(f), _tail((log_noise - largest).exp())]
            errors = [h[..., 0] * tails[0], (h[..., 0] * tails[1]).log() + largest[..., 0]]
            size = h[..., 0] * (f.abs() @ rule.weights)
            ends = [f @ rule.ends.T, g2 @ rule.ends.T]
        return _Integrals(drift, _log_sum(log_noise + _log(rule.weights * h)), size, *errors, *ends)

    def _sum(self, panels: _Integrals) -> Tensor:
        """Sum the integrals of the panels to the moments at their ends, and return the error of each panel as a multiple of what
        is allowed.
        """
        self.drift = _from_zero(panels.drift)
        self.log_noise = self._noise_at_edges(panels.log_noise)
        with torch.no_grad():
            a, b = self.edges[:-1], self.edges[1:]
            # Noise that sets in within the rounding of a time has no relative error to speak of.
            instant = (b - a <= FINEST * b.abs()) & (a > self.edges[0])
            sudden = self.log_noise[:-1].isneginf() & _over(instant, self.log_noise)
            drift_error = panels.drift_error + self._hidden(panels.drift_ends)
            error = panels.log_noise_error.logaddexp(self._hidden(panels.noise_ends).log()).where(~sudden, -torch.inf)
            relative = self._noise_at_edges(error) - self.log_noise
            self.error = 2 * _from_zero(drift_error) + relative.where(~relative.isnan(), -torch.inf).exp()
            drift = drift_error / (1 + _from_zero(panels.size)[1:])
            noise = (error - self.log_noise[1:]).nan_to_num(nan=-torch.inf).exp()
            self.excess = (drift.maximum(noise) / RESOLVED).clamp_max(1e30).reshape(len(a), -1).amax(1)
        return self.excess

    def _hidden(self, ends: Tensor) -> Tensor:
        """Return the error of each panel by jumps that may hide between its first or last node and its neighbour's, ``(n,)``;
        none by edges where jumps are expected.
        """
        jump = (ends[1:, ..., 0] - ends[:-1, ..., 1]).abs()
        if self.expected is not None:
            jump = jump.where(_over(~torch.isin(self.edges[1:-1], self.expected), jump), 0.0)
        return self._beside(jump, POINTS)

    def _noise_at_edges(self, log_noise: Tensor) -> Tensor:
        """Return the logarithm of the variance at each edge: the sum over the panels before, as the drift has changed it."""
        none = torch.full_like(log_noise[:1], -torch.inf)
        return torch.cat([none, (log_noise - 2 * self.drift[1:]).logcumsumexp(0) + 2 * self.drift[1:]])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log alpha`` and the log-variance of the state at the times `t`, from `start` on and of any shape.

        Raises
        ------
        ValueError
            If ``alpha²`` or the variance has an estimated relative error above 1e-6.
        """
        flat = t.reshape(-1)
        i = (torch.searchsorted(self.edges, flat.detach().contiguous(), right=True) - 1).clamp(0, len(self.edges) - 2)
        self._check(flat, i)
        last = self._integrate(self.edges[i], flat)
        log_alpha = self.drift[i] + last.drift
        log_noise = (self.log_noise[i] + 2 * last.drift).logaddexp(last.log_noise)
        shape = (*t.shape, *self.shape)
        return log_alpha.reshape(shape), log_noise.reshape(shape)

    def _check(self, t: Tensor, i: Tensor) -> None:
        """Refuse times in the panels `i` if quadrature has too large an error there."""
        error = self.error[i].maximum(self.error[i + 1]).reshape(len(i), self.error[0].numel())
        error = (error.amax(1) if error.numel() else error.sum(1)).where(t > self.edges[0], 0.0)
        if not (error <= ALLOWED).all():
            k = int(error.nan_to_num(nan=torch.inf).argmax())
            where = self.edges[self.excess[: i[k] + 1].argmax()]
            raise ValueError(
                f"quadrature of f and g is not accurate enough: at t = {t[k].item():.6g} alpha and sigma have an estimated "
                f"relative error of {error[k].item():.1g}, most of it from t = {where.item():.6g} on, where the coefficients "
                "diverge or change too fast; smooth them there, or give alpha and sigma instead (ScheduleSDE)."
            )


def _from_zero(values: Tensor) -> Tensor:
    """Return the cumulative sum of `values`, with 0 before it."""
    return torch.cat([values.new_zeros(1, *values.shape[1:]), values.cumsum(0)])


def _log(values: Tensor) -> Tensor:
    """Return logarithms of values from 0 on; of 0 it is −inf, without derivative, which by torch's own would be 0 / 0."""
    some = values > 0
    return values.where(some, 1.0).log().where(some, -torch.inf)


def _log_sum(logs: Tensor) -> Tensor:
    """Return the logarithm of the sum over the last axis, given logarithms; of zeros alone it is −inf, without derivative, which
    by torch's own would be NaN.
    """
    some = (logs > -torch.inf).any(-1)
    return logs.where(some[..., None], 0.0).logsumexp(-1).where(some, -torch.inf)


def _over(each: Tensor, values: Tensor) -> Tensor:
    """Return one number for each panel, shaped to broadcast with values ``(n, *)``."""
    return each.reshape(-1, *[1] * (values.ndim - 1))


def _tail(values: Tensor) -> Tensor:
    """Return the largest of the highest Legendre coefficients of values at the nodes of each panel, ``(n, *)``."""
    return (values @ panel_rule().tail.T).abs().amax(-1)


def evaluate(coefficient: OfTime, u: Tensor, name: str, shape: tuple[int, ...] = ()) -> Tensor:
    """Return the values of a coefficient at the times `u`, float64, ``(*u.shape, *shape)``.

    Parameters
    ----------
    coefficient
        An elementwise function of time. A constant may come back as a plain number or a 0-dimensional tensor.
    u
        Times of any shape.
    name
        The name of the coefficient in an error.
    shape
        The shape of the coefficient at one time.

    Raises
    ------
    TypeError
        If values are no real numbers.
    ValueError
        If values have another shape than the times, or are not finite.
    """
    given = coefficient(u)
    numbers = as_numbers(given)
    if numbers is None or numbers.is_complex() or numbers.dtype == torch.bool:
        found = f"numbers of {given.dtype}" if isinstance(given, (Tensor, np.ndarray)) else f"what {kind_of(given)}"
        raise TypeError(f"{name}(t) returned {found}; write it with elementwise torch functions of t, of real values.")
    values = numbers.double()
    if values.ndim and values.shape not in ((*u.shape, *shape), shape):
        raise ValueError(
            f"{name}(t) returned shape {tuple(values.shape)} for times of shape {tuple(u.shape)}, expected "
            f"{(*u.shape, *shape)}; write it with elementwise torch functions of t."
        )
    values = values.expand((*u.shape, *shape))
    finite = values.detach().isfinite().reshape(*u.shape, math.prod(shape)).all(-1)
    if not finite.all():
        worst = u.detach()[~finite].flatten()[0].item()
        raise ValueError(
            f"{name}(t) is not finite at t = {worst:.6g}; give alpha and sigma instead (ScheduleSDE) if it diverges."
        )
    return values
