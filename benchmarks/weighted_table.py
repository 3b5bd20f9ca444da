"""Weighted runs of products of laws: what they sample beside the law that is stated, and how their errors keep to what they say.

    python -m benchmarks.weighted_table            # about a quarter of an hour of one core
    python -m benchmarks.weighted_table --quick

Guidance along one mode of a mixture, ``p(x | c)^w p(x)^(1 − w)``, with exact scores: the law is the mode, thinned by the
probability of the class to the power ``w − 1``, which rejection samples in any dimension, and whose mean is the normaliser.
Distances are sliced W2 over the mode's standard deviation; the first column is that of as many exact samples. `ancestors` is the
effective share of the first particles that have descendants, by which a run is judged; ``log Z`` is off by the column of that
name, beside the error that the run states. A seed is another run.

Where members know their densities, `anneal_product` has exact weights, in half the steps, each of two evaluations. The
mixtures there are others than those its default was chosen on, in more than two dimensions another one for each seed.

Published ways of guidance, by the flow in as many steps, are beside the law that guidance states: sliced W2 in multiples
of the floor, also for modes that overlap, of three times the width. Autoguidance has the mode blurred to twice its variance for
its weaker model, and states another law than the others.

Products in the plane without closed form are beside the law by quadrature, `laws.PlanarLaw`.

Several observations of one datum, ``∏ p(x | y_i) p(x)^(1 − n)``: the posterior is known. The last table is the share of runs
whose normaliser is within one and two of their own stated errors, for which 0.68 and 0.95 are nominal.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import guidance, measurements, metrics, samplers
from sdegen.laws import GaussianMixture, PlanarLaw, multiply_laws

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
SEVERAL = {"width": 3, "mean off": 2, "log Z off": 4, "stated": 4, "seeds": 0}
COVERAGE = {"within one": 2, "within two": 2, "bias": 3, "spread": 3, "stated": 3, "seeds": 0}
NAMED = {"w = 2": 2, "w = 3": 2, "w = 5": 2, "seeds": 0}
PLANE = {"floor": 4, "weighted": 4, "unweighted": 4, "ancestors": 3, "log Z off": 4, "stated": 4, "seeds": 0}
STEPS, SCALES = 100, (2.0, 3.0, 5.0)
LAMBDAS = {
    2.0: 0.2,
    3.0: 0.27,
    5.0: 0.4,
}  # of CFG++, beside the scales that its authors compare them with; 3 is between


class Guided:
    """Guidance along the first mode of a mixture, and the law that it states."""

    def __init__(self, dim: int, w: float, mixture: int = 0, std: float = 0.5) -> None:
        ring = dim == 2
        self.law = (
            sdegen.data.gaussian_ring(std=std) if ring else sdegen.data.random_mixture(dim, modes=8, seed=mixture)
        )
        self.mode, self.w = GaussianMixture(torch.ones(1), self.law.means[:1], self.law.covariances[:1]), w
        sde = sdegen.VP()
        self.product = guidance.Product([(sdegen.Exact(sde, self.mode), w), (sdegen.Exact(sde, self.law), 1 - w)])
        kept = self._odds(self.mode.sample(100_000, torch.Generator().manual_seed(1)))
        self.log_normaliser = kept.mean().log().item() - (w - 1) * self.law.weights[0].log().item()
        self.unit = self.mode.moments().variance().sqrt().item()

    def _odds(self, x: Tensor) -> Tensor:
        """The probability of the class to the power ``w − 1``."""
        return self.law.component_log_prob(x).softmax(1)[:, 0] ** (self.w - 1)

    def sample(self, n: int, seed: int) -> Tensor:
        """`n` exact samples, by rejection."""
        draws, found = torch.Generator().manual_seed(seed), torch.empty(0, *self.law.event_shape, dtype=torch.float64)
        while len(found) < n:
            x = self.mode.sample(4 * n, draws)
            found = torch.cat([found, x[torch.rand(len(x), generator=draws, dtype=torch.float64) < self._odds(x)]])
        return found[:n]


Weighted = Callable[[guidance.Product, int, int], guidance.Particles]


def correct(product: guidance.Product, n: int, seed: int) -> guidance.Particles:
    """A run by scores alone."""
    return guidance.corrected(product, n, steps=STEPS, seed=seed, progress=False)


def anneal(product: guidance.Product, n: int, seed: int) -> guidance.Particles:
    """A run by densities of half the steps, and so of as many evaluations, as each step has a move."""
    return guidance.anneal_product(product, n, steps=STEPS // 2, seed=seed, progress=False)


def guided(dim: int, w: float, n: int, seed: int) -> Values:
    """A run of guidance, corrected and not."""
    problem = Guided(dim, w)
    exact = problem.sample(n, 10_000 + seed)

    def apart(x: Tensor) -> list[float | None]:
        return [metrics.sliced_wasserstein(x, exact, seed=seed).value / problem.unit, None]

    plain = sdegen.sample(problem.product, n, sampler=samplers.ExponentialSDE(STEPS), seed=seed, progress=False)
    row: Values = {"floor": apart(problem.sample(n, 20_000 + seed)), "uncorrected": apart(plain)}
    try:
        found = correct(problem.product, n, seed)
    except ValueError as error:  # a run that leaves the floats says so
        if "non-finite" not in str(error):
            raise
        return row | {"corrected": "diverges"}
    return row | {
        "corrected": apart(found.sample(n, torch.Generator().manual_seed(seed))),
        "effective": [found.effective / n, None],
        "ancestors": [known(found.ancestors) / n, None],
        "log Z off": [known(found.log_evidence) - problem.log_normaliser, None],
        "stated": [known(found.evidence_error), None],
    }


def annealed(dim: int, w: float, n: int, seed: int) -> Values:
    """A run of guidance whose members know their densities; in more than two dimensions a seed is another mixture."""
    problem = Guided(dim, w, mixture=1 + seed)
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
        "stated": [known(found.evidence_error), None],
    }


def known(value: float | None) -> float:
    """A number that a run has estimated."""
    assert value is not None
    return value


Labelled = Callable[[sdegen.ExactConditional, float, Guided], sdegen.models.ScoreModel]


def interval_of(sde: sdegen.LinearSDE) -> tuple[float, float]:
    """The times between whose levels guidance acts, ``σ / α`` from .3 to 5 in units of the process."""
    low, high = (float(sde.time(torch.tensor(level, dtype=torch.float64) ** -2)) for level in (0.3, 5.0))
    return low, high


def blurred(m: sdegen.ExactConditional, w: float, problem: Guided) -> guidance.Autoguidance:
    """Guidance of the mode away from the mode with twice the variance."""
    weak = GaussianMixture(torch.ones(1), problem.mode.means, 2 * problem.mode.covariances)
    return guidance.Autoguidance(guidance.Without(m, label=torch.tensor(0)), sdegen.Exact(m.sde, weak), w)


WAYS: dict[str, Labelled] = {
    "classifier-free, flow": lambda m, w, problem: guidance.ClassifierFree(m, w),
    "in an interval": lambda m, w, problem: guidance.ClassifierFree(m, w, interval=interval_of(m.sde)),
    "APG": lambda m, w, problem: guidance.APG(m, w),
    "CFG++": lambda m, w, problem: guidance.CFGPlusPlus(m, LAMBDAS[w], samplers.DDIM(STEPS).times(m.sde, denoise=True)),
    "CFG-Zero*": lambda m, w, problem: guidance.CFGZeroStar(m, w, rest=0.96 * m.sde.T),
    "autoguidance": blurred,
}


def flow(way: Labelled, w: float, problem: Guided, n: int, seed: int) -> Tensor:
    """Samples of a way of guidance by the flow."""
    labelled = sdegen.ExactConditional(sdegen.VP(), [problem.mode], problem.law)
    model, sampler = way(labelled, w, problem), samplers.DDIM(STEPS)
    if way is blurred:
        return sdegen.sample(model, n, sampler=sampler, seed=seed, progress=False)
    return sdegen.sample(model, n, sampler=sampler, seed=seed, progress=False, label=0)


def weighted(run_of: Weighted, w: float, problem: Guided, n: int, seed: int) -> Tensor:
    """Samples of a weighted run, drawn by their weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `guided` says what such runs are worth
        found = run_of(problem.product, n, seed)
    return found.sample(n, torch.Generator().manual_seed(seed))


