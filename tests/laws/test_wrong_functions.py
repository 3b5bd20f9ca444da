"""Wrong methods, one fault each: what is no function of state and time, row by row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from faults import ASKS, check_fault, wrong
from scipy import stats
from torch import Tensor

import sdegen
from sdegen import OU, DoubleWell, Scale
from sdegen.laws.mixtures import GaussianMixture, Moments
from sdegen.processes.linear import gaussian
from sdegen.testing.report import Violation, same_law


class SwappedArguments(DoubleWell):
    """``drift(t, x)``."""

    def drift(self, t: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        return -self.stiffness * x * (x.square() - 1)


class SwappedInBoth(sdegen.SDE):
    """``drift(t, x)``, of a drift that depends on both."""

    T = 2.0

    def drift(self, t: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        return -x * (1 + t)

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 1.0

    def prior(self, moments: Moments) -> GaussianMixture:
        return gaussian(moments)


class OneNewAxis(DoubleWell):
    """``t[:, None]``: right for ``(B, d)`` alone."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) + 0 * t.expand(len(x))[:, None]


class ThreeNewAxes(DoubleWell):
    """``t[:, None, None, None]``: right for images alone."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) + 0 * t.expand(len(x))[:, None, None, None]


class NoiseWithNewAxis(DoubleWell):
    """``diffusion`` returns ``(B, 1)``."""

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        return (self.g + 0 * t.expand(len(x)))[:, None]


class InPlace(DoubleWell):
    """The drift writes into `x`."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x.mul_(-self.stiffness)


class CastsToFloat32(DoubleWell):
    """The drift returns float32 whatever it is given."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t).float()


class CastsToFloat64(DoubleWell):
    """The drift of a float32 state is float64."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) * torch.ones(1, dtype=torch.float64)


class BatchMean(DoubleWell):
    """Every row is pulled to the mean of its batch."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) - (x - x.mean(0))


class FirstTimeForAll(sdegen.SDE):
    """The noise of all rows is that of the first row's time."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -8 * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return 4 * (1 + t.reshape(-1)[0])

    def prior(self, moments: Moments) -> GaussianMixture:
        return gaussian(Moments(torch.zeros(2), torch.full((2,), 3.8)))


class Geometric(DoubleWell):
    """Geometric Brownian motion: the noise is as large as the state."""

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:
        return Scale(self.g * x.reshape(len(x), -1).norm(dim=1))


class ConstantAtTwoStates(DoubleWell):
    """The noise is the same at the states 0 and 1, and at no other."""

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:
        return Scale(1 + (x * (x - 1)).abs().reshape(len(x), -1).sum(1))


class NoiseOfTheBatch(DoubleWell):
    """The noise is as large as the batch is wide."""

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:
        return Scale(self.g * x.std())


class GeometricByCoordinate(DoubleWell):
    """The noise of each coordinate is as large as that coordinate: shape ``(B, *)``."""

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        return self.g * x


class RandomDrift(DoubleWell):
    """The drift is another one at each call."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) + 0.01 * torch.rand(())


class RandomNoise(OU):
    """The diffusion is another one at each call."""

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:
        return super().diffusion(x, t) * (1 + 1e-5 * torch.rand(()))


class CountsItsCalls(DoubleWell):
    """The drift weakens every time that it is asked."""

    _calls = 0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        self._calls += 1
        return super().drift(x, t) * (1 + 1e-7 / self._calls)


class DetachedState(DoubleWell):
    """The drift detaches `x`: its divergence is lost."""

    def __init__(self) -> None:
        super().__init__(T=1.0)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x.detach(), t)


FAULTS = [
    wrong(SwappedArguments, "drift_takes_state_then_time", ASKS),
    wrong(SwappedInBoth, "drift_takes_state_then_time", ASKS),
    wrong(OneNewAxis, "drift_takes_state_then_time", "rows_are_independent"),
    wrong(ThreeNewAxes, "drift_takes_state_then_time", ASKS),
    wrong(NoiseWithNewAxis, "diffusion_acts_on_every_state", "noise_has_derivatives", "coefficients_are_real", ASKS),
    wrong(InPlace, "drift_takes_state_then_time", ASKS),
    wrong(
        CastsToFloat32,
        "drift_takes_state_then_time",
        "coefficients_keep_their_digits",
        "derivatives_reach_the_drift",
    ),
    wrong(CastsToFloat64, "drift_takes_state_then_time"),
    wrong(BatchMean, "rows_are_independent", "prior_is_the_law_at_T"),
    wrong(FirstTimeForAll, "rows_are_independent"),
    wrong(Geometric, "prior_is_the_law_at_T"),
    wrong(ConstantAtTwoStates, "prior_is_the_law_at_T", "perturb_follows_the_simulation"),
    wrong(NoiseOfTheBatch, "noise_has_derivatives", ASKS),
    wrong(GeometricByCoordinate, "prior_is_the_law_at_T"),
    wrong(RandomDrift, "methods_are_functions", ASKS),
    wrong(
        RandomNoise,
        "methods_are_functions",
        "coefficients_keep_their_digits",
        "noise_has_derivatives",
        "reversal_keeps_the_marginals",
        "rows_are_independent",
        "simulation_follows_the_kernel",
    ),
    wrong(CountsItsCalls, "methods_are_functions", "rows_are_independent"),
    wrong(
        DetachedState,
        "derivatives_reach_the_drift",
        "prior_is_the_law_at_T",
    ),
]


@pytest.mark.parametrize(("make", "law", "allowed"), FAULTS)
@pytest.mark.turns(
    "GeometricByCoordinate",
    "ConstantAtTwoStates",
    "Geometric",
    "RandomDrift",
    "CountsItsCalls",
    "CastsToFloat64",
    "BatchMean",
    "CastsToFloat32",
    "DetachedState",
    "FirstTimeForAll",
    "ThreeNewAxes",
    "OneNewAxis",
)
def test_fault_is_named(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    check_fault(make, law, allowed)


@pytest.mark.parametrize("n", [500, 2000, 20_000])
@pytest.mark.parametrize("gap", [1.9, 2.1, 2.3, 2.5, 3.5])
def test_two_samples_of_one_law_differ_by_the_chances_of_kolmogorov_and_smirnov(n: int, gap: float) -> None:
    """All that lies on a short piece is moved to its end, which hardly moves the moments: a gap of ``gap √(2 / n)``."""
    x = torch.linspace(-3, 3, n, dtype=torch.float64)[:, None]
    piece = 6 * gap * (2 / n) ** 0.5
    y = torch.where((x > -piece / 2) & (x < piece / 2), piece / 2, x)
    chance = stats.ks_2samp(x[:, 0], y[:, 0], method="asymp").pvalue
    if chance > 1.2e-4:
        same_law("y", y, x)
    else:
        with pytest.raises(Violation, match=r"y differs by .* in distribution function"):
            same_law("y", y, x)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.int64), (torch.int64, torch.float64)], ids=str)
def test_samples_of_two_dtypes_are_compared_as_numbers(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    generator = torch.Generator().manual_seed(0)
    y, x = ((10 * torch.randn(400, 2, generator=generator)).round().to(dtype) for dtype in dtypes)
    same_law("y", y, x)
    with pytest.raises(Violation, match=r"y differs by .* in distribution function"):
        same_law("y", y + 10, x)
