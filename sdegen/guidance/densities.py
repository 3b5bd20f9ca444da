"""Weighted samples of a law that is known up to a constant, annealed from a Gaussian without a model: `anneal_density`."""

from __future__ import annotations

__all__ = ["anneal_density"]

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ..answers import ask_log_prob
from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..laws.mixtures import GaussianMixture
from ..laws.vectors import as_vectors
from ..mixing import check_unmixed
from ..progress import show_bar
from ..samplers.noise import as_seed
from ..warning import warn_caller
from .moves import check_log_density, first_step, look, move
from .near import data_near
from .particles import Particles, check_particles, log_mean_exp, resample

ACCEPTED = 0.5  # target for the share of accepted proposals, by which the largest step is set
WIDER = 4.0  # mean square distance from the middle of the Gaussian, in its variances, above which it covers no law
FAR = 1e6  # standard deviations of the Gaussian: particles that are farther away are on their way to infinity


@check_arguments
def anneal_density(
    log_prob: Callable[[Tensor], Tensor],
    gaussian: GaussianMixture,
    particles: int,
    *,
    levels: int = 500,
    settle: int = 0,
    spread: float = 6.0,
    threshold: float = 0.5,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool | None = None,
) -> Particles:
    """Draw weighted samples of a law that is known up to a constant by sequential Monte Carlo, without a network, and return
    `Particles` with the logarithm of the constant.

    Particles go from draws of a Gaussian `g` through the laws ``g^(1 − β) f^β`` to the density `f`, with `β` from 0 to 1 in equal
    levels. At each level their weights are multiplied by ``(f / g)^Δβ``, they are resampled if weights are uneven, and each takes
    a Langevin step that is accepted by Metropolis and Hastings. P. Del Moral, A. Doucet, A. Jasra, *Sequential Monte Carlo
    samplers*, 2006; without resampling it is annealed importance sampling (R. Neal, 1998, arXiv:physics/9803008).

    A step is ``ε exp(−spread U)`` long, with `U` uniform on ``(0, 1)`` for each particle, so that there are steps that suit
    narrow and wide parts of the law. `ε` is adapted from level to level so that half of the steps are accepted, which biases the
    constant by an amount that vanishes with many particles. Each particle and level costs one evaluation of the density and its
    slope. Draws of the result are data for `fit`, and `importance_sample` judges the model that is trained on them.

    Parameters
    ----------
    log_prob
        The logarithm of the density of data ``(n, *)`` up to a constant, ``(n,)``, by operations of torch; −∞ where it is 0.
    gaussian
        The law from which particles begin: a Gaussian, or a mixture of Gaussians, at least as wide as the law.
    particles
        The number of particles.
    levels
        The number of levels, each of one step.
    settle
        The number of further steps in the law itself, which move copies of a particle apart and change no weights.
    spread
        The logarithm of the ratio of the largest and the smallest step; 0 for one step size.
    threshold
        Particles are resampled if their effective number falls below this share; 0 for never.
    seed, generator
        Randomness.
    progress
        Show a bar of the levels; by default where standard error is a terminal.

    Returns
    -------
    Particles
        ``(n, *)`` float64, with `log_evidence` the logarithm of ``∫ f(x) dx``.

    Raises
    ------
    ValueError
        If `log_prob` is NaN or +∞ somewhere, −∞ at all particles, or has no slope, if particles leave for infinity, or a number
        is out of its bounds.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> gaussian = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([9.0]))
    >>> found = anneal_density(lambda x: ring.log_prob(x) + 3.0, gaussian, 1000, levels=100, seed=0)
    >>> abs(found.log_evidence - 3.0) < 4 * found.evidence_error
    True
    """
    check_particles(particles, threshold)
    check_count("levels", levels), check_count("settle", settle, at_least=0), check_number("spread", spread, at_least=0)
    draws = torch.Generator().manual_seed(as_seed(seed, generator))
    check_unmixed("log_prob", lambda x: _evaluate(log_prob, gaussian, x).log_f, data_near(gaussian.moments()))
    x = gaussian.sample(particles, draws)
    look_at = partial(_evaluate, log_prob, gaussian)
    at, step = look_at(x), first_step(gaussian.moments().variance().item(), x)
    log_weights, family = torch.zeros(particles, dtype=torch.float64), torch.arange(particles)
    resampled, log_evidence = 0, 0.0
    with show_bar(progress, "anneal_density") as bar:
        for level in range(levels + settle):
            if level < levels:
                log_weights = log_weights + (at.log_f - at.log_g) / levels
                if not (log_weights > -torch.inf).any():
                    raise ValueError(
                        f"log_prob is -inf at all {particles} particles; begin with a Gaussian that covers the law."
                    )
                kept = resample(log_weights, threshold, draws)
                if kept is not None:
                    log_evidence += log_mean_exp(log_weights).item()
                    log_weights, at, family = torch.zeros_like(log_weights), at.rows(kept), family[kept]
                    resampled += 1
            beta = min(1.0, (level + 1) / levels)
            at, accepted = move(at, look_at, partial(_between, beta), step, spread, draws)
            step *= math.exp(accepted - ACCEPTED)
            bar.update()
    log_evidence += log_mean_exp(log_weights).item()
    remedy = "take more particles or levels, or a Gaussian nearer to the law"
    found = Particles.of_families(at.x, log_weights, family, resampled, levels + settle + 1, log_evidence, remedy)
    _warn_if_uncovered(gaussian, found)
    return found


