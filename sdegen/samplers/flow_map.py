"""Score models whose network is told of two times: `FlowMap`, which takes a state along its probability flow in one jump."""

from __future__ import annotations

__all__ = ["FlowMap", "Towards", "land"]

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..conditions import Conditions
from ..laws.marginals import Marginal
from ..laws.mixtures import Moments
from ..laws.operators import Scale
from ..laws.products import plain_attention, value_and_slopes
from ..laws.units import Units
from ..models.foreign import Foreign, NetworkClock, ScaledTime, TwoTimes
from ..models.network import Model
from ..models.parametrizations import Coefficients, MatchedParametrization, Parametrization, StraightParametrization
from ..nets import SecondLevel, add_conditions
from ..precision import at_least_single
from ..processes.dynamics import as_time
from ..processes.linear import LinearSDE
from ..processes.zoo import Rectified
from ..recall import recall
from .clocks import angle
from .exponential import Pieces, plan_pieces
from .moves import Jump, add_multiple, multiply
from .references import PointMass, Reference

UNTIL = "until"  # the name of the network's condition: the noise level that a state goes to


class Towards(NamedTuple):
    """A question for a flow map: the coefficients at the time of the state, and the noise level that the state goes to,
    ``(1,)``.
    """

    at: Coefficients
    until: Tensor


