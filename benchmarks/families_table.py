"""The families table: score models, autoencoders, flows and adversarial models under the same metrics.

    python -m benchmarks.families_table --quick                 # the mixture and the digits, short trainings
    python -m benchmarks.families_table                         # the mixture, 3 seeds; goes on where it was stopped
    python -m benchmarks.families_table --data fashion_mnist    # images, against those held back

On the mixture: KL by exact densities where they exist, by 64-draw importance bounds where only these do (an upper bound of
the KL), and for all families the same estimates from samples. Of images: FID, KID, precision and recall of 2,000 samples
against as many images held back, and bits per number of 8-bit images under uniform dequantisation, a bound where it says so.
"""

from __future__ import annotations

import json
import math
import time
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

import sdegen
from benchmarks.families import MIXTURE, SOURCE_EPOCHS, SOURCE_SPLIT, Family, as_the_sources, images
from benchmarks.fid_table import COUNT, NETWORKS, SCALING, as_images, equal_parts, quality
from benchmarks.kl_table import RING
from benchmarks.rows import Values, arguments, combine, row, write
from benchmarks.train_images import SPLITS
from sdegen import baselines, metrics, plots
from sdegen.data import Dequantisation, Images, Scaling

DRAWS = 64  # of an importance bound
BANDWIDTH = 0.15
Curves = dict[str, list[float]]  # by row
FLOW_STEPS = {"mnist": 10_000}  # of RealNVP; less of what nobody publishes


# --- the mixture -----------------------------------------------------------------------------------------------------


def trained(family: Family, data: Any, seed: int, steps: int | None = None, **more: Any) -> tuple[Any, sdegen.Run]:
    """A model of a family, and the record of its training."""
    torch.manual_seed(seed)
    model = family.build(data) if isinstance(data, Images) else family.build()
    settings = family.fit | ({} if steps is None else {"steps": steps}) | more
    if family.warm_up:
        warm = baselines.WarmUp(model, max(1, round(family.warm_up * settings["steps"])))
        settings["callbacks"] = [*settings.get("callbacks", ()), warm]
    given: Any = data
    if isinstance(data, Images):
        alone = data.without_labels()
        given = alone.dequantised(0, 1) if family.dequantised else alone.scaled(0, 1)
    return model, sdegen.fit(model, given, seed=seed, **settings)


def on_the_mixture(args: Any, name: str, family: Family, seed: int) -> Values:
    """A row: densities and samples against the truth."""
    try:
        model, run = trained(family, RING, seed, 200 if args.quick else None)
    except sdegen.NonFiniteLoss as error:
        print(error)
        return {"diverged": [1, None]}
    law: Any = sdegen.Density(model) if isinstance(model, sdegen.ScoreModel) else model
    n = 500 if args.quick else 4000
    generator = torch.Generator().manual_seed(1000 + seed)
    x = RING.sample(n, generator)
    cells: Values = {}
    if hasattr(law, "log_prob"):
        cells["KL"] = list(metrics.kl(RING, law, x=x))
    elif hasattr(law, "importance_bound"):
        bound = law.importance_bound(x.float(), DRAWS, generator)
        cells["KL, at most"] = list(metrics.kl_from_log_ratio(RING.log_prob(x), bound.double(), control=False))
    if isinstance(model, baselines.CategoricalVAE):
        cells |= categories(model, x)
    began = time.perf_counter()
    y = law.sample(10_000, generator).detach().double().cpu()
    seconds = (time.perf_counter() - began) / 10
    if seed == args.seeds[0]:
        points(args.out, name, y)
    return cells | of_samples(y, generator) | {
        "diverged": [0, None], "parameters": [sum(p.numel() for p in model.parameters()), None],
        "train s": [run.seconds, None], "steps": [run.steps, None], "s per 1,000": [seconds, None],
    }  # fmt: skip


@torch.no_grad()
def categories(model: baselines.CategoricalVAE, x: Tensor) -> Values:
    """Whether each mode has a category of its own: the share of points that go where most of their mode goes."""
    mode = torch.cdist(x, RING.means).argmin(1)
    chosen = model.encode(x.float()).argmax(1)
    counts = torch.zeros(len(RING.means), model.categories).index_put(
        (mode, chosen), torch.ones(len(x)), accumulate=True
    )
    share, own = counts.max(1)
    return {"own category": [(share.sum() / len(x)).item(), None], "categories": [len(own.unique()), None]}


