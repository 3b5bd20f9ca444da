"""Data on a half-line, an interval or a simplex: coordinates, processes in their coordinates, samplers that stay in a domain."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import constraints

import sdegen
from sdegen import samplers
from sdegen.laws.columns import Columns
from sdegen.laws.coordinates import Coordinates, Log, LogOdds, SoftplusInverse, StickBreaking, Successive, Whitening
from sdegen.laws.derivatives import exact_divergence
from sdegen.models.direct import _size_beyond_base
from sdegen.processes.dynamics import diffusion_at
from sdegen.processes.transformed import Transformed, TransformedLaw

d64 = torch.float64
TURN = torch.tensor([[1.0, 0.3], [-0.2, 2.0]], dtype=d64)
ALL: list[Coordinates] = [
    Log(),
    SoftplusInverse(),
    LogOdds(),
    LogOdds(-2, 3),
    StickBreaking(),
    Whitening(torch.tensor([1.0, -2.0]), TURN),
    Successive([SoftplusInverse(), Whitening(torch.zeros(2), TURN)]),
    Successive([LogOdds(-2, 3), Whitening(torch.tensor([1.0, -2.0]), TURN)]),
]
PAIR = sdegen.GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[-1.0, 0.3], [0.8, -0.4]]), torch.tensor([0.05, 0.1])
)


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Asinh(Coordinates):
    """A map of the three methods that every map has: what follows from them is the base class's."""

    elementwise = True

    def __call__(self, x: Tensor) -> Tensor:
        return x.asinh()

    def inverse(self, u: Tensor) -> Tensor:
        return u.sinh()

    def log_det(self, x: Tensor) -> Tensor:
        return -0.5 * torch.log1p(x.square()).sum(1)


@pytest.mark.parametrize("phi", [*ALL, Asinh(), Successive([Log(), Asinh()])], ids=repr)
def test_a_bijection_is_inverted_and_its_log_determinant_is_that_of_its_jacobian(phi: Coordinates) -> None:
    u = 2 * torch.randn(7, 2, dtype=d64, generator=g())
    x = phi.inverse(u)
    assert phi.domain.check(x).all()
    assert (phi(x) - u).abs().max() < 1e-9
    for b, row in enumerate(u):
        J = torch.func.jacrev(lambda v: phi.inverse(v[None])[0])(row)[: len(row)]  # of a simplex its first numbers
        assert abs(phi.log_det(x)[b] + torch.linalg.slogdet(J).logabsdet) < 1e-9
        off = (J - torch.diag(J.diagonal())).abs().max() < 1e-12
        assert bool(off) or not phi.elementwise
    if phi.elementwise:
        one = torch.ones_like(x)
        slope, second = torch.func.jvp(lambda y: torch.func.jvp(phi, (y,), (one,))[1], (x,), (one,))
        assert torch.allclose(phi.slope(x), slope) and torch.allclose(phi.bend(x), second / slope)


FAR = [LogOdds(1e6, 1e6 + 1), LogOdds(-1e9, 1.0 - 1e9), LogOdds(0.1, 0.3), LogOdds(-3.0, 1e-3)]


@pytest.mark.parametrize("dtype", [torch.float32, d64])
@settings(max_examples=20, deadline=None)
@given(u=st.floats(-1000, 1000))
def test_no_number_is_brought_out_of_the_domain(dtype: torch.dtype, u: float) -> None:
    for phi in (Log(), SoftplusInverse(), LogOdds(), *FAR):
        x = phi.inverse(torch.tensor([[u]], dtype=dtype))
        assert x.dtype == dtype and (phi.domain.check(x) | x.isposinf()).all(), phi
        assert not phi(x).isneginf().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, d64])
