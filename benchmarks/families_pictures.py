"""Pictures of the families table."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from benchmarks.tables import Table
from sdegen import plots

Curves = dict[str, list[float]]  # FID by epoch, of each row


def slug(name: str) -> str:
    """Return a name as that of a file, without what is in brackets."""
    return name.split(" (")[0].replace(",", "").replace(" ", "-")


def points(table: Table, name: str, y: Tensor) -> None:
    """Draw 3,000 samples of the mixture."""
    figure = Figure(figsize=(3, 3), layout="constrained")
    ax = plots.scatter(y[:3000], ax=figure.subplots())
    ax.set(xlim=(-6.5, 6.5), ylim=(-6.5, 6.5), xticks=[], yticks=[])
    save(figure, table, name)


def picture(table: Table, name: str, x: Tensor) -> None:
    """Draw a grid of images."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    plots.images(x, columns=10, ax=figure.subplots())
    save(figure, table, name)


def save(figure: Figure, table: Table, name: str) -> None:
    """Write the picture of a row into a table's folder."""
    table.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(table.out / f"{slug(name)}.png", dpi=100)


def side_by_side(table: Table, names: list[str], path: Path, followed: Curves | None = None) -> None:
    """Draw the pictures of all rows in one, and FID by epoch of those that were followed."""
    grids = [(name, table.file(f"{slug(name)}.png")) for name in names]
    grids = [(name, grid) for name, grid in grids if grid.exists()]
    if not grids:
        return
    columns = min(6, -(-(len(grids) + bool(followed)) // 2))
    lines = -(-(len(grids) + bool(followed)) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax in axes:
        ax.set_axis_off()
    for ax, (name, grid) in zip(axes, grids):
        ax.imshow(imread(grid))
        ax.set_title(name, fontsize=9)
    if followed:
        ax = axes[len(grids)]
        ax.set_axis_on()
        ax.set_box_aspect(1)
        for name, values in followed.items():
            ax.plot(range(1, len(values) + 1), values, marker=".", label=name)
        ax.set(yscale="log", xlabel="epoch", title="FID of 1,000 samples")
        ax.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def curves(table: Table, names: list[str]) -> Curves:
    """Return FID by epoch of the rows that were followed."""
    found = {name: table.file(f"curve-{slug(name)}-0.csv") for name in names}
    lines = {name: path.read_text().splitlines() for name, path in found.items() if path.exists()}
    return {
        slug(name): [float(line.split(",")[2]) for line in rest]
        for name, (head, *rest) in lines.items()
        if "FID" in head
    }
