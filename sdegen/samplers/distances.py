"""Distances of samples from where their own flow takes them, averaged so that those in another mode do not count for all."""

from __future__ import annotations

__all__ = ["CUT", "average_distances"]

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
