"""Fidelity and diversity measured separately: precision and recall, density and coverage, by nearest-neighbour balls of
features.

The balls of a set, real or generated, are around its points, each as wide as the distance to the k-th nearest other point of the
set. All four depend on the numbers of samples and on k: compare equal counts, beside the value of real against real. Distances
are held a block of rows at a time.

Standard errors come from random halvings of both samples. Two halves share no point, so the square of the difference of their
values is, on average, twice the variance at half the number of points, and four times that at all of them, whatever the measure.
A jackknife, which leaves out little, is up to 1.9 times too large for such local measures, and a binomial error takes the balls
for fixed.
"""

from __future__ import annotations

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..show import show_call
from .distances import squared_distances
from .extraction import Extractor, FeatureEstimate, ImageBatches, feature_pair, name_and_hash

PAIRS = 2**19  # distances held at once: a cache full, and memory that does not grow with the samples


class PrecisionRecall(NamedTuple):
    """Precision, the share of generated points within the real manifold, and recall, the share of real points within the
    generated one.

    Attributes
    ----------
    precision, recall
        Both in [0, 1], each with its standard error.
    """

    precision: FeatureEstimate
    recall: FeatureEstimate

    def __repr__(self) -> str:
        return show_call(self)

    def __str__(self) -> str:
        return f"{self.precision}, {self.recall}"


class DensityCoverage(NamedTuple):
    """Density, the mean number of real balls that a generated point lies in, divided by `k`, and coverage, the share of real
    balls that hold a generated point.

    Attributes
    ----------
    density
        At least 0; 1 in expectation for equal laws, which other laws can exceed.
    coverage
        In [0, 1]; about ``1 − 2^−k`` in expectation for equal laws and counts.
    """

    density: FeatureEstimate
    coverage: FeatureEstimate

    def __repr__(self) -> str:
        return show_call(self)

    def __str__(self) -> str:
        return f"{self.density}, {self.coverage}"


@check_arguments
def precision_recall(
    generated: ImageBatches,
    real: ImageBatches,
    net: Extractor | None = None,
    *,
    k: int = 3,
    splits: int = 8,
    batch_size: int = 500,
) -> PrecisionRecall:
    """Estimate the improved precision and recall of generated features ``x`` against real ones ``y``.

    Precision is the share of the ``x`` that lie in the ball of any ``y``, which reaches to the k-th neighbour of that
    ``y`` among the other ``y``; recall is the same with the roles exchanged. T. Kynkäänniemi et al., *Improved precision
    and recall metric for assessing generative models*, 2019, arXiv:1904.06991. A single outlier with a wide ball can raise
    either, and the standard error is then up to a third too small: see `density_coverage`.

    Parameters
    ----------
    generated, real
        Samples `x` and `y`, ``(n, *)`` and ``(m, *)``, iterables of batches of them, or images with their scaling.
    net
        Feature network, a callable from ``(B, *)`` to ``(B, d)``; by default the samples are features themselves.
    k
        Which neighbour sets the radius of a ball.
    splits
        Number of random halvings for the standard error; each takes half the time of the value itself.
    batch_size
        Samples that go through the network at a time.

    Raises
    ------
    TypeError
        If samples are not floating-point tensors.
    ValueError
        If there are fewer than ``2 (k + 1)`` samples, samples or features are not finite, the dimensions differ, or `k` or
        `splits` is below 1.

    Warns
    -----
    UserWarning
        If generated and real images seem to be scaled differently.

    Examples
    --------
    >>> x, y = torch.randn(2, 500, 2, generator=torch.Generator().manual_seed(0))
    >>> precision, recall = precision_recall(0.3 * x, y)  # good samples of a part of the law
    >>> precision.value > 0.99, recall.value < 0.6
    (True, True)
    """

    def measure(x: Tensor, y: Tensor) -> tuple[float, float]:
        return _in_balls(x, y, k).inside, _in_balls(y, x, k).inside

    return PrecisionRecall(*_estimates(measure, ("precision", "recall"), generated, real, net, k, splits, batch_size))


