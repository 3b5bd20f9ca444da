"""Autoencoders: bounds against known evidence, laws of mass one, and what is done with codes."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence

import sdegen
from sdegen import nets
from sdegen.baselines import (
    VAE,
    Autoencoder,
    Bernoulli,
    CategoricalVAE,
    Continuous,
    Gaussian,
    HierarchicalVAE,
    Hierarchy,
    LatentClassifier,
    LatentLayer,
    WarmUp,
    active_units,
    fgsm,
    robustness,
    traversal,
    walk_latents,
)
from sdegen.baselines.ladder import as_normal, product
from sdegen.baselines.likelihoods import PixelLaw
from sdegen.laws import Units


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- a linear Gaussian model, whose evidence is known ----------------------------------------------------------------

W = torch.tensor([[1.0, 0.4], [-0.5, 0.8], [0.3, 0.2]], dtype=torch.float64)
B = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
STD = 0.6


def linear_model(spread: float = 1.0, shift: float = 0.0) -> VAE:
    """``x = W z + b + noise``; the encoder is the best of independent latents, made worse by `spread` and `shift`."""
    precision = torch.eye(2).double() + W.T @ W / STD**2
    decoder, encoder = nn.Linear(2, 3).double(), nn.Linear(3, 4).double()
    with torch.no_grad():
        decoder.weight.copy_(W)
        decoder.bias.copy_(B)
        gain = torch.linalg.inv(precision) @ W.T / STD**2
        encoder.weight.copy_(torch.cat([gain, torch.zeros(2, 3)]))
        log_std = -0.5 * precision.diagonal().log() + math.log(spread)
        encoder.bias.copy_(torch.cat([-gain @ B + shift, log_std]))
    return VAE(encoder, decoder, 2, Gaussian(STD))


def evidence(x: Tensor) -> Tensor:
    return MultivariateNormal(B, W @ W.T + STD**2 * torch.eye(3).double()).log_prob(x)


def data(n: int, seed: int = 0) -> Tensor:
    z, e = (torch.randn(n, k, generator=seeded(seed + k), dtype=torch.float64) for k in (2, 3))
    return z @ W.T + B + STD * e


@pytest.mark.parametrize(("spread", "shift"), [(1.2, 0.0), (1.4, 0.0), (0.8, 0.3)])
@torch.no_grad()
def test_the_bounds_are_in_order(spread: float, shift: float) -> None:
    model, x = linear_model(spread, shift), data(6000)
    truth = evidence(x)
    values = [model.bound(x, seeded(0)).elbo] + [model.importance_bound(x, k, seeded(k)) for k in (1, 4, 32, 256)]
    gaps = [sdegen.metrics.Estimate.of(truth - v) for v in values]
    for gap in gaps:
        assert gap.value > -4 * gap.stderr
    # One draw is the ELBO; more close in on the evidence.
    assert abs(gaps[0].value - gaps[1].value) < 4 * math.hypot(gaps[0].stderr, gaps[1].stderr)
    for worse, better in pairwise(gaps[1:]):
        assert better.value < worse.value + 4 * better.stderr
    assert gaps[0].value > 0.01 and gaps[-1].value < 0.05 * gaps[0].value + 4 * gaps[-1].stderr


@torch.no_grad()
def test_the_gap_of_the_elbo_is_the_divergence_of_the_posteriors() -> None:
    model, x = linear_model(1.3, 0.2), data(4)
    precision = torch.eye(2).double() + W.T @ W / STD**2
    covariance = torch.linalg.inv(precision)
    for row in x:
        posterior = MultivariateNormal(covariance @ W.T @ (row - B) / STD**2, covariance)
        q = model.encode(row[None])
        gap = kl_divergence(MultivariateNormal(q.mean[0], q.variance[0].diag()), posterior)
        draws = model.bound(row.expand(20_000, 3), seeded(1)).elbo
        found = sdegen.metrics.Estimate.of(evidence(row[None]) - draws)
        assert abs(found.value - gap.item()) < 4 * found.stderr


def test_the_kl_and_the_gradient_are_those_of_the_normal_law() -> None:
    model, x = linear_model(1.3, 0.2), data(5)
    q = model.encode(x)
    truth = kl_divergence(q, Normal(torch.zeros(2).double(), torch.ones(2).double())).sum(1)
    assert torch.allclose(model.bound(x, seeded(0)).kl, truth)


@pytest.mark.parametrize("which", ["weight", "bias"])
def test_the_gradient_passes_through_the_latent(which: str) -> None:
    """``d E_q[log p(x | z)] / d encoder``, by differences of expectations that are exact: log p is a square in z."""
    model, x = linear_model(1.3, 0.2), data(1)
    parameter = getattr(model.encoder, which)

    def expected() -> Tensor:
        q = model.encode(x)
        rest = x - q.mean @ W.T - B
        spread = (W.square() * q.variance[:, None]).sum(2)
        return -(rest.square() + spread).sum() / (2 * STD**2)

    (truth,) = torch.autograd.grad(expected(), parameter)
    log_likelihood = model.bound(x.expand(200_000, 3), seeded(0)).log_likelihood
    (got,) = torch.autograd.grad(log_likelihood.mean(), parameter)
    assert torch.allclose(got, truth, atol=0.02 * truth.abs().max().item())


def test_the_loss_weighs_the_terms() -> None:
    model, x = linear_model(1.3), data(7)
    terms = model.bound(x, seeded(3))
    model.beta = 4.0
    assert torch.allclose(model.loss(x, generator=seeded(3)), (4 * terms.kl - terms.log_likelihood) / 3)


def test_samples_are_those_of_the_model() -> None:
    x = linear_model().sample(100_000, seeded(0))
    assert (x.mean(0) - B).abs().max() < 0.02
    assert (x.T.cov() - (W @ W.T + STD**2 * torch.eye(3).double())).abs().max() < 0.03
    means = linear_model().sample(100_000, seeded(0), mean=True)
    assert (means.T.cov() - W @ W.T).abs().max() < 0.03


def test_training_closes_the_gap() -> None:
    torch.manual_seed(0)
    model = VAE(nets.Perceptron(3, 4, 16, 1), nets.Perceptron(2, 6, 16, 1), 2).double()
    x = data(4000)
    sdegen.fit(model, x, steps=1200, lr=1e-2, batch_size=256, seed=0)
    fresh = data(4000, 9)
    gap = sdegen.metrics.Estimate.of(evidence(fresh) - model.importance_bound(fresh, 64, seeded(0)))
    assert -4 * gap.stderr < gap.value < 0.05


# --- what decoders say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("likelihood", "answer"),
    [(Gaussian(0.3), 0.4), (Gaussian(), 0.4)]
    + [(Continuous(), v) for v in (-200.0, -20.0, -1.0, -0.05, 0.0, 5e-3, 0.4, 90.0)],
)
def test_a_likelihood_has_mass_one_and_draws_from_it(likelihood: PixelLaw, answer: float) -> None:
    out = torch.tensor([[answer, -0.7][: likelihood.outputs]], dtype=torch.float64)
    low, high = (0.0, 1.0) if isinstance(likelihood, Continuous) else (-6.0, 6.0)
    at = torch.linspace(low, high, 20_001, dtype=torch.float64)[:-1] + (high - low) / 40_000
    density = likelihood.log_prob(at[:, None], out.expand(len(at), -1)).exp()
    width = (high - low) / 20_000
    assert density.sum().item() * width == pytest.approx(1, abs=1e-5)
    drawn = likelihood.draw(out.expand(50_000, -1), seeded(0))
    mean = (density * at).sum().item() * width
    variance = (density * at**2).sum().item() * width - mean**2
    assert drawn.mean().item() == pytest.approx(mean, abs=4 * (variance / 50_000) ** 0.5)
    assert drawn.var().item() == pytest.approx(variance, rel=0.05)
    assert likelihood.mean(out).item() == pytest.approx(mean, abs=1e-6)
    # Single precision knows the same law.
    coarse = likelihood.log_prob(at[:, None].float(), out.float().expand(len(at), -1)).exp()
    assert coarse.double().sum().item() * width == pytest.approx(1, abs=1e-3)
    assert likelihood.mean(out.float()).item() == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_series_of_small_rates_are_the_closed_form(side: float) -> None:
    """What the series leave out at their ends is 3e-10 of the mean and 4e-12 of the logarithm of the density."""
    mpmath.mp.dps = 40
    rates = side * torch.cat([torch.logspace(-6, 0, 61), torch.tensor([0.00999, 0.01001, 0.0999, 0.1001])]).double()
    x = torch.linspace(0, 1, len(rates), dtype=torch.float64)
    means, logs = Continuous().mean(rates), Continuous().each(x, rates)
    for rate, at, mean, log in zip(*(v.tolist() for v in (rates, x, means, logs)), strict=True):
        a = mpmath.mpf(rate)
        assert abs(mean - (1 / (1 - mpmath.exp(-a)) - 1 / a)) < 1e-9
        assert abs(log - (mpmath.log(a / mpmath.expm1(a)) + a * at)) < 1e-11


@pytest.mark.parametrize("rate", [0.05, 3.0, 60.0, 200.0])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_the_mean_of_a_continuous_bernoulli_law_has_its_slope_at_any_rate(rate, side):
    """The slope of the mean is the variance of the law; exponentials that overflow made it NaN."""
    out = torch.tensor([side * rate], requires_grad=True)
    (slope,) = torch.autograd.grad(Continuous().mean(out).sum(), out)
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    weight = (side * rate * x - max(side * rate, 0.0)).exp()
    mean, square = ((weight * x**k).sum() / weight.sum() for k in (1, 2))
    assert slope.double().item() == pytest.approx((square - mean**2).item(), rel=3e-3)


def test_a_gradient_that_is_not_finite_is_no_attack():
    x, label = torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="no finite gradient"):
        fgsm(lambda y: (y - 0.5).abs().sqrt(), x, label, 0.1)


@pytest.mark.parametrize("likelihood", [Continuous(), Bernoulli()])
def test_numbers_outside_have_no_density(likelihood: PixelLaw) -> None:
    x = torch.tensor([[-1.0], [0.0], [0.5], [1.0], [1.01]])
    assert likelihood.log_prob(x, torch.full_like(x, 0.3)).isnan().tolist() == [True, False, False, False, True]


@pytest.mark.parametrize("answer", [-30.0, -0.5, -1e-3, 0.0, 2e-3, 3.0, 40.0])
def test_the_continuous_law_is_differentiable_everywhere(answer: float) -> None:
    out = torch.tensor([[answer]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[0.3]], dtype=torch.float64)
    (slope,) = torch.autograd.grad(Continuous().log_prob(x, out).sum(), out)
    assert slope.item() == pytest.approx(0.3 - Continuous().mean(out).item(), abs=1e-6)  # of an exponential family


def test_a_coin() -> None:
    out = torch.tensor([[0.8]], dtype=torch.float64)
    both = [Bernoulli().log_prob(torch.tensor([[v]], dtype=torch.float64), out).exp().item() for v in (0.0, 1.0)]
    assert sum(both) == pytest.approx(1) and both[1] == pytest.approx(out.sigmoid().item())
    drawn = Bernoulli().draw(out.expand(50_000, 1), seeded(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and drawn.mean().item() == pytest.approx(both[1], abs=0.01)


def test_an_autoencoder_learns_a_line() -> None:
    torch.manual_seed(0)
    t = torch.randn(2000, 1, generator=seeded(0))
    x = torch.cat([t, 2 * t, -t], 1)
    model = Autoencoder(nets.Perceptron(3, 1, 16, 1), nets.Perceptron(1, 3, 16, 1))
    before = model.loss(x).mean().item()
    sdegen.fit(model, x, steps=300, lr=1e-2, batch_size=128, seed=0)
    assert model.loss(x).mean().item() < 1e-2 * before
    assert torch.allclose(model.decode(model.codes(x)), model.restored(model.net(model.standardised(x))))


# --- categories ------------------------------------------------------------------------------------------------------


def categorical(seed: int = 0) -> CategoricalVAE:
    torch.manual_seed(seed)
    return CategoricalVAE(nets.Perceptron(1, 3, 8, 1), nets.Perceptron(3, 2, 8, 1), 3).double()


@torch.no_grad()
def test_a_categorical_vae_has_an_exact_density_and_bound() -> None:
    model = categorical()
    at = torch.linspace(-30, 30, 30_001, dtype=torch.float64)[:, None]
    assert model.log_prob(at).exp().sum().item() * 60 / 30_000 == pytest.approx(1, abs=1e-6)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    terms = model.bound(x)
    q = Categorical(logits=model.encode(x))
    assert torch.allclose(terms.kl, kl_divergence(q, Categorical(torch.full((9, 3), 1 / 3, dtype=torch.float64))))
    assert (terms.elbo < model.log_prob(x)).all()
    # With the true posterior for q, the bound is the density.
    each = torch.stack(
        [model.likelihood.log_prob(x, out.expand(9, 2)) for out in model.decoder(torch.eye(3).double())], 1
    )
    posterior = each.log_softmax(1)
    model.encode = lambda x: posterior  # type: ignore[method-assign]
    assert torch.allclose(model.bound(x).elbo, model.log_prob(x))


def test_relaxed_draws_have_the_right_favourites() -> None:
    """Gumbel's trick: the largest of the relaxed draw is c with probability q(c | x)."""
    model = categorical()
    seen: list[Tensor] = []
    decoder = model.decoder
    handle = decoder.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    x = torch.full((40_000, 1), 0.3, dtype=torch.float64)
    model.loss(x, generator=seeded(0))
    handle.remove()
    share = seen[0].argmax(1).bincount(minlength=3) / 40_000
    q = model.encode(x[:1])[0].exp()
    assert ((share - q).abs() < 4 * (q * (1 - q) / 40_000).sqrt()).all()
    assert torch.allclose(seen[0].sum(1), torch.ones(40_000).double())


