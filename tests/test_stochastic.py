"""Stochastic samplers: law in the limit and weak order by exact moments, and equality with the samplers they contain."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

import sdegen
from sdegen import grids
from sdegen.laws.interpolation import gauss
from sdegen.samplers import (
    DDIM,
    Ancestral,
    Churn,
    ExponentialSDE,
    Heun,
    Interval,
    Langevin,
    Multistep,
    Restart,
    ReverseDiffusion,
    Sampler,
    SecantSDE,
    log_ratio,
    share,
)
from sdegen.samplers.adaptive import AdaptiveSDE, DyadicPath
from sdegen.samplers.moves import multiply
from sdegen.samplers.noise import SampleNoise
from sdegen.samplers.references import PointMass, Unbounded
from sdegen.samplers.trials import level
from sdegen.testing import affine_moments, gaussian_data, response


class Own(sdegen.ScalarSDE):
    """The README's process."""

    def f(self, t: Tensor) -> Tensor:
        return -10 * t

    def g(self, t: Tensor) -> Tensor:
        return (1 + 20 * t).sqrt()


PROCESSES: dict[str, tuple[Callable[[], sdegen.LinearSDE], grids.Grid]] = {
    "VP": (sdegen.VP, grids.Angle()),
    "VE": (sdegen.VE, grids.Angle()),
    "OU": (sdegen.OU, grids.Angle()),
    "own": (Own, grids.Angle()),
    "EDM": (sdegen.EDM, grids.Karras()),
    "Cosine": (sdegen.Cosine, grids.Angle(end=0.0)),  # both ends, one with alpha = 0 and one with sigma = 0
    "CLD": (lambda: sdegen.CLD(sigma_0=0.1), grids.Uniform(end=0.05)),
}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("order", [1, 2])
def test_mean_given_the_start_is_exact_with_noise(process: str, order: int) -> None:
    # E[x_0 | x_t] is a martingale of the reversed SDE, so holding it costs the mean nothing: all error is in the spread.
    make, _ = PROCESSES[process]
    sde = make()
    model = sdegen.Exact(sde, gaussian_data())
    start, end = sde.time(torch.tensor([1.0, 16.0], dtype=torch.float64)).tolist()
    (_, C_t), (_, C_s) = (sde.diffused(model.distribution, t).moments() for t in (start, end))
    Phi = sde.transition(end, start).Phi.matrix().contiguous()
    want = C_s @ torch.kron(Phi, torch.eye(2, dtype=torch.float64)).T @ C_t.inverse()
    A = response(ExponentialSDE(8, grids.Angle(start, end), order, reference=PointMass()), model).A
    torch.testing.assert_close(A, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("process", PROCESSES)
def test_order_one_is_ancestral_sampling(process: str) -> None:
    make, grid = PROCESSES[process]
    model = sdegen.Exact(make(), sdegen.data.gaussian_ring())
    x_T = model.sde.prior(model.moments).sample(16, torch.Generator().manual_seed(0)).double()
    first, second = (
        sdegen.sample(model, x_T=x_T, sampler=s, seed=1, final="sample")
        for s in (ExponentialSDE(12, grid, order=1, reference=PointMass()), Ancestral(12, grid))
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-8)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("process", [name for name in PROCESSES if name != "CLD"])
@pytest.mark.parametrize("eta", [0.3, 1.0, 1.7])
def test_gaussian_data_are_exact_in_law_at_every_step(process: str, eta: float) -> None:
    make, grid = PROCESSES[process]
    model = sdegen.Exact(make(), gaussian_data())
    for order, corrector in ((1, False), (2, False), (3, True)):
        sampler = ExponentialSDE(5, grid, order, eta, corrector=corrector)
        times = sampler.times(model.sde, False)
        for n in (1, 2, 5):
            part = ExponentialSDE(n, grids.Given(times[: n + 1]), order, eta, corrector=corrector)
            want = model.sde.diffused(model.distribution, times[n]).moments()
            for a, b in zip(affine_moments(part, model), want, strict=True):
                torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-10, atol=1e-10)


