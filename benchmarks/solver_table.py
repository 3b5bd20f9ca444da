"""The solver table: error of the probability flow per network evaluation, ours beside the peers', in one run.

    python -m benchmarks.solver_table            # pip install ".[peers]" first, or the peers' rows stay empty
    python -m benchmarks.solver_table --quick

A row is a target under a process and what is said of it, a column a number of evaluations of the network. Exact scores, one set
of starting states, distance of the end points from an adaptive solution of the same equation at tolerance 1e-9 (1e-11 where
orders are observed). The peers run in their own code on three grids each, and every cell is the best of them, chosen with
hindsight; ours is the default of `sdegen.sample`, untouched, and what `samplers.fit_solver` makes of paths from other starts.
Root-mean-square on the ring; in 8 and 64 dimensions, where single paths that end in another mode set the root-mean-square, the
median too. "best peer is" names the peer and grid that were best most often, and of how many mixtures where not of all.

A second block observes orders of convergence, a third the law of stochastic samplers, on their samples, a fourth times and
judges a trained network.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from benchmarks import command, peers
from benchmarks.rows import Values
from benchmarks.sampler_laws import law_block
from benchmarks.solver_laws import orders_block, trained_block
from benchmarks.solver_problems import GRIDS, PROCESSES, TARGETS, Problem, run
from benchmarks.tables import Table, combine
from sdegen import grids, samplers

EVALUATIONS = (5, 6, 8, 10, 15, 20, 30, 50)
FITTED = (5, 6, 8, 10, 15, 20)
OURS: dict[str, Callable[[float], grids.Grid]] = {"share": lambda end: grids.Angle(end=end)}  # which no peer has


def default(problem: Problem, n: int) -> samplers.Sampler:
    """Return the default sampler, told where to stop."""
    sampler = samplers.default(problem.model, n)
    assert sampler.grid is not None
    sampler.grid.end = problem.end
    return sampler


def compare(process: str, target: str, evaluations: tuple[int, ...], seed: int) -> Values:
    """Return errors of our default and of the best peer and grid, at every number of evaluations."""
    problem = Problem(process, target, seed)
    which = 0 if target == "ring" else 1
    cells: Values = {}
    for n in evaluations:
        mine = problem.errors(run(problem, default(problem, n)))
        cells |= {f"ours {n}": [mine[which], None], f"ours rms {n}": [mine[0], None]}
        for key, choices in (("peer", GRIDS), ("peer with ours", OURS)):
            found = best_peer(problem, n, choices, which)
            if found is not None:
                error, name, rms = found
                cells |= {f"{key} {n}": [error, None], f"{key} rms {n}": [rms, None], f"{key} by {n}": name}
                cells[f"{key} ratio {n}"] = [mine[which] / error, None]
    return cells


def best_peer(
    problem: Problem, n: int, choices: dict[str, Callable[[float], grids.Grid]], which: int
) -> tuple[float, str, float] | None:
    """Return the least error of any peer on any of the grids, the name of that peer, and the least root-mean-square error."""
    found = []
    for name, peer in peers.deterministic().items():
        for label, make in choices.items():
            if n // peer.cost < 2:
                continue
            try:
                errors = problem.errors(problem.by_peer(peer, make(problem.end), n))
            except (ValueError, IndexError, RuntimeError):
                continue  # a peer that cannot run on this grid
            if math.isfinite(errors[which]):
                found.append((errors[which], f"{name}, {label}", errors[0]))
    return (*min(found)[:2], min(v[2] for v in found)) if found else None


def fitted(process: str, target: str, evaluations: tuple[int, ...], seed: int) -> Values:
    """Return errors of fitted solvers, and the seconds their fitting took."""
    problem = Problem(process, target, seed)
    cells: Values = {}
    for n in evaluations:
        began = time.perf_counter()
        solver = samplers.fit_solver(problem.model, steps=n, seed=seed, final="sample", end=problem.end, progress=False)
        seconds = time.perf_counter() - began
        rms, median = problem.errors(run(problem, solver))
        cells |= {f"fitted {n}": [rms if target == "ring" else median, None], f"fitted rms {n}": [rms, None]}
        cells[f"seconds {n}"] = [seconds, None]
    return cells


ROWS = {
    "default": "ours",
    "fitted": "fitted",
    "best peer": "peer",
    "default / best peer": "peer ratio",
    "fitted / best peer": "fitted ratio",
    "default / best peer on our grid": "peer with ours ratio",
    "default, rms": "ours rms",
    "fitted, rms": "fitted rms",
    "best peer, rms": "peer rms",
    "seconds of fitting": "seconds",
    "best peer is": "peer by",
}


def measured(table: Table, process: str, target: str, evaluations: tuple[int, ...]) -> Values:
    """Return every error of a target under a process, the mean over its mixtures."""
    name = f"{process}, {target}"
    some = tuple(n for n in evaluations if n in FITTED)
    once = target == "ring"  # the ring is the same for all seeds
    compared = table.each("solver", name, partial(compare, process, target, evaluations), once=once)
    seeds = 3 if target == "d = 64" else None  # fewer where fitting takes long
    fits = table.each("fitted", f"{name}: fitted", partial(fitted, process, target, some), seeds, once)
    both = []
    for seed in dict.fromkeys([*compared, *fits]):
        cells = compared.get(seed, {}) | fits.get(seed, {})
        for n in some:
            if f"peer {n}" in cells and f"fitted {n}" in cells:
                cells[f"fitted ratio {n}"] = [cells[f"fitted {n}"][0] / cells[f"peer {n}"][0], None]
        both.append(cells)
    return combine(both)


def errors(table: Table) -> dict[str, Values]:
    """Return the rows of every process and target."""
    rows: dict[str, Values] = {}
    for process in PROCESSES:
        for target in TARGETS:
            found = measured(table, process, target, evaluations(table))
            for label, key in ROWS.items():
                if not (target == "ring" and label.endswith("rms")):
                    cells = {str(n): found.get(f"{key} {n}") for n in evaluations(table)}
                    rows[f"{process}, {target}: {label}"] = cells
    return rows


def evaluations(table: Table) -> tuple[int, ...]:
    """Return the numbers of evaluations that are compared."""
    return (5, 10, 20) if table.quick else EVALUATIONS


def errors_block(table: Table) -> str:
    """Return errors per evaluation."""
    return table.write("solver", {str(n): 4 for n in evaluations(table)}, errors(table))


def picture(table: Table) -> None:
    """Draw error against evaluations, one panel for every process and target."""
    rows, counts = errors(table), evaluations(table)
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(len(PROCESSES), len(TARGETS), sharex=True)
    lines = {"best peer": "tab:gray", "default": "tab:blue", "fitted": "tab:orange"}
    for i, process in enumerate(PROCESSES):
        for j, target in enumerate(TARGETS):
            ax = axes[i, j]
            for label, color in lines.items():
                cells = rows[f"{process}, {target}: {label}"]
                points = [(n, cells[str(n)][0]) for n in counts if cells[str(n)] is not None]
                if points:
                    ax.loglog(*zip(*points, strict=True), "o-", color=color, label=label, ms=4)
            ax.set_title(f"{process}, {target}: {'rms' if target == 'ring' else 'median'}", fontsize=10)
            ax.set_xticks(counts, [str(n) for n in counts])
            ax.minorticks_off()
            ax.grid(alpha=0.3)
    axes[-1, 1].set_xlabel("evaluations of the network")
    axes[0, 0].set_ylabel("distance from the solution")
    axes[0, 0].legend(frameon=False)
    figure.savefig(table.out / "solver.png", dpi=120)


def main() -> None:
    """Print the tables."""
    blocks = [errors_block, orders_block, law_block, trained_block]
    command.run("solver_table", __doc__, blocks, seeds=5, picture=picture, networks=True)
    if missing := peers.name_missing():
        print(
            f"{', '.join(missing)} not installed: best peers of rows computed here are the best of the others",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
