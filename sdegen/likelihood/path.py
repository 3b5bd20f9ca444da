"""Integration of the probability flow together with the log-determinant of its map."""

from __future__ import annotations

__all__ = ["Path", "follow"]

from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.derivatives import Divergence
from ..models.score import ScoreModel
from ..samplers.ode import adaptive
from ..show import show_call
from .adams import adams
from .draws import stderr_of_mean

MOST = 20_000  # evaluations of a flow, after which it is given up


class Path(NamedTuple):
    """States carried along the probability flow from one time to another, and the log-determinant of that map.

    Attributes
    ----------
    end
        States at the other time, ``(B, *)``.
    log_volume, stderr
        ``log |∂end/∂start|``, ``(B,)``, and its standard error over probes: 0 if exact, NaN of a single one.
    evaluations
        How often the flow was evaluated.
    """

    end: Tensor
    log_volume: Tensor
    stderr: Tensor
    evaluations: int

    def __repr__(self) -> str:
        return show_call(self)


def follow(
    model: ScoreModel,
    u: Tensor,
    times: tuple[float, float],
    divergence: Divergence,
    tolerance: float | None,
    method: str | None,
    generator: torch.Generator | None,
) -> Path:
    """Integrate the probability flow from one time to another, and return the states with the log-determinant of the map."""
    flow = model.sde.flow(model)
    ends = torch.tensor(times, dtype=torch.float64)
    tau = flow.clock(ends)
    span = tau[1] - tau[0]
    d, shape = u[0].numel(), u.shape
    evaluations, now = 0, tau[0]
    if tolerance is None:
        tolerance = 3e-7 if u.dtype == torch.float64 else 1e-5

    def slope(place: float, state: Tensor) -> Tensor:
        nonlocal evaluations, now
        evaluations += 1
        if evaluations > MOST:
            raise ArithmeticError(f"took more than {MOST:,} evaluations")
        now = tau[0] + place * span
        value, divergences = traces.of(flow.field(now), state[:, :d].reshape(shape))
        return torch.cat([value.reshape(len(u), d), divergences.mT], 1) * span.to(u)

    y = flow.chart(u, ends[0])
    traces = divergence.along(lambda place: flow.field(tau[0] + place * span), y, generator)
    state = torch.cat([y.reshape(len(u), d), y.new_zeros(len(u), traces.m)], 1)
    try:
        if method is None:
            state = adams(slope, state, tolerance, parts=(d, traces.m))
        else:
            from torchdiffeq import odeint  # loads on use

            clock = torch.tensor([0.0, 1.0], dtype=torch.float64, device=u.device)
            state = odeint(
                # torchdiffeq's first trial step may overshoot
                lambda clock, state: slope(min(clock.item(), 1.0), state), state, clock, rtol=tolerance, atol=tolerance,
                method=method, options=adaptive(clock),
            )[-1]  # fmt: skip
    except (AssertionError, ArithmeticError) as failure:  # torchdiffeq asserts that steps and states stay finite
        t = flow.time(now)
        size = model.sde.root(t).matrix().norm().item()
        raise ValueError(
            f"the flow could not be followed beyond t = {t.item():.6g}, where sigma = {size:.3g}: it {failure}. Raise the "
            "tolerance, or look at the model there."
        ) from failure
    scales = flow.log_scale(ends)
    totals = state[:, d:] + d * (scales[1] - scales[0]).to(u)
    stderr = torch.zeros_like(totals[:, 0]) if traces.exact else stderr_of_mean(totals)
    return Path(flow.unchart(state[:, :d].reshape(shape), ends[1]), totals.mean(1), stderr, evaluations)
