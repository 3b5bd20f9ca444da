"""Waves with the symmetry of a circle or of a box, in which a network sees states there, and its answer as a score.

A network that sees ``cos x`` and ``sin x`` cannot tell `−π` from `π`; one that sees cosines with no slope at the walls of a box
cannot tell a point from its mirror image. What it says is taken along the slopes of these waves, so that the score is periodic,
or has no part through a wall, whatever the weights.
"""

from __future__ import annotations

__all__ = ["BoxHarmonics", "CircleHarmonics", "Harmonics"]

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..checks import check_number
from ..show import show_call


@asked_as("harmonics, such as laws.CircleHarmonics()")
class Harmonics(ABC):
    """The base class of what a network sees of states with bounds: waves of each number, and the slopes along which it answers.

    Subclasses give `turns` and `waves`. The waves of order `k` go ``k / 2`` times round while a number goes once through the box,
    or `k` times round a circle with it; a state ``(B, *)`` with `d` channels along dimension 1 becomes one with `each` times `d`
    for every order, and the network's answer has the same shape.
    """

    each: int

    __repr__ = show_call

    @abstractmethod
    def turns(self, x: Tensor) -> Tensor:
        """Return states as angles in units of `π`, which go through a whole number for every end of the domain."""

    @abstractmethod
    def waves(self, cos: Tensor, sin: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the waves of an angle and their slopes by it, `each` of them, of its cosine and sine."""

    def show(self, x: Tensor, orders: int = 1) -> Tensor:
        """Return what a network sees of states: ``(B, each · orders · d, *)`` of states ``(B, d, *)``.

        Parameters
        ----------
        x
            States ``(B, *)``, in the domain or beyond.
        orders
            The number of waves of each kind.
        """
        return _join(self._at(x, orders)[0])

    def score(self, x: Tensor, answer: Tensor, orders: int = 1) -> Tensor:
        """Return the sum of a network's numbers times the slopes of their waves, each of size 1, of the shape of `x`.

        Parameters
        ----------
        x
            States ``(B, *)``.
        answer
            What the network said, of the shape of what it was shown.
        orders
            As for `show`.
        """
        slopes = self._at(x, orders)[1]
        parts = answer.reshape(len(x), len(slopes), *x.shape[1:])
        return sum((slope * parts[:, i] for i, slope in enumerate(slopes)), torch.zeros_like(x))

    def _at(self, x: Tensor, orders: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the waves of all orders at states, and their slopes."""
        u, values, slopes = self.turns(x), list[Tensor](), list[Tensor]()
        for k in range(1, orders + 1):
            waves = self.waves(*_cos_and_sin(k * u))
            values, slopes = values + waves[0], slopes + waves[1]
        return values, slopes


class CircleHarmonics(Harmonics):
    """The waves ``cos k x`` and ``sin k x`` of an angle: what is made of them has no jump at `±π`.

    Examples
    --------
    >>> import math, torch
    >>> CircleHarmonics().show(torch.tensor([[-math.pi], [math.pi]])).tolist()
    [[-1.0, 0.0], [-1.0, 0.0]]
    """

    each = 2

    def turns(self, x: Tensor) -> Tensor:
        """Return angles in units of `π`."""
        return x / math.pi

    def waves(self, cos: Tensor, sin: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return ``cos, sin`` and their slopes ``−sin, cos``."""
        return [cos, sin], [-sin, cos]


class BoxHarmonics(Harmonics):
    """The waves ``cos(π k (x − low) / (high − low))`` of a number in an interval, which are level at both ends: what is made of
    them has no slope there.

    Parameters
    ----------
    low, high
        The ends of the interval.

    Raises
    ------
    ValueError
        If `low` is not below `high`.

    Examples
    --------
    >>> import torch
    >>> BoxHarmonics(0.0, 1.0).show(torch.tensor([[0.0], [0.5], [1.0]])).flatten().tolist()
    [1.0, 0.0, -1.0]
    """

    each = 1

    @check_arguments
    def __init__(self, low: float, high: float) -> None:
        check_number("low", low), check_number("high", high)
        if not low < high:
            raise ValueError(
                f"low = {low:g}, high = {high:g}; an interval has a length: give a low that is below high."
            )
        self.low, self.high = low, high

    def turns(self, x: Tensor) -> Tensor:
        """Return the share of the interval that lies below `x`."""
        return (x - self.low) / (self.high - self.low)

    def waves(self, cos: Tensor, sin: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the cosine and its slope ``−sin``."""
        return [cos], [-sin]


def _cos_and_sin(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``cos π u`` and ``sin π u``, exact where `u` is whole."""
    whole = u.detach().round()
    sign, rest = 1 - 2 * torch.remainder(whole, 2), math.pi * (u - whole)
    return sign * rest.cos(), sign * rest.sin()


def _join(waves: list[Tensor]) -> Tensor:
    """Put waves ``(B, *)`` side by side along dimension 1."""
    joined = torch.stack(waves, 1)
    return joined if joined.ndim == 2 else joined.flatten(1, 2)