def test_samples_have_every_category() -> None:
    model = categorical()
    x = model.sample(60_000, seeded(0))
    at = torch.linspace(-30, 30, 30_001, dtype=torch.float64)[:, None]
    mean = (model.log_prob(at).exp() * at[:, 0]).sum().item() * 60 / 30_000
    assert x.mean().item() == pytest.approx(mean, abs=4 * x.std().item() / 60_000**0.5)


# --- a ladder --------------------------------------------------------------------------------------------------------


def ladder(skip: bool = False, free: float = 0.0) -> HierarchicalVAE:
    torch.manual_seed(1)
    return HierarchicalVAE((1,), (2, 1, 3), width=8, free=free, skip=skip).double()


@torch.no_grad()
def test_the_ladder_is_a_hierarchy_term_by_term() -> None:
    model = ladder()
    net = model.net
    x = torch.randn(30_000, 1, generator=seeded(0), dtype=torch.float64)
    features = net.heights(x)[::-1]

    def layer(i: int) -> LatentLayer:
        def generate(z: Tensor) -> Normal:
            return as_normal(net.expected[i - 1](z))

        def infer(z: Tensor, x: Tensor) -> Normal:
            return product(as_normal(net.said[i](features[i])), generate(z))

        return LatentLayer(infer, generate)

    hierarchy = Hierarchy(
        lambda x: as_normal(net.said[0](features[0])),
        lambda z: Normal(torch.zeros_like(z), torch.ones_like(z)),
        [layer(1), layer(2)],
        lambda z: model.likelihood.law(net.data(z)),  # type: ignore[attr-defined]
    )
    ours, theirs = model.terms(x, seeded(1)), hierarchy.terms(x, seeded(2))
    assert ours.shape == theirs.shape == (4, 30_000)
    gap = (ours - theirs).mean(1)
    assert (gap.abs() <= 4.5 * (ours - theirs).std(1) / 30_000**0.5 + 1e-12).all()
    assert ours.mean(1).min() > 1e-3


