"""The times, states, data shapes and noise at which every law of a process is checked."""

from __future__ import annotations

__all__ = [
    "SHAPES",
    "data",
    "difference_steps",
    "euler_steps",
    "generator",
    "into_domain",
    "on_data",
    "rate",
    "shapes",
    "states",
    "times",
]

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.distributions import constraints

from ...laws.units import Units
from ...processes.base import SDE
from ...processes.linear import is_linear

MOST = 4000  # most steps of a simulation
SHAPES = ((), (3,), (2, 3, 3))  # of a datum
_DOMAIN: ContextVar[constraints.Constraint] = ContextVar("domain of a process", default=constraints.real)
_UNITS: ContextVar[Units | None] = ContextVar("units of its data", default=None)
_GIVEN: ContextVar[Tensor | None] = ContextVar("data that a process is made for", default=None)


@contextmanager
def on_data(
    x: Tensor | None, domain: constraints.Constraint = constraints.real, units: Units | None = None
) -> Iterator[None]:
    """Check laws, within a ``with`` block, on the data `x` ``(B, *)``; on made-up data of several shapes, which in the units lie
    in the domain, if it is None.
    """
    tokens = _GIVEN.set(x), _DOMAIN.set(domain), _UNITS.set(units)
    try:
        yield
    finally:
        _GIVEN.reset(tokens[0])
        _DOMAIN.reset(tokens[1])
        _UNITS.reset(tokens[2])


def into_domain(x: Tensor) -> Tensor:
    """Map any numbers smoothly into the domain, in the units of the data; where it has no bounds, return them as they are."""
    domain, units = _DOMAIN.get(), _UNITS.get()
    low, high = getattr(domain, "lower_bound", None), getattr(domain, "upper_bound", None)
    if low is None:
        return x
    x = low + (0.5 * x).exp() if high is None else low + (high - low) * (0.5 * x).sigmoid()
    return x if units is None else units.restore(x)


def shapes() -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a datum for which a law is checked."""
    given = _GIVEN.get()
    return SHAPES if given is None else (tuple(given.shape[1:]),)


def data(n: int, *shape: int) -> Tensor:
    """Return `n` data, float64: rows of those given, else standard normal ones of a shape, brought into the domain."""
    given = _GIVEN.get()
    if given is None:
        return into_domain(torch.randn(n, *shape, dtype=torch.float64, generator=generator()))
    return given.detach().cpu().double()[torch.arange(n) % len(given)]


def times(sde: SDE, n: int = 7, until: float | None = None) -> Tensor:
    """Return `n` times inside ``(0, T)``, or ``(0, until)``, at no round fraction; of a process defined piecewise, the middles of
    pieces.
    """
    t = (sde.T if until is None else until) * torch.linspace(0.031, 0.953, n, dtype=torch.float64)
    piece = getattr(sde, "piece", None)
    return t if piece is None else ((t / piece).floor() + 0.5) * piece


def difference_steps(sde: SDE, t: Tensor) -> Tensor:
    """Return steps for `report.derivative` at times `t`: three of them stay inside ``(0, T)`` and inside a piece, and little
    changes in one.
    """
    piece = getattr(sde, "piece", None)
    h = 0.01 * torch.minimum(t, sde.T - t) if piece is None else torch.full_like(t, 0.1 * piece)
    changes = rate(sde, t)
    if is_linear(sde):  # and how fast the noise grows
        G, R = sde.diffusion_operator(t).matrix(), sde.marginal(t).R.matrix()
        changes = changes.maximum((G.abs().amax((-2, -1)) / R.abs().amax((-2, -1))).square() / 3)
    return torch.minimum(h, 0.05 / changes.nan_to_num(nan=0.0))


def rate(sde: SDE, t: Tensor) -> Tensor:
    """Return at what rate the drift moves two states apart at the times `t`, relative to their distance, ``(n,)``."""
    n = len(t)
    x = states(sde, 2 * n, 2)
    f = sde.drift(x, t.repeat(2))
    return (f[:n] - f[n:]).flatten(1).norm(dim=1) / (x[:n] - x[n:]).flatten(1).norm(dim=1)


def euler_steps(sde: SDE, t: float, least: int) -> int:
    """Return how many steps Euler's method takes up to the time `t` so that the drift does little in each, at most `MOST`."""
    fastest = rate(sde, times(sde)).max().item()
    return min(max(least, math.ceil(10 * fastest * t)), MOST)


def generator() -> torch.Generator:
    """Return a random generator for a law's noise, always seeded alike."""
    return torch.Generator().manual_seed(20)


def states(sde: SDE, n: int, *shape: int) -> Tensor:
    """Return `n` states of the process: lifted `data` of a shape, with some noise where there are no bounds."""
    u = sde.lift(data(n, *shape))
    if sde.domain is not constraints.real:
        return u
    return u + 0.3 * torch.randn(u.shape, dtype=torch.float64, generator=generator())
