"""Integration of the probability flow together with the log-determinant of its map."""

from __future__ import annotations

__all__ = ["Integration", "Path", "check_flow", "follow", "warn_of_passes"]

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..fixed import tensors_of
from ..laws.derivatives import Divergence
from ..laws.odes import TABLEAUS, Slope, check_method, integrate, integrate_in_steps
from ..laws.products import Field, check_derivatives, value_and_slope
from ..models.score import ScoreModel, check_dtype
from ..processes.base import SDE
from ..samplers.ode import refuse_flow
from ..show import show_call
from ..transforms import is_transformed
from ..warning import warn_caller
from .adams import adams
from .draws import stderr_of_mean

# By the dtype of the network: steps cannot be held to more digits than its answers have.
TOLERANCE = {torch.float64: 3e-7, torch.float32: 1e-5}
HALF = 1e-3  # of a network of half precision
LONG = 1000  # numbers of a state, from which on the exact divergence, if it is not asked for, comes with a warning
MOST = 20_000  # evaluations of a flow, after which its integration is given up


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


class Integration(NamedTuple):
    """How a flow is integrated.

    Attributes
    ----------
    tolerance
        Relative and absolute error of an adaptive step; by the dtype of the network if None (`of_network`).
    method
        A method of `laws.odes`; Adams' predictor and corrector if None.
    steps
        Steps of a method of fixed steps.
    """

    tolerance: float | None = None
    method: str | None = None
    steps: int | None = None

    def check(self) -> Integration:
        """Check these settings, and return them; raise a ValueError where nothing can be integrated with them."""
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance = {self.tolerance}; it must be positive.")
        if self.method is not None:
            check_method(self.method, self.steps)
        if self.steps is not None:
            if self.method not in TABLEAUS:
                raise ValueError(
                    f"steps = {self.steps} with an adaptive method, which chooses its own; give a tolerance, or a method of "
                    f"fixed steps, {', '.join(TABLEAUS)}."
                )
            if self.tolerance is not None:
                raise ValueError(
                    f"tolerance = {self.tolerance} with steps = {self.steps}, whose method takes steps of one size; give one of "
                    "them."
                )
            if self.steps < 2:
                raise ValueError(
                    f"steps = {self.steps}; the error is estimated by a run of half as many, so give at least two."
                )
        return self

    def of_network(self, dtype: torch.dtype) -> Integration:
        """Return these settings, with the tolerance for a network of the given dtype if they have none."""
        return self._replace(tolerance=TOLERANCE.get(dtype, HALF)) if self.tolerance is None else self

    @property
    def coarser(self) -> Integration | None:
        """The same settings with half as many steps, by which the error of these is told; None if steps adapt."""
        return None if self.steps is None else self._replace(steps=self.steps // 2)

    def solve(self, slope: Slope, state: Tensor, parts: tuple[int, int]) -> Tensor:
        """Integrate ``dy/du = slope(u, y)`` from 0 to 1, and return the state there; an ArithmeticError if that fails."""
        if self.method is not None and self.steps is not None:
            return integrate_in_steps(slope, state, self.method, self.steps)
        tolerance = TOLERANCE[torch.float32] if self.tolerance is None else self.tolerance
        if self.method is None:
            return adams(slope, state, tolerance, parts)
        return integrate(slope, state, self.method, tolerance, tolerance)


def check_flow(model: ScoreModel, u: Tensor, times: tuple[float, float]) -> None:
    """Refuse a model whose derivatives halfway along the flow are not those of its values (`products.check_derivatives`).

    Networks of half precision, whose differences tell nothing, are not looked at.
    """
    dtype = check_dtype(model, u)
    if dtype not in TOLERANCE:
        return
    flow = model.sde.flow(model)
    ends = torch.tensor(times, dtype=torch.float64)
    check_derivatives(flow.field(flow.clock(ends).mean()), flow.chart(u, ends[0]).detach(), dtype)


def warn_of_passes(u: Tensor) -> None:
    """Warn that the exact divergence, the default, takes a pass through the network for each number of a state, where these are
    many.

    Parameters
    ----------
    u
        States, ``(B, *)``.
    """
    if u[0].numel() >= LONG:
        warn_caller(
            f"the exact divergence of states of {u[0].numel():,} numbers takes as many passes through the network for each "
            "evaluation of the flow; divergence=derivatives.Hutchinson(probes=8) takes 8, and tells its standard error "
            "(derivatives.ExactDivergence() asks for the exact one without this warning)."
        )


def follow(
    model: ScoreModel,
    u: Tensor,
    times: tuple[float, float],
    divergence: Divergence,
    drawn: Tensor | None,
    how: Integration,
) -> Path:
    """Integrate the probability flow from one time to another, and return the states with the log-determinant of the map.

    Parameters
    ----------
    model
        Any score model.
    u
        States at the first time, ``(B, *)``.
    times
        From where, and to where.
    divergence, drawn
        How the divergence is found, and what `Divergence.draw` has drawn for these states.
    how
        How the flow is integrated.

    Raises
    ------
    ValueError
        If the flow cannot be integrated; the message names the time.
    """
    _refuse_derivatives_by(model.sde)
    flow = model.sde.flow(model)
    ends = torch.tensor(times, dtype=torch.float64)
    tau = flow.clock(ends)
    span = tau[1] - tau[0]
    d, shape = u[0].numel(), u.shape
    evaluations, now = 0, tau[0]
    how = how.of_network(check_dtype(model, u))

    def slope(place: float, state: Tensor) -> Tensor:
        nonlocal evaluations, now
        evaluations += 1
        if evaluations > MOST:
            raise ArithmeticError(f"took more than {MOST:,} evaluations")
        now = tau[0] + place * span
        value, divergences = traces.of(flow.field(now), state[:, :d].reshape(shape))
        return torch.cat([value.reshape(len(u), d), divergences.mT], 1) * span.to(u)

    y = flow.chart(u, ends[0])
    traces = divergence.along(lambda place: flow.field(tau[0] + place * span), y, drawn)
    state = torch.cat([y.reshape(len(u), d), y.new_zeros(len(u), traces.m)], 1)
    try:
        state = how.solve(slope, state, (d, traces.m))
    except ArithmeticError as failure:
        refuse_flow(flow, now, u, failure)
    scales = flow.log_scale(ends)
    totals = state[:, d:] + d * (scales[1] - scales[0]).to(u)
    stderr = torch.zeros_like(totals[:, 0]) if traces.exact else stderr_of_mean(totals)
    end = flow.unchart(state[:, :d].reshape(shape), ends[1])
    return Path(_brought_back(model, end, flow.field(tau.mean())), totals.mean(1), stderr, evaluations)


def _refuse_derivatives_by(sde: SDE) -> None:
    """Refuse derivatives of a path by a tensor of its process, whose clock, and the prior at its end, count as constants.

    Raises
    ------
    ValueError
        If ``torch.func`` transforms a tensor of the process, or one that it holds as a plain attribute requires gradients.
    """
    recorded = torch.is_grad_enabled() and not isinstance(sde, nn.Module)
    if any(is_transformed(value) or (recorded and value.requires_grad) for value in tensors_of(sde)):
        raise ValueError(
            f"densities have no derivatives by a tensor of {type(sde).__name__}, whose clock and prior count as constants; for "
            "derivatives by x alone call its requires_grad_(False), for those by it take differences of two processes, or "
            "derivatives of losses.Variational."
        )


def _brought_back(model: ScoreModel, x: Tensor, field: Field) -> Tensor:
    """Return states at the end of a path with those beyond a boundary brought back by the rule of the process, `enter`.

    On a circle and in a box this is where the path itself has gone, if the flow is the same all round, or mirrored at the walls.

    Parameters
    ----------
    model
        The score model that was followed.
    x
        States at the end of the path, ``(B, *)``.
    field
        The slope of the flow halfway, by which it is seen whether the flow goes on beyond the boundary as the process does.

    Raises
    ------
    ValueError
        If the flow goes on differently.
    """
    sde = model.sde
    inside = sde.enter(x)
    moved = (inside != x).reshape(len(x), -1).any(1)
    if sde.harmonics is None or not moved.any():
        return inside
    turned, here = value_and_slope(sde.enter, x, field(x))[1], field(inside)
    gap, size = ((v.detach()[moved]).abs().max().item() for v in (turned - here, here))
    if not gap <= 1e-2 * size:
        raise ValueError(
            f"the flow of {type(model).__name__} leaves the domain of {type(sde).__name__}, since its score is not continued "
            "beyond as the process goes on there; give it the same values a full turn on, or the opposite part through a wall at "
            "the mirror image, as DirectModel does."
        )
    return inside
