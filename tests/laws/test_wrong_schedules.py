"""Wrong schedules, one fault each: coefficients, ends, shapes and digits of scalar processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from faults import CONTRADICTION, NOT_A_NUMBER, ShrunkData, TooShort, check_fault, wrong
from torch import Tensor

import sdegen
from sdegen import DDPM, OU, VE, VP, Cosine, SubVP
from sdegen.laws.mixtures import GaussianMixture, Moments
from sdegen.processes.linear import gaussian

# --- coefficients that contradict the schedule --------------------------------------------------------------------


class DoubledSlope(Cosine):
    """``g`` takes ``sigma'`` twice."""

    def g(self, t: Tensor) -> Tensor:
        angle = 0.5 * math.pi * t
        return (2 * angle.sin() * (math.pi * angle.cos() - self.f(t) * angle.sin())).sqrt()


class FlippedDrift(OU):
    """The drift pushes outwards."""

    def f(self, t: Tensor) -> Tensor:
        return self.rate + 0 * t


class DriftWithoutHalf(VP):
    """``f = −beta``."""

    def f(self, t: Tensor) -> Tensor:
        return -self.beta(t)


class NoiseWithoutTwo(OU):
    """``g² = rate``: half of what the schedule says."""

    def g(self, t: Tensor) -> Tensor:
        return math.sqrt(self.rate) + 0 * t


class NoiseSquared(VP):
    """``g = beta``: the root is forgotten."""

    def g(self, t: Tensor) -> Tensor:
        return self.beta(t)


class ExponentWithoutHalf(VP):
    """``alpha = exp(−∫ beta)``, with the drift ``−½ beta``."""

    def alpha(self, t: Tensor) -> Tensor:
        return (-self.integral(t)).exp()

    time = sdegen.LinearSDE.time


class StepsForTimeInSchedule(VP):
    """The schedule reads `t` in steps of 1000, the coefficients in ``[0, 1]``."""

    def integral(self, t: Tensor) -> Tensor:
        return 1000 * super().integral(t / 1000)

    time = sdegen.LinearSDE.time


class ReversedNoise(VP):
    """``g`` runs from noise to data: ``beta(1 − t)``."""

    def g(self, t: Tensor) -> Tensor:
        return self.beta(self.T - t).sqrt()


# --- ends of the process ----------------------------------------------------------------------------------------


class ForgottenSigmaMin(VE):
    """The closed form starts at 0, the declared ``sigma_0`` is ``sigma_min``."""

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(2 * t * self.log_ratio).sqrt()

    def g(self, t: Tensor) -> Tensor:
        return self.sigma_min * (t * self.log_ratio).exp() * math.sqrt(2 * self.log_ratio)

    time = sdegen.LinearSDE.time


class HiddenSmoothing(sdegen.ScheduleSDE):
    """``sigma(0) = 0.05`` and ``sigma_0`` left at 0."""

    T = 10.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 + 0 * t

    def sigma(self, t: Tensor) -> Tensor:
        return 0.05 + t


class ClampedTime(OU):
    """The schedule never sees a time below 1e-3."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t.clamp_min(1e-3))

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t.clamp_min(1e-3))


class ClampedNoise(SubVP):
    """``g`` never sees a time below 1e-3."""

    def g(self, t: Tensor) -> Tensor:
        return super().g(t.clamp_min(1e-3))


class TooLittleNoise(VP):
    """``beta_max = 1`` leaves most of the data at T, and the prior says ``N(0, I)``."""

    def __init__(self) -> None:
        super().__init__(0.1, 1.0)

    def prior(self, moments: Moments) -> GaussianMixture:
        return gaussian(Moments(torch.zeros_like(moments.mean), torch.ones_like(moments.covariance.diagonal())))


class StepsForTime(sdegen.ScalarSDE):
    """`t` is taken in steps of 1000, and T stays 1: almost nothing happens."""

    def f(self, t: Tensor) -> Tensor:
        return -0.5 * (0.1 + 19.9 * t / 1000)

    def g(self, t: Tensor) -> Tensor:
        return (0.1 + 19.9 * t / 1000).sqrt()


class UnitPrior(VE):
    """The prior forgets ``sigma_max``."""

    def prior(self, moments: Moments) -> GaussianMixture:
        return gaussian(Moments(torch.zeros_like(moments.mean), torch.ones_like(moments.covariance.diagonal())))


class PriorSampledTwiceAsWide(OU):
    """The prior's density is right, and its samples have twice the scale."""

    def prior(self, moments: Moments) -> Any:
        class Wide(GaussianMixture):
            def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
                return 2 * super().sample(n, generator)

        law = super().prior(moments)
        return Wide(law.weights, law.means, law.covariances)


