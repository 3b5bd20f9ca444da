"""Processes with uneven noise, or on domains with bounds: how far a model of each is from the data after a short training.

    python -m benchmarks.bounded_table           # three seeds, half a minute to two of training a row
    python -m benchmarks.bounded_table --quick

Noise depends on the state, on the coordinate, or is correlated. A row is a process with true samples, the floor, with the exact
score, or with a network. Data of two numbers in the domain of each process, mixtures with closed-form densities: of log-normals
on the half-line, of logit-normals on the interval, of von Mises laws on the torus, of beta laws in the box, of normal laws in
the plane. Every process is trained by `fit` as it is, a `DirectModel` of a perceptron of width 96 and depth 3, or on linear
processes a `Model`, and sampled by its default sampler. ``KL(data‖model)`` is Monte Carlo over data, with log-densities of the
model by its probability flow; ``k-NN KL`` is from samples alone, in the logarithms or logits of both.

The exact score is that of `FokkerPlanck` on a grid, in the logarithm or the logit, or around the circle, and on linear processes
that of `Exact`. Rows of true samples are the floor of what is estimated from samples. "Two methods" are
geometric Brownian motion and CIR as a user writes them, which are simulated. ``CPU s`` are the seconds that cores have spent on
the training, of all threads together; a busy machine has the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributions as D

import sdegen
from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import coordinates, metrics, nets
from sdegen.laws.bases import Axes
from sdegen.processes.linear import is_linear
from sdegen.seeding import seeded

MIXTURE = sdegen.GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[-0.8, 0.3], [0.7, -0.5]]), torch.tensor([0.04, 0.09])
)


class Through:
    """The law of data whose coordinates are from the mixture."""

    def __init__(self, phi: coordinates.Coordinates) -> None:
        self.phi = phi

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw points of the domain."""
        return self.phi.inverse(MIXTURE.sample(n, generator))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log-densities in nats."""
        return MIXTURE.log_prob(self.phi(x)) + self.phi.log_det(x)


class Mixed:
    """A mixture of two laws of two numbers.

    Parameters
    ----------
    family
        The family of the laws of each number.
    first, second
        Parameters of the family, for each number of each law.
    """

    phi = None

    def __init__(self, family: Any, first: list[list[float]], second: list[list[float]]) -> None:
        a, b, weights = (torch.tensor(v, dtype=torch.float64) for v in (first, second, [0.4, 0.6]))
        self.law = D.MixtureSameFamily(D.Categorical(weights), D.Independent(family(a, b), 1))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw numbers."""
        with seeded(generator):
            drawn: Tensor = self.law.sample((n,))
        return drawn

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log-densities in nats."""
        value: Tensor = self.law.log_prob(x)
        return value


class Plane:
    """The law of data of two numbers without bounds: the mixture itself."""

    phi = None
    sample, log_prob = MIXTURE.sample, MIXTURE.log_prob


class ByCoordinate(sdegen.CoordinateSDE):
    """A rate and a noise for each of two axes, which are turned."""

    T = 3.0
    basis = Axes(torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64))

    def f(self, t: Tensor) -> Tensor:
        """Return the rates: one axis forgets the data half again as fast as the other."""
        return -torch.tensor([1.0, 1.5], dtype=torch.float64).expand(*t.shape, 2)

    def g(self, t: Tensor) -> Tensor:
        """Return the noise: more on the faster axis."""
        return torch.tensor([1.0, 1.5], dtype=torch.float64).expand(*t.shape, 2)


class Correlated(sdegen.CorrelatedSDE):
    """A drift that turns the plane, and correlated noise."""

    T = 3.0

    def F(self, t: Tensor) -> Tensor:
        """Return a damped rotation."""
        return torch.tensor([[-1.0, -1.2], [1.2, -1.1]], dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        """Return a root of the covariance of the noise."""
        return torch.tensor([[0.9, 0.0], [0.6, 0.7]], dtype=torch.float64)


class TwoMethods(sdegen.SDE):
    """Geometric Brownian motion, as a user writes it."""

    T = 9.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return zero."""
        return 0.0 * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """Return noise as large as the state."""
        return x

    def prior(self, moments: sdegen.Moments) -> Any:
        """Return the log-normal law of the same moments."""
        return sdegen.GeometricBrownianMotion().prior(moments)


