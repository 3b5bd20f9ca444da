"""How the divergence of a field is found along one path: exactly, by random probes, or by both."""

from __future__ import annotations

__all__ = ["TRACES", "Traces"]

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.derivatives import (
    Field,
    exact_divergence,
    hutchinson_divergences,
    hutchpp_divergences,
    subspace,
    value_and_slope,
)
from ..laws.draws import rademacher_like


class Traces(NamedTuple):
    """How the divergence of a field is found along one path.

    Attributes
    ----------
    of
        From a field and states to its values and ``(m, B)`` divergences, of the same probes at every call.
    m
        Their number.
    exact
        Whether each is the divergence itself.
    """

    of: Callable[[Field, Tensor], tuple[Tensor, Tensor]]
    m: int
    exact: bool = False


Slopes = Callable[[Tensor], Field]  # a time of the clock -> the field then


def _exact(slopes: Slopes, y: Tensor, tau: Tensor, probes: int, generator: torch.Generator | None) -> Traces:
    def of(field: Field, y: Tensor) -> tuple[Tensor, Tensor]:
        value, divergence = exact_divergence(field, y)
        return value, divergence[None]

    return Traces(of, 1, exact=True)


def _hutchinson(slopes: Slopes, y: Tensor, tau: Tensor, probes: int, generator: torch.Generator | None) -> Traces:
    v = torch.stack([rademacher_like(y, generator) for _ in range(probes)])
    return Traces(lambda field, y: hutchinson_divergences(field, y, v), probes)


def _hutchpp(slopes: Slopes, y: Tensor, tau: Tensor, probes: int, generator: torch.Generator | None) -> Traces:
    """One subspace for a whole path, so that the integrand stays smooth, from Jacobians at times all over the clock."""
    sketch, v = torch.stack([rademacher_like(y, generator) for _ in range(2 * probes)]).split(probes)
    places = tau[0] + (torch.arange(probes) + 0.5) / probes * (tau[1] - tau[0])
    Q = subspace(torch.stack([value_and_slope(slopes(p), y, s)[1] for p, s in zip(places, sketch, strict=True)]))
    return Traces(lambda field, y: hutchpp_divergences(field, y, Q, v), probes)


TRACES = {"exact": _exact, "hutchinson": _hutchinson, "hutch++": _hutchpp}
