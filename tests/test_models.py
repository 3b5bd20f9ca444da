"""Parametrisations, exact models, learned variances, conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen.models.parametrizations import (
    DataParametrization,
    EDMParametrization,
    NoiseParametrization,
    Parametrization,
    ScoreParametrization,
    StraightParametrization,
    VelocityParametrization,
)

LAW = sdegen.data.random_mixture(2, modes=3, seed=1)
SDES = [sdegen.VP(), sdegen.EDM(), sdegen.Cosine(), sdegen.Rectified(), sdegen.SubVP(), sdegen.CLD()]
name = lambda v: type(v).__name__


class Oracle(nn.Module):
    """A network that answers the parametrisation's own question exactly, from the true law."""

    def __init__(self, sde: Any, parametrization: Parametrization, std: float, t: Tensor, x: Tensor) -> None:
        super().__init__()
        exact = sdegen.Exact(sde, LAW)
        readings: dict[type[Parametrization], Callable[[], Tensor]] = {
            NoiseParametrization: lambda: exact.noise(x, t),
            DataParametrization: lambda: exact.estimate(x, t)[0],
            VelocityParametrization: lambda: exact.velocity(x, t),
            ScoreParametrization: lambda: exact.score(x, t),
            StraightParametrization: lambda: exact.noise(x, t) - exact.estimate(x, t)[0],
        }
        if type(parametrization) in readings:
            self.answer = readings[type(parametrization)]()
        else:  # EDM's question is defined by its coefficients, which the test below holds to the paper
            c = parametrization.coefficients(sde, sde.marginal(t), std)
            self.answer = c.c_out.inv()(exact.velocity(x, t) - c.c_skip(x))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.answer


@pytest.mark.parametrize("sde", SDES, ids=name)
@pytest.mark.parametrize(
    "kind",
    [
        NoiseParametrization,
        DataParametrization,
        VelocityParametrization,
        StraightParametrization,
        ScoreParametrization,
        EDMParametrization,
    ],
    ids=lambda k: k.__name__,
)
def test_four_coefficients_recover_the_truth(sde: Any, kind: type[Parametrization]) -> None:
    parametrization = kind(std=1.7)
    if sde.snr(sde.T) == 0 and kind in (NoiseParametrization, ScoreParametrization):
        with pytest.raises(ValueError, match=r"alpha\(T\) = 0"):
            sdegen.Model(sdegen.nets.MLP(2, width=4), sde, parametrization)
        return
    t = sde.T * torch.tensor([0.05, 0.3, 0.6, 0.9], dtype=torch.float64)
    x = sde.perturb(LAW.sample(4, torch.Generator().manual_seed(0)), t, generator=torch.Generator().manual_seed(1)).x
    model = sdegen.Model(Oracle(sde, parametrization, 1.7, t, x), sde, parametrization)
    exact = sdegen.Exact(sde, LAW)
    for got, want in (
        (model.velocity(x, t), exact.velocity(x, t)),
        (model.denoise(x, t), exact.denoise(x, t)),
        (model.noise(x, t), exact.noise(x, t)),
        (model.score(x, t), exact.score(x, t)),
    ):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6 * (1 + want.abs().max().item()))


@pytest.mark.parametrize("kind", [NoiseParametrization, EDMParametrization, sdegen.models.MatchedParametrization])
def test_what_a_network_is_told_of_a_time_can_be_overridden(kind: type[Parametrization]) -> None:
    class Told(kind):  # type: ignore[misc, valid-type]
        def level(self, sde: Any, at: Any) -> Tensor:
            told: Tensor = 7 * at.t / sde.T
            return told

    class Seen(nn.Linear):
        def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
            self.level = level
            return super().forward(x)

    net = Seen(2, 2)
    sdegen.Model(net, sdegen.VP(), Told()).score(torch.zeros(2, 2), torch.tensor([0.2, 0.6]))
    assert net.level is not None
    torch.testing.assert_close(net.level, torch.tensor([1.4, 4.2]))


