"""Whether to show a progress bar."""

from __future__ import annotations

__all__ = ["should_show"]

import sys

from .checks import check_flag


def should_show(progress: bool | None) -> bool:
    """Tell whether to show a progress bar: as asked, or by default if standard error is a terminal or a notebook runs."""
    if progress is not None:
        return check_flag("progress", progress)
    return sys.stderr.isatty() or "ipykernel" in sys.modules
