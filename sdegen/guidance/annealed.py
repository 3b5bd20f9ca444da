"""Posterior samples by annealed sequential Monte Carlo: data are weighted from noise level to noise level, and moved by split
Gibbs.
"""

from __future__ import annotations

__all__ = ["annealed_smc"]

import math
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..data.parts import check_batch
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..progress import show_bar
from ..samplers.noise import as_seed
from .coupling import AcceptedNoise, CoupledCopy, WeighedData
from .measuring import LinearMeasurement, Measurement, refuse_own_y
from .particles import Particles, draw_indices, effective_size, refuse_rows

SLOWEST = 0.95  # of the last noise level: the highest that the next may have
HALVINGS = 40  # of the interval in which the next level is sought


@check_arguments
def annealed_smc(
    model: ScoreModel,
    measurement: Measurement,
    particles: int,
    *,
    y: Any,
    steps: int = 20,
    moves: int = 1,
    threshold: float = 0.5,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Particles:
    """Draw samples of data given a measurement by annealed sequential Monte Carlo, exact in the limit of many particles, and
    return `Particles`.

    Draws of the model are weighted by ``N(y; A x, std² + level² A D² Aᵀ)``, with the spread `D` of the data's units, at a noise
    level that leaves a share `threshold` of them effective. They are resampled by their weights, and moved by turns of
    `split_gibbs` at the level, which leave their law as it is. This is repeated at lower levels down to 0, where the weights
    are those of the posterior. The weights are of data, not of paths, so only the measured numbers make them uneven, however many
    dimensions the data have. Modes get their true weights, which the moves alone would not give them. P. Del Moral, A. Doucet, A.
    Jasra, *Sequential Monte Carlo samplers*, 2006; for the moves see `split_gibbs`.

    If the measurement is not linear, or its noise not Gaussian, the laws have powers of the likelihood, from 0 to 1. A move
    noises the data and denoises them. It is accepted by Metropolis' rule with the ratio of the likelihoods, since the pair of
    data before and after the move is as likely the other way round. Half of the moves are accepted, so 2 or 4 `moves` are
    worthwhile.

    Parameters
    ----------
    model
        A score model of a scalar process.
    measurement
        The measurement of the data: a map with any noise, whose derivatives are not needed.
    particles
        The number of particles; samples drawn from four times as many are nearly as good as independent ones.
    y
        The measured values of one datum.
    steps
        Evaluations of a move; the first data, drawn from the model, take twice as many.
    moves
        Moves at a level: turns of the split Gibbs sampler, or noisings and denoisings.
    threshold
        The share of the particles that a step to the next level leaves effective; the higher, the more levels.
    seed, generator
        Randomness.
    batch
        The largest number of particles that go through the model at a time; all by default.
    progress
        Show a bar of the levels; by default where standard error is a terminal.
    cond
        Conditions of the model, which all particles share.

    Returns
    -------
    Particles
        Weighted samples; they depend on each other, so repeat the run to estimate an error.

    Raises
    ------
    TypeError
        If the process is not scalar, or has data in other coordinates.
    ValueError
        If `y` has not the shape of a measurement of one datum, a condition has a row for each particle, too many numbers are
        measured by a linear map, or a likelihood is NaN.

    Examples
    --------
    >>> import sdegen
    >>> from sdegen.guidance.measurements import Mask
    >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    >>> found = annealed_smc(model, Mask([True, False], std=0.1), 400, y=[3.0], seed=0)
    >>> bool((found.mean()[0] - 3.0).abs() < 0.1)
    True
    """
    check_count("particles", particles), check_count("steps", steps), check_count("moves", moves)
    check_number("threshold", threshold, at_least=0, at_most=1)
    check_batch(batch)
    refuse_own_y(model)
    cond = read_conditions(model, cond, annealed_smc)
    draws = torch.Generator().manual_seed(as_seed(seed, generator))
    kind = CoupledCopy if isinstance(measurement, LinearMeasurement) else AcceptedNoise
    laws, level, resampled = kind(model, measurement, y, draws, steps, batch, cond), math.inf, 0
    with torch.no_grad(), show_bar(progress, "annealed_smc") as bar:
        x = laws.draw_prior(particles)
        refuse_rows(model, cond, x)
        laws.refuse_rows(x)
        statistic = laws.statistic(x)
        known = torch.zeros(particles, dtype=torch.float64)  # log-likelihood at the level of the particles
        while True:
            level = _next_level(laws, statistic, known, level, threshold)
            weights = _weigh(laws, statistic, known, level)
            if level == 0:
                return Particles(x, weights, resampled, laws.evaluations)
            x, resampled = x[draw_indices(weights, particles, draws).to(x.device)], resampled + 1
            for _ in range(moves):
                x = laws.move(x, level)
            statistic = laws.statistic(x)
            known = laws.log_likelihood(statistic, level)
            bar.update()


def _weigh(laws: WeighedData, statistic: Tensor, known: Tensor, level: float) -> Tensor:
    """Return the weights, of sum 1, that take particles of log-likelihood `known` to the law of a level."""
    return (laws.log_likelihood(statistic, level) - known).softmax(0)


def _next_level(laws: WeighedData, statistic: Tensor, known: Tensor, level: float, threshold: float) -> float:
    """Return the lowest level at which a share `threshold` of the particles is effective; 0 if they are so without noise."""

    def keeps(level: float) -> bool:
        return effective_size(_weigh(laws, statistic, known, level)) >= threshold * len(known)

    low, high = laws.least, min(SLOWEST * level, laws.largest)
    if high <= low or keeps(0.0):
        return 0.0
    if keeps(low):
        return low
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
