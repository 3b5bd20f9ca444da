"""Maximum mean discrepancy (MMD): an unbiased estimate of the squared distance between two distributions in a kernel's
Hilbert space.

In the limit of many samples it is zero only if the laws agree; in high dimension it takes very many.
"""

from __future__ import annotations

__all__ = ["mmd", "squared_mmd"]

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..arguments import check_arguments
from .distances import squared_distances
from .estimate import Estimate, as_pair

PAIRS = 2**19  # kernel values held at once: a cache full, and memory that does not grow with the samples


@check_arguments
def mmd(generated: Tensor, real: Tensor, *, bandwidths: Sequence[float] | None = None) -> Estimate:
    """Estimate the squared MMD, ``E k(x, x') + E k(y, y') − 2 E k(x, y)``, by its unbiased U-statistic.

    ``k(x, y) = Σ_b exp(−‖x − y‖² / 2 b²)``. As the estimate is unbiased, it is often negative when the laws agree. A. Gretton et
    al., *A kernel two-sample test*, 2012.

    The variance is the jackknife's over both samples, less its second-order (degenerate) part, which a jackknife counts twice
    (B. Efron and C. Stein, *The jackknife estimate of variance*, 1981), and at least that part itself. So the standard error is
    right for different laws, where it is of order ``n^-1/2``, and for equal laws, where it is of order ``1/n``. For equal laws it
    is on average some 20 % too large, and the value is not Gaussian but skewed upwards.

    Parameters
    ----------
    generated, real
        `x` and `y`: independent samples, ``(m, *)`` and ``(n, *)``, at least 3 of each.
    bandwidths
        The ``b`` of the kernels, in units of the data. By default ½, 1 and 2 times the median distance between points
        of `y` (at most 1,000 of them), so that values for different `y` can be compared only if bandwidths are given.

    Raises
    ------
    TypeError
        If the samples are not floating point.
    ValueError
        If a bandwidth is not positive, the dimensions differ, or the median distance is zero.

    Examples
    --------
    >>> x, y = torch.randn(2, 1000, 3, generator=torch.Generator().manual_seed(0))
    >>> value, stderr = mmd(x + 0.5, y)
    >>> value > 5 * stderr
    True
    """
    x, y = as_pair(generated, real, 3)
    if bandwidths is None:
        median = torch.pdist(y[:: math.ceil(len(y) / 1_000)]).median().item()
        if median == 0:
            raise ValueError(
                "the median distance between points of y is 0, since most of them coincide; pass bandwidths."
            )
        bandwidths = (0.5 * median, median, 2 * median)
    if len(bandwidths) == 0 or not all(0 < b < math.inf for b in bandwidths):
        raise ValueError(f"bandwidths = {tuple(bandwidths)}; expected at least one, all positive and finite.")
    centre = y.mean(0)  # distances are differences of squares: keep the squares small
    x, y = x - centre, y - centre

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        exponent = squared_distances(x, y, x.square().sum(1), y.square().sum(1)).mul_(-0.5)
        K = torch.zeros_like(exponent)
        for b in bandwidths:
            K += (exponent / b**2).exp_()
        return K

    return squared_mmd(x, y, kernel)


def squared_mmd(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
    """Return the U-statistic of the squared MMD and its standard error, for any kernel ``(B, d), (n, d) -> (B, n)``."""
    m, n = len(x), len(y)
    rows_xx, _, squares_xx = _gram_sums(x, x, kernel)
    rows_yy, _, squares_yy = _gram_sums(y, y, kernel)
    rows_xy, rows_yx, squares_xy = _gram_sums(x, y, kernel)
    value = rows_xx.sum() / (m * (m - 1)) + rows_yy.sum() / (n * (n - 1)) - 2 * rows_xy.sum() / (m * n)

    jackknife = _jackknife(rows_xx, rows_xy, n) + _jackknife(rows_yy, rows_yx, m)
    degenerate = (
        2 * _interaction(rows_xx, squares_xx) / (m * (m - 1))
        + 2 * _interaction(rows_yy, squares_yy) / (n * (n - 1))
        + 4 * _cross_interaction(rows_xy, rows_yx, squares_xy) / (m * n)
    )
    return Estimate(value.item(), math.sqrt(max(jackknife - degenerate, degenerate)))


def _gram_sums(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor, float]:
    """Return sums over rows, over columns, and of squares, of the Gram matrix; of `x` with itself, without its diagonal."""
    rows, columns, squares = torch.zeros_like(x[:, 0]), torch.zeros_like(y[:, 0]), 0.0
    for i in torch.arange(len(x), device=x.device).split(max(1, PAIRS // len(y))):
        K = kernel(x[i], y)
        if x is y:
            K[torch.arange(len(i), device=x.device), i] = 0.0
        rows[i] = K.sum(1)
        columns += K.sum(0)
        squares += K.square_().sum().item()
    return rows, columns, squares


def _jackknife(own: Tensor, cross: Tensor, n_other: int) -> float:
    """Return the jackknife variance from one sample, whose rows of the Gram matrices with itself and with the other sample (of
    `n_other` points) have the sums `own` and `cross`.
    """
    m = len(own)
    without = (own.sum() - 2 * own) / ((m - 1) * (m - 2)) - 2 * (cross.sum() - cross) / ((m - 1) * n_other)
    return ((m - 1) / m * (without - without.mean()).square().sum()).item()


def _interaction(rows: Tensor, squares: float) -> float:
    """Return the mean square of the doubly centred off-diagonal Gram matrix, ``K_ij − c_i − c_j``, from its row sums and its sum
    of squares; ``c_i`` is the mean of row `i` less half the mean of all.
    """
    m = len(rows)
    c = rows / (m - 1) - 0.5 * rows.sum() / (m * (m - 1))
    total = squares - 4 * (c * rows).sum() + 2 * (m - 2) * c.square().sum() + 2 * c.sum().square()
    return max(0.0, total.item()) / (m * (m - 1))


def _cross_interaction(rows: Tensor, columns: Tensor, squares: float) -> float:
    """Return the mean square of the doubly centred cross Gram matrix, ``K_ij − a_i − b_j + g``, with the means `a` of rows, `b`
    of columns and `g` of all.
    """
    m, n = len(rows), len(columns)
    total = squares - rows.square().sum() / n - columns.square().sum() / m + rows.sum().square() / (m * n)
    return max(0.0, total.item()) / (m * n)
