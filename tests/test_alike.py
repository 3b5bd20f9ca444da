"""Changes of code that moved no row: which rows that were not computed again are as good as of today's code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import alike, origins, parts
from benchmarks.alike import Evidence
from benchmarks.origins import Change, Origins
from benchmarks.rows import Key, Rows, Values

TABLE = Path("tiny")
F, G = ("sdegen/made_up.py", "f"), ("sdegen/made_up.py", "g")


class Results:
    """A folder of rows that call some functions, given by their digests, and are computed again."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.rows = Rows(folder / TABLE / "rows.jsonl")
        self.codes = Origins(folder / TABLE / origins.FILE)
        self.today: dict[tuple[str, str], str] = {}
        monkeypatch.setattr(parts, "digest", lambda path, part: self.today.get((path, part)))

    def compute(self, name: str, value: float, *called: tuple[str, str]) -> None:
        """Compute a row that calls these functions as they are today."""
        path, values = F[0], {"value": [value, 0.1]}
        code = self.codes.add({path: {part: self.today[path, part] for path, part in called}})
        key = Key("block", name, 0)
        self.rows.add(key, values, code=code, **alike.compare(self.rows.lines.get(key), values, code))

    def covers(self, *changes: tuple[tuple[str, str], str]) -> bool:
        """Tell whether a row is as good as of today's that called these functions as they were."""
        code = {F[0]: {part: was for (_, part), was in changes}}
        return Evidence([self.folder]).covers(TABLE, origins.changed(code))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    return Results(tmp_path, monkeypatch)


def test_a_change_that_enough_rows_call_and_that_moves_none_is_vouched_for(results: Results) -> None:
    results.today = {F: "a", G: "a"}
    for k in range(alike.ENOUGH):
        results.compute(f"row {k}", 1.0, F, G)
    results.today = {F: "b", G: "a"}
    for k in range(alike.ENOUGH):
        assert not results.covers((F, "a"))
        results.compute(f"row {k}", 1.0, F, G)
    assert results.covers((F, "a")) and results.covers((F, "a"), (G, "a")) and results.covers((F, "b"))
    assert not results.covers((F, "c"))  # other statements, which no row was computed by
    results.today = {F: "b", G: "b"}
    assert not results.covers((F, "a"), (G, "a")), "g changed too, and no row has called it since"


def test_a_row_that_moved_refuses_all_that_changed_as_it_did(results: Results) -> None:
    """A row of the same table that changed in less, or in other things, is not refused."""
    names = [f"row {k}" for k in range(alike.ENOUGH)]
    results.today = {F: "a", G: "a"}
    for name in names:
        results.compute(name, 1.0, F, G)
    results.compute("moved", 1.0, F, G)
    results.today = {F: "b", G: "b"}
    for name in names:
        results.compute(name, 1.0, F, G)
    assert results.covers((F, "a"), (G, "a"))
    results.compute("moved", 1.5, F, G)
    assert not results.covers((F, "a"), (G, "a"))
    assert results.covers((F, "a")) and results.covers((G, "a"))
    assert Evidence([results.folder]).covers(Path("another"), frozenset({Change(*F, "a", "b"), Change(*G, "a", "b")}))


def test_a_row_that_moved_and_calls_a_function_no_more_refuses_what_changed_as_it_did(results: Results) -> None:
    """The function stands as it was, so that it is no change of rows that were not computed again."""
    names = [f"row {k}" for k in range(alike.ENOUGH)]
    results.today = {F: "a", G: "a"}
    for name in (*names, "moved"):
        results.compute(name, 1.0, F, G)
    results.today = {F: "b", G: "a"}
    for name in names:
        results.compute(name, 1.0, F, G)
    assert results.covers((F, "a"), (G, "a"))
    results.compute("moved", 1.5, F)
    assert not results.covers((F, "a"), (G, "a"))


def test_a_row_that_moved_is_remembered_when_it_is_computed_once_more(results: Results) -> None:
    names = [f"row {k}" for k in range(alike.ENOUGH)]
    for today, value in (("a", 1.0), ("b", 1.5), ("c", 1.5)):
        results.today = {F: today}
        for name in names:
            results.compute(name, 1.0, F)
        results.compute("moved", value, F)
    assert not results.covers((F, "a")) and results.covers((F, "b"))


