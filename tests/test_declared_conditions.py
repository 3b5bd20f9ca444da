"""Declared conditions: labels, vectors, sets and channels in every network, their rows, their nulls, and what is refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_conditions import RUNS
from torch import Tensor, nn

import sdegen
from sdegen import VP, Model, fit, guidance, nets, sample
from sdegen.data import Batch
from sdegen.guidance import measurements
from sdegen.models import Conditioned
from sdegen.models.far import warn_of_far
from sdegen.nets import Fields, Label, Set, Vector
from sdegen.nets.conditioning import Conditioning
from sdegen.nets.entries import ConditionUnits, SetEntry, VectorEntry
from sdegen.training.dropping import Drop

N = 5
RING = sdegen.data.gaussian_ring()
SMALL: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "MLP": (lambda **c: nets.MLP(2, width=8, depth=1, **c), (2,)),
    "HyperMLP": (lambda **c: nets.HyperMLP(2, width=8, depth=1, rank=2, **c), (2,)),
    "CoordinateTransformer": (lambda **c: nets.CoordinateTransformer(2, width=8, depth=1, heads=2, **c), (2,)),
    "UNet": (lambda **c: nets.UNet(1, (8, 8), **c), (1, 5, 6)),
    "DiT": (lambda **c: nets.DiT(1, width=8, depth=1, **c), (1, 4, 6)),
}
GAP = float("nan")


def awake(net: nn.Module) -> nn.Module:
    """The network with weights that all have a say, in float64."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator)
    return net.double().eval()


def values(kind: str, shape: tuple[int, ...], n: int = N) -> tuple[Any, Tensor]:
    """A condition that may be dropped, for states of a shape, and a value for each of `n` data."""
    draws, grid = torch.Generator().manual_seed(1), (shape[1:] if len(shape) > 1 else shape)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(n, *sizes, dtype=torch.float64, generator=draws)

    if kind == "label":
        return Label(3, dropout=0.1), torch.arange(n) % 3
    if kind == "vector":
        return Vector(3, dropout=0.1), normal(3)
    if kind == "gaps":
        return Vector(3, gaps=True, dropout=0.1), normal(3).masked_fill(normal(3) > 0.5, GAP)
    if kind == "joined":
        places = math.prod(grid)
        return Vector(places, gaps=True, dropout=0.1, joined=len(grid) == 1), normal(places).masked_fill(
            normal(places) > 0.5, GAP
        )
    if kind == "set":
        known = normal(4, 2)
        known[0, 2:], known[1, :1] = GAP, GAP
        return Set(2, dropout=0.1), known
    if kind == "channels":
        return Fields(2, len(grid), dropout=0.1), normal(2, *grid)
    return Fields(1, len(grid), gaps=True, dropout=0.1), normal(1, *grid).masked_fill(normal(1, *grid) > 0.3, GAP)


