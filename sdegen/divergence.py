"""The divergence of a vector field: exact, or by Hutchinson's estimator. Fields act on each row of a batch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]


def value_and_slope(field: Field, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """``f(x)`` and ``(∂f/∂x) direction``, by one forward-mode derivative."""
    value, slope = torch.func.jvp(field, (x,), (direction,))[:2]
    return value, slope


def exact_divergence(field: Field, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """``field(x)`` and ``div field = Σ_i ∂f_i/∂x_i``, ``(B,)``, by one forward-mode derivative per coordinate.

    Parameters
    ----------
    field
        Maps ``(B, *)`` to the same shape, row by row.
    x
        Where, ``(B, *)``.
    generator
        Unused; the signature is that of `hutchinson_divergence`.
    """
    d = x[0].numel()
    basis = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)

    def along(direction: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_slope(field, x, direction)

    # The value does not depend on the direction, so it is computed once for all directions of a block.
    out_dims: Any = (None, 0)
    blocks = [torch.func.vmap(along, out_dims=out_dims)(block) for block in basis.split(64)]
    slopes = torch.cat([slope for _, slope in blocks])
    return blocks[0][0], (slopes * basis).transpose(0, 1).reshape(len(x), -1).sum(1)


def hutchinson_divergence(
    field: Field, x: Tensor, generator: torch.Generator | None = None, probe: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``field(x)`` and the unbiased estimate ``vᵀ (∂f/∂x) v`` of its divergence, ``(B,)``, for one Rademacher probe `v`.

    M. Hutchinson, *A stochastic estimator of the trace of the influence matrix*, 1989.
    """
    v = rademacher_like(x, generator) if probe is None else probe
    value, slope = value_and_slope(field, x, v)
    return value, (v * slope).reshape(len(x), -1).sum(1)


def rademacher_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Independent signs of the shape, dtype and device of `x`."""
    device = x.device if generator is None else generator.device
    bits = torch.randint(0, 2, x.shape, generator=generator, device=device)
    return (2 * bits - 1).to(x)
