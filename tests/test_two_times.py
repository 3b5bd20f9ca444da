"""Networks of two times trained elsewhere: mean flows, shortcuts and consistency trajectory models, on a flow that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sdegen
from sdegen import nets, testing, training
from sdegen.conditions import conditions_of
from sdegen.models import DataParametrization, StraightParametrization
from sdegen.models.foreign import FromNoise, NoiseLevel
from sdegen.samplers import FlowMap, Jumps

d64 = torch.float64
MEAN, VARIANCE = torch.tensor([3.0, -1.0], dtype=d64), torch.tensor([2.0, 0.3], dtype=d64)
LAW = sdegen.GaussianMixture(torch.ones(1, dtype=d64), MEAN[None], VARIANCE.diag()[None])


def flow(x: Tensor, t: Tensor, s: Tensor, straight: bool) -> Tensor:
    """Where the flow of the law takes states at `t` until `s`, of noise ``t`` in ``1 − t`` of the data, or in all of them."""

    def law(t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = 1 - t if straight else torch.ones_like(t)
        return alpha * MEAN, (alpha.square() * VARIANCE + t.square()).sqrt()

    (m_t, P_t), (m_s, P_s) = law(t[:, None]), law(s[:, None])
    return m_s + P_s / P_t * (x - m_t)


class MeanFlow(nn.Module):
    """The mean velocity from one time to another, of time that runs from data to noise."""

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        s = torch.where(s == t, t - 1e-6, s)
        return (x - flow(x, t, s, True)) / (t - s)[:, None]


class Shortcut(nn.Module):
    """The mean velocity over a length, of time that runs from noise to data."""

    def forward(self, x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        d = d.clamp_min(1e-6)
        return (flow(x, 1 - t, 1 - t - d, True) - x) / d[:, None]


class Trajectory(nn.Module):
    """The clean data of a way between two levels of noise, `G = (s / t) x + (1 − s / t) g`."""

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        share = (torch.where(s == t, t * (1 - 1e-6), s) / t)[:, None]
        return (flow(x, t, share[:, 0] * t, False) - share * x) / (1 - share)


MAPS: dict[str, Any] = {
    "mean flow": lambda: FlowMap.from_network(MeanFlow(), moments=LAW.moments()),
    "shortcut": lambda: FlowMap.from_network(
        Shortcut(), None, StraightParametrization(to_data=True), FromNoise(), length=True, moments=LAW.moments()
    ),
    "trajectory": lambda: FlowMap.from_network(
        Trajectory(), sdegen.EDM(), DataParametrization(), NoiseLevel(), moments=LAW.moments()
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_jump_is_what_the_convention_says(name: str) -> None:
    model = MAPS[name]()
    sde, straight = model.sde, name != "trajectory"
    x = LAW.sample(6, torch.Generator().manual_seed(0))

    def wanted(t: Tensor, s: Tensor) -> Tensor:
        sigma = [sde.marginal(v).R.matrix()[:, 0, 0] for v in (t, s)]
        return flow(x, *sigma, straight)

    last, rows = torch.tensor([sde.T], dtype=d64), torch.linspace(0.0, 0.6, 6, dtype=d64) * sde.T
    for share, other in ((1.0, 0.0), (1.0, 0.4), (0.7, 0.2), (0.3, 0.0)):
        t, s = share * last, other * last
        torch.testing.assert_close(model.jump(x, t, s), wanted(t, s), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(model.jump(x, last, rows), wanted(last, rows), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", MAPS)
def test_at_one_time_it_is_the_score_model_of_the_law(name: str) -> None:
    model = MAPS[name]()
    exact = sdegen.Exact(model.sde, LAW)
    for share in (0.2, 0.8):
        x = model.sde.diffused(LAW, share * model.sde.T).sample(6, torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            model.denoise(x, share * model.sde.T), exact.denoise(x, share * model.sde.T), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize("name", MAPS)
def test_samples_of_one_jump_have_the_law(name: str) -> None:
    for steps in (1, 3):
        x = sdegen.sample(MAPS[name](), 20_000, sampler=Jumps(steps), seed=0)
        assert ((x.mean(0) - MEAN).abs() < 4.5 * (VARIANCE / len(x)).sqrt()).all()
        assert ((x.var(0) / VARIANCE - 1).abs() < 4.5 * (2 / len(x)) ** 0.5).all()


class Learner(nn.Module):
    """A network of two times and a condition."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, tilt: Tensor | None = None) -> Tensor:
        assert t.shape == s.shape and t.dtype == s.dtype
        tilt = torch.zeros(()) if tilt is None else tilt
        return self.layer(torch.cat([x, *(v.reshape(-1, 1).expand(len(x), 1) for v in (t, s, tilt))], 1))


