"""Derivatives by what processes, laws and samplers are made of: those of differences, or refused in a sentence."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids, samplers

RING = sdegen.data.gaussian_ring()
X = RING.sample(2, torch.Generator().manual_seed(0))
X_T = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TIMES = grids.Given(torch.linspace(0.97, 0.02, 4, dtype=torch.float64))
STANDARD = torch.distributions.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
KEPT: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda beta: beta, lambda kept: kept),
    "list": (lambda beta: [1.0, beta], lambda kept: kept[1]),
    "dict": (lambda beta: {"beta": (beta,)}, lambda kept: kept["beta"][0]),
}


def of_beta(kind: str, beta: Tensor, place: str) -> sdegen.LinearSDE:
    """Make a process that keeps a number as an attribute."""
    put, get = KEPT[place]

    class Quadrature(sdegen.ScalarSDE):
        def __init__(self, beta: Tensor) -> None:
            self.kept = put(beta)

        def f(self, t: Tensor) -> Tensor:
            return -get(self.kept) * t

        def g(self, t: Tensor) -> Tensor:
            return (2 * get(self.kept) * t + 0.1).sqrt()

    class Closed(Quadrature):
        def alpha(self, t: Tensor) -> Tensor:
            return (-0.5 * get(self.kept) * t * t).exp()

        def sigma(self, t: Tensor) -> Tensor:
            return (1 + 1e-3 - self.alpha(t) ** 2).sqrt()

    class Schedule(sdegen.ScheduleSDE):
        def __init__(self, beta: Tensor) -> None:
            self.kept = put(beta)

        def alpha(self, t: Tensor) -> Tensor:
            return (-0.5 * get(self.kept) * t * t).exp()

        def sigma(self, t: Tensor) -> Tensor:
            return t + 0.01

    class ByRates(sdegen.CoordinateSDE):
        def __init__(self, beta: Tensor) -> None:
            self.kept = put(beta)

        def f(self, t: Tensor) -> Tensor:
            return -t[..., None] * get(self.kept) * torch.tensor([1.0, 2.0], dtype=torch.float64)

        def g(self, t: Tensor) -> Tensor:
            return (1 + t[..., None] * get(self.kept) * torch.ones(2, dtype=torch.float64)).sqrt()

    class Correlated(sdegen.CorrelatedSDE):
        def __init__(self, beta: Tensor) -> None:
            self.kept = put(beta)

        def F(self, t: Tensor) -> Tensor:
            return -get(self.kept) * torch.eye(2, dtype=torch.float64)

        def G(self, t: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.3], [0.0, 0.8]], dtype=torch.float64)

    return {c.__name__: c for c in (Quadrature, Closed, Schedule, ByRates, Correlated)}[kind](beta)


def run(sampler: samplers.Sampler) -> Callable[[sdegen.Exact], Tensor]:
    return lambda m: sdegen.sample(m, x_T=X_T, sampler=sampler, seed=0, grad=True).square().sum()


HALF = torch.tensor(0.5, dtype=torch.float64)  # an edge of the panels of a quadrature
READINGS: dict[str, Callable[[sdegen.Exact], Tensor]] = {
    "signal": lambda m: m.sde.marginal(HALF).Phi(X).sum(),
    "noise": lambda m: m.sde.marginal(HALF).R(X).sum(),
    "noise of a step": lambda m: m.sde.transition(0.3, HALF).R(X).sum(),
    "log snr": lambda m: m.sde.log_snr(HALF).sum(),
    "time": lambda m: m.sde.time(torch.tensor(0.7, dtype=torch.float64)),
    "score": lambda m: m.score(X, HALF).square().sum(),
    "sample": run(samplers.DDIM(4, grid=TIMES)),
    "sample of several stages": run(samplers.Multistep(4, grid=TIMES)),
    "sample with noise": run(samplers.ExponentialSDE(4, grid=TIMES)),
    "adaptive sample": run(samplers.ProbabilityFlow(rtol=1e-2, grid=grids.Uniform(0.9, 0.2))),
    "density": lambda m: sdegen.log_prob(m, X, grad=True, steps=4, method="rk4").sum(),
    "density by a prior": lambda m: sdegen.log_prob(m, X, grad=True, steps=4, method="rk4", prior=STANDARD).sum(),
    "diffused law": lambda m: m.sde.diffused(RING, 0.5).log_prob(X).sum(),
}


def by_autograd(f: Callable[[Tensor], Tensor], beta: Tensor) -> Tensor:
    beta = beta.clone().requires_grad_()
    value = f(beta)
    return torch.autograd.grad(value, beta)[0] if value.requires_grad else torch.tensor(float("nan"))


ALONG: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "grad": lambda f, beta: torch.func.grad(f)(beta),
    "vjp": lambda f, beta: torch.func.vjp(f, beta)[1](torch.ones_like(beta))[0],
    "jvp": lambda f, beta: torch.func.jvp(f, (beta,), (torch.ones_like(beta),))[1],
    "jacfwd": lambda f, beta: torch.func.jacfwd(f)(beta),
    "jacrev": lambda f, beta: torch.func.jacrev(f, chunk_size=1)(beta),
    "autograd": by_autograd,
}
SLOW = pytest.param("Correlated", marks=pytest.mark.slow)
REFUSED = (
    r"derivatives|a tensor that torch\.func transforms|torch\.func does not follow|torch\.func\.vmap does not follow"
)


@pytest.mark.thinned(2)
@pytest.mark.filterwarnings("ignore:.*hardly forgotten", "ignore:.*will not have the spread")
@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("kind", ["Quadrature", "Closed", "Schedule", "ByRates", SLOW])
def test_derivatives_by_an_attribute_of_a_process_are_those_of_differences_or_refused(kind: str, reading: str) -> None:
    draw = random.Random(f"{kind} {reading}")
    beta, h = torch.tensor(draw.uniform(3.0, 5.0), dtype=torch.float64), 1e-4
    along, place = draw.choice([*ALONG]), draw.choice([*KEPT])

    def value(beta: Tensor) -> Tensor:
        return READINGS[reading](sdegen.Exact(of_beta(kind, beta, place), RING))

    if reading == "diffused law" and along == "autograd":
        along = "grad"  # its value is no derivative's
    failure, found = "", torch.zeros(())
    try:
        found = ALONG[along](value, beta)
    except (RuntimeError, ValueError) as error:
        failure = str(error)
    if failure:
        assert re.search(REFUSED, failure)
        batched = along == "jacfwd" and "sample" in reading
        assert batched or reading in ("density", "density by a prior", "diffused law", "adaptive sample"), failure
        return
    want = (value(beta + h) - value(beta - h)) / (2 * h)
    torch.testing.assert_close(found, want, rtol=1e-2 if reading == "adaptive sample" else 1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*hardly forgotten", "ignore:.*will not have the spread")
def test_what_is_chosen_for_a_run_counts_as_constant() -> None:
    """The default sampler follows from the process; its stops are not differentiated."""
    beta, h = torch.tensor(4.0, dtype=torch.float64), 1e-5
    first = sdegen.Exact(of_beta("Closed", beta, "tensor"), RING)
    chosen = samplers.default(first, 5)
    times = chosen.times(first.sde, True)

    class Then(samplers.Multistep):
        def times(self, sde: Any, denoise: bool = True) -> Tensor:
            return times

    then = copy.copy(chosen)
    then.__class__ = Then
    held, free = run(then), lambda m: sdegen.sample(m, x_T=X_T, steps=5, seed=0, grad=True).square().sum()

    def value(reading: Callable[[sdegen.Exact], Tensor], beta: Tensor) -> Tensor:
        return reading(sdegen.Exact(of_beta("Closed", beta, "tensor"), RING))

    want = (value(held, beta + h) - value(held, beta - h)) / (2 * h)
    found, same = (torch.func.grad(lambda b, reading=reading: value(reading, b))(beta) for reading in (free, held))
    torch.testing.assert_close(found, same, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, want, rtol=1e-3, atol=0.0)  # the sampler's clock interpolates in a table


def test_a_derivative_is_found_after_values_were_asked_for_without() -> None:
    """Panels that were made where nothing is recorded are none to differentiate through."""
    beta = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    sde = of_beta("Quadrature", beta, "tensor")
    with torch.no_grad():
        before = sde.sigma(HALF)
    (slope,) = torch.autograd.grad(sde.sigma(HALF.clone()), beta)
    other, h = [], 1e-4
    for s in (h, -h):
        other.append(of_beta("Quadrature", beta.detach() + s, "tensor").sigma(HALF))
    torch.testing.assert_close(slope, (other[0] - other[1]) / (2 * h), rtol=1e-6, atol=0.0)
    assert torch.equal(before, sde.sigma(HALF.clone()).detach())


CONSTANTS: dict[str, Callable[[Tensor], object]] = {
    "VP": lambda v: sdegen.VP(beta_max=v),
    "OU": lambda v: sdegen.OU(rate=v),
    "VE": lambda v: sdegen.VE(sigma_max=v),
    "EDM": lambda v: sdegen.EDM(sigma_max=v),
    "DDPM": lambda v: sdegen.DDPM(0.01 * torch.ones(5) * v),
    "LearnedSDE": lambda v: sdegen.processes.LearnedSDE(rate=v),
    "means": lambda v: sdegen.GaussianMixture(torch.ones(1), v.expand(1, 2), torch.ones(1)),
    "covariances": lambda v: sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), v.expand(1)),
    "law of torch": lambda v: sdegen.Exact(sdegen.VP(), torch.distributions.Normal(v.expand(2), torch.ones(2))),
    "ring": lambda v: sdegen.data.gaussian_ring(std=v),
    "units": lambda v: sdegen.Units(torch.zeros(()), v),
    "eta": lambda v: samplers.DDIM(5, eta=v / 9),
    "scale": lambda v: grids.Angle(scale=v),
    "Given": lambda v: grids.Given(torch.tensor([0.9, 0.5]) * v / 9),
    "time": lambda v: sdegen.OU(T=v),
}
MEANT: dict[str, Callable[[Callable[[Tensor], Tensor]], object]] = {
    "grad": lambda f: torch.func.grad(f)(torch.tensor(4.0)),
    "jvp": lambda f: torch.func.jvp(f, (torch.tensor(4.0),), (torch.tensor(1.0),)),
    "vmap": lambda f: torch.func.vmap(f)(torch.tensor([4.0, 5.0])),
    "nested": lambda f: torch.func.vmap(torch.func.grad(f))(torch.tensor([4.0, 5.0])),
    "autograd": lambda f: f(torch.tensor(4.0, requires_grad=True)),
}


@pytest.mark.parametrize("meant", MEANT)
@pytest.mark.parametrize("kept", CONSTANTS)
def test_what_is_kept_as_a_constant_is_not_to_be_differentiated_by(kept: str, meant: str) -> None:
    def make(value: Tensor) -> Tensor:
        CONSTANTS[kept](value)
        return 2 * value

    if meant not in ("vmap", "nested"):
        with pytest.raises(ValueError, match=r"is a tensor whose derivatives are asked for, and is kept as a constant"):
            MEANT[meant](make)
    else:  # numbers of a batch cannot be read, which torch says where a check reads them first
        with pytest.raises((ValueError, RuntimeError), match=r"is kept as a constant|^vmap:|vmap does not follow"):
            MEANT[meant](make)


@pytest.mark.parametrize("kept", sorted({*CONSTANTS} - {"DDPM"}))  # whose table is made by SciPy
def test_constants_within_a_transformation_are_taken(kept: str) -> None:
    def value(x: Tensor) -> Tensor:
        CONSTANTS[kept](2.0 * torch.tensor(2.0))
        return x

    assert torch.func.grad(value)(torch.tensor(1.0)) == 1
    with torch.no_grad():
        CONSTANTS[kept](torch.tensor(4.0, requires_grad=True))


@pytest.mark.parametrize("kind", ["scalar", pytest.param("matrices", marks=pytest.mark.slow)])
def test_a_number_that_coefficients_close_over_has_derivatives_as_often_as_they_are_asked_for(kind: str) -> None:
    """Also after a run that recorded none: what was remembered of it has no part in the next."""
    beta = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    class Scalar(sdegen.ScalarSDE):
        def f(self, t: Tensor) -> Tensor:
            return -beta * (1 + t)

        def g(self, t: Tensor) -> Tensor:
            return (2 * beta * (1 + t)).sqrt()

    class Matrices(sdegen.CorrelatedSDE):
        def F(self, t: Tensor) -> Tensor:
            return -beta * torch.eye(2, dtype=torch.float64)

        def G(self, t: Tensor) -> Tensor:
            return torch.tensor([[1.0, 0.3], [0.0, 0.8]], dtype=torch.float64)

    model = sdegen.Exact(Scalar() if kind == "scalar" else Matrices(), RING)

    def readings() -> list[Tensor]:
        return [READINGS["score"](model), READINGS["sample of several stages"](model)]

    with torch.no_grad():
        readings()
        beta += 1e-5
        more = readings()
        beta -= 2e-5
        less = readings()
        beta += 1e-5
    for _ in range(2):
        for value, a, b in zip(readings(), more, less, strict=True):
            (slope,) = torch.autograd.grad(value, beta)
            torch.testing.assert_close(slope, (a - b) / 2e-5, rtol=1e-3, atol=1e-4)


class HoldsNetwork(sdegen.ScalarSDE):
    """A process that is no module and whose noise is a network's, which torch lets require gradients from the start."""

    def __init__(self) -> None:
        self.net = torch.nn.Linear(1, 1).double()

    def f(self, t: Tensor) -> Tensor:
        return -2 - t

    def g(self, t: Tensor) -> Tensor:
        return 1 + self.net(t.reshape(-1, 1)).square().reshape(t.shape)


def test_a_density_by_x_alone_is_had_as_the_refusal_says() -> None:
    model, x, h = sdegen.Exact(HoldsNetwork(), RING), X.double(), 1e-5

    def density(x: Tensor) -> Tensor:
        return sdegen.log_prob(model, x, grad=True, steps=4, method="rk4")

    with pytest.raises(ValueError, match=r"for derivatives by x alone call its requires_grad_\(False\)"):
        density(x)
    model.sde.net.requires_grad_(False)
    at = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(density(at).sum(), at)
    step = torch.tensor([h, 0.0], dtype=torch.float64)
    torch.testing.assert_close(slope[:, 0], (density(x + step) - density(x - step)) / (2 * h), rtol=1e-5, atol=1e-6)
