"""Metrics of predictions and weights: `crps` of draws of a number, `predictive_check` of a statistic of the data, and the
`effective_share` of weighted draws.
"""

from __future__ import annotations

__all__ = ["crps", "effective_share", "find_statistics", "predictive_check", "share_above"]

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import check_arguments
from ..checks import check_tensor
from ..mixing import check_unmixed
from .estimate import Estimate, check_samples, share_error


@check_arguments
def crps(draws: Tensor, observed: Tensor) -> Estimate:
    """Measure how well draws predict numbers, and return the mean continuous ranked probability score: smaller is better.

    The score is ``E|X − y| − ½ E|X − X'|`` for a prediction `X` of a number `y`, in the units of `y`: the integral of the squared
    difference of the distribution functions of the prediction and of the truth. The estimate from draws has no bias, so that few
    draws are not punished. T. Gneiting and A. Raftery, *Strictly proper scoring rules, prediction, and estimation*, 2007.

    Parameters
    ----------
    draws
        Draws ``(n, K)``, at least 2 for each of the `K` numbers.
    observed
        The numbers that came, ``(K,)``.

    Raises
    ------
    TypeError
        If a dtype is not floating point.
    ValueError
        If shapes do not fit, or values are not finite.

    Examples
    --------
    >>> import torch
    >>> z = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))
    >>> y = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    >>> abs(crps(z, y).value - 3.14159**-0.5) < 0.05  # 1 / √π for the truth, a standard normal law
    True
    """
    check_samples(draws, "draws")
    check_samples(observed, "observed")
    n = len(draws)
    if draws.ndim != 2 or observed.ndim != 1 or draws.shape[1] != len(observed) or n < 2 or len(observed) < 2:
        raise ValueError(
            f"draws has shape {tuple(draws.shape)} and observed {tuple(observed.shape)}; give draws (n, K) of numbers (K,), n "
            "and K at least 2."
        )
    x = draws.detach().double().sort(0).values
    y = observed.detach().to(x)
    # ½ E|X − X'|: of sorted draws the i-th is the larger one of i pairs and the smaller one of n − 1 − i.
    half_distance = ((2 * torch.arange(n, dtype=x.dtype, device=x.device) - (n - 1)) @ x) / (n * (n - 1))
    return Estimate.of((x - y).abs().mean(0) - half_distance)


@check_arguments
def predictive_check(observed: Tensor, replicated: Tensor, statistic: Callable[[Tensor], Tensor]) -> Estimate:
    """Return the share of replicated data whose statistic is above that of the observed data; equal statistics count one half.

    This is a posterior predictive p-value: where it is near 0 or 1 the model does not make data like the observed in this
    respect. D. Rubin, *Bayesianly justifiable and relevant frequency calculations for the applied statistician*, 1984. Data are
    replicated by drawing parameters from the posterior, and data from the simulator.

    Parameters
    ----------
    observed
        The data, of the shape of one replicate.
    replicated
        Replicates ``(n, *)``, at least 2.
    statistic
        A function of data ``(n, *)`` that returns a number for each, ``(n,)``.

    Raises
    ------
    TypeError
        If a dtype is not floating point.
    ValueError
        If shapes do not fit, the statistic is not one finite number a row, or that of a row depends on other rows.

    Examples
    --------
    >>> import torch
    >>> z = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0))
    >>> predictive_check(2 * z[0], z[1:], lambda x: x.std(1)).value < 0.01
    True
    """
    return share_above(*find_statistics(observed, replicated, statistic))


def share_above(own: Tensor, others: Tensor) -> Estimate:
    """Return the share of the numbers `others` that are above `own`, with its standard error; an equal one counts one half."""
    above = (others > own).double() + 0.5 * (others == own).double()
    n, share = len(above), above.mean().item()
    return Estimate(share, share_error(n * share, n))


def find_statistics(
    observed: Tensor, replicated: Tensor, statistic: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the statistic of observed and of replicated data, ``()`` and ``(n,)``; raise as `predictive_check` does."""
    check_samples(replicated, "replicated")
    check_tensor("observed", observed)
    if observed.shape != replicated.shape[1:] or len(replicated) < 2:
        raise ValueError(
            f"observed has shape {tuple(observed.shape)} and replicated {tuple(replicated.shape)}; give (*) and (n, *), n "
            "at least 2."
        )
    x = torch.cat([observed[None].to(replicated), replicated])
    values = statistic(x)
    check_tensor("statistic(x)", values)
    if values.shape != (len(replicated) + 1,):
        raise ValueError(f"statistic(x) has shape {tuple(values.shape)}; it must return a number for each row of x.")
    check_unmixed("statistic", statistic, x[:2])
    return values[0], values[1:]


@check_arguments
def effective_share(log_weights: Tensor) -> Estimate:
    """Return the effective sample size of weighted draws as a share of their number, ``(mean w)² / mean w²``.

    It is 1 for equal weights, and ``1/n`` where one draw has all the weight. The estimate cannot see weights that no draw has
    met, and is too large where few weights are large. The standard error is that of a function of two means. A. Kong, *A note on
    importance sampling using standardized weights*, 1992.

    Parameters
    ----------
    log_weights
        Logarithms of the weights, ``(n,)``, up to a constant; −inf for a weight of 0.

    Raises
    ------
    TypeError
        If the dtype is not floating point.
    ValueError
        If there are fewer than two weights, one is NaN or +inf, or all vanish.

    Examples
    --------
    >>> import torch
    >>> effective_share(torch.zeros(10)).value
    1.0
    """
    check_tensor("log_weights", log_weights, finite=False)
    log_w = log_weights.detach().double()
    if log_w.ndim != 1 or len(log_w) < 2:
        raise ValueError(f"log_weights has shape {tuple(log_w.shape)}; give (n,), n at least 2.")
    if not (log_w < math.inf).all() or log_w.isneginf().all():
        raise ValueError("log_weights holds NaN or inf, or all weights vanish; check the density that they come from.")
    w = (log_w - log_w.max()).exp()
    first, second, n = w.mean(), w.square().mean(), len(w)
    share = first.square() / second
    influence = share * (2 * w / first - w.square() / second - 1)
    return Estimate(share.item(), influence.std().item() / math.sqrt(n))
