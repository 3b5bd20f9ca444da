"""The site: built with warnings as errors, every block of its pages run, every formula drawn."""

from __future__ import annotations

import ast
import html
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
THEORY = sorted((ROOT / "docs" / "theory").glob("*.md"))
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *THEORY]  # all but the reference, whose examples are doctests


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "SDEGEN_SITE" in os.environ:  # built by the command of the README
        return Path(os.environ["SDEGEN_SITE"])
    pytest.importorskip("mkdocs")
    if not (ROOT / "benchmarks" / "results").exists():
        pytest.skip("the pages show pictures of the tables, which a source distribution leaves out")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.site
def test_pages_show_what_their_blocks_print(site: Path) -> None:
    for source in PAGES:
        blocks = len(re.findall(r'^```python.*result="text"', source.read_text(), re.MULTILINE))
        page = (site / source.relative_to(ROOT / "docs").with_suffix(".html")).read_text()
        article = page.split("<article")[1].split("</article")[0]
        # Plain text after the code that printed it: nothing in it is coloured.
        printed = re.findall(r"<pre><span></span><code>([^<]+)</code>", article)
        pictures = len(re.findall(r'html="true"', source.read_text()))
        assert len(printed) >= blocks > 0, source.name
        assert "<svg" in article or not pictures, source.name