def test_changes_one_after_another_are_vouched_for(results: Results) -> None:
    """By other rows each; and a function that went, once rows that called it came out alike."""
    for was, now, called in (("a", "b", F), ("b", "c", F)):
        for k in range(alike.ENOUGH):
            results.today = {F: was, G: "a"}
            results.compute(f"{was}{k}", 2.0, called)
            results.today = {F: now, G: "a"}
            results.compute(f"{was}{k}", 2.0, called)
    assert results.covers((F, "a")) and results.covers((F, "b"))
    for k in range(alike.ENOUGH):
        results.today = {F: "c", G: "a"}
        results.compute(f"gone {k}", 2.0, F, G)
        results.today = {F: "c"}
        assert not results.covers((G, "a"))
        results.compute(f"gone {k}", 2.0, F)
    assert results.covers((G, "a"), (F, "a"))


def test_a_function_that_rows_call_no_more_is_not_vouched_for(results: Results) -> None:
    """It is there, and may be called where a row was not computed again."""
    for k in range(alike.ENOUGH):
        results.today = {F: "a", G: "a"}
        results.compute(f"row {k}", 1.0, F, G)
        results.today = {F: "a", G: "b"}
        results.compute(f"row {k}", 1.0, F)
    assert not results.covers((G, "a"))


@given(
    value=st.floats(-1e6, 1e6).filter(lambda v: abs(v) > 1e-3),
    error=st.floats(1e-6, 1e3),
    move=st.sampled_from([0.0, 0.5, 0.99, 1.01, 3.0, math.nan]),
)
def test_a_value_is_alike_within_rounding_and_no_further(value: float, error: float, move: float) -> None:
    width = max(alike.ROUNDING * error, alike.RELATIVE * abs(value))
    now = value + move * width
    within = abs(now - value) <= width  # of what is represented
    assert alike.is_close([value, error], [now, 7.0]) is within
    assert alike.is_close(value, value) and not alike.is_close(value, value + 3 * alike.RELATIVE * abs(value))
    assert alike.is_close([value, math.nan], [value, math.nan]) and alike.is_close(math.inf, math.inf)
    assert not alike.is_close(math.inf, value) and not alike.is_close(math.inf, -math.inf)
    assert alike.is_close([math.nan, None], [math.nan, None]) and not alike.is_close([value, error], None)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ({"KL": 1.0, "train s": 5.0}, {"KL": 1.0, "train s": 9.0}, True),
        ({"KL": 1.0, "rank": 2.0}, {"KL": 1.0, "W2": 1.0}, True),
        ({"KL": 1.0}, {"W2": 1.0}, False),
        ({"train s": 5.0, "s per 100": 2.0, "time ratio": 1.0}, {"train s": 5.0, "s per 100": 2.0}, False),
        ({"loss": 1.0, "its terms": 2.0}, {"loss": 1.0, "its terms": 3.0}, False),
        ({"seen": "yes"}, {"seen": "no"}, False),
    ],
)
def test_times_say_nothing_of_whether_a_row_moved(before: Values, now: Values, expected: bool) -> None:
    assert alike.are_alike(before, now) is expected


def test_a_row_keeps_the_codes_that_gave_its_values() -> None:
    line: dict[str, Any] = {"values": {"KL": 1.0}, "code": "b", "alike": ["a"]}
    assert alike.compare(line, {"KL": 1.0}, "c") == {"alike": ["b", "a"]}
    assert alike.compare(line, {"KL": 1.0}, "b") == {"alike": ["a"]}
    assert alike.compare(line, {"KL": 2.0}, "c") == {"moved": ["b", "a"]}
    moved: dict[str, Any] = {"values": {"KL": 1.0}, "code": "b", "moved": ["a"]}
    assert alike.compare(moved, {"KL": 1.0}, "c") == {"alike": ["b"], "moved": ["a"]}
    assert alike.compare(moved, {"KL": 2.0}, "c") == {"moved": ["b"]}, "the first values may have been these"
    assert alike.compare(line, {"KL": 2.0}, "b") == {}, "it is no matter of code"
    assert alike.compare({"values": {"KL": 1.0}}, {"KL": 1.0}, "c") == alike.compare(None, {"KL": 1.0}, "c") == {}
