"""Wrong processes whose noise depends on the state, or whose states have bounds, and the right ones beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faults import check_fault, wrong
from torch import Tensor

import sdegen
from sdegen import CIR, CircularBrownianMotion, GeometricBrownianMotion, Jacobi, ReflectedBrownianMotion, SquaredBessel
from sdegen.laws.circle import WrappedGaussian
from sdegen.laws.harmonics import BoxHarmonics
from sdegen.laws.kernels import Kernel, StateLaw
from sdegen.laws.mixtures import GaussianMixture, Moments
from sdegen.laws.operators import Operator, Scale, rows
from sdegen.laws.positive import LogNormal
from sdegen.laws.reflected import ReflectedGaussian
from sdegen.processes.dynamics import diffusion_at, drift_at
from sdegen.testing import check_sde

RIGHT: list[sdegen.SDE] = [
    CIR(),
    CIR(2.0, 0.5, 0.7),
    GeometricBrownianMotion(),
    GeometricBrownianMotion(0.3, 0.6, 20.0),
    SquaredBessel(),
    CircularBrownianMotion(),
    ReflectedBrownianMotion(-1.0, 2.0),
    Jacobi(2.0, 3.0),
    sdegen.Transformed(CIR(), sdegen.coordinates.Log()),
    sdegen.Transformed(CIR(), sdegen.coordinates.SoftplusInverse()),
]


@pytest.mark.turns("CIR*")
@pytest.mark.parametrize("sde", RIGHT, ids=repr)
@pytest.mark.turns("Jacobi*", "Transformed*", "CIR(kappa=1*", "SquaredBessel*")
def test_the_right_ones_hold_all_laws(sde: sdegen.SDE) -> None:
    report = check_sde(sde)
    assert report.passed, report


class StratonovichKernel(GeometricBrownianMotion):
    """The kernel of the Stratonovich equation: without ``−½ sigma²``."""

    def law_after(self, x: Tensor, h: Tensor) -> StateLaw:
        mean = x.log() + rows(self.mu * h, x)
        return LogNormal(Kernel(mean, Scale(self.sigma * h.sqrt())))


class StratonovichDrift(GeometricBrownianMotion):
    """The drift of the Stratonovich equation."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return (self.mu - 0.5 * self.sigma**2) * x


class VarianceForNoise(GeometricBrownianMotion):
    """``g²`` for ``g``."""

    def __init__(self) -> None:
        super().__init__(sigma=0.7)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return (self.sigma * x).square()


class NoiseOfTheMean(GeometricBrownianMotion):
    """Every coordinate has the noise of the mean of all."""

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return super().diffusion(x, t).reshape(len(x), -1).mean(1)


class DetachedNoise(CIR):
    """The noise is detached from the state: its divergence is lost."""

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return super().diffusion(x.detach(), t)


class RootOfSpread(CIR):
    """``sigma x`` where ``sigma √x`` is meant."""

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self.sigma * x


class SlowReturn(CIR):
    """The drift returns at half the rate of the kernel."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * super().drift(x, t)


class OtherMean(CIR):
    """The drift returns to another mean than the kernel."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) + 0.2


class NegatedScore(CIR):
    """The score of the kernel has the wrong sign."""

    def law_after(self, x: Tensor, h: Tensor) -> StateLaw:
        inner = super().law_after(x, h)

        class Negated:
            sample, log_prob = inner.sample, inner.log_prob

            def score(self, x: Tensor) -> Tensor:
                return -inner.score(x)

        return Negated()


class ForgottenSquare(SquaredBessel):
    """``√x`` where ``2 √x`` is meant."""

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return x.sqrt()


class OneWinding(CircularBrownianMotion):
    """The kernel knows one winding: the Gaussian's own score."""

    def law_after(self, x_s: Tensor, elapsed: Tensor) -> StateLaw:
        sigma = rows(self.sigma_max * elapsed.sqrt(), x_s)

        class Single(WrappedGaussian):
            def score(self, x: Tensor) -> Tensor:
                return -(x - x_s) / sigma**2

        return Single(x_s, self.sigma_max * elapsed.sqrt())


