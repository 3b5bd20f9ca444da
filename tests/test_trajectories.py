"""Trajectories of a teacher's flow, and the loss of maps between their states: on flows that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_flow_maps import SCALAR, a_map, gaussian
from torch import nn

import sdegen
from sdegen import guidance, nets, training
from sdegen.samplers import FlowMap, Heun, Jumps, PointMass, ProbabilityFlow
from sdegen.training import Paths, Trajectories, trace

d64 = torch.float64
LAW = gaussian(torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=d64))
RING = sdegen.data.gaussian_ring()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.turns("two methods", "cosine", "OU")
def test_states_are_those_of_the_flow_and_a_map_of_it_has_no_loss(name: str) -> None:
    """Of Gaussian data, which a map follows exactly before it is trained."""
    model, far = (a_map(SCALAR[name](), LAW, size=0.0, reference=by) for by in (None, PointMass()))
    sde = model.sde
    teacher = sdegen.Exact(sde, LAW)
    paths = trace(teacher, 64, nodes=4, between=32, seed=0)
    first = sde.marginal(sde.t_max).r(paths.states[:, 0])
    for k in (2, 4):
        s = sde.time_of_angle(paths.angles[:, k])
        gap = sde.marginal(s).normalise(model.jump(first, sde.t_max, s)) - paths.states[:, k]
        assert gap.abs().max() < 0.01
    values = [
        Trajectories(teacher, paths, power=0.0)(m, torch.zeros(256, 2, dtype=d64), seeded()).mean()
        for m in (model, far)
    ]
    assert values[0] < 1e-3 < 0.1 < values[1]


def test_steps_between_are_of_second_order() -> None:
    teacher = sdegen.Exact(sdegen.VP(), RING)
    paths = [trace(teacher, 256, nodes=2, between=n, seed=0) for n in (32, 64, 128)]
    assert torch.equal(paths[0].angles, paths[1].angles)
    sde = teacher.sde
    x_T = sde.marginal(sde.t_max).r(paths[0].states[:, 0])
    grid = sdegen.grids.Given(torch.tensor([sde.t_max, 0.0], dtype=d64))
    flow = ProbabilityFlow(grid=grid, rtol=1e-9, atol=1e-9)
    true = sdegen.sample(teacher, x_T=x_T, sampler=flow, final="sample", progress=False)
    ends = [sde.project(sde.marginal(0.0).r(p.states[:, -1])) - true for p in paths]
    coarse, middle, fine = (gap.abs().flatten().median() for gap in ends)
    assert 1.6 < (coarse / middle).log2() < 2.6 and 1.6 < (middle / fine).log2() < 2.6


def test_trajectories_do_not_depend_on_their_number_or_the_batch_and_meet_all_angles_but_those_near_an_end() -> None:
    teacher = sdegen.Exact(sdegen.VP(), RING)
    whole = trace(teacher, 90, nodes=4, between=2, seed=0)
    for n, batch in ((90, 1), (90, 33), (41, 40), (3, 1000)):
        cut = trace(teacher, n, nodes=4, between=2, seed=0, batch=batch)
        for got, want in zip(cut[:3], whole[:3], strict=True):
            torch.testing.assert_close(got, want[:n])
    angles = trace(teacher, 4000, nodes=4, between=1, seed=0).angles
    shares, last = angles / angles[0, 0], teacher.sde.angle_at(teacher.sde.t_max)
    assert (angles[:, 0] == last).all() and (angles[:, -1] == 0).all() and (angles.diff(dim=1) < 0).all()
    between = shares[:, 1:-1].flatten().sort().values
    ends = torch.tensor([0.5, 3.5], dtype=d64) / 4
    torch.testing.assert_close(between[[0, -1]], ends, atol=1e-3, rtol=0.0)
    assert between.diff().max() < 2e-3  # of 12,000 in three quarters of the way


def test_ways_begin_and_end_with_the_trajectory_so_often_and_go_nowhere_so_often() -> None:
    paths = trace(sdegen.Exact(sdegen.VP(), RING), 50, nodes=4, between=1, seed=0)
    n, whole, still = 20_000, 0.4, 0.125
    which, first, last = Trajectories(sdegen.Exact(sdegen.VP(), RING), paths, whole, still).pairs(n, seeded())
    assert which.bincount(minlength=50).min() > 0.7 * n / 50
    stays = first == last
    begins = whole + (1 - whole) / 4  # four states that a way may begin in
    for share, found in ((still, stays), (begins, first == 0)):
        assert abs(found.double().mean() - share) < 4.5 * (share * (1 - share) / n) ** 0.5
    ends = (last == 4)[~stays & (first == 0)].double()
    share = whole + (1 - whole) / 4
    assert abs(ends.mean() - share) < 4.5 * (share * (1 - share) / len(ends)) ** 0.5
    assert ((first < last) | stays).all() and first.max() == 3 and last.max() == 4


def test_misses_are_divided_by_a_power_of_their_size() -> None:
    model = a_map(sdegen.VP(), LAW, size=0.5)
    teacher = sdegen.Exact(model.sde, LAW)
    paths, x = trace(teacher, 64, seed=0), torch.zeros(16, 2, dtype=d64)
    square, root = (Trajectories(teacher, paths, power=p)(model, x, seeded()) for p in (0.0, 0.5))
    torch.testing.assert_close(root, square / (square + 1e-3).sqrt())


def test_of_data_their_number_matters_alone_and_half_precision_is_widened() -> None:
    model = a_map(sdegen.VP(), LAW, size=0.5).float()
    loss = Trajectories(sdegen.Exact(model.sde, LAW), trace(sdegen.Exact(model.sde, LAW), 64, seed=0))
    values = loss(model, torch.zeros(16, 2), seeded())
    assert values.dtype == torch.float32
    for x in (torch.ones(16, 2), torch.ones(16, 2, dtype=torch.bfloat16), torch.ones(16, 2, dtype=torch.half)):
        assert torch.equal(loss(model, x, seeded()), values)


def test_trajectories_keep_their_conditions_and_a_run_is_resumed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = sdegen.Model(nets.MLP(2, width=8, depth=1, classes=3), sdegen.VP())
    data, label = RING.sample(64, seeded()).float(), torch.arange(64) % 3
    sdegen.fit(teacher, (data, label), steps=20, batch_size=32, lr=1e-2, seed=0, progress=False)
    asked = torch.arange(90) % 3
    paths = trace(teacher, 90, between=2, seed=0, batch=40, cond={"label": asked})
    for k in range(3):  # a trajectory of each class is the one which that class alone has
        only = trace(teacher, 90, between=2, seed=0, batch=40, cond={"label": torch.full((90,), k)})
        torch.testing.assert_close(only.states[asked == k], paths.states[asked == k])
        assert not torch.allclose(only.states[asked != k], paths.states[asked != k])
    half = trace(teacher, 90, between=2, seed=0, batch=40, half=True, cond={"label": asked})
    assert half.states.dtype == torch.float16
    assert (half.states.float() - paths.states).abs().median() < 0.02
    loss, ends = Trajectories(teacher, paths), []
    for steps in ((6,), (3, 6)):
        torch.manual_seed(1)
        model = FlowMap.of(teacher)
        for last in steps:
            sdegen.fit(
                model, (data, label), steps=last, batch_size=16, lr=1e-2, seed=0, loss=loss, schedule=training.constant_rate,
                checkpoint=tmp_path / str(len(steps)), progress=False,
            )  # fmt: skip
        ends.append(sdegen.sample(model, 4, sampler=Jumps(1), seed=0, label=torch.tensor([0, 1, 2, 0])))
    assert torch.equal(*ends)


def test_what_a_map_learns_without_a_condition_its_trajectories_say() -> None:
    torch.manual_seed(0)
    teacher = sdegen.Model(nets.MLP(2, width=8, depth=1, classes=3), sdegen.VP())
    data = RING.sample(64, seeded()).float(), torch.arange(64) % 3
    how: dict[str, Any] = {"steps": 2, "batch_size": 16, "seed": 0, "progress": False}
    sdegen.fit(teacher, data, **how, p_uncond=0.2)
    for lost in (True, False):
        label = torch.where(torch.arange(30) % 5 == 0, -1, torch.arange(30) % 3) if lost else torch.arange(30) % 3
        loss = Trajectories(teacher, trace(teacher, 30, between=1, seed=0, cond={"label": label}))
        model = FlowMap.of(sdegen.Model(nets.MLP(2, width=8, depth=1, classes=3), sdegen.VP()))
        with pytest.raises(
            ValueError, match=r"^p_uncond = 0\.1, and Trajectories has conditions of its own, .* leave p_uncond"
        ):
            sdegen.fit(model, data, **how, loss=loss, p_uncond=0.1)
        sdegen.fit(model, data, **how, loss=loss)
        assert sdegen.sample(model, 3, sampler=Jumps(1), seed=0, label=torch.tensor([0, 1, 2])).isfinite().all()
        if lost:
            assert sdegen.sample(model, 3, sampler=Jumps(1), seed=0).isfinite().all()
        else:
            with pytest.raises(
                ValueError, match=r"^label is not given for all samples, and FlowMap was never trained without"
            ):
                sdegen.sample(model, 3, sampler=Jumps(1), seed=0)


@pytest.mark.slow
def test_a_guided_model_is_a_teacher() -> None:
    """A map of its trajectories ends where it does, and not where the model does that it guides."""
    torch.manual_seed(0)
    teacher = sdegen.Model(nets.MLP(2, width=32, depth=2, classes=2), sdegen.VP())
    x, label = RING.sample(600, seeded()).float(), torch.arange(256) % 2
    data = x, (x[:, 0] > 0).long()
    sdegen.fit(teacher, data, steps=200, batch_size=128, lr=5e-3, seed=0, p_uncond=0.2, progress=False)
    guided = guidance.ClassifierFree(teacher, 2.0)
    loss = Trajectories(guided, trace(guided, 500, seed=0, cond={"label": torch.arange(500) % 2}))
    model = FlowMap.of(teacher)
    sdegen.fit(model, data, steps=200, batch_size=128, lr=5e-3, seed=0, loss=loss, progress=False)
    x_T = model.sde.prior(model.state_moments()).sample(256, seeded()).float()
    ours, theirs, plain = (
        sdegen.sample(m, x_T=x_T, sampler=sampler, label=label, progress=False)
        for m, sampler in ((model, Jumps(1)), (guided, Heun(20)), (teacher, Heun(20)))
    )
    assert (ours - theirs).norm(dim=1).median() < 0.3 * (ours - plain).norm(dim=1).median()


def test_a_map_comes_nearer_to_the_ends_of_trajectories() -> None:
    torch.manual_seed(0)
    teacher = sdegen.Model(nets.MLP(2, width=32, depth=2), sdegen.VP())
    sdegen.fit(teacher, RING, steps=200, batch_size=128, lr=5e-3, seed=0, progress=False)
    model, paths = FlowMap.of(teacher), trace(teacher, 2000, seed=0)

    def missed() -> float:
        x = model.sde.marginal(model.sde.t_max).r(paths.states[:, 0])
        return (
            (model.sde.marginal(0.0).normalise(model.jump(x, model.sde.t_max, 0.0)) - paths.states[:, -1])
            .norm(dim=1)
            .mean()
            .item()
        )

    with torch.no_grad():
        before = missed()
    sdegen.fit(
        model, RING, steps=200, batch_size=128, lr=5e-3, seed=0, loss=Trajectories(teacher, paths), progress=False
    )
    with torch.no_grad():
        assert missed() < 0.6 * before


class Taking(nn.Module):
    """A network with a condition that it does not declare, and makes numbers of whatever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, level: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        return self.line(torch.cat([x, theta[:, None].nan_to_num()], 1))


