"""Kernel inception distance: the unbiased squared MMD between features, with a polynomial kernel.

Unlike FID it has no bias to extrapolate away, and its mean is 0 where the laws agree in their first three moments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .estimate import as_pair
from .features import Data, Extractor, FeatureEstimate, all_features, identity
from .mmd import PAIRS, _cross_interaction, _interaction, _jackknife


def kid(x: Data, y: Data, net: Extractor | None = None, *, batch_size: int = 500) -> FeatureEstimate:
    """Squared MMD of features with the kernel ``k(a, b) = (aᵀb / d + 1)³``, by its unbiased U-statistic.

    M. Bińkowski, D. Sutherland, M. Arbel and A. Gretton, *Demystifying MMD GANs*, 2018, arXiv:1801.01401. They average
    over random subsets of 1,000, which has the same mean; here all pairs count, which has the least variance there is,
    and the standard error is that of the U-statistic (see `mmd`), not of the subsets, which overlap.

    All features are held, in float64; kernel values are not. Time goes like ``(n + m)² d``.

    Parameters
    ----------
    x, y
        Samples ``(n, *)`` and ``(m, *)``, at least 3 of each, or iterables of batches of them.
    net
        Feature network, a callable from ``(B, *)`` to ``(B, d)``; by default the samples are features themselves.
    batch_size
        Samples that go through the network at a time.

    Raises
    ------
    TypeError
        If samples are not floating-point tensors.
    ValueError
        If there are too few, they or their features are not finite, or the dimensions differ.

    Examples
    --------
    >>> x, y = torch.randn(2, 1_000, 8, generator=torch.Generator().manual_seed(0))
    >>> value, stderr = kid(x + 0.5, y)
    >>> value > 5 * stderr
    True
    """
    a, b = as_pair(all_features(x, net, batch_size, "x"), all_features(y, net, batch_size, "y"), 3)
    m, n = len(a), len(b)
    rows_aa, _, squares_aa = _gram_sums(a, a)
    rows_bb, _, squares_bb = _gram_sums(b, b)
    rows_ab, rows_ba, squares_ab = _gram_sums(a, b)
    value = rows_aa.sum() / (m * (m - 1)) + rows_bb.sum() / (n * (n - 1)) - 2 * rows_ab.sum() / (m * n)

    jackknife = _jackknife(rows_aa, rows_ab, n) + _jackknife(rows_bb, rows_ba, m)
    degenerate = (
        2 * _interaction(rows_aa, squares_aa) / (m * (m - 1))
        + 2 * _interaction(rows_bb, squares_bb) / (n * (n - 1))
        + 4 * _cross_interaction(rows_ab, rows_ba, squares_ab) / (m * n)
    )
    stderr = math.sqrt(max(jackknife - degenerate, degenerate))
    return FeatureEstimate(value.item(), stderr, "KID", *identity(net), (m, n))


def _gram_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Sums over rows, over columns, and of squares, of the Gram matrix; of `x` with itself, without its diagonal."""
    rows, columns, squares = torch.zeros_like(x[:, 0]), torch.zeros_like(y[:, 0]), 0.0
    one = torch.ones((), dtype=x.dtype, device=x.device)
    for i in torch.arange(len(x), device=x.device).split(max(1, PAIRS // len(y))):
        K = torch.addmm(one, x[i], y.mT, alpha=1 / x.shape[1])
        K = K * K * K
        if x is y:
            K[torch.arange(len(i), device=x.device), i] = 0.0
        rows[i] = K.sum(1)
        columns += K.sum(0)
        squares += K.square_().sum().item()
    return rows, columns, squares