class OneWindingDensity(CircularBrownianMotion):
    """Density and score of the kernel know one winding, which is the derivative of the other."""

    def law_after(self, x_s: Tensor, elapsed: Tensor) -> StateLaw:
        narrow = Kernel(x_s, Scale(self.sigma_max * elapsed.sqrt()))

        class Single(WrappedGaussian):
            def log_prob(self, x: Tensor) -> Tensor:
                return narrow.log_prob(x)

            def score(self, x: Tensor) -> Tensor:
                return narrow.score(x)

        return Single(x_s, self.sigma_max * elapsed.sqrt())


class WithoutImages(ReflectedBrownianMotion):
    """Density and score of the kernel forget what the walls have sent back."""

    def law_after(self, x_s: Tensor, elapsed: Tensor) -> StateLaw:
        narrow = Kernel(x_s, Scale(self.spread * elapsed.sqrt()))

        class Single(ReflectedGaussian):
            def log_prob(self, x: Tensor) -> Tensor:
                return narrow.log_prob(x)

            def score(self, x: Tensor) -> Tensor:
                return narrow.score(x)

        return Single(x_s, self.spread * elapsed.sqrt(), self.low, self.high)


class OpenCircle(CircularBrownianMotion):
    """Networks are shown the circle as an interval, whose ends they can tell apart."""

    harmonics = BoxHarmonics(-math.pi, math.pi)


class Unwrapped(CircularBrownianMotion):
    """Angles that go over the end are clamped there."""

    def enter(self, x: Tensor) -> Tensor:
        return x.clamp(-math.pi, math.pi - 1e-9)


class LeakingBox(ReflectedBrownianMotion):
    """What is beyond a wall stays there."""

    def enter(self, x: Tensor) -> Tensor:
        return x


class StickyBox(ReflectedBrownianMotion):
    """What is beyond a wall is put on it."""

    def enter(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)


class NarrowPrior(ReflectedBrownianMotion):
    """The prior is on half of the box."""

    def prior(self, moments: Moments) -> Any:
        return sdegen.ReflectedBrownianMotion(self.low, 0.5 * (self.low + self.high)).prior(moments)


class WithoutIto(sdegen.Transformed):
    """The process in other coordinates by the chain rule, without Itô's term."""

    def __init__(self) -> None:
        super().__init__(CIR(), sdegen.coordinates.Log())

    def drift(self, u: Tensor, t: Tensor) -> Tensor:
        x = self.coordinates.inverse(u)
        return self.coordinates.slope(x) * drift_at(self.sde, x, t)


class TwiceIto(WithoutIto):
    """The same with twice Itô's term."""

    def drift(self, u: Tensor, t: Tensor) -> Tensor:
        x = self.coordinates.inverse(u)
        G = diffusion_at(self.sde, x, t).gram()(torch.ones_like(x))
        return self.coordinates.slope(x) * (drift_at(self.sde, x, t) + self.coordinates.bend(x) * G)


class NoiseInX(WithoutIto):
    """The noise of `x` is taken for that of the coordinates."""

    drift = sdegen.Transformed.drift

    def diffusion(self, u: Tensor, t: Tensor) -> Operator:
        return diffusion_at(self.sde, self.coordinates.inverse(u), t)


class WrongJacobian(WithoutIto):
    """The map's slope is taken for that of its inverse: the drift is divided by what it is to be multiplied with."""

    def drift(self, u: Tensor, t: Tensor) -> Tensor:
        x = self.coordinates.inverse(u)
        return super().drift(u, t) / self.coordinates.slope(x)

    diffusion = sdegen.Transformed.diffusion


class HalfLamperti(sdegen.Transformed):
    """Lamperti's coordinates of geometric Brownian motion off by a factor of two, and noise of 1 all the same."""

    def __init__(self) -> None:
        super().__init__(GeometricBrownianMotion(sigma=0.5), sdegen.coordinates.Log())

    def diffusion(self, u: Tensor, t: Tensor) -> Tensor:
        return torch.ones_like(u)


