"""What code from outside returns is checked where it enters: what would broadcast, or is no tensor, is refused in a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sdegen
from sdegen import VP, Exact, Model, data, fit, guidance, inference, measurements, plots, sample, samplers
from sdegen.baselines import GAN, VAE, Autoencoder, ContinuousFlow
from sdegen.baselines.likelihoods import Gaussian
from sdegen.guidance import ClassifierGuidance, CleanState, NoisyClassifier, PiGDM, Replacement, Tilted
from sdegen.guidance.measurements import LinearMeasurement
from sdegen.models import DirectModel, LearnedVariance, Parametrization, ScoreModel, from_network
from sdegen.models.foreign import NetworkClock
from sdegen.samplers import DDIM, EulerMaruyama, Heun, Langevin
from sdegen.training import losses, weightings

RING = sdegen.data.gaussian_ring()
NORMAL = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
PLANE = data.Table({"a": data.NumberColumn(), "b": data.NumberColumn()})
X = RING.sample(5, torch.Generator().manual_seed(0))  # float64
Answer = Callable[[Tensor], Any]

# What may come instead of the right answer `y`, (B, *): the same numbers in another dress, or other ones that broadcast.
WRONG: dict[str, Answer] = {
    "None": lambda y: None,
    "a number": lambda y: 1.5,
    "a word": lambda y: "y",
    "a tuple": lambda y: (y,),
    "a list": lambda y: [y, y],
    "a dict": lambda y: {"sample": y},
    "an output": lambda y: SimpleNamespace(sample=y),
    "whole numbers": lambda y: y.long(),
    "truth values": lambda y: y > 0,
    "complex numbers": lambda y: torch.complex(y, y),
    "an array": lambda y: np.ones(tuple(y.shape)),
    "one axis less": lambda y: y.sum(-1),
    "one column": lambda y: y.flatten(1)[:, :1] if y.ndim > 1 else y[:, None],
    "one row": lambda y: y[:1],
    "no axes": lambda y: y.sum(),
    "an axis before": lambda y: y[None],
    "an axis behind": lambda y: y[..., None],
    "an axis between": lambda y: y[:, None],
    "pairs": lambda y: y.reshape(len(y), -1)[:, :1] + y.reshape(len(y), -1)[:, 0],
    "more rows": lambda y: torch.cat([y, y]),
}


class Net(nn.Module):
    """A network whose right answer, of the shape that `out` makes of its input, is dressed by `answer`."""

    def __init__(self, answer: Answer, out: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.answer, self.out = answer, out

    def forward(self, x: Tensor, level: Any = None) -> Any:
        return self.answer(self.weight * self.out(x))


class Score(ScoreModel):
    def __init__(self, answer: Answer) -> None:
        self.inside, self.dressed = Exact(VP(), RING), answer
        self.sde, self.moments = self.inside.sde, self.inside.moments

    def score(self, x: Tensor, t: Any, /, **cond: Any) -> Any:
        return self.dressed(self.inside.score(x, t))


class Law:
    """A standard normal law of points in the plane."""

    def __init__(self, density: Answer = lambda y: y, draws: Answer = lambda y: y) -> None:
        self.density, self.draws = density, draws

    def log_prob(self, x: Tensor) -> Any:
        return self.density(-0.5 * x.square().sum(1))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Any:
        return self.draws(torch.randn(n, 2, dtype=torch.float64, generator=generator))

    def score(self, x: Tensor) -> Any:
        return self.draws(-x)

    def moments(self) -> Any:
        return RING.moments()


class Pull(sdegen.SDE):
    """A nonlinear process whose drift and noise are dressed."""

    T = 1.0
    lag = 0.1

    def __init__(self, drift: Answer = lambda y: y, noise: Answer = lambda y: y) -> None:
        self.f, self.g = drift, noise

    def drift(self, x: Tensor, t: Tensor) -> Any:
        return self.f(-torch.tanh(x))

    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        return self.g(torch.full(x.shape[:1], 0.5, dtype=torch.float64))

    def prior(self, moments: Any) -> Any:
        return Law()


class Seen(LinearMeasurement):
    def __init__(self, answer: Answer) -> None:
        super().__init__(0.5)
        self.answer = answer

    def __call__(self, x: Tensor) -> Any:
        return self.answer(x[:, :1] + x[:, 1:])


class Changed(CleanState):
    """A wrapper of the user's, whose clean state is dressed."""

    def __init__(self, model: ScoreModel, answer: Answer) -> None:
        super().__init__(model)
        self.dressed = answer

    def estimate(self, x: Tensor, t: Any, /, **cond: Any) -> Any:
        x_0, eps = self.model.estimate(x, t, **cond)
        return self.dressed(x_0), eps


