"""Tables of the benchmarks: rows that exist are read, those that are missing are computed, and none is lost."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch.distributions import Independent, LogNormal, MultivariateNormal, Normal

import sdegen
from benchmarks import (
    alike,
    codec_table,
    columns_law,
    command,
    drawn_table,
    families_table,
    fid_images,
    fid_table,
    followed,
    inference_peers,
    latent_codes,
    likelihood_recipe,
    likelihood_training,
    mode_categories,
    origins,
    pages,
    parts,
    posterior_table,
    rows,
    simulators,
    tables,
    train_flow_maps,
    train_images,
)
from benchmarks.posterior_problems import Problem, magnitude
from benchmarks.rows import Key, Rows, Values, read
from benchmarks.tickets import Tickets
from sdegen import nets, samplers
from sdegen.data import Scaling
from sdegen.seeding import seeded

ROOT = Path(__file__).parent.parent
TINY = """
from benchmarks import command

def block(table):
    names = [f"row {k}" for k in range(12)]
    rows = {name: table.row("tiny", name, lambda seed, k=k: {"value": [k + seed, None]}) for k, name in enumerate(names)}
    return table.write("tiny", {"value": 1, "seeds": 0}, rows)

if __name__ == "__main__":
    command.run("tiny", "A tiny table.", [block], seeds=2)
"""


class Tiny:
    """A table of two rows, which are computed as ten times the seed and one more; it remembers which were computed."""

    def __init__(self) -> None:
        self.computed: list[tuple[str, int]] = []
        self.crash_at: int | None = None

    def block(self, table: tables.Table) -> str:
        rows = {name: table.row("tiny", name, self.compute(name)) for name in ("first", "second")}
        return table.write("tiny", {"value": 1, "seeds": 0}, rows)

    def compute(self, name: str) -> Callable[[int], Values]:
        def compute(seed: int) -> Values:
            if len(self.computed) == self.crash_at:
                raise KeyboardInterrupt
            self.computed.append((name, seed))
            sdegen.data.gaussian_ring()  # so that it is of some code of the library
            return {"value": [10.0 * seed + (name == "second"), None]}

        return compute


class Place:
    """A working directory, committed rows, and a tiny table to run there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.here, self.committed = folder / "here", folder / "committed"
        self.here.mkdir()
        monkeypatch.chdir(self.here)
        monkeypatch.setattr(tables, "COMMITTED", self.committed)
        self.monkeypatch, self.capsys, self.tiny = monkeypatch, capsys, Tiny()

    def commit(self, **rows: dict[int, float]) -> None:
        """Put values of rows by seed among the committed ones."""
        file = Rows(self.committed / "tiny" / "rows.jsonl")
        for name, values in rows.items():
            for seed, value in values.items():
                file.add(Key("tiny", name, seed), {"value": [value, None]})

    def run(self, *options: str, seeds: int = 1) -> str:
        """Run the table and return what it prints."""
        self.tiny.computed.clear()
        self.monkeypatch.setattr(sys, "argv", ["tiny", *options])
        command.run("tiny", "A tiny table.", [self.tiny.block], seeds=seeds)
        return self.capsys.readouterr().out


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, monkeypatch, capsys)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_row_says_on_which_device_it_was_computed(tmp_path: Path) -> None:
    """On that of the command, unless it is computed elsewhere, as what is counted in seconds of a core is."""
    no: dict[str, Any] = dict.fromkeys(("quick", "fresh", "stale", "own"), False)
    args = SimpleNamespace(device="mps", out=tmp_path, seeds=None, default_seeds=1, only="", **no)
    tickets = Tickets(tmp_path / "tickets")
    tickets.folder.mkdir()
    table = tables.Table(Path("tiny"), cast(Any, args), tickets)
    tickets.put((table.folder, Key("tiny", name, 0)) for name in ("there", "here"))
    for name, device in (("there", None), ("here", "cpu")):
        assert table.row("tiny", name, lambda seed: {"value": [1.0, None]}, device=device)
    said = {key.name: line.get("device") for key, line in table.rows.lines.items()}
    assert said == {"there": "MPS", "here": None}


def test_rows_are_computed_once(place: Place) -> None:
    assert "0 rows read, 4 computed" in place.run(seeds=2)
    assert place.tiny.computed == [("first", 0), ("first", 1), ("second", 0), ("second", 1)]
    printed = place.run(seeds=2)
    assert "4 rows read, 0 computed" in printed and not place.tiny.computed
    assert "| first | 5.0 ± 5.0 | 2 |" in printed  # the mean of 0 and 10, and |0 − 10| / 2


def test_committed_rows_are_read_and_left_as_they_are(place: Place) -> None:
    place.commit(first={0: 3.0}, second={0: 4.0})
    before = contents(place.committed)
    printed = place.run()
    assert "| first | 3.0 | 1 |" in printed and "2 rows read, 0 computed" in printed
    assert "1 rows read, 1 computed" in place.run("--fresh", "--only", "first")
    assert contents(place.committed) == before
    assert set(contents(place.here)) == {
        f"results/tiny/{name}" for name in ("tiny.md", "tiny.csv", "rows.jsonl", "code.jsonl")
    }


def test_a_table_is_the_mean_over_all_seeds_that_exist(place: Place) -> None:
    place.commit(first={0: 1.0, 1: 3.0, 2: 5.0, 3: 7.0}, second={0: 4.0})
    assert "| first | 4.0 ± 1.3 | 4 |" in place.run()  # standard deviation 2.58 over the root of 4
    assert not place.tiny.computed
    place.run("--seeds", "4", "--only", "first")
    assert place.tiny.computed == [("first", 4)]
    assert "| first | 11.2 ± 7.3 | 5 |" in place.run()  # 1, 3, 5, 7 and 40


def test_fresh_rows_take_the_place_of_those_that_exist(place: Place) -> None:
    place.commit(first={0: -1.0, 1: -1.0}, second={0: -1.0, 1: -1.0})
    printed = place.run("--fresh", "--only", "second")
    assert place.tiny.computed == [("second", 0)]
    assert "| first | -1.0 | 2 |" in printed and "| second | 1.0 | 1 |" in printed
    assert "2 rows read, 1 computed" in printed


