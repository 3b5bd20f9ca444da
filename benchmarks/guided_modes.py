"""Guided modes: what classifier-free guidance samples of one mode of a ring, beside the laws it is taken for.

    python -m benchmarks.guided_modes            # one seed, a minute of training
    python -m benchmarks.guided_modes --quick

The data are eight Gaussians on a ring, the condition is which of them. A network trained with labels and without is guided
by `ClassifierFree`, and so is the exact conditional score in many steps: that is the law guidance really samples. It has
one for each sampler: the guided score is the score of no diffused law, so flow and reversed SDE end in different ones. Each
is set against exact samples of the mode, and against the product ``p(x | c)^w p(x)^(1 − w)``, normalised on a grid, which
guidance is often said to sample.

All eight labels are asked for, and their samples turned onto the first mode. A row's own samples are never those it is
compared with, so rows of equal laws show the floor. ``radius`` is the mean along the mode's direction, 4 in the data, and ``std``
that of a coordinate, 0.5 in the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.files import made
from benchmarks.ring import DETAIL, RING, near_the_data
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import losses, metrics, nets, samplers, weightings
from sdegen.guidance import ClassifierFree
from sdegen.laws import Units
from sdegen.models import EDMParametrization
from sdegen.models.exact import ExactConditional

SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
Draw = Callable[[int, int], Tensor]  # how many, seed -> samples of the first mode


def one(k: int) -> sdegen.GaussianMixture:
    """Return the law of the mode `k` alone."""
    return sdegen.GaussianMixture(torch.ones(1), RING.means[k : k + 1], RING.covariances[k : k + 1])


MODES = [one(k) for k in range(len(RING.means))]
TRUTH = ExactConditional(sdegen.VP(), MODES, RING)


@dataclass
class Budget:
    """How many steps and samples a run of the table takes."""

    steps: int  # of the training
    samples: int
    flow: int  # steps of the exact flow
    reversed: int  # steps of the exact reversed SDE


FULL = Budget(6000, 8000, 200, 1000)
QUICK = Budget(500, 2000, 50, 100)


class Product:
    """The law ``p(x | c)^w p(x)^(1 − w) / Z`` of the first mode, constant on the cells of a grid over the square ``[−9, 9]²``."""

    def __init__(self, w: float, points: int = 1000) -> None:
        self.cell = 18 / points
        side = -9 + self.cell * (0.5 + torch.arange(points, dtype=torch.float64))
        self.points = torch.cartesian_prod(side, side)
        blocks = self.points.split(100_000)
        log_p = torch.cat([w * MODES[0].log_prob(x) + (1 - w) * RING.log_prob(x) for x in blocks])
        self.masses = log_p.softmax(0)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw `n` samples: a cell by its mass, and a place in it."""
        cells = torch.multinomial(self.masses, n, replacement=True, generator=generator)
        return self.points[cells] + self.cell * (torch.rand(n, 2, generator=generator, dtype=torch.float64) - 0.5)


