"""Learned coefficients: derivatives reach them, the bound is the chain's own, and what is learned is the optimum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import GaussianMixture, LearnedSchedule, LearnedSDE, losses
from sdegen.data import Scaling
from sdegen.processes.learned import bernstein
from sdegen.testing import check_sde

RING = sdegen.data.gaussian_ring()


def gaussian(variance: float) -> GaussianMixture:
    return GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([variance]))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shuffled(sde: Any) -> Any:
    """The process with other parameters than it starts with."""
    with torch.no_grad():
        for k, p in enumerate(sde.parameters()):
            p += 0.2 * torch.randn(p.shape, generator=seeded(k))
    return sde


@pytest.mark.parametrize("kind", [LearnedSchedule, LearnedSDE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.slow
def test_learned_processes_obey_the_laws_of_any_process(kind: Any, dtype: torch.dtype) -> None:
    sde = kind().to(dtype)
    report = check_sde(sde)
    assert report.passed, report


@pytest.mark.parametrize("kind", [LearnedSchedule, LearnedSDE])
@pytest.mark.slow
def test_with_other_parameters_only_the_prior_which_does_not_follow_may_be_off(kind: Any) -> None:
    assert set(check_sde(shuffled(kind()).double()).failures) <= {"prior_is_the_law_at_T"}


class Paced(nn.Module, sdegen.ScalarSDE):
    """A process with parameters, as a user writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor([0.1, 20.0], dtype=torch.float64).log())

    def beta(self, t: Tensor) -> Tensor:
        low, high = self.ends.exp()
        return low + (high - low) * t

    def f(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t)

    def g(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()


@pytest.mark.slow
def test_a_process_with_parameters_of_a_user_obeys_the_laws() -> None:
    report = check_sde(Paced())
    assert report.passed, report


@pytest.mark.parametrize("transformed", ["forward", "reverse", "second"])
def test_what_follows_from_a_users_parameters_has_derivatives_in_time(transformed: str) -> None:
    """Of the drift's integral: panels are made of parameters alone, whatever is done to the times."""
    sde, t = Paced(), torch.tensor([0.3, 0.7], dtype=torch.float64)

    def log_alpha(t: Tensor) -> Tensor:
        return sde.alpha(t).log().sum()

    beta = sde.beta(t).detach()
    if transformed == "forward":
        found, want = torch.func.jvp(log_alpha, (t,), (torch.ones_like(t),))[1], -0.5 * beta.sum()
    elif transformed == "reverse":
        found, want = torch.func.grad(log_alpha)(t), -0.5 * beta
    else:
        found = torch.func.jacfwd(torch.func.grad(log_alpha))(t).diagonal()
        want = -0.5 * (beta[1] - beta[0]) / (t[1] - t[0]) * torch.ones_like(t)
    assert torch.allclose(found, want, rtol=1e-6)


def test_bernsteins_form_is_the_sum_of_its_basis() -> None:
    c = torch.randn(6, dtype=torch.float64, generator=seeded())
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    want = sum(c[k] * math.comb(5, k) * t**k * (1 - t) ** (5 - k) for k in range(6))
    torch.testing.assert_close(bernstein(c, t), want)


@pytest.mark.parametrize("kind", [LearnedSchedule, LearnedSDE])
def test_laws_are_differentiable_in_the_parameters(kind: type) -> None:
    sde = shuffled(kind()).double()
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    s = torch.tensor([0.1, 0.3], dtype=torch.float64)

    def value() -> Tensor:
        at, between = sde.marginal(t), sde.transition(s, t)
        return (at.R.matrix() + 2 * at.Phi.matrix() + 3 * between.R.matrix() + sde.snr(s)).sum()

    value().backward()
    for p in sde.parameters():
        i = 1
        h = 1e-6
        with torch.no_grad():
            p[i] += h
            up = value().item()
            p[i] -= 2 * h
            down = value().item()
            p[i] += h
        assert p.grad[i].item() == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-6)


