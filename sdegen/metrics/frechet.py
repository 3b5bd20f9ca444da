"""The Fréchet distance between Gaussians, and between the features of two sets of images, FID, from streaming moments.

FID is biased upwards by ``1/n``: compare numbers with the same counts, beside their floor (real against real), or use
`fid_infinity`.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ..laws.mixtures import Moments
from .estimate import as_points
from .features import Extractor, FeatureEstimate, ImageBatches, batches, identity


class FeatureMoments:
    """Mean and covariance of features that come a batch at a time, in memory that does not grow with their number.

    Batches are merged by the pairwise formulas of T. Chan, G. Golub and R. LeVeque, *Algorithms for computing the
    sample variance: analysis and recommendations*, 1983, in float64: nothing is a difference of large squares. Rows go
    to two halves in turn, which `fid_infinity` compares with the whole; a random sample of them is kept, from which
    standard errors are computed. For d features that is ``2 d² + keep d`` numbers.

    Objects of several processes are pickled, gathered (``torch.distributed.all_gather_object``) and merged.

    Parameters
    ----------
    extractor, hash
        Name of the feature network and hash of its weights; moments of different networks cannot be compared.
    keep
        Number of rows kept.

    Attributes
    ----------
    n
        Number of features so far.
    rows
        The rows kept, a uniform sample without replacement, ``(min(n, keep), d)``.

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

    def __init__(self, extractor: str = "features", hash: str = "", *, keep: int = 4_096) -> None:
        if keep < 2:
            raise ValueError(f"keep = {keep}; a standard error needs at least 2 rows.")
        self.extractor, self.hash, self.keep = extractor, hash, keep
        self.rows = torch.empty(0, 0)
        self._keys = torch.empty(0, dtype=torch.float64)  # each row's random key: the smallest are kept
        self._halves: list[_Sums] = []
        self._generator = torch.Generator().manual_seed(0)

    @property
    def n(self) -> int:
        return sum(half.n for half in self._halves)

    @property
    def mean(self) -> Tensor:
        """``(d,)``, float64."""
        return self._whole().mean

    @property
    def covariance(self) -> Tensor:
        """``(d, d)``, float64, with the divisor ``n − 1``."""
        return self._whole().covariance()

    def moments(self) -> Moments:
        """Mean and full covariance."""
        whole = self._whole()
        return Moments(whole.mean, whole.covariance())

    def halves(self) -> tuple[Moments, Moments]:
        """Moments of the two halves, which share no row."""
        first, second = (Moments(half.mean, half.covariance()) for half in self._halves)
        return first, second

    def update(self, features: Tensor) -> None:
        """Take in features ``(B, *)``, floating point; an empty batch changes nothing.

        Raises
        ------
        TypeError
            If they are not floating point.
        ValueError
            If they are not finite, or of another dimension than those before.
        """
        if features.ndim and len(features) == 0:
            return
        x = as_points(features, "features")
        if not self._halves:
            self._halves = [_Sums(x.shape[1], x.device) for _ in range(2)]
            self.rows = features.new_empty(0, x.shape[1], device=x.device)
        self._check_dimension(x.shape[1])
        x, n = x.to(self.rows.device), self.n
        for i, half in enumerate(self._halves):
            half.update(x[(i - n) % 2 :: 2])
        keys = torch.rand(len(x), dtype=torch.float64, generator=self._generator)
        self._retain(features.detach().reshape(len(x), -1).to(x.device), keys)

    def merge(self, other: FeatureMoments) -> None:
        """Take in what another object has seen.

        Raises
        ------
        ValueError
            If it is of another network or dimension.
        """
        check_same_network(self, other)
        if other.n == 0:
            return
        if not self._halves:
            d = other.rows.shape[1]
            self._halves = [_Sums(d, other.rows.device) for _ in range(2)]
            self.rows = other.rows[:0]
        self._check_dimension(other.rows.shape[1])
        mine = sorted(self._halves, key=lambda half: half.n)
        theirs = sorted(other._halves, key=lambda half: -half.n)
        for half, more in zip(mine, theirs):  # the larger to the smaller: halves stay halves
            half.merge(more.n, more.mean.to(half.mean.device), more.scatter.to(half.mean.device))
        self._retain(other.rows.to(self.rows.device), other._keys)

    def _whole(self) -> _Sums:
        if self.n < 2:
            raise ValueError(f"{self.n} features so far; a covariance needs at least 2.")
        first, second = self._halves
        whole = _Sums(len(first.mean), first.mean.device)
        for half in (first, second):
            whole.merge(half.n, half.mean, half.scatter)
        return whole

    def _check_dimension(self, d: int) -> None:
        if d != self.rows.shape[1]:
            raise ValueError(
                f"features have dimension {d}, those before {self.rows.shape[1]}; use one network for all."
            )

    def _retain(self, rows: Tensor, keys: Tensor) -> None:
        """Of the rows kept and the new ones, keep those with the smallest keys: every row is as likely as any other."""
        if len(self._keys) == self.keep:
            fresh = keys < self._keys.max()
            rows, keys = rows[fresh.to(rows.device)], keys[fresh]
        if len(keys):
            rows, keys = torch.cat([self.rows, rows]), torch.cat([self._keys, keys])
            order = keys.argsort()[: self.keep]
            self.rows, self._keys = rows[order.to(rows.device)], keys[order]

    def __repr__(self) -> str:
        return f"FeatureMoments({self.extractor} {self.hash[:6]}, n={self.n}, d={self.rows.shape[1]})"


