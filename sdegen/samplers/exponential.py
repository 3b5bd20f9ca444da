"""Exponential integrators of the probability flow: multistep, predictor–corrector and single-step, of any linear process.

All of them are one formula. Between two times the flow of a *reference* (`references`) is followed in closed form, and
what the model says beyond it, `q`, is replaced by the polynomial through evaluations at hand, in a *clock*:

    x_s = carry(x_t) + Σ_j W_j q_j,    W_j = Psi_s ∫_t^s l_j(clock) dK.

The weights are integrals of Lagrange polynomials, by quadrature in float64, once per run. Loop, history and
interpolation are common to scalar and matrix processes. Not here: anything stochastic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..grids import Grid
from ..operators import Matrix, Operator
from .base import Noise, Sampler, require_linear
from .references import Matched, PointMass, Reference

Clock = Callable[[Tensor], Tensor]


def angle(phi: Tensor) -> Tensor:
    """``phi = atan(sigma / alpha)`` itself: finite at both ends."""
    return phi


def log_ratio(phi: Tensor) -> Tensor:
    """``log(sigma / alpha)``, minus half the log-SNR: the clock of the DPM-Solver papers; infinite at both ends."""
    return phi.tan().log()


def share(phi: Tensor) -> Tensor:
    """``sigma / (alpha + sigma)``: finite at both ends."""
    return phi.sin() / (phi.sin() + phi.cos())


class Node(NamedTuple):
    """What turns a state and its velocity at one time into `q`, along directions: ``q = P v + a u + b``."""

    t: Tensor
    P: Tensor
    a: Tensor
    b: Tensor


class Move(NamedTuple):
    """A step to the time `s`: ``x_s = carry x_t + shift + Σ_j weights[j] q_j``, newest evaluation first."""

    s: Tensor
    carry: Any
    shift: Tensor | None
    weights: Sequence[Any]


@cache
def rule(points: int = 40) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre nodes on ``[0, 1]``, gathered at both ends, where integrands may be steep."""
    z, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(points))
    u = (z + 1) / 2
    return u**3 * (10 - 15 * u + 6 * u**2), 0.5 * w * 30 * u**2 * (1 - u) ** 2


def lagrange(nodes: Tensor, z: Tensor) -> Tensor:
    """Lagrange polynomials of the nodes ``(p,)`` at the points `z`, ``(p, *z.shape)``."""
    factors = []
    for j, node in enumerate(nodes):
        others = torch.cat([nodes[:j], nodes[j + 1 :]])
        factors.append(((z[..., None] - others) / (node - others)).prod(-1))
    return torch.stack(factors)


