"""The solver table: error of the probability flow per network evaluation, ours beside the peers', in one run.

    python -m benchmarks.solver_table            # pip install "sdegen[peers]" first, or the peers' rows stay empty
    python -m benchmarks.solver_table --quick

Exact scores, one set of starting states, distance of the end points from an adaptive solution at tolerance 1e-9 of the same
equation. The peers run in their own code on four grids each, and every cell is the best of them, chosen with hindsight;
ours is the default of `sdegen.sample`, untouched. Root-mean-square on the ring; in 8 and 64 dimensions, where single paths
that end in another mode set the root-mean-square, the median too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.rows import Values, arguments, combine, row, write
from sdegen import grids, samplers

Score = Callable[[Tensor, Tensor], Tensor]
EVALUATIONS = (5, 6, 8, 10, 15, 20, 30, 50)
PATHS = 256


def mixture(d: int, seed: int) -> sdegen.GaussianMixture:
    """Sixteen modes: weights from Dirichlet(1), means from N(0, 4), standard deviations uniform in 0.1 to 0.5."""
    generator = torch.Generator().manual_seed(seed)
    weights = -torch.rand(16, dtype=torch.float64, generator=generator).log()
    means = 2 * torch.randn(16, d, dtype=torch.float64, generator=generator)
    std = 0.1 + 0.4 * torch.rand(16, d, dtype=torch.float64, generator=generator)
    return sdegen.GaussianMixture(weights / weights.sum(), means, std**2)


TARGETS: dict[str, Callable[[int], sdegen.GaussianMixture]] = {
    "ring": lambda seed: sdegen.data.gaussian_ring(modes=8, radius=4.0, std=0.3),
    "d = 8": partial(mixture, 8),
    "d = 64": partial(mixture, 64),
}
PROCESSES: dict[str, tuple[Callable[[], Any], float]] = {"VP": (sdegen.VP, 1e-3), "EDM": (sdegen.EDM, 0.0)}


class Problem:
    """A target under a process: where its paths start, and where they end."""

    def __init__(self, process: str, target: str, seed: int) -> None:
        make, self.end = PROCESSES[process]
        self.sde, self.law = make(), TARGETS[target](seed)
        self.model = sdegen.Exact(self.sde, self.law)
        d = self.law.means.shape[1]
        generator = torch.Generator().manual_seed(100 + seed)
        at = self.sde.marginal(torch.tensor([self.sde.T, self.end], dtype=torch.float64))
        self.x_T = at.R.c[0] * torch.randn(PATHS, d, dtype=torch.float64, generator=generator)
        self.r = at.r.c  # alpha x_0 + sigma z, divided by it, is what the peers' solvers move
        flow = samplers.ProbabilityFlow(
            1, grids.Given(torch.tensor([self.sde.T, self.end], dtype=torch.float64)), rtol=1e-9, atol=1e-9
        )
        self.solution = sdegen.sample(self.model, x_T=self.x_T, sampler=flow, final="sample")

    def errors(self, x: Tensor) -> tuple[float, float]:
        """Root-mean-square and median distance from the solution."""
        distance = (x - self.solution).norm(dim=1)
        return distance.square().mean().sqrt().item(), distance.median().item()

    def noise(self, u: Tensor, ratio: Tensor) -> Tensor:
        """The noise prediction in the peers' coordinates, at ``ratio = sigma / alpha``."""
        phi = torch.atan(ratio.double())
        _, score = self.law.observed(u.double(), phi.cos(), phi.sin())
        return -phi.sin() * score

    def ratios(self, grid: grids.Grid, n: int) -> Tensor:
        """``sigma / alpha`` at the stops of a grid."""
        return self.sde.snr(grid(self.sde, n + 1)).rsqrt()


GRIDS: dict[str, Callable[[float], grids.Grid]] = {
    "log-SNR": lambda end: grids.LogSNR(end=end),
    "Karras": lambda end: grids.Karras(end=end),
    "uniform": lambda end: grids.Uniform(end=end),
    "share": lambda end: grids.Angle(end=end),
}


def ours(problem: Problem, n: int) -> Tensor:
    """The default sampler, told where to stop."""
    sampler = samplers.default(problem.model, n)
    assert sampler.grid is not None
    sampler.grid.end = problem.end
    return sdegen.sample(problem.model, x_T=problem.x_T, sampler=sampler, final="sample")


def in_diffusers(make: Callable[[], Any], problem: Problem, ratios: Tensor) -> Tensor:
    """A multistep scheduler of diffusers on given noise levels."""
    n = len(ratios) - 1
    scheduler = make()
    scheduler.set_timesteps(n)
    scheduler.sigmas = ratios.clone()
    scheduler.timesteps = torch.arange(n, 0, -1)
    scheduler.num_inference_steps = n
    u = problem.x_T / problem.r[0]
    for k, label in enumerate(scheduler.timesteps):
        u = scheduler.step(problem.noise(u, ratios[k]), label, u).prev_sample
    return u.double() * problem.r[1]


