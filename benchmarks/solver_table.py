"""The solver table: error of the probability flow per network evaluation, ours beside the peers', in one run.

    python -m benchmarks.solver_table            # pip install "sdegen[peers]" first, or the peers' rows stay empty
    python -m benchmarks.solver_table --quick

Exact scores, one set of starting states, distance of the end points from an adaptive solution of the same equation at
tolerance 1e-9 (1e-11 where orders are observed). The peers run in their own code on three grids each, and every cell is the
best of them, chosen with hindsight; ours is the default of `sdegen.sample`, untouched, and what `samplers.fit_solver` makes of
paths from other starts. Root-mean-square on the ring; in 8 and 64 dimensions, where single paths that end in another mode set the
root-mean-square, the median too.
A second block observes orders of convergence, a third the law of stochastic samplers, on their samples, a fourth times and
judges a trained network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import peers
from benchmarks.rows import Values, arguments, combine, row, write
from sdegen import grids, metrics, samplers

EVALUATIONS = (5, 6, 8, 10, 15, 20, 30, 50)
FITTED = (5, 6, 8, 10, 15, 20)
PATHS = 256
STOCHASTIC = {"ring": (10, 20, 50, 100, 200), "d = 8": (10, 20, 50)}
POINTS = 10_000


TARGETS: dict[str, Callable[[int], sdegen.GaussianMixture]] = {
    "ring": lambda seed: sdegen.data.gaussian_ring(modes=8, radius=4.0, std=0.3),
    "d = 8": lambda seed: sdegen.data.random_mixture(8, seed=seed),
    "d = 64": lambda seed: sdegen.data.random_mixture(64, seed=seed),
}
PROCESSES: dict[str, tuple[Callable[[], Any], float]] = {"VP": (sdegen.VP, 1e-3), "EDM": (sdegen.EDM, 0.0)}


class Problem:
    """A target under a process: where its paths start, and where they end."""

    def __init__(self, process: str, target: str, seed: int, tolerance: float = 1e-9) -> None:
        make, self.end = PROCESSES[process]
        self.sde, self.law = make(), TARGETS[target](seed)
        self.model = sdegen.Exact(self.sde, self.law)
        at = self.sde.marginal(torch.tensor([self.sde.T, self.end], dtype=torch.float64))
        self.R_T = at.R.c[0]
        self.x_T = self.start(PATHS, 100 + seed)
        self.r = at.r.c  # alpha x_0 + sigma z, divided by it, is what the peers' solvers move
        flow = samplers.ProbabilityFlow(
            1, grids.Given(torch.tensor([self.sde.T, self.end], dtype=torch.float64)), rtol=tolerance, atol=tolerance
        )
        self.solution = sdegen.sample(self.model, x_T=self.x_T, sampler=flow, final="sample")

    def start(self, n: int, seed: int) -> Tensor:
        """States at T."""
        z = torch.randn(n, self.law.means.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return self.R_T * z

    def errors(self, x: Tensor) -> tuple[float, float]:
        """Root-mean-square and median distance from the solution."""
        distance = (x - self.solution).norm(dim=1)
        return distance.square().mean().sqrt().item(), distance.median().item()

    def by_peer(self, peer: peers.Peer, grid: grids.Grid, n: int, x_T: Tensor | None = None) -> Tensor:
        """Where a peer takes the paths with `n` evaluations on a grid."""
        ratios = self.sde.snr(grid(self.sde, n // peer.cost + 1)).rsqrt()
        return peer.solve(peers.Truth(self.law), (self.x_T if x_T is None else x_T) / self.r[0], ratios) * self.r[1]


GRIDS: dict[str, Callable[[float], grids.Grid]] = {
    "log-SNR": lambda end: grids.LogSNR(end=end),
    "Karras": lambda end: grids.Karras(end=end),
    "uniform": lambda end: grids.Uniform(end=end),
}
OURS: dict[str, Callable[[float], grids.Grid]] = {"share": lambda end: grids.Angle(end=end)}  # no peer has it


def default(problem: Problem, n: int) -> samplers.Sampler:
    """The default sampler, told where to stop."""
    sampler = samplers.default(problem.model, n)
    assert sampler.grid is not None
    sampler.grid.end = problem.end
    return sampler


def run(problem: Problem, sampler: samplers.Sampler) -> Tensor:
    """Where a sampler of ours takes the paths."""
    return sdegen.sample(problem.model, x_T=problem.x_T, sampler=sampler, final="sample", progress=False)


# --- first block: error per evaluation -------------------------------------------------------------------------------


def compare(process: str, target: str, evaluations: tuple[int, ...], seed: int) -> Values:
    """Errors of our default and of the best peer and grid, at every number of evaluations."""
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
    """The least error of any peer on any of the grids, whose it is, and the least root-mean-square."""
    found = []
    for name, peer in peers.deterministic().items():
        for label, make in choices.items():
            if n // peer.cost < 2:
                continue
            try:
                errors = problem.errors(problem.by_peer(peer, make(problem.end), n))
            except (ValueError, IndexError, RuntimeError):
                continue  # what a peer cannot do on a grid
            if math.isfinite(errors[which]):
                found.append((errors[which], f"{name}, {label}", errors[0]))
    return (*min(found)[:2], min(v[2] for v in found)) if found else None


def fitted(process: str, target: str, evaluations: tuple[int, ...], seed: int) -> Values:
    """Errors of fitted solvers, and the seconds their fitting took."""
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


def errors_block(args: Any) -> str:
    """Error per evaluation, and its figure."""
    evaluations = (5, 10, 20) if args.quick else EVALUATIONS
    table: dict[str, Values] = {}
    for process in PROCESSES:
        for target in TARGETS:
            seeds = args.seeds[:1] if target == "ring" else args.seeds
            name = f"{process}, {target}"
            both = []
            for seed in seeds:
                cells = row(args, "solver", name, seed, partial(compare, process, target, evaluations))
                some = tuple(n for n in evaluations if n in FITTED)
                cells = cells | row(args, "fitted", f"{name}: fitted", seed, partial(fitted, process, target, some))
                for n in some:
                    if f"peer {n}" in cells and f"fitted {n}" in cells:
                        cells[f"fitted ratio {n}"] = [cells[f"fitted {n}"][0] / cells[f"peer {n}"][0], None]
                both.append(cells)
            combined = combine(both)
            for label, key in ROWS.items():
                if target == "ring" and label.endswith("rms"):
                    continue
                table[f"{name}: {label}"] = {str(n): combined.get(f"{key} {n}") for n in evaluations}
    markdown = write(args, "solver", {str(n): 4 for n in evaluations}, table)
    figure(args, evaluations, table)
    return markdown


def figure(args: Any, evaluations: tuple[int, ...], table: dict[str, Values]) -> None:
    """Error against evaluations, one panel for every process and target."""
    if args.worker:
        return
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 5.6), layout="constrained")
    axes = picture.subplots(len(PROCESSES), len(TARGETS), sharex=True)
    lines = {"best peer": "tab:gray", "default": "tab:blue", "fitted": "tab:orange"}
    for i, process in enumerate(PROCESSES):
        for j, target in enumerate(TARGETS):
            ax = axes[i, j]
            for label, color in lines.items():
                cells = table[f"{process}, {target}: {label}"]
                points = [(n, cells[str(n)][0]) for n in evaluations if cells[str(n)] is not None]
                if points:
                    ax.loglog(*zip(*points, strict=True), "o-", color=color, label=label, ms=4)
            ax.set_title(f"{process}, {target}: {'rms' if target == 'ring' else 'median'}", fontsize=10)
            ax.set_xticks(evaluations, [str(n) for n in evaluations])
            ax.minorticks_off()
            ax.grid(alpha=0.3)
    axes[-1, 1].set_xlabel("evaluations of the network")
    axes[0, 0].set_ylabel("distance from the solution")
    axes[0, 0].legend(frameon=False)
    picture.savefig(args.out / "solver.png", dpi=120)


# --- second block: observed orders -----------------------------------------------------------------------------------

DOUBLED = (256, 512)


def ours_by_order() -> dict[str, tuple[float, Callable[[int], samplers.Sampler]]]:
    """Name, the order it should have, and the solver of some steps."""
    grid = grids.Angle(end=1e-3)
    found: dict[str, tuple[float, Callable[[int], samplers.Sampler]]] = {}
    for p in (1, 2, 3, 4):
        found[f"Multistep {p}"] = (p, partial(samplers.Multistep, grid=grid, order=p))
    for p in (1, 2, 3):
        found[f"Multistep {p}, corrected"] = (p + 1, partial(samplers.Multistep, grid=grid, order=p, corrector=True))
    for p in (2, 3):
        found[f"Singlestep {p}"] = (p, partial(samplers.Singlestep, grid=grid, order=p))
    return found | {"DDIM": (1, partial(samplers.DDIM, grid=grid)), "Heun": (2, partial(samplers.Heun, grid=grid))}


def order(name: str, seed: int) -> Values:
    """The observed order of a solver on the ring under VP, and its error at the larger number of steps."""
    problem = Problem("VP", "ring", seed, 1e-11)
    if name in ours_by_order():
        stated, make = ours_by_order()[name]
        coarse, fine = (problem.errors(run(problem, make(n)))[1] for n in DOUBLED)
    else:
        stated, peer = math.nan, peers.deterministic()[name]
        grid = grids.LogSNR(end=problem.end)
        coarse, fine = (problem.errors(problem.by_peer(peer, grid, n * peer.cost))[1] for n in DOUBLED)
    cells: Values = {"observed order": [math.log2(coarse / fine), None], "error": [fine, None]}
    return cells if math.isnan(stated) else cells | {"stated": [stated, None]}


def orders_block(args: Any) -> str:
    """Observed orders: medians of the distance at 256 and 512 steps."""
    names = [*ours_by_order(), *peers.deterministic()]
    table = {name: combine([row(args, "order", name, 0, partial(order, name))]) for name in names}
    return write(args, "order", {"stated": 0, "observed order": 2, "error": 9}, table)


# --- third block: the law of stochastic samplers ---------------------------------------------------------------------


def stochastic(n: int, end: float) -> dict[str, samplers.Sampler]:
    """Stochastic samplers of ours with `n` evaluations, each on a grid of its own kind."""
    grid = grids.LogSNR(end=end)
    return {
        "ExponentialSDE 1": samplers.ExponentialSDE(n, grid, order=1),
        "ExponentialSDE 2": samplers.ExponentialSDE(n, grid, order=2),
        "Ancestral": samplers.Ancestral(n, grid),
        "Euler–Maruyama": samplers.EulerMaruyama(n, grids.Quadratic(end=end)),
        "ReverseDiffusion": samplers.ReverseDiffusion(n, grids.Quadratic(end=end)),
        "Churn": samplers.Churn(n // 2, grids.Karras(end=end)),
    }


def law(target: str, name: str, steps: tuple[int, ...], seed: int) -> Values:
    """Distance of a sampler's samples from the law, with every number of evaluations; a peer's on the best of three grids."""
    problem = Problem("VP", target, seed)
    generator = torch.Generator().manual_seed(500 + seed)
    d = problem.law.means.shape[1]
    at = problem.sde.marginal(torch.tensor(problem.end, dtype=torch.float64))
    seen = at.Phi(problem.law.sample(POINTS, generator).double())
    true = seen + at.R(torch.randn(POINTS, d, dtype=torch.float64, generator=generator))
    cells: Values = {}
    for n in steps:
        torch.manual_seed(seed)
        x_T = problem.start(POINTS, seed)
        if name == "exact samples":
            x = at.Phi(problem.law.sample(POINTS, generator).double())
            samples = [x + at.R(torch.randn(POINTS, d, dtype=torch.float64, generator=generator))]
        elif name in peers.stochastic():
            samples = [problem.by_peer(peers.stochastic()[name], make(problem.end), n, x_T) for make in GRIDS.values()]
        else:
            sampler = stochastic(n, problem.end)[name]
            samples = [
                sdegen.sample(problem.model, x_T=x_T, sampler=sampler, seed=seed, final="sample", progress=False)
            ]
        found = []
        for x in samples:
            if x.isfinite().all():
                kl = metrics.knn_kl(true, x)
                w = metrics.sliced_wasserstein(x, true, generator=torch.Generator().manual_seed(seed))
                found.append((kl.value, list(kl), list(w)))
        if found:
            _, cells[f"k-NN KL {n}"], cells[f"sliced W2 {n}"] = min(found, key=lambda v: v[0])
    return cells


def law_block(args: Any) -> str:
    """The law of stochastic samplers on the ring and in 8 dimensions."""
    chosen = {"ring": (10, 50)} if args.quick else STOCHASTIC
    table: dict[str, Values] = {}
    for target, steps in chosen.items():
        for name in ("exact samples", *stochastic(2, 1e-3), *peers.stochastic()):
            full = f"{target}: {name}"
            table[full] = combine([row(args, "law", full, s, partial(law, target, name, steps)) for s in args.seeds])
    columns = {f"{what} {n}": 3 for what in ("k-NN KL", "sliced W2") for n in chosen["ring"]} | {"seeds": 0}
    return write(args, "law", columns, table)


# --- fourth block: a trained network ---------------------------------------------------------------------------------

LAPS = 15


def trained(steps: int, seed: int) -> Values:
    """Ten evaluations of the default against fifty of DDIM, of one trained model, timed in turns."""
    law = TARGETS["ring"](seed)
    torch.manual_seed(seed)
    model = sdegen.Model(sdegen.nets.MLP(2), sdegen.VP())
    sdegen.fit(model, law, steps=steps, seed=seed, progress=False)
    choices: dict[str, samplers.Sampler] = {"default": samplers.default(model, 10), "DDIM": samplers.DDIM(50)}
    x_T = sdegen.sample(model, 10_000, sampler=choices["DDIM"], seed=seed, final="sample", return_path=True)[0]
    seconds: dict[str, list[float]] = {name: [] for name in choices}
    cells: Values = {}
    for _ in range(LAPS):
        for name, sampler in choices.items():
            began = time.perf_counter()
            x = sdegen.sample(model, x_T=x_T, sampler=sampler, progress=False)
            seconds[name].append(time.perf_counter() - began)
            cells[f"samples {name}"] = x.double()
    y, z = (law.sample(10_000, torch.Generator().manual_seed(700 + k + 2 * seed)) for k in range(2))
    for name, x in (("default", cells.pop("samples default")), ("DDIM", cells.pop("samples DDIM")), ("exact", z)):
        w = metrics.sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(seed))
        cells[f"sliced W2, {name}"] = list(w)
    ratios = torch.tensor(seconds["default"], dtype=torch.float64) / torch.tensor(seconds["DDIM"], dtype=torch.float64)
    return cells | {"time ratio": [ratios.median().item(), ratios.std().item() / LAPS**0.5]}


def trained_block(args: Any) -> str:
    """Time and law of a trained perceptron on the ring under VP."""
    compute = partial(trained, 500 if args.quick else 4000)
    name = "10,000 samples, default in 10 against DDIM in 50"
    table = {name: combine([row(args, "trained", name, s, compute) for s in args.seeds])}
    columns = {"time ratio": 3} | {f"sliced W2, {n}": 4 for n in ("default", "DDIM", "exact")} | {"seeds": 0}
    return write(args, "trained", columns, table)


def main() -> None:
    """Compute what is missing, and print the tables."""
    args = arguments(__doc__.splitlines()[0], "solver_table", seeds=5)
    print(errors_block(args))
    print(orders_block(args))
    print(law_block(args))
    print(trained_block(args))


if __name__ == "__main__":
    main()
