"""The error budget: each term against a closed form on Gaussian data, and causes made to dominate on mixtures."""

from __future__ import annotations

import math
from typing import Any

import pytest
import scipy.integrate
import torch
from torch import Tensor

import sdegen
from sdegen import diagnose, samplers
from sdegen.diagnose import Term, resample_places
from sdegen.metrics.estimate import Estimate
from sdegen.processes.grids import Angle
from sdegen.testing import affine_moments

RING = sdegen.data.gaussian_ring()
V = 0.25
NORMAL = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.full((1,), V))


class Scaled(sdegen.ScoreModel):
    """A score that is off by a factor."""

    def __init__(self, model: Any, factor: float) -> None:
        self.model, self.factor, self.sde, self.moments = model, factor, model.sde, model.moments

    def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        return self.factor * self.model.score(x, t, **cond)


def near(found: sdegen.metrics.Estimate, truth: float) -> bool:
    """Within four standard errors, and a part in a hundred for what blocks of samples do to a root."""
    return abs(found.value - truth) < 4 * found.stderr + 0.01 * abs(truth) + 1e-5


# --- closed forms on N(0, V) --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_truth_has_no_error() -> None:
    budget = diagnose(
        sdegen.Exact(sdegen.VP(), NORMAL), NORMAL, samplers.default(sdegen.Exact(sdegen.VP(), NORMAL), 40)
    )
    for name, term in budget.terms.items():
        assert term.w2.value < 3e-3, name
        assert term.nats is None or abs(term.nats.value) < 1e-4
    assert budget.total.value < 2 * budget.floor.value
    assert "smaller than the distance between two such sets of data" in str(budget)


@pytest.mark.slow
def test_the_prior_costs_its_divergence_and_widens_what_the_flow_makes_of_it() -> None:
    sde, wrong = sdegen.OU(T=1.0), 3.0
    model = sdegen.Exact(sde, NORMAL)
    model.moments = sdegen.Moments(torch.zeros(2), wrong * torch.eye(2))
    at = sde.marginal(1.0)
    a2, s2 = at.Phi.matrix().item() ** 2, at.covariance.matrix().item()
    true, given = a2 * V + s2, a2 * wrong + s2
    term = diagnose(model, NORMAL, n=4096).terms["prior"]
    assert term.nats is not None and near(term.nats, true / given - 1 - math.log(true / given))
    assert near(term.w2, math.sqrt(V * given / true) - math.sqrt(V))


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD()], ids=lambda sde: type(sde).__name__)
@pytest.mark.slow
def test_truncation_is_what_the_posterior_mean_loses(sde: Any) -> None:
    end = 0.3
    model = sdegen.Exact(sde, NORMAL)
    term = diagnose(model, NORMAL, samplers.DDIM(20, Angle(end=end)), n=8192).terms["truncation"]
    snr = sde.snr(end).item()
    assert near(term.w2, math.sqrt(V) - math.sqrt(V * V / (V + 1 / snr)))
    ratio = V / (V + 1 / snr)
    assert term.nats is not None and near(term.nats, ratio - 1 - math.log(ratio))


@pytest.mark.parametrize("steps", [5, 10])
@pytest.mark.slow
def test_discretisation_is_what_the_sampler_does_to_the_variance(steps: int) -> None:
    model = sdegen.Exact(sdegen.VP(), NORMAL)
    sampler = samplers.DDIM(steps)
    made = affine_moments(sampler, model, denoise=True)[1][0, 0].item()
    end = sampler.times(model.sde, True)[-1].item()
    true = V * V / (V + 1 / model.sde.snr(end).item()) if end > 0 else V
    term = diagnose(model, NORMAL, sampler).terms["discretisation"]
    assert abs(math.sqrt(made) - math.sqrt(true)) > 0.005
    assert near(term.w2, abs(math.sqrt(made) - math.sqrt(true)))


@pytest.mark.slow
def test_a_score_off_by_a_factor_costs_its_error_along_the_path() -> None:
    sde, c = sdegen.VP(), 1.2
    model = Scaled(sdegen.Exact(sde, NORMAL), c)

    def coefficients(t: float) -> tuple[float, float, float]:
        at = sde.marginal(t)
        f, g = (operator(t).matrix().item() for operator in (sde.drift_operator, sde.diffusion_operator))
        return f, g**2, at.Phi.matrix().item() ** 2 * V + at.covariance.matrix().item()

    def cost(t: float) -> float:
        _, g2, q = coefficients(t)
        return 0.5 * (c - 1) ** 2 * g2 * 2 / q

    def growth(t: float) -> float:
        f, g2, q = coefficients(t)
        return f + 0.5 * c * g2 / q

    budget = diagnose(model, NORMAL, samplers.DDIM(400))
    term = budget.terms["score"]
    nats = scipy.integrate.quad(cost, 0, 1)[0]
    assert term.nats is not None and near(term.nats, nats)
    torch.testing.assert_close(budget.curve.sum().item(), term.nats.value)
    half = int(torch.searchsorted(budget.times, 0.2))
    early = scipy.integrate.quad(cost, 0, budget.times[half].item())[0]
    assert abs(budget.curve[:half].sum().item() / early - 1) < 0.1  # and at its time
    std = math.sqrt(coefficients(1.0)[2]) * math.exp(-scipy.integrate.quad(growth, 0, 1)[0])
    assert near(term.w2, abs(std - math.sqrt(V)))


