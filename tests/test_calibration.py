"""Calibration against closed forms: of a Gaussian prior and likelihood whose posterior is known, and made wrong by a known
amount."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdegen import metrics
from sdegen.metrics import crps, effective_share, find_coverage, find_local_error, find_ranks, find_tarp_coverage
from sdegen.metrics.posteriors import find_places

NORMAL = torch.distributions.Normal(0.0, 1.0)
DRAWS = 40


class Gaussian:
    """The posterior of ``theta ~ N(0, 1)`` from ``x ~ N(theta, 1)`` in each of two coordinates, with a factor on its standard
    deviation, a shift by so many of these, and a correlation.
    """

    def __init__(self, factor: float = 1.0, shift: float = 0.0, correlation: float = 0.0, gain: float = 0.5) -> None:
        std = math.sqrt(0.5)
        self.root = (
            factor * std * torch.linalg.cholesky(torch.tensor([[1.0, correlation], [correlation, 1.0]]).double())
        )
        self.gain, self.offset = gain, shift * std
        self.inverse = self.root.inverse()

    def sample(self, n: int, x: Tensor) -> Tensor:
        return self.gain * x + self.offset + torch.randn(n, 2, dtype=torch.float64) @ self.root.T

    def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
        return -0.5 * ((theta - self.gain * x - self.offset) @ self.inverse.T).square().sum(1)  # up to a constant


PRIOR = Gaussian(math.sqrt(2), gain=0.0)  # of no use, and calibrated on average


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    theta = torch.randn(1000, 2, dtype=torch.float64)
    return theta, theta + torch.randn(1000, 2, dtype=torch.float64)


def near(found: metrics.Estimate, truth: float) -> bool:
    return abs(found.value - truth) < 4 * found.stderr


def test_the_exact_posterior_is_calibrated(pairs: tuple[Tensor, Tensor]) -> None:
    ranks = find_ranks(Gaussian(), *pairs, DRAWS)
    assert all(near(e, 0.0) for e in [*ranks.bias, *ranks.width]) and (ranks.p_values > 1e-3).all()
    for find in (find_coverage, find_tarp_coverage):
        coverage = find(Gaussian(), *pairs, DRAWS)
        assert near(coverage.excess, 0.0) and coverage.p_value > 1e-3
        assert all(near(coverage.at(level), level) for level in (0.1, 0.5, 0.9))


@pytest.mark.parametrize("shift", [-1.0, 0.5])
def test_a_shift_shows_in_the_ranks(pairs: tuple[Tensor, Tensor], shift: float) -> None:
    """A draw is below the truth with probability Φ(−shift / √2)."""
    below = NORMAL.cdf(torch.tensor(-shift / math.sqrt(2))).item()
    for bias in find_ranks(Gaussian(shift=shift), *pairs, DRAWS).bias:
        assert near(bias, (DRAWS * below + 0.5) / (DRAWS + 1) - 0.5)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_width_shows_in_ranks_and_coverage(pairs: tuple[Tensor, Tensor], factor: float) -> None:
    """In two dimensions the region of level `p` reaches to the radius with ``exp(−r² / 2 factor²) = 1 − p``, and holds
    ``1 − (1 − p)^(factor²)``; the number of draws rounds levels to 1 / 41.
    """
    ranks, coverage = find_ranks(Gaussian(factor), *pairs, DRAWS), find_coverage(Gaussian(factor), *pairs, 200)
    assert all((w.value > 0) == (factor < 1) and abs(w.value) > 5 * w.stderr for w in ranks.width)
    for level in (0.2, 0.5, 0.8):
        found = coverage.at(level)
        assert abs(found.value - (1 - (1 - level) ** factor**2)) < 4 * found.stderr + 0.01
    assert abs(coverage.excess.value - (0.5 - 1 / (1 + factor**2))) < 4 * coverage.excess.stderr + 0.005
    assert coverage.p_value < 1e-6 and find_tarp_coverage(Gaussian(factor), *pairs, DRAWS).p_value < 1e-6


def test_what_passes_the_ranks_may_fail_others(pairs: tuple[Tensor, Tensor]) -> None:
    """Ranks of single coordinates see no correlation; coverage by density does, and random points do."""
    wrong = Gaussian(correlation=0.9)
    assert (find_ranks(wrong, *pairs, DRAWS).p_values > 1e-3).all()
    assert find_coverage(wrong, *pairs, DRAWS).p_value < 1e-3


def test_the_prior_passes_all_but_points_that_know_the_data(pairs: tuple[Tensor, Tensor]) -> None:
    theta, x = pairs
    assert find_coverage(PRIOR, theta, x, DRAWS).p_value > 1e-3
    assert find_tarp_coverage(PRIOR, theta, x, DRAWS).p_value > 1e-3
    assert find_tarp_coverage(PRIOR, theta, x, DRAWS, references=x).p_value < 1e-3
    assert find_tarp_coverage(Gaussian(), theta, x, DRAWS, references=x).p_value > 1e-3


def test_places_of_equal_numbers_are_uniform() -> None:
    """Whole numbers, of which many tie: a posterior that is exact stays calibrated."""

    class Coins:
        def sample(self, n: int, x: Tensor) -> Tensor:
            return (torch.rand(n, 1) < 0.3).double()

    theta = (torch.rand(2000, 1) < 0.3).double()
    assert find_ranks(Coins(), theta, theta, 10).p_values > 1e-3


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.6, 0.0), (1.0, 0.7)])
def test_the_local_test_sees_errors_at_the_observation(
    pairs: tuple[Tensor, Tensor], factor: float, shift: float
) -> None:
    torch.manual_seed(1)
    wrong = (factor, shift) != (1.0, 0.0)
    found = find_local_error(Gaussian(factor, shift), *pairs, torch.ones(2).double(), shuffles=19)
    assert (found.p_value <= 0.05) == wrong
    assert not wrong or found.error.value > 0.01


def test_the_quadratic_classifier_is_that_of_bayes() -> None:
    x, y = torch.randn(20_000, 1).double(), 1 + 0.5 * torch.randn(20_000, 1).double()
    classifier = metrics.QuadraticClassifier(1e-8).fit(torch.cat([y, x]), torch.arange(40_000) < 20_000)
    at = torch.linspace(-1.0, 2.0, 7).double()
    ratio = torch.distributions.Normal(1.0, 0.5).log_prob(at) - NORMAL.log_prob(at)
    assert (classifier.predict(at[:, None]) - ratio.sigmoid()).abs().max() < 0.03


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 0.5), (-0.5, 2.0)])
def test_crps_of_gaussians(mean: float, std: float) -> None:
    """Of a Gaussian: ``std (z (2 Φ(z) − 1) + 2 φ(z) − 1 / √π)`` at ``z = (y − mean) / std``; three draws are as right as many."""
    y = torch.randn(4000).double()
    z = (y - mean) / std
    truth = std * (z * (2 * NORMAL.cdf(z) - 1) + 2 * NORMAL.log_prob(z).exp() - 1 / math.sqrt(math.pi))
    for n in (3, 200):
        found = crps(mean + std * torch.randn(n, 4000).double(), y)
        assert near(metrics.Estimate(found.value - truth.mean().item(), found.stderr), 0.0)


def test_effective_share_of_normal_weights() -> None:
    """Log-normal weights of log-variance v have ``(E w)² / E w² = exp(−v)``; the error is that seen over seeds."""
    found = [effective_share(0.7 * torch.randn(5000).double() + 100) for _ in range(400)]
    values = torch.tensor([e.value for e in found])
    assert near(metrics.Estimate.of(values), math.exp(-0.49))
    assert 0.88 < sum(e.stderr for e in found) / len(found) / values.std().item() < 1.12
    assert effective_share(torch.tensor([0.0, -math.inf])).value == 0.5


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_predictive_check_is_the_tail_of_the_statistic(scale: float) -> None:
    replicated = torch.randn(4000, 1).double()
    found = metrics.predictive_check(torch.tensor([scale]).double(), replicated, lambda x: x[:, 0])
    assert near(found, 1 - NORMAL.cdf(torch.tensor(scale)).item())
    assert (
        metrics.predictive_check(torch.ones(1), torch.tensor([[0.0], [1.0], [1.0], [2.0]]), lambda x: x[:, 0]).value
        == 0.5
    )


def test_the_error_of_a_tail_that_no_replication_reaches_is_that_of_laplaces_rule() -> None:
    """Of eight that are all on one side the next one is on the other with probability 1 / 10."""
    for size, share in ((-1.0, 1.0), (1.0, 0.0)):
        found = metrics.predictive_check(torch.full((1,), size), torch.zeros(8, 1), lambda x: x[:, 0])
        assert found.value == share and found.stderr == pytest.approx(math.sqrt(0.1 * 0.9 / 8))


class Wrong(Gaussian):
    def __init__(self, drawn: Tensor) -> None:
        super().__init__()
        self.drawn = drawn

    def sample(self, n: int, x: Tensor) -> Tensor:
        return self.drawn


def test_one_seed_draws_points_apart_from_the_parameters() -> None:
    """Parameters drawn with the seed that the metric is given too: its points do not follow them."""
    torch.manual_seed(3)
    theta = torch.rand(1000, 2).double()
    prior = type("Prior", (), {"sample": lambda self, n, x: torch.rand(n, 2).double()})()
    assert find_tarp_coverage(prior, theta, theta, DRAWS, seed=3).p_value > 1e-3


def test_random_points_know_neither_the_units_of_parameters_nor_their_zero() -> None:
    factor, offset = torch.tensor([1.0, 1e3]).double(), torch.tensor([5.0, -2e4]).double()

    class Moved(Gaussian):
        def sample(self, n: int, x: Tensor) -> Tensor:
            return factor * super().sample(n, x) + offset

    theta, x = torch.randn(2, 40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    places = []
    for posterior, moved in ((Gaussian(), theta), (Moved(), factor * theta + offset)):
        torch.manual_seed(5)
        places.append(find_tarp_coverage(posterior, moved, x, DRAWS, seed=0).places)
    torch.testing.assert_close(*places)


@pytest.mark.parametrize("where", [(0,), (2,), (1, 3), (0, 1, 4)])
def test_coordinates_that_never_vary_such_as_pixels_of_a_border_change_no_ball(where: tuple[int, ...]) -> None:
    theta, x = torch.randn(2, 30, 2, generator=torch.Generator().manual_seed(len(where)), dtype=torch.float64)
    free = [i for i in range(2 + len(where)) if i not in where]

    def bordered(rows: torch.Tensor) -> torch.Tensor:
        whole = torch.full((len(rows), 2 + len(where)), 0.1, dtype=rows.dtype)
        whole[:, free] = rows
        return whole

    class Bordered(Gaussian):
        def sample(self, n: int, x: Tensor) -> Tensor:
            return bordered(super().sample(n, x))

    found = []
    for posterior, show in ((Gaussian(), lambda rows: rows), (Bordered(), bordered)):
        torch.manual_seed(0)
        found.append(find_tarp_coverage(posterior, show(theta), x, 20, references=show(x), seed=0).places)
    assert torch.equal(*found)
    with pytest.raises(ValueError, match="the same in all pairs and not in all draws, or none varies"):
        find_tarp_coverage(Gaussian(), torch.zeros_like(theta), x, 20, seed=0)


@pytest.mark.parametrize("find", [find_ranks, find_coverage, find_tarp_coverage])
@pytest.mark.parametrize(
    "drawn", [torch.zeros(DRAWS, 3), torch.zeros(3, 2), torch.full((DRAWS, 2), math.nan), None, torch.tensor(1.0)]
)
def test_wrong_draws_are_refused_in_a_sentence(find, drawn) -> None:
    with pytest.raises((TypeError, ValueError), match=r"posterior"):
        find(Wrong(drawn), torch.randn(3, 2), torch.randn(3, 2), DRAWS)


def test_a_posterior_of_many_observations_is_asked_once(pairs: tuple[Tensor, Tensor]) -> None:
    class Batched(Gaussian):
        def sample_each(self, n: int, x: Tensor) -> Tensor:
            return torch.stack([Gaussian.sample(self, n, own) for own in x])

        def sample(self, n: int, x: Tensor) -> Tensor:
            raise AssertionError

    found = []
    for posterior in (Gaussian(), Batched()):
        torch.manual_seed(5)
        found.append(find_tarp_coverage(posterior, *pairs, DRAWS, seed=0))
    assert torch.equal(found[0].places, found[1].places)


def test_a_density_given_many_observations_is_asked_once(pairs: tuple[Tensor, Tensor]) -> None:
    class Batched(Gaussian):
        def log_prob_each(self, theta: Tensor, x: Tensor) -> Tensor:
            return torch.stack([Gaussian.log_prob(self, own, at) for own, at in zip(theta, x, strict=True)])

        def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
            raise AssertionError

    found = []
    for posterior in (Gaussian(), Batched()):
        torch.manual_seed(5)
        found.append(find_coverage(posterior, *pairs, DRAWS, seed=0))
    assert torch.equal(found[0].places, found[1].places)
    short = type("Short", (Gaussian,), {"log_prob_each": lambda self, theta, x: torch.zeros(len(x))})
    with pytest.raises(ValueError, match=r"log_prob_each gives shape \(\d+,\); it must return"):
        find_coverage(short(), *pairs, DRAWS, seed=0)


@pytest.mark.parametrize("find", [find_ranks, find_coverage, find_tarp_coverage])
def test_pairs_that_do_not_fit_are_refused(find) -> None:
    with pytest.raises(ValueError, match="give pairs"):
        find(Gaussian(), torch.randn(3, 2), torch.randn(4, 2), DRAWS)


@pytest.mark.parametrize(("K", "draws"), [(2, 15), (5, 15), (10, 15), (2, 1)])
def test_points_do_not_tell_the_true_parameters_from_draws(K: int, draws: int) -> None:
    """Few pairs of many parameters: points in a box of the true ones alone would lie nearer to these."""

    class Exact:
        def sample_each(self, n: int, x: Tensor) -> Tensor:
            return 0.5 * x[:, None] + 0.5**0.5 * torch.randn(len(x), n, x.shape[1])

        def sample(self, n: int, x: Tensor) -> Tensor:
            return self.sample_each(n, x[None])[0]

    torch.manual_seed(0)
    places = []
    for _ in range(600 // K):
        theta = torch.randn(K, 5)
        places.append(find_tarp_coverage(Exact(), theta, theta + torch.randn(K, 5), draws).places)
    found = metrics.Estimate.of(torch.cat(places))
    assert abs(found.value - 0.5) < 4 * found.stderr


def test_parameters_that_are_numbers_are_vectors_of_one() -> None:
    class Laws(Gaussian):
        def sample(self, n: int, x: Tensor) -> Tensor:
            return 0.5 * x + torch.linspace(-2, 2, n).reshape(-1, *[1] * x.ndim)

        def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
            return -((theta - 0.5 * x).square().reshape(-1))

    theta, x = torch.randn(2, 30, 1, generator=torch.Generator().manual_seed(0))
    for find in (find_ranks, find_coverage, find_tarp_coverage):
        one, other = (find(Laws(), *v, 9, seed=0).places for v in ((theta, x), (theta[:, 0], x[:, 0])))
        assert torch.equal(one, other)
    one, other = (
        find_local_error(Laws(), *v, v[1][0], 9, shuffles=3, seed=0) for v in ((theta, x), (theta[:, 0], x[:, 0]))
    )
    assert one[:2] == other[:2] and torch.equal(one.shuffled, other.shuffled)


def test_points_and_answers_that_are_none_are_refused() -> None:
    theta, x = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0))

    class Says(Gaussian):
        def __init__(self, density: object = None) -> None:
            super().__init__()
            self.density = density

        def sample(self, n: int, x: Tensor) -> Tensor:
            return torch.zeros(n, 2 if x[0] == 0 else 3)

        def log_prob(self, theta: Tensor, x: Tensor) -> object:
            return self.density

    with pytest.raises(ValueError, match="references holds NaN"):
        find_tarp_coverage(Gaussian(), theta, x, DRAWS, references=theta * math.nan)
    with pytest.raises(ValueError, match="parameters of one shape"):
        find_ranks(Says(), theta, torch.tensor([[0.0], [1.0], [0.0], [1.0]]), DRAWS)
    for density, error in ((None, TypeError), (torch.zeros(DRAWS + 1, 1), ValueError), (torch.tensor(0.0), ValueError)):
        with pytest.raises(error, match=r"posterior.log_prob"):
            find_coverage(Says(density), theta, torch.zeros(4, 2), DRAWS)


def test_a_place_is_uniform_between_those_below_and_those_equal() -> None:
    drawn, true = (
        torch.tensor([[[1.0], [2.0], [2.0], [3.0]]]).repeat(2000, 1, 1),
        torch.tensor([[[2.0]]]).repeat(2000, 1, 1),
    )
    places = find_places(drawn, true, seed=0)
    assert 0.2 < places.min() < 0.21 and 0.79 < places.max() < 0.8  # one of four below, two equal
    assert abs(places.mean() - 0.5) < 4 * (0.6**2 / 12 / 2000) ** 0.5


def test_one_draw_is_enough_for_uniform_places() -> None:
    torch.manual_seed(0)
    theta = torch.randn(500, 2, dtype=torch.float64)
    found = find_ranks(Gaussian(), theta, theta + torch.randn(500, 2, dtype=torch.float64), 1, seed=0)
    assert (found.p_values > 1e-3).all()


def test_bias_and_width_of_places_that_are_known() -> None:
    ends, middle, low = (
        metrics.Ranks(torch.tensor(v)[:, None].repeat(20, 1)) for v in ([0.0, 1.0], [0.5, 0.5], [0.2, 0.4])
    )
    assert [found.width[0].value for found in (ends, middle)] == [2.0, -1.0]
    assert [found.bias[0].value for found in (ends, middle)] == [0.0, 0.0] and abs(low.bias[0].value + 0.2) < 1e-6
    levels = metrics.Coverage(torch.tensor([0.1, 0.3, 0.3, 0.9]))
    assert [levels.at(level).value for level in (0.05, 0.2, 0.5, 0.95)] == [0.0, 0.25, 0.75, 1.0]
    assert abs(levels.excess.value - 0.1) < 1e-6


def test_places_of_one_pair_have_a_p_value_and_no_errors() -> None:
    ranks, coverage = metrics.Ranks(torch.tensor([[0.25, 0.9]])), metrics.Coverage(torch.tensor([0.9]))
    assert torch.allclose(
        ranks.p_values, torch.tensor([0.5, 0.2], dtype=torch.float64)
    )  # twice the shorter way to an end is
    assert coverage.at(0.95).value == 1.0  # less likely by chance
    assert str(ranks) == "0: p = 0.5, of one pair\n1: p = 0.2, of one pair" and str(coverage) == "p = 0.2, of one pair"
    for ask in (lambda: ranks.bias, lambda: ranks.width, lambda: coverage.excess):
        with pytest.raises(ValueError, match="1 simulated pairs; their spread"):
            ask()
    ranks, coverage = metrics.Ranks(torch.zeros(0, 2)), metrics.Coverage(torch.zeros(0))
    for ask in (lambda: ranks.p_values, lambda: coverage.p_value, lambda: coverage.at(0.5), lambda: str(coverage)):
        with pytest.raises(ValueError, match="0 simulated pairs; give one at least"):
            ask()


def test_the_least_p_value_is_one_over_the_classifiers(pairs: tuple[Tensor, Tensor]) -> None:
    """Of which one is that of the labels as they are; a classifier that sees nothing has the greatest."""

    class Blind:
        def fit(self, points: Tensor, labels: Tensor) -> None: ...

        def predict(self, points: Tensor) -> Tensor:
            return torch.full((len(points),), 0.5)

    theta, x = pairs[0][:300], pairs[1][:300]
    assert find_local_error(Gaussian(0.3), theta, x, x[0], 50, shuffles=9, seed=0).p_value == 0.1
    assert find_local_error(Gaussian(), theta, x, x[0], 50, classifier=Blind(), shuffles=9, seed=0).p_value == 1.0


def test_the_local_test_trains_on_pairs_against_draws_given_the_same_data(pairs: tuple[Tensor, Tensor]) -> None:
    """And its error is the mean square of the probability less one half, where it is asked."""
    theta, x, first = pairs[0][:30], pairs[1][:30], []

    class Told:
        def fit(self, points: Tensor, labels: Tensor) -> None:
            first.append((points[labels], points[~labels]))

        def predict(self, points: Tensor) -> Tensor:
            assert (points[:, 2:] == 1).all()  # the observation
            return torch.full((len(points),), 0.8).double()

    found = find_local_error(Gaussian(), theta, x, torch.ones(2).double(), 50, classifier=Told(), shuffles=2, seed=0)
    true, drawn = first[0]
    assert torch.equal(true, torch.cat([theta, x], 1)) and torch.equal(drawn[:, 2:], x)
    assert found.error.value == pytest.approx(0.3**2)


@pytest.mark.parametrize(("n", "K"), [(2, 2), (2, 5), (5, 2)])
def test_crps_is_a_mean_over_pairs_of_two_draws_and_two_numbers_at_least(n: int, K: int) -> None:
    z, y = torch.randn(n, K).double(), torch.randn(K).double()
    apart = (z[:, None] - z).abs().sum((0, 1)) / (2 * n * (n - 1))
    found, each = crps(z, y), (z - y).abs().mean(0) - apart
    torch.testing.assert_close(torch.tensor(found.value).double(), each.mean())
    for draws, observed in ((z[:1], y), (z[:, :1], y[:1]), (z, y[:-1]), (z[0], y), (z, z)):
        with pytest.raises(ValueError, match=r"^draws has shape .* at least 2\.$"):
            crps(draws, observed)
    for draws, observed in ((z / 0, y), (z, y / 0)):
        with pytest.raises(ValueError, match=r"finite"):
            crps(draws, observed)


def test_parameters_beyond_a_posterior_have_no_density_and_are_no_fault() -> None:
    class Within:
        """Uniform on the square of side 2 around the observation."""

        def sample(self, n: int, x: Tensor) -> Tensor:
            return x + 2 * torch.rand(n, 2, dtype=torch.float64) - 1

        def log_prob(self, theta: Tensor, x: Tensor) -> Tensor:
            return torch.where(((theta - x).abs() < 1).all(1), -math.log(4), -math.inf)

    theta, x = torch.randn(60, 2).double(), torch.randn(60, 2).double()
    places = find_coverage(Within(), theta, x, 20).places
    outside = ((theta - x).abs() >= 1).any(1)
    assert outside.any() and (places[outside] > 0.95).all() and (places[~outside] < 0.95).any()
