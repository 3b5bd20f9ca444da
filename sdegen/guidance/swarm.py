"""Particles of a product of laws between two steps: their weights, the drift that evens these out, and the estimate that a
sampler follows.

Everything is in the units of the noise: with ``s_i = −R⁻ᵀ e_i`` and ``N = Gᵀ R⁻ᵀ``, ``Gᵀ s_i = −N e_i``. A change ``A y + c`` of
the noise that the sampler follows, `y` the whitened state, is a drift `u` with ``∇·u + u·s = k ((A y + c)·NᵀN e − tr NᵀN A)``,
where ``e = Σ β_i e_i`` and `k` is half the sum of the powers times ``1 + eta²``.
"""

from __future__ import annotations

__all__ = ["Drift", "Precomputed", "Stage", "Swarm", "regress", "stages_of"]

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..conditions import NONE, Conditions
from ..laws.marginals import Marginal
from ..laws.matrices import single_matrix
from ..laws.operators import Operator
from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from ..processes.linear import LinearSDE
from ..samplers.multistep import MultistepMemory
from .members import MembersInBatches
from .particles import log_mean_exp, resample
from .product import Product

APART = 1e-5  # of an angle, between times whose difference stands for a derivative
LEAST = 1e-9  # of the strongest noise: directions with less have none
LONGEST = 4.0  # root mean square of the change of the noise, whose numbers have size 1: beyond it steps overshoot
RIDGE = 1e-2  # of the mean square of a feature
LEVERAGE = 0.5  # of a row of a regression: beyond it a fit without the row says little of the row
EACH = 20  # particles for each number that is fitted, at least
FITTED = 1.0  # nats that a step may give to a weight or take from it beyond a fit, as the fit counts them
ROUNDS = 10  # of a fit to values that are cut about it
GIVEN = 0.5  # nats above the mean that a step may give to a weight, beyond which it is too long for that particle


class Precomputed(ScoreModel):
    """A score model whose estimate has been computed already, at the only states that a step of the sampler asks about."""

    conditioned = True
    sde: LinearSDE

    def __init__(self, sde: LinearSDE, model: Product) -> None:
        self.sde, self._like = sde, model.like
        self.known: tuple[Tensor, Tensor] | None = None  # clean states and noise, set before every step

    @property
    def like(self) -> Tensor | None:
        """A weight of the members."""
        return self._like

    @property
    def conditions(self) -> Conditions:
        """None: they have been used."""
        return NONE

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the clean state and the noise that are known."""
        assert self.known is not None
        return self.known

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score of the known noise."""
        return self._marginal(t).score_from_noise(self.estimate(x, t)[1])


class Stage(NamedTuple):
    """Coefficients at a time of a run.

    Attributes
    ----------
    at
        The law of states given the data.
    phi, dt_dphi
        The angle, and the derivative of the time by it.
    root
        ``Gᵀ R⁻ᵀ``.
    gram
        ``R⁻¹ G Gᵀ R⁻ᵀ`` over all numbers of a state.
    log_volume, log_spread
        Logarithms of the determinants of the flow of the drift from 0, and of a root of the covariance of states of Gaussian data
        with the members' variance.
    growth
        The derivative of ``log_spread − log_volume`` by the angle.
    length
        The angle that the rates of this time count for: half of the steps before and after.
    """

    at: Marginal
    phi: float
    dt_dphi: float
    root: Operator
    gram: Tensor
    log_volume: float
    log_spread: float
    growth: float
    length: float


