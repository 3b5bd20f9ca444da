"""Older formats of model files: for each a function that brings the description of the model, and its tensors, to the next."""

from __future__ import annotations

__all__ = ["UPGRADES", "Upgrade", "renamed", "upgrade"]

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

Upgrade = Callable[[Any, dict[str, Tensor]], tuple[Any, dict[str, Tensor]]]

# The names of classes and chapters in the first format.
_CLASSES_OF_1 = {
    f"models.{name}": f"{name}Parametrization" for name in ("Data", "EDM", "Noise", "Score", "Velocity")
} | {
    "foreign.Steps": "StepIndex", "foreign.Times": "ScaledTime", "foreign.Level": "NoiseLevel",
    "baselines.Chain": "Composition", "baselines.Flow": "NormalizingFlow", "baselines.Layer": "LatentLayer",
}  # fmt: skip
_CHAPTERS_OF_1 = {"distributions": "laws", "foreign": "models", "measurements": "guidance", "weightings": "processes"}
# Where networks of the third format had the table of their label.
_LABEL_OF_3 = {"nets.MLP": "label.table.", "nets.UNet": "condition.label.table.", "nets.DiT": "condition.label.table."}


def renamed(value: Any, name: Callable[[str], str]) -> Any:
    """Return a model's description with the name of each class replaced by ``name(old name)``."""
    if isinstance(value, list):
        return [renamed(v, name) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: name(v) if k == "class" else renamed(v, name) for k, v in value.items()}


def _name_of_2(name: str) -> str:
    """Return the name that the second format has for a class: by its folder, where the first had the module."""
    chapter, dot, cls = name.rpartition(".")
    return f"{_CHAPTERS_OF_1.get(chapter, chapter)}{dot}{_CLASSES_OF_1.get(name, cls)}"


def _from_1(described: Any, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    return renamed(described, _name_of_2), tensors


def _from_2(described: Any, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    return described, tensors  # the second had no checksum, and lists for tuples


def _from_3(described: Any, tensors: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Give the label of a network its new place, as one condition among others."""
    moved = {f"weight:{old}weight": f"weight:{new}weight" for old, new in _labels(described, "")}
    return described, {moved.get(name, name): value for name, value in tensors.items()}


def _labels(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yield where the networks in a description had the tables of their labels, and where they have them now."""
    if isinstance(value, list):
        for i, part in enumerate(value):
            yield from _labels(part, f"{place}{i}.")
    elif isinstance(value, dict) and isinstance(value.get("arguments"), dict):
        old = _LABEL_OF_3.get(str(value.get("class")))
        if old is not None:
            yield place + old, place + old.replace("label.table.", "given.entries.label_.table.")
        for name, argument in value["arguments"].items():
            yield from _labels(argument, f"{place}{name}.")


UPGRADES: dict[str, tuple[str, Upgrade]] = {  # from each older format to the next
    "sdegen-3": ("sdegen-4", _from_3),
    "sdegen-2": ("sdegen-3", _from_2),
    "sdegen-1": ("sdegen-2", _from_1),
}


def upgrade(described: Any, tensors: dict[str, Tensor], found: str, wanted: str) -> tuple[Any, dict[str, Tensor]]:
    """Return the description of the model in a file, and its tensors, in the present format.

    Parameters
    ----------
    described, tensors
        The description and the tensors in the file.
    found, wanted
        The format of the file, and the present format.
    """
    while found != wanted:
        found, to_next = UPGRADES[found]
        described, tensors = to_next(described, tensors)
    return described, tensors
