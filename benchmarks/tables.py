"""One run of a table: rows that are read or computed, their means over seeds, and the table as CSV and Markdown."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from subprocess import CalledProcessError, run
from typing import Any

import torch

from benchmarks import alike, origins
from benchmarks.alike import Evidence
from benchmarks.devices import called
from benchmarks.origins import Origins, Watch
from benchmarks.rows import FILE, Key, Rows, Values
from benchmarks.tickets import Tickets, Who

COMMITTED = Path(__file__).parent / "results"
DIGITS = 4  # digits in messages about rows that are computed again


@dataclass
class Table:
    """The rows that a run reads or computes, and the folder that it writes to.

    Attributes
    ----------
    folder
        The folder of the table, below that of all results.
    args
        The options of the command.
    tickets
        The rows that processes of this run are to compute; None to compute none.
    done
        Rows that this run has computed, once it has computed all; rows that exist are asked for again only before, when None.
    written
        Whether tables are written, as they are once all rows are there.
    watched
        Whether the modules that a row calls are found by watching; those of what is timed are all.
    read, computed, left
        Rows met so far: read from a file, computed in this run, and not there.
    vouched
        Rows read that are of earlier code, whose changes since were seen to move no row (`benchmarks.alike`).
    aged
        Rows read that are of other earlier code, or do not say of which.
    """

    folder: Path
    args: argparse.Namespace
    tickets: Tickets | None = None
    done: frozenset[Who] | None = None
    written: bool = True
    watched: bool = True
    read: set[Who] = field(default_factory=set)
    computed: set[Who] = field(default_factory=set)
    left: set[Who] = field(default_factory=set)
    vouched: set[Who] = field(default_factory=set)
    aged: set[Who] = field(default_factory=set)

    @property
    def quick(self) -> bool:
        """Whether trainings are short and samples few."""
        return self.args.quick

    @property
    def device(self) -> str:
        """The device of networks and samples."""
        return self.args.device

    @property
    def out(self) -> Path:
        """The folder that is written to."""
        return self.args.out / self.folder

    def committed(self, name: str) -> list[Path]:
        """Return where the committed file of this name is; nowhere where only own rows are asked for."""
        return [] if self.args.own else [COMMITTED / self.folder / name]

    @cached_property
    def rows(self) -> Rows:
        """The rows that exist: those of the folder written to, then the committed ones."""
        return Rows(self.out / FILE, self.committed(FILE))

    @cached_property
    def origins(self) -> Origins:
        """The code that rows are of."""
        return Origins(self.out / origins.FILE, self.committed(origins.FILE))

    @cached_property
    def evidence(self) -> Evidence:
        """What rows that were computed again say of changes of the code, of all folders that rows are read from."""
        return Evidence([self.args.out, *([] if self.args.own else [COMMITTED])])

    def within(self, folder: str) -> Table:
        """Return the table in a folder of this one, with rows of its own that count as this one's."""
        return self._at(self.folder / folder)

    def beside(self, name: str) -> Table:
        """Return another table of the same results."""
        return self._at(Path(name))

    def _at(self, folder: Path) -> Table:
        """Return the table of another folder, with the same evidence: it is of all tables, and takes a second to read."""
        table = replace(self, folder=folder)
        table.evidence = self.evidence
        return table

    def file(self, name: str) -> Path:
        """Return where a file of the table is to be read: from the folder written to, or among the committed ones."""
        found = [path for path in (self.out / name, *self.committed(name)) if path.exists()]
        return found[0] if found else self.out / name

    def row(
        self,
        block: str,
        name: str,
        compute: Callable[[int], Values],
        seeds: int | None = None,
        once: bool = False,
        device: str | None = None,
    ) -> Values:
        """Return a row, the mean over its seeds (see `each` and `combine`)."""
        return combine(list(self.each(block, name, compute, seeds, once, device).values()))

    def each(
        self,
        block: str,
        name: str,
        compute: Callable[[int], Values],
        seeds: int | None = None,
        once: bool = False,
        device: str | None = None,
    ) -> dict[int, Values]:
        """Return the values of a row by seed: of all seeds that exist, and of those asked for.

        Parameters
        ----------
        block, name
            The part of the table, and the row's name in it.
        compute
            From a seed to the values of the row, where they do not exist.
        seeds
            How many are computed where the command does not say which; as many as of the table's other rows if None.
        once
            Whether one seed, 0, is enough, whatever the command says.
        device
            Where it is computed, which is noted beside it; on the command's device if None.
        """
        asked = self.args.seeds or list(range(1 if self.quick else seeds or self.args.default_seeds))
        if once:
            wanted = [0]
        elif self.args.fresh and self.chosen(name):
            wanted = asked
        else:
            wanted = sorted({*asked, *self.rows.seeds(block, name)})
        found = {seed: self.value(Key(block, name, seed), compute, device) for seed in wanted}
        return {seed: values for seed, values in found.items() if values}

    def again(self, key: Key) -> bool:
        """Tell whether a row that exists is to be computed again."""
        if self.done is not None:
            return False
        old = self.args.stale and not (self.current(key) or self.vouches(key))
        return (self.args.fresh or old) and self.chosen(key.name)

    def current(self, key: Key) -> bool:
        """Tell whether a row that exists is of today's code."""
        return self.origins.current(self.rows.lines[key].get("code"))

    def vouches(self, key: Key) -> bool:
        """Tell whether all that changed in the code of a row was seen to move no row."""
        changes = self.origins.changes(self.rows.lines[key].get("code"))
        return changes is not None and self.evidence.covers(self.folder, changes)

    def chosen(self, name: str) -> bool:
        """Tell whether ``--only`` lets a row be computed."""
        return self.args.only in name

    def value(self, key: Key, compute: Callable[[int], Values], device: str | None = None) -> Values:
        """Return the values of a row of one seed: those that exist, or computed and kept; empty if neither."""
        who = (self.folder, key)
        new = who in (self.done or ()) or who in self.computed
        if key in self.rows.lines and (new or not self.again(key)):
            (self.computed if new else self.read).add(who)
            if not new and not self.current(key):
                (self.vouched if self.vouches(key) else self.aged).add(who)
            return self.rows.lines[key]["values"]
        if self.tickets is None or not self.tickets.take(*who):
            self.left.add(who)
            return {}
        before = self.rows.lines.get(key)
        began = time.perf_counter()
        values, source = self.watch(compute, key.seed)
        seconds = time.perf_counter() - began
        if self.watched:  # rows that are not watched note all code, so a comparison would say nothing
            source |= alike.compare(before, values, source["code"])
        device = self.device if device is None else device
        where = {} if device == "cpu" else {"device": called(device)}
        self.rows.add(
            key, values, commit=find_commit(), torch=torch.__version__, **where, **source, seconds=round(seconds, 1)
        )
        self.computed.add(who)
        left = f"{len(self.tickets)} more to begin" if len(self.tickets) else "the last to begin"
        since = f"; {describe_moves(before['values'], values)}" if before else ""
        print(f"{key.block}: {key.name}, seed {key.seed}: {seconds:.0f} s, {left}{since}", file=sys.stderr, flush=True)
        return values

    def watch(self, compute: Callable[[int], Values], seed: int) -> tuple[Values, dict[str, Any]]:
        """Compute a row, and return it with the code that it is of and, where they could be counted, its steps of training."""
        if not self.watched:
            return compute(seed), {"code": self.origins.add(origins.everything())}
        with Watch() as watch:
            values = compute(seed)
        return values, {"code": self.origins.add(watch.code())} | ({"steps": watch.steps} if watch.steps else {})

    def write(self, stem: str, columns: dict[str, int], rows: dict[str, Values]) -> str:
        """Write the rows as CSV and Markdown and return the Markdown; `columns` maps each to its digits."""
        lines = ["| row | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for name, cells in rows.items():
            lines.append(f"| {name} | " + " | ".join(format_cell(cells.get(c), d) for c, d in columns.items()) + " |")
        markdown = "\n".join(lines) + "\n"
        if self.written:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / f"{stem}.md").write_text(markdown)
            write_csv(self.out / f"{stem}.csv", columns, rows)
        return markdown


