"""Time series: forecasts and imputation against the smoother, and long series composed of windows.

    python -m benchmarks.series_table           # two seeds, ten minutes of one core
    python -m benchmarks.series_table --quick

Data are stationary Gaussian processes of unit variance, whose posteriors are known: those of the smoother. Of 32 places of an
autoregression on two places the first half is measured, or all but two gaps, with noise of standard deviation 0.1; of each of 10
series 200 draws are made. ``mean`` is the root mean square distance of their mean from the smoother's, in units of the
smoother's spread, at the places that were not measured; ``spread`` that of the logarithm of their standard deviation;
``CRPS`` the continuous ranked probability score of the true values over the smoother's. Draws of the smoother are the floor.

Of 64 places of a process so smooth that its covariance is nearly singular nine are measured; ``mean`` is the distance there
in units of the data, and ``largest`` the largest number drawn.

The error of a composition is ``KL(truth‖samples)``, in nats a place, of series of 49 places drawn with true scores of windows:
the flow is linear there, and nothing is random. Trained windows are judged by the covariances of 500 series at
distances up to 15: the root mean square error.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.rows import Values
from benchmarks.tables import Table
from sdegen import guidance, measurements, metrics, nets, samplers
from sdegen.guidance.measured import CovarianceGuidance

F64 = torch.float64
SLOW, SMOOTH = (0.95,), (1.6, -0.8)
PLACES, LONG, NOISE = 32, 49, 0.1
PLAIN = sdegen.VP().in_units(sdegen.Units())
JUDGED = {"mean": 3, "spread": 3, "CRPS": 3, "evaluations": 0, "seeds": 0}


def covariance(weights: tuple[float, ...], length: int) -> Tensor:
    """Return the covariance of an autoregressive process of unit variance, by the Yule–Walker equations."""
    p = len(weights)
    system, known = torch.eye(p + 1, dtype=F64), torch.zeros(p + 1, dtype=F64)
    known[0] = 1
    for k in range(p + 1):
        for i, weight in enumerate(weights):
            system[k, abs(k - i - 1)] -= weight
    found = torch.linalg.solve(system, known).tolist()
    while len(found) < length:
        found.append(sum(weight * found[-1 - i] for i, weight in enumerate(weights)))
    row, place = torch.tensor(found, dtype=F64) / found[0], torch.arange(length)
    return row[(place[:, None] - place).abs()]


@cache
def law(weights: tuple[float, ...], length: int) -> sdegen.GaussianMixture:
    """Return the law of series."""
    return sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, length), covariance(weights, length)[None])


def measured(task: str) -> measurements.Mask:
    """Return what is measured of a series: the past, or all but two gaps."""
    seen = torch.ones(PLACES, dtype=torch.bool)
    for gap in ((PLACES // 2, PLACES),) if task == "forecast" else ((6, 14), (20, 26)):
        seen[slice(*gap)] = False
    return measurements.Mask(seen, NOISE)


def true_model(law: sdegen.GaussianMixture, seed: int) -> sdegen.ScoreModel:
    """Return the true score model, whatever the seed."""
    return sdegen.Exact(sdegen.VP(), law)


@cache
def unconditional(law: sdegen.GaussianMixture, steps: int, device: str, seed: int) -> sdegen.Model:
    """Train a network on series, told nothing of what is measured."""
    torch.manual_seed(seed)
    model = sdegen.Model(nets.MLP(law.event_shape[0], width=128, depth=3), sdegen.VP())
    fit_on(device, model, law, steps=steps, batch_size=256, seed=seed, progress=False)
    return model


def seen_places(n: int, draws: torch.Generator) -> Tensor:
    """Return which places of series are seen: of half of them a beginning, of the others stretches of any length."""
    share, ease = torch.rand(n, 1, generator=draws), torch.rand(n, 1, generator=draws).square()
    past = torch.arange(PLACES) < (share * PLACES).ceil()
    seen, begins = torch.rand(n, PLACES, generator=draws) < share, torch.rand(n, PLACES, generator=draws) < ease
    begins[:, 0] = True
    # Where the stretch that a place belongs to begins.
    first = torch.where(begins, torch.arange(PLACES), 0).cummax(1).values
    return torch.where(torch.rand(n, 1, generator=draws) < 0.5, past, seen.gather(1, first))


@cache
def conditional(steps: int, device: str, seed: int) -> sdegen.Model:
    """Train a network on series with what was measured of them; it is convolutional, so that what it learns of one place serves
    at all.
    """
    draws = torch.Generator().manual_seed(7000 + seed)
    x = law(SMOOTH, PLACES).sample(40_000, draws).float()
    known = torch.where(seen_places(len(x), draws), x + NOISE * torch.randn(x.shape, generator=draws), torch.nan)
    torch.manual_seed(seed)
    kinds = {"known": nets.Fields(1, dims=1, gaps=True)}
    model = sdegen.Model(nets.UNet(1, widths=(32, 32, 32), dims=1, conditions=kinds), sdegen.VP())
    data = x[:, None], {"known": known[:, None]}
    fit_on(device, model, data, steps=steps, batch_size=256, seed=seed, progress=False)
    return model


Draw = Callable[[measurements.Mask, Tensor, int], Tensor]


def by_smoother(A: measurements.Mask, y: Tensor, seed: int) -> Tensor:
    """Draw from the true posterior of each row."""
    rows, which = y.unique(dim=0, return_inverse=True)
    x, draws = torch.empty(len(y), PLACES, dtype=F64), torch.Generator().manual_seed(seed)
    for k, row in enumerate(rows):
        x[which == k] = measurements.mixture_posterior(law(SMOOTH, PLACES), A, row).sample(
            int((which == k).sum()), draws
        )
    return x


def by_guidance(
    make: Callable[..., sdegen.ScoreModel], model: Callable[[int], sdegen.ScoreModel], A: Any, y: Tensor, seed: int
) -> Tensor:
    """Draw by a wrapper around a model of series."""
    return sdegen.sample(make(model(seed), A), len(y), sampler=samplers.ExponentialSDE(50), seed=seed, y=y)


def by_mask(model: Callable[[int], sdegen.ScoreModel], A: measurements.Mask, y: Tensor, seed: int) -> Tensor:
    """Draw by a network that is told the measured values and where they are."""
    known = torch.full((len(y), 1, PLACES), torch.nan)
    known[:, 0, A.mask] = y.float()
    return sdegen.sample(model(seed), len(y), sampler=samplers.ExponentialSDE(50), seed=seed, known=known)[:, 0]


def judge(task: str, draw: Draw, count: int, draws: int, evaluations: int, seed: int) -> Values:
    """Compare draws for several series with the smoother."""
    A, C = measured(task), covariance(SMOOTH, PLACES)
    x = law(SMOOTH, PLACES).sample(count, torch.Generator().manual_seed(100 + seed))
    y = A.sample(x, torch.Generator().manual_seed(200 + seed))
    found = draw(A, y.repeat_interleave(draws, 0), seed).double().unflatten(0, (count, draws))[..., ~A.mask]
    posterior = measurements.posterior_moments(sdegen.Moments(torch.zeros(PLACES), C), A, y)
    assert posterior is not None
    mean, std = posterior.mean[:, ~A.mask], posterior.covariance.diagonal()[~A.mask].sqrt()
    truth = x[:, ~A.mask]
    z = (truth - mean) / std
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), torch.ones((), dtype=F64))
    best = std * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - torch.pi**-0.5)
    score = metrics.crps(found.movedim(0, 1).flatten(1), truth.flatten())
    return {
        "mean": [((found.mean(1) - mean) / std).square().mean().sqrt().item(), None],
        "spread": [(found.std(1) / std).log().square().mean().sqrt().item(), None],
        "CRPS": [score.value / best.mean().item(), None],
        "evaluations": [evaluations, None],
    }


def posteriors_block(table: Table) -> str:
    """Return the rows of forecasts and imputation."""
    few, many, count, draws = (100, 50, 4, 20) if table.quick else (1000, 3000, 10, 200)
    trained = partial(unconditional, law(SMOOTH, PLACES), few, table.device)
    exact = partial(true_model, law(SMOOTH, PLACES))
    methods: dict[str, tuple[Draw, int]] = {
        "smoother (floor)": (by_smoother, 0),
        "moment matching, true score": (partial(by_guidance, guidance.MomentMatching, exact), 50),
        "ΠGDM, true score": (partial(by_guidance, guidance.PiGDM, exact), 50),
        "moment matching, trained": (partial(by_guidance, guidance.MomentMatching, trained), 50),
        "ΠGDM, trained": (partial(by_guidance, guidance.PiGDM, trained), 50),
        "Kalman update, trained": (partial(by_guidance, guidance.KalmanUpdate, trained), 50),
        "network with a mask": (partial(by_mask, partial(conditional, many, table.device)), 50),
    }
    rows = {}
    for task in ("forecast", "imputation"):
        for name, (draw, evaluations) in methods.items():
            compute = partial(judge, task, draw, count, draws, evaluations)
            rows[f"{task}, {name}"] = table.row("posteriors", f"{task}, {name}", compute)
    return table.write("posteriors", JUDGED, rows)


class Assumed(guidance.MomentMatching):
    """Moment matching that takes the derivative of the network for a covariance, and solves by conjugate gradients."""

    solve = CovarianceGuidance.solve


@cache
def stiff(length: int) -> sdegen.GaussianMixture:
    """Return the law of a smooth process, with a squared-exponential covariance of length 8 that is nearly singular."""
    place = torch.arange(length, dtype=F64)
    C = (-0.5 * ((place[:, None] - place) / 8).square()).exp() + 1e-6 * torch.eye(length)
    return sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, length), C[None])


def stiff_block(table: Table) -> str:
    """Return the rows of the nearly singular process."""
    steps, n = (100, 20) if table.quick else (1000, 200)
    data, seen = stiff(64), torch.zeros(64, dtype=torch.bool)
    seen[::5] = True
    seen[20:40] = False

    def judged(draw: Draw, std: float, seed: int) -> Values:
        A = measurements.Mask(seen, std)
        y = A.sample(data.sample(1, torch.Generator().manual_seed(300 + seed)), torch.Generator().manual_seed(seed))[0]
        x, truth = draw(A, y.expand(n, -1), seed).double(), measurements.mixture_posterior(data, A, y).means[0]
        off = (x.mean(0) - truth).square().mean().sqrt()
        return {"mean": [off.item(), None], "largest": [x.abs().max().item(), None]}

    def smoother(A: measurements.Mask, y: Tensor, seed: int) -> Tensor:
        return measurements.mixture_posterior(data, A, y[0]).sample(n, torch.Generator().manual_seed(seed))

    trained = partial(unconditional, data, steps, table.device)
    methods: dict[str, Draw] = {
        "smoother (floor)": smoother,
        "moment matching, true score": partial(by_guidance, guidance.MomentMatching, partial(true_model, data)),
        "moment matching, trained": partial(by_guidance, guidance.MomentMatching, trained),
        "by conjugate gradients, trained": partial(by_guidance, Assumed, trained),
        "ΠGDM, trained": partial(by_guidance, guidance.PiGDM, trained),
        "Kalman update, trained": partial(by_guidance, guidance.KalmanUpdate, trained),
    }
    rows = {}
    for std in (0.001, 0.05, 0.3):
        for name, draw in methods.items():
            rows[f"noise {std}, {name}"] = table.row("stiff", f"noise {std}, {name}", partial(judged, draw, std))
    return table.write("stiff", {"mean": 3, "largest": 1, "seeds": 0}, rows)


class Middle(sdegen.ScoreModel):
    """The composition of score-based data assimilation: of each window the score in its middle, at the ends of the outer ones.

    F. Rozet and G. Louppe, *Score-based data assimilation*, 2023, arXiv:2306.10574.
    """

    def __init__(self, windows: sdegen.ScoreModel, length: int) -> None:
        self.windows, self.sde = windows, windows.sde
        self.width = windows.require_moments().event_shape[-1]
        self.moments = sdegen.Moments(torch.zeros(length), torch.ones(length))

    @property
    def like(self) -> Tensor | None:
        """A weight of the model of windows."""
        return self.windows.like

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score put together."""
        pieces = x.unfold(-1, self.width, 1)  # (B, K, w)
        said = self.windows.score(pieces.flatten(0, 1), t).unflatten(0, pieces.shape[:2])
        half = self.width // 2
        return torch.cat([said[:, 0, :half], said[:, :, half], said[:, -1, half + 1 :]], 1)


