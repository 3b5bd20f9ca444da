"""Checks of laws that have to be repeatable: they draw from generators of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sdegen.testing import Report


def quietly(check: Callable[..., Report], *args: Any, **settings: Any) -> Report:
    """Call a check, hold it to leave torch's own random state as it was, and return its report."""
    before = torch.get_rng_state()
    report = check(*args, **settings)
    assert torch.equal(torch.get_rng_state(), before), f"{check.__name__} drew from torch's own random state"
    return report
