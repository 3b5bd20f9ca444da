"""The interface `ScoreModel` that samplers, likelihoods and guidance take: score, noise, clean data and velocity of a state.

For linear processes all four follow from one estimate, the velocity, since it alone is finite at both ends (see
`laws.kernels.Transition`). Nothing here knows of networks or of training.
"""

from __future__ import annotations

__all__ = ["ScoreModel", "VelocityModel", "check_dtype", "rotated"]

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..answers import ask, ask_score, check_answer, check_pair
from ..arguments import asked_as
from ..checks import check_tensor
from ..conditions import Conditions, conditions_of
from ..laws.calibrated import check_moments
from ..laws.kernels import Transition
from ..laws.marginals import Marginal
from ..laws.mixtures import Moments
from ..laws.operators import Operator
from ..laws.profiles import Profile
from ..precision import at_least_single, is_finer, widened
from ..processes.base import SDE
from ..processes.linear import LinearSDE, as_linear
from ..show import show_call
from ..signatures import Overridable
from .question import Question
from .reversal import LearnedReversal


@asked_as("a score model, such as Exact(VP(), data.gaussian_ring())")
class ScoreModel(Overridable, ABC):
    """The base class of score models, estimates of ``∇ log p_t(x)``. Subclass it with `score`; on a linear process the
    other predictions follow.

    Attributes
    ----------
    sde
        The forward process.
    moments
        Mean and covariance of the data, in their own units, to which the prior is matched; None until known.
    profile
        The noise levels at which samples are decided, as `fit` measures them; None until known.
    conditioned
        Whether the law of the samples is narrower than that of the data, as it is under a condition, a measurement or a class.
        Then the moments of the data tell little of the samples.
    end
        The time at which the default sampler takes the posterior mean as data; None for as close to 0 as the process goes.
    """

    sde: SDE
    moments: Moments | None = None
    profile: Profile | None = None
    end: float | None = None
    conditioned: bool = False

    __repr__ = show_call

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse a class that overrides `velocity`, which losses and flows would ignore: they call `velocity_at`.

        Raises
        ------
        TypeError
            If the class overrides `velocity`.
        """
        super().__init_subclass__(**more)
        if cls.velocity is not ScoreModel.velocity:
            raise TypeError(
                f"{cls.__name__} overrides velocity(x, t), which losses and flows do not call; override "
                "velocity_at(x, at), with the time at.t: velocity follows from it."
            )

    @property
    def like(self) -> Tensor | None:
        """A weight of the network: states are on its device, and in its dtype or a finer one; None if any device and dtype will
        do.
        """
        for weight in self.parameters() if isinstance(self, nn.Module) else ():
            if weight.is_floating_point():
                return weight
        return None

    def cast_states(self, x: Tensor) -> Tensor:
        """Return `x` as a state of the model: on the model's device and in its dtype, but in float32 at least."""
        like = self.like
        return widened(x) if like is None else x.to(like.device, at_least_single(like.dtype))

    @property
    def reversal(self) -> LearnedReversal | None:
        """The learned variance of reversed steps, as a `LearnedReversal`; None if the model has learned none."""
        return None

    @property
    def conditions(self) -> Conditions:
        """The names of the conditions that the model takes; by default those in the signature of `score`."""
        return conditions_of(self.score)

    def part(self, rows: slice | Tensor, x: Tensor, n: int) -> ScoreModel:
        """Return the model for some of the `n` samples of a run; the model itself if it holds no value for each sample.

        Parameters
        ----------
        rows
            The samples, as a slice or whole numbers.
        x
            Some states of the run, ``(B, *)``.
        n
            The number of samples in the run.
        """
        return self

    def with_rows(self, cond: dict[str, Any], x: Tensor, n: int) -> list[str]:
        """Return the names of the conditions that have a row for each of `n` samples, and are cut with these.

        Parameters
        ----------
        cond
            Conditions by name.
        x
            Some of the states of the run, ``(B, *)``.
        n
            The number of samples in the run.
        """
        return self.conditions.with_rows(cond, n)

    def planned_by(self) -> Any:
        """Return all that a sampler's plan depends on, by which `recall` finds a plan that was made before.

        By default it is an object that equals no other, so that every run is planned anew.
        """
        return object()

    def draw_standardised(self, n: int) -> Tensor | None:
        """Draw `n` data in the units of the process, always the same, if the model knows their law exactly; None otherwise."""
        return None

    def require_moments(self, instead: str = "") -> Moments:
        """Return the mean and covariance of the data; raise an error if they are not known.

        Parameters
        ----------
        instead
            What else the user can do if the moments are not known, as the end of the error's sentence.

        Raises
        ------
        ValueError
            If the moments are not known, or their shapes do not fit each other.
        """
        if self.moments is None:
            raise ValueError(
                "the model does not know its data's moments; fit it, or set model.moments = sdegen.Moments(mean, covariance)"
                f"{instead}."
            )
        return check_moments(self.moments)

    def state_moments(self, instead: str = "") -> Moments:
        """Return the moments of the data in the units of the process; like `require_moments`, raise an error if they are not
        known.
        """
        return self.require_moments(instead).in_units(self.sde.units)

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the mean and covariance of the law that is sampled under conditions, in the data's own units; None if they are
        not known, as by default under any condition.

        Parameters
        ----------
        cond
            Conditions by name. If they have a row for each sample, the mean has one too, and the covariance is common to all.
        """
        return None if self.conditioned or any(value is not None for value in cond.values()) else self.moments

    def check_run(self, /, **cond: Any) -> None:
        """Refuse conditions of a run that make no sense for this model, or warn of them.

        It is called once a run, and by default does nothing.
        """

    def examine(self, x: Tensor, /, **cond: Any) -> None:
        """Warn of samples that contradict the conditions of their run, as by misfit to a measurement; by default do nothing."""

    @abstractmethod
    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``∇ log p_t(x)``, of the shape of `x`."""

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the posterior means of clean state and noise, ``E[x_0 | x_t]`` and ``E[z | x_t] = −Rᵀ score``."""
        at = self._marginal(t)
        eps = at.noise_from_score(ask_score(self, x, t, **cond))
        return at.clean_from_noise(x, eps), eps

    def denoise(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``E[x_0 | x_t]``, the posterior mean of the clean state."""
        return self._estimated(x, t, **cond)[0]

    def noise(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``E[z | x_t]``, the posterior mean of the noise."""
        return self._estimated(x, t, **cond)[1]

    def velocity(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``A E[x_0 | x_t] + B E[z | x_t]``; ``cos(phi) eps − sin(phi) x_0`` for scalar processes.

        It is `velocity_at` at one time or at one for each state. Subclasses override `velocity_at`, not `velocity`.
        """
        return self.velocity_at(x, self._marginal(t), **cond)

    def velocity_at(self, x: Tensor, at: Marginal, /, **cond: Any) -> Tensor:
        """Return the velocity at the times of `at`, a marginal that the caller has already computed."""
        return at.velocity(*self._estimated(x, at.t, **cond))

    def ask(
        self,
        t: Tensor,
        *,
        x: Operator | None = None,
        denoise: Operator | None = None,
        noise: Operator | None = None,
        score: Operator | None = None,
        velocity: Operator | None = None,
    ) -> list[Any]:
        """Prepare questions ``X x + D E[x_0 | x_t] + N E[z | x_t] + S score + V v``, one for each of the times, for
        `answer`.

        All that depends on the times alone is computed here, in a sampler's plan, so that a step only has to combine tensors.

        Parameters
        ----------
        t
            Times, ``(N,)``.
        x, denoise, noise, score, velocity
            `X`, `D`, `N`, `S`, `V`: one operator for all times, or one for each; None leaves the term out.
        """
        given = {"x": x, "denoise": denoise, "noise": noise, "score": score, "velocity": velocity}
        readings = {name: W.prepared(self.like) for name, W in given.items() if W is not None}
        apart = {name: W.each(len(t)) for name, W in readings.items()}
        X = apart.pop("x", None)
        each = ({name: maps[i] for name, maps in apart.items()} for i in range(len(t)))
        return [Question(t[i], None if X is None else X[i], W) for i, W in enumerate(each)]

    def gain(self, at: Marginal) -> Operator | None:
        """Return the map `G` that multiplies the network's output `F` in the velocity, ``G F + …``; by default None, for no such
        map.

        A sampler may divide by `G` and put it into its own weights, which saves a pass over the state.
        """
        return None

    def answer(self, x: Tensor, question: Any, /, **cond: Any) -> Tensor:
        """Return the value of a question from `ask` at the state `x`, ``(B, *)``: a new tensor of its shape."""
        t, X, readings = question
        known: dict[str, Tensor] = {}
        if "denoise" in readings and "noise" in readings:
            known["denoise"], known["noise"] = self._estimated(x, t, **cond)
        total = None if X is None else X(x)
        for name, W in readings.items():
            who = f"{type(self).__name__}.{name}"
            value = known[name] if name in known else ask(who, getattr(self, name), x, t, **cond)
            value = check_answer(who, value, x.shape, x)
            total = W(value) if total is None else W.onto(total, value)
        return torch.zeros_like(x) if total is None else total

    def _estimated(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return what `estimate` returns, checked, since a subclass may define `estimate`."""
        who = f"{type(self).__name__}.estimate"
        x_0, eps = check_pair(who, ask(who, self.estimate, x, t, **cond), "clean state and noise")
        return check_answer(who, x_0, x.shape, x), check_answer(who, eps, x.shape, x)

    def _marginal(self, t: Tensor | float) -> Marginal:
        why = ": its noised states have no closed-form posterior means. Use score(x, t)."
        return as_linear(self.sde, why).marginal(t)


class VelocityModel(ScoreModel):
    """The base class of score models that predict the velocity; score, noise and clean data follow without cancellation."""

    sde: LinearSDE

    @property
    def conditions(self) -> Conditions:
        """The names of the conditions in the signature of `velocity_at`."""
        return conditions_of(self.velocity_at)

    @abstractmethod
    def velocity_at(self, x: Tensor, at: Marginal, /, **cond: Any) -> Tensor:
        """Return the velocity ``A E[x_0 | x_t] + B E[z | x_t]`` at the times of the marginal `at`."""

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return ``E[x_0 | x_t]`` and ``E[z | x_t]``."""
        at = self._marginal(t)
        v = self.velocity_at(x, at, **cond)
        y = at.normalise(x)
        return at.denoise(y, v), at.noise(y, v)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``∇ log p_t(x) = −R⁻ᵀ E[z | x_t]``."""
        at = self._marginal(t)
        v = self.velocity_at(x, at, **cond)
        return at.score_from_noise(at.noise(at.normalise(x), v))

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Prepare questions as combinations of state and velocity, from which all other predictions follow."""
        skip, out = rotated(self._marginal(t), **weights)
        return super().ask(t, x=skip, velocity=out)


def rotated(at: Transition, **weights: Operator | None) -> tuple[Operator, Operator]:
    """Return the operators on state and velocity that form a combination of state and readings (`ScoreModel.ask`)."""
    given = {name: W for name, W in weights.items() if W is not None}
    X, D, N, V = (given.get(name, at.Phi * 0.0) for name in ("x", "denoise", "noise", "velocity"))
    if "score" in given:
        N = N - given["score"] @ at.R_inv.T
    return X + (D @ at.C.T + N @ at.S.T) @ at.r_inv, V + D @ at.A.T + N @ at.B.T


def check_dtype(model: ScoreModel, x: Tensor) -> torch.dtype:
    """Return the dtype in which a network is called for the state `x`; refuse a state that is coarser, or on another device.

    A finer state stays as it is: the network is called in its own dtype, and its answer is returned in that of the state.

    Raises
    ------
    TypeError
        If `x` is not floating point.
    ValueError
        If the state is coarser than the network's weights, or the devices differ.
    """
    if not isinstance(x, Tensor):
        check_tensor("x", x)
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; convert it to the model's floating-point dtype.")
    weight = model.like
    if weight is None or (weight.dtype == x.dtype and weight.device == x.device):
        return x.dtype
    if weight.device != x.device or not is_finer(x.dtype, weight.dtype):
        raise ValueError(
            f"x is {x.dtype} on {x.device}, the model {weight.dtype} on {weight.device}; states are on the device of the model, "
            "and not coarser: move one to the other, x.to(dtype=..., device=...) or model.to(...)."
        )
    return weight.dtype
