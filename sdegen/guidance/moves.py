"""Langevin steps that are accepted by Metropolis and Hastings, and so leave a law as it is that is known up to a constant."""

from __future__ import annotations

__all__ = ["Points", "check_log_density", "first_step", "look", "move", "replace_rows"]

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..answers import ask_numbers
from ..laws.draws import noise_like, uniform_like
from ..laws.operators import rows
from ..laws.vectors import as_vectors, over_rows, sum_rows
from ..precision import uncast

P = TypeVar("P", bound=tuple[Any, ...])


class Points(NamedTuple):
    """Points, the log-densities of a law there, up to a constant, and their slopes.

    Attributes
    ----------
    x
        ``(n, *)``.
    log_f
        ``(n,)`` float64.
    slope
        ``(n, *)``.
    """

    x: Tensor
    log_f: Tensor
    slope: Tensor


def check_log_density(values: Tensor, x: Tensor, error: type[ValueError] = ValueError) -> Tensor:
    """Return log-densities of points as they are; refuse those that are NaN or +∞.

    Parameters
    ----------
    values, x
        ``(n,)``, and the points ``(n, *)``.
    error
        What is raised.

    Raises
    ------
    ValueError
        Naming a point.
    """
    bad = values.isnan() | (values == torch.inf)
    if bad.any():
        raise error(
            f"log_prob is {values[bad][0].item()} at {int(bad.sum())} of {len(x)} points, such as {x[bad][0].tolist()}; it "
            "must be a number, or -inf where the density is 0"
        )
    return values


def look(
    log_prob: Callable[[Tensor], Tensor],
    x: Tensor,
    check: Callable[[Tensor, Tensor], Any] = check_log_density,
    instead: str = "",
    error: type[ValueError] = ValueError,
) -> Points:
    """Return the log-densities at points, and their slopes, 0 where the density is.

    Parameters
    ----------
    log_prob
        The logarithm of the density of data ``(n, *)``, up to a constant, ``(n,)``, by operations of torch.
    x
        The points.
    check
        Called with log-densities and points, to refuse them.
    instead
        What to do besides where there is no slope, for the message.
    error
        What is raised where a slope is not finite.

    Raises
    ------
    ValueError
        If there is no slope, or it is not finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()  # no tensor of inference, which has no slope
        log_f = ask_numbers("log_prob", log_prob, x).double()
        check(log_f.detach(), x.detach())
        if not log_f.requires_grad:
            raise ValueError(
                f"log_prob(x) has no slope by x; form it by operations of torch without detach(){instead}."
            )
        known = log_f > -torch.inf
        with uncast(x):
            (slope,) = torch.autograd.grad(log_f[known].sum(), [x])
    slope, x = torch.where(over_rows(known, slope), slope, 0.0), x.detach()
    bad = ~as_vectors(slope.isfinite()).all(1)
    if bad.any():
        raise error(f"the slope of log_prob is not finite at {x[bad][0].tolist()}")
    return Points(x, log_f.detach(), slope)


def first_step(variance: float, x: Tensor) -> float:
    """Return a step of the size that Langevin steps have in a Gaussian of a variance, for states such as `x`."""
    return variance / x[0].numel() ** (1 / 3)


def replace_rows(points: P, where: Tensor, others: P) -> P:
    """Return points with all that is known of them, and others `where` it says so."""
    pairs = zip(points, others, strict=True)
    return type(points)(*(torch.where(over_rows(where, old), new, old) for old, new in pairs))


def move(
    at: P,
    look_at: Callable[[Tensor], P],
    law: Callable[[P], tuple[Tensor, Tensor]],
    step: float,
    spread: float,
    draws: torch.Generator | None,
) -> tuple[P, float]:
    """Take a Langevin step from each point, accepted by Metropolis and Hastings, and return where they are and the share of steps
    that were accepted.

    Parameters
    ----------
    at
        Points, the first of the tuple, with what is known of them.
    look_at
        From points to the same tuple.
    law
        From that to the log-density, ``(n,)``, and its slope, ``(n, *)``.
    step, spread
        A step is ``step · exp(−spread U)`` long, `U` uniform on ``(0, 1)`` for each point.
    draws
        Randomness.
    """
    x, (value, slope) = at[0], law(at)
    u = uniform_like(x.new_empty(2, len(x), dtype=torch.float64), draws)
    size, z = rows(step * (-spread * u[0]).exp(), x), noise_like(x, draws)
    new = look_at(x + size * slope + (2 * size).sqrt() * z)
    new_value, new_slope = law(new)
    back = (x - new[0] - size * new_slope).square() / (4 * size) - 0.5 * z.square()
    accepted = u[1].log() < new_value - value - sum_rows(back)
    return replace_rows(at, accepted, new), accepted.double().mean().item()
