"""Polynomials through what a model said at the times of a grid, of which exponential integrators take the integrals."""

from __future__ import annotations

__all__ = ["check_distinct", "group_by_ends", "polynomials"]

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..laws.interpolation import lagrange
from .moves import Asked


def polynomials(
    clock: Tensor, asked: Sequence[Asked], z: Tensor, values: Callable[[Tensor, Tensor], Tensor] = lagrange
) -> Tensor:
    """Evaluate the Lagrange polynomials of the evaluations of every update at the points `z` ``(moves, *)``, or their slopes
    by `lagrange_slopes`: ``(most, moves, *)``.

    Raises
    ------
    ValueError
        If the clock is infinite at one of them, or two evaluations are at one noise level.
    """
    counts = [len(v.seen) for v in asked]
    l = z.new_zeros(max(counts), *z.shape)
    for p in set(counts):
        alike = [i for i, count in enumerate(counts) if count == p]
        l[:p, alike] = values(clock[torch.tensor([asked[i].seen for i in alike])], z[alike])
    if not l.isfinite().all():
        for v in asked:
            check_distinct(clock[torch.tensor(v.seen)])
        raise ValueError(
            "the clock is infinite at one of the times of the grid; use the clock angle or share, or a grid that stays off the "
            "ends of the process."
        )
    return l


def check_distinct(nodes: Tensor) -> None:
    """Refuse evaluations at one noise level, through which there is no polynomial.

    Parameters
    ----------
    nodes
        Of each polynomial, in any clock, ``(N, p)``.

    Raises
    ------
    ValueError
        If two of a row coincide.
    """
    if (nodes.sort(-1).values.diff() == 0).any():
        raise ValueError(
            "the noise level is the same at two times of the grid, to rounding: the process does not move between them, and no "
            "polynomial goes through what the model says there; choose a grid in the noise level, such as grids.Angle()."
        )


def group_by_ends(asked: Sequence[Asked]) -> Tensor:
    """Group requested updates by their ends `t`, `s`, and return a row of indices for each group; shorter rows repeat
    their first.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for i, v in enumerate(asked):
        found.setdefault((v.t, v.s), []).append(i)
    most = max(map(len, found.values()))
    return torch.tensor([[*own, *own[:1] * (most - len(own))] for own in found.values()])
