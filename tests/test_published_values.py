"""Constants and formulas as papers print them, in their own letters: laws test only that a process agrees with itself."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch

import sdegen
from sdegen import grids, guidance, losses, samplers, weightings
from sdegen.models import (
    DataParametrization,
    EDMParametrization,
    NoiseParametrization,
    Parametrization,
    ScoreParametrization,
    StraightParametrization,
    VelocityParametrization,
)
from sdegen.processes.tables import AngleTable, constant_betas, cosine_betas, linear_betas, sigmoid_betas

TIMES = torch.tensor([0.0, 0.07, 0.4, 0.93, 1.0], dtype=torch.float64)


def close(got: Any, want: Any, rtol: float = 1e-9) -> None:
    got = torch.as_tensor(got, dtype=torch.float64)
    want = torch.as_tensor(want, dtype=torch.float64).expand(got.shape)
    torch.testing.assert_close(got, want, rtol=rtol, atol=1e-12)


# --- processes --------------------------------------------------------------------------------------------------------


def test_vp_has_the_betas_of_the_score_sde_paper() -> None:
    # arXiv:2011.13456, appendix C: beta from 0.1 to 20, mean exp(−¼ t² (20 − 0.1) − ½ t 0.1) x_0.
    sde, t = sdegen.VP(), TIMES
    alpha = (-0.25 * t**2 * 19.9 - 0.5 * t * 0.1).exp()
    close(sde.alpha(t), alpha)
    close(sde.sigma(t), (1 - alpha**2).sqrt(), 1e-8)
    close(sde.f(t), -0.5 * (0.1 + 19.9 * t))
    close(sde.g(t), (0.1 + 19.9 * t).sqrt())
    assert sde.T == 1 and sde.alpha(TIMES[-1]).item() == pytest.approx(math.exp(-5.025))


def test_sub_vp_has_the_smaller_variance_of_the_score_sde_paper() -> None:
    # arXiv:2011.13456, equation 29: covariance [1 − exp(−½ t² (20 − 0.1) − t 0.1)]², the square of VP's.
    t = TIMES
    B = 0.5 * t**2 * 19.9 + 0.1 * t
    close(sdegen.SubVP().sigma(t), 1 - (-B).exp(), 1e-8)
    close(sdegen.SubVP().g(t) ** 2, (0.1 + 19.9 * t) * (1 - (-2 * B).exp()), 1e-8)


def test_ve_has_the_noise_of_the_score_sde_paper() -> None:
    # arXiv:2011.13456, appendix C: sigma_min = 0.01, sigma_max = 50 on CIFAR-10, dx = sigma_min (ratio)^t √(2 log ratio) dw.
    sde, t = sdegen.VE(), TIMES
    close(sde.sigma(t), 0.01 * 5000.0**t)
    close(sde.g(t), 0.01 * 5000.0**t * math.sqrt(2 * math.log(5000)))
    close(sde.alpha(t), 1.0)


def test_edm_has_the_levels_of_its_paper() -> None:
    # arXiv:2206.00364, table 1: sigma(t) = t from 0.002 to 80, no scaling; here t begins at the smallest level.
    sde = sdegen.EDM()
    levels = torch.tensor([0.002, 1.0, 80.0], dtype=torch.float64)
    close(sde.sigma(levels - 0.002), levels)
    close(sde.alpha(levels - 0.002), 1.0)
    close(sde.g(levels - 0.002) ** 2, 2 * levels)  # d sigma² / dt
    assert pytest.approx(79.998) == sde.T


def test_karras_levels_are_equation_5() -> None:
    # arXiv:2206.00364, equation 5 with rho = 7 and N = 18.
    N, low, high, rho = 18, 0.002, 80.0, 7
    want = [(high ** (1 / rho) + i / (N - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(N)]
    sde = sdegen.EDM()
    close(sde.sigma(grids.Karras()(sde, N)), want, 1e-8)


def test_ou_and_the_straight_and_cosine_interpolations_are_their_definitions() -> None:
    t = TIMES
    close(sdegen.OU(rate=0.7, T=2.0).alpha(t), (-0.7 * t).exp())
    close(sdegen.OU(rate=0.7, T=2.0).sigma(t) ** 2, 1 - (-1.4 * t).exp())
    close(sdegen.OU(rate=0.7, T=2.0).g(t) ** 2, 1.4)
    assert sdegen.OU().T == 5 and sdegen.OU().rate == 1
    close(sdegen.Rectified().alpha(t), 1 - t)  # arXiv:2209.03003
    close(sdegen.Rectified().sigma(t), t)
    close(sdegen.Cosine().alpha(t), (0.5 * math.pi * t).cos())  # arXiv:2410.11081
    close(sdegen.Cosine().sigma(t), (0.5 * math.pi * t).sin())


def test_ddpm_has_the_schedule_of_its_paper() -> None:
    # arXiv:2006.11239, section 4: T = 1000, beta from 1e-4 to 0.02, linearly.
    betas = linear_betas()
    assert len(betas) == 1000 and betas[0].item() == pytest.approx(1e-4) and betas[-1].item() == pytest.approx(0.02)
    close(betas.diff(), (0.02 - 1e-4) / 999)
    sde = sdegen.DDPM()
    kept = 1.0
    for k in range(1000):
        kept *= 1 - (1e-4 + k * (0.02 - 1e-4) / 999)
        if k in (0, 499, 999):
            assert sde.alpha(torch.tensor((k + 1) / 1000, dtype=torch.float64)).item() ** 2 == pytest.approx(kept)
            assert sde.sigma(torch.tensor((k + 1) / 1000, dtype=torch.float64)).item() ** 2 == pytest.approx(1 - kept)
    assert kept == pytest.approx(4.036e-5, rel=1e-3)  # as published code prints it: alphas_cumprod[-1]


def test_cosine_betas_are_those_of_improved_ddpm() -> None:
    # arXiv:2102.09672, equation 17: f(t) = cos²((t / T + s) / (1 + s) · π / 2), s = 0.008, beta at most 0.999.
    f = [math.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(1001)]
    close(cosine_betas(), [min(1 - f[k + 1] / f[k], 0.999) for k in range(1000)])
    assert cosine_betas()[-1].item() == 0.999


def test_other_tables_are_their_definitions() -> None:
    N = 50
    close(constant_betas(), 0.01)
    assert constant_betas().shape == (1000,)
    logistic = [1 / (1 + math.exp(-(-6 + 12 * k / (N - 1)))) for k in range(N)]
    close(sigmoid_betas(N), [1e-4 + (0.02 - 1e-4) * v for v in logistic])
    assert sigmoid_betas().shape == (1000,)
    table = torch.tensor([0.9, 0.5, 0.2, 0.0], dtype=torch.float64)  # arXiv:2305.08891: no signal in the end
    places = torch.arange(1, 5, dtype=torch.float64) / 4
    close(AngleTable(table).alpha(places) ** 2, table)
    close(AngleTable(table).sigma(places) ** 2, 1 - table)


@pytest.mark.parametrize("beta", [8.0, 3.0])
def test_cld_is_that_of_its_paper_at_mass_one(beta: float) -> None:
    # arXiv:2112.07068, equation 5 with M = 1/4, Gamma = 1, beta_paper = 4 and N(0, gamma M), gamma = 0.04; in u = v / √M it is
    # dx = 2 beta_paper u dt, du = −2 beta_paper (x + 2 u) dt + √(8 beta_paper) dw with u_0 ~ N(0, gamma).
    sde = sdegen.CLD(beta)
    zero = torch.zeros((), dtype=torch.float64)
    close(sde.F(zero), [[0.0, beta], [-beta, -2.0 * beta]])
    close(sde.G(zero), [[0.0, 0.0], [0.0, math.sqrt(4 * beta)]])
    close(sde.Sigma_0, [[0.0, 0.0], [0.0, 0.04]])
    # Critically damped: exp(F t) = exp(−beta t) (1 + beta t [[1, 1], [−1, −1]]); N(0, 1) on both channels is stationary.
    for t in (0.1, 0.6):
        b = beta * t
        Phi = math.exp(-b) * torch.tensor([[1 + b, b], [-b, 1 - b]], dtype=torch.float64)
        at = sde.marginal(torch.tensor(t, dtype=torch.float64))
        close(at.Phi.matrix(), Phi)
        start = torch.tensor([[1.0, 0.0], [0.0, 1 - 0.04]], dtype=torch.float64)  # what is missing to stationarity
        R = at.R.matrix()
        close(R @ R.mT, torch.eye(2, dtype=torch.float64) - Phi @ start @ Phi.mT, 1e-7)
    assert (sdegen.CLD().beta, sdegen.CLD().gamma, sdegen.CLD().T) == (8, 0.04, 1)


def test_the_double_well_is_its_potential() -> None:
    well, x = sdegen.DoubleWell(1.5, 0.8), torch.tensor([[-1.3, 0.2], [0.5, 2.0]], dtype=torch.float64)
    close(well.drift(x, TIMES[0]), -1.5 * (x**3 - x))
    law = well.prior(sdegen.data.gaussian_ring().moments())
    potential = 0.25 * 1.5 * (x**2 - 1) ** 2
    gap = law.log_prob(x) - (-2 * potential / 0.8**2).sum(1)
    close(gap, gap[0])  # but for the norm
    close(law.score(x), -2 * 1.5 * (x**3 - x) / 0.8**2)


# --- parametrisations -------------------------------------------------------------------------------------------------

# v = cos z − sin x_0 from an answer F and the state x = alpha x_0 + sigma z, r = √(alpha² + sigma²): c_skip r and c_out.
READINGS: dict[type[Parametrization], Any] = {
    NoiseParametrization: lambda cos, sin, sigma: (-sin / cos, 1 / cos),
    DataParametrization: lambda cos, sin, sigma: (cos / sin, -1 / sin),
    VelocityParametrization: lambda cos, sin, sigma: (0 * cos, 1 + 0 * cos),
    StraightParametrization: lambda cos, sin, sigma: ((cos - sin) / (cos + sin), 1 / (cos + sin)),
    ScoreParametrization: lambda cos, sin, sigma: (-sin / cos, -sigma / cos),  # F = −z / sigma
}


@pytest.mark.parametrize("kind", READINGS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "sde", [sdegen.VP(), sdegen.SubVP(), sdegen.VE(), sdegen.EDM()], ids=lambda s: type(s).__name__
)
def test_coefficients_of_a_scalar_process_are_algebra(sde: Any, kind: type[Parametrization]) -> None:
    t = sde.T * torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    r = (alpha**2 + sigma**2).sqrt()
    skip, out = READINGS[kind](alpha / r, sigma / r, sigma)
    c = kind(std=1.7, delta=0.02).coefficients(sde, sde.marginal(t), 1.7)
    close(c.c_skip.matrix()[..., 0, 0] * r, skip, 1e-8)
    close(c.c_out.matrix()[..., 0, 0], out, 1e-8)
    close(c.c_in.matrix()[..., 0, 0], (alpha**2 * 1.7**2 + sigma**2).rsqrt(), 1e-8)
    close(c.c_noise, 0.25 * ((sigma / r + 0.02) / (alpha / r + 0.02)).log(), 1e-8)


def test_the_noise_level_of_a_network_is_a_quarter_of_the_log_of_edm() -> None:
    # arXiv:2206.00364, table 1: c_noise = ¼ ln sigma; here finite at the ends, by a thousandth on sine and cosine.
    sde, sigma = sdegen.EDM(), torch.tensor([1.0, 0.1], dtype=torch.float64)
    level = EDMParametrization().c_noise(sde.marginal(sigma - 0.002))
    angle = sigma.atan()
    close(level, 0.25 * ((angle.sin() + 1e-3) / (angle.cos() + 1e-3)).log(), 1e-6)
    assert level[0].item() == pytest.approx(0, abs=1e-6) and level[1].item() == pytest.approx(
        0.25 * math.log(0.1), abs=3e-3
    )


# --- weightings, losses, samplers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VE()], ids=lambda s: type(s).__name__)
def test_weightings_are_those_of_the_papers(sde: Any) -> None:
    t = sde.T * torch.tensor([0.05, 0.3, 0.8], dtype=torch.float64)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    snr = (alpha / sigma) ** 2
    of_clean_data = sigma**2 / snr  # lambda of one on the error of clean data: s = (alpha x_0 − x) / sigma²
    for weighting, want in (
        (weightings.MinSNRWeighting(), snr.clamp_max(5.0) * of_clean_data),  # arXiv:2303.09556, gamma = 5
        (weightings.SNRWeighting(), (snr + 1) * of_clean_data),  # arXiv:2202.00512
        (weightings.SNRWeighting(0.3), (snr + 0.3) * of_clean_data),
        (weightings.InverseVarianceWeighting(), sigma**2),  # arXiv:2006.11239
        (weightings.UniformWeighting(), torch.ones_like(t)),
        (weightings.LikelihoodWeighting(), sde.g(t) ** 2),  # arXiv:2101.09258
    ):
        close(weighting(sde, t).matrix()[..., 0, 0] ** 2 + 0 * t, want, 1e-8)


def default(of: Any, name: str) -> Any:
    return inspect.signature(of).parameters[name].default


def test_defaults_that_papers_name() -> None:
    assert (
        default(weightings.LogNormalTimes, "mean") == -1.2 and default(weightings.LogNormalTimes, "std") == 1.2
    )  # EDM
    assert default(grids.Karras, "rho") == 7  # EDM
    assert default(weightings.MinSNRWeighting, "gamma") == 5  # arXiv:2303.09556
    assert default(losses.InputPerturbation, "gamma") == 0.1  # arXiv:2301.11706
    assert default(losses.Hybrid, "weight") == 1e-3  # arXiv:2102.09672, section 3.1: lambda
    assert default(guidance.twisted_smc, "threshold") == 0.5  # resample below half the effective number
    assert (samplers.Churn().S_noise, samplers.Churn().S_min, samplers.Churn().S_max) == (1, 0, math.inf)
    assert sdegen.training.Settings().p_uncond == 0


def test_churn_lifts_by_the_square_root_of_two_at_most() -> None:
    # arXiv:2206.00364, algorithm 2: gamma = min(S_churn / N, √2 − 1) within [S_min, S_max].
    model = sdegen.Exact(sdegen.EDM(), sdegen.data.gaussian_ring())
    times = grids.Karras()(model.sde, 5)
    levels = model.sde.sigma(times)
    for churn, gamma in ((40.0, math.sqrt(2) - 1), (0.8, 0.2), (0.0, 0.0)):
        sampler = samplers.Churn(4, S_churn=churn, S_min=0.05, S_max=40.0)
        for k, c in enumerate(sampler.plan(model, times)):
            inside = 0.05 <= levels[k] <= 40
            close(c.rho_t, min(levels[k].item() * (1 + gamma * inside), 80.0), 1e-6)
