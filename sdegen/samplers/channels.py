"""Coefficients of exponential integrators on processes whose matrices do not commute: `Channels`.

What the model says beyond a Gaussian law of the data with the covariance `C`, whose reversed process is followed
(`reversed_gaussian`), is ``q = E[x_0 | x] + C Phiᵀ score``, constant for data of that law, and

    d(Psi⁻¹ x) = d(Psi⁻¹ M) q and noise,    M = Phi.

Around the reference `Unbounded`, ``Psi`` is ``Phi``, ``q = E[z | x]`` and ``M = (1 + eta²) R``.
"""

from __future__ import annotations

__all__ = ["Channels", "UnboundedChannels"]

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..laws.interpolation import gauss, lagrange_slopes
from ..laws.kernels import Transition, posterior
from ..laws.marginals import Marginal
from ..laws.operators import Operator
from ..laws.products import value_and_slope
from ..models.score import ScoreModel, rotated
from ..processes.linear import LinearSDE
from .clocks import Clock
from .moves import Asked, Evaluations, FreshNoise, Jump, Move, Moves, Node, add_multiple, multiply
from .polynomials import Polynomials
from .references import ReferenceLaw
from .reversed_gaussian import ReversedGaussian

POINTS = 24  # of the quadrature over an update
NEAREST = 1e-8  # of T: below this time the root of a process without noise at 0 is kept constant