def test_data_of_coordinates_are_told_apart(dtype: torch.dtype) -> None:
    """Where rounding would cost more than a few hundredths of the spread, data are of a finer dtype than states."""
    u = torch.linspace(-1, 1, 200, dtype=d64)[:, None]
    mean = torch.tensor([1e7], dtype=d64)
    for phi in (LogOdds(), *FAR, Whitening(mean, torch.eye(1, dtype=d64)), Columns([1], [LogOdds(1e6, 1e6 + 1)])):
        for maps in (phi, Successive([phi, Whitening(torch.zeros(1), 0.5 * torch.eye(1))])):
            sde = sdegen.VP().in_coordinates(maps)
            exact, found = sde.restore(u), sde.restore(u.to(dtype))
            assert exact.dtype == d64 and torch.finfo(found.dtype).bits >= torch.finfo(dtype).bits
            rounding = (sde.restore(u.to(dtype).double()) - found.double()).abs().max()
            assert rounding < 0.05 * exact.std(), (phi, dtype)
    assert sdegen.VP().in_coordinates(LogOdds()).restore(u.to(dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, d64])
def test_samples_in_far_bounds_are_told_apart(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    sde = sdegen.VP().in_coordinates(LogOdds(1e6, 1e6 + 1))
    model = sdegen.Model(sdegen.nets.MLP(1, width=8, depth=1), sde).to(dtype)
    model.moments = sdegen.Moments(torch.zeros(1), torch.ones(1, 1))
    x = sdegen.sample(model, 50, steps=2, seed=0)
    assert x.dtype == d64 and len(x.unique()) == 50 and sde.data_domain.check(x).all()


def test_a_mean_far_away_is_taken_off_without_a_loss() -> None:
    mean = torch.tensor([16777217.0, -3e7 + 1], dtype=d64)  # which float32 rounds
    phi, x = Whitening(mean, torch.eye(2, dtype=d64)), torch.tensor([[16777218.0, -3e7]], dtype=torch.float32)
    assert phi(x).tolist() == [[1.0, -1.0]]


@pytest.mark.turns(
    "SoftplusInverse*",
    "LogOdds(low=-2*",
    "Whitening*",
    "LogOdds(low=0*",
    "Successive(parts=(SoftplusInverse*",
    "StickBreaking*",
    "Successive*",
)
@pytest.mark.parametrize("phi", ALL, ids=repr)
def test_exact_models_in_coordinates_have_the_transformed_law(phi: Coordinates) -> None:
    model = sdegen.Exact(sdegen.VP().in_coordinates(phi), PAIR)
    x = phi.inverse(PAIR.sample(6, g()))
    want = PAIR.log_prob(phi(x)) + phi.log_det(x)
    assert (sdegen.log_prob(model, x) - want).abs().max() < 1e-5
    found = sdegen.elbo(model, x, draws=500, generator=g())
    # A bound of the exact model is the density itself, but for the noise of t_min.
    assert ((found.value - want).abs() < 5 * found.stderr + 0.02).all()
    drawn = sdegen.sample(model, 3000, seed=0)
    assert phi.domain.check(drawn).all()
    back = phi(drawn)
    assert (
        (back.mean(0) - PAIR.moments().mean).abs() < 5 * PAIR.moments().covariance.diagonal().sqrt() / 3000**0.5 + 0.01
    ).all()


def test_whitened_data_have_unit_covariance_to_the_digits_of_the_process() -> None:
    root = TURN.float() @ torch.diag(torch.tensor([0.01, 10.0]))
    covariance = root @ root.T  # whatever the dtype that it is given in
    W = Whitening.of(torch.zeros(2), covariance).W
    assert (W @ covariance.double() @ W.T - torch.eye(2)).abs().max() < 1e-9


def test_coordinates_come_one_after_the_other() -> None:
    sde = sdegen.VP().in_coordinates(Whitening(torch.zeros(2), TURN)).in_coordinates(Log())
    x = torch.rand(5, 2, dtype=d64, generator=g()) + 0.1
    assert torch.allclose(sde.lift(x), (x.log() @ TURN.T))
    assert torch.allclose(sde.project(sde.lift(x)), x)


@pytest.mark.turns("StickBreaking()")
@pytest.mark.parametrize("phi", [Log(), LogOdds(-1, 9), StickBreaking()], ids=repr)
def test_a_model_is_trained_saved_and_sampled_within_the_domain(phi: Coordinates, tmp_path: Path) -> None:
    data = phi.inverse(0.3 * torch.randn(2000, 2, generator=g()) + 1)
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP().in_coordinates(phi))
    sdegen.fit(model, data, steps=60, seed=0)
    u = phi(data)
    assert torch.allclose(model.moments.mean.float(), u.mean(0), atol=1e-4)  # type: ignore[union-attr]
    sdegen.save(model, tmp_path / "model.safetensors")
    again = sdegen.load(tmp_path / "model.safetensors")
    x = sdegen.sample(model, 200, seed=1)
    assert phi.domain.check(x).all() and x.shape[1:] == data.shape[1:]
    assert torch.equal(sdegen.sample(again, 200, seed=1), x)
    assert (phi(x).mean(0) - u.mean(0)).abs().max() < 0.3
    assert sdegen.log_prob(model, data[:3]).isfinite().all()


