"""Checkpoints of a training run: its whole state between two steps, from which it continues to the bit.

A run has a folder. ``step-N.safetensors`` holds weights, averages, the optimiser, the states of the random generators, what is
left of this pass over the data, and the record; its header is JSON: settings, model, version. Nothing is pickled. The last two
are kept; a new one is whole before an old one goes (`files.write_whole`).
"""

from __future__ import annotations

__all__ = ["Checkpoint", "Folder", "describe", "differences"]

import hashlib
import inspect
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..files import class_name, write_whole
from ..laws.mixtures import Moments
from ..show import show_call

FORMAT = "sdegen-run-2"
_WHAT_TO_DO = "call fit as the run was begun, or give another folder to start anew."


@dataclass
class Checkpoint:
    """A checkpoint of a training run, as read from its file.

    Attributes
    ----------
    path, step, seconds
        The file, and how far the run had come.
    about
        What the run was of, in JSON: settings and model.
    tensors
        Everything else.
    """

    path: Path
    step: int
    seconds: float
    about: dict[str, Any]
    tensors: dict[str, Tensor]

    __repr__ = show_call

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with ``prefix:``, with the prefix removed."""
        return {k.removeprefix(f"{prefix}:"): v for k, v in self.tensors.items() if k.startswith(f"{prefix}:")}

    def check(self, about: dict[str, Any], model: nn.Module, moments: Moments) -> None:
        """Refuse to continue a run whose settings or model differ from the checkpoint's.

        Raises
        ------
        ValueError
            If a setting, the model, its weights or the moments of the data differ, naming which and both values.
        """
        for name, was, given in differences(self.about, about):
            raise ValueError(f"{self.path} is of a run with {name} = {was}, not {given}; {_WHAT_TO_DO}")
        then, now = self.part("weight"), model.state_dict()
        for name in sorted(then.keys() ^ now.keys()):
            here = "the checkpoint" if name in then else "the model"
            raise ValueError(
                f"{self.path} holds weights of another architecture: only {here} has {name}; {_WHAT_TO_DO}"
            )
        for name, value in now.items():
            was = then[name]
            if value.numel() and (
                was.shape != value.shape or was.dtype != value.dtype
            ):  # moments are empty before a run
                raise ValueError(
                    f"{self.path} holds weights of another architecture: {name} is {tuple(was.shape)} {was.dtype} there and "
                    f"{tuple(value.shape)} {value.dtype} here; {_WHAT_TO_DO}"
                )
        variance = moments.covariance.abs().max()
        for name, unit in (("mean", variance.sqrt()), ("covariance", variance)):
            was, value = self.part("moments")[name], getattr(moments, name)
            # Equal but for the order of a sum, which another machine may choose.
            if was.shape != value.shape or not torch.allclose(was, value.to(was), rtol=1e-5, atol=1e-6 * unit.item()):
                raise ValueError(f"{self.path} is of a run on other data: their {name} differs; {_WHAT_TO_DO}")


class Folder:
    """The folder with the checkpoints of one training run."""

    __repr__ = show_call

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def prepare(self) -> None:
        """Make the folder, and delete files that an interrupted process has left incomplete."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"checkpoint = {self.path} is a file; give a folder, which is made if there is none.")
        self.path.mkdir(parents=True, exist_ok=True)
        for part in self.path.glob(".*.safetensors.*.part"):
            shutil.rmtree(part)

    def files(self) -> list[Path]:
        """List the checkpoints in the folder, oldest first."""
        return sorted(self.path.glob("step-*.safetensors"))

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint; None if there is none.

        Raises
        ------
        ValueError
            If it is not whole, or another version wrote it.
        """
        files = self.files()
        if not files:
            return None
        path, older = files[-1], files[:-1]
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            then = f"goes on from {older[-1].name}" if older else "starts anew"
            raise ValueError(f"{path} is not whole ({error}); delete it, and the run {then}.") from None
        if header.get("format") != FORMAT:
            raise ValueError(
                f"{path} has format {header.get('format')!r}, expected {FORMAT!r}; go on with the version that wrote it, or "
                "give another folder to start anew."
            )
        return Checkpoint(path, int(header["step"]), float(header["seconds"]), json.loads(header["about"]), tensors)

    def write(self, step: int, seconds: float, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint, and delete all older ones but the last.

        Raises
        ------
        OSError
            If the disk does not take it. Those that were there are whole.
        """
        header = {"format": FORMAT, "step": str(step), "seconds": repr(seconds), "about": json.dumps(about)}
        before = self.files()
        path = self.path / f"step-{step:08d}.safetensors"
        write_whole(tensors, header, path)
        for old in [file for file in before if file != path][:-1]:
            old.unlink()


def describe(value: Any) -> Any:
    """Describe settings and objects as JSON, by which two runs are compared: functions by name, objects by their
    arguments.
    """
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, nn.Parameter):
        return f"parameter {tuple(value.shape)}"
    if isinstance(value, Tensor):
        content = hashlib.sha256(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        return f"{value.dtype} {tuple(value.shape)} {content[:16]}"
    if isinstance(value, torch.dtype):
        return str(value)
    if hasattr(value, "__qualname__"):
        module = value.__module__.split(".")  # of the library its chapter, as for classes
        return ".".join([*(module[:2] if module[0] == "sdegen" else module), value.__qualname__])
    cls = type(value)
    try:
        names = list(inspect.signature(cls).parameters)
    except ValueError:  # a class without a signature
        names = []
    made_of = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {"class": class_name(cls)} | made_of


def differences(then: Any, now: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """List the entries in which two descriptions differ: dotted name and both values."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return [] if json.dumps(then) == json.dumps(now) else [(name, then, now)]
    if then.get("class") != now.get("class"):
        return [(name, then.get("class"), now.get("class"))]
    return [
        difference
        for key in then | now
        for difference in differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    ]
