"""Posteriors: what approximate methods sample of ``p(x | y)``, beside the truth, over noise, dimension and steps.

    python -m benchmarks.posterior_table            # 3 measurements each, about ten minutes of one core
    python -m benchmarks.posterior_table --quick

The data are a mixture, a quarter of its dimensions is measured by random directions with noise, and the posterior is again a
mixture, known exactly. Every method has the true score of the data, so that what is wrong is the method. A seed is a
measurement of another datum. Distances are in units of the posterior's own standard deviation; ``KL`` is KL(truth‖samples)
by nearest neighbours, in nats; ``modes`` is the total variation between the weights that samples and truth put on the
posterior's components, ``coverage`` the share of samples in the region of highest density that holds nine tenths of the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import guidance, measurements, metrics, samplers

Draw = Callable[["Problem", int, int], Tensor]  # the problem, how many, seed
COLUMNS = {"sliced W2": 2, "KL": 2, "modes": 3, "coverage": 3, "evaluations": 0, "seeds": 0}
NOISES = (0.05, 0.5)


class Problem:
    """A law, a measurement of one of its data, and the exact posterior.

    Parameters
    ----------
    dim
        Dimensions of the data: 2 for the ring.
    noise
        Standard deviation of the measurement's noise, in units of what is measured.
    seed
        Of the datum, the directions and the noise.
    """

    def __init__(self, dim: int, noise: float, seed: int) -> None:
        self.law = sdegen.data.gaussian_ring() if dim == 2 else sdegen.data.random_mixture(dim, modes=8)
        A = torch.randn(
            max(1, dim // 4), dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 10_000)
        )
        A = A / A.norm(dim=1, keepdim=True)
        signal = (A @ self.law.moments().covariance @ A.T).diagonal().mean().sqrt().item()
        self.measurement = measurements.Linear(A, noise * signal)
        datum = self.law.sample(1, torch.Generator().manual_seed(seed))
        self.y = self.measurement.sample(datum, torch.Generator().manual_seed(seed + 100))[0]
        self.truth = measurements.mixture_posterior(self.law, self.measurement, self.y)
        self.model = sdegen.Exact(sdegen.VP(), self.law)
        self.unit = self.truth.moments().covariance.diagonal().mean().sqrt().item()

    def judged(self, x: Tensor, seed: int) -> Values:
        """The columns of samples."""
        reference = self.truth.sample(len(x), torch.Generator().manual_seed(1000 + seed))
        w2 = metrics.sliced_wasserstein(x, reference, seed=seed)
        shares = self.truth.component_log_prob(x).softmax(1)
        threshold = self.truth.log_prob(reference).quantile(0.1)
        inside = (self.truth.log_prob(x) >= threshold).double()
        return {
            "sliced W2": [w2.value / self.unit, w2.stderr / self.unit],
            "KL": list(metrics.knn_kl(x, reference)),
            "modes": [0.5 * (shares.mean(0) - self.truth.weights).abs().sum().item(), None],
            "coverage": [inside.mean().item(), (inside.std() / len(x) ** 0.5).item()],
        }


def drawn(model: Callable[[Problem], Any], sampler: samplers.Sampler, problem: Problem, n: int, seed: int) -> Tensor:
    """Samples of a wrapped model that is told what was measured."""
    return sdegen.sample(model(problem), n, sampler=sampler, seed=seed, y=problem.y, progress=False)


def wrapped(wrapper: Callable[..., Any], problem: Problem) -> Any:
    """The true model of the data in a wrapper."""
    return wrapper(problem.model, problem.measurement)


def methods(quick: bool) -> dict[str, tuple[Draw, int]]:
    """Every row: how it draws, and evaluations of the model for a sample."""
    few, many = (10, 30) if quick else (20, 100)
    found: dict[str, tuple[Draw, int]] = {
        "exact samples (floor)": (lambda p, n, seed: p.truth.sample(n, torch.Generator().manual_seed(seed)), 0),
        f"exact score of the posterior, flow, {few}": (partial(drawn, exact, samplers.Multistep(few)), few),
        "the data, unmeasured": (lambda p, n, seed: p.law.sample(n, torch.Generator().manual_seed(seed)), 0),
    }
    wrappers: dict[str, Any] = {
        "DPS": guidance.DPS, "ΠGDM": guidance.PiGDM, "moment matching": guidance.MomentMatching,
        "replacement": guidance.Replacement,
    }  # fmt: skip
    for name, wrapper in wrappers.items():
        for steps in (few, many):
            found[f"{name}, flow, {steps}"] = (
                partial(drawn, partial(wrapped, wrapper), samplers.Multistep(steps)),
                steps,
            )
        reverse = samplers.ExponentialSDE(many)
        found[f"{name}, reversed, {many}"] = (partial(drawn, partial(wrapped, wrapper), reverse), many)
    return found | {"RePaint": (repainted, 0), f"twisted SMC on ΠGDM, {many}": (partial(twisted, many), many)}


def exact(problem: Problem) -> Any:
    """The true score model of the posterior."""
    return sdegen.Exact(problem.model.sde, problem.truth)


def repainted(problem: Problem, n: int, seed: int) -> Tensor:
    """Replacement that goes back and forth."""
    model = wrapped(guidance.Replacement, problem)
    sampler = guidance.repaint(model, samplers.ExponentialSDE(40), jump=4, repeats=8)
    return sdegen.sample(model, n, sampler=sampler, seed=seed, y=problem.y, progress=False)


def twisted(steps: int, problem: Problem, n: int, seed: int) -> Tensor:
    """As many particles as samples."""
    model = wrapped(guidance.PiGDM, problem)
    return guidance.twisted_smc(model, n, steps=steps, seed=seed, y=problem.y).sample(
        n, torch.Generator().manual_seed(seed)
    )


def compute(draw: Draw, evaluations: int, dim: int, noise: float, n: int, seed: int) -> Values:
    """A row of one measurement."""
    problem = Problem(dim, noise, seed)
    try:
        x = draw(problem, n, seed)
    except ValueError as error:  # a run that leaves the floats says so
        if "non-finite" not in str(error):
            raise
        return {"sliced W2": "diverges", "evaluations": [evaluations, None]}
    return problem.judged(x, seed) | {"evaluations": [evaluations, None] if evaluations else None}


def posteriors_block(table: Table) -> str:
    """Return a table for every dimension and noise."""
    n = 500 if table.quick else 2000
    found = []
    for dim in (2,) if table.quick else (2, 8, 32):
        for noise in NOISES:
            stem = f"d{dim}-noise{noise:g}"
            rows = {
                name: table.row(stem, name, partial(compute, draw, count, dim, noise, n))
                for name, (draw, count) in methods(table.quick).items()
            }
            title = f"\n{dim} dimensions, noise {noise:g} of the signal\n\n"
            found.append(title + table.write(stem, COLUMNS, rows))
    return "\n".join(found)


def main() -> None:
    """Print the tables."""
    command.run("posterior_table", __doc__, [posteriors_block])


if __name__ == "__main__":
    main()