Drawn = Callable[[float, Guided, int, int], Tensor]

CASES: dict[str, Drawn] = {
    "the class alone": lambda w, problem, n, seed: problem.mode.sample(n, torch.Generator().manual_seed(30_000 + seed)),
    "corrected": partial(weighted, correct),
    "densities known": partial(weighted, anneal),
    **{name: partial(flow, way) for name, way in WAYS.items()},
}
PLACES = {
    "2 dimensions": (2, 0.5),
    "2 dimensions, overlapping": (2, 1.5),
    "8 dimensions": (8, 0.5),
    "32 dimensions": (32, 0.5),
}


def named(place: str, case: str, n: int, seed: int) -> Values:
    """Samples beside the law that guidance states, at each scale, in multiples of the floor."""
    row: Values = {}
    for w in SCALES:
        dim, std = PLACES[place]
        problem = Guided(dim, w, std=std)
        exact, again = (problem.sample(n, k + seed) for k in (10_000, 20_000))
        floor = metrics.sliced_wasserstein(again, exact, seed=seed).value
        try:
            x = CASES[case](w, problem, n, seed)
        except ValueError as error:  # a run that leaves the floats says so
            if "non-finite" not in str(error):
                raise
            row[f"w = {w:g}"] = "diverges"
            continue
        row[f"w = {w:g}"] = [metrics.sliced_wasserstein(x, exact, seed=seed).value / floor, None]
    return row


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
    """A product in the plane that has no closed form, by exact weights, beside the law by quadrature."""
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


