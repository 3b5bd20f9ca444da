"""The base classes of measurements: a map of data that torch can differentiate, and the law of its noise.

Measurements to use are in `measurements`, laws of noise in `noises`. Score models given a measurement are in `measured`, `kalman`
and `replacement`.

Methods need two things of a measurement: the log-likelihood of the measured values, with its derivatives, and near a predicted
datum a linear map with Gaussian noise. If the map is linear and the noise Gaussian, the latter is the measurement itself
(`LinearMeasurement`); otherwise it is made of Jacobian–vector products (`Measurement.product_at`, `transpose_at`) and
`NoiseLaw.local_gaussian`.
"""

from __future__ import annotations

__all__ = [
    "LinearMeasurement",
    "Measurement",
    "Nonlinear",
    "as_measured",
    "check_measured",
    "refuse_own_y",
    "require_measured",
]

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..answers import check_answer, check_each
from ..arguments import asked_as, check_arguments
from ..blocks import OfTensors
from ..checks import check_tensor, kind_of
from ..conditions import Conditions
from ..dense import with_all_digits
from ..fixed import Fixed
from ..laws.products import pull_back, value_and_slope
from ..models.score import ScoreModel
from ..precision import dtype_of, uncast
from ..show import show_call
from ..transforms import is_unknown
from .conjugate_gradients import Map
from .near import refuse_mixing
from .noises import GaussianNoise, LocalGaussian, NoiseLaw


