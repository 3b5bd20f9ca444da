"""Posteriors given many observations, composed of those given each: exact for Gaussian laws, whatever their number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch import distributions as D

import sdegen
from sdegen import inference, measurements, nets
from sdegen.guidance import MomentMatching
from sdegen.inference import AmortisedPosterior, ComposedPosterior, ComposedScore, LinearGuess
from sdegen.laws import Moments, free_coordinates

PRIOR = D.MultivariateNormal(torch.tensor([1.0, -1.0]).double(), torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double())
A = torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
X = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 0.5], [1.5, 1.0]], dtype=torch.float64)


def truth(x: Tensor) -> D.MultivariateNormal:
    """The posterior given observations ``A theta + z / 2``."""
    own = PRIOR.precision_matrix
    covariance = (own + len(x) * A.T @ A / 0.25).inverse()
    return D.MultivariateNormal(covariance @ (own @ PRIOR.mean + A.T @ x.sum(0) / 0.25), covariance)


def single() -> AmortisedPosterior:
    """The posterior given one observation, exact."""
    return AmortisedPosterior(MomentMatching(sdegen.Exact(sdegen.VP(), PRIOR), measurements.Linear(A, 0.5)), PRIOR)


def test_denoisers_and_noise_of_gaussian_posteriors_compose_to_those_of_their_product() -> None:
    """With the covariances that are known, at every time, beside the true score of the posterior given all."""
    each = [truth(x[None]) for x in X]
    means, covariances = (torch.stack([getattr(law, name) for law in each]) for name in ("mean", "covariance_matrix"))
    prior = Moments(PRIOR.mean, PRIOR.covariance_matrix)
    composed = ComposedScore(single().model, "y", X, torch.zeros(4, 2), prior, means, covariances)
    exact = sdegen.Exact(sdegen.VP(), truth(X))
    assert torch.allclose(composed.moments.mean, truth(X).mean)
    assert torch.allclose(composed.moments.covariance, truth(X).covariance_matrix)
    w = torch.randn(5, 2, dtype=torch.float64)
    for t in (1e-5, 0.5, torch.tensor([0.01, 0.1, 0.3, 0.7, 1.0], dtype=torch.float64)):
        for ours, theirs in zip(composed.estimate(w, t), exact.estimate(w, t), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(composed.score(w, 0.3), exact.score(w, 0.3), atol=1e-6)


def test_an_observation_that_seems_to_widen_the_prior_tells_next_to_nothing() -> None:
    """Draws may measure a posterior's covariance above the prior's, in some directions: there the prior stays as it is."""
    prior = Moments(PRIOR.mean, PRIOR.covariance_matrix)
    known = truth(X[:1])
    turn = torch.linalg.cholesky(PRIOR.covariance_matrix)
    wide = turn @ torch.diag(torch.tensor([2.0, 1.0]).double()) @ turn.T  # along one direction alone
    means, covariances = torch.stack([known.mean, PRIOR.mean]), torch.stack([known.covariance_matrix, wide])
    composed = ComposedScore(single().model, "y", X[:2], torch.zeros(2, 2), prior, means, covariances)
    torch.testing.assert_close(composed.moments.covariance, known.covariance_matrix, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(composed.moments.mean, known.mean, rtol=1e-4, atol=1e-4)


def squeezed() -> tuple[AmortisedPosterior, Tensor]:
    """A posterior of any network, through coordinates of the prior, a linear guess and units; and parameters."""
    torch.manual_seed(0)
    net = nets.MLP(2, width=8, depth=1, conditions={"seen": nets.Vector(3)}).double()
    for p in net.parameters():
        p.data = 0.3 * torch.randn_like(p)
    units = sdegen.Units(torch.tensor([0.1, -0.2]), torch.tensor([1.5, 0.7]))
    model = sdegen.Model(net, sdegen.VP().in_units(units))
    model.moments = Moments(torch.zeros(2), torch.eye(2))
    guess, _ = LinearGuess.of(torch.randn(50, 2), torch.randn(50, 3))
    box = D.Uniform(-torch.ones(2).double(), torch.ones(2).double())
    return AmortisedPosterior(model, box, free_coordinates(box), guess), 0.9 * box.sample((4,))


@pytest.mark.parametrize("constant", [0.0, 1e-7, 0.1, 123456.789, 3e6])
def test_a_number_that_is_the_same_in_all_data_tells_nothing(constant: float) -> None:
    """Whatever its size, and whatever its mean is rounded to: the guess is that from the others."""
    draws = torch.Generator().manual_seed(0)
    u, x = (torch.randn(7, d, dtype=torch.float64, generator=draws) for d in (1, 2))
    with_constant = torch.cat([x, torch.full((7, 1), constant, dtype=torch.float64)], 1)
    (plain, missed), (guess, also) = LinearGuess.of(u, x), LinearGuess.of(u, with_constant)
    torch.testing.assert_close(guess.A[:, :2], plain.A, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(also, missed, rtol=1e-9, atol=1e-9)
    assert guess.std[2] == 1
    for unit in (1e-9, 1e6):
        torch.testing.assert_close(LinearGuess.of(u, unit * x)[1], missed, rtol=1e-9, atol=1e-9)


def test_a_prior_is_that_of_the_states_and_covariances_of_few_draws_are_not_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posterior, L = single(), torch.tensor([[0.5, 0.0], [0.3, 2.0]], dtype=torch.float64)
    posterior.guess = LinearGuess(X.mean(0), X.std(0), torch.eye(2).double(), torch.zeros(2).double(), L)
    drawn = 0.1 * torch.randn(len(X), 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(posterior, "draw_states", lambda n, x, seed: drawn.flatten(0, 1))
    composed = ComposedPosterior(posterior, draws=4).compose(X)
    torch.testing.assert_close(L @ composed.prior_precision.inverse() @ L.T, PRIOR.covariance_matrix)
    for own, told in zip(drawn, composed.added, strict=True):
        torch.testing.assert_close((told + composed.prior_precision).inverse(), own.T.cov())


def test_one_observation_alone_gives_the_posterior_that_was_learned() -> None:
    posterior, theta = squeezed()
    model, guess, units = posterior.model, posterior.guess, posterior.model.sde.units
    x = torch.randn(1, 3, dtype=torch.float64)
    together = ComposedPosterior(posterior, draws=50)
    composed = together.compose(x, seed=0)
    w = torch.linalg.solve_triangular(guess.L * units.std, posterior.coordinates(theta).T, upper=False).T
    states = model.sde.lift(posterior.to_states(theta, x))
    ours, theirs = composed.estimate(w, 1e-6)[0] - w, model.estimate(states, 1e-6, seen=x[0])[0] - states
    assert torch.allclose(ours, theirs, atol=1e-5)
    shift = 0.6 * composed.shifts  # a state at a time at which the signal is less than one
    t = float(composed.sde.time(torch.tensor(0.36 / 0.64)))
    clean = model.estimate(w - shift, t, seen=x[0])[0] + composed.shifts
    assert torch.allclose(composed.estimate(w, t)[0], clean, atol=1e-6)


def test_states_are_composed_row_by_row() -> None:
    posterior, _ = squeezed()
    composed = ComposedPosterior(posterior, draws=3).compose(torch.randn(2, 3, dtype=torch.float64), seed=0)
    w, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)
    together = composed.estimate(w, t)
    for i in range(3):
        for whole, row in zip(together, composed.estimate(w[i : i + 1], t[i]), strict=True):
            torch.testing.assert_close(row[0], whole[i])


def test_parameters_of_composed_states_are_those_of_the_single_posterior_and_their_density_knows_the_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posterior, theta = squeezed()
    together, x = ComposedPosterior(posterior, draws=3), torch.randn(2, 3, dtype=torch.float64)
    shifts = together.compose(x, seed=0).shifts
    w = posterior.model.sde.lift(posterior.to_states(theta, x[:1])) + shifts[0]
    same = posterior.model.sde.lift(posterior.to_states(theta, x[1:])) + shifts[1]
    torch.testing.assert_close(w, same)  # states less their shift do not depend on the observation
    monkeypatch.setattr("sdegen.inference.composition.sample", lambda model, n, **how: w)
    torch.testing.assert_close(together.sample(4, x, seed=0), theta)
    asked = []
    monkeypatch.setattr(
        "sdegen.inference.composition.log_prob", lambda model, x: asked.append(x) or torch.zeros(len(x)).double()
    )
    found = together.log_prob(theta, x, seed=0)
    torch.testing.assert_close(asked[0], w)
    for one, volume in zip(theta, found, strict=True):
        J = torch.autograd.functional.jacobian(
            lambda v: posterior.to_states(v[None], x[:1])[0] / posterior.model.sde.units.std, one
        )
        torch.testing.assert_close(volume, torch.linalg.slogdet(J).logabsdet)


def test_samples_are_independent_of_the_draws_that_covariances_are_measured_on() -> None:
    """Given one observation, of which both are draws of one law: with one noise they would be the same."""
    one = single()
    drawn = one.draw_states(100, X[:1], steps=5, seed=0)
    theta = ComposedPosterior(one, draws=100).sample(100, X[:1], steps=5, seed=0)
    assert torch.corrcoef(torch.cat([drawn, theta], 1).T)[:2, 2:].abs().max() < 0.4  # four standard errors


@pytest.mark.slow
def test_draws_and_densities_given_many_observations_are_those_of_the_truth() -> None:
    together = ComposedPosterior(single())
    theta = together.sample(2000, X, seed=0)
    assert torch.allclose(theta.mean(0), truth(X).mean, atol=0.06)
    assert torch.allclose(torch.cov(theta.T), truth(X).covariance_matrix, atol=0.02)
    assert (truth(X).log_prob(theta[:50]) - together.log_prob(theta[:50], X, seed=1)).mean().abs() < 0.05


@pytest.mark.slow
def test_a_trained_posterior_composes_within_the_bounds_of_its_prior() -> None:
    """Of a uniform prior and normal noise the posterior given all is that given their mean, cut off by the prior."""
    box = D.Uniform(-torch.ones(1), torch.ones(1))
    pairs = inference.draw_pairs(box, lambda theta: theta + torch.randn_like(theta), 5000, seed=0)
    net = nets.MLP(1, width=32, depth=2, conditions={"seen": nets.Vector(1)})
    posterior = inference.fit_posterior(
        box, pairs, net, steps=800, batch_size=256, seed=0, weight_decay=0.0, progress=False
    )
    x = 0.8 + torch.randn(5, 1, generator=torch.Generator().manual_seed(1))
    theta = ComposedPosterior(posterior).sample(2000, x, seed=0)
    grid = torch.linspace(-1, 1, 2001)
    weights = (-0.5 * len(x) * (grid - x.mean()).square()).softmax(0)
    mean = (weights * grid).sum()
    std = (weights * (grid - mean).square()).sum().sqrt()
    assert theta.abs().max() <= 1
    assert abs(theta.mean() - mean) < 0.15 * std and abs(theta.std() / std - 1) < 0.15


@pytest.mark.parametrize(
    ("prior", "says"),
    [(D.Beta(torch.ones(2), torch.ones(2)), "not Gaussian"), (sdegen.data.gaussian_ring(), "not Gaussian")],
)
def test_a_prior_whose_noised_score_is_not_known_is_refused(prior: object, says: str) -> None:
    one = single()
    one.prior, one.coordinates = prior, free_coordinates(prior)
    with pytest.raises(TypeError, match=says):
        ComposedPosterior(one)


def test_a_gaussian_prior_is_none_in_coordinates_that_bend_it() -> None:
    one = single()
    bounds = D.Independent(D.Beta(torch.ones(2), torch.ones(2)), 1)
    one.prior, one.coordinates = (
        sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1)),
        free_coordinates(bounds),
    )
    with pytest.raises(TypeError, match="not Gaussian in coordinates without bounds"):
        ComposedPosterior(one)


@pytest.mark.parametrize("x", [torch.zeros(2), torch.full((3, 2), torch.nan)])
def test_what_is_no_row_for_each_observation_is_refused(x: Tensor) -> None:
    torch.manual_seed(0)
    model = sdegen.Model(nets.MLP(2, width=8, depth=1, conditions={"seen": nets.Vector(2)}), sdegen.VP())
    with pytest.raises(ValueError, match="x "):
        ComposedPosterior(AmortisedPosterior(model, PRIOR)).sample(3, x)


@pytest.mark.parametrize(
    ("theta", "error"),
    [(torch.zeros(3), ValueError), (torch.zeros(2, 3), ValueError), (torch.zeros(2, 2).int(), TypeError)],
)
def test_parameters_of_another_kind_have_no_density(theta: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match="theta"):
        ComposedPosterior(single(), draws=3).log_prob(theta, X)
