"""Polynomials through what a model said at the times of a grid, of which exponential integrators take the integrals."""

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
        """Groups of updates with as many evaluations: whether they are corrected, which they are, and their nodes ``(n, p)``, of
        those that are corrected the end too.
        """
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, v in enumerate(self.asked):
            groups.setdefault((len(v.seen), v.corrected), []).append(i)
        places = [[*v.seen, v.s] if v.corrected else v.seen for v in self.asked]
        return [(own[1], i, self.clock[torch.tensor([places[k] for k in i])]) for own, i in groups.items()]

    @cached_property
    def at_ends(self) -> Tensor:
        """The polynomials of corrected updates at their ends, ``(most, moves)``; 0 of other updates."""
        l = self.clock.new_zeros(self.most, len(self.asked))
        for corrected, i, nodes in self.groups:
            if corrected:
                l[: nodes.shape[1] - 1, i] = lagrange(nodes[:, :-1], nodes[:, -1])
        return l

    def __call__(self, z: Tensor, values: Callable[[Tensor, Tensor], Tensor] = lagrange) -> Tensor:
        """Evaluate the polynomials at the points `z` ``(moves, *)``, or their slopes by `lagrange_slopes`: ``(most, moves, *)``.
        Where updates are corrected, one more follows: 1 at the end, 0 at the evaluations.

        Raises
        ------
        ValueError
            If the clock is infinite at one of them, or two evaluations are at one noise level.
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
        """Return the weights of what the corrections of updates add to their states, by the weight of the evaluation there.

        The polynomial through one evaluation more differs by the one that is 0 at all others, times what the newest says beyond
        the polynomial without it: so a correction adds ``W (q_s − Σ_j l_j(s) q_j)``.
        """
        return [newest, *(newest * -v for v in self.at_ends)]


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
