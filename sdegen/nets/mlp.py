"""A residual multilayer perceptron, modulated by the noise level in every block."""

from __future__ import annotations

__all__ = ["MLP", "ResidualLayer", "flatten_states", "reshape_output"]

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_count, check_kind
from ..conditions import Condition
from .conditioning import Conditioning
from .conditions import declare
from .embeddings import Sinusoidal
from .entries import zero


class ResidualLayer(nn.Module):
    """A residual layer modulated by features `e` of the noise level (FiLM): ``h + W_2 act((1 + scale(e)) N W_1 h + shift(e))``.

    E. Perez et al., *FiLM: visual reasoning with a general conditioning layer*, 2017, arXiv:1709.07871. `N` is batch
    normalisation or nothing. The layer starts as the identity. If `residual` is false, the result is ``act(W_2 …)`` without
    ``h +``.
    """

    def __init__(self, width: int, features: int, residual: bool, batch_norm: bool = False) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        self.modulate = nn.Linear(features, 2 * width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.act, self.residual = nn.SiLU(), residual
        if residual:
            zero(self.outer)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """Map ``(B, width)`` and features ``(B, features)`` to ``(B, width)``."""
        scale, shift = self.modulate(e).chunk(2, 1)
        out = self.outer(self.act(self.norm(self.inner(h)) * (1 + scale) + shift))
        return h + out if self.residual else self.act(out)


class MLP(OfTensors, nn.Module):
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
        Number of classes of the keyword condition ``label``, 0 for none: short for ``{"label": Label(classes, dropout=None)}``.
    embedding
        The embedding of the noise level; `Sinusoidal` by default.
    residual
        Whether each block is added to its input.
    conditions
        What the network is conditioned on, by name (`conditions.Condition`), such as ``{"theta": Vector(3)}``.
    batch_norm
        Whether every block normalises over the batch (S. Ioffe and C. Szegedy, *Batch normalization*, 2015, arXiv:1502.03167). A
        batch has all noise levels, so the moments are those of their mixture.

    Raises
    ------
    ValueError
        If a size is less than 1, `classes` is negative, or a condition has another grid or an impossible name.
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
        conditions: Mapping[str, Condition] | None = None,
        batch_norm: bool = False,
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
        self.residual, self.conditions, self.batch_norm = residual, conditions, batch_norm
        self.embedding = Sinusoidal() if embedding is None else embedding
        self.level = nn.Sequential(nn.Linear(self.embedding.dim, width), nn.SiLU())
        self.given = Conditioning(declare(conditions, classes), width, dims=1)
        self.first = nn.Linear(dim * (1 + self.given.extra), width)
        self.blocks = nn.ModuleList(ResidualLayer(width, width, residual, batch_norm) for _ in range(depth))
        self.act = nn.SiLU()
        self.last = nn.Linear(width, dim if out is None else out)
        zero(self.last)

    @property
    def declared(self) -> dict[str, Condition]:
        """The conditions that the network takes."""
        return self.given.kinds

    def forward(self, x: Tensor, level: Tensor, **cond: Any) -> Tensor:
        """Map states `x` and the noise level ``(B,)``, or ``(1,)`` where all rows share it, to the shape of `x`, ``(B,
        *)``.
        """
        states = flatten_states(x, self.dim)[:, None]
        e, states = self.given(self.level(self.embedding(level).to(x.dtype)), states, cond)
        h = self.first(states.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return reshape_output(self.last(self.act(h)), x)


def flatten_states(x: Tensor, dim: int) -> Tensor:
    """Flatten states to rows ``(B, dim)``, and return them.

    Raises
    ------
    ValueError
        If the states have another number of coordinates.
    """
    rows = x.reshape(len(x), -1)
    if rows.shape[1] != dim:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, the network takes dim = {dim} coordinates; construct it with dim={rows.shape[1]}, "
            f"or give data, states and model.moments of {dim}."
        )
    return rows


def reshape_output(out: Tensor, x: Tensor) -> Tensor:
    """Reshape flat outputs to the shape of `x`, and return them; outputs with m times as many coordinates get m times as many
    channels along dimension 1.
    """
    if x.ndim == 1 or out[0].numel() == math.prod(x.shape[1:]):
        return out.reshape(x.shape)
    return out.reshape(len(x), -1, *x.shape[2:])
