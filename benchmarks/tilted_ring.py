"""A trained model of the ring that is tilted by a reward, beside the tilted law: the second part of `unnormalised_table`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import sdegen
from benchmarks.devices import fit_on
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import grids, guidance, metrics, nets, samplers
from sdegen.laws import GaussianMixture
from sdegen.training import LogVariance

TILTED = {"KL": 3, "reward off": 3, "log Z off": 3, "stated": 3, "effective": 3, "CPU s": 1, "seeds": 0}
BATCH = 256  # paths of a training step
TAU = 3.0
GRID = grids.Angle(end=0.0, scale=0.3)


def tilted_ring() -> tuple[GaussianMixture, float]:
    """Return the ring times ``exp(x_1 / TAU)``, normalised, and the logarithm of the normaliser."""
    ring, by = sdegen.data.gaussian_ring(), torch.tensor([1 / TAU, 0.0], dtype=torch.float64)
    v = ring.covariances[:, None] if ring.covariances.ndim == 1 else ring.covariances
    log_weights = ring.weights.log() + ring.means @ by + 0.5 * (v * by.square()).sum(1)
    law = GaussianMixture(log_weights.softmax(0), ring.means + v * by, ring.covariances)
    return law, log_weights.logsumexp(0).item()


def beside_tilted(x: Tensor, n: int, seed: int) -> Values:
    """Judge samples beside `n` exact ones of the tilted law."""
    law = tilted_ring()[0]
    apart = metrics.knn_kl(x, law.sample(n, torch.Generator().manual_seed(1000 + seed)))
    off = (x.mean(0) - law.moments().mean)[0].item() / TAU
    return {"KL": [apart.value, apart.stderr], "reward off": [off, None]}


def policy(quick: bool, n: int, device: str, seed: int) -> Values:
    """Tilt a model of the ring by a reward along its own paths, and judge it."""
    torch.manual_seed(seed)
    log_normaliser = tilted_ring()[1]
    base = sdegen.Model(nets.MLP(2, width=64, depth=2), sdegen.VP())
    fit = partial(fit_on, device, seed=seed, threads=1, progress=False)
    fit(base, sdegen.data.gaussian_ring(), steps=200 if quick else 2000, batch_size=512)
    began, model, sampler = time.process_time(), copy.deepcopy(base), samplers.ExponentialSDE(40, GRID, order=1)
    reward, data = (lambda x: x[:, 0] / TAU), sdegen.data.gaussian_ring()
    loss = LogVariance(reward, base=base.to(device), sampler=sampler)
    fit(model, data, loss=loss, steps=30 if quick else 400, batch_size=BATCH, lr=1e-3)
    base.cpu()
    seconds = time.process_time() - began
    found = guidance.importance_sample(model, reward, n, base=base, sampler=sampler, seed=seed)
    assert found.log_evidence is not None and found.evidence_error is not None
    return beside_tilted(found.x.double(), n, seed) | {
        "log Z off": [found.log_evidence - log_normaliser, None],
        "stated": [found.evidence_error, None],
        "effective": [found.effective / n, None],
        "CPU s": [seconds, None],
    }


def rated(quick: bool, seed: int) -> Callable[[Tensor], Tensor]:
    """Return a network that has learned the reward, over `TAU`, from ratings of the ring's data."""
    draws = torch.Generator().manual_seed(seed)
    x = sdegen.data.gaussian_ring().sample(1000, draws).float()
    ratings = x[:, :1] / TAU + 0.3 * torch.randn(1000, 1, generator=draws)
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(10 if quick else 300):
        optimiser.zero_grad()
        (net(x) - ratings).square().mean().backward()
        optimiser.step()
    return lambda x: net(x.float())[:, 0].detach()


def particles(learned: bool, quick: bool, n: int, seed: int) -> Values:
    """Judge particles of the exact ring, weighted by the reward or by a network that has learned it."""
    log_normaliser = tilted_ring()[1]
    began, reward = time.process_time(), rated(quick, seed) if learned else (lambda x: x[:, 0] / TAU)
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    found = guidance.tilted_smc(model, reward, n, seed=seed, progress=False)
    seconds = time.process_time() - began
    assert found.log_evidence is not None and found.evidence_error is not None
    x = found.sample(n, torch.Generator().manual_seed(seed)).double()
    return beside_tilted(x, n, seed) | {
        "log Z off": [found.log_evidence - log_normaliser, None],
        "stated": [found.evidence_error, None],
        "effective": [found.effective / n, None],
        "CPU s": [seconds, None],
    }


def untilted(n: int, seed: int) -> Values:
    """Judge the ring as it is, beside the tilted law."""
    return beside_tilted(sdegen.data.gaussian_ring().sample(n, torch.Generator().manual_seed(seed)), n, seed)


def floor(n: int, seed: int) -> Values:
    """Judge as many exact samples of the tilted law."""
    return beside_tilted(tilted_ring()[0].sample(n, torch.Generator().manual_seed(2000 + seed)), n, seed)


def tilted_block(table: Table) -> str:
    """Return the table of the policy gradient."""
    n = 500 if table.quick else 10_000
    rows = {
        "the tilted law itself": table.row("tilted", "the tilted law itself", partial(floor, n)),
        "the ring": table.row("tilted", "the ring", partial(untilted, n)),
        "particles": table.row("tilted", "particles", partial(particles, False, table.quick, n)),
        "particles, reward learned": table.row(
            "tilted", "particles, reward learned", partial(particles, True, table.quick, n)
        ),
        "policy gradient": table.row("tilted", "policy gradient", partial(policy, table.quick, n, table.device)),
    }
    return "\nA model tilted by a reward\n\n" + table.write("tilted", TILTED, rows)
