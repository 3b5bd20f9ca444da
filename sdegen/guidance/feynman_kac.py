"""Weighted runs of products of laws: particles that follow the score of a product and are weighted for its law (`corrected`).

With ``s = Σ β_i s_i`` and any `eta`, particles that go back by ``dx = [−F x + ½ (1 + eta²) G Gᵀ s + u] |dt| + eta G dw`` have the
law ``∏ p_i^β_i`` at every time if their weights obey ``d log w = V |dt|`` with

    V = ½ (‖Gᵀ s‖² − Σ β_i ‖Gᵀ s_i‖²) + (Σ β_i − 1) tr F + ∇·u + u·s.

The drift `u` is free. It is a linear map of the state, fitted to the particles so that `V` differs little between them
(docs/theory/guidance.md).
"""

from __future__ import annotations

__all__ = ["corrected"]

import math
from typing import Any

import torch

from ..arguments import check_arguments
from ..data.parts import check_batch
from ..laws.powers import Normalised, multiply_components
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..processes.grids import Grid
from ..processes.linear import LinearSDE
from ..progress import show_bar
from ..samplers.exponential_sde import ExponentialSDE
from ..samplers.noise import SampleNoise, as_seed, draw
from ..samplers.start import check_known
from ..warning import warn_caller
from .base import require_clean_means
from .improper import noised_members, refuse_improper
from .particles import (
    Particles,
    chain_times,
    check_particles,
    log_mean_exp,
    refuse_early_end,
    refuse_rows,
    void_error_if_few,
)
from .product import Product
from .swarm import Precomputed, Stage, Swarm, stages_of

COARSE = 0.1  # nats: an error of the logarithm of a normaliser by long steps above which there is a warning
OWN = 0.5  # of what fits have taken from weights by leave-one-out: with it weights vary as those of new particles would
SHOWN = 0.5  # of the doubt about what was given back: the part that particles of heavy tails show
FLOWS = 0.1  # of the variance of data: the largest variance of the noise that a step of the flow removes at the end


