"""Wrong SDEs, one fault each: `check_sde` rejects every one by the law that names its fault, and leaves the others be.

The classes below are the faults; `FAULTS` says for each which law must name it, and which others may break with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import CLD, DDPM, EDM, OU, VE, VP, Cosine, DoubleWell, Rectified, Scale, SubVP
from sdegen.laws.draws import noise_like
from sdegen.laws.kernels import Kernel, Transition
from sdegen.laws.marginals import Perturbed
from sdegen.laws.mixtures import GaussianMixture, Moments
from sdegen.laws.operators import Matrix, Operator, as_operator
from sdegen.processes.base import Flow, Reverse
from sdegen.processes.double_well import Stationary
from sdegen.processes.linear import gaussian
from sdegen.processes.quadrature import psd_cholesky, van_loan
from sdegen.processes.scalar import AngleFlow
from sdegen.processes.tables import constant_betas, cosine_betas, sigmoid_betas
from sdegen.testing import Report, check_sde, sde_cases
from sdegen.testing.sde import laws_of

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


class ShrunkData(Cosine):
    """``alpha(0) = 0.9``."""

    def alpha(self, t: Tensor) -> Tensor:
        return 0.9 * super().alpha(t)

    time = sdegen.LinearSDE.time


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


class TooShort(OU):
    """``T = 1``: the ring shows through the matched Gaussian."""

    def __init__(self) -> None:
        super().__init__(T=1.0)


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


# --- methods that are no functions of (x, t), row by row ----------------------------------------------------------


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

    calls = 0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return super().drift(x, t) * (1 + 1e-7 / self.calls)


class DetachedState(DoubleWell):
    """The drift detaches `x`: its divergence is lost."""

    def __init__(self) -> None:
        super().__init__(T=1.0)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x.detach(), t)


# --- laws of linear processes -----------------------------------------------------------------------------------------


class TransitionOfTheDifference(VP):
    """``transition(s, t) = marginal(t − s)``, for an inhomogeneous process."""

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        return self.marginal(torch.as_tensor(t) - torch.as_tensor(s))


class SwappedRatio(VP):
    """The transition's mean is ``alpha_s / alpha_t x_s``."""

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        law = super().transition(s, t)
        return Transition(law.Phi.inv(), law.R)


class DifferenceOfVariances(OU):
    """The transition's variance is ``sigma_t² − sigma_s²``, without the ratio of the alphas."""

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        gain = self.marginal(t).covariance - self.marginal(s).covariance
        return Transition(super().transition(s, t).Phi, gain.sqrt())


