"""Noise that belongs to the sample: a seed gives sample `i` its noise, whatever else is in the batch.

A generator drawn from in turn ties a sample's noise to the size of the batch before it. Here the samples are cut into
blocks by their place in the run, and every block of every call has a seed of its own, so noise can be drawn for any
part of a run alone. It is drawn on the CPU and moved, so it is the same on every device, at the price of the move;
float64 noise is drawn in float64 and all other in float32, so those two differ. Equality across versions of torch is not
promised.

A draw has a price of its own, which small ones share: samples of few numbers have several calls in one (`together`).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

NUMBERS = 16384  # in a block, about: fewer, and reseeding costs; more, and so does a chunk that starts within one
AHEAD = 131072  # numbers of a path that are made at a time, at most, where that is more than one step
_TOGETHER = 8  # calls in a draw, at most: what a run ends within is drawn in vain
_ROW = 4096  # numbers of one sample in a draw of several calls, at most: more are worth a draw of their own
_LANES = 16  # torch fills normals 16 at a time: the first 16 k of a draw are the same however long it is
_32 = 2**32 - 1


class SampleNoise:
    """Standard normal noise of a chunk of samples, another at each call.

    The noise of a sample depends on the seed, its place in the run, the number of calls before and the size of a sample;
    not on how many samples are asked for, at this call or another. Seeds of blocks do not collide within a run of fewer
    than 1.9e9 of them.

    Parameters
    ----------
    seed
        Any whole number.
    first
        Place in the run of the chunk's first sample.

    Raises
    ------
    ValueError
        If `seed` is not a whole number, or `first` not one of at least 0.

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
        self._ahead: list[Tensor] = []  # noise of the next calls, the last first

    def __call__(self, like: Tensor) -> Tensor:
        """Noise of the shape ``(B, *)``, dtype and device of `like`."""
        z = self._ahead.pop() if self._ahead else None
        if z is None or z.shape != like.shape or z.dtype != like.dtype or z.device != like.device:
            *self._ahead, z = self.draw(self.calls, 1, like).unbind()[::-1]
        self.calls += 1
        return z

    def draw(self, call: int, m: int, like: Tensor) -> Tensor:
        """The noise of `m` calls from a given one on, and of those drawn along with the last, ``(m or more, B, *)``.

        For all of them `together` has to be the same.
        """
        width = together(_size(like), call)
        start = call & -width
        draws = -(-(call + m - start) // width)
        at = layout(like.shape, self.first, width)
        z = torch.empty(draws * at.end, dtype=torch.float64 if like.dtype == torch.float64 else torch.float32)
        for j, line in enumerate(z.split(at.end) if draws > 1 else (z,)):
            for i, part in enumerate(line.split(at.block) if at.end > at.block else (line,)):
                part.normal_(generator=self._generator.manual_seed(self._seeds(at.k + i, start + j * width)))
        if at.rows is not None:
            sizes, strides, offset = at.rows
            z = z.as_strided((draws, *sizes), (at.end, *strides), offset).contiguous()
        z = z.as_strided((draws * width, *like.shape), at.strides, z.storage_offset() + at.offset)
        return (z[call - start :] if call > start else z).to(like)


class BrownianNoise:
    """One Brownian path `W` for every sample, the same however often a coarsest grid is halved.

    The call of step `i` returns ``(W(t_i) − W(t_{i+1})) / √(t_i − t_{i+1})``: standard normal, and independent from step to
    step, like any noise. Steps of a coarsest grid draw their increments; a halved step splits its own by a Brownian bridge,
    one normal number for each number of noise altogether. So a solution can be compared with a finer one of the same
    path. To be given to a sampler that asks for noise once a step. The bridge is the construction of P. Lévy,
    *Processus stochastiques et mouvement brownien*, 1948.

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
        self.times = times.double().cpu()
        if not (self.times[:-1] > self.times[1:]).all():
            raise ValueError("times must decrease strictly; give those of a sampler's grid.")
        self.steps, self.coarsest, self.halvings, self.calls = steps, coarsest, halvings, 0
        # Lengths of the steps of every level, in those of the coarsest steps they are parts of; level 0 is the coarsest.
        grids = (self.times[:: 1 << k] for k in range(halvings, -1, -1))
        lengths = [(t[:-1] - t[1:]).view(coarsest, -1) for t in grids]
        lengths = [(v / lengths[0]).flatten() for v in lengths]
        pairs = [v.view(-1, 2) for v in lengths[1:]]
        self._bridge = [(v.flip(1) / v / v.sum(1, keepdim=True)).sqrt() * v.new_tensor([1.0, -1.0]) for v in pairs]
        self._root = lengths[-1].sqrt()
        self._shape: torch.Size | None = None
        self._source = SampleNoise(seed, first)
        self._rest: dict[int, Tensor] = {}  # noise drawn along with that of other calls, by the first of its calls
        self._split: list[tuple[int, int, Tensor]] = []  # level, place in it, and slopes of steps yet to be split
        self._ready: list[Tensor] = []  # noise of the next steps, the last first

    def __call__(self, like: Tensor) -> Tensor:
        """The increment of the next step over the root of its length, of the shape, dtype and device of `like`."""
        if self.calls == self.steps:
            raise ValueError(
                f"noise was asked for more than {self.steps} times; a Brownian path has one increment a step."
            )
        if like.shape != self._shape:
            if self.calls:
                raise ValueError(
                    f"like has shape {tuple(like.shape)}, the path one of {tuple(self._shape or ())}; make one for each batch."
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
        """Noise of the next steps, the last first: of one, or of as many as have `AHEAD` numbers.

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
        """The noise of `m` calls, ``(m, B, *)``."""
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
        """Noise from a call on, up to `end` or to what is there already, or as far as calls are drawn together."""
        if call < 2 * _TOGETHER:  # further on more go together
            end = min(end, 1 << call.bit_length())
        end = min((k for k in self._rest if call < k < end), default=end)
        first = call & -together(_size(like), call)
        z = self._source.draw(first, end - first, like)
        if first < call:  # a coarser level's last calls, whose turn comes when the finer one has been begun
            self._rest[first], z = z[: call - first], z[call - first :]
        return z


def _size(like: Tensor) -> int:
    """Numbers in a sample."""
    shape = like.shape
    if not shape or not like.is_floating_point():
        raise ValueError(f"like has shape {tuple(shape)} and dtype {like.dtype}; give floating-point states (B, *).")
    return max(1, shape[1:].numel())


def together(d: int, call: int) -> int:
    """How many calls are drawn at once with this one, a power of two that the first of them is a multiple of.

    At most a quarter of the calls before, so that short runs draw little in vain, whatever the size of the batch.
    """
    return power_of_two(min(_TOGETHER, _ROW // d, call // 2))


def power_of_two(x: int) -> int:
    """The largest up to `x`, and at least 1."""
    return 1 << max(0, x.bit_length() - 1)


class Layout(NamedTuple):
    """Where the numbers of a chunk are in a draw.

    Attributes
    ----------
    k, block
        The chunk's first block, and numbers in a block.
    end
        Numbers to be drawn, from the start of the first block to the end of the chunk.
    rows
        Sizes ``(calls, rows, numbers)``, strides and offset of the rows that the chunk is in; None for a single call.
    strides, offset
        Of the noise ``(calls, B, *)``, in the rows with the calls first.
    """

    k: int
    block: int
    end: int
    rows: tuple[tuple[int, ...], tuple[int, ...], int] | None
    strides: tuple[int, ...]
    offset: int


@lru_cache(256)
def layout(shape: torch.Size, first: int, width: int) -> Layout:
    """Of a chunk ``(B, *)`` from the place `first` on, in draws of `width` calls.

    A block is a list of rows; a row is the first call of a few samples, their second call, and so on. Few, because the
    numbers of a row are drawn for one sample too; not one, because it is slow to gather two numbers here and two there.
    """
    d = max(1, shape[1:].numel())
    few = max(1, _LANES // d)
    numbers = few * d
    row = width * numbers
    block = block_size(row)
    place, before = divmod(first, few)
    k, skipped = divmod(place, block)
    rows = -(-(before + shape[0]) // few)
    end = -(-(skipped + rows) * row // _LANES) * _LANES
    strides = torch.empty(1, *shape, device="meta").stride()[1:]
    if width == 1:
        return Layout(k, block * row, end, None, (end, *strides), skipped * row + before * d)
    calls_first = ((width, rows, numbers), (numbers, row, 1), skipped * row)
    return Layout(k, block * row, end, calls_first, (rows * numbers, *strides), before * d)


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


def draw(law: Any, n: int, seed: int, d: int, first: int = 0) -> Tensor:
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
    first
        Place in the run of the first.
    """
    seeds, size = BlockSeeds(scrambled(seed)), max(16, NUMBERS // d)
    begin = first // size
    blocks = [
        law.sample(size, torch.Generator().manual_seed(seeds(k, 0)))  # drawn whole, or it would depend on n
        for k in range(begin, -(-(first + n) // size))
    ]
    return torch.cat(blocks)[first - begin * size :][:n]
