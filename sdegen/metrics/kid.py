"""Kernel inception distance: the unbiased squared MMD between features, with a polynomial kernel.

Unlike FID it has no bias to extrapolate away, and its mean is 0 where the laws agree in their first three moments.
"""

from __future__ import annotations

__all__ = ["kid"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from .extraction import Extractor, FeatureEstimate, ImageBatches, feature_pair, name_and_hash
from .mmd import squared_mmd


@check_arguments
def kid(
    generated: ImageBatches, real: ImageBatches, net: Extractor | None = None, *, batch_size: int = 500
) -> FeatureEstimate:
    """Estimate the squared MMD of features with the kernel ``k(a, b) = (aᵀb / d + 1)³``, by its unbiased U-statistic.

    M. Bińkowski, D. Sutherland, M. Arbel and A. Gretton, *Demystifying MMD GANs*, 2018, arXiv:1801.01401, average over random
    subsets of 1,000, which has the same mean. Here all pairs count, which has the least variance; and the standard error is that
    of the U-statistic (see `mmd`), not that of subsets, which overlap.

    All features are held in float64; kernel values are not. Time goes like ``(n + m)² d``.

    Parameters
    ----------
    generated, real
        Samples ``(n, *)`` and ``(m, *)``, at least 3 of each, iterables of batches of them, or images with their scaling.
    net
        Feature network, a callable from ``(B, *)`` to ``(B, d)``; by default the samples are features themselves.
    batch_size
        Samples that go through the network at a time.

    Raises
    ------
    TypeError
        If samples are not floating-point tensors.
    ValueError
        If there are too few samples, samples or features are not finite, or the dimensions differ.

    Warns
    -----
    UserWarning
        If generated and real images seem to be scaled differently.

    Examples
    --------
    >>> x, y = torch.randn(2, 1_000, 8, generator=torch.Generator().manual_seed(0))
    >>> value, stderr = kid(x + 0.5, y)
    >>> value > 5 * stderr
    True
    """
    a, b = feature_pair(generated, real, net, batch_size, 3)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        K = torch.addmm(a.new_ones(()), a, b.mT, alpha=1 / a.shape[1])
        return K * K * K

    return FeatureEstimate(*squared_mmd(a, b, kernel), "KID", *name_and_hash(net), (len(a), len(b)))
