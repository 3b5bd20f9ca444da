"""Callbacks that follow a training: losses, of GANs those of both players, kept in a file, and lines that are printed."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.files import write_whole
from sdegen import baselines

EVERY = 500  # steps between two points or lines
DRAWN = {"loss": "both players", "L_D": "critic", "L_G": "generator"}


class Points:
    """A file of what was measured after some steps of a training, a line each; steps that are gone over again are written anew.

    Parameters
    ----------
    path
        The file, CSV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, step: int, cells: dict[str, float]) -> None:
        """Put a point at the end, in place of those of this step and later ones."""
        lines = self.path.read_text().splitlines() if self.path.exists() else [",".join(["step", *cells])]
        kept = [lines[0], *(line for line in lines[1:] if int(line.split(",")[0]) < step)]
        point = ",".join([str(step), *(f"{value:.5g}" for value in cells.values())])
        write_whole(self.path, "\n".join([*kept, point]) + "\n")

    def read(self) -> list[dict[str, float]]:
        """Return the points, each a number by its column, where there is one; none where there is no file."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return [{name: float(value) for name, value in line.items() if value} for line in csv.DictReader(file)]


class Lines:
    """A callback of `sdegen.fit` that prints how far a training of hours is: at its first step, every `every`-th, and its last.

    Parameters
    ----------
    name
        The name of what is trained.
    steps
        The number of steps of the whole training.
    every
        Steps between two lines.
    """

    def __init__(self, name: str, steps: int, every: int = EVERY) -> None:
        self.name, self.steps, self.every, self.begun = name, steps, every, False

    def __call__(self, step: Any) -> None:
        """Print a line where it is time."""
        if not self.begun or step.step % self.every == 0 or step.step == self.steps:
            print(
                f"{self.name}: step {step.step:,} of {self.steps:,}, {step.seconds:.0f} s", file=sys.stderr, flush=True
            )
        self.begun = True


class MeanLoss:
    """A callback of `sdegen.fit` that keeps the mean loss of every `every` steps.

    Parameters
    ----------
    path
        The file of the points.
    every
        Steps in a mean. Of an accelerator the last few may not have been read yet.
    """

    def __init__(self, path: Path, every: int = EVERY) -> None:
        self.points, self.every = Points(path), every

    def __call__(self, step: Any) -> None:
        """Keep a point where it is time."""
        if step.step % self.every == 0 and (losses := step.run.loss[-self.every :]):
            self.points.add(step.step, {"seconds": step.seconds, "loss": sum(losses) / len(losses)})


class BothPlayers:
    """A callback of `sdegen.fit` that keeps the losses of both players of an adversarial model (`baselines.Stability`), and of
    any other model nothing.

    Parameters
    ----------
    x
        Some data, by which the critic is judged.
    path
        The file of the points.
    every
        Steps between two of them.
    """

    def __init__(self, x: Tensor, path: Path, every: int = EVERY) -> None:
        self.x, self.points, self.every = x, Points(path), every

    def __call__(self, step: Any) -> None:
        """Keep a point where it is time."""
        if step.step % self.every or not isinstance(step.model, baselines.Adversarial):
            return
        health = baselines.Stability(step.model, self.x.to(next(step.model.parameters()).device), self.every)
        health(step)
        (record,) = health.records
        self.points.add(step.step, {name: value for name, value in record.items() if name != "step"})


def follow_losses(x: Tensor, stem: Path) -> list[MeanLoss | BothPlayers]:
    """Return callbacks that keep the losses of a training in files of its name, of both players where there are two.

    Parameters
    ----------
    x
        Some data.
    stem
        Folder and name of the training.
    """
    files = files_of(stem)
    return [MeanLoss(files[0]), BothPlayers(x, files[1])]


def files_of(stem: Path) -> tuple[Path, Path]:
    """Return the files of a training's losses: mean losses, and those of both players."""
    return stem.with_name(f"loss-{stem.name}.csv"), stem.with_name(f"players-{stem.name}.csv")


def draw_losses(files: Sequence[Path], ax: Any) -> None:
    """Draw the losses that files hold against the step, on one axis, and say whose they are where there are several."""
    for file in files:
        points = Points(file).read()
        for name, label in DRAWN.items():
            if points and name in points[0]:
                values = torch.tensor([[point["step"], point[name]] for point in points])
                ax.plot(*values.T.numpy(), linewidth=1.0, label=label)
    ax.set(xlabel="step", ylabel="loss")
    if len(ax.lines) > 1:
        ax.legend(fontsize=7, frameon=False)
