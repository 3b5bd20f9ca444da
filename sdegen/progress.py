"""Progress bars: whether to show one, and one that is not shown."""

from __future__ import annotations

__all__ = ["should_show", "show_bar"]

import sys
from typing import Any

from tqdm import tqdm

from .checks import check_flag


def should_show(progress: bool | None) -> bool:
    """Tell whether to show a progress bar: as asked, or by default if standard error is a terminal or a notebook runs."""
    if progress is not None:
        return check_flag("progress", progress)
    return _is_terminal(sys.stderr) or "ipykernel" in sys.modules


def _is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal; a program without a console has none, or one that is closed."""
    return stream is not None and not stream.closed and stream.isatty()


def show_bar(progress: bool | None, name: str) -> Any:
    """Return the progress bar of a run, as `should_show` says; where none is shown, one for all that does nothing."""
    return tqdm(desc=name, leave=False) if should_show(progress) else _HIDDEN


_HIDDEN = tqdm(disable=True)
