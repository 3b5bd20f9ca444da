"""Steps taken together: the calls of a network that a run waits for, the states it is asked about, and what that costs on a CPU.

    python -m benchmarks.parallel_table --threads 1      # ten minutes of one core
    python -m benchmarks.parallel_table --threads 1 --quick

Runs of `sample(..., parallel=window)` beside the run in turn of the same seed: with the true score of the ring, eight samples
in float64, and with the shipped network of Fashion-MNIST, four images in float32. *Calls* are those that a run waits for one
after the other, the last move to clean data included; *states* are what the network is asked about for each sample;
*difference* is the largest of any number of the samples, which for the images lie in [−1, 1]. Times are processor time of one
thread, which has no use for larger calls, the shorter of two runs. With ``--device`` the network is asked there, and times are
those until its samples are there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.rows import Values
from benchmarks.speed_timing import seconds
from benchmarks.tables import Table
from sdegen.models import ScoreModel
from sdegen.samplers import Picard, Sampler

TIMES = 2  # runs of each, of which the shortest counts
COLUMNS = {"calls in turn": 0, "calls": 0, "states": 0, "difference": 1, "seconds in turn": 2, "seconds": 2}


Make = Callable[
    [str], tuple[ScoreModel, dict[str, Any]]
]  # from a device to a model there, and what is given to `sample`


class Case(NamedTuple):
    """A run: how the sampler is made for a model, and how its steps are taken together."""

    sampler: Callable[[ScoreModel], Sampler]
    window: int
    tolerance: float = 1e-6


def ddim(steps: int) -> Callable[[ScoreModel], Sampler]:
    """Return what makes DDIM of so many steps."""
    return lambda model: sdegen.samplers.DDIM(steps)


def ddpm(steps: int) -> Callable[[ScoreModel], Sampler]:
    """Return what makes ancestral sampling of so many steps."""
    return lambda model: sdegen.samplers.Ancestral(steps)


def usual(steps: int) -> Callable[[ScoreModel], Sampler]:
    """Return what makes the default sampler of so many steps."""
    return lambda model: sdegen.samplers.default(model, steps)


RING = {
    "DDIM, 1000 steps, window 1000": Case(ddim(1000), 1000),
    "DDIM, 1000 steps, window 100": Case(ddim(1000), 100),
    "DDPM, 1000 steps, window 1000": Case(ddpm(1000), 1000),
    "DDPM, 1000 steps, window 100": Case(ddpm(1000), 100),
    "default, 20 steps, window 20": Case(usual(20), 20),
}
IMAGES = {
    "DDIM, 200 steps, window 200": Case(ddim(200), 200),
    "DDIM, 200 steps, window 50": Case(ddim(200), 50),
    "DDIM, 200 steps, window 50, tolerance 0.001": Case(ddim(200), 50, 1e-3),
    "DDPM, 200 steps, window 50": Case(ddpm(200), 50),
    "default, 20 steps, window 20": Case(usual(20), 20),
}


def ring(device: str) -> tuple[ScoreModel, dict[str, Any]]:
    """Return the true score of the ring, and states to start from."""
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    x_T = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return model, {"x_T": x_T.to(device)}


def images(device: str) -> tuple[ScoreModel, dict[str, Any]]:
    """Return the shipped network of Fashion-MNIST, and classes to draw."""
    return sdegen.pretrained("fashion_mnist").to(device), {"n": 4, "label": torch.arange(4, device=device)}


def compare(problem: Make, case: Case, times: int, device: str, seed: int) -> Values:
    """Return the counts and the times of a run whose steps are taken together, beside the run in turn."""
    model, given = problem(device)
    sampler, picard = case.sampler(model), Picard(case.window, case.tolerance)
    draw = partial(sdegen.sample, model, sampler=sampler, seed=seed, progress=False, **given)
    in_turn, together = (time_shortest(partial(draw, parallel=way), times, device) for way in (None, picard))
    return {
        "calls in turn": [float(sampler.steps), None],
        "calls": [picard.rounds + 1.0, None],
        "states": [picard.evaluations / len(together[1]) + 1, None],
        "difference": [(in_turn[1] - together[1]).abs().max().item(), None],
        "seconds in turn": [in_turn[0], None],
        "seconds": [together[0], None],
    }


def time_shortest(draw: Callable[[], Tensor], times: int, device: str) -> tuple[float, Tensor]:
    """Return the least time of several runs, and the samples of the last, on the CPU."""
    found = [seconds(lambda: draw().cpu(), device) for _ in range(times)]
    return min(taken for taken, _ in found), found[-1][1]


def runs_block(name: str, problem: Make, cases: dict[str, Case], table: Table) -> str:
    """Return the rows of one model."""
    times = 1 if table.quick else TIMES
    rows = {
        label: table.row(name, label, partial(compare, problem, case, times, table.device), once=True)
        for label, case in cases.items()
    }
    return table.write(name, COLUMNS, rows)


def main() -> None:
    """Print the tables."""
    blocks = [partial(runs_block, "ring", ring, RING), partial(runs_block, "images", images, IMAGES)]
    command.run("parallel_table", __doc__, blocks, seeds=1, timed=True, networks=True)


if __name__ == "__main__":
    main()
