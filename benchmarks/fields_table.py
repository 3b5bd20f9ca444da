"""Signals and volumes: networks of one and of three dimensions, trained on laws that are known.

    python -m benchmarks.fields_table --threads 1            # two seeds, six minutes of one core
    python -m benchmarks.fields_table --quick

Data are mixtures of two Gaussian fields on a grid, smooth ones about +0.7 and rough ones about -0.7, whose numbers in the cosine
basis are independent: so all axes are known, and log-densities, moments and samples are exact. ``sliced W2`` is to as many true
samples. ``axes KL`` is that of Gaussians with the moments of samples and of the law along each principal axis, summed, in nats;
``smooth`` the share of samples that are more likely smooth than rough, by their posterior, less the law's. ``KL`` is that of the
law to the model, in nats, by densities of the flow on true samples. The first row is what true samples come to, the second a
Gaussian law of the mixture's mean and covariance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import sdegen
from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import metrics, nets
from sdegen.laws.bases import CosineBasis

COLUMNS = {"sliced W2": 3, "axes KL": 2, "smooth": 3, "KL": 1, "steps": 0, "train s": 0, "seeds": 0}
# Smooth fields first, then rough ones; lengths in grid cells.
WEIGHTS, MEANS, LENGTHS = (0.4, 0.6), (0.7, -0.7), (2.0, 0.5)
WHITE = 0.1  # share of white noise in the variance of a field, which is 1
DATA = 20_000


@dataclass(frozen=True)
class Row:
    """A network, and how it is trained."""

    build: Callable[[], nn.Module]
    steps: int
    batch: int
    lr: float = 3e-3


GRIDS: dict[str, tuple[int, ...]] = {"signals": (32,), "volumes": (5, 4, 6)}
ROWS = {
    "signals": {
        "UNet": Row(lambda: nets.UNet(1, (64, 96), dims=1), 500, 64),
        "DiT": Row(lambda: nets.DiT(1, 2, 96, 4, dims=1), 500, 64, 2e-3),
    },
    "volumes": {"UNet": Row(lambda: nets.UNet(1, (32, 48), dims=3), 1200, 32)},
}


def mixture(grid: tuple[int, ...]) -> sdegen.GaussianMixture:
    """Return the law of fields on a grid, diagonal in the cosine basis."""
    frequencies = (math.pi * torch.arange(n, dtype=torch.float64) / n for n in grid)
    squares = torch.stack(torch.meshgrid(*frequencies, indexing="ij")).square().sum(0)
    shapes = [(1 + length**2 * squares) ** (-0.5 * (len(grid) + 3)) for length in LENGTHS]
    variances = torch.stack([(1 - WHITE) * shape / shape.mean() + WHITE for shape in shapes])
    means = torch.stack([torch.full((1, *grid), mean, dtype=torch.float64) for mean in MEANS])
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    return sdegen.GaussianMixture(weights, means, variances[:, None], CosineBasis(len(grid)))


def moments(law: sdegen.GaussianMixture) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of the law along each principal axis."""
    assert law.basis is not None
    weights, means = law.weights.reshape(-1, *[1] * len(law.event_shape)), law.basis(law.means)
    mean = (weights * means).sum(0)
    return mean, (weights * (law.covariances + means.square())).sum(0) - mean.square()


def gaussian(law: sdegen.GaussianMixture) -> sdegen.GaussianMixture:
    """Return the Gaussian law of the same mean and covariance."""
    assert law.basis is not None
    mean, variance = moments(law)
    return sdegen.GaussianMixture(torch.ones(1), law.basis.inverse(mean[None]), variance[None], law.basis)


def judged(law: sdegen.GaussianMixture, x: Tensor, seed: int) -> Values:
    """Return the columns of samples."""
    assert law.basis is not None
    x = x.double()
    reference = law.sample(len(x), torch.Generator().manual_seed(10_000 + seed))
    mean, variance = moments(law)
    along = law.basis(x)
    ratio, off = along.var(0) / variance, (along.mean(0) - mean).square() / variance
    smooth = law.component_log_prob(x).softmax(1)[:, 0]
    w2 = metrics.sliced_wasserstein(x, reference, seed=seed)
    return {
        "sliced W2": [w2.value, w2.stderr],
        "axes KL": [0.5 * (ratio - 1 - ratio.log() + off).sum().item(), None],
        "smooth": [(smooth.mean() - law.weights[0]).item(), (smooth.std() / len(x) ** 0.5).item()],
    }


def divergence(law: sdegen.GaussianMixture, log_prob: Callable[[Tensor], Tensor], n: int, seed: int) -> list[float]:
    """Return KL of the law to a density, on true samples, and its standard error."""
    y = law.sample(n, torch.Generator().manual_seed(20_000 + seed))
    gap = law.log_prob(y) - log_prob(y)
    return [gap.mean().item(), (gap.std() / n**0.5).item()]


def true(law: sdegen.GaussianMixture, n: int, seed: int) -> Values:
    """Judge true samples: the floor."""
    return judged(law, law.sample(n, torch.Generator().manual_seed(seed)), seed)


def alike(law: sdegen.GaussianMixture, n: int, seed: int) -> Values:
    """Judge a Gaussian law of the same moments."""
    other = gaussian(law)
    kl = divergence(law, other.log_prob, n, seed)
    return judged(law, other.sample(n, torch.Generator().manual_seed(seed)), seed) | {"KL": kl}


def trained(law: sdegen.GaussianMixture, row: Row, n: int, table: Table, seed: int) -> Values:
    """Train a network, and judge its samples and its density."""
    data = law.sample(DATA, torch.Generator().manual_seed(30_000 + seed)).float()
    torch.manual_seed(seed)
    model = sdegen.Model(row.build(), sdegen.VP())
    steps = 10 if table.quick else row.steps
    began = time.process_time()
    fit_on(table.device, model, data, steps=steps, batch_size=row.batch, lr=row.lr, seed=seed, progress=False)
    spent = time.process_time() - began
    x = sdegen.sample(model, n, steps=20, seed=seed, progress=False)
    probes = torch.Generator().manual_seed(seed)
    four = sdegen.derivatives.Hutchinson(4)
    density = partial(sdegen.log_prob, model, divergence=four, tolerance=1e-2, generator=probes)
    kl = divergence(law, lambda y: density(y.float()).double(), 8 if table.quick else 64, seed)
    return judged(law, x, seed) | {"KL": kl, "steps": [steps, None], "train s": [spent, None]}


def fields_block(stem: str, table: Table) -> str:
    """Return the table of signals, or of volumes."""
    n, law = 100 if table.quick else 1000, mixture(GRIDS[stem])
    rows = {
        "true samples (floor)": table.row(stem, "true samples", partial(true, law, n)),
        "a Gaussian of the same moments": table.row(stem, "Gaussian", partial(alike, law, n)),
    }
    for name, row in ROWS[stem].items():
        rows[name] = table.row(stem, name, partial(trained, law, row, n, table))
    return f"\n{stem} {GRIDS[stem]}\n\n" + table.write(stem, COLUMNS, rows)


def main() -> None:
    """Print the tables."""
    command.run("fields_table", __doc__, [partial(fields_block, stem) for stem in GRIDS], seeds=2, networks=True)


if __name__ == "__main__":
    main()
