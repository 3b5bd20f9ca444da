"""The law of `benchmarks.columns_table`: rows of eight columns of many kinds, one of which has gaps, and all their densities."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal, Poisson

from sdegen import data

REGIONS = ("coast", "plain", "hills")
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
TOWNS = torch.tensor([0.7, 0.5, 0.2], dtype=torch.float64)  # share of the rows that live in a town, by region
WARMTH = torch.tensor([18.0, 12.0, 6.0], dtype=torch.float64)  # mean warmth, by region
SILENT = torch.tensor([0.1, 0.3, 0.5], dtype=torch.float64)  # share of the rows whose mood is missing, by region

TABLE = data.Table(
    {
        "region": data.CategoryColumn(REGIONS),
        "town": data.CategoryColumn((False, True)),
        "warmth": data.NumberColumn(),
        "income": data.PositiveColumn(),
        "spare": data.IntervalColumn(0.0, 1.0),
        "cars": data.CountColumn(),
        "mood": data.GappedColumn(data.NumberColumn()),
        "rent": data.PositiveColumn(),
    }
)
CHAIN = list(TABLE.columns)  # columns in an order in which each depends on earlier ones alone
Rows = dict[str, Tensor]  # columns in float64, categories by their numbers, NaN where an entry is missing


def warmth(x: Rows) -> Normal:
    """Return the law of the warmth given the region: normal."""
    return Normal(WARMTH[x["region"].long()], 2.0)


def income(x: Rows) -> Normal:
    """Return the law of the logarithm of the income given town and warmth: normal."""
    return Normal(9.8 + 0.5 * x["town"] - 0.04 * (x["warmth"] - 12), 0.5)


def spare(x: Rows) -> Normal:
    """Return the law of the log-odds of the share that is left at the end of a month, given town and income: normal."""
    return Normal(-0.5 + 1.2 * (x["income"].log() - 10) + 0.5 * x["town"], 0.7)


def cars(x: Rows) -> Poisson:
    """Return the law of the number of cars given town and income."""
    return Poisson((0.4 + 0.6 * (x["income"].log() - 10) - 0.8 * x["town"]).exp())


def mood(x: Rows) -> Normal:
    """Return the law of the mood given warmth and the share that is left: normal, and narrower where more is left."""
    return Normal(4 * x["spare"] + 0.2 * (x["warmth"] - 12), 0.3 + 1.2 * (1 - x["spare"]))


def rent(x: Rows) -> Normal:
    """Return the law of the logarithm of the rent given town and income: normal."""
    return Normal(6.0 + 0.8 * (x["income"].log() - 10) + 0.6 * x["town"], 0.25)


def draw(n: int, generator: torch.Generator) -> Rows:
    """Draw rows of the law, without gaps."""

    def normal(law: Normal) -> Tensor:
        return law.loc + law.scale * torch.randn(n, dtype=torch.float64, generator=generator)

    region = torch.multinomial(SHARES, n, True, generator=generator)
    town = torch.rand(n, dtype=torch.float64, generator=generator) < TOWNS[region]
    x = {"region": region.double(), "town": town.double()}
    x["warmth"] = normal(warmth(x))
    x["income"] = normal(income(x)).exp()
    x["spare"] = normal(spare(x)).sigmoid()
    x["cars"] = torch.poisson(cars(x).rate, generator=generator)
    x["mood"] = normal(mood(x))
    x["rent"] = normal(rent(x)).exp()
    return x


def silenced(x: Rows, generator: torch.Generator) -> Rows:
    """Return rows in which some moods are missing."""
    gone = torch.rand(len(x["mood"]), dtype=torch.float64, generator=generator) < SILENT[x["region"].long()]
    return x | {"mood": x["mood"].masked_fill(gone, math.nan)}


def log_terms(x: Rows) -> Tensor:
    """Return the logarithm of the probability or density of each column given those before it, ``(N, 8)``."""
    region, town, share = x["region"].long(), x["town"], x["spare"]
    gone = x["mood"].isnan()
    said = mood(x).log_prob(x["mood"].nan_to_num())
    found = {
        "region": SHARES[region].log(),
        "town": torch.where(town > 0, TOWNS[region], 1 - TOWNS[region]).log(),
        "warmth": warmth(x).log_prob(x["warmth"]),
        "income": income(x).log_prob(x["income"].log()) - x["income"].log(),
        "spare": spare(x).log_prob(share.logit()) - (share * (1 - share)).log(),
        "cars": cars(x).log_prob(x["cars"]),
        "mood": torch.where(gone, SILENT[region].log(), (1 - SILENT[region]).log() + said),
        "rent": rent(x).log_prob(x["rent"].log()) - x["rent"].log(),
    }
    return torch.stack([found[name] for name in CHAIN], 1)


def log_region(x: Rows) -> Tensor:
    """Return the logarithm of the probability of each row's region given all its other columns, by Bayes' rule."""
    every = [log_terms(x | {"region": torch.full_like(x["region"], k)}).sum(1) for k in range(len(REGIONS))]
    return log_terms(x).sum(1) - torch.stack(every).logsumexp(0)


def as_frame(x: Rows) -> dict[str, np.ndarray]:
    """Return rows as a frame of the table."""
    frame = {name: x[name].numpy() for name in CHAIN}
    return frame | {
        "region": np.array(REGIONS)[x["region"].long().numpy()],
        "town": frame["town"] > 0,
        "cars": frame["cars"].astype(np.int64),
    }
