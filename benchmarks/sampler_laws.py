"""A block of the solver table, `benchmarks.solver_table`: how far what stochastic samplers draw is from the data, and in what.

A row is a sampler on a target, a column a measure at a number of evaluations (`Judge.cells`). The first row of a target is
exact draws, the floor. Samplers without "own grid" in their name are on the best of three grids, chosen by other draws than
those judged.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import peers
from benchmarks.rows import Values
from benchmarks.solver_problems import GRIDS, HELD_OUT, TARGETS, Problem
from benchmarks.tables import Table
from sdegen import grids, metrics, samplers
from sdegen.laws.mixtures import GaussianMixture
from sdegen.samplers.trials import level

EVALUATIONS = (6, 8, 10, 20)
FEW = 3  # seeds of the rows that vary the order and the grid of our samplers
POINTS, CHOOSING, PROJECTIONS = 4000, 1000, 128
LAWS: dict[str, Callable[[int], GaussianMixture]] = {
    "ring": TARGETS["ring"],
    "d = 8": TARGETS["d = 8"],
    "d = 32": lambda seed: sdegen.data.random_mixture(32, seed=HELD_OUT + seed),
    "uneven": lambda seed: uneven_mixture(HELD_OUT + seed),
}
Make = Callable[[int, grids.Grid], samplers.Sampler]


def uneven_mixture(seed: int) -> GaussianMixture:
    """Draw a mixture of 3 to 12 modes in 2 to 32 dimensions, whose weights differ 50-fold and whose widths 30-fold."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    d, modes, spread = round(2 * 16 ** u[0]), 3 + int(10 * u[1]), 1 + 3 * u[2]
    weights = 50 ** torch.rand(modes, generator=generator, dtype=torch.float64)
    means = spread * torch.randn(modes, d, generator=generator, dtype=torch.float64)
    sizes = 0.05 * 12 ** torch.rand(modes, 1, generator=generator, dtype=torch.float64)
    axes = 0.4 + torch.rand(modes, d, generator=generator, dtype=torch.float64)
    return GaussianMixture(weights / weights.sum(), means, (sizes * axes).square())


class Judge:
    """A problem with the law of its states at the end, and exact draws from it."""

    def __init__(self, target: str, seed: int) -> None:
        self.target, self.seed = target, seed
        self.problem = Problem("VP", target, seed, make=LAWS[target])
        self.law: Any = self.problem.sde.diffused(self.problem.law, torch.tensor(self.problem.end).double())
        generator = torch.Generator().manual_seed(500 + seed)
        self.exact, self.true, self.other = (self.law.sample(n, generator) for n in (POINTS, POINTS, CHOOSING))

    def distance(self, x: Tensor, y: Tensor) -> metrics.Estimate:
        """Return sliced W2, along the same directions for all samplers."""
        return metrics.sliced_wasserstein(x, y, projections=PROJECTIONS, seed=self.seed)

    def cells(self, x: Tensor, n: int) -> Values:
        """Return what is wrong with `x`, in a cell for each measure.

        The width is that of modes in units of their own: root mean squared Mahalanobis distance from the mode's mean by the
        posterior of the modes, over `√d`, minus 1. It is 0 for exact draws, and so is the modes' total variation but for chance.
        """
        log = self.law.component_log_prob(x)
        share = log.softmax(1)
        covariances = self.law.covariances
        if covariances.ndim == 3:
            covariances = covariances.diagonal(dim1=-2, dim2=-1)
        variances = covariances if covariances.ndim == 2 else covariances[:, None]
        off = ((x[:, None] - self.law.means).square() / variances).mean(2)
        width = (share * off).sum(1).mean().sqrt() - 1
        modes = 0.5 * (share.mean(0) - self.law.weights).abs().sum()
        found: Values = {f"W2 {n}": list(self.distance(x, self.true))}
        found |= {f"width {n}": [width.item(), None], f"modes {n}": [modes.item(), None]}
        if self.target == "ring":
            found[f"KL {n}"] = list(metrics.knn_kl(x, self.true))
        return found

    def run(self, sampler: samplers.Sampler, x_T: Tensor, seed: int) -> Tensor:
        """Return where a sampler of ours takes states at T."""
        return sdegen.sample(self.problem.model, x_T=x_T, sampler=sampler, seed=seed, final="sample", progress=False)