def test_a_product_of_normal_laws() -> None:
    a, b = Normal(torch.tensor([1.0]).double(), 0.5), Normal(torch.tensor([-2.0]).double(), 2.0)
    c = product(a, b)
    at = torch.linspace(-3, 3, 7, dtype=torch.float64)
    gap = a.log_prob(at) + b.log_prob(at) - c.log_prob(at)
    assert torch.allclose(gap, gap[:1].expand(7))


@pytest.mark.parametrize("skip", [False, pytest.param(True, marks=pytest.mark.slow)])
@torch.no_grad()
@pytest.mark.turns("False")
def test_single_importance_weights_have_mass_one(skip: bool) -> None:
    """``∫ E[p(x, z) / q(z | x)] dx = ∫ p(x) dx = 1``: the inference and the generation are of one and the same model."""
    model = ladder(skip)
    at = torch.linspace(-9, 9, 1801, dtype=torch.float64)[:, None]
    weights = torch.stack([model.importance_bound(at, 1, seeded(k)).exp() for k in range(2000)])
    masses = weights.sum(1) * 0.01
    found = sdegen.metrics.Estimate.of(masses)
    assert abs(found.value - 1) < 4 * found.stderr + 1e-3 and found.stderr < 0.03
    # And samples follow the same density.
    x = model.sample(40_000, seeded(0))
    mean = sdegen.metrics.Estimate.of((weights * at[:, 0]).sum(1) * 0.01)
    assert abs(x.mean().item() - mean.value) < 4 * math.hypot(mean.stderr, x.std().item() / 200)


