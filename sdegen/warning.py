"""Warnings that point to the user's own line."""

from __future__ import annotations

__all__ = ["warn_caller"]

import sys
import warnings


def warn_caller(text: str) -> None:
    """Warn of something at the user's line that called the library, however deep within the library it was found."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)
