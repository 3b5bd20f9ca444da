"""Samplers: what each is equal to, exact on, and draws; the laws that hold for all are in `laws/test_every_sampler`."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, samplers
from sdegen.samplers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    encode,
)
from sdegen.testing import affine_moments, gaussian_data, gaussian_error, sampled_moments


def test_ddim_at_eta_one_is_ancestral_sampling() -> None:
    for sde in (sdegen.VP(), sdegen.EDM()):
        model = sdegen.Exact(sde, gaussian_data())
        first, second = affine_moments(DDIM(20, eta=1.0), model), affine_moments(Ancestral(20), model)
        for a, b in zip(first, second, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "sde", [sdegen.VP(), sdegen.EDM(), sdegen.Rectified(), sdegen.CLD()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ddim_is_exact_on_one_data_point(sde: sdegen.LinearSDE, steps: int) -> None:
    # Whatever the steps: only the right root of a matrix process passes this.
    x_0 = torch.tensor([[0.4, -1.1]], dtype=torch.float64)
    model = sdegen.Exact(sde, sdegen.GaussianMixture(torch.ones(1), x_0, torch.tensor([1e-14])))
    z = torch.randn_like(sde.lift(x_0))
    grid = grids.Uniform(end=0.1 * sde.T)
    x_T = sde.marginal(sde.T)(sde.lift(x_0)).sample(z)
    got = DDIM(steps, grid)
    times = got.times(sde, False)
    x = x_T
    for c in got.plan(model, times):
        x, _ = got.step(model, x, c, torch.zeros_like, None)
    torch.testing.assert_close(x, sde.marginal(times[-1])(sde.lift(x_0)).sample(z), rtol=0, atol=1e-6)
    clean = sdegen.sample(model, x_T=x_T, sampler=DDIM(steps, grid))
    torch.testing.assert_close(clean, x_0, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_cholesky_root_would_fail_on_a_matrix_process() -> None:
    class Wrong(sdegen.CLD):
        def _marginal(self, t: Tensor) -> tuple[sdegen.Operator, sdegen.Operator]:
            Phi, R = super()._marginal(t)
            return Phi, R.gram().cholesky()

    x_0 = torch.tensor([[0.4, -1.1]], dtype=torch.float64)
    law = sdegen.GaussianMixture(torch.ones(1), x_0, torch.tensor([0.25]))
    errors = []
    for sde in (sdegen.CLD(), Wrong()):
        model = sdegen.Exact(sde, law)
        reference, tried = Heun(400, grids.Uniform(end=0.1)), DDIM(400, grids.Uniform(end=0.1))
        x_T = torch.randn(50, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        ends = [sdegen.sample(model, x_T=x_T, sampler=s, final="sample") for s in (reference, tried)]
        errors.append((ends[0] - ends[1]).norm(dim=1).max().item())
    assert errors[0] < 0.02 and errors[1] > 0.2


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD()], ids=lambda s: type(s).__name__)
@pytest.mark.turns("CLD")
def test_langevin_settles_on_the_law_at_its_time(sde: sdegen.LinearSDE) -> None:
    # Its stationary covariance solves P = A P Aᵀ + 2h R Rᵀ: the law at t up to O(h).
    model = sdegen.Exact(sde, gaussian_data())
    t = 0.3
    errors = []
    for h in (0.2, 0.1):
        mean, covariance = affine_moments(Langevin(400, h=h, t=t), model)
        law = sde.diffused(gaussian_data(), t)
        want_mean, want = law.moments()
        torch.testing.assert_close(mean, want_mean.reshape(-1), rtol=0, atol=1e-6)
        errors.append((covariance - want).norm() / want.norm())
    assert errors[1] < 0.1 and 0.85 < math.log2(errors[0] / errors[1]) < 1.15


@pytest.mark.slow
def test_annealed_langevin_and_correctors_reach_the_law() -> None:
    ring = sdegen.data.gaussian_ring()
    model = sdegen.Exact(sdegen.VP(), ring)
    y = ring.sample(2000, torch.Generator().manual_seed(1))
    floor = sdegen.metrics.knn_kl(ring.sample(2000, torch.Generator().manual_seed(2)), y)
    for sampler in (
        AnnealedLangevin(40, h=0.2, repeats=10, grid=grids.LogSNR(end=sdegen.VP().time(25.0).item())),
        PredictorCorrector(EulerMaruyama(200), Langevin(1, h=0.05)),
    ):
        x = sdegen.sample(model, 2000, sampler=sampler, seed=0)
        found = sdegen.metrics.knn_kl(x, y)
        assert found.value < floor.value + 5 * (floor.stderr + found.stderr) + 0.05


def test_corrector_repairs_a_crude_predictor() -> None:
    model = sdegen.Exact(sdegen.VP(), gaussian_data())
    want_mean, want = gaussian_data().moments()

    def error(sampler: Sampler) -> float:
        mean, covariance = affine_moments(sampler, model)
        return (covariance - want).norm().item() + (mean - want_mean).norm().item()

    plain, corrected = EulerMaruyama(30), PredictorCorrector(EulerMaruyama(30), Langevin(3, h=0.1))
    assert error(corrected) < 0.7 * error(plain)


def test_one_short_langevin_step_corrects_by_default() -> None:
    model = sdegen.Exact(sdegen.VP(), gaussian_data())
    whole, named = (
        affine_moments(PredictorCorrector(EulerMaruyama(9), *how), model) for how in ((), (Langevin(1, h=0.05),))
    )
    assert all(map(torch.equal, whole, named))


class AtRest(sdegen.ScoreModel):
    """The double well started from its stationary law: the exact score of a nonlinear process."""

    moments = sdegen.Moments(torch.zeros(1), torch.eye(1))

    def __init__(self) -> None:
        self.sde = sdegen.DoubleWell(T=4.0)
        self.law = self.sde.prior(self.moments)

    def score(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
        return self.law.score(x)


def test_euler_maruyama_on_the_double_well_has_weak_order_one() -> None:
    # One step's law given x is Gaussian: the density is carried forward by quadrature, without Monte Carlo.
    model = AtRest()
    grid = torch.linspace(-2.6, 2.6, 801, dtype=torch.float64)
    dx = grid[1] - grid[0]
    p_0 = model.law.log_prob(grid[:, None]).exp()
    errors = []
    for steps in (40, 80):
        sampler = EulerMaruyama(steps, grids.Uniform(end=0.0))
        times = sampler.times(model.sde, False)
        p = p_0
        for c in sampler.plan(model, times):
            mean, _ = sampler.step(model, grid[:, None], c, torch.zeros_like, None)
            moved, _ = sampler.step(model, grid[:, None], c, torch.ones_like, None)
            std = (moved - mean)[:, 0]
            kernel = (-0.5 * ((grid[None] - mean) / std[:, None]).square()).exp() / (
                std[:, None] * math.sqrt(2 * math.pi)
            )
            p = (p[:, None] * kernel).sum(0) * dx
        errors.append(((p - p_0) * grid.square()).sum().item() * dx.item())
    assert abs(p.sum().item() * dx.item() - 1) < 1e-3
    assert math.log2(errors[0] / errors[1]) > 0.85


def test_flow_and_langevin_on_the_double_well_keep_its_law() -> None:
    model = AtRest()
    x_T = model.law.sample(4000, torch.Generator().manual_seed(0))
    for sampler in (Heun(20, grids.Uniform()), ProbabilityFlow(grid=grids.Uniform())):
        x = sdegen.sample(model, x_T=x_T, sampler=sampler)
        torch.testing.assert_close(x, x_T, rtol=0, atol=1e-9)  # at rest the flow stands still
    x = sdegen.sample(model, x_T=0.9 * x_T, sampler=Langevin(300, h=0.01, t=1.0), seed=1)
    spread = x_T.square().std() / 4000**0.5
    assert (x.square().mean() - x_T.square().mean()).abs() < 6 * spread


class Plain(sdegen.SDE):
    """Ornstein and Uhlenbeck's process written as one of which only drift and noise are known."""

    T = 3.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, 2**0.5)

    def prior(self, moments: sdegen.Moments) -> sdegen.GaussianMixture:
        return sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))


