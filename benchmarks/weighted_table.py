"""Weighted runs of products of laws: what they sample beside the law that is stated, and how their errors keep to what they say.

    python -m benchmarks.weighted_table            # twenty minutes of one core
    python -m benchmarks.weighted_table --quick

The parts are guidance along a mode by weighted runs (`benchmarks.weighted_guidance`), published ways of guidance beside its law
(`benchmarks.weighted_ways`), products in the plane without closed form beside the law by quadrature (`laws.PlanarLaw`), here,
posteriors given several observations (`benchmarks.weighted_posteriors`), and how often stated errors cover the truth
(`benchmarks.weighted_errors`).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.weighted_errors import coverage_block
from benchmarks.weighted_guidance import STEPS, anneal, annealed_block, guided_block, known
from benchmarks.weighted_posteriors import several_block
from benchmarks.weighted_ways import named_block
from sdegen import guidance, metrics, samplers
from sdegen.laws import GaussianMixture, PlanarLaw

PLANE = {"floor": 4, "weighted": 4, "unweighted": 4, "ancestors": 3, "log Z off": 4, "stated": 4, "seeds": 0}

RING, GAUSSIAN = sdegen.data.gaussian_ring(), GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([9.0]))
PLANAR: dict[str, tuple[tuple[GaussianMixture, float], ...]] = {
    "ring^0.6 gaussian^0.4": ((RING, 0.6), (GAUSSIAN, 0.4)),
    "ring^1.5 gaussian^-0.5": ((RING, 1.5), (GAUSSIAN, -0.5)),
    "ring^0.5 turned ring^0.5": (
        (RING, 0.5),
        (
            GaussianMixture(
                RING.weights, RING.means @ torch.tensor([[0.8, 0.6], [-0.6, 0.8]]).to(RING.means), RING.covariances
            ),
            0.5,
        ),
    ),
}


def planar(name: str, n: int, seed: int) -> Values:
    """Judge runs of a product in the plane that has no closed form, by exact weights and unweighted, beside the law by
    quadrature.
    """
    factors = PLANAR[name]
    law = PlanarLaw(
        lambda x: sum((power * p.log_prob(x) for p, power in factors), torch.zeros(len(x))), (-14, -14), (14, 14), 200
    )
    product = guidance.Product([(sdegen.Exact(sdegen.VP(), p), power) for p, power in factors])
    exact, again = (law.sample(n, torch.Generator().manual_seed(k + seed)) for k in (10_000, 20_000))
    unit = law.moments().variance().sqrt().item()

    def apart(x: Tensor) -> list[float | None]:
        return [metrics.sliced_wasserstein(x, exact, seed=seed).value / unit, None]

    found = anneal(product, n, seed)
    plain = sdegen.sample(product, n, sampler=samplers.ExponentialSDE(STEPS), seed=seed, progress=False)
    return {
        "floor": apart(again),
        "weighted": apart(found.sample(n, torch.Generator().manual_seed(seed))),
        "unweighted": apart(plain),
        "ancestors": [known(found.ancestors) / n, None],
        "log Z off": [known(found.log_evidence) - law.log_normaliser, None],
        "stated": [known(found.evidence_error), None],
    }


def planar_block(table: Table) -> str:
    """Return the table of products in the plane."""
    n = 500 if table.quick else 2000
    rows = {name: table.row("planar", name, partial(planar, name, n)) for name in PLANAR}
    return "\nProducts in the plane without closed form\n\n" + table.write("planar", PLANE, rows)


def main() -> None:
    """Print the tables."""
    command.run(
        "weighted_table",
        __doc__,
        [guided_block, annealed_block, named_block, planar_block, several_block, coverage_block],
    )


if __name__ == "__main__":
    main()
