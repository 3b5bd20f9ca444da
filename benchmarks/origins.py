"""Where a row is from: the code that computed it, by which a row of earlier code is told from one of today's.

While a row is computed every function of the library and of the benchmarks that is called is noted by its module, and of each
such module a digest of its statements is kept, without comments, docstrings and layout. A row is of earlier code when one of them
has another digest now. Rows refer to their modules by a number of eight digits, and ``code.jsonl`` beside them has the digests.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path, PurePosixPath
from types import FrameType, TracebackType
from typing import Any, Self

import sdegen
from benchmarks.files import keep_line, read_lines
from sdegen.training.state import Training

FILE = "code.jsonl"
WHAT = "record of modules"
ROOTS = tuple(Path(place).parent for place in (sdegen.__file__, __file__))
STEP = Training.step.__code__
# These modules and packages have no say in what a row holds: they read, share out, write and show.
SILENT = {f"benchmarks/{name}" for name in ("command", "files", "origins", "pages", "rows", "tables", "tickets")} | {
    f"sdegen/{name}" for name in ("plots", "progress", "show")
}

Code = dict[str, str]  # the digest of each module, by its path


class Watch:
    """A ``with`` block that notes the files whose functions are called in this thread, and the steps of training taken.

    It costs a few per cent of the time of small networks; what is timed is not watched, and is of all modules.

    Attributes
    ----------
    files
        Of all code that was called.
    steps
        How many steps of training were taken.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.steps = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        self.files.add(frame.f_code.co_filename)
        if frame.f_code is STEP:
            self.steps += 1

    def __enter__(self) -> Self:
        self.outer = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(self.outer)
        if isinstance(self.outer, Watch):  # a row that asked for another one
            self.outer.files |= self.files
            self.outer.steps += self.steps

    def code(self) -> Code:
        """Return the digests of the modules that were called."""
        return digests(self.files)


def everything() -> Code:
    """Return the digests of all modules that are loaded."""
    return digests(str(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None))


def digests(files: Iterable[str]) -> Code:
    """Return the digests of those files that belong to the library or the benchmarks, by their paths."""
    found = {}
    for file in sorted(set(files)):
        root = next((root for root in ROOTS if Path(file).is_relative_to(root)), None)
        if root is not None and file.endswith(".py"):
            name = f"{root.name}/{Path(file).relative_to(root).as_posix()}"
            if not silent(name):
                found[name] = str(digest(name))
    return found


def silent(name: str) -> bool:
    """Tell whether a module has no say in what a row holds, by itself or by its package."""
    path = PurePosixPath(name).with_suffix("")
    return not SILENT.isdisjoint(str(place) for place in (path, *path.parents))


@cache
def digest(name: str) -> str | None:
    """Return eight hexadecimal digits of the statements of a module; None if there is no such file."""
    top, _, rest = name.partition("/")
    path = next((root / rest for root in ROOTS if root.name == top), None)
    if path is None or not path.exists():
        return None
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and is_text(body[0]):
            del body[0]
    return hashlib.sha256(repr(outline(tree)).encode()).hexdigest()[:8]


def outline(node: Any) -> Any:
    """Return a syntax tree as tuples, without the fields that are empty: which of those there are differs by Python's version."""
    if isinstance(node, list):
        return [outline(one) for one in node]
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, outline(value)) for name, value in ast.iter_fields(node) if value is not None and value != []]
    return type(node).__name__, fields


def is_text(node: ast.AST) -> bool:
    """Tell whether a statement is a bare string, as docstrings are."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def changed(code: Code) -> list[str]:
    """Return the modules that have other statements now."""
    return [name for name, was in code.items() if not silent(name) and digest(name) != was]


class Origins:
    """The digests that rows refer to, a line each in a file beside that of the rows.

    Parameters
    ----------
    file
        Where new ones are written.
    sources
        Files that are only read.
    """

    def __init__(self, file: Path, sources: Iterable[Path] = ()) -> None:
        self.file = file
        self.codes: dict[str, Code] = {}
        for source in (*sources, file):
            self.codes |= read(source)

    def add(self, code: Code) -> str:
        """Keep digests, and return what a row refers to them by."""
        key = hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()[:8]
        if self.codes.get(key) != code or not self.file.exists():
            keep_line(self.file, key_of, WHAT, {"code": key, "modules": code})
        self.codes[key] = code
        return key

    def current(self, key: str | None) -> bool:
        """Tell whether a row that refers to `key` is of today's code; one that refers to none is not known to be."""
        return key in self.codes and not changed(self.codes[key])


def key_of(line: Any) -> str:
    """Return what rows refer to a record of modules by.

    Raises
    ------
    TypeError
        If a part of the record is of another kind.
    """
    key, code = line["code"], line["modules"]
    if not isinstance(key, str) or not isinstance(code, dict) or not all(isinstance(v, str) for v in code.values()):
        raise TypeError(line)
    return key


def read(file: Path) -> dict[str, Code]:
    """Return the digests of a file by what rows refer to them by; none where there is no file.

    Raises
    ------
    ValueError
        If a line is no record of modules.
    """
    return {key: line["modules"] for key, line in read_lines(file, key_of, WHAT).items()}
