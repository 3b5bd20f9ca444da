"""Ends of earlier paths that losses without data begin with: their law, their weights, and trainings that keep them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import sdegen
from sdegen import nets, training
from sdegen.guidance.unnormalised import PathTarget
from sdegen.laws import GaussianMixture, Units
from sdegen.processes import LinearSDE
from sdegen.samplers.rollout import Rollout, log_prob_of_steps
from sdegen.storage import write_whole
from sdegen.training import AdjointMatching, LogVariance, NonFiniteLoss, Replay
from sdegen.training.replay import Kept, Memory

d64 = torch.float64
RING = sdegen.data.gaussian_ring()
MEAN, COVARIANCE = torch.tensor([0.5, -1.0], dtype=d64), torch.tensor([[1.5, 0.6], [0.6, 0.7]], dtype=d64)
GAUSSIAN = GaussianMixture(torch.ones(1), MEAN[None], COVARIANCE[None])
SLOPE = torch.tensor([0.8, -0.5], dtype=d64)
TILTED = GaussianMixture(torch.ones(1), (MEAN + COVARIANCE @ SLOPE)[None], COVARIANCE[None])
PROCESSES: dict[str, LinearSDE] = {
    "VP": sdegen.VP(), "VP in units": sdegen.VP().in_units(Units(torch.tensor([0.5, 0.0]), torch.tensor([2.0, 0.7]))),
    "OU": sdegen.OU(),
}  # fmt: skip
FEW = Replay(12, moves=2, every=2)


def small() -> sdegen.Model:
    torch.manual_seed(0)
    return sdegen.Model(nets.MLP(2, width=32, depth=2), sdegen.VP())


def given(loss: Any, ends: Tensor) -> Any:
    """The loss of a training that has kept these ends."""
    begun = loss.begin()
    begun._memory.kept = Kept(ends, torch.zeros(len(ends), dtype=d64))
    return begun


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("process", PROCESSES)
def test_the_loss_of_an_exact_model_is_0_whatever_the_law_of_the_paths(process: str, seed: int) -> None:
    """Paths end far from the law, anywhere; without the exact kernels of the forward process it would not be so."""
    draws, sde = torch.Generator().manual_seed(seed), PROCESSES[process]
    wide = 5 * torch.rand(1, generator=draws, dtype=d64)
    ends = wide * torch.randn(40, 2, generator=draws, dtype=d64) + 3 * torch.randn(2, generator=draws, dtype=d64)
    loss = given(LogVariance(lambda x: GAUSSIAN.log_prob(x) + 3.0, steps=4, replay=Replay(share=0.7, moves=0)), ends)
    x, off = torch.zeros(50, 2, dtype=d64), GaussianMixture(torch.ones(1), MEAN[None], 1.3 * COVARIANCE[None])
    assert loss(sdegen.Exact(sde, GAUSSIAN), x, generator=draws).abs().max() < 1e-12
    assert loss(sdegen.Exact(sde, off), x, generator=draws).mean() > 1e-4


def test_the_loss_of_an_exactly_tilted_model_is_0_on_the_paths_of_kept_ends_too() -> None:
    base, model = (sdegen.Exact(sdegen.VP(), law) for law in (GAUSSIAN, TILTED))
    ends = 4 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=d64)
    loss = given(LogVariance(lambda x: x @ SLOPE, base=base, steps=4, replay=Replay(moves=0)), ends)
    assert loss(model, torch.zeros(50, 2, dtype=d64), generator=torch.Generator().manual_seed(0)).abs().max() < 1e-12
    assert loss(base, torch.zeros(50, 2, dtype=d64), generator=torch.Generator().manual_seed(0)).mean() > 0.1


@pytest.mark.parametrize("process", PROCESSES)
def test_paths_of_kept_ends_have_the_law_of_the_forward_process(process: str) -> None:
    """Of these paths the mean of ``q / p`` is 1, `q` the steps of any model: its own law of paths is normalised."""
    draws, n = torch.Generator().manual_seed(0), 4000
    model = sdegen.Exact(PROCESSES[process], GaussianMixture(torch.ones(1), MEAN[None], 0.8 * COVARIANCE[None]))
    target = PathTarget(GAUSSIAN.log_prob, None, None, 4)
    times, x = target.sampler.times(model.sde, denoise=False), GAUSSIAN.sample(n, draws)
    path = target.noise(model, x, times, draws)
    run = Rollout(x, path, times, log_prob_of_steps(model, path, times, sampler=target.sampler))
    ratio = (-target.log_weights(model, run)).exp()
    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / n**0.5 < 0.1


MOMENTS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x[:, 0] ** 2, lambda x: x[:, 1] ** 2, lambda x: (x[:, 0] < -1.2).double(),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, d64])
def test_moves_leave_the_law_as_it_is(dtype: torch.dtype) -> None:
    """Modes of unequal mass and width, by their shares and the second moments within them."""
    draws, n = torch.Generator().manual_seed(0), 8000
    apart = torch.tensor([[1.5, 0.0], [-1.5, 0.0]], dtype=d64)
    law = GaussianMixture(torch.tensor([0.8, 0.2], dtype=d64), apart, torch.tensor([1.0, 0.2], dtype=d64))
    memory, log_weights = Memory(Replay(n, moves=20)), torch.arange(n, dtype=d64)
    memory.kept = Kept(law.sample(n, draws).to(dtype), log_weights)
    before = memory.kept.x
    for _ in range(2):
        memory.move(law.log_prob, draws)
    x = memory.kept.x
    assert x.dtype == dtype and (x != before).any(1).double().mean() > 0.99
    assert torch.equal(memory.kept.log_weights, log_weights)
    again = law.sample(400_000, torch.Generator().manual_seed(1))
    for f in MOMENTS:
        error = f(again).std().item() * (1 / n + 1 / len(again)) ** 0.5
        assert abs(f(x).double().mean().item() - f(again).mean().item()) < 4 * error


def test_moves_find_the_law_of_a_gaussian() -> None:
    memory, draws = Memory(Replay(4000, moves=60)), torch.Generator().manual_seed(0)
    memory.kept = Kept(3 + torch.randn(4000, 2, generator=draws, dtype=d64), torch.zeros(4000, dtype=d64))
    for _ in range(3):
        memory.move(GAUSSIAN.log_prob, draws)
    error = (COVARIANCE.diag() / 4000).sqrt()
    assert ((memory.kept.x.mean(0) - MEAN).abs() < 4 * error).all()
    torch.testing.assert_close(memory.kept.x.T.cov(), COVARIANCE, rtol=0, atol=4 * 1.5 * (2 / 4000) ** 0.5)


def test_ends_are_drawn_by_powers_of_their_weights_and_keep_the_rest() -> None:
    """Means over the draws, with the weights that are left, are those over all that is kept."""
    draws, n = torch.Generator().manual_seed(0), 300
    memory, x = Memory(Replay(n)), torch.arange(n, dtype=d64)[:, None]
    memory.kept = Kept(x, 2 * torch.randn(n, dtype=d64, generator=draws) - 700.0)
    kept = memory.draw(100_000, draws)
    for f in (lambda x: x * 0 + 1, lambda x: x):
        values = f(kept.x)[:, 0] * (kept.log_weights + 700).exp()
        exact = (f(x)[:, 0] * (memory.kept.log_weights + 700).exp()).mean()
        assert abs(values.mean() - exact) < 4 * values.std() / len(values) ** 0.5
    weights = memory.kept.log_weights.softmax(0)
    assert 1 / weights.square().sum() < 0.3 * n
    counts = torch.bincount(kept.x[:, 0].long(), minlength=n) / len(kept.x)
    assert 1 / counts.square().sum() == pytest.approx(0.5 * n, rel=0.05)


def test_the_oldest_ends_are_forgotten_and_those_of_weight_0_not_kept() -> None:
    memory = Memory(Replay(5, moves=0))
    for k in range(3):
        weights = torch.tensor([0.0, -math.inf, 1.0], dtype=d64)
        memory.take(torch.full((3, 1), float(k)) + torch.tensor([[0.0], [0.1], [0.2]]), weights, RING.log_prob, None)
    assert memory.kept is not None
    assert torch.allclose(memory.kept.x[:, 0], torch.tensor([0.2, 1.0, 1.2, 2.0, 2.2]))
    assert memory.fresh(10) == 5 and memory.fresh(1) == 1 and Memory(Replay(5)).fresh(10) == 10


LOSSES: dict[str, Callable[..., Any]] = {"log-variance": LogVariance, "adjoint matching": AdjointMatching}
by_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def trained(loss: Any, **given: Any) -> dict[str, Tensor]:
    model = small()
    sdegen.fit(model, GAUSSIAN, loss=loss, **{"steps": 6, "batch_size": 8, "seed": 0, "threads": 1, "every": 3} | given)
    return model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def interrupted(loss: Any, folder: Path, at: int) -> None:
    def stop(step: training.Step) -> None:
        if step.step == at:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        trained(loss, checkpoint=folder, callbacks=[stop])


@by_loss
def test_a_training_that_was_interrupted_ends_with_the_same_weights(loss: Any, tmp_path: Path) -> None:
    made = loss(RING.log_prob, steps=2, replay=FEW)
    interrupted(made, tmp_path, 5)
    whole = trained(made)
    assert same(whole, trained(loss(RING.log_prob, steps=2, replay=FEW), checkpoint=tmp_path))
    assert not same(whole, trained(loss(RING.log_prob, steps=2)))
    with pytest.raises(ValueError, match=r"loss.replay.*size"):
        trained(loss(RING.log_prob, steps=2, replay=Replay(13, moves=2, every=2)), checkpoint=tmp_path)


@pytest.mark.parametrize("name", ["x", "log_weights", "numbers"])
def test_a_checkpoint_that_lacks_what_was_kept_is_named(name: str, tmp_path: Path) -> None:
    made = LogVariance(RING.log_prob, steps=2, replay=FEW)
    interrupted(made, tmp_path, 4)
    (file,) = tmp_path.glob("step-*.safetensors")
    whole = load_file(file)
    with safe_open(file, "pt") as opened:
        header = dict(opened.metadata())
    for damaged in (
        {k: v for k, v in whole.items() if k != f"loss:{name}"},
        whole | {f"loss:{name}": torch.zeros(3, 3)},
    ):
        write_whole(damaged, header, file)
        with pytest.raises(
            ValueError, match=r"step-0+3.safetensors does not hold what the loss had kept \(.*delete it"
        ):
            trained(made, checkpoint=tmp_path)


@by_loss
def test_every_training_begins_with_a_memory_of_its_own(loss: Any) -> None:
    made = loss(RING.log_prob, steps=2, replay=FEW)
    first, again = trained(made), trained(made)
    assert same(first, again) and same(first, trained(copy.copy(made))) and made._memory is None
    one, other = made.begin(), made.begin()
    model = small()
    model.moments = GAUSSIAN.moments()
    one(model, torch.zeros(8, 2))
    assert one._memory.kept is not None and other._memory.kept is None and one.begin()._memory.kept is None
    assert loss(RING.log_prob).begin()._memory is None


@by_loss
def test_a_validation_changes_nothing_that_is_kept(loss: Any) -> None:
    data = GAUSSIAN.sample(16, torch.Generator().manual_seed(3)).float()
    made = loss(RING.log_prob, steps=2, replay=FEW)
    assert same(trained(made), trained(made, validation=data, validate_every=2))


@by_loss
def test_a_loss_that_replays_is_refused_where_nobody_keeps_its_ends(loss: Any) -> None:
    made = loss(RING.log_prob, steps=2, replay=FEW)
    with pytest.raises(ValueError, match=r"replays ends of earlier steps, .* call loss.begin\(\) once"):
        made(small(), torch.zeros(8, 2))
    with pytest.raises(ValueError, match=r"replays ends of earlier steps"):
        sdegen.fit(small(), GAUSSIAN, loss=lambda model, x, generator: made(model, x, generator=generator), steps=1)
    with pytest.raises(ValueError, match="draws whole paths with the network"):
        sdegen.fit(small(), GAUSSIAN, loss=made, accumulate=2, steps=1)


def test_moves_in_a_law_whose_density_is_not_known_are_refused() -> None:
    base = sdegen.Exact(sdegen.VP(), GAUSSIAN)
    with pytest.raises(ValueError, match=r"moves = 4, and with base .* give Replay\(moves=0\)"):
        LogVariance(lambda x: x[:, 0], base=base, replay=Replay())
    with pytest.raises(ValueError, match=r"has no slope by x.* or keep ends where they are, by Replay\(moves=0\)"):
        trained(LogVariance(lambda x: RING.log_prob(x.detach()), steps=2, replay=FEW))
    assert trained(LogVariance(lambda x: RING.log_prob(x.detach()), steps=2, replay=Replay(12, moves=0)))


@by_loss
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[:, 0] * math.nan, "log_prob is nan at 8 of 8 points"),
        (lambda x: x[:, 0] * math.inf, "log_prob is (inf|-inf|nan) at"),
        (lambda x: (x[:, 0] - x[:, 0]).abs().sqrt(), "the slope of log_prob is not finite at"),
    ],
)
def test_a_density_of_no_use_where_an_end_is_moved_to_ends_the_training(loss: Any, spoil: Any, said: str) -> None:
    """The own ends of the first step are not replayed, and moved at once."""
    calls = []

    def density(x: Tensor) -> Tensor:
        if len(x) == 8:
            calls.append(x)
        return spoil(x) if len(calls) == 2 else RING.log_prob(x)

    with pytest.raises(NonFiniteLoss, match=rf"stopped in step 1: {said}"):
        trained(loss(density, steps=2, replay=Replay(8, moves=1, every=1)))


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"share": 0.0}, {"share": 1.0}, {"moves": -1}, {"every": 0}, {"size": 2.5}]
)
def test_what_cannot_be_kept_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        Replay(**wrong)


@by_loss
def test_ends_are_kept_in_the_dtype_of_the_run(loss: Any) -> None:
    for dtype in (torch.float32, d64):
        model, begun = small().to(dtype), loss(RING.log_prob, steps=2, replay=FEW).begin()
        model.moments = GAUSSIAN.moments()
        for _ in range(3):
            values = begun(model, torch.zeros(8, 2, dtype=dtype), generator=torch.Generator().manual_seed(0))
        assert values.shape == (8,) and values.requires_grad
        assert begun._memory.kept.x.dtype == dtype and len(begun._memory.kept.x) == 12
