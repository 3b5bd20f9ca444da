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
        What the network is told of the time, ``()`` or ``(B,)``.
    dtype
        The dtype that the network is called in; None for that of the state.
    bare
        Whether `c_out` is one, so that it costs no pass over the network's output.
    same
        Whether `c_in` is one, so that the network's input is the state itself.
    """

    c_skip: Operator
    c_out: Operator
    c_in: Operator
    c_noise: Tensor
    dtype: torch.dtype | None = None
    bare: bool = False
    same: bool = False

    def inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network is called with for the state `x`: ``c_in x`` in the network's dtype, which may be `x` itself,
        and `c_noise` in the same, but float32 at least, as steps and noise levels cannot be told apart in half precision.
        """
        dtype, c_noise = x.dtype if self.dtype is None else self.dtype, self.c_noise
        if c_noise.dtype != dtype or c_noise.device != x.device:  # that of a prepared question is there already
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

    Subclasses give `a` and `b`; the four coefficients follow by inverting the rotation of `kernels.Transition`, so that
    no reading is ever converted into another pair by pair.

    Parameters
    ----------
    std
        Standard deviation of the data, in their own units, which scales the network's input; None takes the one `fit` measured (1
        before).
    delta
        Resolution of the noise level the network sees, ``c_noise = ¼ log((s + delta) / (c + delta))`` with `c` and `s` the
        cosine and sine of the observation: finite at both ends, and ``¼ log(sigma / alpha)`` between.

    Attributes
    ----------
    most
        An upper bound on the velocity's coefficient in the target, on scalar processes: one that is negative and vanishes at an
        end is kept away from 0, since it is divided by. Infinite for no bound.

    Raises
    ------
    ValueError
        If `std` or `delta` is not positive.
    TypeError
        At a call, if `target` gives no two operators.
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
        """Return ``(a, b, W)`` with ``W F = a x_0 + b z``, finite at both ends; here the target itself, and one."""
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
        """Return what the network is told of the times of `at` on a process, ``()`` or ``(B,)``: by default the noise level."""
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

    The velocity is ``(cos(phi) y − F) / sin(phi)``, in which the network's error grows without limit where noise vanishes. Below
    a sine of half a thousandth, where processes are not trained, it is divided by that; the clean data at ``sigma = 0`` are the
    state.

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
        Whether the network gives ``x_0 − z``, as where its time runs from noise to data.

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

    ``c_skip x`` is the best linear estimate of the velocity for data of standard deviation `std`, ``c_out`` the root of the
    covariance of what it leaves, ``c_in`` whitens the input: for scalar processes the coefficients of EDM, for matrix
    processes their generalisation, where only the datum is unknown: ``c_out`` has rank one, and what the state's other
    channels bring is never asked of the network.

    Parameters
    ----------
    std, delta
        As for every `Parametrization`.
    detail
        The smallest length on which the density of the data varies, in units of the data, or 0 if it has none (data on
        a manifold). Below that noise level the residual is proportional to the noise, and so is ``c_out`` then.

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
        """Return the velocity's combination; `coefficients` gives the four directly."""
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

    Along each principal axis of the data, or for each of their numbers where only variances are known, the coefficients are those
    of `EDMParametrization` with the variance there: a network that returns 0 is the exact model of Gaussian data. For scalar
    processes; elsewhere, and until `fit` has measured the data, it is `EDMParametrization`.

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
