"""Waves with the symmetry of a circle or of a box: how a network sees states there, and how its answer becomes a score.

A network that sees ``cos x`` and ``sin x`` cannot tell `−π` from `π`; one that sees cosines with no slope at the walls of a box
cannot tell a point from its mirror image. Its answer is taken along the slopes of these waves, so that the score is periodic,
or has no part through a wall, whatever the weights.
"""

from __future__ import annotations

__all__ = ["BoxHarmonics", "CircleHarmonics", "Harmonics"]

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..arguments import asked_as, check_arguments
from ..blocks import OfTensors
from ..checks import check_number
from ..show import show_call


@asked_as("harmonics, such as laws.CircleHarmonics()")
class Harmonics(OfTensors, ABC):
    """The base class of what a network sees of states with bounds: waves of each number, and the slopes along which it answers.

    Subclasses give `waves`, of states as angles ``π (x − low) / length``. A state ``(B, *)`` with `d` channels along dimension 1
    becomes one with `d` for every wave, and the network's answer has the same shape.

    Attributes
    ----------
    low, length
        Where angles are 0, and the length of half a turn.
    """

    low: float
    length: float

    __repr__ = show_call

    @abstractmethod
    def waves(self, u: Tensor, noise: Tensor, orders: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return what is shown of angles `u`, and the slopes along which it is answered, each of size 1.

        Parameters
        ----------
        u, noise
            Angles, and the standard deviation of their noise, in units of `π`.
        orders
            The number of waves of each kind.
        """

    def show(self, x: Tensor, noise: Tensor, orders: int = 1) -> Tensor:
        """Return what a network sees of states: ``(B, waves · d, *)`` of states ``(B, d, *)``.

        Parameters
        ----------
        x
            States ``(B, *)``, in the domain or beyond.
        noise
            The standard deviation of the noise in them, of the shape of `x`.
        orders
            The number of waves of each kind.
        """
        return _join(self._at(x, noise, orders)[0])

    def score(self, x: Tensor, answer: Tensor, noise: Tensor, orders: int = 1) -> Tensor:
        """Return the sum of a network's numbers times the slopes of their waves, of the shape of `x`.

        Parameters
        ----------
        x
            States ``(B, *)``.
        answer
            What the network said, of the shape of what it was shown.
        noise, orders
            As for `show`.
        """
        slopes = self._at(x, noise, orders)[1]
        parts = answer.reshape(len(x), len(slopes), *x.shape[1:])
        return sum((slope * parts[:, i] for i, slope in enumerate(slopes)), torch.zeros_like(x))

    def _at(self, x: Tensor, noise: Tensor, orders: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the waves at states, and the slopes."""
        return self.waves((x - self.low) / self.length, noise / self.length, orders)


class CircleHarmonics(Harmonics):
    """The waves ``cos k x`` and ``sin k x`` of an angle: functions of these have no jump at `±π`.

    Examples
    --------
    >>> import math, torch
    >>> first, last = CircleHarmonics().show(torch.tensor([[-math.pi], [math.pi]]), torch.ones(2, 1))
    >>> torch.equal(first, last)
    True
    """

    low, length = 0.0, math.pi

    def waves(self, u: Tensor, noise: Tensor, orders: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return ``cos k x, sin k x`` and the slopes ``−sin k x, cos k x``."""
        pairs = [_cos_and_sin(k * u) for k in range(1, orders + 1)]
        return [wave for pair in pairs for wave in pair], [slope for cos, sin in pairs for slope in (-sin, cos)]


class BoxHarmonics(Harmonics):
    """The waves ``cos k a`` of a number in an interval, ``a = π (x − low) / (high − low)``, which are level at both ends, and the
    nearness of an end, ``s² / (sin² a + s²)`` for the noise `s` in the state. Functions of these have no slope at the ends.

    The score of data that end at a wall turns there within the length of the noise, which a cosine hardly sees; the slope that
    belongs to the nearness, ``sin a / √(sin² a + s²)``, turns alike.

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
    >>> BoxHarmonics(0.0, 1.0).show(torch.tensor([[0.0], [1.0]]), torch.ones(2, 1)).tolist()  # both ends are near
    [[1.0, 1.0], [-1.0, 1.0]]
    """

    @check_arguments
    def __init__(self, low: float, high: float) -> None:
        check_number("low", low), check_number("high", high)
        if not low < high:
            raise ValueError(
                f"low = {low:g}, high = {high:g}; an interval has a length: give a low that is below high."
            )
        self.low, self.high, self.length = low, high, high - low

    def waves(self, u: Tensor, noise: Tensor, orders: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return ``cos k a`` and the nearness of an end, and the slopes ``−sin k a`` and ``−sin a / √(sin² a + s²)``."""
        pairs, s = [_cos_and_sin(k * u) for k in range(1, orders + 1)], math.pi * noise
        steep = pairs[0][1] / (pairs[0][1].square() + s.square()).sqrt()
        return [*(cos for cos, _ in pairs), 1 - steep.square()], [*(-sin for _, sin in pairs), -steep]


def _cos_and_sin(u: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``cos π u`` and ``sin π u``, exact where `u` is whole."""
    whole = u.detach().round()
    sign, rest = 1 - 2 * torch.remainder(whole, 2), math.pi * (u - whole)
    return sign * rest.cos(), sign * rest.sin()


def _join(waves: list[Tensor]) -> Tensor:
    """Put waves ``(B, *)`` side by side along dimension 1."""
    joined = torch.stack(waves, 1)
    return joined if joined.ndim == 2 else joined.flatten(1, 2)
