"""The axis that a picture is drawn on, and the bytes of a picture."""

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

RED = "#d1495b"


def axis_for(ax: Axes | None) -> Axes:
    """Return an axis as it is, or a new one for None.

    Parameters
    ----------
    ax
        An axis of matplotlib, or None.

    Raises
    ------
    TypeError
        If it is neither.
    """
    import matplotlib.pyplot as plt  # loads on use
    from matplotlib.axes import Axes

    return (
        plt.subplots(figsize=(4, 4))[1] if ax is None else check_kind("ax", ax, Axes, "an axis of matplotlib, or None")
    )


@check_arguments
def drawn(draw: Callable[..., object], size: tuple[float, float]) -> bytes:
    """Return the picture that `draw`, a function of this module, makes on a new axis, as PNG bytes.

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
