"""Score models that are trained: `Trainable`, their base, and `Model`, a network with a parametrisation on a linear process."""

from __future__ import annotations

__all__ = ["LEARNED", "Model", "Trainable"]

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..answers import FAILURES, check_answer, check_unchanged, versions
from ..arguments import check_arguments
from ..conditions import Conditions, conditions_of
from ..laws.bases import principal_axes
from ..laws.calibrated import Calibrated
from ..laws.diagonal import Diagonal
from ..laws.marginals import Marginal
from ..laws.mixtures import Moments
from ..laws.operators import Operator
from ..laws.units import Units
from ..levels import check_levels
from ..precision import at_least_single
from ..processes.linear import LinearSDE
from ..processes.scalar import is_scalar
from ..processes.validity import check_process
from ..recall import recall
from ..signatures import check_call
from ..transforms import is_unknown
from .far import warn_of_far
from .parametrizations import Coefficients, EDMParametrization, MatchedParametrization, Parametrization
from .score import ScoreModel, VelocityModel, check_dtype, rotated

LEARNED = "learned."  # before the names of conditions in a state dict
_UNKNOWN = True, True  # for a condition of which nothing was noted: given in training, and dropped there
NARROWEST = 1e-4  # of the largest variance of the data: the smallest variance that is assumed along an axis


class Trainable(ScoreModel, Calibrated):
    """The base class of score models that `fit` trains, by denoising score matching unless another loss is given.

    A wrapper of such a model is a score model and a module too, but not a `Trainable`: it has nothing of its own to train.

    Besides the weights, the state dict holds the moments of the data and the units of the process (`laws.calibrated.Calibrated`).

    The first `fit` gives the process units in which the data have mean 0 and standard deviation 1 (`measure`), so that what is
    learned, the default times and the sizes of steps are the same for data of every scale. To have states in the data's own
    units, set these first: ``Model(net, sde.in_units(Units()))``.

    Attributes
    ----------
    learned
        For each condition that the network declares and may go without, by name: whether training ever had it, and whether it
        was ever dropped. Both are taken to be true for a name that is not there. The state dict holds `learned` too.
    """

    net: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.learned: dict[str, tuple[bool, bool]] = {}

    @property
    def conditions(self) -> Conditions:
        """The conditions that the network takes by name, and those among them that training never had or never dropped."""
        known = conditions_of(self.net)
        if not self.learned:
            return known
        noted = {name: self.learned[name] for name in known.nulls if name in self.learned}
        untaught = frozenset(name for name, (given, _) in noted.items() if not given)
        undropped = frozenset(name for name, (_, dropped) in noted.items() if not dropped)
        return known._replace(untaught=untaught, undropped=undropped)

    def note_conditions(self, given: Collection[str], dropped: Collection[str]) -> None:
        """Note in `learned` which conditions a training has, and which it drops.

        Parameters
        ----------
        given
            Names of the conditions that the data have.
        dropped
            Names of the conditions that some data are without.
        """
        trained = self.moments is not None and not self.learned  # by a version that noted nothing
        for name in conditions_of(self.net).nulls:
            had, went_without = self.learned.get(name, _UNKNOWN if trained else (False, False))
            self.learned[name] = had or name in given, went_without or name not in given or name in dropped

    def check_run(self, /, **cond: Any) -> None:
        """Warn of conditions that lie far from all that the network has learned from."""
        warn_of_far(self.net, cond)

    @property
    def given_units(self) -> Units | None:
        """The units that the process was given; None if it was given none."""
        return self.sde.units if self.sde.has_units else None

    @given_units.setter
    def given_units(self, units: Units | None) -> None:
        if units is not None or self.sde.has_units:
            self.sde = self.sde.in_units(Units() if units is None else units)

    def measure(self, moments: Moments) -> None:
        """Take the data in units of their spread, as every `Calibrated` model does, unless states have bounds of their own."""
        if self.sde.rescalable:
            super().measure(moments)

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return the moments of the data, or under conditions the mean of all data and the variance that `fit` has measured under
        conditions; None if they are not known.
        """
        known, profile = super().conditional_moments(**cond), self.profile
        if known is not None or self.moments is None or profile is None or not profile.given:
            return known
        std = self.sde.units.std.expand(self.moments.mean.shape).flatten()
        return Moments(self.moments.mean, profile.variance() * std.square())

    def asked(self) -> dict[str, Any]:
        """Return the process, whose states the network is given, and its coordinates."""
        return {"sde": self.sde, "coordinates": self.sde.coordinates}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in conditions_of(self.net).nulls:
            destination[f"{prefix}{LEARNED}{name}"] = torch.tensor(self.learned.get(name, _UNKNOWN))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Take `learned` out of a state dict, if that holds it."""
        begin = prefix + LEARNED
        kept = {name: state_dict.pop(name) for name in [*state_dict] if name.startswith(begin)}
        self.learned = {name.removeprefix(begin): tuple(value.tolist()) for name, value in kept.items()}
        super()._load_from_state_dict(state_dict, prefix, *others)


