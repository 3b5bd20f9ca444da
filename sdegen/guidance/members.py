"""Score models that combine several models of one process (`Members`), the base of products and mixtures, and evaluations of the
members in batches.
"""

from __future__ import annotations

__all__ = ["Members", "MembersInBatches", "Powers"]

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..conditions import Conditions
from ..laws.mixtures import GaussianMixture, Moments
from ..models.densities import ask_log_density
from ..models.score import ScoreModel
from ..processes.linear import gaussian
from .base import Guided, check_same_process, require_clean_means

Powers = dict[ScoreModel, float] | Iterable[tuple[ScoreModel, float]]


class Members(Guided):
    """The base class of score models that combine the predictions of several models of one process, which get all conditions.

    Parameters
    ----------
    models
        The score models, one at least.

    Raises
    ------
    TypeError
        If a process is not linear.
    ValueError
        If processes differ.
    """

    def __init__(self, models: Sequence[ScoreModel]) -> None:
        super().__init__(models[0])
        require_clean_means(self)
        self.others = tuple(models[1:])
        self._modules_of_others = nn.ModuleList(m for m in self.others if isinstance(m, nn.Module))
        for other in self.others:
            check_same_process(self.model, other, "a member")

    @property
    def members(self) -> tuple[ScoreModel, ...]:
        """The score models."""
        return self.model, *self.others

    @property
    def conditions(self) -> Conditions:
        """The conditions that all members take, since all get them."""
        taken = self.model.conditions
        for other in self.others:
            taken = taken.both(other.conditions)
        return taken

    def with_rows(self, cond: dict[str, Any], x: Tensor, n: int) -> list[str]:
        """Return the names of the conditions that have a row for each of `n` samples for any of the members."""
        return sorted({name for model in self.members for name in model.with_rows(cond, x, n)})

    def part(self, rows: slice | Tensor, x: Tensor, n: int) -> ScoreModel:
        """Return the combination of the members for some of the `n` samples of a run."""
        first, *others = (model.part(rows, x, n) for model in self.members)
        if first is self.model and all(a is b for a, b in zip(others, self.others, strict=True)):
            return self
        return self._around({"model": first, "others": tuple(others)})

    def check_run(self, /, **cond: Any) -> None:
        """Refuse a run that any member refuses, since all get the conditions."""
        for model in self.members:
            model.check_run(**cond)

    def examine(self, x: Tensor, /, **cond: Any) -> None:
        """Check nothing: the samples are not of a member's law, and its checks do not hold for them."""

    def member_moments(self, /, **cond: Any) -> list[Moments]:
        """Return the moments of each member under conditions, or without conditions if the former are not known or differ between
        samples.
        """
        found = []
        for model in self.members:
            known = model.conditional_moments(**cond)
            alike = known is not None and known.mean.shape == known.event_shape
            found.append(known if known is not None and alike else model.require_moments())
        return found

    def member_gaussians(self, /, **cond: Any) -> list[GaussianMixture]:
        """Return the Gaussians of the `member_moments`, in the units of the process."""
        return [gaussian(moments.in_units(self.sde.units)) for moments in self.member_moments(**cond)]

    def member_log_densities(self, x: Tensor, t: float, /, **cond: Any) -> Tensor:
        """Return the logarithms of the members' densities of states at one time, ``(m, B)`` float64."""
        return torch.stack([ask_log_density(model, x, t, **cond) for model in self.members])

    def member_estimates(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return clean states and noises of all members, ``(m, B, *)`` each, by one evaluation of each."""
        both = [model._estimated(x, t, **cond) for model in self.members]
        x_0, eps = (torch.stack(values) for values in zip(*both, strict=True))
        return x_0, eps


class MembersInBatches(NamedTuple):
    """The members of a score model, asked about all particles under conditions, at most `batch` of them at a time."""

    model: Members
    batch: int | None
    cond: dict[str, Any]

    def estimates(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the members' clean states and noises, ``(m, n, *)`` each."""
        found = zip(*(self.model.member_estimates(part, t, **self.cond) for part in self._split(x)), strict=True)
        x_0, eps = (torch.cat(values, 1) for values in found)
        return x_0, eps

    def log_densities(self, x: Tensor, t: float) -> Tensor:
        """Return the logarithms of the members' densities, ``(m, n)`` float64 on the CPU."""
        return torch.cat([self.model.member_log_densities(part, t, **self.cond).cpu() for part in self._split(x)], 1)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.split(self.batch or len(x))