def test_edm_coefficients_are_those_of_the_paper() -> None:
    # Karras et al. 2022, table 1: D = c_skip x + c_out F, in their own letters.
    sde, std = sdegen.EDM(), 0.7
    sigma = torch.tensor([0.01, 0.5, 3.0, 60.0], dtype=torch.float64)
    t = sigma - sde.sigma_min
    c = EDMParametrization(std=std).coefficients(sde, sde.marginal(t), std)
    at = sde.marginal(t)
    x, F = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    v = c.c_skip(x) + c.c_out(F)
    D = at.denoise(at.normalise(x), v)
    s = sigma[:, None]
    want = std**2 / (s**2 + std**2) * x - s * std / (s**2 + std**2).sqrt() * F  # the sign of F is a convention
    torch.testing.assert_close(D, want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(c.c_in.matrix()[:, 0, 0], (sigma**2 + std**2).rsqrt(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD()], ids=name)
def test_edm_residual_has_unit_variance_on_gaussian_data(sde: Any) -> None:
    std = 1.3
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([std**2]))
    t = torch.tensor(0.4 * sde.T, dtype=torch.float64)
    x_0 = law.sample(100_000, torch.Generator().manual_seed(0))
    drawn = sde.perturb(x_0, t, generator=torch.Generator().manual_seed(1))
    c = EDMParametrization(std=std).coefficients(sde, sde.marginal(t), std)
    at = sde.marginal(t)
    whitened = c.c_in(drawn.x).reshape(len(x_0), -1)
    left = (at.velocity(sde.lift(x_0), drawn.z) - c.c_skip(drawn.x)).reshape(len(x_0), -1)
    k = len(sde.Sigma_0)
    torch.testing.assert_close(whitened.T.cov().reshape(k, k), torch.eye(k, dtype=torch.float64), rtol=0, atol=0.03)
    want = (c.c_out @ c.c_out.T).matrix()
    torch.testing.assert_close(left.T.cov().reshape(k, k), want, rtol=0.03, atol=1e-6)
    assert (left.T @ whitened / len(x_0)).abs().max() < 0.02  # nothing linear is left to explain
    # Of a state of any size one number a coordinate is unknown, the datum.
    assert torch.linalg.matrix_rank(want, rtol=1e-4) == 1


def test_the_flow_of_a_network_on_a_matrix_process_is_regular_at_the_data() -> None:
    torch.manual_seed(0)
    sde = sdegen.CLD()  # whose position starts without noise: its root there has no inverse
    net = sdegen.nets.MLP(4, width=16, depth=1)
    nn.init.normal_(net.last.weight, std=0.1)
    model = sdegen.Model(net, sde, EDMParametrization(detail=0.5)).double()
    model.moments = LAW.moments()
    u = torch.randn(5, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 1e-7, 1e-6, 1e-5], dtype=torch.float64)
    at_0, *later = (sde.flow(model).velocity(u, time) for time in t)
    gaps = [(at_0 - v).abs().max().item() for v in later]
    assert gaps[0] < 1e-3  # of a chart in which states have size 1
    assert gaps[0] < 0.2 * gaps[1] < 0.04 * gaps[2]
    with pytest.raises(ValueError, match="a score was asked for at a time without noise"):
        model.score(u, 0.0)


def test_a_model_with_a_score_alone_has_all_readings() -> None:
    class ScoreOnly(sdegen.ScoreModel):
        def __init__(self, exact: sdegen.Exact) -> None:
            self.exact, self.sde, self.moments = exact, exact.sde, exact.moments

        def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return self.exact.score(x, t)

    for sde in (sdegen.VP(), sdegen.CLD()):
        exact = sdegen.Exact(sde, LAW)
        model = ScoreOnly(exact)
        x = sde.perturb(LAW.sample(5), 0.5).x
        for reading in ("denoise", "noise", "velocity"):
            torch.testing.assert_close(
                getattr(model, reading)(x, 0.5), getattr(exact, reading)(x, 0.5), rtol=1e-7, atol=1e-7
            )


