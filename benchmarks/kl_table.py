"""The KL table: score models on a ring of eight Gaussians, against the truth.

    python -m benchmarks.kl_table            # three seeds; resumes by row
    python -m benchmarks.kl_table --quick    # one seed, under four minutes on two cores

Three blocks: processes and weightings; architectures at equal seconds; implicit against denoising score matching and
Langevin dynamics against the probability flow. Written as CSV, Markdown and a picture to benchmarks/results/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import sdegen
from benchmarks.rows import Values, arguments, combine, row, write
from sdegen import grids, losses, metrics, nets, plots, samplers, weightings
from sdegen.models import EDMParametrization, VelocityParametrization
from sdegen.processes.times import TimeLaw
from sdegen.training.weightings import Weighting

RING = sdegen.data.gaussian_ring(modes=8, radius=4.0, std=0.5)
DETAIL = 0.25  # the density of the data varies on lengths of half a mode's std


class Warming(sdegen.ScalarSDE):
    """A process of the script's own, in two methods."""

    def f(self, t: Tensor) -> Tensor:
        return -10 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t).sqrt()


@dataclass
class Entry:
    """A row of the first block: a process, and how a model of it is trained."""

    sde: Callable[[], Any]
    weighting: Weighting
    parametrization: Any = field(default_factory=lambda: EDMParametrization(detail=DETAIL, delta=0.03))
    times: TimeLaw | None = None  # where the law of t is part of the objective
    source: float | None = None
    learned: bool = False
    antithetic: bool = False  # every datum noised with z and −z, half as many data a step
    centre: float = -0.3  # of the training times, in log(sigma / alpha)
    lr: float = 4e-3
    length: float = 1.0  # of the training, in budgets


PROCESSES: dict[str, Callable[[], Any]] = {
    "OU": sdegen.OU,
    "DDPM": sdegen.DDPM,
    "VP": sdegen.VP,
    "sub-VP": sdegen.SubVP,
    "VE": sdegen.VE,
    "EDM": sdegen.EDM,
    "Cosine": sdegen.Cosine,
    "Rectified": sdegen.Rectified,
    "CLD": sdegen.CLD,
    "two methods": Warming,
}

TRAINED: dict[str, Entry] = {
    "OU, uniform": Entry(sdegen.OU, weightings.UniformWeighting(), source=33.61),
    "OU, inverse variance": Entry(sdegen.OU, weightings.InverseVarianceWeighting(), source=32.24),
    # lambda = 1 dwells at small noise, where the gradient of single draws is all noise: pairs cancel it.
    "DDPM, uniform": Entry(
        sdegen.DDPM, weightings.UniformWeighting(), source=28.04, antithetic=True, centre=1.2, lr=3e-3, length=1.35
    ),
    "DDPM, inverse variance": Entry(sdegen.DDPM, weightings.InverseVarianceWeighting(), source=28.62),
    "VE, inverse variance": Entry(sdegen.VE, weightings.InverseVarianceWeighting()),
    "sub-VP, likelihood": Entry(sdegen.SubVP, weightings.LikelihoodWeighting()),
    "Cosine, SNR + 1, velocity": Entry(
        sdegen.Cosine, weightings.SNRWeighting(1.0), VelocityParametrization(delta=0.03)
    ),
    "Rectified, SNR + 1 (flow matching)": Entry(sdegen.Rectified, weightings.SNRWeighting(1.0)),
    "EDM, EDM weighting": Entry(sdegen.EDM, weightings.EDMWeighting(2.87), times=weightings.LogNormalTimes(-0.3, 1.6)),
    "VP, min-SNR": Entry(sdegen.VP, weightings.MinSNRWeighting(5.0)),
    "DDPM, learned variance": Entry(sdegen.DDPM, weightings.InverseVarianceWeighting(), learned=True),
    "two methods, likelihood": Entry(Warming, weightings.LikelihoodWeighting()),
}


@dataclass
class Budget:
    """What a run may spend."""

    steps: int  # of training
    likelihood: int  # points of a KL divergence
    samples: int  # points of the tests on samples
    kde_draws: int  # draws of 5,000 points a seed
    seconds: float  # of an architecture
    architecture_likelihood: int
    level_steps: int
    levels: tuple[float, ...]
    floors: tuple[str, ...]


