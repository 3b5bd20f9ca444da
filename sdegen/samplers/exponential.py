"""Exponential integrators of reversed linear processes, at every noise level: the formula that their samplers share.

All of these integrators are one formula. Between two times the reversed process of a *reference* (`references`) is followed in
law, in closed form, and what the model says beyond it, `q`, is replaced by the polynomial through evaluations at hand, in a
*clock* (`clocks`):

    x_s = carry(x_t) + Σ_j W_j q_j + root z,    W_j = Psi_s ∫_t^s l_j(clock) dK,    root rootᵀ = Cov_s − carry Cov_t carryᵀ,

where `Cov` is the covariance of the reference's states. Without noise (``eta = 0``) there is no root, and what is followed is
the probability flow. The weights are integrals of Lagrange polynomials, by quadrature in float64, once per run. They are made
here by `Scalar` and `Channels`, for scalar and for matrix processes; `multistep`, `exponential_sde` and `singlestep` choose
what is interpolated.
"""

from __future__ import annotations

__all__ = [
    "Channels",
    "Scalar",
    "check_distinct",
    "group_by_ends",
    "plan_pieces",
    "polynomials",
]

from collections.abc import Sequence

import torch
from torch import Tensor

from ..laws.interpolation import gauss, lagrange, rule
from ..laws.operators import Operator, Scale
from ..laws.products import value_and_slope
from ..models.score import ScoreModel
from ..precision import apply_matrix
from ..processes.linear import LinearSDE
from ..processes.scalar import is_scalar
from .clocks import Clock
from .moves import Asked, Coefficient, Move, Node, Spread
from .references import Matched, PointMass, Reference

POINTS = 24  # of the quadrature over an update of a matrix process
NEAREST = 1e-8  # of T: below it the root of a process without noise at 0 is held


def polynomials(clock: Tensor, asked: Sequence[Asked], z: Tensor) -> Tensor:
    """Evaluate the Lagrange polynomials of the evaluations of every update at the points `z` ``(moves, *)``: ``(most,
    moves, *)``.

    Raises
    ------
    ValueError
        If the clock is infinite at one of them.
    """
    counts = [len(v.seen) for v in asked]
    l = z.new_zeros(max(counts), *z.shape)
    for p in set(counts):
        alike = [i for i, count in enumerate(counts) if count == p]
        nodes = clock[torch.tensor([asked[i].seen for i in alike])]
        check_distinct(nodes)
        l[:p, alike] = lagrange(nodes, z[alike])
    if not l.isfinite().all():
        raise ValueError(
            "the clock is infinite at one of the times of the grid; use the clock angle or share, or a grid that stays off the "
            "ends of the process."
        )
    return l


def check_distinct(nodes: Tensor) -> None:
    """Refuse evaluations at one noise level, through which there is no polynomial.

    Parameters
    ----------
    nodes
        Of each polynomial, in any clock, ``(N, p)``.

    Raises
    ------
    ValueError
        If two of a row coincide.
    """
    if (nodes.sort(-1).values.diff() == 0).any():
        raise ValueError(
            "the noise level is the same at two times of the grid, to rounding: the process does not move between them, and no "
            "polynomial goes through what the model says there; choose a grid in the noise level, such as grids.Angle()."
        )