def outside(phi: Coordinates) -> Tensor:
    return torch.tensor([[0.5, -0.1], [0.2, 0.3]], dtype=d64)


@pytest.mark.parametrize("phi", [Log(), SoftplusInverse(), LogOdds(0, 1)], ids=repr)
@pytest.mark.parametrize("door", ["fit", "log_prob", "encode", "perturb"])
def test_data_outside_of_the_domain_are_refused_in_a_sentence(phi: Coordinates, door: str) -> None:
    x, sde = outside(phi), sdegen.VP().in_coordinates(phi)
    model = sdegen.Exact(sde, PAIR)
    doors: dict[str, Any] = {
        "fit": lambda: sdegen.fit(sdegen.Model(sdegen.nets.MLP(2), sde), x.float(), steps=2),
        "log_prob": lambda: sdegen.log_prob(model, x),
        "encode": lambda: samplers.encode(model, x),
        "perturb": lambda: sde.perturb(x, 0.5),
    }
    with pytest.raises(ValueError, match=r"1 values outside of the domain .*: -0\.1 is among them; remove them"):
        doors[door]()


def test_guidance_that_changes_means_of_data_is_refused_in_coordinates() -> None:
    model = sdegen.Exact(sdegen.VP().in_coordinates(Log()), PAIR)
    with pytest.raises(TypeError, match=r"Clipped changes or measures means .* Log\(\)"):
        sdegen.guidance.Clipped(model, 0.0, 1.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LogOdds(1, 0),
        lambda: Whitening(torch.zeros(2), torch.eye(3)),
        lambda: Whitening(torch.zeros(2), torch.zeros(2, 2)),
        lambda: Whitening.of(torch.zeros(2), torch.ones(2, 2)),
        lambda: Successive([]),
    ],
)
def test_what_is_no_bijection_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"bound|shape|inverse|singular|no coordinates"):
        make()


# --- a process in other coordinates ---


class Own(sdegen.SDE):
    """Drift and noise that depend on the state, on the half-line."""

    def __init__(self, T: float = 1.0) -> None:
        self.T = T

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 1.0 - x + 0.1 * x.flip(-1)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x.abs().sqrt()


class Coupled(Own):
    def diffusion(self, x: Tensor, t: Tensor) -> Any:  # type: ignore[override]
        a, b = x[:, 0], x[:, 1]
        return sdegen.Matrix(torch.stack([1 + a, b, a * b, 2 + b], 1).reshape(-1, 2, 2))