POINTS: dict[str, Callable[[], sdegen.LinearSDE]] = {name: make for name, (make, _) in PROCESSES.items()}
POINTS["CLD from a point"] = sdegen.CLD


@pytest.mark.thinned(2)
@pytest.mark.parametrize("process", POINTS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_a_clean_state_that_is_always_the_same_is_left_by_its_own_law(process: str, eta: float) -> None:
    sde, one = POINTS[process](), torch.ones(1, dtype=torch.float64)
    law = sdegen.GaussianMixture(one, torch.tensor([[1.5, -0.5]], dtype=torch.float64), 1e-24 * one)
    model, grid = sdegen.Exact(sde, law), grids.Uniform(end=0.05 * sde.T)
    if isinstance(sde, sdegen.CLD):
        eta = round(eta)  # between 0 and 1 there is no closed form
    for steps, order in ((1, 1), (3, 1), (3, 2)):
        sampler = ExponentialSDE(steps, grid, order, eta, reference=PointMass())
        want = sde.diffused(law, sampler.times(sde, False)[-1]).moments()
        for a, b in zip(affine_moments(sampler, model), want, strict=True):
            torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_without_bound_the_reference_s_noise_is_that_of_the_process(eta: float) -> None:
    # A score of zero leaves the forward process taken back, with eta² of its noise: on numbers and on matrices alike.
    for sde in (sdegen.VP(), sdegen.CLD(sigma_0=0.1)):
        start, end = sde.time(torch.tensor([0.5, 8.0], dtype=torch.float64))
        sampler = ExponentialSDE(1, grids.Given(torch.stack([start, end])), 1, eta, reference=Unbounded())
        plan = sampler.plan(sdegen.Exact(sde, gaussian_data()), sampler.times(sde, False))[0]
        forward = sde.transition(end, start)
        back = forward.Phi.inv()
        torch.testing.assert_close(plan.move.carry.matrix(), back.matrix(), rtol=1e-9, atol=1e-9)
        if eta:
            root = plan.fresh.root.matrix()
            want = eta**2 * (back @ forward.covariance @ back.T).matrix()
            torch.testing.assert_close(root @ root.mT, want, rtol=1e-9, atol=1e-9)
        else:
            assert plan.fresh is None


@pytest.mark.parametrize("process", [name for name in PROCESSES if name != "CLD"])
@pytest.mark.parametrize("order", [1, 3])
def test_noise_that_vanishes_leaves_the_deterministic_multistep(process: str, order: int) -> None:
    make, grid = PROCESSES[process]
    model = sdegen.Exact(make(), sdegen.data.gaussian_ring())
    x_T = model.sde.prior(model.moments).sample(16, torch.Generator().manual_seed(0)).double()
    first, second = (
        sdegen.sample(model, x_T=x_T, sampler=s, final="sample")
        for s in (ExponentialSDE(6, grid, order, 1e-6, corrector=True), Multistep(6, grid, order, corrector=True))
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
    without = ExponentialSDE(6, grid, order, eta=0.0, corrector=True)
    assert torch.equal(sdegen.sample(model, x_T=x_T, sampler=without, final="sample"), second)


def test_weights_are_those_of_sde_dpm_solver() -> None:
    # DPM-Solver++ in its own variables: lambda = log(alpha / sigma), h = lambda_s − lambda_t, r = h_previous / h.
    sde = sdegen.VP()
    times = torch.tensor([0.8, 0.6, 0.45], dtype=torch.float64)
    lam = 0.5 * sde.snr(times).log()
    h, r = lam[2] - lam[1], (lam[1] - lam[0]) / (lam[2] - lam[1])
    alpha, sigma = sde.marginal(times).Phi.c, sde.marginal(times).R.c
    sampler = ExponentialSDE(2, grids.Given(times), clock=log_ratio, reference=PointMass())
    plan = sampler.plan(sdegen.Exact(sde, gaussian_data()), times)
    D1 = alpha[2] * (1 - (1 - (-2 * h).exp()) / (2 * h))  # weight of the slope, integrated exactly
    want = [alpha[2] * (1 - (-2 * h).exp()) + D1 / r, -D1 / r]
    got = plan[1]
    torch.testing.assert_close(got.move.carry.c, sigma[2] / sigma[1] * (-h).exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([W.c for W in got.move.weights]), -torch.stack(want), rtol=1e-9, atol=0)
    torch.testing.assert_close(got.fresh.root.c, sigma[2] * (1 - (-2 * h).exp()).sqrt(), rtol=1e-12, atol=0)


def test_weights_with_a_corrector_are_those_of_sa_solver() -> None:
    # Section 4 of arXiv:2309.05019 in its own variables, tau constant: the integrals of e^{(1 + tau²) lambda} l_j, here by a
    # rule of many points, of the corrector through x_{i+1} and two predictions before.
    sde, tau = sdegen.VP(), 0.7
    times = torch.tensor([0.8, 0.6, 0.45, 0.3], dtype=torch.float64)
    lam, sigma = 0.5 * sde.log_snr(times), sde.marginal(times).R.c
    sampler = ExponentialSDE(3, grids.Given(times), 2, tau, log_ratio, PointMass(), corrector=True)
    plan = sampler.updates(sdegen.Exact(sde, gaussian_data()), times).steps()
    z, w = gauss(60)
    for move, seen, (t, s) in ((plan[2].correct, [2, 1, 0], (1, 2)), (plan[2].move, [2, 1], (2, 3))):
        inner = lam[t] + 0.5 * (z + 1) * (lam[s] - lam[t])
        kernel = 0.5 * w * (lam[s] - lam[t]) * (1 + tau**2) * sigma[s] * ((1 + tau**2) * inner - tau**2 * lam[s]).exp()
        want = [(kernel * math.prod((inner - lam[i]) / (lam[j] - lam[i]) for i in seen if i != j)).sum() for j in seen]
        torch.testing.assert_close(torch.stack([W.c for W in move.weights]), -torch.stack(want), rtol=1e-9, atol=1e-12)
        h = lam[s] - lam[t]
        torch.testing.assert_close(move.carry.c, sigma[s] / sigma[t] * (-(tau**2) * h).exp(), rtol=1e-12, atol=0)
    root = sigma[3] * (1 - (-2 * tau**2 * h).exp()).sqrt()
    torch.testing.assert_close(plan[2].fresh.root.c, root, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("steps", "order", "within"), [(6, 2, 0.25), (8, 2, 0.1), (10, 3, 0.02), (20, 3, 0.004)])
def test_modes_narrower_than_the_data_come_out_as_wide_as_they_are(steps: int, order: int, within: float) -> None:
    """Exactly, without samples: a mode alone is a Gaussian that the moments of the data are far too wide for."""
    for width in (0.05, 0.1, 0.2, 0.4):
        mode = sdegen.GaussianMixture(torch.ones(1), torch.tensor([[0.5, -1.0]]), torch.tensor([width**2]))
        model = sdegen.Exact(sdegen.VP(), mode)
        model.moments = sdegen.Moments(torch.zeros(2), torch.eye(2))
        sampler = ExponentialSDE(steps, grids.Angle(scale=level(model.moments), power=0.5), order)
        _, covariance = affine_moments(sampler, model)
        at = model.sde.diffused(mode, sampler.times(model.sde, False)[-1]).moments()[1]
        assert (covariance.trace() / at.trace()).sqrt().item() == pytest.approx(1.0, abs=within)


def test_an_early_step_that_goes_again_keeps_its_noise() -> None:
    # Order 3 takes its second step from the start: the noise of the first step has to be in it once, carried along.
    sde, eta = sdegen.VP(), 0.8
    model = sdegen.Exact(sde, gaussian_data())
    sampler = ExponentialSDE(2, None, 3, eta)
    times = sampler.times(sde, False)
    plan, z = sampler.plan(model, times), [torch.full((1, 2), v, dtype=torch.float64) for v in (3.0, -2.0)]
    ends = []
    for noises in (z, [torch.zeros(1, 2, dtype=torch.float64)] * 2):
        x, state, left = torch.ones(1, 2, dtype=torch.float64), None, list(noises)
        for c in plan:
            x, state = sampler.step(model, x, c, lambda _, left=left: left.pop(0), state)  # type: ignore[misc]
        ends.append(x)
    first, second = (c.fresh for c in plan)
    want = multiply(second.carry, multiply(first.root, plan[0].pieces.enter(z[0])))
    want = plan[0].pieces.leave(want + multiply(second.root, plan[0].pieces.enter(z[1])), z[0])
    # The model's answer moves with the noise of the first step too, but for data of the reference's law.
    torch.testing.assert_close(ends[0] - ends[1], want, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_order_two_is_better_on_the_ring() -> None:
    # By the mean log-density, which tells the width of the modes: order 1 makes them too narrow, order 2 too wide. They
    # err by as much at some 25 steps.
    ring = sdegen.data.gaussian_ring()
    model = sdegen.Exact(sdegen.VP(), ring)
    want = ring.log_prob(ring.sample(40000, torch.Generator().manual_seed(1))).mean()
    samplers = [ExponentialSDE(40, order=p, clock=share, reference=PointMass()) for p in (1, 2)]
    found = [sdegen.sample(model, 20000, sampler=sampler, seed=0) for sampler in samplers]
    errors = [(ring.log_prob(x).mean() - want).abs() for x in found]
    assert errors[1] < 0.75 * errors[0] and errors[1] < 0.08


def test_churn_is_the_algorithm_of_the_paper() -> None:
    # Algorithm 2 of EDM, line by line, in sigma.
    sde = sdegen.EDM()
    model = sdegen.Exact(sde, sdegen.data.gaussian_ring())
    N, S_churn, S_min, S_max, S_noise = 12, 4.0, 0.05, 50.0, 1.003
    sigma = torch.tensor([80.0 ** (1 / 7) + i / (N - 1) * (0.002 ** (1 / 7) - 80.0 ** (1 / 7)) for i in range(N)]) ** 7
    x = x_T = 80 * torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(5)
    sigma = torch.cat([sigma.double(), torch.zeros(1)])
    for i in range(N):
        gamma = min(S_churn / N, math.sqrt(2) - 1) if S_min <= sigma[i] <= S_max else 0.0
        hat = sigma[i] * (1 + gamma)
        if gamma:
            z = torch.randn(x.shape, dtype=torch.float64, generator=generator)
            x = x + (hat**2 - sigma[i] ** 2).sqrt() * S_noise * z
        d = (x - model.denoise(x, (hat - 0.002).clamp(0, sde.T))) / hat
        following = x + (sigma[i + 1] - hat) * d
        if sigma[i + 1] > 0:
            d_2 = (following - model.denoise(following, (sigma[i + 1] - 0.002).clamp(0, sde.T))) / sigma[i + 1]
            following = x + (sigma[i + 1] - hat) * 0.5 * (d + d_2)
        x = following
    sampler = Churn(N, grids.Karras(end=0.0), S_churn=S_churn, S_min=S_min, S_max=S_max, S_noise=S_noise)
    times, generator = sampler.times(sde, True), torch.Generator().manual_seed(5)
    got = x_T
    for c in sampler.plan(model, times):
        got, _ = sampler.step(model, got, c, lambda like: sdegen.laws.draws.noise_like(like, generator), None)
    got = model.denoise(got, times[-1])
    torch.testing.assert_close(got, x, rtol=0, atol=2e-4)  # their sigmas are float32


def test_restart_contracts_an_error_made_above() -> None:
    sde = sdegen.VP()
    model = sdegen.Exact(sde, gaussian_data())
    plain, again = Heun(40), Restart(Heun(40), [Interval(0.1, 2.0, 2, 20)])
    memory = [response(s, model).A.norm() for s in (plain, again)]
    assert memory[1] < 0.25 * memory[0]  # what is left at the end of a wrong start


@pytest.mark.parametrize("process", ["VP", "VE", "Cosine"])
def test_restart_keeps_a_law_that_its_sampler_keeps(process: str) -> None:
    """What is added takes the law at the low level to that at the high one, from where steps that are exact take it back."""
    model = sdegen.Exact(PROCESSES[process][0](), gaussian_data())
    exact = ExponentialSDE(4, order=1, eta=1.0)
    sampler = Restart(exact, [Interval(0.2, 1.0, 1, 2), Interval(2.0, 5.0, 2, 1)])
    times = sampler.times(model.sde, False)
    rises = [sampler.plan(model, times)[k].up is not None for k in range(len(times) - 1)]
    assert rises == (times.diff() > 0).tolist() and sum(rises) == 4 - 1
    want = model.sde.diffused(model.distribution, times[-1]).moments()
    for a, b in zip(affine_moments(sampler, model), want, strict=True):
        torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-9, atol=1e-9)


def test_restart_visits_its_levels() -> None:
    sde = sdegen.VE()
    low, high = Interval(0.05, 0.3, 3, 2), Interval(0.5, 4.0, 1, 5)
    times = Restart(Heun(10), [low, high]).times(sde, False)
    rises = [i for i in range(len(times) - 1) if times[i + 1] > times[i]]
    assert len(times) == 11 + 2 + 3 * 3 + 1 * 6
    rho = sde.snr(times).rsqrt()
    want = torch.tensor([[0.5, 4.0]] + 3 * [[0.05, 0.3]], dtype=torch.float64)
    torch.testing.assert_close(torch.stack([rho[rises], rho[[i + 1 for i in rises]]], 1), want, rtol=1e-9, atol=0)


def test_reverse_diffusion_is_the_paper_s_on_ddpm() -> None:
    # Appendix E: x_i = (2 − √(1 − beta)) x_{i+1} + beta score + √beta z.
    sde = sdegen.DDPM()
    model = sdegen.Exact(sde, gaussian_data())
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s, t = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.301, dtype=torch.float64)
    sampler, beta = ReverseDiffusion(1), sde.betas[300]
    got, _ = sampler.step(model, x, sampler.plan(model, torch.stack([t, s]))[0], torch.ones_like, None)
    torch.testing.assert_close(got, (2 - (1 - beta).sqrt()) * x + beta * model.score(x, t) + beta.sqrt())


MAKE: dict[str, Callable[[], Sampler]] = {
    "exponential": lambda: ExponentialSDE(6),
    "churn": lambda: Churn(6, grids.Karras(start=0.9)),
    "restart": lambda: Restart(Heun(6), [Interval(0.1, 1.0, 1, 3)]),
    "reverse diffusion": lambda: ReverseDiffusion(6),
    "secant": lambda: SecantSDE(6),
    "langevin": lambda: Langevin(3),
    "adaptive": lambda: AdaptiveSDE(0.1, 0.1),
}


@pytest.mark.parametrize("name", MAKE)
def test_rows_do_not_mix_and_seeds_reproduce(name: str) -> None:
    model = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring())
    sampler = MAKE[name]()
    first, second = (sdegen.sample(model, 8, sampler=sampler, seed=3) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, sdegen.sample(model, 8, sampler=sampler, seed=4))
    times = sampler.times(model.sde, False)
    x_T = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ends = []
    for x in (x_T, x_T[:2]):
        generator, state = torch.Generator().manual_seed(2), None
        z = [torch.randn(6, 2, dtype=torch.float64, generator=generator) for _ in range(300)]
        for c in sampler.plan(model, times):
            x, state = sampler.step(model, x, c, lambda like, z=z: z.pop(0)[: len(like)], state)  # type: ignore[misc]
        ends.append(x)
    torch.testing.assert_close(ends[0][:2], ends[1], rtol=1e-9, atol=1e-9)


