"""The search for a solver fitted to a model's own trajectories.

An accurate solver, the teacher, draws paths. Then the times at which a `Multistep` sampler, the student, stops, and the factors
on its weights, are fitted to them. The first fit goes move by move, by least squares on the states that the student itself has
reached, for grids of several shapes. The second fit changes everything at once, by Gauss–Newton steps on the ends of the paths.
No gradient passes through the network, so the memory is that of sampling. The result is judged on paths that nothing was fitted
to; if it is no better there than the default, the default is returned, with a warning.
"""

from __future__ import annotations

__all__ = ["Search", "TeacherPaths"]

from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from ..models.wrapper import Conditioned, bind_rows
from ..precision import widened
from ..processes.grids import Angle
from ..processes.linear import as_linear
from ..warning import warn_caller
from .base import Sampler
from .clocks import share
from .coarsened import CoarsenedNoise
from .defaults import default, draws_images
from .exponential_sde import ExponentialSDE
from .fitted import Fitted
from .multistep import Multistep
from .parameters import Parameters
from .references import Matched, MatchedConditional
from .robust import CUT, average_distances, cut_weights, normal_equations
from .start import check_known, start
from .steps import arrive, run_plan
from .student import Student
from .subsequence import nearest_places
from .trials import WIDER, level

TRIES = 20  # dampings of a round, each four times the last: near the border of a basin only short steps lead down
PATIENCE = 8  # rounds in turn that gain less than 1 %, after which the fit ends: a gain of a third came after six


class TeacherPaths(NamedTuple):
    """Trajectories of the teacher, from some of the starting states."""

    model: ScoreModel  # under the conditions of these trajectories
    states: Tensor  # (times, B, *)
    ends: Tensor  # (B, *), where the student should arrive
    noise: CoarsenedNoise | None = None  # the noise of the steps; None for none


