"""Calls in the prose and tables of the documentation, between backticks, are calls that the library takes.

Blocks of code run when the site is built. What stands in a sentence does not: here each such call is made where all it names is
known, and held against the signature of what it calls where not.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sdegen

ROOT = Path(__file__).parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md"])
MATHEMATICS = {
    "A",
    "D",
    "F",
    "G",
    "R",
    "atan",
    "atan2",
    "p",
    "f",
    "g",
    "h",
}  # functions of the text, none of the library
OTHERS = {"net"}  # of the reader's own


def offered() -> dict[str, Any]:
    """All that any module of the library offers, by name; what its chapters offer before what others do."""
    names: dict[str, Any] = {}
    for info in sorted(
        pkgutil.walk_packages(sdegen.__path__, "sdegen."), key=lambda info: (info.name.count("."), info.name)
    ):
        module = importlib.import_module(info.name)
        for name in module.__all__:
            names.setdefault(name, getattr(module, name, None))
    return {**names, **{name: getattr(sdegen, name) for name in sdegen.__all__}, "sdegen": sdegen, "torch": torch}


NAMES = offered()
METHODS = {name for thing in NAMES.values() if inspect.isclass(thing) for name in dir(thing)}


def scene() -> dict[str, Any]:
    """What sentences speak of: a process, a model of it, states and times, and settings of samplers."""
    sde = sdegen.VP()
    data, images = sdegen.data.gaussian_ring(), sdegen.data.sprites().joined()
    x = data.sample(3, torch.Generator().manual_seed(0))
    t = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    return {
        "sde": sde, "model": sdegen.Exact(sde, data), "moments": data.moments(), "x": x, "x_T": x, "t": t, "times": t,
        "images": images, "train": images, "split": images.split(0.8, seed=0),
        "snr": 2.0, "steps": 4, "grid": sdegen.grids.Angle(), "rtol": 0.1, "atol": 0.1, "probes": 2,
    }  # fmt: skip


KNOWN = {**NAMES, **scene()}
LONG = {
    "fit",
    "sdegen.fit",
    "fit_solver",
    "samplers.fit_solver",
    "plots.density",
}  # trainings, a grid: not for a sentence


def calls() -> Iterator[Any]:
    """Every call between backticks outside of blocks of code, with its page."""
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for code in dict.fromkeys(re.findall(r"`([^`\n]*\([^`\n]*\)[^`\n]*)`", prose)):
            try:
                call = ast.parse(code.replace("(..., ", "(model, 3, "), mode="eval")
            except SyntaxError:
                continue
            if isinstance(call.body, ast.Call):
                yield pytest.param(call, id=f"{page.relative_to(ROOT)}: {code}")


@pytest.mark.parametrize("call", list(calls()))
def test_a_call_in_prose_is_one_that_the_library_takes(
    call: ast.Expression, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outer = call.body
    assert isinstance(outer, ast.Call)
    name = outer.func.attr if isinstance(outer.func, ast.Attribute) else ast.unparse(outer.func)
    unknown = [node.id for node in ast.walk(call) if isinstance(node, ast.Name) and node.id not in KNOWN]
    abbreviated = any(isinstance(node, ast.Constant) and node.value is Ellipsis for node in ast.walk(call))
    if not unknown and not abbreviated and ast.unparse(outer.func) not in LONG | METHODS:
        eval(compile(call, "prose", "eval"), KNOWN)  # the documentation is ours
    elif ast.unparse(outer.func) not in LONG and (name in METHODS or name in unknown):
        assert name in METHODS | MATHEMATICS | OTHERS | set(dir(builtins)), f"nothing of the library is called {name}"
    else:
        function = eval(ast.unparse(outer.func), KNOWN)
        given = {keyword.arg: None for keyword in outer.keywords if keyword.arg}
        bind = inspect.signature(function).bind_partial if abbreviated else inspect.signature(function).bind
        bind(*(outer.args if not abbreviated else ()), **given)
