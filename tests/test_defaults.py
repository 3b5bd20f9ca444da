"""What a user gets who gives nothing: the default of every argument of every public name, which changes on purpose or not at all.

`tests/data/defaults.txt` has a line for each name. After a change that is meant: ``python tests/test_defaults.py``, and say so in
the changelog.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any

import sdegen

KEPT = Path(__file__).parent / "data" / "defaults.txt"


def public() -> Iterator[tuple[str, Any]]:
    """Every function, class and method that a module of the library offers, with its dotted name, once."""
    for found in pkgutil.walk_packages(sdegen.__path__, "sdegen."):
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if getattr(value, "__module__", None) != module.__name__:
                continue
            yield f"{module.__name__}.{name}", value
            if isinstance(value, type):
                for key, method in vars(value).items():
                    if not key.startswith("_") and inspect.isfunction(
                        inspect.unwrap(getattr(method, "__func__", method))
                    ):
                        yield f"{module.__name__}.{name}.{key}", method


def said(value: Any) -> str:
    """A value in words that are the same in every run."""
    return getattr(value, "__qualname__", repr(value)).split(" at 0x")[0]


def defaults() -> list[str]:
    """A line for each name that has defaults: the name, and each argument with what it is when none is given; and for each number
    that a class has.
    """
    lines = []
    for name, value in public():
        if isinstance(value, type):
            numbers = {
                k: v
                for k, v in vars(value).items()
                if not k.startswith("_") and isinstance(v, (bool, int, float, tuple))
            }
            lines += [f"{name}.{key} = {number!r}" for key, number in numbers.items()]
        if isinstance(value, EnumType):
            continue  # which is called as Python's version says
        try:
            signature = inspect.signature(getattr(value, "__func__", value))
        except (TypeError, ValueError):
            continue
        given = [f"{p.name}={said(p.default)}" for p in signature.parameters.values() if p.default is not p.empty]
        if given:
            lines.append(f"{name}({', '.join(given)})")
    return sorted(set(lines))


def test_what_nobody_asked_for_stays_as_it_is() -> None:
    kept, now = KEPT.read_text().splitlines(), defaults()
    assert len(kept) > 300
    gone, new = sorted({*kept} - {*now}), sorted({*now} - {*kept})
    assert not gone and not new, "\n".join(["was:", *gone, "is:", *new])


if __name__ == "__main__":
    KEPT.write_text("\n".join(defaults()) + "\n")
