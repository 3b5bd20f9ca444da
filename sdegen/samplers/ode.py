"""ODE solvers for the probability flow, in a time change and rescaled coordinates in which it is regular (`processes.Flow`)."""

from __future__ import annotations

__all__ = ["FlowStep", "Heun", "ProbabilityFlow", "RungeKutta", "TABLEAUS", "Tableau", "adaptive", "worst_row"]

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..models.score import ScoreModel
from ..processes.base import SDE, Flow
from ..processes.grids import Grid
from .base import Noise, Sampler
from .exponential import Move, apply_move


class Tableau(NamedTuple):
    """The Butcher tableau of an explicit Runge–Kutta method.

    Attributes
    ----------
    order
        The power of the step size with which its error vanishes.
    c
        ``c_0 = 0, c_1, ...``.
    A
        Weights of the slopes on the way to each later stage, and last on the way to the end.
    """

    order: int
    c: tuple[float, ...]
    A: tuple[tuple[float, ...], ...]


# The fixed-step methods of torchdiffeq by its names; "rk4" is Kutta's three-eighths rule.
TABLEAUS = {
    "euler": Tableau(1, (0,), ((1,),)),
    "midpoint": Tableau(2, (0, 1 / 2), ((1 / 2,), (0, 1))),
    "heun2": Tableau(2, (0, 1), ((1,), (1 / 2, 1 / 2))),
    "heun3": Tableau(3, (0, 1 / 3, 2 / 3), ((1 / 3,), (0, 2 / 3), (1 / 4, 0, 3 / 4))),
    "rk4": Tableau(4, (0, 1 / 3, 2 / 3, 1), ((1 / 3,), (-1 / 3, 1), (1, -1, 1), (1 / 8, 3 / 8, 3 / 8, 1 / 8))),
}


class RungeKutta(NamedTuple):
    """Coefficients of one Runge–Kutta step: what the flow needs for each slope, and the updates after it, the last to the
    end of the step.
    """

    flow: Flow
    questions: list[Any]
    moves: list[Move]

    @classmethod
    def plan(cls, model: ScoreModel, times: Tensor, tableau: Tableau) -> list[RungeKutta]:
        """Plan a method in the chart ``y = x / r``: its moves are ``x' = r' / r x + r' h Σ_i a_i k_i`` from the step's
        start.
        """
        flow = model.sde.flow(model)
        tau = flow.clock(times)
        h = tau[1:] - tau[:-1]
        at = [tau[:-1] + c * h for c in tableau.c]
        questions = [flow.ask(v) for v in at]
        r_inv = flow.r(times[:-1]).inv()
        stops = [*(flow.time(v) for v in at[1:]), times[1:]]
        ends = [flow.r(s) for s in stops]
        carries = [(r @ r_inv).prepared(model.like) for r in ends]
        weights = [
            [(r * (a * h)).prepared(model.like) for a in reversed(row)] for r, row in zip(ends, tableau.A, strict=True)
        ]
        stages = range(len(at))
        return [
            cls(
                flow,
                [questions[i][k] for i in stages],
                [Move(stops[i][k], carries[i][k], None, [w[k] for w in weights[i]]) for i in stages],
            )
            for k in range(len(h))
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the state at the end of the step from the one at its start."""
        slopes: list[Tensor] = []  # newest first
        stage = x
        for question, move in zip(self.questions, self.moves, strict=True):
            slopes.insert(0, self.flow.slope(stage, question))
            stage = apply_move(move, x, slopes)
        return stage


class Heun(Sampler[RungeKutta, None]):
    """Heun's method on the probability flow: order 2, two evaluations a step.

    T. Karras et al., 2022, arXiv:2206.00364, use it in the noise level; here the clock is the angle
    ``atan2(sigma, alpha)`` for scalar processes, `t` for others.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    """

    convergence_order = 2

    def __init__(self, steps: int = 18, grid: Grid | None = None) -> None:
        super().__init__(steps, grid)

    def plan(self, model: ScoreModel, times: Tensor) -> list[RungeKutta]:
        """Plan both evaluations and both moves of every step."""
        return RungeKutta.plan(model, times, TABLEAUS["heun2"])

    def step(self, model: ScoreModel, x: Tensor, c: RungeKutta, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Take one step with the average of the slopes at both ends."""
        return c(x), None


class FlowStep(NamedTuple):
    """Coefficients of a step of an ODE solver: its two times, in `t` and on the flow's clock."""

    t: Tensor
    s: Tensor
    tau_t: Tensor
    tau_s: Tensor
    flow: Flow


class ProbabilityFlow(Sampler[FlowStep | RungeKutta, None]):
    """A sampler that integrates the probability flow by a solver of torchdiffeq, fixed or adaptive.

    Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.

    Parameters
    ----------
    steps, grid
        With a fixed method (``"rk4"``, ``"midpoint"``, ...) its steps; with an adaptive one the stops between which it
        chooses its own, one by default.
    method
        A torchdiffeq method.
    rtol, atol
        Tolerances of adaptive methods, held by the worst row of the batch.
    """

    def __init__(
        self,
        steps: int = 1,
        grid: Grid | None = None,
        method: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
    ) -> None:
        super().__init__(steps, grid)
        self.method, self.rtol, self.atol = method, rtol, atol
        self.convergence_order = TABLEAUS[method].order if method in TABLEAUS else None

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the grid's times, at least both ends; a last step to the posterior mean is not the integrator's."""
        return self._grid(sde)(sde, self.steps + 1)

    def plan(self, model: ScoreModel, times: Tensor) -> list[FlowStep | RungeKutta]:
        """Plan the flow's clock at the times, and all coefficients of the methods in `TABLEAUS`."""
        if self.method in TABLEAUS:
            return list(RungeKutta.plan(model, times, TABLEAUS[self.method]))
        flow = model.sde.flow(model)
        tau = flow.clock(times)
        return [FlowStep(times[i], times[i + 1], tau[i], tau[i + 1], flow) for i in range(len(times) - 1)]

    def step(
        self, model: ScoreModel, x: Tensor, c: FlowStep | RungeKutta, noise: Noise, state: None
    ) -> tuple[Tensor, None]:
        """Integrate from one stop to the next."""
        from torchdiffeq import odeint  # loads on use

        if isinstance(c, RungeKutta):
            return c(x), None

        def slope(u: Tensor, y: Tensor) -> Tensor:
            u = u.double().cpu().clamp(0, 1)  # torchdiffeq's first trial step may overshoot
            tau = c.tau_t + u * (c.tau_s - c.tau_t)
            return c.flow.velocity(y, tau) * (c.tau_s - c.tau_t)

        y = c.flow.chart(x, c.t)
        clock = torch.tensor([0.0, 1.0], dtype=torch.float64, device=x.device)
        options = adaptive(clock) if self.method in ADAPTIVE else None
        end = odeint(slope, y, clock, rtol=self.rtol, atol=self.atol, method=self.method, options=options)[-1]
        return c.flow.unchart(end, c.s), None


def adaptive(clock: Tensor) -> dict[str, Any]:
    """Return options for torchdiffeq: the error tolerance holds for the worst row, and nothing is evaluated beyond the
    last time.
    """
    return {"norm": worst_row, "step_t": clock[-1:]}


ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")


def worst_row(x: Tensor) -> Tensor:
    """Return the largest root mean square of a row, as an error norm that does not depend on the batch."""
    return x.reshape(len(x), -1).square().mean(1).max().sqrt() if x.ndim else x.abs()
