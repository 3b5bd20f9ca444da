"""The empirical distribution of a finite data set (`Empirical`), and posterior means given a noised data point (`pooled`)."""

from __future__ import annotations

__all__ = ["BLOCK", "Empirical", "pooled", "pooled_values"]

import math

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..precision import widened
from .draws import check_draws
from .embedding import WHOLE, Embedding
from .kernels import Transition
from .matrices import full_matrix
from .mixtures import Distribution, GaussianMixture, Map, Moments, check_event, check_single, moments_of
from .operators import Operator, Scale, as_operator, rows
from .units import Units

FEW = 16  # numbers of a datum, up to which distances are sums of squared differences
BLOCK = 2**24  # pairs of a state and a datum: 64 MB of distances in float32


class Empirical(Distribution):
    """The empirical distribution of a finite data set: equal point masses, ``p = (1/N) Σ_i δ(x − x_i)``.

    Its denoiser is what a perfectly trained network would return: a softmax over the data, computed in blocks so that
    memory stays bounded. It has no density; diffused, it has.

    Parameters
    ----------
    data
        ``(N, *event_shape)``, floating point; copied, so that a change of them later does not change the law.
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
        self.data, self.block = data.clone(), block  # what follows from them, such as moments, is remembered by models
        self.event_shape = data.shape[1:]

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` of the points, with replacement."""
        n = check_draws(n, generator)
        return self.data[torch.randint(len(self.data), (n,), generator=generator).to(self.data.device)]

    def observed(self, y: Tensor, C: Map, S: Map) -> tuple[Tensor, Tensor]:
        """Return ``E[x | y]`` and the score ``∇ log p(y)`` for ``y = C x + S z``; needs noise everywhere, ``S > 0``.

        Parameters
        ----------
        y
            ``(B, *event_shape)``.
        C, S
            Operators on the data, or numbers of shape ``()`` or ``(B,)``.

        Raises
        ------
        TypeError
            If `y` is not floating point.
        ValueError
            If there is no noise somewhere, so that there is no density, or shapes do not fit.
        """
        check_event(y, self.event_shape)
        return pooled(self.data, y, as_operator(C), as_operator(S), self.block)

    def in_units(self, units: Units) -> Empirical:
        """Return the law of the same data in other units."""
        return self if units.plain else Empirical(units.standardise(self.data), self.block)

    def moments(self) -> Moments:
        """Return the mean and covariance of the data: full up to 64 dimensions, its diagonal beyond."""
        return moments_of(self.data)

    def diffuse(self, transition: Transition, embedding: Embedding = WHOLE) -> GaussianMixture:
        """Return the law of ``Phi E x + R z``, `x` from the data, as a mixture over `event_shape`, or over ``(k,
        *event_shape)`` where `E` makes `k` channels of it.
        """
        check_single(transition)
        data, d, axes = self.data.cpu().double(), math.prod(self.event_shape), transition.Phi.axes
        weights = torch.full((len(data),), 1 / len(data), dtype=torch.float64)
        seen = embedding.seen_along(transition, axes)
        if seen is None:
            M, Sigma = embedding.seen_through(transition, d)
            means = (data.reshape(len(data), d) @ M.T).reshape(len(data), *embedding.shape(self.event_shape))
            return GaussianMixture(weights, means, Sigma.expand(len(data), -1, -1))
        v = seen[1]
        covariances = v[0].expand(len(data)) if v.shape[1] == 1 else v.reshape(1, *self.event_shape).expand(data.shape)
        return GaussianMixture(weights, transition.Phi(data), covariances, axes)


