"""Coefficients alone reproduce the closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen.processes.matrix import MatrixSDE
from sdegen.processes.matrix_panels import MatrixPanels
from sdegen.processes.quadrature import RootTable, psd_cholesky, van_loan
from sdegen.processes.scalar import ScalarSDE

CLOSED = [sdegen.VP(), sdegen.SubVP(), sdegen.VE(), sdegen.OU(), sdegen.EDM()]


def coefficients_only(sde: ScalarSDE) -> ScalarSDE:
    """The same process, told only its coefficients."""

    class Coefficients(ScalarSDE):
        T, sigma_0 = sde.T, sde.sigma_0

        def f(self, t: Tensor) -> Tensor:
            return sde.f(t)

        def g(self, t: Tensor) -> Tensor:
            return sde.g(t)

    return Coefficients()


@pytest.mark.parametrize("sde", CLOSED, ids=lambda s: type(s).__name__)
def test_quadrature_equals_the_closed_form(sde: ScalarSDE) -> None:
    derived = coefficients_only(sde)
    t = sde.T * torch.cat(
        [torch.logspace(-6, -1, 30, dtype=torch.float64), torch.linspace(0.1, 1, 50, dtype=torch.float64)]
    )
    assert (derived.alpha(t) / sde.alpha(t) - 1).abs().max() < 1e-12
    assert (derived.sigma(t) / sde.sigma(t) - 1).abs().max() < 1e-9


@pytest.mark.parametrize("sde", CLOSED, ids=lambda s: type(s).__name__)
def test_quadrature_is_differentiable(sde: ScalarSDE) -> None:
    derived = coefficients_only(sde)
    t = sde.T * torch.linspace(0.01, 0.99, 20, dtype=torch.float64)
    for name, tolerance in (("alpha", 1e-12), ("sigma", 1e-9)):
        slopes = []
        for process in (derived, sde):
            u = t.clone().requires_grad_()
            (slope,) = torch.autograd.grad(getattr(process, name)(u).sum(), u)
            slopes.append(slope)
            forward = torch.func.jvp(getattr(process, name), (t,), (torch.ones_like(t),))[1]
            torch.testing.assert_close(forward, slope, rtol=1e-9, atol=1e-300)
        size = slopes[1].abs().clamp_min(1e-3 * getattr(sde, name)(t) / sde.T)
        assert ((slopes[0] - slopes[1]).abs() / size).max() < tolerance * 100  # f itself, amplified by the chain rule


@pytest.mark.parametrize("sde", CLOSED, ids=lambda s: type(s).__name__)
def test_small_float32_times_lose_no_more_than_float32(sde: ScalarSDE) -> None:
    t = sde.T * torch.logspace(-6, 0, 40, dtype=torch.float64).float()
    law = sde.marginal(t)
    exact = sde.marginal(t.double().clamp_max(sde.T))
    assert torch.equal(law.R.matrix(), exact.R.matrix())
    x = law.R(torch.ones(40, 1))
    assert (x[:, 0].double() / exact.R.matrix()[:, 0, 0] - 1).abs().max() < 2e-7


def test_quadrature_survives_strong_contraction_and_growth() -> None:
    class Stiff(ScalarSDE):
        def __init__(self, rate: float) -> None:
            self.rate = rate

        def f(self, t: Tensor) -> Tensor:
            return self.rate + 0 * t

        def g(self, t: Tensor) -> Tensor:
            return 1 + 0 * t

    for rate in (-60.0, 60.0):
        t = torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
        want = (torch.expm1(2 * rate * t) / (2 * rate)).sqrt()
        torch.testing.assert_close(Stiff(rate).sigma(t), want, rtol=1e-9, atol=0)


def test_van_loan_equals_the_moment_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    G = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    s, t = torch.tensor([0.0, 0.2], dtype=torch.float64), torch.tensor([0.7, 0.9], dtype=torch.float64)
    Phi, Sigma = van_loan(A, G @ G.T, t - s)
    Phi_ode, Sigma_ode = MatrixPanels(lambda u: A, lambda u: G, 0.0, 1.0)(s, t)
    torch.testing.assert_close(Phi, Phi_ode, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(Sigma, Sigma_ode, rtol=1e-8, atol=1e-9)


def test_moment_equations_take_time_dependent_matrices() -> None:
    # Commuting case with a closed form: F = -a(t) J, a(t) = 2t, J a rotation generator plus damping.
    J = torch.tensor([[0.5, 1.0], [-1.0, 0.5]], dtype=torch.float64)
    G = lambda u: (2 * u).sqrt()[..., None, None] * torch.eye(2, dtype=torch.float64)
    F = lambda u: -2 * u[..., None, None] * J
    s, t = torch.tensor([0.1], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    Phi, Sigma = MatrixPanels(F, G, 0.0, 1.0)(s, t)
    B = t**2 - s**2
    torch.testing.assert_close(Phi, torch.linalg.matrix_exp(-B[:, None, None] * J), rtol=1e-9, atol=1e-9)
    want = -torch.expm1(-B)[:, None, None] * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(Sigma, want, rtol=1e-9, atol=1e-9)


def test_root_of_three_channels_solves_its_equation() -> None:
    class Chain(MatrixSDE):
        Sigma_0 = torch.diag(torch.tensor([0.01, 0.3, 0.5], dtype=torch.float64))

        def F(self, t: Tensor) -> Tensor:
            return torch.tensor([[-1.0, 2.0, 0.0], [-2.0, -1.0, 1.5], [0.0, -1.5, -3.0]], dtype=torch.float64)

        def G(self, t: Tensor) -> Tensor:
            return torch.diag(torch.tensor([0.5, 0.8, 2.0], dtype=torch.float64))

        def moments(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            G = self.G(t)
            return van_loan(self.F(t), G @ G.T, t - s)

    report = sdegen.testing.check_sde(Chain(), expected={"prior_is_the_law_at_T": "T = 1 is short for this chain"})
    assert "root_solves_its_equation" not in report.failures, report


def test_table_and_semidefinite_cholesky() -> None:
    singular = torch.tensor([[0.0, 0.0], [0.0, 0.04]], dtype=torch.float64)
    torch.testing.assert_close(psd_cholesky(singular) @ psd_cholesky(singular).T, singular, rtol=1e-15, atol=0)
    cld = sdegen.CLD()
    assert isinstance(cld._root, RootTable)
    R = cld.marginal(0.0).R.matrix()
    torch.testing.assert_close(R @ R.T, cld.Sigma_0, rtol=0, atol=1e-14)


class TwoMethods(ScalarSDE):
    """VP by its coefficients alone."""

    def f(self, t: Tensor) -> Tensor:
        return -0.5 * (0.1 + 19.9 * t)

    def g(self, t: Tensor) -> Tensor:
        return (0.1 + 19.9 * t).sqrt()


class Pausing(TwoMethods):
    """No noise at one time: there is no slope to divide by."""

    def g(self, t: Tensor) -> Tensor:
        return 20 * (t - 0.4) ** 2


def test_times_of_a_process_of_two_methods_are_those_of_the_closed_form() -> None:
    t = torch.cat([torch.logspace(-9, -1, 200, dtype=torch.float64), torch.linspace(0.1, 1.0, 200).double()])
    snr = sdegen.VP().snr(t)
    torch.testing.assert_close(TwoMethods().time(snr), t, rtol=1e-12, atol=0)
    torch.testing.assert_close(TwoMethods().time(snr[7]), t[7], rtol=1e-12, atol=0)


def test_times_are_found_where_the_noise_pauses() -> None:
    sde = Pausing()
    t = torch.tensor([0.1, 0.3, 0.39, 0.41, 0.6, 0.9], dtype=torch.float64)
    torch.testing.assert_close(sde.snr(sde.time(sde.snr(t))), sde.snr(t), rtol=1e-11, atol=0)


def test_times_follow_a_learned_process() -> None:
    sde = sdegen.LearnedSchedule()
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(sde.time(sde.snr(t)), t, rtol=1e-12, atol=0)
            sde.increments[3] += 0.5


def test_quadratures_follow_learned_coefficients() -> None:
    class Pull(nn.Module, ScalarSDE):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.ones((), dtype=torch.float64))

        def f(self, t: Tensor) -> Tensor:
            return -self.rate + 0 * t

        def g(self, t: Tensor) -> Tensor:
            return 1 + 0 * t

    sde, t = Pull(), torch.tensor([0.5], dtype=torch.float64)
    with torch.no_grad():
        for rate in (1.0, 3.0):
            sde.rate.fill_(rate)
            torch.testing.assert_close(sde.alpha(t), (-rate * t).exp())
