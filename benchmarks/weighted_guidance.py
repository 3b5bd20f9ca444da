"""Two blocks of `benchmarks.weighted_table`: guidance along a mode of a mixture by weighted runs, beside the law it states.

With exact scores, ``p(x | c)^w p(x)^(1 − w)`` is the mode, thinned by the probability of the class to the power ``w − 1``,
which rejection samples in any dimension, and whose mean is the normaliser. Distances are sliced W2 over the mode's standard
deviation; the first column is that of as many exact samples. `ancestors` is the effective share of the first particles that
have descendants, by which a run is judged; ``log Z`` is off by the column of that name, beside the error that the run states:
the mean over the runs that know it, as some say that too few ancestors are left to know it. A seed is another run. Runs have
2,000 particles and a hundred steps, or what the name of the row says.

On these mixtures the class is all but certain at each point of a mode, ``P(c | x)`` is 0.997 on average on the ring and 1 in more
dimensions, so that the stated law is all but the mode itself: what is tested are the weights on the way to it. Modes that overlap
are in `benchmarks.weighted_ways`.

Where members know their densities, `anneal_product` has exact weights, in half the steps, each of two evaluations. The
mixtures there are others than those its default was chosen on, in more than two dimensions another one for each seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import sdegen
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import guidance, metrics, samplers
from sdegen.laws import GaussianMixture

GUIDED = {
    "floor": 4, "corrected": 4, "ratio": 2, "uncorrected": 4, "effective": 2, "ancestors": 3, "log Z off": 3, "stated": 3,
    "seeds": 0,
}  # fmt: skip
ANNEALED = {
    "floor": 4,
    "annealed": 4,
    "ratio": 2,
    "effective": 2,
    "ancestors": 3,
    "log Z off": 3,
    "stated": 3,
    "seeds": 0,
}
STEPS, SCALES = 100, (2.0, 3.0, 5.0)


def mixture_of(dim: int, seed: int = 0, std: float = 0.5) -> GaussianMixture:
    """Return the ring in the plane, a random mixture in more dimensions."""
    return sdegen.data.gaussian_ring(std=std) if dim == 2 else sdegen.data.random_mixture(dim, modes=8, seed=seed)


class Guided:
    """Guidance along the first mode of a mixture, and the law that it states."""

    def __init__(self, law: GaussianMixture, w: float) -> None:
        self.law, self.w = law, w
        self.mode = GaussianMixture(torch.ones(1), law.means[:1], law.covariances[:1])
        sde = sdegen.VP()
        self.product = guidance.Product([(sdegen.Exact(sde, self.mode), w), (sdegen.Exact(sde, self.law), 1 - w)])
        kept = self._odds(self.mode.sample(100_000, torch.Generator().manual_seed(1)))
        self.log_normaliser = kept.mean().log().item() - (w - 1) * self.law.weights[0].log().item()
        self.unit = self.mode.moments().variance().sqrt().item()

    def _odds(self, x: Tensor) -> Tensor:
        """Return the probability of the class to the power ``w − 1``."""
        return self.law.component_log_prob(x).softmax(1)[:, 0] ** (self.w - 1)

    def sample(self, n: int, seed: int) -> Tensor:
        """Draw `n` exact samples, by rejection."""
        draws, found = torch.Generator().manual_seed(seed), torch.empty(0, *self.law.event_shape, dtype=torch.float64)
        while len(found) < n:
            x = self.mode.sample(4 * n, draws)
            found = torch.cat([found, x[torch.rand(len(x), generator=draws, dtype=torch.float64) < self._odds(x)]])
        return found[:n]


Weighted = Callable[[guidance.Product, int, int], guidance.Particles]


def correct(product: guidance.Product, n: int, seed: int, steps: int = STEPS) -> guidance.Particles:
    """Run particles that are weighted by scores alone."""
    return guidance.corrected(product, n, steps=steps, seed=seed, progress=False)


def anneal(product: guidance.Product, n: int, seed: int) -> guidance.Particles:
    """Run particles that are weighted by densities, in half the steps, each of two evaluations, as it has a move."""
    return guidance.anneal_product(product, n, steps=STEPS // 2, seed=seed, progress=False)


def guided(dim: int, w: float, n: int, seed: int, steps: int = STEPS) -> Values:
    """Judge a run of guidance by scores, weighted and not."""
    problem = Guided(mixture_of(dim), w)
    exact = problem.sample(n, 10_000 + seed)

    def apart(x: Tensor) -> list[float | None]:
        return [metrics.sliced_wasserstein(x, exact, seed=seed).value / problem.unit, None]

    plain = sdegen.sample(problem.product, n, sampler=samplers.ExponentialSDE(steps), seed=seed, progress=False)
    row: Values = {"floor": apart(problem.sample(n, 20_000 + seed)), "uncorrected": apart(plain)}
    try:
        found = correct(problem.product, n, seed, steps)
    except ValueError as error:  # the message of a run whose states become infinite
        if "non-finite" not in str(error):
            raise
        return row | {"corrected": "diverges"}
    return row | {
        "corrected": apart(found.sample(n, torch.Generator().manual_seed(seed))),
        "effective": [found.effective / n, None],
        "ancestors": [known(found.ancestors) / n, None],
        "log Z off": [known(found.log_evidence) - problem.log_normaliser, None],
        "stated": stated(found),
    }


def annealed(dim: int, w: float, n: int, seed: int) -> Values:
    """Judge a run of guidance whose members know their densities; in more than two dimensions a seed is another mixture."""
    problem = Guided(mixture_of(dim, 1 + seed), w)
    exact = problem.sample(n, 10_000 + seed)

    def apart(x: Tensor) -> list[float | None]:
        return [metrics.sliced_wasserstein(x, exact, seed=seed).value / problem.unit, None]

    found = anneal(problem.product, n, seed)
    return {
        "floor": apart(problem.sample(n, 20_000 + seed)),
        "annealed": apart(found.sample(n, torch.Generator().manual_seed(seed))),
        "effective": [found.effective / n, None],
        "ancestors": [known(found.ancestors) / n, None],
        "log Z off": [known(found.log_evidence) - problem.log_normaliser, None],
        "stated": stated(found),
    }


def known(value: float | None) -> float:
    """Return a number that a run has estimated, which is not None."""
    assert value is not None
    return value


def stated(found: guidance.Particles) -> list[float | None] | None:
    """Return the error that a run states; None where it says that it cannot know it."""
    error = known(found.evidence_error)
    return [error, None] if math.isfinite(error) else None


def guided_block(table: Table) -> str:
    """Return the table of guidance."""
    n, rows = 500 if table.quick else 2000, {}
    cases = {
        f"{dim} dimensions, w = {w:g}": partial(guided, dim, w, n)
        for dim in ((2,) if table.quick else (2, 8, 32))
        for w in SCALES
    }
    if not table.quick:  # 500 particles: as many evaluations as above; 2,000: four times as many
        cases |= {f"8 dimensions, w = 5, {m} x 400 steps": partial(guided, 8, 5.0, m, steps=400) for m in (500, n)}
    for name, case in cases.items():
        row = table.row("guided", name, case)
        numbers = row and isinstance(row["corrected"], tuple)
        rows[name] = row | ({"ratio": (row["corrected"][0] / row["floor"][0], None)} if numbers else {})
    return "\nGuidance\n\n" + table.write("guided", GUIDED, rows)


def annealed_block(table: Table) -> str:
    """Return the table of guidance whose members know their densities."""
    n, rows = (500, {}) if table.quick else (2000, {})
    for dim in (2,) if table.quick else (2, 8, 32):
        for w in SCALES[1:]:
            row = table.row("annealed", name := f"{dim} dimensions, w = {w:g}", partial(annealed, dim, w, n))
            rows[name] = row | ({"ratio": (row["annealed"][0] / row["floor"][0], None)} if row else {})
    return "\nGuidance, densities known\n\n" + table.write("annealed", ANNEALED, rows)
