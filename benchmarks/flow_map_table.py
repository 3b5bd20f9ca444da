"""Flow maps: samples of one, two and four jumps, of maps that a score model taught, and of one that had data alone.

    python -m benchmarks.flow_map_table --threads 1            # three seeds, 45 minutes of one core each
    python -m benchmarks.flow_map_table --quick

A row is a map, taught by a score model or by trajectories of one, in so many jumps; or the default sampler of the score model;
or true samples, the floor. The ring of eight modes, and a mixture in eight dimensions, under VP; perceptrons of width 128,
depth 4. ``KL`` is that of the samples' law to the data's: of jumps by their derivatives, which give the law of the samples
itself. ``k-NN KL`` and ``sliced W2`` are of samples alone, to as many true ones; ``mode weights`` is the total variation of the
modes that samples belong to from the weights of the law, and ``stray`` the share of samples whose density is below that of all
but one in a thousand true ones. ``off`` is the distance of a jump's end from that of the map's own probability flow, root mean
square in standard deviations of the data, beside the distances that half of the ends, 90 % and 99 % of them have at most.
``train s`` are the seconds of one core that the map was trained, after its teacher if it had one, and ``from data s`` those of
both. Rows of the default sampler are of the teacher.

The last block holds objectives against each other (`map_objectives`): maps of width 64 and depth 3 of the ring, which follow its
true velocities for as many seconds of one core each, 15, in batches of 256.
"""

from __future__ import annotations

import time
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.map_objectives import OBJECTIVES, fit_for, steps_within
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import metrics, nets, training
from sdegen.samplers import FlowMap, Jumps, ProbabilityFlow
from sdegen.training.score_loss import ScoreLoss

SHARES = {
    "median off": 0.5,
    "90 % off": 0.9,
    "99 % off": 0.99,
}  # shares of the ends that are off by the value of the column or less
COLUMNS = {
    "evaluations": 0, "KL": 3, "k-NN KL": 3, "sliced W2": 3, "mode weights": 3, "stray": 4, "off": 3,
    **dict.fromkeys(SHARES, 3), "train s": 0, "from data s": 0, "seeds": 0,
}  # fmt: skip
JUMPS = (1, 2, 4)
OBJECTIVE_COLUMNS = {f"{what}, {n}": 3 for n in (1, 4) for what in ("KL", "k-NN KL")} | {
    "steps": 0, "train s": 0, "seeds": 0,
}  # fmt: skip
DENSITIES = 4000  # samples whose log-densities are taken
SECONDS = 15  # of one core that each objective is trained for


class Trained(NamedTuple):
    """A model, how long it was trained, and how long its teacher had been."""

    model: sdegen.Model
    seconds: float
    before: float = 0.0


def law_of(target: str, seed: int) -> sdegen.GaussianMixture:
    """Return the law of the data."""
    return sdegen.data.gaussian_ring() if target == "ring" else sdegen.data.random_mixture(8, seed=100 + seed)


class How(NamedTuple):
    """How models are trained: whether for a short time, and on which device."""

    quick: bool
    device: str


def network(dim: int, seed: int) -> nets.MLP:
    """Return an untrained perceptron."""
    torch.manual_seed(seed)
    return nets.MLP(dim, width=128, depth=4)


@cache
def teacher(target: str, seed: int, how: How) -> Trained:
    """Train the score model that the maps begin as."""
    law = law_of(target, seed)
    model = sdegen.Model(network(law.event_shape[0], seed), sdegen.VP())
    began = time.process_time()
    fit_on(how.device, model, law, steps=20 if how.quick else 3000, batch_size=512, lr=2e-3, seed=seed, progress=False)
    return Trained(model, time.process_time() - began)


@cache
def taught(target: str, seed: int, how: How) -> Trained:
    """Train a map that begins as the score model, and learns from it and from the data."""
    model, before, _ = teacher(target, seed, how)
    loss = training.Lagrangian(model.to(how.device))  # which asks the teacher
    found, seconds, _ = fitted(FlowMap.of(model), loss, target, seed, how, 4000)
    model.cpu()
    return Trained(found, seconds, before)


