"""Distributions with known density, score and denoiser: their interface and Gaussian mixtures; finite data are in `empirical`.

They are the exact oracles of the library. All can be *diffused*: seen through any linear Gaussian kernel they are
again a mixture, and `observed` gives the mean of the data, and the score, once ``y = C x + S z`` has been seen. Parameters
are float64 and follow the dtype and device of what they are asked about. Nothing here knows about processes or time.
"""

from __future__ import annotations

__all__ = ["Distribution", "GaussianMixture", "Moments", "check_event", "check_single", "moments_of"]

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_tensor
from ..fixed import Fixed
from ..precision import widened
from ..show import show_call
from ..transforms import check_constant
from .bases import Basis
from .covariances import Covariances
from .draws import check_draws
from .embedding import WHOLE, Embedding
from .kernels import Transition
from .operators import Operator, as_operator
from .units import Units

Map = Operator | Tensor | float
ROUNDING = 64 * torch.finfo(torch.float64).eps  # of a mean: the standard deviation of a constant comes out as large


@asked_as("moments, such as moments_of(data)")
class Moments(NamedTuple):
    """The mean of the data, of the shape of a datum, and its covariance: ``(d, d)`` full, or ``(d,)`` diagonal, over the
    flattened datum.

    Attributes
    ----------
    mean
        ``(*event_shape)``, with `d` coordinates; of laws under conditions that differ from sample to sample, with a row for each.
    covariance
        ``(d, d)``, or the variances of the coordinates, ``(d,)``.
    """

    mean: Tensor
    covariance: Tensor

    @property
    def event_shape(self) -> torch.Size:
        """The shape of a datum."""
        return self.mean.shape if self.mean.numel() == self.covariance.shape[-1] else self.mean.shape[1:]

    def __repr__(self) -> str:
        return show_call(self)

    def variance(self) -> Tensor:
        """Return the mean variance of a coordinate, ``tr(C) / d``, float64."""
        return self.variances().mean()

    def variances(self) -> Tensor:
        """Return the variances of the coordinates, ``(d,)``, float64."""
        return (self.covariance.diagonal() if self.covariance.ndim == 2 else self.covariance).double()

    def units(self) -> Units:
        """Return the units in which data of these moments have mean 0 and standard deviation 1.

        Vectors have units for each coordinate; data of other shapes, whose coordinates differ in place and not in kind, have one
        unit for all. A constant coordinate, whose variance is no more than rounding, takes the root mean square of the others'
        standard deviations; constant data take 1.
        """
        mean, variances = self.mean.double(), self.variances()
        std = variances.sqrt()
        varies = std > ROUNDING * mean.flatten().abs()
        usual = variances[varies].mean().sqrt() if varies.any() else torch.ones((), dtype=torch.float64)
        if mean.ndim == 1:
            return Units(mean, torch.where(varies, std, usual))
        return Units(mean.mean(), variances.mean().sqrt() if varies.any() else usual)

    def in_units(self, units: Units) -> Moments:
        """Return the moments of the same data in other units."""
        if units.plain:
            return self
        C, std = self.covariance.double(), units.std.expand(self.event_shape).flatten()
        C = C / torch.outer(std, std) if C.ndim == 2 else C / std.square()
        return Moments(units.standardise(self.mean.double()), C)