class DriftForwards(CIR):
    """The drift has the wrong sign: it leaves the mean."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -super().drift(x, t)


class NoDivergence(CIR):
    """The reversal pulls along the score alone."""

    def reverse(self, model: Any, eta: float = 1.0) -> Any:
        class Plain(sdegen.Reverse):
            def drift(self, x: Tensor, t: Tensor) -> Tensor:
                G = diffusion_at(self.sde, x, t)
                return drift_at(self.sde, x, t) - 0.5 * (1 + self.eta**2) * G(G.T(self.model.score(x, t)))

        return Plain(self, model, eta)


class HalfDivergence(CIR):
    """The reversal has half the divergence."""

    def reverse(self, model: Any, eta: float = 1.0) -> Any:
        class Halved(sdegen.Reverse):
            def drift(self, x: Tensor, t: Tensor) -> Tensor:
                return super().drift(x, t) + 0.25 * (1 + self.eta**2) * self.sde.sigma**2  # type: ignore[attr-defined]

        return Halved(self, model, eta)


class TransposedNoise(sdegen.SDE):
    """A rotating noise whose declared prior is that of the transposed matrix."""

    T = 4.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> sdegen.Matrix:
        return sdegen.Matrix(torch.tensor([[1.0, 2.0], [0.0, 0.5]]))

    def prior(self, moments: Moments) -> GaussianMixture:
        M = torch.tensor([[1.0, 2.0], [0.0, 0.5]], dtype=torch.float64)
        return GaussianMixture(torch.ones(1), torch.zeros(1, 2), 0.5 * (M.T @ M)[None])


KERNEL = {
    "kernel_is_generated_by_the_coefficients",
    "kernel_scores_its_own_samples",
    "simulation_follows_the_kernel",
    "perturb_follows_the_simulation",
    "prior_is_the_law_at_T",
}
FAULTS = [
    wrong(StratonovichKernel, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(StratonovichDrift, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(VarianceForNoise, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(NoiseOfTheMean, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(DetachedNoise, "noise_has_derivatives", KERNEL, "reversal_pulls_along_the_score"),
    wrong(RootOfSpread, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(SlowReturn, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(OtherMean, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(NegatedScore, "kernel_score_is_its_gradient", "kernel_scores_its_own_samples"),
    wrong(ForgottenSquare, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(OneWinding, "kernel_score_is_its_gradient", "kernel_scores_its_own_samples"),
    wrong(OneWindingDensity, "kernel_scores_its_own_samples"),
    wrong(WithoutImages, "kernel_scores_its_own_samples"),
    wrong(OpenCircle, "networks_see_what_the_boundary_keeps"),
    wrong(Unwrapped, "prior_is_the_law_at_T", KERNEL, "networks_see_what_the_boundary_keeps"),
    wrong(LeakingBox, "prior_is_the_law_at_T", KERNEL),
    wrong(StickyBox, "prior_is_the_law_at_T", KERNEL, "networks_see_what_the_boundary_keeps"),
    wrong(NarrowPrior, "prior_is_the_law_at_T"),
    wrong(WithoutIto, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(TwiceIto, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(NoiseInX, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(WrongJacobian, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(HalfLamperti, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(DriftForwards, "kernel_is_generated_by_the_coefficients", KERNEL),
    wrong(NoDivergence, "reversal_pulls_along_the_score"),
    wrong(HalfDivergence, "reversal_pulls_along_the_score"),
]


@pytest.mark.parametrize(("make", "law", "allowed"), FAULTS)
@pytest.mark.turns(
    "TwiceIto",
    "WrongJacobian",
    "HalfLamperti",
    "DriftForwards",
    "RootOfSpread",
    "SlowReturn",
    "NegatedScore",
    "NoiseInX",
    "OtherMean",
    "ForgottenSquare",
    "NarrowPrior",
    "StickyBox",
    "Unwrapped",
    "HalfDivergence",
    "VarianceForNoise",
    "OneWindingDensity",
    "NoDivergence",
    "WithoutImages",
    "OneWinding",
    "OpenCircle",
    "StratonovichKernel",
    "StratonovichDrift",
    "DetachedNoise",
    "WithoutIto",
)
def test_fault_is_named(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    check_fault(make, law, allowed)


def test_a_transposed_noise_is_named_on_data_of_its_shape() -> None:
    data = torch.randn(64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert "prior_is_the_law_at_T" in check_sde(TransposedNoise(), data=data).failures