class _Sums:
    """Number, mean and scatter ``Σ (x − mean)(x − mean)ᵀ`` of rows."""

    def __init__(self, d: int, device: torch.device) -> None:
        self.n = 0
        self.mean = torch.zeros(d, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(d, d, dtype=torch.float64, device=device)

    def update(self, x: Tensor) -> None:
        if len(x):
            mean = x.mean(0)
            x = x - mean
            self.merge(len(x), mean, x.mT @ x)

    def merge(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if n:
            total = self.n + n
            gap = mean - self.mean
            self.scatter += scatter
            self.scatter.addr_(gap, gap, alpha=self.n * n / total)
            self.mean += gap * (n / total)
            self.n = total

    def covariance(self) -> Tensor:
        return self.scatter / (self.n - 1)


def feature_moments(data: ImageBatches, net: Extractor | None = None, *, batch_size: int = 500) -> FeatureMoments:
    """Moments of the features of samples, a batch at a time.

    Parameters
    ----------
    data
        Samples ``(N, *)``, or an iterable of batches of them.
    net
        Feature network, a callable from ``(B, *)`` to ``(B, d)``; by default the samples are features themselves.
    batch_size
        Samples that go through the network at a time.

    Raises
    ------
    TypeError
        If samples are not floating-point tensors.
    ValueError
        If there are none, they or their features are not finite, or the network is in training mode.
    """
    moments = FeatureMoments(*identity(net))
    for block in batches(data, net, batch_size, "data"):
        moments.update(block)
    return moments


def check_same_network(p: FeatureMoments, q: FeatureMoments) -> None:
    """Refuse moments of the features of different networks."""
    if (p.extractor, p.hash) != (q.extractor, q.hash):
        raise ValueError(
            f"one set has features of {p.extractor} {p.hash[:6]}, the other of {q.extractor} {q.hash[:6]}; compute both "
            "with one network."
        )


def frechet_distance(p: Moments, q: Moments) -> float:
    """``‖m_p − m_q‖² + tr(C_p + C_q − 2 (C_p^½ C_q C_p^½)^½)``: the squared 2-Wasserstein distance of two Gaussians.

    The trace of the root is ``Σ √lambda_i(Aᵀ C_q A)`` for any A with ``A Aᵀ = C_p``: a Cholesky factor and the
    eigenvalues of one symmetric matrix. For a singular ``C_p``, A comes from its eigenvectors. Rounding leaves an error
    of about 1e-8 of the largest variance for each direction in which a covariance vanishes, 1e-15 for others.

    D. Dowson and B. Landau, *The Fréchet distance between multivariate normal distributions*, 1982.

    Parameters
    ----------
    p, q
        Means ``(*)`` of one shape; covariances full, ``(d, d)``, or diagonal, ``(d,)``.

    Raises
    ------
    ValueError
        If the shapes do not fit, or something is not finite.

    Examples
    --------
    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> round(frechet_distance(Moments(torch.zeros(2), eye), Moments(torch.ones(2), 4 * eye)), 12)
    4.0
    """
    (m_p, C_p), (m_q, C_q) = _full(p, "p"), _full(q, "q")
    if m_p.shape != m_q.shape:
        raise ValueError(f"p is of dimension {len(m_p)} and q of {len(m_q)}; compare laws of one space.")
    A, triangular = _root(C_p)
    return _distance(m_p, C_p, m_q, C_q, torch.linalg.eigvalsh(_congruent(A, C_q, triangular)))


def _distance(m_p: Tensor, C_p: Tensor, m_q: Tensor, C_q: Tensor, eigenvalues: Tensor) -> float:
    # The sum of diagonals is rounded once more than each: a distance of zero may come out at −1e-13.
    value = (m_p - m_q).square().sum() + (C_p.diagonal() + C_q.diagonal()).sum()
    return max(0.0, (value - 2 * eigenvalues.clamp(min=0).sqrt().sum()).item())


def _full(law: Moments, name: str) -> tuple[Tensor, Tensor]:
    mean, C = law.mean.detach().double().reshape(-1), law.covariance.detach().double()
    if C.shape == mean.shape:
        C = C.diag()
    if C.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{name} has a mean of {len(mean)} values and a covariance of shape {tuple(law.covariance.shape)}; expected "
            "(d, d) or (d,)."
        )
    if not (mean.isfinite().all() and C.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite values.")
    return mean, C


def _root(C: Tensor) -> tuple[Tensor, bool]:
    """A with ``A Aᵀ = C``, and whether it is a Cholesky factor; else its columns are scaled eigenvectors."""
    A, failed = torch.linalg.cholesky_ex(C)
    pivots = A.diagonal().square()
    floor = len(C) * torch.finfo(C.dtype).eps
    if failed.item() == 0 and pivots.min() > floor * pivots.max():
        return A, True
    w, V = torch.linalg.eigh(C)
    some = w > floor * w[-1]
    return V[:, some] * w[some].sqrt(), False


def _congruent(A: Tensor, C: Tensor, triangular: bool, panel: int = 128) -> Tensor:
    """The lower triangle of ``Aᵀ C A``, which is all that symmetric eigenvalues are formed of; blocks above it are zero.

    A lower triangular A is multiplied panel by panel, without its zeros: well under half of the operations.
    """
    if not triangular:
        return A.mT @ C @ A
    out = torch.zeros_like(A)
    for j in range(0, len(A), panel):
        product = C[:, j:] @ A[j:, j : j + panel]
        for i in range(j, len(A), panel):
            out[i : i + panel, j : j + panel] = A[i:, i : i + panel].mT @ product[i:]
    return out


def fid(
    generated: ImageBatches | FeatureMoments,
    real: ImageBatches | FeatureMoments,
    net: Extractor | None = None,
    *,
    batch_size: int = 500,
) -> FeatureEstimate:
    """Fréchet distance between the features of two sets of samples, with its standard error.

    `frechet_distance` of the sample means and covariances (divisor ``n − 1``). M. Heusel et al., *GANs trained by a
    two time-scale update rule converge to a local Nash equilibrium*, 2017, arXiv:1706.08500, who use Inception.

    It is biased upwards. For equal Gaussian laws with eigenvalues ``l`` of the covariance the floor is
    ``(1/n + 1/m) (Σ_i l_i + ½ Σ_ij (1 + [i = j]) l_i l_j / (l_i + l_j))``: about ``(d + 5) / 4`` times ``tr C`` times
    ``1/n + 1/m`` for equal ones. The standard error does not contain the bias; `fid_infinity` takes most of it off.

    The standard error is the delta method's. The derivative of the distance in the law of `x` (T. Rippl, A. Munk and A.
    Sturm, *Limit laws of the empirical Wasserstein distance: Gaussian distributions*, 2016, arXiv:1507.04090) is the
    influence of one sample, ``2 uᵀ(m_x − m_y) + uᵀ(1 − T) u`` with ``u = x − m_x`` and T the optimal map from one
    Gaussian to the other; its variance over the rows that `FeatureMoments` keeps, over n, plus the like for `y`, is the
    variance of the distance, whatever the law of the features. It holds for laws that differ by more than the floor; at
    the floor, where the first derivative vanishes, it is too large.

    Parameters
    ----------
    generated, real
        Samples `x` and `y`, ``(n, *)`` and ``(m, *)``, iterables of batches of them, or `FeatureMoments` of them.
    net
        Feature network, a callable from ``(B, *)`` to ``(B, d)``: a shipped one, ``features("mnist-cnn-v1")``, or
        any other. By default the samples are features themselves. Not used for what is `FeatureMoments` already.
    batch_size
        Samples that go through the network at a time.

    Raises
    ------
    TypeError
        If samples are not floating-point tensors.
    ValueError
        If there are fewer than 2, they or their features are not finite, or the features are of different networks.

    Warns
    -----
    UserWarning
        If a set has no more samples than features: its covariance is singular, and the distance mostly bias.

    Examples
    --------
    >>> x, y = torch.randn(2, 4_000, 8, generator=torch.Generator().manual_seed(0))
    >>> value, stderr = fid(x + 0.5, y)
    >>> abs(value - 8 * 0.5**2) < 3 * stderr < 0.4
    True
    """
    p, q = _pair(generated, real, net, batch_size)
    _warn(p, q, 1)
    value, stderr = _with_error(p, q)
    return FeatureEstimate(value, stderr, "FID", p.extractor, p.hash, (p.n, q.n))


def fid_infinity(
    generated: ImageBatches | FeatureMoments,
    real: ImageBatches | FeatureMoments,
    net: Extractor | None = None,
    *,
    batch_size: int = 500,
) -> FeatureEstimate:
    """FID extrapolated to infinitely many samples: twice that of all samples less the mean of those of their halves.

    The bias of FID is ``B_x/n + B_y/m`` up to higher orders, twice as much for halves, so that it cancels. The halves
    share no sample and make up the whole, hence errors of first order are those of `fid` itself: extrapolation costs
    no variance away from the floor (a line through FIDs of random subsets, as in M. Chong and D. Forsyth, *Effectively
    unbiased FID and Inception Score and where to find them*, 2020, arXiv:1911.07023, does). The value may be
    negative where the laws agree.

    Parameters
    ----------
    generated, real, net, batch_size
        As for `fid`.

    Raises
    ------
    TypeError
        As for `fid`.
    ValueError
        As for `fid`, and if a set has fewer than 4 samples.

    Warns
    -----
    UserWarning
        If half of a set has no more samples than features: its covariance is singular, and the distance mostly bias.

    Examples
    --------
    >>> x, y = torch.randn(2, 2_000, 64, generator=torch.Generator().manual_seed(0))
    >>> fid(x, y).value > 1 and abs(fid_infinity(x, y).value) < 0.15  # one law: the floor is 1.1
    True
    """
    p, q = _pair(generated, real, net, batch_size)
    if min(p.n, q.n) < 4:
        raise ValueError(f"{p.n} and {q.n} samples; halves need at least 2 each.")
    _warn(p, q, 2)
    value, stderr = _with_error(p, q)
    halves = [frechet_distance(a, b) for a in p.halves() for b in q.halves()]
    return FeatureEstimate(2 * value - math.fsum(halves) / 4, stderr, "FID∞", p.extractor, p.hash, (p.n, q.n))


def _pair(
    generated: ImageBatches | FeatureMoments,
    real: ImageBatches | FeatureMoments,
    net: Extractor | None,
    batch_size: int,
) -> tuple[FeatureMoments, FeatureMoments]:
    p, q = (
        v if isinstance(v, FeatureMoments) else feature_moments(v, net, batch_size=batch_size)
        for v in (generated, real)
    )
    check_same_network(p, q)
    if p.rows.shape[1] != q.rows.shape[1]:
        raise ValueError(
            f"generated has features of dimension {p.rows.shape[1]}, real of {q.rows.shape[1]}; pass samples of one space."
        )
    return p, q


def _warn(p: FeatureMoments, q: FeatureMoments, parts: int) -> None:
    n, d = min(p.n, q.n) // parts, p.rows.shape[1]
    if n <= d:
        warnings.warn(
            f"{n:,} samples of {d:,} features: the covariance is singular and the distance mostly bias; draw more, and "
            "compare only with numbers of the same counts.",
            UserWarning,
            stacklevel=3,
        )


def _with_error(p: FeatureMoments, q: FeatureMoments) -> tuple[float, float]:
    """The distance and its standard error by the delta method.

    With ``A Aᵀ = C_p``, ``B A = 1`` and ``Aᵀ C_q A = U diag(s) Uᵀ``, the optimal maps are ``Bᵀ U s^½ Uᵀ B`` from p to q,
    and ``A U s^-½ Uᵀ Aᵀ`` back.
    """
    (m_p, C_p), (m_q, C_q) = p.moments(), q.moments()
    m_q, C_q = m_q.to(m_p.device), C_q.to(m_p.device)
    A, triangular = _root(C_p)
    s, U = torch.linalg.eigh(_congruent(A, C_q, triangular))
    value = _distance(m_p, C_p, m_q, C_q, s)
    shift = m_p - m_q

    u = p.rows.to(C_p) - m_p
    # The columns of a root that is no triangle are orthogonal, so its transpose, rescaled, is its inverse.
    c = torch.linalg.solve_triangular(A, u.mT, upper=False).mT if triangular else u @ (A / A.square().sum(0))
    influence = 2 * u @ shift + u.square().sum(1) - ((c @ U).square() @ s.clamp(min=0).sqrt())
    variance = influence.var() / p.n

    v = q.rows.to(C_p) - m_q
    some = s > len(C_p) * torch.finfo(s.dtype).eps * s.max()
    influence = -2 * v @ shift + v.square().sum(1) - ((v @ (A @ U[:, some])).square() @ s[some].rsqrt())
    variance += influence.var() / q.n
    return value, math.sqrt(variance.item())
