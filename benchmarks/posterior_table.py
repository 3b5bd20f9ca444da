"""Posteriors: what approximate methods sample of ``p(x | y)``, beside the truth, over noise, dimension and steps.

    python -m benchmarks.posterior_table            # 3 measurements each, about forty minutes of one core
    python -m benchmarks.posterior_table --quick

A row is a method; exact samples of the posterior are the floor.
The data are a mixture, a quarter of its dimensions is measured by random directions with noise, and the posterior is again a
mixture, known exactly. Every method has the true score of the data, so that what is wrong is the method. A seed is a
measurement of another datum. Distances are in units of the posterior's own standard deviation; ``KL`` is KL(truth‖samples)
by nearest neighbours, in nats; ``modes`` is the total variation between the weights that samples and truth put on the
posterior's components, ``coverage`` the share of samples in the region of highest density that holds nine tenths of the truth.

The recommended row follows one rule, which was set before its figures were known: `annealed_smc` with its defaults and four
particles for each sample, samples drawn by the weights. Its settings were chosen on the measurements of seeds 100 to 103 alone.
The next table is the rule on ten measurements more of each case, beside exact samples.

Then come measurements that are not linear: a size, counts, answers of yes or no (`posterior_problems`), whose posteriors are
drawn by rejection; ``ratio`` is the distance over that of exact samples.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.posterior_problems import NONLINEAR, Problem, linear
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import guidance, samplers

Draw = Callable[["Problem", int, int], tuple[Tensor, int]]  # problem, how many, seed: samples, and evaluations for each
COLUMNS = {"sliced W2": 2, "KL": 2, "modes": 3, "coverage": 3, "evaluations": 0, "seeds": 0}
NONLINEAR_COLUMNS = {"sliced W2": 2, "ratio": 2, "KL": 2, "modes": 3, "coverage": 3, "evaluations": 0, "seeds": 0}
UNSEEN = {"floor": 3, "recommended": 3, "ratio": 2, "modes": 3, "effective": 2, "evaluations": 0, "seeds": 0}
NOISES = (0.05, 0.5)
RECOMMENDED = 4  # particles for each sample


def drawn(model: Callable[[Problem], Any], sampler: Any, problem: Problem, n: int, seed: int) -> tuple[Tensor, int]:
    """Draw samples of a wrapped model that is told what was measured."""
    x = sdegen.sample(model(problem), n, sampler=sampler, seed=seed, y=problem.y, progress=False)
    return x, sampler.steps


class Refused(Exception):
    """Raised where a method does not take the measurement, as its message says."""


def wrapped(wrapper: Callable[..., Any], problem: Problem) -> Any:
    """Return the true model of the data in a wrapper; raise `Refused` where it does not take the measurement."""
    try:
        return wrapper(problem.model, problem.measurement)
    except TypeError as error:
        if str(error).startswith("measurement is "):
            raise Refused from error
        raise


def methods(quick: bool) -> dict[str, Draw]:
    """Return the methods of all rows, by name."""
    few, many = (10, 30) if quick else (20, 100)
    found: dict[str, Draw] = {
        "exact samples (floor)": lambda p, n, seed: (p.truth.sample(n, torch.Generator().manual_seed(seed)), 0),
        f"exact score of the posterior, flow, {few}": partial(by_truth, samplers.Multistep(few)),
        "the data, unmeasured": lambda p, n, seed: (p.law.sample(n, torch.Generator().manual_seed(seed)), 0),
    }
    wrappers: dict[str, Any] = {
        "DPS": guidance.DPS, "ΠGDM": guidance.PiGDM, "moment matching": guidance.MomentMatching,
        "Kalman update": guidance.KalmanUpdate, "replacement": guidance.Replacement,
    }  # fmt: skip
    for name, wrapper in wrappers.items():
        model = partial(wrapped, wrapper)
        for steps in (few, many):
            found[f"{name}, flow, {steps}"] = partial(drawn, model, samplers.Multistep(steps))
        found[f"{name}, reversed, {many}"] = partial(drawn, model, samplers.ExponentialSDE(many))
    return found | {
        "RePaint": repainted,
        "decoupled annealing (DAPS)": partial(by_turns, guidance.decoupled_annealing, 40, 5),
        "split Gibbs (PnP-DM)": partial(by_turns, guidance.split_gibbs, 20, 10),
        f"twisted SMC on ΠGDM, {many}": partial(twisted, guidance.PiGDM, many),
        f"twisted SMC on moment matching, {many}": partial(twisted, guidance.MomentMatching, many),
        "annealed SMC": partial(annealed, 1),
        "recommended: annealed SMC, 4 particles a sample": partial(annealed, RECOMMENDED),
    }


def by_truth(sampler: Any, problem: Problem, n: int, seed: int) -> tuple[Tensor, int]:
    """Draw samples of the true score model of the posterior, which need not be told what was measured."""
    model = sdegen.Exact(problem.model.sde, problem.truth)
    return sdegen.sample(model, n, sampler=sampler, seed=seed, progress=False), sampler.steps


def repainted(problem: Problem, n: int, seed: int) -> tuple[Tensor, int]:
    """Draw samples by RePaint: replacement that goes back and forth between noise levels."""
    model = wrapped(guidance.Replacement, problem)
    sampler = guidance.repaint(model, samplers.ExponentialSDE(40), jump=4, repeats=8)
    times = sampler.times(problem.model.sde, True)
    evaluations = int((times[1:] < times[:-1]).sum()) + 1  # steps back to more noise ask the model nothing
    return sdegen.sample(model, n, sampler=sampler, seed=seed, y=problem.y, progress=False), evaluations


def by_turns(
    method: Callable[..., Tensor], levels: int, steps: int, problem: Problem, n: int, seed: int
) -> tuple[Tensor, int]:
    """Draws given the measurement and given the model in turns, at so many noise levels."""
    x = method(problem.model, problem.measurement, n, y=problem.y, levels=levels, steps=steps, seed=seed)
    return x, (levels + 2) * steps


def twisted(wrapper: Callable[..., Any], steps: int, problem: Problem, n: int, seed: int) -> tuple[Tensor, int]:
    """Draw samples by twisted sequential Monte Carlo, as many particles as samples."""
    found = guidance.twisted_smc(wrapped(wrapper, problem), n, steps=steps, seed=seed, y=problem.y)
    return found.sample(n, torch.Generator().manual_seed(seed)), found.evaluations


def annealed(each: int, problem: Problem, n: int, seed: int) -> tuple[Tensor, int]:
    """Draw samples by annealed sequential Monte Carlo of so many particles for each sample, by the weights of these."""
    found = particles(each, problem, n, seed)
    return found.sample(n, torch.Generator().manual_seed(seed)), each * found.evaluations


def particles(each: int, problem: Problem, n: int, seed: int) -> guidance.Particles:
    """Run the annealed sampler with its defaults, and return its particles."""
    return guidance.annealed_smc(problem.model, problem.measurement, each * n, y=problem.y, seed=seed, progress=False)


def compute(draw: Draw, find: Callable[[int], Problem], n: int, seed: int) -> Values:
    """Judge a method on one measurement of the problems that `find` returns."""
    problem = find(seed)
    try:
        x, evaluations = draw(problem, n, seed)
    except Refused:
        return {"sliced W2": "refuses"}
    except ValueError as error:  # the message of a run whose states become infinite
        if "non-finite" not in str(error):
            raise
        return {"sliced W2": "diverges"}
    return problem.judged(x, seed) | {"evaluations": [evaluations, None] if evaluations else None}


def compare(dim: int, noise: float, n: int, seed: int) -> Values:
    """Judge the recommended method and exact samples on a measurement that the other tables do not have."""
    seed = seed + 10
    problem = linear(dim, noise, seed)
    found = particles(RECOMMENDED, problem, n, seed)
    x = found.sample(n, torch.Generator().manual_seed(seed))
    floor = problem.judged(problem.truth.sample(n, torch.Generator().manual_seed(seed)), seed)
    judged = problem.judged(x, seed)
    return {
        "floor": floor["sliced W2"],
        "recommended": judged["sliced W2"],
        "modes": judged["modes"],
        "effective": [found.effective / len(found.x), None],
        "evaluations": [float(RECOMMENDED * found.evaluations), None],
    }


def unseen_block(table: Table) -> str:
    """Return the table of the recommended method on ten measurements more."""
    n = 500 if table.quick else 1000
    rows = {}
    for dim in (2,) if table.quick else (2, 8, 32):
        for noise in NOISES:
            name = f"{dim} dimensions, noise {noise:g}"
            row = table.row("unseen", name, partial(compare, dim, noise, n), seeds=10)
            rows[name] = row | ({"ratio": over(row["recommended"], row["floor"])} if row else {})
    return table.write("unseen", UNSEEN, rows)


def over(a: tuple[float, float | None], b: tuple[float, float | None]) -> tuple[float, None]:
    """Return the ratio of two means, which are over the same measurements."""
    return a[0] / b[0], None


def posteriors_block(table: Table) -> str:
    """Return a table for every dimension and noise."""
    n = 500 if table.quick else 2000
    found = []
    for dim in (2,) if table.quick else (2, 8, 32):
        for noise in NOISES:
            stem = f"d{dim}-noise{noise:g}"
            rows = {
                name: table.row(stem, name, partial(compute, draw, partial(linear, dim, noise), n))
                for name, draw in methods(table.quick).items()
            }
            title = f"\n{dim} dimensions, noise {noise:g} of the signal\n\n"
            found.append(title + table.write(stem, COLUMNS, rows))
    return "\n".join(found)


def nonlinear_block(table: Table) -> str:
    """Return a table for every measurement that is not linear, with the distances over that of exact samples."""
    n, found = 200 if table.quick else 500, []
    for stem, find in NONLINEAR.items():
        rows = {
            name: table.row(stem, name, partial(compute, draw, find, n))
            for name, draw in methods(table.quick).items()
            if "exact score" not in name and not name.endswith(f"flow, {30 if table.quick else 100}")
        }
        floor = rows["exact samples (floor)"].get("sliced W2")
        for row in rows.values():
            if floor and isinstance(row.get("sliced W2"), tuple):
                row["ratio"] = over(row["sliced W2"], floor)
        found.append(f"\n{find.__doc__}\n\n" + table.write(stem, NONLINEAR_COLUMNS, rows))
    return "\n".join(found)


def main() -> None:
    """Print the tables."""
    command.run("posterior_table", __doc__, [posteriors_block, unseen_block, nonlinear_block])


if __name__ == "__main__":
    main()