LEVELS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
FULL = Budget(7000, 2500, 10_000, 34, 20.0, 1200, 1000, LEVELS, tuple(PROCESSES))
QUICK = Budget(700, 300, 2_000, 1, 2.0, 200, 100, (0.0, 0.1, 1.0), ("OU", "two methods"))


def train(entry: Entry, budget: Budget, seed: int, device: str) -> tuple[Any, sdegen.Run]:
    """A model of an entry, and the record of its training."""
    torch.manual_seed(seed)
    model_class = sdegen.LearnedVariance if entry.learned else sdegen.Model
    net = nets.MLP(2, width=96, depth=3, out=4 if entry.learned else None)
    model = model_class(net, entry.sde(), entry.parametrization).to(device)
    # Noise levels far from the data's own lengths are easy: most draws go where they are not. The factor 1/density
    # keeps each row's own objective.
    times = entry.times or weightings.ImportanceTimes(partial(near_the_data, entry.weighting, entry.centre))
    denoising: Any = losses.Denoising(entry.weighting, times, antithetic=entry.antithetic)
    objective = losses.Hybrid(denoising) if entry.learned else denoising
    batch = 256 if entry.antithetic else 512  # as many evaluations of the network
    return model, sdegen.fit(
        model,
        RING,
        steps=int(entry.length * budget.steps),
        seconds=98,
        batch_size=batch,
        lr=entry.lr,
        loss=objective,
        seed=seed,
    )


def file_of(name: str, out: Path = Path(__file__).parent / "results" / "kl_table") -> Path:
    """Where the first seed's model of a row is kept."""
    return out / "models" / f"{name.replace(' ', '_')}.safetensors"


def near_the_data(weighting: Weighting, centre: float, sde: Any, t: Tensor) -> Tensor:
    """A density of times: normal in ``log(sigma / alpha)`` around `centre`, times the row's own weight."""
    ends = torch.cat([t[:1] * 0 + sde.t_min, 0.5 * (t[1:] + t[:-1]), t[-1:] * 0 + sde.t_max])
    level = -0.5 * sde.snr(ends).log()
    slope = (level[1:] - level[:-1]) / (ends[1:] - ends[:-1])
    at = sde.marginal(t)
    weight = (weighting(sde, t) @ at.R.inv() @ at.B).matrix()[:, 0, 0]  # on the error of the velocity
    return slope * weight * (-0.5 * ((-0.5 * sde.snr(t).log() - centre) / 1.8).square()).exp()


def judge(model: Any, sampler: Any, cheap: Any, budget: Budget, seed: int, device: str, dtype: torch.dtype) -> Values:
    """Every column of a model that has a density; the many draws of `kde_kl` come from a cheaper sampler."""
    values = flow_divergences(model, budget.likelihood, seed, device, dtype)
    values["prior gap"] = list(metrics.prior_gap(model.sde, RING))
    return values | sample_tests(partial(drawn, model, sampler), partial(drawn, model, cheap), budget, seed)


def drawn(model: Any, sampler: Any, n: int, generator: torch.Generator) -> Tensor:
    """`n` samples in float64."""
    return sdegen.sample(model, n, sampler=sampler, generator=generator).double().cpu()


def flow_divergences(model: Any, n: int, seed: int, device: str, dtype: torch.dtype) -> Values:
    """KL in both directions, by flow likelihood."""
    generator = torch.Generator().manual_seed(1000 + seed)
    x = RING.sample(n, generator).to(device, dtype)
    flow = samplers.ProbabilityFlow(grid=grids.Angle(end=0.0))
    y = sdegen.sample(model, n, sampler=flow, generator=generator, final="sample").to(device, dtype)
    cells: Values = {}
    for column, points, sign in (("KL(data‖model)", x, 1), ("KL(model‖data)", y, -1)):
        # One draw of the velocity suffices where there is one: exact scores make every draw agree.
        ours: Any = sdegen.log_prob(model, points, draws=1)
        true = RING.log_prob(points.double())
        p, q = (true, ours.double()) if sign == 1 else (ours.double(), true)
        cells[column] = list(metrics.kl_from_log_ratio(p, q))
    return cells


Draw = Callable[[int, torch.Generator], Tensor]


