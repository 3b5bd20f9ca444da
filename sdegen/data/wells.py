"""Many double wells, a toy law with as many modes as there are ways to choose a side in each (`ManyWell`)."""

from __future__ import annotations

__all__ = ["ManyWell"]

import math

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..fixed import kept_property
from ..laws.interpolation import gauss
from ..laws.mixtures import Moments
from .toys import HALF_LOG_2PI, Toy, normal_draws, uniform_draws

# The proposal of rejection sampling, a Gaussian at each well: means, standard deviation, weight of the left one.
LEFT, RIGHT, WIDTH, SHARE = -1.7, 1.75, 0.42, 0.25


class ManyWell(Toy):
    """``d/2`` independent double wells: ``p ∝ exp(−E)``, ``E = Σ x_i⁴ − 6 x_i² − ½ x_i + ½ y_i²``, a law of ``2^(d/2)`` modes.

    Numbers alternate, ``(x_1, y_1, x_2, y_2, …)``. F. Noé et al., *Boltzmann generators*, 2019; L. Midgley et al., *Flow annealed
    importance sampling bootstrap*, 2023, arXiv:2208.01893. Draws are exact, by rejection from two Gaussians.

    Parameters
    ----------
    d
        The dimension of the vectors, even.

    Raises
    ------
    ValueError
        If `d` is no even whole number from 2.
    """

    @check_arguments
    def __init__(self, d: int = 32) -> None:
        self.d = check_count("d", d, at_least=2)
        if d % 2:
            raise ValueError(f"d = {d}; a well has two numbers: give an even number.")

    @staticmethod
    def _well(x: Tensor) -> Tensor:
        """Return the negative energy of the first number of a well."""
        return -x.pow(4) + 6 * x.square() + 0.5 * x

    @kept_property
    def _nodes(self) -> tuple[Tensor, Tensor]:
        """Nodes of a quadrature for the first number of a well, and the logarithm of each one's unnormalised mass."""
        z, w = gauss(400)
        x = 5 * z
        log_mass = (5 * w).log() + self._well(x)
        return x, log_mass

    @kept_property
    def log_normaliser(self) -> float:
        """``log ∫ exp(−E)``."""
        return self.d // 2 * (self._nodes[1].logsumexp(0).item() + HALF_LOG_2PI)

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        needed, found = n * self.d // 2, torch.empty(0, dtype=torch.float64)
        while len(found) < needed:
            u = uniform_draws(2 * needed, 2, generator)
            x = (
                torch.where(u[:, 0] < SHARE, u.new_tensor(LEFT), u.new_tensor(RIGHT))
                + WIDTH * normal_draws(2 * needed, 1, generator)[:, 0]
            )
            found = torch.cat([found, x[u[:, 1].log() < self._log_ratio(x) - self._log_bound]])
        return torch.stack([found[:needed], normal_draws(needed, 1, generator)[:, 0]], 1).reshape(n, self.d)

    def _log_ratio(self, x: Tensor) -> Tensor:
        """Return the logarithm of the ratio of one number's density to the proposal's, but for a constant."""
        low, high = (-0.5 * ((x - m) / WIDTH).square() for m in (LEFT, RIGHT))
        return self._well(x) - torch.logaddexp(low + math.log(SHARE), high + math.log(1 - SHARE))

    @kept_property
    def _log_bound(self) -> Tensor:
        """A bound on the log-ratio: its maximum on a fine grid, plus what it may rise by between two points of the grid."""
        return self._log_ratio(torch.linspace(-5, 5, 20_001, dtype=torch.float64)).max() + 1e-5

    def _log_density(self, x: Tensor) -> Tensor:
        energy = 0.5 * x[:, 1::2].square() - self._well(x[:, ::2])
        return -energy.sum(1) - self.log_normaliser

    def entropy(self) -> float:
        """Return the entropy in nats, to rounding by quadrature."""
        x, log_mass = self._nodes
        mean = (log_mass.softmax(0) * self._well(x)).sum().item()
        return self.log_normaliser - self.d // 2 * (mean - 0.5)

    def moments(self) -> Moments:
        """Return the mean and covariance, to rounding by quadrature."""
        x, log_mass = self._nodes
        mass = log_mass.softmax(0)
        mean = (mass * x).sum()
        variance = (mass * (x - mean).square()).sum()
        means, variances = torch.stack([mean, torch.zeros_like(mean)]), torch.stack([variance, torch.ones_like(mean)])
        return Moments(means.repeat(self.d // 2), variances.repeat(self.d // 2).diag())
