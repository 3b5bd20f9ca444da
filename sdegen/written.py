"""What `identity` finds out about code that the user has written: which classes are the user's own, and what their code reads and
sets.

Two functions are the same if their code has one fingerprint, and looks up the same elsewhere.
"""

from __future__ import annotations

__all__ = ["attributes_read", "attributes_set", "closed_over", "fingerprint", "globals_read", "methods", "users_own"]

import dis
import functools
import hashlib
import sys
import types
from typing import Any


def users_own(cls: type) -> bool:
    """Tell whether a class is neither of this library, nor of Python, nor of a package that is installed."""
    root = cls.__module__.split(".")[0]
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root not in (__package__, *sys.stdlib_module_names) and "site-packages" not in file


def methods(cls: type) -> list[types.FunctionType]:
    """Return the functions in the body of a class, those of its properties included."""
    parts = list(vars(cls).values())
    inside = [getattr(part, name, None) for part in parts for name in ("fget", "fset", "func", "__func__")]
    return [f for f in (*parts, *inside) if isinstance(f, types.FunctionType)]


def closed_over(function: types.FunctionType) -> dict[str, Any]:
    """Return the variables that a function closes over, by name, without those that are None or not set yet."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _filled(cell)}


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
    """Return a fingerprint of a function's code, which neither its place in a file nor its names of variables change."""
    parts = [
        fingerprint(part)
        if isinstance(part, types.CodeType)
        else sorted(map(repr, part))
        if isinstance(part, frozenset)
        else repr(part)
        for part in code.co_consts
    ]
    return hashlib.sha256(repr((code.co_code, parts, code.co_names)).encode()).hexdigest()[:16]
