"""Points of a simplex as fractions broken off a stick: `StickFractions`.

`coordinates.StickBreaking` takes their log-odds, shifted, which have no bounds; the fractions themselves stay in (0, 1), where
Jacobi diffusions move them.
"""

from __future__ import annotations

__all__ = ["StickFractions"]

import torch
from torch import Tensor
from torch.distributions import constraints

from .coordinates import Coordinates


class StickFractions(Coordinates):
    """The fractions ``v_i = x_i / Σ_{j ≥ i} x_j`` in (0, 1) that parts take of what the parts before have left, for data
    ``(B, K)`` that are positive and sum to one: ``(B, K − 1)`` numbers.

    Under a Dirichlet law of the parts the fractions are independent, each under a beta law. J. Sethuraman, *A constructive
    definition of Dirichlet priors*, 1994.

    Examples
    --------
    >>> StickFractions()(torch.tensor([[0.5, 0.25, 0.25]])).tolist()
    [[0.5, 0.5]]
    """

    domain = constraints.simplex

    def __call__(self, x: Tensor) -> Tensor:
        """Return the fractions."""
        return x[:, :-1] / _left(x)[:, :-1]

    def inverse(self, u: Tensor) -> Tensor:
        """Return the parts, ``x_i = v_i Π_{j < i} (1 − v_j)``; the last takes what is left."""
        left = torch.cat([torch.ones_like(u[:, :1]), (1 - u).cumprod(1)], 1)
        return left * torch.cat([u, torch.ones_like(u[:, :1])], 1)

    def log_det(self, x: Tensor) -> Tensor:
        """Return ``−Σ log`` of what is left before each fraction is taken, ``(B,)``."""
        return -_left(x)[:, 1:-1].log().sum(1)


def _left(x: Tensor) -> Tensor:
    """Return what is left before each part, ``Σ_{j ≥ i} x_j``."""
    return x.flip(1).cumsum(1).flip(1)
