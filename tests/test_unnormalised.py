"""Laws that are known up to a constant: weights of paths, the constant, and the loss that learns such laws."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import grids, nets, samplers, training
from sdegen.guidance import importance_sample
from sdegen.laws import GaussianMixture, Units
from sdegen.laws.empirical import pooled, pooled_values
from sdegen.processes import LinearSDE
from sdegen.training import AdjointMatching, LogVariance, NonFiniteLoss, PathDivergence
from sdegen.training.replay import temper

d64 = torch.float64
RING = sdegen.data.gaussian_ring()
MEAN, COVARIANCE = torch.tensor([0.5, -1.0], dtype=d64), torch.tensor([[1.5, 0.6], [0.6, 0.7]], dtype=d64)
GAUSSIAN = GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE[None])
UNITS = Units(torch.tensor([0.5, 0.0]), torch.tensor([2.0, 0.7]))
SLOPE = torch.tensor([0.8, -0.5], dtype=d64)
PROCESSES: dict[str, LinearSDE] = {
    "VP": sdegen.VP(), "VP in units": sdegen.VP().in_units(UNITS), "OU": sdegen.OU(),
}  # fmt: skip


def small(seed: int = 0) -> sdegen.Model:
    torch.manual_seed(seed)
    return sdegen.Model(nets.MLP(2, width=32, depth=2), sdegen.VP())


def small_with_moments() -> sdegen.Model:
    model = small()
    model.moments = GAUSSIAN.moments()
    return model


@pytest.mark.parametrize("process", PROCESSES)
def test_of_a_gaussian_all_weights_are_equal_and_their_mean_is_the_constant(process: str) -> None:
    model = sdegen.Exact(PROCESSES[process], GAUSSIAN)
    found = importance_sample(model, lambda x: GAUSSIAN.log_prob(x) + 2.5, 200, steps=4, seed=0)
    assert found.log_evidence == pytest.approx(2.5, abs=1e-9) and found.effective == pytest.approx(200, abs=1e-6)


def test_of_a_gaussian_tilted_by_a_linear_reward_all_weights_are_equal() -> None:
    tilted = GaussianMixture(torch.ones(1), (MEAN + COVARIANCE @ SLOPE)[None], COVARIANCE[None])
    base, model = (sdegen.Exact(sdegen.VP(), law) for law in (GAUSSIAN, tilted))
    found = importance_sample(model, lambda x: x @ SLOPE, 200, base=base, steps=5, seed=0)
    exact = MEAN @ SLOPE + 0.5 * SLOPE @ COVARIANCE @ SLOPE
    assert found.log_evidence == pytest.approx(exact.item(), abs=1e-9)
    assert found.effective == pytest.approx(200, abs=1e-6)


def test_the_constant_is_right_at_few_steps_and_weights_become_even_at_many() -> None:
    model, shares = sdegen.Exact(sdegen.VP(), RING), []
    for steps in (10, 60):
        found = importance_sample(model, RING.log_prob, 1500, steps=steps, seed=1)
        assert found.log_evidence is not None and found.evidence_error is not None
        assert abs(found.log_evidence) < 4 * found.evidence_error
        shares.append(found.effective / 1500)
    assert shares[0] < 0.6 < 0.75 < shares[1]


def test_where_the_density_is_0_weights_are() -> None:
    model = sdegen.Exact(sdegen.VP(), GAUSSIAN)

    def half(x: Tensor) -> Tensor:
        return GAUSSIAN.log_prob(x).masked_fill(x[:, 0] < MEAN[0], -math.inf)

    found = importance_sample(model, half, 1000, steps=4, seed=0)
    assert found.log_evidence == pytest.approx(-math.log(2), abs=4 / 1000**0.5)
    assert (found.x[found.weights > 0, 0] >= MEAN[0]).all()


def test_the_loss_is_the_spread_of_log_weights_and_0_where_the_model_is_exact() -> None:
    x, draws = torch.zeros(400, 2, dtype=d64), torch.Generator().manual_seed(3)
    exact = LogVariance(GAUSSIAN.log_prob, steps=4)(sdegen.Exact(sdegen.VP(), GAUSSIAN), x, generator=draws)
    assert exact.shape == (400,) and exact.abs().max() < 1e-12
    model, draws = sdegen.Exact(sdegen.VP(), RING), torch.Generator().manual_seed(3)
    found = LogVariance(RING.log_prob, steps=20, linear_from=1e3)(model, x, generator=draws).sqrt()
    draws = torch.Generator().manual_seed(3)
    log_weights = importance_sample(model, RING.log_prob, 400, steps=20, generator=draws).weights.log()
    assert torch.allclose(found, (log_weights - log_weights.median()).abs(), atol=1e-6)


class Shifted(nn.Module, sdegen.ScoreModel):
    """The exact model of the Gaussian with a score that is off by a number that is learned."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.exact, self.by = sdegen.Exact(sdegen.VP(), GAUSSIAN), nn.Parameter(torch.tensor(by, dtype=d64))
        self.sde, self.moments = self.exact.sde, self.exact.moments

    def score(self, x: Tensor, t: Tensor | float, /, **cond: Any) -> Tensor:
        return self.exact.score(x, t) + self.by


