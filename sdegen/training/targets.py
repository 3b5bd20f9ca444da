"""Targets of denoising score matching on nonlinear processes, averaged over the data that may have led to a state."""

from __future__ import annotations

__all__ = ["pooled_target"]

import torch
from torch import Tensor

from ..laws.kernels import Kernel
from ..laws.marginals import Perturbed
from ..processes.base import SDE


def pooled_target(sde: SDE, perturbed: Perturbed) -> Tensor:
    """Return the mean target ``E[∇ log p(x_t | x_0)]`` of each noised state, over the data of the batch that may have led to it.

    Given a state and some rows of data, one of which has led to it, each of them did so with its posterior weight. The
    expectation of the mean is that of the target itself, and its variance is smaller (Rao–Blackwell). If the law is known, rows
    are in groups of ``sde.pool``, and each state of a group may be from each datum of it. Otherwise states are simulated, and
    rows that share a time pool the short kernels with which they end (`weightings.SharedTimes`).

    Parameters
    ----------
    sde
        A nonlinear process.
    perturbed
        The noised states, with the data from which they were made.
    """
    x, kernel, _, at, data = perturbed
    if sde.pool > 1:
        return _pool_data(sde, sde.embed(data), x, at.t)
    return kernel.pooled_score_by(at.t, x) if isinstance(kernel, Kernel) else kernel.score(x)


def _pool_data(sde: SDE, x_0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Return at each state the score of the equal mixture of the kernels from all data of its group."""
    n, size = len(x), min(sde.pool, len(x))
    own = torch.arange(n)[:, None]
    other = own - own % size + torch.arange(size)
    pairs, missing = torch.where(other < n, other, own).flatten(), (other >= n).to(x.device)  # of the last group
    law = sde.kernel(x_0[pairs], 0.0, t.repeat_interleave(size))
    states = x.repeat_interleave(size, 0)
    weights = law.log_prob(states).reshape(n, size).masked_fill(missing, -torch.inf).softmax(1)
    scores = law.score(states).reshape(n, size, -1)
    return (weights[:, :, None] * scores).sum(1).reshape(x.shape)
