"""Linear SDEs ``dx = F(t) x dt + G(t) dw``, whose transition laws and marginals follow in closed form from the coefficients.

This file holds what follows from marginals and transitions, in float64; `scalar` and `matrix` derive marginals and transitions
from coefficients. ``Sigma(0) > 0`` is allowed and means data smoothed by that much; ``Phi(T) = 0`` is allowed too.
"""

from __future__ import annotations

__all__ = ["LinearSDE", "as_kind", "as_linear", "find_t_min", "gaussian", "is_linear"]

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..dense import check_dense
from ..fixed import kept_property, remembered, tensors_of
from ..laws.draws import check_given, noise_like
from ..laws.embedding import WHOLE, Embedding, Observation
from ..laws.kernels import Kernel, Transition
from ..laws.marginals import LEAST_SIGNAL, Marginal, Perturbed
from ..laws.mixtures import Distribution, GaussianMixture, Moments
from ..laws.operators import Operator, Scale
from ..transforms import check_constant
from .base import SDE
from .dynamics import as_time

Kind = TypeVar("Kind", bound=SDE)


@asked_as("a linear SDE, such as VP(); others are for DirectModel(net, sde), simulate and FokkerPlanck")
class LinearSDE(SDE):
    """The base class of linear SDEs, ``dx = F(t) x dt + G(t) dw`` with coefficients that do not depend on the state.

    Two laws, which differ exactly when ``Sigma(0)`` is not zero: `marginal`, the state given clean data, and
    `transition`, one state given another.

    Attributes
    ----------
    Sigma_0
        ``Sigma(0)``, the covariance of the state at ``t = 0`` given clean data, float64 ``(k, k)``, as it is declared.
    embedding
        The linear map `E` that makes states of data in the units of the process; by default the data are the states.
    """

    is_linear = True
    Sigma_0: Tensor
    embedding: Embedding = WHOLE

    def marginal(self, t: Tensor | float) -> Marginal:
        """Return the law of ``x_t`` given clean data, which includes the noise at 0, with the matrix root that deterministic
        samplers need.
        """
        t = as_time(t, self.T)
        return Marginal(*self._marginal(t), t, self.embedding, self.clock(t))

    def clock(self, t: Tensor) -> Tensor | None:
        """Return `log_snr` as the process declares it; None where it follows from what states tell (`Operator.log_snr`)."""
        return None

    @abstractmethod
    def _marginal(self, t: Tensor) -> tuple[Operator, Operator]:
        """Return ``Phi`` and `R` of `marginal`, at checked times."""

    def at(self, t: Tensor | float, x: Tensor | None = None) -> Marginal:
        """Return the law of states at `t` given the data."""
        return self.marginal(t)

    @abstractmethod
    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        """Return the law of ``x_t`` given ``x_s`` for ``s <= t``, with any matrix root of its covariance."""

    @abstractmethod
    def drift_operator(self, t: Tensor | float) -> Operator:
        """Return the drift coefficient ``F(t)``."""

    @abstractmethod
    def diffusion_operator(self, t: Tensor | float) -> Operator:
        """Return the diffusion coefficient ``G(t)``."""

    @kept_property
    def datum(self) -> Operator:
        """``E Eᵀ``, the covariance of the states of data of unit variance at 0."""
        return Scale(torch.ones((), dtype=torch.float64))

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``F(t) x``."""
        return self.drift_operator(t)(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Operator:
        """Return ``G(t)``."""
        return self.diffusion_operator(t)

    def kernel(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Kernel:
        """Return the exact law of ``x_t`` given `x_s`."""
        return self.transition(s, t)(x_s)

    def perturb(
        self, x_0: Tensor, t: Tensor | float, z: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Perturbed:
        """Draw noised states at `t`, and return them with the kernel and the noise that they were drawn with.

        Parameters
        ----------
        x_0
            Data, ``(B, *)``.
        t
            Times, ``()`` or ``(B,)``.
        z
            Standard normal noise of the shape of the lifted states; drawn by default.
        generator
            Randomness of the noise.

        Raises
        ------
        ValueError
            If `z` has another shape than the states, a time lies outside of ``[0, T]``, or there is neither one time nor one for
            each row.
        """
        data = self.standardise(x_0)
        u_0 = self.embed(data)
        z = noise_like(u_0, generator) if z is None else check_given(u_0, z)
        at = self.marginal(t)
        kernel = at(u_0)
        return Perturbed(kernel.sample(z), kernel, z, at, data)

    @check_arguments
    def diffused(self, law: Distribution, t: Tensor | float) -> GaussianMixture:
        """Return the marginal distribution at one time `t` of states whose data come from `law`, in its own units."""
        return law.in_units(self.units).diffuse(self._constant_marginal(t), self.embedding)

    def _constant_marginal(self, t: Tensor | float) -> Marginal:
        """Return the marginal at `t` for a law at one time, which is made of constants; refuse a process that ``torch.func``
        transforms.
        """
        with torch.no_grad():
            for value in tensors_of(self):
                check_constant(f"{type(self).__name__} holds what its law at one time is made of; this", value)
            return self.marginal(t)

    def observe(self, x: Tensor, t: Tensor | float) -> Observation:
        """Reduce the state `x` at `t` to its sufficient statistic for the datum, ``y = C x_0 + S zeta``."""
        return self.marginal(t).observe(x)

    def snr(self, t: Tensor | float) -> Tensor:
        """Return the signal-to-noise ratio at `t`, which decreases: ``alpha² / sigma²`` for scalar processes."""
        return self.marginal(t).snr

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return the logarithm of `snr` at `t`; −inf where no signal is left, inf where there is no noise."""
        return self.marginal(t).log_snr

    def fall(self, s: Tensor | float, t: Tensor | float) -> Tensor:
        """Return ``log snr(t) − log snr(s)``, negative for ``s < t``; ±1e300 where the difference is infinite, and 0 if both
        ratios are 0, or both infinite.
        """
        return (self.log_snr(t) - self.log_snr(s)).nan_to_num(nan=0.0, posinf=1e300, neginf=-1e300)

    def angle_at(self, t: Tensor | float) -> Tensor:
        """Return the angle ``atan(1 / √snr)`` at `t`; ``atan2(sigma, alpha)`` for scalar processes."""
        return torch.atan((-0.5 * self.log_snr(t)).exp())

    def time_of_angle(self, phi: Tensor) -> Tensor:
        """Return the times of angles, the inverse of `angle_at`; for angles beyond the process its ends."""
        best, worst = self.log_snr(torch.tensor([0.0, self.T], dtype=torch.float64)).detach()
        level = -2 * phi.tan().log()
        return self.time_of_log_snr(torch.where(phi < math.pi / 2, level, -torch.inf).clamp(worst, best))

    def time(self, snr: Tensor | float) -> Tensor:
        """Return the time with signal-to-noise ratio `snr`, the inverse of `snr`.

        Raises
        ------
        ValueError
            If the ratio is not reached within ``[0, T]``.
        """
        ratio = torch.as_tensor(snr, dtype=torch.float64)
        check_dense("snr", ratio)
        level = ratio.cpu().log()
        lost = level.isneginf()
        if lost.any() and self.snr(self.T) == 0:  # at T it is 0, or too small for a number
            level = torch.where(lost, self.log_snr(self.T), level)
        return self.time_of_log_snr(level)

    def time_of_log_snr(self, level: Tensor | float) -> Tensor:
        """Return the time at which the logarithm of the signal-to-noise ratio is `level`, the inverse of `log_snr`.

        Raises
        ------
        ValueError
            If the ratio is not reached within ``[0, T]``.
        """
        level = torch.as_tensor(level, dtype=torch.float64).cpu()
        t = self._invert(level)
        inside = (t >= 0) & (t <= self.T)
        if inside.all():
            return t
        best, worst = self.log_snr(torch.tensor([0.0, self.T], dtype=torch.float64)).detach()
        outside = ~((level <= best + 1e-9) & (level >= worst - 1e-9 * (1 + worst.abs().nan_to_num(posinf=0.0))))
        if outside.any():
            raise ValueError(
                f"snr = {level[outside].reshape(-1)[0].exp().item():.6g} is not reached: {type(self).__name__} runs from "
                f"{best.exp().item():.6g} at t = 0 down to {worst.exp().item():.6g} at T; give a ratio between these."
            )
        # Beyond the ends by rounding; or a subclass has changed the process, and the inverse that it inherits is wrong.
        found = LinearSDE._invert(self, level).nan_to_num(nan=self.T)
        return torch.where(inside, t, torch.where(level >= best, 0.0, found))

    def _invert(self, level: Tensor) -> Tensor:
        """Return the times at which ``log snr`` is `level`, by bracketed bisection and regula falsi; for levels that are not
        reached NaN, or another number outside of ``[0, T]``. A class that knows its inverse overrides this.
        """
        ends = self.log_snr(torch.tensor([0.0, self.T], dtype=torch.float64)).detach()
        flat = level.reshape(-1)
        low, high = torch.zeros_like(flat), torch.full_like(flat, self.T)
        f_low, f_high = ends[0] - flat, ends[1] - flat  # >= 0 and <= 0
        for i in range(80):
            # Regula falsi where both ends are finite, bisection otherwise and every third time.
            secant = low + (high - low) * f_low / (f_low - f_high)
            middle = 0.5 * (low + high)
            t = torch.where(secant.isfinite() & (i % 3 != 2), secant, middle)
            t = t.maximum(low + 1e-3 * (high - low)).minimum(high - 1e-3 * (high - low))
            f = self.log_snr(t) - flat
            left = f > 0
            low, f_low = torch.where(left, t, low), torch.where(left, f, f_low)
            high, f_high = torch.where(left, high, t), torch.where(left, f_high, f)
            if ((high - low) <= 1e-15 * self.T).all():
                break
        t = torch.where(f_low.abs() < f_high.abs(), low, high)
        return torch.where((flat < ends[0]) & (flat > ends[1]), t, torch.nan).reshape(level.shape)

    @property
    def has_signal(self) -> bool:
        """Whether a state at T tells of its datum: ``alpha(T) / sigma(T)`` is above 1e-8, the rounding of a float32 state."""
        return self.log_snr(self.T).item() > 2 * math.log(LEAST_SIGNAL)

    @property
    def signal_at_T(self) -> str:
        """The words by which messages tell how little signal is left at T, such as ``"alpha(T) = 0"``."""
        ratio = (0.5 * self.log_snr(self.T)).exp().item()
        return f"alpha(T) / sigma(T) = {ratio:.2g}" if ratio else "alpha(T) = 0"

    @remembered
    def t_max(self) -> float:
        """Return the last time at which a sampler's grid may start: T, or if no signal is left there (`has_signal`) the time
        where ``snr = 1e-8``.
        """
        return self.T if self.has_signal else self.time(1e-8).item()

    @check_arguments
    def prior(self, moments: Moments) -> Any:
        """Return the Gaussian with the moments that states have at T, the distribution that samplers start from; subclasses may
        return another.

        Parameters
        ----------
        moments
            Mean and covariance of the data in the units of the process (`ScoreModel.state_moments`).
        """
        return gaussian(moments).diffuse(self._constant_marginal(self.T), self.embedding)

    def root(self, t: Tensor | float, x: Tensor | None = None) -> Operator:
        """Return the matrix root of the covariance of the marginal at `t`."""
        return self.marginal(t).R

    def noise_at(self, t: Tensor | float, x: Tensor | None = None) -> Operator:
        """Return `G` at `t`, or `G` at `t_max` where it is infinite, as it may be at T if no signal is left there."""
        t, G = as_time(t, self.T), self.diffusion_operator(t)
        infinite = ~G.is_finite()
        return self.diffusion_operator(torch.where(infinite, self.t_max, t)) if infinite.any() else G


