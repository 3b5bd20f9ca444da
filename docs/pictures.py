"""The pictures of the pages that take too long to be drawn while the site is built: about three minutes of one core.

    PYTHONPATH=. python docs/pictures.py

Data that turn into noise and back, on the ring and on handwritten digits; and the paths of the reversed process beside
those of the probability flow; a forecast beside the smoother's; the losses of both players of three adversarial games; what
guidance samples beside the law that it states.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import sdegen
from benchmarks.series_table import PLACES, SMOOTH, by_mask, conditional, covariance, law, measured
from benchmarks.weighted_guidance import Guided, mixture_of
from benchmarks.weighted_ways import CASES
from sdegen import plots, samplers
from sdegen.laws import Units

PICTURES = Path(__file__).parent / "pictures"


def there_and_back(
    model: sdegen.ScoreModel, x: Tensor, frames: int, eta: float, **cond: Any
) -> tuple[Tensor, list[str]]:
    """Data and their path to noise by the process, back by the model from where they arrived, and what to write above."""
    sde = model.sde
    steps = 10 * frames
    forward = sdegen.simulate(
        sde, x, 0.0, sde.T, steps=steps, generator=torch.Generator().manual_seed(0), return_path=True
    )
    sampler = samplers.default(model, 3 * frames, eta)
    back = sdegen.sample(model, x_T=forward[-1], sampler=sampler, seed=0, return_path=True, progress=False, **cond)
    times = [*torch.linspace(0, sde.T, frames + 1).tolist(), *stops(sampler, sde)[::3].tolist()]
    titles = [f"{'forward' if i <= frames else 'back, by the network'}, t = {t:.2f}" for i, t in enumerate(times)]
    return torch.cat([forward[::10], back[::3]]), titles


def stops(sampler: samplers.Sampler, sde: sdegen.SDE) -> Tensor:
    """The times of the states of a path: those of the grid, and 0, where the last move goes."""
    times = sampler.times(sde, True)
    return torch.cat([times, times.new_zeros(1)])


def ring() -> None:
    """The ring of eight Gaussians under VP."""
    law = sdegen.data.gaussian_ring()
    model = sdegen.Model(sdegen.nets.MLP(2), sdegen.VP())
    sdegen.fit(model, law, steps=3000, seed=0)
    x = law.sample(2000, torch.Generator().manual_seed(1)).float()
    path, titles = there_and_back(model, x, 25, eta=0.0)
    plots.animation(path, PICTURES / "ring.gif", titles=titles)


def digits() -> None:
    """Handwritten digits and the model that is shipped."""
    model = sdegen.pretrained("mnist")
    test = sdegen.data.mnist().test
    columns = torch.stack([(test.labels == label).nonzero()[:2, 0] for label in range(10)], 1).flatten()
    path, _ = there_and_back(model, test.x[columns] / 127.5 - 1, 20, eta=0.8, label=test.labels[columns])
    plots.animation((path + 1) / 2, PICTURES / "digits.gif", columns=10, size=112)


def paths() -> None:
    """One dimension: the process, its reverse and its probability flow over the density of the marginals."""
    law = sdegen.GaussianMixture(torch.tensor([0.6, 0.4]), torch.tensor([[-1.5], [1.5]]), torch.full((2,), 0.04))
    model = sdegen.Exact(sdegen.VP(), law)
    x = law.sample(30, torch.Generator().manual_seed(2))
    forward = sdegen.simulate(
        model.sde, x, 0.0, model.sde.T, steps=400, generator=torch.Generator().manual_seed(0), return_path=True
    )
    drawn = [(torch.linspace(0, model.sde.T, 401), forward, "the process, data to noise")]
    for eta, title in ((1.0, "its reverse, noise to data"), (0.0, "the probability flow, the same noise")):
        sampler = samplers.ExponentialSDE(400, samplers.default(model).grid, eta=eta)
        path = sdegen.sample(model, x_T=forward[-1], sampler=sampler, seed=0, return_path=True, progress=False)
        drawn.append((stops(sampler, model.sde), path, title))
    t, y = torch.linspace(0, model.sde.T, 200, dtype=torch.float64), torch.linspace(-4, 4, 200, dtype=torch.float64)
    density = torch.stack([model.sde.diffused(law, s).log_prob(y[:, None]).exp() for s in t], 1)
    figure = Figure(figsize=(9, 3), layout="constrained")
    for ax, (times, path, title) in zip(figure.subplots(1, 3, sharey=True), drawn):
        ax.imshow(density.sqrt(), origin="lower", extent=(0, model.sde.T, -4, 4), aspect="auto", cmap="Oranges")
        plots.trajectories(path, times=times, ax=ax, title=title)
        ax.set(ylim=(-4, 4))
    figure.savefig(PICTURES / "paths.png", dpi=110)


def players() -> None:
    """Losses of both players and the gradient that the generator gets, of three games on data far from where it begins."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[8.0, 0.0]]), torch.ones(1))
    x = law.sample(500, torch.Generator().manual_seed(1)).float()
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True)
    for (title, game), (above, below) in zip(GAMES.items(), axes.T):
        torch.manual_seed(0)
        model = game(sdegen.nets.Perceptron(2, 2, 64), sdegen.nets.Perceptron(2, 1, 64))
        model.units = Units()
        health = sdegen.baselines.Stability(model, x, every=10)
        sdegen.fit(
            model, law, steps=600, batch_size=256, lr=1e-3, betas=(0.0, 0.9), clip=1e3, ema=0.0, seed=0,
            lr_factors={"net.generator.": 0.3}, callbacks=[health], progress=False,
        )  # fmt: skip
        end = ", ".join(f"{v:.1f}" for v in model.sample(1000, torch.Generator().manual_seed(0)).mean(0).tolist())
        plots.players(health, ax=above).set(
            title=f"{title}\nmean of samples ({end})", xlabel="", ylabel="loss" if below is axes[1, 0] else ""
        )
        below.semilogy([r["step"] for r in health.records], [r["generator"] for r in health.records], color="C1")
        below.set(xlabel="step", ylim=(1e-8, 1e3))
    axes[1, 0].set_ylabel("generator's gradient")
    figure.savefig(PICTURES / "players.png", dpi=110)