def test_links_between_pages_lead_to_pages_of_the_site() -> None:
    """As the repository's links are rewritten for it, in which tables are pages of their own."""
    spec = importlib.util.spec_from_file_location("site_of_docs", ROOT / "docs" / "site.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    docs = {source.relative_to(ROOT / "docs").as_posix(): source.read_text() for source in PAGES}
    pages = docs | {name: (ROOT / name).read_text() for name in hooks.OF_THE_ROOT} | hooks.tables()
    followed = 0
    for place, text in pages.items():
        markdown = hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=place)))
        for link in re.findall(r"\]\((?!https?:)([^)#\s]+\.md)(?:#[^)]*)?\)", markdown):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
            assert target in pages or target.startswith("reference"), f"{place}: {link}"
            followed += 1
        headings = {hooks.slugify(title, "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
        for anchor in re.findall(r"\]\(#([^)]+)\)", markdown):
            assert anchor in headings, f"{place}: #{anchor}"
    assert followed > 100


def test_no_block_of_python_is_only_shown() -> None:
    for source in PAGES:
        shown = re.findall(r"^```python(?! exec=\"true\").*$", source.read_text(), re.MULTILINE)
        assert not shown, source.name


def exists(name: str) -> bool:
    """Whether a dotted name below the library is there, as an attribute or as a module."""
    import sdegen

    place: Any = sdegen
    for part in name.split("."):
        if not hasattr(place, part) and hasattr(place, "__path__"):
            spec = importlib.util.find_spec(f"{place.__name__}.{part}")
            place = None if spec is None else importlib.import_module(spec.name)
        else:
            place = getattr(place, part, None)
        if place is None:
            return False
    return True


@pytest.mark.parametrize("source", PAGES, ids=lambda p: p.stem)
def test_names_in_the_prose_of_a_page_exist(source: Path) -> None:
    import sdegen

    chapters = {info.name for info in pkgutil.iter_modules(sdegen.__path__)} | set(sdegen.__all__)
    classes = {
        name
        for info in pkgutil.walk_packages(sdegen.__path__, "sdegen.")
        for name, thing in vars(importlib.import_module(info.name)).items()
        if inspect.isclass(thing)
    }
    prose = re.sub(r"```.*?```", "", source.read_text(), flags=re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        for dotted in re.findall(r"(?<![\w./])(?:sdegen\.)?([a-z_]+\.\w+)(?![\w./])", code):
            known = exists(dotted) if dotted.split(".")[0] in chapters else True
            assert known or dotted.endswith(".py"), code
        word = re.fullmatch(r"([A-Z][a-z]+[A-Z]\w+)(\(.*\))?", code)
        assert word is None or word[1] in classes or f"import {word[1]}" in source.read_text(), code


@pytest.mark.slow
@pytest.mark.site
def test_formulas_are_drawn(site: Path) -> None:
    for source in PAGES:
        page = (site / source.relative_to(ROOT / "docs").with_suffix(".html")).read_text()
        text = re.sub(r"```.*?```|`[^`\n]+`", "", source.read_text(), flags=re.DOTALL)
        display = text.count("$$") // 2
        assert page.count('display="block"') == display
        assert page.count("<math") == display + text.replace("$$", "").count("$") // 2
        assert "arithmatex" not in page


def test_every_public_chapter_is_in_the_reference() -> None:
    """Seen without building the site: the chapters that the reference lists are those which the library offers."""
    import sdegen

    written = ast.parse((ROOT / "docs" / "reference.py").read_text()).body
    assigned = {
        node.targets[0].id: node.value
        for node in written
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    offered = (getattr(sdegen, name) for name in sdegen.__all__)
    assert {thing.__name__.split(".")[1] for thing in offered if inspect.ismodule(thing)} <= set(
        ast.literal_eval(assigned["CHAPTERS"])
    )


@pytest.mark.slow
@pytest.mark.site
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import sdegen

    pages = "".join(p.read_text() for p in (site / "reference").rglob("*.html"))
    known = set(re.findall(r'id="(?:sdegen\.)(?:[\w.]+\.)?(\w+)"', pages))
    modules = [sdegen, *(getattr(sdegen, name) for name in sdegen.__all__ if inspect.ismodule(getattr(sdegen, name)))]
    things = {name: getattr(module, name) for module in modules for name in getattr(module, "__all__", ())}
    names = {name for name, thing in things.items() if inspect.isclass(thing) or inspect.isroutine(thing)}
    assert not sorted(names - known - {"density"})


def links(site: Path) -> Iterator[tuple[str, str, str]]:
    """Page, and the page and the heading that it links to, of every link within the site."""
    for page in site.rglob("*.html"):
        for href in re.findall(r'<a\b[^>]*href="([^"]+)"', page.read_text()):
            if page.name != "404.html" and not re.match(r"\w+:", href):
                path, _, heading = html.unescape(href).partition("#")
                target = (page.parent / path).resolve() if path else page
                yield str(page.relative_to(site)), str(target.relative_to(site.resolve() if path else site)), heading


@pytest.mark.slow
@pytest.mark.site
def test_every_link_leads_somewhere(site: Path) -> None:
    ids = {str(p.relative_to(site)): set(re.findall(r'\bid="([^"]+)"', p.read_text())) for p in site.rglob("*.html")}
    broken = [
        (page, target, heading)
        for page, target, heading in links(site)
        if target not in ids or (heading and heading not in ids[target])
    ]
    assert not broken


@pytest.mark.slow
@pytest.mark.site
def test_names_in_guides_lead_to_the_reference(site: Path) -> None:
    import sdegen

    found = set(links(site))
    for page, thing in {
        "images.html": sdegen.guidance.ClassifierFree,
        "choose_a_sampler.html": sdegen.samplers.Multistep,
        "likelihood.html": sdegen.discrete_elbo,
    }.items():
        path = "/".join(["reference", *thing.__module__.split(".")[1:]]) + ".html"
        assert (page, path, f"{thing.__module__}.{thing.__qualname__}") in found


@pytest.mark.slow
@pytest.mark.site
@pytest.mark.parametrize("word", ["tables", "TensorBoard", "energy", "GPU", "glossary"])
def test_a_search_finds(site: Path, word: str) -> None:
    sections = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    assert any(re.search(rf"\b{word}\b", section["title"], re.IGNORECASE) for section in sections)


@pytest.mark.slow
@pytest.mark.site
def test_no_page_is_endless(site: Path) -> None:
    """By what makes a page high: lines of code, rows of tables, headings and paragraphs."""
    for page in site.rglob("*.html"):
        article = page.read_text().split("<article")[-1]
        lines = sum(code.count("\n") for code in re.findall(r"<pre.*?</pre>", article, re.DOTALL))
        assert lines + len(re.findall(r"<(?:tr|p|h[1-6])\b", article)) < 900, page.relative_to(site)


@pytest.mark.slow
@pytest.mark.site
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]*\.(?:js|css|png|svg|woff2?)', page.read_text()
        )
