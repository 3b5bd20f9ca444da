"""Clocks: the time variables in which integrators interpolate, as functions of the angle ``phi = atan2(sigma, alpha)``.

A clock chooses how steps are shared out between noise and data, and nothing else.
"""

from __future__ import annotations

__all__ = ["Clock", "angle", "log_ratio", "share"]

from collections.abc import Callable

from torch import Tensor

Clock = Callable[[Tensor], Tensor]


def angle(phi: Tensor) -> Tensor:
    """Return the angle ``phi = atan(sigma / alpha)`` itself: finite at both ends.

    The angle of T. Salimans and J. Ho, *Progressive distillation for fast sampling of diffusion models*, 2022,
    arXiv:2202.00512.

    Parameters
    ----------
    phi
        The angles, in ``[0, π/2]``, of any shape; ``atan(1 / √snr)`` on matrix processes.
    """
    return phi


def log_ratio(phi: Tensor) -> Tensor:
    """Return ``log(sigma / alpha)``, minus half the log-SNR: the clock of the DPM-Solver papers; infinite at both ends.

    C. Lu et al., 2022, arXiv:2206.00927 and arXiv:2211.01095.

    Parameters
    ----------
    phi
        As for `angle`.
    """
    return phi.tan().log()


def share(phi: Tensor) -> Tensor:
    """Return ``sigma / (alpha + sigma)``, the share of noise: finite at both ends.

    Parameters
    ----------
    phi
        As for `angle`.
    """
    return phi.sin() / (phi.sin() + phi.cos())
