"""Devices of the tables: whether there is one of a name, what it is called, and training on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import sdegen


def usable(name: str) -> str:
    """Return the name of a device that holds numbers here; refuse any other.

    Raises
    ------
    ValueError
        If torch knows no such device, or this machine has none.
    """
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"no numbers can be held on the device {name!r} ({reason}); give cpu, or cuda or mps where there is one."
        ) from None
    return name


def called(device: str) -> str:
    """Return what a device is called in a table: the name of the accelerator, or ``CPU``."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device.upper()


def fit_on(device: str, model: nn.Module, data: Any, **settings: Any) -> sdegen.Run:
    """Train a model on a device, bring it back to the CPU, where it is judged, and return the record of the training.

    Parameters
    ----------
    device
        The device that the training runs on.
    model, data, settings
        The arguments of `sdegen.fit`.
    """
    run = sdegen.fit(model.to(device), data, **settings)
    model.cpu()
    return run
