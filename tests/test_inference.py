"""Inference from simulations, held to posteriors that are known: of linear Gaussian pairs, of bounded priors, of exact laws."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import Refusals, check_refusal
from torch import Tensor
from torch import distributions as D

import sdegen
from sdegen import inference, measurements, nets
from sdegen.guidance import PiGDM
from sdegen.inference import AmortisedPosterior, ConditionalDensity, LinearGuess, Pairs, draw_pairs, fit_posterior
from sdegen.laws import InverseTransform, NormalRanks, free_coordinates

BOX = D.Uniform(torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 3.0]))
NORMAL = D.MultivariateNormal(torch.zeros(2), torch.eye(2))
TWO = torch.ones(2)


def noisy(theta: Tensor) -> Tensor:
    """Parameters with noise of standard deviation one half."""
    return theta + 0.5 * torch.randn_like(theta)


def small(d: int = 2, k: int = 2) -> nets.MLP:
    return nets.MLP(d, width=8, depth=1, conditions={"seen": nets.Vector(k)})


def quick(prior: Any, pairs: Any, **settings: Any) -> AmortisedPosterior:
    torch.manual_seed(0)
    return fit_posterior(
        prior, pairs, small(), **{"steps": 2, "batch_size": 64, "seed": 0, "progress": False, **settings}
    )


# Coordinates of a prior


@pytest.mark.parametrize(
    "law",
    [
        BOX, D.Independent(D.Exponential(TWO), 1), D.LogNormal(0 * TWO, TWO), D.Gamma(2 * TWO, TWO), D.Beta(2 * TWO, TWO),
        D.Dirichlet(torch.ones(3)),
    ],
    ids=lambda law: type(law).__name__,
)  # fmt: skip
def test_coordinates_of_a_prior_have_no_bounds_and_the_volume_that_they_say(law: Any) -> None:
    phi = free_coordinates(law)
    assert phi is not None
    theta = law.sample((500,)).double()
    u = phi(theta)
    assert torch.allclose(phi.inverse(u), theta, atol=1e-6)
    far = phi.inverse(torch.cat([u - 30, u + 30]))
    assert phi.domain.check(far).all() and far.isfinite().all()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: phi.inverse(v[None])[0]))(u[:20])
    if jacobian.shape[1] == jacobian.shape[2]:  # parts of a whole are one more than their coordinates
        assert torch.allclose(-torch.linalg.slogdet(jacobian).logabsdet, phi.log_det(theta[:20]), atol=1e-5)
    if isinstance(phi, NormalRanks):
        assert D.Normal(0, 1).cdf(u).sort(0).values.sub(torch.linspace(0, 1, 500)[:, None]).abs().max() < 0.08


def test_ranks_are_found_where_a_law_knows_them_and_bounds_elsewhere() -> None:
    assert isinstance(free_coordinates(BOX), NormalRanks) and isinstance(
        free_coordinates(D.Beta(TWO, TWO)), InverseTransform
    )
    assert free_coordinates(NORMAL) is None and free_coordinates(sdegen.data.gaussian_ring()) is None


@settings(max_examples=50)
@given(st.lists(st.floats(-8.2, 5.0), min_size=2, max_size=9, unique_by=lambda u: round(u, 3)), st.booleans())
def test_ranks_far_in_the_lower_tail_keep_their_digits_and_order(places: list[float], positive: bool) -> None:
    u = torch.tensor(sorted(places), dtype=torch.float64)[:, None]
    law = (
        D.Exponential(torch.ones(1, dtype=torch.float64))
        if positive
        else D.Uniform(torch.zeros(1), torch.ones(1).double())
    )
    x = NormalRanks(law).inverse(u)
    rank = torch.tensor([0.5 * math.erfc(-v / math.sqrt(2)) for v in u.flatten().tolist()], dtype=torch.float64)
    want = -torch.log1p(-rank) if positive else rank
    assert torch.allclose(x[:, 0], want, rtol=1e-9, atol=0 if not positive else 2e-16) and (x.diff(dim=0) > 0).all()


# The linear guess


def test_a_guess_leaves_nothing_of_a_linear_gaussian_pair() -> None:
    """Of theta ~ N(0, 1) and x = theta + z / 2 the posterior is N(0.8 x, 0.2)."""
    theta = torch.randn(20_000, 2, dtype=torch.float64)
    x = noisy(theta)
    guess, r = LinearGuess.of(theta, x)
    assert torch.allclose(torch.cov(torch.cat([r, x], 1).T)[:2, :2], torch.eye(2).double(), atol=0.05)
    assert (r.T @ x / len(x)).abs().max() < 0.05
    assert torch.allclose(guess.restore(0 * r[:9], x[:9]), 0.8 * x[:9], atol=0.05)
    assert guess.log_det == pytest.approx(-math.log(0.2), abs=0.05)
    assert torch.allclose(guess.restore(guess.miss(theta, x), x), theta)


def test_what_is_missed_is_that_of_a_guess_from_the_other_pairs() -> None:
    theta, x = torch.randn(12, 2, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64)
    guess, r = LinearGuess.of(theta, x)
    features = torch.cat([(x - guess.mean) / guess.std, torch.ones(12, 1)], 1).clamp(-5, 5)
    for i in range(12):
        others = torch.arange(12) != i
        rows, ridge = features[others], torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0]).double())
        fitted = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ theta[others])
        assert torch.allclose(guess.L @ r[i], theta[i] - features[i] @ fitted)


def test_a_datum_far_away_does_not_send_the_guess_far_away() -> None:
    theta = torch.randn(500, 2)
    guess, _ = LinearGuess.of(theta, noisy(theta))
    assert guess.restore(torch.zeros(1, 2), torch.full((1, 2), 1e9)).abs().max() < 10


def test_data_with_gaps_are_given_to_a_network_that_takes_them() -> None:
    torch.manual_seed(0)
    net = nets.MLP(2, width=8, depth=1, conditions={"seen": nets.Vector(2, gaps=True)})
    model = sdegen.Model(net, sdegen.VP())
    x = torch.randn(200, 2)
    sdegen.fit(
        model, (x, {"seen": torch.where(torch.rand(200, 2) < 0.3, math.nan, x)}), steps=20, batch_size=50, seed=0
    )
    density, seen = ConditionalDensity(model), torch.tensor([0.5, math.nan])
    y = density.sample(3, seen, seed=0)
    found = density.log_prob(y, seen)
    assert found.isfinite().all() and torch.equal(found, density.log_prob_each(y[None], seen[None])[0])
    with pytest.raises(ValueError, match="x holds NaN or infinite values"):
        density.log_prob(y, torch.tensor([0.5, math.inf]))


def test_a_guess_goes_no_further_than_five_spreads() -> None:
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    guess = LinearGuess(mean, std, torch.eye(2).double(), torch.zeros(2).double(), torch.eye(2).double())
    far = torch.tensor([-40.0, -5.1, -4.9, 0.0, 4.9, 5.1, 40.0])
    found = guess.restore(torch.zeros(7, 2), mean + far[:, None] * std)
    torch.testing.assert_close(found, far.clamp(-5, 5)[:, None].expand(7, 2))


def test_data_that_never_change_tell_a_guess_nothing() -> None:
    theta = torch.randn(50, 2, dtype=torch.float64)
    x = noisy(theta)
    (guess, r), (wider, same) = (LinearGuess.of(theta, v) for v in (x, torch.cat([x, torch.full((50, 1), 3.0)], 1)))
    assert torch.allclose(r, same, atol=1e-6)
    far = torch.cat([x[:3], torch.full((3, 1), 4.0)], 1)
    assert torch.allclose(wider.restore(r[:3], far), guess.restore(r[:3], x[:3]), atol=1e-6)


# Training


def test_weights_decay_unless_a_setting_says_otherwise() -> None:
    pairs = draw_pairs(NORMAL, noisy, 100, seed=0)

    def decay(**settings: Any) -> float:
        run = quick(NORMAL, pairs, **settings).run
        assert run is not None and run.settings.batch_size == 64
        return run.settings.weight_decay

    assert decay() == decay(settings=None) == 0.1
    assert decay(weight_decay=0.0) == decay(settings=sdegen.training.Settings()) == 0.0
    likelihood = inference.fit_likelihood(pairs, small(), steps=1, seed=0, progress=False)
    assert likelihood.run is not None and likelihood.run.settings.weight_decay == 0.1


# Densities


def test_an_exact_model_gives_the_exact_posterior() -> None:
    """Pseudo-inverse guidance of Gaussian data is exact, and has a condition of another name."""
    law, seen = (
        D.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()),
        measurements.Linear(torch.eye(2).double(), 0.5),
    )
    posterior = ConditionalDensity(
        PiGDM(sdegen.Exact(sdegen.VP(), law), seen), sampler=sdegen.samplers.ExponentialSDE(50)
    )
    x = torch.tensor([[1.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
    drawn = posterior.sample_each(2000, x, seed=0)
    assert drawn.shape == (2, 2000, 2)
    assert torch.allclose(drawn.mean(1), 0.8 * x, atol=0.06) and torch.allclose(
        drawn.var(1), 0.2 * torch.ones(2, 2).double(), atol=0.03
    )
    assert torch.equal(posterior.sample(5, x[0], seed=1), posterior.sample_each(5, x[:1], seed=1)[0])


def test_a_fitted_linear_gaussian_posterior_is_the_true_one() -> None:
    pairs = draw_pairs(NORMAL, noisy, 4000, seed=0)
    posterior = quick(NORMAL, pairs)
    x = torch.tensor([1.0, -0.5])
    truth = D.Independent(D.Normal(0.8 * x, 0.2**0.5), 1)
    theta = truth.sample((200,))
    assert (truth.log_prob(theta) - posterior.log_prob(theta, x)).mean().abs() < 0.02


def test_densities_given_several_data_are_those_given_each() -> None:
    x, theta = torch.tensor([[0.5, 1.0], [-0.5, 2.0]]), torch.rand(2, 3, 2)
    theta[1, 2] = 5.0  # outside of the prior
    posterior = quick(BOX, draw_pairs(BOX, noisy, 500, seed=0))
    second = posterior.log_prob(theta[1], x[1])
    assert second[2].isneginf() and torch.allclose(posterior.log_prob_each(theta, x)[1], second, atol=1e-3)


@pytest.mark.slow
def test_the_mode_of_a_gaussian_posterior_is_its_mean() -> None:
    posterior, x = quick(NORMAL, draw_pairs(NORMAL, noisy, 4000, seed=0)), torch.tensor([1.0, -0.5])
    assert torch.allclose(posterior.find_mode(x, draws=20, steps=4, seed=0), 0.8 * x, atol=0.05)


def test_a_bounded_posterior_has_all_its_mass_within_the_prior() -> None:
    posterior = quick(BOX, draw_pairs(BOX, noisy, 500, seed=0))
    x = torch.tensor([0.9, 2.9])
    drawn = posterior.sample(500, x, steps=5, seed=0)
    assert BOX.support.check(drawn).all()
    side = torch.linspace(0, 1, 41)[:-1] + 1 / 80
    grid = torch.cartesian_prod(2 * side - 1, 3 * side)
    assert posterior.log_prob(grid, x).exp().mean().item() * 6 == pytest.approx(1.0, abs=0.02)
    assert posterior.log_prob(torch.tensor([[1.1, 1.0], [0.0, -0.1]]), x).isneginf().all()


@pytest.mark.slow
def test_a_trained_posterior_is_calibrated() -> None:
    pairs, test = (draw_pairs(BOX, noisy, n, seed=seed) for n, seed in ((2000, 0), (300, 1)))
    net = nets.MLP(2, width=32, depth=2, conditions={"seen": nets.Vector(2)})
    posterior = fit_posterior(BOX, pairs, net, steps=400, batch_size=256, seed=0, progress=False)
    tarp = sdegen.metrics.find_tarp_coverage(posterior, test.theta, test.x, 40, seed=0)
    coverage = sdegen.metrics.find_coverage(posterior, test.theta[:10], test.x[:10], 40, seed=0)
    assert all(abs(found.excess.value) < 3 * found.excess.stderr for found in (tarp, coverage))


@pytest.mark.slow
def test_a_likelihood_is_the_same_with_roles_exchanged() -> None:
    pairs = draw_pairs(NORMAL, noisy, 4000, seed=0)
    likelihood = inference.fit_likelihood(pairs, small(), steps=2, batch_size=64, seed=0, progress=False)
    theta = torch.tensor([0.5, -1.0])
    truth = D.Independent(D.Normal(theta, 0.5), 1)
    x = truth.sample((200,))
    assert (truth.log_prob(x) - likelihood.log_prob(x, theta)).mean().abs() < 0.02


def test_values_given_several_data_belong_to_these() -> None:
    """The states of each, in the order of the data, through its own guess."""
    x = torch.tensor([[0.5, 1.0], [-0.5, 2.0], [0.0, 0.1]])
    drawn, states = (draw(2, x, steps=2, seed=0) for draw in (POSTERIOR.sample_each, POSTERIOR.draw_states))
    for values, own, state in zip(drawn, x, states.unflatten(0, (3, 2)), strict=True):
        assert torch.allclose(POSTERIOR.to_states(values, own[None]), state, atol=1e-3)


def test_steps_and_sampler_are_those_that_are_asked_for() -> None:
    x = torch.zeros(2)
    few, more = (POSTERIOR.sample(3, x, steps=steps, seed=0) for steps in (2, 4))
    assert not torch.allclose(few, more)
    sampler = sdegen.samplers.EulerMaruyama(4)
    other = AmortisedPosterior(POSTERIOR.model, BOX, POSTERIOR.coordinates, POSTERIOR.guess, sampler=sampler)
    for steps in (None, 4):
        assert not torch.allclose(other.sample(3, x, seed=0), POSTERIOR.sample(3, x, steps=steps, seed=0))


def test_the_mode_is_the_highest_of_several_and_that_of_parameters_not_of_their_coordinates(monkeypatch: Any) -> None:
    """Of a log-normal law ``exp(m + s z)`` the mode is ``exp(m − s²)``; of the two here the lower one is the densest."""
    each = D.Normal(torch.tensor([-1.0, 2.0]).double(), torch.tensor([0.5, 0.5]).double())
    two = D.MixtureSameFamily(D.Categorical(torch.tensor([0.3, 0.7]).double()), each)

    def density(model: Any, states: Tensor, **how: Any) -> Tensor:
        return two.log_prob(states.double()).sum(1)

    def draw(model: Any, n: int, seed: int, **how: Any) -> Tensor:
        torch.manual_seed(seed)
        return two.sample((n, 1)).float()

    for part in ("posterior", "conditional"):
        monkeypatch.setattr(f"sdegen.inference.{part}.log_prob", density)
    monkeypatch.setattr("sdegen.inference.conditional.sample", draw)
    prior = D.Independent(D.Exponential(torch.ones(1)), 1)
    posterior = AmortisedPosterior(sdegen.Model(small(1, 1), sdegen.VP()), prior, sdegen.coordinates.Log())
    torch.manual_seed(5)
    assert posterior.find_mode(torch.zeros(1), draws=40, seed=0).item() == pytest.approx(math.exp(-1 - 0.25), abs=1e-3)


@pytest.mark.parametrize("fitted", ["posterior", "likelihood"])
def test_networks_are_trained_on_what_they_are_given_beside_it_and_judged_on_other_pairs(
    fitted: str, monkeypatch: Any
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("sdegen.inference.fits.fit", lambda model, data, **how: seen.update(data=data, **how))
    pairs, held = (draw_pairs(NORMAL, noisy, 60, seed=seed) for seed in (0, 1))
    how = {"validation": held, "steps": 7}
    if fitted == "posterior":
        density, y, x, y_held, x_held = (
            fit_posterior(NORMAL, pairs, small(), **how), pairs.theta, pairs.x, held.theta, held.x
        )  # fmt: skip
    else:
        density, y, x, y_held, x_held = (
            inference.fit_likelihood(pairs, small(), **how), pairs.x, pairs.theta, held.x, held.theta
        )  # fmt: skip
    states, cond = seen["data"]
    assert torch.equal(cond["seen"], x) and torch.equal(seen["validation"][1]["seen"], x_held) and seen["steps"] == 7
    assert torch.allclose(seen["validation"][0], density.to_states(y_held, x_held))
    assert (states - density.to_states(y, x)).abs().mean() < 0.1  # but for the pair itself


# Simulations


@pytest.mark.parametrize("batched", [True, False])
def test_a_simulator_may_change_its_parameters_in_place(batched: bool) -> None:
    def clean(theta: Tensor) -> Tensor:
        return 2 * theta + 1

    def changing(theta: Tensor) -> Tensor:
        return theta.mul_(2).add_(1)

    def of_numpy(theta: Tensor) -> Any:
        return torch.as_tensor(theta).numpy().__imul__(2).__iadd__(1)

    want = draw_pairs(BOX, clean, 20, batched=batched, seed=0, progress=False)
    for simulator in (changing, of_numpy):
        found = draw_pairs(BOX, simulator, 20, batched=batched, seed=0, progress=False)
        assert torch.equal(found.theta, want.theta) and torch.equal(found.x, want.x)


def test_failed_simulations_are_left_out_and_counted() -> None:
    def half(theta: Tensor) -> Tensor:
        return torch.where(theta[:, :1] > 0, theta, math.nan)

    with pytest.warns(UserWarning, match=r"of 100 simulations have NaN or infinite data and are left out"):
        pairs = draw_pairs(NORMAL, half, 100, seed=0)
    assert 20 < pairs.lost < 80 and len(pairs.theta) == len(pairs.x) == 100 - pairs.lost
    assert (pairs.theta[:, 0] > 0).all() and torch.equal(pairs.theta, pairs.x)


def test_one_number_that_is_not_finite_is_a_simulation_that_failed_and_rounds_add_up() -> None:
    theta, x = torch.arange(10.0).reshape(5, 2), torch.ones(5, 2, 3)
    x[1, 0, 2], x[3, 1, 1] = math.nan, math.inf
    with pytest.warns(UserWarning, match="2 of 5 simulations"):
        first = Pairs.of(theta, x)
    assert torch.equal(first.theta, theta[::2]) and first.x.isfinite().all() and first.lost == 2
    both = first.plus(Pairs(theta[1:2], x[:1] + 1, lost=3))
    assert both.theta.tolist() == [[0, 1], [4, 5], [8, 9], [2, 3]] and both.x[:, 0, 0].tolist() == [1, 1, 1, 2]
    assert both.lost == 5


def test_simulations_one_by_one_are_counted_in_a_bar_that_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    draw_pairs(BOX, lambda one: one.sum()[None], 5, batched=False, seed=3, progress=True)
    assert re.search(r"simulations: 100%.* 5/5 ", capsys.readouterr().err)


def test_a_seed_gives_the_same_simulations_of_any_source_and_leaves_it_as_it_was() -> None:
    import numpy as np

    def simulate(theta: Tensor) -> Any:
        return theta.numpy() + np.random.standard_normal(theta.shape)  # noqa: NPY002

    before = torch.get_rng_state()
    first, second = (draw_pairs(BOX, simulate, 5, seed=3) for _ in range(2))
    assert torch.equal(first.x, second.x) and torch.equal(before, torch.get_rng_state())
    other = draw_pairs(BOX, simulate, 5, seed=4)
    assert not torch.allclose(other.x - other.theta, first.x - first.theta)  # of another seed is other noise
    assert torch.equal(
        draw_pairs(BOX, lambda one: one.sum()[None], 5, batched=False, seed=3).x, first.theta.sum(1, keepdim=True)
    )


bad = Refusals()
bad(
    "a simulator of nothing but NaN",
    ValueError,
    lambda w: draw_pairs(NORMAL, lambda theta: theta / 0 * 0, 5),
    r"all of 5 rows",
    "look at",
)
bad(
    "one datum for all",
    ValueError,
    lambda w: draw_pairs(NORMAL, lambda theta: theta[0], 5),
    r"x has shape \(2,\) for 5",
    "batched=False",
)
bad("a simulator of complex numbers", TypeError, lambda w: draw_pairs(NORMAL, lambda theta: theta + 0j, 5), "complex")
bad("a simulator of words", TypeError, lambda w: draw_pairs(NORMAL, lambda theta: ["a"], 5), "simulator returned list")
bad("a prior of numbers", ValueError, lambda w: draw_pairs(D.Normal(0.0, 1.0), noisy, 5), r"shape \(5,\)", "vectors")
bad(
    "a prior of whole numbers",
    TypeError,
    lambda w: quick(D.Poisson(TWO), Pairs(TWO.expand(9, 2), TWO.expand(9, 2))),
    "whole numbers",
)
bad("a prior without density", TypeError, lambda w: quick(Sampled(), w), "log_prob")
bad(
    "parameters out of the prior",
    ValueError,
    lambda w: quick(BOX, (w.theta - 1, w.x)),
    r"pairs has \d+ of 50 parameters",
    "drawn from the prior",
)
bad(
    "validation out of the prior",
    ValueError,
    lambda w: quick(BOX, w, validation=(w.theta + 9, w.x)),
    "validation has 50 of 50",
)
bad("three tensors more", ValueError, lambda w: quick(BOX, (w.theta, w.x, 0, 0)), "has 4 parts")
bad(
    "images without a network",
    ValueError,
    lambda w: fit_posterior(BOX, (w.theta, w.x[..., None]), steps=1),
    r"\(50, 2, 1\)",
    "network",
)
bad(
    "a constant parameter",
    ValueError,
    lambda w: quick(NORMAL, (w.theta * torch.tensor([1.0, 0.0]), w.x)),
    "same in all pairs",
)
bad("two conditions", ValueError, lambda w: ConditionalDensity(two_conditions()), "conditions a, b", "Conditioned")
bad(
    "one datum in a row",
    ValueError,
    lambda w: POSTERIOR.sample(5, torch.zeros(1, 2)),
    r"x has shape \(1, 2\)",
    "sample_each and log_prob_each, .* same parameters ComposedPosterior",
)
bad(
    "the prior where pairs are",
    TypeError,
    lambda w: fit_posterior((w.theta, w.x), BOX, steps=1),
    "pairs is a Uniform",
    "what draw_pairs returned",
)
bad("another datum", ValueError, lambda w: POSTERIOR.sample(5, torch.zeros(3)), r"x has shape")
bad("a datum for each", ValueError, lambda w: POSTERIOR.sample(5, torch.zeros(5, 2)), r"x has shape")
bad("a datum that is NaN", ValueError, lambda w: POSTERIOR.sample(5, torch.tensor([0.0, math.nan])), "x .*NaN")
bad(
    "other parameters",
    ValueError,
    lambda w: POSTERIOR.log_prob(torch.zeros(4, 3), torch.zeros(2)),
    r"y has shape \(4, 3\)",
)
bad(
    "parameters for another number of data",
    ValueError,
    lambda w: POSTERIOR.log_prob_each(torch.zeros(4, 3, 2), torch.zeros(5, 2)),
    r"y has shape \(4, 3, 2\) for 5 x",
    "n for each",
)
bad("no draws", ValueError, lambda w: POSTERIOR.sample(0, torch.zeros(2)), "n = 0")
bad(
    "draws of NumPy",
    TypeError,
    lambda w: draw_pairs(OfNumPy(), noisy, 5),
    "OfNumPy.sample returned an ndarray",
    "one tensor",
)
bad("ranks of a law that has none", TypeError, lambda w: NormalRanks(D.Beta(TWO, TWO)), "distribution function")


class OfNumPy:
    """A prior whose draws are arrays."""

    def sample(self, n: int, generator: Any = None) -> Any:
        return torch.randn(n, 2).numpy()


class Sampled:
    """A prior without a density."""

    def sample(self, n: int, generator: Any = None) -> Tensor:
        return torch.randn(n, 2)


def two_conditions() -> sdegen.Model:
    return sdegen.Model(
        nets.MLP(2, width=8, depth=1, conditions={"a": nets.Vector(2), "b": nets.Vector(2)}), sdegen.VP()
    )


POSTERIOR = AmortisedPosterior(
    sdegen.Model(small(), sdegen.VP()),
    BOX,
    free_coordinates(BOX),
    LinearGuess.of(torch.randn(50, 2), torch.randn(50, 2))[0],
)
POSTERIOR.model.moments = sdegen.Moments(torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize(("batched", "note"), [(True, r"\(20, 2\): batched=False"), (False, r"theta = \[.*return NaN")])
def test_what_a_simulator_raises_has_a_note_of_what_can_be_done(batched: bool, note: str) -> None:
    def diverges(theta: Tensor) -> Tensor:
        raise ArithmeticError("no solution")

    with pytest.raises(ArithmeticError, match=r"^no solution") as raised:
        draw_pairs(BOX, diverges, 20, batched=batched, seed=0)
    assert re.search(note, "".join(raised.value.__notes__))


@pytest.mark.parametrize(("call", "error", "says"), bad.rows)
def test_what_is_none_is_refused_in_a_sentence(call: Any, error: type[Exception], says: tuple[str, ...]) -> None:
    check_refusal(draw_pairs(BOX, noisy, 50, seed=0), call, error, says)


ROWS = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
DOMAINS: dict[str, tuple[D.Distribution, float]] = {
    "simplex": (D.Dirichlet(torch.ones(3)), 0.5),
    "larger simplex": (D.Dirichlet(2 * torch.ones(4)), 1 / 6),
    "mixture in a box": (
        D.MixtureSameFamily(D.Categorical(torch.ones(2)), D.Independent(D.Beta(ROWS, ROWS.flip(0)), 1)),
        1.0,
    ),
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_densities_of_draws_in_any_domain_integrate_over_it(domain: str) -> None:
    """``E_q[1 / q] = |domain|`` whatever the network: densities are those that the draws have."""
    prior, volume = DOMAINS[domain]
    coordinates = free_coordinates(prior)
    d = coordinates(prior.sample((1,))).shape[1]
    torch.manual_seed(0)
    model = sdegen.Model(nets.MLP(d, width=4, depth=1, conditions={"seen": nets.Vector(1)}), sdegen.VP())
    model.moments = sdegen.Moments(torch.zeros(d), torch.ones(d))
    guess = LinearGuess(torch.zeros(1), torch.ones(1), torch.zeros(d, 1), torch.zeros(d), 1.3 * torch.eye(d))
    posterior = AmortisedPosterior(model, prior, coordinates, guess)
    theta = posterior.sample(200, torch.zeros(1), seed=0, steps=40)
    weights = (-posterior.log_prob(theta, torch.zeros(1))).exp()
    assert abs(weights.mean() - volume) < 5 * weights.std() / 200**0.5 + 0.05 * volume
    with pytest.raises(ValueError, match=rf"y has shape \(5, 9\); give a tensor of shape \(\*, {theta.shape[1]}\)"):
        posterior.log_prob(torch.rand(5, 9), torch.zeros(1))


def test_no_observation_at_all_is_told_of_as_such() -> None:
    seen = measurements.Linear(torch.tensor([[1.0, 0.0]]), std=0.5)
    posterior = ConditionalDensity(PiGDM(sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), seen))
    for call in (posterior.sample_each, lambda n, x: posterior.log_prob_each(torch.zeros(0, n, 2), x)):
        with pytest.raises(ValueError, match=r"^x has shape \(0, 1\); give one row at least\.$"):
            call(3, torch.zeros(0, 1))


@pytest.mark.parametrize("components", [2, 5])
def test_a_mixture_has_the_coordinates_of_its_components(components: int) -> None:
    weights, means = D.Categorical(torch.ones(components)), torch.linspace(-1, 1, 2 * components).reshape(-1, 2)
    of_numbers = D.MixtureSameFamily(D.Categorical(torch.ones(2, components)), D.Normal(means.T, 1.0))
    for law in (
        D.MixtureSameFamily(weights, D.MultivariateNormal(means, torch.eye(2))),
        D.MixtureSameFamily(weights, D.Independent(D.Laplace(means, 1.0), 1)),
        D.Independent(of_numbers, 1),
    ):
        assert free_coordinates(law) is None
    positive = D.MixtureSameFamily(weights, D.Independent(D.LogNormal(means, 1.0), 1))
    assert torch.allclose(free_coordinates(positive).inverse(torch.zeros(1, 2)), torch.ones(1, 2))
    boxes = D.MixtureSameFamily(weights, D.Independent(D.Uniform(means, means + 1), 1))
    with pytest.raises(TypeError, match="mixes laws with bounds of their own"):
        free_coordinates(boxes)
    with pytest.raises(TypeError, match="mixes laws with bounds of their own"):
        fit_posterior(boxes, (means, means), steps=1)


def test_a_guess_keeps_numbers_and_no_derivatives() -> None:
    given = [torch.ones(2), torch.ones(2), torch.ones(1, 2), torch.ones(1), torch.eye(1)]
    guess = LinearGuess(*(v.requires_grad_() for v in given))
    kept = (guess.mean, guess.std, guess.A, guess.b, guess.L)
    assert all(v.dtype == torch.float64 and not v.requires_grad for v in kept)
    assert all(torch.equal(v, w.double()) for v, w in zip(kept, given, strict=True))
