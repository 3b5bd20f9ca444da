"""A context that sets and restores the generators of torch, NumPy and Python, from which the user's code draws: `seeded`."""

from __future__ import annotations

__all__ = ["seeded", "set_seeds", "state_of_generators"]

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Set the generators of torch, NumPy and Python from the given one within a ``with`` block, and restore them afterwards.

    Without a generator nothing is done.

    Parameters
    ----------
    generator
        One number is drawn from it, as a seed.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
    others = random.getstate(), np.random.get_state()  # noqa: NPY002 (a user's own code draws from it)
    try:
        cuda = torch.cuda.is_initialized()
        with torch.random.fork_rng(range(torch.cuda.device_count()) if cuda else []):
            set_seeds(seed)
            yield
    finally:
        random.setstate(others[0])
        np.random.set_state(others[1])  # noqa: NPY002


def set_seeds(seed: int) -> None:
    """Set the generators of torch, NumPy and Python."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def state_of_generators() -> tuple[Any, ...]:
    """Return the states of the generators of torch on the CPU, NumPy and Python, to be compared."""
    numbers = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), numbers["key"].tobytes(), numbers["pos"], random.getstate()
