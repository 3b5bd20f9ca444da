"""Checks of training data, by `Source` and `Stream` alike: rows of finite numbers, in a dtype no coarser than the model's."""

from __future__ import annotations

__all__ = ["check_finite", "check_rows", "loses_digits"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import kind_of
from ..dense import check_dense, check_held
from ..laws.mixtures import moments_of
from ..precision import is_finer
from ..show import with_article
from .moments import join_moments, split_rows


def check_rows(x: Any, cond: dict[str, Any], dtype: torch.dtype, what: str) -> None:
    """Refuse data that are not ``(N, *)`` in the given dtype or a finer one, or whose conditions do not have `N` rows.

    Parameters
    ----------
    x, cond
        Data and conditions as `split_conditions` returns them.
    dtype
        The model's dtype.
    what
        What an error calls the data.

    Raises
    ------
    TypeError
        If data are no floating-point tensor, or a condition is no tensor.
    ValueError
        If data are empty, of a coarser dtype or in a graph of derivatives, or conditions do not match them in number.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} {kind_of(x)}; {_instead(x)}")
    check_dense(what, x)
    if not x.is_floating_point():
        raise TypeError(
            f"{what} has dtype {x.dtype}; convert and scale it to floating point first, as in x / 127.5 - 1."
        )
    if x.ndim == 0:
        raise ValueError(f"{what} has shape (); give a tensor (N, *), one row a datum.")
    if len(x) == 0:
        raise ValueError(f"{what} is empty; give at least one row.")
    if not is_finer(x.dtype, dtype):
        raise ValueError(
            f"{what} is {x.dtype} on {x.device}, the model {dtype}; data are not coarser than the model: move one to the other, "
            "data.to(dtype=...) or model.to(...)."
        )
    _check_plain(what, x)
    for name, value in cond.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"condition {name!r} is {with_article(type(value).__name__)}; give a tensor with one row per datum."
            )
        check_held(f"condition {name!r}", value)
        _check_plain(f"condition {name!r}", value)
        if value.ndim == 0:
            raise ValueError(f"condition {name!r} has shape (); give one row per datum: value.expand({len(x)}).")
        if len(value) != len(x):
            raise ValueError(f"condition {name!r} has {len(value)} rows for {len(x)} rows of data; give one each.")


def _instead(x: Any) -> str:
    """Return the part of an error that says what to give in the place of data that are no tensor."""
    if isinstance(x, Mapping) and x:
        names = [str(name) for name in x]
        data = next(
            (name for name in names if isinstance(x.get(name), Tensor) and x[name].is_floating_point()), names[0]
        )
        conditions = ", ".join(f"{name!r}: d[{name!r}]" for name in names if name != data)
        return f"give a pair of data and conditions in the place of a dict d, such as (d[{data!r}], {{{conditions}}})."
    if isinstance(x, list):
        return "give one tensor, as torch.stack makes of a list of rows, or iter(data) of a list of batches."
    return (
        f"give a tensor{', torch.from_numpy(data)' if isinstance(x, np.ndarray) else ''}, (tensor, conditions), a Dataset, an "
        "iterable of batches such as a DataLoader, or anything with sample(n)."
    )


def _check_plain(what: str, x: Tensor) -> None:
    """Refuse a tensor that requires gradients: the second step could not go through its graph again, and the ``grad`` of a leaf
    would grow with every step.
    """
    if x.requires_grad:
        raise ValueError(
            f"{what} requires gradients, and training gives none to data; give it without, as detach() does."
        )


def check_finite(x: Tensor, what: str) -> None:
    """Refuse data ``(N, *)`` that are not finite.

    Raises
    ------
    ValueError
        If a row is not finite; the message names the first.
    """
    before = 0
    for part in split_rows(x):
        wrong = ~part.isfinite()
        if wrong.any():
            bad = before + int(wrong.reshape(len(part), -1).any(1).nonzero()[0, 0])
            raise ValueError(f"{what} holds NaN or infinite values, first in row {bad}; remove or replace them.")
        before += len(part)


def loses_digits(x: Tensor, dtype: torch.dtype, share: float = 1e-4) -> bool:
    """Tell whether rounding to a dtype changes a number by more than a share of its standard deviation, as happens to data far
    from zero.
    """
    if is_finer(dtype, x.dtype):
        return False
    least = share * join_moments((len(part), moments_of(part)) for part in split_rows(x)).units().std.to(x.device)
    return any(bool(((part.double() - part.to(dtype).double()).abs() > least).any()) for part in split_rows(x))
