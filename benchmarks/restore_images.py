"""Images restored from what was measured of them: masked, blurred, reduced. PSNR, and whether a classifier still agrees.

    python -m benchmarks.restore_images                       # Fashion-MNIST, the shipped model: minutes of one core
    python -m benchmarks.restore_images --data sprites

Each of 100 test images is measured with noise of 0.1 (data in [−1, 1]) and restored once; ``PSNR`` is that of the sample in
decibels, ``agrees`` the share whose class a classifier reads as it does of the original, ``misfit`` the root mean square of
``(y − A x) / std``, 1 for the truth. The model is not told the class. A sample of a posterior is no best guess: its mean squared
error is twice that of the posterior mean. ``least squares`` has a little ridge, the noise's variance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import sdegen
from benchmarks.fid_table import NETWORKS, equal_parts
from benchmarks.rows import Values, arguments, combine, row, write
from benchmarks.train_images import SPLITS
from sdegen import guidance, measurements, metrics, plots, samplers
from sdegen.files import SHIPPED
from sdegen.guidance.measurements import Measurement

COLUMNS = {"PSNR": 2, "agrees": 3, "misfit": 2, "evaluations": 0, "s per 100": 1, "seeds": 0}
STD = 0.1


def tasks(shape: tuple[int, ...]) -> dict[str, Measurement]:
    """What is done to images of this shape."""
    side = shape[1]
    hole = torch.ones(shape, dtype=torch.bool)
    hole[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = False
    half = torch.rand(shape[1:], generator=torch.Generator().manual_seed(0)).expand(shape) < 0.25
    return {
        "a square missing": measurements.Mask(hole, STD),
        "a quarter of the pixels": measurements.Mask(half, STD),
        "blurred": measurements.Blur(side / 16, STD),
        "reduced four times": measurements.Downsample(4, STD),
    }


def methods() -> dict[str, tuple[Callable[..., Any], samplers.Sampler, int]]:
    """The wrapper, the sampler, and the evaluations of a sample."""
    few, many = samplers.ExponentialSDE(20, eta=0.8), samplers.ExponentialSDE(100)
    return {
        "ΠGDM, 20": (guidance.PiGDM, few, 20),
        "moment matching, 20": (partial(guidance.MomentMatching, iterations=3), few, 20),
        "replacement, 20": (guidance.Replacement, few, 20),
        "DPS, 100": (partial(guidance.DPS, scale=0.3), many, 100),
    }


def judged(x: Tensor, original: Tensor, y: Tensor, A: Measurement, net: Any) -> Values:
    """The columns of restored images in [−1, 1]."""
    shown, truth = ((v + 1) / 2 for v in (x.clamp(-1, 1), original))
    psnr = -10 * (shown - truth).square().flatten(1).mean(1).log10()
    agrees = (net.logits(shown).argmax(1) == net.logits(truth).argmax(1)).double()
    misfit = ((y - A(x)) / A.std).square().mean().sqrt().item()
    n = math.sqrt(len(x))
    return {
        "PSNR": [psnr.mean().item(), psnr.std().item() / n],
        "agrees": [agrees.mean().item(), agrees.std().item() / n],
        "misfit": [misfit, None],
    }


def main() -> None:
    """Compute what is missing, print the tables and draw the pictures."""
    args = arguments(__doc__.splitlines()[0], "restore_images", seeds=1, options=options)
    n = 10 if args.quick else 100
    train, test = SPLITS[args.data]()
    images = equal_parts(train, test, n)[1]
    original = images.scaled(-1, 1).rows()
    net = metrics.features(NETWORKS[args.data])

    @cache
    def model() -> Any:
        return sdegen.pretrained(args.data).to(args.device)

    sheets: dict[str, Tensor] = {}
    for task, A in tasks(tuple(original.shape[1:])).items():
        y = A.sample(original, torch.Generator().manual_seed(0))

        def restored(name: str, task: str, A: Measurement, y: Tensor, seed: int) -> Values:
            make, sampler, evaluations = methods()[name]
            began = time.perf_counter()
            x = sdegen.sample(
                make(model(), A), n, sampler=sampler, seed=seed, y=y.to(args.device), progress=False
            ).cpu()
            seconds = (time.perf_counter() - began) * 100 / n
            sheets[f"{task}: {name}"] = x
            found = judged(x, original, y, A, net)
            return found | {"evaluations": [evaluations, None], "s per 100": [seconds, None]}

        def plain(task: str, A: Measurement, y: Tensor, seed: int) -> Values:
            shape = original.shape[1:]
            u = guidance.conjugate_gradients(lambda u: A(A.transpose(u, shape)) + A.std**2 * u, y)
            sheets[f"{task}: measured"] = A.transpose(u, shape)
            return judged(sheets[f"{task}: measured"], original, y, A, net)

        table = {
            "least squares": combine([row(args, args.data, f"{task} least squares", 0, partial(plain, task, A, y))])
        }
        for name in methods():
            compute = partial(restored, name, task, A, y)
            table[name] = combine([row(args, args.data, f"{task} {name}", s, compute) for s in args.seeds])
        print(f"\n{args.data}, {task}\n\n" + write(args, f"{args.data}-{task.replace(' ', '-')}", COLUMNS, table))
    if len(sheets) == len(tasks(tuple(original.shape[1:]))) * (1 + len(methods())):
        picture(args, original, sheets)


def picture(args: Any, original: Tensor, sheets: dict[str, Tensor]) -> None:
    """Ten images, what least squares make of the measurement, and every method's sample, task by task."""
    names = ["measured", *methods()]
    figure = Figure(figsize=(10, 6.6), layout="constrained")
    for ax, task in zip(figure.subplots(2, 2).flat, tasks(tuple(original.shape[1:]))):
        rows = torch.cat([original[:10], *(sheets[f"{task}: {name}"][:10] for name in names)])
        plots.images((rows + 1) / 2, columns=10, ax=ax, title=task)
    figure.savefig(args.out / f"{args.data}.png", dpi=100)


def options(parser: Any) -> None:
    """The options of this table alone."""
    parser.add_argument("--data", choices=list(SHIPPED), default="fashion_mnist", help="which images")


if __name__ == "__main__":
    main()
