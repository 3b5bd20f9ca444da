"""A residual multilayer perceptron, modulated by the noise level in every block."""

from __future__ import annotations

__all__ = ["MLP", "ResidualLayer", "add_label", "flatten_states", "reshape_output"]

import math
from typing import Any

from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count, check_kind
from .embeddings import Label, Sinusoidal


class ResidualLayer(nn.Module):
    """A residual layer modulated by features `e` of the noise level (FiLM): ``h + W_2 act((1 + scale(e)) W_1 h + shift(e))``.

    E. Perez et al., *FiLM: visual reasoning with a general conditioning layer*, 2017, arXiv:1709.07871. Starts as the
    identity.
    """

    def __init__(self, width: int, features: int, residual: bool) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.modulate = nn.Linear(features, 2 * width)
        self.act, self.residual = nn.SiLU(), residual
        if residual:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Map ``(B, width)`` and features ``(B, features)`` to ``(B, width)``."""
        scale, shift = self.modulate(e).chunk(2, 1)
        out = self.outer(self.act(self.inner(h) * (1 + scale) + shift))
        return h + out if self.residual else self.act(out)


class MLP(nn.Module):
    """A residual multilayer perceptron on flattened states ``(B, *)`` with `dim` coordinates, modulated by the noise level.

    The noise level modulates every block (E. Perez et al., *FiLM: visual reasoning with a general conditioning layer*,
    2017, arXiv:1709.07871).

    Parameters
    ----------
    dim
        Coordinates of a state.
    width, depth
        Hidden units, and number of two-layer blocks.
    out
        Coordinates returned, `dim` by default; twice `dim` for learned variances.
    classes
        Number of classes of the keyword condition ``label`` (see `embeddings.Label`), 0 for none.
    embedding
        The embedding of the noise level; `Sinusoidal` by default.
    residual
        Add each block to its input.

    Raises
    ------
    ValueError
        If a size is less than 1, or `classes` is negative.
    """

    @check_arguments
    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 3,
        out: int | None = None,
        classes: int = 0,
        embedding: Any = None,
        residual: bool = True,
    ) -> None:
        super().__init__()
        if embedding is not None:
            check_kind("embedding", embedding, nn.Module, "an embedding of levels, such as nets.Sinusoidal()")
        if out is not None:
            check_count("out", out)
        if dim < 1 or width < 1 or depth < 1 or classes < 0:
            raise ValueError(
                f"dim = {dim}, width = {width}, depth = {depth}, classes = {classes}: give positive sizes."
            )
        self.dim, self.width, self.depth, self.out, self.classes = dim, width, depth, out, classes
        self.residual = residual
        self.embedding = Sinusoidal() if embedding is None else embedding
        self.level = nn.Sequential(nn.Linear(self.embedding.dim, width), nn.SiLU())
        self.label = Label(classes, width) if classes else None
        self.first = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(ResidualLayer(width, width, residual) for _ in range(depth))
        self.act = nn.SiLU()
        self.last = nn.Linear(width, dim if out is None else out)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """Map states `x` and the noise level ``(B,)``, or ``(1,)`` where all rows share it, to the shape of `x`, ``(B,
        *)``.
        """
        e = self.level(self.embedding(level).to(x.dtype))
        if self.label is not None or label is not None:
            e = add_label(self.label, e, label, len(x))
        h = self.first(flatten_states(x, self.dim))
        for block in self.blocks:
            h = block(h, e)
        return reshape_output(self.last(self.act(h)), x)


def flatten_states(x: Tensor, dim: int) -> Tensor:
    """Flatten states to rows ``(B, dim)``, and return them.

    Raises
    ------
    ValueError
        If they have another number of coordinates.
    """
    rows = x.reshape(len(x), -1)
    if rows.shape[1] != dim:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, the network takes dim = {dim} coordinates; construct it with dim={rows.shape[1]}."
        )
    return rows


def add_label(table: Label | None, e: Tensor, label: Tensor | None, n: int) -> Tensor:
    """Add the features of `n` labels to features, and return the sum.

    Raises
    ------
    ValueError
        If a label is given to a network without classes.
    """
    if table is None:
        if label is not None:
            raise ValueError("a label was given to a network without classes; construct it with classes=N.")
        return e
    return e + table(label, n)


def reshape_output(out: Tensor, x: Tensor) -> Tensor:
    """Reshape flat outputs to the shape of `x`; outputs with m times as many coordinates get m times as many channels
    along dimension 1.
    """
    if x.ndim == 1 or out[0].numel() == math.prod(x.shape[1:]):
        return out.reshape(x.shape)
    return out.reshape(len(x), -1, *x.shape[2:])
