"""Gaussians given noisy linear measurements of them."""

from __future__ import annotations

__all__ = ["update_gaussians"]

import torch
from torch import Tensor


def update_gaussians(
    means: Tensor, C: Tensor, A: Tensor, std: float, y: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the mean and covariance of Gaussians given ``y = A x + std n``, and the residual of `y` with its covariance.

    With ``S = A C Aᵀ + std²`` and ``K = C Aᵀ S⁻¹`` these are ``m + K (y − A m)``, ``C − K A C``, ``y − A m`` and `S`.

    Parameters
    ----------
    means, C
        Means ``(K, d)`` and covariances ``(K, d, d)`` of the Gaussians; a single mean, or covariance, serves for all.
    A, std
        The matrix of the measurement, ``(m, d)``, and the standard deviation of its noise.
    y
        The measurement, ``(m,)``, or one of each Gaussian, ``(K, m)``.

    Examples
    --------
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> mean, covariance, *_ = update_gaussians(0 * one, one[None], one, 1.0, 2 * one)
    >>> mean.item(), covariance.item()
    (1.0, 0.5)
    """
    S = A @ C @ A.T + std**2 * torch.eye(len(A), dtype=torch.float64)
    K = torch.linalg.solve(S, A @ C).mT  # C Aᵀ S⁻¹, of a symmetric S
    residual = y - means @ A.T
    left = torch.eye(C.shape[-1], dtype=torch.float64) - K @ A
    # Joseph's form: symmetric and positive whatever the rounding.
    rest = left @ C @ left.mT + std**2 * K @ K.mT
    return means + (K @ residual[..., None])[..., 0], 0.5 * (rest + rest.mT), residual, S