class Scalar:
    """The pieces of the formula on a scalar process, along the directions of a reference."""

    def __init__(self, model: Any, reference: Reference, clock: Clock) -> None:
        self.sde, self.clock = model.sde, clock
        self.m, self.c, self.n, self.Q = reference.directions(model)
        self.known: dict[float, tuple[Tensor, Tensor]] = {}

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The angle and radius of a time; a plan asks for each of its times many times over."""
        key = t.item()
        if key not in self.known:
            self.known[key] = (self.sde.flow(None).clock(t), self.sde.marginal(t).r.c)
        return self.known[key]

    def phi(self, t: Tensor) -> Tensor:
        """The angle of a time."""
        return self.at(t)[0]

    def time(self, phi: Tensor) -> Tensor:
        """The time of an angle."""
        return self.sde.flow(None).time(phi)

    def _over(self, values: Tensor) -> Tensor:
        """Values, shaped to broadcast over directions behind their own axes."""
        return values[(..., *[None] * self.c.ndim)]

    def P(self, phi: Tensor) -> Tensor:
        """``√(c cos² phi + n sin² phi)``, ``(*phi.shape, *directions)``."""
        phi = self._over(phi)
        return (self.c * phi.cos().square() + self.n * phi.sin().square()).sqrt()

    def node(self, t: Tensor) -> Node:
        """Coefficients of ``q = P (v − v_reference)``."""
        phi, r = self.at(t)
        cos, sin, P = phi.cos(), phi.sin(), self.P(phi)
        pull = sin * cos * (self.n - self.c) / P
        return Node(t, P, -pull / r, pull * cos * self.m + P * sin * self.m)

    def move(self, t: Tensor, s: Tensor, seen: Sequence[Tensor]) -> Move:
        """From `t` to `s` with evaluations at the times `seen`."""
        (start, r_t), (end, r_s) = self.at(t), self.at(s)
        u, w = rule()
        phi = start + (end - start) * u
        nodes = self.clock(torch.stack([self.phi(v) for v in seen]))
        l = lagrange(nodes, self.clock(phi))
        P_t, P_s = self.P(start), self.P(end)
        weight = (end - start) * w
        inner = self._over(weight) / self.P(phi).square()
        integrals = torch.tensordot(l, inner, 1)
        # A point mass at sigma = 0: the limit of P_s ∫ l dphi / sin² is −l at the end.
        last = self._over(lagrange(nodes, self.clock(end)))
        if not (P_t > 1e-12).all():
            raise ValueError(
                f"alpha is zero at t = {t.item():.6g}, where an unbounded reference has no flow; choose the reference "
                "Normal() or Matched(), or a grid that starts earlier."
            )
        weights = r_s * torch.where(P_s > 0, P_s * integrals, -last)
        ratio = P_s / P_t
        shift = r_s * (end.cos() - ratio * start.cos()) * self.m
        return Move(s, r_s / r_t * ratio, shift, list(weights))

    def enter(self, x: Tensor) -> Tensor:
        """The state along the directions."""
        return x if self.Q is None else x.reshape(len(x), -1) @ self.Q.to(x)

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """Back to the shape of the state."""
        return x if self.Q is None else (x @ self.Q.to(x).T).reshape(like.shape)

    def evaluate(self, model: Any, x: Tensor, y: Tensor, node: Node) -> Tensor:
        """`q` at the state `x`, whose directions are `y`."""
        v = self.enter(model.velocity(x, node.t))
        return scaled(node.P, v) + scaled(node.a, y) + node.b.to(v)


class Channels:
    """The pieces of the formula on a matrix process, for a reference that is a limit."""

    def __init__(self, model: Any, reference: Reference, clock: Clock) -> None:
        self.sde, self.clock, self.reference = model.sde, clock, reference
        reference.pieces(model.sde.marginal(model.sde.T))  # refuses the references that have none

    def phi(self, t: Tensor) -> Tensor:
        """The angle of what a state at `t` tells about its datum."""
        return torch.atan(self.sde.snr(t).rsqrt())

    def time(self, phi: Tensor) -> Tensor:
        """The time of an angle."""
        return self.sde.time(phi.tan().pow(-2))

    def node(self, t: Tensor) -> Tensor:
        """The time."""
        return t

    def move(self, t: Tensor, s: Tensor, seen: Sequence[Tensor]) -> Move:
        """From `t` to `s` with evaluations at the times `seen`."""
        Psi_t, Psi_s = (self.reference.pieces(self.sde.marginal(v))[0] for v in (t, s))
        u, w = rule()
        time = t + (s - t) * u
        at = self.sde.marginal(time)
        Psi, M, sign = self.reference.pieces(at)
        G = self.sde.diffusion_operator(time)
        slope = (Psi.inv() @ G @ G.T @ at.covariance.inv() @ M).matrix() * (0.5 * sign)
        l = lagrange(self.clock(self.phi(torch.stack(list(seen)))), self.clock(self.phi(time)))
        integrals = torch.einsum("ju,u,uab->jab", l, (s - t) * w, slope)
        return Move(s, Psi_s @ Psi_t.inv(), None, [Psi_s @ Matrix(v) for v in integrals])

    def enter(self, x: Tensor) -> Tensor:
        """The state."""
        return x

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """The state."""
        return x

    def evaluate(self, model: Any, x: Tensor, y: Tensor, node: Tensor) -> Tensor:
        """`q` at the state `x`."""
        return self.reference.estimate(*model.estimate(x, node))


def _pieces(model: Any, reference: Reference, clock: Clock) -> Scalar | Channels:
    return (Scalar if len(model.sde.e) == 1 else Channels)(model, reference, clock)


def scaled(c: Any, x: Tensor) -> Tensor:
    """A coefficient, a number or one for every direction, or an operator, on `x`."""
    if isinstance(c, Operator):
        return c(x)
    return x * (c if c.ndim == 0 else c.to(x))


def moved(move: Move, x: Tensor, history: Sequence[Tensor]) -> Tensor:
    """The formula."""
    y = scaled(move.carry, x)
    for weight, q in zip(move.weights, history, strict=False):
        y = y + scaled(weight, q)
    return y if move.shift is None else y + move.shift.to(y)


class Multistep(Sampler):
    """Exponential Adams methods of order 1 to 4: one evaluation a step, whatever the order.

    With `reference` `PointMass()` data-prediction multistep (DPM-Solver++: C. Lu et al., 2022, arXiv:2211.01095), with
    `Unbounded()` noise prediction (DEIS: Q. Zhang and Y. Chen, 2022, arXiv:2204.13902), with `corrector` the
    predictor–corrector UniPC (W. Zhao et al., 2023, arXiv:2302.04867). Order 1 with either limit is DDIM.

    The start is true to the order: early steps go again from the first state with all evaluations made so far, so the
    error of the first, first-order step is not carried on. Order 4 repairs its second evaluation, at the price of one more.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        Of the method, 1 to 4.
    reference
        The law whose flow is exact; the data's own moments by default on scalar processes, a point mass on others.
    clock
        The variable of the interpolating polynomials: `angle`, `share`, `log_ratio`, or a function of the angle.
    corrector
        Correct every state with the evaluation made there: one order more for the same evaluations.
    """

    def __init__(
        self,
        steps: int = 20,
        grid: Grid | None = None,
        order: int = 3,
        reference: Reference | None = None,
        clock: Clock = angle,
        corrector: bool = False,
    ) -> None:
        super().__init__(steps, grid)
        if order not in (1, 2, 3, 4):
            raise ValueError(f"order = {order}; multistep methods have order 1, 2, 3 or 4.")
        self.order, self.reference, self.clock, self.corrector = order, reference, clock, corrector

    class Coefficients(NamedTuple):
        """Of one step: its node, its move, and those that go back."""

        pieces: Any
        node: Any
        move: Move
        restart: bool
        correct: Move | None
        repair: tuple[Move, Any] | None

    def pieces(self, model: Any) -> Scalar | Channels:
        """The formula's pieces for a model."""
        return _pieces(model, _reference(self.reference, model), self.clock)

    def plan(self, model: Any, times: Tensor) -> list[Coefficients]:
        """The weights of every step."""
        require_linear(self, model.sde)
        pieces, p = self.pieces(model), self.order
        steps, correct = [], None
        for k in range(len(times) - 1):
            restart = 0 < k < p - 1
            base = times[0] if restart else times[k]
            seen = list(times[: k + 1].flip(0)[:p])
            repair = None
            if p == 4 and k == 2:
                repair = (pieces.move(times[0], times[1], seen), pieces.node(times[1]))
            move = pieces.move(base, times[k + 1], seen)
            steps.append(self.Coefficients(pieces, pieces.node(times[k]), move, restart, correct, repair))
            if self.corrector and k + 2 < len(times):
                correct = pieces.move(base, times[k + 1], [times[k + 1], *seen])
        return steps

    def step(self, model: Any, x: Tensor, c: Coefficients, noise: Noise, state: Any) -> tuple[Tensor, Any]:
        """One evaluation, and the formula."""
        y = c.pieces.enter(x)
        q = c.pieces.evaluate(model, x, y, c.node)
        first, base, history = (y, y, []) if state is None else state
        history = [q, *history]
        if c.correct is not None:
            y = self.advance(c.correct, base, history)
        if c.repair is not None:
            move, node = c.repair
            again = moved(move, first, history)
            history[1] = c.pieces.evaluate(model, c.pieces.leave(again, x), again, node)
        base = first if c.restart else y
        out = self.advance(c.move, base, history)
        return c.pieces.leave(out, x), (first, base, history[: self.order])

    def advance(self, move: Move, y: Tensor, history: Sequence[Tensor]) -> Tensor:
        """A move of the run; what `fit` watches."""
        return moved(move, y, history)


