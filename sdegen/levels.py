"""Calls of networks with noise levels, with an error that says so if a network fails by the form of its level or of a
condition.
"""

from __future__ import annotations

__all__ = ["ask_net", "check_levels"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .answers import FAILURES
from .conditions import conditions_of, has_rows
from .transforms import is_unknown


def ask_net(net: Callable[..., Any], x: Tensor, level: Tensor, /, **cond: Any) -> Any:
    """Return the output of a network for states at their noise levels, ``(B,)``, or at one level for all, ``(1,)``.

    Raises
    ------
    ValueError
        If the network fails with levels of this form, but not with those of another form (`check_levels`).
    """
    try:
        return net(x, level, **cond)
    except FAILURES as error:
        check_levels(error, net, x, level, **cond)
        raise


def check_levels(error: Exception, net: Callable[..., Any], x: Tensor, level: Tensor, /, **cond: Any) -> None:
    """Raise an error in place of a network's own if the form of a level or condition is the cause; return otherwise.

    It is the cause if the network does not fail with a level or condition for each state in place of one for all, or with whole
    numbers as levels.

    Parameters
    ----------
    error
        The network's error.
    net, x, level, cond
        The call that failed.

    Raises
    ------
    ValueError
        If the form of the level, or of a condition, is the cause, and not something else, such as too little memory for
        derivatives.
    """
    # Within derivatives, where the values of states are unknown, calls fail in ways of their own.
    if torch.compiler.is_compiling() or is_unknown(x) or _answers(net, x, level, **cond):
        return
    each = level.expand(len(x))
    if len(level) < len(x) and _answers(net, x, each, **cond):
        raise ValueError(
            f"net takes a noise level for each state alone, and a run gives it one for all {len(x)}, of shape (1,); let forward "
            "begin with level = level.expand(len(x))."
        ) from error
    declared = conditions_of(net).kinds  # for these the network itself says what is wrong
    for name, value in cond.items():
        if name in declared or not isinstance(value, (Tensor, int, float)) or has_rows(value, len(x)):
            continue
        one = torch.as_tensor(value)
        shape = one.shape[1:] if one.ndim and len(one) == 1 else one.shape
        if _answers(net, x, level, **cond | {name: one.expand(len(x), *shape)}):
            raise ValueError(
                f"net takes a row of {name} for each state alone, and is given one value for all {len(x)}; give rows, a tensor "
                f"of shape {(len(x), *shape)}, or let forward make them."
            ) from error
    zero = torch.zeros_like(each)  # a level in the range of any network
    if _answers(net, x, zero.long(), **cond) and not _answers(net, x, zero, **cond):
        raise ValueError(
            "net takes whole numbers for its noise level, as an embedding of steps does, and is given real ones; say by "
            "sdegen.from_network(net, sde, clock=...) how its steps are numbered, or let forward round them."
        ) from error


@torch.no_grad()
def _answers(net: Callable[..., Any], x: Tensor, level: Tensor, /, **cond: Any) -> bool:
    """Tell whether a network can be called without an error."""
    try:
        net(x.clone(), level, **cond)
    except FAILURES:
        return False
    return True
