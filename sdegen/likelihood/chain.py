"""The terms of the variational bound of a discrete diffusion chain: KL divergences of its steps, and the log-density of
the data at its last.
"""

from __future__ import annotations

__all__ = ["cell_edges", "last_log_mass", "last_log_prob", "step_divergence"]

import math
from typing import Any

import torch
from torch import Tensor

from ..data import Scaling
from ..laws.kernels import posterior
from ..laws.marginals import Perturbed
from ..laws.operators import rows
from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from ..processes.linear import as_linear


def step_divergence(
    model: ScoreModel, x_0: Tensor, s: Tensor, t: Tensor, perturbed: Perturbed, /, **cond: Any
) -> Tensor:
    """Return ``KL(q(x_s | x_t, x_0) ‖ p(x_s | x_t))`` per coordinate in nats, ``(B,)``.

    `p` is the posterior `q` with the model's estimate of ``x_0``. Where the model has learned the variance of its steps, `p` has
    that, and its mean is held fixed: the divergence trains the variance alone.

    Parameters
    ----------
    model
        A score model of a linear process.
    x_0
        Data, ``(B, *)``.
    s, t
        The times that the step goes to and comes from, ``()`` or ``(B,)``.
    perturbed
        The noised data at `t`.
    cond
        Conditions of the model.

    Raises
    ------
    TypeError
        If the process is not linear.
    """
    sde = as_linear(model.sde, ": its noised states are not Gaussian given the data.")
    at_s, at_t = sde.marginal(s), sde.marginal(t)
    law = posterior(at_s, at_t, sde.transition(s, t))

    def gap(x_hat: Tensor, z_hat: Tensor) -> Tensor:
        # Both means are Phi_s x_0 + K R z of their own data and noise: their difference is that of the estimates.
        return at_s.Phi(sde.lift(x_0) - x_hat) + (law.K @ at_t.R)(perturbed.z - z_hat)

    if model.reversal is None:
        apart = gap(*model.estimate(perturbed.x, t, **cond))
        return 0.5 * as_vectors(law.covariance.cholesky().inv()(apart)).square().mean(1)
    x_hat, z_hat, log_variance = model.reversal.reverse_estimate(perturbed.x, s, t, **cond)
    apart = gap(x_hat.detach(), z_hat.detach())
    log_true = rows(law.covariance.matrix()[..., 0, 0].log(), apart)  # learned variances are of scalar processes
    kl = 0.5 * (log_variance - log_true + (log_true - log_variance).exp() - 1 + apart.square() / log_variance.exp())
    return kl.reshape(len(kl), -1).mean(1)


def last_log_prob(model: ScoreModel, x_0: Tensor, t: Tensor, perturbed: Perturbed, /, **cond: Any) -> Tensor:
    """Return ``log p(x_0 | x_t) = log N(x_0; E[x_0 | x_t], 1 / snr(t))`` in nats, ``(B,)``: the log-density of the last step.

    The normal law is in the units of the process; the density that is returned is that of the data in their own units.

    Parameters
    ----------
    model, x_0, cond
        As for `step_divergence`.
    t
        The time of the last state, ``t_1``.
    perturbed
        The noised data at `t`.
    """
    sde, snr = model.sde, model.sde.snr(t)
    gap = as_vectors(sde.standardise(x_0) - sde.extract(model.denoise(perturbed.x, t, **cond)))
    normal = 0.5 * gap.shape[1] * rows((snr / (2 * math.pi)).log(), gap[:, 0])
    return normal - 0.5 * gap.square().sum(1) * rows(snr, gap[:, 0]) - sde.log_volume(x_0)


def cell_edges(x: Tensor, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Return the lower and upper ends of the cells of bytes, each of the shape of `x`; those of the least and the largest byte
    reach to infinity.

    Parameters
    ----------
    x
        Numbers in the cells.
    scaling
        How bytes became numbers.
    """
    u = scaling.inverse(x)
    middle = scaling.middles(u).to(x)
    below = torch.where(u == 0, -math.inf, middle - scaling.step / 2)
    return below, torch.where(u == scaling.levels - 1, math.inf, middle + scaling.step / 2)


def last_log_mass(
    model: ScoreModel, x_0: Tensor, t: Tensor, perturbed: Perturbed, scaling: Scaling, /, **cond: Any
) -> Tensor:
    """Return ``log P(u | x_t)`` of bytes `u` in nats, ``(B,)``: the log of the mass of ``N(E[x_0 | x_t], 1 / snr(t))`` in their
    cells, as in J. Ho, A. Jain, P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv:2006.11239.

    Parameters
    ----------
    model, t, perturbed, cond
        As for `last_log_prob`.
    x_0
        Numbers in the cells, ``(B, *)``.
    scaling
        How bytes became numbers.
    """
    sde = model.sde
    mean = sde.project(model.denoise(perturbed.x, t, **cond))
    width = sde.units.stretch(rows(sde.snr(t).rsqrt(), mean) + torch.zeros_like(mean))
    # An end at infinity stays there: (inf - mean) / width has no derivative.
    low, high = (
        torch.where(edge.isinf(), edge, (edge.masked_fill(edge.isinf(), 0) - mean) / width)
        for edge in cell_edges(x_0, scaling)
    )
    # Both ends on the left of the mean or about it: no digits are lost in a tail.
    left = torch.where(low > 0, -high, low)
    right = torch.where(low > 0, -low, high)
    near, beyond = torch.special.log_ndtr(right), torch.special.log_ndtr(left)
    return as_vectors(near + torch.log1p(-torch.exp(beyond - near))).sum(1)