class Channels:
    """The coefficients of exponential integrators of any linear process, around a Gaussian law of the data or a point mass."""

    def __init__(self, sde: LinearSDE, model: ScoreModel, law: ReferenceLaw, clock: Clock, eta: float = 0.0) -> None:
        self.sde, self.clock, self.like, self.eta = sde, clock, model.like, eta
        self.around = ReversedGaussian(sde, law, eta)

    def Psi_and_M(self, at: Marginal) -> tuple[Operator, Operator]:
        """Return ``(Psi, M)`` at the times of laws."""
        return self.around.Psi(at), self.around.whole(at.Phi)

    def phi(self, t: Tensor) -> Tensor:
        """Return the angle ``atan(1 / √snr)`` at a time."""
        return self.sde.angle_at(t)

    def time(self, phi: Tensor) -> Tensor:
        """Return the time at which the angle is `phi`."""
        return self.sde.time_of_angle(phi)

    def evaluations(self, model: ScoreModel, t: Tensor) -> Evaluations[Operator]:
        """Plan the model evaluations ``q = E[x_0 | x] + C Phiᵀ score`` at the times ``(N,)``, read off from the velocity."""
        one = self.sde.datum.one()
        if self.around.point:
            return Evaluations([Node(question) for question in model.ask(t, denoise=one)], None, None)
        a, P = (self.split(A, len(t)) for A in self._reading(self.sde.marginal(t)))
        questions = model.ask(t, velocity=one)
        return Evaluations([Node(*v) for v in zip(questions, zip(P, a, strict=True), strict=True)], None, None)

    def moves(self, times: Tensor, asked: Sequence[Asked]) -> Moves[Operator]:
        """Plan the coefficients of the updates that are asked for."""
        if not asked:
            return Moves(times[:0], self.sde.datum, None, [], [], [])
        t, s = (torch.tensor([v[i] for v in asked]) for i in range(2))
        angles = self.phi(torch.cat([times, times.new_tensor([NEAREST * self.sde.T])]))
        phi, nearest = angles[:-1], angles[-1]
        Psi, M = self.Psi_and_M(self.sde.marginal(times))
        carry = Psi[s] @ Psi[t].inv()
        polynomials = Polynomials(self.clock(phi), asked)
        l_t, l_s = (polynomials(self.clock(phi[v])) for v in (t, s))
        integrals = self._integrals(polynomials, phi[t], phi[s].maximum(nearest))
        M_s, Psi_s, past = M[s], Psi[s], carry @ M[t]
        each = zip(l_s, l_t, integrals, strict=True)
        weights = [M_s * at_s - past * at_t - Psi_s @ between for at_s, at_t, between in each]
        added = polynomials.corrections(weights.pop()) if polynomials.corrected else []
        return Moves(times[s], carry, None, weights, added, [v.seen for v in asked])

    def split(self, A: Operator, n: int) -> list[Operator]:
        """Split a map into `n` prepared ones."""
        return A.prepared(self.like).each(n)

    def split_moves(self, moves: Moves[Any]) -> list[Move]:
        """Split updates into prepared ones."""
        n = len(moves.s)
        return moves.each(lambda A: self.split(A, n), self.shifts(None, n))

    def shifts(self, share: Operator | None, n: int) -> list[Tensor | None]:
        """Return the constants of `n` updates: none, since the law has mean 0."""
        return [None] * n

    def _integrals(self, polynomials: Polynomials, start: Tensor, end: Tensor) -> list[Operator]:
        """Return ``∫ K l_j' dphi`` over every update, of each evaluation a map with a row for every update, with ``K = Psi⁻¹ M``.

        ``∫ l_j dK`` follows by parts. So it is exact for what a polynomial of degree 0 says, and `K`, which grows without bound
        towards the data and has kinks where coefficients jump, is not differentiated. Nodes are even in ``log phi``.
        """
        u, w = gauss(POINTS)
        length = (end / start).log()[:, None]
        path = start[:, None] * (0.5 * (u + 1) * length).exp()  # (moves, points)
        Psi, M = self.Psi_and_M(self.sde.marginal(self.time(path.reshape(-1))))
        K = Psi.inv() @ M
        z, speed = value_and_slope(self.clock, path, path * length)
        slopes = polynomials(z, lagrange_slopes)
        return [K.mix(v) for v in slopes * (0.5 * w * speed)]

    def jump(self, t: Tensor, s: Tensor) -> Jump:
        """Return the coefficients of updates from the times `t` to the times `s`, ``(N,)`` each, which take one velocity for the
        whole way.
        """
        at = self.sde.marginal(t)
        (Psi_t, M_t), (Psi_s, M_s) = (self.Psi_and_M(v) for v in (at, self.sde.marginal(s)))
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

    def fresh_noise(self, times: Tensor) -> list[FreshNoise]:
        """Plan the noise of every step between the times."""
        at_t, at_s = self.sde.marginal(times[:-1]), self.sde.marginal(times[1:])
        (Psi_t, _), (Psi_s, _) = (self.Psi_and_M(at) for at in (at_t, at_s))
        carry = Psi_s @ Psi_t.inv()
        root = self.root(at_t, at_s, carry, self.sde.transition(times[1:], times[:-1]))
        return [FreshNoise(*v) for v in zip(*(self.split(A, len(times) - 1) for A in (carry, root)), strict=True)]

    def root(self, at_t: Marginal, at_s: Marginal, carry: Operator, s_to_t: Transition) -> Operator:
        """Return a root of the covariance of the noise that a step from `t` to `s` adds, ``V_s − carry V_t carryᵀ``."""
        if self.around.point and self.eta == 1:
            return posterior(at_s, at_t, s_to_t).covariance.sqrt()
        V_t, V_s = self.around.covariance(at_t), self.around.covariance(at_s)
        return (V_s - carry @ V_t @ carry.T).sqrt()

    def enter(self, x: Tensor) -> Tensor:
        """Return the state in the shape that the coefficients act on."""
        return x.reshape(len(x), -1) if self.around.numbers else x

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """Return the state in its own shape."""
        return x.reshape(like.shape)

    def evaluate(self, model: ScoreModel, x: Tensor, y: Tensor, node: Node) -> Tensor:
        """Evaluate `q` at the state `x`, which is `y` in the shape that the coefficients act on."""
        q = self.enter(model.answer(x, node.question))
        if node.affine is None:
            return q
        P, a = node.affine
        return add_multiple(multiply(P, q), a, y)


class UnboundedChannels(Channels):
    """The coefficients around the reference `Unbounded`."""

    def Psi_and_M(self, at: Marginal) -> tuple[Operator, Operator]:
        """Return ``Phi`` and ``(1 + eta²) R``."""
        return at.Phi, at.R * (1 + self.eta**2)

    def evaluations(self, model: ScoreModel, t: Tensor) -> Evaluations[Operator]:
        """Plan the model evaluations ``q = E[z | x]`` at the times ``(N,)``."""
        return Evaluations([Node(question) for question in model.ask(t, noise=self.sde.datum.one())], None, None)

    def root(self, at_t: Marginal, at_s: Marginal, carry: Operator, s_to_t: Transition) -> Operator:
        """Return `eta` times the root of the forward transition's covariance, taken back to `s`."""
        return s_to_t.Phi.inv() @ s_to_t.R * self.eta
