"""Evidence lower bounds of score models in nats: of the reversed SDE in continuous time, and of discrete chains term by term.

Both hold for every linear process, whose noised states are Gaussian given the data. They bound the density of the model that
runs the reversed *SDE*; the density of the probability flow is `likelihood.log_prob`, and the two are one for a true score.
"""

from __future__ import annotations

__all__ = ["Bound", "Chain", "discrete_elbo", "elbo"]

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..answers import ask_score, check_reading
from ..arguments import check_arguments, check_law
from ..checks import check_count
from ..data import Scaling
from ..data.parts import check_batch
from ..laws.mixtures import GaussianMixture, Moments
from ..laws.operators import rows
from ..laws.outside import as_law
from ..laws.units import Units
from ..laws.vectors import as_vectors
from ..models.exact import Exact
from ..models.modes import evaluating
from ..models.named import read_conditions
from ..models.score import ScoreModel
from ..models.wrapper import bind_rows
from ..precision import widened
from ..processes.grids import LogSNR
from ..processes.linear import LinearSDE, as_linear, gaussian
from ..processes.times import AngleTimes, TimeLaw
from ..samplers.noise import SampleNoise, as_seed
from ..samplers.start import check_states, chunks
from ..show import show_call
from .chain import last_log_mass, last_log_prob, step_divergence
from .draws import log_density, repeated, stderr_of_mean


class Bound(NamedTuple):
    """A lower bound of log-densities in nats, with its standard error over draws.

    Attributes
    ----------
    value, stderr
        ``(B,)``; of one draw the standard error is NaN.
    """

    value: Tensor
    stderr: Tensor

    def __repr__(self) -> str:
        return show_call(self)


class Chain(NamedTuple):
    """The variational bound of a discrete diffusion chain, term by term: ``log p(x) >= −Σ terms``.

    Attributes
    ----------
    value, stderr
        The bound, ``(B,)``, and its standard error over draws.
    terms
        ``(N + 1, B)`` in nats: first ``KL(q(x_N | x) ‖ prior)``, then ``KL(q(x_{k−1} | x_k, x) ‖ p(x_{k−1} | x_k))`` from
        noise to data, last ``−log p(x | x_1)``.
    times
        ``t_N > ... > t_1``: the times of all terms but the first.
    """

    value: Tensor
    stderr: Tensor
    terms: Tensor
    times: Tensor

    def __repr__(self) -> str:
        return show_call(self)