@cache
def alone(target: str, seed: int, how: How) -> Trained:
    """Train a map on data alone, without a score model."""
    net = nets.add_conditions(network(law_of(target, seed).event_shape[0], seed), {"until": nets.SecondLevel()})
    return fitted(FlowMap(net, sdegen.VP()), None, target, seed, how, 6000)


@cache
def followed(target: str, seed: int, how: How) -> Trained:
    """Train a map that begins as the score model, and learns from trajectories of it.

    The loss takes distances and not their squares: where two neighbours go to different modes, the mean of both, which squares
    ask for, is in neither.
    """
    model, before, _ = teacher(target, seed, how)
    began = time.process_time()
    paths = training.trace(model.to(how.device), 500 if how.quick else 60_000, seed=seed, batch=5000)
    spent = time.process_time() - began
    found, fit, _ = fitted(FlowMap.of(model), training.Trajectories(model, paths), target, seed, how, 5000)
    model.cpu()
    return Trained(found, spent + fit, before)


MAKE = {"taught": taught, "of trajectories": followed, "of data alone": alone}


def fitted(model: FlowMap, loss: ScoreLoss | None, target: str, seed: int, how: How, steps: int) -> Trained:
    """Train a map, and return it with the seconds of a core that this took."""
    began = time.process_time()
    fit_on(
        how.device, model, law_of(target, seed), steps=20 if how.quick else steps, batch_size=512, lr=2e-3,
        seed=seed + 50, loss=loss, progress=False,
    )  # fmt: skip
    return Trained(model, time.process_time() - began)


def of_samples(target: str, x: Tensor, seed: int) -> Values:
    """Return the columns that samples alone give."""
    law, x = law_of(target, seed), x.double()
    true = law.sample(len(x), torch.Generator().manual_seed(10_000 + seed))
    kl, w2 = metrics.knn_kl(x, true), metrics.sliced_wasserstein(x, true, seed=seed)
    modes = law.component_log_prob(x).argmax(1).bincount(minlength=len(law.weights)) / len(x)
    return {
        "k-NN KL": [kl.value, kl.stderr],
        "sliced W2": [w2.value, w2.stderr],
        "mode weights": [0.5 * (modes - law.weights).abs().sum().item(), None],
        "stray": [(law.log_prob(x) < law.log_prob(true).quantile(1e-3)).double().mean().item(), None],
    }


def floor(target: str, n: int, seed: int) -> Values:
    """Judge true samples."""
    return of_samples(target, law_of(target, seed).sample(n, torch.Generator().manual_seed(seed)), seed)


def by_default(target: str, evaluations: int, n: int, how: How, seed: int) -> Values:
    """Judge the default sampler of the score model."""
    model, seconds, _ = teacher(target, seed, how)
    x = sdegen.sample(model, n, steps=evaluations, seed=seed, progress=False)
    return of_samples(target, x, seed) | {"evaluations": [evaluations, None], "train s": [seconds, None]}


def by_jumps(target: str, kind: str, jumps: int, n: int, how: How, seed: int) -> Values:
    """Judge a map in so many jumps."""
    model, seconds, before = MAKE[kind](target, seed, how)
    assert isinstance(model, FlowMap)
    x = sdegen.sample(model, n, sampler=Jumps(jumps), seed=seed, progress=False)
    gap = distance(model, jumps, 256 if how.quick else 2048)
    return of_samples(target, x, seed) | {
        "evaluations": [jumps, None],
        "KL": divergence(model, law_of(target, seed), jumps, 64 if how.quick else DENSITIES),
        "off": [gap.square().mean().sqrt().item(), None],
        **{name: [gap.quantile(share).item(), None] for name, share in SHARES.items()},
        "train s": [seconds, None],
        "from data s": [before + seconds, None],
    }


def from_prior(model: FlowMap, n: int) -> tuple[Tensor, Tensor]:
    """Return states that runs begin with, and their log-densities."""
    prior = model.sde.prior(model.state_moments())
    x = prior.sample(n, torch.Generator().manual_seed(7))
    return model.cast_states(x), prior.log_prob(x)


