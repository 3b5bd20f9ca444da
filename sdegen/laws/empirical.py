"""The empirical distribution of a finite data set (`Empirical`), and posterior means given a noised data point (`pooled`)."""

from __future__ import annotations

__all__ = ["BLOCK", "Empirical", "pooled"]

import math

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..precision import widened
from .draws import check_draws
from .kernels import Transition
from .mixtures import Distribution, GaussianMixture, Moments, check_event, moments_of, seen_through
from .operators import rows
from .units import Units

BLOCK = 2**24  # pairs of a state and a datum: 64 MB of distances in float32


class Empirical(Distribution):
    """The empirical distribution of a finite data set: equal point masses, ``p = (1/N) Σ_i δ(x − x_i)``.

    Its denoiser is what a perfectly trained network would return: a softmax over the data, computed in blocks so that
    memory stays bounded. It has no density; diffused, it has.

    Parameters
    ----------
    data
        ``(N, *event_shape)``, floating point.
    block
        Largest number of (query, datum) pairs held at once.

    Raises
    ------
    TypeError
        If `data` is not floating point.
    ValueError
        If `data` is empty or not finite.
    """

    @check_arguments
    def __init__(self, data: Tensor, block: int = BLOCK) -> None:
        check_tensor("data", data, finite=False), check_count("block", block)
        if data.ndim == 0 or len(data) == 0 or not data.isfinite().all():
            raise ValueError(
                f"data of shape {tuple(data.shape)} is empty or holds NaN or infinite values; give at least one row, all finite."
            )
        self.data, self.block = data, block
        self.event_shape = data.shape[1:]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` of the points, with replacement."""
        n = check_draws(n, generator)
        return self.data[torch.randint(len(self.data), (n,), generator=generator).to(self.data.device)]

    def observed(self, y: Tensor, c: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``E[x | y]`` and the score ``∇ log p(y)`` for ``y = c x + s z``; needs ``s > 0``.

        Parameters
        ----------
        y
            ``(B, *event_shape)``.
        c, s
            ``()`` or ``(B,)``.

        Raises
        ------
        TypeError
            If `y` is not floating point.
        ValueError
            If an `s` is not positive, where there is no density, or shapes are others.
        """
        check_event(y, self.event_shape)
        return pooled(self.data, y, c, s, self.block)

    def in_units(self, units: Units) -> Empirical:
        """Return the law of the same data in other units."""
        return self if units.plain else Empirical(units.standardise(self.data), self.block)

    def moments(self) -> Moments:
        """Return the mean and covariance of the data: full up to 64 dimensions, its diagonal beyond."""
        return moments_of(self.data)

    def diffuse(self, transition: Transition, e: Tensor) -> GaussianMixture:
        """Return the law of ``Phi e x + R z``, `x` from the data, as a mixture over `event_shape`, or over ``(k,
        *event_shape)`` if `e` has `k` > 1 channels.
        """
        p, Sigma = seen_through(transition, e)
        data, d = self.data.cpu().double(), math.prod(self.event_shape)
        weights = torch.full((len(data),), 1 / len(data), dtype=torch.float64)
        if len(e) == 1:
            return GaussianMixture(weights, p * data, Sigma[0, 0].expand(len(data)))
        means = torch.einsum("i,kd->kid", p, data.reshape(len(data), d)).reshape(-1, len(p), *self.event_shape)
        full = torch.einsum("ij,ab->iajb", Sigma, torch.eye(d, dtype=torch.float64)).reshape(len(p) * d, len(p) * d)
        return GaussianMixture(weights, means, full.expand(len(data), -1, -1))


def pooled(data: Tensor, y: Tensor, c: Tensor, s: Tensor, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Return ``E[x | y]`` and the score ``∇ log p(y)`` for ``y = c x + s z``, where `x` is any row of the data with equal
    probability.

    Parameters
    ----------
    data, y
        ``(N, *)`` and ``(B, *)``; what they hold is not looked at, so that nothing waits for an accelerator. Of half precision,
        or under an autocast, means are formed in float32 all the same, and returned in the dtype of `y`.
    c, s
        ``()`` or ``(B,)``.
    block
        Largest number of (query, datum) pairs held at once.

    Raises
    ------
    ValueError
        If an `s` is not positive, where there is no density.
    """
    if (s <= 0).any():
        raise ValueError("an Empirical law has no density at sigma = 0; ask at a time with sigma(t) > 0.")
    if y.dtype.itemsize <= 2 or torch.is_autocast_enabled(
        y.device.type
    ):  # half the digits are lost in a difference of distances
        with torch.autocast(y.device.type, enabled=False):
            mean, score = pooled(data, widened(y), c, s, block)
        return mean.to(y.dtype), score.to(y.dtype)
    points, flat = data.to(y).reshape(len(data), -1), y.reshape(len(y), -1)
    c = rows(c, flat).expand(len(y), 1)
    s = s.to(flat, non_blocking=True).reshape(-1, 1).expand(len(y), 1)  # of the shape of c
    # In few dimensions squared distances are formed from differences: their expansion loses the digits that tell
    # close points apart at small noise. In many, close points are rare and a matrix product is faster.
    direct = flat.shape[1] <= 16
    at = flat / c.clamp_min(
        torch.finfo(flat.dtype).tiny ** 0.4
    )  # with next to no signal the weights are equal: snr is 0
    norms = 0.5 * points.square().sum(1)
    most = max(1, block // len(points))
    means = []
    for near, ratio in zip(at.split(most), (c / s).square().split(most), strict=True):
        if direct:
            half = 0.5 * torch.cdist(near, points, compute_mode="donot_use_mm_for_euclid_dist").square()
        else:
            half = torch.addmm(norms, near, points.T, alpha=-1)
        means.append((-ratio * half).softmax(1) @ points)
    mean = torch.cat(means)
    return mean.reshape(y.shape), ((c * mean - flat) / s.square()).reshape(y.shape)
