"""Laws of a state given an earlier one: `StateLaw`, their interface; `Kernel`, the Gaussian one; and `Transition`, which gives a
Gaussian law for every earlier state.

Any ``1/sigma`` of the library is in this file. A kernel is ``N(mean, R Rᵀ)``; `R` is *the* root for a marginal (the
one deterministic samplers may use) and any root for a transition between two noisy states. A kernel does not know its time.
"""

from __future__ import annotations

__all__ = ["Kernel", "Posterior", "StateLaw", "Transition", "as_gaussian", "check_noise", "posterior"]

import math
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..precision import widened
from ..show import show_call
from .operators import Operator

PAIRS = 2**24  # numbers of differences of states that are held at once


class StateLaw(Protocol):
    """The interface of the law of a state, one for each row of a batch."""

    def sample(self, z: Tensor, /) -> Tensor:
        """Return the states that standard normal noise `z`, of their shape, makes: where the law is no Gaussian, the quantile
        ``F⁻¹(Phi(z))`` of each number.
        """

    def score(self, x: Tensor, /) -> Tensor:
        """Return ``∇ log p(x)``, of the shape of `x`."""

    def log_prob(self, x: Tensor, /) -> Tensor:
        """Return the log-density of `x` in nats, ``(B,)``, in float32 at least."""