class Singlestep(Sampler):
    """Exponential Runge–Kutta methods of order 2 and 3: as many evaluations a step as the order, no memory.

    Stages at one half, or at one and two thirds, of the clock (DPM-Solver-2 and -3: C. Lu et al., 2022, arXiv:2206.00927,
    which are these with `Unbounded()` and the clock `log_ratio`).

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        2 or 3.
    reference, clock
        As for `Multistep`.
    """

    def __init__(
        self,
        steps: int = 10,
        grid: Grid | None = None,
        order: int = 3,
        reference: Reference | None = None,
        clock: Clock = angle,
    ) -> None:
        super().__init__(steps, grid)
        if order not in (2, 3):
            raise ValueError(f"order = {order}; single-step methods here have order 2 or 3.")
        self.order, self.reference, self.clock = order, reference, clock

    def plan(self, model: Any, times: Tensor) -> list[Any]:
        """Stages, their nodes and moves."""
        require_linear(self, model.sde)
        pieces = _pieces(model, _reference(self.reference, model), self.clock)
        steps = []
        for t, s in pairwise(times):
            stages = [t, *(_between(pieces, t, s, j / self.order) for j in range(1, self.order))]
            nodes = [pieces.node(v) for v in stages]
            moves = [pieces.move(t, stages[j], stages[:j][::-1]) for j in range(1, self.order)]
            # The last stage and the first: with two thirds of the way the line through them is exact to order three.
            moves.append(pieces.move(t, s, [stages[-1], t]))
            steps.append((pieces, nodes, moves))
        return steps

    def step(self, model: Any, x: Tensor, c: Any, noise: Noise, state: Any) -> tuple[Tensor, None]:
        """All stages from one state."""
        pieces, nodes, moves = c
        y = pieces.enter(x)
        history = [pieces.evaluate(model, x, y, nodes[0])]
        for node, move in zip(nodes[1:], moves, strict=False):
            stage = moved(move, y, history)
            history = [pieces.evaluate(model, pieces.leave(stage, x), stage, node), *history]
        return pieces.leave(moved(moves[-1], y, [history[0], history[-1]]), x), None


def _between(pieces: Any, t: Tensor, s: Tensor, fraction: float) -> Tensor:
    """The time at a fraction of the clock between two, by bisection on the angle."""
    low, high = pieces.phi(s), pieces.phi(t)
    first, last = pieces.clock(high), pieces.clock(low)
    target = first + fraction * (last - first)
    for _ in range(60):
        middle = 0.5 * (low + high)
        later = pieces.clock(middle) > target
        low, high = torch.where(later, low, middle), torch.where(later, middle, high)
    return pieces.time(0.5 * (low + high))


def _reference(given: Reference | None, model: Any) -> Reference:
    if given is not None:
        return given
    return Matched() if len(model.sde.e) == 1 else PointMass()
