"""ODE solvers for the probability flow, in a time change and rescaled coordinates in which it is regular (`processes.Flow`)."""

from __future__ import annotations

__all__ = ["FlowStep", "Heun", "ProbabilityFlow", "RungeKutta", "refuse_flow"]

from typing import Any, NamedTuple, NoReturn

from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.odes import TABLEAUS, Tableau, check_method, integrate
from ..models.score import ScoreModel
from ..processes.base import SDE, Flow
from ..processes.grids import Grid
from .base import Noise, Sampler
from .moves import Move, apply_move


class RungeKutta(NamedTuple):
    """Coefficients of one Runge–Kutta step: the question of the flow for each slope, and the update after each slope, of which
    the last goes to the end of the step.
    """

    flow: Flow
    questions: list[Any]
    moves: list[Move]

    @classmethod
    def plan(cls, model: ScoreModel, times: Tensor, tableau: Tableau) -> list[RungeKutta]:
        """Plan all steps of a method in the chart ``y = x / r``: moves are ``x' = r' / r x + r' h Σ_i a_i k_i`` from the start of
        a step.
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

    T. Karras et al., 2022, arXiv:2206.00364, take steps in the noise level. Here the clock is the angle ``atan2(sigma, alpha)``
    for scalar processes, and `t` for others.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`.
    """

    convergence_order = 2

    @check_arguments
    def __init__(self, steps: int = 18, grid: Grid | None = None) -> None:
        super().__init__(steps, grid)

    def plan(self, model: ScoreModel, times: Tensor) -> list[RungeKutta]:
        """Plan both evaluations and both moves of every step."""
        return RungeKutta.plan(model, times, TABLEAUS["heun2"])

    def step(self, model: ScoreModel, x: Tensor, c: RungeKutta, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Take one step with the average of the slopes at both ends."""
        return c(x), None


class FlowStep(NamedTuple):
    """Coefficients of a step of an ODE solver: both its times, in `t` and on the flow's clock, and the flow."""

    t: Tensor
    s: Tensor
    tau_t: Tensor
    tau_s: Tensor
    flow: Flow


class ProbabilityFlow(Sampler[FlowStep | RungeKutta, None]):
    """A sampler that integrates the probability flow by a Runge–Kutta method, adaptive or of fixed steps.

    Y. Song et al., *Score-based generative modeling through stochastic differential equations*, 2021, arXiv:2011.13456.

    Parameters
    ----------
    steps, grid
        The steps of a method of fixed steps; for an adaptive method the intervals in which it chooses its own steps, one by
        default.
    method
        A method of torchdiffeq: an adaptive one of `laws.odes.ADAPTIVE`, or one of fixed steps of `laws.odes.TABLEAUS`.
    rtol, atol
        Tolerances of adaptive methods, which the worst row of the batch has to meet.

    Raises
    ------
    ValueError
        If the method is none of these, or has fixed steps and `steps` is not given.
    """

    @check_arguments
    def __init__(
        self,
        steps: int | None = None,
        grid: Grid | None = None,
        method: str = "dopri5",
        rtol: float = 1e-5,
        atol: float = 1e-5,
    ) -> None:
        check_method(method, steps)
        super().__init__(1 if steps is None else steps, grid)
        check_number("rtol", rtol, above=0), check_number("atol", atol, above=0)
        self.method, self.rtol, self.atol = method, rtol, atol
        self.convergence_order = TABLEAUS[method].order if method in TABLEAUS else None

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return the grid's times, at least both ends; a last move to the posterior mean comes after them."""
        return self._grid(sde)(sde, self.steps + 1)

    def plan(self, model: ScoreModel, times: Tensor) -> list[FlowStep | RungeKutta]:
        """Plan the flow's clock at the times, and all coefficients of the methods of fixed steps."""
        if self.method in TABLEAUS:
            return list(RungeKutta.plan(model, times, TABLEAUS[self.method]))
        flow = model.sde.flow(model)
        tau = flow.clock(times)
        return [FlowStep(times[i], times[i + 1], tau[i], tau[i + 1], flow) for i in range(len(times) - 1)]

    def step(
        self, model: ScoreModel, x: Tensor, c: FlowStep | RungeKutta, noise: Noise, state: None
    ) -> tuple[Tensor, None]:
        """Integrate from one stop to the next."""
        if isinstance(c, RungeKutta):
            return c(x), None
        span, now = c.tau_s - c.tau_t, c.tau_t

        def slope(place: float, y: Tensor) -> Tensor:
            nonlocal now
            now = c.tau_t + place * span
            return c.flow.velocity(y, now) * span

        try:
            end = integrate(slope, c.flow.chart(x, c.t), self.method, self.rtol, self.atol)
        except ArithmeticError as failure:
            refuse_flow(c.flow, now, x, failure)
        return c.flow.unchart(end, c.s), None


def refuse_flow(flow: Flow, tau: Tensor, x: Tensor, failure: ArithmeticError) -> NoReturn:
    """Raise the error that says at which time and noise level a flow could not be followed, and why.

    Parameters
    ----------
    flow
        The probability flow.
    tau
        The time on the flow's clock.
    x
        States of the run, for their shape.
    failure
        The integrator's error.

    Raises
    ------
    ValueError
        Always.
    """
    t = flow.time(tau)
    size = flow.sde.root(t, x).matrix().norm().item()
    raise ValueError(
        f"the flow could not be followed beyond t = {t.item():.6g}, where sigma = {size:.3g}: it {failure}. Raise the "
        "tolerance, or look at the model there."
    ) from failure