def sample_tests(draw: Draw, cheap: Draw, budget: Budget, seed: int) -> Values:
    """What is judged on samples alone."""
    generator = torch.Generator().manual_seed(2000 + seed)
    x = draw(budget.samples, generator)
    y = RING.sample(budget.samples, generator)
    test = metrics.classifier_test(x, y, generator=generator)
    return {
        "sliced W2": list(metrics.sliced_wasserstein(x, y, generator=generator)),
        "MMD²·1e4": [1e4 * v for v in metrics.mmd(x, y)],
        "k-NN KL": list(metrics.knn_kl(y, x)),
        "C2ST": list(test.accuracy),
        "p": [test.p_value, None],
        "kde_kl": kde(cheap, budget, generator),
    }


def kde(draw: Draw, budget: Budget, generator: torch.Generator) -> list[float | None]:
    """The source's measure, mean over draws."""
    values = torch.tensor([metrics.kde_kl_once(draw(5_000, generator), RING) for _ in range(budget.kde_draws)])
    spread = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
    return [values.mean().item(), spread]


# --- first block: processes and weightings ---------------------------------------------------------------------------

COLUMNS = {
    "KL(data‖model)": 5, "KL(model‖data)": 5, "prior gap": 7, "sliced W2": 3, "MMD²·1e4": 2, "k-NN KL": 3, "C2ST": 3,
    "p": 2, "kde_kl": 2, "source": 2, "evaluations": 0, "train s": 0, "seeds": 0,
}  # fmt: skip


def first_block(args: Any, budget: Budget) -> str:
    """Floors and trained rows."""
    table: dict[str, Values] = {}

    def truth(seed: int) -> Values:
        return sample_tests(RING.sample, RING.sample, budget, seed) | {"source": "25.13"}

    def floor(name: str, seed: int) -> Values:
        model = sdegen.Exact(PROCESSES[name](), RING)
        # The flow of a matrix process runs in t itself, where it wants more and equal steps.
        sampler = samplers.Heun(200, grids.Uniform()) if name == "CLD" else samplers.Heun(25 if args.quick else 40)
        cells = judge(model, sampler, sampler, budget, seed, args.device, torch.float64)
        return cells | {"evaluations": [evaluations(sampler), None]}

    def trained(name: str, seed: int) -> Values:
        entry = TRAINED[name]
        model, run = train(entry, budget, seed, args.device)
        sampler: Any = samplers.Heun(25 if args.quick else 40)
        cheap: Any = samplers.Heun(14)
        if entry.learned:
            sampler = samplers.Ancestral(100, variance=samplers.learned_variance)
            cheap = samplers.Ancestral(50, variance=samplers.learned_variance)
        cells = judge(model, sampler, cheap, budget, seed, args.device, torch.float32)
        if seed == args.seeds[0]:
            (args.out / "models").mkdir(exist_ok=True)
            sdegen.save(model, file_of(name, args.out))
        extra = {"source": f"{entry.source:.2f}"} if entry.source else {}
        return cells | extra | {"evaluations": [evaluations(sampler), None], "train s": [run.seconds, None]}

    table["true samples"] = combine([row(args, "kl", "true samples", s, truth) for s in args.seeds])
    for name in budget.floors:
        # Nothing is trained here: one seed, with the estimates' own errors.
        table[f"exact score, {name}"] = combine([row(args, "kl exact", name, 0, partial(floor, name))])
    for name in TRAINED:
        table[name] = combine([row(args, "kl", name, s, partial(trained, name)) for s in args.seeds])
    return write(args, "kl", COLUMNS, table)


def evaluations(sampler: Any) -> int:
    """Network evaluations of a run with a final denoising move."""
    return 2 * (sampler.steps - 1) + 1 if isinstance(sampler, samplers.Heun) else sampler.steps


# --- second block: architectures at equal seconds --------------------------------------------------------------------

ARCHITECTURES: dict[str, Callable[[], torch.nn.Module]] = {
    "MLP, depth 2": partial(nets.MLP, 2, width=96, depth=2),
    "MLP, depth 4": partial(nets.MLP, 2, width=96, depth=4),
    "MLP, depth 8": partial(nets.MLP, 2, width=96, depth=8),
    "MLP, depth 2, no residuals": partial(nets.MLP, 2, width=96, depth=2, residual=False),
    "MLP, depth 4, no residuals": partial(nets.MLP, 2, width=96, depth=4, residual=False),
    "MLP, depth 8, no residuals": partial(nets.MLP, 2, width=96, depth=8, residual=False),
    "transformer over coordinates": partial(nets.CoordinateTransformer, 2),
    "hypernetwork": partial(nets.HyperMLP, 2),
}