KINDS = ("label", "vector", "gaps", "joined", "set", "channels", "known")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SMALL)
def test_a_condition_reaches_its_own_row_and_none_is_its_null(name: str, kind: str) -> None:
    make, shape = SMALL[name]
    declared, value = values(kind, shape)
    net = awake(make(conditions={"c": declared}))
    x, level = torch.randn(N, *shape, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    together = net(x, level, c=value)
    for i in range(N):
        torch.testing.assert_close(net(x[i : i + 1], level, c=value[i])[0], together[i])  # one for all
        torch.testing.assert_close(net(x[i : i + 1], level, c=value[i : i + 1])[0], together[i])
    assert ((together - net(x, level, c=value.roll(1, 0))).abs().flatten(1).amax(1) > 1e-6).all()
    null = torch.full_like(value, declared.null)
    torch.testing.assert_close(net(x, level), net(x, level, c=null))
    some = torch.where(torch.arange(N).reshape(-1, *[1] * (value.ndim - 1)) < 2, null, value)
    torch.testing.assert_close(net(x, level, c=some)[:2], net(x, level)[:2])
    torch.testing.assert_close(net(x, level, c=some)[2:], together[2:])
    assert ((together - net(x, level)).abs().flatten(1).amax(1) > 1e-6).all()


@pytest.mark.parametrize("kind", ["vector", "set", "channels"])
@pytest.mark.parametrize("name", SMALL)
def test_forward_derivatives_go_through_every_condition(name: str, kind: str) -> None:
    make, shape = SMALL[name]
    declared, value = values(kind, shape)
    net = awake(make(conditions={"c": declared}))
    x, v = torch.randn(2, N, *shape, dtype=torch.float64)
    level = torch.zeros(1, dtype=torch.float64)
    _, slope = torch.func.jvp(lambda u: net(u, level, c=value), (x,), (v,))
    h = 1e-6
    numeric = (net(x + h * v, level, c=value) - net(x - h * v, level, c=value)) / (2 * h)
    torch.testing.assert_close(slope, numeric, rtol=1e-5, atol=1e-6)


def test_several_conditions_come_together_in_every_network() -> None:
    for make, shape in SMALL.values():
        declared = {kind: values(kind, shape) for kind in KINDS}
        net = awake(make(conditions={kind: one for kind, (one, _) in declared.items()}))
        x, level = torch.randn(N, *shape, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        cond = {kind: value for kind, (_, value) in declared.items()}
        whole = net(x, level, **cond)
        for kind in KINDS:  # each has a say of its own
            less = {k: v for k, v in cond.items() if k != kind}
            assert ((net(x, level, **less) - whole).abs().flatten(1).amax(1) > 1e-7).all(), kind


def test_classes_are_the_condition_label() -> None:
    for name in ("MLP", "UNet", "DiT"):
        make, shape = SMALL[name]
        x, level, label = torch.randn(3, *shape, dtype=torch.float64), torch.zeros(1).double(), torch.tensor([0, -1, 2])
        one, other = awake(make(classes=3)), awake(make(conditions={"label": Label(3, dropout=None)}))
        assert torch.equal(one(x, level, label=label), other(x, level, label=label))


def test_a_vector_that_is_joined_is_seen_beside_the_state_each_number_in_its_own_units() -> None:
    value = torch.tensor([[0.0, 5.0, 100.0], [2.0, 5.5, GAP], [1.0, 6.0, 300.0]])
    entry = VectorEntry(3, True, 8, joined=True)
    entry.units.measure([value])
    x = torch.randn(3, 1, 3)
    _, states = entry(value, torch.zeros(1, 8), x)
    assert torch.equal(states[:, 0], x[:, 0]) and torch.equal(states[:, 2], (~value.isnan()).float())
    mean, std = torch.tensor([1.0, 5.5, 200.0]), torch.tensor([(2 / 3) ** 0.5, (1 / 6) ** 0.5, 100.0])
    torch.testing.assert_close(states[:, 1], ((value - mean) / std).nan_to_num())
    assert not entry(None, torch.zeros(1, 8), x)[1][:, 1:].any()


def test_a_vector_of_which_one_number_is_known_says_which_and_what() -> None:
    entry = awake(VectorEntry(3, True, 8))
    alone = torch.full((6, 3), GAP, dtype=torch.float64)
    alone[:3].diagonal().fill_(1.0)
    alone[3:].diagonal().fill_(2.0)
    found = torch.cat([entry(v, torch.zeros(1, 8), torch.zeros(1, 1))[0] for v in (alone, None)])
    apart = torch.cdist(found, found) + torch.eye(7)
    assert apart.min() > 1e-3, apart  # from each other, and from nothing known


# --- sets ------------------------------------------------------------------------------------------------------------


def test_the_number_of_elements_counts_by_its_logarithm() -> None:
    entry = awake(SetEntry(2, 8))
    one, e = torch.tensor([[0.3, -0.2]], dtype=torch.float64), torch.zeros(1, 8, dtype=torch.float64)
    few, many, most = (entry(one.expand(1, n, 2), e, torch.zeros(1, 1))[0] for n in (10, 1000, 100_000))
    assert 0.2 < (most - many).norm() / (many - few).norm() < 5


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=4), room=st.integers(4, 6), seed=st.integers(0, 99))
def test_sets_have_no_order_and_places_without_an_element_no_say(sizes: list[int], room: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    entry = awake(SetEntry(2, 8))
    elements = [torch.randn(k, 2, dtype=torch.float64, generator=draws) for k in sizes]
    ragged = torch.full((len(sizes), room, 2), GAP, dtype=torch.float64)
    for row, own in zip(ragged, elements):
        row[torch.randperm(room, generator=draws)[: len(own)]] = own
    e, x = torch.zeros(1, 8, dtype=torch.float64), torch.zeros(len(sizes), 1, 2)
    found = entry(ragged, e, x)[0]
    for i, own in enumerate(elements):
        torch.testing.assert_close(found[i : i + 1], entry(own[None], e, x)[0])


# --- rows ------------------------------------------------------------------------------------------------------------


def conditioned_model(**kinds: Any) -> Model:
    model = Model(awake(nets.MLP(2, width=8, depth=1, conditions=kinds)), VP()).double()
    model.moments = RING.moments()
    return model


@pytest.mark.parametrize("run", RUNS)
def test_what_is_given_for_all_is_never_cut_however_long_it_is(run: str) -> None:
    """A vector of as many numbers as the run has samples, or a part of it, is one vector."""
    for size in (N, 3) if run == "sample" else (N,):
        model = conditioned_model(theta=Vector(size), seen=Set(2, dropout=0.1))
        theta, seen = torch.linspace(-1, 1, size).double(), torch.linspace(0, 1, 2 * size).double().reshape(size, 2)
        each = {"theta": theta.expand(N, size), "seen": seen.expand(N, size, 2)}
        shared = {"theta": theta, "seen": seen}
        torch.testing.assert_close(RUNS[run](model, shared, 3), RUNS[run](model, each, None), rtol=1e-7, atol=1e-7)
        fixed = [RUNS[run](Conditioned(model, **cond), {}, batch) for cond, batch in ((shared, 3), (each, None))]
        torch.testing.assert_close(*fixed, rtol=1e-7, atol=1e-7)


def test_particles_share_a_vector_as_long_as_they_are_many() -> None:
    SEEN = measurements.Mask(torch.tensor([True, False]), std=0.5)
    model = guidance.PiGDM(conditioned_model(theta=Vector(N)), SEEN)
    y, theta = torch.tensor([0.3]).double(), torch.linspace(-1, 1, N).double()
    assert guidance.twisted_smc(model, N, steps=2, seed=0, y=y, theta=theta).x.shape == (N, 2)
    with pytest.raises(ValueError, match="theta has a row for each particle; give one theta without rows"):
        guidance.twisted_smc(model, N, steps=2, seed=0, y=y, theta=theta.expand(N, N))


def test_accumulated_parts_have_the_gradient_of_the_whole() -> None:
    found = []
    for parts in (1, 2):
        model = conditioned_model(theta=Vector(4, dropout=0.3), label=Label(3))
        theta, x = torch.linspace(-1, 1, 16).double().reshape(4, 4), RING.sample(4, torch.Generator().manual_seed(0))
        data = (x, {"theta": theta, "label": torch.tensor([0, 1, 2, 0])})
        found.append(fit(model, data, steps=2, batch_size=4, accumulate=parts, seed=0).grad_norm)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


class Own(nn.Module):
    """A network of the user's that adds a vector to the state, and may say that it is one."""

    def __init__(self, says: bool) -> None:
        super().__init__()
        self.line = nn.Linear(2, 2)
        if says:
            self.declared = {"shift": Vector(2)}

    def forward(self, x: Tensor, level: Tensor, shift: Tensor) -> Tensor:
        return self.line(x + shift)


def test_a_network_of_the_user_may_say_what_a_row_is() -> None:
    """Of one that says nothing, a tensor as long as the run is cut."""
    shift, x = torch.tensor([1.0, -1.0]), torch.zeros(2, 2)
    for says in (True, False):
        model = Model(Own(says), VP())
        assert model.with_rows({"shift": shift}, x, 2) == ([] if says else ["shift"])
        assert model.with_rows({"shift": shift.expand(2, 2)}, x, 2) == ["shift"]
    model = Model(Own(True), VP())
    model.moments = RING.moments()
    one, whole = (sample(model, 2, steps=2, seed=0, batch=batch, shift=shift) for batch in (1, None))
    torch.testing.assert_close(one, whole)
    with pytest.raises(ValueError, match=r"shift has shape \(3, 2\); give vectors \(2,\), .* one for each of 2\."):
        sample(model, 2, steps=2, seed=0, batch=1, shift=torch.zeros(3, 2))


# --- dropping --------------------------------------------------------------------------------------------------------


def test_each_condition_is_lost_on_its_own() -> None:
    """With its own probability, independently of the others, and none that is never dropped."""
    n = 20_000
    kinds = {"a": Label(3, dropout=0.2), "b": Vector(2, dropout=0.5), "c": Set(1), "d": Vector(1, dropout=None)}
    cond = {"a": torch.zeros(n).long(), "b": torch.ones(n, 2), "c": torch.ones(n, 1, 1), "d": torch.ones(n, 1).long()}
    after = Drop(0.1, None, cond, kinds)(Batch(torch.zeros(n, 1), cond), torch.Generator().manual_seed(0)).cond
    a, b, c, d = after["a"] == -1, after["b"].isnan().all(1), after["c"].isnan().any((1, 2)), after["d"].isnan()[:, 0]
    assert torch.equal(after["b"].isnan().any(1), b) and not c.any()
    p_a, p_b = 1 - 0.9 * 0.8, 1 - 0.9 * 0.5  # together, or on its own
    for lost, p in ((a, p_a), (b, p_b), (d, 0.1), (a & b, 0.1 + 0.9 * 0.2 * 0.5), (a & d, 0.1), (b & d, 0.1)):
        assert abs(lost.double().mean() - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_nothing_is_drawn_where_nothing_is_lost() -> None:
    assert not Drop(0.0, None, {"a": torch.zeros(3)}, {"a": Vector(1)}).chances


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-4, 1e4), shift=st.floats(-1e3, 1e3))
def test_conditions_enter_in_units_of_their_spread(scale: float, shift: float) -> None:
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(50, 2, 3, 4, dtype=torch.float64, generator=draws)
    rows[rows > 1] = GAP
    found = []
    for value in (rows, scale * (shift + rows)):
        units = ConditionUnits(2, -3).double()
        units.measure([value[:20], value[20:]])
        known, there = units(value, value)
        assert torch.equal(there, (~value.isnan()).double())
        assert known.sum((0, 2, 3)).abs().max() < 1e-6
        torch.testing.assert_close(known.square().sum((0, 2, 3)) / there.sum((0, 2, 3)), torch.ones(2).double())
        units.measure([value * 3])  # they are known
        found.append(units(value, value)[0])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_units_go_where_the_network_goes_in_float32_at_least() -> None:
    mean = torch.tensor([1000.001, -3.0], dtype=torch.float64)
    for move, dtype in (("double", torch.float64), ("half", torch.float32), ("bfloat16", torch.float32)):
        units = ConditionUnits(2, -1)
        units.measure([torch.stack([mean - 0.01, mean + 0.01])])
        kept = units.mean.clone()
        moved = getattr(units, move)()
        assert moved is units and units.mean.dtype == units.rest.dtype == units.std.dtype == dtype
        assert torch.equal(units.mean, kept.to(dtype)) and units.measured
    assert {v.device.type for v in ConditionUnits(2, -1).to("meta").buffers()} == {"meta"}


