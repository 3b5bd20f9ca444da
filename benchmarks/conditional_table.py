"""Conditional laws: how wide the default sampler's samples are, by the variance of the law, after few evaluations.

    python -m benchmarks.conditional_table --threads 1            # ten problems each, half an hour of one core
    python -m benchmarks.conditional_table --threads 1 --quick

In the first block a row is a way to sample posteriors. A problem is a law in 2, 4 or 8 dimensions, one Gaussian or a mixture of
four of any axes, of which some directions are measured with noise; a seed is a problem. Every model samples its posterior with
5, 8, 10 and 20 evaluations from the same 10,000 starts, whose mean and covariance are those of the prior.

- ``off`` is how far the variance of the samples, summed over coordinates, is from that of the ends of the same flow in 100
  steps, in per cent of it: the error of the sampler alone;
- ``truth`` is the same for ten evaluations beside the ends of the true posterior's flow from these starts: the error of the
  model is in it;
- ``3 %`` is the share of the problems that are within.

The first row is how far the ends of the true posterior's flow are from the known variance of the posterior, by the chance of
the draws: a mode of one sample in a hundred has a tenth more or fewer of 10,000.

The second block is of laws of one label each, Gaussians of standard deviations between 0.05 and 1 beside one another, and means
over the labels: of a model that knows the moments of its labels, and of one that knows those of all data and what
`measure_profile` finds under the labels, as a network does. ``narrow`` and ``wide`` are the ratio of the variances at ten
evaluations for the labels with the least and the most of it.
"""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.drawn_targets import Draws
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import grids, guidance, measurements, samplers
from sdegen.conditions import Conditions
from sdegen.samplers import Multistep, PointMass, share

EVALUATIONS = (5, 8, 10, 20)
AT = 10  # evaluations at which more columns are shown
WITHIN = 3.0  # per cent that a variance may be off to be counted as right
PATHS, LABELS = 10_000, 6
FLOOR = "100 steps (floor)"
FINE = Multistep(100, grids.Angle(power=0.5), 3, PointMass(), share, True)
POSTERIORS = {f"off {n}": 2 for n in EVALUATIONS} | {f"3 % {AT}": 1, f"truth {AT}": 2, f"truth 3 % {AT}": 1, "seeds": 0}
WIDTHS = {f"off {n}": 2 for n in EVALUATIONS} | {f"3 % {AT}": 2, "narrow": 3, "wide": 3, "seeds": 0}


class Problem:
    """A law, a measurement of one of its data, and the posterior.

    Parameters
    ----------
    modes
        The number of modes of the law: one for a Gaussian.
    seed
        The seed of the law, the datum, the directions and the noise.
    """

    def __init__(self, modes: int, seed: int) -> None:
        draws = Draws(7_000 + 100 * modes + seed)
        d = 2 ** draws.whole(1, 3)
        A = draws.between(0.15, 0.5) * draws.normal(modes, d, d) / d**0.5
        means = draws.between(0.7, 2.0) * draws.normal(modes, d)
        self.law = sdegen.GaussianMixture(draws.shares(modes), means, A @ A.mT + 0.02 * torch.eye(d))
        H = draws.normal(draws.whole(1, d // 2), d)
        self.seen = measurements.Linear(H, std=draws.between(0.03, 0.7).item())
        self.y = self.seen.sample(self.law.sample(1, draws.generator), draws.generator)[0]
        self.posterior = measurements.mixture_posterior(self.law, self.seen, self.y)
        self.exact = sdegen.Exact(sdegen.VP(), self.law)


class Learned(sdegen.Exact):
    """The truth under every label that knows of its law the moments of all data, and a profile that is measured under the
    labels: what a network knows after `fit`.
    """

    def __init__(self, laws: list[sdegen.GaussianMixture], null: sdegen.GaussianMixture, each: int) -> None:
        super().__init__(sdegen.VP(), null)
        self._labelled = sdegen.ExactConditional(self.sde, laws, null)
        data = torch.cat([law.sample(each, torch.Generator().manual_seed(k)) for k, law in enumerate(laws)])
        label = torch.arange(len(laws)).repeat_interleave(each)
        self.profile = samplers.measure_profile(self, data, steps=EVALUATIONS[:-1], label=label)

    @property
    def conditions(self) -> Conditions:
        """The conditions of the model: the label."""
        return self._labelled.conditions

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score under a label."""
        return self._labelled.score(x, t, **cond)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the clean state and the noise under a label."""
        return self._labelled.estimate(x, t, **cond)


class Widths:
    """Variances of samples from always the same starts, which have mean and covariance of the prior.

    Parameters
    ----------
    model
        A score model, under its conditions.
    """

    def __init__(self, model: sdegen.ScoreModel, **cond: Any) -> None:
        self.model, self.cond = model, cond
        prior = model.sde.prior(model.require_moments())
        x, (mean, want) = prior.sample(PATHS, torch.Generator().manual_seed(1)), prior.moments()
        z = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T.cov()), (x - x.mean(0)).T, upper=False).T
        self.x_T = mean + (z @ torch.linalg.cholesky(want).T if want.ndim == 2 else z * want.sqrt())

    def of(self, sampler: samplers.Sampler | None, steps: int | None = None) -> float:
        """Return the variance of the samples, summed over coordinates."""
        x = sdegen.sample(self.model, x_T=self.x_T, sampler=sampler, steps=steps, progress=False, **self.cond)
        return variance(x)

    @cached_property
    def known(self) -> float:
        """The variance of the ends of the flow."""
        return self.of(FINE)

    def ratio(self, n: int, around: samplers.Reference | None = None) -> float:
        """Return the variance after so many evaluations, by that of the ends of the flow: of the default, or its like around
        another reference.
        """
        if around is None:
            return self.of(None, n) / self.known
        own = samplers.default(sdegen.Conditioned(self.model, **self.cond), n)
        assert isinstance(own, Multistep)
        return self.of(Multistep(n, own.grid, own.order, around, share, own.corrector)) / self.known


