"""The parts of a module, each with a digest: its functions one by one, and what stands outside functions.

A digest is of statements, without comments, docstrings and layout. Imports have none: where a name is used its origin stands in
its place, so that an import ages only the functions that use it. A class stands outside functions, with the names of its methods
in their places: a method that takes the place of an inherited one is seen, and one that only changes ages nothing but itself.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import sdegen

ROOTS = tuple(Path(place).parent for place in (sdegen.__file__, __file__))
OUTSIDE = ""  # the part that stands outside functions
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Parts(NamedTuple):
    """A module, taken apart.

    Attributes
    ----------
    functions
        The definitions of each function by its qualified name; several of a property, and where a function has overloads.
    outside
        The module without its functions.
    origins
        The full names that imported names stand for.
    """

    functions: dict[str, list[Function]]
    outside: ast.Module
    origins: dict[str, str]


def path_of(file: str) -> str | None:
    """Return the path of a file of the library or the benchmarks, such as ``sdegen/nets/mlp.py``; None of any other file."""
    return path_under(ROOTS, file)


@cache  # asked of all modules that are loaded before each row
def path_under(roots: tuple[Path, ...], file: str) -> str | None:
    """Return the path of a file of Python under one of some folders, with the name of that folder; None of any other file."""
    root = next((root for root in roots if Path(file).is_relative_to(root)), None)
    return f"{root.name}/{Path(file).relative_to(root).as_posix()}" if root and file.endswith(".py") else None


@cache
def parts(path: str) -> Parts | None:
    """Take a module apart; None if there is no such file."""
    top, _, rest = path.partition("/")
    file = next((root / rest for root in ROOTS if root.name == top), None)
    if file is None or not file.exists():
        return None
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and is_text(body[0]):
            del body[0]
    origins = dict(origin for node in ast.walk(tree) for origin in imported(node))
    functions: dict[str, list[Function]] = {}
    take_out(tree, "", functions)
    return Parts(functions, tree, origins)


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names that a statement imports, each with its origin."""
    if isinstance(node, ast.Import):
        for alias in node.names:  # ``import a.b`` binds ``a``, and the rest stands where it is used
            yield (
                alias.asname or alias.name.partition(".")[0],
                alias.name if alias.asname else alias.name.partition(".")[0],
            )
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, f"{'.' * node.level}{node.module or ''}.{alias.name}"


def take_out(node: ast.AST, within: str, functions: dict[str, list[Function]]) -> None:
    """Move the functions of a module or class to a dictionary; in a class their names stay in their places."""
    for name, statements in ast.iter_fields(node):
        if not isinstance(statements, list) or not all(isinstance(one, ast.AST) for one in statements):
            continue
        left: list[ast.AST] = []
        for one in statements:
            if isinstance(one, Function):
                functions.setdefault(f"{within}{one.name}", []).append(one)
                left += [ast.Constant(one.name)] if within else []
            elif not isinstance(one, ast.Import | ast.ImportFrom):
                take_out(one, f"{within}{one.name}." if isinstance(one, ast.ClassDef) else within, functions)
                left.append(one)
        setattr(node, name, left)


def names(path: str) -> list[str]:
    """Return the qualified names of all functions of a module."""
    found = parts(path)
    return list(found.functions) if found else []


def part_of(path: str, name: str) -> str:
    """Return the part of a module that running code belongs to, by its qualified name: that of the outermost function."""
    name = name.partition(".<locals>")[0]
    found = parts(path)
    return name if found and name in found.functions else OUTSIDE


@cache
def digest(path: str, part: str) -> str | None:
    """Return eight hexadecimal digits of the statements of a part of a module; None if there is no such part."""
    found = parts(path)
    nodes = None if found is None else [found.outside] if part == OUTSIDE else found.functions.get(part)
    if found is None or nodes is None:
        return None
    return hashlib.sha256(repr(outline(nodes, found.origins)).encode()).hexdigest()[:8]


def outline(node: Any, origins: dict[str, str]) -> Any:
    """Return syntax trees as tuples, without the fields that are empty: which of those there are differs by Python's version."""
    if isinstance(node, list):
        return [outline(one, origins) for one in node]
    if isinstance(node, ast.Name):
        return "Name", origins.get(node.id, node.id)
    if not isinstance(node, ast.AST):
        return node
    fields = [(name, outline(value, origins)) for name, value in ast.iter_fields(node) if value not in (None, [])]
    return type(node).__name__, fields


def is_text(node: ast.AST) -> bool:
    """Tell whether a statement is a bare string, as docstrings are."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