class FromANarrowGaussian(sdegen.ScoreModel):
    """The exact score of `Plain` from data of one standard deviation, 0.2."""

    def __init__(self) -> None:
        self.sde, self.std = Plain(), 0.2
        self.moments = sdegen.Moments(torch.zeros(1), self.std**2 * torch.eye(1))

    def score(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
        decay = (-2 * torch.as_tensor(t)).exp()[..., None]
        return (-x / (decay * self.std**2 + 1 - decay)).to(x.dtype)


def test_steps_on_a_nonlinear_process_are_shorter_near_data() -> None:
    """Steps even in t leave data 29 % too narrow, 44 % too wide, and their noise 18 % too wide."""
    model = FromANarrowGaussian()
    z = torch.randn(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sampler, off in ((Heun(20), 0.05), (EulerMaruyama(100), 0.12)):
        x = sdegen.sample(model, x_T=z, sampler=sampler, seed=1)
        assert abs(x.std().item() / model.std - 1) < off, sampler
    assert abs(encode(model, model.std * z, steps=40).std().item() - 1) < 0.04


def test_seed_reproduces_and_generator_continues(device: torch.device, dtype: torch.dtype) -> None:
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).to(device, dtype)
    model.moments = gaussian_data().moments()
    sampler = EulerMaruyama(5)
    first, second = (sdegen.sample(model, 8, sampler=sampler, seed=3) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == dtype and first.device.type == device.type
    generator = torch.Generator().manual_seed(3)
    third = sdegen.sample(model, 8, sampler=sampler, generator=generator)
    assert torch.equal(first, third)
    assert not torch.equal(sdegen.sample(model, 8, sampler=sampler, generator=generator), third)


def test_deterministic_samplers_draw_no_noise() -> None:
    model = sdegen.Exact(sdegen.VP(), gaussian_data())

    def forbidden(x: Tensor) -> Tensor:
        raise AssertionError("noise was drawn")

    for sampler in (DDIM(3), Heun(3), ProbabilityFlow(3, method="rk4"), EulerMaruyama(3, eta=0.0)):
        times = sampler.times(model.sde, False)
        x = torch.randn(4, 2, dtype=torch.float64)
        for c in sampler.plan(model, times):
            x, _ = sampler.step(model, x, c, forbidden, None)


def test_path_ends_where_the_sample_does() -> None:
    model = sdegen.Exact(sdegen.CLD(), gaussian_data())
    for final in ("denoise", "sample"):
        path = sdegen.sample(model, 5, steps=6, seed=0, final=final, return_path=True)
        assert path.shape == (7, 5, 2)
        assert torch.equal(path[-1], sdegen.sample(model, 5, steps=6, seed=0, final=final))


def test_adaptive_flow_meets_its_tolerance() -> None:
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    x_T = torch.randn(100, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tight = sdegen.sample(model, x_T=x_T, sampler=ProbabilityFlow(rtol=1e-10, atol=1e-10), final="sample")
    loose = sdegen.sample(model, x_T=x_T, sampler=ProbabilityFlow(), final="sample")
    median = (tight - loose).norm(dim=1).median()
    assert 1e-9 < median < 1e-4


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VE(), sdegen.Rectified()], ids=lambda s: type(s).__name__)
def test_the_error_of_ddim_on_gaussian_data_is_its_closed_form_of_full_and_low_rank(sde: sdegen.ScalarSDE) -> None:
    # Along an axis of variance v a step multiplies by (alpha_s alpha_t v + sigma_s sigma_t) / (alpha_t² v + sigma_t²).
    variances = torch.tensor([1.5, 0.2, 1e-13], dtype=torch.float64)  # the last one is no width at all
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 3), ((Q * variances) @ Q.T)[None])
    sampler = DDIM(12)
    t = sampler.times(sde, True)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    width = (alpha.square() * variances + sigma.square()).sqrt()
    factors = (alpha[1:] * alpha[:-1] * variances + sigma[1:] * sigma[:-1]) / width[:-1].square()
    last = alpha[-1] * variances / width[-1].square()
    want = (width[0] * factors.prod(0) * last - variances.sqrt()).norm().item()
    assert gaussian_error(sdegen.Exact(sde, law), sampler) == pytest.approx(want, rel=1e-5)
    assert want > 0.01