def test_a_time_asked_about_again_sees_new_parameters() -> None:
    sde, t = LearnedSDE(), torch.tensor([0.5], dtype=torch.float64)
    with torch.no_grad():
        before = sde.snr(t)
        assert torch.equal(sde.snr(t), before)
        sde.ends -= 0.5
        assert sde.snr(t) < 0.9 * before


@pytest.mark.turns("LearnedSDE")
@pytest.mark.parametrize("sde", [sdegen.VP(), LearnedSchedule(), LearnedSDE()], ids=lambda s: type(s).__name__)
def test_the_loss_is_the_bound_of_the_chain_term_by_term(sde: Any) -> None:
    model = sdegen.Exact(sde, RING)
    x = RING.sample(2000, seeded())
    N = 12
    h = (sde.T - sde.t_min) / (N - 1)
    times = torch.cat([torch.tensor([sde.t_min], dtype=torch.float64), sde.t_min + h * torch.arange(1, N)]).flip(0)
    chain = sdegen.discrete_elbo(model, x, times, draws=8, generator=seeded(1))
    with torch.no_grad():
        found = torch.stack([losses.Variational(N)(model, x, generator=seeded(k)) for k in range(2, 18)]).mean(0)
    gap = found + chain.value
    assert abs(gap.mean()) < 5 * gap.std() / len(x) ** 0.5


BYTES = Scaling(-1, 1, 5)


def of_bytes(variance: float) -> GaussianMixture:
    """Gaussians at the middles of five cells, the outermost among them, all as likely."""
    means = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    return GaussianMixture(torch.full((5,), 0.2), means, torch.full((5,), variance))


def some_bytes(n: int) -> Tensor:
    """The middles of five cells, each `n` times."""
    return BYTES(torch.arange(5, dtype=torch.uint8).repeat(n)[:, None], torch.float64)


@pytest.mark.turns("LearnedSDE")
@pytest.mark.parametrize("make", [LearnedSchedule, LearnedSDE])
def test_the_loss_of_bytes_is_their_bound_and_has_its_derivatives(make: Any) -> None:
    sde = make(first=4.0).double()
    model, x, N = sdegen.Exact(sde, of_bytes(0.02)), some_bytes(2000), 6
    times = torch.linspace(sde.T, sde.t_min, N, dtype=torch.float64)
    loss = losses.Variational(N, cells=BYTES)

    def bound() -> Tensor:
        return -sdegen.discrete_elbo(model, x, times, cells=BYTES, draws=4, generator=seeded(1)).value

    with torch.no_grad():
        found = torch.stack([loss(model, x, generator=seeded(k)) for k in range(2, 10)]).mean(0)
    gap = found - bound()
    assert abs(gap.mean()) < 5 * gap.std() / len(x) ** 0.5
    values = torch.stack([loss(model, x, generator=seeded(k)).mean() for k in range(2, 6)])
    (slope,) = torch.autograd.grad(values.mean(), sde.ends)
    changed = []
    for k in range(2):
        for h in (1e-4, -1e-4):
            with torch.no_grad():
                sde.ends[k] += h
                changed.append(torch.stack([loss(model, x, generator=seeded(j)).mean() for j in range(2, 6)]).mean())
                sde.ends[k] -= h
    numeric = torch.stack([changed[0] - changed[1], changed[2] - changed[3]]) / 2e-4
    torch.testing.assert_close(slope, numeric, rtol=1e-4, atol=1e-5)


def test_bytes_have_no_density_to_raise_without_end_but_a_probability() -> None:
    law, x = of_bytes(1e-8), some_bytes(400)
    with torch.no_grad():
        ends = [sdegen.Exact(LearnedSchedule(first=first), law) for first in (8.0, 12.0)]
        density, probability = (
            [loss(model, x, generator=seeded()).mean().item() for model in ends]
            for loss in (losses.Variational(30), losses.Variational(30, cells=BYTES))
        )
    assert density[1] < density[0] - 1.5  # half of what the log-SNR rose by
    assert abs(probability[1] - probability[0]) < 0.2 and min(probability) > math.log(5)


