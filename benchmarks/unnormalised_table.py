"""Laws that are known up to a constant, learned without data, and a trained model tilted by a reward: samples beside the truth.

    python -m benchmarks.unnormalised_table            # with --own one to two hours of one core
    python -m benchmarks.unnormalised_table --quick

In the first table a row is a law and a method. The laws, the ring, Neal's funnel in ten dimensions, many wells in 32 and four
drawn mixtures of five modes in four, have known normalisers. Methods that train a network begin with a Gaussian:

- adjoint matching;
- the log-variance of paths: the loss of denoising diffusion samplers, without slopes;
- the divergence of paths, with slopes through the whole run: on VP as denoising diffusion samplers have it (DDS), and with the
  pinned Brownian paths of the path integral sampler (PIS);
- both losses with half of a batch from ends of earlier paths, moved by Langevin steps (`training.Replay`), in so many more steps
  that the network is evaluated as often;
- learning from particles that were annealed without a network (`guidance.anneal_density`).

Samples of the network are then weighed along their paths: of 100 steps, but 50 for the log-variance, 30 for the divergence, and
200 for what learned from particles. Methods without a network are annealed importance sampling and sequential Monte Carlo, with
Langevin steps that are accepted by Metropolis and Hastings. They are given as many evaluations of the density and its slope as
adjoint matching, as the divergence of paths is; rows that are *longer* as many as the particles that a network learned from.

`log Z off` is what the logarithm of the normaliser is off by, beside the error that the run states (`particles off` is the same
of the particles alone), `effective` the share of samples that weights leave, `modes off` the total variation of the weights of
modes.

The second table is a policy gradient: a model trained on the ring, tilted by the reward ``x_1 / 3`` along its own paths. The
tilted law is a mixture in closed form, and its own samples are the floor. Beside it particles are weighted by that reward
(`guidance.tilted_smc`), and by a network that has learned it from 1,000 ratings with errors of 0.3. `KL` is that of samples, by
nearest neighbours, `reward off` the mean of the reward less that of the law.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.tilted_ring import BATCH, GRID, tilted_block
from sdegen import grids, guidance, nets, samplers
from sdegen.laws import GaussianMixture
from sdegen.training import AdjointMatching, LogVariance, PathDivergence, Replay

KNOWN = {
    "log Z off": 3, "stated": 3, "effective": 3, "modes off": 3, "particles off": 3, "evaluations": 0, "CPU s": 1, "seeds": 0,
}  # fmt: skip
STEPS = 100  # of the run that is weighed
RECORDED = 30  # steps of a run that is differentiated


@dataclass
class Problem:
    """A law, the Gaussian that runs begin with, and how a network learns it: by adjoint matching in `steps`, by its paths in
    `paths`, and in `fitted` from particles, annealed through `levels` by steps that spread over so many nats.
    """

    law: Any
    std: float
    width: int
    steps: int
    lr: float
    paths: int
    particles: int
    levels: int
    spread: float
    fitted: int

    @property
    def first(self) -> GaussianMixture:
        """The Gaussian that runs begin with."""
        return GaussianMixture(torch.ones(1), torch.zeros(1, *self.law.event_shape), torch.tensor([self.std**2]))


DRAWN = "five modes, 4 dimensions"
REPLAYS = {"": None, ", replay": Replay()}
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "ring": lambda: Problem(sdegen.data.gaussian_ring(), 3.0, 64, 1000, 4e-3, 300, 2000, 200, 3.0, 3000),
    "funnel, 10 dimensions": lambda: Problem(sdegen.data.Funnel(10), 3.0, 96, 500, 2e-3, 300, 4000, 3000, 8.0, 4000),
    "many wells, 32 dimensions": lambda: Problem(
        sdegen.data.ManyWell(32), 1.6, 128, 500, 1e-3, 300, 16_000, 300, 3.0, 4000
    ),
}


def draw_modes(seed: int) -> Problem:
    """Return a law of five modes far apart in four dimensions, of unequal weights and widths, another one for each seed."""
    draws = torch.Generator().manual_seed(7000 + seed)
    means = 3 * torch.randn(5, 4, generator=draws, dtype=torch.float64)
    widths, weights = torch.rand(2, 5, generator=draws, dtype=torch.float64)
    law = GaussianMixture((weights + 0.3) / (weights + 0.3).sum(), means, (0.3 + 0.5 * widths).square())
    return Problem(law, 3.5, 64, 200, 2e-3, 100, 0, 0, 0.0, 0)


def law_of(name: str, seed: int) -> Problem:
    """Return a law that is named, or drawn by the seed."""
    return draw_modes(seed) if name == DRAWN else PROBLEMS[name]()


def judged(problem: Problem, found: guidance.Particles, evaluations: int, began: float) -> Values:
    """Return what weighted samples say, beside what is known; the law's density is normalised."""
    assert found.log_evidence is not None and found.evidence_error is not None
    row: Values = {
        "log Z off": [found.log_evidence, None],
        "stated": [found.evidence_error, None],
        "effective": [found.effective / len(found.x), None],
        "evaluations": [float(evaluations), None],
        "CPU s": [time.process_time() - began, None],
    }
    if isinstance(problem.law, GaussianMixture):
        each = problem.law.component_log_prob(found.x.double()).softmax(1)
        row["modes off"] = [0.5 * (found.weights @ each - problem.law.weights).abs().sum().item(), None]
    return row