def _warn_if_uncovered(gaussian: GaussianMixture, found: Particles) -> None:
    """Warn of particles that have ended where the Gaussian that they began with has little mass: wider than it, or beside it."""
    begun, mean = gaussian.moments(), found.mean(found.x)
    out, wide = (
        found.mean((found.x - centre).square()).mean().item() / begun.variance().item() for centre in (begun.mean, mean)
    )
    if out <= WIDER:
        return
    if wide >= 1:
        warn_caller(
            f"particles end {out**0.5:.2g} times as far out as they began: the density is wider than the Gaussian, or has no "
            "finite integral, and then log_evidence says nothing; begin with a wider one, and bound the density."
        )
    else:
        warn_caller(
            f"particles end {(out - wide) ** 0.5:.2g} standard deviations beside the centre of the Gaussian, spread by "
            f"{wide**0.5:.2g} of them: the law lies where it has little mass, and parts of it may be missed, or the density "
            "has no finite integral; begin with a Gaussian around the particles' mean, or a wider one."
        )


class _Points(NamedTuple):
    """Points, the log-densities of the law and of the Gaussian there, and their slopes."""

    x: Tensor
    log_f: Tensor
    log_g: Tensor
    slope_f: Tensor
    slope_g: Tensor

    def rows(self, kept: Tensor) -> _Points:
        """Return some of the points."""
        return _Points(*(value[kept] for value in self))


def _between(beta: float, at: _Points) -> tuple[Tensor, Tensor]:
    """Return the log-density of the law ``g^(1 − β) f^β``, up to a constant, and its slope."""
    return beta * at.log_f + (1 - beta) * at.log_g, beta * at.slope_f + (1 - beta) * at.slope_g


def _evaluate(log_prob: Callable[[Tensor], Tensor], gaussian: GaussianMixture, x: Tensor) -> _Points:
    """Return both log-densities and their slopes at points; slopes are 0 where the density is 0."""

    def check(log_f: Tensor, x: Tensor) -> None:
        _refuse_far(gaussian, x, log_f.isnan() | (log_f == torch.inf))
        check_log_density(log_f, x)

    _refuse_far(gaussian, x, ~as_vectors(x.isfinite()).all(1))
    x, log_f, slope = look(log_prob, x, check)
    return _Points(x, log_f, ask_log_prob(gaussian, x), slope, gaussian.score(x))


def _refuse_far(gaussian: GaussianMixture, x: Tensor, bad: Tensor) -> None:
    """Refuse points without a value if one lies so far out that particles are on their way to infinity."""
    begun = gaussian.moments()
    far = bad & ~(as_vectors(x - begun.mean).norm(dim=1) < FAR * begun.variance().sqrt().item())
    if far.any():
        raise ValueError(
            f"{int(far.sum())} of {len(x)} particles have left for infinity: the density rises there without bound, and has no "
            "finite integral, or its slope is too steep for a step; bound it, or begin with a Gaussian of its width."
        )