def chain_bound(snr: Tensor, variance: float) -> Tensor:
    """The negative bound of Gaussian data under its exact denoiser, at log-SNRs from data to noise, in closed form."""

    def left(snr: Tensor) -> Tensor:
        return variance / (1 + variance * snr)

    alpha2 = (1 + 1 / snr[0]) / (1 + 1 / snr[-1])
    prior = 0.5 * (alpha2 * variance + alpha2 / snr[-1] - 1 - (alpha2 / snr[-1]).log())
    terms = 0.5 * ((snr[:-1] - snr[1:]) * left(snr[1:])).sum()
    return prior + terms + 0.5 * snr[0] * left(snr[0]) + 0.5 * (2 * math.pi / snr[0]).log()


def descend(parameters: Any, value: Any, steps: int, lr: float) -> None:
    optimiser = torch.optim.Adam(parameters, lr=lr)
    for k in range(steps):
        optimiser.param_groups[0]["lr"] = lr * (1 - k / steps)
        optimiser.zero_grad()
        value().backward()
        optimiser.step()


@pytest.mark.slow
def test_a_learned_schedule_is_the_best_for_its_number_of_steps() -> None:
    N, variance = 5, 9.0
    law, sde = gaussian(variance), LearnedSchedule()
    free = torch.linspace(8.0, -6.0, N, dtype=torch.float64).requires_grad_()
    start = chain_bound(free.exp(), variance).item()
    descend([free], lambda: chain_bound(free.exp(), variance), 2000, 0.05)
    best = chain_bound(free.exp(), variance).item()

    model, loss, generator = sdegen.Exact(sde, law), losses.Variational(N), seeded()
    x = law.sample(40_000, seeded(1))
    with torch.no_grad():
        first = loss(model, x, generator=seeded(2))
    assert abs(first.mean() - start) < 5 * first.std() / 200
    descend(sde.parameters(), lambda: loss(model, law.sample(256, generator), generator=generator).mean(), 300, 0.15)
    with torch.no_grad():
        learned = chain_bound(sde.snr(torch.linspace(0, 1, N, dtype=torch.float64)), variance).item()
    assert learned < best + 0.01 * (start - best)
    assert learned > best - 1e-6


def test_the_bound_of_the_process_does_not_know_the_way_between_its_ends() -> None:
    sde = LearnedSchedule()
    model = sdegen.Exact(sde, RING)
    x = RING.sample(300, seeded())
    values = []
    for k in range(2):
        with torch.no_grad():
            sde.increments += 1.5 * torch.randn(sde.degree, generator=seeded(k)) * k
        found = sdegen.elbo(model, x, draws=64, prior=sde.diffused(RING, sde.T), generator=seeded(3))
        values.append(found.value)
        # The true score on the true law at T: the bound is the density itself.
        gap = found.value - sde.diffused(RING, 0.0).log_prob(x)
        assert abs(gap.mean()) < 5 * gap.std() / len(x) ** 0.5


def test_learned_coefficients_are_trained_averaged_and_saved_with_the_network(tmp_path: Any) -> None:
    torch.manual_seed(0)
    for sde in (LearnedSchedule(first=6.0), LearnedSDE(first=6.0)):
        model = sdegen.Model(sdegen.nets.MLP(2, width=32, depth=2), sde)
        before = [p.detach().clone() for p in sde.parameters()]
        sdegen.fit(model, RING, steps=20, batch_size=64, warmup=5, loss=losses.Variational(100), seed=0)
        assert all(not torch.equal(p, q) for p, q in zip(before, sde.parameters(), strict=True))
        sdegen.save(model, tmp_path / "model.safetensors")
        again = sdegen.load(tmp_path / "model.safetensors")
        x, t = torch.randn(4, 2), torch.tensor(0.3)
        torch.testing.assert_close(again.score(x, t), model.score(x, t))
        assert sdegen.sample(again, 3, steps=4, seed=0).isfinite().all()


def test_bad_arguments_get_a_sentence() -> None:
    with pytest.raises(ValueError, match="the log-SNR falls"):
        LearnedSchedule(first=-1.0, last=2.0)
    with pytest.raises(ValueError, match="rate = 0"):
        LearnedSDE(rate=0)
    with pytest.raises(ValueError, match="whole number, at least 2: a chain of states"):
        losses.Variational(1)
    with pytest.raises(ValueError, match=r"steps = 2\.5; it must be a whole number"):
        losses.Variational(2.5)
    assert isinstance(LearnedSchedule(), nn.Module)