def test_moments_of_a_run_are_those_of_its_samples_with_noise_and_with_memory() -> None:
    model = sdegen.Exact(sdegen.VP(), gaussian_data())
    for sampler in (sdegen.samplers.Ancestral(6), sdegen.samplers.Multistep(6), sdegen.samplers.ExponentialSDE(6)):
        mean, covariance = sampled_moments(model, sampler)
        law = sdegen.VP().diffused(gaussian_data(), sampler.times(model.sde, True)[0])
        x_T = law.sample(60_000, torch.Generator().manual_seed(0))
        x = sdegen.sample(model, x_T=x_T, sampler=sampler, seed=1)
        spread = covariance.diagonal().sqrt()
        assert ((x.mean(0) - mean).abs() < 5 * spread / 60_000**0.5).all()
        assert ((x.T.cov() - covariance).abs() < 7 * spread[:, None] * spread / 60_000**0.5).all()


def test_the_default_makes_no_error_on_gaussian_data() -> None:
    # Its reference is the Gaussian of the data's own moments.
    for sde in (sdegen.VP(), sdegen.EDM(), sdegen.Rectified()):
        model = sdegen.Exact(sde, gaussian_data())
        assert gaussian_error(model) < 1e-4 < 0.01 < gaussian_error(model, DDIM(20))


COUNTED = [
    kind
    for name in samplers.__all__
    if isinstance(kind := getattr(samplers, name), type)
    and issubclass(kind, samplers.Sampler)
    and not inspect.isabstract(kind)
    and "steps" in inspect.signature(kind).parameters
]


@pytest.mark.parametrize("kind", COUNTED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_one_step_or_a_few_gives_samples_or_says_why_not(kind: Any, steps: int) -> None:
    """Of each sampler on three processes, one for each number of steps; where that one is refused, on VP."""
    ring, said = sdegen.data.gaussian_ring(), list[str]()
    x, ran = ring.sample(3, torch.Generator().manual_seed(0)), 0
    chosen = (sdegen.VP(), sdegen.Rectified(), sdegen.CLD())[(COUNTED.index(kind) + steps) % 3]
    for model in (sdegen.Exact(sde, ring) for sde in (chosen, sdegen.VP())):
        for run in (
            lambda model: sdegen.sample(model, 4, sampler=kind(steps=steps), seed=0),
            lambda model: samplers.encode(model, x, sampler=kind(steps=steps)),
            lambda model: sdegen.edit(model, x, 0.4, sampler=kind(steps=steps), seed=0),
        ):
            try:
                assert run(model).isfinite().all()
                ran += 1
            except (TypeError, ValueError) as refused:
                said.append(str(refused))
        if ran:
            break
    assert all(re.fullmatch(r".+(; |, ).+\.", words) for words in said), said
    assert ran or kind is samplers.Jumps  # which needs a flow map