def divergence(model: FlowMap, law: sdegen.GaussianMixture, jumps: int, n: int) -> list[float]:
    """Return KL of the law of a map's samples to that of the data, and its standard error."""
    x, log_q = from_prior(model, n)
    with torch.no_grad():
        for t, s in pairwise(Jumps(jumps).times(model.sde, True)):
            x, log_det = model.jump_with_log_det(x, t, s)
            log_q = log_q - log_det.double()
    units, data = model.sde.units, model.sde.project(x).double()
    log_q = log_q - units.std.expand(data.shape[1]).log().sum()
    gap = log_q - law.log_prob(data)
    return [gap.mean().item(), (gap.std() / n**0.5).item()]


def distance(model: FlowMap, jumps: int, n: int) -> Tensor:
    """Return how far jumps end from where the map's own flow does, ``(n,)``, in standard deviations of a number of the data."""
    x, ends = followed_ends(model, n)
    landed = sdegen.sample(model, x_T=x, sampler=Jumps(jumps), progress=False)
    return (landed - ends).double().norm(dim=1) / (x.shape[1] ** 0.5 * model.sde.units.std.mean())


@cache
def followed_ends(model: FlowMap, n: int) -> tuple[Tensor, Tensor]:
    """Return states that runs begin with, and where the map's own flow takes them."""
    x, _ = from_prior(model, n)
    grid = sdegen.grids.Given(torch.tensor([model.sde.t_max, 0.0], dtype=torch.float64))
    flow = ProbabilityFlow(grid=grid, rtol=1e-5, atol=1e-5)
    return x, sdegen.sample(model, x_T=x, sampler=flow, final="sample", progress=False)


def by_objective(name: str, n: int, how: How, seed: int) -> Values:
    """Train a map of the ring by an objective, with true velocities for its teacher, and judge it."""
    law = law_of("ring", seed)
    torch.manual_seed(seed)
    model = FlowMap(nets.MLP(2, width=64, depth=3, conditions={"until": nets.SecondLevel()}), sdegen.VP())
    model.measure(law.moments())
    model.moments = law.moments()
    loss = OBJECTIVES[name](sdegen.Exact(model.sde, law))
    steps = 5 if how.quick else steps_within(SECONDS, model, law, loss)
    began = time.process_time()
    try:
        fit_for(steps, model, law, loss, seed + 50)
    except training.NonFiniteLoss:
        return {"steps": [steps, None]} | {f"KL, {jumps}": "diverged" for jumps in (1, 4)}
    values: Values = {"steps": [steps, None], "train s": [time.process_time() - began, None]}
    for jumps in (1, 4):
        x = sdegen.sample(model, n, sampler=Jumps(jumps), seed=seed, progress=False)
        values[f"KL, {jumps}"] = divergence(model, law, jumps, 64 if how.quick else DENSITIES)
        values[f"k-NN KL, {jumps}"] = of_samples("ring", x, seed)["k-NN KL"]
    return values


def objectives_block(table: Table) -> str:
    """Return the table of objectives."""
    n, how = 500 if table.quick else 20_000, How(table.quick, table.device)
    rows = {
        name: table.row("objectives", name, partial(by_objective, name, n, how), device="cpu") for name in OBJECTIVES
    }
    return "\nobjectives\n\n" + table.write("objectives", OBJECTIVE_COLUMNS, rows)


def maps_block(target: str, table: Table) -> str:
    """Return the table of one law."""
    n, how = 500 if table.quick else 20_000, How(table.quick, table.device)
    rows = {"true samples (floor)": table.row(target, "true samples", partial(floor, target, n))}
    for evaluations in (2, 4, 6, 10):
        name = f"default sampler, {evaluations}"
        rows[name] = table.row(target, name, partial(by_default, target, evaluations, n, how))
    for kind in MAKE:
        for jumps in JUMPS:
            name = f"map {kind}, {jumps}"
            rows[name] = table.row(target, name, partial(by_jumps, target, kind, jumps, n, how))
    return f"\n{target}\n\n" + table.write(target.replace(" ", "_"), COLUMNS, rows)


def main() -> None:
    """Print the tables."""
    command.run(
        "flow_map_table",
        __doc__,
        [*(partial(maps_block, target) for target in ("ring", "mixture in 8 dimensions")), objectives_block],
        networks=True,
    )


if __name__ == "__main__":
    main()
