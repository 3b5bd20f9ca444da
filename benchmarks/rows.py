"""The rows of a table in one file, a line each and sorted, so that a difference shows what was computed and runs can be merged.

A line is a row of one seed: ``{"block": "kl", "row": "OU, uniform", "seed": 0, ..., "values": {"KL": [0.003, 0.001], ...}}``,
where every value is a text, a number or a pair of a number and its standard error. Between seed and values stands where a row
is from: ``commit``, ``torch`` and the ``seconds`` it took; rows of before these were noted have none. Two files are merged by
putting one behind the other: of two lines of one row the later counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.files import locked, write_whole

Values = dict[str, Any]
FILE = "rows.jsonl"


class Key(NamedTuple):
    """What a line is found by: the part of the table, the row's name in it, and the seed."""

    block: str
    name: str
    seed: int


Lines = dict[Key, dict[str, Any]]


def read(file: Path) -> Lines:
    """Return the lines of a file by their keys; none where there is no file.

    Raises
    ------
    ValueError
        If a line is no row.
    """
    lines: Lines = {}
    for number, text in enumerate(file.read_text().splitlines() if file.exists() else [], 1):
        try:
            line = json.loads(text)
            lines[Key(line["block"], line["row"], line["seed"])] = line
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of {file} is no row of a table: {text[:60]!r}; mend it or delete it."
            ) from error
    return lines


class Rows:
    """The rows of a table.

    Parameters
    ----------
    file
        Where new rows are written; its own come before those of the sources.
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
        with locked(self.file.parent):
            lines = read(self.file) | {key: line}
            text = "".join(json.dumps(lines[key], ensure_ascii=False) + "\n" for key in sorted(lines))
            write_whole(self.file, text)
