"""The reference of the site: a page for every module, made of its docstrings, and links to it from every name in the pages."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url

import sdegen

PACKAGE = Path(sdegen.__file__).parent
CHAPTERS = (  # in the order of the theory
    "laws", "processes", "nets", "data", "models", "metrics", "samplers", "baselines", "likelihood", "guidance",
    "inference", "diagnose", "plots", "animation", "testing", "files", "training",
)  # fmt: skip
APART = re.compile(r"(<pre\b.*?</pre>|<a\b.*?</a>|<h[1-6]\b.*?</h[1-6]>)", re.DOTALL)
# A name of the library, maybe with arguments; `sample(n)` alone may be anybody's, and KL(p ‖ q) is mathematics.
CODE = re.compile(
    r"<code>((?:sdegen\.)?(?P<name>[A-Z]\w*|(?!sdegen\.)[a-z_]+(?:\.\w+)+)(?:\([^<‖]*\))?"
    r"|sdegen\.(?P<ours>[a-z_]+)(?:\([^<‖]*\))?|(?P<word>[a-z_]+))</code>"
)


@cache
def pages() -> dict[str, dict[str, str]]:
    """The modules of each chapter, by name, with the places of their pages."""
    found: dict[str, dict[str, str]] = {}
    for chapter in CHAPTERS:
        paths = (
            [PACKAGE / f"{chapter}.py"]
            if (PACKAGE / f"{chapter}.py").exists()
            else sorted((PACKAGE / chapter).rglob("*.py"))
        )
        names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
        names = [name.removesuffix(".__init__") for name in names if not re.search(r"\._(?!_init__)", name)]
        found[chapter] = {name: "reference/" + "/".join(name.split(".")[1:]) + ".md" for name in sorted(names)}
    return found


def public(module: Any) -> dict[str, Any]:
    """What a module offers, by name."""
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__ and n[0] != "_"]
    return {name: getattr(module, name) for name in getattr(module, "__all__", own)}


def anchor(thing: Any) -> str | None:
    """The place of a class, function or module in the site, or None if it has no page."""
    if not (inspect.ismodule(thing) or inspect.isclass(thing) or inspect.isroutine(thing)):
        return None
    module = thing if inspect.ismodule(thing) else inspect.getmodule(thing)
    name = getattr(module, "__name__", "")
    for chapter in pages().values():
        if name in chapter:
            place = chapter[name].removesuffix(".md") + ".html"
            if inspect.ismodule(thing):
                return place
            return f"{place}#{name}.{thing.__qualname__}" if thing.__name__ in public(module) else None
    return None


@cache
def places() -> dict[str, str]:
    """Where each name is explained: those of `sdegen` alone, others after their chapter; classes and long names alone too."""
    modules = {name: importlib.import_module(name) for chapter in pages().values() for name in chapter}
    modules |= {f"sdegen.{name}": thing for name, thing in public(sdegen).items() if inspect.ismodule(thing)}
    found: dict[str, str] = {}
    for name, module in [*modules.items(), ("sdegen", sdegen)]:
        for key, thing in public(module).items():
            place = anchor(thing)
            if place is not None:
                found[f"{name}.{key}".removeprefix("sdegen.")] = place
                if inspect.isclass(thing) or "_" in key:
                    found.setdefault(key, place)
    return found


def listed(module: Any) -> str:
    """The names that a chapter offers, each with the first sentence of what it says of itself."""
    lines = ["| name | what it is |", "|---|---|"]
    for name, thing in public(module).items():
        said = inspect.getdoc(thing) if inspect.isclass(thing) or inspect.isroutine(thing) else None
        if said:
            first = re.split(r"(?<![ (][A-Z])(?<=\.)\s", said.split("\n\n")[0].replace("\n", " "))[0].replace("``", "`")
            lines.append(f"| `{module.__name__.removeprefix('sdegen.')}.{name}` | {first} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def on_config(config: Any) -> Any:
    """The reference in the navigation, by chapter."""
    chapters = [
        {chapter: [{name.removeprefix(f"sdegen.{chapter}."): place} for name, place in modules.items()]}
        for chapter, modules in pages().items()
    ]
    config.nav.append({"Reference": chapters})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add a page for every module."""
    for name, place in ((name, place) for chapter in pages().values() for name, place in chapter.items()):
        module = importlib.import_module(name)
        text = f"# {name}\n\n::: {name}\n"
        if hasattr(module, "__path__"):
            text = f"# {name}\n\n{inspect.getdoc(module)}\n\n{listed(module)}\n"
        files.append(File.generated(config, place, content=text))
    return files


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Names that the reference explains become links to it, but for those in code, links and headings."""

    def linked(found: re.Match[str]) -> str:
        place = places().get(found["name"] or found["ours"] or found["word"])
        if place is None or ("#" not in place and found["word"]):  # `data` alone is a word
            return found[0]
        return f'<a href="{get_relative_url(place, page.url)}"><code>{found[1]}</code></a>'

    parts = APART.split(content)
    return "".join(part if k % 2 else CODE.sub(linked, part) for k, part in enumerate(parts))
