"""Conditions that are given to public functions by keyword: `read_named` checks names and values against what a model takes, and
turns values into tensors; `read_conditions` also lets the model look at the run.
"""

from __future__ import annotations

__all__ = ["join_conditions", "keywords_of", "read_conditions", "read_named"]

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditions import Condition
from ..dense import check_held, with_all_digits
from .score import ScoreModel


def keywords_of(caller: Callable[..., Any]) -> list[str]:
    """Return the names of a function's own arguments, which no condition can have."""
    parameters = inspect.signature(caller).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def join_conditions(fixed: dict[str, Any], cond: dict[str, Any]) -> dict[str, Any]:
    """Return conditions that are fixed together with those of a call; raise a TypeError if one is in both."""
    for name in fixed.keys() & cond.keys():
        raise TypeError(
            f"{name} is fixed in this model and was given again; leave it out, ask the model inside, or fix it by "
            f"guidance.Without, which passes over the {name} of a call."
        )
    return {**fixed, **cond}


def read_conditions(model: ScoreModel, cond: dict[str, Any], caller: Callable[..., Any]) -> dict[str, Any]:
    """Return the conditions of a run, as `read_named` does, after the model itself has looked at them (`ScoreModel.check_run`).

    Parameters
    ----------
    model, cond, caller
        As for `read_named`.

    Raises
    ------
    TypeError, ValueError
        As for `read_named`; if a condition is not finite, since a model might make samples all the same; and whatever
        `ScoreModel.check_run` raises.
    """
    read = read_named(model, cond, caller)
    kinds = model.conditions.kinds if read else {}
    for name, value in read.items():  # conditions that a network declares have been checked already
        if name not in kinds and isinstance(value, (Tensor, float)) and not torch.as_tensor(value).isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite values; remove or replace them.")
    model.check_run(**read)
    return read


def read_named(
    model: ScoreModel, cond: dict[str, Any], caller: Callable[..., Any], complete: bool = True
) -> dict[str, Any]:
    """Return the conditions of a call, arrays and lists of numbers as tensors, and null values as None.

    Refused are names that the model does not take, values that do not fit what its network declares, conditions that training
    never had, and runs without a condition that training never dropped.

    Parameters
    ----------
    model
        The model that is called under the conditions.
    cond
        Values by name.
    caller
        The public function or class that the user called, for its name in errors, and the names of its own arguments.
    complete
        Whether these are all conditions of a run; if some are fixed beforehand, others may follow.

    Raises
    ------
    TypeError
        If the model takes no condition of a name, needs one that is missing, or a value has no numbers, as on the device meta.
    ValueError
        If a value has another shape than was declared, or numbers that are not allowed, or training never had such a condition,
        or always had one that is missing.
    """
    known = model.conditions
    if not cond and not known.needed and not known.undropped:
        return cond
    for name in cond:
        if not known.takes(name):
            own, who = keywords_of(caller), f"{caller.__name__} has no argument {name!r}"
            names = [*own, *sorted(known.names)]
            shortened = [n for n in names if len(n) > 3 and n[:3] in name]  # as rtol has the beginning of tolerance
            meant = get_close_matches(name, names, 1, 0.6) or shortened
            taken = f"it takes {', '.join(sorted(known.names))}" if known.names else "it takes none"
            taken += f", and {caller.__name__} itself {', '.join(own)}" if own else ""
            rest = f"perhaps {meant[0]!r} is meant" if meant else taken
            raise TypeError(f"{who}, and {type(model).__name__} takes no condition of that name: {rest}.")
    missing = sorted(name for name in known.needed if name not in cond or (name in known.kinds and cond[name] is None))
    if complete and missing:
        raise TypeError(f"{type(model).__name__} needs the condition {missing[0]!r}; pass {missing[0]}=....")
    kinds, read = known.kinds, {}
    for name, value in cond.items():
        if isinstance(value, Tensor):
            check_held(name, value)
        declared = name in kinds and value is not None
        read[name] = kinds[name].read(name, value) if declared else _as_tensor(value, model.like)
        if known.is_dropped(name, read[name]):
            read[name] = None
    given = frozenset(name for name, value in read.items() if value is not None)
    dropped = frozenset(name for name in known.undropped & given & kinds.keys() if _lacks_rows(kinds[name], read[name]))
    _check_learned(model, given & known.untaught, dropped | (known.undropped - given if complete else frozenset()))
    return read


def _lacks_rows(kind: Condition, value: Tensor) -> bool:
    """Tell whether some samples are without a value."""
    return value.ndim > kind.ndim and kind.has_dropped(value)


def _check_learned(model: ScoreModel, untaught: frozenset[str], undropped: frozenset[str]) -> None:
    """Refuse a condition that training never had (`untaught`), and a run without one that it always had (`undropped`)."""
    for name in sorted(untaught):
        raise ValueError(
            f"{name} is given, and {type(model).__name__} was trained on data without it; leave it out, or train on data with "
            f"it, (x, {{{name!r}: ...}})."
        )
    for name in sorted(undropped):
        raise ValueError(
            f"{name} is not given for all samples, and {type(model).__name__} was never trained without it; pass {name}=..., or "
            "train with p_uncond=0.1, which drops it now and then."
        )


def _as_tensor(value: Any, like: Tensor | None) -> Any:
    """Return an array, a list of numbers, or a list of equally long lists as a tensor, floats in the dtype of the model; return
    all else as it is.
    """
    numbers = isinstance(value, (list, tuple)) and _are_numbers(value)
    array = isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc"
    if not (numbers or array):
        return value
    tensor = with_all_digits(value)
    return tensor if like is None or not tensor.is_floating_point() else tensor.to(like.dtype)


def _are_numbers(values: Any) -> bool:
    """Tell whether a list holds only numbers, or only lists of one length that do."""
    parts = [v for v in values if isinstance(v, (list, tuple))]
    if not parts:
        return len(values) > 0 and all(isinstance(v, Number) for v in values)
    return len(parts) == len(values) and len({len(v) for v in parts}) == 1 and all(map(_are_numbers, parts))
