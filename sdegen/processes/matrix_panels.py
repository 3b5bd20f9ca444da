"""Moments of linear SDEs with matrix coefficients over panels that are cut until polynomials follow the coefficients on each:
``(F, G) -> (Phi, Sigma)`` between any two times, with an estimate of their own error.

This is `panels` for matrices. Laws of panels are composed and never divided by one another, so that no digits are lost between
close times. All is float64 and differentiable.
"""

from __future__ import annotations

__all__ = ["MatrixPanels", "compose"]

from typing import NamedTuple

import torch
from torch import Tensor

from ..answers import as_numbers
from ..checks import kind_of
from .panels import ALLOWED, RESOLVED, OfTime, Refined, panel_rule

POINTS = 16  # Gauss-Legendre points a panel
LONGEST = 1.0  # |F| times a panel's length, up to which the series for its propagator is summed
# Share of the largest covariance that is added to the size that an error is relative to: small covariances need fewer digits.
FAINT = 1e-6
TERMS = 19  # of that series: 1 / 19! is below rounding

Law = tuple[Tensor, Tensor]  # Phi and Sigma, (n, k, k) each


def compose(first: Law, then: Law) -> Law:
    """Return the law of one linear Gaussian step after another, ``(Phi₂ Phi₁, Phi₂ Sigma₁ Phi₂ᵀ + Sigma₂)``.

    Parameters
    ----------
    first, then
        ``Phi`` and ``Sigma`` of each step, ``(n, k, k)``.
    """
    Phi, Sigma = then
    return Phi @ first[0], Phi @ first[1] @ Phi.mT + Sigma


class _Integrals(NamedTuple):
    """Laws of panels, ``(n, k, k)``, with what is known of their errors.

    Attributes
    ----------
    Phi, Sigma
        Propagator and covariance over each panel.
    Psi
        Propagators from each node to the panel's end, ``(n, points, k, k)``.
    stiffness
        ``|F|`` times the panel's length, ``(n,)``.
    drift_error, noise_error
        The errors of the polynomials in the integrals of both, ``(n,)``.
    drift_ends, noise_ends
        ``F`` and ``G Gᵀ`` at both ends, as the polynomials say, ``(n, 2, k, k)``.
    """

    Phi: Tensor
    Sigma: Tensor
    Psi: Tensor
    stiffness: Tensor
    drift_error: Tensor
    noise_error: Tensor
    drift_ends: Tensor
    noise_ends: Tensor