def second_block(args: Any, budget: Budget) -> str:
    """The same process and objective, the same seconds, other networks."""

    def compute(name: str, seed: int) -> Values:
        torch.manual_seed(seed)
        net = ARCHITECTURES[name]()
        model = sdegen.Model(net, sdegen.VP(), EDMParametrization(detail=DETAIL, delta=0.03)).to(args.device)
        weighting = weightings.LikelihoodWeighting()
        objective = losses.Denoising(weighting, weightings.ImportanceTimes(partial(near_the_data, weighting, -0.3)))
        run = sdegen.fit(model, RING, seconds=budget.seconds, loss=objective, seed=seed)
        cells = flow_divergences(model, budget.architecture_likelihood, seed, args.device, torch.float32)
        size = sum(p.numel() for p in net.parameters())
        return cells | {"parameters": [size, None], "steps": [run.steps, None], "train s": [run.seconds, None]}

    table = {
        name: combine([row(args, "architecture", name, s, partial(compute, name)) for s in args.seeds])
        for name in ARCHITECTURES
    }
    columns = {"KL(data‖model)": 5, "KL(model‖data)": 5, "parameters": 0, "steps": 0, "train s": 0, "seeds": 0}
    return write(args, "architectures", columns, table)


# --- third block: implicit against denoising, Langevin against the flow ----------------------------------------------


