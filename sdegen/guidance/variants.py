"""Published variants of guidance: projected (`APG`), with one scale for each step (`CFGPlusPlus`), fitted (`CFGZeroStar`).

None of them samples the tilted law ``p(x) p(c | x)^w``; docs/theory/guidance.md measures how far each is from it.
"""

from __future__ import annotations

__all__ = ["APG", "CFGPlusPlus", "CFGZeroStar"]

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_number, check_tensor
from ..laws.operators import Scale, rows
from ..laws.vectors import as_vectors, dot
from ..models.score import ScoreModel
from ..processes.linear import as_linear
from ..processes.scalar import as_scalar
from .base import CleanState, check_units, inverse
from .free import AffineExtrapolation, AgainstNull

SAME = 1e-6  # of a time: the difference up to which two times count as one; more than rounding to float32


class APG(CleanState, AgainstNull):
    """Adaptive projected guidance: guidance without its part that only stretches the predicted data, and of bounded length.

    With ``Δ = D_cond − D_null``, shortened to `radius` at most, and its part ``Δ∥`` along the prediction ``D_cond``,

        D = D_cond + (scale − 1) (Δ − (1 − parallel) Δ∥).

    S. Sadat, O. Hilliges, R. Weber, *Eliminating oversaturation and artifacts of high guidance scales in diffusion models*, 2024,
    arXiv:2410.02416. Their momentum, a mean of Δ over the steps of a run, is left out, since a score model does not know of
    steps.

    Parameters
    ----------
    model, scale, null, interval, drop
        As for `ClassifierFree`, which this is for ``parallel = 1`` and an infinite radius.
    radius
        The largest length of Δ, over all numbers of a datum, in the units of the process.
    parallel
        The share of the part along the prediction that is kept; 0 for none.

    Raises
    ------
    ValueError
        If `radius` is not positive, `parallel` not in [0, 1], or as for `ClassifierFree`.
    TypeError
        As for `ClassifierFree`.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        scale: float,
        null: dict[str, Any] | None = None,
        interval: tuple[float, float] | None = None,
        drop: Sequence[str] | None = None,
        radius: float = math.inf,
        parallel: float = 0.0,
    ) -> None:
        super().__init__(model, scale, null, interval, drop)
        if not radius > 0:
            raise ValueError(f"radius = {radius}; give a positive length, math.inf for no bound.")
        self.radius, self.parallel = radius, check_number("parallel", parallel, at_least=0, at_most=1)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the guided clean state and its noise."""
        check_units(self.sde, self.weak.sde, "the weaker model")
        x_0, eps = self.model.estimate(x, t, **cond)
        weight = self._weight(t)
        if not weight.any():
            return x_0, eps
        data = self.sde.extract(x_0)
        apart = data - self.sde.extract(self.weak.estimate(x, t, **cond)[0])
        if math.isfinite(self.radius):  # an infinite quotient has no derivative, nor has one of length 0
            apart = apart * rows(self.radius / as_vectors(apart).norm(dim=1).clamp_min(self.radius), apart)
        along = dot(apart, data) / dot(data, data).clamp_min(1e-30)
        apart = apart - data * rows((1 - self.parallel) * along, data)
        return self._restated(t, x_0, eps, data + Scale(weight)(apart))


