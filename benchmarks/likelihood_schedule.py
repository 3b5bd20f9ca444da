"""A block of `benchmarks.likelihood_recipe`: what a learned noise schedule is worth to a chain of few states of bytes.

A row says what of the schedule is learned with the network, nothing, its ends, its shape or both, on the digits; columns are
the bound of test digits by the chain that was trained, and the log-SNR where the schedule begins, half way, and ends.
"""

from __future__ import annotations

from functools import partial

import torch

import sdegen
from benchmarks.likelihood_bits import NOISE, scaling_of
from benchmarks.likelihood_parts import bytes_of
from benchmarks.likelihood_training import BETA, split_of
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import losses
from sdegen.data import Scaling
from sdegen.laws import Units
from sdegen.metrics import Estimate

CHAIN = 12  # states, even in `t`
FASTER = 20.0  # rate of the schedule over that of the network: in 300 steps it has to move by several units of log-SNR
DIGITS = Scaling(-1, 1, 17)
# Which parameters of the schedule are learned.
KINDS = {
    "even in the log-SNR, fixed": (),
    "ends learned": ("ends",),
    "shape learned": ("increments",),
    "ends and shape learned": ("ends", "increments"),
}


def schedule(learned: tuple[str, ...]) -> sdegen.LearnedSchedule:
    """Return a schedule that starts even in the log-SNR between the ends of the recipe, and of which so much is learned."""
    first = -2 * torch.tensor(NOISE * DIGITS.step).log().item()
    sde = sdegen.LearnedSchedule(first=first, last=-0.5 * BETA)
    for name, parameter in sde.named_parameters():
        parameter.requires_grad_(name in learned)
    return sde


def judged(name: str, steps: int, n: int, seed: int) -> Values:
    """Train network and schedule on the bound of a chain, and return that bound of test digits and where the schedule lies."""
    torch.manual_seed(seed)
    net, parametrization = bytes_of(2)
    sde = schedule(KINDS[name]).in_units(Units())
    model = sdegen.Model(net, sde, parametrization)
    seen, _, test = split_of("digits")
    run = sdegen.fit(
        model, seen.without_labels().scaled(-1, 1), steps=steps, batch_size=64, lr=2e-3, loss=losses.Variational(CHAIN, DIGITS),
        lr_factors={"sde.": FASTER} if KINDS[name] else None, seed=seed, progress=False,
    )  # fmt: skip
    times = torch.linspace(sde.T, sde.t_min, CHAIN, dtype=torch.float64)
    seeded = torch.Generator().manual_seed(seed)
    found = sdegen.discrete_bits_per_dim(model, test.x[:n], scaling_of(test), times, draws=4, generator=seeded)
    at = [sde.snr(t).log().item() for t in (sde.t_min, 0.5 * sde.T, sde.T)]
    return {
        "chain": list(Estimate.of(found.value)),
        **{f"log-SNR at {where}": [value, None] for where, value in zip(("0", "T/2", "T"), at)},
        "train s": [run.seconds, None],
    }


def schedule_block(table: Table) -> str:
    """Return bounds of chains of `CHAIN` states on fixed and on learned schedules."""
    steps, n = (20, 20) if table.quick else (300, 359)
    rows = {name: table.row("schedule", name, partial(judged, name, steps, n), seeds=2, device="cpu") for name in KINDS}
    columns = {"chain": 3, "log-SNR at 0": 2, "log-SNR at T/2": 2, "log-SNR at T": 2, "train s": 0, "seeds": 0}
    return table.write("schedule", columns, rows)
