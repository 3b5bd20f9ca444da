"""The likelihood table: what log-densities cost and how far they are off, on laws whose density is known.

    python -m benchmarks.likelihood_table --threads 1      # hours

First the probability flow of the true score of the ring: evaluations and errors of `sdegen.log_prob` at several tolerances,
beside adaptive RK45 in `t` as score_sde runs it (from 1e-5 on, one error norm for the whole batch, the density at that
time), with the divergence exact in both. Then estimated divergences on a law of sixteen dimensions, at equal numbers of
derivatives; the bounds, standard errors of one draw, and what a chain of N steps is below the process. Every process is
trained (`likelihood_processes`), schedules are learned (`likelihood_learned`), and the shipped image models are judged by
their bits, on their own and on foreign images (`likelihood_images`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.likelihood_images import images_block
from benchmarks.likelihood_learned import learned_block
from benchmarks.likelihood_processes import processes_block
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen.laws.derivatives import Divergence, Hutchinson, HutchPlusPlus, exact_divergence
from sdegen.processes.times import AngleTimes, ImportanceTimes, UniformTimes

PROCESSES: dict[str, Callable[[], Any]] = {
    "VP": sdegen.VP, "OU": sdegen.OU, "EDM": sdegen.EDM, "Cosine": sdegen.Cosine, "Rectified": sdegen.Rectified,
    "CLD": sdegen.CLD,
}  # fmt: skip
TOLERANCES = (1e-4, 1e-5, 1e-6, 3e-7, 1e-7)


def errors(value: Tensor, truth: Tensor, evaluations: int) -> Values:
    """Return the columns of a way to integrate the flow."""
    gap = (value - truth).abs()
    return {
        "evaluations": [evaluations, None],
        "mean error": [gap.mean().item(), None],
        "largest": [gap.max().item(), None],
    }


def ours(name: str, tolerance: float, method: str | None, dtype: torch.dtype, n: int, seed: int) -> Values:
    """Judge `sdegen.log_prob` on points of the ring, from the true law at T."""
    sde, ring = PROCESSES[name](), sdegen.data.gaussian_ring()
    x = ring.sample(n, torch.Generator().manual_seed(seed))
    u, rest = sde.complete(
        x, torch.randn(sde.lift(x).shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
    )
    found = sdegen.estimate_log_prob(
        sdegen.Exact(sde, ring), u.to(dtype), joint=True, prior=sde.diffused(ring, sde.T), tolerance=tolerance, method=method,
    )  # fmt: skip
    truth = sde.diffused(ring, 0.0).log_prob(u) if sde.is_scalar else ring.log_prob(x) + rest
    return errors(found.value.double(), truth, found.evaluations)


def score_sde(tolerance: float, dtype: torch.dtype, n: int, seed: int) -> Values:
    """Judge RK45 of scipy on states and log-densities of the batch as one vector, on VP from ``t = 1e-5`` to T."""
    sde, ring, start = sdegen.VP(), sdegen.data.gaussian_ring(), 1e-5
    x = ring.sample(n, torch.Generator().manual_seed(seed))
    flow = sde.reverse(sdegen.Exact(sde, ring), eta=0.0)

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(state[: 2 * n].reshape(n, 2)).to(dtype)
        value, divergence = exact_divergence(lambda y: flow.drift(y, torch.tensor(t, dtype=torch.float64)), y)
        return torch.cat([value.reshape(-1), divergence]).double().numpy()

    state = torch.cat([x.reshape(-1), torch.zeros(n, dtype=x.dtype)]).numpy()
    path = solve_ivp(slope, (start, sde.T), state, method="RK45", rtol=tolerance, atol=tolerance)
    end = torch.from_numpy(path.y[:, -1])
    value = sde.diffused(ring, sde.T).log_prob(end[: 2 * n].reshape(n, 2)) + end[2 * n :]
    return errors(value, sde.diffused(ring, start).log_prob(x), path.nfev)


def spread_law() -> sdegen.GaussianMixture:
    """Return a law in sixteen dimensions, two of which, not along the axes, carry most of the divergence of the flow."""
    U = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(4)))[0]
    widths = torch.linspace(0.2, 3.0, 16, dtype=torch.float64)
    widths[:2] = 1e-3
    return sdegen.GaussianMixture(
        torch.full((2,), 0.5), torch.stack([0 * U[0], U[5]]), (U * widths @ U.T).expand(2, 16, 16)
    )


def estimated(divergence: Divergence, n: int, seed: int) -> Values:
    """Return the root mean square error that an estimated divergence makes in log-densities, and the one that it states."""
    law = spread_law()
    x = law.sample(n, torch.Generator().manual_seed(seed))
    model = sdegen.Exact(sdegen.VP(), law)
    truth = sdegen.log_prob(model, x)
    generator = torch.Generator().manual_seed(seed + 1)
    found = sdegen.estimate_log_prob(model, x, divergence=divergence, generator=generator)
    squares = (found.value - truth).square()
    rms = squares.mean().sqrt()
    return {
        "error": [rms.item(), (squares.std() / n**0.5 / (2 * rms)).item()],
        "claimed": [found.stderr.square().mean().sqrt().item(), None],
        "evaluations": [found.evaluations, None],
    }


def bounds(name: str, n: int, seed: int) -> Values:
    """Return how many nats the bounds are below the density, and standard deviations of a draw."""
    sde, ring = PROCESSES[name](), sdegen.data.gaussian_ring()
    generator = torch.Generator().manual_seed(seed)
    x = ring.sample(n, generator)
    model, truth = sdegen.Exact(sde, ring), ring.log_prob(x)
    if sde.is_scalar:
        truth = sde.diffused(ring, 0.0).log_prob(x)
    cells: Values = {}
    for label, law in (("angle", AngleTimes()), ("log-SNR", ImportanceTimes()), ("uniform", UniformTimes())):
        found = sdegen.elbo(model, x, draws=250, times=law, generator=generator)
        gap = truth - found.value
        cells[f"{label}: gap"] = [gap.mean().item(), gap.std().item() / n**0.5]
        cells[f"{label}: std"] = [found.stderr.square().mean().sqrt().item() * 250**0.5, None]
    for steps in (100, 200, 400):
        gap = ring.log_prob(x) - sdegen.discrete_elbo(model, x, steps, draws=4, generator=generator).value
        cells[f"chain of {steps}"] = [gap.mean().item(), gap.std().item() / n**0.5]
    return cells


def flow_block(table: Table) -> str:
    """Return evaluations and errors of ways to integrate the flow."""
    n = 100 if table.quick else 500
    ways: dict[str, Callable[[int], Values]] = {}
    for process in PROCESSES:
        for tolerance in TOLERANCES if process == "VP" else (1e-5, 1e-6):
            ways[f"ours, {process}, {tolerance:.0e}"] = partial(ours, process, tolerance, None, torch.float64, n)
    for method in ("dopri5", "dopri8"):
        for tolerance in (1e-5, 1e-6):
            ways[f"ours by {method}, VP, {tolerance:.0e}"] = partial(ours, "VP", tolerance, method, torch.float64, n)
    ways["ours, VP, float32"] = partial(ours, "VP", 1e-5, None, torch.float32, n)
    for tolerance in (1e-4, 1e-5, 1e-6, 1e-7, 1e-8):
        ways[f"RK45 in t, VP, {tolerance:.0e}"] = partial(score_sde, tolerance, torch.float64, n)
    for tolerance in (1e-5, 1e-6):
        ways[f"RK45 in t, VP, float32, {tolerance:.0e}"] = partial(score_sde, tolerance, torch.float32, n)
    rows = {name: table.row("flow", name, compute, once=True) for name, compute in ways.items()}
    return table.write("flow", {"evaluations": 0, "mean error": 9, "largest": 9}, rows)


def divergence_block(table: Table) -> str:
    """Return errors of estimated divergences."""
    rows = {}
    for label, kind, share in (("hutchinson", Hutchinson, 1), ("hutch++", HutchPlusPlus, 2)):
        for derivatives in (4, 8, 12):
            name = f"{label}, {derivatives} derivatives"
            compute = partial(estimated, kind(derivatives // share), 20 if table.quick else 100)
            rows[name] = table.row("divergence", name, compute, once=True)
    return table.write("divergence", {"error": 4, "claimed": 4, "evaluations": 0}, rows)


def bounds_block(table: Table) -> str:
    """Return gaps and spreads of the bounds."""
    n = 50 if table.quick else 250
    rows = {process: table.row("bounds", process, partial(bounds, process, n), once=True) for process in PROCESSES}
    laws = {
        f"{law}: {what}": digits for law in ("angle", "log-SNR", "uniform") for what, digits in (("gap", 3), ("std", 2))
    }
    return table.write("bounds", laws | {f"chain of {steps}": 3 for steps in (100, 200, 400)}, rows)


def main() -> None:
    """Print the tables."""
    blocks = [flow_block, divergence_block, bounds_block, processes_block, learned_block, images_block]
    command.run("likelihood_table", __doc__, blocks, seeds=1, networks=True)


if __name__ == "__main__":
    main()