def test_free_nats_and_the_weight_are_those_of_the_loss_alone() -> None:
    model, x = ladder(), torch.randn(50, 1, generator=seeded(0), dtype=torch.float64)
    terms = model.terms(x, seeded(1))
    free = terms[:3].median().item()
    freed = ladder(free=free)
    assert torch.equal(freed.terms(x, seeded(1)), terms)
    model.beta.fill_(0.3)
    assert torch.allclose(model.loss(x, generator=seeded(1)), 0.3 * terms[:3].sum(0) + terms[3])
    assert torch.allclose(freed.loss(x, generator=seeded(1)), terms[:3].clamp_min(free).sum(0) + terms[3])


def test_the_kl_is_let_in_slowly(tmp_path: Any) -> None:
    x = torch.randn(64, 1, generator=seeded(0), dtype=torch.float64)

    def run(steps: int, folder: str) -> tuple[list[float], Tensor]:
        model = ladder()
        warm = WarmUp(model, 8)
        seen: list[float] = [model.beta.item()]
        callbacks: list[Callable[..., Any]] = [warm, lambda step: seen.append(model.beta.item())]
        sdegen.fit(
            model, x, steps=steps, batch_size=16, schedule=sdegen.training.constant_rate, seed=0, every=3,
            checkpoint=tmp_path / folder, callbacks=callbacks,
        )  # fmt: skip
        return seen, nn.utils.parameters_to_vector(model.parameters())

    seen, whole = run(10, "a")
    assert seen == [min(1.0, k / 8) for k in range(11)]
    run(4, "b")
    assert torch.equal(run(10, "b")[1], whole)  # the weight is kept with the rest


