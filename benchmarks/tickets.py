"""Which process computes which row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from benchmarks.rows import Key

Who = tuple[Path, Key]  # a row: the folder of its table, and its key in it


class Tickets:
    """A folder with a file for every row to compute: the process that takes the file away computes the row.

    Parameters
    ----------
    folder
        The folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ticket(self, table: Path, key: Key) -> Path:
        """Return the file of a row."""
        return self.folder / hashlib.sha256(repr((str(table), *key)).encode()).hexdigest()

    def put(self, missing: Iterable[Who]) -> None:
        """Put down a file for every row."""
        for who in missing:
            self.ticket(*who).touch()

    def take(self, table: Path, key: Key) -> bool:
        """Take the file of a row away, and tell whether it was there: the row is then this process's to compute."""
        try:
            self.ticket(table, key).unlink()
        except FileNotFoundError:
            return False
        return True

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.iterdir())
