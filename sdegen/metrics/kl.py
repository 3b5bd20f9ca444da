"""Kullback–Leibler divergences in nats from known densities: of two distributions, and of a process's last marginal from
its prior.

`kl` needs both densities and `prior_gap` a process: they measure the divergence itself. For samples alone see `nearest`.
"""

from __future__ import annotations

__all__ = ["KnownDensity", "kl", "kl_from_log_ratio", "prior_gap"]

import math
from functools import partial
from typing import Any, Protocol

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from ..answers import ask_draws, ask_log_prob
from ..arguments import asked_as, check_arguments, check_law
from ..checks import check_count, check_tensor
from ..laws.mixtures import GaussianMixture
from ..laws.outside import ClosedLaw, as_closed, as_law
from ..mixing import check_density
from ..processes.linear import LinearSDE
from ..show import with_article
from .estimate import SPREAD, Estimate, as_generator, check_samples


@asked_as("an object with log_prob: sdegen.Density(model) of a score model; of samples alone there is knn_kl")
class KnownDensity(Protocol):
    """Anything with a method ``log_prob(x)``, the normalised log-density."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the normalised log-density in nats, ``(B,)``."""


@check_arguments
def kl(
    generated: KnownDensity,
    real: Any,
    n: int = 10_000,
    *,
    x: Tensor | None = None,
    control: bool = True,
    generator: torch.Generator | None = None,
    seed: int | None = None,
) -> Estimate:
    """Estimate ``KL(p ‖ q) = E_p[log p(x) − log q(x)]`` in nats by Monte Carlo, `p` the real distribution and `q` the
    generated one.

    S. Kullback and R. Leibler, *On information and sufficiency*, 1951.

    Parameters
    ----------
    generated
        `q`, the law that is judged: ``log_prob(x)``, normalised.
    real
        `p`, the law that draws are from: ``sample(n, generator)``, unless `x` is given, and ``log_prob(x)``.
    n
        Number of draws; ignored when `x` is given.
    x
        Independent draws from the real law, ``(B, *)``, if there are some already.
    control
        Whether to use the control variate ``q/p − 1`` where the draws support it, see `kl_from_log_ratio`.
    generator, seed
        Source of the draws; at most one of them.

    Raises
    ------
    TypeError
        If the samples are not floating point, or one of the laws has no density.
    ValueError
        If samples are not finite, or a log-density is NaN or not of shape ``(B,)``; the message names the density.

    Examples
    --------
    >>> unit, wide = (GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([v])) for v in (1.0, 1.2))
    >>> value, stderr = kl(wide, unit, seed=0)
    >>> abs(value - (math.log(1.2) + 1 / 1.2 - 1)) < 3 * stderr < 0.002
    True
    """
    given, (generated, real) = (generated, real), (as_law(generated), as_law(real))
    for name, law in (("generated", generated), ("real", real)):
        if not hasattr(law, "log_prob"):
            raise TypeError(
                f"{name} is {with_article(type(law).__name__)}; kl compares densities, log_prob(x). Of a score model "
                "take sdegen.Density(model), of samples alone knn_kl."
            )
        check_law(name, law, "log_prob")
    check_count("n", n, 2, SPREAD)
    if x is None:
        x = ask_draws(real, n, as_generator(generator, seed))
    check_samples(x, "x")
    if len(x) < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; give at least 2 draws{SPREAD}.")
    x = x.detach()
    for origin, law in zip(given, (generated, real), strict=True):
        check_density(origin, partial(ask_log_prob, law), x)
    return kl_from_log_ratio(ask_log_prob(real, x), ask_log_prob(generated, x), control)


@check_arguments
def kl_from_log_ratio(log_p: Tensor, log_q: Tensor, control: bool = True) -> Estimate:
    """Estimate ``KL(p ‖ q)`` in nats from the log-densities of both laws at independent draws from `p`.

    With ``u = log p − log q`` the plain estimate is the mean of ``u``. ``q/p − 1 = expm1(−u)`` has mean zero under `p`,
    so the mean of ``u + expm1(−u)``, whose terms are all at least zero, is unbiased too. Where `q` is near `p` the error of this
    mean is a fraction of the divergence, while the error of the plain mean is a fraction of its root. J. Schulman,
    *Approximating KL divergence*, 2020, joschu.net/blog/kl-approx.html.

    The mean of zero may depend on draws that never come: mass of `q` where `p` hardly goes. Then ``q/p`` has a variance that is
    infinite (for Gaussians, if the variance of `q` is at least twice that of `p`) or never seen, and up to one nat would be lost,
    with a small standard error. So the control variate is used for one half of the draws only where the other half supports it:
    where the mean of ``q/p`` is within 4 of its standard errors of one, and its standard deviation at most ½. (A test on the same
    draws would bias the result.) Otherwise terms stay plain. A mass m of `q` out of the reach of `p` that passes this test,
    ``m < 6 sd(q/p) / √B``, is worth m nats, which only the plain mean counts: to judge a model that may invent small modes, pass
    ``control=False``.

    Parameters
    ----------
    log_p, log_q
        ``(B,)``, B >= 2; both densities normalised. ``log_q`` may be −inf, and the divergence is then infinite.
    control
        False for the plain mean, always.

    Raises
    ------
    ValueError
        If a log-density holds NaN, is infinite where it cannot be, or the shapes are not ``(B,)``.
    """
    check_tensor("log_p", log_p, finite=False), check_tensor("log_q", log_q, finite=False)
    log_p, log_q = (v.detach().cpu().double() for v in (log_p, log_q))
    if log_p.shape != log_q.shape or log_p.ndim != 1 or len(log_p) < 2:
        raise ValueError(
            f"log_p has shape {tuple(log_p.shape)} and log_q {tuple(log_q.shape)}; expected one log-density per "
            f"sample, (B,), B at least 2{SPREAD}."
        )
    for name, value, bad in (
        ("log_p", log_p, ~log_p.isfinite()),
        ("log_q", log_q, log_q.isnan() | (log_q == math.inf)),
    ):
        if bad.any():
            raise ValueError(
                f"{name} is {value[bad][0].item()} at {int(bad.sum())} of {len(value)} samples; the density of "
                f"{name[-1]} must be a number there: evaluate it in float64, or find where its log_prob fails."
            )
    u = log_p - log_q
    terms, excess = u.clone(), torch.expm1(-u)
    if control and len(u) >= 4:
        even, odd = slice(0, None, 2), slice(1, None, 2)
        for half, other in ((even, odd), (odd, even)):
            mean, stderr = Estimate.of(excess[other])
            if abs(mean) <= 4 * stderr <= 2 / math.sqrt(len(excess[other])):
                terms[half] += excess[half]
    return Estimate.of(terms)