class FlowMap(Model):
    """A two-time map of the probability flow made of a network, which takes a state from one time to another in one evaluation.

    Between two times the flow of a Gaussian law with the moments of the data is followed exactly, and the network gives the mean
    velocity by which the flow of the data differs from it. In units in which that law is standard normal, with the angle ``phi``
    of the process, ``y_s = y_t + (phi_s − phi_t) (v(x_t, t, s) − v_reference(x_t, t))``. For ``s = t`` the network's answer is
    the velocity of the flow, so a map is a score model, which every sampler, likelihood and guidance takes as any other. For
    ``s < t`` it makes samples in one or a few evaluations (`samplers.Jumps`).

    `fit` trains a map on data alone (`training.Lagrangian`), or to follow a score model of the same process, with whose weights
    it may begin (`of`). N. Boffi, M. Albergo, E. Vanden-Eijnden, *Flow map matching*, 2024, arXiv:2406.07507.

    Parameters
    ----------
    net
        As for `Model`, with the further condition ``until``, the noise level that a state goes to, ``(B,)`` or ``()`` for all, in
        the dtype of the state's own noise level. An example is ``nets.MLP(2, conditions={"until": nets.SecondLevel()})``.
    sde, end
        As for `Model`.
    parametrization
        As for `Model`; `MatchedParametrization()` by default, with which a map of Gaussian data is exact before it is trained.
    reference
        The Gaussian law that is followed exactly, as for `samplers.Multistep`.

    Raises
    ------
    TypeError
        If the network takes no condition ``until``, or the process is not linear.
    ValueError
        As for `Model`.

    Examples
    --------
    >>> import sdegen
    >>> net = sdegen.nets.MLP(2, conditions={"until": sdegen.nets.SecondLevel()})
    >>> model = FlowMap(net, sdegen.VP())
    >>> model.score(torch.zeros(3, 2), 0.5).shape
    torch.Size([3, 2])
    """

    @check_arguments
    def __init__(
        self,
        net: nn.Module,
        sde: LinearSDE,
        parametrization: Parametrization | None = None,
        end: float | None = None,
        reference: Reference | None = None,
    ) -> None:
        super().__init__(net, sde, MatchedParametrization() if parametrization is None else parametrization, end)
        self.reference = reference
        if not super().conditions.takes(UNTIL):
            raise TypeError(
                f"{type(net).__name__} is told of one time, and a flow map goes from one to another; construct it with "
                'conditions={"until": nets.SecondLevel()}.'
            )

    @property
    def conditions(self) -> Conditions:
        """The conditions of the network but ``until``, which the map gives itself."""
        return super().conditions.without([UNTIL])

    def asked(self) -> dict[str, Any]:
        """Return the process, the parametrisation, and the reference whose flow is followed."""
        return super().asked() | {"reference": self.reference}

    def planned_by(self) -> Any:
        """Return what plans of the model depend on, the reference among it."""
        return super().planned_by(), self.reference

    @classmethod
    @check_arguments
    def of(cls, model: Model, reference: Reference | None = None) -> FlowMap:
        """Make a map from a trained score model, with its process, the weights of its network and what it knows of the data.

        At first the map's answer is the velocity of the model, whatever time a state goes to. The map learns to jump by
        `training.Trajectories`, or by a `training.MapLoss` with the model as teacher.

        Parameters
        ----------
        model
            The score model; it stays as it is. Its network keeps an argument `conditions` (`nets.add_conditions`).
        reference
            The Gaussian law that is followed exactly.

        Raises
        ------
        TypeError
            If the constructor of the network takes no `conditions`.
        """
        net = add_conditions(model.net, {UNTIL: SecondLevel()})
        made = cls(net, model.sde, model.parametrization, model.end, reference)
        made.moments, made.profile, made.learned = model.moments, model.profile, dict(model.learned)
        return made

    @classmethod
    @check_arguments
    def from_network(
        cls,
        net: nn.Module,
        sde: LinearSDE | None = None,
        parametrization: Parametrization | None = None,
        clock: NetworkClock | None = None,
        length: bool = False,
        moments: Moments | None = None,
    ) -> FlowMap:
        """Wrap a network of two times that was trained elsewhere as a flow map, ``net(x, t, s, **cond)``.

        The network's answer is taken to hold on the whole way: its clean data and noise make the state at `s`. On `Rectified`
        that is ``x_s = x_t + (s − t) net(x_t, t, s)``, the map of MeanFlow (Z. Geng et al., *Mean flows for one-step generative
        modeling*, 2025, arXiv:2505.13447). Shortcut models (K. Frans et al., 2024, arXiv:2410.12557), whose time runs from noise
        to data, are
        ``FlowMap.from_network(net, parametrization=StraightParametrization(to_data=True), clock=FromNoise(), length=True)``;
        consistency trajectory models (D. Kim et al., 2023, arXiv:2310.02279), which give the clean data, have a
        `DataParametrization` on `EDM`.

        Parameters
        ----------
        net
            Called with the state as it is, ``(B, *)``, and two numbers of one shape, ``(B,)`` or ``(1,)``.
        sde
            The process that the network was trained on; `Rectified` by default.
        parametrization
            What the network predicts; `StraightParametrization` by default, ``z − x_0``.
        clock
            The number that the network is told of a time; ``ScaledTime()``, the time itself, by default.
        length
            Whether the network's second number is the length of the way on that clock, and not its end.
        moments
            As for `models.from_network`.

        Raises
        ------
        TypeError
            If the network takes a state and only one time.
        ValueError
            If the parametrisation is singular on the process.

        Examples
        --------
        >>> class Straight(nn.Module):
        ...     def forward(self, x, t, s):
        ...         return x.new_ones(()) * (t - s)[:, None].expand(x.shape)
        >>> FlowMap.from_network(Straight()).jump(torch.zeros(1, 2), 1.0, 0.5)
        tensor([[-0.2500, -0.2500]])
        """
        asks = StraightParametrization() if parametrization is None else parametrization
        told = Foreign(asks, ScaledTime() if clock is None else clock)
        made = cls(
            TwoTimes(net, length), (Rectified() if sde is None else sde).in_units(Units()), told, None, PointMass()
        )
        made.moments = moments
        return made

    def pieces(self) -> Pieces:
        """Return the object that forms the coefficients of jumps."""
        return recall(partial(plan_pieces, self.sde, self, self.reference, angle), "jumps", *self.planned_by())

    def level(self, t: Tensor) -> Tensor:
        """Return the noise level that the network is told for times, as float64, of the shape of `t`."""
        return self.parametrization.level(self.sde, self.sde.marginal(t)).expand(t.shape)

    def level_at(self, phi: Tensor) -> Tensor:
        """Return the noise level that the network is told for angles of a scalar process, ``(B,)``, differentiable by the
        angles.
        """
        return self.parametrization.c_noise(Marginal(Scale(phi.cos()), Scale(phi.sin()), phi))

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the states at `s` to which the map takes the states `x` at `t`, in one evaluation.

        Parameters
        ----------
        x
            States, ``(B, *)``.
        t, s
            Times, one for all or ``(B,)``; either may be the later one.
        cond
            Conditions of the network.

        Raises
        ------
        ValueError
            If times lie outside of ``[0, T]``, or are neither one nor as many as states.
        """
        t, s = (as_time(v, self.sde.T, name).reshape(-1) for v, name in ((t, "t"), (s, "s")))
        for name, v in (("t", t), ("s", s)):
            if len(v) not in (1, len(x)):
                raise ValueError(f"{name} has {len(v)} times for {len(x)} states; give one for all, or one for each.")
        v, pieces = self.mean_velocity(x, self.sde.marginal(t), self.level(s), **cond), self.pieces()
        return land(pieces, pieces.jump(t, s), x, v)

    def jump_with_log_det(
        self, x: Tensor, t: Tensor | float, s: Tensor | float, /, **cond: Any
    ) -> tuple[Tensor, Tensor]:
        """Return what `jump` does, and ``log |det|`` of the derivative of the map by the state, ``(B,)``.

        It takes as many directional derivatives as a state has numbers, and is meant for states of few.

        Parameters
        ----------
        x, t, s, cond
            As for `jump`.

        Raises
        ------
        ValueError
            As for `jump`.
        """
        d = x[0].numel()
        directions = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)
        with plain_attention():
            ends, slopes = value_and_slopes(lambda y: self.jump(y, t, s, **cond), x, directions)
        return ends, slopes.flatten(2).movedim(0, 2).slogdet().logabsdet

    def mean_velocity(self, x: Tensor, at: Marginal, until: Tensor, /, **cond: Any) -> Tensor:
        """Return the velocity that the network gives for the whole way from a state to a noise level.

        Parameters
        ----------
        x
            States, ``(B, *)``.
        at
            The marginal at the times of the states.
        until
            The noise levels of the times that the states go to (`level`), ``(B,)`` or ``(1,)``.
        cond
            Conditions of the network.
        """
        return self.velocity_at(x, at, **cond, **{UNTIL: until[0] if len(until) == 1 else until})

    def ask_ways(self, t: Tensor, until: Tensor) -> list[Any]:
        """Prepare questions for the velocity on the ways from the times `t` to the times `until`, ``(N,)`` each."""
        asked = self.ask(t, velocity=self.sde.marginal(t).Phi.one())
        like, levels = self.like, self.level(until)
        if like is not None:
            levels = levels.to(like.device, at_least_single(like.dtype))
        return [Towards(c, levels[i]) for i, c in enumerate(asked)]

    def answer(self, x: Tensor, question: Any, /, **cond: Any) -> Tensor:
        """Return the answer to a question, by one evaluation of the network."""
        if isinstance(question, Towards):
            return super().answer(x, question.at, **cond, **{UNTIL: question.until})
        return super().answer(x, question, **cond)

    def _network(self, x: Tensor, c: Coefficients, /, **cond: Any) -> Tensor:
        """Return the network's answer for the way to the level ``until``; by default to the state's own, for the velocity
        there.
        """
        until = cond.get(UNTIL, c.c_noise[0] if len(c.c_noise) == 1 else c.c_noise)
        dtype = torch.promote_types(x.dtype if c.dtype is None else c.dtype, torch.float32)  # that of the first level
        return super()._network(x, c, **cond | {UNTIL: until.to(x.device, dtype)})


def land(pieces: Pieces, c: Jump, x: Tensor, v: Tensor) -> Tensor:
    """Return the state at the end of a jump, given the state at its start and the velocity for the whole way.

    Parameters
    ----------
    pieces, c
        The object that forms coefficients, and the coefficients of the jump.
    x, v
        State and velocity, ``(B, *)``.
    """
    y = multiply(c.carry, pieces.enter(x), c.shift)
    return pieces.leave(add_multiple(y, c.weight, pieces.enter(v)), x)
