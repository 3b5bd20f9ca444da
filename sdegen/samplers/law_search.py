"""The search for a fitted solver with noise, whose samples are to have the law of a fine run's samples, whatever their paths.

The student runs on the fine run's Brownian paths, coarsened to its own steps, so that the two sets of samples differ by little
but their laws. Their distance is the sliced Wasserstein distance: along each of many directions both sets are sorted and compared
rank by rank. A distance of paths would be least for a solver that leaves out what it cannot know, the noise within a step;
samples of that solver would be too narrow.
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
from .fitted import Fitted
from .search import Search, TeacherPaths
from .steps import run_plan

LINES = 32  # directions that samples are compared along


class LawSearch(Search):
    """The search for a fitted solver of a reversed process at a noise level."""

    def draw(
        self, model: ScoreModel, teacher: Sampler, x_T: Tensor, which: Tensor, cond: dict[str, Any]
    ) -> TeacherPaths:
        """Run the teacher with noise, and return the ends of its paths, with the source of the noise."""
        bound, x = self.bind(model, x_T, which, cond), x_T[which]
        generator = torch.Generator().manual_seed(1 + int(which[0]) + len(x_T) * self.seed)
        noise = CoarsenedNoise(self.fine, self.brownian_clock, x, generator)
        end = run_plan(teacher, teacher.plan(bound, self.fine), bound, x, noise(self.fine))[-1][0]
        return TeacherPaths(bound, x[None], bound.denoise(end, self.fine[-1]) if self.denoise else end, noise)

    def brownian_clock(self, t: Tensor) -> Tensor:
        """Return ``(c + tan² phi)^(−eta²)``, the clock in which the noise of a reference of mean variance `c` is Brownian."""
        c = self.moments.variance().clamp_min(1e-12)
        return (c + self.sde.angle_at(t).tan().square()) ** (-(self.eta**2))

    def first_solver(self, grid: Angle, order: int) -> Fitted:
        """Return the solver to begin with, at the times of the teacher nearest to those of a grid, with all factors 1."""
        times = self.fine[self.places(grid)]
        return Fitted(
            times,
            torch.ones(len(times) - 1, order + 1, dtype=torch.float64),
            order,
            self.denoise,
            self.reference,
            self.eta,
            torch.ones(len(times) - 1, dtype=torch.float64),
        )

    def differences(self, x: Tensor, ends: Tensor) -> Tensor:
        """Return the differences of sorted projections on random unit directions, divided by the root of the number of
        directions: ``(ranks, directions)``.
        """
        x, ends = (as_vectors(v).double() for v in (x, ends))
        lines = torch.randn(x.shape[1], LINES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(x)
        lines = lines / lines.norm(dim=0) / LINES**0.5
        return (x @ lines).sort(0).values - (ends @ lines).sort(0).values

    def distance(self, x: Tensor, ends: Tensor) -> Tensor:
        """Return the sliced Wasserstein distance of two sets of ends."""
        return self.differences(x, ends).square().sum(1).mean().sqrt()