def of_samples(y: Tensor, generator: torch.Generator) -> Values:
    """What is judged on samples alone, of all families alike."""
    x = RING.sample(len(y), generator)
    shares = metrics.mode_shares(y, RING)
    smoothed = metrics.KernelDensity(y, BANDWIDTH)
    return {
        "k-NN KL": list(metrics.knn_kl(x, y)),
        "KDE KL": list(metrics.kl(RING, smoothed, x=x[:4000], control=False)),
        "sliced W2": list(metrics.sliced_wasserstein(y, x, generator=generator)),
        "least mode": [shares.min().item(), None],
        "modes": [int((shares >= 0.5).sum()), None],
    }


def points(folder: Path, name: str, y: Tensor) -> None:
    """A picture of samples, 3,000 of them."""
    (folder / "mixture").mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(3, 3), layout="constrained")
    ax = plots.scatter(y[:3000], ax=figure.subplots())
    ax.set(xlim=(-6.5, 6.5), ylim=(-6.5, 6.5), xticks=[], yticks=[])
    figure.savefig(folder / "mixture" / f"{slug(name)}.png", dpi=100)


MIXTURE_COLUMNS = {
    "KL": 4, "KL, at most": 4, "k-NN KL": 3, "KDE KL": 3, "sliced W2": 3, "least mode": 2, "modes": 1, "own category": 3,
    "categories": 1, "diverged": 2, "parameters": 0, "steps": 0, "train s": 0, "s per 1,000": 3, "seeds": 0,
}  # fmt: skip


def mixture_block(args: Any) -> str:
    """All families on the mixture, and true samples."""

    def truth(seed: int) -> Values:
        generator = torch.Generator().manual_seed(1000 + seed)
        y = RING.sample(10_000, generator)
        if seed == args.seeds[0]:
            points(args.out, "true samples", y)
        return of_samples(y, generator)

    table = {"true samples (floor)": combine([row(args, "mixture", "true samples", s, truth) for s in args.seeds])}
    for name, family in MIXTURE.items():
        compute = partial(on_the_mixture, args, name, family)
        table[name] = combine([row(args, "mixture", name, s, compute) for s in args.seeds])
    if not args.worker:
        side_by_side(args.out / "mixture", list(table), args.out / "mixture.png")
    return write(args, "mixture", MIXTURE_COLUMNS, table)


# --- images ----------------------------------------------------------------------------------------------------------


class Judge:
    """What all rows of one set of images share."""

    def __init__(self, args: Any) -> None:
        self.args = args
        self.split = SPLITS[args.data]()
        if args.preset == "source":
            self.split = self.split.joined().split(SOURCE_SPLIT, seed=0)
        self.parts = equal_parts(self.split.train, self.split.test, COUNT)

    @cached_property
    def net(self) -> metrics.FeatureNet:
        """The feature network."""
        return metrics.features(NETWORKS[self.args.data])

    @cached_property
    def real(self) -> Tensor:
        """Images held back, in [0, 1]."""
        return self.parts[1].scaled(0, 1).rows()

    def cells(self, x: Tensor) -> Values:
        """The columns of samples, as images in [0, 1]."""
        return quality(x, self.real, self.net) | {"count": [len(x), None]}

    def made(self, model: Any, family: Family, n: int, generator: torch.Generator) -> Tensor:
        """Samples of a family as images in [0, 1]."""
        kind = Dequantisation if family.dequantised else Scaling
        return as_images(drawn(model, family, n, generator), kind(0, 1, self.split.train.levels))


@torch.no_grad()
def drawn(model: Any, family: Family, n: int, generator: torch.Generator) -> Tensor:
    """Samples of a family as it gives them, some at a time but for adversarial ones, which prepare every draw."""
    more = {"mean": True} if family.mean else {}
    size = n if isinstance(model, baselines.Adversarial) else 250
    return torch.cat([model.sample(min(size, n - i), generator, **more) for i in range(0, n, size)])


