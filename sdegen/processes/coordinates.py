"""Linear SDEs whose coefficients differ by coordinate of the data, in their own axes or in those of an orthonormal basis:
`CoordinateSDE` from ``f, g``, `CoordinateScheduleSDE` from ``alpha, sigma``.
"""

from __future__ import annotations

__all__ = ["CoordinateFlow", "CoordinateSDE", "CoordinateScheduleSDE", "is_by_coordinate"]

from abc import abstractmethod
from typing import Any, TypeGuard

import torch
from torch import Tensor

from ..fixed import kept_property
from ..laws.bases import Basis
from ..laws.diagonal import Diagonal, mean_log_snr
from ..laws.mixtures import GaussianMixture, Moments
from ..laws.operators import Operator
from ..laws.products import Field, value_and_slope
from .base import SDE, HasVelocity
from .dynamics import as_time, at_times, coefficient
from .elementwise import ElementwiseFlow, ElementwiseSDE, Scheduled

NEAREST = 1e-10  # of T: earlier times have the rates of the flow at this time


class CoordinateSDE(ElementwiseSDE):
    """The base class of linear SDEs given by drift and diffusion for each coordinate, ``dx_i = f_i(t) x_i dt + g_i(t) dw_i``, in
    the data's own axes or in an orthonormal basis.

    Methods are torch functions of a float64 `t` that return a number for each number of a datum, ``(*t.shape, *event)``: write
    ``t[..., None]`` for vectors. States, networks and noise stay in the data's own space; only the coefficients are numbers along
    the axes of the basis. ``alpha`` and ``sigma`` follow by quadrature. One coordinate's ratio of signal to noise may fall faster
    than another's: the clock of grids and training times is the ratio of a single number that would tell as much
    (`Operator.log_snr`).

    Attributes
    ----------
    basis
        The orthonormal basis (`laws.bases`); None for the data's own axes.
    sigma_0
        ``sigma(0)``, the smoothing of the data at ``t = 0``, the same for all coordinates.

    Raises
    ------
    ValueError
        In use, if a coefficient has another shape than the data.

    Examples
    --------
    >>> class Anisotropic(CoordinateSDE):
    ...     rates = torch.tensor([1.0, 5.0], dtype=torch.float64)
    ...     def f(self, t): return -self.rates * t[..., None]
    ...     def g(self, t): return (2 * self.rates * t[..., None]).sqrt()
    >>> Anisotropic().alpha(torch.tensor(1.0, dtype=torch.float64)).log().tolist()
    [-0.5, -2.5]
    """

    is_by_coordinate = True
    basis: Basis | None = None

    @abstractmethod
    def f(self, t: Tensor) -> Tensor:
        """Return the drift coefficients, ``(*t.shape, *event)``."""

    @abstractmethod
    def g(self, t: Tensor) -> Tensor:
        """Return the diffusion coefficients, ``(*t.shape, *event)``."""

    def _coefficients_at(self, t: Tensor) -> tuple[Any, ...]:
        """Return the coefficients that the process is given by, at a time."""
        return self.f(t), self.g(t)

    @kept_property
    def coefficient_shape(self) -> tuple[int, ...]:
        """The shape of a datum, `event`, as the coefficients say."""
        t = torch.tensor(0.5 * self.T, dtype=torch.float64)
        shapes = {tuple(torch.as_tensor(c).shape) for c in self._coefficients_at(t)} - {()}
        if len(shapes) != 1 or () in shapes:
            raise ValueError(
                f"coefficients of {type(self).__name__} have shapes {sorted(shapes) or [()]} at one time; give a number for each "
                "of a datum, (*t.shape, *event), or derive the process from ScalarSDE."
            )
        return shapes.pop()

    @property
    def event_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape of a datum."""
        return self.coefficient_shape

    @property
    def Sigma_0(self) -> Tensor:  # type: ignore[override]
        """``sigma_0²`` times the identity, ``(d, d)``."""
        d = torch.Size(self.coefficient_shape).numel()
        return self.sigma_0**2 * torch.eye(d, dtype=torch.float64)

    def _map(self, name: str, value: Any, t: Tensor) -> Diagonal:
        shape, who = self.coefficient_shape, f"{type(self).__name__}.{name}"
        c = coefficient(who, self._accept(name, value), t, () if isinstance(value, (int, float)) else shape)
        return Diagonal(c.expand((*t.shape, *shape)).reshape(-1, *shape), self.basis)

    @kept_property
    def datum(self) -> Operator:
        """The identity: states are the data."""
        return Diagonal(torch.ones(1, *self.coefficient_shape, dtype=torch.float64), self.basis)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return the logarithm of the ratio `snr` with ``log(1 + snr)`` the mean of ``log(1 + alpha_i² / sigma_i²)`` over the
        coordinates, unless the process declares its `clock`.
        """
        t = as_time(t, self.T)
        declared = self.clock(t)
        return mean_log_snr(self.levels(t).flatten(t.ndim)) if declared is None else declared

    def _log_snr_and_slope(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log snr`` and its derivative: ``log(1 + snr)`` falls by the mean of ``g² / sigma² snr_i / (1 + snr_i)``,
        unless the process declares its `clock`.
        """
        if self.clock(t) is not None:
            return value_and_slope(self.log_snr, t, torch.ones_like(t))
        levels = self.levels(t).flatten(1)
        level = mean_log_snr(levels)
        rates = (self._map("g", at_times(self, "g", t), t).c / self._values("sigma", t)).square().flatten(1)
        return level, -(rates * (levels.sigmoid() / level.sigmoid()[:, None])).mean(1)

    def flow(self, model: HasVelocity) -> CoordinateFlow:
        """Return the probability flow in the angle of the clock."""
        return CoordinateFlow(self, model)

    def along(self, covariance: Tensor) -> Tensor:
        """Return a covariance ``(d, d)`` of data along the axes of the process."""
        if self.basis is None:
            return covariance
        unit = torch.eye(len(covariance), dtype=covariance.dtype).reshape(-1, *self.coefficient_shape)
        axes = self.basis(unit).flatten(1)
        return axes.T @ covariance @ axes

    def variances(self, covariance: Tensor) -> Tensor:
        """Return the variances of data along the axes of the process, ``(1, *event)``, from their covariance ``(d, d)``, or
        from the variances of their own numbers ``(d,)``, as if these were independent.
        """
        shape = 1, *self.coefficient_shape
        if covariance.ndim == 2:
            return self.along(covariance).diagonal().reshape(shape)
        own = covariance.reshape(shape)
        return own if self.basis is None else self.basis.variances(own)

    def turning(self, t: Tensor) -> Tensor:
        """Return the rates ``dphi_i / dphi`` by which the angles of the coordinates turn with the angle of the clock, at
        times.
        """
        t = t.clamp(NEAREST * self.T, self.t_max)
        levels = self.levels(t)
        clock, fall = (
            v.reshape(*t.shape, *[1] * (levels.ndim - t.ndim)) for v in self._log_snr_and_slope(t.reshape(-1))
        )
        pull = (self.diffusion_operator(t).c.reshape(levels.shape) / self._values("sigma", t)).square()
        turns = (levels.sigmoid() * (-levels).sigmoid() / (clock.sigmoid() * (-clock).sigmoid())).sqrt()
        return -pull / fall * turns

    def prior(self, moments: Moments) -> Any:
        """Return the Gaussian that matches the moments of the states at T; where of the data only variances are known, it matches
        the variances along the basis.
        """
        if self.basis is None or moments.covariance.ndim == 2:
            return super().prior(moments)
        v = self.variances(moments.covariance)
        v = v + 1e-12 * v.max().clamp_min(1e-12)
        law = GaussianMixture(torch.ones(1, dtype=torch.float64), moments.mean[None], v, self.basis)
        return law.diffuse(self._constant_marginal(self.T))


class CoordinateScheduleSDE(Scheduled, CoordinateSDE):
    """The base class of linear SDEs given by a noise schedule for each coordinate, ``alpha_i(t)`` and ``sigma_i(t)``, in the
    data's own axes or in an orthonormal basis; ``f`` and ``g`` follow by differentiation.

    Methods are torch functions of a float64 `t` that return ``(*t.shape, *event)``, as for `CoordinateSDE`, differentiable
    by `t`.
    """

    def _coefficients_at(self, t: Tensor) -> tuple[Any, ...]:
        return self.alpha(t), self.sigma(t)


class CoordinateFlow(ElementwiseFlow):
    """The probability flow of a process by coordinate, in the angle ``atan(1 / √snr)`` of its clock and the normalised state
    ``y = r⁻¹ x``.

    Each coordinate turns by its own angle, ``dy_i / dphi_i = v_i`` with ``dphi_i / dt = ½ (g_i² / sigma_i²) cos(phi_i)
    sin(phi_i)``. The angle of the clock turns by a mean of these rates, so that ``dphi_i / dphi`` is of the order of one at both
    ends.
    """

    sde: CoordinateSDE

    def rates(self, t: Tensor) -> Diagonal:
        """Return ``dphi_i / dphi`` at times of the process."""
        return self.sde._map("rates", self.sde.turning(t), t)

    def field(self, tau: Tensor) -> Field:
        """Return ``dy/dphi`` at one angle, as a function of the state."""
        t = self.time(tau)
        at, rates = self.sde.marginal(t), self.rates(t)
        return lambda y: rates(self.model.velocity_at(at.r(y), at))

    def ask(self, tau: Tensor) -> list[Any]:
        """Return questions for the model's velocity, times the rates, at each of the angles."""
        t = self.time(tau)
        return self.model.ask(t, velocity=self.rates(t))


def is_by_coordinate(sde: SDE) -> TypeGuard[CoordinateSDE]:
    """Tell whether a process is linear with numbers ``alpha_i(t)`` and ``sigma_i(t)`` for each coordinate."""
    return sde.is_by_coordinate
