"""Particles of a law that is known up to a constant, annealed from a Gaussian without a model: `anneal_density`."""

from __future__ import annotations

__all__ = ["anneal_density"]

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..answers import ask_log_prob, ask_numbers
from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..laws.mixtures import GaussianMixture
from ..laws.operators import rows
from ..laws.vectors import as_vectors, over_rows, sum_rows
from ..mixing import check_unmixed
from ..precision import uncast
from ..progress import show_bar
from ..samplers.noise import as_seed
from ..warning import warn_caller
from .near import data_near
from .particles import Particles, check_particles, log_mean_exp, resample

ACCEPTED = 0.5  # share of the proposals that is to be accepted, by which the largest step is set
WIDER = 4.0  # the mean square distance from the middle of the Gaussian, by its variance, beyond which it covers no law
FAR = 1e6  # of its standard deviations: what is there is on its way to infinity


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

    Particles go from draws of a Gaussian `g` through the laws ``g^(1 − β) f^β`` to the density `f`, `β` from 0 to 1 in equal
    levels. At a level their weights are multiplied by ``(f / g)^Δβ``, they are resampled where weights are uneven, and each
    takes a Langevin step that is accepted by Metropolis and Hastings. P. Del Moral, A. Doucet, A. Jasra, *Sequential Monte Carlo
    samplers*, 2006; without resampling it is annealed importance sampling (R. Neal, 1998, arXiv:physics/9803008).

    A step is ``ε exp(−spread U)`` long, with `U` uniform on ``(0, 1)`` for each particle, so that narrow and wide parts of the
    law both have steps that suit them; `ε` is set from level to level so that half of the steps are accepted, which biases the
    constant by an amount that vanishes with many particles. The density costs one evaluation and its slope for each particle
    and level. Draws of the result are data for `fit`, and `importance_sample` judges the model that comes of it.

    Parameters
    ----------
    log_prob
        The logarithm of the density of data ``(n, *)`` up to a constant, ``(n,)``, by operations of torch; −∞ where it is 0.
    gaussian
        Where particles begin: a Gaussian, or a mixture of such, as wide as the law or wider.
    particles
        How many.
    levels
        How many, each of one step.
    settle
        Further steps in the law itself, which move apart what was drawn twice and change no weights.
    spread
        Nats between the largest step and the least; 0 for one step size.
    threshold
        Particles are resampled where the effective ones are fewer than this share; 0 for never.
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
        If `log_prob` is NaN or +∞ somewhere, −∞ at all particles, or has no slope, particles leave for infinity, or a number is
        out of its bounds.

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
    at, step = _evaluate(log_prob, gaussian, x), _first_step(gaussian)
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
            at, accepted = _move(log_prob, gaussian, at, beta, step, spread, draws)
            step *= math.exp(accepted - ACCEPTED)
            bar.update()
    log_evidence += log_mean_exp(log_weights).item()
    remedy = "take more particles or levels, or a Gaussian nearer to the law"
    found = Particles.of_families(at.x, log_weights, family, resampled, levels + settle + 1, log_evidence, remedy)
    _warn_if_uncovered(gaussian, found)
    return found


def _warn_if_uncovered(gaussian: GaussianMixture, found: Particles) -> None:
    """Warn of particles that have ended where the Gaussian they began with is not: wider than it, or beside it."""
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

    def replaced(self, where: Tensor, others: _Points) -> _Points:
        """Return these points, and others `where` it says so."""
        return _Points(*(torch.where(over_rows(where, v), w, v) for v, w in zip(self, others, strict=True)))

    def value(self, beta: float) -> Tensor:
        """Return the log-density of the law between the two, up to a constant."""
        return beta * self.log_f + (1 - beta) * self.log_g

    def slope(self, beta: float) -> Tensor:
        """Return the gradient of that."""
        return beta * self.slope_f + (1 - beta) * self.slope_g


def _first_step(gaussian: GaussianMixture) -> float:
    """Return a step of the size that Langevin steps have in the Gaussian."""
    variance = gaussian.moments().variance().item()
    return variance / gaussian.means[0].numel() ** (1 / 3)


def _evaluate(log_prob: Callable[[Tensor], Tensor], gaussian: GaussianMixture, x: Tensor) -> _Points:
    """Return both densities and their slopes at points; slopes are 0 where the density is."""
    with torch.inference_mode(False), torch.enable_grad():
        _refuse_far(gaussian, x, ~as_vectors(x.isfinite()).all(1))
        x = x.clone().requires_grad_()  # no tensor of inference, which has no slope
        log_f = ask_numbers("log_prob", log_prob, x).double()
        bad = log_f.isnan() | (log_f == torch.inf)
        _refuse_far(gaussian, x.detach(), bad)
        if bad.any():
            raise ValueError(
                f"log_prob is {log_f[bad][0].item()} at {int(bad.sum())} of {len(x)} points, such as {x[bad][0].tolist()}; it "
                "must be a number, or -inf where the density is 0."
            )
        if not log_f.requires_grad:
            raise ValueError("log_prob(x) has no slope by x; form it by operations of torch without detach().")
        known = log_f > -torch.inf
        with uncast(x):
            (slope,) = torch.autograd.grad(log_f[known].sum(), [x])
    slope = torch.where(over_rows(known, slope), slope, 0.0)
    if not slope.isfinite().all():
        raise ValueError(
            f"the slope of log_prob is not finite at {x[~as_vectors(slope.isfinite()).all(1)][0].tolist()}."
        )
    x = x.detach()
    return _Points(x, log_f.detach(), ask_log_prob(gaussian, x), slope, gaussian.score(x))


def _refuse_far(gaussian: GaussianMixture, x: Tensor, bad: Tensor) -> None:
    """Refuse points without a value if one lies so far out that particles are on their way to infinity."""
    begun = gaussian.moments()
    far = bad & ~(as_vectors(x - begun.mean).norm(dim=1) < FAR * begun.variance().sqrt().item())
    if far.any():
        raise ValueError(
            f"{int(far.sum())} of {len(x)} particles have left for infinity: the density rises there without bound, and has no "
            "finite integral, or its slope is too steep for a step; bound it, or begin with a Gaussian of its width."
        )


def _move(
    log_prob: Callable[[Tensor], Tensor],
    gaussian: GaussianMixture,
    at: _Points,
    beta: float,
    step: float,
    spread: float,
    draws: torch.Generator,
) -> tuple[_Points, float]:
    """Take a Langevin step of random length in the law between the two, accepted by Metropolis and Hastings, and return where
    particles are and the share of steps that were accepted.
    """
    u = torch.rand(2, len(at.x), generator=draws, dtype=torch.float64)
    size = rows(step * (-spread * u[0]).exp(), at.x)
    z = torch.randn(at.x.shape, generator=draws, dtype=torch.float64)
    new = _evaluate(log_prob, gaussian, at.x + size * at.slope(beta) + (2 * size).sqrt() * z)
    back = (at.x - new.x - size * new.slope(beta)).square() / (4 * size) - 0.5 * z.square()
    accepted = u[1].log() < new.value(beta) - at.value(beta) - sum_rows(back)
    return at.replaced(accepted, new), accepted.double().mean().item()
