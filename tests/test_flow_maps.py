"""Flow maps: their laws whatever the weights, exactness on Gaussian data, and losses that vanish on the flow and nowhere else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sdegen
from benchmarks import map_objectives
from sdegen import nets, recall, samplers, testing, training
from sdegen.guidance import base
from sdegen.laws import GaussianMixture
from sdegen.laws.products import plain_attention, value_and_slope
from sdegen.samplers import FlowMap, Jumps
from sdegen.training.map_losses import Way

d64 = torch.float64


class Ornstein(sdegen.ScalarSDE):
    """Written in two methods."""

    T = 2.0

    def f(self, t: Tensor) -> Tensor:
        return -0.5 - t

    def g(self, t: Tensor) -> Tensor:
        return (1 + t).sqrt()


class Axes(sdegen.CoordinateSDE):
    """A rate for each of two numbers."""

    rates = torch.tensor([1.0, 3.0], dtype=d64)

    def f(self, t: Tensor) -> Tensor:
        return -self.rates * t[..., None]

    def g(self, t: Tensor) -> Tensor:
        return (2 * self.rates * t[..., None]).sqrt()


SCALAR: dict[str, Callable[[], sdegen.ScalarSDE]] = {
    "VP": sdegen.VP,
    "VE": sdegen.VE,
    "OU": sdegen.OU,
    "EDM": sdegen.EDM,
    "rectified": sdegen.Rectified,
    "cosine": sdegen.Cosine,
    "two methods": Ornstein,
}
PROCESSES: dict[str, Callable[[], sdegen.LinearSDE]] = SCALAR | {"by coordinate": Axes, "CLD": sdegen.CLD}


def a_map(sde: sdegen.LinearSDE, law: Any = None, seed: int = 0, size: float = 0.1, **options: Any) -> FlowMap:
    """A map with weights of some size beyond those it is made with, which knows the moments of a law."""
    torch.manual_seed(seed)
    law = sdegen.data.random_mixture(2, seed=1) if law is None else law
    d = 2 * (2 if isinstance(sde, sdegen.CLD) else 1)
    model = FlowMap(nets.MLP(d, width=16, depth=1, conditions={"until": nets.SecondLevel()}), sde, **options).double()
    for p in model.parameters():
        p.data += size * torch.randn_like(p)
    model.measure(law.moments())
    model.moments = law.moments()
    return model


def gaussian(covariance: Tensor) -> GaussianMixture:
    return GaussianMixture(torch.ones(1, dtype=d64), torch.tensor([[3.0, -1.0]], dtype=d64), covariance[None])


TRAINED = {"two_jumps_are_one", "ends_where_the_flow_ends"}


@pytest.mark.parametrize("whole", [0.0, 0.25, 0.8])
def test_ways_begin_at_T_and_end_at_the_data_so_often_and_each_by_itself(whole: float) -> None:
    n, sde = 20_000, sdegen.VP()
    t, s = training.PairTimes(whole).draw(sde, n, torch.Generator().manual_seed(0))
    begins, ends = t >= sde.t_max - 1e-9, s <= 1e-9
    for share, found in ((whole, begins), (whole, ends), (whole**2, begins & ends)):
        assert abs(found.double().mean().item() - share) <= 4.5 * (share * (1 - share) / n) ** 0.5
    u, v = (sde.angle_at(part[~begins & ~ends]) / sde.angle_at(sde.t_max) for part in (t, s))
    if whole < 0.5:  # the larger and the smaller of two uniform numbers
        assert abs(u.mean() - 2 / 3) < 4.5 / (18 * len(u)) ** 0.5 and abs(v.mean() - 1 / 3) < 4.5 / (18 * len(v)) ** 0.5


@pytest.mark.parametrize("kind", [training.Semigroup, training.Lagrangian])
def test_the_loss_of_a_map_is_that_of_its_ways_and_so_much_of_that_against_data(kind: type) -> None:
    law = sdegen.data.random_mixture(2, seed=1)
    model, x = a_map(sdegen.VP(), law), law.sample(6, torch.Generator().manual_seed(0))
    teacher = sdegen.Exact(sdegen.VP().in_units(model.sde.units), law)
    none, one, some = (
        kind(teacher, diagonal=k)(model, x, generator=torch.Generator().manual_seed(1)) for k in (0.0, 1.0, 2.5)
    )
    assert ((one - none) > 0).all()
    torch.testing.assert_close(some - none, 2.5 * (one - none))


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("kind", [training.Semigroup, training.Lagrangian])
def test_misses_are_divided_by_a_power_of_their_size_and_the_part_against_data_is_not(kind: type, power: float) -> None:
    law = sdegen.data.random_mixture(2, seed=1)
    model, x = a_map(sdegen.VP(), law), law.sample(6, torch.Generator().manual_seed(0))
    teacher = sdegen.Exact(sdegen.VP().in_units(model.sde.units), law)

    def both(diagonal: float, power: float) -> tuple[Tensor, Tensor]:
        values = kind(teacher, None, diagonal, power)(model, x, generator=torch.Generator().manual_seed(1))
        slope = torch.autograd.grad(values.sum(), model.net.last.weight)[0]
        return values.detach(), slope

    (square, _), (divided, slope), (whole, _), (with_data, _) = (
        both(0.0, 0.0),
        both(0.0, power),
        both(1.0, 0.0),
        both(1.0, power),
    )
    torch.testing.assert_close(divided, square / (square + 1e-3) ** power)
    torch.testing.assert_close(with_data - divided, whole - square)
    values = kind(teacher, None, 0.0)(model, x, generator=torch.Generator().manual_seed(1))
    smooth = (values + 1e-3).log() if power == 1 else 2 * (values + 1e-3).sqrt()  # what has this gradient
    torch.testing.assert_close(slope, torch.autograd.grad(smooth.sum(), model.net.last.weight)[0])


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.turns("by coordinate", "CLD", "cosine", "two methods", "OU", "VE", "EDM", "rectified")
def test_laws_of_the_form_hold_for_any_weights(name: str) -> None:
    report = testing.check_flow_map(a_map(PROCESSES[name](), size=0.3), n=4)
    assert set(report.failures) == TRAINED, report  # weights that were drawn are those of no flow


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.turns("two methods", "cosine", "OU")
@given(a=st.floats(0.05, 4), b=st.floats(0.05, 4), turn=st.floats(-1, 1))
def test_gaussian_data_are_exact_before_training(name: str, a: float, b: float, turn: float) -> None:
    Q = torch.tensor([[1.0, turn], [-turn, 1.0]], dtype=d64) / (1 + turn**2) ** 0.5
    law = gaussian(Q @ torch.tensor([a, b], dtype=d64).diag() @ Q.T)
    model = a_map(SCALAR[name](), law, size=0.0)
    sde = model.sde
    t, s = sde.t_max, 0.0
    last, first = sde.diffused(law, t), sde.diffused(law, s)
    x = last.sample(5, torch.Generator().manual_seed(0))
    for jump, start, here, there in (
        (model.jump(x, t, s), x, last, first),
        (model.jump(model.jump(x, t, s), s, t), x, last, last),
    ):
        found = whiten(there, jump)  # the flow of a Gaussian keeps what is left of a state without mean and covariance
        assert (found - whiten(here, start)).abs().max() < 1e-7
    assert torch.allclose(model.score(x, t), last.score(x), atol=1e-9, rtol=1e-9)


def whiten(law: GaussianMixture, x: Tensor) -> Tensor:
    """Coordinates in which a Gaussian law is standard normal, by the symmetric root of its covariance."""
    mean, C = law.moments()
    values, Q = torch.linalg.eigh(C)
    return (x - mean) @ Q @ (values**-0.5).diag() @ Q.T


class OneWay(FlowMap):
    """A map that goes nowhere from the data to noise."""

    def jump(self, x: Tensor, t: Any, s: Any, **cond: Any) -> Tensor:
        return x if float(torch.as_tensor(s)) > float(torch.as_tensor(t)) else super().jump(x, t, s, **cond)


def test_a_map_both_ways_is_held_to_coming_back() -> None:
    model = a_map(sdegen.VP(), gaussian(torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=d64)), size=0.0)
    assert not testing.check_flow_map(model, both_ways=True, n=8, tolerance=1e-3).failures
    model.__class__ = OneWay
    for both_ways in (True, False):
        failures = testing.check_flow_map(model, both_ways=both_ways, n=8, tolerance=1e-3).failures
        assert ("comes_back" in failures) == both_ways


class DriftsAway(FlowMap):
    """A way to the same time goes somewhere."""

    def jump(self, x: Tensor, t: Any, s: Any, **cond: Any) -> Tensor:
        return super().jump(x, t, s, **cond) + 1e-3


class MixesRows(FlowMap):
    """The mean of the batch has a say."""

    def jump(self, x: Tensor, t: Any, s: Any, **cond: Any) -> Tensor:
        return super().jump(x, t, s, **cond) + 1e-3 * (x - x.mean(0))


class AnswersOtherwise(FlowMap):
    """What samplers ask is answered with another velocity."""

    def answer(self, x: Tensor, question: Any, /, **cond: Any) -> Tensor:
        return 1.01 * super().answer(x, question, **cond)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (DriftsAway, "a_way_to_the_same_time_goes_nowhere"),
        (MixesRows, "rows_of_a_jump_do_not_mix"),
        (AnswersOtherwise, "jumps_take_the_way_of_the_map"),
    ],
)
def test_wrong_maps_are_named(kind: type[FlowMap], law: str) -> None:
    model = a_map(sdegen.VP(), gaussian(torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=d64)), size=0.0)
    model.__class__ = kind
    (case,) = [case for case in testing.flow_map_cases(model) if case.id == law]
    with pytest.raises(testing.report.Violation):
        case.values[0]()


def test_ends_that_differ_are_told_with_how_far_apart_most_are() -> None:
    """Half of the ends are moved by one standard deviation of the data in each of two coordinates, the others by none."""
    model = a_map(sdegen.VP(), gaussian(torch.eye(2, dtype=d64)), size=0.0)
    case = testing.flow_maps.MapCase(model, 4, 0.1, {})
    x, s = case.x_T, case.time(0.0)
    moved = x + torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=d64)
    with pytest.raises(
        testing.report.Violation, match=r"ends differ by 0.707, .* 0.1 allowed \(median 0.707, .* 1.41\)"
    ):
        case.meet("ends", moved, x, s)


def test_one_point_is_exact_before_training() -> None:
    point = torch.tensor([[2.0, -3.0]], dtype=d64)
    model = a_map(sdegen.VP(), sdegen.Empirical(point.repeat(3, 1)), size=0.0)
    x = torch.randn(5, 2, dtype=d64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.sde.project(model.jump(x, 1.0, 0.0)), point.expand(5, 2), atol=1e-9)


@pytest.mark.parametrize("reference", [None, samplers.Normal(0.3), samplers.PointMass()])
def test_the_lagrangian_loss_is_the_derivative_by_the_end_less_the_velocity(reference: Any) -> None:
    model = a_map(sdegen.VP(), reference=reference)
    sde, teacher = model.sde, sdegen.Exact(model.sde, sdegen.data.random_mixture(2, seed=1))
    t, s = torch.tensor([0.9, 0.7, 0.3], dtype=d64), torch.tensor([0.2, 0.5, 0.1], dtype=d64)
    x = sde.diffused(sdegen.data.random_mixture(2, seed=1), 0.5).sample(3, torch.Generator().manual_seed(0))
    found = training.Lagrangian(teacher).misses(Way(model, teacher, x, sde.marginal(t), sde.marginal(s), {}))
    h = 1e-5
    early, late = (sde.time_of_angle(sde.angle_at(s) + k * h) for k in (-1, 1))
    slope = (
        sde.marginal(late).normalise(model.jump(x, t, late)) - sde.marginal(early).normalise(model.jump(x, t, early))
    ) / (2 * h)
    wanted = slope - teacher.velocity_at(model.jump(x, t, s), sde.marginal(s))
    # In the axes of the reference, which are turned.
    assert torch.allclose(found.square().sum(1), wanted.square().sum(1), rtol=1e-5)


@pytest.mark.parametrize("held", [True, False])
def test_the_eulerian_loss_is_the_derivative_of_the_end_as_its_beginning_follows_the_flow(held: bool) -> None:
    """That of the table: its size is the derivative's, and its gradient, where it is held, that of the mean velocity."""
    law = sdegen.data.random_mixture(2, seed=1)
    model = a_map(sdegen.VP(), law)
    sde, exact = model.sde, sdegen.Exact(model.sde, law)
    t, s = torch.tensor([0.9, 0.7, 0.3], dtype=d64), torch.tensor([0.2, 0.5, 0.1], dtype=d64)
    x = sde.diffused(law, 0.5).sample(3, torch.Generator().manual_seed(0))
    way = Way(model, exact, x, sde.marginal(t), sde.marginal(s), {})
    found = map_objectives.Eulerian(exact, held).misses(way)
    h, v = 1e-5, exact.velocity_at(x, way.at)
    late, early = (model.jump(x + k * h * v, sde.time_of_angle(sde.angle_at(t) + k * h), s) for k in (1, -1))
    slope = way.to.normalise(late - early) / (2 * h)
    torch.testing.assert_close(found.square().sum(1), slope.square().sum(1), rtol=1e-5, atol=1e-10)
    weight = model.net.last.bias
    moved = torch.autograd.grad(found.sum(), weight, retain_graph=True)[0]
    mean = model.pieces().enter(model.mean_velocity(x, way.at, model.level(s)))
    alone = torch.autograd.grad(mean.sum(), weight)[0]
    assert torch.allclose(moved, alone) == held