SECONDS = 1_700_000_000  # since 1970, of which float32 holds every 128th


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@settings(max_examples=6, deadline=None)
@given(scale=st.sampled_from([1, 2**4, 2**10]), shift=st.sampled_from([0, 10**6, -SECONDS, SECONDS]))
def test_numbers_far_from_zero_keep_their_differences(dtype: torch.dtype, scale: int, shift: int) -> None:
    """In a network of float32: for tensors, lists and arrays, and after a move to another precision and back."""
    rows = torch.randint(-9, 10, (30, 2), generator=torch.Generator().manual_seed(scale)).to(dtype)
    x, level = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.zeros(1)
    found = []
    for far in (rows, scale * rows + shift):
        torch.manual_seed(0)
        net = nets.MLP(2, width=8, depth=1, conditions={"c": Vector(2, dropout=0.1)})
        awake(net).float()
        units = next(part for part in net.modules() if isinstance(part, ConditionUnits))
        units.measure([far[:20], far[20:]])
        for value in (far[:5], far[:5].tolist(), far[:5].numpy()):
            found.append(net(x, level, c=value))
        before = units(far.double(), x)[0]
        net.bfloat16().float()
        torch.testing.assert_close(units(far.double(), x)[0], before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_numbers_that_are_equal_have_no_spread_and_others_have(dtype: torch.dtype) -> None:
    rounding = torch.finfo(dtype).eps
    for spread, expected in ((0.0, 1.0), (8 * rounding, 8 * rounding)):
        units = ConditionUnits(1, -1).double()
        units.measure([torch.tensor([[1.0 - spread], [1.0 + spread]], dtype=dtype)])
        torch.testing.assert_close(units.std.item(), expected)


def test_whole_numbers_keep_their_digits_where_some_are_lost() -> None:
    batch = Batch(torch.zeros(50, 2), {"c": SECONDS + torch.arange(50)[:, None]})
    dropped = Drop(0.0, None, batch.cond, {"c": Vector(1, dropout=0.5)})(batch, torch.Generator().manual_seed(0)).cond[
        "c"
    ]
    kept = ~dropped.isnan()
    assert 0 < kept.sum() < 50 and torch.equal(dropped[kept], batch.cond["c"].double()[kept])


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_conditioned_model_comes_back_from_its_file(tmp_path: Path) -> None:
    for make, shape in SMALL.values():
        declared = {kind: values(kind, shape) for kind in KINDS}
        model = Model(awake(make(conditions={kind: one for kind, (one, _) in declared.items()})), VP())
        for part in model.modules():
            if isinstance(part, ConditionUnits):
                part.measure([7 * torch.ones(3, *[len(part.mean)] * 4)])
        sdegen.save(model, tmp_path / "model")
        again = sdegen.load(tmp_path / "model")
        x, cond = torch.randn(N, *shape, dtype=torch.float64), {kind: value for kind, (_, value) in declared.items()}
        assert torch.equal(again.score(x, 0.5, **cond), model.score(x, 0.5, **cond))
        assert again.conditions == model.conditions


# --- refusals --------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, Any, str]] = {
    "a vector of another length": (Vector(3), torch.zeros(2), r"c has shape \(2,\); give vectors \(3,\), one for all"),
    "a number for a vector": (Vector(1), 0.5, r"c has shape \(\); give vectors \(1,\)"),
    "numbers that would broadcast": (Vector(1), torch.zeros(N), rf"c has shape \({N},\); give vectors \(1,\)"),
    "one row": (Vector(3), torch.zeros(1, 3), rf"c has shape \(1, 3\); give vectors \(3,\), .* one for each of {N}\."),
    "too few rows": (Vector(3), torch.zeros(4, 3), rf"c has shape \(4, 3\); give .* one for each of {N}\."),
    "too many sides": (Vector(3), torch.zeros(N, 1, 3), rf"c has shape \({N}, 1, 3\); give vectors"),
    "no numbers": (Vector(3), "abc", r"c is a str; give vectors \(3,\)"),
    "complex numbers": (Vector(1), torch.zeros(1, dtype=torch.complex64), r"c has dtype torch.complex64; give vectors"),
    "a gap": (Vector(2), [1.0, GAP], r"c holds NaN or infinite values; remove or replace them\."),
    "infinity among gaps": (Vector(2, gaps=True), [float("inf"), GAP], r"c holds NaN or infinite values"),
    "half an element": (Set(2), [[1.0, GAP]], r"c holds NaN or infinite values"),
    "elements of another length": (Set(2), torch.zeros(4, 3), r"c has shape \(4, 3\); give sets \(number, 2\)"),
    "one element": (Set(2), torch.zeros(2), r"c has shape \(2,\); give sets \(number, 2\)"),
    "other channels": (Fields(1, 1), torch.zeros(2, 2), r"c has shape \(2, 2\); give values \(1, side\) on the grid"),
    "another grid": (Fields(1, 1), torch.zeros(1, 3), r"c is given on a grid of \(3,\), the state on one of \(2,\)"),
    "another number of places": (
        Vector(3, joined=True),
        torch.zeros(3),
        r"c is given on a grid of \(3,\), the state on one of \(2",
    ),
    "a label too many": (Label(3), 3, r"c reaches 3; labels run from 0 to 2\."),
    "no label where it is needed": (Label(3), -1, r"c reaches -1; labels run from 0 to 2\."),
    "a label that is a fraction": (Label(3), 0.5, r"c has dtype torch.float64; give whole numbers from 0 to 2"),
    "too few labels": (Label(3), torch.zeros(4).long(), rf"c has shape \(4,\); give .* one for each of {N}\."),
}
DOORS = ("sample", "encode", "log_prob", "elbo", "interpolate")