@pytest.mark.parametrize("phi", [Log(), SoftplusInverse(), Whitening(torch.ones(2), TURN)], ids=repr)
@pytest.mark.parametrize("sde", [Own(), Coupled()], ids=lambda s: type(s).__name__)
def test_coefficients_follow_by_itos_formula(sde: sdegen.SDE, phi: Coordinates) -> None:
    """For every test function h the generators agree: ``L_u h (u) = L_x (h ∘ phi) (x)``."""
    moved = Transformed(sde, phi)
    x = 0.5 + torch.rand(4, 2, dtype=d64, generator=g())
    u, t = phi(x), torch.tensor(0.3, dtype=d64)

    def h(v: Tensor) -> Tensor:
        return (v[0] * 0.7 - v[1].square()).sin() + v[0] * v[1]

    def generator(process: sdegen.SDE, function: Any, at: Tensor) -> Tensor:
        values = []
        for row in at:
            gradient, hessian = torch.func.jacrev(function)(row), torch.func.hessian(function)(row)
            M = diffusion_at(process, row[None], t).matrix().reshape(-1, 2, 2)[0]
            values.append(gradient @ process.drift(row[None], t)[0] + 0.5 * (hessian @ M @ M.T).trace())
        return torch.stack(values)

    want = generator(sde, lambda row: h(phi(row[None])[0]), x)
    assert (generator(moved, h, u) - want).abs().max() < 1e-9 * (1 + want.abs().max())


class Known(sdegen.ScoreModel):
    def __init__(self, sde: sdegen.SDE) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor | float, **cond: object) -> Tensor:
        return 1 / x - x


@pytest.mark.parametrize("phi", [Log(), SoftplusInverse()], ids=repr)
def test_flows_in_two_coordinates_are_one_flow(phi: Coordinates) -> None:
    from sdegen.models.transformed import TransformedModel

    model = Known(Own())
    other = TransformedModel(model, phi)
    x, t = 0.5 + torch.rand(4, 2, dtype=d64, generator=g()), torch.tensor(0.3, dtype=d64)
    here = model.sde.reverse(model, 0.0).drift(x, t)
    there = other.sde.reverse(other, 0.0).drift(phi(x), t)
    moved = torch.func.jvp(phi, (x,), (here,))[1]
    assert (there - moved).abs().max() < 1e-9
    _, div = exact_divergence(lambda y: model.sde.reverse(model, 0.0).drift(y, t), x)
    _, div_there = exact_divergence(lambda v: other.sde.reverse(other, 0.0).drift(v, t), phi(x))
    # d log p along a flow: the divergences differ by the derivative of the log-determinant along it.
    slope = torch.func.jvp(phi.log_det, (x,), (here,))[1]
    assert (div_there - div - slope).abs().max() < 1e-8


@pytest.mark.parametrize("phi", [Log(), LogOdds(0, 4)], ids=repr)
def test_a_law_in_other_coordinates_has_the_gradient_of_its_density_for_score(phi: Coordinates) -> None:
    class Bell:
        def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
            return phi.inverse(torch.randn(n, 2, dtype=d64, generator=generator))

        def log_prob(self, x: Tensor) -> Tensor:
            return -(x - 1.5).square().sum(1)

        def score(self, x: Tensor) -> Tensor:
            return -2 * (x - 1.5)

    law = TransformedLaw(Bell(), phi)
    u = torch.randn(5, 2, dtype=d64, generator=g()).requires_grad_()
    (want,) = torch.autograd.grad(law.log_prob(u).sum(), u)
    assert (law.score(u.detach()) - want).abs().max() < 1e-9
    assert law.sample(5, g()).shape == (5, 2)


class OnTheHalfLine(Own):
    """Geometric Brownian motion, which says that it lives on the half-line."""

    domain, free = constraints.positive, Log()

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.1 * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return 1.5 * x

    def prior(self, moments: sdegen.Moments) -> Any:
        return torch.distributions.LogNormal(
            torch.full((2,), (0.1 - 1.125) * self.T, dtype=d64), math.sqrt(0.04 + 2.25 * self.T)
        )


class Truth(sdegen.ScoreModel):
    def __init__(self) -> None:
        self.sde = OnTheHalfLine()
        self.moments = sdegen.Moments(torch.ones(2, dtype=d64), 0.04 * torch.eye(2, dtype=d64))

    def score(self, x: Tensor, t: Tensor | float, **cond: object) -> Tensor:
        t = float(torch.as_tensor(t))
        assert (x > 0).all()  # a step that leaves the domain would be seen here
        return -((x.log() - (0.1 - 1.125) * t) / (0.04 + 2.25 * t) + 1) / x


