"""The default on families of targets that nothing was tuned on: its error over that of the best peer, and of the best grid.

    python -m benchmarks.drawn_table            # refused without all of the peers (benchmarks/peers.py says how)
    python -m benchmarks.drawn_table --quick

A row is a family of targets under a process, a column a number of evaluations of the network.
Exact scores of `drawn_targets`, VP and EDM, 64 paths and their ends by 240 steps of the fourth order. Every cell is a ratio, the
default's error over that of the best peer on the best of its grids, chosen with hindsight for this very target and number of
evaluations; below one the default is ahead. Root-mean-square with single distances cut at ten medians, and median. A second block
holds the default's grid against ten others of the family `Angle`, the best chosen with hindsight, all else as in the default.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

import sdegen
from benchmarks import command, peers
from benchmarks.drawn_targets import DRAWN, draw
from benchmarks.rows import Values
from benchmarks.solver_problems import GRIDS, PROCESSES, Problem, run
from benchmarks.tables import Table
from sdegen import grids, samplers
from sdegen.samplers.trials import level

EVALUATIONS = (5, 6, 8, 10, 20, 50)
PATHS = 64
FIRST = 3  # first odd seed that nothing was chosen on and no earlier table has shown
CUT = 10  # medians at which a single distance is cut
PEERS = (  # the solver table's other peers equal one of these to rounding, or were best nowhere
    "diffusers dpmsolver 2M midpoint", "diffusers dpmsolver 3M heun", "diffusers DEIS-2", "diffusers DEIS-3",
    "diffusers UniPC-1 bh1", "diffusers UniPC-2 bh1", "diffusers UniPC-2 bh2", "diffusers UniPC-3 bh1",
    "diffusers dpmsolver++ 3M heun", "azula zEAB-4", "azula vAB-2", "azula vAB-3", "azula xEAB-4", "k-diffusion dpmpp_2m",
    "k-diffusion lms", "k-diffusion euler",
)  # fmt: skip
SHAPES = [(scale, power) for scale in (0.25, 0.5, 0.7, 1.0, 1.5) for power in (0.5, 0.75)]


class Drawn(Problem):
    """A target of a family under a process."""

    def __init__(self, process: str, family: str, seed: int) -> None:
        make, self.end = PROCESSES[process]
        self.sde, self.law = make(), draw(family, seed)
        self.model = sdegen.Exact(self.sde, self.law)
        self.model.end = self.end
        at = self.sde.marginal(torch.tensor([self.sde.T, self.end], dtype=torch.float64))
        self.R_T, self.r = at.R.c[0], at.r.c
        self.x_T = self.start(PATHS, 100 + seed)
        grid = grids.Angle(end=self.end, scale=level(self.law.moments()), power=0.5)
        self.solution = run(self, samplers.Multistep(240, grid, 3, clock=samplers.share, corrector=True))

    def errors(self, x: Tensor) -> tuple[float, float]:
        """Return the root-mean-square distance from the solution, single distances cut at ten medians, and the median
        distance.
        """
        distance = (x - self.solution).norm(dim=1)
        median = distance.median()
        return distance.minimum(CUT * median).square().mean().sqrt().item(), median.item()


def compare(process: str, family: str, evaluations: tuple[int, ...], seed: int) -> Values:
    """Return ratios of the default's errors to the best peer's and to the best grid's, of a target that was not looked at
    before.
    """
    problem = Drawn(process, family, 2 * seed + FIRST)
    cells: Values = {}
    for n in evaluations:
        sampler = samplers.default(problem.model, n)
        mine = problem.errors(run(problem, sampler))
        for key, found in (("peer", by_peers(problem, n)), ("grid", on_grids(problem, sampler))):
            for i, what in enumerate(("rms", "median")):
                cells[f"{key} {what} {n}"] = [mine[i] / min(v[i] for v in found), None]
    return cells


def by_peers(problem: Drawn, n: int) -> list[tuple[float, float]]:
    """Return errors of every peer on every grid, but for runs that ended in no finite state.

    Raises
    ------
    ImportError
        If a peer is not installed: the best of the others is another measure, by which the default would look better.
    """
    found = []
    for name in PEERS:
        peer = peers.deterministic().get(name)
        if peer is None:
            raise ImportError(
                f"{name} is not installed, and the table compares with the best of all peers; pip install -c constraints.txt "
                '".[peers]", then pip install -c constraints.txt --no-deps k-diffusion.'
            )
        for label, make in GRIDS.items():
            if label == "uniform" and n >= 20:  # where the uniform grid is far behind
                continue
            errors = problem.errors(problem.by_peer(peer, make(problem.end), n))
            if math.isfinite(errors[0]):
                found.append(errors)
    return found


def on_grids(problem: Drawn, sampler: samplers.Sampler) -> list[tuple[float, float]]:
    """Return errors of the default's method on other grids, and on its own."""
    assert isinstance(sampler, samplers.Multistep)
    found = [problem.errors(run(problem, sampler))]
    for scale, power in SHAPES:
        grid = grids.Angle(end=problem.end, scale=scale * level(problem.law.moments()), power=power)
        other = samplers.Multistep(
            sampler.steps, grid, sampler.order, sampler.reference, samplers.share, sampler.corrector
        )
        found.append(problem.errors(run(problem, other)))
    return found


def ratios_block(key: str, table: Table) -> str:
    """Return ratios per evaluation, of every process and family."""
    some = (6, 10) if table.quick else EVALUATIONS
    rows: dict[str, Values] = {}
    for process in PROCESSES:
        for family in DRAWN:
            name = f"{process}, {family}"
            found = table.row("drawn", name, partial(compare, process, family, some))
            for what in ("rms", "median"):
                rows[f"{name}: {what}"] = {str(n): found.get(f"{key} {what} {n}") for n in some}
    return table.write(f"drawn_{key}", {str(n): 2 for n in some}, rows)


def main() -> None:
    """Print the tables."""
    command.run("drawn_table", __doc__, [partial(ratios_block, "peer"), partial(ratios_block, "grid")], seeds=6)


if __name__ == "__main__":
    main()