def pooled(data: Tensor, y: Tensor, C: Operator, S: Operator, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Return ``E[x | y]`` and the score ``∇ log p(y)`` for ``y = C x + S z``, where `x` is any row of the data with equal
    probability.

    Parameters
    ----------
    data, y
        ``(N, *)`` and ``(B, *)``; their values are not checked, so that nothing waits for an accelerator. In half precision, or
        under an autocast, means are formed in float32 all the same, and returned in the dtype of `y`.
    C, S
        Operators on the data.
    block
        Largest number of (query, datum) pairs held at once.

    Raises
    ------
    ValueError
        If there is no noise somewhere, so that there is no density.
    """
    noisy = (S.c > 0).all() if isinstance(S, Scale) else not S.log_abs_det().isneginf().any()
    if not noisy:
        raise ValueError("an Empirical law has no density at sigma = 0; ask at a time with sigma(t) > 0.")
    # A difference of distances loses half of its digits, and half precision has none to lose.
    if y.dtype.itemsize <= 2 or torch.is_autocast_enabled(y.device.type):
        with torch.autocast(y.device.type, enabled=False):
            mean, score = pooled(data, widened(y), C, S, block)
        return mean.to(y.dtype), score.to(y.dtype)
    data = data.to(y)
    if isinstance(C, Scale) and isinstance(S, Scale):
        return _pooled_alike(data, y, C.c, S.c, block)
    S_inv = S.inv()
    mean = _mean_seen(data, S_inv(y), S_inv @ C, block)
    return mean, S_inv.T(S_inv(C(mean) - y))


def pooled_values(values: Tensor, log_weights: Tensor, data: Tensor, y: Tensor, C: Operator, S: Operator) -> Tensor:
    """Return ``E[v | y]``, ``(B, *)``, for ``y = C x + S z``, where `x` is a row of the data, drawn by weights, and `v` its
    value.

    Parameters
    ----------
    values, log_weights
        ``(N, *)``, and logarithms of weights ``(N,)``, up to a constant.
    data, y, C, S
        As for `pooled`.
    """
    S_inv = S.inv()
    shares = (_log_weights(data, S_inv(y), S_inv @ C) + log_weights).softmax(1)
    return (shares @ values.flatten(1)).reshape(len(y), *values.shape[1:])


def _pooled_alike(data: Tensor, y: Tensor, c: Tensor, s: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return mean and score for ``y = c x + s z``, with the same numbers for all coordinates."""
    points, flat = data.reshape(len(data), -1), y.reshape(len(y), -1)
    c = rows(c, flat).expand(len(y), 1)
    s = s.to(flat, non_blocking=True).reshape(-1, 1).expand(len(y), 1)  # of the shape of c
    # In few dimensions squared distances are formed from differences: their expansion loses the digits that tell
    # close points apart at small noise. In many, close points are rare and a matrix product is faster.
    direct = flat.shape[1] <= FEW
    # With next to no signal the weights are equal: snr is 0. The least c is one whose inverse has a finite square.
    at = flat / c.clamp_min(torch.finfo(flat.dtype).tiny ** 0.4)
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


def _mean_seen(data: Tensor, u: Tensor, W: Operator, block: int) -> Tensor:
    """Return ``E[x | u]`` for ``u = W x + z``, with a map for all rows or one for each."""
    points, means = data.reshape(len(data), -1), []
    most = max(1, block // max(1, data.numel()))
    for first in range(0, len(u), most):
        part = slice(first, first + most)
        means.append(_log_weights(data, u[part], W if W.log_abs_det().numel() == 1 else W[part]).softmax(1) @ points)
    return torch.cat(means).reshape(u.shape)


def _log_weights(data: Tensor, u: Tensor, W: Operator) -> Tensor:
    """Return ``−½ |u_i − W_i x_j|²``, ``(B, N)``, up to a constant for each row; in few dimensions from differences."""
    w = W.along(W.axes)
    if w is None:
        d = data[0].numel()
        moved = torch.einsum("bij,nj->bni", full_matrix(W, d).reshape(-1, d, d).to(u), data.flatten(1))
        return -0.5 * (u.flatten(1)[:, None] - moved).square().sum(-1)
    w, (u, x) = w.to(u), (v if W.axes is None else W.axes(v) for v in (u, data))
    u, x = u.flatten(1), x.flatten(1)
    if x.shape[1] <= FEW:
        return -0.5 * (u[:, None] - w[:, None] * x).square().sum(-1)
    return (w * u) @ x.T - 0.5 * w.square().expand(len(u), x.shape[1]) @ x.square().T