GAMES: dict[str, Callable[[torch.nn.Module, torch.nn.Module], sdegen.baselines.Adversarial]] = {
    "GAN, saturating": lambda g, c: sdegen.baselines.GAN(g, c, 2, saturating=True),
    "GAN, non-saturating": lambda g, c: sdegen.baselines.GAN(g, c, 2),
    "WGAN, gradient penalty": lambda g, c: sdegen.baselines.WGANGP(g, c, 2, weight=0.1),
}


def series() -> None:
    """A forecast and two gaps of an autoregression, by a network that is told what is known, beside the smoother."""
    model, C, place = conditional(1500, "cpu", 0), covariance(SMOOTH, PLACES), torch.arange(PLACES)
    figure = Figure(figsize=(9, 3), layout="constrained")
    for ax, task, seed in zip(figure.subplots(1, 2, sharey=True), ("forecast", "imputation"), (3, 4)):
        A, draws = measured(task), torch.Generator().manual_seed(seed)
        x = law(SMOOTH, PLACES).sample(1, draws)
        y = A.sample(x, draws)
        drawn = by_mask(lambda _: model, A, y.expand(2000, -1), seed).double()
        smoother = sdegen.measurements.posterior_moments(sdegen.Moments(torch.zeros(PLACES), C), A, y[0])
        assert smoother is not None
        mean, half = smoother.mean, 1.645 * smoother.covariance.diagonal().sqrt()
        ax.fill_between(place, mean - half, mean + half, color="0.8", label="smoother, nine tenths")
        ax.plot(place, mean, color="0.4", label="smoother, mean")
        for level, name in ((0.05, "network, nine tenths"), (0.95, None)):
            ax.plot(place, drawn.quantile(level, 0), "--", color="C1", label=name)
        ax.plot(place, drawn.mean(0), color="C1", label="network, mean")
        ax.plot(place, x[0], ":", color="k", label="truth")
        ax.plot(A.places, y[0], ".", color="C0", label="measured")
        ax.set(title=task, xlabel="place")
    ax.legend(fontsize=7, loc="lower right")
    figure.savefig(PICTURES / "series.png", dpi=110)


def guided() -> None:
    """A mode of the ring that overlaps with its neighbours, and samples of guidance along it, by the table's ways."""
    w, n = 3.0, 1500
    problem = Guided(mixture_of(2, std=1.5), w)
    ways = ["the class alone", "corrected", *(name for name in CASES if name not in ("corrected", "the class alone"))]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    exact = problem.sample(n, 0)
    for ax, name in zip(figure.subplots(2, 5, sharex=True, sharey=True).flat, ["the law stated", *ways]):
        x = exact if name == "the law stated" else CASES[name](w, problem, n, 0)
        ax.plot(*exact.T, ".", color="0.8", ms=2, zorder=0)
        ax.plot(*x.T, ".", color="C0" if x is exact else "C1", ms=1, alpha=0.6)
        ax.set(title=name, xlim=(0, 12), ylim=(-5, 5), aspect="equal")
        ax.title.set_fontsize(9)
    figure.savefig(PICTURES / "guided.png", dpi=110)


if __name__ == "__main__":
    PICTURES.mkdir(exist_ok=True)
    guided()
    players()
    series()
    paths()
    digits()
    ring()
