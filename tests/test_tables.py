"""Tables become vectors and come back entry for entry; probabilities of rows are those of laws that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sdegen
from sdegen.data import (
    CategoryColumn,
    Column,
    CountColumn,
    GappedColumn,
    IntervalColumn,
    NumberColumn,
    PositiveColumn,
    Table,
)
from sdegen.laws.columns import Columns
from sdegen.laws.coordinates import Log, LogOdds, StickBreaking

FINITE = st.floats(-1e12, 1e12)
ENTRIES = {
    NumberColumn(): FINITE,
    PositiveColumn(): st.floats(1e-12, 1e12),
    IntervalColumn(-2.0, 5.0): st.floats(-1.9999, 4.9999),
    CountColumn(): st.integers(0, 10**6),
    CountColumn(0): st.integers(2**52 - 10**6, 2**52),  # where a float has a half besides, and no more
    CountColumn(None): st.integers(-(2**52), 2**52),
    CountColumn(-3): st.integers(-3, 100),
    CategoryColumn(("a", "b")): st.sampled_from(["a", "b"]),
    CategoryColumn(tuple(range(7))): st.integers(0, 6),
    CategoryColumn((False, True)): st.booleans(),
    CategoryColumn(("x", 2, 2.5, b"y", "x\0", True)): st.sampled_from(["x", 2, 2.5, b"y", "x\0", True]),
}


@given(st.data())
def test_every_table_comes_back_entry_for_entry(drawn: st.DataObject) -> None:
    """Any kinds in any order, with gaps and without, in the numbers that a process sees and as they are."""
    kinds = drawn.draw(st.lists(st.sampled_from(list(ENTRIES)), min_size=1, max_size=4))
    rows = drawn.draw(st.integers(1, 6))
    columns, frame = {}, {}
    for i, kind in enumerate(kinds):
        gaps = drawn.draw(st.booleans())
        entries = drawn.draw(st.lists(ENTRIES[kind], min_size=rows, max_size=rows))
        if gaps:
            entries = [None if j and drawn.draw(st.booleans()) else entry for j, entry in enumerate(entries)]
        columns[f"c{i}"], frame[f"c{i}"] = GappedColumn(kind) if gaps else kind, entries
    table = Table(columns)
    x = table.encode(frame, torch.Generator().manual_seed(0))
    assert x.shape == (rows, table.width) and x.dtype == torch.float64 and x.isfinite().all()
    u = table.coordinates(table.coordinates.check(x))
    for vectors in (x, table.coordinates.inverse(u)):
        before = vectors.clone()
        back = table.decode(vectors)
        assert torch.equal(vectors, before)
        for name, entries in frame.items():
            for was, found in zip(entries, back[name].tolist(), strict=True):
                if was is None:
                    assert found is None or math.isnan(found)
                elif isinstance(was, float):
                    assert found == pytest.approx(was, rel=1e-9, abs=1e-9)
                else:
                    assert found == was and type(found) is type(was)


class Known:
    """The law of the vectors of a category, a count and a positive number that do not depend on each other."""

    shares = torch.tensor([0.5, 0.2, 0.3]).double()
    rate = 2.5

    def __init__(self, table: Table) -> None:
        self.table = table

    def log_prob(self, x: Tensor) -> Tensor:
        back, places = self.table.decode(x), self.table.places
        corner = torch.cdist(x[:, places["kind"]], self.table.columns["kind"]._corners).min(1).values
        kind = self.shares[torch.tensor(["xyz".index(k) for k in back["kind"]])].log() - math.log(math.pi * 0.81)
        count = torch.distributions.Poisson(self.rate).log_prob(torch.from_numpy(back["count"]).double())
        price = torch.distributions.LogNormal(0.3, 0.8).log_prob(x[:, places["price"]][:, 0].double())
        return torch.where(corner <= 0.9, kind, -torch.inf) + count + price


def test_probabilities_of_rows_are_those_of_their_law() -> None:
    table = Table({"kind": CategoryColumn(tuple("xyz")), "count": CountColumn(), "price": PositiveColumn()})
    frame = {"kind": ["x", "z", "y"], "count": [0, 3, 7], "price": [1.0, 0.2, 5.0]}
    truth = (
        torch.tensor([0.5, 0.3, 0.2]).double().log()
        + torch.distributions.Poisson(2.5).log_prob(torch.tensor([0.0, 3.0, 7.0]).double())
        + torch.distributions.LogNormal(0.3, 0.8).log_prob(torch.tensor([1.0, 0.2, 5.0]).double())
    )
    assert torch.allclose(table.log_prob(Known(table), frame, draws=3), truth, atol=1e-12)


GAPPED = {
    "numbers": (NumberColumn(), [-2000.0, 1000.0, 7000.0, None, None]),
    "positive": (PositiveColumn(), [2e-6, 7e-6, None]),
    "interval": (IntervalColumn(), [0.2, None, 0.7]),
    "counts": (CountColumn(), [2, None, 9, 4]),
    "categories": (CategoryColumn(tuple("xyz")), ["x", None, "y", "z", "y"]),
}


@pytest.mark.parametrize("scale", [1.0, 0.6])
@pytest.mark.parametrize("case", GAPPED)
def test_the_probability_of_a_gap_has_no_units(case: str, scale: float) -> None:
    """Of a law by which three of ten entries are missing, and whose vectors are then those of a Gaussian in coordinates."""
    column, entries = GAPPED[case]
    entries = entries * 20
    table = Table({"c": GappedColumn(column)})
    rows = torch.tensor([entry is None for entry in entries])
    fill = table.encode({"c": entries}, torch.Generator().manual_seed(1))[rows, 1:]
    u = fill if column.coordinates is None else column.coordinates(fill)
    normal = torch.distributions.Normal(u.mean(0), scale * u.std(0))  # another than fills the gaps

    class Law:
        def log_prob(self, x: Tensor) -> Tensor:
            u = x[:, 1:] if column.coordinates is None else column.coordinates(x[:, 1:])
            slope = 0.0 if column.coordinates is None else column.coordinates.log_det(x[:, 1:])
            return math.log(0.3 / 1.8) + normal.log_prob(u).sum(1) + slope

    found = table.log_prob(Law(), {"c": entries}, draws=100, generator=torch.Generator().manual_seed(0))[rows]
    assert found.exp().mean().item() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("K", [2, 3, 6])
def test_corners_are_those_of_a_regular_simplex_and_noise_fills_its_ball(K: int) -> None:
    column = CategoryColumn(tuple(range(K)))
    distances = torch.pdist(column._corners)
    assert torch.allclose(distances, torch.full_like(distances, 2.0)) and column._corners.sum(0).abs().max() < 1e-12
    x = column.encode("c", np.zeros(4000, dtype=int)) - column._corners[0]
    radius = x.norm(dim=1)
    assert radius.max() <= 0.9
    # Uniform in the ball: the share within half the radius is its share of the volume.
    inside, expected = (radius < 0.45).double().mean().item(), 0.5 ** (K - 1)
    assert abs(inside - expected) < 5 * math.sqrt(expected / 4000)


@pytest.mark.parametrize(
    "kind", [*[*ENTRIES][::2], GappedColumn(CountColumn()), GappedColumn(CategoryColumn(tuple("xyz")))], ids=repr
)
def test_the_middle_is_the_mean_of_the_noise(kind: Column) -> None:
    """So much is told beside an entry, whose noise a network is not told."""
    one = {NumberColumn: 2.5, PositiveColumn: 2.5, IntervalColumn: 0.5, CountColumn: 3}
    inner = getattr(kind, "column", kind)
    entry = one[type(inner)] if type(inner) in one else inner.levels[1]
    entries = np.full(6000, entry, dtype=object)
    x, centre = kind.encode("c", entries, torch.Generator().manual_seed(0)), kind.centre("c", entries)
    noise = x - centre
    assert (noise.mean(0) - kind.middle).abs().max() <= 4.5 * noise.std(0).max() / math.sqrt(6000) + 1e-12
    torch.testing.assert_close(kind.ask("c", entries[:1]), centre[:1] + kind.middle)


def test_gaps_are_flagged_and_have_the_volume_of_the_flag() -> None:
    column, entries = GappedColumn(CategoryColumn(tuple("xyz"))), np.array(["x", None, "z", None], dtype=object)
    centre, x = column.centre("c", entries), column.encode("c", entries, torch.Generator().manual_seed(0))
    assert (x[:, 0] - centre[:, 0]).abs().max() <= 0.9 and centre[1:, 1:].isnan().any(1).tolist() == [True, False, True]
    assert column.decode(centre.nan_to_num()).tolist() == entries.tolist()
    asked = column.ask("c", entries)
    assert (asked[:, 0] == centre[0, 0]).all()  # as such that are there
    torch.testing.assert_close(asked[[0, 2]], centre[[0, 2]])
    flag, kind = math.log(1.8), math.log(math.pi * 0.81)
    found = column.log_volumes(entries)
    torch.testing.assert_close(found, torch.tensor([flag + kind, flag, flag + kind, flag]).double())
    filled = GappedColumn(NumberColumn()).encode("c", np.array([1.0, 2.0, *[None] * 50], dtype=object))[2:, 1]
    assert filled.unique().numel() == 50  # each gap has a number of its own


def test_counts_are_bounded_where_they_begin_and_are_themselves_where_they_are_large() -> None:
    guessed = [Table.of({"c": c}).columns["c"].at_least for c in ([0, 2], [1, 2], [-1, 2])]
    assert guessed == [0, 0, None]
    many = torch.tensor([[1000.5]], dtype=torch.float64)
    torch.testing.assert_close(CountColumn().coordinates(many), many)


def test_columns_have_the_slopes_and_the_bends_of_their_parts_and_are_as_far_as_the_farthest() -> None:
    one = Columns([1, 2, 1], [Log(), None, LogOdds(1e6, 1e6 + 1)])
    assert one.offset == LogOdds(1e6, 1e6 + 1).offset > 1e5
    near = Columns([1, 2, 1], [Log(), None, LogOdds(-1, 3)])
    x = torch.tensor([[0.3, -1.0, 2.0, 0.5], [4.0, 0.0, 1.0, -0.9]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(near(x).sum(), x)
    (bend,) = torch.autograd.grad(near.slope(x).log().sum(), x)
    torch.testing.assert_close(near.slope(x), slope)
    torch.testing.assert_close(near.bend(x), bend)


def test_columns_have_the_determinant_of_their_derivative() -> None:
    square = Columns([1, 2, 1], [Log(), None, LogOdds(-1, 3)])
    x = torch.tensor([[0.3, -1.0, 2.0, 0.5], [4.0, 0.0, 1.0, -0.9]]).double()
    for row, log_det in zip(x, square.log_det(x), strict=True):
        J = torch.autograd.functional.jacobian(lambda v: square(v[None])[0], row)
        assert torch.allclose(torch.linalg.slogdet(J).logabsdet, log_det)
    assert torch.allclose(square.inverse(square(x)), x) and square.elementwise
    mixed = Columns([1, 2, 1, 3], [Log(), None, LogOdds(-1, 3), StickBreaking()])
    y = torch.cat([x, torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]).double()], 1)
    assert mixed(y).shape == (2, 6) and not mixed.elementwise
    with pytest.raises(ValueError, match="outside of the domain"):
        mixed.check(-y)


def mixed_rows(n: int, generator: torch.Generator) -> dict[str, list]:
    """Rows whose columns hang together: a class, a positive number of its own scale, a count whose rate is this number."""
    kind = torch.rand(n, generator=generator) < 0.3
    price = (kind * 2.0 + 0.4 * torch.randn(n, generator=generator)).exp()
    count = torch.poisson(price, generator=generator).long()
    return {
        "kind": [("cheap", "dear")[k] for k in kind.long()],
        "price": (1000 * price).tolist(),
        "count": count.tolist(),
        "share": (torch.randn(n, generator=generator) - kind.float()).sigmoid().tolist(),
    }


@pytest.mark.slow
def test_a_model_learns_a_mixed_table() -> None:
    """A classifier cannot tell its rows from the law's, nor are shares and rates others."""
    generator = torch.Generator().manual_seed(0)
    frame = mixed_rows(20_000, generator)
    table = Table.of(frame)
    assert [type(c) for c in table.columns.values()] == [CategoryColumn, PositiveColumn, CountColumn, PositiveColumn]
    table = Table({**table.columns, "share": IntervalColumn()})
    torch.manual_seed(0)
    model = sdegen.Model(sdegen.nets.MLP(table.width), sdegen.VP().in_coordinates(table.coordinates))
    sdegen.fit(model, table.encode(frame, generator), steps=3000, seed=0, progress=False)
    drawn = table.decode(sdegen.sample(model, 2000, seed=1))
    fresh = mixed_rows(2000, generator)
    standard = lambda frame: table.coordinates(table.encode(frame, generator))
    found = sdegen.metrics.classifier_test(standard(drawn), standard(fresh), seed=0)
    assert found.accuracy.value < 0.55
    assert abs(np.mean(drawn["kind"] == "dear") - 0.3) < 0.03
    dear = drawn["kind"] == "dear"
    assert np.median(drawn["price"][dear]) == pytest.approx(1000 * math.exp(2), rel=0.1)
    assert drawn["count"][dear].mean() == pytest.approx(math.exp(2 + 0.08), rel=0.1)


