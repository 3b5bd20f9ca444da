"""Cards of trained models: what each was trained on, by which command, and what that took."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

import sdegen
from benchmarks.devices import called
from benchmarks.files import write_whole

Card = dict[str, Any]
LAST = 500  # steps whose mean loss a card tells


def describe_training(run: sdegen.Run, recipe: int, device: str, **known: Any) -> Card:
    """Return the card of a model: what is known of it, and what its training took.

    Parameters
    ----------
    run
        The record of the training.
    recipe
        Steps of the whole recipe, of which the run may be a share.
    device
        The device that the training ran on.
    known
        Entries that come first on the card, in this order; an underscore of a name becomes a blank.
    """
    last = run.loss[-LAST:]
    return {
        **{name.replace("_", " "): value for name, value in known.items()},
        "steps": run.steps, "share of the recipe": round(run.steps / recipe, 4), "seconds": round(run.seconds),
        "device": called(device), "threads": run.threads, f"loss of the last {LAST} steps": round(sum(last) / len(last), 3),
        "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def write_card(card: Card, path: Path) -> str:
    """Write a card to a file, and return its text."""
    text = json.dumps(card, indent=1)
    write_whole(path, text + "\n")
    return text
