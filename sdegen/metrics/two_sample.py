"""The classifier two-sample test: whether a classifier can tell generated from real points that it was not trained on.

The classifier is k nearest neighbours through a k-d tree; no network is trained. A large p-value says only that this
classifier, on this many points, saw nothing.
"""

from __future__ import annotations

__all__ = ["ClassifierTest", "classifier_test"]

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..show import show_call
from .estimate import Estimate, as_generator, as_pair, check_equal_counts

NEIGHBOURS = 2**19  # held at once: memory that does not grow with k


class ClassifierTest(NamedTuple):
    """The result of a classifier two-sample test: held-out accuracy and its significance.

    Attributes
    ----------
    accuracy
        Share of held-out points that are classified right: ½ for equal laws, 1 for laws that do not overlap.
    p_value
        Probability, for equal laws, of an accuracy at least as high.
    """

    accuracy: Estimate
    p_value: float

    def __repr__(self) -> str:
        return show_call(self)


@check_arguments
def classifier_test(
    generated: Tensor,
    real: Tensor,
    *,
    k: int | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
) -> ClassifierTest:
    """Train a k-nearest-neighbour classifier on half of both samples, and return its accuracy on the other half.

    D. Lopez-Paz and M. Oquab, *Revisiting classifier two-sample tests*, 2016, arXiv:1610.06545. The standard error is
    binomial. The p-value is exact for any classifier: for equal laws a random half of the held-out points have the label ``y``,
    so that the number of these among the points that the classifier calls ``y`` is hypergeometric (the paper uses its normal
    limit).

    Distances are Euclidean, in the units of the data: scale coordinates first if their units differ.

    Parameters
    ----------
    generated, real
        `x` and `y`: independent samples, ``(n, *)`` both, n >= 4.
    k
        Number of neighbours that vote; by default an odd number next to the square root of the number of training points.
    generator, seed
        Source of the split; at most one of them.

    Raises
    ------
    TypeError
        If the samples are not floating point.
    ValueError
        If the counts or dimensions differ, or `k` is even (votes could tie) or above the number of training points.

    Examples
    --------
    >>> x, y = torch.randn(2, 1000, 2, generator=torch.Generator().manual_seed(0))
    >>> classifier_test(x + 1.0, y, seed=0).p_value < 1e-6
    True
    """
    from scipy.spatial import cKDTree  # loads on use
    from scipy.stats import hypergeom

    x, y = (v.cpu() for v in as_pair(generated, real, 4))
    check_equal_counts(x, y, "chance is one half only for equal counts")
    half = len(x) // 2
    if k is None:
        k = math.isqrt(2 * half) // 2 * 2 + 1
    if k % 2 == 0 or not 1 <= k <= 2 * half:
        raise ValueError(f"k = {k}; expected an odd number of neighbours, at most the {2 * half} training points.")
    generator = as_generator(generator, seed)
    device = None if generator is None else generator.device
    x, y = (v[torch.randperm(len(v), generator=generator, device=device).cpu()] for v in (x, y))

    train, held_out = torch.cat([x[:half], y[:half]]), torch.cat([x[half:], y[half:]])
    tree = cKDTree(train.numpy())
    nearest = (tree.query(part.numpy(), k=range(1, k + 1))[1] for part in held_out.split(max(1, NEIGHBOURS // k)))
    called_y = torch.cat([(torch.from_numpy(which) >= half).sum(1) for which in nearest]) > k // 2
    n = len(held_out) // 2
    right_y = int(called_y[n:].sum())
    calls = int(called_y.sum())
    accuracy = (2 * right_y + n - calls) / (2 * n)
    p_value = hypergeom.sf(right_y - 1, 2 * n, n, calls)
    return ClassifierTest(Estimate(accuracy, math.sqrt(accuracy * (1 - accuracy) / (2 * n))), float(p_value))
