"""Wrong laws of linear processes, one fault each: transitions, perturbation, reversal and flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from faults import check_fault, wrong
from torch import Tensor

import sdegen
from sdegen import OU, VE, VP, DoubleWell, Scale
from sdegen.laws.derivatives import Field
from sdegen.laws.kernels import Kernel, Transition
from sdegen.laws.marginals import Perturbed
from sdegen.laws.units import Units
from sdegen.processes.base import Flow, Reverse
from sdegen.processes.dynamics import diffusion_at
from sdegen.processes.scalar import AngleFlow

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
        drawn = super().perturb(x_0, t, z, generator)
        return drawn._replace(kernel=Kernel(drawn.kernel.mean, drawn.kernel.R @ drawn.kernel.R))


class VarianceForRootThroughout(VP):
    """`perturb` draws, too, with ``sigma²`` for ``sigma``."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        drawn = super().perturb(x_0, t, z, generator)
        kernel = Kernel(drawn.kernel.mean, drawn.kernel.R @ drawn.kernel.R)
        return drawn._replace(x=kernel.sample(drawn.z), kernel=kernel)


class OtherNoise(VP):
    """The `z` that `perturb` returns is not the one it used."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        drawn = super().perturb(x_0, t, z, generator)
        return drawn._replace(z=drawn.z.roll(1, 0))


class OtherData(VP):
    """The data that `perturb` says its states are made from are those of other rows."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        drawn = super().perturb(x_0, t, z, generator)
        return drawn._replace(data=drawn.data.roll(1, 0))


class DataInTheirOwnUnits(VP):
    """The data that `perturb` says its states are made from are not in the units of the process."""

    units = Units(1.0, 2.0)

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        return super().perturb(x_0, t, z, generator)._replace(data=x_0)


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

    def root(self, t: Tensor | float, x: Tensor | None = None) -> Scale:
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
        G = diffusion_at(self.sde, x, t)
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
            def field(self, tau: Tensor) -> Field:
                right = super().field(tau)
                return lambda y: -right(y)

        return Backward(self, model)


class FlowInAnotherClock(OU):
    """The flow's velocity is ``dx/dt``, its clock the angle."""

    def flow(self, model: Any) -> AngleFlow:
        class Mixed(AngleFlow):
            def field(self, tau: Tensor) -> Field:
                return Flow(self.sde, self.model).field(self.time(tau))

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


class FlowTellsLaterTimes(VE):
    """The time that the flow's clock shows is a thousandth late."""

    def flow(self, model: Any) -> AngleFlow:
        class Late(AngleFlow):
            def time(self, clock: Tensor) -> Tensor:
                return 1.001 * super().time(clock)

        return Late(self, model)


class TrainsBeyondTheEnd(OU):
    """``t_min`` lies after T."""

    t_min = 10.0


FAULTS = [
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
    wrong(OtherData, "perturbation_is_its_kernel"),
    wrong(DataInTheirOwnUnits, "perturbation_is_its_kernel"),
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
    wrong(FlowTellsLaterTimes, "clock_inverts_the_snr", "flow_carries_the_marginals"),
    wrong(TrainsBeyondTheEnd, "training_times_lie_inside"),
]


@pytest.mark.turns("FullPullOfDoubleWell", "NoiseWithoutEtaOfDoubleWell")
@pytest.mark.parametrize(("make", "law", "allowed"), FAULTS)
def test_fault_is_named(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    check_fault(make, law, allowed)
