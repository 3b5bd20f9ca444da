"""Adaptive Euler steps on the reversed SDE, with a step size and a Brownian path for each sample.

A step that is rejected must not lose its noise: redrawn, or shortened with the noise kept, paths with large increments
would be rarer than they are. Steps here are halves of halves of the interval, and a rejected one is split by the Brownian
bridge; the half not yet used waits for its turn. So acceptance depends on nothing but the past and the increment that is judged.
"""

from __future__ import annotations

__all__ = ["AdaptiveSDE", "DyadicPath"]

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..laws.operators import rows
from ..laws.vectors import as_vectors, over_rows
from ..models.score import ScoreModel
from ..processes.base import SDE, Reverse
from ..processes.grids import Grid, Uniform
from ..processes.state_noise import Dependence
from .base import Noise, Sampler
from .euler import EulerMaruyama, EulerStep

LEVELS = 40  # the shortest step is 2^-40 of the interval
FAR = 4.0  # the error that a step to NaN or infinity counts as: a step a quarter as long is tried next


class AdaptiveSDE(Sampler[EulerStep, None]):
    """An adaptive stochastic improved Euler method, with a step size for each sample from the difference to Euler–Maruyama.

    ``x' = x − h f(x, t) + eta G(x, t) w`` is compared with ``x'' = ½ (x' + x − h f(x', t − h) + eta G(x', t − h) w)``, with the
    reversed drift `f` and one increment ``w`` of variance `h`. A step is kept where `E`, the root mean square of
    ``(x' − x'') / max(atol, rtol |x'|, rtol |x'_before|)``, is at most 1, and the run goes on from ``x''``. The next length is
    ``0.9 h E^-0.9``, rounded down to the interval times a power of a half. A trial takes two evaluations, and there are as many
    trials as the slowest sample needs. A. Jolicoeur-Martineau et al., *Gotta go fast when generating data with score-based
    models*, 2021, arXiv:2105.14080. There a rejected step keeps its scaled noise; here it keeps the Brownian path, by the bridges
    of C. Rackauckas and Q. Nie, *Adaptive methods for stochastic differential equations via natural embeddings and rejection
    sampling with memory*, 2017.

    If the noise of each coordinate depends on that coordinate, `f` is Stratonovich's drift, ``½ eta² G G'`` apart from Itô's,
    since ``x''`` converges in Stratonovich's sense. A method in Itô's sense would have another law: step lengths that depend on
    the noise of the step itself are harmless only to a method of order one (J. Gaines and T. Lyons, *Variable step size control
    in the numerical solution of stochastic differential equations*, 1997). The sampler takes every SDE with such noise, or with
    noise that does not depend on the state, whose coefficients are finite at both ends of the grid.

    Parameters
    ----------
    rtol, atol
        Relative and absolute error of a step, for each sample.
    eta
        Noise level: 1 the reverse-time SDE, 0 the probability flow.
    grid
        A grid, of which only the first and the last time are used.

    Raises
    ------
    ValueError
        If `rtol` or `eta` is negative, or `atol` not positive; in a run, if a coefficient is infinite at the first time, no step
        meets the tolerance, or noise that depends on the state couples its coordinates.
    """

    default_grid = Uniform

    @check_arguments
    def __init__(self, rtol: float = 0.02, atol: float = 0.01, eta: float = 1.0, grid: Grid | None = None) -> None:
        super().__init__(1, grid)
        if not (rtol >= 0 and atol > 0):
            raise ValueError(f"rtol = {rtol}, atol = {atol}; expected rtol >= 0 and atol > 0.")
        if not eta >= 0:
            raise ValueError(f"eta = {eta}; the noise level of a reversed process is at least 0.")
        self.rtol, self.atol, self.eta = rtol, atol, eta

    def times(self, sde: SDE, denoise: bool) -> Tensor:
        """Return both ends of the grid; a last move to the posterior mean comes after them."""
        return self._grid(sde)(sde, 2)

    def plan(self, model: ScoreModel, times: Tensor) -> list[EulerStep]:
        """Plan the interval and the reversed SDE; refuse a process whose coefficients are infinite there."""
        return EulerMaruyama(1, eta=self.eta).plan(model, times)

    def step(self, model: ScoreModel, x: Tensor, c: EulerStep, noise: Noise, state: None) -> tuple[Tensor, None]:
        """Integrate from one end to the other; every trial draws noise once, so a sample's noise does not depend on the
        batch.
        """
        self._check_noise(x, c)
        path, before = DyadicPath(x, c.h), x
        while not path.done.all():
            w = path.next(noise(x))
            t, h = c.t - path.start, path.length
            euler = self._euler(x, x, t, h, w, c.reverse)
            there = c.reverse.enter(euler)
            improved = 0.5 * (euler + self._euler(x, there, (t - h).maximum(c.t - c.h), h, w, c.reverse))
            scale = self.rtol * torch.maximum(euler.abs(), before.abs())
            error = as_vectors((euler - improved) / scale.clamp_min(self.atol)).square().mean(1).sqrt().double().cpu()
            kept = path.judge(error)
            here = over_rows(kept, x).to(x.device)
            x, before = c.reverse.enter(torch.where(here, improved, x)), torch.where(here, euler, before)
        return x, None

    def _check_noise(self, x: Tensor, c: EulerStep) -> None:
        """Refuse noise whose Lévy areas would be needed.

        Raises
        ------
        ValueError
            If the noise depends on the state, other than the noise of each coordinate on this coordinate alone.
        """
        c.reverse.divergence.look_at(x, c.t)
        if self.eta and c.reverse.divergence.dependence is Dependence.ANY:
            raise ValueError(
                f"noise of {type(c.reverse.sde).__name__} depends on the state and couples its coordinates: steps of chosen "
                "lengths need Lévy areas there, which are not drawn; take EulerMaruyama, or eta = 0."
            )

    @staticmethod
    def _euler(x: Tensor, at: Tensor, t: Tensor, h: Tensor, w: Tensor, reverse: Reverse) -> Tensor:
        """Take Euler's step from `x` with the coefficients of the state `at` and the time `t`, in Stratonovich's sense."""
        drift = reverse.divergence.add_to(reverse.drift(at, t), at, t, 0.25 * reverse.eta**2)
        return x - drift * rows(h, x) + reverse.diffusion(at, t)(w)


