"""Distances and least squares in which samples that have gone to another mode do not count for all."""

from __future__ import annotations

__all__ = ["CUT", "average_distances", "cut_weights", "normal_equations", "typical_distances"]

import torch
from torch import Tensor

CUT = 10.0  # medians, beyond which a distance counts no further


def average_distances(distance: Tensor) -> Tensor:
    """Return the root-mean-square of distances, each cut at `CUT` medians.

    Parameters
    ----------
    distance
        Of every sample, ``(B,)``.
    """
    return distance.minimum(CUT * distance.median()).square().mean().sqrt()


def typical_distances(distance: Tensor) -> Tensor:
    """Return the median of distances and their average, ``(2,)``: what most samples are off by, and what those are that have gone
    elsewhere. Both are above 0, so that ratios of them are numbers.

    Parameters
    ----------
    distance
        As for `average_distances`.
    """
    return torch.stack([distance.median(), average_distances(distance)]).clamp_min(1e-300)


def cut_weights(size: Tensor, cut: float) -> Tensor:
    """Return the weights of squares, ``(B,)``, with which a residual beyond so many medians counts as one of that size.

    Parameters
    ----------
    size
        Norms of the residuals, ``(B,)``.
    cut
        The number of medians.
    """
    return (cut * size.median() / size).clamp(max=1).square()


def normal_equations(w: Tensor, J: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``Σ w_b J_bᵀ J_b`` and ``Σ w_b J_bᵀ r_b``, of which weighted least squares is the solution.

    Parameters
    ----------
    w
        Weights, ``(B,)``.
    J, r
        Derivatives ``(B, d, p)`` and residuals ``(B, d)``.
    """
    return torch.einsum("b,bdi,bdj->ij", w, J, J), torch.einsum("b,bdi,bd->i", w, J, r)