@pytest.mark.parametrize("case", WRONG)
def test_a_value_that_is_none_is_refused_in_a_sentence(case: str) -> None:
    kind, value, sentence = WRONG[case]
    model = conditioned_model(c=kind)
    for door in DOORS:
        for batch in (None, 2):
            with pytest.raises((TypeError, ValueError), match=sentence) as caught:
                RUNS[door](model, {"c": value}, batch)
            assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


ONE: dict[str, tuple[Any, tuple[int, ...]]] = {  # a value of one datum; 0 for any number
    "label": (Label(3), ()), "vector": (Vector(3), (3,)), "set": (Set(2), (0, 2)), "fields": (Fields(1, 1), (1, 2)),
}  # fmt: skip
DRAWN = {name: (conditioned_model(c=kind), one) for name, (kind, one) in ONE.items()}


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(ONE)))
def test_a_shape_is_one_value_or_one_for_each_or_refused(data: st.DataObject, name: str) -> None:
    model, one = DRAWN[name]
    near = st.tuples(st.sampled_from([(), (1,), (N,), (2,)]), *[st.sampled_from(sorted({k, 1, 2, N})) for k in one])
    near = near.map(lambda parts: (*parts[0], *parts[1:]))
    shape = data.draw(st.one_of(near, st.lists(st.integers(0, N), max_size=4).map(tuple)))
    rows = len(shape) == len(one) + 1
    fits = len(shape) - rows == len(one) and all(k in (0, side) for k, side in zip(one, shape[rows:], strict=True))
    value = torch.zeros(shape, dtype=torch.long if name == "label" else torch.float64)
    x = torch.zeros(N, 2, dtype=torch.float64)
    if fits and (not rows or shape[0] == N):
        whole = model.score(x, 0.5, c=value)
        torch.testing.assert_close(model.score(x, 0.5, c=value if rows else value.expand(N, *shape)), whole)
        assert (model.with_rows({"c": value}, x, N) == ["c"]) == rows
        return
    for call in (lambda: sample(model, N, steps=1, seed=0, c=value), lambda: model.score(x, 0.5, c=value)):
        with pytest.raises(ValueError, match=r"^c (has shape|is given on a grid) .*\.$") as caught:
            call()
        assert str(shape) in str(caught.value) or "grid" in str(caught.value)


