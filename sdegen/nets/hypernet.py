"""A multilayer perceptron whose weights depend on the noise level through another network (a hypernetwork)."""

from __future__ import annotations

__all__ = ["HyperMLP"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..conditions import Condition
from .conditioning import Conditioning
from .conditions import declare
from .embeddings import Sinusoidal
from .entries import zero
from .mlp import flatten_states, reshape_output


class HyperMLP(OfTensors, nn.Module):
    """A residual perceptron whose hidden matrices are mixtures of learned matrices, with coefficients that depend on the
    noise level.

    ``W(u) = Σ_j a_j(u) W_j`` with mixing weights `a` from a network on the sinusoidal embedding of the level: a
    hypernetwork of rank `rank` (D. Ha, A. Dai, Q. Le, *HyperNetworks*, 2016, arXiv:1609.09106).

    Parameters
    ----------
    dim
        Coordinates of a state.
    width, depth
        Hidden units, and number of hidden layers.
    rank
        Matrices mixed in each layer.
    conditions
        What the network is conditioned on, by name (`conditions.Condition`): the matrices depend on it as on the noise level.

    Raises
    ------
    ValueError
        If a size is less than 1, or a condition has another grid or an impossible name.
    """

    @check_arguments
    def __init__(
        self,
        dim: int,
        width: int = 96,
        depth: int = 4,
        rank: int = 4,
        conditions: Mapping[str, Condition] | None = None,
    ) -> None:
        super().__init__()
        if min(dim, width, depth, rank) < 1:
            raise ValueError(f"dim = {dim}, width = {width}, depth = {depth}, rank = {rank}: give positive sizes.")
        self.dim, self.width, self.depth, self.rank, self.conditions = dim, width, depth, rank, conditions
        self.embedding = Sinusoidal()
        self.hyper = nn.Sequential(
            nn.Linear(self.embedding.dim, width), nn.SiLU(), nn.Linear(width, depth * (rank + 2 * width))
        )
        self.given = Conditioning(declare(conditions), width, dims=1)
        self.first = nn.Linear(dim * (1 + self.given.extra), width)
        self.layers = nn.ModuleList(nn.Linear(width, width * rank, bias=False) for _ in range(depth))
        self.act = nn.SiLU()
        self.last = nn.Linear(width, dim)
        zero(self.last)

    @property
    def declared(self) -> dict[str, Condition]:
        """The conditions that the network takes."""
        return self.given.kinds

    def forward(self, x: Tensor, level: Tensor, **cond: Any) -> Tensor:
        """Map states `x` and the noise level ``(B,)`` or ``(1,)`` to the shape of `x`, ``(B, *)``."""
        states = flatten_states(x, self.dim)[:, None]
        e, states = self.given(self.hyper[0](self.embedding(level).to(x.dtype)), states, cond)
        per_layer = self.hyper[1:](e).reshape(len(e), self.depth, -1)
        mix, scale, bias = per_layer.split([self.rank, self.width, self.width], 2)
        h = self.first(states.flatten(1))
        for i, layer in enumerate(self.layers):
            # W_j h for every j, and their sum W(u) h: no row has a matrix of its own.
            each = layer(self.act(h)).reshape(len(x), self.rank, self.width)
            mixed = ((1 / self.rank + mix[:, i])[:, :, None] * each).sum(1)
            h = h + (1 + scale[:, i]) * mixed + bias[:, i]
        return reshape_output(self.last(self.act(h)), x)