class DriftOfItsOwn(VP):
    """`drift` is overridden and forgets ``beta``."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -0.5 * x


class KernelScoreSign(OU):
    """The kernel's score points away from its mean."""

    class Flipped(Kernel):
        """A kernel with the sign of its score lost."""

        def score(self, x: Tensor) -> Tensor:
            return -super().score(x)

    def kernel(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Kernel:
        return self.Flipped(*super().kernel(x_s, s, t))


class VarianceForRoot(VP):
    """`perturb` declares a kernel with ``sigma²`` for ``sigma``; its states are right."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        x, kernel, z, at = super().perturb(x_0, t, z, generator)
        return Perturbed(x, Kernel(kernel.mean, kernel.R @ kernel.R), z, at)


class VarianceForRootThroughout(VP):
    """`perturb` draws, too, with ``sigma²`` for ``sigma``."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        _, kernel, z, at = super().perturb(x_0, t, z, generator)
        kernel = Kernel(kernel.mean, kernel.R @ kernel.R)
        return Perturbed(kernel.sample(z), kernel, z, at)


class OtherNoise(VP):
    """The `z` that `perturb` returns is not the one it used."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        x, kernel, z, at = super().perturb(x_0, t, z, generator)
        return Perturbed(x, kernel, z.roll(1, 0), at)


class FirstTimePerturbs(OU):
    """`perturb` takes the first row's time for all."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        return super().perturb(x_0, torch.as_tensor(t).reshape(-1)[0], z, generator)


class PerturbsInFloat64(OU):
    """`perturb` of float32 data is float64."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        return super().perturb(x_0.double(), t, z, generator)


class IgnoresGivenNoise(OU):
    """`perturb` draws its own noise though it is given `z`."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        return super().perturb(x_0, t, None, generator)


class WrongRoot(OU):
    """`root` returns the covariance."""

    def root(self, t: Tensor | float) -> Scale:
        return self.marginal(t).covariance


# --- reversal and flow ----------------------------------------------------------------------------------------------


def reversing(base: type[sdegen.SDE], kind: type[Reverse]) -> Callable[[], sdegen.SDE]:
    """A factory of `base` with its reversal replaced by a wrong one."""
    return type(
        f"{kind.__name__}Of{base.__name__}", (base,), {"reverse": lambda self, model, eta=1.0: kind(self, model, eta)}
    )


class FullPull(Reverse):
    """``G Gᵀ score`` whatever `eta`."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        G = as_operator(self.sde.diffusion(x, t))
        return self.sde.drift(x, t) - G(G.T(self.model.score(x, t)))


class FlippedScore(Reverse):
    """The score with its sign lost."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 2 * self.sde.drift(x, t) - super().drift(x, t)


class FlippedForwardDrift(Reverse):
    """``−f``: time is reversed twice."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(x, t) - 2 * self.sde.drift(x, t)


class NoiseWithoutEta(Reverse):
    """The reversal's noise is ``G``, whatever `eta`."""

    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        return self.sde.diffusion(x, t)


class BackwardFlow(OU):
    """The flow runs the wrong way."""

    def flow(self, model: Any) -> AngleFlow:
        class Backward(AngleFlow):
            def velocity(self, y: Tensor, tau: Tensor) -> Tensor:
                return -super().velocity(y, tau)

        return Backward(self, model)


class FlowInAnotherClock(OU):
    """The flow's velocity is ``dx/dt``, its clock the angle."""

    def flow(self, model: Any) -> AngleFlow:
        class Mixed(AngleFlow):
            def velocity(self, y: Tensor, tau: Tensor) -> Tensor:
                return Flow(self.sde, self.model).velocity(y, self.time(tau))

        return Mixed(self, model)


class FlowWithoutScale(VE):
    """The chart shrinks the state, and `log_scale` says that it does not: densities are off."""

    def flow(self, model: Any) -> AngleFlow:
        class Unscaled(AngleFlow):
            def log_scale(self, t: Tensor) -> Tensor:
                return torch.zeros_like(t)

        return Unscaled(self, model)


class FlowChartTwice(VE):
    """`unchart` multiplies by ``r²``."""

    def flow(self, model: Any) -> AngleFlow:
        class Twice(AngleFlow):
            def unchart(self, y: Tensor, t: Tensor) -> Tensor:
                r = self.sde.marginal(t).r
                return r(r(y))

        return Twice(self, model)


class TrainsBeyondTheEnd(OU):
    """``t_min`` lies after T."""

    t_min = 10.0


# --- matrices ---------------------------------------------------------------------------------------------------------


class CholeskyRoot(CLD):
    """A Cholesky factor where the root of the flow is due."""

    def _marginal(self, t: Tensor) -> tuple[Operator, Operator]:
        Phi, R = super()._marginal(t)
        return Phi, Matrix(psd_cholesky(R.gram().matrix()))


class TransposedDrift(CLD):
    """The closed form takes ``Fᵀ``."""

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return van_loan(self._F.T, self._G @ self._G.T, t - s)


class UnsquaredNoise(CLD):
    """The closed form takes ``G`` for ``G Gᵀ``."""

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return van_loan(self._F, self._G, t - s)


class NoiseOnPosition(CLD):
    """``G`` drives the positions, the closed form the velocities."""

    def G(self, t: Tensor) -> Tensor:
        return self._G.flip(0, 1)


class ProjectsTheVelocity(CLD):
    """`project` returns the second channel."""

    def project(self, u: Tensor) -> Tensor:
        return u[:, 1]


class ForgottenVelocities(CLD):
    """The marginal forgets ``Sigma_0``: velocities start at rest."""

    def _covariance(self, t: Tensor, start: Tensor | None = None) -> Tensor:
        return super()._covariance(t, torch.zeros_like(self.Sigma_0) if start is None else start)


class CompletesWithUnitVelocities(CLD):
    """`complete` draws velocities from ``N(0, 1)``, whatever ``Sigma_0``."""

    def complete(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        v = z[:, 1:]
        return torch.cat([x[:, None], v], 1), Kernel(torch.zeros_like(v), Matrix(torch.eye(1))).log_prob(v)


class CompletesWithoutDensity(CLD):
    """`complete` forgets the log-determinant of its velocities' law."""

    def complete(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        u, log_density = super().complete(x, z)
        return u, log_density + 0.5 * self.Sigma_0[1, 1].log()


class TransitionFromRandomVelocity(CLD):
    """The transition adds ``Sigma_0``, which the state at `s` has already got."""

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        law = super().transition(s, t)
        Phi = law.Phi.matrix()
        return Transition(law.Phi, Matrix(psd_cholesky(Phi @ self.Sigma_0 @ Phi.mT + law.covariance.matrix())))


# --- nonlinear processes --------------------------------------------------------------------------------------------


class HalfTheNoise(DoubleWell):
    """`diffusion` returns half of the noise that the prior was made for."""

    def diffusion(self, x: Tensor, t: Tensor) -> Scale:
        return Scale(0.5 * self.g)


class WrongStationaryLaw(DoubleWell):
    """The prior is that of half the noise."""

    def prior(self, moments: Moments) -> Stationary:
        return Stationary(self.stiffness, self.g / math.sqrt(2), moments.mean.shape)


class TwiceTheVariance(DoubleWell):
    """The kernel has twice its variance."""

    def kernel(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Kernel:
        mean, R = super().kernel(x_s, s, t)
        return Kernel(mean, R * math.sqrt(2))


class KernelAtRest(DoubleWell):
    """The kernel forgets the drift."""

    def kernel(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Kernel:
        return Kernel(x_s, super().kernel(x_s, s, t).R)


class LongLag(DoubleWell):
    """The declared lag is a quarter of the whole time."""

    lag = 2.0


class PerturbsInOneStep(DoubleWell):
    """`perturb` spans all of ``[0, t]`` with one local kernel."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        kernel = self.kernel(x_0, torch.zeros(len(x_0)), torch.as_tensor(t).expand(len(x_0)))
        z = noise_like(x_0, generator) if z is None else z
        return Perturbed(kernel.sample(z), kernel, z, self.at(t))


class PerturbsTheData(DoubleWell):
    """`perturb` starts its last kernel at the data: all that came before the lag is lost."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        t = torch.as_tensor(t).expand(len(x_0))
        kernel = self.kernel(x_0, (t - 0.02).clamp_min(0), t)
        z = noise_like(x_0, generator) if z is None else z
        return Perturbed(kernel.sample(z), kernel, z, self.at(t))


class NumpyDrift(DoubleWell):
    """The drift goes through NumPy."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(torch.from_numpy(x.detach().numpy()), t)


class WellWithOtherNoise(DoubleWell):
    """The `z` that `perturb` returns is not the one it used."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        x, kernel, z, at = super().perturb(x_0, t, z, generator)
        return Perturbed(x, kernel, -z, at)


# --- which law names which fault ------------------------------------------------------------------------------------

# Closed forms and coefficients say two things: every law that holds one against the other may break.
CONTRADICTION = {
    "closed_form_matches_coefficients",
    "kernel_is_generated_by_the_coefficients",
    "moments_follow_their_odes",
    "schedule_keeps_its_digits",
    "simulation_follows_the_kernel",
}
# A flow of wrong moments, and a root of a wrong covariance.
MATRIX_CONTRADICTION = CONTRADICTION | {"flow_carries_the_marginals", "root_solves_its_equation"}
# A square root of a negative number is NaN wherever it is looked at.
NOT_A_NUMBER = {
    "clock_inverts_the_snr",
    "closed_form_matches_coefficients",
    "coefficients_keep_their_digits",
    "kernel_is_generated_by_the_coefficients",
    "marginals_compose",
    "moments_follow_their_odes",
    "reversal_keeps_the_marginals",
    "rows_are_independent",
}
# What raises an exception for some states breaks every law that asks it about such states.
ASKS = {
    "coefficients_keep_their_digits",
    "derivatives_reach_the_drift",
    "kernel_is_generated_by_the_coefficients",
    "kernel_score_is_its_gradient",
    "methods_are_functions",
    "perturb_follows_the_simulation",
    "perturbation_is_its_kernel",
    "prior_is_the_law_at_T",
    "reversal_pulls_along_the_score",
    "rows_are_independent",
    "short_kernel_agrees_with_half_steps",
    "simulation_follows_the_kernel",
}


def wrong(make: Callable[[], sdegen.SDE], law: str, *also: str | set[str]) -> Any:
    """A fault, the law that must name it, and the others that may break with it."""
    allowed = {law}.union(*({a} if isinstance(a, str) else a for a in also))
    return pytest.param(make, law, allowed, id=make.__name__)


FAULTS = [
    wrong(DoubledSlope, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(FlippedDrift, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(DriftWithoutHalf, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(NoiseWithoutTwo, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(NoiseSquared, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(ExponentWithoutHalf, "closed_form_matches_coefficients", CONTRADICTION, "flow_carries_the_marginals"),
    wrong(StepsForTimeInSchedule, "closed_form_matches_coefficients", CONTRADICTION, "prior_is_the_law_at_T"),
    wrong(ReversedNoise, "closed_form_matches_coefficients", CONTRADICTION),
    wrong(ForgottenSigmaMin, "marginal_starts_at_the_data", "schedule_keeps_its_digits"),
    wrong(HiddenSmoothing, "marginal_starts_at_the_data", "schedule_keeps_its_digits"),
    wrong(ShrunkData, "marginal_starts_at_the_data"),
    wrong(ClampedTime, "marginal_starts_at_the_data", "schedule_keeps_its_digits"),
    wrong(OneStepLate, "marginal_starts_at_the_data", "schedule_keeps_its_digits"),
    wrong(ClampedNoise, "schedule_keeps_its_digits"),
    wrong(TooLittleNoise, "prior_is_the_law_at_T"),
    wrong(TooShort, "prior_is_the_law_at_T"),
    wrong(StepsForTime, "prior_is_the_law_at_T"),
    wrong(UnitPrior, "prior_is_the_law_at_T"),
    wrong(PriorSampledTwiceAsWide, "prior_is_the_law_at_T"),
    wrong(RisingSignal, "signal_to_noise_decreases", NOT_A_NUMBER, "coefficients_are_real"),
    wrong(FlatSignal, "signal_to_noise_decreases", "clock_inverts_the_snr"),
    wrong(NegativeBeta, "coefficients_are_real", NOT_A_NUMBER, "signal_to_noise_decreases"),
    wrong(WrongInverse, "clock_inverts_the_snr", "flow_carries_the_marginals"),
    wrong(RootOfRatio, "clock_inverts_the_snr", "flow_carries_the_marginals"),
    wrong(
        UndeclaredJump,
        "closed_form_matches_coefficients",
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
    wrong(SwappedArguments, "drift_takes_state_then_time", ASKS),
    wrong(SwappedInBoth, "drift_takes_state_then_time", ASKS),
    wrong(OneNewAxis, "drift_takes_state_then_time", "rows_are_independent"),
    wrong(ThreeNewAxes, "drift_takes_state_then_time", ASKS),
    wrong(NoiseWithNewAxis, "diffusion_acts_on_every_state", ASKS),
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
    wrong(Geometric, "noise_ignores_the_state", "prior_is_the_law_at_T", "reversal_pulls_along_the_score"),
    wrong(
        ConstantAtTwoStates,
        "noise_ignores_the_state",
        "perturb_follows_the_simulation",
        "prior_is_the_law_at_T",
        "reversal_pulls_along_the_score",
    ),
    wrong(NoiseOfTheBatch, "noise_ignores_the_state", ASKS),
    wrong(GeometricByCoordinate, "noise_ignores_the_state", ASKS, "diffusion_acts_on_every_state"),
    wrong(RandomDrift, "methods_are_functions", ASKS),
    wrong(
        RandomNoise,
        "methods_are_functions",
        "coefficients_keep_their_digits",
        "noise_ignores_the_state",
        "reversal_keeps_the_marginals",
        "rows_are_independent",
    ),
    wrong(CountsItsCalls, "methods_are_functions", "rows_are_independent"),
    wrong(
        DetachedState,
        "derivatives_reach_the_drift",
        "prior_is_the_law_at_T",
    ),
    wrong(NumpyDrift, "derivatives_reach_the_drift", ASKS),
    wrong(
        TransitionOfTheDifference,
        "marginals_compose",
        "kernel_is_generated_by_the_coefficients",
        "simulation_follows_the_kernel",
    ),
    wrong(
        SwappedRatio, "marginals_compose", "kernel_is_generated_by_the_coefficients", "simulation_follows_the_kernel"
    ),
    wrong(
        DifferenceOfVariances,
        "marginals_compose",
        "kernel_is_generated_by_the_coefficients",
        "simulation_follows_the_kernel",
    ),
    wrong(
        DriftOfItsOwn,
        "kernel_is_generated_by_the_coefficients",
        "reversal_keeps_the_marginals",
        "simulation_follows_the_kernel",
    ),
    wrong(KernelScoreSign, "kernel_score_is_its_gradient"),
    wrong(VarianceForRoot, "perturbation_is_its_kernel", "perturb_draws_from_the_marginal"),
    wrong(VarianceForRootThroughout, "perturb_draws_from_the_marginal"),
    wrong(OtherNoise, "perturbation_is_its_kernel", "perturb_draws_from_the_marginal"),
    wrong(FirstTimePerturbs, "perturb_draws_from_the_marginal"),
    wrong(PerturbsInFloat64, "perturb_draws_from_the_marginal"),
    wrong(IgnoresGivenNoise, "perturb_draws_from_the_marginal"),
    wrong(WrongRoot, "root_squares_to_the_covariance"),
    *[
        wrong(reversing(VP, kind), "reversal_keeps_the_marginals")
        for kind in (FullPull, FlippedScore, FlippedForwardDrift)
    ],
    wrong(reversing(VP, NoiseWithoutEta), "reversal_keeps_the_marginals"),
    *[wrong(reversing(DoubleWell, kind), "reversal_pulls_along_the_score") for kind in (FullPull, NoiseWithoutEta)],
    wrong(BackwardFlow, "flow_carries_the_marginals"),
    wrong(FlowInAnotherClock, "flow_carries_the_marginals"),
    wrong(FlowWithoutScale, "clock_inverts_the_snr"),
    wrong(FlowChartTwice, "clock_inverts_the_snr", "flow_carries_the_marginals"),
    wrong(TrainsBeyondTheEnd, "training_times_lie_inside"),
    wrong(CholeskyRoot, "root_solves_its_equation", "flow_carries_the_marginals"),
    wrong(TransposedDrift, "moments_follow_their_odes", MATRIX_CONTRADICTION),
    wrong(UnsquaredNoise, "moments_follow_their_odes", MATRIX_CONTRADICTION),
    wrong(NoiseOnPosition, "moments_follow_their_odes", MATRIX_CONTRADICTION),
    wrong(ProjectsTheVelocity, "lift_and_project_agree", "completion_follows_Sigma_0"),
    wrong(ForgottenVelocities, "marginal_starts_at_the_data", "clock_inverts_the_snr", "signal_to_noise_decreases"),
    wrong(CompletesWithUnitVelocities, "completion_follows_Sigma_0"),
    wrong(CompletesWithoutDensity, "completion_follows_Sigma_0"),
    wrong(TransitionFromRandomVelocity, "marginals_compose", "kernel_is_generated_by_the_coefficients"),
    wrong(HalfTheNoise, "prior_is_the_law_at_T"),
    wrong(WrongStationaryLaw, "prior_is_the_law_at_T"),
    wrong(TwiceTheVariance, "kernel_is_generated_by_the_coefficients", "simulation_follows_the_kernel"),
    wrong(KernelAtRest, "kernel_is_generated_by_the_coefficients", "simulation_follows_the_kernel"),
    wrong(
        LongLag,
        "short_kernel_agrees_with_half_steps",
        "perturb_follows_the_simulation",
        "simulation_follows_the_kernel",
    ),
    wrong(PerturbsInOneStep, "perturb_follows_the_simulation"),
    wrong(PerturbsTheData, "perturb_follows_the_simulation"),
    wrong(WellWithOtherNoise, "perturbation_is_its_kernel"),
]


@pytest.mark.parametrize(("make", "law", "allowed"), FAULTS)
def test_fault_is_named(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    report = check_sde(make())
    assert not report.passed
    assert law in report.failures, report
    assert set(report.failures) <= allowed, report


# --- what is right passes -----------------------------------------------------------------------------------------


class TwoMethods(sdegen.ScalarSDE):
    """A user's process: two methods, nothing else."""

    def f(self, t: Tensor) -> Tensor:
        return -10 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t).sqrt()


class CubicWithNumbers(sdegen.SDE):
    """A user's nonlinear process, whose diffusion is a plain number."""

    T = 8.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return x - x**3

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 1.0

    def prior(self, moments: Moments) -> Stationary:
        return Stationary(1.0, 1.0, moments.mean.shape)


RIGHT = {
    "VP": VP,
    "SubVP": SubVP,
    "VE": VE,
    "OU": OU,
    "EDM": EDM,
    "Cosine": Cosine,
    "Rectified": Rectified,
    "DDPM": DDPM,
    "DDPM-cosine": lambda: DDPM(cosine_betas()),
    "DDPM-sigmoid": lambda: DDPM(sigmoid_betas()),
    "DDPM-constant": lambda: DDPM(constant_betas()),
    "CLD": CLD,
    "DoubleWell": DoubleWell,
    "TwoMethods": TwoMethods,
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT.keys())
def test_right_process_passes(make: Callable[[], sdegen.SDE]) -> None:
    report = check_sde(make())
    assert report.passed, report
    assert report.failures == []


def test_nonlinear_process_with_a_number_for_its_noise_passes() -> None:
    report = check_sde(CubicWithNumbers())
    assert report.passed, report


# --- the report, declared failures, and pytest cases --------------------------------------------------------------


def test_declared_failure_passes_with_its_reason() -> None:
    report = check_sde(TooShort(), expected={"prior_is_the_law_at_T": "a short process, on purpose"})
    assert report.passed, report
    assert "a short process, on purpose" in str(report)


def test_declared_failure_that_holds_is_a_failure() -> None:
    report = check_sde(OU(), expected={"prior_is_the_law_at_T": "thought to be too short"})
    assert report.failures == ["prior_is_the_law_at_T"], report
    assert "thought to be too short" in str(report)


def test_declared_failure_hides_no_other() -> None:
    report = check_sde(ShrunkData(), expected={"prior_is_the_law_at_T": "not at fault"})
    assert set(report.failures) == {"prior_is_the_law_at_T", "marginal_starts_at_the_data"}, report


class WithoutStart(sdegen.MatrixSDE):
    """Two channels, and no word of how the second starts."""

    def F(self, t: Tensor) -> Tensor:
        return torch.zeros(2, 2, dtype=torch.float64)

    def G(self, t: Tensor) -> Tensor:
        return torch.eye(2, dtype=torch.float64)


def test_a_matrix_process_without_Sigma_0_says_what_it_lacks() -> None:
    with pytest.raises(NotImplementedError, match=r"^WithoutStart gives no Sigma_0.*set it in __init__"):
        WithoutStart().marginal(0.5)
    report = check_sde(WithoutStart())
    said = [r.detail for r in report.results if not r.passed]
    assert said and all("WithoutStart gives no Sigma_0" in detail for detail in said), report


@pytest.mark.parametrize("sde", [None, 3.0, OU])
def test_what_is_no_process_is_refused(sde: Any) -> None:
    with pytest.raises(TypeError, match=r"no process|check_sde\(OU\(\)\)"):
        check_sde(sde)


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError, AttributeError])
def test_whatever_a_process_raises_is_a_broken_law_with_a_sentence(error: type[Exception]) -> None:
    class Raises(DoubleWell):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            raise error

    (found,) = {r.detail for r in check_sde(Raises()).results if r.law == "drift_takes_state_then_time"}
    assert found == f"it raised {error.__name__}: without a word"


def test_a_process_that_is_not_a_number_anywhere_holds_no_law_about_its_coefficients() -> None:
    class NotANumber(DoubleWell):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return math.nan * x

    held = {r.law for r in check_sde(NotANumber()).results if r.passed}
    # what asks the noise, the shapes or the prior alone
    assert held == {
        "drift_takes_state_then_time",
        "noise_ignores_the_state",
        "diffusion_acts_on_every_state",
        "training_times_lie_inside",
        "lift_and_project_agree",
    }


def test_unknown_law_is_refused() -> None:
    with pytest.raises(ValueError, match="no_such_law"):
        check_sde(OU(), expected={"no_such_law": "misspelt"})


def test_report_prints_every_law_and_the_numbers_of_broken_ones() -> None:
    report = check_sde(TooShort())
    assert isinstance(report, Report)
    lines = str(report).splitlines()
    names = [law.__name__ for law in laws_of(TooShort())]
    assert lines[0] == f"TooShort: {len(names) - 1} of {len(names)} laws hold"
    assert [line.split()[1].rstrip(":") for line in lines[1:]] == names
    (broken,) = [line for line in lines if "BROKEN" in line]
    assert "nats" in broken


@pytest.mark.parametrize("law", sde_cases(TwoMethods()))
def test_cases_of_a_right_process(law: Callable[[], None]) -> None:
    law()


def test_cases_name_the_laws_and_raise_what_breaks() -> None:
    cases = sde_cases(TooShort())
    assert [case.id for case in cases] == [law.__name__ for law in laws_of(TooShort())]
    broken = []
    for case in cases:
        try:
            case.values[0]()
        except AssertionError:
            broken.append(case.id)
    assert broken == ["prior_is_the_law_at_T"]


@pytest.mark.parametrize("name", [law.__name__ for law in laws_of(DoubleWell())])
def test_laws_need_no_other_law_before_them(name: str) -> None:
    (case,) = [case for case in sde_cases(DoubleWell()) if case.id == name]
    case.values[0]()
