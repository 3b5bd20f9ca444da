"""Linear SDEs that move each coordinate by itself, ``dx_i = f_i(t) x_i dt + g_i(t) dw_i``: what `scalar` and `coordinates`
share.

``f, g`` and ``alpha, sigma`` are two descriptions of one process; each follows from the other. Nothing here evaluates a
coefficient where it is infinite.
"""

from __future__ import annotations

__all__ = ["ElementwiseFlow", "ElementwiseSDE", "Scheduled"]

import math
from abc import abstractmethod
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..fixed import is_followed, remembered, weights_of
from ..laws.kernels import Transition
from ..laws.operators import Elementwise, Operator
from ..laws.products import value_and_slope
from ..transforms import is_unknown
from .base import Flow, HasVelocity
from .dynamics import as_ordered_times, as_time, at_times
from .inverse import Tabulated
from .linear import find_t_min
from .panels import Panels


class ElementwiseSDE(Tabulated):
    """The base class of linear SDEs whose coefficients multiply each coordinate by a number; ``alpha`` and ``sigma`` follow from
    ``f`` and ``g`` by quadrature.

    Attributes
    ----------
    sigma_0
        ``sigma(0)``, the smoothing of the data at ``t = 0``.
    piece
        Length of the pieces on which the coefficients are smooth, for a process whose derivatives jump; None otherwise.
    coefficient_shape
        The shape of a coefficient at one time: ``()`` for numbers.
    """

    sigma_0: float = 0.0
    piece: float | None = None
    coefficient_shape: tuple[int, ...] = ()

    @abstractmethod
    def f(self, t: Tensor) -> Tensor:
        """Return the drift coefficient ``f(t)``."""

    @abstractmethod
    def g(self, t: Tensor) -> Tensor:
        """Return the diffusion coefficient ``g(t)``."""

    @abstractmethod
    def _map(self, name: str, value: Any, t: Tensor) -> Elementwise:
        """Return a coefficient at the times `t` as an operator, checked for its shape."""

    def _accept(self, name: str, value: Any) -> Any:
        """Return the value that the method of a coefficient has returned; `Scheduled` refuses values without derivative."""
        return value

    @property
    def state(self) -> Any:
        """All that the coefficients depend on besides the time, by which a change is seen: the weights of a module, or the
        tensors, arrays, lists and networks that another object holds.
        """
        return weights_of(self)

    @cached_property
    def _quadratures(self) -> list[tuple[Tensor, Any, tuple[Tensor, Tensor]]]:
        """The last quadratures: a tensor of times, its version with the state of the process, and the results."""
        return []

    def _quadrature(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log alpha`` and the logarithm of the variance that has come since 0.

        `alpha` and `sigma` ask for a quadrature one after the other with the same tensor, and so do the marginals of a
        transition's two times. So the last few results are kept, but for those that carry gradients, whose graphs are used once.
        """
        if t.is_inference():  # tensors of inference keep no version, by which a change would be seen
            return self._known_panels()(t)
        state = (t._version, self._quadrature_state)
        for known, then, pair in self._quadratures:
            if known is t and then == state:
                return pair
        pair = self._known_panels()(t)
        if not any(v.requires_grad or v.is_inference() or is_unknown(v) for v in pair):
            self._quadratures[:] = [(t, state, pair), *self._quadratures[:3]]
        return pair

    @property
    def _quadrature_state(self) -> tuple[Any, bool]:
        """What a quadrature depends on besides its times: the state of the coefficients, and whether derivatives are recorded."""
        return self.state, torch.is_grad_enabled()

    def _known_panels(self) -> Panels:
        """Return the panels of the coefficients."""

        def make() -> Panels:
            number = 1024 if self.piece is None else max(1, min(round(self.T / self.piece), 4096))
            f, g = (partial(at_times, self, name) for name in ("f", "g"))
            return Panels(f, g, 0.0, self.T, number, self.piece is not None, self.coefficient_shape)

        return self._kept_panels((self.state, is_followed(self)), make)

    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal coefficient ``alpha(t) = exp ∫_0^t f``."""
        return self._quadrature(t)[0].exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise coefficient ``sigma(t)``, with ``sigma² = alpha² (sigma_0² + ∫_0^t g² / alpha²)``."""
        log_alpha, log_variance = self._quadrature(t)
        if not self.sigma_0:
            return (0.5 * log_variance).exp()
        return (2 * (log_alpha + math.log(self.sigma_0))).logaddexp(log_variance).mul(0.5).exp()

    t_min = remembered(find_t_min)

    def drift_operator(self, t: Tensor | float) -> Elementwise:
        """Return ``f(t)``."""
        t = as_time(t, self.T)
        return self._map("f", at_times(self, "f", t), t)

    def diffusion_operator(self, t: Tensor | float) -> Elementwise:
        """Return ``g(t)``."""
        t = as_time(t, self.T)
        return self._map("g", at_times(self, "g", t), t)

    def _marginal(self, t: Tensor) -> tuple[Operator, Operator]:
        """Return `alpha` and `sigma`."""
        return self._map("alpha", at_times(self, "alpha", t), t), self._map("sigma", at_times(self, "sigma", t), t)

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        """Return the law ``x_t | x_s ~ N(alpha_t / alpha_s x_s, sigma_t² − (alpha_t / alpha_s)² sigma_s²)``.

        The variance is ``−sigma_t² expm1(lambda_t − lambda_s)`` with the log-SNR lambda of each coordinate, which keeps its
        digits when the times are close.
        """
        s, t = as_ordered_times(s, t, self.T)
        sigma_s, sigma_t = self._values("sigma", s), self._values("sigma", t)
        ratio = (self._log_alpha(t) - self._log_alpha(s)).exp()
        ratio = torch.where(ratio.isnan(), sigma_t / sigma_s, ratio)  # no signal at either: the noise is carried on
        left = (-torch.expm1(self._fall_of_each(s, t))).clamp_min(0).sqrt()
        both = torch.broadcast_tensors(s, t)[0]
        return Transition(self._map("alpha", ratio, both), self._map("sigma", sigma_t * left, both))

    def _values(self, name: str, t: Tensor) -> Tensor:
        """Return a coefficient at checked times, float64 ``(*t.shape, *coefficient_shape)``."""
        value = torch.as_tensor(at_times(self, name, t), dtype=torch.float64)
        return value.expand((*t.shape, *self.coefficient_shape))

    def _log_alpha(self, t: Tensor) -> Tensor:
        """Return ``log alpha`` at checked times, also where `alpha` itself underflows."""
        if type(self).alpha is ElementwiseSDE.alpha:
            return self._quadrature(t)[0]
        return self._values("alpha", t).log()

    def levels(self, t: Tensor | float) -> Tensor:
        """Return ``2 log(alpha / sigma)`` of each coordinate, ``(*t.shape, *coefficient_shape)``; −inf where no signal is left,
        inf where there is no noise.
        """
        t = as_time(t, self.T)
        return 2 * (self._log_alpha(t) - self._values("sigma", t).log())

    def _fall_of_each(self, s: Tensor, t: Tensor) -> Tensor:
        """Return by how much `levels` change from `s` to `t`, a negative number; 0 where both are the same infinity."""
        return (self.levels(t) - self.levels(s)).nan_to_num(nan=0.0, posinf=1e300, neginf=-1e300)


class ElementwiseFlow(Flow):
    """The base class of probability flows in the angle ``atan(1 / √snr)`` of the process as time, and the normalised state
    ``y = r⁻¹ x``.

    A subclass gives the slope ``dy/dphi`` by `field`, and by `ask` as a question for the model.
    """

    sde: ElementwiseSDE

    def __init__(self, sde: ElementwiseSDE, model: HasVelocity) -> None:
        self.sde, self.model = sde, model

    def clock(self, t: Tensor) -> Tensor:
        """Return the angle ``phi(t)``."""
        return self.sde.angle_at(t)

    def time(self, tau: Tensor) -> Tensor:
        """Return the time of an angle."""
        return self.sde.time_of_angle(tau)

    def r(self, t: Tensor) -> Operator:
        """Return the root ``r = √(alpha² + sigma²)``, of each coordinate where they differ."""
        return self.sde.marginal(t).r

    def slope(self, x: Tensor, question: Any) -> Tensor:
        """Return ``dy/dphi``."""
        return self.model.answer(x, question)


class Scheduled(ElementwiseSDE):
    """The base class of processes given by a noise schedule, ``x_t = alpha(t) x_0 + sigma(t) z``; ``f`` and ``g`` follow by
    differentiation.

    ``f = d log alpha / dt`` and ``g² = d sigma² / dt − 2 f sigma²``, by forward-mode differentiation: the methods must be
    differentiable torch functions of `t`.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return the signal coefficient ``alpha(t)``."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise coefficient ``sigma(t)``."""

    def f(self, t: Tensor) -> Tensor:
        """Return ``alpha' / alpha``."""
        alpha, slope = self._derivative("alpha", t)
        return slope / alpha

    def g(self, t: Tensor) -> Tensor:
        """Return ``√(2 sigma (sigma' − f sigma))``, and the limit of this where `sigma` starts like ``√t`` and has no slope at
        0.
        """
        g = self._g(t)
        lost = g.isnan()
        return torch.where(lost, self._g(t + 1e-12 * self.T), g) if lost.any() else g

    def _g(self, t: Tensor) -> Tensor:
        sigma, slope = self._derivative("sigma", t)
        return (2 * sigma * (slope - self.f(t) * sigma)).sqrt()

    def _accept(self, name: str, value: Any) -> Any:
        """Return the value that a method of the schedule has returned; refuse an array, whose derivative by time is lost."""
        if isinstance(value, np.ndarray) and value.ndim:
            raise TypeError(
                f"{type(self).__name__}.{name} returned an array of NumPy, which has no derivative by t, and f and g follow "
                "from it; write it with elementwise torch functions of t."
            )
        return value

    def _derivative(self, name: str, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return a coefficient at times and its derivative by time; refuse a coefficient without derivative."""
        lifted = partial(self._lift, name)
        t = t.contiguous()  # forward mode writes in place, which expanded times do not allow
        try:
            value, slope = value_and_slope(lifted, t, torch.ones_like(t))
        except (TypeError, ValueError, RuntimeError) as error:
            lifted(t)  # raises what the coefficient itself raises
            raise self._underivable(name, f" ({error})") from error
        if not is_unknown(slope) and not slope.any():  # as of a constant
            apart = self.T * torch.tensor([0.3, 0.6], dtype=torch.float64)
            first, second = lifted(apart)
            if not torch.equal(first, second) and not value_and_slope(lifted, apart, torch.ones_like(apart))[1].any():
                raise self._underivable(name, ": it detaches, or forms a new tensor of numbers")
        return value, slope

    def _lift(self, name: str, t: Tensor) -> Tensor:
        """Return a coefficient at times, ``(*t.shape, *coefficient_shape)``."""
        value = self._accept(name, at_times(self, name, t))
        return torch.as_tensor(value, dtype=torch.float64).expand((*t.shape, *self.coefficient_shape))

    def _underivable(self, name: str, why: str) -> TypeError:
        return TypeError(
            f"{type(self).__name__}.{name} has values and no derivative by t, from which f and g follow{why}; write it with "
            "elementwise torch functions of t."
        )