def test_the_slope_of_the_loss_is_that_of_the_divergence_of_paths() -> None:
    """Steps that are off by `a` times a constant have ``2 KL = Var log w`` proportional to ``a²``."""
    draws = torch.Generator().manual_seed(0)
    model = Shifted(0.002)
    loss = LogVariance(GAUSSIAN.log_prob, steps=4)(model, torch.zeros(3000, 2, dtype=d64), generator=draws).mean()
    (slope,) = torch.autograd.grad(loss, [model.by])
    assert loss > 1e-5 and slope.item() == pytest.approx(2 * loss.item() / 0.002, rel=0.02)


def test_the_divergence_of_paths_has_half_the_slope_of_their_log_variance() -> None:
    """Its value is that of the weights; 0 where the model is exact, and half the variance of log w where it is nearly so."""
    x, draws = torch.zeros(3000, 2, dtype=d64), torch.Generator().manual_seed(0)
    exact = PathDivergence(GAUSSIAN.log_prob, steps=4)(sdegen.Exact(sdegen.VP(), GAUSSIAN), x[:50], generator=draws)
    assert exact.shape == (50,) and exact.abs().max() < 1e-12
    model = Shifted(0.05)
    loss = PathDivergence(lambda x: GAUSSIAN.log_prob(x) + 3.0, steps=4)(model, x, generator=draws)
    (slope,) = torch.autograd.grad(loss.mean(), [model.by])
    half = 0.5 * loss.var().item()
    assert half > 5e-3 and slope.item() == pytest.approx(2 * half / 0.05, rel=0.1)
    assert loss.mean().item() == pytest.approx(half - 3.0, abs=4 * (2 * half / 3000) ** 0.5)
    found = importance_sample(
        sdegen.Exact(sdegen.VP(), RING), RING.log_prob, 50, steps=9, generator=torch.Generator().manual_seed(4)
    )
    again = PathDivergence(RING.log_prob, steps=9)(
        sdegen.Exact(sdegen.VP(), RING), x[:50], generator=torch.Generator().manual_seed(4)
    )
    torch.testing.assert_close((-again).softmax(0), found.weights, rtol=1e-5, atol=1e-8)


class Pinned(sdegen.ScheduleSDE):
    """Brownian paths to a point, over the root of their time."""

    T = 0.999

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()


def test_a_pinned_brownian_path_over_the_root_of_its_time_is_a_process_of_a_schedule() -> None:
    sde, s, t = Pinned(), torch.tensor(0.2, dtype=d64), torch.tensor(0.7, dtype=d64)
    kernel, at = sde.transition(s, t), sde.marginal(t)
    bridge, left = (1 - t) / (1 - s), (t - s) * (1 - t) / (1 - s)  # of a path to 0 at 1, its mean and its variance
    over = ((1 - t) / (1 - s)).sqrt()
    assert kernel.Phi.matrix().item() == pytest.approx((bridge / over).item())
    assert kernel.covariance.matrix().item() == pytest.approx((left / (1 - t)).item())
    assert at.Phi.matrix().item() == pytest.approx(((1 - t) / (1 - t).sqrt()).item())