# --- shape of the schedule ----------------------------------------------------------------------------------------


class RisingSignal(sdegen.ScheduleSDE):
    """The noise falls again between 0.4 and 0.6: no forward SDE does that."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 + 0 * t

    def sigma(self, t: Tensor) -> Tensor:
        return 5 * (t + 0.2 * torch.sin(2 * math.pi * t))


class FlatSignal(sdegen.ScheduleSDE):
    """The noise all but pauses in the middle: the signal-to-noise ratio has no inverse there."""

    sigma_0 = 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return 1 + 0 * t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 + 15 * (1 + (2 * t - 1) ** 15)


class NegativeBeta(VP):
    """``beta`` dips below 0 in the middle, and ``g`` is its root."""

    def beta(self, t: Tensor) -> Tensor:
        return 10 + 12 * torch.cos(2 * math.pi * t)

    def integral(self, t: Tensor) -> Tensor:
        return 10 * t + 12 * torch.sin(2 * math.pi * t) / (2 * math.pi)

    time = sdegen.LinearSDE.time


class WrongInverse(VP):
    """`time` forgets the factor 2 of the quadratic formula."""

    def time(self, snr: Tensor | float) -> Tensor:
        return 0.5 * super().time(snr)


class RootOfRatio(OU):
    """`snr` returns ``alpha / sigma``."""

    def snr(self, t: Tensor | float) -> Tensor:
        return super().snr(t).sqrt()

    time = sdegen.LinearSDE.time


class NoiseOfAnotherTable(DDPM):
    """``g`` is 1 % too large, in a process of a thousand pieces."""

    def g(self, t: Tensor) -> Tensor:
        return 1.01 * super().g(t)


class OneStepLate(DDPM):
    """The schedule's first step lies at ``t = 0``: an index off by one."""

    def _log_alpha(self, t: Tensor) -> Tensor:
        return super()._log_alpha(t + 1 / self.N)


class UndeclaredJump(sdegen.ScalarSDE):
    """The noise jumps at ``t = 1/3``, and no `piece` is declared."""

    def f(self, t: Tensor) -> Tensor:
        return -5 + 0 * t

    def g(self, t: Tensor) -> Tensor:
        return torch.where(t < 1 / 3, 1.0, 3.0)


# --- digits and derivatives ---------------------------------------------------------------------------------------


class LostDigits(VP):
    """``1 − exp(−∫ beta)`` instead of ``expm1``."""

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - (-self.integral(t)).exp()).sqrt()


class SinglePrecisionSchedule(VP):
    """``sigma`` is computed in float32."""

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t.float()).double()


class SinglePrecisionCoefficient(VP):
    """``g`` is computed in float32."""

    def g(self, t: Tensor) -> Tensor:
        return super().g(t.float()).double()


class SinglePrecisionTwoMethods(sdegen.ScalarSDE):
    """Both coefficients are computed in float32."""

    def f(self, t: Tensor) -> Tensor:
        return -10 * t.float()

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t.float()).sqrt()


class FloatOfTime(OU):
    """``alpha`` goes through ``float(t)``, which ends the derivative."""

    def alpha(self, t: Tensor) -> Tensor:
        values = [math.exp(-self.rate * float(u)) for u in t.reshape(-1)]
        return torch.tensor(values, dtype=torch.float64).reshape(t.shape)


class LostDigitsOfOU(OU):
    """``1 − exp`` again, where it is harder to see: the rate is 20 times that of `VP` at 0."""

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - (-2 * self.rate * t).exp()).sqrt()


