"""Residual flows: invertible residual blocks ``z = x + g(x)`` with a contraction g, and an unbiased estimate of the
log-determinant.
"""

from __future__ import annotations

__all__ = ["Blocks", "Contraction", "ResidualBlock", "ResidualFlow", "draw_length", "lipswish", "probability_of_term"]

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_arguments
from ..checks import check_count
from ..data.parts import in_parts
from ..laws.draws import rademacher_like
from ..laws.vectors import sum_rows
from ..precision import widened
from .flow import AffineMap, Bijection, Composition, NormalizingFlow, Squeeze

KEEP = 0.5  # the probability that the series has one more term
CERTAIN = 2  # how many terms the series always has


class Contraction(nn.Module):
    """A linear or convolutional layer whose weights are scaled down until its spectral norm is at most `bound` (spectral
    normalisation).

    The weights are ``W min(1, bound / σ(W))``, with `σ` the largest singular value of the layer as an operator on its inputs. It
    is found by power iteration from where the last one ended: T. Miyato et al., *Spectral normalization for generative
    adversarial networks*, 2018, arXiv:1802.05957; for convolutions as in H. Gouk et al., *Regularisation of neural networks by
    enforcing Lipschitz continuity*, 2018, arXiv:1804.04368.

    Parameters
    ----------
    layer
        ``nn.Linear``, or ``nn.Conv2d`` that keeps the size of its images.
    shape
        The shape of an input.
    bound
        The largest spectral norm.
    """

    u: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, shape: Sequence[int], bound: float) -> None:
        super().__init__()
        self.layer, self.bound = layer, bound
        self.register_buffer("u", torch.randn(1, *shape, dtype=layer.weight.dtype))
        self.settle(100)

    def _map(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``W x``, the layer without its bias."""
        return F.conv2d(x, weight, padding="same") if weight.ndim == 4 else F.linear(x, weight)

    def _adjoint(self, y: Tensor, weight: Tensor) -> Tensor:
        """Return ``Wᵀ y``."""
        if weight.ndim == 4:
            return F.conv_transpose2d(y, weight, padding=weight.shape[-1] // 2)
        return F.linear(y, weight.T)

    @torch.no_grad()
    def settle(self, iterations: int) -> None:
        """Take more steps of the power iteration that estimates the spectral norm."""
        weight = self.layer.weight
        for _ in range(iterations):
            u = self._adjoint(self._map(self.u, weight), weight)
            self.u.copy_(u / u.norm().clamp_min(1e-12))

    @torch.no_grad()
    def converge(self) -> None:
        """Take steps of the power iteration until the spectral norm does not change, as is needed after a change of the
        weights.
        """
        last, small = self.norm(), 4 * torch.finfo(self.u.dtype).eps
        # A part of every direction, without a draw: an iteration that begins orthogonal to the largest direction never finds it.
        waves = torch.sin(torch.arange(self.u.numel()).to(self.u).reshape(self.u.shape) + 1)
        self.u.add_(0.1 * self.u.abs().mean() * waves)
        for _ in range(100):
            self.settle(50)
            now = self.norm()
            if (now - last).abs() <= small * now:
                return
            last = now

    def norm(self) -> Tensor:
        """Return the spectral norm ``σ(W)``, a lower bound from the present vector of the power iteration, with its
        derivative.
        """
        return self._map(self.u, self.layer.weight).norm()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with its scaled-down weights."""
        weight = self.layer.weight * (self.bound / self.norm()).clamp(max=1.0)
        out, bias = self._map(x, weight), self.layer.bias
        assert bias is not None
        return out + bias.reshape(-1, *[1] * (out.ndim - 2))


def lipswish(x: Tensor) -> Tensor:
    """Return ``x sigmoid(x) / 1.1``, whose slope is at most one, and whose second derivative does not vanish."""
    return F.silu(x) / 1.1


class ResidualBlock(Bijection):
    """An invertible residual block ``z = x + g(x)``, where g is a network of three contractions.

    ``log|det(I + J)| = Σ_k (−1)^(k+1) tr(J^k) / k``, J the Jacobian of g. With a probe v of random signs and a random
    length N of the series, ``Σ_{k ≤ N} (−1)^(k+1) vᵀ J^k v / (k P(N ≥ k))`` is unbiased (Russian roulette).

    Parameters
    ----------
    shape
        The shape of a state, (D,) or (C, H, W).
    width
        Hidden units or channels.
    bound
        Bound of the Lipschitz constant of g, below one.
    """

    def __init__(self, shape: Sequence[int], width: int, bound: float) -> None:
        super().__init__()
        self.shape = tuple(shape)
        inner, rest = shape[0], tuple(shape[1:])
        each = bound ** (1 / 3)

        def layer(a: int, b: int, k: int) -> Contraction:
            own = nn.Conv2d(a, b, k, padding="same") if rest else nn.Linear(a, b)
            return Contraction(own, (a, *rest), each)

        self.layers = nn.ModuleList([layer(inner, width, 3), layer(width, width, 1), layer(width, inner, 3)])

    def g(self, x: Tensor) -> Tensor:
        """Apply the contraction, and return ``g(x)``."""
        for i, layer in enumerate(self.layers):
            x = layer(lipswish(x) if i else x)
        return x

    def settle(self) -> None:
        """Take more steps of the power iterations, so that the estimated spectral norms follow the weights."""
        for layer in self.layers:
            layer.settle(2)  # type: ignore[operator]

    def estimated(self, x: Tensor, probe: Tensor, terms: int) -> tuple[Tensor, Tensor]:
        """Return `z` and an unbiased estimate of ``log_det``, by a probe and the given number of terms of the series."""
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            g = self.g(x)
            total, w = x.new_zeros(len(x)), probe
            for k in range(1, terms + 1):
                (w,) = torch.autograd.grad(g, x, w, create_graph=self.training, retain_graph=True)
                total = total + (-1) ** (k + 1) / (k * probability_of_term(k)) * sum_rows(w * probe)
        return x + g, total

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(z, log_det)`` exactly, from the whole Jacobian: one derivative for every coordinate of `x`."""
        g, pull = torch.func.vjp(self.g, x)[:2]
        D = x[0].numel()
        basis = torch.eye(D, dtype=x.dtype, device=x.device).reshape(D, 1, *self.shape).expand(D, *x.shape)
        J = torch.func.vmap(lambda v: pull(v)[0])(basis).flatten(2).transpose(0, 1)  # (B, D, D)
        return x + g, torch.linalg.slogdet(widened(torch.eye(D, dtype=x.dtype, device=x.device) + J))[1]

    @torch.no_grad()
    def inverse(self, z: Tensor) -> Tensor:
        """Find the fixed point of ``x = z − g(x)`` by iteration, and return it.

        Raises
        ------
        RuntimeError
            If the iteration does not converge, as where g is no contraction.
        """
        x, small = z, 10 * torch.finfo(z.dtype).eps * max(1.0, z.abs().max().item())
        for _ in range(2000):
            new = z - self.g(x)
            change, x = (new - x).abs().max(), new
            if change <= small:
                return x
        raise RuntimeError(
            f"the inverse of a residual block still moves by {change:.2g}; make the block with a lower bound."
        )


def probability_of_term(k: int) -> float:
    """Return the probability that the randomly truncated series contains its `k`-th term."""
    return KEEP ** max(k - CERTAIN, 0)


def draw_length(generator: torch.Generator | None) -> int:
    """Draw the random number of terms of the series: two, plus a geometric number."""
    u = torch.rand((), dtype=torch.float64, generator=generator, device=generator.device if generator else None)
    return CERTAIN + int(math.log(max(u.item(), 1e-300)) / math.log(KEEP))


class ResidualFlow(NormalizingFlow):
    """A normalizing flow of residual blocks ``z = x + g(x)``, trained with an unbiased estimate of the log-determinant.

    R. Chen, J. Behrmann, D. Duvenaud, J.-H. Jacobsen, *Residual flows for invertible generative modeling*, 2019,
    arXiv:1906.02735. In training, every step draws a probe for each datum and a length of the series for each block. ``log_prob``
    is exact, by whole Jacobians, for states of some tens of numbers; `estimate` is for images.

    Parameters
    ----------
    shape
        The shape of a datum: ``(D,)``, or ``(C, H, W)``.
    blocks, width
        The number of blocks, and their hidden units or channels.
    bound
        Bound of every block's Lipschitz constant.
    first
        A bijection that is applied to the data before all blocks.
    squeeze
        Side of the squares of pixels that become channels before the blocks, for speed.

    Raises
    ------
    ValueError
        If `bound` is not between 0 and 1, `shape` is of neither form, there is no block, or `squeeze` does not divide
        both sides of an image.

    Examples
    --------
    >>> flow = ResidualFlow((2,), blocks=2, width=16)
    >>> x = torch.randn(3, 2)
    >>> z, log_det = flow.net(x)
    >>> torch.allclose(flow.net.inverse(z), x, atol=1e-5)
    True
    """

    @check_arguments
    def __init__(
        self,
        shape: Sequence[int],
        blocks: int = 8,
        width: int = 64,
        bound: float = 0.9,
        first: Bijection | None = None,
        squeeze: int = 1,
    ) -> None:
        shape = tuple(shape)
        check_count("width", width)
        if not 0 < bound < 1:
            raise ValueError(f"bound = {bound}; a contraction needs one between 0 and 1.")
        if len(shape) not in (1, 3) or blocks < 1:
            raise ValueError(f"shape = {shape}, blocks = {blocks}; give (D,) or (C, H, W), and at least one block.")
        if squeeze < 1 or (squeeze > 1 and any(side % squeeze for side in (*shape[1:], *[1] * (3 - len(shape))))):
            raise ValueError(f"squeeze = {squeeze} of shape = {shape}; it must divide both sides of an image.")
        inner = shape if squeeze == 1 else (shape[0] * squeeze**2, shape[1] // squeeze, shape[2] // squeeze)
        parts: list[Any] = [] if first is None else [first]
        parts += [AffineMap(inner)] if squeeze == 1 else [Squeeze(squeeze), AffineMap(inner)]
        for _ in range(blocks):
            parts += [ResidualBlock(inner, width, bound), AffineMap(inner)]
        super().__init__(Blocks(parts), shape, inner)
        self.blocks, self.width, self.bound, self.first, self.squeeze = blocks, width, bound, first, squeeze

    def asked(self) -> dict[str, Any]:
        """Return the bound of the blocks, which scales their weights, and the bijection before them."""
        return {"bound": self.bound, "first": self.first}

    def loss(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return an unbiased estimate of ``−log p(x) / D`` in nats per coordinate, ``(B,)``."""
        if self.training:
            for part in self.modules():
                if isinstance(part, ResidualBlock):
                    part.settle()
        return -self._draw_estimate(x, generator) / self.dim

    def estimate(
        self, x: Tensor, probes: int = 16, generator: torch.Generator | None = None, batch: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return an unbiased estimate of ``log p(x)`` in nats and its standard error, each ``(B,)``.

        Parameters
        ----------
        x
            Data, ``(B, *shape)``.
        probes
            Number of draws; each has a probe for every datum and block, and a length of the series for every block.
        generator
            Randomness of the probes and lengths.
        batch
            Data at a time; None for all at once.

        Raises
        ------
        ValueError
            If there are fewer than two probes.
        """
        check_count("probes", probes, 2, ": a standard error is made of the spread of two or more")
        values = torch.stack([self._draw_estimate(x, generator, batch).detach() for _ in range(probes)])
        return values.mean(0), values.std(0) / math.sqrt(probes)

    def _draw_estimate(self, x: Tensor, generator: torch.Generator | None, batch: int | None = None) -> Tensor:
        """Return one draw of the unbiased estimate of ``log p(x)`` in nats, ``(B,)``."""
        u = self.standardised(x)
        probes = rademacher_like(u.new_empty(len(u), self.blocks, *self.noise_shape), generator)
        lengths = [draw_length(generator) for _ in range(self.blocks)]
        found = in_parts(lambda u, probes: self._log_density(*self.net(u, probes, lengths)), batch, u, probes)
        return found - self.log_volume(x)


class Blocks(Composition):
    """The composition of residual blocks and other bijections, with an exact or an estimated log-determinant."""

    def forward(self, x: Tensor, probes: Tensor | None = None, lengths: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Return ``(z, log_det)``: exact, or by a probe ``(B, *)`` of ``probes`` and a length of the series for every block."""
        if probes is None:
            return super().forward(x)
        log_det, drawn = x.new_zeros(len(x)), iter(zip(probes.unbind(1), lengths, strict=True))
        for part in self.parts:
            x, more = part.estimated(x, *next(drawn)) if isinstance(part, ResidualBlock) else part(x)
            log_det = log_det + more
        return x, log_det