def test_what_is_missing_or_unknown_is_refused() -> None:
    model, x = conditioned_model(theta=Vector(2), label=Label(3, dropout=0.1)), torch.zeros(N, 2).double()
    for wrong, sentence in (
        ({}, r"Model needs the condition 'theta'; pass theta="),
        ({"theta": None}, r"Model needs the condition 'theta'; pass theta="),
        ({"tehta": torch.zeros(2)}, r"no argument 'tehta', .*: perhaps 'theta' is meant\."),
        ({"theta": torch.zeros(2), "gruff": 1}, r"takes no condition of that name: it takes label, theta"),
    ):
        with pytest.raises(TypeError, match=sentence):
            sample(model, N, steps=2, seed=0, **wrong)
    with pytest.raises(TypeError, match=r"the network needs the condition 'theta'; pass theta="):
        model.score(x, 0.5)
    with pytest.raises(TypeError, match=r"the network has no condition 'mood', it was constructed with theta, label;"):
        model.net(x, torch.zeros(1).double(), theta=torch.zeros(2), mood=1)
    with pytest.raises(TypeError, match=r"theta is dropped, and Model needs it; train it without"):
        guidance.ClassifierFree(model, 2.0, drop=["theta"])
    with pytest.raises(TypeError, match=r"drop has 'mood', and Model takes no condition of that name"):
        guidance.ClassifierFree(model, 2.0, drop=["mood"])
    with pytest.raises(TypeError, match=r"theta is dropped, and Model needs it"):
        guidance.ClassifierFree(model, 2.0)


@pytest.mark.parametrize(
    ("cond", "sentence"),
    [
        ({}, r"the data has no condition 'c', which the network is never without; give it in \(x, \{'c': ...\}\)"),
        ({"c": torch.zeros(N)}, r"c has shape \(5,\); give vectors \(2,\)"),
        ({"c": torch.full((N, 2), GAP)}, r"c holds NaN or infinite values"),
        ({"c": torch.zeros(N, 2), "d": torch.zeros(N)}, r"the data has the condition 'd', .* which takes c;"),
    ],
    ids=["missing", "shape", "gaps", "unknown"],
)
def test_data_that_do_not_fit_the_network_are_refused(cond: dict[str, Tensor], sentence: str) -> None:
    model = Model(nets.MLP(2, width=8, depth=1, conditions={"c": Vector(2)}), VP())
    with pytest.raises((TypeError, ValueError), match=sentence):
        fit(model, (torch.randn(N, 2), cond), steps=1, seed=0)


LABELLED = Model(nets.MLP(2, width=4, depth=1, classes=3), VP())
LABEL_DOORS: dict[str, Callable[[Tensor], Any]] = {
    "sample": lambda label: sample(LABELLED, 2, steps=1, label=label),
    "log_prob": lambda label: sdegen.log_prob(LABELLED, torch.zeros(2, 2), label=label),
    "fit": lambda label: fit(LABELLED, (torch.zeros(2, 2), {"label": label}), steps=1, progress=False),
    "a law": lambda label: sdegen.ExactConditional(VP(), [RING] * 3, RING).score(torch.zeros(2, 2), 0.5, label=label),
}


@pytest.mark.parametrize("door", LABEL_DOORS)
def test_a_label_beyond_the_classes_is_refused_on_an_accelerator_too(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There no step looks, since it would wait, and an embedding asked beyond its rows ends the program: the run's door looks."""
    monkeypatch.setattr("sdegen.conditions.at_hand", lambda device: False)
    monkeypatch.setattr(LABELLED.net, "forward", lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.raises(ValueError, match="label reaches 99; labels run from 0 to 2"):
        LABEL_DOORS[door](torch.tensor([1, 99]))


def test_a_set_for_all_data_is_no_set_for_each() -> None:
    model = Model(nets.MLP(2, width=8, depth=1, conditions={"c": Set(2)}), VP())
    with pytest.raises(
        ValueError, match=r"the condition 'c' of the data has shape \(5, 2\); give sets .*, one for each"
    ):
        fit(model, (torch.randn(N, 2), {"c": torch.zeros(N, 2)}), steps=1, seed=0)


def test_what_is_never_lost_is_not_lost_with_others() -> None:
    model = Model(nets.MLP(2, width=8, depth=1, conditions={"c": Vector(2)}), VP())
    data = (torch.randn(N, 2), {"c": torch.randn(N, 2)})
    with pytest.raises(
        ValueError, match=r"p_uncond = 0.1, but the network declares c as never dropped; declare it with"
    ):
        fit(model, data, steps=1, seed=0, p_uncond=0.1, null={"c": GAP})
    with pytest.raises(ValueError, match=r"p_uncond = 0.1, but null is empty"):
        fit(model, data, steps=1, seed=0, p_uncond=0.1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Label(0), r"classes = 0; "),
        (lambda: Vector(0), r"size = 0; "),
        (lambda: Vector(2, dropout=1.0), r"dropout = 1.0; give a probability from 0 to below 1, or None\."),
        (lambda: Set(2, dropout=-0.1), r"dropout = -0.1; give a probability"),
        (lambda: nets.MLP(2, conditions={"level": Vector(1)}), r"conditions has the name 'level'; give a word"),
        (lambda: nets.MLP(2, conditions={"a b": Vector(1)}), r"conditions has the name 'a b'; give a word"),
        (lambda: nets.MLP(2, conditions={"c": 3}), r"conditions\['c'\] is an int; give how a condition enters"),
        (lambda: nets.MLP(2, classes=2, conditions={"label": Label(2)}), r"classes = 2 is a condition 'label', and"),
        (
            lambda: nets.MLP(2, conditions={"c": Fields(1)}),
            r"c is Fields\(channels=1, .* give Fields\(..., dims=1\)",
        ),
        (
            lambda: nets.UNet(1, (8,), conditions={"c": Vector(64, joined=True)}),
            r"a grid of 2 dimensions; give Fields\(..., dims=2\)",
        ),
        (
            lambda: nets.UNet(1, (8,), conditions={"c": Fields(1, 1)}),
            r"a grid of 2 dimensions; give Fields\(..., dims=2\)",
        ),
    ],
)
def test_what_is_no_condition_is_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        make()


