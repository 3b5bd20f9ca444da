"""The Kullback–Leibler divergence in nats from samples alone, by nearest-neighbour distances.

`knn_kl` is biased by the finite distance to a neighbour, and its standard error does not show that; where both densities
are known, use `kl`.
"""

from __future__ import annotations

__all__ = ["knn_kl"]

import math

import torch
from torch import Tensor

from ..arguments import check_arguments
from .estimate import Estimate, as_pair


@check_arguments
def knn_kl(generated: Tensor, real: Tensor, k: int = 5, *, folds: int = 20) -> Estimate:
    """Estimate ``KL(P ‖ Q)`` in nats from real samples ``x ~ P`` and generated samples ``y ~ Q``, by distances to k-th
    nearest neighbours.

    The estimate is ``(d / n) Σ_i log(nu_k(i) / rho_k(i)) + log(m / (n − 1))``, with ``rho_k(i)`` the distance of ``x_i`` to its
    k-th neighbour among the other ``x``, and ``nu_k(i)`` the distance to its k-th neighbour among the ``y``. Q. Wang, S.
    Kulkarni, S. Verdú, *Divergence estimation for multidimensional densities via k-nearest-neighbor distances*, 2009.

    It is consistent, but biased by how much the densities change within such a distance: too small in many dimensions, and
    where `P` reaches beyond `Q`. For Gaussians in the plane with n = m = 8,000 it is right to 0.01 for a shift by half a standard
    deviation, but 0.32 where 0.44 is right for a `P` 1.5 times as wide as `Q`.

    The standard error comes from disjoint folds of both samples. Each pair of folds gives an independent estimate from fewer
    samples; the standard deviation of these over √folds is the error of the whole, as far as variances go like ``1/n``.

    Parameters
    ----------
    generated, real
        Independent samples: `y`, ``(m, *)``, and `x`, ``(n, *)``.
    k
        Which neighbour: larger ones are less noisy and more biased.
    folds
        Number of folds for the standard error.

    Raises
    ------
    TypeError
        If the samples are not floating point.
    ValueError
        If points coincide, the dimensions differ, or a fold has fewer than k + 1 points.
    """
    if k < 1 or folds < 2:
        raise ValueError(f"k = {k}, folds = {folds}; give k at least 1, and at least 2 folds.")
    y, x = (v.cpu() for v in as_pair(generated, real, folds * (k + 1)))
    value = _knn_kl(x, y, k)
    return Estimate(value, Estimate.of([_knn_kl(x[i::folds], y[i::folds], k) for i in range(folds)]).stderr)


def _knn_kl(x: Tensor, y: Tensor, k: int) -> float:
    """Return the estimate of `knn_kl` from real points `x` and generated points `y`, without its error."""
    from scipy.spatial import cKDTree  # loads on use

    (n, d), m = x.shape, len(y)
    rho = torch.from_numpy(cKDTree(x.numpy()).query(x.numpy(), k=[2, k + 1])[0])  # the first is the point itself
    nu = torch.from_numpy(cKDTree(y.numpy()).query(x.numpy(), k=[1, k])[0])
    for others, nearest in (("other real points", rho[:, 0]), ("generated points", nu[:, 0])):
        if (nearest == 0).any():
            raise ValueError(
                f"{int((nearest == 0).sum())} of the real points coincide with {others}; k-NN distances of zero mean no "
                "density: pass independent draws, in float64, of a law without atoms."
            )
    return d * (nu[:, 1] / rho[:, 1]).log().mean().item() + math.log(m / (n - 1))
