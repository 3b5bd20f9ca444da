"""What the site does to the pages: those of the root and of the tables join them, and a figure keeps its error beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from markdown.extensions.toc import slugify
from mkdocs.structure.files import File

# The models of the pages are small: on a busy machine threads wait for each other longer than they work.
torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
OF_THE_ROOT = ("CHANGELOG.md", "CONTRIBUTING.md")
TABLES = ROOT / "benchmarks" / "README.md"


def tables() -> dict[str, str]:
    """The pages of tables by their places in the site: what benchmarks/README.md says first, and each of its sections."""
    start, *sections = re.split(r"^## ", TABLES.read_text(), flags=re.MULTILINE)
    pages = {}
    for section in sections:
        title = section.split("\n", 1)[0]
        pages[f"benchmarks/{slugify(title, '-')}.md"] = "# " + re.sub(r"^##(?=#+ )", "#", section, flags=re.MULTILINE)
    listed = [f"- [{text.split(chr(10), 1)[0][2:]}]({path.split('/')[1]})" for path, text in pages.items()]
    return {"benchmarks/README.md": "\n".join(["# Tables", start.split("\n", 1)[1], *listed]), **pages}


def place(anchor: str) -> str:
    """Where a heading of benchmarks/README.md is in the site: its page, and the heading if the page has others."""
    for path, text in tables().items():
        headings = [slugify(title, "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
        if anchor in headings[1:]:
            return f"{path}#{anchor}"
        if anchor in headings:
            return path
    raise LookupError(f"benchmarks/README.md has no heading #{anchor}, which a page links to.")


def on_config(config: Any) -> Any:
    """The tables in the navigation, before the reference."""
    config.nav.append({"Tables": list(tables())})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the root, the tables, and the pictures that these or another page show."""
    for name in OF_THE_ROOT:
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for path, text in tables().items():
        files.append(File.generated(config, path, content=text))
    texts = [page.read_text() for page in (TABLES, *(ROOT / "docs").rglob("*.md"))]
    shown = [p for text in texts for p in re.findall(r"\]\((?:[./]*benchmarks/)?(results/[^)#]+\.png)\)", text)]
    for path in dict.fromkeys(shown):
        files.append(File(f"benchmarks/{path}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between folders, as they are in the repository, are links of the site."""
    if page.file.src_uri in OF_THE_ROOT:
        markdown = re.sub(r"\]\(docs/", "](", markdown)
    if page.file.src_uri.startswith("benchmarks/"):
        markdown = re.sub(r"\]\(\.\./docs/", "](../", markdown)
        return re.sub(r"\]\(#([^)]+)\)", lambda found: f"]({place(found[1]).removeprefix('benchmarks/')})", markdown)
    markdown = re.sub(r"\]\(((?:\.\./)*)\.\./benchmarks/", r"](\1benchmarks/", markdown)
    up = "../" * page.file.src_uri.count("/")
    return re.sub(r"\]\([./]*benchmarks/README\.md#([^)]+)\)", lambda found: f"]({up}{place(found[1])})", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """A figure and its error are not parted."""
    return re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", content)
