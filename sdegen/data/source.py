"""Data: toy laws whose density is known, and batches of anything a user brings.

A toy law is a `GaussianMixture`, so it samples, and knows its density and score. Nothing here is scaled or shuffled
behind the user's back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .distributions import GaussianMixture, Moments, moments_of


def gaussian_ring(modes: int = 8, radius: float = 4.0, std: float = 0.5) -> GaussianMixture:
    """Equal isotropic Gaussians at equal angles on a circle, in two dimensions.

    Parameters
    ----------
    modes, radius, std
        Their number, the circle's radius, and the standard deviation of each.
    """
    if modes < 1 or not radius >= 0 or not std > 0:
        raise ValueError(f"modes = {modes}, radius = {radius}, std = {std}: expected modes >= 1 and std > 0.")
    angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
    means = radius * torch.stack([angle.cos(), angle.sin()], 1)
    weights = torch.full((modes,), 1 / modes, dtype=torch.float64)
    return GaussianMixture(weights, means, torch.full((modes,), std**2, dtype=torch.float64))


def gaussian_grid(side: int = 5, spacing: float = 2.0, std: float = 0.2) -> GaussianMixture:
    """``side²`` equal isotropic Gaussians on a square lattice centred at 0, in two dimensions."""
    if side < 1 or not std > 0:
        raise ValueError(f"side = {side}, std = {std}: expected side >= 1 and std > 0.")
    places = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
    means = torch.cartesian_prod(places, places)
    weights = torch.full((side**2,), 1 / side**2, dtype=torch.float64)
    return GaussianMixture(weights, means, torch.full((side**2,), std**2, dtype=torch.float64))


def random_mixture(dim: int, modes: int = 16, seed: int = 0) -> GaussianMixture:
    """A mixture in `dim` dimensions: weights from Dirichlet(1), means from N(0, 4), per-axis std uniform in 0.1–0.5."""
    if dim < 1 or modes < 1:
        raise ValueError(f"dim = {dim}, modes = {modes}: both must be at least 1.")
    generator = torch.Generator().manual_seed(seed)
    exponential = -torch.rand(modes, dtype=torch.float64, generator=generator).log()  # normalised: Dirichlet(1)
    means = 2 * torch.randn(modes, dim, dtype=torch.float64, generator=generator)
    stds = 0.1 + 0.4 * torch.rand(modes, dim, dtype=torch.float64, generator=generator)
    return GaussianMixture(exponential / exponential.sum(), means, stds.square())


class Batch(NamedTuple):
    """Data ``(B, *)`` and the keyword conditions that go with it."""

    x: Tensor
    cond: dict[str, Tensor]


class Source:
    """Endless batches of anything: a law, an array, ``(x, cond)``, or a `Dataset`.

    Parameters
    ----------
    data
        Anything with ``sample(n, generator)``; a tensor ``(N, *)``; a pair of it and its conditions, a dict of tensors
        ``(N, ...)`` or one tensor, which becomes the keyword ``label``; or a map-style `Dataset` of such rows.
    dtype, device
        What the batches are given to: data of another floating dtype or device is refused, a law is converted.

    Raises
    ------
    TypeError
        If data is not floating point, or of no known kind.
    ValueError
        If it is empty, not finite, of another dtype or device, or conditions do not match it in number.
    """

    def __init__(self, data: Any, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.law: Any = data if hasattr(data, "sample") else None
        self.x: Tensor | None = None
        self.cond: dict[str, Tensor] = {}
        if self.law is not None:
            return
        if isinstance(data, Dataset):
            data = _collect(data)
        x, cond = data if isinstance(data, (tuple, list)) and len(data) == 2 else (data, {})
        if not isinstance(x, Tensor):
            raise TypeError(
                f"data is a {type(data).__name__}; give a tensor, (tensor, conditions), a Dataset, or anything with sample(n)."
            )
        self.cond = cond if isinstance(cond, dict) else {"label": cond}
        if not x.is_floating_point():
            raise TypeError(
                f"data has dtype {x.dtype}; convert and scale it to floating point first, as in x / 127.5 - 1."
            )
        if x.ndim == 0:
            raise ValueError("data has shape (); give a tensor (N, *), one row a datum.")
        if len(x) == 0:
            raise ValueError("data is empty; give at least one row.")
        if not x.isfinite().all():
            bad = int((~x.isfinite()).reshape(len(x), -1).any(1).nonzero()[0, 0])
            raise ValueError(f"data holds NaN or infinite values, first in row {bad}; remove or replace them.")
        if x.dtype != dtype or x.device != device:
            raise ValueError(
                f"data is {x.dtype} on {x.device}, the model {dtype} on {device}; move one to the other: "
                "data.to(dtype=..., device=...) or model.to(...)."
            )
        for name, value in self.cond.items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"condition {name!r} is a {type(value).__name__}; give a tensor with one row per datum."
                )
            if value.ndim == 0:
                raise ValueError(f"condition {name!r} has shape (); give one row per datum: value.expand({len(x)}).")
            if len(value) != len(x):
                raise ValueError(f"condition {name!r} has {len(value)} rows for {len(x)} rows of data; give one each.")
        self.x = x

    def moments(self, generator: torch.Generator) -> Moments:
        """Mean and covariance: the law's own, or those of the data; 65,536 draws of a law that gives none."""
        if self.x is not None:
            return moments_of(self.x)
        if hasattr(self.law, "moments"):
            return self.law.moments()
        return moments_of(self.law.sample(65_536, generator))

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Batches without end: fresh draws of a law; every row of a data set once per pass, in random order."""
        if self.x is None:
            while True:
                x = self.law.sample(size, generator)
                yield Batch(x.to(self.device, self.dtype), {})
        n = len(self.x)
        order = torch.empty(0, dtype=torch.long)
        while True:
            while len(order) < size:
                order = torch.cat([order, torch.randperm(n, generator=generator)])
            rows, order = order[:size].to(self.x.device), order[size:]
            yield Batch(self.x[rows], {name: value[rows.to(value.device)] for name, value in self.cond.items()})


def _collect(dataset: Dataset) -> Any:
    """A data set of rows, or of (row, label) pairs, as tensors."""
    rows = [dataset[i] for i in range(len(dataset))]  # type: ignore[arg-type]
    if not rows:
        raise ValueError("data is an empty Dataset; give at least one row.")
    if isinstance(rows[0], (tuple, list)):
        columns = [torch.stack([torch.as_tensor(v) for v in column]) for column in zip(*rows, strict=True)]
        if len(columns) > 2:
            raise TypeError(
                f"the Dataset yields {len(columns)} values a row; expected a datum, or a datum and a label."
            )
        return columns[0] if len(columns) == 1 else tuple(columns)
    return torch.stack([torch.as_tensor(row) for row in rows])
