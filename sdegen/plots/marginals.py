"""Pictures of draws of several parameters: each by itself, and each pair, in a triangle of axes."""

from __future__ import annotations

__all__ = ["marginals"]

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..animation import INK
from ..arguments import check_arguments
from ..checks import check_count, check_tensor
from ..precision import as_array
from .axes import RED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@check_arguments
def marginals(
    theta: Tensor,
    *,
    truth: Tensor | None = None,
    names: Sequence[str] | None = None,
    bins: int = 40,
    most: int = 2000,
) -> Figure:
    """Draw the law of each parameter, and of each pair, and return the figure: histograms on the diagonal, points below it.

    Parameters
    ----------
    theta
        Draws, ``(N, d)``, as ``posterior.sample(n, x)`` returns them.
    truth
        Parameters to mark, ``(d,)``.
    names
        Names of the parameters; by default their numbers, from 0.
    bins
        Bins of a histogram.
    most
        The largest number of points in the picture of a pair; the first draws are taken.

    Raises
    ------
    TypeError
        If draws or marked parameters are not tensors of floating-point numbers.
    ValueError
        If draws are not vectors, there are fewer than two, `truth` or `names` has another length, or a number is not at least 1.
    """
    from matplotlib.figure import Figure  # loads on use

    check_tensor("theta", theta, ndim=2), check_count("bins", bins), check_count("most", most)
    n, d = theta.shape
    if n < 2 or d < 1:
        raise ValueError(f"theta has shape {tuple(theta.shape)}; give draws (N, d), two at least.")
    if truth is not None:
        check_tensor("truth", truth, shape=(d,))
    if names is not None and len(names) != d:
        raise ValueError(f"names has {len(names)} words for {d} parameters; give one for each.")
    columns = as_array(theta).T
    marks = None if truth is None else as_array(truth)
    labels = [f"{i}" for i in range(d)] if names is None else list(names)
    figure = Figure(figsize=(1.8 * d + 0.6, 1.8 * d + 0.6), layout="constrained")
    axes = figure.subplots(d, d, squeeze=False, sharex="col")
    for i, column in enumerate(columns):
        for j in range(d):
            ax = axes[i, j]
            if j > i:
                ax.set_axis_off()
            elif j == i:
                ax.hist(column, bins, density=True, color=INK, alpha=0.4)
            else:
                ax.scatter(columns[j][:most], column[:most], s=1, alpha=0.3, color=INK, linewidths=0)
            if marks is not None and j <= i:
                ax.axvline(marks[j], color=RED, linewidth=0.8)
                if j < i:
                    ax.axhline(marks[i], color=RED, linewidth=0.8)
            if j > 0 or i == 0:
                ax.set_yticks([])
            ax.tick_params(labelsize=6)
        axes[-1, i].set_xlabel(labels[i], fontsize=8)
        if i:
            axes[i, 0].set_ylabel(labels[i], fontsize=8)
    return figure