def test_results_go_where_they_are_asked_to(place: Place) -> None:
    place.commit(first={0: 3.0}, second={0: 4.0})
    place.run("--seeds", "1", "--out", str(place.committed))
    assert not contents(place.here)
    assert {key.seed for key in read(place.committed / "tiny" / "rows.jsonl")} == {0, 1}
    assert "| first | 6.5 ± 3.5 | 2 |" in (place.committed / "tiny" / "tiny.md").read_text()


def test_a_run_that_is_cut_off_goes_on_where_it_was(place: Place) -> None:
    place.tiny.crash_at = 3
    with pytest.raises(KeyboardInterrupt):
        place.run(seeds=2)
    assert len(read(place.here / "results" / "tiny" / "rows.jsonl")) == 3
    place.tiny.crash_at = None
    assert "3 rows read, 1 computed" in place.run(seeds=2)
    assert place.tiny.computed == [("second", 1)]


class Brightness(torch.nn.Module):
    """A feature network of images in colour: their means by channel, and those of a half."""

    name, hash = "brightness", "0" * 64

    def __init__(self, weights: str | None) -> None:
        super().__init__()
        self.weights = weights
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), x[..., :8].mean((2, 3))], 1)


def test_published_distances_are_by_inception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[Brightness] = []
    monkeypatch.setattr(sdegen.metrics, "Inception", lambda weights: made.append(Brightness(weights)) or made[0])
    options = ["--data", "sprites", "--inception", "weights.pth", "--only", "training images"]
    monkeypatch.setattr(sys, "argv", ["fid_table", *options])
    fid_table.main()
    assert "0 rows read, 1 computed" in capsys.readouterr().out and [net.weights for net in made] == ["weights.pth"]
    (line,) = read(tmp_path / "results" / "fid_table" / "sprites-inception" / "rows.jsonl").values()
    args = SimpleNamespace(data="sprites", count=fid_images.COUNT)
    task = fid_images.Task(cast(Any, SimpleNamespace(args=args, quick=False)))
    parts = [part.scaled(0, 1).rows() for part in task.parts]
    assert line["values"]["FID"][0] == pytest.approx(sdegen.metrics.fid(*parts, made[0]).value)
    assert line["values"]["features"] == "brightness 00000000" and line["values"]["accuracy"][0] > 0.8


@pytest.mark.parametrize(
    ("data", "why"),
    [("mnist", "those of mnist are grey; take --data sprites"), ("sprites", "pip install sdegen[inception]")],
)
def test_published_distances_that_cannot_be_had_are_refused(
    data: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)  # as where it is not installed
    monkeypatch.setattr(sys, "argv", ["fid_table", "--data", data, "--inception", "--only", "training images"])
    with pytest.raises(SystemExit, match=re.escape(why)):
        fid_table.main()


def test_own_rows_leave_the_committed_out_and_go_on_where_they_were(place: Place) -> None:
    place.commit(first={0: -1.0, 1: -1.0, 2: -1.0}, second={0: -1.0})
    place.tiny.crash_at = 3
    with pytest.raises(KeyboardInterrupt):
        place.run("--own", seeds=2)
    place.tiny.crash_at = None
    printed = place.run("--own", seeds=2)
    assert "3 rows read, 1 computed" in printed and place.tiny.computed == [("second", 1)]
    assert "| first | 5.0 ± 5.0 | 2 |" in printed and "earlier" not in printed


