"""`fit` does what its record says: seeded, scheduled, averaged, stopped in time, and towards the known minimiser."""

from __future__ import annotations

import copy
import itertools
import math
import time
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset

import sdegen
from sdegen import conditions, fit
from sdegen.training import constant_rate, finite, losses, state
from sdegen.training.run import PendingLosses


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
    fit(again, RING, steps=5, batch_size=16, seed=run.settings.seed)
    assert torch.equal(weights(first), weights(again))


def test_the_global_generator_keeps_its_seed(tiny):
    model = tiny()
    torch.manual_seed(7)
    fit(model, RING, steps=1, batch_size=4)
    assert torch.initial_seed() == 7


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


def test_a_constant_rate_stays_after_the_warmup(tiny):
    run = fit(tiny(), RING, steps=8, batch_size=4, lr=0.01, warmup=4, seed=0, schedule=constant_rate)
    assert run.lr == pytest.approx([0.0025, 0.005, 0.0075] + 5 * [0.01])


def test_a_schedule_of_one_s_own_is_told_how_much_is_done(tiny):
    run = fit(tiny(), RING, steps=5, batch_size=4, lr=1.0, warmup=0, seed=0, schedule=lambda done: 1e-3 / (1 + done))
    assert run.lr == pytest.approx([1e-3 / (1 + k / 5) for k in range(5)])


def test_gradients_are_clipped_but_recorded_whole(tiny):
    seen = []

    def loss(model, x, generator=None):
        return 1e3 * sdegen.losses.Denoising()(model, x, generator=generator)

    def look(step):
        grads = [p.grad for p in step.model.parameters() if p.grad is not None]
        seen.append(torch.stack([g.norm() for g in grads]).norm().item())

    run = fit(tiny(), RING, steps=3, batch_size=16, seed=0, clip=0.5, loss=loss, callbacks=[look])
    assert seen == pytest.approx([0.5] * 3, rel=1e-4) and min(run.grad_norm) > 0.5


def test_seconds_end_a_run_with_its_schedule(tiny, monkeypatch):
    readings = itertools.count()  # the clock goes by them, not by the machine
    monkeypatch.setattr(time, "perf_counter", lambda: 0.004 * next(readings))
    run = fit(tiny(), RING, seconds=0.4, warmup=1, lr=0.01, batch_size=16, seed=0)
    assert 0.4 <= run.seconds <= 0.42
    assert 20 < run.steps <= 100 and run.lr == sorted(run.lr, reverse=True)
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
    assert asked.items() <= vars(run.settings).items()


def test_a_callback_sees_the_model_as_it_would_be_left(tiny):
    """Averaged weights in evaluation mode for a while; the run does not notice."""
    model, plain, seen, raw = tiny(), tiny(), [], []

    def look(step):
        raw.append(weights(step.model))
        with step.averaged() as averaged:
            assert averaged is step.model and not averaged.training
            seen.append(weights(averaged))
            sdegen.sample(averaged, 3, steps=2, seed=0)
        assert step.model.training and torch.equal(weights(step.model), raw[-1])

    settings = {"steps": 6, "batch_size": 16, "seed": 0, "warmup": 1, "ema": 0.2}
    fit(model, RING, callbacks=[look], **settings)
    fit(plain, RING, **settings)
    assert torch.equal(weights(model), weights(plain)) and torch.equal(seen[-1], weights(model))
    assert torch.equal(seen[0], raw[0]) and not torch.equal(seen[-1], raw[-1])


class Late(PendingLosses):
    """Losses read as from an accelerator, seven steps together."""

    def __init__(self, run, device):
        super().__init__(run, device)
        self.patience, self.bad = 7, torch.zeros((), device=device)


def plain_loss(model, x, generator=None, **cond):
    return (model.net(x, x[:, 0], **cond) - 1).square().sum(1)


WAITS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")


