"""What a program waits for: the numbers of an accelerator, which works on while nobody asks for them."""

from __future__ import annotations

__all__ = ["at_hand"]

import torch


def at_hand(device: torch.device) -> bool:
    """Tell whether numbers on a device can be looked at without waiting for it: those of the CPU."""
    return device.type == "cpu"