@cache
def judge(target: str, seed: int) -> Judge:
    """Return the judge of a target, one for all samplers."""
    return Judge(target, seed)


def ours() -> dict[str, Make]:
    """Return our stochastic samplers, made of a number of evaluations and a grid, by name."""
    E, point = samplers.ExponentialSDE, samplers.PointMass()
    return {
        "ExponentialSDE 1, point mass": partial(E, order=1, reference=point),
        "ExponentialSDE 2, point mass": partial(E, order=2, reference=point),
        "ExponentialSDE 1": partial(E, order=1),
        "ExponentialSDE 2": partial(E, order=2),
        "ExponentialSDE 3": partial(E, order=3),
        "Euler–Maruyama": samplers.EulerMaruyama,
        "ReverseDiffusion": samplers.ReverseDiffusion,
        "Churn": lambda n, grid: samplers.Churn(max(1, n // 2), grid),
    }


def law(target: str, name: str, seed: int) -> Values:
    """Judge a sampler's draws, by evaluations: with "own grid" on its default grid, else on the best of the peers' grids.

    The grid is chosen by the distance of other draws: the least of several noisy figures is below the truth.
    """
    judged = judge(target, seed)
    problem = judged.problem
    cells: Values = {}
    x_T, starts = problem.start(POINTS, seed), problem.start(CHOOSING, 50 + seed)
    for n in EVALUATIONS:
        torch.manual_seed(seed)
        kind = name.removesuffix(", own grid")
        if name == "exact draws":
            x = judged.exact
        elif name == "default, eta = 1":
            x = judged.run(default(problem, n), x_T, seed)
        elif kind != name:
            x = judged.run(ours()[kind](n, own_grid(kind, problem)), x_T, seed)
        else:
            grid = best_grid(judged, name, n, starts)
            if grid is None:
                continue
            x = drawn(judged, name, n, grid, x_T, seed)
        cells |= judged.cells(x, n)
    return cells


def default(problem: Problem, n: int) -> samplers.Sampler:
    """Return the default sampler with the noise of the reversed process, told where to stop."""
    sampler = samplers.default(problem.model, n, eta=1.0)
    assert sampler.grid is not None
    sampler.grid.end = problem.end
    return sampler


def own_grid(kind: str, problem: Problem) -> grids.Grid:
    """Return the grid that a sampler of ours has where none is named: exponential ones that of the default under conditions."""
    if kind.startswith("Exponential"):
        return grids.Angle(end=problem.end, scale=level(problem.model.state_moments()), power=0.5)
    return getattr(samplers, kind.replace("–", "")).default_grid(end=problem.end)


def drawn(judged: Judge, name: str, n: int, grid: grids.Grid, x_T: Tensor, seed: int) -> Tensor:
    """Draw states at the end by a sampler on a grid."""
    if name in peers.stochastic():
        return judged.problem.by_peer(peers.stochastic()[name], grid, n, x_T)
    return judged.run(ours()[name](n, grid), x_T, seed)


def best_grid(judged: Judge, name: str, n: int, x_T: Tensor) -> grids.Grid | None:
    """Return the grid of the peers' on which a sampler's draws are nearest to the law; None if no draw is finite."""
    found = []
    for label, make in GRIDS.items():
        x = drawn(judged, name, n, make(judged.problem.end), x_T, 50 + judged.seed)
        if x.isfinite().all():
            found.append((judged.distance(x, judged.other).value, label))
    return GRIDS[min(found)[1]](judged.problem.end) if found else None


def law_block(table: Table) -> str:
    """Return the law of stochastic samplers on the ring and on mixtures."""
    own = [f"{name}, own grid" for name in ours()]
    names = ["exact draws", "default, eta = 1", *own, *ours(), *peers.stochastic()]
    varied = [name for name in (*own, *ours()) if not name.endswith("point mass, own grid")]
    rows: dict[str, Values] = {}
    for target in ("ring",) if table.quick else LAWS:
        kept = [name for name in table.rows.names("law") if name.startswith(f"{target}: ")]
        for full in dict.fromkeys([*(f"{target}: {name}" for name in names), *kept]):
            name = full.removeprefix(f"{target}: ")
            rows[full] = table.row("law", full, partial(law, target, name), seeds=FEW if name in varied else None)
    columns = {f"{what} {n}": 3 for what in ("W2", "width", "modes", "KL") for n in EVALUATIONS} | {"seeds": 0}
    return table.write("law", columns, rows)
