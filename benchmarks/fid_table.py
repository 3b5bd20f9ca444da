"""The FID table: DDPM, efficient DDPM sampling, DDIM and the default sampler on one trained model, guided and unguided.

    python -m benchmarks.fid_table --quick                 # scikit-learn's digits: trains a model, minutes
    python -m benchmarks.fid_table --data fashion_mnist    # the shipped model on real data
    python -m benchmarks.fid_table --data mnist --count 10000 --only default

Every row is `count` samples with the labels of as many images that were held back, against those images. The floor is real
against real: as many training images. The 1,000-step rows set what a CPU can afford: 2,000 samples where nothing else is
said. FID, KID, precision and recall are of the features of the shipped network of the data set, which also tells whether a
sample is of the class it was asked for; the column after that says by how many points it finds so less often than in real
images held back, in the class where this is most.

Rows of jumps are of the flow map that the shipped model was made into, without noise between jumps and with it, which takes the
state to the data and back; the default sampler has rows of as few evaluations beside them, and on MNIST and Fashion-MNIST
*fitted* is what `samplers.fit_solver` makes of as few, in five rounds, under classes drawn alike.

Rows of the models trained for bits are of `likelihood_recipe`, whose weights have to lie below the results that are written to.

Of the sprites two more models are trained, of VP and of blurring diffusion, alike but for the process.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import sdegen
from benchmarks import command
from benchmarks.devices import fit_on
from benchmarks.files import made
from benchmarks.likelihood_recipe import better
from benchmarks.rows import Values
from benchmarks.tables import Table
from benchmarks.train_images import P_UNCOND, PRESETS, SPLITS, build, of_digits, train_on
from sdegen import guidance, metrics, plots, samplers
from sdegen.data import Images, Scaling
from sdegen.files import SHIPPED

EVALUATIONS = (10, 20, 50, 100)
FITTED = (2, 4)  # of a solver fitted to the model, where all classes are as frequent
SCALES = (1.25, 1.375, 1.5, 2.0, 3.0)
JUMPS = (1, 2, 4)
FEW = (5, 6)  # evaluations of the default sampler beside them, and of as many as jumps
LIMITED = (1.5, 2.0, 3.0, 4.0)  # scales of guidance that is off at the highest noise levels,
LEVEL = 5.0  # those of a larger sigma / alpha
SCALING = Scaling(-1, 1)
COUNT = 2000
SHORT = 1500  # steps of batches of 64, a tenth of what the shipped models have seen
PROCESSES: dict[str, Callable[[], sdegen.LinearSDE]] = {
    "VP": sdegen.VP,
    "blurring, 2 pixels": lambda: sdegen.Blurring((3, 16, 16)),
}
SEEDS = {"digits": 4, "sprites": 4}  # where fewer images are held back than a row has samples
BATCH = 250  # samples that go through a network at a time; of an accelerator all do, which waits for calls and not for numbers
NETWORKS = {
    "digits": "digits-cnn-v1",
    "mnist": "mnist-cnn-v1",
    "fashion_mnist": "fashion-cnn-v1",
    "sprites": "sprites-cnn-v1",
}


@dataclass
class Task:
    """What all rows of one data set share."""

    table: Table  # the folder of the data set's

    @property
    def data(self) -> str:
        """The name of the data set."""
        return data_of(self.table)

    @cached_property
    def net(self) -> metrics.FeatureNet:
        """The feature network and classifier."""
        return metrics.features(NETWORKS[self.data])

    @cached_property
    def held(self) -> Images:
        """All images held back."""
        return sdegen.data.sprites_held_out() if self.data == "sprites" else SPLITS[self.data]().test

    @cached_property
    def parts(self) -> tuple[Images, Images]:
        """As many training images as images held back, drawn at random."""
        return equal_parts(SPLITS[self.data]().train, self.held, self.table.args.count)

    @cached_property
    def real(self) -> Tensor:
        """The images held back, as the network takes them."""
        return self.parts[1].scaled(0, 1).rows()

    @cached_property
    def right(self) -> dict[int, metrics.Estimate]:
        """Share of the images held back that the classifier gets right, by class: of all of them, not only as many as samples."""
        assert self.held.labels is not None
        return metrics.accuracy(self.held.scaled(0, 1).rows(), self.held.labels, self.net).per_class

    @cached_property
    def model(self) -> Any:
        """The shipped model; of the digits, one trained now."""
        if self.data != "digits":
            return sdegen.pretrained(self.data)
        steps = 600 if self.table.quick else 3000
        return of_digits(steps, self.table.out / "models" / "digits.safetensors", self.table.device)

    @cached_property
    def jumping(self) -> Any:
        """The flow map that the shipped model was made into."""
        return sdegen.pretrained(self.data, jumps=True)

    @cached_property
    def of_bits(self) -> Any:
        """The model that was trained for bits, which knows no class."""
        return better(self.table.beside("likelihood_recipe"), self.data)

    @cached_property
    def learned(self) -> Any:
        """The same model with a second head, for the variances, trained by the hybrid loss."""
        steps = 150 if self.table.quick else 600
        path = self.table.out / "models" / "learned.safetensors"
        return sdegen.load(made(path, lambda path: sdegen.save(self._learn(steps), path)))

    def short(self, process: str) -> Any:
        """A model of a process after a short training, of all but the process alike."""
        path = self.table.out / "models" / f"{process.replace(' ', '-').replace(',', '')}-{SHORT}.safetensors"
        images = SPLITS[self.data]().train
        preset, sde = replace(PRESETS["shipped"], batch_size=64, warmup=100), PROCESSES[process]()

        def make(path: Path) -> None:
            sdegen.save(
                train_on(
                    images, SHORT, preset, path.with_suffix(""), sde=sde, device=self.table.device, progress=False
                )[0],
                path,
            )

        return sdegen.load(made(path, make))

    def _learn(self, steps: int) -> Any:
        images = SPLITS[self.data]().train
        model = build(images, learned=True)
        weights = self.model.net.state_dict()
        for name, value in model.net.state_dict().items():
            # What is new is the half of the last layer that gives the variances; it starts at zero.
            own = torch.zeros_like(value)
            own[tuple(slice(n) for n in weights[name].shape)] = weights[name]
            value.copy_(own)
        fit_on(
            self.table.device, model, images.scaled(-1, 1), steps=steps, batch_size=128, lr=3e-4, warmup=50, p_uncond=P_UNCOND,
            seed=0, loss=sdegen.losses.Hybrid(PRESETS["shipped"].loss), autocast=torch.bfloat16, progress=False,
        )  # fmt: skip
        return model

    def judged(self, x: Tensor, labels: Tensor) -> Values:
        """The columns of images in [0, 1]."""
        found = metrics.accuracy(x, labels, self.net)
        gaps = [
            (100 * (self.right[c].value - own.value), 100 * math.hypot(self.right[c].stderr, own.stderr))
            for c, own in found.per_class.items()
        ]
        own = {"accuracy": [found.overall.value, found.overall.stderr], "worst class": list(max(gaps))}
        return quality(x, self.real, self.net) | own


def equal_parts(train: Images, test: Images, count: int) -> tuple[Images, Images]:
    """As many images of each, drawn at random: `count`, or all of the smaller set."""
    n = min(count, len(train), len(test))
    generator = torch.Generator().manual_seed(0)
    first, second = (part[torch.randperm(len(part), generator=generator)[:n]] for part in (train, test))
    return first, second


def quality(x: Tensor, real: Tensor, net: metrics.FeatureNet) -> Values:
    """The columns of samples against images held back, both in [0, 1]."""
    precision, recall = metrics.precision_recall(x, real, net)
    fid, kid = metrics.fid(x, real, net), metrics.kid(x, real, net)
    return {
        "FID": [fid.value, fid.stderr], "KID × 1000": [1000 * kid.value, 1000 * kid.stderr],
        "precision": [precision.value, precision.stderr], "recall": [recall.value, recall.stderr],
        "features": f"{net.name} {net.hash[:8]}",
    }  # fmt: skip


def as_images(x: Tensor, scaling: Scaling) -> Tensor:
    """Samples as the bytes they stand for, in [0, 1]."""
    u = scaling.inverse(x.float().cpu(), clip=True)
    return Images(u, levels=scaling.levels).scaled(0, 1).rows()


@dataclass
class Recipe:
    """A row: how samples are drawn from the model of a task."""

    sampler: Callable[[Any], samplers.Sampler]
    model: Callable[[Task], Any] = lambda task: task.model
    labelled: bool = True


def ddpm(model: Any, steps: int) -> samplers.Sampler:
    """Ancestral sampling on all trained steps, or in equal steps of time on fewer."""
    return samplers.Ancestral(steps)


def ddpm_es(model: Any, steps: int) -> samplers.Sampler:
    """Ancestral sampling on a part of the trained steps, in equal steps of the root of time."""
    return samplers.Ancestral(steps, samplers.quadratic_subsequence(model.sde, steps))


def ddim(model: Any, steps: int) -> samplers.Sampler:
    """DDIM on a part of the trained steps, in equal steps of time."""
    return samplers.DDIM(steps, samplers.uniform_subsequence(model.sde, steps))


def jump(model: Any, steps: int, back: float = 0.0) -> samplers.Sampler:
    """Jumps of a flow map."""
    return samplers.Jumps(steps, back=back)


def fitted(model: Any, steps: int) -> samplers.Sampler:
    """A solver that is fitted to paths of the model, under ten classes drawn alike."""
    return samplers.fit_solver(
        model, steps=steps, rounds=5, progress=False,
        conditions=lambda n, generator: {"label": torch.randint(10, (n,), generator=generator)},
    )  # fmt: skip


def learned(model: Any, steps: int) -> samplers.Sampler:
    """DDPM-ES with learned variances."""
    return samplers.Ancestral(
        steps, samplers.quadratic_subsequence(model.sde, steps), variance=samplers.learned_variance
    )


def recipes(quick: bool, data: str) -> dict[str, Recipe]:
    """All rows but the floor."""
    evaluations = (10, 50) if quick else EVALUATIONS
    full = 200 if quick else 1000
    found = {f"DDPM, {full}": Recipe(partial(ddpm, steps=full))}
    makers: dict[str, Callable[..., samplers.Sampler]] = {
        "DDPM-ES": ddpm_es, "DDIM": ddim, "default": samplers.default,
        "default, no noise": partial(samplers.default, eta=0.0),
    }  # fmt: skip
    for name, make in makers.items():
        found |= {f"{name}, {n}": Recipe(partial(make, steps=n)) for n in evaluations}
    default = partial(samplers.default, steps=10)
    if data in SHIPPED:
        found |= {f"default, {n}": Recipe(partial(samplers.default, steps=n)) for n in (*JUMPS, *FEW)}
        found |= {f"jumps, {n}": Recipe(partial(jump, steps=n), lambda task: task.jumping) for n in JUMPS}
        found |= {
            f"jumps, {n}, noise between": Recipe(partial(jump, steps=n, back=1.0), lambda task: task.jumping)
            for n in JUMPS[1:]
        }
    if data in ("mnist", "fashion_mnist"):
        found |= {f"fitted, {n}": Recipe(partial(fitted, steps=n)) for n in FITTED}
    for scale in SCALES:
        found[f"default, 10, guided {scale:g}"] = Recipe(default, partial(guided, scale=scale))
    for scale in LIMITED:
        name = f"default, 10, guided {scale:g} below {LEVEL:g}"
        found[name] = Recipe(default, partial(guided, scale=scale, level=LEVEL))
    found["default, 10, without class"] = Recipe(default, labelled=False)
    if data in ("mnist", "fashion_mnist"):
        found["trained for bits, default, 10"] = Recipe(default, lambda task: task.of_bits, labelled=False)
    for n in evaluations:
        found[f"learned variance, {n}"] = Recipe(partial(learned, steps=n), lambda task: task.learned)
    if data == "sprites":
        found |= {
            f"{name}, short training, default, 20": Recipe(
                partial(samplers.default, steps=20), partial(Task.short, process=name)
            )
            for name in PROCESSES
        }
    return found


def guided(task: Task, scale: float, level: float | None = None) -> Any:
    """The model under classifier-free guidance, at all noise levels or at those below `level`."""
    interval = None if level is None else (0.0, task.model.sde.time(level**-2).item())
    return guidance.ClassifierFree(task.model, scale, interval=interval)


def drawn(task: Task, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor, float, float]:
    """Samples as images in [0, 1], the labels asked for, seconds per 1,000, and evaluations of the network for each."""
    labels = task.parts[1].labels
    assert labels is not None
    model = recipe.model(task).to(task.table.device)
    sampler = recipe.sampler(model)
    net = next(part for part in model.modules() if hasattr(part, "mixed"))
    net.mixed, rows = True, []
    hook = net.register_forward_pre_hook(lambda net, inputs: rows.append(len(inputs[0])))
    began = time.perf_counter()
    cond: dict[str, Any] = {"label": labels.to(task.table.device)} if recipe.labelled else {}
    batch = BATCH if task.table.device == "cpu" else None
    x = sdegen.sample(model, len(labels), sampler=sampler, seed=seed, batch=batch, progress=None, **cond)
    seconds = (time.perf_counter() - began) / len(labels) * 1000
    hook.remove()
    return as_images(x, SCALING), labels, seconds, sum(rows) / len(labels)


def sampled(task: Task, name: str, recipe: Recipe, seed: int) -> Values:
    """A row of samples."""
    x, labels, seconds, evaluations = drawn(task, recipe, seed)
    if seed == 0:
        picture(task, name, x, labels)
    cells = task.judged(x, labels)
    if not recipe.labelled:
        del cells["accuracy"], cells["worst class"]
    return cells | {
        "evaluations": [evaluations, None],
        "s per 1,000": [seconds, None],
        "count": [len(x), None],
    }


def floor(task: Task, seed: int) -> Values:
    """Training images in place of samples."""
    images, held = task.parts
    assert images.labels is not None and held.labels is not None
    cells = task.judged(images.scaled(0, 1).rows(), images.labels)
    del cells["worst class"]
    right = metrics.accuracy(task.real, held.labels, task.net).overall  # of images the classifier has not seen either
    return cells | {"count": [len(images), None], "accuracy": [right.value, right.stderr]}


def picture(task: Task, name: str, x: Tensor, labels: Tensor) -> None:
    """Ten samples of every class, one class a row."""
    rows = [x[labels == c][:10] for c in labels.unique().tolist()]
    whole = [r for r in rows if len(r) == 10]
    if not whole:
        return
    figure = Figure(figsize=(5, 0.5 * len(whole)), layout="constrained")
    plots.images(torch.cat(whole), columns=10, ax=figure.subplots())
    slug = "".join(c if c.isalnum() else "-" for c in name)
    task.table.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(task.table.out / f"{slug}.png", dpi=100)


COLUMNS = {
    "FID": 2, "KID × 1000": 2, "precision": 3, "recall": 3, "accuracy": 3, "worst class": 1, "evaluations": 0,
    "s per 1,000": 1, "count": 0, "features": 0,
}  # fmt: skip


def data_of(table: Table) -> str:
    """Return the name of the data set."""
    return "digits" if table.quick else table.args.data


def fid_block(table: Table) -> str:
    """Return the floor and every way of sampling."""
    data, count = data_of(table), table.args.count
    own = table.within(data if count == COUNT else f"{data}-{count}")  # rows know no count
    task = Task(own)
    rows = {"training images (floor)": own.row("fid", "training images", partial(floor, task), once=True)}
    for name, recipe in recipes(table.quick, data).items():
        rows[name] = own.row("fid", name, partial(sampled, task, name, recipe), seeds=SEEDS.get(data))
    return own.write("fid", COLUMNS, rows)


def options(parser: ArgumentParser) -> None:
    """Add the options of this table alone."""
    parser.add_argument("--data", choices=list(SPLITS), default="digits", help="which images")
    parser.add_argument("--count", type=int, default=COUNT, help="samples of a row, and images they are compared with")


def main() -> None:
    """Print the table."""
    command.run("fid_table", __doc__, [fid_block], seeds=1, options=options, networks=True)


if __name__ == "__main__":
    main()