class OneLevel(weightings.TimeLaw):
    """All times equal, to train at one noise level."""

    def __init__(self, t: float) -> None:
        self.t = t

    def sample(self, sde: Any, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return torch.full((n,), self.t, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


OBJECTIVES: dict[str, Callable[..., Any]] = {
    "denoising": partial(losses.Denoising, pooled=False),
    "denoising, pooled": losses.Denoising,
    "implicit": losses.Implicit,
    "sliced": partial(losses.Implicit, divergence=sdegen.derivatives.hutchinson_divergence),
}


def third_block(args: Any, budget: Budget) -> str:
    """Relative score errors ``E‖s − s*‖² / E‖s*‖²`` at single noise levels, fresh data and 200 points."""
    process = sdegen.EDM(sigma_min=1e-6, sigma_max=80.0)

    def compute(name: str, sigma: float, finite: bool, seed: int) -> Values:
        t = max(sigma - 1e-6, 0.0)
        if sigma == 0 and name.startswith("denoising"):
            return {}  # its target, z / sigma, does not exist
        torch.manual_seed(seed)
        points = RING.sample(200, torch.Generator().manual_seed(seed))
        data: Any = points.to(args.device, torch.float32) if finite else RING
        law = sdegen.Empirical(points) if finite else RING
        net = Constant(nets.MLP(2, width=64, depth=2))
        model = sdegen.DirectModel(net, process, scale=max(sigma, 0.5)).to(args.device)
        objective = OBJECTIVES[name](weightings.UniformWeighting(), OneLevel(t))
        scale = max(sigma, 0.5) ** 2  # a loss of order one
        try:
            run = sdegen.fit(
                model, data, steps=budget.level_steps, lr=2e-3, seed=seed,
                loss=lambda m, x, generator: scale * objective(m, x, generator=generator),
            )  # fmt: skip
        except sdegen.NonFiniteLoss:
            return {f"σ = {sigma:g}": "diverged"}
        level = torch.tensor(t, dtype=torch.float64)
        x = process.perturb(law.sample(4000), level).x
        if finite and sigma == 0:
            return {f"σ = {sigma:g}": f"loss {sum(run.loss[-50:]) / 50:.3g}"}
        truth = sdegen.Exact(process, law).score(x, level)
        score = model.score(x.to(args.device, torch.float32), level).detach().double().cpu()
        error = (score - truth).square().sum(1).mean()
        return {f"σ = {sigma:g}": [(error / truth.square().sum(1).mean()).item(), None]}

    table: dict[str, Values] = {}
    for finite in (False, True):
        for name in OBJECTIVES:
            cells: Values = {}
            for sigma in budget.levels:
                label = f"{name}{', 200 points' if finite else ''}"
                rows = [
                    row(args, "level", f"{label} {sigma:g}", s, partial(compute, name, sigma, finite))
                    for s in args.seeds
                ]
                cells |= combine(rows)
            table[label] = cells
    markdown = write(args, "levels", {f"σ = {s:g}": 4 for s in budget.levels} | {"seeds": 0}, table)
    return markdown + "\n" + langevin_block(args, budget)


class Constant(torch.nn.Module):
    """A network told nothing of the level: it is trained at one."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.net(x, torch.zeros_like(level))


def langevin_block(args: Any, budget: Budget) -> str:
    """Langevin dynamics against the probability flow, with the exact score."""
    sde = sdegen.VP()
    model = sdegen.Exact(sde, RING)
    n = budget.samples
    steps = 100 if args.quick else 1000
    one_mode = RING.means[0] * torch.ones(n, 1) + 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(5))
    choices: dict[str, tuple[Any, Any]] = {
        "probability flow, Heun": (samplers.Heun(25), None),
        "Langevin, from the prior": (samplers.Langevin(steps, h=0.3, t=sde.time(100.0).item()), None),
        "Langevin, from one mode": (samplers.Langevin(steps, h=0.3, t=sde.time(100.0).item()), one_mode),
        "annealed Langevin": (samplers.AnnealedLangevin(steps // 10, h=0.3, repeats=10), None),
        "Euler–Maruyama": (samplers.EulerMaruyama(steps), None),
        "predictor–corrector": (samplers.PredictorCorrector(samplers.EulerMaruyama(steps // 2)), None),
    }

    def compute(name: str, seed: int) -> Values:
        sampler, x_T = choices[name]
        generator = torch.Generator().manual_seed(3000 + seed)
        x = sdegen.sample(model, None if x_T is not None else n, x_T=x_T, sampler=sampler, generator=generator)
        y = RING.sample(n, generator)
        counts = torch.cdist(x, RING.means).argmin(1).bincount(minlength=8) / n
        return {
            "sliced W2": list(metrics.sliced_wasserstein(x, y, generator=generator)),
            "k-NN KL": list(metrics.knn_kl(y, x)),
            "smallest mode": [counts.min().item(), None],
            "evaluations": [count(sampler), None],
        }

    table = {
        name: combine([row(args, "langevin", name, s, partial(compute, name)) for s in args.seeds]) for name in choices
    }
    return write(
        args, "langevin", {"sliced W2": 3, "k-NN KL": 3, "smallest mode": 3, "evaluations": 0, "seeds": 0}, table
    )


def count(sampler: Any) -> int:
    """Score evaluations of a run on the exact model, counted."""
    calls = 0

    class Counting(sdegen.Exact):
        def _observed(self, x: Tensor, at: Any) -> tuple[Tensor, Tensor]:
            nonlocal calls
            calls += 1
            return super()._observed(x, at)

    sdegen.sample(Counting(sdegen.VP(), RING), 2, sampler=sampler, seed=0)
    return calls


def picture(args: Any) -> None:
    """Densities of the trained models beside the truth."""
    if args.worker:
        return
    models = {name: file_of(name, args.out) for name in TRAINED}
    shown = {n: sdegen.load(p, classes=[Warming]) for n, p in models.items() if p.exists()}
    names = [n for n in list(TRAINED)[:4] + list(TRAINED)[-1:] if n in shown]
    figure, axes = plt.subplots(1, len(names) + 1, figsize=(3 * len(names) + 3, 3.2))
    points = 48 if args.quick else 100  # a side, each a likelihood
    plots.density(RING, ax=axes[0], points=points, title="truth")
    for name, ax in zip(names, axes[1:], strict=True):
        plots.density(shown[name], ax=ax, points=points, title=name)
    figure.savefig(args.out / "densities.png", dpi=110, bbox_inches="tight")


def main() -> None:
    """Compute what is missing, and print the tables."""
    args = arguments(__doc__.splitlines()[0], "kl_table", shared=True)
    budget = QUICK if args.quick else FULL
    print(first_block(args, budget))
    print(second_block(args, budget))
    print(third_block(args, budget))
    picture(args)


if __name__ == "__main__":
    main()