@pytest.mark.parametrize(
    "sampler",
    [None, samplers.EulerMaruyama(8), samplers.EulerMaruyama(200), samplers.Heun(60), samplers.ProbabilityFlow()],
    ids=repr,
)
def test_no_step_of_a_sampler_leaves_the_domain(sampler: samplers.Sampler | None) -> None:
    x = sdegen.sample(Truth(), 500, sampler=sampler, seed=0)
    assert (x > 0).all()
    if sampler is None or sampler.steps > 8:
        assert abs(x.log().mean()) < 0.05 and abs(x.log().std() - 0.2) < 0.03


@pytest.mark.slow
def test_latents_and_densities_are_of_the_process_as_it_was_written() -> None:
    model = Truth()
    x = (0.2 * torch.randn(3, 2, dtype=d64, generator=g())).exp()
    z = samplers.encode(model, x, steps=60)
    assert (z > 0).all() and (samplers.decode(model, z, steps=60) - x).abs().max() < 1e-2
    want = torch.distributions.LogNormal(torch.zeros(2, dtype=d64), 0.2).log_prob(x).sum(1)
    assert (sdegen.log_prob(model, x) - want).abs().max() < 1e-5
    wider = torch.distributions.LogNormal(torch.zeros(2, dtype=d64), 2.0)
    end = samplers.encode(model, x, steps=60)
    gap = sdegen.log_prob(model, x, prior=wider, tolerance=1e-4) - want
    own = model.sde.prior(model.moments)
    assert (gap - (wider.log_prob(end) - own.log_prob(end)).sum(1)).abs().max() < 0.05
    drawn, found = sdegen.sample_with_log_prob(model, 3, seed=0, tolerance=1e-4)
    law = torch.distributions.LogNormal(torch.zeros(2, dtype=d64), 0.2)
    assert (found.value - law.log_prob(drawn).sum(1)).abs().max() < 1e-2
    with pytest.raises(ValueError, match=r"x_T has 6 values outside of the domain x > 0"):
        sdegen.sample(model, x_T=-x)
    with pytest.raises(ValueError, match=r"outside of the domain x > 0"):
        model.sde.perturb(-x, 0.5)


BOUNDED: dict[str, tuple[sdegen.SDE, Coordinates]] = {
    "geometric Brownian motion": (sdegen.GeometricBrownianMotion(), Log()),
    "CIR": (sdegen.CIR(), Log()),
    "squared Bessel": (sdegen.SquaredBessel(), Log()),
    "Jacobi": (sdegen.Jacobi(2.0, 2.0), LogOdds()),
    "box": (sdegen.ReflectedBrownianMotion(0.0, 1.0), LogOdds()),
}


@pytest.mark.parametrize(
    ("phi", "variance"),
    [(Log(), lambda u: (-u).exp()), (LogOdds(-1.0, 3.0), lambda u: 1 / (u.sigmoid() * (-u).sigmoid()))],
    ids=["log", "log-odds"],
)
def test_an_end_that_noise_reaches_is_not_far_away(phi: Coordinates, variance: Callable[[Tensor], Tensor]) -> None:
    """Of square-root noise, whose variance in the data vanishes at an end in proportion: what a network sees rises, and ends."""
    u = torch.linspace(-30, 30, 61, dtype=d64)
    seen = phi.seen(u, (0.01 * variance(u)).sqrt())
    assert (seen.diff() > 0).all() and abs(seen[0].item() - math.log(0.01)) < 1e-2
    assert torch.equal(phi.seen(u, torch.zeros_like(u)), u)


