"""The coefficients of the Fokker–Planck equation of a process, and which coordinates move each other: `Equation`."""

from __future__ import annotations

__all__ = ["Equation"]

import torch
from torch import Tensor

from ..laws.chains import FluxTerms
from .base import SDE
from .dynamics import diffusion_at, drift_at
from .state_noise import GramDivergence

ROUNDING = 1e-12  # of the largest coefficient: a change as small counts as none


class Equation:
    """The equation ``∂p/∂t = −∇·(b p − D ∇p)`` of a process, with ``D = ½ G Gᵀ`` and ``b = f − ½ ∇·(G Gᵀ)``.

    Parameters
    ----------
    sde
        Any SDE.
    states
        Some states of it, ``(N, *)``, float64.
    """

    def __init__(self, sde: SDE, states: Tensor) -> None:
        self.sde, self.states, self.shape = sde, states.reshape(len(states), -1), states.shape[1:]
        self._middle = torch.tensor(0.5 * sde.T, dtype=torch.float64)
        self._divergence = GramDivergence.of(sde, sde.is_linear)
        self._divergence.look_at(states, self._middle)

    def field(self, group: list[int], t: Tensor) -> FluxTerms:
        """Return the coefficients at `t` of some coordinates, as a function of these alone; the others stay as in the first
        state.
        """

        def coefficients(x: Tensor) -> tuple[Tensor, Tensor]:
            states = self.states[:1].repeat(len(x), 1)
            states[:, group] = x
            return self.coefficients(states, group, t)

        return coefficients

    def coefficients(self, states: Tensor, group: list[int], t: Tensor) -> tuple[Tensor, Tensor]:
        """Return `D`, ``(N, k, k)``, and `b`, ``(N, k)``, of `k` coordinates at states ``(N, d)``."""
        x = states.reshape(-1, *self.shape)
        gram = diffusion_at(self.sde, x, t).gram()
        axes = torch.eye(states.shape[1], dtype=x.dtype)[group]
        D = torch.stack(
            [gram(axis.reshape(self.shape).expand(x.shape)).reshape(states.shape)[:, group] for axis in axes], -1
        )
        b = drift_at(self.sde, x, t) - 0.5 * self._divergence.add_to(torch.zeros_like(x), x, t)
        return 0.5 * D, b.reshape(states.shape)[:, group]

    def is_still(self, times: Tensor) -> bool:
        """Tell whether the coefficients are the same at all of the times."""
        every = list(range(self.states.shape[1]))
        first = self.coefficients(self.states, every, times[0])
        return all(
            torch.equal(a, b)
            for t in times
            for a, b in zip(self.coefficients(self.states, every, t), first, strict=True)
        )

    def groups(self, tied: Tensor) -> list[list[int]]:
        """Return the coordinates in groups that move independently of each other.

        Coordinates share a group if one moves the other, their noise is correlated, they are `tied`, or both share it with a
        third. Which coordinates one moves is found by changing this one in all states.

        Parameters
        ----------
        tied
            Which coordinates depend on each other in the data, ``(d, d)``.
        """
        x, together = self.states, tied | torch.eye(len(tied), dtype=torch.bool)
        every = list(range(x.shape[1]))
        D, b = self.coefficients(x, every, self._middle)
        small = [ROUNDING * (value.abs().max() + torch.finfo(x.dtype).tiny) for value in (D, b)]
        together |= (D.abs() > small[0]).any(0)
        for j in every:
            other = x.clone()
            other[:, j] = x[:, j].roll(1)
            now_D, now_b = self.coefficients(other, every, self._middle)
            moved = ((now_D - D).abs() > small[0]).any(2) | ((now_b - b).abs() > small[1])
            together[j] |= moved.any(0)
        together = together | together.T
        for _ in range(len(every).bit_length()):
            together = together.float() @ together.float() > 0
        return [list(group) for group in sorted({tuple(row.nonzero()[:, 0].tolist()) for row in together})]
