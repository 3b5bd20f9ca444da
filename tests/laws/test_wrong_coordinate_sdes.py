"""Wrong processes by coordinate and with correlated noise, one fault each; and right ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from faults import CONTRADICTION, MATRIX_CONTRADICTION, check_fault, wrong
from torch import Tensor

import sdegen
from sdegen import Diagonal, Matrix, laws
from sdegen.laws.kernels import Transition
from sdegen.laws.operators import Operator
from sdegen.processes.quadrature import psd_cholesky, van_loan
from sdegen.testing import check_sde

RATES = torch.tensor([1.0, 2.5], dtype=torch.float64)
NOISE = torch.tensor([1.0, 2.0], dtype=torch.float64)
AXES = laws.bases.Axes(torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64))


class Turned(sdegen.CoordinateSDE):
    """``dx_i = −a_i x_i dt + g_i dw`` in turned axes, with its closed form."""

    T = 5.0
    basis = AXES

    def f(self, t: Tensor) -> Tensor:
        return -RATES.expand(*t.shape, 2)

    def g(self, t: Tensor) -> Tensor:
        return NOISE.expand(*t.shape, 2)

    def alpha(self, t: Tensor) -> Tensor:
        return (-RATES * t[..., None]).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return NOISE * (-torch.expm1(-2 * RATES * t[..., None]) / (2 * RATES)).sqrt()


class Turning(sdegen.CorrelatedSDE):
    """``dx = F x dt + G dw`` with constant matrices, neither of them symmetric, and its closed form."""

    T = 6.0
    drifts = torch.tensor([[-1.0, 1.5], [-0.6, -1.2]], dtype=torch.float64)
    noises = torch.tensor([[1.0, 0.0], [1.1, 0.5]], dtype=torch.float64)

    def F(self, t: Tensor) -> Tensor:
        return self.drifts

    def G(self, t: Tensor) -> Tensor:
        return self.noises

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return van_loan(self.drifts, self.noises @ self.noises.T, t - s)


class NoiseInOtherAxes(Turned):
    """``g`` drives the data's own numbers, the closed form the axes."""

    def diffusion_operator(self, t: Tensor | float) -> Diagonal:
        return Diagonal(super().diffusion_operator(t).c)


class DriftInOtherAxes(Turned):
    """``f`` pulls the data's own numbers, the closed form the axes."""

    def drift_operator(self, t: Tensor | float) -> Diagonal:
        return Diagonal(super().drift_operator(t).c)


class SquaredNoise(Turned):
    """``g²`` for ``g``, which only the second coordinate shows."""

    def g(self, t: Tensor) -> Tensor:
        return super().g(t).square()


class SwappedRates(Turned):
    """``alpha`` has each coordinate's rate for the other."""

    def alpha(self, t: Tensor) -> Tensor:
        return super().alpha(t).flip(-1)


class MeanNoise(Turned):
    """The transition's noise is the mean over the coordinates."""

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        law = super().transition(s, t)
        c = law.R.c
        return Transition(law.Phi, Diagonal(c.mean(-1, keepdim=True).expand(c.shape), AXES))


class TransposedDrift(Turning):
    """The closed form takes ``Fᵀ``."""

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return van_loan(self.drifts.T, self.noises @ self.noises.T, t - s)


class TransposedNoise(Turning):
    """The closed form takes ``Gᵀ G`` for ``G Gᵀ``."""

    def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return van_loan(self.drifts, self.noises.T @ self.noises, t - s)


class UncorrelatedNoise(Turning):
    """The transition forgets that its noise is correlated."""

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        law = super().transition(s, t)
        Sigma = law.covariance.matrix()
        return Transition(law.Phi, Matrix(torch.diag_embed(Sigma.diagonal(dim1=-2, dim2=-1)).sqrt()))


class CholeskyOfNumbers(Turning):
    """A Cholesky factor where the root of the flow is due."""

    def _marginal(self, t: Tensor) -> tuple[Operator, Operator]:
        Phi, R = super()._marginal(t)
        return Phi, Matrix(psd_cholesky(R.gram().matrix()))


class SharpBlur(sdegen.Blurring):
    """The blur's width at the time is that of the end, in the transition alone."""

    def __init__(self) -> None:
        super().__init__((1, 3, 3), blur=1.0)

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        law = super().transition(s, t)
        return Transition(law.Phi @ law.Phi, law.R)


FAULTS = [
    wrong(NoiseInOtherAxes, "moments_follow_their_odes", CONTRADICTION, "reversal_keeps_the_marginals"),
    wrong(DriftInOtherAxes, "moments_follow_their_odes", CONTRADICTION, "reversal_keeps_the_marginals"),
    wrong(SquaredNoise, "closed_form_matches_coefficients", CONTRADICTION, "flow_carries_the_marginals"),
    wrong(SwappedRates, "closed_form_matches_coefficients", CONTRADICTION, "flow_carries_the_marginals"),
    wrong(MeanNoise, "marginals_compose", "kernel_is_generated_by_the_coefficients", "simulation_follows_the_kernel"),
    wrong(TransposedDrift, "moments_follow_their_odes", MATRIX_CONTRADICTION),
    wrong(TransposedNoise, "moments_follow_their_odes", MATRIX_CONTRADICTION),
    wrong(UncorrelatedNoise, "marginals_compose", CONTRADICTION),
    wrong(CholeskyOfNumbers, "root_solves_its_equation", "flow_carries_the_marginals"),
    wrong(SharpBlur, "marginals_compose", CONTRADICTION),
]


@pytest.mark.parametrize(("make", "law", "allowed"), FAULTS)
@pytest.mark.turns(
    "SharpBlur",
    "SwappedRates",
    "MeanNoise",
    "TransposedNoise",
    "UncorrelatedNoise",
    "CholeskyOfNumbers",
    "SquaredNoise",
    "DriftInOtherAxes",
    "NoiseInOtherAxes",
)
def test_fault_is_named(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    check_fault(make, law, allowed)


@pytest.mark.parametrize("make", [Turned, Turning, lambda: sdegen.Blurring((1, 3, 3), blur=1.0)])
@pytest.mark.turns("*")
def test_right_processes_pass(make: Callable[[], sdegen.SDE]) -> None:
    report = check_sde(make())
    assert report.passed, report
