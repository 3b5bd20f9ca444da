"""Epsilon scaling: score models whose predicted noise is divided by a factor."""

from __future__ import annotations

__all__ = ["EpsilonScaling", "LinearScale"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..blocks import OfTensors
from ..checks import check_number
from ..laws.operators import rows
from ..models.score import ScoreModel
from ..processes.dynamics import coefficient
from .base import Guided, inverse

Schedule = Callable[[Tensor], Tensor]


class EpsilonScaling(Guided):
    """A score model whose predicted noise is divided by a factor, ``eps' = eps / scale``, a training-free remedy for
    exposure bias.

    A sampler feeds a model its own output, on which the model predicts more noise than there is; the factor, a little above 1,
    takes this back. M. Ning, M. Li, J. Su, A. A. Salah, I. O. Ertugrul, *Elucidating the exposure bias in diffusion models*,
    2023, arXiv:2308.15321. The other readings follow from the state: ``score' = score / scale`` and
    ``x_0' = Phi⁻¹ (x − R eps') = x_0 + (1 − 1 / scale) Phi⁻¹ R eps``.

    Parameters
    ----------
    model
        A score model.
    scale
        A positive number, or a function of `t` that returns one for each time; `LinearScale` is the paper's schedule.

    Raises
    ------
    ValueError
        If a scale is not positive; at a call, if ``alpha = 0`` and the scale is not 1, since the noise is the state itself there.
    """

    @check_arguments
    def __init__(self, model: ScoreModel, scale: float | Schedule) -> None:
        super().__init__(model)
        self.scale = scale
        if not callable(scale):
            self._scale(0.0)

    def _scale(self, t: Tensor | float) -> Tensor:
        """Return the factor at `t`, float64 on the CPU like every coefficient."""
        t = torch.as_tensor(t, dtype=torch.float64).cpu()
        scale = coefficient("scale", self.scale(t) if callable(self.scale) else self.scale, t).cpu()
        if not (scale > 0).all() or not scale.isfinite().all():
            raise ValueError(
                f"scale = {scale.reshape(-1).tolist()} at t = {t.reshape(-1).tolist()}; it must be positive."
            )
        return scale

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``score / scale``."""
        return self.model.score(x, t, **cond) / rows(self._scale(t), x)

    def noise(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return ``eps / scale``."""
        return self.model.noise(x, t, **cond) / rows(self._scale(t), x)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return ``x_0 + (1 − 1 / scale) Phi⁻¹ R eps`` and ``eps / scale``."""
        at, scale = self._marginal(t), self._scale(t)
        x_0, eps = self.model.estimate(x, t, **cond)
        taken, lost = 1 - 1 / scale, at.Phi.log_abs_det().isneginf()
        impossible = lost & (taken != 0)
        if impossible.any():
            bad = torch.as_tensor(t, dtype=torch.float64).cpu().expand(impossible.shape)[impossible][0].item()
            raise ValueError(
                f"alpha = 0 at t = {bad:.6g} of {type(self.sde).__name__}: the noise there is the state itself and cannot be "
                f"scaled; start the grid at t_max = {self.sde.t_max:.6g}, or let scale(t) be 1 there."
            )
        to_clean = inverse(at.Phi) @ at.R * taken  # where alpha = 0 nothing is taken
        return x_0 + to_clean(eps), eps / rows(scale, x)


@check_arguments
@dataclass(frozen=True)
class LinearScale(OfTensors):
    """A scale that is linear in time, ``b + k t``, for `EpsilonScaling` (M. Ning et al., 2023, arXiv:2308.15321).

    >>> LinearScale(1.0, 0.02)(torch.tensor(0.5)).item()
    1.01
    """

    b: float
    k: float = 0.0

    def __post_init__(self) -> None:
        check_number("b", self.b), check_number("k", self.k)

    def __call__(self, t: Tensor) -> Tensor:
        """Return ``b + k t``, float64."""
        return self.b + self.k * t.double()
