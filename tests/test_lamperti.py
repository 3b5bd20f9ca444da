"""Coordinates in which noise is constant: against closed forms, and against the direct route."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.distributions import constraints

import sdegen
from sdegen import GaussianMixture
from sdegen.laws.monotone import Antiderivative
from sdegen.laws.products import value_and_slope
from sdegen.processes import Lamperti, Transformed, lamperti, simulate

d64 = torch.float64
MIXTURE = GaussianMixture(torch.tensor([0.4, 0.6]), torch.tensor([[-0.8], [0.7]]), torch.tensor([0.04, 0.09]))


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bent(sdegen.SDE):
    """``x_t = asinh(sinh x_0 + w_t)``, on the line."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -0.5 * x.sinh() / x.cosh().pow(3)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return 1 / x.cosh()


class SquareRoot(sdegen.SDE):
    """The square-root process as a user writes it."""

    T, domain = 1.0, constraints.positive

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 1.0 - x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return x.sqrt()


JACOBI = sdegen.Jacobi(2.0, 2.0)
AT_END = 2 * JACOBI.diffusion(torch.full((1, 1), 0.5, dtype=d64), torch.tensor(JACOBI.T, dtype=d64)).item()
POSITIVE, UNIT, LINE = torch.logspace(-8, 5, 200), torch.linspace(1e-6, 1 - 1e-6, 201), torch.linspace(-15, 15, 201)
FORMS: dict[str, tuple[sdegen.SDE, Callable[[Tensor], Tensor], Tensor]] = {
    "geometric": (sdegen.GeometricBrownianMotion(0.3, 0.5), lambda x: x.log() / 0.5, POSITIVE),
    "square root": (sdegen.CIR(1.0, 1.0, 0.7), lambda x: 2 * x.sqrt() / 0.7, POSITIVE),
    "squared Bessel": (sdegen.SquaredBessel(), lambda x: x.sqrt(), POSITIVE),
    "Jacobi": (JACOBI, lambda x: 2 * x.sqrt().asin() / AT_END, UNIT),
    "on the line": (Bent(), lambda x: x.sinh(), LINE),
    "constant": (sdegen.DoubleWell(g=0.5), lambda x: 2 * x, LINE),
}


