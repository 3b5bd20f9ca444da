"""Checkpoints of a training run: its whole state between two steps, from which the run continues to the bit.

A run has a folder. ``step-N.safetensors`` holds weights, averages, the optimiser, the states of the random generators, what is
left of this pass over the data, and the record; its header is JSON with settings, model and version. Nothing is pickled. The last
two checkpoints are kept; a new one is complete before an old one is deleted (`storage.write_whole`).
"""

from __future__ import annotations

__all__ = ["Checkpoint", "Folder"]

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..identity import differences
from ..laws.mixtures import Moments
from ..models.network import LEARNED
from ..show import show_call
from ..storage import parsed, read_whole, write_whole

FORMAT = "sdegen-run-3"
_WHAT_TO_DO = "call fit as the run was begun, or give another folder to start anew."
_LONGER = (
    " To train the model of a finished run further, make that call, which returns at once, and call fit with the model again "
    "and another folder."
)


@dataclass
class Checkpoint:
    """A checkpoint of a training run, as read from its file.

    Attributes
    ----------
    path, step, seconds
        The file, and the steps and seconds of the run so far.
    about
        Settings and model of the run, in JSON.
    tensors
        All else that changes from step to step, by name (`Training.tensors`).
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
            longer = _LONGER if name == "steps" else ""
            raise ValueError(f"{self.path} is of a run with {name} = {was}, not {given}; {_WHAT_TO_DO}{longer}")
        then, now = self.part("weight"), model.state_dict()
        now = {name: value for name, value in now.items() if name in then or not name.startswith(LEARNED)}
        for name in sorted(then.keys() ^ now.keys()):
            here = "the checkpoint" if name in then else "the model"
            raise ValueError(
                f"{self.path} holds weights of another architecture: only {here} has {name}; {_WHAT_TO_DO}"
            )
        for name, value in now.items():
            was = then[name]
            # Moments are empty before a run.
            if was.dtype != value.dtype or (value.numel() and was.shape != value.shape):
                raise ValueError(
                    f"{self.path} holds weights of another architecture: {name} is {tuple(was.shape)} {was.dtype} there and "
                    f"{tuple(value.shape)} {value.dtype} here; {_WHAT_TO_DO}"
                )
        variance = moments.covariance.abs().max()
        for name, unit in (("mean", variance.sqrt()), ("covariance", variance)):
            was, value = self.part("moments").get(name), getattr(moments, name)
            if was is None:
                continue  # `check_whole` refuses it
            # Equal up to the rounding of a sum, whose order may differ between machines.
            if was.shape != value.shape or not torch.allclose(was, value.to(was), rtol=1e-5, atol=1e-6 * unit.item()):
                raise ValueError(f"{self.path} is of a run on other data: their {name} differs; {_WHAT_TO_DO}")

    def check_data(self, known: dict[str, Tensor], tolerance: float) -> None:
        """Refuse to continue a run on other data, or on the same data in another order.

        Parameters
        ----------
        known
            Fingerprints of the data and their conditions (`data.Source.fingerprint`).
        tolerance
            The largest difference of fingerprints of the same data.

        Raises
        ------
        ValueError
            If data or conditions differ; the message names which.
        """
        then = self.part("data")
        for name in dict.fromkeys([*then, *known]):
            was, now = then.get(name, torch.empty(0)), known.get(name, torch.empty(0))
            if was.shape == now.shape and torch.allclose(was.double(), now.double(), rtol=1e-12, atol=tolerance):
                continue
            what = "the rows" if name == "x" else f"the {name}"
            raise ValueError(
                f"{self.path} is of a run on other data: {what}, or their order, are not those it began with; {_WHAT_TO_DO}"
            )

    def check_whole(self, expected: dict[str, Tensor], learned: list[Tensor]) -> None:
        """Refuse to continue from a checkpoint that lacks a tensor, or has it in another shape.

        Parameters
        ----------
        expected
            The tensors that a run that has just begun would keep. Those that grow with the run may have another length.
        learned
            The weights that the optimiser moves, in its own order.

        Raises
        ------
        ValueError
            If a tensor is missing or has another shape; the message names the first.
        """
        expected = dict(expected)
        moved = sorted({int(name.split(".")[0]) for name in self.part("optimiser") if name.split(".")[0].isdigit()})
        one = torch.zeros(())
        for i in moved:
            like = learned[i] if i < len(learned) else one
            expected |= {
                f"optimiser:{i}.{name}": v for name, v in {"step": one, "exp_avg": like, "exp_avg_sq": like}.items()
            }
        expected |= {"threads": torch.tensor(0)} if "threads" in self.tensors else {}
        # Before the first batch there is no fingerprint of batches.
        expected = {k: v for k, v in expected.items() if not k.startswith("batch:")}
        grows = ("record:", "validation", "order", "torch:")
        gone = "delete it, and the run goes on from the one before."
        for name, value in expected.items():
            was = self.tensors.get(name)
            if was is None and name.startswith(f"weight:{LEARNED}"):
                continue  # written by a version that did not note it, and took all conditions to be learned
            if was is None:
                raise ValueError(f"{self.path} lacks {name}; {gone}")
            if name.startswith("weight:"):
                continue  # `check` has compared these
            free = int(name.startswith(grows))  # the length is not compared
            if was.ndim != value.ndim or was.shape[free:] != value.shape[free:] or was.dtype != value.dtype:
                raise ValueError(
                    f"{self.path} has {name} as {tuple(was.shape)} {was.dtype}, where the run has {tuple(value.shape)} "
                    f"{value.dtype}; {gone}"
                )


class Folder:
    """The folder with the checkpoints of one training run."""

    __repr__ = show_call

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()  # wherever the code of the run may go

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
            If the file is not complete, or another version wrote it.
        """
        files = self.files()
        if not files:
            return None
        path, older = files[-1], files[:-1]
        then = f"goes on from {older[-1].name}" if older else "starts anew"
        broken = f"delete it, and the run {then}."
        again = "go on with the version that wrote it, or give another folder to start anew."
        header, tensors = read_whole(path, (FORMAT,), broken, again)
        step, seconds, about = (
            parsed(path, header, name, kind, broken)
            for name, kind in (("step", int), ("seconds", (int, float)), ("about", dict))
        )
        return Checkpoint(path, step, seconds, about, tensors)

    def write(self, step: int, seconds: float, about: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write a checkpoint, and delete all older ones but the last.

        Raises
        ------
        OSError
            If it cannot be written. The checkpoints that were there stay whole.
        """
        header = {"format": FORMAT, "step": str(step), "seconds": repr(seconds), "about": json.dumps(about)}
        before = self.files()
        path = self.path / f"step-{step:08d}.safetensors"
        write_whole(tensors, header, path)
        for old in [file for file in before if file != path][:-1]:
            old.unlink()
