"""The KL table: score models on a ring of eight Gaussians, against the truth.

    python -m benchmarks.kl_table            # three seeds, of the rows that are not there yet; --own: two to three hours
    python -m benchmarks.kl_table --quick    # one seed, short trainings: some minutes on two cores

The data are eight Gaussians of standard deviation 0.5 on a circle of radius 4. Five tables follow one another:

- Processes and weightings: a row is a model trained on one process by one weighting, or the exact score of a process, whose
  error is that of the sampler alone, or true samples, the floor of what is estimated from samples. ``KL`` in nats is Monte
  Carlo over data, or over samples of the model, with its density by the probability flow; ``prior gap`` is the KL of the data
  at T to the prior; ``sliced W2``, ``MMD²``, ``k-NN KL`` and ``C2ST`` compare samples with as many true ones; ``p`` tests
  whether the classifier of C2ST guesses; ``kde_kl`` is the source project's measure, and ``source`` what that project printed.
- Architectures: a row is a network, trained by the same process and objective for as many steps.
- Single noise levels (`benchmarks.kl_levels`): a row is an objective, a column the noise level that a network is trained at.
- Langevin dynamics against the probability flow with the exact score (`benchmarks.kl_levels`): a row is a sampler.
- The same with trained scores (`benchmarks.kl_langevin`): a row is an objective and the last noise level.

Errors are over seeds; of one seed they are the estimates' own. Written as CSV, Markdown and a picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.kl_langevin import trained_block
from benchmarks.kl_levels import langevin_block, levels_block
from benchmarks.ring import DETAIL, PROCESSES, QUICK_STEPS, RING, STEPS, TRAINED, Warming, near_the_data, train
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import grids, losses, metrics, nets, plots, samplers, weightings
from sdegen.laws import Units
from sdegen.models import EDMParametrization


@dataclass
class Budget:
    """How many steps, points and samples a run of the table takes."""

    steps: int  # training steps of a row of the first block
    likelihood: int  # points of a KL divergence
    samples: int  # points of the tests on samples
    kde_draws: int  # draws of 5,000 points a seed
    architecture: int  # training steps of a row of architectures
    architecture_likelihood: int
    floors: tuple[str, ...]


FULL = Budget(STEPS, 2500, 10_000, 34, 2000, 1200, tuple(PROCESSES))
QUICK = Budget(QUICK_STEPS, 300, 2_000, 1, 200, 200, ("OU", "two methods"))


def spent(table: Table) -> Budget:
    """Return how many steps, points and samples a run of the table takes."""
    return QUICK if table.quick else FULL


def judge(model: Any, sampler: Any, cheap: Any, budget: Budget, seed: int, device: str, dtype: torch.dtype) -> Values:
    """Return every column of a model that has a density; the many draws of `kde_kl` come from a cheaper sampler."""
    values = flow_divergences(model, budget.likelihood, seed, device, dtype)
    values["prior gap"] = list(metrics.prior_gap(model.sde, RING))
    return values | sample_tests(partial(drawn, model, sampler), partial(drawn, model, cheap), budget, seed)


def drawn(model: Any, sampler: Any, n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` samples in float64."""
    return sdegen.sample(model, n, sampler=sampler, generator=generator).double().cpu()


