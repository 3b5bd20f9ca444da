"""Guidance without a classifier: one model with and without its condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..operators import Operator, Scale, rows
from .base import CleanState, Guided


class Extrapolated(Guided):
    """A conditional model, and the same without its condition: ``given + (scale − 1) (given − null)`` of a reading.

    J. Ho and T. Salimans, *Classifier-free diffusion guidance*, 2022, arXiv:2207.12598.

    Parameters
    ----------
    model, scale, null, interval
        As for `ClassifierFree`.

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

    def _both(
        self, reading: Callable[..., Tensor], x: Tensor, at: Any, weight: Scale | None, cond: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The conditional reading and the extrapolated one; the null model is asked only where it has a say."""
        given = reading(x, at, **cond)
        return given, given if weight is None else given + weight(given - reading(x, at, **self.null))

    def _read(
        self, reading: Callable[..., Tensor], x: Tensor, t: Tensor | float, cond: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Both at the times `t`."""
        weight = self._weight(t)
        return self._both(reading, x, t, Scale(weight) if weight.any() else None, cond)

    def _estimates(self, x: Tensor, t: Tensor | float, cond: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Clean state and noise of both, ``(B, 2, *)`` each."""

        def stacked(x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
            return torch.stack(self.model.estimate(x, t, **cond), 1)

        return self._read(stacked, x, t, cond)


class ClassifierFree(Extrapolated):
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

    def ask(self, t: Tensor, **weights: Operator | None) -> list[Any]:
        """The model's questions, and ``scale − 1`` at each of the times."""
        given, weight = self.model.ask(t, **weights), self._weight(t)
        scale = Scale(weight).prepared(self.like)
        return [(question, scale[i] if weight[i] else None) for i, question in enumerate(given)]

    def answer(self, x: Tensor, question: Any, **cond: Any) -> Tensor:
        """The combined answer: what holds for readings holds for their sums with the same state."""
        asked, weight = question
        return self._both(self.model.answer, x, asked, weight, cond)[1]

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The combined score."""
        return self._read(self.model.score, x, t, cond)[1]

    def velocity(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """The combined velocity."""
        return self._read(self.model.velocity, x, t, cond)[1]

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The combined clean state and noise."""
        x_0, eps = self._estimates(x, t, cond)[1].unbind(1)
        return x_0, eps


class RescaledGuidance(CleanState, Extrapolated):
    """Classifier-free guidance whose clean data keep the contrast of the conditional ones.

    ``x_0' = x_cfg (1 + rescale (std(x_cond) / std(x_cfg) − 1))``, with standard deviations over the numbers of each sample:
    guidance spreads them, which over-exposes pictures. S. Lin, B. Liu, J. Li and X. Yang, *Common diffusion noise schedules and
    sample steps are flawed*, 2023, arXiv:2305.08891.

    The paper rescales what its network returns, a velocity. Here it is the clean data, whatever the network returns: theirs is
    the contrast that is to be kept, a velocity at small noise is noise alone, and samples do not depend on how the network is
    parametrised. Where ``alpha = 0`` the velocity is minus the clean data, and the two agree. As in the paper the factor
    multiplies the mean of the sample too. Two evaluations of the network, one outside the interval.

    Parameters
    ----------
    model, scale, null, interval
        As for `ClassifierFree`, which this is for ``rescale = 0``.
    rescale
        In [0, 1]; 1 gives the conditional model's standard deviation, and the paper's choice is 0.7.

    Raises
    ------
    ValueError
        If the interval is out of order, the scale not finite or `rescale` not in [0, 1]; and for data of one number, which have
        no standard deviation.
    """

    def __init__(
        self,
        model: Any,
        scale: float,
        rescale: float = 0.7,
        null: dict[str, Any] | None = None,
        interval: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(model, scale, null, interval)
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale = {rescale}; give a weight in [0, 1], 0 for guidance as it is.")
        self.rescale = rescale

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The rescaled clean state and its noise."""
        given, guided = self._estimates(x, t, cond)
        x_0, eps = guided.unbind(1)
        data = self.sde.project(x_0)
        return self._restated(t, x_0, eps, data * self._factor(self.sde.project(given[:, 0]), data))

    def _factor(self, given: Tensor, data: Tensor) -> Tensor:
        """``1 + rescale (std(given) / std(data) − 1)`` of each sample; 1 where the data have no spread to change."""
        if data[:1].numel() < 2:
            raise ValueError(
                f"data of shape {tuple(data.shape)} have one number a sample, whose standard deviation is not defined; use "
                "ClassifierFree."
            )
        own, spread = given.flatten(1).std(1), data.flatten(1).std(1)
        ratio = torch.where(spread > 0, own / spread, 1.0)
        return rows(1 + self.rescale * (ratio - 1), data)
