"""A multilayer perceptron whose weights depend on the noise level through another network (a hypernetwork)."""

from __future__ import annotations

__all__ = ["HyperMLP"]

from torch import Tensor, nn

from ..arguments import check_arguments
from .embeddings import Sinusoidal
from .mlp import flatten_states, reshape_output


class HyperMLP(nn.Module):
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

    Raises
    ------
    ValueError
        If a size is less than 1.
    """

    @check_arguments
    def __init__(self, dim: int, width: int = 96, depth: int = 4, rank: int = 4) -> None:
        super().__init__()
        if min(dim, width, depth, rank) < 1:
            raise ValueError(f"dim = {dim}, width = {width}, depth = {depth}, rank = {rank}: give positive sizes.")
        self.dim, self.width, self.depth, self.rank = dim, width, depth, rank
        self.embedding = Sinusoidal()
        self.hyper = nn.Sequential(
            nn.Linear(self.embedding.dim, width), nn.SiLU(), nn.Linear(width, depth * (rank + 2 * width))
        )
        self.first = nn.Linear(dim, width)
        self.layers = nn.ModuleList(nn.Linear(width, width * rank, bias=False) for _ in range(depth))
        self.act = nn.SiLU()
        self.last = nn.Linear(width, dim)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Map states `x` and the noise level ``(B,)`` or ``(1,)`` to the shape of `x`, ``(B, *)``."""
        written = self.hyper(self.embedding(level).to(x.dtype)).reshape(len(level), self.depth, -1)
        mix, scale, bias = written.split([self.rank, self.width, self.width], 2)
        h = self.first(flatten_states(x, self.dim))
        for i, layer in enumerate(self.layers):
            each = layer(self.act(h)).reshape(len(x), self.rank, self.width)
            moved = ((1 / self.rank + mix[:, i])[:, :, None] * each).sum(1)
            h = h + (1 + scale[:, i]) * moved + bias[:, i]
        return reshape_output(self.last(self.act(h)), x)
