"""Reproducible noise for each sample: the seed and the sample's index decide its noise, whatever else is in the batch.

A generator drawn from in turn ties a sample's noise to the size of the batch before it. Here the samples are cut into
blocks by their place in the run, and every block of every call has a seed of its own, so noise can be drawn for any
part of a run alone. It is drawn on the CPU and moved, so it is the same on every device, at the price of the move;
float64 noise is drawn in float64 and all other in float32, so those two differ. Equality across versions of torch is not
promised.

A draw has a cost of its own, which small draws share: for samples of few numbers, several calls are drawn at once (`together`).
"""

from __future__ import annotations

__all__ = [
    "BlockSeeds",
    "Layout",
    "NUMBERS",
    "SampleNoise",
    "TOGETHER",
    "as_seed",
    "block_size",
    "draw",
    "layout",
    "numbers_in",
    "power_of_two",
    "scramble",
    "together",
]

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..answers import ask_draws
from ..arguments import check_arguments
from ..checks import check_count
from ..show import show_call

NUMBERS = 16384  # in a block, about: with fewer, reseeding is costly; with more, a chunk that starts within a block
# Numbers that are drawn ahead, about: after a network, which has filled the caches, a draw takes half as long again.
AHEAD = 2**18
TOGETHER = 8  # calls in a draw, at most: those after the end of the run are drawn in vain
_ROW = 4096  # numbers of one sample in a draw of several calls, at most: more numbers are worth a draw of their own
_LANES = 16  # torch fills normals 16 at a time: the first 16 k of a draw are the same however long it is
_32 = 2**32 - 1


