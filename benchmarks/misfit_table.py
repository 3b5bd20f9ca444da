"""The test of samples against what was measured: how often it tells of right samples, and of wrong ones by the size of the error.

    python -m benchmarks.misfit_table --threads 1          # two minutes of one core
    python -m benchmarks.misfit_table --quick

A row is a kind of measurement of a mixture: a quarter of the dimensions with Gaussian noise, or one of those of the table of
posteriors that are not linear. Of each of 50 measurements a seed, 64 samples are looked at by `guidance.find_misfit`. A column
is the share of measurements whose samples it finds wrong or too narrow:

- ``right``: of samples of the exact posterior, where every finding is a false alarm;
- ``off by r``: of the same samples, moved by `r` standard deviations of the noise in every number that is measured;
- ``unmeasured``: of samples of the data, drawn without the measurement;
- ``r left``: of the same samples, moved towards what was measured until the share `r` of each residual is left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import command
from benchmarks.posterior_problems import NONLINEAR, Problem, linear
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import guidance, measurements
from sdegen.metrics.estimate import share_error

SAMPLES = 64
MOVED = (0.5, 1.0, 2.0, 4.0)
LEFT = (0.5, 0.2)
COLUMNS = {
    "right": 3, **{f"off by {r:g}": 2 for r in MOVED}, "unmeasured": 2, **{f"{s:g} left": 2 for s in LEFT}, "seeds": 0,
}  # fmt: skip
WIDE = [(dim, noise) for dim in (2, 8, 32, 128) for noise in (0.05, 0.5)]


def samples_by_error(problem: Problem, seed: int) -> dict[str, Tensor]:
    """Return samples of the exact posterior, and others by what is wrong with them."""
    draws, measurement = torch.Generator().manual_seed(seed), problem.measurement
    x = problem.truth.sample(SAMPLES, draws)
    found = {"right": x, "unmeasured": problem.law.sample(SAMPLES, draws)}
    if isinstance(measurement, measurements.Linear):
        # Takes a change of what is measured to the least change of the data.
        back = torch.linalg.pinv(measurement.A.double()).T
        residuals = (problem.y - measurement.measure(x)) @ back
        found |= {f"off by {r:g}": x + r * measurement.std * back.sum(0) for r in MOVED}
        found |= {f"{share:g} left": x + (1 - share) * residuals for share in LEFT}
    return found


def compute(find: Callable[[int], Problem], count: int, seed: int) -> Values:
    """Return the shares of measurements in which samples are found wrong, or too narrow, by what is wrong with them."""
    told: dict[str, list[bool]] = {}
    for number in range(count * seed, count * (seed + 1)):
        problem = find(number)
        for name, x in samples_by_error(problem, number).items():
            misfit = guidance.find_misfit(problem.measurement, problem.y, x)
            told.setdefault(name, []).append(misfit.wrong or misfit.narrow)
    return {name: [sum(found) / count, share_error(sum(found), count)] for name, found in told.items()}


def misfit_block(table: Table) -> str:
    """Return the rows of every measurement."""
    count = 10 if table.quick else 50
    cases: dict[str, Callable[[int], Problem]] = {
        f"{dim} dimensions, {max(1, dim // 4)} measured, noise {noise:g}": partial(linear, dim, noise)
        for dim, noise in (WIDE[:2] if table.quick else WIDE)
    }
    if not table.quick:
        cases |= NONLINEAR
    rows = {name: table.row("misfit", name, partial(compute, find, count)) for name, find in cases.items()}
    return table.write("misfit", COLUMNS, rows)


def main() -> None:
    """Print the table."""
    command.run("misfit_table", __doc__, [misfit_block], seeds=2)


if __name__ == "__main__":
    main()