@pytest.mark.turns("geometric Brownian motion", "squared Bessel", "CIR", "Jacobi")
@pytest.mark.parametrize("name", BOUNDED)
def test_whatever_a_network_says_samples_stay_in_the_domain(name: str, tmp_path: Path) -> None:
    sde, phi = BOUNDED[name]
    data = phi.inverse(0.4 * torch.randn(512, 2, generator=g()) + torch.tensor([0.3, -0.5]))
    torch.manual_seed(0)
    seen = 2 if sde.harmonics is None else 4
    model = sdegen.DirectModel(sdegen.nets.MLP(seen, width=16, depth=1), sde)
    sdegen.fit(model, data, steps=2, batch_size=64, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=g(1))
    for sampler in (None, samplers.Heun(20)):
        x = sdegen.sample(model, 64, sampler=sampler, seed=0)
        assert x.isfinite().all() and sde.domain.check(x).all()
    sdegen.save(model, tmp_path / "model.safetensors")
    assert torch.equal(
        sdegen.sample(sdegen.load(tmp_path / "model.safetensors"), 64, seed=0), sdegen.sample(model, 64, seed=0)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["geometric Brownian motion", "CIR"])
def test_a_short_training_brings_the_data_back(name: str) -> None:
    sde, phi = BOUNDED[name]
    data = phi.inverse(0.4 * torch.randn(4000, 2, generator=g()) + torch.tensor([0.3, -0.5]))
    model = sdegen.DirectModel(sdegen.nets.MLP(2, width=32, depth=2), sde)
    sdegen.fit(model, data, steps=250, batch_size=256, lr=4e-3, seed=0)
    u = phi(sdegen.sample(model, 2000, seed=0))
    assert (u.mean(0) - torch.tensor([0.3, -0.5])).abs().max() < 0.06 and (u.std(0) / 0.4 - 1).abs().max() < 0.15
    x = data[:200]
    want = torch.distributions.Normal(torch.tensor([0.3, -0.5]), 0.4).log_prob(phi(x)).sum(1) + phi.log_det(x)
    assert (want - sdegen.log_prob(model, x)).mean() < 0.06


def test_numbers_that_no_dtype_holds_are_rounded_or_refused() -> None:
    far = torch.tensor([[-300.0, 3.0]])
    assert Log().inverse(far)[0, 0] == torch.finfo(torch.float32).tiny  # not 0, which is no positive number
    one = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[95.0, 0.0]]), torch.tensor([0.01]))
    model = sdegen.Exact(sdegen.VP().in_coordinates(Log()).in_units(one.moments().units()), one)
    with pytest.raises(ValueError, match=r"samples are too large for torch\.float32 in the data's own coordinates"):
        sdegen.sample(model, x_T=torch.randn(4, 2, generator=g()))


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.DDPM(), sdegen.OU()], ids=lambda s: type(s).__name__)
def test_a_linear_process_in_other_coordinates_has_its_law(sde: sdegen.LinearSDE) -> None:
    phi = Whitening(torch.tensor([1.0, -2.0]), TURN)
    moved, x_0 = Transformed(sde, phi), torch.full((4000, 2), 0.5, dtype=d64)
    u = moved.perturb(x_0, 0.3 * sde.T, generator=g()).x
    want = sde.perturb(x_0, 0.3 * sde.T, generator=g(1)).x
    x = phi.inverse(u)
    assert (x.mean(0) - want.mean(0)).abs().max() < 0.08 * want.std() and (
        x.std(0) / want.std(0) - 1
    ).abs().max() < 0.06


def test_whitened_data_are_as_far_from_zero_as_their_mean_is_in_units_of_their_spread() -> None:
    mean = torch.tensor([10.0, -600.0], dtype=torch.float64)
    covariance = torch.tensor([[4.0, 3.0], [3.0, 100.0]], dtype=torch.float64)
    assert sdegen.coordinates.Whitening.of(mean, covariance).offset == pytest.approx(60.0)


@given(noise=st.floats(1e-4, 1e4))
def test_what_a_network_says_has_the_size_of_the_noise_and_that_of_its_square_where_it_is_large(noise: float) -> None:
    found = _size_beyond_base(torch.tensor([noise], dtype=torch.float64))
    assert found.item() == pytest.approx(1 / (noise + noise**2))  # 1 / R where it is small, 1 / R² where it is large
