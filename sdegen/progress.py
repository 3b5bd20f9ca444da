"""Progress bars: whether to show one, and one that is not shown."""

from __future__ import annotations

__all__ = ["should_show", "show_bar"]

import sys
from typing import Any

from tqdm import tqdm

from .checks import check_flag


def should_show(progress: bool | None) -> bool:
    """Tell whether to show a progress bar: as `progress` says, or by default if standard error is a terminal or in a notebook."""
    if progress is not None:
        return check_flag("progress", progress)
    return _is_terminal(sys.stderr) or "ipykernel" in sys.modules


def _is_terminal(stream: Any) -> bool:
    """Tell whether a stream is a terminal; a program without a console has no stream, or a closed one."""
    return stream is not None and not stream.closed and stream.isatty()


def show_bar(progress: bool | None, name: str) -> Any:
    """Return the progress bar of a run; if `should_show` says no, a bar that does nothing, the same for all runs."""
    return tqdm(desc=name, leave=False) if should_show(progress) else _HIDDEN


_HIDDEN = tqdm(disable=True)
