"""Wrong matrix processes, one fault each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from faults import MATRIX_CONTRADICTION, check_fault, wrong
from torch import Tensor

import sdegen
from sdegen import CLD
from sdegen.laws.kernels import Kernel, Transition
from sdegen.laws.matrices import Matrix
from sdegen.laws.operators import Operator
from sdegen.processes.quadrature import psd_cholesky, van_loan


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
    """`extract` returns the second channel."""

    def extract(self, u: Tensor) -> Tensor:
        return u[:, 1]


class ForgottenVelocities(CLD):
    """The marginal forgets ``Sigma_0``: velocities start at rest."""

    def _covariance(self, t: Tensor, start: Tensor | None = None) -> Tensor:
        return super()._covariance(t, torch.zeros_like(self.Sigma_0) if start is None else start)


class CompletesWithUnitVelocities(CLD):
    """`complete` draws velocities from ``N(0, 1)``, whatever ``Sigma_0``."""

    def fill(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        v = z[:, 1:]
        return torch.cat([x[:, None], v], 1), Kernel(torch.zeros_like(v), Matrix(torch.eye(1))).log_prob(v)


class CompletesWithoutDensity(CLD):
    """`complete` forgets the log-determinant of its velocities' law."""

    def fill(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        u, log_density = super().fill(x, z)
        return u, log_density + 0.5 * self.Sigma_0[1, 1].log()


class TransitionFromRandomVelocity(CLD):
    """The transition adds ``Sigma_0``, which the state at `s` has already got."""

    def transition(self, s: Tensor | float, t: Tensor | float) -> Transition:
        law = super().transition(s, t)
        Phi = law.Phi.matrix()
        return Transition(law.Phi, Matrix(psd_cholesky(Phi @ self.Sigma_0 @ Phi.mT + law.covariance.matrix())))


FAULTS = [
    wrong(CholeskyRoot, "root_solves_its_equation", "flow_carries_the_marginals"),
    wrong(TransposedDrift, "moments_follow_their_odes", MATRIX_CONTRADICTION),
    wrong(UnsquaredNoise, "moments_follow_their_odes", MATRIX_CONTRADICTION),
    wrong(
        NoiseOnPosition,  # its covariance is another's, and so has no root
        "moments_follow_their_odes",
        MATRIX_CONTRADICTION,
        "marginal_starts_at_the_data",
        "signal_to_noise_decreases",
        "clock_inverts_the_snr",
        "reversal_keeps_the_marginals",
    ),
    wrong(ProjectsTheVelocity, "lift_and_project_agree", "completion_follows_Sigma_0"),
    wrong(ForgottenVelocities, "marginal_starts_at_the_data", "clock_inverts_the_snr", "signal_to_noise_decreases"),
    wrong(CompletesWithUnitVelocities, "completion_follows_Sigma_0"),
    wrong(CompletesWithoutDensity, "completion_follows_Sigma_0"),
    wrong(TransitionFromRandomVelocity, "marginals_compose", "kernel_is_generated_by_the_coefficients"),
]


@pytest.mark.parametrize(("make", "law", "allowed"), FAULTS)
@pytest.mark.turns(
    "CompletesWith*",
    "TransitionFromRandomVelocity",
    "CholeskyRoot",
    "NoiseOnPosition",
    "UnsquaredNoise",
    "TransposedDrift",
    "ProjectsTheVelocity",
)
def test_fault_is_named(make: Callable[[], sdegen.SDE], law: str, allowed: set[str]) -> None:
    check_fault(make, law, allowed)
