"""Solvers fitted to a model's own trajectories: fewer evaluations where a few minutes may be spent once.

`fit` lets an accurate solver draw paths, and then moves two things: the factors that multiply the weights of a `Multistep`
sampler, step by step by least squares on the states the student itself has reached, and the times at which it stops. No
gradient passes through the network, so the memory is that of sampling. What is returned is judged on paths that nothing was
fitted to; where that is no better than the default, the default comes back, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..grids import Angle, Given
from ..models import ScoreModel
from .base import Sampler
from .exponential import Move, Multistep, moved, scaled, share
from .run import default, sample, start

RIDGE = 1e-3  # of the features' own size: what the data do not tell stays at the analytic weight


class Fitted(Multistep):
    """A `Multistep` sampler with a corrector, its times given and its weights multiplied by factors.

    Parameters
    ----------
    stops
        Its times, decreasing; where the last move is the denoiser's it starts at the last of them.
    factors
        ``(moves, order + 1)``, in the order the moves are made, corrections included; 1 leaves a weight as it is.
    order
        Of the method.
    denoise
        Whether it was fitted for ``final="denoise"``.
    """

    def __init__(self, stops: Tensor, factors: Tensor, order: int, denoise: bool) -> None:
        super().__init__(max(1, len(stops) - (not denoise)), Given(stops), order, clock=share, corrector=True)
        self.stops, self.factors, self.denoise = stops, factors, denoise

    def times(self, sde: Any, denoise: bool) -> Tensor:
        """The fitted times."""
        if denoise != self.denoise:
            mode = "denoise" if self.denoise else "sample"
            raise ValueError(f'this solver was fitted for final="{mode}"; sample with that, or fit another.')
        return self._grid(sde)(sde, len(self.stops))

    def plan(self, model: Any, times: Tensor) -> list[Multistep.Coefficients]:
        """The weights, multiplied."""
        rows = iter(self.factors)
        steps = []
        for c in super().plan(model, times):
            correct = None if c.correct is None else _multiplied(c.correct, next(rows))
            steps.append(c._replace(correct=correct, move=_multiplied(c.move, next(rows))))
        return steps


def _multiplied(move: Move, factors: Tensor) -> Move:
    return move._replace(weights=[w * f for w, f in zip(move.weights, factors, strict=False)])


class _Student(Multistep):
    """A multistep sampler that fits the factors of every move as it makes it."""

    def __init__(self, grid: Given, order: int, teacher: dict[float, Tensor]) -> None:
        super().__init__(max(1, len(grid.times) - 1), grid, order, clock=share, corrector=True)
        self.teacher, self.found = teacher, []  # type: ignore[var-annotated]

    def advance(self, move: Move, y: Tensor, history: Sequence[Tensor]) -> Tensor:
        """The move with the factors that bring it nearest to the teacher."""
        used = history[: len(move.weights)]
        features = torch.stack([scaled(w, q).flatten(1) for w, q in zip(move.weights, used, strict=True)], -1)
        rest = (self.teacher[move.s.item()] - moved(move, y, used)).flatten(1)
        factors = 1 + _robust_least_squares(features, rest)
        self.found.append(torch.nn.functional.pad(factors, (0, self.order + 1 - len(factors)), value=1.0))
        return moved(_multiplied(move, factors), y, used)


def _robust_least_squares(features: Tensor, target: Tensor) -> Tensor:
    """``theta`` near 0 with ``features theta = target``, rows beyond the median weighing less: a few paths change modes."""
    features, target = features.double(), target.double()
    theta = features.new_zeros(features.shape[-1])
    for _ in range(4):
        size = (target - features @ theta).norm(dim=1)
        w = 1 / size.maximum(size.median()).clamp_min(1e-300)
        gram = torch.einsum("b,bdi,bdj->ij", w, features, features)
        right = torch.einsum("b,bdi,bd->i", w, features, target)
        theta = torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram), right)
    return theta.cpu()


def fit(
    model: ScoreModel,
    *,
    steps: int = 6,
    paths: int = 512,
    seed: int = 0,
    final: str = "denoise",
    end: float | None = None,
    sweeps: int = 2,
) -> Sampler:
    """A solver of `steps` evaluations, fitted to a model of a scalar process.

    Parameters
    ----------
    model
        Any score model of a scalar process whose data's moments are known.
    steps
        Evaluations of the network, the last denoising included.
    paths
        Trajectories of the teacher: half to fit, a quarter to choose by, a quarter held back.
    seed
        Of their starting states.
    final, end
        As in `sample`, and the last time.
    sweeps
        Passes over the times, each trying every time a little earlier and later.

    Returns
    -------
    Sampler
        A `Fitted` solver with the attributes ``error`` and ``default_error``, on the paths held back; or the default, with
        a warning, where fitting did not help.
    """
    if not model.sde.is_linear or len(model.sde.e) > 1:
        raise TypeError(f"{type(model.sde).__name__} is not a scalar process; solvers are fitted for those.")
    if final not in ("denoise", "sample"):
        raise ValueError(f'final = {final!r}; expected "denoise" or "sample".')
    if paths < 16 or steps < 2 or sweeps < 0:
        raise ValueError(f"paths = {paths}, steps = {steps}, sweeps = {sweeps}; at least 16, 2 and 0 are needed.")
    return _Fit(model, steps, paths, seed, final, end).run(sweeps)


class _Fit:
    """The teacher's paths, and the search."""

    FINE = 160  # times of the teacher, which the student chooses its own from

    def __init__(self, model: ScoreModel, steps: int, paths: int, seed: int, final: str, end: float | None) -> None:
        self.model, self.steps, self.final = model, steps, final
        self.plain = default(model, steps)
        assert isinstance(self.plain.grid, Angle)
        self.plain.grid.end = end
        self.scale = self.plain.grid.scale
        grid = Angle(end=end, scale=self.scale, power=0.5)
        self.x_T = start(model, paths, seed)
        teacher = Multistep(self.FINE, grid, 3, clock=share, corrector=True)
        self.fine = teacher.times(model.sde, False)
        self.path = sample(model, x_T=self.x_T, sampler=teacher, final="sample", return_path=True)
        self.ends = model.denoise(self.path[-1], self.fine[-1]).detach() if final == "denoise" else self.path[-1]
        order = torch.randperm(paths, generator=torch.Generator().manual_seed(seed))
        self.train, self.choose, self.held = order.tensor_split([paths // 2, 3 * paths // 4])
        self.best: tuple[float, list[int], int, Fitted] | None = None

    def run(self, sweeps: int) -> Sampler:
        """Shapes of grids and orders first, then single times."""
        for multiple in (0.35, 0.6, 1.0, 1.7):
            for power in (0.5, 0.75, 1.0):
                places = self.snap(Angle(end=self.fine[-1].item(), scale=self.scale * multiple, power=power))
                for order in (1, 2, 3):
                    self.consider(places, order)
        assert self.best is not None
        for reach in [8, 3, 1][: sweeps + 1] if sweeps else []:
            for k in range(1, len(self.best[1]) - 1):
                for move in (-reach, reach):
                    places = list(self.best[1])
                    places[k] += move
                    if places[k - 1] < places[k] < places[k + 1]:
                        self.consider(places, self.best[2])
        fitted = self.best[3]
        error, plain = self.error(fitted, self.held), self.error(self.plain, self.held)
        if not error < plain:
            warnings.warn(
                f"fitting {self.steps} steps did not help on the paths held back ({error:.3g} against {plain:.3g}); the "
                "default is returned. More paths may help.",
                stacklevel=3,
            )
            return self.plain
        fitted.error, fitted.default_error = error, plain  # type: ignore[attr-defined]
        return fitted

    def snap(self, grid: Angle) -> list[int]:
        """Places of a grid's times among the fine ones, all different."""
        n = self.steps + (self.final == "sample")
        times = grid(self.model.sde, n)
        places = (self.fine[None] - times[:, None]).abs().argmin(1).tolist()
        for k in range(1, n):
            places[k] = max(places[k], places[k - 1] + 1)
        for k in range(n - 1, 0, -1):
            places[k] = min(places[k], self.FINE - (n - 1 - k))
        places[-1] = self.FINE
        return places

    def consider(self, places: list[int], order: int) -> None:
        """Fit the factors on these times, and keep the solver if it is the best so far."""
        times = self.fine[places]
        teacher = dict(zip(times.tolist(), self.directions(self.path[places][:, self.train]), strict=True))
        student = _Student(Given(times), order, teacher)
        sample(self.model, x_T=self.x_T[self.train], sampler=student, final="sample")
        fitted = Fitted(times, torch.stack(student.found), order, self.final == "denoise")
        error = self.error(fitted, self.choose)
        if self.best is None or error < self.best[0]:
            self.best = (error, places, order, fitted)

    def directions(self, states: Tensor) -> list[Tensor]:
        """States along the directions in which the student moves."""
        pieces = Multistep(2).pieces(self.model)
        return [pieces.enter(x) for x in states]

    def error(self, sampler: Sampler, which: Tensor) -> float:
        """Root-mean-square distance from the teacher, single distances cut at five medians."""
        x = sample(self.model, x_T=self.x_T[which], sampler=sampler, final=self.final)
        distance = (x - self.ends[which]).flatten(1).norm(dim=1)
        return distance.minimum(5 * distance.median()).square().mean().sqrt().item()
