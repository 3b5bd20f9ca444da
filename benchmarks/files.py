"""Files that several processes make or write at a time, and those that hold objects by a key, a line of JSON each."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

K = TypeVar("K", bound=Any)
Line = dict[str, Any]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is missing, against other processes that ask for it by this function."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, meets the old text or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(text)
    os.replace(part, path)


def made(path: Path, make: Callable[[Path], object]) -> Path:
    """Return the path of a file that takes long to make, made where it is missing: by one process, while others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make(path)
    return path


def read_lines(file: Path, key_of: Callable[[Any], K], what: str) -> dict[K, Line]:
    """Return the objects of a file by their keys, of two with one key the later; none where there is no file.

    Parameters
    ----------
    file
        It holds a line of JSON for each.
    key_of
        Reads the key off a line; a KeyError or TypeError if the line is of another kind.
    what
        The name of what a line holds.

    Raises
    ------
    ValueError
        If a line is something else.
    """
    lines: dict[K, Line] = {}
    for number, text in enumerate(file.read_bytes().splitlines() if file.exists() else [], 1):
        try:
            line = json.loads(text)
            lines[key_of(line)] = line
        except (ValueError, KeyError, TypeError) as error:
            shown = text.decode(errors="replace")[:60]
            raise ValueError(f"line {number} of {file} is no {what}: {shown!r}; mend it or delete it.") from error
    return lines


def keep_lines(file: Path, key_of: Callable[[Any], K], what: str, new: Sequence[Line]) -> None:
    """Put objects into a file, in the order of the keys, beside what other processes have written meanwhile."""
    with locked(file.parent):
        lines = read_lines(file, key_of, what) | {key_of(line): line for line in new}
        write_whole(file, "".join(json.dumps(lines[key], ensure_ascii=False) + "\n" for key in sorted(lines)))
