"""Posteriors learned from simulations, beside those that are known: accuracy, calibration, and what training costs.

    python -m benchmarks.inference_table            # five to ten minutes of one core a row
    python -m benchmarks.inference_table --quick

A row is a task and a method; "true draws" are the floor. Every method has the same 10,000 simulations, and is compared with the
same true draws: exact ones, draws on a grid, or the ends of 2,000 Markov chains (`benchmarks.simulators`).

- ``C2ST`` is the accuracy of a nearest-neighbour classifier between 2,000 draws and as many of the true posterior, in units of
  its standard deviations, the mean over ten data;
- ``KL(truth‖model)`` is in nats over the same data, where the true density is known;
- ``TARP`` and ``coverage`` are the areas between curve and diagonal over new pairs: positive for a posterior too wide, negative
  for one too narrow, and 0 but for their errors for one that is calibrated;
- ``CPU s`` are the seconds that cores have spent on the training, without evaluations;
- ``passes`` counts how often a training has gone through the simulations.

Rows of sbi (`benchmarks.inference_peers`) are what its methods learn, with its defaults, of the same simulations in the seconds
that ours has taken on the same task, or until they stop by its own rule, as ``ended by`` says: ``time`` or ``own rule``. An
epoch that begins within the time is finished. sbi holds a tenth of the simulations out to choose its weights by, ours none.

Rounds are of the moons with 2,000 simulations in all, for each of three data: those of the first are from the prior, later ones
from the prior within the region where the posterior so far has its mass (`inference.Truncated`), and every posterior is trained
anew, on the pairs of all rounds. Their seconds are those of simulations, trainings and tests of what lies in the region.

True posteriors, too, have a TARP and a coverage that are 0 but for their errors, and on the same pairs as a learned one's nearly
the same errors: so a posterior is judged by how far it is from the true one on the pairs of its seed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks import command, inference_peers
from benchmarks.rows import Key, Values
from benchmarks.simulators import TASKS, Task
from benchmarks.tables import Table
from sdegen import inference, metrics
from sdegen.seeding import seeded
from sdegen.training import Settings

Fit = Callable[[Task, inference.Pairs, int], tuple[Any, Values]]
COLUMNS = {
    "C2ST": 3,
    "KL(truth‖model)": 3,
    "TARP": 3,
    "coverage": 3,
    "CPU s": 0,
    "passes": 0,
    "ended by": 0,
    "seeds": 0,
}
SIMULATIONS, DRAWS, DATA = 10_000, 2000, 10
# Posteriors of the moons and the mixture are a hundredth as wide as the prior: networks are far from knowing pairs by heart, and
# decay of weights only blurs them. Of ten normal numbers the linear guess leaves nothing to learn. The rest was chosen on
# simulators that no table has.
NARROW: dict[str, Any] = {"steps": 12_000, "weight_decay": 0.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "two moons": NARROW,
    "Gaussian mixture": NARROW,
    "Gaussian linear, 10-D": {"steps": 500},
}
USUAL: dict[str, Any] = {"steps": 6000}  # settings of the other tasks
ROUNDS = {"one round of 2,000": 1, "two rounds of 1,000": 2}


class Known:
    """The true posterior, as an object that can be drawn from."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def sample(self, n: int, x: Tensor) -> Tensor:
        """Draw parameters given one datum."""
        return self.task.draw(x, n)


