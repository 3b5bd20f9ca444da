"""The interface of a process to a simulator: drift and diffusion, and checked times."""

from __future__ import annotations

__all__ = ["Dynamics", "as_time"]

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..show import show_call


def as_time(t: Tensor | float, T: float, name: str = "t") -> Tensor:
    """Return `t` as a float64 CPU tensor of shape ``()`` or ``(B,)``; refuse times outside ``[0, T]``.

    Raises
    ------
    ValueError
        If a time is NaN, lies outside the interval, or has more than one dimension.
    """
    given = torch.as_tensor(t)
    t = torch.as_tensor(t, dtype=torch.float64).cpu()
    if t.ndim > 1:
        raise ValueError(f"{name} has shape {tuple(t.shape)}; times have shape () or (B,).")
    # What rounding in the dtype of the times, or of a grid's own arithmetic, may add.
    slack = T * (1e-12 if not given.is_floating_point() else max(1e-12, torch.finfo(given.dtype).eps))
    inside = (t >= 0) & (t <= T)
    if inside.all():
        return t
    near = (t >= -slack) & (t <= T + slack)
    if not near.all():
        bad = t[~near].reshape(-1)[0].item()
        raise ValueError(f"{name} = {bad:.6g} lies outside [0, T] = [0, {T:g}]; pass times within the process.")
    return t.clamp(0.0, T)


class Dynamics(ABC):
    """The interface of an SDE to a simulator: ``dx = drift(x, t) dt + diffusion(x, t) dw``."""

    T: float = 1.0

    __repr__ = show_call

    @abstractmethod
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ``f(x, t)``, of the shape of `x`."""

    @abstractmethod
    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        """Return ``G(x, t)``: a number, one per row ``(B,)``, or an operator on noise of the shape of `x`."""
