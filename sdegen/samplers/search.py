"""Solvers fitted to a model's own trajectories, for sampling with few evaluations.

`fit_solver` lets an accurate solver draw paths, and then moves two things: the times at which a `Multistep` sampler stops, and
the factors that multiply its weights. First move by move, by least squares on the states the student itself has reached, for
grids of several shapes; then all at once, by Gauss–Newton steps on where the paths end. No gradient passes through the
network, so the memory is that of sampling. What is returned is judged on paths that nothing was fitted to; where that is no
better than the default, the default comes back, with a warning.
"""

from __future__ import annotations

__all__ = ["Knobs", "Search", "Student", "TeacherPaths", "fit_solver", "robust_least_squares"]

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..arguments import check_arguments
from ..models.named import read_conditions
from ..models.score import ScoreModel, evaluating
from ..models.wrapper import bind_rows
from ..precision import widened
from ..processes.base import SDE
from ..processes.grids import Angle, Given
from ..processes.scalar import as_scalar
from ..progress import should_show
from ..warning import warn_caller
from .base import Noise, Sampler
from .clocks import share
from .defaults import default, level
from .fitted import Fitted, multiplied_move, multiplied_plan, travel
from .moves import Move, apply_move, multiply
from .multistep import Multistep, MultistepMemory, MultistepStep
from .start import check_known, start

RIDGE = 1e-3  # of the features' own size: what the data do not tell stays at the analytic weight
CUT = 10.0  # medians, beyond which a distance counts no further


class Student(Multistep):
    """A multistep sampler that, at each update, fits the factors on its weights to a teacher's trajectory."""

    def __init__(self, stops: Tensor, order: int, teacher: dict[float, Tensor]) -> None:
        super().__init__(max(1, len(stops) - 1), Given(stops), order, clock=share, corrector=True)
        self.teacher, self.base = teacher, torch.empty(0)
        self.found: list[Tensor] = []

    def step(
        self, model: ScoreModel, x: Tensor, c: MultistepStep, noise: Noise, state: MultistepMemory | None
    ) -> tuple[Tensor, MultistepMemory]:
        """Evaluate the model, correct the state, and go on from there."""
        y = c.pieces.enter(x)
        first, history, _ = (y, [], None) if state is None else state
        history = [c.pieces.evaluate(model, x, y, c.node), *history]
        y = y if c.correct is None else self.advance(c.correct, self.base, history)
        self.base = first if c.restart else y
        out = self.advance(c.move, self.base, history)
        return c.pieces.leave(out, x), MultistepMemory(first, history[: self.order], None)

    def advance(self, move: Move, y: Tensor, history: Sequence[Tensor]) -> Tensor:
        """Apply the update with the factors that bring it nearest to the teacher, and return the new state."""
        used = history[: len(move.weights)]
        features = torch.stack([multiply(w, q).flatten(1) for w, q in zip(move.weights, used, strict=True)], -1)
        rest = (self.teacher[move.s.item()] - apply_move(move, y, used)).flatten(1)
        factors = 1 + robust_least_squares(features, rest)
        self.found.append(torch.nn.functional.pad(factors, (0, self.order + 1 - len(factors)), value=1.0))
        return apply_move(multiplied_move(move, factors), y, used)


def robust_least_squares(features: Tensor, target: Tensor) -> Tensor:
    """Find ``theta`` near 0 with ``features theta = target`` by least squares in which rows with large errors weigh less."""
    features, target = features.double(), target.double()
    theta = features.new_zeros(features.shape[-1])
    for _ in range(4):
        size = (target - features @ theta).norm(dim=1)
        w = 1 / size.maximum(size.median()).clamp_min(1e-300)
        gram = torch.einsum("b,bdi,bdj->ij", w, features, features)
        right = torch.einsum("b,bdi,bd->i", w, features, target)
        theta = torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram), right)
    return theta.cpu()