@pytest.mark.parametrize(
    "loss",
    [training.Lagrangian, training.Semigroup, map_objectives.Eulerian, map_objectives.Moving],
    ids=lambda k: k.__name__,
)
def test_losses_vanish_on_the_flow_and_nowhere_else(loss: type[training.MapLoss]) -> None:
    law = gaussian(torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=d64))
    exact, other = a_map(sdegen.VP(), law, size=0.0), a_map(sdegen.VP(), law, size=0.5)
    teacher = sdegen.Exact(exact.sde, law)
    data = law.sample(64, torch.Generator().manual_seed(0))
    values = [loss(teacher, diagonal=0.0)(m, data, generator=torch.Generator().manual_seed(1)) for m in (exact, other)]
    assert values[0].max() < 1e-12
    assert values[1].mean() > 1e-3
    with_data = [loss(teacher)(m, data, generator=torch.Generator().manual_seed(1)).mean() for m in (exact, other)]
    assert with_data[0] < with_data[1]


@pytest.mark.parametrize("loss", [training.Lagrangian, training.Semigroup])
def test_a_teacher_is_heard(loss: type[training.MapLoss]) -> None:
    model, law = a_map(sdegen.VP()), sdegen.data.random_mixture(2, seed=1)
    data = law.sample(32, torch.Generator().manual_seed(0))
    values = [
        loss(sdegen.Exact(model.sde, taught), diagonal=0.0)(
            model, data, generator=torch.Generator().manual_seed(1)
        ).mean()
        for taught in (law, sdegen.data.random_mixture(2, seed=2))
    ]
    assert values[0] != values[1]
    other = sdegen.VP(beta_max=5.0).in_units(model.sde.units)
    for wrong in (other, sdegen.VE().in_units(model.sde.units)):
        with pytest.raises(ValueError, match=r"^the teacher has a different process"):
            loss(sdegen.Exact(wrong, law))(model, data)