def test_langevin_on_a_matrix_process_steps_in_its_root() -> None:
    sde = sdegen.CLD()
    model, h = sdegen.Exact(sde, gaussian_data()), 0.07
    x = torch.randn(4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampler = Langevin(1, h=h, t=0.4)
    c = sampler.plan(model, sampler.times(sde, False))[0]
    R = sde.marginal(0.4).R
    got, _ = sampler.step(model, x, c, torch.ones_like, None)
    want = x - h * R(model.noise(x, 0.4)) + math.sqrt(2 * h) * R(torch.ones_like(x))
    torch.testing.assert_close(got, want)


def test_noise_is_drawn_only_where_it_is_used() -> None:
    model = sdegen.Exact(sdegen.VP(), gaussian_data())

    def forbidden(x: Tensor) -> Tensor:
        raise AssertionError("noise was drawn")

    for sampler in (ExponentialSDE(3, eta=0.0), Churn(3, S_churn=0.0)):
        x, state = torch.randn(4, 2, dtype=torch.float64), None
        for c in sampler.plan(model, sampler.times(model.sde, False)):
            x, state = sampler.step(model, x, c, forbidden, state)


REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "order": (lambda: ExponentialSDE(order=4), ValueError, "order = 4"),
    "eta": (lambda: ExponentialSDE(eta=-0.5), ValueError, "eta = -0.5"),
    "eta nan": (lambda: ExponentialSDE(eta=math.nan), ValueError, "eta = nan"),
    "churn": (lambda: Churn(S_churn=-1.0), ValueError, "S_churn = -1"),
    "churn levels": (lambda: Churn(S_min=2.0, S_max=1.0), ValueError, "S_min = 2"),
    "interval": (lambda: Restart(intervals=[Interval(1.0, 0.5)]), ValueError, "0 < low < high"),
    "atol": (lambda: AdaptiveSDE(atol=0.0), ValueError, "atol = 0"),
    "rtol": (lambda: AdaptiveSDE(rtol=-1.0), ValueError, "rtol = -1"),
    "repeats": (lambda: Restart(intervals=[Interval(0.1, 0.5, 0)]), ValueError, "one repeat"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused(case: str) -> None:
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("sde", [sdegen.EDM(), sdegen.VP()], ids=["EDM", "VP"])
def test_restarts_lie_within_the_run_and_a_message_names_its_ends(sde: Any) -> None:
    heun = Heun(3, grids.Uniform(end=0.2 * sde.T))
    worst, best = (-0.5 * sde.log_snr(heun.times(sde, False)[[0, -1]])).exp().tolist()
    for low, high, wrong in (
        (1.001 * best, 0.999 * worst, None),
        (0.999 * best, 0.999 * worst, 0.999 * best),
        (1.001 * best, 1.001 * worst, 1.001 * worst),
    ):
        says = (
            rf"the level {re.escape(f'{wrong:g}')} .* lies outside the run, \[{best:.4g}, {worst:.4g}\]"
            if wrong
            else ""
        )
        with pytest.raises(ValueError, match=says) if wrong else nullcontext():
            Restart(heun, [Interval(low, high)]).times(sde, False)


def test_processes_that_a_sampler_means_nothing_for_are_refused() -> None:
    law = gaussian_data()
    well = sdegen.DoubleWell()
    nonlinear = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), well)
    for sampler in (ExponentialSDE(3), ReverseDiffusion(3), Churn(3, grids.Uniform()), Restart(Heun(3))):
        with pytest.raises(TypeError, match="needs the posterior mean"):
            sdegen.sample(nonlinear, x_T=torch.zeros(2, 1), sampler=sampler, final="sample")
    with pytest.raises(TypeError, match="CLD is not scalar"):
        sdegen.sample(sdegen.Exact(sdegen.CLD(), law), 2, sampler=Churn(3, grids.Uniform(end=0.1)))
    cosine = sdegen.Exact(sdegen.Cosine(), law)
    with pytest.raises(ValueError, match=r"the clock is infinite at one of"):
        sdegen.sample(
            cosine, 2, sampler=ExponentialSDE(3, grids.Angle(end=0.0), clock=log_ratio, reference=PointMass())
        )
    with pytest.raises(ValueError, match=r"sigma / alpha is infinite at t = 1"):
        sdegen.sample(cosine, 2, sampler=Churn(3, grids.Angle()))
    with pytest.raises(ValueError, match="lies outside the run"):
        sdegen.sample(sdegen.Exact(sdegen.EDM(), law), 2, sampler=Restart(Heun(3), [Interval(0.1, 100.0)]))


