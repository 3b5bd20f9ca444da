"""The rows of a table in one file, a line each and sorted, so that a difference shows what was computed and runs can be merged.

A line is a row of one seed: ``{"block": "kl", "row": "OU, uniform", "seed": 0, ..., "values": {"KL": [0.003, 0.001], ...}}``,
where every value is a text, a number or a pair of a number and its standard error. Between seed and values stands where a row
is from: ``commit``, ``torch``, the ``device`` if it is no CPU, the ``code`` that it called (`benchmarks.origins`), the codes that
it came out ``alike`` or ``moved`` from (`benchmarks.alike`), and the ``seconds`` it took; rows of before these were noted have
none. Two files are merged by putting one behind the other: of two lines of one row the later counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.files import Line, keep_lines, read_lines

Values = dict[str, Any]
FILE = "rows.jsonl"
WHAT = "row of a table"


class Key(NamedTuple):
    """What a line is found by: the part of the table, the row's name in it, and the seed."""

    block: str
    name: str
    seed: int


Lines = dict[Key, Line]


def key_of(line: Any) -> Key:
    """Return the key of a row.

    Raises
    ------
    TypeError
        If a part of the row is of another kind.
    """
    key = Key(line["block"], line["row"], line["seed"])
    if [type(part) for part in (*key, line["values"], line.get("code", ""))] != [str, str, int, dict, str]:
        raise TypeError(line)
    return key


def read(file: Path) -> Lines:
    """Return the lines of a file by their keys; none where there is no file.

    Raises
    ------
    ValueError
        If a line is no row.
    """
    return read_lines(file, key_of, WHAT)


class Rows:
    """The rows of a table.

    Parameters
    ----------
    file
        The file that new rows are written to; of two rows with one key its own counts, not that of a source.
    sources
        Files that are only read.
    """

    def __init__(self, file: Path, sources: Sequence[Path] = ()) -> None:
        self.file = file
        self.lines: Lines = {}
        for source in (*sources, file):
            self.lines |= read(source)

    def seeds(self, block: str, name: str) -> list[int]:
        """Return the seeds of a row that exist."""
        return [key.seed for key in sorted(self.lines) if key[:2] == (block, name)]

    def names(self, block: str) -> list[str]:
        """Return the names of a part's rows that exist."""
        return list(dict.fromkeys(key.name for key in sorted(self.lines) if key.block == block))

    def add(self, key: Key, values: Values, **source: Any) -> None:
        """Keep a row in the file, beside what other processes have written meanwhile."""
        line = {"block": key.block, "row": key.name, "seed": key.seed, **source, "values": values}
        self.lines[key] = line
        keep_lines(self.file, key_of, WHAT, [line])