def two(share: float) -> GaussianMixture:
    """Two modes far apart, with shares of the samples."""
    apart = torch.tensor([[3.0, 0.0], [-3.0, 0.0]], dtype=d64)
    return GaussianMixture(torch.tensor([share, 1 - share], dtype=d64), apart, torch.ones(2, dtype=d64))


WIDER = GaussianMixture(torch.ones(1), MEAN[None], 1.4 * COVARIANCE[None])


@pytest.mark.parametrize(("law", "other"), [(GAUSSIAN, WIDER), (two(0.75), two(0.5))], ids=["width", "shares of modes"])
def test_adjoint_matching_has_its_minimum_at_the_score_of_the_law(law: GaussianMixture, other: GaussianMixture) -> None:
    x, loss = torch.zeros(800, 2, dtype=d64), AdjointMatching(law.log_prob, steps=16, levels=1)
    right, wrong = (
        loss(sdegen.Exact(PROCESSES["VP in units"], one), x, generator=torch.Generator().manual_seed(0)).mean().item()
        for one in (law, other)
    )
    assert right < 0.1 * wrong, (right, wrong)


@pytest.mark.parametrize("d", [2, 20])
def test_means_of_values_are_those_of_the_data_where_the_values_are_they(d: int) -> None:
    draws, at = torch.Generator().manual_seed(0), sdegen.VP().marginal(torch.linspace(0.1, 0.9, 7))
    data, y = (torch.randn(n, d, generator=draws, dtype=d64) for n in (50, 7))
    same = pooled_values(data, torch.zeros(50, dtype=d64), data, y, at.C, at.S)
    assert torch.allclose(same, pooled(data, y, at.C, at.S)[0])
    twice = torch.cat([data, data[:1]])
    weights = torch.zeros(50, dtype=d64)
    weights[0] = math.log(2)
    weighted = pooled_values(data, weights, data, y, at.C, at.S)
    assert torch.allclose(weighted, pooled(twice, y, at.C, at.S)[0])


def test_tempered_weights_leave_the_share_that_is_asked_for() -> None:
    log_weights = 3 * torch.randn(300, dtype=d64, generator=torch.Generator().manual_seed(0))
    left = temper(log_weights, 0.5).softmax(0)
    assert 1 / left.square().sum().item() == pytest.approx(150, rel=1e-3)
    assert temper(0.1 * log_weights, 0.5) is not None and torch.equal(temper(0.1 * log_weights, 0.5), 0.1 * log_weights)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "share"), [(AdjointMatching, 0.4), (LogVariance, 0.2), (PathDivergence, 0.2)])
def test_the_ring_is_learned_without_data(loss: Any, share: float) -> None:
    wide = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([9.0]))
    model = small()
    sdegen.fit(model, wide, loss=loss(RING.log_prob, steps=15), steps=300, batch_size=256, lr=4e-3, seed=0)
    found = importance_sample(model, RING.log_prob, 2000, steps=60, seed=1)
    assert found.log_evidence is not None and found.evidence_error is not None
    assert found.effective > share * 2000 and abs(found.log_evidence) < 4 * found.evidence_error
    assert model.profile is None  # of which the wide Gaussian would tell nothing