def in_azula(make: Callable[..., Any], problem: Problem, ratios: Tensor) -> Tensor:
    """A sampler of azula on a schedule that passes through given noise levels."""
    from azula.denoise import Denoiser, GaussianPosterior
    from azula.noise import Schedule

    n = len(ratios) - 1

    class Through(Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            phi = torch.atan(ratios[(n * (1 - t)).round().long().clamp(0, n)])
            return phi.cos(), phi.sin()

    class Truth(Denoiser):
        schedule = Through()

        def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Any:
            alpha, sigma = self.schedule(t)
            mean, _ = problem.law.observed(x, alpha.reshape(()), sigma.reshape(()))
            return GaussianPosterior(mean, torch.ones_like(mean))

    sampler = make(Truth(), steps=n, silent=True, dtype=torch.float64)
    return sampler(problem.x_T / problem.r[0]) * problem.r[1]


@cache
def peers() -> dict[str, tuple[Callable[[Problem, Tensor], Tensor], int]]:
    """What is installed: a solver and its evaluations a step."""
    found: dict[str, tuple[Callable[[Problem, Tensor], Tensor], int]] = {}
    try:
        import diffusers

        diffusers.utils.logging.set_verbosity_error()
        D = diffusers
        free = {"lower_order_final": False}
        for order in (1, 2, 3):
            for kind in ("dpmsolver++", "dpmsolver"):
                for solver in ("midpoint", "heun"):
                    options = {"solver_order": order, "algorithm_type": kind, "solver_type": solver} | free
                    make = partial(D.DPMSolverMultistepScheduler, final_sigmas_type="sigma_min", **options)
                    found[f"diffusers {kind} {order}M {solver}"] = (partial(in_diffusers, make), 1)
            found[f"diffusers DEIS-{order}"] = (
                partial(in_diffusers, partial(D.DEISMultistepScheduler, solver_order=order, **free)),
                1,
            )
            for variant in ("bh1", "bh2"):
                make = partial(D.UniPCMultistepScheduler, solver_order=order, solver_type=variant, **free)
                found[f"diffusers UniPC-{order} {variant}"] = (partial(in_diffusers, make), 1)
    except ImportError:
        pass
    try:
        from azula import sample as azula

        found["azula DDIM"] = (partial(in_azula, azula.DDIMSampler), 1)
        found["azula Heun"] = (partial(in_azula, azula.HeunSampler), 2)
        for order in (2, 3):
            found[f"azula REAB-{order}"] = (partial(in_azula, partial(azula.REABSampler, order=order)), 1)
    except ImportError:
        pass
    return found


def compare(process: str, target: str, evaluations: tuple[int, ...], seed: int) -> Values:
    """Errors of our default and of the best peer and grid, at every number of evaluations."""
    problem = Problem(process, target, seed)
    which = 0 if target == "ring" else 1
    cells: Values = {}
    for n in evaluations:
        rms, median = problem.errors(ours(problem, n))
        best, name, best_rms = math.inf, "", math.inf
        for peer, (solve, cost) in peers().items():
            for label, make in GRIDS.items():
                if n // cost < 2:
                    continue
                try:
                    errors = problem.errors(solve(problem, problem.ratios(make(problem.end), n // cost)))
                except (ValueError, IndexError, RuntimeError):
                    continue  # what a peer cannot do on a grid
                best_rms = min(best_rms, errors[0])
                if errors[which] < best:
                    best, name = errors[which], f"{peer}, {label}"
        mine = (rms, median)[which]
        cells |= {f"ours {n}": [mine, None], f"ours rms {n}": [rms, None]}
        if name:
            cells |= {f"peer {n}": [best, None], f"peer rms {n}": [best_rms, None], f"ratio {n}": [mine / best, None]}
            cells[f"by {n}"] = name
    return cells


def main() -> None:
    """Compute what is missing, and print the table."""
    args = arguments(__doc__.splitlines()[0], "solver_table")
    evaluations = (5, 10, 20) if args.quick else EVALUATIONS
    table: dict[str, Values] = {}
    for process in PROCESSES:
        for target in TARGETS:
            seeds = args.seeds[:1] if target == "ring" else args.seeds
            name = f"{process}, {target}"
            compute = partial(compare, process, target, evaluations)
            cells = combine([row(args, "solver", name, seed, compute) for seed in seeds])
            kinds = {
                "ours": "ours",
                "best peer": "peer",
                "ratio": "ratio",
                "ours, rms": "ours rms",
                "best peer, rms": "peer rms",
            }
            for label, key in kinds.items():
                table[f"{name}: {label}"] = {str(n): cells.get(f"{key} {n}") for n in evaluations}
            table[f"{name}: by"] = {str(n): cells.get(f"by {n}") for n in evaluations}
    print(write(args, "solver", {str(n): 4 for n in evaluations}, table))


if __name__ == "__main__":
    main()
