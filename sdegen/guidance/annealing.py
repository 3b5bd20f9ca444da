"""Weighted samples of products of laws whose members know their densities, exact at any number of steps: `anneal_product`."""

from __future__ import annotations

__all__ = ["anneal_product"]

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..data.parts import check_batch
from ..laws.kernels import Transition
from ..laws.marginals import Marginal
from ..laws.matrices import single_matrix
from ..laws.mixtures import GaussianMixture
from ..laws.powers import multiply_components
from ..laws.vectors import as_vectors, over_rows, sum_rows
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..processes.grids import Grid
from ..processes.linear import LinearSDE
from ..progress import show_bar
from ..samplers.noise import SampleNoise, as_seed, draw
from ..samplers.start import check_known
from .base import require_clean_means
from .improper import refuse_improper
from .members import MembersInBatches
from .particles import (
    ChainStep,
    Particles,
    chain_times,
    check_particles,
    log_mean_exp,
    refuse_rows,
    resample,
    void_error_if_few,
)
from .product import Product

ACCEPTED = 0.6  # target for the share of accepted Langevin steps, by which their length is set


@check_arguments
def anneal_product(
    model: Product,
    particles: int,
    *,
    steps: int = 100,
    grid: Grid | None = None,
    late: float = 4.0,
    moves: int = 1,
    threshold: float = 0.5,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Particles:
    """Draw weighted samples of a product of powers of laws whose densities the members know, and return `Particles` with the
    logarithm of its normaliser; at any number of steps, many particles make both exact.

    A particle at `t` goes to `s` by a Gaussian step `q`, and its weight is multiplied by

        π_s(x_s) p(x_t | x_s) / (π_t(x_t) q(x_s | x_t)),    π_t = ∏ p_i,t^β_i(t),

    with the exact transition `p` of the process. The proposal `q` is free: it changes how even the weights are, but not their
    expectation. Here it is the reversed step of the score of ``π_s``, as wide as that of Gaussian data with the covariance of the
    particles' clean states. P. Del Moral, A. Doucet, A. Jasra, *Sequential Monte Carlo samplers*, 2006.

    At every time each particle takes Langevin steps in ``π_t``, accepted by Metropolis and Hastings, which leave that law as it
    is. Without these moves a particle at a place where the laws gain mass on the way, such as the border of a class, would stay
    there and gain weight at each step, and runs without such a particle would state too small an error. The length of the moves
    is set so that about six in ten are accepted, and more near the data, which biases the normaliser by an amount that vanishes
    with many particles; ``moves=0`` has no bias.

    The laws on the way are free too. Their powers begin with the positive powers of the product, scaled to the sum 1, and end
    with all powers of the product; at the angle `φ` they are the share ``(1 − φ / φ_T)^late`` of the way between. So guidance
    along a class begins with the class itself, and is thinned once classes have parted. Weights stay even where those of
    `corrected`, whose laws have all powers from the start, leave no particle; but only members that know their densities can be
    weighted in this way. For narrow products of many wide laws, such as twenty observations, which are nearly Gaussian,
    `corrected` is better.

    Parameters
    ----------
    model
        A product with powers of sum 1, of models that know their densities, such as `Exact`.
    particles
        The number of particles.
    steps, grid
        Steps and time grid; `Angle` by default.
    late
        How late the powers change; 0 for those of the product all the way.
    moves
        The number of Langevin steps at each time, each of which costs an evaluation; with 0 the exponential of `log_evidence` has
        no bias.
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
    TypeError
        If a member does not know its density.
    ValueError
        If the powers do not sum to 1, the product is improper, states of the process have more numbers than the data, all weights
        vanish or a weight is NaN, the grid ends without noise, or a condition has a row for each particle.

    Examples
    --------
    >>> import sdegen
    >>> wide, narrow = (sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.tensor([v])) for v in (1.0, 0.5))
    >>> product = Product([(sdegen.Exact(sdegen.VP(), narrow), 3.0), (sdegen.Exact(sdegen.VP(), wide), -2.0)])
    >>> found = anneal_product(product, 400, steps=50, seed=0)
    >>> exact = sdegen.laws.multiply_laws([(narrow, 3.0), (wide, -2.0)])
    >>> abs(found.log_evidence - exact.log_normaliser) < 0.1
    True
    """
    check_particles(particles, threshold)
    check_number("late", late, at_least=0), check_count("moves", moves, at_least=0)
    check_batch(batch)
    cond = read_conditions(model, cond, anneal_product)
    sde, seed = require_clean_means(model), as_seed(seed, generator)
    if abs(model.power - 1) > 1e-9:
        raise ValueError(f"the powers sum to {model.power:.6g}; give powers of sum one, or take corrected.")
    times = chain_times(model, sde, grid, steps)
    powers = _powers(model, sde, times, late)
    draws, noise = torch.Generator().manual_seed(seed + 1), SampleNoise(seed)
    with torch.no_grad(), evaluating(model), show_bar(progress, "anneal_product") as bar:
        check_known(model)
        members = MembersInBatches(model, batch, cond)
        data = _data_law(model, powers[0], cond)
        population, h = _begin(members, sde, data, times[0], powers[0], particles, seed), 1.0
        refuse_improper(model, times[-1].item(), cond)
        left = data.moments().covariance
        left = left if left.ndim == 2 else left.diag()  # of clean states given a state; at first of the data
        for i, (t, s) in enumerate(pairwise(times)):
            population = population.resample(threshold, draws)
            estimates = members.estimates(population.x, t)
            for _ in range(moves):
                population, estimates, accepted = _move(
                    members, sde.marginal(t), population, estimates, powers[i], h, noise, draws
                )
                h *= math.exp(accepted - ACCEPTED)
            population, left = _step(members, ChainStep(sde, s, t), population, estimates, powers[i + 1], left, noise)
            bar.update()
        population = _finish(members, sde, population, powers[-1], times[-1])
    evidence, evaluations = log_mean_exp(population.log_weights).item(), len(times) + moves * (len(times) - 1)
    remedy = "take more particles, more steps, or powers nearer to those of one member"
    found = Particles.of_families(
        sde.project(population.x),
        population.log_weights,
        population.family,
        population.resampled,
        evaluations,
        evidence,
        remedy,
    )
    return void_error_if_few(found)


class _Population(NamedTuple):
    """Weighted particles; `log_target` is the log-density of the law that they are weighted for, None before the first law."""

    x: Tensor
    log_weights: Tensor
    family: Tensor
    resampled: int
    log_target: Tensor | None = None

    def reweighted(self, x: Tensor, log_densities: Tensor, powers: Tensor, change: Tensor, t: Tensor) -> _Population:
        """Return the particles at new states, weighted for the product of `powers` of the members' densities there, ``(m, n)``;
        `change` is added to the logarithms of their weights.
        """
        target = powers @ log_densities
        before = torch.zeros_like(target) if self.log_target is None else self.log_target
        log_weights = self.log_weights + change.double().cpu() + target - before
        if log_weights.isnan().any() or not (log_weights > -torch.inf).any() or log_weights.isposinf().any():
            raise ValueError(
                f"the weights turned non-finite, or all vanished, at t = {t.item():.6g}; take more steps, and members whose "
                "densities are positive where those with positive powers have their data."
            )
        return _Population(x, log_weights, self.family, self.resampled, target)

    def resample(self, threshold: float, draws: torch.Generator) -> _Population:
        """Return the particles, resampled by their weights if their effective number is below the share `threshold`."""
        kept = resample(self.log_weights, threshold, draws)
        if kept is None:
            return self
        target = None if self.log_target is None else self.log_target[kept]
        mean = log_mean_exp(self.log_weights).expand(len(kept))
        return _Population(self.x[kept.to(self.x.device)], mean, self.family[kept], self.resampled + 1, target)


def _powers(model: Product, sde: LinearSDE, times: Tensor, late: float) -> Tensor:
    """Return the powers at every time, and last those of the product, ``(N + 2, m)``."""
    phi, last = sde.angle_at(times), torch.tensor(model.powers, dtype=torch.float64)
    first = last.clamp_min(0) / last.clamp_min(0).sum()
    share = torch.cat([(1 - phi / phi[0]).clamp(0, 1), torch.ones(1, dtype=torch.float64)]) ** late
    return first + share[:, None] * (last - first)


def _data_law(model: Product, powers: Tensor, cond: dict[str, Any]) -> GaussianMixture:
    """Return the product of the Gaussians that have the members' moments, of positive powers, in the units of the process."""
    factors = zip(model.member_gaussians(**cond), powers.tolist(), strict=True)
    found = multiply_components([factor for factor in factors if factor[1] > 0])
    assert found is not None  # all powers are positive
    return found.law


def _begin(
    members: MembersInBatches,
    sde: LinearSDE,
    data: GaussianMixture,
    t: Tensor,
    powers: Tensor,
    particles: int,
    seed: int,
) -> _Population:
    """Return draws of Gaussian data with the noise of the first time, weighted for the product at that time."""
    law = data.diffuse(sde.marginal(t), sde.embedding)
    if law.means[0].numel() != data.means[0].numel():
        raise ValueError(
            f"{type(sde).__name__} has more numbers than the data; take a process without further channels."
        )
    x = members.model.cast_states(draw(law, particles, seed, law.means[0].numel()))
    refuse_rows(members.model, members.cond, x)
    population = _Population(x, torch.zeros(particles, dtype=torch.float64), torch.arange(particles), 0)
    return population.reweighted(x, members.log_densities(x, t.item()), powers, -law.log_prob(x), t)


def _combine(powers: Tensor, values: Tensor) -> Tensor:
    """Return the sum of the members' values, ``(m, n, *)``, times powers, float64."""
    return torch.tensordot(powers.to(values.device), values.double(), 1)


def _move(
    members: MembersInBatches,
    at: Marginal,
    population: _Population,
    estimates: tuple[Tensor, Tensor],
    powers: Tensor,
    h: float,
    noise: SampleNoise,
    draws: torch.Generator,
) -> tuple[_Population, tuple[Tensor, Tensor], float]:
    """Take a Langevin step ``x − h R e + √(2 h) R z`` in the product at a time, whose predicted noise is `e`, and accept it by
    Metropolis and Hastings; return the particles, the estimates at their states, and the accepted share.
    """
    x, e, before = population.x, _combine(powers, estimates[1]), population.log_target
    assert before is not None
    moved = members.model.cast_states(x - h * at.R(e) + math.sqrt(2 * h) * at.R(noise(x).double()))
    new, target = members.estimates(moved, at.t), powers @ members.log_densities(moved, at.t.item())

    def off(end: Tensor, start: Tensor, e: Tensor) -> Tensor:
        """Return minus the logarithm of the density of a step, up to a constant."""
        whitened = at.R_inv(end.double() - start.double()) + h * e
        return (sum_rows(whitened.square()) / (4 * h)).cpu()

    ratio = target - before + off(moved, x, e) - off(x, moved, _combine(powers, new[1]))
    accepted = torch.rand(len(x), generator=draws, dtype=torch.float64).log() < ratio
    here = over_rows(accepted, x).to(x.device)
    clean, eps = (torch.where(here, w, v) for v, w in zip(estimates, new, strict=True))
    population = population._replace(x=torch.where(here, moved, x), log_target=torch.where(accepted, target, before))
    return population, (clean, eps), accepted.double().mean().item()


def _step(
    members: MembersInBatches,
    step: ChainStep,
    population: _Population,
    estimates: tuple[Tensor, Tensor],
    powers: Tensor,
    before: Tensor,
    noise: SampleNoise,
) -> tuple[_Population, Tensor]:
    """Take a step of the covariance by `_propose`, weight it, and return the particles and the covariance of clean states."""
    clean, eps = (_combine(powers, v) for v in estimates)
    mean, (root, left) = step.mean(clean, eps), _propose(step, clean, population.log_weights.softmax(0), before)
    z, s = noise(population.x), step.at_s.t
    moved = mean + (as_vectors(z).double() @ root.T.to(z.device)).reshape(mean.shape)
    change = _log_ratio(step.forward, population.x, moved, z, root)
    moved = members.model.cast_states(moved)
    return population.reweighted(moved, members.log_densities(moved, s.item()), powers, change, s), left


def _finish(
    members: MembersInBatches, sde: LinearSDE, population: _Population, powers: Tensor, t: Tensor
) -> _Population:
    """Return the particles at `t` as data, by the drift without its noise, weighted for the law of the data."""
    flow = sde.transition(0.0, t).Phi
    x = flow.inv()(population.x)
    volume = -flow.log_abs_det().double().sum() * (x[0].numel() // flow.size)
    return population.reweighted(x, members.log_densities(x, 0.0), powers, volume.expand(len(x)), t)


def _propose(step: ChainStep, clean: Tensor, weights: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root of the covariance of a step, and the covariance of clean states given a state at its start.

    Both follow from the clean states and weights of all particles; `before` is the covariance of clean states in the step before.
    """
    d, flat = clean[0].numel(), as_vectors(clean).cpu()
    apart = flat - weights @ flat
    whole = apart.T @ (weights[:, None] * apart) + before  # of clean states, by the law of total variance
    Phi, Sigma = single_matrix(step.at_t.Phi, d), single_matrix(step.at_t.covariance, d)
    gain = whole @ Phi.T @ torch.linalg.inv(Phi @ whole @ Phi.T + Sigma)
    left = whole - gain @ Phi @ whole
    left = 0.5 * (left + left.T)
    K = single_matrix(step.law.K, d)
    carry = single_matrix(step.at_s.Phi, d) - K @ Phi
    covariance = single_matrix(step.law.covariance, d) + carry @ left @ carry.T
    return torch.linalg.cholesky(0.5 * (covariance + covariance.T)), left


def _log_ratio(forward: Transition, x: Tensor, moved: Tensor, z: Tensor, root: Tensor) -> Tensor:
    """Return ``log p(x_t | x_s) − log q(x_s | x_t)``, ``(n,)``."""
    R = torch.linalg.cholesky(single_matrix(forward.covariance, moved[0].numel()))
    off = as_vectors(x.double() - forward.Phi(moved)).cpu()
    back = torch.linalg.solve_triangular(R, off.T, upper=False)
    own = 0.5 * sum_rows(z.double().square()).cpu() + root.diagonal().log().sum()
    return own - 0.5 * back.square().sum(0) - R.diagonal().log().sum()