class MatrixPanels(Refined[_Integrals]):
    """The laws of ``dx = F x dt + G dw`` between any two times of an interval, by collocation on panels.

    On each panel the propagator to its end solves ``Psi' = −Psi F`` at 16 Gauss–Legendre points, and ``Sigma = ∫ Psi G Gᵀ
    Psiᵀ``. Panels are cut in parts until the highest coefficients of their Legendre series vanish, and until the coefficients of
    neighbours meet.

    Parameters
    ----------
    F, G
        Functions of times ``(n,)`` that return ``(n, k, k)``, or ``(k, k)`` for all; without `G` there is no noise.
    start, end
        The times between which laws are asked for.
    number
        Panels to begin with, all of one length.
    resolved
        Relative error of one panel.

    Raises
    ------
    ValueError
        If a coefficient is not finite; at a call, if quadrature does not reach six digits.
    """

    def __init__(
        self, F: OfTime, G: OfTime | None, start: float, end: float, number: int = 1024, resolved: float = RESOLVED
    ) -> None:
        self.F, self.G, self.resolved = F, G, resolved
        panels = self._refine(torch.linspace(start, end, number + 1, dtype=torch.float64))
        self.Phi, self.Sigma, self.Psi, self.until = panels.Phi, panels.Sigma, panels.Psi, _from_start(panels)
        self._grow()

    def _integrate(self, a: Tensor, b: Tensor) -> _Integrals:
        """Integrate over panels from `a` to `b`, ``(n,)``."""
        rule = panel_rule(POINTS)
        h = (b - a)[:, None, None, None]
        u = a[:, None] + (b - a)[:, None] * rule.nodes
        F = _values(self.F, u, "F")
        G = torch.zeros_like(F) if self.G is None else _values(self.G, u, "G")
        Q = G @ G.mT
        to_end = rule.weights - rule.integrals  # from each node to the end
        one = torch.eye(F.shape[-1], dtype=torch.float64)
        Psi = one.expand_as(F)
        for _ in range(TERMS):
            Psi = one + h * _along(to_end, Psi @ F)
        whole = rule.weights[None]
        pull, noise = Psi @ F, Psi @ Q @ Psi.mT
        Phi, Sigma = one + (h * _along(whole, pull))[:, 0], (h * _along(whole, noise))[:, 0]
        with torch.no_grad():
            length = b - a
            tails = [_largest(_along(rule.tail, v)) for v in (pull, noise)]
            errors = [length * v for v in tails]
            ends = [_along(rule.ends, v) for v in (F, Q)]
            stiffness = length * F.abs().sum(-1).amax((1, 2))
        return _Integrals(Phi, Sigma, Psi, stiffness, *errors, *ends)

    def _sum(self, panels: _Integrals) -> Tensor:
        """Sum the errors of the panels, and return the error of each panel as a multiple of what is allowed."""
        with torch.no_grad():
            sizes = _from_start(panels)[1].abs().amax((1, 2))
            drift = panels.drift_error + self._hidden(panels.drift_ends)
            noise = panels.noise_error + self._hidden(panels.noise_ends)
            # Noise that sets in within the rounding of a time has no relative error to speak of.
            noise = torch.where(noise == 0, 0.0, noise / (sizes[1:] + FAINT * sizes.max()))
            long = torch.where(panels.stiffness > LONGEST, panels.stiffness, 0.0)  # where the series is not summed
            each = (2 * drift + noise + long).nan_to_num(nan=torch.inf).clamp_max(1e30)
            self.error = torch.cat([each.new_zeros(1), each.cumsum(0)])
            self.excess = each / self.resolved
        return self.excess

    def _hidden(self, ends: Tensor) -> Tensor:
        """Return the error of each panel by jumps that may hide between its first or last node and its neighbour's, ``(n,)``."""
        jump = _largest((ends[1:, 0] - ends[:-1, 1])[:, None])
        return self._beside(jump, POINTS)

    def _grow(self) -> None:
        """Compose the laws of neighbours, of pairs, of fours and so on, to a binary tree with its root at place 1."""
        self.leaves = 1 << (len(self.Phi) - 1).bit_length()
        one, zero = _nothing(self.leaves - len(self.Phi), self.Phi)
        level = torch.cat([self.Phi, one]), torch.cat([self.Sigma, zero])
        levels = [level]
        while len(level[0]) > 1:
            level = compose(*((level[0][i::2], level[1][i::2]) for i in range(2)))
            levels.append(level)
        levels.append(_nothing(1, self.Phi))  # place 0 is no panel
        self.tree: Law = (torch.cat([v[0] for v in levels[::-1]]), torch.cat([v[1] for v in levels[::-1]]))

    def __call__(self, s: Tensor, t: Tensor) -> Law:
        """Return ``Phi`` and ``Sigma`` of the state at `t` given that at `s`, ``(*t.shape, k, k)``, for ``s <= t``.

        Raises
        ------
        ValueError
            If ``Phi`` or ``Sigma`` has an estimated relative error above 1e-6.
        """
        s, t = torch.broadcast_tensors(s, t)
        shape, s, t = t.shape, s.reshape(-1), t.reshape(-1)
        i, j = ((torch.searchsorted(self.edges, v.detach().contiguous(), right=True) - 1) for v in (s, t))
        i, j = (v.clamp(0, len(self.edges) - 2) for v in (i, j))
        self._check(t, i, j)
        last = self._integrate(s.maximum(self.edges[j]), t)
        if (s == self.edges[0]).all():
            before = self.until[0][j], self.until[1][j]
        else:
            first, apart = self._integrate(s, t.minimum(self.edges[i + 1])), (j > i)[:, None, None]
            between = compose((first.Phi, first.Sigma), self._between(i + 1, j))
            one, zero = _nothing(len(t), self.Phi)
            before = torch.where(apart, between[0], one), torch.where(apart, between[1], zero)
        Phi, Sigma = compose(before, (last.Phi, last.Sigma))
        Sigma = 0.5 * (Sigma + Sigma.mT)
        return Phi.reshape(*shape, *Phi.shape[1:]), Sigma.reshape(*shape, *Sigma.shape[1:])

    def _between(self, i: Tensor, j: Tensor) -> Law:
        """Return the laws over the panels from `i` up to, and without, `j`, ``(n,)`` each, composed of branches of the tree."""
        low, high = i + self.leaves, torch.maximum(i, j) + self.leaves
        left = right = _nothing(len(i), self.Phi)
        for _ in range(self.leaves.bit_length()):
            own = (low % 2 == 1) & (low < high)
            left = compose(left, self._branch(torch.where(own, low, 0)))
            low = low + own.long()
            own = (high % 2 == 1) & (low < high)
            high = high - own.long()
            right = compose(self._branch(torch.where(own, high, 0)), right)
            low, high = low // 2, high // 2
        return compose(left, right)

    def _branch(self, place: Tensor) -> Law:
        return self.tree[0][place], self.tree[1][place]

    def _check(self, t: Tensor, i: Tensor, j: Tensor) -> None:
        """Refuse times in the panels from `i` to `j` if quadrature has too large an error there."""
        error = torch.where(t > self.edges[i], self.error[j + 1] - self.error[i], 0.0)
        if not (error <= ALLOWED).all():
            k = int(error.nan_to_num(nan=torch.inf).argmax())
            where = self.edges[i[k] + self.excess[i[k] : j[k] + 1].argmax()]
            raise ValueError(
                f"quadrature of F and G is not accurate enough: at t = {t[k].item():.6g} the moments have an estimated relative "
                f"error of {error[k].item():.1g}, most of it from t = {where.item():.6g} on, where the coefficients diverge or "
                "change too fast; smooth them there, or override moments(s, t) with a closed form."
            )


