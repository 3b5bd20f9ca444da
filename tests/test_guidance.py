"""Models made of models, and the loss against exposure bias: readings agree, samplers agree, minimisers are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import grids, losses, weightings
from sdegen.guidance import (
    ClassifierFree,
    Clipped,
    DynamicThreshold,
    EpsilonScaling,
    LinearScale,
    RescaledGuidance,
)
from sdegen.models import Conditioned, ScoreModel, VelocityParametrization
from sdegen.models.exact import Exact, ExactConditional
from sdegen.samplers import (
    DDIM,
    Ancestral,
    EulerMaruyama,
    ExponentialSDE,
    Heun,
    Multistep,
    PointMass,
    ProbabilityFlow,
    ReverseDiffusion,
    Singlestep,
    learned_variance,
    sample,
)
from sdegen.testing import affine_moments, check_model, gaussian_data

DATA = gaussian_data()
SDES = [sdegen.VP(), sdegen.VE(), sdegen.Cosine(), sdegen.DDPM(), sdegen.CLD(sigma_0=0.1)]
name = lambda s: type(s).__name__


def states(sde: Any, n: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    t = sde.T * torch.linspace(0.1, 0.9, n, dtype=torch.float64)
    return sde.perturb(DATA.sample(n, g), t, generator=g).x, t


# --- noise divided by a factor ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.05, 0.9, LinearScale(1.02, 0.3)], ids=str)
@pytest.mark.parametrize("sde", SDES, ids=name)
def test_all_readings_are_those_of_the_scaled_noise(sde: Any, scale: Any) -> None:
    inner = Exact(sde, DATA)
    model = EpsilonScaling(inner, scale)
    assert check_model(model).passed, check_model(model)
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
    model = EpsilonScaling(Exact(sde, data), scale)
    model.distribution = data  # what affine_moments starts from
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
    with pytest.raises(ValueError, match="must be positive"):
        EpsilonScaling(inner, scale)
    with pytest.raises(ValueError, match=r"scale = .* at t = \[0.5\]"):
        EpsilonScaling(inner, lambda t: t * 0 + scale).score(torch.zeros(1, 2), 0.5)


# --- guidance without a classifier --------------------------------------------------------------------------------


class Two(ScoreModel):
    """Exact for one of two laws by `label`, and for their mixture without."""

    def __init__(self, sde: Any) -> None:
        means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
        law = sdegen.GaussianMixture
        both = law(torch.full((2,), 0.5), means, torch.full((2,), 0.1))
        self.laws = {0: law(torch.ones(1), means[:1], torch.ones(1) * 0.1), None: both}
        self.sde, self.moments, self.asked = sde, both.moments(), 0

    def _at(self, label: Any) -> Exact:
        self.asked += 1
        return Exact(self.sde, self.laws[label])

    def score(self, x: Tensor, t: Any, label: Any = None, **cond: Any) -> Tensor:
        return self._at(label).score(x, t)

    def estimate(self, x: Tensor, t: Any, label: Any = None, **cond: Any) -> tuple[Tensor, Tensor]:
        return self._at(label).estimate(x, t)


@pytest.mark.parametrize("sde", SDES, ids=name)
@pytest.mark.parametrize("interval", [None, (0.2, 0.6)])
def test_guided_readings_extrapolate_and_agree(sde: Any, interval: Any) -> None:
    inner = Two(sde)
    model = ClassifierFree(inner, 3.0, interval=interval and tuple(sde.T * v for v in interval))
    assert check_model(Conditioned(model, label=0)).passed
    x, t = states(sde)
    inside = torch.ones_like(t, dtype=torch.bool) if interval is None else (t >= 0.2 * sde.T) & (t <= 0.6 * sde.T)
    assert inside.any() and (interval is None or not inside.all())
    weight = torch.where(inside, 3.0, 1.0).reshape(-1, *[1] * (x.ndim - 1))
    for reading in ("score", "velocity", "noise", "denoise"):
        given, null = getattr(inner, reading)(x, t, label=0), getattr(inner, reading)(x, t)
        got = getattr(model, reading)(x, t, label=0)
        torch.testing.assert_close(got, null + weight * (given - null), rtol=1e-9, atol=1e-9)


def test_scale_one_and_times_outside_ask_once() -> None:
    inner = Two(sdegen.VP())
    x, t = states(inner.sde)
    one, inside = ClassifierFree(inner, 1.0), ClassifierFree(inner, 3.0, interval=(0.0, 0.3))
    want = inner.estimate(x, 0.5, label=0)
    for model, count in ((one, 1), (inside, 1), (ClassifierFree(inner, 3.0), 2)):
        inner.asked = 0
        got = model.estimate(x, torch.tensor(0.5, dtype=torch.float64), label=0)
        assert inner.asked == count
        assert torch.allclose(got[0], want[0], rtol=1e-12, atol=1e-12) == (count == 1)
    torch.testing.assert_close(ClassifierFree(inner, 0.0).score(x, t, label=0), inner.score(x, t))


def test_the_null_condition_is_a_label_or_its_absence() -> None:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=3), sdegen.VP())
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    x, t = torch.randn(4, 2), torch.full((4,), 0.5, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 0])
    absent, minus = ClassifierFree(inner, 2.0), ClassifierFree(inner, 2.0, null={"label": torch.tensor(-1)})
    got = minus.velocity(x, t, label=label)
    assert torch.equal(got, absent.velocity(x, t, label=label))
    assert not torch.allclose(got, inner.velocity(x, t, label=label))


def test_guidance_pushes_samples_away_from_the_other_class() -> None:
    inner = Two(sdegen.VP())
    means = [
        sample(ClassifierFree(inner, scale), 400, sampler=DDIM(40), seed=0, label=0)[:, 0].mean()
        for scale in (1.0, 4.0)
    ]
    assert abs(means[0] - 1) < 0.1 and means[1] > means[0] + 0.02


def test_guidance_refuses_what_means_nothing() -> None:
    inner = Two(sdegen.VP())
    with pytest.raises(ValueError, match="scale = nan; give a finite number"):
        ClassifierFree(inner, math.nan)
    with pytest.raises(ValueError, match=r"interval = \(0.5, 0.2\); give"):
        ClassifierFree(inner, 2.0, interval=(0.5, 0.2))


# --- clean states changed -----------------------------------------------------------------------------------------


class Says(ScoreModel):
    """The clean data that it is told, whatever the state, with the noise that belongs to them."""

    def __init__(self, sde: Any, x_0: Tensor, null: Tensor | None = None) -> None:
        self.sde, self.moments, self.asked = sde, DATA.moments(), 0
        self.clean = {True: x_0, False: x_0 if null is None else null}

    def estimate(self, x: Tensor, t: Any, label: Any = None, **cond: Any) -> tuple[Tensor, Tensor]:
        self.asked += 1
        x_0, at = self.sde.lift(self.clean[label is not None]), self.sde.marginal(t)
        return x_0, at.R.inv()(x - at.Phi(x_0))

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return self.sde.marginal(t).score_from_noise(self.noise(x, t, **cond))


CHANGED: dict[str, Any] = {
    "clipped": lambda m: Clipped(m, -0.2, 0.3),
    "clipped from below": lambda m: Clipped(m, 0.1, math.inf),
    "dynamic": lambda m: DynamicThreshold(m, -0.2, 0.3, 0.5),
    "rescaled": lambda m: Conditioned(RescaledGuidance(m, 3.0, 0.7), label=0),
}


@pytest.mark.parametrize("wrap", CHANGED)
@pytest.mark.parametrize("sde", SDES, ids=name)
def test_the_noise_follows_the_changed_clean_state(sde: Any, wrap: str) -> None:
    inner = Two(sde)
    model = CHANGED[wrap](inner)
    assert check_model(model).passed, check_model(model)
    x, t = states(sde)
    at = sde.marginal(t)
    x_0, eps = model.estimate(x, t)
    close = lambda got, want: torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    close(eps, at.R.inv()(x - at.Phi(x_0)))
    close(model.score(x, t), -at.R.inv().T(eps))
    close(model.velocity(x, t), at.A(x_0) + at.B(eps))
    asked = {"x": at.R * 0.5, "denoise": at.Phi, "noise": at.R}
    for i, question in enumerate(model.ask(t, **asked)):  # what samplers ask
        own = slice(i, i + 1)
        close(model.answer(x[own], question), at.R[i](x[own]) * 0.5 + at.Phi[i](x_0[own]) + at.R[i](eps[own]))
    old = inner.estimate(x, t, **({"label": 0} if wrap == "rescaled" else {}))[0]
    data = sde.project(x_0)
    assert (data - sde.project(old)).abs().max() > 0.05
    if wrap == "clipped":
        close(data, sde.project(old).clamp(-0.2, 0.3))
    if wrap == "clipped from below":
        close(data, sde.project(old).clamp_min(0.1))


@pytest.mark.parametrize("wrap", CHANGED)
def test_what_is_no_data_in_the_clean_state_stays(wrap: str) -> None:
    # A network that is asked for all of the state speaks of the velocities too; the exact clean state has none.
    sde = sdegen.CLD(sigma_0=0.1)
    inner = sdegen.Model(sdegen.nets.MLP(4, width=16, depth=1, classes=1), sde, VelocityParametrization()).double()
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    x, t = states(sde)
    plain = Conditioned(ClassifierFree(inner, 3.0), label=torch.tensor(0)) if wrap == "rescaled" else inner
    model = (
        Conditioned(RescaledGuidance(inner, 3.0), label=torch.tensor(0)) if wrap == "rescaled" else CHANGED[wrap](inner)
    )
    old, new = plain.denoise(x, t), model.denoise(x, t)
    torch.testing.assert_close(new[:, 1], old[:, 1], rtol=1e-12, atol=1e-12)
    assert old[:, 1].abs().max() > 0.01
    assert (new[:, 0] - old[:, 0]).abs().max() > 0.01


@pytest.mark.parametrize("sde", [sdegen.OU(), sdegen.Rectified(), sdegen.CLD()], ids=name)
@pytest.mark.parametrize("wrap", ["clipped", "dynamic"])
def test_where_the_state_does_not_tell_the_noise_it_is_left_alone(sde: Any, wrap: str) -> None:
    inner = Two(sde)
    model = CHANGED[wrap](inner)
    x, _ = states(sde, 4)
    t = sde.T * torch.tensor([0.0, 0.05, 0.0, 0.05], dtype=torch.float64)
    old, new = (m.estimate(x, t) for m in (inner, model))
    torch.testing.assert_close(new[1][::2], old[1][::2], rtol=1e-12, atol=1e-12)
    assert (new[1] - old[1])[1::2].abs().max() > 1e-3 and new[0].isfinite().all()
    torch.testing.assert_close(sde.project(new[0]), sde.project(model.denoise(x, t)))
    assert (new[0] - old[0])[::2].abs().max() > 1e-3


FOLLOWERS = [
    DDIM(7), DDIM(7, eta=0.7), Ancestral(7), EulerMaruyama(9), Heun(6), ProbabilityFlow(5, method="rk4"),
    Multistep(7, order=2, reference=PointMass()), Singlestep(9, order=2, reference=PointMass()), ExponentialSDE(7),
    ReverseDiffusion(7),
]  # fmt: skip


@pytest.mark.parametrize("sampler", FOLLOWERS, ids=lambda s: f"{type(s).__name__}{getattr(s, 'eta', '')}")
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VE(), sdegen.CLD(sigma_0=0.1)], ids=name)
def test_data_clipped_to_a_point_are_sampled_as_that_point(sde: Any, sampler: Any) -> None:
    # All that is believed of the data lies beyond the range: what is left of it is a point mass at its end.
    far = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[5.0, -6.0]]), torch.tensor([1e-12]))
    x_T = sde.prior(DATA.moments()).sample(20, torch.Generator().manual_seed(0))
    clipped = Clipped(Exact(sde, far), -1, 1)
    point = Exact(sde, sdegen.Empirical(torch.tensor([[1.0, -1.0]], dtype=torch.float64)))
    got, want = (sample(m, x_T=x_T, sampler=sampler, seed=0, final="sample") for m in (clipped, point))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)
    end = torch.tensor([[1.0, -1.0]], dtype=torch.float64).expand(20, 2)
    torch.testing.assert_close(sample(clipped, x_T=x_T, sampler=sampler, seed=0), end, rtol=1e-12, atol=1e-12)


def test_samples_of_a_clipped_network_are_in_the_range(dtype: torch.dtype) -> None:
    x = sample(Clipped(labelled(dtype), -0.3, 0.4), 200, seed=0)
    assert x.dtype == dtype and x.min().item() == pytest.approx(-0.3) and x.max().item() == pytest.approx(0.4)
    assert sample(labelled(dtype), 200, seed=0).abs().max() > 0.5


@pytest.mark.parametrize("quantile", [0.3, 0.56, 0.995, 1.0])  # 0.56 * 50 rounds to above 28
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD(sigma_0=0.1)], ids=name)
def test_the_dynamic_threshold_is_the_sample_s_own_quantile(sde: Any, quantile: float) -> None:
    g = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64)[:, None, None]
    x_0, x = (torch.randn(3, 2, 25, dtype=torch.float64, generator=g) for _ in range(2))
    x_0, x = 1 + spread * x_0, sde.lift(x)
    inner = Says(sde, x_0)
    got = sde.project(DynamicThreshold(inner, -0.5, 2.5, quantile).denoise(x, 0.5))
    for i in range(3):
        sizes = sorted((x_0[i] - 1).abs().flatten().tolist())
        s = max(1.5, sizes[{0.3: 15, 0.56: 28, 0.995: 50, 1.0: 50}[quantile] - 1])
        want = [1 + max(-s, min(s, v - 1)) * 1.5 / s for v in x_0[i].flatten().tolist()]
        assert got[i].flatten().tolist() == pytest.approx(want, abs=1e-12)
    assert torch.allclose(got[0], x_0[0], rtol=0, atol=1e-12)  # nothing is changed within the range
    assert got.min() >= -0.5 and got.max() <= 2.5 and (got[2] - x_0[2]).abs().max() > 1


def test_thresholds_refuse_what_means_nothing() -> None:
    inner = Exact(sdegen.VP(), DATA)
    for low, high in ((1, -1), (1, 1), (math.nan, 1)):
        for wrapper in (Clipped, DynamicThreshold):
            with pytest.raises(ValueError, match=rf"low = {low}, high = {high}; give the range .* increasing order"):
                wrapper(inner, low, high)
    with pytest.raises(ValueError, match="high = inf; give a finite range, or use Clipped"):
        DynamicThreshold(inner, 0, math.inf)
    for quantile in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"quantile = {quantile}; give .* in \(0, 1\]"):
            DynamicThreshold(inner, -1, 1, quantile)
    well = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), sdegen.DoubleWell())
    for wrap in (lambda m: Clipped(m, -1, 1), lambda m: DynamicThreshold(m, -1, 1), lambda m: RescaledGuidance(m, 2.0)):
        with pytest.raises(TypeError, match=r"DoubleWell is not linear: .* sample without (Cl|Dy|Re)"):
            wrap(well)


@pytest.mark.parametrize("rescale", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sde", SDES, ids=name)
def test_rescaled_data_have_the_contrast_of_the_conditional_ones(sde: Any, rescale: float) -> None:
    g = torch.Generator().manual_seed(1)
    given, null = (torch.randn(6, 3, 4, dtype=torch.float64, generator=g) + 0.5 for _ in range(2))
    null[0] = given[0] = 0.7  # no contrast to change
    inner = Says(sde, given, null)
    t = sde.T * torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    x = sde.perturb(given, t, generator=g).x
    model = RescaledGuidance(inner, 4.0, rescale, interval=(0.0, 0.7 * sde.T))
    got = sde.project(model.denoise(x, t, label=1))
    guided = null + 4 * (given - null)
    for i in range(6):
        if t[i] > 0.7 * sde.T:
            want = given[i]
        elif i == 0:
            want = torch.full_like(given[0], 0.7)
        else:
            ratio = given[i].numpy().std() / guided[i].numpy().std()
            assert ratio < 0.5
            want = guided[i] * (rescale * ratio + 1 - rescale)
            if rescale == 1:
                assert got[i].std().item() == pytest.approx(given[i].std().item())
        torch.testing.assert_close(got[i], want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", FOLLOWERS, ids=lambda s: f"{type(s).__name__}{getattr(s, 'eta', '')}")
def test_rescaling_by_nothing_is_guidance(sampler: Any) -> None:
    inner = Two(sdegen.VP())
    kept = {"sampler": sampler, "seed": 0, "label": 0}
    plain, none, some = (
        sample(m, 12, **kept)
        for m in (ClassifierFree(inner, 3.0), RescaledGuidance(inner, 3.0, 0.0), RescaledGuidance(inner, 3.0))
    )
    torch.testing.assert_close(none, plain, rtol=1e-7, atol=1e-7)
    assert (some - plain).abs().max() > 1e-2


def test_rescaling_asks_twice_and_once_outside_the_interval() -> None:
    g = torch.Generator().manual_seed(1)
    inner = Says(sdegen.VP(), *(torch.randn(5, 3, dtype=torch.float64, generator=g) for _ in range(2)))
    model, x = RescaledGuidance(inner, 3.0, interval=(0.0, 0.5)), torch.randn(5, 3, dtype=torch.float64, generator=g)
    one = sdegen.Scale(1.0)
    for weights in (
        {"denoise": one},
        {"noise": one},
        {"score": one},
        {"velocity": one},
        {"denoise": one, "noise": one},
    ):
        for t, count in ((0.4, 2), (0.6, 1)):
            (question,) = model.ask(torch.tensor([t], dtype=torch.float64), **weights)
            inner.asked = 0
            model.answer(x, question, label=1)
            assert inner.asked == count


def test_rescaling_refuses_what_means_nothing() -> None:
    inner = Two(sdegen.VP())
    for rescale in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"rescale = {rescale}; give a weight in \[0, 1\]"):
            RescaledGuidance(inner, 2.0, rescale)
    with pytest.raises(ValueError, match="scale = nan; give a finite number"):
        RescaledGuidance(inner, math.nan)
    with pytest.raises(ValueError, match=r"interval = \(0.5, 0.2\); give"):
        RescaledGuidance(inner, 2.0, interval=(0.5, 0.2))
    number = Says(sdegen.VP(), torch.ones(3, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"shape \(3, 1\) have one number a sample, .* use ClassifierFree"):
        RescaledGuidance(number, 2.0).denoise(torch.ones(3, 1), 0.5, label=0)


# --- the truth by label -------------------------------------------------------------------------------------------


def by_label(sde: Any) -> ExactConditional:
    ring, one = sdegen.data.gaussian_ring(5), torch.ones(1)
    modes = [sdegen.GaussianMixture(one, m[None], v[None]) for m, v in zip(ring.means, ring.covariances, strict=True)]
    return ExactConditional(sde, modes, ring)


@pytest.mark.parametrize("sde", SDES, ids=name)
def test_every_row_is_answered_by_the_law_of_its_label(sde: Any) -> None:
    model = by_label(sde)
    assert check_model(model).passed and check_model(Conditioned(model, label=3)).passed
    x, t = states(sde)
    label = torch.tensor([3, -1, 0, 3, 4, -1])
    laws = [*model.laws, model.null]
    for reading in ("score", "noise", "denoise", "velocity"):
        for times in (t, t[2], t[2].item()):
            got = getattr(model, reading)(x, times, label=label)
            for i, k in enumerate(label.tolist()):
                own = times[i] if torch.is_tensor(times) and times.ndim else times
                want = getattr(Exact(sde, laws[k]), reading)(x[i : i + 1], own)
                torch.testing.assert_close(got[i : i + 1], want, rtol=1e-9, atol=1e-9)
        for null in ({}, {"label": None}, {"label": -1}):
            whole = getattr(Exact(sde, model.null), reading)(x, t)
            torch.testing.assert_close(getattr(model, reading)(x, t, **null), whole, rtol=1e-9, atol=1e-9)


def test_the_truth_by_label_is_guided_like_a_network() -> None:
    model, label = by_label(sdegen.VP()), torch.arange(40) % 5
    x = sample(model, 40, seed=0, label=label, batch=7)
    assert torch.equal(torch.cdist(x, model.null.means).argmin(1), label)
    guided = ClassifierFree(model, 2.0)
    y, t = states(model.sde)
    want = 2 * model.score(y, t, label=1) - model.score(y, t)
    torch.testing.assert_close(guided.score(y, t, label=1), want, rtol=1e-9, atol=1e-9)
    assert sample(guided, 40, seed=0, label=label).norm(dim=1).mean() > x.norm(dim=1).mean() + 0.1


def test_labels_without_a_law_are_refused() -> None:
    model, x = by_label(sdegen.VP()), torch.zeros(3, 2)
    for label in (5, -2, torch.tensor([0, 1, 7])):
        with pytest.raises(
            ValueError, match=r"label = \[.*; give one of −1, ..., 4 for all states, or one for each of 3"
        ):
            model.score(x, 0.5, label=label)
    with pytest.raises(ValueError, match=r"label = \[0\] of shape \(2,\)"):
        model.score(x, 0.5, label=torch.zeros(2, dtype=torch.long))
    with pytest.raises(TypeError, match=r"label has dtype torch.float32; give whole numbers"):
        model.score(x, 0.5, label=1.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'labels'"):
        model.score(x, 0.5, labels=1)
    line = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    for laws in ([], [line]):
        with pytest.raises(ValueError, match=rf"^{len(laws)} laws with data of shapes .*; give at least one"):
            ExactConditional(sdegen.VP(), laws, model.null)
    with pytest.raises(TypeError, match="DoubleWell is not linear"):
        ExactConditional(sdegen.DoubleWell(), [line], line)


# --- saving -------------------------------------------------------------------------------------------------------

WRAPPERS: dict[str, Any] = {
    "noise divided": lambda m: EpsilonScaling(m, 1.05),
    "noise divided by a schedule": lambda m: EpsilonScaling(m, LinearScale(1.02, 0.3)),
    "guided": lambda m: ClassifierFree(m, 2.5),
    "guided in an interval from a label": lambda m: ClassifierFree(m, 2.5, {"label": torch.tensor(2)}, (0.2, 0.6)),
    "clipped": lambda m: Clipped(m, -0.05, 0.02),
    "thresholded": lambda m: DynamicThreshold(m, -0.05, 0.02, 0.5),
    "guided, then thresholded": lambda m: DynamicThreshold(ClassifierFree(m, 2.5), -0.05, 0.02),
    "rescaled": lambda m: RescaledGuidance(m, 2.5, 0.6, {"label": torch.tensor(2)}, (0.0, 1.0)),
    "both": lambda m: ClassifierFree(EpsilonScaling(m, 1.05), 2.5, interval=(0.2, 0.6)),
}


def labelled(dtype: torch.dtype) -> sdegen.Model:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=3), sdegen.VP()).to(dtype)
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    inner.moments = DATA.moments()
    return inner


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_model_comes_back_from_a_file(wrap: str, tmp_path: Any, dtype: torch.dtype) -> None:
    inner = labelled(dtype)
    model = WRAPPERS[wrap](inner).train()
    sdegen.save(model, tmp_path / "model")
    again = sdegen.load(tmp_path / "model")
    assert type(again) is type(model) and type(again.model) is type(model.model) and not again.training
    for mine, its in zip(again.moments, inner.moments or (), strict=True):
        assert torch.equal(mine, its)
    x, t = states(inner.sde)
    x, cond = x.to(dtype), {"label": torch.tensor([0, 1, 2, 0, 1, 2])}
    model.eval()
    for reading in ("score", "velocity", "noise", "denoise"):
        one, two = (getattr(m, reading)(x, t, **cond) for m in (model, again))
        assert torch.equal(one, two) and not torch.equal(one, getattr(inner, reading)(x, t, **cond))
    assert torch.equal(*(sample(m, 6, sampler=DDIM(4), seed=0, **cond) for m in (model, again)))


class Bump:
    """A schedule of the user's."""

    def __init__(self, height: float) -> None:
        self.height = height

    def __call__(self, t: Tensor) -> Tensor:
        return 1 + self.height * t * (1 - t)


