"""What `FokkerPlanck` needs of the law of the data: log-densities on a grid, the coordinates that depend on each other, and the
size of a grid.
"""

from __future__ import annotations

__all__ = ["check_mass", "correlated", "in_units_of", "log_densities", "sides"]

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..laws.cells import Axis, Cells
from ..laws.mixtures import GaussianMixture
from ..laws.vectors import as_vectors
from ..processes.base import SDE

NUMBERS = 8192  # data that are drawn, whose range the first grid covers
BEYOND = 0.3  # of that range: a margin on each side
UNSEEN = -690.0  # the log-density where the density is 0: about that of the smallest float64
COARSE = 0.01  # the largest error of the mass of the data on the grid


def in_units_of(law: Any, sde: SDE) -> Any:
    """Return the law in the units of the process.

    Raises
    ------
    ValueError
        If the process has units, and the law has no ``in_units``.
    """
    if sde.units.plain:
        return law
    if not hasattr(law, "in_units"):
        raise ValueError(
            f"{type(sde).__name__} has data in units, and {type(law).__name__} no in_units(units); give a GaussianMixture, or a "
            "process in plain units."
        )
    return law.in_units(sde.units)


def correlated(law: Any, d: int) -> Tensor:
    """Return which pairs of coordinates depend on each other in a component of the law, ``(d, d)``.

    In a law that is not a mixture of Gaussians all pairs are taken to.
    """
    if not isinstance(law, GaussianMixture):
        return torch.ones(d, d, dtype=torch.bool)
    return (law._full() != 0).any(0)


def log_densities(law: Any, group: list[int], shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """Return the log-density of a group of coordinates as a function of these: ``(N, K)`` for the `K` components of a mixture.

    If the group is all coordinates, the function is that of the whole law, and ``K = 1``.
    """

    def whole(x: Tensor) -> Tensor:
        return law.log_prob(x.reshape(-1, *shape))[:, None].double().nan_to_num(neginf=UNSEEN)

    if len(group) == shape.numel():
        return whole
    means = law.means.reshape(len(law.weights), -1)[:, group]
    covariances = law._full()[:, group][:, :, group]
    one = torch.ones(1, dtype=torch.float64)
    parts = [GaussianMixture(one, m[None], C[None]) for m, C in zip(means, covariances, strict=True)]
    return lambda x: torch.stack([part.log_prob(x) for part in parts], 1)


def sides(sde: SDE, law: Any, group: list[int]) -> list[Axis]:
    """Return the sides of a grid for a group of coordinates: the ends of the domain, or if there are none, the range of the data
    with a margin.
    """
    drawn = law.sample(NUMBERS, torch.Generator().manual_seed(0)).double()
    flat, shape = as_vectors(drawn), drawn[:1].shape
    lowest, highest = (
        torch.as_tensor(getattr(sde.domain, name, none), dtype=torch.float64).expand(shape)
        for name, none in (("lower_bound", -torch.inf), ("upper_bound", torch.inf))
    )
    closed = bool((lowest.isfinite() & highest.isfinite()).all()) and torch.allclose(sde.enter(highest), lowest)
    axes = []
    for i in group:
        low, high, x = lowest.flatten()[i].item(), highest.flatten()[i].item(), flat[:, i]
        more, walls = BEYOND * (x.max() - x.min()).item(), (low > -math.inf, high < math.inf)
        axes.append(
            Axis(low if walls[0] else x.min().item() - more, high if walls[1] else x.max().item() + more, walls, closed)
        )
    return axes


def check_mass(logs: Tensor, cells: Cells) -> None:
    """Refuse data that the grid does not resolve, or that lie outside of the domain."""
    mass = logs.exp().sum(0) * cells.volume
    worst = mass[(mass - 1).abs().argmax()].item()
    if not abs(worst - 1) <= COARSE:
        raise ValueError(
            f"the density of the data has the mass {worst:.4g} on the grid of {cells.n} cells a side: its detail is finer than a "
            "cell, or some of it lies outside of the domain; give more cells, or data inside."
        )
