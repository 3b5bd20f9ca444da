"""Two blocks of the solver table, `benchmarks.solver_table`: observed orders of convergence, and a trained network.

In the first a row is a solver: the order it should have, the order seen between 256 and 512 steps, and the median error at
512. In the second the default in ten evaluations is held against DDIM in fifty: the ratio of their times, and distances of
samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import torch

import sdegen
from benchmarks import peers
from benchmarks.rows import Values
from benchmarks.solver_problems import TARGETS, Problem, run
from benchmarks.speed_timing import ratio
from benchmarks.tables import Table
from sdegen import grids, metrics, samplers

DOUBLED = (256, 512)


def ours_by_order() -> dict[str, tuple[float, Callable[[int], samplers.Sampler]]]:
    """Return our solvers by name: the order that each should have, and how it is made of a number of steps."""
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
    """Return the observed order of a solver on the ring under VP, and its error at the larger number of steps."""
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


def orders_block(table: Table) -> str:
    """Return observed orders: medians of the distance at 256 and 512 steps."""
    names = dict.fromkeys([*ours_by_order(), *peers.deterministic(), *table.rows.names("order")])
    rows = {name: table.row("order", name, partial(order, name), once=True) for name in names}
    return table.write("order", {"stated": 0, "observed order": 2, "error": 9}, rows)


LAPS = 15


def trained(steps: int, device: str, seed: int) -> Values:
    """Train a model, and compare ten evaluations of the default with fifty of DDIM, timed in turns."""
    law = TARGETS["ring"](seed)
    torch.manual_seed(seed)
    model = sdegen.Model(sdegen.nets.MLP(2), sdegen.VP()).to(device)
    sdegen.fit(model, law, steps=steps, seed=seed, progress=False)
    choices: dict[str, samplers.Sampler] = {"default": samplers.default(model, 10), "DDIM": samplers.DDIM(50)}
    x_T = sdegen.sample(model, 10_000, sampler=choices["DDIM"], seed=seed, final="sample", return_path=True)[0]
    x_T = model.sde.lift(x_T)
    seconds: dict[str, list[float]] = {name: [] for name in choices}
    cells: Values = {}
    for _ in range(LAPS):
        for name, sampler in choices.items():
            began = time.perf_counter()
            # On the CPU, so that an accelerator is waited for.
            x = sdegen.sample(model, x_T=x_T, sampler=sampler, progress=False).double().cpu()
            seconds[name].append(time.perf_counter() - began)
            cells[f"samples {name}"] = x
    y, z = (law.sample(10_000, torch.Generator().manual_seed(700 + k + 2 * seed)) for k in range(2))
    for name, x in (("default", cells.pop("samples default")), ("DDIM", cells.pop("samples DDIM")), ("exact", z)):
        w = metrics.sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(seed))
        cells[f"sliced W2, {name}"] = list(w)
    return cells | {"time ratio": ratio(seconds["default"], seconds["DDIM"])}


def trained_block(table: Table) -> str:
    """Return time and law of a trained perceptron on the ring under VP."""
    name = "10,000 samples, default in 10 against DDIM in 50"
    rows = {name: table.row("trained", name, partial(trained, 500 if table.quick else 4000, table.device), seeds=1)}
    columns = {"time ratio": 3} | {f"sliced W2, {n}": 4 for n in ("default", "DDIM", "exact")} | {"seeds": 0}
    return table.write("trained", columns, rows)