def exact_windows(weights: tuple[float, ...], width: int) -> sdegen.Exact:
    """Return the true model of windows."""
    return sdegen.Exact(PLAIN, law(weights, width))


def divergence(model: sdegen.ScoreModel, weights: tuple[float, ...]) -> Values:
    """Return ``KL(truth‖samples)`` a place, of samples by a linear flow from a standard normal law."""
    basis = sdegen.sample(model, x_T=torch.eye(LONG, dtype=F64), sampler=samplers.Multistep(200))
    C, found = covariance(weights, LONG), basis.T @ basis
    nats = 0.5 * (torch.linalg.solve(found, C).trace() - LONG + torch.logdet(found) - torch.logdet(C))
    return {"KL a place": [nats.item() / LONG, None]}


def composition(kind: str, width: int, make: Callable[[int], sdegen.ScoreModel]) -> sdegen.ScoreModel:
    """Return the model of long series, of models of windows that `make` gives by their width."""
    if kind == "whole":
        return make(LONG)
    if kind == "middle":
        return Middle(make(width), LONG)
    return sdegen.LongSeries(make(width), make(width - 1 if kind == "all but one shared" else width // 2 + 1), LONG)


KINDS = ("all but one shared", "half shared", "middle")


def composition_block(table: Table) -> str:
    """Return the rows of the error of composition by the width of windows."""
    widths = (3, 5) if table.quick else (3, 5, 9, 17)
    rows = {}
    for process, weights in (("slow", SLOW), ("smooth", SMOOTH)):
        cells = {"the whole": ("whole", LONG)}
        cells |= {f"{kind}, {width}": (kind, width) for kind in KINDS for width in widths}
        for name, (kind, width) in cells.items():

            def compute(
                seed: int, kind: str = kind, width: int = width, weights: tuple[float, ...] = weights
            ) -> Values:
                return divergence(composition(kind, width, partial(exact_windows, weights)), weights)

            rows[f"{process}, {name}"] = table.row("composition", f"{process}, {name}", compute, once=True)
    return table.write("composition", {"KL a place": 5}, rows)


@cache
def trained_windows(steps: int, device: str, seed: int, width: int) -> sdegen.Model:
    """Train a network on windows, in the units of the process."""
    torch.manual_seed(seed)
    model = sdegen.Model(nets.MLP(width, width=96, depth=3), PLAIN)
    fit_on(device, model, law(SMOOTH, width), steps=steps, batch_size=256, seed=seed, progress=False)
    return model


def autocovariance(x: Tensor) -> Tensor:
    """Return the covariances of series with themselves at distances up to 15."""
    x = x.double()
    return torch.stack([(x[:, : LONG - k] * x[:, k:]).mean() for k in range(16)])


def windows_block(table: Table) -> str:
    """Return the rows of compositions of trained windows, and of true ones."""
    steps, n = (100, 200) if table.quick else (1000, 500)
    truth = covariance(SMOOTH, LONG)[0, :16]

    def judged(x: Tensor) -> Values:
        return {"covariances": [(autocovariance(x) - truth).square().mean().sqrt().item(), None]}

    def draw(kind: str, learned: bool, seed: int) -> Values:
        make = partial(trained_windows, steps, table.device, seed) if learned else partial(exact_windows, SMOOTH)
        return judged(sdegen.sample(composition(kind, 9, make), n, sampler=samplers.ExponentialSDE(50), seed=seed))

    def floor(seed: int) -> Values:
        return judged(law(SMOOTH, LONG).sample(n, torch.Generator().manual_seed(seed)))

    rows = {"true samples (floor)": table.row("windows", "true samples (floor)", floor)}
    for learned in (False, True):
        for kind in KINDS:
            name = f"{kind}, 9, {'trained' if learned else 'true score'}"
            rows[name] = table.row("windows", name, partial(draw, kind, learned))
    return table.write("windows", {"covariances": 4, "seeds": 0}, rows)


def main() -> None:
    """Print the table."""
    command.run(
        "series_table",
        __doc__,
        [composition_block, posteriors_block, stiff_block, windows_block],
        seeds=2,
        networks=True,
    )


if __name__ == "__main__":
    main()
