"""The check that a tensor is a plain table of numbers, which no other argument check goes without."""

from __future__ import annotations

__all__ = ["check_dense", "refuse_meta"]

import torch
from torch import Tensor


def check_dense(name: str, value: Tensor) -> None:
    """Refuse a tensor that is no plain table of numbers.

    Parameters
    ----------
    name
        What an error calls it.
    value
        The tensor.

    Raises
    ------
    TypeError
        If it is sparse, nested, quantised, or on the device meta, without numbers.
    """
    if value.is_meta:
        raise TypeError(
            f"{name} is on the device meta, where tensors hold no numbers; give one on a device that computes."
        )
    if value.is_nested or value.is_quantized or value.layout != torch.strided:
        kind = "nested" if value.is_nested else "quantised" if value.is_quantized else "sparse"
        raise TypeError(f"{name} is a {kind} tensor; give a plain one, with rows of one shape, as to_dense() does.")


def refuse_meta(who: str, failure: RuntimeError) -> None:
    """Raise an error that names the default device where that is meta, in place of what torch said; return otherwise.

    Parameters
    ----------
    who
        What was called.
    failure
        What torch said.

    Raises
    ------
    RuntimeError
        In place of the failure.
    """
    if torch.get_default_device().type == "meta" and "default device" not in str(failure):
        raise RuntimeError(
            f"{who} was called where torch's default device is meta, on which new tensors hold no numbers; call it outside of "
            'torch.device("meta"), or after torch.set_default_device("cpu").'
        ) from failure
