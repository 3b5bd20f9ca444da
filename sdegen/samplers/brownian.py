"""Noise from one Brownian path for each sample, the same path at every number of steps."""

from __future__ import annotations

__all__ = ["AHEAD", "BrownianNoise"]

from itertools import pairwise

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_tensor
from ..show import show_call
from .noise import TOGETHER, SampleNoise, numbers_in, power_of_two, together

_SIGNS = torch.tensor([1.0, -1.0], dtype=torch.float64)
AHEAD = 131072  # numbers of a path that are made at a time, at most, unless one step alone has more


class BrownianNoise:
    """A noise source with one Brownian path `W` for each sample, which stays the same as the coarsest grid is halved.

    The call of step `i` returns ``(W(t_i) − W(t_{i+1})) / √(t_i − t_{i+1})``: standard normal, and independent from step to
    step, like any noise. Steps of a coarsest grid draw their increments; a halved step splits its own by a Brownian bridge,
    one normal number for each number of noise altogether. So a solution can be compared with a finer one of the same
    path: ``sample(..., noise=BrownianNoise)`` hands it the times. For a sampler that asks for noise once a step. The bridge is
    the construction of P. Lévy, *Processus stochastiques et mouvement brownien*, 1948.

    Parameters
    ----------
    seed, first
        As for `SampleNoise`, on whose draws it is made.
    times
        Where the sampler stops, decreasing: ``sampler.times(sde, denoise)``.
    coarsest
        Steps of the coarsest grid, which takes times at equal strides; ``len(times) − 1`` is `coarsest` times a power of two. By
        default the number of steps is halved as often as it can be, so that runs of 20, 40 and 80 moves between the same ends
        have one path.

    Raises
    ------
    ValueError
        If the number of times does not fit `coarsest` or the times do not decrease, and at a call after the last step.

    Examples
    --------
    >>> times, like = torch.linspace(1, 0, 9, dtype=torch.float64), torch.empty(3, 2)
    >>> fine, coarse = BrownianNoise(0, 0, times), BrownianNoise(0, 0, times[::2])
    >>> halves = (fine(like) + fine(like)) * 0.125**0.5
    >>> torch.allclose(halves, coarse(like) * 0.25**0.5)
    True

    A run and a finer one of the same path:

    >>> import sdegen
    >>> model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    >>> solve = lambda steps: sdegen.sample(
    ...     model, 9, sampler=sdegen.samplers.EulerMaruyama(steps), noise=BrownianNoise, seed=0, final="sample")
    >>> bool((solve(800) - solve(400)).abs().max() < 0.2)
    True
    """

    __repr__ = show_call

    @check_arguments
    def __init__(self, seed: int, first: int, times: Tensor, coarsest: int | None = None) -> None:
        check_tensor("times", times, ndim=1)
        steps = len(times) - 1
        coarsest = max(1, steps // max(1, steps & -steps)) if coarsest is None else coarsest
        halvings = max(0, (steps // max(1, coarsest)).bit_length() - 1)
        if coarsest < 1 or steps != coarsest << halvings:
            raise ValueError(
                f"coarsest = {coarsest} and {steps} steps between the times; give {coarsest} steps times a power of two."
            )
        self.times = times.double().cpu()
        grids = (self.times[:: 1 << k] for k in range(halvings, -1, -1))
        gaps = [t[:-1] - t[1:] for t in grids]  # of every level; level 0 is the coarsest
        if not gaps[-1].amin() > 0:
            raise ValueError("times must decrease strictly; give those of a sampler's grid.")
        self.steps, self.coarsest, self.halvings, self.calls = steps, coarsest, halvings, 0
        # Lengths of steps, as fractions of the coarsest steps that they are parts of.
        lengths = [(v.view(coarsest, -1) / gaps[0][:, None]).view(-1, 1) for v in gaps]
        halves = [(whole, v.view(-1, 2)) for whole, v in pairwise(lengths)]
        self._bridge = [(v.flip(1) / (v * whole)).sqrt() * _SIGNS for whole, v in halves]
        self._root = lengths[-1].flatten().sqrt()
        self._shape: torch.Size | None = None
        self._source = SampleNoise(seed, first)
        self._rest: dict[int, Tensor] = {}  # noise drawn along with that of other calls, by the first of its calls
        self._split: list[tuple[int, int, Tensor]] = []  # level, place in it, and slopes of steps yet to be split
        self._ready: list[Tensor] = []  # noise of the next steps, the last first

    def __call__(self, like: Tensor) -> Tensor:
        """Return the increment of the next step over the root of its length, of the shape, dtype and device of `like`."""
        if self.calls == self.steps:
            raise ValueError(
                f"noise was asked for more than {self.steps} times, but a Brownian path has one increment a step; take a sampler "
                "that draws noise once a step, or SampleNoise."
            )
        if like.shape != self._shape:
            if self.calls:
                raise ValueError(
                    f"like has shape {tuple(like.shape)}, but the path was begun for states of shape {tuple(self._shape or ())}; "
                    "make a BrownianNoise for each batch."
                )
            self._shape = like.shape
            ones = [1] * like.ndim  # coefficients are to multiply (steps, B, *)
            exact = torch.float64 if like.dtype == torch.float64 else torch.float32
            self._bridge = [v.to(like.device, exact).view(-1, 2, *ones) for v in self._bridge]
            self._root = self._root.to(like.device, exact).view(-1, *ones)
        if not self._ready:
            self._ready = self._next(like)
        self.calls += 1
        return self._ready.pop()

    def _next(self, like: Tensor) -> list[Tensor]:
        """Return the noise of the next steps, the last first: of one, or of as many as have `AHEAD` numbers.

        What is split is the mean slope of the path in a step, in units of the root of its coarsest step's length. Halves of
        lengths ``a`` and ``b`` have the slopes ``slope + √(b / a (a + b)) z`` and ``slope − √(a / b (a + b)) z``.
        """
        exact = like if like.dtype == torch.float64 else like.float()
        most = power_of_two(AHEAD // max(1, like.numel()))
        if self._split:
            level, j, slope = self._split.pop()
        else:
            level, j = 0, self.calls >> self.halvings
            slope = self._normal(j, min(max(1, most >> self.halvings), self.coarsest - j), exact)
        m = slope.shape[0]
        while level < self.halvings:
            if m > 1 and 2 * m > most:
                m //= 2
                self._split.append((level, j + m, slope[m:]))
                slope = slope[:m]
            z = self._normal((self.coarsest << level) + j, m, exact)  # the calls before are those of coarser levels
            bridge = self._bridge[level][j : j + m]
            level, j = level + 1, 2 * j
            if most > 1:
                m, slope = 2 * m, torch.addcmul(slope.unsqueeze(1), z.unsqueeze(1), bridge).flatten(0, 1)
            else:  # large: what is there already is written over
                half = torch.addcmul(slope, z, bridge[:, 0])
                self._split.append((level, j + 1, slope.addcmul_(z, bridge[:, 1])))
                slope = half
        if level:
            slope *= self._root[j : j + m]
        return list(slope.to(like).unbind())[::-1]

    def _normal(self, call: int, m: int, like: Tensor) -> Tensor:
        """Return the noise of `m` calls, ``(m, B, *)``."""
        parts, end = [], call + m
        while call < end:
            z = self._rest.pop(call, None)
            if z is None:
                z = self._draw(call, end, like)
            if z.shape[0] > end - call:
                self._rest[end], z = z[end - call :], z[: end - call]
            parts.append(z)
            call += z.shape[0]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _draw(self, call: int, end: int, like: Tensor) -> Tensor:
        """Draw the noise from a call on, up to `end` or to what is there already, or as far as calls are drawn together."""
        if call < 2 * TOGETHER:  # further on more go together
            end = min(end, 1 << call.bit_length())
        end = min((k for k in self._rest if call < k < end), default=end)
        first = call & -together(numbers_in(like), call)
        z = self._source.draw(first, end - first, like)
        if first < call:  # a coarser level's last calls, whose turn comes when the finer one has been begun
            self._rest[first], z = z[: call - first], z[call - first :]
        return z