# --- guidance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [False, True], ids=["one for all", "rows"])
@pytest.mark.parametrize("kind", ["label", "gaps", "set", "known"])
def test_the_null_of_a_condition_is_a_run_without_it(kind: str, rows: bool) -> None:
    """Its samples are those of the whole law, by the default sampler of that law."""
    declared, value = values(kind, (2,), 4)
    model = Model(awake(nets.MLP(2, width=8, depth=1, conditions={"c": declared})), VP())
    model.moments = RING.moments()
    null = torch.full_like(value if rows else value[0], declared.null)
    whole = sample(model, 4, steps=5, seed=0)
    assert torch.equal(sample(model, 4, steps=5, seed=0, c=null), whole)
    assert torch.equal(sample(Conditioned(model, c=null), 4, steps=5, seed=0), whole)
    assert not torch.equal(sample(model, 4, steps=5, seed=0, c=value), whole)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 3), st.booleans(), st.integers(1, 5))
def test_a_set_of_nothing_is_no_set_however_it_is_written(places: int, rows: bool, n: int) -> None:
    """With places that are all NaN or with none at all, it is a run without: its sampler, its guidance, its refusal."""
    model = Model(awake(nets.MLP(2, width=8, depth=1, conditions={"c": Set(3, dropout=0.1)})), VP())
    model.moments = RING.moments()
    empty = torch.full((n, places, 3)[not rows :], GAP)
    assert torch.equal(sample(model, n, steps=5, seed=0, c=empty), sample(model, n, steps=5, seed=0))
    with pytest.raises(ValueError, match="nothing to guide along"):
        sample(guidance.ClassifierFree(model, 2.0), n, steps=2, c=empty)
    model.learned["c"] = (True, False)
    with pytest.raises(ValueError, match="c is not given for all samples"):
        sample(model, n, steps=2, c=empty)
    with pytest.raises(
        ValueError, match=r"c has shape \(0, 2, 3\); give sets \(number, 3\), one for all rows or one for"
    ):
        sample(model, n, steps=2, c=torch.zeros(0, 2, 3))  # no row at all


def learner(**dropout: float | None) -> Model:
    torch.manual_seed(0)
    kinds = {"theta": Vector(1, **dropout), "label": Label(2, **dropout)}
    return Model(nets.MLP(2, width=8, depth=1, conditions=kinds), VP())


SEEN = {"theta": torch.linspace(-1, 1, 16)[:, None], "label": torch.arange(16) % 2}
ASKED = {"theta": torch.zeros(1), "label": 1}
BRIEF: dict[str, Any] = {"steps": 2, "batch_size": 8, "seed": 0, "progress": False}


@pytest.mark.parametrize("name", ["theta", "label"])
def test_what_training_never_had_is_not_asked_for(name: str, tmp_path: Path) -> None:
    model, x = learner(dropout=None), torch.randn(16, 2)
    other = next(iter(ASKED.keys() - {name}))
    fit(model, (x, {other: SEEN[other]}), p_uncond=0.5, null={other: -1.0 if other == "label" else GAP}, **BRIEF)
    sample(model, 2, steps=2), sample(model, 2, steps=2, **{other: ASKED[other]})
    sdegen.save(model, tmp_path / "m.safetensors")
    again, weights = sdegen.load(tmp_path / "m.safetensors"), learner(dropout=None)
    weights.load_state_dict(model.state_dict())
    for one in (model, again, weights, Conditioned(model, **{other: ASKED[other]})):
        with pytest.raises(ValueError, match=f"{name} is given, and .* was trained on data without it"):
            sample(one, 2, steps=2, **{name: ASKED[name]})
    fit(model, (x, SEEN), p_uncond=0.5, **BRIEF)  # now it has had all
    sample(model, 2, steps=2, **ASKED), sample(model, 2, steps=2)


@pytest.mark.parametrize("name", ["theta", "label"])
def test_what_training_was_never_without_is_not_left_out(name: str) -> None:
    model, x = learner(dropout=None), torch.randn(16, 2)
    fit(model, (x, SEEN), **BRIEF)
    sample(model, 2, steps=2, **ASKED)
    for less in ({}, {name: None}, {"label": -1} if name == "label" else {}):
        with pytest.raises(
            ValueError, match=f"{name} is not given for all samples, and .* was never trained without it"
        ):
            sample(model, 2, steps=2, **({k: v for k, v in ASKED.items() if k != name} | less))
    if name == "label":  # of which rows may be lost
        with pytest.raises(ValueError, match="label is not given for all samples"):
            sample(model, 2, steps=2, **ASKED | {"label": torch.tensor([1, -1])})
    with pytest.raises(ValueError, match="is not given"):
        guidance.ClassifierFree(model, 2.0)
    fit(model, (x, SEEN), p_uncond=0.5, **BRIEF)
    sample(model, 2, steps=2)


def test_a_condition_that_is_added_is_noted_from_then_on() -> None:
    model, x = learner(dropout=None), torch.randn(16, 2)
    fit(model, (x, SEEN), **BRIEF)
    model.net = nets.add_conditions(model.net, {"extra": Vector(1, dropout=None)})
    fit(model, (x, SEEN | {"extra": torch.randn(16, 1)}), **BRIEF)
    with pytest.raises(ValueError, match="extra is not given for all samples"):
        sample(model, 2, steps=2, **ASKED)
    model.net = nets.MLP(2, width=8, depth=1)  # whatever was noted of other networks
    sample(model, 2, steps=2)


