"""Noise that depends on the state: its divergence in the reversed drift, laws after sampling, likelihoods and orders."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import kstest
from torch import Tensor

import sdegen
from sdegen import Diagonal, Matrix, samplers
from sdegen.processes.simulate import simulate

d64 = torch.float64


def rotating(x: Tensor) -> Matrix:
    """A matrix for each state of two numbers, every entry of which depends on both."""
    a, b = x[:, 0], x[:, 1]
    return Matrix(torch.stack([1 + a * b, b.sin(), a.square(), 2 + (a - b).cos()], 1).reshape(-1, 2, 2))


FORMS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Any]]] = {
    "a number of one": ((), lambda x: 1 + x.square()),
    "a number for each row": ((2,), lambda x: (1 + x.square().sum(1)).sqrt()),
    "by coordinate": ((3,), lambda x: 1 + 0.5 * x.sin()),
    "by coordinate, of the others": ((3,), lambda x: 1 + 0.5 * x.roll(1, 1).sin() * x),
    "by coordinate of images": ((2, 3, 3), lambda x: 0.1 + x.square()),
    "an operator": ((2, 2), lambda x: Diagonal(1 + x.roll(1, 2).square())),
    "matrices": ((2,), rotating),
    "matrices over places": ((2, 3), lambda x: Matrix(rotating(x.mean(2)).M)),
}


def own(form: Callable[[Tensor], Any]) -> sdegen.SDE:
    class Own(sdegen.SDE):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            return x.cos()

        def diffusion(self, x: Tensor, t: Tensor) -> Any:
            return form(x)

    return Own()


def dense(form: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """``G Gᵀ`` as a matrix over all numbers of one state, written out."""
    G, d = form(x[None]), x.numel()
    if isinstance(G, Matrix):
        M = G.M.reshape(G.M.shape[-2:])
        M = torch.kron(M, torch.eye(d // len(M), dtype=d64))
    else:
        c = G.c if isinstance(G, Diagonal) else torch.as_tensor(G)
        M = torch.diag(c.reshape(-1).expand(d))
    return M @ M.T


class Known(sdegen.ScoreModel):
    def __init__(self, sde: sdegen.SDE) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor | float, **cond: object) -> Tensor:
        return (2 * x).sin() - x


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_reversed_drift_has_the_divergence_of_the_noise(name: str, eta: float) -> None:
    shape, form = FORMS[name]
    sde = own(form)
    x = torch.randn(4, *shape, dtype=d64, generator=torch.Generator().manual_seed(0))
    score = Known(sde).score(x, 0.3)
    want, h = torch.empty_like(x), 1e-5
    for b, row in enumerate(x):
        flat, total = row.reshape(-1), torch.zeros(row.numel(), dtype=d64)
        for j in range(len(flat)):
            step = h * torch.eye(len(flat), dtype=d64)[j]
            high, low = (dense(form, (flat + s * step).reshape(row.shape)) for s in (1, -1))
            total += (high - low)[:, j] / (2 * h)
        pull = total + dense(form, row) @ score[b].reshape(-1)
        want[b] = row.cos() - 0.5 * (1 + eta**2) * pull.reshape(row.shape)
    found = sde.reverse(Known(sde), eta).drift(x, torch.tensor(0.3))
    assert (found - want).abs().max() < 1e-8 * (1 + want.abs().max())
    alone = sde.reverse(Known(sde), eta).drift(x[:1], torch.tensor(0.3))  # of one state as of several
    assert (alone - want[:1]).abs().max() < 1e-8 * (1 + want.abs().max())


@pytest.mark.parametrize("name", [name for name, (shape, _) in FORMS.items() if shape])
def test_a_process_at_rest_reversed_is_itself(name: str) -> None:
    """With ``f = ½ (∇·A + A ∇ log p)`` a process is reversible: reversed in time it has the drift ``f`` again."""
    shape, form = FORMS[name]

    def divergence(x: Tensor) -> Tensor:
        def of_one(v: Tensor) -> Tensor:
            J = torch.func.jacfwd(lambda u: dense(form, u.reshape(shape)))(v)
            return torch.einsum("ijj->i", J)

        return torch.stack([of_one(row.reshape(-1)).reshape(shape) for row in x])

    class AtRest(sdegen.SDE):
        def drift(self, x: Tensor, t: Tensor) -> Tensor:
            A = torch.stack([dense(form, row) for row in x])
            return 0.5 * (divergence(x) + torch.einsum("bij,bj->bi", A, score(x).flatten(1)).reshape(x.shape))

        def diffusion(self, x: Tensor, t: Tensor) -> Any:
            return form(x)

    def score(x: Tensor) -> Tensor:
        return Known(AtRest()).score(x, 0.0).reshape(x.shape)

    sde = AtRest()
    x = torch.randn(3, *shape, dtype=d64, generator=torch.Generator().manual_seed(1))
    f = sde.drift(x, torch.tensor(0.5))
    assert (sde.reverse(Known(sde)).drift(x, torch.tensor(0.5)) + f).abs().max() < 1e-9 * (1 + f.abs().max())


class LogNormal:
    """Independent coordinates whose logarithms are normal."""

    def __init__(self, mean: float, variance: float, d: int = 2) -> None:
        self.mean, self.variance, self.d = mean, variance, d

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return (self.mean + math.sqrt(self.variance) * torch.randn(n, self.d, generator=generator, dtype=d64)).exp()

    def log_prob(self, x: Tensor) -> Tensor:
        z = (x.log() - self.mean) / math.sqrt(self.variance)
        return (-0.5 * z.square() - 0.5 * math.log(2 * math.pi * self.variance) - x.log()).sum(1)


class Standing(sdegen.ScoreModel):
    """A model of the standard normal at every time of a process whose noise depends on the state."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        self.sde = own(form)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        return -x


