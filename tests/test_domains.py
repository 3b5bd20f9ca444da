"""Data and states outside of a domain, and samplers that might leave it: a sentence, or a state inside, for every process with
bounds.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import coordinates, nets, samplers
from sdegen.processes.dynamics import diffusion_at

d64 = torch.float64


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Bounded(NamedTuple):
    """A process, data of two numbers in its domain, and one row outside of it."""

    make: Callable[[], sdegen.SDE]
    data: Callable[[Tensor], Tensor]
    outside: list[float]
    width: int = 2


positive = Tensor.exp
PROCESSES = {
    "geometric Brownian motion": Bounded(sdegen.GeometricBrownianMotion, positive, [1.0, -0.1]),
    "CIR": Bounded(sdegen.CIR, positive, [1.0, -0.1]),
    "squared Bessel": Bounded(sdegen.SquaredBessel, positive, [1.0, -0.1]),
    "Jacobi": Bounded(lambda: sdegen.Jacobi(2.0, 2.0), Tensor.sigmoid, [0.5, 1.1]),
    "circle": Bounded(sdegen.CircularBrownianMotion, lambda z: 3 * z.tanh(), [0.5, 3.2], 4),
    "box": Bounded(lambda: sdegen.ReflectedBrownianMotion(-1.0, 2.0), lambda z: 2 * z.sigmoid(), [0.5, 2.1], 4),
    "in coordinates": Bounded(lambda: sdegen.Transformed(sdegen.CIR(), coordinates.Log()), positive, [1.0, -0.1]),
    "data in coordinates": Bounded(
        lambda: sdegen.VP().in_coordinates(coordinates.LogOdds()), Tensor.sigmoid, [0.5, 1.1]
    ),
}


def model_of(name: str) -> sdegen.ScoreModel:
    """A model of two steps of training, with weights that none would have found."""
    sde = PROCESSES[name].make()
    kind = sdegen.Model if sde.is_linear else sdegen.DirectModel
    torch.manual_seed(0)
    model = kind(nets.MLP(PROCESSES[name].width, width=8, depth=1), sde)
    model.moments = sdegen.moments_of(PROCESSES[name].data(torch.randn(200, 2, generator=g())))
    with torch.no_grad():
        for i, weight in enumerate(model.parameters()):
            weight += 0.2 * torch.randn(weight.shape, generator=g(i))
    return model


DOORS: dict[str, Callable[[Any, Tensor], Any]] = {
    "fit": lambda model, x: sdegen.fit(model, x.float(), steps=2, progress=False),
    "log_prob": lambda model, x: sdegen.log_prob(model, x),
    "encode": lambda model, x: samplers.encode(model, x),
    "perturb": lambda model, x: model.sde.perturb(x, 0.5),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_data_outside_of_a_domain_are_refused_at_every_door(name: str) -> None:
    good = PROCESSES[name].data(torch.randn(3, 2, dtype=d64, generator=g()))
    x = torch.cat([good, torch.tensor([PROCESSES[name].outside], dtype=d64)])
    for door, call in DOORS.items():
        with pytest.raises(ValueError, match=r"^(x|x_0|data) has \d+ values outside of the domain [^.]") as refused:
            call(model_of(name), x)
        remedy = "bring angles of other turns there, torch.rem" if name == "circle" else "remove them"
        assert f": {PROCESSES[name].outside[1]} is among them; {remedy}" in str(refused.value), door


def test_what_a_refusal_of_angles_says_to_do_brings_them_into_the_domain() -> None:
    x, sde = torch.tensor([[0.5, 3.2, -math.pi, 100.0]]).double(), sdegen.CircularBrownianMotion()
    with pytest.raises(ValueError, match="outside of the domain") as refused:
        sde.perturb(x, 0.5)
    u = eval(str(refused.value).split("there, ")[1].rstrip("."), {"torch": torch, "math": math, "x": x})
    assert sde.perturb(u, 0.5).x.shape == x.shape
    torch.testing.assert_close(torch.stack([u.cos(), u.sin()]), torch.stack([x.cos(), x.sin()]), rtol=0, atol=1e-12)


def test_a_row_that_is_off_the_simplex_is_counted_as_one() -> None:
    x = torch.tensor([[0.5, 0.5, 0.5], [0.2, 0.3, 0.5]])
    with pytest.raises(ValueError, match=r"^x has 1 rows outside of the domain simplex; remove them"):
        sdegen.coordinates.StickBreaking().check(x)


@pytest.mark.parametrize("name", [n for n in PROCESSES if "coordinates" not in n])
def test_states_outside_of_a_domain_are_refused(name: str) -> None:
    sde = PROCESSES[name].make()
    x = torch.tensor([PROCESSES[name].outside], dtype=d64)
    with pytest.raises(ValueError, match=r"^x_s has 1 values outside of the domain"):
        sde.kernel(x, 0.1, 0.2)
    with pytest.raises(ValueError, match="outside of the domain"):
        sdegen.simulate(sde, x, 0.1, 0.2, steps=2)
    if sde.free is None:  # a model of the others is in coordinates that have no bounds
        with pytest.raises(ValueError, match=r"^x_T has 1 values outside of the domain"):
            sdegen.sample(model_of(name), x_T=x, steps=2)
        with pytest.raises(ValueError, match=r"^z has 1 values outside of the domain"):
            samplers.decode(model_of(name), x)


def test_states_in_coordinates_that_have_ends_of_their_own_are_refused_beyond_these() -> None:
    model = sdegen.DirectModel(nets.MLP(2, width=8, depth=1), sdegen.Jacobi.of_dirichlet(torch.tensor([2.0, 3.0, 2.0])))
    x_T = torch.tensor([[0.2, 1.2]], dtype=d64)
    with pytest.raises(ValueError, match=r"^x_T has 1 values outside of the domain .*1.2 is among them"):
        sdegen.sample(model, x_T=x_T, steps=2)


@pytest.mark.parametrize("name", [n for n in PROCESSES if n not in ("data in coordinates",)])
def test_a_score_is_refused_where_there_is_no_noise(name: str) -> None:
    sde = PROCESSES[name].make()
    x = sde.lift(PROCESSES[name].data(torch.randn(3, 2, dtype=d64, generator=g())))
    for ask in ("score", "log_prob"):
        with pytest.raises(ValueError, match=r"asked for at a time without noise, where the state is known"):
            getattr(sde.kernel(x, 0.5, 0.5), ask)(x)


class Vanishes(sdegen.SDE):
    """Noise that is none where the state is 0."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return x


