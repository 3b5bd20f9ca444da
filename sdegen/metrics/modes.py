"""Mode coverage: the share of samples at each mode of a mixture."""

from __future__ import annotations

__all__ = ["mode_shares"]

import math

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.mixtures import GaussianMixture
from .estimate import as_points

GAPS = 2**19  # coordinates of the differences between points and modes, held at once


@check_arguments
def mode_shares(x: Tensor, law: GaussianMixture, within: float = 3.0) -> Tensor:
    """Measure the mass of samples at each mode relative to the mass of the mixture there, and return the ratios, ``(K,)``.

    A sample belongs to the mode at the smallest Mahalanobis distance, and counts if that distance is at most `within` standard
    deviations. The ratio is the share of samples that count for mode `k`, divided by the mass ``w_k P(χ²_d <= within²)`` that the
    Gaussian of the mode has there. Where modes overlap, a sample between them counts for the nearer mode alone. With N samples a
    ratio has a standard error of about ``1 / √(w_k N)``.

    Parameters
    ----------
    x
        Samples ``(N, *event_shape)``.
    law
        The mixture whose modes are looked for.
    within
        The largest Mahalanobis distance of a sample that counts.

    Raises
    ------
    TypeError
        If samples are not floating point.
    ValueError
        If `within` is not positive, or samples are empty, not finite or not of the law's dimension.

    Examples
    --------
    >>> from sdegen.data import gaussian_ring
    >>> ring = gaussian_ring()
    >>> half = ring.means[:4].repeat(100, 1)
    >>> mode_shares(half, ring)[[0, 7]].round(decimals=1).tolist()
    [2.0, 0.0]
    """
    from scipy.stats import chi2  # loads on use

    if not within > 0:
        raise ValueError(f"within = {within}; give a positive number of standard deviations.")
    points = as_points(x, "x").cpu()
    K, d = len(law.weights), math.prod(law.event_shape)
    if points.shape[1] != d:
        raise ValueError(f"x has {points.shape[1]} numbers a sample, the law {d}; give samples of it.")
    roots, counts = torch.linalg.cholesky(law._full()), torch.zeros(K, dtype=torch.long)
    for part in points.split(max(1, GAPS // (K * d))):
        gaps = part[:, None] - law.means.reshape(K, d)  # (b, K, d)
        whitened = torch.linalg.solve_triangular(roots, gaps.permute(1, 2, 0), upper=False)
        nearest, mode = whitened.norm(dim=1).min(0)
        counts += mode[nearest <= within].bincount(minlength=K)
    return counts / len(points) / (law.weights * float(chi2.cdf(within**2, d)))
