"""A test of whether numbers can be read at no cost; those on an accelerator only can once its queued work is done."""

from __future__ import annotations

__all__ = ["at_hand"]

import torch


def at_hand(device: torch.device) -> bool:
    """Tell whether numbers on a device can be read without waiting for queued work, as on the CPU."""
    return device.type == "cpu"
