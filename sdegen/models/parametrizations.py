"""Parametrisations: what a network predicts (noise, clean data, velocity, …), and how its output becomes a velocity.

`NoiseParametrization`, `DataParametrization`, `VelocityParametrization`, `StraightParametrization` and `ScoreParametrization`
are each one combination of clean data and noise; `EDMParametrization` is the Gaussian's own answer plus a residual. Every
coefficient follows from the rotation of `kernels.Transition`, for numbers and for matrices.
"""

from __future__ import annotations

__all__ = [
    "Coefficients",
    "DataParametrization",
    "EDMParametrization",
    "MatchedParametrization",
    "NoiseParametrization",
    "Parametrization",
    "ScoreParametrization",
    "StraightParametrization",
    "VelocityParametrization",
]

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from ..answers import check_pair
from ..arguments import asked_as, check_arguments
from ..laws.kernels import Transition
from ..laws.marginals import Marginal
from ..laws.operators import Operator
from ..precision import at_least_single
from ..processes.linear import LinearSDE
from ..show import show_call
from ..signatures import Overridable


class Coefficients(NamedTuple):
    """The four coefficients that turn a network `F` into a velocity: ``v = c_skip x + c_out F(c_in x, c_noise)``.

    Attributes
    ----------
    c_skip, c_out, c_in
        Maps of the state and of the network's output.
    c_noise
        The noise level or time that the network is told, ``()`` or ``(B,)``.
    dtype
        The dtype in which the network is called; None for that of the state.
    bare
        Whether `c_out` is 1, so that no pass over the network's output is needed.
    same
        Whether `c_in` is 1, so that the network's input is the state itself.
    """

    c_skip: Operator
    c_out: Operator
    c_in: Operator
    c_noise: Tensor
    dtype: torch.dtype | None = None
    bare: bool = False
    same: bool = False

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's inputs for the state `x`: ``c_in x``, which may be `x` itself, and `c_noise`.

        Both are in the network's dtype, but `c_noise` is in float32 at least, since neighbouring noise levels are the same number
        in half precision.
        """
        dtype, c_noise = x.dtype if self.dtype is None else self.dtype, self.c_noise
        if c_noise.dtype != dtype or c_noise.device != x.device:  # prepared questions have the right ones already
            c_noise = c_noise.to(x.device, at_least_single(dtype), non_blocking=True)
        x = x if self.same else self.c_in(x)
        return x if x.dtype == dtype else x.to(dtype), c_noise

    def join(self, x: Tensor, out: Tensor) -> Tensor:
        """Return ``c_skip x + c_out F`` for the state `x` and the network's output `F`."""
        return self.c_skip.beside(out, x) if self.bare else self.c_out.onto(self.c_skip(x), out)

    def __repr__(self) -> str:
        return show_call(self)