def test_conditions_pass_through_to_the_network() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor, level: Tensor, shift: Tensor) -> Tensor:
            return 0 * x + shift[:, None]

    model = sdegen.Model(Shifted(), sdegen.VP(), DataParametrization(std=1.0))
    x = torch.randn(3, 2, dtype=torch.float64)
    shift = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    want = shift[:, None].expand(3, 2)
    torch.testing.assert_close(model.denoise(x, 0.5, shift=shift), want, rtol=1e-9, atol=1e-9)
    sampled = sdegen.sample(model, x_T=x, steps=3, shift=shift)
    torch.testing.assert_close(sampled, want, rtol=1e-9, atol=1e-9)


def test_learned_variance_lies_between_the_two_of_ddpm() -> None:
    class Constant(nn.Module):
        def __init__(self, u: float) -> None:
            super().__init__()
            self.u = u

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return torch.cat([0 * x, 0 * x + self.u], 1)

    sde = sdegen.VP()
    s, t = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    x, z = torch.randn(4, 2, dtype=torch.float64), torch.ones(4, 2, dtype=torch.float64)
    large = sde.transition(s, t).covariance.matrix().sqrt().item()
    small = (
        sdegen.kernels.posterior(sde.marginal(s), sde.marginal(t), sde.transition(s, t))
        .covariance.matrix()
        .sqrt()
        .item()
    )
    found = [
        sdegen.LearnedVariance(Constant(u), sde).reverse_noise(x, s, t, z)[0, 0].item() for u in (-40.0, 0.0, 40.0)
    ]
    torch.testing.assert_close(
        torch.tensor(found), torch.tensor([small, (small * large) ** 0.5, large]), rtol=1e-6, atol=0
    )
    with pytest.raises(TypeError, match="scalar"):
        sdegen.LearnedVariance(Constant(0.0), sdegen.CLD())


