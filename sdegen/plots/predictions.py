"""Pictures of the numbers that a metric is computed from: `replicates` of a statistic, `predictions` of numbers, `weights` of
draws, and the `local_error` of a posterior. The metric, with its standard error, is the title.
"""

from __future__ import annotations

__all__ = ["local_error", "predictions", "replicates", "weights"]

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..animation import INK
from ..arguments import check_arguments
from ..checks import check_count
from ..metrics import LocalTest, crps, effective_share
from ..metrics.predictions import find_statistics, share_above
from ..precision import as_array
from .axes import RED, axis_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@check_arguments
def replicates(
    observed: Tensor,
    replicated: Tensor,
    statistic: Callable[[Tensor], Tensor],
    *,
    bins: int = 40,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a histogram of a statistic of replicated data, with a line at that of the observed data, and return the axis.

    Parameters
    ----------
    observed, replicated, statistic
        As for `predictive_check`, which refuses the same.
    bins
        Bins of the histogram.
    ax, title
        The axis to draw on, and its title; by default the share of replicated data whose statistic is at least as large.
    """
    own, others = find_statistics(observed, replicated, statistic)
    told = f"above: {share_above(own, others)}" if title is None else title
    return _draw_marked(others, own.item(), bins, ax, told, "statistic of the data")


@check_arguments
def local_error(found: LocalTest, *, bins: int = 20, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw a histogram of the errors of classifiers trained on shuffled labels, with a line at the posterior's error; return the
    axis.

    Parameters
    ----------
    found
        What `find_local_error` returned.
    bins
        Bins of the histogram.
    ax, title
        The axis to draw on, and its title; by default the error and the p-value.
    """
    told = f"error {found.error}, p = {found.p_value:.2g}" if title is None else title
    return _draw_marked(found.shuffled, found.error.value, bins, ax, told, "(probability − ½)²")


def _draw_marked(values: Tensor, at: float, bins: int, ax: Axes | None, title: str, label: str) -> Axes:
    """Draw a histogram of numbers with a line at another one, and return the axis."""
    check_count("bins", bins)
    ax = axis_for(ax, title)
    ax.hist(as_array(values), bins, density=True, color=INK, alpha=0.4)
    ax.axvline(at, color=RED, linewidth=1.2)
    ax.set(xlabel=label, ylabel="density")
    return ax


@check_arguments
def weights(log_weights: Tensor, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the share of all weight that the heaviest draws have against their share of all draws, and return the axis.

    Equal weights give the diagonal; where a few draws have most of the weight, the curve rises steeply at its start.

    Parameters
    ----------
    log_weights
        As for `effective_share`, which refuses the same.
    ax, title
        The axis to draw on, and its title; by default the effective share.
    """
    share = effective_share(log_weights)
    heaviest = log_weights.detach().double().cpu().softmax(0).sort(descending=True).values
    ax, n = axis_for(ax, f"effective share {share}" if title is None else title), len(heaviest)
    ax.plot([0, 1], [0, 1], color=INK, linewidth=0.6)
    ax.plot(torch.arange(n + 1).double().div(n).numpy(), [0.0, *heaviest.cumsum(0).tolist()], color=RED, linewidth=1.2)
    ax.set(xlabel="share of the draws, the heaviest first", ylabel="share of the weight", aspect="equal")
    return ax


@check_arguments
def predictions(draws: Tensor, observed: Tensor, *, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw the middle half and the middle nine tenths of the draws of each number against the observed one, and return the axis.

    If predictions are right, half of the thick bars and nine tenths of the thin ones meet the diagonal.

    Parameters
    ----------
    draws, observed
        As for `crps`, which refuses the same.
    ax, title
        The axis to draw on, and its title; by default the score.
    """
    score = crps(draws, observed)
    x = as_array(observed)
    ax = axis_for(ax, f"CRPS {score}" if title is None else title)
    for inside, width in ((0.9, 0.5), (0.5, 2.0)):
        ends = torch.tensor([0.5 - inside / 2, 0.5 + inside / 2], dtype=torch.float64)
        low, high = draws.detach().double().cpu().quantile(ends, 0).numpy()
        ax.vlines(x, low, high, color=INK, alpha=0.5, linewidth=width)
    ax.plot([x.min(), x.max()], [x.min(), x.max()], color=RED, linewidth=1.2)
    ax.set(xlabel="observed number", ylabel="predictions")
    return ax