def test_a_crash_while_a_row_is_written_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    rows.add(Key("tiny", "first", 0), {"value": 1.0})

    def cut_off(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            rows.add(Key("tiny", "second", 0), {"value": 2.0})
    assert list(read(tmp_path / "rows.jsonl")) == [Key("tiny", "first", 0)]


@pytest.mark.slow
def test_processes_share_the_rows_and_lose_none(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "OMP_NUM_THREADS": "1"}

    def output(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    output("git", "init", "-q")
    output("git", "add", ".")
    before = output("git", "status", "--porcelain")
    printed = output(sys.executable, "-m", "tiny", "--jobs", "2")
    assert "0 rows read, 24 computed" in printed and "missing" not in printed
    assert all(f"| row {k} | {k + 0.5} ± 0.5 | 2 |" in printed for k in range(12))
    assert len(read(tmp_path / "results" / "tiny" / "rows.jsonl")) == 24
    assert re.sub(r"\?\? __pycache__/\n", "", output("git", "status", "--porcelain")) == before


def test_rows_of_two_processes_at_a_time_are_all_kept(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from benchmarks.rows import Key, Rows
rows = Rows(Path(sys.argv[1]))
for seed in range(40):
    rows.add(Key("tiny", sys.argv[2], seed), {})
"""
    file = tmp_path / "rows.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-c", code, str(file), name], env=environment) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert list(read(file)) == [Key("tiny", name, seed) for name in "abc" for seed in range(40)]


def test_two_files_are_merged_by_putting_one_behind_the_other(tmp_path: Path) -> None:
    here, there = Rows(tmp_path / "here.jsonl"), Rows(tmp_path / "there.jsonl")
    for seed in (0, 2):
        here.add(Key("tiny", "first", seed), {"value": "old"})
    for seed in (1, 2):
        there.add(Key("tiny", "first", seed), {"value": "new"})
    (tmp_path / "both.jsonl").write_text(here.file.read_text() + there.file.read_text())
    both = Rows(tmp_path / "both.jsonl")
    both.add(Key("tiny", "another", 0), {"value": "new"})
    lines = [json.loads(line) for line in both.file.read_text().splitlines()]
    assert [(line["row"], line["seed"], line["values"]["value"]) for line in lines] == [
        ("another", 0, "new"), ("first", 0, "old"), ("first", 1, "new"), ("first", 2, "new"),
    ]  # fmt: skip


KEPT = {
    "row of a table": (rows, {"block": "tiny", "row": "first ± λ", "seed": 0, "values": {}}),
    "record of code": (origins, {"code": "0a1b2c3d", "of": {"sdegen/laws/operators.py": "12345678"}}),
}  # fmt: skip


@pytest.mark.parametrize("what", KEPT)
@pytest.mark.parametrize(
    "damaged", ["<<<<<<< theirs", "", "3", "[]", "null", "{}", '"block row seed values code of"', "\xff\xfe"]
)
def test_a_line_that_is_something_else_is_named(tmp_path: Path, what: str, damaged: str) -> None:
    module, line = KEPT[what]
    file = tmp_path / module.FILE
    file.write_bytes(json.dumps(line).encode() + b"\n" + damaged.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match=rf"^line 2 of .*{file.name} is no {what}: '.*'; mend it or delete it\.$"):
        module.read(file)


@pytest.mark.parametrize("what", KEPT)
@given(data=st.data())
def test_a_line_that_is_cut_or_of_other_types_is_named(tmp_path_factory: Any, what: str, data: st.DataObject) -> None:
    module, line = KEPT[what]
    file = tmp_path_factory.mktemp("kept") / module.FILE
    whole = json.dumps(line, ensure_ascii=False).encode()
    file.write_bytes(whole)
    assert list(module.read(file)) == [module.key_of(line)]
    other = json.dumps(
        line | {data.draw(st.sampled_from(sorted(line))): data.draw(st.sampled_from([None, [], 2.5, [{}]]))}
    )
    file.write_bytes(data.draw(st.sampled_from([other.encode(), whole[: data.draw(st.integers(1, len(whole) - 1))]])))
    with pytest.raises(ValueError, match=rf"^line 1 of .*{file.name} is no {what}: "):
        module.read(file)


def test_digests_of_a_module_that_is_not_ours_are_of_earlier_code(tmp_path: Path) -> None:
    known = origins.Origins(tmp_path / origins.FILE)
    ours = origins.digests([(sdegen.data.sets.__file__, "gaussian_ring")])
    assert known.current(known.add(ours))
    assert not known.current(known.add(ours | {"elsewhere/module.py": {"": "12345678"}}))
    assert not known.current(known.add(ours | {"sdegen/data/sets.py": {"no_such_function": "12345678"}}))
    assert not known.current("12345678") and not known.current(None)


def test_a_module_without_functions_is_of_all_code() -> None:
    assert parts.names("sdegen/nets/__init__.py") == []
    assert list(origins.everything()["sdegen/nets/__init__.py"]) == [parts.OUTSIDE]


def test_what_shows_and_writes_has_no_say_in_where_a_row_is_from() -> None:
    """Modules by themselves and all of a package, but none whose name only begins like that."""
    files = [str(module.__file__) for module in (sdegen.plots.states, sdegen.progress, pages.blocks, rows)]
    assert origins.digests((file, "<module>") for file in files) == {}
    assert not origins.silent("benchmarks/rows_of_laws.py")
    assert not origins.changed({"sdegen/plots/states.py": {"": "12345678"}, "sdegen/show/elsewhere.py": {"": "1"}})


def test_a_row_says_where_it_is_from(place: Place) -> None:
    place.run("--only", "first")
    (line,) = read(place.here / "results" / "tiny" / "rows.jsonl").values()
    assert list(line) == ["block", "row", "seed", "commit", "torch", "code", "seconds", "values"]
    assert line["seconds"] >= 0


def test_a_row_says_of_how_many_steps_of_training_it_is(place: Place) -> None:
    def train(table: Any) -> str:
        def compute(seed: int) -> Any:
            model = sdegen.Model(sdegen.nets.MLP(2, width=8, depth=1), sdegen.VP())
            sdegen.fit(model, sdegen.data.gaussian_ring(), steps=7, batch_size=8, seed=seed, progress=False)
            return {"value": [0.0, None]}

        return table.write("tiny", {"value": 1}, {"first": table.row("tiny", "first", compute)})

    place.tiny.block = train  # type: ignore[method-assign]
    place.run()
    (line,) = read(place.here / "results" / "tiny" / "rows.jsonl").values()
    assert line["steps"] == 7
    codes = origins.read(place.here / "results" / "tiny" / "code.jsonl")
    modules = codes[line["code"]]
    assert {"sdegen/training/loop.py", "sdegen/nets/mlp.py", "sdegen/processes/zoo.py"} <= modules.keys()
    assert "sdegen/baselines/vae.py" not in modules and "benchmarks/tables.py" not in modules
    assert {"", "MLP.__init__", "MLP.forward"} <= codes[modules["sdegen/nets/mlp.py"]].keys()
    zoo = "sdegen/processes/zoo.py"  # of other processes than VP nothing is called
    assert {""} < codes[modules[zoo]].keys() < {"", *parts.names(zoo)}


def test_a_row_is_of_all_its_code_whatever_was_computed_before_it() -> None:
    """The library remembers plans, and quadratures too: the second row would call less."""
    model, sampler = sdegen.Exact(sdegen.VP(), sdegen.data.gaussian_ring()), samplers.Multistep(5, corrector=True)
    found = []
    for _ in range(3):
        with origins.Watch() as watch:
            sdegen.sample(model, 4, sampler=sampler, seed=0)
        found.append(watch.code())
    first, second, third = found  # of the first, arguments have been checked by what is read off annotations once
    assert second == third and first.keys() == second.keys()
    assert {"gauss", "rule"} <= second["sdegen/laws/interpolation.py"].keys()
    assert "Scalar.moves" in second["sdegen/samplers/directions.py"]


def test_a_row_is_of_the_code_that_made_what_it_shares_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made = functools.cache(lambda n: nets.MLP(n, width=4, depth=1))
    monkeypatch.setattr(drawn_table, "made", made, raising=False)
    codes = []
    for asked in (True, True, False):
        with origins.Watch() as watch:
            _ = made(2) if asked else None
        codes.append(watch.code())
    assert made.cache_info().misses == 1
    assert "MLP.__init__" in codes[0]["sdegen/nets/mlp.py"] and codes[1] == codes[0]
    assert "sdegen/nets/mlp.py" not in codes[2]


def test_rows_of_earlier_code_are_named_and_computed_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.commit(second={0: 4.0})  # which does not say what code it is of
    assert "1 rows read, 1 computed" in (printed := place.run())
    assert "1 of the rows read are of earlier code, or do not say (tiny, tiny: second)" in printed
    assert "0 rows read, 2 computed" in place.run("--fresh")
    assert "earlier" not in place.run()
    monkeypatch.setattr(parts, "digest", lambda path, part: "changed")
    printed = place.run()
    assert "2 rows read" in printed and "(tiny, tiny: first; tiny, tiny: second): --stale" in printed
    assert "1 rows read, 1 computed" in place.run("--stale", "--only", "second")
    assert place.tiny.computed == [("second", 0)]


def test_rows_drawn_at_random_are_computed_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are read, and named where they are of earlier code."""
    place.run(seeds=3)
    asked = set()
    for turn in range(25):  # a row is in none of them once in 4,000 times
        monkeypatch.setattr(parts, "digest", lambda path, part, turn=turn: str(turn))
        printed = place.run("--stale", "--draw", "2", seeds=3)
        assert "4 rows read, 2 computed" in printed and "4 of the rows read are of earlier code" in printed
        assert len(place.tiny.computed) == 2
        asked |= set(place.tiny.computed)
    assert len(asked) == 6
    assert "5 rows read, 1 computed" in place.run("--fresh", "--draw", "1", "--only", "first", seeds=3)
    with pytest.raises(SystemExit):
        place.run("--draw", "0")


def test_rows_whose_changes_moved_no_row_are_not_computed_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(seeds=4)
    monkeypatch.setattr(parts, "digest", lambda path, part: "changed")
    assert "8 of the rows read are of earlier code, or" in place.run(seeds=4)
    printed = place.run("--stale", "--draw", "3", seeds=4)
    assert "5 rows read, 3 computed" in printed and "or do not say" not in printed
    assert "5 of the rows read are of earlier code, whose changes since moved no row that was computed again" in printed
    assert "8 rows read, 0 computed" in place.run("--stale", seeds=4)
    monkeypatch.setattr(parts, "digest", lambda path, part: "changed again")
    monkeypatch.setattr(place.tiny, "compute", lambda name: lambda seed: {"value": [-1.0, None]})
    assert "5 of the rows read are of earlier code, or" in place.run("--stale", "--draw", "3", seeds=4)


def test_texts_of_seeds_that_differ_are_counted_and_go_before_numbers() -> None:
    """What one seed says does not stand for all of them."""
    rows = [
        {"by": "a", "all": "x", "some": [1.0, None]},
        {"by": "b", "all": "x", "some": "diverges"},
        {"by": "b", "all": "x"},
    ]
    found = tables.combine(cast(list[Values], rows))
    assert found == {"seeds": (3.0, None), "by": "b (2 of 3)", "all": "x", "some": "diverges (1 of 2)"}


def test_a_row_that_is_computed_again_says_which_of_its_values_moved() -> None:
    assert tables.describe_moves({"a": [1.0, 0.5], "b": "x"}, {"a": [1.0, 0.5], "b": "x"}) == "all values as before"
    assert tables.describe_moves({"a": 1.0}, {"a": 0.5}) == "1 of 1 values moved: a 0.5000, before 1.0000"
    said = tables.describe_moves({"a": [1.0, None], "b": [2.0, 0.1]}, {"a": [1.0, None], "b": [2.5, 0.1], "c": "new"})
    assert said == "2 of 3 values moved: b 2.5000 ± 0.1000, before 2.0000 ± 0.1000; c new, before –"


def test_a_digest_does_not_depend_on_which_empty_fields_a_version_of_python_gives() -> None:
    """Functions and classes have ``type_params`` from 3.12 on; others may follow."""
    text = "@one\ndef f(x: int = 2) -> None:\n    return None\n\nclass A(B): y = lambda: (x, ...)\n"
    outline = lambda tree: parts.outline(tree, {})
    plain, padded = ast.parse(text), ast.parse(text)
    for node in ast.walk(padded):
        node._fields = (*node._fields, "of_another_version", "of_one_more")
        node.of_another_version, node.of_one_more = [], None  # type: ignore[attr-defined]
    assert outline(padded) == outline(plain)
    assert outline(ast.parse(text.replace("2", "3"))) != outline(plain)
    assert outline(ast.parse(text.replace("(x, ...)", "(x, 1)"))) != outline(plain)


MODULE = '''"""A module."""
import math as m
from .a import scale, other
LIMIT = 3

def f(x):
    """Double."""
    return 2 * x

class A(B):
    size: int = 2

    @property
    def y(self):
        return scale(self.size)

    @y.setter
    def y(self, value):
        def inner():
            return value
        self.size = inner()

if LIMIT:
    def g():
        return [m.pi for _ in range(2)]
'''


def digests_of(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """Return the digests of all parts of a module of this text."""
    (folder / "sdegen").mkdir(exist_ok=True)
    (folder / "sdegen" / "module.py").write_text(text)
    monkeypatch.setattr(parts, "ROOTS", (folder / "sdegen",))
    try:
        return {name: parts.digest("sdegen/module.py", name) for name in ("", *parts.names("sdegen/module.py"))}
    finally:
        parts.parts.cache_clear()
        parts.digest.cache_clear()


CHANGES = {  # what is put in the place of what, and the parts that it ages
    "a docstring": ("Double.", "Twice the number.", set()),
    "a comment and the layout": ("return 2 * x", "# twice\n    return (2\n        *x)", set()),
    "a function": ("2 * x", "3 * x", {"f"}),
    "one of two definitions of a property": ("value\n        self", "value + 1\n        self", {"A.y"}),
    "a constant": ("LIMIT = 3", "LIMIT = 4", {""}),
    "a field": ("int = 2", "int = 3", {""}),
    "an import of one name": ("import scale, other", "import other, scale", set()),
    "another origin of a name": ("from .a", "from .b", {"A.y"}),
    "another module by a name": ("import math as m", "import cmath as m", {"g"}),
    "a function under a condition": ("range(2)", "range(3)", {"g"}),
    "one more function": ("LIMIT = 3", "LIMIT = 3\ndef more(): pass", {"more"}),
    "one more method": ("int = 2", "int = 2\n    def more(self): pass", {"", "A.more"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_ages_the_parts_that_it_touches(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, touched = CHANGES[what]
    assert MODULE.count(old) == 1
    was, now = (digests_of(text, tmp_path, monkeypatch) for text in (MODULE, MODULE.replace(old, new)))
    assert list(was) == ["", "f", "A.y", "g"]
    assert {name for name in now if now[name] != was.get(name)} == touched


def test_running_code_belongs_to_its_outermost_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests_of(MODULE, tmp_path, monkeypatch)
    belongs = {
        "f": "f", "A.y": "A.y", "A.y.<locals>.inner": "A.y", "g.<locals>.<listcomp>": "g", "<module>": "", "A": "",
        "A.<lambda>": "", "<lambda>": "",
    }  # fmt: skip
    assert {name: parts.part_of("sdegen/module.py", name) for name in belongs} == belongs
    assert parts.path_of(str(tmp_path / "sdegen" / "module.py")) == "sdegen/module.py"
    assert parts.path_of(json.__file__) is None
    assert parts.digest("sdegen/module.py", "no_such_function") is None is parts.digest("sdegen/none.py", "")


def test_the_table_of_drawn_targets_is_refused_without_one_of_its_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_table.peers, "deterministic", lambda: {})
    with pytest.raises(ImportError, match=f"{drawn_table.PEERS[0]} is not installed"):
        drawn_table.by_peers(drawn_table.Drawn("VP", "points, 2–8", 1), 5)


def test_the_table_of_solvers_names_the_peers_that_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A best peer among fewer is another measure, by which the default would look better."""
    monkeypatch.setattr(command, "run", lambda *_, **__: None)
    for name, present in (("k_diffusion", ("diffusers", "azula")), ("", ("diffusers", "azula", "k_diffusion"))):
        monkeypatch.setattr(importlib.util, "find_spec", lambda peer, present=present: peer in present or None)
        importlib.import_module("benchmarks.solver_table").main()
        said = capsys.readouterr().err
        assert said.startswith(f"{name} not installed: best peers") if name else not said


def test_settings_of_images_are_refused_of_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["families_table", "--preset", "source"])
    with pytest.raises(SystemExit, match="--preset source is of trainings on images: add --data"):
        families_table.main()


COMPLETE = [
    "conditional_images", "conditional_table", "drawn_table", "misfit_table", "parallel_table", "series_table",
    "weighted_table", "latent_codes --preset source",
    "bounded_table", "kl_table", "mode_categories", "solver_table",
    "sources_table", "speed", "guided_modes", "posterior_table", "train_speed", "likelihood_table",
    "inference_table",
    "families_table", *(f"restore_images --data {name}" for name in ("fashion_mnist", "sprites")),
    *(f"fid_table --data {name}" for name in ("digits", "fashion_mnist")),
    *(f"families_table --data {name}" for name in ("digits", "fashion_mnist", "mnist")),
]  # fmt: skip
PARTIAL = [
    "codec_table", "columns_table", "fields_table", "flow_map_table",
    "latent_codes", "race", "unnormalised_table", "weighted_digits",
    "fid_table --data mnist", "fid_table --data sprites",
    "fid_table --data mnist --count 10000", "fid_table --data fashion_mnist --count 10000", "likelihood_recipe",
]  # fmt: skip


@pytest.fixture(scope="module")
def evidence() -> alike.Evidence:
    """What the committed rows say of changes, which is of all tables."""
    return alike.Evidence([tables.COMMITTED])


@pytest.mark.skipif(not tables.COMMITTED.exists(), reason="a source distribution leaves the rows of the tables out")
@pytest.mark.parametrize("line", COMPLETE + PARTIAL)
def test_the_committed_table_is_what_its_rows_say(
    line: str, evidence: alike.Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, *options = line.split()
    monkeypatch.setattr(tables, "Evidence", lambda folders: evidence)
    found: list[tables.Table] = []

    def only_read(name: str, description: str, blocks: Any, **settings: Any) -> None:
        more = settings.get("options", command.add_nothing)
        args = command.parse_arguments(name, description, settings.get("seeds", 3), more)
        found.append(command.ask_all(tables.Table(Path(name), args), blocks))

    monkeypatch.setattr(command, "run", only_read)
    monkeypatch.setattr(sys, "argv", [name, *options, "--out", str(tmp_path)])
    importlib.import_module(f"benchmarks.{name}").main()
    assert found[0].read and (line in PARTIAL or not found[0].left)
    for folder in {folder for folder, _ in found[0].read}:
        seen = {key for where, key in found[0].read if where == folder}
        kept = read(tables.COMMITTED / folder / "rows.jsonl")
        assert seen == {
            key for key in kept if key.block in {key.block for key in seen}
        }  # the others are of other images
    written = list(tmp_path.rglob("*.md"))
    assert written
    for path in written:
        ours, theirs = (
            {row for row in file.read_text().splitlines() if not row.endswith("– | – |")}
            for file in (path, tables.COMMITTED / path.relative_to(tmp_path))
        )
        assert ours == theirs, path.name


def test_a_training_of_the_peer_ends_where_an_epoch_begins_after_its_time() -> None:
    trainer = SimpleNamespace(epoch=0)
    late, early = (inference_peers.ones_until(end, trainer) for end in (-1.0, float("inf")))
    for batch in range(3 * 5):  # three epochs, the last of which has no time
        trainer.epoch = batch // 5
        assert torch.equal(early(torch.zeros(7, 2)), torch.ones(7))
        if batch == 10:
            with pytest.raises(inference_peers.Spent):
                late(torch.zeros(7, 2))
        else:
            assert torch.equal(late(torch.zeros(7, 2)), torch.ones(7))


def test_ends_of_chains_have_the_moments_of_a_posterior_that_is_known() -> None:
    """Two normal numbers, both pushed by the same noise: precisions add."""
    noise = torch.tensor([[0.3, 0.2], [0.2, 0.4]], dtype=torch.float64)
    prior, law = (
        Independent(Normal(torch.zeros(2), torch.ones(2)), 1),
        MultivariateNormal(torch.zeros(2).double(), noise),
    )
    x = torch.tensor([1.0, -0.5])
    with seeded(torch.Generator().manual_seed(0)):
        theta = simulators.mixed(prior, lambda theta, x: law.log_prob(x - theta), x, 1000, rounds=60).double()
    covariance = (torch.eye(2) + noise.inverse()).inverse()
    mean = covariance @ noise.inverse() @ x.double()
    assert ((theta.mean(0) - mean).abs() < 4 * (covariance.diagonal() / 1000).sqrt()).all()
    assert torch.allclose(theta.T.cov(), covariance, atol=0.04)


def test_draws_on_a_grid_have_the_moments_of_a_posterior_that_is_known() -> None:
    """Two numbers whose logarithms are normal, these pushed by the same noise: precisions add. A narrow one, and a wide one."""
    prior, x = Independent(LogNormal(torch.zeros(2), torch.ones(2)), 1), torch.tensor([1.0, -0.5])
    for noise in torch.tensor([[[0.3, 0.2], [0.2, 0.4]], [[3e-4, 2e-4], [2e-4, 4e-4]]], dtype=torch.float64):
        law = MultivariateNormal(torch.zeros(2).double(), noise)
        with seeded(torch.Generator().manual_seed(0)):
            theta = simulators.gridded(prior, lambda theta, x, law=law: law.log_prob(x - theta.log()), x, 4000)
        u, covariance = theta.double().log(), (torch.eye(2) + noise.inverse()).inverse()
        mean, std = covariance @ noise.inverse() @ x.double(), covariance.diagonal().sqrt()
        assert ((u.mean(0) - mean).abs() < 4 * std / 4000**0.5).all()
        assert torch.allclose(
            u.T.cov(), covariance, atol=0.1 * covariance.min().item() + 0.05 * covariance.max().item()
        )


def test_the_likelihood_of_a_spread_of_zero_is_none() -> None:
    likelihood = simulators.plane_likelihood(torch.tensor([[0.1, 0.2, 0.0, 1.0, 0.3]]).double(), torch.ones(8).double())
    assert likelihood < -1e20


def test_densities_of_the_law_of_columns_are_normalised() -> None:
    """Stein's identity, ``E x d log p / dx = −1``, of numbers; and regions given all else have probabilities that sum to one."""
    drawn = columns_law.draw(20_000, torch.Generator().manual_seed(0))
    for name in ("warmth", "income", "spare", "mood", "rent"):
        x = drawn[name].clone().requires_grad_()
        (slope,) = torch.autograd.grad(columns_law.log_terms(drawn | {name: x}).sum(), x)
        ends = (1 - x) if name == "spare" else torch.ones(())  # a field that vanishes at both ends of the interval
        found = (x * ends * slope + (1 - 2 * x if name == "spare" else 1)).detach()
        assert abs(found.mean()) < 5 * found.std() / len(found) ** 0.5, name
    drawn = columns_law.silenced(drawn, torch.Generator().manual_seed(1))
    every = [columns_law.log_region(drawn | {"region": torch.full_like(drawn["region"], k)}) for k in range(3)]
    assert torch.allclose(torch.stack(every).exp().sum(0), torch.ones(20_000).double())
    gone = columns_law.log_terms(drawn)[drawn["mood"].isnan(), columns_law.CHAIN.index("mood")]
    assert torch.allclose(gone, columns_law.SILENT[drawn["region"][drawn["mood"].isnan()].long()].log())


@pytest.mark.skipif(not tables.COMMITTED.exists(), reason="a source distribution leaves the rows of the tables out")
def test_every_table_with_committed_rows_is_compared_with_them() -> None:
    tested = {line.split()[0] for line in COMPLETE + PARTIAL}
    assert tested == {path.relative_to(tables.COMMITTED).parts[0] for path in tables.COMMITTED.rglob("rows.jsonl")}


def test_a_model_of_images_is_trained_beside_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_images", "sprites", "--preset", "source", "--steps", "2"])
    train_images.main()
    card = json.loads((tmp_path / "results/train_images/sprites-source/card.json").read_text())
    assert card["steps"] == 2 and card["command"].endswith("sprites --preset source --steps 2")
    assert card["share of the recipe"] == round(2 / (500 * 2321 / 64), 4) and card["device"] == "CPU"
    assert (tmp_path / "results/train_images/models/sprites-source.safetensors").exists()


@pytest.mark.slow
def test_a_flow_map_of_images_is_trained_beside_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_flow_maps, "PLANS", {"sprites": train_flow_maps.Plan(2, batch=4, paths=6, nodes=2)})
    for more in ([], ["--hours"]):
        monkeypatch.setattr(sys, "argv", ["train_flow_maps", "sprites", *more])
        train_flow_maps.main()
    card = json.loads((tmp_path / "results/train_flow_maps/sprites/card.json").read_text())
    assert card["steps"] == 2 and card["hours of the run on one core"] >= 0
    model = sdegen.load(tmp_path / "results/train_flow_maps/models/sprites-2.safetensors", dtype=torch.float32)
    assert sdegen.sample(model, 2, sampler=samplers.Jumps(2), seed=0, label=1).shape == (2, 3, 16, 16)


def test_a_method_refuses_a_measurement_and_a_fault_is_no_refusal() -> None:
    def faulty(problem: Problem, n: int, seed: int) -> tuple[torch.Tensor, int]:
        raise TypeError("unsupported operand type(s) for +: 'int' and 'str'")

    for name in ("replacement, flow, 10", "Kalman update, flow, 10", "RePaint"):
        assert posterior_table.compute(posterior_table.methods(True)[name], magnitude, 1, 0) == {"sliced W2": "refuses"}
    with pytest.raises(TypeError, match="unsupported operand"):
        posterior_table.compute(faulty, magnitude, 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "row", "count"),
    [
        ("kl_table", "hypernetwork", 1),
        ("kl_table", "sliced 1", 1),
        ("kl_table", "annealed", 1),
        ("kl_table", "implicit, σ = 1", 1),
        ("kl_table", "OU", 3),
        ("solver_table", "Multistep 2, corrected", 1),
        ("solver_table", "ring: Churn", 2),
        ("solver_table", "VP, ring", 2),
        ("posterior_table", "DPS, flow, 10", 5),
        ("posterior_table", "annealed SMC", 10),
        ("posterior_table", "2 dimensions", 2),
        ("misfit_table", "noise 0.5", 1),
        ("weighted_digits", "w = 1.25", 2),
        ("guided_modes", "w = 1, network", 1),
        ("latent_codes", "as it is built", 1),
        ("mode_categories", "τ = 2", 1),
        ("fields_table", "UNet", 2),
        ("inference_table", "Gaussian linear, 10-D, score", 1),
        ("inference_table", "one round of 2,000", 1),
        ("families_table", "8 categories", 1),
        ("families_table", "residual flow", 2),
        ("speed", "512", 1),
        ("parallel_table", "DDPM, 1000 steps, window 1000", 1),
        ("sources_table", "GAN", 2),
        ("sources_table", "guided", 1),
        ("conditional_table", "ΠGDM", 2),
        ("posterior_table", "exact score of the posterior", 2),
        ("restore_images --data sprites", "blurred replacement", 1),
        ("conditional_images", "half missing trained", 1),
        ("likelihood_table", "hutch++, 4", 1),
        ("likelihood_table", "OU, uniform", 1),
        ("likelihood_table", "ours, CLD, 1e-05", 1),
        ("likelihood_table", "short kernels", 1),
        ("likelihood_table", "learned schedule", 1),
        ("likelihood_recipe", "ends learned", 1),
        ("likelihood_recipe", "noise learned", 3),
        ("likelihood_recipe", "digits, 8 x 8", 1),
    ],
)
def test_a_row_of_every_kind_is_computed(
    line: str, row: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = line.split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *options, "--quick", "--jobs", "1", "--only", row])
    importlib.import_module(f"benchmarks.{name}").main()
    assert f"0 rows read, {count} computed" in capsys.readouterr().out
    lines = [line for file in tmp_path.rglob("rows.jsonl") for line in read(file).values()]
    assert len(lines) == count and all(line["values"] for line in lines)


# A row of each table whose networks are trained or asked on a device, and what it does with the first of them.
ON_A_DEVICE = {
    "bounded_table": "CIR, trained", "columns_table": "one network", "conditional_images": "half missing trained",
    "families_table": "VAE", "fid_table": "DDIM, 10", "fields_table": "UNet", "flow_map_table": "default sampler, 2",
    "guided_modes": "w = 1, network", "kl_table": "OU, uniform", "latent_codes": "codes of the VAE",
    "likelihood_recipe": "digits", "likelihood_table": "CLD, inverse variance", "mode_categories": "large encoder",
    "restore_images --data sprites": "blurred replacement",
    "series_table": "network", "sources_table": "VAE", "solver_table": "10,000 samples", "codec_table": "digits",
    "parallel_table": "DDIM, 200 steps, window 200", "unnormalised_table": "adjoint",
    "weighted_digits": "plain",
}  # fmt: skip
TABLES = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if "\n    command.run(" in p.read_text())


SCRIPTS = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if "\ndef main() -> None:\n" in p.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_help_of_a_script_is_its_docstring_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the table or the training is, by which command, and what each option does."""
    found: list[argparse.ArgumentParser] = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda parser: found.append(parser) or exit())
    module = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit):
        module.main()
    said = found[0].format_help()
    assert module.__doc__ is not None and module.__doc__.strip() in said
    assert found[0].prog == f"python -m benchmarks.{name}"
    assert f"\n    python -m benchmarks.{name}" in module.__doc__
    assert all(action.help for action in found[0]._actions)


@pytest.mark.parametrize("option", ["--jobs", "--threads", "--draw"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x"])
def test_what_is_no_number_to_count_by_is_refused(option: str, value: str, place: Place) -> None:
    with pytest.raises(SystemExit):
        place.run(f"{option}={value}")
    assert f"argument {option}: {value} is no number to count by" in place.capsys.readouterr().err


class Reached(Exception):
    """A network was about to be trained or asked."""


def look(model: Any, *_: Any, **__: Any) -> None:
    """Stop where a network would be trained or asked, and say on which device it is."""
    device = model.like.device if isinstance(model, sdegen.ScoreModel) else next(model.parameters()).device
    raise Reached(device.type)


@pytest.mark.parametrize("name", [*TABLES, "train_images", "conditional_training", "train_family", "train_flow_maps"])
def test_a_device_that_holds_no_numbers_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = () if torch.cuda.is_available() else ("cuda",)
    for device in ("nowhere", "meta", *absent):
        options = (TRAININGS | {"train_flow_maps": ["sprites"]}).get(name, [])
        monkeypatch.setattr(sys, "argv", [name, *options, "--device", device])
        with pytest.raises(SystemExit):
            importlib.import_module(f"benchmarks.{name}").main()
        assert f"no numbers can be held on the device '{device}'" in capsys.readouterr().err


@pytest.mark.parametrize("line", [*ON_A_DEVICE, *(name for name in TABLES if name not in str(list(ON_A_DEVICE)))])
@pytest.mark.turns("conditional_images", "fid_table", "series_table")
def test_no_table_ignores_a_device(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has its networks there, or refuses any but the CPU: seen on a device that every machine has."""
    name, *options = line.split()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "usable", str)
    monkeypatch.setattr(sdegen, "fit", look)
    monkeypatch.setattr(sdegen, "sample", look)
    argv = [name, *options, "--quick", "--jobs", "1", "--device", "meta"]
    monkeypatch.setattr(sys, "argv", [*argv, "--only", ON_A_DEVICE.get(line, "")])
    main = importlib.import_module(f"benchmarks.{name}").main
    if line in ON_A_DEVICE:
        with pytest.raises(Reached, match=r"^meta$"):
            main()
    else:
        with pytest.raises(SystemExit):
            main()
        assert f"{name} is of true scores or of times of a CPU" in capsys.readouterr().err


TRAININGS = {
    "train_images": ["sprites", "--preset", "source"], "conditional_training": [], "train_family": ["VAE", "--data", "digits"],
}  # fmt: skip


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.turns("conditional_training")
def test_a_training_runs_on_the_device_that_is_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "usable", str)
    monkeypatch.setattr(sdegen, "fit", look)
    monkeypatch.setattr(sys, "argv", [name, *TRAININGS[name], "--device", "meta"])
    with pytest.raises(Reached, match=r"^meta$"):
        importlib.import_module(f"benchmarks.{name}").main()


def test_a_family_is_trained_alone_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train_family", "VAE", "--data", "digits", "--steps", "3"])
    taken: list[int] = []
    fit = sdegen.fit

    def counted(*args: Any, callbacks: list[Any], **more: Any) -> sdegen.Run:
        return fit(*args, **more, callbacks=[*callbacks, lambda step: taken.append(step.step)])

    monkeypatch.setattr(sdegen, "fit", counted)
    for _ in range(2):
        importlib.import_module("benchmarks.train_family").main()
    assert taken == [1, 2, 3]  # the second run has nothing left to do
    assert '"data": "digits, 1,438 training images"' in capsys.readouterr().out
    model = sdegen.load(tmp_path / "results" / "train_family" / "digits-own" / "VAE-0-3.safetensors")
    assert model.sample(2).shape == (2, 1, 8, 8)


def test_a_recipe_goes_on_in_a_longer_run_with_the_losses_of_both_players(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(followed.MeanLoss.__init__, "__defaults__", (2,))
    monkeypatch.setattr(followed.BothPlayers.__init__, "__defaults__", (2,))
    folder = tmp_path / "results" / "train_family" / "digits-source"
    for steps, epochs in ((4, 0.18), (6, 0.27)):
        options = ["GAN", "--data", "digits", "--preset", "source", "--steps", str(steps)]
        monkeypatch.setattr(sys, "argv", ["train_family", *options])
        importlib.import_module("benchmarks.train_family").main()
        card = json.loads((folder / "GAN-0.json").read_text())
        assert card["steps"] == steps and card["epochs"] == epochs
        assert card["share of the recipe"] == round(steps / 2300, 4)  # 100 epochs of 23 batches
    losses, players = (followed.Points(file).read() for file in followed.files_of(folder / "GAN-0"))
    assert [point["step"] for point in losses] == [point["step"] for point in players] == [2, 4, 6]
    assert all(point["L_D"] > 0 and point["L_G"] > 0 for point in players)
    told = re.findall(r"GAN-0: step (\d+) of (\d+), \d+ s\n", capsys.readouterr().err)
    assert told == [("1", "4"), ("4", "4"), ("5", "6"), ("6", "6")]  # where it begins and goes on, and where it ends


def test_points_of_steps_that_are_gone_over_again_are_those_of_the_last_time(tmp_path: Path) -> None:
    points = followed.Points(tmp_path / "points.csv")
    for step in (2, 4, 6, 4):
        points.add(step, {"loss": step + 0.5, "s.e.": 0.1})
    assert points.read() == [{"step": 2.0, "loss": 2.5, "s.e.": 0.1}, {"step": 4.0, "loss": 4.5, "s.e.": 0.1}]


def test_losses_are_named_where_there_are_several(tmp_path: Path) -> None:
    """A model alone has no players."""
    for stem, player in (("GAN", True), ("VAE", False)):
        losses, players = followed.files_of(tmp_path / stem)
        followed.Points(losses).add(2, {"seconds": 1.0, "loss": 3.0})
        if player:
            followed.Points(players).add(2, {"L_D": 1.0, "L_G": 2.0})
        ax = Figure().subplots()
        followed.draw_losses([losses, players], ax)
        names = [text.get_text() for text in legend.get_texts()] if (legend := ax.get_legend()) else []
        assert names == (["both players", "critic", "generator"] if player else [])


def test_heads_that_share_their_images_share_the_error_over_these() -> None:
    by_seed: dict[int, Values] = {k: {"ε = 0": [0.8 + 0.01 * k, 0.02], "of": [100, None]} for k in range(3)}
    cells = latent_codes.over_images(by_seed)
    assert cells["ε = 0"] == pytest.approx((0.81, 0.02)) and cells["seeds"] == (3.0, None)
    assert latent_codes.over_images({}) == {}


@pytest.mark.slow
def test_a_model_for_bits_keeps_the_device_that_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be judged on another."""
    monkeypatch.setattr(likelihood_recipe, "both", lambda *_: {})
    monkeypatch.setattr(likelihood_training, "called", lambda device: "a large accelerator")
    args = argparse.Namespace(quick=True, device="cpu", seconds=None, out=tmp_path, own=False)
    table = tables.Table(Path("likelihood_recipe_quick"), args)
    assert likelihood_recipe.judged(table, "digits", 0)["device"] == "a large accelerator"
    monkeypatch.undo()
    monkeypatch.setattr(likelihood_recipe, "both", lambda *_: {})
    assert likelihood_recipe.judged(table, "digits", 0)["device"] == "a large accelerator"


@pytest.mark.slow
def test_other_formats_take_more_images_than_webp_has_rows_of_pixels() -> None:
    whole, first, rest = (
        codec_table.measure_others(torch.zeros(n, 1, 28, 28, dtype=torch.uint8))["WebP"] for n in (600, 585, 15)
    )
    assert whole == first + rest


@pytest.mark.slow
def test_the_stated_error_of_a_bound_is_that_of_its_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few images by two draws and of most by one: the mean over all varies from seed to seed as the error says."""
    monkeypatch.setattr(codec_table, "TWICE", 10)
    law = sdegen.GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.full((1,), 0.3))
    model, scaling = sdegen.Exact(sdegen.VP(), law), Scaling(-1, 1, 17)
    x = scaling.inverse(law.sample(40, torch.Generator().manual_seed(0)), clip=True)
    times = sdegen.grids.LogSNR(end=model.sde.time(scaling.step**-2).item(), digits=3)(model.sde, 10)
    found = [codec_table.bounds(model, x, scaling, times, torch.Generator().manual_seed(k)) for k in range(100)]
    means = torch.stack([bits.mean() for bits, _ in found])
    stated = torch.tensor([error for _, error in found]).square().mean().sqrt()
    assert all(len(bits) == 40 for bits, _ in found)
    assert means.std().item() == pytest.approx(stated.item(), rel=0.25)  # three standard errors over 100


def test_a_mode_with_a_category_of_its_own_is_told_from_one_that_shares() -> None:
    whole, shared = torch.eye(8).roll(3, 1) * 100, torch.eye(8)[torch.arange(8) // 2] * 100
    assert families_table.own_category(whole) == {"own category": [1.0, None], "categories": [8, None]}
    assert families_table.own_category(shared) == {"own category": [1.0, None], "categories": [4, None]}
    split = whole + whole.roll(1, 1)  # every mode has two categories, evenly
    assert families_table.own_category(split)["own category"] == [0.5, None]
    cells: Values = {"confusion": " ".join(str(v / 100) for v in whole.flatten().tolist())}
    assert torch.equal(mode_categories.read(cells), torch.eye(8))