def test_a_step_of_learned_variance_takes_one_evaluation_and_knows_conditions() -> None:
    class Counting(torch.nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.line = torch.nn.Linear(2, 4)

        def forward(self, x: Tensor, level: Tensor, label: Tensor) -> Tensor:
            Counting.calls += 1
            return self.line(x) + label[:, None]

    model = sdegen.LearnedVariance(Counting(), sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(2), torch.eye(2))
    sampler = sdegen.samplers.Ancestral(5, variance=sdegen.samplers.learned_variance)
    label = torch.tensor([0.0, 1.0, 2.0])
    x = sdegen.sample(model, 3, sampler=sampler, seed=0, label=label)
    assert Counting.calls == 5  # the last of them is the denoiser's
    whole = sdegen.sample(model, 3, sampler=sampler, seed=0, batch=2, label=label)
    torch.testing.assert_close(x, whole)

    # The step in two evaluations: the mean of the others, and the noise by itself.
    bound = sdegen.Conditioned(model, label=label)
    times = sampler.times(model.sde, True)
    c = sampler.plan(bound, times)[0]
    x, z = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    mean = sdegen.samplers.Ancestral(5).step(bound, x, c, torch.zeros_like, None)[0]
    step = sampler.step(bound, x, c, lambda _: z, None)[0]
    torch.testing.assert_close(step, mean + model.reverse_noise(x, c.s, c.t, z, label=label))


@pytest.mark.parametrize("bases", [(sdegen.models.ScoreModel,), (sdegen.Model,)], ids=["score", "network"])
def test_a_velocity_that_losses_and_flows_would_pass_over_is_refused(bases: tuple[type, ...]) -> None:
    class Mixin:
        def velocity(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return 2 * x

    for kind in (bases, (Mixin, *bases)):
        with pytest.raises(TypeError, match=r"^Own overrides velocity\(x, t\).* override velocity_at\(x, at\)"):
            type("Own", kind, {"velocity": lambda self, x, t, **cond: x} if kind == bases else {})


def test_a_velocity_that_is_overridden_is_that_of_flows_and_losses() -> None:
    class Doubled(sdegen.Model):
        def velocity_at(self, x: Tensor, at: Any, **cond: Any) -> Tensor:
            return 2 * super().velocity_at(x, at, **cond)

    net = sdegen.nets.MLP(2)
    plain, doubled = sdegen.Model(net, sdegen.VP()), Doubled(net, sdegen.VP())
    x, t = torch.randn(4, 2), torch.tensor(0.4, dtype=torch.float64)
    torch.testing.assert_close(doubled.velocity(x, t), 2 * plain.velocity(x, t))
    flow = lambda m: m.sde.flow(m).velocity(x, m.sde.flow(m).clock(t))
    torch.testing.assert_close(flow(doubled), 2 * flow(plain))


def test_a_direct_network_is_shown_states_over_the_scale_and_answers_over_it() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return x

    x = torch.randn(4, 1)
    model = sdegen.DirectModel(Same(), sdegen.DoubleWell(), scale=3.0)
    torch.testing.assert_close(model.score(x, 0.5), x / 9)


def test_a_direct_model_adds_its_base_and_knows_no_time_before_training() -> None:
    torch.manual_seed(0)
    sde = sdegen.DoubleWell(T=2.0)
    net = sdegen.nets.MLP(2, width=16, depth=1)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    base = sde.prior(LAW.moments())
    x = torch.randn(4, 2)
    plain, based = sdegen.DirectModel(net, sde, 0.5), sdegen.DirectModel(net, sde, 0.5, base)
    torch.testing.assert_close(based.score(x, 0.3), plain.score(x, 0.3) + base.score(x))
    assert torch.equal(plain.score(x, 0.0), plain.score(x, sde.t_min))
    assert not torch.equal(plain.score(x, 0.0), plain.score(x, 2 * sde.t_min))
    with pytest.raises(TypeError, match="base is MLP, which has no score"):
        sdegen.DirectModel(net, sde, base=net)


def test_moments_that_change_in_place_change_what_the_network_is_told() -> None:
    torch.manual_seed(0)
    model, other = (sdegen.Model(sdegen.nets.MLP(2, width=4, depth=1), sdegen.VP()) for _ in range(2))
    model.moments, other.moments = (
        sdegen.Moments(torch.zeros(2).double(), c * torch.ones(2).double()) for c in (1.0, 4.0)
    )
    assert model.std == 1.0
    model.moments.covariance.mul_(4)
    assert model.std == other.std == 2.0
    model.moments = sdegen.Moments(model.moments.mean, torch.ones(2).double())
    assert model.std == 1.0


def test_detail_is_a_length_of_the_data_in_their_own_units() -> None:
    detail, scale, sde = 0.3, 2.5, sdegen.VP()
    at = sde.marginal(torch.tensor([0.05, 0.5], dtype=torch.float64))
    scaled = EDMParametrization(detail=detail).coefficients(sde.in_units(sdegen.laws.Units(1.0, scale)), at, 0.7)
    plain = EDMParametrization(detail=detail / scale).coefficients(sde, at, 0.7)
    torch.testing.assert_close(scaled.c_out.matrix(), plain.c_out.matrix())
    smooth = EDMParametrization().coefficients(sde, at, 0.7).c_out.matrix()
    torch.testing.assert_close(
        plain.c_out.matrix()[:, 0, 0] / smooth[:, 0, 0], (1 + (detail / scale) ** 2 * at.snr).rsqrt()
    )


def test_readings_of_a_run_are_those_of_evaluation_and_the_mode_stays() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 2)).double()
    net.forward = lambda x, level, run=net.forward: run(x)
    model = sdegen.Model(net, sdegen.VP())
    model.moments = sdegen.data.gaussian_ring().moments()
    still, moving = (sdegen.sample(model.train(mode), 5, steps=3, seed=0) for mode in (False, True))
    assert torch.equal(still, moving) and model.training and net[1].training
    net[1].eval()
    sdegen.sample(model, 2, steps=2, seed=0)
    assert net.training and not net[1].training