class Kernel(NamedTuple):
    """The Gaussian law ``N(mean, R Rᵀ)`` of a state, one for each row of a batch.

    Attributes
    ----------
    mean
        The mean, ``(B, *)``.
    R
        A root of its covariance.
    """

    mean: Tensor
    R: Operator

    def __repr__(self) -> str:
        return show_call(self)

    def sample(self, z: Tensor) -> Tensor:
        """Return ``mean + R z`` for standard noise `z` of the shape of `mean`."""
        return self.mean + self.R(z)

    def whiten(self, x: Tensor) -> Tensor:
        """Return ``R⁻¹ (x − mean)``, the noise from which `sample` would make `x`."""
        return self.R.inv()(x - self.mean)

    def score(self, x: Tensor) -> Tensor:
        """Return ``∇ log N(x; mean, R Rᵀ) = −R⁻ᵀ R⁻¹ (x − mean)``."""
        return -self.R.inv().T(self.whiten(x))

    def pooled_score(self, x: Tensor) -> Tensor:
        """Return the score, at each row of `x`, of the equal mixture of all rows' kernels, ``(B, *)``."""
        M = self.R.inv().matrix().to(x).expand(len(x), -1, -1)
        u, m = (v.reshape(len(x), M.shape[-1], -1) for v in (x, self.mean))
        z = torch.einsum("jab,ibr->ijar", M, u) - torch.einsum("jab,jbr->jar", M, m)  # of row i under kernel j
        weights = (torch.linalg.slogdet(M).logabsdet * z.shape[-1] - 0.5 * z.square().sum((2, 3))).softmax(1)
        return -torch.einsum("ijar,jab->ibr", weights[:, :, None, None] * z, M).reshape(x.shape)

    def pooled_score_by(self, group: Tensor, x: Tensor) -> Tensor:
        """Return the score of `pooled_score`, with mixtures formed only among rows that share a number in `group`
        ``(B,)``, such as their time, and of no more rows than memory holds the pairs of.
        """
        score, most = self.score(x), max(1, math.isqrt(PAIRS // x[0].numel()))
        shared, place = group.unique(return_inverse=True)
        if len(shared) < len(x):
            for k in range(len(shared)):
                of_one = (place == k).nonzero()[:, 0]  # on the CPU, as R is: such an index serves states on any device
                for own in of_one.split(most):
                    score[own] = Kernel(self.mean[own], self.R[own]).pooled_score(x[own])
        return score

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of `x` in nats, ``(B,)``, in float32 at least."""
        return self.log_prob_of(self.R.inv()(widened(x) - self.mean))

    def log_prob_of(self, z: Tensor) -> Tensor:
        """Return the log-density in nats, ``(B,)``, of the state that `sample` makes of the noise `z`."""
        z = z.flatten(1) if z.ndim > 1 else z[:, None]
        coordinates = z.shape[1] // self.R.size
        log_det = self.R.log_abs_det().to(z) * coordinates
        return -0.5 * z.square().sum(1) - log_det - 0.5 * z.shape[1] * math.log(2 * math.pi)


def check_noise(noise: Tensor) -> None:
    """Refuse to form a score or a density of a law of a state where there is no noise.

    Parameters
    ----------
    noise
        Standard deviations, or other numbers that are 0 where there is none.

    Raises
    ------
    ValueError
        If there is no noise in some row.
    """
    if not (noise > 0).all():
        raise ValueError(
            "a score or a density was asked for at a time without noise, where the state is known and has none; ask at a "
            "later time, such as sde.t_min."
        )


def as_gaussian(law: StateLaw, why: str) -> Kernel:
    """Return a Gaussian law of a state as it is; refuse any other, for the reason `why`.

    Parameters
    ----------
    law
        Any law of a state.
    why
        What is missing without a Gaussian, and what to do instead: it ends the sentence "... is no Gaussian".

    Raises
    ------
    TypeError
        If the law is no Gaussian.
    """
    if not isinstance(law, Kernel):
        raise TypeError(f"the law of a state, {type(law).__name__}, is no Gaussian{why}")
    return law


class Transition:
    """The linear Gaussian law ``x_t | x_s ~ N(Phi x_s, R Rᵀ)`` of a state given an earlier one, with coefficients in float64.

    With ``r rᵀ = Phi Phiᵀ + R Rᵀ`` the pair (clean state, noise) and the pair (``y = r⁻¹ x``, ``v``) are two orthonormal
    bases of one space: ``y = C x_0 + S z`` and ``v = A x_0 + B z``. For numbers this is the rotation by the angle
    ``phi = atan2(sigma, alpha)``: ``C = B = cos(phi)``, ``S = −A = sin(phi)``. The velocity `v` is finite at both ends of
    a process, where one of clean data and noise is not, so models speak in `v` and the other two are read off from it.

    Parameters
    ----------
    Phi, R
        The mean map and the root of the covariance.
    """

    __repr__ = show_call

    def __init__(self, Phi: Operator, R: Operator) -> None:
        self.Phi, self.R = Phi, R

    def __call__(self, x_s: Tensor) -> Kernel:
        """Return the law of ``x_t`` given `x_s`."""
        return Kernel(self.Phi(x_s), self.R)

    @cached_property
    def covariance(self) -> Operator:
        """The covariance ``R Rᵀ``."""
        return self.R.gram()

    @cached_property
    def r(self) -> Operator:
        """A matrix square root of ``Phi Phiᵀ + R Rᵀ``, the covariance of the state for data of unit variance."""
        return self.Phi.hypot(self.R)

    @cached_property
    def r_inv(self) -> Operator:
        """The inverse ``r⁻¹``, from the state `x` to the normalised state ``y``."""
        return self.r.inv()

    @cached_property
    def C(self) -> Operator:
        """``r⁻¹ Phi``, the coefficient of the clean state in the normalised state; cosine of the angle ``phi``."""
        return self.r_inv @ self.Phi

    @cached_property
    def S(self) -> Operator:
        """``r⁻¹ R``, the coefficient of the noise in the normalised state; sine of the angle ``phi``."""
        return self.r_inv @ self.R

    @cached_property
    def _AB(self) -> tuple[Operator, Operator]:
        """`A` and `B`, which complete `C` and `S` to a rotation."""
        return self.C.complete(self.S)

    @cached_property
    def A(self) -> Operator:
        """The coefficient of the clean state in the velocity; minus the sine of the angle ``phi``."""
        return self._AB[0]

    @cached_property
    def B(self) -> Operator:
        """The coefficient of the noise in the velocity; cosine of the angle ``phi``."""
        return self._AB[1]

    def regress(self, P: Operator) -> tuple[Operator, Operator, Operator]:
        """Return the regression of the velocity on the normalised state, for data whose lift has the covariance `P`
        (`Operator.regress`).
        """
        return self.C.regress(self.S, *self._AB, P)

    def normalise(self, x: Tensor) -> Tensor:
        """Return the normalised state ``y = r⁻¹ x``."""
        return self.r_inv(x)

    def velocity(self, x_0: Tensor, z: Tensor) -> Tensor:
        """Return ``v = A x_0 + B z``; ``cos(phi) z − sin(phi) x_0`` for numbers."""
        A, B = self._AB
        return A(x_0) + B(z)

    def denoise(self, y: Tensor, v: Tensor) -> Tensor:
        """Return the clean state ``Cᵀ y + Aᵀ v`` from the normalised state `y` and the velocity `v`."""
        return self.C.T(y) + self.A.T(v)

    def noise(self, y: Tensor, v: Tensor) -> Tensor:
        """Return the noise ``Sᵀ y + Bᵀ v`` from the normalised state `y` and the velocity `v`."""
        return self.S.T(y) + self.B.T(v)

    @cached_property
    def R_inv(self) -> Operator:
        """The inverse ``R⁻¹``, from the noise in a state to the noise it was made of.

        Raises
        ------
        ValueError
            If there is no inverse, at a time without noise in some direction.
        """
        if self.R.log_abs_det().isneginf().any():
            raise ValueError(
                "a score was asked for at a time without noise in some direction, sigma = 0, where what a model predicts does "
                "not determine it; ask at a later time, such as sde.t_min, or for denoise, noise or velocity."
            )
        return self.R.inv()

    def score_from_noise(self, eps: Tensor) -> Tensor:
        """Return the score ``∇ log p = −R⁻ᵀ eps`` from the posterior mean `eps` of the noise (Tweedie's formula)."""
        return self.R_inv.T(eps) * -1.0

    def clean_from_noise(self, x: Tensor, eps: Tensor) -> Tensor:
        """Return the clean state ``Phi⁻¹ (x − R eps)`` from the state `x` and the posterior mean `eps` of its noise.

        Raises
        ------
        ValueError
            If the state holds nothing of the data in some direction.
        """
        if self.Phi.log_abs_det().isneginf().any():
            raise ValueError(
                "clean data were asked for at a time without signal, alpha = 0, where noise and score do not determine them; "
                "ask at an earlier time, such as sde.t_max, or use a model that predicts the velocity: Model(net, sde)."
            )
        return self.Phi.inv()(x - self.R(eps))

    def noise_from_score(self, score: Tensor) -> Tensor:
        """Return the posterior mean of the noise, ``eps = −Rᵀ score``."""
        return self.R.T(score) * -1.0


class Posterior(NamedTuple):
    """The Gaussian law of an earlier state given a later one and the clean state: ``x_s | x_t, x_0 ~ N(Phi_s x_0 + K (x_t
    − Phi_t x_0), covariance)``.

    Attributes
    ----------
    K
        The gain on the residual ``x_t − Phi_t x_0``.
    covariance
        The covariance of ``x_s``; a number's is the ``beta tilde`` of DDPM.
    """

    K: Operator
    covariance: Operator

    def __repr__(self) -> str:
        return show_call(self)


def posterior(at_s: Transition, at_t: Transition, s_to_t: Transition) -> Posterior:
    """Condition the state at `s` on the state at `t` and the clean state, and return the `Posterior` (Gaussian conditioning).

    Parameters
    ----------
    at_s, at_t
        The marginals of the two times, given clean data.
    s_to_t
        The transition between them.
    """
    K = at_s.covariance @ s_to_t.Phi.T @ at_t.covariance.inv()
    # Joseph's form (I − KΦ) Σ_s (I − KΦ)ᵀ + K Q Kᵀ: a sum of squares, so rounding never makes it negative.
    left = K.one() - K @ s_to_t.Phi
    return Posterior(K, left @ at_s.covariance @ left.T + K @ s_to_t.covariance @ K.T)
