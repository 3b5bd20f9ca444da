"""What the attributes of a process must be, checked where a process enters a model or a check."""

from __future__ import annotations

__all__ = ["check_process"]

import torch
from torch import Tensor

from ..checks import check_number
from ..show import with_article
from .base import SDE
from .dynamics import SINGLE
from .linear import LinearSDE, is_linear


def check_process(sde: SDE) -> None:
    """Refuse a process whose last time, initial noise or coefficients are not possible, before a law of it is asked for.

    Parameters
    ----------
    sde
        Any process, of a user's own class too.

    Raises
    ------
    TypeError
        If `T` or `sigma_0` is no number, or `Sigma_0` no tensor.
    ValueError
        If `T` is not positive and finite, `sigma_0` negative, `Sigma_0` no covariance, or a coefficient of a linear process
        answers for one time and not for several.
    NotImplementedError
        If a process of matrices gives no `Sigma_0`.
    """
    name = type(sde).__name__
    check_number(f"{name}.T", sde.T, above=0, hint=", the last time, set by the class or before super().__init__()")
    if hasattr(sde, "sigma_0"):
        check_number(f"{name}.sigma_0", sde.sigma_0, at_least=0, hint=", the noise of the data at t = 0")
    if is_linear(sde):
        _check_covariance(f"{name}.Sigma_0", sde.Sigma_0)
        _check_times(sde)


def _check_times(sde: LinearSDE) -> None:
    """Refuse coefficients that answer for one time and not for several; other faults are refused where they are met."""
    t = sde.T * torch.tensor([0.3, 0.6], dtype=torch.float64)
    try:
        sde.drift_operator(t), sde.diffusion_operator(t)
    except (TypeError, ValueError, RuntimeError) as error:
        if SINGLE in str(error):
            raise


def _check_covariance(name: str, S: Tensor) -> None:
    if not isinstance(S, Tensor):
        raise TypeError(
            f"{name} is {with_article(type(S).__name__)}; give a float64 tensor (k, k), the covariance of the state at 0."
        )
    if S.dtype != torch.float64 or S.ndim != 2 or len(S) != S.shape[-1]:
        raise ValueError(
            f"{name} is {S.dtype} of shape {tuple(S.shape)}; give a float64 tensor (k, k), as coefficients are."
        )
    size = S.abs().max().item() if len(S) else 0.0
    if not S.isfinite().all() or not torch.allclose(S, S.T, rtol=0, atol=1e-9 * size):
        raise ValueError(f"{name} = {S.tolist()} is no covariance; give a symmetric matrix of finite numbers.")
    least = torch.linalg.eigvalsh(S)[0].item()
    if least < -1e-9 * size:
        raise ValueError(f"{name} has the eigenvalue {least:.3g}; a covariance has none below 0.")
