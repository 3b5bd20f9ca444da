"""Put the computed tables into the pages that show them, between a marker and the next heading or rule.

python -m benchmarks.pages
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TITLES = {
    "kl": "Processes and weightings",
    "architectures": "Architectures at equal seconds (VP, likelihood weighting)",
    "levels": "Relative score error `E‖s − s*‖² / E‖s*‖²` of networks trained at one noise level",
    "langevin": "Langevin dynamics against the probability flow, exact score",
}


def put(page: Path, marker: str, body: str) -> None:
    """Replace what stands between ``<!-- marker -->`` and ``<!-- end -->``."""
    text = page.read_text()
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- end -->|\Z)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page.name} has no <!-- {marker} --> marker.")
    page.write_text(pattern.sub(lambda m: f"{m[1]}\n{body}\n<!-- end -->", text))


def table(stem: str, columns: list[str] | None = None, of: str = "kl_table") -> str:
    """A computed table, or some of its columns."""
    lines = (HERE / "results" / of / f"{stem}.md").read_text().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    keep = [i for i, name in enumerate(cells[0]) if columns is None or i == 0 or name in columns]
    return "\n".join("| " + " | ".join(row[i] for i in keep) + " |" for row in cells)


def main() -> None:
    """Fill both pages."""
    blocks = [f"### {title}\n\n{table(stem)}\n" for stem, title in TITLES.items()]
    picture = "![densities of trained models beside the truth](results/kl_table/densities.png)\n"
    put(HERE / "README.md", "results", "\n".join([*blocks, picture]))
    put(HERE / "README.md", "solvers", table("solver", of="solver_table") + "\n")
    chosen = ["KL(data‖model)", "k-NN KL", "C2ST", "kde_kl", "source", "train s", "seeds"]
    picture = "![densities of trained models beside the truth](benchmarks/results/kl_table/densities.png)"
    put(HERE.parent / "README.md", "table", f"{table('kl', chosen)}\n\n{picture}\n")


if __name__ == "__main__":
    main()
