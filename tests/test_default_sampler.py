"""The sampler where none is named: where it ends, and where it puts noise back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen import grids, guidance, sample, samplers
from sdegen.testing.affine import affine_moments

RING = sdegen.data.gaussian_ring()


# --- where the default sampler ends -----------------------------------------------------------------------------------


@pytest.mark.thinned(2)
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("known", [True, False])
def test_the_default_ends_where_the_model_says_with_the_posterior_mean(sde: Any, known: bool) -> None:
    """Of N(0, v) under VP: the variance of ``E[x_0 | x_end]`` is ``alpha² v² / (alpha² v + sigma²)``; with no end it is v."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), 0.25))
    n, end = 4000, 0.3
    model = sdegen.Exact(sde, law)
    prior = sde.prior(model.moments)
    if not known:
        model.moments = None
    x_T = prior.sample(n, torch.Generator().manual_seed(0))
    at = sde.observe(torch.zeros(1, len(sde.Sigma_0)), torch.tensor(end)).by
    c, s = at.C.c.square().item(), at.S.c.square().item()
    for stop, variance in ((None, 0.25), (end, c * 0.25**2 / (c * 0.25 + s))):
        model.end = stop
        x = sde.project(sample(model, x_T=x_T, steps=40))
        assert abs(x.var().item() / variance - 1) < 4 * (1 / n) ** 0.5 + 0.01


def test_what_is_around_a_model_ends_with_it(tmp_path: Any) -> None:
    net = sdegen.nets.UNet.small(1, 8, 3)
    model = sdegen.Model(net, sdegen.VP(), end=0.05)
    model.moments = sdegen.Moments(torch.zeros(1, 8, 8), torch.ones(64))
    for around in (model, sdegen.guidance.ClassifierFree(model, 2.0), sdegen.Conditioned(model, label=torch.tensor(1))):
        grid = samplers.default(around, 10).grid
        assert grid is not None and grid.end == 0.05
    sdegen.save(model, tmp_path / "model.safetensors")
    assert sdegen.load(tmp_path / "model.safetensors").end == 0.05
    with pytest.raises(ValueError, match=r"end = 1\.0; give a time from 0 to before T = 1"):
        sdegen.Model(net, sdegen.VP(), end=1.0)


# --- where it puts noise back ----------------------------------------------------------------------------------------