@check_arguments
def elbo(
    model: ScoreModel,
    x: Tensor,
    *,
    draws: int = 256,
    times: TimeLaw | None = None,
    prior: Any = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    **cond: Any,
) -> Bound:
    """Estimate, without bias, the evidence lower bound of a score model's reversed SDE: ``log p(x) >=``

    ``E log prior(x_T) + log |Phi_T| − ½ ∫ E[‖Gᵀ (s − ∇ log q)‖² − ‖Gᵀ ∇ log q‖²] dt``

    with `q` the law of ``x_t`` given the state at 0. Equality for a true score and a true law at T. Y. Song, C. Durkan,
    I. Murray, S. Ermon, *Maximum likelihood training of score-based diffusion models*, 2021, arXiv:2101.09258; D. Kingma et
    al., *Variational diffusion models*, 2021, arXiv:2107.00630.

    For a Gaussian with the moments of the data everything is known: its score is linear, and its bound is its own log-density. So
    only the difference of the model's bound to that of the Gaussian is estimated, which vanishes where noise prevails. Noise
    comes in opposite pairs, in which the terms that grow like ``1/sigma`` cancel where data prevail.

    Where the state is larger than the data, the rest of the state is drawn with each time, and its log-density is subtracted: the
    bound is one of the density of the data.

    Parameters
    ----------
    model
        A score model of a linear process.
    x
        Data, ``(B, *)``.
    draws
        How many times, each with a pair of noise, are drawn for each datum; each takes two network evaluations.
    times
        The law that times are drawn from; by default `weightings.AngleTimes`. It changes the variance, and not what is estimated.
    prior
        The law at T, with ``log_prob``; the model's prior by default.
    generator
        Randomness of times and noise.
    batch
        Most states that go through the model at a time; all by default. Times and noise of a datum do not depend on it, and the
        result only by rounding.
    cond
        Conditions for the network: tensors with a row for each datum, or one value for all.

    Raises
    ------
    TypeError
        If the process is not linear, `x` is not floating point, or the model takes no condition of a given name.
    ValueError
        If there are no draws, data or the model's score are not finite, the model does not know its prior, or `x` is coarser than
        its weights.

    Examples
    --------
    >>> import sdegen
    >>> ring = sdegen.data.gaussian_ring()
    >>> x = ring.sample(4, torch.Generator().manual_seed(0))
    >>> value, stderr = sdegen.elbo(sdegen.Exact(sdegen.VP(), ring), x, generator=torch.Generator().manual_seed(0))
    >>> bool(((value - ring.log_prob(x)).abs() < 4 * stderr).all())
    True
    """
    bound, sde, prior = _read_arguments(model, x, draws, prior, batch, read_conditions(model, cond, elbo))
    law = AngleTimes() if times is None else times
    x, n = widened(x), len(x) * draws
    t, factor = law.draw(sde, n, generator)
    seed, values = as_seed(None, generator), []
    with torch.no_grad(), evaluating(model):
        for first, places, own in chunks(bound, torch.arange(n), batch, {}, 0, n, sde.lift(x[:1])):
            part = slice(first, first + len(places))
            values.append(_bounds(own, sde, x[places // draws], t[part], factor[part], prior, SampleNoise(seed, first)))
    of_data = torch.cat(values).reshape(-1, draws)
    return Bound(of_data.mean(1), stderr_of_mean(of_data))


def _bounds(
    model: ScoreModel, sde: LinearSDE, x: Tensor, t: Tensor, factor: Tensor, prior: Any, noise: SampleNoise
) -> Tensor:
    """Return one sample of the bound for each row, which is a datum at one drawn time; the mean of the samples is the bound."""
    u, log_rest = sde.complete(x, noise(sde.lift(x)))
    plain = sde.in_units(Units())  # the reference is a law of states
    normal = Exact(plain, _reference(model.state_moments()))
    x_T = sde.transition(0.0, sde.T)(u).sample(noise(u))
    kernel, G, z = sde.transition(0.0, t)(u), sde.diffusion_operator(t), noise(u)
    lost = torch.zeros_like(log_rest)
    for draw in (z, -z):
        x_t = kernel.sample(draw)
        score, known = G.T(check_reading("score", ask_score(model, x_t, t), t)), G.T(normal.score(x_t, t))
        toward = G.T(kernel.R.inv().T(draw))  # −Gᵀ ∇ log q
        lost += 0.25 * as_vectors((score - known) * (score + known + 2 * toward)).sum(1)
    first, last = (plain.diffused(normal.distribution, v) for v in (0.0, sde.T))
    values = first.log_prob(u) + log_density(prior, x_T) - last.log_prob(x_T) - log_rest
    terms: Tensor = values - lost * rows(factor * (sde.T - sde.t_min), lost)
    return terms


@check_arguments
def discrete_elbo(
    model: ScoreModel,
    x: Tensor,
    steps: int | Tensor = 100,
    *,
    draws: int = 1,
    prior: Any = None,
    cells: Scaling | None = None,
    generator: torch.Generator | None = None,
    batch: int | None = None,
    **cond: Any,
) -> Chain:
    """Estimate the variational bound of DDPM's discrete chain on the times of a grid, and return it term by term.

    ``p(x_{k−1} | x_k)`` is the posterior ``q(x_{k−1} | x_k, x_0)`` with the model's estimate for ``x_0``, or has the model's
    learned variance; ``p(x | x_1) = N(E[x_0 | x_1], 1 / snr(t_1))``. For scalar processes a term is
    ``½ (snr(t_{k−1}) − snr(t_k)) ‖x − E[x_0 | x_k]‖²``. J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic
    models*, 2020, arXiv:2006.11239. As steps grow the bound rises to that of the process (`elbo`), at the rate 1/N.

    Parameters
    ----------
    model
        A score model of a linear process.
    x
        Data, ``(B, *)``.
    steps
        The number N of times on ``grids.LogSNR(digits=3)``, or the times ``t_N > ... > t_1`` themselves, each with some signal
        and some noise. Each takes one network evaluation.
    draws
        The number of chains for each datum.
    cells
        How bytes were scaled to `x`. The bound is then one of their probability, and the last term, ``−log P(x | x_1)``, takes
        the mass of the same normal law in the cell of each byte. By default the bound is one of a density.
    prior, generator, batch, cond
        As for `elbo`.

    Raises
    ------
    TypeError, ValueError
        As for `elbo`; ValueError too if times do not decrease.
    """
    bound, sde, prior = _read_arguments(model, x, draws, prior, batch, read_conditions(model, cond, discrete_elbo))
    t = _times(sde, steps)
    x, n = widened(x), len(x) * draws
    seed, found = as_seed(None, generator), []
    with torch.no_grad(), evaluating(model):
        for first, places, own in chunks(bound, torch.arange(n), batch, {}, 0, n, sde.lift(x[:1])):
            found.append(_terms(own, sde, x[places // draws], t, cells, prior, SampleNoise(seed, first)))
    terms = torch.cat(found, 1).reshape(len(t) + 1, -1, draws)
    values = -terms.sum(0)
    return Chain(values.mean(1), stderr_of_mean(values), terms.mean(2), t)


def _terms(
    model: ScoreModel, sde: LinearSDE, x: Tensor, t: Tensor, cells: Scaling | None, prior: Any, noise: SampleNoise
) -> Tensor:
    """Return the terms of one chain for each datum, ``(N + 1, B)``."""
    like = sde.lift(x)
    first = sde.perturb(x, t[0], noise(like))
    terms = [first.kernel.log_prob(first.x) - log_density(prior, first.x)]
    for k in range(len(t) - 1):
        perturbed = sde.perturb(x, t[k], noise(like))
        gap = step_divergence(model, x, t[k + 1], t[k], perturbed)
        terms.append(check_reading("estimate", gap, t[k]) * perturbed.x[0].numel())
    last = sde.perturb(x, t[-1], noise(like))
    gained = last_log_prob(model, x, t[-1], last) if cells is None else last_log_mass(model, x, t[-1], last, cells)
    terms.append(-check_reading("estimate", gained, t[-1]))
    return torch.stack(terms)


def _reference(moments: Moments) -> GaussianMixture:
    """Return a Gaussian with the moments of the data, and a thousandth of their mean variance more in every direction."""
    C = moments.covariance.double()
    if C.ndim == 1:
        return gaussian(Moments(moments.mean, C + 1e-3 * C.mean()))
    return gaussian(Moments(moments.mean, C + 1e-3 * C.diagonal().mean() * torch.eye(len(C), dtype=C.dtype)))


def _times(sde: LinearSDE, steps: int | Tensor) -> Tensor:
    """Return the times of the noised states, from noise to data."""
    if isinstance(steps, int):
        if steps < 1:
            raise ValueError(f"steps = {steps}; a chain has at least one.")
        return LogSNR(start=sde.t_max, digits=3)(sde, steps + 1)[:-1]
    t = steps.detach().double().cpu()
    if t.ndim != 1 or len(t) < 1 or not (t[1:] < t[:-1]).all():
        raise ValueError(f"times = {t.tolist()}; expected a vector that decreases from noise to data.")
    return t


def _read_arguments(
    model: ScoreModel, x: Tensor, draws: int, prior: Any, batch: int | None, cond: dict[str, Any]
) -> tuple[ScoreModel, LinearSDE, Any]:
    """Check the arguments, and return the model under its conditions for each draw, its process, and the law at T."""
    why = (
        ": its noised states are not Gaussian given the data. Use sdegen.log_prob, which follows the probability flow."
    )
    sde = as_linear(model.sde, why)
    check_states("x", x, model)
    check_count("draws", draws)
    check_batch(batch)
    if prior is not None:
        check_law("prior", prior, "log_prob")
    prior = as_law(sde.prior(model.state_moments()) if prior is None else prior)
    return bind_rows(model, cond, repeated(len(x), draws), sde.lift(x[:1]), len(x)), sde, prior
