"""Write the sections about training: processes, weightings and networks, laws given conditions, and its speed."""

from __future__ import annotations

from benchmarks.pages.blocks import picture, table, tables, under

KL = {
    "kl": "### Processes and weightings",
    "architectures": "### Architectures (VP, likelihood weighting)",
    "levels": "### Networks trained at one noise level: relative score error\n\n`E‖s − s*‖² / E‖s*‖²`, by the level.",
    "langevin": "### Langevin dynamics against the probability flow, exact score",
    "langevin_trained": "### Langevin dynamics with scores trained level by level",
}
CHOSEN = ["KL(data‖model)", "k-NN KL", "C2ST", "kde_kl", "source", "train s", "seeds"]  # what the front page shows
DENSITIES = picture("densities of trained models beside the truth", "kl_table", "densities")

CONDITIONAL = {
    "posteriors": "### Posteriors of ten measurements each",
    "labels": "### Labels of very different widths",
}

INFERRED = {
    "tasks": "",
    "pairs": "True posteriors, on the pairs that TARP is measured on:",
    "rounds": "The moons, in rounds of simulations for one datum at a time:",
}


def sections() -> dict[str, str]:
    """Return the sections by their markers in the page of tables."""
    columns = [table("columns_table", stem) for stem in ("columns_samples", "columns_densities")]
    return {
        "results": "\n".join([tables("kl_table", KL), DENSITIES]),
        "conditional": tables("conditional_table", CONDITIONAL),
        "columns": under("", "\n\n".join(columns)),
        "bounded": tables("bounded_table", {"bounded": ""}),
        "inference": tables("inference_table", INFERRED),
        "train speed": tables("train_speed", {"train_speed": ""}),
        "race": tables("race", {"race": ""}),
    }


def front_table() -> str:
    """Return the table of divergences with the columns that the front page shows, and its picture."""
    return f"{table('kl_table', 'kl', CHOSEN)}\n\n{DENSITIES.replace('results/', 'benchmarks/results/')}"
