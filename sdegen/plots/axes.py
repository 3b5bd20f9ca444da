"""What all pictures share: the axis on which a picture is drawn, with its title, and a picture as PNG bytes."""

from __future__ import annotations

__all__ = ["RED", "axis_for", "drawn"]

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..arguments import check_arguments
from ..checks import check_kind
from ..signatures import check_call

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RED = "#d1495b"  # the colour of marks on the data, which are in INK: the truth, an estimate, the end of a path


def axis_for(ax: Axes | None, title: str | None = None) -> Axes:
    """Return an axis of matplotlib, or a new one for None, with the title if there is one.

    Parameters
    ----------
    ax, title
        As for every picture.

    Raises
    ------
    TypeError
        If `ax` is neither an axis nor None.
    """
    import matplotlib.pyplot as plt  # loads on use
    from matplotlib.axes import Axes

    if ax is None:
        ax = plt.subplots(figsize=(4, 4))[1]
    check_kind("ax", ax, Axes, "an axis of matplotlib, or None")
    if title:
        ax.set_title(title, fontsize=9)
    return ax


@check_arguments
def drawn(draw: Callable[..., object], size: tuple[float, float]) -> bytes:
    """Return the picture that `draw`, a function of `plots`, makes on a new axis, as PNG bytes.

    Parameters
    ----------
    draw
        Called as ``draw(ax=...)``, ``partial(losses, run)`` say.
    size
        Width and height in units of 100 pixels.
    """
    from matplotlib.figure import Figure  # loads on use

    check_call("draw", draw, [], ["ax"])
    figure = Figure(figsize=size, layout="constrained")
    draw(ax=figure.subplots())
    picture = io.BytesIO()
    figure.savefig(picture, dpi=100, format="png")
    return picture.getvalue()