def test_a_table_is_guessed_and_shows_itself() -> None:
    frame = {
        "a": [0.5, 1.5],
        "b": [-0.5, 1.5],
        "c": [1, 2],
        "d": [-1, 2],
        "e": ["u", "v"],
        "f": [True, False],
        "g": [None, 2.5],
    }
    kinds = [type(c) for c in Table.of(frame).columns.values()]
    expected = [PositiveColumn, NumberColumn, CountColumn, CountColumn, CategoryColumn, CategoryColumn, GappedColumn]
    assert kinds == expected
    assert "e: CategoryColumn(levels=('u', 'v'))" in repr(Table.of(frame))


def test_frames_of_pandas_go_in_and_out() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [30.5, np.nan, 41.0], "eyes": ["blue", None, "brown"], "children": [0, 2, 1]})
    table = Table.of(frame)
    back = table.decode(table.encode(frame), into=pandas.DataFrame)
    assert list(back.columns) == ["age", "eyes", "children"]
    assert back["age"].isna().tolist() == [False, True, False] and back["children"].tolist() == [0, 2, 1]
    assert back["eyes"].tolist() == ["blue", None, "brown"]


def test_what_is_missing_is_found_in_every_form() -> None:
    pandas = pytest.importorskip("pandas")
    for kind, entries in (("boolean", [True, None, False]), ("string", ["x", None, "y"]), ("Int64", [5, None, 7])):
        frame = pandas.DataFrame({"a": pandas.array(entries, dtype=kind)})
        assert Table.of(frame).decode(Table.of(frame).encode(frame))["a"][[0, 2]].tolist() == entries[::2], kind
        assert isinstance(Table.of(frame).columns["a"], GappedColumn)
    masked = {"a": np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])}
    assert np.isnan(Table.of(masked).decode(Table.of(masked).encode(masked))["a"]).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool])
