"""The law of noised states at given times: `Marginal`, computed once per training step and shared by loss, weighting and
model.

A state drawn from it is a `Perturbed` one; what a state tells about its datum is an `Observation`. Of a process that is not
linear only a `Level` is known.
"""

from __future__ import annotations

__all__ = ["LEAST_SIGNAL", "Level", "Marginal", "Observation", "Perturbed"]

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..show import show_call
from .kernels import StateLaw, Transition
from .matrices import Matrix
from .operators import Operator, Scale, rows

LEAST_SIGNAL = 1e-8  # of the noise: below, it is lost in the rounding of a float32 state


class Level:
    """The noise level of states at given times: a root of the covariance of their noise.

    A linear process knows more, the whole law of its states given the data: `Marginal`.

    Parameters
    ----------
    t
        Times, float64, ``()`` or ``(B,)``.
    R
        A root of the covariance that noise alone has at `t`.
    G
        The diffusion at `t`, of a process that is not linear.
    """

    __repr__ = show_call

    def __init__(self, t: Tensor, R: Operator, G: Operator | None = None) -> None:
        self.t, self.R, self.G = t, R, G

    @property
    def log_snr(self) -> Tensor:
        """The logarithm of the signal-to-noise ratio, which linear processes have.

        Raises
        ------
        TypeError
            Otherwise.
        """
        raise TypeError(
            "the process is not linear and has no signal-to-noise ratio; take a weighting that needs none, such as "
            "InverseVarianceWeighting()."
        )

    @property
    def snr(self) -> Tensor:
        """The signal-to-noise ratio, which linear processes have."""
        return self.log_snr.exp()

    @property
    def weighable_log_snr(self) -> Tensor:
        """`log_snr` where a weight may be infinite without signal: with a trace of it, as in `Marginal.velocity_to_score`."""
        return self.log_snr.clamp_min(2 * math.log(LEAST_SIGNAL))


class Observation(NamedTuple):
    """The sufficient statistic of a state for its datum: ``y = c x_0 + s zeta`` with ``c² + s² = 1``.

    The state's law is that of `y` times a Gaussian that does not depend on the data, so that
    ``∇ log p(x) = g ∇ log p(y) − rest x``.

    Attributes
    ----------
    y
        The sufficient statistic, of the shape of the data.
    c, s
        The cosine and the sine, float64, ``()`` or ``(B,)``.
    g
        How the state makes it: ``y = gᵀ x`` over the channels, ``(..., k)``.
    rest
        Precision of what is left; None for numbers, which tell of nothing else.
    """

    y: Tensor
    c: Tensor
    s: Tensor
    g: Tensor
    rest: Matrix | None

    def __repr__(self) -> str:
        return show_call(self)

    def score(self, x: Tensor, of_y: Tensor) -> Tensor:
        """Return the score of the state `x` from `of_y`, the score of the statistic `y`."""
        if self.rest is None:
            return of_y * rows(self.g[..., 0], x)
        g = self.g.to(x.device, x.dtype, non_blocking=True).reshape(*self.g.shape, *[1] * (x.ndim - 2))
        return g * of_y.unsqueeze(1) - self.rest(x)

    def noise(self, x: Tensor, of_y: Tensor, R: Operator) -> Tensor:
        """Return the posterior mean of the noise that the root `R` scales, ``−Rᵀ`` times the score of the state `x`, from
        `of_y`, the score of the statistic `y`; ``−s of_y`` for numbers.
        """
        return of_y * rows(-self.s, x) if self.rest is None else -R.T(self.score(x, of_y))


