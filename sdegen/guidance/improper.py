"""A check for products of powers of laws that have no finite integral, by the moments and densities of the members."""

from __future__ import annotations

__all__ = ["noised_members", "refuse_improper"]

from typing import Any

import torch
from torch import Tensor

from ..laws.mixtures import GaussianMixture
from ..models.densities import UnknownDensity
from .base import require_clean_means
from .product import Product

FAR = 1e4  # standard deviations of the widest member: a density that rises so far from the data has no finite integral
TRIED = 8  # directions in which the product of Gaussians is widest


def noised_members(model: Product, t: float, cond: dict[str, Any]) -> list[tuple[GaussianMixture, float]]:
    """Return the Gaussians of the members' moments under conditions, with the noise of a time, each with its member's power."""
    sde = require_clean_means(model)
    laws = model.member_gaussians(**cond)
    return [(law.diffuse(sde.marginal(t), sde.embedding), power) for law, power in zip(laws, model.powers, strict=True)]


def refuse_improper(model: Product, t: float, cond: dict[str, Any]) -> None:
    """Refuse a product whose density at a time rises far away from the data.

    A product with a member that does not know its density passes.

    Raises
    ------
    ValueError
        If the density rises from one distance to twice that, in one of the directions in which the product of Gaussians with the
        members' moments is widest.
    """
    factors = noised_members(model, t, cond)
    if _log_densities(model, factors[0][0].means, t, cond) is None:
        return  # before matrices with a row for each number of a state are factorised
    means, C = (torch.cat(values) for values in zip(*(law.flat() for law, _ in factors), strict=True))
    powers = torch.tensor(model.powers, dtype=torch.float64)
    _, axes = torch.linalg.eigh(torch.tensordot(powers, torch.linalg.inv(C), 1))
    directions = torch.cat([axes[:, :TRIED].T, -axes[:, :TRIED].T])
    far = FAR * torch.linalg.eigvalsh(C).max().sqrt()
    x = torch.cat([means[0] + far * directions, means[0] + 2 * far * directions])
    densities = _log_densities(model, x.reshape(-1, *factors[0][0].event_shape), t, cond)
    assert densities is not None
    near, twice = (powers @ densities).chunk(2)
    rising = twice > near
    if rising.any():
        raise ValueError(
            f"the product is improper at t = {t:.6g}: the logarithm of its density rises from {near[rising][0].item():.3g} to "
            f"{twice[rising][0].item():.3g} between {FAR:g} and {2 * FAR:g} standard deviations from the data; raise the powers "
            "that are positive, or lower the others."
        )


def _log_densities(model: Product, x: Tensor, t: float, cond: dict[str, Any]) -> Tensor | None:
    """Return the logarithms of the members' densities, ``(m, B)``; None if a member does not know its own."""
    try:
        return model.member_log_densities(model.cast_states(x), t, **cond).cpu()
    except UnknownDensity:
        return None
