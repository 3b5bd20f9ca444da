"""Families of targets that nothing was tuned on, drawn from a seed, for `benchmarks.drawn_table`.

Mixtures, nested clusters, heavy tails, curves and surfaces in many dimensions, and finite sets of points. All are Gaussian
mixtures, so that scores are exact.

Even seeds were looked at while the default was made; odd ones judge it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import sdegen

HARMONICS = 4  # frequencies of a curve
PIECES = 64  # Gaussians that a curve or a surface is made of


class Draws:
    """Random numbers of one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Return normal numbers."""
        return torch.randn(shape, dtype=torch.float64, generator=self.generator)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers between two positive bounds, even in the logarithm."""
        u = torch.rand(shape, dtype=torch.float64, generator=self.generator)
        return low * (high / low) ** u

    def whole(self, low: int, high: int) -> int:
        """Return a whole number between two bounds, even in the logarithm."""
        return min(high, int(self.between(low, high + 1)))

    def shares(self, n: int) -> Tensor:
        """Return `n` uneven weights that sum to one."""
        weights = self.between(0.05, 1.0, n)
        return weights / weights.sum()


def scaled(draws: Draws, weights: Tensor, means: Tensor, variances: Tensor) -> sdegen.GaussianMixture:
    """Return a mixture whose spread is between 0.5 and 3, whatever its parts were."""
    law = sdegen.GaussianMixture(weights, means, variances)
    factor = draws.between(0.5, 3.0) / law.moments().covariance.diagonal().mean().sqrt()
    return sdegen.GaussianMixture(weights, factor * means, factor.square() * variances)


def mixture(seed: int, low: int, high: int) -> sdegen.GaussianMixture:
    """Draw a mixture of 2 to 24 modes with uneven weights, widths and axes."""
    draws = Draws(seed)
    d, modes = draws.whole(low, high), draws.whole(2, 24)
    widths = draws.between(0.05, 0.6, modes, 1) * draws.between(0.5, 2.0, modes, d)
    return scaled(draws, draws.shares(modes), draws.normal(modes, d), widths.square())


def nested(seed: int, low: int, high: int) -> sdegen.GaussianMixture:
    """Draw clusters of clusters of narrow modes."""
    draws = Draws(seed)
    d, outer, inner = draws.whole(low, high), draws.whole(2, 6), draws.whole(2, 8)
    near = draws.between(0.1, 0.4) * draws.normal(outer, inner, d)
    means = (draws.normal(outer, 1, d) + near).reshape(-1, d)
    widths = draws.between(0.01, 0.08, outer * inner)
    return scaled(draws, draws.shares(outer * inner), means, widths.square())


def heavy(seed: int, low: int, high: int) -> sdegen.GaussianMixture:
    """Draw one to four bodies with tails of a power of 3 to 6, each of twelve widths."""
    draws = Draws(seed)
    d, bodies, power = draws.whole(low, high), draws.whole(1, 4), draws.whole(3, 6)
    ranks = (torch.arange(12, dtype=torch.float64) + 0.5) / 12
    squares = (
        draws.normal(power, 40_000).square().mean(0).sort().values
    )  # a Gaussian number over the root of one of these has Student's law
    widths = draws.between(0.2, 0.8, bodies, 1) * squares[(ranks * 40_000).long()].rsqrt()
    means = draws.normal(bodies, 1, d).expand(-1, 12, -1)
    weights = (draws.shares(bodies)[:, None] / 12).expand(-1, 12)
    return scaled(draws, weights.reshape(-1), means.reshape(-1, d), widths.square().reshape(-1))


def spectrum(seed: int, low: int, high: int) -> sdegen.GaussianMixture:
    """Draw a mixture whose axes, means and widths alike, fall off like a power, as those of images do."""
    draws = Draws(seed)
    d, modes, power = draws.whole(low, high), draws.whole(3, 16), float(draws.between(0.5, 1.2))
    axes = torch.arange(1, d + 1, dtype=torch.float64) ** -power
    widths = draws.between(0.1, 0.6, modes, 1) * axes
    return scaled(draws, draws.shares(modes), axes * draws.normal(modes, d), widths.square())


def curve(seed: int, low: int, high: int) -> sdegen.GaussianMixture:
    """Draw a closed curve, with a thin Gaussian everywhere."""
    draws = Draws(seed)
    d, angles = draws.whole(low, high), torch.arange(PIECES, dtype=torch.float64) / PIECES * 2 * math.pi
    k = torch.arange(1, HARMONICS + 1, dtype=torch.float64)
    waves = torch.cat([(k * angles[:, None]).sin() / k, (k * angles[:, None]).cos() / k], 1)
    means = waves @ draws.normal(2 * HARMONICS, d)
    apart = (means.roll(1, 0) - means).square().sum(1).mean()
    return scaled(draws, torch.full((PIECES,), 1 / PIECES), means, apart * draws.between(0.3, 2.0) * torch.ones(PIECES))


def surface(seed: int, low: int, high: int) -> sdegen.GaussianMixture:
    """Draw a closed surface, a torus that is bent in many dimensions, with a thin Gaussian everywhere."""
    draws = Draws(seed)
    d, angles = draws.whole(low, high), 2 * math.pi * torch.rand(PIECES, 2, generator=draws.generator).double()
    waves = torch.cat([angles.sin(), angles.cos(), (angles[:, :1] - angles[:, 1:]).sin()], 1)
    means = waves @ draws.normal(5, d)
    width = means.std(0).square().mean() * draws.between(0.003, 0.03)
    return scaled(draws, torch.full((PIECES,), 1 / PIECES), means, width * torch.ones(PIECES))


def points(seed: int, low: int, high: int) -> sdegen.GaussianMixture:
    """Draw a finite set of 8 to 128 points, up to a width of a thousandth."""
    draws = Draws(seed)
    d, number = draws.whole(low, high), draws.whole(8, 128)
    return scaled(draws, draws.shares(number), draws.normal(number, d), torch.full((number,), 1e-6))


DRAWN: dict[str, tuple[Callable[[int, int, int], sdegen.GaussianMixture], int, int]] = {
    "mixtures, 2–8": (mixture, 2, 8),
    "mixtures, 16–128": (mixture, 16, 128),
    "nested, 2–8": (nested, 2, 8),
    "nested, 16–128": (nested, 16, 128),
    "heavy tails, 2–8": (heavy, 2, 8),
    "heavy tails, 16–128": (heavy, 16, 128),
    "spectra, 16–128": (spectrum, 16, 128),
    "curves, 2–8": (curve, 2, 8),
    "curves, 16–128": (curve, 16, 128),
    "surfaces, 16–128": (surface, 16, 128),
    "points, 2–8": (points, 2, 8),
    "points, 16–128": (points, 16, 128),
}


def draw(family: str, seed: int) -> sdegen.GaussianMixture:
    """Return the target of a family for a seed; the families of one seed are drawn apart from one another."""
    make, low, high = DRAWN[family]
    return make(1000 * list(DRAWN).index(family) + seed, low, high)