def flow_divergences(model: Any, n: int, seed: int, device: str, dtype: torch.dtype) -> Values:
    """Return KL in both directions, by the density of the model's flow.

    The standard error has the integrator's error in it, as a tighter tolerance shows it.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    x = RING.sample(n, generator).to(device, dtype)
    flow = samplers.ProbabilityFlow(grid=grids.Angle(end=0.0))
    y = sdegen.sample(model, n, sampler=flow, generator=generator, final="sample").to(device, dtype)
    cells: Values = {}
    for column, points, sign in (("KL(data‖model)", x, 1), ("KL(model‖data)", y, -1)):
        # One draw of the velocity suffices where there is one: exact scores make every draw agree.
        ours: Any = sdegen.log_prob(model, points, draws=1)
        true = RING.log_prob(points.double())
        p, q = (true, ours.double()) if sign == 1 else (ours.double(), true)
        value, stderr = metrics.kl_from_log_ratio(p, q)
        some = points[:TIGHTER]
        tight: Any = sdegen.log_prob(model, some, draws=1, tolerance=1e-8 if dtype == torch.float64 else 1e-6)
        cells[column] = [value, math.hypot(stderr, (ours[:TIGHTER] - tight).double().mean().item())]
    return cells


# What the source project printed for samples of its exact score, one figure for both of its processes.
SOURCE_FLOOR = "25.13"
TIGHTER = 200  # points that are integrated a second time, for the error of the first
Draw = Callable[[int, torch.Generator], Tensor]


def sample_tests(draw: Draw, cheap: Draw, budget: Budget, seed: int) -> Values:
    """Return the columns that are judged on samples alone."""
    generator = torch.Generator().manual_seed(2000 + seed)
    x = draw(budget.samples, generator)
    y = RING.sample(budget.samples, generator)
    test = metrics.classifier_test(x, y, generator=generator)
    return {
        "sliced W2": list(metrics.sliced_wasserstein(x, y, generator=generator)),
        "MMD²·1e4": [1e4 * v for v in metrics.mmd(x, y)],
        "k-NN KL": list(metrics.knn_kl(x, y)),
        "C2ST": list(test.accuracy),
        "p": [test.p_value, None],
        "kde_kl": kde(cheap, budget, generator),
    }


def kde(draw: Draw, budget: Budget, generator: torch.Generator) -> list[float | None]:
    """Return the source project's measure, the mean over draws, with its standard error."""
    values = torch.tensor([metrics.kde_kl_once(draw(5_000, generator), RING) for _ in range(budget.kde_draws)])
    spread = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
    return [values.mean().item(), spread]


COLUMNS = {
    "KL(data‖model)": 5, "KL(model‖data)": 5, "prior gap": 7, "sliced W2": 3, "MMD²·1e4": 2, "k-NN KL": 3, "C2ST": 3,
    "p": 2, "kde_kl": 2, "source": 2, "evaluations": 0, "train s": 0, "seeds": 0,
}  # fmt: skip


def model_file(table: Table, name: str) -> Path:
    """Return where the first seed's model of a row is kept."""
    return table.out / "models" / f"{name.replace(' ', '_')}.safetensors"


def truth(table: Table, seed: int) -> Values:
    """Judge true samples."""
    return sample_tests(RING.sample, RING.sample, spent(table), seed)


def floor(name: str, table: Table, seed: int) -> Values:
    """Judge the exact score of a process."""
    model = sdegen.Exact(PROCESSES[name](), RING)
    # The flow of a matrix process runs in t itself, where it wants more and equal steps.
    sampler = samplers.Heun(200, grids.Uniform()) if name == "CLD" else samplers.Heun(25 if table.quick else 40)
    cells = judge(model, sampler, sampler, spent(table), seed, table.device, torch.float64)
    extra = {"source": SOURCE_FLOOR} if name in ("OU", "DDPM") else {}
    return cells | extra | {"evaluations": [evaluations(sampler), None]}


def trained(name: str, table: Table, seed: int) -> Values:
    """Train a model of an entry, and judge it."""
    entry = TRAINED[name]
    model, run = train(entry, spent(table).steps, seed, table.device)
    sampler: Any = samplers.Heun(25 if table.quick else 40)
    cheap: Any = samplers.Heun(14)
    if entry.learned:
        sampler = samplers.Ancestral(100, variance=samplers.learned_variance)
        cheap = samplers.Ancestral(50, variance=samplers.learned_variance)
    cells = judge(model, sampler, cheap, spent(table), seed, table.device, torch.float32)
    if seed == 0:
        model_file(table, name).parent.mkdir(parents=True, exist_ok=True)
        sdegen.save(model, model_file(table, name))
    extra = {"source": f"{entry.source:.2f}"} if entry.source else {}
    return cells | extra | {"evaluations": [evaluations(sampler), None], "train s": [run.seconds, None]}


def processes_block(table: Table) -> str:
    """Return true samples, exact scores and trained models of every process."""
    rows = {"true samples": table.row("kl", "true samples", partial(truth, table))}
    for name in spent(table).floors:
        # Nothing is trained here: one seed, with the estimates' own errors.
        rows[f"exact score, {name}"] = table.row("kl exact", name, partial(floor, name, table), once=True)
    for name in TRAINED:
        rows[name] = table.row("kl", name, partial(trained, name, table))
    return table.write("kl", COLUMNS, rows)


