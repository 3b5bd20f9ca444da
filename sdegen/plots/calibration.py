"""Pictures of calibration: curves of `coverage` against the diagonal, and histograms of `ranks` against the uniform law."""

from __future__ import annotations

__all__ = ["coverage", "ranks"]

from typing import TYPE_CHECKING

import numpy as np

from ..animation import INK
from ..arguments import check_arguments
from ..checks import check_count
from ..metrics import Coverage, Ranks
from ..precision import as_array
from .axes import RED, axis_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@check_arguments
def coverage(found: Coverage, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw how often credible regions hold the truth against their level, with the band of two standard errors of an exact
    posterior, and return the axis.

    A curve above the diagonal shows that the posterior is too wide, and one below that it is too narrow.

    Parameters
    ----------
    found
        What `find_coverage` or `find_tarp_coverage` returned.
    ax, title
        The axis to draw on, and its title.
    """
    ax = axis_for(ax, title)
    n, level = len(found.places), np.linspace(0.0, 1.0, 201)
    error = 2 * np.sqrt(level * (1 - level) / n)
    ax.fill_between(level, level - error, level + error, color=INK, alpha=0.15, linewidth=0)
    ax.plot([0, 1], [0, 1], color=INK, linewidth=0.6)
    places = np.sort(as_array(found.places))
    ax.step([0.0, *places, 1.0], [0.0, *np.arange(1, n + 1) / n, 1.0], where="post", color=RED, linewidth=1.2)
    ax.set(xlabel="credible level", ylabel="share that holds the truth", aspect="equal")
    return ax


@check_arguments
def ranks(found: Ranks, *, bins: int = 20, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the ranks of the true parameters, a line for each coordinate, with the band of two standard errors of an exact
    posterior.

    The axis is returned. A line that is high in the middle shows that the posterior is too wide, a line that rises to both ends
    that it is too narrow, and a slope that it is biased.

    Parameters
    ----------
    found
        What `find_ranks` returned.
    bins
        Bins of the histogram.
    ax, title
        The axis to draw on, and its title.
    """
    check_count("bins", bins)
    ax = axis_for(ax, title)
    n, edges = len(found.places), np.linspace(0.0, 1.0, bins + 1)
    error = 2 * np.sqrt((bins - 1) / n)  # of a count over its mean, n / bins
    ax.axhspan(1 - error, 1 + error, color=INK, alpha=0.15, linewidth=0)
    for i, column in enumerate(as_array(found.places.T)):
        counts, _ = np.histogram(column, edges)
        ax.stairs(counts * bins / n, edges, color=RED, alpha=0.4 + 0.6 / (1 + i), linewidth=1.2)
    ax.set(xlabel="rank of the truth among draws", ylabel="density", ylim=(0, None))
    return ax