class Curve:
    """A callback: FID of 1,000 samples after every epoch; of flows, bits of 1,000 images every 500 steps."""

    def __init__(self, judge: Judge, family: Family, name: str, seed: int) -> None:
        self.judge, self.family, self.seed = judge, family, seed
        self.path = judge.args.out / f"curve-{slug(name)}-{seed}.csv"
        self.epoch = max(1, len(judge.split.train) // 64)

    def __call__(self, step: Any) -> None:
        """Measure where it is time."""
        with step.averaged() as model:
            if isinstance(model, baselines.RealNVP):
                if step.step % 500 == 0:
                    self.add(step, "bits", bits(self.judge, model, self.seed)["bits"])
            elif step.step % self.epoch == 0:
                n = min(len(self.judge.real), 1000)
                x = self.judge.made(model, self.family, n, torch.Generator().manual_seed(1))
                self.add(step, "FID", metrics.fid(x, self.judge.real, self.judge.net)[:2])

    def add(self, step: Any, what: str, cell: Any) -> None:
        """Write a point at the end of the file; a run that is gone over again begins where it is."""
        lines = self.path.read_text().splitlines() if self.path.exists() else [f"step,seconds,{what},s.e."]
        kept = [lines[0], *(line for line in lines[1:] if int(line.split(",")[0]) < step.step)]
        point = f"{step.step},{step.seconds:.1f},{cell[0]:.5g},{cell[1]:.2g}"
        self.path.write_text("\n".join([*kept, point]) + "\n")


def slug(name: str) -> str:
    """A name as that of a file, without what is in brackets."""
    return name.split(" (")[0].replace(",", "").replace(" ", "-")


def on_images(judge: Judge, name: str, family: Family, seed: int) -> Values:
    """A row of images."""
    args, n = judge.args, len(judge.real)
    folder = args.out / "models" / f"{slug(name)}-{seed}"
    curve = Curve(judge, family, name, seed)
    data = judge.split.train
    model, run = trained(family, data, seed, checkpoint=folder, every=500, callbacks=[] if args.quick else [curve])
    sdegen.save(model, folder.with_suffix(".safetensors"))
    generator = torch.Generator().manual_seed(seed)
    began = time.perf_counter()
    x = judge.made(model, family, n, generator)
    seconds = (time.perf_counter() - began) / n * 1000
    picture(args.out / f"{slug(name)}.png", x[:100])
    return judge.cells(x) | bits(judge, model, seed) | {
        "parameters": [sum(p.numel() for p in model.parameters()), None], "train s": [run.seconds, None],
        "epochs": [run.steps * 64 / len(data), None], "s per 1,000": [seconds, None],
    }  # fmt: skip


@torch.no_grad()
def bits(judge: Judge, model: Any, seed: int) -> Values:
    """Bits per number of 1,000 images held back, or a bound of them."""
    how = Dequantisation(0, 1, judge.split.test.levels)
    generator = torch.Generator().manual_seed(seed)
    test = judge.parts[1][: 250 if judge.args.quick else 1000].without_labels()
    x = test.dequantised(0, 1).rows(generator=generator)
    d = x[0].numel()
    if hasattr(model, "estimate"):
        log_prob = lambda part: model.estimate(part, 4, generator)[0]  # noqa: E731
    elif hasattr(model, "log_prob"):
        log_prob = model.log_prob
    elif hasattr(model, "importance_bound"):
        log_prob = lambda part: model.importance_bound(part, DRAWS, generator)  # noqa: E731
    else:
        return {}
    values = torch.cat([log_prob(part) for part in x.split(250)])
    found = metrics.Estimate.of(how.bits_per_dim(values, d))
    return {"bits, at most" if hasattr(model, "importance_bound") else "bits": list(found)}


def diffusion(judge: Judge, seed: int) -> Values:
    """The shipped score model, without class, by the default sampler in ten evaluations."""
    model, n = sdegen.pretrained(judge.args.data), len(judge.real)
    began = time.perf_counter()
    x = sdegen.sample(model, n, steps=10, seed=seed, batch=250, progress=False)
    seconds = (time.perf_counter() - began) / n * 1000
    x = as_images(x, SCALING)
    picture(judge.args.out / f"{slug('score model')}.png", x[:100])
    card = json.loads((Path(__file__).parent / "results" / "train_images" / judge.args.data / "card.json").read_text())
    return judge.cells(x) | {
        "parameters": [sum(p.numel() for p in model.parameters()), None], "s per 1,000": [seconds, None],
        "train s": [card["seconds"], None], "epochs": [card["epochs"], None],
    }  # fmt: skip


def picture(path: Path, x: Tensor) -> None:
    """A grid of samples."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    plots.images(x, columns=10, ax=figure.subplots())
    figure.savefig(path, dpi=100)


IMAGE_COLUMNS = {
    "bits": 3, "bits, at most": 3, "FID": 2, "KID × 1000": 2, "precision": 3, "recall": 3, "parameters": 0, "epochs": 1,
    "train s": 0, "s per 1,000": 1, "count": 0, "features": 0,
}  # fmt: skip


def image_block(args: Any) -> str:
    """All families on a set of images, and training images in place of samples."""
    args.out = args.out / (args.data if args.preset == "own" else f"{args.data}-{args.preset}")
    (args.out / "models").mkdir(parents=True, exist_ok=True)
    judge = Judge(args)

    def floor(seed: int) -> Values:
        x = judge.parts[0].scaled(0, 1).rows()
        picture(args.out / "training-images.png", x[:100])
        return judge.cells(x)

    table = {"training images (floor)": combine([row(args, "images", "training images", 0, floor)])}
    if (
        args.data in ("mnist", "fashion_mnist") and args.preset == "own"
    ):  # it has seen what the sources' split holds back
        table["score model"] = combine([row(args, "images", "score model", 0, partial(diffusion, judge))])
    epoch = math.ceil(len(judge.split.train) / 64)
    families = images(args.quick, epoch, FLOW_STEPS.get(args.data, 1500))
    if args.preset == "source":
        families = {name: as_the_sources(family, round(args.epochs * epoch)) for name, family in families.items()}
    for name, family in families.items():
        compute = partial(on_images, judge, name, family)
        table[name] = combine([row(args, "images", name, s, compute) for s in args.seeds[:1]])
    if not args.worker:
        side_by_side(args.out, list(table), args.out / "images.png", curves(args.out))
    return write(args, "images", IMAGE_COLUMNS, table)


def side_by_side(folder: Path, names: list[str], path: Path, followed: Curves | None = None) -> None:
    """The pictures of all rows in one, and FID by epoch of those that were followed."""
    grids = [(name, folder / f"{slug(name)}.png") for name in names]
    grids = [(name, grid) for name, grid in grids if grid.exists()]
    if not grids:
        return
    columns = min(6, -(-(len(grids) + bool(followed)) // 2))
    lines = -(-(len(grids) + bool(followed)) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax in axes:
        ax.set_axis_off()
    for ax, (name, grid) in zip(axes, grids):
        ax.imshow(imread(grid))
        ax.set_title(name, fontsize=9)
    if followed:
        ax = axes[len(grids)]
        ax.set_axis_on()
        ax.set_box_aspect(1)
        for name, values in followed.items():
            ax.plot(range(1, len(values) + 1), values, marker=".", label=name)
        ax.set(yscale="log", xlabel="epoch", title="FID of 1,000 samples")
        ax.legend(fontsize=7)
    figure.savefig(path, dpi=100)


def curves(folder: Path) -> Curves:
    """FID by epoch of the rows that were followed."""
    found = {
        p.stem.removeprefix("curve-")[:-2]: p.read_text().splitlines() for p in sorted(folder.glob("curve-*-0.csv"))
    }
    return {
        name: [float(line.split(",")[2]) for line in lines[1:]] for name, lines in found.items() if "FID" in lines[0]
    }


def main() -> None:
    """Compute what is missing, and print the tables."""
    args = arguments(__doc__.splitlines()[0], "families_table", options=options)
    if args.data == "mixture" or args.quick:
        print(mixture_block(args))
    if args.quick:
        args.data = "digits"
    if args.data != "mixture":
        print(image_block(args))


def options(parser: Any) -> None:
    """The options of this table alone."""
    parser.add_argument(
        "--preset", choices=["own", "source"], default="own", help="settings of the trainings on images"
    )
    parser.add_argument("--epochs", type=float, default=SOURCE_EPOCHS, help="of the source preset")
    parser.add_argument("--data", choices=["mixture", *SPLITS], default="mixture", help="what is modelled")


if __name__ == "__main__":
    main()