REFUSED: dict[str, tuple[str, Callable[[], Any]]] = {
    "NaN": (r"log_prob is nan at 9 of 9 points", lambda: weigh(lambda x: x[:, 0] * math.nan)),
    "infinite": (r"log_prob is inf at 9 of 9 points", lambda: weigh(lambda x: x[:, 0] * 0 + math.inf)),
    "nowhere": (r"log_prob is -inf at all 9 points", lambda: weigh(lambda x: x[:, 0] * 0 - math.inf)),
    "another shape": (r"must return one number for each point", lambda: weigh(lambda x: x)),
    "a number": (r"log_prob returned a float", lambda: weigh(lambda x: 1.0)),
    "two numbers of steps": (
        "steps = 5 and a sampler were both given",
        lambda: weigh(RING.log_prob, steps=5, sampler=samplers.ExponentialSDE(5)),
    ),
    "an end before the data": (
        "ends at t = .*, and paths are to end in the data",
        lambda: weigh(RING.log_prob, steps=None, sampler=samplers.ExponentialSDE(5)),
    ),
    "no noise": (
        "have no density",
        lambda: weigh(RING.log_prob, steps=None, sampler=samplers.Heun(5, grids.Angle(end=0.0))),
    ),
    "noise at 0": ("VE has noise at t = 0", lambda: weigh(RING.log_prob, sdegen.Exact(sdegen.VE(0.02, 20.0), RING))),
    "more channels": ("CLD has more numbers", lambda: weigh(RING.log_prob, sdegen.Exact(sdegen.CLD(), RING))),
    "another process": (
        "base has a different process",
        lambda: weigh(RING.log_prob, base=sdegen.Exact(sdegen.OU(), RING)),
    ),
}


