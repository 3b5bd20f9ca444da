"""A network that also sees waves of the state, by which it tells states apart that differ by little."""

from __future__ import annotations

__all__ = ["FourierState"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..conditions import Condition


class FourierState(OfTensors, nn.Module):
    """A network that sees, besides each number `y` of a state, the channels ``sin(2^n π y)`` and ``cos(2^n π y)``.

    The likelihood of bytes depends most on noise as large as the step between neighbouring bytes, and the output of a network
    without such channels hardly changes over so short a distance. D. Kingma, T. Salimans, B. Poole, J. Ho, *Variational diffusion
    models*, 2021, arXiv:2107.00630. A wave as long as that step tells how far a number is from the nearest byte: for bytes of
    L levels from −1 to 1, ``2^n = L − 1``.

    Parameters
    ----------
    net
        A network that takes ``1 + 2 k`` times the channels of the states, and returns as many as the states have:
        ``nets.UNet((1 + 2 * k) * channels, out_channels=channels)``.
    octaves
        The `k` exponents ``n``.

    Raises
    ------
    ValueError
        If there are no octaves.

    Examples
    --------
    >>> from sdegen import nets
    >>> net = FourierState(nets.UNet(3, (32,), out_channels=1), octaves=[4])
    >>> net(torch.randn(2, 1, 8, 8), torch.zeros(2)).shape
    torch.Size([2, 1, 8, 8])
    """

    @check_arguments
    def __init__(self, net: nn.Module, octaves: Sequence[float] = (6, 7)) -> None:
        super().__init__()
        if not octaves:
            raise ValueError("octaves is empty; give one exponent at least, such as 7 for bytes from −1 to 1.")
        self.net, self.octaves = net, tuple(octaves)

    @property
    def declared(self) -> dict[str, Condition]:
        """The conditions of the network inside."""
        found: Any = self.net.declared
        return found

    def forward(self, x: Tensor, level: Tensor, /, **cond: Any) -> Tensor:
        """Return the answer of the network inside for states ``(B, C, *)``, noise levels ``(B,)`` and conditions."""
        phases = [x * (math.pi * 2**n) for n in self.octaves]
        seen = torch.cat([x, *(wave(phase) for phase in phases for wave in (torch.sin, torch.cos))], 1)
        answer: Tensor = self.net(seen, level, **cond)
        return answer
