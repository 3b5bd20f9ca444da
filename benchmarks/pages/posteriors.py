"""Write the sections about guidance: products of laws, laws without data, and posteriors given what was measured."""

from __future__ import annotations

from benchmarks.pages.blocks import RESULTS, any_row, illustrated, table, tables, under
from benchmarks.posterior_table import NOISES

POSTERIORS = {
    f"d{dim}-noise{noise:g}": f"### {dim} dimensions, noise {noise:g} of the signal"
    for dim in (2, 8, 32)
    for noise in NOISES
}

NONLINEAR = {
    "magnitude": "The size of one direction on the ring, with Gaussian noise of a tenth of what it sees:",
    "counts": "Two counts in 8 dimensions, whose mean is exponential along a direction, with the noise of Poisson:",
    "answers": "Six answers of yes or no in 8 dimensions:",
}

WEIGHTED = {
    "guided": "### Guidance along one mode",
    "annealed": "### Guidance along one mode, densities known",
    "named": "### Published ways of guidance, in floors",
    "planar": "### Products in the plane without closed form",
    "several": "### Several observations of one datum",
    "coverage": "### Stated errors of the normaliser, over 100 runs",
}

UNNORMALISED = {"known": "### Laws without data", "tilted": "### A model tilted by a reward"}

SERIES = {
    "composition": "### Long series from true scores of windows",
    "windows": "### Long series from trained windows\n\nOf the smooth process.",
    "posteriors": "### Forecasts and imputation",
    "stiff": "### A covariance that is nearly singular\n\n64 places, nine of them measured.",
}

FIELDS = {"signals": "### Signals of 32 places", "volumes": "### Volumes of 5 × 4 × 6 places"}

MEASURED = {
    "reduced-four-times": "Means of 4 × 4 pixels, 7 × 7 numbers:",
    "a-square-missing": "All but a square of 14 × 14 pixels:",
    "half-missing": "The upper half:",
    "a-quarter-of-the-pixels": "A quarter of the pixels, at random:",
}

RESTORED = {"fashion_mnist": "Fashion-MNIST", "sprites": "Sprites"}


def sections() -> dict[str, str]:
    """Return the sections by their markers in the page of tables."""
    return {
        "guided": illustrated("guided_modes", "guided_modes", "one mode"),
        "weighted": tables("weighted_table", WEIGHTED),
        "weighted digits": tables("weighted_digits/mnist", {"digits": ""}),
        "unnormalised": tables("unnormalised_table", UNNORMALISED),
        "series": tables("series_table", SERIES),
        "posteriors": tables("posterior_table", POSTERIORS),
        "unseen": tables("posterior_table", {"unseen": ""}),
        "nonlinear": tables("posterior_table", NONLINEAR),
        "misfit": tables("misfit_table", {"misfit": ""}),
        "measured images": "\n".join(measured_images()),
        "restored": "\n".join(restored_images(data, name) for data, name in RESTORED.items()),
        "fields": tables("fields_table", FIELDS),
    }


def measured_images() -> list[str]:
    """Return the tables of images given measurements, each under what was measured, those that have a row."""
    found = {text: table("conditional_images", stem) for stem, text in MEASURED.items()}
    return [under(text, rows) for text, rows in found.items() if any_row(rows)]


def restored_images(data: str, name: str) -> str:
    """Return the tables of a set of images, task by task, and the picture."""
    stems = sorted(file.stem for file in (RESULTS / "restore_images").glob(f"{data}-*.md"))
    tasks = {stem: stem.removeprefix(f"{data}-").replace("-", " ") for stem in stems}
    blocks = [under(f"{name}, {task}:", table("restore_images", stem)) for stem, task in tasks.items()]
    shown = f"![restored images](results/restore_images/{data}.png)\n" if stems else ""
    return "\n".join([*blocks, shown])
