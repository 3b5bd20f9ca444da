"""Exact scores: whatever the process, every sampler that takes it brings samples of the closed form of the law, and the flow has
its density.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from later import Later
from scipy.stats import kstest, norm
from torch import Tensor

import sdegen
from sdegen import Exact, GaussianMixture, coordinates, samplers
from sdegen.laws import bases
from sdegen.laws.coordinates import Coordinates
from sdegen.models.transformed import TransformedModel
from sdegen.processes.reflected import ReflectedBrownianMotion

d64 = torch.float64
MIXTURE = GaussianMixture(
    torch.tensor([0.4, 0.6]),
    torch.tensor([[1.0, -0.5], [-0.8, 0.6]]),
    torch.tensor([[[0.15, 0.05], [0.05, 0.1]], [[0.1, -0.05], [-0.05, 0.2]]]),
)


class Turning(sdegen.CorrelatedSDE):
    """A drift that turns, and noise that is correlated."""

    T = 3.0

    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([[-1.0, -1.2], [1.2, -1.1]], dtype=d64)

    def G(self, t: Tensor) -> Tensor:
        return torch.tensor([[0.9, 0.0], [0.6, 0.7]], dtype=d64)


class ByAxes(sdegen.CoordinateSDE):
    """Rates that differ along turned axes."""

    T = 3.0
    basis = bases.Axes(torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=d64))
    rates = torch.tensor([1.0, 1.6], dtype=d64)

    def f(self, t: Tensor) -> Tensor:
        return -self.rates.expand(*t.shape, 2)

    def g(self, t: Tensor) -> Tensor:
        return torch.tensor([1.0, 1.5], dtype=d64).expand(*t.shape, 2)


class InverseSinh(Coordinates):
    """``u = asinh(x)``, in which noise that was constant falls like ``1 / cosh u``."""

    elementwise = True

    def __call__(self, x: Tensor) -> Tensor:
        return x.asinh()

    def inverse(self, u: Tensor) -> Tensor:
        return u.sinh()

    def log_det(self, x: Tensor) -> Tensor:
        return -0.5 * x.square().log1p().sum(1)

    def slope(self, x: Tensor) -> Tensor:
        return (1 + x.square()).rsqrt()

    def bend(self, x: Tensor) -> Tensor:
        return -x / (1 + x.square())


class Shear(Coordinates):
    """``u = (x_1, x_2 + sin 2 x_1)``, in which it is a matrix that differs from state to state."""

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], x[:, 1] + (2 * x[:, 0]).sin()], 1)

    def inverse(self, u: Tensor) -> Tensor:
        return torch.stack([u[:, 0], u[:, 1] - (2 * u[:, 0]).sin()], 1)

    def log_det(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))


class Case(NamedTuple):
    """An exact model of one number or two, with draws ``(n, t, seed)`` and log-densities of the states that a run begins with,
    and draws, log-densities and distribution functions of the law at `t` as samples are.
    """

    model: sdegen.ScoreModel
    begin: Callable[[int, float, int], Tensor]
    log_begin: Callable[[Tensor, float], Tensor]
    draw: Callable[[int, float, int], Tensor]
    log_prob: Callable[[Tensor, float], Tensor]
    cdf: Callable[[Tensor, float], Tensor]


def gaussian(sde: sdegen.LinearSDE, phi: Coordinates | None = None, model: sdegen.ScoreModel | None = None) -> Case:
    """The mixture on a linear process whose data are ``phi⁻¹`` of it."""

    def out(u: Tensor) -> Tensor:
        return u if phi is None else phi.inverse(u)

    def into(x: Tensor) -> Tensor:
        return x if phi is None else phi(x)

    def cdf(x: Tensor, t: float) -> Tensor:
        law, u = sde.diffused(MIXTURE, t), into(x)
        std = law.covariances.diagonal(dim1=1, dim2=2).sqrt()
        each = norm.cdf(((u[:, None] - law.means) / std).numpy())
        return torch.tensordot(torch.from_numpy(each), law.weights, ([1], [0]))

    def log_prob(x: Tensor, t: float) -> Tensor:
        return sde.diffused(MIXTURE, t).log_prob(into(x)) + (0 if phi is None else phi.log_det(x))

    known = Exact(sde if phi is None else sde.in_coordinates(phi), MIXTURE)
    begin = lambda n, t, seed: sde.diffused(MIXTURE, t).sample(n, torch.Generator().manual_seed(seed))
    draw = lambda n, t, seed: out(begin(n, t, seed))
    log_begin = lambda u, t: sde.diffused(MIXTURE, t).log_prob(u)
    return Case(known if model is None else model, begin, log_begin, draw, log_prob, cdf)


def seen(sde: sdegen.LinearSDE, phi: Coordinates) -> Case:
    """The mixture on a linear process, as a process of ``phi(x)``: it is not linear, and its noise depends on the state."""
    return gaussian(sde, None, TransformedModel(Exact(sde, MIXTURE), phi))


def later(sde: Any, points: tuple[float, float], noise: float, folds: bool = False) -> Case:
    model = Later(sde, points, noise, getattr(sde, "elapsed", lambda t: t), folds=folds)
    return Case(model, model.draw, model.log_density, model.draw, model.log_density, model.cdf)


LINEAR: dict[str, Callable[[], Case]] = {
    "VP": lambda: gaussian(sdegen.VP()),
    "EDM": lambda: gaussian(sdegen.EDM(sigma_max=20.0)),
    "by coordinate": lambda: gaussian(ByAxes()),
    "correlated": lambda: gaussian(Turning()),
    "VP, between bounds": lambda: gaussian(sdegen.VP(), coordinates.LogOdds()),
}
OTHERS: dict[str, Callable[[], Case]] = {
    "noise by coordinate and state": lambda: seen(sdegen.VE(0.01, 2.0), InverseSinh()),
    "noise in a matrix by state": lambda: seen(Turning(), Shear()),
    "geometric Brownian motion": lambda: later(sdegen.GeometricBrownianMotion(T=4.0), (0.3, 2.0), 0.1),
    "CIR": lambda: later(sdegen.CIR(1.0, 1.5, 0.8, T=3.0), (0.5, 2.0), 0.1),
    "squared Bessel": lambda: later(sdegen.SquaredBessel(6.0, T=3.0), (0.5, 3.0), 0.05),
    "Jacobi": lambda: later(sdegen.Jacobi(2.0, 2.5), (0.1, 0.7), 0.01),
    "circle": lambda: later(sdegen.CircularBrownianMotion(), (3.0, -1.0), 0.003),
    "box": lambda: later(ReflectedBrownianMotion(), (0.05, 0.7), 0.003, folds=True),
}
CASES = LINEAR | OTHERS

# Those that need no more than a score.
OF_SCORES: dict[str, Callable[[], samplers.Sampler]] = {
    "Euler": lambda: samplers.EulerMaruyama(200),
    "Euler, eta 0.5": lambda: samplers.EulerMaruyama(150, eta=0.5),
    "Heun": lambda: samplers.Heun(40),
    "flow": lambda: samplers.ProbabilityFlow(),
    "Langevin": lambda: samplers.Langevin(120, h=0.04, t=0.4),
    "corrected": lambda: samplers.PredictorCorrector(samplers.EulerMaruyama(150)),
    "adaptive": lambda: samplers.AdaptiveSDE(0.02, 0.01),
}
# Those of linear processes.
OF_CLEAN_DATA: dict[str, Callable[[], samplers.Sampler]] = {
    "ancestral": lambda: samplers.Ancestral(300),
    "DDIM": lambda: samplers.DDIM(300),
    "multistep": lambda: samplers.Multistep(30),
    "single step": lambda: samplers.Singlestep(40),
    "exponential SDE": lambda: samplers.ExponentialSDE(60),
    "restart": lambda: samplers.Restart(samplers.Heun(40), [samplers.Interval(0.1, 0.3, 2, 10)]),
    "reverse diffusion": lambda: samplers.ReverseDiffusion(400),
}
NEEDS_AREAS = ("noise in a matrix by state", "adaptive")
CELLS = [(case, kind) for case in CASES for kind in OF_SCORES if (case, kind) != NEEDS_AREAS]
CELLS += [(case, kind) for case in LINEAR for kind in OF_CLEAN_DATA]


def check_law(case: Case, x: Tensor, t: float) -> None:
    """Hold samples against the closed form: Kolmogorov and Smirnov's p on all numbers and uniform on parts of them, and the
    divergence by neighbours at its floor.
    """
    parts = case.cdf(x.double(), t)
    for numbers in parts.T:
        assert kstest(numbers.numpy(), "uniform").pvalue > 1e-3
    assert kstest([kstest(part.numpy(), "uniform").pvalue for part in parts.T.reshape(-1, 40)], "uniform").pvalue > 1e-3
    one, other = case.draw(len(x), t, 5), case.draw(len(x), t, 6)
    floor, found = sdegen.metrics.knn_kl(one, other), sdegen.metrics.knn_kl(x.double(), other)
    assert abs(found.value - floor.value) < 4 * (found.stderr**2 + floor.stderr**2) ** 0.5


@pytest.mark.parametrize(("name", "kind"), CELLS)
@pytest.mark.turns("*")
def test_samples_of_exact_scores_have_the_closed_form(name: str, kind: str) -> None:
    case, sampler = CASES[name](), (OF_SCORES | OF_CLEAN_DATA)[kind]()
    times = sampler.times(case.model.sde, False)
    x_T = case.begin(800, times[0].item(), 1)
    x = sdegen.sample(case.model, x_T=x_T, sampler=sampler, seed=0, final="sample")
    check_law(case, x, times[-1].item())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.turns("*")
def test_densities_of_exact_scores_are_the_closed_form(name: str) -> None:
    case = CASES[name]()
    x = case.draw(6, 0.0, 2)

    class AtTheEnd:
        """The law of the states at T."""

        def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
            return case.begin(n, case.model.sde.T, 3)

        def log_prob(self, x: Tensor) -> Tensor:
            return case.log_begin(x, case.model.sde.T)

    found = sdegen.log_prob(case.model, x, prior=AtTheEnd(), tolerance=3e-6)
    assert (found - case.log_prob(x, 0.0)).abs().max() < 1e-4


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.turns("noise in a matrix by state", "Jacobi", "CIR", "squared Bessel")
def test_samplers_of_clean_data_refuse_what_has_no_posterior_mean(name: str) -> None:
    case = OTHERS[name]()
    for make in OF_CLEAN_DATA.values():
        with pytest.raises((TypeError, ValueError), match=r"which only a LinearSDE has|is not linear"):
            sdegen.sample(case.model, x_T=case.begin(4, case.model.sde.T, 1), sampler=make(), seed=0)


@pytest.mark.slow
def test_steps_of_chosen_length_refuse_noise_whose_areas_they_would_need() -> None:
    model = CASES[NEEDS_AREAS[0]]().model
    x_T = torch.zeros(4, 2, dtype=d64)
    with pytest.raises(
        ValueError, match=r"^noise of Transformed depends on the state and couples .* Lévy areas .* or eta = 0"
    ):
        sdegen.sample(model, x_T=x_T, sampler=samplers.AdaptiveSDE(), seed=0)
    assert sdegen.sample(model, x_T=x_T, sampler=samplers.AdaptiveSDE(eta=0.0), seed=0).isfinite().all()