@check_arguments
def density_coverage(
    generated: ImageBatches,
    real: ImageBatches,
    net: Extractor | None = None,
    *,
    k: int = 5,
    splits: int = 8,
    batch_size: int = 500,
) -> DensityCoverage:
    """Estimate density and coverage of generated features ``x`` against real ones ``y``.

    The ball of each ``y`` reaches to its k-th neighbour among the other ``y``. Density is the mean number of balls that an ``x``
    lies in, divided by k, and coverage the share of balls that hold an ``x``. M. F. Naeem et al., *Reliable fidelity and
    diversity metrics for generative models*, 2020, arXiv:2002.09797.

    For equal laws without atoms the expectations are known: density 1, which it can exceed otherwise, and coverage
    ``1 − Π_{j=1..k} (m − j)/(n + m − j)``, near ``1 − 2^−k`` for ``n = m``.

    Parameters
    ----------
    generated, real, net, splits, batch_size
        As for `precision_recall`.
    k
        Which neighbour sets the radius of a ball; 5 is the paper's.

    Raises
    ------
    TypeError, ValueError
        As for `precision_recall`.

    Examples
    --------
    >>> x, y = torch.randn(2, 500, 8, generator=torch.Generator().manual_seed(0))
    >>> density, coverage = density_coverage(x, y)
    >>> abs(density.value - 1) < 3 * density.stderr, abs(coverage.value - (1 - 2**-5)) < 3 * coverage.stderr
    (True, True)
    """

    def measure(x: Tensor, y: Tensor) -> tuple[float, float]:
        hits = _in_balls(x, y, k)
        return hits.balls / k, hits.covered

    return DensityCoverage(*_estimates(measure, ("density", "coverage"), generated, real, net, k, splits, batch_size))


def _estimates(
    measure: Callable[[Tensor, Tensor], tuple[float, float]],
    names: tuple[str, str],
    generated: ImageBatches,
    real: ImageBatches,
    net: Extractor | None,
    k: int,
    splits: int,
    batch_size: int,
) -> tuple[FeatureEstimate, FeatureEstimate]:
    """Estimate two measures of the features of two samples, with standard errors from random halvings."""
    if k < 1 or splits < 1:
        raise ValueError(f"k = {k}, splits = {splits}; both must be at least 1.")
    least = 2 * (k + 1)  # a half needs k neighbours
    a, b = feature_pair(generated, real, net, batch_size, least)
    centre = b.mean(0)  # distances are differences of squares: keep the squares small
    a, b = a - centre, b - centre
    generator = torch.Generator().manual_seed(0)
    gaps = []  # of the measures between two halves
    for _ in range(splits):
        i, j = (torch.randperm(len(v), generator=generator).to(v.device) for v in (a, b))
        first, second = (torch.tensor(measure(a[i[h::2]], b[j[h::2]]), dtype=torch.float64) for h in (0, 1))
        gaps.append(first - second)
    stderrs = (torch.stack(gaps).square().mean(0) / 4).sqrt().tolist()
    source = (*name_and_hash(net), (len(a), len(b)))
    one, other = (
        FeatureEstimate(value, stderr, f"{name}@{k}", *source)
        for value, stderr, name in zip(measure(a, b), stderrs, names)
    )
    return one, other


class _Hits(NamedTuple):
    inside: float  # share of points in any ball
    balls: float  # mean number of balls that a point lies in
    covered: float  # share of balls that hold a point


def _in_balls(points: Tensor, centres: Tensor, k: int) -> _Hits:
    """Count how `points` lie in the balls around `centres`, each of which reaches to the k-th nearest other centre, and return
    the means.
    """
    radii = torch.empty_like(centres[:, 0])
    for i, squares in _squared_distances(centres, centres):
        squares[torch.arange(len(i), device=i.device), i] = math.inf  # none is its own neighbour
        radii[i] = squares.topk(k, 1, largest=False).values[:, -1]
    inside = balls = 0
    covered = torch.zeros(len(centres), dtype=torch.bool, device=centres.device)
    for _, squares in _squared_distances(points, centres):
        hit = squares <= radii
        inside += int(hit.any(1).sum())
        balls += int(hit.sum())
        covered |= hit.any(0)
    return _Hits(inside / len(points), balls / len(points), covered.double().mean().item())


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield rows of ``‖x_i − y_j‖²``, a block at a time, with their indices."""
    squares_x, squares_y = x.square().sum(1), y.square().sum(1)
    for i in torch.arange(len(x), device=x.device).split(max(1, PAIRS // len(y))):
        yield i, squared_distances(x[i], y, squares_x[i], squares_y)