def budget(problem: Problem, steps: int) -> int:
    """Return how often a training evaluates the density and its slope."""
    return 2 * BATCH * steps


def moved(replay: Replay | None, steps: int) -> int:
    """Return how often the density and its slope are evaluated to move the ends that are kept."""
    if replay is None:
        return 0
    kept = [min(replay.size, round(BATCH * (1 + (step - 1) * (1 - replay.share)))) for step in range(1, steps + 1)]
    return 2 * (replay.moves + 1) * sum(kept[replay.every - 1 :: replay.every])


fit_quietly = partial(fit_on, threads=1, progress=False)


def network(problem: Problem, seed: int, sde: sdegen.LinearSDE | None = None) -> sdegen.Model:
    """Return an untrained network of the law's width, of VP where no process is given."""
    torch.manual_seed(seed)
    net = nets.MLP(problem.law.event_shape[0], width=problem.width, depth=2)
    return sdegen.Model(net, sdegen.VP() if sde is None else sde)


def learned(name: str, replay: Replay | None, quick: bool, n: int, device: str, seed: int) -> Values:
    """Train a network on the law by adjoint matching, and judge weighted samples of it; with kept ends in more steps, for as many
    evaluations of the network, of which 8 levels follow 30 steps of a path.
    """
    problem, began = law_of(name, seed), time.process_time()
    steps, model = 60 if quick else problem.steps, network(problem, seed)
    own = 1 - (replay.share if replay else 0.0)
    steps = round(steps * 38 / (30 * own + 8))
    loss = AdjointMatching(problem.law.log_prob, replay=replay)
    fit_quietly(device, model, problem.first, loss=loss, steps=steps, batch_size=BATCH, lr=problem.lr, seed=seed)
    found = guidance.importance_sample(model, problem.law.log_prob, n, steps=STEPS, seed=seed, batch=5000)
    return judged(problem, found, budget(problem, steps) + moved(replay, steps) + n, began)