def test_score_matching_refuses_to_train_a_process_and_trains_a_network_on_one_that_is_held() -> None:
    torch.manual_seed(0)
    for loss in (losses.Denoising(), losses.Implicit(), losses.InputPerturbation()):
        model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), LearnedSchedule())
        with pytest.raises(ValueError, match=r"LearnedSchedule has parameters, .* Take losses\.Variational"):
            sdegen.fit(model, RING, steps=2, batch_size=16, loss=loss, seed=0, progress=False)
        model.sde.requires_grad_(False)
        before = [p.clone() for p in model.sde.parameters()]
        run = sdegen.fit(model, RING, steps=5, batch_size=64, loss=loss, seed=0, progress=False)
        assert all(torch.equal(p, q) for p, q in zip(before, model.sde.parameters(), strict=True))
        assert all(math.isfinite(v) for v in run.loss)


@pytest.mark.parametrize("make", [LearnedSchedule, LearnedSDE])
def test_laws_at_one_time_have_derivatives_as_often_as_they_are_asked_for(make: Any) -> None:
    """What is remembered of a time has no graph, which could be used once."""
    sde, t = make(), torch.tensor([0.3, 0.7], dtype=torch.float64)
    both = [sde.alpha(t).log() + sde.sigma(t).log() for _ in range(2)]
    each = [torch.autograd.grad(value.sum(), list(sde.parameters())) for value in both]
    assert all(a.equal(b) and a.abs().sum() > 0 for a, b in zip(*each, strict=True))


class LearnedRate(sdegen.ScalarSDE, nn.Module):
    """Drift or noise by a parameter, the other one fixed."""

    def __init__(self, of: str) -> None:
        nn.Module.__init__(self)
        self.of, self.rate = of, nn.Parameter(torch.tensor(1.5))

    def f(self, t: Tensor) -> Tensor:
        return -(self.rate.double() if self.of == "drift" else 1.0) * (0.5 + t)

    def g(self, t: Tensor) -> Tensor:
        return (self.rate.double() if self.of == "noise" else 1.0) * (1 + t)


class LearnedMatrices(sdegen.MatrixSDE, nn.Module):
    """The same of two channels."""

    Sigma_0 = torch.diag(torch.tensor([0.0, 0.1], dtype=torch.float64))

    def __init__(self, of: str) -> None:
        nn.Module.__init__(self)
        self.of, self.rate = of, nn.Parameter(torch.tensor(1.5))

    def F(self, t: Tensor) -> Tensor:
        base = torch.tensor([[0.0, 4.0], [-1.0, -4.0]], dtype=torch.float64).expand(*t.shape, 2, 2)
        return base * (self.rate.double() if self.of == "drift" else 1.0)

    def G(self, t: Tensor) -> Tensor:
        base = torch.tensor([[0.0, 0.0], [0.0, 2.0]], dtype=torch.float64).expand(*t.shape, 2, 2)
        return base * (self.rate.double() if self.of == "noise" else 1.0)


@pytest.mark.turns("LearnedMatrices-drift")
@pytest.mark.parametrize("of", ["drift", "noise"])
@pytest.mark.parametrize("make", [LearnedRate, LearnedMatrices])
def test_laws_of_one_learned_coefficient_have_derivatives_as_often_as_they_are_asked_for(make: Any, of: str) -> None:
    sde, t, slopes = make(of), torch.tensor([0.3, 0.7], dtype=torch.float64), []
    with torch.no_grad():
        before = sde.marginal(t).R.matrix()  # as samplers ask
    for _ in range(2):
        law = sde.marginal(t)
        slopes += torch.autograd.grad(law.Phi.log_abs_det().sum() + law.R.matrix().sum(), sde.rate)
    assert torch.equal(before, law.R.matrix()) and slopes[0] == slopes[1]
    assert slopes[0].abs() > 0.1
