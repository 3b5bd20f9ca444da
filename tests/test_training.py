"""`fit` does what its record says: seeded, scheduled, averaged, stopped in time, and towards the known minimiser."""

from __future__ import annotations

import copy
import math
import time
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import sdegen
from sdegen import fit
from sdegen.training import PowerEMA


@pytest.fixture
def tiny(device, dtype):
    """A small model, the same whenever it is asked for."""

    def built(sde=None, classes=0):
        torch.manual_seed(0)
        net = sdegen.nets.MLP(2, width=8, depth=1, classes=classes)
        return sdegen.Model(net, sdegen.VP() if sde is None else sde).to(device, dtype)

    return built


RING = sdegen.data.gaussian_ring()
weights = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


class Recorder(nn.Module):
    """A network of one parameter that keeps what it was called with."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))
        self.calls = []

    def forward(self, x, level, **cond):
        self.calls.append(cond)
        return self.gain * x


# --- reproducibility --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["law", "tensor", "labelled"])
def test_a_seed_reproduces_a_run_bit_for_bit(tiny, kind, device, dtype, generator):
    x = RING.sample(100, generator).to(device, dtype)
    label = torch.arange(100, device=device) % 3
    data = {"law": RING, "tensor": x, "labelled": (x, label)}[kind]
    models = [tiny(classes=3 if kind == "labelled" else 0) for _ in range(3)]
    runs = []
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(seed)  # the global generator has no say
        runs.append(fit(model, data, steps=12, batch_size=16, seed=seed))
    one, same, other = map(weights, models)
    assert torch.equal(one, same) and runs[0].loss == runs[1].loss
    assert not torch.equal(one, other)


def test_the_recorded_seed_repeats_an_unseeded_run(tiny):
    first, again = tiny(), tiny()
    run = fit(first, RING, steps=5, batch_size=16)
    fit(again, RING, steps=5, batch_size=16, seed=run.settings["seed"])
    assert torch.equal(weights(first), weights(again))


def test_the_global_generator_keeps_its_seed(tiny):
    model = tiny()
    torch.manual_seed(7)
    fit(model, RING, steps=1, batch_size=4)
    assert torch.initial_seed() == 7


# --- averaged weights -------------------------------------------------------------------------------------------------


def power_profile(n, gamma):
    """What the recursion gives to step m of n: ``m^(gamma+1) − (m−1)^(gamma+1)`` over ``n^(gamma+1)``.

    Step m enters with ``1 − (1 − 1/m)^(gamma+1)`` and is multiplied by ``(1 − 1/j)^(gamma+1)`` at every later j, a
    product that telescopes to ``(m/n)^(gamma+1)``: the integral of ``u^gamma`` over the m-th of n equal intervals.
    """
    m = torch.arange(n + 1, dtype=torch.float64)
    return ((m / n) ** (gamma + 1)).diff()


@pytest.mark.parametrize("width", [0.02, 0.05, 0.15, 0.25])
def test_average_weighs_steps_by_a_power_of_their_number(width, generator):
    n = 40
    value = torch.zeros(3, dtype=torch.float64)
    average = PowerEMA([value], width)
    steps = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    for row in steps:
        value.copy_(row)
        average.update()
    profile = power_profile(n, average.gamma)
    torch.testing.assert_close(profile.sum(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(average.average[0], profile @ steps, rtol=1e-10, atol=1e-12)
    average.copy_to_model()
    assert torch.equal(value, average.average[0])


@pytest.mark.parametrize("width", [0.02, 0.05, 0.15, 0.25])
def test_average_is_as_wide_as_asked_whatever_the_length(width):
    # The average of m and of m² are the moments of the profile.
    for n in (2000, 6000):
        value = torch.zeros(2, dtype=torch.float64)
        average = PowerEMA([value], width)
        for m in range(1, n + 1):
            value.copy_(torch.tensor([m / n, (m / n) ** 2], dtype=torch.float64))
            average.update()
        mean, square = average.average[0].tolist()
        assert math.sqrt(square - mean**2) == pytest.approx(width, rel=10 / n / width)


def test_average_of_no_width_is_the_last():
    value = torch.zeros(1)
    average = PowerEMA([value], 0.0)
    for m in (3.0, -1.0, 5.0):
        value.fill_(m)
        average.update()
    assert average.average[0].item() == 5.0


@pytest.mark.parametrize("width", [-0.01, 0.3, math.nan])
def test_impossible_widths_are_refused(width):
    with pytest.raises(ValueError, match=rf"ema = {width}; the relative width .* between 0 and 0\.28"):
        PowerEMA([torch.zeros(1)], width)


def test_fit_leaves_the_average_of_every_step(tiny, eps):
    model, n, kept = tiny(), 25, []
    fit(
        model,
        RING,
        steps=n,
        batch_size=16,
        seed=0,
        ema=0.1,
        warmup=5,
        callbacks=[lambda s: kept.append(weights(s.model))],
    )
    expected = power_profile(n, PowerEMA([], 0.1).gamma) @ torch.stack(kept).double()
    torch.testing.assert_close(weights(model).double(), expected, rtol=100 * eps, atol=eps)
    assert not torch.equal(weights(model), kept[-1])
    plain = tiny()
    fit(plain, RING, steps=n, batch_size=16, seed=0, ema=0.0, warmup=5)
    assert torch.equal(weights(plain), kept[-1])


# --- schedule, limits, record -----------------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_falls_on_a_cosine_to_zero(tiny):
    n, warmup, lr = 60, 20, 0.01
    kept = []
    run = fit(
        tiny(),
        RING,
        steps=n,
        warmup=warmup,
        lr=lr,
        batch_size=16,
        seed=0,
        callbacks=[lambda s: kept.append(weights(s.model))],
    )
    ramp = [min(1.0, (k + 1) / warmup) for k in range(n)]
    cosine = [0.5 + 0.5 * math.cos(math.pi * k / n) for k in range(n)]
    assert run.lr == pytest.approx([lr * r * c for r, c in zip(ramp, cosine, strict=True)])
    assert max(run.lr) < lr and run.lr[-1] < 1e-3 * lr
    # The optimiser obeys: Adam's steps are as long as the rate.
    moves = [(b - a).abs().max().item() for a, b in pairwise(kept)]
    assert all(move <= 10 * rate for move, rate in zip(moves, run.lr[1:], strict=True))
    assert moves[-1] < 1e-2 * max(moves)


def test_no_warmup_starts_at_the_full_rate(tiny):
    assert fit(tiny(), RING, steps=2, batch_size=4, lr=0.01, warmup=0, seed=0).lr[0] == 0.01


def test_gradients_are_clipped_but_recorded_whole(tiny):
    seen = []

    def loss(model, x, generator=None):
        return 1e3 * sdegen.losses.Denoising()(model, x, generator=generator)

    def look(step):
        grads = [p.grad for p in step.model.parameters() if p.grad is not None]
        seen.append(torch.stack([g.norm() for g in grads]).norm().item())

    run = fit(tiny(), RING, steps=3, batch_size=16, seed=0, clip=0.5, loss=loss, callbacks=[look])
    assert seen == pytest.approx([0.5] * 3, rel=1e-4) and min(run.grad_norm) > 0.5


def test_seconds_end_a_run_with_its_schedule(tiny):
    began = time.perf_counter()
    run = fit(tiny(), RING, seconds=0.4, warmup=1, lr=0.01, batch_size=16, seed=0)
    taken = time.perf_counter() - began
    assert 0.4 <= run.seconds <= taken < 5.0
    assert 1 < run.steps < 4000 and run.lr == sorted(run.lr, reverse=True)
    if run.steps > 20:
        assert run.lr[-1] < 0.1 * run.lr[0]


def test_the_first_limit_ends_a_run(tiny):
    assert fit(tiny(), RING, steps=3, seconds=60.0, batch_size=4, seed=0).steps == 3
    run = fit(tiny(), RING, steps=10**9, seconds=0.1, batch_size=4, seed=0)
    assert 0 < run.steps < 10**5


def test_callbacks_see_every_step_and_the_record_holds_it(tiny):
    model, seen, other = tiny(), [], []
    run = fit(
        model, RING, steps=7, batch_size=16, lr=1e-3, seed=3, callbacks=[seen.append, lambda s: other.append(s.step)]
    )
    assert [s.step for s in seen] == other == list(range(1, 8)) and run.steps == 7
    assert [s.loss for s in seen] == run.loss and [s.lr for s in seen] == run.lr
    assert [s.grad_norm for s in seen] == run.grad_norm
    assert all(s.model is model for s in seen)
    assert [s.seconds for s in seen] == sorted(s.seconds for s in seen) and run.seconds >= seen[-1].seconds
    asked = {"steps": 7, "batch_size": 16, "lr": 1e-3, "seed": 3, "clip": 1.0, "ema": 0.05, "warmup": 100}
    assert asked.items() <= run.settings.items()
    assert not {"model", "data", "callbacks"} & run.settings.keys()


def test_a_model_is_left_in_evaluation_mode(tiny):
    modes = []
    model = tiny()
    fit(model, RING, steps=2, batch_size=4, seed=0, callbacks=[lambda s: modes.append(s.model.training)])
    assert modes == [True, True] and not model.training


def test_the_recorded_loss_is_the_mean_of_what_the_objective_returned(tiny):
    returned = []

    def loss(model, x, generator=None):
        values = sdegen.losses.Denoising()(model, x, generator=generator)
        returned.append(values.detach().mean().item())
        return values

    model, plain = tiny(), tiny()
    assert fit(model, RING, steps=4, batch_size=16, seed=0, loss=loss).loss == returned
    fit(plain, RING, steps=4, batch_size=16, seed=0)
    assert torch.equal(weights(model), weights(plain))  # the default objective, given by hand


# --- data -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["law", "tensor", "pair", "dict", "TensorDataset", "rows"])
def test_every_kind_of_data_trains_and_its_conditions_reach_the_network(kind, device, dtype, generator):
    x = RING.sample(20, generator).to(device, dtype)
    label = torch.arange(20, device=device)
    extra = torch.arange(20.0, dtype=dtype, device=device)[:, None]
    data = {
        "law": RING,
        "tensor": x,
        "pair": (x, label),
        "dict": (x, {"label": label, "extra": extra}),
        "TensorDataset": TensorDataset(x, label),
        "rows": TensorDataset(x),
    }[kind]
    net = Recorder()
    model = sdegen.Model(net, sdegen.VP()).to(device, dtype)
    fit(model, data, steps=4, batch_size=10, seed=0)  # two passes over the twenty rows
    expected = {"pair": {"label"}, "TensorDataset": {"label"}, "dict": {"label", "extra"}}.get(kind, set())
    assert len(net.calls) == 4 and all(call.keys() == expected for call in net.calls)
    for name in expected:
        for first, second in (net.calls[:2], net.calls[2:]):
            seen = torch.cat([first[name], second[name]]).flatten().long().sort().values
            assert seen.tolist() == list(range(20))
    assert net.gain.item() != 0


def test_a_model_learns_the_moments_of_its_data(tiny, device, dtype, generator):
    model = tiny()
    fit(model, RING, steps=1, batch_size=4, seed=0)
    assert torch.equal(model.moments.covariance, RING.moments().covariance)
    x = RING.sample(50, generator).to(device, dtype)
    fit(model, x, steps=1, batch_size=4, seed=0)
    torch.testing.assert_close(model.moments.mean, x.cpu().double().mean(0))
    torch.testing.assert_close(model.moments.covariance, torch.cov(x.cpu().double().T, correction=0))
    assert model.std == pytest.approx(model.moments.covariance.diagonal().mean().sqrt().item())


def test_moments_are_known_before_the_first_step(tiny):
    seen = []

    def loss(model, x, generator=None):
        seen.append(model.moments)
        return sdegen.losses.Denoising()(model, x, generator=generator)

    fit(tiny(), RING, steps=1, batch_size=4, seed=0, loss=loss)
    assert torch.equal(seen[0].covariance, RING.moments().covariance)


def test_frozen_parameters_stay(tiny):
    model = tiny()
    for p in model.net.first.parameters():
        p.requires_grad_(False)
    before = copy.deepcopy(model.net.first.state_dict())
    rest = weights(model.net.last)
    fit(model, RING, steps=3, batch_size=16, seed=0)
    assert all(torch.equal(v, before[k]) for k, v in model.net.first.state_dict().items())
    assert not torch.equal(weights(model.net.last), rest)


# --- where it leads --------------------------------------------------------------------------------------------------


def test_training_approaches_the_score_of_gaussian_data(device, dtype):
    mean = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    covariance = torch.tensor([[[1.0, 0.8], [0.8, 1.5]]], dtype=torch.float64)
    law = sdegen.GaussianMixture(torch.ones(1), mean, covariance)
    sde = sdegen.VP()
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=32, depth=1), sde).to(device, dtype)
    exact = sdegen.Exact(sde, law)

    def error():
        """Root mean square error of the score in units of the noise, over uniform times, relative to its own size."""
        generator = torch.Generator().manual_seed(5)
        t = sde.t_min + (sde.T - sde.t_min) * torch.rand(4000, dtype=torch.float64, generator=generator)
        x = sde.perturb(law.sample(4000, generator), t, generator=generator).x.to(device, dtype)
        with torch.no_grad():
            truth, got = (sde.sigma(t).to(x)[:, None] * m.score(x, t) for m in (exact, model))
        return ((got - truth).square().mean() / truth.square().mean()).sqrt().item()

    model.moments = law.moments()
    before = error()
    run = fit(model, law, steps=500, batch_size=256, lr=1e-2, seed=0)
    assert error() < 0.03 and error() < before / 15
    assert sum(run.loss[-50:]) < sum(run.loss[:50])


def test_training_finds_the_minimiser_of_a_linear_family(device, dtype):
    # Data N(0, std²) at one noise level: the best F = a x has the coefficient of the regression of x_0 on x.
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def forward(self, x, level):
            return self.a * x

    class At(sdegen.weightings.UniformTimes):
        def sample(self, sde, n, generator=None):
            return torch.full((n,), 0.4, dtype=torch.float64), torch.ones(n, dtype=torch.float64)

    std = 2.0
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1,), std**2))
    sde, net = sdegen.VP(), Line()
    model = sdegen.Model(net, sde, sdegen.models.Data(std=std)).to(device, dtype)
    loss = sdegen.losses.Denoising(sdegen.weightings.SNR(0.0), At(), pooled=False)
    fit(model, law, steps=300, batch_size=1024, lr=0.05, warmup=1, ema=0.2, seed=0, loss=loss)
    alpha, sigma = (c(torch.tensor(0.4, dtype=torch.float64)).item() for c in (sde.alpha, sde.sigma))
    best = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
    c_in = 1 / math.sqrt(alpha**2 * std**2 + sigma**2)
    assert net.a.item() * c_in == pytest.approx(best, rel=0.01)


def test_a_nonlinear_process_trains_with_the_defaults(device, dtype):
    torch.manual_seed(0)
    model = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), sdegen.DoubleWell(T=1.0)).to(device, dtype)
    law = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 1), torch.full((1,), 0.04))
    assert fit(model, law, steps=2, batch_size=8, seed=0).steps == 2
