"""Draws of noisy copies of data given a measurement that is not linear, by Langevin steps that are accepted or refused.

A copy `z` of data `x` has the law ``p(z | x, y) ∝ p(y | z) N(z; x, level² D²)``, with the spread `D` of the data's units. This
law is not Gaussian. A draw from it needs values and slopes of the likelihood, and no evaluation of a model.
"""

from __future__ import annotations

__all__ = ["LangevinCopy"]

import torch
from torch import Tensor

from ..laws.draws import noise_like
from ..laws.operators import rows
from ..laws.products import pull_back
from ..laws.vectors import as_vectors, dot, over_rows
from .conjugate_gradients import Map
from .coupling import CopiedData
from .measuring import check_measured

TRIES = 32  # draws of the noise alone, one of which may be taken
STEPS = 16  # of a walk
SHORTEST = 0.03  # the smallest length of a step; a step of length 1 forgets where it began
STEEPEST = 3.0  # roots of the number of measured numbers: the longest slope of a step, in standard deviations of the copy's noise
MOST = 256  # measured numbers, at most, since every datum has a square matrix over them


class LangevinCopy(CopiedData):
    """A score model's data, coupled with a measured copy of them by Gaussian noise, for any measurement that torch can
    differentiate.

    The joint law is ``p(x) N(z; x, level² D²) p(y | z)``. A copy is drawn by steps from the last copy, which leave
    ``p(z | x, y)`` as it is. In ``w = D⁻¹ (z − x) / level`` a step proposes ``w' = w + (1 − ρ) P⁻¹ ∇ log p(w) + β P^(−½) n`` with
    ``ρ² = 1 − β²`` and ``P = 1 + Bᵀ B``, where `B` is the derivative of the measurement at `x` in units of the noise's local
    standard deviation. Metropolis' rule accepts or refuses the proposal. For a linear map with Gaussian noise all are accepted,
    and a step with ``β = 1`` is an exact draw. For others no length suits all copies: `β` is drawn for each, down to 0.03, and
    the slope, which may be steep far away, is shortened to three roots of the number of measured numbers. With ``P = 1`` these
    are the steps of S. Cotter, G. Roberts, A. Stuart, D. White, *MCMC methods for functions: modifying old algorithms to make
    them faster*, 2013, arXiv:1202.0709.

    Parameters
    ----------
    model, measurement, y, generator, steps, batch, cond
        As for `NoisedData`.
    """

    _last: tuple[Tensor, float] | None = None  # the last copy, and its level

    def matching_level(self, x: Tensor) -> float:
        """Return the level at which a copy's noise has the variance of the measurement's noise, along the direction that is
        measured best; the lowest of those of all data.
        """
        measured = _Precision(self, x, 1.0).values.max()
        return measured.clamp_min(torch.finfo(torch.float64).tiny).rsqrt().item()

    def draw_copy(self, x: Tensor, level: float) -> Tensor:
        """Draw the copy given the data and `y`, by steps from the last copy, or the first time from the data, and return it.

        Raises
        ------
        ValueError
            If too many numbers are measured, or the measurement of the data is not finite or has no derivative.
        """
        P, standardise = _Precision(self, x, level), self.sde.units.standardise
        w = torch.zeros_like(x) if self._last is None else (standardise(self._last[0]) - standardise(x)) / self._last[1]
        w = self._walk(self._choose(w, x, level), x, level, P)
        z = self._place(w, x, level)
        self._last = z, level
        return z

    def _choose(self, w: Tensor, x: Tensor, level: float) -> Tensor:
        """Return `w` or a draw of the noise alone, chosen by their likelihoods, so that modes far apart get their weights."""
        total = self.log_likelihood(self._place(w, x, level))
        for _ in range(TRIES):
            other = noise_like(x, self.generator)
            value = self.log_likelihood(self._place(other, x, level)).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
            total = torch.logaddexp(total, value)
            (w,) = self._take(value - total, (other,), (w,))
        return w

    def _walk(self, w: Tensor, x: Tensor, level: float, P: _Precision) -> Tensor:
        """Return `w` after steps of the chain, every other of which has length 1."""
        value, drift = self._look(w, x, level, P)
        for i in range(STEPS):
            beta = SHORTEST ** (i % 2 * torch.rand(len(x), dtype=torch.float64, generator=self.generator))
            beta, gain = rows(beta, x), rows(1 - (1 - beta.square()).sqrt(), x)
            other = w + gain * drift + beta * P.draw(self.generator)
            other_value, other_drift = self._look(other, x, level, P)
            there, back = (other - w - gain * drift) / beta, (w - other - gain * other_drift) / beta
            log_ratio = other_value - value + 0.5 * (P.measure(there) - P.measure(back))
            w, value, drift = self._take(log_ratio, (other, other_value, other_drift), (w, value, drift))
        return w

    def _take(self, log_chance: Tensor, others: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return rows of `others`, each with the given log-probability (NaN counts as never), and else those of `before`."""
        u = torch.rand(len(log_chance), dtype=torch.float64, generator=self.generator)
        taken = (u.log() < log_chance.double().cpu()).to(log_chance.device)
        pairs = zip(others, before, strict=True)
        return tuple(torch.where(over_rows(taken, old), new, old) for new, old in pairs)

    def _place(self, w: Tensor, x: Tensor, level: float) -> Tensor:
        """Return the copy that has the coordinates `w`."""
        return x + level * self.sde.units.stretch(w)

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Return ``log p(y | z)``, ``(n,)``."""
        return self.measurement.log_prob(check_measured(self.y, self.measurement.measure(z)), z)

    def _look(self, w: Tensor, x: Tensor, level: float, P: _Precision) -> tuple[Tensor, Tensor]:
        """Return ``log p(w)`` up to a constant, and ``P⁻¹ ∇ log p(w)``, shortened if it is long."""
        z = self._place(w, x, level)
        value, _, back = pull_back(lambda z: (self.log_likelihood(z), ()), z)
        slope = level * self.sde.units.stretch(back(torch.ones_like(value))) - w
        # Where the slope is not finite, the walk goes without it.
        drift = P.solve(slope.where(slope.isfinite(), 0.0))
        most = STEEPEST**2 * P.numbers
        return value - 0.5 * dot(w, w), drift * rows((most / dot(drift, drift).clamp_min(most)).sqrt(), drift)


class _Precision:
    """The matrix ``P = 1 + Bᵀ B`` of each datum, by products with `B` and `Bᵀ` and one decomposition of ``B Bᵀ``."""

    def __init__(self, laws: LangevinCopy, x: Tensor, level: float) -> None:
        A, stretch = laws.measurement, laws.sde.units.stretch
        try:
            forth, transpose = A.product_at(x), A.transpose_at(x)
            seen = A.measure(x)
            self.numbers, self.like = seen[0].numel(), x
            if self.numbers > MOST:
                raise ValueError(
                    f"{self.numbers} numbers are measured by a map that is not linear, and a matrix of as many sides is "
                    f"decomposed for every sample; measure at most {MOST}, or take MomentMatching or DPS, which need none."
                )
            _, residual, std = A.local_gaussian(check_measured(laws.y, seen), seen)
            A.check_derivative(seen, residual, transpose(residual))
        except RuntimeError:
            A.explain_failure(x)
            raise
        self.forth: Map = lambda w: forth(level * stretch(w)) / std
        self.back: Map = lambda u: level * stretch(transpose(u / std))
        basis = torch.eye(self.numbers, dtype=x.dtype, device=x.device).reshape(-1, *seen.shape[1:])
        measured = torch.stack([as_vectors(self.forth(self.back(e.expand_as(seen)))) for e in basis], 2).double()
        values, self.vectors = torch.linalg.eigh(0.5 * (measured + measured.mT))
        self.values = values.clamp_min(0)

    def solve(self, v: Tensor) -> Tensor:
        """Return ``P⁻¹ v``."""
        return v - self.back(self._shrink(self.forth(v)))

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw Gaussian noise of the covariance ``P⁻¹``: standard noise, corrected by a noisy measurement that should be 0."""
        n = noise_like(self.like, generator)
        missed = self.forth(n)
        return n - self.back(self._shrink(missed + noise_like(missed, generator)))

    def measure(self, v: Tensor) -> Tensor:
        """Return ``vᵀ P v``, ``(n,)``."""
        seen = self.forth(v)
        return dot(v, v) + dot(seen, seen)

    def _shrink(self, u: Tensor) -> Tensor:
        """Return ``(1 + B Bᵀ)⁻¹ u``."""
        along = (self.vectors.mT @ as_vectors(u.double())[..., None])[..., 0] / (1 + self.values)
        return (self.vectors @ along[..., None])[..., 0].reshape(u.shape).to(u)