class DetachedTime(VP):
    """``sigma`` detaches its time."""

    def sigma(self, t: Tensor) -> Tensor:
        return super().sigma(t.detach())


class NumpySchedule(OU):
    """``sigma`` goes through NumPy."""

    def sigma(self, t: Tensor) -> Tensor:
        return torch.as_tensor(np.sqrt(-np.expm1(-2 * self.rate * t.numpy())))


FAULTS = [
    wrong(DoubledSlope, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(FlippedDrift, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(DriftWithoutHalf, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(NoiseWithoutTwo, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(NoiseSquared, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(ExponentWithoutHalf, "closed_form_matches_coefficients", CONTRADICTION, "flow_carries_the_marginals"),
    wrong(StepsForTimeInSchedule, "closed_form_matches_coefficients", CONTRADICTION, "prior_is_the_law_at_T"),
    wrong(ReversedNoise, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(NoiseOfAnotherTable, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(ForgottenSigmaMin, "marginal_starts_at_the_data", "schedule_keeps_its_digits"),
    wrong(HiddenSmoothing, "marginal_starts_at_the_data", "schedule_keeps_its_digits"),
    wrong(ShrunkData, "marginal_starts_at_the_data"),
    wrong(ClampedTime, "marginal_starts_at_the_data", "schedule_keeps_its_digits"),
    wrong(ClampedNoise, "schedule_keeps_its_digits"),
    wrong(TooLittleNoise, "prior_is_the_law_at_T"),
    wrong(TooShort, "prior_is_the_law_at_T"),
    wrong(StepsForTime, "prior_is_the_law_at_T"),
    wrong(UnitPrior, "prior_is_the_law_at_T"),
    wrong(PriorSampledTwiceAsWide, "prior_is_the_law_at_T"),
    wrong(OneStepLate, "marginal_starts_at_the_data", "schedule_keeps_its_digits"),
    wrong(RisingSignal, "signal_to_noise_decreases", NOT_A_NUMBER, "coefficients_are_real"),
    wrong(FlatSignal, "signal_to_noise_decreases", "clock_inverts_the_snr"),
    wrong(NegativeBeta, "coefficients_are_real", NOT_A_NUMBER, "signal_to_noise_decreases"),
    wrong(WrongInverse, "clock_inverts_the_snr", "flow_carries_the_marginals"),
    wrong(RootOfRatio, "clock_inverts_the_snr", "flow_carries_the_marginals"),
    wrong(
        UndeclaredJump,
        "moments_follow_their_odes",
        CONTRADICTION,
        "derivatives_reach_the_schedule",
        "flow_carries_the_marginals",
    ),
    wrong(LostDigits, "schedule_keeps_its_digits"),
    wrong(LostDigitsOfOU, "schedule_keeps_its_digits"),
    wrong(
        SinglePrecisionSchedule,
        "schedule_keeps_its_digits",
        CONTRADICTION,
        "clock_inverts_the_snr",
        "derivatives_reach_the_schedule",
        "flow_carries_the_marginals",
    ),
    wrong(
        SinglePrecisionCoefficient,
        "coefficients_keep_their_digits",
        "schedule_keeps_its_digits",
    ),
    wrong(
        SinglePrecisionTwoMethods,
        "coefficients_keep_their_digits",
        CONTRADICTION,
        "derivatives_reach_the_schedule",
    ),
    wrong(FloatOfTime, "derivatives_reach_the_schedule"),
    wrong(DetachedTime, "derivatives_reach_the_schedule"),
    wrong(NumpySchedule, "derivatives_reach_the_schedule", "clock_inverts_the_snr"),
]


@pytest.mark.parametrize(("make", "law", "allowed"), FAULTS)
@pytest.mark.turns(
    "RisingSignal",
    "ShrunkData",
    "NoiseOfAnotherTable",
    "OneStepLate",
    "SinglePrecisionTwoMethods",
    "FlatSignal",
    "HiddenSmoothing",
    "UndeclaredJump",
    "DoubledSlope",
    "NegativeBeta",
    "StepsForTimeInSchedule",
    "ExponentWithoutHalf",
    "SinglePrecisionCoefficient",
)
def test_fault_is_named(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    check_fault(make, law, allowed)