def test_a_network_of_two_times_is_trained_further_and_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FlowMap.from_network(Learner())
    data = LAW.sample(64, torch.Generator().manual_seed(0)).float()
    run = sdegen.fit(model, data, steps=60, batch_size=32, lr=2e-2, seed=0, loss=training.Semigroup(), progress=False)
    assert sum(run.loss[-10:]) < 0.9 * sum(run.loss[:10])
    sdegen.save(
        model,
        tmp_path / "map.safetensors",
    )
    again = sdegen.load(tmp_path / "map.safetensors", classes=[Learner])
    x = torch.randn(3, 2)
    assert torch.equal(again.jump(x, 1.0, 0.0, tilt=torch.ones(3)), model.jump(x, 1.0, 0.0, tilt=torch.ones(3)))
    assert not torch.equal(model.jump(x, 1.0, 0.0, tilt=torch.ones(3)), model.jump(x, 1.0, 0.0))
    with pytest.raises(TypeError, match=r"^the network is told the time by ScaledTime.* training\.Semigroup\(\)\.$"):
        training.Lagrangian()(model, data)


def test_laws_of_the_form_hold_for_a_network_from_elsewhere() -> None:
    torch.manual_seed(0)
    model = FlowMap.from_network(Learner(), moments=LAW.moments()).double()
    report = testing.check_flow_map(model, n=4)
    assert set(report.failures) <= {"two_jumps_are_one", "ends_where_the_flow_ends"}, report


def test_a_network_of_one_time_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^MLP is called with a state and one time, .* by models\.from_network\.$"):
        FlowMap.from_network(nets.MLP(2))


class Declaring(Learner):
    """The same, which declares its condition."""

    def __init__(self) -> None:
        super().__init__()
        self.declared = {"tilt": sdegen.nets.Vector(1)}


@pytest.mark.parametrize("length", [False, True])
def test_the_conditions_of_a_map_are_those_that_its_network_declares(length: bool) -> None:
    plain = conditions_of(Declaring(), inputs=3)
    model = FlowMap.from_network(Declaring(), length=length, moments=LAW.moments())
    found = model.conditions
    assert found.names == plain.names == {"tilt"} and not found.others and not found.takes("until")
    assert (found.kinds.keys(), found.needed, found.nulls) == (plain.kinds.keys(), plain.needed, plain.nulls)
    for given, said in (({"tlit": torch.zeros(2, 1)}, "perhaps 'tilt' is meant"), ({}, "needs the condition 'tilt'")):
        with pytest.raises(TypeError, match=said):
            sdegen.sample(model, 2, sampler=Jumps(1), **given)
    with pytest.raises(ValueError, match=r"^tilt has shape \(2, 3\)"):
        sdegen.sample(model, 2, sampler=Jumps(1), tilt=torch.zeros(2, 3))
    with pytest.raises(TypeError, match="unexpected keyword argument 'tlit'"):  # of one that declares none, by itself
        sdegen.sample(FlowMap.from_network(Learner(), moments=LAW.moments()), 2, sampler=Jumps(1), tlit=torch.zeros(2))
