"""A block of the speed table, `benchmarks.speed`: the Fréchet distance of two laws, ours beside the peers'.

A row is an implementation: its seconds, the ratio to ours of the same round, and how far its value is from ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import scipy.linalg
import torch

import sdegen
from benchmarks.rows import Values
from benchmarks.speed_timing import median, ratio, seconds
from benchmarks.tables import Table
from sdegen.metrics import frechet_distance


def torchmetrics(p: sdegen.Moments, q: sdegen.Moments) -> float:
    """Return the distance by torchmetrics, from eigenvalues of the product of the covariances."""
    from torchmetrics.image.fid import _compute_fid

    return _compute_fid(*p, *q).item()


def torch_fidelity(p: sdegen.Moments, q: sdegen.Moments) -> float:
    """Return the distance by torch-fidelity, with a root of its own in numpy."""
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    laws = ({"mu": law.mean.numpy(), "sigma": law.covariance.numpy()} for law in (p, q))
    return float(fid_statistics_to_metric(*laws, False)["frechet_inception_distance"])


def sqrtm(p: sdegen.Moments, q: sdegen.Moments) -> float:
    """Return the distance with the matrix root of scipy, as pytorch-fid forms it."""
    root = scipy.linalg.sqrtm((p.covariance @ q.covariance).numpy()).real.trace()
    gap = (p.mean - q.mean).square().sum()
    return float(gap + p.covariance.trace() + q.covariance.trace() - 2 * root)


DISTANCES: dict[str, Callable[[sdegen.Moments, sdegen.Moments], float]] = {
    "ours": frechet_distance,
    "torchmetrics": torchmetrics,
    "torch-fidelity": torch_fidelity,
    "scipy sqrtm": sqrtm,
}


def time_distances(d: int, rounds: int, seed: int) -> Values:
    """Return seconds of the distance of two laws, ratios to ours of the same round, and how far values are from ours."""
    generator = torch.Generator().manual_seed(seed)
    falls = torch.linspace(0, -5, d, dtype=torch.float64).exp()
    p, q = (
        sdegen.Moments(x.mean(0), x.mT.cov())
        for x in (torch.randn(2 * d, d, generator=generator, dtype=torch.float64) * falls for _ in range(2))
    )
    values: dict[str, float] = {}
    taken: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, distance in DISTANCES.items():
            try:
                spent, values[name] = seconds(partial(distance, p, q))
            except (ImportError, RuntimeError) as missing:  # RuntimeError: a torchvision of another build of torch
                print(f"{name} is left out: {missing}", file=sys.stderr)
                continue
            if turn:
                taken.setdefault(name, []).append(spent)
    cells: Values = {}
    for name, each_time in taken.items():
        cells[f"{name}: s"], cells[f"{name}: ratio"] = median(each_time), ratio(each_time, taken["ours"])
        cells[f"{name}: apart"] = [abs(values[name] / values["ours"] - 1), None]
    return cells


def distance_block(table: Table) -> str:
    """Return the distance of two laws of 2,048 features by every implementation."""
    d = 512 if table.quick else 2048
    cells = table.row("distance", str(d), partial(time_distances, d, 3), once=True)
    rows = {name: {kind: cells.get(f"{name}: {kind}") for kind in ("s", "ratio", "apart")} for name in DISTANCES}
    return table.write("distance", {"s": 2, "ratio": 2, "apart": 15}, rows)
