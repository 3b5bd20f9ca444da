"""The stochastic sampler of EDM: Heun's method with noise added before every step."""

from __future__ import annotations

__all__ = ["Churn", "ChurnStep"]

import math
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from ..arguments import check_arguments
from ..laws.kernels import Transition
from ..laws.marginals import LEAST_SIGNAL
from ..models.score import ScoreModel
from ..processes.grids import Grid, Karras, show_ratio
from ..processes.linear import LinearSDE
from ..processes.scalar import as_scalar
from .base import Noise, Sampler, require_linear


class ChurnStep(NamedTuple):
    """Coefficients of a step: the transition that adds noise (None if none is added), and the times, signal scales and noise
    levels at both ends of Heun's step.
    """

    up: Transition | None
    t: Tensor
    s: Tensor
    alpha_t: Tensor
    alpha_s: Tensor
    rho_t: Tensor
    rho_s: Tensor


class Churn(Sampler[ChurnStep, None]):
    """The stochastic sampler of EDM (its algorithm 2): Heun's method with noise added before every step, on any scalar process.

    The noise level is ``rho = sigma / alpha``, and in the chart ``x / alpha`` the flow is ``d(x / alpha) / d rho = E[z | x]``.
    Noise lifts ``rho`` to ``(1 + gamma) rho``, with ``gamma = min(S_churn / steps, √2 − 1)`` within ``[S_min, S_max]`` and 0
    elsewhere, but never above the largest level of the process; then two evaluations carry the state to the next level. T. Karras
    et al., *Elucidating the design space of diffusion-based generative models*, 2022, arXiv:2206.00364. Without churn there is
    `Heun`, whose clock is the angle. Weak order 2 for a fixed `S_churn`, once ``steps > 2.5 S_churn``.

    Parameters
    ----------
    steps, grid
        As for every `Sampler`; the grid is `Karras` by default.
    S_churn
        Noise added over the whole run.
    S_min, S_max
        The levels of ``sigma / alpha`` between which noise is added.
    S_noise
        Factor on the noise; values above 1 make up for detail that a network loses, and bias an exact model.

    Raises
    ------
    ValueError
        If `S_churn` or `S_noise` is negative, or not ``0 <= S_min <= S_max``; in a run, if ``alpha = 0`` at the start
        of a step.
    TypeError
        In a run, if the process is not a scalar one.
    """

    default_grid = Karras
    convergence_order = 2

    @check_arguments
    def __init__(
        self,
        steps: int = 32,
        grid: Grid | None = None,
        S_churn: float = 10.0,
        S_min: float = 0.0,
        S_max: float = math.inf,
        S_noise: float = 1.0,
    ) -> None:
        super().__init__(steps, grid)
        if not (S_churn >= 0 and S_noise >= 0):
            raise ValueError(f"S_churn = {S_churn}, S_noise = {S_noise}; neither may be negative.")
        if not 0 <= S_min <= S_max:
            raise ValueError(f"S_min = {S_min}, S_max = {S_max}; expected 0 <= S_min <= S_max.")
        self.S_churn, self.S_min, self.S_max, self.S_noise = S_churn, S_min, S_max, S_noise

    def plan(self, model: ScoreModel, times: Tensor) -> list[ChurnStep]:
        """Plan the noise levels, the raised noise levels, and the transitions between them."""
        sde = as_scalar(
            require_linear(self, model.sde), ", and Churn steps in sigma / alpha; use Restart or ExponentialSDE."
        )
        return [self._coefficients(sde, t, s) for t, s in pairwise(times)]

    def _coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> ChurnStep:
        level = sde.log_snr(t)
        rho = (-0.5 * level).exp()
        if rho > 1 / LEAST_SIGNAL:
            raise ValueError(
                f"sigma / alpha is {show_ratio(-0.5 * level)} at t = {t.item():.6g}; start the grid at "
                f"t_max = {sde.t_max:.6g}, or use Heun."
            )
        gamma = min(self.S_churn / self.steps, math.sqrt(2) - 1) if self.S_min <= rho <= self.S_max else 0.0
        lifted = sde.time_of_log_snr((level - 2 * math.log1p(gamma)).maximum(sde.log_snr(sde.t_max)).minimum(level))
        up = None
        if lifted > t:
            exact = sde.transition(t, lifted)
            up, t = Transition(exact.Phi, exact.R * self.S_noise), lifted
        scale_t, scale_s = (sde.marginal(v).Phi.matrix()[..., 0, 0] for v in (t, s))
        return ChurnStep(up, t, s, scale_t, scale_s, *((-0.5 * sde.log_snr(v)).exp() for v in (t, s)))

    def step(self, model: ScoreModel, x: Tensor, c: ChurnStep, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Add noise, then take Heun's step, or Euler's step to a noise level of zero."""
        if c.up is not None:
            x = c.up(x).sample(noise(x))
        u, h = x / c.alpha_t, c.rho_s - c.rho_t
        first = model.noise(x, c.t)
        x_s = c.alpha_s * (u + h * first)
        if c.rho_s > 0:
            second = model.noise(x_s, c.s)
            x_s = c.alpha_s * (u + h * 0.5 * (first + second))
        return x_s, None
