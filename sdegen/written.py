"""Inspection of code that the user has written: which classes are the user's own, and which names their code reads and sets.

Two functions are the same if their code has the same fingerprint, and they look up the same values elsewhere.
"""

from __future__ import annotations

__all__ = [
    "attributes_read",
    "attributes_set",
    "closed_over",
    "fingerprint",
    "globals_read",
    "methods",
    "read_elsewhere",
    "users_own",
]

import dis
import functools
import hashlib
import sys
import types
from typing import Any

import numpy as np
from torch import Tensor, nn


def users_own(cls: type) -> bool:
    """Tell whether a class is neither of this library, nor of Python, nor of a package that is installed."""
    return _users_own(cls.__module__.split(".")[0])


@functools.lru_cache(1024)
def _users_own(root: str) -> bool:
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root not in (__package__, *sys.stdlib_module_names) and "site-packages" not in file


def methods(cls: type) -> list[types.FunctionType]:
    """Return the functions in the body of a class, including those of its properties."""
    parts = list(vars(cls).values())
    inside = [getattr(part, name, None) for part in parts for name in ("fget", "fset", "func", "__func__")]
    return [f for f in (*parts, *inside) if isinstance(f, types.FunctionType)]


def closed_over(function: types.FunctionType) -> dict[str, Any]:
    """Return the variables that a function closes over, by name, without those that are None or not set yet."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _filled(cell)}


def read_elsewhere(thing: Any) -> list[tuple[str, Any]]:
    """Return the values that an object's user-written code reads from globals and closures, by name.

    The code is that of its class, and of functions that the object holds; the values are numbers, words, tensors, tables and
    networks. Functions that the code calls are followed; of other objects, modules and classes the attributes that it reads are
    taken. Values that the code itself changes are left out, such as a list in which it notes its calls.
    """
    kind: Any = type(thing)
    classes, functions = _own_classes(kind), list[types.FunctionType]()
    for value in vars(thing).values():  # no expression with a frame of its own: this is asked several times a run
        if type(value) is types.FunctionType and _followed(value):
            functions.append(value)
    found = list[tuple[str, Any]]()
    if classes or functions:
        seen = {id(thing)}
        for function in (*(f for cls in classes for f in methods(cls)), *functions):
            _read_by(function, seen, found)
    return found


@functools.lru_cache(1024)
def _own_classes(cls: type) -> tuple[type, ...]:
    """Return the classes of a class and its bases that the user has written."""
    return tuple(filter(users_own, cls.__mro__))


def _followed(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and _users_own(value.__module__.split(".")[0])


def _read_by(function: types.FunctionType, seen: set[int], found: list[tuple[str, Any]]) -> None:
    """Add to `found` the values that a function, and the functions that it calls, read elsewhere."""
    if id(function) in seen:
        return
    seen.add(id(function))
    reads, names, changes = _of_code(function.__code__)
    around = function.__globals__
    outside = closed_over(function) | {name: around[name] for name in names if name in around}
    for name, value in outside.items():
        _add(name, value, () if changes else (list, dict, set), reads, seen, found)


@functools.lru_cache(1024)
def _of_code(code: types.CodeType) -> tuple[frozenset[str], frozenset[str], bool]:
    """Return the names of attributes and of globals that code reads, and whether it changes tables."""
    reads = attributes_read(code) - attributes_set(code)
    changes = reads & _CHANGING or _operands(code, "STORE_SUBSCR") or _operands(code, "DELETE_SUBSCR")
    return reads, globals_read(code), bool(changes)


def _add(
    name: str, value: Any, tables: tuple[type, ...], reads: frozenset[str], seen: set[int], found: list[tuple[str, Any]]
) -> None:
    """Add a value to `found`, or, if it is another kind of object, its attributes that are read."""
    if _followed(value):
        found.append((name, value.__code__))
        return _read_by(value, seen, found)
    if isinstance(value, (bool, int, float, complex, str, tuple, np.ndarray, Tensor, nn.Module, *tables)):
        return found.append((name, value))
    foreign = isinstance(value, types.ModuleType) and not _users_own(value.__name__.split(".")[0])
    if id(value) in seen or foreign:
        return None
    seen.add(id(value))
    kinds = (value,) if isinstance(value, type) else type(value).__mro__
    held = [vars(part) for part in (value, *filter(users_own, kinds)) if hasattr(part, "__dict__")]
    for attribute in reads:
        for part in held:
            if attribute in part:
                _add(f"{name}.{attribute}", part[attribute], tables, reads, seen, found)
                break
    return None


# Methods by which lists, dicts and sets change.
_CHANGING = {
    "add",
    "append",
    "clear",
    "discard",
    "extend",
    "insert",
    "pop",
    "popleft",
    "remove",
    "setdefault",
    "update",
}


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # of a function that refers to itself, before it has its name
        return False


def globals_read(code: types.CodeType) -> frozenset[str]:
    """Return the names of globals that code reads and does not set."""
    return _operands(code, "LOAD_GLOBAL") - _operands(code, "STORE_GLOBAL")


def attributes_set(code: types.CodeType) -> frozenset[str]:
    """Return the names of attributes that code sets."""
    return _operands(code, "STORE_ATTR")


def attributes_read(code: types.CodeType) -> frozenset[str]:
    """Return the names of attributes that code reads or calls."""
    return _operands(code, "LOAD_ATTR") | _operands(code, "LOAD_METHOD")


@functools.cache
def _operands(code: types.CodeType, operation: str) -> frozenset[str]:
    found = {str(step.argval) for step in dis.get_instructions(code) if step.opname == operation}
    inner = [_operands(part, operation) for part in code.co_consts if isinstance(part, types.CodeType)]
    return frozenset(found.union(*inner))


def fingerprint(code: types.CodeType) -> str:
    """Return a fingerprint of a function's code, which depends neither on its place in a file nor on names of variables."""
    parts = [
        fingerprint(part)
        if isinstance(part, types.CodeType)
        else sorted(map(repr, part))
        if isinstance(part, frozenset)
        else repr(part)
        for part in code.co_consts
    ]
    return hashlib.sha256(repr((code.co_code, parts, code.co_names)).encode()).hexdigest()[:16]