@asked_as("a measurement, such as measurements.Nonlinear(function, std)")
class Measurement(OfTensors, Fixed, ABC):
    """The base class of measurements: ``y ~ p(y | f(x))`` with any map `f` that torch can differentiate, and any noise.

    Subclass it with `__call__`, the map without its noise; `Nonlinear` takes a function. If the map is linear and the noise
    Gaussian, take `LinearMeasurement`, which can do more.

    Parameters
    ----------
    noise
        The law of the noise; a number is the standard deviation of Gaussian noise.

    Raises
    ------
    ValueError
        If `noise` is a number that is not positive.
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, noise: NoiseLaw | float) -> None:
        self.noise = noise if isinstance(noise, NoiseLaw) else GaussianNoise(noise)

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Measure data ``(B, *)`` without noise, and return ``f(x)``, ``(B, *)`` of any shape."""

    def measure(self, x: Tensor) -> Tensor:
        """Return ``f(x)``, checked: one measurement for each datum, in the dtype of the data."""
        if not isinstance(x, Tensor) or x.ndim == 0:
            check_tensor("x", x, floating=False, finite=False)
            raise ValueError("x has no axes; give data (B, *), a row for each.")
        with uncast(x):
            return check_each(self._name, self(x), len(x), x, "one measurement for each datum, (B, *)")

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Measure data, and return what is seen, with noise."""
        return self.noise.sample(self.measure(x), generator)

    def log_prob(self, y: Any, x: Tensor) -> Tensor:
        """Return ``log p(y | x)`` in nats, ``(B,)``, for a tensor or array `y`; raise a ValueError if `y` has not the shape of a
        measurement of `x`.
        """
        seen, y = self.measure(x), as_measured(y)
        if y.shape != seen.shape:
            raise ValueError(f"y has shape {tuple(y.shape)}; expected that of what is measured, {tuple(seen.shape)}.")
        who, must = f"{type(self.noise).__name__}.log_prob", "one number for each datum"
        return check_answer(who, self.noise.log_prob(y, seen), y.shape[:1], seen, must)

    def refuse_mixing(self, model: ScoreModel) -> None:
        """Raise a ValueError if the map does not measure each datum of a model alone; check nothing if the model's moments are
        not known.
        """
        refuse_mixing(self._name, self.measure, model)

    def local_gaussian(self, y: Tensor, seen: Tensor) -> LocalGaussian:
        """Return a Gaussian that stands for the likelihood of `y` where ``f(x)`` is near `seen`; raise a ValueError if `seen` is
        not finite.
        """
        if not seen.isfinite().all():
            raise ValueError(
                f"{self._name} returned NaN or infinite values for predicted data; give a function that is finite wherever the "
                "model may predict."
            )
        return self.noise.local_gaussian(y, seen)

    def product_at(self, x: Tensor) -> Map:
        """Return the product with the Jacobian at data `x`, ``v -> (∂f/∂x) v``."""
        return lambda v: value_and_slope(self.measure, x, v)[1]

    def transpose_at(self, x: Tensor) -> Map:
        """Return the product with the transposed Jacobian at data `x`, ``u -> (∂f/∂x)ᵀ u``."""
        return pull_back(lambda x: (self.measure(x), ()), x)[2]

    def check_derivative(self, seen: Tensor, u: Tensor, slope: Tensor) -> None:
        """Raise a ValueError if the derivative of the map is zero at all data while its values differ: it rounds or leaves torch.

        Parameters
        ----------
        seen
            ``f(x)`` of several data, ``(B, *)``.
        u, slope
            A vector, and its product with the transposed derivative.
        """
        if not slope.any() and u.any() and (seen != seen[:1]).any():
            raise ValueError(
                f"the derivative of {self._name} is zero at all data, and its values differ: it rounds, thresholds, detaches or "
                "leaves torch. Let derivatives through, and say what rounds by the noise (QuantisedNoise, BernoulliNoise)."
            )

    def explain_failure(self, x: Tensor) -> None:
        """Raise a ValueError if the map has values at data `x`, but torch cannot differentiate it; else do nothing."""
        if is_unknown(x):  # within a transform of torch, where derivatives of derivatives fail in ways of their own
            return
        with torch.no_grad():
            self(x)
        try:
            with torch.enable_grad():
                differentiable = self(x.detach().requires_grad_()).requires_grad
        except RuntimeError:
            differentiable = False
        if not differentiable:
            raise ValueError(
                f"{self._name} cannot be differentiated by torch, as where it leaves torch for NumPy; compute with functions of "
                "torch, or with a torch.autograd.Function that has a derivative."
            )

    @property
    def _name(self) -> str:
        return type(self).__name__


@asked_as("a linear measurement, such as measurements.Linear(A, std)")
class LinearMeasurement(Measurement):
    """The base class of linear measurements with Gaussian noise: ``y = A x + std n``, `n` standard normal.

    Subclass it with `__call__`, the map without its noise.

    Parameters
    ----------
    std
        Standard deviation of the noise, in units of `y`; positive.

    Raises
    ------
    ValueError
        If `std` is not positive.

    Examples
    --------
    >>> import torch
    >>> class Differences(LinearMeasurement):
    ...     def __call__(self, x):
    ...         return x.diff(dim=1)
    >>> Differences(std=0.1)(torch.tensor([[1.0, 2.0, 4.0]]))
    tensor([[1., 2.]])
    """

    @check_arguments
    def __init__(self, std: float) -> None:
        super().__init__(std)
        self.std = float(std)

    def local_gaussian(self, y: Tensor, seen: Tensor) -> LocalGaussian:
        """Return the likelihood itself, up to a constant."""
        return self.noise.local_gaussian(y, seen)

    def product_at(self, x: Tensor) -> Map:
        """Return `measure`, the same at all data."""
        return self.measure

    def transpose_at(self, x: Tensor) -> Map:
        """Return the map `transpose`, for data of the shape of `x`, the same at all data."""
        return lambda u: self.transpose(u, x.shape[1:])

    def check_derivative(self, seen: Tensor, u: Tensor, slope: Tensor) -> None:
        """Refuse nothing: a linear map that is not constant has a derivative."""

    def transpose(self, y: Tensor, shape: torch.Size) -> Tensor:
        """Return ``Aᵀ y``, data ``(B, *shape)``."""
        zero = y.new_zeros(len(y), *shape)
        return pull_back(lambda x: (self.measure(x), ()), zero)[2](y)

    def matrix(self, shape: torch.Size) -> Tensor:
        """Return `A` for data of this shape, ``(m, d)`` over the flattened data, float64."""
        d = math.prod(shape)
        basis = torch.eye(d, dtype=torch.float64).reshape(d, *shape)
        return self.measure(basis).reshape(d, -1).T


class Nonlinear(Measurement):
    """A measurement by any function that torch can differentiate, with any noise.

    For example magnitudes ``|A x|`` (phase retrieval), ``x.clamp(-1, 1)`` (saturation), a gamma curve, or a network; also a
    linear map if the noise is not Gaussian. Methods that need a matrix take the derivative at the predicted datum.

    Parameters
    ----------
    operator
        Returns the measurement of each of the data ``(B, *)``, ``(B, *)`` of any shape.
    noise
        The law of the noise; a number is the standard deviation of Gaussian noise.

    Raises
    ------
    ValueError
        If `noise` is a number that is not positive; in a run, if the function is not finite, or has no derivative.

    Examples
    --------
    >>> import torch
    >>> A = Nonlinear(lambda x: x.square(), 0.1)
    >>> A(torch.tensor([[3.0]])).tolist(), A.product_at(torch.tensor([[3.0]]))(torch.ones(1, 1)).tolist()
    ([[9.0]], [[6.0]])
    """

    @check_arguments
    def __init__(self, operator: Callable[[Tensor], Tensor], noise: NoiseLaw | float) -> None:
        super().__init__(noise)
        self.operator = operator

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``operator(x)``; a network is called in the dtype of its weights."""
        return self.operator(x.to(dtype_of(self.operator, x)))


