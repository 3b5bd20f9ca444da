"""Toy distributions that are Gaussian mixtures, of which every diffused density and score is known in closed form (`Exact`)."""

from __future__ import annotations

__all__ = ["gaussian_grid", "gaussian_ring", "random_mixture"]

import math

import torch

from ..arguments import check_arguments
from ..checks import check_number
from ..laws.mixtures import GaussianMixture


@check_arguments
def gaussian_ring(modes: int = 8, radius: float = 4.0, std: float = 0.5) -> GaussianMixture:
    """Return a mixture of equal isotropic Gaussians at equal angles on a circle, in two dimensions.

    Parameters
    ----------
    modes, radius, std
        The number of Gaussians, the radius of the circle, and the standard deviation of each Gaussian.

    Raises
    ------
    ValueError
        If there are no modes, `radius` is negative, or `std` is not positive.
    """
    if modes < 1 or not radius >= 0 or not std > 0:
        raise ValueError(
            f"modes = {modes}, radius = {radius}, std = {std}: expected modes >= 1, radius >= 0 and std > 0."
        )
    angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
    means = radius * torch.stack([angle.cos(), angle.sin()], 1)
    weights = torch.full((modes,), 1 / modes, dtype=torch.float64)
    return GaussianMixture(weights, means, torch.full((modes,), std**2, dtype=torch.float64))


@check_arguments
def gaussian_grid(side: int = 5, spacing: float = 2.0, std: float = 0.2) -> GaussianMixture:
    """Return a mixture of ``side²`` equal isotropic Gaussians on a square lattice centred at 0, in two dimensions.

    Parameters
    ----------
    side
        Number of Gaussians along each side.
    spacing
        Distance of neighbours.
    std
        Standard deviation of each Gaussian.

    Raises
    ------
    ValueError
        If `side` is less than 1, or `std` is not positive.
    """
    check_number("spacing", spacing, at_least=0)
    if side < 1 or not std > 0:
        raise ValueError(f"side = {side}, std = {std}: expected side >= 1 and std > 0.")
    places = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2) * spacing
    means = torch.cartesian_prod(places, places)
    weights = torch.full((side**2,), 1 / side**2, dtype=torch.float64)
    return GaussianMixture(weights, means, torch.full((side**2,), std**2, dtype=torch.float64))


@check_arguments
def random_mixture(dim: int, modes: int = 16, seed: int = 0) -> GaussianMixture:
    """Draw a mixture in `dim` dimensions: weights from Dirichlet(1), means from N(0, 4), per-axis std uniform in 0.1–0.5.

    Parameters
    ----------
    dim
        Dimensions.
    modes
        Number of Gaussians, with diagonal covariances.
    seed
        Seed of weights, means and standard deviations: one seed, one mixture.

    Raises
    ------
    ValueError
        If `dim` or `modes` is less than 1.
    """
    if dim < 1 or modes < 1:
        raise ValueError(f"dim = {dim}, modes = {modes}: both must be at least 1.")
    generator = torch.Generator().manual_seed(seed)
    # `torch.rand` draws multiples of 2**-53; its 0 becomes half of one, of which there is a logarithm.
    u = torch.rand(modes, dtype=torch.float64, generator=generator).clamp_min(2**-54)
    exponential = -u.log()  # normalised: Dirichlet(1)
    means = 2 * torch.randn(modes, dim, dtype=torch.float64, generator=generator)
    stds = 0.1 + 0.4 * torch.rand(modes, dim, dtype=torch.float64, generator=generator)
    return GaussianMixture(exponential / exponential.sum(), means, stds.square())
