"""Wrong nonlinear processes, one fault each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from faults import ASKS, check_fault, wrong
from torch import Tensor

import sdegen
from sdegen import DoubleWell, Scale
from sdegen.laws.draws import noise_like
from sdegen.laws.kernels import Kernel
from sdegen.laws.marginals import Perturbed
from sdegen.laws.mixtures import Moments
from sdegen.processes.double_well import Stationary


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
        return Perturbed(kernel.sample(z), kernel, z, self.at(t), x_0)


class PerturbsTheData(DoubleWell):
    """`perturb` starts its last kernel at the data: all that came before the lag is lost."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        t = torch.as_tensor(t).expand(len(x_0))
        kernel = self.kernel(x_0, (t - 0.02).clamp_min(0), t)
        z = noise_like(x_0, generator) if z is None else z
        return Perturbed(kernel.sample(z), kernel, z, self.at(t), x_0)


class NumpyDrift(DoubleWell):
    """The drift goes through NumPy."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return super().drift(torch.from_numpy(x.detach().numpy()), t)


class WellWithOtherNoise(DoubleWell):
    """The `z` that `perturb` returns is not the one it used."""

    def perturb(self, x_0: Tensor, t: Any, z: Tensor | None = None, generator: Any = None) -> Perturbed:
        drawn = super().perturb(x_0, t, z, generator)
        return drawn._replace(z=-drawn.z)


FAULTS = [
    wrong(NumpyDrift, "derivatives_reach_the_drift", ASKS),
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
@pytest.mark.turns(
    "WellWithOtherNoise",
    "WrongStationaryLaw",
    "PerturbsInOneStep",
    "LongLag",
    "PerturbsTheData",
    "NumpyDrift",
    "KernelAtRest",
    "HalfTheNoise",
)
def test_fault_is_named(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    check_fault(make, law, allowed)
