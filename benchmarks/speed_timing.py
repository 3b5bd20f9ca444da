"""Clocks of the tables of speed: of one call, and of several contestants in turns, with medians and their errors."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.speed_contestants import Run


def seconds(call: Callable[[], Any], device: str = "cpu") -> tuple[float, Any]:
    """Return how long a call takes, and what it returns; one thread of a CPU is timed by what it has of the processor, whoever
    else wants it.
    """
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    collecting = gc.isenabled()
    gc.disable()  # otherwise chance decides which contestant is charged for the others' rubbish
    try:
        began = clock()
        result = call()
        return clock() - began, result
    finally:
        if collecting:
            gc.enable()


def median(values: list[float]) -> list[float]:
    """Return the median, and its standard error from the interquartile range, as for a normal law."""
    v = torch.tensor(values, dtype=torch.float64)
    spread = (v.quantile(0.75) - v.quantile(0.25)).item() / 1.349
    return [v.median().item(), 1.2533 * spread / len(v) ** 0.5]


def in_turns(found: dict[str, Callable[[], Run]], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of every set-up and of every run, in each round."""
    setups: dict[str, list[float]] = {name: [] for name in found}
    runs: dict[str, list[float]] = {name: [] for name in found}
    with torch.no_grad():
        for turn in range(rounds + 1):
            for name, set_up in found.items():
                set_up()()  # fills the caches, which hold the last contestant's data
                taken, run = seconds(set_up)
                ran, _ = seconds(run)
                if turn:  # the first round warms up
                    setups[name].append(taken)
                    runs[name].append(ran)
    return setups, runs


def each(values: list[float], steps: int) -> list[float]:
    """Return the median of runs in microseconds a step."""
    return median([1e6 * v / steps for v in values])


def ratio(values: list[float], others: list[float]) -> list[float]:
    """Return the median of ratios of the same round."""
    return median([v / other for v, other in zip(values, others, strict=True)])
