"""Coefficients of exponential integrators on processes that move each direction by itself: one formula for every direction of
the reference's covariance (`Scalar`), or for every coordinate of a process by coordinate (`ByCoordinate`).

The formula is in `references`.
"""

from __future__ import annotations

__all__ = ["ByCoordinate", "Scalar"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..laws.diagonal import Diagonal
from ..laws.interpolation import rule
from ..laws.marginals import Marginal
from ..laws.operators import Elementwise, Scale
from ..models.network import NARROWEST
from ..models.score import ScoreModel
from ..precision import apply_matrix
from ..processes.coordinates import CoordinateSDE
from ..processes.elementwise import ElementwiseSDE
from .clocks import Clock
from .moves import Asked, Coefficient, Evaluations, FreshNoise, Jump, Move, Moves, Node, add_multiple, multiply
from .polynomials import Polynomials
from .references import ReferenceLaw

FAINT = 1e-100  # gains that are smaller are not divided by


class Scalar:
    """The coefficients of exponential integrators on a scalar process, in the eigenbasis of a reference's covariance.

    Parameters
    ----------
    sde, model, clock, eta, lean
        As for `exponential.plan_pieces`.
    law
        The law of the reference.

    Attributes
    ----------
    m, c
        Mean and variances of the reference in each direction; ``()`` if all directions are alike.
    n
        The variance of the process's noise in the units of `c`: 1, or 0 in the limit of infinite variances.
    Q
        The eigenbasis, ``(d, d)``; None if the directions are the numbers of a state.
    """

    def __init__(
        self,
        sde: ElementwiseSDE,
        model: ScoreModel,
        law: ReferenceLaw,
        clock: Clock,
        eta: float = 0.0,
        lean: float = 0.0,
    ) -> None:
        self.sde, self.clock, self.eta, self.lean = sde, clock, eta, lean
        self.like = model.like
        self.m, self.c, self.n = self._directions(law)

    def _directions(self, law: ReferenceLaw) -> tuple[Tensor, Tensor, float]:
        """Return mean and variances of the reference in the eigenbasis of its covariance, and the variance of its noise."""
        (mean, c, noise), self.Q = law, None
        if c.ndim == 2:
            c, Q = torch.linalg.eigh(c)
            mean = mean.reshape(*mean.shape[: mean.ndim - len(law.event_shape)], len(Q)) @ Q
            self.Q = Q if self.like is None else Q.to(self.like)
            return mean, c.clamp_min(0.0), noise
        return mean, c.reshape(law.event_shape) if c.ndim else c.expand(mean.shape), noise

    @property
    def own_axes(self) -> bool:
        """Whether directions are the numbers of a state themselves."""
        return self.Q is None

    def _map(self, values: Tensor) -> Elementwise:
        """Return coefficients ``(N, *directions)`` as a map with `N` rows."""
        return Diagonal(values) if self.c.ndim else Scale(values)

    def split(self, A: Elementwise) -> list[Coefficient]:
        """Split a map with `N` rows into `N` prepared coefficients: numbers of every direction, or an operator if all are
        alike.
        """
        if self.c.ndim:
            return [*self.unbind(A.c)]
        return [*A.prepared(self.like).each(len(A.c))]

    def unbind(self, values: Tensor) -> list[Tensor]:
        """Split coefficients ``(N, directions)`` into `N` prepared vectors, one number for every direction."""
        return list((values if self.like is None else values.to(self.like)).unbind())

    def phi(self, t: Tensor) -> Tensor:
        """Return the angle ``atan2(sigma, alpha)`` at a time."""
        return self.sde.angle_at(t)

    def time(self, phi: Tensor) -> Tensor:
        """Return the time at which the angle is `phi`."""
        return self.sde.time_of_angle(phi)

    def _over(self, values: Tensor) -> Tensor:
        """Reshape values to broadcast over directions behind their own axes."""
        return values[(..., *[None] * self.c.ndim)]

    def shifts(self, share: Elementwise | None, n: int) -> Sequence[Tensor | None]:
        """Return the `n` constants of updates: the mean, of all samples or of each, times the rows of the map `share`, prepared.

        They are None if `share` is, for a mean of 0.
        """
        if share is None:
            return [None] * n
        return self.unbind((share.c[:, None] if self.m.ndim > self.c.ndim else share.c) * self.m)

    def angles(self, phi: Tensor, t: Tensor) -> Tensor:
        """Return the angle of every direction at the times `t`: here it is `phi`, the angle of the process."""
        return self._over(phi)

    def turned(self, phi: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the angle of every direction where the angle of the process is `phi`, and its derivative by `phi`; None for
        1.
        """
        return self._over(phi), None

    def root(self, at: Marginal) -> Tensor:
        """Return ``r = √(alpha² + sigma²)`` of every direction, ``(N, *directions)``."""
        return self._over(at.r.matrix()[..., 0, 0])

    def P_squared(self, phi: Tensor) -> Tensor:
        """Return ``c cos² phi + n sin² phi`` at angles of every direction, ``(*, *directions)``."""
        return (self.c * phi.cos().square()).add_(self.n * phi.sin().square())

    def leaning(self, phi: Tensor) -> Tensor:
        """Return ``(P / sin)^lean``, the factor on `q` in what is interpolated; it is near 1 if there is much noise."""
        return (self.P_squared(phi).sqrt() / phi.sin()) ** self.lean

    def kept(self, end: Tensor, phi: Tensor) -> Tensor:
        """Return the ratio at two angles of ``(P / cos)²``, the variance that the reference gives to ``x / alpha``: 0 to 1."""
        return self.P_squared(end) / self.P_squared(phi) * (phi.cos() / end.cos()).square()

    def evaluations(self, model: ScoreModel, t: Tensor) -> Evaluations[Elementwise]:
        """Plan the model evaluations ``q = P (v − v_reference)``, with `leaning` in `P`, at the times ``(N,)``.

        If the gain of a network is known, its output enters unchanged: nodes give ``(v − v_reference) / gain``, and `gain` is in
        the scales.
        """
        at, phi = self.sde.marginal(t), self.angles(self.phi(t), t)
        cos, sin, P_squared = phi.cos(), phi.sin(), self.P_squared(phi)
        P, gain = P_squared.sqrt(), self._gain(model, at)
        if self.lean:
            P = P * self.leaning(phi)
        scales, share = (None, P) if gain is None else (self._map(gain * P), 1 / gain)  # of v in what nodes say
        a = sin * cos / self.root(at) * share * (self.c - self.n) / P_squared
        b = self._map(self.n * sin * share / P_squared) if self.m.any() else None
        if not self.c.ndim or self.own_axes:
            velocity = Scale(share.flatten()) if share.numel() == len(share) else Diagonal(share)
            nodes = [Node(question) for question in model.ask(t, x=self._map(a), velocity=velocity)]
        else:
            affine = zip(self.unbind(share), self.unbind(a), strict=True)
            nodes = [Node(*v) for v in zip(model.ask(t, velocity=at.Phi.one()), affine, strict=True)]
        return Evaluations(nodes, scales, b)

    def _gain(self, model: ScoreModel, at: Marginal) -> Tensor | None:
        """Return the factor on a network's output in its velocity, ``(N, *directions)``.

        It is None if the output is rotated into other axes first, or if the model is not a network.
        """
        gain = model.gain(at) if self.own_axes or not self.c.ndim else None
        numbers = None if gain is None else gain.along(None)
        if numbers is None or (numbers.shape[1] > 1 and not self.c.ndim):
            return None
        numbers = numbers.reshape(-1, *(self.c.shape if numbers.shape[1] > 1 else [1] * self.c.ndim))
        return torch.where((numbers.abs() > FAINT) & numbers.isfinite(), numbers, 1.0)

    def moves(self, times: Tensor, asked: Sequence[Asked]) -> Moves[Elementwise]:
        """Plan the coefficients of the updates that are asked for."""
        if not asked:
            return Moves(times[:0], self._map(times[:0]), None, [], [], [])
        t, s = (torch.tensor([v[i] for v in asked]) for i in range(2))
        phi = self.phi(times)
        angles, r = self.angles(phi, times), self.root(self.sde.marginal(times))
        P = self.P_squared(angles).sqrt()
        least, start, end, P_s = P.reshape(len(times), -1).amin(1), angles[t], angles[s], P[s]
        unable = least[t] <= 1e-12
        if unable.any():
            raise ValueError(
                f"alpha is zero at t = {times[t][unable][0].item():.6g}, where an unbounded reference has no flow; choose the "
                "reference Normal() or Matched(), or a grid that starts earlier."
            )
        u, w = rule()
        length, polynomials = (phi[s] - phi[t])[:, None], Polynomials(self.clock(phi), asked)
        path = phi[t][:, None] + length * u  # (moves, points)
        l = (polynomials(self.clock(path)) * length * w).transpose(0, 1)  # (moves, evaluations, points)
        integrals = l.new_empty(*l.shape[:2], *self.c.shape)
        size = max(1, 2**15 // (len(u) * self.c.numel()))  # moves at a time whose integrands stay in the cache
        for i in range(0, len(asked), size):
            own = slice(i, i + size)
            between, turns = self.turned(path[own])
            integrand = self.P_squared(between).reciprocal()  # nothing in place: a process may be differentiated by
            if turns is not None:
                integrand = integrand * turns
            if self.eta:
                integrand = integrand * self.kept(end[own, None], between) ** (0.5 * self.eta**2)
            if self.lean:
                integrand = integrand / self.leaning(between)
            integrals[own] = (l[own] @ integrand.reshape(*integrand.shape[:2], -1)).reshape(integrals[own].shape)
        weights = [W * ((1 + self.eta**2) * r[s] * P_s) for W in integrals.unbind(1)]
        if (least[s] <= 0).any():  # a point mass at sigma = 0: the limit of P_s ∫ l dphi / sin² is −l at the end
            last = self._over(polynomials(self.clock(phi[s])))
            weights = [torch.where(P_s > 0, W, -r[s] * l_s) for W, l_s in zip(weights, last, strict=True)]
        ratio = P_s / P[t]
        if self.eta:
            ratio = ratio * self.kept(end, start) ** (0.5 * self.eta**2)
        carry = r[s] / r[t] * ratio
        share = self._map(r[s] * end.cos() - carry * (r[t] * start.cos())) if self.m.any() else None
        maps = [self._map(W) for W in weights]
        added = polynomials.corrections(maps.pop()) if polynomials.corrected else []
        return Moves(times[s], self._map(carry), share, maps, added, [v.seen for v in asked])

    def split_moves(self, moves: Moves[Any]) -> list[Move]:
        """Split updates into prepared ones."""
        return moves.each(self.split, self.shifts(moves.share, len(moves.s)))

    def _turn(self, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return carry, share of the mean and weight of updates of ``u = x / r`` between angles of every direction.

        With the angle ``theta = atan2(√n sin phi, √c cos phi)`` of the reference and its change, the turn, ``∫ dphi / P²`` is the
        turn over ``√(c n)``, and ``P_s P_t sin(turn) = √(c n) sin(phi_s − phi_t)``, so nothing is divided by a variance. Around a
        point mass the turn is 0, also at the data: there the data and the noise that the velocity tells of are rotated into each
        other.
        """
        if not self.c.any():
            carry, weight = (end - start).cos(), (end - start).sin()
            return carry, torch.zeros_like(carry), weight
        c = self.c.clamp_min(NARROWEST * self.c.max())
        cos, sin = torch.cos(start), torch.sin(start)
        P_squared = torch.addcmul(self.n * sin.square(), c, cos.square())
        last = torch.addcmul(self.n * end.sin().square(), c, end.cos().square())
        theta = [torch.atan2(self.n**0.5 * v.sin(), c.sqrt() * v.cos()) for v in (start, end)]
        weight = (end - start).sin() / torch.special.sinc((theta[1] - theta[0]) / torch.pi)
        carry = (last / P_squared).sqrt() - weight * (self.n - c) * sin * cos / P_squared
        return carry, end.cos() - carry * cos + weight * sin, weight

    def turn(self, start: Tensor, end: Tensor) -> Jump:
        """Return the coefficients of updates of ``u = x / r`` between angles of every direction, ``(N, *directions)``."""
        return self._jump(*self._turn(start, end))

    def jump(self, t: Tensor, s: Tensor) -> Jump:
        """Return the coefficients of updates from the times `t` to the times `s`, ``(N,)`` each, which take one velocity for the
        whole way.
        """
        r_t, r_s = (self.root(self.sde.marginal(v)) for v in (t, s))
        carry, share, weight = self._turn(*(self.angles(self.phi(v), v) for v in (t, s)))
        return self._jump(carry * (r_s / r_t), share * r_s, weight * r_s)

    def _jump(self, carry: Tensor, share: Tensor, weight: Tensor) -> Jump:
        """Return the coefficients of updates from numbers for every direction; `share` is the factor on the mean in the shift."""
        if not self.c.ndim:
            return Jump(Scale(carry), None, Scale(weight))
        return Jump(carry, share * self.m if self.m.any() else None, weight)

    def fresh_noise(self, times: Tensor) -> list[FreshNoise]:
        """Plan the noise of every step between the times: of variance ``P_s² − (P_s / P_t)² kept^eta² P_t²`` in each direction.

        A reference without noise variance has no state of its own; its limit is ``eta² cos²_s (tan²_t − tan²_s)``.
        """
        phi, r = self.angles(self.phi(times), times), self.root(self.sde.marginal(times))
        start, end, P_s = phi[:-1], phi[1:], self.P_squared(phi[1:]).sqrt()
        kept = self.kept(end, start)
        if self.n:
            root = P_s * (-torch.expm1(self.eta**2 * kept.log()) / self.n).sqrt()
        else:
            root = self.eta * end.cos() * (start.tan().square() - end.tan().square()).sqrt()
            root = root.expand_as(P_s)
        carry = r[1:] / r[:-1] * P_s / self.P_squared(start).sqrt() * kept ** (0.5 * self.eta**2)
        return [FreshNoise(*v) for v in zip(*(self.split(self._map(v)) for v in (carry, r[1:] * root)), strict=True)]

    def enter(self, x: Tensor) -> Tensor:
        """Return the coordinates of the state in the eigenbasis of the reference."""
        return x if self.Q is None else apply_matrix(x.reshape(len(x), -1), self.Q.to(x))

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """Return the state from its coordinates in the eigenbasis of the reference."""
        return x if self.Q is None else apply_matrix(x, self.Q.to(x).T).reshape(like.shape)

    def evaluate(self, model: ScoreModel, x: Tensor, y: Tensor, node: Node) -> Tensor:
        """Evaluate `q` at the state `x`, whose coordinates are `y`."""
        q = self.enter(model.answer(x, node.question))
        if node.affine is not None:
            P, a = node.affine
            return add_multiple(multiply(a, y, node.constant), P, q)
        return q if node.constant is None else q.add_(node.constant.to(q))


class ByCoordinate(Scalar):
    """The coefficients on a process by coordinate, along its axes: each coordinate turns by its own angle.

    If the covariance of the reference is not diagonal along these axes, only the variances along them are used.
    """

    sde: CoordinateSDE

    def _directions(self, law: ReferenceLaw) -> tuple[Tensor, Tensor, float]:
        """Return mean and variances of the reference along the axes of the process, and the variance of its noise."""
        (mean, c, noise), self.Q, shape = law, None, self.sde.coefficient_shape
        if c.ndim:
            c = self.sde.variances(c)[0]
        if mean.ndim:
            mean = self.enter(mean.reshape(-1, *shape)).reshape(mean.shape)
        return mean, c.expand(shape), noise

    @property
    def own_axes(self) -> bool:
        """Whether the axes of the process are those of its states."""
        return self.sde.basis is None

    def angles(self, phi: Tensor, t: Tensor) -> Tensor:
        """Return ``atan2(sigma, alpha)`` of every coordinate at the times `t`."""
        return (-0.5 * self.sde.levels(t)).exp().atan()

    def turned(self, phi: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the angle of every coordinate where the angle of the process is `phi`, and its derivative by `phi`."""
        t = self.time(phi.reshape(-1))
        shape = (*phi.shape, *self.sde.coefficient_shape)
        return self.angles(phi, t).reshape(shape), self.sde.turning(t).reshape(shape)

    def root(self, at: Marginal) -> Tensor:
        """Return ``r = √(alpha² + sigma²)`` of every coordinate."""
        numbers = at.r.along(self.sde.basis)
        assert numbers is not None
        return numbers.reshape(-1, *self.sde.coefficient_shape)

    def enter(self, x: Tensor) -> Tensor:
        """Return the coordinates of the state along the axes of the process."""
        return x if self.sde.basis is None else self.sde.basis(x)

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """Return the state from its coordinates."""
        return x if self.sde.basis is None else self.sde.basis.inverse(x)