def test_the_derivative_by_the_end_is_taken_in_half_precision_too() -> None:
    """Of a U-Net, whose normalisations are the one part with a rule of its own there."""
    torch.manual_seed(0)
    net, x = nets.UNet(1, (32,), conditions={"until": nets.SecondLevel()}), torch.randn(3, 1, 8, 8)
    for p in net.parameters():
        nn.init.normal_(p, std=0.05)
    slopes = []
    for half in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half), plain_attention():
            found = value_and_slope(lambda s: net(x, torch.zeros(3), until=s), torch.zeros(3), torch.ones(3))[1].float()
        slopes.append(found)
        found.square().sum().backward()
    assert (slopes[1] - slopes[0]).norm() < 0.05 * slopes[0].norm()


def test_the_process_of_a_teacher_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, agree = [], base._agree
    monkeypatch.setattr(base, "_agree", lambda *pair: asked.append(pair) or agree(*pair))
    monkeypatch.setattr(recall, "_kept", deque(maxlen=16))
    law = sdegen.data.random_mixture(2, seed=1)
    model, data = a_map(sdegen.VP()), law.sample(4, torch.Generator().manual_seed(0))
    loss = training.Semigroup(sdegen.Exact(model.sde, law))
    for _ in range(3):
        loss(model, data)
    assert len(asked) == 1


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.turns("by coordinate", "CLD", "cosine", "two methods", "OU", "VE", "EDM", "rectified")
def test_an_exact_map_holds_to_all_laws_and_comes_back(name: str) -> None:
    """Of Gaussian data; without scalar coefficients of standard normal ones. CLD is followed in its velocities too."""
    law = gaussian(torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=d64) if name in SCALAR else torch.eye(2, dtype=d64))
    report = testing.check_flow_map(a_map(PROCESSES[name](), law, size=0.0), n=4, tolerance=1e-6, both_ways=True)
    assert report.passed, report