def evaluations(sampler: Any) -> int:
    """Return the network evaluations of a run with a final denoising move."""
    return 2 * (sampler.steps - 1) + 1 if isinstance(sampler, samplers.Heun) else sampler.steps


class Number(torch.nn.Module):
    """An embedding of the noise level: the number itself, in place of sines of it."""

    dim = 1

    def forward(self, u: Tensor) -> Tensor:
        return u[:, None]


ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    "MLP, depth 2": partial(nets.MLP, 2, width=96, depth=2),
    "MLP, depth 4": partial(nets.MLP, 2, width=96, depth=4),
    "MLP, depth 8": partial(nets.MLP, 2, width=96, depth=8),
    "MLP, depth 2, no residuals": partial(nets.MLP, 2, width=96, depth=2, residual=False),
    "MLP, depth 4, no residuals": partial(nets.MLP, 2, width=96, depth=4, residual=False),
    "MLP, depth 8, no residuals": partial(nets.MLP, 2, width=96, depth=8, residual=False),
    "MLP, depth 4, batch normalisation": partial(nets.MLP, 2, width=96, depth=4, batch_norm=True),
    "MLP, depth 4, batch normalisation, no residuals": partial(
        nets.MLP, 2, width=96, depth=4, residual=False, batch_norm=True
    ),
    "MLP, depth 4, level as a number": lambda: nets.MLP(2, width=96, depth=4, embedding=Number()),
    "transformer over coordinates": partial(nets.CoordinateTransformer, 2),
    "hypernetwork": partial(nets.HyperMLP, 2),
}


SEEDS = {  # rows with fewer seeds; with eight blocks and no residuals the flow of a second seed is too rough to be followed
    "MLP, depth 4, batch normalisation": 2, "MLP, depth 4, batch normalisation, no residuals": 2,
    "MLP, depth 4, level as a number": 2, "MLP, depth 8, no residuals": 1,
}  # fmt: skip


def architecture(name: str, table: Table, seed: int) -> Values:
    """Train a network by the same process and objective for as many steps, and judge it."""
    torch.manual_seed(seed)
    net = ARCHITECTURES[name]()
    sde = sdegen.VP().in_units(Units())  # the ring's own units, which the settings are in
    model = sdegen.Model(net, sde, EDMParametrization(detail=DETAIL, delta=0.03)).to(table.device)
    weighting = weightings.LikelihoodWeighting()
    objective = losses.Denoising(weighting, weightings.ImportanceTimes(partial(near_the_data, weighting, -0.3)))
    run = sdegen.fit(model, RING, steps=spent(table).architecture, loss=objective, seed=seed)
    cells = flow_divergences(model, spent(table).architecture_likelihood, seed, table.device, torch.float32)
    size = sum(p.numel() for p in net.parameters())
    return cells | {"parameters": [size, None], "steps": [run.steps, None], "train s": [run.seconds, None]}


def architectures_block(table: Table) -> str:
    """Return networks of several architectures."""
    rows = {
        name: table.row("architecture", name, partial(architecture, name, table), seeds=SEEDS.get(name))
        for name in ARCHITECTURES
    }
    columns = {"KL(data‖model)": 5, "KL(model‖data)": 5, "parameters": 0, "steps": 0, "train s": 0, "seeds": 0}
    return table.write("architectures", columns, rows)


def picture(table: Table) -> None:
    """Draw the densities of models that this folder has beside the truth."""
    files = {name: model_file(table, name) for name in [*list(TRAINED)[:4], list(TRAINED)[-1]]}
    shown = {name: sdegen.load(path, classes=[Warming]) for name, path in files.items() if path.exists()}
    if not shown:
        return
    figure, axes = plt.subplots(1, len(shown) + 1, figsize=(3 * len(shown) + 3, 3.2))
    points = 48 if table.quick else 100  # points a side of the grid, a likelihood at each
    plots.density(RING, ax=axes[0], points=points, title="truth")
    for (name, model), ax in zip(shown.items(), axes[1:], strict=True):
        plots.density(model, ax=ax, points=points, title=name)
    figure.savefig(table.out / "densities.png", dpi=110, bbox_inches="tight")


def main() -> None:
    """Print the table."""
    blocks = [processes_block, architectures_block, levels_block, langevin_block, trained_block]
    command.run("kl_table", __doc__, blocks, picture=picture, shared=True, networks=True)


if __name__ == "__main__":
    main()
