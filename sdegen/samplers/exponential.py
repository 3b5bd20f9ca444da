"""Exponential integrators of the probability flow: multistep, predictor–corrector and single-step, of any linear process.

All of them are one formula. Between two times the flow of a *reference* (`references`) is followed in closed form, and
what the model says beyond it, `q`, is replaced by the polynomial through evaluations at hand, in a *clock*:

    x_s = carry(x_t) + Σ_j W_j q_j,    W_j = Psi_s ∫_t^s l_j(clock) dK.

The weights are integrals of Lagrange polynomials, by quadrature in float64, once per run. Loop, history and
interpolation are common to scalar and matrix processes. Not here: anything stochastic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..laws.interpolation import lagrange, rule
from ..laws.operators import Matrix, Operator, Scale, add_product
from ..models.score import ScoreModel
from ..processes.grids import Grid
from ..processes.linear import LinearSDE
from .base import Noise, Sampler, require_linear
from .references import Matched, PointMass, Reference

Clock = Callable[[Tensor], Tensor]


def angle(phi: Tensor) -> Tensor:
    """``phi = atan(sigma / alpha)`` itself: finite at both ends.

    The angle of T. Salimans and J. Ho, *Progressive distillation for fast sampling of diffusion models*, 2022,
    arXiv:2202.00512.

    Parameters
    ----------
    phi
        The angles, in ``[0, π/2]``, of any shape; ``atan(1 / √snr)`` on matrix processes.
    """
    return phi


def log_ratio(phi: Tensor) -> Tensor:
    """``log(sigma / alpha)``, minus half the log-SNR: the clock of the DPM-Solver papers; infinite at both ends.

    C. Lu et al., 2022, arXiv:2206.00927 and arXiv:2211.01095.

    Parameters
    ----------
    phi
        As for `angle`.
    """
    return phi.tan().log()


def share(phi: Tensor) -> Tensor:
    """``sigma / (alpha + sigma)``: finite at both ends.

    Parameters
    ----------
    phi
        As for `angle`.
    """
    return phi.sin() / (phi.sin() + phi.cos())


class Node(NamedTuple):
    """What turns a state into `q`: the answer to a question, or along directions ``q = P answer + a x + b``."""

    question: Any
    affine: tuple[Tensor, Tensor, Tensor] | None = None


class Move(NamedTuple):
    """A step to the time `s`: ``x_s = carry x_t + shift + Σ_j weights[j] q_j``, newest evaluation first."""

    s: Tensor
    carry: Any
    shift: Tensor | None
    weights: Sequence[Any]


class Asked(NamedTuple):
    """A move to be planned: from the time `t` to `s` with evaluations at `seen`, newest first; places among the times."""

    t: int
    s: int
    seen: Sequence[int]


def polynomials(clock: Tensor, asked: Sequence[Asked], z: Tensor) -> Tensor:
    """Those of every move's evaluations, on the clock of the times, at its points `z` ``(moves, *)``: ``(most, moves, *)``."""
    counts = [len(v.seen) for v in asked]
    l = z.new_zeros(max(counts), *z.shape)
    for p in set(counts):
        alike = [i for i, count in enumerate(counts) if count == p]
        l[:p, alike] = lagrange(clock[torch.tensor([asked[i].seen for i in alike])], z[alike])
    return l


def ways(asked: Sequence[Asked]) -> Tensor:
    """Moves with common ends, a row of their places for each way from `t` to `s`; shorter rows repeat their first."""
    found: dict[tuple[int, int], list[int]] = {}
    for i, v in enumerate(asked):
        found.setdefault((v.t, v.s), []).append(i)
    most = max(map(len, found.values()))
    return torch.tensor([[*own, *own[:1] * (most - len(own))] for own in found.values()])