def stages_of(model: Product, sde: LinearSDE, times: Tensor, d: int) -> list[Stage]:
    """Return the coefficients at the times of a run of a product whose states have `d` numbers."""
    phi = sde.angle_at(times)
    low, high = (phi - APART).clamp_min(phi.min()), (phi + APART).clamp_max(phi.max())
    before, after = sde.time_of_angle(low), sde.time_of_angle(high)
    variance = model.state_moments().variance()

    def sizes(t: Tensor) -> Tensor:
        """Return the logarithms of the determinants of flow and spread at the times, ``(N, 2)``."""
        at, flow = sde.marginal(t), sde.transition(torch.zeros_like(t), t).Phi
        whole = at.Phi @ sde.datum @ at.Phi.T * variance + at.covariance
        each = torch.stack([(d // A.size) * A.log_abs_det().expand(len(t)) for A in (flow, whole)], 1)
        return each * torch.tensor([1.0, 0.5], dtype=torch.float64)

    now, change = sizes(times), (sizes(after) - sizes(before)) / (high - low)[:, None]
    dt_dphi, ends = (after - before) / (high - low), torch.cat([phi[:1], phi, phi[-1:]])
    lengths = 0.5 * (ends[:-2] - ends[2:])
    found = []
    for i, t in enumerate(times):
        at = sde.marginal(t)
        root = sde.noise_at(t).T @ at.R_inv.T
        gram = single_matrix(root.T @ root, d)
        sized = [v.item() for v in (*now[i], change[i, 1] - change[i, 0], lengths[i])]
        found.append(Stage(at, phi[i].item(), dt_dphi[i].item(), root, gram, *sized))
    return found


class Drift(NamedTuple):
    """A drift that is linear in the state, fitted to particles at a time of a run.

    Attributes
    ----------
    excess
        What it takes from the rate of the weights, ``(n,)``.
    shift
        The change of the noise that makes it, ``(n, d)``.
    optimisms
        How much less it would take from each particle, were it fitted to the others, ``(n,)``.
    doubts
        How much that may be off by, ``(n,)``: as much of it as the fit to the others knows less of a particle, ``h / (1 − h)``
        of the leverage `h`.
    """

    excess: Tensor
    shift: Tensor
    optimisms: Tensor
    doubts: Tensor


class Swarm:
    """Weighted particles of a product, and the drift that is fitted to them.

    Parameters
    ----------
    model
        The product, its conditions fixed by `cond`.
    x
        States of the first time, ``(n, *)``.
    gain
        ``½ Σ β_i (1 + eta²)``.
    batch
        Most states that are evaluated at a time.
    cond
        Conditions of the members.
    """

    def __init__(self, model: Product, x: Tensor, gain: float, batch: int | None, cond: dict[str, Any]) -> None:
        self.model, self.x, self.gain = model, x, gain
        self._members = MembersInBatches(model, batch, cond)
        self.memory: MultistepMemory | None = None
        self.log_weights = torch.zeros(len(x), dtype=torch.float64)
        # Nats that the drifts have taken from the normaliser because they were fitted to the particles themselves, and would not
        # have taken from that of others, how far off that may be, and the same of each particle's weight.
        self.optimism, self.doubt = 0.0, 0.0
        self.optimisms = torch.zeros_like(self.log_weights)
        # Nats that steps would have given to the normaliser by single weights, and were too long for.
        self.withheld = 0.0
        self.ancestors, self.resampled = torch.arange(len(x)), 0
        self._before: Stage | None = None
        # Derivatives by the angle at that stage: of the logarithms of weights, and of `optimisms`.
        self._rate, self._optimisms_rate = torch.zeros_like(self.log_weights), torch.zeros_like(self.log_weights)
        self._rates: list[tuple[float, float]] = []  # the angle of each stage, and the mean rate of the weights there

    def evaluate(self, stage: Stage) -> None:
        """Evaluate the members, fit the drift, and bring the weights to the time of a stage."""
        self.clean, self.noise = self._members.estimates(self.x, stage.at.t)
        rate = self._potential(stage.root) * stage.dt_dphi - (self.model.power - 1) * stage.growth
        half = 0.0
        if self._before is not None:
            half = 0.5 * (self._before.phi - stage.phi)
            self.log_weights = self.log_weights + half * self._rate
        mean, most = self.log_weights.softmax(0) @ rate, FITTED / stage.length
        weights = (self.log_weights + half * rate.clamp(mean - most, mean + most)).softmax(0)
        drift = self._fit(stage, rate, weights)
        self.shift = drift.shift
        self.optimism += stage.length * (weights @ drift.optimisms).item()
        self.doubt += stage.length * (weights @ drift.doubts).item()
        self.optimisms = self.optimisms + half * (self._optimisms_rate + drift.optimisms)
        left = rate - drift.excess
        limit = weights @ left + GIVEN / stage.length
        self.withheld += stage.length * (weights @ (left - limit).clamp_min(0)).item()
        self._rate, self._optimisms_rate = left.clamp_max(limit), drift.optimisms
        self.log_weights, self._before = self.log_weights + half * self._rate, stage
        self._rates.append((stage.phi, (self.log_weights.softmax(0) @ self._rate).item()))
        if not self.log_weights.isfinite().all():
            raise ValueError(
                f"states or weights turned non-finite at t = {stage.at.t.item():.6g}; take more steps, or powers nearer to those "
                "of one member: the product may be improper at that time."
            )

    def _potential(self, root: Operator) -> Tensor:
        """Return ``½ (‖N e‖² − Σ β_i ‖N e_i‖²)``, ``(n,)``, as a sum of squares of differences, which cancel less."""
        b, powers = self.model.power, self.model.powers
        mean = self.model.combine(self.noise) / b

        def size(v: Tensor) -> Tensor:
            return as_vectors(root(v)).square().sum(1).double().cpu()

        apart = sum(power * size(e - mean) for power, e in zip(powers, self.noise, strict=True))
        return 0.5 * ((b * b - b) * size(mean) - apart)

    def _fit(self, stage: Stage, rate: Tensor, weights: Tensor) -> Drift:
        """Fit the drift to the rate of the weights, ``(n,)``, as weights of sum one count the particles, and return it."""
        pull = as_vectors(stage.root.T(stage.root(self.model.combine(self.noise)))).double().cpu()
        y = as_vectors(stage.at.R_inv(self.x)).double().cpu()
        y = y - weights @ y
        d, most = y.shape[1], len(y) // EACH
        strengths = torch.linalg.eigvalsh(stage.gram)
        # Too few, or directions without noise, which no drift reaches.
        if 2 * d > most or strengths[0] < LEAST * strengths[-1]:
            none = torch.zeros_like(rate)
            return Drift(none, torch.zeros_like(y), none, none)
        full = d + d * d <= most
        turned = as_vectors(pull[:, :, None] * y[:, None] - stage.gram) if full else pull * y - stage.gram.diagonal()
        features = torch.cat([pull, turned], 1)
        found, optimisms, leverages = regress(features, rate, weights, FITTED / stage.length)
        c, A = found[:d], found[d:].reshape(d, -1)
        shift = c + (y @ A.T if full else y * A[:, 0])
        shift = shift / (-self.gain * stage.dt_dphi)
        size = (weights @ shift.square().mean(1)).sqrt().item()
        share = min(1.0, LONGEST / size) if size else 1.0
        doubts = optimisms * leverages / (1 - leverages)
        return Drift(features @ found * share, shift * share, optimisms * share, doubts * share)

    def resample(self, threshold: float, draws: torch.Generator) -> None:
        """Draw the particles anew by their weights if the effective ones are fewer than a share; the mean weight is kept."""
        kept = resample(self.log_weights, threshold, draws)
        if kept is None:
            return
        at = kept.to(self.x.device)
        self.log_weights = log_mean_exp(self.log_weights).expand(len(kept))
        self.x, self.clean, self.noise = self.x[at], self.clean[:, at], self.noise[:, at]
        self._rate, self.shift, self.ancestors = self._rate[kept], self.shift[kept], self.ancestors[kept]
        self.optimisms, self._optimisms_rate = self.optimisms[kept], self._optimisms_rate[kept]
        self.resampled += 1
        if self.memory is not None:
            first, history, bare = self.memory
            self.memory = MultistepMemory(first[at], [q[at] for q in history], None if bare is None else bare[at])

    def step_error(self) -> float:
        """Return by how many nats the length of the steps may have changed the logarithm of the normaliser, the integral of the
        mean rate of the weights: a third of its difference from that over steps of twice the length, as of second order.
        """
        phi, rate = torch.tensor(self._rates, dtype=torch.float64).T
        some = sorted({*range(0, len(phi), 2), len(phi) - 1})
        fine, coarse = torch.trapezoid(rate, phi), torch.trapezoid(rate[some], phi[some])
        return (fine - coarse).abs().item() / 3

    def guided_estimate(self, stage: Stage) -> tuple[Tensor, Tensor]:
        """Return the clean states and the noise that the sampler follows: the mean of the members', changed by the drift."""
        clean, noise = (self.model.combine(values) / self.model.power for values in (self.clean, self.noise))
        change = self.shift.reshape(self.x.shape).to(self.x)
        return clean - stage.at.Phi.inv()(stage.at.R(change)), noise + change

    def finish(self, sde: LinearSDE, stage: Stage) -> Tensor:
        """Move by the flow to the time 0, with the weights that belong to it, and return the data."""
        left = sde.transition(0.0, stage.at.t)
        score = stage.at.score_from_noise(self.model.combine(self.noise))
        self.log_weights = self.log_weights + self._potential(left.R.T @ stage.at.R_inv.T)
        return sde.project(left.Phi.inv()(self.x + 0.5 * left.covariance(score)))


def regress(features: Tensor, values: Tensor, weights: Tensor, most: float = math.inf) -> tuple[Tensor, Tensor, Tensor]:
    """Fit values by features and a constant in weighted squares, and return the coefficients of the features, ``(p,)``, how much
    more is fitted to each row, ``(n,)``, than by the coefficients that the other rows give (leave-one-out), and the leverage of
    each row, ``(n,)``, a half at most.

    Leaving a row out of a regression changes its coefficients by a multiple of ``gram⁻¹ row``, so that one gram serves all rows.
    The change is at most twice what the row adds to the right-hand side alone. A value that is far from its fit counts as one
    that is `most` from it. P. J. Huber, *Robust regression*, 1973: fitted anew to values that were cut about the fit before, ten
    times. Where the least squares leave some far off, the first are cut about their median: such values throw the least squares
    after them and the others out of reach, and from the median a fit goes no farther than ten such limits.

    Parameters
    ----------
    features, values
        ``(n, p)`` and ``(n,)``.
    weights
        ``(n,)``, of sum one.
    most
        The largest residual that counts whole; all do by default.
    """
    columns = torch.cat([torch.ones_like(values)[:, None], features], 1)
    scale = (weights @ columns.square()).sqrt().clamp_min(1e-150)
    columns = columns / scale
    gram = columns.T @ (weights[:, None] * columns) + RIDGE * torch.eye(len(scale), dtype=values.dtype)
    slopes = torch.linalg.solve(gram, columns.T)
    fitted = columns @ (slopes @ (weights * values))
    order = values.argsort()
    middle = values[order][torch.searchsorted(weights[order].cumsum(0), 0.5).clamp_max(len(values) - 1)]
    # What the ridge leaves of values that are linear in the features is no sign that some are far off.
    if (values - fitted).abs().max() > most + 2 * RIDGE * (values - middle).abs().max():
        fitted = middle
    for _ in range(ROUNDS):
        counted = values.clamp(fitted - most, fitted + most)
        found = slopes @ (weights * counted)
        fitted = columns @ found
    pulls = weights[:, None] * columns * slopes.T
    leverages = pulls.sum(1).clamp_max(LEVERAGE)
    optimisms = (counted - fitted) * pulls[:, 1:].sum(1) / (1 - leverages)
    return (found / scale)[1:], optimisms, leverages