class Leaning(Tilted):
    """A guidance of the user's, whose gradient is dressed."""

    def __init__(self, model: ScoreModel, answer: Answer) -> None:
        super().__init__(model)
        self.dressed = answer

    def tilted(self, x: Tensor, t: Any, /, **cond: Any) -> Any:
        return *self.model.estimate(x, t, **cond), self.dressed(torch.ones_like(x))


class Steps(DDIM):
    def __init__(self, answer: Answer) -> None:
        super().__init__(3)
        self.answer = answer

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: Any) -> Any:
        x, state = super().step(model, x, c, noise, state)
        return self.answer(x), state


class Prior(VP):
    """A process whose prior is dressed."""

    def __init__(self, density: Answer = lambda y: y, draws: Answer = lambda y: y) -> None:
        super().__init__()
        self.law = Law(density, draws)

    def prior(self, moments: Any) -> Any:
        return self.law


class Schedule(sdegen.ScheduleSDE):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def alpha(self, t: Tensor) -> Any:
        return self.answer(torch.cos(1.4 * t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(1.4 * t)


class Observed(sdegen.GaussianMixture):
    def __init__(self, answer: Answer) -> None:
        super().__init__(RING.weights, RING.means, RING.covariances)
        self.answer = answer

    def observed(self, y: Tensor, C: Any, S: Any) -> Any:
        mean, score = super().observed(y, C, S)
        return self.answer(mean), score


class Likely(measurements.GaussianNoise):
    def __init__(self, answer: Answer) -> None:
        super().__init__(1.0)
        self.answer = answer

    def log_prob(self, y: Tensor, z: Tensor) -> Any:
        return self.answer(super().log_prob(y, z))


def exact(sde: sdegen.LinearSDE) -> Exact:
    return Exact(sde, RING)


def of_states(x: Tensor, t: Any) -> Tensor:
    return torch.stack([x[:, 0], x[:, 1]], 1)


# Everything that asks code from outside, as a function of how its answer is dressed.
DOORS: dict[str, Callable[[Answer], Any]] = {
    "network, read": lambda a: Model(Net(a), VP()).score(X, 0.5),
    "network, sampled": lambda a: sample(Model(Net(a), VP()), x_T=X, steps=3, seed=0),
    "network, trained": lambda a: losses.Denoising()(Model(Net(a), VP()), X),
    "network as the score, read": lambda a: DirectModel(Net(a), VP()).score(X, 0.5),
    "network as the score, trained": lambda a: losses.Denoising()(DirectModel(Net(a), VP()), X),
    "network as the score, sampled": lambda a: sample(
        DirectModel(Net(a), Pull()), x_T=X, sampler=EulerMaruyama(3), seed=0
    ),
    "network with variances": lambda a: LearnedVariance(Net(a, lambda x: torch.cat([x, x], 1)), VP()).score(X, 0.5),
    "foreign network": lambda a: from_network(Net(a), VP()).denoise(X, 0.5),
    "score of a base": lambda a: DirectModel(Net(lambda y: y), VP(), base=Law(draws=a)).score(X, 0.5),
    "score, DDIM": lambda a: sample(Score(a), x_T=X, sampler=DDIM(3)),
    "score, Heun": lambda a: sample(Score(a), x_T=X, sampler=Heun(3)),
    "score, read": lambda a: Score(a).denoise(X, 0.5),
    "score, bound": lambda a: sdegen.elbo(Score(a), X, draws=2),
    "score, chain": lambda a: sdegen.discrete_elbo(Score(a), X, 3),
    "score, Langevin": lambda a: sample(Score(a), x_T=X, sampler=Langevin(2)),
    "score, implicit loss": lambda a: losses.Implicit()(Score(a), X),
    "score, denoising loss": lambda a: losses.Denoising()(Score(a), X),
    "score, diagnosed": lambda a: sdegen.diagnose(Score(a), RING, DDIM(2), n=64, bins=2),
    "clean state, sampled": lambda a: sample(Changed(exact(VP()), a), x_T=X, sampler=DDIM(3)),
    "clean state, last move": lambda a: sample(Changed(exact(VP()), a), x_T=X, sampler=EulerMaruyama(3), seed=0),
    "clean state, read": lambda a: Changed(exact(VP()), a).denoise(X, 0.5),
    "clean state, velocity": lambda a: Changed(exact(VP()), a).velocity(X, 0.5),
    "gradient of guidance, sampled": lambda a: sample(Leaning(exact(VP()), a), x_T=X, sampler=DDIM(3)),
    "gradient of guidance, read": lambda a: Leaning(exact(VP()), a).score(X, 0.5),
    "encoder": lambda a: VAE(Net(a, lambda x: torch.cat([x, x], 1)), Net(lambda y: y), 2, Gaussian(1.0)).loss(X),
    "generator": lambda a: GAN(Net(a), Net(lambda y: y, lambda x: x[:, :1]), 2).loss(X),
    "velocity of a flow, its density": lambda a: ContinuousFlow(Net(a), (2,)).log_prob(X),
    "velocity of a flow, its samples": lambda a: ContinuousFlow(Net(a), (2,)).sample(5, None),
    "score, likelihood": lambda a: sdegen.log_prob(Score(a), X, tolerance=0.1),
    "prior's draws": lambda a: sample(exact(Prior(draws=a)), 5, steps=3, seed=0),
    "prior's density": lambda a: sdegen.log_prob(exact(VP()), X, prior=Law(a), tolerance=0.1),
    "prior's density, with samples": lambda a: sdegen.sample_with_log_prob(exact(Prior(a)), 5, tolerance=0.1, seed=0),
    "prior's density, bound": lambda a: sdegen.elbo(exact(VP()), X, draws=2, prior=Law(a)),
    "prior's density, chain": lambda a: sdegen.discrete_elbo(exact(VP()), X, 3, prior=Law(a)),
    "prior's density, variational loss": lambda a: losses.Variational(5)(exact(Prior(a)), X),
    "a law's density": lambda a: sdegen.metrics.kl(Law(a), RING, 50, seed=0),
    "a law's density, beside kernels": lambda a: sdegen.metrics.kde_kl_once(X, Law(a)),
    "a law's density, drawn": lambda a: plots.density(Law(a), points=3),
    "a law's density, of a table": lambda a: PLANE.log_prob(Law(a), {"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0]}, 1),
    "a prior's density, fitted": lambda a: inference.fit_posterior(
        Law(a), (X, X + X.flip(0)), steps=1, progress=False, seed=0
    ),
    "noise of a measurement": lambda a: measurements.Nonlinear(torch.tanh, Likely(a)).log_prob(X, X),
    "reward": lambda a: guidance.tilted_smc(exact(VP()), lambda x: a(x[:, 0]), 5, steps=2, seed=0),
    "density, annealed": lambda a: guidance.anneal_density(lambda x: a(NORMAL.log_prob(x)), NORMAL, 5, levels=2),
    "density, weighted": lambda a: guidance.importance_sample(exact(VP()), lambda x: a(RING.log_prob(x)), 5, steps=2),
    "a law's draws": lambda a: fit(Model(Net(lambda y: y), VP()), Law(draws=a), steps=1, batch_size=4, seed=0),
    "a law's posterior mean": lambda a: Exact(VP(), Observed(a)).score(X, 0.5),
    "drift, simulated": lambda a: sdegen.simulate(Pull(a), X, 0.0, 0.5, steps=2),
    "drift, perturbed": lambda a: Pull(a).perturb(X, 0.5),
    "drift, reversed": lambda a: Pull(a).reverse(Score(lambda y: y)).drift(X, torch.tensor(0.5).double()),
    "noise of a process, simulated": lambda a: sdegen.simulate(Pull(noise=a), X, 0.0, 0.5, steps=2),
    "noise of a process, perturbed": lambda a: Pull(noise=a).perturb(X, 0.5),
    "a coefficient of a schedule": lambda a: Schedule(a).marginal(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])),
    "measurement, sampled": lambda a: sample(PiGDM(exact(VP()), Seen(a)), x_T=X, steps=3, y=torch.ones(1)),
    "measurement, replaced": lambda a: sample(Replacement(exact(VP()), Seen(a)), x_T=X, steps=3, y=torch.ones(1)),
    "measurement, its density": lambda a: Seen(a).log_prob(torch.ones(5, 1, dtype=torch.float64), X),
    "logits": lambda a: sample(
        ClassifierGuidance(exact(VP()), lambda x, t: a(of_states(x, t))),
        x_T=X,
        steps=3,
        label=torch.tensor([0, 1, 0, 1, 1]),
    ),
    "logits, trained": lambda a: NoisyClassifier(Net(a), VP()).loss(X, label=torch.tensor([0, 1, 0, 1, 1])),
    "decoder": lambda a: VAE(Net(lambda y: y, lambda x: torch.cat([x, x], 1)), Net(a), 2, Gaussian(1.0)).loss(X),
    "decoder without law": lambda a: Autoencoder(Net(lambda y: y), Net(a)).loss(X),
    "loss": lambda a: fit(
        Model(Net(lambda y: y), VP()),
        X,
        steps=1,
        batch_size=5,
        seed=0,
        loss=lambda model, x, generator=None: a(model.score(x, 0.5).square().sum(1)),
    ),
    "a sampler's step": lambda a: sample(exact(VP()), x_T=X, sampler=Steps(a)),
    "noise of a run": lambda a: sample(
        exact(VP()),
        x_T=X,
        sampler=DDIM(3, eta=1.0),
        noise=lambda seed, first, times: lambda like: a(torch.ones_like(like)),
    ),
    "features": lambda a: sdegen.metrics.fid(X, X + 1, net=lambda x: a(x)),
}

# Doors at which a row may have any shape, as that of a measurement or of features: there these are answers like others.
ANY_ROW = ("one axis less", "one column", "an axis behind", "an axis between", "pairs")
FREE = {door: ANY_ROW for door in DOORS if door.startswith("measurement") or door in ("features", "a law's draws")}
FREE |= {"logits": ("pairs",), "logits, trained": ("an axis behind", "an axis between", "pairs")}
FREE |= {"decoder without law": ("an axis behind", "an axis between")}
FREE |= {"a coefficient of a schedule": ("a number", "whole numbers", "one axis less", "no axes")}
for how in ("simulated", "perturbed"):
    FREE[f"noise of a process, {how}"] = ("a number", "whole numbers", "an array", "one axis less", "no axes")
CASES = [(door, wrong) for door in DOORS for wrong in WRONG if wrong not in FREE.get(door, ())]


def refused(door: str, wrong: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        DOORS[door](WRONG[wrong])
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and len(message) < 400, message
    assert " returned " in message or " has dtype " in message, message


@pytest.mark.parametrize("door", DOORS)
def test_a_right_answer_is_taken(door: str) -> None:
    DOORS[door](lambda y: y)


@pytest.mark.thinned(3)
@pytest.mark.parametrize(("door", "wrong"), CASES)
def test_a_wrong_answer_is_refused_where_it_enters(door: str, wrong: str) -> None:
    refused(door, wrong)


DIFFUSERS = ": a network of diffusers goes in by sdegen.from_diffusers(unet, scheduler)"
REMEDIES: dict[str, tuple[Answer, str]] = {
    "None": (lambda y: None, " (is a return missing?)"),
    "a tuple": (lambda y: (y, None), ": wrap it to return the entry that is meant"),
    "a list": (lambda y: [y], ": wrap it to return the entry that is meant"),
    "an output": (lambda y: SimpleNamespace(sample=y), DIFFUSERS),
    "a dict of samples": (lambda y: {"sample": y}, DIFFUSERS),
    "a dict": (lambda y: {"noise": y}, ": wrap it to return the value that is meant"),
    "a tuple without tensors": (lambda y: (1.0,), ""),
    "a number": (lambda y: 1.5, ""),
}


@pytest.mark.parametrize("wrong", REMEDIES)
def test_a_refusal_tells_how_the_tensor_comes_out_of_the_answer(wrong: str) -> None:
    answer, remedy = REMEDIES[wrong]
    with pytest.raises(TypeError, match=rf"must return one tensor, the shape of the state{re.escape(remedy)}\.$"):
        Model(Net(answer), VP()).score(torch.ones(4, 2).double(), 0.5)


@pytest.mark.parametrize("door", [door for door in DOORS if "coefficient" not in door])
def test_an_answer_in_another_precision_is_brought_to_that_of_the_states(door: str) -> None:
    """Networks under autocast, and laws of float32, answer so."""
    DOORS[door](lambda y: y.float())


FINITE = ["network, sampled", "network, trained", "network as the score, sampled", "score, DDIM", "score, Heun",
          "prior's draws", "prior's density", "prior's density, with samples", "prior's density, bound",
          "prior's density, chain", "prior's density, variational loss", "a law's density",
          "measurement, sampled", "measurement, replaced", "logits", "loss", "a sampler's step", "noise of a run",
          "features"]  # fmt: skip


@pytest.mark.parametrize("door", FINITE)
def test_an_answer_that_is_nan_ends_in_a_sentence(door: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)nan|finite") as caught:
        DOORS[door](lambda y: y * torch.where(torch.arange(y.numel()).reshape(y.shape) == 3, torch.nan, 1.0))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300, message


SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 4), side=st.integers(1, 4), shape=SHAPES)
def test_a_network_is_believed_if_its_answer_has_the_shape_of_the_state(
    rows: int, side: int, shape: tuple[int, ...]
) -> None:
    x = torch.zeros(rows, side)
    model = Model(Net(lambda y: torch.ones(shape)), VP()).float()
    if shape == (rows, side):
        assert model.velocity(x, 0.5).shape == shape
    else:
        with pytest.raises(ValueError, match=rf"^net returned shape \({shape[0] if shape else ''}"):
            model.velocity(x, 0.5)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 5), d=st.integers(1, 5), per_coordinate=st.booleans())
