"""The interface of a process to a simulator, `Dynamics`: drift and diffusion; and checks of times and of what these two
return.
"""

from __future__ import annotations

__all__ = ["Dynamics", "as_ordered_times", "as_time", "at_times", "coefficient", "diffusion_at", "drift_at"]

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..answers import as_numbers, ask, check_answer
from ..arguments import asked_as
from ..checks import kind_of
from ..dense import check_dense
from ..fixed import Fixed
from ..laws.coordinates import Coordinates
from ..laws.diagonal import Diagonal
from ..laws.harmonics import Harmonics
from ..laws.operators import Operator, Scale
from ..precision import uncast
from ..show import show_call, with_article
from ..transforms import is_unknown

SINGLE = "answers for one time and not for several"  # words by which an explained error is recognised further up


def _as_times(t: Any, name: str) -> Tensor:
    """Make a float64 tensor of numbers that are given as times; refuse anything else."""
    if isinstance(t, (bool, complex)) or getattr(getattr(t, "dtype", None), "kind", "f") in "bc":
        raise TypeError(f"{name} = {t}; times are real numbers.")
    try:
        return torch.as_tensor(t, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} {kind_of(t)}; give a time, or a tensor of times.") from None


def as_time(t: Tensor | float, T: float, name: str = "t") -> Tensor:
    """Return `t` as a float64 CPU tensor of shape ``()`` or ``(B,)``; refuse times outside ``[0, T]``.

    Raises
    ------
    TypeError
        If `t` is neither a real number nor a tensor of real numbers.
    ValueError
        If a time is NaN, lies outside the interval, or has more than one dimension.
    """
    if not isinstance(t, Tensor):
        t = _as_times(t, name)
    given = torch.as_tensor(t)
    check_dense(name, given)
    if given.dtype == torch.bool or given.is_complex():
        raise TypeError(f"{name} has dtype {given.dtype}; times are real numbers.")
    t = torch.as_tensor(t, dtype=torch.float64).cpu()
    if t.ndim > 1:
        raise ValueError(f"{name} has shape {tuple(t.shape)}; times have shape () or (B,).")
    # What rounding in the dtype of the times, or of a grid's own arithmetic, may add.
    slack = T * (1e-12 if not given.is_floating_point() else max(1e-12, torch.finfo(given.dtype).eps))
    inside = (t >= 0) & (t <= T)
    if inside.all():
        return t
    near = (t >= -slack) & (t <= T + slack)
    if not near.all():
        bad = t[~near].reshape(-1)[0].item()
        raise ValueError(f"{name} = {bad:.6g} lies outside [0, T] = [0, {T:g}]; pass times within the process.")
    return t.clamp(0.0, T)


def as_ordered_times(s: Tensor | float, t: Tensor | float, T: float) -> tuple[Tensor, Tensor]:
    """Return the times that a state goes from and to, as `as_time` does; refuse `s` after `t`.

    Raises
    ------
    TypeError, ValueError
        As for `as_time`; ValueError too if `s` and `t` are of two lengths, or `s` lies after `t`.
    """
    s, t = as_time(s, T, "s"), as_time(t, T)
    if s.ndim and t.ndim and len(s) != len(t):
        raise ValueError(f"s has shape {tuple(s.shape)} and t {tuple(t.shape)}; give one time, or as many of each.")
    if not (s <= t).all():
        raise ValueError(f"s must not lie after t; got t - s down to {(t - s).min().item():.6g}: swap the arguments.")
    return s, t


@asked_as("an SDE, such as VP(), or its Reverse")
class Dynamics(Fixed, ABC):
    """The interface of an SDE to a simulator: ``dx = drift(x, t) dt + diffusion(x, t) dw``.

    Attributes
    ----------
    T
        The last time.
    domain
        The constraint that states meet, of ``torch.distributions.constraints``; data outside of it are refused.
    free
        A map from the domain to numbers without bounds, in which samplers, simulations and likelihoods run, so that no step
        leaves the domain; None where there are no bounds, or where `enter` keeps them.
    harmonics
        The waves with the symmetry of the domain that a network is shown in place of states (`DirectModel`), where `enter` goes
        round a circle or reflects; None elsewhere.
    direction
        Which way the equation may be followed in time: 1 from data to noise, −1 from noise to data, 0 both ways. With noise, the
        two ways have different equations.
    """

    T: float = 1.0
    direction: int = 0
    domain: constraints.Constraint = constraints.real
    free: Coordinates | None = None
    harmonics: Harmonics | None = None

    __repr__ = show_call

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``f(x, t)``, of the shape of `x`."""

    @abstractmethod
    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        """Return ``G(x, t)``: a number, a number for each row ``(B,)``, a number for each number of the state, of the shape of
        `x`, or an operator on noise of that shape.
        """

    def enter(self, x: Tensor) -> Tensor:
        """Bring states that a step has moved back into the domain by the boundary's own rule, and return them; here unchanged."""
        return x


