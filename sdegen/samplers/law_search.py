"""The search for a fitted solver with noise, whose samples are to have the law of a fine run's, whatever their paths.

The student runs on the fine run's Brownian paths, coarsened to its own steps, so that two sets of samples differ by little but
their laws. Their distance is the sliced Wasserstein distance: along each of many directions the samples of both are sorted, and
compared rank by rank. A distance of paths would be least for a solver that leaves out what it cannot know, the noise within a
step, and its samples would be too narrow.
"""

from __future__ import annotations

__all__ = ["LawSearch"]

from typing import Any

import torch
from torch import Tensor

from ..laws.vectors import as_vectors
from ..models.score import ScoreModel
from ..processes.grids import Angle
from .base import Sampler
from .coarsened import CoarsenedNoise
from .fitted import Fitted, travel
from .knobs import Knobs
from .search import Search, TeacherPaths

LINES = 32  # directions that samples are compared along


class LawSearch(Search):
    """The search for a fitted solver of a reversed process at a noise level."""

    def draw(
        self, model: ScoreModel, teacher: Sampler, x_T: Tensor, which: Tensor, cond: dict[str, Any]
    ) -> TeacherPaths:
        """Run the teacher with noise, and return its ends, with the noise."""
        bound, x = self.bind(model, x_T, which, cond), x_T[which]
        generator = torch.Generator().manual_seed(1 + int(which[0]) + len(x_T) * self.seed)
        noise = CoarsenedNoise(self.fine, self.brownian_clock, x, generator)
        end = travel(teacher, teacher.plan(bound, self.fine), bound, x, noise=noise(self.fine))[-1][0]
        return TeacherPaths(bound, x[None], bound.denoise(end, self.fine[-1]) if self.denoise else end, noise)

    def brownian_clock(self, t: Tensor) -> Tensor:
        """Return the clock in which the noise of the reference is Brownian, ``(c + tan² phi)^(−eta²)``, `c` its mean variance."""
        c = self.moments.variance().clamp_min(1e-12)
        return (c + self.sde.angle_at(t).tan().square()) ** (-(self.eta**2))

    def by_moves(self, grid: Angle, order: int) -> Fitted:
        """Return the solver on a grid with all factors 1."""
        times = self.fine[self.snap(grid)]
        return Fitted(
            times,
            torch.ones(len(times) - 1, order + 1, dtype=torch.float64),
            order,
            self.denoise,
            self.reference,
            self.eta,
            torch.ones(len(times) - 1, dtype=torch.float64),
        )

    def rest(self, knobs: Knobs, p: Tensor, first: int = 0, trail: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Return the differences of sorted projections, ``(ranks, directions)``, with the run's states."""
        model, sampler = self.train.model, knobs.sampler(p)
        x, state = (self.train.states[0], None) if trail is None else trail[first]
        noise = self.noise_of(self.train, sampler.stops, first)
        way = travel(sampler, knobs.plan(sampler)[first:], model, x, state, noise)
        x = way[-1][0]
        x = model.denoise(x, sampler.stops[-1]) if self.denoise else x
        return self.apart(x, self.train.ends), way

    def error(self, sampler: Sampler, paths: TeacherPaths) -> float:
        """Return the sliced Wasserstein distance of samples from the teacher's."""
        times, model = sampler.times(self.sde, self.denoise), paths.model
        noise = self.noise_of(paths, times)
        x = travel(sampler, sampler.plan(model, times), model, paths.states[0], noise=noise)[-1][0]
        x = model.denoise(x, times[-1]) if self.denoise else x
        return self.apart(x, paths.ends).square().sum(1).mean().sqrt().item()

    def noise_of(self, paths: TeacherPaths, times: Tensor, first: int = 0) -> Any:
        """Return the noise of a run on the paths."""
        assert paths.noise is not None  # `draw` sets it
        return paths.noise(times, first)

    def apart(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the differences of sorted projections on unit directions, over the root of how many there are."""
        x, y = (as_vectors(v).double() for v in (x, y))
        lines = torch.randn(x.shape[1], LINES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(x)
        lines = lines / lines.norm(dim=0) / LINES**0.5
        return (x @ lines).sort(0).values - (y @ lines).sort(0).values
