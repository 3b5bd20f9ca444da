"""Critically damped Langevin dynamics: data with a velocity, noise in the velocity alone."""

from __future__ import annotations

__all__ = ["CLD"]

import math

import torch
from torch import Tensor

from ..arguments import check_arguments
from .matrix import MatrixSDE
from .quadrature import van_loan


class CLD(MatrixSDE):
    """Critically damped Langevin dynamics of position and velocity, with mass 1.

    ``dx = beta v dt``, ``dv = −beta (x + Gamma v) dt + √(2 Gamma beta) dw`` with ``Gamma = 2``, critical damping; velocities
    start as ``N(0, gamma)``. T. Dockhorn, A. Vahdat, K. Kreis, *Score-based generative modeling with critically-damped
    Langevin diffusion*, 2021, arXiv:2112.07068.

    Parameters
    ----------
    beta
        Rate of the motion, per unit of time; ``T = 1``.
    gamma
        Variance of the velocities at 0.
    sigma_0
        Standard deviation of the noise on positions at 0, the smoothing of the data; 0 for none.

    Raises
    ------
    ValueError
        If `beta` or `gamma` is not positive, or `sigma_0` is negative.
    """

    @check_arguments
    def __init__(self, beta: float = 8.0, gamma: float = 0.04, sigma_0: float = 0.0) -> None:
        if not (beta > 0 and gamma > 0 and sigma_0 >= 0):
            raise ValueError(
                f"beta = {beta}, gamma = {gamma}, sigma_0 = {sigma_0}; the first two must be positive, the last at least 0."
            )
        self.beta, self.gamma, self.sigma_0 = beta, gamma, sigma_0
        self._F = beta * torch.tensor([[0.0, 1.0], [-1.0, -2.0]], dtype=torch.float64)
        self._G = torch.diag(torch.tensor([0.0, math.sqrt(4 * beta)], dtype=torch.float64))
        self.Sigma_0 = torch.diag(torch.tensor([sigma_0**2, gamma], dtype=torch.float64))

    def F(self, t: Tensor) -> Tensor:
        """Return ``beta [[0, 1], [−1, −Gamma]]``."""
        return self._F

    def G(self, t: Tensor) -> Tensor:
        """Return ``diag(0, √(2 Gamma beta))``."""
        return self._G

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``Phi`` and the covariance by Van Loan's matrix exponential over ``t − s``."""
        return van_loan(self._F, self._G @ self._G.T, t - s)
