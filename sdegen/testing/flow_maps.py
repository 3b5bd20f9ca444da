"""The laws of a flow map: those that hold by its form, whatever its weights, and those that only training can bring about."""

from __future__ import annotations

__all__ = [
    "LAWS",
    "MapCase",
    "a_way_to_the_same_time_goes_nowhere",
    "check_flow_map",
    "comes_back",
    "ends_where_the_flow_ends",
    "flow_map_cases",
    "jumps_take_the_way_of_the_map",
    "leaves_along_the_velocity",
    "rows_of_a_jump_do_not_mix",
    "two_jumps_are_one",
]

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count, check_number
from ..models.modes import evaluating
from ..processes.grids import Given
from ..samplers import FlowMap, Jumps, ProbabilityFlow, sample
from ..samplers.start import start
from .report import Law, Report, Violation, cases, check, close

SEED = 20


@dataclass(frozen=True)
class MapCase:
    """A flow map with the settings of the check of its laws; see `check_flow_map`."""

    model: FlowMap
    n: int
    tolerance: float
    cond: dict[str, Any]

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of the states."""
        return self.x_T.dtype

    @cached_property
    def rounding(self) -> float:
        """The relative difference of states that is allowed if only the order of sums differs, or a process is known by
        quadrature.
        """
        return max(1e3 * torch.finfo(self.dtype).eps, 1e-10)

    @cached_property
    def last(self) -> Tensor:
        """The time at which runs begin, ``(1,)``."""
        return torch.tensor([self.model.sde.t_max], dtype=torch.float64)

    @cached_property
    def x_T(self) -> Tensor:
        """The states with which runs begin, drawn from the prior."""
        return start(self.model, self.n, SEED, times=torch.cat([self.last, self.last]))

    def time(self, share: float) -> Tensor:
        """Return the time at a share of the last angle, ``(1,)``."""
        return self.model.sde.time_of_angle(share * self.model.sde.angle_at(self.last))

    @cached_property
    def states(self) -> Tensor:
        """The states to which the map takes the first states, at two thirds of the angle."""
        return self.jump(self.x_T, self.last, self.time(2 / 3))

    def follow(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the states at `s` to which the probability flow of the map's own velocity takes the states `x` at `t`."""
        tolerance = 1e-8 if self.dtype == torch.float64 else 1e-5
        flow = ProbabilityFlow(grid=Given(torch.cat([t, s])), rtol=tolerance, atol=tolerance)
        ends: list[Tensor] = []  # states with all their channels; `sample` itself returns data
        sample(
            self.model, x_T=x, sampler=flow, final="sample", progress=False,
            callback=lambda i, t, x: ends.append(x), **self.cond,
        )  # fmt: skip
        return ends[-1]

    def jump(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the states at `s` to which one jump of the map takes the states `x` at `t`."""
        with torch.no_grad(), evaluating(self.model):
            return self.model.jump(x, t, s, **self.cond)

    def meet(self, name: str, a: Tensor, b: Tensor, t: Tensor) -> None:
        """Raise a `Violation`, which begins with `name`, if states `a` and `b` at `t` are too far apart: the root mean square of
        their difference, in standard deviations of data, exceeds the tolerance.
        """
        gap = self.model.sde.marginal(t).normalise(a - b)
        size = gap.square().mean().sqrt().item()
        if not size <= self.tolerance:
            quantiles = gap.flatten(1).norm(dim=1).double().quantile(torch.tensor([0.5, 0.9]).double())
            raise Violation(
                f"{name} differ by {size:.3g}, root mean square, {self.tolerance:g} allowed (median {quantiles[0]:.3g}, nine in "
                f"ten below {quantiles[1]:.3g})"
            )


def a_way_to_the_same_time_goes_nowhere(case: MapCase) -> None:
    """``X_{t→t}(x) = x``."""
    t = case.time(2 / 3)
    close(
        "X_tt(x)", case.jump(case.states, t, t), case.states, 32 * torch.finfo(case.dtype).eps, case.states.abs().max()
    )


def leaves_along_the_velocity(case: MapCase) -> None:
    """The derivative of ``X_{t→s}(x)`` by `s` at ``s = t`` is the probability flow's, by a central difference."""
    share, flow = 2 / 3, case.model.sde.flow(case.model)
    eps = torch.finfo(case.dtype).eps
    step = eps ** (1 / 3)  # of the angle: errors of rounding and of the difference quotient are then alike
    ends = [case.time(share * (1 + k * step)) for k in (-1, 1)]
    early, late = (flow.chart(case.jump(case.states, case.time(share), s), s) for s in ends)
    found = (late - early) / (flow.clock(ends[1]) - flow.clock(ends[0])).to(late)
    t = case.time(share)
    with torch.no_grad(), evaluating(case.model):
        wanted = flow.velocity(flow.chart(case.states, t), flow.clock(t)[0])
    allowed = 1e3 * step**2 + 64 * eps / step
    close("the derivative of X_ts at s = t", found, wanted, allowed, wanted.abs().max() + 1)


def rows_of_a_jump_do_not_mix(case: MapCase) -> None:
    """The end of a jump does not depend on the other states of the batch, nor on their times."""
    s = torch.stack([case.time(0.3), case.time(0.0)]).repeat(case.n, 1)[: case.n, 0]
    together = case.jump(case.states, case.time(2 / 3).expand(case.n), s)
    alone = torch.cat(
        [case.jump(case.states[i : i + 1], case.time(2 / 3), s[i : i + 1]) for i in range(min(case.n, 4))]
    )
    close("states that jump together", together[: len(alone)], alone, case.rounding, alone.abs().max())


def jumps_take_the_way_of_the_map(case: MapCase) -> None:
    """`Jumps` with two steps ends where two jumps of the map do."""
    sampler = Jumps(2)
    times = sampler.times(case.model.sde, denoise=True)
    x = case.x_T
    for t, s in pairwise(times):
        x = case.jump(x, t[None], s[None])
    found = sample(case.model, x_T=case.x_T, sampler=sampler, progress=False, **case.cond)
    close("samples", found, case.model.sde.project(x), case.rounding, found.abs().max())


def two_jumps_are_one(case: MapCase) -> None:
    """``X_{u→s}(X_{t→u}(x)) = X_{t→s}(x)``, to the tolerance."""
    u, s = case.time(0.5), case.time(0.0)
    one, two = case.jump(case.x_T, case.last, s), case.jump(case.jump(case.x_T, case.last, u), u, s)
    case.meet("one jump to the data and two", two, one, s)


def ends_where_the_flow_ends(case: MapCase) -> None:
    """One jump from the last time to 0 ends where the probability flow does, to the tolerance."""
    s = case.time(0.0)
    jumped, followed = case.jump(case.x_T, case.last, s), case.follow(case.x_T, case.last, s)
    case.meet("the ends of a jump and of the flow", jumped, followed, s)


def comes_back(case: MapCase) -> None:
    """``X_{s→t}(X_{t→s}(x)) = x``, to the tolerance: for a map that was trained both ways (`training.PairTimes`).

    From ``t_min``: at 0 not all processes have noise in every direction, and without it a state does not say where it goes.
    """
    t, s = case.time(2 / 3), torch.tensor([case.model.sde.t_min], dtype=torch.float64)
    case.meet("states that came back from the data", case.jump(case.jump(case.states, t, s), s, t), case.states, t)


# Laws that hold by the form of a map, whatever its weights.
FORM: list[Law] = [
    a_way_to_the_same_time_goes_nowhere,
    leaves_along_the_velocity,
    rows_of_a_jump_do_not_mix,
    jumps_take_the_way_of_the_map,
]
# Laws that only training can bring about; `comes_back` is a further one, for maps that are trained both ways.
TRAINED: list[Law] = [two_jumps_are_one, ends_where_the_flow_ends]
LAWS: list[Law] = [*FORM, *TRAINED, comes_back]


@check_arguments
def check_flow_map(
    model: FlowMap, tolerance: float = 0.05, n: int = 256, both_ways: bool = False, **cond: Any
) -> Report:
    """Check a flow map against its laws, and return a `Report`.

    A map of any weights takes a state at a time to itself at the same time, leaves along its velocity, and does not mix rows. A
    trained map also ends where the flow of its velocity does, by one jump or by two. Where two neighbouring states go to
    different modes no continuous map can be right; the report gives the errors below which half of the states are, and nine in
    ten.

    Parameters
    ----------
    model
        The map; with float64 weights the laws of its form are checked to rounding in float64.
    tolerance
        The root mean square, in standard deviations of the data, by which ends may differ in the laws of trained maps.
    n
        The number of states, drawn from the prior, on which the map is checked.
    both_ways
        Whether the map was trained from data to noise too, so that it has to come back.
    cond
        Conditions of the model.

    Raises
    ------
    ValueError
        If `tolerance` is not positive, or `n` below 2.
    """
    case = _case(model, tolerance, n, cond)
    left_out = {} if both_ways else {"the map was trained towards the data alone": [comes_back.__name__]}
    found = check(case, LAWS if both_ways else [*FORM, *TRAINED], left_out=left_out)
    return replace(found, subject=type(model).__name__)


@check_arguments
def flow_map_cases(
    model: FlowMap, tolerance: float = 0.05, n: int = 256, both_ways: bool = False, **cond: Any
) -> list[Any]:
    """Return the laws of a flow map as parameters for pytest.

    Parameters
    ----------
    model, tolerance, n, both_ways, cond
        As for `check_flow_map`.

    Raises
    ------
    ValueError
        As for `check_flow_map`.
    """
    return cases(_case(model, tolerance, n, cond), LAWS if both_ways else [*FORM, *TRAINED])


def _case(model: FlowMap, tolerance: float, n: int, cond: dict[str, Any]) -> MapCase:
    """Check the numbers, and return the case on which the laws are checked."""
    return MapCase(model, check_count("n", n, at_least=2), check_number("tolerance", tolerance, above=0), cond)