def write_csv(path: Path, columns: dict[str, int], rows: dict[str, Values]) -> None:
    """Write the rows with all digits, each value followed by its standard error."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *(f"{c}{suffix}" for c in columns for suffix in ("", " s.e."))])
        for name, cells in rows.items():
            flat: list[Any] = []
            for column in columns:
                cell = cells.get(column)
                flat += [cell, ""] if isinstance(cell, str) or cell is None else [cell[0], cell[1]]
            writer.writerow([name, *flat])


@cache
def find_commit() -> str | None:
    """Return the commit that the code is of, with a mark where it was changed since; None where git does not know."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        return run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, CalledProcessError):
        return None


def combine(rows: list[Values]) -> Values:
    """Return means over seeds, as (value, standard error): over seeds where there are several, else the estimate's own.

    Rows that are empty are left out; ``seeds`` counts the others. Every value is a text, a number, or a pair of a number and
    its standard error; of texts see `combine_texts`.
    """
    rows = [r for r in rows if r]
    combined: Values = {"seeds": (float(len(rows)), None)} if rows else {}
    for key in dict.fromkeys(key for r in rows for key in r):
        cells = [r[key] for r in rows if r.get(key) is not None]
        if any(isinstance(cell, str) for cell in cells):
            combined[key] = combine_texts(cells)
        elif cells:
            combined[key] = combine_numbers([c if isinstance(c, list) else [c, None] for c in cells])
    return combined


def combine_texts(cells: list[Any]) -> str:
    """Return what most seeds have, and how many where not all have it; beside a text no mean of the numbers is left."""
    texts = Counter(cell for cell in cells if isinstance(cell, str))
    text, count = texts.most_common(1)[0]
    return text if count == len(cells) else f"{text} ({count} of {len(cells)})"


def combine_numbers(pairs: list[list[Any]]) -> tuple[float, float | None]:
    """Return the mean of numbers, each with its own standard error or None, and the standard error of the mean."""
    values = torch.tensor([value for value, _ in pairs], dtype=torch.float64)
    own = [stderr for _, stderr in pairs if stderr is not None]
    stderr = values.std().item() / len(values) ** 0.5 if len(values) > 1 else (own[0] if own else None)
    return values.mean().item(), stderr


def describe_moves(before: Values, now: Values) -> str:
    """Say which values of a row that is computed again are others than before, each beside what it was."""
    others = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not others:
        return "all values as before"
    shown = [
        f"{name} {format_cell(now.get(name), DIGITS)}, before {format_cell(before.get(name), DIGITS)}"
        for name in others
    ]
    return f"{len(others)} of {len(now)} values moved: {'; '.join(shown)}"


def format_cell(cell: Any, digits: int) -> str:
    """Return a cell as it is printed: ``value ± stderr``."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    value, stderr = (cell, None) if isinstance(cell, float | int) else cell
    form = f".{digits}f" if value == 0 or max(abs(value), stderr or 0.0) >= 10**-digits else ".0e"
    return f"{value:{form}}" if stderr is None or stderr == 0 else f"{value:{form}} ± {stderr:{form}}"
