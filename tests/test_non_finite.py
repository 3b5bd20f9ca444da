"""What turns non-finite stops a run with a sentence, and the remedies that refusals name work."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

import sdegen
from sdegen import (
    VP,
    Cosine,
    DoubleWell,
    Exact,
    Model,
    NonFiniteLoss,
    Rectified,
    fit,
    grids,
    sample,
    samplers,
    training,
)
from sdegen.training.run import PendingLosses

RING = sdegen.data.gaussian_ring()
NAN = math.nan


# --- remedies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.EulerMaruyama(4),
        samplers.Heun(4),
        samplers.ProbabilityFlow(),
        samplers.Langevin(4, t=0.5),
    ],
    ids=lambda s: type(s).__name__,
)
def test_the_samplers_that_the_refusal_names_work_on_a_nonlinear_process(sampler, generator):
    class AtRest(sdegen.ScoreModel):
        """Data that have the stationary law of the process already: the flow stands still."""

        sde, moments = DoubleWell(T=1.0), RING.moments()

        def score(self, x, t, **cond):
            return self.sde.prior(self.moments).score(x)

    x_T = AtRest.sde.prior(AtRest.moments).sample(6, generator)
    x = sample(AtRest(), x_T=x_T, sampler=sampler, seed=0)
    assert x.isfinite().all()
    assert torch.allclose(x, x_T, atol=1e-8) == isinstance(sampler, samplers.Heun | samplers.ProbabilityFlow)


@pytest.mark.parametrize("sde", [Rectified(), Cosine()], ids=lambda s: type(s).__name__)
def test_the_remedies_of_an_infinite_coefficient_work(sde):
    model = Exact(sde, RING)
    late = samplers.EulerMaruyama(50, grid=grids.Uniform(start=sde.t_max))
    for sampler in (late, samplers.DDIM(20, eta=1.0)):
        assert sample(model, 4, sampler=sampler, seed=0).norm(dim=1).max() < 10  # on the ring, not far out


# --- what turns non-finite ------------------------------------------------------------------------------------------


class Failing(nn.Module):
    """A network that returns NaN from its `last`-th call on, for one row of the batch."""

    def __init__(self, last):
        super().__init__()
        self.line, self.last, self.calls = nn.Linear(2, 2), last, 0

    def forward(self, x, level):
        self.calls += 1
        out = self.line(x)
        if self.calls >= self.last:
            out = out * torch.where(torch.arange(len(x), device=x.device) == 2, NAN, 1.0).to(x)[:, None]
        return out


flat = lambda model: torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_loss_that_turns_non_finite_stops_the_run_and_keeps_the_last_weights(dtype):
    """On a CPU, which has the numbers at hand; an accelerator's are read later, and without the time."""
    torch.manual_seed(0)
    model, kept = Model(Failing(last=6), VP()).to(dtype), []
    with pytest.raises(NonFiniteLoss) as caught:
        fit(
            model,
            RING,
            steps=20,
            batch_size=8,
            lr=0.1,
            warmup=1,
            seed=0,
            callbacks=[lambda s: kept.append(flat(s.model))],
        )
    message = str(caught.value)
    assert re.search(r"^training stopped in step 6: the loss is not finite at t = 0\.\d+ \(1 of 8 rows\)\.", message)
    assert re.search(r"keeps the weights of step 5; lower lr", message)
    assert len(kept) == 5 and torch.equal(flat(model), kept[-1]) and flat(model).isfinite().all()
    assert not torch.equal(kept[-1], kept[0]) and not model.training


def test_the_time_that_is_named_is_that_of_the_bad_row(dtype, generator):
    class At(sdegen.weightings.UniformTimes):
        def sample(self, sde, n, generator=None):
            return torch.linspace(0.1, 0.8, n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)

    model = Model(Failing(last=1), VP()).to(dtype)
    loss = sdegen.losses.Denoising(times=At())
    with pytest.raises(NonFiniteLoss, match=r"at t = 0\.3 \(1 of 8 rows\)"):
        loss(model, RING.sample(8, generator).to(dtype), generator=generator)


def test_curves_that_are_read_late_end_before_the_bad_step() -> None:
    """As on an accelerator, where some fifty steps are read at a time."""
    run = training.Run(steps=5, lr=[0.1, 0.2, 0.3, 0.4, 0.5])
    pending = PendingLosses(run, torch.device("cpu"))
    pending.patience = 50
    for loss in (3.0, 2.0, NAN, 1.0, 0.5):
        pending.add(torch.tensor(loss), torch.tensor(1.0))
    with pytest.raises(NonFiniteLoss, match="stopped in step 3"):
        pending.read()
    assert (run.steps, run.loss, run.grad_norm, run.lr) == (2, [3.0, 2.0], [1.0, 1.0], [0.1, 0.2])