def train(seed: int, steps: int, device: str) -> sdegen.Model:
    """Train a perceptron on the ring, with labels and without."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = nets.MLP(2, width=96, depth=3, classes=len(MODES))
    sde = TRUTH.sde.in_units(Units())  # the units that the true scores are in
    model = sdegen.Model(net, sde, EDMParametrization(detail=DETAIL, delta=0.03)).to(device)
    weighting = weightings.LikelihoodWeighting()
    objective = losses.Denoising(weighting, weightings.ImportanceTimes(partial(near_the_data, weighting, -0.3)))
    x = torch.stack([mode.sample(50_000, generator) for mode in MODES], 1)
    label = torch.arange(len(MODES)).expand(x.shape[:2])
    data = (x.flatten(0, 1).float().to(device), label.flatten().to(device))
    sdegen.fit(model, data, steps=steps, loss=objective, p_uncond=0.2, seed=seed)
    return model


def guided(model: Any, scale: float, sampler: Any, n: int, seed: int) -> Tensor:
    """Draw samples of all labels under guidance, turned onto the first mode."""
    label = torch.arange(n) % len(MODES)
    like = model.like
    own = label if like is None else label.to(like.device)
    x = sdegen.sample(ClassifierFree(model, scale), n, sampler=sampler, seed=seed, label=own).double().cpu()
    turn = RING.means[label] / RING.means[label].norm(dim=1, keepdim=True)  # cosine and sine of the mode's angle
    return torch.stack([(x * turn).sum(1), x[:, 1] * turn[:, 0] - x[:, 0] * turn[:, 1]], 1)


def laws(scale: float, trained: Callable[[], Any], budget: Budget) -> dict[str, Draw]:
    """Return what is compared at a scale, by name."""
    return {
        "product law": lambda n, seed: Product(scale).sample(n, torch.Generator().manual_seed(seed)),
        "exact score, flow": partial(guided, TRUTH, scale, samplers.Heun(budget.flow)),
        "exact score, reversed SDE": partial(guided, TRUTH, scale, samplers.EulerMaruyama(budget.reversed)),
        "network, flow": lambda n, seed: guided(trained(), scale, samplers.Heun(40), n, seed),
    }


def compare(x: Tensor, y: Tensor, to: str, seed: int) -> Values:
    """Return distances of samples `x` to those `y` of the law `to`."""
    w2 = metrics.sliced_wasserstein(x, y, generator=torch.Generator().manual_seed(seed))
    return {f"W2 to {to}": list(w2), f"KL({to}‖row)": list(metrics.knn_kl(x, y))}


TO = ("mode", "product", "exact flow")
COLUMNS = {f"{name}": 3 for to in TO for name in (f"W2 to {to}", f"KL({to}‖row)")} | {"radius": 3, "std": 3, "seeds": 0}


def spent(table: Table) -> Budget:
    """Return how many steps and samples a run of the table takes."""
    return QUICK if table.quick else FULL


def network_file(table: Table, seed: int) -> Path:
    """Return where the trained network is kept."""
    return table.out / "models" / f"network-{seed}.safetensors"


def network(table: Table, seed: int) -> Any:
    """Return the network, trained where it is not there yet."""

    def learn(path: Path) -> None:
        sdegen.save(train(seed, spent(table).steps, table.device), path)

    return sdegen.load(made(network_file(table, seed), learn)).to(table.device)


def mode(n: int, seed: int) -> Tensor:
    """Return samples of the first mode."""
    return MODES[0].sample(n, torch.Generator().manual_seed(seed))


def modes_block(table: Table) -> str:
    """Return the laws at every scale, and their distances from the mode, the product and the exact flow."""
    budget = spent(table)
    n = budget.samples
    trained = cache(partial(network, table))

    @cache
    def references(scale: float, seed: int) -> dict[str, Tensor]:
        """Draw samples of what the rows are compared with, by seeds that no row uses."""
        own = laws(scale, lambda: trained(seed), budget)
        return {
            "mode": mode(n, 1000 + seed),
            "product": own["product law"](n, 2000 + seed),
            "exact flow": own["exact score, flow"](n, 3000 + seed),
        }

    def compute(scale: float, name: str, seed: int) -> Values:
        draw = mode if name == "mode" else laws(scale, lambda: trained(seed), budget)[name]
        x = draw(n, 4000 + seed)
        values: Values = {"radius": [x[:, 0].mean().item(), None], "std": [x.var(0).mean().sqrt().item(), None]}
        for to, y in references(scale, seed).items():
            values |= compare(x, y, to, seed)
        return values

    rows = {}
    for scale in SCALES:
        for name in ("mode", *laws(scale, lambda: None, budget)):
            label = f"w = {scale:g}, {name}"
            rows[label] = table.row("guided", label, partial(compute, scale, name))
    return table.write("guided_modes", COLUMNS, rows)


def picture(table: Table) -> None:
    """Draw, if the network is there, a row a law and a column a scale: 1,000 samples, and circles of two standard deviations."""
    if not network_file(table, 0).exists():
        return
    budget, trained = spent(table), cache(partial(network, table, 0))
    names = list(laws(1.0, trained, budget))
    figure, axes = plt.subplots(
        len(names), len(SCALES), figsize=(2 * len(SCALES), 2 * len(names)), layout="constrained"
    )
    for column, scale in zip(axes.T, SCALES, strict=True):
        for ax, (name, draw) in zip(column, laws(scale, trained, budget).items(), strict=True):
            x = draw(1000, 0)
            ax.scatter(*x.T.numpy(), s=1, linewidths=0, color="#b5462f")
            for mean, variance in zip(RING.means.tolist(), RING.covariances.tolist(), strict=True):
                ax.add_patch(plt.Circle(mean, 2 * variance**0.5, fill=False, linewidth=0.6, color="#1b2a41"))
            ax.set(xlim=(0.5, 9.5), ylim=(-4.5, 4.5), aspect="equal", xticks=[], yticks=[])
            if scale == SCALES[0]:
                ax.set_ylabel(name, fontsize=8)
        column[0].set_title(f"w = {scale:g}", fontsize=9)
    figure.savefig(table.out / "guided_modes.png", dpi=110)


def main() -> None:
    """Print the table."""
    command.run("guided_modes", __doc__, [modes_block], seeds=1, picture=picture, networks=True)


if __name__ == "__main__":
    main()