@pytest.mark.parametrize(
    "form", [lambda x: 1 + 0.5 * x.sin(), lambda x: (1 + x.square()).sqrt(), lambda x: 0.8 + 0 * x]
)
def test_langevin_leaves_its_law_as_it_is_where_noise_depends_on_the_state(form: Callable[[Tensor], Tensor]) -> None:
    """Under the law that stays, ``E[f' b + f'' a] = 0`` for the drift `b` and half the variance `a` of a short step."""
    z, w = (torch.from_numpy(v) for v in hermegauss(60))
    x, h, model = z[:, None], 1e-3, Standing(form)
    sampler = samplers.Langevin(1, h=h, t=0.7)
    (c,) = sampler.plan(model, sampler.times(model.sde, False))
    still, moved = (sampler.step(model, x, c, noise, None)[0] for noise in (torch.zeros_like, torch.ones_like))
    drift, half = ((still - x) / h)[:, 0], ((moved - still).square() / (2 * h))[:, 0]
    assert torch.allclose(half, 0.7 * form(x)[:, 0].square())
    for slope, bend in ((z.cos(), -z.sin()), (2 * z, 2 + 0 * z), (4 * z**3, 12 * z**2), (1 + 0 * z, 0 * z)):
        assert ((w / w.sum()) @ (slope * drift + bend * half)).abs() < 1e-6


class Geometric(sdegen.SDE):
    """Geometric Brownian motion, as a user writes it."""

    def __init__(self, mu: float = 0.1, sigma: float = 0.5) -> None:
        self.mu, self.sigma = mu, sigma

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.mu * x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return self.sigma * x

    def law(self, t: float) -> LogNormal:
        return LogNormal((self.mu - 0.5 * self.sigma**2) * t, 0.04 + self.sigma**2 * t)

    def prior(self, moments: sdegen.Moments) -> LogNormal:
        return self.law(self.T)


class Truth(sdegen.ScoreModel):
    def __init__(self, sde: Geometric) -> None:
        self.sde: Geometric = sde
        self.moments = sdegen.Moments(torch.ones(2, dtype=d64), 0.04 * torch.eye(2, dtype=d64))

    def score(self, x: Tensor, t: Tensor | float, **cond: object) -> Tensor:
        law = self.sde.law(float(torch.as_tensor(t)))
        return -((x.log() - law.mean) / law.variance + 1) / x