class Scalar:
    """The pieces of the formula on a scalar process, along the directions of a reference."""

    def __init__(self, sde: LinearSDE, model: ScoreModel, reference: Reference, clock: Clock) -> None:
        self.sde, self.clock, self.flow = sde, clock, sde.flow(model)
        self.m, c, self.n, self.Q = reference.directions(model)
        self.c = c.expand(torch.broadcast_shapes(c.shape, self.m.shape))
        self.like = model.like
        if self.Q is not None and self.like is not None:
            self.Q = self.Q.to(self.like)

    def split(self, values: Tensor) -> list[Any]:
        """Coefficients ``(N, *directions)`` one by one, prepared: numbers as operators."""
        if not self.c.ndim:
            scale = Scale(values).prepared(self.like)
            return [scale[i] for i in range(len(values))]
        return list((values if self.like is None else values.to(self.like)).unbind())

    def phi(self, t: Tensor) -> Tensor:
        """The angle of a time."""
        return self.flow.clock(t)

    def time(self, phi: Tensor) -> Tensor:
        """The time of an angle."""
        return self.flow.time(phi)

    def _over(self, values: Tensor) -> Tensor:
        """Values, shaped to broadcast over directions behind their own axes."""
        return values[(..., *[None] * self.c.ndim)]

    def P_squared(self, phi: Tensor) -> Tensor:
        """``c cos² phi + n sin² phi``, ``(*phi.shape, *directions)``."""
        return torch.addcmul(self._over(self.n * phi.sin().square()), self.c, self._over(phi.cos().square()))

    def nodes(self, model: ScoreModel, t: Tensor) -> list[Node]:
        """Coefficients of ``q = P (v − v_reference)`` at the times ``(N,)``."""
        at, phi = self.sde.marginal(t), self.phi(t)
        cos, sin, P = self._over(phi.cos()), self._over(phi.sin()), self.P_squared(phi).sqrt()
        pull = sin * cos * (self.n - self.c) / P
        a = -pull / self._over(_number(at.r))
        if not self.c.ndim:
            return [Node(question) for question in model.ask(t, x=Scale(a), velocity=Scale(P))]
        b = pull * cos * self.m + P * sin * self.m
        questions = model.ask(t, velocity=at.Phi.one())
        affine = zip(self.split(P), self.split(a), self.split(b), strict=True)
        return [Node(*v) for v in zip(questions, affine, strict=True)]

    def moves(self, times: Tensor, asked: Sequence[Asked]) -> list[Move]:
        """What was asked for."""
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
        size = max(1, 2**15 // (len(u) * self.c.numel()))  # ways at a time whose integrands stay in the cache
        for own in ways(asked).split(size):
            integrand = self.P_squared(path[own[:, 0]]).reciprocal_()
            integrals[:, own] = torch.einsum("jamu,au...->jam...", l[:, own], integrand)
        weights = integrals.mul_(r[s] * P_s)
        if (P_s <= 0).any():  # a point mass at sigma = 0: the limit of P_s ∫ l dphi / sin² is −l at the end
            last = self._over(polynomials(clock, asked, self.clock(end)))
            weights = torch.where(P_s > 0, weights, -r[s] * last)
        ratio = P_s / P_t
        shift = r[s] * (self._over(end.cos()) - ratio * self._over(start.cos())) * self.m
        shifts = self.split(shift) if self.c.ndim else [None] * len(asked)
        each = zip(asked, self.split(r[s] / r[t] * ratio), shifts, *map(self.split, weights), strict=True)
        return [Move(times[v.s], carry, shift, own[: len(v.seen)]) for v, carry, shift, *own in each]

    def enter(self, x: Tensor) -> Tensor:
        """The state along the directions."""
        return x if self.Q is None else x.reshape(len(x), -1) @ self.Q.to(x)

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """Back to the shape of the state."""
        return x if self.Q is None else (x @ self.Q.to(x).T).reshape(like.shape)

    def evaluate(self, model: ScoreModel, x: Tensor, y: Tensor, node: Node) -> Tensor:
        """`q` at the state `x`, whose directions are `y`."""
        q = self.enter(model.answer(x, node.question))
        if node.affine is None:
            return q
        P, a, b = (v.to(y) for v in node.affine)
        return torch.addcmul(b, a, y).addcmul_(P, q)


class Channels:
    """The pieces of the formula on a matrix process, for a reference that is a limit."""

    def __init__(self, sde: LinearSDE, model: ScoreModel, reference: Reference, clock: Clock) -> None:
        self.sde, self.clock, self.reference, self.like = sde, clock, reference, model.like
        reference.pieces(sde.marginal(sde.T))  # refuses the references that have none

    def phi(self, t: Tensor) -> Tensor:
        """The angle of what a state at `t` tells about its datum."""
        return torch.atan(self.sde.snr(t).rsqrt())

    def time(self, phi: Tensor) -> Tensor:
        """The time of an angle."""
        return self.sde.time(phi.tan().pow(-2))

    def nodes(self, model: ScoreModel, t: Tensor) -> list[Node]:
        """The reference's questions at the times ``(N,)``."""
        return [Node(question) for question in self.reference.ask(model, t, self.sde.marginal(t))]

    def moves(self, times: Tensor, asked: Sequence[Asked]) -> list[Move]:
        """What was asked for."""
        if not asked:
            return []
        t, s = (torch.tensor([v[i] for v in asked]) for i in range(2))
        Psi_t, Psi_s = (self.reference.pieces(self.sde.marginal(times[v]))[0] for v in (t, s))
        u, w = rule()
        h = times[s] - times[t]
        path = times[t][:, None] + h[:, None] * u  # (moves, points)
        at = self.sde.marginal(path.reshape(-1))
        Psi, M, sign = self.reference.pieces(at)
        G = self.sde.diffusion_operator(path.reshape(-1))
        slope = (Psi.inv() @ G @ G.T @ at.covariance.inv() @ M).matrix() * (0.5 * sign)
        phi = self.phi(path.reshape(-1)).reshape(path.shape)
        l = polynomials(self.clock(self.phi(times)), asked, self.clock(phi))
        integrals = torch.einsum("jmu,mu,muab->jmab", l, h[:, None] * w, slope.unflatten(0, path.shape))
        carry = (Psi_s @ Psi_t.inv()).prepared(self.like)
        weights = [(Psi_s @ Matrix(v)).prepared(self.like) for v in integrals]
        return [Move(times[v.s], carry[i], None, [W[i] for W in weights[: len(v.seen)]]) for i, v in enumerate(asked)]

    def enter(self, x: Tensor) -> Tensor:
        """The state."""
        return x

    def leave(self, x: Tensor, like: Tensor) -> Tensor:
        """The state."""
        return x

    def evaluate(self, model: ScoreModel, x: Tensor, y: Tensor, node: Node) -> Tensor:
        """`q` at the state `x`."""
        return model.answer(x, node.question)


def _number(A: Operator) -> Tensor:
    """The number of an operator of a scalar process."""
    return A.matrix()[..., 0, 0]


def _pieces(sde: LinearSDE, model: ScoreModel, reference: Reference | None, clock: Clock) -> Scalar | Channels:
    """The formula's pieces; by default around the data's own moments, on matrix processes around a point mass."""
    if len(sde.e) == 1:
        return Scalar(sde, model, Matched() if reference is None else reference, clock)
    return Channels(sde, model, PointMass() if reference is None else reference, clock)


def scaled(c: Any, x: Tensor) -> Tensor:
    """A coefficient, an operator or one number for every direction, on `x`."""
    return x * c.to(x) if isinstance(c, Tensor) else c(x)


def added(y: Tensor, c: Any, x: Tensor) -> Tensor:
    """``y + c x`` for such a coefficient, in the memory of `y`."""
    return add_product(y, c.to(x), x) if isinstance(c, Tensor) else c.onto(y, x)


def moved(move: Move, x: Tensor, history: Sequence[Tensor]) -> Tensor:
    """The formula."""
    y = scaled(move.carry, x)
    for weight, q in zip(move.weights, history, strict=False):
        y = added(y, weight, q)
    return y if move.shift is None else y.add_(move.shift.to(y))


class Multistep(Sampler):
    """Exponential Adams methods of order 1 to 4: one evaluation a step, whatever the order.

    With `reference` `PointMass()` data-prediction multistep (DPM-Solver++: C. Lu et al., 2022, arXiv:2211.01095, with exact
    integrals of the polynomials, diffusers' solver type "heun"), with `Unbounded()` noise prediction (DEIS: Q. Zhang and
    Y. Chen, 2022, arXiv:2204.13902), with `corrector` a predictor–corrector (UniPC: W. Zhao et al., 2023,
    arXiv:2302.04867, the same from order 3 on; below it rounds the coefficients). Order 1 with either limit is DDIM.

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

    Raises
    ------
    ValueError
        If `order` is not 1, 2, 3 or 4; in a run, if a step starts at ``alpha = 0`` with the reference `Unbounded`, or
        the reference is `Matched` and the model does not know its data's moments.
    TypeError
        In a run, if the process is not linear, or a matrix process with a reference for scalar ones.
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

    def pieces(self, model: ScoreModel) -> Scalar | Channels:
        """The formula's pieces for a model."""
        return _pieces(require_linear(self, model.sde), model, self.reference, self.clock)

    def plan(self, model: ScoreModel, times: Tensor) -> list[Coefficients]:
        """The weights of every step."""
        pieces, p, n = self.pieces(model), self.order, len(times) - 1
        nodes = pieces.nodes(model, times[:-1])
        seen = [range(k, max(k - p, -1), -1) for k in range(n)]
        restarts = [0 < k < p - 1 for k in range(n)]
        starts = [0 if restart else k for k, restart in enumerate(restarts)]
        asked = [Asked(starts[k], k + 1, seen[k]) for k in range(n)]
        if self.corrector:
            asked += [Asked(starts[k], k + 1, [k + 1, *seen[k]]) for k in range(n - 1)]
        if p == 4 and n > 2:
            asked.append(Asked(0, 1, seen[2]))
        moves = pieces.moves(times, asked)
        corrections = [None, *moves[n : 2 * n - 1]][:n] if self.corrector else [None] * n
        repairs = [(moves[-1], nodes[1]) if p == 4 and k == 2 else None for k in range(n)]
        return [
            self.Coefficients(pieces, *c) for c in zip(nodes, moves[:n], restarts, corrections, repairs, strict=True)
        ]

    def step(self, model: ScoreModel, x: Tensor, c: Coefficients, noise: Noise, state: Any) -> tuple[Tensor, Any]:
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

    Stages at one half, or at one and two thirds, of the clock. With `Unbounded()` and the clock `log_ratio` order 3 is
    DPM-Solver-3 (C. Lu et al., 2022, arXiv:2206.00927); its order 2 has the midpoint rule where this has the exact integral.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    order
        2 or 3.
    reference, clock
        As for `Multistep`.

    Raises
    ------
    ValueError
        If `order` is not 2 or 3; in a run as for `Multistep`.
    TypeError
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

    def plan(self, model: ScoreModel, times: Tensor) -> list[Any]:
        """Stages, their nodes and moves."""
        pieces = _pieces(require_linear(self, model.sde), model, self.reference, self.clock)
        n, p = len(times) - 1, self.order
        up = bool(times[0] < times[-1])  # from data to noise, as `encode` goes
        ends = (times[1:], times[:-1]) if up else (times[:-1], times[1:])
        between = [_between(pieces, *ends, (p - j if up else j) / p) for j in range(1, p)]
        # Stage j of step k is at the place k for j = 0, else at (n + 1) + (j − 1) n + k.
        stops = torch.cat([times, *between])
        nodes = pieces.nodes(model, stops)
        stages = [[k, *((n + 1) + (j - 1) * n + k for j in range(1, p))] for k in range(n)]
        asked = []
        for k, stage in enumerate(stages):
            asked += [Asked(k, stage[j], stage[:j][::-1]) for j in range(1, p)]
            # The last stage and the first: with two thirds of the way the line through them is exact to order three.
            asked.append(Asked(k, k + 1, [stage[-1], k]))
        moves = pieces.moves(stops, asked)
        return [(pieces, [nodes[i] for i in stage], moves[p * k : p * (k + 1)]) for k, stage in enumerate(stages)]

    def step(self, model: ScoreModel, x: Tensor, c: Any, noise: Noise, state: Any) -> tuple[Tensor, None]:
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
