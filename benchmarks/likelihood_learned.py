"""Two blocks of `benchmarks.likelihood_table`: learned schedules, and a diffusion model as a hierarchical VAE.

In the first a row is a process, and columns are how many nats the bound of a chain of 20 states, even in `t`, is below the
true log-density of the ring: of the true score before the training, of the network and the process trained on it, and of the
process in continuous time. In the second a row is a term of the negative bound of a chain of ten, by the diffusion model and
by the VAE.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks.devices import fit_on
from benchmarks.likelihood_processes import of_the_kl_table
from benchmarks.ring import DETAIL, RING
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import diffusion_hierarchy, losses, nets
from sdegen.laws import Units
from sdegen.models import EDMParametrization

CHAIN = 20  # states of the chain whose bound is trained and judged
STEPS = 3000
SEEDS = {"learned schedule": 2, "learned drift and diffusion": 2}
PROCESSES: dict[str, Callable[[], Any]] = {
    "VP": sdegen.VP,
    "Cosine": sdegen.Cosine,
    "Rectified": sdegen.Rectified,
    "learned schedule": sdegen.LearnedSchedule,
    "learned drift and diffusion": sdegen.LearnedSDE,
}


def even_times(sde: Any, n: int) -> Tensor:
    """Return `n` times equally spaced in `t`, from noise to data; where no signal is left at T, they begin a little before."""
    return torch.linspace(sde.t_max, max(sde.t_min, 1e-3 * sde.T), n, dtype=torch.float64)


def excess(found: sdegen.Bound | sdegen.Chain, x: Tensor) -> list[float]:
    """Return how many nats a bound is below the law's own log-density, and the standard error."""
    gap = RING.log_prob(x) - found.value
    return [gap.mean().item(), gap.std().item() / len(x) ** 0.5]


def learned(name: str, steps: int, n: int, device: str, seed: int) -> Values:
    """Train network and process on the bound of the chain, and return how far it stays below the truth."""
    torch.manual_seed(seed)
    sde = PROCESSES[name]().in_units(Units())  # the ring's own units, which the settings are in
    x = RING.sample(n, torch.Generator().manual_seed(1000 + seed))
    generator = torch.Generator().manual_seed(2000 + seed)
    with torch.no_grad():
        untrained = sdegen.discrete_elbo(
            sdegen.Exact(sde, RING), x, even_times(sde, CHAIN), draws=4, generator=generator
        )
    model = sdegen.Model(nets.MLP(2, width=96, depth=3), sde, EDMParametrization(detail=DETAIL, delta=0.03))
    run = fit_on(device, model, RING, steps=steps, loss=losses.Variational(CHAIN), seed=seed)
    model = model.double()
    chain = sdegen.discrete_elbo(model, x, even_times(sde, CHAIN), draws=4, generator=generator)
    return {
        "true score, as it starts": excess(untrained, x),
        "trained": excess(chain, x),
        "of the process": excess(sdegen.elbo(model, x, draws=32, generator=generator), x),
        "log-SNR at 0": [sde.snr(sde.t_min).clamp_max(1e12).log().item(), None],
        "log-SNR at T": [sde.snr(sde.t_max).log().item(), None],
        "train s": [run.seconds, None],
    }


def by_hand(n: int, seed: int) -> Values:
    """Return the bound of the true score on times as one would choose them: even in the log-SNR, down to noise of a
    thousandth.
    """
    x = RING.sample(n, torch.Generator().manual_seed(1000 + seed))
    generator = torch.Generator().manual_seed(2000 + seed)
    chain = sdegen.discrete_elbo(sdegen.Exact(sdegen.VP(), RING), x, CHAIN, draws=4, generator=generator)
    return {"true score, as it starts": excess(chain, x)}


def identity(table: Table, n: int, seed: int) -> Values:
    """Return each term of a trained DDPM's chain of ten, and of the hierarchical VAE with its encoder, for both kinds of
    variance.
    """
    cells: Values = {}
    for label, name in (("posterior", "DDPM, inverse variance"), ("learned", "DDPM, learned variance")):
        model = of_the_kl_table(name, table, seed)[0].double()
        times = sdegen.grids.LogSNR(digits=3)(model.sde, 10)
        x = RING.sample(n, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            chain = sdegen.discrete_elbo(model, x, times, generator=torch.Generator().manual_seed(1)).terms
            theirs = diffusion_hierarchy(model, times).terms(x, torch.Generator().manual_seed(2))
        for k in range(len(times) + 1):
            for who, terms in (("DDPM", chain), ("VAE", theirs)):
                cells[f"{k} {label}, {who}"] = [terms[k].mean().item(), terms[k].std().item() / n**0.5]
    return cells


def learned_block(table: Table) -> str:
    """Return bounds of chains of `CHAIN` states, and the identity."""
    steps, n = (200, 200) if table.quick else (STEPS, 2000)
    rows = {
        name: table.row("learned", name, partial(learned, name, steps, n, table.device), seeds=SEEDS.get(name))
        for name in PROCESSES
    }
    hand = "VP, even in the log-SNR"
    rows[hand] = table.row("learned", hand, partial(by_hand, n))
    columns = {
        "true score, as it starts": 3, "trained": 3, "of the process": 3, "log-SNR at 0": 1, "log-SNR at T": 1, "train s": 0,
        "seeds": 0,
    }  # fmt: skip
    first = table.write("learned", columns, rows)
    cells = table.row("identity", "hierarchical VAE", partial(identity, table, 5 * n), once=True)
    names = ["q(z_T given x) to the prior", *(f"layer {k}" for k in range(9, 0, -1)), "data"]
    heads = [f"{label}, {who}" for label in ("posterior", "learned") for who in ("DDPM", "VAE")]
    terms = {name: {head: cells[f"{k} {head}"] for head in heads} if cells else {} for k, name in enumerate(names)}
    return first + "\n" + table.write("identity", dict.fromkeys(heads, 4), terms)
