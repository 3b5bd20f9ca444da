"""Write the sections about models of images, and the cards of the shipped ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.pages.blocks import RESULTS, illustrated, picture, table, under

FIDS = {
    "fashion_mnist": "Fashion-MNIST, the shipped model, against test images",
    "fashion_mnist-10000": "Fashion-MNIST, of 10,000 images each",
    "mnist": "MNIST, the shipped model, against test images",
    "mnist-10000": "MNIST, of 10,000 images each",
    "sprites": "Sprites, the shipped model, against the tiles that no fold holds; four seeds, ± over them",
    "digits": "Digits, a model of 3,000 steps, against held-back images; four seeds, ± over them",
}

FAMILIES = {
    "mixture": "The mixture of eight modes",
    "fashion_mnist": "Families on Fashion-MNIST",
    "mnist": "Families on MNIST",
    "digits": "Families on the digits",
}

CODES = {
    "fashion_mnist": "Heads on codes, the VAE of the families table:",
    "fashion_mnist-source": "Heads on codes, the VAE of the recipes of the sources:",
    "fashion_mnist-source-reconstruction": "Distances of reconstructions, the VAE of the recipes of the sources:",
}

# Words in the names of rows of models that are not shipped.
OF_OTHERS = ("short training", "trained for bits", "learned variance")
SHIPPED = {"unet": "train_images", "jumps": "train_flow_maps"}  # the kinds of models, and the scripts that train them


def sections() -> dict[str, str]:
    """Return the sections by their markers in the page of tables."""
    confusion = picture("confusion matrices", "mode_categories", "confusion")
    return {
        "fid": "\n".join(fid_block(data) for data in judged()),
        "families": "\n".join(family_block(data, title) for data, title in FAMILIES.items()),
        "sources": illustrated("sources_table", "recipes", "samples above the losses of the training"),
        "categories": "\n\n".join([table("mode_categories", "categories"), confusion]),
        "codes": "\n".join(f"{text}\n\n{illustrated('latent_codes', stem, 'walks')}" for stem, text in CODES.items()),
    }


def judged() -> list[str]:
    """Return the sets of images that there are Fréchet distances of."""
    return [data for data in FIDS if (RESULTS / "fid_table" / data / "fid.md").exists()]


def fid_block(data: str) -> str:
    """Return the table of a set of images, and guided samples."""
    of = f"fid_table/{data}"
    samples = picture("samples of every class", of, "default--10--guided-1-25")
    return f"### {FIDS[data]}\n\n{table(of, 'fid')}\n\n{samples}"


def noise_of_default() -> str:
    """Return FID by a thousand steps of DDPM, and by ten of the default with noise and without, of each set of images."""
    return fids(["DDPM, 1000", "default, 10", "default, no noise, 10"])


def jumps() -> str:
    """Return FID of jumps beside that of the default sampler, of each set of images with a shipped map."""
    few = [f"default, {n}" for n in (1, 2, 4, 5, 6, 10)]
    steps = [f"jumps, {n}" for n in (1, 2, 4)]
    between = [f"{name}, noise between" for name in steps[1:]]
    return fids(["training images (floor)", *few, "default, no noise, 100", *steps, *between])


def fids(rows: list[str]) -> str:
    """Return FID of some rows, a line for each set of images that has all of them."""
    lines = ["| | " + " | ".join(rows) + " |", "| --- " * (len(rows) + 1) + "|"]
    for data in judged():
        found = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", table(f"fid_table/{data}", "fid", ["FID"]), re.M))
        if all(row in found for row in rows):
            lines.append(f"| {FIDS[data].split(',')[0]} | " + " | ".join(found[row] for row in rows) + " |")
    return "\n".join(lines) + "\n"


def family_block(data: str, title: str) -> str:
    """Return the table of a set of data with the samples side by side; nothing where there is no table yet."""
    of, stem = ("families_table", "mixture") if data == "mixture" else (f"families_table/{data}", "images")
    if not (RESULTS / of / f"{stem}.md").exists():
        return ""
    samples = f"\n{picture('samples, and curves of training', of, stem)}"
    return under(f"### {title}", table(of, stem)) + (samples if (RESULTS / of / f"{stem}.png").exists() else "")


def cards() -> str:
    """Return what every shipped model and flow map is, and how good."""
    kept = [(data, kind) for data in judged() for kind in SHIPPED if card_file(data, kind).exists()]
    return "\n".join(card(data, kind) for data, kind in kept)


def card_file(data: str, kind: str) -> Path:
    """Return where a training writes what it did."""
    return RESULTS / SHIPPED[kind] / data / "card.json"


def card(data: str, kind: str) -> str:
    """Return what a shipped model is, and its rows of the table of FID."""
    known = json.loads(card_file(data, kind).read_text())
    lines = [f"- {key}: {f'`{value}`' if key == 'command' else value}" for key, value in known.items()]
    rows = table(f"fid_table/{data}", "fid", ["FID", "accuracy", "evaluations", "count", "features"])
    head, others = rows.splitlines()[:2], rows.splitlines()[2:]
    shipped = [row for row in others if not any(words in row for words in OF_OTHERS)]
    own = [row for row in shipped if row.startswith("| jumps") == (kind == "jumps")]
    return f"## `{data.replace('_', '-')}-{kind}-v1`\n\n" + "\n".join(lines) + "\n\n" + "\n".join([*head, *own]) + "\n"