class SampleNoise:
    """A source of standard normal noise for a chunk of samples, with fresh noise at each call.

    The noise of a sample depends on the seed, its place in the run, the number of calls before and the size of a sample. It does
    not depend on how many samples are asked for, at this call or another. Seeds of blocks do not collide within a run of fewer
    than 1.9e9 blocks.

    Parameters
    ----------
    seed
        Any whole number.
    first
        Place in the run of the chunk's first sample.
    times
        The times at which the run stops. The noise does not depend on them; they tell how many calls can be drawn ahead.

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

    __repr__ = show_call

    @check_arguments
    def __init__(self, seed: int, first: int = 0, times: Tensor | None = None) -> None:
        self.seed, self.first = seed, check_count("first", first, at_least=0)
        self.calls, self._steps = 0, 0 if times is None else len(times) - 1
        self._seeds = BlockSeeds(seed)
        self._generator = torch.Generator()
        self._ahead: list[Tensor] = []  # noise of the next calls, the last first

    def __call__(self, like: Tensor) -> Tensor:
        """Return noise of the shape ``(B, *)``, dtype and device of `like`."""
        z = self._ahead.pop() if self._ahead else None
        if z is None or z.shape != like.shape or z.dtype != like.dtype or z.device != like.device:
            self._ahead = self._draw_ahead(like)[::-1]
            z = self._ahead.pop()
        self.calls += 1
        return z

    def _draw_ahead(self, like: Tensor) -> list[Tensor]:
        """Draw the noise of this call and, up to `AHEAD` numbers in all, of the steps that the run has left."""
        drawn: list[Tensor] = []
        wanted = min(self._steps - self.calls, AHEAD // max(1, like.numel()))
        while not drawn or len(drawn) < wanted:
            drawn += self.draw(self.calls + len(drawn), 1, like).unbind()
        return drawn

    def draw(self, call: int, m: int, like: Tensor) -> Tensor:
        """Draw the noise of `m` calls, starting with the call of the given number, ``(m or more, B, *)``.

        `together` has to be the same for all these calls.
        """
        width = together(numbers_in(like), call)
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


def numbers_in(like: Tensor) -> int:
    """Count the numbers in one sample, and return the count."""
    shape = like.shape
    if not shape or not like.is_floating_point():
        raise ValueError(f"like has shape {tuple(shape)} and dtype {like.dtype}; give floating-point states (B, *).")
    return max(1, shape[1:].numel())


def together(d: int, call: int) -> int:
    """Return the number of calls whose noise is drawn at once with that of this call, a power of two.

    It is at most half the number of calls before, so that short runs draw little in vain, whatever the size of the batch.
    """
    return power_of_two(min(TOGETHER, _ROW // d, call // 2))


def power_of_two(x: int) -> int:
    """Return the largest power of two up to `x`, and at least 1."""
    return 1 << max(0, x.bit_length() - 1)


class Layout(NamedTuple):
    """The positions of a chunk's noise in the random numbers of one draw.

    Attributes
    ----------
    k, block
        The chunk's first block, and the number of numbers in a block.
    end
        The number of numbers to be drawn, from the start of the first block to the end of the chunk.
    rows
        Sizes ``(calls, rows, numbers)``, strides and offset of the rows that the chunk is in; None for a single call.
    strides, offset
        Strides and offset of the noise ``(calls, B, *)`` in these rows, with the calls first.
    """

    k: int
    block: int
    end: int
    rows: tuple[tuple[int, ...], tuple[int, ...], int] | None
    strides: tuple[int, ...]
    offset: int


@lru_cache(256)
def layout(shape: torch.Size, first: int, width: int) -> Layout:
    """Lay out a chunk ``(B, *)`` from the place `first` on, in draws of `width` calls.

    A block is a list of rows; a row is the first call of a few samples, their second call, and so on. The samples are few,
    because all numbers of a row are drawn even if one sample is asked for. There are several, because it is slow to gather two
    numbers here and two there.
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
    """Tell how many samples of `d` numbers make a block: about `NUMBERS` numbers, and a multiple of the 16 filled at a
    time.
    """
    whole = _LANES // math.gcd(d, _LANES)
    return whole * max(1, NUMBERS // (whole * d))


class BlockSeeds:
    """The 32-bit seeds of torch's generator, one for every block of samples and every call.

    The index ``block + B call mod 2³²`` with `B` the golden part of 2³² is one-to-one over a run: two calls share one
    only where ``|Δ block| |Δ call| > 2³² / √5``. It is scattered by a permutation of the 32-bit numbers, keyed by the seed.
    """

    def __init__(self, seed: int) -> None:
        key = scramble(seed)
        self.first, self.second = key & _32, key >> 32

    def __call__(self, block: int, call: int) -> int:
        """Return the seed of a block's draw at a call."""
        x = (block + 2654435769 * call ^ self.first) & _32
        x = ((x ^ x >> 16) * 2146121005 & _32) ^ self.second
        x = (x ^ x >> 15) * 2221713035 & _32
        return x ^ x >> 16


def scramble(x: int) -> int:
    """Scramble a whole number into 64 random-looking bits (the finaliser of splitmix64; G. Steele et al., 2014)."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def as_seed(seed: int | None, generator: torch.Generator | None) -> int:
    """Return the seed of a run: one draw from the generator, from a fresh one of the given seed, or from torch's own.

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


def _check_room(n: int, d: int) -> None:
    """Refuse more draws than memory has room for, before the first is made.

    Raises
    ------
    MemoryError
        If there is no room for `n` draws of `d` numbers.
    """
    try:
        torch.empty(n, d, dtype=torch.float64, device="cpu")
    except RuntimeError:
        raise MemoryError(
            f"n = {n} samples of {d} numbers do not fit into memory; draw fewer at a time, each time with another seed."
        ) from None


def draw(law: Any, n: int, seed: int, d: int, first: int = 0) -> Tensor:
    """Draw `n` samples of a distribution so that each depends on the seed and its index alone: in whole blocks with a
    generator each.

    Parameters
    ----------
    law
        Anything with ``sample(n, generator)``.
    n
        The number of samples.
    seed
        The seed of the run; these draws are independent of the run's `SampleNoise`.
    d
        The number of numbers in a draw.
    first
        The place of the first sample in the run.
    """
    _check_room(n, d)
    seeds, size = BlockSeeds(scramble(seed)), max(16, NUMBERS // d)
    begin = first // size
    blocks = [
        ask_draws(law, size, torch.Generator().manual_seed(seeds(k, 0)))  # drawn whole, or it would depend on n
        for k in range(begin, -(-(first + n) // size))
    ]
    return torch.cat(blocks)[first - begin * size :][:n]