def find_t_min(sde: LinearSDE) -> float:
    """Return the smallest time with ``snr <= 1e6``: before it a state tells its datum to a thousandth of the spread."""
    return sde.time(1e6).item() if sde.snr(0.0) > 1e6 else 0.0


def is_linear(sde: SDE) -> TypeGuard[LinearSDE]:
    """Tell whether a process is linear, so that its laws are known in closed form."""
    return sde.is_linear


def as_linear(sde: SDE, why: str) -> LinearSDE:
    """Return a linear process as it is; refuse any other, for the reason `why`.

    Parameters
    ----------
    sde
        Any process.
    why
        What is missing if the process is not linear, and what to do instead: it ends the sentence "... is not linear".

    Raises
    ------
    TypeError
        If the process is not linear.
    """
    return as_kind(sde, is_linear, "linear", why)


def as_kind(sde: SDE, is_kind: Callable[[SDE], TypeGuard[Kind]], name: str, why: str) -> Kind:
    """Return a process of a kind as it is; refuse any other, for the reason `why`.

    Parameters
    ----------
    sde
        Any process.
    is_kind
        Tells whether a process is of the kind.
    name, why
        The name of the kind, and what is missing without it: they end the sentence "... is not {name}{why}".

    Raises
    ------
    TypeError
        If the process is of another kind.
    """
    if not is_kind(sde):
        raise TypeError(f"{type(sde).__name__} is not {name}{why}")
    return sde


def gaussian(moments: Moments) -> GaussianMixture:
    """Return the Gaussian with the given moments, as a one-component mixture; zero variances become 1e-12 of the largest."""
    C = moments.covariance
    floor = 1e-12 * max(C.abs().max().item(), 1e-12)  # constant coordinates, such as the border of images
    full = C.ndim == 2
    C = C + floor * torch.eye(len(C), dtype=C.dtype) if full else (C + floor).reshape(moments.mean.shape)
    if moments.mean.numel() == 1:
        C = C.reshape(moments.mean.shape)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), moments.mean[None], C[None])
