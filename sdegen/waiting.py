"""Synchronisation with an accelerator, whose numbers can be read only once its queued work is done: where that costs nothing."""

from __future__ import annotations

__all__ = ["at_hand"]

import torch


def at_hand(device: torch.device) -> bool:
    """Tell whether numbers on a device can be read without waiting for queued work, as on the CPU."""
    return device.type == "cpu"
