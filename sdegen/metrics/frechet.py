"""The Fréchet distance between Gaussians, and the Fréchet inception distance (FID) between features of two sets of images.

FID is biased upwards by ``1/n``: compare numbers with the same counts, beside their floor (real against real), or use
`fid_infinity`.
"""

from __future__ import annotations

__all__ = ["fid", "fid_infinity", "frechet_distance"]

import math

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.mixtures import Moments
from ..warning import warn_caller
from .extraction import Extractor, FeatureEstimate, ImageBatches, warn_of_ranges
from .streaming import FeatureMoments, check_same_network, feature_moments


@check_arguments
def frechet_distance(p: Moments, q: Moments) -> float:
    """Return ``‖m_p − m_q‖² + tr(C_p + C_q − 2 (C_p^½ C_q C_p^½)^½)``: the squared 2-Wasserstein distance of two
    Gaussians.

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
        If the shapes do not fit, or a mean or covariance is not finite.

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
    return _distance_from_eigenvalues(m_p, C_p, m_q, C_q, torch.linalg.eigvalsh(_congruent(A, C_q, triangular)))


def _distance_from_eigenvalues(m_p: Tensor, C_p: Tensor, m_q: Tensor, C_q: Tensor, eigenvalues: Tensor) -> float:
    """Return the Fréchet distance, given both moments and the eigenvalues of ``Aᵀ C_q A`` with ``A Aᵀ = C_p``."""
    # The sum of diagonals is rounded once more than each: a distance of zero may come out at −1e-13.
    value = (m_p - m_q).square().sum() + (C_p.diagonal() + C_q.diagonal()).sum()
    return max(0.0, (value - 2 * eigenvalues.clamp(min=0).sqrt().sum()).item())


def _full(law: Moments, name: str) -> tuple[Tensor, Tensor]:
    """Return the mean ``(d,)`` and the full covariance of moments, float64; refuse what cannot be the moments of a law."""
    mean, C = law.mean.detach().double().reshape(-1), law.covariance.detach().double()
    if C.shape == mean.shape:
        C = C.diag()
    if C.shape != (len(mean), len(mean)):
        raise ValueError(
            f"{name} has a mean of {len(mean)} values and a covariance of shape {tuple(law.covariance.shape)}; expected "
            "(d, d) or (d,)."
        )
    size = _largest(C)
    if not (math.isfinite(size) and mean.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinite values; compute its moments from finite features.")
    if _largest(C - C.mT) > 1e-6 * size or C.diagonal().min() < -1e-9 * size:
        raise ValueError(
            f"{name} has a covariance that is not symmetric, or a negative variance; expected one of moments_of(x)."
        )
    return mean, C


def _largest(C: Tensor) -> float:
    """Return the largest absolute value; NaN if there is a NaN."""
    return max(map(abs, torch.stack(torch.aminmax(C)).tolist())) if len(C) else 0.0


def _root(C: Tensor) -> tuple[Tensor, bool]:
    """Return A with ``A Aᵀ = C``, and whether it is a Cholesky factor; else its columns are scaled eigenvectors."""
    A, failed = torch.linalg.cholesky_ex(C)
    pivots = A.diagonal().square()
    floor = len(C) * torch.finfo(C.dtype).eps
    if failed.item() == 0 and pivots.min() > floor * pivots.max():
        return A, True
    w, V = torch.linalg.eigh(C)
    some = w > floor * w[-1]
    return V[:, some] * w[some].sqrt(), False


def _congruent(A: Tensor, C: Tensor, triangular: bool, panel: int = 128) -> Tensor:
    """Return ``Aᵀ C A``; for a lower triangular A its lower triangle alone, which is all that `eigh` and `eigvalsh` read.

    A triangle is multiplied panel by panel, without its zeros: well under half of the operations.
    """
    if not triangular:
        return A.mT @ C @ A
    out = torch.zeros_like(A)
    for j in range(0, len(A), panel):
        product = C[:, j:] @ A[j:, j : j + panel]
        for i in range(j, len(A), panel):
            out[i : i + panel, j : j + panel] = A[i:, i : i + panel].mT @ product[i:]
    return out


@check_arguments
def fid(
    generated: ImageBatches | FeatureMoments,
    real: ImageBatches | FeatureMoments,
    net: Extractor | None = None,
    *,
    batch_size: int = 500,
) -> FeatureEstimate:
    """Compute the Fréchet distance between the features of two sets of samples, and return it with its standard error.

    It is the `frechet_distance` of the sample means and covariances (divisor ``n − 1``). M. Heusel et al., *GANs trained by a
    two time-scale update rule converge to a local Nash equilibrium*, 2017, arXiv:1706.08500, who use Inception.

    The distance is biased upwards. For equal Gaussian laws with eigenvalues ``l`` of the covariance the floor is
    ``(1/n + 1/m) (Σ_i l_i + ½ Σ_ij (1 + [i = j]) l_i l_j / (l_i + l_j))``: about ``(d + 5) / 4`` times ``tr C`` times
    ``1/n + 1/m`` if the eigenvalues are equal. The standard error does not contain the bias; `fid_infinity` takes most of it off.

    The standard error is the delta method's. The derivative of the distance in the law of `x` (T. Rippl, A. Munk and A.
    Sturm, *Limit laws of the empirical Wasserstein distance: Gaussian distributions*, 2016, arXiv:1507.04090) is the
    influence of one sample, ``2 uᵀ(m_x − m_y) + uᵀ(1 − T) u`` with ``u = x − m_x`` and T the optimal map from one
    Gaussian to the other. The variance of the distance, whatever the law of the features, is the variance of this influence over
    the rows that `FeatureMoments` keeps, divided by n, plus the same for `y`. It holds for laws that differ by more than the
    floor; at the floor, where the first derivative vanishes, it is too large.

    Parameters
    ----------
    generated, real
        Samples `x` and `y`, ``(n, *)`` and ``(m, *)``, iterables of batches of them, images with their scaling
        (``images.scaled(0, 1)``), or `FeatureMoments` of any of these.
    net
        Feature network, a callable from ``(B, *)`` to ``(B, d)``: a shipped one, ``features("mnist-cnn-v1")``, or
        any other. By default the samples are features themselves. Not used for `FeatureMoments`.
    batch_size
        Samples that go through the network at a time.

    Raises
    ------
    TypeError
        If samples are not floating-point tensors.
    ValueError
        If there are fewer than 2 samples, samples or features are not finite, or the features are of different networks.

    Warns
    -----
    UserWarning
        If a set has no more samples than features, so that its covariance is singular and the distance mostly bias; or if
        generated and real images seem to be scaled differently.

    Examples
    --------
    >>> x, y = torch.randn(2, 4_000, 8, generator=torch.Generator().manual_seed(0))
    >>> value, stderr = fid(x + 0.5, y)
    >>> abs(value - 8 * 0.5**2) < 3 * stderr < 0.4
    True
    """
    p, q = _moments_of_both(generated, real, net, batch_size)
    _warn_if_singular(p, q, 1)
    value, stderr = _distance_with_error(p, q)
    return FeatureEstimate(value, stderr, "FID", p.extractor, p.hash, (p.n, q.n))


@check_arguments
def fid_infinity(
    generated: ImageBatches | FeatureMoments,
    real: ImageBatches | FeatureMoments,
    net: Extractor | None = None,
    *,
    batch_size: int = 500,
) -> FeatureEstimate:
    """Extrapolate the FID to infinitely many samples, from the FID of all samples and of their halves, and return it.

    The bias of FID is ``B_x/n + B_y/m`` up to higher orders, and twice as much for halves, so that it cancels. The halves share
    no sample and make up the whole, so errors of first order are those of `fid` itself: away from the floor extrapolation costs
    no variance. (A line through FIDs of random subsets does, as in M. Chong and D. Forsyth, *Effectively unbiased FID and
    Inception Score and where to find them*, 2020, arXiv:1911.07023.) The value may be negative where the laws agree.

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
    p, q = _moments_of_both(generated, real, net, batch_size)
    if min(p.n, q.n) < 4:
        raise ValueError(f"{p.n} and {q.n} samples; each half of both needs 2: give at least 4 of either.")
    _warn_if_singular(p, q, 2)
    value, stderr = _distance_with_error(p, q)
    halves = [frechet_distance(a, b) for a in p.halves() for b in q.halves()]
    return FeatureEstimate(2 * value - math.fsum(halves) / 4, stderr, "FID∞", p.extractor, p.hash, (p.n, q.n))