def test_a_score_is_refused_where_the_noise_of_a_process_of_ones_own_vanishes() -> None:
    x = torch.tensor([[0.5, 0.0], [1.0, 2.0]], dtype=d64)
    with pytest.raises(ValueError, match=r"the state has no noise in some direction"):
        Vanishes().kernel(x, 0.1, 0.2).score(x)


class PerCoordinate(sdegen.SDE):
    """Noise of one number for each coordinate, which may be read as one for each row."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tensor([0.5, 1.0, 2.0], dtype=x.dtype)


class PerRow(PerCoordinate):
    """Noise of one number for each row."""

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return 1 + x.square().sum(1)


def test_noise_by_coordinate_is_never_read_as_noise_by_row() -> None:
    for rows in (1, 2, 3, 5):
        x = torch.ones(rows, 3, dtype=d64)
        with pytest.raises(ValueError, match=r"one for each number of the state, \(\d, 3\) or \(1, 3\)") as refused:
            diffusion_at(PerCoordinate(), x, torch.tensor(0.5, dtype=d64))
        assert (rows == 3) == ("a number for each of 3 coordinates, which is no rule for rows" in str(refused.value))
        G = diffusion_at(PerRow(), x, torch.tensor(0.5, dtype=d64))
        assert torch.equal(G(torch.ones_like(x)), torch.full_like(x, 4.0))


# Every sampler: how it is made of a number of steps.
SAMPLERS: dict[str, Callable[[int], samplers.Sampler | None]] = {
    "default": lambda n: None,
    "Euler": samplers.EulerMaruyama,
    "Euler, eta 3": lambda n: samplers.EulerMaruyama(n, eta=3.0),
    "Heun": samplers.Heun,
    "rk4": lambda n: samplers.ProbabilityFlow(n, method="rk4"),
    "Langevin": samplers.Langevin,
    "annealed": samplers.AnnealedLangevin,
    "corrected": lambda n: samplers.PredictorCorrector(samplers.EulerMaruyama(n)),
    "ancestral": samplers.Ancestral,
    "DDIM": samplers.DDIM,
    "multistep": samplers.Multistep,
    "single step": samplers.Singlestep,
    "exponential SDE": samplers.ExponentialSDE,
    "churn": samplers.Churn,
    "reverse diffusion": samplers.ReverseDiffusion,
    "restart": lambda n: samplers.Restart(samplers.Heun(n), [samplers.Interval(0.1, 0.3, 2, n)]),
}


def drawn(model: sdegen.ScoreModel, make: Any, steps: int) -> Tensor | None:
    """The path of a sampler, or None where it is refused in a sentence."""
    refusals = "which only a LinearSDE has|is not linear|non-finite|too large|could not be followed"
    try:
        sampler = make(steps)
        more: dict[str, Any] = {"steps": steps} if sampler is None else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sdegen.sample(model, 16, sampler=sampler, seed=0, return_path=True, **more)
    except (ValueError, TypeError) as refused:
        if re.search(refusals, str(refused)) is None:
            raise
        return None


@pytest.mark.turns(
    "geometric Brownian motion", "CIR", "squared Bessel", "Jacobi", "in coordinates", "data in coordinates"
)
@pytest.mark.parametrize("name", PROCESSES)
def test_no_step_of_any_sampler_leaves_a_domain_silently(name: str) -> None:
    model = model_of(name)
    inside = 0
    for kind, make in SAMPLERS.items():
        for steps in (3, 7, 50):
            path = drawn(model, make, steps)
            if path is None:
                continue
            assert path.isfinite().all() and model.sde.data_domain.check(path).all(), (kind, steps)
            inside += 1
    assert inside >= 12


STARTS = {
    "VP": sdegen.VP, "CLD": sdegen.CLD, "OU": sdegen.OU, "geometric": sdegen.GeometricBrownianMotion, "CIR": sdegen.CIR,
    "Bessel": sdegen.SquaredBessel, "Jacobi": sdegen.Jacobi, "reflected": sdegen.ReflectedBrownianMotion,
    "circle": sdegen.CircularBrownianMotion, "double well": sdegen.DoubleWell,
}  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("share", [1e-4, 0.02, 0.6])
def test_states_have_the_derivative_of_their_quantile_by_the_data_or_it_is_refused(name: str, share: float) -> None:
    sde, draws = STARTS[name](), torch.Generator().manual_seed(3)
    x = 0.3 + 0.4 * torch.rand(6, 2, dtype=torch.float64, generator=draws)
    z = torch.randn(sde.embed(x).shape, dtype=torch.float64, generator=draws)
    where, t = x.clone().requires_grad_(), share * sde.T
    if name in ("CIR", "Bessel", "Jacobi"):
        with pytest.raises(
            ValueError, match=r"^draws of \w+ have no derivative by their start or noise; give x.detach"
        ):
            sde.perturb(where, t, z)
        with torch.no_grad():
            assert torch.equal(sde.perturb(where, t, z).x, sde.perturb(x, t, z).x)
        return

    def noised(x: Tensor) -> Tensor:
        torch.manual_seed(5)  # of what the double well draws besides `z`
        return sde.perturb(x, t, z).x

    (slope,) = torch.autograd.grad(noised(where).sum(), where)
    up, down = (noised(x + e) for e in (1e-6, -1e-6))
    rise = (up - down).reshape(6, -1, 2).sum(1) / 2e-6  # over the channels of a state
    torch.testing.assert_close(slope, rise, rtol=1e-5, atol=1e-5)
