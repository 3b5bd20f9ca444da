"""Targets of training on nonlinear processes, averaged over the data that may have made a state."""

import math

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import coordinates, nets
from sdegen.laws.kernels import Kernel
from sdegen.laws.operators import Scale
from sdegen.training.learner import objective_of
from sdegen.training.targets import pooled_target

d64 = torch.float64
PROCESSES = {
    "half-line": sdegen.GeometricBrownianMotion(T=1.0),
    "logarithm of the half-line": sdegen.Transformed(sdegen.SquaredBessel(T=1.0), coordinates.Log()),
    "circle": sdegen.CircularBrownianMotion(),
}


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int) -> Tensor:
    return 0.4 + torch.rand(n, 2, generator=g(1), dtype=d64)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("n", [3, 37])
def test_pooled_targets_are_slopes_of_the_mixture_of_the_laws_of_a_group(name: str, n: int) -> None:
    sde, x_0 = PROCESSES[name], data(n)
    t = 0.2 + 0.5 * torch.rand(n, generator=g(2), dtype=d64)
    drawn = sde.perturb(x_0, t, generator=g(3))
    found = pooled_target(sde, drawn)
    size = min(sde.pool, n)
    for i in range(n):
        group = slice(i - i % size, i - i % size + size)
        states = sde.lift(x_0[group])
        x = drawn.x[i].clone().requires_grad_()
        mixture = sde.kernel(states, 0.0, t[i]).log_prob(x.expand(len(states), 2)).logsumexp(0)
        torch.testing.assert_close(found[i], torch.autograd.grad(mixture, x)[0], rtol=1e-6, atol=1e-8)


def test_pooling_leaves_the_regression_on_the_state_and_takes_its_share_of_the_variance() -> None:
    sde, x_0, t = PROCESSES["circle"], data(16_000), torch.tensor(0.3, dtype=d64)
    drawn = sde.perturb(x_0, t, generator=g(4))
    pooled, plain = pooled_target(sde, drawn), drawn.kernel.score(drawn.x)
    for test in (drawn.x.cos(), drawn.x.sin(), (2 * drawn.x).sin()):
        gap = (pooled - plain) * test
        assert (gap.mean(0).abs() < 4 * gap.std(0) / len(gap) ** 0.5).all()
    # What pooling leaves out is orthogonal to what it keeps.
    rest = plain.square() - pooled.square() - (plain - pooled).square()
    assert (rest.mean(0).abs() < 4 * rest.std(0) / len(rest) ** 0.5).all()
    assert ((plain - pooled).square().mean(0) > 0.05).all()


def test_many_rows_of_one_time_pool_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, x = torch.randn(40, 2, generator=g(5)), torch.randn(40, 2, generator=g(6))
    kernel, group = Kernel(mean, Scale(torch.ones(40, dtype=d64))), torch.arange(40) // 20
    monkeypatch.setattr("sdegen.laws.kernels.PAIRS", 10 * 10 * 2)
    found = kernel.pooled_score_by(group, x)
    for part in torch.arange(40).split(10):
        torch.testing.assert_close(found[part], Kernel(mean[part], kernel.R[part]).pooled_score(x[part]))


class Prices(sdegen.SDE):
    """Geometric Brownian motion, as a user writes it."""

    T = 4.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.0 * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return x


class WithPrior(Prices):
    """The same with the prior that the library's has."""

    def prior(self, moments: sdegen.Moments) -> sdegen.laws.positive.LogNormalMixture:
        return sdegen.GeometricBrownianMotion(T=4.0).prior(moments)


class WithScorelessPrior(Prices):
    """The same with a prior whose score nobody knows."""

    class Law:
        def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
            return torch.ones(n, 2)

        def log_prob(self, x: Tensor) -> Tensor:
            return x.sum(1)

    def prior(self, moments: sdegen.Moments) -> Law:
        return self.Law()


def test_networks_in_coordinates_add_to_the_score_of_the_prior_where_one_is_declared() -> None:
    moments = sdegen.Moments(torch.tensor([1.0, 2.0], dtype=d64), torch.eye(2, dtype=d64))
    u = torch.randn(5, 2, generator=g(7))
    for sde, law in (
        (WithPrior(), sdegen.Transformed(WithPrior(), coordinates.Log()).prior(moments)),
        (Prices(), None),
        (WithScorelessPrior(), None),
    ):
        model = sdegen.DirectModel(nets.MLP(2, width=8, depth=1), sdegen.Transformed(sde, coordinates.Log()))
        model.moments = moments
        expected = torch.zeros(5, 2) if law is None else law.score(u)  # the network begins with zeros
        torch.testing.assert_close(model.score(u, 0.3), expected)


def test_processes_without_a_known_law_train_at_shared_times_that_are_even_in_their_logarithm() -> None:
    model = sdegen.DirectModel(nets.MLP(2, width=8, depth=1), sdegen.Transformed(Prices(), coordinates.Log()))
    t, factor = objective_of(model).times.draw(model.sde, 512, g(8))  # type: ignore[attr-defined]
    places = t.unique().log()
    edges = torch.linspace(math.log(1e-3), math.log(4.0), 17, dtype=d64)
    assert torch.equal(torch.bucketize(places, edges), torch.arange(1, 17))
    assert (factor == 1).all()
