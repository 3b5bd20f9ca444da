"""Gaussians given noisy linear measurements of them."""

from __future__ import annotations

__all__ = ["update_gaussians"]

import torch
from torch import Tensor


def update_gaussians(
    means: Tensor, C: Tensor, A: Tensor, std: float, y: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return mean and covariance of Gaussians given ``y = A x + std n``, and what of `y` was unexpected, with its covariance.

    With ``S = A C Aᵀ + std²`` and ``K = C Aᵀ S⁻¹`` these are ``m + K (y − A m)``, ``C − K A C``, ``y − A m`` and `S`.

    Parameters
    ----------
    means, C
        Of the Gaussians, ``(K, d)`` and ``(K, d, d)``; one of either serves all of the other.
    A, std
        ``(m, d)``, and the standard deviation of the noise.
    y
        What was seen, ``(m,)``, or ``(K, m)`` of each.

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