@asked_as("a law in closed form, such as data.gaussian_ring()")
class Distribution(Fixed, ABC):
    """The interface of a distribution with closed forms: samples, moments, denoiser, score, and its law after diffusion."""

    event_shape: torch.Size

    __repr__ = show_call

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points, ``(n, *event_shape)``, float64."""

    @abstractmethod
    def observed(self, y: Tensor, C: Map, S: Map) -> tuple[Tensor, Tensor]:
        """Return ``E[x | y]`` and the score ``∇ log p(y)`` for ``y = C x + S z``, with operators `C` and `S` on the data, or
        numbers of shape ``()`` or ``(B,)``.
        """

    @abstractmethod
    def moments(self) -> Moments:
        """Return the mean and covariance of the distribution."""

    @abstractmethod
    def diffuse(self, transition: Transition, embedding: Embedding = WHOLE) -> GaussianMixture:
        """Return the law of ``Phi E x + R z``, `x` from this distribution, as a mixture over states; `E` makes states of data."""

    def in_units(self, units: Units) -> Distribution:
        """Return the law of the same data in other units, of ``(x − mean) / std``; define it for processes that have units.

        Raises
        ------
        NotImplementedError
            If it is not defined, and the units are others than the data's own.
        """
        if units.plain:
            return self
        raise NotImplementedError(
            f"{type(self).__name__} does not say what its law is in other units, and the process has some; define "
            "in_units(units), the law of units.standardise(x)."
        )


@asked_as("a GaussianMixture, such as data.gaussian_ring()")
class GaussianMixture(Distribution):
    """A mixture of Gaussians, ``p(x) = Σ_k w_k N(x; m_k, C_k)``.

    Parameters
    ----------
    weights
        ``(K,)``, positive, summing to one.
    means
        ``(K, *event_shape)``.
    covariances
        Isotropic variances ``(K,)``, diagonals of the shape of `means`, or full matrices ``(K, d, d)`` over the
        flattened event; positive definite.
    basis
        The orthonormal basis along whose axes diagonals lie; by default that of the data's own numbers.

    Raises
    ------
    TypeError
        If a parameter is not floating point.
    ValueError
        If shapes disagree, weights do not sum to one, or a covariance is not positive definite.

    Examples
    --------
    >>> standard = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    >>> round(standard.log_prob(torch.zeros(1, 2)).item(), 6)  # -log(2 pi)
    -1.837877
    """

    @check_arguments
    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, basis: Basis | None = None) -> None:
        for name, value in (("weights", weights), ("means", means), ("covariances", covariances)):
            check_tensor(name, check_constant(name, value))
        weights, means, covariances = (v.detach().cpu().double().clone() for v in (weights, means, covariances))
        if weights.ndim != 1 or means.ndim < 1 or len(means) != len(weights) or len(weights) == 0:
            raise ValueError(
                f"weights has shape {tuple(weights.shape)} and means {tuple(means.shape)}; "
                "expected (K,) and (K, *event_shape) with the same K >= 1."
            )
        if (weights <= 0).any() or abs(weights.sum().item() - 1) > 1e-6:
            raise ValueError(
                f"weights sum to {weights.sum().item():.6g} with a minimum of {weights.min().item():.3g}; "
                "they must be positive and sum to one: divide them by their sum."
            )
        self.weights, self.means, self.covariances = weights, means, covariances
        self.event_shape = means.shape[1:]
        K, d = len(means), math.prod(self.event_shape)
        self._flat = means.reshape(K, d)
        full = covariances.shape == (K, d, d) and covariances.shape != means.shape
        if not full and covariances.shape not in ((K,), means.shape):
            raise ValueError(
                f"covariances has shape {tuple(covariances.shape)}; expected ({K},) isotropic, "
                f"{tuple(means.shape)} diagonal, or ({K}, {d}, {d}) full."
            )
        self.basis = basis
        self._covariances = Covariances(covariances, self._flat.shape, full, basis)
        lam = self._covariances.lam
        if (lam <= 0).any():
            k = int((lam <= 0).any(1).nonzero()[0, 0])
            raise ValueError(
                f"covariances[{k}] is not positive definite (smallest eigenvalue {lam[k].min().item():.3g}); "
                "add a positive value to its diagonal, or use Empirical for points without width."
            )

    def __repr__(self) -> str:
        return f"GaussianMixture(K={len(self.weights)}, event_shape={tuple(self.event_shape)})"

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw `n` points, ``(n, *event_shape)``, float64."""
        k = torch.multinomial(self.weights, check_draws(n, generator), replacement=True, generator=generator)
        z = torch.randn(n, self._flat.shape[1], dtype=torch.float64, generator=generator)
        z = self._covariances.colour(k, z.reshape(n, *self.event_shape))
        return (self._flat[k] + z).reshape(n, *self.event_shape)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """Return ``log w_k N(x; m_k, C_k)`` for every component, ``(B, K)``."""
        return self._condition_on(x, 1.0, 0.0)[0]

    @check_arguments
    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, in float32 at least."""
        return self.component_log_prob(x).logsumexp(1)

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log p(x)``, of the shape of `x`."""
        return self.observed(x, 1.0, 0.0)[1]

    def observed(self, y: Tensor, C: Map, S: Map) -> tuple[Tensor, Tensor]:
        """Return ``E[x | y]`` and the score ``∇ log p(y)`` for ``y = C x + S z``, with operators `C` and `S` on the data, or
        numbers of shape ``()`` or ``(B,)``.
        """
        log_joint, pulled, precise = self._condition_on(y, C, S)
        mean = self._mix(log_joint, self._flat.to(pulled) + pulled)
        return mean.reshape(y.shape).to(y), -self._mix(log_joint, precise).reshape(y.shape).to(y)

    def observed_log_prob(self, y: Tensor, C: Map, S: Map) -> Tensor:
        """Return ``log p(y)`` in nats, ``(B,)``, for ``y = C x + S z``, of operators or numbers as in `observed`."""
        return self._condition_on(y, C, S)[0].logsumexp(1)

    def _condition_on(self, y: Tensor, C: Map, S: Map) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-joint ``(B, K)``, and of each component what seeing `y` adds to its mean, and ``V⁻¹ (y − C m)`` with the
        covariance `V` of `y`, both ``(B, K, d)``.
        """
        check_event(y, self.event_shape)
        y = widened(y)
        precise, pulled, quadratic = self._covariances.see(y, self.means, as_operator(C), as_operator(S))
        d = y[0].numel()
        return -0.5 * (quadratic + d * math.log(2 * math.pi)) + self.weights.log().to(y), pulled, precise

    @staticmethod
    def _mix(log_joint: Tensor, values: Tensor) -> Tensor:
        """Return the mean of values ``(B, K, d)`` of the components by their posterior probabilities, ``(B, d)``."""
        return (log_joint.softmax(1)[..., None] * values).sum(1)

    def flat(self) -> tuple[Tensor, Tensor]:
        """Return means ``(K, d)`` and full covariances ``(K, d, d)`` over the flattened event."""
        return self._flat, self._full()

    def _full(self) -> Tensor:
        """Return covariances as full matrices, ``(K, d, d)``."""
        return self._covariances.matrices()

    def in_units(self, units: Units) -> GaussianMixture:
        """Return the mixture of the same data in other units."""
        if units.plain:
            return self
        std = units.std.expand(self.event_shape)
        if not units.std.ndim:
            covariances = self.covariances / units.std.square()  # of any form
            return GaussianMixture(self.weights, units.standardise(self.means), covariances, self.basis)
        if self._covariances.U is not None or self.basis is not None:
            full = self._full() / torch.outer(std.flatten(), std.flatten())
            own = full.diagonal(dim1=1, dim2=2)  # of diagonal matrices, whose axes are those of the data
            covariances = own.reshape(self.means.shape) if torch.equal(own.diag_embed(), full) else full
        else:
            covariances = self._covariances.lam.expand(self._flat.shape).reshape(self.means.shape) / std.square()
        return GaussianMixture(self.weights, units.standardise(self.means), covariances)

    def moments(self) -> Moments:
        """Return the mean and the full covariance of the mixture."""
        mean = self.weights @ self._flat
        centred = self._flat - mean
        covariance = torch.einsum("k,kij->ij", self.weights, self._full() + centred[:, :, None] * centred[:, None])
        return Moments(mean.reshape(self.event_shape), covariance)

    def diffuse(self, transition: Transition, embedding: Embedding = WHOLE) -> GaussianMixture:
        """Return the law of ``Phi E x + R z``, `x` from this mixture, over states of the shape that `E` makes of the data."""
        check_single(transition)
        (K, d), axes = self._flat.shape, self._covariances.axes_of(transition.Phi)
        seen = embedding.seen_along(transition, axes)
        if seen is None:
            M, Sigma = embedding.seen_through(transition, d)
            means = (self._flat @ M.T).reshape(K, *embedding.shape(self.event_shape))
            return GaussianMixture(self.weights, means, M @ self._full() @ M.T + Sigma)
        c, v = seen
        means = transition.Phi(self.means)
        if self._covariances.U is not None:
            covariances = c.square() * self.covariances + v * torch.eye(d, dtype=torch.float64)
            return GaussianMixture(self.weights, means, covariances)
        lam = c.square() * self._covariances.lam + v  # (K, d or 1)
        shape = (K,) if lam.shape[1] == 1 and self.covariances.ndim == 1 else means.shape
        return GaussianMixture(self.weights, means, lam.reshape(shape), axes)


def check_single(transition: Transition) -> None:
    """Refuse the transition of a row of times.

    Raises
    ------
    ValueError
        If the transition is of several times.
    """
    if transition.Phi.log_abs_det().numel() != 1:
        raise ValueError("diffuse takes one transition: pass a single time, t of shape ().")


def check_event(x: Tensor, event_shape: torch.Size) -> None:
    """Refuse points that are not ``(B, *event_shape)`` numbers.

    Raises
    ------
    TypeError
        If `x` is not floating point.
    ValueError
        If `x` has another shape.
    """
    if not isinstance(x, Tensor):
        check_tensor("x", x)
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; convert it to floating point.")
    if x.shape[1:] != event_shape or x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (B, {', '.join(map(str, event_shape))}), B >= 1.")


@check_arguments
def moments_of(data: Tensor) -> Moments:
    """Return the mean and covariance of samples ``(N, *event_shape)``: full up to 64 dimensions, its diagonal beyond.

    Parameters
    ----------
    data
        The samples. The covariance is a mean, divided by N; both moments are float64, on the CPU.

    Raises
    ------
    ValueError
        If `data` are empty, or hold NaN or infinite values.
    """
    check_tensor("data", data, floating=False)
    if data.ndim == 0 or len(data) == 0:
        raise ValueError(f"data has shape {tuple(data.shape)}; give a tensor (N, *), one row at least.")
    flat = data.detach().reshape(len(data), -1).cpu().double()
    centred = flat - (mean := flat.mean(0))
    covariance = centred.T @ centred / len(flat) if flat.shape[1] <= 64 else centred.square().mean(0)
    return Moments(mean.reshape(data.shape[1:]), covariance)
