"""Log-probabilities of the steps of runs: against Gaussians written out, joint densities that are known, and hand-made chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import sdegen
from sdegen import grids, guidance, samplers
from sdegen.samplers import log_prob_of_steps
from sdegen.samplers.steps import take_steps

d64 = torch.float64
MEAN, COVARIANCE = torch.tensor([0.5, -1.0], dtype=d64), torch.tensor([[1.5, 0.6], [0.6, 0.7]], dtype=d64)
GAUSSIAN = sdegen.GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE[None])
RING = sdegen.data.gaussian_ring()
WEIGHTS = sdegen.GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.ones(2))


class Turning(sdegen.CorrelatedSDE):
    """Correlated noise and a drift that turns."""

    def F(self, t: Tensor) -> Tensor:
        return torch.tensor([[-0.8, 1.5], [-1.2, -1.0]], dtype=d64) * (1 + t)[..., None, None]

    def G(self, t: Tensor) -> Tensor:
        return torch.tensor([[1.2, 0.0], [0.9, 0.7]], dtype=d64) * (1 + t)[..., None, None]


SAMPLERS: dict[str, Callable[[], samplers.Sampler]] = {
    "Euler–Maruyama": lambda: samplers.EulerMaruyama(5),
    "Euler–Maruyama, eta 0.6": lambda: samplers.EulerMaruyama(5, eta=0.6),
    "ancestral": lambda: samplers.Ancestral(5),
    "ancestral, upper variance": lambda: samplers.Ancestral(5, variance=samplers.transition_variance),
    "DDIM": lambda: samplers.DDIM(5, eta=0.7),
    "reverse diffusion": lambda: samplers.ReverseDiffusion(5),
    "exponential": lambda: samplers.ExponentialSDE(5),
    "exponential, order 1": lambda: samplers.ExponentialSDE(5, order=1, eta=0.5, reference=samplers.PointMass()),
    "exponential, order 3": lambda: samplers.ExponentialSDE(5, order=3, corrector=True),
    "exponential, no bound": lambda: samplers.ExponentialSDE(5, order=1, reference=samplers.Unbounded()),
    "Langevin": lambda: samplers.Langevin(4),
    "annealed Langevin": lambda: samplers.AnnealedLangevin(3, repeats=2),
    "restart": lambda: samplers.Restart(samplers.DDIM(5, eta=1.0), [samplers.Interval(0.2, 0.9, 1, 2)]),
}
MODELS: dict[str, Callable[[], sdegen.ScoreModel]] = {
    "VP": lambda: sdegen.Exact(sdegen.VP(), RING),
    "VE": lambda: sdegen.Exact(sdegen.VE(0.02, 8.0), GAUSSIAN),
    "OU": lambda: sdegen.Exact(sdegen.OU(), RING),
    "CLD": lambda: sdegen.Exact(sdegen.CLD(), GAUSSIAN),
    "correlated": lambda: sdegen.Exact(Turning(), GAUSSIAN),
    "guided": lambda: guidance.Autoguidance(sdegen.Exact(sdegen.VP(), RING), sdegen.Exact(sdegen.VP(), WEIGHTS), 1.5),
}


@cache
def made(process: str) -> sdegen.ScoreModel:
    return MODELS[process]()


class Given:
    """Noise that is known, as a source of `sample`."""

    def __init__(self, *_: Any) -> None:
        self.draw = torch.Generator().manual_seed(3)

    def __call__(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape[1:], dtype=like.dtype, generator=self.draw).expand_as(like).clone()


def start(model: sdegen.ScoreModel, rows: int = 1) -> Tensor:
    """States in the middle of the prior, all of them the same."""
    shape = model.sde.embed(MEAN[None]).shape[1:]
    x = 0.7 * torch.randn(shape, dtype=d64, generator=torch.Generator().manual_seed(1))
    return x.expand(rows, *shape).clone()


def by_probing(model: sdegen.ScoreModel, sampler: samplers.Sampler, times: Tensor) -> Tensor:
    """Log-densities of the steps of one path, from the mean and the covariance that each step shows for noise that is chosen.

    Every row of the batch stands at one state; in a step the first has no noise, the next a unit vector each, the last its own.
    """
    d = start(model).numel()
    x, state, noise, found = start(model, d + 2), None, Given(), []
    for c in sampler.plan(model, times):
        z = noise(x)
        unit = torch.eye(d, dtype=d64).reshape(d, *x.shape[1:])
        probes = torch.cat([torch.zeros_like(z[:1]), unit, z[:1]])
        out, _ = sampler.step(model, x, c, lambda like, probes=probes: probes, state)
        out = out.flatten(1)
        L = (out[1:-1] - out[0]).T
        found.append(MultivariateNormal(out[0], L @ L.T).log_prob(out[-1]))
        x, state = sampler.step(model, x, c, lambda like, z=z: z, state)
    return torch.stack(found)


@pytest.mark.turns("VE-*", "OU-*", "CLD-[!D]*", "correlated-*", "guided-[!D]*")
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("process", MODELS)
def test_log_probabilities_of_steps_are_those_of_the_gaussian_that_probes_show(process: str, name: str) -> None:
    model, sampler = made(process), SAMPLERS[name]()
    if process == "CLD" and name.startswith("Euler"):
        with pytest.raises(ValueError, match="adds no noise in some direction"):
            sdegen.sample(model, x_T=start(model), sampler=sampler, noise=Given, seed=0, return_log_prob=True)
        return
    run = sdegen.sample(model, x_T=start(model), sampler=sampler, noise=Given, seed=0, return_log_prob=True)
    want = by_probing(model, sampler, run.times)[:, None]
    torch.testing.assert_close(run.log_prob, want, rtol=0, atol=1e-10)
    again = log_prob_of_steps(model, run.path, run.times, sampler=sampler)
    torch.testing.assert_close(again, want, rtol=0, atol=1e-10)


def numbers(sde: sdegen.ScalarSDE, t: Tensor) -> tuple[float, float]:
    law = sde.marginal(t)
    return law.Phi.matrix().item(), law.R.matrix().item()


@pytest.mark.parametrize("process", ["VP", "VE", "OU"])
def test_means_and_variances_are_the_published_ones(process: str) -> None:
    """DDPM, DDIM, the Euler–Maruyama method and the predictor of score_sde, written in alpha, sigma, f and g."""
    model = made(process)
    sde: Any = model.sde

    def ddim(eta: float) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, float]]:
        def step(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, float]:
            (a, v), (b, w) = numbers(sde, t), numbers(sde, s)
            std = eta * w / v * math.sqrt(v**2 - (a / b * w) ** 2)
            clean, eps = model.denoise(x, t), model.noise(x, t)
            return b * clean + math.sqrt(w**2 - std**2) * eps, std

        return step

    def between(t: Tensor, s: Tensor) -> tuple[float, float]:
        (a, v), (b, w) = numbers(sde, t), numbers(sde, s)
        return a / b, v**2 - (a / b * w) ** 2

    def upper(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, float]:
        return ddim(1.0)(x, t, s)[0], math.sqrt(between(t, s)[1])

    def predictor(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, float]:
        phi, q = between(t, s)
        return 2 * x - phi * x + q * model.score(x, t), math.sqrt(q)

    def euler(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, float]:
        h, g = (t - s).item(), sde.g(t).item()
        return x - h * (sde.f(t).item() * x - g**2 * model.score(x, t)), g * math.sqrt(h)

    steps = {
        "ancestral": ddim(1.0),
        "ancestral, upper variance": upper,
        "DDIM": ddim(0.7),
        "reverse diffusion": predictor,
        "Euler–Maruyama": euler,
    }
    for name, step in steps.items():
        sampler = SAMPLERS[name]()
        run = sdegen.sample(model, x_T=start(model, 3), sampler=sampler, seed=0, return_log_prob=True)
        for k, (t, s) in enumerate(zip(run.times, run.times[1:], strict=False)):
            mean, std = step(run.path[k], t, s)
            want = Normal(mean, std).log_prob(run.path[k + 1]).sum(1)
            torch.testing.assert_close(run.log_prob[k], want, rtol=0, atol=1e-9 if std < 1e-2 else 1e-10)


@pytest.mark.parametrize("process", ["VE", "CLD", "correlated"])
@pytest.mark.turns("CLD", "correlated")
def test_steps_that_are_exact_in_law_have_the_joint_density_of_the_forward_chain(process: str) -> None:
    """``p(x_T) Π p(x_s | x_t) = p(x_0) Π p(x_t | x_s)``: on Gaussian data the reversed chain is the forward one."""
    model = made(process)
    sde: Any = model.sde
    sampler = samplers.ExponentialSDE(4, order=1, reference=samplers.Matched())
    run = sdegen.sample(model, x_T=start(model), sampler=sampler, seed=0, return_log_prob=True)

    def law(t: Tensor) -> MultivariateNormal:
        at, d = sde.marginal(t), start(model).numel()
        Phi, R = (sdegen.laws.matrices.full_matrix(A, d) for A in (at.Phi, at.R))
        E = sde.embedding.matrix(2)
        return MultivariateNormal(Phi @ E @ MEAN, Phi @ E @ COVARIANCE @ E.T @ Phi.T + R @ R.T)

    states = run.path.flatten(2)[:, 0]
    forward = law(run.times[-1]).log_prob(states[-1])
    for k in range(len(run.log_prob)):
        kernel = sde.transition(run.times[k + 1], run.times[k])(run.path[k + 1])
        forward = forward + kernel.log_prob(run.path[k])[0]
    reversed_ = law(run.times[0]).log_prob(states[0]) + run.log_prob.sum()
    torch.testing.assert_close(reversed_, forward, rtol=0, atol=1e-9)


def network(sde: sdegen.LinearSDE, **how: Any) -> sdegen.Model:
    torch.manual_seed(0)
    net = sdegen.nets.MLP(2, 8, 1, **how)
    for weight in net.parameters():
        nn.init.normal_(weight, std=0.3)
    model = sdegen.Model(net, sde).double()
    model.moments = RING.moments()
    return model


def test_derivatives_by_the_weights_are_those_of_a_chain_written_by_hand() -> None:
    model, sampler = network(sdegen.VP()), samplers.DDIM(4, eta=0.8)
    run = sdegen.sample(model, x_T=start(model, 3), sampler=sampler, seed=0, return_log_prob=True)
    weights = [*model.parameters()]
    factors = torch.tensor([1.0, -2.0, 0.5], dtype=d64)
    got = torch.autograd.grad(
        (log_prob_of_steps(model, run.path, run.times, sampler=sampler).sum(0) * factors).sum(), weights
    )
    total = torch.zeros(3, dtype=d64)
    for x, after, t, s in zip(run.path, run.path[1:], run.times, run.times[1:], strict=False):
        (a, v), (b, w) = numbers(sdegen.VP(), t), numbers(sdegen.VP(), s)
        variance = 0.8**2 * (w / v) ** 2 * (v**2 - (a / b * w) ** 2)
        mean = b * model.denoise(x, t) + math.sqrt(w**2 - variance) * model.noise(x, t)
        total = total - (after - mean).square().sum(1) / (2 * variance)
    want = torch.autograd.grad((total * factors).sum(), weights)
    for g, h in zip(got, want, strict=True):
        torch.testing.assert_close(g, h, rtol=1e-8, atol=1e-8)


def test_noise_that_depends_on_the_state_is_gaussian_in_an_euler_step() -> None:
    """Square-root noise in the logarithm: ``u = log x``, whose noise is ``e^(−u/2)`` times that of ``√x dw``."""
    sde = sdegen.CIR()

    class Own(sdegen.ScoreModel):
        def __init__(self) -> None:
            self.sde = sde

        def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
            return 1 / x - 2.0

    sampler = samplers.EulerMaruyama(6, grids.Uniform(start=1.0, end=0.4))
    x = 0.3 + torch.rand(4, 2, dtype=d64, generator=torch.Generator().manual_seed(0))
    run = sdegen.sample(Own(), x_T=x, sampler=sampler, seed=0, return_log_prob=True)
    again = log_prob_of_steps(Own(), run.path, run.times, sampler=sampler)
    torch.testing.assert_close(again, run.log_prob, rtol=0, atol=1e-10)
    inside = sdegen.models.transformed.in_free_coordinates(Own())
    reverse = inside.sde.reverse(inside)
    for k, (t, s) in enumerate(zip(run.times, run.times[1:], strict=False)):
        u = run.path[k]
        std = (-0.5 * u).exp() * (t - s).sqrt()
        want = Normal(u - (t - s) * reverse.drift(u, t), std).log_prob(run.path[k + 1]).sum(1)
        torch.testing.assert_close(run.log_prob[k], want, rtol=0, atol=1e-10)


def test_a_learned_variance_is_part_of_the_density() -> None:
    torch.manual_seed(0)
    net = sdegen.nets.MLP(2, width=8, depth=1, out=4)
    nn.init.normal_(net.last.weight, std=0.5)
    model = sdegen.LearnedVariance(net, sdegen.VP()).double()
    model.moments = RING.moments()
    sampler = samplers.Ancestral(4, variance=samplers.learned_variance)
    run = sdegen.sample(model, x_T=start(model), sampler=sampler, noise=Given, seed=0, return_log_prob=True)
    with torch.no_grad():
        want = by_probing(model, sampler, run.times)[:, None]
        again = log_prob_of_steps(model, run.path, run.times, sampler=sampler)
    torch.testing.assert_close(run.log_prob, want, rtol=0, atol=1e-10)
    torch.testing.assert_close(again, want, rtol=0, atol=1e-10)
    slope = torch.autograd.grad(log_prob_of_steps(model, run.path, run.times, sampler=sampler).sum(), net.last.weight)
    assert (slope[0][2:].abs() > 0).any()  # of the half that makes the variance


def test_rows_conditions_and_batches_change_nothing() -> None:
    model = network(sdegen.VP(), classes=3)
    label, sampler = torch.tensor([0, 1, 2, 1, 0]), samplers.ExponentialSDE(5)
    how: dict[str, Any] = {"sampler": sampler, "seed": 0, "x_T": start(model, 5)}
    run = sdegen.sample(model, return_log_prob=True, label=label, **how)
    cut = sdegen.sample(model, return_log_prob=True, label=label, batch=2, **how)
    assert torch.equal(run.samples, sdegen.sample(model, label=label, **how))
    torch.testing.assert_close(cut.log_prob, run.log_prob, rtol=0, atol=1e-10)
    torch.testing.assert_close(cut.path, run.path, rtol=0, atol=1e-10)
    with torch.no_grad():
        some = log_prob_of_steps(model, run.path[:, 1:4], run.times, sampler=sampler, label=label[1:4])
        other = log_prob_of_steps(model, run.path[:, 1:4], run.times, sampler=sampler, label=label[:3])
    torch.testing.assert_close(some, run.log_prob[:, 1:4], rtol=0, atol=1e-9)
    assert (other - some).abs().max() > 1e-3


def test_the_last_move_to_clean_data_is_no_step_of_the_density() -> None:
    model, sampler = made("VP"), samplers.Ancestral(6)
    run = sdegen.sample(model, 4, sampler=sampler, seed=0, return_log_prob=True)
    assert run.path.shape == (6, 4, 2) and run.log_prob.shape == (5, 4) and run.times.shape == (6,)
    whole = sdegen.sample(model, 4, sampler=sampler, seed=0, return_path=True)
    assert torch.equal(run.path, whole[:-1]) and torch.equal(run.samples, whole[-1])
    run = sdegen.sample(model, 4, sampler=sampler, seed=0, final="sample", return_log_prob=True)
    assert run.log_prob.shape == (6, 4) and torch.equal(run.samples, run.path[-1])


def test_the_steps_of_order_three_remember_nothing_of_their_noise() -> None:
    model, sampler = made("OU"), SAMPLERS["exponential, order 3"]()
    plan, x = sampler.plan(model, sampler.times(model.sde, True)), start(model)
    kept = [next(take_steps(sampler, plan, model, x, noise))[1] for noise in (torch.zeros_like, torch.ones_like)]
    for a, b in zip(kept[0], kept[1], strict=True):
        assert torch.equal(a[0], b[0]) if isinstance(a, list) else torch.equal(a, b)


class Twice(samplers.DDIM):
    """Noise of half the variance, drawn twice, and called one draw."""

    def step(self, model: Any, x: Tensor, c: Any, noise: Any, state: None) -> tuple[Tensor, None]:
        return super().step(model, x, c, lambda like: (noise(like) + noise(like)) / math.sqrt(2), state)


REFUSED: dict[str, tuple[samplers.Sampler, str]] = {
    "no noise": (samplers.DDIM(3), "draws no noise"),
    "no noise in Euler's method": (samplers.EulerMaruyama(3, eta=0.0), "draws no noise"),
    "a flow": (samplers.Heun(3), "steps of Heun have no density"),
    "multistep": (samplers.Multistep(3), "draws no noise"),
    "churn": (samplers.Churn(3), "steps of Churn have no density"),
    "a corrector": (samplers.PredictorCorrector(samplers.Ancestral(3)), "steps of PredictorCorrector have no density"),
    "lengths that depend on states": (samplers.AdaptiveSDE(), "steps of AdaptiveSDE have no density"),
    "a flow that restarts": (samplers.Restart(samplers.Heun(3)), "steps of Heun have no density"),
    "two draws": (Twice(3, eta=1.0), "drew noise 2 times"),
    "one's own variance": (samplers.Ancestral(3, variance=lambda m, x, c, z: x + z), "a function of your own"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_steps_without_a_density_are_refused(what: str) -> None:
    sampler, why = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=why):
        sdegen.sample(made("VP"), 3, sampler=sampler, seed=0, return_log_prob=True)


def test_runs_and_paths_without_densities_are_refused() -> None:
    model, sampler = made("VP"), samplers.Ancestral(3)
    with pytest.raises(ValueError, match="leave return_path out"):
        sdegen.sample(model, 3, sampler=sampler, return_log_prob=True, return_path=True)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="leave parallel out"):
        sdegen.sample(model, 3, sampler=sampler, return_log_prob=True, parallel=2)
    run = sdegen.sample(model, 3, sampler=sampler, seed=0, return_log_prob=True)
    with pytest.raises(ValueError, match="as many times"):
        log_prob_of_steps(model, run.path[1:], run.times, sampler=sampler)

    class Flat(sdegen.ScoreModel):
        def __init__(self) -> None:
            self.sde = sdegen.CircularBrownianMotion()

        def score(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
            return torch.zeros_like(x)

    with pytest.raises(ValueError, match="brings states back"):
        sdegen.sample(Flat(), x_T=torch.zeros(2, 1), sampler=samplers.EulerMaruyama(3), return_log_prob=True)
