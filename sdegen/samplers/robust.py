"""Distances and least squares in which a few samples that have gone to another mode do not decide the result."""

from __future__ import annotations

__all__ = ["CUT", "average_distances", "cut_weights", "normal_equations", "typical_distances"]

import torch
from torch import Tensor

CUT = 10.0  # medians: a larger distance counts as one of this size


def average_distances(distance: Tensor) -> Tensor:
    """Return the root-mean-square of distances, each cut at `CUT` medians.

    Parameters
    ----------
    distance
        The distance of every sample, ``(B,)``.
    """
    return distance.minimum(CUT * distance.median()).square().mean().sqrt()


def typical_distances(distance: Tensor) -> Tensor:
    """Return the median of distances, which most samples decide, and `average_distances`, which samples in another mode raise:
    ``(2,)``.

    Both are above 0, so that their ratios are finite.

    Parameters
    ----------
    distance
        As for `average_distances`.
    """
    return torch.stack([distance.median(), average_distances(distance)]).clamp_min(1e-300)


def cut_weights(size: Tensor, cut: float) -> Tensor:
    """Return the weights of squared residuals, ``(B,)``, with which a residual beyond `cut` medians counts as one of `cut`
    medians.

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
