"""Results that depend only on values, computed once: `recall` finds them again by the values from which they were computed.

Values are compared by their content, so a number that was changed in place is seen. Nothing is kept for values that the library
cannot look into, such as networks and the user's own objects. What follows from a single object is kept with that object, by
`fixed.remembered` and `fixed.kept_property`.
"""

from __future__ import annotations

__all__ = ["recall"]

import functools
from collections import deque
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .fixed import Fixed, bytes_of, is_followed, weights_of
from .transforms import is_unknown, isolated

T = TypeVar("T")
_PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)
_NUMBERS = 2**22  # at most in a result that is kept


class _Kept(NamedTuple):
    key: Any
    result: Any


_kept: deque[_Kept] = deque(maxlen=16)  # the latest first


class _Untold(Exception):
    """A value that cannot be looked into, or that is differentiated."""


def recall(compute: Callable[[], T], *about: Any) -> T:
    """Return the result of a function, or one of the last 16 results if it was computed from equal values.

    Results are shared, so callers must not change them. Results of more than four million numbers are not kept, nor are those of
    values that cannot be looked into, or of tensors by which is differentiated.

    Parameters
    ----------
    compute
        Computes the result from the values, and from nothing else.
    about
        The values: numbers, words, tensors, tuples, lists and dictionaries of values, processes, functions and objects of the
        library.

    Examples
    --------
    >>> numbers = torch.ones(2)
    >>> total = recall(numbers.sum, "sum", numbers)
    >>> recall(numbers.sum, "sum", torch.ones(2)) is total
    True
    >>> numbers[0] = 2
    >>> recall(numbers.sum, "sum", numbers)
    tensor(3.)
    """
    key = _or_none(_held, about)
    if key is None:
        return compute()
    for kept in tuple(_kept):  # other threads may add to it
        if kept.key == key:
            return kept.result
    with isolated():
        result = compute()
    size = _or_none(_size, result)
    if size is not None and size <= _NUMBERS:
        _kept.appendleft(_Kept(key, result))
    return result


def _or_none(look: Callable[[Any], Any], value: Any) -> Any:
    """Return what `look` finds in a value; None if the value cannot be looked into."""
    try:
        return look(value)
    except _Untold:
        return None


def _held(value: Any) -> Any:
    """Return the content of a value, in a form that is equal for values from which the same result follows."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        if (value.requires_grad and torch.is_grad_enabled()) or is_unknown(value):
            raise _Untold
        return value.dtype, value.shape, bytes_of(value)
    if isinstance(value, (tuple, list)):
        return [type(value), *[part if isinstance(part, _PLAIN) else _held(part) for part in value]]
    if isinstance(value, dict):
        return [dict, *map(_held, value.items())]
    if isinstance(value, Fixed):
        if is_followed(value):
            raise _Untold
        return value, weights_of(value)  # its numbers that may change even so
    known = _known(value)
    return [known, *[(k, part if isinstance(part, _PLAIN) else _held(part)) for k, part in _parts(value).items()]]


def _size(value: Any) -> int:
    """Return the number of numbers in a result; refuse a result that holds a model, which is larger and may change."""
    if isinstance(value, (*_PLAIN, Fixed)):
        return 0
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, (tuple, list)):
        return sum(map(_size, value))
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    _known(value)
    return sum(map(_size, _parts(value).values()))


def _known(value: Any) -> Any:
    """Return the function that a value calls, or its class, if the library has written it; refuse any other, and networks."""
    written = value.__func__ if isinstance(value, MethodType) else value
    written = written if isinstance(written, (FunctionType, BuiltinFunctionType, type)) else type(value)
    ours = written is functools.partial or written.__module__.split(".")[0] == __package__
    if not ours or isinstance(value, nn.Module) or getattr(written, "__closure__", None) is not None:
        raise _Untold
    return written


def _parts(value: Any) -> dict[str, Any]:
    """Return the arguments that are bound to a function, or the attributes of an object."""
    if isinstance(value, MethodType):
        return {"self": value.__self__}
    if isinstance(value, functools.partial):
        return {"function": value.func, "arguments": value.args, "named": [*value.keywords.items()]}
    if isinstance(value, (FunctionType, BuiltinFunctionType, type)):
        return {}
    return vars(value)
