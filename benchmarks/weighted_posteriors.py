"""A block of `benchmarks.weighted_table`: posteriors given several observations of one datum, ``∏ p(x | y_i) p(x)^(1 − n)``.

A row is a number of observations and of dimensions. ``width`` is the spread of the weighted particles over that of the
posterior, ``mean off`` the distance of their mean from its mean, in standard errors of as many exact draws, whose own would be
1, and ``log Z off`` what the logarithm of the normaliser is off by, beside the error that the run states.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch

import sdegen
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.weighted_guidance import correct, known
from sdegen import guidance, measurements
from sdegen.laws import GaussianMixture, multiply_laws

SEVERAL = {"width": 3, "mean off": 2, "log Z off": 4, "stated": 4, "seeds": 0}


class Observed(NamedTuple):
    """A posterior given several observations: the law, the factors of which it is the product, and a model of the product."""

    law: GaussianMixture
    factors: list[tuple[GaussianMixture, float]]
    product: guidance.Product


def posterior(number: int, dim: int, seed: int) -> Observed:
    """Return the posterior of a Gaussian datum given so many observations, which a seed draws."""
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, dim), torch.linspace(0.5, 2.0, dim)[None])
    measured = measurements.Linear(torch.eye(dim) + 0.5 * torch.ones(dim, dim).triu(1), 1.0)
    draws = torch.Generator().manual_seed(seed)
    ys = measured.sample(prior.sample(1, draws).expand(number, -1), draws)
    truth, factors = prior, [(prior, 1.0 - number)]
    for y in ys:
        truth = measurements.mixture_posterior(truth, measured, y)
        factors.append((measurements.mixture_posterior(prior, measured, y), 1.0))
    return Observed(
        truth, factors, guidance.Product([(sdegen.Exact(sdegen.VP(), law), power) for law, power in factors])
    )


def several(number: int, dim: int, n: int, seed: int) -> Values:
    """Judge a run of the posterior given so many observations of one datum."""
    problem = posterior(number, dim, seed)
    found, (mean, C) = correct(problem.product, n, seed), problem.law.moments()
    variances = C.diagonal()
    width = (found.mean((found.x - found.mean()).square()) / variances).mean().sqrt()
    off = ((found.mean() - mean).square() * n / variances).mean().sqrt()
    return {
        "width": [width.item(), None],
        "mean off": [off.item(), None],
        "log Z off": [known(found.log_evidence) - multiply_laws(problem.factors).log_normaliser, None],
        "stated": [known(found.evidence_error), None],
    }


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
