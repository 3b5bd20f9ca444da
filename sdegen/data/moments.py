"""Mean and covariance of data that come in parts, and parts of data that are larger than memory."""

from __future__ import annotations

__all__ = ["join_moments", "split_rows"]

from collections.abc import Iterable

from torch import Tensor

from ..laws.mixtures import Moments

NUMBERS = 2**20  # of a part: 8 MiB in float64


def join_moments(parts: Iterable[tuple[float, Moments]]) -> Moments:
    """Combine the means and covariances of the parts of a data set, and return the mean and covariance of the whole.

    A set's covariance is the mean of those of its parts and the covariance of their means.

    Parameters
    ----------
    parts
        Pairs of a part's number of data, or its share, and its moments; at least one.

    Examples
    --------
    >>> import torch
    >>> from sdegen.laws import moments_of
    >>> x = torch.arange(12.0, dtype=torch.float64).reshape(6, 2)
    >>> found, whole = join_moments((len(part), moments_of(part)) for part in x.split(4)), moments_of(x)
    >>> bool((found.covariance - whole.covariance).abs().max() < 1e-12)
    True
    """
    parts = iter(parts)
    n, (mean, covariance) = next(parts)
    for more, (other, spread) in parts:
        gap = (other - mean).flatten()
        own, new = n / (n + more), more / (n + more)
        mean = own * mean + new * other
        covariance = (
            own * covariance + new * spread + own * new * (gap.outer(gap) if covariance.ndim == 2 else gap.square())
        )
        n += more
    return Moments(mean, covariance)


def split_rows(x: Tensor) -> tuple[Tensor, ...]:
    """Return data ``(N, *)`` in parts of rows, each of a million numbers at most or of one row, so that computations on a part
    need little memory.

    Parameters
    ----------
    x
        The data, which may be mapped from a file.
    """
    return x.split(max(1, NUMBERS * len(x) // max(1, x.numel())))
