"""Choice of the number of CPU threads in training: one or torch's default, by timing the first steps with each.

On a machine that is busy with something else, threads wait for each other at every operation, and several are slower than one.
"""

from __future__ import annotations

__all__ = ["Threads"]

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

_FIRST = 2  # steps that are not timed, since they set up what later steps use
_ROUNDS = 3  # timed steps of each number, at least
_ENOUGH = 0.1  # seconds of timed steps, after which the sums differ by more than their noise
_MOST = 20  # timed steps of each number, at most: if steps are shorter, the difference does not matter
_GAIN = 0.9  # of the time with one thread: several threads must take less, since they use other cores too


class Threads:
    """A chooser of the number of CPU threads: the first steps of a run are timed with one thread and with all.

    A timed step is a step of the run like any other: timing draws no random number and changes no weight. Rounding in torch may
    depend on the number of threads, so two runs are equal to the last bit only if their numbers of threads are.

    Parameters
    ----------
    device
        The model's device. An accelerator leaves the number as it is.
    number
        The number, if it is known; then nothing is timed.

    Attributes
    ----------
    number
        The number that was given or found; None before it is found.
    """

    def __init__(self, device: torch.device, number: int | None = None) -> None:
        self.several = torch.get_num_threads()
        alone = device.type != "cpu" or self.several == 1
        self.number = self.several if number is None and alone else number
        self.first = _FIRST
        self.times: dict[int, list[float]] = {1: [], self.several: []}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Give torch the chosen number of threads within a ``with`` block, and restore the former number afterwards."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.number or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def timed(self) -> AbstractContextManager[None]:
        """Take one step of the run, within a ``with`` block, with the next candidate, and time it."""
        if self.first:
            self.first -= 1
            return nullcontext()
        return self._trial()

    @contextmanager
    def _trial(self) -> Iterator[None]:
        """Take one step with the next candidate, time it, and choose the number once enough steps were timed."""
        one, several = self.times[1], self.times[self.several]
        tried = 1 if len(one) < len(several) else self.several
        torch.set_num_threads(tried)
        began = time.perf_counter()
        yield
        self.times[tried].append(time.perf_counter() - began)
        if len(one) == len(several) >= _ROUNDS and (sum(one) + sum(several) > _ENOUGH or len(one) == _MOST):
            self.number = self.several if sum(several) < _GAIN * sum(one) else 1
            torch.set_num_threads(self.number)