@check_arguments
def prior_gap(
    sde: LinearSDE,
    distribution: ClosedLaw,
    *,
    n: int = 10_000,
    generator: torch.Generator | None = None,
    seed: int | None = None,
) -> Estimate:
    """Compute ``KL(law of x_T ‖ prior)`` in nats, and return it: how far the process is from its prior at the last time, before
    any sampler starts.

    The law of ``x_T`` is the mixture that `distribution` diffuses to, and the prior is ``sde.prior`` of its moments. This is the
    term of the bound of Y. Song, C. Durkan, I. Murray, S. Ermon, 2021, arXiv:2101.09258, that no training changes. For states of
    up to 4 dimensions the mean over each component is taken by a tensor Gauss–Hermite rule, whose order is raised until two
    orders agree to 1e-6 of the value or 1e-12 nats; the standard error is then 0. In more dimensions, and where the rule does not
    settle as there are too many components or modes too far apart, the value is by Monte Carlo as in `kl`.

    Parameters
    ----------
    sde
        A linear process.
    distribution
        The law of the data.
    n, generator, seed
        The number of draws by Monte Carlo and their source; at most one of the latter two.

    Raises
    ------
    TypeError
        If the process is not linear: its law at T has no closed form. Simulate to T, and compare the samples with its prior by
        `knn_kl` or `mmd`.

    Examples
    --------
    >>> from sdegen import OU
    >>> pair = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.tensor([0.25, 0.25]))
    >>> [f"{prior_gap(OU(T=T), pair).value:.1e}" for T in (1.0, 2.0, 3.0)]
    ['2.4e-03', '1.9e-06', '7.8e-10']
    """
    check_count("n", n, 2, SPREAD)
    known = as_closed(distribution)
    law = sde.diffused(known, sde.T)
    prior = as_law(sde.prior(known.moments().in_units(sde.units)))
    K, d = len(law.weights), math.prod(law.event_shape)
    # The largest rule has a million nodes, and takes 2**27 densities of components at them: beyond, Monte Carlo is faster.
    orders = [m for m in (8, 12, 16, 24, 32, 48, 64, 96, 128) if K * m**d <= min(2**20, 2**27 // K)]
    previous = math.nan
    for order in orders if d <= 4 and len(orders) > 1 else []:  # one order alone says nothing of its error
        value = _quadrature_kl(law, prior, order)
        if abs(value - previous) <= 1e-6 * abs(value) + 1e-12:
            return Estimate(value, 0.0)
        previous = value
    x = law.sample(n, as_generator(generator, seed))
    return kl_from_log_ratio(_log_prob(law, x, K * d), _log_prob(prior, x, K * d))


def _quadrature_kl(p: GaussianMixture, q: KnownDensity, order: int) -> float:
    """Return ``Σ_k w_k E_{N(m_k, C_k)}[log p − log q]``, each mean by `order` Gauss–Hermite nodes per dimension."""
    K, d = len(p.weights), math.prod(p.event_shape)
    nodes, weights = (torch.from_numpy(v) for v in hermegauss(order))
    weights = weights / weights.sum()
    xi = torch.stack(torch.meshgrid([nodes] * d, indexing="ij"), -1).reshape(-1, d)
    w = torch.stack(torch.meshgrid([weights] * d, indexing="ij"), -1).reshape(-1, d).prod(1)
    L = torch.linalg.cholesky(p._full())
    x = p.means.reshape(K, 1, d) + xi @ L.mT  # (K, order^d, d)
    x = x.reshape(-1, *p.event_shape)
    u = _log_prob(p, x, K * d) - _log_prob(q, x, K * d)
    return (p.weights @ (u.reshape(K, -1) @ w)).item()


def _log_prob(law: KnownDensity, x: Tensor, width: int) -> Tensor:
    """Return ``law.log_prob(x)``, computed in blocks, for a law that holds `width` numbers for each point at once."""
    return torch.cat([ask_log_prob(law, rows) for rows in x.split(max(1, 2**22 // width))])
