"""Noise that belongs to the sample: a seed gives sample `i` its noise, whatever else is in the batch.

A generator drawn from in turn ties a sample's noise to the size of the batch before it. Here the samples are cut into
blocks by their place in the run, and every block of every call has a seed of its own, so noise can be drawn for any
part of a run alone. It is drawn on the CPU and moved, so it is the same on every device, at the price of the move;
float64 noise is drawn in float64 and all other in float32, so those two differ. Equality across versions of torch is not
promised.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

NUMBERS = 8192  # in a block, about: fewer, and reseeding costs; more, and so does a chunk that starts within one
_LANES = 16  # torch fills normals 16 at a time: the first 16 k of a draw are the same however long it is
_32 = 2**32 - 1


class SampleNoise:
    """Standard normal noise of a chunk of samples, another at each call.

    The noise of a sample depends on the seed, its place in the run, the number of calls before and the size of a sample;
    not on how many samples are asked for. Seeds of blocks do not collide within a run of fewer than 1.9e9 of them.

    Parameters
    ----------
    seed
        Any whole number.
    first
        Place in the run of the chunk's first sample.

    Examples
    --------
    >>> many, one = SampleNoise(seed=3)(torch.empty(100, 2)), SampleNoise(seed=3, first=40)(torch.empty(1, 2))
    >>> torch.equal(many[40:41], one)
    True
    """

    def __init__(self, seed: int, first: int = 0) -> None:
        for name, value, least in (("seed", seed, None), ("first", first, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
                raise ValueError(f"{name} = {value!r}; give a whole number{'' if least is None else ', at least 0'}.")
        self.seed, self.first = seed, first
        self.calls = 0
        self._seeds = BlockSeeds(seed)
        self._generator = torch.Generator()

    def __call__(self, like: Tensor) -> Tensor:
        """Noise of the shape ``(B, *)``, dtype and device of `like`."""
        z = self.at(self.calls, like)
        self.calls += 1
        return z

    def at(self, call: int, like: Tensor) -> Tensor:
        """The noise of a given call."""
        shape = like.shape
        if not shape or not like.is_floating_point():
            raise ValueError(
                f"like has shape {tuple(shape)} and dtype {like.dtype}; give floating-point states (B, *)."
            )
        n = like.numel()
        d = n // shape[0] if n else 1
        block = block_size(d)
        k, skipped = divmod(self.first, block)
        start = skipped * d
        end = start + n
        z = torch.empty(
            -(-end // _LANES) * _LANES, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32
        )
        generator, seeds = self._generator, self._seeds
        for i, part in enumerate(z.split(block * d) if len(z) > block * d else (z,)):
            part.normal_(generator=generator.manual_seed(seeds(k + i, call)))
        return z[start:end].view(shape).to(like)


class BrownianNoise:
    """One Brownian path `W` for every sample, the same however often a coarsest grid is halved.

    The call of step `i` returns ``(W(t_i) − W(t_{i+1})) / √(t_i − t_{i+1})``: standard normal, and independent from step to
    step, like any noise. Steps of a coarsest grid draw their increments; a halved step splits its own by a Brownian bridge,
    one normal number for each number of noise altogether. So a solution can be compared with a finer one of the same
    path. To be given to a sampler that asks for noise once a step.

    Parameters
    ----------
    seed, first
        As for `SampleNoise`, on whose draws it is made.
    times
        Where the sampler stops, decreasing: ``sampler.times(sde, denoise)``.
    coarsest
        Steps of the coarsest grid; ``len(times) − 1`` is this times a power of two, and the coarsest grid is every so-many-th
        of the times.

    Raises
    ------
    ValueError
        If the times are not so many or do not decrease, or at a call after the last step.

    Examples
    --------
    >>> times, like = torch.linspace(1, 0, 9, dtype=torch.float64), torch.empty(3, 2)
    >>> fine, coarse = BrownianNoise(0, times, coarsest=4), BrownianNoise(0, times[::2], coarsest=4)
    >>> halves = (fine(like) + fine(like)) * 0.125**0.5
    >>> torch.allclose(halves, coarse(like) * 0.25**0.5)
    True
    """

    def __init__(self, seed: int, times: Tensor, coarsest: int, first: int = 0) -> None:
        steps = len(times) - 1
        halvings = max(0, (steps // max(1, coarsest)).bit_length() - 1)
        if coarsest < 1 or steps != coarsest << halvings:
            raise ValueError(
                f"coarsest = {coarsest} and {steps} steps between the times; give {coarsest} steps times a power of two."
            )
        self.times = times.double().tolist()
        if not all(t > s for t, s in pairwise(self.times)):
            raise ValueError("times must decrease strictly; give those of a sampler's grid.")
        self.coarsest, self.halvings, self.calls = coarsest, halvings, 0
        self._normal = SampleNoise(seed, first)
        self._pending: list[tuple[int, int, Tensor]] = []  # level, place in it, and increment of steps yet to be split

    def __call__(self, like: Tensor) -> Tensor:
        """The increment of the next step over the root of its length, of the shape, dtype and device of `like`."""
        i, steps = self.calls, len(self.times) - 1
        if i == steps:
            raise ValueError(f"noise was asked for more than {steps} times; a Brownian path has one increment a step.")
        self.calls += 1
        if self._pending:
            level, j, W = self._pending.pop()
        else:
            level, j = 0, i >> self.halvings
            t, _, s = self._ends(level, j)
            W = self._normal.at(j, like) * math.sqrt(t - s)
        while level < self.halvings:
            t, middle, s = self._ends(level, j)
            z = self._normal.at((self.coarsest << level) + j, like)  # roots come before, so no call is used twice
            spread = math.sqrt((t - middle) * (middle - s) / (t - s))
            half = (W * ((t - middle) / (t - s))).add_(z, alpha=spread)
            level, j = level + 1, 2 * j
            self._pending.append((level, j + 1, W - half))
            W = half
        return W / math.sqrt(self.times[i] - self.times[i + 1])

    def _ends(self, level: int, j: int) -> tuple[float, float, float]:
        """Start, middle and end of step `j` of a level; level 0 is the coarsest grid."""
        width = 1 << (self.halvings - level)
        return self.times[j * width], self.times[j * width + width // 2], self.times[(j + 1) * width]


def block_size(d: int) -> int:
    """Samples of `d` numbers in a block: about `NUMBERS` numbers, and a multiple of the 16 that are filled at a time."""
    whole = _LANES // math.gcd(d, _LANES)
    return whole * max(1, NUMBERS // (whole * d))


class BlockSeeds:
    """A 32-bit seed for every block of every call: all that torch's CPU generator takes in.

    The index ``block + B call mod 2³²`` with `B` the golden part of 2³² is one-to-one over a run: two calls share one
    only where ``|Δ block| |Δ call| > 2³² / √5``. It is scattered by a permutation of the 32-bit numbers, keyed by the seed.
    """

    def __init__(self, seed: int) -> None:
        key = scrambled(seed)
        self.first, self.second = key & _32, key >> 32

    def __call__(self, block: int, call: int) -> int:
        """The seed of a block's draw at a call."""
        x = (block + 2654435769 * call ^ self.first) & _32
        x = ((x ^ x >> 16) * 2146121005 & _32) ^ self.second
        x = (x ^ x >> 15) * 2221713035 & _32
        return x ^ x >> 16


def scrambled(x: int) -> int:
    """A whole number as 64 random-looking bits (the finaliser of splitmix64; G. Steele et al., 2014)."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def as_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """The seed of a run: one draw from the generator, from a fresh one of the given seed, or from torch's own.

    Raises
    ------
    ValueError
        If seed and generator are both given.
    """
    if seed is not None:
        if generator is not None:
            raise ValueError("seed and generator were both given; one source of randomness is enough.")
        generator = torch.Generator().manual_seed(seed)
    device = None if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def draw(law: Any, n: int, seed: int, d: int) -> Tensor:
    """`n` draws from a law that belong to the sample: in blocks with a generator each, always drawn whole.

    Parameters
    ----------
    law
        Anything with ``sample(n, generator)``.
    n
        How many.
    seed
        Of the run; these draws are independent of the run's `SampleNoise`.
    d
        Numbers in a draw.
    """
    seeds, size = BlockSeeds(scrambled(seed)), max(16, NUMBERS // d)
    blocks = [
        law.sample(size, torch.Generator().manual_seed(seeds(k, 0)))  # drawn whole, or it would depend on n
        for k in range(-(-n // size))
    ]
    return torch.cat(blocks)[:n]
