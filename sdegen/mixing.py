"""Checks that a user's function does not mix the rows of a batch: `check_unmixed`, `check_density`, `mixes_rows`."""

from __future__ import annotations

__all__ = ["check_density", "check_unmixed", "mixes_rows"]

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .answers import FAILURES
from .seeding import seeded, set_seeds, state_of_generators

ROUNDING = 64.0  # units of rounding of the largest number, which is more than the order of a sum makes
SEED = 161_803_398_874  # the seed of generators during the check, from which no run is likely to begin
SEEDS = 5  # seeds of draws: a function must seem to mix rows with all of them
AGAIN = 30  # repeated calls: own draws of a function that drop a tenth of four numbers all agree once in 10⁵
SOLVED = 1e-3  # share of a log-density: the error of solvers that choose their steps for all rows together
PAIRS = (0, 1), (1, 0), (0, 0), (1, 1)


def check_unmixed(who: str, function: Callable[[Tensor], Tensor], x: Tensor, tolerance: float = 0.0) -> None:
    """Refuse a function whose answer for one datum depends on the other in its batch (`mixes_rows`), as where it subtracts their
    mean or has batch normalisation in training mode.

    Parameters
    ----------
    who
        The name of the function, for the error.
    function
        A function of data ``(2, *)`` that returns an answer for each, ``(2, *)``.
    x
        Two data that differ, ``(2, *)``.
    tolerance
        As for `mixes_rows`.

    Raises
    ------
    ValueError
        If the function mixes rows.

    Examples
    --------
    >>> check_unmixed("f", lambda x: x - x.mean(1, keepdim=True), torch.eye(2))
    >>> check_unmixed("f", lambda x: x - x.mean(0), torch.eye(2))
    Traceback (most recent call last):
    ValueError: f answers otherwise of a datum when another stands beside it in the batch, as where it subtracts a mean over the \
batch; let each row depend on its own datum alone, and networks of it be in eval mode.
    """
    if mixes_rows(function, x, tolerance):
        raise ValueError(
            f"{who} answers otherwise of a datum when another stands beside it in the batch, as where it subtracts a mean over "
            "the batch; let each row depend on its own datum alone, and networks of it be in eval mode."
        )


def check_density(law: Any, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Refuse a user's law whose log-density at one point depends on another (`check_unmixed`) by more than the error of an
    adaptive solver.

    Laws of the library are not checked: they do not mix rows, and a density may cost the integration of a flow.

    Parameters
    ----------
    law
        The law.
    log_prob
        Its log-density, from points ``(B, *)`` to ``(B,)``.
    x
        Points, of which the first two are used.

    Raises
    ------
    ValueError
        If the log-density mixes rows.
    """
    if len(x) > 1 and type(law).__module__.split(".")[0] != __package__:
        check_unmixed(f"{type(law).__name__}.log_prob", log_prob, x[:2], SOLVED)


def mixes_rows(function: Callable[[Tensor], Tensor], x: Tensor, tolerance: float = 0.0) -> bool:
    """Tell whether a function's answer for one datum depends on the other in its batch.

    Draws by torch, NumPy and Python are the same in all calls, and may differ with the place of a datum in the batch. A function
    with a generator of its own, or one that fails for two data, counts as one that mixes no rows.

    Parameters
    ----------
    function, x
        As for `check_unmixed`.
    tolerance
        The difference that is allowed, as a share of the largest number; rounding is always allowed.
    """
    most = max(tolerance, ROUNDING * torch.finfo(x.dtype).eps)
    with torch.no_grad(), seeded(torch.Generator().manual_seed(SEED)):
        try:
            return all(_differ(function, x, most, seed) for seed in range(SEEDS))
        except FAILURES:  # such as a function of one datum only, which the run itself meets and reports
            return False


def _differ(function: Callable[[Tensor], Tensor], x: Tensor, tolerance: float, seed: int) -> bool:
    """Tell whether the answer for a datum, with the same draws, differs with the other datum in the batch."""

    def answer(*pair: int) -> Tensor:
        set_seeds(seed)
        return function(x[list(pair)]).double()

    def end(*pair: int) -> Any:
        answer(*pair)
        return state_of_generators()

    both, turned, first, second = (answer(*pair) for pair in PAIRS)
    known = both[both.isfinite()].abs()
    most = tolerance * (known.amax().item() if known.numel() else 0.0)
    close = partial(torch.allclose, rtol=0, atol=most, equal_nan=True)
    # Answers are compared at the same place in a batch, since networks round the first row otherwise than the second.
    if close(torch.cat([both, turned]), torch.stack([first[0], second[1], second[0], first[1]])):
        return False
    alike = all(end(*pair) == end(0, 1) for pair in PAIRS[1:])  # or one datum leaves other draws to the next
    return alike and all(close(answer(0, 1), both) for _ in range(AGAIN if seed == 0 else 1))