@pytest.mark.parametrize("data", ["gaps", "dropout", "batches"])
def test_what_data_may_be_without_is_learned_without(data: str) -> None:
    model, x = learner(dropout=0.5 if data == "dropout" else None), torch.randn(16, 2)
    cond = {"theta": SEEN["theta"].clone(), "label": SEEN["label"].clone()}
    if data == "gaps":
        model = Model(nets.MLP(2, width=8, depth=1, conditions={"theta": Vector(1, gaps=True, dropout=None)}), VP())
        cond = {"theta": cond["theta"].index_fill(0, torch.tensor([3]), GAP)}
    fit(model, ((x, cond) for _ in range(9)) if data == "batches" else (x, cond), **BRIEF | {"batch_size": 16})
    sample(model, 2, steps=2)


def test_guidance_drops_the_conditions_that_it_names() -> None:
    model = conditioned_model(a=Vector(2, dropout=0.1), b=Label(3, dropout=0.1))
    x, a, b = torch.randn(N, 2).double(), torch.randn(N, 2).double(), torch.arange(N) % 3
    both, only_a, only_b, none = (model.score(x, 0.5, **c) for c in ({"a": a, "b": b}, {"a": a}, {"b": b}, {}))
    for drop, weak in ((["a"], only_b), (["b"], only_a), (["a", "b"], none), (None, none)):
        guided = guidance.ClassifierFree(model, 3.0, drop=drop)
        torch.testing.assert_close(guided.score(x, 0.5, a=a, b=b), weak + 3.0 * (both - weak))
    other = {"b": torch.full((N,), 2)}
    replaced = guidance.ClassifierFree(model, 3.0, null=other, drop=["b"])
    weak = model.score(x, 0.5, a=a, **other)
    torch.testing.assert_close(replaced.score(x, 0.5, a=a, b=b), weak + 3.0 * (both - weak))
    w, v = 2.0, 5.0
    nested = guidance.ClassifierFree(guidance.ClassifierFree(model, v, drop=["b"]), w, drop=["a"])
    want = (1 - w) * (1 - v) * none + w * (1 - v) * only_a + (1 - w) * v * only_b + w * v * both
    torch.testing.assert_close(nested.score(x, 0.5, a=a, b=b), want)
    whole = sample(nested, N, steps=3, seed=0, a=a, b=b)
    torch.testing.assert_close(sample(nested, N, steps=3, seed=0, batch=2, a=a, b=b), whole, rtol=1e-7, atol=1e-7)


# --- training --------------------------------------------------------------------------------------------------------


def few_sets(n: int = 12) -> tuple[Tensor, dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(0)
    seen = torch.randn(n, 3, 2, generator=draws)
    seen[::2, 1:] = GAP
    return torch.randn(n, 2, generator=draws), {"seen": seen, "theta": 100 + torch.randn(n, 1, generator=draws)}


def small() -> Model:
    torch.manual_seed(0)
    kinds = {"seen": Set(2, dropout=0.3), "theta": Vector(1, dropout=0.2)}
    return Model(nets.MLP(2, width=8, depth=1, conditions=kinds), VP())


def test_a_run_with_conditions_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    def stop(step: Any) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    whole, parts, how = small(), small(), {"steps": 6, "batch_size": 4, "seed": 0}
    fit(whole, few_sets(), **how)
    with pytest.raises(KeyboardInterrupt):
        fit(parts, few_sets(), checkpoint=tmp_path, every=2, callbacks=[stop], **how)
    parts = small()
    fit(parts, few_sets(), checkpoint=tmp_path, every=2, **how)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    assert whole.net.given.entries["theta_"].units.mean.item() == pytest.approx(100, abs=1)


def test_batches_of_the_user_bring_their_conditions() -> None:
    x, cond = few_sets()
    batches = [(x[i : i + 4], {name: value[i : i + 4] for name, value in cond.items()}) for i in (0, 4, 8)]
    model = small()
    fit(model, iter(batches * 2), steps=4, seed=0)
    torch.testing.assert_close(
        model.net.given.entries["theta_"].units.mean, cond["theta"].mean(0), rtol=1e-3, atol=1e-3
    )


def test_units_of_conditions_are_never_coarser_than_float32() -> None:
    model = small()
    fit(model, few_sets(), steps=1, batch_size=4, seed=0)
    mean = model.net.given.entries["theta_"].units.mean.clone()
    assert torch.equal(model.bfloat16().net.given.entries["theta_"].units.mean, mean)


def kl(model: Model, law: Any, cond: dict[str, Any]) -> float:
    """The divergence in nats of what a model says under conditions from the truth."""
    x = law.sample((150,))
    return (law.log_prob(x) - sdegen.log_prob(model, x.float(), **cond)).mean().item()


def normal(mean: Tensor, covariance: Tensor) -> Any:
    return torch.distributions.MultivariateNormal(mean, covariance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MLP", "HyperMLP", "CoordinateTransformer"])
def test_one_network_knows_the_law_given_any_of_its_conditions(name: str) -> None:
    """``x = A theta + b_k + z / 2``: given both, either and neither."""
    torch.manual_seed(0)
    A, b = torch.tensor([[1.0, 0.5, 0.0], [-0.5, 1.0, 0.3]]), torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, -2.0]])
    theta, label, own = torch.randn(20_000, 3), torch.randint(3, (20_000,)), 0.25 * torch.eye(2)
    x = theta @ A.T + b[label] + 0.5 * torch.randn(20_000, 2)
    kinds = {"theta": Vector(3, dropout=0.3), "label": Label(3, dropout=0.3)}
    net = {
        "MLP": lambda: nets.MLP(2, width=64, depth=2, conditions=kinds),
        "HyperMLP": lambda: nets.HyperMLP(2, width=48, depth=2, conditions=kinds),
        "CoordinateTransformer": lambda: nets.CoordinateTransformer(2, width=32, depth=2, conditions=kinds),
    }[name]()
    model = Model(net, VP())
    fit(model, (x, {"theta": theta, "label": label}), steps=1000, seed=0, progress=False)
    one = torch.tensor([1.0, -1.0, 0.5])

    def mixed(means: Tensor, covariance: Tensor) -> Any:
        parts = torch.distributions.MultivariateNormal(means, covariance)
        return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(3)), parts)

    assert kl(model, normal(A @ one + b[1], own), {"theta": one, "label": 1}) < 0.15
    assert kl(model, mixed(A @ one + b, own), {"theta": one}) < 0.3
    assert kl(model, normal(b[2], own + A @ A.T), {"label": 2}) < 0.15
    assert kl(model, mixed(b, own + A @ A.T), {}) < 0.3
    assert kl(model, normal(A @ one + b[1], own), {"theta": -one, "label": 1}) > 1
    found = sample(model, 4000, steps=20, seed=0, theta=one, label=1)
    assert (found.mean(0) - A @ one - b[1]).abs().max() < 0.2
    assert (found.T.cov() - own).abs().max() < 0.12