def test_trajectories_of_a_learned_process_have_no_gradient_by_it() -> None:
    teacher = sdegen.Model(nets.MLP(2, width=8, depth=1), sdegen.LearnedSchedule())
    teacher.moments = RING.moments()
    states, velocities, angles, _ = trace(teacher, 4, nodes=2, between=1, seed=0)
    assert not (states.requires_grad or velocities.requires_grad or angles.requires_grad)


def test_what_cannot_be_followed_is_refused() -> None:
    teacher = sdegen.Exact(sdegen.VP(), RING)
    with pytest.raises(TypeError, match=r"^CLD is not scalar, and its flow turns by no one angle; take Semigroup"):
        trace(sdegen.Exact(sdegen.CLD(), RING), 3)
    with pytest.raises(ValueError, match=r"^n = 0"):
        trace(teacher, 0)
    with pytest.raises(TypeError, match=r"^trace has no argument 'label'"):
        trace(teacher, 3, cond={"label": torch.zeros(3)})
    labelled = sdegen.Model(nets.MLP(2, width=8, depth=1, classes=3), sdegen.VP())
    with pytest.raises(ValueError, match=r"^label has not a row for each of 3 trajectories"):
        trace(labelled, 3, cond={"label": torch.tensor(1)})
    taking = sdegen.Model(Taking(), sdegen.VP())
    taking.moments = RING.moments()
    with pytest.raises(ValueError, match=r"^theta holds NaN or infinite values"):
        trace(taking, 3, cond={"theta": torch.tensor([0.0, torch.nan, 1.0])})
    assert trace(taking, 3, cond={"theta": torch.zeros(3)}).states.isfinite().all()
    paths = trace(teacher, 8, seed=0)
    assert isinstance(paths, Paths) and "float64[8, 9, 2]" in repr(paths)
    loss, x = Trajectories(teacher, paths), torch.zeros(4, 2)
    with pytest.raises(TypeError, match=r"^Model is no FlowMap"):
        loss(labelled, x)
    with pytest.raises(ValueError, match=r"^the teacher has a different process"):
        loss(FlowMap(nets.MLP(2, conditions={"until": nets.SecondLevel()}), sdegen.VE()), x)
    with pytest.raises(ValueError, match=r"^the data have the conditions \['label'\], and the trajectories \[\]"):
        loss(FlowMap(nets.MLP(2, conditions={"until": nets.SecondLevel()}), sdegen.VP()), x, label=torch.zeros(4))
    with pytest.raises(ValueError, match=r"^whole = 1.5"):
        Trajectories(teacher, paths, whole=1.5)