@pytest.mark.parametrize("skip", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.turns("False")
def test_a_ladder_learns_and_its_units_are_counted(skip: bool) -> None:
    law = sdegen.GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.tensor([0.1, 0.1]))
    torch.manual_seed(0)
    model = HierarchicalVAE((1,), (1, 1), width=24, skip=skip).double()
    sdegen.fit(model, law, steps=1500, lr=5e-3, batch_size=128, seed=0, callbacks=[WarmUp(model, 400)])
    x = law.sample(2000, seeded(0))
    gap = sdegen.metrics.Estimate.of(law.log_prob(x) - model.importance_bound(x, 64, seeded(1)))
    assert -4 * gap.stderr < gap.value < 0.1
    codes = model.codes(x)
    assert codes.shape == (2000, 1)
    mixed = torch.cat([codes, 1e-3 * codes / codes.std()], 1)
    assert active_units(mixed)[1].item() is False
    assert active_units(3 * codes / codes.std()).item() is True


# --- codes -----------------------------------------------------------------------------------------------------------


def test_walks() -> None:
    z = torch.tensor([0.5, -1.0, 2.0])
    points = traversal(lambda v: v, z, 1, torch.tensor([-3.0, 0.0, 3.0]))
    assert points.tolist() == [[0.5, -3.0, 2.0], [0.5, 0.0, 2.0], [0.5, 3.0, 2.0]]
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    arc = walk_latents(lambda v: v, a, b, 5)
    assert torch.allclose(arc.norm(dim=1), torch.ones(5)) and torch.allclose(arc[2], torch.full((2,), 0.5**0.5))
    assert torch.allclose(arc[0], a) and torch.allclose(arc[-1], b, atol=1e-6)
    assert torch.allclose(walk_latents(lambda v: v, a, 3 * a, 3), torch.tensor([[1.0, 0], [2, 0], [3, 0]]))
    with pytest.raises(ValueError, match="have no shortest arc"):
        walk_latents(lambda v: v, a, -a)
    with pytest.raises(ValueError, match="no arc joins it"):
        walk_latents(lambda v: v, a, 0 * a)


