"""Every score-matching loss has the score as its minimiser, and estimates one and the same number."""

from __future__ import annotations

import copy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import losses, weightings
from sdegen.laws.derivatives import ExactDivergence, Hutchinson
from sdegen.laws.kernels import Kernel
from sdegen.likelihood.chain import step_divergence
from sdegen.models.exact import Exact
from sdegen.models.score import ScoreModel
from sdegen.testing import gaussian_data
from sdegen.training.loop import train
from sdegen.training.settings import Settings
from sdegen.training.state import Training

DATA = gaussian_data()
# Of functions of the library in one step of the default loss; three of them look whether the law is as it was.
MOST_CALLS = 135


class At(weightings.TimeLaw):
    """One time for all."""

    def __init__(self, t: float) -> None:
        self.t = t

    def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
        return torch.full((n,), self.t, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


class Off(ScoreModel):
    """The exact score, off by a field of a known size: ``s + c W(x)`` with coefficients that can be trained."""

    def __init__(self, sde: Any, size: Tensor) -> None:
        self.exact, self.sde, self.size, self.moments = Exact(sde, DATA), sde, size, DATA.moments()

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return self.exact.score(x, t) + self.size * (x + 0.5)


SDES = [sdegen.VP(), sdegen.VE(), sdegen.OU(), sdegen.CLD()]


def objective(loss: Any, sde: Any, size: float, n: int = 60_000) -> Tensor:
    with torch.no_grad():
        model = Off(sde, torch.tensor(size, dtype=torch.float64))
        x_0 = DATA.sample(n, torch.Generator().manual_seed(1))
        return loss(model, x_0, generator=torch.Generator().manual_seed(2))


@pytest.mark.thinned(3)
@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize(
    "weighting",
    [weightings.UniformWeighting(), weightings.InverseVarianceWeighting(), weightings.LikelihoodWeighting()],
)
@pytest.mark.turns("weighting[01]-CLD", "weighting2-CLD")
def test_denoising_exceeds_its_minimum_by_the_score_error(sde: Any, weighting: weightings.Weighting) -> None:
    # L(s + e) − L(s) = E‖W e‖²: the cross term vanishes at the score and only there.
    loss = losses.Denoising(weighting, pooled=False)
    gaps = [objective(loss, sde, size) - objective(loss, sde, 0.0) for size in (0.05, -0.05)]
    t, factor = loss.times.sample(sde, 60_000, torch.Generator().manual_seed(2))
    x = sde.perturb(
        DATA.sample(60_000, torch.Generator().manual_seed(1)), t, generator=torch.Generator().manual_seed(3)
    ).x
    error = weighting(sde, t)(0.05 * (x + 0.5))
    want = (error.reshape(len(x), -1).square().sum(1) * factor).mean()
    both = 0.5 * (gaps[0] + gaps[1])  # the cross terms cancel exactly
    assert abs(both.mean() / want - 1) < 0.03
    slope = 0.5 * (gaps[0] - gaps[1])
    assert slope.mean().abs() < 5 * slope.std() / len(slope) ** 0.5


@pytest.mark.turns("OU", "VE")
@pytest.mark.parametrize("sde", SDES[:3], ids=lambda s: type(s).__name__)
def test_pooled_target_has_the_same_mean_and_less_variance(sde: Any) -> None:
    # The gradient of the loss in the size of the error, pooled and not, over many small batches.
    means, spreads = [], []
    for pooled in (False, True):
        loss = losses.Denoising(weightings.InverseVarianceWeighting(), pooled=pooled)
        slopes = []
        for k in range(300):
            g = torch.Generator().manual_seed(k)
            size = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
            value = loss(Off(sde, size), DATA.sample(64, g), generator=g).mean()
            slopes.append(torch.autograd.grad(value, size)[0])
        slopes = torch.stack(slopes)
        means.append(slopes.mean())
        spreads.append(slopes.std())
    assert abs(means[1]) < 4 * spreads[1] / 300**0.5  # unbiased: the score is stationary for it too
    assert spreads[1] < 0.7 * spreads[0]


@pytest.mark.parametrize("sde", [*SDES, sdegen.DoubleWell()], ids=lambda s: type(s).__name__)
def test_antithetic_noise_keeps_the_loss(sde: Any) -> None:
    # The mean over pairs is the loss at z and at −z: the same number as from independent draws.
    n = 20_000 if sde.is_linear else 1_000  # simulated paths take their time
    x_0 = DATA.sample(n, torch.Generator().manual_seed(3))

    class Pull(ScoreModel):
        def __init__(self) -> None:
            self.sde, self.moments = sde, DATA.moments()

        def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return -x

    values = [
        losses.Denoising(times=weightings.UniformTimes(), pooled=False, antithetic=pair)(
            Pull(), x_0, generator=torch.Generator().manual_seed(k)
        )
        for k, pair in enumerate((False, True))
    ]
    error = sum(v.var() / len(v) for v in values) ** 0.5
    assert abs(values[0].mean() - values[1].mean()) < 5 * error


@pytest.mark.parametrize(
    "sde", [sdegen.VP(), sdegen.VE(sigma_min=1e-4), sdegen.OU(), sdegen.CLD()], ids=lambda s: type(s).__name__
)
def test_antithetic_gradients_stay_bounded_at_small_noise(sde: Any) -> None:
    # lambda = 1: one draw's gradient has standard deviation ∝ 1 / sigma, a pair's does not grow.
    def spread(antithetic: bool, level: float) -> float:
        class At(weightings.TimeLaw):
            def sample(self, sde: Any, n: int, generator: Any = None) -> tuple[Tensor, Tensor]:
                return sde.time(level**-2.0).expand(n), torch.ones(n, dtype=torch.float64)

        size = torch.zeros(2000, 1, dtype=torch.float64, requires_grad=True)
        loss = losses.Denoising(weightings.InverseVarianceWeighting(), At(), pooled=False, antithetic=antithetic)
        size_of = size[:, None] if not sde.is_scalar else size
        g = torch.Generator().manual_seed(0)
        total = loss(Off(sde, size_of), DATA.sample(2000, g), generator=g).sum() * level**-2.0
        return torch.autograd.grad(total, size)[0].std().item()

    alone, pair = ([spread(a, level) for level in (1e-2, 1e-3)] for a in (False, True))
    assert alone[1] > 5 * alone[0]
    assert pair[1] < 1.5 * pair[0] < 0.2 * alone[1]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("divergence", [ExactDivergence(), Hutchinson()])
@pytest.mark.parametrize("sde", SDES[:3], ids=lambda s: type(s).__name__)
def test_implicit_equals_half_the_denoising_loss_up_to_a_constant(sde: Any, divergence: Any) -> None:
    weighting = weightings.InverseVarianceWeighting()
    implicit = losses.Implicit(weighting, divergence=divergence)
    denoising = losses.Denoising(weighting, pooled=False)
    gap = objective(implicit, sde, 0.1) - objective(implicit, sde, 0.0)
    other = 0.5 * (objective(denoising, sde, 0.1) - objective(denoising, sde, 0.0))
    difference = gap - other
    assert difference.mean().abs() < 5 * difference.std() / len(difference) ** 0.5
    assert abs(gap.mean() / other.mean() - 1) < 0.2


def test_ddpm_loss_is_the_inverse_variance_loss() -> None:
    sde = sdegen.VP()
    model = Off(sde, torch.tensor(0.2, dtype=torch.float64))
    x_0 = DATA.sample(512, torch.Generator().manual_seed(0))
    loss = losses.Denoising(weightings.InverseVarianceWeighting(), weightings.UniformTimes(), pooled=False)
    got = loss(model, x_0, generator=torch.Generator().manual_seed(7))
    g = torch.Generator().manual_seed(7)
    t, _ = weightings.UniformTimes().sample(sde, 512, g)
    z = torch.randn(512, 2, dtype=torch.float64, generator=g)
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    x = alpha * x_0 + sigma * z
    want = (model.noise(x, t) - z).square().sum(1)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.turns("OU", "VE")
@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_a_step_forms_the_law_of_its_times_once(sde: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    whole = sdegen.LinearSDE.marginal
    monkeypatch.setattr(sdegen.LinearSDE, "marginal", lambda self, t: (asked.append(t), whole(self, t))[1])
    model = sdegen.Model(sdegen.nets.MLP(2 * len(sde.Sigma_0), width=8, depth=1), sde).double()
    loss = losses.Denoising()
    loss(model, DATA.sample(8)).mean().backward()  # times are tabulated at the first call
    asked.clear()
    loss(model, DATA.sample(8)).mean().backward()
    assert len(asked) == 1


def test_a_step_of_training_makes_few_calls() -> None:
    """A step of a small network is as fast as what is called around it is short."""
    inside, calls = str(Path(sdegen.__file__).parent), Counter[int]()

    def count(frame: Any, event: str, arg: Any) -> None:
        calls[step] += event == "call" and frame.f_code.co_filename.startswith(inside)

    training = Training(sdegen.Model(sdegen.nets.MLP(2), sdegen.VP()), DATA, Settings(steps=4, seed=0), threads=1)
    step = 0  # in the first ones tables are made
    before = sys.getprofile()
    try:
        sys.setprofile(count)
        for done in train(training):
            step = done.step
    finally:
        sys.setprofile(before)
    assert 0 < calls[2] <= MOST_CALLS


DEFAULTS = {
    "denoising": lambda: (
        losses.Denoising(),
        losses.Denoising(weightings.InverseVarianceWeighting(), weightings.ImportanceTimes(), pooled=True),
    ),
    "implicit": lambda: (
        losses.Implicit(weightings.UniformWeighting()),
        losses.Implicit(weightings.UniformWeighting(), weightings.ImportanceTimes(), ExactDivergence()),
    ),
    "hybrid": lambda: (losses.Hybrid(steps=10), losses.Hybrid(losses.Denoising(), 10)),
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_parts_of_a_loss_that_are_left_out_are_those_that_are_documented(kind: str) -> None:
    model = sdegen.LearnedVariance(Mixed(), sdegen.VP())
    x_0 = DATA.sample(16, torch.Generator().manual_seed(0))
    short, written = (loss(model, x_0, torch.Generator().manual_seed(1)) for loss in DEFAULTS[kind]())
    assert torch.equal(short, written)


def test_implicit_refuses_directional_weights() -> None:
    with pytest.raises(ValueError, match="scalar weighting"):
        losses.Implicit(weightings.InverseVarianceWeighting())(Off(sdegen.CLD(), torch.zeros(())), DATA.sample(4))


class SquareRoot(sdegen.SDE):
    """A square-root process, as a user writes it."""

    T = 5.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return 1 - x

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        return x.sqrt()


class OffSettled(ScoreModel):
    """The score of the law that the square-root process settles in, in logarithms, off by a known field."""

    def __init__(self, sde: Any, size: Tensor) -> None:
        self.sde, self.size = sde, size
        self.moments = sdegen.Moments(torch.ones(2).double(), 0.5 * torch.ones(2).double())

    def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return 2 - 2 * x.exp() + self.size * x


@pytest.mark.parametrize(
    "loss",
    [
        losses.Denoising(pooled=False),
        losses.Denoising(),
        losses.Denoising(pooled=False, antithetic=True),
        losses.Denoising(weightings.LikelihoodWeighting(), antithetic=True),
        losses.InputPerturbation(0.0, antithetic=True),
        losses.Implicit(),
        losses.Implicit(divergence=Hutchinson()),
        losses.Implicit(weightings.LikelihoodWeighting()),
    ],
    ids=repr,
)
@pytest.mark.turns(
    "known*", "simulated-*LikelihoodWeighting*", "simulated-*pooled=False)", "*Hutchinson*", "*nodes=512))"
)
@pytest.mark.parametrize("known", [False, True], ids=["simulated", "known"])
def test_the_score_is_the_minimiser_where_noise_depends_on_the_state(loss: Any, known: bool) -> None:
    """Data of the settled law keep it, so that the score is known at every time; there the loss has no slope."""
    sde = sdegen.processes.Transformed(sdegen.CIR() if known else SquareRoot(), sdegen.coordinates.Log())
    if known and isinstance(loss, losses.InputPerturbation):
        with pytest.raises(TypeError, match="no Gaussian: there is no noise to add to"):
            loss(OffSettled(sde, torch.zeros(())), torch.ones(2, 2))
        return
    sde.lag = 0.01
    loss = copy.copy(loss)
    loss.times = At(0.05)
    data = torch.distributions.Gamma(torch.tensor([2.0, 2.0]).double(), 2.0)
    torch.manual_seed(0)
    slopes, curves = [], []
    for k in range(20):  # rows of a batch that pool their targets are not independent
        x_0 = data.sample((100,) if getattr(loss, "pooled", False) else (400,))
        for found, off in ((slopes, 0.0), (curves, 1.0)):
            size = torch.tensor(off, dtype=torch.float64, requires_grad=True)
            value = loss(OffSettled(sde, size), x_0, generator=torch.Generator().manual_seed(k)).mean()
            found.append(torch.autograd.grad(value, size)[0])
    slope, curve = torch.stack(slopes), torch.stack(curves)
    assert slope.mean().abs() < 4.5 * slope.std() / 20**0.5
    assert curve.mean() > 5 * slope.mean().abs()


class Mixed(nn.Module):
    """A linear network with a constant in every channel: just enough to hold learned variances."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return torch.zeros(len(x), 4, dtype=x.dtype) + self.bias


def test_variational_term_is_the_divergence_of_the_two_reversed_steps() -> None:
    sde = sdegen.VP()
    model = sdegen.LearnedVariance(Mixed(), sde)
    model.net.bias.data = torch.tensor([0.1, -0.2, 0.3, -0.4], dtype=torch.float64)
    x_0 = DATA.sample(6, torch.Generator().manual_seed(0))
    s, t = torch.full((6,), 0.4, dtype=torch.float64), torch.full((6,), 0.5, dtype=torch.float64)
    drawn = sde.perturb(x_0, t, generator=torch.Generator().manual_seed(1))
    got = step_divergence(model, x_0, s, t, drawn)
    # By hand, from the textbook form of the posterior.
    a_s, a_t, v_s, v_t = sde.alpha(s), sde.alpha(t), sde.sigma(s) ** 2, sde.sigma(t) ** 2
    step, beta = a_t / a_s, v_t - (a_t / a_s) ** 2 * v_s
    small = v_s / v_t * beta

    def mean(x_0: Tensor) -> Tensor:
        return (a_s * beta / v_t)[:, None] * x_0 + (step * v_s / v_t)[:, None] * drawn.x

    u = torch.tensor([0.3, -0.4], dtype=torch.float64).sigmoid()
    variance = (u * beta.log()[:, None] + (1 - u) * small.log()[:, None]).exp()
    p = torch.distributions.Normal(mean(model.denoise(drawn.x, t)), variance.sqrt())
    q = torch.distributions.Normal(mean(x_0), small.sqrt()[:, None].expand(6, 2))
    torch.testing.assert_close(got, torch.distributions.kl_divergence(q, p).mean(1), rtol=1e-8, atol=1e-8)


class Untold(sdegen.SDE):
    """A linear process that does not say so, with one kernel from the data to any time."""

    T = 2.0
    lag = 2.0

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -x

    def diffusion(self, x: Tensor, t: Tensor) -> float:
        return 2.0**0.5


def test_nonlinear_processes_pool_the_kernels_of_one_time_as_linear_ones_the_data() -> None:
    x_0 = DATA.sample(24, torch.Generator().manual_seed(0))
    t = torch.tensor([0.3, 0.9, 1.7], dtype=torch.float64).repeat_interleave(8)
    perturbed = Untold().perturb(x_0, t, generator=torch.Generator().manual_seed(1))
    zero = sdegen.Exact(sdegen.OU(T=2.0), DATA)

    class Zero(sdegen.ScoreModel):
        sde = Untold()

        def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return torch.zeros_like(x)

    found = -losses.Denoising().error(Zero(), perturbed, sdegen.Scale(1.0))
    for own in (slice(0, 8), slice(8, 16), slice(16, 24)):
        want = sdegen.Exact(zero.sde, sdegen.Empirical(x_0[own])).score(perturbed.x[own], t[own])
        torch.testing.assert_close(found[own], want, rtol=1e-6, atol=1e-6)
    # Rows that share no time keep the targets of their own kernels.
    apart = perturbed._replace(at=Untold().at(t + torch.arange(24) * 1e-3))
    alone = -losses.Denoising().error(Zero(), apart, sdegen.Scale(1.0))
    torch.testing.assert_close(alone, perturbed.kernel.score(perturbed.x))


@pytest.mark.parametrize("shape", [(6, 2), (6,), (6, 2, 3)])
def test_a_pooled_score_is_that_of_the_mixture_of_kernels(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, x = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    if len(shape) == 2:  # a matrix over the coordinates for each row
        L = torch.randn(6, 2, 2, dtype=torch.float64, generator=generator).tril() + 1.5 * torch.eye(2)
        R: Any = sdegen.Matrix(L)
        covariances = L @ L.mT
    else:
        std = 0.5 + torch.rand(6, dtype=torch.float64, generator=generator)
        R, covariances = sdegen.Scale(std), std.square()
    mixture = sdegen.GaussianMixture(torch.full((6,), 1 / 6), mean, covariances)
    torch.testing.assert_close(Kernel(mean, R).pooled_score(x), mixture.score(x))


@pytest.mark.slow
def test_pooled_short_kernels_have_the_same_gradient_with_less_variance() -> None:
    sde = sdegen.DoubleWell(T=1.0)
    sde.lag = 0.05
    law = sdegen.data.gaussian_ring(radius=1.2, std=0.3)

    class Tilted(sdegen.ScoreModel):
        def __init__(self) -> None:
            self.sde = sde

        def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return -2 * x

    values = []
    for pooled in (True, False):
        times = weightings.SharedTimes(number=8)
        loss = losses.Denoising(weightings.UniformWeighting(), times, pooled=pooled)
        draws = []
        for seed in range(12):
            x_0 = law.sample(2048, torch.Generator().manual_seed(seed))
            up, down = Tilted(), Tilted()
            up.score = lambda x, t: -2.1 * x  # type: ignore[method-assign]
            ends = [loss(m, x_0, generator=torch.Generator().manual_seed(100 + seed)) for m in (up, down)]
            draws.append((ends[0] - ends[1]).mean())
        values.append(torch.stack(draws))
    gap = values[0] - values[1]
    assert gap.mean().abs() < 4 * gap.std() / len(gap) ** 0.5
    x_0 = law.sample(4096, torch.Generator().manual_seed(0))
    perturbed = sde.perturb(x_0, torch.full((4096,), 0.5), generator=torch.Generator().manual_seed(1))
    own, pooled_target = perturbed.kernel.score(perturbed.x), perturbed.kernel.pooled_score(perturbed.x)
    assert pooled_target.square().mean() < 0.3 * own.square().mean()


class Labelled(ScoreModel):
    """The exact score of data around the label's own mean, one for each row."""

    def __init__(self, sde: Any, shift: float = 3.0) -> None:
        self.exact, self.sde, self.shift, self.moments = Exact(sde, DATA), sde, shift, DATA.moments()

    def score(self, x: Tensor, t: Any, label: Tensor | None = None, **cond: Any) -> Tensor:
        away = (
            torch.zeros(len(x), 2, dtype=x.dtype) if label is None else self.shift * label[:, None].to(x).expand(-1, 2)
        )
        return self.exact.score(x - self.sde.marginal(t).Phi(self.sde.lift(away)), t)


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_data_keep_their_own_conditions_where_targets_are_pooled(sde: Any) -> None:
    # Each datum lies around its own label. A target pooled over the batch would be that of all labels together.
    label = torch.arange(400) % 3 - 1
    x_0 = DATA.sample(400, torch.Generator().manual_seed(0)) + 3.0 * label[:, None]
    values = {}
    for pooled in (False, True):
        loss = losses.Denoising(pooled=pooled)
        for name, given in {"own": label, "another's": label.roll(1)}.items():
            values[pooled, name] = loss(Labelled(sde), x_0, torch.Generator().manual_seed(1), label=given)
    assert torch.equal(values[True, "own"], values[False, "own"])
    assert values[True, "own"].mean() < 0.7 * values[True, "another's"].mean()


@pytest.mark.parametrize("steps", [2, 7, 40])
def test_the_hybrid_loss_adds_the_whole_chain_s_bound(steps: int) -> None:
    # Of N steps one is drawn, so its divergence counts N times: in the mean the sum over all of them.
    sde, weight = sdegen.VP(), 0.3
    model = sdegen.LearnedVariance(Mixed(), sde)
    model.net.bias.data = torch.tensor([0.1, -0.2, 2.0, -1.0], dtype=torch.float64)
    h = (sde.T - sde.t_min) / steps
    x_0 = DATA.sample(2000, torch.Generator().manual_seed(0))
    denoising = losses.Denoising(times=weightings.StratifiedTimes())

    def added(n: int) -> Tensor:
        with_bound = losses.Hybrid(denoising, steps=n, weight=weight)
        without = losses.Hybrid(denoising, steps=n, weight=0.0)
        with torch.no_grad():
            both = [loss(model, x_0, torch.Generator().manual_seed(1)) for loss in (with_bound, without)]
        return both[0] - both[1]

    # The divergence of the step that ends at t, by the two normal laws themselves, on a fine grid of t.
    total, nodes = 0.0, 200
    for j in range(nodes):
        t = torch.tensor(sde.t_min + (j + 0.5) / nodes * (sde.T - sde.t_min), dtype=torch.float64)
        s = (t - h).clamp_min(sde.t_min)
        a_s, a_t, v_s, v_t = sde.alpha(s), sde.alpha(t), sde.sigma(s) ** 2, sde.sigma(t) ** 2
        beta = v_t - (a_t / a_s) ** 2 * v_s
        small = v_s / v_t * beta
        x_t = a_t * x_0 + v_t.sqrt() * torch.randn(
            x_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(j)
        )
        u = torch.tensor([2.0, -1.0], dtype=torch.float64).sigmoid()
        variance = (u * beta.log() + (1 - u) * small.log()).exp()
        gap = a_s * beta / v_t * (x_0 - model.denoise(x_t, t)).detach()
        kl = 0.5 * (variance.log() - small.log() + small / variance - 1 + gap**2 / variance)
        total += kl.mean().item() / nodes
    found = added(steps)
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - weight * steps * total) < 5 * error + 0.02 * weight * steps * total


def test_losses_add_over_coordinates() -> None:
    one = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
    x = one.sample(3000, torch.Generator().manual_seed(0))

    class Zero(ScoreModel):
        sde, moments = sdegen.VP(), None

        def score(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
            return torch.zeros_like(x)

    loss = losses.Denoising(pooled=False)
    single, double = (loss(Zero(), v, torch.Generator().manual_seed(1)).mean() for v in (x, x.expand(-1, 2)))
    assert abs(double / single - 2) < 0.1 and abs(single - 1) < 0.1  # E z² of each coordinate, times lambda's sigma²
