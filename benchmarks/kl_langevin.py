"""A block of the KL table, `benchmarks.kl_table`: Langevin dynamics with trained scores, by objective, noise level and sampler.

A network is trained at each of seven noise levels by one objective, and told no level. The scores are sampled at the last of
some levels by Langevin dynamics at this level alone, by Langevin dynamics that goes down the levels, and by the probability
flow in steps from level to level. A row is an objective and the last level. Samples are noised data of that level, and what
noise they still have counts as an error: the row of the exact score at the same level is the floor.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.kl_levels import OBJECTIVES, PROCESS, at_level, of_objective
from benchmarks.ring import RING
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import grids, metrics, samplers

LADDER = torch.logspace(1, -1, 7, dtype=torch.float64)  # noise levels, from 10 to 0.1
ENDS, QUICK_ENDS = (6, 4, 3), (3,)  # indices in LADDER of the level that a row ends at: 0.1, 0.46 and 1
STEPS, QUICK_STEPS = 600, 20  # training steps of one network
SAMPLES, QUICK_SAMPLES = 4000, 200
MOVES, QUICK_MOVES = 1000, 60  # steps of Langevin dynamics
EXACT = "exact score"


class Ladder(sdegen.ScoreModel):
    """A score model of several, each trained at one noise level and asked at the times that are nearest to it."""

    def __init__(self, models: list[sdegen.DirectModel]) -> None:
        self.sde, self.models, self.moments = PROCESS, models, RING.moments()

    @property
    def like(self) -> Tensor | None:
        """A weight of the first of the models."""
        return self.models[0].like

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score of the level that is nearest."""
        (level,) = torch.as_tensor(t, dtype=torch.float64).reshape(-1).unique()
        nearest = int((LADDER.log() - level.log()).abs().argmin())
        return self.models[nearest].score(x, level, **cond)


@cache
def trained(objective: str, seed: int, steps: int, device: str) -> Ladder:
    """Return a network for every level, each trained by one objective on fresh data."""
    return Ladder([of_objective(objective, s.item(), RING, seed, steps, device)[0] for s in LADDER])


def chains(end: int, moves: int) -> dict[str, tuple[samplers.Sampler[Any, Any], int]]:
    """Return what samples the law of a level, and the place of the level that it starts at."""
    times = at_level(LADDER[: end + 1])
    return {
        "Langevin": (samplers.Langevin(moves, h=0.3, t=times[-1].item()), end),
        "annealed": (samplers.AnnealedLangevin(end + 1, 0.3, moves // (end + 1), grids.Given(times)), 0),
        "flow": (samplers.Heun(end, grids.Given(times)), 0),
    }


def sampled(objective: str, end: int, table: Table, seed: int) -> Values:
    """Return how far samples of every chain are from data, of the scores of an objective down to a level."""
    n, moves = (QUICK_SAMPLES, QUICK_MOVES) if table.quick else (SAMPLES, MOVES)
    steps = QUICK_STEPS if table.quick else STEPS
    exact = objective == EXACT
    model: Any = sdegen.Exact(PROCESS, RING) if exact else trained(objective, seed, steps, table.device)
    spread = RING.moments().covariance[0, 0]
    cells: Values = {}
    for name, (sampler, start) in chains(end, moves).items():
        generator = torch.Generator().manual_seed(3000 + seed)
        z = torch.randn(n, 2, dtype=torch.float64, generator=generator)
        x_T = model.cast_states((spread + LADDER[start].square()).sqrt() * z)
        x = sdegen.sample(model, x_T=x_T, sampler=sampler, seed=seed, final="sample", progress=False).double().cpu()
        y = RING.sample(n, generator)
        if not x.isfinite().all():
            return {f"{name}: W2": "diverged"}
        cells[f"{name}: W2"] = list(metrics.sliced_wasserstein(x, y, generator=generator))
        cells[f"{name}: KL"] = list(metrics.knn_kl(x, y))
        cells[f"{name}: least mode"] = [metrics.mode_shares(x, RING).min().item(), None]
    return cells


COLUMNS = {
    f"{name}: {column}": digits
    for name in ("Langevin", "annealed", "flow")
    for column, digits in (("W2", 3), ("KL", 3), ("least mode", 2))
}


def trained_block(table: Table) -> str:
    """Return what Langevin dynamics and the flow sample with scores trained level by level, and with the exact one."""
    rows = {}
    for objective in (EXACT, *OBJECTIVES):
        for end in QUICK_ENDS if table.quick else ENDS:
            name = f"{objective}, σ = {LADDER[end]:.2g}"
            rows[name] = table.row("langevin trained", name, partial(sampled, objective, end, table), seeds=2)
    return table.write("langevin_trained", COLUMNS | {"seeds": 0}, rows)
