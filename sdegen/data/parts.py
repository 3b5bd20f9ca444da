"""Rows shared out in neighbouring parts."""

from __future__ import annotations

__all__ = ["part_of", "split"]


def split(n: int, parts: int) -> list[slice]:
    """Split `n` rows into neighbouring slices, as equal as can be.

    >>> split(5, 2)
    [slice(0, 2, None), slice(2, 5, None)]
    """
    return [part_of(n, parts, i) for i in range(parts)]


def part_of(n: int, parts: int, i: int) -> slice:
    """Return the `i`-th of the slices of `split`, without the others."""
    return slice(n * i // parts, n * (i + 1) // parts)