@asked_as("a parametrisation, such as models.EDMParametrization()")
class Parametrization(Overridable, ABC):
    """The base class of parametrisations: the network predicts a combination ``F = a x_0 + b z`` of clean data and noise.

    Subclasses give `a` and `b`. The four coefficients follow by inverting the rotation of `kernels.Transition`, so there are no
    conversions between pairs of parametrisations.

    Parameters
    ----------
    std
        Standard deviation of the data, in their own units, which scales the network's input; None takes that which `fit`
        measured, and 1 before.
    delta
        Resolution of the noise level that the network is told, ``c_noise = ¼ log((s + delta) / (c + delta))`` with the cosine `c`
        and sine `s` of the angle of the observation. It is finite at both ends, and about ``¼ log(sigma / alpha)`` between.

    Attributes
    ----------
    most
        An upper bound on the coefficient of the velocity in the target, on scalar processes. The coefficient is divided by; a
        bound below 0 keeps one that is negative and vanishes at an end away from 0. Infinite for no bound.

    Raises
    ------
    ValueError
        If `std` or `delta` is not positive.
    TypeError
        At a call, if `target` does not return two operators.
    """

    most: float = math.inf

    __repr__ = show_call

    @check_arguments
    def __init__(self, std: float | None = None, delta: float = 1e-3) -> None:
        if std is not None and not std > 0:
            raise ValueError(f"std = {std}; the standard deviation of the data is positive.")
        if not delta > 0:
            raise ValueError(f"delta = {delta}; the resolution of the noise level is positive.")
        self.std, self.delta = std, delta

    @abstractmethod
    def target(self, at: Transition) -> tuple[Operator, Operator]:
        """Return the coefficients ``(a, b)`` of clean data and noise in the target."""

    def regular(self, at: Transition) -> tuple[Operator, Operator, Operator]:
        """Return ``(a, b, W)`` with ``W F = a x_0 + b z``, all finite at both ends; by default the target and ``W = 1``."""
        who = f"{type(self).__name__}.target"
        a, b = check_pair(who, self.target(at), "the operators of clean data and noise")
        if not isinstance(a, Operator) or not isinstance(b, Operator):
            raise TypeError(f"{who} returned a {type(a).__name__} and a {type(b).__name__}; give operators, as at.Phi.")
        return a, b, at.Phi.one()

    def coefficients(self, sde: LinearSDE, at: Marginal, std: float) -> Coefficients:
        """Return the four coefficients at the times of `at`, for data of standard deviation `std` in the units of the process."""
        a, b, W = self.regular(at)
        part = a @ at.A.T + b @ at.B.T
        to_velocity = part.at_most(self.most).inv()
        c_skip = to_velocity @ (a @ at.C.T + b @ at.S.T) @ at.r_inv * -1.0
        whiten, *_ = at.regress(sde.datum * std**2)
        return Coefficients(c_skip, to_velocity @ W, whiten @ at.r_inv, self.level(sde, at))

    def level(self, sde: LinearSDE, at: Marginal) -> Tensor:
        """Return the number that the network is told of the times of `at`, ``()`` or ``(B,)``: by default the noise level."""
        return self.c_noise(at)

    def c_noise(self, at: Marginal) -> Tensor:
        """Return the noise-level input of the network, ``()`` or ``(B,)``."""
        c, s = at.angle
        return 0.25 * ((s + self.delta) / (c + self.delta)).log()

    def check(self, sde: LinearSDE) -> None:
        """Refuse a process on which the parametrisation is singular; most parametrisations take all processes."""
        return None


class NoiseParametrization(Parametrization):
    """Noise prediction: the network predicts `z` (J. Ho et al., 2020, arXiv:2006.11239). Refuses ``alpha(T) = 0``.

    Parameters
    ----------
    std, delta
        As for every `Parametrization`.

    Raises
    ------
    ValueError
        As for every `Parametrization`; in `check`, if the process has no signal at T.
    """

    def target(self, at: Transition) -> tuple[Operator, Operator]:
        """Return ``F = z``."""
        return at.Phi * 0.0, at.Phi.one()

    def check(self, sde: LinearSDE) -> None:
        """Refuse a process with ``alpha(T) = 0``, where the noise says nothing about the data."""
        if not sde.has_signal:
            raise ValueError(
                f"{type(sde).__name__} has {sde.signal_at_T}, where a noise estimate determines no data; use "
                "the velocity or EDM parametrisation."
            )


class DataParametrization(Parametrization):
    """Data prediction: the network predicts the clean data ``x_0``.

    The velocity is ``(cos(phi) y − F) / sin(phi)``, in which the network's error grows without limit where noise vanishes. If the
    sine is below half a thousandth, where processes are not trained, half a thousandth is divided by instead. At ``sigma = 0``
    the clean data are the state.

    Parameters
    ----------
    std, delta
        As for every `Parametrization`.
    """

    most = -5e-4

    def target(self, at: Transition) -> tuple[Operator, Operator]:
        """Return ``F = x_0``."""
        return at.Phi.one(), at.Phi * 0.0


class VelocityParametrization(Parametrization):
    """Velocity prediction: the network predicts ``v = cos(phi) z − sin(phi) x_0`` (T. Salimans and J. Ho, 2022,
    arXiv:2202.00512).

    Parameters
    ----------
    std, delta
        As for every `Parametrization`.
    """

    def target(self, at: Transition) -> tuple[Operator, Operator]:
        """Return ``F = A x_0 + B z``."""
        return at.A, at.B


class StraightParametrization(Parametrization):
    """Straight-path prediction: the network predicts ``z − x_0``, which on `Rectified` is the velocity of a path from data to
    noise (Y. Lipman et al., *Flow matching for generative modeling*, 2022, arXiv:2210.02747; X. Liu et al., *Flow straight and
    fast*, 2022, arXiv:2209.03003).

    Parameters
    ----------
    std, delta
        As for every `Parametrization`.
    to_data
        Whether the network gives ``x_0 − z``, as it does if its time runs from noise to data.

    Raises
    ------
    ValueError
        As for every `Parametrization`.
    """

    @check_arguments
    def __init__(self, std: float | None = None, delta: float = 1e-3, to_data: bool = False) -> None:
        super().__init__(std, delta)
        self.to_data = to_data

    def target(self, at: Transition) -> tuple[Operator, Operator]:
        """Return ``F = z − x_0``, or ``x_0 − z``."""
        one, turned = at.Phi.one(), at.Phi.one() * -1.0
        return (one, turned) if self.to_data else (turned, one)


