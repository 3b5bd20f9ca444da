"""Twisted sequential Monte Carlo: asymptotically exact conditional samples from approximate guidance and particle weights."""

from __future__ import annotations

__all__ = ["Particles", "draw_indices", "effective_size", "log_evidence_of", "refuse_rows", "twisted_smc"]

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..laws.draws import noise_like, resample_systematically
from ..laws.kernels import posterior
from ..models.named import read_conditions
from ..models.score import ScoreModel, evaluating
from ..processes.grids import Angle, Grid
from ..samplers.noise import as_seed
from ..samplers.start import check_conditions, check_known, start
from ..show import show_call
from .base import require_clean_means
from .measured import MeasurementGuidance
from .measuring import check_measured


class Particles(NamedTuple):
    """Weighted samples of data: the result of `twisted_smc`, `tilted_smc`, `annealed_smc`, `corrected`, `anneal_product` and
    `importance_sample`.

    Attributes
    ----------
    x
        ``(n, *)``.
    weights
        ``(n,)``, summing to one, float64.
    resampled
        How often the particles were resampled on the way.
    evaluations
        Evaluations of the model for each particle.
    log_evidence
        The logarithm of the normaliser of the law, in nats, as the function says that made the particles, such as of the density
        of what was measured for `twisted_smc`; None where it is not estimated.
    evidence_error
        The standard error of `log_evidence`; None as above.
    ancestors
        The effective number of first particles that the last ones descend from: ``1 / Σ f²`` of the weights `f` of families. Of
        few, neither the weights nor the error say much. None as above.
    """

    x: Tensor
    weights: Tensor
    resampled: int
    evaluations: int
    log_evidence: float | None = None
    evidence_error: float | None = None
    ancestors: float | None = None

    def __repr__(self) -> str:
        return show_call(self)

    @classmethod
    def of_families(
        cls, x: Tensor, log_weights: Tensor, family: Tensor, resampled: int, evaluations: int, log_evidence: float
    ) -> Particles:
        """Return particles with the standard error of the evidence that their descent tells.

        With the weights `f` of families, those who descend from one of `n` first particles, the relative variance of the evidence
        is estimated by ``(n Σ f² − 1) / (n − 1)``. A. Lee, N. Whiteley, *Variance estimation in the particle filter*, 2018,
        arXiv:1509.00394. Theirs, for multinomial resampling, takes off as much again for each resampling as chance adds to
        ``Σ f²``; systematic resampling adds none where weights are equal, so that theirs would state half of the error here.

        Parameters
        ----------
        x, resampled, evaluations, log_evidence
            As the fields.
        log_weights
            Logarithms of weights, ``(n,)``.
        family
            The first particle that each descends from, ``(n,)``.
        """
        n, weights = len(log_weights), log_weights.softmax(0)
        shared = torch.zeros_like(weights).index_add_(0, family, weights).square().sum().item()
        variance = (n * shared - 1) / max(1, n - 1)
        return cls(x, weights, resampled, evaluations, log_evidence, max(0.0, variance) ** 0.5, 1 / shared)

    @property
    def effective(self) -> float:
        """The effective sample size, ``1 / Σ weights²``."""
        return effective_size(self.weights)

    def mean(self, of: Tensor | None = None) -> Tensor:
        """Return the weighted mean of the data, or of values ``(n, *)`` computed from the data, float64."""
        values = self.x if of is None else of
        return torch.tensordot(self.weights.to(values.device), values.double(), dims=1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` of the particles by their weights, some several times."""
        return self.x[draw_indices(self.weights, n, generator)]


@check_arguments
def twisted_smc(
    model: MeasurementGuidance,
    particles: int,
    *,
    steps: int = 100,
    grid: Grid | None = None,
    threshold: float = 0.5,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    **cond: Any,
) -> Particles:
    """Draw samples of ``p(x_0 | y)`` by the twisted diffusion sampler, exact in the limit of many particles, and return
    `Particles`.

    Particles go down the reversed chain by the steps that `model` proposes, and are weighted by how these steps differ from the
    unconditional ones and by how much the predicted likelihood has changed,
    ``p(x_s | x_t) ψ_s(x_s) / (q(x_s | x_t) ψ_t(x_t))`` with ``ψ_t ≈ p(y | x_t)``; in the end ψ is the true likelihood. Where the
    weights are uneven, particles are resampled. The error falls as one over the root of their number, whatever the proposal,
    towards the posterior of the chain of so many steps. L. Wu, B. Trippe, C. Naesseth, D. Blei, J. Cunningham, *Practical and
    asymptotically exact conditional sampling in diffusion models*, 2023, arXiv:2306.17775.

    Parameters
    ----------
    model
        A `PiGDM`, `MomentMatching` or `DPS` around a score model. The width of `MomentMatching` differs between states, so that
        its determinant enters ψ, which costs one derivative more of the model for each number measured.
    particles
        How many.
    steps, grid
        Steps and time grid of the chain; `Angle` by default.
    threshold
        Particles are resampled where the effective ones are fewer than this share.
    seed, generator
        Randomness.
    cond
        `y`, what was measured of one datum, and the conditions of the model inside.

    Returns
    -------
    Particles
        Weighted samples, with `log_evidence` the logarithm of the density of what was measured; they depend on each other, so
        repeat the run to estimate the error of a mean.

    Raises
    ------
    TypeError
        If the model is none of these.
    ValueError
        If all weights are zero or not finite, the grid ends without noise, or a condition has a row for each particle.
    """
    if not isinstance(model, MeasurementGuidance):
        raise TypeError(
            f"{type(model).__name__} proposes nothing that can be weighed; give a PiGDM, MomentMatching or DPS."
        )
    check_conditions(model, cond)
    check_count("particles", particles), check_number("threshold", threshold, at_least=0, at_most=1)
    cond = read_conditions(model, cond, twisted_smc)
    sde, seed = require_clean_means(model), as_seed(seed, generator)
    times = (Angle(end=model.end) if grid is None else grid)(sde, steps)
    if not sde.marginal(times[-1]).R.log_abs_det().isfinite().all():
        raise ValueError(
            f"the grid ends at t = {times[-1].item():.6g}, where steps have no noise to weigh; end it later."
        )
    draws = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad(), evaluating(model):
        check_known(model)
        x = start(model, particles, seed, times=times)
        refuse_rows(model, cond, x)
        log_weights = torch.zeros(particles, dtype=torch.float64)
        pending, resampled = torch.zeros_like(log_weights), 0
        log_evidence, family = 0.0, torch.arange(particles)
        for i, t in enumerate(times):
            x_0, eps, slope, log_twist = model.tilt_with_log_density(x, t, **cond)
            log_weights = _checked(log_weights + pending + log_twist.double().cpu(), t)
            weights = log_weights.softmax(0)
            if weights.square().sum() * particles * threshold > 1:
                kept = draw_indices(weights, particles, draws)
                x_0, eps, slope, log_twist = (v[kept.to(v.device)] for v in (x_0, eps, slope, log_twist))
                log_evidence, family = log_evidence + log_evidence_of(log_weights).item(), family[kept]
                log_weights, resampled = torch.zeros_like(log_weights), resampled + 1
            if i + 1 == len(times):
                break
            at_s, at_t = sde.marginal(times[i + 1]), sde.marginal(t)
            law = posterior(at_s, at_t, sde.transition(times[i + 1], t))
            L = law.covariance.cholesky()

            def mean(x_0: Tensor, eps: Tensor, at_s: Any = at_s, gain: Any = law.K @ at_t.R) -> Tensor:
                return at_s.Phi(x_0) + gain(eps)

            push, z = mean(*model.resolve_gradient(model.scale * slope, t)), noise_like(x, draws)
            x = mean(x_0, eps) + push + L(z)
            # log N(x; mean) − log N(x; mean + push): the proposal against the chain's own step.
            ratio = 0.5 * (z.square() - (L.inv()(push) + z).square()).flatten(1).sum(1)
            pending = (ratio - log_twist).double().cpu()
        data = sde.project(x_0)
        last = model.measurement.log_prob(check_measured(cond, model.measurement.measure(data)), data) - log_twist
        log_weights = _checked(log_weights + last.double().cpu(), times[-1])
    log_evidence += log_evidence_of(log_weights).item()
    return Particles.of_families(data, log_weights, family, resampled, len(times), log_evidence)


def refuse_rows(model: ScoreModel, cond: dict[str, Any], x: Tensor) -> None:
    """Refuse values with a row for each particle: resampling changes which particle is in which row."""
    named = model.with_rows(cond, x[:1], len(x)) if len(x) > 1 else []
    if named:
        raise ValueError(
            f"{named[0]} has a row for each particle; give one {named[0]} without rows, which all particles share."
        )
    if len(x) > 1 and model.part(slice(0, 1), x[:1], len(x)) is not model:
        raise ValueError("a condition fixed in the model has a row for each particle; give one without rows for all.")


def effective_size(weights: Tensor) -> float:
    """Return the effective number ``1 / Σ weights²`` of weights of sum one."""
    return 1 / weights.square().sum().item()


def log_evidence_of(log_weights: Tensor) -> Tensor:
    """Return the logarithm of the mean of weights."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def draw_indices(weights: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """Draw indices by systematic resampling: each as often as its weight says, to within one."""
    return resample_systematically(weights, n, torch.rand((), dtype=torch.float64, generator=generator))


def _checked(log_weights: Tensor, t: Tensor) -> Tensor:
    """Return the logarithms of weights at a time; refuse NaN, and weights that are all zero."""
    if not log_weights.isfinite().any() or log_weights.isnan().any():
        raise ValueError(f"the weights turned non-finite at t = {t.item():.6g}; take more steps, or another wrapper.")
    return log_weights
