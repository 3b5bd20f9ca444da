"""Mean and covariance of features that arrive batch by batch, in memory that does not grow with their number. That is all that
FID (`frechet`) needs of a set: it is computed once, and compared with many other sets.
"""

from __future__ import annotations

__all__ = ["FeatureMoments", "RunningMoments", "check_same_network", "feature_moments"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..laws.mixtures import Moments
from .estimate import SPREAD, as_points
from .extraction import Extent, Extractor, ImageBatches, extract, name_and_hash


class FeatureMoments:
    """Mean and covariance of features that arrive batch by batch, in memory that does not grow with their number.

    Batches are merged by the pairwise formulas of T. Chan, G. Golub and R. LeVeque, *Algorithms for computing the
    sample variance: analysis and recommendations*, 1983, in float64: nothing is a difference of large squares. Rows go in turn
    to two halves, which `fid_infinity` compares with the whole. A random sample of the rows is kept, from which standard errors
    are computed. For d features that is ``2 d² + keep d`` numbers.

    Where several processes compute features, gather these objects by ``torch.distributed.all_gather_object``, and `merge` them.

    Parameters
    ----------
    extractor, hash
        Name of the feature network and hash of its weights; moments of different networks cannot be compared.
    keep
        Number of rows that are kept.

    Attributes
    ----------
    n
        Number of features so far.
    rows
        The rows that are kept, a uniform sample without replacement, ``(min(n, keep), d)``.

    Raises
    ------
    ValueError
        If `keep` is below 2.

    Examples
    --------
    >>> moments = FeatureMoments()
    >>> for batch in torch.randn(10, 100, 3, generator=torch.Generator().manual_seed(0)) + 5.0:
    ...     moments.update(batch)
    >>> moments.n, [round(m) for m in moments.mean.tolist()]
    (1000, [5, 5, 5])
    """

    @check_arguments
    def __init__(self, extractor: str = "features", hash: str = "", *, keep: int = 4_096) -> None:
        check_count("keep", keep, 2, SPREAD)
        self.extractor, self.hash, self.keep = extractor, hash, keep
        self.extent = Extent()  # of the images that the features are of
        self.rows = torch.empty(0, 0)
        self._keys = torch.empty(0, dtype=torch.float64)  # each row's random key: the smallest are kept
        self._halves: list[RunningMoments] = []
        self._generator = torch.Generator().manual_seed(0)

    @property
    def n(self) -> int:
        return sum(half.n for half in self._halves)

    @property
    def mean(self) -> Tensor:
        """The mean of the features, ``(d,)``, float64."""
        return self._whole().mean

    @property
    def covariance(self) -> Tensor:
        """The covariance of the features, ``(d, d)``, float64, with the divisor ``n − 1``."""
        return self._whole().covariance()

    def moments(self) -> Moments:
        """Return the mean and the full covariance of the features."""
        whole = self._whole()
        return Moments(whole.mean, whole.covariance())

    def halves(self) -> tuple[Moments, Moments]:
        """Return the moments of two disjoint halves of the rows."""
        first, second = (Moments(half.mean, half.covariance()) for half in self._halves)
        return first, second

    @check_arguments
    def update(self, features: Tensor) -> None:
        """Update the moments with features ``(B, *)``, floating point; an empty batch changes nothing.

        Raises
        ------
        TypeError
            If `features` are not floating point.
        ValueError
            If `features` are not finite, or of another dimension than those before.
        """
        if features.ndim and len(features) == 0:
            return
        x = as_points(features, "features")
        if not self._halves:
            self._halves = [RunningMoments(x.shape[1], x.device) for _ in range(2)]
            self.rows = features.new_empty(0, x.shape[1], device=x.device)
        self._check_dimension(x.shape[1])
        x, n = x.to(self.rows.device), self.n
        for i, half in enumerate(self._halves):
            half.update(x[(i - n) % 2 :: 2])
        keys = torch.rand(len(x), dtype=torch.float64, generator=self._generator)
        self._retain(features.detach().reshape(len(x), -1).to(x.device), keys)

    @check_arguments
    def merge(self, other: FeatureMoments) -> None:
        """Update the moments with all features that another `FeatureMoments` has seen.

        Raises
        ------
        ValueError
            If `other` is of another network or dimension.
        """
        check_same_network(self, other)
        if other.n == 0:
            return
        if not self._halves:
            d = other.rows.shape[1]
            self._halves = [RunningMoments(d, other.rows.device) for _ in range(2)]
            self.rows = other.rows[:0]
        self._check_dimension(other.rows.shape[1])
        mine = sorted(self._halves, key=lambda half: half.n)
        theirs = sorted(other._halves, key=lambda half: -half.n)
        for half, more in zip(mine, theirs):  # the larger to the smaller: halves stay halves
            half.merge(more.n, more.mean.to(half.mean.device), more.scatter.to(half.mean.device))
        self._retain(other.rows.to(self.rows.device), other._keys)
        self.extent.join(other.extent)

    def _whole(self) -> RunningMoments:
        """Return the moments of both halves together."""
        if self.n < 2:
            raise ValueError(f"{self.n} images so far; a covariance needs at least 2: add more.")
        first, second = self._halves
        whole = RunningMoments(len(first.mean), first.mean.device)
        for half in (first, second):
            whole.merge(half.n, half.mean, half.scatter)
        return whole

    def _check_dimension(self, d: int) -> None:
        if d != self.rows.shape[1]:
            raise ValueError(
                f"features have dimension {d}, those before {self.rows.shape[1]}; use one network for all."
            )

    def _retain(self, rows: Tensor, keys: Tensor) -> None:
        """Keep, of the rows kept so far and the new ones, those with the smallest random keys: a uniform sample of all rows."""
        if len(self._keys) == self.keep:
            fresh = keys < self._keys.max()
            rows, keys = rows[fresh.to(rows.device)], keys[fresh]
        if len(keys):
            rows, keys = torch.cat([self.rows, rows]), torch.cat([self._keys, keys])
            order = keys.argsort()[: self.keep]
            self.rows, self._keys = rows[order.to(rows.device)], keys[order]

    def __repr__(self) -> str:
        return f"FeatureMoments({self.extractor} {self.hash[:6]}, n={self.n}, d={self.rows.shape[1]})"


class RunningMoments:
    """The number of rows so far, their mean and their scatter matrix ``Σ (x − mean)(x − mean)ᵀ``."""

    def __init__(self, d: int, device: torch.device) -> None:
        self.n = 0
        self.mean = torch.zeros(d, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(d, d, dtype=torch.float64, device=device)

    def update(self, x: Tensor) -> None:
        """Update the mean and scatter with rows ``(n, d)``, of which there may be none."""
        if len(x):
            mean = x.mean(0)
            x = x - mean
            self.merge(len(x), mean, x.mT @ x)

    def merge(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        """Update the mean and scatter with `n` rows of which the mean and the scatter matrix are known."""
        if n:
            total = self.n + n
            gap = mean - self.mean
            self.scatter += scatter
            self.scatter.addr_(gap, gap, alpha=self.n * n / total)
            self.mean += gap * (n / total)
            self.n = total

    def covariance(self) -> Tensor:
        """Return the covariance, with the divisor ``n − 1``."""
        return self.scatter / (self.n - 1)


@check_arguments
def feature_moments(data: ImageBatches, net: Extractor | None = None, *, batch_size: int = 500) -> FeatureMoments:
    """Collect the mean and covariance of the features of samples, batch by batch, and return them.

    Parameters
    ----------
    data
        Samples ``(N, *)``, an iterable of batches of them, or images with their scaling.
    net
        Feature network, a callable from ``(B, *)`` to ``(B, d)``; by default the samples are features themselves.
    batch_size
        Samples that go through the network at a time.

    Raises
    ------
    TypeError
        If samples are not floating-point tensors.
    ValueError
        If there are no samples, samples or features are not finite, or the network is in training mode.
    """
    moments = FeatureMoments(*name_and_hash(net))
    for block in extract(data, net, batch_size, "data", moments.extent):
        moments.update(block)
    return moments


def check_same_network(p: FeatureMoments, q: FeatureMoments) -> None:
    """Refuse moments of the features of different networks."""
    if (p.extractor, p.hash) != (q.extractor, q.hash):
        raise ValueError(
            f"one set has features of {p.extractor} {p.hash[:6]}, the other of {q.extractor} {q.hash[:6]}; compute both "
            "with one network."
        )