def _values(coefficient: OfTime, u: Tensor, name: str) -> Tensor:
    """Return the values of a matrix coefficient at the times `u` ``(n, points)``, float64 ``(n, points, k, k)``.

    Raises
    ------
    TypeError
        If the values are no real numbers.
    ValueError
        If a value is not finite.
    """
    given = coefficient(u.reshape(-1))
    numbers = as_numbers(given)
    if numbers is None or numbers.is_complex():
        raise TypeError(
            f"{name}(t) {kind_of(given)} of no real numbers; give matrices of them, by torch functions of t."
        )
    values = numbers.double()
    k = values.shape[-1]
    values = values.expand(u.numel(), k, k).reshape(*u.shape, k, k)
    finite = values.detach().isfinite().flatten(2).all(-1)
    if not finite.all():
        raise ValueError(
            f"{name}(t) is not finite at t = {u.detach()[~finite][0].item():.6g}; give matrices that are finite on [0, T]."
        )
    return values


def _along(rows: Tensor, values: Tensor) -> Tensor:
    """Apply a matrix ``(m, points)`` to the nodes of ``(n, points, k, k)``, and return ``(n, m, k, k)``."""
    return (rows @ values.flatten(2)).reshape(len(values), len(rows), *values.shape[2:])


def _largest(values: Tensor) -> Tensor:
    """Return the largest absolute value in each row of ``(n, m, k, k)``, ``(n,)``."""
    return values.abs().amax((1, 2, 3))


def _from_start(panels: _Integrals) -> Law:
    """Return the laws from the first panel's start to each edge, ``(n + 1, k, k)``."""
    law, step = (panels.Phi, panels.Sigma), 1
    while step < len(panels.Phi):  # laws over so many panels before each edge: twice as many every time
        later = compose((law[0][:-step], law[1][:-step]), (law[0][step:], law[1][step:]))
        law = torch.cat([law[0][:step], later[0]]), torch.cat([law[1][:step], later[1]])
        step *= 2
    one, zero = _nothing(1, panels.Phi)
    return torch.cat([one, law[0]]), torch.cat([zero, law[1]])


def _nothing(n: int, like: Tensor) -> Law:
    """Return the law of a step of no length, `n` times: ``Phi = 1`` and ``Sigma = 0``."""
    one = torch.eye(like.shape[-1], dtype=torch.float64).expand(n, *like.shape[1:])
    return one, torch.zeros_like(one)