def test_a_rate_out_of_all_measure_stops_the_run_with_finite_weights(w, dtype):
    model, kept = w.model(), []
    settings = {"lr": torch.finfo(dtype).max ** 0.25, "warmup": 1}  # 4e9 in float32: a few layers of it overflow
    look = [lambda s: kept.append(flat(s.model))]
    says = r"^training stopped in step \d+: .*keeps the weights of step \d+; lower lr"
    with pytest.raises(NonFiniteLoss, match=says) as caught:
        fit(model, RING, steps=50, batch_size=8, seed=0, callbacks=look, **settings)
    assert f"keeps the weights of step {len(kept)};" in str(caught.value) and len(kept) >= 1
    assert torch.equal(flat(model), kept[-1]) and flat(model).isfinite().all()


def test_a_gradient_that_turns_non_finite_stops_the_run(device, dtype):
    class Cusp(nn.Module):
        """Finite values; at its start an infinite slope."""

        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def forward(self, x, level):
            return self.a.abs().sqrt() * x

    model = Model(Cusp(), VP()).to(device, dtype)
    with pytest.raises(
        NonFiniteLoss, match=r"stopped in step 1: loss [\d.]+, gradient norm (nan|inf)\. .*weights of step 0"
    ):
        fit(model, RING, steps=3, batch_size=8, seed=0)
    assert flat(model).tolist() == [0.0]


@pytest.mark.parametrize("final", ["denoise", "sample"])
def test_a_state_that_turns_non_finite_is_named_by_step_and_time(final):
    class Broken(sdegen.ScoreModel):
        sde, moments = VP(), RING.moments()

        def score(self, x, t, **cond):
            return torch.where(torch.as_tensor(t) < 0.45, NAN, -1.0).to(x) * x

    sampler = samplers.DDIM(10)
    times = sampler.times(Broken.sde, final == "denoise")
    first = next(i for i, t in enumerate(times.tolist()) if t < 0.45)
    expected = (
        rf"^the state turned non-finite in step {first + 1} of 10, from t = {times[first].item():.6g}; take more steps"
    )
    with pytest.raises(ValueError, match=expected):
        sample(Broken(), 3, sampler=sampler, seed=0, final=final)


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_in_a_long_run_a_few_steps_are_named_and_with_its_path_the_one(value):
    class Broken(sdegen.ScoreModel):
        sde, moments = VP(), RING.moments()

        def score(self, x, t, **cond):
            return torch.where(torch.as_tensor(t) == times[13], value, -1.0).to(x) * x.abs()

    sampler = samplers.DDIM(40)
    times = sampler.times(Broken.sde, True)
    for path, where in ((False, "one of the steps 13 to 16"), (True, "step 14")):
        t = times[13 if path else 12].item()
        with pytest.raises(ValueError, match=rf"turned non-finite in {where} of 40, from t = {t:.6g}[ ;]"):
            sample(Broken(), 3, sampler=sampler, seed=0, return_path=path)


class Once(nn.Module):
    """A network that says something else in its `last`-th call, of one number of one state."""

    def __init__(self, value):
        super().__init__()
        self.line, self.value, self.last, self.calls = nn.Linear(2, 2), value, 0, 0

    def forward(self, x, level):
        self.calls += 1
        out = self.line(x)
        if self.calls == self.last:
            out = out.index_fill(1, torch.tensor([0]), self.value)
        return out


LONG = [
    samplers.DDIM(30), samplers.DDIM(30, eta=1.0), samplers.EulerMaruyama(30), samplers.Heun(15), samplers.Churn(15),
    samplers.ExponentialSDE(30), samplers.Multistep(30), samplers.Singlestep(10), samplers.Langevin(30),
    samplers.PredictorCorrector(samplers.EulerMaruyama(15)), samplers.AnnealedLangevin(15), samplers.ReverseDiffusion(30),
    samplers.Restart(samplers.DDIM(30), [samplers.Interval(0.1, 1.0, 2, 4)]),
]  # fmt: skip


@pytest.mark.thinned(2)
@pytest.mark.parametrize("value", [NAN, float("inf")])
@pytest.mark.parametrize("sampler", LONG, ids=lambda s: type(s).__name__)
def test_a_number_that_is_not_finite_for_one_call_is_never_lost_between_looks(sampler, value):
    """A run looks at some of its states, in which it has to be still."""
    torch.manual_seed(0)
    model = Model(Once(value), VP())
    model.moments = RING.moments()
    sample(model, 3, sampler=sampler, seed=0)
    calls = model.net.calls
    assert calls >= 28
    for last in (1, calls // 3, calls // 2, calls - 3, calls):
        model.net.calls, model.net.last = 0, last
        with pytest.raises(ValueError, match="the state turned non-finite in"):
            sample(model, 3, sampler=sampler, seed=0)


def test_a_last_move_that_turns_non_finite_is_named_too():
    class Broken(sdegen.ScoreModel):
        sde, moments = VP(), RING.moments()

        def score(self, x, t, **cond):
            return torch.where(torch.as_tensor(t) < 1e-4, NAN, -1.0).to(x) * x

    with pytest.raises(ValueError, match=rf"in step 10 of 10, from t = {VP().t_min:.6g};"):
        sample(Broken(), 3, steps=10, seed=0)
