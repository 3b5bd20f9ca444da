"""Coordinates of vectors whose parts have domains of their own: `Columns`."""

from __future__ import annotations

__all__ = ["Columns"]

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from ..arguments import check_arguments
from ..checks import check_count
from .coordinates import Coordinates


class Columns(Coordinates):
    """Coordinates of vectors ``(B, d)`` that take each part of a vector, a few numbers side by side, through a map of its own.

    Parameters
    ----------
    widths
        How many numbers each part has.
    maps
        The map of each part; None leaves its numbers as they are.

    Raises
    ------
    ValueError
        If there are no parts, or not as many maps as widths; when called, if vectors have another length.

    Examples
    --------
    >>> import torch
    >>> from sdegen.laws.coordinates import Log
    >>> Columns([1, 1], [Log(), None])(torch.tensor([[1.0, -2.0]])).tolist()
    [[0.0, -2.0]]
    """

    @check_arguments
    def __init__(self, widths: Sequence[int], maps: Sequence[Coordinates | None]) -> None:
        if len(widths) != len(maps) or not widths:
            raise ValueError(f"{len(widths)} widths and {len(maps)} maps; give as many of both, one part at least.")
        self.widths, self.maps = tuple(check_count("a width", width) for width in widths), tuple(maps)
        domains = [constraints.real if part is None else part.domain for part in maps]
        vectors = [domain if domain.event_dim else constraints.independent(domain, 1) for domain in domains]
        bounded = any(part is not None for part in maps)
        self.domain = constraints.cat(vectors, dim=-1, lengths=list(widths)) if bounded else constraints.real
        self.elementwise = all(part is None or part.elementwise for part in maps)
        self.offset = max(0.0 if part is None else part.offset for part in maps)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([v if part is None else part(v) for part, v in self._split(x)], 1)

    def inverse(self, u: Tensor) -> Tensor:
        return torch.cat([v if part is None else part.inverse(v) for part, v in self._split(u)], 1)

    def log_det(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for part, v in self._split(x):
            if part is not None:
                total = total + part.log_det(v)
        return total

    def slope(self, x: Tensor) -> Tensor:
        """Return the slopes of the parts side by side."""
        return torch.cat([torch.ones_like(v) if part is None else part.slope(v) for part, v in self._split(x)], 1)

    def bend(self, x: Tensor) -> Tensor:
        """Return the bends of the parts side by side."""
        return torch.cat([torch.zeros_like(v) if part is None else part.bend(v) for part, v in self._split(x)], 1)

    def _split(self, x: Tensor) -> list[tuple[Coordinates | None, Tensor]]:
        """Return each part's map, and its numbers.

        Raises
        ------
        ValueError
            If vectors have another length.
        """
        if x.ndim != 2 or x.shape[1] != sum(self.widths):
            raise ValueError(f"x has shape {tuple(x.shape)}; the parts want vectors (B, {sum(self.widths)}).")
        return [(part, v) for part, v in zip(self.maps, x.split(self.widths, 1), strict=True)]