def test_the_second_level_is_told_like_the_first() -> None:
    """To a network of a user's own, in one dtype and in the shapes that are documented."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor, level: Tensor, until: Tensor | None = None) -> Tensor:
            assert until is not None and until.ndim < 2 and until.dtype == level.dtype
            return self.layer(torch.cat([x, level.expand(len(x))[:, None], until.expand(len(x))[:, None]], 1))

    model = FlowMap(Own(), sdegen.VP())
    data = torch.randn(32, 2)
    sdegen.fit(model, data, steps=2, batch_size=8, seed=0, progress=False)
    assert model.score(data, 0.5).isfinite().all()
    assert sdegen.sample(model, 3, sampler=Jumps(2), seed=0).isfinite().all()
    assert model.jump(data, 0.5, torch.linspace(0, 0.4, 32)).isfinite().all()


def test_a_run_that_does_not_reach_the_data_is_refused() -> None:
    model = a_map(sdegen.VP())
    with pytest.raises(
        ValueError, match=r"^the grid of Jumps ends at t = .*, and its last step is to be one to the data"
    ):
        sdegen.sample(model, 3, sampler=Jumps(2, grid=sdegen.grids.Angle(end=0.3)))
    x = sdegen.sample(model, 3, sampler=Jumps(2, grid=sdegen.grids.Angle(end=0.3)), final="sample", seed=0)
    assert x.isfinite().all()
    with pytest.raises(TypeError, match=r"^Jumps takes few steps in turn, which parallel cannot guess"):
        sdegen.sample(model, 3, sampler=Jumps(2), parallel=2)


def test_a_map_begins_as_its_teacher_whatever_it_goes_to() -> None:
    torch.manual_seed(0)
    ring = sdegen.data.gaussian_ring()
    teacher = sdegen.Model(nets.MLP(2, width=16, depth=1), sdegen.VP())
    sdegen.fit(teacher, ring, steps=5, batch_size=32, seed=0, progress=False)
    teacher.learned["label"] = (True, False)
    model = FlowMap.of(teacher)
    assert model.learned == teacher.learned and model.learned is not teacher.learned
    x, at = torch.randn(6, 2), model.sde.marginal(torch.tensor(0.6, dtype=d64))
    assert model.sde.units.agree(teacher.sde.units)
    for until in (model.level(torch.tensor([0.1])), model.level(torch.linspace(0, 1, 6))):
        assert torch.equal(model.mean_velocity(x, at, until), teacher.velocity_at(x, at))


def test_maps_are_saved_with_what_they_follow(tmp_path: Path) -> None:
    model = a_map(sdegen.VP(), reference=samplers.Normal(0.5))
    sdegen.save(model, tmp_path / "map.safetensors")
    other = sdegen.load(tmp_path / "map.safetensors")
    x = torch.randn(3, 2, dtype=d64)
    assert torch.equal(other.jump(x, 0.9, 0.1), model.jump(x, 0.9, 0.1))


def test_the_law_of_jumps_follows_from_their_derivatives() -> None:
    model = a_map(sdegen.VP())
    x = torch.randn(4, 2, dtype=d64)
    ends, log_det = model.jump_with_log_det(x, 1.0, 0.1)
    assert torch.equal(ends, model.jump(x, 1.0, 0.1))
    for i in range(len(x)):
        J = torch.autograd.functional.jacobian(lambda v: model.jump(v[None], 1.0, 0.1)[0], x[i])
        assert torch.allclose(J.det().abs().log(), log_det[i])


def test_fresh_noise_between_jumps_keeps_the_law() -> None:
    law = gaussian(torch.tensor([[2.0, 1.2], [1.2, 1.0]], dtype=d64))
    model = a_map(sdegen.VP(), law, size=0.0)
    for back in (0.0, 0.4, 1.0):
        drawn = sdegen.sample(model, 20_000, sampler=Jumps(4, back=back), seed=0)
        z = whiten(law, drawn)
        assert (z.mT.cov() - torch.eye(2)).abs().max() < 0.04
        assert z.mean(0).abs().max() < 0.03


class Quantiles(nn.Module):
    """The flow of a mixture on the line, which keeps every state's rank, as a network of two times on `Rectified`."""

    def __init__(self, law: GaussianMixture) -> None:
        super().__init__()
        self.law = law

    def ranks(self, x: Tensor, t: Tensor) -> Tensor:
        """The share of the law at `t` below states ``(B,)``."""
        mean = (1 - t) * self.law.means[:, 0]
        std = ((1 - t).square() * self.law.covariances[:, 0, 0] + t.square()).sqrt()
        return (torch.special.ndtr((x[:, None] - mean) / std) * self.law.weights).sum(1)

    def forward(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The mean velocity from `t` to `s`."""
        rank, (low, high) = self.ranks(x[:, 0], t), (torch.full_like(x[:, 0], v) for v in (-20.0, 20.0))
        for _ in range(60):
            middle = 0.5 * (low + high)
            below = self.ranks(middle, s) < rank
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (x - low[:, None]) / (t - s)[:, None]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("back", [0.3, 1.0])
def test_fresh_noise_between_jumps_keeps_a_law_of_two_modes(steps: int, back: float) -> None:
    """Of the true map: ranks of the samples in the law are uniform, and new, since those of the beginning are forgotten."""
    weights, means, covariances = (
        torch.tensor(v, dtype=d64) for v in ([0.3, 0.7], [[-2.0], [1.5]], [[[0.04]], [[0.3]]])
    )
    law = GaussianMixture(weights, means, covariances)
    net, n = Quantiles(law), 20_000
    model = FlowMap.from_network(net, moments=law.moments())
    x_T = torch.randn(n, 1, dtype=d64, generator=torch.Generator().manual_seed(0))
    drawn = sdegen.sample(model, x_T=x_T, sampler=Jumps(steps, back=back), seed=1)
    ranks = net.ranks(drawn[:, 0], torch.zeros(1, dtype=d64))
    gaps = ranks.sort().values - (torch.arange(n, dtype=d64) + 0.5) / n
    assert gaps.abs().max() < 1.95 / n**0.5  # Kolmogorov's distance, one in a thousand
    kept = torch.corrcoef(torch.stack([ranks, torch.special.ndtr(x_T[:, 0])]))[0, 1]
    assert kept < 0.9
    plain = sdegen.sample(model, x_T=x_T, sampler=Jumps(steps), seed=1)
    assert (net.ranks(plain[:, 0], torch.zeros(1, dtype=d64)) - torch.special.ndtr(x_T[:, 0])).abs().max() < 1e-6


@pytest.mark.parametrize("back", [0.0, 0.5])
def test_samples_do_not_depend_on_the_batch(back: float) -> None:
    model, sampler = a_map(sdegen.VP(), size=0.3), Jumps(3, back=back)
    x = sdegen.sample(model, 7, sampler=sampler, seed=0)
    assert torch.allclose(sdegen.sample(model, 7, sampler=sampler, seed=0, batch=3), x)
    spread = sdegen.sample(model, x_T=torch.zeros(7, 2, dtype=d64), sampler=sampler, seed=1).std(0).max()
    assert spread > 0.1 if back else spread < 1e-12  # each sample has noise of its own, or none


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_jumps_in_other_dtypes_differ_by_rounding(dtype: torch.dtype, allowed: float) -> None:
    x_T = torch.randn(9, 2, generator=torch.Generator().manual_seed(0)).bfloat16().half()
    exact = sdegen.sample(a_map(sdegen.VP(), size=0.3), x_T=x_T.double(), sampler=Jumps(3))
    found = sdegen.sample(a_map(sdegen.VP(), size=0.3).to(dtype), x_T=x_T.to(dtype), sampler=Jumps(3))
    assert found.dtype == dtype
    assert (found.double() - exact).abs().median() < allowed * exact.std()


def test_conditions_reach_the_network() -> None:
    torch.manual_seed(0)
    net = nets.MLP(2, width=16, depth=1, conditions={"until": nets.SecondLevel(), "theta": nets.Vector(3, dropout=0.5)})
    nn.init.normal_(net.last.weight)
    model = FlowMap(net, sdegen.VP())
    law = sdegen.data.gaussian_ring()
    data, theta = law.sample(64, torch.Generator().manual_seed(0)).float(), torch.randn(64, 3)
    sdegen.fit(model, (data, {"theta": theta}), steps=4, batch_size=16, seed=0, progress=False)
    one, other = (sdegen.sample(model, 3, sampler=Jumps(2), theta=theta[i], seed=0) for i in range(2))
    assert not torch.allclose(one, other)
    assert "until" not in model.conditions.names
    with pytest.raises(TypeError, match=r"no argument 'until'"):
        sdegen.sample(model, 3, sampler=Jumps(2), until=0.1)


def test_what_is_no_map_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^MLP is told of one time, .* conditions=\{\"until\": nets.SecondLevel\(\)\}"):
        FlowMap(nets.MLP(2), sdegen.VP())
    model, ring = a_map(sdegen.VP()), sdegen.data.gaussian_ring()
    with pytest.raises(TypeError, match=r"^Exact is no flow map"):
        sdegen.sample(sdegen.Exact(sdegen.VP(), ring), 3, sampler=Jumps(2))
    with pytest.raises(TypeError, match=r"^Model is no FlowMap"):
        training.Lagrangian()(sdegen.Model(nets.MLP(2), sdegen.VP()), torch.randn(4, 2))
    with pytest.raises(ValueError, match=r"^diagonal = 0 without a teacher"):
        training.Lagrangian(diagonal=0.0)
    with pytest.raises(ValueError, match=r"^power = 1.5"):
        training.Lagrangian(power=1.5)
    with pytest.raises(ValueError, match=r"^the teacher was made for data in units of scale"):
        training.Lagrangian(sdegen.Exact(sdegen.VP(), ring))(model, torch.randn(4, 2, dtype=d64))
    with pytest.raises(TypeError, match=r"^CLD is not scalar, .* take Semigroup"):
        training.Lagrangian()(a_map(sdegen.CLD()), torch.randn(4, 2, dtype=d64))
    with pytest.raises(ValueError, match=r"outside"):
        model.jump(torch.zeros(2, 2, dtype=d64), 0.5, 1.5)
    with pytest.raises(ValueError, match=r"^s has 3 times for 2 states"):
        model.jump(torch.zeros(2, 2, dtype=d64), 0.5, torch.tensor([0.1, 0.2, 0.3]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alone", "taught", "by halves"])
def test_training_brings_the_laws(kind: str) -> None:
    """Two modes in one dimension: one jump ends where the flow does, and samples are those of the law."""
    law = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.1, 0.1]))
    torch.manual_seed(0)
    model = FlowMap(nets.MLP(1, width=32, depth=2, conditions={"until": nets.SecondLevel()}), sdegen.VP())
    loss = training.Semigroup() if kind == "by halves" else None
    if kind == "taught":
        model.measure(law.moments())
        model.moments = law.moments()
        loss = training.Lagrangian(sdegen.Exact(model.sde, law), diagonal=0.1)
    sdegen.fit(model, law, steps=600, batch_size=256, lr=4e-3, seed=0, loss=loss, progress=False)
    for steps in (1, 4):
        drawn = sdegen.sample(model, 4000, sampler=Jumps(steps), seed=1).double()
        assert sdegen.metrics.knn_kl(drawn, law.sample(4000, torch.Generator().manual_seed(1))).value < 0.1
    report = testing.check_flow_map(model, tolerance=0.2)
    assert report.passed, report
