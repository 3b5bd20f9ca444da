"""Write computed tables as Markdown: what every section of a page is made of."""

from __future__ import annotations

from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent
RESULTS = BENCHMARKS / "results"


def table(of: str, stem: str, columns: list[str] | None = None) -> str:
    """Return the table `stem` of the script `of`, or some of its columns, without rows that are yet to be computed."""
    lines = (RESULTS / of / f"{stem}.md").read_text().splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    keep = [i for i, name in enumerate(cells[0]) if columns is None or i == 0 or name in columns]
    return "\n".join("| " + " | ".join(row[i] for i in keep) + " |" for row in cells if set(row[1:]) != {"–"})


def under(text: str, body: str) -> str:
    """Return what stands below a text, which may be empty, with the text."""
    return f"{text}\n\n{body}\n" if text else f"{body}\n"


def tables(of: str, texts: dict[str, str]) -> str:
    """Return tables of a script, each under its text."""
    return "\n".join(under(text, table(of, stem)) for stem, text in texts.items())


def picture(what: str, of: str, stem: str) -> str:
    """Return the link to a picture of a script."""
    return f"![{what}](results/{of}/{stem}.png)\n"


def illustrated(of: str, stem: str, what: str) -> str:
    """Return a table with the picture of its name, where there is one; nothing where no row is computed."""
    rows = table(of, stem)
    below = f"\n{picture(what, of, stem)}" if (RESULTS / of / f"{stem}.png").exists() else ""
    return f"{rows}\n{below}" if any_row(rows) else ""


def any_row(rows: str) -> bool:
    """Tell whether a table has more than its head."""
    return rows.count("\n") > 1