@check_arguments
def corrected(
    model: Product,
    particles: int,
    *,
    steps: int = 100,
    grid: Grid | None = None,
    eta: float = 1.0,
    threshold: float = 0.5,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Particles:
    """Draw weighted samples of a product of powers of laws by sequential Monte Carlo, exact in the limit of many particles and
    steps, and return `Particles` with the logarithm of its normaliser.

    Particles follow the product's score, from the product of the members' Gaussians at the first time, and carry Feynman–Kac
    weights of their paths; if these are uneven, particles are resampled. M. Skreta et al., *Feynman-Kac correctors in diffusion*,
    2025, arXiv:2503.02819. A drift that is linear in the state is added, and counted in the weights, so that weights differ
    little; with Gaussian members they do not differ at all. The drift is fitted to the particles. So it lowers their weights by
    more than those of new particles, by an amount that falls as one over their number; what leave-one-out fits would not have
    taken is added to the normaliser again. Steps have weak order 2, and so has the integral of the weights.

    No step raises a weight by more than half a nat above the mean, and no fit counts a weight for more than one nat a step beyond
    the fit. A particle that would get more is where the product has next to no mass: the step was too long for it, and the next
    weights would be wrong too. Short steps do not reach these limits.

    The square of the stated error is the sum of the squares of two errors: that of the weights, with what the limits have
    withheld and the doubt about what was given back, and that of the length of the steps. Weights of particles that a drift was
    fitted to differ too little, and weights by leave-one-out fits too much; the error is that of weights half-way between, whose
    variance is right (J. G. MacKinnon, H. White, *Some heteroskedasticity-consistent covariance matrix estimators with improved
    finite sample properties*, 1985). What was given back for a particle is in doubt by the share ``2 h / (1 − h)``, with the
    particle's leverage `h` on the fit: nearly 0 if each particle has a small part in the fit, as for posteriors that are nearly
    Gaussian, and 1 or more if few have most of it. The error is infinite if the run warns of few descendants, or of too few steps
    to tell.

    Weights are the more uneven the farther the product is from its members. Look at `ancestors` first, then at the effective
    size: if few of the first particles have descendants, take more steps, then more particles, or do not trust the result. Powers
    that do not sum to 1 make the first steps long: take more steps, or an `EDM` process. A run warns if its steps leave a doubt
    of more than 0.1 nats about the normaliser, withhold that much, are at most two, which is too few to tell, or leave
    descendants to fewer than twenty, or a tenth, of the first particles. If members know their densities, `anneal_product` keeps
    its particles in such cases.

    The scores of the members are taken for true: the error of trained ones is not in the stated error, and neither `ancestors`
    nor `effective` tell of it. Members that are trained longer do.

    Parameters
    ----------
    model
        The product.
    particles
        The number of particles; with fewer than twenty for each fitted number, the drift has fewer numbers or is left out.
    steps, grid
        Steps and time grid of the chain; `Angle` by default.
    eta
        The noise level of the reversed step; ``Σ β_i (1 + eta²)`` must be above 1.
    threshold
        Particles are resampled if their effective number falls below this share.
    seed, generator
        Randomness.
    batch
        The largest number of particles that go through the models at a time; all by default.
    progress
        Show a bar of the steps; by default where standard error is a terminal.
    cond
        Conditions of the members, which all particles share.

    Returns
    -------
    Particles
        Weighted samples, with `log_evidence` the logarithm of ``∫ ∏ p_i(x)^β_i dx``.

    Raises
    ------
    ValueError
        If the product is improper, at the first time by the members' moments, or at the last by their densities if all are known;
        if states or weights turn non-finite, the grid ends early or without noise, `eta` is too small, a condition has a row for
        each particle, or powers do not sum to 1 on a process whose states have more numbers than the data.

    Examples
    --------
    >>> import sdegen
    >>> wide, narrow = (sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.tensor([v])) for v in (1.0, 0.5))
    >>> product = Product([(sdegen.Exact(sdegen.VP(), narrow), 3.0), (sdegen.Exact(sdegen.VP(), wide), -2.0)])
    >>> found = corrected(product, 400, seed=0)
    >>> exact = sdegen.laws.multiply_laws([(narrow, 3.0), (wide, -2.0)])
    >>> abs(found.log_evidence - exact.log_normaliser) < 0.01
    True
    """
    check_particles(particles, threshold)
    check_batch(batch)
    cond = read_conditions(model, cond, corrected)
    sde, seed = require_clean_means(model), as_seed(seed, generator)
    eta_of_mean = _check_eta(model, eta)
    times = chain_times(model, sde, grid, steps)
    refuse_early_end(model, sde, times, FLOWS)
    draws, noise = torch.Generator().manual_seed(seed + 1), SampleNoise(seed)
    sampler, estimates = ExponentialSDE(steps, grid, eta=eta_of_mean), Precomputed(sde, model)
    with torch.no_grad(), evaluating(model), show_bar(progress, "corrected") as bar:
        check_known(model)
        law, log_normaliser = _first_law(model, times[0].item(), cond)
        x = model.cast_states(draw(law, particles, seed, law.means[0].numel()))
        refuse_rows(model, cond, x)
        refuse_improper(model, times[-1].item(), cond)
        swarm = Swarm(model, x, 0.5 * (1 + eta_of_mean**2), batch, cond)
        plan, stages = sampler.plan(estimates, times), stages_of(model, sde, times, x[0].numel())
        for i, stage in enumerate(stages):
            swarm.evaluate(stage)
            swarm.resample(threshold, draws)
            if i + 1 < len(stages):
                estimates.known = swarm.guided_estimate(stage)
                move = sampler.step(estimates, swarm.x, plan[i], lambda x: noise(x) * (eta / eta_of_mean), swarm.memory)
                swarm.x, swarm.memory = move
            bar.update()
        data = swarm.finish(sde, stages[-1])
    return _with_evidence(swarm, sde, data, stages, log_normaliser)


def _with_evidence(
    swarm: Swarm, sde: LinearSDE, data: torch.Tensor, stages: list[Stage], log_normaliser: float
) -> Particles:
    """Return data as weighted particles, with the logarithm of the normaliser of the product and its error; `log_normaliser` is
    the logarithm of the normaliser of the first law.
    """
    first, last, excess = stages[0], stages[-1], swarm.model.power - 1
    flow = first.log_spread - last.log_spread + last.log_volume
    found = Particles.of_families(
        data,
        swarm.log_weights,
        swarm.ancestors,
        swarm.resampled,
        len(stages),
        log_normaliser
        + excess * flow
        - excess * _log_units(sde, data)
        + log_mean_exp(swarm.log_weights).item()
        + swarm.optimism,
        "take anneal_product where members know their densities, else more steps, more particles, or powers nearer to those of "
        "one member",
        _step_error(swarm, len(stages)),
        OWN * swarm.optimisms,
        abs(swarm.doubt) / SHOWN + swarm.withheld,
    )
    return void_error_if_few(found)


def _step_error(swarm: Swarm, steps: int) -> float:
    """Return the error of the logarithm of the normaliser by the length of the steps, in nats; warn if it is large.

    It is infinite if the steps are too few to tell.
    """
    error = swarm.step_error() if steps > 2 else math.inf
    if steps < 3:
        warn_caller(f"steps = {steps} are too few to tell how far the logarithm of the normaliser is off; take more.")
    elif error > COARSE:
        warn_caller(
            f"steps = {steps} are too few for these powers: with steps of twice the length the logarithm of the normaliser would "
            f"differ by about {3 * error:.2g} nats; take more steps, or powers that sum to one."
        )
    if swarm.withheld > COARSE:
        warn_caller(
            f"steps = {steps} are too few for these powers: single particles would have got more weight in a step than it can "
            f"tell, about {swarm.withheld:.2g} nats of the normaliser, which were withheld; take more steps, or powers nearer to "
            "those of one member."
        )
    return error


def _check_eta(model: Product, eta: float) -> float:
    """Return the noise level at which reversed steps of the members' mean score have the drift of the product; refuse an `eta`
    for which there is none.

    The score of the product is the sum of the powers times the mean score. So both have one drift if ``1 + eta²`` is that many
    times as large for the mean score; only the noise differs.
    """
    squared = model.power * (1 + eta**2) - 1
    if not (eta > 0 and squared > 0):
        least = max(0.0, 1 / model.power - 1) ** 0.5
        raise ValueError(f"eta = {eta:.6g}; with powers that sum to {model.power:.6g} it must be above {least:.6g}.")
    return squared**0.5


def _first_law(model: Product, t: float, cond: dict[str, Any]) -> Normalised:
    """Return the product, at the first time, of the Gaussians that have the members' moments."""
    factors, data = noised_members(model, t, cond), model.require_moments().event_shape
    if model.power != 1 and factors[0][0].event_shape.numel() != data.numel():
        raise ValueError(
            f"the powers sum to {model.power:.6g}, and {type(model.sde).__name__} has more numbers than the data, whose noise "
            "would have that power too; give powers that sum to one, or take a process without further channels."
        )
    found = multiply_components(factors)
    if found is None:
        raise ValueError(
            f"the product is improper at t = {t:.6g}: with the members' covariances C_i there, Σ β_i C_i⁻¹ is not positive "
            "definite; raise the powers that are positive, or lower the others."
        )
    return found


def _log_units(sde: LinearSDE, data: torch.Tensor) -> float:
    """Return the logarithm of the volume of the units of the data."""
    return sde.units.std.double().expand(data.shape[1:]).log().sum().item()