def weigh(log_prob: Callable[[Tensor], Any], model: sdegen.ScoreModel | None = None, **given: Any) -> None:
    importance_sample(model or sdegen.Exact(sdegen.VP(), RING), log_prob, 9, seed=0, **({"steps": 3} | given))


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_weighed_is_refused_in_a_sentence(what: str) -> None:
    said, call = REFUSED[what]
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_a_density_that_turns_nan_ends_the_training_with_the_weights_of_the_step_before() -> None:
    calls, kept = [], []

    def density(x: Tensor) -> Tensor:
        if len(x) == 8:  # and not where the loss asks whether rows are mixed
            calls.append(len(x))
        return RING.log_prob(x) * (math.nan if len(calls) > 2 else 1.0)

    model = small()

    def look(step: training.Step) -> None:
        kept.append({name: weight.clone() for name, weight in model.state_dict().items()})

    with pytest.raises(NonFiniteLoss, match=r"stopped in step 3: log_prob is nan at 8 of 8 points.*weights of step 2"):
        sdegen.fit(model, GAUSSIAN, loss=LogVariance(density, steps=3), batch_size=8, steps=9, seed=0, callbacks=[look])
    assert len(kept) == 2 and all(torch.equal(value, kept[-1][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("density", "said"),
    [
        (lambda x: RING.log_prob(x.detach()), r"log_prob\(x\) has no slope by x"),
        (lambda x: (x[:, 0] - x[:, 0]).abs().sqrt(), "the slope of log_prob is not finite at 9 of 9 points"),
        (lambda x: x[:, 0] * math.nan, "log_prob is nan at 9 of 9 points"),
    ],
)
def test_slopes_that_cannot_be_matched_are_refused(density: Callable[[Tensor], Tensor], said: str) -> None:
    loss = AdjointMatching(density, steps=3)
    with pytest.raises(ValueError, match=said):
        loss(sdegen.Exact(sdegen.VP(), RING), torch.zeros(9, 2))


def test_a_density_without_a_slope_or_of_zero_has_no_divergence() -> None:
    x = torch.zeros(9, 2)
    with pytest.raises(ValueError, match=r"log_prob\(x\) has no slope by x"):
        PathDivergence(lambda x: RING.log_prob(x.detach()), steps=3)(small_with_moments(), x)
    with pytest.raises(NonFiniteLoss, match=r"not finite at t = 0 "):
        PathDivergence(lambda x: RING.log_prob(x).masked_fill(x[:, 0] < 0, -math.inf), steps=3)(small_with_moments(), x)
    with pytest.raises(TypeError, match=r"^log_prob returned a float"):
        PathDivergence(lambda x: 0.0, steps=3)(small_with_moments(), x)  # type: ignore[arg-type, return-value]


def test_the_divergence_asks_for_the_density_once_and_records_a_run_only_where_derivatives_are_wanted() -> None:
    asked: list[bool] = []

    def log_prob(x: Tensor) -> Tensor:
        if len(x) == 9:  # and not where the loss asks whether rows are mixed
            asked.append(x.requires_grad)
        return RING.log_prob(x)

    class Recorded(nets.MLP):
        """Counts the calls that are recorded for derivatives."""

        recorded = 0

        def forward(self, x: Tensor, level: Tensor, /, **cond: Any) -> Tensor:
            type(self).recorded += torch.is_grad_enabled()
            return super().forward(x, level, **cond)

    torch.manual_seed(0)
    model, loss, x = (
        sdegen.Model(Recorded(2, width=8), sdegen.VP()),
        PathDivergence(log_prob, steps=3),
        torch.zeros(9, 2),
    )
    model.moments = GAUSSIAN.moments()
    values = loss(model, x, generator=torch.Generator().manual_seed(0))
    assert values.requires_grad and asked == [True] and Recorded.recorded == 3
    with torch.no_grad():
        again = loss(model, x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, values) and asked == [True, False] and Recorded.recorded == 3


@pytest.mark.parametrize("loss", [AdjointMatching, LogVariance, PathDivergence])
def test_a_training_that_was_interrupted_ends_with_the_same_weights(loss: Any, tmp_path: Path) -> None:
    def run(**given: Any) -> dict[str, Tensor]:
        model, made = small(), loss(RING.log_prob, steps=2)
        sdegen.fit(model, GAUSSIAN, loss=made, steps=4, batch_size=8, seed=0, threads=1, every=2, **given)
        return model.state_dict()

    def stop(step: training.Step) -> None:
        if step.step == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(checkpoint=tmp_path, callbacks=[stop])
    assert list(tmp_path.glob("*.safetensors"))
    whole, again = run(), run(checkpoint=tmp_path)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_paths_are_drawn_by_whole_batches() -> None:
    with pytest.raises(ValueError, match="LogVariance draws whole paths with the network"):
        sdegen.fit(small(), GAUSSIAN, loss=LogVariance(RING.log_prob), accumulate=2, steps=1)
    labelled = GAUSSIAN.sample(20).float(), {"label": torch.zeros(20, dtype=torch.long)}
    model = sdegen.Model(nets.MLP(2, width=8, depth=1, classes=2), sdegen.VP())
    with pytest.raises(ValueError, match="the data have the conditions label"):
        sdegen.fit(model, labelled, loss=LogVariance(RING.log_prob, steps=3), steps=1, batch_size=8)


def test_the_constant_of_a_density_changes_no_loss() -> None:
    model, losses = small(), []
    model.moments = GAUSSIAN.moments()
    for constant in (0.0, 1e8):
        loss = AdjointMatching(lambda x, c=constant: RING.log_prob(x).double() + c, steps=5)  # type: ignore[misc]
        losses.append(loss(model, torch.zeros(8, 2), torch.Generator().manual_seed(0)))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)


def test_models_under_conditions_are_weighed() -> None:
    both = sdegen.ExactConditional(sdegen.VP(), [GAUSSIAN, RING], GAUSSIAN)
    found = importance_sample(sdegen.Conditioned(both, label=0), GAUSSIAN.log_prob, 100, steps=3, seed=0)
    assert found.log_evidence == pytest.approx(0.0, abs=1e-6)


def test_one_path_has_no_spread() -> None:
    with pytest.raises(ValueError, match="one row"):
        LogVariance(RING.log_prob)(small(), torch.zeros(1, 2))


def test_adjoint_matching_is_trained_in_short_precision() -> None:
    loss, how = AdjointMatching(RING.log_prob, steps=3), {"steps": 2, "batch_size": 8, "seed": 0}
    run = sdegen.fit(small(), GAUSSIAN, loss=loss, autocast=torch.bfloat16, **how)
    assert len(run.loss) == 2 and all(map(math.isfinite, run.loss))


@pytest.mark.parametrize("loss", [LogVariance, PathDivergence, AdjointMatching])
def test_data_with_conditions_are_refused_by_every_loss_of_a_density(loss: Callable[..., Any]) -> None:
    model = sdegen.Model(nets.MLP(2, width=4), sdegen.VP())
    with pytest.raises(
        ValueError, match="the data have the conditions label, hue, and the density is one of data alone"
    ):
        loss(RING.log_prob, steps=2)(model, torch.zeros(4, 2), label=torch.zeros(4).long(), hue=torch.zeros(4))
