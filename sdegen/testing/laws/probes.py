"""The times, states, data shapes and noise at which every law of a process is checked."""

from __future__ import annotations

__all__ = ["SHAPES", "data", "generator", "on_data", "shapes", "states", "steps", "times", "within"]

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.distributions import constraints

from ...processes.base import SDE

SHAPES = ((), (3,), (2, 3, 3))  # of a datum
_DOMAIN: ContextVar[constraints.Constraint] = ContextVar("domain of a process", default=constraints.real)
_GIVEN: ContextVar[Tensor | None] = ContextVar("data that a process is made for", default=None)


@contextmanager
def on_data(x: Tensor | None, domain: constraints.Constraint = constraints.real) -> Iterator[None]:
    """Check laws, within a ``with`` block, on the data `x` ``(B, *)``; on made-up data of several shapes, in the domain, if it is
    None.
    """
    tokens = _GIVEN.set(x), _DOMAIN.set(domain)
    try:
        yield
    finally:
        _GIVEN.reset(tokens[0])
        _DOMAIN.reset(tokens[1])


def within(x: Tensor) -> Tensor:
    """Return numbers that meet the constraint of the domain, made of any numbers: these themselves, where there are no bounds."""
    domain = _DOMAIN.get()
    low, high = getattr(domain, "lower_bound", None), getattr(domain, "upper_bound", None)
    if low is None:
        return x
    return low + (0.5 * x).exp() if high is None else low + (high - low) * (0.5 * x).sigmoid()


def shapes() -> tuple[tuple[int, ...], ...]:
    """The shapes of a datum for which a law is checked."""
    given = _GIVEN.get()
    return SHAPES if given is None else (tuple(given.shape[1:]),)


def data(n: int, *shape: int) -> Tensor:
    """Data: rows of those given, else standard normal ones of a shape; float64."""
    given = _GIVEN.get()
    if given is None:
        return within(torch.randn(n, *shape, dtype=torch.float64, generator=generator()))
    return given.detach().cpu().double()[torch.arange(n) % len(given)]


def times(sde: SDE, n: int = 7) -> Tensor:
    """Times inside ``(0, T)`` at no round fraction; for processes defined piecewise, at the middle of their pieces."""
    t = sde.T * torch.linspace(0.031, 0.953, n, dtype=torch.float64)
    piece = getattr(sde, "piece", None)
    return t if piece is None else ((t / piece).floor() + 0.5) * piece


def steps(sde: SDE, t: Tensor) -> Tensor:
    """Steps of the differences at `t`: three of them stay inside ``(0, T)``, and inside a piece."""
    piece = getattr(sde, "piece", None)
    return 0.01 * torch.minimum(t, sde.T - t) if piece is None else torch.full_like(t, 0.1 * piece)


def generator() -> torch.Generator:
    """The random generator of a law's noise, always seeded alike."""
    return torch.Generator().manual_seed(20)


def states(sde: SDE, n: int, *shape: int) -> Tensor:
    """States of the process over `data` of a shape."""
    u = sde.lift(data(n, *shape))
    if sde.domain is not constraints.real:
        return u
    return u + 0.3 * torch.randn(u.shape, dtype=torch.float64, generator=generator())
