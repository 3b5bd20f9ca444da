"""The rows of the FID table, `benchmarks.fid_table`: a model of a set of images, and a sampler of so many evaluations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.fid_images import PROCESSES, Task
from benchmarks.train_images import SPLITS
from sdegen import guidance, samplers
from sdegen.files import SHIPPED

EVALUATIONS = (10, 20, 50, 100)
FITTED = (2, 4)  # evaluations of a solver that is fitted to the model
SCALES = (1.25, 1.375, 1.5, 2.0, 3.0)
JUMPS = (1, 2, 4)
FEW = (5, 6)  # evaluations of the default sampler in more rows
LIMITED = (1.5, 2.0, 3.0, 4.0)  # scales of guidance that is switched off at high noise levels,
LEVEL = 5.0  # above this sigma / alpha


@dataclass
class Recipe:
    """What a row is made by: the model of a task, and how samples are drawn from it."""

    sampler: Callable[[Any], samplers.Sampler]
    model: Callable[[Task], Any] = lambda task: task.model
    labelled: bool = True


def ddpm(model: Any, steps: int) -> samplers.Sampler:
    """Return ancestral sampling on all trained steps, or in equal steps of time on fewer."""
    return samplers.Ancestral(steps)


def ddpm_es(model: Any, steps: int) -> samplers.Sampler:
    """Return ancestral sampling on a part of the trained steps, in equal steps of the root of time."""
    return samplers.Ancestral(steps, samplers.quadratic_subsequence(model.sde, steps))


def ddim(model: Any, steps: int) -> samplers.Sampler:
    """Return DDIM on a part of the trained steps, in equal steps of time."""
    return samplers.DDIM(steps, samplers.uniform_subsequence(model.sde, steps))


def jump(model: Any, steps: int, back: float = 0.0) -> samplers.Sampler:
    """Return the sampler of jumps of a flow map."""
    return samplers.Jumps(steps, back=back)


def fitted(model: Any, steps: int, data: str) -> samplers.Sampler:
    """Fit a solver to paths of the model, under classes as frequent as in the training images, and return it."""
    labels = SPLITS[data]().train.labels
    assert labels is not None

    def conditions(n: int, generator: torch.Generator) -> dict[str, Any]:
        return {"label": labels[torch.randint(len(labels), (n,), generator=generator)]}

    return samplers.fit_solver(model, steps=steps, rounds=5, progress=False, conditions=conditions)


def learned(model: Any, steps: int) -> samplers.Sampler:
    """Return DDPM-ES with learned variances."""
    return samplers.Ancestral(
        steps, samplers.quadratic_subsequence(model.sde, steps), variance=samplers.learned_variance
    )


def recipes(quick: bool, data: str) -> dict[str, Recipe]:
    """Return the recipes of all rows but the floor, by name."""
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
    few = (*JUMPS, *FEW) if data in SHIPPED else FEW
    found |= {f"default, {n}": Recipe(partial(samplers.default, steps=n)) for n in few}
    if data in SHIPPED:
        found |= {f"jumps, {n}": Recipe(partial(jump, steps=n), lambda task: task.jumping) for n in JUMPS}
        found |= {
            f"jumps, {n}, noise between": Recipe(partial(jump, steps=n, back=1.0), lambda task: task.jumping)
            for n in JUMPS[1:]
        }
        found |= {f"fitted, {n}": Recipe(partial(fitted, steps=n, data=data)) for n in FITTED}
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
    """Return the model under classifier-free guidance, at all noise levels or at those below `level`."""
    interval = None if level is None else (0.0, task.model.sde.time(level**-2).item())
    return guidance.ClassifierFree(task.model, scale, interval=interval)
