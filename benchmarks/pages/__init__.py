"""Put the computed tables into the pages that show them, each between its marker and the next end.

python -m benchmarks.pages
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import sdegen
from benchmarks.pages import images, likelihoods, posteriors, sampling, training
from benchmarks.pages.blocks import BENCHMARKS, table

ROOT = BENCHMARKS.parent
CHAPTERS = (training, sampling, likelihoods, posteriors, images)


def filled() -> dict[Path, str]:
    """Return the text of every page with its tables."""
    sections = {marker: body for chapter in CHAPTERS for marker, body in chapter.sections().items()}
    bodies = {
        BENCHMARKS / "README.md": sections,
        ROOT / "README.md": {"table": training.front_table()},
        ROOT / "docs" / "conditions.md": {"measured images": "\n".join(posteriors.measured_images()[:2])},
        ROOT / "docs" / "choose_a_sampler.md": {"noise": images.noise_of_default()},
        ROOT / "docs" / "flow_maps.md": {
            "objectives": table("flow_map_table", "objectives", sampling.OBJECTIVES) + "\n",
            "nearness": sampling.nearness(),
            "jumps": images.jumps(),
        },
        Path(sdegen.__file__).parent / "weights" / "README.md": {"cards": images.cards()},
    }
    return {page: fill(page, between) for page, between in bodies.items()}


def fill(page: Path, bodies: Mapping[str, str]) -> str:
    """Return the text of a page with each body between ``<!-- marker -->`` and ``<!-- end -->``.

    Raises
    ------
    ValueError
        If the page has no such marker.
    """
    text = page.read_text()
    for marker, body in bodies.items():
        found = re.search(rf"<!-- {marker} -->\n(.*?)(<!-- end -->|\Z)", text, re.DOTALL)
        if found is None:
            raise ValueError(f"{page.name} has no <!-- {marker} --> marker.")
        text = f"{text[: found.start(1)]}\n{body}\n<!-- end -->{text[found.end() :]}"
    return text
