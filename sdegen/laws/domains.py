"""Domains of data and states, and the check that numbers lie in one (`check_domain`)."""

from __future__ import annotations

__all__ = ["Angles", "check_domain"]

import math

from torch import Tensor
from torch.distributions import constraints


class Angles(constraints.interval):
    """Angles in ``[−π, π]``: those of other turns are the same points, and are brought here by full turns.

    Attributes
    ----------
    remedy
        What a refusal of other angles says to do.
    """

    remedy = "bring angles of other turns there, torch.remainder(x + math.pi, 2 * math.pi) - math.pi"

    def __init__(self) -> None:
        super().__init__(-math.pi, math.pi)


def check_domain(domain: constraints.Constraint, x: Tensor, name: str = "x") -> Tensor:
    """Return numbers that meet a constraint; refuse others.

    Parameters
    ----------
    domain
        The constraint.
    x
        The numbers, ``(B, *)``.
    name
        The name of `x` in the error.

    Raises
    ------
    ValueError
        If some numbers do not meet the constraint.
    """
    if domain is constraints.real:  # finite numbers are checked elsewhere
        return x
    inside = domain.check(x)
    if not inside.all():
        bad = x.reshape(-1)[(~inside).reshape(-1).nonzero()[0, 0]] if inside.shape == x.shape else None
        seen = "" if bad is None else f": {bad.item():.6g} is among them"
        what = "values" if inside.shape == x.shape else "rows"
        remedy = getattr(domain, "remedy", "remove them, or take a process for another domain")
        raise ValueError(
            f"{name} has {int((~inside).sum())} {what} outside of the domain {_describe(domain)}{seen}; {remedy}."
        )
    return x


def _describe(domain: constraints.Constraint) -> str:
    """Return a domain in words that follow "the domain" in a message."""
    low, high = getattr(domain, "lower_bound", None), getattr(domain, "upper_bound", None)
    if any(isinstance(end, Tensor) and end.numel() > 1 for end in (low, high)):
        return "of its interval for each coordinate"
    if low is not None and high is not None:
        return f"({low:g}, {high:g})"
    if low is not None:
        return f"x > {low:g}"
    return type(domain).__name__.lstrip("_").lower()
