"""Twisted sequential Monte Carlo: asymptotically exact conditional samples from approximate guidance and particle weights."""

from __future__ import annotations

__all__ = ["twisted_smc"]

from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.draws import noise_like
from ..laws.vectors import as_vectors
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..processes.grids import Grid
from ..samplers.noise import as_seed
from ..samplers.start import check_known, start
from .base import require_clean_means
from .measured import MeasurementGuidance
from .measuring import require_measured
from .particles import (
    ChainStep,
    Particles,
    chain_times,
    check_particles,
    log_mean_exp,
    refuse_early_end,
    refuse_rows,
    resample,
)


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

    Particles take the steps of the reversed chain that `model` proposes. Their weights account for the difference of these steps
    from the unconditional steps, and for the change of the predicted likelihood,
    ``p(x_s | x_t) ψ_s(x_s) / (q(x_s | x_t) ψ_t(x_t))`` with ``ψ_t ≈ p(y | x_t)``; in the end ψ is the true likelihood. If the
    weights are uneven, particles are resampled. Whatever the proposal, the samples converge to the posterior of the chain of so
    many steps, with an error of one over the root of the number of particles. L. Wu, B. Trippe, C. Naesseth, D. Blei, J.
    Cunningham, *Practical and asymptotically exact conditional sampling in diffusion models*, 2023, arXiv:2306.17775.

    Parameters
    ----------
    model
        A `PiGDM`, `MomentMatching` or `DPS` around a score model. The covariance of `MomentMatching` differs between states, so
        its determinant is part of ψ, which costs one more derivative of the model for each measured number.
    particles
        The number of particles.
    steps, grid
        Steps and time grid of the chain; `Angle` by default.
    threshold
        Particles are resampled if their effective number falls below this share.
    seed, generator
        Randomness.
    cond
        `y`, the measured values of one datum, and the conditions of the model inside.

    Returns
    -------
    Particles
        Weighted samples, with `log_evidence` the logarithm of the density of `y`. The samples depend on each other, so repeat the
        run to estimate the error of a mean.

    Raises
    ------
    TypeError
        If `model` is not one of these wrappers.
    ValueError
        If all weights are zero or not finite, the grid ends early or without noise, or a condition has a row for each particle.
    """
    if not isinstance(model, MeasurementGuidance):
        raise TypeError(
            f"{type(model).__name__} proposes nothing that can be weighed; give a PiGDM, MomentMatching or DPS."
        )
    check_particles(particles, threshold)
    cond = read_conditions(model, cond, twisted_smc)
    sde, seed = require_clean_means(model), as_seed(seed, generator)
    times = chain_times(model, sde, grid, steps)
    refuse_early_end(model, sde, times)
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
            kept = resample(log_weights, threshold, draws)
            if kept is not None:
                x_0, eps, slope, log_twist = (v[kept.to(v.device)] for v in (x_0, eps, slope, log_twist))
                log_evidence, family = log_evidence + log_mean_exp(log_weights).item(), family[kept]
                log_weights, resampled = torch.zeros_like(log_weights), resampled + 1
            if i + 1 == len(times):
                break
            step = ChainStep(sde, times[i + 1], t)
            L = step.law.covariance.cholesky()
            push, z = step.mean(*model.resolve_gradient(model.scale * slope, t)), noise_like(x, draws)
            x = step.mean(x_0, eps) + push + L(z)
            # log N(x; mean) − log N(x; mean + push): the proposal against the chain's own step.
            ratio = 0.5 * as_vectors(z.square() - (L.inv()(push) + z).square()).sum(1)
            pending = (ratio - log_twist).double().cpu()
        data = sde.project(x_0)
        last = model.measurement.log_prob(require_measured(cond, model.measurement.measure(data)), data) - log_twist
        log_weights = _checked(log_weights + last.double().cpu(), times[-1])
    log_evidence += log_mean_exp(log_weights).item()
    remedy = "take more particles, or annealed_smc, whose weights are of data and not of paths"
    return Particles.of_families(data, log_weights, family, resampled, len(times), log_evidence, remedy)


def _checked(log_weights: Tensor, t: Tensor) -> Tensor:
    """Return the logarithms of weights at a time; refuse NaN, and weights that are all zero."""
    if not log_weights.isfinite().any() or log_weights.isnan().any():
        raise ValueError(f"the weights turned non-finite at t = {t.item():.6g}; take more steps, or another wrapper.")
    return log_weights