@pytest.mark.slow
def test_the_posterior_of_a_mean_is_known_from_any_number_of_observations() -> None:
    torch.manual_seed(0)
    n, most, noise = 20_000, 8, 0.5
    mean = torch.randn(n, 2)
    seen = mean[:, None] + noise**0.5 * torch.randn(n, most, 2)
    seen[torch.arange(most) >= torch.randint(0, most + 1, (n, 1))] = GAP
    model = Model(nets.MLP(2, width=64, depth=2, conditions={"seen": Set(2, dropout=0.05)}), VP())
    fit(model, (mean, {"seen": seen}), steps=1000, batch_size=256, seed=0, progress=False)
    for k in (0, 1, 3, 8):
        y = torch.tensor([1.0, -0.5]) + noise**0.5 * torch.randn(k, 2)
        variance = 1 / (1 + k / noise)
        law = normal(variance * y.sum(0) / noise, variance * torch.eye(2))
        assert kl(model, law, {"seen": y}) < 0.1, k
        assert kl(model, law, {"seen": torch.cat([y.flip(0), torch.full((2, 2), GAP)])}) < 0.1
    assert kl(model, law, {}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UNet", "DiT"])
def test_a_field_is_the_mean_of_a_state_and_a_gap_tells_nothing(name: str) -> None:
    """``x = f + 0.3 z`` in every place, `f` standard normal."""
    torch.manual_seed(0)
    f = torch.randn(10_000, 1, 4, 4)
    x, seen = f + 0.3 * torch.randn(10_000, 1, 4, 4), f.masked_fill(torch.rand(10_000, 1, 4, 4) < 0.3, GAP)
    kinds = {"f": Fields(1, gaps=True, dropout=0.05)}
    net = nets.UNet(1, (32, 32), conditions=kinds) if name == "UNet" else nets.DiT(1, 1, 64, 2, conditions=kinds)
    model = Model(net, VP())
    fit(model, (x, {"f": seen}), steps=400, batch_size=128, seed=0, progress=False)
    one = torch.linspace(-1.5, 1.5, 16).reshape(1, 4, 4)
    one[0, 1, 2] = GAP
    found, known = sample(model, 1000, steps=20, seed=0, f=one), ~one.isnan()
    assert (found.mean(0) - one)[known].abs().max() < 0.15
    assert (found.std(0)[known] / 0.3 - 1).abs().max() < 0.3
    for place in (found[:, 0, 1, 2], sample(model, 1000, steps=20, seed=0)):
        assert place.mean().abs() < 0.15 and abs(place.std() / 1.09**0.5 - 1) < 0.1


def test_a_value_far_from_all_that_were_learned_from_is_warned_of() -> None:
    """Of 8,192 numbers none is farther from their mean than 91 standard deviations, an outlier among them or not."""
    torch.manual_seed(0)
    model = sdegen.Model(nets.MLP(2, width=8, depth=1, conditions={"v": nets.Vector(2, gaps=True)}), sdegen.VP())
    v = 7.0 + 0.1 * torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    v[0, 1] = 1e3  # in its own way not so far
    x = sdegen.data.gaussian_ring().sample(256, torch.Generator().manual_seed(0)).float()
    sdegen.fit(model, (x, {"v": v}), steps=2, batch_size=16, seed=0, progress=False)
    for far in (torch.tensor([20.0, 7.0]), torch.stack([v[0], torch.tensor([-7.0, torch.nan])])):
        n = len(far) if far.ndim > 1 else 2
        with pytest.warns(
            UserWarning, match=r"^v lies \S+ standard deviations from the mean of those that the network has learned"
        ):
            sdegen.sample(model, n, steps=2, seed=0, v=far)
    with pytest.warns(UserWarning, match=r"^v lies \S+ standard deviations"):
        sdegen.log_prob(sdegen.models.Conditioned(model), x[:2], v=torch.tensor([20.0, 7.0]), tolerance=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdegen.sample(model, len(v), steps=2, seed=0, v=v)


@pytest.mark.parametrize(("kind", "shape"), [(Vector(2), (2,)), (Set(2), (3, 2)), (Fields(2, dims=2), (2, 32, 32))])
def test_no_value_that_units_were_taken_of_is_far(kind: Any, shape: tuple[int, ...]) -> None:
    """Nor is one number among zeros, whose distance from the mean is that of the root of how many they are."""
    part, v = Conditioning({"v": kind}, 8, 2), torch.zeros(5000, *shape)
    v.view(5000, -1)[7, 0] = 1.0
    part.measure([{"v": v}])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (v, v[7:9], v[7]):
            warn_of_far(part, {"v": value})
    for value in (v[7:9] + 3, v[7] + 3):
        with pytest.warns(UserWarning, match=r"^v lies \S+ standard deviations"):
            warn_of_far(part, {"v": value})


@pytest.mark.parametrize("axis", [-1, -3])
def test_numbers_whose_units_are_not_measured_are_shown_as_they_are(axis: int) -> None:
    value = torch.randn(4, 3, *[2] * (-1 - axis), generator=torch.Generator().manual_seed(0))
    value[0, 0] = math.nan
    known, there = ConditionUnits(3, axis)(value, value)
    assert known.equal(value.nan_to_num()) and there.equal((~value.isnan()).float())
