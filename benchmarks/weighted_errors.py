"""A block of `benchmarks.weighted_table`: how often the errors that weighted runs state cover what their normaliser is off by.

A row is a kind of product: guidance along a mode of the ring, or of random mixtures, another for each run, which nothing was
chosen on, or posteriors given several observations. ``within one`` and ``within two`` are the shares of runs whose normaliser
is within so many of their own stated errors, nominally 0.68 and 0.95; ``bias`` and ``spread`` are mean and standard deviation
of what it is off by, and ``stated`` is the median of the stated errors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

import sdegen
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.weighted_guidance import Guided, Weighted, anneal, correct, known, mixture_of
from benchmarks.weighted_posteriors import posterior
from sdegen.guidance import Product
from sdegen.laws import multiply_laws
from sdegen.metrics.estimate import share_error

COVERAGE = {"within one": 2, "within two": 2, "bias": 3, "spread": 3, "stated": 3, "seeds": 0}


class Stated(NamedTuple):
    """A product and the logarithm of its normaliser."""

    product: Product
    log_normaliser: float


Problem = Callable[[int], Stated]
RUNS, DEAR = 100, 25  # runs of a row, and of one in eight dimensions, where they are dear


def one_mode(w: float, run: int) -> Stated:
    """Return guidance along a mode of the ring."""
    return _along(Guided(mixture_of(2), w))


def of_random(dim: int, w: float, run: int) -> Stated:
    """Return guidance along a mode of a random mixture, another one for each run."""
    return _along(Guided(sdegen.data.random_mixture(dim, modes=6, seed=2000 + run), w))


def _along(problem: Guided) -> Stated:
    return Stated(problem.product, problem.log_normaliser)


def observed(number: int, dim: int, run: int) -> Stated:
    """Return the posterior given so many observations of one datum, others for each run."""
    found = posterior(number, dim, run)
    return Stated(found.product, multiply_laws(found.factors).log_normaliser)


def covered(problem: Problem, n: int, runs: int, run_of: Weighted, seed: int) -> Values:
    """Return how often the stated error of a kind of run covers what the normaliser is off by."""
    off, stated = [], []
    for run in range(1000 * seed, 1000 * seed + runs):
        product, log_normaliser = problem(run)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the warnings say is in the stated error
            found = run_of(product, n, run)
        off.append(known(found.log_evidence) - log_normaliser)
        stated.append(known(found.evidence_error))
    errors, own = torch.tensor(off), torch.tensor(stated)

    def within(k: int) -> list[float | None]:
        count = (errors.abs() < k * own).sum().item()
        return [count / runs, share_error(count, runs)]

    return {
        "within one": within(1),
        "within two": within(2),
        "bias": [errors.mean().item(), errors.std().item() / math.sqrt(runs)],
        "spread": [errors.std().item(), None],
        "stated": [own.median().item(), None],  # over all runs: infinite for those that do not know it
    }


CASES: dict[str, tuple[Problem, int, int, Weighted]] = {
    "w = 3, {} particles": (partial(one_mode, 3.0), 500, RUNS, correct),
    "w = 3, {} particles, densities known": (partial(one_mode, 3.0), 500, RUNS, anneal),
    "random mixtures, 2 dimensions, w = 2, {} particles": (partial(of_random, 2, 2.0), 500, RUNS, correct),
    "random mixtures, 2 dimensions, w = 3, {} particles": (partial(of_random, 2, 3.0), 500, RUNS, correct),
    "random mixtures, 8 dimensions, w = 2, {} particles": (partial(of_random, 8, 2.0), 2000, DEAR, correct),
    "5 observations, 2 dimensions, {} particles": (partial(observed, 5, 2), 500, RUNS, correct),
    "5 observations, 8 dimensions, {} particles": (partial(observed, 5, 8), 2000, DEAR, correct),
}


def coverage_block(table: Table) -> str:
    """Return the table of stated errors."""
    rows = {
        (name := case.format(n := 200 if table.quick else most)): table.row(
            "coverage", name, partial(covered, problem, n, 4 if table.quick else runs, run_of), seeds=1
        )
        for case, (problem, most, runs, run_of) in CASES.items()
    }
    return "\nStated errors\n\n" + table.write("coverage", COVERAGE, rows)
