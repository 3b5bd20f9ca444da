"""Changes of code that moved no row: what rows that were computed again say of rows that were not.

A row that is computed again by other code is compared with what it was. Where no value moved by more than rounding does, it keeps
the codes of before as those that it is alike to, and each function that it calls and that has other statements since is a change
that was seen to move nothing. A row that was not computed again is as good as of today's code when that holds of all that changed
in its own: each change was called by some rows that came out alike, and no row of its table that changed in nothing else moved.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import origins, rows
from benchmarks.files import Line
from benchmarks.origins import Change, Code
from benchmarks.rows import Values

ROUNDING = 0.01  # share of a value's standard error: a value that moves no further is alike
RELATIVE = 1e-6  # share of the value itself, for values without a standard error
ENOUGH = 3  # rows that have to call a change before it is believed to move none
TIMES = {"s", "ms", "µs", "CPU", "seconds", "minutes", "time"}  # words in the names of values that no two runs share


class Again(NamedTuple):
    """A row that was computed again.

    Attributes
    ----------
    table
        The folder of its table.
    changes
        The functions that it calls and that have other statements than before.
    alike
        Whether its values are what they were.
    """

    table: Path
    changes: frozenset[Change]
    alike: bool

    @property
    def restated(self) -> frozenset[Change]:
        """The changes but for what it calls no more, which is what those bring about and may stand as it was."""
        return frozenset(change for change in self.changes if change.now is not None)


class Evidence:
    """What the rows of some folders that were computed again say of changes of the code.

    Parameters
    ----------
    folders
        Folders of results, each with a folder for every table.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = list(folders)

    @cached_property
    def rows(self) -> list[Again]:
        """The rows that were computed again, once for each code that they are compared with."""
        found: dict[tuple[Path, rows.Key, str], Again] = {}
        for folder in self.folders:
            for file in sorted(folder.rglob(rows.FILE)):
                table = file.parent.relative_to(folder)
                known = origins.Origins(file.parent / origins.FILE)
                for key, line in rows.read(file).items():
                    for before, alike in earlier(line):
                        was, now = known.code(before), known.code(line["code"])
                        if was is not None and now is not None:
                            found[table, key, before] = Again(table, between(was, now), alike)
        return list(found.values())

    @cached_property
    def steps(self) -> dict[Change, set[str | None]]:
        """By each part as it was, with `now` left out, what it became without moving any of enough rows that call it."""
        called = Counter(change for row in self.rows if row.alike for change in row.changes)
        found: dict[Change, set[str | None]] = {}
        for change, count in called.items():
            if count >= ENOUGH:
                found.setdefault(change._replace(now=None), set()).add(change.now)
        return found

    def harmless(self, change: Change) -> bool:
        """Tell whether a change, or several that lead to it one after another, moved no row."""
        met: set[str] = set()
        ahead = {change.was}
        while ahead:
            was = ahead.pop()
            met.add(was)
            became = self.steps.get(change._replace(was=was, now=None), set())
            if change.now in became:
                return True
            ahead |= {one for one in became if one is not None} - met
        return False

    def covers(self, table: Path, changes: frozenset[Change]) -> bool:
        """Tell whether a row of a table, with these changes of its code since, is as good as of today's code."""
        moved = any(row.table == table and row.restated <= changes for row in self.rows if not row.alike)
        return not moved and all(self.harmless(change) for change in changes)


def earlier(line: Line) -> list[tuple[str, bool]]:
    """Return the codes that a row was computed by before, each with whether the values are alike."""
    return [(code, True) for code in line.get("alike", [])] + [(code, False) for code in line.get("moved", [])]


def between(was: Code, now: Code) -> frozenset[Change]:
    """Return what a row calls by other statements than before; what it calls no more is nothing now."""
    return frozenset(
        Change(path, part, digest, became)
        for path, found in was.items()
        if not origins.silent(path)
        for part, digest in found.items()
        if (became := now.get(path, {}).get(part)) != digest
    )


def compare(before: Line | None, values: Values, code: str) -> dict[str, list[str]]:
    """Return what a row that is computed again, by some code, keeps of the codes that computed it before."""
    if before is None or "code" not in before:
        return {}
    same = are_alike(before["values"], values)
    if not same and before["code"] == code:
        return {}
    like, unlike = [before["code"], *before.get("alike", [])], before.get("moved", [])
    kept = {"alike": like, "moved": unlike} if same else {"moved": like}
    codes = {name: [one for one in dict.fromkeys(of) if one != code] for name, of in kept.items()}
    return {name: of for name, of in codes.items() if of}


def are_alike(before: Values, now: Values) -> bool:
    """Tell whether the values that a row has had before are what they were, but for rounding and times."""
    names = [name for name in before if name in now and not is_time(name)]
    return bool(names) and all(is_close(before[name], now[name]) for name in names)


def is_time(name: str) -> bool:
    """Tell by its name whether a value is a time, such as ``train s``, or a ratio of two."""
    return not TIMES.isdisjoint(re.findall(r"\w+", name))


def is_close(was: Any, now: Any) -> bool:
    """Tell whether a value is what it was, but for rounding."""
    (a, error), (b, _) = (cell if isinstance(cell, list | tuple) else (cell, None) for cell in (was, now))
    if isinstance(a, int | float) and isinstance(b, int | float):
        same = a == b or (math.isnan(a) and math.isnan(b))
        width = max(ROUNDING * (error or 0.0), RELATIVE * abs(a))
        return same or (math.isfinite(width) and abs(a - b) <= width)
    return bool(a == b)
