"""Coefficients of exponential integrators on processes whose matrices do not commute: `Channels`.

What the model says beyond a Gaussian law of the data with the covariance `C`, whose reversed process is `followed`, is ``q =
E[x_0 | x] + C Phiᵀ score``, constant for data of that law, and

    d(Psi⁻¹ x) = d(Psi⁻¹ M) q and noise,    M = Phi.

Without bound ``Psi`` is ``Phi``, with ``q = E[z | x]`` and ``M = (1 + eta²) R``.
"""

from __future__ import annotations

__all__ = ["Channels", "Unlimited"]

from collections.abc import Sequence

import torch
from torch import Tensor

from ..laws.interpolation import gauss
from ..laws.kernels import Transition, posterior
from ..laws.marginals import Marginal
from ..laws.operators import Operator
from ..laws.products import value_and_slope
from ..models.score import ScoreModel, rotated
from ..processes.linear import LinearSDE
from .clocks import Clock
from .followed import Followed
from .moves import Asked, Jump, Move, Node, Spread, add_multiple, multiply
from .polynomials import polynomials
from .references import ReferenceLaw

POINTS = 24  # of the quadrature over an update
NEAREST = 1e-8  # of T: below it the root of a process without noise at 0 is held


class Channels:
    """The coefficients of exponential integrators of any linear process, around a Gaussian law of the data or a point mass."""

    def __init__(self, sde: LinearSDE, model: ScoreModel, law: ReferenceLaw, clock: Clock, eta: float = 0.0) -> None:
        self.sde, self.clock, self.like, self.eta = sde, clock, model.like, eta
        self.around = Followed(sde, law, eta)

    def pieces(self, at: Marginal) -> tuple[Operator, Operator]:
        """Return ``(Psi, M)`` at the times of laws."""
        return self.around.Psi(at), self.around.whole(at.Phi)

    def phi(self, t: Tensor) -> Tensor:
        """Return the angle ``atan(1 / √snr)`` at a time."""
        return self.sde.angle_at(t)

    def time(self, phi: Tensor) -> Tensor:
        """Return the time at which the angle is `phi`."""
        return self.sde.time_of_angle(phi)

    def nodes(self, model: ScoreModel, t: Tensor) -> list[Node]:
        """Plan the model evaluations ``q = E[x_0 | x] + C Phiᵀ score`` at the times ``(N,)``, read off from the velocity."""
        at = self.sde.marginal(t)
        one = at.Phi.one()
        if self.around.point:
            return [Node(question) for question in model.ask(t, denoise=one)]
        a, P = (A.prepared(self.like).each(len(t)) for A in self._reading(at))
        return [Node(*v) for v in zip(model.ask(t, velocity=one), zip(P, a, strict=True), strict=True)]

    def moves(self, model: ScoreModel, times: Tensor, asked: Sequence[Asked]) -> list[Move]:
        """Plan the coefficients of the updates that are asked for."""
        if not asked:
            return []
        t, s = (torch.tensor([v[i] for v in asked]) for i in range(2))
        at_t, at_s = (self.sde.marginal(times[v]) for v in (t, s))
        (Psi_t, M_t), (Psi_s, M_s) = (self.pieces(at) for at in (at_t, at_s))
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
        Psi, M = self.pieces(self.sde.marginal(self.time(path.reshape(-1))))
        K = Psi.inv() @ M
        nodes = self.clock(phi)
        _, slope = value_and_slope(lambda u: polynomials(nodes, asked, self.clock(u)), path, path * length)
        weights = slope * (0.5 * w)
        return [K[i * POINTS : (i + 1) * POINTS].mix(weights[:, i]) for i in range(len(asked))]

    def jump(self, t: Tensor, s: Tensor) -> Jump:
        """Return the coefficients of updates from the times `t` to the times `s`, ``(N,)`` each, by the velocity on the whole
        way.
        """
        at = self.sde.marginal(t)
        (Psi_t, M_t), (Psi_s, M_s) = (self.pieces(v) for v in (at, self.sde.marginal(s)))
        past = Psi_s @ Psi_t.inv()
        W, (a, P) = M_s - past @ M_t, self._reading(at)
        return Jump((past + W @ a).prepared(self.like), None, (W @ P).prepared(self.like))

    def _reading(self, at: Marginal) -> tuple[Operator, Operator]:
        """Return `a` and `P` of ``q = a x + P v`` at the times of laws."""
        one, whole = at.Phi.one(), self.around.whole
        clean = [whole(A) for A in rotated(at, denoise=one)]
        if self.around.point:
            return clean[0], clean[1]
        pull = self.around.C @ whole(at.Phi).T
        a, P = (D + pull @ whole(S) for D, S in zip(clean, rotated(at, score=one), strict=True))
        return a, P

    def spreads(self, times: Tensor) -> list[Spread]:
        """Plan the noise of every step between the times."""
        at_t, at_s = self.sde.marginal(times[:-1]), self.sde.marginal(times[1:])
        (Psi_t, _), (Psi_s, _) = (self.pieces(at) for at in (at_t, at_s))
        carry = Psi_s @ Psi_t.inv()
        root = self.root(at_t, at_s, carry, self.sde.transition(times[1:], times[:-1]))
        carry, root = (A.prepared(self.like) for A in (carry, root))
        return [Spread(carry[i], root[i]) for i in range(len(times) - 1)]

    def root(self, at_t: Marginal, at_s: Marginal, carry: Operator, s_to_t: Transition) -> Operator:
        """Return a root of the covariance of the noise that a step from `t` to `s` adds, ``V_s − carry V_t carryᵀ``."""
        if self.around.point and self.eta == 1:
            return posterior(at_s, at_t, s_to_t).covariance.sqrt()
        V_t, V_s = self.around.covariance(at_t), self.around.covariance(at_s)
        return (V_s - carry @ V_t @ carry.T).sqrt()

    def enter(self, x: Tensor) -> Tensor:
        """Return the state in the shape that the coefficients act on."""
        return x.flatten(1) if self.around.numbers else x

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """Return the state in its own shape."""
        return x.reshape(like.shape)

    def evaluate(self, model: ScoreModel, x: Tensor, y: Tensor, node: Node) -> Tensor:
        """Evaluate `q` at the state `x`, in the shape that the coefficients act on `y`."""
        q = self.enter(model.answer(x, node.question))
        if node.affine is None:
            return q
        P, a = node.affine
        return add_multiple(multiply(P, q), a, y)


class Unlimited(Channels):
    """The coefficients around a law without bound."""

    def pieces(self, at: Marginal) -> tuple[Operator, Operator]:
        """Return ``Phi`` and ``(1 + eta²) R``."""
        return at.Phi, at.R * (1 + self.eta**2)

    def nodes(self, model: ScoreModel, t: Tensor) -> list[Node]:
        """Plan the model evaluations ``q = E[z | x]`` at the times ``(N,)``."""
        return [Node(question) for question in model.ask(t, noise=self.sde.marginal(t).Phi.one())]

    def root(self, at_t: Marginal, at_s: Marginal, carry: Operator, s_to_t: Transition) -> Operator:
        """Return `eta` times the root of the forward transition's covariance, taken back to `s`."""
        return s_to_t.Phi.inv() @ s_to_t.R * self.eta
