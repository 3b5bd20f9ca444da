"""Averages of weights over a run: a moving average of a width that is chosen before, and averages of widths that are chosen
afterwards (post-hoc EMA).
"""

from __future__ import annotations

__all__ = ["PowerEMA", "Snapshots", "combine", "exponent"]

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from ..precision import at_least_single, widened
from ..show import show_call
from ..storage import read_whole, write_whole
from .buffers import Buffers

FORMAT = "sdegen-average-2"  # the first had no checksum


def exponent(width: float, name: str = "width") -> float:
    """Return the power `gamma` for which the weight profile ``m^gamma`` of an average has the relative standard deviation
    `width`; infinity for 0.

    ``width² = (gamma + 1) / ((gamma + 2)² (gamma + 3))``, which falls with gamma. `name` is the name of the width in an error.

    >>> round(exponent(0.1), 2)
    6.94
    """
    if not 0 <= width <= 0.28:
        raise ValueError(f"{name} = {width}; the relative width of the average lies between 0 and 0.28.")
    if not width:
        return math.inf
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = 0.5 * (low + high)
        wider = (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > width**2
        low, high = (middle, high) if wider else (low, middle)
    return low


class PowerEMA:
    """A power-function average of a model's weights (EDM2's EMA), over the last part of a run of any length, in float32 at least.

    ``average ← average + (1 − (1 − 1/n)^(gamma+1)) (weights − average)`` at step n: the weight of step m grows as
    ``m^gamma``, a profile of relative width `width`. T. Karras et al., *Analyzing and improving the training dynamics of
    diffusion models*, 2023, arXiv:2312.02696.

    Parameters
    ----------
    parameters
        The weights, read at every `update`; weights that hold no floating-point numbers are left out.
    width
        Standard deviation of the profile as a fraction of the run, at most 0.28 (a plain average); 0 keeps the last weights.
    """

    __repr__ = show_call

    def __init__(self, parameters: Iterable[Tensor], width: float = 0.05) -> None:
        self.width, self.gamma, self.n = width, exponent(width, "ema"), 0
        self.parameters = [p for p in parameters if p.is_floating_point()]
        self.average = [p.detach().to(at_least_single(p.dtype), copy=True) for p in self.parameters]
        self._model: nn.Module | None = None
        self._coarse = any(p.dtype.itemsize <= 2 for p in self.parameters)

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the model's present weights."""
        self.n += 1
        keep = 0.0 if self.n == 1 or not self.width else (1 - 1 / self.n) ** (self.gamma + 1)
        weights = [widened(p) for p in self.parameters] if self._coarse else self.parameters
        torch._foreach_lerp_(self.average, weights, 1 - keep)

    def attach(self, model: nn.Module, buffers: Buffers) -> None:
        """Note the model, and how its buffers are recomputed whenever the average is put into it.

        For an average of width 0, the last weights, the model has the right buffers already.
        """
        self._model, self._buffers = (model if self.width else None), buffers

    def copy_to_model(self) -> None:
        """Copy the average into the model's weights, and give the model the buffers that belong to it."""
        self._copy(self.average)
        if self._model is not None:
            self._buffers.fit(self._model)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Put the average into the model within a ``with`` block, and restore weights and buffers afterwards."""
        weights = [p.detach().clone() for p in self.parameters]
        self._copy(self.average)
        try:
            with nullcontext() if self._model is None else self._buffers.lent(self._model):
                yield
        finally:
            self._copy(weights)

    @torch.no_grad()
    def _copy(self, weights: list[Tensor]) -> None:
        torch._foreach_copy_(self.parameters, weights)


class Snapshots:
    """Stored averages of weights, from which an average of any other width is computed after the run (post-hoc EMA).

    The average of exponent gamma at step T is ``∫ p(s) weights(s) ds`` with the profile
    ``p(s) = (gamma + 1) s^gamma / T^(gamma+1)`` on ``[0, T]``. Stored profiles are combined to the wanted profile, by least
    squares over ``[0, T]`` with coefficients of sum 1, and stored averages with the same coefficients. T. Karras et al., 2023,
    arXiv:2312.02696, section 3.2. With 16 snapshots at equal distances the error of the profile is at most 8 % for widths from
    0.03 to 0.25, and with 64 for widths from 0.015 to 0.28.

    Parameters
    ----------
    parameters
        The weights by name, as for `PowerEMA`.
    folder
        The folder in which snapshots are kept, a file each; by default they are kept in memory.
    """

    widths = (0.05, 0.1)  # of the averages that are stored at each snapshot
    buffers: Buffers | None = None  # recomputes the buffers that belong to an average; None leaves a model its own

    __repr__ = show_call

    def __init__(self, parameters: dict[str, Tensor], folder: Path | None = None) -> None:
        self.names = [name for name, p in parameters.items() if p.is_floating_point()]
        self.averages = [PowerEMA(parameters.values(), width) for width in self.widths]
        self.folder = folder
        self._kept: dict[int, list[list[Tensor]]] = {}

    def update(self) -> None:
        """Update both averages with the model's present weights."""
        for average in self.averages:
            average.update()

    def forget_later(self) -> None:
        """Delete files of later steps, left by an interrupted or another run."""
        for path in [] if self.folder is None else self._files():
            if _step(path) > self.averages[0].n:
                path.unlink()

    def keep(self) -> None:
        """Keep a copy of both averages at the present step."""
        step = self.averages[0].n
        if self.folder is None:
            self._kept[step] = [[p.cpu().clone() for p in average.average] for average in self.averages]
            return
        tensors = {
            f"{i}:{name}": value
            for i, average in enumerate(self.averages)
            for name, value in zip(self.names, average.average, strict=True)
        }
        write_whole(tensors, {"format": FORMAT, "step": str(step)}, self._file(step))

    @property
    def steps(self) -> list[int]:
        """The steps at which averages were stored, up to the present one."""
        kept = self._kept if self.folder is None else map(_step, self._files())
        return sorted(step for step in kept if step <= self.averages[0].n)

    def average(self, width: float) -> dict[str, Tensor]:
        """Return the average of relative width `width` at the last stored step: float64 on the CPU, by name.

        Raises
        ------
        ValueError
            If nothing was kept, or the stored averages give the profile of this width with an error of more than a tenth.
        """
        steps = self.steps
        if not steps:
            raise ValueError("no snapshot was kept; call fit with snapshots=, the number of steps between two of them.")
        if width == 0:
            raise ValueError(
                "width = 0 is no average; the last weights themselves are what a model has after fit(ema=0)."
            )
        coefficients, error = combine(steps, self.widths, width)
        if error > 0.1:
            raise ValueError(
                f"width = {width} is out of reach of the {len(steps)} snapshots that were kept: they miss its profile by "
                f"{100 * error:.0f} %; take snapshots more often, or a width nearer to 0.1."
            )
        total = [torch.zeros(p.shape, dtype=torch.float64) for p in self.averages[0].average]
        for step, row in zip(steps, coefficients.tolist(), strict=True):
            for c, kept in zip(row, self._read(step), strict=True):
                for t, value in zip(total, kept, strict=True):
                    t.add_(value, alpha=c)
        return dict(zip(self.names, total, strict=True))

    def _read(self, step: int) -> list[list[Tensor]]:
        """Return the averages that were stored at a step, the weights of each width."""
        if self.folder is None:
            return self._kept[step]
        path, gone = self._file(step), "delete it, and average over the others."
        _, tensors = read_whole(path, (FORMAT,), gone, gone)
        for name, p in zip(self.names, self.averages[0].average, strict=True):
            for i in range(len(self.widths)):
                if f"{i}:{name}" not in tensors or tensors[f"{i}:{name}"].shape != p.shape:
                    raise ValueError(f"{path} holds no average of {name} in the shape {tuple(p.shape)}; {gone}")
        return [[tensors[f"{i}:{name}"] for name in self.names] for i in range(len(self.widths))]

    def _files(self) -> list[Path]:
        assert self.folder is not None
        return [
            file for file in self.folder.glob("average-*.safetensors") if file.stem.removeprefix("average-").isdigit()
        ]

    def _file(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"average-{step:08d}.safetensors"


def _step(path: Path) -> int:
    """Return the step of a file."""
    return int(path.stem.split("-")[1])


def combine(steps: list[int], widths: Iterable[float], width: float) -> tuple[Tensor, float]:
    """Return the coefficients with which stored averages of some `widths` approximate the average of another `width`, and the
    error.

    The inner product of two profiles is ``(a + 1)(b + 1) / (a + b + 1) (s / t)^b / t`` for exponents `a` at step `s` and `b` at
    a later step `t`.

    Parameters
    ----------
    steps, widths
        The steps at which stored profiles end, and their widths; all pairs of both are stored.
    width
        The width of the wanted profile, which ends at the last of the steps.

    Returns
    -------
    coefficients
        ``(steps, widths)``, float64, of sum 1.
    error
        The distance to the profile, relative to its norm.
    """
    powers = torch.tensor([exponent(w) for w in widths], dtype=torch.float64)
    # The wanted profile is the last row of the Gram matrix; time is in units of the whole run.
    end = torch.tensor([*steps, steps[-1]], dtype=torch.float64) / steps[-1]
    end = end.repeat_interleave(torch.tensor([len(powers)] * len(steps) + [1]))
    power = torch.cat([powers.repeat(len(steps)), torch.tensor([exponent(width)], dtype=torch.float64)])
    late = torch.maximum(end, end[:, None])
    power_of_late = torch.where(end > end[:, None], power, power[:, None])
    norm = (power + 1) * (power[:, None] + 1) / (power + power[:, None] + 1)
    gram = norm / late * (torch.minimum(end, end[:, None]) / late) ** power_of_late
    A, b, square = gram[:-1, :-1], gram[:-1, -1], gram[-1, -1]
    # The unit of each profile is its norm; the last equation, with its multiplier, makes the sum one.
    unit = A.diagonal().rsqrt()
    system = torch.zeros(len(A) + 1, len(A) + 1, dtype=torch.float64)
    system[:-1, :-1] = unit[:, None] * A * unit
    system[-1, :-1] = system[:-1, -1] = unit
    right = torch.cat([unit * b, torch.ones(1, dtype=torch.float64)])
    # Neighbouring profiles are nearly parallel: directions in which they hardly differ are left out.
    x = torch.linalg.lstsq(system, right, rcond=1e-10, driver="gelsd").solution[:-1] * unit
    error = ((x @ A @ x - 2 * x @ b + square).clamp_min(0) / square).sqrt().item()
    return x.reshape(len(steps), -1), error