def test_the_head_learns_and_the_codes_stay() -> None:
    torch.manual_seed(0)
    model = Autoencoder(nn.Linear(2, 2), nn.Linear(2, 2))
    x = sdegen.data.gaussian_ring(modes=2).sample(600, seeded(0)).float()
    label = (x[:, 0] > 0).long()
    head = LatentClassifier(model, 2, 2)
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    sdegen.fit(head, (x, label), steps=200, lr=1e-2, batch_size=64, seed=0)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)
    assert (head(x).argmax(1) == label).double().mean() > 0.98
    curve = robustness(head, x, label, [0.0, 1.0, 8.0], low=-9.0, high=9.0)
    assert curve[0].value > 0.98 and curve[0].value >= curve[1].value > curve[2].value
    assert curve[2].value < 0.1


def test_the_fast_gradient_sign_of_a_linear_classifier() -> None:
    w = torch.tensor([1.0, -2.0, 0.5])
    x, label = torch.tensor([[0.5, 0.5, 0.5], [0.05, 0.5, 0.99]]), torch.tensor([1, 0])

    def logits(v: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(v)), v @ w], 1)

    changed = fgsm(logits, x, label, 0.1)
    signs = torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]])  # away from the own class
    assert torch.allclose(changed, (x + 0.1 * signs).clamp(0, 1))
    with pytest.raises(ValueError, match="of at least 0"):
        fgsm(logits, x, label, -0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: VAE(nets.Down((1, 8, 8), 4, 4), nets.Up(2, (1, 8, 8), 4), 2, Continuous(), beta=0.5),
        lambda: HierarchicalVAE((1, 8, 8), (3, 2), width=8, skip=True, free=0.1),
        lambda: CategoricalVAE(nets.Down((1, 8, 8), 5, 4), nets.Up(5, (1, 8, 8), 4), 5, Bernoulli()),
        lambda: Autoencoder(nets.Down((1, 8, 8), 2, 4), nets.Up(2, (1, 8, 8), 4)),
    ],
    ids=["VAE", "ladder", "categorical", "plain"],
)
def test_saved_loaded_and_trained_on_images(make: Callable[[], Any], tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = make()
    images = sdegen.data.digits().without_labels().scaled(0, 1)
    run = sdegen.fit(model, images, steps=60, lr=2e-3, warmup=0, batch_size=32, seed=0, autocast=torch.bfloat16)
    assert sum(run.loss[-5:]) / 5 < run.loss[0]
    sdegen.save(model, tmp_path / "m.safetensors")
    again = sdegen.load(tmp_path / "m.safetensors")
    x = images.rows(slice(0, 4))
    assert torch.equal(again.loss(x, generator=seeded(0)), model.loss(x, generator=seeded(0)))
    if hasattr(model, "sample"):
        assert model.sample(3, seeded(0)).shape == (3, 1, 8, 8)


def test_a_head_leaves_the_moments_of_the_encoder() -> None:
    torch.manual_seed(0)
    model = Autoencoder(nets.Down((1, 8, 8), 3, 4, batch_norm=True), nets.Up(3, (1, 8, 8), 4)).eval()
    images = sdegen.data.digits().scaled(0, 1)
    x = images.rows(slice(0, 5))
    before = model.codes(x)
    sdegen.fit(LatentClassifier(model, 3, 10), images, steps=5, batch_size=32, seed=0)
    assert torch.equal(model.codes(x), before)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: VAE(nets.Perceptron(2, 4), nets.Perceptron(2, 2), 2).loss(torch.zeros(3, 2)), "2 for every number"),
        (lambda: VAE(nets.Perceptron(2, 4), nets.Perceptron(1, 4), 1).loss(torch.zeros(3, 2)), "twice as many"),
        (lambda: fgsm(lambda v: v, torch.full((2, 2), -0.5), torch.tensor([0, 1]), 0.1), "beyond"),
        (lambda: VAE(nets.Perceptron(2, 4), nets.Perceptron(2, 4), 2, beta=-0.1), "at least 0"),
        (lambda: active_units(torch.zeros(1, 2)), "two at least"),
        (lambda: Gaussian(-1.0), "positive"),
        (lambda: CategoricalVAE(nn.Linear(1, 2), nn.Linear(2, 2), 2, temperature=0.0), "positive"),
        (lambda: HierarchicalVAE((2,), ()), "at least one latent"),
        (lambda: WarmUp(ladder(), 0), "at least one"),
        (lambda: linear_model().importance_bound(data(2), 0), "at least one"),
        (lambda: ladder().importance_bound(torch.zeros(2, 1).double(), 0), "at least one"),
    ],
)
def test_bad_input_is_told(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_a_unit_is_active_by_its_variance_and_not_by_its_deviation() -> None:
    """Deviations of .05 and .2 are variances of .0025 and .04, on either side of .01, which is below both deviations."""
    codes = torch.tensor([0.05, 0.2]) * torch.tensor([-1.0, 1.0, -1.0, 1.0])[:, None]
    assert active_units(codes).tolist() == [False, True]


@pytest.mark.parametrize(("temperature", "least", "most"), [(0.01, 0.9, 1.0), (100.0, 0.25, 0.3)])
def test_a_relaxed_draw_is_one_category_when_cold_and_all_of_them_when_hot(
    temperature: float, least: float, most: float
) -> None:
    seen: list[Tensor] = []

    class Shown(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(input)
            return super().forward(input)

    torch.manual_seed(0)
    model = CategoricalVAE(nn.Linear(1, 4), Shown(4, 1), 4, Gaussian(0.5), temperature)
    model.loss(torch.randn(400, 1), generator=seeded(0))
    assert least <= seen[-1].amax(1).mean().item() <= most


def test_a_given_deviation_is_in_the_units_of_the_data() -> None:
    """The density of the data in other units is that in their own, times the change of volume."""
    law, units = Gaussian(0.6), Units(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.2]))
    x, mean = torch.randn(5, 2).double(), torch.randn(5, 2).double()
    volume = units.std.log().sum()
    found = law.in_units(units).log_prob(units.standardise(mean), units.standardise(x))
    torch.testing.assert_close(found - volume, law.log_prob(mean, x))


@pytest.mark.parametrize("kind", ["Gaussian", "categorical", "hierarchical"])
def test_the_loss_in_units_is_that_of_standardised_data_and_the_volume(kind: str) -> None:
    units, x = Units(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.2])), torch.randn(6, 2)

    def make(likelihood: PixelLaw) -> Any:
        torch.manual_seed(0)
        if kind == "hierarchical":
            return HierarchicalVAE((2,), (2, 2), 8, likelihood=likelihood)
        kinds = {"Gaussian": (VAE, 4, 2, 2), "categorical": (CategoricalVAE, 4, 4, 4)}
        of, out, inner, latent = kinds[kind]
        return of(nn.Linear(2, out), nn.Linear(inner, 2), latent, likelihood)

    own, plain = make(Gaussian(0.5)), make(Gaussian(0.5).in_units(units))
    own.units = units
    found, want = own.loss(x, generator=seeded(1)), plain.loss(units.standardise(x).float(), generator=seeded(1))
    torch.testing.assert_close(found, want + (units.std.log().sum() / 2).to(want), rtol=1e-4, atol=1e-4)