def test_noise_is_put_back_where_a_network_draws_images() -> None:
    model = sdegen.Model(sdegen.nets.UNet.small(1, 8, 3), sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(1, 8, 8), torch.ones(64))
    label = torch.tensor(1)
    for around in (model, sdegen.guidance.ClassifierFree(model, 2.0), sdegen.Conditioned(model, label=label)):
        noisy = samplers.default(around, 6)
        assert isinstance(noisy, samplers.ExponentialSDE) and noisy.eta == 0.8
        assert all(
            isinstance(samplers.default(around, n, eta), samplers.Multistep) for n, eta in ((5, None), (10, 0.0))
        )
    vectors = sdegen.Model(sdegen.nets.MLP(2), sdegen.VP())
    vectors.moments = RING.moments()
    known = sdegen.Exact(
        sdegen.VP(), sdegen.Empirical(torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    )
    for plain, grid in ((vectors, grids.Angle), (known, samplers.EvenError)):
        assert isinstance(samplers.default(plain, 10), samplers.Multistep)
        noisy = samplers.default(plain, 10, eta=0.5)
        assert isinstance(noisy, samplers.SecantSDE) and noisy.eta == 0.5 and isinstance(noisy.grid, grid)


def test_noise_is_put_back_where_an_image_is_blurred_too() -> None:
    model = sdegen.Model(sdegen.nets.UNet.small(1, 8, 3), sdegen.Blurring((1, 8, 8)))
    model.moments = sdegen.Moments(torch.zeros(1, 8, 8), torch.ones(64))
    noisy = samplers.default(model, 6)
    assert isinstance(noisy, samplers.ExponentialSDE) and noisy.eta == 0.8
    assert all(isinstance(samplers.default(model, n, eta), samplers.Multistep) for n, eta in ((5, None), (10, 0.0)))


def test_noise_is_refused_where_the_default_has_none() -> None:
    model = _Nowhere(sdegen.DoubleWell())
    assert samplers.default(model, 10, eta=0.0).steps == 10
    with pytest.raises(ValueError, match="adds no noise there"):
        samplers.default(model, 10, eta=0.5)


def test_processes_that_are_not_scalar_are_followed_around_the_data_s_gaussian_where_it_is_known() -> None:
    known = sdegen.Exact(sdegen.CLD(), RING)
    for eta, kind in ((0.0, samplers.Multistep), (0.5, samplers.ExponentialSDE)):
        chosen = samplers.default(known, 10, eta)
        assert isinstance(chosen, kind) and isinstance(chosen.reference, samplers.Matched) and chosen.eta == eta
    unknown = sdegen.Model(sdegen.nets.MLP(4), sdegen.CLD())
    around = samplers.default(unknown, 10)
    assert isinstance(around, samplers.Multistep) and isinstance(around.reference, samplers.PointMass)


MASK = sdegen.measurements.Mask(torch.tensor([True, False]), std=0.3)
MODELS: dict[str, sdegen.ScoreModel] = {
    "matrix, known": sdegen.Exact(sdegen.CLD(), RING),
    "matrix, unknown": sdegen.Model(sdegen.nets.MLP(4), sdegen.CLD()),
    "measured": sdegen.Conditioned(guidance.PiGDM(sdegen.Exact(sdegen.VP(), RING), MASK), y=torch.tensor([0.5])),
    "told, unknown": sdegen.Conditioned(
        sdegen.Model(sdegen.nets.MLP(2, conditions={"seen": sdegen.nets.Vector(1)}), sdegen.VP()), seen=torch.zeros(1)
    ),
    "labelled": sdegen.Conditioned(sdegen.ExactConditional(sdegen.VP(), [RING], RING), label=0),
}


@pytest.mark.parametrize(
    ("kind", "eta", "orders"),
    [
        ("matrix, known", 0.0, {1: 2, 9: 2, 10: 3, 29: 3, 30: 3}),
        ("matrix, known", 0.5, {1: 2, 8: 2, 9: 3, 29: 3, 30: 3}),
        ("matrix, unknown", 0.0, {1: 1, 12: 1, 13: 2, 29: 2, 30: 3, 50: 3}),
        ("measured", 0.0, {1: 2, 9: 2, 10: 3, 50: 3}),
        ("measured", 0.5, {1: 2, 8: 2, 9: 3, 50: 3}),
        ("labelled", 0.0, {1: 2, 9: 2, 10: 3, 50: 3}),
        ("labelled", 0.5, {1: 2, 8: 2, 9: 3, 50: 3}),
        ("told, unknown", 0.0, {1: 2, 12: 2, 13: 3, 50: 3}),
        ("told, unknown", 0.5, {1: 2, 50: 2}),
    ],
    ids=str,
)
def test_the_order_and_the_power_of_the_grid_are_those_of_the_docstring(kind: str, eta: float, orders: Any) -> None:
    for steps, order in orders.items():
        chosen: Any = samplers.default(MODELS[kind], steps, eta)
        assert (type(chosen), chosen.eta) == (samplers.ExponentialSDE if eta else samplers.Multistep, eta)
        assert (chosen.steps, chosen.order) == (steps, order) and (eta or chosen.corrector)
        late = (2 / 3, 0.3) if steps >= 30 else (1.0, 0.0)
        under = (0.75 if steps >= 10 and not eta and "told" not in kind else 0.5, 0.0)
        assert (chosen.grid.power, chosen.grid.time) == (late if "matrix" in kind else under)


class _Nowhere(sdegen.ScoreModel):
    def __init__(self, sde: Any) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        return torch.zeros_like(x)


def test_without_a_number_there_are_as_many_steps_as_the_docstring_says() -> None:
    plain, nonlinear = (
        samplers.default(sdegen.Exact(sdegen.VP(), RING)),
        samplers.default(_Nowhere(sdegen.DoubleWell())),
    )
    assert plain.steps == 20 and isinstance(nonlinear, samplers.EulerMaruyama) and nonlinear.steps == 500


@pytest.mark.slow
@pytest.mark.parametrize("eta", [0.0, 0.8, 1.0])
@pytest.mark.turns("0.8", "0.0")
def test_noise_bounds_what_an_error_of_the_score_adds_up_to(eta: float) -> None:
    """With ``c`` times the score of a standard normal, ``V' = −beta (((1 + eta²) c − 1) V − eta²)`` on the way back.

    Without noise the variance at the end is ``exp(−(c − 1) B)``, the worse the longer the way, ``B = ∫ beta``; with noise it
    is near ``eta² / ((1 + eta²) c − 1)``, whatever the way.
    """
    c, n, sde = 1.1, 40_000, sdegen.VP()
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    model = sdegen.guidance.EpsilonScaling(sdegen.Exact(sde, law), 1 / c)
    sampler = samplers.ExponentialSDE(300, eta=eta)
    x = sample(model, n, sampler=sampler, final="sample", seed=0)
    last = sampler.times(sde, False)
    B = -2 * sde.transition(last[-1], last[0]).Phi.matrix().log().item()
    rate = (1 + eta**2) * c - 1
    V = eta**2 / rate + (1 - eta**2 / rate) * math.exp(-rate * B)
    assert x.var().item() == pytest.approx(V, rel=4 * (2 / n) ** 0.5 + 0.01)


# --- under conditions ------------------------------------------------------------------------------------------------


def narrow(seed: int) -> tuple[sdegen.GaussianMixture, sdegen.GaussianMixture]:
    """A mixture, and the law of its data given a noisy linear measurement, a mixture too (conditioning of Gaussians)."""
    rng = np.random.default_rng(seed)
    d, K = (2, 4, 8)[seed % 3], 4
    weights, means = torch.from_numpy(rng.dirichlet(2 * np.ones(K))), torch.from_numpy(rng.standard_normal((K, d)))
    A = 0.3 * torch.from_numpy(rng.standard_normal((K, d, d))) / d**0.5
    law = sdegen.GaussianMixture(weights, means, A @ A.mT + 0.05 * torch.eye(d))
    H, std = torch.from_numpy(rng.standard_normal((d // 2, d))), rng.uniform(0.1, 0.5)
    y = H @ law.sample(1, torch.Generator().manual_seed(seed))[0]
    S = H @ law.covariances @ H.T + std**2 * torch.eye(d // 2)
    K_ = law.covariances @ H.T @ torch.linalg.inv(S)
    apart = y - means @ H.T
    log = (
        weights.log() - 0.5 * torch.logdet(S) - 0.5 * (apart * torch.linalg.solve(S, apart[..., None])[..., 0]).sum(-1)
    )
    posterior = (log.softmax(0) + 1e-9) / (1 + K * 1e-9)
    covariances = law.covariances - K_ @ H @ law.covariances
    given = sdegen.GaussianMixture(
        posterior, means + (K_ @ apart[..., None])[..., 0], 0.5 * (covariances + covariances.mT)
    )
    return law, given


class Narrow(sdegen.Exact):
    """The truth of a law that knows the moments of all data, and only that its law is narrower."""

    conditioned = True


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """W2 of projections on 30 directions, in units of the spread of `y`."""
    lines = torch.randn(x.shape[1], 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    lines = lines / lines.norm(dim=0)
    return ((x @ lines).sort(0).values - (y @ lines).sort(0).values).square().mean().sqrt().item() / y.std(
        0
    ).norm().item()


@pytest.mark.parametrize("seed", range(6))
def test_under_conditions_the_default_is_nearer_and_as_wide_as_the_law(seed: int) -> None:
    law, given = narrow(seed)
    model = Narrow(sdegen.VP(), given)
    model.moments = law.moments()  # those of the data, as of any conditional model
    y = given.sample(2000, torch.Generator().manual_seed(1))
    for steps, most, width in ((5, 0.35, 0.4), (10, 0.15, 0.15), (20, 0.12, 0.1)):
        x = sdegen.sample(model, 2000, sampler=samplers.default(model, steps), seed=0)
        assert distance(x, y) < most
        assert abs(x.var(0).sum().item() / given.moments().covariance.trace().item() - 1) < width


@pytest.mark.parametrize("variance", [0.01, 0.03, 0.116, 0.3])
def test_under_conditions_variances_are_right(variance: float) -> None:
    """Exactly, without samples: of a Gaussian posterior under a law of variance one."""
    law = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[0.5, -1.0]]), torch.tensor([variance]))
    model = Narrow(sdegen.VP(), law)
    model.moments = sdegen.Moments(torch.zeros(2), torch.eye(2))
    for steps, within in ((5, 0.3), (10, 0.08), (20, 0.02)):
        _, covariance = affine_moments(samplers.default(model, steps), model, True)
        assert covariance.trace().item() / (2 * variance) == pytest.approx(1.0, abs=within)


def test_a_model_says_that_it_is_conditioned() -> None:
    model, labelled = sdegen.Exact(sdegen.VP(), RING), sdegen.ExactConditional(sdegen.VP(), [RING], RING)
    A = sdegen.measurements.Mask(torch.tensor([True, False]), std=0.3)
    assert not model.conditioned
    assert not guidance.Clipped(model, -9, 9).conditioned
    assert not sdegen.Conditioned(labelled, label=None).conditioned
    for wrapped in (
        sdegen.Conditioned(labelled, label=0),
        guidance.PiGDM(model, A),
        guidance.Replacement(model, A),
        guidance.Clipped(guidance.DPS(model, A), -9, 9),
        guidance.Autoguidance(model, model, 2.0),
    ):
        assert wrapped.conditioned
        assert isinstance(samplers.default(wrapped, 10).reference, samplers.MatchedConditional)
    assert samplers.default(model, 10).reference is None


ZOO = [
    sdegen.VP(), sdegen.SubVP(), sdegen.OU(), sdegen.OU(T=3.0), sdegen.VE(), sdegen.EDM(), sdegen.Cosine(), sdegen.Rectified(),
    sdegen.DDPM(), sdegen.CLD(), sdegen.CLD(sigma_0=0.1), sdegen.CLD(3.0, 0.5),
]  # fmt: skip


def scaled_ring(scale: float) -> sdegen.GaussianMixture:
    """The ring at a standard deviation."""
    ring = sdegen.data.gaussian_ring()
    factor = scale / ring.moments().variance().sqrt().item()
    return sdegen.GaussianMixture(ring.weights, factor * ring.means, factor**2 * ring.covariances)


@pytest.mark.parametrize("sde", ZOO, ids=repr)
@pytest.mark.turns("CLD*", "VE(*", "OU(rate=1, T=3)")
def test_data_of_every_scale_are_drawn_or_refused(sde: Any) -> None:
    drawn = []
    for scale in (1e-6, 1e-3, 0.1, 1.0, 1e3):
        law = scaled_ring(scale)
        blurred = sde.snr(0.0).sqrt() * scale < 4
        remembered = sde.snr(sde.T).sqrt() * scale > 3
        if blurred or remembered:
            said = "smooths the data: they spread by" if blurred else "has not forgotten the data"
            with pytest.raises(ValueError, match=said):
                sample(sdegen.Exact(sde, law), 2, seed=0)
            x = sample(sdegen.Exact(sde.in_units(law.moments().units()), law), 2000, seed=0)
        else:
            x = sample(sdegen.Exact(sde, law), 2000, seed=0)
            drawn.append(scale)
        ratio = x.double().std(0) / law.moments().covariance.diagonal().sqrt()
        assert (ratio - 1).abs().max() < 0.045, scale  # two standard errors of 2,000 draws, and the solver's own
        r = x.double().norm(dim=1) / law.means.norm(dim=1).mean()
        assert ((r - 1).abs() < 0.225).double().mean() > 0.82, scale  # three of the modes' deviations: it is a ring
    assert 1.0 in drawn
    if sde.Sigma_0[0, 0] == 0:
        assert min(drawn) == 1e-6


@pytest.mark.thinned(3)
@pytest.mark.parametrize("sde", [sdegen.VE(), sdegen.EDM(), sdegen.VE(0.1, 100.0)], ids=repr)
@pytest.mark.parametrize("scale", [1e-4, 1e-3, 5e-3])
def test_smoothed_states_are_drawn_where_they_are_asked_for(sde: Any, scale: float) -> None:
    """The state at the last time is what ``final="sample"`` returns, however little it tells of the data."""
    law = scaled_ring(scale)
    model, sampler = sdegen.Exact(sde, law), samplers.default(sdegen.Exact(sde, law), 40)
    x = sample(model, 2000, sampler=sampler, final="sample", seed=0)
    want = sde.diffused(law, sampler.times(sde, False)[-1]).moments().variance().sqrt()
    assert abs(x.std() / want - 1) < 0.05
    with pytest.raises(ValueError, match="smooths the data"):
        sample(model, 2, sampler=sampler, seed=0)


@pytest.mark.parametrize("kind", ["exact", "network"])
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD()], ids=repr)
def test_a_grid_that_ends_before_narrow_data_are_seen_is_warned_of(sde: Any, kind: str) -> None:
    net = sdegen.nets.MLP(2 * len(sde.Sigma_0), width=4)
    model: Any = sdegen.Exact(sde, scaled_ring(1e-3)) if kind == "exact" else sdegen.Model(net, sde)
    model.moments = scaled_ring(1e-3).moments()
    with pytest.warns(UserWarning, match="samples will not have the spread of the data; give the process the units"):
        sample(model, 10, sampler=samplers.DDIM(10), seed=0)


class Untold(sdegen.SDE):
    """A linear process that does not say so, of which the scores are known all the same."""

    T = 3.0

    def drift(self, x: Any, t: Any) -> Any:
        return -x

    def diffusion(self, x: Any, t: Any) -> float:
        return 2**0.5


class OfUntold(sdegen.ScoreModel):
    """The truth of a law under that process, or what a network of it would say."""

    def __init__(self, law: Any, units: Any = None) -> None:
        self.sde = Untold() if units is None else Untold().in_units(units)
        self.known = sdegen.OU(T=3.0) if units is None else sdegen.OU(T=3.0).in_units(units)
        self.truth, self.moments = sdegen.Exact(self.known, law), law.moments()

    def score(self, x: Any, t: Any, /, **cond: Any) -> Any:
        return self.truth.score(x, t)

    def drawn(self, n: int, **how: Any) -> torch.Tensor:
        x_T = self.known.prior(self.state_moments()).sample(n, torch.Generator().manual_seed(0))
        return sample(self, x_T=x_T, seed=1, **how)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.floats(-4, 2).map(lambda u: 10.0**u), st.booleans())