def test_a_schedule_of_the_user_s_is_asked_for(tmp_path: Any) -> None:
    sdegen.save(EpsilonScaling(labelled(torch.float64), Bump(0.4)), tmp_path / "model")
    with pytest.raises(ValueError, match=r"uses the class 'Bump'; pass it: load\(path, classes=\[Bump\]\)"):
        sdegen.load(tmp_path / "model")
    assert sdegen.load(tmp_path / "model", [Bump]).scale.height == 0.4


def test_a_schedule_without_a_class_is_not_saved(tmp_path: Any) -> None:
    model = EpsilonScaling(labelled(torch.float64), lambda t: 1 + 0.1 * t)
    with pytest.raises(TypeError, match=r"^model\.scale is a function, .*\.LinearScale, or save the model inside"):
        sdegen.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    sdegen.save(model.model, tmp_path / "model")


def test_moments_are_given_to_the_model_inside() -> None:
    inner = labelled(torch.float64)
    inner.moments = None
    ClassifierFree(EpsilonScaling(inner, 1.01), 2.0).moments = DATA.moments()
    assert inner.moments is not None and torch.equal(inner.moments.mean, DATA.moments().mean)


# --- perturbed inputs ---------------------------------------------------------------------------------------------


class At(weightings.TimeLaw):
    """One time."""

    def __init__(self, t: float) -> None:
        self.t = t

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        return torch.full((n,), self.t, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


class Affine(ScoreModel):
    """Noise that is affine in the state: ``eps = M (x − m)`` over the flattened state, at one time."""

    def __init__(self, sde: Any, M: Tensor, m: Tensor) -> None:
        self.sde, self.M, self.m, self.moments = sde, M, m, DATA.moments()

    def noise(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return ((x.flatten(1) - self.m) @ self.M.T).reshape(x.shape)

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return self.sde.marginal(t).score_from_noise(self.noise(x, t))


def optimum(sde: Any, t: float, gamma: float) -> tuple[Tensor, Tensor]:
    """``Rᵀ (Phi P Phiᵀ + (1 + gamma²) R Rᵀ)⁻¹`` and ``Phi m``, over the flattened state."""
    at, moments = sde.marginal(t), DATA.moments()
    eye = torch.eye(2, dtype=torch.float64)
    lift = torch.kron((at.Phi.matrix() @ sde.e)[:, None], eye)
    R = torch.kron(at.R.matrix(), eye)
    total = lift @ moments.covariance @ lift.T + (1 + gamma**2) * R @ R.T
    return R.T @ torch.linalg.inv(total), lift @ moments.mean


@pytest.mark.parametrize("weighting", [weightings.InverseVarianceWeighting(), weightings.UniformWeighting()], ids=name)
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VE(), sdegen.CLD(sigma_0=0.1)], ids=name)
def test_the_minimiser_under_perturbed_inputs_is_the_gaussian_one(sde: Any, weighting: Any) -> None:
    gamma, t = 0.5, sde.time(1.0).item()
    loss = losses.InputPerturbation(gamma, weighting, At(t))

    def gradient(of: float, direction: Tensor) -> Tensor:
        """One row a datum: of the loss at the optimum for another gamma, in a direction of the linear map."""
        M, m = optimum(sde, t, of)
        n = 40_000
        x_0 = DATA.sample(n, torch.Generator().manual_seed(1))
        values = []
        for h in (1e-2, -1e-2):  # the loss is quadratic: its central difference is the derivative
            model = Affine(sde, M + h * direction, m)
            values.append(loss(model, x_0, generator=torch.Generator().manual_seed(2)))
        return (values[0] - values[1]) / 2e-2

    M = optimum(sde, t, gamma)[0]
    apart = optimum(sde, t, 0.0)[0] - M  # where the two optima differ the loss at the other one has a slope
    drawn = torch.randn(M.shape, dtype=M.dtype, generator=torch.Generator().manual_seed(9)) @ M
    for of, direction, vanishes in ((gamma, apart, True), (gamma, drawn, True), (0.0, apart, False)):
        slope = gradient(of, direction)
        assert (abs(slope.mean()) < 4 * slope.std() / len(slope) ** 0.5) == vanishes


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.VE(), sdegen.CLD()], ids=name)
@pytest.mark.parametrize("antithetic", [False, True])
def test_without_extra_noise_it_is_denoising(sde: Any, antithetic: bool) -> None:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).double()
    models = [Exact(sde, DATA), inner, EpsilonScaling(Exact(sde, DATA), 1.2)]
    x_0 = DATA.sample(50)
    for model in models:
        got, want = (
            loss(model, x_0, generator=torch.Generator().manual_seed(3))
            for loss in (
                losses.InputPerturbation(0.0, antithetic=antithetic),
                losses.Denoising(pooled=False, antithetic=antithetic),
            )
        )
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_it_trains_a_network_and_takes_conditions() -> None:
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=2), sdegen.VP())
    data = (DATA.sample(100).float(), torch.arange(100) % 2)
    run = sdegen.fit(model, data, steps=20, batch_size=32, seed=0, loss=losses.InputPerturbation(0.1))
    assert run.steps == 20
    variance = losses.Hybrid(losses.InputPerturbation(0.1))
    assert isinstance(variance.denoising, losses.Denoising)


def test_it_trains_where_there_is_no_signal_and_on_nonlinear_processes() -> None:
    cosine = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.Cosine())
    assert losses.InputPerturbation(0.1, times=At(1.0))(cosine, DATA.sample(4).float()).isfinite().all()
    well = sdegen.DirectModel(sdegen.nets.MLP(1, width=16, depth=1), sdegen.DoubleWell())
    for p in well.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    pair = [
        loss(well, torch.randn(8, 1, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1))
        for loss in (losses.InputPerturbation(0.0), losses.Denoising(pooled=False))
    ]
    torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma", [-0.1, math.nan, math.inf])
def test_gamma_is_checked(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"gamma = .*at least 0"):
        losses.InputPerturbation(gamma)