class DyadicPath:
    """Increments of Brownian paths over dyadic parts of ``[0, length]``, with one path and one position for every row.

    A row walks its own binary tree: it takes the part that waits, or a new part; if that is too long, it splits it by the bridge
    ``w_left | w ~ N(w / 2, h / 4)``, and the right half waits. (`BrownianNoise` has one grid for all rows, known beforehand.)

    Parameters
    ----------
    x
        The states, for their shape.
    whole
        Length of the interval, float64.
    """

    def __init__(self, x: Tensor, whole: Tensor) -> None:
        n = len(x)
        self.whole = whole
        self.place = torch.zeros(n, dtype=torch.int64)  # in units of the shortest part
        self.level = torch.zeros(n, dtype=torch.int64)
        self.wanted = torch.full((n,), 6, dtype=torch.int64)  # a first step of 1/64
        self.refused = torch.zeros(n, dtype=torch.bool)
        self.waits = torch.zeros(n, LEVELS + 1, dtype=torch.bool)
        self.waiting: dict[int, Tensor] = {}
        self.w = torch.zeros_like(x)

    @property
    def done(self) -> Tensor:
        """Which rows are at the end."""
        return self.place == 2**LEVELS

    @property
    def start(self) -> Tensor:
        """The position of each row on ``[0, length]``, float64 ``(B,)``."""
        return self.whole * (self.place.double() / 2**LEVELS)

    @property
    def length(self) -> Tensor:
        """The length of each row's next part; 0 for rows at the end."""
        return torch.where(self.done, 0.0, self.whole * torch.pow(0.5, self.level.double()))

    def next(self, z: Tensor) -> Tensor:
        """Return the Brownian increment over each row's next part, made from the standard noise `z`."""
        has = self.waits.any(1) & ~self.refused
        new = ~has & ~self.refused
        self.level = torch.where(has, self._deepest(), self.level)
        self.level = torch.where(new, self.wanted.maximum(self._shallowest()), self.level)
        for level in self.level[has].unique().tolist():
            chosen = has & (self.level == level)
            self.w = torch.where(self._over(chosen), self.waiting[level], self.w)
            self.waits[:, level] &= ~chosen
        self.w = torch.where(self._over(new), z * rows(self.length.sqrt(), z), self.w)
        self._split(self.refused | (has & (self.wanted > self.level)), z)
        return self.w

    def judge(self, error: Tensor) -> Tensor:
        """Advance rows whose error is at most 1, halve the parts of the others, and return which rows moved.

        Raises
        ------
        ValueError
            If the shortest part is still too long.
        """
        error = error.nan_to_num(FAR, posinf=FAR)
        kept = (error <= 1) & ~self.done
        failed = (error > 1) & (self.level >= LEVELS)
        if (failed & ~self.done).any():
            t = self.start[failed & ~self.done][0].item()
            raise ValueError(
                f"no step meets the tolerance after {t:.6g} of an interval of {self.whole.item():.6g}; raise atol, end the "
                "grid earlier, or check the model there."
            )
        factor = 0.9 * error.clamp_min(1e-6).pow(-0.9)
        wanted = (self.level.double() - factor.log2()).ceil().clamp(0, LEVELS).long()
        self.wanted = torch.where(kept, wanted, wanted.maximum(self.level + 1)).clamp_max(LEVELS)
        self.refused = ~kept & ~self.done
        self.place = self.place + torch.where(kept, 2 ** (LEVELS - self.level), 0)
        return kept

    def _split(self, which: Tensor, z: Tensor) -> None:
        """Halve the parts of the rows `which`: the left half is next, and the right half waits."""
        left = 0.5 * self.w + z * rows(0.5 * self.length.sqrt(), z)
        right = self.w - left
        for level in (self.level[which] + 1).unique().tolist():
            chosen = which & (self.level + 1 == level)
            kept = self.waiting.get(level, torch.zeros_like(z))
            self.waiting[level] = torch.where(self._over(chosen), right, kept)
            self.waits[:, level] |= chosen
        self.w = torch.where(self._over(which), left, self.w)
        self.level = self.level + which.long()

    def _deepest(self) -> Tensor:
        """Return the level of each row's shortest waiting part, which is the next in order."""
        return (self.waits * torch.arange(LEVELS + 1)).amax(1)

    def _shallowest(self) -> Tensor:
        """Return the level of the longest part that may begin at each row's place."""
        low = torch.where(self.place == 0, 2**LEVELS, self.place & -self.place)
        return LEVELS - low.double().log2().long()

    def _over(self, mask: Tensor) -> Tensor:
        """Return a mask of rows, shaped to choose between states."""
        return over_rows(mask, self.w).to(self.w.device)
