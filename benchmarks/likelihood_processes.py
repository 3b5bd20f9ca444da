"""A block of the likelihood table, `benchmarks.likelihood_table`: models of every process, judged by the density of their flow.

A row is a process and an objective, trained by the same `fit`, those of the KL table among them. Columns are KL and negative
log-likelihood in nats; of the nonlinear process also the bound of its reversed SDE, by the true score on a grid, and what the
target of short kernels is off by.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import kl_table, ring
from benchmarks.devices import fit_on
from benchmarks.ring import RING
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import losses, metrics, nets, weightings
from sdegen.laws import Units
from sdegen.laws.derivatives import ExactDivergence, Hutchinson
from sdegen.laws.marginals import Level
from sdegen.laws.products import value_and_slope
from sdegen.models import EDMParametrization

SMALL_RING = sdegen.data.gaussian_ring(modes=8, radius=1.5, std=0.25)  # about as wide as the wells are apart


class Early(weightings.Weighting):
    """``lambda = 1 / (t + 0.01)``, for processes without a noise level: early times count, where the score is large."""

    def operator(self, sde: sdegen.SDE, at: Level) -> Any:
        return at.R.one() * early(sde, at.t).sqrt()


def early(sde: Any, t: Tensor) -> Tensor:
    """Return the density of times to go with `Early`."""
    return 1 / (t + 0.01)


def double_well(objective: Any, steps: int, device: str) -> Callable[[int], tuple[Any, sdegen.Run]]:
    """Return a function that trains a model of the nonlinear process by an objective; the network adds to the score of the law
    at T.
    """

    def train(seed: int) -> tuple[Any, sdegen.Run]:
        torch.manual_seed(seed)
        sde = sdegen.DoubleWell(T=2.0).in_units(Units())  # units of the wells, which lie at fixed places
        net = nets.MLP(2, width=96, depth=3)
        model = sdegen.DirectModel(net, sde, 0.3, base=sde.prior(SMALL_RING.moments()))
        batch = 1024 if getattr(objective, "antithetic", False) else 2048
        return model, fit_on(device, model, SMALL_RING, steps=steps, batch_size=batch, loss=objective, seed=seed)

    return train


def damped(seed: int, steps: int, device: str) -> tuple[Any, sdegen.Run]:
    """Train a model of critically damped Langevin dynamics, by hybrid score matching: the velocity at 0 is part of its noise."""
    torch.manual_seed(seed)
    model = sdegen.Model(
        nets.MLP(4, width=96, depth=3),
        sdegen.CLD().in_units(Units()),
        EDMParametrization(detail=ring.DETAIL, delta=0.03),
    )
    return model, fit_on(device, model, RING, steps=steps, seed=seed)


@dataclass
class Process:
    """What a row is made by: how a model is trained, and the law of its data."""

    train: Callable[[int], tuple[Any, sdegen.Run | None]]
    law: sdegen.GaussianMixture = RING


def processes(table: Table) -> dict[str, Process]:
    """Return all rows."""
    share, device = 0.1 if table.quick else 1.0, table.device
    times = weightings.ImportanceTimes(early)
    pairs = losses.Denoising(Early(), weightings.SharedTimes(times, 8), antithetic=True)
    return {
        **{name: Process(partial(of_the_kl_table, name, table)) for name in ring.TRAINED},
        "CLD, inverse variance": Process(partial(damped, steps=round(7000 * share), device=device)),
        "double well, short kernels": Process(double_well(pairs, round(3000 * share), device), SMALL_RING),
        "double well, sliced": Process(
            double_well(losses.Implicit(Early(), times, Hutchinson()), round(3000 * share), device), SMALL_RING
        ),
        "double well, implicit": Process(
            double_well(losses.Implicit(Early(), times, ExactDivergence()), round(2500 * share), device), SMALL_RING
        ),
    }


def of_the_kl_table(name: str, table: Table, seed: int) -> tuple[Any, sdegen.Run | None]:
    """Return a model as that table trains it, or has trained it."""
    kept = kl_table.model_file(table.beside("kl_table"), name)
    if seed == 0 and not table.quick and kept.exists():
        return sdegen.load(kept, classes=[ring.Warming]), None
    steps = ring.QUICK_STEPS if table.quick else ring.STEPS
    model, run = ring.train(ring.TRAINED[name], steps, seed, table.device)
    return model.cpu(), run


def judged(process: Process, n: int, seed: int) -> Values:
    """Train a model, and return KL and NLL in nats by its flow; where the true score is known on a grid, the bound of the
    reversed SDE too.
    """
    model, run = process.train(seed)
    sde, law = model.sde, process.law
    x = law.sample(n, torch.Generator().manual_seed(1000 + seed))
    z = torch.randn(sde.lift(x).shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2000 + seed))
    # For a state with more numbers than the data, the joint density: its divergence bounds that of the data.
    u, rest = sde.complete(x, z)
    found = sdegen.estimate_log_prob(model, u.float(), joint=True, tolerance=1e-4)
    assert isinstance(found, sdegen.LogProb)
    value, truth = found.value.double() - rest, law.log_prob(x)
    cells: Values = {
        "KL(data‖model)": list(metrics.kl_from_log_ratio(truth, value)),
        "NLL": [-value.mean().item(), value.std().item() / n**0.5],
        "NLL of truth": [-truth.mean().item(), truth.std().item() / n**0.5],
        "evaluations": [found.evaluations, None],
    } | ({} if run is None else {"train s": [run.seconds, None]})
    if not sde.is_linear:
        cells["bound of the SDE"] = [score_error(model, law, seed), None]
        if sde.lag is not None:
            cells["bias of the target"] = [target_bias(sde, law, seed), None]
    return cells


def score_error(model: Any, law: sdegen.GaussianMixture, seed: int) -> float:
    """Return ``½ ∫ E‖Gᵀ (s − ∇ log p_t)‖² dt`` in nats, with the truth from the Fokker–Planck equation."""
    sde = model.sde
    truth = sdegen.FokkerPlanck(sde, law)
    t = sde.T * torch.linspace(0, 1, 41, dtype=torch.float64).square()
    return path_integral(sde, law, t, lambda x, t: model.score(x.float(), t).double() - truth.score(x, t), seed)


def path_integral(
    sde: Any, law: sdegen.GaussianMixture, t: Tensor, error: Callable[[Tensor, Tensor], Tensor], seed: int
) -> float:
    """Return ``½ ∫ E‖Gᵀ error(x, t)‖² dt`` by the trapezoidal rule on the given times, over 2,000 states at each."""
    generator, values = torch.Generator().manual_seed(3000 + seed), []
    with torch.no_grad():
        for time in t:
            x = sde.perturb(law.sample(2000, generator), time, generator=generator).x
            values.append(sde.diffusion(x, time).T(error(x, time)).square().sum(1).mean())
    return 0.5 * torch.trapezoid(torch.stack(values), t).item()


def target_bias(sde: Any, law: sdegen.GaussianMixture, seed: int) -> float:
    """Return what short-kernel denoising would be off by if its network learned the target: nats, as `score_error`.

    The law that training sees is a chain of Heun's steps and one local kernel. Its density follows on a grid by quadrature,
    each step a matrix of transition densities; for a drift that does not depend on time.
    """
    truth = sdegen.FokkerPlanck(sde, law, cells=2000)
    t_0 = torch.zeros((), dtype=torch.float64)
    g2 = sde.diffusion(t_0, t_0).matrix().item() ** 2
    steps = max(8, math.ceil((sde.T - sde.lag) / sde.lag))
    widest = max(part.cells.width.item() for part in truth.parts)
    shortest = steps * (2 * widest) ** 2 / g2  # so that the grid resolves a step
    late = torch.linspace((sde.lag + shortest) ** 0.5, sde.T**0.5, 20, dtype=torch.float64).square()
    t = torch.cat([torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64) * sde.lag, late])
    parts = []
    for part in truth.parts:
        cells, x, width = part.cells, part.cells.centres[:, 0], part.cells.width.item()
        p_0, seen = cells.read(part.splines[0], cells.centres)[0].exp(), []
        for time in t:
            s, p = max(time.item() - sde.lag, 0.0), p_0
            if s > 0:
                M = heun_densities(sde, x, s / steps, g2) * width
                for _ in range(steps):
                    p = M @ p
            kernel = sde.kernel(x, s, time)
            std = kernel.R.matrix()[:, 0, 0]
            z = (x[:, None] - kernel.mean) / std
            p = ((-0.5 * z.square()).exp() / (std * math.sqrt(2 * math.pi))) @ p * width
            seen.append(cells.splines(cells.log_density(p)))
        parts.append(part._replace(splines=torch.stack(seen)))
    chain = copy.copy(truth)
    vars(chain).update(times=t, parts=parts)
    return path_integral(sde, law, t, lambda x, t: chain.score(x, t) - truth.score(x, t), seed)


def heun_densities(sde: Any, x: Tensor, h: float, g2: float) -> Tensor:
    """Return the density at each point of a grid (rows) of one step of Heun's method from each point (columns)."""

    def f(y: Tensor) -> Tensor:
        return sde.drift(y, torch.zeros((), dtype=torch.float64))

    # x' = y + ½ h (f(y) − f(x)) for the predictor y ~ N(x + h f(x), g² h), inverted by Newton's method.
    goal = x[:, None] + 0.5 * h * f(x)
    y = goal.clone()
    for _ in range(8):
        value, slope = value_and_slope(f, y, torch.ones_like(y))
        y = y - (y + 0.5 * h * value - goal) / (1 + 0.5 * h * slope)
    slope = value_and_slope(f, y, torch.ones_like(y))[1]
    z = (y - x - h * f(x)) / math.sqrt(g2 * h)
    return (-0.5 * z.square()).exp() / (math.sqrt(2 * math.pi * g2 * h) * (1 + 0.5 * h * slope))


def processes_block(table: Table) -> str:
    """Return KL and NLL of every process."""
    n = 300 if table.quick else 2000
    rows = {
        name: table.row("processes", name, partial(judged, process, n)) for name, process in processes(table).items()
    }
    columns = {
        "KL(data‖model)": 4, "NLL": 3, "NLL of truth": 3, "bound of the SDE": 4, "bias of the target": 5, "evaluations": 0,
        "train s": 0, "seeds": 0,
    }  # fmt: skip
    return table.write("processes", columns, rows)