class OnAccelerator(torch.Tensor):
    """Numbers as they would lie on an accelerator, and all that is made of them: it is written down who asks for a value."""

    asked: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name, own = getattr(func, "__name__", ""), bool(args) and isinstance(args[0], cls)
        # A copy to an accelerator is waited for too, unless it is told not to be.
        if name in WAITS if own else name == "to" and not (kwargs or {}).get("non_blocking"):
            cls.asked.append(name)
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("sde", [sdegen.VP(), sdegen.CLD()], ids=["numbers", "matrices"])
def test_the_default_loss_waits_for_no_accelerator(monkeypatch, sde, generator):
    monkeypatch.setattr(finite, "at_hand", lambda device: False)
    monkeypatch.setattr(OnAccelerator, "asked", [])
    model = sdegen.Model(sdegen.nets.MLP(2 * len(sde.Sigma_0), width=8, depth=1), sde)
    for p in model.parameters():
        p.data = p.data.as_subclass(OnAccelerator)
    model.moments = RING.moments()
    x = RING.sample(40, generator).float().as_subclass(OnAccelerator)
    loss = losses.Denoising()
    values = loss(model, x, generator=generator)
    assert isinstance(values, OnAccelerator) and values.shape == (40,)
    values.mean().backward()
    assert OnAccelerator.asked == []
    values.sum().item(), torch.ones(3, dtype=torch.float64).to(x)
    assert OnAccelerator.asked == ["item", "to"]


class Distance(TorchDispatchMode):
    """Follow what would be on an accelerator if data and weights were, and note where something waits for one of its numbers.

    What is computed from a distant tensor is distant, and so is what is brought to one by ``to``. Storages are kept, so that an
    address means one tensor.
    """

    READS = ("cpu", "numpy", "tolist", "nonzero", "__bool__", "__float__", "__int__", "__index__", "item")

    def __init__(self, monkeypatch):
        super().__init__()
        self.kept, self.waits = {}, []
        bring = torch.Tensor.to

        def brought(x, *args, **kwargs):
            out = bring(x, *args, **kwargs)
            if any(map(self.has, args)) and not self.has(x):
                out = out.clone() if out is x else out
                self.add(out)
            return out

        monkeypatch.setattr(torch.Tensor, "to", brought)
        for name in self.READS:
            read = getattr(torch.Tensor, name)
            monkeypatch.setattr(torch.Tensor, name, self.spy(read, name))

    def has(self, x):
        return isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() in self.kept

    def add(self, x):
        if isinstance(x, torch.Tensor) and x.numel():
            self.kept[x.untyped_storage().data_ptr()] = x.untyped_storage()

    def spy(self, read, name):
        def noting(x, *args, **kwargs):
            if not self.has(x):
                return read(x, *args, **kwargs)
            self.waits.append(name)
            out = read(x.detach().clone() if name == "cpu" else x, *args, **kwargs)
            if name == "cpu":  # which is near from here on
                del self.kept[out.untyped_storage().data_ptr()]
            return out

        return noting

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if any(map(self.has, tree_leaves((args, kwargs)))):
            for x in tree_leaves(out):
                self.add(x)
        return out


@pytest.mark.parametrize("loss", [None, plain_loss], ids=["default", "plain"])
@pytest.mark.parametrize("labelled", [False, True])
def test_nothing_in_a_step_of_fit_waits_for_an_accelerator(monkeypatch, generator, loss, labelled):
    """On data in memory, of the default loss too; losses and norms are read every seven steps, all in one transfer."""
    monkeypatch.setattr(state, "PendingLosses", Late)
    for module in (finite, conditions):
        monkeypatch.setattr(module, "at_hand", lambda device: False)
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1, classes=3 if labelled else 0), sdegen.VP())
    x = RING.sample(40, generator).float()
    distance, counts = Distance(monkeypatch), []
    label = torch.arange(40) % 3
    for tensor in (x, label, *model.parameters()):
        distance.add(tensor)
    look = [lambda step: counts.append(len(distance.waits))]
    data = (x, label) if labelled else x
    with distance:
        run = fit(
            model, data, steps=22, batch_size=8, seed=0, loss=loss, p_uncond=0.2 if labelled else 0.0, callbacks=look
        )
    assert [b - a for a, b in pairwise(counts)] == [1 if step % 7 == 0 else 0 for step in range(2, 23)]
    assert len(run.loss) == len(run.grad_norm) == 22


