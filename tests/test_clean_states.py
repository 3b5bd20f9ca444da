"""Changed clean states: clipped, shrunk, rescaled, and the noise that follows them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from labelled import DATA, SDES, Two, states
from torch import Tensor, nn

import sdegen
from sdegen.guidance import (
    ClassifierFree,
    Clipped,
    DynamicThreshold,
    RescaledGuidance,
    contrast,
)
from sdegen.models import Conditioned, ScoreModel, VelocityParametrization
from sdegen.models.exact import Exact
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
    sample,
)
from sdegen.testing import check_model

name = lambda s: type(s).__name__


def labelled(dtype: torch.dtype) -> sdegen.Model:
    inner = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1, classes=3), sdegen.VP()).to(dtype)
    for p in inner.parameters():
        nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    inner.moments = DATA.moments()
    return inner


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


@pytest.mark.thinned(2)
@pytest.mark.turns("DDPM-*")
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
    Multistep(7, order=2, reference=PointMass()), Singlestep(9, order=2, reference=PointMass()),
    ExponentialSDE(7, reference=PointMass()), ReverseDiffusion(7),
]  # fmt: skip


@pytest.mark.thinned(2)
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
    for low, high in ((1, -1), (1, 1)):
        for wrapper in (Clipped, DynamicThreshold):
            with pytest.raises(ValueError, match=rf"low = {low}, high = {high}; give the range .* increasing order"):
                wrapper(inner, low, high)
    with pytest.raises(ValueError, match="high = inf; "):
        DynamicThreshold(inner, 0, math.inf)
    for quantile in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"quantile = {quantile}; (give|it must be)"):
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
        with pytest.raises(ValueError, match=rf"rescale = {rescale}; (give a weight in .0, 1.|it must be a finite)"):
            RescaledGuidance(inner, 2.0, rescale)
    with pytest.raises(ValueError, match=r"scale = nan; it must be a (finite )?number"):
        RescaledGuidance(inner, math.nan)
    with pytest.raises(ValueError, match=r"interval = \(0.5, 0.2\); give"):
        RescaledGuidance(inner, 2.0, interval=(0.5, 0.2))
    number = Says(sdegen.VP(), torch.ones(3, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"shape \(3, 1\) have one number a sample, .* use ClassifierFree"):
        RescaledGuidance(number, 2.0).denoise(torch.ones(3, 1), 0.5, label=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_that_differ_by_rounding_alone_are_constant(dtype: torch.dtype) -> None:
    """Their standard deviations are those of the last digits, and have no ratio."""
    draws = torch.Generator().manual_seed(0)
    values = torch.logspace(-6, 6, 40, dtype=dtype)[:, None] * torch.ones(6, dtype=dtype)
    eps = torch.finfo(dtype).eps
    given, data = (values * (1 + eps * torch.randn(values.shape, generator=draws, dtype=dtype)) for _ in range(2))
    assert data.std(1).any()
    assert torch.equal(contrast(given, data, 0.7), torch.ones_like(values[:, :1]))
    spread = values * (1 + 1e-4 * torch.randn(values.shape, generator=draws, dtype=dtype))
    want = 1 + 0.7 * (given.std(1) / spread.std(1) - 1)
    torch.testing.assert_close(contrast(given, spread, 0.7)[:, 0], want)


def test_rescaled_samples_do_not_depend_on_the_batch_where_all_data_have_one_mean() -> None:
    """At ``alpha = 0`` a model predicts the mean, here of numbers that are all alike."""
    law = lambda v: sdegen.GaussianMixture(torch.ones(1), torch.full((1, 2), 0.7), torch.tensor([v]))
    model = RescaledGuidance(
        sdegen.ExactConditional(sdegen.Rectified(), [law(0.3), law(1.2)], sdegen.data.gaussian_ring()), 2.0
    )
    label = torch.arange(7) % 2
    whole, parts = (sdegen.sample(model, 7, steps=6, seed=0, batch=batch, label=label) for batch in (None, 2))
    torch.testing.assert_close(whole, parts)