def test_weights_draw_places_as_often_as_their_share() -> None:
    weights = torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=torch.float64)
    assert sorted(resample_places(weights.log()).tolist()) == [0, 0, 2, 3]
    many = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    counts = torch.bincount(resample_places(many.log()), minlength=1000)
    assert ((counts - 1000 * many / many.sum()).abs() < 1).all()


# --- causes on mixtures -------------------------------------------------------------------------------------------------

OTHER = sdegen.data.gaussian_ring(modes=7)
CASES = {
    "a short process": (sdegen.Exact(sdegen.OU(T=0.5), RING), None, "prior"),
    "grid that ends early": (sdegen.Exact(sdegen.VP(), RING), samplers.Multistep(40, Angle(end=0.4)), "truncation"),
    "few steps": (sdegen.Exact(sdegen.VP(), RING), samplers.DDIM(5), "discretisation"),
    "few steps with noise": (sdegen.Exact(sdegen.VP(), RING), samplers.Ancestral(8), "discretisation"),
    "few steps of a matrix process": (sdegen.Exact(sdegen.CLD(), RING), samplers.DDIM(5), "discretisation"),
    "a score too steep": (Scaled(sdegen.Exact(sdegen.VP(), RING), 1.5), samplers.DDIM(50), "score"),
    "the score of another law": (sdegen.Exact(sdegen.EDM(), OTHER), samplers.Heun(40), "score"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.turns(
    "few steps of a matrix process", "few steps with noise", "a short process", "the score of another law"
)
def test_the_cause_is_named(case: str) -> None:
    model, sampler, cause = CASES[case]
    budget = diagnose(model, RING, sampler, n=1024)
    assert budget.cause == cause
    assert budget.advice.startswith(f"Most of the error is due to the {cause}: ")
    others = [term.w2.value for name, term in budget.terms.items() if name != cause]
    assert budget.terms[cause].w2.value > 1.5 * max(others)


def budget_of(**terms: tuple[tuple[float, float], tuple[float, float] | None]) -> sdegen.Budget:
    """A budget of given terms, each a distance and nats, with their errors."""
    estimates = {k: Term(Estimate(*w2), nats and Estimate(*nats)) for k, (w2, nats) in terms.items()}
    return sdegen.Budget(estimates, Estimate(1.0, 0.1), Estimate(0.01, 0.001), torch.zeros(2), torch.zeros(1))


def test_of_distances_alike_within_their_errors_the_nats_decide() -> None:
    budget = budget_of(prior=((0.20, 0.02), (0.07, 0.01)), score=((0.18, 0.001), (0.66, 0.05)))
    assert budget.cause == "score"
    assert budget.advice.startswith("The score, as far off as the prior within the errors, comes first: ")
    assert "Most" not in budget.advice and "In nats" not in budget.advice


def test_advice_names_what_costs_more_nats_than_the_largest_distance() -> None:
    budget = budget_of(prior=((0.40, 0.02), (0.07, 0.01)), score=((0.18, 0.001), (0.66, 0.05)))
    assert budget.cause == "prior" and budget.advice.startswith("Most of the error is due to the prior: ")
    assert "In nats the score costs more: " in budget.advice
    alike = budget_of(prior=((0.40, 0.02), (0.07, 0.01)), score=((0.18, 0.001), (0.08, 0.05)))
    assert "In nats" not in alike.advice


def test_a_term_without_nats_is_ranked_by_its_distance() -> None:
    budget = budget_of(discretisation=((0.20, 0.02), None), score=((0.18, 0.001), (0.66, 0.05)))
    assert budget.cause == "discretisation"


@pytest.mark.slow
def test_the_distance_of_the_prior_does_not_hang_on_the_number_of_samples() -> None:
    """Weights of few samples draw modes in wrong shares, which would look like an error of the prior."""
    model = sdegen.Exact(sdegen.OU(T=0.7), RING)
    few, many = (diagnose(model, RING, n=n).terms["prior"].w2 for n in (2048, 8192))
    assert abs(few.value - many.value) < 3 * math.hypot(few.stderr, many.stderr) and many.value < 0.13


def test_a_finite_set_of_data_and_a_network(device: torch.device, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = RING.sample(200, torch.Generator().manual_seed(0))
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).to(device, dtype)
    sdegen.fit(model, x.to(device, dtype), steps=20, batch_size=64, seed=0, progress=False)
    budget = diagnose(model, x, n=512)
    assert budget.cause == "score" and budget.terms["truncation"].nats is None
    figure = budget.plot()
    left, right = figure.axes
    bars = [bar.get_height() for bar in left.patches]
    assert bars == [term.w2.value for term in budget.terms.values()] and len(bars) == 4
    assert list(left.lines[-1].get_ydata()) == [budget.floor.value] * 2
    assert right.patches[0].get_data().values.tolist() == budget.curve.tolist()  # type: ignore[attr-defined]
    places = [ax.get_subplotspec().get_position(figure) for ax in figure.axes]  # type: ignore[union-attr]
    # Side by side, of one size.
    assert places[0].x1 < places[1].x0 and places[0].size == pytest.approx(places[1].size)


def test_what_cannot_be_diagnosed_is_refused() -> None:
    with pytest.raises(TypeError, match="DoubleWell is not linear"):
        diagnose(sdegen.DirectModel(sdegen.nets.MLP(1, width=4), sdegen.DoubleWell()), RING)
    with pytest.raises(ValueError, match=r"n = 10; distances of 8 blocks need at least 64"):
        diagnose(sdegen.Exact(sdegen.VP(), RING), RING, n=10)
