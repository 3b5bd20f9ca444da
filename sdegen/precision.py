"""The precision of numbers: what is summed, averaged, integrated or compared is held in float32 at least.

A half-precision number has three digits or fewer and, as float16, ends at 65,504: states of it are carried, and laws of it
computed, in float32. Nothing that is float32 or finer is changed.
"""

from __future__ import annotations

__all__ = [
    "all_finite",
    "as_array",
    "at_least_single",
    "dtype_of",
    "is_finer",
    "apply_matrix",
    "narrowed",
    "uncast",
    "widened",
]

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checks import check_tensor


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for a dtype of half precision, and any finer dtype as it is.

    >>> at_least_single(torch.bfloat16), at_least_single(torch.float64)
    (torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def widened(x: Tensor) -> Tensor:
    """Return a tensor of half precision as float32, and any finer tensor as it is; refuse anything else.

    Raises
    ------
    TypeError
        If `x` is not a tensor of floating-point numbers, or is sparse.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.layout != torch.strided:
        check_tensor("x", x, finite=False)
    return x if x.dtype.itemsize > 2 else x.to(at_least_single(x.dtype))


def as_array(x: Tensor) -> np.ndarray:
    """Return the numbers of a tensor as an array of float64, for functions that take only NumPy's arrays.

    NumPy has no bfloat16, no derivatives and no views with the opposite sign.
    """
    return x.detach().cpu().double().resolve_neg().numpy()


def is_finer(dtype: torch.dtype, other: torch.dtype) -> bool:
    """Tell whether a dtype holds numbers of the `other` dtype exactly, as the same or a finer dtype does.

    >>> is_finer(torch.float64, torch.float32), is_finer(torch.float16, torch.bfloat16)
    (True, False)
    """
    return torch.promote_types(dtype, other) == dtype


def all_finite(x: Tensor) -> bool:
    """Tell whether no number is NaN or infinite.

    Their sum tells in a quarter of the time or less; if the sum overflows, every number is checked.

    >>> all_finite(torch.tensor([3e38, 3e38])), all_finite(torch.tensor([torch.inf, -torch.inf]))
    (True, False)
    """
    return math.isfinite(x.sum().item()) or bool(x.isfinite().all())


def uncast(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which products with a tensor keep the precision of their arguments, also under an autocast, which is
    meant for networks.

    Derivatives that are taken within it keep their precision too, whether the graph was made under the autocast or not.

    >>> with torch.autocast("cpu", torch.bfloat16), uncast(torch.ones(2, 2)):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    if x.is_meta or not torch.is_autocast_enabled(x.device.type):
        return _AS_IT_IS
    return torch.autocast(x.device.type, enabled=False)


_AS_IT_IS: AbstractContextManager[Any] = nullcontext()


def apply_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product ``a @ b`` in the precision of its arguments, also under an autocast (`uncast`)."""
    with uncast(a):
        return a @ b


def dtype_of(net: Any, x: Tensor) -> torch.dtype:
    """Return the dtype of a network's weights, in which it is called; that of `x` if there are no weights."""
    weights = net.parameters() if isinstance(net, nn.Module) else ()
    return next((p.dtype for p in weights if p.is_floating_point()), x.dtype)


def narrowed(name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return finite numbers in another dtype; refuse numbers that are too large for it.

    Parameters
    ----------
    name
        The name of the numbers, with which an error begins.
    x
        Finite numbers.
    dtype
        The dtype to convert to.

    Raises
    ------
    ValueError
        If a number is too large for the dtype.
    """
    if x.dtype == dtype:
        return x
    largest, least = x.detach().abs().max().item() if x.numel() else 0.0, torch.finfo(dtype).max
    if largest > least:
        raise ValueError(
            f"{name} reach {largest:.6g}, and {dtype} ends at {least:.6g}; take a model, or x_T, of a finer dtype."
        )
    return x.to(dtype)