def _moments_of_both(
    generated: ImageBatches | FeatureMoments,
    real: ImageBatches | FeatureMoments,
    net: Extractor | None,
    batch_size: int,
) -> tuple[FeatureMoments, FeatureMoments]:
    """Return the moments of the features of both sets; refuse those of two networks, and warn of two ranges of images."""
    p, q = (
        v if isinstance(v, FeatureMoments) else feature_moments(v, net, batch_size=batch_size)
        for v in (generated, real)
    )
    check_same_network(p, q)
    if p.rows.shape[1] != q.rows.shape[1]:
        raise ValueError(
            f"generated has features of dimension {p.rows.shape[1]}, real of {q.rows.shape[1]}; pass samples of one space."
        )
    warn_of_ranges(p.extent, q.extent)
    return p, q


def _warn_if_singular(p: FeatureMoments, q: FeatureMoments, parts: int) -> None:
    """Warn if a set, or one of the `parts` that it is split into, has no more samples than features."""
    n, d = min(p.n, q.n) // parts, p.rows.shape[1]
    if n <= d:
        warn_caller(
            f"{n:,} samples of {d:,} features: the covariance is singular and the distance mostly bias; draw more, and "
            "compare only with numbers of the same counts."
        )


def _distance_with_error(p: FeatureMoments, q: FeatureMoments) -> tuple[float, float]:
    """Return the distance and its standard error by the delta method (see `fid`).

    With ``A Aᵀ = C_p``, ``B A = 1`` and ``Aᵀ C_q A = U diag(s) Uᵀ``, the optimal map from p to q is ``T = Bᵀ U s^½ Uᵀ B``, and
    ``A U s^-½ Uᵀ Aᵀ`` is that from q to p, so that ``uᵀ T u`` needs no matrix root for either.
    """
    (m_p, C_p), (m_q, C_q) = p.moments(), q.moments()
    m_q, C_q = m_q.to(m_p.device), C_q.to(m_p.device)
    A, triangular = _root(C_p)
    s, U = torch.linalg.eigh(_congruent(A, C_q, triangular))
    value = _distance_from_eigenvalues(m_p, C_p, m_q, C_q, s)
    shift = m_p - m_q

    u = p.rows.to(C_p) - m_p
    # The rows B u. The columns of a root that is no triangle are orthogonal, so its transpose, rescaled, is its inverse.
    Bu = torch.linalg.solve_triangular(A, u.mT, upper=False).mT if triangular else u @ (A / A.square().sum(0))
    influence = 2 * u @ shift + u.square().sum(1) - ((Bu @ U).square() @ s.clamp(min=0).sqrt())
    variance = influence.var() / p.n

    v = q.rows.to(C_p) - m_q
    some = s > len(C_p) * torch.finfo(s.dtype).eps * (s.max() if len(s) else 0.0)  # no s where all samples are one
    influence = -2 * v @ shift + v.square().sum(1) - ((v @ (A @ U[:, some])).square() @ s[some].rsqrt())
    variance += influence.var() / q.n
    return value, math.sqrt(variance.item())
