"""Whether to show a progress bar."""

from __future__ import annotations

__all__ = ["should_show"]

import sys


def should_show(progress: bool | None) -> bool:
    """Tell whether to show a progress bar: as asked, or by default if standard error is a terminal or a notebook runs."""
    return (sys.stderr.isatty() or "ipykernel" in sys.modules) if progress is None else progress
