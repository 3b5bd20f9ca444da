"""A stack of bits by asymmetric numeral systems, a method of entropy coding: a number that is pushed under a law adds ``−log2``
of its probability in bits, and a number that is popped under a law off random bits is a draw from the law.

J. Duda, *Asymmetric numeral systems: entropy coding combining speed of Huffman coding with compression rate of arithmetic
coding*, 2013, arXiv:1311.2540. The arithmetic is that of the package constriction, of R. Bamler (2022, arXiv:2201.01741).
"""

from __future__ import annotations

__all__ = ["BitStack"]

from typing import Any

import numpy as np

WINDOW = 16.0  # standard deviations from the mean; what is beyond costs a few bytes, and is hardly ever met
WORD = 32  # bits


class BitStack:
    """A stack of bits, on which integers are coded under normal laws that are cut into cells of length one.

    Parameters
    ----------
    words
        The words that the stack begins with, uint32.
    raw
        Whether these are any bits, such as random ones, and not what the method `words` has returned.

    Attributes
    ----------
    lowest
        The least height so far: the words below this height have not been touched.

    Raises
    ------
    ImportError
        If constriction is not installed.
    """

    def __init__(self, words: np.ndarray, raw: bool = False) -> None:
        try:
            import constriction
        except ImportError as error:
            raise ImportError(
                "a Codec codes by the package constriction, which is missing: pip install sdegen[codec]."
            ) from error
        self._laws: Any = constriction.stream.model
        self._of: Any = constriction.stream.stack.AnsCoder
        self._coder: Any = self._of(words, seal=raw)
        self.lowest = self.height

    @property
    def height(self) -> int:
        """The number of words on the stack."""
        return int(self._coder.num_words())

    def words(self) -> np.ndarray:
        """Return all words of the stack, uint32."""
        found: np.ndarray = self._coder.get_compressed()
        return found

    def scramble(self, seed: tuple[int, ...], n: int) -> None:
        """Scramble `n` words by flipping random bits, below the two words that the coder works on; the same seed restores them.

        What comes off the stack next is random then, whatever was pushed before.
        """
        words = self.words()
        top = words[max(0, len(words) - 2 - n) : len(words) - 2]
        top ^= np.random.default_rng(seed).integers(0, 2**WORD, len(top), dtype=np.uint32)
        self._coder = self._of(words, seal=False)
        self.lowest = min(self.lowest, len(words) - n)

    def push(self, symbols: np.ndarray, mean: np.ndarray, std: np.ndarray, limit: int) -> None:
        """Write integers from ``−limit`` to `limit` under normal laws, each ``(n,)`` in units of a cell.

        Of an integer more than `WINDOW` standard deviations from the mean only the side is written under its normal law; a
        uniform law then writes how far beyond it is.
        """
        base, window, law = self._window(mean, std, limit)
        gap = np.clip(symbols - base, -window, window)
        far, room = self._beyond(base, gap, window, limit)
        if far.any():
            more = np.abs(symbols - base)[far] - window
            self._coder.encode_reverse(more.astype(np.int32), self._laws.Uniform(), room)
        self._coder.encode_reverse(gap.astype(np.int32), law, mean - base, std)

    def pop(self, mean: np.ndarray, std: np.ndarray, limit: int) -> np.ndarray:
        """Return integers off the stack, ``(n,)`` int64: the inverse of `push`."""
        base, window, law = self._window(mean, std, limit)
        gap = self._coder.decode(law, mean - base, std).astype(np.int64)
        far, room = self._beyond(base, gap, window, limit)
        if far.any():
            gap[far] += np.sign(gap[far]) * self._coder.decode(self._laws.Uniform(), room)
        self.lowest = min(self.lowest, self.height)
        found: np.ndarray = base + gap
        return found

    def push_bytes(self, symbols: np.ndarray, mean: np.ndarray, std: np.ndarray, levels: int) -> None:
        """Write integers from 0 to ``levels − 1`` under normal laws, whose tails belong to the outermost of them."""
        self._coder.encode_reverse(symbols.astype(np.int32), self._laws.QuantizedGaussian(0, levels - 1), mean, std)

    def pop_bytes(self, mean: np.ndarray, std: np.ndarray, levels: int) -> np.ndarray:
        """Return integers off the stack, ``(n,)`` int64: the inverse of `push_bytes`."""
        found: np.ndarray = self._coder.decode(self._laws.QuantizedGaussian(0, levels - 1), mean, std)
        return found.astype(np.int64)

    def _window(self, mean: np.ndarray, std: np.ndarray, limit: int) -> tuple[np.ndarray, int, Any]:
        """Return the integers next to the means, how far from them integers are coded by the law, and that law.

        A narrow window leaves little probability to integers that the law itself gives next to none.
        """
        base = np.rint(np.clip(mean, -limit, limit)).astype(np.int64)
        window = int(np.ceil(WINDOW * std.max()))
        return base, window, self._laws.QuantizedGaussian(-window, window)

    @staticmethod
    def _beyond(base: np.ndarray, gap: np.ndarray, window: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return which integers are at the edge of the window or beyond, and how many there are from the edge to the limit."""
        far = np.abs(gap) == window
        room = limit - window + 1 - (np.sign(gap) * base)[far]
        return far, np.maximum(room, 2).astype(np.int32)
