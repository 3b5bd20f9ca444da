"""Random tensors of the shape of another, drawn on the generator's device, so that a seed gives the same numbers on every
device.
"""

from __future__ import annotations

__all__ = ["noise_like", "rademacher_like", "uniform_like"]

import torch
from torch import Tensor


def noise_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw standard normal noise of the shape, dtype and device of `x`."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device, non_blocking=True)


def uniform_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw uniform numbers in [0, 1) of the shape, dtype and device of `x`."""
    device = x.device if generator is None else generator.device
    return torch.rand(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device, non_blocking=True)


def rademacher_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw independent signs of the shape, dtype and device of `x`."""
    device = x.device if generator is None else generator.device
    bits = torch.randint(0, 2, x.shape, generator=generator, device=device)
    return (2 * bits - 1).to(x.device, x.dtype, non_blocking=True)
