"""Copies of data drawn given measurements that are not linear, and the turns that they make, against quadrature on a line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen.guidance import decoupled_annealing, split_gibbs
from sdegen.guidance.langevin import LangevinCopy
from sdegen.guidance.measurements import (
    BernoulliNoise,
    Linear,
    Measurement,
    Nonlinear,
    PoissonNoise,
    QuantisedNoise,
    StudentNoise,
)
from sdegen.laws.units import Units

ONE = sdegen.GaussianMixture(
    torch.tensor([0.6, 0.4]), torch.tensor([[-1.0], [1.2]], dtype=torch.float64), torch.tensor([0.3, 0.2])
)
EXACT = sdegen.Exact(sdegen.VP(), ONE)
LINE = torch.linspace(-6, 6, 1201, dtype=torch.float64)[:, None]
SEEN: dict[str, tuple[Measurement, float]] = {
    "size": (Nonlinear(torch.abs, 0.2), 1.1),
    "square": (Nonlinear(torch.square, 0.4), 1.3),
    "poisson": (Nonlinear(lambda x: 3 * x.exp(), PoissonNoise()), 7.0),
    "student": (Nonlinear(lambda x: x.sin(), StudentNoise(2.0, 0.1)), 0.7),
    "bernoulli": (Nonlinear(lambda x: 3 * x, BernoulliNoise()), 1.0),
    "quantised": (Nonlinear(lambda x: x, QuantisedNoise(1.0, 0.1)), 1.0),
}


def copies(model: Any, A: Measurement, y: Any, seed: int = 0) -> LangevinCopy:
    return LangevinCopy(model, A, torch.tensor(y), torch.Generator().manual_seed(seed), 10, None, {})


def likelihoods(name: str) -> Tensor:
    """The log-likelihoods of the line's points."""
    A, y = SEEN[name]
    return A.log_prob(torch.full_like(LINE, y), LINE)


def furthest(x: Tensor, weights: Tensor) -> float:
    """The largest difference of the distribution functions of draws and of the line's points."""
    at = LINE[::20, 0]
    return ((x < at + 0.005).double().mean(0) - weights.cumsum(0)[::20]).abs().max().item()


@pytest.mark.turns("*-0.3", "square*", "student*", "bernoulli*", "quantised*")
@pytest.mark.parametrize("level", [2.0, 0.3])
@pytest.mark.parametrize("name", SEEN)
def test_a_copy_has_the_law_of_quadrature(name: str, level: float) -> None:
    (A, y), x, n = SEEN[name], -0.4, 2000
    truth = (likelihoods(name) - 0.5 * ((LINE[:, 0] - x) / level).square()).softmax(0)
    drawn = copies(EXACT, A, [y])
    with torch.no_grad():
        for _ in range(3):  # one goes on from the other
            z = drawn.draw_copy(torch.full((n, 1), x, dtype=torch.float64), level)
    assert furthest(z, truth) < 1.95 / n**0.5  # that of Kolmogorov and Smirnov, once in a thousand


def test_a_copy_of_a_linear_map_is_an_exact_draw() -> None:
    """In units of another spread for each coordinate: every step is accepted, one after the other is independent."""
    std, level, n = torch.tensor([0.5, 2.0], dtype=torch.float64), 0.7, 20_000
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    model = sdegen.Exact(sdegen.VP().in_units(Units(torch.zeros(2, dtype=torch.float64), std)), law)
    A = Linear(torch.tensor([[1.0, -0.5]], dtype=torch.float64), 0.1)
    x = torch.tensor([[1.0, 0.5]], dtype=torch.float64).repeat(n, 1)
    copy = copies(model, Nonlinear(A, 0.1), [-2.0])
    with torch.no_grad():
        z = copy.draw_copy(x, level)
    C = (level * std).square().diag()
    gain = C @ A.A.T / (A.A @ C @ A.A.T + 0.01)
    torch.testing.assert_close(z.mean(0), x[0] + (gain * (-2.0 - A(x[:1]))).flatten(), rtol=0, atol=0.03)
    torch.testing.assert_close(z.T.cov(), C - gain @ A.A @ C, rtol=0, atol=0.03)
    assert abs(copy.matching_level(x) - 0.1 / (A.A * std).norm().item()) < 1e-9


@pytest.mark.parametrize("name", ["size", "poisson"])
def test_turns_leave_the_law_of_their_level_as_it_is(name: str) -> None:
    (A, y), level, n = SEEN[name], 0.5, 1500
    near = -0.5 * ((LINE - LINE.T) / level).square()  # of data and copies
    law = (ONE.log_prob(LINE) + (near + likelihoods(name)).logsumexp(1)).softmax(0)
    x = LINE[torch.multinomial(law, n, replacement=True, generator=torch.Generator().manual_seed(0))]
    turns = copies(EXACT, A, [y])
    with torch.no_grad():
        for _ in range(2):
            x = turns.move(x, level)
    assert furthest(x, law) < 1.95 / n**0.5 + 0.01  # the model takes ten steps
    posterior = (ONE.log_prob(LINE) + likelihoods(name)).softmax(0)
    assert (law.cumsum(0) - posterior.cumsum(0)).abs().max() > 0.08


@pytest.mark.slow
@pytest.mark.parametrize("draw", [split_gibbs, decoupled_annealing], ids=lambda draw: draw.__name__)
def test_turns_at_falling_levels_come_to_a_posterior_of_one_mode(draw: Any) -> None:
    law, (A, y) = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1)), SEEN["poisson"]
    posterior = (law.log_prob(LINE) + likelihoods("poisson")).softmax(0)
    mean = (posterior @ LINE).item()
    spread = (posterior @ (LINE - mean).square()).sqrt().item()
    x = draw(sdegen.Exact(sdegen.VP(), law), A, 400, y=[y], levels=12, steps=5, seed=0)
    assert abs(x.mean().item() - mean) < 0.2 * spread < 0.2 * mean
    assert abs(x.std().item() / spread - 1) < 0.3


def test_each_sample_has_its_own_measurement_and_images_keep_shape_and_dtype() -> None:
    y = torch.linspace(0.6, 1.6, 7, dtype=torch.float64)[:, None]
    for draw in (split_gibbs, decoupled_annealing):
        assert (draw(EXACT, Nonlinear(torch.abs, 0.05), 7, y=y, levels=5, steps=3, seed=0).abs() - y).abs().max() < 0.4
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1, 2, 2), torch.ones(1))
    x = split_gibbs(
        sdegen.Exact(sdegen.VP(), law), Nonlinear(torch.exp, PoissonNoise()), 3, y=torch.ones(1, 2, 2), levels=2, seed=0
    )
    assert x.shape == (3, 1, 2, 2)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="257 numbers are measured by a map that is not linear"):
        split_gibbs(EXACT, Nonlinear(lambda x: x.expand(-1, 257).sin(), 0.1), 2, y=torch.zeros(257), levels=2)
    with pytest.raises(ValueError, match="derivative of Nonlinear is zero at all data"):
        split_gibbs(EXACT, Nonlinear(torch.round, 0.1), 5, y=[1.0], levels=2)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        decoupled_annealing(EXACT, Nonlinear(lambda x: torch.tensor(x.numpy()), 0.1), 5, y=[1.0], levels=2)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        decoupled_annealing(EXACT, Nonlinear(lambda x: torch.tensor(x.detach().numpy()), 0.1), 5, y=[1.0], levels=2)
    with pytest.raises(ValueError, match="Nonlinear returned NaN or infinite values"):
        decoupled_annealing(EXACT, Nonlinear(torch.log, 0.1), 5, y=[1.0], levels=2)
