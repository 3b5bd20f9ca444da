"""Where a row is from: the code that computed it, by which a row of earlier code is told from one of today's.

While a row is computed the functions of the library and of the benchmarks that are called are noted, and a digest of each is kept
(`benchmarks.parts`), with one of what stands outside functions in their modules. A row is of earlier code when one of them has
another digest now. Rows refer to their code by eight digits: ``code.jsonl`` beside them has for these the modules, with eight
digits of each, and for those the functions of the module with their digests.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from functools import _lru_cache_wrapper as Keeper  # what `functools.cache` makes of a function
from functools import cache
from pathlib import Path, PurePosixPath
from types import CodeType, FrameType, TracebackType
from typing import Any, ClassVar, NamedTuple, Self

from benchmarks import parts
from benchmarks.files import keep_lines, read_lines
from sdegen.recall import _kept as recalled
from sdegen.training.state import Training

FILE = "code.jsonl"
WHAT = "record of code"
STEP = Training.step.__code__
# These modules and packages have no say in what a row holds: they read, share out, write and show.
SILENT = {
    f"benchmarks/{name}"
    for name in ("alike", "command", "files", "origins", "pages", "parts", "rows", "tables", "tickets")
} | {f"sdegen/{name}" for name in ("plots", "progress", "show")}

Digests = dict[str, str]
Code = dict[str, Digests]  # by the path of each module, the digests of its parts


class Change(NamedTuple):
    """A part of a module that has other statements than it had: a function, or what stands outside functions.

    Attributes
    ----------
    path, part
        The module, and the part of it.
    was, now
        The digests; `now` is None where there is no such part any more.
    """

    path: str
    part: str
    was: str
    now: str | None


class Watch:
    """A ``with`` block that notes the functions that are called in this thread, and the steps of training taken.

    It costs a few per cent of the time of small networks; what is timed is not watched, and is of all code.

    What the library remembers of earlier blocks is forgotten first, so that it is computed, and noted, in this one. What the
    benchmarks keep by `functools.cache`, such as networks that rows share, is not made again: a block that asks for it is of all
    code of the blocks that made it. The code of what is read from files, or kept by an object that rows share, is not known.

    Attributes
    ----------
    called
        The code of each function, by its identity.
    steps
        The number of training steps that were taken.
    """

    # By what keeps results, the code of the blocks that made them.
    makers: ClassVar[dict[Any, dict[int, CodeType]]] = {}

    def __init__(self) -> None:
        self.called: dict[int, CodeType] = {}  # a code's own hash is of all its constants, and slow
        self.steps = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        self.called[id(frame.f_code)] = frame.f_code
        if frame.f_code is STEP:
            self.steps += 1

    def __enter__(self) -> Self:
        recalled.clear()
        for keeper in keepers("sdegen/"):
            keeper.cache_clear()
        self.before = {keeper: keeper.cache_info() for keeper in keepers("benchmarks/")}
        self.outer = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(self.outer)
        for keeper, was in self.before.items():
            made = self.makers.setdefault(keeper, {})
            if keeper.cache_info().hits > was.hits:
                self.called |= made
            if keeper.cache_info().misses > was.misses:
                made |= self.called
        if isinstance(self.outer, Watch):  # a row that asked for another one
            self.outer.called |= self.called
            self.outer.steps += self.steps

    def code(self) -> Code:
        """Return the digests of the code that was called."""
        return digests((code.co_filename, code.co_qualname) for code in self.called.values())


def keepers(under: str) -> set[Keeper[Any]]:
    """Return the functions that keep what they return, of loaded modules whose paths begin so."""
    files = [(module, parts.path_of(str(getattr(module, "__file__", "")))) for module in list(sys.modules.values())]
    own = [module for module, path in files if path is not None and path.startswith(under)]
    return {value for module in own for value in vars(module).values() if isinstance(value, Keeper)}


def everything() -> Code:
    """Return the digests of all code of the modules that are loaded."""
    files = [str(module.__file__) for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
    return digests(
        (file, name) for file in files if (path := parts.path_of(file)) for name in (parts.OUTSIDE, *parts.names(path))
    )


def digests(called: Iterable[tuple[str, str]]) -> Code:
    """Return the digests of functions, given by file and qualified name, that belong to the library or the benchmarks."""
    found: Code = {}
    for file, name in called:
        path = parts.path_of(file)
        if path is not None and not silent(path):
            for part in (parts.OUTSIDE, parts.part_of(path, name)):
                found.setdefault(path, {})[part] = str(parts.digest(path, part))
    return {path: dict(sorted(found[path].items())) for path in sorted(found)}


@cache
def silent(name: str) -> bool:
    """Tell whether a module, or a package that it is in, has no say in what a row holds."""
    path = PurePosixPath(name).with_suffix("")
    return not SILENT.isdisjoint({path.as_posix(), *(parent.as_posix() for parent in path.parents)})


def changed(code: Code) -> frozenset[Change]:
    """Return the functions and modules that have other statements now."""
    return frozenset(
        Change(path, part, was, now)
        for path, found in code.items()
        if not silent(path)
        for part, was in found.items()
        if (now := parts.digest(path, part)) != was
    )


class Origins:
    """The digests that rows refer to, in a file beside that of the rows. The code of today is taken to stay as it is.

    Parameters
    ----------
    file
        The file that new ones are written to.
    sources
        Files that are only read.
    """

    def __init__(self, file: Path, sources: Iterable[Path] = ()) -> None:
        self.file = file
        self.codes: dict[str, Digests] = {}
        self._changes: dict[str, frozenset[Change]] = {}  # many rows are of one code
        for source in (*sources, file):
            self.codes |= read(source)

    def add(self, code: Code) -> str:
        """Keep digests, and return what a row refers to them by."""
        modules = {path: key_for(found) for path, found in code.items()}
        new = {key_for(found): found for found in (*code.values(), modules)}
        if not self.file.exists() or any(self.codes.get(key) != found for key, found in new.items()):
            keep_lines(self.file, key_of, WHAT, [{"code": key, "of": found} for key, found in new.items()])
        self.codes |= new
        return key_for(modules)

    def code(self, key: str | None) -> Code | None:
        """Return the digests that a row refers to; None where it refers to none, or not all are kept."""
        modules = self.codes.get(key or "")
        if modules is None or not set(modules.values()) <= self.codes.keys():
            return None
        return {path: self.codes[one] for path, one in modules.items()}

    def changes(self, key: str | None) -> frozenset[Change] | None:
        """Return what a row that refers to `key` calls by other statements than today's; None where its code is not known."""
        if key is None or (code := self.code(key)) is None:
            return None
        if key not in self._changes:
            self._changes[key] = changed(code)
        return self._changes[key]

    def current(self, key: str | None) -> bool:
        """Tell whether a row that refers to `key` is of today's code; one that refers to none is not known to be."""
        return self.changes(key) == frozenset()


def key_for(found: Digests) -> str:
    """Return the eight digits that digests are referred to by."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:8]


def key_of(line: Any) -> str:
    """Return what a record of code is referred to by.

    Raises
    ------
    TypeError
        If a part of the record is of another kind.
    """
    key, found = line["code"], line["of"]
    if not isinstance(key, str) or not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise TypeError(line)
    return key


def read(file: Path) -> dict[str, Digests]:
    """Return the digests of a file by what they are referred to by; none where there is no file.

    Raises
    ------
    ValueError
        If a line is no record of code.
    """
    return {key: line["of"] for key, line in read_lines(file, key_of, WHAT).items()}
