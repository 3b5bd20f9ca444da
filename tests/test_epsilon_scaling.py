"""The predicted noise divided by a factor: every reading, every sampler."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from labelled import DATA, SDES, states
from torch import Tensor, nn

import sdegen
from sdegen import grids
from sdegen.guidance import (
    ClassifierFree,
    EpsilonScaling,
    LinearScale,
)
from sdegen.models import Conditioned
from sdegen.models.exact import Exact
from sdegen.samplers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    Heun,
    ProbabilityFlow,
    learned_variance,
    sample,
)
from sdegen.testing import affine_moments, check_model

name = lambda s: type(s).__name__


@pytest.mark.thinned(2)
@pytest.mark.parametrize("scale", [1.05, 0.9, LinearScale(1.02, 0.3)], ids=str)
@pytest.mark.parametrize("sde", SDES, ids=name)
def test_all_readings_are_those_of_the_scaled_noise(sde: Any, scale: Any) -> None:
    inner = Exact(sde, DATA)
    model = EpsilonScaling(inner, scale)
    without_signal = {"readings_are_finite_at_both_ends": "without signal the noise is the state and cannot be scaled"}
    report = check_model(model, without_signal if sde.snr(sde.T) == 0 else None)
    assert report.passed, report
    x, t = states(sde)
    factor = scale(t) if callable(scale) else torch.full_like(t, scale)
    factor = factor.reshape(-1, *[1] * (x.ndim - 1))
    eps = inner.noise(x, t) / factor
    at = sde.marginal(t)
    close = lambda got, want: torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    close(model.noise(x, t), eps)
    close(model.score(x, t), inner.score(x, t) / factor)
    close(model.denoise(x, t), at.Phi.inv()(x - at.R(eps)))
    close(model.velocity(x, t), at.A(model.denoise(x, t)) + at.B(eps))
    for got, want in zip(model.estimate(x, t), (model.denoise(x, t), eps), strict=True):
        close(got, want)
    for i in (0, 5):  # one time for all rows, and a plain number
        close(model.estimate(x[i : i + 1], t[i])[0], model.denoise(x, t)[i : i + 1])
        close(model.estimate(x[i : i + 1], t[i].item())[0], model.denoise(x, t)[i : i + 1])


@pytest.mark.parametrize("scale", [1.1, pytest.param(LinearScale(1.1), marks=pytest.mark.slow)], ids=str)
def test_every_sampler_follows_the_scaled_dynamics(scale: Any) -> None:
    # OU on standard normal data: score = −x, so dx/dt = −x + (1 + eta²) x / scale with noise eta √2.
    T, sde = 1.5, sdegen.OU(T=1.5)
    data = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    scaled = EpsilonScaling(Exact(sde, data), scale)

    class Scaled(Exact):  # with the law that affine_moments starts from
        def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
            return scaled.score(x, t)

        def estimate(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> tuple[Tensor, Tensor]:
            return scaled.estimate(x, t)

    model = Scaled(sde, data)
    a = 1 - 1 / 1.1
    flow = math.exp(2 * a * T)
    b = 1 - 2 / 1.1
    reverse = math.exp(2 * b * T) + (math.exp(2 * b * T) - 1) / b
    grid, even = grids.Angle(end=0.0), grids.Uniform(end=0.0)
    for sampler, want in (
        (DDIM(500, grid), flow),
        (Heun(60, grid), flow),
        (ProbabilityFlow(30, grid, method="rk4"), flow),
        (EulerMaruyama(800, even, eta=0.0), flow),
        (EulerMaruyama(800, even), reverse),
        (Ancestral(800, grid), reverse),
        (DDIM(800, grid, eta=1.0), reverse),
    ):
        variance = affine_moments(sampler, model)[1].item()
        assert abs(variance / want - 1) < 8e-3, (type(sampler).__name__, variance, want)
    assert flow > 1.25  # the factor is felt


def test_the_default_sampler_follows_them_too() -> None:
    model = EpsilonScaling(Exact(sdegen.VP(), sdegen.data.gaussian_ring()), LinearScale(1.02, 0.05))
    x_T = model.sde.prior(model.moments).sample(20, torch.Generator().manual_seed(0))
    default, heun = (sample(model, x_T=x_T, **how) for how in ({"steps": 200}, {"sampler": Heun(200)}))
    torch.testing.assert_close(default, heun, rtol=0, atol=0.03)
    assert (sample(model.model, x_T=x_T, steps=200) - default).abs().max() > 0.1


@pytest.mark.parametrize("sde", [sdegen.Cosine(), sdegen.Rectified()], ids=name)
def test_where_the_state_is_noise_it_is_refused_or_left(sde: Any) -> None:
    inner, x = Exact(sde, DATA), torch.randn(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"alpha = 0 at t = 1 of .*start the grid at t_max"):
        sample(EpsilonScaling(inner, 1.01), 4, sampler=DDIM(4))
    assert sample(EpsilonScaling(inner, 1.01), 4, sampler=DDIM(40, grids.Angle(start=sde.t_max))).isfinite().all()
    gentle = EpsilonScaling(inner, lambda t: torch.where(t < 1, 1.01, 1.0))
    assert sample(gentle, 4, sampler=DDIM(4)).isfinite().all()
    t = torch.tensor([1.0, 0.5, 1.0, 0.5], dtype=torch.float64)
    for got, want in zip(gentle.estimate(x, t), inner.estimate(x, t), strict=True):
        torch.testing.assert_close(got[::2], want[::2], rtol=1e-12, atol=1e-12)
        assert (got[1::2] - want[1::2]).abs().min() > 1e-6
    with pytest.raises(ValueError, match="alpha = 0 at t = 1 "):
        EpsilonScaling(inner, 1.01).estimate(x, t)


def test_scale_one_is_the_model_itself() -> None:
    sde = sdegen.Cosine()
    inner = Exact(sde, DATA)
    pair = [sample(m, 8, sampler=DDIM(10), seed=0) for m in (inner, EpsilonScaling(inner, 1.0))]
    torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda m: EpsilonScaling(m, 1.01), lambda m: ClassifierFree(m, 2.0)])
def test_wrappers_have_the_dtype_conditions_and_moments_of_the_network(wrap: Any) -> None:
    net = sdegen.nets.MLP(2, width=16, depth=1, classes=3)
    inner = sdegen.Model(net, sdegen.VP())
    model = wrap(inner)
    assert model.moments is None and model.sde is inner.sde
    inner.moments = DATA.moments()  # fitted later: seen through
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    for training in (True, False):
        inner.train(training)
        x = sample(model, 5, sampler=DDIM(4), seed=0, label=torch.tensor([0, 1, 2, 0, 1]))
        assert x.dtype == torch.float32 and inner.training == model.training == training
    bound = Conditioned(model, label=torch.tensor(1))
    y, t = torch.randn(4, 2), torch.full((4,), 0.5, dtype=torch.float64)
    label = torch.ones(4, dtype=torch.long)
    torch.testing.assert_close(bound.estimate(y, t)[0], model.estimate(y, t, label=label)[0])
    assert not torch.equal(model.score(y, t, label=label), model.score(y, t, label=label - 1))


def test_learned_variances_are_kept() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return torch.cat([0.1 * x, x], 1)

    inner = sdegen.LearnedVariance(Twice(), sdegen.VP())
    inner.moments = DATA.moments()
    assert sample(EpsilonScaling(inner, 1.01), 3, sampler=Ancestral(4, variance=learned_variance)).shape == (3, 2)
    plain = EpsilonScaling(Exact(sdegen.VP(), DATA), 1.01)
    with pytest.raises(TypeError, match="no learned variance"):
        sample(plain, 3, sampler=Ancestral(4, variance=learned_variance))


def test_a_nonlinear_score_is_scaled_too() -> None:
    inner = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), sdegen.DoubleWell())
    x, t = torch.randn(3, 1), torch.full((3,), 0.5, dtype=torch.float64)
    torch.testing.assert_close(EpsilonScaling(inner, 2.0).score(x, t), 0.5 * inner.score(x, t))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_scales_that_mean_nothing_are_refused(scale: float) -> None:
    inner = Exact(sdegen.VP(), DATA)
    with pytest.raises(ValueError, match=r"must be (positive|a number)"):
        EpsilonScaling(inner, scale)
    with pytest.raises(ValueError, match=r"scale = .* at t = \[0.5\]"):
        EpsilonScaling(inner, lambda t: t * 0 + scale).score(torch.zeros(1, 2), 0.5)
