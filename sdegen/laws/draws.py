"""Random tensors of the shape of another, and systematic resampling.

Numbers are drawn on the generator's device, so that a seed gives the same ones on every device.
"""

from __future__ import annotations

__all__ = [
    "check_draws",
    "check_given",
    "check_noising",
    "noise_like",
    "rademacher_like",
    "refuse_derivatives",
    "resample_systematically",
    "uniform_like",
]

import torch
from torch import Tensor

from ..checks import check_count, check_kind, check_tensor


def check_draws(n: int, generator: torch.Generator | None) -> int:
    """Check a number of draws and their source of randomness, and return the number.

    Raises
    ------
    TypeError
        If `n` is no number, or `generator` no generator.
    ValueError
        If `n` is no whole number of at least one.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        check_kind(
            "generator", generator, torch.Generator, "a source of randomness, such as torch.Generator(), or None"
        )
    return n if type(n) is int and n > 0 else check_count("n", n)


def refuse_derivatives(law: object, *given: Tensor) -> None:
    """Refuse to draw from a law whose quantiles have no derivatives, where the start or the noise is being differentiated.

    Raises
    ------
    ValueError
        If a tensor requires a gradient, and gradients are recorded.
    """
    if torch.is_grad_enabled() and any(value.requires_grad for value in given):
        raise ValueError(
            f"draws of {type(law).__name__} have no derivative by their start or noise; give x.detach(), or draw under "
            "torch.no_grad()."
        )


def check_noising(x: Tensor, z: Tensor | None, generator: torch.Generator | None) -> None:
    """Check states, and their noise or its generator, before a step of noising; where they are right this takes hardly any time.

    Parameters
    ----------
    x
        States, ``(B, *)``.
    z
        Noise of the shape of the states, or None.
    generator
        Randomness of the draw.

    Raises
    ------
    TypeError
        If states or noise are no floating-point tensors, or `generator` is no generator.
    ValueError
        If the noise has another shape.
    """
    if not x.is_floating_point() or x.layout != torch.strided:
        check_tensor("x_0", x, finite=False)
    if z is None:
        check_draws(1, generator)
    else:
        check_given(x, z)


def check_given(x: Tensor, z: Tensor) -> Tensor:
    """Check that noise given for the states `x` is a floating-point tensor of their shape, and return the noise.

    Raises
    ------
    TypeError
        If `z` is no floating-point tensor.
    ValueError
        If `z` has another shape.
    """
    if isinstance(z, torch.Generator):
        raise TypeError(
            "z is a Generator; give noise of the shape of the states, or randomness by name: generator=...."
        )
    if check_tensor("z", z, finite=False).shape != x.shape:
        raise ValueError(f"z has shape {tuple(z.shape)} for states of shape {tuple(x.shape)}; give noise for each.")
    return z


def noise_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw standard normal noise of the shape, dtype and device of `x`; refuse what are no floating-point states or no
    generator.
    """
    if not x.is_floating_point() or (generator is not None and not isinstance(generator, torch.Generator)):
        check_noising(x, None, generator)
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


def resample_systematically(weights: Tensor, n: int, u: Tensor | float) -> Tensor:
    """Return `n` indices of weights, each ``n`` times its weight often, to within one.

    Index `i` is taken for every place ``(k + u) / n`` that falls into its part of the cumulative sum: one number `u` serves all.
    J. Carpenter, P. Clifford, P. Fearnhead, *Improved particle filter for nonlinear problems*, 1999.

    Parameters
    ----------
    weights
        ``(N,)``, of sum one.
    n
        How many indices.
    u
        A number in [0, 1), drawn or fixed.
    """
    places = (torch.arange(n, dtype=torch.float64) + u) / n
    return torch.searchsorted(weights.double().cumsum(0), places).clamp_max(len(weights) - 1)
