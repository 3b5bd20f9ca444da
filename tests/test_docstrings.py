"""Docstrings against signatures: every public name says what it is given and what it raises."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sdegen

griffe = pytest.importorskip("griffe")
logging.getLogger("griffe").setLevel(logging.ERROR)


def offered(module: Any) -> list[str]:
    """The public names of a chapter: those it lists, or those it defines."""
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    return [name for name in getattr(module, "__all__", own) if not name.startswith("_")]


def public() -> dict[str, Any]:
    """Every class and function that ``import sdegen`` offers, once each."""
    chapters = [getattr(sdegen, name) for name in sdegen.__all__ if inspect.ismodule(getattr(sdegen, name))]
    found: dict[int, tuple[str, Any]] = {}
    for module in [sdegen, *chapters]:
        for name in offered(module):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                found.setdefault(id(value), (f"{module.__name__}.{name}", value))
    return dict(found.values())


PUBLIC = public()


def sections(doc: str | None, *kinds: str) -> Iterator[Any]:
    for section in griffe.Docstring(inspect.cleandoc(doc or "")).parse("numpy"):
        if section.kind.value in kinds:
            yield from section.value


def missing_parameters(value: Any) -> list[str]:
    """Parameters that have no entry of their own, and are not put in code quotes in the text either."""
    named = {n.strip(" *`") for p in sections(value.__doc__, "parameters", "attributes") for n in p.name.split(",")}
    quoted = " ".join(re.findall(r"``.+?``|`.+?`", value.__doc__ or "", re.DOTALL))
    named |= set(re.findall(r"\w+", quoted))
    made = not issubclass_of(value, BaseException) and not getattr(value, "_is_protocol", False)
    given = inspect.signature(value).parameters if made else []
    return [name for name in given if name not in named and not name.startswith("_")]


def issubclass_of(value: Any, base: type) -> bool:
    return inspect.isclass(value) and issubclass(value, base)


def raised(function: Any) -> set[str]:
    """The exceptions that a function's own lines raise."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc.func for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)} - {"NotImplementedError", "Violation"}


def missing_errors(value: Any) -> dict[str, list[str]]:
    """Exceptions raised and not announced: by a function or constructor under Raises, by a method anywhere in its text."""
    announced = {n.strip() for r in sections(value.__doc__, "raises") for n in str(r.annotation).split(",")}
    own = vars(value) if inspect.isclass(value) else {value.__name__: value}
    found = {}
    for name, function in own.items():
        if not inspect.isfunction(function) or function.__module__ != value.__module__ or is_generated(function):
            continue
        if name.startswith("_") and name not in ("__init__", "__post_init__", "__call__"):
            continue
        lacking = raised(function) - announced - set(re.findall(r"\w+", function.__doc__ or ""))
        if lacking:
            found[name] = sorted(lacking)
    return found


def is_generated(function: Any) -> bool:
    """Of a dataclass or a named tuple: such a function has no source of its own."""
    try:
        return not inspect.getsource(function)
    except OSError:
        return True


def test_a_public_name_has_a_docstring() -> None:
    assert not [name for name, value in PUBLIC.items() if not value.__doc__ or "__new__" in value.__doc__.split("(")[0]]


@pytest.mark.parametrize("missing", [missing_parameters, missing_errors])
def test_a_public_name_says_what_it_is_given_and_raises(missing: Callable[[Any], Any]) -> None:
    assert not {name: lacking for name, value in PUBLIC.items() if (lacking := missing(value))}


def test_the_checks_see_what_is_missing() -> None:
    def quiet(x: int, y: int) -> None:
        """Something of `x`."""
        raise ValueError("never said")

    assert missing_parameters(quiet) == ["y"] and missing_errors(quiet) == {"quiet": ["ValueError"]}

    def plain(x: int) -> None:
        """Something.

        Parameters
        ----------
        x
            A number.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError("said")

    assert not missing_parameters(plain) and not missing_errors(plain)


# What the first word of a function's docstring may be. A verb that is missing is added; a noun is not.
VERBS = {
    word
    for line in (
        "Add Advance Answer Apply Ask Attend Average Blur Bring Build Call Carry Check Choose Close Collect Combine",
        "Compare Compose Compute Concatenate Condition Convert Copy Count Cut Decode Delete Describe Draw Drop Encode End",
        "Estimate Evaluate Extrapolate Find Fit Flatten Follow Forget Form Give Go Group Halve Hash Hear Import Integrate",
        "Interpolate Invert Join Keep Lay Leave Lend Let Lift List Load Look Make Map Mask Measure Move Multiply Name",
        "Noise Note Open Pad Plan Predict Prepare Put Raise Read Record Reduce Reflect Refuse Repeat Reshape Return Rotate Run",
        "Sample Save Scale Scramble Select Set Share Show Simulate Solve Sort Split Stack Sum Tabulate Take Tell Train",
        "Turn Update Wait Warn Weigh Whiten Wrap Write Yield",
    )
    for word in line.split()
}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods of the library that have a docstring, but for properties and the laws of `testing`."""
    root = Path(sdegen.__file__).parent
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef) or not ast.get_docstring(node) or module.startswith("testing/"):
                continue
            if not any("property" in ast.unparse(decorator) for decorator in node.decorator_list):
                yield f"{module}:{node.name}", node


def test_the_first_sentence_of_a_function_begins_with_what_is_done() -> None:
    first = [(where, (ast.get_docstring(node) or "").split()[0].strip(".,;")) for where, node in functions()]
    others = [f"{where} begins with {word!r}" for where, word in first if word not in VERBS]
    assert len(first) > 900 and not others, others
