"""What the site does to the pages: those outside `docs` join them, and formulas become MathML, which browsers draw alone."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
OF_THE_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root and that of the benchmarks, and the pictures of these that it or another page shows."""
    for name in OF_THE_ROOT:
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    page = ROOT / "benchmarks" / "README.md"
    pages = [page, *(ROOT / "docs").rglob("*.md")]
    shown = [
        p for page in pages for p in re.findall(r"\]\((?:[./]*benchmarks/)?(results/[^)#]+\.png)\)", page.read_text())
    ]
    for path in ["README.md", *dict.fromkeys(shown)]:
        files.append(File(f"benchmarks/{path}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between folders, as they are in the repository, are links of the site."""
    if page.file.src_uri in OF_THE_ROOT:
        return re.sub(r"\]\(docs/", "](", markdown)
    if page.file.src_uri.startswith("benchmarks/"):
        return re.sub(r"\]\(\.\./docs/", "](../", markdown)
    return re.sub(r"\]\(((?:\.\./)*)\.\./benchmarks/", r"](\1benchmarks/", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML."""

    def drawn(found: re.Match[str]) -> str:
        return convert(html.unescape(found[3]), display="block" if found[2] == "[" else "inline")

    return FORMULA.sub(drawn, content)
