"""Base classes of guidance: a wrapper that changes the predicted clean state (`CleanState`) or adds a gradient (`Tilted`)."""

from __future__ import annotations

__all__ = [
    "CleanState",
    "Guided",
    "Tilted",
    "check_same_process",
    "check_scale",
    "check_units",
    "inverse",
    "require_clean_means",
    "indicate_interval",
]

from abc import abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..answers import check_answer
from ..checks import check_interval, check_number
from ..laws.mixtures import Moments
from ..laws.operators import Operator, rows
from ..models.score import ScoreModel
from ..models.wrapper import Wrapper
from ..processes.base import SDE
from ..processes.linear import LinearSDE, as_linear
from ..recall import recall


class Guided(Wrapper):
    """A score model that wraps another and changes its predictions.

    Parameters
    ----------
    model
        Any score model.
    """


class CleanState(Guided):
    """A score model that changes the predicted clean state of another, and the predicted noise consistently: ``eps' = eps
    + R⁻¹ Phi (x_0 − x_0')``.

    So ``x = Phi x_0' + R eps'`` still holds, and every sampler follows the changed estimate. Where `R` is singular, as at
    ``t = 0`` of most processes, the state alone does not tell the noise, and the noise stays as the model gives it. Only the data
    in the clean state are changed, ``extract(x_0)``; other channels of a matrix process stay. Subclass it with `estimate`, which
    calls `_restated`.

    Parameters
    ----------
    model
        A score model of a linear process.
    others
        Arguments for the constructor of a second base class, such as `AgainstNull` of `RescaledGuidance`.

    Raises
    ------
    TypeError
        If the process is not linear: it has no closed-form clean state.
    """

    def __init__(self, model: ScoreModel, *others: Any) -> None:
        super().__init__(model, *others)
        require_clean_means(self)

    @abstractmethod
    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the changed clean state, and the noise consistent with it."""

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score ``−R⁻ᵀ eps'`` of the changed prediction."""
        return self._marginal(t).score_from_noise(self.noise(x, t, **cond))

    def _restated(self, t: Tensor | float, x_0: Tensor, eps: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        """Put `data`, in the units of the process, in place of those in the clean state, and return this state and its noise."""
        at, change = self._marginal(t), self.sde.embed(data - self.sde.extract(x_0))
        to_noise = inverse(at.R) @ at.Phi
        return x_0 + change, eps - to_noise(change)


class Tilted(Guided):
    """A score model that adds the gradient of a log-weight to the score of another: ``score' = score + scale ∇ log h_t(x)``.

    ``eps' = eps − scale Rᵀ ∇ log h`` and ``x_0' = x_0 + scale Phi⁻¹ R Rᵀ ∇ log h``, so every reading has the same tilt. Where
    ``alpha = 0`` the state tells nothing of the data, and nothing is added. If `h_t` is the probability of an event given the
    state, scale 1 gives the score given the event (Bayes' rule). Subclass it with `tilted`.

    Parameters
    ----------
    model
        A score model of a linear process.
    scale
        A number, by which the gradient is multiplied.
    interval
        ``(first, last)``: times outside which the model is used as it is (T. Kynkäänniemi et al., 2024, arXiv:2404.07724).

    Raises
    ------
    TypeError
        If the process is not linear.
    ValueError
        If the scale is not finite, or the interval out of order.
    """

    conditioned = True

    def __init__(self, model: ScoreModel, scale: float = 1.0, interval: tuple[float, float] | None = None) -> None:
        super().__init__(model)
        require_clean_means(self)
        self.scale, self.interval = check_scale(scale, interval, self.sde.T)

    @abstractmethod
    def tilted(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the model's clean state and noise, and ``∇ log h_t(x)``, each of the shape of `x`."""

    def _tilted(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, ...]:
        """Return what `tilted` returns, each part checked for the shape of the state."""
        who, said = f"{type(self).__name__}.tilted", self.tilted(x, t, **cond)
        if not isinstance(said, tuple) or len(said) != 3:
            raise TypeError(f"{who} returned no tuple of three; give clean state, noise and gradient.")
        return tuple(check_answer(who, part, x.shape, x) for part in said)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the tilted clean state and its noise."""
        weight = indicate_interval(self.interval, t) * self.scale
        if not weight.any():
            return self.model.estimate(x, t, **self.passed_on(**cond))
        x_0, eps, slope = self._tilted(x, t, **cond)
        more_x_0, more_eps = self.resolve_gradient(slope * rows(weight, x), t)
        return x_0 + more_x_0, eps + more_eps

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return None: the moments of the tilted law are not known."""
        return None

    def resolve_gradient(self, slope: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Return ``Phi⁻¹ R Rᵀ slope`` and ``−Rᵀ slope``, which a gradient `slope` of the log-density at `t` adds to clean state
        and noise.
        """
        at = self._marginal(t)
        known = ~at.Phi.log_abs_det().isneginf()  # without signal a state tells nothing of the data
        return self.to_clean(t)(slope), (at.R.T * (-1.0 * known))(slope)

    def to_clean(self, t: Tensor | float) -> Operator:
        """Return ``Phi⁻¹ R Rᵀ``, which turns a gradient of the log-density into a change of the clean state; 0 where there
        is no signal.
        """
        at = self._marginal(t)
        return inverse(at.Phi) @ at.covariance

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the tilted score, as ``−R⁻ᵀ eps'``, or as ``score + scale ∇ log h`` at times without noise."""
        at, weight = self._marginal(t), indicate_interval(self.interval, t) * self.scale
        if not at.R.log_abs_det().isneginf().any():
            return at.score_from_noise(self.noise(x, t, **cond))
        score = self.model.score(x, t, **self.passed_on(**cond))
        return score + self._tilted(x, t, **cond)[2] * rows(weight, x) if weight.any() else score


def require_clean_means(wrapper: Guided) -> LinearSDE:
    """Return the process of a wrapper; raise an error if the process does not give posterior means of clean data in
    closed form.
    """
    why = f": its noised states have no closed-form posterior means to change; sample without {type(wrapper).__name__}."
    sde = as_linear(wrapper.sde, why)
    if sde.coordinates is not None:
        raise TypeError(
            f"{type(wrapper).__name__} changes or measures means of clean data, and the process has data in other coordinates, "
            f"{sde.coordinates!r}, whose means are not those of the data; sample without it, or model the data as they are."
        )
    return sde


def check_units(ours: SDE, theirs: SDE, what: str) -> None:
    """Raise a ValueError if a second model or classifier has the data in other units, so that its states differ.

    Parameters
    ----------
    ours, theirs
        The processes of the model and of the other.
    what
        The other's name in the sentence.
    """
    if theirs.units is not ours.units and not ours.units.agree(theirs.units):
        raise ValueError(
            f"{what} was made for data in units of scale {theirs.units.scale:.6g}, the model for {ours.units.scale:.6g}, and "
            "their states differ; make it with the process of the fitted model, model.sde, which keeps its units in training."
        )


def check_same_process(ours: ScoreModel, theirs: ScoreModel, what: str) -> None:
    """Raise a ValueError if a second model has another process, or the data in other units; a TypeError if a process is not
    linear.

    Parameters
    ----------
    ours, theirs
        The models.
    what
        The other's name in the sentence.
    """
    check_units(ours.sde, theirs.sde, what)
    why = ": it cannot be told whether two models have one process."
    one, other = (as_linear(m.sde, why) for m in (ours, theirs))
    if not recall(partial(_agree, one, other), "one process", one, other):  # asked at every step of a training
        raise ValueError(
            f"{what} has a different process, {type(other).__name__} and not this {type(one).__name__}: scores at one time are "
            "of different noise. Train both on one process."
        )


def _agree(one: LinearSDE, other: LinearSDE) -> bool:
    """Tell whether two processes noise data alike, judged by two times."""
    if one.T != other.T:
        return False
    for t in (one.T / 2, one.T / 4):
        for a, b in zip((one.marginal(t).Phi, one.marginal(t).R), (other.marginal(t).Phi, other.marginal(t).R)):
            A, B = a.matrix(), b.matrix()
            if A.shape != B.shape or not torch.allclose(A, B):
                return False
    return True


def check_scale(
    scale: float, interval: tuple[float, float] | None, T: float
) -> tuple[float, tuple[float, float] | None]:
    """Check a scale and an interval of times of a process that ends at `T`, and return them."""
    scale = check_number("scale", scale, hint=", 1 for the conditional model")
    if interval is None:
        return scale, None
    return scale, check_interval("interval", interval, 0.0, T, ": (first, last) in increasing order of time")


def indicate_interval(interval: tuple[float, float] | None, t: Tensor | float) -> Tensor:
    """Return 1 at times in the interval, 0 outside; float64 on the CPU."""
    t = torch.as_tensor(t, dtype=torch.float64).cpu()
    first, last = (-torch.inf, torch.inf) if interval is None else interval
    return ((first <= t) & (t <= last)).double()


def inverse(A: Operator) -> Operator:
    """Return the inverse of an operator; rows without an inverse give 0.

    Parameters
    ----------
    A
        An operator, of one time or of a row of times.
    """
    singular = A.log_abs_det().isneginf()
    return (A * ~singular + A.one() * singular).inv() * ~singular
