"""What a training of hours says of itself while it runs: where it begins or goes on, and how far it has come."""

from __future__ import annotations

import sys
from typing import Any

EVERY = 500  # steps between two lines


class Told:
    """A callback of `sdegen.fit` that prints a line at its first step, and at every `every`-th.

    Parameters
    ----------
    name
        What is trained.
    steps
        How many the whole training has.
    every
        Steps between two lines.
    """

    def __init__(self, name: str, steps: int, every: int = EVERY) -> None:
        self.name, self.steps, self.every, self.begun = name, steps, every, False

    def __call__(self, step: Any) -> None:
        """Print a line where it is time."""
        if not self.begun or step.step % self.every == 0:
            print(
                f"{self.name}: step {step.step:,} of {self.steps:,}, {step.seconds:.0f} s", file=sys.stderr, flush=True
            )
        self.begun = True