def test_samples_of_nonlinear_processes_are_as_wide_as_the_data_of_any_scale(scale: float, united: bool) -> None:
    law = scaled_ring(scale)
    x = OfUntold(law, law.moments().units() if united else None).drawn(2000, steps=200)
    assert abs(x.std() / law.moments().variance().sqrt() - 1) < 0.05  # two per cent of the draws, the rest of 200 steps


@settings(max_examples=6, deadline=None)
@given(st.floats(-4, -1).map(lambda u: 10.0**u))
def test_states_of_nonlinear_processes_wider_than_the_data_are_warned_of(scale: float) -> None:
    model = OfUntold(scaled_ring(scale))
    with pytest.warns(UserWarning, match=r"will not have the spread of the data.*or the sampler a grid.*Quadratic"):
        model.drawn(2, sampler=samplers.EulerMaruyama(10))
    united = OfUntold(scaled_ring(scale), scaled_ring(scale).moments().units())
    united.drawn(2, sampler=samplers.EulerMaruyama(10))  # warnings are errors here


@pytest.mark.parametrize("sde", [sdegen.CLD(), sdegen.CLD(sigma_0=0.1)], ids=repr)
@pytest.mark.slow
def test_the_default_on_matrix_processes_keeps_a_high_order(sde: Any) -> None:
    """Steps even in the noise alone have order 1.5 there: the last of them is long in the time."""
    ring = sdegen.data.gaussian_ring(radius=4.0, std=0.8)
    model = sdegen.Exact(sde, ring)
    x_T = sde.prior(ring.moments()).sample(32, torch.Generator().manual_seed(0))
    ends = grids.Given(torch.tensor([1.0, sde.t_min]).double())
    flow = samplers.ProbabilityFlow(1, ends, rtol=1e-9, atol=1e-9)
    want = sample(model, x_T=x_T, sampler=flow, final="sample")
    few, many = (
        (sample(model, x_T=x_T, steps=n, final="sample") - want).norm(dim=1).median().item() for n in (40, 160)
    )
    assert few < 0.004
    assert many < few / 4**2.2
