"""Solutions of ordinary differential equations from 0 to 1, by Runge–Kutta methods that choose their steps or take equal ones.

The adaptive methods are torchdiffeq's. A solution that a method cannot follow is refused by an `ArithmeticError`, whose words end
the sentence "the solution ...".
"""

from __future__ import annotations

__all__ = ["ADAPTIVE", "TABLEAUS", "Slope", "Tableau", "check_method", "integrate", "integrate_in_steps", "worst_row"]

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Slope = Callable[[float, Tensor], Tensor]

ADAPTIVE = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")  # torchdiffeq's names
MOST = 100_000  # evaluations, after which a solution is given up


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


def check_method(method: str, steps: int | None) -> None:
    """Refuse a method that is none of `ADAPTIVE` and `TABLEAUS`, and a method of fixed steps without their number.

    Parameters
    ----------
    method
        The name.
    steps
        The number of steps, or None.

    Raises
    ------
    ValueError
        If the method is refused.
    """
    if method not in ADAPTIVE and method not in TABLEAUS:
        raise ValueError(
            f"method = {method!r}; give an adaptive one, {', '.join(ADAPTIVE)}, or one of fixed steps, {', '.join(TABLEAUS)}."
        )
    if method in TABLEAUS and steps is None:
        raise ValueError(
            f"method = {method!r} takes steps of one size and does not know its error; say how many, steps=..., or give an "
            f"adaptive method, {', '.join(ADAPTIVE)}."
        )


def integrate(slope: Slope, y: Tensor, method: str, rtol: float, atol: float) -> Tensor:
    """Integrate ``dy/du = slope(u, y)`` from 0 to 1 by an adaptive method, and return the state there.

    The tolerance holds for the worst row, and nothing is evaluated beyond 1.

    Parameters
    ----------
    slope
        The derivative at a place `u` in [0, 1].
    y
        The state at 0, ``(B, *)``.
    method
        One of `ADAPTIVE`.
    rtol, atol
        Relative and absolute error of a step.

    Raises
    ------
    ArithmeticError
        If slopes are not finite, or no step, however short, keeps the tolerance.
    """
    from torchdiffeq import odeint  # loads on use

    clock = torch.tensor([0.0, 1.0], dtype=torch.float64, device=y.device)
    evaluations, last = 0, y

    def at(u: Tensor, state: Tensor) -> Tensor:
        nonlocal evaluations, last
        place, evaluations = u.item(), evaluations + 1
        if place != place:  # the length of a step that follows from slopes that are not finite
            raise ArithmeticError("is not finite")
        if evaluations > MOST:
            raise ArithmeticError(f"took more than {MOST:,} evaluations")
        last = slope(min(max(place, 0.0), 1.0), state)  # the first trial step may overshoot
        return last

    # Without step_t the solver would step past the end and interpolate back, at a lower order.
    options = {"norm": worst_row, "step_t": clock[1:]}
    try:
        end: Tensor = odeint(at, y, clock, rtol=rtol, atol=atol, method=method, options=options)[-1]
    except AssertionError as failure:  # torchdiffeq asserts that steps have a length and that states stay finite
        finite = bool(last.isfinite().all())
        raise ArithmeticError(
            "asks for steps shorter than the rounding of times" if finite else "is not finite"
        ) from failure
    return end


def integrate_in_steps(slope: Slope, y: Tensor, method: str, steps: int) -> Tensor:
    """Integrate ``dy/du = slope(u, y)`` from 0 to 1 in steps of one size, and return the state there.

    Parameters
    ----------
    slope, y
        As for `integrate`.
    method
        One of `TABLEAUS`.
    steps
        How many steps.

    Raises
    ------
    ArithmeticError
        If a state is not finite.
    """
    tableau = TABLEAUS[method]
    for i in range(steps):
        slopes: list[Tensor] = []
        stage = y
        for c, row in zip(tableau.c, tableau.A, strict=True):
            slopes.append(slope((i + c) / steps, stage))
            moved = sum(a * k for a, k in zip(row, slopes, strict=True))
            stage = y + moved / steps
        y = stage
        if not y.isfinite().all():
            raise ArithmeticError("is not finite")
    return y


def worst_row(x: Tensor) -> Tensor:
    """Return the largest root mean square of any row, an error norm for adaptive steps by which the tolerance holds for each row.

    It is a constant for derivatives, and so are the steps that are chosen by it.
    """
    x = x.detach()
    return x.reshape(len(x), -1).square().mean(1).max().sqrt() if x.ndim else x.abs()
