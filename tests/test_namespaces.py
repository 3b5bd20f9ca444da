"""Every module says in `__all__` what it offers: all that it defines under a public name, and nothing it does not have."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import sdegen

ROOT = Path(sdegen.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FOLDERS = sorted({file.parent for file in FILES})
by_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))


def module_of(file: Path) -> ModuleType:
    parts = ("sdegen", *file.relative_to(ROOT).with_suffix("").parts)
    return importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


@by_folder
def test_a_module_names_what_it_offers(folder: Path) -> None:
    for module in map(module_of, folder.glob("*.py")):
        names = module.__all__
        assert len(set(names)) == len(names) and all(hasattr(module, name) for name in names), module
        own = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == module.__name__
        }
        unnamed = sorted(own - set(names))
        assert not unnamed, f"{module.__name__}: add {unnamed} to __all__, or begin the names with an underscore"


@by_folder
def test_names_come_one_by_one_and_private_ones_stay_where_they_are(folder: Path) -> None:
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert "*" not in [alias.name for alias in node.names], f"{file}, line {node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.level:
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{file}, line {node.lineno} takes {private} from another module"


def test_a_name_means_one_thing() -> None:
    """No two modules of the library, but for the suite's own laws, offer different things under one name."""
    meanings: dict[str, dict[int, str]] = {}
    for file in FILES:
        module = module_of(file)
        if not module.__name__.startswith("sdegen.testing."):
            for name in module.__all__:
                value = getattr(module, name)
                if not inspect.ismodule(value):
                    meanings.setdefault(name, {})[id(value)] = module.__name__
    assert len(meanings) > 400
    assert not {name: list(homes.values()) for name, homes in meanings.items() if len(homes) > 1}
