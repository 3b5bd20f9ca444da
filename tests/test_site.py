"""The site: built with warnings as errors, every block of its pages run, every formula drawn."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
THEORY = sorted((ROOT / "docs" / "theory").glob("*.md"))
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *THEORY]  # all but the reference, whose examples are doctests


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_no_block_of_python_is_only_shown() -> None:
    for source in PAGES:
        shown = re.findall(r"^```python(?! exec=\"true\").*$", source.read_text(), re.MULTILINE)
        assert not shown, source.name


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


@pytest.mark.slow
@pytest.mark.site
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    import sdegen

    pages = "".join(p.read_text() for p in (site / "reference").glob("*.html"))
    known = set(re.findall(r'id="(?:sdegen\.)(?:[\w.]+\.)?(\w+)"', pages))
    names = {name for name in sdegen.__all__ if not name.startswith("_") and hasattr(sdegen, name)}
    for chapter in ("samplers", "baselines", "metrics", "losses", "weightings", "nets", "data", "guidance", "grids"):
        module = getattr(sdegen, chapter)
        names |= set(getattr(module, "__all__", ()))
    missing = sorted(
        names - known - {"density"} - {n for n in names if type(getattr(sdegen, n, None)).__name__ == "module"}
    )
    assert not missing


@pytest.mark.slow
@pytest.mark.site
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="https?://[^"]*\.(?:js|css|png|svg|woff2?)', page.read_text()
        )
