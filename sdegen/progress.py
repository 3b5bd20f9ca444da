"""Where a bar is seen."""

from __future__ import annotations

__all__ = ["should_show"]

import sys


def should_show(progress: bool | None) -> bool:
    """Tell whether to show a bar: as asked, or else where standard error is a terminal, or in a notebook."""
    return (sys.stderr.isatty() or "ipykernel" in sys.modules) if progress is None else progress
