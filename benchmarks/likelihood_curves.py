"""The picture of `benchmarks.likelihood_recipe`: bits against seconds of training, beside RealNVP of the families table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks.followed import Points
from benchmarks.tables import Table


def draw(table: Table, sets: Mapping[str, str], prices: Mapping[str, float]) -> None:
    """Draw bits of images that are not trained on against seconds: as they were measured, and as a core would take them.

    Parameters
    ----------
    table
        The table of the recipe.
    sets
        From the name of a row to that of its images.
    prices
        The least seconds that a step of training takes of one core, by the name of the row.
    """
    figure = Figure(figsize=(4 * len(sets), 3.4), layout="constrained")
    for ax, (name, data) in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets.items()):
        for seed in (0, 1):
            points = Points(table.file(f"curve-{name}-{seed}.csv")).read()
            bits = [point["bits"] for point in points]
            label = "the recipe" if seed == 0 else None
            ax.plot([point["seconds"] for point in points], bits, "C0.-", label=label and f"{label}, as measured")
            if name in prices:
                seconds = [point["step"] * prices[name] for point in points]
                ax.plot(seconds, bits, "C0.:", label=label and f"{label}, steps on one core")
        finish(ax, name, Points(table.beside("families_table").within(data).file("curve-RealNVP-0.csv")).read())
    ax.legend(fontsize=7, frameon=False)
    table.out.mkdir(parents=True, exist_ok=True)
    figure.savefig(table.out / "images.png", dpi=100)


def finish(ax: Any, name: str, flow: list[dict[str, float]]) -> None:
    """Add the curve of RealNVP and what the axes are."""
    ax.plot([point["seconds"] for point in flow], [point["bits"] for point in flow], "C1.-", label="RealNVP, one core")
    ax.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel="bits per number", title=name)
    ax.yaxis.set_major_formatter("{x:.3g}"), ax.yaxis.set_minor_formatter("{x:.3g}")