def test_integrals_of_exponentials_go_on_beyond_the_interval_as_they_are() -> None:
    rates = torch.tensor([0.3, -0.2, 0.0, 1.0, -1.5], dtype=torch.float64)
    F = Antiderivative(lambda v: (rates * v[:, None]).exp(), -3.0, 3.0, exponential=True)
    v = torch.tensor([-6.0, -2.5, -1.9, 0.0, 0.4, 2.9, 3.5, 5.0], dtype=torch.float64)[:, None].expand(8, 5)
    # 0 at −∞ where that is finite, else at 0
    want = torch.stack(
        [r.mul(u).exp() / r if r > 0 else torch.expm1(r * u) / r if r < 0 else u for r, u in zip(rates, v.T)], 1
    )
    torch.testing.assert_close(F(v), want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(F.slope(v), (rates * v).exp(), rtol=1e-10, atol=0)
    torch.testing.assert_close(F.bend(v), rates.expand(8, 5), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(F.inverse(want), v, rtol=0, atol=1e-8)
    torch.testing.assert_close(F.low, torch.where(rates > 0, 0.0, -torch.inf).double())
    torch.testing.assert_close(F.high, torch.where(rates < 0, -1 / rates, torch.inf))


def test_integrals_go_on_in_straight_lines_where_that_is_asked() -> None:
    F = Antiderivative(lambda v: (1 + v.square())[:, None], -2.0, 2.0, exponential=False)
    v = torch.tensor([-5.0, -1.5, -0.5, 0.0, 1.9, 2.5, 9.0], dtype=torch.float64)[:, None]
    within = v.clamp(-2, 2)
    want = within + within**3 / 3 + (v - within) * (1 + within.square())
    torch.testing.assert_close(F(v), want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(F.inverse(want), v, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", FORMS)
def test_quadrature_has_the_closed_form(name: str) -> None:
    sde, form, x = FORMS[name]
    x = x.double()[:, None]
    phi = Lamperti(sde, reach=20.0)
    u, want = phi(x), form(x)
    assert ((u - want).abs() <= 1e-11 * (1 + want.abs())).all()
    assert ((phi.inverse(u) - x).abs() <= 1e-12 * x.abs() + 1e-14).all()
    _, slope = value_and_slope(form, x, torch.ones_like(x))
    bend = value_and_slope(lambda y: value_and_slope(form, y, torch.ones_like(y))[1], x, torch.ones_like(x))[1] / slope
    assert (phi.slope(x) / slope - 1).abs().max() < 1e-9
    assert ((phi.bend(x) - bend).abs() <= 1e-7 * (1 + bend.abs())).all()
    assert torch.allclose(phi.log_det(x), slope.log()[:, 0], atol=1e-9)
    # Derivatives of the map itself, and of its inverse to second order.
    assert torch.allclose(value_and_slope(phi, x, torch.ones_like(x))[1] / slope, torch.ones_like(x), atol=1e-9)

    def back(v: Tensor) -> Tensor:
        return value_and_slope(phi.inverse, v, torch.ones_like(v))[1]

    once, twice = value_and_slope(back, u, torch.ones_like(u))
    assert torch.allclose(once * slope, torch.ones_like(x), atol=1e-9)
    assert ((twice * slope.square() + bend).abs() <= 1e-7 * (1 + bend.abs())).all()


@pytest.mark.parametrize("name", FORMS)
def test_the_noise_is_constant(name: str) -> None:
    sde, _, x = FORMS[name]
    made = lamperti(sde)
    u = made.coordinates(x.double()[10:-10, None].clamp(-9, 1e3))
    ratio = made.noise_at(sde.T / 3, u)(torch.ones_like(u)) / made.noise_at(sde.T, u)(torch.ones_like(u))
    assert (made.noise_at(sde.T, u)(torch.ones_like(u)) - 1).abs().max() < 1e-8
    assert (ratio - ratio[0]).abs().max() < 1e-8


def test_drifts_have_their_closed_forms() -> None:
    x = torch.tensor([[0.05], [0.4], [3.0]], dtype=d64)
    t = torch.tensor(0.3, dtype=d64)
    root = lamperti(SquareRoot())
    u = root.coordinates(x)
    assert torch.allclose(
        root.drift(u, t), 1.5 / u - 0.5 * u, rtol=1e-9
    )  # a Bessel process of dimension four, pulled to 0
    brownian = lamperti(Bent())
    assert brownian.drift(brownian.coordinates(x), t).abs().max() < 1e-12
    straight = lamperti(sdegen.GeometricBrownianMotion(0.3, 0.5))
    assert torch.allclose(straight.drift(u, t), torch.full_like(u, 0.35), rtol=1e-9)  # mu / sigma − sigma / 2


def test_coordinates_with_noise_of_their_own_have_maps_of_their_own() -> None:
    sigma = torch.tensor([0.5, 2.0], dtype=d64)

    class Two(sdegen.SDE):
        domain = constraints.positive

        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

        def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.stack([0.5 * x[:, 0], 2.0 * x[:, 1].sqrt()], 1)

    phi = Lamperti(Two(), (2,))
    x = torch.rand(7, 2, dtype=d64, generator=g()) + 0.1
    want = torch.stack([x[:, 0].log() / sigma[0], x[:, 1].sqrt()], 1)
    assert torch.allclose(phi(x), want, rtol=1e-11) and torch.allclose(phi.inverse(want), x, rtol=1e-11)
    with pytest.raises(ValueError, match=r"x has shape \(7, 3\); these coordinates are of data \(2,\)"):
        phi(torch.ones(7, 3))


class Data:
    """The law in some coordinates of data whose logarithms are from the mixture."""

    def __init__(self, phi: sdegen.coordinates.Coordinates) -> None:
        self.phi = phi

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.phi(MIXTURE.sample(n, generator).exp())

    def log_prob(self, u: Tensor) -> Tensor:
        x = self.phi.inverse(u)
        return MIXTURE.log_prob(x.log()) - x.log()[:, 0] - self.phi.log_det(x)


def both_routes() -> list[tuple[sdegen.FokkerPlanck, sdegen.coordinates.Coordinates]]:
    user, log = SquareRoot(), sdegen.coordinates.Log()
    phi = Lamperti(user)
    one = sdegen.FokkerPlanck(lamperti(user), Data(phi), 1000, 380)
    return [(one, phi), (sdegen.FokkerPlanck(Transformed(user, log), MIXTURE, 1000, 380), log)]


def test_laws_and_scores_are_those_of_the_direct_route() -> None:
    """The same data and process, solved in these coordinates, in logarithms, and known in closed form."""
    t = 0.6
    routes = both_routes()
    x = routes[0][1].inverse(routes[0][0].law(t).sample(400, g()))
    logs = [truth.log_density(phi(x), t) + phi.log_det(x) for truth, phi in routes]
    assert (logs[0] - logs[1]).abs().max() < 2e-3
    data = MIXTURE.sample(40_000, g()).exp()
    kernel = sdegen.CIR(1.0, 1.0, 1.0, T=1.0).kernel(data, 0.0, t)
    for value, point in zip(logs[0][:5], x, strict=False):
        assert abs(value - (kernel.log_prob(point.expand(len(data), 1)).logsumexp(0) - math.log(len(data)))) < 0.02
    one, other = (truth.score(phi(x), t) * phi.slope(x) + phi.bend(x) for truth, phi in routes)
    assert ((one - other).abs() <= 0.01 * (1 + one.abs())).all()


@pytest.mark.slow
def test_likelihoods_and_samples_are_those_of_the_direct_route() -> None:
    near = MIXTURE.sample(10, g(1)).exp()
    want = MIXTURE.log_prob(near.log()) - near.log()[:, 0]
    known = MIXTURE.sample(200_000, g(2)).exp()[:, 0].numpy()
    for truth, _ in both_routes():
        prior = truth.law(truth.sde.T)
        assert (sdegen.log_prob(truth, near, prior=prior) - want).abs().max() < 3e-3
        x = sdegen.sample(truth, x_T=prior.sample(2000, g(3)), seed=0)
        assert (x > 0).all() and kstest(x[:, 0].numpy(), known).pvalue > 1e-3


@pytest.mark.slow
def test_samples_and_paths_have_the_exact_law() -> None:
    user, exact = SquareRoot(), sdegen.CIR(1.0, 1.0, 1.0, T=1.0)
    made = lamperti(user)
    x_0 = torch.full((1000, 1), 0.3, dtype=d64)
    u = simulate(made, made.coordinates(x_0), 0.0, 1.0, steps=50, generator=g())
    x = made.coordinates.inverse(u)
    z = torch.linspace(-6, 6, 2001, dtype=d64)[:, None]
    grid = exact.kernel(x_0[:1].expand(2001, 1), 0.0, 1.0).sample(z)[:, 0]
    cdf = 0.5 * torch.erfc(-z[:, 0] / math.sqrt(2))
    assert (x > 0).all()
    assert kstest(x[:, 0].numpy(), lambda v: np.interp(v, grid.numpy(), cdf.numpy())).pvalue > 1e-3


def test_a_step_beyond_an_end_is_reflected() -> None:
    root, unit = Lamperti(SquareRoot()), Lamperti(JACOBI)
    u = torch.tensor([[-0.3], [0.3], [0.0]], dtype=d64)
    assert torch.allclose(root.enter(u)[:2], torch.full((2, 1), 0.3, dtype=d64)) and (root.enter(u) > 0).all()
    assert torch.allclose(root.inverse(u)[0], root.inverse(u)[1])
    assert (lamperti(SquareRoot()).enter(u) > 0).all()
    high = unit.image.upper_bound
    assert torch.allclose(unit.enter(torch.tensor([[high + 0.1]], dtype=d64)), torch.tensor([[high - 0.1]], dtype=d64))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("kind", [SquareRoot, lambda: JACOBI])
def test_a_step_of_no_finite_length_is_not_brought_back(kind: Callable[[], sdegen.SDE], value: float) -> None:
    """A run is to stop at it."""
    assert not Lamperti(kind()).enter(torch.tensor([[value]], dtype=d64)).isfinite().any()


def test_a_model_in_these_coordinates_is_trained_sampled_and_saved(tmp_path: Path) -> None:
    data = MIXTURE.sample(500, g()).exp()
    model = sdegen.DirectModel(sdegen.nets.MLP(1, width=16, depth=1), lamperti(sdegen.CIR()))
    sdegen.fit(model, data, steps=20, batch_size=64, seed=0, progress=False)
    sdegen.save(model, tmp_path / "model.safetensors")
    x = sdegen.sample(model, 50, steps=10, seed=1)
    assert (x > 0).all() and torch.equal(
        sdegen.sample(sdegen.load(tmp_path / "model.safetensors"), 50, steps=10, seed=1), x
    )


def with_noise(noise: Callable[[Tensor, Tensor], Any], where: constraints.Constraint = constraints.real) -> sdegen.SDE:
    class Own(sdegen.SDE):
        domain = where

        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return -x

        def diffusion(self, x: Tensor, t: Tensor) -> Any:
            return noise(x, t)

    return Own()


WRONG: dict[str, tuple[sdegen.SDE, tuple[int, ...], str]] = {
    "matrix": (
        with_noise(lambda x, t: sdegen.Matrix(torch.ones(2, 2).double())),
        (2,),
        "is a matrix over coordinates",
    ),
    "coupled": (with_noise(lambda x, t: 1 + x.flip(1).square()), (2,), "at coordinate 0 depends on others; no change"),
    "rows": (with_noise(lambda x, t: 1 + x.square().sum(1)), (2,), "at coordinate 0 depends on others"),
    "vanishing": (with_noise(lambda x, t: x - 0.3), (1,), "vanishes, jumps or is infinite near 0.3"),
    "vanishing slowly": (
        with_noise(lambda x, t: (x - 0.3).abs().sqrt()),
        (1,),
        "vanishes, jumps or is infinite near 0.3",
    ),
    "a jump at an edge": (with_noise(lambda x, t: 1.0 + (x > 0)), (1,), "vanishes, jumps or is infinite near"),
    "a jump": (with_noise(lambda x, t: 1.0 + (x > 2.2)), (1,), "vanishes, jumps or is infinite near 2.2"),
    "infinite": (
        with_noise(lambda x, t: 1 / (x - 4), constraints.positive),
        (1,),
        "vanishes, jumps or is infinite near 4",
    ),
    "no separation": (
        with_noise(lambda x, t: 1 + t * x.square()),
        (1,),
        "no function of the state times one of the time",
    ),
    "a domain": (
        with_noise(lambda x, t: x, constraints.greater_than(2.0)),
        (1,),
        "give a map from it to the line",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_noise_that_nothing_makes_constant_is_refused_in_a_sentence(name: str) -> None:
    sde, shape, what = WRONG[name]
    with pytest.raises(ValueError, match=what):
        lamperti(sde, shape)


def test_a_map_in_closed_form_is_held_to_the_noise() -> None:
    sde = sdegen.GeometricBrownianMotion(sigma=0.5)
    assert isinstance(lamperti(sde, (2,), sdegen.coordinates.Log()).coordinates, sdegen.coordinates.Log)
    with pytest.raises(ValueError, match=r"in SoftplusInverse\(\) still depends on the state; give ∫ dx / g\(x\)"):
        lamperti(sde, (2,), sdegen.coordinates.SoftplusInverse())


@pytest.mark.parametrize("power", [-7, -5, -3, 0])
def test_noise_that_changes_within_any_length_is_seen(power: int) -> None:
    """Its transition lies at 0, where panels meet, and is far shorter than a panel."""
    length = 10.0**power
    phi = Lamperti(with_noise(lambda x, t: 1 + 0.5 * torch.tanh(x / length)))
    x = length * torch.linspace(-4, 4, 33, dtype=torch.float64)[:, None]
    torch.testing.assert_close(phi.slope(x), 1 / (1 + 0.5 * torch.tanh(x / length)), rtol=1e-9, atol=0)
    torch.testing.assert_close(phi.inverse(phi(x)), x, rtol=1e-7, atol=1e-8 * length)


@pytest.mark.parametrize("power", [-6, -3, 3, 6])
def test_square_root_noise_of_any_size_has_its_closed_form(power: int) -> None:
    size = 10.0**power
    phi, x = Lamperti(sdegen.CIR(1.0, size, size**0.5)), size * torch.logspace(-8, 8, 33, dtype=torch.float64)[:, None]
    torch.testing.assert_close(phi(x), 2 * (x / size).sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(phi.inverse(phi(x.float())), x.float(), rtol=1e-6, atol=0)
