"""Distributed training: communication between the operating system's processes that ``accelerate launch`` has started.

In the library a process is an SDE; those of the operating system are workers here.

The engine is torch.distributed as accelerate sets it up; one process needs neither.
"""

from __future__ import annotations

__all__ = ["Workers"]

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Workers:
    """The workers of a training run, which are processes of the operating system, and their communication.

    A single worker does not need accelerate.

    Parameters
    ----------
    device
        The model's device.

    Attributes
    ----------
    number, rank
        The number of workers, and the index of this one; the main worker has the rank 0.

    Raises
    ------
    ImportError
        If several processes were launched without accelerate.
    ValueError
        If the environment tells of several processes that are not connected, accelerate was set up for another number of
        processes, or the model is not on the device that this process was given.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.number, self.rank = device, int(os.environ.get("WORLD_SIZE", 1)), 0
        if self.number == 1:
            return
        try:
            import accelerate
        except ImportError:
            raise ImportError(
                f"{self.number} processes were launched, which accelerate connects: pip install sdegen[train]."
            ) from None
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            raise ValueError(
                f"WORLD_SIZE = {self.number} in the environment, but this process is connected to no other. In a script that "
                "accelerate launch has started, call accelerate.PartialState() first, on CPUs PartialState(cpu=True); if nothing "
                "has started it, take WORLD_SIZE out of the environment."
            )
        state = accelerate.PartialState(cpu=device.type == "cpu")
        self._talk = accelerate.utils
        if state.num_processes != self.number:
            raise ValueError(
                f"{self.number} processes were launched, but accelerate was set up for {state.num_processes}; on CPUs its "
                "first call in the script must be accelerate.PartialState(cpu=True)."
            )
        self.rank = state.process_index
        given = state.device
        if (given.type, given.index or 0) != (device.type, device.index or 0):
            raise ValueError(
                f"the model is on {device}, process {self.rank} of {self.number} was given {given}; move the model and the "
                "data to accelerate.PartialState().device."
            )

    @property
    def main(self) -> bool:
        """Whether this process is the main one, which writes, shows a bar and calls callbacks."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have arrived here."""
        if self.number > 1:
            self._talk.wait_for_everyone()

    def agree(self, value: float) -> float:
        """Return the number `value` of the main process, on every process."""
        if self.number == 1:
            return value
        return self._talk.broadcast(torch.tensor(value, dtype=torch.float64, device=self.device)).item()

    def check_same(self, name: str, value: float) -> None:
        """Refuse a number that differs from that of the main process.

        Raises
        ------
        ValueError
            If the numbers differ.
        """
        main = self.agree(value)
        if main != value:
            raise ValueError(
                f"process {self.rank} is at {name} {value}, the main one at {main:g}; give all the same folder, which each of "
                "them can read."
            )

    @torch.no_grad()
    def share(self, model: nn.Module) -> None:
        """Copy the main process's weights to the model of every process."""
        if self.number > 1:
            for value in (*model.parameters(), *model.buffers()):
                value.copy_(self._talk.broadcast(value.contiguous()))

    @torch.no_grad()
    def add(self, value: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """Sum a number and the gradients over all processes at once, and return the sum of the number."""
        parameters = list(parameters)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        users = grads[0].new_tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([value.to(grads[0]).reshape(1), users, *(g.flatten() for g in grads)])
        total, users, *sums = self._talk.reduce(flat, "sum").split([1, len(users), *(g.numel() for g in grads)])
        for p, used, grad in zip(parameters, users.tolist(), sums, strict=True):
            # A weight that some process used moves in all of them; one that none used has no gradient.
            p.grad = grad.view_as(p) if used else None
        return total[0]

    def gather(self, value: Tensor) -> Tensor:
        """Return the tensors of all processes, stacked, on the CPU."""
        if self.number == 1:
            return value[None].cpu()
        return self._talk.gather(value[None].to(self.device)).cpu()