def variance(x: Tensor) -> float:
    """Return the variance of samples, summed over coordinates."""
    return x.var(0).sum().item()


def off(ratio: float) -> float:
    """Return by how many per cent a ratio is not one."""
    return 100 * abs(ratio - 1)


def posterior(modes: int, name: str, seed: int) -> Values:
    """Return how far the variance of a posterior's samples is off."""
    problem = Problem(modes, seed)
    labelled = sdegen.ExactConditional(sdegen.VP(), [problem.posterior], problem.law)
    true = Widths(labelled, label=0).known
    if name == FLOOR:
        found = off(true / problem.posterior.moments().covariance.trace().item())
        return {f"truth {AT}": found, f"truth 3 % {AT}": float(found < WITHIN)}
    widths = {
        "moments known": lambda: Widths(labelled, label=0),
        "around a point mass": lambda: Widths(labelled, label=0),
        "measured under conditions": lambda: Widths(Learned([problem.posterior], problem.law, 16), label=0),
        "moment matching": lambda: Widths(guidance.MomentMatching(problem.exact, problem.seen), y=problem.y),
        "ΠGDM": lambda: Widths(guidance.PiGDM(problem.exact, problem.seen), y=problem.y),
    }[name]()
    around = PointMass() if name == "around a point mass" else None
    ratios = {n: widths.ratio(n, around) for n in EVALUATIONS}
    to_truth = off(ratios[AT] * widths.known / true)
    return {f"off {n}": off(ratio) for n, ratio in ratios.items()} | {
        f"3 % {AT}": float(off(ratios[AT]) < WITHIN),
        f"truth {AT}": to_truth,
        f"truth 3 % {AT}": float(to_truth < WITHIN),
    }


def labels(name: str, seed: int) -> Values:
    """Return how far the variances of the laws of labels are off, and the ratios of the narrowest and the widest."""
    draws = Draws(9_000 + seed)
    d = 2 ** draws.whole(1, 3)
    means, stds = 2 * draws.normal(LABELS, d), draws.between(0.05, 1.0, LABELS)
    null = sdegen.GaussianMixture(torch.full((LABELS,), 1 / LABELS), means, stds.square())
    laws = [sdegen.GaussianMixture(torch.ones(1), m[None], s.square()[None]) for m, s in zip(means, stds, strict=True)]
    model = sdegen.ExactConditional(sdegen.VP(), laws, null) if name == "moments known" else Learned(laws, null, 4)
    around = PointMass() if name == "around a point mass" else None
    each = [Widths(model, label=k) for k in range(LABELS)]
    ratios = torch.tensor([[widths.ratio(n, around) for n in EVALUATIONS] for widths in each])
    missed, at = 100 * (ratios - 1).abs(), EVALUATIONS.index(AT)
    return {f"off {n}": missed[:, i].mean().item() for i, n in enumerate(EVALUATIONS)} | {
        f"3 % {AT}": (missed[:, at] < WITHIN).double().mean().item(),
        "narrow": ratios[stds.argmin(), at].item(),
        "wide": ratios[stds.argmax(), at].item(),
    }


def posteriors_block(table: Table) -> str:
    """Return the rows of posteriors of measurements."""
    names = (
        FLOOR, "moments known", "around a point mass", "measured under conditions", "moment matching",
        "ΠGDM",
    )  # fmt: skip
    rows = {
        f"{law}: {name}": table.row("posteriors", f"{law}: {name}", partial(posterior, modes, name))
        for law, modes in (("Gaussian", 1), ("mixture", 4))
        for name in names
    }
    return table.write("posteriors", POSTERIORS, rows)


def labels_block(table: Table) -> str:
    """Return the rows of laws of labels of very different widths."""
    names = ("moments known", "around a point mass", "measured under labels")
    return table.write("labels", WIDTHS, {name: table.row("labels", name, partial(labels, name)) for name in names})


def main() -> None:
    """Print the tables."""
    command.run("conditional_table", __doc__, [posteriors_block, labels_block], seeds=10)


if __name__ == "__main__":
    main()