def several(number: int, dim: int, n: int, seed: int) -> Values:
    """A run of the posterior given so many observations of one datum."""
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, dim), torch.linspace(0.5, 2.0, dim)[None])
    measured = measurements.Linear(torch.eye(dim) + 0.5 * torch.ones(dim, dim).triu(1), 1.0)
    draws = torch.Generator().manual_seed(seed)
    ys = measured.sample(prior.sample(1, draws).expand(number, -1), draws)
    truth, factors = prior, [(prior, 1.0 - number)]
    for y in ys:
        truth = measurements.mixture_posterior(truth, measured, y)
        factors.append((measurements.mixture_posterior(prior, measured, y), 1.0))
    model = guidance.Product([(sdegen.Exact(sdegen.VP(), law), power) for law, power in factors])
    found, (mean, C) = correct(model, n, seed), truth.moments()
    variances = C.diagonal()
    width = (found.mean((found.x - found.mean()).square()) / variances).mean().sqrt()
    off = ((found.mean() - mean).square() * n / variances).mean().sqrt()
    return {
        "width": [width.item(), None],
        "mean off": [off.item(), None],
        "log Z off": [known(found.log_evidence) - multiply_laws(factors).log_normaliser, None],
        "stated": [known(found.evidence_error), None],
    }


def covered(w: float, n: int, runs: int, run_of: Weighted, seed: int) -> Values:
    """How often the stated error of a kind of run covers what the normaliser is off by."""
    problem, off, stated = Guided(2, w), [], []
    for run in range(runs):
        found = run_of(problem.product, n, 1000 * seed + run)
        off.append(known(found.log_evidence) - problem.log_normaliser)
        stated.append(known(found.evidence_error))
    errors, own = torch.tensor(off), torch.tensor(stated)

    def within(k: int) -> list[float | None]:
        share = (errors.abs() < k * own).double().mean().item()
        return [share, (share * (1 - share) / runs) ** 0.5]

    return {
        "within one": within(1),
        "within two": within(2),
        "bias": [errors.mean().item(), errors.std().item() / math.sqrt(runs)],
        "spread": [errors.std().item(), None],
        "stated": [own.square().mean().sqrt().item(), None],
    }


def guided_block(table: Table) -> str:
    """Return the table of guidance."""
    n, rows = (500, {}) if table.quick else (2000, {})
    for dim in (2,) if table.quick else (2, 8, 32):
        for w in SCALES:
            row = table.row("guided", name := f"{dim} dimensions, w = {w:g}", partial(guided, dim, w, n))
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


def named_block(table: Table) -> str:
    """Return the table of published ways of guidance."""
    n, rows = (500, {}) if table.quick else (2000, {})
    for place in list(PLACES)[:1] if table.quick else PLACES:
        for case in CASES:
            name = f"{place}: {case}"
            rows[name] = table.row("named", name, partial(named, place, case, n))
    return "\nPublished ways of guidance, in floors\n\n" + table.write("named", NAMED, rows)


def planar_block(table: Table) -> str:
    """Return the table of products in the plane."""
    n = 500 if table.quick else 2000
    rows = {name: table.row("planar", name, partial(planar, name, n)) for name in PLANAR}
    return "\nProducts in the plane without closed form\n\n" + table.write("planar", PLANE, rows)


def several_block(table: Table) -> str:
    """Return the table of several observations."""
    n = 500 if table.quick else 2000
    cases = [(number, dim) for dim in ((2,) if table.quick else (2, 8)) for number in (2, 5, 20)]
    rows = {
        (name := f"{number} observations, {dim} dimensions"): table.row(
            "several", name, partial(several, number, dim, n)
        )
        for number, dim in cases
    }
    return "\nSeveral observations\n\n" + table.write("several", SEVERAL, rows)


def coverage_block(table: Table) -> str:
    """Return the table of stated errors."""
    n, runs = (200, 4) if table.quick else (500, 100)
    cases = {"w = 3, {} particles": correct, "w = 3, {} particles, densities known": anneal}
    rows = {
        (name := case.format(n)): table.row("coverage", name, partial(covered, 3.0, n, runs, run_of), seeds=1)
        for case, run_of in cases.items()
    }
    return "\nStated errors\n\n" + table.write("coverage", COVERAGE, rows)


def main() -> None:
    """Print the tables."""
    command.run(
        "weighted_table",
        __doc__,
        [guided_block, annealed_block, named_block, planar_block, several_block, coverage_block],
    )


if __name__ == "__main__":
    main()
