"""A table of eight mixed columns with a known law: samples and densities of some columns given others, from one network.

    python -m benchmarks.columns_table --threads 1            # 3 trainings of two minutes each
    python -m benchmarks.columns_table --quick

Rows are the law itself, the floor, one network, and columns drawn each by its own law without the others.
Two categories, a number, two positive numbers, a share, a count, and a number that is missing more often in some regions than
in others (`columns_law`). A network learns from 20,000 rows. ``C2ST`` is how often a classifier is right about which rows are
drawn and which are of the law, one half where it cannot tell: of rows drawn whole; of rows four columns of which are given, as
rows of the law have them, and four drawn; and of rows whose missing moods were drawn, beside the moods that the law has there.
``marginals`` is the largest distance between distribution functions of a number of the encoded rows, ``correlations`` the largest
difference of a correlation of two. ``nats`` is how far the bound on the log-density lies below the true log-density, on average
over 400 rows, and ``AUC`` how often it is higher for a row of the law than for an anomaly, whose last four columns are another
row's; of the floor it is that of the true log-density.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.columns_law import CHAIN, TABLE, Rows, as_frame, draw, log_region, log_terms, mood, silenced
from benchmarks.devices import fit_on
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import data, metrics, nets
from sdegen.likelihood import TableDensity

Frame = dict[str, np.ndarray]
Sample = Callable[[int, Frame, torch.Generator], Frame]  # rows given some of their columns
COUNT = 20_000
FIRST, LAST = CHAIN[:4], CHAIN[4:]
SAMPLES = {
    "C2ST": 3, "C2ST, last four given": 3, "C2ST, first four given": 3, "C2ST, gaps filled": 3, "marginals": 3,
    "correlations": 3, "train CPU s": 0, "seeds": 0,
}  # fmt: skip
NATS: dict[str, list[str]] = {
    "all columns": [],
    "last four": FIRST,
    "rent, given seven": CHAIN[:7],
    "region, given seven": CHAIN[1:],
}
DENSITIES = {**dict.fromkeys((f"nats: {name}" for name in NATS), 3), "AUC of anomalies": 3, "seeds": 0}


def train(seed: int, quick: bool, device: str) -> tuple[TableDensity, float]:
    """Return the law that a network has learned, and the seconds of a core that it took."""
    generator = torch.Generator().manual_seed(seed)
    rows = as_frame(silenced(draw(2000 if quick else COUNT, generator), generator))
    torch.manual_seed(seed)
    known = nets.Vector(TABLE.width, gaps=True, dropout=None, joined=True)
    net = nets.MLP(TABLE.width, width=32 if quick else 128, conditions={"known": known})
    model = sdegen.Model(net, sdegen.VP().in_coordinates(TABLE.coordinates))
    began = time.process_time()
    fit_on(
        device,
        model,
        data.TableRows(TABLE, rows),
        steps=100 if quick else 9000,
        batch_size=512,
        seed=seed,
        threads=1,
        progress=False,
    )
    return TableDensity(TABLE, model), time.process_time() - began


def numbers(frame: Frame) -> Tensor:
    """Return what rows are compared by: their coordinates, 0 where an entry is missing."""
    return TABLE.tell(frame).nan_to_num()


def accuracy(found: Frame, fresh: Frame, seed: int) -> list[float]:
    """Return how well a classifier tells rows from fresh ones of the law."""
    return list(metrics.classifier_test(numbers(found), numbers(fresh), seed=seed).accuracy)


def lawful(n: int, generator: torch.Generator, said: bool = False) -> Frame:
    """Return rows of the law, or as many of those that say their mood."""
    frame = as_frame(silenced(draw(2 * n if said else n, generator), generator))
    return some(frame, CHAIN, np.flatnonzero(~np.isnan(frame["mood"]))[:n]) if said else frame


def some(frame: Frame, names: list[str], rows: np.ndarray | None = None) -> Frame:
    """Return some columns of a frame, or some rows of these."""
    return {name: frame[name] if rows is None else frame[name][rows] for name in names}


def judge_samples(sample: Sample, n: int, seed: int) -> Values:
    """Return how far samples are from the law: whole rows, some columns given others, and gaps filled."""
    generator = torch.Generator().manual_seed(1000 + seed)
    whole, many = sample(n, {}, generator), lawful(5 * n, generator)
    ends = some(lawful(n, generator, said=True), LAST)  # a mood that is given is there
    starts = some(lawful(n, generator), FIRST)
    rows = draw(2 * n, generator)
    kept = some(as_frame(rows), CHAIN, np.isnan(as_frame(silenced(rows, generator))["mood"]))
    gaps = kept | {"mood": np.full(len(kept["mood"]), np.nan)}
    one, other = numbers(whole), numbers(many)
    return {
        "C2ST": accuracy(whole, lawful(n, generator), seed),
        "C2ST, last four given": accuracy(sample(n, ends, generator), lawful(n, generator, said=True), seed),
        "C2ST, first four given": accuracy(sample(n, starts, generator), lawful(n, generator), seed),
        "C2ST, gaps filled": accuracy(sample(len(gaps["mood"]), gaps, generator), kept, seed),
        "marginals": [max(distance(a, b) for a, b in zip(one.T, other.T, strict=True)), None],
        "correlations": [(one.T.corrcoef() - other.T.corrcoef()).abs().max().item(), None],
    }


def distance(a: Tensor, b: Tensor) -> float:
    """Return the largest distance between the distribution functions of two samples."""
    places = torch.cat([a, b]).sort().values
    one, other = (torch.searchsorted(v.sort().values, places, right=True) / len(v) for v in (a, b))
    return (one - other).abs().max().item()


def rows_and_anomalies(n: int, generator: torch.Generator) -> tuple[Rows, Rows]:
    """Return rows of the law, and with the last four columns of each from another."""
    rows = silenced(draw(n, generator), generator)
    return rows, rows | {name: rows[name].roll(1) for name in LAST}


def area(usual: Tensor, strange: Tensor) -> list[float | None]:
    """Return how often the log-density of a row is above that of an anomaly."""
    return [(usual[:, None] > strange).double().mean().item(), None]


def judge_densities(law: TableDensity, n: int, draws: int, seed: int) -> Values:
    """Return how far log-densities are below the true ones, and how well they tell rows of the law from anomalies."""
    generator = torch.Generator().manual_seed(2000 + seed)
    rows, odd = rows_and_anomalies(n, generator)
    frame = as_frame(rows)
    found: Values = {}
    for name, given in NATS.items():
        truth = log_terms(rows)[:, [column not in given for column in CHAIN]].sum(1)
        truth = log_region(rows) if name.startswith("region") else truth
        learned = law.log_prob(frame, given, draws, generator)
        found[f"nats: {name}"] = [(truth - learned).mean().item(), ((truth - learned).std() / n**0.5).item()]
        if not given:
            found["AUC of anomalies"] = area(learned, law.log_prob(as_frame(odd), (), draws, generator))
    return found


def exact(n: int, given: Frame, generator: torch.Generator) -> Frame:
    """Draw rows of the law, whatever is given: what is given are rows of the law too; of gaps the missing moods."""
    if len(given) == len(CHAIN):
        law = mood({name: torch.from_numpy(given[name]) for name in ("spare", "warmth")})
        z = torch.randn(n, dtype=torch.float64, generator=generator)
        return given | {"mood": (law.loc + law.scale * z).numpy()}
    return lawful(n, generator, said="mood" in given)


def independent(n: int, given: Frame, generator: torch.Generator) -> Frame:
    """Draw every column that is not given by its own law, without the others."""
    found = {name: lawful(n, generator)[name] for name in CHAIN} | given
    gaps = len(given) == len(CHAIN)
    return found | {"mood": as_frame(draw(n, generator))["mood"]} if gaps else found


def compute(name: str, quick: bool, device: str, seed: int) -> Values:
    """Return a row: of the truth, of columns that do not depend on each other, or of a network."""
    n, few, draws = (300, 10, 1) if quick else (4000, 400, 4)
    if name == "independent columns":
        return judge_samples(independent, n, seed)
    if name == "the law itself (floor)":
        rows, odd = rows_and_anomalies(few, torch.Generator().manual_seed(2000 + seed))
        return judge_samples(exact, n, seed) | {"AUC of anomalies": area(log_terms(rows).sum(1), log_terms(odd).sum(1))}
    law, seconds = train(seed, quick, device)
    return (
        judge_samples(law.sample, n, seed) | judge_densities(law, few, draws, seed) | {"train CPU s": [seconds, None]}
    )


def block(stem: str, columns: dict[str, int], table: Table) -> str:
    """Return some columns of the table."""
    names = ("the law itself (floor)", "one network", "independent columns")
    rows = {name: table.row("columns", name, partial(compute, name, table.quick, table.device)) for name in names}
    shown = {name: row for name, row in rows.items() if row.keys() & columns.keys() - {"seeds"}}
    return table.write(stem, columns, shown)


def main() -> None:
    """Print the tables."""
    command.run(
        "columns_table",
        __doc__,
        [partial(block, "columns_samples", SAMPLES), partial(block, "columns_densities", DENSITIES)],
        networks=True,
    )


if __name__ == "__main__":
    main()