RUNS: list[samplers.Sampler] = [
    samplers.EulerMaruyama(1000),
    samplers.EulerMaruyama(1000, eta=0.5),
    samplers.Heun(40),
    samplers.ProbabilityFlow(),
]


@pytest.mark.parametrize("sampler", RUNS, ids=repr)
@pytest.mark.turns("*eta=0.5)")
def test_samples_of_the_exact_score_have_the_law_of_the_data(sampler: samplers.Sampler) -> None:
    sde = Geometric()
    x = sdegen.sample(Truth(sde), 1500, sampler=sampler, seed=0).log()
    law = sde.law(1e-3)
    assert kstest(((x - law.mean) / math.sqrt(law.variance)).reshape(-1).numpy(), "norm").pvalue > 1e-3


def test_likelihood_of_the_exact_score_is_the_closed_form() -> None:
    sde = Geometric()
    x = sde.law(0.0).sample(9, torch.Generator().manual_seed(0))
    assert (sdegen.log_prob(Truth(sde), x) - sde.law(0.0).log_prob(x)).abs().max() < 1e-5


@pytest.mark.parametrize(("method", "order"), [("euler", 0.5), ("milstein", 1.0), ("srk", 1.5)])
def test_simulation_has_its_strong_order(method: str, order: float, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchsde

    paths = []

    class Kept(torchsde.BrownianInterval):  # type: ignore[misc]
        """A path that steps of every length see."""

        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **(more | {"dt": 1 / 256}))
            paths.append(self)

    monkeypatch.setattr(torchsde, "BrownianInterval", Kept)
    sde, errors = Geometric(), []
    for steps in (16, 32, 64, 128):
        start = torch.ones(2000, 1, dtype=d64)
        x = simulate(sde, start, 0.0, 1.0, steps=steps, method=method, generator=torch.Generator().manual_seed(3))
        W = paths[-1](0.0, 1.0)
        W = W if isinstance(W, Tensor) else W[0]
        errors.append((x - ((sde.mu - 0.5 * sde.sigma**2) + sde.sigma * W).exp()).abs().mean().log2())
    assert (errors[0] - errors[-1]).item() / 3 > order - 0.15


@pytest.mark.parametrize("method", ["milstein", "srk"])
def test_a_method_that_needs_areas_of_the_noise_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"couples the coordinates of Own.*Lévy areas.*euler"):
        simulate(own(rotating), torch.ones(3, 2, dtype=d64), 0.0, 1.0, method=method)


def test_noised_data_have_the_law_of_the_process() -> None:
    sde = Geometric()
    x_0 = sde.law(0.0).sample(4000, torch.Generator().manual_seed(0))
    for t in (0.05, 0.5, 1.0):
        x = sde.perturb(x_0, t, generator=torch.Generator().manual_seed(1)).x
        law = sde.law(t)
        z = (x.log() - law.mean) / math.sqrt(law.variance)
        assert abs(z.mean()) < 0.04 and abs(z.std() - 1) < 0.03


def test_data_without_noise_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"Geometric\.diffusion is zero at some of the data"):
        Geometric().perturb(torch.zeros(5, 2), 0.5)


class RootOfState(sdegen.SDE):
    """A process that is written for data as they are, which are positive."""

    def drift(self, x: Any, t: Any) -> Any:
        return 1 - x

    def diffusion(self, x: Any, t: Any) -> Any:
        return x.clamp_min(0.0).sqrt()


def test_a_process_of_the_data_as_they_are_is_told_how_to_say_so() -> None:
    x_0 = 1 + torch.rand(64, 2, generator=torch.Generator().manual_seed(0))
    mean, std = torch.full((), 1.5), torch.full((), 0.3)
    with pytest.raises(ValueError, match=r"data in units of mean 1\.5 and scale 0\.3.*sde\.in_units\(Units\(\)\)"):
        RootOfState().in_units(sdegen.laws.Units(mean, std)).perturb(x_0, 0.5)
    assert RootOfState().in_units(sdegen.laws.Units()).perturb(x_0, 0.5).x.isfinite().all()
