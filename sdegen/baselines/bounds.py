"""Bounds of the log-likelihood of a latent variable model: the two terms of the evidence lower bound, and the mean of
importance weights.
"""

from __future__ import annotations

__all__ = ["BoundTerms", "log_mean_weight"]

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..show import show_call


class BoundTerms(NamedTuple):
    """The two terms of an evidence lower bound in nats, each ``(B,)``.

    Attributes
    ----------
    log_likelihood
        ``E_q log p(x | z)``, estimated by draws of `z` where there is no closed form.
    kl
        ``KL(q(z | x) ‖ p(z))``.
    """

    log_likelihood: Tensor
    kl: Tensor

    def __repr__(self) -> str:
        return show_call(self)

    @property
    def elbo(self) -> Tensor:
        """The evidence lower bound ``log_likelihood − kl``, at most ``log p(x)`` in the mean."""
        return self.log_likelihood - self.kl


def log_mean_weight(log_weight: Callable[[], Tensor], draws: int) -> Tensor:
    """Return ``log (1/K) Σ_k w_k`` of K importance weights for each datum, ``(B,)``.

    Parameters
    ----------
    log_weight
        Draws one weight for each datum, and returns its logarithm, ``(B,)``.
    draws
        K, the number of draws.

    Raises
    ------
    ValueError
        If there is no draw.
    """
    if draws < 1:
        raise ValueError(f"draws = {draws}; at least one is needed.")
    return torch.stack([log_weight() for _ in range(draws)]).logsumexp(0) - math.log(draws)