class Model(Trainable, VelocityModel):
    """A score model of a linear SDE made of a network and a parametrisation.

    Parameters
    ----------
    net
        Called as ``net(x, c_noise, **cond)`` with `x` of shape ``(B, *)`` and `c_noise` ``(B,)``, or ``(1,)`` if all rows share a
        time, as in sampling; returns the shape of `x`. It is called in the dtype of its weights, whatever that of the state. A
        network of half precision gets `c_noise` in float32 all the same, and casts it where needed. Conditions are passed on as
        they are.
    sde
        A linear SDE.
    parametrization
        What the network predicts, such as `NoiseParametrization()`; `EDMParametrization()` by default.
    end
        The time at which the default sampler takes the posterior mean as data, for a network that has seen little of the noise
        levels below it and would invent detail there. By default there is none.

    Raises
    ------
    TypeError
        If `sde` is not a process, or not linear (use `DirectModel`).
    ValueError
        If the parametrisation is singular on the SDE, or `end` is not a time of it.
    """

    @check_arguments
    def __init__(
        self, net: nn.Module, sde: LinearSDE, parametrization: Parametrization | None = None, end: float | None = None
    ) -> None:
        super().__init__()
        check_process(sde)
        check_call("net", net, ["x", "level"], conditions=True)
        self.net, self.sde = net, sde
        self.parametrization = EDMParametrization() if parametrization is None else parametrization
        self.parametrization.check(sde)
        if end is not None and not 0 <= end < sde.T:
            raise ValueError(f"end = {end}; give a time from 0 to before T = {sde.T}.")
        self.end = end

    def asked(self) -> dict[str, Any]:
        """Return the process and the parametrisation."""
        return super().asked() | {"parametrization": self.parametrization}

    def planned_by(self) -> Any:
        """Return what plans depend on: the process, the parametrisation, what is known of the data, and the weights' dtype and
        device.
        """
        like = self.like
        kind = None if like is None else (like.dtype, like.device)
        return type(self), self.sde, self.parametrization, self.moments, self.profile, self.end, kind

    @property
    def std(self) -> float:
        """The standard deviation of the data in the units of the process: that of the parametrisation, else that which `fit`
        measured, else 1.
        """
        if self.parametrization.std is not None:
            return self.parametrization.std / self.sde.units.scale
        if self.moments is None:
            return 1.0
        covariance, units = self.moments.covariance, self.sde.units
        state = None if covariance.is_inference() else covariance._version  # it may be changed in place
        known, then, of, std = self._std_of
        if known is not covariance or then != state or of is not units:
            std = self.state_moments().variance().sqrt().item()
            self._std_of = covariance, state, units, std
        return std

    # What the last answer was computed from, and the answer.
    _std_of: tuple[Tensor | None, int | None, Units | None, float] = (None, None, None, 1.0)

    def velocity_at(self, x: Tensor, at: Marginal, /, **cond: Any) -> Tensor:
        """Return the velocity ``c_skip x + c_out F(c_in x, c_noise)`` of the network `F`."""
        c = self._coefficients(at, check_dtype(self, x))
        return c.c_skip(x) + c.c_out(self._network(x, c, **cond))

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """Prepare questions as coefficients of the network: like the velocity, any question is ``c_skip x + c_out F(c_in x,
        c_noise)``.
        """
        at = self._marginal(t)
        skip, out = rotated(at, **weights)
        like = self.like
        c = self._coefficients(at, None if like is None else like.dtype)
        c_skip, c_out, c_in = (W.prepared(like) for W in (skip + out @ c.c_skip, out @ c.c_out, c.c_in))
        c_noise = c.c_noise if like is None else c.c_noise.to(like.device, at_least_single(like.dtype))
        c_noise = c_noise.expand(len(t))
        each = zip(c_skip.each(len(t)), c_out.each(len(t)), c_in.each(len(t)), c_noise[:, None].unbind(), strict=True)
        bare, same = _is_one(c_out), _is_one(c_in)
        return [Coefficients(skip, out, into, level, c.dtype, bare, same) for skip, out, into, level in each]

    def answer(self, x: Tensor, question: Any, /, **cond: Any) -> Tensor:
        """Return ``c_skip x + c_out F(c_in x, c_noise)`` with the coefficients of the question, by one evaluation of the
        network.
        """
        joined: Tensor = question.join(x, self._network(x, question, **cond))
        return joined

    def gain(self, at: Marginal) -> Operator | None:
        """Return `c_out`, float64, which multiplies the network's output in the velocity."""
        return self._coefficients(at, None).c_out

    def _coefficients(self, at: Marginal, dtype: torch.dtype | None) -> Coefficients:
        """Return the coefficients of the velocity for a network of the given dtype, with noise levels ``(B,)`` or ``(1,)``."""
        asked = self.parametrization
        if isinstance(asked, MatchedParametrization) and (P := self._variances()) is not None:
            c = asked.coefficients_along(self.sde, at, P)
        else:
            c = asked.coefficients(self.sde, at, self.std)
        if c.c_noise.shape not in ((), at.t.shape):
            raise ValueError(
                f"{type(self.parametrization).__name__} gives a noise level of shape {tuple(c.c_noise.shape)} for times of shape "
                f"{tuple(at.t.shape)}; it must have that, or shape ()."
            )
        return c._replace(c_noise=c.c_noise.reshape(-1), dtype=dtype)

    def _variances(self) -> Diagonal | None:
        """Return the covariance of the data as a map along their principal axes, or along their numbers if only variances are
        known.

        It is None on processes that are not scalar, and for data of one variance.
        """
        known = self.moments
        if known is None or not is_scalar(self.sde) or known.covariance.numel() == 1:
            return None
        return recall(partial(_along_axes, known.in_units(self.sde.units)), "variances", known, self.sde.units)

    def _network(self, x: Tensor, c: Coefficients, /, **cond: Any) -> Tensor:
        """Return ``F(c_in x, c_noise)``, checked for its shape, in the dtype of the state."""
        net = self._modules["net"]
        shared = (c.c_noise, *cond.values()) if cond or self._asked[0] is not net else ()
        before = versions(*shared) if shared else []
        try:
            out = self._call(x, c, **cond)
        except FAILURES as error:
            check_levels(error, self.net, *c.inputs(x), **cond)
            raise
        if shared:
            check_unchanged("net", before, *shared)
            if not torch.compiler.is_compiling():
                self._asked = (net,)
        return check_answer("net", out, x.shape, x)

    def _call(self, x: Tensor, c: Coefficients, /, **cond: Any) -> Any:
        """Return the network's output for a state.

        If the network's input is the state itself, neither scaled nor cast, a network that works in place would change the state
        of the run. So it is given a copy until one call has left a copy unchanged, and always if a change could not be seen.

        Raises
        ------
        ValueError
            If the network changes a state.
        """
        net: Any = self._modules["net"]  # as `self.net`, without a search among all attributes
        into, level = c.inputs(x)
        if into is not x:
            return net(into, level, **cond)
        if torch.is_grad_enabled() or x.is_inference() or torch.compiler.is_dynamo_compiling():
            return net(x.clone(), level, **cond)
        trusted = self._trusted[0] is net
        given = x if trusted else x.clone()
        before, out = given._version, net(given, level, **cond)
        left = given._version == before
        if trusted and not left:
            raise ValueError(
                "net changed its input in place, which it had not done before: that is the state of the run; let forward begin "
                "with x = x.clone()."
            )
        if left and not trusted and not torch.compiler.is_compiling() and not is_unknown(x) and torch.equal(given, x):
            self._trusted = (net,)
        return out

    # The network once seen not to change its input, and once seen not to change its level: in tuples, or they would be registered
    # as submodules.
    _trusted: tuple[nn.Module | None] = (None,)
    _asked: tuple[nn.Module | None] = (None,)

    forward = ScoreModel.velocity


def _is_one(A: Operator) -> bool:
    """Tell whether a map changes nothing, to rounding."""
    numbers = A.along(A.axes)
    return numbers is not None and bool(((numbers - 1).abs() <= torch.finfo(numbers.dtype).eps).all())


def _along_axes(moments: Moments) -> Diagonal:
    """Return a covariance as a map along its principal axes, with standard deviations of at least a hundredth of the largest."""
    (mean, C), axes = moments, None
    if C.ndim == 2:
        axes = principal_axes(C)
        C = axes(axes(C.double().cpu()).T).diagonal()
    C = C.double().cpu()
    return Diagonal(C.clamp_min(NARROWEST * C.max()).reshape(1, *mean.shape), axes)