def test_a_number_for_each_coordinate_is_not_taken_for_one_for_each_row(
    rows: int, d: int, per_coordinate: bool
) -> None:
    """Where there are as many rows as coordinates, shapes alone do not tell."""

    class Wide(Pull):
        def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.ones(d if per_coordinate else len(x)).double()

    sde, x = Wide(), torch.zeros(rows, d).double()
    if per_coordinate:
        with pytest.raises(ValueError, match=r"Wide\.diffusion returned"):
            sdegen.simulate(sde, x, 0.0, 0.5, steps=1)
    else:
        assert sdegen.simulate(sde, x, 0.0, 0.5, steps=1).shape == x.shape


WEIGHTS = {"a number": lambda at: 1.0, "a tensor": lambda at: torch.ones(5), "None": lambda at: None}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("loss", [losses.Denoising, losses.Implicit])
def test_a_weighting_gives_an_operator(loss: Any, weight: str) -> None:
    class Odd(weightings.Weighting):
        def operator(self, sde: Any, at: Any) -> Any:
            return WEIGHTS[weight](at)

    with pytest.raises(TypeError, match=r"^Odd\.operator returned a .*; give an operator"):
        loss(Odd())(exact(VP()), X)


ASKED = {
    "one": lambda at: at.Phi,
    "numbers": lambda at: (1.0, 0.0),
    "None": lambda at: None,
    "three": lambda at: [at.A] * 3,
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_parametrisation_gives_two_operators(asked: str) -> None:
    class Odd(Parametrization):
        def target(self, at: Any) -> Any:
            return ASKED[asked](at)

    with pytest.raises(TypeError, match=r"^Odd\.target returned .*operators"):
        Model(Net(lambda y: y), VP(), Odd()).score(X, 0.5)


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (3,), (2,)])
def test_a_clock_gives_one_number_for_each_row(shape: tuple[int, ...]) -> None:
    class Odd(NetworkClock):
        def __call__(self, sde: Any, t: Any) -> Any:
            return torch.ones(shape)

    with pytest.raises(ValueError, match="gives a noise level of shape"):
        from_network(Net(lambda y: y), VP(), clock=Odd()).score(X, 0.5)