def at_times(process: Any, name: str, *given: Tensor) -> Any:
    """Return the value of a coefficient, the method `name` of a process, for its arguments, of which times are the last.

    Raises
    ------
    ValueError
        If the method fails for several times, but not for the least and for the largest of these alone; what it raises otherwise
        is raised as it is.
    """
    coefficient = getattr(process, name)
    try:
        return coefficient(*given)
    except (TypeError, ValueError, RuntimeError) as error:
        states, t = given[:-1], given[-1]
        told = SINGLE in str(error) or is_unknown(t)  # explained already, of a coefficient that this one calls
        if t.numel() > 1 and not told and all(_answers(coefficient, *states, u.reshape(1)) for u in t.aminmax()):
            if states:
                beside = f"; beside x give t its axes, t.reshape(-1{', 1' * (states[0].ndim - 1)})"
            else:
                beside = _beside(coefficient(t.reshape(-1)[:1]))
            raise ValueError(
                f"{type(process).__name__}.{name} {SINGLE} ({error}); write it by elementwise torch "
                "functions of t, as t.sqrt() or torch.where(t > 0.5, a, b), without math, float(t), t.item() and "
                f"`if`{beside}."
            ) from error
        raise


def _stacked(size: tuple[int, ...]) -> str:
    """Return the code that makes a coefficient of some shape at one time, a vector or a matrix, of functions of times."""
    row = "torch.stack([a, b], -1)"
    return row if len(size) == 1 else f"torch.stack([{row}, torch.stack([c, d], -1)], -2)"


def _beside(answer: Any) -> str:
    """Return the part of an error that says how to index times, where the coefficient at one time is a vector or a matrix."""
    several = isinstance(answer, Tensor) and answer.numel() > 1
    if not several:
        return ""
    beside = f"; beside a tensor of numbers write t[...{', None' * answer.ndim}] for t"
    return f"{beside}, or stack functions of t, {_stacked(answer.shape)}"


def _answers(coefficient: Callable[..., Any], *given: Tensor) -> bool:
    try:
        coefficient(*given)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def drift_at(dynamics: Dynamics, x: Tensor, t: Tensor) -> Tensor:
    """Return ``f(x, t)`` of a process, checked for its shape."""
    who = f"{type(dynamics).__name__}.drift"
    with uncast(x):
        return check_answer(who, ask(who, at_times, dynamics, "drift", x, t), x.shape, x)


def diffusion_at(dynamics: Dynamics, x: Tensor, t: Tensor) -> Operator:
    """Return ``G(x, t)`` of a process as an operator; a number, a number for each row, or one for each number of the state
    becomes the operator that scales by it.

    Where there are as many rows as coordinates, a tensor ``(d,)`` with a number for each coordinate looks like one with a number
    for each row. There the process is asked about fewer rows too, which tells the two apart.

    Raises
    ------
    TypeError
        If the process returns neither a number, nor a tensor, nor an operator.
    ValueError
        If a tensor has another shape.
    """
    who = f"{type(dynamics).__name__}.diffusion"
    with uncast(x):
        G = ask(who, at_times, dynamics, "diffusion", x, t)
    if isinstance(G, Operator):
        return G
    B = max(len(x), t.numel())
    event = "".join(f", {side}" for side in x.shape[1:])
    what = (
        f"it must return a number, one for each row, ({B},), one for each number of the state, ({B}{event}) or (1{event}), or an "
        "operator on noise such as laws.matrices.Matrix"
    )
    c = as_numbers(G)
    if c is None:
        raise TypeError(f"{who} returned {'None' if G is None else with_article(type(G).__name__)}; {what}.")
    if c.is_complex() or c.dtype == torch.bool:
        raise ValueError(f"{who} returned {c.dtype}; {what}.")
    if x.ndim > 1 and c.shape in ((B, *x.shape[1:]), (1, *x.shape[1:])):
        return Diagonal(c)
    if c.shape not in ((), x.shape[:1], t.shape):
        raise ValueError(f"{who} returned shape {tuple(c.shape)} of {c.dtype} for {B} rows; {what}.")
    if c.shape == x.shape[:1] and 1 < B in x.shape[1:]:
        fewer = as_numbers(dynamics.diffusion(x[1:], t[1:] if t.shape == (B,) else t))
        if fewer is not None and fewer.shape == c.shape:
            raise ValueError(f"{who} returned a number for each of {B} coordinates, which is no rule for rows; {what}.")
    return Scale(c.cpu())


def coefficient(who: str, value: Any, t: Tensor, size: tuple[int, ...] = ()) -> Tensor:
    """Return a coefficient of a linear process at times `t`, float64: a number or matrix for all of them, or one for each.

    Parameters
    ----------
    who
        The name of the coefficient in an error.
    value
        What the method of the coefficient has returned.
    t
        The times.
    size
        The shape of the coefficient at one time.

    Raises
    ------
    TypeError
        If `value` is neither a number nor a tensor.
    ValueError
        If `value` has another shape.
    """
    numbers = as_numbers(value)
    if numbers is None:
        raise TypeError(
            f"{who} returned {'None' if value is None else with_article(type(value).__name__)}; return a tensor."
        )
    if numbers.shape not in (size, t.shape + size) or numbers.is_complex() or numbers.dtype == torch.bool:
        stacked = f", such as {_stacked(size)}" if size else ""
        raise ValueError(
            f"{who} returned shape {tuple(numbers.shape)} of {numbers.dtype} for times of shape {tuple(t.shape)}; it must return "
            f"{tuple(size)} for all or {tuple(t.shape + size)}, by elementwise torch functions of t{stacked}."
        )
    return numbers.double()