def group_by_ends(asked: Sequence[Asked]) -> Tensor:
    """Group requested updates by their ends `t`, `s`, and return a row of indices for each group; shorter rows repeat
    their first.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for i, v in enumerate(asked):
        found.setdefault((v.t, v.s), []).append(i)
    most = max(map(len, found.values()))
    return torch.tensor([[*own, *own[:1] * (most - len(own))] for own in found.values()])


class Scalar:
    """The coefficients of exponential integrators on a scalar process, in the eigenbasis of a reference's covariance."""

    def __init__(
        self, sde: LinearSDE, model: ScoreModel, reference: Reference, clock: Clock, eta: float = 0.0, lean: float = 0.0
    ) -> None:
        self.sde, self.clock, self.eta, self.lean = sde, clock, eta, lean
        self.m, c, self.n, self.Q = reference.directions(model)
        self.c = c if c.ndim else c.expand(self.m.shape)
        self.like = model.like
        if self.Q is not None and self.like is not None:
            self.Q = self.Q.to(self.like)

    def split(self, values: Tensor) -> list[Coefficient]:
        """Split coefficients ``(N, *directions)`` into `N` prepared ones, numbers as operators."""
        if self.c.ndim:
            return [*self.unbind(values)]
        scale = Scale(values).prepared(self.like)
        return [scale[i] for i in range(len(values))]

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

    def _of_mean(self, values: Tensor) -> Tensor:
        """Multiply the mean, or one for every sample, by numbers ``(N, *directions)``."""
        return (values[:, None] if self.m.ndim > self.c.ndim else values) * self.m

    def P_squared(self, phi: Tensor) -> Tensor:
        """Return ``c cos² phi + n sin² phi``, ``(*phi.shape, *directions)``."""
        return torch.addcmul(self._over(self.n * phi.sin().square()), self.c, self._over(phi.cos().square()))

    def leaning(self, phi: Tensor) -> Tensor:
        """Return ``(P / sin)^lean``, the factor of `q` as it is interpolated: near 1 where there is much noise."""
        return (self.P_squared(phi).sqrt() / self._over(phi.sin())) ** self.lean

    def kept(self, end: Tensor, phi: Tensor) -> Tensor:
        """Return the ratio at two angles of ``(P / cos)²``, the variance that the reference gives to ``x / alpha``: 0 to 1."""
        ratio = self._over(phi.cos() / end.cos()).square()
        return self.P_squared(end) / self.P_squared(phi) * ratio

    def nodes(self, model: ScoreModel, t: Tensor) -> list[Node]:
        """Plan the model evaluations ``q = P (v − v_reference)``, times its factor, at the times ``(N,)``."""
        at, phi = self.sde.marginal(t), self.phi(t)
        cos, sin, P = self._over(phi.cos()), self._over(phi.sin()), self.P_squared(phi).sqrt()
        pull = sin * cos * (self.n - self.c) / P
        if self.lean:
            factor = self.leaning(phi)
            pull, P = factor * pull, factor * P
        a = -pull / self._over(_number(at.r))
        if not self.c.ndim:
            return [Node(question) for question in model.ask(t, x=Scale(a), velocity=Scale(P))]
        b = self._of_mean(pull * cos + P * sin)
        questions = model.ask(t, velocity=at.Phi.one())
        affine = zip(self.unbind(P), self.unbind(a), self.unbind(b), strict=True)
        return [Node(*v) for v in zip(questions, affine, strict=True)]

    def moves(self, times: Tensor, asked: Sequence[Asked]) -> list[Move]:
        """Plan the coefficients of the updates that are asked for."""
        if not asked:
            return []
        t, s = (torch.tensor([v[i] for v in asked]) for i in range(2))
        phi, r = self.phi(times), self._over(_number(self.sde.marginal(times).r))
        start, end = phi[t], phi[s]
        P_t, P_s = self.P_squared(start).sqrt(), self.P_squared(end).sqrt()
        unable = (P_t <= 1e-12).reshape(len(t), -1).any(1)
        if unable.any():
            raise ValueError(
                f"alpha is zero at t = {times[t][unable][0].item():.6g}, where an unbounded reference has no flow; choose the "
                "reference Normal() or Matched(), or a grid that starts earlier."
            )
        u, w = rule()
        path = start[:, None] + (end - start)[:, None] * u  # (moves, points)
        clock = self.clock(phi)
        l = polynomials(clock, asked, self.clock(path)) * (end - start)[:, None] * w  # (evaluations, moves, points)
        integrals = l.new_empty(*l.shape[:2], *self.c.shape)
        size = max(1, 2**15 // (len(u) * self.c.numel()))  # moves at a time whose integrands stay in the cache
        for own in group_by_ends(asked).split(size):
            integrand = self.P_squared(path[own[:, 0]]).reciprocal_()
            if self.eta:
                integrand *= self.kept(end[own[:, 0], None], path[own[:, 0]]).pow_(0.5 * self.eta**2)
            if self.lean:
                integrand /= self.leaning(path[own[:, 0]])
            integrals[:, own] = torch.einsum("jamu,au...->jam...", l[:, own], integrand)
        weights = integrals.mul_((1 + self.eta**2) * r[s] * P_s)
        if (P_s <= 0).any():  # a point mass at sigma = 0: the limit of P_s ∫ l dphi / sin² is −l at the end
            last = self._over(polynomials(clock, asked, self.clock(end)))
            weights = torch.where(P_s > 0, weights, -r[s] * last)
        ratio = P_s / P_t * self.kept(end, start) ** (0.5 * self.eta**2)
        shift = self._of_mean(r[s] * (self._over(end.cos()) - ratio * self._over(start.cos())))
        shifts: Sequence[Tensor | None] = self.unbind(shift) if self.c.ndim else [None] * len(asked)
        each = zip(asked, self.split(r[s] / r[t] * ratio), shifts, *map(self.split, weights), strict=True)
        return [Move(times[v.s], carry, shift, own[: len(v.seen)]) for v, carry, shift, *own in each]

    def spreads(self, times: Tensor) -> list[Spread]:
        """Plan the noise of every step between the times: of variance ``P_s² − (P_s / P_t)² kept^eta² P_t²`` in each direction.

        A reference without noise variance has no state of its own; its limit is ``eta² cos²_s (tan²_t − tan²_s)``.
        """
        phi, r = self.phi(times), self._over(_number(self.sde.marginal(times).r))
        start, end, P_s = phi[:-1], phi[1:], self.P_squared(phi[1:]).sqrt()
        kept = self.kept(end, start)
        if self.n:
            root = P_s * (-torch.expm1(self.eta**2 * kept.log()) / self.n).sqrt()
        else:
            root = self.eta * self._over(end.cos() * (start.tan().square() - end.tan().square()).sqrt())
            root = root.expand_as(P_s)
        carry = r[1:] / r[:-1] * P_s / self.P_squared(start).sqrt() * kept ** (0.5 * self.eta**2)
        return [Spread(*v) for v in zip(self.split(carry), self.split(r[1:] * root), strict=True)]

    def enter(self, x: Tensor) -> Tensor:
        """Return the coordinates of the state in the eigenbasis of the reference."""
        return x if self.Q is None else apply_matrix(x.reshape(len(x), -1), self.Q.to(x))

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """Return the state from its coordinates in the eigenbasis of the reference."""
        return x if self.Q is None else apply_matrix(x, self.Q.to(x).T).reshape(like.shape)

    def evaluate(self, model: ScoreModel, x: Tensor, y: Tensor, node: Node) -> Tensor:
        """Evaluate `q` at the state `x`, whose coordinates are `y`."""
        q = self.enter(model.answer(x, node.question))
        if node.affine is None:
            return q
        P, a, b = (v.to(y) for v in node.affine)
        return torch.addcmul(b, a, y).addcmul_(P, q)


class Channels:
    """The coefficients of exponential integrators of any linear process, for the references `PointMass` and `Unbounded`."""

    def __init__(self, sde: LinearSDE, model: ScoreModel, reference: Reference, clock: Clock, eta: float = 0.0) -> None:
        self.sde, self.clock, self.reference, self.like, self.eta = sde, clock, reference, model.like, eta
        reference.pieces(sde.marginal(sde.T), eta)  # refuses the references that have none

    def phi(self, t: Tensor) -> Tensor:
        """Return the angle ``atan(1 / √snr)`` at a time."""
        return self.sde.angle_at(t)

    def time(self, phi: Tensor) -> Tensor:
        """Return the time at which the angle is `phi`."""
        return self.sde.time_of_angle(phi)

    def nodes(self, model: ScoreModel, t: Tensor) -> list[Node]:
        """Plan the model evaluations at the times ``(N,)``, as the reference's questions."""
        return [Node(question) for question in self.reference.ask(model, t, self.sde.marginal(t))]

    def moves(self, times: Tensor, asked: Sequence[Asked]) -> list[Move]:
        """Plan the coefficients of the updates that are asked for."""
        if not asked:
            return []
        t, s = (torch.tensor([v[i] for v in asked]) for i in range(2))
        at_t, at_s = (self.sde.marginal(times[v]) for v in (t, s))
        (Psi_t, M_t), (Psi_s, M_s) = (self.reference.pieces(at, self.eta) for at in (at_t, at_s))
        phi, carry = self.phi(times), Psi_s @ Psi_t.inv()
        l_t, l_s = (polynomials(self.clock(phi), asked, self.clock(phi[v])) for v in (t, s))
        integrals = self._integrals(
            phi, asked, phi[t], phi[s].maximum(self.phi(times.new_tensor(NEAREST * self.sde.T)))
        )
        past, moves = carry @ M_t, []
        for i, v in enumerate(asked):  # of each, the weights of its evaluations are a row of operators
            W = M_s[i] * l_s[:, i] - past[i] * l_t[:, i] - Psi_s[i] @ integrals[i]
            W = W.prepared(self.like)
            moves.append(Move(times[v.s], carry[i].prepared(self.like), None, [W[j] for j in range(len(v.seen))]))
        return moves

    def _integrals(self, phi: Tensor, asked: Sequence[Asked], start: Tensor, end: Tensor) -> list[Operator]:
        """Return ``∫ K l_j' dphi`` over every update, a row of as many operators as there are evaluations, with ``K = Psi⁻¹ M``.

        ``∫ l_j dK`` follows by parts. So it is exact for what a polynomial of degree 0 says, and `K`, which grows without bound
        towards the data and has kinks where coefficients jump, is not differentiated. Nodes are even in ``log phi``.
        """
        z, w = gauss(POINTS)
        length = (end / start).log()[:, None]
        path = start[:, None] * (0.5 * (z + 1) * length).exp()  # (moves, points)
        Psi, M = self.reference.pieces(self.sde.marginal(self.time(path.reshape(-1))), self.eta)
        K = Psi.inv() @ M
        nodes = self.clock(phi)
        _, slope = value_and_slope(lambda u: polynomials(nodes, asked, self.clock(u)), path, path * length)
        weights = slope * (0.5 * w)
        return [K[i * POINTS : (i + 1) * POINTS].mix(weights[:, i]) for i in range(len(asked))]

    def spreads(self, times: Tensor) -> list[Spread]:
        """Plan the noise of every step between the times."""
        at_t, at_s = self.sde.marginal(times[:-1]), self.sde.marginal(times[1:])
        (Psi_t, _), (Psi_s, _) = (self.reference.pieces(at, self.eta) for at in (at_t, at_s))
        root = self.reference.root(at_t, at_s, self.sde.transition(times[1:], times[:-1]), self.eta)
        carry, root = (A.prepared(self.like) for A in (Psi_s @ Psi_t.inv(), root))
        return [Spread(carry[i], root[i]) for i in range(len(times) - 1)]

    def enter(self, x: Tensor) -> Tensor:
        """Return the state as it is."""
        return x

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """Return the state as it is."""
        return x

    def evaluate(self, model: ScoreModel, x: Tensor, y: Tensor, node: Node) -> Tensor:
        """Evaluate `q` at the state `x`."""
        return model.answer(x, node.question)


def _number(A: Operator) -> Tensor:
    """Return the number of an operator of a scalar process."""
    return A.matrix()[..., 0, 0]


def plan_pieces(
    sde: LinearSDE,
    model: ScoreModel,
    reference: Reference | None,
    clock: Clock,
    eta: float = 0.0,
    lean: float = 0.0,
) -> Scalar | Channels:
    """Choose the coefficients' formula for a process and a reference: by default the data's moments, on matrix processes a
    point mass.
    """
    if is_scalar(sde):
        return Scalar(sde, model, Matched() if reference is None else reference, clock, eta, lean)
    return Channels(sde, model, PointMass() if reference is None else reference, clock, eta)
