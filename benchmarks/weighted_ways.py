"""A block of `benchmarks.weighted_table`: published ways of guidance, in as many steps, beside the law that guidance states.

A row is a way on a target, a column the scale of guidance: sliced W2 in multiples of the floor, also for modes that overlap,
of three times the width. Autoguidance has the mode blurred to twice its variance for its weaker model, and states another law
than the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import sdegen
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.weighted_guidance import SCALES, STEPS, Guided, Weighted, anneal, correct, mixture_of
from sdegen import guidance, metrics, samplers
from sdegen.laws import GaussianMixture

NAMED = {"w = 2": 2, "w = 3": 2, "w = 5": 2, "seeds": 0}
LAMBDAS = {
    2.0: 0.2,
    3.0: 0.27,
    5.0: 0.4,
}  # of CFG++, at the scales that its authors compare them with; that of 3 lies between

Labelled = Callable[[sdegen.ExactConditional, float, Guided], sdegen.models.ScoreModel]


def interval_of(sde: sdegen.LinearSDE) -> tuple[float, float]:
    """Return the times between whose levels guidance acts, ``σ / α`` from .3 to 5 in units of the process."""
    low, high = (float(sde.time(torch.tensor(level, dtype=torch.float64) ** -2)) for level in (0.3, 5.0))
    return low, high


def blurred(m: sdegen.ExactConditional, w: float, problem: Guided) -> guidance.Autoguidance:
    """Return guidance of the mode away from the mode with twice the variance."""
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
    """Draw samples of a way of guidance by the flow."""
    labelled = sdegen.ExactConditional(sdegen.VP(), [problem.mode], problem.law)
    model, sampler = way(labelled, w, problem), samplers.DDIM(STEPS)
    if way is blurred:
        return sdegen.sample(model, n, sampler=sampler, seed=seed, progress=False)
    return sdegen.sample(model, n, sampler=sampler, seed=seed, progress=False, label=0)


def weighted(run_of: Weighted, w: float, problem: Guided, n: int, seed: int) -> Tensor:
    """Draw samples of a weighted run, by their weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the block of guidance says what such runs are worth
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
    """Return the distance of samples from the law that guidance states, at each scale, in multiples of the floor."""
    row: Values = {}
    for w in SCALES:
        dim, std = PLACES[place]
        problem = Guided(mixture_of(dim, std=std), w)
        exact, again = (problem.sample(n, k + seed) for k in (10_000, 20_000))
        floor = metrics.sliced_wasserstein(again, exact, seed=seed).value
        try:
            x = CASES[case](w, problem, n, seed)
        except ValueError as error:  # the message of a run whose states become infinite
            if "non-finite" not in str(error):
                raise
            row[f"w = {w:g}"] = "diverges"
            continue
        row[f"w = {w:g}"] = [metrics.sliced_wasserstein(x, exact, seed=seed).value / floor, None]
    return row


def named_block(table: Table) -> str:
    """Return the table of published ways of guidance."""
    n, rows = (500, {}) if table.quick else (2000, {})
    for place in list(PLACES)[:1] if table.quick else PLACES:
        for case in CASES:
            name = f"{place}: {case}"
            rows[name] = table.row("named", name, partial(named, place, case, n))
    return "\nPublished ways of guidance, in floors\n\n" + table.write("named", NAMED, rows)