def by_paths(name: str, replay: Replay | None, quick: bool, n: int, device: str, seed: int) -> Values:
    """Train a network by the log-variance of paths, and judge samples of as many steps; with kept ends in more steps, for as many
    evaluations of the network, which draws its own paths before it weighs all.
    """
    problem, began = law_of(name, seed), time.process_time()
    steps, model = 30 if quick else problem.paths, network(problem, seed)
    steps = round(steps * 2 / (2 - (replay.share if replay else 0.0)))
    loss = LogVariance(problem.law.log_prob, steps=STEPS // 2, replay=replay)
    fit_quietly(device, model, problem.first, loss=loss, steps=steps, batch_size=BATCH, lr=problem.lr, seed=seed)
    found = guidance.importance_sample(model, problem.law.log_prob, n, steps=STEPS // 2, seed=seed, batch=5000)
    return judged(problem, found, BATCH * steps + moved(replay, steps) + n, began)


LEARNED = {"adjoint matching": learned, "log-variance of paths": by_paths}


class Pinned(sdegen.ScheduleSDE):
    """Brownian paths to a point at ``T = 1``, over the root of their time, in which they are a process of variance 1."""

    T = 0.999  # a little before the end, where nothing of the data is left

    def alpha(self, t: Tensor) -> Tensor:
        """Return the root of the time that is left."""
        return (1 - t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Return the root of the time."""
        return t.sqrt()


CHAINS: dict[str, tuple[sdegen.LinearSDE, grids.Grid]] = {
    "divergence of paths (DDS)": (sdegen.VP(), GRID),
    "divergence of pinned paths (PIS)": (Pinned(), grids.Uniform(end=0.0)),
}


def through_paths(name: str, chain: str, quick: bool, n: int, device: str, seed: int) -> Values:
    """Train a network by slopes through its own paths, and judge samples of as many steps."""
    problem, began, (sde, grid) = PROBLEMS[name](), time.process_time(), CHAINS[chain]
    steps, model = 10 if quick else problem.steps, network(problem, seed, sde)
    sampler = samplers.ExponentialSDE(RECORDED, grid, order=1, reference=samplers.Matched())
    loss = PathDivergence(problem.law.log_prob, sampler=sampler)
    fit_quietly(device, model, problem.first, loss=loss, steps=steps, batch_size=BATCH, lr=problem.lr / 2, seed=seed)
    found = guidance.importance_sample(model, problem.law.log_prob, n, sampler=sampler, seed=seed, batch=5000)
    return judged(problem, found, budget(problem, steps) + n, began)


def taught(name: str, quick: bool, n: int, device: str, seed: int) -> Values:
    """Train a network on particles that were annealed and have settled in the law, and judge weighted samples of it."""
    problem, began = PROBLEMS[name](), time.process_time()
    log_prob, draws = problem.law.log_prob, torch.Generator().manual_seed(seed)
    particles, levels, fitted = (500, 60, 100) if quick else (problem.particles, problem.levels, problem.fitted)
    before = guidance.anneal_density(
        log_prob,
        problem.first,
        particles,
        levels=levels,
        settle=levels,
        spread=problem.spread,
        seed=seed,
        progress=False,
    )
    data, model = before.sample(particles, draws).float(), network(problem, seed)
    fit_quietly(device, model, data, steps=fitted, batch_size=2 * BATCH, lr=2e-3, seed=seed)
    found = guidance.importance_sample(model, log_prob, n, steps=2 * STEPS, seed=seed, batch=5000)
    row = judged(problem, found, 2 * particles * before.evaluations + n, began)
    return row | {"particles off": [before.log_evidence, None]}


def annealed(name: str, quick: bool, n: int, threshold: float, longer: bool, seed: int) -> Values:
    """Judge annealed importance sampling, or with a threshold sequential Monte Carlo, from the Gaussian to the law."""
    problem, began = PROBLEMS[name](), time.process_time()
    as_many = 2 * problem.particles * (2 * problem.levels + 1) if longer else budget(problem, problem.steps)
    levels = (budget(problem, 60) if quick else as_many) // (2 * n)
    found = guidance.anneal_density(
        problem.law.log_prob,
        problem.first,
        n,
        levels=levels,
        spread=0.0,
        threshold=threshold,
        seed=seed,
        progress=False,
    )
    return judged(problem, found, 2 * n * found.evaluations, began)


def known_block(table: Table) -> str:
    """Return the table of laws without data."""
    n, rows = (500 if table.quick else 10_000), {}
    for name in ("ring",) if table.quick else PROBLEMS:
        few = partial(table.row, "known", seeds=None if name == "ring" else 1)
        m = 500 if table.quick else 2000
        for (method, run_of), (ends, replay) in product(LEARNED.items(), REPLAYS.items()):
            row = f"{name}: {method}{ends}"
            seeds = None if name == "ring" and replay is None else 1
            rows[row] = table.row("known", row, partial(run_of, name, replay, table.quick, n, table.device), seeds)
        row = f"{name}: annealed, then learned"
        rows[row] = table.row("known", row, partial(taught, name, table.quick, n, table.device))
        for chain in CHAINS:
            row = f"{name}: {chain}"
            rows[row] = few(row, partial(through_paths, name, chain, table.quick, n, table.device))
        for method, threshold in (("annealed importance sampling", 0.0), ("sequential Monte Carlo", 0.5)):
            row = f"{name}: {method}"
            rows[row] = few(row, partial(annealed, name, table.quick, m, threshold, False))
            rows[f"{row}, longer"] = table.row(
                "known", f"{row}, longer", partial(annealed, name, table.quick, m, threshold, True)
            )
    for (method, run_of), (ends, replay) in product(() if table.quick else LEARNED.items(), REPLAYS.items()):
        row = f"{DRAWN}: {method}{ends}"
        rows[row] = table.row("known", row, partial(run_of, DRAWN, replay, table.quick, n, table.device), seeds=4)
    return "\nLaws without data\n\n" + table.write("known", KNOWN, rows)


def main() -> None:
    """Print the tables."""
    command.run("unnormalised_table", __doc__, [known_block, tilted_block], networks=True)


if __name__ == "__main__":
    main()