class ScoreParametrization(NoiseParametrization):
    """Score prediction: the network predicts ``F = −R⁻ᵀ z`` (Y. Song and S. Ermon, 2019, arXiv:1907.05600).

    Parameters
    ----------
    std, delta
        As for every `Parametrization`.
    """

    def target(self, at: Transition) -> tuple[Operator, Operator]:
        """Return ``F = −R⁻ᵀ z``."""
        return at.Phi * 0.0, at.R.inv().T * -1.0

    def regular(self, at: Transition) -> tuple[Operator, Operator, Operator]:
        """Return ``−Rᵀ F = z``."""
        return at.Phi * 0.0, at.Phi.one(), at.R.T * -1.0


class EDMParametrization(Parametrization):
    """EDM's preconditioning: the best linear estimate plus a residual of unit variance (T. Karras et al., 2022,
    arXiv:2206.00364).

    ``c_skip x`` is the best linear estimate of the velocity for data of standard deviation `std`, ``c_out`` is the root of the
    covariance of the residual, and ``c_in`` whitens the input. For scalar processes these are the coefficients of EDM. For matrix
    processes they generalise them: only the datum is unknown there, so ``c_out`` has rank one, and the network is not asked for
    what the other channels of the state bring.

    Parameters
    ----------
    std, delta
        As for every `Parametrization`.
    detail
        The smallest length on which the density of the data varies, in units of the data; 0 if there is none, as for data on a
        manifold. Below this noise level the residual is proportional to the noise, and with `detail` ``c_out`` is too.

    Raises
    ------
    ValueError
        If `std` or `delta` is not positive, or `detail` is negative.
    """

    @check_arguments
    def __init__(self, std: float | None = None, delta: float = 1e-3, detail: float = 0.0) -> None:
        super().__init__(std, delta)
        if not detail >= 0:
            raise ValueError(f"detail = {detail}; the smallest length of the data is at least 0.")
        self.detail = detail

    def target(self, at: Transition) -> tuple[Operator, Operator]:
        """Return the combination that is the velocity; `coefficients` does not need it."""
        return at.A, at.B

    def coefficients(self, sde: LinearSDE, at: Marginal, std: float) -> Coefficients:
        """Return the four coefficients at the times of `at`, for data of standard deviation `std` in the units of the process."""
        return self._around(sde, at, at.regress(sde.datum * std**2))

    def _around(self, sde: LinearSDE, at: Marginal, found: tuple[Operator, Operator, Operator]) -> Coefficients:
        """Return the coefficients that follow from the regression of the velocity on the state (`Transition.regress`)."""
        whiten, explained, c_out = found
        if self.detail:
            c_out = c_out * (1 + (self.detail / sde.units.scale) ** 2 * at.snr).rsqrt()
        c_in = whiten @ at.r_inv
        return Coefficients(explained @ c_in, c_out, c_in, self.level(sde, at))


class MatchedParametrization(EDMParametrization):
    """EDM's preconditioning around the Gaussian law with the covariance of the data, in units in which they have mean 0.

    Along each principal axis of the data, or for each of their numbers if only variances are known, the coefficients are those of
    `EDMParametrization` with the variance there. So a network that returns 0 is the exact model of Gaussian data. This holds on
    scalar processes; on others, and until `fit` has measured the data, it is `EDMParametrization`.

    Parameters
    ----------
    delta, detail
        As for `EDMParametrization`.

    Raises
    ------
    ValueError
        As for `EDMParametrization`.
    """

    @check_arguments
    def __init__(self, delta: float = 1e-3, detail: float = 0.0) -> None:
        super().__init__(None, delta, detail)

    def coefficients_along(self, sde: LinearSDE, at: Marginal, P: Operator) -> Coefficients:
        """Return the four coefficients at the times of `at`, for data with the covariance `P`."""
        C, S, A, B = (P.one() @ W for W in (at.C, at.S, at.A, at.B))
        return self._around(sde, at, C.regress(S, A, B, P))