class Marginal(Transition, Level):
    """The law of noised states at given times, ``x_t | x_0 ~ N(Phi x_0, R Rᵀ)``, with the times it belongs to.

    A loss perturbs by it, weighs by it and asks the model by it, so that a training step forms it once.

    Parameters
    ----------
    Phi, R
        As for every `Transition`, of one time or of a row of times.
    t
        The times, float64, ``()`` or ``(B,)``.
    e
        The lift of a unit datum, float64 ``(k,)``.
    """

    def __init__(self, Phi: Operator, R: Operator, t: Tensor, e: Tensor) -> None:
        self.Phi, self.R, self.t, self.e, self.G = Phi, R, t, e, None

    @cached_property
    def _observed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The cosine and the sine of the observation, how a state makes it, and the precision of the rest.

        Written through ``M = Phi e eᵀ Phiᵀ + Sigma``, which is regular where ``Sigma`` is not.
        """
        p = self.Phi.matrix() @ self.e  # (..., k)
        L = torch.linalg.cholesky(p[..., :, None] * p[..., None, :] + self.covariance.matrix())
        L_inv = torch.linalg.solve_triangular(L, torch.eye(len(self.e), dtype=L.dtype), upper=False)
        a = (L_inv @ p[..., None])[..., 0]
        norm = a.norm(dim=-1, keepdim=True)
        unit = torch.where(norm > 0, a / norm, torch.eye(len(self.e), dtype=a.dtype)[0])  # alpha = 0: any direction
        g = (L_inv.mT @ unit[..., None])[..., 0]
        s = (self.R.matrix().mT @ g[..., None])[..., 0].norm(dim=-1)
        rest = L_inv.mT @ L_inv - g[..., :, None] * g[..., None, :]
        return (g * p).sum(-1), s, g, rest

    @cached_property
    def angle(self) -> tuple[Tensor, Tensor]:
        """The cosine and the sine of the observation, float64, ``()`` or ``(B,)``."""
        if len(self.e) == 1:
            return self.C.matrix()[..., 0, 0], self.S.matrix()[..., 0, 0]
        c, s, *_ = self._observed
        return c, s

    @cached_property
    def snr(self) -> Tensor:
        """The signal-to-noise ratio ``c² / s²`` of the observation; ``alpha² / sigma²`` for numbers."""
        if len(self.e) == 1:
            return (self.Phi.matrix() / self.R.matrix())[..., 0, 0].square()
        c, s = self.angle
        return (c / s).square()

    @cached_property
    def log_snr(self) -> Tensor:
        """The logarithm of `snr`, which a ratio too large or too small for a number has too; −inf where no signal is left."""
        c, s = (self.Phi.matrix().abs(), self.R.matrix()) if len(self.e) == 1 else self.angle
        return (2 * (c.log() - s.log())).reshape(self.t.shape)

    @property
    def velocity_to_score(self) -> Operator:
        """``R⁻ᵀ Bᵀ``, from an error of the velocity to that of the score it makes.

        Without signal the velocity says nothing of the score. There a trace of signal is left, so that a weight of the score
        that grows without bound has its limit.
        """
        B, R = self._AB[1], self.R
        if isinstance(B, Scale) and isinstance(R, Scale):
            return Scale(B.c.clamp_min(LEAST_SIGNAL) / R.c)
        return (B @ R.inv()).T

    def observe(self, x: Tensor) -> Observation:
        """Reduce a state to its sufficient statistic for the datum.

        A state ``x = Phi e x_0 + R z``, with `e` the lift of a datum, depends on ``x_0`` through one number
        per coordinate, ``y = eᵀ Phiᵀ Sigma⁻¹ x`` up to scale. Normalised, ``y = c x_0 + s zeta`` with ``c² + s² = 1``: whatever
        the process, denoising is the same problem in `y`. For numbers ``y = x / r``, and `c`, `s` are the cosine and
        sine of the angle.

        Parameters
        ----------
        x
            States, ``(B, *)``; ``(B, k, *)`` for more than one channel.

        Raises
        ------
        ValueError
            If the states have not `k` channels, or laws are neither one nor as many as the states.
        """
        k = len(self.e)
        if k == 1:
            return Observation(self.r_inv(x), *self.angle, self.r_inv.matrix()[..., 0], None)
        if x.ndim < 2 or x.shape[1] != k:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, but this process moves states of shape (B, {k}, *); "
                "lift the data first with sde.lift(x)."
            )
        c, s, g, rest = self._observed
        rows(g[..., 0], x)  # refuses another number of rows
        weights = g.to(x.device, x.dtype, non_blocking=True).reshape(*g.shape, *[1] * (x.ndim - 2))
        return Observation((weights * x).sum(1), c, s, g, Matrix(rest))


class Perturbed(NamedTuple):
    """A noised state, with the kernel and the noise it was drawn from.

    Attributes
    ----------
    x
        The state, ``(B, *)``.
    kernel
        The law it was drawn from.
    z
        The noise it was drawn with.
    at
        Its times, and what the process says of them: for linear processes the law of the state given the data.
    """

    x: Tensor
    kernel: StateLaw
    z: Tensor
    at: Level

    def __repr__(self) -> str:
        return show_call(self)

    def mirrored(self) -> Perturbed:
        """Return the state drawn with the opposite noise, ``−z``."""
        return self._replace(x=self.kernel.sample(-self.z), z=-self.z)