class OwnCIR(sdegen.SDE):
    """The square-root process, as a user writes it, with the law that it settles in."""

    T = 5.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the way back to 1."""
        return 1 - x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        """Return noise as large as the root of the state."""
        return x.sqrt()

    def prior(self, moments: sdegen.Moments) -> Any:
        """Return the gamma law that the process settles in."""
        two = torch.full(moments.mean.shape, 2.0, dtype=torch.float64)
        return D.Gamma(two, two)


class Case(NamedTuple):
    """A process, its data, the network that is trained, and the steps and batches of training.

    A step that simulates costs as much for 2,048 paths as for 512: a process whose noise is strong where states are small, which
    takes a thousand short steps to simulate, has fewer and larger batches.
    """

    sde: Callable[[], sdegen.SDE]
    law: Any
    net: Callable[[], nn.Module]
    steps: int = 2500
    batch: int = 512


def plain(seen: int = 2) -> nn.Module:
    """Return an untrained perceptron of so many inputs: of angles a cosine and a sine each."""
    return nets.MLP(seen, width=96, depth=3)


HALF_LINE = Through(coordinates.Log())
CASES = {
    "geometric Brownian motion": Case(sdegen.GeometricBrownianMotion, HALF_LINE, plain),
    "geometric Brownian motion, two methods": Case(
        lambda: sdegen.Transformed(TwoMethods(), coordinates.Log()), HALF_LINE, plain
    ),
    "CIR": Case(sdegen.CIR, HALF_LINE, plain),
    "CIR, two methods": Case(lambda: sdegen.Transformed(OwnCIR(), coordinates.Log()), HALF_LINE, plain, 900, 2048),
    "squared Bessel": Case(sdegen.SquaredBessel, HALF_LINE, plain),
    "Jacobi": Case(lambda: sdegen.Jacobi(2.0, 2.0), Through(coordinates.LogOdds()), plain),
    "torus": Case(
        sdegen.CircularBrownianMotion,
        Mixed(D.VonMises, [[-2.5, 0.3], [1.0, 2.8]], [[6.0, 3.0], [4.0, 8.0]]),
        partial(plain, 4),
    ),
    "box": Case(
        sdegen.ReflectedBrownianMotion,
        Mixed(D.Beta, [[1.5, 6.0], [5.0, 2.0]], [[6.0, 3.0], [2.0, 1.5]]),
        partial(plain, 4),
    ),
    "by coordinate": Case(ByCoordinate, Plane(), plain),
    "correlated noise": Case(Correlated, Plane(), plain),
}
COLUMNS = {"KL(data‖model)": 4, "k-NN KL": 3, "CPU s": 0, "seeds": 0}


def compare(law: Any, x: Tensor, seed: int) -> Values:
    """Return the divergence of samples from the law by nearest neighbours, in coordinates without bounds where there are some."""
    y = law.sample(len(x), torch.Generator().manual_seed(3000 + seed))
    phi = law.phi or (lambda v: v)
    return {"k-NN KL": list(metrics.knn_kl(phi(x.double()), phi(y)))}


def divergence(law: Any, model: sdegen.ScoreModel, n: int, seed: int) -> Values:
    """Return the Monte Carlo estimate of ``KL(data‖model)`` with its standard error."""
    x = law.sample(n, torch.Generator().manual_seed(2000 + seed))
    gap = law.log_prob(x) - sdegen.log_prob(model, x, batch=1000)
    return {"KL(data‖model)": [gap.mean().item(), (gap.std() / n**0.5).item()]}


def processes_block(table: Table) -> str:
    """Return the rows of every process."""
    n, samples = (500, 2000) if table.quick else (4000, 8000)

    def floor(case: Case, seed: int) -> Values:
        return compare(case.law, case.law.sample(samples, torch.Generator().manual_seed(4000 + seed)), seed)

    def exact(case: Case, seed: int) -> Values:
        sde = case.sde()
        truth: sdegen.ScoreModel
        if is_linear(sde):
            truth = sdegen.Exact(sde, MIXTURE)
        elif case.law.phi is None:
            truth = sdegen.FokkerPlanck(sde, case.law)
        else:
            inner = sde if sde.coordinates is not None else sdegen.Transformed(sde, case.law.phi)
            truth = sdegen.FokkerPlanck(inner, MIXTURE, 4000, 760)
        return divergence(case.law, truth, n // 4, seed) | compare(
            case.law, sdegen.sample(truth, samples, seed=seed), seed
        )

    def trained(case: Case, seed: int) -> Values:
        torch.manual_seed(seed)
        sde, began = case.sde(), time.process_time()
        model = sdegen.Model(case.net(), sde) if is_linear(sde) else sdegen.DirectModel(case.net(), sde)
        steps = 200 if table.quick else case.steps
        fit_on(table.device, model, case.law, steps=steps, batch_size=case.batch, lr=4e-3, seed=seed)
        spent = time.process_time() - began
        drawn = sdegen.sample(model, samples, seed=seed)
        return {"CPU s": [spent, None]} | divergence(case.law, model, n, seed) | compare(case.law, drawn, seed)

    rows = {}
    for name, case in CASES.items():
        rows[f"{name}, true samples"] = table.row("processes", f"{name}, true samples", partial(floor, case))
        rows[f"{name}, exact score"] = table.row("processes", f"{name}, exact score", partial(exact, case), once=True)
        rows[f"{name}, trained"] = table.row("processes", f"{name}, trained", partial(trained, case))
    return table.write("bounded", COLUMNS, rows)


def main() -> None:
    """Print the table."""
    command.run("bounded_table", __doc__, [processes_block], seeds=3, networks=True)


if __name__ == "__main__":
    main()