class KnownDensity(Known):
    """The true posterior of a task that knows its density, too."""

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return the log-density of parameters given one datum."""
        assert self.task.log_density is not None
        return self.task.log_density(theta, x)


def learned(
    settings: dict[str, Any], task: Task, pairs: inference.Pairs, seed: int
) -> tuple[inference.AmortisedPosterior, Values]:
    """Train a score model on the pairs, and return its posterior and what the training has taken."""
    torch.manual_seed(seed)
    began = time.process_time()
    posterior = inference.fit_posterior(task.prior, pairs, seed=seed, progress=False, **settings)
    spent, passes = time.process_time() - began, settings["steps"] * Settings().batch_size / len(pairs.theta)
    return posterior, {"CPU s": [spent, None], "passes": [passes, None], "ended by": "steps"}


def learned_by_sbi(
    method: str, budget: Callable[[], float], task: Task, pairs: inference.Pairs, seed: int
) -> tuple[inference_peers.Theirs, Values]:
    """Train by a method of sbi on the pairs, and return its posterior and what the training has taken."""
    posterior = inference_peers.learn(method, task.prior, pairs, budget(), seed)
    ended = "own rule" if posterior.stopped else "time"
    return posterior, {"CPU s": [posterior.seconds, None], "passes": [posterior.epochs, None], "ended by": ended}


@cache
def known(make: Callable[[], Task], data: int, draws: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return some data, each with draws from the true posterior: all methods are compared with the same ones."""
    with seeded(torch.Generator().manual_seed(5000 + seed)):
        task = make()
        found = inference.draw_pairs(task.prior, task.simulate, data, seed=2000 + seed)
        return [(x, task.draw(x, draws)) for x in found.x]


def judged(task: Task, truths: list[tuple[Tensor, Tensor]], posterior: Any, seed: int) -> Values:
    """Return how far draws, and where it is known the density, are from the true posterior's."""
    accuracies, gaps = [], []
    for x, truth in truths:
        accuracies.append(told_apart(posterior, truth, x, seed))
        if task.log_density is not None and hasattr(posterior, "log_prob"):
            own = truth[:200]
            gaps.append((task.log_density(own, x) - posterior.log_prob(own, x)).mean().item())
    values: Values = {"C2ST": mean_of(accuracies)}
    return values | {"KL(truth‖model)": mean_of(gaps)} if gaps else values


def told_apart(posterior: Any, truth: Tensor, x: Tensor, seed: int) -> float:
    """Return in what share of cases a classifier tells draws given one datum from as many true ones."""
    mean, std = truth.mean(0), truth.std(0)
    drawn = (posterior.sample(len(truth), x) - mean) / std
    return metrics.classifier_test(drawn, (truth - mean) / std, seed=seed).accuracy.value


def mean_of(values: list[float]) -> list[float]:
    """Return a mean and its standard error."""
    found = metrics.Estimate.of(torch.tensor(values, dtype=torch.float64))
    return [found.value, found.stderr]


def calibrated(task: Task, posterior: Any, pairs: int, covered: int, seed: int) -> Values:
    """Return how far credible regions are from holding the truth as often as they say."""
    test = inference.draw_pairs(task.prior, task.simulate, pairs, seed=3000 + seed)
    found = metrics.find_tarp_coverage(posterior, test.theta, test.x, seed=seed, progress=False)
    values: Values = {"TARP": list(found.excess)}
    if hasattr(posterior, "log_prob") and covered:
        theta, x = test.theta[:covered], test.x[:covered]
        found = metrics.find_coverage(posterior, theta, x, 50, seed=seed, progress=False)
        values["coverage"] = list(found.excess)
    return values


def budget_of(table: Table, name: str) -> float:
    """Return the seconds that our training has taken on a task.

    Raises
    ------
    SystemExit
        If the row is not computed yet.
    """
    ours = Key("tasks", f"{name}, score", 0)
    if ours not in table.rows.lines:
        raise SystemExit(f"{ours.name}: compute this row first, whose seconds are those of sbi.")
    return float(table.rows.lines[ours]["values"]["CPU s"][0])


