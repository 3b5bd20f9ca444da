"""Polynomials through what a model said at the times of a grid, of which exponential integrators take the integrals."""

from __future__ import annotations

__all__ = ["check_distinct", "corrections", "polynomials"]

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..laws.interpolation import lagrange
from ..laws.operators import Operator
from .moves import Asked

A = TypeVar("A", bound=Operator)


def polynomials(
    clock: Tensor, asked: Sequence[Asked], z: Tensor, values: Callable[[Tensor, Tensor], Tensor] = lagrange
) -> Tensor:
    """Evaluate the Lagrange polynomials of the evaluations of every update at the points `z` ``(moves, *)``, or their slopes
    by `lagrange_slopes`: ``(most, moves, *)``. Where updates are corrected, one more follows: 1 at the end, 0 at the
    evaluations.

    Raises
    ------
    ValueError
        If the clock is infinite at one of them, or two evaluations are at one noise level.
    """
    most = max(len(v.seen) for v in asked)
    l = z.new_zeros(most + any(v.corrected for v in asked), *z.shape)
    for p, corrected in {(len(v.seen), v.corrected) for v in asked}:
        alike = [i for i, v in enumerate(asked) if (len(v.seen), v.corrected) == (p, corrected)]
        nodes = clock[torch.tensor([[*asked[i].seen, *[asked[i].s] * corrected] for i in alike])]
        own = values(nodes, z[alike])
        if corrected:  # without the node at the end they are these and the last times what they are there
            said = lagrange(nodes[:, :-1], nodes[:, -1])
            l[-1, alike] = own[-1]
            own = own[:-1] + own[-1] * said.reshape(*said.shape, *[1] * (z.ndim - 1))
        l[:p, alike] = own
    if not l.isfinite().all():
        for v in asked:
            check_distinct(clock[torch.tensor([v.s, *v.seen] if v.corrected else v.seen)])
        raise ValueError(
            "the clock is infinite at one of the times of the grid; use the clock angle or share, or a grid that stays off the "
            "ends of the process."
        )
    return l


def corrections(newest: A, clock: Tensor, asked: Sequence[Asked]) -> list[A]:
    """Return the weights of what the corrections of updates add to their states, by the weight of the evaluation there.

    The polynomial through one evaluation more differs by the one that is 0 at all others, times what the newest says beyond
    the polynomial without it: so a correction adds ``W (q_s − Σ_j l_j(s) q_j)``.
    """
    own = [i for i, v in enumerate(asked) if v.corrected]
    ends = clock[torch.tensor([asked[i].s for i in own])]
    l = polynomials(clock, [asked[i]._replace(corrected=False) for i in own], ends)
    said = l.new_zeros(len(l), len(asked))
    said[:, own] = l
    return [newest, *(newest * -v for v in said)]


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
