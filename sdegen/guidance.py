"""Guidance: models made of models. Each is a `ScoreModel` again, so every sampler takes it as it is.

A wrapper changes what a trained model says while sampling, never its weights; all readings of the changed estimate agree.
It is a module only so that samplers find the dtype, device and mode of the network inside. Train the model, then wrap it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .distributions import Moments
from .models import ScoreModel
from .operators import Operator, Scale, rows

Schedule = Callable[[Tensor], Tensor]


class Guided(nn.Module, ScoreModel):
    """A model around another: its process, and the moments of its data."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.sde = model, model.sde

    @property
    def moments(self) -> Moments | None:
        """Those of the model inside."""
        return self.model.moments

    @moments.setter
    def moments(self, moments: Moments | None) -> None:
        """Given to the model inside."""
        self.model.moments = moments

    @property
    def training(self) -> bool:
        """The mode of the network inside: a wrapper has none of its own, which could differ from it."""
        return getattr(self.model, "training", False)

    @training.setter
    def training(self, mode: bool) -> None:
        """Nothing: ``train`` and ``eval`` reach the network inside, where they are remembered."""

    @property
    def reverse_noise(self) -> Any:
        """The variance of reversed steps as the model inside has learned it, if it has (`LearnedVariance`)."""
        return self.model.reverse_noise


class EpsilonScaling(Guided):
    """The predicted noise divided by a factor: ``eps' = eps / scale``, a training-free remedy for exposure bias.

    A sampler feeds a model its own output, on which it predicts more noise than there is; the factor, a little above
    one, takes it back. M. Ning, M. Li, J. Su, A. A. Salah, I. O. Ertugrul, *Elucidating the exposure bias in diffusion
    models*, 2023, arXiv:2308.15321. The other readings follow from the state: ``score' = score / scale`` and
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
        If a scale is not positive; and where ``alpha = 0`` and the scale is not 1: there the noise is the state itself.
    """

    def __init__(self, model: Any, scale: float | Schedule) -> None:
        super().__init__(model)
        self.scale = scale
        if not callable(scale):
            self._scale(0.0)

    def _scale(self, t: Tensor | float) -> Tensor:
        """The factor at `t`, float64 on the CPU like every coefficient."""
        t = torch.as_tensor(t, dtype=torch.float64).cpu()
        scale = torch.as_tensor(self.scale(t) if callable(self.scale) else self.scale, dtype=torch.float64).cpu()
        if not (scale > 0).all() or not scale.isfinite().all():
            raise ValueError(
                f"scale = {scale.reshape(-1).tolist()} at t = {t.reshape(-1).tolist()}; it must be positive."
            )
        return scale

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``score / scale``."""
        return self.model.score(x, t, **cond) / rows(self._scale(t), x)

    def noise(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``eps / scale``."""
        return self.model.noise(x, t, **cond) / rows(self._scale(t), x)

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """``x_0 + (1 − 1 / scale) Phi⁻¹ R eps`` and ``eps / scale``."""
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
        to_clean = (at.Phi + at.Phi.one() * lost).inv() @ at.R * taken  # where alpha = 0 nothing is taken
        return x_0 + to_clean(eps), eps / rows(scale, x)


@dataclass(frozen=True)
class LinearScale:
    """The schedule ``b + k t`` (M. Ning et al., 2023, arXiv:2308.15321).

    >>> LinearScale(1.0, 0.02)(torch.tensor(0.5)).item()
    1.01
    """

    b: float
    k: float = 0.0

    def __call__(self, t: Tensor) -> Tensor:
        """``b + k t``, float64."""
        return self.b + self.k * t.double()


class ClassifierFree(Guided):
    """Classifier-free guidance: ``v = v_null + scale (v_cond − v_null)``, and so for every other reading.

    J. Ho and T. Salimans, *Classifier-free diffusion guidance*, 2022, arXiv:2207.12598. A scale of 1 is the conditional
    model, 0 the unconditional one, more than 1 pushes away from it. Readings are affine in the velocity with the same
    state, so clean data, noise and score are combined alike. Beyond 1 it is the score of no diffused law.

    Parameters
    ----------
    model
        A score model that was trained with and without its condition; the networks here know the null condition as
        the label −1, or as a condition left out.
    scale
        A number.
    null
        The null conditions, passed in place of those given; by default all are left out.
    interval
        ``(first, last)``: times outside which the conditional model is used alone, which costs one evaluation instead of two.
        T. Kynkäänniemi et al., *Applying guidance in a limited interval improves sample and distribution quality in diffusion
        models*, 2024, arXiv:2404.07724. Their levels ``sigma / alpha`` are times by ``sde.time(level**-2)``.

    Raises
    ------
    ValueError
        If the interval is out of order, or the scale not finite.
    """

    def __init__(
        self,
        model: Any,
        scale: float,
        null: dict[str, Any] | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(model)
        if not torch.tensor(float(scale)).isfinite():
            raise ValueError(f"scale = {scale}; give a finite number, 1 for the conditional model.")
        if interval is not None and not interval[0] <= interval[1]:
            raise ValueError(f"interval = {tuple(interval)}; give (first, last) in increasing order of time.")
        self.scale, self.null, self.interval = float(scale), {} if null is None else null, interval

    def _weight(self, t: Tensor | float) -> Tensor:
        """``scale − 1``, 0 outside the interval."""
        t = torch.as_tensor(t, dtype=torch.float64).cpu()
        first, last = (-torch.inf, torch.inf) if self.interval is None else self.interval
        return torch.where((first <= t) & (t <= last), self.scale - 1, 0.0).double()

    def _combine(
        self, reading: Callable[..., Tensor], x: Tensor, at: Any, weight: Scale | None, cond: dict[str, Any]
    ) -> Tensor:
        """``given + (scale − 1) (given − null)``; the null model is asked only where it has a say."""
        given = reading(x, at, **cond)
        return given if weight is None else given + weight(given - reading(x, at, **self.null))

    def _read(self, reading: Callable[..., Tensor], x: Tensor, t: Tensor | float, cond: dict[str, Any]) -> Tensor:
        weight = self._weight(t)
        return self._combine(reading, x, t, Scale(weight) if weight.any() else None, cond)

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """The model's questions, and ``scale − 1`` at each of the times."""
        given, weight = self.model.ask(t, **weights), self._weight(t)
        scale = Scale(weight).prepared(self.like)
        return [(question, scale[i] if weight[i] else None) for i, question in enumerate(given)]

    def answer(self, x: Tensor, question: Any, **cond: Any) -> Tensor:
        """The combined answer: what holds for readings holds for their sums with the same state."""
        asked, weight = question
        return self._combine(self.model.answer, x, asked, weight, cond)

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The combined score."""
        return self._read(self.model.score, x, t, cond)

    def velocity(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The combined velocity."""
        return self._read(self.model.velocity, x, t, cond)

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The combined clean state and noise."""

        def both(x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
            return torch.stack(self.model.estimate(x, t, **cond), 1)

        x_0, eps = self._read(both, x, t, cond).unbind(1)
        return x_0, eps