def test_dtype_and_device_follow_the_model(device: torch.device, dtype: torch.dtype) -> None:
    model = sdegen.Model(sdegen.nets.MLP(2, width=16, depth=1), sdegen.VP()).to(device, dtype)
    model.moments = gaussian_data().moments()
    for make in MAKE.values():
        x = sdegen.sample(model, 4, sampler=make(), seed=0)
        assert x.dtype == dtype and x.device.type == device.type and x.isfinite().all()


def test_ddim_at_eta_one_has_the_law_of_order_one() -> None:
    model = sdegen.Exact(sdegen.VP(), gaussian_data())
    first, second = (
        affine_moments(s, model) for s in (ExponentialSDE(20, order=1, reference=PointMass()), DDIM(20, eta=1.0))
    )
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


class Silent(sdegen.ScoreModel):
    """A score of zero, so that what comes out is the noise that went in."""

    moments = gaussian_data().moments()

    def __init__(self, sde: sdegen.SDE) -> None:
        self.sde = sde

    def score(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
        return torch.zeros_like(x)


def test_rejection_keeps_the_brownian_path() -> None:
    # With no drift x is ∫ G dw whatever steps were rejected; noise redrawn on rejection would lose its large increments.
    sde = sdegen.VE(sigma_min=0.01, sigma_max=5.0)
    n = 20000
    sampler = AdaptiveSDE(rtol=0.0, atol=0.02)
    x_T = torch.zeros(n // 2, 2, dtype=torch.float64)
    x = sdegen.sample(Silent(sde), x_T=x_T, sampler=sampler, final="sample", seed=0)
    variance = 25 - 1e-4
    assert abs(x.var() / variance - 1) < 4 * math.sqrt(2 / n)
    assert abs((x**4).mean() / variance**2 - 3) < 4 * math.sqrt(96 / n)


def test_parts_of_a_path_tile_its_interval_and_add_up() -> None:
    # Steps of random length and fate: what was kept covers the interval once, with increments of the right variance.
    n = 4000
    generator = torch.Generator().manual_seed(0)
    path = DyadicPath(torch.zeros(n, 1, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    total, covered = torch.zeros(n), torch.zeros(n)
    while not path.done.all():
        w = path.next(torch.randn(n, 1, dtype=torch.float64, generator=generator))[:, 0]
        start, length = path.start, path.length
        torch.testing.assert_close(covered.double(), start, rtol=0, atol=1e-6)
        # Large increments are refused where the part is long; else a random length is asked for.
        error = torch.where(
            (w.abs() > length.sqrt()) & (length > 0.01), 3.0, 0.9 * torch.rand(n, generator=generator) ** 4
        )
        kept = path.judge(error.double())
        total = total + w * kept
        covered = covered + length * kept
    torch.testing.assert_close(covered, torch.full_like(covered, 2.0), rtol=0, atol=1e-5)
    assert abs(total.var() / 2 - 1) < 4 * math.sqrt(2 / n) and abs((total**4).mean() / 12 - 1) < 4 * math.sqrt(
        96 / 9 / n
    )


@pytest.mark.turns("EDM")
@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.EDM(sigma_max=10.0)], ids=lambda s: type(s).__name__)
def test_adaptive_steps_keep_the_law(sde: sdegen.LinearSDE) -> None:
    law, n = gaussian_data(), 6000
    model, sampler = sdegen.Exact(sde, law), AdaptiveSDE(0.05, 0.025)
    times = sampler.times(sde, False)
    x_T = sde.diffused(law, times[0]).sample(n, torch.Generator().manual_seed(1)).double()
    x = sdegen.sample(model, x_T=x_T, sampler=sampler, final="sample", seed=2)
    mean, covariance = sde.diffused(law, times[-1]).moments()
    assert (torch.cov(x.T) - covariance).norm() / covariance.norm() < 4 * math.sqrt(2 / n)
    assert (x.mean(0) - mean).norm() < 4 * math.sqrt(covariance.trace() / n)


def test_adaptive_steps_are_chosen_by_each_row_and_the_tolerance() -> None:
    sde = sdegen.VP()
    model = sdegen.Exact(sde, sdegen.data.gaussian_ring())
    x_T = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together, alone = (
        sdegen.sample(model, x_T=x, sampler=AdaptiveSDE(), seed=3, noise=SampleNoise) for x in (x_T, x_T[:1])
    )
    torch.testing.assert_close(together[:1], alone, rtol=1e-9, atol=1e-9)
    calls = []
    for tol in (0.2, 0.02):
        noise, count = SampleNoise(0), AdaptiveSDE(tol, tol)
        count.step(model, x_T, count.plan(model, count.times(sde, False))[0], noise, None)
        calls.append(noise.calls)
    assert calls[1] > 2 * calls[0]


def test_adaptive_refuses_what_it_cannot_step_through() -> None:
    law = gaussian_data()
    with pytest.raises(ValueError, match="is infinite at t = 1"):
        sdegen.sample(sdegen.Exact(sdegen.Cosine(), law), 2, sampler=AdaptiveSDE())

    class Broken(Silent):
        def score(self, x: Tensor, t: Tensor, **cond: object) -> Tensor:
            return torch.full_like(x, math.nan)

    with pytest.raises(ValueError, match="no step meets the tolerance"):
        sdegen.sample(Broken(sdegen.VP()), 2, sampler=AdaptiveSDE())


def test_a_split_part_is_a_brownian_bridge() -> None:
    n, generator = 20000, torch.Generator().manual_seed(0)
    path = DyadicPath(torch.zeros(n, 1, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    path.wanted = torch.zeros(n, dtype=torch.int64)
    parts = []
    for error in (3.0, 0.9, 0.9):  # the whole is refused, its halves are kept
        parts.append(path.next(torch.randn(n, 1, dtype=torch.float64, generator=generator))[:, 0])
        path.judge(torch.full((n,), error, dtype=torch.float64))
        path.wanted = path.level.clone()
    whole, left, right = parts
    torch.testing.assert_close(left + right, whole)
    torch.testing.assert_close(torch.cov(torch.stack([left, right])), torch.eye(2).double(), rtol=0, atol=0.05)


def test_without_noise_adaptive_steps_gain_from_extrapolation() -> None:
    sde = sdegen.VP()
    model = sdegen.Exact(sde, gaussian_data())
    x_T = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want = sdegen.sample(model, x_T=x_T, sampler=Heun(400), final="sample")
    got = sdegen.sample(model, x_T=x_T, sampler=AdaptiveSDE(0.0, 0.003, eta=0.0), final="sample")
    assert (got - want).abs().max() < 2e-3


def test_restart_forgets_at_the_jump() -> None:
    model = sdegen.Exact(sdegen.VP(), gaussian_data())
    sampler = Restart(ExponentialSDE(4), [Interval(0.1, 1.0)])
    jump = next(c for c in sampler.plan(model, sampler.times(model.sde, False)) if c.up is not None)
    assert sampler.step(model, torch.zeros(2, 2), jump, torch.zeros_like, ["old"])[1] is None


@pytest.mark.parametrize(
    "make",
    [
        lambda t: Churn(2, grids.Given(torch.tensor([t, 0.5], dtype=torch.float64))),
        lambda t: Churn(2, grids.Karras(start=t, end=0.5)),
    ],
    ids=["the sampler", "the grid"],
)
def test_a_start_is_refused_where_a_float32_state_has_lost_its_signal_and_nowhere_before(make: Any) -> None:
    model = sdegen.Exact(sdegen.Cosine(), gaussian_data())
    for signal in (0.9e-8, 1.1e-8):  # alpha / sigma
        t = model.sde.time(signal**2).item()
        lost = pytest.raises(ValueError, match=r"sigma / alpha is .*grid")
        with lost if signal < 1e-8 else nullcontext():
            sdegen.sample(model, 2, sampler=make(t))
