"""Problems of the solver table and of that of drawn targets: laws under processes, their paths and the exact ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import peers
from sdegen import grids, samplers

PATHS = 256
HELD_OUT = (
    1000  # the default sampler was chosen on the ring and on mixtures of the first seeds: none of those is among these
)


Target = Callable[[int], sdegen.GaussianMixture]
TARGETS: dict[str, Target] = {
    "ring": lambda seed: sdegen.data.gaussian_ring(modes=8, radius=4.0, std=0.3),
    "d = 8": lambda seed: sdegen.data.random_mixture(8, seed=HELD_OUT + seed),
    "d = 64": lambda seed: sdegen.data.random_mixture(64, seed=HELD_OUT + seed),
}
PROCESSES: dict[str, tuple[Callable[[], Any], float]] = {"VP": (sdegen.VP, 1e-3), "EDM": (sdegen.EDM, 0.0)}


class Problem:
    """A target under a process: where its paths start, and where they end."""

    def __init__(
        self, process: str, target: str, seed: int, tolerance: float = 1e-9, make: Target | None = None
    ) -> None:
        process_of, self.end = PROCESSES[process]
        self.sde, self.law, self.tolerance = process_of(), (make or TARGETS[target])(seed), tolerance
        self.model = sdegen.Exact(self.sde, self.law)
        at = self.sde.marginal(torch.tensor([self.sde.T, self.end], dtype=torch.float64))
        self.R_T = at.R.c[0]
        self.x_T = self.start(PATHS, 100 + seed)
        self.r = at.r.c  # the peers' solvers move states that are divided by it

    @cached_property
    def solution(self) -> Tensor:
        """Where the probability flow takes the paths, by adaptive steps."""
        ends = grids.Given(torch.tensor([self.sde.T, self.end], dtype=torch.float64))
        flow = samplers.ProbabilityFlow(1, ends, rtol=self.tolerance, atol=self.tolerance)
        return sdegen.sample(self.model, x_T=self.x_T, sampler=flow, final="sample")

    def start(self, n: int, seed: int) -> Tensor:
        """Draw `n` states at T."""
        z = torch.randn(n, self.law.means.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return self.R_T * z

    def errors(self, x: Tensor) -> tuple[float, float]:
        """Return the root-mean-square and the median distance from the solution."""
        distance = (x - self.solution).norm(dim=1)
        return distance.square().mean().sqrt().item(), distance.median().item()

    def by_peer(self, peer: peers.Peer, grid: grids.Grid, n: int, x_T: Tensor | None = None) -> Tensor:
        """Return where a peer takes the paths with `n` evaluations on a grid."""
        ratios = self.sde.snr(grid(self.sde, n // peer.cost + 1)).rsqrt()
        return peer.solve(peers.Truth(self.law), (self.x_T if x_T is None else x_T) / self.r[0], ratios) * self.r[1]


GRIDS: dict[str, Callable[[float], grids.Grid]] = {
    "log-SNR": lambda end: grids.LogSNR(end=end),
    "Karras": lambda end: grids.Karras(end=end),
    "uniform": lambda end: grids.Uniform(end=end),
}


def run(problem: Problem, sampler: samplers.Sampler) -> Tensor:
    """Return where a sampler of ours takes the paths of a problem."""
    return sdegen.sample(problem.model, x_T=problem.x_T, sampler=sampler, final="sample", progress=False)