def test_a_default_step_asks_a_process_for_its_law_at_most_twice(tiny, monkeypatch):
    asked, counts, marginal = [], [], sdegen.LinearSDE.marginal
    monkeypatch.setattr(sdegen.LinearSDE, "marginal", lambda self, t: (asked.append(None), marginal(self, t))[1])
    fit(tiny(), RING, steps=6, batch_size=8, seed=0, callbacks=[lambda step: counts.append(len(asked))])
    assert all(1 <= b - a <= 2 for a, b in pairwise(counts))


def test_late_readings_are_the_same_record(tiny, monkeypatch):
    at_once = fit(tiny(), RING, steps=17, batch_size=8, seed=0)
    monkeypatch.setattr(state, "PendingLosses", Late)
    model = tiny()
    late = fit(model, RING, steps=17, batch_size=8, seed=0)
    assert (late.loss, late.grad_norm, late.lr) == (at_once.loss, at_once.grad_norm, at_once.lr)
    assert torch.equal(weights(model), weights(at_once.model))


@pytest.mark.parametrize("bad", [4, 7, 8])
def test_a_failure_that_is_read_late_has_left_the_weights_alone(tiny, monkeypatch, bad):
    """The optimiser steps on with finite losses after the bad one, and moves nothing."""
    monkeypatch.setattr(state, "PendingLosses", Late)
    model, kept, calls = tiny(), [], []

    def loss(model, x, generator=None):
        calls.append(None)
        return plain_loss(model, x) * (math.nan if len(calls) == bad else 1.0)

    look = [lambda step: kept.append(weights(step.model))]
    says = rf"stopped in step {bad}: loss nan, gradient norm nan\. The model keeps the weights of step {bad - 1};"
    with pytest.raises(sdegen.NonFiniteLoss, match=says):
        fit(model, RING, steps=20, batch_size=8, seed=0, loss=loss, lr=0.1, warmup=1, callbacks=look)
    assert len(calls) == 7 * math.ceil(bad / 7)
    assert torch.equal(weights(model), kept[bad - 2]) and not torch.equal(kept[bad - 2], kept[bad - 3])


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
    # of states, whose units are those of the first data
    variances = model.moments.covariance.diagonal() / RING.moments().covariance.diagonal()
    assert model.std == pytest.approx(variances.mean().sqrt().item())


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
    model = sdegen.Model(net, sde, sdegen.models.DataParametrization(std=std)).to(device, dtype)
    loss = sdegen.losses.Denoising(sdegen.weightings.SNRWeighting(0.0), At(), pooled=False)
    fit(model, law, steps=300, batch_size=1024, lr=0.05, warmup=1, ema=0.2, seed=0, loss=loss)
    alpha, sigma = (c(torch.tensor(0.4, dtype=torch.float64)).item() for c in (sde.alpha, sde.sigma))
    best = alpha / (alpha**2 + sigma**2)  # in units of std
    c_in = 1 / math.sqrt(alpha**2 + sigma**2)
    assert net.a.item() * c_in == pytest.approx(best, rel=0.01)


def test_a_nonlinear_process_trains_with_the_defaults(device, dtype):
    torch.manual_seed(0)
    model = sdegen.DirectModel(sdegen.nets.MLP(1, width=8, depth=1), sdegen.DoubleWell(T=1.0)).to(device, dtype)
    law = sdegen.GaussianMixture(torch.ones(1), torch.ones(1, 1), torch.full((1,), 0.04))
    assert fit(model, law, steps=2, batch_size=8, seed=0).steps == 2


def test_a_model_without_a_loss_needs_one(device, dtype):
    model = nn.Linear(2, 2).to(device, dtype)
    with pytest.raises(TypeError, match=r"^Linear has no loss; give one, loss=, or a model such as Model\(net, sde\)"):
        fit(model, RING, steps=1, batch_size=4)
    loss = lambda model, x, generator=None: model(x).square().sum(1)
    assert fit(model, RING, steps=1, batch_size=4, loss=loss).steps == 1
