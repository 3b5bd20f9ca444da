"""Guidance: models made of models. Each is a `ScoreModel` again, so every sampler takes it as it is.

A wrapper changes what a trained model says while sampling, never its weights; all readings of the changed estimate agree.
It is a module only so that samplers find the dtype, device and mode of the network inside. Train the model, then wrap it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
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
    """A model around another: its process, and the moments of its data.

    Parameters
    ----------
    model
        Any score model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.sde, self.end = model, model.sde, model.end

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

    def reverse_step(self, x: Tensor, question: Any, s: Tensor, t: Tensor, z: Tensor, **cond: Any) -> Tensor:
        """The changed mean, with the noise that the model inside has learned."""
        return self.answer(x, question, **cond) + self.reverse_noise(x, s, t, z, **cond)


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
        to_clean = inverse(at.Phi) @ at.R * taken  # where alpha = 0 nothing is taken
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


class CleanState(Guided):
    """A model whose predicted clean state is changed, and the noise with it: ``eps' = eps + R⁻¹ Phi (x_0 − x_0')``.

    So ``x = Phi x_0' + R eps'`` still holds, and every sampler follows the changed estimate. Where `R` is singular, which it
    is at ``t = 0`` of most processes, the state alone does not tell the noise, and it is left as the model gives it.
    What is changed are the data in the clean state, ``project(x_0)``; other channels of a matrix process stay.
    Subclass it with `estimate`, by way of `_restated`.

    Parameters
    ----------
    model
        A score model of a linear process.
    others
        Passed on to the constructor of another base, as `RescaledGuidance` has one in `Extrapolated`.

    Raises
    ------
    TypeError
        If the process is not linear: it has no closed-form clean state.
    """

    def __init__(self, model: Any, *others: Any) -> None:
        super().__init__(model, *others)
        if not self.sde.is_linear:
            raise TypeError(
                f"{type(self.sde).__name__} is not linear: its noised states have no closed-form posterior means to change; "
                f"sample without {type(self).__name__}."
            )

    @abstractmethod
    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The changed clean state, and the noise that belongs to it."""

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """``−R⁻ᵀ eps'``."""
        return self._marginal(t).score_from_noise(self.noise(x, t, **cond))

    def _restated(self, t: Tensor | float, x_0: Tensor, eps: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        """The clean state with other `data` in it, and its noise."""
        at, lift = self._marginal(t), self.sde.lift
        old = self.sde.project(x_0)
        to_noise = inverse(at.R) @ at.Phi
        return x_0 - lift(old) + lift(data), eps + to_noise(lift(old - data))


class Clipped(CleanState):
    """Static thresholding: the predicted clean data clipped to ``[low, high]``, the range that all data lie in.

    Used since J. Ho, A. Jain and P. Abbeel, *Denoising diffusion probabilistic models*, 2020, arXiv:2006.11239; named in
    C. Saharia et al., *Photorealistic text-to-image diffusion models with deep language understanding* (Imagen), 2022,
    arXiv:2205.11487. To clip what guidance gives, wrap the guided model.

    Parameters
    ----------
    model
        A score model of a linear process.
    low, high
        The range; one of them may be infinite.

    Raises
    ------
    ValueError
        If ``low < high`` does not hold.

    Examples
    --------
    >>> import sdegen
    >>> model = Clipped(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), -1, 1)
    >>> sdegen.sample(model, 100, seed=0).abs().max().item()
    1.0
    """

    def __init__(self, model: Any, low: float, high: float) -> None:
        super().__init__(model)
        self.low, self.high = _range(low, high)

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """``clip(x_0, low, high)`` and its noise."""
        x_0, eps = self.model.estimate(x, t, **cond)
        return self._restated(t, x_0, eps, self.sde.project(x_0).clamp(self.low, self.high))


class DynamicThreshold(CleanState):
    """Dynamic thresholding: clean data clipped at a quantile of their own, then shrunk into ``[low, high]``.

    With the middle ``c = (low + high) / 2`` and half the width ``h``, sample by sample,
    ``x_0' = c + h clip((x_0 − c) / s, −1, 1)`` where `s` is the quantile of ``|x_0 − c|``, and at least `h`. Numbers pushed far
    out, as by guidance, then do not pile up at the ends. C. Saharia et al., *Photorealistic text-to-image diffusion models with
    deep language understanding* (Imagen), 2022, arXiv:2205.11487, whose range is [−1, 1].

    Parameters
    ----------
    model
        A score model of a linear process.
    low, high
        The range of the data.
    quantile
        In (0, 1]; `s` is the least of the sample's ``|x_0 − c|`` that at least this part of them do not exceed.

    Raises
    ------
    ValueError
        If the range is not finite or out of order, or the quantile not in (0, 1].
    """

    def __init__(self, model: Any, low: float, high: float, quantile: float = 0.995) -> None:
        super().__init__(model)
        self.low, self.high = _range(low, high)
        if math.isinf(self.high - self.low):
            raise ValueError(f"low = {low}, high = {high}; give a finite range, or use Clipped.")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile = {quantile}; give a part of the sample's numbers in (0, 1], such as 0.995.")
        self.quantile = quantile

    def estimate(self, x: Tensor, t: Tensor | float, **cond: Any) -> tuple[Tensor, Tensor]:
        """The thresholded clean state and its noise."""
        x_0, eps = self.model.estimate(x, t, **cond)
        middle, half = (self.low + self.high) / 2, (self.high - self.low) / 2
        centred = self.sde.project(x_0) - middle
        size = centred.flatten(1).abs()
        k = max(1, math.ceil(self.quantile * size.shape[1] - 1e-9))  # a product that is whole may round up
        s = rows(size.kthvalue(k, 1).values.clamp_min(half), centred)
        return self._restated(t, x_0, eps, middle + half * (centred / s).clamp(-1, 1))


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


def inverse(A: Any) -> Any:
    """The inverse of an operator, and 0 in the rows where it has none.

    Parameters
    ----------
    A
        An operator, of one time or of a row of times.
    """
    singular = A.log_abs_det().isneginf()
    return (A * ~singular + A.one() * singular).inv() * ~singular


def _range(low: float, high: float) -> tuple[float, float]:
    """The ends of a range, as numbers."""
    if not low < high:
        raise ValueError(f"low = {low}, high = {high}; give the range of the data in increasing order, such as -1, 1.")
    return float(low), float(high)
