"""One Brownian path for each sample, known at many levels of noise, and the noise that it gives to any grid."""

from __future__ import annotations

__all__ = ["CoarsenedNoise"]

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .base import Noise


class CoarsenedNoise:
    """A source of standard normal noise for runs on any grid, all of the same Brownian path `W`.

    The noise of a step from `t` to `s` is ``(W(clock_s) − W(clock_t)) / √(clock_s − clock_t)``. The path is drawn at the times of
    a fine grid, and between two of these it is a Brownian bridge with one normal number. The whole path is held in memory, for
    fits that run many grids on it; `BrownianNoise` holds no path, for grids each of which halves the steps of another.

    Parameters
    ----------
    times
        The times of the fine grid, decreasing, ``(F + 1,)``.
    clock
        A function of times that rises towards the data; its differences are the variances of the increments.
    like
        States, ``(B, *)``.
    generator
        Draws the path.
    """

    def __init__(
        self, times: Tensor, clock: Callable[[Tensor], Tensor], like: Tensor, generator: torch.Generator
    ) -> None:
        def normal() -> Tensor:
            shape = (len(times) - 1, *like.shape)
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(like)

        self.clock, self.ticks = clock, clock(times)
        self.over = (..., *[None] * like.ndim)
        steps = self.ticks.diff().sqrt()[self.over].to(like) * normal()
        self.path = torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])
        self.bridge = normal()

    def __call__(self, times: Tensor, first: int = 0) -> Noise:
        """Return the noise source of a run that stops at `times`, from step `first` on."""
        draws: Iterator[Tensor] = iter(self._steps(times)[first:])
        return lambda like: next(draws).to(like)

    def _steps(self, times: Tensor) -> Tensor:
        """Return the noise of every step."""
        tick = self.clock(times)
        j = (torch.searchsorted(self.ticks, tick.contiguous(), right=True) - 1).clamp(0, len(self.ticks) - 2)
        low, high = self.ticks[j], self.ticks[j + 1]
        tick = tick.maximum(low).minimum(high)
        part, aside = (tick - low) / (high - low), ((tick - low) * (high - tick) / (high - low)).sqrt()
        part, aside = (v[self.over].to(self.path) for v in (part, aside))
        at = self.path[j] + part * (self.path[j + 1] - self.path[j]) + aside * self.bridge[j]
        return at.diff(dim=0) / tick.diff().sqrt()[self.over].to(at)
