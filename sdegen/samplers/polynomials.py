"""Polynomials through a model's evaluations at the times of a grid, whose integrals are the weights of exponential
integrators.
"""

from __future__ import annotations

__all__ = ["Polynomials", "check_distinct"]

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from ..laws.interpolation import lagrange
from ..laws.operators import Operator
from .moves import Asked

A = TypeVar("A", bound=Operator)


class Polynomials:
    """The Lagrange polynomials of the evaluations of every update.

    Parameters
    ----------
    clock
        The variable of the polynomials at the times of the grid.
    asked
        The updates.
    """

    def __init__(self, clock: Tensor, asked: Sequence[Asked]) -> None:
        self.clock, self.asked = clock, asked
        self.most = max(len(v.seen) for v in asked)
        self.corrected = any(v.corrected for v in asked)

    @cached_property
    def groups(self) -> list[tuple[bool, list[int], Tensor]]:
        """Groups of updates with equally many evaluations: whether the updates are corrected, their indices, and their nodes
        ``(n, p)``, which include the end of an update if it is corrected.
        """
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, v in enumerate(self.asked):
            groups.setdefault((len(v.seen), v.corrected), []).append(i)
        places = [[*v.seen, v.s] if v.corrected else v.seen for v in self.asked]
        return [(own[1], i, self.clock[torch.tensor([places[k] for k in i])]) for own, i in groups.items()]

    @cached_property
    def at_ends(self) -> Tensor:
        """The polynomials of corrected updates at the ends of these, ``(most, moves)``; 0 for other updates."""
        l = self.clock.new_zeros(self.most, len(self.asked))
        for corrected, i, nodes in self.groups:
            if corrected:
                l[: nodes.shape[1] - 1, i] = lagrange(nodes[:, :-1], nodes[:, -1])
        return l

    def __call__(self, z: Tensor, values: Callable[[Tensor, Tensor], Tensor] = lagrange) -> Tensor:
        """Return the polynomials at the points `z` ``(moves, *)``, or with `lagrange_slopes` their slopes: ``(most, moves, *)``.

        If updates are corrected, a further polynomial is the last, which is 1 at the end of an update and 0 at the evaluations.

        Raises
        ------
        ValueError
            If the clock is infinite at one of the times, or two evaluations are at one noise level.
        """
        l = z.new_zeros(self.most + self.corrected, *z.shape)
        for corrected, i, nodes in self.groups:
            own = values(nodes, z[i])
            p = nodes.shape[1] - corrected
            if corrected:  # those without the node at the end, ``l_j + l_end l_j(end)``, as both agree at all nodes
                l[-1, i] = own[-1]
                last = self.at_ends[:p, i]
                own = own[:-1] + own[-1] * last.reshape(*last.shape, *[1] * (z.ndim - 1))
            l[:p, i] = own
        if not l.isfinite().all():
            for _, _, nodes in self.groups:
                check_distinct(nodes)
            raise ValueError(
                "the clock is infinite at one of the times of the grid; use the clock angle or share, or a grid that stays off "
                "the ends of the process."
            )
        return l

    def corrections(self, newest: A) -> list[A]:
        """Return the weights of corrections, given the weight `newest` of the evaluation at the end of an update.

        With this evaluation the polynomial changes by the polynomial that is 0 at all others, times the difference of the newest
        evaluation from the polynomial without it. So a correction adds ``W (q_s − Σ_j l_j(s) q_j)``.
        """
        return [newest, *(newest * -v for v in self.at_ends)]


def check_distinct(nodes: Tensor) -> None:
    """Refuse two evaluations at one noise level, through which there is no polynomial.

    Parameters
    ----------
    nodes
        The nodes of each polynomial, in any clock, ``(N, p)``.

    Raises
    ------
    ValueError
        If two nodes of a row coincide.
    """
    if (nodes.sort(-1).values.diff() == 0).any():
        raise ValueError(
            "the noise level is the same at two times of the grid, to rounding: the process does not move between them, and no "
            "polynomial goes through what the model says there; choose a grid in the noise level, such as grids.Angle()."
        )