@pytest.mark.parametrize("drawn", [lambda n: torch.rand(n), lambda n: (torch.rand(n, 1), torch.ones(n)),
                                   lambda n: (torch.rand(n), torch.ones(n, 1)), lambda n: (torch.rand(n), 1.0),
                                   lambda n: (torch.rand(()), torch.ones(n)), lambda n: None])  # fmt: skip
def test_a_law_of_times_gives_a_time_and_a_weight_for_each_row(drawn: Any) -> None:
    class Odd(weightings.TimeLaw):
        def sample(self, sde: Any, n: int, generator: Any = None) -> Any:
            return drawn(n)

    for loss in (
        losses.Denoising(times=Odd()),
        losses.Implicit(times=Odd()),
        losses.Hybrid(losses.Denoising(times=Odd())),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^Odd\.sample returned "):
            loss(exact(VP()), X)


class Joins(torch.nn.Module):
    """A network that joins the noise level to each state, as if there were one for each."""

    def __init__(self, expands: bool) -> None:
        super().__init__()
        self.layer, self.expands = torch.nn.Linear(3, 2), expands

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        level = level.expand(len(x)) if self.expands else level
        return self.layer(torch.cat([x, level[:, None].to(x)], 1))


@pytest.mark.parametrize("kind", [sdegen.Model, sdegen.DirectModel])
@pytest.mark.parametrize("n", [2, 5])
def test_a_network_that_wants_a_level_for_each_state_is_told_so(kind: Any, n: int) -> None:
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    model = kind(Joins(False), sdegen.VP())
    each = model.score(x, torch.full((n,), 0.5))
    with pytest.raises(ValueError, match=rf"a run gives it one for all {n}.*level = level.expand\(len\(x\)\)"):
        model.score(x, 0.5)
    model.net.expands = True
    torch.testing.assert_close(model.score(x, 0.5), each)


class Hears(Joins):
    """A network that adds a condition to each state, as if it had rows."""

    def __init__(self) -> None:
        super().__init__(True)

    def forward(self, x: Tensor, level: Tensor, *, theta: Tensor) -> Tensor:
        return super().forward(x, level) + torch.stack([theta[row].sum() for row in range(len(x))])[:, None]


@pytest.mark.parametrize("kind", [sdegen.Model, sdegen.DirectModel])
@pytest.mark.parametrize("theta", [torch.ones(3), torch.ones(1, 3), torch.tensor(2.0), torch.ones(1), 2.0, 2])
def test_a_network_that_wants_a_row_of_a_condition_for_each_state_is_told_so(kind: Any, theta: Any) -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    model = kind(Hears(), sdegen.VP())
    rows = torch.ones(5, 3) if torch.as_tensor(theta).numel() == 3 else torch.ones(5)
    shape = re.escape(str(tuple(rows.shape)))
    with pytest.raises(
        ValueError, match=rf"a row of theta for each .* all 5; give rows, a tensor of shape {shape}, or"
    ):
        model.score(x, 0.5, theta=theta)
    assert model.score(x, 0.5, theta=rows).isfinite().all()


class Averages(Joins):
    """A network that adds the mean of a vector of each state."""

    def __init__(self) -> None:
        super().__init__(True)

    def forward(self, x: Tensor, level: Tensor, *, theta: Tensor) -> Tensor:
        return super().forward(x, level) + theta.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", [sdegen.Model, sdegen.DirectModel])
def test_a_network_that_fails_with_a_row_of_a_condition_for_each_state_is_not_told_to_be_given_rows(kind: Any) -> None:
    model = kind(Averages(), sdegen.VP())
    with pytest.raises(IndexError, match="out of range"):
        model.score(torch.ones(5, 2), 0.5, theta=torch.ones(5))
    assert model.score(torch.ones(5, 2), 0.5, theta=torch.ones(5, 3)).isfinite().all()


class Numbered(torch.nn.Module):
    """A network that has an embedding of the numbers of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = torch.nn.Embedding(1000, 2)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return x + self.steps(level)


@pytest.mark.parametrize("kind", [sdegen.Model, sdegen.DirectModel])
def test_a_network_that_wants_whole_numbers_is_told_so(kind: Any) -> None:
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for t in (0.5, torch.full((4,), 0.5)):
        with pytest.raises(
            ValueError, match=r"^net takes whole numbers for its noise level, .* sdegen\.from_network\(net, sde,"
        ):
            kind(Numbered(), sdegen.VP()).score(x, t)


def test_a_network_that_ends_before_a_level_is_not_told_of_whole_numbers() -> None:
    class Narrow(torch.nn.Linear):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            if (level > 1e-3).any():
                raise ValueError("levels end at 0.001")
            return super().forward(x)

    with pytest.raises(ValueError, match=r"^levels end at 0\.001"):
        sdegen.Model(Narrow(2, 2), sdegen.VP()).score(torch.ones(4, 2), 0.5)


def test_a_network_that_fails_for_another_cause_is_not_told_of_levels() -> None:
    class Full(torch.nn.Linear):
        def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
            if torch.is_grad_enabled():
                raise torch.OutOfMemoryError("no memory left for derivatives")
            return super().forward(x)

    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        sdegen.Model(Full(2, 2), sdegen.VP()).score(torch.ones(3, 2), 0.5)


def test_what_else_a_network_raises_is_left_as_it_is() -> None:
    class Wrong(torch.nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return x @ torch.ones(5, 5)

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        sdegen.Model(Wrong(), sdegen.VP()).score(torch.ones(3, 2), 0.5)


def changing(x: Tensor, *rest: Any, **cond: Any) -> Tensor:
    """An answer whose writer saved an allocation."""
    return x.mul_(0.5)


class ChangesLevel(nn.Module):
    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return x * level.mul_(1000.0).cos().reshape(-1, 1)


class ChangesCondition(nn.Module):
    def forward(self, x: Tensor, level: Tensor, *, c: Tensor) -> Tensor:
        return x * c.mul_(0.5)


class ChangingScore(ScoreModel):
    def __init__(self, reading: str) -> None:
        self.sde = VP()
        self.reading = reading
        setattr(self, reading, changing)

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        return -x


class ChangingDrift(sdegen.SDE):
    T = 1.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return changing(x)

    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        return 1.0


class ChangingDiffusion(ChangingDrift):
    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> Any:
        return 1.0 + changing(x).abs()


CHANGING: dict[str, Callable[[], object]] = {
    "score in a run": lambda: sample(ChangingScore("score"), x_T=X.clone(), sampler=EulerMaruyama(3), seed=0),
    "denoise in a run": lambda: sample(ChangingScore("denoise"), x_T=X.clone(), sampler=DDIM(3), seed=0),
    "drift": lambda: sdegen.simulate(ChangingDrift(), X.clone(), 0.0, 1.0, steps=3),
    "diffusion": lambda: sdegen.simulate(ChangingDiffusion(), X.clone(), 0.0, 1.0, steps=3),
    "log_prob of a law": lambda: sdegen.metrics.kl(
        SimpleNamespace(log_prob=lambda x: changing(x).sum(1)), RING, n=100, seed=0
    ),
    "level of a network": lambda: sample(Model(ChangesLevel(), VP()), x_T=X.clone(), sampler=DDIM(3), seed=0),
    "condition of a network": lambda: sample(
        Model(ChangesCondition(), VP()), x_T=X.clone(), sampler=DDIM(3), seed=0, c=torch.ones(5, 1, dtype=X.dtype)
    ),
    "reward": lambda: sdegen.guidance.tilted_smc(Exact(VP(), RING), lambda x: changing(x).sum(1), 5, steps=3, seed=0),
    "density of the plane": lambda: sdegen.laws.PlanarLaw(lambda x: changing(x).sum(1), (-9, -9), (9, 9)),
}


@pytest.mark.parametrize("door", CHANGING)
def test_what_changes_its_arguments_in_place_is_refused(door: str) -> None:
    """They are the states of the run, the data, or what the library remembers: results would be silently wrong."""
    with pytest.raises(ValueError, match="changed what it was given in place"):
        CHANGING[door]()


class Planned(samplers.Sampler):
    """Euler's method along the flow, whose plan is handed to a function before it is returned."""

    handed: Callable[[list[Any]], Any] = staticmethod(lambda plan: plan)

    def plan(self, model: sdegen.ScoreModel, times: Tensor) -> Any:
        t, h = times[:-1], times[:-1] - times[1:]
        F, G = model.sde.drift_operator(t), model.sde.diffusion_operator(t)
        return self.handed(model.ask(t, x=F.one() - F * h, score=G @ G.T * (0.5 * h)))

    def step(self, model: sdegen.ScoreModel, x: Tensor, c: Any, noise: Any, state: None) -> tuple[Tensor, None]:
        return model.answer(x, c), None


PLANS: dict[str, tuple[Callable[[list[Any]], Any], type[Exception], str]] = {
    "a pair": (lambda plan: (plan, plan), TypeError, r"a tuple; it must .* each of the 4 moves .*list\(zip\("),
    "nothing": (lambda plan: None, TypeError, r"a NoneType; it must .* each of the 4 moves"),
    "an iterator": (iter, TypeError, r"a list_iterator; it must .* each of the 4 moves"),
    "too few": (lambda plan: plan[:-1], ValueError, r"3 entries; it must .* each of the 4 moves"),
    "too many": (lambda plan: plan + plan, ValueError, r"8 entries; it must .* each of the 4 moves"),
}


@pytest.mark.parametrize("wrong", PLANS)
def test_a_plan_that_has_no_entry_for_each_move_is_refused(wrong: str) -> None:
    handed, error, words = PLANS[wrong]
    exact = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    sampler = Planned(5)
    assert sdegen.sample(exact, 2, sampler=sampler, seed=0).isfinite().all()
    sampler.handed = handed
    with pytest.raises(error, match=rf"^Planned\.plan returned {words}"):
        sdegen.sample(exact, 2, sampler=sampler, seed=0)