def as_measured(y: Any) -> Tensor:
    """Return measured values as a tensor.

    Raises
    ------
    TypeError
        If they are not real numbers.
    """
    try:
        given = with_all_digits(y)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"y {kind_of(y)}; give a tensor of what was measured, or numbers.") from None
    if given.is_complex():
        raise TypeError(f"y has dtype {given.dtype}; give real numbers of what was measured.")
    return given


def refuse_own_y(model: ScoreModel) -> Conditions:
    """Return the conditions of a model that is to be given a measurement `y`; refuse one that has such a condition of its own.

    It would never be given that. A measurement inside has another refusal (`require_measured`).

    Raises
    ------
    ValueError
        If it has.
    """
    known = model.conditions
    inside: Any = model
    while not hasattr(inside, "measurement") and isinstance(getattr(inside, "model", None), ScoreModel):
        inside = inside.model
    if "y" in known.names and not hasattr(inside, "measurement"):
        raise ValueError(
            f"{type(model).__name__} has a condition 'y' of its own, and here y is what was measured; let the network's forward "
            "call it otherwise, such as 'y_of', or leave it out, guidance.Without(model, ['y'])."
        )
    return known


def require_measured(cond: dict[str, Any], seen: Tensor) -> Tensor:
    """Return the condition `y`, the measured values, as `check_measured` does; refuse conditions without `y`."""
    if "y" not in cond:
        one, each = tuple(seen.shape[1:]), tuple(seen.shape)
        raise ValueError(
            f"what was measured is missing: pass y=..., of shape {one} for all samples or {each} for each. Of what has this "
            "model inside, another measurement keeps y for itself (join the two), and guidance against a null drops it unless "
            "drop=[...] names what is dropped."
        )
    return check_measured(cond["y"], seen)


def check_measured(y: Any, seen: Tensor) -> Tensor:
    """Return the values `y`, measured of one datum or of each, with a row for each row of `seen`, noiseless measurements of data.

    Raises
    ------
    ValueError
        If `y` has another shape.
    """
    one = tuple(seen.shape[1:])
    y = as_measured(y).to(seen)
    y = y.reshape(one) if y.ndim == 0 and seen[0].numel() == 1 else y
    if y.shape not in (seen.shape, one, (1, *one)):
        raise ValueError(
            f"y has shape {tuple(y.shape)}; expected what is measured of one datum, {one}, or of each, {tuple(seen.shape)}."
        )
    return y.expand(seen.shape)