def test_tensors_are_columns(dtype: torch.dtype) -> None:
    entries = torch.tensor([1.0, 0.0, 1.0], requires_grad=dtype == torch.float32).to(dtype)
    frame = {"a": entries}
    back = Table.of(frame).decode(Table.of(frame).encode(frame))["a"]
    assert back.tolist() == entries.tolist()


DAYS = np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]")
STRANGE = {
    "times": (DAYS, "column 'a' holds times"),
    "spans": (DAYS - DAYS[0], "column 'a' holds spans of time"),
    "no time": (np.array(["2020-01-01", "NaT"], dtype="datetime64[ns]"), "column 'a' holds times"),
    "dates": (DAYS.tolist(), "column 'a' has a date among its entries"),
    "complex": ([1 + 2j, 2.0], "column 'a' holds complex numbers"),
    "ragged": ([[1.0], [2.0, 3.0]], "column 'a' has lists"),
    "one": (["x", "x"], "column 'a' has 'x' alone"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_what_is_neither_number_nor_category_is_refused(case: str) -> None:
    entries, words = STRANGE[case]
    with pytest.raises(ValueError, match=words):
        Table.of({"a": entries})


@pytest.mark.parametrize(
    "entries", [[2**53 + 1, 0], np.array([2**63 + 5], dtype=np.uint64), [10**400, 1], ["1.5", "2"]]
)
def test_numbers_that_would_be_others_are_refused(entries) -> None:
    with pytest.raises(ValueError, match="column 'a' has"):
        Table({"a": NumberColumn()}).encode({"a": entries})
    with pytest.raises(ValueError, match="column 'a' has"):
        Table({"a": CountColumn()}).encode({"a": entries})


def test_counts_have_ends() -> None:
    with pytest.raises(ValueError, match=r"at least -4503599627370496, of at most 2\*\*52"):
        Table({"a": CountColumn(-(2**52))}).encode({"a": [1]})
    with pytest.raises(ValueError, match="whole numbers reach 1e"):
        Table({"a": CountColumn()}).decode(torch.tensor([[1e30], [3.0]]))


@pytest.mark.parametrize(
    ("levels", "error"), [((1.0, math.nan), ValueError), (([1], [2]), TypeError), ((1, True), ValueError)]
)
def test_levels_that_cannot_be_found_again_are_refused(levels: tuple, error: type[Exception]) -> None:
    with pytest.raises(error, match="levels"):
        CategoryColumn(levels)
    with pytest.raises(ValueError, match="one of the 2 categories"):
        Table({"a": CategoryColumn((1, 2))}).encode({"a": np.array([[1], None, 1], dtype=object)})


TABLE = Table(
    {
        "age": PositiveColumn(),
        "eyes": CategoryColumn(("blue", "brown")),
        "children": CountColumn(),
        "share": IntervalColumn(),
    }
)
GOOD = {"age": [30.0, 41.0], "eyes": ["blue", "brown"], "children": [0, 2], "share": [0.1, 0.9]}
BAD = {
    "nan": ({"age": [30.0, math.nan]}, "column 'age' has an entry that does not fit, nan in row 1;.*GappedColumn"),
    "none": ({"age": [30.0, None]}, "column 'age'.*GappedColumn"),
    "word": ({"age": [30.0, "old"]}, "column 'age' has 'old'.*CategoryColumn"),
    "negative": ({"age": [30.0, -1.0]}, "column 'age'.*-1.0.*positive"),
    "unseen": ({"eyes": ["blue", "green"]}, "column 'eyes'.*fit, 'green' in row 1.*categories"),
    "both": ({"age": [-1.0, 0.0]}, "column 'age' has 2 entries that do not fit, the first -1.0 in row 0"),
    "fraction": ({"children": [0, 1.5]}, "column 'children'.*1.5.*whole number"),
    "below": ({"children": [0, -2]}, "column 'children'.*-2.*at least 0"),
    "outside": ({"share": [0.1, 1.0]}, "column 'share'.*between 0 and 1"),
    "lengths": ({"share": [0.1]}, "have shapes"),
    "empty": (dict.fromkeys(GOOD, ()), "have shapes"),
    "more": ({"height": [1.0, 2.0]}, "leave out .'height'"),
}


@pytest.mark.parametrize("case", BAD)
def test_entries_that_do_not_fit_are_refused_in_a_sentence(case: str) -> None:
    changed, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        TABLE.encode({**GOOD, **changed})


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"add .'share'"):
        TABLE.encode({k: v for k, v in GOOD.items() if k != "share"})
    with pytest.raises(TypeError, match="frame is a list"):
        TABLE.encode([1, 2])
    with pytest.raises(ValueError, match="x has shape"):
        TABLE.decode(torch.zeros(3, 9))
    with pytest.raises(ValueError, match="no entry at all"):
        Table({"a": GappedColumn(NumberColumn())}).encode({"a": [None, math.nan]})
    with pytest.raises(ValueError, match="two categories at least"):
        CategoryColumn(["a", "a"])
    with pytest.raises(ValueError, match="no columns"):
        Table({})


BOUNDED: dict[str, tuple[Column, float, float]] = {
    "positive": (PositiveColumn(), 0.0, math.inf),
    "interval": (IntervalColumn(-2.0, 5.0), -2.0, 5.0),
    "counts": (CountColumn(), 0.0, math.inf),
    "counts from 3 on": (CountColumn(3), 0.0, math.inf),
}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(BOUNDED)),
    st.booleans(),
    st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=6),
    st.booleans(),
)
def test_numbers_that_a_column_cannot_have_are_refused_where_they_come_back(
    kind: str, gapped: bool, numbers: list[float], single: bool
) -> None:
    """As a process without the coordinates of the table draws them; of entries that are missing the number is none."""
    column, low, high = BOUNDED[kind]
    x = torch.tensor(numbers, dtype=torch.float32 if single else torch.float64)[:, None]
    inside = (x[:, 0] >= low) & (x[:, 0] <= high)
    table, there = Table({"a": GappedColumn(column) if gapped else column}), torch.ones(len(x), dtype=torch.bool)
    if gapped:
        there[1::2] = False
        x = torch.cat([GappedColumn(column)._there.centre("a", there.numpy()).to(x), x], 1)
    if inside[there].all():
        found = table.decode(x)["a"]
        assert [entry is None or entry != entry for entry in found.tolist()] == (~there).tolist()
        return
    with pytest.raises(ValueError, match=r"^column 'a': .* numbers are (below|outside of) .*table\.coordinates"):
        table.decode(x)


def test_a_process_in_the_coordinates_of_a_table_is_saved_with_its_model(tmp_path) -> None:
    model = sdegen.Model(sdegen.nets.MLP(TABLE.width, width=8), sdegen.VP().in_coordinates(TABLE.coordinates))
    sdegen.fit(model, TABLE.encode(GOOD).repeat(50, 1), steps=2, batch_size=10, seed=0, progress=False)
    sdegen.save(model, tmp_path / "m.safetensors")
    again = sdegen.load(tmp_path / "m.safetensors")
    assert torch.equal(sdegen.sample(model, 3, seed=0, steps=3), sdegen.sample(again, 3, seed=0, steps=3))
    x = sdegen.sample(model, 50, seed=0, steps=5)
    back = TABLE.decode(x)
    assert (
        (back["age"] > 0).all() and (back["children"] >= 0).all() and ((back["share"] > 0) & (back["share"] < 1)).all()
    )
