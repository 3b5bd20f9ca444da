"""Euler–Maruyama on the reversed SDE, at any noise level."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..grids import Grid, Uniform
from ..operators import as_operator
from .base import Noise, Sampler


class EulerMaruyama(Sampler):
    """``x_s = x_t − (t − s) [f − ½ (1 + eta²) G Gᵀ score] + eta √(t − s) G z``, weak order 1.

    Works for every SDE whose coefficients are finite at the times of the grid. Y. Song et al., 2021, arXiv:2011.13456.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`; equal steps in `t` by default.
    eta
        Noise level: 1 the reverse-time SDE, 0 Euler's method on the probability flow.
    """

    default_grid = Uniform

    class Coefficients(NamedTuple):
        """A step's times and reversed dynamics."""

        t: Tensor
        h: Tensor
        reverse: Any

    def __init__(self, steps: int = 500, grid: Grid | None = None, eta: float = 1.0) -> None:
        super().__init__(steps, grid)
        self.eta = eta

    def plan(self, model: Any, times: Tensor) -> list[Coefficients]:
        """Times and step lengths; refuses an infinite coefficient."""
        reverse = model.sde.reverse(model, self.eta)
        probe = model.sde.lift(torch.zeros(1, 1, dtype=torch.float64))
        for t in times[:-1]:
            G = as_operator(model.sde.diffusion(probe, t)).matrix()
            if not (G.isfinite().all() and model.sde.drift(torch.ones_like(probe), t).isfinite().all()):
                raise ValueError(
                    f"a coefficient of {type(model.sde).__name__} is infinite at t = {t.item():.6g}; start the grid at "
                    f"t_max = {model.sde.t_max:.6g}, or use DDIM(eta=1), which has no such limit."
                )
        return [self.Coefficients(t, t - s, reverse) for t, s in pairwise(times)]

    def step(self, model: Any, x: Tensor, c: Coefficients, noise: Noise, state: Any) -> tuple[Tensor, None]:
        """One step of length h."""
        x_s = x - c.h * c.reverse.drift(x, c.t)
        if self.eta:
            x_s = x_s + (c.reverse.diffusion(x, c.t) * c.h.sqrt())(noise(x))
        return x_s, None
