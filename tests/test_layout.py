"""The order of the chapters: every module imports only from chapters before its own, and no circle is closed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sdegen

ROOT = Path(sdegen.__file__).parent

# Chapters in the order of the theory, those of one row independent of each other.
ORDER = [
    [
        "dense",
        "failures",
        "seeding",
        "show",
        "waiting",
        "warning",
        "written",
    ],
    ["construction", "description", "signatures", "storage", "transforms"],
    ["fixed"],
    ["answers", "checks", "conditions", "identity", "recall"],
    ["arguments", "blocks", "levels", "mixing", "precision", "progress"],
    ["laws", "nets"],
    ["data", "processes"],
    ["models", "metrics"],
    ["samplers", "baselines"],
    ["likelihood", "guidance"],
    ["diagnose", "animation", "testing"],
    ["plots", "upgrades"],
    ["files"],
    ["training"],
    ["inference"],
]
FLOOR = {chapter: floor for floor, row in enumerate(ORDER) for chapter in row}


def modules() -> dict[str, Path]:
    """The modules of the library by their dotted names below it; a package by its own."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}
CHAPTERS = sorted({name.split(".")[0] for name in MODULES})  # the front door is ""
by_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter or "sdegen")


def modules_of(chapter: str) -> list[str]:
    return [name for name in MODULES if name.split(".")[0] == chapter]


def imports(name: str, tree: ast.AST) -> Iterator[tuple[str, ast.ImportFrom]]:
    """The modules of the library that a module takes something from, with the statement."""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{target}.{alias.name}".strip(".")
                yield (inner if inner in MODULES else target), node


def within_functions(tree: ast.AST) -> set[ast.AST]:
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }


@pytest.mark.parametrize("own", [chapter for chapter in CHAPTERS if chapter])
def test_a_module_imports_only_from_chapters_before_its_own(own: str) -> None:
    for name in modules_of(own):
        inside = within_functions(TREES[name])
        for target, node in imports(name, TREES[name]):
            chapter, where = target.split(".")[0], f"{name}, line {node.lineno}"
            assert target, f"{where}: imports from the library's front door"
            assert chapter == own or FLOOR[chapter] < FLOOR[own], f"{where}: {own} before {chapter}"
            assert target != own or name == own, f"{where}: a module takes from the package it is part of"
            assert node not in inside, f"{where}: an import of the library inside a function"


def test_every_module_belongs_to_a_chapter() -> None:
    assert {name.split(".")[0] for name in MODULES if name} == set(FLOOR)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """A topological order of all modules exists; packages stand for the files they gather."""
    after = {}
    for name, path in MODULES.items():
        if path.name != "__init__.py":
            after[name] = {t for t, _ in imports(name, TREES[name]) if t != name}
    while after:
        free = {name for name, needed in after.items() if not needed & after.keys()}
        assert free, f"a circle among {sorted(after)}"
        after = {name: needed - free for name, needed in after.items() if name not in free}


def test_models_and_processes_have_their_types() -> None:
    """What is passed between chapters says what it is: no argument called `model` or `sde` may be anything."""
    found = [
        f"{name}, line {number}: {line.strip()}"
        for name, path in MODULES.items()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(model|sde): Any\b", line)
    ]
    assert not found, "\n".join(found)


LONGEST_FILE, LONGEST_FUNCTION = 350, 60  # lines, docstrings of functions aside


@by_chapter
def test_a_file_is_of_one_subject(chapter: str) -> None:
    """A file that is longer than can be looked over at once has a second subject, or says above all why it has not."""
    for name in modules_of(chapter):
        lines = MODULES[name].read_text().splitlines()
        assert len(lines) <= LONGEST_FILE or lines[0].startswith("#"), f"{name} has {len(lines)} lines"


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    assert function.end_lineno is not None
    first = function.body[0]
    documented = ast.get_docstring(function) is not None and first.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


@by_chapter
def test_a_function_is_one_idea(chapter: str) -> None:
    """A function that is longer than a screen has a second idea, or a comment on the line above says why it has not."""
    for name in modules_of(chapter):
        lines = MODULES[name].read_text().splitlines()
        for node in ast.walk(TREES[name]):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                reasoned = lines[first - 2].lstrip().startswith("#")
                assert length(node) <= LONGEST_FUNCTION or reasoned, f"{name}.{node.name} has {length(node)} lines"