def tasks_block(table: Table) -> str:
    """Return the rows of every task."""
    n, draws, data, pairs, covered = (1000, 500, 2, 50, 5) if table.quick else (SIMULATIONS, DRAWS, DATA, 300, 60)

    def floor(make: Callable[[], Task], seed: int) -> Values:
        with seeded(torch.Generator().manual_seed(seed)):
            task = make()
            return judged(task, known(make, data, draws, seed), Known(task), seed)

    def row(make: Callable[[], Task], fit: Fit, covered: int, seed: int) -> Values:
        with seeded(torch.Generator().manual_seed(seed)):
            task = make()
            simulated = inference.draw_pairs(task.prior, task.simulate, n, seed=1000 + seed)
            posterior, taken = fit(task, simulated, seed)
            found = judged(task, known(make, data, draws, seed), posterior, seed)
            return found | calibrated(task, posterior, pairs, covered, seed) | taken

    rows = {}
    for name, make in TASKS.items():
        rows[f"{name}, true draws"] = table.row("tasks", f"{name}, true draws", partial(floor, make), once=True)
        settings = SETTINGS.get(name, USUAL) | ({"steps": 200} if table.quick else {})
        score = partial(row, make, partial(learned, settings), covered)
        rows[f"{name}, score"] = table.row("tasks", f"{name}, score", score)
        for method in inference_peers.METHODS:
            own = f"{name}, {method} of sbi"
            theirs = partial(learned_by_sbi, method, partial(budget_of, table, name))
            if inference_peers.installed() or table.rows.seeds("tasks", own):
                rows[own] = table.row("tasks", own, partial(row, make, theirs, 0), once=True)
    return table.write("tasks", COLUMNS, rows)


def pairs_block(table: Table) -> str:
    """Return the rows of true posteriors on the pairs of each seed, of tasks whose posteriors are drawn from without chains."""
    pairs, covered, seeds = (50, 5, 1) if table.quick else (300, 60, 3)

    def row(make: Callable[[], Task], own: int, seed: int) -> Values:
        with seeded(torch.Generator().manual_seed(seed)):
            task = make()
            truth = Known(task) if task.log_density is None else KnownDensity(task)
            return calibrated(task, truth, pairs, covered, own)

    rows = {
        name: table.row("pairs", name, partial(row, TASKS[task], own), once=True)
        for task in ("two moons", "Gaussian linear, 10-D", "Gaussian mixture")
        for own in range(seeds)
        for name in [f"{task}, pairs of seed {own}"]
    }
    return table.write("pairs", {"TARP": 3, "coverage": 3}, rows)


def rounds_block(table: Table) -> str:
    """Return the rows of rounds of simulations for one datum at a time, and of as many simulations at once."""
    n, draws, data, steps = (200, 200, 2, 50) if table.quick else (2000, DRAWS, 3, 1500)
    settings = NARROW | {"steps": steps}

    def row(rounds: int, seed: int) -> Values:
        with seeded(torch.Generator().manual_seed(seed)):
            task = TASKS["two moons"]()
            found = inference.draw_pairs(task.prior, task.simulate, data, seed=2000 + seed)
            first = inference.draw_pairs(task.prior, task.simulate, n // rounds, seed=1000 + seed)
            began, accuracies = time.process_time(), []
            amortised, _ = learned(settings, task, first, seed)
            for x in found.x:
                pairs, posterior = first, amortised
                for _ in range(rounds - 1):
                    region = inference.Truncated(posterior, x, seed=seed)
                    again = inference.draw_pairs(region, task.simulate, n // rounds, seed=4000 + len(pairs.x) + seed)
                    pairs = pairs.plus(again)
                    posterior, _ = learned(settings, task, pairs, seed)
                accuracies.append(told_apart(posterior, task.draw(x, draws), x, seed))
            return {"C2ST": mean_of(accuracies), "CPU s": [time.process_time() - began, None]}

    rows = {name: table.row("rounds", f"two moons, {name}", partial(row, k)) for name, k in ROUNDS.items()}
    return table.write("rounds", {"C2ST": 3, "CPU s": 0, "seeds": 0}, rows)


def main() -> None:
    """Print the table."""
    command.run("inference_table", __doc__, [tasks_block, pairs_block, rounds_block], seeds=1)
    if not inference_peers.installed():
        print(
            'sbi is not installed, and its rows are not computed: pip install -c constraints.txt ".[peers]"',
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
