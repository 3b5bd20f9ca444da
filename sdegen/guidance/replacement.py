"""Inpainting by replacement: predicted clean data that are made to agree with noiseless measurements, and the RePaint sampler."""

from __future__ import annotations

__all__ = ["Replacement", "repaint"]

from itertools import pairwise
from typing import Any

from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_count
from ..laws.mixtures import Moments
from ..models.score import ScoreModel
from ..samplers import Interval, Restart, Sampler
from .base import CleanState
from .conjugate_gradients import conjugate_gradients
from .measured import GivenMeasurement
from .measuring import LinearMeasurement, require_measured


class Replacement(GivenMeasurement, CleanState):
    """A score model whose predicted clean data are made to agree with a noiseless measurement: ``x_0' = x_0 + A⁺ (y − A x_0)``.

    With a mask the known coordinates are replaced, whose state then follows ``alpha y + sigma z`` exactly, whatever the sampler:
    the replacement method of Y. Song et al., 2021, arXiv:2011.13456. The other coordinates depend on them through the network
    alone, so edges do not fit; `repaint` goes back and forth to mend this. For other measurements it is the null-space method of
    Y. Wang, J. Yu, J. Zhang, *Zero-shot image restoration using denoising diffusion null-space model*, 2022, arXiv:2212.00490.
    The noise of the measurement is ignored.

    Parameters
    ----------
    model
        A score model of a linear process.
    measurement
        The measurement of the data, a linear map.
    iterations
        The number of iterations of the conjugate gradients that solve with ``A Aᵀ``; by default that of the measured numbers, at
        most 30.

    Raises
    ------
    TypeError
        If the process or the measurement is not linear.
    ValueError
        At a call, if `y` is missing or has another shape.
    """

    measurement: LinearMeasurement
    exactly = True

    @check_arguments
    def __init__(self, model: ScoreModel, measurement: LinearMeasurement, iterations: int | None = None) -> None:
        super().__init__(model)
        self.measurement = measurement
        self.iterations = None if iterations is None else check_count("iterations", iterations)

    def conditional_moments(self, /, **cond: Any) -> Moments | None:
        """Return None: samples are not draws of the posterior, and do not have its moments."""
        return None

    def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
        """Return the completed clean state and its noise."""
        A = self.measurement
        x_0, eps = self.model.estimate(x, t, **self.passed_on(**cond))
        data = self.sde.project(x_0)
        seen = A.measure(data)
        shape = data.shape[1:]
        u = conjugate_gradients(
            lambda u: A.measure(A.transpose(u, shape)), require_measured(cond, seen) - seen, self.iterations
        )
        return self._restated(t, x_0, eps, self.sde.standardise(data + A.transpose(u, shape)))


@check_arguments
def repaint(model: ScoreModel, sampler: Sampler, jump: int = 4, repeats: int = 8) -> Restart:
    """Return a RePaint sampler, which repeats stretches of its steps so that unknown parts come to fit those that `Replacement`
    sets.

    A. Lugmayr et al., *RePaint: inpainting using denoising diffusion probabilistic models*, 2022, arXiv:2201.09865. After every
    `jump` steps noise takes the state back to where these began, and they are taken again, `repeats` times. The samples do not
    have the exact conditional law: going back and forth only mixes states that are near each other.

    Parameters
    ----------
    model
        A score model of a linear process.
    sampler
        The sampler that makes the steps, on its grid.
    jump
        The number of steps that are repeated together.
    repeats
        The number of repeats.

    Raises
    ------
    ValueError
        If `repeats` is less than 1, or `jump` not from 1 to below the number of steps.
    """
    levels = [v for v in (-0.5 * model.sde.log_snr(sampler.times(model.sde, True))).exp().tolist() if v < float("inf")]
    if not 1 <= jump < len(levels):
        raise ValueError(
            f"jump = {jump} of {len(levels)} levels; give the number of steps to repeat, at least one and fewer than all."
        )
    ends = levels[::-1][::jump][::-1]  # counted from the data, where fitting matters
    return Restart(sampler, [Interval(low, high, repeats, jump) for high, low in pairwise(ends)])