class Search:
    """The search for a fitted solver: trajectories of an accurate teacher, and the steps that fit a student to them."""

    FINE = 160  # steps of the teacher, among whose times the search begins

    def __init__(
        self,
        model: ScoreModel,
        steps: int,
        paths: int,
        seed: int,
        final: str,
        end: float | None,
        cond: dict[str, Any],
        eta: float = 0.0,
    ) -> None:
        self.sde = as_linear(model.sde, "; its noise has no level.")
        self.steps, self.denoise = steps, final == "denoise"
        self.seed, self.eta, self.moments = seed, eta, model.state_moments()
        whole = Conditioned(model, **cond) if cond else model
        self.plain = copy(default(whole, steps, eta))  # others may be using it
        self.plain.grid = grid = copy(self.plain.grid)
        assert grid is not None  # the default has one
        if end is not None:
            grid.end = end
        narrow = whole.conditioned and not draws_images(model)
        self.reference = MatchedConditional() if narrow else Matched()
        self.scale = level(self.moments) * (WIDER if narrow else 1)
        check_known(model)
        x_T = widened(start(model, paths, seed))
        fine = Angle(end=grid.end, scale=self.scale, power=0.5)
        teacher = ExponentialSDE(self.FINE, fine, 3, eta, share, self.reference, corrector=True)
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
        bound = self.bind(model, x_T, which, cond)
        path = torch.stack([x for x, _ in run_plan(teacher, teacher.plan(bound, self.fine), bound, x_T[which])])
        return TeacherPaths(bound, path, bound.denoise(path[-1], self.fine[-1]) if self.denoise else path[-1])

    def bind(self, model: ScoreModel, x_T: Tensor, which: Tensor, cond: dict[str, Any]) -> ScoreModel:
        """Return the model under the conditions of some of the paths."""
        return bind_rows(model, cond, which, x_T[:1], len(x_T))

    def run(self, rounds: int, bar: Any) -> Sampler:
        """Return the best of the first solvers on several grids and of several orders, refined; or the default, with a warning,
        if the fitted solver is no better.
        """
        shapes = [(m, p, order) for m in (0.35, 0.6, 1.0, 1.7) for p in (0.5, 0.75, 1.0) for order in (1, 2, 3)]
        bar.total = len(shapes) + rounds
        found = []
        for multiple, power, order in shapes:
            fitted = self.first_solver(Angle(end=self.fine[-1].item(), scale=self.scale * multiple, power=power), order)
            found.append((self.error(fitted, self.choose), fitted))
            bar.update()
        fitted = min(found, key=lambda pair: pair[0])[1]
        fitted = self.refine(fitted, rounds, bar)
        error, plain = self.error(fitted, self.held), self.error(self.plain, self.held)
        if not error < plain:
            warn_caller(
                f"fitting {self.steps} steps did not help on the paths held back ({error:.3g} against {plain:.3g}); the "
                "default is returned. More paths may help."
            )
            return self.plain
        fitted.error, fitted.default_error = error, plain
        return fitted

    def first_solver(self, grid: Angle, order: int) -> Fitted:
        """Return the solver to begin with, at the times of the teacher nearest to those of a grid.

        The factors of its updates are fitted by least squares, one update after another.
        """
        places = self.places(grid)
        times, model = self.fine[places], self.train.model
        pieces = Multistep(2, reference=self.reference).pieces(model)
        teacher = {t: pieces.enter(x) for t, x in zip(times.tolist(), self.train.states[places], strict=True)}
        student = Student(times, order, self.reference, teacher)
        run_plan(student, student.updates(model, times).steps(), model, self.train.states[0])
        return Fitted(times, torch.stack(student.found), order, self.denoise, self.reference)

    def places(self, grid: Angle) -> Tensor:
        """Return the indices of the teacher's times that are nearest to those of a grid."""
        return nearest_places(grid(self.sde, self.steps + (not self.denoise)), self.fine)

    def refine(self, fitted: Fitted, rounds: int, bar: Any) -> Fitted:
        """Fit all times and factors of a solver together, and return the best solver on the paths to choose by.

        The method is Levenberg–Marquardt on the ends of the paths, with derivatives by finite differences. States may leave the
        teacher's path if that brings the ends nearer; solvers of few steps gain most from this.
        """
        parameters = Parameters(self.sde, fitted, self.train.model)
        p, damping, idle = parameters.start, 1e-2, 0
        r, trail = self.residuals(parameters, p)
        best, least = fitted, self.error(fitted, self.choose)
        for _ in range(rounds):
            w = cut_weights(r.norm(dim=1), CUT)
            H, slope = normal_equations(w, self.jacobian(parameters, p, r, trail), r)
            for _ in range(TRIES):
                scale = H.diagonal() + 1e-12 * H.trace()
                q = p - torch.linalg.solve(H + damping * scale.diag(), slope).cpu()
                there, way = self.residuals(parameters, q)
                if (w * there.square().sum(1)).sum() < (w * r.square().sum(1)).sum():
                    break
                damping *= 4
            else:
                break
            p, r, trail, damping = q, there, way, max(damping / 8, 1e-7)
            error = self.error(parameters.sampler(p), self.choose)
            idle = 0 if error < 0.99 * least else idle + 1
            if error < least:
                best, least = parameters.sampler(p), error
            bar.update()
            if idle == PATIENCE:
                break
        return best

    def jacobian(self, parameters: Parameters, p: Tensor, r: Tensor, trail: list[Any]) -> Tensor:
        """Return the derivatives of the residuals `r` by `p`, ``(B, d, len(p))``.

        The run with a changed parameter begins in the step in which this first acts, from the states `trail` of the run with `p`.
        """
        h = torch.finfo(self.train.ends.dtype).eps ** 0.4
        columns = []
        for i, first in enumerate(parameters.acts):
            q = p.clone()
            q[i] += h
            columns.append((self.residuals(parameters, q, first, trail)[0] - r) / h)
        return torch.stack(columns, -1)

    def residuals(
        self, parameters: Parameters, p: Tensor, first: int = 0, trail: list[Any] | None = None
    ) -> tuple[Tensor, list[Any]]:
        """Return the `differences` of a run's ends from the teacher's, with the states of the run.

        The run may begin in step `first`, from the states `trail` of another run.
        """
        model, sampler, noise = self.train.model, parameters.sampler(p), self.train.noise
        x, state = (self.train.states[0], None) if trail is None else trail[first]
        drawn = torch.zeros_like if noise is None else noise(sampler.stops, first)
        way = run_plan(sampler, parameters.plan(sampler)[first:], model, x, drawn, state)
        end = way[-1][0]
        return self.differences(model.denoise(end, sampler.stops[-1]) if self.denoise else end, self.train.ends), way

    def error(self, sampler: Sampler, paths: TeacherPaths) -> float:
        """Return the `distance` of a sampler's ends from the teacher's."""
        return self.distance(
            arrive(paths.model, sampler, paths.states[0], self.denoise, paths.noise), paths.ends
        ).item()

    def differences(self, x: Tensor, ends: Tensor) -> Tensor:
        """Return the residuals of the fit, ``(B, d)``: the differences of ends, path by path."""
        return as_vectors(x - ends).double()

    def distance(self, x: Tensor, ends: Tensor) -> Tensor:
        """Return the root-mean-square distance of ends, in which large distances are cut."""
        return average_distances(as_vectors(x - ends).norm(dim=1))