class CFGPlusPlus(AgainstNull, AffineExtrapolation):
    """CFG++ guidance: steps go to the guided data, and keep the noise of the model without condition.

    A step of `DDIM` without noise takes the data from the guided prediction and puts the noise back from the prediction without
    condition, ``x_s = α_s (D_null + λ Δ) + σ_s ε_null`` with ``Δ = D_cond − D_null``. Classifier-free guidance of scale `w` puts
    its own noise back, ``ε_null − w Δ / ρ_t`` with ``ρ = σ / α``, and so moves by ``w α_s (1 − ρ_s / ρ_t) Δ`` where this moves by
    ``λ α_s Δ``. The two are one step if

        w(t) = λ / (1 − ρ_s / ρ_t),

    which is the scale of this model at the given times. H. Chung et al., *CFG++: manifold-constrained classifier free guidance
    for diffusion models*, 2024, arXiv:2406.08070; they take `λ` from 0 to 1. So there is no limit of many steps: for a fixed `λ`
    the scale grows with their number, except in the last step, where it is `λ`.

    Parameters
    ----------
    model, null, drop
        As for `ClassifierFree`.
    scale
        `λ`.
    times
        The times of the run, falling, ``sampler.times(model.sde, denoise=True)``; for a time between two of them, `s` is the
        later in the run.

    Raises
    ------
    TypeError
        If the process is not scalar, or as for `ClassifierFree`.
    ValueError
        If there are no times, or they do not fall from T at most to 0 at least, or the scale is not finite.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        scale: float,
        times: Tensor,
        null: dict[str, Any] | None = None,
        drop: Sequence[str] | None = None,
    ) -> None:
        super().__init__(model, scale, null, drop=drop)
        sde = as_scalar(model.sde, ": the scale of a step is a number for each time; use ClassifierFree.")
        check_tensor("times", times, shape=(None,))
        self.times = times.double().cpu()
        ends = len(times) > 0 and self.times[0] <= sde.T * (1 + SAME) and self.times[-1] >= 0
        if not ends or not (self.times.diff() < 0).all():
            raise ValueError(f"times = {times.tolist()}; give those of a run, which fall within [0, {sde.T:g}].")
        self._rising = self.times.flip(0)
        data = self.times.new_full((1,), torch.inf)  # where the last step ends
        self._log_snr = torch.cat([data, sde.marginal(self._rising.clamp_max(sde.T)).log_snr])

    def planned_by(self) -> Any:
        """Return what plans of both models depend on, and the times."""
        return super().planned_by(), tuple(self.times.tolist())

    def _weight(self, t: Tensor | float) -> Tensor:
        """Return ``w(t) − 1``."""
        sde, t = as_linear(self.model.sde, ""), torch.as_tensor(t, dtype=torch.float64).cpu()
        place = torch.searchsorted(self._rising, t * (1 - SAME))  # the end of the step among those of all
        ratio = (0.5 * (sde.marginal(t).log_snr - self._log_snr[place])).exp()
        return self.scale / (1 - torch.where(place > 0, ratio, 0.0)) - 1


class CFGZeroStar(AgainstNull):
    """CFG-Zero* guidance: the velocity without condition is scaled to come nearest to that with the condition, and states rest
    early in a run.

    ``u = s u_null + scale (u_cond − s u_null)`` with ``s = ⟨u_cond, u_null⟩ / ‖u_null‖²`` for each sample, and ``u = 0`` at times
    after `rest`. Here ``u = E[z | x] − E[x_0 | x]`` is the velocity of straight paths from data to noise, as `Rectified` has
    them; other scalar processes have the same paths in ``x / (alpha + sigma)``. W. Fan et al., *CFG-Zero\\*: improved
    classifier-free guidance for flow matching models*, 2025, arXiv:2503.18886.

    Parameters
    ----------
    model, scale, null, interval, drop
        As for `ClassifierFree`.
    rest
        The time after which the velocity is 0, such as ``0.96 * sde.T``; by default none.

    Raises
    ------
    ValueError
        If `rest` is no time of the process after 0, or as for `ClassifierFree`.
    TypeError
        If the process is not scalar, or as for `ClassifierFree`.
    """

    @check_arguments
    def __init__(
        self,
        model: ScoreModel,
        scale: float,
        null: dict[str, Any] | None = None,
        interval: tuple[float, float] | None = None,
        drop: Sequence[str] | None = None,
        rest: float | None = None,
    ) -> None:
        super().__init__(model, scale, null, interval, drop)
        as_scalar(model.sde, ": its paths from data to noise are not straight; use ClassifierFree.")
        self.rest = None if rest is None else check_number("rest", rest, above=0, at_most=model.sde.T)

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the clean state and the noise of the guided velocity."""
        check_units(self.sde, self.weak.sde, "the weaker model")
        (x_0, eps), weight, at = self.model.estimate(x, t, **cond), self._weight(t), self._marginal(t)
        given = u = eps - x_0
        if weight.any():
            data, noise = self.weak.estimate(x, t, **cond)
            null = noise - data
            size = dot(null, null).clamp_min(1e-30)
            fitted = null * rows(dot(given, null) / size, null)
            u = given + Scale(weight)(given - fitted)
        if self.rest is not None:
            u = Scale((at.t.cpu() <= self.rest).double())(u)
        change, share = u - given, inverse(at.Phi + at.R)  # both share it: the state stays as it is
        return x_0 - (share @ at.R)(change), eps + (share @ at.Phi)(change)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        """Return the score of the guided velocity."""
        return self._marginal(t).score_from_noise(self.noise(x, t, **cond))