@check_arguments
def fit_solver(
    model: ScoreModel,
    *,
    steps: int = 6,
    paths: int | None = None,
    rounds: int = 20,
    seed: int = 0,
    final: str = "denoise",
    end: float | None = None,
    progress: bool | None = None,
    **cond: Any,
) -> Sampler:
    """Fit a solver of `steps` evaluations to a model of a scalar process, and return it.

    Parameters
    ----------
    model
        Any score model of a scalar process whose data's moments are known.
    steps
        Evaluations of the network, the last denoising included.
    paths
        Trajectories of the teacher: half to fit, a quarter to choose by, a quarter held back. By default 512, fewer where
        states have more than 128 numbers, 64 at least.
    rounds
        The number of Gauss–Newton steps, at most. One costs about ``2 steps²`` evaluations of each path it fits to.
    seed
        Seed of the paths' starting states.
    final, end
        As in `sample`, and the last time.
    progress, cond
        As in `sample`; conditions with rows have one for every path.

    Returns
    -------
    Sampler
        A `Fitted` solver with the attributes ``error`` and ``default_error``, on the paths held back: root-mean-square
        distances from the teacher, single ones cut at ten medians. Or the default, with a warning, where fitting did not help.

    Raises
    ------
    TypeError, ValueError
        If the process is not scalar, the moments are not known, or a number is out of range.
    """
    as_scalar(model.sde, ", and solvers are fitted to such processes; use the default sampler.")
    if final not in ("denoise", "sample"):
        raise ValueError(f'final = {final!r}; expected "denoise" or "sample".')
    numbers = model.require_moments().mean.numel()
    if paths is None:
        paths = max(64, min(512, 65_536 // numbers))
    if paths < 16 or steps < 2 or rounds < 0:
        raise ValueError(f"paths = {paths}, steps = {steps}, rounds = {rounds}; at least 16, 2 and 0 are needed.")
    cond, show = read_conditions(model, cond, fit_solver), should_show(progress)
    with torch.no_grad(), evaluating(model), tqdm(disable=not show, desc="fit", leave=False) as bar:
        return Search(model, steps, paths, seed, final, end, cond).run(rounds, bar)


class TeacherPaths(NamedTuple):
    """Trajectories of the teacher, from some of the starting states."""

    model: ScoreModel  # bound to their conditions
    states: Tensor  # (times, B, *)
    ends: Tensor  # (B, *), where the student should arrive


class Search:
    """The search for a fitted solver: trajectories of an accurate teacher, and the steps that fit a student to them."""

    FINE = 160  # times of the teacher, which the student starts its search from

    def __init__(
        self, model: ScoreModel, steps: int, paths: int, seed: int, final: str, end: float | None, cond: dict[str, Any]
    ) -> None:
        self.sde, self.steps, self.denoise = model.sde, steps, final == "denoise"
        self.plain = default(model, steps, eta=0.0)
        assert self.plain.grid is not None  # the default has one
        self.plain.grid.end = end
        self.scale = level(model.state_moments())
        check_known(model)
        x_T = widened(start(model, paths, seed))
        teacher = Multistep(self.FINE, Angle(end=end, scale=self.scale, power=0.5), 3, clock=share, corrector=True)
        self.fine = teacher.times(self.sde, False)
        order = torch.randperm(paths, generator=torch.Generator().manual_seed(seed))
        self.train, self.choose, self.held = (
            self.draw(model, teacher, x_T, which.to(x_T.device), cond)
            for which in order.tensor_split([paths // 2, 3 * paths // 4])
        )

    def draw(
        self, model: ScoreModel, teacher: Sampler, x_T: Tensor, which: Tensor, cond: dict[str, Any]
    ) -> TeacherPaths:
        """Run the teacher, and return its trajectories from some of the starting states."""
        bound = bind_rows(model, cond, which, x_T[:1], len(x_T))
        path = torch.stack([x for x, _ in travel(teacher, teacher.plan(bound, self.fine), bound, x_T[which])])
        return TeacherPaths(bound, path, bound.denoise(path[-1], self.fine[-1]) if self.denoise else path[-1])

    def run(self, rounds: int, bar: Any) -> Sampler:
        """Fit several grids and orders update by update, refine the best of them as a whole, and return it."""
        shapes = [(m, p, order) for m in (0.35, 0.6, 1.0, 1.7) for p in (0.5, 0.75, 1.0) for order in (1, 2, 3)]
        bar.total = len(shapes) + rounds
        found = []
        for multiple, power, order in shapes:
            fitted = self.by_moves(Angle(end=self.fine[-1].item(), scale=self.scale * multiple, power=power), order)
            found.append((self.error(fitted, self.choose), fitted))
            bar.update()
        fitted = min(found, key=lambda pair: pair[0])[1]
        fitted = self.at_once(fitted, rounds, bar)
        error, plain = self.error(fitted, self.held), self.error(self.plain, self.held)
        if not error < plain:
            warn_caller(
                f"fitting {self.steps} steps did not help on the paths held back ({error:.3g} against {plain:.3g}); the "
                "default is returned. More paths may help."
            )
            return self.plain
        fitted.error, fitted.default_error = error, plain
        return fitted

    def by_moves(self, grid: Angle, order: int) -> Fitted:
        """Fit the factors of each update by least squares, at times of the teacher near those of a grid, and return the
        solver.
        """
        places = self.snap(grid)
        times, model = self.fine[places], self.train.model
        pieces = Multistep(2).pieces(model)
        teacher = {t: pieces.enter(x) for t, x in zip(times.tolist(), self.train.states[places], strict=True)}
        student = Student(times, order, teacher)
        travel(student, student.updates(model, times), model, self.train.states[0])
        return Fitted(times, torch.stack(student.found), order, self.denoise)

    def snap(self, grid: Angle) -> list[int]:
        """Return distinct indices of the teacher's times nearest to those of a grid."""
        n = self.steps + (not self.denoise)
        times = grid(self.sde, n)
        places = (self.fine[None] - times[:, None]).abs().argmin(1).tolist()
        for k in range(1, n):
            places[k] = max(places[k], places[k - 1] + 1)
        for k in range(n - 1, 0, -1):
            places[k] = min(places[k], self.FINE - (n - 1 - k))
        places[-1] = self.FINE
        return places

    def at_once(self, fitted: Fitted, rounds: int, bar: Any) -> Fitted:
        """Fit all times and factors together by Levenberg–Marquardt on the end points, with finite-difference derivatives,
        and return the solver.

        A state may leave the teacher's path where that brings the end nearer; few steps gain most from it.
        """
        knobs = Knobs(self.sde, fitted, self.train.model)
        p, damping, idle = knobs.start, 1e-2, 0
        rest, trail = self.rest(knobs, p)
        best, least = fitted, self.error(fitted, self.choose)
        for _ in range(rounds):
            size = rest.norm(dim=1)
            w = (CUT * size.median() / size).clamp(max=1).square()
            J = self.jacobian(knobs, p, rest, trail)
            H, slope = torch.einsum("b,bdi,bdj->ij", w, J, J), torch.einsum("b,bdi,bd->i", w, J, rest)
            for _ in range(8):
                scale = H.diagonal() + 1e-12 * H.trace()
                q = p - torch.linalg.solve(H + damping * scale.diag(), slope).cpu()
                there, way = self.rest(knobs, q)
                if (w * there.square().sum(1)).sum() < (w * rest.square().sum(1)).sum():
                    break
                damping *= 4
            else:
                break
            p, rest, trail, damping = q, there, way, max(damping / 8, 1e-7)
            error = self.error(knobs.sampler(p), self.choose)
            idle = 0 if error < 0.99 * least else idle + 1
            if error < least:
                best, least = knobs.sampler(p), error
            bar.update()
            if idle == 3:
                break
        return best

    def jacobian(self, knobs: Knobs, p: Tensor, rest: Tensor, trail: list[Any]) -> Tensor:
        """Return ``∂ rest / ∂ p``, ``(B, d, len(p))``; a run with another factor begins where that factor first acts."""
        h = torch.finfo(self.train.ends.dtype).eps ** 0.4
        columns = []
        for i, first in enumerate(knobs.acts):
            q = p.clone()
            q[i] += h
            columns.append((self.rest(knobs, q, first, trail)[0] - rest) / h)
        return torch.stack(columns, -1)

    def rest(self, knobs: Knobs, p: Tensor, first: int = 0, trail: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Return the differences between a run's end points and the teacher's, ``(B, d)``, with the run's states; it may
        start from step `first` of another.
        """
        model, sampler = self.train.model, knobs.sampler(p)
        begin = (self.train.states[0], None) if trail is None else trail[first]
        way = travel(sampler, knobs.plan(sampler)[first:], model, *begin)
        x = way[-1][0]
        x = model.denoise(x, sampler.stops[-1]) if self.denoise else x
        return (x - self.train.ends).flatten(1).double(), way

    def error(self, sampler: Sampler, paths: TeacherPaths) -> float:
        """Return the root-mean-square distance of end points from the teacher's, with large distances capped."""
        times, model = sampler.times(self.sde, self.denoise), paths.model
        x = travel(sampler, sampler.plan(model, times), model, paths.states[0])[-1][0]
        x = model.denoise(x, times[-1]) if self.denoise else x
        distance = (x - paths.ends).flatten(1).norm(dim=1)
        return distance.minimum(CUT * distance.median()).square().mean().sqrt().item()


class Knobs:
    """The parameters of the search: logarithms of the gaps between the times, on the clock, and the factors on the weights."""

    def __init__(self, sde: SDE, fitted: Fitted, model: ScoreModel) -> None:
        self.flow, self.model, self.fitted = sde.flow(model), model, fitted
        self.stops = fitted.stops.double()
        self.ticks = share(self.flow.clock(self.stops))
        self.known = (self.stops, fitted.updates(model, self.stops))
        moves = [(k, m) for k, c in enumerate(self.known[1]) for m in (c.correct, c.move) if m is not None]
        counts = torch.tensor([len(m.weights) for _, m in moves])
        self.mask = torch.arange(fitted.order + 1) < counts[:, None]
        gaps = -self.ticks.diff()
        self.start = torch.cat([gaps.log(), fitted.factors.double()[self.mask]])
        self.acts = [0] * len(gaps) + [k for k, m in moves for _ in m.weights]  # the step in which each first acts

    def sampler(self, p: Tensor) -> Fitted:
        """Make the solver with the parameters `p`, and return it."""
        n = len(self.ticks) - 1
        factors = self.fitted.factors.double().clone()
        factors[self.mask] = p[n:]
        ticks = self.ticks[0] + (self.ticks[-1] - self.ticks[0]) * p[:n].softmax(0).cumsum(0)[:-1]
        inner = self.flow.time(torch.atan(ticks / (1 - ticks)))
        return Fitted(
            torch.cat([self.stops[:1], inner, self.stops[-1:]]), factors, self.fitted.order, self.fitted.denoise
        )

    def plan(self, sampler: Fitted) -> list[MultistepStep]:
        """Plan the solver with the parameters `p`; weights before the factors are cached by their times."""
        if not torch.equal(self.known[0], sampler.stops):
            self.known = (sampler.stops, sampler.updates(self.model, sampler.stops))
        return multiplied_plan(self.known[1], sampler.factors)
