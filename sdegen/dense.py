"""`check_held` and `check_dense`, which check that a tensor holds numbers and is an ordinary dense one, and which all other
checks use; and `with_all_digits`, which makes such a tensor of other numbers.
"""

from __future__ import annotations

__all__ = ["check_dense", "check_held", "with_all_digits"]

from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_held(name: str, value: Tensor) -> None:
    """Refuse a tensor that holds no numbers.

    Parameters
    ----------
    name
        What an error calls the tensor.
    value
        The tensor.

    Raises
    ------
    TypeError
        If the tensor is on the device meta.
    """
    if value.is_meta:
        raise TypeError(
            f"{name} is on the device meta, where tensors hold no numbers; give one on a device that computes."
        )


def check_dense(name: str, value: Tensor) -> None:
    """Refuse a tensor that is no plain table of numbers.

    Parameters
    ----------
    name
        What an error calls the tensor.
    value
        The tensor.

    Raises
    ------
    TypeError
        If the tensor is sparse, nested, quantised, or on the device meta, without numbers.
    """
    if value.is_meta:  # asked here, since a step of training comes by
        check_held(name, value)
    if value.is_nested or value.is_quantized or value.layout != torch.strided:
        kind = "nested" if value.is_nested else "quantised" if value.is_quantized else "sparse"
        raise TypeError(f"{name} is a {kind} tensor; give a plain one, with rows of one shape, as to_dense() does.")


def with_all_digits(value: Any) -> Tensor:
    """Return numbers as a tensor, Python's with all their digits: in float64, where torch would take its default dtype.

    >>> with_all_digits([0.1, 0.2]), with_all_digits(3)
    (tensor([0.1000, 0.2000], dtype=torch.float64), tensor(3))
    """
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        # NumPy has no bfloat16, no derivatives and no accelerators.
        return torch.stack([with_all_digits(part) for part in value])
    return torch.as_tensor(value if isinstance(value, (Tensor, np.ndarray, np.generic)) else np.asarray(value))
