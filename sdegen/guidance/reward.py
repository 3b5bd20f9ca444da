"""Samples of laws tilted by a reward of the data, by weighted particles of a model's own chain: `tilted_smc`."""

from __future__ import annotations

__all__ = ["tilted_smc"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..answers import ask, check_answer
from ..arguments import check_arguments
from ..checks import check_number
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..precision import dtype_of
from ..processes.grids import Grid
from ..processes.linear import as_linear
from ..progress import show_bar
from ..samplers.noise import SampleNoise, as_seed
from ..samplers.start import check_known, start
from .near import refuse_mixing
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

FORBIDDEN = 2.0  # nats below the least of the other predicted rewards: what a forbidden prediction counts as


@check_arguments
def tilted_smc(
    model: ScoreModel,
    reward: Callable[[Tensor], Tensor],
    particles: int,
    *,
    temperature: float = 1.0,
    steps: int = 100,
    grid: Grid | None = None,
    threshold: float = 0.5,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Particles:
    """Draw weighted samples of the law ``p(x) exp(r(x) / τ) / Z`` of a model tilted by a reward, and return `Particles`
    with the logarithm of `Z`, exact in the limit of many particles for the model's chain of so many steps.

    Particles take the model's own reversed steps, and are weighted by predicted rewards: by ``exp(r(x̂_0) / τ)`` with the clean
    state ``x̂_0`` that the model predicts, divided by that of the step before, so that in the end the weight is the reward of the
    datum itself. If weights are uneven, particles are resampled. The reward is called with data and needs no derivatives. −inf
    forbids a datum, but only at the end, since predictions change on the way. A reward that is high only far from the model's
    data leaves few particles: look at `ancestors`, and take more particles, or a higher temperature.

    Parameters
    ----------
    model
        A score model of a linear process.
    reward
        A function of data, ``(n, *)``, which returns ``(n,)``.
    particles
        The number of particles.
    temperature
        `τ`, by which the reward is divided.
    steps, grid
        Steps and time grid of the chain; `Angle` by default.
    threshold
        Particles are resampled if their effective number falls below this share.
    seed, generator
        Randomness.
    progress
        Show a bar of the steps; by default where standard error is a terminal.
    cond
        Conditions of the model, which all particles share.

    Returns
    -------
    Particles
        Weighted samples, with `log_evidence` the logarithm of ``E[exp(r(x) / τ)]``.

    Raises
    ------
    TypeError
        If the process is not linear.
    ValueError
        If the reward is NaN or inf, or forbids all particles, `temperature` is not positive, the grid ends early or without
        noise, or a condition has a row for each particle.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> found = tilted_smc(sdegen.Exact(sdegen.VP(), ring), lambda x: x[:, 0], 1000, steps=50, seed=0)
    >>> truth = sdegen.laws.tilt_law(ring, torch.tensor([1.0, 0.0]))
    >>> abs(found.mean()[0] - truth.law.moments().mean[0]).item() < 0.2
    True
    """
    check_particles(particles, threshold)
    temperature = check_number("temperature", temperature, above=0)
    cond = read_conditions(model, cond, tilted_smc)
    sde = as_linear(model.sde, ": its reversed steps are no Gaussians; take a linear process such as VP.")
    seed = as_seed(seed, generator)
    times = chain_times(model, sde, grid, steps)
    refuse_early_end(model, sde, times)
    draws, noise = torch.Generator().manual_seed(seed + 1), SampleNoise(seed)
    with torch.no_grad(), evaluating(model), show_bar(progress, "tilted_smc") as bar:
        check_known(model)
        x = start(model, particles, seed, times=times)
        refuse_rows(model, cond, x)
        refuse_mixing("reward", lambda x: _asked(reward, x), model)
        others = torch.zeros(particles, dtype=torch.float64)  # logarithms of weights, but for the predicted rewards
        family, resampled = torch.arange(particles), 0
        for i, t in enumerate(times):
            x_0, eps = model.estimate(x, t, **cond)
            predicted = _rewarded(reward, sde.project(x_0), t) / temperature
            if i + 1 == len(times):
                break
            predicted = _softened(predicted)
            log_weights = others + predicted
            kept = resample(log_weights, threshold, draws)
            if kept is not None:
                at = kept.to(x_0.device)
                x_0, eps, family, resampled = x_0[at], eps[at], family[kept], resampled + 1
                others = log_mean_exp(log_weights) - predicted[kept]
            step = ChainStep(sde, times[i + 1], t)
            x = step.mean(x_0, eps) + step.law.covariance.cholesky()(noise(x))
            bar.update()
    log_weights = others + predicted
    if not (log_weights > -torch.inf).any():
        raise ValueError("the reward forbids all particles at the end; take more, or another reward.")
    evidence = log_mean_exp(log_weights).item()
    remedy = "take more particles, or a higher temperature"
    return Particles.of_families(sde.project(x_0), log_weights, family, resampled, len(times), evidence, remedy)


def _softened(predicted: Tensor) -> Tensor:
    """Return predicted rewards, those of forbidden data replaced by a number a little below the least of the others."""
    finite = predicted[predicted.isfinite()]
    return predicted.clamp_min(finite.min() - FORBIDDEN) if len(finite) else torch.zeros_like(predicted)


def _asked(reward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the rewards of data, ``(n,)``; a network is called in the dtype of its weights."""
    given = x.to(dtype_of(reward, x))
    return check_answer("reward", ask("reward", reward, given), x.shape[:1], x, "one number for each datum")


def _rewarded(reward: Callable[[Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    """Return the rewards of data, ``(n,)`` float64 on the CPU; refuse NaN and inf."""
    found = _asked(reward, x).double().cpu()
    if found.isnan().any() or found.isposinf().any():
        raise ValueError(
            f"the reward is NaN or inf of {int((found.isnan() | found.isposinf()).sum())} data predicted at t = {t.item():.6g}; "
            "return finite numbers, or −inf for data that are forbidden."
        )
    return found
