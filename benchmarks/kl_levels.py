"""Two blocks of the KL table, `benchmarks.kl_table`: networks of one noise level, and Langevin dynamics with the exact score.

In the first a row is an objective, denoising or implicit, on fresh data or on 200 points, and a column a noise level: the
relative error of the score there, ``E‖s − s*‖² / E‖s*‖²``, of a network that is trained at this level and told none. On
finitely many points without noise the implicit loss has no minimum, and its value is printed in place of an error.

In the second a row is a sampler of the ring: the distance of its samples from true ones, the least share of a mode, and how
often the score is evaluated. The floor is the row of true samples in the table's first block.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.ring import RING
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import losses, metrics, nets, samplers, weightings
from sdegen.laws import Units

LEVELS, QUICK_LEVELS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0), (0.0, 0.1, 1.0)
STEPS, QUICK_STEPS = 1000, 100  # training steps of one network
SAMPLES, QUICK_SAMPLES = 10_000, 2_000  # samples that each sampler draws


class OneLevel(weightings.TimeLaw):
    """The law of training times that are all the same, to train at one noise level."""

    def __init__(self, t: float) -> None:
        self.t = t

    def sample(self, sde: Any, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return torch.full((n,), self.t, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "denoising": partial(losses.Denoising, pooled=False),
    "denoising, pooled": losses.Denoising,
    "implicit": losses.Implicit,
    "sliced": partial(losses.Implicit, divergence=sdegen.derivatives.Hutchinson()),
}


PROCESS = sdegen.EDM(sigma_min=1e-6, sigma_max=80.0).in_units(Units())  # noise levels in the ring's own units


def at_level(sigma: Tensor) -> Tensor:
    """Return the times of noise levels."""
    return (sigma - PROCESS.sigma_min).clamp_min(0.0)


def of_objective(
    name: str, sigma: float, data: Any, seed: int, steps: int, device: str
) -> tuple[sdegen.DirectModel, sdegen.Run]:
    """Return a network that was trained by an objective at one noise level, and the record of its training."""
    torch.manual_seed(seed)
    net = Constant(nets.MLP(2, width=64, depth=2))
    model = sdegen.DirectModel(net, PROCESS, scale=max(sigma, 0.5)).to(device)
    times = OneLevel(at_level(torch.tensor(sigma, dtype=torch.float64)).item())
    objective = OBJECTIVES[name](weightings.UniformWeighting(), times)
    scale = max(sigma, 0.5) ** 2  # makes the loss of order one
    run = sdegen.fit(
        model, data, steps=steps, lr=2e-3, seed=seed, progress=False,
        loss=lambda m, x, generator: scale * objective(m, x, generator=generator),
    )  # fmt: skip
    return model, run


def score_error(name: str, sigma: float, finite: bool, table: Table, seed: int) -> Values:
    """Train by an objective at one noise level, on fresh data or 200 points, and return ``E‖s − s*‖² / E‖s*‖²``."""
    if sigma == 0 and name.startswith("denoising"):
        return {}  # without noise the target z / sigma does not exist
    points = RING.sample(200, torch.Generator().manual_seed(seed))
    data: Any = points.to(table.device, torch.float32) if finite else RING
    law = sdegen.Empirical(points) if finite else RING
    try:
        model, run = of_objective(name, sigma, data, seed, QUICK_STEPS if table.quick else STEPS, table.device)
    except sdegen.NonFiniteLoss:
        return {f"σ = {sigma:g}": "diverged"}
    level = at_level(torch.tensor(sigma, dtype=torch.float64))
    x = PROCESS.perturb(law.sample(4000), level).x
    if finite and sigma == 0:
        return {f"σ = {sigma:g}": f"loss {sum(run.loss[-50:]) / 50:.3g}"}
    truth = sdegen.Exact(PROCESS, law).score(x, level)
    score = model.score(x.to(table.device, torch.float32), level).detach().double().cpu()
    error = (score - truth).square().sum(1).mean()
    return {f"σ = {sigma:g}": [(error / truth.square().sum(1).mean()).item(), None]}


def levels_block(table: Table) -> str:
    """Return relative errors of the score at single noise levels, of every objective."""
    levels = QUICK_LEVELS if table.quick else LEVELS
    rows: dict[str, Values] = {}
    for finite in (False, True):
        for name in OBJECTIVES:
            label = f"{name}{', 200 points' if finite else ''}"
            rows[label] = {}
            for sigma in levels:
                compute = partial(score_error, name, sigma, finite, table)
                rows[label] |= table.row("level", f"{label} {sigma:g}", compute)
    return table.write("levels", {f"σ = {s:g}": 4 for s in levels} | {"seeds": 0}, rows)


class Constant(torch.nn.Module):
    """A network that is told nothing of the noise level, as it is trained at one."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.net(x, torch.zeros_like(level))


def chains(n: int, steps: int) -> dict[str, tuple[Any, Tensor | None]]:
    """Return the samplers that are compared, and the states they start from where these are not the prior's."""
    one_mode = RING.means[0] * torch.ones(n, 1) + 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(5))
    t = sdegen.VP().time(100.0).item()
    return {
        "probability flow, Heun": (samplers.Heun(25), None),
        "Langevin, from the prior": (samplers.Langevin(steps, h=0.3, t=t), None),
        "Langevin, from one mode": (samplers.Langevin(steps, h=0.3, t=t), one_mode),
        "annealed Langevin": (samplers.AnnealedLangevin(steps // 10, h=0.3, repeats=10), None),
        "Euler–Maruyama": (samplers.EulerMaruyama(steps), None),
        "predictor–corrector": (samplers.PredictorCorrector(samplers.EulerMaruyama(steps // 2)), None),
    }


def langevin_block(table: Table) -> str:
    """Return what Langevin dynamics and the probability flow sample with the exact score."""
    model = sdegen.Exact(sdegen.VP(), RING)
    n = QUICK_SAMPLES if table.quick else SAMPLES
    choices = chains(n, 100 if table.quick else 1000)

    def compute(name: str, seed: int) -> Values:
        sampler, x_T = choices[name]
        generator = torch.Generator().manual_seed(3000 + seed)
        x = sdegen.sample(model, None if x_T is not None else n, x_T=x_T, sampler=sampler, generator=generator)
        y = RING.sample(n, generator)
        counts = torch.cdist(x, RING.means).argmin(1).bincount(minlength=8) / n
        return {
            "sliced W2": list(metrics.sliced_wasserstein(x, y, generator=generator)),
            "k-NN KL": list(metrics.knn_kl(x, y)),
            "smallest mode": [counts.min().item(), None],
            "evaluations": [count(sampler), None],
        }

    rows = {name: table.row("langevin", name, partial(compute, name)) for name in choices}
    columns = {"sliced W2": 3, "k-NN KL": 3, "smallest mode": 3, "evaluations": 0, "seeds": 0}
    return table.write("langevin", columns, rows)


def count(sampler: Any) -> int:
    """Count the evaluations of the score in a run on the exact model."""
    calls = 0

    class Counting(sdegen.Exact):
        def _observed(self, x: Tensor, at: Any) -> Any:
            nonlocal calls
            calls += 1
            return super()._observed(x, at)

    sdegen.sample(Counting(sdegen.VP(), RING), 2, sampler=sampler, seed=0)
    return calls
