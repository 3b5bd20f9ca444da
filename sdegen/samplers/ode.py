"""Integrators of the probability flow, in the clock and chart in which the process is regular (`sde.Flow`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchdiffeq import odeint

from ..grids import Grid
from .base import Noise, Sampler


class FlowStep(NamedTuple):
    """A step of the flow: its two times, in `t` and on the flow's clock."""

    t: Tensor
    s: Tensor
    tau_t: Tensor
    tau_s: Tensor
    flow: Any


def _plan(model: Any, times: Tensor) -> list[FlowStep]:
    flow = model.sde.flow(model)
    tau = flow.clock(times)
    return [FlowStep(times[i], times[i + 1], tau[i], tau[i + 1], flow) for i in range(len(times) - 1)]


class Heun(Sampler):
    """Heun's method on the probability flow: order 2, two evaluations a step.

    T. Karras et al., 2022, arXiv:2206.00364, use it in the noise level; here the clock is the angle
    ``atan2(sigma, alpha)`` for scalar processes, `t` for others.
    """

    def __init__(self, steps: int = 18, grid: Grid | None = None) -> None:
        super().__init__(steps, grid)

    def plan(self, model: Any, times: Tensor) -> list[FlowStep]:
        """The flow's clock at the times."""
        return _plan(model, times)

    def step(self, model: Any, x: Tensor, c: FlowStep, noise: Noise, state: Any) -> tuple[Tensor, None]:
        """Average of the slopes at both ends."""
        y, h = c.flow.chart(x, c.t), c.tau_s - c.tau_t
        first = c.flow.velocity(y, c.tau_t)
        second = c.flow.velocity(y + h * first, c.tau_s)
        return c.flow.unchart(y + 0.5 * h * (first + second), c.s), None


class ProbabilityFlow(Sampler):
    """The probability flow by torchdiffeq, fixed or adaptive.

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

    def times(self, sde: Any, denoise: bool) -> Tensor:
        """Both ends at least: the denoiser's move is not one of the integrator's."""
        return self._grid(sde)(sde, self.steps + 1)

    def plan(self, model: Any, times: Tensor) -> list[FlowStep]:
        """The flow's clock at the times."""
        return _plan(model, times)

    def step(self, model: Any, x: Tensor, c: FlowStep, noise: Noise, state: Any) -> tuple[Tensor, None]:
        """Integrate from one stop to the next."""

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
    """torchdiffeq options: errors held for the worst row, and no evaluation beyond the last time."""
    return {"norm": worst_row, "step_t": clock[-1:]}


ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")


def worst_row(x: Tensor) -> Tensor:
    """The largest root-mean-square of a row: errors are held for each sample, whatever the batch."""
    return x.reshape(len(x), -1).square().mean(1).max().sqrt() if x.ndim else x.abs()
